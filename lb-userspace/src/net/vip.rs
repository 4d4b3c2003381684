//! Virtual addresses on the host's interfaces.
//!
//! An address that the agent adds bears a mark in the kernel (the address protocol, `ip address` shows it as `proto`),
//! so that a later run finds what an earlier one left. An address without the mark is the operator's and stays as it is.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
    time::Duration,
};

use netlink_packet_core::{NLM_F_CREATE, NLM_F_EXCL};
use netlink_packet_route::{
    AddressFamily, RouteNetlinkMessage,
    address::{
        AddressAttribute, AddressFlags, AddressHeaderFlags, AddressMessage, AddressProtocol, AddressScope,
        CacheInfo,
    },
};
use thiserror::Error;
use tokio::time::sleep;

use super::netlink::{Netlink, NetlinkError};

/// The mark of our addresses: `P`, in a range that neither the kernel nor routing daemons use.
const OURS: u8 = 0x50;
/// A lifetime without end, in the kernel's notation.
const FOREVER: u32 = u32::MAX;
/// How often, and how far apart, the kernel is looked at until it hears solicitations for a new address.
const JOIN_LOOKS: u32 = 200;
const JOIN_PAUSE: Duration = Duration::from_millis(5);

/// What [`Vips::put`] found or did.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Placement {
    /// The address is new.
    Added,
    /// It was there, put by this agent or an earlier run of it.
    AlreadyOurs,
    /// The operator put it on this interface himself: it stays untouched, also later.
    Operators {
        /// The interface that it is on.
        ifindex: u32,
    },
}

/// An address that the agent put on an interface.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Vip {
    /// The interface.
    pub ifindex: u32,
    /// The address.
    pub address: IpAddr,
}

/// Why an address could not be put or removed.
#[derive(Debug, Error)]
pub enum VipError {
    /// The kernel did not do it.
    #[error(transparent)]
    Netlink(#[from] NetlinkError),
    /// Only the operator's own address was found, which is not ours to remove.
    #[error(
        "{address} on interface {ifindex} was not put there by the agent: remove it by hand if it should go"
    )]
    Operators {
        /// The address.
        address: IpAddr,
        /// The interface.
        ifindex: u32,
    },
    /// The kernel drops the mark, so the address could never be told from the operator's.
    #[error(
        "this kernel (before 5.18) cannot mark {0} as the agent's: put it on the interface yourself and let the \
         configuration leave it to you"
    )]
    NoMark(IpAddr),
}

/// Puts virtual addresses on interfaces and takes them away.
#[derive(Debug)]
pub struct Vips {
    netlink: Netlink,
}

impl Vips {
    /// Opens a connection in the network namespace of the calling thread.
    pub fn open() -> Result<Self, NetlinkError> {
        Ok(Self { netlink: Netlink::open()? })
    }

    /// The host's addresses as they are now.
    pub async fn addresses(&self) -> Result<Addresses, VipError> {
        let request = RouteNetlinkMessage::GetAddress(AddressMessage::default());
        let messages = self.netlink.dump(request, "list addresses").await?;
        let mut addresses = Addresses::default();
        for entry in messages.iter().filter_map(entry) {
            addresses.0.entry(entry.address).or_default().push(entry);
        }
        Ok(addresses)
    }

    /// Makes the interface answer for the address: as a host address, deprecated from the start so that the host's own
    /// connections do not use it as their source, and for IPv6 without duplicate-address detection.
    ///
    /// Repeating it changes nothing. Success means that the address was read back from the kernel, and that neighbour
    /// solicitations for it are heard; if those take longer than a second, that is logged.
    pub async fn put(&self, ifindex: u32, address: IpAddr) -> Result<Placement, VipError> {
        let placement = self.add(&self.addresses().await?, ifindex, address).await?;
        if placement == Placement::Added {
            self.confirm(&self.addresses().await?, ifindex, address).await?;
            wait_until_solicitable(ifindex, &[address]).await;
        }
        Ok(placement)
    }

