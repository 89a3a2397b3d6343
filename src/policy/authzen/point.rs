use std::{borrow::Cow, io::Read as _, path::PathBuf, sync::Arc};

use arc_swap::ArcSwapOption;
use http::{HeaderValue, header::ACCEPT};
use serde::Serialize;

use super::{
    Evaluation, Semantic,
    metadata::{Directory, Endpoints, Fault},
    reply,
};
use crate::{
    ConfigError,
    outbound::OutboundError,
    policy::{
        Decision, PolicyError, PolicyInput, PolicyRevision,
        remote::{Checked, Condition, Link, Secret},
    },
};

/// What a question is made of an input by.
pub(super) type Mapping = Arc<dyn Fn(&PolicyInput) -> Evaluation + Send + Sync>;

/// The decision point: how it is asked, and what is known of it.
pub(super) struct Point {
    pub(super) link: Link,
    /// `None` where nothing is discovered.
    pub(super) directory: Option<Directory>,
    pub(super) endpoints: ArcSwapOption<Endpoints>,
    pub(super) bearer_file: Option<PathBuf>,
    pub(super) mapping: Mapping,
    pub(super) revision: PolicyRevision,
}

impl Point {
    pub(super) fn endpoints(&self) -> Option<Arc<Endpoints>> {
        self.endpoints.load_full()
    }

    pub(super) async fn evaluation(&self, endpoints: &Endpoints, input: &PolicyInput) -> Result<Decision, PolicyError> {
        let question = serde_json::to_vec(&self.mapped(input)).map_err(PolicyError::input)?;
        let question = self.link.question(&endpoints.evaluation, question, input);
        reply::evaluation(&self.link.ask(question).await?, &self.revision)
    }

    pub(super) async fn evaluations(
        &self,
        endpoints: &Endpoints,
        inputs: &[PolicyInput],
        semantic: Semantic,
    ) -> Result<Vec<Decision>, PolicyError> {
        let (Some(uri), Some(first)) = (&endpoints.evaluations, inputs.first()) else {
            let deadline = self.link.deadline();
            let work = tokio::time::timeout(deadline, self.one_by_one(endpoints, inputs, semantic));
            return work.await.unwrap_or_else(|_| Err(PolicyError::timeout(OutboundError::Timeout(deadline))));
        };
        #[derive(Serialize)]
        struct Questions {
            // Each is whole: no decision point has to put one together from defaults.
            evaluations: Vec<Evaluation>,
            options: Options,
        }
        #[derive(Serialize)]
        struct Options {
            evaluations_semantic: Semantic,
        }
        let evaluations = inputs.iter().map(|input| self.mapped(input)).collect();
        let questions = Questions { evaluations, options: Options { evaluations_semantic: semantic } };
        let questions = serde_json::to_vec(&questions).map_err(PolicyError::input)?;
        let questions = self.link.question(uri, questions, first);
        reply::evaluations(&self.link.ask(questions).await?, inputs.len(), semantic, &self.revision)
    }

    async fn one_by_one(
        &self,
        endpoints: &Endpoints,
        inputs: &[PolicyInput],
        semantic: Semantic,
    ) -> Result<Vec<Decision>, PolicyError> {
        let mut decisions = Vec::with_capacity(inputs.len());
        for input in inputs {
            let decision = self.evaluation(endpoints, input).await?;
            let is_last = semantic.stops_at(&decision);
            decisions.push(decision);
            if is_last {
                break;
            }
        }
        Ok(decisions)
    }

    pub(super) async fn preflight(&self) -> Result<(), ConfigError> {
        if !self.check().await? {
            tracing::warn!(
                decision_point = self.revision.as_str(),
                "the policy decision point is not ready: until it is, requests are refused as unavailable"
            );
        }
        Ok(())
    }

    fn mapped(&self, input: &PolicyInput) -> Evaluation {
        (self.mapping)(input).into_legal()
    }

    /// Takes over the token that the file holds now.
    async fn renew_bearer(&self) -> Result<(), Cow<'static, str>> {
        let Some(path) = self.bearer_file.clone() else { return Ok(()) };
        match tokio::task::spawn_blocking(move || bearer(&path)).await {
            Ok(Ok(authorization)) => {
                self.link.set_authorization(authorization);
                Ok(())
            }
            Ok(Err(error)) => Err(error.to_string().into()),
            Err(_) => Err("the bearer token's file could not be read".into()),
        }
    }

    async fn load_metadata(&self, directory: &Directory) -> Result<Result<(), Cow<'static, str>>, ConfigError> {
        let mut question = self.link.look(&directory.uri);
        question.headers_mut().insert(ACCEPT, HeaderValue::from_static("application/json"));
        let answer = match self.link.exchange(question).await {
            Ok(answer) => answer,
            Err(error @ OutboundError::TooLarge(_)) => {
                let remedy = "the metadata is too large: is this the decision point?";
                let uri = directory.uri.to_string();
                return Err(ConfigError::unusable("policy.authzen.metadata", uri, remedy, error));
            }
            Err(error) => {
                return Ok(Err(format!("the decision point cannot be asked for its metadata: {error}").into()));
            }
        };
        match directory.read(&answer) {
            Ok(found) => {
                if self.endpoints().as_deref() != Some(&found) {
                    self.endpoints.store(Some(Arc::new(found)));
                }
                Ok(Ok(()))
            }
            Err(Fault::Away(detail)) => Ok(Err(detail)),
            Err(Fault::Lies(error)) => Err(error),
        }
    }
}

impl Checked for Point {
    fn condition(&self) -> &Condition {
        self.link.condition()
    }

    async fn check(&self) -> Result<bool, ConfigError> {
        let mut found = self.renew_bearer().await;
        if found.is_ok()
            && let Some(directory) = &self.directory
        {
            found = match self.load_metadata(directory).await {
                Ok(found) => found,
                Err(wrong) => {
                    self.condition().checked(Err(wrong.to_string().into()));
                    return Err(wrong);
                }
            };
        }
        let is_ready = found.is_ok();
        self.condition().checked(found);
        Ok(is_ready)
    }
}

/// The token in a file, without the line break that such files end with.
pub(super) fn bearer(path: &std::path::Path) -> Result<HeaderValue, ConfigError> {
    let field = "policy.authzen.bearer_file";
    let mut token = Vec::new();
    let file = std::fs::File::open(path).and_then(|file| file.take(MAX_TOKEN).read_to_end(&mut token));
    file.map_err(|error| {
        let remedy = "give a file that this service can read";
        ConfigError::unusable(field, path.display().to_string(), remedy, error)
    })?;
    Secret(token.trim_ascii_end().to_owned()).authorization(field.to_owned())
}

/// No header is as long.
const MAX_TOKEN: u64 = 64 * 1024;
