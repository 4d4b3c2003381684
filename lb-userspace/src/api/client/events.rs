//! Server-sent events, as far as this API uses them.

use std::io;

use http_body_util::BodyExt as _;

use super::{Address, ClientError, transport::Opened};
use crate::api::types::Event;

/// The longest line of the stream, in bytes.
const MAX_LINE_BYTES: usize = 1 << 20;

/// Events as they happen.
#[derive(Debug)]
pub struct EventStream {
    opened: Opened,
    address: Address,
    unread: Vec<u8>,
    data: String,
}

impl EventStream {
    pub(super) fn new(opened: Opened, address: Address) -> Self {
        Self { opened, address, unread: Vec::new(), data: String::new() }
    }

    /// The next event; none when the agent has ended the stream, as it does when it stops and when this client
    /// has fallen too far behind. Cancel-safe.
    pub async fn next(&mut self) -> Result<Option<Event>, ClientError> {
        loop {
            while let Some(line) = self.take_line() {
                if let Some(event) = self.line(&line)? {
                    return Ok(Some(event));
                }
            }
            if self.unread.len() > MAX_LINE_BYTES {
                return Err(self.protocol("an event of more than a mebibyte".to_owned()));
            }
            match self.opened.response.body_mut().frame().await {
                None => return Ok(None),
                Some(Ok(frame)) => self.unread.extend(frame.into_data().unwrap_or_default()),
                Some(Err(error)) => {
                    let source = io::Error::other(format!("the stream broke: {error}"));
                    return Err(ClientError::Unreachable { address: self.address.clone(), source });
                }
            }
        }
    }

    fn take_line(&mut self) -> Option<String> {
        let end = self.unread.iter().position(|byte| *byte == b'\n')?;
        let line: Vec<u8> = self.unread.drain(..=end).collect();
        Some(String::from_utf8_lossy(&line).trim_end_matches(['\r', '\n']).to_owned())
    }

    /// Takes one line in; an empty one ends an event.
    fn line(&mut self, line: &str) -> Result<Option<Event>, ClientError> {
        if let Some(data) = line.strip_prefix("data:") {
            self.data.push_str(data.strip_prefix(' ').unwrap_or(data));
            return Ok(None);
        }
        if !line.is_empty() || self.data.is_empty() {
            return Ok(None);
        }
        let event = serde_json::from_str(&std::mem::take(&mut self.data));
        event.map(Some).map_err(|error| self.protocol(error.to_string()))
    }

    fn protocol(&self, cause: String) -> ClientError {
        ClientError::Protocol { address: self.address.clone(), cause }
    }
}
