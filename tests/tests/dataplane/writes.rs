//! Every kind of write, read back through the contract and where possible through the pins.

use std::net::IpAddr;

use anyhow::Result;
use lb_common::{
    abi::{NextHop, Service, Target, map, service_kind},
    addr::{Ip, Port, V4},
    hash,
};
use lb_userspace::dataplane::{AccessRow, DataPlane, ServiceRow, Write};

use crate::setup::{LIMITS, SLOTS, Setup, control};

fn target(last: u8) -> Target {
    Target {
        address: V4::from(std::net::Ipv4Addr::new(10, 0, 0, last)).words(),
        port: Port::new(8080),
        reserved: 0,
        incarnation: 3,
        flags: 1,
    }
}

fn service(address: &str, port: u16, protocol: u32, index: u32) -> Result<ServiceRow> {
    let service = Service { kind: service_kind::SERVICE, index, table: 2, on_no_target: 1 };
    Ok(ServiceRow { address: address.parse()?, port, protocol, service })
}

fn access(service: u32, prefix: &str, allow: bool) -> Result<AccessRow> {
    Ok(AccessRow { service, prefix: prefix.parse()?, allow })
}

#[test]
fn targets_next_hops_and_routes_are_what_was_written() -> Result<()> {
    let setup = Setup::new()?;
    let mut dataplane = setup.start()?;
    let next_hop =
        NextHop { ifindex: 9, mtu: 1500, destination: [1, 2, 3, 4, 5, 6], source: [6, 5, 4, 3, 2, 1] };
    dataplane.write(&[
        Write::Target { row: 1, target: target(1) },
        Write::Target { row: LIMITS.targets, target: target(2) },
        Write::NextHop { row: 1, next_hop },
        Write::NextHop { row: LIMITS.targets + 2 * LIMITS.client_routes, next_hop },
        Write::Route { prefix: "10.0.0.0/8".parse()?, row: Some(40) },
        Write::Route { prefix: "10.1.2.3/16".parse()?, row: Some(41) },
        Write::Route { prefix: "fd00::/64".parse()?, row: Some(42) },
    ])?;
    let contents = dataplane.contents()?;
    assert_eq!(contents.targets.len(), LIMITS.targets as usize + 1);
    assert_eq!((contents.targets[1], contents.targets[LIMITS.targets as usize]), (target(1), target(2)));
    assert_eq!(contents.targets[0], Target::default());
    assert_eq!(contents.next_hops[1], next_hop);
    assert_eq!(contents.next_hops.last(), Some(&next_hop));
    let mut routes = contents.routes;
    routes.sort_unstable();
    assert_eq!(
        routes,
        [("10.0.0.0/8".parse()?, 40), ("10.1.0.0/16".parse()?, 41), ("fd00::/64".parse()?, 42)]
    );
    // Frames that cannot be sent are counted for the interfaces of next hops.
    assert!(dataplane.counters()?.transmit_failed.contains(&(9, 0)));

    dataplane.write(&[
        Write::Route { prefix: "10.1.0.0/16".parse()?, row: None },
        Write::Route { prefix: "fd00::/64".parse()?, row: None },
        Write::Route { prefix: "fd00::/64".parse()?, row: None },
        Write::NextHop { row: 1, next_hop: NextHop::default() },
    ])?;
    let contents = dataplane.contents()?;
    assert_eq!(contents.routes, [("10.0.0.0/8".parse()?, 40)]);
    assert_eq!(contents.next_hops[1], NextHop::default());
    Ok(())
}

#[test]
fn tables_are_replaced_whole_and_changed_in_place() -> Result<()> {
    let setup = Setup::new()?;
    let mut dataplane = setup.start()?;
    assert_eq!(dataplane.table(0)?, <[u32; 0]>::default());
    let slots: Vec<u32> = (0..SLOTS).map(|slot| slot % 7).collect();
    let tables = (0..2 * LIMITS.groups).map(|table| Write::Table { table, slots: slots.clone() });
    dataplane.write(&tables.collect::<Vec<_>>())?;
    dataplane.write(&[Write::TableSlots { table: 5, slots: vec![(0, 30), (SLOTS - 1, 31)] }])?;
    let mut changed = slots.clone();
    (changed[0], changed[SLOTS as usize - 1]) = (30, 31);
    assert_eq!(dataplane.table(5)?, changed);
    assert_eq!(dataplane.table(4)?, slots);
    let all: Vec<(u32, u32)> = (0..SLOTS).map(|slot| (slot, slot + 1)).collect();
    dataplane.write(&[Write::TableSlots { table: 5, slots: all }])?;
    assert_eq!(dataplane.table(5)?, (1..=SLOTS).collect::<Vec<_>>());
    dataplane.write(&[Write::Table { table: 5, slots: slots.clone() }])?;
    assert_eq!(dataplane.table(5)?, slots);
    Ok(())
}

