//! What steps are given by whoever starts the build: secrets, agents, names of hosts, limits. And that it stays theirs.

use std::path::Path;
use std::sync::Arc;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use pkgbuild::builder::secret::Secret;
use pkgbuild::builder::steps::{Resource, StepOptions, Ulimit};
use pkgbuild::builder::{BuildError, BuildEvent};

use crate::fixture::{Built, Test};

const VALUE: &str = "correct-horse battery/staple+9";

fn options(test: &mut Test) -> &mut StepOptions {
    Arc::get_mut(&mut test.request.steps).expect("no build runs")
}

async fn with_secret(value: &str) -> Test {
    let mut test = Test::with_busybox().await;
    options(&mut test).secrets.insert("token".into(), Secret::copy(value.as_bytes()).expect("memory"));
    test
}

/// Asserts that nothing that a build tells or keeps holds `value`, as it is or in base64.
#[track_caller]
fn assert_hidden(test: &Test, built: &Built, value: &str) {
    let told = format!("{:?} {:?} {}", built.events, built.result, built.log());
    for form in [value.to_owned(), STANDARD.encode(value)] {
        assert!(!told.contains(&form), "{told}");
        assert_eq!(files_with(test.directory.path(), form.as_bytes()), Vec::<String>::new());
    }
}

/// Returns the files below `directory` that hold `value`.
fn files_with(directory: &Path, value: &[u8]) -> Vec<String> {
    let mut found = Vec::new();
    for entry in std::fs::read_dir(directory).expect("reads") {
        let path = entry.expect("reads").path();
        let kind = path.symlink_metadata().expect("stat").file_type();
        if kind.is_dir() {
            found.extend(files_with(&path, value));
        } else if kind.is_file() && std::fs::read(&path).expect("reads").windows(value.len()).any(|window| window == value) {
            found.push(path.display().to_string());
        }
    }
    found
}

#[tokio::test]
async fn a_secret_is_a_file_in_memory_a_variable_or_both_and_leaves_no_trace() {
    let mut test = with_secret(VALUE).await;
    test.dockerfile(
        "FROM busybox\n\
         RUN --mount=type=secret,id=token stat -c '%a %u %g %F' /run/secrets/token && stat -f -c %T /run/secrets/token && \\\n\
             test \"$(cat /run/secrets/token)\" = \"correct-horse$(echo ' battery')/staple+9\" && ! touch /run/secrets/token && \\\n\
             ! cp /bin/busybox /run/secrets/token && grep secrets /proc/self/mounts\n\
         USER www\n\
         RUN --mount=type=secret,id=token,target=sub/key,mode=0440,uid=33,gid=34 stat -c '%a %u %g' sub/key && cat sub/key && pwd\n\
         RUN --mount=type=secret,id=token,env=TOKEN ! ls /run/secrets && test ${#TOKEN} = 30 && env\n\
         RUN --mount=type=secret,id=token,env=TOKEN,target=/k,mode=444 test \"$TOKEN\" = \"$(cat /k)\"\n\
         RUN ! ls /run /k /sub && test -z \"$TOKEN\"\n",
    );
    let built = test.build().await;
    built.image();
    let log = built.log();
    assert!(log.contains("400 0 0 regular file\ntmpfs\n"), "{log}");
    let mount = log.lines().find(|line| line.contains(" /run/secrets/token ")).expect("a mount of its own");
    for option in ["ro", "nosuid", "nodev", "noexec"] {
        assert!(mount.split([' ', ',']).any(|word| word == option), "{mount}");
    }
    assert!(log.contains("440 33 34\n***/\n") && log.contains("TOKEN=***\n"), "{log}");
    // Targets that were made for the mounts are no part of the layers.
    let lines: Vec<String> = test.layers(&built).into_iter().skip(4).flatten().collect();
    assert!(!lines.iter().any(|line| line.contains("run") || line.contains("sub") || line.ends_with(" k")), "{lines:?}");
    assert_hidden(&test, &built, VALUE);
}

#[tokio::test]
async fn an_optional_secret_may_be_absent_and_a_required_one_not() {
    let mut test = with_secret(VALUE).await;
    test.dockerfile(
        "FROM busybox\nRUN --mount=type=secret,id=other ! ls /run/secrets/other\n\
         RUN --mount=type=secret,id=other,env=OTHER test -z \"${OTHER+x}\"\n",
    );
    test.build().await.image();
    test.dockerfile("FROM busybox\nRUN echo first\nRUN --mount=type=secret,id=other,required echo second\n");
    let built = test.build().await;
    assert_eq!(built.ran(), Vec::<String>::new(), "nothing runs when something will be missing");
    assert!(
        built.error().contains("needs the secret `other`") && built.error().contains("--secret id=other"),
        "{}",
        built.error()
    );
    let Err(BuildError::Files { step, .. }) = &built.result else { panic!("{}", built.error()) };
    assert_eq!(step.span.line, 3);
}

