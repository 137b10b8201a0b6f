//! Which way of isolating steps this process has, and how a process without root's rights gets one: it moves into a user
//! namespace of its own, in which it has them.
//!
//! | mode | who | ids on disk |
//! |---|---|---|
//! | [`Mode::Root`] | `CAP_SYS_ADMIN` on the machine | those of the image |
//! | [`Mode::Subids`] | a user with subordinate ids | those of the image, shifted into the user's ranges |
//! | [`Mode::SingleId`] | any user | the user's own for everything; the image's are kept beside it |
//!
//! [`enter`] changes this very process, so its id, its terminal, its signals and its environment stay what they are. Only
//! a helper, forked before, remains outside for as long as `newuidmap` and `newgidmap` take.

use std::ffi::CStr;
use std::io::{self, Read, Write};
use std::os::unix::fs::MetadataExt;
use std::process::Command;

use rustix::thread::{CapabilitySet, UnshareFlags};
use serde::{Deserialize, Serialize};

/// A way of isolating steps.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub enum Mode {
    /// As root of the machine: ids on disk are those of images.
    Root,
    /// In a user namespace with the ids 0 to 65535, most of them subordinate ids of the user.
    Subids,
    /// In a user namespace with the one id 0, which is the user's own.
    SingleId,
}

impl Mode {
    /// Returns how people call it, as in "steps run as …".
    pub fn phrase(self) -> &'static str {
        match self {
            Self::Root => "root, in a user namespace",
            Self::Subids => "rootless, with subordinate ids",
            Self::SingleId => "rootless, with a single id",
        }
    }
}

/// The mode of a process, and why it is not a better one.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Found {
    /// The mode.
    pub mode: Mode,
    /// For [`Mode::SingleId`]: why there are no more ids.
    pub single: Option<WhySingle>,
}

/// Why a user has a single id.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize, thiserror::Error)]
pub enum WhySingle {
    /// The files that give users further ids give this one too few.
    #[error("{file} gives this user no {SUBORDINATE} subordinate ids")]
    NoRange {
        /// `/etc/subuid` or `/etc/subgid`.
        file: String,
    },
    /// The programs that may map them are not installed.
    #[error("`{helper}` cannot be started")]
    NoHelper {
        /// `newuidmap` or `newgidmap`.
        helper: String,
    },
    /// They refuse.
    #[error("`{helper}` refuses: {message}")]
    Refused {
        /// `newuidmap` or `newgidmap`.
        helper: String,
        /// What it said.
        message: String,
    },
    /// The process was put into a namespace with one id by who started it.
    #[error("pkgbuild was started in a user namespace with too few ids")]
    Given,
}

impl WhySingle {
    /// Returns what would help.
    pub fn help(&self) -> &'static str {
        match self {
            Self::NoRange { .. } => "as root: `usermod --add-subuids 100000-165535 --add-subgids 100000-165535 USER`",
            Self::NoHelper { .. } => "install the package `uidmap` (`shadow-utils` on some systems)",
            Self::Refused { .. } => "look at /etc/subuid, /etc/subgid and the mode of newuidmap and newgidmap (set-user-id root)",
            Self::Given => "start it outside of that namespace, or give the namespace 65536 ids",
        }
    }
}

/// Why a process can have no user namespace in which to isolate steps.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize, thiserror::Error)]
pub enum Obstacle {
    /// The administrator allows none, or no more.
    #[error("no user namespace may be made (user.max_user_namespaces is {limit})")]
    Limit {
        /// The limit.
        limit: String,
    },
    /// Debian's switch is off.
    #[error("unprivileged user namespaces are switched off (kernel.unprivileged_userns_clone is 0)")]
    SwitchedOff,
    /// AppArmor takes away the rights inside of the namespace.
    #[error("AppArmor keeps unprivileged programs from using user namespaces")]
    AppArmor,
    /// A container's seccomp filter, or another security module, says no.
    #[error("user namespaces are refused here, as they are in most containers")]
    Refused,
    /// The kernel has none.
    #[error("this kernel has no user namespaces")]
    Missing,
    /// Something else went wrong.
    #[error("cannot {action} ({})", io::Error::from_raw_os_error(*.errno))]
    Failed {
        /// What was tried.
        action: String,
        /// What the kernel said.
        errno: i32,
    },
}

