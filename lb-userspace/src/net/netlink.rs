//! Requests to the kernel's rtnetlink: one connection, each request with a timeout and a typed error.

use std::{io, time::Duration};

use futures::{StreamExt, channel::mpsc::UnboundedReceiver};
use netlink_packet_core::{
    NLM_F_ACK, NLM_F_DUMP, NLM_F_DUMP_INTR, NLM_F_REQUEST, NetlinkMessage, NetlinkPayload,
};
use netlink_packet_route::RouteNetlinkMessage;
use netlink_sys::SocketAddr;
use nix::sys::socket::{setsockopt, sockopt};
use rtnetlink::MulticastGroup;
use thiserror::Error;
use tokio::{task::JoinHandle, time::timeout};

/// No request that the kernel answers at all takes this long, a dump of a full routing table excepted.
const REQUEST_TIMEOUT: Duration = Duration::from_secs(2);
const DUMP_TIMEOUT: Duration = Duration::from_secs(10);
/// A dump that a change interrupts is begun again, this often at most.
const DUMP_ATTEMPTS: usize = 5;
/// Room for a burst of events, in bytes; the kernel grants what the process may have.
const EVENT_BUFFER: usize = 8 << 20;

/// What went wrong between the agent and the kernel's netlink.
#[derive(Debug, Error)]
pub enum NetlinkError {
    /// No socket could be made.
    #[error("cannot open a netlink socket: {0}")]
    Open(#[source] io::Error),
    /// The kernel said no.
    #[error("the kernel refused to {action}: {source}{}", advice(source))]
    Refused {
        /// What was asked, as in "add 10.0.0.9/32 to interface 3".
        action: String,
        /// The kernel's answer.
        source: io::Error,
    },
    /// The kernel did not answer in time.
    #[error("the kernel did not answer within {0:?} when asked to {1}")]
    Timeout(Duration, String),
    /// The socket is closed.
    #[error("the netlink connection closed when the kernel was asked to {0}")]
    Closed(String),
    /// The tables changed under every attempt to read them.
    #[error("the kernel's tables changed during each of {DUMP_ATTEMPTS} attempts to {0}")]
    Interrupted(String),
}

impl NetlinkError {
    /// The error number that the kernel answered with.
    pub fn errno(&self) -> Option<i32> {
        match self {
            Self::Refused { source, .. } => source.raw_os_error(),
            _ => None,
        }
    }
}

fn advice(source: &io::Error) -> &'static str {
    match source.raw_os_error() {
        Some(libc::EPERM) => " (run the agent as root, or give it CAP_NET_ADMIN)",
        // The kernel's answer to an IPv6 address where IPv6 is off.
        Some(libc::EACCES) => " (IPv6 is disabled on the interface: see net.ipv6.conf.*.disable_ipv6)",
        Some(libc::ENODEV) => " (the interface does not exist: `ip link` shows those that do)",
        Some(libc::EOPNOTSUPP) => {
            " (IPv6 may be disabled on the interface: see net.ipv6.conf.*.disable_ipv6)"
        }
        _ => "",
    }
}

/// A connection for requests, in the network namespace of the thread that opened it. Its task ends when it is dropped.
#[derive(Debug)]
pub(super) struct Netlink {
    handle: rtnetlink::Handle,
    task: JoinHandle<()>,
}

/// The events of some multicast groups, in the kernel's order. `Overrun` stands for events that were lost.
pub(super) type Events = UnboundedReceiver<(NetlinkMessage<RouteNetlinkMessage>, SocketAddr)>;

impl Netlink {
    /// Opens a connection; must be called inside a tokio runtime.
    pub(super) fn open() -> Result<Self, NetlinkError> {
        let (mut connection, handle, _events) = rtnetlink::new_connection().map_err(NetlinkError::Open)?;
        // Only the end of a dump says whether a change interrupted it.
        connection.set_forward_done(true);
        Ok(Self { handle, task: tokio::spawn(connection) })
    }

    /// Opens a connection that only listens.
    pub(super) fn subscribe(groups: &[MulticastGroup]) -> Result<(Self, Events), NetlinkError> {
        let (mut connection, handle, events) =
            rtnetlink::new_multicast_connection(groups).map_err(NetlinkError::Open)?;
        let socket = Raw(connection.socket_mut());
        // Best effort: a smaller buffer only means that events are lost, and the tables read again, sooner.
        let _ = setsockopt(&socket, sockopt::RcvBufForce, &EVENT_BUFFER)
            .or_else(|_| setsockopt(&socket, sockopt::RcvBuf, &EVENT_BUFFER));
        Ok((Self { handle, task: tokio::spawn(connection) }, events))
    }

