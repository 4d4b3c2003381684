//! What the agent says of its targets, asked on a thread of its own: a slow answer must not hold up the picture.

use std::{
    path::PathBuf,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    thread::{self, JoinHandle},
    time::Duration,
};

use anyhow::{Context, Result, ensure};
use hyper::{Method, StatusCode};
use lb_tests::lbd;
use lb_userspace::api::types::TargetView;

const PERIOD: Duration = Duration::from_millis(200);

/// Asks until it is dropped.
pub(crate) struct Watcher {
    latest: Arc<Mutex<Option<Vec<TargetView>>>>,
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl Watcher {
    pub(crate) fn start(socket: PathBuf) -> Result<Self> {
        let latest = Arc::new(Mutex::new(targets(&socket).ok()));
        let stop = Arc::new(AtomicBool::new(false));
        let (shared, stopped) = (Arc::clone(&latest), Arc::clone(&stop));
        let thread = thread::Builder::new().name("watcher".to_owned()).spawn(move || {
            while !stopped.load(Ordering::Relaxed) {
                // No answer is an answer too: there is no agent.
                let views = targets(&socket).ok();
                *shared.lock().unwrap_or_else(PoisonError::into_inner) = views;
                thread::sleep(PERIOD);
            }
        });
        Ok(Self { latest, stop, thread: Some(thread.context("start a thread")?) })
    }

    /// Every target of every group, by the last answer; `None` while there is none.
    pub(crate) fn latest(&self) -> Option<Vec<TargetView>> {
        self.latest.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

impl Drop for Watcher {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            // Its panic, if any, has been printed.
            let _ = thread.join();
        }
    }
}

/// Every target of every group, asked now.
pub(crate) fn targets(socket: &std::path::Path) -> Result<Vec<TargetView>> {
    let (status, body) = lbd::request(socket, Method::GET, "/v1/targets", None)?;
    ensure!(status == StatusCode::OK, "GET /v1/targets answered {status}: {body}");
    serde_json::from_str(&body).with_context(|| format!("GET /v1/targets answered no targets: {body}"))
}
