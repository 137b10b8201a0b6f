//! Steps run for real: as root, on a root file system of Debian's static busybox.

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use pkgbuild::builder::embedded::sandbox::{
    Access, Exit, Mount, MountSource, ResolvedUser, RootForm, RootFs, RunStep, Sandbox, SandboxError, StepNetwork,
};
use pkgbuild::oci::Platform;
use tokio_util::sync::CancellationToken;

struct Test {
    directory: tempfile::TempDir,
    step: RunStep,
}

impl Test {
    fn new() -> Self {
        let directory = tempfile::tempdir().expect("temp dir");
        let base = directory.path().join("base");
        for path in ["bin", "etc", "tmp"] {
            std::fs::create_dir_all(base.join(path)).expect("creates");
        }
        let busybox = ["/bin/busybox", "/usr/bin/busybox"].into_iter().find(|path| Path::new(path).exists());
        std::fs::copy(busybox.expect("busybox-static is installed: run scripts/setup"), base.join("bin/busybox"))
            .expect("copies");
        for applet in [
            "sh", "ls", "cat", "id", "mkdir", "touch", "sleep", "mknod", "mount", "chown", "stat", "ip", "hostname", "ln", "rm",
            "grep", "pwd", "env", "head", "yes", "test", "wc",
        ] {
            std::os::unix::fs::symlink("busybox", base.join("bin").join(applet)).expect("links");
        }
        let draft = directory.path().join("draft");
        for path in ["upper", "work"] {
            std::fs::create_dir_all(draft.join(path)).expect("creates");
        }
        let step = RunStep {
            root: RootFs { form: RootForm::Overlay, lowers: vec![base], upper: draft.join("upper"), work: draft.join("work") },
            argv: Vec::new(),
            env: vec![("PATH".into(), "/usr/bin:/bin".into())],
            cwd: "/".into(),
            user: ResolvedUser { uid: 0, gid: 0, groups: Vec::new() },
            network: StepNetwork::None,
            mounts: Vec::new(),
            hostname: "pkgbuild".into(),
            shm_size: 64 << 20,
            platform: Platform::host(),
            given: Default::default(),
            links: Vec::new(),
        };
        Self { directory, step }
    }

    fn path(&self, path: &str) -> PathBuf {
        self.directory.path().join(path)
    }

    fn run(&mut self, argv: &[&str]) -> (Result<Exit, SandboxError>, String) {
        self.step.argv = argv.iter().map(|a| a.to_string()).collect();
        // The overlay is mounted volatile, which the kernel lets happen once for a work directory.
        std::fs::remove_dir_all(&self.step.root.work).expect("removes");
        std::fs::create_dir(&self.step.root.work).expect("creates");
        let mut output = Vec::new();
        let sandbox = Sandbox::of_program(Path::new(env!("CARGO_BIN_EXE_pkgbuild")));
        let result = sandbox.run(&self.step, &mut |bytes| output.extend_from_slice(bytes), &CancellationToken::new());
        (result, String::from_utf8_lossy(&output).into_owned())
    }

    /// Runs a script that must succeed and returns what it printed.
    fn sh(&mut self, script: &str) -> String {
        let (result, output) = self.run(&["/bin/sh", "-c", script]);
        assert_eq!(result.expect("runs"), Exit::Code(0), "{script}: {output}");
        output.trim_end().to_owned()
    }

    fn upper(&self) -> Vec<String> {
        fn walk(directory: &Path, prefix: &str, found: &mut Vec<String>) {
            for entry in std::fs::read_dir(directory).expect("reads") {
                let entry = entry.expect("reads");
                let name = format!("{prefix}{}", entry.file_name().to_string_lossy());
                if entry.file_type().expect("stat").is_dir() {
                    walk(&entry.path(), &format!("{name}/"), found);
                }
                found.push(name);
            }
        }
        let mut found = Vec::new();
        walk(&self.step.root.upper, "", &mut found);
        found.sort();
        found
    }
}

#[test]
fn a_step_sees_its_root_and_leaves_only_what_it_wrote() {
    let mut test = Test::new();
    assert_eq!(test.sh("echo hi > /made && cat /made && hostname && pwd"), "hi\npkgbuild\n/");
    assert_eq!(test.upper(), ["made"]);
    let entries: Vec<_> = test.sh("ls /").lines().map(str::to_owned).collect();
    assert_eq!(entries, ["bin", "dev", "etc", "made", "proc", "sys", "tmp"]);
}

