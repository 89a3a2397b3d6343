use std::{borrow::Cow, collections::BTreeSet};

use percent_encoding::percent_decode_str;
use serde_json::{Map, Value};

/// A place in an event that may be masked: below `/input`, `/result` or `/nd_builtin_cache`.
///
/// A step names a member as it is written, or as [RFC 6901](https://www.rfc-editor.org/rfc/rfc6901) or percent-encoding spell it, since
/// policies are written by either; every member that it can mean is erased. In an array it is an index.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Pointer {
    text: String,
    steps: Vec<String>,
}

/// What is to be done at a place.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Change {
    Remove(Pointer),
    Upsert(Pointer, Value),
}

/// A step to a place that is there.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Step {
    Index(usize),
    Member(String),
}

/// What was done, by place, in the order in which it was asked for.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Done {
    pub(super) erased: Vec<String>,
    pub(super) masked: Vec<String>,
}

impl Pointer {
    /// Reads a pointer. The error is what to do about it, and quotes nothing.
    pub(super) fn parse(text: &str) -> Result<Self, &'static str> {
        let steps: Vec<_> =
            text.strip_prefix('/').ok_or("begin it with a slash")?.split('/').map(str::to_owned).collect();
        if !steps.first().is_some_and(|first| MASKABLE.contains(&&**first)) {
            return Err(
                "begin it with `/input`, `/result` or `/nd_builtin_cache`: the rest of an event cannot be masked",
            );
        }
        // What an upsert makes is as deep as this.
        if steps.len() > MAX_STEPS {
            return Err("shorten it to at most 64 steps");
        }
        Ok(Self { text: text.to_owned(), steps })
    }
}

impl Change {
    /// Reads one element of `data.system.log.mask`: a pointer to erase, or an object with `op` (`remove` or `upsert`), `path` and `value`.
    pub(super) fn parse(rule: &Value) -> Result<Self, &'static str> {
        let object = match rule {
            Value::String(path) => return Pointer::parse(path).map(Self::Remove),
            Value::Object(object) => object,
            _ => return Err("make each element a text or an object"),
        };
        let path = object.get("path").and_then(Value::as_str).ok_or("give each object a text as its `path`")?;
        let pointer = Pointer::parse(path)?;
        match object.get("op").and_then(Value::as_str) {
            Some("remove") => Ok(Self::Remove(pointer)),
            Some("upsert") => Ok(Self::Upsert(pointer, object.get("value").cloned().unwrap_or_default())),
            _ => Err("give each object `remove` or `upsert` as its `op`"),
        }
    }

    fn pointer(&self) -> &Pointer {
        let (Self::Remove(pointer) | Self::Upsert(pointer, _)) = self;
        pointer
    }
}

/// Changes an event. What is not there is neither erased nor masked, but an upsert makes the objects that lead to its place.
///
/// Whatever the order in which they come: first what is put in, and then what is taken out, so that taking out wins.
pub(super) fn apply(event: &mut Map<String, Value>, changes: &[Change]) -> Done {
    let mut done = vec![false; changes.len()];
    for (change, done) in changes.iter().zip(&mut done) {
        if let Change::Upsert(pointer, value) = change {
            *done = upsert_top(event, &pointer.steps, value);
        }
    }
    let mut whole = Value::Object(std::mem::take(event));
    let mut places = BTreeSet::new();
    for (change, done) in changes.iter().zip(&mut done) {
        if let Change::Remove(pointer) = change {
            *done = find(&whole, &pointer.steps, &mut Vec::new(), &mut places);
        }
    }
    // Later places of an array before earlier ones, and what is inside before what it is in, so that no removal moves what another means.
    for place in places.iter().rev() {
        remove(&mut whole, place);
    }
    if let Value::Object(members) = whole {
        *event = members;
    }
    let mut report = Done::default();
    for (change, _) in changes.iter().zip(done).filter(|(_, done)| *done) {
        let list = match change {
            Change::Remove(_) => &mut report.erased,
            Change::Upsert(..) => &mut report.masked,
        };
        if !list.contains(&change.pointer().text) {
            list.push(change.pointer().text.clone());
        }
    }
    report
}

/// Adds the places that these steps lead to. Two spellings of one place are one place.
fn find(at: &Value, steps: &[String], way: &mut Vec<Step>, places: &mut BTreeSet<Vec<Step>>) -> bool {
    let Some((step, rest)) = steps.split_first() else {
        places.insert(way.clone());
        return true;
    };
    let inner: Vec<_> = match at {
        Value::Object(members) => {
            let member = |name: &Cow<'_, str>| Some((Step::Member(name.to_string()), members.get(&**name)?));
            readings(step).iter().filter_map(member).collect()
        }
        Value::Array(items) => {
            index(step).and_then(|index| Some((Step::Index(index), items.get(index)?))).into_iter().collect()
        }
        _ => Vec::new(),
    };
    let mut found = false;
    for (step, inner) in inner {
        way.push(step);
        found |= find(inner, rest, way, places);
        way.pop();
    }
    found
}

