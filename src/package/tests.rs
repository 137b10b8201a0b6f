//! Packages as a whole: what linuxkit's trees rely on, and every mistake told at once.

use std::path::PathBuf;

use super::*;
use crate::diagnostic::Diagnostics;

/// A directory of packages without git.
struct Files {
    directory: tempfile::TempDir,
}

impl Files {
    fn new(files: &[(&str, &str)]) -> Self {
        let directory = tempfile::tempdir().expect("temp dir");
        for (path, text) in files {
            let path = directory.path().join(path);
            fs_err::create_dir_all(path.parent().expect("has one")).expect("creates");
            fs_err::write(path, text).expect("writes");
        }
        Self { directory }
    }

    fn path(&self) -> PathBuf {
        fs_err::canonicalize(self.directory.path()).expect("exists")
    }

    fn workspace(&self) -> Result<Workspace, Diagnostics> {
        Workspace::load(WorkspaceOptions::new(&self.path()))
    }

    fn select(&self, names: &[&str]) -> Result<Vec<Package>, Diagnostics> {
        self.workspace()?.select(&names.iter().map(|name| (*name).to_owned()).collect::<Vec<_>>())
    }
}

fn build_yml(text: &str) -> Result<BuildYml, String> {
    let files = Files::new(&[("pkg/a/build.yml", text)]);
    files.select(&["pkg/a"]).map(|mut packages| packages.remove(0).settings).map_err(|mistakes| mistakes.to_string())
}

#[test]
fn an_absent_key_and_a_null_have_linuxkits_meaning() {
    let plain = build_yml("image: x\n").expect("valid");
    assert_eq!(
        (plain.org.as_str(), plain.tag.source(), plain.dockerfile.to_str()),
        ("linuxkit", "{{.Hash}}", Some("Dockerfile"))
    );
    assert_eq!(plain.platforms, ["amd64", "arm64", "riscv64"].map(Platform::linux));
    assert_eq!((plain.network, plain.disable_cache, plain.config_label), (false, false, None));
    let null =
        build_yml("image: x\norg:\ntag: ~\ngitrepo: null\nnetwork:\narches:\nconfig:\nbuildArgs:\ndepends:\nextra-sources:\n")
            .expect("valid");
    assert_eq!((null.org.as_str(), null.tag.source(), null.gitrepo.is_empty()), ("linuxkit", "{{.Hash}}", false));
    assert!(!null.network && null.platforms.is_empty() && null.config_label.is_none());
}

#[test]
fn what_go_yaml_reads_is_read() {
    for (text, network) in [
        ("network: yes", true),
        ("network: On", true),
        ("network: y", true),
        ("network: 'yes'", true),
        ("network: TRUE", true),
        ("network: no", false),
        ("network: OFF", false),
        ("network: n", false),
        ("network: false", false),
    ] {
        assert_eq!(build_yml(&format!("image: x\n{text}\n")).expect(text).network, network, "{text}");
    }
    for text in [
        "{\"image\": \"x\", \"network\": true}",
        "---\nimage: x\n",
        "\u{feff}image: x\n",
        "image: x\n---\nfoo: [\n",
        "%YAML 1.1\n---\nimage: x\n",
    ] {
        assert_eq!(build_yml(text).expect(text).image, "x", "{text}");
    }
    let anchors = "image: x\norg: &o someone\nlabels: &l {a: *o}\nannotations:\n  <<: *l\n  b: 1\n";
    let read = build_yml(anchors).expect("valid");
    assert_eq!(read.annotations, BTreeMap::from([("a".into(), "someone".into()), ("b".into(), "1".into())]));
    assert_eq!(build_yml("image: 0x10\norg: 1.50\n").expect("valid").org, "1.50");
}

