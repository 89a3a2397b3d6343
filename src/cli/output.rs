//! Results go to standard output, in colour or as JSON; everything else goes to standard error.

use std::io::{self, IsTerminal as _, Write as _};

use anstream::{AutoStream, ColorChoice};
use clap::{
    ValueEnum,
    builder::styling::{AnsiColor, Style},
};
use serde::Serialize;

use crate::{
    audit::visible,
    policy::{Paint, Tone, plain},
};

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(super) enum Format {
    Auto,
    Text,
    Json,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(super) enum Color {
    Auto,
    Always,
    Never,
}

/// Where a subcommand writes.
pub(super) struct Output {
    is_text: bool,
    color: ColorChoice,
    out: Box<dyn io::Write>,
    /// Nobody sees it move elsewhere.
    shows_progress: bool,
}

impl Output {
    pub(super) fn new(format: Format, color: Color) -> Self {
        let color = match color {
            Color::Auto => AutoStream::choice(&io::stdout()),
            Color::Always => ColorChoice::Always,
            Color::Never => ColorChoice::Never,
        };
        Self {
            is_text: match format {
                Format::Auto => io::stdout().is_terminal(),
                Format::Text => true,
                Format::Json => false,
            },
            color,
            out: Box::new(AutoStream::new(io::stdout(), color)),
            shows_progress: io::stderr().is_terminal(),
        }
    }

    pub(super) const fn is_text(&self) -> bool {
        self.is_text
    }

    pub(super) fn paint(&self) -> Paint {
        if self.color == ColorChoice::Never { plain } else { colored }
    }

    pub(super) fn text(&mut self, text: &str) -> io::Result<()> {
        self.out.write_all(text.as_bytes())?;
        self.out.flush()
    }

    /// One JSON document, with a line end after it.
    pub(super) fn json(&mut self, value: &impl Serialize) -> io::Result<()> {
        let text = serde_json::to_string_pretty(value).map_err(io::Error::other)?;
        self.text(&format!("{text}\n"))
    }

    /// A message that is no part of the result.
    pub(super) fn complain(&mut self, message: &str) {
        self.clear_progress();
        let paint: Paint = if AutoStream::choice(&io::stderr()) == ColorChoice::Never { plain } else { colored };
        // There is nowhere else to complain about that.
        let _ = writeln!(anstream::stderr(), "{} {}", paint(Tone::Bad, "error:"), visible(message));
    }

    pub(super) fn note(&mut self, message: &str) {
        self.clear_progress();
        let _ = writeln!(anstream::stderr(), "{}", visible(message));
    }

    /// What goes on, in the last line of a terminal.
    pub(super) fn progress(&mut self, message: &str) {
        if self.shows_progress {
            let _ = write!(io::stderr(), "\r\u{1b}[2K{message}").and_then(|()| io::stderr().flush());
        }
    }

    pub(super) fn clear_progress(&mut self) {
        self.progress("");
    }
}

pub(super) fn colored(tone: Tone, text: &str) -> String {
    let style = match tone {
        Tone::Title => Style::new().bold().underline(),
        Tone::Good => AnsiColor::Green.on_default().bold(),
        Tone::Bad => AnsiColor::Red.on_default().bold(),
        Tone::Warn => AnsiColor::Yellow.on_default().bold(),
        Tone::Quiet => Style::new().dimmed(),
        Tone::Strong => Style::new().bold(),
    };
    format!("{style}{text}{style:#}")
}

/// `1 test`, `2 tests`.
pub(super) fn count(number: usize, what: &str) -> String {
    format!("{number} {what}{}", if number == 1 { "" } else { "s" })
}
