use std::{collections::BTreeMap, thread};

use proptest::prelude::*;
use serde_json::json;

use super::*;
use crate::principal::{ClientId, IssuerId, SessionId, Subject, Thumbprint, TokenId};

const LIFE: Duration = Duration::from_secs(100);

fn at(seconds: u64) -> UnixTime {
    UnixTime::from_secs(seconds)
}

fn list(capacity: usize) -> RevocationList {
    RevocationList::builder().with_capacity(capacity).with_max_lifetime(LIFE).build().unwrap()
}

fn subject(name: &str, not_before: u64) -> Revocation {
    Revocation::subject(&IssuerId::new("i"), &Subject::new(name), at(not_before))
}

/// Whether a token of this subject, issued at `issued_at`, is refused.
fn refuses(list: &RevocationList, name: &str, issued_at: u64, now: u64) -> bool {
    refuses_token(list, &Token { subject: name, issued_at: Some(at(issued_at)), ..Token::default() }, at(now))
}

#[derive(Clone, Copy, Debug)]
struct Token<'a> {
    issuers: &'a [&'a str],
    thumbprint: &'a str,
    token_id: Option<&'a str>,
    subject: &'a str,
    client: Option<&'a str>,
    session: Option<&'a str>,
    issued_at: Option<UnixTime>,
}

impl Default for Token<'_> {
    fn default() -> Self {
        Self {
            issuers: &["i"],
            thumbprint: "t",
            token_id: None,
            subject: "s",
            client: None,
            session: None,
            issued_at: None,
        }
    }
}

fn refuses_token(list: &RevocationList, token: &Token<'_>, now: UnixTime) -> bool {
    let issuers: Vec<_> = token.issuers.iter().map(|issuer| IssuerId::new(*issuer)).collect();
    let (token_id, client) = (token.token_id.map(TokenId::new), token.client.map(ClientId::new));
    let session = token.session.map(SessionId::new);
    let presented = Presented {
        issuers: &issuers,
        thumbprint: &Thumbprint::new(token.thumbprint),
        token_id: token_id.as_ref(),
        subject: Some(&Subject::new(token.subject)),
        user_id: None,
        client: client.as_ref(),
        session: session.as_ref(),
        actor: None,
        issued_at: token.issued_at,
    };
    list.refuses(&presented, now)
}

#[test]
fn a_full_list_takes_nothing_more_and_drops_nothing() {
    let list = list(3);
    for name in ["a", "b", "c"] {
        list.revoke(&subject(name, 1000), at(1000)).unwrap();
    }
    let full = Err(RevocationError::Full { capacity: 3 });
    assert_eq!(list.revoke(&subject("d", 1000), at(1000)), full);
    let entry = json!({"issuer": "i", "subject": "d", "not_before": 1000});
    let document = json!({"entries": [entry]}).to_string();
    assert_eq!(list.feed("f").replace(document.as_bytes(), at(1000)), full.map(|()| 0));
    assert_eq!((list.len(), list.capacity()), (3, 3));
    for (name, refused) in [("a", true), ("b", true), ("c", true), ("d", false)] {
        assert_eq!(refuses(&list, name, 999, 1000), refused, "{name}");
    }
    // What is there already needs no room, what is forgotten gives some, and so does what has ended.
    list.revoke(&subject("a", 1500), at(1000)).unwrap();
    assert!(refuses(&list, "a", 1499, 1000));
    assert!(list.forget(&subject("b", 0)));
    assert!(!list.forget(&subject("b", 0)));
    list.revoke(&subject("d", 1300), at(1000)).unwrap();
    assert_eq!(list.revoke(&subject("e", 1000), at(1000)), Err(RevocationError::Full { capacity: 3 }));
    list.revoke(&subject("e", 1400), at(1340)).unwrap();
    assert!(!refuses(&list, "c", 999, 1340) && refuses(&list, "d", 999, 1340) && refuses(&list, "e", 999, 1340));
    assert_eq!(list.len(), 3);
}

#[test]
fn a_second_revocation_extends_the_first_and_never_shortens_it() {
    let list = list(9);
    let with_end = |not_before, end| subject("a", not_before).with_end(at(end));
    list.revoke(&with_end(100, 500), at(10)).unwrap();
    list.revoke(&with_end(90, 600), at(10)).unwrap();
    assert!(refuses(&list, "a", 99, 599) && !refuses(&list, "a", 100, 10));
    list.revoke(&with_end(200, 50), at(10)).unwrap();
    assert!(refuses(&list, "a", 199, 599));
    assert!(!refuses(&list, "a", 1, 600), "ended");
    // One that has ended takes no part, and one that comes too late neither.
    list.revoke(&with_end(50, 800), at(700)).unwrap();
    assert!(refuses(&list, "a", 49, 700) && !refuses(&list, "a", 50, 700));
    list.revoke(&with_end(900, 700), at(700)).unwrap();
    assert!(!refuses(&list, "a", 50, 700));
    assert_eq!(list.len(), 1);
}

