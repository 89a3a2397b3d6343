use std::{fmt, time::Duration};

use sha2::{Digest as _, Sha256};

use crate::{
    principal::{Actor, ClientId, IssuerId, SessionId, Subject, Thumbprint, TokenId},
    time::UnixTime,
};

/// What is revoked, and until when.
///
/// Names are compared byte by byte with those of verified tokens. A revocation under any of an issuer's names (custom domains,
/// spellings, both versions at Entra) concerns its tokens under each of them. Tenants that share one configuration
/// ([`Issuer::entra_multi_tenant`](crate::token::Issuer::entra_multi_tenant)) are issuers of their own: what is revoked in one holds in no
/// other. Keeps a digest of the name only.
#[derive(Clone, PartialEq, Eq)]
pub struct Revocation {
    kind: Kind,
    key: Key,
    /// `None`: whenever the token was issued.
    not_before: Option<UnixTime>,
    end: Option<UnixTime>,
}

impl Revocation {
    /// The token of this id ([`VerifiedToken::token_id`](crate::token::VerifiedToken::token_id)), whenever it was issued.
    #[must_use]
    pub fn token_id(issuer: &IssuerId, token_id: &TokenId) -> Self {
        Self::new(Kind::TokenId, issuer.as_str(), token_id.as_str(), None)
    }

    /// The token of this thumbprint ([`VerifiedToken::thumbprint`](crate::token::VerifiedToken::thumbprint), `thumbprint` in audit
    /// records), whenever it was issued. For tokens without an id.
    #[must_use]
    pub fn thumbprint(thumbprint: &Thumbprint) -> Self {
        Self::new(Kind::Thumbprint, "", thumbprint.as_str(), None)
    }

    /// Every token of the subject that was issued before `not_before`, and every one that does not say when (no `iat`).
    ///
    /// The name is that of `sub` or the user id ([`Principal::user_id`](crate::principal::Principal::user_id), `user_id` in audit records),
    /// whichever is at hand: either hits. Tokens in which the subject is the current actor
    /// ([RFC 8693 §4.1](https://www.rfc-editor.org/rfc/rfc8693#section-4.1)) are refused as well, so that a revoked agent acts for nobody;
    /// `act` knows it by its `sub` alone, and by the issuer that it names there or else the token's. Actors before the current one are
    /// history, and revoking them changes nothing.
    ///
    /// Issuers write `iat` in whole seconds: where a token of the very second is to be refused too, name the next one.
    #[must_use]
    pub fn subject(issuer: &IssuerId, subject: &Subject, not_before: UnixTime) -> Self {
        Self::new(Kind::Subject, issuer.as_str(), subject.as_str(), Some(not_before))
    }

    /// Every token that was issued to the client before `not_before`, and every one that does not say when. See
    /// [`subject`](Self::subject): tokens in which the client is the current actor are refused too. That is the `client_id` of `act` or,
    /// where it has none, its `sub`, which of a client that acts for itself should be its id
    /// ([RFC 9068 §2.2](https://www.rfc-editor.org/rfc/rfc9068#section-2.2)). Where the issuer writes another one (Auth0 adds `@clients`),
    /// revoke that subject as well.
    #[must_use]
    pub fn client(issuer: &IssuerId, client: &ClientId, not_before: UnixTime) -> Self {
        Self::new(Kind::Client, issuer.as_str(), client.as_str(), Some(not_before))
    }

    /// Every token of the session (`sid`) that was issued before `not_before`, and every one that does not say when. See
    /// [`subject`](Self::subject).
    #[must_use]
    pub fn session(issuer: &IssuerId, session: &SessionId, not_before: UnixTime) -> Self {
        Self::new(Kind::Session, issuer.as_str(), session.as_str(), Some(not_before))
    }

    /// When the revocation is forgotten, in place of the derived end.
    ///
    /// That is the not-before time, or for a single token the time of its revocation, and the longest life of a token after it, and
    /// four minutes for clocks that disagree. For tokens of issuers that write no `iat` name the end: nobody knows how long they live.
    #[must_use]
    pub const fn with_end(mut self, end: UnixTime) -> Self {
        self.end = Some(end);
        self
    }

