//! Program-run tables: for every class of packet the verdict, the bytes that come out, and exactly the counters that
//! moved, of the kernel's program and of the host-compiled packet path alike. What should come out is built by a builder
//! that shares no code with the packet path, its checksums computed whole.
#![expect(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "a row that cannot be run fails its test"
)]

mod answers;
mod bench;
mod flows;
mod headers;
mod refusals;
