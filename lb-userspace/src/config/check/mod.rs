//! From the file's shape to the checked configuration: everything that concerns more than one value.

mod access;
mod address;
mod group;
mod health;
mod limits;
mod service;

use std::{
    collections::{BTreeMap, HashMap},
    time::Duration,
};

use ipnet::IpNet;

use super::{
    fault::Collector,
    model::{Api, Config, Timeouts, VipPlacement, XdpMode},
    raw::{self, Document},
    read::At,
    scalar::Time,
};

/// A day; no flow may idle longer than thirty.
const DAY: Duration = Duration::from_secs(86_400);

/// Checks the whole document; `None` only if a fault was collected.
pub(super) fn check(document: &Document, faults: &mut Collector) -> Option<Config> {
    let interfaces = interfaces(document, faults);
    let segments = segments(document, faults);
    let groups = group::check(document, faults);
    let limits = limits::check(document, faults);
    let services = service::check(document, &segments, &limits, faults);
    let snat = address::check(document, faults);
    let timeouts = timeouts(document.timeouts.as_ref().map(|at| &at.value), faults);
    let api = api(document.api.as_ref().map(|at| &at.value), faults);
    Some(Config {
        interfaces: interfaces?,
        xdp_mode: value_or(&document.xdp, XdpMode::Native),
        vip_placement: value_or(&document.vips, VipPlacement::Interface),
        snat: snat?,
        segments,
        services,
        groups,
        timeouts: timeouts?,
        limits,
        api: api?,
    })
}

/// A list's elements; none where the key is absent or could not be read.
fn elements<T>(list: &Option<At<Vec<At<T>>>>) -> &[At<T>] {
    list.as_ref().map_or(&[], |at| at.value.as_slice())
}

/// A key's value, or what holds without it.
fn value_or<T: Copy>(key: &Option<At<T>>, default: T) -> T {
    key.as_ref().map_or(default, |at| at.value)
}

/// Reports each element of a list that occurred before. `what` begins the message, such as "the name `web`".
fn unique<'a, K: std::hash::Hash + Eq>(
    elements: impl IntoIterator<Item = (K, &'a super::fault::Place)>,
    what: impl Fn(&K) -> String,
    faults: &mut Collector,
) {
    let mut seen = HashMap::new();
    for (key, place) in elements {
        match seen.get(&key) {
            Some(line) => faults.fault(place, format!("{} is taken already, in line {line}", what(&key))),
            None => {
                seen.insert(key, place.line);
            }
        }
    }
}

fn interfaces(document: &Document, faults: &mut Collector) -> Option<Vec<String>> {
    let list = document.interfaces.as_ref()?;
    if list.value.is_empty() {
        faults.fault(&list.place, "names no interface; give at least one");
    }
    for interface in &list.value {
        if matches!(interface.value.0.as_str(), "." | "..") {
            faults.fault(&interface.place, format!("`{}` can be no interface's name", interface.value.0));
        }
    }
    unique(
        list.value.iter().map(|at| (&at.value.0, &at.place)),
        |name| format!("the interface `{name}`"),
        faults,
    );
    Some(list.value.iter().map(|at| at.value.0.clone()).collect())
}

fn segments(document: &Document, faults: &mut Collector) -> BTreeMap<String, Vec<IpNet>> {
    let mut segments = BTreeMap::new();
    let entries = document.segments.as_ref().map_or(&[][..], |at| at.value.0.as_slice());
    for (name, prefixes) in entries {
        if name.value.0 == "any" {
            faults.fault(&name.place, "`any` means everybody and can be no segment's name");
        }
        let Some(prefixes) = prefixes else {
            segments.insert(name.value.0.clone(), Vec::new());
            continue;
        };
        if prefixes.value.is_empty() {
            faults.warn(&prefixes.place, "has no prefix, so nobody belongs to it");
        }
        unique(
            prefixes.value.iter().map(|at| (at.value.0, &at.place)),
            |prefix| format!("the prefix {prefix}"),
            faults,
        );
        segments.insert(name.value.0.clone(), prefixes.value.iter().map(|at| at.value.0).collect());
    }
    segments
}

