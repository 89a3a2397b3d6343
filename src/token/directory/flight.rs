use std::{sync::Arc, time::Duration};

use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD};
use sha2::{Digest as _, Sha256};
use tokio::sync::watch;

use super::{Answer, Directory, Refusal, Tenant};
use crate::{
    ConfigError,
    key::KeyErrorKind,
    principal::IssuerId,
    token::{Issuer, ResolveError, ResolveRequest, trusted::Trusted},
};

/// One look-up. Whatever becomes of it, its end is recorded and told.
pub(super) struct Flight {
    tenants: Arc<Directory>,
    name: Arc<str>,
    is_stranger: bool,
    tell: watch::Sender<Option<Answer>>,
    answer: Option<Result<Option<Arc<Tenant>>, Failure>>,
}

/// Why a look-up brought no answer. No variant holds a text of the token's.
enum Failure {
    Store(ResolveError),
    Deadline,
    OtherName,
    Configuration(ConfigError),
    Panicked,
}

impl Flight {
    pub(super) const fn new(
        tenants: Arc<Directory>,
        name: Arc<str>,
        is_stranger: bool,
        tell: watch::Sender<Option<Answer>>,
    ) -> Self {
        Self { tenants, name, is_stranger, tell, answer: None }
    }

    pub(super) async fn run(mut self) {
        let resolver = Arc::clone(&self.tenants.resolver);
        let request = ResolveRequest::new(Arc::clone(&self.name));
        let resolved = tokio::time::timeout(self.tenants.settings.deadline, async { resolver.resolve(request).await });
        self.answer = Some(match resolved.await {
            Err(_elapsed) => Err(Failure::Deadline),
            Ok(Err(error)) => Err(Failure::Store(error)),
            Ok(Ok(None)) => Ok(None),
            Ok(Ok(Some(issuer))) => self.admit(issuer).map(Some),
        });
    }

    /// Holds what the resolver returned to the rules that configured issuers are held to.
    fn admit(&self, issuer: Issuer) -> Result<Arc<Tenant>, Failure> {
        if !issuer.is_called(&self.name) {
            return Err(Failure::OtherName);
        }
        let Directory { clock, settings, revocable, key_loads, .. } = &*self.tenants;
        let earlier = self.tenants.lock().shelf.kept(&self.name).cloned();
        let loads = earlier.as_ref().map(|tenant| Arc::clone(&tenant.loads));
        let loads = loads.unwrap_or_else(|| key_loads.of_new(self.is_stranger));
        let earlier = earlier.as_ref().map(|tenant| &*tenant.trusted);
        let (key_origin, key_floor) = (issuer.key_origin(), issuer.key_cache().unknown_kid_floor());
        let trusted = key_loads.bind(issuer, &loads);
        let trusted = trusted.and_then(|issuer| Trusted::renewed(issuer, key_origin, clock, *revocable, earlier));
        let trusted = trusted.map_err(Failure::Configuration)?;
        let now = clock.elapsed();
        Ok(Arc::new(Tenant {
            id: IssuerId::new(Arc::clone(&self.name)),
            trusted: Arc::new(trusted),
            loads,
            key_floor,
            renew_at: now.saturating_add(settings.lifetime.mul_f64(0.8)),
            until: now.saturating_add(settings.lifetime),
        }))
    }

    fn complain(&self, failure: &Failure, unsaid: u64) {
        let (issuer_bytes, issuer_sha256) = (self.name.len(), URL_SAFE_NO_PAD.encode(Sha256::digest(&*self.name)));
        let why = match failure {
            Failure::Store(_) => "the resolver failed",
            Failure::Deadline => "the resolver did not answer in time",
            Failure::OtherName => "the resolver answered with another issuer than it was asked for",
            Failure::Configuration(_) => "the resolver answered with a configuration that cannot be used",
            Failure::Panicked => "the resolver panicked or its runtime is gone",
        };
        // Of a configuration the field alone: its value may be the text that was asked for.
        let field = match failure {
            Failure::Configuration(error) => Some(error.field()),
            _ => None,
        };
        let cause = match failure {
            Failure::Store(error) => std::error::Error::source(error).map(|cause| line(&cause.to_string())),
            _ => None,
        };
        tracing::warn!(issuer_bytes, issuer_sha256, why, field, cause, unsaid, "an issuer could not be looked up");
    }
}

impl Drop for Flight {
    fn drop(&mut self) {
        let outcome = self.answer.take().unwrap_or(Err(Failure::Panicked));
        let Directory { clock, settings, failed, .. } = &*self.tenants;
        let now = clock.elapsed();
        let mut state = self.tenants.lock();
        state.flights.remove(&self.name);
        state.strangers -= usize::from(self.is_stranger);
        let (answer, gone) = match &outcome {
            Ok(Some(tenant)) => (Ok(Arc::clone(tenant)), state.shelf.admit(tenant)),
            Ok(None) => {
                let until = now.saturating_add(settings.unknown_lifetime);
                (Err(Refusal::Unknown), state.shelf.refuse(&self.name, Refusal::Unknown, until))
            }
            Err(failure) => {
                let refusal = Refusal::Unavailable(match failure {
                    Failure::Deadline => KeyErrorKind::Timeout,
                    _ => KeyErrorKind::Unavailable,
                });
                (Err(refusal), state.shelf.refuse(&self.name, refusal, now.saturating_add(RETRY_AFTER)))
            }
        };
        drop(state);
        if let Err(failure) = &outcome
            && let Some(unsaid) = failed.speak(now)
        {
            self.complain(failure, unsaid);
        }
        self.tell.send_replace(Some(answer));
        drop(gone);
    }
}

/// The application's text, as one that cannot forge another line.
fn line(text: &str) -> String {
    text.chars().flat_map(char::escape_debug).take(MAX_CAUSE).collect()
}

const MAX_CAUSE: usize = 512;
const RETRY_AFTER: Duration = Duration::from_secs(1);
