//! Whether a configuration fits the maps, and the rows that it gets if it does.

use std::net::SocketAddr;

use lb_common::abi::Counters;

use super::{rows::Rows, state::Core, target::key};
use crate::config::model::Config;

/// The rows that a configuration gets.
pub(super) struct Claimed {
    pub(super) services: Rows,
    pub(super) targets: Rows,
}

impl Core {
    /// Why a configuration would be refused, were it applied now; empty if it would not be.
    #[must_use]
    pub fn refusals(&self, config: &Config) -> Vec<String> {
        self.claim(config).err().unwrap_or_default()
    }

    /// The rows with those that the configuration adds, or why it is refused.
    pub(super) fn claim(&self, config: &Config) -> Result<Claimed, Vec<String>> {
        if !self.sure {
            let reason =
                "the last write to the kernel's maps failed and is being repaired; try again in a moment";
            return Err(vec![reason.to_owned()]);
        }
        // What is beyond a limit has no rows either: that follows, and is not said again.
        let beyond = self.beyond_limits(config);
        if !beyond.is_empty() {
            return Err(beyond);
        }
        let limits = self.sizes.limits;
        let (mut services, mut targets) = (self.services.clone(), self.targets.clone());
        let names = config.services.iter().map(|service| (service.name.clone(), service.name.clone()));
        let no_service = claim_all(&mut services, "service", limits.services, names, &self.counters.services);
        let names = config.groups.iter().flat_map(|group| {
            group.targets.iter().map(|target| {
                let address = SocketAddr::new(target.address, target.port);
                (key(&group.name, address), format!("{}/{}", group.name, target.name))
            })
        });
        let no_target = claim_all(&mut targets, "target", limits.targets, names, &self.counters.targets);
        let reasons: Vec<String> = no_service.into_iter().chain(no_target).collect();
        if reasons.is_empty() { Ok(Claimed { services, targets }) } else { Err(reasons) }
    }

    fn beyond_limits(&self, config: &Config) -> Vec<String> {
        let limits = self.sizes.limits;
        let mut reasons = Vec::new();
        let mut check = |what: &str, count: usize, limit: u32| {
            if count > limit as usize {
                reasons.push(format!("{count} {what}; the kernel's maps were made for {limit} (a change of limits takes effect after `lbd unload`)"));
            }
        };
        check("services", config.services.len(), limits.services);
        check("target groups", config.groups.len(), limits.groups);
        check("targets", config.groups.iter().map(|group| group.targets.len()).sum(), limits.targets);
        for v6 in [false, true] {
            let family = config.services.iter().filter(|service| service.address.is_ipv6() == v6);
            let what =
                if v6 { "access prefixes of IPv6 services" } else { "access prefixes of IPv4 services" };
            check(what, family.map(|service| service.access.len()).sum(), limits.access_prefixes);
        }
        reasons
    }
}

/// Claims a row for each; the names are those of the rows and those that an operator knows. Returns why some get none.
fn claim_all(
    rows: &mut Rows,
    what: &str,
    limit: u32,
    names: impl Iterator<Item = (String, String)>,
    counters: &[Counters],
) -> Option<String> {
    let mut without = names.filter(|(name, _)| rows.claim(name, counters).is_err()).map(|(_, shown)| shown);
    let first = without.next()?;
    let more = match without.count() {
        0 => String::new(),
        more => format!(" and {more} more"),
    };
    Some(format!(
        "{what} `{first}`{more}: all {limit} rows for {what}s are in use, some by removed ones whose flows have not ended"
    ))
}
