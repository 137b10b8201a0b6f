//! One file for each command: from its arguments and the settings to results on standard output.

mod build;
mod cache;
mod cache_content;
mod cache_gc;
mod completion;
mod debug;
mod doctor;
mod graph;
mod inspect;
mod lint;
mod man;
mod manifest;
mod plan;
mod remote_tag;
mod show_tag;
mod verify_repro;

use super::args::{Command, CommandLine};
use super::error::Failure;
use super::exit::Exit;
use super::output::Output;
use super::settings::Settings;

/// What every command has at hand.
pub struct Context {
    /// What flags, environment and defaults say.
    pub settings: Settings,
    /// Where results go.
    pub out: Output,
}

/// Carries out a command.
///
/// # Errors
/// Whatever stops it; what it printed until then stands.
pub fn run(line: CommandLine, context: &mut Context) -> Result<Exit, Failure> {
    match line.command {
        Command::Build(args) => build::run(*args, false, context),
        Command::Push(args) => build::run(*args, true, context),
        Command::Plan(args) => plan::run(&args, context),
        Command::Cache(args) => cache::run(args.command, context),
        Command::Debug(args) => debug::run(args.command, context),
        Command::Inspect(args) => inspect::run(&args, context),
        Command::Lint(args) => lint::run(&args, context),
        Command::Doctor(args) => doctor::run(&args, context),
        Command::Graph(args) => graph::run(&args, context),
        Command::Completion(args) => completion::run(&args, context),
        Command::Manifest(args) => manifest::run(&args, context),
        Command::RemoteTag(args) => remote_tag::run(&args, context),
        Command::Man(args) => man::run(&args, context),
        Command::ShowTag(args) => show_tag::run(&args, context),
        Command::VerifyRepro(args) => verify_repro::run(&args, context),
    }
}

/// Runs asynchronous work to its end on a runtime of its own. Commands that need none never start one.
///
/// # Errors
/// Those of the work, and when the system gives us no threads.
pub(super) fn block_on<T>(work: impl Future<Output = Result<T, Failure>>) -> Result<T, Failure> {
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().map_err(Failure::Runtime)?;
    let result = runtime.block_on(work);
    // After a second interrupt something may still hold a thread; nobody waits for it any more.
    runtime.shutdown_background();
    result
}
