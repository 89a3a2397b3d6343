//! Built-in functions that modules call in the host. The others are compiled into the module.
//!
//! They are those of the engine behind `policy::Rego`, corrected as there and within the bounds within which it decides as Open Policy
//! Agent does. Outside of them a call fails, and what fails is no decision.

use std::{collections::BTreeMap, fmt::Write as _, sync::Arc};

use regorus::{Engine, Value};
use sha2::{Digest as _, Sha256};

use super::{fault::Fault, value};
use crate::policy::rego::{corrections, differences};

/// Those that one module calls.
pub(super) struct Table {
    functions: BTreeMap<i32, Function>,
}

struct Function {
    name: &'static str,
    is_same: IsSame,
    rule: String,
    arity: usize,
}

/// They work on one thing at a time, so each instance has its own.
pub(super) struct Builtins {
    table: Arc<Table>,
    engine: Engine,
}

/// `None` is an error.
type Own = fn(&[Value]) -> Option<Value>;

/// Whether these arguments give what they give in Open Policy Agent.
type IsSame = fn(&[Value]) -> bool;

impl Table {
    pub(super) fn new(wanted: &BTreeMap<String, i32>) -> Result<Self, Fault> {
        let mut functions = BTreeMap::new();
        let mut missing = Vec::new();
        for (name, id) in wanted {
            match KNOWN.iter().find(|(known, ..)| known == name) {
                Some((name, arity, is_same)) => {
                    let rule = format!("data.host.f{id}");
                    functions.insert(*id, Function { name, is_same: *is_same, rule, arity: *arity });
                }
                None => missing.push(format!("`{}`", super::machine::shown(name))),
            }
        }
        if missing.is_empty() {
            return Ok(Self { functions });
        }
        Err(Fault::Unfit(format!("it calls functions that this host does not have: do without {}", missing.join(", "))))
    }

    pub(super) fn connect(self: &Arc<Self>) -> Result<Builtins, Fault> {
        let mut source = "package host\n".to_owned();
        for (id, Function { name, arity, .. }) in &self.functions {
            let arguments = (0..*arity).map(|number| format!("input[{number}]")).collect::<Vec<_>>().join(", ");
            let _ = writeln!(source, "f{id} := {name}({arguments})");
        }
        let mut engine = Engine::new();
        engine.set_strict_builtin_errors(true);
        corrections::install(&mut engine).map_err(Fault::unfit)?;
        for (name, arity, function) in OWN {
            let extension = move |values: Vec<Value>| function(&values).ok_or_else(|| Refused.into());
            engine.add_extension(name.to_owned(), arity, Box::new(extension)).map_err(Fault::unfit)?;
        }
        engine.add_policy("host.rego".to_owned(), source).map_err(Fault::unfit)?;
        engine.eval_query("true".to_owned(), false).map_err(Fault::unfit)?;
        Ok(Builtins { table: Arc::clone(self), engine })
    }
}

impl Builtins {
    /// Calls one with arguments as the module writes them, and gives its result as the module reads it.
    pub(super) fn call(&mut self, id: i32, arguments: &[String]) -> Result<String, Fault> {
        let function = self.table.functions.get(&id);
        let Some(Function { name, is_same, rule, arity }) = function else {
            return Err(Fault::Builtin("a function that it did not declare".to_owned()));
        };
        let mut result = || {
            let arguments: Vec<_> = arguments.iter().map(|text| value::read(text)).collect::<Option<_>>()?;
            if arguments.len() != *arity || !is_same(&arguments) {
                return None;
            }
            if let ("sprintf", [Value::String(format), Value::Array(values)]) = (*name, &arguments[..])
                && let Some(text) = simple_text(format, values.iter())
            {
                return value::write(&Value::from(text));
            }
            self.engine.set_input(Value::from(arguments));
            let result = self.engine.eval_rule(rule.clone());
            self.engine.set_input(Value::Undefined);
            value::write(&result.ok()?)
        };
        result().ok_or_else(|| Fault::Builtin((*name).to_owned()))
    }
}

