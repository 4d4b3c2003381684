//! What the API shows of the core and the data plane.

use std::collections::BTreeMap;

use jiff::Timestamp;
use lb_common::{
    abi::{self, Counters, NONE},
    verdict::{Outcome, Verdict as PacketVerdict},
};

use super::{backend::version, engine::Engine};
use crate::{
    api::{
        backend::{BackendError, Snapshot},
        types::{
            AdminState, AdminView, CheckRecord, Counts, DataPlane, DataPlaneState, Drift, DropView,
            DropsView, FileState, GroupHealthCheck, GroupView, HealthHistory, HealthView, InterfaceView,
            MapUsage, NextHop, PacketOutcome, ServiceView, Status, TargetView, TrafficCounters, Transition,
            TransmitFailureView, Verdict, VerdictCount, XdpAttachMode, XdpModeWanted,
        },
    },
    config::model::{Probe, TargetGroup, VipPlacement, XdpMode},
    core::{
        Admin, GroupState, TargetState,
        health::{self, Check, Health},
    },
    dataplane::{DataPlane as _, WriteError, kernel::AttachMode},
};

impl Engine {
    pub(super) fn snapshot(&mut self) -> Result<Snapshot, BackendError> {
        tokio::task::block_in_place(|| {
            let counters = self.plane.counters()?;
            self.note_verdicts(&counters.verdicts);
            self.core.see_counters(counters);
            let slots = self.slots_in_kernel()?;
            let targets = self
                .core
                .groups()
                .flat_map(|(group, state)| state.targets.iter().map(move |target| (group, state, target)))
                .map(|(group, state, target)| self.view_target(group, state, target, &slots))
                .collect();
            let groups = self.core.groups().map(|(group, state)| self.view_group(group, state)).collect();
            Ok(Snapshot {
                status: self.status()?,
                services: self.view_services()?,
                groups,
                targets,
                drops: self.view_drops(),
            })
        })
        .map_err(|error: WriteError| {
            BackendError::Failed(format!("the kernel's maps cannot be read: {error}"))
        })
    }

    /// Slots of each target in the kernel's lookup tables.
    fn slots_in_kernel(&self) -> Result<BTreeMap<(u32, u32), u32>, WriteError> {
        let mut slots = BTreeMap::new();
        for table in self.core.groups().filter_map(|(_, state)| state.table) {
            for row in self.plane.table(table)? {
                if row != NONE {
                    *slots.entry((table, row)).or_default() += 1;
                }
            }
        }
        Ok(slots)
    }

    pub(super) fn target_view(&self, group: &str, target: &str) -> Option<TargetView> {
        let (config, state, target) = self.core.target(group, target)?;
        let slots = tokio::task::block_in_place(|| self.slots_in_kernel()).ok()?;
        Some(self.view_target(config, state, target, &slots))
    }

    fn view_target(
        &self,
        group: &TargetGroup,
        state: &GroupState,
        target: &TargetState,
        slots: &BTreeMap<(u32, u32), u32>,
    ) -> TargetView {
        let counters = traffic(self.core.target_counters(target));
        let why_not = state.why_not(target);
        let key = (state.table.unwrap_or(u32::MAX), target.held.row);
        TargetView {
            group: group.name.clone(),
            name: target.config.name.clone(),
            address: target.config.address,
            port: target.config.port,
            zone: target.config.zone.clone(),
            weight: target.config.weight,
            health: self.view_health(target),
            admin: view_admin(target.admin, counters.active_flows),
            next_hop: self.view_next_hop(target),
            takes_new_flows: why_not.is_none(),
            as_if_up: why_not.is_none() && state.open,
            why_not: why_not.map(|why| why.to_string()),
            table_slots: slots.get(&key).copied().unwrap_or(0),
            counters,
        }
    }

