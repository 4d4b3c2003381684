//! The packet path of `lb-common` bound to `XdpContext` and the BPF maps.
#![no_std]
