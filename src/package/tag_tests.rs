//! Tags against plain git: the formulae of linuxkit, with git's own answers in them.

use std::collections::BTreeMap;
use std::path::Path;

use super::*;
use crate::diagnostic::Diagnostics;
use crate::git::Repositories;
use crate::git::tests::{CONTENT_HASH, Sample, git_in};

fn package(directory: &Path) -> Package {
    let workspace = Workspace::load(WorkspaceOptions::new(directory)).expect("valid");
    workspace.open(directory).expect("valid")
}

fn tag_with(directory: &Path, overrides: &TagOverrides) -> Result<PackageTag, PackageError> {
    compute(&package(directory), &mut Repositories::new(), overrides)
}

fn tag(directory: &Path) -> PackageTag {
    tag_with(directory, &TagOverrides::default()).expect("has a tag")
}

#[test]
fn a_clean_package_has_the_tree_id_of_its_directory() {
    let sample = Sample::with_packages();
    let tag = tag(&sample.path().join("pkg/a"));
    let tree = sample.git(&["rev-parse", "HEAD:pkg/a"]);
    assert_eq!((tag.short, tag.full), (format!("linuxkit/a:{tree}"), format!("docker.io/linuxkit/a:{tree}")));
    assert_eq!((tag.hash, tag.state), (tree, SourceState::Clean));
    assert_eq!(tag.commit.expect("has one").id.as_str(), sample.git(&["rev-parse", "HEAD"]));
}

#[test]
fn extra_sources_are_hashed_as_hex_text_each_from_its_own_repository() {
    let sample = Sample::with_packages();
    let script = r#"printf %s "$(git rev-parse HEAD:pkg/b)$(git rev-parse HEAD:shared)$(git rev-parse HEAD:pkg/a)" | sha1sum | cut -d' ' -f1"#;
    let b = sample.path().join("pkg/b");
    assert_eq!(tag(&b).hash, sample.shell(".", script));
    // Dirt in an extra source is not seen, as in linuxkit.
    sample.write("shared/lib.sh", "false\n");
    assert_eq!((tag(&b).hash, tag(&b).state), (sample.shell(".", script), SourceState::Clean));

    let other = Sample::with_packages();
    let root = other.path();
    sample.write("pkg/b/build.yml", &format!("image: b\nextra-sources: ['{0}/shared:x', '{0}:y']\n", root.display()));
    sample.commit();
    let trees =
        [git_in(&root, &["rev-parse", "HEAD:shared"]), git_in(&root, &["rev-parse", "HEAD^{tree}"])].map(Result::unwrap).concat();
    assert_eq!(
        tag(&b).hash,
        sample.shell(".", &format!("printf %s $(git rev-parse HEAD:pkg/b){trees} | sha1sum | cut -d' ' -f1"))
    );

    for source in ["../nothing", "Dockerfile", "/tmp"] {
        sample.write("pkg/b/build.yml", &format!("image: b\nextra-sources: ['{source}:x']\n"));
        let error = tag_with(&b, &TagOverrides { hash: Some("given".into()), ..TagOverrides::default() });
        assert!(matches!(error, Err(PackageError::SourceNotInGit { .. })), "{source}: {error:?}");
    }
}

#[test]
fn a_dirty_package_ends_in_its_content_hash() {
    let sample = Sample::with_packages();
    sample.write("pkg/a/new", "n");
    sample.write("pkg/a/é.txt", "skipped");
    let tag = tag(&sample.path().join("pkg/a"));
    let content = sample.shell("pkg/a", CONTENT_HASH);
    assert_eq!(tag.hash, format!("{}-dirty-{}", sample.git(&["rev-parse", "HEAD:pkg/a"]), &content[..7]));
    assert_eq!((tag.state, tag.revision()), (SourceState::Dirty, None));
    // The list of names is trimmed as a whole before it is read, so a blank at its very end loses the last file.
    sample.write("pkg/a/zz ", "lost");
    let content = sample.shell("pkg/a", "cat Dockerfile build.yml sub/deep/file new | sha256sum");
    assert!(self::tag(&sample.path().join("pkg/a")).hash.ends_with(&format!("-dirty-{}", &content[..7])));
}

