//! Real HTTP servers, and a load generator that records every request.
//!
//! The client side writes its requests by hand on plain TCP streams: what is under test is connections, and a lean
//! client leaves the processor to the balancer and the servers.

mod load;
mod report;
mod server;

use std::{io, str};

use anyhow::{Context, Result, ensure};
use tokio::io::{AsyncRead, AsyncReadExt};

pub use self::{
    load::{Load, Running},
    report::{Failure, Record, Report},
    server::{HttpServer, Servers},
};

/// More than any head or small answer of these servers.
const MOST: usize = 64 << 10;

/// The head of a request or an answer, and what was read beyond it.
#[derive(Debug)]
pub struct Head {
    /// The request or status line.
    pub first_line: String,
    /// Length of the body in bytes, if the head says it.
    pub content_length: Option<u64>,
    /// The target's name, if the head says it.
    pub target: Option<String>,
    /// The beginning of the body.
    pub rest: Vec<u8>,
}

impl Head {
    /// Reads up to the end of the head; `None` if the peer closed without a byte.
    pub async fn read(stream: &mut (impl AsyncRead + Unpin)) -> Result<Option<Self>> {
        let mut buffer = Vec::with_capacity(4096);
        let Some(end) = read_head(stream, &mut buffer).await? else { return Ok(None) };
        let head = str::from_utf8(&buffer[..end]).context("a head that is not text")?;
        let first_line = head.lines().next().unwrap_or_default().to_owned();
        let (content_length, target) = (content_length(head), field(head, "x-target").map(str::to_owned));
        Ok(Some(Self { first_line, content_length, target, rest: buffer.split_off(end) }))
    }
}

/// Reads one answer and returns its body; anything but a 200 with a stated length is an error.
pub async fn read_response(stream: &mut (impl AsyncRead + Unpin)) -> Result<Vec<u8>> {
    let mut buffer = Vec::with_capacity(1024);
    let end = read_message(stream, &mut buffer).await?;
    Ok(buffer.split_off(end))
}

/// Reads one answer into `buffer`, head and body; returns where the body begins.
async fn read_message(stream: &mut (impl AsyncRead + Unpin), buffer: &mut Vec<u8>) -> Result<usize> {
    buffer.clear();
    let end = read_head(stream, buffer).await?.context("the connection was closed without an answer")?;
    let head = str::from_utf8(&buffer[..end]).context("a head that is not text")?;
    let first_line = head.lines().next().unwrap_or_default();
    ensure!(first_line.contains(" 200 "), "unexpected answer: {first_line}");
    let size = content_length(head).context("an answer without Content-Length")?;
    let whole = end + usize::try_from(size).context("an answer too large for memory")?;
    ensure!(whole <= MOST, "an answer of {whole} bytes where a small one was expected");
    while buffer.len() < whole {
        let read = stream.read_buf(buffer).await?;
        ensure!(
            read > 0,
            "the connection was closed within the answer, after {} of {whole} bytes",
            buffer.len()
        );
    }
    ensure!(buffer.len() == whole, "more bytes than the answer announced");
    Ok(end)
}

async fn read_head(stream: &mut (impl AsyncRead + Unpin), buffer: &mut Vec<u8>) -> Result<Option<usize>> {
    loop {
        if let Some(at) = buffer.windows(4).position(|window| window == b"\r\n\r\n") {
            return Ok(Some(at + 4));
        }
        ensure!(buffer.len() < MOST, "a head of more than {MOST} bytes");
        if stream.read_buf(buffer).await? == 0 {
            if buffer.is_empty() {
                return Ok(None);
            }
            return Err(io::Error::from(io::ErrorKind::UnexpectedEof)).context("within the head");
        }
    }
}

fn content_length(head: &str) -> Option<u64> {
    field(head, "content-length")?.parse().ok()
}

fn field<'a>(head: &'a str, wanted: &str) -> Option<&'a str> {
    let mut fields = head.lines().filter_map(|line| line.split_once(':'));
    fields.find(|(name, _)| name.eq_ignore_ascii_case(wanted)).map(|(_, value)| value.trim())
}
