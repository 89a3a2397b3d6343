use std::{fmt, sync::Arc, time::Duration};

use async_trait::async_trait;

use super::Issuer;
use crate::ConfigError;
#[cfg(feature = "remote-jwks")]
use crate::outbound::Outbound;

/// Finds the issuer of a token among more than can be configured: the tenants of an application, say, each with an identity provider
/// of its own.
///
/// Asked with the `iss` that a token claims, **before anything of that token is verified**: whoever sends a request chooses the
/// text. Look it up, byte for byte, in a store of issuers that are trusted already. Never fetch anything from it, never build an
/// address, a path or a query out of it, never compare a part or a prefix of it, and never take it for an issuer because it looks
/// like one.
///
/// The answer is the whole configuration of that issuer, its audience and its keys included, or `None` when there is no such issuer.
/// It is held to the rules of [`VerifierBuilder::build`](super::VerifierBuilder::build), and one of its names must be the text that was
/// asked for: its [`url`](Issuer::url), or a further one ([`Issuer::add_alias`], [`Issuer::add_domain`]). What is kept of answers, and for
/// how long, is for [`ResolvedIssuers`] to say.
///
/// ```
/// # tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap().block_on(async {
/// use std::{collections::HashMap, sync::Arc};
/// use portcullis::{
///     key::JwkSet,
///     time::UnixTime,
///     token::{AccessToken, Issuer, ResolveError, ResolveIssuer, ResolveRequest, ResolvedIssuers, TokenError, Verifier},
/// };
///
/// /// The table of tenants: issuer → (audience, keys).
/// struct Tenants(HashMap<String, (String, JwkSet)>);
///
/// #[async_trait::async_trait]
/// impl ResolveIssuer for Tenants {
///     async fn resolve(self: Arc<Self>, request: ResolveRequest) -> Result<Option<Issuer>, ResolveError> {
///         // In production a query with the text as a bound parameter; its failure is `ResolveError::unavailable`, not `None`.
///         let row = self.0.get_key_value(&*request.claimed_issuer);
///         Ok(row.map(|(issuer, (audience, keys))| Issuer::oauth(issuer, audience).with_keys(keys.clone())))
///     }
/// }
///
/// let keys = JwkSet::parse(br#"{"keys":[{"kty":"OKP","crv":"Ed25519","kid":"1","x":"11qYAYKxCrfVS_7TyWQHOg7hcvPapiMlrwIaaPcHURo"}]}"#)?;
/// let row = ("https://login.tenant-7.example".to_owned(), ("https://api.example/tenant-7".to_owned(), keys));
/// let verifier = Verifier::resolving(ResolvedIssuers::new(Tenants(HashMap::from([row])))).build()?;
///
/// let now = UnixTime::from_secs(1_800_000_000);
/// // {"iss":"https://login.tenant-7.example"}, unsigned: of a known tenant, and refused by its rules.
/// let of_a_tenant = AccessToken::new("eyJhbGciOiJub25lIn0.eyJpc3MiOiJodHRwczovL2xvZ2luLnRlbmFudC03LmV4YW1wbGUifQ.")?;
/// assert!(verifier.verify_now(&of_a_tenant, now).is_none(), "the store has to be waited for");
/// assert_eq!(verifier.verify(&of_a_tenant, now).await.unwrap_err(), TokenError::Algorithm);
/// // {"iss":"https://evil.example"}
/// let of_a_stranger = AccessToken::new("eyJhbGciOiJub25lIn0.eyJpc3MiOiJodHRwczovL2V2aWwuZXhhbXBsZSJ9.")?;
/// assert_eq!(verifier.verify(&of_a_stranger, now).await.unwrap_err(), TokenError::UnknownIssuer);
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// # })
/// # .unwrap();
/// ```
#[async_trait]
pub trait ResolveIssuer: Send + Sync + 'static {
    /// Finds the issuer with exactly this name.
    ///
    /// # Errors
    ///
    /// [`ResolveError`] when that cannot be found out now. The request is then answered 503, and the store asked again a second later.
    async fn resolve(self: Arc<Self>, request: ResolveRequest) -> Result<Option<Issuer>, ResolveError>;
}

