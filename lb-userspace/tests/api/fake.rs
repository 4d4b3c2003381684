//! An agent that keeps its state in memory and has no data plane.

use std::sync::{Mutex, MutexGuard, PoisonError};

use futures::future::BoxFuture;
use lb_userspace::api::{
    backend::{ApplyRequest, Backend, BackendError, EventFeed, Snapshot},
    types::{
        AdminState, AdminView, ApplyResult, ChangeKind, ConfigView, Event, EventKind, Fault, FlowQuery,
        FlowView, FlowsPage, HealthHistory, Readiness, ResourceChange, Revision, TargetState,
        TargetStateChange, TargetStateResult, TargetView, Transition, Verdict, Version,
    },
};
use tokio::sync::broadcast;

use crate::sample;

type Answer<'a, T> = BoxFuture<'a, Result<T, BackendError>>;

/// The state, and the switches by which a test makes the agent misbehave.
pub(crate) struct Fake {
    state: Mutex<State>,
    live: broadcast::Sender<Event>,
}

struct State {
    snapshot: Snapshot,
    text: String,
    flows: Vec<FlowView>,
    events: Vec<Event>,
    misbehave: Option<Misbehaviour>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Misbehaviour {
    /// Snapshots never come.
    Hang,
    /// Snapshots panic.
    Panic,
    /// Snapshots and changes fail with this.
    Fail(BackendError),
}

impl Fake {
    pub(crate) fn new() -> Self {
        Self {
            state: Mutex::new(State {
                snapshot: sample::snapshot(),
                text: "interfaces: [eth0]\n".to_owned(),
                flows: sample::flows(250),
                events: vec![
                    sample::event(1, EventKind::Agent, "lbd", "lbd 0.1.0 started"),
                    sample::event(2, EventKind::TargetUp, "web/a", "up: 200 OK"),
                    sample::event(3, EventKind::TargetDown, "web/c", "down: connection refused"),
                ],
                misbehave: None,
            }),
            live: broadcast::channel(4).0,
        }
    }

    pub(crate) fn misbehave(&self, how: Option<Misbehaviour>) {
        self.state().misbehave = how;
    }

    pub(crate) fn change(&self, change: impl FnOnce(&mut Snapshot)) {
        change(&mut self.state().snapshot);
    }

    pub(crate) fn show_flows(&self, flows: Vec<FlowView>) {
        self.state().flows = flows;
    }

    /// Lets an event happen.
    pub(crate) fn happen(&self, kind: EventKind, subject: &str, message: &str) {
        let mut state = self.state();
        let id = state.events.last().map_or(1, |event| event.id + 1);
        let event = sample::event(id, kind, subject, message);
        state.events.push(event.clone());
        // Nobody need be listening.
        let _ = self.live.send(event);
    }

    pub(crate) fn followers(&self) -> usize {
        self.live.receiver_count()
    }

    pub(crate) fn target(&self, group: &str, name: &str) -> Option<TargetView> {
        let state = self.state();
        state.snapshot.targets.iter().find(|t| t.group == group && t.name == name).cloned()
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn in_force(&self) -> Revision {
        self.state().snapshot.status.revision.clone().unwrap()
    }

    async fn behave(&self) -> Result<(), BackendError> {
        let how = self.state().misbehave.clone();
        match how {
            None => Ok(()),
            Some(Misbehaviour::Fail(error)) => Err(error),
            Some(Misbehaviour::Panic) => panic!("told to"),
            Some(Misbehaviour::Hang) => std::future::pending().await,
        }
    }
}

impl Backend for Fake {
    fn version(&self) -> Version {
        sample::version()
    }

    fn readiness(&self) -> Readiness {
        self.state().snapshot.status.readiness.clone()
    }

    fn snapshot(&self) -> Answer<'_, Snapshot> {
        Box::pin(async {
            self.behave().await?;
            Ok(self.state().snapshot.clone())
        })
    }

    fn flows(&self, query: FlowQuery) -> Answer<'_, FlowsPage> {
        Box::pin(async move {
            let snapshot = self.state().snapshot.clone();
            let services: Vec<&str> = snapshot.services.iter().map(|service| service.name.as_str()).collect();
            let mut groups: Vec<(&str, Vec<&str>)> =
                snapshot.groups.iter().map(|group| (group.name.as_str(), Vec::new())).collect();
            for (group, targets) in &mut groups {
                let of_group = snapshot.targets.iter().filter(|target| target.group == *group);
                targets.extend(of_group.map(|target| target.name.as_str()));
            }
            if let Some((what, name)) = query.misnamed(&services, &groups) {
                return Err(BackendError::NotFound { what, name });
            }
            let from = match query.cursor.as_deref() {
                None => 0,
                Some(cursor) => cursor.parse().map_err(|_| {
                    BackendError::Invalid(format!("`{cursor}` is not a cursor of this agent"))
                })?,
            };
            let all: Vec<_> = self.state().flows.iter().filter(|flow| query.matches(flow)).cloned().collect();
            let to = (from + query.page_size()).min(all.len());
            Ok(FlowsPage {
                flows: all[from.min(to)..to].to_vec(),
                next: (to < all.len()).then(|| to.to_string()),
            })
        })
    }

