//! What each command does.

use std::{
    io::{self, IsTerminal as _, Read as _},
    path::{Path, PathBuf},
    time::Duration,
};

use clap::CommandFactory as _;
use jiff::Timestamp;
use serde::Serialize;

use super::{
    args::{Cli, Command, FlowsArgs, Format, TargetName, Watch},
    error::Failure,
    output::{print, remark, render, render_one_of_many},
    views, watch,
};
use crate::api::{
    client::{Address, Client, ClientError},
    server::MAX_CONFIGURATION_BYTES,
    types::{
        AdminState, EventKind, FlowQuery, FlowState, FlowView, FlowsPage, HealthHistory, TargetState,
        TargetStateChange, TargetView, Version,
    },
};

/// Time between two looks at a target that is waited for.
const POLL: Duration = Duration::from_millis(500);
/// Time between two attempts to reach an agent that was there before.
const RETRY: Duration = Duration::from_secs(1);
/// How much later than its deadline a drain may end before it is taken for stuck.
const DRAIN_GRACE: Duration = Duration::from_secs(30);

pub(crate) async fn run(cli: Cli) -> Result<(), Failure> {
    let address = cli.global.address.unwrap_or(Address::Unix(cli.global.socket));
    let lbctl = Lbctl { client: Client::new(address, cli.global.timeout), format: cli.global.output };
    match cli.command {
        Command::Status { watch } => {
            let look = async || {
                let status = lbctl.client.status().await?;
                let (groups, targets) = match lbctl.format {
                    Format::Table => (lbctl.client.groups().await?, lbctl.client.targets(None).await?),
                    Format::Json | Format::Yaml => (Vec::new(), Vec::new()),
                };
                lbctl.rendered(watch, &status, |status| {
                    views::status(status, &groups, &targets, Timestamp::now())
                })
            };
            watch::show(watch, lbctl.format, look).await
        }
        Command::Services { watch } => {
            let look = async || {
                let services = lbctl.client.services().await?;
                lbctl.rendered(watch, &services, |services| views::services(services))
            };
            watch::show(watch, lbctl.format, look).await
        }
        Command::Targets { name, watch } => lbctl.targets(name.as_deref(), watch).await,
        Command::Flows { flows, watch } => lbctl.flows(&flows, watch).await,
        Command::Drops { all, watch } => {
            let look = async || {
                let drops = lbctl.client.drops().await?;
                lbctl.rendered(watch, &drops, |drops| views::drops(drops, all, Timestamp::now()))
            };
            watch::show(watch, lbctl.format, look).await
        }
        Command::Events { follow: false } => {
            let events = lbctl.client.events(None).await?;
            print(&render(lbctl.format, &events, |events| views::event_list(events))?)
        }
        Command::Events { follow: true } => lbctl.follow_events().await,
        Command::Apply { file, dry_run, if_revision } => lbctl.apply(&file, dry_run, if_revision).await,
        Command::Drain { target, deadline, wait } => lbctl.drain(&target, deadline, wait).await,
        Command::Ready { target } => lbctl.set(&target, TargetState::Ready, None).await.map(drop),
        Command::Maintenance { target } => lbctl.set(&target, TargetState::Maintenance, None).await.map(drop),
        Command::Version => lbctl.version().await,
        Command::Completions { shell } => {
            let mut script = Vec::new();
            clap_complete::generate(shell, &mut Cli::command(), "lbctl", &mut script);
            print(&String::from_utf8_lossy(&script))
        }
    }
}

struct Lbctl {
    client: Client,
    format: Format,
}

impl Lbctl {
    fn rendered<T: Serialize>(
        &self,
        watch: Watch,
        value: &T,
        table: impl FnOnce(&T) -> String,
    ) -> Result<String, Failure> {
        match watch.watch {
            None => render(self.format, value, table),
            Some(_) => render_one_of_many(self.format, value, table),
        }
    }

