//! The picture of the host's network that everything else reads: plain values, no IO.
//!
//! A [`NetState`] is cheap to clone: its tables are shared until one of them changes.

use std::{collections::BTreeMap, fmt, net::IpAddr, sync::Arc};

use ipnet::IpNet;

/// A hardware address as it stands in an Ethernet header.
pub type Mac = [u8; 6];

/// What the kernel says about the host's interfaces, addresses, routes and neighbours.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct NetState {
    interfaces: Arc<BTreeMap<u32, Interface>>,
    /// With the length of the prefix that each was given with.
    addresses: Arc<BTreeMap<(u32, IpAddr), u8>>,
    routes: Arc<BTreeMap<(RouteTable, IpNet), Vec<Route>>>,
    neighbours: Arc<BTreeMap<(IpAddr, u32), Neighbour>>,
}

/// One network interface.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Interface {
    /// The kernel's index of it.
    pub index: u32,
    /// Its name, such as `eth0`.
    pub name: String,
    /// Its hardware address; `None` if it carries no Ethernet frames.
    pub mac: Option<Mac>,
    /// The largest layer 3 packet it sends, in bytes.
    pub mtu: u32,
    /// Administratively up, and with a carrier.
    pub up: bool,
    /// The kind of virtual device, such as `veth`; `None` for hardware.
    pub kind: Option<String>,
}

impl Interface {
    /// One end of a virtual Ethernet pair: its peer needs a program (or GRO) of its own to receive redirected frames.
    pub fn is_veth(&self) -> bool {
        self.kind.as_deref() == Some("veth")
    }
}

/// The two tables that the kernel consults without policy rules, in the order it consults them.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum RouteTable {
    /// The host's own addresses, broadcast and multicast.
    Local,
    /// Everything else.
    Main,
}

/// What a route does with a packet.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RouteKind {
    /// Sends it on, directly or through a gateway.
    Unicast,
    /// Delivers it to this host.
    Local,
    /// Broadcast, multicast or anycast: no single neighbour.
    NotUnicast,
    /// Drops it silently.
    Blackhole,
    /// Refuses it as unreachable.
    Unreachable,
    /// Refuses it as prohibited.
    Prohibit,
    /// Ends the look-up in this table.
    Throw,
}

/// One route; several may share a prefix and differ in their metric.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Route {
    /// The table it stands in.
    pub table: RouteTable,
    /// Which destinations it is for.
    pub prefix: IpNet,
    /// What it does.
    pub kind: RouteKind,
    /// Among equal prefixes the lowest wins.
    pub metric: u32,
    /// A lower MTU than the interface's, in bytes, if the route sets one.
    pub mtu: Option<u32>,
    /// Where it leads: one entry, or several if it is a multipath route.
    pub hops: Vec<RouteHop>,
}

/// One way out of a route.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RouteHop {
    /// The interface it leaves by.
    pub ifindex: u32,
    /// The gateway; `None` if the destination is on the link. May be IPv6 for an IPv4 route.
    pub gateway: Option<IpAddr>,
    /// The kernel itself does not use it at present.
    pub dead: bool,
    /// It wraps packets (MPLS, a lightweight tunnel): the program cannot follow it.
    pub encapsulated: bool,
}

/// How far the kernel is in finding a neighbour's hardware address.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum NeighbourState {
    /// Asked, not answered yet.
    Incomplete,
    /// Confirmed a short while ago.
    Reachable,
    /// Known, not confirmed lately.
    Stale,
    /// Known, about to be confirmed.
    Delay,
    /// Known, being asked again.
    Probe,
    /// It did not answer.
    Failed,
    /// Set by the operator.
    Permanent,
    /// Needs no resolution on this kind of link.
    NoArp,
    /// The kernel has let go of it, as when an operator flushes the table, and has not been told since that nobody
    /// answers: the address it had is still the best there is. Never the kernel's own word.
    Forgotten {
        /// [`NetState::age_forgotten`] has seen it.
        aged: bool,
    },
    /// An entry without a state.
    None,
}

impl NeighbourState {
    /// Whether a hardware address that goes with this state may be used.
    pub fn is_valid(self) -> bool {
        !matches!(self, Self::Incomplete | Self::Failed | Self::None)
    }
}

