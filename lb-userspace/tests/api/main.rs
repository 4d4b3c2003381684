//! The REST API, its metrics and `lbctl`, against an agent that keeps its state in memory.
#![expect(clippy::unwrap_used, clippy::panic, reason = "a test says what went wrong by panicking")]

mod client;
mod fake;
mod lbctl;
mod metrics;
mod sample;
mod server;
mod support;
