//! The target `await_tree` for libFuzzer.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| stepwell::fuzz::await_tree(data));
