//! Coverage-guided fuzz targets: each is a function of bytes that must neither panic nor break what it asserts.
//!
//! `cargo xtask fuzz` builds the binaries of `src/bin`, which hand them to the fuzzer; the tests of this crate replay
//! the committed inputs of `corpus/` on a plain build. An input that once made a target fail belongs there too.

#![expect(clippy::expect_used, reason = "a target tells what it found by a panic")]

mod api_bodies;
mod config;
mod frames;
mod packet;
mod world;

pub use api_bodies::api_bodies;
pub use config::config;
pub use packet::packet;

/// A target: its name, which is that of its binary and its folder in `corpus/`, and its function.
pub type Target = (&'static str, fn(&[u8]));

/// Every target.
pub const TARGETS: &[Target] = &[("config", config), ("api_bodies", api_bodies), ("packet", packet)];
