//! `lint`: every mistake in build.yml and Dockerfile, of all packages, in one run, and what the checks find. Builds nothing
//! and asks nobody.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use serde::Serialize;

use super::Context;
use crate::builder::steps::StepOptions;
use crate::builder::{BuildRequest, DockerfileSource, Network, embedded};
use crate::cli::args::LintArgs;
use crate::cli::error::Failure;
use crate::cli::exit::Exit;
use crate::cli::packages::Selected;
use crate::diagnostic::{Diagnostic, Diagnostics, Severity};
use crate::dockerfile;
use crate::oci::Platform;
use crate::package::{Package, PackageError};
use crate::sys::fs::read_regular;

pub(super) fn run(args: &LintArgs, context: &mut Context) -> Result<Exit, Failure> {
    let found = mistakes(args, context)?;
    let failed = found.iter().any(|mistake| args.strict || mistake.severity == Severity::Error);
    if args.json {
        context.out.json("lint", &Document { mistakes: found.iter().map(Mistake::of).collect() })?;
    } else {
        for mistake in &found {
            context.out.line(format!("{}: {mistake}", word(mistake.severity)))?;
        }
    }
    Ok(if failed { Exit::Usage } else { Exit::Done })
}

#[derive(Serialize)]
struct Document {
    mistakes: Vec<Mistake>,
}

#[derive(Serialize)]
struct Mistake {
    severity: &'static str,
    file: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    line: Option<u32>,
    #[serde(skip_serializing_if = "Option::is_none")]
    column: Option<u32>,
    message: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    rule: Option<&'static str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    help: Option<String>,
}

impl Mistake {
    fn of(mistake: &Diagnostic) -> Self {
        Self {
            severity: word(mistake.severity),
            file: mistake.file.display().to_string(),
            line: mistake.span.map(|span| span.line),
            column: mistake.span.map(|span| span.column),
            message: mistake.message.clone(),
            rule: mistake.rule,
            help: mistake.help.clone(),
        }
    }
}

fn word(severity: Severity) -> &'static str {
    match severity {
        Severity::Warning => "warning",
        Severity::Error => "error",
    }
}

/// Returns all mistakes, sorted by file and place, each once although several platforms may run into it.
fn mistakes(args: &LintArgs, context: &Context) -> Result<Vec<Diagnostic>, Failure> {
    let selected = match Selected::load(&args.selection, &context.settings) {
        Ok(selected) => selected,
        Err(failure) => return Ok(failure.into_mistakes()?.0),
    };
    let mut found: Vec<Diagnostic> = selected.packages.iter().flat_map(of_package).collect();
    // A circle is no place in a file; it stops `graph` and `build` with an error of its own.
    if let Err(failure) = selected.graph() {
        found.extend(failure.into_mistakes()?.0);
    }
    found.sort_by(|a, b| (&a.file, a.span, &a.message).cmp(&(&b.file, b.span, &b.message)));
    found.dedup();
    Ok(found)
}

fn of_package(package: &Package) -> Vec<Diagnostic> {
    let path = package.directory.join(package.dockerfile());
    let shown = package.shown.join(package.dockerfile());
    let text: Arc<[u8]> = match read_regular(&path, dockerfile::LIMIT as u64) {
        Ok(text) => text.into(),
        Err(error) => return vec![Diagnostic::error(&shown, format!("the Dockerfile cannot be read: {}", error.kind()))],
    };
    let (ignore, mut found) = match package.ignored() {
        Ok(ignore) => (Some(ignore), Vec::new()),
        Err(PackageError::Mistakes(Diagnostics(mistakes))) => (None, mistakes),
        Err(error) => (None, vec![Diagnostic::error(&shown, error.to_string())]),
    };
    // A stage name that is computed can be wrong for one platform alone.
    let platforms: BTreeSet<&Platform> = package.platforms().iter().collect();
    for platform in platforms {
        found.extend(embedded::lint(&request(package, platform, Arc::clone(&text)), ignore.as_ref()));
    }
    found
}

/// Returns what a build of `platform` would be asked for, as far as it is known without asking anybody.
fn request(package: &Package, platform: &Platform, text: Arc<[u8]>) -> BuildRequest {
    let dockerfile =
        DockerfileSource { path: package.shown.join(package.dockerfile()), in_context: package.dockerfile().to_owned(), text };
    BuildRequest {
        args: plain_arguments(package),
        network: if package.settings.network { Network::Default } else { Network::None },
        // What a build may be permitted is no mistake.
        steps: Arc::new(StepOptions { host_network: true, ..StepOptions::default() }),
        ..BuildRequest::new(&package.settings.image, platform.clone(), dockerfile)
    }
}

/// Returns the arguments that are plain texts; those that stand for a package's tag get a tag that is none, so that no git
/// is asked.
fn plain_arguments(package: &Package) -> BTreeMap<String, String> {
    let value = |value: &str| if value.starts_with("@lkt:") { "lint/lint:lint".to_owned() } else { value.to_owned() };
    package.settings.build_args.iter().map(|arg| (arg.key.clone(), value(&arg.value))).collect()
}
