#![no_main]

libfuzzer_sys::fuzz_mutator!(|data: &mut [u8], size: usize, max_size: usize, seed: u32| {
    portcullis_fuzz::mutator(data, size, max_size, seed, portcullis_fuzz::mutate::bytes)
});

libfuzzer_sys::fuzz_target!(|data: &[u8]| {
    portcullis_fuzz::bundle::check(data);
});
