//! The agent under test, `lbd`, with state, socket and pins of its own.

use std::{
    env, fs, panic,
    path::{Path, PathBuf},
    process::Command,
    sync::{
        Once,
        atomic::{AtomicU32, Ordering},
    },
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, bail};
use bytes::Bytes;
use http_body_util::{BodyExt, Full};
use hyper::{Method, Request, StatusCode};
use hyper_util::rt::TokioIo;
use nix::sys::signal::Signal;
use serde_json::Value;
use tokio::{net::UnixStream, time::timeout};

use crate::{
    guard::Guard,
    process::{self, Output, Process},
    require,
    scratch::Scratch,
    topology::Host,
};

/// How long the agent may take to be ready, to end, or to answer.
const LIMIT: Duration = Duration::from_secs(20);

/// Names of pin folders: this, the process id, a number.
const PINS: &str = "portside-test-";

/// An agent on a host, running or not. Dropping it ends the agent, runs `lbd unload`, and removes what is left.
#[derive(Debug)]
pub struct Lbd {
    // In this order: the process ends, then the data plane is unloaded, then the files go.
    process: Option<Process>,
    unload: Guard,
    program: PathBuf,
    pins: PathBuf,
    scratch: Scratch,
    _bpffs: Option<Guard>,
    show_log: bool,
}

impl Lbd {
    /// Starts an agent on `host` with this configuration (YAML or JSON) and waits until it is ready.
    pub fn start(host: &Host, config: &str) -> Result<Self> {
        let mut lbd = Self::prepare(host, config)?;
        lbd.launch(host)?;
        lbd.wait_ready(LIMIT)?;
        Ok(lbd)
    }

    /// Everything an agent needs but the agent.
    pub fn prepare(host: &Host, config: &str) -> Result<Self> {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        static SWEEP: Once = Once::new();
        require::root()?;
        let bpffs = require::bpffs()?;
        SWEEP.call_once(sweep);
        let program = binary("lbd")?;
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        let pins = Path::new(require::BPFFS).join(format!("{PINS}{}-{number}", std::process::id()));
        let scratch = Scratch::new()?;
        let mut unload = host.ns.command(&program)?;
        unload.arg("unload").args(["--pin-dir".as_ref(), pins.as_os_str()]);
        unload.args(["--state-dir".as_ref(), scratch.join("state").as_os_str()]);
        let left = pins.clone();
        let unload = Guard::new(move || remove(unload, &left));
        let lbd = Self { process: None, unload, program, pins, scratch, _bpffs: bpffs, show_log: true };
        lbd.write_config(config)?;
        Ok(lbd)
    }

    /// Starts the agent (again), without waiting until it is ready.
    pub fn launch(&mut self, host: &Host) -> Result<()> {
        let mut command = host.ns.command(&self.program)?;
        command.args(self.arguments());
        self.process = None;
        self.process = Some(Process::spawn(command, Some(&self.log_path()))?);
        Ok(())
    }

    /// Starts the agent (again) and waits until it is ready.
    pub fn restart(&mut self, host: &Host) -> Result<()> {
        self.launch(host)?;
        self.wait_ready(LIMIT)
    }

    /// Runs the agent in the expectation that it gives up by itself; returns what it left. It is killed and an error if
    /// it keeps running.
    pub fn run_to_end(&self, host: &Host) -> Result<Output> {
        let mut command = host.ns.command(&self.program)?;
        command.args(self.arguments());
        process::output(&mut command, LIMIT)
    }

    /// Uses another build of the agent from the next launch on.
    pub fn set_program(&mut self, program: &Path) {
        program.clone_into(&mut self.program);
    }

    /// The command line of `lbd run`, for [`Lbd::launch`] and for people.
    #[must_use]
    pub fn arguments(&self) -> Vec<String> {
        let mut arguments = vec!["run".to_owned()];
        for (flag, path) in [
            ("--config", self.config_path()),
            ("--state-dir", self.scratch.join("state")),
            ("--socket", self.socket()),
            ("--pin-dir", self.pins.clone()),
        ] {
            arguments.extend([flag.to_owned(), path.to_string_lossy().into_owned()]);
        }
        arguments
    }

    /// The configuration file.
    #[must_use]
    pub fn config_path(&self) -> PathBuf {
        self.scratch.join("portside.yaml")
    }

    /// The API's Unix socket.
    #[must_use]
    pub fn socket(&self) -> PathBuf {
        self.scratch.join("lbd.sock")
    }

    /// Where program, link and maps are pinned.
    #[must_use]
    pub fn pins(&self) -> &Path {
        &self.pins
    }

    /// A path in the agent's own temporary directory.
    #[must_use]
    pub fn scratch(&self, name: &str) -> PathBuf {
        self.scratch.join(name)
    }

    /// Replaces the configuration file; the agent is not told.
    pub fn write_config(&self, config: &str) -> Result<()> {
        let path = self.config_path();
        fs::write(&path, config).with_context(|| format!("write {}", path.display()))
    }

