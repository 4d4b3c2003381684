//! The server of the REST API.
//!
//! An [`Endpoint`] is one bound listener. What it may do follows from its kind: the Unix socket reads and writes,
//! loopback TCP only reads, since nobody is authenticated there.

mod endpoint;
mod events;
mod problem;
mod routes;

use std::{sync::Arc, time::Duration};

pub use endpoint::{BindError, Endpoint};
use hyper_util::{
    rt::{TokioIo, TokioTimer},
    service::TowerToHyperService,
};
use tokio::{
    io::{AsyncRead, AsyncWrite},
    sync::Semaphore,
    task::JoinSet,
};
use tokio_io_timeout::TimeoutStream;
use tokio_util::sync::CancellationToken;

use super::backend::Backend;

/// The largest configuration that is accepted, in bytes.
pub const MAX_CONFIGURATION_BYTES: usize = 16 << 20;

/// What one endpoint grants its clients.
#[derive(Debug, Clone, Copy)]
pub struct ServerLimits {
    /// Connections at a time; further ones wait in the kernel's queue.
    pub connections: usize,
    /// Event streams at a time; further ones are refused. Fewer than `connections`, so that watchers cannot lock
    /// everybody else out.
    pub event_streams: usize,
    /// Longest time to read a request's head, and to keep a connection without a request.
    pub header_timeout: Duration,
    /// Longest time from a request's head to its response.
    pub request_timeout: Duration,
    /// Longest time that a peer may leave what it was sent unread.
    pub write_timeout: Duration,
    /// Time that requests in progress get when the server stops.
    pub shutdown_grace: Duration,
}

impl Default for ServerLimits {
    fn default() -> Self {
        Self {
            connections: 128,
            event_streams: 64,
            header_timeout: Duration::from_secs(30),
            request_timeout: Duration::from_secs(60),
            write_timeout: Duration::from_secs(30),
            shutdown_grace: Duration::from_secs(5),
        }
    }
}

/// Whether requests may change anything.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Access {
    ReadWrite,
    ReadOnly,
}

impl Endpoint {
    /// Serves until `cancel` fires and the requests in progress have ended or the grace is over; then no task
    /// of the server is left, and the socket file is gone.
    pub async fn serve(self, backend: Arc<dyn Backend>, limits: ServerLimits, cancel: CancellationToken) {
        let access = match &self {
            Self::Unix(_) => Access::ReadWrite,
            Self::Tcp(_) => Access::ReadOnly,
        };
        let router = routes::router(backend, access, limits, cancel.clone());
        match self {
            Self::Unix(mut unix) => accept(&mut unix.listener, router, limits, cancel).await,
            Self::Tcp(mut listener) => accept(&mut listener, router, limits, cancel).await,
        }
    }
}

/// The routes that a Unix socket's clients reach, as a service by itself: what a test or a fuzzer calls without a
/// socket.
pub fn routes(backend: Arc<dyn Backend>, limits: ServerLimits, cancel: CancellationToken) -> axum::Router {
    routes::router(backend, Access::ReadWrite, limits, cancel)
}

async fn accept<L: axum::serve::Listener>(
    listener: &mut L,
    router: axum::Router,
    limits: ServerLimits,
    cancel: CancellationToken,
) {
    let slots = Arc::new(Semaphore::new(limits.connections));
    let mut connections = JoinSet::new();
    loop {
        while connections.try_join_next().is_some() {}
        let slot = tokio::select! {
            () = cancel.cancelled() => break,
            slot = Arc::clone(&slots).acquire_owned() => slot,
        };
        let Ok(slot) = slot else { break };
        let (io, _) = tokio::select! {
            () = cancel.cancelled() => break,
            accepted = listener.accept() => accepted,
        };
        let (router, cancel) = (router.clone(), cancel.clone());
        connections.spawn(async move {
            serve_connection(io, router, limits, cancel).await;
            drop(slot);
        });
    }
    let all = async { while connections.join_next().await.is_some() {} };
    if tokio::time::timeout(limits.shutdown_grace, all).await.is_err() {
        tracing::warn!("gave up requests that took longer than {:?} to end", limits.shutdown_grace);
        connections.shutdown().await;
    }
}

async fn serve_connection<I: AsyncRead + AsyncWrite + Unpin + Send + 'static>(
    io: I,
    router: axum::Router,
    limits: ServerLimits,
    cancel: CancellationToken,
) {
    let mut io = Box::pin(TimeoutStream::new(io));
    io.as_mut().set_write_timeout_pinned(Some(limits.write_timeout));
    let connection = hyper::server::conn::http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(limits.header_timeout)
        .serve_connection(TokioIo::new(io), TowerToHyperService::new(router));
    tokio::pin!(connection);
    let ended = tokio::select! {
        ended = connection.as_mut() => ended,
        () = cancel.cancelled() => {
            connection.as_mut().graceful_shutdown();
            connection.await
        }
    };
    if let Err(error) = ended {
        // The peer went away, stalled, or does not speak HTTP: its own affair.
        tracing::debug!("API connection ended: {error}");
    }
}
