//! `debug`: steps that failed and were kept.

use std::io::{self, IsTerminal, Write};

use serde::Serialize;

use super::Context;
use super::cache::open_existing;
use crate::builder::embedded::kept::{KeptError, KeptStep, KeptSteps};
use crate::builder::embedded::sandbox::{self, Attached, Exit as StepExit};
use crate::cli::args::DebugCommand;
use crate::cli::error::{Failure, one_line};
use crate::cli::exit::Exit;
use crate::cli::packages::key_values;
use crate::report::printable;

pub(super) fn run(command: DebugCommand, context: &mut Context) -> Result<Exit, Failure> {
    // Layers and kept steps of a user with subordinate ids belong to those; before the first thread is started.
    if let Err(obstacle) = sandbox::enter()
        && matches!(command, DebugCommand::Exec { .. })
    {
        return Err(Failure::usage(format!("no step can be entered here: {}", one_line(&obstacle))));
    }
    let steps = match open_existing(context)? {
        Some(store) => Some(KeptSteps::open(store)?),
        None => None,
    };
    match command {
        DebugCommand::Ls { json } => list(steps.as_ref(), json, context),
        DebugCommand::Exec { id, env, command } => {
            let steps = steps.ok_or_else(|| KeptError::Absent(id.clone()))?;
            enter(&steps, &id, (&env, command), context)
        }
        DebugCommand::Rm { ids, all } => remove(steps.as_ref(), ids, all, context),
    }
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct StepDocument<'a> {
    id: &'a str,
    package: &'a str,
    platform: String,
    number: usize,
    text: &'a str,
    outcome: &'a str,
    not_given: &'a [String],
}

fn list(steps: Option<&KeptSteps>, json: bool, context: &mut Context) -> Result<Exit, Failure> {
    #[derive(Serialize)]
    struct Document<'a> {
        steps: Vec<StepDocument<'a>>,
    }
    let mut kept = Vec::new();
    for step in steps.map_or_else(|| Ok(Vec::new()), KeptSteps::list)? {
        match step {
            Ok(step) => kept.push(step),
            // Somebody removes it at this moment.
            Err(KeptError::Absent(_)) => {}
            Err(error) => context.notice(&format!("warning: {}", one_line(&error)))?,
        }
    }
    if json {
        let document = |step: &'_ KeptStep| step.platform().to_string();
        let platforms: Vec<String> = kept.iter().map(document).collect();
        let steps = kept.iter().zip(platforms).map(|(step, platform)| StepDocument {
            id: &step.id,
            package: &step.package,
            platform,
            number: step.number,
            text: &step.text,
            outcome: &step.outcome,
            not_given: &step.not_given,
        });
        context.out.json("debug-ls", &Document { steps: steps.collect() })?;
        return Ok(Exit::Done);
    }
    let mut rows = vec![["ID", "PACKAGE", "PLATFORM", "ENDED", "STEP"].map(str::to_owned).to_vec()];
    rows.extend(kept.iter().map(|step| {
        let platform = step.platform().to_string();
        vec![step.id.clone(), step.package.clone(), platform, step.outcome.clone(), printable(&step.text).to_string()]
    }));
    context.out.table(&rows)?;
    Ok(Exit::Done)
}

fn enter(
    steps: &KeptSteps,
    id: &str,
    (variables, command): (&[String], Vec<String>),
    context: &mut Context,
) -> Result<Exit, Failure> {
    let command = if command.is_empty() { vec!["/bin/sh".to_owned()] } else { command };
    let variables = key_values(variables, "--env")?;
    let step = steps.get(id)?;
    if !step.not_given.is_empty() {
        context.say(&format!("not there, as the step had it: {}", step.not_given.join(", ")))?;
    }
    context.out.flush()?;
    let attached = match (io::stdin().is_terminal(), io::stdout().is_terminal()) {
        (true, true) => Attached::Terminal,
        // Somebody else may be reading from this terminal.
        (true, false) => Attached::Nothing,
        (false, _) => Attached::Input,
    };
    let mut failed = None;
    let mut out = io::stdout().lock();
    let exit = steps.enter(id, (&variables, command), attached, &mut |bytes| {
        if let Err(error) = out.write_all(bytes).and_then(|()| out.flush()) {
            failed.get_or_insert(error);
        }
    })?;
    match failed {
        Some(error) => Err(error.into()),
        None => Ok(match exit {
            StepExit::Code(0) => Exit::Done,
            StepExit::Code(code) => Exit::Command(u8::try_from(code).unwrap_or(u8::MAX)),
            // As shells say it.
            StepExit::Signal(signal) => Exit::Command(u8::try_from(128 + signal).unwrap_or(u8::MAX)),
        }),
    }
}

fn remove(steps: Option<&KeptSteps>, ids: Vec<String>, all: bool, context: &mut Context) -> Result<Exit, Failure> {
    let Some(steps) = steps else {
        return ids.into_iter().next().map_or(Ok(Exit::Done), |id| Err(KeptError::Absent(id).into()));
    };
    for id in if all { steps.ids()? } else { ids } {
        match steps.remove(&id) {
            // What nobody has is removed when all are to be.
            Err(KeptError::Absent(_)) if all => {}
            removed => removed?,
        }
        context.out.line(id)?;
    }
    Ok(Exit::Done)
}
