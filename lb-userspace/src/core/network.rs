//! Routes to clients: rows of next hops that replies to clients in other networks are sent by.

use std::{collections::BTreeSet, time::Duration};

use jiff::SignedDuration;
use lb_common::abi::NONE;

use super::{
    apply::found_route,
    event::{Command, Facts, Hop},
    state::{Core, notify},
};
use crate::api::types::EventKind;

/// A next hop no longer routed by may still be named by flows; its row rests this long, and those never used and
/// longest free are taken first.
const ROUTE_REST: Duration = Duration::from_secs(3600);

impl Core {
    /// Gives every way back to clients a row. Where rows or the kernel's map run out, replies go back the way that the
    /// client's packets came.
    pub(super) fn take_client_routes(&mut self, out: &mut Vec<Command>) {
        let facts = std::sync::Arc::clone(&self.facts);
        self.client_routes.clear();
        let mut used = BTreeSet::new();
        let mut full = false;
        let limit = self.sizes.limits.client_routes as usize;
        let mut room = [limit; 2];
        // Whole networks first: without its gap, a network's unknown neighbours would be looked for behind a router.
        for prefix in &facts.client_gaps {
            full |= !take(&mut room[usize::from(prefix.addr().is_ipv6())]);
            self.client_routes.insert(*prefix, NONE);
        }
        let mut ways: Vec<_> = facts.client_routes.iter().collect();
        ways.sort_by_key(|(prefix, _)| (prefix.prefix_len(), *prefix));
        for (prefix, hop) in ways {
            if !take(&mut room[usize::from(prefix.addr().is_ipv6())]) {
                full = true;
                continue;
            }
            let neighbour = hop.gateway.unwrap_or(prefix.addr());
            let name = format!("{}/{neighbour}", hop.next_hop.ifindex);
            self.name_found_row(&name, hop);
            let Ok(held) = self.routes.claim(&name, &[]) else {
                full = true;
                continue;
            };
            self.route_hops.insert(held.row, hop.next_hop);
            self.client_routes.insert(*prefix, held.row);
            used.insert(name);
        }
        let today = self.today();
        self.routes.retain(today, |name| used.contains(name));
        if full && !self.routes_full {
            let message = format!(
                "more than limits.client_routes = {limit} ways back to clients: replies of the rest go back the way their packets came"
            );
            out.push(notify(EventKind::Limit, "lbd".to_owned(), message));
        }
        self.routes_full = full;
    }

    /// A next hop that the kernel held when the agent started is recognised by what it says.
    fn name_found_row(&mut self, name: &str, hop: &Hop) {
        if self.routes.get(name).is_some() {
            return;
        }
        let same = |(row, held): (&u32, &_)| (*held == hop.next_hop).then_some(found_route(*row));
        let found = self.route_hops.iter().filter_map(same).find(|found| self.routes.get(found).is_some());
        if let Some(found) = found {
            self.routes.rename(&found, name);
        }
    }

    /// Lets go of next hops that no flow can name any more. Returns whether there were any.
    pub(super) fn release_routes(&mut self) -> bool {
        let today = self.today();
        let gone = self.routes.release(|held| {
            held.retired.is_some_and(|since| {
                today.duration_since(since) > SignedDuration::try_from(ROUTE_REST).unwrap_or_default()
            })
        });
        for (_, held) in &gone {
            self.route_hops.remove(&held.row);
        }
        !gone.is_empty()
    }
}

impl Facts {
    /// Whether a way to each of these addresses is known.
    pub fn resolves_all(&self, addresses: impl IntoIterator<Item = std::net::IpAddr>) -> bool {
        addresses.into_iter().all(|address| matches!(self.targets.get(&address), Some(Ok(_))))
    }
}

/// Takes one of what is left.
fn take(left: &mut usize) -> bool {
    let some = *left > 0;
    *left = left.saturating_sub(1);
    some
}
