use std::{net::SocketAddr, sync::Arc};

use serde::{Serialize, Serializer};

use crate::{
    denial::{RequestId, Sent, Stage},
    policy::Effect,
    principal::PrincipalKind,
    time::UnixTime,
};

/// One record of the audit trail.
///
/// Serialises as one JSON object. Members are only ever added within one [`schema`](Self::schema) version; those that have no
/// value are `null`, but for `claimed`, `gap`, `shadow` and the `tenant` of `route`, which are left
/// out.
///
/// Holds no credential: no `Authorization`, no cookie, no token text, no query, no body. Every text in it that somebody
/// outside chose is at most 256 bytes long (cut ones end in `…`) and has its control, bidirectional and zero-width characters
/// written as `\u{…}`. What only an unverified token says stands in [`claimed`](Self::claimed) and nowhere else.
///
/// A sink that fails midway is handed the same records again: `(request_id, kind)` is the key to drop doubles by.
#[derive(Clone, Debug, Serialize)]
#[non_exhaustive]
pub struct AuditRecord {
    /// The version of this form: 1.
    pub schema: u32,
    /// What the record is about.
    pub kind: Kind,
    /// When the request came, the stream ended, or the gap was found. UTC, milliseconds.
    pub time: UnixTime,
    /// The request's id, the same that the caller sees. `None` in a gap.
    #[serde(serialize_with = "request_id")]
    pub request_id: Option<RequestId>,
    /// The trace id of a valid `traceparent`. The caller chose it: good for finding, proof of nothing.
    pub trace_id: Option<String>,
    /// The name of the service, when the trail was given one.
    pub service: Option<Arc<str>>,
    /// `jti` of the verified token: the token's own, or `None`.
    pub jti: Option<String>,
    /// The stable id of the verified party at its issuer. Unique only beside [`issuer`](Self::issuer).
    pub user_id: Option<String>,
    /// base64url(SHA-256(JWS signing input)) of the token that was presented, verified or not.
    pub thumbprint: Option<String>,
    /// `exp` of the verified token, in seconds since 1970-01-01T00:00:00Z.
    pub exp: Option<u64>,
    /// `iss` of the verified token.
    pub issuer: Option<String>,
    /// The OAuth client that the verified token was issued to.
    pub client_id: Option<String>,
    /// The tenant that the verified token names.
    pub tenant: Option<String>,
    /// The kind of party. `None` when nobody was authenticated, as on a public route; [`PrincipalKind::Anonymous`] on an
    /// `optional` one.
    pub principal: Option<PrincipalKind>,
    /// Who acts for the subject: the current actor first. At most 8, then `…`.
    pub actors: Vec<RecordedActor>,
    /// What the verified token grants. At most 32 words, then `…`.
    pub scope: Vec<String>,
    /// The key that verified the token's signature. `None` under a shared secret, of which nothing is told.
    pub key: Option<RecordedKey>,
    /// The key that the verified token is bound to.
    pub cnf: Option<RecordedConfirmation>,
    /// What a token claimed that was not verified.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub claimed: Option<RecordedClaims>,
    /// The stage that refused, or the last one that was passed.
    #[serde(serialize_with = "stage")]
    pub stage: Option<Stage>,
    /// How it came out. `None` when the request ended before it was decided, and where no gate stands inside the audit layer.
    pub decision: Option<Verdict>,
    /// The stable code of the reason for a refusal.
    pub reason: Option<&'static str>,
    /// What the policy said, when it was asked and answered.
    pub policy: Option<RecordedPolicy>,
    /// What the router matched.
    pub route: Option<RecordedRoute>,
    /// The request's method.
    pub method: Option<String>,
    /// The address at the other end of the connection, when the server tells it.
    pub peer: Option<SocketAddr>,
    /// What the inside answered with. `None` when there was no answer.
    pub answered: Option<Answer>,
    /// What left the stack: differs from `answered` where a refusal was rendered.
    pub sent: Option<Answer>,
    /// How the request ended. `None` while its stream is open, and in a gap.
    pub outcome: Option<Outcome>,
    /// Where a request that was aborted or panicked ended.
    pub phase: Option<Phase>,
    /// From the request's arrival to this record, in microseconds.
    pub duration_us: u64,
    /// Bytes of the response body that were taken from the inside.
    pub bytes: u64,
    /// What was lost; only in a gap.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub gap: Option<Gap>,
    /// What the policy that is tried out would have said; only in a record of that kind, where [`policy`](Self::policy) is what was
    /// enforced.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub shadow: Option<RecordedShadow>,
    /// True: what the record says was enforced, not merely observed.
    pub enforced: bool,
}

