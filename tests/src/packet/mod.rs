//! Frames for packet tables: a builder, and a parser that checks every checksum and explains what it sees.
//!
//! Both stand on etherparse, which shares no code with the packet path under test.

mod build;
mod explain;

use std::net::IpAddr;

use etherparse::checksum::Sum16BitWords;

pub use self::{
    build::{Body, Flags, Frame},
    explain::{Explained, Ports, explain},
};

/// The checksum over an IP pseudo-header and `body`, whose own checksum field must be zero (to compute) or in place (the
/// result is then 0).
fn transport_checksum(source: IpAddr, destination: IpAddr, protocol: u8, body: &[u8]) -> u16 {
    let mut sum = Sum16BitWords::new();
    // Both families' pseudo-headers come to the same sum: a 32-bit length whose upper half is zero adds nothing.
    for address in [source, destination] {
        match address {
            IpAddr::V4(address) => sum = sum.add_4bytes(address.octets()),
            IpAddr::V6(address) => sum = sum.add_16bytes(address.octets()),
        }
    }
    let length = u32::try_from(body.len()).unwrap_or(u32::MAX);
    sum = sum.add_4bytes(length.to_be_bytes());
    sum = sum.add_2bytes([0, protocol]);
    sum.add_slice(body).ones_complement().to_be()
}
