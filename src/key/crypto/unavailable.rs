use super::{Algorithm, PublicKey};

/// Stands in where no crypto feature is on: has no values, so nothing can claim to have verified.
pub(super) enum PreparedKey {}

impl PreparedKey {
    pub(super) fn new(_: Algorithm, _: &PublicKey) -> Option<Self> {
        None
    }

    pub(super) fn verify(&self, _: Algorithm, _: &[u8], _: &[u8]) -> bool {
        match *self {}
    }
}

/// Has no values either.
pub(super) enum Mac {}

impl Mac {
    pub(super) fn new(_: &[u8]) -> Option<Self> {
        None
    }

    pub(super) fn verify(&self, _: &[u8], _: &[u8]) -> bool {
        match *self {}
    }

    #[cfg(any(test, feature = "testing"))]
    pub(super) fn sign(&self, _: &[u8]) -> Vec<u8> {
        match *self {}
    }
}