    /// Waits until `/readyz` answers 200.
    pub fn wait_ready(&self, limit: Duration) -> Result<()> {
        let deadline = Instant::now() + limit;
        loop {
            let last = match self.request(Method::GET, "/readyz", None) {
                Ok((StatusCode::OK, _)) => return Ok(()),
                Ok((status, body)) => format!("{status}: {body}"),
                Err(error) => format!("{error:#}"),
            };
            if !self.process.as_ref().is_some_and(Process::is_running) {
                bail!("lbd has ended before it was ready:\n{}", self.log());
            }
            if Instant::now() > deadline {
                bail!("lbd is not ready after {limit:?} ({last}); its log:\n{}", self.log());
            }
            thread::sleep(Duration::from_millis(20));
        }
    }

    /// GETs from the API; fails unless it answers 200.
    pub fn get(&self, path: &str) -> Result<Value> {
        let (status, body) = self.request(Method::GET, path, None)?;
        if status != StatusCode::OK {
            bail!("GET {path} answered {status}: {body}");
        }
        serde_json::from_str(&body).with_context(|| format!("GET {path} answered no JSON: {body}"))
    }

    /// GETs text, for instance `/metrics`; fails unless it answers 200.
    pub fn get_text(&self, path: &str) -> Result<String> {
        let (status, body) = self.request(Method::GET, path, None)?;
        if status != StatusCode::OK {
            bail!("GET {path} answered {status}: {body}");
        }
        Ok(body)
    }

    /// Any request to the API over the Unix socket; a body is sent with its content type.
    pub fn request(
        &self,
        method: Method,
        path: &str,
        body: Option<(&str, &str)>,
    ) -> Result<(StatusCode, String)> {
        request(&self.socket(), method, path, body)
    }

    /// Waits until `condition` is true of the API's answer at `path`; returns that answer.
    pub fn wait_for(&self, path: &str, limit: Duration, condition: impl Fn(&Value) -> bool) -> Result<Value> {
        let deadline = Instant::now() + limit;
        loop {
            let value = self.get(path)?;
            if condition(&value) {
                return Ok(value);
            }
            if Instant::now() > deadline {
                bail!("after {limit:?}, {path} still answers {value:#}");
            }
            thread::sleep(Duration::from_millis(20));
        }
    }

    /// Runs `lbctl` against this agent's socket; fails unless it succeeds. Returns what it prints.
    pub fn lbctl(&self, args: &[&str]) -> Result<String> {
        process::run(self.lbctl_command(args)?, LIMIT)
    }

    /// The same, whatever its exit status.
    pub fn lbctl_output(&self, args: &[&str]) -> Result<Output> {
        process::output(&mut self.lbctl_command(args)?, LIMIT)
    }

    /// Runs `lbctl -o json` and parses what it prints.
    pub fn lbctl_json(&self, args: &[&str]) -> Result<Value> {
        let text = self.lbctl(&[&["-o", "json"], args].concat())?;
        serde_json::from_str(&text).with_context(|| format!("lbctl printed no JSON:\n{text}"))
    }

    /// Sends a signal to the agent.
    pub fn signal(&self, signal: Signal) -> Result<()> {
        self.process.as_ref().context("lbd is not running")?.signal(signal)
    }

    /// Ends the agent with SIGKILL. The data plane stays.
    pub fn kill(&mut self) -> Result<()> {
        let process = self.process.take().context("lbd is not running")?;
        if !process.is_running() {
            bail!("lbd had ended before it was killed:\n{}", self.log());
        }
        Ok(())
    }

    /// Ends the agent with SIGTERM; fails unless it ends with success in time. The data plane stays.
    pub fn stop(&mut self) -> Result<()> {
        let process = self.process.take().context("lbd is not running")?;
        process.signal(Signal::SIGTERM)?;
        match process.wait(LIMIT)? {
            Some(status) if status.success() => Ok(()),
            Some(status) => bail!("lbd ended with {status} on SIGTERM:\n{}", self.log()),
            None => bail!("lbd did not end within {LIMIT:?} of SIGTERM:\n{}", self.log()),
        }
    }

    /// Whether the agent runs.
    #[must_use]
    pub fn is_running(&self) -> bool {
        self.process.as_ref().is_some_and(Process::is_running)
    }

    /// The agent's process id, while it runs.
    #[must_use]
    pub fn pid(&self) -> Option<u32> {
        self.process.as_ref().map(Process::pid)
    }

    /// Runs `lbd unload`; fails unless it succeeds.
    pub fn unload(&self, host: &Host) -> Result<String> {
        process::run(self.unload_command(host)?, LIMIT)
    }

    /// Runs `lbd unload`, whatever becomes of it.
    pub fn run_unload(&self, host: &Host) -> Result<Output> {
        process::output(&mut self.unload_command(host)?, LIMIT)
    }

    fn unload_command(&self, host: &Host) -> Result<Command> {
        let mut command = host.ns.command(&self.program)?;
        command.arg("unload").args(["--pin-dir".as_ref(), self.pins.as_os_str()]);
        command.args(["--state-dir".as_ref(), self.scratch.join("state").as_os_str()]);
        Ok(command)
    }

