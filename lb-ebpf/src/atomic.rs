//! Atomic operations on words of maps.
//!
//! The BPF targets of rustc declare no compare-and-swap, since the first instruction set had none, and so lack the atomic
//! types; the instructions that the second and third have are reached through the intrinsics. Sequentially
//! consistent though no order is needed: of a relaxed addition or disjunction LLVM 22 makes the instruction without a fetch, and
//! takes the operand for the value before.

#[cfg(target_arch = "bpf")]
mod imp {
    use core::intrinsics::{AtomicOrdering::SeqCst, atomic_cxchg, atomic_or, atomic_xadd, atomic_xchg};

    #[inline(always)]
    pub(super) fn add32(word: &mut u32, by: u32) -> u32 {
        // SAFETY: a reference to an aligned word.
        unsafe { atomic_xadd::<u32, u32, { SeqCst }>(word, by) }
    }

    #[inline(always)]
    pub(super) fn add64(word: &mut u64, by: u64) -> u64 {
        // SAFETY: a reference to an aligned word.
        unsafe { atomic_xadd::<u64, u64, { SeqCst }>(word, by) }
    }

    #[inline(always)]
    pub(super) fn or(word: &mut u32, bits: u32) -> u32 {
        // SAFETY: a reference to an aligned word.
        unsafe { atomic_or::<u32, u32, { SeqCst }>(word, bits) }
    }

    #[inline(always)]
    pub(super) fn set_if_zero(word: &mut u32, value: u32) -> bool {
        // SAFETY: a reference to an aligned word.
        unsafe { atomic_cxchg::<u32, { SeqCst }, { SeqCst }>(word, 0, value).1 }
    }

    #[inline(always)]
    pub(super) fn swap(word: &mut u32, value: u32) -> u32 {
        // SAFETY: a reference to an aligned word.
        unsafe { atomic_xchg::<u32, { SeqCst }>(word, value) }
    }
}

/// On the host this crate is only checked; the same operations by the standard types.
#[cfg(not(target_arch = "bpf"))]
mod imp {
    use core::sync::atomic::{AtomicU32, AtomicU64, Ordering::Relaxed};

    fn word32(word: &mut u32) -> &AtomicU32 {
        // SAFETY: a reference to an aligned word.
        unsafe { AtomicU32::from_ptr(word) }
    }

    pub(super) fn add32(word: &mut u32, by: u32) -> u32 {
        word32(word).fetch_add(by, Relaxed)
    }

    pub(super) fn add64(word: &mut u64, by: u64) -> u64 {
        // SAFETY: a reference to an aligned word.
        unsafe { AtomicU64::from_ptr(word) }.fetch_add(by, Relaxed)
    }

    pub(super) fn or(word: &mut u32, bits: u32) -> u32 {
        word32(word).fetch_or(bits, Relaxed)
    }

    pub(super) fn set_if_zero(word: &mut u32, value: u32) -> bool {
        word32(word).compare_exchange(0, value, Relaxed, Relaxed).is_ok()
    }

    pub(super) fn swap(word: &mut u32, value: u32) -> u32 {
        word32(word).swap(value, Relaxed)
    }
}

/// Adds; the value before.
#[inline(always)]
pub fn add32(word: &mut u32, by: u32) -> u32 {
    imp::add32(word, by)
}

/// Adds; the value before.
#[inline(always)]
pub fn add64(word: &mut u64, by: u64) -> u64 {
    imp::add64(word, by)
}

/// Sets bits; the value before.
#[inline(always)]
pub fn or(word: &mut u32, bits: u32) -> u32 {
    imp::or(word, bits)
}

/// Stores `value` if the word is 0; whether it was.
#[inline(always)]
pub fn set_if_zero(word: &mut u32, value: u32) -> bool {
    imp::set_if_zero(word, value)
}

/// Stores `value`; the value before.
#[inline(always)]
pub fn swap(word: &mut u32, value: u32) -> u32 {
    imp::swap(word, value)
}
