//! The task that owns the control core and the data plane.

use std::{collections::BTreeMap, path::PathBuf, sync::Arc, time::Duration};

use jiff::Timestamp;
use tokio::{
    sync::{mpsc, oneshot, watch},
    time::{Instant, MissedTickBehavior, interval},
};
use tokio_util::sync::CancellationToken;

use super::{checks::ReadyChecks, events::EventLog, network, vips::VipKeeper};
use crate::{
    api::{
        backend::{ApplyRequest, BackendError, Snapshot},
        types::{
            ApplyResult, ConfigView, EventKind, FlowQuery, FlowsPage, HealthHistory, Readiness,
            TargetStateChange, TargetStateResult,
        },
    },
    config::{revision::Revisions, state::Kept},
    core::{Core, Event, Notice, SavedAdmin, SavedRows},
    dataplane::{DataPlane as _, kernel::KernelDataPlane},
    health::{self, Report},
    net::{NetState, PortSet, Warmer, Watch},
};

/// Time between two sweeps of expired flows.
const SWEEP_EVERY: u32 = 5;
/// Time between two looks at links and VIPs.
const LOOK_EVERY: u32 = 10;

/// What the API asks of the engine.
#[derive(Debug)]
pub(super) enum Request {
    Snapshot(Answer<Snapshot>),
    Flows(FlowQuery, Answer<FlowsPage>),
    Health {
        group: String,
        target: String,
        answer: Answer<HealthHistory>,
    },
    SetTargetState {
        group: String,
        target: String,
        change: TargetStateChange,
        answer: Answer<TargetStateResult>,
    },
    Configuration(Answer<ConfigView>),
    Apply(ApplyRequest, Answer<ApplyResult>),
    /// Read the configuration file and the files that it names again.
    Reload,
}

pub(super) type Answer<T> = oneshot::Sender<Result<T, BackendError>>;

/// The host's ports as reserved for `nat`, kept so that they can be given back.
#[derive(Debug, Clone, serde::Serialize, serde::Deserialize)]
pub(super) struct ReservedPorts {
    pub(super) first: u16,
    pub(super) last: u16,
    /// What was reserved before, as the kernel writes it.
    pub(super) before: String,
}

impl ReservedPorts {
    pub(super) fn range(&self) -> std::ops::RangeInclusive<u16> {
        self.first..=self.last
    }

    pub(super) fn before(&self) -> PortSet {
        self.before.parse().unwrap_or_default()
    }
}

/// Everything that the engine owns.
pub(super) struct Engine {
    pub(super) core: Core,
    pub(super) plane: KernelDataPlane,
    /// The moment of the core's time zero.
    pub(super) epoch: Instant,
    pub(super) started_at: Timestamp,
    pub(super) events: Arc<EventLog>,
    pub(super) readiness: watch::Sender<Readiness>,

    pub(super) revisions: Revisions,
    pub(super) rows: Kept<SavedRows>,
    pub(super) admin: Kept<SavedAdmin>,
    pub(super) ports: Kept<ReservedPorts>,
    /// The configuration file, if one was named.
    pub(super) file: Option<PathBuf>,
    /// Takes the place of the configured interfaces.
    pub(super) interface: Option<String>,

    pub(super) prober: mpsc::Sender<health::Command<u64>>,
    pub(super) checks: ReadyChecks,
    pub(super) watch: Watch,
    pub(super) warmer: Warmer,
    /// What the warmer was told to keep.
    pub(super) destinations: std::collections::BTreeSet<std::net::IpAddr>,
    pub(super) vips: VipKeeper,

    /// When each verdict's counter last moved.
    pub(super) verdicts_seen: BTreeMap<usize, Timestamp>,
    /// What was said of the configuration in force when it was read.
    pub(super) warnings: Vec<String>,
    /// What of the host does not fit the configuration.
    pub(super) host_warnings: Vec<String>,
    /// Interfaces that had the program when the agent started.
    pub(super) found_attached: std::collections::BTreeSet<String>,
    /// Where the API listens besides its socket.
    pub(super) listen: Option<std::net::SocketAddr>,
    /// What of the last reading or writing of files and maps failed.
    pub(super) failures: BTreeMap<&'static str, String>,
    pub(super) ticks: u32,
}

impl Engine {
    pub(super) fn now(&self) -> Duration {
        self.epoch.elapsed()
    }

