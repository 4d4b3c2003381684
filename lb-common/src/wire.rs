//! Headers as the wire has them, and the one checked way to them.
//!
//! Fields are in network order; multi-byte fields are read with their natural alignment relative to the header.

/// A type that any bytes are a value of.
///
/// # Safety
/// Implementors are `repr(C)`, without padding, and of integer fields alone.
pub unsafe trait Wire: Copy + 'static {}

/// Ethernet II (IEEE 802.3).
#[derive(Clone, Copy, Debug)]
#[repr(C)]
pub struct Ethernet {
    /// Destination address.
    pub destination: [u8; 6],
    /// Source address.
    pub source: [u8; 6],
    /// EtherType.
    pub ethertype: u16,
}

/// IPv4 without options (RFC 791).
#[derive(Clone, Copy, Debug)]
#[repr(C)]
pub struct Ipv4 {
    /// Version and header length in words.
    pub version_ihl: u8,
    /// DSCP and ECN.
    pub tos: u8,
    /// Length of header and payload, bytes.
    pub total_length: u16,
    /// Identification.
    pub id: u16,
    /// Flags and fragment offset.
    pub fragment: u16,
    /// Time to live.
    pub ttl: u8,
    /// Protocol of the payload.
    pub protocol: u8,
    /// Header checksum.
    pub checksum: u16,
    /// Source address.
    pub source: u32,
    /// Destination address.
    pub destination: u32,
}

/// The fixed header of IPv6 (RFC 8200).
#[derive(Clone, Copy, Debug)]
#[repr(C)]
pub struct Ipv6 {
    /// Version, traffic class, flow label.
    pub version_class_label: u32,
    /// Length of what follows this header, bytes.
    pub payload_length: u16,
    /// Protocol of what follows.
    pub next_header: u8,
    /// Hop limit.
    pub hop_limit: u8,
    /// Source address.
    pub source: [u32; 4],
    /// Destination address.
    pub destination: [u32; 4],
}

/// TCP without options (RFC 9293).
#[derive(Clone, Copy, Debug)]
#[repr(C)]
pub struct Tcp {
    /// Source port.
    pub source: u16,
    /// Destination port.
    pub destination: u16,
    /// Sequence number.
    pub sequence: u32,
    /// Acknowledgement number.
    pub acknowledgement: u32,
    /// Header length in words, in the upper half.
    pub offset: u8,
    /// [`tcp_flags`].
    pub flags: u8,
    /// Window.
    pub window: u16,
    /// Checksum.
    pub checksum: u16,
    /// Urgent pointer.
    pub urgent: u16,
}

/// Bits of [`Tcp::flags`].
pub mod tcp_flags {
    /// No more data from the sender.
    pub const FIN: u8 = 1;
    /// Synchronise sequence numbers.
    pub const SYN: u8 = 2;
    /// Reset.
    pub const RST: u8 = 4;
    /// The acknowledgement number counts.
    pub const ACK: u8 = 16;
}

/// UDP (RFC 768).
#[derive(Clone, Copy, Debug)]
#[repr(C)]
pub struct Udp {
    /// Source port.
    pub source: u16,
    /// Destination port.
    pub destination: u16,
    /// Length of header and payload, bytes.
    pub length: u16,
    /// Checksum; 0 is none, over IPv4 alone.
    pub checksum: u16,
}

/// ICMP (RFC 792) and ICMPv6 (RFC 4443).
#[derive(Clone, Copy, Debug)]
#[repr(C)]
pub struct Icmp {
    /// Type.
    pub kind: u8,
    /// Code.
    pub code: u8,
    /// Checksum.
    pub checksum: u16,
    /// Depends on the type.
    pub rest: u32,
}

// SAFETY: `repr(C)`, the fields fill the type (asserted below), integers and arrays of them alone.
unsafe impl Wire for Ethernet {}
// SAFETY: as above.
unsafe impl Wire for Ipv4 {}
// SAFETY: as above.
unsafe impl Wire for Ipv6 {}
// SAFETY: as above.
unsafe impl Wire for Tcp {}
// SAFETY: as above.
unsafe impl Wire for Udp {}
// SAFETY: as above.
unsafe impl Wire for Icmp {}
// SAFETY: an integer.
unsafe impl Wire for u8 {}
// SAFETY: an integer.
unsafe impl Wire for u16 {}
// SAFETY: an integer.
unsafe impl Wire for u32 {}
// SAFETY: an array of integers.
unsafe impl<const N: usize> Wire for [u32; N] {}
// SAFETY: an array of integers.
unsafe impl<const N: usize> Wire for [u16; N] {}

const _: () = {
    assert!(size_of::<Ethernet>() == 14);
    assert!(size_of::<Ipv4>() == 20);
    assert!(size_of::<Ipv6>() == 40);
    assert!(size_of::<Tcp>() == 20);
    assert!(size_of::<Udp>() == 8);
    assert!(size_of::<Icmp>() == 8);
};

/// A frame under treatment. Every access of the packet path goes through [`Packet::load`] and [`Packet::store`], which
/// check the bounds.
pub trait Packet {
    /// Length of the frame, bytes.
    fn length(&self) -> usize;

    /// Index of the interface that it came in by.
    fn ingress(&self) -> u32;

    /// The value at `offset` bytes from the start of the frame; `None` beyond its end.
    fn load<T: Wire>(&self, offset: usize) -> Option<T>;

    /// Writes a value at `offset` bytes from the start of the frame; `None`, and nothing written, beyond its end.
    fn store<T: Wire>(&mut self, offset: usize, value: T) -> Option<()>;

    /// Moves the end of the frame to `length` bytes from its start, in either direction.
    fn resize(&mut self, length: usize) -> Option<()>;
}
