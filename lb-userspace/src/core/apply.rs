//! The start, and a new configuration: rows are given, targets carried over, everything written in one step.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
    sync::Arc,
};

use lb_common::abi::NONE;

use super::{
    event::{Checks, Command, Facts, Kernel, Start},
    fit::Claimed,
    health::{Health, Timing, Verdict},
    image::{Image, Policy},
    rows::Rows,
    saved::SavedRows,
    state::{Core, Unconfirmed, hop_to, notify},
    target::{TargetState, address_of, end_flags, key, row},
    view::GroupState,
};
use crate::{
    api::types::EventKind,
    config::model::{Config, TargetGroup, VipPlacement},
    dataplane::{Contents, CounterSnapshot},
};

impl Core {
    /// Starts from what was kept and what the kernel holds. Nothing is done before the first [`Apply`](super::Event::Apply).
    #[must_use]
    pub fn new(start: Start) -> Self {
        let Start { wall, sizes, kernel, rows, admin } = start;
        let adopted = kernel.is_some();
        let kernel = kernel.unwrap_or_default();
        let have = image(&kernel, None);
        let first_route = sizes.limits.targets + 1;
        let end_routes = first_route + 2 * sizes.limits.client_routes;
        let rows = rows.filter(|rows| {
            // Rows of maps that are gone mean nothing.
            adopted
                && rows.services.is_sound(1, sizes.limits.services + 1)
                && rows.targets.is_sound(1, sizes.limits.targets + 1)
        });
        // Flows of an earlier time that name rows we know nothing of must not take a new target for theirs.
        let incarnation = if adopted && rows.is_none() { wall.as_second() as u32 } else { 1 };
        let rows = rows.unwrap_or_else(|| SavedRows {
            services: Rows::new(1, sizes.limits.services + 1, 1),
            targets: Rows::new(1, sizes.limits.targets + 1, incarnation),
            sources: have.policy.sources(),
            retired_sources: BTreeSet::new(),
        });

        let mut routes = Rows::new(first_route, end_routes, 1);
        let mut route_hops = BTreeMap::new();
        for (&row, &hop) in have.next_hops.range(first_route..end_routes) {
            routes.adopt(found_route(row), row, Some(wall));
            route_hops.insert(row, hop);
        }
        let retired = rows
            .targets
            .iter()
            .filter_map(|(name, held)| {
                let target =
                    have.targets.get(&held.row).filter(|target| target.incarnation == held.incarnation)?;
                Some((held.row, (address_of(name)?.ip(), *target)))
            })
            .collect();
        let seeds =
            have.tables.values().flat_map(|table| table.iter().copied()).filter(|row| *row != NONE).collect();
        Self {
            now: super::health::Time::ZERO,
            wall,
            sizes,
            config: None,
            groups: Vec::new(),
            services: rows.services,
            targets: rows.targets,
            routes,
            route_hops,
            client_routes: BTreeMap::new(),
            retired,
            sources: rows.sources,
            retired_sources: rows.retired_sources,
            facts: Arc::default(),
            counters: CounterSnapshot::default(),
            counted_at: None,
            lives: 0,
            awaited: BTreeMap::new(),
            have,
            sure: true,
            retry_at: super::health::Time::ZERO,
            read_at: super::health::Time::ZERO,
            differences: Vec::new(),
            seeds,
            admin,
            admin_saved: true,
            saved_rows: None,
            unconfirmed: None,
            routes_full: false,
        }
    }