/// A resolver that is shared is a resolver.
#[async_trait]
impl<R: ResolveIssuer + ?Sized> ResolveIssuer for Arc<R> {
    async fn resolve(self: Arc<Self>, request: ResolveRequest) -> Result<Option<Issuer>, ResolveError> {
        Self::clone(&self).resolve(request).await
    }
}

/// Which issuer is asked for.
#[derive(Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct ResolveRequest {
    /// `iss` of a token **that nobody has verified** (of a JWT-SVID without one `spiffe://` and the trust domain of its `sub`): attacker
    /// text, at most 2 048 bytes, not blank, without control characters. For an exact look-up and nothing else; not for a log.
    pub claimed_issuer: Arc<str>,
}

impl ResolveRequest {
    /// Asks for this name: what a verifier does, and what tests of a resolver do.
    #[must_use]
    pub const fn new(claimed_issuer: Arc<str>) -> Self {
        Self { claimed_issuer }
    }
}

/// Does not show what the token claims.
impl fmt::Debug for ResolveRequest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ResolveRequest").field("claimed_issuer_bytes", &self.claimed_issuer.len()).finish()
    }
}

/// The store of issuers cannot be asked.
#[derive(Debug, thiserror::Error)]
#[error("the store of issuers is unavailable")]
pub struct ResolveError(#[source] Box<dyn std::error::Error + Send + Sync>);

impl ResolveError {
    /// The store cannot be reached, or answered with an error. The cause is logged: keep the claimed issuer out of it.
    pub fn unavailable(source: impl Into<Box<dyn std::error::Error + Send + Sync>>) -> Self {
        Self(source.into())
    }
}

/// What is in memory of resolved issuers ([`Verifier::resolved_metrics`](super::Verifier::resolved_metrics)): numbers, and no names.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct ResolvedMetrics {
    /// Issuers that the resolver vouched for, with a verified token and without. How many there may be of each is for
    /// [`with_max_issuers`](ResolvedIssuers::with_max_issuers) to say; beyond that they push each other out.
    pub known: usize,
    /// Names that were refused of late: at most 10 000 that are unknown or whose look-up failed, and at most 10 000 issuers that were pushed
    /// out before a token of theirs verified.
    pub refused: usize,
    /// Look-ups under way, at most twice [`with_max_concurrent`](ResolvedIssuers::with_max_concurrent): what is beyond is answered 503.
    pub in_flight: usize,
}

/// Issuers that are looked up when a token names them, and the bounds in which their number, their age and the look-ups are kept.
///
/// - **A limited number** of them, each with its rules and its keys, is in memory. Those of which a token verified push out each other, the
///   one first whose last token is the oldest. The others have a small room of their own
///   ([`with_max_issuers`](Self::with_max_issuers)), so tokens that somebody made up, even in the names of real issuers, push out each
///   other and none that is in use. An issuer with several names is there once for each name that tokens give.
/// - **Loads of keys** that made-up tokens can cause are few. An issuer that is pushed out before a token of it verified is *unavailable*
///   (503), and not looked up, until the floor of its key cache
///   ([`with_unknown_kid_floor`](crate::key::CacheSettings::with_unknown_kid_floor), 30 s) has passed since its keys began to load; at most
///   10 000 names are remembered for that. Of issuers without a verified token at most
///   [`with_max_concurrent`](Self::with_max_concurrent) load their keys at once, and 1 024 more wait within their load deadline. All this is
///   not for issuers whose keys are there at once.
/// - **Names that once proved themselves**, those of issuers that were pushed out after a token of them had verified, the last 10 000 as
///   keyed hashes, are looked up at any time, and in the room of those in memory.
/// - **A limited life.** An issuer is looked up again from 80 % of its life on, without anybody waiting, so that one which was
///   removed, or has another audience, counts no longer than that. Keys are kept across it where they come from the same place: the
///   same address, or clones of one [`Issuer`], under the same [`CacheSettings`](crate::key::CacheSettings).
/// - **Names that are not known** are remembered for a while, as keyed hashes, 10 000 at most.
/// - **One look-up per issuer** at a time, in a task of its own, up to a deadline. Only so many at once: what is beyond is
///   *unavailable* (503), never *unknown* (401). Names in which a token verified have as much room again, so that a flood of made-up names
///   cannot keep them from being looked up anew.
/// - **Failure** of the resolver, a panic, its deadline, and a configuration that would not build are
///   [`KeysUnavailable`](super::TokenError::KeysUnavailable): our fault, not the token's. The log names the configuration's field, and
///   the issuer by its SHA-256 alone.
/// - **A line of the log** of each kind at most once a second, with the number of those that went unsaid: also for keys that cannot be
///   loaded or used. That the keys of a resolved issuer changed is not logged.
///
/// Issuers that are configured for good go first, and the resolver never hears of their tokens.
///
/// [`Verifier::health`](super::Verifier::health) does not speak of resolved issuers: with many of them the keys of some are always out of
/// reach, and a store that is down leaves those in memory working, so neither is a reason to take the whole service out of rotation.
///
/// Keys that have an address are fetched through one HTTP client for all of these issuers. Where tenants choose the address of their keys
/// themselves, give it one that reaches nothing internal (`with_outbound`).
#[derive(Clone)]
pub struct ResolvedIssuers {
    pub(super) resolver: Arc<dyn ResolveIssuer>,
    pub(super) settings: Settings,
    #[cfg(feature = "remote-jwks")]
    pub(super) outbound: Option<Outbound>,
}

