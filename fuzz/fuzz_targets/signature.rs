//! The target `signature` for libFuzzer.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| stepwell::fuzz::signature(data));
