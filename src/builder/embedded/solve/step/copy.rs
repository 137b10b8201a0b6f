//! `COPY` and `ADD`.

use std::io::Write;

use crate::builder::embedded::copy::{self, CopySource, CopyStep, ModeChange, Wanted};
use crate::builder::embedded::snapshot::Snapshot;
use crate::builder::embedded::snapshot::upper::Upper;
use crate::builder::embedded::solve::op::{CopyFrom, CopyOperation, CopyPart, CopyWhat};
use crate::builder::embedded::tree::{Entry, Kind};
use crate::content::ErrorClass;
use crate::time::SourceDate;

use super::{Job, StepError, owner, warn};

pub(super) fn copy_error(error: copy::CopyError) -> StepError {
    StepError::files(error.class(), error)
}

pub(super) fn copy_files(job: &Job, operation: &CopyOperation) -> Result<Snapshot, StepError> {
    let CopyOperation { parts, exclude, destination, owner: text, mode, date } = operation;
    let snapshots = &job.machine.snapshots;
    let owner = text.as_ref().map(|text| owner(job, text)).transpose()?;
    let mode = mode.as_ref().map(|text| ModeChange::parse(text)).transpose();
    let mode = mode.map_err(|error| StepError::files(ErrorClass::Permanent, error))?;
    let inline: Vec<Option<Snapshot>> = parts.iter().map(|part| inline_files(job, part, *date)).collect::<Result<_, _>>()?;
    let parts = parts.iter().zip(&inline).map(|(part, inline)| {
        let (source, wanted) = match &part.what {
            CopyWhat::Patterns { from, patterns } => (source(job, *from), Wanted::Patterns(bytes(patterns))),
            CopyWhat::Named(_) => {
                let named = job.named.as_ref().expect("a named context is read when a step needs it");
                (CopySource::Context(named), Wanted::Paths(vec![Vec::new()]))
            }
            CopyWhat::Parents { from, sources } => (source(job, *from), Wanted::Parents(sources.clone())),
            CopyWhat::Inline(files) => {
                let snapshot = inline.as_ref().expect("the files of the Dockerfile were just written");
                (CopySource::Snapshot(snapshots, snapshot), Wanted::Paths(bytes(files.iter().map(|(name, _)| name))))
            }
        };
        copy::CopyPart { source, wanted, unpack_archives: part.unpack }
    });
    let step = CopyStep {
        parts: parts.collect(),
        exclude: exclude.clone(),
        destination: destination.as_bytes().to_vec(),
        owner,
        mode,
        source_date: *date,
    };
    let mut draft = snapshots.draft(&job.parent)?;
    for pattern in copy::copy(&mut draft, &step).map_err(copy_error)?.unmatched {
        warn(job, format!("`{}` matches nothing, so nothing is copied for it", String::from_utf8_lossy(&pattern)));
    }
    Ok(snapshots.commit(draft)?)
}

fn bytes<'a>(texts: impl IntoIterator<Item = &'a String>) -> Vec<Vec<u8>> {
    texts.into_iter().map(|text| text.as_bytes().to_vec()).collect()
}

fn source(job: &Job, from: CopyFrom) -> CopySource<'_> {
    match from {
        CopyFrom::Input(number) => CopySource::Snapshot(&job.machine.snapshots, &job.inputs[number]),
        CopyFrom::Context => CopySource::Context(job.context.as_ref().expect("the context is read when a step needs it")),
    }
}

/// Returns a snapshot of nothing but the files of a part whose content stands in the Dockerfile.
fn inline_files(job: &Job, part: &CopyPart, date: SourceDate) -> Result<Option<Snapshot>, StepError> {
    let CopyWhat::Inline(files) = &part.what else { return Ok(None) };
    let snapshots = &job.machine.snapshots;
    let mut draft = snapshots.draft(&snapshots.scratch())?;
    let mut upper = Upper::new(&mut draft).map_err(StepError::io)?;
    for (name, data) in files {
        let kind = Kind::File { size: data.len() as u64, hash: blake3::hash(data) };
        let entry = Entry { kind, ..Entry::directory(0o644, 0, 0, date.0) };
        upper.file(name.as_bytes(), &entry, |mut file| file.write_all(data)).map_err(StepError::io)?;
    }
    upper.finish().map_err(StepError::io)?;
    Ok(Some(snapshots.commit(draft)?))
}
