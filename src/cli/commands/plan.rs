//! `plan`: what `build` would do and why. Changes nothing.

use serde::Serialize;

use super::Context;
use super::build::{first_line, policy, refuse_other_builders, say_skipped};
use crate::builder::Support;
use crate::builder::embedded::sandbox::Sandbox;
use crate::cli::args::PlanArgs;
use crate::cli::error::Failure;
use crate::cli::exit::Exit;
use crate::cli::prepared::Prepared;
use crate::engine::plan::{Decision, Publish};
use crate::engine::{Plan, PlannedUnit};
use crate::oci::Platform;
use crate::package::SourceState;
use crate::store::Store;

pub(super) fn run(args: &PlanArgs, context: &mut Context) -> Result<Exit, Failure> {
    let mut prepared = Prepared::load(&args.selection, &args.platforms, &context.settings)?;
    refuse_other_builders(prepared.workspace())?;
    say_skipped(&prepared, context)?;
    let publish = if args.push { Publish::Push } else { Publish::No };
    let policy = policy(&args.policy, publish, &context.settings);
    let store = Store::open_existing(&context.settings.cache)?;
    let plan = super::block_on(prepared.plan(store.as_ref(), &policy))?;
    let moved = moved(&mut prepared, store.as_ref(), &plan, context)?;
    show(&prepared, &Told { plan: &plan, moved }, args.json, context)?;
    if !plan.refused().is_empty() {
        return Ok(Exit::Refused);
    }
    Ok(if args.detailed_exitcode && plan.has_work() { Exit::Work } else { Exit::Done })
}

/// A plan and what is worth saying about it.
pub(super) struct Told<'a> {
    pub(super) plan: &'a Plan,
    /// Inputs that moved though the tag did not, by position of job and platform.
    pub(super) moved: Vec<(usize, usize, Vec<String>)>,
}

/// Compares what images of the cache were made of with what is there now, and warns of each that differs. A cached image is
/// used all the same: its name is what was asked for.
fn moved(
    prepared: &mut Prepared,
    store: Option<&Store>,
    plan: &Plan,
    context: &mut Context,
) -> Result<Vec<(usize, usize, Vec<String>)>, Failure> {
    let uses = |unit: &PlannedUnit| matches!(unit.decision, Decision::UseLocal(_));
    let (Some(store), true) = (store, plan.packages.iter().flat_map(|package| &package.units).any(uses)) else {
        return Ok(Vec::new());
    };
    if let Err(failure) = prepared.give_keys() {
        let message = format!("warning: images of the cache are not compared with their inputs: {}", first_line(failure));
        context.say(&message)?;
        return Ok(Vec::new());
    }
    let moved = crate::engine::moved(store, &prepared.jobs, plan)?;
    for (job, at, parts) in &moved {
        let (job, platform) = (&prepared.jobs[*job], &plan.packages[*job].units[*at].platform);
        let message = format!(
            "warning: {} for {platform} was made of other inputs ({}); its tag is the same",
            job.tag.short,
            parts.join(", ")
        );
        context.say(&message)?;
    }
    Ok(moved)
}

#[derive(Serialize)]
struct Document {
    packages: Vec<PackagePlan>,
}

#[derive(Serialize)]
struct PackagePlan {
    package: String,
    directory: String,
    reference: String,
    tag: String,
    dirty: bool,
    platforms: Vec<UnitPlan>,
}

#[derive(Serialize)]
struct UnitPlan {
    #[serde(serialize_with = "text")]
    platform: Platform,
    decision: &'static str,
    reason: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    digest: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    builder: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    error: Option<String>,
    #[serde(rename = "moved-inputs", skip_serializing_if = "Vec::is_empty")]
    moved: Vec<String>,
}

fn text<S: serde::Serializer>(platform: &Platform, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.collect_str(platform)
}

/// Prints a plan.
pub(super) fn show(prepared: &Prepared, told: &Told<'_>, json: bool, context: &mut Context) -> Result<(), Failure> {
    let sandbox = Sandbox::of_this_program();
    let packages: Vec<PackagePlan> = prepared
        .jobs
        .iter()
        .zip(&told.plan.packages)
        .enumerate()
        .map(|(number, (job, package))| {
            let moved =
                |at: usize| told.moved.iter().find(|moved| (moved.0, moved.1) == (number, at)).map(|moved| moved.2.clone());
            let error = package.error.as_ref().map(|error| crate::cli::error::one_line(&**error));
            PackagePlan {
                package: job.name.clone(),
                directory: job.package.shown.display().to_string(),
                reference: job.tag.reference.to_string(),
                tag: job.tag.short.clone(),
                dirty: job.tag.state == SourceState::Dirty,
                platforms: package
                    .units
                    .iter()
                    .enumerate()
                    .map(|(at, unit)| UnitPlan {
                        moved: moved(at).unwrap_or_default(),
                        ..unit_plan(unit, &sandbox, error.as_ref())
                    })
                    .collect(),
            }
        })
        .collect();
    if json {
        context.out.json("plan", &Document { packages })?;
        return Ok(());
    }
    let mut rows = Vec::new();
    for package in &packages {
        for unit in &package.platforms {
            let reason = unit.error.as_ref().map_or_else(|| unit.reason.to_owned(), |error| format!("{}: {error}", unit.reason));
            let builder = unit.builder.clone().unwrap_or_default();
            rows.push(vec![package.tag.clone(), unit.platform.to_string(), unit.decision.to_owned(), builder, reason]);
        }
    }
    context.out.table(&rows)?;
    Ok(())
}

/// Returns the word for how a platform is served.
pub(super) fn how(support: Support) -> &'static str {
    match support {
        Support::Native => "native",
        Support::Emulated => "emulated",
        Support::Unsupported => "no RUN steps",
    }
}

fn unit_plan(unit: &PlannedUnit, sandbox: &Sandbox, error: Option<&String>) -> UnitPlan {
    let builder =
        matches!(unit.decision, Decision::Build(_)).then(|| format!("embedded ({})", how(sandbox.support(&unit.platform))));
    let digest = match unit.decision {
        Decision::UseLocal(digest) | Decision::UseRemote(digest) | Decision::Pull(digest) => Some(digest.to_string()),
        Decision::Build(_) | Decision::Refuse(_) => None,
    };
    UnitPlan {
        platform: unit.platform.clone(),
        decision: unit.decision.word(),
        reason: unit.decision.reason(),
        digest,
        builder,
        error: matches!(unit.decision, Decision::Refuse(_)).then(|| error.cloned()).flatten(),
        moved: Vec::new(),
    }
}
