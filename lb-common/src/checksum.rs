//! The Internet checksum (RFC 1071), whole and by difference (RFC 1624, equation 3).
//!
//! Sums are taken of words as they lie in memory: the ones'-complement sum does not mind the byte order as long as it
//! is written back in the same one.

/// Folds a sum to sixteen bits.
#[inline(always)]
pub fn fold(sum: u64) -> u16 {
    let sum = (sum & 0xffff_ffff) + (sum >> 32);
    let sum = (sum & 0xffff) + (sum >> 16);
    let sum = (sum & 0xffff) + (sum >> 16);
    let sum = (sum & 0xffff) + (sum >> 16);
    sum as u16
}

/// A change to checksummed data: what was there taken away, what is there now added.
#[derive(Clone, Copy, Default)]
pub struct Delta(u64);

impl Delta {
    /// No change.
    #[inline(always)]
    pub fn new() -> Self {
        Self(0)
    }

    /// Takes away data whose folded sum this is.
    #[inline(always)]
    pub fn remove(self, sum: u64) -> Self {
        Self(self.0 + (!fold(sum)) as u64)
    }

    /// Adds data whose sum this is.
    #[inline(always)]
    pub fn insert(self, sum: u64) -> Self {
        Self(self.0 + fold(sum) as u64)
    }

    /// The change as one number to keep, for [`apply`].
    #[inline(always)]
    pub fn get(self) -> u32 {
        fold(self.0) as u32
    }
}

/// The checksum field after the change `delta` to the data.
#[inline(always)]
pub fn apply(checksum: u16, delta: u32) -> u16 {
    !fold((!checksum) as u64 + delta as u64)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn whole(words: &[u16]) -> u16 {
        !fold(words.iter().map(|&w| u64::from(w)).sum())
    }

    proptest! {
        /// By difference or anew: the same, but for the two zeroes of ones' complement.
        #[test]
        fn difference_is_recomputation(mut words in prop::collection::vec(any::<u16>(), 4..40), at in 0usize..4, new in any::<u16>()) {
            let before = whole(&words);
            let delta = Delta::new().remove(words[at].into()).insert(new.into()).get();
            words[at] = new;
            let (by_difference, anew) = (apply(before, delta), whole(&words));
            prop_assert!(by_difference == anew || (by_difference ^ anew == 0xffff && (anew == 0 || anew == 0xffff)));
        }

        #[test]
        fn fold_keeps_the_sum_modulo_65535(sum in any::<u64>()) {
            prop_assert_eq!(u64::from(fold(sum)) % 65535, sum % 65535);
        }
    }
}
