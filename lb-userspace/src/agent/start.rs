//! From the state folder, the file and the kernel to an engine that balances.

use std::{borrow::Cow, collections::BTreeMap, sync::Arc, time::Duration};

use jiff::Timestamp;
use lb_common::abi::Control;
use tokio::{
    sync::{mpsc, watch},
    task::block_in_place,
    time::Instant,
};

use super::{
    apply::port_faults, checks::ReadyChecks, engine::Engine, error::AgentError, events::EventLog, network,
    run::Options, unload::give_ports_back, vips::VipKeeper,
};
use crate::{
    api::types::{EventKind, Readiness},
    config::{
        self, Checked, Config,
        revision::Revisions,
        state::{Kept, read_text},
    },
    core::{Core, Event, Kernel, SavedAdmin, SavedRows, Sizes, Start},
    dataplane::{
        kernel::{self, Adopted, KernelDataPlane, KernelOptions},
        object::OBJECT,
    },
    health,
    net::{Vips, Warmer, Watch},
};

/// What an agent starts with: the accepted revision, or the file where there is none yet.
pub(super) struct First {
    pub(super) config: Config,
    /// The file's text, to become the first revision.
    seed: Option<(String, String)>,
    /// What faults are said of.
    origin: String,
    warnings: Vec<String>,
    /// What could not be done so far, by what it concerns.
    pub(super) failures: Vec<(&'static str, String)>,
}

impl First {
    /// Whether it is a revision that was in force before. It is not given up because the host has changed: the data
    /// plane is at work with it, and what is wrong is a warning.
    pub(super) fn was_accepted(&self) -> bool {
        self.seed.is_none()
    }
}

/// Reads what is to be run. Changes nothing.
pub(super) fn first(options: &Options, revisions: &Revisions) -> Result<First, AgentError> {
    let (text, origin, seed) = match (revisions.current(), &options.config) {
        (Some(revision), _) => {
            let origin = format!("revision {} in {}", revision.number, options.state_dir.display());
            (revision.text.clone(), origin, None)
        }
        (None, Some(file)) => {
            let text = read_text(file)?;
            let source = file.display().to_string();
            (text.clone(), source.clone(), Some((text, source)))
        }
        (None, None) => return Err(AgentError::NoConfiguration { folder: options.state_dir.clone() }),
    };
    let Checked { mut config, warnings } =
        config::parse(&text, &origin).map_err(|faults| AgentError::Faulty { faults })?;
    if let Some(interface) = &options.interface {
        config.interfaces = vec![interface.clone()];
    }
    let warnings = warnings.iter().map(ToString::to_string).collect();
    Ok(First { config, seed, origin, warnings, failures: Vec::new() })
}

/// The channels that an engine is built with.
pub(super) struct Channels {
    pub(super) prober: mpsc::Sender<health::Command<u64>>,
    pub(super) events: Arc<EventLog>,
    pub(super) readiness: watch::Sender<Readiness>,
    /// The moment of the core's time zero.
    pub(super) epoch: Instant,
}

/// Loads or adopts the data plane and puts the first configuration in force. New packets meet the program from then on.
pub(super) async fn build(
    options: &Options,
    revisions: Revisions,
    first: First,
    channels: Channels,
) -> Result<Engine, AgentError> {
    let Channels { prober, events, readiness, epoch } = channels;
    let state = &options.state_dir;
    let rows = Kept::<SavedRows>::open(state, "rows")?;
    let admin = Kept::<SavedAdmin>::open(state, "target-states")?;
    let watch = Watch::start().await?;
    let warnings = fits_host(&first, &watch)?;
    let plane = block_in_place(|| KernelDataPlane::open(kernel_options(options, &first.config)))?;
    let adopted = plane.adopted();
    let started_at = wall(epoch);
    let core = block_in_place(|| core(&plane, started_at, &rows, &admin))?;
    let warmer = Warmer::start(watch.subscribe())?;
    let mut engine = Engine {
        core,
        plane,
        epoch,
        started_at,
        events,
        readiness,
        revisions,
        rows,
        admin,
        ports: Kept::open(state, "ports")?,
        file: options.config.clone(),
        interface: options.interface.clone(),
        prober,
        checks: ReadyChecks::default(),
        watch,
        warmer,
        destinations: std::collections::BTreeSet::new(),
        vips: VipKeeper::new(Vips::open()?),
        verdicts_seen: BTreeMap::new(),
        warnings: first.warnings.iter().cloned().chain(warnings).collect(),
        host_warnings: Vec::new(),
        found_attached: std::collections::BTreeSet::new(),
        listen: first.config.api.listen,
        failures: first.failures.iter().cloned().collect(),
        ticks: 0,
    };
    match engine.first_apply(first).await {
        Ok(()) => Ok(engine),
        Err(error) => {
            drop(engine);
            if adopted == Adopted::default() {
                take_back(options);
            }
            Err(error)
        }
    }
}

/// Nothing was at work before, and nothing is to be left by a start that failed.
fn take_back(options: &Options) {
    if let Err(error) = block_in_place(|| kernel::unload(&options.pin_dir)) {
        tracing::warn!("{} is left: {error}", options.pin_dir.display());
    }
    if let Err(error) = give_ports_back(&options.state_dir) {
        tracing::warn!("the source ports stay reserved: {error}");
    }
}

/// Whether a configuration can work on this host, before anything is changed; what is wrong with one that was accepted.
fn fits_host(first: &First, watch: &Watch) -> Result<Vec<String>, AgentError> {
    let mut reasons = network::unfit(&watch.current(), &first.config);
    reasons.extend(port_faults(&first.config.snat));
    if first.was_accepted() {
        return Ok(reasons);
    }
    let mut compiler = health::Compiler::default();
    for group in &first.config.groups {
        if let Some(check) = &group.health
            && let Err(error) = block_in_place(|| compiler.compile(check))
        {
            reasons.push(format!("group {}: {error}", group.name));
        }
    }
    match reasons.is_empty() {
        true => Ok(Vec::new()),
        false => Err(AgentError::Unusable { origin: first.origin.clone(), reasons }),
    }
}

impl Engine {
    async fn first_apply(&mut self, first: First) -> Result<(), AgentError> {
        let accepted = first.was_accepted();
        let First { config, seed, origin, .. } = first;
        let port_change = self.reserve_ports(&config.snat).map_err(|error| AgentError::Unusable {
            origin: origin.clone(),
            reasons: vec![format!("its source ports cannot be reserved: {error}")],
        })?;
        let adopted = self.plane.adopted();
        let config = Arc::new(config);
        let facts = self.look_up(&config).await;
        let outcome = self.handle(Event::Apply { config, facts: Arc::new(facts) }).await;
        if let Some(reasons) = outcome.refused {
            return Err(AgentError::Unusable { origin, reasons });
        }
        if let Some(error) = outcome.failed {
            return Err(AgentError::NotInForce(error));
        }
        // Those of a configuration that the agent died with.
        if let Some(change) = port_change {
            self.settle_ports(change, true);
        }
        let attachments = match block_in_place(|| self.plane.attach().map(<[_]>::to_vec)) {
            Ok(attachments) => attachments,
            Err(error) if accepted => {
                self.failures.insert("attach", error.to_string());
                self.plane.attachments().to_vec()
            }
            Err(error) => return Err(error.into()),
        };
        let found = attachments.iter().filter(|attachment| attachment.adopted);
        self.found_attached = found.map(|attachment| attachment.interface.clone()).collect();
        for attachment in &attachments {
            let how = match (attachment.adopted, adopted.program) {
                (true, true) => "adopted",
                (true, false) => "replaced without missing a packet",
                (false, _) => "attached",
            };
            let message = format!("{how} in {} mode, tag {}", attachment.mode.name(), attachment.program_tag);
            self.tell(EventKind::Program, &attachment.interface, &message);
        }
        if let Some((text, source)) = seed {
            block_in_place(|| self.revisions.next(&text, &source, Timestamp::now()).map(drop))?;
        }
        let number = self.revisions.current().map_or(0, |revision| revision.number);
        let flows = if adopted.flows { "flows go on" } else { "no flows before it" };
        self.tell(EventKind::Agent, "lbd", &format!("started with revision {number}; {flows}"));
        self.keep_vips(!adopted.flows).await;
        self.check_host();
        self.publish_readiness();
        Ok(())
    }

