//! Keeps a [`NetState`] true to the kernel, and tells whoever listens when it changes.

use std::{sync::Arc, time::Duration};

use futures::StreamExt;
use netlink_packet_core::NetlinkPayload;
use netlink_packet_route::{
    AddressFamily, RouteNetlinkMessage, address::AddressMessage, link::LinkMessage,
    neighbour::NeighbourMessage, route::RouteMessage,
};
use rtnetlink::MulticastGroup;
use tokio::{
    sync::watch,
    task::JoinHandle,
    time::{Instant, sleep, sleep_until},
};

use super::{
    decode,
    netlink::{Events, Netlink, NetlinkError},
    state::NetState,
};

/// Changes within this time are published as one.
const COALESCE: Duration = Duration::from_millis(5);
/// Some things that the kernel takes away it does not announce: the tables are read again at least this often.
const REREAD_EVERY: Duration = Duration::from_secs(30);
/// The least pause between two readings, and by how much a long reading stretches it.
const REREAD_PAUSE: Duration = Duration::from_millis(10);
const REREAD_SHARE: u32 = 4;
/// A neighbour that the kernel has let go of keeps its address for once to twice this time. The kernel asks for an unknown
/// one three times, a second apart.
const AGE_EVERY: Duration = Duration::from_secs(4);
/// After a failure: first pause, then twice as long each time, up to the last.
const BACKOFF: (Duration, Duration) = (Duration::from_millis(100), Duration::from_secs(10));

const GROUPS: [MulticastGroup; 6] = [
    MulticastGroup::Link,
    MulticastGroup::Neigh,
    MulticastGroup::Ipv4Ifaddr,
    MulticastGroup::Ipv6Ifaddr,
    MulticastGroup::Ipv4Route,
    MulticastGroup::Ipv6Route,
];

/// The task that watches the host's network. It ends when this is dropped.
#[derive(Debug)]
pub struct Watch {
    state: watch::Receiver<Arc<NetState>>,
    task: JoinHandle<()>,
}

impl Watch {
    /// Reads the tables once, then keeps them current.
    ///
    /// The sockets belong to the network namespace of the calling thread. After a socket failure new ones are made on
    /// a thread of the runtime, so a runtime's threads must all be in one namespace.
    pub async fn start() -> Result<Self, NetlinkError> {
        let sockets = Sockets::open()?;
        let mut first = NetState::default();
        sockets.read(&mut first).await?;
        let (publish, state) = watch::channel(Arc::new(first.clone()));
        let task = tokio::spawn(run(sockets, first, publish));
        Ok(Self { state, task })
    }

    /// Sees every change; several that come together are seen as one.
    pub fn subscribe(&self) -> watch::Receiver<Arc<NetState>> {
        self.state.clone()
    }

    /// The picture as it is now.
    pub fn current(&self) -> Arc<NetState> {
        self.state.borrow().clone()
    }
}

impl Drop for Watch {
    fn drop(&mut self) {
        self.task.abort();
    }
}

struct Sockets {
    requests: Netlink,
    events: Events,
    /// Ends the task that feeds `events` when it is dropped.
    _listener: Netlink,
}

impl Sockets {
    fn open() -> Result<Self, NetlinkError> {
        // Listening begins before the first reading, so no change falls between the two.
        let (listener, events) = Netlink::subscribe(&GROUPS)?;
        Ok(Self { requests: Netlink::open()?, events, _listener: listener })
    }

    async fn read(&self, state: &mut NetState) -> Result<(), NetlinkError> {
        let requests = &self.requests;
        let mut messages =
            requests.dump(RouteNetlinkMessage::GetLink(LinkMessage::default()), "list interfaces").await?;
        let address = RouteNetlinkMessage::GetAddress(AddressMessage::default());
        messages.extend(requests.dump(address, "list addresses").await?);
        for family in [AddressFamily::Inet, AddressFamily::Inet6] {
            let mut route = RouteMessage::default();
            route.header.address_family = family;
            match requests.dump(RouteNetlinkMessage::GetRoute(route), "list routes").await {
                Ok(routes) => messages.extend(routes),
                // A kernel without IPv6 has no such tables.
                Err(error) if family == AddressFamily::Inet6 && is_unsupported(&error) => continue,
                Err(error) => return Err(error),
            }
            let mut neighbour = NeighbourMessage::default();
            neighbour.header.family = family;
            messages.extend(
                requests.dump(RouteNetlinkMessage::GetNeighbour(neighbour), "list neighbours").await?,
            );
        }
        messages.iter().for_each(|message| decode::add(state, message));
        Ok(())
    }
}