fn remove(whole: &mut Value, place: &[Step]) {
    let Some((last, way)) = place.split_last() else { return };
    let holder = way.iter().try_fold(whole, |at, step| match (at, step) {
        (Value::Object(members), Step::Member(name)) => members.get_mut(name),
        (Value::Array(items), Step::Index(index)) => items.get_mut(*index),
        _ => None,
    });
    match (holder, last) {
        (Some(Value::Object(members)), Step::Member(name)) => drop(members.remove(name)),
        (Some(Value::Array(items)), Step::Index(index)) if *index < items.len() => drop(items.remove(*index)),
        _ => {}
    }
}

fn upsert_top(event: &mut Map<String, Value>, steps: &[String], value: &Value) -> bool {
    let Some((top, rest)) = steps.split_first() else { return false };
    event.get_mut(top).is_some_and(|inner| upsert(inner, rest, value))
}

fn upsert(at: &mut Value, steps: &[String], value: &Value) -> bool {
    let Some((step, rest)) = steps.split_first() else {
        *at = value.clone();
        return true;
    };
    match at {
        Value::Object(members) => {
            let mut put = false;
            for name in readings(step) {
                put |= members.get_mut(&*name).is_some_and(|inner| upsert(inner, rest, value));
            }
            if !put && !readings(step).iter().any(|name| members.contains_key(&**name)) {
                let made = rest
                    .iter()
                    .rev()
                    .fold(value.clone(), |inner, step| Value::Object(Map::from_iter([(step.clone(), inner)])));
                members.insert(step.clone(), made);
                put = true;
            }
            put
        }
        Value::Array(items) => {
            index(step).and_then(|index| items.get_mut(index)).is_some_and(|inner| upsert(inner, rest, value))
        }
        _ => false,
    }
}

/// What a step can mean, each once.
fn readings(step: &str) -> Vec<Cow<'_, str>> {
    let mut readings = vec![Cow::Borrowed(step)];
    let plain = |step: &str| step.replace("~1", "/").replace("~0", "~");
    let decoded = percent_decode_str(step).decode_utf8().unwrap_or(Cow::Borrowed(step));
    for other in [Cow::Owned(plain(step)), Cow::Owned(plain(&decoded)), decoded] {
        if !readings.contains(&other) {
            readings.push(other);
        }
    }
    readings
}

fn index(step: &str) -> Option<usize> {
    step.parse().ok()
}

