//! The Prometheus exposition, in the OpenMetrics text format.
//!
//! Written from one [`Snapshot`] at each scrape, so that all values are of one time and a removed service or target
//! is gone at once.

use std::fmt;

use prometheus_client::{
    collector::Collector,
    encoding::{DescriptorEncoder, EncodeMetric, text},
    metrics::{MetricType, counter::ConstCounter, gauge::ConstGauge},
    registry::{Registry, Unit},
};

use crate::api::{
    backend::Snapshot,
    types::{ServiceView, TargetView, TrafficCounters, Verdict, VerdictCount, XdpAttachMode},
};

/// The media type of [`render`]'s text.
pub const MEDIA_TYPE: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";

/// Writes a snapshot as OpenMetrics text.
pub fn render(snapshot: Snapshot) -> Result<String, fmt::Error> {
    let mut registry = Registry::with_prefix("portside");
    registry.register_collector(Box::new(Exposition(snapshot)));
    let mut text = String::new();
    text::encode(&mut text, &registry)?;
    Ok(text)
}

#[derive(Debug)]
struct Exposition(Snapshot);

impl Collector for Exposition {
    fn encode(&self, encoder: DescriptorEncoder<'_>) -> fmt::Result {
        let mut out = Writer(encoder);
        self.agent(&mut out)?;
        self.data_plane(&mut out)?;
        self.packets(&mut out)?;
        self.services(&mut out)?;
        self.targets(&mut out)
    }
}

impl Exposition {
    fn agent(&self, out: &mut Writer<'_>) -> fmt::Result {
        let status = &self.0.status;
        let abi = status.version.abi.to_string();
        out.info(
            "agent",
            "What is running",
            &[("version", &status.version.version), ("node", &status.node), ("abi", &abi)],
        )?;
        let started = seconds(status.started_at);
        out.gauge("agent_start_time", "When the agent started", Some("seconds"), [(NONE, started)])?;
        let ready = truth(status.readiness.ready);
        out.gauge("ready", "Whether the agent balances as configured", None, [(NONE, ready)])?;
        let warnings = count(status.warnings.len());
        out.gauge("warnings", "Warnings shown in the status", None, [(NONE, warnings)])?;
        let number = status.revision.as_ref().map_or(0.0, |revision| float(revision.number));
        out.gauge("configuration_revision", "The revision in force; 0 for none", None, [(NONE, number)])?;
        let applied = status.revision.iter().map(|revision| (NONE, seconds(revision.applied_at)));
        out.gauge(
            "configuration_applied_timestamp",
            "When the revision was applied",
            Some("seconds"),
            applied,
        )?;
        let differs = status.file.iter().map(|file| (NONE, truth(file.differs)));
        out.gauge("configuration_file_differs", "Whether the file differs from the revision", None, differs)
    }

    fn data_plane(&self, out: &mut Writer<'_>) -> fmt::Result {
        let status = &self.0.status;
        let generation = f64::from(status.data_plane.generation);
        out.gauge("data_plane_generation", "The generation that new flows read", None, [(NONE, generation)])?;
        let epoch = f64::from(status.data_plane.epoch);
        out.gauge("data_plane_epoch", "The policy epoch", None, [(NONE, epoch)])?;
        let drift = count(status.data_plane.drift.len());
        out.gauge(
            "data_plane_drift",
            "Differences between the kernel's maps and the revision",
            None,
            [(NONE, drift)],
        )?;
        let attached = status.interfaces.iter().map(|interface| {
            let tag = interface.program_tag.clone().unwrap_or_default();
            let mode = match interface.xdp_mode {
                Some(XdpAttachMode::Native) => "native",
                Some(XdpAttachMode::Generic) => "generic",
                None => "none",
            };
            let labels =
                vec![("interface", interface.name.clone()), ("mode", mode.to_owned()), ("program_tag", tag)];
            (labels, truth(interface.xdp_mode.is_some()))
        });
        out.gauge(
            "interface_attached",
            "Whether the interface carries the program, and how",
            None,
            attached,
        )?;
        let maps = &status.maps;
        let used = maps.iter().filter_map(|map| Some((label("map", &map.name), float(map.used?))));
        out.gauge("map", "Entries in use of the program's maps", Some("entries"), used)?;
        let max = maps.iter().map(|map| (label("map", &map.name), float(map.max)));
        out.gauge("map_limit", "Entries that the program's maps can hold", Some("entries"), max)?;
        let memory = maps.iter().filter_map(|map| Some((label("map", &map.name), float(map.memory_bytes?))));
        out.gauge("map_memory", "Kernel memory of the program's maps", Some("bytes"), memory)
    }

