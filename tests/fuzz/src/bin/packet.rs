//! The fuzzer's entry to the target `packet`.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| lb_fuzz::packet(data));
