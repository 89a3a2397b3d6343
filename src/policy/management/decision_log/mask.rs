use std::{sync::Arc, time::Duration};

use bytes::Bytes;
use serde_json::{Map, Value};

use super::{
    event::Made,
    pointer::{Change, Done, apply},
    tally::{Tally, add},
};
use crate::{
    complaint::Complaint,
    policy::{
        Rego,
        management::{BundleAgent, upload::fits},
    },
    time::Clock,
};

/// Makes of a decision what may be kept: an event, masked, as JSON.
pub(super) struct Masker {
    pub(super) labels: Map<String, Value>,
    pub(super) erased: Vec<Change>,
    pub(super) policy: Option<MaskPolicy>,
    pub(super) chunk_bytes: usize,
    pub(super) clock: Arc<dyn Clock>,
    pub(super) tally: Arc<Tally>,
    pub(super) complaint: Complaint,
}

/// Whose rules say what is secret.
#[derive(Clone)]
pub(super) enum MaskPolicy {
    Rego(Arc<Rego>),
    /// Those of its bundles, once they have come.
    Bundles(Arc<BundleAgent>),
}

impl MaskPolicy {
    fn rego(&self) -> Result<&Rego, String> {
        match self {
            Self::Rego(rego) => Ok(rego),
            Self::Bundles(agent) => {
                agent.backend().map(|rego| &**rego).ok_or_else(|| "no bundle has come yet".to_owned())
            }
        }
    }
}

impl Masker {
    /// `None` when the policy wants it left out.
    pub(super) fn event(&self, made: &Made) -> Option<Bytes> {
        let masked = self.masked(made).unwrap_or_else(|why| {
            add(&self.tally.mask_failures, 1);
            if let Some(unsaid) = self.complaint.speak(self.clock.elapsed()) {
                tracing::warn!(why, unsaid, "decisions are logged without input and result, since masking them failed");
            }
            Some(made.stripped(&self.labels))
        })?;
        let text = text(&masked);
        if fits(&text, self.chunk_bytes) {
            return Some(text);
        }
        add(&self.tally.cut, 1);
        Some(self::text(&made.stripped(&self.labels)))
    }

    fn masked(&self, made: &Made) -> Result<Option<Map<String, Value>>, String> {
        let mut event = made.event(&self.labels).ok_or("the input cannot be written as JSON")?;
        let mut done = apply(&mut event, &self.erased);
        if let Some(policy) = &self.policy {
            let policy = policy.rego()?;
            let question = serde_json::to_string(&event).map_err(|error| error.to_string())?;
            match ask(policy, DROP, &question)? {
                None | Some(Value::Bool(false)) => {}
                Some(Value::Bool(true)) => {
                    add(&self.tally.dropped_by_policy, 1);
                    return Ok(None);
                }
                Some(_) => return Err(format!("`{DROP}` is no boolean")),
            }
            let changes = match ask(policy, MASK, &question)? {
                None => Vec::new(),
                Some(Value::Array(rules)) => rules
                    .iter()
                    .map(|rule| {
                        Change::parse(rule).map_err(|remedy| format!("`{MASK}` has a rule that is none: {remedy}"))
                    })
                    .collect::<Result<_, _>>()?,
                Some(_) => return Err(format!("`{MASK}` is no set")),
            };
            let Done { erased, masked } = apply(&mut event, &changes);
            done.erased.extend(erased);
            done.masked.extend(masked);
        }
        made.hide_caller(&mut event);
        for (name, places) in [("erased", done.erased), ("masked", done.masked)] {
            if !places.is_empty() {
                event.insert(name.to_owned(), places.into());
            }
        }
        Ok(Some(event))
    }
}

fn ask(policy: &Rego, path: &str, question: &str) -> Result<Option<Value>, String> {
    policy.evaluate(path, question, TIME_LIMIT).map_err(|error| {
        // Neither quotes the input.
        let cause = std::error::Error::source(&error).map(|source| format!(": {source}")).unwrap_or_default();
        format!("`{path}`: {error}{cause}")
    })
}

fn text(event: &Map<String, Value>) -> Bytes {
    // A map of JSON values is always JSON.
    serde_json::to_vec(event).unwrap_or_default().into()
}

const MASK: &str = "data.system.log.mask";
const DROP: &str = "data.system.log.drop";

/// Nobody waits for it; it only must come to an end.
const TIME_LIMIT: Duration = Duration::from_secs(1);
