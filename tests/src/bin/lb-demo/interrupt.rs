//! Ctrl-C and its like: the story ends at its next step, and everything is removed on the way out.

use std::{
    error::Error,
    fmt,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context, Result};
use lb_tests::guard;
use signal_hook::{
    consts::{SIGHUP, SIGINT, SIGTERM},
    iterator::Signals,
};

/// How long the ordinary way out may take before everything is removed from under it.
const PATIENCE: Duration = Duration::from_secs(20);
const STEP: Duration = Duration::from_millis(50);

/// Whether somebody wants the demo to end.
pub(crate) struct Interrupt(Arc<AtomicBool>);

/// Somebody did.
#[derive(Debug)]
pub(crate) struct Interrupted;

impl Interrupt {
    /// Watches for signals from now on; they end this process no more by themselves.
    pub(crate) fn watch() -> Result<Self> {
        let wanted = Arc::new(AtomicBool::new(false));
        let told = Arc::clone(&wanted);
        let mut signals = Signals::new([SIGINT, SIGTERM, SIGHUP]).context("watch for signals")?;
        thread::Builder::new()
            .name("signals".to_owned())
            .spawn(move || {
                // Later ones change nothing: the clean-up is at work.
                if signals.forever().next().is_some() {
                    told.store(true, Ordering::Relaxed);
                    thread::sleep(PATIENCE);
                    guard::cleanup();
                    std::process::exit(130);
                }
            })
            .context("start a thread")?;
        Ok(Self(wanted))
    }

    /// Fails with [`Interrupted`] once a signal has come.
    pub(crate) fn check(&self) -> Result<()> {
        if self.0.load(Ordering::Relaxed) {
            return Err(Interrupted.into());
        }
        Ok(())
    }

    /// Waits until `done` says so, or an interrupt, or `limit`; returns whether it did.
    pub(crate) fn wait(&self, limit: Duration, mut done: impl FnMut() -> Result<bool>) -> Result<bool> {
        let deadline = Instant::now() + limit;
        loop {
            self.check()?;
            if done()? {
                return Ok(true);
            }
            if Instant::now() >= deadline {
                return Ok(false);
            }
            thread::sleep(STEP.min(deadline - Instant::now()));
        }
    }
}

impl fmt::Display for Interrupted {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("interrupted")
    }
}

impl Error for Interrupted {}