impl Obstacle {
    /// Returns what would help.
    pub fn help(&self) -> &'static str {
        match self {
            Self::Limit { .. } => "as root: `sysctl user.max_user_namespaces=15000`; or run pkgbuild as root",
            Self::SwitchedOff => "as root: `sysctl kernel.unprivileged_userns_clone=1`; or run pkgbuild as root",
            Self::AppArmor => {
                "as root: `sysctl kernel.apparmor_restrict_unprivileged_userns=0`, or an AppArmor profile with `userns,` for pkgbuild; or run pkgbuild as root"
            }
            Self::Refused => {
                "run the container with `--privileged`, or with `--security-opt seccomp=unconfined --security-opt systempaths=unconfined --security-opt apparmor=unconfined`; or run pkgbuild as root of the machine"
            }
            Self::Missing | Self::Failed { .. } => "run pkgbuild as root",
        }
    }

    fn failed(action: &str, error: &io::Error) -> Self {
        Self::Failed { action: action.to_owned(), errno: error.raw_os_error().unwrap_or(libc::EIO) }
    }
}

/// How many ids besides its own a user needs, so that 0 to 65535 are all there.
const SUBORDINATE: u32 = 65_535;

/// The inode of the namespace that the machine starts with (`PROC_USER_INIT_INO` of the kernel's interface).
const INITIAL: u64 = 0xEFFF_FFFD;

/// Returns the mode that this process is in, or `None` when it may not make namespaces and mounts.
pub fn of_process() -> Option<Mode> {
    let sets = rustix::thread::capabilities(None).ok()?;
    if !sets.effective.contains(CapabilitySet::SYS_ADMIN) {
        return None;
    }
    if fs_err::metadata("/proc/self/ns/user").is_ok_and(|namespace| namespace.ino() == INITIAL) {
        return Some(Mode::Root);
    }
    let covered = |file: &str| fs_err::read_to_string(file).map_or(0, |map| covered(&map));
    match covered("/proc/self/uid_map").min(covered("/proc/self/gid_map")) {
        0 => None,
        ids if ids > SUBORDINATE => Some(Mode::Subids),
        _ => Some(Mode::SingleId),
    }
}

/// Returns how many ids from 0 on a map has, without a gap.
fn covered(map: &str) -> u32 {
    let mut extents: Vec<(u32, u32)> = map
        .lines()
        .filter_map(|line| {
            let mut fields = line.split_whitespace();
            Some((fields.next()?.parse().ok()?, fields.nth(1)?.parse().ok()?))
        })
        .collect();
    extents.sort_unstable();
    extents.iter().fold(0, |next, (first, count)| if *first == next { next.saturating_add(*count) } else { next })
}

/// Moves this process into a user namespace with as many ids as the user has, unless it has a mode already.
///
/// The process must have a single thread. Files that belong to the user belong to 0 afterwards, those of everybody else to
/// 65534 or to whom the map says; what may be read and written stays the same.
///
/// # Errors
/// [`Obstacle`]; the process is then as it was, or in a namespace that is good for nothing more than going on as before.
pub fn enter() -> Result<Found, Obstacle> {
    if let Some(mode) = of_process() {
        return Ok(Found { mode, single: (mode == Mode::SingleId).then_some(WhySingle::Given) });
    }
    let (uid, gid) = (rustix::process::geteuid().as_raw(), rustix::process::getegid().as_raw());
    let single = match subordinate(uid) {
        Err(why) => {
            make_namespace()?;
            why
        }
        Ok((uids, gids)) => {
            let helper = Helper::fork(&extents(uid, &uids), &extents(gid, &gids))?;
            make_namespace()?;
            match helper.map()? {
                None => {
                    make_mounts()?;
                    return Ok(Found { mode: Mode::Subids, single: None });
                }
                Some(why) => why,
            }
        }
    };
    map_own(uid, gid).map_err(|error| Obstacle::failed("map the own user id", &error))?;
    make_mounts()?;
    Ok(Found { mode: Mode::SingleId, single: Some(single) })
}

/// Returns what [`enter`] would, and leaves this process as it is: a child tries.
///
/// # Errors
/// As [`enter`].
pub fn probe() -> Result<Found, Obstacle> {
    let failed = |error: io::Error| Obstacle::failed("try a user namespace", &error);
    let (mut reader, mut writer) = io::pipe().map_err(failed)?;
    // SAFETY: the child makes system calls, writes to a pipe and ends; callers have a single thread, as `enter` wants.
    match unsafe { libc::fork() } {
        -1 => Err(failed(io::Error::last_os_error())),
        0 => {
            drop(reader);
            let _ = writer.write_all(&serde_json::to_vec(&enter()).unwrap_or_default());
            // SAFETY: ends this fork without running the parent's exit handlers.
            unsafe { libc::_exit(0) }
        }
        child => {
            drop(writer);
            let mut text = Vec::new();
            let read = reader.read_to_end(&mut text);
            wait_for(child);
            read.map_err(failed)?;
            serde_json::from_slice::<Result<Found, Obstacle>>(&text).map_err(|error| failed(error.into()))?
        }
    }
}

