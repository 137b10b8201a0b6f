//! `doctor`: whether and how this machine can build, and what would make it better.

use std::ffi::OsStr;

use serde::Serialize;

use super::Context;
use super::plan::how;
use crate::builder::Support;
use crate::builder::embedded::doctor::{self, Check, Diagnosis, State};
use crate::builder::embedded::sandbox::Sandbox;
use crate::cli::args::DoctorArgs;
use crate::cli::error::Failure;
use crate::cli::exit::Exit;
use crate::cli::settings::Settings;
use crate::sys::process;
use crate::time::{Clock, SystemClock, Timestamp};

pub(super) fn run(args: &DoctorArgs, context: &mut Context) -> Result<Exit, Failure> {
    // Before the first thread is started.
    let standing = doctor::stand();
    let settings = &context.settings;
    let sandbox = Sandbox::of_this_program().with_overlay(settings.overlay);
    let embedded = doctor::examine(&sandbox, &settings.cache, &standing);
    let mut others = vec![git(), clock()];
    others.extend(credentials(settings));
    let usable = embedded.usable() && others.iter().all(|check| check.state != State::Missing);
    if args.json {
        context.out.json("doctor", &Document::of(usable, &embedded, others))?;
    } else {
        show(usable, &embedded, &others, context)?;
    }
    Ok(if usable { Exit::Done } else { Exit::Unavailable })
}

#[derive(Serialize)]
struct Document {
    usable: bool,
    builders: Vec<BuilderReport>,
    checks: Vec<Check>,
}

#[derive(Serialize)]
struct BuilderReport {
    builder: &'static str,
    usable: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    mode: Option<&'static str>,
    checks: Vec<Check>,
    platforms: Vec<PlatformReport>,
}

#[derive(Serialize)]
struct PlatformReport {
    platform: String,
    how: &'static str,
    found: String,
}

impl Document {
    fn of(usable: bool, embedded: &Diagnosis, checks: Vec<Check>) -> Self {
        let platforms = embedded.platforms.iter().map(|served| PlatformReport {
            platform: served.platform.to_string(),
            how: how(served.support),
            found: served.found.clone(),
        });
        let report = BuilderReport {
            builder: "embedded",
            usable: embedded.usable(),
            mode: embedded.mode.map(|mode| mode.phrase()),
            checks: embedded.checks.clone(),
            platforms: platforms.collect(),
        };
        Self { usable, builders: vec![report], checks }
    }
}

fn show(usable: bool, embedded: &Diagnosis, others: &[Check], context: &mut Context) -> Result<(), Failure> {
    let all: Vec<&Check> = embedded.checks.iter().chain(others).collect();
    let width = all.iter().map(|check| check.name.len()).max().unwrap_or(0);
    for check in all {
        let state = match check.state {
            State::Ok => "ok",
            State::Worse => "worse",
            State::Missing => "missing",
        };
        context.out.line(format!("{state:7}  {:width$}  {}", check.name, check.found))?;
        if let Some(help) = &check.help {
            context.out.line(format!("{:7}  {:width$}  help: {help}", "", ""))?;
        }
    }
    for served in &embedded.platforms {
        let state = if served.support == Support::Unsupported { "-" } else { "ok" };
        let platform = served.platform.to_string();
        context.out.line(format!("{state:7}  {platform:width$}  {}: {}", how(served.support), served.found))?;
    }
    let end = match embedded.mode {
        Some(mode) if usable => format!("this machine builds ({})", mode.phrase()),
        _ => "this machine cannot build".to_owned(),
    };
    context.out.line(end)?;
    Ok(())
}

fn git() -> Check {
    const HELP: &str = "install git";
    match process::run("git", &[OsStr::new("--version")], &[]) {
        Ok(output) if output.status.success() => {
            Check::ok("git", String::from_utf8_lossy(&output.stdout).trim().trim_start_matches("git version ").to_owned())
        }
        Ok(output) => Check::lacking("git", State::Missing, format!("it does not work ({})", output.status), HELP),
        Err(error) => Check::lacking("git", State::Missing, format!("it cannot be started: {error}"), HELP),
    }
}

fn clock() -> Check {
    // 2025-01-01; no release of this program is older.
    if SystemClock.now() > Timestamp::from_seconds(1_735_689_600) {
        return Check::ok("clock", "plausible");
    }
    let found = "it is before 2025: certificates of registries do not seem valid yet";
    Check::lacking("clock", State::Worse, found, "set the clock")
}

/// Looks at the files of credentials that are there, and at the helpers that they name.
fn credentials(settings: &Settings) -> Vec<Check> {
    const NAME: &str = "credentials";
    let mut checks = Vec::new();
    for path in settings.credentials.iter().chain(&settings.credential_files) {
        let named = settings.credentials.as_ref() == Some(path);
        let bytes = match fs_err::read(path) {
            Err(error) if error.kind() == std::io::ErrorKind::NotFound && !named => continue,
            Err(error) => {
                checks.push(Check::lacking(NAME, State::Worse, error.to_string(), "make it readable, or name another"));
                continue;
            }
            Ok(bytes) => bytes,
        };
        let Ok(config) = serde_json::from_slice::<serde_json::Value>(&bytes) else {
            let found = format!("{} is not JSON", path.display());
            checks.push(Check::lacking(NAME, State::Worse, found, "`docker login` writes it anew"));
            continue;
        };
        let absent: Vec<String> = helpers(&config).into_iter().filter(|helper| is_absent(helper)).collect();
        checks.push(match absent.first() {
            None => Check::ok(NAME, format!("{} can be read", path.display())),
            Some(helper) => {
                let found = format!("{} names the helper `{helper}`, which is not in PATH", path.display());
                Check::lacking(NAME, State::Worse, found, format!("install `{helper}`"))
            }
        });
    }
    if checks.is_empty() {
        checks.push(Check::ok(NAME, "none: public images can be pulled"));
    }
    checks
}

fn helpers(config: &serde_json::Value) -> Vec<String> {
    let store = config.get("credsStore").into_iter();
    let each = config.get("credHelpers").and_then(serde_json::Value::as_object).into_iter().flat_map(|map| map.values());
    let mut helpers: Vec<String> =
        store.chain(each).filter_map(|name| Some(format!("docker-credential-{}", name.as_str()?))).collect();
    helpers.sort();
    helpers.dedup();
    helpers
}

fn is_absent(helper: &str) -> bool {
    // Without a word to obey a helper says how it is used.
    process::run(helper, &[], &[]).is_err_and(|error| error.kind() == std::io::ErrorKind::NotFound)
}
