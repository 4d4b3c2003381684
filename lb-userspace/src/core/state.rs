//! The core's state, and what each event does to it.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
    sync::Arc,
    time::Duration,
};

use ipnet::IpNet;
use jiff::Timestamp;
use lb_common::abi::{NextHop, Target};

use super::{
    desired::destinations,
    diff::diff,
    event::{Command, Difference, Event, Facts, Notice, Sizes},
    health::{Check, CheckId, Time, Verdict},
    image::Image,
    rows::Rows,
    saved::{SavedAdmin, SavedRows},
    target::{Admin, TargetState},
    view::GroupState,
};
use crate::{api::types::EventKind, config::model::Config, dataplane::CounterSnapshot};

/// Time between a failed write and the next try.
pub(super) const RETRY: Duration = Duration::from_secs(1);

/// Everything that decisions are made from.
#[derive(Debug, Clone)]
pub struct Core {
    pub(super) now: Time,
    /// The wall clock at time zero.
    pub(super) wall: Timestamp,
    pub(super) sizes: Sizes,
    pub(super) config: Option<Arc<Config>>,
    /// In the configuration's order.
    pub(super) groups: Vec<GroupState>,
    pub(super) services: Rows,
    pub(super) targets: Rows,
    /// Rows of next hops towards clients, by interface and neighbour.
    pub(super) routes: Rows,
    pub(super) route_hops: BTreeMap<u32, NextHop>,
    pub(super) client_routes: BTreeMap<IpNet, u32>,
    /// Rows of removed targets that flows may still name.
    pub(super) retired: BTreeMap<u32, (IpAddr, Target)>,
    pub(super) sources: Vec<IpAddr>,
    pub(super) retired_sources: BTreeSet<IpAddr>,
    pub(super) facts: Arc<Facts>,
    pub(super) counters: CounterSnapshot,
    /// When they were read.
    pub(super) counted_at: Option<Time>,
    pub(super) lives: u64,
    pub(super) awaited: BTreeMap<u64, (usize, usize)>,
    /// What the kernel is believed to hold.
    pub(super) have: Image,
    /// Whether that belief is sound.
    pub(super) sure: bool,
    pub(super) retry_at: Time,
    pub(super) read_at: Time,
    pub(super) differences: Vec<Difference>,
    /// Targets in the tables found at the start: up until checked.
    pub(super) seeds: BTreeSet<u32>,
    pub(super) admin: SavedAdmin,
    /// Whether `admin` is kept, as far as is known.
    pub(super) admin_saved: bool,
    pub(super) saved_rows: Option<SavedRows>,
    pub(super) unconfirmed: Option<Unconfirmed>,
    pub(super) routes_full: bool,
}

/// An apply whose writes have not been confirmed yet.
#[derive(Debug, Clone)]
pub(super) struct Unconfirmed {
    /// The state before.
    pub(super) before: Box<Core>,
    /// What is to be done once it is in force.
    pub(super) then: Vec<Command>,
}

impl Core {
    /// Takes in what has happened by `now` and says what is to be done.
    ///
    /// Commands are carried out in their order. [`Command::Write`] is the last one of an answer, and its outcome is the
    /// next event.
    #[must_use]
    pub fn handle(&mut self, now: Time, event: Event) -> Vec<Command> {
        self.now = self.now.max(now);
        let mut out = Vec::new();
        match event {
            Event::Apply { config, facts } => self.apply(&config, facts, &mut out),
            Event::Probed { check, result } => self.probed(check, result, &mut out),
            Event::Network(facts) => self.network(facts, &mut out),
            Event::SetTargetState { group, target, state, deadline } => {
                self.set_target_state(&group, &target, state, deadline, &mut out);
            }
            Event::Counters(counters) => {
                self.counters = counters;
                self.counted_at = Some(self.now);
                self.settle(&mut out);
            }
            Event::ReadBack(kernel) => self.read_back(&kernel, &mut out),
            Event::Tick => self.tick(&mut out),
            Event::AdminNotSaved => self.admin_saved = false,
            Event::Written => out.extend(self.unconfirmed.take().into_iter().flat_map(|apply| apply.then)),
            Event::WriteFailed { error, control } => self.write_failed(&error, control, &mut out),
        }
        out
    }

    /// Brings the kernel to what it should hold.
    pub(super) fn reconcile(&mut self, out: &mut Vec<Command>) {
        self.refresh_tables();
        self.announce_all_down(out);
        if !self.sure || self.config.is_none() {
            return;
        }
        let want = self.desired();
        let writes = diff(&self.have, &want);
        if writes.is_empty() {
            return;
        }
        let mut pending = None;
        for write in &writes {
            self.have.change(write, &mut pending);
        }
        // The same but for tables no longer in force; shares the tables' content.
        self.have = Image { control: self.have.control, ..want };
        out.push(Command::Write(writes));
    }

    pub(super) fn save_rows(&mut self, out: &mut Vec<Command>) {
        let rows = SavedRows {
            services: self.services.clone(),
            targets: self.targets.clone(),
            sources: self.sources.clone(),
            retired_sources: self.retired_sources.clone(),
        };
        if self.saved_rows.as_ref() != Some(&rows) {
            self.saved_rows = Some(rows.clone());
            out.push(Command::SaveRows(rows));
        }
    }

