//! Whether a part of the stack can do its work.

use std::{borrow::Cow, fmt};

use serde::Serialize;

/// Whether a part of the stack can do its work now. For operators and readiness probes; never shown to callers.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(tag = "state", content = "detail", rename_all = "snake_case")]
#[non_exhaustive]
pub enum Health {
    /// It works.
    Ready,
    /// It works, but something that it needs does not: it lives on what it has.
    Degraded(Cow<'static, str>),
    /// It does not work: requests that need it are answered 503.
    Unavailable(Cow<'static, str>),
}

impl Health {
    /// True unless [`Unavailable`](Self::Unavailable).
    #[must_use]
    pub fn is_serving(&self) -> bool {
        !matches!(self, Self::Unavailable(_))
    }
}

impl fmt::Display for Health {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Ready => f.write_str("ready"),
            Self::Degraded(detail) => write!(f, "degraded: {detail}"),
            Self::Unavailable(detail) => write!(f, "unavailable: {detail}"),
        }
    }
}