    pub(super) fn apply(&mut self, config: &Arc<Config>, facts: Arc<Facts>, out: &mut Vec<Command>) {
        let claimed = match self.claim(config) {
            Ok(claimed) => claimed,
            Err(reasons) => return out.push(Command::Refuse(reasons)),
        };
        let before = self.clone();
        let mut after = Vec::new();
        self.take_config(config, claimed, facts, &mut after);
        self.refresh_tables();
        self.assign_tables();
        self.save_rows(out);
        if before.config.is_none() && !self.seeds.is_empty() {
            let count = self.seeds.len();
            let message = format!("targets found in the kernel's tables, kept there until checked: {count}");
            out.push(notify(EventKind::Agent, "lbd".to_owned(), message));
        }
        self.seeds.clear();
        self.save_admin(&mut after);
        self.keep_warm(&mut after);
        after.push(Command::Vips(match config.vip_placement {
            VipPlacement::Interface => config.services.iter().map(|service| service.address).collect(),
            VipPlacement::Routed => BTreeSet::new(),
        }));
        self.reconcile(out);
        if matches!(out.last(), Some(Command::Write(_))) {
            self.unconfirmed = Some(Unconfirmed { before: Box::new(before), then: after });
        } else {
            out.append(&mut after);
        }
    }

    /// Makes the configuration the core's own, with the rows that were claimed for it.
    fn take_config(
        &mut self,
        config: &Arc<Config>,
        claimed: Claimed,
        facts: Arc<Facts>,
        out: &mut Vec<Command>,
    ) {
        Claimed { services: self.services, targets: self.targets } = claimed;
        let today = self.today();
        self.services.retain(today, |name| config.services.iter().any(|service| service.name == name));

        let old_config = self.config.replace(Arc::clone(config));
        let mut old = self.take_targets(old_config.as_deref());
        self.facts = facts;
        let mut groups = Vec::new();
        for group in &config.groups {
            let before =
                old_config.iter().flat_map(|config| &config.groups).position(|old| old.name == group.name);
            let check_changed = before
                .and_then(|index| Some(&old_config.as_ref()?.groups[index]))
                .is_none_or(|old| old.health != group.health);
            let mut targets = Vec::new();
            for target in &group.targets {
                let address = std::net::SocketAddr::new(target.address, target.port);
                let name = key(&group.name, address);
                let Some(held) = self.targets.get(&name).copied() else { continue };
                self.retired.remove(&held.row);
                let hop = hop_to(&self.facts, target.address);
                let mut state = match old.remove(&name) {
                    Some(state) => TargetState { config: target.clone(), held, hop, ..state },
                    None => self.new_target(group, target, held, hop),
                };
                self.set_checks(group, &mut state, check_changed, out);
                targets.push(state);
            }
            let lookup = before
                .and_then(|index| self.groups.get_mut(index))
                .map(|group| std::mem::take(&mut group.lookup));
            let kept = before.and_then(|index| self.groups.get(index));
            groups.push(GroupState {
                targets,
                table: kept.and_then(|group| group.table),
                all_down: kept.is_some_and(|group| group.all_down),
                open: false,
                lookup: lookup.unwrap_or_default(),
            });
        }
        self.groups = groups;
        self.retire(old, old_config.as_deref(), out);
        self.index_lives();
        self.order_sources(config);
        self.take_client_routes(out);
    }

    /// The targets known so far by the names of their rows.
    fn take_targets(&mut self, config: Option<&Config>) -> BTreeMap<String, TargetState> {
        let names = config.into_iter().flat_map(|config| &config.groups).map(|group| &group.name);
        names
            .zip(&mut self.groups)
            .flat_map(|(name, group)| {
                group.targets.drain(..).map(move |target| (key(name, target.address()), target))
            })
            .collect()
    }

    fn new_target(
        &self,
        group: &TargetGroup,
        config: &crate::config::model::Target,
        held: super::Held,
        hop: Result<super::Hop, String>,
    ) -> TargetState {
        let saved = self.admin.get(&group.name).and_then(|targets| targets.get(&config.name));
        TargetState {
            config: config.clone(),
            held,
            health: None,
            life: 0,
            admin: saved.copied().unwrap_or_else(|| self.ready_since()),
            hop,
            transitions: std::collections::VecDeque::new(),
        }
    }

