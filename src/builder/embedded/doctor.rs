//! What the embedded builder can do on this machine, how it was found out, and what would make it better.
//!
//! Nothing is taken from lists of versions where it can be tried: a step is set up with a root that has no program, so
//! that "there is no such program" means that everything before that worked.

use std::io;
use std::os::fd::AsFd;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use serde::Serialize;
use tokio_util::sync::CancellationToken;

use super::sandbox::{
    self, Emulators, Found, Mode, Obstacle, ResolvedUser, RootForm, RootFs, RunStep, Sandbox, SandboxError, StepNetwork, trial,
};
use super::snapshot::Overlay;
use crate::builder::Support;
use crate::oci::Platform;
use crate::sys::fs::{Lock, LockKind, UNFINISHED};

/// How something stands.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum State {
    /// As it should be.
    Ok,
    /// Builds work, but slower, less well isolated, or not for everything.
    Worse,
    /// Builds do not work.
    Missing,
}

/// One thing that was looked at.
#[derive(Clone, PartialEq, Eq, Debug, Serialize)]
pub struct Check {
    /// What.
    pub name: &'static str,
    /// How it stands.
    pub state: State,
    /// What was found.
    pub found: String,
    /// What would help.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub help: Option<String>,
}

impl Check {
    /// Returns a check that found everything in order.
    pub fn ok(name: &'static str, found: impl Into<String>) -> Self {
        Self { name, state: State::Ok, found: found.into(), help: None }
    }

    /// Returns a check that found something lacking.
    pub fn lacking(name: &'static str, state: State, found: impl Into<String>, help: impl Into<String>) -> Self {
        Self { name, state, found: found.into(), help: Some(help.into()) }
    }
}

/// How the builder serves a platform.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Served {
    /// The platform.
    pub platform: Platform,
    /// How.
    pub support: Support,
    /// Through what, or what is missing.
    pub found: String,
}

/// What is known of the embedded builder here.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Diagnosis {
    /// How it isolates steps, when it can.
    pub mode: Option<Mode>,
    /// Everything that was looked at.
    pub checks: Vec<Check>,
    /// The platforms that images are commonly built for.
    pub platforms: Vec<Served>,
}

impl Diagnosis {
    /// Returns whether packages for this machine's own platform can be built.
    pub fn usable(&self) -> bool {
        self.checks.iter().all(|check| check.state != State::Missing)
    }
}

/// Architectures that are told of, besides the machine's own.
const ARCHITECTURES: [&str; 7] = ["386", "amd64", "arm", "arm64", "ppc64le", "riscv64", "s390x"];

/// Looks at everything that the builder needs to keep its files in `cache` and to run steps in `sandbox`, of a process
/// that is in the mode `standing`. What it writes on the way is gone when it returns.
pub fn examine(sandbox: &Sandbox, cache: &Path, standing: &Result<Found, Obstacle>) -> Diagnosis {
    let mut checks = vec![mode(standing), namespaces()];
    let (place, storage) = storage(cache);
    checks.extend(storage);
    if let Some(place) = place {
        let overlay = overlay(&place, sandbox.overlay());
        let form = if overlay.state == State::Ok { RootForm::Overlay } else { RootForm::Whole };
        checks.push(overlay);
        if sandbox.mode().is_some() {
            checks.push(step(sandbox, &place, form));
        }
        // What cannot be deleted now lies where it is swept.
        let _ = fs_err::remove_dir_all(place);
    }
    checks.extend([network(sandbox), limits(), kernel()]);
    let emulators = Emulators::read();
    let own = Platform::host().architecture;
    let others = ARCHITECTURES.iter().filter(|other| **other != own).map(|other| (*other).to_owned());
    let platforms = std::iter::once(own.clone()).chain(others);
    let platforms = platforms.map(|architecture| served(sandbox, &emulators, Platform::linux(&architecture))).collect();
    Diagnosis { mode: sandbox.mode(), checks, platforms }
}

fn mode(standing: &Result<Found, Obstacle>) -> Check {
    match standing {
        Ok(Found { mode, single: None }) => Check::ok("mode", mode.phrase()),
        Ok(Found { mode, single: Some(why) }) => {
            Check::lacking("mode", State::Worse, format!("{}: {why}", mode.phrase()), why.help())
        }
        Err(obstacle) => Check::lacking("mode", State::Missing, format!("none: {obstacle}"), obstacle.help()),
    }
}

fn setting(path: &str) -> Option<String> {
    fs_err::read_to_string(path).ok().map(|text| text.trim().to_owned())
}

/// Root makes a user namespace for each step, too.
fn namespaces() -> Check {
    const NAME: &str = "user namespaces";
    let Some(limit) = setting("/proc/sys/user/max_user_namespaces") else {
        return Check::lacking(NAME, State::Missing, "this kernel has none", "use a kernel with CONFIG_USER_NS");
    };
    if limit == "0" {
        let found = "forbidden (user.max_user_namespaces is 0)";
        return Check::lacking(NAME, State::Missing, found, "as root: `sysctl user.max_user_namespaces=15000`");
    }
    let restricted = [
        ("/proc/sys/kernel/unprivileged_userns_clone", "0", "kernel.unprivileged_userns_clone"),
        ("/proc/sys/kernel/apparmor_restrict_unprivileged_userns", "1", "kernel.apparmor_restrict_unprivileged_userns"),
    ];
    match restricted.iter().find(|(path, value, _)| setting(path).as_deref() == Some(value)) {
        Some((_, value, name)) => Check::ok(NAME, format!("for root only ({name} is {value})")),
        None => Check::ok(NAME, format!("at most {limit}")),
    }
}

