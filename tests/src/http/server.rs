//! nginx, one process per target.

use std::{
    fs,
    net::{Ipv4Addr, Ipv6Addr, TcpStream},
    path::{Path, PathBuf},
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, bail};

use crate::{
    process::Process,
    scratch::Scratch,
    topology::{Host, Topology},
    transfer,
};

/// How long a server may take until it answers.
const START: Duration = Duration::from_secs(10);

/// An nginx in a host's namespace, both families. `/` answers the host's name, `/health` answers while the server
/// [says it is healthy](HttpServer::set_healthy), `/big` is a large file and `/slow` the same at 8 MiB/s.
///
/// It is a single process, so [`HttpServer::kill`] takes the whole server away at once.
#[derive(Debug)]
pub struct HttpServer {
    name: String,
    port: u16,
    process: Option<Process>,
    scratch: Scratch,
}

impl HttpServer {
    /// Starts a server on `port` of `host` and waits until it accepts. `big` is the file to serve.
    pub fn start(host: &Host, port: u16, big: Option<&Path>) -> Result<Self> {
        let scratch = Scratch::new()?;
        fs::write(scratch.join("nginx.conf"), config(scratch.path(), &host.name, port, big))
            .context("write the nginx configuration")?;
        let mut server = Self { name: host.name.clone(), port, process: None, scratch };
        server.set_healthy(true)?;
        server.start_again(host)?;
        Ok(server)
    }

    /// The host's name, which is what `/` answers.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Starts the server again after [`HttpServer::kill`].
    pub fn start_again(&mut self, host: &Host) -> Result<()> {
        self.kill();
        let dir = self.scratch.path().to_string_lossy();
        let (conf, errors) = (format!("{dir}/nginx.conf"), format!("{dir}/error.log"));
        let args = ["-p", &dir, "-c", &conf, "-e", &errors];
        let process = host.ns.spawn("nginx", &args, Some(&self.scratch.join("output.log")))?;
        let deadline = Instant::now() + START;
        let port = self.port;
        while !host.ns.run(|| accepts(port))? {
            if !process.is_running() || Instant::now() > deadline {
                let errors = fs::read_to_string(&errors).unwrap_or_default();
                bail!("nginx of {} does not listen on port {port}:\n{}{errors}", self.name, process.output());
            }
            thread::sleep(Duration::from_millis(10));
        }
        self.process = Some(process);
        Ok(())
    }

    /// Ends the server with SIGKILL, as a crash would.
    pub fn kill(&mut self) {
        self.process = None;
    }

    /// Whether it runs.
    #[must_use]
    pub fn is_running(&self) -> bool {
        self.process.as_ref().is_some_and(Process::is_running)
    }

    /// Its process id, while it runs.
    #[must_use]
    pub fn pid(&self) -> Option<u32> {
        self.process.as_ref().map(Process::pid)
    }

    /// Makes `/health` answer 200, or 404.
    pub fn set_healthy(&self, healthy: bool) -> Result<()> {
        let file = self.scratch.join("health");
        if healthy {
            return fs::write(&file, "ok\n").with_context(|| format!("write {}", file.display()));
        }
        match fs::remove_file(&file) {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
                Err(error).with_context(|| format!("remove {}", file.display()))
            }
            _ => Ok(()),
        }
    }

    /// Lets the server outlive this process.
    pub fn keep(&self) {
        self.scratch.keep();
        if let Some(process) = &self.process {
            process.keep();
        }
    }
}

/// One server for each target of a network.
#[derive(Debug)]
pub struct Servers {
    /// In the order of the network's targets.
    pub all: Vec<HttpServer>,
    /// Digest of the file at `/big`, in hexadecimal, if there is one.
    pub digest: Option<String>,
    big: Option<(Scratch, PathBuf)>,
}

impl Servers {
    /// Starts a server on `port` of every target, without a large file.
    pub fn start(topology: &Topology, port: u16) -> Result<Self> {
        Self::with_file(topology, port, 0)
    }

    /// The same with a file of `size` bytes at `/big`, if not 0.
    pub fn with_file(topology: &Topology, port: u16, size: u64) -> Result<Self> {
        let (mut big, mut digest) = (None, None);
        if size > 0 {
            let scratch = Scratch::new()?;
            let path = scratch.join("big");
            digest = Some(transfer::write_file(&path, size)?);
            big = Some((scratch, path));
        }
        let path = big.as_ref().map(|(_, path)| path.as_path());
        let all =
            topology.targets.iter().map(|host| HttpServer::start(host, port, path)).collect::<Result<_>>()?;
        Ok(Self { all, digest, big })
    }

    /// Lets the servers outlive this process.
    pub fn keep(&self) {
        self.all.iter().for_each(HttpServer::keep);
        if let Some((scratch, _)) = &self.big {
            scratch.keep();
        }
    }
}

fn accepts(port: u16) -> bool {
    TcpStream::connect((Ipv4Addr::LOCALHOST, port)).is_ok()
        && TcpStream::connect((Ipv6Addr::LOCALHOST, port)).is_ok()
}

fn config(dir: &Path, name: &str, port: u16, big: Option<&Path>) -> String {
    let dir = dir.display();
    let big = big.map_or_else(String::new, |path| {
        let path = path.display();
        format!(
            "    location = /big {{ alias {path}; }}\n    location = /slow {{ alias {path}; limit_rate 8m; }}\n"
        )
    });
    format!(
        "daemon off;
master_process off;
pid {dir}/nginx.pid;
error_log {dir}/error.log warn;
worker_rlimit_nofile 65536;
events {{ worker_connections 16384; }}
http {{
  access_log off;
  default_type text/plain;
  add_header X-Target \"{name}\";
  sendfile on;
  keepalive_requests 1000000;
  client_body_temp_path {dir}/body;
  proxy_temp_path {dir}/proxy;
  fastcgi_temp_path {dir}/fastcgi;
  uwsgi_temp_path {dir}/uwsgi;
  scgi_temp_path {dir}/scgi;
  server {{
    listen {port} backlog=4096;
    listen [::]:{port} ipv6only=on backlog=4096;
    location = / {{ return 200 \"{name}\\n\"; }}
    location = /health {{ root {dir}; }}
{big}  }}
}}
"
    )
}
