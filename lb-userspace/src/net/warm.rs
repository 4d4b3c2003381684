//! Keeps the neighbours that targets are reached by resolved, whether or not traffic flows to them.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
    sync::Arc,
    time::Duration,
};

use netlink_packet_core::{NLM_F_CREATE, NLM_F_REPLACE};
use netlink_packet_route::{
    AddressFamily, RouteNetlinkMessage,
    neighbour::{NeighbourAttribute, NeighbourFlags, NeighbourMessage},
};
use tokio::{
    sync::watch,
    task::JoinHandle,
    time::{Instant, sleep},
};

use super::{
    netlink::{Netlink, NetlinkError},
    resolve::NextHop,
    state::{NeighbourState, NetState},
};

/// At most so many neighbours are asked for in one round, and rounds are at least this far apart.
const ROUND_LIMIT: usize = 64;
const ROUND_PAUSE: Duration = Duration::from_millis(100);
/// How often a round is made when nothing changes.
const ROUND_EVERY: Duration = Duration::from_secs(1);
/// A neighbour that does not answer is asked for again after this; the kernel itself sends three probes in between.
const RETRY_UNRESOLVED: Duration = Duration::from_secs(1);
/// A known neighbour is confirmed at most this often.
const RETRY_STALE: Duration = Duration::from_secs(5);

/// The task that asks the kernel to resolve and confirm neighbours. It ends when this is dropped.
#[derive(Debug)]
pub struct Warmer {
    destinations: watch::Sender<BTreeSet<IpAddr>>,
    task: JoinHandle<()>,
}

impl Warmer {
    /// Starts with nothing to keep warm. The socket belongs to the calling thread's network namespace.
    pub fn start(state: watch::Receiver<Arc<NetState>>) -> Result<Self, NetlinkError> {
        let netlink = Netlink::open()?;
        let (destinations, wanted) = watch::channel(BTreeSet::new());
        Ok(Self { destinations, task: tokio::spawn(run(netlink, state, wanted)) })
    }

    /// From now on keeps the next hops of exactly these destinations resolved.
    pub fn keep(&self, destinations: impl IntoIterator<Item = IpAddr>) {
        let new: BTreeSet<_> = destinations.into_iter().collect();
        self.destinations.send_if_modified(|old| {
            let differs = *old != new;
            *old = new;
            differs
        });
    }
}

impl Drop for Warmer {
    fn drop(&mut self) {
        self.task.abort();
    }
}

async fn run(
    netlink: Netlink,
    mut state: watch::Receiver<Arc<NetState>>,
    mut wanted: watch::Receiver<BTreeSet<IpAddr>>,
) {
    let mut asked = BTreeMap::new();
    loop {
        let picture = state.borrow_and_update().clone();
        let destinations = wanted.borrow_and_update().clone();
        for hop in plan(&picture, &destinations, &mut asked, Instant::now()) {
            if let Err(error) = ask(&netlink, hop).await {
                tracing::debug!(%error, "the kernel cannot look for a neighbour");
            }
        }
        sleep(ROUND_PAUSE).await;
        tokio::select! {
            changed = state.changed() => if changed.is_err() { return },
            changed = wanted.changed() => if changed.is_err() { return },
            () = sleep(ROUND_EVERY) => {}
        }
    }
}

/// Which neighbours to ask for now: unresolved ones first, then those asked for longest ago. Notes them in `asked`.
fn plan(
    state: &NetState,
    destinations: &BTreeSet<IpAddr>,
    asked: &mut BTreeMap<NextHop, Instant>,
    now: Instant,
) -> Vec<NextHop> {
    let hops: BTreeSet<NextHop> =
        destinations.iter().filter_map(|address| state.next_hop_address(*address).ok()).collect();
    asked.retain(|hop, _| hops.contains(hop));
    let mut due: Vec<_> = hops
        .into_iter()
        .filter_map(|hop| {
            let (known, pause) = match state.neighbour(hop.ifindex, hop.address).map(|entry| entry.state) {
                None
                | Some(NeighbourState::None | NeighbourState::Failed | NeighbourState::Forgotten { .. }) => {
                    (false, RETRY_UNRESOLVED)
                }
                Some(NeighbourState::Stale) => (true, RETRY_STALE),
                // Good for now, or the kernel is asking already.
                Some(_) => return None,
            };
            let last = asked.get(&hop).copied();
            last.is_none_or(|last| now >= last + pause).then_some((known, last, hop))
        })
        .collect();
    due.sort_unstable();
    due.truncate(ROUND_LIMIT);
    let hops: Vec<_> = due.into_iter().map(|(_, _, hop)| hop).collect();
    asked.extend(hops.iter().map(|hop| (*hop, now)));
    hops
}

