use std::io::IsTerminal as _;

use serde_json::Value;

use super::{Answer, Stop};

/// Prints for a person: in colour on a terminal that wants it, plain elsewhere.
#[derive(Clone, Copy)]
pub struct Paper {
    colour: bool,
}

const BOLD: &str = "1";
const DIM: &str = "2";
const RED: &str = "31";
const GREEN: &str = "32";
const YELLOW: &str = "33";
const CYAN: &str = "36";

impl Paper {
    pub fn stdout() -> Self {
        Self { colour: std::io::stdout().is_terminal() && std::env::var_os("NO_COLOR").is_none() }
    }

    fn paint(self, style: &str, text: &str) -> String {
        if self.colour { format!("\x1b[{style}m{text}\x1b[0m") } else { text.to_owned() }
    }

    pub fn headline(self, text: &str) {
        println!("\n{}", self.paint(BOLD, text));
    }

    pub fn line(self, text: &str) {
        println!("  {text}");
    }

    /// One stop: what is tried, the request, the answer, the audit record.
    pub fn stop(self, number: usize, stop: &Stop, answer: &Answer) {
        println!("\n{} {}", self.paint(DIM, &format!("{number:>2}")), self.paint(BOLD, stop.title));
        println!(
            "   {} {:<5} {:<14} {}",
            self.paint(CYAN, "request"),
            stop.method,
            stop.path,
            self.paint(DIM, stop.caller)
        );
        println!("   {} {}", self.paint(CYAN, "answer "), self.answer(answer));
        match &answer.record {
            Some(record) => self.record_at("   ", record),
            None => println!("   {} {}", self.paint(CYAN, "audit  "), self.paint(RED, "no record")),
        }
    }

    fn answer(self, answer: &Answer) -> String {
        let shown = ["www-authenticate", "location", "retry-after"];
        let headers: String = answer
            .headers
            .iter()
            .filter(|(name, _)| shown.contains(&name.as_str()))
            .map(|(name, value)| format!("\n           {}", self.paint(DIM, &format!("{name}: {value}"))))
            .collect();
        format!("{} {}{headers}", self.status(answer.status), body(&answer.body))
    }

    fn status(self, status: u16) -> String {
        let style = match status {
            200..=299 => GREEN,
            300..=399 => CYAN,
            500..=599 => RED,
            _ => YELLOW,
        };
        self.paint(style, &status.to_string())
    }

    /// One audit record, and what it is about.
    pub fn record(self, record: &Value) {
        let route = record.get("route").and_then(|route| route.get("template")?.as_str()).unwrap_or("no route");
        let method = record.get("method").and_then(Value::as_str).unwrap_or("-");
        println!("\n{} {method} {route}", self.paint(CYAN, "request"));
        self.record_at("", record);
    }

    fn record_at(self, indent: &str, record: &Value) {
        let text = |member: &str| record.get(member).and_then(Value::as_str).unwrap_or("-").to_owned();
        let short = |member: &str| text(member).chars().take(10).collect::<String>();
        let decision = match text("decision").as_str() {
            "allow" => self.paint(GREEN, "allow"),
            "deny" => self.paint(YELLOW, "deny"),
            other => self.paint(RED, other),
        };
        let why = record
            .get("reason")
            .and_then(Value::as_str)
            .map(|reason| format!(" {}", self.paint(YELLOW, reason)))
            .unwrap_or_default();
        let exp = record.get("exp").and_then(Value::as_u64).map_or_else(|| "-".to_owned(), |exp| exp.to_string());
        println!("{indent}{} {decision}{why} at stage {}", self.paint(CYAN, "audit  "), text("stage"));
        let facts = format!(
            "jti {} · user_id {} · thumbprint {} · exp {exp}",
            short("jti"),
            text("user_id"),
            short("thumbprint")
        );
        println!("{indent}        {}", self.paint(DIM, &facts));
        if let Some(policy) = record.get("policy").and_then(Value::as_object) {
            let member = |name: &str| {
                policy.get(name).and_then(Value::as_str).unwrap_or("-").chars().take(22).collect::<String>()
            };
            let facts = format!(
                "policy {} · revision {} · decision {}",
                member("effect"),
                member("revision"),
                member("decision_id")
            );
            println!("{indent}        {}", self.paint(DIM, &facts));
        }
    }

    /// The tour in a table.
    pub fn table(self, lines: &[(&Stop, Answer)]) {
        println!("\n{}", self.paint(BOLD, "The tour"));
        let title = lines.iter().map(|(stop, _)| stop.title.chars().count()).max().unwrap_or_default();
        let reason = lines.iter().map(|(_, answer)| answer.text("reason").len()).max().unwrap_or_default().max(6);
        println!("  {}", self.paint(DIM, &format!("{:<title$}  announced  answered  {:<reason$}", "", "reason")));
        for (stop, answer) in lines {
            let verdict =
                if answer.is(stop.expected) { self.paint(GREEN, "as announced") } else { self.paint(RED, "DIFFERS") };
            let why = answer.text("reason");
            println!(
                "  {:<title$}  {:<9}  {:<8}  {:<reason$}  {verdict}",
                stop.title,
                stop.expected.status,
                answer.status,
                if why.is_empty() { "-" } else { why },
            );
        }
        let kept = lines.iter().filter(|(stop, answer)| answer.is(stop.expected)).count();
        let sum = format!("{kept} of {} answers as announced", lines.len());
        println!("\n  {}", self.paint(if kept == lines.len() { GREEN } else { RED }, &sum));
    }
}

/// The body on one line, cut to what a line holds.
fn body(text: &str) -> String {
    let line = text.split_whitespace().collect::<Vec<_>>().join(" ");
    if line.chars().count() > 90 { format!("{}…", line.chars().take(90).collect::<String>()) } else { line }
}