/// What an [`AuditRecord`] is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum Kind {
    /// One request: there is exactly one per request, or one unit in a gap.
    Request,
    /// The end of a response of unknown length, whose `request` record was written at its head.
    End,
    /// Records that could not be kept.
    Gap,
    /// A call about which a policy that is tried out does not agree with the one that is enforced: beside the request's own record, and
    /// with the same request id.
    Shadow,
}

/// How a request came out.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum Verdict {
    /// Every gate was passed; the handler was called.
    Allow,
    /// Refused: the caller's answer is a 4xx.
    Deny,
    /// Refused because something of ours failed: the caller's answer is a 5xx.
    Error,
}

/// How a request ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum Outcome {
    /// The response was taken to its end.
    Complete,
    /// The caller hung up, a timeout struck, or the inside failed, before the response's end.
    Aborted,
    /// The inside panicked.
    Panicked,
}

/// How far a request came.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum Phase {
    /// In the call itself.
    Call,
    /// Called, and never polled.
    Unpolled,
    /// Before the head of the response.
    Head,
    /// After the head, before the end of the body.
    Body,
}

/// A status: HTTP, and gRPC where there is one.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[non_exhaustive]
pub struct Answer {
    /// The HTTP status.
    pub http: u16,
    /// The gRPC status code, from the head (trailers-only) or the trailers.
    pub grpc: Option<u8>,
}

impl From<Sent> for Answer {
    fn from(sent: Sent) -> Self {
        Self { http: sent.status, grpc: sent.grpc }
    }
}

/// One link of the `act` chain.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[non_exhaustive]
pub struct RecordedActor {
    /// The actor's `sub`.
    pub subject: String,
    /// The actor's `iss`, when the token names it.
    pub issuer: Option<String>,
    /// The actor's `client_id`, when the token names it.
    pub client_id: Option<String>,
}

/// The key that verified a signature.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[non_exhaustive]
pub struct RecordedKey {
    /// Its `kid`, when it has one.
    pub kid: Option<String>,
    /// Its [RFC 7638](https://www.rfc-editor.org/rfc/rfc7638) thumbprint.
    pub jkt: String,
}

/// The key that a token is bound to.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[non_exhaustive]
pub struct RecordedConfirmation {
    /// `jkt` or `x5t#S256`.
    pub kind: &'static str,
    /// The thumbprint.
    pub value: String,
}

/// What a token claims that was not verified: the words of whoever sent it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[non_exhaustive]
pub struct RecordedClaims {
    /// False, so that no query takes these for facts.
    pub verified: bool,
    /// `iss` as claimed.
    pub issuer: Option<String>,
    /// `sub` as claimed.
    pub subject: Option<String>,
    /// `jti` as claimed.
    pub jti: Option<String>,
    /// `exp` as claimed.
    pub exp: Option<u64>,
    /// `kid` as claimed.
    pub kid: Option<String>,
}

/// What the policy said.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[non_exhaustive]
pub struct RecordedPolicy {
    /// Its verdict. An allow with an obligation that nobody fulfilled is still refused: see [`AuditRecord::decision`].
    pub effect: Effect,
    /// The version of the policy.
    pub revision: String,
    /// The engine's id of the decision.
    pub decision_id: String,
    /// Why, in the policy's words. At most 16, then `…`.
    pub reasons: Vec<String>,
    /// Which of several backends decided; `None` where there is one.
    pub decided_by: Option<String>,
    /// True when the decision was made for an earlier, equal question.
    pub cached: bool,
}

/// What a policy that is tried out would have said.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[non_exhaustive]
pub struct RecordedShadow {
    /// Its decision; `None` when it came to none.
    pub policy: Option<RecordedPolicy>,
    /// The stable code of the reason for which it came to none.
    pub error: Option<&'static str>,
}

/// What the router matched.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[non_exhaustive]
pub struct RecordedRoute {
    /// The template (`/jobs/{id}`) or `package.Service/Method`; `None` when no route matched.
    pub template: Option<String>,
    /// What its rule demands; `None` when no rule covers it.
    pub rule: Option<&'static str>,
    /// The tenant that the path names, where the rule demands that it be the token's; beside [`AuditRecord::tenant`], which is that.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub tenant: Option<String>,
}

