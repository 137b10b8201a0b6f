//! `COPY`, `ADD` of local files, and `WORKDIR`'s directory: written straight into a draft, as BuildKit would.
//!
//! Where things go: a directory's content goes into the destination; a file goes into it when it is a directory or ends
//! in `/`, else it becomes it. Links in the destination are followed inside the root, also when nothing is there yet.
//! Directories that are missing are made with mode 0755 (or the octal `--chmod`) and the owner of `--chown`. What is
//! copied replaces files and links; a directory over anything else, and anything else over a directory, is an error.
//! The destination directory itself keeps its metadata when it exists; directories below it get that of the source.

mod filter;
mod mode;
mod place;
mod wildcard;

use std::io;

use crate::content::ErrorClass;
use crate::dockerfile::Ignore;
use crate::time::SourceDate;

use super::context::{ContextError, ContextTree};
use super::snapshot::upper::{Upper, shown};
use super::snapshot::{Draft, Snapshot, SnapshotError, Snapshots};
use super::tree::{Entry, LoopError, Tree};
use super::untar::UntarError;

pub use filter::{Chosen, Filter, ParentsSource};
pub use mode::{Clause, ModeChange, ModeError};
pub(super) use place::copy_bytes;
pub use wildcard::{Selection, is_well_formed, select};

/// Where a copy takes its files from.
#[derive(Clone, Copy)]
pub enum CopySource<'a> {
    /// The build context: everything belongs to 0:0 and gets the source date.
    Context(&'a ContextTree),
    /// A stage or image: owners and times stay.
    Snapshot(&'a Snapshots, &'a Snapshot),
}

impl<'a> CopySource<'a> {
    /// Returns what the source looks like; [`select`] on it and [`Tree::hash_of`] make content keys.
    pub fn tree(&self) -> &'a Tree {
        match self {
            Self::Context(context) => context.tree(),
            Self::Snapshot(_, snapshot) => &snapshot.tree,
        }
    }
}

/// One `COPY` or `ADD`.
#[derive(Clone)]
pub struct CopyStep<'a> {
    /// What is copied, in order; what a later part brings replaces files of an earlier one.
    pub parts: Vec<CopyPart<'a>>,
    /// The destination as written, after expansion, with the working directory in front when it is relative; a `/` or
    /// `/.` at its end counts.
    pub destination: Vec<u8>,
    /// `--exclude`: what is left out below the sources.
    pub exclude: Ignore,
    /// `--chown`, resolved to numbers; `None` keeps the source's owner.
    pub owner: Option<(u32, u32)>,
    /// `--chmod`.
    pub mode: Option<ModeChange>,
    /// The time of everything that comes from the context or is made on the way.
    pub source_date: SourceDate,
}

/// Files of one source, on their way to the destination of a [`CopyStep`].
#[derive(Clone)]
pub struct CopyPart<'a> {
    /// Where the files come from.
    pub source: CopySource<'a>,
    /// Which files. More than one in a step need a destination that ends in `/`, which the instruction's reader checks.
    pub wanted: Wanted,
    /// Whether tar archives are unpacked: for `ADD`.
    pub unpack_archives: bool,
}

/// Which files of a source are copied, relative to its root.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Wanted {
    /// What these paths or patterns mean, as written, after expansion.
    Patterns(Vec<Vec<u8>>),
    /// These paths, whatever characters are in them.
    Paths(Vec<Vec<u8>>),
    /// What these mean, with the directories above it: for `--parents`.
    Parents(Vec<ParentsSource>),
}

/// What a copy did that is worth a word.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Copied {
    /// Patterns with wildcards that matched nothing: nothing was copied for them, not even a directory made.
    pub unmatched: Vec<Vec<u8>>,
}

