//! The REST API under `/v1`.
//!
//! - [`types`]: what travels.
//! - [`backend`]: what the agent must be able to answer; all that the server knows of it.
//! - [`server`]: the routes over a Unix socket, and read-only over loopback TCP.
//! - [`client`]: typed requests to a running agent.

pub mod backend;
pub mod client;
pub mod server;
pub mod types;
