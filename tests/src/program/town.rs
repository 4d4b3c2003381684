//! The environment that program tests share: VIPs, services, targets and clients of both families.
//!
//! | | IPv4 | IPv6 |
//! | --- | --- | --- |
//! | VIP | 10.0.0.100 | fd00::100 |
//! | source addresses | 10.0.0.10, 10.0.0.11 | fd00::10, fd00::11 |
//! | clients | 10.1.KIND.N | fd01:KIND::N |
//! | targets, ports 8081… | 10.2.0.1… | fd02::1… |

use std::{
    hash::Hash,
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
};

use lb_common::{
    abi::{FlowKey, NextHop, Service, ServiceKey, TCP, Target, UDP, on_no_target, service_kind},
    addr::{Ip, Port, V4, V6},
    memory::{Family, Memory},
};

use super::{INGRESS, Sizes};

/// Tick at which the clock stands.
pub const CLOCK: u32 = 0x8000_0000;
/// Sizes that suit the environment.
pub const SIZES: Sizes = Sizes { flows: 64, handshakes: 256, targets: 16, next_hops: 16 };
/// Another interface than the one that frames come in by.
pub const ELSEWHERE: u32 = 77;
/// Lowest source port.
pub const PORT_FIRST: u16 = 20_000;
/// Slots of the lookup tables.
pub const SLOTS: u32 = 31;

/// Ports of the services: reject, drop, each TCP and UDP. Their rows are given by `service`.
pub mod port {
    /// TCP, rejects without a target.
    pub const TCP_REJECT: u16 = 80;
    /// TCP, drops without a target.
    pub const TCP_DROP: u16 = 81;
    /// UDP, rejects without a target.
    pub const UDP_REJECT: u16 = 53;
    /// UDP, drops without a target.
    pub const UDP_DROP: u16 = 54;
    /// TCP, in generation 0 alone.
    pub const TCP_PASSING: u16 = 82;
    /// Of no service.
    pub const UNDECLARED: u16 = 99;
}

/// Kinds of clients, by the third byte of their address.
pub mod kind {
    /// Their packets come straight, and so go the replies.
    pub const PLAIN: u8 = 1;
    /// Replies go by next hop [`super::ROUTE`].
    pub const ROUTED: u8 = 2;
    /// Replies would go by a next hop that is unresolved.
    pub const UNRESOLVED: u8 = 3;
    /// Allowed in generation 0 alone.
    pub const REVOCABLE: u8 = 4;
    /// Never allowed.
    pub const DENIED: u8 = 9;
}

/// Row of the next hop to clients of kind [`kind::ROUTED`].
pub const ROUTE: u32 = 8;
/// Row of the unresolved next hop.
const NO_ROUTE: u32 = 9;

/// A VIP.
#[must_use]
pub fn vip(v6: bool) -> IpAddr {
    address(v6, 0, 0, 0x100, 100)
}

/// A source address: row 0 or 1.
#[must_use]
pub fn snat(v6: bool, row: u8) -> IpAddr {
    address(v6, 0, 0, 0x10 + u16::from(row), 10 + row)
}

/// A client's address.
#[must_use]
pub fn client(v6: bool, kind: u8, number: u8) -> IpAddr {
    address(v6, 1, kind, number.into(), number)
}

/// Rows of a family's targets: the first transmits, the second redirects, the third has a small MTU.
#[must_use]
pub fn rows(v6: bool) -> [u32; 3] {
    if v6 { [4, 5, 6] } else { [1, 2, 3] }
}

/// A target's address and port by its row.
#[must_use]
pub fn target(row: u32) -> SocketAddr {
    let number = row as u8;
    SocketAddr::new(address(row > 3, 2, 0, number.into(), number), 8080 + row as u16)
}

/// The row of a family's table: 0 for the reject services, 1 for the drop services.
#[must_use]
pub fn table(v6: bool, which: u32) -> u32 {
    1 + u32::from(v6) * 2 + which
}

fn address(v6: bool, net: u8, kind: u8, number: u16, last: u8) -> IpAddr {
    if v6 {
        Ipv6Addr::new(0xfd00 | u16::from(net), kind.into(), 0, 0, 0, 0, 0, number).into()
    } else {
        Ipv4Addr::new(10, net, kind, last).into()
    }
}

/// An address as the packet path has it.
///
/// # Panics
/// If it is of the other family.
#[must_use]
#[expect(clippy::panic, reason = "the test mixes up its own families")]
pub fn ip<A: Ip>(address: IpAddr) -> A {
    match address {
        IpAddr::V4(address) if !A::IS_V6 => A::from_words(V4::from(address).words()),
        IpAddr::V6(address) if A::IS_V6 => A::from_words(V6::from(address).words()),
        address => panic!("{address} is of the other family"),
    }
}

/// Link-layer addresses of a next hop: destination, source.
#[must_use]
pub fn macs(row: u32) -> ([u8; 6], [u8; 6]) {
    ([2, 0x10, 0, 0, 0, row as u8], [2, 0x20, 0, 0, 0, row as u8])
}