#[test]
fn a_feed_replaces_its_own_entries_and_no_others() {
    let list = list(9);
    let (one, two) = (list.feed("one"), list.feed("two"));
    let document = |names: &[&str]| {
        let entry = |name| json!({"issuer": "i", "subject": name, "not_before": 1000});
        json!({"entries": names.iter().map(entry).collect::<Vec<_>>()}).to_string().into_bytes()
    };
    list.revoke(&subject("a", 1000), at(1000)).unwrap();
    assert_eq!(one.replace(&document(&["b", "c", "b"]), at(1000)), Ok(2));
    assert_eq!(two.replace(&document(&["a", "d"]), at(1000)), Ok(2));
    assert_eq!(list.len(), 5);
    let refused = |now| ["a", "b", "c", "d", "e"].map(|name| refuses(&list, name, 999, now));
    assert_eq!(refused(1000), [true, true, true, true, false]);
    assert!(one.replace(b"{}", at(1000)).is_err());
    assert_eq!(refused(1000), [true, true, true, true, false]);
    assert_eq!(list.feed("one").replace(&document(&["c", "e"]), at(1000)), Ok(2));
    assert_eq!(refused(1000), [true, false, true, true, true]);
    assert!(list.forget(&subject("a", 0)) && !list.forget(&subject("c", 0)));
    assert_eq!(refused(1000), [true, false, true, true, true], "a feed still revokes it");
    assert_eq!(two.replace(&document(&[]), at(1000)), Ok(0));
    assert_eq!((refused(1000), list.len()), ([false, false, true, false, true], 2));
    assert_eq!(refused(1340), [false; 5], "ended");
    assert_eq!(one.replace(&document(&["c"]), at(1340)), Ok(0));
    assert!(list.is_empty());
}

#[test]
fn a_revocation_under_one_name_of_an_issuer_holds_under_all() {
    let list = list(9);
    list.revoke(&subject("a", 1000), at(1000)).unwrap();
    let token = Token { subject: "a", ..Token::default() };
    assert!(refuses_token(&list, &Token { issuers: &["https://custom.example", "i"], ..token }, at(1000)));
    assert!(!refuses_token(&list, &Token { issuers: &["https://custom.example"], ..token }, at(1000)));
}

#[test]
fn bounds_are_checked_and_the_defaults_are_within_them() {
    assert_eq!(
        (RevocationList::new().capacity(), RevocationList::default().max_lifetime().as_secs()),
        (100_000, 86_400)
    );
    for (builder, field) in [
        (RevocationList::builder().with_capacity(0), "revocations.capacity"),
        (RevocationList::builder().with_capacity(1_000_001), "revocations.capacity"),
        (RevocationList::builder().with_max_lifetime(Duration::ZERO), "revocations.max_lifetime"),
    ] {
        assert_eq!(builder.build().unwrap_err().field(), field);
    }
}

#[test]
fn debug_shows_counts_and_no_names() {
    let list = list(9);
    list.revoke(&subject("canary", 1000), at(1000)).unwrap();
    assert_eq!(format!("{list:?}"), "RevocationList { len: 1, capacity: 9, .. }");
}

#[test]
fn memory_follows_what_is_live() {
    let list = list(100_000);
    for wave in 0..5 {
        for number in 0..3_000 {
            let now = at(wave * 10_000);
            list.revoke(&subject(&format!("{wave}-{number}"), wave * 10_000), now).unwrap();
        }
        assert!(list.len() <= 6_000, "{} held in wave {wave}", list.len());
    }
}