    pub(super) fn new(kind: Kind, issuer: &str, name: &str, not_before: Option<UnixTime>) -> Self {
        Self { kind, key: Key::of(kind, issuer, name), not_before, end: None }
    }

    pub(super) const fn key(&self) -> Key {
        self.key
    }

    pub(super) fn entry(&self, max_lifetime: Duration, now: UnixTime) -> Entry {
        let derived = || self.not_before.unwrap_or(now).saturating_add(max_lifetime).saturating_add(SLACK);
        Entry { not_before: self.not_before, end: self.end.unwrap_or_else(derived) }
    }
}

impl fmt::Debug for Revocation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Revocation")
            .field("kind", &self.kind)
            .field("not_before", &self.not_before)
            .field("end", &self.end)
            .finish_non_exhaustive()
    }
}

/// What a verified token can be revoked by.
pub(crate) struct Presented<'a> {
    /// Every name of the issuer, and of no other tenant.
    pub(crate) issuers: &'a [IssuerId],
    pub(crate) thumbprint: &'a Thumbprint,
    pub(crate) token_id: Option<&'a TokenId>,
    pub(crate) subject: Option<&'a Subject>,
    /// Where it is not `subject`.
    pub(crate) user_id: Option<&'a Subject>,
    pub(crate) client: Option<&'a ClientId>,
    pub(crate) session: Option<&'a SessionId>,
    /// The current one, and every name of its issuer.
    pub(crate) actor: Option<(&'a Actor, &'a [IssuerId])>,
    pub(crate) issued_at: Option<UnixTime>,
}

impl Presented<'_> {
    /// The key of everything that a revocation could name.
    pub(super) fn keys(&self) -> impl Iterator<Item = Key> {
        let names = [
            (Kind::TokenId, self.token_id.map(TokenId::as_str)),
            (Kind::Subject, self.subject.map(Subject::as_str)),
            (Kind::Subject, self.user_id.map(Subject::as_str)),
            (Kind::Client, self.client.map(ClientId::as_str)),
            (Kind::Session, self.session.map(SessionId::as_str)),
        ];
        let thumbprint = Key::of(Kind::Thumbprint, "", self.thumbprint.as_str());
        let actor = self.actor.into_iter().flat_map(|(actor, issuers)| {
            let subject = actor.subject.as_str();
            let client = actor.client.as_ref().map_or(subject, ClientId::as_str);
            keys_under(issuers, [(Kind::Subject, Some(subject)), (Kind::Client, Some(client))])
        });
        std::iter::once(thumbprint).chain(keys_under(self.issuers, names)).chain(actor)
    }
}

fn keys_under<'a, const N: usize>(
    issuers: &'a [IssuerId],
    names: [(Kind, Option<&'a str>); N],
) -> impl Iterator<Item = Key> {
    let named = names.into_iter().filter_map(|(kind, name)| Some((kind, name?)));
    named.flat_map(|(kind, name)| issuers.iter().map(move |issuer| Key::of(kind, issuer.as_str(), name)))
}

/// What names a token.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    TokenId = 1,
    Thumbprint,
    Subject,
    Client,
    Session,
}

/// 128 bits of a SHA-256: nobody finds a second name with the key of a first one, and a list that leaks names nobody.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub(super) struct Key(pub(super) [u8; 16]);

impl Key {
    fn of(kind: Kind, issuer: &str, name: &str) -> Self {
        let mut hash = Sha256::new();
        hash.update([kind as u8]);
        // With its length before it, no part of the issuer can pass for one of the name.
        hash.update((issuer.len() as u64).to_be_bytes());
        hash.update(issuer);
        hash.update(name);
        let digest = <[u8; 32]>::from(hash.finalize());
        let mut key = [0; 16];
        key.iter_mut().zip(digest).for_each(|(kept, byte)| *kept = byte);
        Self(key)
    }
}