    /// Asks for a change and waits for the kernel's answer.
    pub(super) async fn change(
        &self,
        message: RouteNetlinkMessage,
        flags: u16,
        action: impl FnOnce() -> String,
    ) -> Result<(), NetlinkError> {
        self.exchange(message, NLM_F_REQUEST | NLM_F_ACK | flags, REQUEST_TIMEOUT, action).await.map(|_| ())
    }

    /// Asks for one object.
    pub(super) async fn get(
        &self,
        message: RouteNetlinkMessage,
        action: impl FnOnce() -> String,
    ) -> Result<Vec<RouteNetlinkMessage>, NetlinkError> {
        let answer = self.exchange(message, NLM_F_REQUEST | NLM_F_ACK, REQUEST_TIMEOUT, action).await?;
        Ok(answer.messages)
    }

    /// Reads a whole table as it stood at one moment.
    pub(super) async fn dump(
        &self,
        message: RouteNetlinkMessage,
        action: &str,
    ) -> Result<Vec<RouteNetlinkMessage>, NetlinkError> {
        for _ in 0..DUMP_ATTEMPTS {
            let flags = NLM_F_REQUEST | NLM_F_DUMP;
            let answer = self.exchange(message.clone(), flags, DUMP_TIMEOUT, || action.to_owned()).await?;
            if !answer.interrupted {
                return Ok(answer.messages);
            }
        }
        Err(NetlinkError::Interrupted(action.to_owned()))
    }

    async fn exchange(
        &self,
        message: RouteNetlinkMessage,
        flags: u16,
        limit: Duration,
        action: impl FnOnce() -> String,
    ) -> Result<Answer, NetlinkError> {
        let mut request = NetlinkMessage::from(message);
        request.header.flags = flags;
        let answer = timeout(limit, collect(self.handle.clone(), request)).await;
        match answer {
            Ok(Ok(answer)) => Ok(answer),
            Ok(Err(Some(source))) => Err(NetlinkError::Refused { action: action(), source }),
            Ok(Err(None)) => Err(NetlinkError::Closed(action())),
            Err(_) => Err(NetlinkError::Timeout(limit, action())),
        }
    }
}

impl Drop for Netlink {
    fn drop(&mut self) {
        self.task.abort();
    }
}

#[derive(Default)]
struct Answer {
    messages: Vec<RouteNetlinkMessage>,
    interrupted: bool,
}

async fn collect(
    mut handle: rtnetlink::Handle,
    request: NetlinkMessage<RouteNetlinkMessage>,
) -> Result<Answer, Option<io::Error>> {
    let is_dump = request.header.flags & NLM_F_DUMP == NLM_F_DUMP;
    let mut stream = handle.request(request).map_err(|_| None)?;
    let mut answer = Answer::default();
    while let Some(message) = stream.next().await {
        answer.interrupted |= message.header.flags & NLM_F_DUMP_INTR != 0;
        match message.payload {
            NetlinkPayload::InnerMessage(inner) => answer.messages.push(inner),
            NetlinkPayload::Error(error) if error.code.is_some() => return Err(Some(error.to_io())),
            NetlinkPayload::Done(done) if done.code < 0 => {
                return Err(Some(io::Error::from_raw_os_error(-done.code)));
            }
            NetlinkPayload::Done(_) => return Ok(answer),
            _ => {}
        }
    }
    // A dump ends with a message of its own; without it, the connection broke half-way.
    if is_dump { Err(None) } else { Ok(answer) }
}

/// Lends the descriptor of a netlink socket, which the crate offers as a number only.
struct Raw<'a>(&'a netlink_sys::TokioSocket);

impl std::os::fd::AsFd for Raw<'_> {
    fn as_fd(&self) -> std::os::fd::BorrowedFd<'_> {
        use std::os::fd::AsRawFd as _;
        // SAFETY: the socket owns the descriptor and outlives this borrow of it.
        unsafe { std::os::fd::BorrowedFd::borrow_raw(self.0.as_raw_fd()) }
    }
}