fn is_unsupported(error: &NetlinkError) -> bool {
    matches!(error.errno(), Some(libc::EOPNOTSUPP | libc::EAFNOSUPPORT))
}

async fn run(mut sockets: Sockets, mut state: NetState, publish: watch::Sender<Arc<NetState>>) {
    let mut backoff = BACKOFF.0;
    loop {
        let error = follow(&mut sockets, &mut state, &publish, &mut backoff).await;
        tracing::warn!(%error, retry_in = ?backoff, "lost sight of the host's network; reading it again");
        loop {
            sleep(backoff).await;
            backoff = (backoff * 2).min(BACKOFF.1);
            match reopen(&mut state).await {
                Ok(new) => {
                    sockets = new;
                    break;
                }
                Err(error) => {
                    tracing::warn!(%error, retry_in = ?backoff, "the host's network cannot be read yet");
                }
            }
        }
        publish_if_new(&publish, &state);
    }
}

/// Follows the events until the sockets fail.
async fn follow(
    sockets: &mut Sockets,
    state: &mut NetState,
    publish: &watch::Sender<Arc<NetState>>,
    backoff: &mut Duration,
) -> NetlinkError {
    let mut next_reading = Instant::now() + REREAD_EVERY;
    let mut earliest_reading = Instant::now();
    let mut publish_at: Option<Instant> = None;
    let mut age_at: Option<Instant> = None;
    loop {
        age_at = state.has_forgotten().then(|| age_at.unwrap_or_else(|| Instant::now() + AGE_EVERY));
        tokio::select! {
            biased;
            () = sleep_until(publish_at.unwrap_or(next_reading)), if publish_at.is_some() => {
                publish_at = None;
                publish_if_new(publish, state);
            }
            () = sleep_until(age_at.unwrap_or(next_reading)), if age_at.is_some() => {
                age_at = None;
                if state.age_forgotten() {
                    publish_at = publish_at.or_else(|| Some(Instant::now()));
                }
            }
            () = sleep_until(next_reading) => {
                let began = Instant::now();
                if let Err(error) = reread(sockets, state).await {
                    return error;
                }
                *backoff = BACKOFF.0;
                let ended = Instant::now();
                next_reading = ended + REREAD_EVERY;
                earliest_reading = ended + (ended - began) * REREAD_SHARE + REREAD_PAUSE;
                publish_at = None;
                publish_if_new(publish, state);
            }
            event = sockets.events.next() => {
                let Some((message, _)) = event else {
                    return NetlinkError::Closed("report changes".to_owned());
                };
                let effect = match &message.payload {
                    NetlinkPayload::InnerMessage(message) => decode::apply(state, message),
                    NetlinkPayload::Overrun(_) => decode::Effect { changed: false, reread: true },
                    _ => continue,
                };
                if effect.changed {
                    publish_at = publish_at.or_else(|| Some(Instant::now() + COALESCE));
                }
                if effect.reread {
                    next_reading = next_reading.min(earliest_reading.max(Instant::now() + COALESCE));
                }
            }
        }
    }
}

async fn reopen(state: &mut NetState) -> Result<Sockets, NetlinkError> {
    let mut sockets = Sockets::open()?;
    reread(&mut sockets, state).await?;
    Ok(sockets)
}

/// Replaces the picture by a fresh one.
///
/// Events that are waiting already are part of what will be read. Those that arrive meanwhile are applied over it in
/// their order, so the last word about each object is the kernel's newest.
async fn reread(sockets: &mut Sockets, state: &mut NetState) -> Result<(), NetlinkError> {
    while sockets.events.try_recv().is_ok() {}
    let mut fresh = NetState::default();
    sockets.read(&mut fresh).await?;
    fresh.inherit_neighbours(state);
    *state = fresh;
    Ok(())
}

fn publish_if_new(publish: &watch::Sender<Arc<NetState>>, state: &NetState) {
    publish.send_if_modified(|published| {
        let new = **published != *state;
        if new {
            *published = Arc::new(state.clone());
        }
        new
    });
}

#[cfg(test)]
mod tests {
    use tokio::time::timeout;

    use super::*;

    #[tokio::test]
    async fn failed_sockets_are_replaced_and_the_tables_read_again() {
        let mut sockets = Sockets::open().unwrap();
        // As after a failure: nobody sends on it any more.
        sockets.events = futures::channel::mpsc::unbounded().1;
        let (publish, mut state) = watch::channel(Arc::default());
        let task = tokio::spawn(run(sockets, NetState::default(), publish));
        let read = state.wait_for(|state| state.interface_named("lo").is_some());
        timeout(Duration::from_secs(5), read).await.expect("never read again").unwrap();
        task.abort();
    }
}
