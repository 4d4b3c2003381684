//! The load generator.

use std::{
    cell::{Cell, RefCell},
    net::{IpAddr, SocketAddr},
    rc::Rc,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, ensure};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpSocket, TcpStream},
    task::LocalSet,
    time::{sleep_until, timeout},
};

use super::{
    read_message,
    report::{Record, Report},
};
use crate::netns::{NetNs, Task};

/// A load to put on an address: how many clients at once, how fast, for how long.
#[derive(Clone, Debug)]
pub struct Load {
    to: SocketAddr,
    path: String,
    source: Option<IpAddr>,
    concurrency: usize,
    rate: Option<f64>,
    count: Option<u64>,
    keep_alive: bool,
    timeout: Duration,
}

impl Load {
    /// GET `/`, a connection for each, 64 clients without pause until stopped; a request fails after 5 seconds.
    #[must_use]
    pub fn to(to: SocketAddr) -> Self {
        Self {
            to,
            path: "/".to_owned(),
            source: None,
            concurrency: 64,
            rate: None,
            count: None,
            keep_alive: false,
            timeout: Duration::from_secs(5),
        }
    }

    /// What to GET. The first line of the answer is taken for the target's name.
    #[must_use]
    pub fn path(self, path: &str) -> Self {
        Self { path: path.to_owned(), ..self }
    }

    /// Connects from this address.
    #[must_use]
    pub fn from(self, source: IpAddr) -> Self {
        Self { source: Some(source), ..self }
    }

    /// How many clients there are, hence requests at once at most.
    #[must_use]
    pub fn concurrency(self, concurrency: usize) -> Self {
        Self { concurrency, ..self }
    }

    /// Requests a second, started by the clock: a slow answer delays no other request while a client is free.
    #[must_use]
    pub fn rate(self, rate: f64) -> Self {
        Self { rate: Some(rate), ..self }
    }

    /// How many requests to make in all.
    #[must_use]
    pub fn count(self, count: u64) -> Self {
        Self { count: Some(count), ..self }
    }

    /// Requests follow each other on one connection per client.
    #[must_use]
    pub fn keep_alive(self) -> Self {
        Self { keep_alive: true, ..self }
    }

    /// When a request has failed.
    #[must_use]
    pub fn timeout(self, timeout: Duration) -> Self {
        Self { timeout, ..self }
    }

    /// Makes the requests from `ns` and waits for the last; needs a count.
    pub fn run(self, ns: &NetNs) -> Result<Report> {
        ensure!(self.count.is_some(), "a load without a count never ends: start it and finish it instead");
        self.start(ns)?.join()
    }

    /// Starts making the requests from `ns`.
    pub fn start(self, ns: &NetNs) -> Result<Running> {
        let shared = Arc::new(Shared::default());
        let started = Instant::now();
        let inside = Arc::clone(&shared);
        let task = ns.spawn_task(move || async move { drive(self, started, inside).await })?;
        Ok(Running { task, shared, started })
    }
}

/// A load at work. Dropping it ends it at once.
#[derive(Debug)]
pub struct Running {
    task: Task<()>,
    shared: Arc<Shared>,
    started: Instant,
}

impl Running {
    /// Time since the load's start: the clock of [`Record::at`].
    #[must_use]
    pub fn elapsed(&self) -> Duration {
        self.started.elapsed()
    }

    /// Lets it run for a while; fails if it ended meanwhile.
    pub fn let_run(&self, time: Duration) -> Result<()> {
        thread::sleep(time);
        ensure!(!self.task.is_finished(), "the load has ended early");
        Ok(())
    }

    /// Everything so far.
    #[must_use]
    pub fn report(&self) -> Report {
        let progress = self.shared.progress();
        Report {
            records: progress.records.clone(),
            targets: progress.targets.clone(),
            elapsed: self.elapsed(),
        }
    }

    /// The requests that ended after the first `seen` ones: for a live view, without copying all.
    #[must_use]
    pub fn since(&self, seen: usize) -> Report {
        let progress = self.shared.progress();
        let records = progress.records.get(seen..).unwrap_or_default().to_vec();
        Report { records, targets: progress.targets.clone(), elapsed: self.elapsed() }
    }

    /// Starts no more requests, waits for those at work, and returns everything.
    pub fn finish(self) -> Result<Report> {
        self.shared.stop.store(true, Ordering::Relaxed);
        self.join()
    }

    fn join(self) -> Result<Report> {
        self.task.join()?;
        let elapsed = self.started.elapsed();
        let progress = std::mem::take(&mut *self.shared.progress());
        Ok(Report { records: progress.records, targets: progress.targets, elapsed })
    }
}

