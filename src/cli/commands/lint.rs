//! `lint`: every mistake in build.yml and Dockerfile, of all packages, in one run. Builds nothing and asks nobody.

use std::collections::BTreeSet;
use std::path::Path;

use serde::Serialize;

use super::Context;
use crate::cli::args::LintArgs;
use crate::cli::error::Failure;
use crate::cli::exit::Exit;
use crate::cli::packages::Selected;
use crate::diagnostic::{Diagnostic, Diagnostics, Severity};
use crate::dockerfile::{Dockerfile, StageOptions, Stages};
use crate::oci::Platform;
use crate::package::Package;

pub(super) fn run(args: &LintArgs, context: &mut Context) -> Result<Exit, Failure> {
    let found = mistakes(args, context)?;
    let failed = found.iter().any(|mistake| mistake.severity == Severity::Error);
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
    let text = match fs_err::read(&path) {
        Ok(text) => text,
        Err(error) => return vec![Diagnostic::error(&shown, format!("the Dockerfile cannot be read: {}", error.kind()))],
    };
    match Dockerfile::parse(&shown, &text) {
        Ok(dockerfile) => of_stages(&dockerfile, package, &shown),
        Err(Diagnostics(mistakes)) => mistakes,
    }
}

/// Resolves the stages for every platform of the package: a stage name that is computed can be wrong for one alone.
fn of_stages(dockerfile: &Dockerfile, package: &Package, shown: &Path) -> Vec<Diagnostic> {
    let platforms: BTreeSet<&Platform> = package.platforms().iter().collect();
    let mut found = dockerfile.warnings.0.clone();
    for platform in platforms {
        let mut options = StageOptions::new(platform.clone());
        options.build_platform = Platform::host();
        options.args = plain_arguments(package);
        if let Err(Diagnostics(mistakes)) = Stages::resolve(dockerfile, &options) {
            found.extend(mistakes);
        }
    }
    debug_assert!(found.iter().all(|mistake| mistake.file == shown), "mistakes of a Dockerfile name it");
    found
}

/// Returns the arguments that are plain texts; those that stand for a package's tag get a tag that is none, so that no git
/// is asked.
fn plain_arguments(package: &Package) -> std::collections::BTreeMap<String, String> {
    let value = |value: &str| if value.starts_with("@lkt:") { "lint/lint:lint".to_owned() } else { value.to_owned() };
    package.settings.build_args.iter().map(|arg| (arg.key.clone(), value(&arg.value))).collect()
}
