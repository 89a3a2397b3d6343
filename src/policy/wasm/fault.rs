use std::fmt;

use wasmtime::Trap;

use crate::policy::PolicyError;

/// Why a module gave no answer. None of the texts can quote the input.
#[derive(Debug, thiserror::Error)]
pub(super) enum Fault {
    #[error("it did not end in time")]
    Deadline,
    #[error("it trapped: {0}")]
    Trap(Trap),
    #[error("it gave up: {0}")]
    Abort(String),
    #[error("`{0}` failed")]
    Builtin(String),
    #[error("it pointed to a place outside of its memory")]
    OutOfBounds,
    #[error("it wrote more than {0} bytes")]
    TooLong(usize),
    #[error("it wrote something else than a result")]
    NoResult,
    /// While it is loaded.
    #[error("{0}")]
    Unfit(String),
}

impl Fault {
    pub(super) fn unfit(cause: impl fmt::Display) -> Self {
        Self::Unfit(cause.to_string())
    }
}

impl From<wasmtime::Error> for Fault {
    fn from(error: wasmtime::Error) -> Self {
        match (error.downcast_ref::<Trap>(), error.is::<Self>()) {
            (Some(Trap::Interrupt), _) => Self::Deadline,
            (Some(trap), _) => Self::Trap(*trap),
            (None, true) => error.downcast().unwrap_or_else(Self::unfit),
            (None, false) => Self::unfit(error),
        }
    }
}

impl From<Fault> for PolicyError {
    fn from(fault: Fault) -> Self {
        match fault {
            Fault::Deadline => Self::timeout(fault),
            Fault::OutOfBounds | Fault::TooLong(_) | Fault::NoResult => Self::invalid_result(fault),
            Fault::Trap(_) | Fault::Abort(_) | Fault::Builtin(_) | Fault::Unfit(_) => Self::evaluation(fault),
        }
    }
}

/// What a module says when it gives up, as far as it is known to be about the policy and not about the input: a place in the policy, and
/// one of the texts that the compiler puts there.
pub(super) fn abort(message: &[u8]) -> Fault {
    let known = || {
        let message = std::str::from_utf8(message).ok().filter(|message| message.len() <= MAX_MESSAGE)?;
        let text = KNOWN.into_iter().find(|known| message.ends_with(known))?;
        let place = message.strip_suffix(text)?;
        let is_plain = |byte: u8| byte.is_ascii_alphanumeric() || b"_-./: ".contains(&byte);
        (place.is_empty() || (place.ends_with(": ") && place.bytes().all(is_plain))).then(|| message.to_owned())
    };
    Fault::Abort(known().unwrap_or_else(|| "it does not say why in known words".to_owned()))
}

const KNOWN: [&str; 5] = [
    "var assignment conflict",
    "object insert conflict",
    "internal: illegal entrypoint id",
    "opa_malloc: failed",
    "eval failed",
];
const MAX_MESSAGE: usize = 256;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_words_of_the_compiler_are_repeated() {
        for (message, said) in [
            ("authz/policy.rego:7:1: var assignment conflict", true),
            ("object insert conflict", true),
            ("opa_malloc: failed", true),
            ("alice@example.com: var assignment conflict", false),
            ("alicevar assignment conflict", false),
            ("secret", false),
            ("", false),
        ] {
            let text = abort(message.as_bytes()).to_string();
            assert_eq!(text.contains(message) && !message.is_empty(), said, "{text}");
        }
        assert!(abort(b"\xff").to_string().contains("known words"));
    }
}
