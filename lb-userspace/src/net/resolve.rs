//! From a destination address to the next hop, as the kernel would choose it. Pure.

use std::net::IpAddr;

use ipnet::IpNet;
use thiserror::Error;

use super::state::{Mac, NeighbourState, NetState, Route, RouteHop, RouteKind, RouteTable};

/// All that a frame to the next hop needs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Hop {
    /// The interface to leave by.
    pub ifindex: u32,
    /// That interface's hardware address.
    pub source_mac: Mac,
    /// The neighbour's hardware address.
    pub destination_mac: Mac,
    /// The largest layer 3 packet on this way, in bytes.
    pub mtu: u32,
    /// The gateway, if the destination is not on the link.
    pub gateway: Option<IpAddr>,
}

/// The neighbour that has to be resolved for a destination to be reached.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct NextHop {
    /// The interface it is on.
    pub ifindex: u32,
    /// The gateway's address, or the destination itself if it is on the link.
    pub address: IpAddr,
}

/// Why there is no next hop for a destination.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum Unresolved {
    /// No route covers the destination.
    #[error("no route to {0}")]
    NoRoute(IpAddr),
    /// The destination is one of this host's addresses.
    #[error("{0} is this host's own address")]
    OwnAddress(IpAddr),
    /// The destination is a broadcast, multicast or anycast address.
    #[error("{0} is not the address of a single host")]
    NotUnicast(IpAddr),
    /// A route says that the destination must not be reached.
    #[error("the route {prefix} to {address} is {kind}")]
    Refused {
        /// The destination.
        address: IpAddr,
        /// The route's prefix.
        prefix: IpNet,
        /// `blackhole`, `unreachable` or `prohibit`.
        kind: &'static str,
    },
    /// The route wraps packets in a way that the program cannot.
    #[error("the route {prefix} to {address} uses an encapsulation, which the program cannot follow")]
    Encapsulated {
        /// The destination.
        address: IpAddr,
        /// The route's prefix.
        prefix: IpNet,
    },
    /// A route names an interface that is not there.
    #[error("the route to {address} leaves by interface {ifindex}, which does not exist")]
    NoInterface {
        /// The destination.
        address: IpAddr,
        /// The missing interface.
        ifindex: u32,
    },
    /// The interface that leads there is down or has no carrier.
    #[error("interface {name} is down")]
    InterfaceDown {
        /// The interface.
        name: String,
    },
    /// The interface that leads there does not carry Ethernet frames.
    #[error("interface {name} is not an Ethernet interface")]
    NotEthernet {
        /// The interface.
        name: String,
    },
    /// The kernel has no entry for the neighbour.
    #[error("neighbour {address} on {interface} is not known yet")]
    NoNeighbour {
        /// The neighbour's address.
        address: IpAddr,
        /// The interface's name.
        interface: String,
    },
    /// The neighbour's hardware address is not known.
    #[error("neighbour {address} on {interface} is {state}")]
    Neighbour {
        /// The neighbour's address.
        address: IpAddr,
        /// The interface's name.
        interface: String,
        /// What the kernel says of it.
        state: NeighbourState,
    },
}

impl Unresolved {
    /// Whether asking for the neighbour may mend it; otherwise a route or an interface has to change.
    pub fn is_neighbour(&self) -> bool {
        matches!(self, Self::NoNeighbour { .. } | Self::Neighbour { .. })
    }
}

impl NetState {
    /// The next hop for a destination: the longest prefix, then the lowest metric, then the first way out that works.
    ///
    /// As in the kernel, a route none of whose ways can be used gives way to the next one, but a neighbour that does
    /// not answer does not; of a multipath route the first way with a resolved neighbour is taken. Policy rules other
    /// than the kernel's initial ones are not looked at.
    pub fn resolve(&self, address: IpAddr) -> Result<Hop, Unresolved> {
        let route = self.route_to(address)?;
        let mut first_fault = None;
        for hop in usable(self, route) {
            match self.finish(route, hop, address) {
                Ok(hop) => return Ok(hop),
                Err(fault) => first_fault = first_fault.or(Some(fault)),
            }
        }
        Err(first_fault.unwrap_or(Unresolved::NoRoute(address)))
    }

    /// The neighbour that [`resolve`](Self::resolve) needs for this destination, whether or not it is resolved.
    pub fn next_hop_address(&self, address: IpAddr) -> Result<NextHop, Unresolved> {
        let route = self.route_to(address)?;
        let hop = usable(self, route).next().ok_or(Unresolved::NoRoute(address))?;
        Ok(NextHop { ifindex: hop.ifindex, address: hop.gateway.unwrap_or(address) })
    }

