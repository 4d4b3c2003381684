//! One check of one target.

use std::{error::Error, io, net::SocketAddr, time::Duration};

use tokio::{
    net::TcpStream,
    time::{Instant, timeout_at},
};

use super::compiled::{Compiled, Question};
use crate::core::health::{Outcome, Phase, Reason};

/// How one check ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ProbeResult {
    /// Whether the target answered as expected, or why not.
    pub outcome: Outcome,
    /// From the first packet to the moment the outcome was known.
    pub took: Duration,
}

/// Asks the target once; ends within the check's timeout. Dropping the future abandons the check.
pub async fn probe(check: &Compiled, target: SocketAddr) -> ProbeResult {
    let start = Instant::now();
    let deadline = Deadline { at: start + check.timeout, limit: check.timeout };
    let answered = ask(check, check.address(target), &deadline).await;
    ProbeResult { outcome: answered.outcome, took: answered.at - start }
}

async fn ask(check: &Compiled, address: SocketAddr, deadline: &Deadline) -> Answered {
    let stream = match deadline.bound(Phase::Connect, TcpStream::connect(address)).await {
        Ok(Ok(stream)) => stream,
        Ok(Err(error)) => return Answered::now(Err(io_reason(&error, Phase::Connect))),
        Err(reason) => return Answered::now(Err(reason)),
    };
    // Where nothing listens on a loopback port of the ephemeral range, TCP may connect a socket to itself.
    if stream.local_addr().is_ok_and(|local| local == address) {
        return Answered::now(Err(Reason::Refused));
    }
    match &check.question {
        // Closed in order, not by a reset: servers log resets as errors, and TIME_WAIT stays with this node.
        Question::Tcp => Answered::now(Ok(())),
        Question::Http(http) => http.exchange(stream, address, deadline).await,
        Question::Https(http, tls) => {
            match deadline.bound(Phase::Tls, tls.connect(stream, address.ip())).await {
                Ok(Ok(stream)) => http.exchange(stream, address, deadline).await,
                Ok(Err(error)) => Answered::now(Err(io_reason(&error, Phase::Tls))),
                Err(reason) => Answered::now(Err(reason)),
            }
        }
    }
}

/// An outcome and when it was known; closing the connection may have taken longer.
pub(super) struct Answered {
    pub(super) outcome: Outcome,
    pub(super) at: Instant,
}

impl Answered {
    pub(super) fn now(outcome: Outcome) -> Self {
        Self { outcome, at: Instant::now() }
    }
}

/// The end of a check's time.
pub(super) struct Deadline {
    pub(super) at: Instant,
    limit: Duration,
}

impl Deadline {
    /// Waits for a part of the check; if time runs out, says during what.
    pub(super) async fn bound<T>(&self, phase: Phase, part: impl Future<Output = T>) -> Result<T, Reason> {
        timeout_at(self.at, part).await.map_err(|_| Reason::TimedOut { after: self.limit, phase })
    }
}

/// What an error of the connection means.
pub(super) fn io_reason(error: &io::Error, phase: Phase) -> Reason {
    if let Some(tls) = find::<rustls::Error>(error) {
        return super::tls::reason(tls);
    }
    match error.raw_os_error() {
        Some(libc::EMFILE | libc::ENFILE) => {
            return Reason::Local("too many open files; raise the agent's limit (LimitNOFILE)".into());
        }
        Some(libc::ENOBUFS | libc::ENOMEM) => return Reason::Local("out of memory for sockets".into()),
        Some(libc::EADDRNOTAVAIL) => {
            return Reason::Local("no free source port or no source address for this target".into());
        }
        Some(libc::ENETUNREACH) => return Reason::Unreachable("no route to the target"),
        Some(libc::EHOSTUNREACH) => {
            return Reason::Unreachable("target unreachable: its neighbour does not answer");
        }
        _ => {}
    }
    match error.kind() {
        io::ErrorKind::ConnectionRefused => Reason::Refused,
        io::ErrorKind::ConnectionReset | io::ErrorKind::BrokenPipe => Reason::Reset(phase),
        io::ErrorKind::UnexpectedEof => Reason::Closed(phase),
        _ => Reason::Io { error: error.to_string(), phase },
    }
}

/// The first error of this type in a chain of sources, an IO error's own payload included.
pub(super) fn find<'a, E: Error + 'static>(error: &'a (dyn Error + 'static)) -> Option<&'a E> {
    let mut next = Some(error);
    while let Some(error) = next {
        if let Some(found) = error.downcast_ref() {
            return Some(found);
        }
        // An IO error passes over its payload when asked for its source.
        next = match error.downcast_ref::<io::Error>().and_then(io::Error::get_ref) {
            Some(payload) => Some(payload),
            None => error.source(),
        };
    }
    None
}

#[cfg(test)]
mod tests;

#[cfg(test)]
mod tls_tests;
