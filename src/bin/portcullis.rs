//! The `portcullis` command. See `portcullis --help`.

fn main() -> std::process::ExitCode {
    portcullis::cli::main()
}
