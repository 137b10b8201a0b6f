//! Child processes: a clean environment, bounded output, and the end of the child when its owner goes away.

use std::collections::VecDeque;
use std::ffi::OsStr;
use std::io;
use std::process::{ExitStatus, Stdio};

/// The last lines of a stream, bounded in lines and bytes, so that a step which prints gigabytes costs nothing.
#[derive(Clone, Debug)]
pub struct Tail {
    lines: VecDeque<String>,
    partial: Vec<u8>,
    limit: usize,
    total: u64,
}

/// Longest line kept; the rest of a longer line is dropped.
const LONGEST: usize = 4096;

impl Tail {
    /// Returns an empty tail that keeps `limit` lines.
    pub fn new(limit: usize) -> Self {
        Self { lines: VecDeque::with_capacity(limit), partial: Vec::new(), limit, total: 0 }
    }

    /// Adds output as it arrives, in pieces of any size.
    pub fn push(&mut self, bytes: &[u8]) {
        for piece in bytes.split_inclusive(|b| *b == b'\n') {
            let (text, ended) = piece.strip_suffix(b"\n").map_or((piece, false), |text| (text, true));
            let room = LONGEST.saturating_sub(self.partial.len());
            self.partial.extend_from_slice(&text[..text.len().min(room)]);
            if ended {
                self.end_line();
            }
        }
    }

    fn end_line(&mut self) {
        let line = String::from_utf8_lossy(&self.partial).trim_end_matches('\r').to_owned();
        self.partial.clear();
        self.total += 1;
        if self.lines.len() == self.limit {
            self.lines.pop_front();
        }
        self.lines.push_back(line);
    }

    /// Returns the kept lines, oldest first, and how many lines there were in all. An unfinished last line counts.
    pub fn finish(mut self) -> (Vec<String>, u64) {
        if !self.partial.is_empty() {
            self.end_line();
        }
        (self.lines.into(), self.total)
    }
}

/// What a finished child left.
#[derive(Debug)]
pub struct Output {
    /// How it ended.
    pub status: ExitStatus,
    /// Everything it wrote to standard output.
    pub stdout: Vec<u8>,
    /// Everything it wrote to standard error.
    pub stderr: Vec<u8>,
}

/// Runs `program` to its end with `arguments` and `environment` on top of an emptied environment that keeps `PATH` and
/// `HOME`. Standard input is empty.
///
/// # Errors
/// When the program cannot be started; a failing program is not an error here.
#[expect(clippy::disallowed_methods, reason = "what a child inherits is no setting of ours")]
pub fn run(program: &str, arguments: &[&OsStr], environment: &[(&str, &str)]) -> io::Result<Output> {
    let mut command = std::process::Command::new(program);
    command.args(arguments).env_clear().stdin(Stdio::null());
    for key in ["PATH", "HOME"] {
        if let Some(value) = std::env::var_os(key) {
            command.env(key, value);
        }
    }
    let output = command.envs(environment.iter().copied()).output()?;
    Ok(Output { status: output.status, stdout: output.stdout, stderr: output.stderr })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_tail_keeps_the_last_lines_and_counts_all() {
        let mut tail = Tail::new(2);
        for piece in ["a\nb", "b\r\nc\n", "d"] {
            tail.push(piece.as_bytes());
        }
        assert_eq!(tail.finish(), (vec!["c".to_owned(), "d".to_owned()], 4));
    }
}
