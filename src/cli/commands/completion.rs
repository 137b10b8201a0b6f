//! `completion`: a script for the user's shell.

use clap::CommandFactory;

use super::Context;
use crate::cli::args::{CommandLine, CompletionArgs};
use crate::cli::error::Failure;
use crate::cli::exit::Exit;

pub(super) fn run(args: &CompletionArgs, context: &mut Context) -> Result<Exit, Failure> {
    let mut script = Vec::new();
    clap_complete::generate(args.shell, &mut CommandLine::command(), "pkgbuild", &mut script);
    context.out.text(&String::from_utf8_lossy(&script))?;
    Ok(Exit::Done)
}