    /// What on this host an operator should know of.
    pub(super) fn check_host(&mut self) {
        let Some(config) = self.core.config().cloned() else { return };
        self.host_warnings = self.unfit(&config);
    }

    /// What of a configuration does not take effect as it is, on this host and with these maps.
    pub(super) fn unfit(&self, config: &Config) -> Vec<String> {
        let state = self.watch.current();
        let snat = config.snat.ipv4.iter().copied().map(std::net::IpAddr::from);
        let snat = snat.chain(config.snat.ipv6.iter().copied().map(std::net::IpAddr::from));
        let mut found: Vec<String> = snat
            .filter(|address| !state.is_own_address(*address))
            .map(|address| {
                format!("source address {address} is on none of this host's interfaces: unless it is routed here, replies do not come back")
            })
            .collect();
        let sizes = self.core.sizes();
        let (wanted, live) = (config.limits, sizes.limits);
        let limits = [
            ("flows", wanted.flows, live.flows),
            ("services", wanted.services, live.services),
            ("targets", wanted.targets, live.targets),
            ("groups", wanted.groups, live.groups),
            ("access_prefixes", wanted.access_prefixes, live.access_prefixes),
            ("client_routes", wanted.client_routes, live.client_routes),
        ];
        for (name, wanted, live) in limits.into_iter().filter(|(_, wanted, live)| wanted != live) {
            found.push(format!("limits.{name} is {wanted}, the maps in force were made for {live}; it takes effect after `lbd unload`"));
        }
        for group in config.groups.iter().filter(|group| group.table_slots > sizes.table_slots) {
            found.push(format!(
                "group {}: table_slots is {}, the maps in force were made for {}; it takes effect after `lbd unload`",
                group.name, group.table_slots, sizes.table_slots
            ));
        }
        if self.listen != config.api.listen {
            found.push("api.listen takes effect when lbd is restarted".to_owned());
        }
        found
    }