    /// Begins, changes or ends a target's checks as configuration and administrative state want it.
    pub(super) fn set_checks(
        &mut self,
        group: &TargetGroup,
        state: &mut TargetState,
        changed: bool,
        out: &mut Vec<Command>,
    ) {
        let check =
            group.health.as_ref().filter(|_| !matches!(state.admin, super::Admin::Maintenance { .. }));
        let Some(check) = check else {
            if state.health.take().is_some() {
                out.push(Command::StopChecks { life: state.life });
            }
            return;
        };
        let timing = Timing::from(check);
        let address = state.address();
        let start = |life| {
            let check = Arc::new(check.clone());
            Command::StartChecks(Checks { life, group: group.name.clone(), address, check })
        };
        if let Some(health) = &mut state.health {
            if changed {
                let due = health.reconfigure(timing, self.now);
                out.extend([start(state.life), Command::Probe(due)]);
            }
            return;
        }
        self.lives += 1;
        let seeded = if self.seeds.contains(&state.held.row) { Verdict::Up } else { Verdict::Unknown };
        let identity = (&group.name, address);
        let health = Health::seeded(&identity, self.lives, timing, seeded, self.now);
        out.extend([start(self.lives), Command::Probe(health.due())]);
        state.life = self.lives;
        state.health = Some(health);
    }

    /// What remains of targets that are no longer configured.
    fn retire(
        &mut self,
        gone: BTreeMap<String, TargetState>,
        config: Option<&Config>,
        out: &mut Vec<Command>,
    ) {
        for (name, state) in gone {
            if state.health.is_some() {
                out.push(Command::StopChecks { life: state.life });
            }
            let group = config
                .into_iter()
                .flat_map(|config| &config.groups)
                .find(|group| key(&group.name, state.address()) == name);
            let flags = group.map_or(0, |group| end_flags(group.on_target_down));
            let row = row(state.address(), state.held.incarnation, flags);
            self.retired.insert(state.held.row, (state.config.address, row));
        }
        let configured: BTreeSet<u32> =
            self.groups.iter().flat_map(|group| &group.targets).map(|target| target.held.row).collect();
        let rows: BTreeMap<String, u32> =
            self.targets.iter().map(|(name, held)| (name.to_owned(), held.row)).collect();
        let today = self.today();
        self.targets.retain(today, |name| rows.get(name).is_some_and(|row| configured.contains(row)));
    }

    /// Source addresses that stay keep their order, so that ports in use keep their meaning; new ones follow.
    fn order_sources(&mut self, config: &Config) {
        let wanted: Vec<IpAddr> = (config.snat.ipv4.iter().copied().map(IpAddr::from))
            .chain(config.snat.ipv6.iter().copied().map(IpAddr::from))
            .collect();
        let (kept, gone): (Vec<_>, Vec<_>) =
            self.sources.iter().copied().partition(|address| wanted.contains(address));
        self.retired_sources.extend(gone);
        let new: Vec<_> = wanted.into_iter().filter(|address| !kept.contains(address)).collect();
        self.sources = kept.into_iter().chain(new).collect();
        for address in &self.sources {
            self.retired_sources.remove(address);
        }
    }
}

/// What was read, in the form that it is compared in. What cannot be read is taken from `before`, or not known.
pub(super) fn image(kernel: &Kernel, before: Option<&Image>) -> Image {
    let Contents { targets, next_hops, routes, services, access } = &kernel.contents;
    Image {
        targets: (0..)
            .zip(targets)
            .filter(|(_, target)| target.incarnation != 0)
            .map(|(row, t)| (row, *t))
            .collect(),
        next_hops: (0..)
            .zip(next_hops)
            .filter(|(_, hop)| hop.ifindex != 0)
            .map(|(row, hop)| (row, *hop))
            .collect(),
        routes: routes.iter().copied().collect(),
        tables: kernel.tables.iter().map(|(row, slots)| (*row, Arc::new(slots.clone()))).collect(),
        sources: before.and_then(|before| before.sources.clone()),
        filter: before.and_then(|before| before.filter.clone()),
        policy: Arc::new(Policy::new(services.clone(), access.clone())),
        control: kernel.control,
    }
}

/// The name of a next hop found in the kernel, until it is known whose it is.
pub(super) fn found_route(row: u32) -> String {
    format!("?/{row}")
}
