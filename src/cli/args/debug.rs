//! Arguments of `debug`.

use clap::{Args, Subcommand};

/// Arguments of `debug`.
#[derive(Args, Debug, Clone)]
pub struct DebugArgs {
    /// What to do.
    #[command(subcommand)]
    pub command: DebugCommand,
}

/// What to do with steps that failed and were kept.
#[derive(Subcommand, Debug, Clone)]
pub enum DebugCommand {
    /// List the kept steps
    #[command(visible_alias = "list")]
    Ls {
        /// Print one JSON document
        #[arg(long)]
        json: bool,
    },
    /// Run a command in what a step left: with its environment, user, directory, mounts and network
    Exec {
        /// The step, as `debug ls` shows it
        id: String,
        /// Set a variable, too (repeatable)
        #[arg(long, short, value_name = "NAME=VALUE")]
        env: Vec<String>,
        /// The command and its arguments [default: /bin/sh]
        #[arg(trailing_var_arg = true, allow_hyphen_values = true, value_name = "COMMAND")]
        command: Vec<String>,
    },
    /// Delete kept steps
    Rm {
        /// The steps, as `debug ls` shows them
        #[arg(value_name = "ID", required_unless_present = "all")]
        ids: Vec<String>,
        /// All of them
        #[arg(long, conflicts_with = "ids")]
        all: bool,
    },
}
