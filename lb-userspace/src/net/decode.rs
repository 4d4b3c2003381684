//! From netlink messages to the values of [`NetState`]. Pure.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use ipnet::IpNet;
use netlink_packet_route::{
    AddressFamily, RouteNetlinkMessage,
    address::{AddressAttribute, AddressMessage},
    link::{LinkAttribute, LinkFlags, LinkInfo, LinkLayerType, LinkMessage},
    neighbour::NeighbourState as NetlinkState,
    neighbour::{NeighbourAddress, NeighbourAttribute, NeighbourFlags, NeighbourMessage},
    route::{
        RouteAddress, RouteAttribute, RouteFlags, RouteHeader, RouteMessage, RouteMetric, RouteNextHopFlags,
        RouteType, RouteVia,
    },
};

use super::state::{
    Interface, Mac, Neighbour, NeighbourState, NetState, Route, RouteHop, RouteKind, RouteTable,
};

/// What an event did to the picture.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(super) struct Effect {
    /// The picture is different now.
    pub changed: bool,
    /// The event does not say all that changed: the tables must be read again.
    pub reread: bool,
}

impl Effect {
    fn changed(changed: bool) -> Self {
        Self { changed, reread: false }
    }
}

/// Applies one event.
pub(super) fn apply(state: &mut NetState, message: &RouteNetlinkMessage) -> Effect {
    match message {
        RouteNetlinkMessage::NewLink(link) => new_link(state, link),
        RouteNetlinkMessage::DelLink(link) if is_link(link) => {
            Effect { changed: state.remove_interface(link.header.index), reread: true }
        }
        RouteNetlinkMessage::NewAddress(message) => {
            Effect::changed(address(message).is_some_and(|address| {
                state.insert_address(message.header.index, address, message.header.prefix_len)
            }))
        }
        RouteNetlinkMessage::DelAddress(message) => Effect {
            changed: address(message)
                .is_some_and(|address| state.remove_address(message.header.index, address)),
            // Routes that prefer the address as their source go with it, without an event.
            reread: true,
        },
        RouteNetlinkMessage::NewRoute(message) => route(message).map_or_else(Effect::default, |route| {
            let rivals = state.routes_for(route.table, route.prefix);
            if rivals.contains(&route) {
                return Effect::default();
            }
            // It may stand beside the one with the same metric, or in its place.
            let reread = rivals.iter().any(|rival| rival.metric == route.metric);
            Effect { changed: !reread && state.insert_route(route), reread }
        }),
        RouteNetlinkMessage::DelRoute(message) => route(message).map_or_else(Effect::default, |route| {
            let changed = state.remove_route(&route);
            // One way of a multipath route may have gone.
            Effect { changed, reread: !changed && !state.routes_for(route.table, route.prefix).is_empty() }
        }),
        RouteNetlinkMessage::NewNeighbour(message) => {
            Effect::changed(neighbour(message).is_some_and(|neighbour| state.insert_neighbour(neighbour)))
        }
        RouteNetlinkMessage::DelNeighbour(message) => Effect::changed(
            neighbour(message)
                .is_some_and(|neighbour| state.remove_neighbour(neighbour.ifindex, neighbour.address)),
        ),
        _ => Effect::default(),
    }
}

/// Adds one entry of a dump.
pub(super) fn add(state: &mut NetState, message: &RouteNetlinkMessage) {
    match message {
        RouteNetlinkMessage::NewRoute(message) => {
            if let Some(route) = route(message) {
                state.insert_route(route);
            }
        }
        other => {
            apply(state, other);
        }
    }
}

fn new_link(state: &mut NetState, link: &LinkMessage) -> Effect {
    let Some(interface) = interface(link) else { return Effect::default() };
    let was_up = state.interface(interface.index).map(|old| old.up);
    // Routes over an interface that goes down vanish or go dead without an event.
    let reread = was_up.is_some_and(|was_up| was_up != interface.up);
    Effect { changed: state.insert_interface(interface), reread }
}

/// Bridges announce their ports as links of their own family: those are not about the interface itself.
fn is_link(link: &LinkMessage) -> bool {
    link.header.interface_family == AddressFamily::Unspec
}

