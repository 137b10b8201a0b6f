//! Keys and tags of packages in real repositories.

use std::os::unix::fs::{PermissionsExt, symlink};

use super::super::{ArgFile, PackageOverrides, WorkspaceOptions, compute};
use super::*;
use crate::git::tests::Sample;

const COMPLETE: &str = "tag-scheme: complete\n";

/// Packages of which each needs the one before: through an image, through an argument, and by declaration.
fn sample(scheme: &str) -> Sample {
    let sample = Sample::new();
    for (path, text) in [
        ("pkgbuild.yml", scheme),
        ("pkg/base/Dockerfile", "FROM scratch\nCOPY . /\n"),
        ("pkg/base/build.yml", "image: base\n"),
        ("pkg/base/file", "1\n"),
        ("pkg/image/Dockerfile", "FROM linuxkit/base:1\n"),
        ("pkg/image/build.yml", "image: image\n"),
        ("pkg/argument/Dockerfile", "ARG BASE\nFROM ${BASE}\n"),
        ("pkg/argument/build.yml", "image: argument\nbuildArgs: ['BASE=@lkt:pkg:../image']\n"),
        ("pkg/declared/Dockerfile", "FROM scratch\n"),
        ("pkg/declared/build.yml", "image: declared\ndepends: {packages: [argument]}\n"),
        ("pkg/other/Dockerfile", "FROM alpine:3\n"),
        ("pkg/other/build.yml", "image: other\nextra-sources: ['../../shared:dest']\n"),
        ("shared/lib.sh", "true\n"),
        (".gitignore", "*.ignored\nout/\n"),
    ] {
        sample.write(path, text);
    }
    sample.commit();
    sample
}

/// What the command line says.
#[derive(Default)]
struct Said {
    packages: PackageOverrides,
    tags: TagOverrides,
    arguments: Vec<(String, String)>,
    files: Vec<ArgFile>,
}

/// Returns each package's key, and its tag under the workspace's scheme.
fn keys_with(sample: &Sample, said: &Said) -> Result<BTreeMap<String, (String, String)>, String> {
    let mut options = WorkspaceOptions::new(&sample.path());
    options.overrides = said.packages.clone();
    let workspace = Workspace::load(options).expect("valid");
    let packages = workspace.select(&[]).map_err(|mistakes| mistakes.to_string())?;
    let mut repositories = Repositories::new();
    let mut args = Args::read(&workspace, &said.files).expect("valid").with(&said.arguments);
    let graph = Graph::build(&workspace, packages, &args).map_err(|error| error.to_string())?;
    let keyed = input_keys(&workspace, &graph, &mut args, &mut repositories, &said.tags).map_err(|error| format!("{error:?}"))?;
    let one = |(package, keyed): (&Package, &Keyed)| {
        let tag = match workspace.settings().tag_scheme {
            TagScheme::Linuxkit => compute(package, &mut repositories, &said.tags),
            TagScheme::Complete => keyed.tag(package, &said.tags),
        };
        let tag = tag.map_err(|error| error.to_string())?;
        Ok((package.settings.image.clone(), (keyed.key.key().to_owned(), tag.short)))
    };
    graph.packages().iter().zip(&keyed).map(one).collect()
}

fn keys(sample: &Sample) -> BTreeMap<String, (String, String)> {
    keys_with(sample, &Said::default()).expect("has keys")
}

/// Returns the packages whose key changed, and those whose tag did.
fn changed(
    before: &BTreeMap<String, (String, String)>,
    after: &BTreeMap<String, (String, String)>,
) -> (Vec<String>, Vec<String>) {
    let differing = |differs: fn(&(String, String), &(String, String)) -> bool| {
        before.iter().filter(|(name, old)| differs(old, &after[*name])).map(|(name, _)| name.clone()).collect()
    };
    (differing(|a, b| a.0 != b.0), differing(|a, b| a.1 != b.1))
}

#[test]
fn a_changed_base_changes_the_keys_of_all_that_need_it_and_their_tags_only_under_the_complete_scheme() {
    for (scheme, tags) in [("{}\n", &["base"][..]), (COMPLETE, &["argument", "base", "declared", "image"])] {
        let sample = sample(scheme);
        let before = keys(&sample);
        sample.write("pkg/base/file", "2\n");
        sample.commit();
        let (keys, changed) = changed(&before, &keys(&sample));
        assert_eq!(keys, ["argument", "base", "declared", "image"]);
        assert_eq!(changed, tags);
    }
}

#[test]
fn the_key_is_the_same_under_both_schemes_unless_an_argument_is_a_tag() {
    let (mut linuxkit, mut complete) = (keys(&sample("{}\n")), keys(&sample(COMPLETE)));
    for name in ["base", "image", "other"] {
        let (key, tag) = complete.remove(name).expect("there");
        assert_eq!(tag, format!("linuxkit/{name}:{}", &key[..40]));
        assert_eq!(linuxkit.remove(name).expect("there").0, key);
    }
    assert!(linuxkit.iter().all(|(name, (key, _))| complete[name].0 != *key));
}

