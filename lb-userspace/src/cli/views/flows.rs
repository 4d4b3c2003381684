//! Flows.

use crate::{
    api::types::{FlowState, FlowView},
    cli::{
        table::{Table, Tone, or_dash},
        units::{bytes, count, duration},
    },
};

pub(crate) fn flows(flows: &[FlowView]) -> String {
    let mut table = Table::new(&[
        "SERVICE",
        "CLIENT",
        "VIP",
        "SOURCE",
        "TARGET",
        "STATE",
        "#AGE",
        "#IDLE",
        "#PACKETS IN",
        "#BYTES IN",
        "#PACKETS OUT",
        "#BYTES OUT",
    ]);
    for flow in flows {
        let target = match (&flow.group, &flow.target) {
            (Some(group), Some(target)) => format!("{group}/{target}"),
            _ => Tone::Faint.paint(flow.target_address.to_string()),
        };
        let state = match flow.state {
            FlowState::Established => Tone::Good.paint(flow.state.to_string()),
            FlowState::Handshake | FlowState::Unanswered => Tone::Warning.paint(flow.state.to_string()),
            FlowState::Closing | FlowState::TimeWait => Tone::Faint.paint(flow.state.to_string()),
        };
        table.row([
            or_dash(flow.service.clone()),
            flow.client.to_string(),
            format!("{} {}", flow.protocol, flow.vip),
            flow.source.to_string(),
            target,
            state,
            or_dash(flow.age_seconds.map(duration)),
            duration(flow.idle_seconds),
            count(flow.packets_in),
            bytes(flow.bytes_in),
            count(flow.packets_out),
            bytes(flow.bytes_out),
        ]);
    }
    table.render("no flows")
}
