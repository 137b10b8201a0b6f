//! Builds by users without root: the same images as root builds.

use crate::support::{Program, Repository, Run, Setup};
use std::fs;
use std::os::unix::fs::{PermissionsExt, chown};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::Command;

/// A user that `scripts/setup` has made: with subordinate ids.
const SUBIDS: &str = "pkgbuild-m2";

/// And one without any.
const SINGLE: &str = "pkgbuild-m3";

/// The program as a user other than root: a copy that the user can read, and a home of the user's.
struct Rootless {
    program: Program,
    name: &'static str,
    binary: PathBuf,
    ids: (u32, u32),
}

impl Rootless {
    #[track_caller]
    fn new(name: &'static str) -> Self {
        let _setup = Setup::require();
        let id = |flag: &str| {
            let output = Command::new("id").args([flag, name]).output().expect("every system has it");
            let text = String::from_utf8(output.stdout).expect("numbers");
            text.trim().parse().unwrap_or_else(|_| panic!("there is no user {name}: run scripts/setup"))
        };
        let program = Program::new();
        let (binary, ids) = (program.home().join("pkgbuild"), (id("-u"), id("-g")));
        fs::copy(env!("CARGO_BIN_EXE_pkgbuild"), &binary).expect("copies");
        fs::set_permissions(program.home(), fs::Permissions::from_mode(0o755)).expect("its own");
        give(program.home(), ids);
        Self { program, name, binary, ids }
    }

    /// Returns a copy of the repository that belongs to the user.
    fn checkout(&self, repository: &Repository) -> PathBuf {
        let place = self.program.home().join("checkout");
        if !place.exists() {
            let status = Command::new("cp").arg("-r").arg(repository.path()).arg(&place).status().expect("every system has it");
            assert!(status.success());
            give(&place, self.ids);
        }
        place
    }

    /// Returns the command as that user, without further groups.
    fn command(&self, directory: &Path, arguments: &[&str]) -> Command {
        let like = self.program.command(directory, arguments);
        let mut command = Command::new(&self.binary);
        command.args(arguments).current_dir(directory).env_clear().uid(self.ids.0).gid(self.ids.1);
        command.envs(like.get_envs().filter_map(|(key, value)| Some((key, value?))));
        command
    }

    #[track_caller]
    #[must_use = "a run that nobody looks at proves nothing"]
    fn run(&self, repository: &Repository, arguments: &[&str]) -> Run {
        let mut command = self.command(&self.checkout(repository), arguments);
        Run::of(arguments, command.output().expect("the program can be started"))
    }
}

fn give(path: &Path, ids: (u32, u32)) {
    let status = Command::new("chown").args(["-R", &format!("{}:{}", ids.0, ids.1)]).arg(path).status();
    assert!(status.expect("every system has it").success());
}

/// A first stage with a shell, an `/etc/passwd` and a `/tmp`.
const BASE: &str = r#"FROM scratch AS base
COPY --chmod=755 busybox /bin/busybox
RUN ["/bin/busybox", "mkdir", "-p", "/etc", "/tmp", "/home"]
RUN ["/bin/busybox", "--install", "-s", "/bin"]
RUN printf 'root:x:0:0:root:/root:/bin/sh\nuser:x:1000:1000::/home/user:/bin/sh\n' > /etc/passwd \
 && printf 'root:x:0:\nuser:x:1000:\nstaff:x:50:user\n' > /etc/group && chmod 1777 /tmp
FROM base
"#;

