//! The form for people.

use std::fmt::{self, Write as _};

use serde_json::Value;

use super::{ExplainedRule, PolicyExplanation};
use crate::{
    audit::visible,
    policy::{Effect, RecordedOutcome},
};

/// What a piece of text is, for whoever gives it a colour.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Tone {
    Title,
    Good,
    Bad,
    #[cfg(feature = "cli")]
    Warn,
    Quiet,
    Strong,
}

/// Gives text its colour, or leaves it as it is.
pub(crate) type Paint = fn(Tone, &str) -> String;

pub(crate) fn plain(_: Tone, text: &str) -> String {
    text.to_owned()
}

impl fmt::Display for PolicyExplanation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.text(plain).trim_end())
    }
}

impl PolicyExplanation {
    pub(crate) fn text(&self, paint: Paint) -> String {
        let mut out = String::new();
        // Writing to a `String` does not fail.
        let _ = self.head(&mut out, paint);
        let _ = self.parts(&mut out, paint);
        let _ = self.rules(&mut out, paint);
        out
    }

    fn head(&self, out: &mut String, paint: Paint) -> fmt::Result {
        let verdict = match (&self.error, self.undefined, self.effect) {
            (Some(_), ..) => paint(Tone::Bad, "NO DECISION"),
            (None, true, _) => paint(Tone::Bad, "DENY (undefined)"),
            (None, false, Effect::Allow) => paint(Tone::Good, "ALLOW"),
            (None, false, Effect::Deny) => paint(Tone::Bad, "DENY"),
        };
        writeln!(out, "{verdict}  {}", paint(Tone::Strong, &visible(&self.decision_path)))?;
        let mut line =
            |name: &str, text: &str| writeln!(out, "  {}  {text}", paint(Tone::Quiet, &format!("{name:<11}")));
        line("policy", &visible(self.revision.as_str()))?;
        if let Some(error) = &self.error {
            line("error", &format!("{} ({})", visible(&error.detail), error.code))?;
        }
        for (number, reason) in self.reasons.iter().enumerate() {
            line(if number == 0 { "reasons" } else { "" }, &visible(reason))?;
        }
        for (name, ids) in [
            ("obligations", self.obligations.iter().map(|obligation| visible(&obligation.id)).collect::<Vec<_>>()),
            ("advice", self.advice.iter().map(|advice| visible(&advice.id)).collect()),
        ] {
            if !ids.is_empty() {
                line(name, &ids.join(", "))?;
            }
        }
        if let Some(RecordedOutcome { decision_id, result, agrees, masked }) = &self.recorded {
            let then = result.as_ref().map_or_else(|| "no result was recorded".to_owned(), value);
            let compared = match agrees {
                Some(true) => paint(Tone::Good, "  the same effect as now"),
                Some(false) => paint(Tone::Bad, "  not the effect of now"),
                None => String::new(),
            };
            line("recorded", &format!("{then}{compared}"))?;
            if let Some(id) = decision_id {
                line("decision id", &visible(id))?;
            }
            if !masked.is_empty() {
                let masked = masked.iter().map(|path| visible(path)).collect::<Vec<_>>().join(", ");
                line("masked", &format!("{masked}: the policy was asked without it now"))?;
            }
        }
        Ok(())
    }

    fn parts(&self, out: &mut String, paint: Paint) -> fmt::Result {
        if self.reads.is_empty() && !self.reads_more_than_the_input {
            return Ok(());
        }
        writeln!(out, "\n{}", paint(Tone::Title, "What the policy looks at"))?;
        if self.reads_more_than_the_input {
            writeln!(out, "  more than the input: the time, or something random")?;
        }
        let width = self.reads.iter().map(|part| part.path.chars().count()).max().unwrap_or_default();
        for part in &self.reads {
            let shown = part.value.as_ref().map_or_else(|| paint(Tone::Bad, "absent"), value);
            writeln!(out, "  {:<width$}  {shown}", visible(&part.path))?;
        }
        Ok(())
    }

    fn rules(&self, out: &mut String, paint: Paint) -> fmt::Result {
        let (deciding, others): (Vec<_>, Vec<_>) = self.rules.iter().partition(|rule| rule.decides);
        if !deciding.is_empty() {
            writeln!(out, "\n{}", paint(Tone::Title, "The rules that decide, each by itself"))?;
        }
        let width = deciding
            .iter()
            .flat_map(|rule| &rule.definitions)
            .map(|definition| place(&definition.file, definition.line).chars().count());
        let width = width.max().unwrap_or_default();
        for rule in deciding {
            self.rule(out, rule, width, paint)?;
        }
        if !others.is_empty() {
            writeln!(out, "\n{}", paint(Tone::Title, "The rest of the package"))?;
            let width = others.iter().map(|rule| self.short(rule).chars().count()).max().unwrap_or_default();
            for rule in others {
                writeln!(out, "  {:<width$}  {}", visible(self.short(rule)), outcome(rule, paint))?;
            }
        }
        Ok(())
    }

    fn rule(&self, out: &mut String, rule: &ExplainedRule, width: usize, paint: Paint) -> fmt::Result {
        writeln!(out, "  {}  {}", paint(Tone::Strong, &visible(self.short(rule))), outcome(rule, paint))?;
        for definition in &rule.definitions {
            let mark = match definition.holds {
                _ if definition.default => paint(Tone::Quiet, "·"),
                None => paint(Tone::Quiet, "·"),
                Some(true) => paint(Tone::Good, "✓"),
                Some(false) => paint(Tone::Bad, "✗"),
            };
            let place = format!("{:<width$}", place(&definition.file, definition.line));
            writeln!(out, "    {mark} {}  {}", paint(Tone::Quiet, &place), cut(&visible(&definition.text), TEXT))?;
            if let Some(failed) = &definition.failed {
                let how = if failed.error { "cannot be evaluated" } else { "does not hold" };
                let at = if failed.line == definition.line { String::new() } else { format!("line {} ", failed.line) };
                let text = cut(&visible(&failed.text), TEXT);
                writeln!(out, "      {:<width$}  {} {text}", "", paint(Tone::Bad, &format!("{at}{how}:")))?;
            }
        }
        Ok(())
    }

    /// Without the package that decides.
    fn short<'a>(&self, rule: &'a ExplainedRule) -> &'a str {
        let package = self.decision_path.rsplit_once('.').map_or("", |(package, _)| package);
        rule.path.strip_prefix(package).and_then(|rest| rest.strip_prefix('.')).unwrap_or(&rule.path)
    }
}

fn outcome(rule: &ExplainedRule, paint: Paint) -> String {
    match (&rule.value, &rule.error) {
        (_, Some(error)) => paint(Tone::Bad, &format!("failed: {}", visible(error))),
        (Some(value_), None) => format!("= {}", value(value_)),
        (None, None) if rule.function => paint(Tone::Quiet, "a function"),
        (None, None) => paint(Tone::Quiet, "undefined"),
    }
}

fn place(file: &str, line: u32) -> String {
    format!("{}:{line}", visible(file))
}

fn value(value: &Value) -> String {
    cut(&visible(&value.to_string()), TEXT)
}

/// The head of a text that is too long for a line.
fn cut(text: &str, most: usize) -> String {
    match text.char_indices().nth(most) {
        Some((end, _)) => format!("{}…", text.get(..end).unwrap_or_default()),
        None => text.to_owned(),
    }
}

/// In characters.
const TEXT: usize = 160;
