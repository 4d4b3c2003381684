//! One node's state, with everything in it that a view can show.

use std::net::IpAddr;

use jiff::{SignedDuration, Timestamp};
use lb_userspace::api::{
    backend::Snapshot,
    types::{
        AdminState, AdminView, CheckRecord, Counts, DataPlane, DataPlaneState, Drift, DropView, DropsView,
        EstablishedFlows, Event, EventKind, FileState, FlowState, FlowView, GroupHealthCheck, GroupView,
        HealthView, InterfaceView, MapUsage, NextHop, OnAllDown, PacketOutcome, Protocol, Readiness,
        Revision, ServiceView, Status, TargetView, TrafficCounters, TransmitFailureView, Verdict,
        VerdictCount, Version, XdpAttachMode, XdpModeWanted,
    },
};

/// A moment in the past that tests may compare with.
pub(crate) fn moment() -> Timestamp {
    "2026-03-04T05:06:07Z".parse().unwrap()
}

pub(crate) fn version() -> Version {
    Version { version: "0.1.0".to_owned(), api: "v1".to_owned(), abi: 1 }
}

pub(crate) fn revision(number: u64) -> Revision {
    Revision {
        number,
        sha256: format!("{number:064x}"),
        applied_at: moment(),
        source: "/etc/portside/lb.yaml".to_owned(),
    }
}

pub(crate) fn snapshot() -> Snapshot {
    let services = vec![service("web", "10.0.0.10", 80, 1_234_567), service("web6", "fd00::10", 80, 7)];
    let targets = vec![up_target(), draining_target(), down_target()];
    Snapshot {
        status: status(),
        services,
        groups: vec![group()],
        targets,
        drops: DropsView {
            verdicts: vec![
                verdict("not_ours", PacketOutcome::Passed, "to no address of ours", 1000),
                verdict("transmitted", PacketOutcome::Forwarded, "forwarded", 2_469_134),
                verdict("access_denied", PacketOutcome::Dropped, "the source may not connect", 42),
                verdict("undeclared_port", PacketOutcome::Dropped, "no service has this port", 3),
            ],
            drops: vec![
                drop_view("access_denied", "the source may not connect: see the service's `allow`", 42),
                drop_view("undeclared_port", "no service has this port of the virtual address", 3),
                drop_view("flow_table_full", "no room for a new flow: raise limits.flows", 0),
            ],
            transmit_failures: vec![TransmitFailureView { interface: "eth0".to_owned(), packets: 5 }],
        },
    }
}

fn status() -> Status {
    Status {
        version: version(),
        node: "lb1".to_owned(),
        pid: 4242,
        started_at: moment(),
        uptime_seconds: 93_784.0,
        readiness: Readiness { ready: true, reasons: Vec::new() },
        revision: Some(revision(7)),
        file: Some(FileState { path: "/etc/portside/lb.yaml".to_owned(), differs: true, error: None }),
        interfaces: vec![InterfaceView {
            name: "eth0".to_owned(),
            index: 2,
            xdp_mode_wanted: XdpModeWanted::NativeOrGeneric,
            xdp_mode: Some(XdpAttachMode::Generic),
            reason: Some("the driver has no native XDP".to_owned()),
            program_id: Some(77),
            program_tag: Some("0123456789abcdef".to_owned()),
            adopted: true,
        }],
        data_plane: DataPlane {
            state: DataPlaneState::Drifted,
            generation: 3,
            epoch: 9,
            abi: 1,
            drift: vec![Drift {
                map: "services".to_owned(),
                detail: "service web is missing".to_owned(),
                since: moment(),
            }],
        },
        maps: vec![
            MapUsage {
                name: "flows4".to_owned(),
                used: Some(1500),
                max: 262_144,
                memory_bytes: Some(25_165_824),
            },
            MapUsage { name: "handshakes4".to_owned(), used: None, max: 65_536, memory_bytes: None },
        ],
        warnings: vec!["eth0 runs the program in generic mode".to_owned()],
        counts: Counts {
            services: 2,
            groups: 1,
            targets: 3,
            targets_up: 1,
            active_flows: 1500,
            held_flows: 1723,
        },
    }
}

fn service(name: &str, address: &str, port: u16, packets_in: u64) -> ServiceView {
    ServiceView {
        name: name.to_owned(),
        address: address.parse().unwrap(),
        protocol: Protocol::Tcp,
        port,
        group: "web".to_owned(),
        vip_interface: Some("eth0".to_owned()),
        in_kernel: true,
        targets_up: 1,
        targets_total: 3,
        all_down: false,
        counters: TrafficCounters {
            packets_in,
            bytes_in: packets_in * 100,
            packets_out: packets_in,
            bytes_out: packets_in * 1500,
            new_flows: packets_in / 10,
            active_flows: 1500,
        },
    }
}

