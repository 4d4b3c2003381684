//! Network namespaces as values that remove themselves, and ways to act inside them.
//!
//! Entering is by `setns` on a thread (or a child) of its own. `ip netns exec` is not used for programs: it remounts `/sys` and so
//! hides the BPF file system.

use std::{
    fmt,
    fs::{self, File},
    future::Future,
    io,
    num::NonZero,
    os::{fd::AsFd, unix::process::CommandExt},
    panic,
    path::{Path, PathBuf},
    process::Command,
    sync::{
        Once,
        atomic::{AtomicU32, Ordering},
    },
    thread,
    time::Duration,
};

use anyhow::{Context, Result, anyhow};
use nix::{
    sched::{CloneFlags, setns},
    sys::signal::{Signal, kill},
    unistd::Pid,
};
use tokio::sync::oneshot;

use crate::{
    guard::Guard,
    process::{self, Process},
};

/// Where iproute2 keeps named namespaces.
const NAMED: &str = "/run/netns";
/// Names that the harness gives: the prefix, the process id, a number, a label.
const PREFIX: &str = "pstest";
/// How long one configuration command may take.
const LIMIT: Duration = Duration::from_secs(10);

/// A named network namespace; dropping it deletes it.
#[derive(Debug)]
pub struct NetNs {
    name: String,
    file: File,
    guard: Guard,
}

impl NetNs {
    /// Makes a namespace whose name contains this process's id, a fresh number and `label`.
    pub fn new(label: &str) -> Result<Self> {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        static SWEEP: Once = Once::new();
        SWEEP.call_once(sweep);
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        Self::named(&format!("{PREFIX}-{}-{number}-{label}", std::process::id()))
    }

    /// Makes a namespace of exactly this name; fails if there is one.
    pub fn named(name: &str) -> Result<Self> {
        ip(&["netns", "add", name]).with_context(|| {
            format!(
                "make the network namespace {name} (needs root and `ip` from iproute2; if one of that name was left \
                 behind, `ip netns del {name}` removes it)"
            )
        })?;
        let undo = name.to_owned();
        let guard = Guard::new(move || {
            if let Err(error) = ip(&["netns", "del", &undo]) {
                eprintln!("cannot delete the network namespace {undo}: {error:#}");
            }
        });
        let path = Path::new(NAMED).join(name);
        let file = File::open(&path).with_context(|| format!("open {}", path.display()))?;
        let ns = Self { name: name.to_owned(), file, guard };
        ns.ip_batch("link set lo up\n")?;
        Ok(ns)
    }

    /// The name, as `ip netns` shows it.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The file that names the namespace, for `nsenter --net=FILE`.
    #[must_use]
    pub fn path(&self) -> PathBuf {
        Path::new(NAMED).join(&self.name)
    }

    /// Lets the namespace outlive this process.
    pub fn keep(&self) {
        self.guard.keep();
    }

    /// Runs `f` inside, on a thread of its own, and returns its value; a panic in `f` is passed on.
    pub fn run<T: Send>(&self, f: impl FnOnce() -> T + Send) -> Result<T> {
        thread::scope(|scope| {
            let inside = scope.spawn(|| self.enter().map(|()| f()));
            inside.join().unwrap_or_else(|payload| panic::resume_unwind(payload))
        })
    }

    /// Runs the future that `f` makes inside, on a single-threaded runtime of its own, and waits for it.
    pub fn block_on<T: Send, F: Future<Output = T>>(&self, f: impl FnOnce() -> F + Send) -> Result<T> {
        self.run(|| runtime().map(|runtime| runtime.block_on(async { f().await })))?
    }

