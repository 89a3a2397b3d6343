//! Test support: a test issuer, a clock that stands still, scripted backends and sinks, and one conformance function per seam.
//!
//! For `[dev-dependencies]` alone. Everything here is allowed to panic, and what it signs must be worth nothing in production:
//! should the feature reach a release build, for instance because another crate of the build turns it on, every part that is
//! made says so in the log, at error level (see [`marker`]).
//!
//! | For | Use |
//! | --- | --- |
//! | tokens of every kind, good and bad, and an issuer that rotates, stalls and lies | [`TestIssuer`] |
//! | time that passes when it is told to | [`FrozenClock`] |
//! | a policy that answers by a script, and a question to ask one | [`StubBackend`], [`policy_input`] |
//! | audit records to look at | [`RecordingSink`] |
//! | an own key source, issuer resolver, policy backend, sink, signer, clock or renderer | [`conformance`] |
//!
//! ```
//! # tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap().block_on(async {
//! use std::time::Duration;
//! use portcullis::{testing::{FrozenClock, TestIssuer}, time::Clock, token::{Issuer, TokenError, Verifier}};
//!
//! let clock = FrozenClock::default();
//! let login = TestIssuer::builder().with_clock(clock.clone()).start().await;
//! let verifier = Verifier::builder(Issuer::rfc9068(login.url(), TestIssuer::AUDIENCE).with_keys(login.key_set())).build()?;
//!
//! let good = login.token().subject("auth0|alice").scope("jobs:read").mint().access_token();
//! assert!(verifier.verify(&good, clock.now()).await.is_ok());
//!
//! let forged = login.token().signed_by(&TestIssuer::start().await).mint().access_token();
//! assert_eq!(verifier.verify(&forged, clock.now()).await.unwrap_err(), TokenError::Signature);
//!
//! clock.advance(Duration::from_secs(600));
//! assert_eq!(verifier.verify(&good, clock.now()).await.unwrap_err(), TokenError::Expired);
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! # })
//! # .unwrap();
//! ```
#![expect(
    clippy::expect_used,
    clippy::panic,
    reason = "test support fails by panicking, with a sentence that says why"
)]

pub mod conformance;

mod backend;
mod clock;
mod input;
mod issuer;
mod key;
mod serve;
mod sink;
mod token;

pub use backend::{Answer, StubBackend};
pub use clock::FrozenClock;
pub use input::policy_input;
pub use issuer::{Requests, TestIssuer, TestIssuerBuilder};
pub use serve::Lie;
pub use sink::RecordingSink;
pub use token::{TestToken, TokenBuilder};

/// Says in the log, at error level, that test support is part of a build without debug assertions. Everything here that can
/// be made calls it. In a build with debug assertions it does nothing.
pub fn marker() {
    announce(!cfg!(debug_assertions));
}

fn announce(is_release: bool) {
    if is_release {
        tracing::error!(
            "test support of portcullis is in use in a build without debug assertions: turn the feature `testing` off \
             (`cargo tree -e features -i portcullis` shows who turns it on)"
        );
    }
}

#[cfg(test)]
mod tests {
    use std::{
        io,
        sync::{Arc, Mutex},
    };

    use super::*;

    #[derive(Clone, Default)]
    struct Written(Arc<Mutex<Vec<u8>>>);

    impl io::Write for Written {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.0.lock().unwrap().write(bytes)
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    /// attacks.md T-137.
    #[test]
    fn test_support_in_a_release_build_is_loud() {
        let log = |is_release| {
            let written = Written::default();
            let writer = written.clone();
            let subscriber = tracing_subscriber::fmt().with_writer(move || writer.clone()).finish();
            tracing::subscriber::with_default(subscriber, || announce(is_release));
            String::from_utf8(written.0.lock().unwrap().clone()).unwrap()
        };
        let loud = log(true);
        assert!(loud.contains("ERROR") && loud.contains("feature `testing`"), "{loud}");
        assert_eq!(log(false), "");
    }
}
