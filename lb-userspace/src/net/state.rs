//! The picture of the host's network that everything else reads: plain values, no IO.
//!
//! A [`NetState`] is cheap to clone: its tables are shared until one of them changes.

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt,
    net::IpAddr,
    sync::Arc,
};

use ipnet::IpNet;

/// A hardware address as it stands in an Ethernet header.
pub type Mac = [u8; 6];

/// What the kernel says about the host's interfaces, addresses, routes and neighbours.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct NetState {
    interfaces: Arc<BTreeMap<u32, Interface>>,
    addresses: Arc<BTreeSet<(u32, IpAddr)>>,
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
        self.addresses.iter().copied()
    }

    /// Whether some interface of this host has the address.
    pub fn is_own_address(&self, address: IpAddr) -> bool {
        self.addresses.iter().any(|(_, own)| *own == address)
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
        Arc::make_mut(&mut self.addresses).retain(|(ifindex, _)| *ifindex != index);
        Arc::make_mut(&mut self.neighbours).retain(|(_, ifindex), _| *ifindex != index);
        true
    }

    /// Adds an address of this host.
    pub fn insert_address(&mut self, ifindex: u32, address: IpAddr) -> bool {
        !self.addresses.contains(&(ifindex, address))
            && Arc::make_mut(&mut self.addresses).insert((ifindex, address))
    }

    /// Removes an address of this host.
    pub fn remove_address(&mut self, ifindex: u32, address: IpAddr) -> bool {
        self.addresses.contains(&(ifindex, address))
            && Arc::make_mut(&mut self.addresses).remove(&(ifindex, address))
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

    /// Adds or replaces a neighbour entry.
    pub fn insert_neighbour(&mut self, neighbour: Neighbour) -> bool {
        let key = (neighbour.address, neighbour.ifindex);
        if self.neighbours.get(&key) == Some(&neighbour) {
            return false;
        }
        Arc::make_mut(&mut self.neighbours).insert(key, neighbour);
        true
    }

    /// Removes a neighbour entry.
    pub fn remove_neighbour(&mut self, ifindex: u32, address: IpAddr) -> bool {
        self.neighbours.contains_key(&(address, ifindex))
            && Arc::make_mut(&mut self.neighbours).remove(&(address, ifindex)).is_some()
    }
}
