//! The test harness: packets, program runs and network namespaces as values that clean up after themselves.
//!
//! - [`guard`], [`scratch`]: undo steps that run when their owner is dropped, or all at once; temporary folders.
//! - [`process`], [`netns`]: child processes and network namespaces as values.
//! - [`topology`]: the standard test networks.
//! - [`xdp_pass`]: the pass-all program that veth peers need.
//! - [`http`], [`udp`], [`transfer`]: real servers and clients, and a load generator.
//! - [`ping`]: echo requests.
//! - [`packet`]: frames, made and explained.
//! - [`program`]: the kernel program, run on frames.
//! - [`lbd`], [`upgrade`]: the agent under test, and another build of it.
//! - [`testbed`]: all of it together.
//! - [`require`]: what the machine must have.

pub mod guard;
pub mod http;
pub mod lbd;
pub mod netns;
pub mod packet;
pub mod ping;
pub mod process;
pub mod program;
pub mod require;
pub mod scratch;
pub mod testbed;
pub mod topology;
pub mod transfer;
pub mod udp;
pub mod upgrade;
pub mod xdp_pass;