    fn packets(&self, out: &mut Writer<'_>) -> fmt::Result {
        let drops = &self.0.drops;
        let verdicts = drops.verdicts.iter().map(|count| (verdict_labels(count), count.packets));
        out.counter("verdict", "What became of every packet", Some("packets"), verdicts)?;
        let reasons = drops.drops.iter().map(|drop| (label("reason", &drop.reason), drop.packets));
        out.counter("dropped", "Packets dropped, by reason", Some("packets"), reasons)?;
        let failed = drops
            .transmit_failures
            .iter()
            .map(|failed| (label("interface", &failed.interface), failed.packets));
        out.counter(
            "transmit_failed",
            "Packets that were forwarded and then failed to leave",
            Some("packets"),
            failed,
        )
    }

    fn services(&self, out: &mut Writer<'_>) -> fmt::Result {
        let services = &self.0.services;
        traffic(out, "service", services, service_labels, |service| service.counters)?;
        let up = services.iter().map(|s| (service_labels(s), f64::from(s.targets_up)));
        out.gauge("service_targets_up", "Targets that take the service's new flows", None, up)?;
        let total = services.iter().map(|s| (service_labels(s), f64::from(s.targets_total)));
        out.gauge("service_targets", "Targets of the service's group", None, total)?;
        let all_down = services.iter().map(|s| (service_labels(s), truth(s.all_down)));
        out.gauge("service_all_down", "Whether the choice for all targets down acts", None, all_down)?;
        let held = services.iter().map(|s| (service_labels(s), truth(s.in_kernel)));
        out.gauge(
            "service_in_kernel",
            "Whether the kernel's current generation holds the service",
            None,
            held,
        )
    }

    fn targets(&self, out: &mut Writer<'_>) -> fmt::Result {
        let targets = &self.0.targets;
        traffic(out, "target", targets, target_labels, |target| target.counters)?;
        let mut gauge = |name, help, unit, value: fn(&TargetView) -> Option<f64>| {
            let values = targets.iter().filter_map(|t| Some((target_labels(t), value(t)?)));
            out.gauge(name, help, unit, values)
        };
        gauge("target_up", "Whether the target's checks pass", None, |t| {
            Some(truth(t.health.verdict == Verdict::Up))
        })?;
        gauge("target_takes_new_flows", "Whether the target takes new flows", None, |t| {
            Some(truth(t.takes_new_flows))
        })?;
        gauge("target_next_hop_resolved", "Whether the target's next hop is known", None, |t| {
            Some(truth(t.next_hop.resolved))
        })?;
        gauge("target_weight", "The target's weight", None, |t| Some(f64::from(t.weight)))?;
        gauge("target_table", "Slots of the kernel's table that hold the target", Some("slots"), |t| {
            Some(f64::from(t.table_slots))
        })?;
        gauge("target_draining", "Flows left on a draining target", Some("flows"), |t| {
            t.admin.remaining_flows.map(float)
        })?;
        gauge("target_health_check_duration", "How long the last check took", Some("seconds"), |t| {
            t.health.last_check.as_ref().map(|check| check.duration_seconds)
        })
    }
}