/// What a Dockerfile is about, and its lines after [`BASE`].
const DOCKERFILES: [(&str, &str); 10] = [
    ("copied", "COPY --chown=1000:1000 tree /home/user\nCOPY --chown=12:34 --chmod=4750 tree/f /opt/owned\nCOPY tree /plain\n"),
    ("archived", "ADD t.tar /tar\nRUN rm /tar/d/link && ln /tar/d/x /tar/again && echo more >> /tar/d/x\n"),
    ("written", "RUN touch /new && mkdir -p /newdir/sub && echo 1 > /newdir/f && chmod 600 /new && chmod 1770 /newdir\n"),
    (
        "given",
        "RUN mkdir /d && echo 1 > /d/f && ln -s f /d/sym && chown 1000:1000 /d /d/f && chown -h 3:4 /d/sym\n\
         RUN mv /d /moved && mv /moved/sym /moved/other && chown -R 7:8 /home\n",
    ),
    (
        "setuid",
        "RUN cp /bin/busybox /bin/su2 && chmod 4755 /bin/su2 && mkdir /var && chown 0:50 /var && chmod 2775 /var\n\
         RUN echo m > /var/mail && mkdir /var/spool && touch /var/spool/x\n",
    ),
    (
        "user",
        "RUN mkdir /home/user && chown user:user /home/user\nUSER user\nWORKDIR /home/user/made\n\
         RUN id -u > uid && id -g > gid && echo hi > mine && mkdir sub && ln -s mine ml && touch /tmp/t && umask > um\n\
         RUN ! chown 0:0 mine && ! chown 1:1 sub\nUSER root\nRUN echo changed >> mine && chmod 640 mine\nUSER 1234:50\nRUN touch /tmp/other\n",
    ),
    ("removed", "COPY tree /a\nCOPY tree /b\nRUN rm -r /a && rm /b/f && mkdir /a && echo 2 > /a/g\nRUN rm -rf /b\n"),
    (
        "linked",
        "COPY tree /a\nRUN ln /a/f /a/hard && ln -s /nowhere /a/broken && mkfifo /a/pipe && chown 5:6 /a/pipe\nRUN echo 1 >> /a/hard\n",
    ),
    (
        "seen",
        "COPY --chown=1000:50 tree /home/user\nRUN chown 9:9 /home/user/f && cp -a /home/user /copy\n\
         RUN cd /copy && stat -c '%u:%g %a %n' f link . /home/user/f > /stats && chown 3 f && stat -c %u:%g f >> /stats\n\
         RUN find / -xdev -user 9 > /found && tar cf /t.tar -C /copy . && mkdir /u && tar xf /t.tar -C /u && rm /t.tar\n",
    ),
    (
        "switched",
        "RUN chown 1000:1000 /home\nRUN su user -c 'touch /home/made && mkdir /home/dir && ln -s x /home/ln && id -u > /home/uid'\nRUN touch /home/roots\n",
    ),
];

fn packages() -> Repository {
    let repository = Repository::new();
    let tar = tempfile::tempdir().expect("temp dir");
    let d = tar.path().join("d");
    fs::create_dir(&d).expect("creates");
    for name in ["x", "y"] {
        fs::write(d.join(name), name).expect("writes");
        chown(d.join(name), Some(1234), Some(4321)).expect("root may");
    }
    fs::set_permissions(d.join("x"), fs::Permissions::from_mode(0o4755)).expect("its own");
    fs::hard_link(d.join("x"), d.join("z")).expect("links");
    std::os::unix::fs::symlink("x", d.join("link")).expect("links");
    std::os::unix::fs::lchown(d.join("link"), Some(77), Some(100_000)).expect("root may");
    chown(&d, Some(70_000), Some(2)).expect("root may");
    let made = Command::new("mknod").arg(d.join("null")).args(["c", "1", "3"]).status().expect("every system has it");
    assert!(made.success());
    let packed = Command::new("tar").args(["--sort=name", "--mtime=@0", "-c", "-C"]).arg(tar.path()).arg("d").output();
    let archive = packed.expect("every system has it").stdout;
    for (name, lines) in DOCKERFILES {
        repository
            .write(&format!("pkg/{name}/build.yml"), format!("org: test\nimage: {name}\narches: [amd64]\nnetwork: false\n"))
            .write(&format!("pkg/{name}/Dockerfile"), format!("{BASE}{lines}"))
            .write(&format!("pkg/{name}/busybox"), fs::read("/bin/busybox").expect("setup has installed it"))
            .write(&format!("pkg/{name}/t.tar"), &archive)
            .write(&format!("pkg/{name}/tree/f"), "data\n")
            .write(&format!("pkg/{name}/tree/sub/g"), "more\n");
        std::os::unix::fs::symlink("f", repository.path().join(format!("pkg/{name}/tree/link"))).expect("links");
    }
    repository.commit("packages");
    repository
}

const BUILD: [&str; 3] = ["build", "--offline", "--keep-going"];

