//! Everything that is wrong with a policy, and not only the first of it: for the command line.

use std::thread;

use serde::Serialize;

use super::{
    PolicySet, Rego, RegoBuilder,
    ast::Policy,
    engine::{Loaded, Pool},
    generation::{STACK_BYTES, anonymous, document, holds},
    lint::{self, Finding, Kind},
};
use crate::{
    ConfigError,
    policy::{InputFormat, Recorded},
};

/// Something that is wrong.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub(crate) struct Fault {
    pub(crate) kind: FaultKind,
    /// The module or the data document; the decision path where it is that.
    pub(crate) file: String,
    pub(crate) line: Option<u32>,
    pub(crate) column: Option<u32>,
    pub(crate) message: String,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum FaultKind {
    /// It cannot be read: no Rego, no JSON, or data that contradict each other.
    Unreadable,
    /// Not to be used at all.
    Unsound,
    /// No rule is where the decision should be.
    DecisionPath,
    /// Decides otherwise than Open Policy Agent would.
    Parity,
    /// Depends on the clock or on chance.
    Fickle,
    /// Gives no decision about an anonymous caller.
    Canary,
    /// Says nothing about an anonymous caller.
    Undefined,
}

/// A policy that was looked through.
pub(super) struct Examined {
    pub(super) faults: Vec<Fault>,
    /// Nothing where something cannot be read.
    pub(super) policies: Vec<Policy>,
    /// Nothing where something is unsound.
    pub(super) pool: Option<Pool>,
}

/// All faults of a policy, in the order of their places.
pub(crate) fn faults(set: &PolicySet, decision_path: &str) -> Vec<Fault> {
    let mut faults = on_a_stack(|| examine(set, decision_path).faults);
    if faults.iter().all(|fault| matches!(fault.kind, FaultKind::Parity | FaultKind::Fickle)) {
        faults.extend(canary(set, decision_path));
    }
    faults
}

/// With the stack that the parser and the checks may need. A panic is a finding.
pub(super) fn on_a_stack<T: Send + From<Vec<Fault>>>(work: impl FnOnce() -> T + Send) -> T {
    let done = thread::scope(|scope| {
        let builder = thread::Builder::new().stack_size(STACK_BYTES);
        builder.spawn_scoped(scope, work).ok().and_then(|working| working.join().ok())
    });
    done.unwrap_or_else(|| {
        let message = "the engine cannot load it: it panicked".to_owned();
        vec![Fault { kind: FaultKind::Unsound, file: "policy".to_owned(), line: None, column: None, message }].into()
    })
}

pub(super) fn examine(set: &PolicySet, decision_path: &str) -> Examined {
    let mut faults = Vec::new();
    let unreadable = |error: &ConfigError| Fault::of_error(FaultKind::Unreadable, error);
    let data = document(&set.data)
        .map_err(|error| faults.push(unreadable(&error)))
        .unwrap_or_else(|()| regorus::Value::new_object());
    let mut loaded = match Loaded::around(data.clone()) {
        Ok(loaded) => loaded,
        Err(error) => return Examined { faults: vec![unreadable(&error)], policies: Vec::new(), pool: None },
    };
    faults.extend(set.sources.iter().filter_map(|source| loaded.add(source).err()).map(|error| unreadable(&error)));
    // What is defined in a module that cannot be read would be missed in the others.
    if !faults.is_empty() {
        return Examined { faults, policies: Vec::new(), pool: None };
    }
    let policies: Vec<Policy> = match loaded.syntax().map(|syntax| serde_json::from_str(&syntax)) {
        Ok(Ok(policies)) => policies,
        Ok(Err(_)) | Err(_) => {
            let message = "write it with less nesting: it cannot be checked as it is".to_owned();
            let fault =
                Fault { kind: FaultKind::Unsound, file: "policy".to_owned(), line: None, column: None, message };
            return Examined { faults: vec![fault], policies: Vec::new(), pool: None };
        }
    };
    let entry: Vec<_> = decision_path.split('.').collect();
    faults
        .extend(lint::check(&policies, &entry, |path| holds(&data, path)).findings.into_iter().map(Fault::of_finding));
    let sound = faults.iter().all(|fault| fault.kind != FaultKind::Unsound);
    let pool = if sound {
        // A policy that is unsound may end the process here.
        loaded
            .prepare()
            .map(Pool::of_one)
            .map_err(|error| faults.push(Fault::of_error(FaultKind::Unsound, &error)))
            .ok()
    } else {
        None
    };
    faults.sort_by(|a, b| (&a.file, a.line, a.column).cmp(&(&b.file, b.line, b.column)));
    Examined { faults, policies, pool }
}

/// What the last check of a policy finds, before it serves.
fn canary(set: &PolicySet, decision_path: &str) -> Option<Fault> {
    let relaxed = Rego::builder()
        .with_policies(set.clone())
        .with_decision_path(decision_path)
        .dangerous_relax_parity()
        .with_clock_and_chance();
    let rego = match RegoBuilder::build(relaxed) {
        Ok(rego) => rego,
        Err(error) => return Some(Fault::of_error(FaultKind::Canary, &error)),
    };
    let anonymous = anonymous().ok()?;
    rego.explain(&Recorded::of(&anonymous, InputFormat::default())).undefined.then(|| Fault {
        kind: FaultKind::Undefined,
        file: decision_path.to_owned(),
        line: None,
        column: None,
        message: "undefined for an anonymous caller: give the decision a `default`, so that a wrong path shows"
            .to_owned(),
    })
}

impl Fault {
    fn of_finding(Finding { place, remedy, kind }: Finding) -> Self {
        let kind = match kind {
            Kind::Unsound => FaultKind::Unsound,
            Kind::EntryPoint => FaultKind::DecisionPath,
            Kind::Parity => FaultKind::Parity,
            Kind::Fickle => FaultKind::Fickle,
        };
        Self::at(kind, &place, remedy)
    }

    pub(crate) fn of_error(kind: FaultKind, error: &ConfigError) -> Self {
        match error {
            ConfigError::Invalid { value, remedy, .. } | ConfigError::Unusable { value, remedy, .. } => {
                Self::at(kind, value, remedy.to_string())
            }
            other => Self::at(kind, other.field(), other.to_string()),
        }
    }

    /// Takes `file:line:column` apart.
    fn at(kind: FaultKind, place: &str, message: String) -> Self {
        let number = |text: &str| text.parse::<u32>().ok();
        let (file, line, column) = match place.rsplit_once(':') {
            Some((before, last)) if number(last).is_some() => match before.rsplit_once(':') {
                Some((file, line)) if number(line).is_some() => (file, number(line), number(last)),
                _ => (before, number(last), None),
            },
            _ => (place, None, None),
        };
        Self { kind, file: file.to_owned(), line, column, message }
    }

    /// A warning does not keep the policy from serving.
    pub(crate) const fn is_undefined_canary(&self) -> bool {
        matches!(self.kind, FaultKind::Undefined)
    }
}

impl FaultKind {
    pub(crate) const fn as_str(self) -> &'static str {
        match self {
            Self::Unreadable => "unreadable",
            Self::Unsound => "unsound",
            Self::DecisionPath => "decision-path",
            Self::Parity => "parity",
            Self::Fickle => "fickle",
            Self::Canary => "canary",
            Self::Undefined => "undefined",
        }
    }
}