    /// The same for many addresses. `now` is what the host has; it is read once more if any of them is new, and not for
    /// each: reading takes the longer the more there are.
    pub async fn put_all(
        &self,
        now: &Addresses,
        ifindex: u32,
        addresses: &BTreeSet<IpAddr>,
    ) -> Result<BTreeMap<IpAddr, Result<Placement, VipError>>, VipError> {
        let mut placements = BTreeMap::new();
        for address in addresses {
            placements.insert(*address, self.add(now, ifindex, *address).await);
        }
        let mut added: Vec<_> = (placements.iter())
            .filter_map(|(address, placement)| matches!(placement, Ok(Placement::Added)).then_some(*address))
            .collect();
        if added.is_empty() {
            return Ok(placements);
        }
        let now = self.addresses().await?;
        for address in &added {
            if let Err(error) = self.confirm(&now, ifindex, *address).await {
                placements.insert(*address, Err(error));
            }
        }
        added.retain(|address| placements.get(address).is_some_and(Result::is_ok));
        wait_until_solicitable(ifindex, &added).await;
        Ok(placements)
    }

    /// Removes an address that the agent put. False if it was not there.
    pub async fn remove(&self, ifindex: u32, address: IpAddr) -> Result<bool, VipError> {
        let now = self.addresses().await?;
        match now.of(address).iter().find(|entry| entry.ifindex == ifindex) {
            None => Ok(false),
            Some(entry) if !entry.ours => Err(VipError::Operators { address, ifindex }),
            Some(_) => self.remove_ours(Vip { ifindex, address }).await,
        }
    }

    /// Removes an address that was found to be ours. False if it has gone since.
    pub async fn remove_ours(&self, vip: Vip) -> Result<bool, VipError> {
        match self.delete(vip.ifindex, vip.address).await {
            Err(error) if matches!(error.errno(), Some(libc::EADDRNOTAVAIL | libc::ENODEV)) => Ok(false),
            other => Ok(other.map(|()| true)?),
        }
    }

    /// All addresses that bear the agent's mark, including those of earlier runs.
    pub async fn ours(&self) -> Result<Vec<Vip>, VipError> {
        Ok(self.addresses().await?.ours())
    }

    /// Adds the address unless it is there.
    async fn add(&self, now: &Addresses, ifindex: u32, address: IpAddr) -> Result<Placement, VipError> {
        let found = now.of(address);
        if found.iter().any(|entry| entry.ifindex == ifindex && entry.ours) {
            return Ok(Placement::AlreadyOurs);
        }
        if let Some(theirs) = found.iter().find(|entry| !entry.ours) {
            return Ok(Placement::Operators { ifindex: theirs.ifindex });
        }
        let action = || format!("add {address} to interface {ifindex}");
        let message = RouteNetlinkMessage::NewAddress(vip_message(ifindex, address));
        match self.netlink.change(message, NLM_F_CREATE | NLM_F_EXCL, action).await {
            // Somebody else was faster.
            Err(error) if error.errno() == Some(libc::EEXIST) => Ok(Placement::Operators { ifindex }),
            other => Ok(other.map(|()| Placement::Added)?),
        }
    }

    /// Sees that an added address is there and bears the mark.
    async fn confirm(&self, now: &Addresses, ifindex: u32, address: IpAddr) -> Result<(), VipError> {
        if now.of(address).iter().any(|entry| entry.ifindex == ifindex && entry.ours) {
            return Ok(());
        }
        self.delete(ifindex, address).await?;
        Err(VipError::NoMark(address))
    }

    async fn delete(&self, ifindex: u32, address: IpAddr) -> Result<(), NetlinkError> {
        let message = RouteNetlinkMessage::DelAddress(plain_message(ifindex, address));
        self.netlink.change(message, 0, || format!("remove {address} from interface {ifindex}")).await
    }
}

/// The kernel joins an address's solicited-node group some time after it has accepted the address. A solicitation that
/// falls in between is not heard, and its sender repeats it only a second later.
async fn wait_until_solicitable(ifindex: u32, addresses: &[IpAddr]) {
    let mut silent: Vec<&IpAddr> = addresses.iter().filter(|address| address.is_ipv6()).collect();
    for _ in 0..JOIN_LOOKS {
        if silent.is_empty() {
            return;
        }
        let Ok(text) = std::fs::read_to_string("/proc/thread-self/net/igmp6") else { return };
        let joined = joined_groups(&text, ifindex);
        silent.retain(|address| !joined.contains(solicited_node_group(address).as_str()));
        if !silent.is_empty() {
            sleep(JOIN_PAUSE).await;
        }
    }
    for address in silent {
        tracing::warn!(%address, ifindex, "the kernel has not joined the address's solicited-node group yet");
    }
}