fn arguments() -> Vec<String> {
    let packages = DOCKERFILES.iter().map(|(name, _)| format!("pkg/{name}"));
    BUILD.iter().map(|word| (*word).to_owned()).chain(packages).collect()
}

/// Builds everything as root and as a user, and compares the names with their digests.
#[track_caller]
fn same_as_root(user: &'static str) -> Run {
    let repository = packages();
    let arguments = arguments();
    let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
    let root = Program::new().run(repository.path(), &arguments).success();
    let rootless = Rootless::new(user);
    let first = rootless.run(&repository, &arguments).success();
    assert_eq!(first.lines(), root.lines(), "{}", first.stderr);
    // And from what it has kept.
    let again = rootless.run(&repository, &[&["build", "--offline", "--force"][..], &arguments[3..]].concat()).success();
    assert_eq!(again.lines(), root.lines(), "{}", again.stderr);
    assert!(again.stderr.contains("cached"), "{}", again.stderr);
    // And where no overlay can be mounted.
    rootless.run(&repository, &["cache", "clean"]).success();
    let mut copying = rootless.command(&rootless.checkout(&repository), &arguments);
    let copied = Run::of(&arguments, copying.env("PKGBUILD_OVERLAY", "off").output().expect("starts")).success();
    assert_eq!(copied.lines(), root.lines(), "{}", copied.stderr);
    assert!(copied.stderr.contains("copies its whole root"), "{}", copied.stderr);
    let cleaned = rootless.run(&repository, &["cache", "clean"]).success();
    assert!(!rootless.program.cache().join("pkgbuild/v1/forms").exists(), "{} {}", rootless.name, cleaned.stdout);
    first
}

#[test]
fn a_user_with_subordinate_ids_builds_what_root_builds() {
    let run = same_as_root(SUBIDS);
    assert!(!run.stderr.contains("single user id"), "{}", run.stderr);
}

#[test]
fn a_user_with_a_single_id_builds_what_root_builds() {
    let run = same_as_root(SINGLE);
    assert_eq!(run.stderr.matches("single user id").count(), 1, "{}", run.stderr);
}

/// A static program for s390x that ends with status 42: `lghi %r2,42; svc 1` after its headers.
fn program_of_s390x() -> Vec<u8> {
    const CODE: [u8; 6] = [0xa7, 0x29, 0x00, 0x2a, 0x0a, 0x01];
    let (place, length) = (0x100_0000_u64, 126_u64);
    let mut bytes = b"\x7fELF\x02\x02\x01\0\0\0\0\0\0\0\0\0\0\x02\0\x16\0\0\0\x01".to_vec();
    [place + 120, 64, 0].iter().for_each(|number| bytes.extend(number.to_be_bytes()));
    bytes.extend([0, 0, 0, 0, 0, 64, 0, 56, 0, 1, 0, 0, 0, 0, 0, 0]);
    bytes.extend([0, 0, 0, 1, 0, 0, 0, 5]);
    [0, place, place, length, length, 0x1000].iter().for_each(|number| bytes.extend(number.to_be_bytes()));
    bytes.extend(CODE);
    bytes
}

#[test]
fn an_emulator_that_the_machine_has_not_registered_runs_steps_all_the_same() {
    assert!(!Path::new("/proc/sys/fs/binfmt_misc/qemu-s390x").exists(), "this machine must not have it registered");
    let repository = Repository::new();
    repository
        .write("pkg/z/build.yml", "org: test\nimage: z\narches: [s390x]\n")
        .write("pkg/z/Dockerfile", "FROM scratch\nCOPY --chmod=755 program /program\nRUN [\"/program\"]\n")
        .write("pkg/z/program", program_of_s390x());
    repository.commit("a package");
    let build = ["build", "--offline", "pkg/z"];
    let runs = [
        Program::new().run(repository.path(), &build),
        Rootless::new(SUBIDS).run(&repository, &build),
        Rootless::new(SINGLE).run(&repository, &build),
    ];
    for run in runs {
        let run = run.exits_with(1);
        assert!(run.stderr.contains("exited with status 42"), "{}", run.stderr);
    }
    assert!(!Path::new("/proc/sys/fs/binfmt_misc/qemu-s390x").exists(), "the machine's list is as it was");
}