    fn view_health(&self, target: &TargetState) -> HealthView {
        let Some(health) = &target.health else {
            let (verdict, reason) = match target.admin {
                Admin::Maintenance { .. } => (Verdict::Unchecked, "not checked in maintenance"),
                _ => (Verdict::Up, "the group has no check"),
            };
            return HealthView {
                verdict,
                reason: reason.to_owned(),
                since: target.admin.since(),
                against: 0,
                last_check: None,
            };
        };
        HealthView {
            verdict: view_verdict(health.verdict()),
            reason: reason(health),
            since: self.core.wall(health.since()),
            against: health.contrary().0,
            last_check: health.history().next_back().map(|check| self.view_check(check)),
        }
    }

    fn view_check(&self, check: &Check) -> CheckRecord {
        CheckRecord {
            at: self.core.wall(check.at + check.took),
            passed: check.outcome.is_ok(),
            reason: check
                .outcome
                .as_ref()
                .map_or_else(ToString::to_string, |()| "answered as expected".to_owned()),
            duration_seconds: check.took.as_secs_f64(),
        }
    }

    pub(super) fn health_history(&self, group: &str, target: &str) -> Result<HealthHistory, BackendError> {
        let Some((_, _, state)) = self.core.target(group, target) else {
            return Err(self.no_target(group, target));
        };
        let transition = |(at, transition): &(health::Time, health::Transition)| Transition {
            at: self.core.wall(*at),
            from: view_verdict(transition.from),
            to: view_verdict(transition.to),
            reason: transition
                .reason
                .as_ref()
                .map_or_else(|| "answers as expected".to_owned(), ToString::to_string),
        };
        Ok(HealthHistory {
            group: group.to_owned(),
            target: target.to_owned(),
            health: self.view_health(state),
            checks: state.health.iter().flat_map(|h| h.history().rev()).map(|c| self.view_check(c)).collect(),
            transitions: state.transitions.iter().rev().map(transition).collect(),
        })
    }

    fn view_next_hop(&self, target: &TargetState) -> NextHop {
        match &target.hop {
            Err(reason) => NextHop {
                resolved: false,
                reason: Some(reason.clone()),
                interface: None,
                via: None,
                mac: None,
                mtu: None,
            },
            Ok(hop) => NextHop {
                resolved: true,
                reason: None,
                interface: self.watch.current().interface(hop.next_hop.ifindex).map(|i| i.name.clone()),
                via: hop.gateway,
                mac: Some(hop.next_hop.destination.map(|byte| format!("{byte:02x}")).join(":")),
                mtu: Some(hop.next_hop.mtu),
            },
        }
    }

    fn view_group(&self, group: &TargetGroup, state: &GroupState) -> GroupView {
        let config = self.core.config();
        let services = config.iter().flat_map(|config| &config.services);
        GroupView {
            name: group.name.clone(),
            mode: "nat".to_owned(),
            services: services
                .filter(|service| service.group == group.name)
                .map(|service| service.name.clone())
                .collect(),
            targets_up: up(state),
            targets_total: state.targets.len() as u32,
            all_down: up(state) == 0,
            on_all_down: group.on_all_down,
            on_target_down_tcp: group.on_target_down.tcp,
            on_target_down_udp: group.on_target_down.udp,
            drain_deadline_seconds: group.drain_deadline.as_secs_f64(),
            table_slots: group.table_slots,
            health_check: group.health.as_ref().map(|check| GroupHealthCheck {
                kind: match check.probe {
                    Probe::Tcp => "tcp",
                    Probe::Http(_) => "http",
                    Probe::Https { .. } => "https",
                }
                .to_owned(),
                interval_seconds: check.interval.as_secs_f64(),
                timeout_seconds: check.timeout.as_secs_f64(),
                rise: check.rise,
                fall: check.fall,
            }),
        }
    }

