//! `portcullis policy explain`.

use std::{
    fs,
    io::{self, Read as _},
    path::{Path, PathBuf},
};

use clap::Args;

use super::{
    Failure, Policy, Verdict,
    output::Output,
    question::{self, Question},
};
use crate::{audit::visible, policy::Recorded};

/// One question to a policy, recorded or made up.
#[derive(Args, Debug)]
#[command(after_help = EXAMPLES)]
pub(super) struct Arguments {
    #[command(flatten)]
    policy: Policy,

    /// A recorded question: an input document, an event of Open Policy Agent's decision log, or such events one per line; `-` reads
    /// standard input.
    #[arg(long, short, value_name = "FILE", conflicts_with_all = question::ARGUMENTS)]
    input: Option<PathBuf>,

    /// Which of several recorded events.
    #[arg(long, value_name = "ID", requires = "input")]
    decision_id: Option<String>,

    #[command(flatten)]
    question: Question,
}

pub(super) fn run(arguments: &Arguments, output: &mut Output) -> Result<Verdict, Failure> {
    let Arguments { policy, input, decision_id, question } = arguments;
    let recorded = match input {
        Some(file) => pick(read_questions(file)?, decision_id.as_deref())?,
        None => question.recorded()?,
    };
    let rego = policy.load()?;
    let explanation = rego.explain(&recorded);
    if output.is_text() {
        output.text(&explanation.text(output.paint()))?;
    } else {
        output.json(&explanation)?;
    }
    Ok(Verdict::Fine)
}

/// Reads a file of one JSON document, of several, or of an array of them, as decision logs are uploaded.
pub(super) fn read_questions(file: &Path) -> Result<Vec<Recorded>, Failure> {
    let named = |what: &str| Failure::Work(format!("{}: {what}", file.display()));
    let mut text = String::new();
    if file == Path::new("-") {
        io::stdin().read_to_string(&mut text).map_err(|error| named(&error.to_string()))?;
    } else {
        text = fs::read_to_string(file).map_err(|error| named(&error.to_string()))?;
    }
    let mut questions = Vec::new();
    for (number, value) in serde_json::Deserializer::from_str(&text).into_iter::<serde_json::Value>().enumerate() {
        let value =
            value.map_err(|error| named(&format!("not JSON at line {}, column {}", error.line(), error.column())))?;
        let values = match value {
            serde_json::Value::Array(values) => values,
            value => vec![value],
        };
        for value in values {
            let question =
                Recorded::from_value(value).map_err(|error| named(&format!("document {}: {error}", number + 1)))?;
            questions.push(question);
        }
    }
    Ok(questions)
}

fn pick(questions: Vec<Recorded>, decision_id: Option<&str>) -> Result<Recorded, Failure> {
    let several = questions.len();
    let ids = || {
        let ids: Vec<_> = questions.iter().filter_map(Recorded::decision_id).map(visible).collect();
        let shown = ids.iter().take(SHOWN_IDS).map(String::as_str).collect::<Vec<_>>().join(", ");
        if ids.len() > SHOWN_IDS { format!("{shown}, …") } else { shown }
    };
    let refused = match decision_id {
        Some(id) => match questions.iter().find(|question| question.decision_id() == Some(id)) {
            Some(question) => return Ok(question.clone()),
            None => format!("no decision {} among these: {}", visible(id), ids()),
        },
        None if several == 1 => String::new(),
        None if several == 0 => "there is no question in the input".to_owned(),
        None => format!("{several} questions: choose one with `--decision-id`, of these: {}", ids()),
    };
    match (refused.is_empty(), questions.into_iter().next()) {
        (true, Some(question)) => Ok(question),
        _ => Err(Failure::Usage(refused)),
    }
}

const SHOWN_IDS: usize = 10;

const EXAMPLES: &str = "Examples:
  portcullis policy explain policy/ --input question.json
  zcat decisions.jsonl.gz | portcullis policy explain policy/ --input - --decision-id 4ca636c1
  portcullis policy explain policy/ --method GET --path /jobs/1 --route '/jobs/{id}' \\
      --subject 'auth0|alice' --scope jobs:read

Exit code 0 whatever the policy decides, 1 when it cannot be asked, 2 when the command was not understood.";

#[cfg(test)]
mod tests {
    use std::io::Write as _;

    use super::*;

    fn read(text: &str) -> Result<Vec<Recorded>, Failure> {
        let mut file = tempfile::NamedTempFile::new().unwrap();
        file.write_all(text.as_bytes()).unwrap();
        read_questions(file.path())
    }

    #[test]
    fn one_document_several_and_an_array_are_read() {
        let event = |id: &str| format!(r#"{{"decision_id": "{id}", "input": {{"n": "{id}"}}}}"#);
        let (a, b) = (event("a"), event("b"));
        for text in [format!("{a}\n{b}\n"), format!("[{a}, {b}]"), format!("{a}{b}")] {
            let questions = read(&text).unwrap();
            assert_eq!(pick(questions.clone(), Some("b")).unwrap().input()["n"], "b");
            let error = pick(questions, None).unwrap_err().to_string();
            assert!(error.contains("--decision-id") && error.contains("a, b"), "{error}");
        }
        assert!(pick(read(&a).unwrap(), None).is_ok());
        assert!(pick(read(&a).unwrap(), Some("c")).unwrap_err().to_string().contains("no decision c"));
        assert!(matches!(pick(read("").unwrap(), None), Err(Failure::Usage(_))));
    }

    #[test]
    fn what_is_not_json_is_not_quoted() {
        let error = read("{\"password\": \"s3cret\" oops}").unwrap_err().to_string();
        assert!(error.contains("line 1, column") && !error.contains("s3cret"), "{error}");
    }
}
