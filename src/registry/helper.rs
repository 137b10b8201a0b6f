//! Credential helpers: programs named `docker-credential-NAME` that keep logins (Docker's credential helper protocol).
//!
//! `get` takes the server on standard input and answers `{"ServerURL","Username","Secret"}`; the user `<token>` means
//! that the secret is an identity token. The helper's environment is ours: those of clouds find their account in it.

use std::collections::BTreeMap;
use std::io;
use std::path::{Path, PathBuf};
use std::process::{ExitStatus, Stdio};
use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process_group};
use serde::Deserialize;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::process::{Child, Command};

use super::credentials::{Login, Secret};

/// Longest answer that is read.
const ANSWER_LIMIT: u64 = 1 << 20;

/// Why a helper gave no answer.
#[derive(Debug, thiserror::Error)]
pub enum HelperError {
    /// It cannot be started, or its pipes broke.
    #[error("it cannot be run")]
    Run(#[source] io::Error),
    /// It took too long, and was killed.
    #[error("it took longer than {} s", .0.as_secs())]
    Time(Duration),
    /// It failed.
    #[error("it ended with {status}{}{said}", if said.is_empty() { "" } else { ": " })]
    Failed {
        /// How it ended.
        status: ExitStatus,
        /// The first line it printed, unless that may hold a login.
        said: String,
    },
    /// It ended well with something that is no login.
    #[error("its answer is no login")]
    Answer,
}

/// What helpers answered, by program and server: one may take a second, and is asked for many repositories.
pub(super) type Answers = BTreeMap<(PathBuf, String), Option<Login>>;

/// Returns the program of the helper `name`: in the first of `directories` that has it, else to be found by `PATH`.
pub(super) fn program(name: &str, directories: &[PathBuf]) -> PathBuf {
    let program = format!("docker-credential-{name}");
    let found = directories.iter().map(|directory| directory.join(&program)).find(|path| path.exists());
    found.unwrap_or_else(|| program.into())
}

/// Asks the helper `program` for the login of `server`; `None` when it has none.
pub(super) async fn get(program: &Path, server: &str, limit: Duration) -> Result<Option<Login>, HelperError> {
    let mut child = Command::new(program)
        .arg("get")
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        // A helper may be a script: what it started must end with it.
        .process_group(0)
        .kill_on_drop(true)
        .spawn()
        .map_err(HelperError::Run)?;
    let group = child.id().and_then(|id| Pid::from_raw(id as i32));
    let Ok(finished) = tokio::time::timeout(limit, converse(&mut child, server)).await else {
        if let Some(group) = group {
            // Fails only when it has just ended.
            let _ = kill_process_group(group, Signal::KILL);
        }
        return Err(HelperError::Time(limit));
    };
    let (status, stdout, stderr) = finished.map_err(HelperError::Run)?;
    read_answer(status, &stdout, &stderr)
}

async fn converse(child: &mut Child, server: &str) -> io::Result<(ExitStatus, Vec<u8>, Vec<u8>)> {
    let pipes = (child.stdin.take(), child.stdout.take(), child.stderr.take());
    let (Some(mut stdin), Some(stdout), Some(stderr)) = pipes else { return Err(io::ErrorKind::BrokenPipe.into()) };
    let ask = async move {
        // A helper that does not read what it is asked is judged by its answer.
        let _ = stdin.write_all(format!("{server}\n").as_bytes()).await;
    };
    let (mut out, mut err) = (Vec::new(), Vec::new());
    let (mut stdout, mut stderr) = (stdout.take(ANSWER_LIMIT), stderr.take(ANSWER_LIMIT));
    let ((), from_out, from_err) = tokio::join!(ask, stdout.read_to_end(&mut out), stderr.read_to_end(&mut err));
    from_out?;
    from_err?;
    Ok((child.wait().await?, out, err))
}

fn read_answer(status: ExitStatus, stdout: &[u8], stderr: &[u8]) -> Result<Option<Login>, HelperError> {
    #[derive(Deserialize)]
    #[serde(rename_all = "PascalCase")]
    struct Answer {
        #[serde(default)]
        username: String,
        #[serde(default)]
        secret: String,
    }
    if !status.success() {
        let text = String::from_utf8_lossy(if stdout.trim_ascii().is_empty() { stderr } else { stdout });
        let line = text.lines().map(str::trim).find(|line| !line.is_empty()).unwrap_or_default();
        // The protocol has no status for absence, only this text, which all helpers share.
        if line.contains("credentials not found") {
            return Ok(None);
        }
        let may_hold_a_login = text.contains(['{', '}']);
        let said = if may_hold_a_login { String::new() } else { line.chars().filter(|c| !c.is_control()).take(200).collect() };
        return Err(HelperError::Failed { status, said });
    }
    let answer: Answer = serde_json::from_slice(stdout).map_err(|_| HelperError::Answer)?;
    let secret = Secret::new(answer.secret);
    Ok(match answer.username.as_str() {
        "" if secret.reveal().is_empty() => None,
        "<token>" => Some(Login::Identity(secret)),
        _ => Some(Login::Password { user: answer.username, password: secret }),
    })
}