    fn view_services(&self) -> Result<Vec<ServiceView>, WriteError> {
        let Some(config) = self.core.config() else { return Ok(Vec::new()) };
        let in_kernel = self.plane.contents()?.services;
        let groups: BTreeMap<&str, &GroupState> =
            self.core.groups().map(|(group, state)| (group.name.as_str(), state)).collect();
        let on_interface = config.vip_placement == VipPlacement::Interface;
        Ok(config
            .services
            .iter()
            .map(|service| {
                let group = groups.get(service.group.as_str());
                let targets_up = group.map_or(0, |group| up(group));
                let protocol = match service.protocol {
                    crate::config::model::Protocol::Tcp => abi::TCP,
                    crate::config::model::Protocol::Udp => abi::UDP,
                };
                ServiceView {
                    name: service.name.clone(),
                    address: service.address,
                    protocol: service.protocol,
                    port: service.port,
                    group: service.group.clone(),
                    vip_interface: config.interfaces.first().filter(|_| on_interface).cloned(),
                    in_kernel: in_kernel.iter().any(|row| {
                        (row.address, row.port, row.protocol) == (service.address, service.port, protocol)
                    }),
                    targets_up,
                    targets_total: group.map_or(0, |group| group.targets.len() as u32),
                    all_down: targets_up == 0,
                    counters: traffic(self.core.service_counters(&service.name)),
                }
            })
            .collect())
    }

    fn view_drops(&self) -> DropsView {
        let counters = self.core.counters();
        let count = |verdict: PacketVerdict| counters.verdicts.get(verdict as usize).copied().unwrap_or(0);
        let state = self.watch.current();
        DropsView {
            verdicts: PacketVerdict::ALL
                .into_iter()
                .map(|verdict| VerdictCount {
                    verdict: verdict.name().to_owned(),
                    outcome: match verdict.outcome() {
                        Outcome::Passed => PacketOutcome::Passed,
                        Outcome::Forwarded => PacketOutcome::Forwarded,
                        Outcome::Answered => PacketOutcome::Answered,
                        Outcome::Dropped => PacketOutcome::Dropped,
                    },
                    description: verdict.description().to_owned(),
                    packets: count(verdict),
                })
                .collect(),
            drops: PacketVerdict::ALL
                .into_iter()
                .filter(|verdict| verdict.outcome() == Outcome::Dropped)
                .map(|verdict| DropView {
                    reason: verdict.name().to_owned(),
                    description: verdict.description().to_owned(),
                    packets: count(verdict),
                    last_seen: self.verdicts_seen.get(&(verdict as usize)).copied(),
                })
                .collect(),
            transmit_failures: counters
                .transmit_failed
                .iter()
                .map(|(index, packets)| TransmitFailureView {
                    interface: state.interface(*index).map_or_else(|| index.to_string(), |i| i.name.clone()),
                    packets: *packets,
                })
                .collect(),
        }
    }

    fn status(&self) -> Result<Status, WriteError> {
        let control = self.plane.control()?;
        let drift: Vec<Drift> = self
            .core
            .differences()
            .iter()
            .map(|found| Drift { map: found.map.clone(), detail: found.detail.clone(), since: found.since })
            .collect();
        let state = match (self.core.is_sure(), drift.is_empty()) {
            (true, true) => DataPlaneState::InSync,
            _ => DataPlaneState::Drifted,
        };
        let held_flows = self.plane.flow_counts()?.iter().sum();
        Ok(Status {
            version: version(),
            node: nix::unistd::gethostname()
                .map(|name| name.to_string_lossy().into_owned())
                .unwrap_or_default(),
            pid: std::process::id(),
            started_at: self.started_at,
            uptime_seconds: self.now().as_secs_f64(),
            readiness: self.readiness_now(),
            revision: self.revision_view(),
            file: self.file_state(),
            interfaces: self.view_interfaces(),
            data_plane: DataPlane {
                state,
                generation: control.generation,
                epoch: control.epoch,
                abi: abi::VERSION,
                drift,
            },
            maps: self
                .plane
                .usage()?
                .into_iter()
                .map(|map| MapUsage {
                    name: map.name,
                    used: Some(map.used),
                    max: map.limit,
                    memory_bytes: Some(map.bytes).filter(|bytes| *bytes > 0),
                })
                .collect(),
            warnings: self.all_warnings(),
            counts: Counts {
                services: self.core.config().map_or(0, |config| config.services.len() as u32),
                groups: self.core.groups().count() as u32,
                targets: self.core.groups().map(|(_, state)| state.targets.len() as u32).sum(),
                targets_up: self.core.groups().map(|(_, state)| up(state)).sum(),
                active_flows: self.core.counters().targets.iter().map(|row| traffic(*row).active_flows).sum(),
                held_flows,
            },
        })
    }