impl fmt::Display for NeighbourState {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Incomplete => "incomplete",
            Self::Reachable => "reachable",
            Self::Stale => "stale",
            Self::Delay => "delayed",
            Self::Probe => "being probed",
            Self::Failed => "not answering",
            Self::Permanent => "permanent",
            Self::NoArp => "without ARP",
            Self::Forgotten { .. } => "forgotten",
            Self::None => "unknown",
        })
    }
}

/// One entry of the kernel's ARP or neighbour discovery table.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Neighbour {
    /// The interface it is reached by.
    pub ifindex: u32,
    /// Its address.
    pub address: IpAddr,
    /// How much the kernel knows.
    pub state: NeighbourState,
    /// Its hardware address, if the kernel names one.
    pub mac: Option<Mac>,
}

impl Neighbour {
    /// The hardware address, if it may be used now.
    pub fn resolved(&self) -> Option<Mac> {
        self.mac.filter(|_| self.state.is_valid())
    }

    /// What is left of it when the kernel lets go of it, if it was resolved. What an operator has set goes when he takes it
    /// away: the kernel knows nothing of it.
    fn forgotten(&self) -> Option<Self> {
        self.resolved().filter(|_| self.state != NeighbourState::Permanent)?;
        let aged = matches!(self.state, NeighbourState::Forgotten { aged: true });
        Some(Self { state: NeighbourState::Forgotten { aged }, ..*self })
    }
}

impl NetState {
    /// All interfaces, by index.
    pub fn interfaces(&self) -> impl Iterator<Item = &Interface> {
        self.interfaces.values()
    }

    /// The interface with this index.
    pub fn interface(&self, index: u32) -> Option<&Interface> {
        self.interfaces.get(&index)
    }

    /// The interface with this name.
    pub fn interface_named(&self, name: &str) -> Option<&Interface> {
        self.interfaces.values().find(|interface| interface.name == name)
    }

