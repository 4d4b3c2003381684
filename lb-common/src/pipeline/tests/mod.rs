//! The packet path on tables in memory, flow by flow.

mod close;
mod follow;
mod policy;
mod room;
mod world;