    /// The routes that lead back to clients out of the given interfaces: each resolved neighbour on the link by
    /// itself, and each route through a resolved gateway.
    ///
    /// A reader that matches the longest prefix must also hold the [`client_gaps`](Self::client_gaps), or it sends a
    /// packet for an unresolved neighbour to a gateway.
    pub fn client_routes(&self, interfaces: &[u32]) -> Vec<(IpNet, Hop)> {
        let neighbours = self.neighbours().filter(|neighbour| !is_link_local(neighbour.address));
        let single = neighbours.filter_map(|neighbour| {
            let hop = self.resolve(neighbour.address).ok()?;
            let direct = hop.gateway.is_none() && hop.ifindex == neighbour.ifindex;
            direct.then_some((IpNet::from(neighbour.address), hop))
        });
        let mut found: Vec<_> = single
            .chain(self.client_prefixes().filter_map(|(prefix, hop)| Some((prefix, hop?))))
            .filter(|(_, hop)| interfaces.contains(&hop.ifindex))
            .collect();
        // A gateway's host route and a neighbour entry may name the same address; the neighbour entry is direct.
        found.sort_by_key(|(prefix, hop)| (*prefix, hop.gateway));
        found.dedup_by_key(|(prefix, _)| *prefix);
        found
    }

    /// The prefixes within which only the single neighbours of [`client_routes`](Self::client_routes) are known:
    /// networks on the link, routes through an unresolved gateway or another interface, and routes that refuse.
    pub fn client_gaps(&self, interfaces: &[u32]) -> Vec<IpNet> {
        self.client_prefixes()
            .filter(|(_, hop)| hop.is_none_or(|hop| !interfaces.contains(&hop.ifindex)))
            .map(|(prefix, _)| prefix)
            .collect()
    }

    /// Each prefix of the main table, with its hop if it leads through a resolved gateway.
    fn client_prefixes(&self) -> impl Iterator<Item = (IpNet, Option<Hop>)> + '_ {
        let mut last = None;
        self.routes().filter(|route| route.table == RouteTable::Main).filter_map(move |route| {
            if last.replace(route.prefix) == Some(route.prefix) || is_link_local(route.prefix.addr()) {
                return None;
            }
            Some((route.prefix, self.gateway_hop(route.prefix)))
        })
    }

    fn gateway_hop(&self, prefix: IpNet) -> Option<Hop> {
        let address = prefix.addr();
        let mut routes = self.routes_for(RouteTable::Main, prefix).iter();
        let route = routes.find_map(|route| self.judge(route, address).transpose())?.ok()?;
        usable(self, route)
            .filter(|hop| hop.gateway.is_some())
            .find_map(|hop| self.finish(route, hop, address).ok())
    }

    fn route_to(&self, address: IpAddr) -> Result<&Route, Unresolved> {
        if self.is_own_address(address) {
            return Err(Unresolved::OwnAddress(address));
        }
        if address.is_multicast() || address.is_unspecified() {
            return Err(Unresolved::NotUnicast(address));
        }
        let mut first_fault = None;
        for table in [RouteTable::Local, RouteTable::Main] {
            'table: for length in (0..=if address.is_ipv4() { 32 } else { 128 }).rev() {
                let Ok(prefix) = IpNet::new(address, length) else { continue };
                for route in self.routes_for(table, prefix.trunc()) {
                    if route.kind == RouteKind::Throw {
                        break 'table;
                    }
                    match self.judge(route, address) {
                        Ok(Some(route)) => return Ok(route),
                        Ok(None) => first_fault = first_fault.or_else(|| Some(self.unusable(route, address))),
                        Err(fault) => return Err(fault),
                    }
                }
            }
        }
        Err(first_fault.unwrap_or(Unresolved::NoRoute(address)))
    }

    /// The route, `None` if the kernel would try the next one, or why the search ends here.
    fn judge<'a>(&self, route: &'a Route, address: IpAddr) -> Result<Option<&'a Route>, Unresolved> {
        let refused = |kind| Err(Unresolved::Refused { address, prefix: route.prefix, kind });
        match route.kind {
            RouteKind::Unicast => Ok(usable(self, route).next().map(|_| route)),
            RouteKind::Local => Err(Unresolved::OwnAddress(address)),
            RouteKind::NotUnicast => Err(Unresolved::NotUnicast(address)),
            RouteKind::Blackhole => refused("blackhole"),
            RouteKind::Unreachable => refused("unreachable"),
            RouteKind::Prohibit => refused("prohibit"),
            RouteKind::Throw => Err(Unresolved::NoRoute(address)),
        }
    }

    /// Why no way of a unicast route can be used.
    fn unusable(&self, route: &Route, address: IpAddr) -> Unresolved {
        let Some(hop) = route.hops.first() else { return Unresolved::NoRoute(address) };
        match self.interface(hop.ifindex) {
            None => Unresolved::NoInterface { address, ifindex: hop.ifindex },
            Some(interface) => Unresolved::InterfaceDown { name: interface.name.clone() },
        }
    }

    fn finish(&self, route: &Route, hop: &RouteHop, address: IpAddr) -> Result<Hop, Unresolved> {
        if hop.encapsulated {
            return Err(Unresolved::Encapsulated { address, prefix: route.prefix });
        }
        let Some(interface) = self.interface(hop.ifindex) else {
            return Err(Unresolved::NoInterface { address, ifindex: hop.ifindex });
        };
        let Some(source_mac) = interface.mac else {
            return Err(Unresolved::NotEthernet { name: interface.name.clone() });
        };
        let neighbour = hop.gateway.unwrap_or(address);
        let name = || interface.name.clone();
        let Some(entry) = self.neighbour(hop.ifindex, neighbour) else {
            return Err(Unresolved::NoNeighbour { address: neighbour, interface: name() });
        };
        let Some(destination_mac) = entry.resolved() else {
            return Err(Unresolved::Neighbour { address: neighbour, interface: name(), state: entry.state });
        };
        let mtu = route.mtu.map_or(interface.mtu, |mtu| mtu.min(interface.mtu));
        Ok(Hop { ifindex: hop.ifindex, source_mac, destination_mac, mtu, gateway: hop.gateway })
    }
}