#[tokio::test]
async fn the_value_is_no_part_of_a_key_and_the_id_is() {
    let mut test = with_secret("first-value").await;
    let step = |id: &str, more: &str| format!("FROM busybox\nRUN --mount=type=secret,id={id}{more} echo x > /x\n");
    test.dockerfile(&step("token", ",required"));
    assert_eq!(test.build().await.ran().len(), 1);
    options(&mut test).secrets.insert("token".into(), Secret::copy(b"second-value").expect("memory"));
    assert_eq!(test.build().await.ran().len(), 0);
    // What was made with a secret can be used without it, when the step never runs without.
    options(&mut test).secrets.clear();
    assert_eq!(test.build().await.ran().len(), 0);
    test.dockerfile(&step("token", ""));
    assert_eq!(test.build().await.ran().len(), 1, "a step that can run without is another one without");
    options(&mut test).secrets.insert("token".into(), Secret::copy(b"third-value").expect("memory"));
    assert_eq!(test.build().await.ran().len(), 0, "with it, it is the one that needs it");
    test.dockerfile(&step("token", ",env=T,target=/run/secrets/token"));
    assert_eq!(test.build().await.ran().len(), 1);
    test.dockerfile(&step("other", ""));
    assert_eq!(test.build().await.ran().len(), 1);
}

#[tokio::test]
async fn a_step_that_leaves_a_secret_anywhere_fails_and_names_the_place() {
    let mut test = with_secret(VALUE).await;
    for (script, place) in [
        ("cat /run/secrets/token > /etc/config", "the file `/etc/config`"),
        ("mkdir -p /a/b; { echo -n user:; cat /run/secrets/token; } > /a/b/c", "the file `/a/b/c`"),
        (
            "base64 /run/secrets/token > /etc/encoded",
            "the file `/etc/encoded` in the step's layer holds the value of the secret `token`, in base64",
        ),
        ("{ echo -n a:; cat /run/secrets/token; } | base64 -w 8 > /wrapped", "the file `/wrapped`"),
        ("{ echo -n ab:; cat /run/secrets/token; } | base64 > /shifted", "the file `/shifted`"),
        ("touch \"/$(base64 /run/secrets/token)\"", "the name `/***`"),
        ("ln -s \"$(cat /run/secrets/token)\" /link", "the target of the link `/link`"),
        ("head -c 300000 /dev/zero > /big; cat /run/secrets/token >> /big; head -c 300000 /dev/zero >> /big", "the file `/big`"),
        ("cp /bin/busybox /grown; cat /run/secrets/token >> /grown", "the file `/grown`"),
    ] {
        test.dockerfile(&format!("FROM busybox\nRUN --mount=type=secret,id=token {script}\n"));
        let built = test.build().await;
        let error = built.error();
        assert!(error.contains(place) && error.contains("secret `token`"), "{script}: {error}");
        assert_hidden(&test, &built, VALUE);
        // What failed is not found in the cache, either.
        assert!(test.build().await.result.is_err(), "{script}");
    }
    // What a step makes of a secret otherwise is its own business, and so is what it removes again.
    test.dockerfile(
        "FROM busybox\nRUN --mount=type=secret,id=token cat /run/secrets/token > /x && rm /x && echo done > /result\n",
    );
    let built = test.build().await;
    assert_eq!(test.file(&built, "result"), "done\n");
}

#[tokio::test]
async fn a_secret_in_what_everybody_can_read_is_refused_before_anything_runs() {
    let mut test = with_secret(VALUE).await;
    let uses = "RUN --mount=type=secret,id=token true\n";
    for (text, place) in [
        (format!("FROM busybox\nARG PASS\n{uses}RUN echo $PASS > /x\n"), "the instruction"),
        (format!("FROM busybox\nARG PASS\n{uses}LABEL pass=\"$PASS\"\n"), "the image's config or history"),
        (
            format!("FROM busybox AS a\nARG PASS\nCOPY <<EOF /$PASS\nEOF\n{uses}FROM busybox\nCOPY --from=a /x* /\n"),
            "the instruction",
        ),
    ] {
        test.request.args = [("PASS".to_owned(), VALUE.to_owned())].into();
        test.dockerfile(&text);
        let built = test.build().await;
        assert!(built.error().contains(place), "{text}: {}", built.error());
        assert_eq!(built.events, [], "{text}");
        assert_hidden(&test, &built, VALUE);
    }
    test.request.args.clear();
    test.request.labels = [("l".to_owned(), STANDARD.encode(VALUE))].into();
    test.dockerfile(&format!("FROM busybox\n{uses}"));
    assert!(test.build().await.error().contains("in base64"));
    test.request.labels.clear();
    test.request.annotations = [("a".to_owned(), VALUE.to_owned())].into();
    assert!(test.build().await.error().contains("an annotation"));
}