#[test]
fn what_does_not_fit_is_refused_with_its_place() -> Result<()> {
    let setup = Setup::new()?;
    let mut dataplane = setup.start()?;
    let cases = [
        (
            Write::Table { table: 0, slots: vec![1; 10] },
            "table 0: it has 10 slots, the tables in force have 251",
        ),
        (Write::TableSlots { table: 1, slots: vec![(0, 1)] }, "table 1: there is none to change"),
        (Write::Target { row: LIMITS.targets + 1, target: target(1) }, "map TARGETS: write an element: "),
        (Write::Table { table: 99, slots: vec![1; SLOTS as usize] }, "map TABLES: put tables in place: "),
    ];
    for (write, wanted) in cases {
        let later = Write::Target { row: 1, target: target(7) };
        let error = dataplane.write(&[write, later]).unwrap_err().to_string();
        assert!(error.starts_with(wanted), "{error}");
    }
    assert_eq!(dataplane.contents()?.targets[1], Target::default(), "nothing after a failure is tried");
    Ok(())
}

#[test]
fn a_generation_is_filled_beside_the_one_in_force() -> Result<()> {
    let setup = Setup::new()?;
    let mut dataplane = setup.start()?;
    let services =
        [service("10.9.0.1", 80, 6, 1)?, service("10.9.0.1", 0, 0, 0)?, service("fd09::1", 53, 17, 2)?];
    let rules =
        [access(1, "0.0.0.0/0", true)?, access(1, "10.1.0.0/16", false)?, access(2, "fd00::/8", true)?];
    dataplane.write(&[
        Write::Generation { generation: 1, services: services.to_vec(), access: rules.to_vec() },
        Write::Generation { generation: 0, services: Vec::new(), access: Vec::new() },
        Write::Control(control(0)),
    ])?;
    let contents = dataplane.contents()?;
    assert!(contents.services.is_empty() && contents.access.is_empty());

    dataplane.write(&[Write::Control(control(1))])?;
    assert_eq!(dataplane.control()?, control(1));
    let contents = dataplane.contents()?;
    assert_eq!(contents.services.len(), services.len());
    assert!(services.iter().all(|row| contents.services.contains(row)), "{:?}", contents.services);
    assert_eq!(contents.access.len(), rules.len());
    assert!(rules.iter().all(|row| contents.access.contains(row)), "{:?}", contents.access);

    // More rows than the batch of one call, and than the template's room.
    let many: Vec<_> = (0..5000u32)
        .map(|i| AccessRow { service: 1, prefix: ipv4(0x0a00_0000 + i), allow: i % 2 == 0 })
        .collect();
    dataplane.write(&[
        Write::Generation { generation: 0, services: services.to_vec(), access: many.clone() },
        Write::Control(control(0)),
    ])?;
    assert_eq!(dataplane.contents()?.access.len(), many.len());
    Ok(())
}

fn ipv4(address: u32) -> ipnet::IpNet {
    IpAddr::V4(address.into()).into()
}

#[test]
fn filter_and_source_addresses_are_written_whole() -> Result<()> {
    let setup = Setup::new()?;
    let mut dataplane = setup.start()?;
    let addresses: Vec<IpAddr> = vec!["10.9.0.1".parse()?, "fd09::1".parse()?, "10.8.0.1".parse()?];
    dataplane.write(&[Write::SourceAddresses(addresses.clone()), Write::Filter(addresses)])?;
    let rows = |name: &str| -> Result<aya::maps::Array<aya::maps::MapData, u32>> {
        Ok(aya::maps::Map::Array(setup.map(name)?).try_into()?)
    };
    let word = |address: [u8; 4]| u32::from_ne_bytes(address);
    let snat = rows(map::SNAT[0])?;
    assert_eq!(
        (snat.get(&0, 0)?, snat.get(&1, 0)?, snat.get(&2, 0)?),
        (word([10, 9, 0, 1]), word([10, 8, 0, 1]), 0)
    );

    let filter: aya::maps::Array<_, u64> = aya::maps::Map::Array(setup.map(map::FILTER)?).try_into()?;
    let bits = || -> Result<u32> {
        Ok(filter.iter().map(|word| word.map(u64::count_ones)).sum::<Result<u32, _>>()?)
    };
    assert_eq!(bits()?, 3);
    let bit = hash::filter(V4::from(std::net::Ipv4Addr::new(10, 9, 0, 1)));
    assert_ne!(filter.get(&(bit / 64), 0)? & 1 << (bit % 64), 0);

    dataplane.write(&[Write::SourceAddresses(Vec::new()), Write::Filter(Vec::new())])?;
    assert_eq!((bits()?, rows(map::SNAT[0])?.get(&0, 0)?), (0, 0));
    Ok(())
}