/// What nearly every call of `sprintf` is, without the engine: texts and whole numbers put into a text.
fn simple_text<'a>(format: &str, mut values: impl Iterator<Item = &'a Value>) -> Option<String> {
    let mut pieces = format.split('%');
    let mut text = pieces.next()?.to_owned();
    for piece in pieces {
        let (verb, rest) = piece.split_at_checked(1)?;
        match (verb, values.next()?) {
            ("s" | "v", Value::String(value)) => text.push_str(value),
            ("d" | "v", number @ Value::Number(_)) => {
                let digits = number.to_json_str().ok()?;
                digits.parse::<i64>().ok()?;
                text.push_str(&digits);
            }
            _ => return None,
        }
        text.push_str(rest);
    }
    values.next().is_none().then_some(text)
}

/// Occurrences that do not overlap; nothing at all is before and after each character.
fn count(values: &[Value]) -> Option<Value> {
    match values {
        [Value::String(text), Value::String(wanted)] => {
            u64::try_from(text.matches(&**wanted).count()).ok().map(Value::from)
        }
        _ => None,
    }
}

fn sha256(values: &[Value]) -> Option<Value> {
    match values {
        [Value::String(text)] => Some(Value::from(
            Sha256::digest(text.as_bytes()).iter().map(|byte| format!("{byte:02x}")).collect::<String>(),
        )),
        _ => None,
    }
}

#[derive(Debug, thiserror::Error)]
#[error("an argument is refused")]
struct Refused;

fn always(_: &[Value]) -> bool {
    true
}

/// The engine has an answer for others too.
fn same_kind(arguments: &[Value]) -> bool {
    matches!(
        arguments,
        [Value::Object(_), Value::Object(_)]
            | [Value::Set(_), Value::Set(_)]
            | [Value::Array(_), Value::Array(_) | Value::Set(_)]
    )
}

fn plain_format(arguments: &[Value]) -> bool {
    matches!(arguments.first(), Some(Value::String(format)) if differences::is_plain_format(format))
}

fn plain_regex<const AT: usize>(arguments: &[Value]) -> bool {
    matches!(arguments.get(AT), Some(Value::String(pattern)) if differences::regex(pattern).is_none())
}

/// What the engine lacks, or has another idea of.
const OWN: [(&str, u8, Own); 2] = [("crypto.sha256", 1, sha256), ("strings.count", 2, count)];

/// Name, number of arguments, and for which of them.
const KNOWN: [(&str, usize, IsSame); 23] = [
    ("base64url.encode_no_pad", 1, always),
    ("crypto.sha256", 1, always),
    ("hex.decode", 1, always),
    ("hex.encode", 1, always),
    ("indexof_n", 2, always),
    ("net.cidr_is_valid", 1, always),
    ("object.subset", 2, same_kind),
    ("regex.find_n", 3, plain_regex::<0>),
    ("regex.replace", 3, plain_regex::<1>),
    ("regex.split", 2, plain_regex::<0>),
    ("semver.compare", 2, always),
    ("sprintf", 2, plain_format),
    ("strings.any_prefix_match", 2, always),
    ("strings.any_suffix_match", 2, always),
    ("strings.count", 2, always),
    ("time.add_date", 4, always),
    ("time.clock", 1, always),
    ("time.date", 1, always),
    ("time.parse_duration_ns", 1, always),
    ("time.parse_rfc3339_ns", 1, always),
    ("time.weekday", 1, always),
    ("urlquery.encode", 1, always),
    ("urlquery.encode_object", 1, always),
];

#[cfg(test)]
mod tests {
    use super::*;

    fn call(name: &str, arguments: &[&str]) -> Result<String, String> {
        let table = Arc::new(Table::new(&BTreeMap::from([(name.to_owned(), 7)])).unwrap());
        let arguments: Vec<_> = arguments.iter().map(ToString::to_string).collect();
        table.connect().unwrap().call(7, &arguments).map_err(|fault| fault.to_string())
    }

