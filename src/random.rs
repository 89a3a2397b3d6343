//! Unpredictable ids.

use std::hash::{BuildHasher as _, RandomState};

/// 128 random bits as 32 lower-case hexadecimal digits.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) struct Hex128([u8; 32]);

impl Hex128 {
    pub(crate) fn parse(text: &str) -> Option<Self> {
        let digits: [u8; 32] = text.as_bytes().try_into().ok()?;
        digits.iter().all(|digit| matches!(digit, b'0'..=b'9' | b'a'..=b'f')).then_some(Self(digits))
    }

    pub(crate) fn as_str(&self) -> &str {
        std::str::from_utf8(&self.0).unwrap_or_default()
    }
}

/// Ids are names, not secrets: should the operating system ever have no randomness to give, the keyed hash of the
/// standard library still makes distinct ones, and the request goes on.
pub(crate) fn hex_128() -> Hex128 {
    let mut bytes = [0_u8; 16];
    if getrandom::fill(&mut bytes).is_err() {
        let (high, low) = bytes.split_at_mut(8);
        high.copy_from_slice(&RandomState::new().hash_one(0).to_be_bytes());
        low.copy_from_slice(&RandomState::new().hash_one(1).to_be_bytes());
    }
    let digit = |nibble: u8| if nibble < 10 { b'0' + nibble } else { b'a' + nibble - 10 };
    let mut hex = [b'0'; 32];
    for (digits, byte) in hex.chunks_exact_mut(2).zip(bytes) {
        digits.copy_from_slice(&[digit(byte >> 4), digit(byte & 15)]);
    }
    Hex128(hex)
}

/// Somewhere from 0 to 1: what spreads the work of many processes over time. Not for secrets.
pub(crate) fn fraction() -> f64 {
    f64::from(getrandom::u32().unwrap_or_default()) / f64::from(u32::MAX)
}

#[cfg(test)]
mod tests {
    #[test]
    fn ids_have_a_fixed_length_and_differ() {
        let (one, two) = (super::hex_128(), super::hex_128());
        assert_eq!(one.as_str().len(), 32);
        assert!(one.as_str().bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f')));
        assert_ne!(one.as_str(), two.as_str());
    }
}
