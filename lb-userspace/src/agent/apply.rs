//! A new configuration, from its text to the kernel and the state folder.

use std::{collections::BTreeSet, net::IpAddr, sync::Arc, time::Duration};

use tokio::time::{Instant, timeout_at};

use super::{
    changes::changes,
    engine::{Engine, ReservedPorts},
    network,
};
use crate::{
    api::{
        backend::{ApplyRequest, BackendError},
        types::{
            ApplyResult, ConfigView, EventKind, Fault, Revision, TargetState, TargetStateChange,
            TargetStateResult,
        },
    },
    config::{self, Checked, Config, model::Snat, revision, state::read_text},
    core::Event,
    net::ports,
};

/// Longest time given to new targets' neighbours to answer before a configuration takes effect.
const WARM: Duration = Duration::from_millis(1500);

impl Engine {
    pub(super) async fn apply_request(&mut self, request: ApplyRequest) -> Result<ApplyResult, BackendError> {
        let ApplyRequest { text, source, dry_run, if_revision } = request;
        let current = self.revisions.current().map_or(0, |revision| revision.number);
        if let Some(expected) = if_revision.filter(|expected| *expected != current) {
            return Err(BackendError::RevisionDiffers { expected, current });
        }
        let mut result = self.apply_text(&text, &source, dry_run).await;
        if !dry_run {
            self.keep_attached();
        }
        if let (Ok(result), false) = (&mut result, dry_run) {
            self.renew_checks().await;
            result.warnings.extend_from_slice(&self.checks.warnings);
        }
        match &result {
            Ok(result) if !dry_run => {
                if let Some(revision) = result.revision.as_ref().filter(|revision| revision.number != current)
                {
                    let message = format!("revision {} from {source} is in force", revision.number);
                    self.tell(EventKind::Configuration, "lbd", &message);
                }
            }
            Err(error) if !dry_run => {
                let message = format!("a configuration from {source} was refused: {error}");
                self.tell(EventKind::ConfigurationRefused, "lbd", &message);
            }
            _ => {}
        }
        result
    }

    async fn apply_text(
        &mut self,
        text: &str,
        source: &str,
        dry_run: bool,
    ) -> Result<ApplyResult, BackendError> {
        let Checked { mut config, warnings } = config::parse(text, source)
            .map_err(|faults| BackendError::Faults(faults.faults.into_iter().map(fault).collect()))?;
        if let Some(interface) = &self.interface {
            config.interfaces = vec![interface.clone()];
        }
        let said: Vec<String> = warnings.iter().map(ToString::to_string).collect();
        let warnings = said.iter().cloned().chain(self.unfit(&config)).collect();
        let changes = changes(self.core.config().map(AsRef::as_ref), &config);
        let same = self.revisions.current().is_some_and(|revision| revision.text == text);
        self.check_new(&config).await?;
        let nothing_new = same && changes.is_empty();
        let reasons = if nothing_new { Vec::new() } else { self.core.refusals(&config) };
        if !reasons.is_empty() {
            return Err(BackendError::Refused(reasons));
        }
        if dry_run || nothing_new {
            let revision = self.revision_view();
            return Ok(ApplyResult { revision, dry_run, new_revision: false, changes, warnings });
        }
        self.put_in_force(config).await?;
        let stored = tokio::task::block_in_place(|| {
            self.revisions.next(text, source, jiff::Timestamp::now()).map(drop)
        });
        if let Err(error) = stored {
            let back = self.back_to_revision().await;
            return Err(BackendError::Failed(format!("the revision cannot be kept: {error}; {back}")));
        }
        self.warnings = said;
        self.check_host();
        Ok(ApplyResult { revision: self.revision_view(), dry_run, new_revision: true, changes, warnings })
    }

    /// Applies a checked configuration to kernel and host.
    async fn put_in_force(&mut self, config: Config) -> Result<(), BackendError> {
        self.attach_ahead(&config)?;
        let port_change = self
            .reserve_ports(&config.snat)
            .map_err(|error| BackendError::Failed(format!("source ports cannot be reserved: {error}")))?;
        let config = Arc::new(config);
        let facts = self.look_up(&config).await;
        let outcome = self.handle(Event::Apply { config: Arc::clone(&config), facts: Arc::new(facts) }).await;
        let in_force = self.core.config().is_some_and(|now| Arc::ptr_eq(now, &config));
        if let Some(change) = port_change {
            self.settle_ports(change, in_force);
        }
        if let Some(reasons) = outcome.refused {
            return Err(BackendError::Refused(reasons));
        }
        if let Some(error) = outcome.failed {
            let state = if in_force { "it is in force and being repaired" } else { "nothing was changed" };
            return Err(BackendError::Failed(format!("the kernel's maps: {error}; {state}")));
        }
        Ok(())
    }