/// The interface that a link message is about.
pub(super) fn interface(link: &LinkMessage) -> Option<Interface> {
    if !is_link(link) {
        return None;
    }
    let mut interface = Interface {
        index: link.header.index,
        name: String::new(),
        mac: None,
        mtu: 0,
        up: link.header.flags.contains(LinkFlags::Up | LinkFlags::LowerUp),
        kind: None,
    };
    for attribute in &link.attributes {
        match attribute {
            LinkAttribute::IfName(name) => interface.name.clone_from(name),
            LinkAttribute::Mtu(mtu) => interface.mtu = *mtu,
            LinkAttribute::Address(bytes) if link.header.link_layer_type == LinkLayerType::Ether => {
                interface.mac = mac(bytes);
            }
            LinkAttribute::LinkInfo(infos) => {
                interface.kind = infos.iter().find_map(|info| match info {
                    LinkInfo::Kind(kind) => Some(kind.to_string()),
                    _ => None,
                });
            }
            _ => {}
        }
    }
    Some(interface)
}

/// The address that the host has, from an address message.
pub(super) fn address(message: &AddressMessage) -> Option<IpAddr> {
    let find = |wanted: fn(&AddressAttribute) -> Option<IpAddr>| message.attributes.iter().find_map(wanted);
    // On a point-to-point link the plain address is the peer's; the local one is ours.
    find(|attribute| match attribute {
        AddressAttribute::Local(address) => Some(*address),
        _ => None,
    })
    .or_else(|| {
        find(|attribute| match attribute {
            AddressAttribute::Address(address) => Some(*address),
            _ => None,
        })
    })
}

fn neighbour(message: &NeighbourMessage) -> Option<Neighbour> {
    let header = &message.header;
    if !matches!(header.family, AddressFamily::Inet | AddressFamily::Inet6)
        || header.flags.contains(NeighbourFlags::Proxy)
    {
        return None;
    }
    let address = message.attributes.iter().find_map(|attribute| match attribute {
        NeighbourAttribute::Destination(NeighbourAddress::Inet(address)) => Some(IpAddr::V4(*address)),
        NeighbourAttribute::Destination(NeighbourAddress::Inet6(address)) => Some(IpAddr::V6(*address)),
        _ => None,
    })?;
    if address.is_multicast() {
        return None;
    }
    let mac = message.attributes.iter().find_map(|attribute| match attribute {
        NeighbourAttribute::LinkLayerAddress(bytes) => mac(bytes),
        _ => None,
    });
    let state = match header.state {
        NetlinkState::Incomplete => NeighbourState::Incomplete,
        NetlinkState::Reachable => NeighbourState::Reachable,
        NetlinkState::Stale => NeighbourState::Stale,
        NetlinkState::Delay => NeighbourState::Delay,
        NetlinkState::Probe => NeighbourState::Probe,
        NetlinkState::Failed => NeighbourState::Failed,
        NetlinkState::Noarp => NeighbourState::NoArp,
        NetlinkState::Permanent => NeighbourState::Permanent,
        _ => NeighbourState::None,
    };
    Some(Neighbour { ifindex: header.ifindex, address, state, mac })
}

fn mac(bytes: &[u8]) -> Option<Mac> {
    Mac::try_from(bytes).ok().filter(|mac| *mac != [0; 6])
}

fn route(message: &RouteMessage) -> Option<Route> {
    let header = &message.header;
    // Routes for one source or class of service only, and copies made for one destination, are not for everyone.
    if header.source_prefix_length != 0 || header.tos != 0 || header.flags.contains(RouteFlags::Cloned) {
        return None;
    }
    let unspecified = match header.address_family {
        AddressFamily::Inet => IpAddr::V4(Ipv4Addr::UNSPECIFIED),
        AddressFamily::Inet6 => IpAddr::V6(Ipv6Addr::UNSPECIFIED),
        _ => return None,
    };
    let mut table = u32::from(header.table);
    let (mut destination, mut metric, mut mtu) = (unspecified, 0, None);
    let mut hops = Vec::new();
    for attribute in &message.attributes {
        match attribute {
            RouteAttribute::Destination(address) => destination = ip(address)?,
            RouteAttribute::Table(number) => table = *number,
            RouteAttribute::Priority(priority) => metric = *priority,
            RouteAttribute::Metrics(metrics) => {
                mtu = metrics.iter().find_map(|metric| match metric {
                    RouteMetric::Mtu(mtu) => Some(*mtu),
                    _ => None,
                });
            }
            RouteAttribute::MultiPath(ways) => hops.extend(ways.iter().map(|way| {
                let dead = way.flags.contains(RouteNextHopFlags::Dead);
                hop(way.interface_index, dead, &way.attributes)
            })),
            RouteAttribute::Oif(ifindex) => {
                let dead = header.flags.bits() & u32::from(RouteNextHopFlags::Dead.bits()) != 0;
                hops.push(hop(*ifindex, dead, &message.attributes));
            }
            _ => {}
        }
    }
    let table = match u8::try_from(table).ok()? {
        RouteHeader::RT_TABLE_MAIN => RouteTable::Main,
        libc::RT_TABLE_LOCAL => RouteTable::Local,
        _ => return None,
    };
    let prefix = IpNet::new(destination, header.destination_prefix_length).ok()?;
    Some(Route { table, prefix, kind: kind(header.kind)?, metric, mtu, hops })
}