/// The groups that an interface is in, by the kernel's table of groups: index, name, and the group in hexadecimal.
fn joined_groups(table: &str, ifindex: u32) -> BTreeSet<&str> {
    let group = |line| {
        let mut columns = str::split_ascii_whitespace(line);
        columns.next().and_then(|index| index.parse().ok()).filter(|index: &u32| *index == ifindex)?;
        columns.nth(1)
    };
    table.lines().filter_map(group).collect()
}

/// An IPv6 address's solicited-node group (RFC 4291 section 2.7.1) in hexadecimal.
fn solicited_node_group(address: &IpAddr) -> String {
    let [.., a, b, c] = match address {
        IpAddr::V6(address) => address.octets(),
        IpAddr::V4(address) => address.to_ipv6_mapped().octets(),
    };
    format!("ff0200000000000000000001ff{a:02x}{b:02x}{c:02x}")
}

/// The host's addresses as they were at one moment.
#[derive(Debug, Default)]
pub struct Addresses(BTreeMap<IpAddr, Vec<Entry>>);

impl Addresses {
    /// Those that bear the agent's mark, including those of earlier runs.
    #[must_use]
    pub fn ours(&self) -> Vec<Vip> {
        let entries = self.0.values().flatten().filter(|entry| entry.ours);
        let mut vips: Vec<_> = entries
            .map(|Entry { ifindex, address, .. }| Vip { ifindex: *ifindex, address: *address })
            .collect();
        vips.sort_unstable();
        vips
    }

    fn of(&self, address: IpAddr) -> &[Entry] {
        self.0.get(&address).map_or(&[], Vec::as_slice)
    }
}

#[derive(Debug, Clone, Copy)]
struct Entry {
    ifindex: u32,
    address: IpAddr,
    ours: bool,
}

fn entry(message: &RouteNetlinkMessage) -> Option<Entry> {
    let RouteNetlinkMessage::NewAddress(message) = message else { return None };
    let ours = message.attributes.contains(&AddressAttribute::Protocol(AddressProtocol::Other(OURS)));
    Some(Entry { ifindex: message.header.index, address: super::decode::address(message)?, ours })
}

fn plain_message(ifindex: u32, address: IpAddr) -> AddressMessage {
    let mut message = AddressMessage::default();
    let (family, prefix_len) = match address {
        IpAddr::V4(_) => (AddressFamily::Inet, 32),
        IpAddr::V6(_) => (AddressFamily::Inet6, 128),
    };
    message.header.family = family;
    message.header.prefix_len = prefix_len;
    message.header.index = ifindex;
    message.attributes = vec![AddressAttribute::Local(address), AddressAttribute::Address(address)];
    message
}

fn vip_message(ifindex: u32, address: IpAddr) -> AddressMessage {
    let mut message = plain_message(ifindex, address);
    let mut lifetime = CacheInfo::default();
    (lifetime.ifa_valid, lifetime.ifa_preferred) = (FOREVER, 0);
    message.attributes.push(AddressAttribute::CacheInfo(lifetime));
    message.attributes.push(AddressAttribute::Protocol(AddressProtocol::Other(OURS)));
    if address.is_ipv4() {
        // IPv4 chooses deprecated addresses too, but none of host scope for a destination beyond the host.
        message.header.scope = AddressScope::Host;
    } else {
        message.header.flags = AddressHeaderFlags::Nodad;
        // A route to itself would only be a second, needless one.
        message.attributes.push(AddressAttribute::Flags(AddressFlags::Nodad | AddressFlags::Noprefixroute));
    }
    message
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_is_solicitable_once_its_own_interface_is_in_its_group() {
        let groups = "1    lo              ff020000000000000000000000000001     1 0000000C 0\n\
                      2    eth0            ff0200000000000000000001ff000100     1 00000004 0\n";
        let group = |text: &str| solicited_node_group(&text.parse().unwrap());
        assert!(joined_groups(groups, 2).contains(group("2001:db8:9::100").as_str()));
        assert!(!joined_groups(groups, 1).contains(group("2001:db8:9::100").as_str()));
        assert!(!joined_groups(groups, 2).contains(group("2001:db8:9::101").as_str()));
    }
}