/// Why something could not be copied.
#[derive(Debug, thiserror::Error)]
pub enum CopyError {
    /// A file could not be read or written.
    #[error(transparent)]
    Io(#[from] io::Error),
    /// The source is not there.
    #[error("`{}` is not there to be copied", shown(path).display())]
    Missing {
        /// The source, relative to the root of where it is copied from.
        path: Vec<u8>,
    },
    /// A file would replace a directory.
    #[error("`{}` is a directory and cannot be replaced by `{}`, which is none", shown(destination).display(), shown(path).display())]
    OverDirectory {
        /// The source.
        path: Vec<u8>,
        /// Where it would go.
        destination: Vec<u8>,
    },
    /// A directory would replace something else.
    #[error("`{}` is no directory and cannot take the directory `{}`", shown(destination).display(), shown(path).display())]
    IntoFile {
        /// The source.
        path: Vec<u8>,
        /// Where it would go.
        destination: Vec<u8>,
    },
    /// Something on the way to the destination is no directory.
    #[error("`{}` is on the way and no directory", shown(path).display())]
    NotADirectory {
        /// What is on the way.
        path: Vec<u8>,
    },
    /// A path leads in circles.
    #[error(transparent)]
    Loop(#[from] LoopError),
    /// The context could not be read, or changed since it was.
    #[error(transparent)]
    Context(#[from] ContextError),
    /// The source's layers could not be read.
    #[error(transparent)]
    Snapshot(#[from] SnapshotError),
    /// An archive could not be unpacked.
    #[error("`{}` cannot be unpacked", shown(path).display())]
    Unpack {
        /// The archive.
        path: Vec<u8>,
        /// What is wrong.
        #[source]
        source: UntarError,
    },
}

impl CopyError {
    /// Returns what can be done about it.
    pub fn class(&self) -> ErrorClass {
        match self {
            Self::Io(_) => ErrorClass::Damaged,
            Self::Missing { .. } | Self::OverDirectory { .. } | Self::IntoFile { .. } => ErrorClass::Permanent,
            Self::NotADirectory { .. } | Self::Loop(_) => ErrorClass::Permanent,
            Self::Context(error) => error.class(),
            Self::Snapshot(error) => error.class(),
            Self::Unpack { source, .. } => source.class(),
        }
    }
}

/// Copies into the draft, which must be fresh: what was put there otherwise than by this module is not seen.
///
/// # Errors
/// As [`CopyError`]; the draft is then good for nothing but being dropped.
pub fn copy(draft: &mut Draft, step: &CopyStep<'_>) -> Result<Copied, CopyError> {
    let mut copied = Copied::default();
    let Some(first) = step.parts.first() else { return Ok(copied) };
    let mut copier = place::Copier::new(Upper::new(draft)?, step, first)?;
    let below = Filter::excluding(&step.exclude);
    for part in &step.parts {
        copier.begin(part)?;
        match &part.wanted {
            Wanted::Paths(paths) => paths.iter().try_for_each(|path| copier.one(path, &below).map(drop))?,
            Wanted::Patterns(patterns) => {
                for pattern in patterns {
                    let selection = select(part.source.tree(), pattern)?;
                    if selection.paths.is_empty() {
                        copied.unmatched.push(pattern.clone());
                    }
                    selection.paths.iter().try_for_each(|path| copier.one(path, &below).map(drop))?;
                }
            }
            Wanted::Parents(sources) => {
                for source in sources {
                    if !parents(&mut copier, part.source.tree(), source, &step.exclude)? {
                        copied.unmatched.push(source.text().into_bytes());
                    }
                }
            }
        }
    }
    copier.finish()?;
    Ok(copied)
}

/// Copies one source of `--parents`. Returns whether it means anything.
fn parents(copier: &mut place::Copier<'_>, tree: &Tree, source: &ParentsSource, exclude: &Ignore) -> Result<bool, CopyError> {
    let filter = source.filter(exclude);
    let mut any = false;
    for directory in source.directories(tree)? {
        any |= copier.one(&directory, &filter)?;
    }
    match source.required() {
        Some(path) if !any => Err(CopyError::Missing { path }),
        _ => Ok(any),
    }
}

/// Makes the directory that `path` leads to, and those above it, if they are missing: for `WORKDIR`.
///
/// # Errors
/// When something on the way is no directory, or it cannot be made.
pub fn make_directory(
    draft: &mut Draft,
    path: &[u8],
    owner: (u32, u32),
    mode: u32,
    source_date: SourceDate,
) -> Result<(), CopyError> {
    let mut upper = Upper::new(draft)?;
    let real = upper.tree().resolve(path)?;
    place::make_way(&mut upper, &real, &Entry::directory(mode, owner.0, owner.1, source_date.0))?;
    Ok(upper.finish()?)
}

#[cfg(test)]
mod tests;