/// What both documents revoke is revoked at every moment in between; and nobody who looks up waits for the change.
#[test]
fn replacing_a_large_feed_opens_no_window() {
    let list = list(100_000);
    let document = |from: usize| {
        let entry = |number| json!({"issuer": "i", "subject": format!("u{number}"), "not_before": 1000});
        let always = json!({"issuer": "i", "subject": "always", "not_before": 1000});
        let entries: Vec<_> = (from..from + 4_000).map(entry).chain([always]).collect();
        json!({"entries": entries}).to_string().into_bytes()
    };
    let documents = [document(0), document(4_000)];
    let feed = list.feed("f");
    feed.replace(&documents[0], at(1000)).unwrap();
    thread::scope(|scope| {
        let writer = scope.spawn(|| {
            for round in 0..4 {
                feed.replace(&documents[round % 2], at(1000)).unwrap();
            }
        });
        while !writer.is_finished() {
            assert!(refuses(&list, "always", 999, 1000));
        }
    });
    assert_eq!(list.len(), 4_001);
    assert!(refuses(&list, "u4000", 999, 1000) && !refuses(&list, "u0", 999, 1000));
}

#[test]
fn many_who_revoke_at_once_never_exceed_the_capacity_and_lose_nothing() {
    let list = list(1_000);
    let taken: usize = thread::scope(|scope| {
        let revokers: Vec<_> = (0..4)
            .map(|thread| {
                let list = &list;
                scope.spawn(move || {
                    let revoke = |number| list.revoke(&subject(&format!("{thread}-{number}"), 1000), at(1000));
                    (0..400)
                        .filter(|number| {
                            revoke(*number).is_ok() && refuses(list, &format!("{thread}-{number}"), 1, 1000)
                        })
                        .count()
                })
            })
            .collect();
        revokers.into_iter().map(|revoker| revoker.join().unwrap()).sum()
    });
    assert_eq!((taken, list.len()), (1_000, 1_000));
}

/// A step of somebody who revokes, and asks in between.
#[derive(Clone, Debug)]
enum Step {
    Revoke(Named, Option<u64>),
    Forget(Named),
    /// To feed 0 or 1.
    Replace(usize, Vec<(Named, u64)>),
    Pass(u64),
}

#[derive(Clone, Debug)]
struct Named {
    kind: usize,
    issuer: &'static str,
    name: &'static str,
    not_before: u64,
}

const KINDS: [&str; 5] = ["token_id", "thumbprint", "subject", "client", "session"];

impl Named {
    fn key(&self) -> (usize, &'static str, &'static str) {
        (self.kind, if KINDS[self.kind] == "thumbprint" { "" } else { self.issuer }, self.name)
    }

    fn not_before(&self) -> Option<u64> {
        (self.kind >= 2).then_some(self.not_before)
    }

    fn revocation(&self, end: Option<u64>) -> Revocation {
        let (issuer, not_before) = (IssuerId::new(self.issuer), at(self.not_before));
        let revocation = match KINDS[self.kind] {
            "token_id" => Revocation::token_id(&issuer, &TokenId::new(self.name)),
            "thumbprint" => Revocation::thumbprint(&Thumbprint::new(self.name)),
            "subject" => Revocation::subject(&issuer, &Subject::new(self.name), not_before),
            "client" => Revocation::client(&issuer, &ClientId::new(self.name), not_before),
            _ => Revocation::session(&issuer, &SessionId::new(self.name), not_before),
        };
        end.map_or(revocation.clone(), |end| revocation.with_end(at(end)))
    }

    fn entry(&self, end: u64) -> serde_json::Value {
        let mut entry = json!({KINDS[self.kind]: self.name, "end": end});
        if KINDS[self.kind] != "thumbprint" {
            entry["issuer"] = json!(self.issuer);
        }
        if let Some(not_before) = self.not_before() {
            entry["not_before"] = json!(not_before);
        }
        entry
    }
}

/// The same, as whoever reads the manual would write it: slowly, and with the names.
#[derive(Default)]
struct Model {
    /// What the API and each of the feeds revokes: not-before time and end.
    sources: [Source; 3],
}

/// By kind, issuer and name.
type Source = BTreeMap<(usize, &'static str, &'static str), (Option<u64>, u64)>;

impl Model {
    fn extend(source: &mut Source, named: &Named, end: u64) {
        let entry = source.entry(named.key()).or_insert((named.not_before(), end));
        *entry = (entry.0.max(named.not_before()), entry.1.max(end));
    }

    fn forget_ended(&mut self, now: u64) {
        self.sources.iter_mut().for_each(|source| source.retain(|_, (_, end)| now < *end));
    }

    fn len(&self) -> usize {
        self.sources.iter().map(BTreeMap::len).sum()
    }

