//! What goes wrong while building, never while serving.

use std::borrow::Cow;

/// A configuration that portcullis refuses to run with.
///
/// Returned only while something is being built. Each variant names the field, the value and the remedy, so that the
/// message alone is enough to mend the configuration.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ConfigError {
    /// A field that has no safe default was left out.
    #[error("`{field}` is missing: {remedy}")]
    Missing {
        /// The field, as a path (`issuer.audience`, `rules[2]`).
        field: Cow<'static, str>,
        /// What to do about it.
        remedy: Cow<'static, str>,
    },
    /// A field holds a value outside its bounds.
    #[error("`{field}` is {value:?}: {remedy}")]
    Invalid {
        /// The field, as a path (`issuer.leeway`, `rules[2]`).
        field: Cow<'static, str>,
        /// The value as configured. Never a secret.
        value: String,
        /// What to do about it.
        remedy: Cow<'static, str>,
    },
    /// Something that the configuration points to could not be read or understood.
    #[error("`{field}` ({value}) cannot be used: {remedy}")]
    Unusable {
        /// The field, as a path (`policy.directory`).
        field: Cow<'static, str>,
        /// The value as configured. Never a secret.
        value: String,
        /// What to do about it.
        remedy: Cow<'static, str>,
        /// Why it could not be used.
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    /// A part that works in the background was built outside a Tokio runtime.
    #[error(
        "`{part}` works in the background and was built outside a Tokio runtime: build it inside `#[tokio::main]` or `Runtime::block_on`"
    )]
    NoRuntime {
        /// The part that needs the runtime.
        part: &'static str,
    },
    /// A feature that the configuration needs was not compiled in.
    #[error("`{field}` needs the feature `{feature}`: add it to the `portcullis` line of Cargo.toml")]
    FeatureMissing {
        /// The field, as a path.
        field: Cow<'static, str>,
        /// The feature by name.
        feature: &'static str,
    },
}

impl ConfigError {
    pub(crate) fn missing(field: impl Into<Cow<'static, str>>, remedy: impl Into<Cow<'static, str>>) -> Self {
        Self::Missing { field: field.into(), remedy: remedy.into() }
    }

    pub(crate) fn invalid(
        field: impl Into<Cow<'static, str>>,
        value: impl Into<String>,
        remedy: impl Into<Cow<'static, str>>,
    ) -> Self {
        Self::Invalid { field: field.into(), value: value.into(), remedy: remedy.into() }
    }

    #[cfg_attr(
        not(any(feature = "rego", feature = "outbound")),
        expect(dead_code, reason = "the parts that call it are not compiled in")
    )]
    pub(crate) fn unusable(
        field: impl Into<Cow<'static, str>>,
        value: impl Into<String>,
        remedy: impl Into<Cow<'static, str>>,
        source: impl Into<Box<dyn std::error::Error + Send + Sync>>,
    ) -> Self {
        Self::Unusable { field: field.into(), value: value.into(), remedy: remedy.into(), source: source.into() }
    }

    /// The field that the error is about, as a path.
    #[must_use]
    pub fn field(&self) -> &str {
        match self {
            Self::Missing { field, .. }
            | Self::Invalid { field, .. }
            | Self::Unusable { field, .. }
            | Self::FeatureMissing { field, .. } => field,
            Self::NoRuntime { part } => part,
        }
    }
}

/// The Tokio runtime that background work is spawned on.
///
/// # Errors
///
/// [`ConfigError::NoRuntime`] outside a runtime.
pub(crate) fn runtime(part: &'static str) -> Result<tokio::runtime::Handle, ConfigError> {
    tokio::runtime::Handle::try_current().map_err(|_| ConfigError::NoRuntime { part })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_message_names_field_value_and_remedy() {
        let error = ConfigError::invalid("issuer.leeway", "300s", "choose at most 120 s");
        assert_eq!(error.to_string(), "`issuer.leeway` is \"300s\": choose at most 120 s");
        assert_eq!(error.field(), "issuer.leeway");
    }

    #[test]
    fn no_runtime_is_an_error_and_not_a_panic() {
        assert!(matches!(runtime("audit"), Err(ConfigError::NoRuntime { part: "audit" })));
    }
}
