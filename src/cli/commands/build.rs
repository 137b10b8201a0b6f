//! `build` and `push`: from packages to indexes in the cache, and from there to the registry.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;

use serde::Serialize;

use super::Context;
use super::plan::Told;
use crate::builder::Keeping;
use crate::builder::embedded::sandbox::{self, Found, Mode, Obstacle, Sandbox};
use crate::builder::embedded::{EmbeddedBuilder, collect};
use crate::cli::args::{AbsentArgs, BuildArgs, OnRegistryError, PolicyArgs};
use crate::cli::argv::CalledAs;
use crate::cli::error::{Failure, one_line};
use crate::cli::exit::Exit;
use crate::cli::packages::key_values;
use crate::cli::prepared::{Prepared, listed};
use crate::cli::registries::remotes;
use crate::cli::settings::Settings;
use crate::cli::variation::variation;
use crate::engine::dispatch::{Limits, OnFailure, Outside, listen};
use crate::engine::plan::{Build, OnUnknown, Policy, Publish, RemoteUse};
use crate::engine::publish::{ArchitectureTags, Existing};
use crate::engine::{Engine, Options, RunSummary};
use crate::package::{INPUT_KEY, Settings as WorkspaceSettings};
use crate::store::{GRACE, Store};
use crate::sys::fs::write_atomic;
use crate::time::{Clock, SystemClock};

pub(super) fn run(mut args: BuildArgs, push: bool, context: &mut Context) -> Result<Exit, Failure> {
    args.push |= push;
    refuse_absent(&args.absent, &context.settings)?;
    if !args.release.is_empty() && !args.push {
        // linuxkit says nothing and pushes nothing, and its scripts count on that.
        if context.settings.called == CalledAs::Pkgbuild {
            let hint = Some("add --push, or use `pkgbuild push --release …`".to_owned());
            return Err(Failure::Usage { message: "--release names what is pushed, and nothing is".to_owned(), hint });
        }
        args.release.clear();
    }
    // Before the first thread is started.
    let standing = (!args.dry_run).then(sandbox::enter);
    let mut prepared = Prepared::load(&args.selection, &args.platforms, &context.settings)?;
    refuse_other_builders(prepared.workspace())?;
    let variation = variation(&args.variation, &args.selection.overrides, &context.settings)?;
    prepared.vary(&variation);
    let asked = prepared.jobs.iter().filter(|job| job.asked).count();
    if args.iidfile.is_some() && asked != 1 {
        let hint = Some("--image-refs and --metadata-file write several".to_owned());
        return Err(Failure::Usage { message: format!("--iidfile is about one package, and these are {asked}"), hint });
    }
    say_skipped(&prepared, context)?;
    let publish = match (args.push, args.release.is_empty()) {
        (false, _) => Publish::No,
        (true, true) => Publish::Push,
        (true, false) => Publish::Release(args.release.clone()),
    };
    let mut policy = policy(&args.policy, publish, &context.settings);
    if variation.is_another_image() {
        // What the cache or a registry has under the name may be of another variation.
        policy.build = Build::Always;
    }
    if args.dry_run {
        let store = Store::open_existing(&context.settings.cache)?;
        let plan = super::block_on(prepared.plan(store.as_ref(), &policy))?;
        let told = Told { plan: &plan, moved: Vec::new() };
        super::plan::show(&prepared, &told, false, context)?;
        return Ok(if plan.refused().is_empty() { Exit::Done } else { Exit::Refused });
    }
    let options = options(&args, policy, &prepared, &context.settings)?;
    let summary = super::block_on(carry_out(prepared, options, standing.transpose(), context))?;
    make_room(context)?;
    report(&args, &summary, context)
}

