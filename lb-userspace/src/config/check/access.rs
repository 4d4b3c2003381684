//! Who may connect to a service.

use std::{
    collections::{BTreeMap, HashMap},
    net::IpAddr,
};

use ipnet::{IpNet, Ipv4Net, Ipv6Net};

use super::{address::family, elements};
use crate::config::{
    fault::{Collector, Place, suggestion},
    model::AccessRule,
    raw::{Allow, Service},
    read::At,
    scalar::Source,
};

/// Prefixes looked at in one run, repeated ones included. It bounds the time that many services with many long
/// segments take, whatever the limit.
const MAX_WORK: usize = 16 << 20;

/// Gathers the rules of one service after the other.
pub(super) struct Checker<'a> {
    segments: &'a BTreeMap<String, Vec<IpNet>>,
    /// Most rules over all services, for each family.
    limit: usize,
    /// Rules so far, of IPv4 and of IPv6.
    count: [usize; 2],
    work: usize,
}

impl<'a> Checker<'a> {
    pub(super) fn new(segments: &'a BTreeMap<String, Vec<IpNet>>, limit: u32) -> Self {
        Self { segments, limit: usize::try_from(limit).unwrap_or(usize::MAX), count: [0; 2], work: 0 }
    }

    /// The rules of a service with this address, each prefix once.
    pub(super) fn check(
        &mut self,
        service: &At<Service>,
        address: IpAddr,
        faults: &mut Collector,
    ) -> Vec<AccessRule> {
        let mut rules = Rules { address, checker: self, rules: Vec::new(), index: HashMap::new() };
        rules.allow(service, faults);
        rules.add_all(elements(&service.value.deny), false, faults);
        let added = rules.rules;
        let count = &mut self.count[usize::from(address.is_ipv6())];
        let before = *count;
        *count += added.len();
        // Told once, at the service that goes beyond it.
        if before <= self.limit && *count > self.limit {
            let (family, limit) = (family(address), self.limit);
            let message = format!("with this service, access takes more than {limit} {family} prefixes");
            faults.fault(&service.place, format!("{message}; raise `limits.access_prefixes`, or list fewer"));
        }
        added
    }

    /// Whether there is room and time for one more.
    fn goes_on(&mut self, address: IpAddr, rules: usize, place: &Place, faults: &mut Collector) -> bool {
        self.work += 1;
        if self.work == MAX_WORK {
            faults
                .fault(place, "the services' access lists are too long to be checked; use shorter segments");
        }
        self.work < MAX_WORK && self.count[usize::from(address.is_ipv6())] + rules <= self.limit
    }
}

struct Rules<'a, 'b> {
    address: IpAddr,
    checker: &'a mut Checker<'b>,
    rules: Vec<AccessRule>,
    /// Where each prefix's rule is, and the path it was written at.
    index: HashMap<IpNet, (usize, String)>,
}

impl Rules<'_, '_> {
    fn allow(&mut self, service: &At<Service>, faults: &mut Collector) {
        match service.value.allow.as_ref() {
            None => faults
                .warn(&service.place, "has no `allow`, so nobody may connect; list who may, or write any"),
            Some(At { value: Allow::Any, place }) => {
                let everybody = match self.address {
                    IpAddr::V4(_) => IpNet::V4(Ipv4Net::default()),
                    IpAddr::V6(_) => IpNet::V6(Ipv6Net::default()),
                };
                self.add(AccessRule { prefix: everybody, allow: true, segment: None }, place, faults);
            }
            Some(At { value: Allow::Sources(sources), place }) => {
                if sources.is_empty() {
                    faults.warn(place, "is empty, so nobody may connect; list who may, or write any");
                }
                self.add_all(sources, true, faults);
            }
        }
    }

    fn add_all(&mut self, sources: &[At<Source>], allow: bool, faults: &mut Collector) {
        for At { value, place } in sources {
            match value {
                Source::Prefix(prefix) if same_family(*prefix, self.address) => {
                    self.add(AccessRule { prefix: *prefix, allow, segment: None }, place, faults);
                }
                Source::Prefix(prefix) => {
                    let (theirs, ours) = (family(prefix.addr()), family(self.address));
                    let message =
                        format!("{prefix} is an {theirs} prefix, but the service's address is {ours}");
                    faults.fault(place, format!("{message}; give an {ours} prefix"));
                }
                Source::Segment(name) => self.add_segment(name, allow, place, faults),
            }
        }
    }

    fn add_segment(&mut self, name: &str, allow: bool, place: &Place, faults: &mut Collector) {
        let (segments, address) = (self.checker.segments, self.address);
        let Some(prefixes) = segments.get(name) else {
            let message = match (name, allow) {
                ("any", true) => "`any` stands alone: write `allow: any`".to_owned(),
                ("any", false) => "`any` cannot be denied: who is not allowed is denied already".to_owned(),
                _ => {
                    let near = suggestion(name, segments.keys().map(String::as_str));
                    format!("no segment is named `{name}`{near}")
                }
            };
            faults.fault(place, message);
            return;
        };
        let mut meant = false;
        for prefix in prefixes {
            if !self.checker.goes_on(address, self.rules.len(), place, faults) {
                return;
            }
            if same_family(*prefix, address) {
                meant = true;
                self.add(
                    AccessRule { prefix: *prefix, allow, segment: Some(name.to_owned()) },
                    place,
                    faults,
                );
            }
        }
        if !meant {
            let family = family(address);
            faults.warn(place, format!("the segment `{name}` has no {family} prefix, so nobody is meant"));
        }
    }

    fn add(&mut self, rule: AccessRule, place: &Place, faults: &mut Collector) {
        let Some((at, path)) = self.index.get(&rule.prefix) else {
            self.index.insert(rule.prefix, (self.rules.len(), place.path.clone()));
            self.rules.push(rule);
            return;
        };
        // The same permission twice, for instance through two segments, is no contradiction.
        if self.rules.get(*at).is_some_and(|first| first.allow != rule.allow) {
            let through = rule.segment.map(|name| format!(" (in the segment `{name}`)")).unwrap_or_default();
            faults.fault(place, format!("{}{through} is allowed too, by `{path}`; remove one", rule.prefix));
        }
    }
}

fn same_family(prefix: IpNet, address: IpAddr) -> bool {
    prefix.addr().is_ipv4() == address.is_ipv4()
}
