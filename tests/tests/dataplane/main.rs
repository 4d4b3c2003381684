//! The kernel's data plane without an agent: loading, writing, adopting, replacing, reading, unloading, and each error
//! that it can meet.

mod errors;
mod lifecycle;
mod reads;
mod setup;
mod writes;
