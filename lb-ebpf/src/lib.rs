//! The packet path of `lb-common` bound to `XdpContext` and the BPF maps: no decision is taken here.
//!
//! - [`atomic`]: atomic operations.
//! - [`frame`]: the packet; the one place with unsafe packet access.
//! - [`maps`]: the maps' definitions.
//! - [`kernel`]: the tables over the maps.
#![no_std]
#![cfg_attr(target_arch = "bpf", feature(core_intrinsics), allow(internal_features, reason = "see `atomic`"))]

pub mod atomic;
pub mod frame;
pub mod kernel;
pub mod maps;
