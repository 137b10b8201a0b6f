//! Facts against plain git: every expected value comes from a git command in the test.

use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::process::Command;

use super::*;

/// A repository made by git itself.
pub(crate) struct Sample {
    directory: tempfile::TempDir,
}

impl Sample {
    pub(crate) fn new() -> Self {
        let sample = Self { directory: tempfile::tempdir().expect("temp dir") };
        sample.git(&["init", "-q", "-b", "main"]);
        sample.git(&["config", "user.name", "T"]);
        sample.git(&["config", "user.email", "t@example.org"]);
        sample
    }

    /// Returns a repository with two packages and something beside them, all committed.
    pub(crate) fn with_packages() -> Self {
        let sample = Self::new();
        for (path, text) in [
            ("pkg/a/Dockerfile", "FROM scratch\n"),
            ("pkg/a/build.yml", "image: a\n"),
            ("pkg/a/sub/deep/file", "deep\n"),
            ("pkg/a/é.txt", "accent\n"),
            ("pkg/ab/build.yml", "image: ab\n"),
            ("pkg/b/build.yml", "image: b\nextra-sources: ['../../shared:shared', '../a:/a']\n"),
            ("shared/lib.sh", "true\n"),
            (".gitignore", "*.ignored\n"),
        ] {
            sample.write(path, text);
        }
        symlink("Dockerfile", sample.path().join("pkg/a/link")).expect("links");
        sample.commit();
        sample
    }

    pub(crate) fn path(&self) -> PathBuf {
        fs_err::canonicalize(self.directory.path()).expect("exists")
    }

    pub(crate) fn write(&self, path: &str, text: &str) {
        let path = self.path().join(path);
        fs_err::create_dir_all(path.parent().expect("has one")).expect("creates");
        fs_err::write(path, text).expect("writes");
    }

    pub(crate) fn commit(&self) {
        self.git(&["add", "-A"]);
        self.git(&["commit", "-q", "--allow-empty", "-m", "m"]);
    }

    pub(crate) fn git(&self, arguments: &[&str]) -> String {
        git_in(&self.path(), arguments).expect("git succeeds")
    }

    /// Runs a shell script in a directory of the repository.
    pub(crate) fn shell(&self, directory: &str, script: &str) -> String {
        let output = Command::new("bash").arg("-c").arg(script).current_dir(self.path().join(directory)).output().expect("bash");
        String::from_utf8(output.stdout).expect("text").trim().to_owned()
    }

    fn make_executable(&self, path: &str) {
        fs_err::set_permissions(self.path().join(path), PermissionsExt::from_mode(0o755)).expect("changes");
    }

    /// Lets everything be asked of the git program.
    fn without_native_status(&self) {
        self.git(&["config", "core.sparseCheckout", "true"]);
    }
}

pub(crate) fn git_in(directory: &Path, arguments: &[&str]) -> Result<String, String> {
    let output = Command::new("git")
        .arg("-C")
        .arg(directory)
        .args(["-c", "protocol.file.allow=always", "-c", "commit.gpgSign=false"])
        .args(arguments)
        .output()
        .expect("git is installed");
    match output.status.success() {
        true => Ok(String::from_utf8(output.stdout).expect("text").trim_end().to_owned()),
        false => Err(String::from_utf8_lossy(&output.stderr).into_owned()),
    }
}

/// What linuxkit asks git about dirt, in its two commands.
fn is_dirty_by_git(directory: &Path) -> bool {
    let path = directory.to_str().expect("text");
    let changed = git_in(directory, &["diff", "--no-ext-diff", "--exit-code", "--quiet", "HEAD", "--", path]).is_err();
    changed || git_in(directory, &["ls-files", "--exclude-standard", "--others", "--error-unmatch", "--", path]).is_ok()
}