#[test]
fn a_failing_step_tells_its_status() {
    let mut test = Test::new();
    assert_eq!(test.run(&["/bin/sh", "-c", "echo out; echo err >&2; exit 7"]).1, "out\nerr\n");
    assert_eq!(test.run(&["/bin/sh", "-c", "exit 7"]).0.expect("runs"), Exit::Code(7));
    assert_eq!(test.run(&["/bin/sh", "-c", "kill -9 $$"]).0.expect("runs"), Exit::Signal(9));
    let missing = test.run(&["/bin/no-such"]).0.expect_err("cannot run").to_string();
    assert!(missing.contains("does not exist"), "{missing}");
    let (result, _) = test.run(&["no-such-in-path"]);
    assert!(matches!(result, Err(SandboxError::Exec { .. })));
    std::fs::write(test.step.root.lowers[0].join("bin/garbage"), "\u{7f}ELFgarbage").expect("writes");
    use std::os::unix::fs::PermissionsExt;
    std::fs::set_permissions(test.step.root.lowers[0].join("bin/garbage"), std::fs::Permissions::from_mode(0o755))
        .expect("chmod");
    let garbage = test.run(&["garbage"]).0.expect_err("cannot run").to_string();
    assert!(garbage.contains("binfmt_misc"), "{garbage}");
}

#[test]
fn the_environment_is_what_the_step_was_given_and_no_more() {
    let mut test = Test::new();
    test.step.env.push(("A".into(), "b c".into()));
    let (result, output) = test.run(&["env"]);
    assert_eq!(result.expect("runs"), Exit::Code(0));
    assert_eq!(output, "PATH=/usr/bin:/bin\nA=b c\n");
}

#[test]
fn a_step_is_root_inside_and_nobody_outside() {
    let mut test = Test::new();
    let status = test.sh("grep -E 'Cap(Inh|Prm|Eff|Bnd|Amb)|Seccomp:|NoNewPrivs' /proc/self/status");
    let expected = [
        "CapInh:\t0000000000000000",
        "CapPrm:\t00000000a80425fb",
        "CapEff:\t00000000a80425fb",
        "CapBnd:\t00000000a80425fb",
        "CapAmb:\t0000000000000000",
        "NoNewPrivs:\t0",
        "Seccomp:\t2",
    ];
    assert_eq!(status.lines().collect::<Vec<_>>(), expected);
    for refused in [
        "mknod /x b 8 0",
        "mount -t tmpfs x /tmp",
        "hostname other",
        "cat /proc/kcore | head -c1 | grep .",
        "echo 1 > /proc/sys/kernel/panic",
        "touch /sys/x",
        "cat /proc/1/environ",
    ] {
        let (result, output) = test.run(&["/bin/sh", "-c", refused]);
        assert_ne!(result.expect("runs"), Exit::Code(0), "{refused}: {output}");
    }
    assert_eq!(test.sh("touch /f && chown 12:34 /f && stat -c %u:%g /f"), "12:34");
    use std::os::unix::fs::MetadataExt;
    let metadata = std::fs::metadata(test.path("draft/upper/f")).expect("there");
    assert_eq!((metadata.uid(), metadata.gid()), (12, 34));
}

#[test]
fn another_user_has_no_capabilities_and_exact_groups() {
    let mut test = Test::new();
    test.step.user = ResolvedUser { uid: 1000, gid: 1001, groups: vec![7, 8] };
    test.step.cwd = "/home/me".into();
    assert_eq!(
        test.sh("id -u; id -g; grep Groups /proc/self/status; pwd; grep CapEff /proc/self/status"),
        "1000\n1001\nGroups:\t7 8 \n/home/me\nCapEff:\t0000000000000000"
    );
    assert_eq!(test.sh("stat -c %u:%g:%a ."), "1000:1001:755");
}

#[test]
fn without_a_network_there_is_only_a_loopback_interface_that_is_up() {
    let mut test = Test::new();
    let links = test.sh("ip -o link");
    assert_eq!(links.lines().count(), 1, "{links}");
    assert!(links.contains("lo:") && links.contains("UP"), "{links}");
    let (result, _) = test.run(&["/bin/sh", "-c", "test -e /etc/resolv.conf"]);
    assert_eq!(result.expect("runs"), Exit::Code(1));
    test.step.network = StepNetwork::Host;
    test.sh("test -e /etc/resolv.conf && grep -q . /proc/net/dev && test -d /sys/class/net");
    assert_eq!(test.upper(), Vec::<String>::new());
}