    /// Starts the future that `f` makes inside, on a thread and a single-threaded runtime of its own.
    pub fn spawn_task<T, F>(&self, f: impl FnOnce() -> F + Send + 'static) -> Result<Task<T>>
    where
        T: Send + 'static,
        F: Future<Output = T>,
    {
        let inside = self.file.try_clone().context("copy the namespace's descriptor")?;
        let (stop, mut stopped) = oneshot::channel::<()>();
        let thread = thread::Builder::new()
            .name(self.name.clone())
            .spawn(move || -> Result<Option<T>> {
                setns(inside.as_fd(), CloneFlags::CLONE_NEWNET).context("enter the namespace")?;
                let runtime = runtime()?;
                Ok(runtime.block_on(async {
                    tokio::select! {
                        value = f() => Some(value),
                        _ = &mut stopped => None,
                    }
                }))
            })
            .context("start a thread")?;
        Ok(Task { stop: Some(stop), thread: Some(thread) })
    }

    /// A command that will run inside, in the mount namespace of this process: it sees the BPF file system.
    pub fn command(&self, program: impl AsRef<std::ffi::OsStr>) -> Result<Command> {
        let inside = self.file.try_clone().context("copy the namespace's descriptor")?;
        let mut command = Command::new(program);
        // SAFETY: between fork and exec only the setns system call is made; it allocates nothing and takes no lock.
        unsafe {
            command
                .pre_exec(move || setns(inside.as_fd(), CloneFlags::CLONE_NEWNET).map_err(io::Error::from));
        }
        Ok(command)
    }

    /// Starts `program` inside with `args` and its output in `log`.
    pub fn spawn(&self, program: &str, args: &[&str], log: Option<&Path>) -> Result<Process> {
        let mut command = self.command(program)?;
        command.args(args);
        Process::spawn(command, log)
    }

    /// Runs `program` inside to its end; fails unless it succeeds. Returns its standard output.
    pub fn exec(&self, program: &str, args: &[&str]) -> Result<String> {
        let mut command = self.command(program)?;
        command.args(args);
        process::run(command, LIMIT).with_context(|| format!("in {}", self.name))
    }

    /// Applies `ip` commands, one a line, inside.
    pub fn ip_batch(&self, lines: &str) -> Result<()> {
        // Through a file: the batch is shown whole when a line of it fails.
        let mut file = tempfile::NamedTempFile::new().context("make a file for `ip -batch`")?;
        io::Write::write_all(&mut file, lines.as_bytes()).context("write the `ip` batch")?;
        let mut command = self.command("ip")?;
        command.arg("-batch").arg(file.path());
        process::run(command, LIMIT).with_context(|| format!("in {}, of the batch:\n{lines}", self.name))?;
        Ok(())
    }

    /// Sets a kernel parameter of this namespace, for instance `net.ipv4.ip_forward`.
    pub fn sysctl(&self, key: &str, value: &str) -> Result<()> {
        let path = Path::new("/proc/sys").join(key.replace('.', "/"));
        self.run(|| fs::write(&path, value))?
            .with_context(|| format!("write {value} to {} in {}", path.display(), self.name))
    }

    /// Reads a kernel parameter of this namespace.
    pub fn read_sysctl(&self, key: &str) -> Result<String> {
        let path = Path::new("/proc/sys").join(key.replace('.', "/"));
        let value = self.run(|| fs::read_to_string(&path))?;
        let value = value.with_context(|| format!("read {} in {}", path.display(), self.name))?;
        Ok(value.trim().to_owned())
    }

    /// Has an interface spread flows, not packets, over the processors, as a network card's queues do: by itself a veth pair
    /// hands each packet to whatever processor its sender is on, and so overtakes, and lets two segments of a connection meet
    /// in the receiving stack, which then may answer one with a reset.
    pub fn spread_flows(&self, interface: &str) -> Result<()> {
        let processors = thread::available_parallelism().map_or(1, NonZero::get).min(32);
        let mask = (1_u64 << processors) - 1;
        // `ip` mounts the namespace's own /sys for the command.
        let write = format!(
            "for queue in /sys/class/net/{interface}/queues/rx-*; do echo {mask:x} > $queue/rps_cpus; done"
        );
        ip(&["netns", "exec", &self.name, "sh", "-ec", &write]).map(drop)
    }

    /// One of the kernel's network counters of this namespace, by the name that `nstat` gives it.
    pub fn counter(&self, name: &str) -> Result<u64> {
        let shown = self.exec("nstat", &["-asz", "-j", name])?;
        let shown: serde_json::Value = serde_json::from_str(&shown).context("nstat answered no JSON")?;
        shown["kernel"][name].as_u64().with_context(|| format!("nstat knows no counter {name}"))
    }

    fn enter(&self) -> Result<()> {
        setns(self.file.as_fd(), CloneFlags::CLONE_NEWNET)
            .with_context(|| format!("enter the network namespace {}", self.name))
    }
}

impl fmt::Display for NetNs {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.name)
    }
}

/// A future at work inside a namespace. Dropping it stops the future and waits for its thread.
#[derive(Debug)]
pub struct Task<T> {
    stop: Option<oneshot::Sender<()>>,
    thread: Option<thread::JoinHandle<Result<Option<T>>>>,
}

impl<T> Task<T> {
    /// Waits for the future's own end and returns its value.
    pub fn join(mut self) -> Result<T> {
        let value = self.wait()?;
        value.context("the task was stopped before its end")
    }

    /// Whether the future has ended.
    #[must_use]
    pub fn is_finished(&self) -> bool {
        self.thread.as_ref().is_none_or(thread::JoinHandle::is_finished)
    }

    fn wait(&mut self) -> Result<Option<T>> {
        let thread = self.thread.take().ok_or_else(|| anyhow!("the task has been waited for already"))?;
        thread.join().unwrap_or_else(|payload| panic::resume_unwind(payload))
    }
}

impl<T> Drop for Task<T> {
    fn drop(&mut self) {
        drop(self.stop.take());
        if let Some(thread) = self.thread.take() {
            // Its panic, if any, has been printed; a second one while dropping would abort.
            let _ = thread.join();
        }
    }
}

/// Whether a namespace of this name exists.
#[must_use]
pub fn exists(name: &str) -> bool {
    Path::new(NAMED).join(name).exists()
}

/// Removes what a killed run of this harness left: namespaces named for a process that is gone, and what runs there.
fn sweep() {
    let Ok(entries) = fs::read_dir(NAMED) else { return };
    for name in entries.filter_map(|entry| entry.ok()?.file_name().into_string().ok()) {
        let mut parts = name.split('-');
        let owner = (parts.next() == Some(PREFIX)).then(|| parts.next()?.parse::<u32>().ok()).flatten();
        let Some(owner) = owner.filter(|pid| !Path::new("/proc").join(pid.to_string()).exists()) else {
            continue;
        };
        eprintln!("removing {name}, left behind by process {owner}");
        // Another run of the harness may be sweeping too.
        let _ = remove_left(&name);
    }
}

/// Removes a namespace that a killed process left behind, and what runs there.
pub fn remove_left(name: &str) -> Result<()> {
    let pids = ip(&["netns", "pids", name]).unwrap_or_default();
    for pid in pids.split_whitespace().filter_map(|pid| pid.parse().ok()) {
        // It may have ended meanwhile.
        let _ = kill(Pid::from_raw(pid), Signal::SIGKILL);
    }
    ip(&["netns", "del", name]).map(drop)
}

fn ip(args: &[&str]) -> Result<String> {
    let mut command = Command::new("ip");
    command.args(args);
    process::run(command, LIMIT)
}

fn runtime() -> Result<tokio::runtime::Runtime> {
    tokio::runtime::Builder::new_current_thread().enable_all().build().context("make a runtime")
}
