//! Services, and what became of packets.

use jiff::Timestamp;

use crate::{
    api::types::{DropsView, PacketOutcome, ServiceView},
    cli::{
        table::{Table, Tone, or_dash},
        units::{bytes, count, since},
    },
};

pub(crate) fn services(services: &[ServiceView]) -> String {
    let mut table = Table::new(&[
        "SERVICE",
        "ADDRESS",
        "STATE",
        "GROUP",
        "#TAKING",
        "#ACTIVE",
        "#NEW",
        "#PACKETS IN",
        "#BYTES IN",
        "#PACKETS OUT",
        "#BYTES OUT",
    ]);
    for service in services {
        let counters = &service.counters;
        table.row([
            service.name.clone(),
            format!("{} {}", service.protocol, std::net::SocketAddr::new(service.address, service.port)),
            state(service),
            service.group.clone(),
            format!("{}/{}", service.targets_up, service.targets_total),
            count(counters.active_flows),
            count(counters.new_flows),
            count(counters.packets_in),
            bytes(counters.bytes_in),
            count(counters.packets_out),
            bytes(counters.bytes_out),
        ]);
    }
    table.render("no services: apply a configuration with `lbctl apply FILE`")
}

fn state(service: &ServiceView) -> String {
    if !service.in_kernel {
        Tone::Bad.paint("not in kernel")
    } else if service.all_down {
        Tone::Bad.paint("all down")
    } else if service.targets_up < service.targets_total {
        Tone::Warning.paint("degraded")
    } else {
        Tone::Good.paint("ok")
    }
}

/// Verdicts, reasons for drops, failures to leave; those without a packet only if asked for.
pub(crate) fn drops(drops: &DropsView, all: bool, now: Timestamp) -> String {
    let mut verdicts = Table::new(&["OUTCOME", "VERDICT", "#PACKETS", "MEANING"]);
    let told = drops.verdicts.iter().filter(|count| count.outcome != PacketOutcome::Dropped);
    for verdict in told.filter(|count| all || count.packets > 0) {
        verdicts.row([
            verdict.outcome.to_string(),
            verdict.verdict.clone(),
            count(verdict.packets),
            verdict.description.clone(),
        ]);
    }
    let mut reasons = Table::new(&["DROPPED FOR", "#PACKETS", "LAST", "MEANING"]);
    for reason in drops.drops.iter().filter(|reason| all || reason.packets > 0) {
        let packets = count(reason.packets);
        reasons.row([
            reason.reason.clone(),
            if reason.packets > 0 { Tone::Warning.paint(packets) } else { packets },
            or_dash(reason.last_seen.map(|last| format!("{} ago", since(last, now)))),
            reason.description.clone(),
        ]);
    }
    let mut failed = Table::new(&["NOT TRANSMITTED BY", "#PACKETS"]);
    for failure in drops.transmit_failures.iter().filter(|failure| all || failure.packets > 0) {
        failed.row([failure.interface.clone(), Tone::Bad.paint(count(failure.packets))]);
    }
    [
        verdicts.render("no packet was forwarded, passed or answered yet"),
        reasons.render("no packet was dropped"),
        failed.render("no packet failed to leave"),
    ]
    .join("\n")
}
