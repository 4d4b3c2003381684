//! The demo of `cargo xtask demo`: Portside on a network of its own, with real servers and real clients, and what
//! happens when a server dies, another is drained, and the agent is killed. It needs root.

mod interrupt;
mod network;
mod play;
mod promise;
mod record;
mod screen;
mod story;
mod summary;
mod traffic;
mod watcher;

use std::{
    path::{Path, PathBuf},
    process::ExitCode,
};

use anyhow::Result;
use clap::Parser;

use crate::{
    interrupt::{Interrupt, Interrupted},
    network::Network,
    screen::Screen,
    story::Story,
};

/// Portside at work on a network of its own.
#[derive(Parser)]
#[command(name = "lb-demo")]
struct Cli {
    /// Leave everything running at the end, and say how to play with it, until Ctrl-C
    #[arg(long)]
    keep: bool,
    /// Write what is shown to this file too; a name that ends in .svg makes it a picture
    #[arg(long, value_name = "FILE")]
    record: Option<PathBuf>,
}

fn main() -> ExitCode {
    let cli = Cli::parse();
    if cli.record.is_some() {
        console::set_colors_enabled(true);
    }
    let screen = Screen::new();
    match Interrupt::watch().and_then(|interrupt| run(&cli, &screen, &interrupt)) {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) if error.is::<Interrupted>() => {
            screen.line("Interrupted: everything is removed.");
            ExitCode::from(130)
        }
        Err(error) => {
            screen.line(&format!("{} {error:#}", console::style("The demo failed:").red().bold()));
            ExitCode::FAILURE
        }
    }
}

/// Whether everything was as promised. All that was made is gone when this returns.
fn run(cli: &Cli, screen: &Screen, interrupt: &Interrupt) -> Result<bool> {
    let mut network = Network::build(screen, interrupt)?;
    let told = show(cli, screen, interrupt, &mut network);
    if told.as_ref().is_ok_and(|as_promised| !as_promised)
        || told.as_ref().is_err_and(|error| !error.is::<Interrupted>())
    {
        show_log(screen, &network.log());
    }
    screen.line("Removing the network, the servers and the data plane.");
    let removed = network.remove();
    // What went wrong first is the cause.
    told.and_then(|as_promised| removed.map(|()| as_promised))
}

/// Tells the story, and with `--keep` goes on until an interrupt; returns whether everything was as promised.
fn show(cli: &Cli, screen: &Screen, interrupt: &Interrupt, network: &mut Network) -> Result<bool> {
    let mut story = Story::begin(network, screen, interrupt)?;
    story.tell(network)?;
    if cli.keep {
        story.settle(network)?;
    } else {
        story.stop()?;
    }
    let summary = story.summary();
    screen.show_summary(&summary);
    if let Some(file) = &cli.record {
        record::write(file, &screen.kept())?;
    }
    if cli.keep {
        play::explain(network, screen)?;
        match story.go_on(network) {
            Err(error) if !error.is::<Interrupted>() => return Err(error),
            _ => {}
        }
    }
    Ok(summary.as_promised())
}

fn show_log(screen: &Screen, log: &str) {
    screen.line("The end of the agent's log:");
    let lines: Vec<&str> = log.lines().collect();
    for line in &lines[lines.len().saturating_sub(40)..] {
        screen.line(&format!("  {line}"));
    }
}

/// A path as people would type it: from the current folder, where it is below that.
fn shown(path: &Path) -> String {
    let here = std::env::current_dir().unwrap_or_default();
    path.strip_prefix(&here).unwrap_or(path).display().to_string()
}