    /// Puts the program on the interfaces that a configuration adds, before anything else of it is in force: one that
    /// does not take the program is a reason to refuse. [`Engine::keep_attached`] takes it off where it is not to be.
    fn attach_ahead(&mut self, config: &Config) -> Result<(), BackendError> {
        let now = self.core.config();
        if now.is_some_and(|now| now.interfaces == config.interfaces && now.xdp_mode == config.xdp_mode) {
            return Ok(());
        }
        self.plane.set_interfaces(&config.interfaces, config.xdp_mode);
        tokio::task::block_in_place(|| self.plane.ensure_attached().map(drop))
            .map_err(|error| BackendError::Refused(vec![format!("{error}; nothing was changed")]))
    }

    async fn back_to_revision(&mut self) -> String {
        let Some(text) = self.revisions.current().map(|revision| revision.text.clone()) else {
            return "there was none before".to_owned();
        };
        let Ok(Checked { mut config, .. }) = config::parse(&text, "the revision before") else {
            return "the revision before cannot be read".to_owned();
        };
        if let Some(interface) = &self.interface {
            config.interfaces = vec![interface.clone()];
        }
        match Box::pin(self.put_in_force(config)).await {
            Ok(()) => "the revision before is in force again".to_owned(),
            Err(error) => format!("the revision before could not be put in force again: {error}"),
        }
    }

    /// What on this host speaks against a configuration that the parser accepts.
    async fn check_new(&mut self, config: &Config) -> Result<(), BackendError> {
        let mut reasons = network::unfit(&self.watch.current(), config);
        reasons.extend(port_faults(&config.snat));
        for group in &config.groups {
            if let Some(check) = &group.health
                && let Err(error) = tokio::task::block_in_place(|| self.checks.ready(&group.name, check))
            {
                reasons.push(format!("group {}: {error}", group.name));
            }
        }
        if reasons.is_empty() {
            return Ok(());
        }
        let fault = |message| Fault { path: String::new(), line: None, column: None, message, hint: None };
        Err(BackendError::Faults(reasons.into_iter().map(fault).collect()))
    }

    /// What the network says of the configuration's targets, with some time for those that are new to answer.
    pub(super) async fn look_up(&mut self, config: &Config) -> crate::core::Facts {
        let new: BTreeSet<IpAddr> =
            config.groups.iter().flat_map(|group| &group.targets).map(|target| target.address).collect();
        let all: BTreeSet<IpAddr> = new.union(&self.destinations).copied().collect();
        self.warmer.keep(all.iter().copied());
        let mut net = self.watch.subscribe();
        let until = Instant::now() + WARM;
        loop {
            let state = net.borrow_and_update().clone();
            let facts = network::facts(&state, &all, &config.interfaces);
            let waits =
                new.iter().any(|address| state.resolve(*address).is_err_and(|error| error.is_neighbour()));
            if !waits || !matches!(timeout_at(until, net.changed()).await, Ok(Ok(()))) {
                return facts;
            }
        }
    }

    /// Reserves the source ports on the host, before the first packet is sent from one of them. Where they are others
    /// than before, both ranges are reserved until [`Self::settle_ports`].
    pub(super) fn reserve_ports(&mut self, snat: &Snat) -> Result<Option<PortChange>, ReserveError> {
        let range = snat.ports.first..=snat.ports.last;
        let kept = self.ports.load()?;
        if kept.as_ref().is_some_and(|kept| kept.range() == range) {
            ports::reserve(&range)?;
            return Ok(None);
        }
        let now = ports::reserved()?;
        // What was reserved before us, without what is ours of an earlier range.
        let before = match &kept {
            Some(kept) => kept.before().ranges().fold(now.without(&kept.range()), |rest, r| rest.with(&r)),
            None => now.clone(),
        };
        ports::reserve(&range)?;
        let new = ReservedPorts { first: *range.start(), last: *range.end(), before: before.to_string() };
        if let Err(error) = self.ports.store(&new) {
            ports::release(&range, &now)?;
            return Err(error.into());
        }
        Ok(kept.map(|old| PortChange { old, new }))
    }

    /// Gives back the range that is not in force: the old one, or the new one of a configuration that came to nothing.
    pub(super) fn settle_ports(&self, change: PortChange, in_force: bool) {
        let PortChange { old, new } = change;
        let (stays, goes) = if in_force { (new, old) } else { (old, new) };
        // Where the ranges overlap, the one in force stays.
        let given_back = ports::release(&goes.range(), &goes.before().with(&stays.range()));
        let settled = given_back.map_err(ReserveError::from).and_then(|()| Ok(self.ports.store(&stays)?));
        if let Err(error) = settled {
            tracing::warn!("source ports {}-{} stay reserved: {error}", goes.first, goes.last);
        }
    }