const MASKABLE: [&str; 3] = ["input", "result", "nd_builtin_cache"];
const MAX_STEPS: usize = 64;

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn masked(event: Value, rules: Value) -> (Value, Done) {
        let Value::Object(mut event) = event else { panic!("an object") };
        let changes: Vec<_> = rules.as_array().unwrap().iter().map(|rule| Change::parse(rule).unwrap()).collect();
        let done = apply(&mut event, &changes);
        (event.into(), done)
    }

    #[test]
    fn places_are_erased_and_overwritten() {
        let upsert = |path: &str, value: Value| json!({"op": "upsert", "path": path, "value": value});
        for (name, before, rules, after, erased, masked_) in [
            (
                "a member",
                json!({"input": {"a": 1, "b": 2}}),
                json!(["/input/a"]),
                json!({"input": {"b": 2}}),
                vec!["/input/a"],
                vec![],
            ),
            (
                "by an object",
                json!({"input": {"a": 1}}),
                json!([{"op": "remove", "path": "/input/a"}]),
                json!({"input": {}}),
                vec!["/input/a"],
                vec![],
            ),
            (
                "the whole",
                json!({"input": 1, "result": 2, "path": "p"}),
                json!(["/input", "/result"]),
                json!({"path": "p"}),
                vec!["/input", "/result"],
                vec![],
            ),
            (
                "what is not there",
                json!({"input": {"a": "text"}}),
                json!(["/input/b", "/input/a/b", "/result", "/nd_builtin_cache/x"]),
                json!({"input": {"a": "text"}}),
                vec![],
                vec![],
            ),
            (
                "twice",
                json!({"input": {"a": 1}}),
                json!(["/input/a", {"op": "remove", "path": "/input/a"}]),
                json!({"input": {}}),
                vec!["/input/a"],
                vec![],
            ),
            (
                "an array itself",
                json!({"result": [1, 2]}),
                json!(["/result/0"]),
                json!({"result": [2]}),
                vec!["/result/0"],
                vec![],
            ),
            (
                "an overwritten member",
                json!({"input": {"a": 1}}),
                json!([upsert("/input/a", json!("**"))]),
                json!({"input": {"a": "**"}}),
                vec![],
                vec!["/input/a"],
            ),
            (
                "a new member",
                json!({"input": {}}),
                json!([upsert("/input/a/b", json!(1))]),
                json!({"input": {"a": {"b": 1}}}),
                vec![],
                vec!["/input/a/b"],
            ),
            (
                "without a value",
                json!({"input": {"a": 1}}),
                json!([{"op": "upsert", "path": "/input/a"}]),
                json!({"input": {"a": null}}),
                vec![],
                vec!["/input/a"],
            ),
            (
                "an element",
                json!({"input": [[1, 2]]}),
                json!([upsert("/input/0/1", json!(0))]),
                json!({"input": [[1, 0]]}),
                vec![],
                vec!["/input/0/1"],
            ),
            (
                "outside of an array",
                json!({"input": [1]}),
                json!([upsert("/input/1", json!(0))]),
                json!({"input": [1]}),
                vec![],
                vec![],
            ),
            (
                "below a text",
                json!({"input": {"a": "text"}}),
                json!([upsert("/input/a/b", json!(0))]),
                json!({"input": {"a": "text"}}),
                vec![],
                vec![],
            ),
            (
                "behind the last element",
                json!({"input": [1]}),
                json!(["/input/1"]),
                json!({"input": [1]}),
                vec![],
                vec![],
            ),
            (
                "the whole anew",
                json!({"result": {"a": 1}}),
                json!([upsert("/result", json!(true))]),
                json!({"result": true}),
                vec![],
                vec!["/result"],
            ),
            ("what is absent as a whole", json!({}), json!([upsert("/result/a", json!(1))]), json!({}), vec![], vec![]),
        ] {
            let erased = erased.into_iter().map(str::to_owned).collect();
            let masked_ = masked_.into_iter().map(str::to_owned).collect();
            assert_eq!(masked(before, rules), (after, Done { erased, masked: masked_ }), "{name}");
        }
    }

    #[test]
    fn no_removal_moves_what_another_one_means() {
        let secrets = json!({"input": {"l": ["s0", "s1", {"s": 2, "k": 2}, "k3", "s4", 5, 6, 7, 8, 9, "s10"]}});
        let mut rules = vec!["/input/l/0", "/input/l/1", "/input/l/10", "/input/l/2/s", "/input/l/4"];
        for _ in 0..rules.len() {
            rules.rotate_left(1);
            let (after, done) = masked(secrets.clone(), json!(rules));
            assert_eq!(after, json!({"input": {"l": [{"k": 2}, "k3", 5, 6, 7, 8, 9]}}), "{rules:?}");
            assert_eq!(done.erased, rules);
        }
        // However the way to them is spelled.
        for rules in
            [["/input/a b/0", "/input/a%20b/1"], ["/input/a%20b/0", "/input/a b/1"], ["/input/a b/+0", "/input/a b/01"]]
        {
            let (after, done) = masked(json!({"input": {"a b": ["s0", "s1", "k2", "k3"]}}), json!(rules));
            assert_eq!(
                (after, &*done.erased),
                (json!({"input": {"a b": ["k2", "k3"]}}), &rules.map(str::to_owned)[..])
            );
        }
        let (after, _) = masked(json!({"input": ["s0", "k1"]}), json!(["/input/0", "/input/00"]));
        assert_eq!(after, json!({"input": ["k1"]}), "one place is erased once");
        // Together with the element that it is in, and with one that is put in.
        let (after, _) = masked(json!({"input": [{"s": 1}, {"s": 2}]}), json!(["/input/0", "/input/0/s"]));
        assert_eq!(after, json!({"input": [{"s": 2}]}));
        let rules = json!(["/input/0", {"op": "upsert", "path": "/input/1", "value": "*"}]);
        assert_eq!(masked(json!({"input": ["a", "s", "c"]}), rules).0, json!({"input": ["*", "c"]}));
    }

    #[test]
    fn a_step_means_a_member_in_whichever_spelling() {
        assert_eq!(masked(json!({"input": {"a/b c": 1}}), json!(["/input/a~1b%20c"])).0, json!({"input": {}}));
        for path in ["/input/a~1b", "/input/a%2Fb"] {
            assert_eq!(
                masked(json!({"input": {"a/b": 1, "c": 2}}), json!([path])).0,
                json!({"input": {"c": 2}}),
                "{path}"
            );
        }
        assert_eq!(
            masked(json!({"input": {"a b": {"c": 1}}}), json!(["/input/a b/c"])).0,
            json!({"input": {"a b": {}}})
        );
        let both = json!({"input": {"a~1b": 1, "a/b": 2}});
        assert_eq!(masked(both.clone(), json!(["/input/a~1b"])).0, json!({"input": {}}));
        let rule = json!([{"op": "upsert", "path": "/input/a~1b", "value": 0}]);
        assert_eq!(masked(both, rule).0, json!({"input": {"a~1b": 0, "a/b": 0}}));
    }

    #[test]
    fn what_is_no_rule_is_refused() {
        for rule in [
            json!(""),
            json!("input/a"),
            json!("/labels/id"),
            json!("/inputs"),
            json!("/"),
            json!(1),
            json!(null),
            json!({}),
            json!({"op": "remove"}),
            json!({"path": "/input"}),
            json!({"op": "hide", "path": "/input"}),
            json!({"op": 1, "path": "/input"}),
            json!({"op": "remove", "path": 1}),
            json!({"op": "remove", "path": "/decision_id"}),
            json!("/input".to_owned() + &"/a".repeat(64)),
        ] {
            assert!(Change::parse(&rule).is_err(), "{rule}");
        }
        assert!(Change::parse(&json!("/input".to_owned() + &"/a".repeat(63))).is_ok());
    }
}
