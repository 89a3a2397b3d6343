use http::StatusCode;

use crate::scope::ScopeRequirement;

/// What a caller may know of a refusal. Made by [`Denial::of`]; private fields, no text of a cause.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Denial {
    class: Class,
    required_scope: Option<ScopeRequirement>,
}

/// The classes of refusal. Inside one class every answer is the same, byte for byte, but for the request id.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Class {
    /// No valid credentials: 401, gRPC 16.
    Unauthenticated {
        /// True when credentials came, which the caller knows.
        credentials_sent: bool,
    },
    /// The request or its credentials cannot be read: 400, gRPC 3.
    Malformed,
    /// Authenticated and refused: 403, gRPC 7.
    Forbidden,
    /// Authenticated and refused, and the route's existence is hidden: 404, gRPC 5.
    Concealed,
    /// Something that the decision needs cannot be had: 503, gRPC 14.
    Unavailable,
    /// A fault of ours: 500, gRPC 13.
    Internal,
}

impl Class {
    /// The HTTP status.
    #[must_use]
    pub const fn http_status(self) -> StatusCode {
        match self {
            Self::Unauthenticated { .. } => StatusCode::UNAUTHORIZED,
            Self::Malformed => StatusCode::BAD_REQUEST,
            Self::Forbidden => StatusCode::FORBIDDEN,
            Self::Concealed => StatusCode::NOT_FOUND,
            Self::Unavailable => StatusCode::SERVICE_UNAVAILABLE,
            Self::Internal => StatusCode::INTERNAL_SERVER_ERROR,
        }
    }

    /// The [gRPC status code](https://grpc.github.io/grpc/core/md_doc_statuscodes.html).
    #[must_use]
    pub const fn grpc_code(self) -> u8 {
        match self {
            Self::Unauthenticated { .. } => 16,
            Self::Malformed => 3,
            Self::Forbidden => 7,
            Self::Concealed => 5,
            Self::Unavailable => 14,
            Self::Internal => 13,
        }
    }

    /// The stable name, as audit records show it.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Unauthenticated { .. } => "unauthenticated",
            Self::Malformed => "malformed",
            Self::Forbidden => "forbidden",
            Self::Concealed => "concealed",
            Self::Unavailable => "unavailable",
            Self::Internal => "internal",
        }
    }
}

impl Denial {
    const fn new(class: Class) -> Self {
        Self { class, required_scope: None }
    }

    pub(super) const fn unauthenticated(credentials_sent: bool) -> Self {
        Self::new(Class::Unauthenticated { credentials_sent })
    }

    pub(super) const fn malformed() -> Self {
        Self::new(Class::Malformed)
    }

    pub(crate) const fn forbidden() -> Self {
        Self::new(Class::Forbidden)
    }

    pub(super) const fn concealed() -> Self {
        Self::new(Class::Concealed)
    }

    pub(super) const fn unavailable() -> Self {
        Self::new(Class::Unavailable)
    }

    pub(crate) const fn internal() -> Self {
        Self::new(Class::Internal)
    }

    /// A concealed route demands nothing that a caller could be told.
    pub(super) fn with_required_scope(mut self, requirement: Option<&ScopeRequirement>) -> Self {
        if self.class == Class::Forbidden {
            self.required_scope = requirement.cloned();
        }
        self
    }

    /// The class.
    #[must_use]
    pub const fn class(&self) -> Class {
        self.class
    }

    /// The scope that the route demands, when that is why: for renderers with [`Disclosure::Guided`](super::Disclosure::Guided).
    #[must_use]
    pub const fn required_scope(&self) -> Option<&ScopeRequirement> {
        self.required_scope.as_ref()
    }
}