    fn file_state(&self) -> Option<FileState> {
        let file = self.file.as_ref()?;
        let path = file.display().to_string();
        let compared = self.revisions.current()?.differs_from(file);
        Some(match compared {
            Ok(differs) => FileState { path, differs, error: None },
            Err(error) => FileState { path, differs: true, error: Some(error) },
        })
    }

    fn view_interfaces(&self) -> Vec<InterfaceView> {
        let Some(config) = self.core.config() else { return Vec::new() };
        let state = self.watch.current();
        let view = |name: &String| {
            let attached = self.plane.attachments().iter().find(|attachment| attachment.interface == *name);
            let generic = attached.is_some_and(|attached| attached.mode == AttachMode::Generic);
            let fell_back = generic && config.xdp_mode == XdpMode::NativeOrGeneric;
            let reason = match attached {
                None => Some(
                    self.failures.get("attach").cloned().unwrap_or_else(|| "not attached yet".to_owned()),
                ),
                Some(_) if fell_back => Some(self.fall_back(name)),
                Some(_) => None,
            };
            InterfaceView {
                name: name.clone(),
                index: state.interface_named(name).map_or(0, |interface| interface.index),
                xdp_mode_wanted: match config.xdp_mode {
                    XdpMode::Native => XdpModeWanted::Native,
                    XdpMode::NativeOrGeneric => XdpModeWanted::NativeOrGeneric,
                    XdpMode::Generic => XdpModeWanted::Generic,
                },
                xdp_mode: attached.map(|attached| match attached.mode {
                    AttachMode::Native => XdpAttachMode::Native,
                    AttachMode::Generic => XdpAttachMode::Generic,
                }),
                reason,
                program_id: attached.map(|attached| attached.program_id),
                program_tag: attached.map(|attached| attached.program_tag.clone()),
                adopted: attached.is_some() && self.found_attached.contains(name),
            }
        };
        config.interfaces.iter().map(view).collect()
    }

    /// Why an interface has the slower mode.
    fn fall_back(&self, interface: &str) -> String {
        let told = self.plane.warnings().iter().find(|warning| warning.contains(interface));
        told.cloned().unwrap_or_else(|| "the driver does not take the program in native mode".to_owned())
    }
}

fn up(state: &GroupState) -> u32 {
    state.targets.iter().filter(|target| target.why_not().is_none()).count() as u32
}

fn traffic(counters: Counters) -> TrafficCounters {
    TrafficCounters {
        packets_in: counters.packets_in,
        bytes_in: counters.bytes_in,
        packets_out: counters.packets_out,
        bytes_out: counters.bytes_out,
        new_flows: counters.opened,
        active_flows: counters.opened.saturating_sub(counters.closed),
    }
}

fn view_verdict(verdict: health::Verdict) -> Verdict {
    match verdict {
        health::Verdict::Up => Verdict::Up,
        health::Verdict::Down => Verdict::Down,
        health::Verdict::Unknown => Verdict::Checking,
    }
}

fn reason(health: &Health) -> String {
    match (health.reason(), health.verdict()) {
        (Some(reason), _) => reason.to_string(),
        (None, health::Verdict::Unknown) => "not checked yet".to_owned(),
        (None, _) => "answers as expected".to_owned(),
    }
}

fn view_admin(admin: Admin, flows: u64) -> AdminView {
    let (state, deadline): (_, Option<Timestamp>) = match admin {
        Admin::Ready { .. } => (AdminState::Ready, None),
        Admin::Maintenance { .. } => (AdminState::Maintenance, None),
        Admin::Drain { deadline, ended, .. } => {
            let drained = ended.is_some() && flows == 0;
            (if drained { AdminState::Drained } else { AdminState::Draining }, Some(deadline))
        }
    };
    let remaining_flows = deadline.map(|_| flows);
    AdminView { state, since: admin.since(), deadline, remaining_flows }
}