/// The ways out of a route that the kernel would use.
fn usable<'a>(state: &'a NetState, route: &'a Route) -> impl Iterator<Item = &'a RouteHop> {
    route
        .hops
        .iter()
        .filter(|hop| !hop.dead && state.interface(hop.ifindex).is_some_and(|interface| interface.up))
}

/// A link-local address exists once per link, so it names no client by itself.
fn is_link_local(address: IpAddr) -> bool {
    match address {
        IpAddr::V4(address) => address.is_link_local(),
        IpAddr::V6(address) => address.is_unicast_link_local(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::net::{Interface, Neighbour};

    const ETH0: u32 = 2;
    const ETH1: u32 = 3;
    const MAC0: Mac = [2, 0, 0, 0, 0, 0x10];
    const MAC1: Mac = [2, 0, 0, 0, 0, 0x11];
    const GATEWAY: Mac = [2, 0, 0, 0, 0, 1];
    const NEAR: Mac = [2, 0, 0, 0, 0, 9];

    fn ip(text: &str) -> IpAddr {
        text.parse().unwrap()
    }

    fn net(text: &str) -> IpNet {
        text.parse().unwrap()
    }

    fn interface(index: u32, name: &str, mac: Mac) -> Interface {
        Interface { index, name: name.to_owned(), mac: Some(mac), mtu: 1500, up: true, kind: None }
    }

    fn way(ifindex: u32, gateway: Option<&str>) -> RouteHop {
        RouteHop { ifindex, gateway: gateway.map(ip), dead: false, encapsulated: false }
    }

    fn route(prefix: &str, metric: u32, hops: Vec<RouteHop>) -> Route {
        let (table, kind) = (RouteTable::Main, RouteKind::Unicast);
        Route { table, prefix: net(prefix), kind, metric, mtu: None, hops }
    }

    fn refusing(prefix: &str, table: RouteTable, kind: RouteKind) -> Route {
        Route { table, kind, ..route(prefix, 0, vec![]) }
    }

    fn neighbour(ifindex: u32, address: &str, state: NeighbourState, mac: Mac) -> Neighbour {
        Neighbour { ifindex, address: ip(address), state, mac: Some(mac) }
    }

    /// eth0 10.0.0.2/24 and 2001:db8::2/64, eth1 10.1.0.2/24, default routes through eth0's gateways.
    fn host() -> NetState {
        let mut state = NetState::default();
        state.insert_interface(interface(ETH0, "eth0", MAC0));
        state.insert_interface(interface(ETH1, "eth1", MAC1));
        state.insert_address(ETH0, ip("10.0.0.2"), 24);
        state.insert_address(ETH0, ip("2001:db8::2"), 64);
        state.insert_address(ETH1, ip("10.1.0.2"), 24);
        state.insert_route(route("10.0.0.0/24", 0, vec![way(ETH0, None)]));
        state.insert_route(route("10.1.0.0/24", 0, vec![way(ETH1, None)]));
        state.insert_route(route("0.0.0.0/0", 0, vec![way(ETH0, Some("10.0.0.1"))]));
        state.insert_route(route("2001:db8::/64", 256, vec![way(ETH0, None)]));
        state.insert_route(route("::/0", 1024, vec![way(ETH0, Some("fe80::1"))]));
        state.insert_route(refusing("10.0.0.255/32", RouteTable::Local, RouteKind::NotUnicast));
        state.insert_neighbour(neighbour(ETH0, "10.0.0.1", NeighbourState::Reachable, GATEWAY));
        state.insert_neighbour(neighbour(ETH0, "fe80::1", NeighbourState::Stale, GATEWAY));
        state.insert_neighbour(neighbour(ETH0, "10.0.0.9", NeighbourState::Stale, NEAR));
        state
    }

    fn hop(ifindex: u32, destination_mac: Mac, gateway: Option<&str>) -> Hop {
        let source_mac = if ifindex == ETH0 { MAC0 } else { MAC1 };
        Hop { ifindex, source_mac, destination_mac, mtu: 1500, gateway: gateway.map(ip) }
    }

    #[test]
    fn on_the_link_the_destination_is_the_neighbour() {
        assert_eq!(host().resolve(ip("10.0.0.9")), Ok(hop(ETH0, NEAR, None)));
    }

    #[test]
    fn elsewhere_the_gateway_is_the_neighbour_in_both_families() {
        assert_eq!(host().resolve(ip("192.0.2.7")), Ok(hop(ETH0, GATEWAY, Some("10.0.0.1"))));
        assert_eq!(host().resolve(ip("2001:db8:9::7")), Ok(hop(ETH0, GATEWAY, Some("fe80::1"))));
    }

    #[test]
    fn an_ipv4_route_may_lead_through_an_ipv6_gateway() {
        let mut state = host();
        state.insert_route(route("198.51.100.0/24", 0, vec![way(ETH0, Some("fe80::1"))]));
        assert_eq!(state.resolve(ip("198.51.100.7")), Ok(hop(ETH0, GATEWAY, Some("fe80::1"))));
    }

    #[test]
    fn the_longest_prefix_wins_then_the_lowest_metric() {
        let mut state = host();
        state.insert_route(route("192.0.2.0/24", 20, vec![way(ETH1, Some("10.1.0.1"))]));
        state.insert_route(route("192.0.2.0/24", 10, vec![way(ETH1, Some("10.1.0.7"))]));
        state.insert_neighbour(neighbour(ETH1, "10.1.0.7", NeighbourState::Permanent, NEAR));
        assert_eq!(state.resolve(ip("192.0.2.7")), Ok(hop(ETH1, NEAR, Some("10.1.0.7"))));
        assert_eq!(state.resolve(ip("192.0.3.7")), Ok(hop(ETH0, GATEWAY, Some("10.0.0.1"))));
    }

    #[test]
    fn of_a_multipath_route_the_first_resolved_way_is_taken() {
        let mut state = host();
        let ways = vec![way(ETH1, Some("10.1.0.1")), way(ETH0, Some("10.0.0.1"))];
        state.insert_route(route("192.0.2.0/24", 0, ways));
        assert_eq!(state.resolve(ip("192.0.2.7")), Ok(hop(ETH0, GATEWAY, Some("10.0.0.1"))));
        let next = state.next_hop_address(ip("192.0.2.7"));
        assert_eq!(next, Ok(NextHop { ifindex: ETH1, address: ip("10.1.0.1") }));
    }

    #[test]
    fn a_route_whose_interface_is_down_gives_way_to_the_next() {
        let mut state = host();
        state.insert_route(route("192.0.2.0/24", 0, vec![way(ETH1, Some("10.1.0.1"))]));
        state.insert_interface(Interface { up: false, ..interface(ETH1, "eth1", MAC1) });
        assert_eq!(state.resolve(ip("192.0.2.7")), Ok(hop(ETH0, GATEWAY, Some("10.0.0.1"))));
        state.remove_route(&route("0.0.0.0/0", 0, vec![way(ETH0, Some("10.0.0.1"))]));
        let fault = state.resolve(ip("192.0.2.7")).unwrap_err();
        assert_eq!(fault, Unresolved::InterfaceDown { name: "eth1".to_owned() });
        assert_eq!(fault.to_string(), "interface eth1 is down");
    }

    #[test]
    fn the_routes_mtu_lowers_the_interfaces() {
        let mut state = host();
        let limited =
            Route { mtu: Some(1400), ..route("192.0.2.0/24", 0, vec![way(ETH0, Some("10.0.0.1"))]) };
        state.insert_route(limited);
        assert_eq!(state.resolve(ip("192.0.2.7")).unwrap().mtu, 1400);
    }

    #[test]
    fn each_reason_names_what_is_missing() {
        let mut state = host();
        state.insert_neighbour(Neighbour {
            mac: None,
            ..neighbour(ETH0, "10.0.0.5", NeighbourState::Incomplete, NEAR)
        });
        state.insert_neighbour(neighbour(ETH0, "10.0.0.6", NeighbourState::Failed, NEAR));
        state.insert_route(refusing("203.0.113.0/24", RouteTable::Main, RouteKind::Blackhole));
        state.insert_route(refusing("203.0.114.0/24", RouteTable::Main, RouteKind::Throw));
        state.insert_route(route("203.0.115.0/24", 0, vec![way(99, None)]));
        let wraps = RouteHop { encapsulated: true, ..way(ETH0, Some("10.0.0.1")) };
        state.insert_route(route("203.0.116.0/24", 0, vec![wraps]));
        state.remove_route(&route("::/0", 1024, vec![way(ETH0, Some("fe80::1"))]));
        let table = [
            ("10.0.0.2", "10.0.0.2 is this host's own address"),
            ("10.0.0.4", "neighbour 10.0.0.4 on eth0 is not known yet"),
            ("10.0.0.5", "neighbour 10.0.0.5 on eth0 is incomplete"),
            ("10.0.0.6", "neighbour 10.0.0.6 on eth0 is not answering"),
            ("10.0.0.255", "10.0.0.255 is not the address of a single host"),
            ("224.0.0.1", "224.0.0.1 is not the address of a single host"),
            ("203.0.113.9", "the route 203.0.113.0/24 to 203.0.113.9 is blackhole"),
            ("203.0.114.9", "no route to 203.0.114.9"),
            ("2001:db8:9::7", "no route to 2001:db8:9::7"),
            (
                "203.0.116.9",
                "the route 203.0.116.0/24 to 203.0.116.9 uses an encapsulation, which the program cannot follow",
            ),
        ];
        for (address, reason) in table {
            assert_eq!(state.resolve(ip(address)).unwrap_err().to_string(), reason);
        }
        // A route over an interface that is gone gives way to the default route.
        assert!(state.resolve(ip("203.0.115.9")).is_ok());
    }

    #[test]
    fn client_routes_hold_neighbours_on_the_link_and_resolved_gateways() {
        let mut state = host();
        // Not on the link of its interface: the route to it leads elsewhere.
        state.insert_neighbour(neighbour(ETH1, "10.0.0.77", NeighbourState::Stale, NEAR));
        // Through a gateway that does not answer.
        state.insert_route(route("192.0.2.0/24", 0, vec![way(ETH0, Some("10.0.0.8"))]));
        state.insert_neighbour(neighbour(ETH1, "10.1.0.9", NeighbourState::Reachable, NEAR));
        let eth0 = vec![
            (net("0.0.0.0/0"), hop(ETH0, GATEWAY, Some("10.0.0.1"))),
            (net("10.0.0.1/32"), hop(ETH0, GATEWAY, None)),
            (net("10.0.0.9/32"), hop(ETH0, NEAR, None)),
            (net("::/0"), hop(ETH0, GATEWAY, Some("fe80::1"))),
        ];
        assert_eq!(state.client_routes(&[ETH0]), eth0);
        let eth1 = vec![(net("10.1.0.9/32"), hop(ETH1, NEAR, None))];
        assert_eq!(state.client_routes(&[ETH1]), eth1);
        let gaps = ["10.0.0.0/24", "10.1.0.0/24", "192.0.2.0/24", "2001:db8::/64"].map(net);
        assert_eq!(state.client_gaps(&[ETH0]), gaps);
        assert!(
            state.client_gaps(&[ETH1]).contains(&net("0.0.0.0/0")),
            "eth0's gateway is no way out of eth1"
        );
    }
}
