use std::{
    borrow::Cow,
    sync::atomic::{AtomicBool, Ordering},
};

use bytes::Bytes;
use http::{Request, StatusCode, Uri};
use serde::Serialize;

use super::{canary, reply};
use crate::{
    ConfigError,
    policy::{
        Decision, InputFormat, PolicyError, PolicyInput,
        remote::{Checked, Condition, Link},
    },
};

/// The server: how it is asked, and what is known of it.
pub(super) struct Server {
    pub(super) link: Link,
    pub(super) uri: Uri,
    pub(super) health_uri: Uri,
    pub(super) has_checks: bool,
    pub(super) decision_path: String,
    pub(super) format: InputFormat,
    /// The canary was asked for and not answered with a decision yet.
    pub(super) owes_canary: AtomicBool,
    pub(super) canary: PolicyInput,
}

impl Server {
    pub(super) async fn decide(&self, input: &PolicyInput) -> Result<Decision, PolicyError> {
        let question = self.question(input)?;
        reply::read(&self.link.ask(question).await?)
    }

    /// As [`check`](Self::check), and from now on ready only after the canary was answered with a decision.
    pub(super) async fn preflight(&self) -> Result<(), ConfigError> {
        self.owes_canary.store(true, Ordering::Relaxed);
        if !self.check().await? {
            tracing::warn!(
                decision_path = %self.decision_path,
                "the policy server is not ready: until it is, requests are refused as unavailable"
            );
        }
        Ok(())
    }

    /// Whether every bundle was activated. The server's own words stay out: this text is for operators, and theirs is not for us to vouch for.
    async fn health(&self) -> Result<(), Cow<'static, str>> {
        match self.link.exchange(self.link.look(&self.health_uri)).await.map(|answer| answer.status()) {
            Ok(StatusCode::OK) => Ok(()),
            Ok(StatusCode::INTERNAL_SERVER_ERROR) => Err("the server has not activated all of its bundles".into()),
            Ok(status) => Err(format!("the server answered {status} to `/health?bundles`").into()),
            Err(error) => Err(format!("the server cannot be asked for its health: {error}").into()),
        }
    }

    fn question(&self, input: &PolicyInput) -> Result<Request<Bytes>, PolicyError> {
        #[derive(Serialize)]
        struct Question<D> {
            input: D,
        }

        let mut body = Vec::with_capacity(USUAL_QUESTION);
        serde_json::to_writer(&mut body, &Question { input: self.format.document(input) })
            .map_err(PolicyError::evaluation)?;
        Ok(self.link.question(&self.uri, body, input))
    }
}

impl Checked for Server {
    fn condition(&self) -> &Condition {
        self.link.condition()
    }

    /// Finds out whether the server is ready, and where that is owed, whether it decides. An error is nothing that waiting mends.
    async fn check(&self) -> Result<bool, ConfigError> {
        let mut found = if self.has_checks { self.health().await } else { Ok(()) };
        if found.is_ok() && self.owes_canary.load(Ordering::Relaxed) {
            match canary::judge(self.decide(&self.canary).await, &self.decision_path) {
                Ok(answered) => found = answered,
                Err(wrong) => {
                    self.condition().checked(Err(wrong.to_string().into()));
                    return Err(wrong);
                }
            }
            self.owes_canary.store(found.is_err(), Ordering::Relaxed);
        }
        let is_ready = found.is_ok();
        self.condition().checked(found);
        Ok(is_ready)
    }
}

/// In bytes; a larger one costs a move.
const USUAL_QUESTION: usize = 2048;
