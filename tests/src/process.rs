//! Child processes as values: killed and reaped, by pid, when dropped.

use std::{
    ffi::OsStr,
    fs::{self, File},
    io::Read,
    os::unix::process::CommandExt,
    path::{Path, PathBuf},
    process::{Child, Command, ExitStatus, Stdio},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, bail};
use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};

use crate::guard::Guard;

/// A running child process. Dropping it sends SIGKILL and waits for it.
#[derive(Debug)]
pub struct Process {
    name: String,
    pid: u32,
    child: Arc<Mutex<Child>>,
    log: Option<PathBuf>,
    guard: Guard,
}

impl Process {
    /// Starts `command` with nothing on its input, and its output in the file `log`, or nowhere.
    pub fn spawn(mut command: Command, log: Option<&Path>) -> Result<Self> {
        let name = command.get_program().to_string_lossy().into_owned();
        command.stdin(Stdio::null());
        match log {
            Some(path) => {
                let file = File::options()
                    .create(true)
                    .append(true)
                    .open(path)
                    .with_context(|| format!("open {} for the output of {name}", path.display()))?;
                let copy = file.try_clone().context("copy the log's descriptor")?;
                command.stdout(file).stderr(copy);
            }
            None => {
                command.stdout(Stdio::null()).stderr(Stdio::null());
            }
        }
        // A group of its own: an interrupt from the terminal goes to the harness, which ends its children in order.
        command.process_group(0);
        let child = command.spawn().with_context(|| format!("start {name}"))?;
        let pid = child.id();
        let child = Arc::new(Mutex::new(child));
        let shared = Arc::clone(&child);
        let guard = Guard::new(move || end(&mut lock(&shared)));
        Ok(Self { name, pid, child, log: log.map(Path::to_owned), guard })
    }

    /// The process id. It may have been reused once the process is known to have ended.
    #[must_use]
    pub fn pid(&self) -> u32 {
        self.pid
    }

    /// Sends `signal`; fails if the process has already ended.
    pub fn signal(&self, signal: Signal) -> Result<()> {
        let mut child = lock(&self.child);
        if let Some(status) = child.try_wait().context("look at the child")? {
            bail!("{} has already ended ({status}); its output:\n{}", self.name, self.output());
        }
        // Not reaped yet, and the lock is held: the pid still is this child.
        kill(pid_of(&child)?, signal).with_context(|| format!("send {signal} to {}", self.name))
    }

    /// Sends SIGKILL and reaps; returns once the process is gone.
    pub fn kill(&self) {
        end(&mut lock(&self.child));
    }

    /// Whether the process still runs.
    #[must_use]
    pub fn is_running(&self) -> bool {
        matches!(lock(&self.child).try_wait(), Ok(None))
    }

    /// Waits up to `limit` for the end; `None` if it still runs then.
    pub fn wait(&self, limit: Duration) -> Result<Option<ExitStatus>> {
        let deadline = Instant::now() + limit;
        loop {
            if let Some(status) = lock(&self.child).try_wait().context("look at the child")? {
                return Ok(Some(status));
            }
            if Instant::now() >= deadline {
                return Ok(None);
            }
            thread::sleep(Duration::from_millis(5));
        }
    }

    /// What it has written to its log so far; empty without a log.
    #[must_use]
    pub fn output(&self) -> String {
        self.log.as_ref().map(|path| read_lossy(path)).unwrap_or_default()
    }

    /// Lets the process outlive this one.
    pub fn keep(&self) {
        self.guard.keep();
    }
}

/// Runs `command` to its end within `limit`; fails with its output if it does not succeed.
pub fn run(mut command: Command, limit: Duration) -> Result<String> {
    let shown = shown(&command);
    let output = output(&mut command, limit)?;
    if !output.status.success() {
        bail!("`{shown}` failed ({}):\n{}{}", output.status, output.stdout, output.stderr);
    }
    Ok(output.stdout)
}

/// What a finished command left.
#[derive(Debug)]
pub struct Output {
    /// How it ended.
    pub status: ExitStatus,
    /// Its standard output.
    pub stdout: String,
    /// Its standard error.
    pub stderr: String,
}

/// Runs `command` to its end within `limit`, whatever its exit status; past the limit it is killed and an error.
pub fn output(command: &mut Command, limit: Duration) -> Result<Output> {
    let shown = shown(command);
    if command.get_envs().next().is_none() {
        command.env("LC_ALL", "C");
    }
    command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
    // As for those that stay: an interrupt from the terminal must not cut a clean-up short.
    command.process_group(0);
    let mut child = command.spawn().with_context(|| format!("start `{shown}`"))?;
    // Readers of their own, else a child with more output than a pipe holds would never end.
    let stdout = reader(child.stdout.take());
    let stderr = reader(child.stderr.take());
    let deadline = Instant::now() + limit;
    let status = loop {
        if let Some(status) = child.try_wait().context("look at the child")? {
            break status;
        }
        if Instant::now() >= deadline {
            end(&mut child);
            bail!("`{shown}` did not end within {limit:?}");
        }
        thread::sleep(Duration::from_millis(1));
    };
    Ok(Output {
        status,
        stdout: stdout.join().unwrap_or_default(),
        stderr: stderr.join().unwrap_or_default(),
    })
}

fn reader<R: Read + Send + 'static>(pipe: Option<R>) -> thread::JoinHandle<String> {
    thread::spawn(move || {
        let mut bytes = Vec::new();
        if let Some(mut pipe) = pipe {
            // What was read before an error is still worth showing.
            let _ = pipe.read_to_end(&mut bytes);
        }
        String::from_utf8_lossy(&bytes).into_owned()
    })
}

fn shown(command: &Command) -> String {
    let words = [command.get_program()].into_iter().chain(command.get_args());
    words.map(OsStr::to_string_lossy).collect::<Vec<_>>().join(" ")
}

fn read_lossy(path: &Path) -> String {
    fs::read(path).map(|bytes| String::from_utf8_lossy(&bytes).into_owned()).unwrap_or_default()
}

fn end(child: &mut Child) {
    if matches!(child.try_wait(), Ok(None)) {
        if let Err(error) = child.kill() {
            eprintln!("cannot kill child {}: {error}", child.id());
        }
        if let Err(error) = child.wait() {
            eprintln!("cannot reap child {}: {error}", child.id());
        }
    }
}

fn pid_of(child: &Child) -> Result<Pid> {
    Ok(Pid::from_raw(i32::try_from(child.id()).context("pid out of range")?))
}

fn lock(child: &Mutex<Child>) -> MutexGuard<'_, Child> {
    child.lock().unwrap_or_else(PoisonError::into_inner)
}