#[derive(Debug, Default)]
struct Shared {
    progress: Mutex<Progress>,
    stop: AtomicBool,
}

#[derive(Debug, Default)]
struct Progress {
    records: Vec<Record>,
    targets: Vec<String>,
}

impl Shared {
    fn progress(&self) -> MutexGuard<'_, Progress> {
        self.progress.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Progress {
    fn target(&mut self, name: &str) -> Result<u16, Box<str>> {
        let known = self.targets.iter().position(|known| known == name);
        let index = known.unwrap_or_else(|| {
            self.targets.push(name.to_owned());
            self.targets.len() - 1
        });
        u16::try_from(index).map_err(|_| "too many different answers".into())
    }
}

/// Runs all clients on this thread. Each takes the next number, waits until that request is due, and makes it.
async fn drive(load: Load, started: Instant, shared: Arc<Shared>) {
    let load = Rc::new(load);
    let next = Rc::new(Cell::new(0_u64));
    let clients = LocalSet::new();
    for _ in 0..load.concurrency {
        let (load, next, shared) = (Rc::clone(&load), Rc::clone(&next), Arc::clone(&shared));
        clients.spawn_local(async move {
            let mut client = Client::new(&load);
            while !shared.stop.load(Ordering::Relaxed) {
                let number = next.get();
                if load.count.is_some_and(|count| number >= count) {
                    break;
                }
                next.set(number + 1);
                if let Some(rate) = load.rate {
                    let due = started + Duration::from_secs_f64(number as f64 / rate);
                    sleep_until(due.into()).await;
                    if shared.stop.load(Ordering::Relaxed) {
                        break;
                    }
                }
                let begun = Instant::now();
                let answer = client.request().await;
                let latency = begun.elapsed();
                let mut progress = shared.progress();
                let outcome = answer.and_then(|name| progress.target(name));
                progress.records.push(Record { at: begun - started, latency, outcome });
            }
        });
    }
    clients.await;
}

struct Client<'a> {
    load: &'a Load,
    request: Vec<u8>,
    connection: RefCell<Option<TcpStream>>,
    buffer: Vec<u8>,
}

impl<'a> Client<'a> {
    fn new(load: &'a Load) -> Self {
        let connection = if load.keep_alive { "keep-alive" } else { "close" };
        let request =
            format!("GET {} HTTP/1.1\r\nHost: {}\r\nConnection: {connection}\r\n\r\n", load.path, load.to);
        Self {
            load,
            request: request.into_bytes(),
            connection: RefCell::new(None),
            buffer: Vec::with_capacity(1024),
        }
    }

    /// Makes one request; returns the name in the answer.
    async fn request(&mut self) -> Result<&str, Box<str>> {
        let step = Cell::new("connecting");
        let mut buffer = std::mem::take(&mut self.buffer);
        let done = timeout(self.load.timeout, self.exchange(&step, &mut buffer)).await;
        self.buffer = buffer;
        match done {
            Ok(Ok(body)) => {
                let text =
                    std::str::from_utf8(&self.buffer[body..]).map_err(|_| "an answer that is not text")?;
                Ok(text.lines().next().unwrap_or_default())
            }
            Ok(Err(error)) => Err(format!("{}: {error:#}", step.get()).into()),
            Err(_) => Err(format!("{}: no end within {:?}", step.get(), self.load.timeout).into()),
        }
    }

    async fn exchange(&self, step: &Cell<&str>, buffer: &mut Vec<u8>) -> Result<usize> {
        let kept = self.connection.borrow_mut().take();
        let mut stream = match kept {
            Some(stream) => stream,
            None => self.connect().await?,
        };
        step.set("sending");
        stream.write_all(&self.request).await?;
        step.set("receiving");
        let body = read_message(&mut stream, buffer).await?;
        if self.load.keep_alive {
            *self.connection.borrow_mut() = Some(stream);
        } else {
            // The server closes; an answer cut off by a reset is no success, even if its bytes are all there.
            step.set("closing");
            let more = stream.read(&mut [0]).await?;
            ensure!(more == 0, "more bytes than the answer announced");
        }
        Ok(body)
    }

    async fn connect(&self) -> Result<TcpStream> {
        let to = self.load.to;
        let socket = if to.is_ipv4() { TcpSocket::new_v4()? } else { TcpSocket::new_v6()? };
        if let Some(source) = self.load.source {
            socket.bind(SocketAddr::new(source, 0)).with_context(|| format!("bind to {source}"))?;
        }
        let stream = socket.connect(to).await?;
        stream.set_nodelay(true)?;
        Ok(stream)
    }
}