async fn carry_out(
    mut prepared: Prepared,
    mut options: Options,
    standing: Result<Option<Found>, Obstacle>,
    context: &Context,
) -> Result<RunSummary, Failure> {
    let clock = SystemClock;
    let started = clock.now();
    let mut interrupts = listen().map_err(Failure::Runtime)?;
    let store = Store::open(&context.settings.cache)?;
    // Nothing was begun yet, so an interrupt has nothing to wait for.
    let plan = tokio::select! {
        plan = prepared.plan(Some(&store), &options.policy) => plan?,
        reason = interrupts.recv() => return Ok(RunSummary { cancelled: reason, ..RunSummary::default() }),
    };
    crate::cli::steps::refuse_missing(&prepared.jobs, &plan, &options.steps)?;
    if plan.builds()
        && let Err(failure) = prepared.give_keys()
    {
        options.warnings.push(format!("images are built without the annotation {INPUT_KEY}: {}", first_line(failure)));
    }
    if plan.builds()
        && let Ok(Some(Found { mode: Mode::SingleId, single: Some(why) })) = &standing
    {
        options.warnings.push(format!("steps run with a single user id, slower and with less protection between users: {why}"));
    }
    let sandbox = Sandbox::of_this_program().hindered_by(standing.err()).with_overlay(context.settings.overlay);
    let builder = EmbeddedBuilder::open(store.clone(), sandbox, prepared.at_once)?.with_remotes(&remotes(&context.settings))?;
    let engine = Engine { store, registry: prepared.registry, builder: Arc::new(builder) };
    let mut outside = Outside { clock: &clock, started, sink: &*prepared.sink, interrupts };
    Ok(engine.run(prepared.jobs, plan, options, &mut outside).await)
}

/// Holds the cache to the size that the user allows it. A build that is done does not fail for want of room.
fn make_room(context: &mut Context) -> Result<(), Failure> {
    let Some(size) = context.settings.cache_size else { return Ok(()) };
    let limits = collect::Limits { max_size: Some(size), ..collect::Limits::default() };
    let collected = match Store::open(&context.settings.cache) {
        Ok(store) => collect::collect(&store, &limits, GRACE, collect::Action::Delete).map_err(Failure::from),
        Err(error) => Err(error.into()),
    };
    match collected {
        Ok(outcome) if outcome.holds() => Ok(()),
        Ok(outcome) => {
            let (after, limit) = (crate::report::size(outcome.after), crate::report::size(outcome.limit));
            let why = "`pkgbuild cache gc --max-size` says what is in the way";
            Ok(context.say(&format!("warning: the cache takes {after}, more than PKGBUILD_CACHE_SIZE ({limit}); {why}"))?)
        }
        Err(failure) => Ok(context.notice(&format!("warning: the cache cannot be held to its size: {}", one_line(&failure)))?),
    }
}

/// Returns the first line of what stopped something.
pub(super) fn first_line(failure: &Failure) -> String {
    one_line(failure).lines().next().unwrap_or_default().to_owned()
}

/// Prints references, writes the files that were asked for, then the failures: they come last.
fn report(args: &BuildArgs, summary: &RunSummary, context: &mut Context) -> Result<Exit, Failure> {
    let mut refs = String::new();
    // A package that is built for no platform has a name, but nothing has that name.
    let asked: Vec<_> = summary.packages.iter().filter(|package| package.asked && !package.platforms.is_empty()).collect();
    for package in &asked {
        let reference = match package.digest {
            Some(digest) => format!("{}@{digest}", package.short),
            None => package.short.clone(),
        };
        context.out.line(&reference)?;
        refs.push_str(&format!(
            "{}\n",
            package.digest.map_or_else(|| package.reference.to_string(), |digest| format!("{}@{digest}", package.reference))
        ));
    }
    if let Some(path) = &args.image_refs {
        write(&context.settings.path(path), refs.as_bytes())?;
    }
    if let (Some(path), [package]) = (&args.iidfile, &asked[..])
        && let Some(digest) = package.digest
    {
        write(&context.settings.path(path), digest.to_string().as_bytes())?;
    }
    if let Some(path) = &args.metadata_file {
        let mut bytes = serde_json::to_vec_pretty(&metadata(summary)).expect("texts and maps with text keys");
        bytes.push(b'\n');
        write(&context.settings.path(path), &bytes)?;
    }
    context.out.flush()?;
    let logs = context.settings.cache.join("pkgbuild/v1/logs");
    crate::cli::error::print_run(summary, &logs, &mut std::io::stderr().lock());
    Ok(crate::cli::exit::of_run(summary))
}

#[derive(Serialize)]
struct Metadata {
    #[serde(rename = "image.name")]
    name: String,
    #[serde(rename = "containerimage.digest", skip_serializing_if = "Option::is_none")]
    digest: Option<String>,
    #[serde(rename = "pkgbuild.platforms")]
    platforms: BTreeMap<String, PlatformMetadata>,
    #[serde(rename = "pkgbuild.pushed")]
    pushed: bool,
}