fn make_namespace() -> Result<(), Obstacle> {
    // SAFETY: the caller has a single thread, else the kernel refuses.
    let made = unsafe { rustix::thread::unshare_unsafe(UnshareFlags::NEWUSER) };
    let Err(errno) = made else { return Ok(()) };
    let setting = |file: &str| fs_err::read_to_string(file).unwrap_or_default().trim().to_owned();
    Err(match errno {
        rustix::io::Errno::NOSPC | rustix::io::Errno::USERS => {
            Obstacle::Limit { limit: setting("/proc/sys/user/max_user_namespaces") }
        }
        rustix::io::Errno::PERM if setting("/proc/sys/kernel/unprivileged_userns_clone") == "0" => Obstacle::SwitchedOff,
        rustix::io::Errno::PERM | rustix::io::Errno::ACCESS => refused(),
        rustix::io::Errno::INVAL if !std::path::Path::new("/proc/self/ns/user").exists() => Obstacle::Missing,
        rustix::io::Errno::NOSYS => Obstacle::Missing,
        errno => Obstacle::failed("make a user namespace", &errno.into()),
    })
}

fn refused() -> Obstacle {
    let restricts = fs_err::read_to_string("/proc/sys/kernel/apparmor_restrict_unprivileged_userns");
    if restricts.is_ok_and(|text| text.trim() == "1") { Obstacle::AppArmor } else { Obstacle::Refused }
}

/// Makes a mount namespace that belongs to the user namespace, in which overlays can be mounted. Security modules may let
/// the user namespace be made and then refuse what it is for.
///
/// What is mounted outside later is seen inside as well.
fn make_mounts() -> Result<(), Obstacle> {
    // SAFETY: the caller has a single thread.
    match unsafe { rustix::thread::unshare_unsafe(UnshareFlags::NEWNS) } {
        Ok(()) => Ok(()),
        Err(rustix::io::Errno::PERM | rustix::io::Errno::ACCESS) => Err(refused()),
        Err(errno) => Err(Obstacle::failed("make a mount namespace", &errno.into())),
    }
}

fn wait_for(child: libc::pid_t) {
    // SAFETY: waits for a child of this process; no status is asked for.
    while unsafe { libc::waitpid(child, std::ptr::null_mut(), 0) } == -1
        && io::Error::last_os_error().kind() == io::ErrorKind::Interrupted
    {}
}

/// Maps 0 to the user, which everybody may do, once supplementary groups are given up for good.
fn map_own(uid: u32, gid: u32) -> io::Result<()> {
    match fs_err::write("/proc/self/setgroups", "deny") {
        // Kernels before 3.19.
        Err(error) if error.kind() == io::ErrorKind::NotFound => {}
        result => result?,
    }
    fs_err::write("/proc/self/uid_map", format!("0 {uid} 1\n"))?;
    fs_err::write("/proc/self/gid_map", format!("0 {gid} 1\n"))
}

/// A range of ids: the first, and how many.
type Range = (u32, u32);

/// Returns the subordinate user and group ids of a user, at least [`SUBORDINATE`] of each.
fn subordinate(uid: u32) -> Result<(Vec<Range>, Vec<Range>), WhySingle> {
    let name = user_name(uid);
    let ranges = |file: &str| {
        let text = fs_err::read_to_string(file).unwrap_or_default();
        let ranges = ranges_of(&text, name.as_deref(), uid);
        let count: u64 = ranges.iter().map(|range| u64::from(range.1)).sum();
        if count >= u64::from(SUBORDINATE) { Ok(ranges) } else { Err(WhySingle::NoRange { file: file.to_owned() }) }
    };
    Ok((ranges("/etc/subuid")?, ranges("/etc/subgid")?))
}

/// Returns the ranges of a user in a file of `name or id:first:count` (subuid(5)).
fn ranges_of(text: &str, name: Option<&str>, uid: u32) -> Vec<Range> {
    let id = uid.to_string();
    text.lines()
        .filter_map(|line| {
            let mut fields = line.trim().split(':');
            let owner = fields.next()?;
            (Some(owner) == name || owner == id).then_some(())?;
            Some((fields.next()?.parse().ok()?, fields.next()?.parse().ok()?))
        })
        .filter(|(_, count)| *count > 0)
        .collect()
}

/// Returns the name of a user as the machine's name service knows it.
fn user_name(uid: u32) -> Option<String> {
    let mut buffer = vec![0; 16 << 10];
    // SAFETY: the structure and the buffer outlive the call and what is read from them.
    unsafe {
        let mut entry: libc::passwd = std::mem::zeroed();
        let mut found = std::ptr::null_mut();
        let result = libc::getpwuid_r(uid, &raw mut entry, buffer.as_mut_ptr(), buffer.len(), &raw mut found);
        (result == 0 && !found.is_null()).then(|| CStr::from_ptr(entry.pw_name).to_str().ok().map(str::to_owned)).flatten()
    }
}