    fn refuses(&self, token: &Token<'_>) -> bool {
        let of = |kind| match kind {
            0 => token.token_id,
            1 => Some(token.thumbprint),
            2 => Some(token.subject),
            3 => token.client,
            _ => token.session,
        };
        self.sources.iter().flatten().any(|(&(kind, issuer, name), (not_before, _))| {
            of(kind) == Some(name)
                && (kind == 1 || token.issuers.contains(&issuer))
                && not_before.is_none_or(|not_before| token.issued_at.is_none_or(|issued| issued < at(not_before)))
        })
    }
}

fn named() -> impl Strategy<Value = Named> {
    let names = (0..KINDS.len(), prop::sample::select(vec!["i", "j"]), prop::sample::select(vec!["a", "b", "c"]));
    (names, 0..60_u64).prop_map(|((kind, issuer, name), not_before)| Named { kind, issuer, name, not_before })
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        5 => (named(), prop::option::of(0..90_u64)).prop_map(|(named, end)| Step::Revoke(named, end)),
        1 => named().prop_map(Step::Forget),
        2 => (0..2_usize, prop::collection::vec((named(), 0..90_u64), 0..6)).prop_map(|(feed, entries)| Step::Replace(feed, entries)),
        2 => (0..15_u64).prop_map(Step::Pass),
    ]
}

fn tokens() -> impl Iterator<Item = Token<'static>> {
    const NAMES: [Option<&str>; 4] = [None, Some("a"), Some("b"), Some("c")];
    const ISSUERS: [&[&str]; 3] = [&["i"], &["j"], &["j", "i"]];
    // Every name of every kind beside names that are never revoked, under each issuer, and issued at several times.
    ISSUERS.into_iter().flat_map(|issuers| {
        NAMES.into_iter().flat_map(move |name| {
            (0..5).flat_map(move |kind| {
                [None, Some(0), Some(20), Some(40), Some(59)].into_iter().map(move |issued| Token {
                    issuers,
                    thumbprint: name.filter(|_| kind == 1).unwrap_or("-"),
                    token_id: name.filter(|_| kind == 0),
                    subject: name.filter(|_| kind == 2).unwrap_or("-"),
                    client: name.filter(|_| kind == 3),
                    session: name.filter(|_| kind == 4),
                    issued_at: issued.map(at),
                })
            })
        })
    })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(128))]
    #[test]
    fn a_list_refuses_what_a_plain_reading_of_its_manual_refuses(steps in prop::collection::vec(step(), 1..40), capacity in 1..12_usize) {
        let (list, mut model, mut now) = (list(capacity), Model::default(), 0);
        for (turn, step) in steps.into_iter().enumerate() {
            model.forget_ended(now);
            match step {
                Step::Revoke(named, end) => {
                    let outcome = list.revoke(&named.revocation(end), at(now));
                    let end = end.unwrap_or(named.not_before().unwrap_or(now) + LIFE.as_secs() + 240);
                    if end <= now || model.sources[0].contains_key(&named.key()) || model.len() < capacity {
                        prop_assert_eq!(outcome, Ok(()));
                        if end > now {
                            Model::extend(&mut model.sources[0], &named, end);
                        }
                    } else {
                        prop_assert_eq!(outcome, Err(RevocationError::Full { capacity }));
                    }
                }
                Step::Forget(named) => {
                    let was_there = model.sources[0].remove(&named.key()).is_some();
                    // An entry that has ended may still be there to be taken back.
                    prop_assert!(list.forget(&named.revocation(None)) || !was_there);
                }
                Step::Replace(feed, entries) => {
                    let document = json!({"entries": entries.iter().map(|(named, end)| named.entry(*end)).collect::<Vec<_>>()});
                    let outcome = list.feed(["one", "two"][feed]).replace(document.to_string().as_bytes(), at(now));
                    let mut fed = BTreeMap::new();
                    entries.iter().filter(|(_, end)| *end > now).for_each(|(named, end)| Model::extend(&mut fed, named, *end));
                    if model.len() - model.sources[feed + 1].len() + fed.len() <= capacity {
                        prop_assert_eq!(outcome, Ok(fed.len()));
                        model.sources[feed + 1] = fed;
                    } else {
                        prop_assert_eq!(outcome, Err(RevocationError::Full { capacity }));
                    }
                }
                Step::Pass(seconds) => now += seconds,
            }
            model.forget_ended(now);
            prop_assert!(list.len() <= capacity && list.len() >= model.len());
            for token in tokens().skip(turn % 11).step_by(11) {
                prop_assert_eq!(refuses_token(&list, &token, at(now)), model.refuses(&token), "{:?} at {}", token, now);
            }
        }
    }
}
