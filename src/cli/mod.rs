//! The `portcullis` command: what operators and authors of policies ask of a policy directory.
//!
//! Nothing here serves, and nothing that serves depends on it. Each subcommand makes a report, which is written as text or as JSON.

mod bench;
mod explain;
mod lint;
mod output;
mod question;
mod test;

use std::{io, path::PathBuf, process::ExitCode};

use clap::{Args, Parser, Subcommand};

use self::output::{Color, Format, Output};
use crate::{
    ConfigError,
    policy::{PolicySet, Rego, RegoBuilder},
};

/// Runs the command with the arguments of the process.
#[doc(hidden)]
#[must_use]
pub fn main() -> ExitCode {
    let Cli { command: Command::Policy { command }, format, color } = Cli::parse();
    let mut output = Output::new(format, color);
    let done = match command {
        PolicyCommand::Explain(arguments) => explain::run(&arguments, &mut output),
        PolicyCommand::Test(arguments) => test::run(&arguments, &mut output),
        PolicyCommand::Lint(arguments) => lint::run(&arguments, &mut output),
        PolicyCommand::Bench(arguments) => bench::run(&arguments, &mut output),
    };
    match done {
        Ok(Verdict::Fine) => ExitCode::SUCCESS,
        Ok(Verdict::Found) => ExitCode::FAILURE,
        // Whoever reads has seen enough to go; whether all was well they have not.
        Err(Failure::Write(error)) if error.kind() == io::ErrorKind::BrokenPipe => ExitCode::FAILURE,
        Err(failure) => {
            output.complain(&failure.to_string());
            if matches!(failure, Failure::Usage(_)) { ExitCode::from(2) } else { ExitCode::FAILURE }
        }
    }
}

/// What a subcommand found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Verdict {
    Fine,
    /// Findings, or tests that failed.
    Found,
}

/// Why a subcommand could not do its work.
#[derive(Debug, thiserror::Error)]
enum Failure {
    #[error("{0}")]
    Usage(String),
    #[error("{0}")]
    Policy(#[from] ConfigError),
    #[error("{0}")]
    Work(String),
    #[error("the output cannot be written: {0}")]
    Write(#[from] io::Error),
}

/// Explains, tests, lints and times Rego policies with the engine that `policy::Rego` serves with.
#[derive(Debug, Parser)]
#[command(name = "portcullis", version, disable_help_subcommand = true, after_help = EXIT_CODES)]
struct Cli {
    #[command(subcommand)]
    command: Command,

    /// How the result is written to standard output: by default as text to a terminal, and as JSON elsewhere.
    #[arg(long, global = true, value_enum, default_value_t = Format::Auto, help_heading = "Output")]
    format: Format,

    /// Whether text has colours. `auto` also obeys NO_COLOR, CLICOLOR and CLICOLOR_FORCE.
    #[arg(long, global = true, value_enum, default_value_t = Color::Auto, help_heading = "Output")]
    color: Color,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Work on a directory of policies.
    Policy {
        #[command(subcommand)]
        command: PolicyCommand,
    },
}

#[derive(Debug, Subcommand)]
enum PolicyCommand {
    /// Say why a policy decides as it does about one question: the value of each rule, and the condition that fails.
    Explain(explain::Arguments),
    /// Run the tests of a policy: rules called `test_…`, also those in `*_test.rego`.
    Test(test::Arguments),
    /// Say everything for which `policy::Rego` would refuse the policy, with file and line.
    Lint(lint::Arguments),
    /// Time decisions, on one thread and on several.
    Bench(bench::Arguments),
}

/// Which policy, and how strictly it is taken.
#[derive(Args, Debug)]
struct Policy {
    /// The directory: every `.rego` file in it, and every `data.json` under the names of its directories.
    #[arg(value_name = "DIR")]
    directory: PathBuf,

    /// The rule that decides.
    #[arg(long, value_name = "PATH", default_value = Rego::DEFAULT_DECISION_PATH)]
    decision_path: String,

    /// Take expressions that decide otherwise here than in Open Policy Agent.
    #[arg(long)]
    relax_parity: bool,

    /// Take `time.now_ns`, `rand.intn` and `uuid.rfc4122`.
    #[arg(long)]
    clock_and_chance: bool,
}

impl Policy {
    fn set(&self) -> Result<PolicySet, ConfigError> {
        PolicySet::from_dir(&self.directory)
    }

    /// As it would serve, but for its time limit: nobody's request waits here.
    fn load(&self) -> Result<Rego, ConfigError> {
        self.builder(self.set()?).build()
    }

    fn builder(&self, set: PolicySet) -> RegoBuilder {
        let mut builder = Rego::builder()
            .with_policies(set)
            .with_decision_path(&self.decision_path)
            .with_time_limit(std::time::Duration::from_secs(1));
        if self.relax_parity {
            builder = builder.dangerous_relax_parity();
        }
        if self.clock_and_chance {
            builder = builder.with_clock_and_chance();
        }
        builder
    }
}

const EXIT_CODES: &str = "Exit codes: 0, the work was done; 1, it could not be done, a test failed, or there are findings; 2, the command \
                          was not understood. What a policy decides plays no part in them.";

#[cfg(test)]
mod tests {
    use clap::CommandFactory as _;

    #[test]
    fn the_arguments_contradict_each_other_nowhere() {
        super::Cli::command().debug_assert();
    }
}
