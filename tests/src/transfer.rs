//! Large transfers, proved by SHA-256: a file for a server to serve, a server that takes uploads, and their client.

use std::{
    fs::File,
    io::{BufWriter, Write},
    net::{Ipv6Addr, SocketAddr},
    path::Path,
    time::Duration,
};

use anyhow::{Context, Result, bail, ensure};
use rand::{RngExt, SeedableRng, rngs::SmallRng};
use sha2::{Digest, Sha256};
use tokio::{
    io::{AsyncRead, AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
    time::timeout,
};

use crate::{
    http::{self, Head},
    netns::{NetNs, Task},
};

/// One gibibyte, the size that the suites move.
pub const GIB: u64 = 1 << 30;
/// Bytes a second of a web server's `/slow`.
pub const SLOW_RATE: u64 = 8 << 20;
const CHUNK: usize = 256 << 10;
/// No single read or write of a healthy transfer takes this long.
const STALL: Duration = Duration::from_secs(10);

/// Bytes that depend on their position, so lost, doubled and swapped pieces all change the digest.
struct Pattern {
    block: Vec<u8>,
    left: u64,
    number: u64,
}

impl Pattern {
    fn new(size: u64) -> Self {
        let mut block = vec![0; CHUNK];
        SmallRng::seed_from_u64(size).fill(&mut block[..]);
        Self { block, left: size, number: 0 }
    }

    fn next(&mut self) -> Option<&[u8]> {
        if self.left == 0 {
            return None;
        }
        self.block[..8].copy_from_slice(&self.number.to_be_bytes());
        self.number += 1;
        let size = usize::try_from(self.left).unwrap_or(CHUNK).min(CHUNK);
        self.left -= size as u64;
        Some(&self.block[..size])
    }
}

/// Writes the pattern of `size` bytes to `path` and returns its digest in hexadecimal.
pub fn write_file(path: &Path, size: u64) -> Result<String> {
    let file = File::create(path).with_context(|| format!("make {}", path.display()))?;
    let mut file = BufWriter::with_capacity(CHUNK, file);
    let mut digest = Sha256::new();
    let mut pattern = Pattern::new(size);
    while let Some(chunk) = pattern.next() {
        digest.update(chunk);
        file.write_all(chunk).with_context(|| format!("write {} ({size} bytes)", path.display()))?;
    }
    file.flush().with_context(|| format!("write {}", path.display()))?;
    Ok(hex(&digest.finalize()))
}

/// A server that answers an upload with the target's name and the digest of what arrived.
#[derive(Debug)]
pub struct UploadServer {
    _task: Task<()>,
}

impl UploadServer {
    /// Listens on `port` in `ns`, both families.
    pub fn start(ns: &NetNs, name: &str, port: u16) -> Result<Self> {
        let name = name.to_owned();
        let listener = ns.run(|| std::net::TcpListener::bind((Ipv6Addr::UNSPECIFIED, port)))?;
        let listener = listener.with_context(|| format!("listen on port {port} in {ns}"))?;
        listener.set_nonblocking(true)?;
        let task = ns.spawn_task(move || async move {
            if let Err(error) = serve(listener, &name).await {
                eprintln!("the upload server of {name} has ended: {error:#}");
            }
        })?;
        Ok(Self { _task: task })
    }
}

async fn serve(listener: std::net::TcpListener, name: &str) -> Result<()> {
    let listener = TcpListener::from_std(listener)?;
    loop {
        let (stream, peer) = listener.accept().await?;
        let name = name.to_owned();
        tokio::spawn(async move {
            if let Err(error) = take(stream, &name).await {
                eprintln!("upload from {peer} to {name}: {error:#}");
            }
        });
    }
}

async fn take(mut stream: TcpStream, name: &str) -> Result<()> {
    let Some(head) = Head::read(&mut stream).await? else { return Ok(()) };
    let size = head.content_length.context("an upload without Content-Length")?;
    let digest = digest(&mut stream, &head.rest, size).await?;
    let body = format!("{name}\n{digest}\n");
    let answer =
        format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\nConnection: close\r\n\r\n{body}", body.len());
    timeout(STALL, stream.write_all(answer.as_bytes())).await.context("the answer stalled")??;
    stream.shutdown().await?;
    Ok(())
}

/// Uploads the pattern of `size` bytes from this thread's namespace and checks the digest that the server computed.
/// Returns the name of the target that took it.
pub async fn upload(to: SocketAddr, size: u64) -> Result<String> {
    let mut stream = timeout(STALL, TcpStream::connect(to)).await.context("connecting took too long")??;
    let head =
        format!("POST /upload HTTP/1.1\r\nHost: {to}\r\nContent-Length: {size}\r\nConnection: close\r\n\r\n");
    stream.write_all(head.as_bytes()).await?;
    let mut digest = Sha256::new();
    let mut pattern = Pattern::new(size);
    let mut sent = 0;
    while let Some(chunk) = pattern.next() {
        digest.update(chunk);
        let written = timeout(STALL, stream.write_all(chunk)).await;
        written
            .with_context(|| format!("stalled after {sent} bytes"))?
            .with_context(|| format!("after {sent} bytes"))?;
        sent += chunk.len();
    }
    let answer =
        timeout(STALL, http::read_response(&mut stream)).await.context("no answer to the upload")??;
    let body = String::from_utf8(answer).context("an answer that is not text")?;
    let mut lines = body.lines();
    let (name, got) = (lines.next().unwrap_or_default(), lines.next().unwrap_or_default());
    let sent = hex(&digest.finalize());
    ensure!(got == sent, "{name} got other bytes than were sent: digest {got}, not {sent}");
    Ok(name.to_owned())
}

/// What a download brought.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Download {
    /// Bytes.
    pub size: u64,
    /// Their SHA-256, in hexadecimal.
    pub digest: String,
    /// The target that served them.
    pub target: String,
}

