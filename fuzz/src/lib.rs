//! The properties of `tests/it/properties`, for libFuzzer: the same functions of bytes, the same inputs to begin with, and the same
//! structured changes.

#[path = "../../tests/it/properties/bearer.rs"]
pub mod bearer;

#[path = "../../tests/it/properties/bundle.rs"]
pub mod bundle;

#[path = "../../tests/it/properties/claims.rs"]
pub mod claims;

#[path = "../../tests/it/properties/discovery.rs"]
pub mod discovery;

#[path = "../../tests/it/properties/jwk_set.rs"]
pub mod jwk_set;

#[path = "../../tests/it/properties/jws.rs"]
pub mod jws;

#[path = "../../tests/it/properties/mutate.rs"]
pub mod mutate;

#[path = "../../tests/it/properties/signer.rs"]
pub mod signer;

use mutate::Random;

/// Half of the time a change that libFuzzer makes (it knows the dictionary, and what was compared with what), half of the time one
/// that keeps the outer form, so that what is inside is reached.
pub fn mutator(
    data: &mut [u8],
    size: usize,
    max_size: usize,
    seed: u32,
    change: fn(&[u8], &mut Random) -> Vec<u8>,
) -> usize {
    let mut random = Random::new(seed.into());
    if random.below(2) == 0 {
        return libfuzzer_sys::fuzzer_mutate(data, size, max_size);
    }
    let mut changed = change(&data[..size], &mut random);
    changed.truncate(max_size);
    data[..changed.len()].copy_from_slice(&changed);
    changed.len()
}
