//! What the tests of the presets share: a verifier of one issuer, and tokens signed the way that issuer does.

use serde_json::{Value, json};

use super::Issuer;
use crate::{
    key::{Algorithm, JwkSet},
    principal::PrincipalKind,
    token::{
        TokenError, VerifiedToken, Verifier,
        test_tokens::{now, public_keys, seal},
    },
};

pub(super) struct Shapes {
    verifier: Verifier,
    algorithm: Algorithm,
    typ: Option<&'static str>,
}

impl Shapes {
    /// Tokens signed with the first of the issuer's algorithms, their header's `typ` this.
    pub(super) fn of(issuer: Issuer, typ: Option<&'static str>) -> Self {
        Self::signed(issuer, typ, public_keys())
    }

    pub(super) fn signed(issuer: Issuer, typ: Option<&'static str>, keys: JwkSet) -> Self {
        let algorithm = issuer.algorithms[0];
        Self { verifier: Verifier::builder(issuer.with_keys(keys)).build().unwrap(), algorithm, typ }
    }

    pub(super) fn verify(&self, claims: &Value) -> Result<VerifiedToken, TokenError> {
        self.verify_typed(self.typ, claims)
    }

    pub(super) fn verify_typed(&self, typ: Option<&str>, claims: &Value) -> Result<VerifiedToken, TokenError> {
        self.verify_signed(self.algorithm, typ, claims)
    }

    pub(super) fn verify_signed(
        &self,
        algorithm: Algorithm,
        typ: Option<&str>,
        claims: &Value,
    ) -> Result<VerifiedToken, TokenError> {
        let mut header = json!({"alg": algorithm.name(), "kid": algorithm.name()});
        if let Some(typ) = typ {
            header["typ"] = json!(typ);
        }
        let token = seal(algorithm, header.to_string(), claims.to_string());
        self.verifier.verify_now(&token, now()).unwrap()
    }

    /// The kind of the principal, or why there is none.
    pub(super) fn kind(&self, claims: &Value) -> Result<PrincipalKind, TokenError> {
        self.verify(claims).map(|token| token.principal().kind())
    }

    pub(super) fn refusal(&self, claims: &Value) -> Option<TokenError> {
        self.verify(claims).err()
    }
}

/// The field at fault and the text of the refusal of a configuration.
pub(super) fn misconfigured(issuer: Issuer) -> (String, String) {
    let error = issuer.with_keys(public_keys()).into_parts().map(|_| ()).unwrap_err();
    (error.field().to_owned(), error.to_string())
}