/// Looks at the cache directory, and returns a directory to try things in, where it can be made.
fn storage(cache: &Path) -> (Option<PathBuf>, Vec<Check>) {
    const NAME: &str = "cache directory";
    let elsewhere = "name another directory with --cache or PKGBUILD_CACHE";
    let existing = cache.ancestors().find(|path| path.is_dir()).unwrap_or(Path::new("/"));
    let place = match tempfile::Builder::new().prefix(UNFINISHED).tempdir_in(existing) {
        Ok(place) => place.keep(),
        Err(error) => {
            let found = format!("{} cannot be written to: {error}", existing.display());
            return (None, vec![Check::lacking(NAME, State::Missing, found, elsewhere)]);
        }
    };
    let mut checks = vec![match file_system(&place) {
        Ok((kind, free)) => {
            let found = format!("{} on {kind}, {} GiB free", cache.display(), free >> 30);
            if free < 5 << 30 {
                Check::lacking(NAME, State::Worse, found, "free some room: `pkgbuild cache gc`")
            } else {
                Check::ok(NAME, found)
            }
        }
        Err(error) => Check::lacking(NAME, State::Worse, format!("{}: {error}", cache.display()), elsewhere),
    }];
    // Two descriptions of one file exclude each other, in one process, too.
    let lock = || Lock::try_acquire(&place.join("lock"), LockKind::Flock);
    checks.push(match lock().and_then(|first| Ok((first.is_some(), lock()?.is_none()))) {
        Ok((true, true)) => Check::ok("locks", "files can be locked"),
        Ok(_) => Check::lacking("locks", State::Missing, "a lock that is held is given again", elsewhere),
        Err(error) => Check::lacking("locks", State::Missing, format!("files cannot be locked: {error}"), elsewhere),
    });
    (Some(place), checks)
}

/// Returns the name of the file system of a directory, and how many bytes are free in it.
fn file_system(directory: &Path) -> io::Result<(String, u64)> {
    let file = fs_err::File::open(directory)?;
    let stat = rustix::fs::fstatfs(file.file().as_fd())?;
    let magic = stat.f_type as u64 & 0xffff_ffff;
    let known: [(u64, &str); 11] = [
        (0xef53, "ext4"),
        (0x5846_5342, "xfs"),
        (0x9123_683e, "btrfs"),
        (0x0102_1994, "tmpfs"),
        (0x794c_7630, "overlay"),
        (0x6969, "nfs"),
        (0x2fc1_2fc1, "zfs"),
        (0xf2f5_2010, "f2fs"),
        (0x6573_5546, "fuse"),
        (0xca45_1a4e, "bcachefs"),
        (0x0102_1997, "9p"),
    ];
    let name =
        known.iter().find(|(number, _)| *number == magic).map_or_else(|| format!("{magic:#x}"), |known| known.1.to_owned());
    Ok((name, stat.f_bavail.saturating_mul(stat.f_bsize as u64)))
}

fn overlay(place: &Path, wanted: Overlay) -> Check {
    const NAME: &str = "overlayfs";
    if wanted == Overlay::Never {
        let found = "turned off: each step copies its whole root";
        return Check::lacking(NAME, State::Worse, found, "leave PKGBUILD_OVERLAY=off out");
    }
    let inner = place.join("overlay");
    match fs_err::create_dir(&inner)
        .map_err(|error| error.to_string())
        .and_then(|()| trial::overlay(&inner).map_err(|error| error.to_string()))
    {
        Ok(()) => Check::ok(NAME, "works in the cache directory"),
        Err(reason) => Check::lacking(
            NAME,
            State::Worse,
            format!("each step copies its whole root: {reason}"),
            "put the cache directory on a disk file system, in a container on a volume (--cache)",
        ),
    }
}