    async fn targets(&self, name: Option<&str>, watch: Watch) -> Result<(), Failure> {
        let look = async || match name.and_then(|name| name.split_once('/')) {
            Some((group, target)) => {
                let detail = TargetDetail {
                    target: self.client.target(group, target).await?,
                    history: self.client.health(group, target).await?,
                };
                let table = |d: &TargetDetail| views::target(&d.target, &d.history, Timestamp::now());
                self.rendered(watch, &detail, table)
            }
            None => {
                let targets = self.client.targets(name).await?;
                self.rendered(watch, &targets, |targets| views::targets(targets, Timestamp::now()))
            }
        };
        watch::show(watch, self.format, look).await
    }

    async fn flows(&self, args: &FlowsArgs, watch: Watch) -> Result<(), Failure> {
        let look = async || {
            let (mut flows, more) = self.all_flows(args).await?;
            // The kernel has them in no order. What is at work comes before what only rests, the newest first.
            let age = |flow: &FlowView| flow.age_seconds.unwrap_or_default();
            flows.sort_by(|a, b| {
                let rests = |flow: &FlowView| flow.state == FlowState::TimeWait;
                rests(a).cmp(&rests(b)).then(age(a).total_cmp(&age(b)))
            });
            if more && watch.watch.is_none() {
                remark(&format!("more flows match than these {}: show more with --limit", flows.len()));
            }
            self.rendered(watch, &flows, |flows| views::flows(flows))
        };
        watch::show(watch, self.format, look).await
    }

    /// As many flows as were asked for, page by page, and whether there are more.
    async fn all_flows(&self, args: &FlowsArgs) -> Result<(Vec<FlowView>, bool), Failure> {
        let (group, target) = match args.target.as_deref().map(|name| name.split_once('/').ok_or(name)) {
            None => (None, None),
            Some(Ok((group, target))) => (Some(group.to_owned()), Some(target.to_owned())),
            Some(Err(target)) => (None, Some(target.to_owned())),
        };
        let mut query = FlowQuery {
            service: args.service.clone(),
            group,
            target,
            client: args.client,
            state: args.state,
            ..FlowQuery::default()
        };
        let mut flows = Vec::new();
        let limit = args.limit as usize;
        loop {
            let missing = u32::try_from(limit - flows.len()).unwrap_or(u32::MAX);
            query.limit = Some(missing.min(FlowQuery::MAX_LIMIT));
            let FlowsPage { flows: page, next } = self.client.flows(&query).await?;
            flows.extend(page.into_iter().take(limit - flows.len()));
            if next.is_none() || flows.len() >= limit {
                return Ok((flows, next.is_some()));
            }
            query.cursor = next;
        }
    }

    /// Prints events until interrupted, across restarts of the agent.
    async fn follow_events(&self) -> Result<(), Failure> {
        let mut last = None;
        let mut stream = self.client.follow_events(last).await?;
        loop {
            match stream.next().await {
                Ok(Some(event)) => {
                    last = Some(event.id);
                    print(&render_one_of_many(self.format, &event, views::event)?)?;
                }
                Ok(None) | Err(ClientError::Unreachable { .. }) => {
                    stream = self.reconnected(last).await?;
                }
                Err(error) => return Err(error.into()),
            }
        }
    }

    async fn reconnected(&self, last: Option<u64>) -> Result<crate::api::client::EventStream, Failure> {
        let mut told = false;
        loop {
            match self.client.follow_events(last).await {
                Ok(stream) => return Ok(stream),
                Err(ClientError::Unreachable { .. }) => {
                    if !told {
                        remark(&format!("lbd at {} is gone; waiting for it", self.client.address()));
                        told = true;
                    }
                    tokio::time::sleep(RETRY).await;
                }
                Err(error) => return Err(error.into()),
            }
        }
    }

    async fn apply(&self, file: &Path, dry_run: bool, if_revision: Option<u64>) -> Result<(), Failure> {
        let text = read_configuration(file)?;
        let file = shown(file);
        let answer = self.client.apply(text, &file, dry_run, if_revision).await;
        let result = answer.map_err(|error| match error {
            ClientError::Problem(problem) if !problem.faults.is_empty() => Failure::Faults { file, problem },
            other => other.into(),
        })?;
        print(&render(self.format, &result, views::applied)?)
    }