/// A length of time within bounds, both included; `None` if it is not, which has been reported.
fn time_within(
    key: &Option<At<Time>>,
    default: Duration,
    (min, max): (Duration, Duration),
    faults: &mut Collector,
) -> Option<Duration> {
    let Some(At { value: Time(time), place }) = key else { return Some(default) };
    if (min..=max).contains(time) {
        return Some(*time);
    }
    faults.fault(place, format!("{} is out of range; give {} to {}", show(*time), show(min), show(max)));
    None
}

/// A length of time as the file writes it.
fn show(time: Duration) -> String {
    let (secs, millis) = (time.as_secs(), time.subsec_millis());
    match (secs, millis) {
        (0, millis) if millis > 0 => format!("{millis}ms"),
        (secs, 0) if secs > 0 && secs.is_multiple_of(3600) => format!("{}h", secs / 3600),
        (secs, 0) => format!("{secs}s"),
        (secs, millis) => format!("{secs}s{millis}ms"),
    }
}

/// Linux means TIME_WAIT to last 60 s, but its timers for that long run up to 5.1 s late, by how often they tick.
const TIME_WAIT_SECS: u64 = 66;

fn timeouts(raw: Option<&raw::Timeouts>, faults: &mut Collector) -> Option<Timeouts> {
    let mut timeout = |key: Option<&Option<At<Time>>>, default_secs: u64| {
        let default = Duration::from_secs(default_secs);
        let bounds = (Duration::from_millis(100), 30 * DAY);
        key.map_or(Some(default), |key| time_within(key, default, bounds, faults))
    };
    // All are looked at before the first `?`, so that each fault shows.
    let tcp_handshake = timeout(raw.map(|raw| &raw.tcp_handshake), 30);
    let tcp_established = timeout(raw.map(|raw| &raw.tcp_established), 350);
    let tcp_closing = timeout(raw.map(|raw| &raw.tcp_closing), 120);
    let tcp_time_wait = timeout(raw.map(|raw| &raw.tcp_time_wait), TIME_WAIT_SECS);
    let udp_unanswered = timeout(raw.map(|raw| &raw.udp_unanswered), 30);
    let udp_established = timeout(raw.map(|raw| &raw.udp_established), 120);
    if let Some(At { value: Time(time), place }) = raw.and_then(|raw| raw.tcp_time_wait.as_ref())
        && *time < Duration::from_secs(TIME_WAIT_SECS)
    {
        let message = format!(
            "{} is less than Linux targets hold a closed connection, so a client whose port meets one has to try again; \
             give {TIME_WAIT_SECS}s, or what the targets' own system needs",
            show(*time)
        );
        faults.warn(place, message);
    }
    Some(Timeouts {
        tcp_handshake: tcp_handshake?,
        tcp_established: tcp_established?,
        tcp_closing: tcp_closing?,
        tcp_time_wait: tcp_time_wait?,
        udp_unanswered: udp_unanswered?,
        udp_established: udp_established?,
    })
}

fn api(raw: Option<&raw::Api>, faults: &mut Collector) -> Option<Api> {
    let Some(listen) = raw.and_then(|raw| raw.listen.as_ref()) else { return Some(Api { listen: None }) };
    let address = listen.value.0;
    if !address.ip().is_loopback() {
        let message = "is no loopback address; TCP clients are not authenticated: give 127.0.0.1 or [::1]";
        faults.fault(&listen.place, format!("{} {message}", address.ip()));
        return None;
    }
    if address.port() == 0 {
        faults.fault(&listen.place, "0 is no port; give 1 to 65535");
        return None;
    }
    Some(Api { listen: Some(address) })
}
