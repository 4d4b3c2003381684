//! What differs between two configurations, in words.

use std::collections::BTreeMap;

use crate::{
    api::types::{ChangeKind, ResourceChange},
    config::{
        Config,
        model::{Service, Target, TargetGroup},
    },
};

/// What a configuration adds, changes and removes.
pub(super) fn changes(old: Option<&Config>, new: &Config) -> Vec<ResourceChange> {
    let mut found = Vec::new();
    let services = |config: &Config| -> BTreeMap<String, Service> {
        config.services.iter().map(|service| (service.name.clone(), service.clone())).collect()
    };
    let groups = |config: &Config| -> BTreeMap<String, TargetGroup> {
        config.groups.iter().map(|group| (group.name.clone(), group.clone())).collect()
    };
    let targets = |config: &Config| -> BTreeMap<String, Target> {
        let all = config.groups.iter().flat_map(|group| {
            group.targets.iter().map(|target| (format!("{}/{}", group.name, target.name), target.clone()))
        });
        all.collect()
    };
    compare("service", &old.map(services).unwrap_or_default(), &services(new), service, &mut found);
    compare("group", &old.map(groups).unwrap_or_default(), &groups(new), group, &mut found);
    compare("target", &old.map(targets).unwrap_or_default(), &targets(new), target, &mut found);
    if let Some(old) = old {
        settings(old, new, &mut found);
    }
    found
}

fn compare<T: PartialEq>(
    what: &str,
    old: &BTreeMap<String, T>,
    new: &BTreeMap<String, T>,
    describe: impl Fn(&T, &T) -> Vec<String>,
    found: &mut Vec<ResourceChange>,
) {
    let mut push = |change, name: &str, detail: String| {
        found.push(ResourceChange { change, subject: format!("{what} {name}"), detail });
    };
    for (name, now) in new {
        match old.get(name) {
            None => push(ChangeKind::Added, name, String::new()),
            Some(before) => {
                let detail = describe(before, now);
                if !detail.is_empty() {
                    push(ChangeKind::Changed, name, detail.join(", "));
                }
            }
        }
    }
    for name in old.keys().filter(|name| !new.contains_key(*name)) {
        push(ChangeKind::Removed, name, String::new());
    }
}

fn service(old: &Service, new: &Service) -> Vec<String> {
    let mut parts = Vec::new();
    let end = |service: &Service| {
        format!("{:?} {} port {}", service.protocol, service.address, service.port).to_lowercase()
    };
    from_to(&mut parts, "", &end(old), &end(new));
    from_to(&mut parts, "group ", &old.group, &new.group);
    if old.access != new.access {
        parts.push("who may connect".to_owned());
    }
    parts
}

/// Targets are compared by themselves.
fn group(old: &TargetGroup, new: &TargetGroup) -> Vec<String> {
    let mut parts = Vec::new();
    if old.health != new.health {
        parts.push("health check".to_owned());
    }
    if old.on_target_down != new.on_target_down {
        parts.push("on_target_down".to_owned());
    }
    from_to(&mut parts, "on_all_down ", &old.on_all_down.to_string(), &new.on_all_down.to_string());
    from_to(
        &mut parts,
        "drain_deadline ",
        &format!("{:?}", old.drain_deadline),
        &format!("{:?}", new.drain_deadline),
    );
    from_to(&mut parts, "table_slots ", &old.table_slots.to_string(), &new.table_slots.to_string());
    parts
}

fn target(old: &Target, new: &Target) -> Vec<String> {
    let mut parts = Vec::new();
    let at = |target: &Target| std::net::SocketAddr::new(target.address, target.port).to_string();
    from_to(&mut parts, "", &at(old), &at(new));
    from_to(&mut parts, "weight ", &old.weight.to_string(), &new.weight.to_string());
    if old.zone != new.zone {
        parts.push("zone".to_owned());
    }
    parts
}

fn from_to(parts: &mut Vec<String>, what: &str, old: &str, new: &str) {
    if old != new {
        parts.push(format!("{what}{old} → {new}"));
    }
}

fn settings(old: &Config, new: &Config, found: &mut Vec<ResourceChange>) {
    let sections = [
        ("interfaces", old.interfaces != new.interfaces || old.xdp_mode != new.xdp_mode),
        ("vips", old.vip_placement != new.vip_placement),
        ("snat", old.snat != new.snat),
        ("segments", old.segments != new.segments),
        ("timeouts", old.timeouts != new.timeouts),
        ("limits", old.limits != new.limits),
        ("api", old.api != new.api),
    ];
    for (subject, _) in sections.into_iter().filter(|(_, differs)| *differs) {
        found.push(ResourceChange {
            change: ChangeKind::Changed,
            subject: subject.to_owned(),
            detail: String::new(),
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::parse;

    const TEXT: &str = "
interfaces: [eth0]
snat: {ipv4: [10.0.0.2], ports: 20000-29999}
services: [{name: web, address: 10.0.0.100, protocol: tcp, port: 80, group: web, allow: any}]
groups: [{name: web, targets: [{name: a, address: 10.0.0.11, port: 8080}, {name: b, address: 10.0.0.12, port: 8080}]}]
";

    fn config(text: &str) -> Config {
        parse(text, "test").unwrap().config
    }

    fn lines(old: &str, new: &str) -> Vec<String> {
        let found = changes(Some(&config(old)), &config(new));
        found.iter().map(|c| format!("{} {} {}", c.change, c.subject, c.detail).trim().to_owned()).collect()
    }

    #[test]
    fn each_difference_is_named_once() {
        assert_eq!(lines(TEXT, TEXT), Vec::<String>::new());
        let cases = [
            ("port: 80,", "port: 81,", "changed service web tcp 10.0.0.100 port 80 → tcp 10.0.0.100 port 81"),
            ("allow: any", "allow: [10.0.0.0/8]", "changed service web who may connect"),
            (
                "10.0.0.11, port: 8080",
                "10.0.0.11, port: 8080, weight: 3",
                "changed target web/a weight 1 → 3",
            ),
            ("name: a, ", "name: c, ", "added target web/c"),
            ("20000-29999", "20000-20999", "changed snat"),
            ("interfaces: [eth0]", "interfaces: [eth1]", "changed interfaces"),
            (
                "groups: [{name: web,",
                "groups: [{name: web, on_all_down: drop,",
                "changed group web on_all_down reject → drop",
            ),
        ];
        for (from, to, expected) in cases {
            let new = TEXT.replace(from, to);
            assert_eq!(lines(TEXT, &new).first().map(String::as_str), Some(expected), "{to}");
        }
        let added = changes(None, &config(TEXT));
        assert_eq!(added.len(), 4);
        assert!(added.iter().all(|change| change.change == ChangeKind::Added));
    }
}