    #[test]
    fn each_function_answers() {
        for (name, arguments, result) in [
            ("base64url.encode_no_pad", &["\"a?\""][..], "\"YT8\""),
            ("crypto.sha256", &["\"\""], "\"e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855\""),
            ("hex.decode", &["\"6162\""], "\"ab\""),
            ("hex.encode", &["\"ab\""], "\"6162\""),
            ("indexof_n", &["\"abab\"", "\"b\""], "[1,3]"),
            ("net.cidr_is_valid", &["\"10.0.0.0/8\""], "true"),
            ("object.subset", &["{\"a\":{\"b\":1,\"c\":2}}", "{\"a\":{\"b\":1}}"], "true"),
            ("object.subset", &["{1,2}", "{2}"], "true"),
            ("regex.find_n", &["\"[a-c]\"", "\"xaybzc\"", "2"], "[\"a\",\"b\"]"),
            ("regex.replace", &["\"a-a\"", "\"a\"", "\"b\""], "\"b-b\""),
            ("regex.split", &["\",\"", "\"a,b\""], "[\"a\",\"b\"]"),
            ("semver.compare", &["\"1.2.3\"", "\"1.10.0\""], "-1"),
            ("sprintf", &["\"%s: %d of %v%v\"", "[\"a\",1,2,\"!\"]"], "\"a: 1 of 2!\""),
            ("sprintf", &["\"%04d-%02d 100%% %q\"", "[2026,3,\"x\"]"], "\"2026-03 100% \\\"x\\\"\""),
            ("strings.any_prefix_match", &["\"abc\"", "{\"x\",\"ab\"}"], "true"),
            ("strings.any_suffix_match", &["[\"abc\"]", "\"bc\""], "true"),
            ("strings.count", &["\"aaa\"", "\"aa\""], "1"),
            ("strings.count", &["\"ab\"", "\"\""], "3"),
            ("time.add_date", &["1772442000000000000", "0", "1", "0"], "1775120400000000000"),
            ("time.clock", &["[1772442000000000000,\"Europe/Berlin\"]"], "[10,0,0]"),
            ("time.date", &["1772442000000000000"], "[2026,3,2]"),
            ("time.parse_duration_ns", &["\"1h\""], "3600000000000"),
            ("time.parse_rfc3339_ns", &["\"2026-03-02T09:00:00Z\""], "1772442000000000000"),
            ("time.weekday", &["1772442000000000000"], "\"Monday\""),
            ("urlquery.encode", &["\"a b\""], "\"a+b\""),
            ("urlquery.encode_object", &["{\"a\":\"b c\"}"], "\"a=b+c\""),
        ] {
            assert_eq!(call(name, arguments).as_deref(), Ok(result), "{name} {arguments:?}");
        }
    }

    #[test]
    fn a_call_whose_result_may_be_another_there_fails_and_says_no_more_than_its_name() {
        for (name, arguments) in [
            ("sprintf", &["\"%5d\"", "[1]"][..]),
            ("sprintf", &["7", "[1]"]),
            ("sprintf", &["\"%s\"", "\"secret\""]),
            ("regex.split", &["\"\\\\w\"", "\"secret\""]),
            ("regex.replace", &["\"secret\"", "\"(\"", "\"\""]),
            ("object.subset", &["{}", "[]"]),
            ("strings.count", &["1", "\"\""]),
            ("crypto.sha256", &["1"]),
            ("time.parse_rfc3339_ns", &["\"secret\""]),
            ("hex.decode", &["\"secret\""]),
            ("hex.decode", &["\"61\"", "\"62\""]),
            ("hex.decode", &[]),
            ("hex.decode", &["\"61"]),
        ] {
            assert_eq!(call(name, arguments), Err(format!("`{name}` failed")), "{arguments:?}");
        }
        let table = Arc::new(Table::new(&BTreeMap::from([("sprintf".to_owned(), 7)])).unwrap());
        assert!(table.connect().unwrap().call(8, &[]).is_err());
    }

    #[test]
    fn what_asks_for_more_than_the_input_is_missing_and_named() {
        let wanted = ["http.send", "opa.runtime", "rand.intn", "sprintf", "time.now_ns", "uuid.rfc4122"];
        let wanted = wanted.into_iter().map(str::to_owned).zip(0..).collect();
        let error = Table::new(&wanted).err().unwrap().to_string();
        assert!(
            error.ends_with("do without `http.send`, `opa.runtime`, `rand.intn`, `time.now_ns`, `uuid.rfc4122`"),
            "{error}"
        );
    }
}