fn group() -> GroupView {
    GroupView {
        name: "web".to_owned(),
        mode: "nat".to_owned(),
        services: vec!["web".to_owned(), "web6".to_owned()],
        targets_up: 1,
        targets_total: 3,
        all_down: false,
        on_all_down: OnAllDown::Reject,
        on_target_down_tcp: EstablishedFlows::Keep,
        on_target_down_udp: EstablishedFlows::End,
        drain_deadline_seconds: 300.0,
        table_slots: 65_537,
        health_check: Some(GroupHealthCheck {
            kind: "http".to_owned(),
            interval_seconds: 2.0,
            timeout_seconds: 1.0,
            rise: 2,
            fall: 3,
        }),
    }
}

fn up_target() -> TargetView {
    TargetView {
        group: "web".to_owned(),
        name: "a".to_owned(),
        address: "10.0.1.1".parse().unwrap(),
        port: 8080,
        zone: Some("z1".to_owned()),
        weight: 2,
        health: health(Verdict::Up, "200 OK", true),
        admin: ready(),
        next_hop: NextHop {
            resolved: true,
            reason: None,
            interface: Some("eth0".to_owned()),
            via: None,
            mac: Some("02:00:00:00:00:01".to_owned()),
            mtu: Some(1500),
        },
        takes_new_flows: true,
        as_if_up: false,
        why_not: None,
        table_slots: 65_537,
        counters: TrafficCounters {
            packets_in: 1000,
            bytes_in: 2048,
            packets_out: 900,
            bytes_out: 5_368_709_120,
            new_flows: 12,
            active_flows: 4,
        },
    }
}

fn draining_target() -> TargetView {
    let mut target = up_target();
    target.name = "10.0.1.2:8080".to_owned();
    target.address = IpAddr::from([10, 0, 1, 2]);
    target.zone = None;
    target.admin = AdminView {
        state: AdminState::Draining,
        since: moment(),
        deadline: Some(moment() + SignedDuration::from_secs(300)),
        remaining_flows: Some(9),
    };
    target.takes_new_flows = false;
    target.why_not = Some("draining".to_owned());
    target.table_slots = 0;
    target
}

fn down_target() -> TargetView {
    let mut target = up_target();
    target.name = "c".to_owned();
    target.address = IpAddr::from([10, 0, 1, 3]);
    target.zone = Some("z2".to_owned());
    target.health = health(Verdict::Down, "connection refused", false);
    target.takes_new_flows = false;
    target.why_not = Some("down".to_owned());
    target.table_slots = 0;
    target
}

fn ready() -> AdminView {
    AdminView { state: AdminState::Ready, since: moment(), deadline: None, remaining_flows: None }
}

pub(crate) fn health(verdict: Verdict, reason: &str, passed: bool) -> HealthView {
    HealthView {
        verdict,
        reason: reason.to_owned(),
        since: moment(),
        against: 0,
        last_check: Some(CheckRecord {
            at: moment(),
            passed,
            reason: reason.to_owned(),
            duration_seconds: 0.0125,
        }),
    }
}

fn verdict(name: &str, outcome: PacketOutcome, description: &str, packets: u64) -> VerdictCount {
    VerdictCount { verdict: name.to_owned(), outcome, description: description.to_owned(), packets }
}

fn drop_view(reason: &str, description: &str, packets: u64) -> DropView {
    DropView {
        reason: reason.to_owned(),
        description: description.to_owned(),
        packets,
        last_seen: (packets > 0).then(moment),
    }
}

/// Flows from 192.0.2.0 on, one address each, of alternating targets.
pub(crate) fn flows(count: u16) -> Vec<FlowView> {
    (0..count)
        .map(|number| FlowView {
            service: Some("web".to_owned()),
            group: Some("web".to_owned()),
            target: Some(if number % 2 == 0 { "a" } else { "c" }.to_owned()),
            protocol: Protocol::Tcp,
            client: format!("192.0.{}.{}:4000", 2 + number / 256, number % 256).parse().unwrap(),
            vip: "10.0.0.10:80".parse().unwrap(),
            source: format!("10.0.0.2:{}", 20_000 + number).parse().unwrap(),
            target_address: "10.0.1.1:8080".parse().unwrap(),
            state: if number == 0 { FlowState::Handshake } else { FlowState::Established },
            age_seconds: Some(3661.0),
            idle_seconds: 0.25,
            packets_in: 10,
            bytes_in: 1536,
            packets_out: 8,
            bytes_out: 10_485_760,
            epoch: 9,
        })
        .collect()
}

pub(crate) fn event(id: u64, kind: EventKind, subject: &str, message: &str) -> Event {
    Event { id, at: moment(), kind, subject: subject.to_owned(), message: message.to_owned() }
}
