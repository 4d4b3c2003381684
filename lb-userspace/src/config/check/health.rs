//! Health checks.

use std::time::Duration;

use regex::RegexBuilder;

use super::{elements, time_within};
use crate::config::{
    fault::{Collector, quoted},
    model::{HealthCheck, HttpProbe, Probe, TlsProbe, TlsVerify},
    raw,
    read::At,
    scalar::{HeaderName, HeaderValue, Verify},
};

/// Memory that one compiled expression may take, in bytes.
const MAX_REGEX: usize = 1 << 20;
/// Headers that the probe writes itself, and where they are set if they can be.
const OWN_HEADERS: [(&str, &str); 4] = [
    ("host", "the key `host` sets it"),
    ("connection", "each check has its own connection"),
    ("content-length", "a check's request has no body"),
    ("transfer-encoding", "a check's request has no body"),
];

/// Checks one health check; `None` only if a fault was collected.
pub(super) fn check(health: &At<raw::Health>, faults: &mut Collector) -> Option<HealthCheck> {
    let probe = probe(health, faults);
    let raw = &health.value;
    let bounds = (Duration::from_millis(10), Duration::from_secs(3600));
    let interval = time_within(&raw.interval, Duration::from_secs(2), bounds, faults);
    let longest = interval.unwrap_or(bounds.1);
    let timeout = time_within(&raw.timeout, Duration::from_secs(1).min(longest), bounds, faults);
    let transition = time_within(&raw.transition_interval, longest, bounds, faults);
    for (key, time) in [(&raw.timeout, timeout), (&raw.transition_interval, transition)] {
        if let (Some(key), Some(time), Some(interval)) = (key, time, interval)
            && time > interval
        {
            let (time, interval) = (super::show(time), super::show(interval));
            faults.fault(
                &key.place,
                format!("{time} is longer than the interval, {interval}; give at most that"),
            );
        }
    }
    Some(HealthCheck {
        probe: probe?,
        port: raw.port.as_ref().map(|at| at.value.0),
        interval: interval?,
        transition_interval: transition?,
        timeout: timeout?,
        rise: raw.rise.as_ref().map_or(2, |at| at.value.0),
        fall: raw.fall.as_ref().map_or(3, |at| at.value.0),
    })
}

fn probe(health: &At<raw::Health>, faults: &mut Collector) -> Option<Probe> {
    let raw::Health { tcp, http, https, tls, .. } = &health.value;
    let kinds = [tcp.is_some(), http.is_some(), https.is_some()].into_iter().filter(|given| *given).count();
    if kinds != 1 {
        let found = if kinds == 0 { "has none" } else { "has more than one" };
        faults.fault(&health.place, format!("{found} of `tcp`, `http` and `https`; give exactly one"));
    }
    let http = http.as_ref().map(|at| http_probe(&at.value, faults));
    let https = https.as_ref().map(|at| http_probe(&at.value, faults));
    if let Some(tls) = tls.as_ref().filter(|_| https.is_none()) {
        faults.fault(&tls.place, "only `https` checks have it; remove it, or check with `https`");
    }
    let tls = tls_probe(tls.as_ref().map(|at| &at.value), faults);
    match (http, https) {
        (Some(http), _) => Some(Probe::Http(http?)),
        (None, Some(https)) => Some(Probe::Https { http: https?, tls: tls? }),
        (None, None) => tcp.as_ref().map(|_| Probe::Tcp),
    }
}

fn http_probe(raw: &raw::HttpProbe, faults: &mut Collector) -> Option<HttpProbe> {
    let headers = headers(raw, faults);
    if let Some(method) = raw.method.as_ref().filter(|method| method.value.0 == "CONNECT") {
        faults.fault(&method.place, "CONNECT asks for a tunnel, not for an answer; give GET or HEAD");
    }
    let mut expect_status: Vec<_> =
        elements(&raw.expect_status).iter().map(|at| (at.value.0, at.value.1)).collect();
    match &raw.expect_status {
        Some(At { value, place }) if value.is_empty() => {
            faults.fault(
                place,
                "lists no status, so that no answer would be healthy; give one such as 200-299",
            );
        }
        Some(_) => {}
        None => expect_status.push((200, 399)),
    }
    if let Some(At { value, place }) = &raw.expect_body
        && let Err(error) = RegexBuilder::new(&value.0).size_limit(MAX_REGEX).build()
    {
        let reason = error.to_string();
        let reason =
            reason.lines().last().unwrap_or_default().trim_start_matches("error: ").trim_end_matches('.');
        faults.fault(place, format!("{} cannot be compiled: {reason}", quoted(&value.0)));
        return None;
    }
    Some(HttpProbe {
        method: raw.method.as_ref().map_or("GET", |at| &at.value.0).to_owned(),
        path: raw.path.as_ref().map_or("/", |at| &at.value.0).to_owned(),
        host: raw.host.as_ref().map(|at| at.value.0.clone()),
        headers,
        expect_status,
        expect_body: raw.expect_body.as_ref().map(|at| at.value.0.clone()),
    })
}

fn headers(raw: &raw::HttpProbe, faults: &mut Collector) -> Vec<(String, String)> {
    let entries = raw.headers.as_ref().map_or(&[][..], |at| at.value.0.as_slice());
    for (name, _) in entries {
        let lower = name.value.0.to_ascii_lowercase();
        if let Some((_, why)) = OWN_HEADERS.iter().find(|(own, _)| *own == lower) {
            faults.fault(&name.place, format!("the check writes this header itself: {why}; remove it"));
        }
    }
    super::unique(
        entries.iter().map(|(name, _)| (name.value.0.to_ascii_lowercase(), &name.place)),
        |name| format!("the header `{name}`"),
        faults,
    );
    let header = |(name, value): &(At<HeaderName>, Option<At<HeaderValue>>)| {
        Some((name.value.0.clone(), value.as_ref()?.value.0.clone()))
    };
    entries.iter().filter_map(header).collect()
}

fn tls_probe(raw: Option<&raw::Tls>, faults: &mut Collector) -> Option<TlsProbe> {
    let Some(raw) = raw else { return Some(TlsProbe { server_name: None, verify: TlsVerify::System }) };
    if let Some(At { value, place }) = &raw.server_name
        && rustls_pki_types::ServerName::try_from(value.0.as_str()).is_err()
    {
        faults.fault(place, format!("{} is no DNS name and no address", quoted(&value.0)));
        return None;
    }
    let verify = match (&raw.verify, &raw.ca_file) {
        (Some(verify), Some(_)) => {
            faults.fault(&verify.place, "excludes `ca_file`; remove one of them");
            return None;
        }
        (None, Some(file)) => TlsVerify::CaFile(file.value.0.clone().into()),
        (Some(At { value: Verify::Nothing, .. }), None) => TlsVerify::None,
        (Some(At { value: Verify::System, .. }) | None, None) => TlsVerify::System,
    };
    Some(TlsProbe { server_name: raw.server_name.as_ref().map(|at| at.value.0.clone()), verify })
}