#[test]
fn mounts_appear_and_leave_no_trace() {
    let mut test = Test::new();
    let cache = test.path("cache");
    std::fs::create_dir(&cache).expect("creates");
    let other = test.path("other");
    std::fs::create_dir_all(other.join("sub")).expect("creates");
    std::fs::write(other.join("sub/file"), "from layer").expect("writes");
    let mount = |target: &str, source| Mount { target: target.into(), source };
    test.step.mounts = vec![
        mount("/var/cache/x", MountSource::Path { path: cache.clone(), access: Access::ReadWrite }),
        mount("/in", MountSource::Layers { lowers: vec![other.clone()], path: "sub".into(), access: Access::ReadOnly }),
        mount("/rw", MountSource::Layers { lowers: vec![other.clone()], path: "/".into(), access: Access::ReadWrite }),
        mount(
            "/one/file",
            MountSource::Layers { lowers: vec![other.clone()], path: "/sub/file".into(), access: Access::ReadOnly },
        ),
        mount("/scratch", MountSource::Tmpfs { size: Some(1 << 20) }),
    ];
    let script =
        "echo kept > /var/cache/x/f && cat /in/file /one/file && ! touch /in/no 2>/dev/null && touch /rw/gone /scratch/gone";
    assert_eq!(test.sh(script), "from layerfrom layer");
    assert_eq!(std::fs::read_to_string(cache.join("f")).expect("there"), "kept\n");
    assert!(!other.join("gone").exists());
    assert_eq!(test.upper(), Vec::<String>::new());
}

#[test]
fn mount_targets_behind_links_stay_inside_the_root_and_vanish() {
    let mut test = Test::new();
    let base = test.step.root.lowers[0].clone();
    std::fs::create_dir(base.join("real")).expect("creates");
    std::os::unix::fs::symlink("/real", base.join("link")).expect("links");
    std::os::unix::fs::symlink("/../../../../../../tmp", base.join("out")).expect("links");
    test.step.mounts = ["/link/below", "/out/below"]
        .map(|target| Mount { target: target.into(), source: MountSource::Tmpfs { size: None } })
        .to_vec();
    assert_eq!(test.sh("touch /real/below/x /tmp/below/y && ls /real/below /tmp/below"), "/real/below:\nx\n\n/tmp/below:\ny");
    assert_eq!(test.upper().iter().filter(|path| path.contains("below")).count(), 0, "{:?}", test.upper());
    assert!(!Path::new("/tmp/below").exists());
    test.step.mounts = vec![Mount { target: "/proc/sys".into(), source: MountSource::Tmpfs { size: None } }];
    assert!(test.run(&["/bin/sh", "-c", "true"]).0.is_err());
}

#[test]
fn nothing_is_left_running_after_the_step() {
    let mut test = Test::new();
    let mark = format!("77{}", std::process::id());
    test.sh(&format!("sleep {mark} & sleep {mark} & true"));
    assert_eq!(processes(&mark), 0);
}

fn processes(mark: &str) -> usize {
    let command_line = |entry: std::io::Result<std::fs::DirEntry>| std::fs::read(entry.ok()?.path().join("cmdline")).ok();
    let wanted = format!("sleep\0{mark}\0");
    std::fs::read_dir("/proc").expect("proc").filter_map(command_line).filter(|line| line == wanted.as_bytes()).count()
}

#[test]
fn cancelling_ends_a_step_that_does_not_listen() {
    let mut test = Test::new();
    let mark = format!("88{}", std::process::id());
    test.step.argv =
        ["/bin/sh", "-c", &format!("trap '' TERM; sleep {mark} & while :; do sleep 1; done")].map(str::to_owned).to_vec();
    let cancel = CancellationToken::new();
    let canceller = cancel.clone();
    let waiter = std::thread::spawn(move || {
        std::thread::sleep(Duration::from_millis(500));
        canceller.cancel();
    });
    let sandbox = Sandbox::of_program(Path::new(env!("CARGO_BIN_EXE_pkgbuild")));
    let started = Instant::now();
    let result = sandbox.run(&test.step, &mut |_| {}, &cancel);
    assert!(matches!(result, Err(SandboxError::Cancelled)), "{result:?}");
    assert!(started.elapsed() < Duration::from_secs(60));
    waiter.join().expect("joins");
    assert_eq!(processes(&mark), 0);
}

#[test]
fn a_pipe_that_is_closed_early_ends_its_writer() {
    let mut test = Test::new();
    assert_eq!(test.sh("yes | head -n 1"), "y");
}

#[test]
fn a_big_output_arrives_whole_and_in_order() {
    let mut test = Test::new();
    let (result, output) = test.run(&["/bin/sh", "-c", "i=0; while [ $i -lt 20000 ]; do echo line $i; i=$((i+1)); done"]);
    assert_eq!(result.expect("runs"), Exit::Code(0));
    let expected: String = (0..20000).map(|n| format!("line {n}\n")).collect();
    assert_eq!(output, expected);
}