/// Records that could not be kept.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[non_exhaustive]
pub struct Gap {
    /// How many `request` records: each stands for one request.
    pub lost: u64,
    /// How many `end` records, whose `request` record may well be there.
    pub lost_ends: u64,
    /// When the first of them was lost.
    pub from: UnixTime,
    /// When the last of them was lost.
    pub to: UnixTime,
}

impl AuditRecord {
    /// A record that knows nothing yet.
    pub(super) fn new(kind: Kind, time: UnixTime, service: Option<Arc<str>>) -> Self {
        Self {
            schema: SCHEMA,
            kind,
            time,
            request_id: None,
            trace_id: None,
            service,
            jti: None,
            user_id: None,
            thumbprint: None,
            exp: None,
            issuer: None,
            client_id: None,
            tenant: None,
            principal: None,
            actors: Vec::new(),
            scope: Vec::new(),
            key: None,
            cnf: None,
            claimed: None,
            stage: None,
            decision: None,
            reason: None,
            policy: None,
            route: None,
            method: None,
            peer: None,
            answered: None,
            sent: None,
            outcome: None,
            phase: None,
            duration_us: 0,
            bytes: 0,
            gap: None,
            shadow: None,
            enforced: true,
        }
    }

    /// A record of this request that says nothing else, for conformance tests.
    #[cfg(feature = "testing")]
    pub(crate) fn sample(request_id: RequestId) -> Self {
        let time = UnixTime::from_secs(1_800_000_000);
        Self { request_id: Some(request_id), ..Self::new(Kind::Request, time, None) }
    }

    pub(super) fn of_gap(gap: Gap, service: Option<Arc<str>>) -> Self {
        Self { gap: Some(gap), ..Self::new(Kind::Gap, gap.to, service) }
    }
}

impl Kind {
    /// The stable name, as records show it.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Request => "request",
            Self::End => "end",
            Self::Gap => "gap",
            Self::Shadow => "shadow",
        }
    }
}

impl Verdict {
    /// The stable name, as records show it.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Allow => "allow",
            Self::Deny => "deny",
            Self::Error => "error",
        }
    }
}

fn request_id<S: Serializer>(id: &Option<RequestId>, serializer: S) -> Result<S::Ok, S::Error> {
    id.as_ref().map(RequestId::as_str).serialize(serializer)
}

fn stage<S: Serializer>(stage: &Option<Stage>, serializer: S) -> Result<S::Ok, S::Error> {
    stage.map(Stage::as_str).serialize(serializer)
}

const SCHEMA: u32 = 1;

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_gap_record_says_how_much_was_lost_and_when() {
        let gap = Gap { lost: 3, lost_ends: 1, from: UnixTime::from_secs(1), to: UnixTime::from_secs(2) };
        let record = serde_json::to_value(AuditRecord::of_gap(gap, Some("jobs".into()))).unwrap();
        assert_eq!(record["kind"], "gap");
        assert_eq!(record["service"], "jobs");
        assert_eq!(
            record["gap"],
            json!({"lost": 3, "lost_ends": 1, "from": "1970-01-01T00:00:01.000Z", "to": "1970-01-01T00:00:02.000Z"})
        );
    }

    #[test]
    fn the_stable_top_level_is_there_even_when_nothing_is_known() {
        let record = AuditRecord::new(Kind::Request, UnixTime::from_secs(0), None);
        let record = serde_json::to_value(record).unwrap();
        let members: Vec<_> = record.as_object().unwrap().keys().map(String::as_str).collect();
        let expected = [
            "schema",
            "kind",
            "time",
            "request_id",
            "trace_id",
            "service",
            "jti",
            "user_id",
            "thumbprint",
            "exp",
            "issuer",
            "client_id",
            "tenant",
            "principal",
            "actors",
            "scope",
            "key",
            "cnf",
            "stage",
            "decision",
            "reason",
            "policy",
            "route",
            "method",
            "peer",
            "answered",
            "sent",
            "outcome",
            "phase",
            "duration_us",
            "bytes",
            "enforced",
        ];
        let sorted = |mut names: Vec<&str>| {
            names.sort_unstable();
            names.join(" ")
        };
        assert_eq!(sorted(members), sorted(expected.to_vec()));
        assert_eq!((&record["schema"], &record["enforced"]), (&json!(1), &json!(true)));
    }
}