#[derive(Clone, Copy, Debug)]
pub(super) struct Settings {
    pub(super) max_issuers: usize,
    pub(super) lifetime: Duration,
    pub(super) unknown_lifetime: Duration,
    pub(super) deadline: Duration,
    pub(super) max_concurrent: usize,
}

impl ResolvedIssuers {
    /// The issuers that this resolver knows, within the default bounds.
    #[must_use]
    pub fn new(resolver: impl ResolveIssuer) -> Self {
        let settings = Settings {
            max_issuers: 1_024,
            lifetime: Duration::from_mins(5),
            unknown_lifetime: Duration::from_secs(30),
            deadline: Duration::from_secs(3),
            max_concurrent: 16,
        };
        Self {
            resolver: Arc::new(resolver),
            settings,
            #[cfg(feature = "remote-jwks")]
            outbound: None,
        }
    }

    /// Fetches keys through this client: for a proxy, for private roots, for a network that reaches nothing internal. Default one of
    /// its own. Issuers with a key source of their own do not use it.
    #[cfg(feature = "remote-jwks")]
    #[must_use]
    pub fn with_outbound(mut self, outbound: Outbound) -> Self {
        self.outbound = Some(outbound);
        self
    }

    /// How many issuers are kept in memory of which a token verified. Default 1 024; from 1 to 65 536. A sixteenth as many, 8 at least and
    /// 256 at most, are kept of the others.
    #[must_use]
    pub const fn with_max_issuers(mut self, issuers: usize) -> Self {
        self.settings.max_issuers = issuers;
        self
    }

    /// How long the resolver's answer holds: no token of an issuer that was removed verifies longer than this. Default 5 min; from 1 s to
    /// 1 h.
    #[must_use]
    pub const fn with_lifetime(mut self, lifetime: Duration) -> Self {
        self.settings.lifetime = lifetime;
        self
    }

    /// How long a name that the resolver does not know stays unknown: what a tenant that signs up may have to wait when its tokens come
    /// too early. Default 30 s; from 1 s to 1 h.
    #[must_use]
    pub const fn with_unknown_lifetime(mut self, lifetime: Duration) -> Self {
        self.settings.unknown_lifetime = lifetime;
        self
    }

    /// How long one look-up may take. Default 3 s; above zero, at most 30 s.
    #[must_use]
    pub const fn with_deadline(mut self, deadline: Duration) -> Self {
        self.settings.deadline = deadline;
        self
    }

