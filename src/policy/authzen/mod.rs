//! Decisions of any server that speaks the OpenID [AuthZEN Authorization API 1.0].
//!
//! [`AuthZen`] is the backend; an [`Evaluation`] is what it asks.
//!
//! [AuthZEN Authorization API 1.0]: https://openid.net/specs/authorization-api-1_0.html

mod builder;
mod evaluation;
mod metadata;
mod point;
mod reply;

use std::{fmt, sync::Arc};

use async_trait::async_trait;

pub use self::{
    builder::AuthZenBuilder,
    evaluation::{Action, Entity, Evaluation, Semantic},
};
use self::{metadata::Endpoints, point::Point};
use super::{
    Decision, PolicyBackend, PolicyError, PolicyInput,
    remote::{Checked as _, Watch},
};
use crate::{ConfigError, health::Health};

/// Asks a policy decision point over the OpenID [AuthZEN Authorization API 1.0].
///
/// ```
/// # tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap().block_on(async {
/// use std::sync::Arc;
/// use bytes::Bytes;
/// use http::{Request, Response};
/// use portcullis::{outbound::{Outbound, OutboundError}, policy::{AuthZen, Effect, PolicyBackend, authzen::Evaluation}};
///
/// // In place of a server: it lets whoever asks read, and nobody write.
/// let pdp = Outbound::new(tower::service_fn(|question: Request<Bytes>| async move {
///     assert_eq!(question.uri(), "https://pdp.example/access/v1/evaluation");
///     let question: serde_json::Value = serde_json::from_slice(question.body()).unwrap();
///     let answer = serde_json::json!({"decision": question["action"]["name"] == "GET"}).to_string();
///     let answer = Response::builder().header("content-type", "application/json").body(Bytes::from(answer));
///     answer.map_err(|error| OutboundError::Exchange(error.into()))
/// }));
/// let backend = AuthZen::builder("https://pdp.example")
///     .without_discovery()
///     .with_mapping(Evaluation::gateway)
///     .with_outbound(pdp)
///     .build()?;
/// let backend = Arc::new(backend);
/// # #[cfg(feature = "testing")] {
/// use portcullis::testing::policy_input;
///
/// let read = Arc::clone(&backend).decide(policy_input("GET", "/todos")).await?;
/// assert_eq!(read.effect(), Effect::Allow);
/// assert_eq!(read.revision().as_str(), "authzen:https://pdp.example");
/// let write = backend.decide(policy_input("POST", "/todos")).await?;
/// assert_eq!(write.effect(), Effect::Deny);
/// # }
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// # }).unwrap();
/// ```
///
/// # What is a decision
///
/// Only a JSON answer with status 200 whose `decision` is `true` or `false`. Everything else (401 and 403, which are about this service and
/// not about the caller, any other status, a redirect, another content type, a repeated member, more than 64 KiB) is a [`PolicyError`].
/// Members that the specification does not know are ignored.
///
/// `context.obligations` become [obligations](super::Obligation): each is named by its `type`, as in the profile for obligations, or else by
/// its `id`, and has its other members as properties (with a `type`, the `id` too). An allow with one that has no handler is a denial. What
/// the context says of reasons (`reason`, `reason_admin`, `reason_user`, `error`) is kept for the audit record. The rest of the
/// context is not read.
///
/// The interface gives a decision neither an id nor the version of the policy: the id is random, and the revision is the decision point itself,
/// `authzen:https://pdp.example`. It does not change with the policy, and so [`Cached`](super::Cached) remembers nothing of this backend.
///
/// # Who decides
///
/// The decision point is named by its identifier, an `https` URL. Its metadata, at `/.well-known/authzen-configuration` between host and path,
/// must name the same identifier, byte for byte, and says which addresses to ask; they must be URLs of the identifier's scheme, but may
/// be on another host, which then gets the credential too. `signed_metadata` is not read: TLS vouches for the document. It is loaded in the
/// background and anew every minute, so that no request waits for it, and what cannot be used never takes the place of what was.
///
/// # What bounds a call, and when it is ready
///
/// One deadline, a second attempt within it when nothing was answered, room for so many calls, half of it for anonymous
/// callers, and a breaker ([`AuthZenBuilder::with_breaker`]), as for `policy::Opa`. Before the metadata was loaded once it is unavailable, and so are decisions.
///
/// [AuthZEN Authorization API 1.0]: https://openid.net/specs/authorization-api-1_0.html
pub struct AuthZen {
    point: Arc<Point>,
    watch: Watch,
}

