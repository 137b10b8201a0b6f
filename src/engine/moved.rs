//! Images of the cache whose inputs moved though their name did not, as can happen under linuxkit's tag scheme.

use super::plan::Decision;
use super::run::{Job, Plan};
use crate::oci::Manifest;
use crate::package::{INPUT_KEY, InputKey};
use crate::store::{Store, StoreError};

/// Returns the parts of the inputs that are not those that the cache's image was made of, by position of job and platform.
/// Only images that are used are looked at; one without a key of its inputs, or with one of another form, says nothing.
///
/// # Errors
/// When a manifest cannot be read.
pub fn moved(store: &Store, jobs: &[Job], plan: &Plan) -> Result<Vec<(usize, usize, Vec<String>)>, StoreError> {
    let mut moved = Vec::new();
    for (job, package) in plan.packages.iter().enumerate() {
        let Some(key) = &jobs[job].input_key else { continue };
        for (at, unit) in package.units.iter().enumerate() {
            let (Decision::UseLocal(_), Some(image)) = (unit.decision, &unit.facts.local) else { continue };
            let bytes = store.read(&image.manifest)?;
            let Ok(manifest) = serde_json::from_slice::<Manifest>(&bytes) else { continue };
            let Some(Ok(old)) = manifest.annotations.get(INPUT_KEY).map(|text| InputKey::parse(text)) else { continue };
            if let Some(parts) = key.moved_since(&old) {
                moved.push((job, at, parts.into_iter().map(str::to_owned).collect()));
            }
        }
    }
    Ok(moved)
}