/// linuxkit's content hash as a shell pipeline: what git lists, as far as a file of that name exists.
pub(crate) const CONTENT_HASH: &str = r#"{ git ls-files; echo; git ls-files --exclude-standard --others; } |
    while IFS= read -r f; do if [ -f "$f" ] && [ ! -L "$f" ]; then cat "$f"; fi; done | sha256sum | cut -d' ' -f1"#;

/// Compares dirt and content hash of every package with git's.
fn compare(sample: &Sample, case: &str) {
    let mut repositories = Repositories::new();
    for package in ["pkg/a", "pkg/ab", "."] {
        let directory = sample.path().join(package);
        if !directory.is_dir() {
            continue;
        }
        let location = repositories.locate(&directory).expect("answers").expect("in git");
        assert_eq!(repositories.is_dirty(&location).expect("answers"), is_dirty_by_git(&directory), "{case}: {package}");
    }
    let location = repositories.locate(&sample.path().join("pkg/a")).expect("answers").expect("in git");
    let hash = repositories.content_hash(&location).expect("answers");
    assert_eq!(hash, sample.shell("pkg/a", CONTENT_HASH), "{case}: content");
}

type Change = (&'static str, fn(&Sample));

const CHANGES: &[Change] = &[
    ("clean", |_| {}),
    ("modified", |s| s.write("pkg/a/Dockerfile", "FROM x\n")),
    ("modified to the same size and back", |s| {
        s.write("pkg/a/Dockerfile", "FROM scratcH\n");
        s.write("pkg/a/Dockerfile", "FROM scratch\n");
    }),
    ("staged", |s| {
        s.write("pkg/a/Dockerfile", "FROM x\n");
        s.git(&["add", "-A"]);
    }),
    ("staged, then reverted in the work tree", |s| {
        s.write("pkg/a/Dockerfile", "FROM x\n");
        s.git(&["add", "-A"]);
        s.write("pkg/a/Dockerfile", "FROM scratch\n");
    }),
    ("staged, then changed again", |s| {
        s.write("pkg/a/Dockerfile", "FROM x\n");
        s.git(&["add", "-A"]);
        s.write("pkg/a/Dockerfile", "FROM y\n");
    }),
    ("only the mode", |s| s.make_executable("pkg/a/Dockerfile")),
    ("mode staged, then reverted", |s| {
        s.make_executable("pkg/a/Dockerfile");
        s.git(&["add", "-A"]);
        fs_err::set_permissions(s.path().join("pkg/a/Dockerfile"), PermissionsExt::from_mode(0o644)).expect("changes");
    }),
    ("deleted", |s| fs_err::remove_file(s.path().join("pkg/a/sub/deep/file")).expect("removes")),
    ("deleted and staged", |s| {
        s.git(&["rm", "-q", "pkg/a/Dockerfile"]);
    }),
    ("removed from the index only", |s| {
        s.git(&["rm", "-q", "--cached", "pkg/a/Dockerfile"]);
    }),
    ("untracked", |s| s.write("pkg/a/new", "n")),
    ("untracked below a new directory", |s| {
        s.write("pkg/a/new/z", "z");
        s.write("pkg/a/new/a", "a");
        s.write("pkg/a/new-x", "x");
    }),
    ("untracked and empty directory", |s| fs_err::create_dir(s.path().join("pkg/a/empty")).expect("creates")),
    ("ignored", |s| s.write("pkg/a/x.ignored", "i")),
    ("untracked directory with nothing but ignored files", |s| s.write("pkg/a/dir/x.ignored", "i")),
    ("ignored by a file of the package's own", |s| {
        s.write("pkg/a/.gitignore", "new\n");
        s.git(&["add", "-A"]);
        s.git(&["commit", "-q", "-m", "i"]);
        s.write("pkg/a/new", "n");
    }),
    ("non-ASCII name edited", |s| s.write("pkg/a/é.txt", "edited\n")),
    ("non-ASCII name untracked", |s| s.write("pkg/a/ü", "new\n")),
    ("non-ASCII names unquoted", |s| {
        s.git(&["config", "core.quotePath", "false"]);
        s.write("pkg/a/é.txt", "edited\n");
    }),
    ("names that are quoted", |s| {
        s.write("pkg/a/tab\there", "t");
        s.write("pkg/a/quote\"", "q");
        s.write("pkg/a/back\\slash", "b");
    }),
    ("staged new file, then deleted in the work tree", |s| {
        s.write("pkg/a/new", "n");
        s.git(&["add", "-A"]);
        fs_err::remove_file(s.path().join("pkg/a/new")).expect("removes");
    }),
    ("intended to be added", |s| {
        s.write("pkg/a/new", "n");
        s.git(&["add", "-N", "pkg/a/new"]);
    }),
    ("link points elsewhere", |s| {
        fs_err::remove_file(s.path().join("pkg/a/link")).expect("removes");
        symlink("build.yml", s.path().join("pkg/a/link")).expect("links");
    }),
    ("link becomes a file", |s| {
        fs_err::remove_file(s.path().join("pkg/a/link")).expect("removes");
        s.write("pkg/a/link", "Dockerfile");
    }),
    ("file becomes a directory", |s| {
        fs_err::remove_file(s.path().join("pkg/a/Dockerfile")).expect("removes");
        s.write("pkg/a/Dockerfile/x", "x");
    }),
    ("renamed", |s| {
        s.git(&["mv", "pkg/a/Dockerfile", "pkg/a/Dockerfile.old"]);
    }),
    ("touched", |s| {
        s.shell("pkg/a", "touch -d 2001-01-01 Dockerfile");
    }),
    ("another package", |s| s.write("pkg/ab/x", "x")),
    ("outside of all packages", |s| s.write("README", "x")),
    ("a repository inside a package", |s| {
        s.write("pkg/a/nested/file", "x");
        s.shell(
            "pkg/a/nested",
            "git init -q . && git -c user.name=n -c user.email=n add . && git -c user.name=n -c user.email=n commit -q -m n",
        );
    }),
    ("in conflict", |s| {
        s.git(&["checkout", "-q", "-b", "other"]);
        s.write("pkg/a/Dockerfile", "FROM other\n");
        s.commit();
        s.git(&["checkout", "-q", "main"]);
        s.write("pkg/a/Dockerfile", "FROM mine\n");
        s.commit();
        assert!(git_in(&s.path(), &["merge", "-q", "other"]).is_err());
    }),
    ("assumed unchanged", |s| {
        s.git(&["update-index", "--assume-unchanged", "pkg/a/Dockerfile"]);
        s.write("pkg/a/Dockerfile", "FROM x\n");
    }),
    ("skipped in the work tree", |s| {
        s.git(&["update-index", "--skip-worktree", "pkg/a/Dockerfile"]);
        fs_err::remove_file(s.path().join("pkg/a/Dockerfile")).expect("removes");
    }),
    ("sparse checkout", |s| {
        s.git(&["sparse-checkout", "set", "--no-cone", "/pkg/a/"]);
    }),
    ("sparse index", |s| {
        s.git(&["sparse-checkout", "set", "--cone", "--sparse-index", "pkg/a"]);
    }),
    ("split index", |s| {
        s.git(&["update-index", "--split-index"]);
        s.write("pkg/a/new", "n");
    }),
    ("line ends converted", |s| {
        s.write(".gitattributes", "*.crlf text eol=crlf\n");
        s.write("pkg/a/x.crlf", "a\nb\n");
        s.commit();
        fs_err::remove_file(s.path().join("pkg/a/x.crlf")).expect("removes");
        s.git(&["checkout", "-q", "--", "pkg/a/x.crlf"]);
        s.shell("pkg/a", "touch -d 2001-01-01 x.crlf");
    }),
    ("clean filter", |s| {
        s.git(&["config", "filter.upper.clean", "tr a-z A-Z"]);
        s.git(&["config", "filter.upper.smudge", "tr A-Z a-z"]);
        s.write(".gitattributes", "*.up filter=upper\n");
        s.write("pkg/a/x.up", "text\n");
        s.commit();
        s.shell("pkg/a", "touch -d 2001-01-01 x.up");
    }),
    ("submodule", |s| {
        let other = Sample::with_packages();
        s.git(&["submodule", "--quiet", "add", other.path().to_str().expect("text"), "pkg/a/module"]);
        s.git(&["commit", "-q", "-m", "s"]);
    }),
    ("submodule at another commit", |s| {
        let other = Sample::with_packages();
        s.git(&["submodule", "--quiet", "add", other.path().to_str().expect("text"), "pkg/a/module"]);
        s.git(&["commit", "-q", "-m", "s"]);
        s.shell("pkg/a/module", "git -c user.name=n -c user.email=n commit -q --allow-empty -m n");
    }),
    ("submodule with untracked files", |s| {
        let other = Sample::with_packages();
        s.git(&["submodule", "--quiet", "add", other.path().to_str().expect("text"), "pkg/a/module"]);
        s.git(&["commit", "-q", "-m", "s"]);
        s.write("pkg/a/module/untracked", "x");
    }),
];

#[test]
fn dirt_and_content_are_what_git_says() {
    for (case, change) in CHANGES {
        let sample = Sample::with_packages();
        change(&sample);
        compare(&sample, case);
    }
}

#[test]
fn the_git_program_gives_the_same_answers() {
    for (case, change) in CHANGES {
        let sample = Sample::with_packages();
        change(&sample);
        sample.without_native_status();
        compare(&sample, &format!("{case}, by command"));
    }
}

#[test]
fn tree_ids_are_those_of_rev_parse_in_every_kind_of_work_tree() {
    let sample = Sample::with_packages();
    let module = Sample::with_packages();
    sample.git(&["submodule", "--quiet", "add", module.path().to_str().expect("text"), "module"]);
    sample.git(&["commit", "-q", "-m", "s"]);
    let beside = tempfile::tempdir().expect("temp dir");
    let work_tree = beside.path().join("tree");
    sample.git(&["worktree", "add", "-q", work_tree.to_str().expect("text"), "HEAD~1"]);
    let link = beside.path().join("link");
    symlink(sample.path(), &link).expect("links");
    symlink(sample.path().join("pkg/a"), beside.path().join("a")).expect("links");
    let mut repositories = Repositories::new();
    let mut tree = |directory: &Path, revision: &str| {
        let location = repositories.locate(directory).expect("answers").expect("in git");
        repositories.tree(&location, revision).expect("answers").map(|id| id.to_string())
    };
    let expect = |directory: &Path, spec: &str| git_in(directory, &["rev-parse", spec]).ok();
    for (directory, spec) in [
        (sample.path().join("pkg/a"), "HEAD:pkg/a"),
        (sample.path().join("pkg/a/sub/deep"), "HEAD:pkg/a/sub/deep"),
        (sample.path(), "HEAD^{tree}"),
        (sample.path().join("module/pkg/b"), "HEAD:pkg/b"),
        (sample.path().join("module"), "HEAD^{tree}"),
        (work_tree.join("pkg/ab"), "HEAD:pkg/ab"),
        (work_tree.clone(), "HEAD^{tree}"),
        (link.join("pkg/a"), "HEAD:pkg/a"),
        (link.clone(), "HEAD^{tree}"),
        (beside.path().join("a"), "HEAD:pkg/a"),
    ] {
        assert_eq!(tree(&directory, "HEAD"), expect(&directory, spec), "{}", directory.display());
        assert!(expect(&directory, spec).is_some());
    }
    let a = sample.path().join("pkg/a");
    sample.write("pkg/a/more", "x");
    sample.commit();
    sample.git(&["tag", "-a", "v1", "-m", "v1", "HEAD~1"]);
    let mut repositories = Repositories::new();
    let location = repositories.locate(&a).expect("answers").expect("in git");
    for revision in ["HEAD", "HEAD~1", "main", "v1", &sample.git(&["rev-parse", "HEAD~1"])[..10]] {
        let expected = sample.git(&["rev-parse", &format!("{revision}:pkg/a")]);
        assert_eq!(repositories.tree(&location, revision).expect("answers").expect("there").as_str(), expected, "{revision}");
    }
    assert!(matches!(repositories.tree(&location, "nothing"), Err(GitError::Revision { .. })));
}

#[test]
fn commits_and_tags_are_those_of_git() {
    for by_command in [false, true] {
        let sample = Sample::with_packages();
        sample.write("pkg/ab/x", "1");
        sample.commit();
        sample.git(&["checkout", "-q", "-b", "side", "HEAD~1"]);
        sample.write("pkg/b/x", "1");
        sample.commit();
        sample.git(&["checkout", "-q", "main"]);
        sample.git(&["-c", "user.name=n", "-c", "user.email=n", "merge", "-q", "--no-ff", "-m", "merge", "side"]);
        sample.git(&["tag", "v2"]);
        sample.git(&["tag", "-a", "v10", "-m", "annotated"]);
        sample.git(&["tag", "old", "HEAD~1"]);
        sample.git(&["tag", "tree", "HEAD^{tree}"]);
        if by_command {
            // libgit2 does not know this extension and so does not open the repository.
            sample.git(&["config", "core.repositoryFormatVersion", "1"]);
            sample.git(&["config", "extensions.relativeWorktrees", "true"]);
            if git_in(&sample.path(), &["status"]).is_err() {
                continue;
            }
        }
        let mut repositories = Repositories::new();
        let location = repositories.locate(&sample.path()).expect("answers").expect("in git");
        let head = repositories.head(&location).expect("answers").expect("has one");
        let shown = format!("{} {} {}", head.id, head.short, head.time);
        assert_eq!(shown, sample.git(&["show", "--no-patch", "--abbrev=12", "--format=%H %h %ct"]));
        assert_eq!(repositories.tags_at_head(&location).expect("answers"), ["v10", "v2"]);
        for path in ["pkg/a", "pkg/ab", "pkg/b", "pkg", ""] {
            let location = repositories.locate(&sample.path().join(path)).expect("answers").expect("in git");
            let last = repositories.last_change(&location).expect("answers").expect("has one");
            let spec = if path.is_empty() { "." } else { path };
            assert_eq!(last.id.as_str(), sample.git(&["log", "-1", "--format=%H", "--", spec]), "{path}");
        }
        let a = repositories.locate(&sample.path().join("pkg/a")).expect("answers").expect("in git");
        let expected = sample.git(&["rev-parse", "HEAD:pkg/a"]);
        assert_eq!(repositories.tree(&a, "HEAD").expect("answers").expect("there").as_str(), expected);
    }
}

#[test]
fn what_libgit2_cannot_open_git_answers() {
    for arguments in [&["--object-format=sha256"][..], &["--ref-format=reftable"]] {
        let directory = tempfile::tempdir().expect("temp dir");
        let root = fs_err::canonicalize(directory.path()).expect("exists");
        if git_in(&root, &[&["init", "-q"], arguments, &["."]].concat()).is_err() {
            continue;
        }
        fs_err::create_dir_all(root.join("pkg/a")).expect("creates");
        fs_err::write(root.join("pkg/a/build.yml"), "image: a\n").expect("writes");
        git_in(&root, &["add", "-A"]).expect("adds");
        git_in(&root, &["-c", "user.name=n", "-c", "user.email=n", "commit", "-q", "-m", "m"]).expect("commits");
        let mut repositories = Repositories::new();
        let location = repositories.locate(&root.join("pkg/a")).expect("answers").expect("in git");
        let expected = git_in(&root, &["rev-parse", "HEAD:pkg/a"]).expect("there");
        assert_eq!(repositories.tree(&location, "HEAD").expect("answers").expect("there").as_str(), expected);
        assert!(!repositories.is_dirty(&location).expect("answers"));
        fs_err::write(root.join("pkg/a/new"), "x").expect("writes");
        let mut repositories = Repositories::new();
        let location = repositories.locate(&root.join("pkg/a")).expect("answers").expect("in git");
        assert!(repositories.is_dirty(&location).expect("answers"), "{arguments:?}");
    }
}

#[test]
fn where_git_cannot_answer_there_is_an_error_and_never_absence() {
    let outside = tempfile::tempdir().expect("temp dir");
    assert_eq!(Repositories::new().locate(outside.path()).expect("answers"), None);
    assert!(matches!(Repositories::new().locate(&outside.path().join("nothing")), Err(GitError::Directory { .. })));

    let empty = Sample::new();
    empty.write("pkg/a/build.yml", "image: a\n");
    let mut repositories = Repositories::new();
    let location = repositories.locate(&empty.path().join("pkg/a")).expect("answers").expect("in git");
    assert!(matches!(repositories.tree(&location, "HEAD"), Err(GitError::NoCommit { .. })));
    assert_eq!(repositories.head(&location).expect("answers"), None);
    assert!(repositories.is_dirty(&location).expect("answers"));

    for (file, damage) in [(".git/config", "[core\n"), (".git/HEAD", "nonsense\n"), (".git/index", "nonsense")] {
        let sample = Sample::with_packages();
        sample.write(file, damage);
        let error = Repositories::new().locate(&sample.path().join("pkg/a"));
        let error = match error {
            // Only what needs the index fails then.
            Ok(Some(location)) => {
                let mut repositories = Repositories::new();
                repositories.locate(&sample.path()).expect("answers");
                repositories.is_dirty(&location).map(drop)
            }
            other => other.map(drop),
        };
        assert!(
            matches!(error, Err(GitError::Open { .. } | GitError::Read { .. } | GitError::Command { .. })),
            "{file}: {error:?}"
        );
    }

    let orphan = Sample::new();
    orphan.shell(".", "rm -rf .git; echo 'gitdir: /nonexistent/worktrees/x' > .git");
    assert!(matches!(Repositories::new().locate(&orphan.path()), Err(GitError::Open { .. })));

    let corrupt = Sample::with_packages();
    let tree = corrupt.git(&["rev-parse", "HEAD:pkg"]);
    corrupt.write(&format!(".git/objects/{}/x", &tree[..2]), "");
    let object = corrupt.path().join(format!(".git/objects/{}/{}", &tree[..2], &tree[2..]));
    fs_err::remove_file(&object).expect("loose");
    fs_err::write(&object, "junk").expect("writes");
    let mut repositories = Repositories::new();
    let location = repositories.locate(&corrupt.path().join("pkg/a")).expect("answers").expect("in git");
    let error = repositories.tree(&location, "HEAD").expect_err("the object is junk");
    assert!(matches!(error, GitError::Read { .. }) && error.advice().is_some_and(|advice| advice.contains("fsck")), "{error:?}");
}

/// Needs root, to give the repository to somebody else.
#[test]
fn a_repository_of_somebody_else_is_refused_with_advice() {
    let sample = Sample::with_packages();
    let chown = |owner: &str| Command::new("chown").args(["-R", owner]).arg(sample.path()).status().is_ok_and(|s| s.success());
    if !chown("4711") || git_in(&sample.path(), &["status"]).is_ok() {
        return;
    }
    let error = Repositories::new().locate(&sample.path().join("pkg/a")).expect_err("refused");
    assert!(matches!(error, GitError::Owner { .. }), "{error:?}");
    assert!(error.advice().is_some_and(|advice| advice.contains("safe.directory")));
}