#[tokio::test]
async fn what_a_failing_step_prints_is_masked_too() {
    let mut test = with_secret(&format!("{VALUE}\n")).await;
    test.dockerfile(
        "FROM busybox\nRUN --mount=type=secret,id=token set -x; cat /run/secrets/token; base64 /run/secrets/token; \\\n\
             for part in correct-horse\\ bat tery/staple+9; do echo -n \"$part\"; sleep 0.1; done; exit 1\n",
    );
    let built = test.build().await;
    let Err(BuildError::Step { tail, .. }) = &built.result else { panic!("{}", built.error()) };
    assert!(tail.iter().filter(|line| line.contains("***")).count() >= 2, "{tail:?}");
    assert_hidden(&test, &built, VALUE);
}

#[tokio::test]
async fn a_short_secret_is_given_with_a_warning() {
    let mut test = with_secret("pin123").await;
    test.dockerfile("FROM busybox\nRUN --mount=type=secret,id=token cat /run/secrets/token; echo pin1 > /x\n");
    let built = test.build().await;
    built.image();
    assert!(built.warnings().iter().any(|text| text.contains("`token` is shorter than 8 bytes")), "{:?}", built.warnings());
    assert!(built.log().contains("***") && !built.log().contains("pin123"), "{}", built.log());
}

#[tokio::test]
async fn names_of_hosts_limits_and_shm_are_as_asked_and_only_addresses_stay_out_of_keys() {
    let mut test = Test::with_busybox().await;
    test.dockerfile(
        "FROM busybox\nRUN grep db /etc/hosts; ulimit -n; ulimit -Hn; stat -f -c '%b %S' /dev/shm; grep 'Max core' /proc/self/limits\n",
    );
    let given = options(&mut test);
    given.hosts.push(("db".into(), "10.0.0.2".parse().expect("an address")));
    given.ulimits.push(Ulimit { resource: Resource::Nofile, soft: Some(100), hard: Some(200) });
    given.shm_size = Some(8 << 20);
    let built = test.build().await;
    built.image();
    let log = built.log();
    assert!(log.contains("10.0.0.2\tdb\n100\n200\n2048 4096\n"), "{log}");
    assert!(log.contains("Max core file size        0                    0"), "the other limits stay: {log}");
    options(&mut test).hosts[0].1 = "10.0.0.3".parse().expect("an address");
    assert_eq!(test.build().await.ran().len(), 0);
    options(&mut test).shm_size = None;
    assert_eq!(test.build().await.ran().len(), 1);
}

#[tokio::test]
async fn the_hosts_network_needs_permission() {
    let mut test = Test::with_busybox().await;
    test.dockerfile("FROM busybox\nRUN --network=host cat /proc/net/dev\n");
    assert!(test.build().await.error().contains("--allow network.host"));
    options(&mut test).host_network = true;
    let built = test.build().await;
    built.image();
    let own = std::fs::read_to_string("/proc/net/dev").expect("reads");
    let names =
        |text: &str| -> Vec<String> { text.lines().filter_map(|line| Some(line.split_once(':')?.0.trim().to_owned())).collect() };
    assert_eq!(names(&built.log()), names(&own));
}

#[tokio::test]
async fn rights_of_the_machine_are_refused_by_name() {
    let mut test = Test::with_busybox().await;
    for (flag, name) in [("--security=insecure", "--security=insecure"), ("--device=/dev/kvm", "--device")] {
        test.dockerfile(&format!("FROM busybox\nRUN {flag} true\n"));
        let error = test.build().await.error();
        assert!(error.contains(name) && error.contains("is not in this builder") && !error.contains("yet"), "{error}");
    }
}

/// A real agent with a key that is made for it.
struct RealAgent {
    process: std::process::Child,
    socket: std::path::PathBuf,
    fingerprint: String,
    _directory: tempfile::TempDir,
}

