//! The two address families, so that what differs by family is written once.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use ipnet::{IpNet, Ipv4Net, Ipv6Net};
use lb_common::addr::{Ip, V4, V6};

use super::map::{Plain, Prefix};

/// An address family with its place in the pairs of map names and with keys that maps can hold.
pub(crate) trait Family: Ip + Plain {
    /// Index of the pairs in [`lb_common::abi::map`].
    const INDEX: usize;

    /// The address, if it is of this family.
    fn from_ip(address: IpAddr) -> Option<Self>;

    /// The address.
    fn to_ip(self) -> IpAddr;

    /// The prefix that covers the first `bits` of this address.
    fn net(self, bits: u32) -> Option<IpNet>;

    /// The prefix's address with the host's bits cleared, and its length.
    fn from_net(net: IpNet) -> Option<Prefix<Self>> {
        let net = net.trunc();
        Some(Prefix::new(u32::from(net.prefix_len()), Self::from_ip(net.addr())?))
    }
}

impl Family for V4 {
    const INDEX: usize = 0;

    fn from_ip(address: IpAddr) -> Option<Self> {
        if let IpAddr::V4(address) = address { Some(address.into()) } else { None }
    }

    fn to_ip(self) -> IpAddr {
        IpAddr::V4(Ipv4Addr::from(self))
    }

    fn net(self, bits: u32) -> Option<IpNet> {
        Some(IpNet::V4(Ipv4Net::new(self.into(), u8::try_from(bits).ok()?).ok()?))
    }
}

impl Family for V6 {
    const INDEX: usize = 1;

    fn from_ip(address: IpAddr) -> Option<Self> {
        if let IpAddr::V6(address) = address { Some(address.into()) } else { None }
    }

    fn to_ip(self) -> IpAddr {
        IpAddr::V6(Ipv6Addr::from(self))
    }

    fn net(self, bits: u32) -> Option<IpNet> {
        Some(IpNet::V6(Ipv6Net::new(self.into(), u8::try_from(bits).ok()?).ok()?))
    }
}
