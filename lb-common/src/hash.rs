//! The hashes that choose: the same on every node and on both sides, so nodes behind one address agree.

use crate::{
    abi::{FILTER_BITS, FlowKey},
    addr::Ip,
};

/// Hash of a five-tuple, for the lookup table (upper half) and the first candidate port (lower half).
#[inline(always)]
pub fn flow<A: Ip>(key: &FlowKey<A>) -> u64 {
    let [s0, s1, s2, s3] = key.src.words();
    let [d0, d1, d2, d3] = key.dst.words();
    let ports = pair(key.sport.wire() as u32, key.dport.wire() as u32 | (key.protocol << 16));
    let mut hash = absorb(SEED, pair(s0, d0));
    if A::IS_V6 {
        hash = absorb(hash, pair(s1, d1));
        hash = absorb(hash, pair(s2, d2));
        hash = absorb(hash, pair(s3, d3));
    }
    finish(absorb(hash, ports))
}

/// Bit of the address filter.
#[inline(always)]
pub fn filter<A: Ip>(address: A) -> u32 {
    let [a, b, c, d] = address.words();
    let mixed = if A::IS_V6 { pair(a ^ c.rotate_left(7), b.rotate_left(13) ^ d) } else { a as u64 };
    (mixed.wrapping_mul(MULTIPLIER) >> 48) as u32 & (FILTER_BITS - 1)
}

/// 2^64 divided by the golden ratio, odd.
const MULTIPLIER: u64 = 0x9e37_79b9_7f4a_7c15;
const SEED: u64 = 0x5bd1_e995_9d1f_3c6b;

#[inline(always)]
fn pair(high: u32, low: u32) -> u64 {
    (high as u64) << 32 | low as u64
}

#[inline(always)]
fn absorb(hash: u64, word: u64) -> u64 {
    let mixed = (hash ^ word).wrapping_mul(MULTIPLIER);
    mixed ^ (mixed >> 29)
}

/// The finaliser of splitmix64 (Steele, Lea, Flood 2014): every input bit reaches every output bit.
#[inline(always)]
fn finish(hash: u64) -> u64 {
    let hash = (hash ^ (hash >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let hash = (hash ^ (hash >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    hash ^ (hash >> 31)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::addr::{Port, V4, V6};
    use core::net::{Ipv4Addr, Ipv6Addr};

    /// Sequential clients and ports must spread evenly: chi-squared over 64 bins of both halves.
    fn spread(hashes: impl Iterator<Item = u64>) {
        let (mut upper, mut lower, mut n) = ([0u32; 64], [0u32; 64], 0u32);
        for hash in hashes {
            upper[(hash >> 58) as usize] += 1;
            lower[(hash & 63) as usize] += 1;
            n += 1;
        }
        for bins in [upper, lower] {
            let expected = f64::from(n) / 64.0;
            let chi: f64 = bins.iter().map(|&b| (f64::from(b) - expected).powi(2) / expected).sum();
            assert!(chi < 120.0, "chi-squared {chi} with 63 degrees of freedom");
        }
    }

    #[test]
    fn sequential_tuples_spread() {
        spread((0..65_536u32).map(|i| {
            flow(&FlowKey {
                src: V4::from(Ipv4Addr::from(0x0a00_0000 + i / 1000)),
                dst: V4::from(Ipv4Addr::new(10, 0, 0, 100)),
                sport: Port::new(32768 + (i % 1000) as u16),
                dport: Port::new(80),
                protocol: 6,
            })
        }));
        spread((0..65_536u32).map(|i| {
            flow(&FlowKey {
                src: V6::from(Ipv6Addr::from(0xfd00_0000_0000_0000_0000_0000_0000_0000 + u128::from(i))),
                dst: V6::from(Ipv6Addr::from(0xfd00_0000_0000_0000_0000_0000_0001_0000)),
                sport: Port::new(40000),
                dport: Port::new(443),
                protocol: 17,
            })
        }));
    }

    #[test]
    fn filter_stays_in_range() {
        for i in 0..10_000u32 {
            assert!(filter(V4::from(Ipv4Addr::from(i.wrapping_mul(2_654_435_761)))) < FILTER_BITS);
        }
    }
}
