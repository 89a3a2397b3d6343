//! The tour: real requests, and for each of them the answer and the audit record, laid out for a person.

mod paper;
mod sink;
mod stops;

use std::time::Duration;

pub use paper::Paper;
pub use sink::Notebook;
pub use stops::{Callers, keep_serving, stops};

/// One stop of the tour: a request, and what is announced about its answer.
pub struct Stop {
    /// What is being tried, in a sentence.
    pub title: &'static str,
    /// Who is asking, for the reader.
    pub caller: &'static str,
    pub method: &'static str,
    pub path: &'static str,
    /// The whole `Authorization` value.
    pub authorization: Option<String>,
    pub headers: &'static [(&'static str, &'static str)],
    pub body: Option<&'static str>,
    pub expected: Expected,
}

/// What the tour announces.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct Expected {
    pub status: u16,
    /// `decision` of the audit record.
    pub decision: &'static str,
    /// `reason` of the audit record; empty for none.
    pub reason: &'static str,
}

/// What came back.
pub struct Answer {
    pub status: u16,
    pub headers: Vec<(String, String)>,
    pub body: String,
    pub record: Option<serde_json::Value>,
}

impl Answer {
    fn text(&self, member: &str) -> &str {
        self.record.as_ref().and_then(|record| record.get(member)?.as_str()).unwrap_or_default()
    }

    pub fn is(&self, expected: Expected) -> bool {
        self.status == expected.status
            && self.text("decision") == expected.decision
            && self.text("reason") == expected.reason
    }
}

/// Walks the tour; true when every answer was the announced one.
pub async fn walk(
    base: &str,
    stops: &[Stop],
    notebook: &Notebook,
    paper: &Paper,
) -> Result<bool, Box<dyn std::error::Error>> {
    let client = reqwest::Client::builder().redirect(reqwest::redirect::Policy::none()).no_proxy().build()?;
    let mut lines = Vec::new();
    for (index, stop) in stops.iter().enumerate() {
        let answer = ask(&client, base, stop, notebook).await?;
        paper.stop(index + 1, stop, &answer);
        lines.push((stop, answer));
    }
    paper.table(&lines);
    Ok(lines.iter().all(|(stop, answer)| answer.is(stop.expected)))
}

async fn ask(
    client: &reqwest::Client,
    base: &str,
    stop: &Stop,
    notebook: &Notebook,
) -> Result<Answer, Box<dyn std::error::Error>> {
    let mut request = client.request(stop.method.parse()?, format!("{base}{}", stop.path));
    if let Some(authorization) = &stop.authorization {
        request = request.header("authorization", authorization);
    }
    for (name, value) in stop.headers {
        request = request.header(*name, *value);
    }
    if let Some(body) = stop.body {
        request = request.header("content-type", "application/json").body(body);
    }
    let response = request.timeout(Duration::from_secs(5)).send().await?;
    let status = response.status().as_u16();
    let headers: Vec<(String, String)> = response
        .headers()
        .iter()
        .map(|(name, value)| (name.to_string(), String::from_utf8_lossy(value.as_bytes()).into_owned()))
        .collect();
    let body = response.text().await?;
    let request_id =
        headers.iter().find(|(name, _)| name == "x-request-id").map(|(_, value)| value.clone()).unwrap_or_default();
    let record = notebook.record_of(&request_id, Duration::from_secs(2)).await;
    Ok(Answer { status, headers, body, record })
}
