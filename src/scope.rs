//! OAuth scope: single words, sets of them, and what a route demands of a set.

use std::{collections::BTreeSet, fmt};

use serde::{Serialize, Serializer};

use crate::ConfigError;

/// One word of an OAuth scope: `scope-token` of [RFC 6749 §3.3].
///
/// At least one byte, each `%x21 / %x23-5B / %x5D-7E`: printable ASCII without space, `"` and `\`. Compared byte by byte.
///
/// [RFC 6749 §3.3]: https://www.rfc-editor.org/rfc/rfc6749#section-3.3
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ScopeToken(Box<str>);

impl ScopeToken {
    /// Checks and keeps one word.
    ///
    /// # Errors
    ///
    /// [`InvalidScopeToken`] when it is empty or has a byte outside the grammar.
    pub fn new(word: impl Into<String>) -> Result<Self, InvalidScopeToken> {
        let word = word.into();
        let valid = |byte: u8| matches!(byte, 0x21 | 0x23..=0x5B | 0x5D..=0x7E);
        if word.is_empty() || !word.bytes().all(valid) {
            return Err(InvalidScopeToken);
        }
        Ok(Self(word.into()))
    }

    /// The word.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for ScopeToken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::borrow::Borrow<str> for ScopeToken {
    fn borrow(&self) -> &str {
        &self.0
    }
}

impl Serialize for ScopeToken {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&self.0)
    }
}

/// A word that is not a `scope-token`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("a scope token is one or more printable ASCII characters without space, quote and backslash")]
pub struct InvalidScopeToken;

/// A set of [`ScopeToken`]s: what a token grants.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct Scope(BTreeSet<ScopeToken>);

impl Scope {
    /// Reads the wire form: words split by single spaces, as [RFC 6749 §3.3] writes them. The empty string is the empty scope.
    ///
    /// # Errors
    ///
    /// [`InvalidScopeToken`] for a leading, trailing or doubled space, and for any byte outside the grammar (tab, newline,
    /// comma-free separators, non-ASCII): a scope that is not understood whole grants nothing.
    ///
    /// [RFC 6749 §3.3]: https://www.rfc-editor.org/rfc/rfc6749#section-3.3
    pub fn parse(text: &str) -> Result<Self, InvalidScopeToken> {
        if text.is_empty() {
            return Ok(Self::default());
        }
        text.split(' ').map(ScopeToken::new).collect::<Result<_, _>>().map(Self)
    }

    /// True when the word is in the set, byte by byte.
    #[must_use]
    pub fn contains(&self, word: &str) -> bool {
        self.0.contains(word)
    }

    /// True when no word is in the set.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// The words in byte order.
    pub fn iter(&self) -> impl Iterator<Item = &ScopeToken> {
        self.0.iter()
    }

    /// The words that both sets hold.
    #[must_use]
    pub fn intersection(&self, other: &Self) -> Self {
        Self(self.0.intersection(&other.0).cloned().collect())
    }

    /// True when every word of this set is in `other`.
    #[must_use]
    pub fn is_subset(&self, other: &Self) -> bool {
        self.0.is_subset(&other.0)
    }
}

impl FromIterator<ScopeToken> for Scope {
    fn from_iter<I: IntoIterator<Item = ScopeToken>>(words: I) -> Self {
        Self(words.into_iter().collect())
    }
}

/// The wire form: words joined by single spaces.
impl fmt::Display for Scope {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, word) in self.0.iter().enumerate() {
            if index > 0 {
                f.write_str(" ")?;
            }
            f.write_str(&word.0)?;
        }
        Ok(())
    }
}

/// A list of words, as policies read it.
impl Serialize for Scope {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_seq(&self.0)
    }
}

/// Which scope a route demands. Never empty: made by [`all_of`] and [`any_of`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ScopeRequirement {
    quantifier: Quantifier,
    words: Scope,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Quantifier {
    All,
    Any,
}

/// Demands every one of the words.
///
/// # Errors
///
/// [`ConfigError::Invalid`] when there is no word (that would let everything pass) or one is not a [`ScopeToken`].
pub fn all_of<W: Into<String>>(words: impl IntoIterator<Item = W>) -> Result<ScopeRequirement, ConfigError> {
    requirement(Quantifier::All, words)
}

/// Demands at least one of the words.
///
/// # Errors
///
/// [`ConfigError::Invalid`] when there is no word or one is not a [`ScopeToken`].
pub fn any_of<W: Into<String>>(words: impl IntoIterator<Item = W>) -> Result<ScopeRequirement, ConfigError> {
    requirement(Quantifier::Any, words)
}

