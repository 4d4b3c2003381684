//! Undo steps that run exactly once: when their owner is dropped (also by a panic), or all at once on request.

use std::{
    collections::BTreeMap,
    sync::{
        Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
};

type Undo = Box<dyn FnOnce() + Send>;

static NEXT: AtomicU64 = AtomicU64::new(1);
static PENDING: Mutex<BTreeMap<u64, Undo>> = Mutex::new(BTreeMap::new());

/// An undo step: runs when the guard is dropped, or earlier by [`cleanup`], never twice.
#[derive(Debug)]
pub struct Guard(u64);

impl Guard {
    /// Registers `undo`. It must not create guards of its own, and reports its failures itself.
    pub fn new(undo: impl FnOnce() + Send + 'static) -> Self {
        let id = NEXT.fetch_add(1, Ordering::Relaxed);
        pending().insert(id, Box::new(undo));
        Self(id)
    }

    /// Forgets the undo step: what it would have undone stays after this process.
    pub fn keep(&self) {
        pending().remove(&self.0);
    }
}

impl Drop for Guard {
    fn drop(&mut self) {
        // The lock is released before the step runs: a step may take long.
        let undo = pending().remove(&self.0);
        if let Some(undo) = undo {
            undo();
        }
    }
}

/// Runs every pending undo step, newest first.
///
/// For an ordinary thread that has been told of an interrupt; it allocates and locks, so it must not be called from
/// a signal handler itself.
pub fn cleanup() {
    loop {
        let newest = pending().pop_last();
        match newest {
            Some((_, undo)) => undo(),
            None => return,
        }
    }
}

fn pending() -> MutexGuard<'static, BTreeMap<u64, Undo>> {
    PENDING.lock().unwrap_or_else(PoisonError::into_inner)
}