#[test]
fn what_is_said_about_hashes_is_obeyed() {
    let sample = Sample::with_packages();
    let old = sample.git(&["rev-parse", "HEAD"]);
    sample.write("pkg/a/more", "1");
    sample.commit();
    let a = sample.path().join("pkg/a");
    let hash = |change: fn(&mut TagOverrides)| {
        let mut overrides = TagOverrides::default();
        change(&mut overrides);
        let tag = tag_with(&a, &overrides).expect("has a tag");
        (tag.hash, tag.state)
    };
    let head = sample.git(&["rev-parse", "HEAD:pkg/a"]);
    let content = sample.shell("pkg/a", CONTENT_HASH)[..7].to_owned();
    assert_eq!(hash(|o| o.hash = Some("v1".into())), ("v1".into(), SourceState::Clean));
    assert_eq!(hash(|o| o.hash = Some(String::new())), (head.clone(), SourceState::Clean));
    assert_eq!(hash(|o| o.dev = true), ("dev".into(), SourceState::Clean));
    assert_eq!(
        hash(|o| {
            o.dev = true;
            o.hash = Some("x".into());
        }),
        ("x".into(), SourceState::Clean)
    );
    assert_eq!(hash(|o| o.force_dirty = true), (format!("{head}-dirty-{content}"), SourceState::Dirty));
    assert_eq!(hash(|o| o.hash_commit = "HEAD~1".into()), (sample.git(&["rev-parse", "HEAD~1:pkg/a"]), SourceState::Clean));
    let overrides = TagOverrides { hash_commit: old.clone(), ..TagOverrides::default() };
    assert_eq!(tag_with(&a, &overrides).expect("has a tag").hash, sample.git(&["rev-parse", &format!("{old}:pkg/a")]));

    sample.write("pkg/a/untracked", "u");
    assert_eq!(hash(|o| o.hash = Some("v1".into())), ("v1".into(), SourceState::Dirty));
    assert_eq!(hash(|o| o.hash_commit = "main".into()), (head, SourceState::Clean));
}

#[test]
fn the_hash_path_decides_about_tree_and_dirt_but_not_about_content() {
    let sample = Sample::with_packages();
    let a = sample.path().join("pkg/a");
    let above = |path: &str| TagOverrides { hash_path: Some(sample.path().join(path)), ..TagOverrides::default() };
    assert_eq!(tag_with(&a, &above("pkg")).expect("has a tag").hash, sample.git(&["rev-parse", "HEAD:pkg"]));
    let root = sample.git(&["rev-parse", "HEAD^{tree}"]);
    assert_eq!(tag_with(&a, &above("")).expect("has a tag").hash, root);
    sample.write("pkg/ab/new", "outside of the package");
    let content = sample.shell("pkg/a", CONTENT_HASH);
    assert_eq!(tag_with(&a, &above("")).expect("has a tag").hash, format!("{root}-dirty-{}", &content[..7]));
    assert_eq!(tag(&a).state, SourceState::Clean);
    for path in ["pkg/b", "pk", "pkg/a/sub"] {
        assert!(matches!(tag_with(&a, &above(path)), Err(PackageError::HashPath { .. })), "{path}");
    }
}

#[test]
fn templates_make_tags_and_what_is_no_tag_is_refused() {
    let sample = Sample::with_packages();
    let a = sample.path().join("pkg/a");
    let tree = sample.git(&["rev-parse", "HEAD:pkg/a"]);
    let with = |template: &str| {
        let mut package = package(&a);
        package.settings.tag = Template::parse(template).expect("parses");
        compute(&package, &mut Repositories::new(), &TagOverrides::default()).map(|tag| tag.short)
    };
    assert_eq!(with("{{.Hash}}-kube").expect("valid"), format!("linuxkit/a:{tree}-kube"));
    assert_eq!(with("{{slice .Hash 0 7}}").expect("valid"), format!("linuxkit/a:{}", &tree[..7]));
    assert_eq!(with("{{if false}}x{{end}}").expect("valid"), "linuxkit/a:latest");
    assert!(matches!(with("a b"), Err(PackageError::Name { .. })));
    assert!(matches!(with("{{slice .Hash 0 99}}"), Err(PackageError::Template { .. })));
    assert!(matches!(with(&"x".repeat(129)), Err(PackageError::Name { .. })));
}

#[test]
fn packages_at_the_root_and_outside_of_git_have_linuxkits_tags() {
    let sample = Sample::new();
    sample.write("build.yml", "image: root\n");
    sample.commit();
    assert_eq!(tag(&sample.path()).hash, sample.git(&["rev-parse", "HEAD^{tree}"]));
    let links = tempfile::tempdir().expect("temp dir");
    std::os::unix::fs::symlink(sample.path(), links.path().join("link")).expect("links");
    assert_eq!(tag(&links.path().join("link")).hash, sample.git(&["rev-parse", "HEAD^{tree}"]));

    fs_err::write(links.path().join("build.yml"), "image: x\n").expect("writes");
    let outside = tag(links.path());
    assert_eq!(
        (outside.short.as_str(), outside.hash.as_str(), outside.state),
        ("linuxkit/x:latest", "", SourceState::OutsideGit)
    );
    let given = TagOverrides { hash: Some("v1".into()), force_dirty: true, ..TagOverrides::default() };
    let outside = tag_with(links.path(), &given).expect("has a tag");
    assert_eq!((outside.short.as_str(), outside.state), ("linuxkit/x:v1", SourceState::OutsideGit));
    assert!(!outside_labels(&outside).contains_key("org.opencontainers.image.source"));

    sample.write("new/build.yml", "image: new\n");
    let error = tag_with(&sample.path().join("new"), &TagOverrides::default()).expect_err("not committed");
    assert!(matches!(&error, PackageError::NotInGit { .. }), "{error}");

    fn outside_labels(tag: &PackageTag) -> BTreeMap<String, String> {
        let directory = tempfile::tempdir().expect("temp dir");
        fs_err::write(directory.path().join("build.yml"), "image: x\n").expect("writes");
        package(directory.path()).labels(tag)
    }
}

