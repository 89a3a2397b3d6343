use std::{collections::BTreeMap, sync::Arc};

use serde::{Serialize, Serializer};

use crate::random;

/// What this process calls itself in status messages and decision logs: Open Policy Agent's
/// [`labels`](https://www.openpolicyagent.org/docs/configuration#miscellaneous). Cheap to clone; give the same ones to everything that
/// tells of one service.
///
/// There are always an `id`, a random UUID for each `Labels`, and a `version`, that of this crate.
///
/// ```
/// use portcullis::policy::management::Labels;
///
/// let labels = Labels::new().add("app", "orders").add("region", "eu-west-1");
/// assert_eq!((labels.value("app"), labels.value("id").map(str::len)), (Some("orders"), Some(36)));
/// ```
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Labels(Arc<BTreeMap<String, String>>);

impl Labels {
    /// `id` and `version`.
    #[must_use]
    pub fn new() -> Self {
        let version = env!("CARGO_PKG_VERSION").to_owned();
        Self(Arc::new([("id".to_owned(), uuid()), ("version".to_owned(), version)].into()))
    }

    /// Adds one, or replaces the one of this name. `id` and `version` stay as they are.
    #[must_use]
    pub fn add(mut self, name: impl Into<String>, value: impl Into<String>) -> Self {
        let name = name.into();
        if !matches!(&*name, "id" | "version") {
            Arc::make_mut(&mut self.0).insert(name, value.into());
        }
        self
    }

    /// The value of one.
    #[must_use]
    pub fn value(&self, name: &str) -> Option<&str> {
        self.0.get(name).map(String::as_str)
    }

    /// Names and values, by name.
    pub fn iter(&self) -> impl Iterator<Item = (&str, &str)> {
        self.0.iter().map(|(name, value)| (name.as_str(), value.as_str()))
    }
}

impl Default for Labels {
    fn default() -> Self {
        Self::new()
    }
}

impl Serialize for Labels {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        self.0.serialize(serializer)
    }
}

/// [RFC 9562 §5.4](https://www.rfc-editor.org/rfc/rfc9562#section-5.4).
fn uuid() -> String {
    let id = random::hex_128();
    let mut text = String::with_capacity(36);
    for (index, digit) in id.as_str().chars().enumerate() {
        if matches!(index, 8 | 12 | 16 | 20) {
            text.push('-');
        }
        text.push(match index {
            12 => '4',
            16 => match digit.to_digit(16).unwrap_or_default() % 4 {
                0 => '8',
                1 => '9',
                2 => 'a',
                _ => 'b',
            },
            _ => digit,
        });
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_id_is_a_random_uuid_and_stays() {
        let labels = Labels::new();
        let id = labels.value("id").unwrap().to_owned();
        assert_ne!(Some(&*id), Labels::new().value("id"));
        let parts: Vec<_> = id.split('-').map(str::len).collect();
        assert_eq!(parts, [8, 4, 4, 4, 12], "{id}");
        assert!(id.as_bytes()[14] == b'4' && b"89ab".contains(&id.as_bytes()[19]), "{id}");
        let added = labels.add("id", "x").add("version", "x").add("app", "a").add("app", "b");
        assert_eq!(added.value("id"), Some(&*id));
        assert_eq!(added.value("version"), Some(env!("CARGO_PKG_VERSION")));
        assert_eq!(added.iter().count(), 3);
        assert_eq!(serde_json::to_value(&added).unwrap()["app"], "b");
    }
}
