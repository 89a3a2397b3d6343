//! What must hold whatever the bytes: each module has one property, as a function of bytes, and inputs to begin with. Here they
//! are tried on some thousand changes of those inputs, in `fuzz/` on as many as there is time for.

use proptest::{prelude::*, sample::Index};

use self::mutate::Random;

pub mod bearer;

pub mod bundle;

pub mod claims;

pub mod discovery;

pub mod jwk_set;

pub mod jws;

pub mod mutate;

pub mod signer;

/// One of the seeds, changed up to seven times; or any bytes.
fn inputs(seeds: fn() -> Vec<Vec<u8>>, change: fn(&[u8], &mut Random) -> Vec<u8>) -> impl Strategy<Value = Vec<u8>> {
    let seeds = seeds();
    let changed = (any::<Index>(), any::<u64>(), 0..8_usize).prop_map(move |(index, seed, times)| {
        let mut random = Random::new(seed);
        (0..times).fold(index.get(&seeds).clone(), |input, _| change(&input, &mut random))
    });
    prop_oneof![9 => changed, 1 => proptest::collection::vec(any::<u8>(), 0..300)]
}

#[test]
fn each_property_is_tried_on_what_is_accepted_and_on_what_is_not() {
    type Check = fn(&[u8]) -> bool;
    let table: [(&str, Vec<Vec<u8>>, Check, usize); 6] = [
        ("bearer", bearer::seeds(), bearer::check, 2),
        ("bundle", bundle::seeds(), bundle::check, 5),
        ("jws", jws::seeds(), jws::check, 9),
        ("claims", claims::seeds(), claims::check, 4),
        ("jwk set", jwk_set::seeds(), jwk_set::check, 4),
        ("discovery", discovery::seeds(), discovery::check, 6),
    ];
    for (name, seeds, check, accepted) in table {
        assert_eq!(seeds.iter().filter(|seed| check(seed)).count(), accepted, "{name}");
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(1024))]

    #[test]
    fn a_bearer_token_is_found_exactly_where_the_grammar_has_one(data in inputs(bearer::seeds, mutate::bytes)) {
        bearer::check(&data);
    }

    #[test]
    fn a_bundle_holds_together_or_is_refused(data in inputs(bundle::seeds, mutate::bytes)) {
        bundle::check(&data);
    }

    #[test]
    fn nothing_verifies_but_what_was_signed(compact in inputs(jws::seeds, mutate::jws)) {
        jws::check(&compact);
    }

    #[test]
    fn claims_are_accepted_for_us_and_for_now_or_not_at_all(payload in inputs(claims::seeds, mutate::json)) {
        claims::check(&payload);
    }

    #[test]
    fn a_key_set_is_bounded_and_each_key_is_one_by_itself(document in inputs(jwk_set::seeds, mutate::json)) {
        jwk_set::check(&document);
    }

    #[test]
    fn a_discovery_document_leads_nowhere_but_to_its_issuers_keys(document in inputs(discovery::seeds, mutate::json)) {
        discovery::check(&document);
    }
}
