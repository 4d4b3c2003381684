//! What the demo has shown, at its end.

use console::style;

use crate::{
    promise::{Claim, Promise, Span},
    screen::shown_claim,
    traffic::{Log, Spread},
};

/// One part of the story.
pub(crate) struct Phase {
    pub(crate) title: String,
    pub(crate) span: Span,
    /// What must be true of the requests.
    pub(crate) promises: Vec<Promise>,
    /// What else was to be true.
    pub(crate) claims: Vec<Claim>,
}

/// All phases, judged by every request.
pub(crate) struct Summary {
    targets: Vec<String>,
    phases: Vec<(String, Spread, Vec<Claim>)>,
}

impl Phase {
    /// All that was promised, and whether it is true by what is known.
    pub(crate) fn judge(&self, log: &Log) -> Vec<Claim> {
        let promised = self.promises.iter().map(|promise| promise.judge(log));
        promised.chain(self.claims.iter().cloned()).collect()
    }
}

impl Summary {
    pub(crate) fn new(phases: &[Phase], log: &Log) -> Self {
        let judged = phases
            .iter()
            .map(|phase| (phase.title.clone(), log.spread(phase.span.from, phase.span.to), phase.judge(log)));
        Self { targets: log.targets.clone(), phases: judged.collect() }
    }

    pub(crate) fn as_promised(&self) -> bool {
        !self.phases.is_empty() && self.broken().next().is_none()
    }

    fn broken(&self) -> impl Iterator<Item = (&str, &Claim)> {
        self.phases.iter().flat_map(|(title, _, claims)| {
            claims.iter().filter(|claim| !claim.holds).map(|claim| (title.as_str(), claim))
        })
    }

    pub(crate) fn lines(&self) -> Vec<String> {
        let width = self.phases.iter().map(|(title, ..)| title.chars().count()).max().unwrap_or_default();
        let mut head = format!("  {:width$}  requests  failed", "");
        for target in &self.targets {
            head += &format!("  {target:>8}");
        }
        let mut lines = vec![style(head).dim().to_string()];
        for (title, spread, claims) in &self.phases {
            let failed = format!("{:>6}", spread.failed);
            let failed = if spread.failed == 0 { style(failed) } else { style(failed).yellow() };
            let mut line = format!("  {title:width$}  {:>8}  {failed}", spread.total());
            for (index, target) in self.targets.iter().enumerate() {
                let width = target.len().max(8) - 2;
                line += &format!("  {:>width$.1} %", 100.0 * spread.share(index));
            }
            let mark = if claims.iter().all(|claim| claim.holds) {
                style("✓").green()
            } else {
                style("✗").red().bold()
            };
            lines.push(format!("{line}  {mark}"));
        }
        lines.push(String::new());
        let broken: Vec<_> = self.broken().collect();
        let total: usize = self.phases.iter().map(|(_, spread, _)| spread.total()).sum();
        let failed: usize = self.phases.iter().map(|(_, spread, _)| spread.failed).sum();
        if broken.is_empty() {
            let failed = match failed {
                0 => "none failed".to_owned(),
                1 => "1 failed, while the dead server was being found out".to_owned(),
                _ => format!("{failed} failed, all while the dead server was being found out"),
            };
            lines.push(format!(
                "{} {total} requests, {failed}.",
                style("Everything was as promised:").green().bold()
            ));
        } else {
            lines.push(style("Not everything was as promised:").red().bold().to_string());
            lines.extend(broken.iter().map(|(title, claim)| format!("{}   ({title})", shown_claim(claim))));
        }
        lines
    }
}