type Labels = Vec<(&'static str, String)>;

const NONE: Labels = Vec::new();

fn label(name: &'static str, value: &str) -> Labels {
    vec![(name, value.to_owned())]
}

fn verdict_labels(count: &VerdictCount) -> Labels {
    vec![("outcome", count.outcome.to_string()), ("verdict", count.verdict.clone())]
}

fn service_labels(service: &ServiceView) -> Labels {
    label("service", &service.name)
}

fn target_labels(target: &TargetView) -> Labels {
    vec![("group", target.group.clone()), ("target", target.name.clone())]
}

/// Packets, bytes and flows of everything in a list.
fn traffic<T>(
    out: &mut Writer<'_>,
    prefix: &str,
    list: &[T],
    labels: fn(&T) -> Labels,
    counters: fn(&T) -> TrafficCounters,
) -> fmt::Result {
    let both_ways = |value: fn(TrafficCounters) -> (u64, u64)| {
        list.iter().flat_map(move |item| {
            let (inward, outward) = value(counters(item));
            [("in", inward), ("out", outward)].map(|(direction, value)| {
                let mut labels = labels(item);
                labels.push(("direction", direction.to_owned()));
                (labels, value)
            })
        })
    };
    let packets = both_ways(|c| (c.packets_in, c.packets_out));
    out.counter(prefix, "Packets from clients (in) and to them (out)", Some("packets"), packets)?;
    let bytes = both_ways(|c| (c.bytes_in, c.bytes_out));
    out.counter(prefix, "Bytes from clients (in) and to them (out)", Some("bytes"), bytes)?;
    let admitted = list.iter().map(|item| (labels(item), counters(item).new_flows));
    out.counter(&format!("{prefix}_new"), "Flows admitted", Some("flows"), admitted)?;
    let active = list.iter().map(|item| (labels(item), float(counters(item).active_flows)));
    out.gauge(&format!("{prefix}_active"), "Flows in the kernel's tables", Some("flows"), active)
}

/// Writes whole metric families; one without a value is left out, since not every reader takes it.
struct Writer<'a>(DescriptorEncoder<'a>);

impl Writer<'_> {
    fn counter(
        &mut self,
        name: &str,
        help: &str,
        unit: Option<&str>,
        values: impl IntoIterator<Item = (Labels, u64)>,
    ) -> fmt::Result {
        let mut values = values.into_iter().peekable();
        if values.peek().is_none() {
            return Ok(());
        }
        let unit = unit_of(unit);
        let mut family = self.0.encode_descriptor(name, help, unit.as_ref(), MetricType::Counter)?;
        for (labels, value) in values {
            ConstCounter::new(value).encode(family.encode_family(&labels)?)?;
        }
        Ok(())
    }

    fn gauge(
        &mut self,
        name: &str,
        help: &str,
        unit: Option<&str>,
        values: impl IntoIterator<Item = (Labels, f64)>,
    ) -> fmt::Result {
        let mut values = values.into_iter().peekable();
        if values.peek().is_none() {
            return Ok(());
        }
        let unit = unit_of(unit);
        let mut family = self.0.encode_descriptor(name, help, unit.as_ref(), MetricType::Gauge)?;
        for (labels, value) in values {
            ConstGauge::new(value).encode(family.encode_family(&labels)?)?;
        }
        Ok(())
    }

    fn info(&mut self, name: &str, help: &str, labels: &[(&str, &str)]) -> fmt::Result {
        self.0.encode_descriptor(name, help, None, MetricType::Info)?.encode_info(&labels)
    }
}

fn unit_of(name: Option<&str>) -> Option<Unit> {
    name.map(|name| Unit::Other(name.to_owned()))
}

fn seconds(time: jiff::Timestamp) -> f64 {
    time.as_duration().as_secs_f64()
}

fn truth(value: bool) -> f64 {
    f64::from(u8::from(value))
}

/// Exact up to 2^53, which no number of entries reaches.
fn float(value: u64) -> f64 {
    value as f64
}

fn count(value: usize) -> f64 {
    float(value as u64)
}