/// Returns the arguments of `newuidmap` after the process: 0 is the user, the ids from 1 on are the subordinate ones.
fn extents(own: u32, ranges: &[Range]) -> Vec<String> {
    let mut words = vec!["0".to_owned(), own.to_string(), "1".to_owned()];
    let mut next = 1;
    for (first, count) in ranges {
        let count = (*count).min(SUBORDINATE + 1 - next);
        if count > 0 {
            words.extend([next.to_string(), first.to_string(), count.to_string()]);
            next += count;
        }
    }
    words
}

/// A process that stays outside of the namespace and calls the programs that may map subordinate ids.
struct Helper {
    child: libc::pid_t,
    go: io::PipeWriter,
    answer: io::PipeReader,
}

/// What the helper says: `None` when both maps are written, else why not, and whether a map was written nevertheless.
type Answer = (Option<WhySingle>, bool);

impl Helper {
    fn fork(uids: &[String], gids: &[String]) -> Result<Self, Obstacle> {
        let failed = |error: io::Error| Obstacle::failed("start a process", &error);
        let (mut wait, go) = io::pipe().map_err(failed)?;
        let (answer, mut tell) = io::pipe().map_err(failed)?;
        let process = std::process::id();
        // SAFETY: the caller has a single thread, so the child may do what it likes.
        match unsafe { libc::fork() } {
            -1 => Err(failed(io::Error::last_os_error())),
            0 => {
                drop((go, answer));
                if wait.read_exact(&mut [0]).is_ok() {
                    let said = map_through_helpers(process, uids, gids);
                    let _ = tell.write_all(&serde_json::to_vec(&said).unwrap_or_default());
                }
                // SAFETY: ends this fork without running the parent's exit handlers.
                unsafe { libc::_exit(0) }
            }
            child => Ok(Self { child, go, answer }),
        }
    }

    /// Lets the helper map, now that the namespace is there. Returns why it could not, when nothing was mapped.
    fn map(mut self) -> Result<Option<WhySingle>, Obstacle> {
        let failed = |error: io::Error| Obstacle::failed("map subordinate ids", &error);
        let mut text = Vec::new();
        let said = self.go.write_all(b"g").and_then(|()| self.answer.read_to_end(&mut text));
        drop(self.go);
        wait_for(self.child);
        said.map_err(failed)?;
        match serde_json::from_slice::<Answer>(&text).map_err(|error| failed(error.into()))? {
            (Some(why), true) => Err(Obstacle::Failed { action: format!("map subordinate ids: {why}"), errno: libc::EPERM }),
            (why, _) => Ok(why),
        }
    }
}

fn map_through_helpers(process: u32, uids: &[String], gids: &[String]) -> Answer {
    for (helper, words, wrote) in [("newuidmap", uids, false), ("newgidmap", gids, true)] {
        let name = helper.to_owned();
        match Command::new(helper).arg(process.to_string()).args(words).output() {
            Ok(output) if output.status.success() => {}
            Ok(output) => {
                let message = String::from_utf8_lossy(&output.stderr).trim().to_owned();
                return (Some(WhySingle::Refused { helper: name, message }), wrote);
            }
            Err(_) => return (Some(WhySingle::NoHelper { helper: name }), wrote),
        }
    }
    (None, true)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranges_are_found_by_name_and_by_number() {
        let text = "root:100000:65536\nada:200000:65536\n1001:300000:1000\nada:400000:10\nadam:1:1\nada:5:0\nbroken\n";
        assert_eq!(ranges_of(text, Some("ada"), 1001), [(200_000, 65_536), (300_000, 1000), (400_000, 10)]);
        assert_eq!(ranges_of(text, None, 7), []);
    }

    #[test]
    fn the_map_has_the_user_at_0_and_ends_at_65535() {
        assert_eq!(extents(1000, &[(100_000, 65_536)]), ["0", "1000", "1", "1", "100000", "65535"]);
        let two = ["0", "7", "1", "1", "1000", "60000", "60001", "200000", "5535"];
        assert_eq!(extents(7, &[(1000, 60_000), (200_000, 65_536), (9, 9)]), two);
    }

    #[test]
    fn ids_count_from_0_without_a_gap() {
        assert_eq!(covered("         0          0 4294967295\n"), u32::MAX);
        assert_eq!(covered("0 1000 1\n1 100000 65535\n"), 65_536);
        assert_eq!(covered("1 100000 65535\n0 1000 1\n"), 65_536);
        assert_eq!(covered("0 1000 1\n"), 1);
        assert_eq!(covered("5 1000 100\n"), 0);
        assert_eq!(covered("0 1000 10\n20 5 100000\n"), 10);
        assert_eq!(covered(""), 0);
    }

    #[test]
    fn root_of_the_machine_needs_no_namespace() {
        assert_eq!(probe(), Ok(Found { mode: Mode::Root, single: None }), "these tests run as root");
        assert_eq!(of_process(), Some(Mode::Root));
    }
}
