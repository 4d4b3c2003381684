//! The agent from its start to its end: parse, build, serve, drain.

use std::{path::PathBuf, sync::Arc};

use tokio::{
    signal::unix::{SignalKind, signal},
    sync::{mpsc, watch},
    task::JoinSet,
    time::{Instant, timeout},
};
use tokio_util::sync::CancellationToken;

use super::{
    backend::Handle,
    engine::Request,
    error::AgentError,
    events::EventLog,
    lock::{lock, lock_host},
    start::{Channels, First, GRACE, build, first},
};
use crate::{
    api::{
        backend::Backend,
        server::{Endpoint, ServerLimits},
        types::Readiness,
    },
    config::revision::Revisions,
    dataplane::kernel::{PacketLogLevel, privileged},
    health::{Prober, concurrency},
};

/// What the agent is told on the command line.
#[derive(Debug, Clone)]
pub struct Options {
    /// The configuration file: seeds the first start, is read again on SIGHUP.
    pub config: Option<PathBuf>,
    /// Takes the place of the configured interfaces.
    pub interface: Option<String>,
    /// Where revisions, rows and target states are kept.
    pub state_dir: PathBuf,
    /// The API's socket.
    pub socket: PathBuf,
    /// Where programs, maps and links are pinned.
    pub pin_dir: PathBuf,
    /// Whether and how much the program logs.
    pub packet_log: Option<PacketLogLevel>,
}

/// Runs the agent until SIGTERM or SIGINT. The data plane goes on afterwards.
///
/// # Errors
/// If it cannot start, or a task of it ends.
pub async fn run(options: Options) -> Result<(), AgentError> {
    let epoch = Instant::now();
    let stop = CancellationToken::new();
    // Before anything slow, so that a signal during the start is not the default action.
    let signals = Signals::install()?;
    privileged()?;
    let _host = lock_host()?;
    let _lock = lock(&options.state_dir, &options.pin_dir)?;
    let revisions = Revisions::open(&options.state_dir)?;
    let mut first = first(&options, &revisions)?;
    // Before anything is changed: an address in use is found out while nothing has to be taken back.
    let endpoints = endpoints(&options, &mut first).await?;

    let events = Arc::new(EventLog::new());
    let (readiness, ready) = watch::channel(Readiness::default());
    let (to_prober, prober_commands) = mpsc::channel(256);
    let (reports, from_prober) = mpsc::unbounded_channel();
    let (requests, from_api) = mpsc::channel(64);
    let mut tasks = JoinSet::new();

    let prober = Prober::new(epoch, concurrency(), reports);
    // It must take commands while the engine is built.
    let prober_stop = stop.child_token();
    tasks.spawn(async move {
        prober.run(prober_commands, prober_stop).await;
        "prober"
    });

    let channels = Channels { prober: to_prober, events: Arc::clone(&events), readiness, epoch };
    let engine = build(&options, revisions, first, channels).await?;
    let packet_log = options.packet_log.map(|_| engine.plane.packet_log()).transpose()?;
    let backend: Arc<dyn Backend> = Arc::new(Handle { requests: requests.clone(), readiness: ready, events });

    if let Some(log) = packet_log {
        let stop = stop.child_token();
        tasks.spawn(async move {
            if let Err(error) = log.run(stop).await {
                tracing::error!("the packet log has ended: {error}");
            }
            "packet log"
        });
    }
    for endpoint in endpoints {
        let (backend, stop) = (Arc::clone(&backend), stop.child_token());
        tasks.spawn(async move {
            endpoint.serve(backend, ServerLimits::default(), stop).await;
            "API server"
        });
    }
    // The engine outlives the server, whose last requests it answers.
    let engine_stop = CancellationToken::new();
    let mut engine = tokio::spawn(engine.run(from_api, from_prober, engine_stop.clone()));
    drop(backend);

    tracing::info!(socket = %options.socket.display(), "ready");
    let ended = tokio::select! {
        () = signals.wait(requests) => None,
        ended = tasks.join_next() => Some(ended.and_then(Result::ok).unwrap_or("task")),
        _ = &mut engine => Some("engine"),
    };
    stop.cancel();
    let all = async { while tasks.join_next().await.is_some() {} };
    if timeout(GRACE, all).await.is_err() {
        tracing::warn!("gave up tasks that did not end within {GRACE:?}");
        tasks.shutdown().await;
    }
    engine_stop.cancel();
    if ended != Some("engine") && timeout(GRACE, &mut engine).await.is_err() {
        tracing::warn!("gave up the engine, which did not end within {GRACE:?}");
        engine.abort();
    }
    ended.map_or(Ok(()), |task| Err(AgentError::TaskEnded(task)))
}

async fn endpoints(options: &Options, first: &mut First) -> Result<Vec<Endpoint>, AgentError> {
    let mut endpoints = vec![Endpoint::unix(&options.socket)?];
    if let Some(address) = first.config.api.listen {
        match Endpoint::tcp(address).await {
            Ok(endpoint) => endpoints.push(endpoint),
            // The data plane may be at work without an agent, which is worse than an agent without this.
            Err(error) if first.was_accepted() => first.failures.push((
                "api",
                format!(
                    "api.listen: {error}; the API is served on {} alone until lbd is restarted",
                    options.socket.display()
                ),
            )),
            Err(error) => return Err(error.into()),
        }
    }
    Ok(endpoints)
}

struct Signals {
    hangup: tokio::signal::unix::Signal,
    terminate: tokio::signal::unix::Signal,
    interrupt: tokio::signal::unix::Signal,
}

impl Signals {
    fn install() -> Result<Self, AgentError> {
        let install = |kind| signal(kind).map_err(AgentError::system("install a signal handler"));
        Ok(Self {
            hangup: install(SignalKind::hangup())?,
            terminate: install(SignalKind::terminate())?,
            interrupt: install(SignalKind::interrupt())?,
        })
    }

    /// Passes SIGHUP on until the agent is to stop.
    async fn wait(mut self, requests: mpsc::Sender<Request>) {
        loop {
            tokio::select! {
                _ = self.hangup.recv() => {
                    tracing::info!("SIGHUP: reading the configuration file again");
                    if requests.try_send(Request::Reload).is_err() {
                        tracing::warn!("too busy to read the configuration file; send SIGHUP again");
                    }
                }
                _ = self.terminate.recv() => break tracing::info!("SIGTERM: stopping"),
                _ = self.interrupt.recv() => break tracing::info!("SIGINT: stopping"),
            }
        }
    }
}