#[derive(Serialize)]
struct PlatformMetadata {
    digest: String,
    outcome: &'static str,
}

fn metadata(summary: &RunSummary) -> BTreeMap<String, Metadata> {
    let one = |package: &crate::engine::PackageResult| Metadata {
        name: package.reference.to_string(),
        digest: package.digest.map(|digest| digest.to_string()),
        platforms: package
            .platforms
            .iter()
            .map(|(platform, digest, outcome)| (platform.to_string(), PlatformMetadata { digest: digest.to_string(), outcome }))
            .collect(),
        pushed: package.pushed,
    };
    summary.packages.iter().map(|package| (package.package.clone(), one(package))).collect()
}

fn write(path: &Path, bytes: &[u8]) -> Result<(), Failure> {
    write_atomic(path, bytes, 0o644).map_err(|source| Failure::File { action: "write", path: path.to_owned(), source })
}

/// Returns what the flags say about building and pulling.
pub(super) fn policy(args: &PolicyArgs, publish: Publish, settings: &Settings) -> Policy {
    Policy {
        build: match (args.force, args.nobuild) {
            (true, _) => Build::Always,
            (_, true) => Build::Never,
            _ => Build::IfMissing,
        },
        remote: match (settings.offline, args.pull) {
            (true, _) => RemoteUse::Ignore,
            (_, true) => RemoteUse::Fetch,
            _ => RemoteUse::Trust,
        },
        on_unknown: match args.on_registry_error {
            OnRegistryError::Refuse => OnUnknown::Refuse,
            OnRegistryError::Build => OnUnknown::Build,
        },
        publish,
    }
}

fn options(args: &BuildArgs, policy: Policy, prepared: &Prepared, settings: &Settings) -> Result<Options, Failure> {
    let on_failure = match (args.keep_going, args.fail_fast) {
        (true, _) => OnFailure::KeepGoing,
        (_, true) => OnFailure::Cancel,
        _ => OnFailure::Finish,
    };
    Ok(Options {
        steps: crate::cli::steps::options(&args.steps, settings)?,
        policy,
        limits: Limits { jobs: prepared.at_once, on_failure, timeout: args.timeout },
        step_cache: !args.no_cache,
        keeping: Keeping { cache_namespace: prepared.cache_namespace(), failed_steps: args.keep_failed },
        cached_bases: !args.policy.ignore_cached,
        source_date: settings.source_date,
        labels: key_values(&args.label, "--label")?.into_iter().collect(),
        annotations: key_values(&args.annotation, "--annotation")?.into_iter().collect(),
        architecture_tags: if args.manifest { ArchitectureTags::Written } else { ArchitectureTags::Left },
        existing: if args.move_release { Existing::Moves } else { Existing::Stays },
        warnings: Vec::new(),
    })
}

/// Says which packages are left out because they are for other platforms, or for none.
pub(super) fn say_skipped(prepared: &Prepared, context: &mut Context) -> Result<(), Failure> {
    if context.settings.called == CalledAs::Pkgbuild {
        for (name, without) in prepared.partly() {
            context.say(&format!("`{name}` is not built for {}: it is for {} only", listed(&without.0), listed(&without.1)))?;
        }
    }
    for job in prepared.jobs.iter().filter(|job| job.platforms.is_empty()) {
        if context.settings.called == CalledAs::Linuxkit {
            // Its words, where it writes them.
            context.out.line(format!("Skipping {} with no architectures to build", job.tag.short))?;
            continue;
        }
        let own = job.package.platforms();
        let why = match own {
            [] => "its build.yml lists no platform".to_owned(),
            own => format!("it is for {} only", listed(own)),
        };
        context.say(&format!("skipped `{}`: {why}", job.name))?;
    }
    Ok(())
}