    /// Brings events to the core until cancelled. The data plane goes on afterwards.
    pub(super) async fn run(
        mut self,
        mut requests: mpsc::Receiver<Request>,
        mut reports: mpsc::UnboundedReceiver<Report<u64>>,
        stop: CancellationToken,
    ) {
        let mut net = self.watch.subscribe();
        let mut links = self.links(&net.borrow());
        let mut seconds = interval(Duration::from_secs(1));
        seconds.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            tokio::select! {
                biased;
                () = stop.cancelled() => break,
                _ = seconds.tick() => self.second().await,
                changed = net.changed() => {
                    if changed.is_err() {
                        tracing::error!("the watch of the host's network has ended");
                        break;
                    }
                    let state = net.borrow_and_update().clone();
                    self.network_changed(&state).await;
                    // Without waiting for the next look: an interface that went took the program along.
                    let now = self.links(&state);
                    if now != links {
                        links = now;
                        self.look_after_host().await;
                    }
                }
                Some(report) = reports.recv() => {
                    let Report { check, result, .. } = report;
                    self.handle(Event::Probed { check, result }).await;
                }
                request = requests.recv() => match request {
                    Some(request) => self.answer(request).await,
                    None => break,
                },
            }
            self.publish_readiness();
        }
        self.tell(EventKind::Agent, "lbd", "stopping; the data plane goes on");
    }

    async fn answer(&mut self, request: Request) {
        // Whoever no longer waits for the answer needs none.
        match request {
            Request::Snapshot(answer) => drop(answer.send(self.snapshot())),
            Request::Flows(query, answer) => drop(answer.send(self.flows(&query))),
            Request::Health { group, target, answer } => {
                drop(answer.send(self.health_history(&group, &target)));
            }
            Request::SetTargetState { group, target, change, answer } => {
                let result = self.set_target_state(group, target, &change).await;
                drop(answer.send(result));
            }
            Request::Configuration(answer) => drop(answer.send(self.configuration())),
            Request::Apply(request, answer) => {
                let result = self.apply_request(request).await;
                drop(answer.send(result));
            }
            Request::Reload => self.reload().await,
        }
    }

    async fn second(&mut self) {
        self.ticks = self.ticks.wrapping_add(1);
        match tokio::task::block_in_place(|| self.plane.counters()) {
            Ok(counters) => {
                self.failures.remove("counters");
                self.note_verdicts(&counters.verdicts);
                self.handle(Event::Counters(counters)).await;
            }
            Err(error) => self.fail("counters", &format!("the counters cannot be read: {error}")),
        }
        self.handle(Event::Tick).await;
        if self.ticks.is_multiple_of(SWEEP_EVERY) {
            match tokio::task::block_in_place(|| self.plane.sweep()) {
                Ok(()) => drop(self.failures.remove("sweep")),
                Err(error) => self.fail("sweep", &format!("expired flows cannot be swept: {error}")),
            }
        }
        if self.ticks.is_multiple_of(LOOK_EVERY) {
            self.look_after_host().await;
        }
    }

    /// Links and VIPs: an interface may have been made anew, an address taken off by hand.
    pub(super) async fn look_after_host(&mut self) {
        self.keep_attached();
        self.keep_vips(false).await;
        self.check_host();
    }

    /// Sees to it that the interfaces of the configuration in force carry the program, and no others.
    pub(super) fn keep_attached(&mut self) {
        let Some(config) = self.core.config().cloned() else { return };
        let before = self.plane.attachments().to_vec();
        self.plane.set_interfaces(&config.interfaces, config.xdp_mode);
        match tokio::task::block_in_place(|| self.plane.attach().map(<[_]>::to_vec)) {
            Ok(after) => {
                self.failures.remove("attach");
                for attachment in after.iter().filter(|attachment| {
                    !before
                        .iter()
                        .any(|b| (b.ifindex, b.program_id) == (attachment.ifindex, attachment.program_id))
                }) {
                    let message = format!("attached again in {} mode", attachment.mode.name());
                    self.tell(EventKind::Program, &attachment.interface.clone(), &message);
                }
            }
            Err(error) => self.fail("attach", &format!("the program is not on every interface: {error}")),
        }
    }

    async fn network_changed(&mut self, state: &Arc<NetState>) {
        let facts = network::facts(state, &self.destinations, self.interfaces());
        self.handle(Event::Network(Arc::new(facts))).await;
    }

    /// The index of each interface that is to carry the program, and whether it is up.
    fn links(&self, state: &NetState) -> Vec<Option<(u32, bool)>> {
        let link =
            |name: &String| state.interface_named(name).map(|interface| (interface.index, interface.up));
        self.interfaces().iter().map(link).collect()
    }

    pub(super) async fn keep_vips(&mut self, again: bool) {
        let Some(interface) = self.interfaces().first().cloned() else { return };
        let state = self.watch.current();
        self.vips.keep(&state, &interface, again).await;
    }

    /// Names of the interfaces that carry the program.
    pub(super) fn interfaces(&self) -> &[String] {
        self.core.config().map_or(&[], |config| config.interfaces.as_slice())
    }

    pub(super) fn note_verdicts(&mut self, verdicts: &[u64]) {
        let today = self.today();
        let before = &self.core.counters().verdicts;
        if before.is_empty() {
            return;
        }
        for (row, count) in verdicts.iter().enumerate() {
            if before.get(row) != Some(count) {
                self.verdicts_seen.insert(row, today);
            }
        }
    }

    pub(super) fn today(&self) -> Timestamp {
        self.core.wall(self.now())
    }

    pub(super) fn tell(&self, kind: EventKind, subject: &str, message: &str) {
        self.events
            .push(self.today(), Notice { kind, subject: subject.to_owned(), message: message.to_owned() });
    }

    /// Remembers what failed, until it succeeds; said once.
    pub(super) fn fail(&mut self, what: &'static str, message: &str) {
        if self.failures.get(what).map(String::as_str) != Some(message) {
            tracing::error!("{message}");
            self.failures.insert(what, message.to_owned());
        }
    }

    pub(super) fn publish_readiness(&self) {
        let now = self.readiness_now();
        self.readiness.send_if_modified(|before| {
            let differs = *before != now;
            *before = now;
            differs
        });
    }

    pub(super) fn readiness_now(&self) -> Readiness {
        let mut reasons = Vec::new();
        if self.core.config().is_none() {
            reasons.push("no configuration is in force".to_owned());
        }
        if !self.core.is_sure() {
            reasons.push("a write to the kernel's maps failed and is being repaired".to_owned());
        }
        match self.failures.get("attach") {
            Some(failure) => reasons.push(failure.clone()),
            None => {
                let carries = |name: &String| self.plane.attachments().iter().any(|a| a.interface == *name);
                let without = self.interfaces().iter().filter(|name| !carries(name));
                reasons.extend(without.map(|name| format!("interface {name} does not carry the program")));
            }
        }
        Readiness { ready: reasons.is_empty(), reasons }
    }
}
