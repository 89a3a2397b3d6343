//! The document that a feed is given.

use serde_json::{Map, Value};

use super::{Revocation, RevocationError, entry::Kind};
use crate::{json, time::UnixTime};

/// Reads a document whole, or not at all.
pub(super) fn parse(document: &[u8]) -> Result<Vec<Revocation>, RevocationError> {
    let refuse = |fault| Err(RevocationError::Document(fault));
    let Some(document) = json::own_object(document) else {
        return refuse("is no JSON object, or has a member that stands twice");
    };
    if document.keys().any(|member| member != "entries") {
        return refuse("has a member beside `entries`");
    }
    let Some(Value::Array(entries)) = document.get("entries") else {
        return refuse("has no list `entries`");
    };
    entries
        .iter()
        .enumerate()
        .map(|(index, entry)| {
            revocation(entry).map_err(|(field, problem)| RevocationError::Entry { index, field, problem })
        })
        .collect()
}

/// The member at fault, and what is wrong with it. Never its value, which may be an id that nobody else should read.
type Fault = (&'static str, &'static str);

fn revocation(entry: &Value) -> Result<Revocation, Fault> {
    let Value::Object(entry) = entry else {
        return Err(("entry", "is no object"));
    };
    // What is misspelt would be left out, and something else be revoked than was meant.
    if entry.keys().any(|member| !is_known(member)) {
        return Err(("entry", "has a member that is not known"));
    }
    let mut named = TARGETS.iter().filter(|(member, _)| entry.contains_key(*member));
    let &(member, kind) = named.next().ok_or(("entry", "names nothing to revoke"))?;
    if let Some((other, _)) = named.next() {
        return Err((other, "stands beside another target: write two entries"));
    }
    let name = name(entry, member)?.ok_or((member, MISSING))?;
    let (issuer, not_before, end) = (self::name(entry, "issuer")?, time(entry, "not_before")?, time(entry, "end")?);
    let issuer = match (kind, issuer) {
        (Kind::Thumbprint, None) => "",
        (Kind::Thumbprint, Some(_)) => return Err(("issuer", "has no place beside a thumbprint")),
        (_, issuer) => issuer.ok_or(("issuer", MISSING))?,
    };
    match (kind, not_before, end) {
        (Kind::TokenId | Kind::Thumbprint, Some(_), _) => Err(("not_before", "has no place beside a single token")),
        // Derived from the time of loading, it would move on with every restart.
        (Kind::TokenId | Kind::Thumbprint, None, None) => Err(("end", MISSING)),
        (Kind::Subject | Kind::Client | Kind::Session, None, _) => Err(("not_before", MISSING)),
        (_, not_before, end) => {
            let revocation = Revocation::new(kind, issuer, name, not_before);
            Ok(end.map_or_else(|| revocation.clone(), |end| revocation.clone().with_end(end)))
        }
    }
}

fn is_known(member: &str) -> bool {
    TARGETS.iter().any(|(target, _)| *target == member) || ["issuer", "not_before", "end"].contains(&member)
}

/// What no token can be called revokes nothing, and nobody would notice.
fn name<'a>(entry: &'a Map<String, Value>, member: &'static str) -> Result<Option<&'a str>, Fault> {
    match entry.get(member) {
        None => Ok(None),
        Some(Value::String(name)) if !name.trim().is_empty() && !name.contains(char::is_control) => Ok(Some(name)),
        Some(_) => Err((member, "is no text that names something")),
    }
}

fn time(entry: &Map<String, Value>, member: &'static str) -> Result<Option<UnixTime>, Fault> {
    let Some(value) = entry.get(member) else {
        return Ok(None);
    };
    // Milliseconds, taken for seconds, would revoke for thousands of years.
    let seconds = value.as_u64().filter(|seconds| *seconds <= END_OF_YEAR_9999);
    seconds.map(|seconds| Some(UnixTime::from_secs(seconds))).ok_or((member, "is no whole number of seconds"))
}

