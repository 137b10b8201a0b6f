//! `COPY` and `ADD`.

use std::os::unix::fs::PermissionsExt;

use crate::builder::embedded::copy::{self, CopySource, CopyStep, ModeChange};
use crate::builder::embedded::snapshot::Snapshot;
use crate::builder::embedded::solve::op::{CopyFrom, CopyOperation};
use crate::content::ErrorClass;

use super::{Job, StepError, owner, warn};

pub(super) fn copy_error(error: copy::CopyError) -> StepError {
    StepError::files(error.class(), error)
}

pub(super) fn copy_files(job: &Job, operation: &CopyOperation) -> Result<Snapshot, StepError> {
    let CopyOperation { from, patterns, inline, destination, owner: text, mode, unpack, date } = operation;
    let snapshots = &job.machine.snapshots;
    let owner = text.as_ref().map(|text| owner(job, text)).transpose()?;
    let mode = mode.as_ref().map(|text| ModeChange::parse(text)).transpose();
    let mode = mode.map_err(|error| StepError::files(ErrorClass::Permanent, error))?;
    let mut draft = snapshots.draft(&job.parent)?;
    let mut copy = |source: CopySource<'_>, patterns: Vec<Vec<u8>>, unpack_archives: bool| {
        let step = CopyStep {
            source,
            patterns,
            destination: destination.as_bytes().to_vec(),
            owner,
            mode: mode.clone(),
            unpack_archives,
            source_date: *date,
        };
        copy::copy(&mut draft, &step).map_err(copy_error)
    };
    if inline.is_empty() {
        let patterns = patterns.iter().map(|pattern| pattern.as_bytes().to_vec()).collect();
        let source = match from {
            CopyFrom::Input(number) => CopySource::Snapshot(snapshots, &job.inputs[*number]),
            CopyFrom::Context => CopySource::Context(job.context.as_ref().expect("the context is read when a step needs it")),
        };
        for pattern in copy(source, patterns, *unpack)?.unmatched {
            warn(job, format!("`{}` matches nothing, so nothing is copied for it", String::from_utf8_lossy(&pattern)));
        }
    } else {
        let files = inline_files(job, inline)?;
        let names = inline.iter().map(|(name, _)| name.as_bytes().to_vec()).collect();
        copy(CopySource::Snapshot(snapshots, &files), names, false)?;
    }
    Ok(snapshots.commit(draft)?)
}

/// Returns a snapshot of nothing but files whose content stands in the Dockerfile.
fn inline_files(job: &Job, files: &[(String, Vec<u8>)]) -> Result<Snapshot, StepError> {
    let snapshots = &job.machine.snapshots;
    let draft = snapshots.draft(&snapshots.scratch())?;
    for (name, data) in files {
        let path = draft.upper.join(name);
        fs_err::write(&path, data).map_err(StepError::io)?;
        fs_err::set_permissions(&path, std::fs::Permissions::from_mode(0o644)).map_err(StepError::io)?;
    }
    Ok(snapshots.commit(draft)?)
}