#[test]
fn every_mistake_of_every_package_is_told_in_one_run() {
    let files = Files::new(&[
        (
            "pkg/a/build.yml",
            "imag: x\narches: amd64\nnetwork: maybe\nconfig:\n  capabilitys: [a]\n  oomScoreAdj: high\nimag: y\n",
        ),
        (
            "pkg/b/build.yml",
            "image: b\ntag: \"{{.Foo}}\"\nextra-sources: [a, \"b:c:d\"]\nbuildArgs: [X, \"Y=@lkt:foo:bar\", \"Z=@lkt:pkgs:../*\"]\n",
        ),
        ("pkg/c/build.yml", ""),
    ]);
    let mistakes = files.select(&["pkg/a", "pkg/b", "pkg/c", "pkg/d", "nothing"]).expect_err("mistakes").to_string();
    insta::assert_snapshot!(mistakes);
}

#[test]
fn what_cannot_be_read_is_refused_in_bounded_time() {
    let mut bomb = "a0: &a0 [x, x, x, x, x, x, x, x, x, x]\n".to_owned();
    for n in 1..12 {
        bomb += &format!("a{n}: &a{n} [{}]\n", vec![format!("*a{}", n - 1); 10].join(", "));
    }
    let deep = format!("image: {}x{}\n", "[".repeat(100_000), "]".repeat(100_000));
    let block: String = (0..1_000).map(|n| format!("{}a:\n", " ".repeat(n))).collect();
    let mut chain = "a0: &a0 [x]\n".to_owned();
    for n in 1..300 {
        chain += &format!("a{n}: &a{n} [*a{}]\n", n - 1);
    }
    let big = format!("image: x\n# {}\n", "y".repeat(10 << 20));
    let wide: String = (0..100_000).map(|n| format!("k{n}: 1\n")).collect();
    for (name, text, expected) in [
        ("alias bomb", bomb.as_str(), "more than 100000 values"),
        ("flow nesting", &deep, "recursion limit exceeded"),
        ("block nesting", &block, "nested more than 100 deep"),
        ("nesting through aliases", &chain, "nested more than 100 deep"),
        ("10 MB", &big, "is larger than 1024 KiB"),
        ("itself", "image: &a [*a]\n", "anchor"),
        ("no anchor", "image: *a\n", "alias `*a` has no anchor"),
        ("tag", "image: !foo x\n", "the tag `!foo` means nothing here"),
        ("control characters", "image: \u{1}\u{2}\n", "not valid YAML"),
        ("only a comment", "# nothing\n", "is empty"),
        ("a list", "- image: x\n", "must hold a mapping"),
        ("a text", "image\n", "must hold a mapping"),
        ("tab", "image: x\n\torg: y\n", "not valid YAML"),
        ("many", &wide, "more"),
    ] {
        let before = std::time::Instant::now();
        let error = build_yml(text).expect_err(name);
        assert!(error.contains(expected), "{name}: {error}");
        assert!(error.len() < 20_000 && before.elapsed().as_secs() < 5, "{name}: {} bytes, {:?}", error.len(), before.elapsed());
    }
    let files = Files::new(&[("pkg/a/Dockerfile", "")]);
    fs_err::write(files.path().join("pkg/a/build.yml"), b"image: x\norg: \xff\xfe\n").expect("writes");
    let error = files.select(&["pkg/a"]).expect_err("binary").to_string();
    assert_eq!(error, "pkg/a/build.yml:2:6: is not UTF-8 text");
}

