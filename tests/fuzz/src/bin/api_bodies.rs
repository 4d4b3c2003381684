//! The fuzzer's entry to the target `api_bodies`.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| lb_fuzz::api_bodies(data));
