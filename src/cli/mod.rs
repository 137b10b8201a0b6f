//! The program's face: words to settings, settings to work, results to standard output, errors to exit codes.

pub mod args;
pub mod argv;
pub mod commands;
pub mod error;
pub mod exit;
pub mod output;
mod packages;
mod prepared;
mod registries;
pub mod settings;
mod steps;
mod variation;

use std::ffi::OsString;
use std::io::{self, BufWriter, Write};
use std::process::ExitCode;

use clap::Parser;

use args::CommandLine;
use argv::normalised;
use commands::Context;
use error::Failure;
use exit::Exit;
use output::Output;
use settings::{Settings, Surroundings};

/// Does what the words say and returns how the program ends.
pub fn run(words: impl IntoIterator<Item = OsString>) -> ExitCode {
    let (called, words) = normalised(words.into_iter().collect());
    let line = match CommandLine::try_parse_from(words) {
        Ok(line) => line,
        Err(error) => {
            // Help goes to standard output and is no mistake.
            let _ = error.print();
            return if error.use_stderr() { Exit::Usage.into() } else { Exit::Done.into() };
        }
    };
    match carry_out(line, called) {
        Ok(exit) => exit.into(),
        // Who closed the pipe has seen enough.
        Err(Failure::Output(error)) if error.kind() == io::ErrorKind::BrokenPipe => Exit::Done.into(),
        Err(failure) => {
            failure.print(&mut io::stderr().lock());
            failure.exit().into()
        }
    }
}

fn carry_out(line: CommandLine, called: argv::CalledAs) -> Result<Exit, Failure> {
    let around = Surroundings::of_process(called).map_err(|source| Failure::File {
        action: "find",
        path: "the current directory".into(),
        source,
    })?;
    let settings = Settings::resolve(&line.global, &around)?;
    tell_of(settings.look.verbosity, settings.quiet);
    let mut context = Context { settings, out: Output::new(Box::new(BufWriter::new(io::stdout()))) };
    let exit = commands::run(line, &mut context)?;
    context.out.flush()?;
    Ok(exit)
}

/// Lets what the modules notice by the way (waiting for a lock, a flush that failed) be seen on standard error: warnings
/// always, more with each `-v`.
fn tell_of(verbosity: u8, quiet: bool) {
    let level = match (quiet, verbosity) {
        (true, _) => "error",
        (false, 0) => "warn",
        (false, 1) => "info",
        (false, _) => "debug",
    };
    // The client of registries would print upload addresses, which carry secrets.
    let filter = tracing_subscriber::EnvFilter::new(format!("off,pkgbuild={level}"));
    let writer = tracing_subscriber::fmt().with_env_filter(filter).with_writer(io::stderr);
    // There is one already when the program's own tests run commands in one process.
    let _ = writer.without_time().with_target(false).try_init();
}

impl Context {
    /// Says something to the user beside the results, unless they want results only.
    fn say(&mut self, line: &str) -> io::Result<()> {
        if self.settings.quiet { Ok(()) } else { self.notice(line) }
    }

    /// Writes a line to standard error.
    fn notice(&mut self, line: &str) -> io::Result<()> {
        // What was printed before is read before.
        self.out.flush()?;
        writeln!(io::stderr().lock(), "{line}")
    }
}
