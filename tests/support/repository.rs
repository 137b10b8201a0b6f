//! Git repositories made by git itself.

use super::{hermetic, output_of};
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use tempfile::TempDir;

/// A git repository in a directory of its own, removed when dropped. Author and dates are fixed, so equal contents in an equal
/// order give equal commits.
pub struct Repository {
    home: TempDir,
    root: PathBuf,
}

impl Repository {
    /// Returns an empty repository without a commit.
    pub fn new() -> Self {
        let home = TempDir::new().expect("a temporary directory");
        let root = home.path().canonicalize().expect("the directory exists").join("repository");
        fs::create_dir(&root).expect("the home is empty");
        let repository = Self { home, root };
        repository.git(&["init", "--quiet", "--initial-branch=main"]);
        repository
    }

    /// Returns the repository's root, without symbolic links in it.
    pub fn path(&self) -> &Path {
        &self.root
    }

    /// Writes a file, with the directories above it.
    pub fn write(&self, path: &str, contents: impl AsRef<[u8]>) -> &Self {
        let path = self.root.join(path);
        fs::create_dir_all(path.parent().expect("a file in the root has a parent")).expect("directories can be made");
        fs::write(path, contents).expect("files can be written");
        self
    }

    /// Makes a file of the repository executable.
    pub fn make_executable(&self, path: &str) -> &Self {
        fs::set_permissions(self.root.join(path), fs::Permissions::from_mode(0o755)).expect("the file exists");
        self
    }

    /// Runs git in the root and returns what it prints; panics when it fails.
    #[track_caller]
    pub fn git(&self, arguments: &[&str]) -> String {
        let mut command = hermetic("git", self.home.path());
        command.current_dir(&self.root).args(arguments).env("GIT_CONFIG_NOSYSTEM", "1");
        for role in ["AUTHOR", "COMMITTER"] {
            command
                .env(format!("GIT_{role}_NAME"), "A. Tester")
                .env(format!("GIT_{role}_EMAIL"), "tester@example.org")
                .env(format!("GIT_{role}_DATE"), "2001-02-03T04:05:06Z");
        }
        output_of(&mut command)
    }

    /// Commits all that git does not ignore and returns the commit's id.
    #[track_caller]
    pub fn commit(&self, message: &str) -> String {
        self.git(&["add", "--all"]);
        self.git(&["commit", "--quiet", "--allow-empty", "--message", message]);
        self.git(&["rev-parse", "HEAD"])
    }

    /// Returns the id that git gives a directory in `HEAD`.
    #[track_caller]
    pub fn tree(&self, directory: &str) -> String {
        self.git(&["rev-parse", &format!("HEAD:{directory}")])
    }
}