    async fn set(
        &self,
        name: &TargetName,
        state: TargetState,
        deadline: Option<Duration>,
    ) -> Result<TargetView, Failure> {
        let change = TargetStateChange { state, deadline_seconds: deadline.map(|time| time.as_secs_f64()) };
        let result = self.client.set_target_state(&name.group, &name.target, &change).await?;
        print(&render(self.format, &result, |result| views::state_changed(result, Timestamp::now()))?)?;
        Ok(result.target)
    }

    async fn drain(&self, name: &TargetName, deadline: Option<Duration>, wait: bool) -> Result<(), Failure> {
        let mut target = self.set(name, TargetState::Drain, deadline).await?;
        let shown = format!("{}/{}", name.group, name.target);
        let tell = io::stderr().is_terminal();
        let mut told = target.admin.remaining_flows;
        while wait && target.admin.state == AdminState::Draining {
            tokio::time::sleep(POLL).await;
            target = self.client.target(&name.group, &name.target).await?;
            let left = target.admin.remaining_flows;
            if tell && left != told && target.admin.state == AdminState::Draining {
                remark(&format!("{} left", super::units::plural(left.unwrap_or_default(), "flow")));
                told = left;
            }
            let late =
                target.admin.deadline.is_some_and(|deadline| deadline + DRAIN_GRACE < Timestamp::now());
            if late && target.admin.state == AdminState::Draining {
                return Err(Failure::Waited(format!(
                    "{shown} still has flows after its deadline; see lbd's log"
                )));
            }
        }
        match target.admin.state {
            AdminState::Drained if wait && self.format == Format::Table => {
                let how = self.how_drained(&shown, target.admin.since).await?;
                print(&format!("{shown} is {how}\n"))
            }
            AdminState::Draining | AdminState::Drained => Ok(()),
            other => Err(Failure::Waited(format!("{shown} was made {other} meanwhile"))),
        }
    }

    /// How a target's drain has ended, as the agent told it.
    async fn how_drained(&self, target: &str, since: Timestamp) -> Result<String, Failure> {
        let events = self.client.events(None).await?;
        let told = events.into_iter().rev().find(|event| {
            event.kind == EventKind::TargetDrained && event.subject == target && event.at >= since
        });
        Ok(told.map_or_else(|| AdminState::Drained.to_string(), |event| event.message))
    }

    async fn version(&self) -> Result<(), Failure> {
        let lbd = self.client.version().await;
        let versions = Versions { lbctl: env!("CARGO_PKG_VERSION"), lbd: lbd.as_ref().ok() };
        print(&render(self.format, &versions, |versions| {
            let mut text = format!("lbctl  {}\n", versions.lbctl);
            if let Some(lbd) = versions.lbd {
                text.push_str(&format!("lbd    {}, API {}, ABI {}\n", lbd.version, lbd.api, lbd.abi));
            }
            text
        })?)?;
        lbd.map(drop).map_err(Failure::from)
    }
}

/// One target with its last checks, as `-o json` prints it.
#[derive(Debug, Serialize)]
struct TargetDetail {
    target: TargetView,
    history: HealthHistory,
}

#[derive(Debug, Serialize)]
struct Versions<'a> {
    lbctl: &'static str,
    lbd: Option<&'a Version>,
}

/// A file's name as it stands before a fault.
fn shown(file: &Path) -> String {
    if is_stdin(file) { "<stdin>".to_owned() } else { file.display().to_string() }
}

fn is_stdin(file: &Path) -> bool {
    file.as_os_str() == "-"
}

/// Reads a configuration, but no more of it than the agent takes.
fn read_configuration(file: &Path) -> Result<String, Failure> {
    let failed = |source| Failure::File { path: PathBuf::from(shown(file)), source };
    let mut text = String::new();
    let limit = MAX_CONFIGURATION_BYTES as u64 + 1;
    let read = if is_stdin(file) {
        io::stdin().lock().take(limit).read_to_string(&mut text)
    } else {
        std::fs::File::open(file).map_err(failed)?.take(limit).read_to_string(&mut text)
    };
    if read.map_err(failed)? > MAX_CONFIGURATION_BYTES {
        let why = format!("it is longer than {} MiB", MAX_CONFIGURATION_BYTES >> 20);
        return Err(failed(io::Error::new(io::ErrorKind::FileTooLarge, why)));
    }
    Ok(text)
}