/// Refuses a workspace file that wants another builder than there is.
pub(super) fn refuse_other_builders(workspace: &WorkspaceSettings) -> Result<(), Failure> {
    let mut all = workspace.builders.iter().flat_map(|(on, endpoints)| endpoints.iter().map(move |endpoint| (on, endpoint)));
    match all.find(|(_, endpoint)| *endpoint != EMBEDDED) {
        None => Ok(()),
        Some((on, other)) => Err(Failure::Usage {
            message: format!(
                "builder `{on}: {other}` of the workspace file cannot be used: this version builds with `{EMBEDDED}` only"
            ),
            hint: Some("leave `builders` out of the workspace file".to_owned()),
        }),
    }
}

/// The one builder there is.
const EMBEDDED: &str = "embedded";

/// Refuses, by name, what other tools have and this program does not.
fn refuse_absent(args: &AbsentArgs, settings: &Settings) -> Result<(), Failure> {
    let builders =
        args.builders.iter().cloned().chain(settings.builders.iter().flat_map(|all| all.split(',').map(str::to_owned)));
    let other_builder = |text: &String| text.rsplit_once('=').map_or(text.as_str(), |(_, endpoint)| endpoint) != EMBEDDED;
    if let Some(other) = builders.into_iter().find(other_builder) {
        let message = format!("builder `{other}` cannot be used: this version builds with `{EMBEDDED}` only");
        return Err(Failure::Usage { message, hint: Some("leave --builders and LINUXKIT_BUILDERS out".to_owned()) });
    }
    let said = |text: &Option<String>| text.as_ref().is_some_and(|text| text != "false");
    let absent = [
        (
            args.docker,
            "--docker: images cannot be loaded into an engine; `cache export --format docker` writes a file for `docker load`",
        ),
        (said(&args.sbom_scanner), "--sbom-scanner: no bill of materials can be made"),
        (said(&args.provenance), "--provenance: no provenance can be attested"),
        (args.builder_config.is_some(), "--builder-config: the embedded builder is no BuildKit container"),
        (args.builder_image.is_some(), "--builder-image: the embedded builder is no BuildKit container"),
        (args.builder_name.is_some(), "--builder-name: the embedded builder is no BuildKit container"),
        (args.builder_restart, "--builder-restart: the embedded builder is no BuildKit container"),
        (
            !args.registry_creds.is_empty(),
            "--registry-creds: every process can read a command line; use --registry-creds-file or a credential helper",
        ),
    ];
    match absent.into_iter().find(|(given, _)| *given) {
        Some((_, what)) => Err(Failure::usage(format!("this version does not have {what}"))),
        None => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_embedded_builder_may_be_named_in_a_workspace_file() {
        let workspace = |on: &str, endpoints: &[&str]| {
            let mut workspace = WorkspaceSettings::default();
            workspace.builders.insert(on.to_owned(), endpoints.iter().map(|endpoint| (*endpoint).to_owned()).collect());
            workspace
        };
        assert!(refuse_other_builders(&WorkspaceSettings::default()).is_ok());
        assert!(refuse_other_builders(&workspace("*", &["embedded"])).is_ok());
        for endpoints in [&["docker"][..], &["embedded", "tcp://a:1"]] {
            let error = refuse_other_builders(&workspace("linux/amd64", endpoints)).expect_err("another builder");
            assert_eq!(error.exit(), Exit::Usage);
            let last = endpoints.last().expect("one");
            assert!(error.to_string().contains(last), "{error}");
        }
    }

    #[test]
    fn the_embedded_builder_is_known_in_every_spelling() {
        use clap::Parser;

        let line = |flag: &str| match crate::cli::args::CommandLine::try_parse_from(["pkgbuild", "build", flag]) {
            Ok(crate::cli::args::CommandLine { command: crate::cli::args::Command::Build(build), .. }) => build.absent,
            other => panic!("{other:?}"),
        };
        let settings = || {
            let around = crate::cli::settings::Surroundings { environment: [("HOME", "/")].into(), ..Default::default() };
            Settings::resolve(&Default::default(), &around).expect("settings")
        };
        for flag in ["--builders=embedded", "--builder=linux/arm64=embedded,embedded", "--builders=*=embedded"] {
            assert!(refuse_absent(&line(flag), &settings()).is_ok(), "{flag}");
        }
        for flag in ["--builders=docker", "--builder=embedded,linux/arm64=tcp://a:1", "--builders=linux/arm64="] {
            assert!(refuse_absent(&line(flag), &settings()).is_err(), "{flag}");
        }
    }
}