impl AuthZen {
    /// How many questions [`evaluations`](Self::evaluations) takes at once: so many decisions with reasons and obligations are read whole.
    pub const MAX_EVALUATIONS: usize = 50;

    /// Starts with the identifier of the decision point: `https`, or `http` to this machine. Or `unix:///path/to.sock`, where nothing is
    /// discovered: the default paths are asked.
    pub fn builder(identifier: impl Into<String>) -> AuthZenBuilder {
        AuthZenBuilder::new(identifier.into())
    }

    /// Decides several calls, in one exchange where the decision point has an Access Evaluations API, and one after the other where its
    /// metadata names none; in either case within one deadline and as one call in flight.
    ///
    /// The decisions are in the order of the inputs. There is one for each, except where `semantic` stopped earlier: then the last one is
    /// the one that it stopped at, and **nothing was decided about the inputs after it**. Each is to be [enforced](Decision::enforce) by
    /// itself, with its obligations.
    ///
    /// # Errors
    ///
    /// [`PolicyError`] when there are no inputs or more than [`MAX_EVALUATIONS`](Self::MAX_EVALUATIONS), when any of the decisions cannot be
    /// had, and when there are fewer of them than `semantic` explains: what some of the inputs are allowed is then not known.
    pub async fn evaluations(&self, inputs: &[PolicyInput], semantic: Semantic) -> Result<Vec<Decision>, PolicyError> {
        let (Some(first), ..=Self::MAX_EVALUATIONS) = (inputs.first(), inputs.len()) else {
            return Err(PolicyError::input(format!("{} questions: ask 1 to {}", inputs.len(), Self::MAX_EVALUATIONS)));
        };
        let endpoints = self.endpoints()?;
        // Whoever is anonymous in it must not take the others' room.
        let caller = inputs.iter().find(|input| input.subject.r#type == "anonymous").unwrap_or(first);
        self.point.link.call(caller, self.point.evaluations(&endpoints, inputs, semantic)).await
    }

    /// Not known yet is no failure of a call: nobody was asked.
    fn endpoints(&self) -> Result<Arc<Endpoints>, PolicyError> {
        self.watch.ensure(&self.point);
        self.point
            .endpoints()
            .ok_or_else(|| PolicyError::unavailable("the decision point's metadata was not loaded yet"))
    }
}

#[async_trait]
impl PolicyBackend for AuthZen {
    async fn decide(self: Arc<Self>, input: PolicyInput) -> Result<Decision, PolicyError> {
        let endpoints = self.endpoints()?;
        self.point.link.call(&input, self.point.evaluation(&endpoints, &input)).await
    }

    /// Loads the metadata: what it should not say is an error, a decision point that is away is none. Nothing is decided.
    async fn preflight(self: Arc<Self>) -> Result<(), ConfigError> {
        self.point.preflight().await?;
        self.watch.ensure(&self.point);
        Ok(())
    }

    /// Unavailable until the metadata was loaded once, whenever it could not be loaded last and no decision was made since, and while the
    /// breaker refuses all calls. Degraded when the last call failed. The first look starts the loading, where there is a Tokio runtime.
    fn health(&self) -> Health {
        self.watch.ensure(&self.point);
        self.point.condition().health()
    }
}

impl fmt::Debug for AuthZen {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("AuthZen")
            .field("revision", &self.point.revision)
            .field("deadline", &self.point.link.deadline())
            .field("max_in_flight", &self.point.link.max_in_flight())
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests;
