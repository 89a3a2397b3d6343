//! What the control plane is told: `POST <service>/status`.

use std::{
    collections::BTreeMap,
    sync::atomic::{AtomicU64, Ordering},
};

use bytes::Bytes;
use http::{HeaderValue, Method, Request, header::CONTENT_TYPE};
use serde::Serialize;

use super::{BundleStatus, Labels, Resource, Service, ServiceError, check_name};
use crate::{ConfigError, time::UnixTime};

/// Where status messages go, and how many did.
pub(super) struct Reporter {
    service: Service,
    resource: Resource,
    labels: Labels,
    sent: AtomicU64,
    failed: AtomicU64,
}

/// What became of [status messages](https://www.openpolicyagent.org/docs/management-status) so far.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct StatusMetrics {
    /// Those that the service took.
    pub sent: u64,
    /// Those that it did not: it was away, or answered with another status than 2xx.
    pub failed: u64,
}

/// What a plugin of Open Policy Agent says of itself.
#[derive(Clone, Copy, Debug, Serialize)]
#[serde(rename_all = "SCREAMING_SNAKE_CASE")]
pub(super) enum PluginState {
    Ok,
    NotReady,
    Warn,
}

impl Reporter {
    pub(super) fn new(service: Service, partition: Option<&str>, labels: Labels) -> Result<Self, ConfigError> {
        let path = match partition {
            None => "status".to_owned(),
            Some(partition) => {
                check_name("policy.status.partition", partition)?;
                format!("status/{partition}")
            }
        };
        let resource = service.resource("policy.status", &path)?;
        Ok(Self { service, resource, labels, sent: AtomicU64::new(0), failed: AtomicU64::new(0) })
    }

    pub(super) fn metrics(&self) -> StatusMetrics {
        StatusMetrics { sent: self.sent.load(Ordering::Relaxed), failed: self.failed.load(Ordering::Relaxed) }
    }

    /// Tells of this once. What cannot be told is counted, and told with the next change.
    pub(super) async fn tell(&self, bundles: &[BundleStatus], state: PluginState) {
        let told = self.send(message(&self.labels, bundles, state)).await;
        let counter = if told.is_ok() { &self.sent } else { &self.failed };
        let before = counter.fetch_add(1, Ordering::Relaxed);
        if let Err(why) = told {
            // The first one is worth a line; the others are numbers.
            if before == 0 {
                tracing::warn!(service = self.service.name(), why, "the status could not be told");
            } else {
                tracing::debug!(service = self.service.name(), why, "the status could not be told");
            }
        }
    }

    async fn send(&self, body: Bytes) -> Result<(), String> {
        let mut request = Request::new(body);
        *request.method_mut() = Method::POST;
        request.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
        let sending = self.service.send(&self.resource, request, self.service.deadline(), MAX_ANSWER);
        let answer = sending.await.map_err(|error: ServiceError| error.to_string())?;
        let status = answer.status();
        if status.is_success() { Ok(()) } else { Err(format!("the server answered {status}")) }
    }
}

fn message(labels: &Labels, bundles: &[BundleStatus], state: PluginState) -> Bytes {
    #[derive(Serialize)]
    struct Message<'a> {
        labels: &'a Labels,
        bundles: BTreeMap<&'a str, Bundle<'a>>,
        plugins: BTreeMap<&'static str, Plugin>,
    }

    #[derive(Serialize)]
    struct Plugin {
        state: PluginState,
    }

    /// Of what was never done Go says that it was done in year 1.
    #[derive(Serialize)]
    struct Bundle<'a> {
        name: &'a str,
        #[serde(skip_serializing_if = "Option::is_none")]
        active_revision: Option<&'a str>,
        last_successful_activation: Time,
        #[serde(rename = "type")]
        kind: &'static str,
        #[serde(skip_serializing_if = "Option::is_none")]
        size: Option<usize>,
        last_successful_download: Time,
        last_successful_request: Time,
        last_request: Time,
        #[serde(skip_serializing_if = "Option::is_none")]
        code: Option<&'static str>,
        #[serde(skip_serializing_if = "Option::is_none")]
        message: Option<&'a str>,
        #[serde(skip_serializing_if = "Option::is_none")]
        http_code: Option<u16>,
    }

    let bundles = bundles.iter().map(|status| {
        let bundle = Bundle {
            name: &status.name,
            active_revision: status.active_revision.as_deref(),
            last_successful_activation: Time(status.last_successful_activation),
            kind: "snapshot",
            size: status.size,
            last_successful_download: Time(status.last_successful_download),
            last_successful_request: Time(status.last_successful_request),
            last_request: Time(status.last_request),
            code: status.error.as_ref().map(|_| "bundle_error"),
            message: status.error.as_ref().map(|error| error.message.as_str()),
            http_code: status.http_code.filter(|_| status.error.is_some()),
        };
        (status.name.as_str(), bundle)
    });
    let plugins = [("bundle", Plugin { state }), ("status", Plugin { state: PluginState::Ok })].into();
    serde_json::to_vec(&Message { labels, bundles: bundles.collect(), plugins }).unwrap_or_default().into()
}

struct Time(Option<UnixTime>);

impl Serialize for Time {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self.0 {
            Some(time) => time.serialize(serializer),
            None => serializer.serialize_str("0001-01-01T00:00:00Z"),
        }
    }
}

const MAX_ANSWER: usize = 64 * 1024;