#[test]
fn arguments_refer_to_packages_by_the_tags_of_the_scheme() {
    let sample = sample(COMPLETE);
    let workspace = Workspace::load(WorkspaceOptions::new(&sample.path())).expect("valid");
    let packages = workspace.select(&["argument".to_owned()]).expect("there");
    let mut repositories = Repositories::new();
    let mut args = Args::read(&workspace, &[]).expect("none");
    let graph = Graph::build(&workspace, packages.clone(), &args).expect("no circle");
    let overrides = TagOverrides::default();
    let keyed = input_keys(&workspace, &graph, &mut args, &mut repositories, &overrides).expect("has keys");
    let place = graph.place_of(&packages[0]).expect("was selected");
    let tag = keyed[place].tag(&packages[0], &overrides).expect("has a tag");
    let resolved = args.resolve(&packages[0], &tag, &mut repositories).expect("resolves");
    assert_eq!((&resolved["BASE"], &resolved["PKG_HASH"]), (&keys(&sample)["image"].1, &tag.hash));

    sample.write("pkg/base/build.yml", "image: base\nbuildArgs: ['SELF=@lkt:pkg:.']\n");
    let error = keys_with(&sample, &Said::default()).expect_err("its own tag");
    assert!(error.contains("follows from its arguments"), "{error}");
}

