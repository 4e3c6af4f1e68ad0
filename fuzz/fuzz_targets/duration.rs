//! The target `duration` for libFuzzer.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| stepwell::fuzz::duration(data));
