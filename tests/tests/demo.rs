//! The demo keeps what it says: it shows everything as promised, in time, and leaves nothing behind, also when interrupted.

use std::{
    fs,
    path::Path,
    process::Command,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, ensure};
use lb_tests::{
    lbd::binary,
    netns,
    process::{self, Process},
    require,
};
use nix::sys::signal::Signal;

/// How long the demo may take, once built.
const LIMIT: Duration = Duration::from_secs(90);

fn demo(args: &[&str]) -> Result<Command> {
    require::everything()?;
    let mut command = Command::new(env!("CARGO_BIN_EXE_lb-demo"));
    command.args(args).env("PORTSIDE_LBD", binary("lbd")?).env("PORTSIDE_LBCTL", binary("lbctl")?);
    Ok(command)
}

/// Namespaces of the demo, and pins of the process, that are there.
fn left(pid: Option<u32>) -> Vec<String> {
    let names = ["front", "client", "balancer", "target-1", "target-4"];
    let mut left: Vec<String> = names.iter().map(|name| format!("portside-{name}")).collect();
    left.retain(|name| netns::exists(name));
    let pinned = fs::read_dir(require::BPFFS).into_iter().flatten().flatten();
    let mine = pid.map(|pid| format!("portside-test-{pid}-"));
    left.extend(pinned.filter_map(|entry| {
        let name = entry.file_name().into_string().ok()?;
        mine.as_ref().is_some_and(|mine| name.starts_with(mine)).then_some(name)
    }));
    left
}

#[test]
fn the_demo_shows_everything_as_promised() -> Result<()> {
    let _alone = require::alone();
    let begun = Instant::now();
    let output = process::output(&mut demo(&[])?, LIMIT)?;
    let took = begun.elapsed();
    eprintln!("{}{}", output.stdout, output.stderr);
    ensure!(output.status.success(), "the demo ended with {}", output.status);
    ensure!(took < LIMIT, "the demo took {took:?}");
    for part in ["4 targets in two zones", "A server dies", "lbctl drain", "Everything was as promised"] {
        ensure!(output.stdout.contains(part), "the demo does not say `{part}`");
    }
    assert_eq!(left(None), Vec::<String>::new());
    Ok(())
}

#[test]
fn an_interrupted_demo_removes_everything() -> Result<()> {
    let _alone = require::alone();
    let folder = tempfile::tempdir()?;
    for (number, until) in ["Setting up", "A server dies"].into_iter().enumerate() {
        let log = folder.path().join(number.to_string());
        let process = Process::spawn(demo(&[])?, Some(&log))?;
        wait_for(&process, until)?;
        process.signal(Signal::SIGINT)?;
        let status = process.wait(Duration::from_secs(20))?;
        let status = status.with_context(|| format!("it goes on: {}", process.output()))?;
        assert_eq!(status.code(), Some(130), "{}", process.output());
        assert_eq!(left(Some(process.pid())), Vec::<String>::new(), "{}", process.output());
    }
    Ok(())
}

#[test]
fn a_kept_demo_says_how_to_play_with_it_and_ends_at_an_interrupt() -> Result<()> {
    let _alone = require::alone();
    let folder = tempfile::tempdir()?;
    let process = Process::spawn(demo(&["--keep"])?, Some(&folder.path().join("log")))?;
    wait_for(&process, "ip address")?;
    let output = process.output();
    let said = |part: &str| {
        let line = output.lines().find(|line| line.contains(part));
        let command = line.and_then(|line| line.split_once("$ ")).map(|(_, command)| command);
        command.with_context(|| format!("no command with `{part}`:\n{output}"))
    };
    for (part, answer) in
        [("curl -sg http://10.", "target-"), ("curl -sg http://[", "target-"), (" status", "ready")]
    {
        let line = said(part)?.trim_start_matches("sudo ");
        let words: Vec<&str> = line.split_whitespace().collect();
        let (program, args) = words.split_first().context("an empty command")?;
        let mut command = Command::new(program);
        command.current_dir(Path::new(".")).args(args);
        let answered = process::run(command, Duration::from_secs(10))?;
        ensure!(answered.contains(answer), "`{line}` says: {answered}");
    }
    process.signal(Signal::SIGINT)?;
    let status = process.wait(Duration::from_secs(20))?.context("it goes on")?;
    ensure!(status.success(), "{status}: {}", process.output());
    assert_eq!(left(Some(process.pid())), Vec::<String>::new());
    Ok(())
}

fn wait_for(process: &Process, text: &str) -> Result<()> {
    let deadline = Instant::now() + LIMIT;
    while !process.output().contains(text) {
        ensure!(process.is_running(), "the demo has ended:\n{}", process.output());
        ensure!(Instant::now() < deadline, "the demo has not said `{text}`:\n{}", process.output());
        std::thread::sleep(Duration::from_millis(50));
    }
    Ok(())
}