/// Sets a step up whose program is not there.
fn step(sandbox: &Sandbox, place: &Path, form: RootForm) -> Check {
    const NAME: &str = "steps";
    let missing = |error: &dyn std::error::Error| {
        let mut text = error.to_string();
        let mut source = error.source();
        while let Some(error) = source {
            text = format!("{text}: {error}");
            source = error.source();
        }
        let in_container = ["/.dockerenv", "/run/.containerenv"].iter().any(|path| Path::new(path).exists());
        let help = if in_container {
            "start the container with --privileged; less may do: see \"Inside of containers\" in docs/builders.md"
        } else {
            "look for what a security module or service manager forbids this process"
        };
        Check::lacking(NAME, State::Missing, text, help)
    };
    let place = place.join("step");
    let (upper, work) = (place.join("fs"), place.join("work"));
    if let Err(error) = fs_err::create_dir_all(&upper).and_then(|()| fs_err::create_dir_all(&work)) {
        return missing(&error);
    }
    let step = RunStep {
        root: RootFs { form, lowers: Vec::new(), upper, work },
        argv: vec!["/none".to_owned()],
        env: Vec::new(),
        cwd: "/".to_owned(),
        user: ResolvedUser { uid: 0, gid: 0, groups: Vec::new() },
        network: StepNetwork::None,
        mounts: Vec::new(),
        hostname: "pkgbuild".to_owned(),
        shm_size: 1 << 20,
        given: Default::default(),
        links: Default::default(),
        platform: Platform::host(),
    };
    match sandbox.run(&step, &mut |_| {}, &CancellationToken::new()) {
        Ok(_) | Err(SandboxError::Exec { .. }) => Check::ok(NAME, "can be isolated"),
        Err(error) => missing(&error),
    }
}

fn network(sandbox: &Sandbox) -> Check {
    if sandbox.outbound() {
        return Check::ok("network", "steps with a network have one of their own, through `pasta`");
    }
    let found = "steps with a network share that of this machine: `pasta` is not installed";
    Check::lacking("network", State::Worse, found, "install it (Debian: `passt`)")
}

/// Where a step that takes too much would be stopped.
fn limits() -> Check {
    const NAME: &str = "control groups";
    let own = setting("/proc/self/cgroup").unwrap_or_default();
    let Some(own) = own.lines().find_map(|line| line.strip_prefix("0::")) else {
        return Check::lacking(NAME, State::Worse, "there is no cgroup v2", "start the system with cgroup v2 alone");
    };
    let directory = Path::new("/sys/fs/cgroup").join(own.trim_start_matches('/'));
    let controllers = fs_err::read_to_string(directory.join("cgroup.controllers")).unwrap_or_default();
    let missing: Vec<&str> =
        ["cpu", "memory", "pids"].into_iter().filter(|name| !controllers.split_whitespace().any(|had| had == *name)).collect();
    let may_write = rustix::fs::access(&directory, rustix::fs::Access::WRITE_OK).is_ok();
    match (missing.is_empty(), may_write) {
        (true, true) => Check::ok(NAME, "v2, with cpu, memory and pids"),
        (false, _) => {
            let found = format!("v2 without {}: steps cannot be limited in it", missing.join(", "));
            Check::lacking(NAME, State::Worse, found, "delegate the controllers: `systemd-run --user --scope -p Delegate=yes …`")
        }
        (true, false) => {
            let found = "v2, not writable: steps cannot be limited in it";
            Check::lacking(NAME, State::Worse, found, "have it delegated: `systemd-run --user --scope -p Delegate=yes …`")
        }
    }
}

fn kernel() -> Check {
    let release = rustix::system::uname().release().to_string_lossy().into_owned();
    let modules = setting("/sys/kernel/security/lsm").filter(|text| !text.is_empty());
    let found = match modules {
        Some(modules) => format!("Linux {release}, security modules {modules}"),
        None => format!("Linux {release}"),
    };
    let mut numbers = release.split(|c: char| !c.is_ascii_digit()).filter_map(|number| number.parse::<u32>().ok());
    match (numbers.next(), numbers.next()) {
        // mount_setattr(2), which mounts of steps are restricted with.
        (Some(major), Some(minor)) if (major, minor) < (5, 12) => {
            Check::lacking("kernel", State::Missing, found, "use Linux 5.12 or newer")
        }
        _ => Check::ok("kernel", found),
    }
}

/// Programs of qemu that run a single program of another architecture, by the name that qemu has for it.
fn qemu(architecture: &str) -> Option<PathBuf> {
    let name = match architecture {
        "386" => "i386",
        "amd64" => "x86_64",
        "arm64" => "aarch64",
        other => other,
    };
    let files = [format!("/usr/bin/qemu-{name}-static"), format!("/usr/bin/qemu-{name}")];
    files.into_iter().map(PathBuf::from).find(|path| fs_err::metadata(path).is_ok_and(|found| found.mode() & 0o111 != 0))
}

fn served(sandbox: &Sandbox, emulators: &Emulators, platform: Platform) -> Served {
    let support = sandbox.support(&platform);
    let program = || match qemu(&platform.architecture) {
        Some(path) => format!("`{}` is there", path.display()),
        None => "install qemu-user-static".to_owned(),
    };
    let found = match support {
        Support::Native => "this machine's processor".to_owned(),
        Support::Emulated => match emulators.handler(&platform) {
            Some(handler) => format!("the binfmt handler `{}`, which has the flag F", handler.name),
            None => "an emulator".to_owned(),
        },
        Support::Unsupported => match emulators.loose_handler(&platform) {
            Some(handler) => format!("the binfmt handler `{}` lacks the flag F", handler.name),
            None => format!("no binfmt handler; {}", program()),
        },
    };
    Served { platform, support, found }
}

/// Gives this process the mode that a build would have. To be called before a second thread is started.
///
/// # Errors
/// As [`sandbox::enter`].
pub fn stand() -> Result<Found, Obstacle> {
    sandbox::enter()
}