type Change = (&'static str, fn(&Sample));

#[test]
fn whatever_goes_in_changes_the_key() {
    let changes: &[Change] = &[
        ("content", |s| s.write("pkg/other/Dockerfile", "FROM alpine:3 AS x\n")),
        ("a new file", |s| s.write("pkg/other/new", "")),
        ("a new ignored file", |s| s.write("pkg/other/new.ignored", "")),
        ("an ignored directory", |s| s.write("pkg/other/out/a", "")),
        ("a name in an ignored directory", |s| s.write("pkg/other/out/b", "")),
        ("content in an ignored directory", |s| s.write("pkg/other/out/b", "1")),
        ("a mode", |s| {
            s.write("pkg/other/out/b", "");
            let path = s.path().join("pkg/other/out/b");
            fs_err::set_permissions(path, PermissionsExt::from_mode(0o755)).expect("changes");
        }),
        ("a link", |s| symlink("x", s.path().join("pkg/other/link")).expect("links")),
        ("a link's target", |s| symlink("xy", s.path().join("pkg/other/link")).expect("links")),
        ("a file instead of a link", |s| s.write("pkg/other/link", "xy")),
        ("an extra source", |s| s.write("shared/lib.sh", "false\n")),
        ("a new file of an extra source", |s| s.write("shared/new", "")),
        ("an ignored file of an extra source", |s| s.write("shared/x.ignored", "")),
        ("a destination", |s| s.write("pkg/other/build.yml", "image: other\nextra-sources: ['../../shared:else']\n")),
        ("defaults", |s| s.write("pkgbuild.yml", "tag-scheme: complete\ndefaults: {network: true}\n")),
        ("default labels", |s| s.write("pkgbuild.yml", "tag-scheme: complete\ndefaults: {labels: {a: b}}\n")),
        ("default platforms", |s| s.write("pkgbuild.yml", "tag-scheme: complete\ndefaults: {arches: [amd64]}\n")),
    ];
    for is_committed in [false, true] {
        let mut seen = BTreeMap::new();
        for (name, change) in changes {
            let sample = sample(COMPLETE);
            let before = keys(&sample);
            change(&sample);
            if is_committed {
                sample.commit();
            }
            let after = keys(&sample);
            assert!(changed(&before, &after).0.contains(&"other".to_owned()), "{name}");
            assert_eq!(seen.insert(after["other"].0.clone(), name), None, "{name} is a change of its own");
        }
    }
}

#[test]
fn what_is_left_out_changes_nothing() {
    let before = keys(&sample(COMPLETE));
    let changes: &[Change] = &[
        ("another directory and commit", |s| s.write("elsewhere", "")),
        ("an empty directory", |s| fs_err::create_dir(s.path().join("pkg/other/empty")).expect("creates")),
        ("permissions that git does not keep", |s| {
            let path = s.path().join("pkg/other/Dockerfile");
            fs_err::set_permissions(path, PermissionsExt::from_mode(0o600)).expect("changes");
        }),
        ("the cache and the packages' patterns", |s| {
            s.write("pkgbuild.yml", "tag-scheme: complete\ndefaults: {disable-cache: true}\npackages: ['pkg/[a-z]*']\n");
        }),
    ];
    for (name, change) in changes {
        let sample = sample(COMPLETE);
        change(&sample);
        sample.commit();
        assert_eq!(keys(&sample), before, "{name}");
    }
    let sample = sample(COMPLETE);
    let renamed = Said { packages: PackageOverrides { org: Some("o".to_owned()), ..Default::default() }, ..Said::default() };
    assert_eq!(keys_with(&sample, &renamed).expect("has keys")["base"].0, before["base"].0);
}

#[test]
fn what_the_ignore_file_leaves_out_of_the_context_is_no_input() {
    let sample = sample(COMPLETE);
    sample.write("pkg/other/.dockerignore", "out\nscratch.ignored\ndest/*.ignored\n!out/kept\n");
    sample.commit();
    let before = keys(&sample);
    for path in ["pkg/other/out/a", "pkg/other/scratch.ignored", "shared/x.ignored"] {
        sample.write(path, "");
        assert_eq!(keys(&sample), before, "{path}");
    }
    sample.write("pkg/other/out/kept", "");
    assert_eq!(changed(&before, &keys(&sample)).0, ["other"]);
}

#[test]
fn arguments_and_flags_that_go_in_change_the_key_of_every_package() {
    let sample = sample(COMPLETE);
    let before = keys(&sample);
    let all: Vec<String> = before.keys().cloned().collect();
    let argument = Said { arguments: vec![("X".to_owned(), "1".to_owned())], ..Said::default() };
    let mut network = Said::default();
    network.packages.network = Some(true);
    let mut file = Said::default();
    sample.write(".git/arguments", "X=2\n");
    file.files.push(ArgFile { path: sample.path().join(".git/arguments"), shown: "arguments".into() });
    for said in [argument, network, file] {
        assert_eq!(changed(&before, &keys_with(&sample, &said).expect("has keys")).0, all);
    }
}

#[test]
fn dirt_in_any_source_is_in_the_tag_and_gone_after_the_commit() {
    let sample = sample(COMPLETE);
    sample.write("shared/lib.sh", "false\n");
    let dirty = keys(&sample);
    assert_eq!(dirty["other"].1, format!("linuxkit/other:{}-dirty", &dirty["other"].0[..40]));
    assert!(!dirty["base"].1.ends_with("-dirty"));
    sample.commit();
    assert!(!keys(&sample)["other"].1.ends_with("-dirty"));
    let forced = Said { tags: TagOverrides { force_dirty: true, ..TagOverrides::default() }, ..Said::default() };
    let forced = keys_with(&sample, &forced).expect("has keys");
    assert_eq!((&forced["other"].0, forced["other"].1.ends_with("-dirty")), (&keys(&sample)["other"].0, true));
    let given = Said { tags: TagOverrides { hash: Some("v1".to_owned()), ..TagOverrides::default() }, ..Said::default() };
    assert_eq!(keys_with(&sample, &given).expect("has keys")["other"].1, "linuxkit/other:v1");
}

#[test]
fn another_commit_has_the_key_that_it_had() {
    let sample = sample(COMPLETE);
    let before = keys(&sample);
    sample.write("pkg/base/file", "2\n");
    sample.commit();
    let old = Said { tags: TagOverrides { hash_commit: "HEAD~1".to_owned(), ..TagOverrides::default() }, ..Said::default() };
    assert_eq!(keys_with(&sample, &old).expect("has keys"), before);
}

#[test]
fn a_key_depends_neither_on_the_place_nor_on_who_answers_for_git() {
    let (one, two) = (sample(COMPLETE), sample(COMPLETE));
    assert_eq!(keys(&one), keys(&two));
    for sample in [&one, &two] {
        sample.write("pkg/other/out/a", "1");
        sample.write("pkg/other/x.ignored", "2");
    }
    // Then everything is asked of the git program.
    two.git(&["config", "core.sparseCheckout", "true"]);
    assert_eq!(keys(&one), keys(&two));
    let outside = tempfile::tempdir().expect("temp dir");
    fs_err::write(outside.path().join("build.yml"), "image: x\n").expect("writes");
    fs_err::write(outside.path().join("Dockerfile"), "FROM scratch\n").expect("writes");
    let workspace = Workspace::load(WorkspaceOptions::new(outside.path())).expect("valid");
    let package = workspace.open(outside.path()).expect("valid");
    let mut args = Args::read(&workspace, &[]).expect("none");
    let graph = Graph::build(&workspace, vec![package.clone()], &args).expect("no circle");
    let overrides = TagOverrides::default();
    let keyed = input_keys(&workspace, &graph, &mut args, &mut Repositories::new(), &overrides).expect("needs no git");
    let tag = keyed[0].tag(&package, &overrides).expect("has a tag");
    assert_eq!((tag.state, &tag.hash[..]), (SourceState::OutsideGit, &keyed[0].key.key()[..40]));
}