impl RealAgent {
    fn start() -> Self {
        use std::process::{Command, Stdio};
        let directory = tempfile::tempdir().expect("temp dir");
        let (socket, key) = (directory.path().join("agent"), directory.path().join("key"));
        let process = Command::new("ssh-agent").args(["-D", "-a"]).arg(&socket).stdout(Stdio::null()).spawn();
        let process = process.expect("openssh-client is installed: run scripts/setup");
        while !socket.exists() {
            std::thread::yield_now();
        }
        let made = Command::new("ssh-keygen").args(["-q", "-t", "ed25519", "-N", "", "-C", "a key", "-f"]).arg(&key).status();
        assert!(made.expect("ssh-keygen runs").success());
        let added = Command::new("ssh-add").arg(&key).env("SSH_AUTH_SOCK", &socket).stderr(Stdio::null()).status();
        assert!(added.expect("ssh-add runs").success());
        let shown = Command::new("ssh-keygen").args(["-l", "-f"]).arg(&key).output().expect("ssh-keygen runs");
        let fingerprint = String::from_utf8(shown.stdout).expect("text").split(' ').nth(1).expect("a fingerprint").to_owned();
        Self { process, socket, fingerprint, _directory: directory }
    }
}

impl Drop for RealAgent {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

/// Copies Debian's ssh-add with its libraries into the context.
fn with_ssh_add(test: &Test) {
    let linked = std::process::Command::new("ldd").arg("/usr/bin/ssh-add").output().expect("ldd runs");
    let text = String::from_utf8(linked.stdout).expect("text");
    let files = text.split_whitespace().filter(|word| word.starts_with('/')).chain(["/usr/bin/ssh-add"]);
    for file in files {
        test.write(&format!("tools{file}"), &std::fs::read(file).expect("reads"));
        let path = test.context().join(format!("tools{file}"));
        std::fs::set_permissions(path, std::os::unix::fs::PermissionsExt::from_mode(0o755)).expect("sets");
    }
}

#[tokio::test]
async fn a_real_agent_lists_and_signs_in_a_step_and_cannot_be_changed_there() {
    let (mut test, agent) = (Test::with_busybox().await, RealAgent::start());
    with_ssh_add(&test);
    options(&mut test).agents.insert("default".into(), agent.socket.clone());
    test.dockerfile(
        "FROM busybox\nCOPY tools /\n\
         RUN --mount=type=ssh ssh-add -l && echo $SSH_AUTH_SOCK && stat -c '%a %u %g %F' $SSH_AUTH_SOCK\n\
         RUN --mount=type=ssh ssh-add -L > /key.pub && ssh-add -T /key.pub && ! ssh-add -D && ! ssh-add -d /key.pub && ssh-add -l\n\
         USER www\nRUN --mount=type=ssh ! ssh-add -l\n\
         RUN --mount=type=ssh,uid=33,target=/tmp/agent,id=default ssh-add -l && stat -c '%a %u %g %n' $SSH_AUTH_SOCK\n\
         RUN test -z \"$SSH_AUTH_SOCK\" && ! ls /run/buildkit /tmp/agent\n",
    );
    let built = test.build().await;
    built.image();
    let log = built.log();
    assert_eq!(log.matches(&agent.fingerprint).count(), 3, "{log}");
    assert!(log.contains("/run/buildkit/ssh_agent.0\n600 0 0 socket\n"), "{log}");
    assert!(log.contains("600 33 0 /tmp/agent\n"), "{log}");
    // The agent's own connections were ended, its keys are there.
    let keys = std::process::Command::new("ssh-add").arg("-l").env("SSH_AUTH_SOCK", &agent.socket).output().expect("runs");
    assert!(String::from_utf8_lossy(&keys.stdout).contains(&agent.fingerprint));
    let sockets: Vec<_> = built.events.iter().filter(|event| matches!(event, BuildEvent::Warning { .. })).collect();
    assert!(sockets.is_empty(), "{sockets:?}");
}

#[tokio::test]
async fn an_agent_may_be_absent_unless_it_is_required() {
    let mut test = Test::with_busybox().await;
    test.dockerfile("FROM busybox\nRUN --mount=type=ssh ! ls $SSH_AUTH_SOCK\n");
    test.build().await.image();
    test.dockerfile("FROM busybox\nRUN --mount=type=ssh,id=git,required true\n");
    let error = test.build().await.error();
    assert!(error.contains("needs the SSH agent `git`") && error.contains("--ssh git"), "{error}");
    options(&mut test).agents.insert("git".into(), "/nonexistent/agent".into());
    let error = test.build().await.error();
    assert!(error.contains("`/nonexistent/agent` does not answer"), "{error}");
}