    /// Reads again what checks trust, and the configuration file as the next revision.
    pub(super) async fn reload(&mut self) {
        // Whatever becomes of the configuration file.
        self.renew_checks().await;
        let Some(file) = self.file.clone() else {
            self.tell(
                EventKind::ConfigurationRefused,
                "lbd",
                "SIGHUP: no file was named with --config to read again",
            );
            return;
        };
        let source = file.display().to_string();
        let text = match tokio::task::block_in_place(|| read_text(&file)) {
            Ok(text) => text,
            Err(error) => return self.tell(EventKind::ConfigurationRefused, "lbd", &error.to_string()),
        };
        let request = ApplyRequest { text, source: source.clone(), dry_run: false, if_revision: None };
        if let Err(BackendError::Faults(faults)) = self.apply_request(request).await {
            for fault in faults {
                tracing::error!("{}", fault.in_file(&source));
            }
        }
    }

    pub(super) async fn set_target_state(
        &mut self,
        group: String,
        target: String,
        change: &TargetStateChange,
    ) -> Result<TargetStateResult, BackendError> {
        let Some((_, _, before)) = self.core.target(&group, &target) else {
            return Err(self.no_target(&group, &target));
        };
        let before = before.admin;
        if change.deadline_seconds.is_some() && change.state != TargetState::Drain {
            return Err(BackendError::Invalid("a deadline is only for `drain`".to_owned()));
        }
        let deadline = match change.deadline_seconds {
            None => None,
            Some(seconds) => Some(
                Duration::try_from_secs_f64(seconds)
                    .ok()
                    .and_then(|span| {
                        self.today().checked_add(jiff::SignedDuration::try_from(span).ok()?).ok()
                    })
                    .ok_or_else(|| BackendError::Invalid(format!("{seconds} seconds is no deadline")))?,
            ),
        };
        let (name, group_name) = (target.clone(), group.clone());
        let event = Event::SetTargetState { group, target, state: change.state, deadline };
        let outcome = self.handle(event).await;
        if let Some(error) = outcome.failed {
            return Err(BackendError::Failed(format!("{error}; will be tried again")));
        }
        if let Some(error) = outcome.not_saved {
            let message =
                format!("in force, but lost at a restart: {error}; saving it is tried again every second");
            return Err(BackendError::Failed(message));
        }
        let view = self.target_view(&group_name, &name).ok_or_else(|| self.no_target(&group_name, &name))?;
        let changed = self.core.target(&group_name, &name).is_some_and(|(_, _, state)| state.admin != before);
        Ok(TargetStateResult { changed, target: view })
    }

    pub(super) fn no_target(&self, group: &str, target: &str) -> BackendError {
        if self.core.groups().any(|(config, _)| config.name == group) {
            BackendError::NotFound { what: "target", name: format!("{group}/{target}") }
        } else {
            BackendError::NotFound { what: "group", name: group.to_owned() }
        }
    }

    pub(super) fn configuration(&self) -> Result<ConfigView, BackendError> {
        match (self.revision_view(), self.revisions.current()) {
            (Some(revision), Some(current)) => Ok(ConfigView { revision, text: current.text.clone() }),
            _ => Err(BackendError::Unavailable("no configuration is in force yet".to_owned())),
        }
    }

    pub(super) fn revision_view(&self) -> Option<Revision> {
        let revision::Revision { number, sha256, source, accepted_at, .. } =
            self.revisions.current()?.clone();
        Some(Revision { number, sha256, source, applied_at: accepted_at })
    }
}

/// Two ranges of source ports that are both reserved until it is known which one is in force.
#[derive(Debug)]
pub(super) struct PortChange {
    old: ReservedPorts,
    new: ReservedPorts,
}

/// Why the source ports could not be reserved.
#[derive(Debug, thiserror::Error)]
pub(super) enum ReserveError {
    #[error(transparent)]
    Ports(#[from] ports::PortError),
    #[error(transparent)]
    State(#[from] config::state::StateError),
}

/// How the source ports collide with the host's own use of ports.
pub(super) fn port_faults(snat: &Snat) -> Vec<String> {
    let addresses: Vec<IpAddr> = snat
        .ipv4
        .iter()
        .copied()
        .map(IpAddr::from)
        .chain(snat.ipv6.iter().copied().map(IpAddr::from))
        .collect();
    if addresses.is_empty() {
        return Vec::new();
    }
    match ports::faults(&(snat.ports.first..=snat.ports.last), &addresses) {
        Ok(faults) => faults.iter().map(|fault| format!("snat.ports: {fault}")).collect(),
        Err(error) => vec![format!("snat.ports: the host's ports cannot be read: {error}")],
    }
}

fn fault(fault: config::Fault) -> Fault {
    let config::Fault { line, column, path, message, .. } = fault;
    Fault { path, line: Some(line), column: Some(column), message, hint: None }
}
