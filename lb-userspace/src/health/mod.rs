//! The probes that carry out health checks.
//!
//! The [`Compiler`] turns a configured check into a [`Compiled`] one, once per group; [`probe()`] asks one target;
//! the [`Prober`] runs probes at the moments that the core's [`health`](crate::core::health) names and reports
//! their results. No verdict is made here.

mod compiled;
mod http;
mod probe;
mod scheduler;
mod tls;
mod verify;

#[cfg(test)]
mod testing;

pub use self::{
    compiled::{CompileError, Compiled, Compiler},
    probe::{ProbeResult, probe},
    scheduler::{Command, Prober, Report, concurrency},
};
