//! The addresses of a configuration together: each has one role.

use std::{
    collections::{HashMap, HashSet},
    net::IpAddr,
};

use super::{elements, unique};
use crate::config::{
    fault::{Collector, Place},
    model::{PortRange, Snat},
    raw::Document,
    read::At,
};

/// Ports of `nat` flows where the file has no `snat`; nothing uses them then.
const UNUSED_PORTS: PortRange = PortRange { first: 20_000, last: 29_999 };

/// Checks the pool of source addresses, and every address's role.
pub(super) fn check(document: &Document, faults: &mut Collector) -> Option<Snat> {
    let vips = vips(document);
    let pool = pool(document, faults);
    let own: HashSet<IpAddr> = pool.iter().map(|(address, _)| *address).collect();
    for (address, place) in &pool {
        if let Some(service) = vips.get(address) {
            faults.fault(
                place,
                format!("{address} is the address of {service}; source addresses must be others"),
            );
        }
    }
    for target in elements(&document.groups).iter().flat_map(|group| elements(&group.value.targets)) {
        let Some(At { value, place }) = &target.value.address else { continue };
        if let Some(service) = vips.get(&value.0) {
            faults.fault(
                place,
                format!("{} is the address of {service}; a target needs one of its own", value.0),
            );
        }
        if own.contains(&value.0) {
            let message = "is in the pool `snat`; a target needs an address of its own";
            faults.fault(place, format!("{} {message}", value.0));
        }
    }
    needed(document, faults);
    let ports = match &document.snat {
        None => UNUSED_PORTS,
        Some(snat) => {
            let ports = snat.value.ports.as_ref()?;
            if ports.value.0.first < 1024 {
                faults.warn(&ports.place, "has ports below 1024, where the host's own servers listen");
            }
            ports.value.0
        }
    };
    Some(Snat {
        ipv4: pool.iter().filter_map(|(address, _)| v4(*address)).collect(),
        ipv6: pool.iter().filter_map(|(address, _)| v6(*address)).collect(),
        ports,
    })
}

/// Why an address can be nobody's own on a network, if so.
pub(super) fn usable(address: IpAddr, place: &Place, faults: &mut Collector) {
    let fault = match address {
        address if address.is_unspecified() => Some("is the unspecified address"),
        address if address.is_multicast() => Some("is a multicast address"),
        address if address.is_loopback() => Some("is a loopback address, which no packet from a network has"),
        IpAddr::V4(v4) if v4.is_broadcast() => Some("is the broadcast address"),
        IpAddr::V4(v4) if v4.octets()[0] == 0 => Some("is in 0.0.0.0/8, which no host has"),
        IpAddr::V6(v6) if v6.to_ipv4_mapped().is_some() => Some("is an IPv4 address in IPv6 form"),
        IpAddr::V6(v6) if v6.is_unicast_link_local() => {
            Some("is a link-local address, which routes cannot reach")
        }
        _ => None,
    };
    if let Some(fault) = fault {
        faults.fault(place, format!("{address} {fault}; give a unicast address of the network"));
    }
}

/// "IPv4" or "IPv6".
pub(super) fn family(address: IpAddr) -> &'static str {
    if address.is_ipv4() { "IPv4" } else { "IPv6" }
}

fn vips(document: &Document) -> HashMap<IpAddr, String> {
    let mut vips = HashMap::new();
    for service in elements(&document.services) {
        if let Some(address) = &service.value.address {
            let name = service.value.name.as_ref().map(|name| format!("service `{}`", name.value.0));
            vips.entry(address.value.0).or_insert(name.unwrap_or_else(|| "a service".to_owned()));
        }
    }
    vips
}

/// The pool's addresses, checked each by itself.
fn pool<'a>(document: &'a Document, faults: &mut Collector) -> Vec<(IpAddr, &'a Place)> {
    let Some(snat) = &document.snat else { return Vec::new() };
    let mut pool = Vec::new();
    pool.extend(elements(&snat.value.ipv4).iter().map(|at| (IpAddr::V4(at.value.0), &at.place)));
    pool.extend(elements(&snat.value.ipv6).iter().map(|at| (IpAddr::V6(at.value.0), &at.place)));
    for (address, place) in &pool {
        usable(*address, place, faults);
    }
    unique(pool.iter().copied(), |address| format!("the source address {address}"), faults);
    pool
}

/// A family in use by a `nat` group needs a pool. Told once for each family, at the first service that needs it.
fn needed(document: &Document, faults: &mut Collector) {
    let snat = document.snat.as_ref().map(|at| &at.value);
    let has = |v4: bool| match snat {
        Some(snat) if v4 => !elements(&snat.ipv4).is_empty(),
        Some(snat) => !elements(&snat.ipv6).is_empty(),
        None => false,
    };
    for (v4, key) in [(true, "snat.ipv4"), (false, "snat.ipv6")] {
        let mut services =
            elements(&document.services).iter().filter_map(|service| service.value.address.as_ref());
        let Some(first) = services.find(|address| address.value.0.is_ipv4() == v4) else { continue };
        if !has(v4) && !faults.has_under(key) {
            let family = family(first.value.0);
            let message = format!("an {family} service of a `nat` group needs {family} source addresses");
            faults.fault(&first.place, format!("{message}; give at least one in `{key}`"));
        }
    }
}

fn v4(address: IpAddr) -> Option<std::net::Ipv4Addr> {
    match address {
        IpAddr::V4(address) => Some(address),
        IpAddr::V6(_) => None,
    }
}

fn v6(address: IpAddr) -> Option<std::net::Ipv6Addr> {
    match address {
        IpAddr::V4(_) => None,
        IpAddr::V6(address) => Some(address),
    }
}