    fn health(&self, group: String, target: String) -> Answer<'_, HealthHistory> {
        Box::pin(async move {
            let found = self.target(&group, &target).ok_or_else(|| no_target(&group, &target))?;
            let check = found.health.last_check.clone().unwrap();
            let transition = Transition {
                at: sample::moment(),
                from: Verdict::Checking,
                to: found.health.verdict,
                reason: check.reason.clone(),
            };
            Ok(HealthHistory {
                group,
                target,
                health: found.health,
                checks: vec![check],
                transitions: vec![transition],
            })
        })
    }

    fn set_target_state(
        &self,
        group: String,
        target: String,
        change: TargetStateChange,
    ) -> Answer<'_, TargetStateResult> {
        Box::pin(async move {
            self.behave().await?;
            let mut state = self.state();
            let found = state.snapshot.targets.iter_mut().find(|t| t.group == group && t.name == target);
            let found = found.ok_or_else(|| no_target(&group, &target))?;
            let wanted = match change.state {
                TargetState::Ready => AdminState::Ready,
                TargetState::Drain => AdminState::Draining,
                TargetState::Maintenance => AdminState::Maintenance,
            };
            let changed = found.admin.state != wanted;
            let draining = wanted == AdminState::Draining;
            let seconds = change.deadline_seconds.unwrap_or(300.0);
            let deadline = jiff::SignedDuration::try_from_secs_f64(seconds).unwrap();
            found.admin = AdminView {
                state: wanted,
                since: sample::moment(),
                deadline: draining.then(|| sample::moment() + deadline),
                remaining_flows: draining.then_some(4),
            };
            found.takes_new_flows = wanted == AdminState::Ready && found.health.verdict == Verdict::Up;
            Ok(TargetStateResult { changed, target: found.clone() })
        })
    }

    fn configuration(&self) -> Answer<'_, ConfigView> {
        Box::pin(async { Ok(ConfigView { revision: self.in_force(), text: self.state().text.clone() }) })
    }

    /// Refuses every text with `fault` in it; any other that differs adds a service, unless it has a comment.
    fn apply(&self, request: ApplyRequest) -> Answer<'_, ApplyResult> {
        Box::pin(async move {
            self.behave().await?;
            let current = self.in_force();
            if let Some(expected) = request.if_revision.filter(|expected| *expected != current.number) {
                return Err(BackendError::RevisionDiffers { expected, current: current.number });
            }
            if request.text.contains("fault") {
                return Err(BackendError::Faults(faults()));
            }
            let mut state = self.state();
            let same = request.text == state.text;
            let changes = if same || request.text.contains('#') { Vec::new() } else { changes() };
            let mut revision = current;
            let new_revision = !request.dry_run && !same;
            if new_revision {
                revision = Revision { source: request.source, ..sample::revision(revision.number + 1) };
                state.snapshot.status.revision = Some(revision.clone());
                state.text = request.text;
            }
            let warnings = vec!["limits.flows takes effect when the maps are made anew".to_owned()];
            Ok(ApplyResult {
                revision: Some(revision),
                dry_run: request.dry_run,
                new_revision,
                changes,
                warnings,
            })
        })
    }

    fn configuration_schema(&self) -> serde_json::Value {
        serde_json::json!({ "$schema": "https://json-schema.org/draft/2020-12/schema", "type": "object" })
    }

    fn events(&self, after: Option<u64>) -> EventFeed {
        let state = self.state();
        let newest = state.events.last().map_or(0, |event| event.id);
        let after = after.filter(|after| *after <= newest).unwrap_or(0);
        EventFeed {
            backlog: state.events.iter().filter(|event| event.id > after).cloned().collect(),
            live: self.live.subscribe(),
        }
    }
}

fn no_target(group: &str, target: &str) -> BackendError {
    BackendError::NotFound { what: "target", name: format!("{group}/{target}") }
}

pub(crate) fn faults() -> Vec<Fault> {
    vec![
        Fault {
            path: "services[0].port".to_owned(),
            line: Some(3),
            column: Some(11),
            message: "70000 is not a port".to_owned(),
            hint: Some("give a number from 1 to 65535".to_owned()),
        },
        Fault {
            path: String::new(),
            line: None,
            column: None,
            message: "there is no interface".to_owned(),
            hint: None,
        },
    ]
}

fn changes() -> Vec<ResourceChange> {
    vec![
        ResourceChange {
            change: ChangeKind::Added,
            subject: "service new".to_owned(),
            detail: String::new(),
        },
        ResourceChange {
            change: ChangeKind::Changed,
            subject: "target web/a".to_owned(),
            detail: "weight 2 → 3".to_owned(),
        },
    ]
}