/// A network namespace with a server in it, joined to this machine by a pair of interfaces.
struct FarHost {
    name: String,
    server: std::process::Child,
    _served: tempfile::TempDir,
}

impl FarHost {
    const ADDRESS: &str = "198.18.77.2";

    fn new() -> Self {
        let name = format!("pb{}", std::process::id());
        let far = format!("{name}f");
        let ip = |arguments: &str| {
            let status = std::process::Command::new("ip")
                .args(arguments.split_whitespace())
                .status()
                .expect("iproute2: run scripts/setup");
            assert!(status.success(), "ip {arguments}");
        };
        ip(&format!("netns add {name}"));
        ip(&format!("link add {name} type veth peer name {far} netns {name}"));
        ip(&format!("addr add 198.18.77.1/30 dev {name}"));
        ip(&format!("link set {name} up"));
        ip(&format!("-n {name} addr add {}/30 dev {far}", Self::ADDRESS));
        ip(&format!("-n {name} link set {far} up"));
        ip(&format!("-n {name} route add default via 198.18.77.1"));
        let served = tempfile::tempdir().expect("temp dir");
        std::fs::write(served.path().join("file"), "far").expect("writes");
        let server = std::process::Command::new("ip")
            .args(["netns", "exec", &name, "busybox", "httpd", "-f", "-p", "8080", "-h"])
            .arg(served.path())
            .spawn()
            .expect("starts");
        Self { name, server, _served: served }
    }
}

impl Drop for FarHost {
    fn drop(&mut self) {
        let _ = self.server.kill();
        let _ = self.server.wait();
        let _ = std::process::Command::new("ip").args(["link", "del", &self.name]).status();
        let _ = std::process::Command::new("ip").args(["netns", "del", &self.name]).status();
    }
}

#[test]
fn an_outbound_network_reaches_other_machines_but_not_this_one() {
    let far = FarHost::new();
    let local = std::net::TcpListener::bind("127.0.0.1:0").expect("binds");
    let port = local.local_addr().expect("bound").port();
    let mut test = Test::new();
    for applet in ["nc", "printf", "timeout"] {
        std::os::unix::fs::symlink("busybox", test.step.root.lowers[0].join("bin").join(applet)).expect("links");
    }
    test.step.network = StepNetwork::Outbound;
    let sandbox = Sandbox::of_program(Path::new(env!("CARGO_BIN_EXE_pkgbuild")));
    assert!(sandbox.outbound(), "pasta is installed: run scripts/setup");
    // Not wget: Debian's static busybox crashes in its own name resolver.
    let get = |address: &str| format!("printf 'GET /file HTTP/1.0\\r\\n\\r\\n' | timeout 2 nc {address} | grep -o far");
    // The far server may still be starting, so it is asked more than once.
    let far_address = format!("{} 8080", FarHost::ADDRESS);
    let reached = (0..20).any(|_| test.run(&["/bin/sh", "-c", &get(&far_address)]).1.contains("far"));
    assert!(reached, "the step could not reach another machine");
    let (result, _) = test.run(&["/bin/sh", "-c", &get(&format!("127.0.0.1 {port}"))]);
    assert_ne!(result.expect("runs"), Exit::Code(0));
    assert_eq!(test.upper(), Vec::<String>::new());
    drop(far);
}

#[test]
fn a_step_is_kept_within_its_memory_and_its_processes_and_its_groups_go_with_it() {
    let mut test = Test::new();
    test.step.shm_size = 256 << 20;
    test.step.given.budget.memory = Some(48 << 20);
    let (result, output) = test.run(&["/bin/sh", "-c", "head -c 128m /dev/zero >/dev/shm/large"]);
    assert_ne!(result.expect("runs"), Exit::Code(0));
    assert!(output.contains("used more memory than --memory allows"), "{output}");
    let (result, _) = test.run(&["/bin/sh", "-c", "head -c 16m /dev/zero >/dev/shm/small"]);
    assert_eq!(result.expect("runs"), Exit::Code(0));

    test.step.given.budget.memory = None;
    test.step.given.budget.processes = Some(6);
    let (result, _) = test.run(&["/bin/sh", "-c", "for i in 1 2 3 4 5 6 7 8 9; do sleep 3 & done; wait"]);
    assert_ne!(result.expect("runs"), Exit::Code(0));

    let own = format!("pkgbuild-{}-", std::process::id());
    let mut open = vec![PathBuf::from("/sys/fs/cgroup")];
    while let Some(directory) = open.pop() {
        for entry in std::fs::read_dir(directory).into_iter().flatten().flatten() {
            assert!(!entry.file_name().to_string_lossy().starts_with(&own), "{}", entry.path().display());
            if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
                open.push(entry.path());
            }
        }
    }
}