/// Downloads `path` from this thread's namespace. `begun` is told the target as soon as it answers.
pub async fn download(from: SocketAddr, path: &str, begun: impl FnOnce(&str)) -> Result<Download> {
    let mut stream = timeout(STALL, TcpStream::connect(from)).await.context("connecting took too long")??;
    let request = format!("GET {path} HTTP/1.1\r\nHost: {from}\r\nConnection: close\r\n\r\n");
    stream.write_all(request.as_bytes()).await?;
    let head = timeout(STALL, Head::read(&mut stream)).await.context("no answer to the download")??;
    let head = head.context("the connection was closed without an answer")?;
    ensure!(head.first_line.contains(" 200 "), "unexpected answer: {}", head.first_line);
    let size = head.content_length.context("an answer without Content-Length")?;
    let target = head.target.context("an answer without the target's name")?;
    begun(&target);
    let digest = digest(&mut stream, &head.rest, size).await?;
    Ok(Download { size, digest, target })
}

async fn digest(stream: &mut (impl AsyncRead + Unpin), first: &[u8], size: u64) -> Result<String> {
    let mut digest = Sha256::new();
    digest.update(first);
    let mut got = first.len() as u64;
    let mut buffer = vec![0; CHUNK];
    while got < size {
        let read = timeout(STALL, stream.read(&mut buffer)).await;
        let read = read.with_context(|| format!("stalled after {got} of {size} bytes"))?;
        let read = read.with_context(|| format!("after {got} of {size} bytes"))?;
        if read == 0 {
            bail!("the connection ended after {got} of {size} bytes");
        }
        digest.update(&buffer[..read]);
        got += read as u64;
    }
    ensure!(got == size, "{got} bytes where {size} were announced");
    Ok(hex(&digest.finalize()))
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().fold(String::new(), |mut text, byte| {
        use std::fmt::Write as _;
        // Writing to a string cannot fail.
        let _ = write!(text, "{byte:02x}");
        text
    })
}