/// Vectors from linuxkit at 3bf33c3a, which were made by running it.
#[test]
fn the_config_label_is_linuxkits_byte_for_byte() {
    let label = |config: &str| build_yml(&format!("image: x\nconfig:\n{config}")).expect(config).config_label.expect(config);
    for (config, json) in [
        (
            "  oomScoreAdj: -800\n  readonly: true\n  capabilities:\n    - CAP_SYS_ADMIN\n  ipc: new\n  net: new\n",
            r#"{"capabilities":["CAP_SYS_ADMIN"],"net":"new","ipc":"new","readonly":true,"oomScoreAdj":-800}"#,
        ),
        (
            "  pid: host\n  readonly: true\n  capabilities: [CAP_SYS_ADMIN, CAP_NET_ADMIN]\n",
            r#"{"capabilities":["CAP_SYS_ADMIN","CAP_NET_ADMIN"],"pid":"host","readonly":true}"#,
        ),
        (
            "  binds: [/dev:/dev, '/var:/var:rshared,rbind', /:/hostroot]\n  capabilities: [CAP_SYS_ADMIN]\n  net: new\n  ipc: new\n  rootfsPropagation: shared\n  devices:\n    - path: all\n      type: b\n",
            r#"{"capabilities":["CAP_SYS_ADMIN"],"binds":["/dev:/dev","/var:/var:rshared,rbind","/:/hostroot"],"devices":[{"path":"all","type":"b","major":0,"minor":0}],"net":"new","ipc":"new","rootfsPropagation":"shared"}"#,
        ),
        (
            "  capabilities: []\n  env: null\n  resources: {}\n  runtime: {}\n  rootfsPropagation: ''\n  cwd: ''\n",
            r#"{"capabilities":[],"rootfsPropagation":"","resources":{},"runtime":{"bindNS":{}}}"#,
        ),
        (
            "  binds: ['/a<b>&c:/d', \"é/'\\u2028\\x01\\n\\b\"]\n",
            "{\"binds\":[\"/a\\u003cb\\u003e\\u0026c:/d\",\"é/'\\u2028\\u0001\\n\\b\"]}",
        ),
        (
            "  devices: [{path: /dev/x, type: c, major: 0x10, minor: 010, mode: 0666}]\n",
            r#"{"devices":[{"path":"/dev/x","type":"c","major":16,"minor":8,"mode":"0666"}]}"#,
        ),
        (
            "  uid: 0x10\n  gid: \"7\"\n  additionalGids: [0o17, 010, 1.5, name, null, yes, true, 1e21, 0.0000001]\n",
            r#"{"uid":16,"gid":"7","additionalGids":[15,8,1.5,"name",null,"yes",true,1e+21,1e-7]}"#,
        ),
        (
            "  mounts: [{type: bind, destination: /a, options: [ro], uidmappings: [{containerid: 1, hostid: 2, size: 3}]}, {}]\n  sysctl: {b: 1, a: x}\n",
            r#"{"mounts":[{"destination":"/a","type":"bind","options":["ro"],"uidMappings":[{"containerID":1,"hostID":2,"size":3}]},{"destination":""}],"sysctl":{"a":"x","b":"1"}}"#,
        ),
        (
            "  resources: {blockio: {throttlereadbpsdevice: [{linuxblockiodevice: {major: 8}, rate: 5}]}, cpu: {shares: 0, cpus: ''}, pids: {}, memory: {disableoomkiller: no}}\n",
            r#"{"resources":{"memory":{"disableOOMKiller":false},"cpu":{"shares":0},"pids":{"limit":0},"blockIO":{"throttleReadBpsDevice":[{"major":8,"minor":0,"rate":5}]}}}"#,
        ),
        (
            "  runtime: {mkdir: [/x], bindNS: {net: /run/netns}, interfaces: [{name: a}]}\n",
            r#"{"runtime":{"mkdir":["/x"],"interfaces":[{"name":"a","createInRoot":false}],"bindNS":{"net":"/run/netns"}}}"#,
        ),
        ("  {}\n", "{}"),
    ] {
        assert_eq!(label(config), json, "{config}");
    }
}

#[test]
fn depends_follow_linuxkits_checks() {
    const DIGEST: &str = "sha256:e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855";
    let depends = |text: &str| build_yml(&format!("image: x\ndepends:\n  docker-images:\n{text}"));
    let read = depends(&format!("    target: images/all.tar\n    list: ['docker.io/library/a@{DIGEST}']\n")).expect("valid");
    let [images] = &read.depends.images[..] else { panic!("one") };
    assert_eq!((&images.target, images.form), (&BundleTarget::File("images/all.tar".into()), BundleForm::Docker));
    for (text, expected) in [
        ("    target: a\n    target-dir: b\n", "cannot both be given"),
        ("    target: /a\n", "must be relative to the package's directory"),
        ("    target: ./\n", "must not be the package's directory itself"),
        ("    target: ../pkg2/x\n", "must be inside the package's directory"),
        ("    target: a\n    list: [docker.io/library/a:1]\n", "lacks a digest"),
        ("    target: a\n    list: [a:1]\n", "lacks its registry"),
        ("    target: a\n    from-file: nothing\n", "cannot read `nothing`"),
    ] {
        assert!(depends(text).expect_err(text).contains(expected), "{text}");
    }
}

