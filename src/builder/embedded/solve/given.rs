//! What can be said before anything runs about what steps are given: whether it is there, and whether a value stands in
//! what everybody can read.

use std::collections::BTreeMap;

use crate::builder::embedded::leak::{Finder, LeakError, Mask, is_too_short};
use crate::builder::secret::Secret;
use crate::builder::{BuildError, BuildRequest, StepName};
use crate::content::ErrorClass;

use super::op::Operation;
use super::plan::Plan;
use super::step;

/// Looks for the secrets of all steps in the image's config and history, in its annotations and in the steps' own texts;
/// returns what is worth saying.
///
/// # Errors
/// When a value stands there: build arguments and labels are no place for it.
pub(super) fn check(request: &BuildRequest, plan: &Plan) -> Result<Vec<String>, BuildError> {
    let runs = plan.steps.iter().filter_map(|step| match &step.operation {
        Operation::Run(run) => Some(run),
        _ => None,
    });
    let used: BTreeMap<&str, &Secret> = runs.flat_map(|run| step::used(run, &request.steps)).collect();
    let short = used.iter().filter(|(_, secret)| is_too_short(secret));
    let warnings =
        short.map(|(id, _)| format!("the secret `{id}` is shorter than 8 bytes: steps' layers are not searched for it"));
    let warnings = warnings.collect();
    let Some(finder) = Finder::new(used.iter().map(|(id, secret)| (*id, *secret))) else { return Ok(warnings) };
    let mut mask = Mask::new(used.values().copied());
    for step in &plan.steps {
        finder.check_text("the instruction", &step.name.text).map_err(|leak| {
            let mut clean = |text: &str| String::from_utf8_lossy(&mask.clean(text.as_bytes())).into_owned();
            BuildError::Files {
                step: Box::new(StepName { text: clean(&step.name.text), ..step.name.clone() }),
                dockerfile: request.dockerfile.path.clone(),
                lines: step.lines.iter().map(|line| clean(line)).collect(),
                class: ErrorClass::Permanent,
                source: leak.into(),
            }
        })?;
    }
    let refused = |leak: LeakError| BuildError::Builder {
        action: "put a secret into an image".to_owned(),
        class: ErrorClass::Permanent,
        source: leak.into(),
    };
    let config = plan.image.finish(&request.platform, &request.labels, Vec::new());
    let config = serde_json::to_value(config).expect("texts and maps with text keys");
    finder.check_json("the image's config or history", &config).map_err(refused)?;
    let annotations = serde_json::to_value(&request.annotations).expect("a map of texts");
    finder.check_json("an annotation", &annotations).map_err(refused)?;
    Ok(warnings)
}