    pub(super) fn all_warnings(&self) -> Vec<String> {
        // Where the program is missing is a reason not to be ready, which is said beside the warnings.
        let failures = self.failures.iter().filter(|(what, _)| **what != "attach");
        let mut all: Vec<String> = failures.map(|(_, failure)| failure.clone()).collect();
        let others = [&self.warnings, &self.host_warnings, &self.checks.warnings, &self.vips.warnings]
            .into_iter()
            .flatten();
        for warning in others.map(String::as_str).chain(self.plane.warnings().iter().map(String::as_str)) {
            if !all.iter().any(|known| known == warning) {
                all.push(warning.to_owned());
            }
        }
        all
    }
}

fn kernel_options(options: &Options, config: &Config) -> KernelOptions {
    KernelOptions {
        pin_dir: options.pin_dir.clone(),
        interfaces: config.interfaces.clone(),
        xdp_mode: config.xdp_mode,
        limits: config.limits,
        table_slots: config.groups.iter().map(|group| group.table_slots).max().unwrap_or(16_381),
        packet_log: options.packet_log,
        object: Cow::Borrowed(OBJECT),
    }
}

fn core(
    plane: &KernelDataPlane,
    wall: Timestamp,
    rows: &Kept<SavedRows>,
    admin: &Kept<SavedAdmin>,
) -> Result<Core, AgentError> {
    let limits = plane.limits();
    let sizes = Sizes {
        limits,
        table_slots: plane.table_slots(),
        handshakes: plane.handshake_slots(),
        ring: limits.flows,
    };
    let adopted = plane.adopted();
    let kernel = match (adopted.policy, adopted.flows) {
        (true, _) => Some(Kernel::read(plane)?),
        // The maps are new but the flows are not: an epoch that none of them was checked under.
        (false, true) => {
            let control = Control { epoch: wall.as_second() as u32, ..Control::default() };
            Some(Kernel { control, ..Kernel::default() })
        }
        (false, false) => None,
    };
    let start = Start { wall, sizes, kernel, rows: rows.load()?, admin: admin.load()?.unwrap_or_default() };
    Ok(Core::new(start))
}

/// The wall clock at a moment of the monotonic one.
fn wall(epoch: Instant) -> Timestamp {
    let passed = jiff::SignedDuration::try_from(epoch.elapsed()).unwrap_or_default();
    Timestamp::now().checked_sub(passed).unwrap_or_else(|_| Timestamp::now())
}

/// Longest time that anything waits for a task to end.
pub(super) const GRACE: Duration = Duration::from_secs(8);
