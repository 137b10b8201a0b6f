//! `plan`: what `build` would do and why. Changes nothing.

use serde::Serialize;

use super::Context;
use super::build::policy;
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
    let publish = if args.push { Publish::Push } else { Publish::No };
    let policy = policy(&args.policy, publish, &context.settings);
    let store = Store::open_existing(&context.settings.cache)?;
    let plan = super::block_on(prepared.plan(store.as_ref(), &policy))?;
    show(&prepared, &plan, args.json, context)?;
    if !plan.refused().is_empty() {
        return Ok(Exit::Refused);
    }
    Ok(if args.detailed_exitcode && plan.has_work() { Exit::Work } else { Exit::Done })
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
}

fn text<S: serde::Serializer>(platform: &Platform, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.collect_str(platform)
}

/// Prints a plan.
pub(super) fn show(prepared: &Prepared, plan: &Plan, json: bool, context: &mut Context) -> Result<(), Failure> {
    let sandbox = Sandbox::of_this_program();
    let packages: Vec<PackagePlan> = prepared
        .jobs
        .iter()
        .zip(&plan.packages)
        .map(|(job, package)| {
            let error = package.error.as_ref().map(|error| crate::cli::error::one_line(&**error));
            PackagePlan {
                package: job.name.clone(),
                directory: job.package.shown.display().to_string(),
                reference: job.tag.reference.to_string(),
                tag: job.tag.short.clone(),
                dirty: job.tag.state == SourceState::Dirty,
                platforms: package.units.iter().map(|unit| unit_plan(unit, &sandbox, error.as_ref())).collect(),
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

fn unit_plan(unit: &PlannedUnit, sandbox: &Sandbox, error: Option<&String>) -> UnitPlan {
    let builder = matches!(unit.decision, Decision::Build(_)).then(|| {
        let how = match sandbox.support(&unit.platform) {
            Support::Native => "native",
            Support::Emulated => "emulated",
            Support::Unsupported => "no RUN steps",
        };
        format!("embedded ({how})")
    });
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
    }
}
