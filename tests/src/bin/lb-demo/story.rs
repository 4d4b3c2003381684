//! What happens in the demo, one phase after the other.

use std::time::{Duration, SystemTime};

use anyhow::Result;
use lb_userspace::api::types::{TargetView, Verdict};

use crate::{
    interrupt::Interrupt,
    network::{Network, admin_state},
    promise::{Claim, Promise, Span},
    screen::{Frame, Screen, command, seconds},
    summary::{Phase, Summary},
    traffic::{Spread, TIMEOUT, Traffic},
    watcher::Watcher,
};

/// New connections a second, of both families together.
const RATE: f64 = 1000.0;
/// How much of the traffic a live look shows.
const WINDOW: Duration = Duration::from_secs(1);
/// How long the agent may take to come back, and a target to be up again.
const PATIENCE: Duration = Duration::from_secs(10);
/// The targets that it happens to.
const KILLED: usize = 2;
const DRAINED: usize = 3;

/// The story so far.
pub(crate) struct Story<'a> {
    screen: &'a Screen,
    interrupt: &'a Interrupt,
    traffic: Traffic,
    phases: Vec<Phase>,
    watcher: Watcher,
}

impl<'a> Story<'a> {
    /// Lets the clients begin.
    pub(crate) fn begin(network: &Network, screen: &'a Screen, interrupt: &'a Interrupt) -> Result<Self> {
        let targets: Vec<String> = network.targets.iter().map(|target| target.name.clone()).collect();
        let to = Network::services();
        let traffic = Traffic::start(&network.topology.client.ns, &to, RATE, &targets)?;
        let to: Vec<String> = to.iter().map(|to| format!("http://{to}/")).collect();
        screen.line(&format!(
            "  {} clients: {RATE} requests a second, a connection each, to {}",
            console::style("✓").green(),
            to.join(" and ")
        ));
        let watcher = Watcher::start(network.lbd.socket())?;
        Ok(Self { screen, interrupt, traffic, phases: Vec::new(), watcher })
    }

    /// Tells all of it, and judges each phase.
    pub(crate) fn tell(&mut self, network: &mut Network) -> Result<()> {
        self.all_is_well(network)?;
        self.a_server_dies(network)?;
        self.another_is_drained(network)?;
        self.both_come_back(network)?;
        self.the_agent_is_killed(network)?;
        self.the_agent_starts_again(network)
    }

    /// Waits until the requests at work have ended.
    pub(crate) fn settle(&mut self, network: &Network) -> Result<()> {
        let from = self.traffic.now();
        self.run(network, from, TIMEOUT)
    }

    /// Lets it run, visibly, until an interrupt.
    pub(crate) fn go_on(&mut self, network: &Network) -> Result<()> {
        let from = self.traffic.now();
        self.screen.line("");
        loop {
            self.watch(network, from, Duration::from_secs(3600), |_| false)?;
        }
    }

    /// Stops the clients, and waits for their last answers.
    pub(crate) fn stop(&mut self) -> Result<()> {
        self.traffic.finish()
    }

    /// All phases, judged by the requests that have ended.
    pub(crate) fn summary(&self) -> Summary {
        Summary::new(&self.phases, &self.traffic.log)
    }

    fn all_is_well(&mut self, network: &Network) -> Result<()> {
        let from = self.open("All four servers are up");
        self.run(network, from, Duration::from_secs(7))?;
        let span = self.close(network, from)?;
        let weights = weights(network, &[]);
        self.judge(
            "all four servers",
            span,
            vec![Promise::NoFailure(span), Promise::Spread { span, weights }],
            vec![],
        );
        Ok(())
    }