#[test]
fn packages_are_named_by_directory_pattern_or_image() {
    let files = Files::new(&[
        ("pkg/a/build.yml", "image: one\norg: lfedge\n"),
        ("pkg/b/build.yml", "image: two\n"),
        ("pkg/c/build.yml", "image: two\norg: lfedge\n"),
        ("pkg/empty/README", ""),
        ("other/d/build.yml", "image: four\n"),
    ]);
    let names = |names: &[&str]| {
        let selected = files.select(names).map_err(|mistakes| mistakes.to_string())?;
        Ok::<_, String>(selected.iter().map(Package::name).collect::<Vec<_>>())
    };
    assert_eq!(names(&[]), Ok(vec!["lfedge/one".into(), "linuxkit/two".into(), "lfedge/two".into()]));
    assert_eq!(names(&["pkg/b", "./pkg/a/"]), Ok(vec!["linuxkit/two".into(), "lfedge/one".into()]));
    let absolute = files.path().join("other/d");
    assert_eq!(
        names(&[absolute.to_str().expect("text"), "one", "lfedge/two"]),
        Ok(vec!["linuxkit/four".into(), "lfedge/one".into(), "lfedge/two".into()])
    );
    assert_eq!(names(&["*/[cd]"]), Ok(vec!["linuxkit/four".into(), "lfedge/two".into()]));
    assert!(names(&["two"]).expect_err("two of them").contains("pkg/b"));
    assert!(names(&["onee"]).expect_err("none").contains("did you mean `one`?"));
    assert!(names(&["pkg/empty"]).expect_err("none").contains("no such file"));
    assert!(names(&["nothing/*"]).expect_err("none").contains("no packages match"));
}

#[test]
fn the_workspace_file_gives_packages_and_defaults() {
    let files = Files::new(&[
        (
            "pkgbuild.yml",
            "packages: ['images/*', one]\ndefaults:\n  org: ours\n  platforms: [linux/arm/v6]\n  network: yes\ntag-scheme: complete\nbuilders:\n  linux/arm64: tcp://a:1\n  '*': [embedded]\nregistries:\n  docker.io: {mirror: [http://m], ca: c.pem}\njobs: 3\n",
        ),
        ("images/a/build.yml", "image: a\n"),
        ("images/b/build.yml", "image: b\norg: theirs\narches: [amd64]\nnetwork: no\n"),
        ("one/build.yml", "image: one\n"),
    ]);
    let workspace = files.workspace().expect("valid");
    let settings = workspace.settings();
    assert_eq!((settings.tag_scheme, settings.jobs), (TagScheme::Complete, Some(3)));
    assert_eq!(settings.builders["linux/arm64"], ["tcp://a:1"]);
    assert_eq!(settings.registries["docker.io"].ca, Some(files.path().join("c.pem")));
    let packages = files.select(&[]).expect("valid");
    assert_eq!(packages.iter().map(Package::name).collect::<Vec<_>>(), ["ours/a", "theirs/b", "ours/one"]);
    assert_eq!(packages[0].platforms(), ["linux/arm/v6".parse().expect("valid")]);
    assert_eq!((packages[1].platforms(), packages[1].settings.network), (&[Platform::linux("amd64")][..], false));
    let mistakes = Files::new(&[(
        "pkgbuild.yml",
        "package: x\njobs: 0\ndefaults: {image: x, tag: '{{', foo: 1}\ntag-scheme: full\nregistries: {a: {mirror: m}}\n",
    )]);
    insta::assert_snapshot!(mistakes.workspace().expect_err("mistakes").to_string());
}