/// What a list keeps beside a key.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Entry {
    pub(super) not_before: Option<UnixTime>,
    pub(super) end: UnixTime,
}

impl Entry {
    pub(super) fn is_live(&self, now: UnixTime) -> bool {
        now < self.end
    }

    pub(super) fn refuses(&self, issued_at: Option<UnixTime>, now: UnixTime) -> bool {
        // A token that does not say when it was issued may have been issued before.
        let concerns =
            self.not_before.is_none_or(|not_before| issued_at.is_none_or(|issued_at| issued_at < not_before));
        concerns && self.is_live(now)
    }

    /// The entry after the same thing was revoked again.
    pub(super) fn extended(self, again: Self, now: UnixTime) -> Self {
        if !self.is_live(now) {
            return again;
        }
        let not_before = self.not_before.zip(again.not_before).map(|(one, other)| one.max(other));
        Self { not_before, end: self.end.max(again.end) }
    }
}

/// Twice the most leeway that an issuer can be given: its clock may be ahead of ours, and its tokens are taken for as long after `exp`.
const SLACK: Duration = Duration::from_secs(240);

#[cfg(test)]
mod tests {
    use super::*;

    const HOUR: Duration = Duration::from_secs(3600);

    fn at(seconds: u64) -> UnixTime {
        UnixTime::from_secs(seconds)
    }

    #[test]
    fn only_what_was_issued_before_is_refused_and_what_does_not_say_when() {
        let revocation = Revocation::subject(&IssuerId::new("i"), &Subject::new("s"), at(1000));
        let entry = revocation.entry(HOUR, at(1000));
        for (issued_at, refused) in
            [(None, true), (Some(at(999)), true), (Some(at(1000)), false), (Some(at(1001)), false)]
        {
            assert_eq!(entry.refuses(issued_at, at(1000)), refused, "{issued_at:?}");
        }
        let single = Revocation::thumbprint(&Thumbprint::new("t")).entry(HOUR, at(1000));
        assert!(single.refuses(Some(at(9999)), at(1000)), "one token is refused whenever it was issued");
    }

    #[test]
    fn an_end_is_derived_from_the_life_of_tokens_unless_it_is_named() {
        let issuer = IssuerId::new("i");
        let subject = Revocation::subject(&issuer, &Subject::new("s"), at(1000));
        let token = Revocation::token_id(&issuer, &TokenId::new("t"));
        assert_eq!(subject.entry(HOUR, at(5000)).end, at(1000 + 3600 + 240), "from what it concerns");
        assert_eq!(token.entry(HOUR, at(5000)).end, at(5000 + 3600 + 240), "from now");
        assert_eq!(token.with_end(at(7)).entry(HOUR, at(5000)).end, at(7));
        let never = subject.with_end(UnixTime::from_duration(Duration::MAX)).entry(HOUR, at(5000));
        assert!(never.refuses(None, at(u64::MAX - 1)));
    }

    #[test]
    fn each_kind_each_issuer_and_each_name_is_its_own() {
        let (issuer, other) = (IssuerId::new("https://a"), IssuerId::new("https://ab"));
        let keys = [
            Revocation::token_id(&issuer, &TokenId::new("bc")),
            Revocation::token_id(&other, &TokenId::new("c")),
            Revocation::thumbprint(&Thumbprint::new("bc")),
            Revocation::subject(&issuer, &Subject::new("bc"), at(1)),
            Revocation::client(&issuer, &ClientId::new("bc"), at(1)),
            Revocation::session(&issuer, &SessionId::new("bc"), at(1)),
            Revocation::subject(&issuer, &Subject::new("BC"), at(1)),
        ]
        .map(|revocation| revocation.key().0);
        assert_eq!(keys.iter().collect::<std::collections::HashSet<_>>().len(), keys.len());
    }

    #[test]
    fn debug_names_nothing_that_was_revoked() {
        let revocation = Revocation::subject(&IssuerId::new("canary"), &Subject::new("canary"), at(1));
        assert!(!format!("{revocation:?}").contains("canary"));
    }
}