    fn a_server_dies(&mut self, network: &mut Network) -> Result<()> {
        let name = network.targets[KILLED].name.clone();
        let from = self.open(&format!("A server dies: {name}"));
        let server = &mut network.servers.all[KILLED];
        if let Some(pid) = server.pid() {
            self.screen.line(&command(&format!("kill -9 {pid}   # nginx of {name}")));
        }
        let (killed, clock) = (self.traffic.now(), SystemTime::now());
        server.kill();
        let detected = killed + network.detection;
        let seen = self.watch(network, from, PATIENCE, |views| {
            of(views, &name).all(|view| !view.takes_new_flows && view.health.verdict == Verdict::Down)
        })?;
        let claim = taken_out(&network.views()?, &name, clock, network.detection, seen);
        self.run(network, from, (detected - from).max(self.traffic.now() - from) + Duration::from_secs(4))?;
        let span = self.close(network, from)?;
        let after = Span { from: detected, to: span.to };
        let weights = weights(network, &[KILLED]);
        self.judge(
            "a server dies",
            span,
            vec![
                Promise::NoFailureButWhileDetecting { span, killed, detected },
                Promise::Silent { span: after, target: KILLED, name: name.clone() },
                Promise::Spread { span: after, weights },
            ],
            vec![claim],
        );
        Ok(())
    }

    fn another_is_drained(&mut self, network: &Network) -> Result<()> {
        let name = &network.targets[DRAINED].name;
        let from = self.open(&format!("Another is drained: {name}"));
        network.lbctl(self.screen, "drain", name)?;
        let drained = self.traffic.now();
        self.run(network, from, Duration::from_secs(5))?;
        let views = network.views()?;
        let states: Vec<&str> = of(&views, name).map(|view| admin_state(view.admin.state)).collect();
        let span = self.close(network, from)?;
        let after = Span { from: drained, to: span.to };
        let done = states.len() == network.groups.len() && states.iter().all(|state| *state == "drained");
        let text = if done {
            format!("the agent says that no flow is left on {name}")
        } else {
            format!("the agent says that {name} is {}", states.join(" and "))
        };
        self.judge(
            "another is drained",
            span,
            vec![
                Promise::NoFailure(span),
                Promise::Silent { span: after, target: DRAINED, name: name.clone() },
                Promise::Spread { span: after, weights: weights(network, &[KILLED, DRAINED]) },
            ],
            vec![Claim::new(done, text)],
        );
        Ok(())
    }

    fn both_come_back(&mut self, network: &mut Network) -> Result<()> {
        let (killed, drained) = (network.targets[KILLED].name.clone(), network.targets[DRAINED].name.clone());
        let from = self.open(&format!("Both come back: {killed} and {drained}"));
        self.screen.line(&command(&format!("nginx   # on {killed}")));
        network.servers.all[KILLED].start_again(&network.topology.targets[KILLED])?;
        network.lbctl(self.screen, "ready", &drained)?;
        let up = self.watch(network, from, PATIENCE, |views| network.all_take_flows(views))?;
        let back = self.traffic.now();
        self.run(network, from, back - from + Duration::from_secs(5))?;
        let span = self.close(network, from)?;
        let after = Span { from: back, to: span.to };
        self.judge(
            "both come back",
            span,
            vec![Promise::NoFailure(span), Promise::Spread { span: after, weights: weights(network, &[]) }],
            vec![Claim::new(up, format!("all four took connections again after {}", seconds(back - from)))],
        );
        Ok(())
    }

    fn the_agent_is_killed(&mut self, network: &mut Network) -> Result<()> {
        let from = self.open("The agent is killed: the data plane goes on without it");
        if let Some(pid) = network.lbd.pid() {
            self.screen.line(&command(&format!("kill -9 {pid}   # lbd")));
        }
        network.lbd.kill()?;
        let dead = self.traffic.now();
        self.run(network, from, Duration::from_secs(6))?;
        let span = self.close(network, from)?;
        let after = Span { from: dead, to: span.to };
        self.judge(
            "the agent is killed",
            span,
            vec![Promise::NoFailure(span), Promise::Spread { span: after, weights: weights(network, &[]) }],
            vec![],
        );
        Ok(())
    }

