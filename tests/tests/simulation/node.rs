//! One balancer: the twin of the data plane, and an agent that can be killed.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::{IpAddr, SocketAddr},
    sync::Arc,
    time::Duration,
};

use jiff::Timestamp;
use lb_common::abi::NextHop;
use lb_userspace::{
    api::types::TargetState as Wanted,
    config::model::{Config, Limits, Target, TargetGroup},
    core::{
        Command, Core, Event, Facts, Hop, Kernel, Notice, SavedAdmin, SavedRows, Sizes, Start,
        health::{Check, Due, Reason},
    },
    dataplane::{DataPlane as _, Write, memory::MemoryDataPlane},
};

pub(crate) const LIMITS: Limits =
    Limits { flows: 4096, services: 8, targets: 26, groups: 8, access_prefixes: 64, client_routes: 16 };
pub(crate) const SLOTS: u32 = 251;
const HANDSHAKES: u32 = 4096;

/// What the node cannot know but by asking: which targets answer, which can be reached.
#[derive(Debug, Clone, Default)]
pub(crate) struct World {
    pub(crate) dead: BTreeSet<SocketAddr>,
    pub(crate) unreachable: BTreeSet<IpAddr>,
}

/// A balancer.
pub(crate) struct Node {
    pub(crate) plane: MemoryDataPlane,
    /// `None` while the agent is dead.
    pub(crate) core: Option<Core>,
    pub(crate) config: Arc<Config>,
    /// Since the simulation began.
    pub(crate) now: Duration,
    /// When this life of the agent began.
    born: Duration,
    rows: Option<SavedRows>,
    admin: SavedAdmin,
    probes: BTreeMap<u64, (SocketAddr, Option<Due>)>,
    pub(crate) notices: Vec<Notice>,
    /// Writes that succeed before one is refused.
    pub(crate) refuse_after: Option<usize>,
}

impl Node {
    /// A node with empty maps, and an agent that has been given its first configuration.
    pub(crate) fn new(config: Config, world: &World) -> Self {
        let mut node = Self {
            plane: MemoryDataPlane::new(LIMITS, SLOTS, HANDSHAKES),
            core: None,
            config: Arc::new(config),
            now: Duration::ZERO,
            born: Duration::ZERO,
            rows: None,
            admin: SavedAdmin::new(),
            probes: BTreeMap::new(),
            notices: Vec::new(),
            refuse_after: None,
        };
        node.begin(None, world);
        node
    }

    fn begin(&mut self, kernel: Option<Kernel>, world: &World) {
        let sizes = Sizes { limits: LIMITS, table_slots: SLOTS, handshakes: HANDSHAKES, ring: LIMITS.flows };
        let wall = Timestamp::from_second(1_700_000_000).expect("in range")
            + jiff::SignedDuration::try_from(self.now).expect("in range");
        let start = Start { wall, sizes, kernel, rows: self.rows.clone(), admin: self.admin.clone() };
        self.core = Some(Core::new(start));
        self.born = self.now;
        self.probes.clear();
        let config = Arc::clone(&self.config);
        assert!(self.apply(&config, world), "the revision in force is applied");
    }

    /// SIGKILL.
    pub(crate) fn kill(&mut self) {
        self.core = None;
    }

    /// The agent comes back and finds what it left.
    pub(crate) fn restart(&mut self, world: &World) {
        let kernel = Kernel::read(&self.plane).expect("memory can be read");
        self.begin(Some(kernel), world);
    }

    /// Whether the configuration came into force.
    pub(crate) fn apply(&mut self, config: &Arc<Config>, world: &World) -> bool {
        let facts = facts(config, world);
        self.handle(Event::Apply { config: Arc::clone(config), facts: Arc::new(facts) });
        let core = self.core.as_ref().expect("alive");
        self.config = Arc::clone(core.config().expect("there is one"));
        Arc::ptr_eq(&self.config, config)
    }

    pub(crate) fn network(&mut self, world: &World) {
        if self.core.is_some() {
            let facts = facts(&self.config, world);
            self.handle(Event::Network(Arc::new(facts)));
        }
    }

    pub(crate) fn set_target(&mut self, group: &str, target: &str, state: Wanted) {
        let (group, target) = (group.to_owned(), target.to_owned());
        self.handle(Event::SetTargetState { group, target, state, deadline: None });
    }

