//! Built-in functions that modules call in the host. The others are compiled into the module.
//!
//! They are those of the engine behind `policy::Rego`, corrected as there and within the bounds within which it decides as Open Policy
//! Agent does. Outside of them a call fails, and what fails is no decision.

use std::{collections::BTreeMap, fmt::Write as _, sync::Arc};

use regorus::{Engine, Value};

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
            self.engine.set_input(Value::from(arguments));
            let result = self.engine.eval_rule(rule.clone());
            self.engine.set_input(Value::Undefined);
            value::write(&result.ok()?)
        };
        result().ok_or_else(|| Fault::Builtin((*name).to_owned()))
    }
}

fn always(_: &[Value]) -> bool {
    true
}

fn plain_format(arguments: &[Value]) -> bool {
    matches!(arguments.first(), Some(Value::String(format)) if differences::is_plain_format(format))
}

fn plain_regex<const AT: usize>(arguments: &[Value]) -> bool {
    matches!(arguments.get(AT), Some(Value::String(pattern)) if differences::regex(pattern).is_none())
}

/// Name, number of arguments, and for which of them.
const KNOWN: [(&str, usize, IsSame); 21] = [
    ("base64url.encode_no_pad", 1, always),
    ("hex.decode", 1, always),
    ("hex.encode", 1, always),
    ("indexof_n", 2, always),
    ("net.cidr_is_valid", 1, always),
    ("object.subset", 2, always),
    ("regex.find_n", 3, plain_regex::<0>),
    ("regex.replace", 3, plain_regex::<1>),
    ("regex.split", 2, plain_regex::<0>),
    ("semver.compare", 2, always),
    ("sprintf", 2, plain_format),
    ("strings.any_prefix_match", 2, always),
    ("strings.any_suffix_match", 2, always),
    ("time.add_date", 4, always),
    ("time.clock", 1, always),
    ("time.date", 1, always),
    ("time.parse_duration_ns", 1, always),
    ("time.parse_rfc3339_ns", 1, always),
    ("time.weekday", 1, always),
    ("urlquery.encode", 1, always),
    ("urlquery.encode_object", 1, always),
];
