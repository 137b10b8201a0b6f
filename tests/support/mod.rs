//! What the integration tests share: git repositories, runs of the program, servers and other tools, all in an
//! environment that knows nothing of the user's own configuration.

mod program;
mod registry;
mod repository;
mod setup;

pub use program::{Program, Run};
pub use registry::{Registry, Request};
pub use repository::Repository;
pub use setup::Setup;

use std::ffi::OsStr;
use std::path::Path;
use std::process::Command;

/// Returns a command whose environment is empty but for `PATH` and what makes tools print the same everywhere, with `home`
/// as the home directory.
fn hermetic(program: impl AsRef<OsStr>, home: &Path) -> Command {
    let mut command = Command::new(program);
    command
        .env_clear()
        .env("HOME", home)
        .env("LC_ALL", "C.UTF-8")
        .env("TZ", "UTC")
        .env("PATH", variable("PATH").expect("PATH is set"));
    command
}

/// Returns an environment variable; an empty one counts as unset.
#[expect(clippy::disallowed_methods, reason = "the tests have no settings module; this is the one place that reads it")]
pub fn variable(name: &str) -> Option<String> {
    std::env::var(name).ok().filter(|value| !value.is_empty())
}

/// Runs `command` and returns its standard output without the last line break; panics with both streams when it fails.
#[track_caller]
fn output_of(command: &mut Command) -> String {
    let output = command.output().unwrap_or_else(|error| panic!("cannot run {command:?}: {error}"));
    let stdout = String::from_utf8(output.stdout).expect("tools print UTF-8 here");
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{command:?}: {}\n{stdout}\n{stderr}", output.status);
    stdout.trim_end_matches('\n').to_owned()
}