    /// The host's addresses, with the index of the interface that each is on.
    pub fn addresses(&self) -> impl Iterator<Item = (u32, IpAddr)> + '_ {
        self.addresses.keys().copied()
    }

    /// Whether some interface of this host has the address.
    pub fn is_own_address(&self, address: IpAddr) -> bool {
        self.addresses().any(|(_, own)| own == address)
    }

    /// The interface on which the address stands for this host in a network, rather than for itself alone (/32, /128).
    pub fn interface_in_network(&self, address: IpAddr) -> Option<u32> {
        let whole = if address.is_ipv4() { 32 } else { 128 };
        let found =
            self.addresses.iter().find(|((_, own), prefix_len)| *own == address && **prefix_len < whole);
        found.map(|((ifindex, _), _)| *ifindex)
    }

    /// All routes of both tables, by prefix, the lowest metric first.
    pub fn routes(&self) -> impl Iterator<Item = &Route> {
        self.routes.values().flatten()
    }

    /// The routes for exactly this prefix, the lowest metric first.
    pub fn routes_for(&self, table: RouteTable, prefix: IpNet) -> &[Route] {
        self.routes.get(&(table, prefix)).map_or(&[], Vec::as_slice)
    }

    /// All neighbour entries.
    pub fn neighbours(&self) -> impl Iterator<Item = &Neighbour> {
        self.neighbours.values()
    }

    /// The neighbour entry of an address on an interface.
    pub fn neighbour(&self, ifindex: u32, address: IpAddr) -> Option<&Neighbour> {
        self.neighbours.get(&(address, ifindex))
    }

    /// Adds or replaces an interface. True if that changed anything, as for all mutators below.
    pub fn insert_interface(&mut self, interface: Interface) -> bool {
        if self.interfaces.get(&interface.index) == Some(&interface) {
            return false;
        }
        Arc::make_mut(&mut self.interfaces).insert(interface.index, interface);
        true
    }

    /// Removes an interface with all that hangs on it.
    pub fn remove_interface(&mut self, index: u32) -> bool {
        if !self.interfaces.contains_key(&index) {
            return false;
        }
        Arc::make_mut(&mut self.interfaces).remove(&index);
        Arc::make_mut(&mut self.addresses).retain(|(ifindex, _), _| *ifindex != index);
        Arc::make_mut(&mut self.neighbours).retain(|(_, ifindex), _| *ifindex != index);
        true
    }

    /// Adds an address of this host, with the length of its prefix.
    pub fn insert_address(&mut self, ifindex: u32, address: IpAddr, prefix_len: u8) -> bool {
        let key = (ifindex, address);
        self.addresses.get(&key) != Some(&prefix_len)
            && Arc::make_mut(&mut self.addresses).insert(key, prefix_len) != Some(prefix_len)
    }

    /// Removes an address of this host.
    pub fn remove_address(&mut self, ifindex: u32, address: IpAddr) -> bool {
        self.addresses.contains_key(&(ifindex, address))
            && Arc::make_mut(&mut self.addresses).remove(&(ifindex, address)).is_some()
    }

    /// Adds a route beside those with the same prefix, behind those with the same metric.
    pub fn insert_route(&mut self, route: Route) -> bool {
        if self.routes_for(route.table, route.prefix).contains(&route) {
            return false;
        }
        let same = Arc::make_mut(&mut self.routes).entry((route.table, route.prefix)).or_default();
        let at = same.partition_point(|other| other.metric <= route.metric);
        same.insert(at, route);
        true
    }

    /// Removes exactly this route.
    pub fn remove_route(&mut self, route: &Route) -> bool {
        if !self.routes_for(route.table, route.prefix).contains(route) {
            return false;
        }
        let routes = Arc::make_mut(&mut self.routes);
        let key = (route.table, route.prefix);
        if let Some(same) = routes.get_mut(&key) {
            same.retain(|other| other != route);
            if same.is_empty() {
                routes.remove(&key);
            }
        }
        true
    }

    /// Adds or replaces a neighbour entry. One that was resolved and is not is [forgotten](NeighbourState::Forgotten),
    /// unless the kernel has asked for it in vain.
    pub fn insert_neighbour(&mut self, neighbour: Neighbour) -> bool {
        let key = (neighbour.address, neighbour.ifindex);
        let old = self.neighbours.get(&key);
        let new = old.filter(|_| neighbour.resolved().is_none()).and_then(|old| {
            match (neighbour.state, old.state) {
                // The kernel's answer to its last question, or to the asking that follows a forgotten one.
                (NeighbourState::Failed, NeighbourState::Probe | NeighbourState::Forgotten { .. }) => None,
                // Otherwise it says this of an entry that it is about to remove.
                _ => old.forgotten(),
            }
        });
        let new = new.unwrap_or(neighbour);
        if old == Some(&new) {
            return false;
        }
        Arc::make_mut(&mut self.neighbours).insert(key, new);
        true
    }

    /// Removes a neighbour entry, or [forgets](NeighbourState::Forgotten) it if it was resolved.
    pub fn remove_neighbour(&mut self, ifindex: u32, address: IpAddr) -> bool {
        let key = (address, ifindex);
        let Some(old) = self.neighbours.get(&key) else { return false };
        match old.forgotten() {
            Some(forgotten) if forgotten == *old => return false,
            Some(forgotten) => Arc::make_mut(&mut self.neighbours).insert(key, forgotten),
            None => Arc::make_mut(&mut self.neighbours).remove(&key),
        };
        true
    }

    /// Takes over the neighbours that an older picture of the same host had resolved and this one lacks, as forgotten.
    pub fn inherit_neighbours(&mut self, older: &Self) {
        let missing = |old: &&Neighbour| {
            let now = self.neighbour(old.ifindex, old.address).map(|now| (now.resolved(), now.state));
            matches!(now, None | Some((None, NeighbourState::Incomplete | NeighbourState::None)))
        };
        let there = |old: &&Neighbour| self.interfaces.contains_key(&old.ifindex);
        let inherited: Vec<_> =
            older.neighbours().filter(missing).filter(there).filter_map(Neighbour::forgotten).collect();
        if !inherited.is_empty() {
            Arc::make_mut(&mut self.neighbours).extend(
                inherited.into_iter().map(|neighbour| ((neighbour.address, neighbour.ifindex), neighbour)),
            );
        }
    }

    /// Whether some neighbour is forgotten: then [`age_forgotten`](Self::age_forgotten) has to be called.
    pub fn has_forgotten(&self) -> bool {
        self.neighbours().any(|neighbour| matches!(neighbour.state, NeighbourState::Forgotten { .. }))
    }

    /// Removes the neighbours that were forgotten already at the last call. Called at a steady pace, it keeps each for
    /// one to two paces.
    pub fn age_forgotten(&mut self) -> bool {
        if !self.has_forgotten() {
            return false;
        }
        Arc::make_mut(&mut self.neighbours).retain(|_, neighbour| match &mut neighbour.state {
            NeighbourState::Forgotten { aged } => !std::mem::replace(aged, true),
            _ => true,
        });
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ETH0: u32 = 2;

    fn address() -> IpAddr {
        IpAddr::from([10, 0, 0, 9])
    }

    fn entry(state: NeighbourState) -> Neighbour {
        let mac = state.is_valid().then_some([2, 0, 0, 0, 0, 9]);
        Neighbour { ifindex: ETH0, address: address(), state, mac }
    }

    /// A host whose one neighbour went through these states.
    fn through(states: &[NeighbourState]) -> NetState {
        let mut state = NetState::default();
        let (name, mac) = ("eth0".to_owned(), Some([2, 0, 0, 0, 0, 1]));
        state.insert_interface(Interface { index: ETH0, name, mac, mtu: 1500, up: true, kind: None });
        for next in states {
            state.insert_neighbour(entry(*next));
        }
        state
    }

    fn mac(state: &NetState) -> Option<Mac> {
        state.neighbour(ETH0, address())?.resolved()
    }

    #[test]
    fn a_flushed_neighbour_keeps_its_address_until_the_kernel_has_asked_in_vain() {
        for before in [NeighbourState::Reachable, NeighbourState::Stale, NeighbourState::Delay] {
            // What the kernel reports of a flush: failed, then gone; then it asks.
            let mut state = through(&[before, NeighbourState::Failed]);
            assert!(mac(&state).is_some(), "{before:?}");
            state.remove_neighbour(ETH0, address());
            assert!(mac(&state).is_some(), "{before:?}");
            state.insert_neighbour(entry(NeighbourState::Incomplete));
            assert!(mac(&state).is_some(), "{before:?}");
            let mut answered = state.clone();
            answered.insert_neighbour(entry(NeighbourState::Reachable));
            assert!(!answered.has_forgotten() && mac(&answered).is_some(), "{before:?}");
            state.insert_neighbour(entry(NeighbourState::Failed));
            assert_eq!(mac(&state), None, "{before:?}");
            state.remove_neighbour(ETH0, address());
            assert_eq!(state.neighbours().count(), 0, "{before:?}");
        }
    }

    #[test]
    fn a_neighbour_that_stops_answering_is_lost_at_once() {
        let state = through(&[NeighbourState::Reachable, NeighbourState::Probe, NeighbourState::Failed]);
        assert_eq!(mac(&state), None);
        let state = through(&[NeighbourState::Incomplete, NeighbourState::Failed]);
        assert_eq!(mac(&state), None);
    }

    #[test]
    fn what_an_operator_has_set_goes_when_he_takes_it_away() {
        let mut state = through(&[NeighbourState::Permanent, NeighbourState::Failed]);
        assert_eq!(mac(&state), None);
        state.remove_neighbour(ETH0, address());
        assert_eq!(state.neighbours().count(), 0);
    }

    #[test]
    fn a_forgotten_neighbour_lasts_one_to_two_paces() {
        let mut state = through(&[NeighbourState::Reachable]);
        assert!(!state.age_forgotten());
        state.remove_neighbour(ETH0, address());
        assert!(state.has_forgotten() && state.age_forgotten());
        assert!(mac(&state).is_some());
        state.insert_neighbour(entry(NeighbourState::Incomplete));
        assert!(state.age_forgotten(), "being asked for makes it no younger");
        assert_eq!(state.neighbours().count(), 0);
    }

    #[test]
    fn a_fresh_picture_takes_over_what_it_lacks_but_not_what_the_kernel_denies() {
        let older = through(&[NeighbourState::Reachable]);
        for (fresh, kept) in [
            (through(&[]), true),
            (through(&[NeighbourState::Incomplete]), true),
            (through(&[NeighbourState::Failed]), false),
        ] {
            let mut inherited = fresh.clone();
            inherited.inherit_neighbours(&older);
            assert_eq!(mac(&inherited).is_some(), kept, "{fresh:?}");
        }
        let mut gone = NetState::default();
        gone.inherit_neighbours(&older);
        assert_eq!(gone.neighbours().count(), 0, "its interface is gone");
    }
}