    /// What the agent has logged so far, over all its starts.
    #[must_use]
    pub fn log(&self) -> String {
        fs::read_to_string(self.log_path()).unwrap_or_default()
    }

    /// Prints no log when dropped. Otherwise it is printed, for the output of a failed test.
    pub fn quiet(&mut self) {
        self.show_log = false;
    }

    /// Lets agent and data plane outlive this process.
    pub fn keep(&self) {
        self.unload.keep();
        self.scratch.keep();
        if let Some(process) = &self.process {
            process.keep();
        }
        if let Some(bpffs) = &self._bpffs {
            bpffs.keep();
        }
    }

    fn log_path(&self) -> PathBuf {
        self.scratch.join("lbd.log")
    }

    fn lbctl_command(&self, args: &[&str]) -> Result<Command> {
        let mut command = Command::new(binary("lbctl")?);
        command.arg("--socket").arg(self.socket()).args(args);
        Ok(command)
    }
}

impl Drop for Lbd {
    fn drop(&mut self) {
        if self.show_log {
            let log = self.log();
            let tail: Vec<&str> = log.lines().rev().take(60).collect();
            eprintln!("the end of lbd's log:");
            tail.iter().rev().for_each(|line| eprintln!("  {line}"));
        }
    }
}

/// Any request to an API on a Unix socket.
pub fn request(
    socket: &Path,
    method: Method,
    path: &str,
    body: Option<(&str, &str)>,
) -> Result<(StatusCode, String)> {
    let mut request = Request::builder().method(method).uri(path).header("host", "localhost");
    if let Some((content_type, _)) = body {
        request = request.header("content-type", content_type);
    }
    let content = body.map_or_else(Bytes::new, |(_, content)| Bytes::copy_from_slice(content.as_bytes()));
    let request = request.body(Full::new(content))?;
    let exchange = async {
        let stream = UnixStream::connect(socket).await;
        let stream = stream.with_context(|| format!("connect to {}", socket.display()))?;
        let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream)).await?;
        tokio::spawn(connection);
        let response = sender.send_request(request).await?;
        let status = response.status();
        let body = response.into_body().collect().await?.to_bytes();
        Ok((status, String::from_utf8_lossy(&body).into_owned()))
    };
    // On a thread of its own, so that asynchronous tests may call it too.
    let answer = thread::scope(|scope| {
        let inside = scope.spawn(|| -> Result<_> {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
            Ok(runtime.block_on(async { timeout(LIMIT, exchange).await }))
        });
        inside.join().unwrap_or_else(|payload| panic::resume_unwind(payload))
    })?;
    answer.with_context(|| format!("no answer from {} within {LIMIT:?}", socket.display()))?
}

/// Where one of the project's binaries is: as the environment says (`PORTSIDE_LBD`, `PORTSIDE_LBCTL`), else the one built
/// last in the target folder.
pub fn binary(name: &str) -> Result<PathBuf> {
    let variable = format!("PORTSIDE_{}", name.to_uppercase());
    if let Some(path) = env::var_os(&variable).map(PathBuf::from) {
        if path.is_file() {
            return Ok(path);
        }
        bail!("{variable} names {}, which is no file", path.display());
    }
    let target = env::var_os("CARGO_TARGET_DIR")
        .map_or_else(|| Path::new(env!("CARGO_MANIFEST_DIR")).join("../target"), PathBuf::from);
    let built = |profile: &str| {
        let path = target.join(profile).join(name);
        let time = fs::metadata(&path).ok()?.modified().ok()?;
        Some((time, path))
    };
    let newest = [built("release"), built("debug")].into_iter().flatten().max();
    let (_, path) = newest.with_context(|| {
        format!("`{name}` is not built (looked in {}): run `cargo xtask build`", target.display())
    })?;
    path.canonicalize().with_context(|| format!("look at {}", path.display()))
}

/// Removes the pins of processes that are gone: a killed run could not.
fn sweep() {
    for entry in fs::read_dir(require::BPFFS).into_iter().flatten().flatten() {
        let Ok(name) = entry.file_name().into_string() else { continue };
        let owner = name.strip_prefix(PINS).and_then(|rest| rest.split('-').next()?.parse::<u32>().ok());
        if owner.is_some_and(|pid| !Path::new("/proc").join(pid.to_string()).exists()) {
            eprintln!("removing {}, left behind", entry.path().display());
            // Another run of the harness may be sweeping too.
            let _ = fs::remove_dir_all(entry.path());
        }
    }
}

/// Unloads, and removes pins that a failed unload has left.
fn remove(unload: Command, pins: &Path) {
    if !pins.exists() {
        return;
    }
    if let Err(error) = process::run(unload, LIMIT) {
        eprintln!("{error:#}");
    }
    if pins.exists()
        && let Err(error) = fs::remove_dir_all(pins)
    {
        eprintln!("cannot remove {}: {error}", pins.display());
    }
}
