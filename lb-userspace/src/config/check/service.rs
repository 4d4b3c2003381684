//! What clients connect to.

use std::{
    collections::{BTreeMap, HashMap, HashSet},
    net::IpAddr,
};

use ipnet::IpNet;

use super::{
    access,
    address::{family, usable},
    elements, unique,
};
use crate::config::{
    fault::{Collector, Place, suggestion},
    model::{Limits, Protocol, Service},
    raw::{self, Document},
    read::At,
};

/// Checks every service. Those with a fault are left out.
pub(super) fn check(
    document: &Document,
    segments: &BTreeMap<String, Vec<IpNet>>,
    limits: &Limits,
    faults: &mut Collector,
) -> Vec<Service> {
    let services = elements(&document.services);
    let names = services.iter().filter_map(|service| service.value.name.as_ref());
    unique(names.map(|at| (&at.value.0, &at.place)), |name| format!("the service name `{name}`"), faults);
    unique(
        services.iter().filter_map(endpoint),
        |(address, protocol, port)| {
            let protocol = if *protocol == Protocol::Tcp { "TCP" } else { "UDP" };
            format!("{protocol} port {port} of {address}")
        },
        faults,
    );
    let groups = Groups::new(document);
    let mut access = access::Checker::new(segments, limits.access_prefixes);
    let checked = services.iter().filter_map(|service| one(service, &groups, &mut access, faults)).collect();
    unused(document, faults);
    checked
}

/// A service's (address, protocol, port), which only one may have.
fn endpoint(service: &At<raw::Service>) -> Option<((IpAddr, Protocol, u16), &Place)> {
    let raw::Service { address, protocol, port, .. } = &service.value;
    let port = port.as_ref()?;
    Some(((address.as_ref()?.value.0, protocol.as_ref()?.value, port.value.0), &port.place))
}

/// What services need to know of the groups.
struct Groups<'a> {
    /// Every group's name with its first target's address.
    families: HashMap<&'a str, Option<IpAddr>>,
    /// Whether a group's name could not be read.
    unnamed: bool,
}

impl<'a> Groups<'a> {
    fn new(document: &'a Document) -> Self {
        let first = |group: &At<raw::Group>| {
            elements(&group.value.targets)
                .iter()
                .find_map(|target| Some(target.value.address.as_ref()?.value.0))
        };
        let groups = elements(&document.groups);
        let named =
            |group: &'a At<raw::Group>| Some((group.value.name.as_ref()?.value.0.as_str(), first(group)));
        Self {
            families: groups.iter().filter_map(named).collect(),
            unnamed: groups.iter().any(|group| group.value.name.is_none()),
        }
    }
}

fn one(
    service: &At<raw::Service>,
    groups: &Groups<'_>,
    access: &mut access::Checker<'_>,
    faults: &mut Collector,
) -> Option<Service> {
    let raw::Service { name, address, protocol, port, group, .. } = &service.value;
    if let Some(group) = group {
        match groups.families.get(group.value.0.as_str()) {
            // It may be meant for a group whose name could not be read.
            None if groups.unnamed => {}
            None => {
                let near = suggestion(&group.value.0, groups.families.keys().copied());
                faults.fault(&group.place, format!("no group is named `{}`{near}", group.value.0));
            }
            Some(Some(target)) => {
                if let Some(vip) = address.as_ref().filter(|vip| vip.value.0.is_ipv4() != target.is_ipv4()) {
                    let (ours, theirs) = (family(vip.value.0), family(*target));
                    let message = format!("the targets of `{}` are {theirs}", group.value.0);
                    faults.fault(&group.place, format!("{message}, but the service's address is {ours}"));
                }
            }
            // Its targets could not be read, which has been reported.
            Some(None) => {}
        }
    }
    let address = address.as_ref()?;
    usable(address.value.0, &address.place, faults);
    let access = access.check(service, address.value.0, faults);
    Some(Service {
        name: name.as_ref()?.value.0.clone(),
        address: address.value.0,
        protocol: protocol.as_ref()?.value,
        port: port.as_ref()?.value.0,
        group: group.as_ref()?.value.0.clone(),
        access,
    })
}

/// Warns of groups that no service uses.
fn unused(document: &Document, faults: &mut Collector) {
    let used: HashSet<&str> = elements(&document.services)
        .iter()
        .filter_map(|service| Some(service.value.group.as_ref()?.value.0.as_str()))
        .collect();
    for name in elements(&document.groups).iter().filter_map(|group| group.value.name.as_ref()) {
        if !used.contains(name.value.0.as_str()) {
            faults.warn(&name.place, format!("no service uses the group `{}`", name.value.0));
        }
    }
}