const TARGETS: [(&str, Kind); 5] = [
    ("token_id", Kind::TokenId),
    ("thumbprint", Kind::Thumbprint),
    ("subject", Kind::Subject),
    ("client", Kind::Client),
    ("session", Kind::Session),
];
const MISSING: &str = "is missing";
const END_OF_YEAR_9999: u64 = 253_402_300_799;

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn error(document: &str) -> String {
        parse(document.as_bytes()).unwrap_err().to_string()
    }

    #[test]
    fn every_kind_of_entry_is_what_the_api_makes_of_it() {
        let issuer = crate::principal::IssuerId::new("i");
        let at = UnixTime::from_secs;
        let document = json!({"entries": [
            {"issuer": "i", "token_id": "n", "end": 9},
            {"thumbprint": "n", "end": 9},
            {"issuer": "i", "subject": "n", "not_before": 5},
            {"issuer": "i", "client": "n", "not_before": 5, "end": 9},
            {"issuer": "i", "session": "n", "not_before": 5},
        ]});
        let expected = [
            Revocation::token_id(&issuer, &crate::principal::TokenId::new("n")).with_end(at(9)),
            Revocation::thumbprint(&crate::principal::Thumbprint::new("n")).with_end(at(9)),
            Revocation::subject(&issuer, &crate::principal::Subject::new("n"), at(5)),
            Revocation::client(&issuer, &crate::principal::ClientId::new("n"), at(5)).with_end(at(9)),
            Revocation::session(&issuer, &crate::principal::SessionId::new("n"), at(5)),
        ];
        assert_eq!(parse(document.to_string().as_bytes()).unwrap(), expected);
        assert_eq!(parse(br#"{"entries": []}"#), Ok(Vec::new()));
    }

    #[test]
    fn whatever_is_odd_is_refused_by_index_and_field_and_quoted_nowhere() {
        let good = r#"{"issuer": "i", "subject": "s", "not_before": 1}"#;
        for (entry, expected) in [
            (r#""canary""#, "`entry` is no object"),
            ("{}", "`entry` names nothing to revoke"),
            (r#"{"issuer": "i", "sub": "canary", "not_before": 1}"#, "`entry` has a member that is not known"),
            (r#"{"issuer": "i", "subject": "s", "not_before": 1, "canary": 1}"#, "`entry` has a member"),
            (r#"{"issuer": "i", "subject": "canary", "client": "c", "not_before": 1}"#, "`client` stands beside"),
            (r#"{"issuer": "i", "subject": ["canary"], "not_before": 1}"#, "`subject` is no text"),
            (r#"{"issuer": "i", "subject": " ", "not_before": 1}"#, "`subject` is no text"),
            (r#"{"issuer": "i", "subject": "a\u0000canary", "not_before": 1}"#, "`subject` is no text"),
            (r#"{"issuer": "i", "subject": null, "not_before": 1}"#, "`subject` is no text"),
            (r#"{"issuer": 7, "subject": "canary", "not_before": 1}"#, "`issuer` is no text"),
            (r#"{"subject": "canary", "not_before": 1}"#, "`issuer` is missing"),
            (r#"{"issuer": "i", "subject": "canary"}"#, "`not_before` is missing"),
            (r#"{"issuer": "i", "subject": "s", "not_before": "canary"}"#, "`not_before` is no whole number"),
            (r#"{"issuer": "i", "subject": "s", "not_before": 1.5}"#, "`not_before` is no whole number"),
            (r#"{"issuer": "i", "subject": "s", "not_before": -1}"#, "`not_before` is no whole number"),
            (r#"{"issuer": "i", "subject": "s", "not_before": null}"#, "`not_before` is no whole number"),
            (r#"{"issuer": "i", "subject": "s", "not_before": 1800000000000}"#, "`not_before` is no whole number"),
            (r#"{"issuer": "i", "subject": "s", "not_before": 1, "end": true}"#, "`end` is no whole number"),
            (r#"{"issuer": "i", "token_id": "canary"}"#, "`end` is missing"),
            (r#"{"issuer": "i", "token_id": "t", "not_before": 1, "end": 2}"#, "`not_before` has no place"),
            (r#"{"token_id": "t", "end": 2}"#, "`issuer` is missing"),
            (r#"{"issuer": "canary", "thumbprint": "t", "end": 2}"#, "`issuer` has no place"),
        ] {
            let error = error(&format!(r#"{{"entries": [{good}, {entry}, {good}]}}"#));
            assert!(error.starts_with("entry 1: ") && error.contains(expected), "{entry}: {error}");
            assert!(!error.contains("canary"), "{error}");
        }
        for (document, expected) in [
            ("", "no JSON object"),
            ("[]", "no JSON object"),
            (r#"{"entries": [{"issuer": "canary", "issuer": "i"}]}"#, "stands twice"),
            (r#"{"entries": [], "entries": []}"#, "stands twice"),
            ("{}", "no list `entries`"),
            (r#"{"entries": {"canary": 1}}"#, "no list `entries`"),
            (r#"{"entries": [], "canary": 1}"#, "beside `entries`"),
        ] {
            let error = error(document);
            assert!(error.contains(expected) && !error.contains("canary"), "{document}: {error}");
        }
    }
}
