//! Portside's userspace: the agent `lbd` and its client `lbctl`.
//!
//! - [`config`]: the configuration file, parsed once into checked types.
//! - [`core`]: the pure control core; no IO, time passed in.
//! - [`dataplane`]: the kernel's program and maps, and their in-memory twin.
//! - [`net`]: what the agent reads from and writes to the host's network (netlink, announcements, sysctl).
//! - [`health`]: the probes that carry out health checks.
//! - [`api`]: the REST API: its types, its server, its client.
//! - [`metrics`]: the Prometheus exposition.
//! - [`agent`]: the tasks of `lbd` that carry events to the core and its commands to the world.
//! - [`words`]: numbers and the words that go with them, for all of these.
//! - [`cli`]: `lbctl`'s commands and tables.

pub mod agent;
pub mod api;
pub mod cli;
pub mod config;
pub mod core;
pub mod dataplane;
pub mod health;
pub mod metrics;
pub mod net;
pub mod words;
