//! Carrying out the core's commands.

use std::{collections::VecDeque, sync::Arc};

use tokio::task::block_in_place;

use super::{engine::Engine, network};
use crate::{
    core::{Command, Event, Kernel},
    dataplane::{DataPlane as _, Write},
    health,
};

/// What became of an event's commands.
#[derive(Debug, Default)]
pub(super) struct Outcome {
    /// Why a configuration was refused.
    pub(super) refused: Option<Vec<String>>,
    /// What failed.
    pub(super) failed: Option<String>,
    /// Why target states would not survive a restart.
    pub(super) not_saved: Option<String>,
}

impl Engine {
    /// Brings an event to the core and carries out what follows from it.
    pub(super) async fn handle(&mut self, event: Event) -> Outcome {
        let mut outcome = Outcome::default();
        let mut events = VecDeque::from([event]);
        while let Some(event) = events.pop_front() {
            let mut not_saved = None;
            for command in self.core.handle(self.epoch.elapsed(), event) {
                match command {
                    Command::SaveRows(rows) => {
                        not_saved =
                            block_in_place(|| self.rows.store(&rows)).err().map(|error| error.to_string());
                    }
                    Command::SaveAdmin(admin) => match block_in_place(|| self.admin.store(&admin)) {
                        Ok(()) => drop(self.failures.remove("admin")),
                        Err(error) => {
                            let message = format!(
                                "target states would not survive a restart: {error}; tried again every second"
                            );
                            self.fail("admin", &message);
                            outcome.not_saved = Some(error.to_string());
                            events.push_back(Event::AdminNotSaved);
                        }
                    },
                    Command::Write(writes) => {
                        let result = self.write(&writes, not_saved.take());
                        if let Event::WriteFailed { error, .. } = &result {
                            outcome.failed = Some(error.clone());
                        }
                        events.push_front(result);
                    }
                    Command::ReadBack => match block_in_place(|| Kernel::read(&self.plane)) {
                        Ok(kernel) => {
                            self.failures.remove("read");
                            events.push_back(Event::ReadBack(Box::new(kernel)));
                        }
                        Err(error) => {
                            self.fail("read", &format!("the kernel's maps cannot be read: {error}"));
                        }
                    },
                    Command::StartChecks(checks) => self.start_checks(checks).await,
                    Command::Probe(due) => {
                        let target = due.check.incarnation;
                        self.instruct_prober(health::Command::Probe { target, check: due.check, at: due.at })
                            .await;
                    }
                    Command::StopChecks { life } => {
                        self.instruct_prober(health::Command::Stop { target: life }).await;
                    }
                    Command::Vips(vips) => {
                        self.vips.want(vips);
                        self.keep_vips(false).await;
                    }
                    Command::KeepWarm(destinations) => {
                        self.warmer.keep(destinations.iter().copied());
                        if destinations != self.destinations {
                            self.destinations = destinations;
                            let state = self.watch.current();
                            let facts = network::facts(&state, &self.destinations, self.interfaces());
                            events.push_back(Event::Network(Arc::new(facts)));
                        }
                    }
                    Command::Notify(notice) => self.events.push(self.today(), notice),
                    Command::Refuse(reasons) => outcome.refused = Some(reasons),
                }
            }
        }
        outcome
    }

    fn write(&mut self, writes: &[Write], not_saved: Option<String>) -> Event {
        // Rows that are not kept must not be named by flows.
        let result = match not_saved {
            Some(error) => Err(error),
            None => block_in_place(|| self.plane.write(writes)).map_err(|error| error.to_string()),
        };
        match result {
            Ok(()) => Event::Written,
            Err(error) => {
                tracing::error!("a write to the kernel's maps failed: {error}");
                Event::WriteFailed { error, control: self.plane.control().ok() }
            }
        }
    }

    pub(super) async fn instruct_prober(&mut self, command: health::Command<u64>) {
        // The prober takes commands as long as the engine runs; without it the agent is stopping.
        drop(self.prober.send(command).await);
    }
}