#[test]
fn what_overrides_build_yml_holds_for_every_package() {
    let files = Files::new(&[("pkg/a/build.yml", "image: a\norg: lfedge\ntag: '{{.Hash}}-x'\n")]);
    let with = |overrides: PackageOverrides| {
        let options = WorkspaceOptions { overrides, ..WorkspaceOptions::new(&files.path()) };
        Workspace::load(options).expect("valid").select(&[]).map(|mut packages| packages.remove(0))
    };
    let package =
        with(PackageOverrides { dev: Some("me".into()), network: Some(true), tag: Some("v1".into()), ..Default::default() });
    let package = package.expect("valid");
    assert_eq!((package.name(), package.settings.network, package.settings.tag.source()), ("me/a".into(), true, "v1"));
    let both =
        PackageOverrides { dev: Some("me".into()), org: Some("us".into()), tag: Some(String::new()), ..Default::default() };
    let package = with(both).expect("valid");
    assert_eq!((package.name(), package.settings.tag.source()), ("us/a".into(), "{{.Hash}}-x"));
    assert!(with(PackageOverrides { tag: Some("{{.Foo}}".into()), ..Default::default() }).is_err());
}

/// Returns the keys that the example of build.yml names at its top level and below `depends`, commented out or not.
fn keys_of_example(example: &str) -> Vec<&str> {
    let lines = example.lines().map(|line| line.trim_start().trim_start_matches('#'));
    lines.filter_map(|line| Some(line.split_once(':')?.0.trim())).filter(|key| !key.contains(' ')).collect()
}

#[test]
fn the_example_shows_every_key_with_its_default() {
    let example = include_str!("../../build.yml.example");
    let shown = keys_of_example(example);
    let mut wanted: Vec<&str> = keys::BUILD_YML.iter().map(|field| field.key).collect();
    for field in keys::BUILD_YML {
        let shape::Shape::Record(inner) = field.shape else { continue };
        if field.key == "depends" {
            wanted.extend(inner.iter().map(|field| field.key));
            let images = inner.iter().find_map(|field| match field.shape {
                shape::Shape::Record(images) => Some(images),
                _ => None,
            });
            wanted.extend(images.expect("it has one").iter().map(|field| field.key));
        }
    }
    for key in wanted {
        assert!(shown.contains(&key), "`{key}` is not in build.yml.example");
    }
    // What the example gives as values are the defaults.
    let (given, default) = (build_yml(example).expect("valid"), build_yml("image: example\n").expect("valid"));
    assert_eq!(given, default);
}