fn hop(ifindex: u32, dead: bool, attributes: &[RouteAttribute]) -> RouteHop {
    let gateway = attributes.iter().find_map(|attribute| match attribute {
        RouteAttribute::Gateway(address) => ip(address),
        RouteAttribute::Via(RouteVia::Inet(address)) => Some(IpAddr::V4(*address)),
        RouteAttribute::Via(RouteVia::Inet6(address)) => Some(IpAddr::V6(*address)),
        _ => None,
    });
    let encapsulated = attributes
        .iter()
        .any(|attribute| matches!(attribute, RouteAttribute::Encap(_) | RouteAttribute::EncapType(_)));
    RouteHop { ifindex, gateway, dead, encapsulated }
}

fn ip(address: &RouteAddress) -> Option<IpAddr> {
    match address {
        RouteAddress::Inet(address) => Some(IpAddr::V4(*address)),
        RouteAddress::Inet6(address) => Some(IpAddr::V6(*address)),
        _ => None,
    }
}

fn kind(kind: RouteType) -> Option<RouteKind> {
    Some(match kind {
        RouteType::Unicast => RouteKind::Unicast,
        RouteType::Local => RouteKind::Local,
        RouteType::Broadcast | RouteType::Multicast | RouteType::Anycast => RouteKind::NotUnicast,
        RouteType::BlackHole => RouteKind::Blackhole,
        RouteType::Unreachable => RouteKind::Unreachable,
        RouteType::Prohibit => RouteKind::Prohibit,
        RouteType::Throw => RouteKind::Throw,
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    use netlink_packet_route::route::RouteNextHop;

    use super::*;

    const CHANGED: Effect = Effect { changed: true, reread: false };
    const REREAD: Effect = Effect { changed: false, reread: true };
    const NOTHING: Effect = Effect { changed: false, reread: false };

    fn route_message(gateways: &[u8], metric: u32) -> RouteMessage {
        let mut message = RouteMessage::default();
        message.header.address_family = AddressFamily::Inet;
        message.header.table = RouteHeader::RT_TABLE_MAIN;
        message.header.kind = RouteType::Unicast;
        message.header.destination_prefix_length = 24;
        let gateway = |last: u8| RouteAttribute::Gateway(RouteAddress::Inet([10, 0, 0, last].into()));
        message.attributes = vec![
            RouteAttribute::Destination(RouteAddress::Inet([192, 0, 2, 0].into())),
            RouteAttribute::Priority(metric),
        ];
        match gateways {
            [single] => message.attributes.extend([gateway(*single), RouteAttribute::Oif(2)]),
            several => {
                let ways = several.iter().map(|last| {
                    let mut way = RouteNextHop::default();
                    way.interface_index = 2;
                    way.attributes = vec![gateway(*last)];
                    way
                });
                message.attributes.push(RouteAttribute::MultiPath(ways.collect()));
            }
        }
        message
    }

    fn new(message: RouteMessage) -> RouteNetlinkMessage {
        RouteNetlinkMessage::NewRoute(message)
    }

    fn gone(message: RouteMessage) -> RouteNetlinkMessage {
        RouteNetlinkMessage::DelRoute(message)
    }

    #[test]
    fn a_route_event_that_leaves_doubt_asks_for_a_reading() {
        let mut state = NetState::default();
        assert_eq!(apply(&mut state, &new(route_message(&[1], 10))), CHANGED);
        assert_eq!(apply(&mut state, &new(route_message(&[1], 10))), NOTHING, "known already");
        assert_eq!(apply(&mut state, &new(route_message(&[2], 20))), CHANGED, "beside the first");
        assert_eq!(apply(&mut state, &new(route_message(&[3], 10))), REREAD, "beside it or in its place");
        assert_eq!(apply(&mut state, &gone(route_message(&[3], 10))), REREAD, "one way of a multipath route");
        assert_eq!(apply(&mut state, &gone(route_message(&[1], 10))), CHANGED);
        assert_eq!(apply(&mut state, &gone(route_message(&[2], 20))), CHANGED);
        assert_eq!(apply(&mut state, &gone(route_message(&[2], 20))), NOTHING, "gone already");
        assert_eq!(state, NetState::default());
    }

    #[test]
    fn a_multipath_route_keeps_its_ways_in_order() {
        let route = route(&route_message(&[1, 2], 0)).unwrap();
        let gateways: Vec<_> = route.hops.iter().map(|hop| hop.gateway.unwrap().to_string()).collect();
        assert_eq!(gateways, ["10.0.0.1", "10.0.0.2"]);
    }

    #[test]
    fn routes_that_are_not_for_everyone_are_left_out() {
        let mut other_table = route_message(&[1], 0);
        other_table.attributes.push(RouteAttribute::Table(1000));
        let mut cached = route_message(&[1], 0);
        cached.header.flags = RouteFlags::Cloned;
        let mut one_source = route_message(&[1], 0);
        one_source.header.source_prefix_length = 64;
        for message in [other_table, cached, one_source] {
            assert_eq!(route(&message), None);
        }
    }

    #[test]
    fn a_bridge_that_loses_a_port_does_not_lose_the_interface() {
        let mut link = LinkMessage::default();
        link.header.index = 2;
        link.attributes = vec![LinkAttribute::IfName("eth0".to_owned())];
        let mut state = NetState::default();
        assert_eq!(apply(&mut state, &RouteNetlinkMessage::NewLink(link.clone())), CHANGED);
        let mut port = link.clone();
        port.header.interface_family = AddressFamily::Bridge;
        assert_eq!(apply(&mut state, &RouteNetlinkMessage::DelLink(port)), NOTHING);
        let both = Effect { changed: true, reread: true };
        let mut up = link.clone();
        up.header.flags = LinkFlags::Up | LinkFlags::LowerUp;
        assert_eq!(
            apply(&mut state, &RouteNetlinkMessage::NewLink(up)),
            both,
            "routes change with it, unannounced"
        );
        assert_eq!(apply(&mut state, &RouteNetlinkMessage::DelLink(link)), both);
        assert_eq!(state, NetState::default());
    }

    #[test]
    fn only_entries_for_single_hosts_are_neighbours() {
        let mut message = NeighbourMessage::default();
        message.header.family = AddressFamily::Inet;
        message.header.state = NetlinkState::Reachable;
        let with = |address: [u8; 4], mac: &[u8]| {
            let mut message = message.clone();
            message.attributes = vec![
                NeighbourAttribute::Destination(NeighbourAddress::Inet(address.into())),
                NeighbourAttribute::LinkLayerAddress(mac.to_vec()),
            ];
            message
        };
        let host = neighbour(&with([10, 0, 0, 9], &[2, 0, 0, 0, 0, 9])).unwrap();
        assert_eq!(host.resolved(), Some([2, 0, 0, 0, 0, 9]));
        assert_eq!(neighbour(&with([10, 0, 0, 9], &[0; 6])).unwrap().resolved(), None, "no address at all");
        assert_eq!(neighbour(&with([10, 0, 0, 9], &[1; 4])).unwrap().resolved(), None, "not Ethernet");
        assert_eq!(neighbour(&with([224, 0, 0, 1], &[1; 6])), None);
        let mut proxy = with([10, 0, 0, 9], &[1; 6]);
        proxy.header.flags = NeighbourFlags::Proxy;
        assert_eq!(neighbour(&proxy), None);
        let mut forwarding = with([10, 0, 0, 9], &[1; 6]);
        forwarding.header.family = AddressFamily::Bridge;
        assert_eq!(neighbour(&forwarding), None);
    }
}
