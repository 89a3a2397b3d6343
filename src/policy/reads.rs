use std::{collections::BTreeMap, fmt, sync::Arc};

/// What of a [`PolicyInput`](super::PolicyInput) a policy's decisions depend on. Cheap to clone.
///
/// ```
/// use portcullis::policy::Reads;
///
/// let reads = Reads::paths([&["subject", "id"][..], &["resource"][..]]);
/// assert_eq!(reads.to_string(), "resource, subject.id");
/// ```
#[derive(Clone, PartialEq, Eq)]
pub struct Reads(Kind);

#[derive(Clone, PartialEq, Eq)]
enum Kind {
    Paths(Arc<Members>),
    MoreThanTheInput,
}

/// The members of an object that are read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Members {
    All,
    Some(BTreeMap<Box<str>, Self>),
}

impl Reads {
    /// The whole input, or parts of it that nobody knows. A request's id and time are parts of it, so that no two questions are equal.
    #[must_use]
    pub fn everything() -> Self {
        Self(Kind::Paths(Arc::new(Members::All)))
    }

    /// What stands at these paths, and nothing else. A path that ends at an object means everything in it.
    #[must_use]
    pub fn paths<'a>(paths: impl IntoIterator<Item = &'a [&'a str]>) -> Self {
        let mut members = Members::Some(BTreeMap::new());
        for path in paths {
            members.add(path);
        }
        Self(Kind::Paths(Arc::new(members)))
    }

    /// Something beside the input, such as the time or another server: an equal question need not have an equal answer.
    #[must_use]
    pub const fn more_than_the_input() -> Self {
        Self(Kind::MoreThanTheInput)
    }

    /// All that any of them reads.
    pub(super) fn union<'a>(all: impl IntoIterator<Item = &'a Self>) -> Self {
        let mut union = Members::Some(BTreeMap::new());
        for reads in all {
            match reads.members() {
                Some(members) => union.merge(members),
                None => return Self::more_than_the_input(),
            }
        }
        Self(Kind::Paths(Arc::new(union)))
    }

    /// `None` when the input does not determine the decision.
    pub(super) fn members(&self) -> Option<&Members> {
        match &self.0 {
            Kind::Paths(members) => Some(members),
            Kind::MoreThanTheInput => None,
        }
    }
}

impl Members {
    fn add(&mut self, path: &[&str]) {
        match (self, path) {
            (Self::All, _) => {}
            (whole, []) => *whole = Self::All,
            (Self::Some(members), [first, rest @ ..]) => {
                members.entry((*first).into()).or_insert_with(|| Self::Some(BTreeMap::new())).add(rest);
            }
        }
    }

    fn merge(&mut self, other: &Self) {
        match (self, other) {
            (Self::All, _) => {}
            (whole, Self::All) => *whole = Self::All,
            (Self::Some(members), Self::Some(others)) => {
                for (name, other) in others {
                    members.entry(name.clone()).or_insert_with(|| Self::Some(BTreeMap::new())).merge(other);
                }
            }
        }
    }

    fn write(&self, way: &str, text: &mut Vec<String>) {
        match self {
            Self::All => text.push(if way.is_empty() { "everything".to_owned() } else { way.to_owned() }),
            Self::Some(members) => {
                for (name, below) in members {
                    let way = if way.is_empty() { name.to_string() } else { format!("{way}.{name}") };
                    below.write(&way, text);
                }
            }
        }
    }
}

/// The paths, for operators.
impl fmt::Display for Reads {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.members() {
            None => f.write_str("more than the input"),
            Some(members) => {
                let mut text = Vec::new();
                members.write("", &mut text);
                f.write_str(&text.join(", "))
            }
        }
    }
}

impl fmt::Debug for Reads {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Reads({self})")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_longer_path_adds_nothing_to_a_shorter_one_whichever_comes_first() {
        let (short, long): (&[&str], &[&str]) = (&["subject"], &["subject", "id"]);
        for paths in [[short, long], [long, short]] {
            assert_eq!(Reads::paths(paths), Reads::paths([short]));
        }
        assert_eq!(Reads::paths([&[][..]]), Reads::everything());
        assert_ne!(Reads::paths([long]), Reads::paths([short]));
    }

    #[test]
    fn a_union_reads_what_any_of_them_reads() {
        let (id, subject, action) =
            (Reads::paths([&["subject", "id"][..]]), Reads::paths([&["subject"][..]]), Reads::paths([&["action"][..]]));
        assert_eq!(Reads::union([&id, &action]).to_string(), "action, subject.id");
        assert_eq!(Reads::union([&id, &subject]), subject);
        assert_eq!(Reads::union([&id, &Reads::everything()]), Reads::everything());
        assert_eq!(Reads::union([&id, &Reads::more_than_the_input()]), Reads::more_than_the_input());
        assert_eq!(Reads::union([]), Reads::paths([]));
    }

    #[test]
    fn it_says_what_is_read() {
        assert_eq!(Reads::everything().to_string(), "everything");
        assert_eq!(Reads::more_than_the_input().to_string(), "more than the input");
        assert_eq!(Reads::paths([]).to_string(), "");
    }
}
