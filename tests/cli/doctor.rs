//! What `doctor` says of this machine, and that a build agrees with it.

use std::process::Command;

use serde_json::Value;

use crate::support::{Program, Repository, Run};

fn json(run: &Run) -> Value {
    serde_json::from_str(&run.stdout).expect("one JSON document")
}

fn state<'a>(report: &'a Value, name: &str) -> &'a str {
    let all = report["builders"][0]["checks"].as_array().into_iter().chain(report["checks"].as_array()).flatten();
    let mut named = all.filter(|check| check["name"] == name);
    named.next().unwrap_or_else(|| panic!("{name}: {report}"))["state"].as_str().expect("a word")
}

#[test]
fn root_of_this_machine_can_build_and_is_told_how() {
    let program = Program::new();
    let run = program.run(program.home(), &["doctor", "--json"]).success();
    let report = json(&run);
    assert_eq!(report["schema"], "pkgbuild.doctor/v1");
    assert_eq!((&report["usable"], &report["builders"][0]["builder"]), (&Value::Bool(true), &Value::from("embedded")));
    for name in ["mode", "user namespaces", "cache directory", "locks", "overlayfs", "steps", "network", "kernel", "git", "clock"]
    {
        assert_eq!(state(&report, name), "ok", "{name}");
    }
    let platforms = report["builders"][0]["platforms"].as_array().expect("a list");
    assert_eq!(platforms[0]["how"], "native");
    assert!(!program.cache().exists(), "looking makes no cache");
    assert_eq!(std::fs::read_dir(program.home()).expect("lists").count(), 0, "and leaves nothing");
    let text = program.run(program.home(), &["doctor"]).success().stdout;
    assert!(text.ends_with("this machine builds (root, in a user namespace)\n"), "{text}");
}

#[test]
fn plan_says_of_each_platform_what_doctor_says() {
    let (program, repository) = (Program::new(), Repository::new());
    repository.write("pkg/a/build.yml", "org: o\nimage: a\narches: [amd64, arm64, riscv64, s390x]\n");
    repository.write("pkg/a/Dockerfile", "FROM scratch\nCOPY build.yml /\n").commit("first");
    let doctor = json(&program.run(repository.path(), &["doctor", "--json"]).success());
    let plan = json(&program.run(repository.path(), &["plan", "--json", "--offline", "pkg/a"]).success());
    let platforms = plan["packages"][0]["platforms"].as_array().expect("a list");
    assert_eq!(platforms.len(), 4);
    for planned in platforms {
        let told = doctor["builders"][0]["platforms"].as_array().expect("a list");
        let told = told.iter().find(|told| told["platform"] == planned["platform"]).expect("doctor knows it");
        assert_eq!(planned["builder"], format!("embedded ({})", told["how"].as_str().expect("a word")));
    }
}

#[test]
fn what_keeps_this_machine_from_building_is_told_with_what_helps() {
    let program = Program::new();
    // Without the capability and without user namespaces, as in most containers.
    let script = "echo 0 > /proc/sys/user/max_user_namespaces && exec setpriv --bounding-set=-sys_admin \
                  --inh-caps=-sys_admin \"$0\" doctor --json";
    let like = program.command(program.home(), &[]);
    let mut command = Command::new("unshare");
    command.args(["--user", "--map-root-user", "sh", "-ec", script, env!("CARGO_BIN_EXE_pkgbuild")]);
    command.env_clear().envs(like.get_envs().filter_map(|(key, value)| Some((key, value?))));
    let run = Run::of(&["doctor"], command.current_dir(program.home()).output().expect("unshare is there")).exits_with(69);
    let report = json(&run);
    assert_eq!((state(&report, "mode"), state(&report, "user namespaces")), ("missing", "missing"));
    let mode = &report["builders"][0]["checks"][0];
    assert!(mode["help"].as_str().is_some_and(|help| help.contains("max_user_namespaces")), "{mode}");
}

#[test]
fn what_only_makes_builds_worse_is_no_failure() {
    let program = Program::new();
    std::fs::create_dir(program.home().join(".docker")).expect("creates");
    std::fs::write(program.home().join(".docker/config.json"), r#"{"credsStore": "not-there"}"#).expect("writes");
    let mut command = program.command(program.home(), &["doctor"]);
    let run = Run::of(&["doctor"], command.env("PKGBUILD_OVERLAY", "off").output().expect("runs")).success();
    for line in ["overlayfs", "credentials"] {
        assert!(run.stdout.lines().any(|text| text.starts_with(&format!("worse    {line}"))), "{}", run.stdout);
    }
    assert!(run.stdout.contains("help: install `docker-credential-not-there`"), "{}", run.stdout);
    let mut command = program.command(program.home(), &["doctor", "--cache", "/proc/none"]);
    let run = Run::of(&["doctor"], command.output().expect("runs")).exits_with(69);
    assert!(run.stdout.contains("missing  cache directory"), "{}", run.stdout);
}