/// The environment.
#[must_use]
pub fn build() -> Memory {
    let mut memory = SIZES.memory();
    memory.clock.set(CLOCK);
    let control = &mut memory.control;
    control.epoch = 1;
    (control.snat_v4, control.snat_v6) = (2, 2);
    (control.port_first, control.port_count) = (PORT_FIRST.into(), 64);
    control.table_slots = SLOTS;
    control.tcp_handshake = 1_000;
    control.tcp_established = 100_000;
    control.tcp_closing = 10_000;
    control.tcp_time_wait = 5_000;
    control.udp_unanswered = 1_000;
    control.udp_established = 20_000;
    for row in (1..=6).chain([ROUTE]) {
        let (destination, source) = macs(row);
        let ifindex = if matches!(row, 2 | 5 | ROUTE) { ELSEWHERE } else { INGRESS };
        let mtu = if matches!(row, 3 | 6) { 600 } else { 1500 };
        memory.next_hops[row as usize] = NextHop { ifindex, mtu, destination, source };
    }
    for row in 1..=6 {
        let address = match target(row).ip() {
            IpAddr::V4(address) => V4::from(address).words(),
            IpAddr::V6(address) => V6::from(address).words(),
        };
        let port = Port::new(target(row).port());
        memory.targets[row as usize] = Target { address, port, incarnation: 1, ..Target::default() };
    }
    for v6 in [false, true] {
        for which in 0..2 {
            let slots = (0..SLOTS).map(|slot| rows(v6)[slot as usize % 3]).collect();
            memory.tables.insert(table(v6, which), slots);
        }
    }
    memory.look_at::<V4>(ip(vip(false)));
    memory.look_at::<V6>(ip(vip(true)));
    for row in 0..2 {
        memory.look_at::<V4>(ip(snat(false, row)));
        memory.look_at::<V6>(ip(snat(true, row)));
    }
    family::<V4>(&mut memory.v4);
    family::<V6>(&mut memory.v6);
    memory
}

fn family<A: Ip + Hash>(family: &mut Family<A>) {
    let v6 = A::IS_V6;
    family.snat = vec![ip(snat(v6, 0)), ip(snat(v6, 1))];
    // The prefix length that ends with a client's kind.
    let length = if v6 { 32 } else { 24 };
    for generation in 0..2 {
        let mut put = |address, port, protocol, service| {
            let key = ServiceKey { address: ip(address), port: Port::new(port), reserved: 0, protocol };
            family.services[generation].insert(key, service);
        };
        put(vip(v6), 0, 0, Service { kind: service_kind::VIP, ..Service::default() });
        for row in 0..2 {
            let service = Service { kind: service_kind::SNAT, index: row.into(), ..Service::default() };
            put(snat(v6, row), 0, 0, service);
        }
        let services = [
            (port::TCP_REJECT, TCP, 0, on_no_target::REJECT),
            (port::TCP_DROP, TCP, 1, on_no_target::DROP),
            (port::UDP_REJECT, UDP, 0, on_no_target::REJECT),
            (port::UDP_DROP, UDP, 1, on_no_target::DROP),
            (port::TCP_PASSING, TCP, 0, on_no_target::REJECT),
        ];
        for (at, (port, protocol, which, on_no_target)) in services.into_iter().enumerate() {
            if generation == 1 && port == port::TCP_PASSING {
                continue;
            }
            let index = service(v6, at as u32);
            let (kind, table) = (service_kind::SERVICE, table(v6, which));
            put(vip(v6), port, protocol, Service { kind, index, table, on_no_target });
        }
        for index in 0..5 {
            let index = service(v6, index);
            let all = ip(address(v6, 1, 0, 0, 0));
            let mut allow = |kind, allowed| {
                family.access[generation].push((index, ip(address(v6, 1, kind, 0, 0)), length, allowed));
            };
            allow(kind::DENIED, false);
            if generation == 1 {
                allow(kind::REVOCABLE, false);
            }
            family.access[generation].push((index, all, 16, true));
        }
    }
    family.routes = vec![
        (ip(address(v6, 1, kind::ROUTED, 0, 0)), length, ROUTE),
        (ip(address(v6, 1, kind::UNRESOLVED, 0, 0)), length, NO_ROUTE),
    ];
}

/// The counters' row of a family's service, in the order of [`port`].
#[must_use]
pub fn service(v6: bool, at: u32) -> u32 {
    1 + u32::from(v6) * 5 + at
}

/// The five-tuple of a packet between two ends.
#[must_use]
pub fn key<A: Ip>(from: SocketAddr, to: SocketAddr, protocol: u32) -> FlowKey<A> {
    FlowKey {
        src: ip(from.ip()),
        dst: ip(to.ip()),
        sport: Port::new(from.port()),
        dport: Port::new(to.port()),
        protocol,
    }
}

/// Source and destination of a frame, if it is long enough to have them.
#[must_use]
pub fn ends(frame: &[u8], v6: bool) -> Option<(SocketAddr, SocketAddr)> {
    let (src, dst, ports) = if v6 { (22, 38, 54) } else { (26, 30, 34) };
    let address = |at: usize| -> Option<IpAddr> {
        Some(if v6 {
            <[u8; 16]>::try_from(frame.get(at..at + 16)?).ok()?.into()
        } else {
            <[u8; 4]>::try_from(frame.get(at..at + 4)?).ok()?.into()
        })
    };
    let port = |at: usize| Some(u16::from_be_bytes([*frame.get(at)?, *frame.get(at + 1)?]));
    Some((SocketAddr::new(address(src)?, port(ports)?), SocketAddr::new(address(dst)?, port(ports + 2)?)))
}
