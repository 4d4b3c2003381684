//! Addresses and ports as the wire has them, opaque so that byte order cannot be mixed up.

use core::fmt::Debug;

/// An address family's address: what the packet path is generic over.
pub trait Ip: Copy + Eq + Debug + 'static {
    /// Bytes of the family's fixed header.
    const HEADER: usize;
    /// Prefix length of a host address.
    const BITS: u32;
    /// Whether this is IPv6, in code that the compiler folds away.
    const IS_V6: bool;

    /// The address as four words, network order; unused words are zero.
    fn words(self) -> [u32; 4];
    /// The address from four words; further words are ignored.
    fn from_words(words: [u32; 4]) -> Self;

    /// Ones'-complement sum of the address, for checksums.
    #[inline(always)]
    fn sum(self) -> u64 {
        let [a, b, c, d] = self.words();
        if Self::IS_V6 { a as u64 + b as u64 + c as u64 + d as u64 } else { a as u64 }
    }
}

/// An IPv4 address, network order.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Default)]
#[repr(transparent)]
pub struct V4(u32);

/// An IPv6 address as four words in network order: as sixteen bytes the BPF backend would spill it byte by byte.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Default)]
#[repr(transparent)]
pub struct V6([u32; 4]);

impl Ip for V4 {
    const HEADER: usize = 20;
    const BITS: u32 = 32;
    const IS_V6: bool = false;

    #[inline(always)]
    fn words(self) -> [u32; 4] {
        [self.0, 0, 0, 0]
    }

    #[inline(always)]
    fn from_words(words: [u32; 4]) -> Self {
        Self(words[0])
    }
}

impl Ip for V6 {
    const HEADER: usize = 40;
    const BITS: u32 = 128;
    const IS_V6: bool = true;

    #[inline(always)]
    fn words(self) -> [u32; 4] {
        self.0
    }

    #[inline(always)]
    fn from_words(words: [u32; 4]) -> Self {
        Self(words)
    }
}

/// A port, network order.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Default)]
#[repr(transparent)]
pub struct Port(u16);

impl Port {
    /// From host order.
    #[inline(always)]
    pub const fn new(host_order: u16) -> Self {
        Self(host_order.to_be())
    }

    /// In host order.
    #[inline(always)]
    pub const fn get(self) -> u16 {
        u16::from_be(self.0)
    }

    /// As the wire has it.
    #[inline(always)]
    pub const fn wire(self) -> u16 {
        self.0
    }

    /// From what the wire has.
    #[inline(always)]
    pub const fn from_wire(wire: u16) -> Self {
        Self(wire)
    }
}

impl Debug for V4 {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        Debug::fmt(&core::net::Ipv4Addr::from(u32::from_be(self.0)), f)
    }
}

impl Debug for V6 {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        Debug::fmt(&core::net::Ipv6Addr::from(bytes(self.0)), f)
    }
}

impl Debug for Port {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        Debug::fmt(&self.get(), f)
    }
}

/// The sixteen bytes of four words in network order.
#[inline(always)]
fn bytes(words: [u32; 4]) -> [u8; 16] {
    let mut out = [0; 16];
    for (chunk, word) in out.as_chunks_mut::<4>().0.iter_mut().zip(words) {
        *chunk = word.to_ne_bytes();
    }
    out
}

impl From<core::net::Ipv4Addr> for V4 {
    fn from(address: core::net::Ipv4Addr) -> Self {
        Self(u32::from(address).to_be())
    }
}

impl From<V4> for core::net::Ipv4Addr {
    fn from(address: V4) -> Self {
        Self::from(u32::from_be(address.0))
    }
}

impl From<core::net::Ipv6Addr> for V6 {
    fn from(address: core::net::Ipv6Addr) -> Self {
        let mut words = [0; 4];
        for (word, chunk) in words.iter_mut().zip(address.octets().as_chunks::<4>().0) {
            *word = u32::from_ne_bytes(*chunk);
        }
        Self(words)
    }
}

impl From<V6> for core::net::Ipv6Addr {
    fn from(address: V6) -> Self {
        Self::from(bytes(address.0))
    }
}