/// Texts that both accept or both refuse.
#[test]
fn the_schemas_judge_as_the_parser_does() {
    let build = jsonschema::validator_for(&schema::build_yml()).expect("a schema");
    let workspace = jsonschema::validator_for(&schema::pkgbuild_yml()).expect("a schema");
    let json = |text: &str| serde_saphyr::from_str::<serde_json::Value>(text).expect(text);
    for (text, good) in [
        (include_str!("../../build.yml.example"), true),
        ("image: x", true),
        ("image: 5", true),
        ("image: x\nnetwork: true\narches: []\ntag: 1.5", true),
        ("image: x\nnetwork: 'yes'\norg:\narches:\nconfig:\nlabels:\n", true),
        ("image: x\nplatforms: [linux/arm/v6, arm64]", true),
        ("image: x\nbuildArgs: ['A=b', 'C=']\nextra-sources: ['a:b']", true),
        ("image: x\nconfig: {capabilities.add: [a], uid: 1, gid: a, runtime: {mounts: [{type: bind}]}, sysctl: {a: 1}}", true),
        ("image: x\nconfig: {resources: {cpu: {shares: 5}, blockio: {weight: 7}}, oomScoreAdj: -5}", true),
        ("image: x\ndepends: {packages: [a], docker-images: }", true),
        ("{}", false),
        ("image: ''", false),
        ("image:", false),
        ("image: [x]", false),
        ("image: x\nfoo: 1", false),
        ("image: x\nsecrets: []", true),
        ("image: x\nssh: [default]\nsecrets: [a]", true),
        ("image: x\nsecrets: {a: b}", false),
        ("image: x\ncache: []", false),
        ("image: x\nnetwork: maybe", false),
        ("image: x\nnetwork: 1", false),
        ("image: x\narches: amd64", false),
        ("image: x\narches: [linux/amd64]", false),
        ("image: x\narches: [amd64]\nplatforms: [amd64]", false),
        ("image: x\nplatforms: [a/b/c/d]", false),
        ("image: x\nbuildArgs: [A]", false),
        ("image: x\nbuildArgs: ['=a']", false),
        ("image: x\nextra-sources: ['a:b:c']", false),
        ("image: x\nconfig: {oomScoreAdj: high}", false),
        ("image: x\nconfig: {security_opt: [a]}", false),
        ("image: x\nconfig: {devices: [{path: a, magic: 1}]}", false),
        ("image: x\nconfig: {resources: {blockio: {weight: 70000}}}", false),
        ("image: x\ndepends: {pictures: []}", false),
        ("[]", false),
    ] {
        assert_eq!(build.is_valid(&json(text)), good, "the schema about {text}");
        assert_eq!(build_yml(text).is_ok(), good, "the parser about {text}");
    }
    for (text, good) in [
        ("{}", true),
        ("packages: [a, 'b/*']\njobs: 4\ntag-scheme: complete", true),
        ("defaults: {org: x, platforms: [arm64], config: {net: host}}", true),
        ("builders: {linux/arm64: 'docker:ctx', amd64: [embedded, 'tcp://a:1']}", true),
        ("registries: {docker.io: {mirror: 'https://m', ca: a.pem, insecure: true}, x: {mirror: ['http://a']}}", true),
        ("tag-scheme: full", false),
        ("jobs: 0", false),
        ("jobs: many", false),
        ("defaults: {image: x}", false),
        ("defaults: {foo: x}", false),
        ("package: [a]", false),
        ("packages: a", false),
        ("registries: {x: {mirror: m}}", false),
        ("registries: {x: {mirrors: ['https://m']}}", false),
    ] {
        assert_eq!(workspace.is_valid(&json(text)), good, "the schema about {text}");
        assert_eq!(Files::new(&[("pkgbuild.yml", text)]).workspace().is_ok(), good, "the parser about {text}");
    }
}

proptest::proptest! {
    #![proptest_config(proptest::test_runner::Config { failure_persistence: None, cases: 2_000, ..Default::default() })]

    /// Pieces that mean something to the parsers, in any order: whatever comes out, it is an answer.
    #[test]
    fn nonsense_is_refused_without_a_panic(
        pieces in proptest::collection::vec(
            proptest::sample::select(vec![
                "image: ", "x", "\n", "  ", "- ", "[", "]", "{", "}", ", ", ": ", "&a ", "*a", "<<: ", "!!str ", "!x ", "\"", "'", "|\n",
                ">-\n", "# ", "---\n", "...\n", "%YAML 1.2\n", "\t", "é", "\u{2028}", "\0", "0x1", "-", "+", "1e9", "config: ", "arches: ",
                "tag: ", "{{", "}}", ".Hash", "slice ", "printf ", "\\u12", "$x", " := ", "| ", "(", ")", "'a'", "`", "if ", "end", "else", "/*", "*/",
            ]),
            0..24,
        )
    ) {
        let text = pieces.concat();
        let _ = Template::parse(&text).and_then(|template| template.render("b5506cc74a6812dc40982cacfd2f4328f8a4b12a"));
        let file = build_yml::File { path: Path::new("/p/build.yml"), shown: Path::new("build.yml"), directory: Path::new("/p") };
        if let Err(mistakes) = BuildYml::read(file, &text, None) {
            let _ = mistakes.to_string();
        }
    }
}
