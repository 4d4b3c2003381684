//! The task that runs checks at the moments the core names.

use std::{
    collections::HashMap, hash::Hash, net::SocketAddr, panic::AssertUnwindSafe, sync::Arc, time::Duration,
};

use futures::FutureExt;
use nix::sys::resource::{Resource, getrlimit};
use tokio::{
    sync::{Semaphore, mpsc},
    task::{AbortHandle, JoinSet},
    time::{Instant, sleep_until},
};
use tokio_util::sync::CancellationToken;

use super::{Compiled, ProbeResult, probe};
use crate::core::health::{Check, CheckId, Reason, Time};

/// What the prober is told. `K` names a target.
#[derive(Debug)]
pub enum Command<K> {
    /// This target is to be checked so. Of a target that is already known, the address and the check are
    /// replaced, and a check that is waiting or running is abandoned.
    Start {
        /// Whom.
        target: K,
        /// Its own address and port; the check may ask another port.
        address: SocketAddr,
        /// How; shared by the group's targets.
        check: Arc<Compiled>,
    },
    /// Check this target at this moment; takes the place of a check still waiting or running.
    Probe {
        /// Whom; started before.
        target: K,
        /// The check's name, given back with the result.
        check: CheckId,
        /// When; at once if already past.
        at: Time,
    },
    /// Check this target no more, and forget it.
    Stop {
        /// Whom.
        target: K,
    },
}

/// The result of a check.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Report<K> {
    /// Whose.
    pub target: K,
    /// The check's name.
    pub check: CheckId,
    /// How it went.
    pub result: Check,
}

/// Runs checks and reports their results. Each [`Command::Probe`] leads to one [`Report`], unless it is replaced,
/// stopped, or for a target that was never started.
///
/// Reports go to an unbounded channel so that the prober never waits for a receiver that waits for the prober;
/// as the core asks for the next check only after a result, at most one per target lies in it.
#[derive(Debug)]
pub struct Prober<K> {
    epoch: Instant,
    reports: mpsc::UnboundedSender<Report<K>>,
    permits: Arc<Semaphore>,
    targets: HashMap<K, Checked>,
    tasks: JoinSet<Report<K>>,
}

/// A target that was started.
#[derive(Debug)]
struct Checked {
    address: SocketAddr,
    check: Arc<Compiled>,
    awaited: Option<(CheckId, AbortHandle)>,
}

impl Checked {
    fn abandon(&mut self) {
        if let Some((_, task)) = self.awaited.take() {
            task.abort();
        }
    }
}

impl<K> Prober<K>
where
    K: Clone + Eq + Hash + Send + 'static,
{
    /// `epoch` is the moment at which [`Time`] is zero; at most `concurrency` checks run at a time.
    #[must_use]
    pub fn new(epoch: Instant, concurrency: usize, reports: mpsc::UnboundedSender<Report<K>>) -> Self {
        Self {
            epoch,
            reports,
            permits: Arc::new(Semaphore::new(concurrency.clamp(1, Semaphore::MAX_PERMITS))),
            targets: HashMap::new(),
            tasks: JoinSet::new(),
        }
    }

    /// Carries out commands until `stop` is cancelled or the commands' sender is gone; no check runs on after.
    pub async fn run(mut self, mut commands: mpsc::Receiver<Command<K>>, stop: CancellationToken) {
        loop {
            tokio::select! {
                () = stop.cancelled() => break,
                command = commands.recv() => match command {
                    Some(command) => self.carry_out(command),
                    None => break,
                },
                Some(ended) = self.tasks.join_next() => {
                    // An error is an abandoned check's: nobody waits for it.
                    if let Ok(report) = ended {
                        self.report(report);
                    }
                }
            }
        }
        self.tasks.shutdown().await;
    }

    fn carry_out(&mut self, command: Command<K>) {
        match command {
            Command::Start { target, address, check } => {
                let started = Checked { address, check, awaited: None };
                if let Some(mut former) = self.targets.insert(target, started) {
                    former.abandon();
                }
            }
            Command::Probe { target, check, at } => {
                let Some(checked) = self.targets.get_mut(&target) else {
                    tracing::warn!(?check, "a check was asked for of a target that was not started");
                    return;
                };
                checked.abandon();
                let run = run_check(
                    Arc::clone(&checked.check),
                    checked.address,
                    self.epoch,
                    at,
                    Arc::clone(&self.permits),
                );
                let task = self.tasks.spawn(async move { Report { target, check, result: run.await } });
                checked.awaited = Some((check, task));
            }
            Command::Stop { target } => {
                if let Some(mut former) = self.targets.remove(&target) {
                    former.abandon();
                }
            }
        }
    }

    /// Passes a result on, unless its check was abandoned after it had ended.
    fn report(&mut self, report: Report<K>) {
        let Some(checked) = self.targets.get_mut(&report.target) else { return };
        if checked.awaited.take_if(|(awaited, _)| *awaited == report.check).is_some() {
            // Without a receiver the agent is stopping.
            drop(self.reports.send(report));
        }
    }
}

/// Checks that may run at a time under this process's limit of open files, half of which is left to others.
#[must_use]
pub fn concurrency() -> usize {
    let files = getrlimit(Resource::RLIMIT_NOFILE).map_or(1024, |(soft, _)| soft);
    usize::try_from(files / 2).unwrap_or(usize::MAX).clamp(16, 4096)
}

async fn run_check(
    check: Arc<Compiled>,
    address: SocketAddr,
    epoch: Instant,
    at: Time,
    permits: Arc<Semaphore>,
) -> Check {
    sleep_until(epoch + at).await;
    // The semaphore is never closed.
    let _permit = permits.acquire().await;
    let at = epoch.elapsed();
    // A fault in the check must not end the checking of its target: there would be no result to go on from.
    let ended = AssertUnwindSafe(probe(&check, address)).catch_unwind().await;
    let ProbeResult { outcome, took } = ended.unwrap_or_else(|_| {
        let reason = Reason::Local("the check itself failed; this is a bug in Portside".into());
        ProbeResult { outcome: Err(reason), took: Duration::ZERO }
    });
    Check { at, took, outcome }
}

#[cfg(test)]
mod tests;