    fn the_agent_starts_again(&mut self, network: &mut Network) -> Result<()> {
        let from = self.open("The agent starts again, and takes over what it finds");
        self.screen.line(&command("lbd run"));
        network.lbd.launch(&network.topology.balancer)?;
        let up = self.watch(network, from, PATIENCE, |views| network.all_take_flows(views))?;
        let took = self.traffic.now() - from;
        self.run(network, from, took + Duration::from_secs(5))?;
        let status = network.lbd.get("/v1/status")?;
        let adopted = status["interfaces"][0]["adopted"] == true;
        // The last phase answers for all that is still to end.
        let span = Span { to: Duration::MAX, ..self.close(network, from)? };
        let how = if adopted { "took over" } else { "did not take over" };
        self.judge(
            "the agent starts again",
            span,
            vec![Promise::NoFailure(span), Promise::Spread { span, weights: weights(network, &[]) }],
            vec![Claim::new(
                up && adopted,
                format!("the agent {how} the running program, and knew all targets after {}", seconds(took)),
            )],
        );
        Ok(())
    }

    /// Begins a phase; returns when, on the traffic's clock.
    fn open(&self, title: &str) -> Duration {
        self.screen.heading(&format!("{}  {title}", self.phases.len() + 1));
        self.traffic.now()
    }

    /// Shows the traffic until `time` after `from`.
    fn run(&mut self, network: &Network, from: Duration, time: Duration) -> Result<()> {
        let limit = (from + time).saturating_sub(self.traffic.now());
        self.watch(network, from, limit, |_| false).map(drop)
    }

    /// Shows the traffic until `done` says so of the targets, or `limit` is over; returns whether it did.
    fn watch(
        &mut self,
        network: &Network,
        from: Duration,
        limit: Duration,
        done: impl Fn(&[TargetView]) -> bool,
    ) -> Result<bool> {
        let interrupt = self.interrupt;
        interrupt.wait(limit, || {
            self.traffic.poll()?;
            let views = self.watcher.latest();
            let now = self.traffic.now();
            let over = WINDOW.min(now);
            self.screen.live(&Frame {
                targets: &network.targets,
                states: &network.states(views.as_deref()),
                spread: self.traffic.last(over),
                over,
                failed: self.traffic.log.spread(from, now).failed,
                elapsed: now.saturating_sub(from),
            });
            Ok(views.is_some_and(|views| done(&views)))
        })
    }

    /// Ends a phase: shows where its requests went.
    fn close(&mut self, network: &Network, from: Duration) -> Result<Span> {
        self.traffic.poll()?;
        let span = Span { from, to: self.traffic.now() };
        let spread: Spread = self.traffic.log.spread(span.from, span.to);
        self.screen.whole(&Frame {
            targets: &network.targets,
            states: &network.states(self.watcher.latest().as_deref()),
            failed: spread.failed,
            spread,
            over: span.to - span.from,
            elapsed: span.to - span.from,
        });
        Ok(span)
    }

    fn judge(&mut self, title: &str, span: Span, promises: Vec<Promise>, claims: Vec<Claim>) {
        let phase = Phase { title: title.to_owned(), span, promises, claims };
        phase.judge(&self.traffic.log).iter().for_each(|claim| self.screen.claim(claim));
        self.phases.push(phase);
    }
}

/// A target in each of its groups.
fn of<'v>(views: &'v [TargetView], name: &str) -> impl Iterator<Item = &'v TargetView> {
    views.iter().filter(move |view| view.name == name)
}

/// Whether and when the agent found a server dead that was killed at `killed`.
fn taken_out(views: &[TargetView], name: &str, killed: SystemTime, limit: Duration, seen: bool) -> Claim {
    let since = of(views, name).map(|view| SystemTime::from(view.health.since)).max();
    let took = since.and_then(|since| since.duration_since(killed).ok()).unwrap_or_default();
    let reason = of(views, name).next().map_or("", |view| view.health.reason.as_str());
    let holds = seen && took <= limit;
    let text = if seen { "found" } else { "has not found" };
    Claim::new(holds, format!("the agent {text} {name} down after {}: {reason}", seconds(took)))
}

/// The weights of all targets, with 0 for those that take nothing.
fn weights(network: &Network, out: &[usize]) -> Vec<u32> {
    let weight = |(index, target): (usize, &crate::network::Target)| {
        if out.contains(&index) { 0 } else { target.weight }
    };
    network.targets.iter().enumerate().map(weight).collect()
}
