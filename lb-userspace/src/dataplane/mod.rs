//! The kernel's program and maps, and their in-memory twin.

pub mod kernel;
pub mod memory;
pub mod object;
mod write;

pub use write::{
    AccessRow, Contents, CounterSnapshot, DataPlane, FlowRecord, MapUsage, ServiceRow, Write, WriteError,
};