    /// Time passes: checks end, the agent's seconds tick.
    pub(crate) fn pass(&mut self, time: Duration, world: &World) {
        let end = self.now + time;
        while self.now < end {
            let tick = Duration::from_secs(self.now.as_secs() + 1);
            let check = self.probes.values().filter_map(|(_, due)| Some(self.born + (*due)?.at)).min();
            let next = check.filter(|_| self.core.is_some()).unwrap_or(end).min(tick).min(end).max(self.now);
            self.now = next;
            self.plane.set_clock((self.now.as_nanos() >> lb_common::abi::TICK_SHIFT) as u32);
            if self.core.is_none() {
                continue;
            }
            self.end_checks(world);
            if self.now == tick {
                let counters = self.plane.counters().expect("memory can be read");
                self.handle(Event::Counters(counters));
                self.handle(Event::Tick);
                if self.now.as_secs().is_multiple_of(5) {
                    self.plane.sweep().expect("memory can be swept");
                }
            }
        }
    }

    fn end_checks(&mut self, world: &World) {
        let now = self.now - self.born;
        let due: Vec<(SocketAddr, Due)> = self
            .probes
            .values_mut()
            .filter(|(_, due)| due.is_some_and(|due| due.at <= now))
            .filter_map(|(address, due)| Some((*address, due.take()?)))
            .collect();
        for (address, due) in due {
            let answers = !world.dead.contains(&address) && !world.unreachable.contains(&address.ip());
            let outcome = if answers { Ok(()) } else { Err(Reason::Refused) };
            let result = Check { at: due.at.max(now), took: Duration::ZERO, outcome };
            self.handle(Event::Probed { check: due.check, result });
        }
    }

    fn handle(&mut self, event: Event) {
        let mut events = vec![event];
        while let Some(event) = events.pop() {
            let now = self.now - self.born;
            let commands = self.core.as_mut().expect("alive").handle(now, event);
            for command in commands {
                match command {
                    Command::SaveRows(rows) => self.rows = Some(rows),
                    Command::SaveAdmin(admin) => self.admin = admin,
                    Command::Write(writes) => events.push(self.write(&writes)),
                    Command::ReadBack => {
                        let kernel = Kernel::read(&self.plane).expect("memory can be read");
                        events.push(Event::ReadBack(Box::new(kernel)));
                    }
                    Command::StartChecks(checks) => {
                        self.probes.insert(checks.life, (checks.address, None));
                    }
                    Command::Probe(due) => {
                        self.probes.get_mut(&due.check.incarnation).expect("checks were begun").1 = Some(due);
                    }
                    Command::StopChecks { life } => drop(self.probes.remove(&life)),
                    Command::Notify(notice) => self.notices.push(notice),
                    Command::Refuse(reasons) => assert!(
                        reasons
                            .iter()
                            .all(|reason| reason.contains("in use") || reason.contains("try again")),
                        "{reasons:?}"
                    ),
                    Command::Vips(_) | Command::KeepWarm(_) => {}
                }
            }
        }
    }

    fn write(&mut self, writes: &[Write]) -> Event {
        for write in writes {
            let refused = self.refuse_after.is_some_and(|left| left == 0);
            self.refuse_after = self.refuse_after.filter(|left| *left > 0).map(|left| left - 1);
            let result = self.plane.write(std::slice::from_ref(write)).map_err(|error| error.to_string());
            let error = match result {
                Ok(()) if !refused => continue,
                Ok(()) => "read back differently".to_owned(),
                Err(error) => panic!("the twin refuses {write:?}: {error}"),
            };
            return Event::WriteFailed { error, control: self.plane.control().ok() };
        }
        Event::Written
    }

    /// The group and the target at an address, as configured.
    pub(crate) fn targets(&self) -> impl Iterator<Item = (&TargetGroup, &Target)> {
        self.config.groups.iter().flat_map(|group| group.targets.iter().map(move |target| (group, target)))
    }
}

/// What the network says: also of targets that were removed, whose flows go on.
fn facts(config: &Config, world: &World) -> Facts {
    let configured = config.groups.iter().flat_map(|group| &group.targets).map(|target| target.address);
    let removed = super::configs::all_targets().into_iter().map(|target| target.ip());
    let addresses: BTreeSet<IpAddr> = configured.chain(removed).collect();
    let way = |address: IpAddr| {
        if world.unreachable.contains(&address) {
            return Err("neighbour is failed".to_owned());
        }
        let last = match address {
            IpAddr::V4(address) => address.octets()[3],
            IpAddr::V6(address) => address.octets()[15],
        };
        let next_hop = NextHop { ifindex: 2, mtu: 1500, destination: [2, 0, 0, 0, 1, last], source: [2; 6] };
        Ok(Hop { next_hop, gateway: None })
    };
    Facts { targets: addresses.into_iter().map(|a| (a, way(a))).collect(), ..Facts::default() }
}