fn requirement<W: Into<String>>(
    quantifier: Quantifier,
    words: impl IntoIterator<Item = W>,
) -> Result<ScopeRequirement, ConfigError> {
    let mut set = BTreeSet::new();
    for word in words {
        let word = word.into();
        match ScopeToken::new(word.clone()) {
            Ok(token) => set.insert(token),
            Err(error) => return Err(ConfigError::invalid("scope", word, error.to_string())),
        };
    }
    if set.is_empty() {
        return Err(ConfigError::invalid(
            "scope",
            "[]",
            "name at least one scope, or use `policy_only` where policy alone decides",
        ));
    }
    Ok(ScopeRequirement { quantifier, words: Scope(set) })
}

impl ScopeRequirement {
    /// True when `scope` satisfies the demand.
    #[must_use]
    pub fn is_met_by(&self, scope: &Scope) -> bool {
        match self.quantifier {
            Quantifier::All => self.words.0.is_subset(&scope.0),
            Quantifier::Any => !self.words.0.is_disjoint(&scope.0),
        }
    }

    /// The words that are demanded, in byte order.
    #[must_use]
    pub fn words(&self) -> &Scope {
        &self.words
    }
}

impl fmt::Display for ScopeRequirement {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.quantifier {
            Quantifier::All => write!(f, "all of {}", self.words),
            Quantifier::Any => write!(f, "any of {}", self.words),
        }
    }
}

/// So that a rule takes both a requirement and the result of making one; the error surfaces when the rules are used.
impl From<ScopeRequirement> for Result<ScopeRequirement, ConfigError> {
    fn from(requirement: ScopeRequirement) -> Self {
        Ok(requirement)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn scope_is_split_on_single_spaces_only() {
        let scope = Scope::parse("jobs:read jobs:write").unwrap();
        assert!(scope.contains("jobs:read") && scope.contains("jobs:write"));
        for odd in [" a", "a ", "a  b", "a\tb", "a\nb", "a\u{a0}b", "a\"b", "a\\b", "é"] {
            assert_eq!(Scope::parse(odd), Err(InvalidScopeToken), "{odd:?}");
        }
        assert!(Scope::parse("").unwrap().is_empty());
    }

    #[test]
    fn prefix_substring_case_and_comma_never_match() {
        let scope = Scope::parse("jobs:read,jobs:write Jobs:Admin").unwrap();
        for word in ["jobs:read", "jobs:write", "jobs", "jobs:admin", ""] {
            assert!(!scope.contains(word), "{word:?}");
        }
    }

    #[test]
    fn all_of_needs_every_word_and_any_of_one() {
        let both = all_of(["a", "b"]).unwrap();
        let either = any_of(["a", "b"]).unwrap();
        let table =
            [("", false, false), ("a", false, true), ("a b", true, true), ("a b c", true, true), ("c", false, false)];
        for (scope, all, any) in table {
            let scope = Scope::parse(scope).unwrap();
            assert_eq!(both.is_met_by(&scope), all, "{scope}");
            assert_eq!(either.is_met_by(&scope), any, "{scope}");
        }
    }

    #[test]
    fn an_empty_or_odd_requirement_does_not_build() {
        let empty = all_of::<&str>([]).unwrap_err().to_string();
        assert!(empty.contains("`scope`") && empty.contains("policy_only"), "{empty}");
        assert!(any_of(["a b"]).is_err());
    }

    #[test]
    fn prints_the_wire_form() {
        assert_eq!(Scope::parse("b a c").unwrap().to_string(), "a b c");
        let word = ScopeToken::new("jobs:read").unwrap();
        assert_eq!((word.as_str(), word.to_string()), ("jobs:read", "jobs:read".to_owned()));
        assert_eq!(all_of(["b", "a"]).unwrap().to_string(), "all of a b");
        assert_eq!(any_of(["b", "a"]).unwrap().to_string(), "any of a b");
    }

    #[test]
    fn policies_read_words_and_lists_of_words() {
        let scope = Scope::parse("b a").unwrap();
        assert_eq!(serde_json::to_string(&scope).unwrap(), r#"["a","b"]"#);
        assert_eq!(serde_json::to_string(&ScopeToken::new("a").unwrap()).unwrap(), r#""a""#);
    }

    #[test]
    fn sets_are_compared_word_by_word() {
        let (both, one, other) = (Scope::parse("a b").unwrap(), Scope::parse("a").unwrap(), Scope::parse("c").unwrap());
        assert_eq!(both.iter().map(ScopeToken::as_str).collect::<Vec<_>>(), ["a", "b"]);
        assert_eq!(both.iter().cloned().collect::<Scope>(), both);
        assert_eq!((both.intersection(&one), both.intersection(&other)), (one.clone(), Scope::default()));
        assert!(one.is_subset(&both) && !both.is_subset(&one) && !other.is_subset(&both));
        assert!(!both.is_empty() && Scope::default().is_empty());
        assert_eq!(all_of(["b", "a"]).unwrap().words(), &both);
    }

    #[test]
    fn a_rule_takes_a_requirement_as_it_is() {
        let requirement = all_of(["a"]).unwrap();
        assert_eq!(Result::from(requirement.clone()).ok(), Some(requirement));
    }
}
