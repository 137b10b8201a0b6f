//! Runs of the program under test.

use super::hermetic;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use tempfile::TempDir;

/// The program with a home, a cache and a configuration of its own, all empty at first and removed when dropped.
pub struct Program {
    home: TempDir,
}

impl Program {
    /// Returns the program with an empty home.
    pub fn new() -> Self {
        Self { home: TempDir::new().expect("a temporary directory") }
    }

    /// Returns the home directory: every process and mount of the program names it.
    pub fn home(&self) -> &Path {
        self.home.path()
    }

    /// Returns where the program keeps its cache unless told otherwise.
    pub fn cache(&self) -> PathBuf {
        self.home.path().join(".cache/pkgbuild")
    }

    /// Returns the command `pkgbuild ARGUMENTS` in `directory`, for tests that add to its environment or do not wait for it.
    pub fn command(&self, directory: &Path, arguments: &[&str]) -> Command {
        let mut command = hermetic(env!("CARGO_BIN_EXE_pkgbuild"), self.home.path());
        command.current_dir(directory).args(arguments);
        command
    }

    /// Runs `pkgbuild ARGUMENTS` in `directory` to its end.
    #[track_caller]
    #[must_use = "a run that nobody looks at proves nothing"]
    pub fn run(&self, directory: &Path, arguments: &[&str]) -> Run {
        let output = self.command(directory, arguments).output().expect("the program can be started");
        Run::of(arguments, output)
    }
}

/// A finished run: to be judged by [`Run::success`] or [`Run::exits_with`].
pub struct Run {
    arguments: String,
    code: Option<i32>,
    /// What it printed as its result.
    pub stdout: String,
    /// Progress, logs and errors.
    pub stderr: String,
}

impl Run {
    /// Returns the run of a command that somebody else has started.
    pub fn of(arguments: &[&str], output: Output) -> Self {
        let text = |bytes| String::from_utf8(bytes).expect("the program prints UTF-8");
        Self {
            arguments: arguments.join(" "),
            code: output.status.code(),
            stdout: text(output.stdout),
            stderr: text(output.stderr),
        }
    }

    /// Asserts exit code 0.
    #[track_caller]
    pub fn success(self) -> Self {
        self.exits_with(0)
    }

    /// Asserts the exit code; a run that a signal ended has none.
    #[track_caller]
    pub fn exits_with(self, code: i32) -> Self {
        assert_eq!(self.code, Some(code), "pkgbuild {}\n--- stdout\n{}--- stderr\n{}", self.arguments, self.stdout, self.stderr);
        self
    }

    /// Returns standard output as one JSON document.
    #[track_caller]
    pub fn json(&self) -> serde_json::Value {
        serde_json::from_str(&self.stdout)
            .unwrap_or_else(|error| panic!("{error} in what `{}` printed:\n{}", self.arguments, self.stdout))
    }

    /// Returns the lines of standard output.
    pub fn lines(&self) -> Vec<&str> {
        self.stdout.lines().collect()
    }
}