/// Has the kernel behave as if it had a packet for the neighbour: it makes the entry if there is none, and solicits.
async fn ask(netlink: &Netlink, hop: NextHop) -> Result<(), NetlinkError> {
    let mut message = NeighbourMessage::default();
    message.header.family = if hop.address.is_ipv4() { AddressFamily::Inet } else { AddressFamily::Inet6 };
    message.header.ifindex = hop.ifindex;
    message.header.flags = NeighbourFlags::Use;
    message.attributes.push(NeighbourAttribute::Destination(hop.address.into()));
    let action = || format!("look for neighbour {} on interface {}", hop.address, hop.ifindex);
    netlink.change(RouteNetlinkMessage::NewNeighbour(message), NLM_F_CREATE | NLM_F_REPLACE, action).await
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::net::{Interface, Neighbour, Route, RouteHop, RouteKind, RouteTable};

    fn address(last: u8) -> IpAddr {
        IpAddr::from([10, 0, 0, last])
    }

    fn host(neighbours: &[(u8, NeighbourState)]) -> NetState {
        let mut state = NetState::default();
        let (name, mac) = ("eth0".to_owned(), Some([2, 0, 0, 0, 0, 1]));
        state.insert_interface(Interface { index: 2, name, mac, mtu: 1500, up: true, kind: None });
        let way = |gateway| RouteHop { ifindex: 2, gateway, dead: false, encapsulated: false };
        let route = |prefix: &str, gateway| Route {
            table: RouteTable::Main,
            prefix: prefix.parse().unwrap(),
            kind: RouteKind::Unicast,
            metric: 0,
            mtu: None,
            hops: vec![way(gateway)],
        };
        state.insert_route(route("10.0.0.0/24", None));
        state.insert_route(route("192.0.2.0/24", Some(address(1))));
        for (last, neighbour) in neighbours {
            let mac = Some([2, 0, 0, 0, 1, *last]);
            state.insert_neighbour(Neighbour { ifindex: 2, address: address(*last), state: *neighbour, mac });
        }
        state
    }

    fn last_octets(hops: &[NextHop]) -> Vec<u8> {
        hops.iter()
            .map(|hop| match hop.address {
                IpAddr::V4(address) => address.octets()[3],
                IpAddr::V6(_) => panic!("no IPv6 here"),
            })
            .collect()
    }

    #[test]
    fn asks_for_what_is_unresolved_before_what_is_stale_and_leaves_the_rest() {
        let state = host(&[
            (3, NeighbourState::Stale),
            (4, NeighbourState::Reachable),
            (5, NeighbourState::Failed),
            (6, NeighbourState::Incomplete),
            (7, NeighbourState::Permanent),
            (8, NeighbourState::Forgotten { aged: false }),
        ]);
        let wanted = (2..9).map(address).collect();
        let hops = plan(&state, &wanted, &mut BTreeMap::new(), Instant::now());
        assert_eq!(last_octets(&hops), [2, 5, 8, 3]);
    }

    #[test]
    fn asks_once_for_the_gateway_of_many_and_not_again_at_once() {
        let state = host(&[]);
        let wanted =
            ["192.0.2.1", "192.0.2.2", "192.0.2.3", "198.51.100.1"].map(|a| a.parse().unwrap()).into();
        let (mut asked, start) = (BTreeMap::new(), Instant::now());
        assert_eq!(last_octets(&plan(&state, &wanted, &mut asked, start)), [1]);
        assert!(plan(&state, &wanted, &mut asked, start + RETRY_UNRESOLVED / 2).is_empty());
        assert_eq!(last_octets(&plan(&state, &wanted, &mut asked, start + RETRY_UNRESOLVED)), [1]);
        plan(&state, &BTreeSet::new(), &mut asked, start);
        assert!(asked.is_empty(), "what is not wanted any more must not be remembered");
    }

    #[test]
    fn a_round_is_bounded_and_the_next_takes_up_the_rest() {
        let state = host(&[]);
        let wanted = (1..=100).map(address).collect();
        let (mut asked, start) = (BTreeMap::new(), Instant::now());
        let first = plan(&state, &wanted, &mut asked, start);
        let second = plan(&state, &wanted, &mut asked, start + ROUND_PAUSE);
        assert_eq!((first.len(), second.len()), (ROUND_LIMIT, 100 - ROUND_LIMIT));
        assert!(second.iter().all(|hop| !first.contains(hop)));
        let third = plan(&state, &wanted, &mut asked, start + RETRY_STALE);
        assert_eq!(third, first, "the longest unasked come first");
    }
}
