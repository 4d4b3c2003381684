//! The configuration parser.

use std::collections::{BTreeMap, HashSet};

use lb_userspace::config::{Faults, model::*, parse};

/// Any text gets an answer that keeps the promises of [`Config`] or of [`Faults`].
pub fn config(data: &[u8]) {
    let Ok(text) = std::str::from_utf8(data) else { return };
    let answer = parse(text, "fuzz");
    match &answer {
        Ok(checked) => holds(&checked.config),
        Err(faults) => explained(faults, text),
    }
    assert!(parse(text, "fuzz") == answer, "the same text got two answers");
}

fn explained(faults: &Faults, text: &str) {
    assert!(!faults.faults.is_empty(), "refused without a fault");
    // YAML's lines may end with a carriage return alone.
    let lines = text.split(['\n', '\r']).count();
    for fault in &faults.faults {
        assert!(fault.line >= 1 && fault.column >= 1 && !fault.message.is_empty(), "{fault:?}");
        assert!(fault.line as usize <= lines + 1, "beyond the text's {lines} lines: {fault:?}");
        assert!(!fault.to_string().contains('\n'), "{fault:?}");
    }
    let places: Vec<_> = faults.faults.iter().map(|fault| (fault.line, fault.column)).collect();
    assert!(places.is_sorted(), "not in the text's order: {faults:?}");
}

/// What the model promises to the rest of the agent.
fn holds(config: &Config) {
    assert!(!config.interfaces.is_empty());
    assert!(config.snat.ports.first >= 1 && config.snat.ports.first <= config.snat.ports.last);
    let groups: BTreeMap<&str, &TargetGroup> =
        config.groups.iter().map(|group| (group.name.as_str(), group)).collect();
    assert_eq!(groups.len(), config.groups.len(), "a group's name twice");
    let names: HashSet<&str> = config.services.iter().map(|service| service.name.as_str()).collect();
    assert_eq!(names.len(), config.services.len(), "a service's name twice");
    let ports: HashSet<_> =
        config.services.iter().map(|service| (service.address, service.protocol, service.port)).collect();
    assert_eq!(ports.len(), config.services.len(), "an address, protocol and port twice");
    for service in &config.services {
        let group = groups.get(service.group.as_str()).expect("a service's group exists");
        assert!(group.targets.iter().all(|target| target.address.is_ipv4() == service.address.is_ipv4()));
        assert!(service.access.iter().all(|rule| rule.prefix.addr().is_ipv4() == service.address.is_ipv4()));
        assert!(service.access.iter().all(|rule| rule.prefix == rule.prefix.trunc()));
        let prefixes: HashSet<_> = service.access.iter().map(|rule| rule.prefix).collect();
        assert_eq!(prefixes.len(), service.access.len(), "a prefix twice");
        let pool = if service.address.is_ipv4() { config.snat.ipv4.len() } else { config.snat.ipv6.len() };
        assert!(pool > 0, "no source address");
        assert!(service.port > 0);
    }
    config.groups.iter().for_each(group_holds);
    let targets: usize = config.groups.iter().map(|group| group.targets.len()).sum();
    assert!(targets <= config.limits.targets as usize);
    assert!(config.services.len() <= config.limits.services as usize);
    assert!(config.groups.len() <= config.limits.groups as usize);
    assert!(config.api.listen.is_none_or(|address| address.ip().is_loopback()));
    let Timeouts {
        tcp_handshake,
        tcp_established,
        tcp_closing,
        tcp_time_wait,
        udp_unanswered,
        udp_established,
    } = config.timeouts;
    let times = [tcp_handshake, tcp_established, tcp_closing, tcp_time_wait, udp_unanswered, udp_established];
    assert!(times.iter().all(|time| !time.is_zero()));
}

fn group_holds(group: &TargetGroup) {
    assert!(!group.targets.is_empty());
    assert!(group.targets.len() <= group.table_slots as usize);
    assert!(group.targets.iter().all(|target| target.weight <= 1000 && target.port > 0));
    assert!(group.targets.iter().any(|target| target.weight > 0));
    let names: HashSet<&str> = group.targets.iter().map(|target| target.name.as_str()).collect();
    assert_eq!(names.len(), group.targets.len(), "a target's name twice");
    let endpoints: HashSet<_> = group.targets.iter().map(|target| (target.address, target.port)).collect();
    assert_eq!(endpoints.len(), group.targets.len(), "a target twice");
    let Some(health) = &group.health else { return };
    assert!(!health.timeout.is_zero() && health.timeout <= health.interval);
    assert!(!health.transition_interval.is_zero() && health.transition_interval <= health.interval);
    assert!(health.rise > 0 && health.fall > 0);
    if let Probe::Http(http) | Probe::Https { http, .. } = &health.probe {
        http_holds(http);
    }
}

/// A probe can be sent as configured: what the parser lets through, the HTTP library takes.
fn http_holds(probe: &HttpProbe) {
    let host = probe.host.as_deref().unwrap_or("10.0.0.1:80");
    let mut request =
        http::Request::builder().method(probe.method.as_str()).uri(&probe.path).header("host", host);
    for (name, value) in &probe.headers {
        request = request.header(name, value);
    }
    request.body(()).expect("a request");
    assert!(!probe.expect_status.is_empty());
    assert!(probe.expect_status.iter().all(|(first, last)| first <= last && (100..=599).contains(last)));
}