    pub(super) fn save_admin(&mut self, out: &mut Vec<Command>) {
        let mut admin = SavedAdmin::new();
        for (group, state) in self.groups() {
            for target in state.targets.iter().filter(|target| !target.admin.is_ready()) {
                let targets = admin.entry(group.name.clone()).or_default();
                targets.insert(target.config.name.clone(), target.admin);
            }
        }
        if self.admin != admin || !self.admin_saved {
            self.admin = admin.clone();
            self.admin_saved = true;
            out.push(Command::SaveAdmin(admin));
        }
    }

    fn probed(&mut self, check: CheckId, result: Check, out: &mut Vec<Command>) {
        let now = self.now;
        let Some(&(group, target)) = self.awaited.get(&check.incarnation) else { return };
        let Some(config) = self.config.clone() else { return };
        let Some(state) = self.groups.get_mut(group).and_then(|group| group.targets.get_mut(target)) else {
            return;
        };
        let Some(step) = state.health.as_mut().and_then(|health| health.probed(check, result, now)) else {
            return;
        };
        let Some(transition) = step.transition else {
            out.push(Command::Probe(step.next));
            return;
        };
        state.remember(now, transition.clone());
        let subject = format!("{}/{}", config.groups[group].name, state.config.name);
        let (kind, message) = match (&transition.reason, transition.to) {
            (_, Verdict::Up) => (EventKind::TargetUp, "up: it answers its checks".to_owned()),
            (Some(reason), _) => (EventKind::TargetDown, format!("down: {reason}")),
            (None, _) => (EventKind::TargetDown, "down".to_owned()),
        };
        out.push(notify(kind, subject, message));
        out.push(Command::Probe(step.next));
        self.reconcile(out);
    }

    pub(super) fn network(&mut self, facts: Arc<Facts>, out: &mut Vec<Command>) {
        if *self.facts == *facts {
            return;
        }
        self.take_facts(facts, out);
        self.reconcile(out);
    }

    /// What the network says, for targets and routes to clients.
    pub(super) fn take_facts(&mut self, facts: Arc<Facts>, out: &mut Vec<Command>) {
        self.facts = facts;
        let config = self.config.clone();
        let names = config.iter().flat_map(|config| &config.groups).map(|group| group.name.as_str());
        for (group, state) in names.zip(&mut self.groups) {
            for target in &mut state.targets {
                let hop = hop_to(&self.facts, target.config.address);
                let subject = || format!("{group}/{}", target.config.name);
                match (&target.hop, &hop) {
                    (Ok(_), Err(reason)) => {
                        out.push(notify(EventKind::NextHop, subject(), format!("next hop lost: {reason}")));
                    }
                    (Err(_), Ok(_)) => {
                        out.push(notify(EventKind::NextHop, subject(), "next hop found".to_owned()));
                    }
                    _ => {}
                }
                target.hop = hop;
            }
        }
        self.take_client_routes(out);
    }

    fn announce_all_down(&mut self, out: &mut Vec<Command>) {
        let Some(config) = self.config.clone() else { return };
        for (group, state) in config.groups.iter().zip(&mut self.groups) {
            let reasons: BTreeSet<String> =
                state.targets.iter().filter_map(TargetState::why_not).map(|why| why.to_string()).collect();
            let none = state.targets.iter().all(|target| target.why_not().is_some());
            // A group whose targets are being checked for the first time is not down yet.
            let settled =
                !state.targets.iter().any(|target| target.why_not() == Some(super::WhyNot::Checking));
            if none && settled && !state.all_down {
                state.all_down = true;
                let reasons: Vec<_> = reasons.into_iter().collect();
                let choice = match group.on_all_down {
                    crate::config::model::OnAllDown::Reject => "new flows are rejected",
                    crate::config::model::OnAllDown::Drop => "new flows are dropped",
                    crate::config::model::OnAllDown::Open => "new flows go to targets as if they were up",
                };
                let message = format!("no target takes new flows ({}): {choice}", reasons.join("; "));
                out.push(notify(EventKind::AllDown, group.name.clone(), message));
            } else if !none && state.all_down {
                state.all_down = false;
                let up = state.targets.iter().filter(|target| target.why_not().is_none()).count();
                let message = format!("{up} of {} targets take new flows again", state.targets.len());
                out.push(notify(EventKind::Recovered, group.name.clone(), message));
            }
        }
    }

    /// Keeps track of which life belongs to which target.
    pub(super) fn index_lives(&mut self) {
        self.awaited.clear();
        for (g, group) in self.groups.iter().enumerate() {
            for (t, target) in group.targets.iter().enumerate().filter(|(_, target)| target.health.is_some())
            {
                self.awaited.insert(target.life, (g, t));
            }
        }
    }

    pub(super) fn keep_warm(&self, out: &mut Vec<Command>) {
        out.push(Command::KeepWarm(destinations(self)));
    }

    pub(super) fn today(&self) -> Timestamp {
        self.wall(self.now)
    }

    pub(super) fn ready_since(&self) -> Admin {
        Admin::Ready { since: self.today() }
    }
}

pub(super) fn hop_to(facts: &Facts, address: IpAddr) -> Result<super::Hop, String> {
    match facts.targets.get(&address) {
        Some(Ok(hop)) if hop.next_hop.ifindex == 0 => Err("the interface is not known".to_owned()),
        Some(found) => found.clone(),
        None => Err("not looked up yet".to_owned()),
    }
}

pub(super) fn notify(kind: EventKind, subject: String, message: String) -> Command {
    Command::Notify(Notice { kind, subject, message })
}