    /// How many look-ups may run at once for names in which no token has verified, and as many again for those in which one has; and, in
    /// the same way, how many loads of keys of issuers that are not in use. Default 16; from 1 to 1 024.
    ///
    /// Each look-up may hold a connection to the resolver's store: keep twice this number below the size of its pool, or give the resolver
    /// a pool of its own, so that strangers cannot take the connections that the rest of the application needs.
    #[must_use]
    pub const fn with_max_concurrent(mut self, lookups: usize) -> Self {
        self.settings.max_concurrent = lookups;
        self
    }
}

impl Settings {
    /// How many issuers are kept of which no token has verified: enough for those whose first token is on its way.
    pub(super) fn probation(&self) -> usize {
        (self.max_issuers / 16).clamp(8, 256)
    }

    pub(super) fn check(&self) -> Result<(), ConfigError> {
        let (nano, second) = (Duration::from_nanos(1), Duration::from_secs(1));
        for (field, value, least, most) in [
            ("resolved_issuers.lifetime", self.lifetime, second, Duration::from_hours(1)),
            ("resolved_issuers.unknown_lifetime", self.unknown_lifetime, second, Duration::from_hours(1)),
            ("resolved_issuers.deadline", self.deadline, nano, Duration::from_secs(30)),
        ] {
            if value < least || value > most {
                let remedy = format!("choose a time from {least:?} to {most:?}");
                return Err(ConfigError::invalid(field, format!("{value:?}"), remedy));
            }
        }
        for (field, value, most) in [
            ("resolved_issuers.max_issuers", self.max_issuers, 65_536),
            ("resolved_issuers.max_concurrent", self.max_concurrent, 1_024),
        ] {
            if value == 0 || value > most {
                return Err(ConfigError::invalid(
                    field,
                    value.to_string(),
                    format!("choose a number from 1 to {most}"),
                ));
            }
        }
        Ok(())
    }
}

impl fmt::Debug for ResolvedIssuers {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ResolvedIssuers").field("settings", &self.settings).finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn _is_dyn_compatible(_: Arc<dyn ResolveIssuer>) {}

    struct Nobody;

    #[async_trait]
    impl ResolveIssuer for Nobody {
        async fn resolve(self: Arc<Self>, _: ResolveRequest) -> Result<Option<Issuer>, ResolveError> {
            Ok(None)
        }
    }

    #[test]
    fn settings_outside_their_bounds_name_their_field() {
        let good = || ResolvedIssuers::new(Arc::new(Nobody));
        let (nano, second, hour) = (Duration::from_nanos(1), Duration::from_secs(1), Duration::from_secs(3600));
        for good in [
            good(),
            good().with_lifetime(second).with_unknown_lifetime(second).with_deadline(nano),
            good().with_lifetime(hour).with_unknown_lifetime(hour).with_deadline(Duration::from_secs(30)),
            good().with_max_issuers(1).with_max_concurrent(1),
            good().with_max_issuers(65_536).with_max_concurrent(1_024),
        ] {
            assert!(good.settings.check().is_ok());
        }
        let hours = Duration::from_secs(3601);
        for (field, bad) in [
            ("resolved_issuers.max_issuers", good().with_max_issuers(0)),
            ("resolved_issuers.max_issuers", good().with_max_issuers(65_537)),
            ("resolved_issuers.lifetime", good().with_lifetime(Duration::from_millis(999))),
            ("resolved_issuers.lifetime", good().with_lifetime(hours)),
            ("resolved_issuers.unknown_lifetime", good().with_unknown_lifetime(Duration::ZERO)),
            ("resolved_issuers.unknown_lifetime", good().with_unknown_lifetime(hours)),
            ("resolved_issuers.deadline", good().with_deadline(Duration::ZERO)),
            ("resolved_issuers.deadline", good().with_deadline(Duration::from_secs(31))),
            ("resolved_issuers.max_concurrent", good().with_max_concurrent(0)),
            ("resolved_issuers.max_concurrent", good().with_max_concurrent(1_025)),
        ] {
            assert_eq!(bad.settings.check().unwrap_err().field(), field);
        }
    }

    #[test]
    fn a_request_does_not_show_what_the_token_claims() {
        let request = ResolveRequest::new("https://canary.example".into());
        assert!(!format!("{request:?}").contains("canary"));
    }
}
