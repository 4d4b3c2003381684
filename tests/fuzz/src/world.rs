//! A small balancer in memory: one VIP of each family, few ports, few places, short times, so that an input of a few
//! packets meets every limit.

use std::{
    collections::HashMap,
    hash::Hash,
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
};

use lb_common::{
    abi::{NextHop, Service, ServiceKey, Target, on_no_target, service_kind},
    addr::{Ip, Port, V4, V6},
    memory::{Family, Memory},
};

/// The interface that clients are behind, and the one that some targets are behind.
pub(crate) const INTERFACES: [u32; 2] = [1, 2];
/// Clients by number: two of the same prefix, one denied always, one denied in generation 1, one never allowed.
pub(crate) const CLIENTS: u8 = 5;
/// Ports of the VIP: TCP with targets, UDP with targets, TCP and UDP without any that reject and that drop.
pub(crate) const PORTS: [u16; 5] = [80, 53, 81, 82, 9];
/// Rows of targets; each has its own next hop. The last has none.
pub(crate) const TARGETS: u32 = 4;

const SLOTS: u32 = 7;
const FLOWS: u32 = 8;
const PORT_COUNT: u32 = 3;
const SOURCES: u32 = 2;

/// An address of a family by what it is for.
pub(crate) fn address(v6: bool, net: u8, host: u8) -> IpAddr {
    if v6 {
        IpAddr::V6(Ipv6Addr::new(0xfd00, 0, 0, u16::from(net), 0, 0, 0, u16::from(host)))
    } else {
        IpAddr::V4(Ipv4Addr::new(10, net, 0, host))
    }
}

/// The VIP.
pub(crate) fn vip(v6: bool) -> IpAddr {
    address(v6, 0, 100)
}

/// A client.
pub(crate) fn client(v6: bool, number: u8) -> IpAddr {
    let (net, host) = [(1, 1), (1, 2), (2, 1), (3, 1), (9, 1)][usize::from(number % CLIENTS)];
    address(v6, net, host)
}

/// A source address of flows.
pub(crate) fn source(v6: bool, row: u32) -> IpAddr {
    address(v6, 0, 2 + row as u8)
}

/// A target's address and port. The rows of IPv6 follow those of IPv4.
pub(crate) fn target(v6: bool, row: u32) -> (IpAddr, u16) {
    (address(v6, 0, 10 + row as u8), 8080 + (row % 2) as u16)
}

/// The tables as the agent would fill them.
pub(crate) fn world() -> Memory {
    let rows = 1 + 2 * TARGETS;
    let mut memory = Memory::new(FLOWS, SOURCES * PORT_COUNT, rows, rows + 1);
    let control = &mut memory.control;
    (control.epoch, control.snat_v4, control.snat_v6) = (1, SOURCES, SOURCES);
    (control.port_first, control.port_count, control.table_slots) = (20_000, PORT_COUNT, SLOTS);
    (control.tcp_handshake, control.tcp_established, control.tcp_closing) = (30, 350, 120);
    (control.tcp_time_wait, control.udp_unanswered, control.udp_established) = (60, 30, 120);
    for v6 in [false, true] {
        let first = if v6 { 1 + TARGETS } else { 1 };
        for row in first..first + TARGETS {
            let (address, port) = target(v6, row);
            memory.targets[row as usize] = Target {
                address: words(address),
                port: Port::new(port),
                reserved: 0,
                incarnation: 1,
                flags: 0,
            };
            if row != first + TARGETS - 1 {
                memory.next_hops[row as usize] = hop(row);
            }
        }
        // A table of each family, and the empty one that a group without healthy targets has.
        let table = if v6 { 2 } else { 1 };
        memory.tables.insert(table, (0..SLOTS).map(|slot| first + slot % TARGETS).collect());
    }
    memory.tables.insert(3, vec![0; SLOTS as usize]);
    memory.next_hops[rows as usize] = hop(rows);
    fill(&mut memory.v4, false, |address| match address {
        IpAddr::V4(address) => V4::from(address),
        IpAddr::V6(_) => V4::default(),
    });
    fill(&mut memory.v6, true, |address| match address {
        IpAddr::V4(_) => V6::default(),
        IpAddr::V6(address) => V6::from(address),
    });
    for v6 in [false, true] {
        for address in [vip(v6), source(v6, 0), source(v6, 1)] {
            match address {
                IpAddr::V4(address) => memory.look_at(V4::from(address)),
                IpAddr::V6(address) => memory.look_at(V6::from(address)),
            }
        }
    }
    memory
}

/// A next hop by its row; odd ones are on the second interface, one has a small MTU.
fn hop(row: u32) -> NextHop {
    let interface = INTERFACES[(row % 2) as usize];
    let mtu = if row == 2 { 100 } else { 1500 };
    NextHop {
        ifindex: interface,
        mtu,
        destination: [2, 0, 0, 0, 1, row as u8],
        source: [2, 0, 0, 0, 2, row as u8],
    }
}

fn fill<A: Ip + Hash>(family: &mut Family<A>, v6: bool, of: impl Fn(IpAddr) -> A) {
    let table = if v6 { 2 } else { 1 };
    let service =
        |index, table, on_no_target| Service { kind: service_kind::SERVICE, index, table, on_no_target };
    let key = |address, port, protocol| ServiceKey {
        address: of(address),
        port: Port::new(port),
        reserved: 0,
        protocol,
    };
    let mut services = HashMap::new();
    services.insert(key(vip(v6), PORTS[0], 6), service(1, table, on_no_target::REJECT));
    services.insert(key(vip(v6), PORTS[1], 17), service(2, table, on_no_target::REJECT));
    services.insert(key(vip(v6), PORTS[2], 6), service(3, 3, on_no_target::REJECT));
    services.insert(key(vip(v6), PORTS[2], 17), service(4, 3, on_no_target::REJECT));
    services.insert(key(vip(v6), PORTS[3], 6), service(5, 3, on_no_target::DROP));
    services.insert(key(vip(v6), 0, 0), Service { kind: service_kind::VIP, ..Service::default() });
    for row in 0..SOURCES {
        let source = Service { kind: service_kind::SNAT, index: row, ..Service::default() };
        services.insert(key(source_of(v6, row), 0, 0), source);
    }
    family.services = [services.clone(), services];
    family.snat = (0..SOURCES).map(|row| of(source_of(v6, row))).collect();
    let bits = if v6 { 64 } else { 16 };
    for index in 1..=5 {
        for (generation, access) in family.access.iter_mut().enumerate() {
            access.push((index, of(client(v6, 0)), bits, true));
            access.push((index, of(client(v6, 2)), bits, false));
            access.push((index, of(client(v6, 3)), bits, generation == 0));
        }
    }
    // One client is behind a router that the agent knows.
    family.routes.push((of(client(v6, 1)), A::BITS, 1 + 2 * TARGETS));
}

fn source_of(v6: bool, row: u32) -> IpAddr {
    source(v6, row)
}

fn words(address: IpAddr) -> [u32; 4] {
    match address {
        IpAddr::V4(address) => V4::from(address).words(),
        IpAddr::V6(address) => V6::from(address).words(),
    }
}
