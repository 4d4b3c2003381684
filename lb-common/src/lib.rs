//! What both sides of Portside must agree on, and the packet path that both compile.
#![cfg_attr(not(any(test, feature = "std")), no_std)]

pub mod abi;
pub mod addr;
pub mod checksum;
pub mod hash;
#[cfg(any(test, feature = "std"))]
pub mod memory;
pub mod parse;
pub mod pipeline;
pub mod tables;
pub mod tcp;
pub mod verdict;
pub mod wire;
