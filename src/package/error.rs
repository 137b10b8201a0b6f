//! Why a package has no tag, no arguments or no place in the order of builds.

use std::path::PathBuf;

use super::TemplateError;
use crate::diagnostic::Diagnostics;
use crate::git::GitError;
use crate::oci::ReferenceError;

/// A question about a package that could not be answered.
#[derive(Debug, thiserror::Error)]
pub enum PackageError {
    /// Files have mistakes.
    #[error("{0}")]
    Mistakes(Diagnostics),
    /// Git could not answer.
    #[error("package `{}` has no hash", package.display())]
    Git {
        /// The package.
        package: PathBuf,
        /// Why.
        #[source]
        source: GitError,
    },
    /// The package's directory is in a repository, but not in the commit.
    #[error("package `{}` is not in git: `{revision}` has nothing at `{}`", package.display(), path.display())]
    NotInGit {
        /// The package.
        package: PathBuf,
        /// What was looked for, below the repository's top.
        path: PathBuf,
        /// The commit.
        revision: String,
    },
    /// An extra source is no directory, or in no repository.
    #[error("source `{}` of package `{}` is not a directory in a git repository", source_path.display(), package.display())]
    SourceNotInGit {
        /// The package.
        package: PathBuf,
        /// The source's absolute path.
        source_path: PathBuf,
    },
    /// `--hash-path` is not above the package.
    #[error("hash path `{}` does not contain package `{}`, or is in another repository", hash_path.display(), package.display())]
    HashPath {
        /// The package.
        package: PathBuf,
        /// The path as given.
        hash_path: PathBuf,
    },
    /// A file of the package or of its sources could not be read.
    #[error("the files of package `{}` cannot be read", package.display())]
    Sources {
        /// The package.
        package: PathBuf,
        /// Why.
        #[source]
        source: std::io::Error,
    },
    /// The tag template cannot be evaluated.
    #[error("the tag template `{template}` of package `{}` cannot be evaluated", package.display())]
    Template {
        /// The package.
        package: PathBuf,
        /// The template.
        template: String,
        /// Why.
        #[source]
        source: TemplateError,
    },
    /// The image's name or its tag is none.
    #[error("package `{}` has no valid name", package.display())]
    Name {
        /// The package.
        package: PathBuf,
        /// Why.
        #[source]
        source: ReferenceError,
    },
    /// Packages depend on each other in a circle: each on the next, the last on the first.
    #[error("packages depend on each other: {}", cycle.join(" -> "))]
    Cycle {
        /// The packages' names and why each needs the next; the first is repeated at the end.
        cycle: Vec<String>,
    },
}

impl PackageError {
    /// Returns a command or setting that would help, where there is one.
    pub fn advice(&self) -> Option<String> {
        match self {
            Self::Git { source, .. } => source.advice(),
            Self::NotInGit { path, .. } => {
                Some(format!("`git add {}` and commit, or give the tag's hash with `--hash`", path.display()))
            }
            _ => None,
        }
    }
}
