use std::{cmp::Ordering, fmt, sync::Arc};

use time::{OffsetDateTime, format_description::well_known::Rfc3339};

use super::{
    BundleError, BundleErrorKind,
    error::{Fault, shown},
};

/// Whether a bundle may take the place of one with a later revision.
///
/// A signature says who made a bundle, not when: whoever can answer in the server's place can bring back every bundle that was ever
/// signed. Revisions that only grow stop that while this process runs, and over restarts where the active bundle is kept on disk.
#[derive(Clone, Default)]
pub struct RevisionRule(Rule);

#[derive(Clone, Default)]
enum Rule {
    #[default]
    Any,
    Numbers,
    Times,
    By(Arc<Compare>),
}

type Compare = dyn Fn(&str, &str) -> Option<Ordering> + Send + Sync;

impl RevisionRule {
    /// Every revision may follow every other: the default, and what Open Policy Agent does. A rollback is a plain deployment then.
    #[must_use]
    pub const fn any() -> Self {
        Self(Rule::Any)
    }

    /// Revisions are decimal numbers of any length, and never become smaller: build numbers.
    #[must_use]
    pub const fn growing_numbers() -> Self {
        Self(Rule::Numbers)
    }

    /// Revisions are times of [RFC 3339](https://www.rfc-editor.org/rfc/rfc3339), and never become earlier.
    #[must_use]
    pub const fn growing_times() -> Self {
        Self(Rule::Times)
    }

    /// Compares the first revision, the active one, with the second, the new one. `None`, for what is no revision, refuses.
    pub fn growing_by(compare: impl Fn(&str, &str) -> Option<Ordering> + Send + Sync + 'static) -> Self {
        Self(Rule::By(Arc::new(compare)))
    }

    /// Whether this revision may take the place of the active one; `None` when nothing is active. The same revision again may.
    ///
    /// Pure: nothing is kept here. The revisions are those of the [manifest](super::Manifest::revision), of bundles that were verified.
    ///
    /// # Errors
    ///
    /// [`BundleErrorKind::Revision`] for an older revision, and for one that cannot be compared.
    pub fn check(&self, bundle: &str, active: Option<&str>, new: &str) -> Result<(), BundleError> {
        // The first is compared with itself, so that one that cannot be compared is refused before it is the active one.
        let before = active.unwrap_or(new);
        let order = match &self.0 {
            Rule::Any => return Ok(()),
            Rule::Numbers => compared(before, new, number),
            Rule::Times => compared(before, new, |text| OffsetDateTime::parse(text, &Rfc3339).ok()),
            Rule::By(compare) => compare(before, new),
        };
        let problem = match order {
            Some(Ordering::Less | Ordering::Equal) => return Ok(()),
            Some(Ordering::Greater) => {
                format!(
                    "the revision `{}` is older than the active `{}`: build a new bundle instead of sending an old one",
                    shown(new),
                    shown(before)
                )
            }
            None => {
                let wanted = match self.0 {
                    Rule::Numbers => "decimal numbers",
                    Rule::Times => "times of RFC 3339",
                    Rule::Any | Rule::By(_) => "what the rule can compare",
                };
                format!(
                    "the revision `{}` cannot be compared with the active `{}`: build bundles with `--revision`, as {wanted}",
                    shown(new),
                    shown(before)
                )
            }
        };
        Err(BundleError::new(BundleErrorKind::Revision, bundle, Fault::new(problem)))
    }
}

impl fmt::Debug for RevisionRule {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self.0 {
            Rule::Any => "Any",
            Rule::Numbers => "GrowingNumbers",
            Rule::Times => "GrowingTimes",
            Rule::By(_) => "GrowingBy(..)",
        })
    }
}

fn compared<'a, T: Ord>(before: &'a str, new: &'a str, read: impl Fn(&'a str) -> Option<T>) -> Option<Ordering> {
    Some(read(before)?.cmp(&read(new)?))
}

/// Of two numbers without leading zeros the longer is the greater.
fn number(text: &str) -> Option<(usize, &str)> {
    let is_number = !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
    let digits = text.trim_start_matches('0');
    is_number.then_some((digits.len(), digits))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_revision_may_stay_or_grow_and_nothing_else() {
        let letters = || RevisionRule::growing_by(|one, other| one.len().checked_sub(1).map(|_| one.cmp(other)));
        for (name, rule, active, new, is_good) in [
            ("any, older", RevisionRule::any(), Some("2"), "1", true),
            ("any, none", RevisionRule::default(), Some("2"), "", true),
            ("number, first", RevisionRule::growing_numbers(), None, "0", true),
            ("number, same", RevisionRule::growing_numbers(), Some("7"), "7", true),
            ("number, same, padded", RevisionRule::growing_numbers(), Some("7"), "007", true),
            ("number, later", RevisionRule::growing_numbers(), Some("9"), "10", true),
            (
                "number, later, long",
                RevisionRule::growing_numbers(),
                Some("99999999999999999999999"),
                "100000000000000000000000",
                true,
            ),
            ("number, older", RevisionRule::growing_numbers(), Some("10"), "9", false),
            ("number, older, padded", RevisionRule::growing_numbers(), Some("10"), "0009", false),
            ("number, signed", RevisionRule::growing_numbers(), Some("1"), "+2", false),
            ("number, none", RevisionRule::growing_numbers(), Some("1"), "", false),
            ("number, none first", RevisionRule::growing_numbers(), None, "", false),
            ("number, word first", RevisionRule::growing_numbers(), None, "v2", false),
            ("number after a word", RevisionRule::growing_numbers(), Some("v1"), "2", false),
            (
                "time, later",
                RevisionRule::growing_times(),
                Some("2026-11-02T09:00:00Z"),
                "2026-11-02T09:00:00.5Z",
                true,
            ),
            (
                "time, same elsewhere",
                RevisionRule::growing_times(),
                Some("2026-11-02T09:00:00Z"),
                "2026-11-02T10:00:00+01:00",
                true,
            ),
            (
                "time, older by its offset",
                RevisionRule::growing_times(),
                Some("2026-11-02T09:00:00Z"),
                "2026-11-02T09:30:00+01:00",
                false,
            ),
            ("time, a date", RevisionRule::growing_times(), None, "2026-11-02", false),
            ("own, later", letters(), Some("a"), "b", true),
            ("own, older", letters(), Some("b"), "a", false),
            ("own, no answer", letters(), None, "", false),
        ] {
            let checked = rule.check("authz", active, new);
            assert_eq!(checked.is_ok(), is_good, "{name}: {checked:?}");
            assert!(
                checked.is_ok_and(|()| true)
                    || rule.check("authz", active, new).unwrap_err().kind() == BundleErrorKind::Revision
            );
        }
        let error = RevisionRule::growing_numbers().check("authz", Some("10"), "9").unwrap_err().to_string();
        assert!(error.contains("`9`") && error.contains("`10`") && error.contains("authz"), "{error}");
    }
}