#[test]
fn where_git_cannot_answer_there_is_no_tag() {
    let sample = Sample::new();
    sample.write("pkg/a/build.yml", "image: a\n");
    let a = sample.path().join("pkg/a");
    let error = tag_with(&a, &TagOverrides::default()).expect_err("no commit");
    assert!(error.advice().is_some_and(|advice| advice.contains("--hash")), "{error}");
    let given = TagOverrides { hash: Some("v1".into()), ..TagOverrides::default() };
    assert_eq!(tag_with(&a, &given).expect("has a tag").state, SourceState::Dirty);
    sample.write(".git/config", "[core\n");
    assert!(matches!(tag_with(&a, &given), Err(PackageError::Git { .. })));
}

fn resolve(sample: &Sample, directory: &str, files: &[(&str, &str)]) -> Result<BTreeMap<String, String>, String> {
    let mut options = WorkspaceOptions::new(&sample.path());
    options.overrides.org = Some("overridden".to_owned());
    let workspace = Workspace::load(options).expect("valid");
    let files: Vec<ArgFile> = files
        .iter()
        .map(|(path, text)| {
            sample.write(path, text);
            ArgFile { path: sample.path().join(path), shown: path.into() }
        })
        .collect();
    let package = workspace.open(&sample.path().join(directory)).expect("valid");
    let mut repositories = Repositories::new();
    let tag = compute(&package, &mut repositories, &TagOverrides::default()).expect("has a tag");
    let mut args = Args::read(&workspace, &files).map_err(|Diagnostics(all)| Diagnostics(all).to_string())?;
    args.resolve(&package, &tag, &mut repositories).map_err(|error| error.to_string())
}

#[test]
fn arguments_come_from_build_yml_then_files_then_presets() {
    let sample = Sample::with_packages();
    let yaml = "image: c\norg: lfedge\nbuildArgs:\n- A=1\n- 'SP = x'\n- B=2=3\n- SOURCE=mine\n- D=@lkt:pkg:../a\n- H_%=@lkt:pkgs:../a*\n";
    sample.write("pkg/c/build.yml", yaml);
    sample.write("pkg/eve-grub/build.yml", "image: eve-grub\norg: lfedge/x\n");
    sample.write("pkg/.hidden/x", "");
    sample.commit();
    let (a, ab) = (sample.git(&["rev-parse", "HEAD:pkg/a"]), sample.git(&["rev-parse", "HEAD:pkg/ab"]));
    let resolved = resolve(&sample, "pkg/c", &[]).expect("resolves");
    let version = sample
        .shell(".", "TZ=UTC git --no-pager show --quiet --abbrev=12 --date=format-local:%Y%m%d%H%M%S --format=v0.0.0-%cd-%h");
    let expected = [
        ("A", "1".to_owned()),
        ("SP ", " x".to_owned()),
        ("B", "2=3".to_owned()),
        ("SOURCE", "mine".to_owned()),
        // What the command line overrides does not hold for packages that are referred to.
        ("D", format!("linuxkit/a:{a}")),
        ("H_LINUXKIT_A", format!("linuxkit/a:{a}")),
        ("H_LINUXKIT_AB", format!("linuxkit/ab:{ab}")),
        ("REVISION", sample.git(&["rev-parse", "HEAD"])),
        ("GOPKGVERSION", version),
        ("PKG_HASH", sample.git(&["rev-parse", "HEAD:pkg/c"])),
        ("PKG_IMAGE", "overridden/c".to_owned()),
    ];
    assert_eq!(resolved, expected.into_iter().map(|(key, value)| (key.to_owned(), value)).collect());

    let files = [("args/one", "A=2\n  X = y z \r\n"), ("args/two", "X=@lkt:pkg:../pkg/eve-grub\nY_%=@lkt:pkgs:../pkg/eve-*\n")];
    let resolved = resolve(&sample, "pkg/c", &files).expect("resolves");
    let grub = format!("lfedge/x/eve-grub:{}", sample.git(&["rev-parse", "HEAD:pkg/eve-grub"]));
    assert_eq!((resolved["A"].as_str(), &resolved["X"], &resolved["Y_LFEDGE_X_EVE_GRUB"]), ("2", &grub, &grub));
}

#[test]
fn every_wrong_argument_is_told_with_its_place() {
    let sample = Sample::with_packages();
    let yaml = "image: c\nbuildArgs: ['A=@lkt:pkg:../nothing', 'B_%=@lkt:pkgs:../x*', 'C_%=@lkt:pkgs:../*']\n";
    sample.write("pkg/c/build.yml", yaml);
    sample.write("pkg/bare/Dockerfile", "");
    sample.commit();
    let error = resolve(&sample, "pkg/c", &[]).expect_err("wrong").replace(sample.path().to_str().expect("text"), "ROOT");
    insta::assert_snapshot!(error);
    let error =
        resolve(&sample, "pkg/a", &[("args/one", "A=1\n\n# comment\nB\nC=@lkt:x\nD=@lkt:pkgs:../*\n")]).expect_err("wrong");
    insta::assert_snapshot!(error);
}
