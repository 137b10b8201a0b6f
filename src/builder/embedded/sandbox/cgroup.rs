//! What a step may use together with everything it starts: memory, processors, processes (cgroups of both versions).
//!
//! The groups are made by the calling process, named after it, and the supervisor is put in before it has started
//! anything. They are removed when the step has ended; what a killed process left is removed by the next.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use crate::builder::steps::Budget;

/// How many processes a step may have when nothing else was said, where that can be kept.
const PROCESSES: u64 = 32_768;

/// How often, and how long each time, is waited for a group's last processes to be gone.
const PATIENCE: (usize, Duration) = (100, Duration::from_millis(10));

/// Beginning of the names of our groups; the process id follows.
const PREFIX: &str = "pkgbuild-";

/// Where a controller is found.
#[derive(Clone, PartialEq, Eq, Debug)]
enum Version {
    /// In a hierarchy of its own.
    One(PathBuf),
    /// In the one hierarchy; these are this process's group and those above it, nearest first.
    Two(Vec<PathBuf>),
}

/// The groups of a step.
#[derive(Debug)]
pub(super) struct Groups {
    directories: Vec<PathBuf>,
}

/// Puts `pid` into groups that keep `budget`.
///
/// # Errors
/// When a limit that was asked for cannot be kept; the action names it.
pub(super) fn enter(budget: &Budget, pid: u32) -> Result<Groups, (String, io::Error)> {
    let mut groups = Groups { directories: Vec::new() };
    let mounts = fs_err::read_to_string("/proc/self/mountinfo").unwrap_or_default();
    let own = fs_err::read_to_string("/proc/self/cgroup").unwrap_or_default();
    let asked: [(&str, &str, Option<Vec<Setting>>); 3] = [
        ("memory", "--memory", budget.memory.map(memory)),
        ("cpu", "--cpus", budget.cpus.map(processors)),
        ("pids", "--pids-limit", budget.processes.map(|count| vec![Setting::both("pids.max", count.to_string())])),
    ];
    for (controller, flag, settings) in asked {
        let Some(settings) = settings else { continue };
        let failed = |error| (format!("keep {flag} with the cgroup controller `{controller}`"), error);
        groups.limit(controller, &settings, pid, (&mounts, &own)).map_err(failed)?;
    }
    if budget.processes.is_none() {
        // A default that cannot be kept is none.
        let _ = groups.limit("pids", &[Setting::both("pids.max", PROCESSES.to_string())], pid, (&mounts, &own));
    }
    Ok(groups)
}

/// A file of a group and what is written to it, by version. One that is optional may be missing.
struct Setting {
    one: &'static str,
    two: &'static str,
    values: [String; 2],
    optional: bool,
}

impl Setting {
    fn both(name: &'static str, value: String) -> Self {
        Self { one: name, two: name, values: [value.clone(), value], optional: false }
    }
}

/// Memory with nothing in place of it: what may be swapped out is no limit.
fn memory(bytes: u64) -> Vec<Setting> {
    let swap = [bytes.to_string(), "0".to_owned()];
    vec![
        Setting {
            one: "memory.limit_in_bytes",
            two: "memory.max",
            values: [bytes.to_string(), bytes.to_string()],
            optional: false,
        },
        Setting { one: "memory.memsw.limit_in_bytes", two: "memory.swap.max", values: swap, optional: true },
    ]
}

fn processors(hundredths: u32) -> Vec<Setting> {
    // In a period of 100 ms, a hundredth of a processor is 1,000 µs.
    let quota = u64::from(hundredths) * 1_000;
    vec![
        Setting {
            one: "cpu.cfs_period_us",
            two: "cpu.max",
            values: ["100000".to_owned(), format!("{quota} 100000")],
            optional: false,
        },
        Setting {
            one: "cpu.cfs_quota_us",
            two: "cpu.max",
            values: [quota.to_string(), format!("{quota} 100000")],
            optional: false,
        },
    ]
}

impl Groups {
    fn limit(&mut self, controller: &str, settings: &[Setting], pid: u32, (mounts, own): (&str, &str)) -> io::Result<()> {
        let absent = || io::Error::new(io::ErrorKind::Unsupported, "there is none that this user may use");
        let (directory, second) = match find(controller, mounts, own).ok_or_else(absent)? {
            Version::One(parent) => (self.make(&parent)?, false),
            Version::Two(parents) => match self.directories.iter().find(|made| has(made, controller)) {
                Some(made) => (made.clone(), true),
                None => {
                    let hands_on = parents.iter().filter(|parent| hands_on(parent, controller));
                    let made = hands_on.map(|parent| self.make(parent)).find(Result::is_ok);
                    (made.ok_or_else(absent)??, true)
                }
            },
        };
        for setting in settings {
            let (name, value) = if second { (setting.two, &setting.values[1]) } else { (setting.one, &setting.values[0]) };
            match fs_err::write(directory.join(name), value) {
                Err(error) if setting.optional && error.kind() == io::ErrorKind::NotFound => {}
                // Some kernels account for swap and let nobody limit it.
                Err(error) if setting.optional && error.kind() == io::ErrorKind::PermissionDenied => {}
                result => result?,
            }
        }
        fs_err::write(directory.join("cgroup.procs"), pid.to_string())
    }

    fn make(&mut self, parent: &Path) -> io::Result<PathBuf> {
        static NUMBER: AtomicU64 = AtomicU64::new(0);
        sweep(parent);
        let number = NUMBER.fetch_add(1, Ordering::Relaxed);
        let directory = parent.join(format!("{PREFIX}{}-{number}", std::process::id()));
        fs_err::create_dir(&directory)?;
        self.directories.push(directory.clone());
        Ok(directory)
    }

    /// Returns how many processes were killed because the step used more memory than it may.
    pub(super) fn killed_for_memory(&self) -> u64 {
        let count = |directory: &PathBuf| {
            ["memory.events", "memory.oom_control"].iter().find_map(|name| {
                let text = fs_err::read_to_string(directory.join(name)).ok()?;
                text.lines().find_map(|line| line.strip_prefix("oom_kill ")?.trim().parse::<u64>().ok())
            })
        };
        self.directories.iter().filter_map(count).sum()
    }
}

impl Drop for Groups {
    fn drop(&mut self) {
        for directory in &self.directories {
            // The last of the step's processes may only just have ended.
            for _ in 0..PATIENCE.0 {
                match fs_err::remove_dir(directory) {
                    Err(error) if error.kind() == io::ErrorKind::ResourceBusy => std::thread::sleep(PATIENCE.1),
                    _ => break,
                }
            }
        }
    }
}

/// Removes the groups of processes that are no more.
fn sweep(parent: &Path) {
    let Ok(entries) = fs_err::read_dir(parent) else { return };
    for entry in entries.flatten() {
        let name = entry.file_name();
        let owner = name.to_str().and_then(|name| name.strip_prefix(PREFIX)?.split_once('-')?.0.parse::<u32>().ok());
        if let Some(owner) = owner
            && !Path::new(&format!("/proc/{owner}")).exists()
        {
            // One that still has processes stays; somebody else may be faster.
            let _ = fs_err::remove_dir(entry.path());
        }
    }
}

/// Returns whether groups made in `parent` have `controller`.
fn hands_on(parent: &Path, controller: &str) -> bool {
    lists(&parent.join("cgroup.subtree_control"), controller)
}

fn has(group: &Path, controller: &str) -> bool {
    lists(&group.join("cgroup.controllers"), controller)
}

fn lists(file: &Path, controller: &str) -> bool {
    fs_err::read_to_string(file).is_ok_and(|text| text.split_whitespace().any(|word| word == controller))
}

/// Finds a controller from `/proc/self/mountinfo` and `/proc/self/cgroup` (cgroups(7)).
fn find(controller: &str, mounts: &str, own: &str) -> Option<Version> {
    let mut second = None;
    for line in mounts.lines() {
        let (before, after) = line.split_once(" - ")?;
        let mut before = before.split(' ').skip(3);
        let (root, point) = (before.next()?, before.next()?);
        let mut after = after.split(' ');
        let (kind, options) = (after.next()?, after.nth(1)?);
        let group = |wanted: &dyn Fn(&str) -> bool| {
            own.lines().find_map(|line| {
                let mut parts = line.splitn(3, ':');
                let (_, controllers, path) = (parts.next()?, parts.next()?, parts.next()?);
                wanted(controllers).then_some(path)
            })
        };
        // A group above what is mounted cannot be reached; what is mounted is then the nearest.
        let below = |path: &str| {
            let inner = path.strip_prefix(root).unwrap_or_default().trim_start_matches('/');
            Path::new(point).join(inner)
        };
        if kind == "cgroup" && options.split(',').any(|option| option == controller) {
            let path = group(&|controllers| controllers.split(',').any(|one| one == controller))?;
            return Some(Version::One(below(path)));
        }
        if kind == "cgroup2" && second.is_none() {
            let own = below(group(&str::is_empty)?);
            let within = own.ancestors().take_while(|path| path.starts_with(point)).map(Path::to_path_buf);
            second = Some(Version::Two(within.collect()));
        }
    }
    second
}

#[cfg(test)]
mod tests {
    use super::*;

    const HYBRID: &str = "31 23 0:28 / /sys/fs/cgroup rw - tmpfs tmpfs rw\n\
        35 31 0:32 / /sys/fs/cgroup/memory rw,relatime - cgroup cgroup rw,memory\n\
        32 31 0:29 / /sys/fs/cgroup/cpu,cpuacct rw,relatime - cgroup cgroup rw,cpu,cpuacct\n\
        41 31 0:38 / /sys/fs/cgroup/unified rw,relatime shared:9 - cgroup2 cgroup2 rw\n";

    #[test]
    fn a_controller_is_found_in_its_own_hierarchy_or_in_the_one_of_all() {
        let own = "4:memory:/a/b\n1:cpu,cpuacct:/\n0::/c/d\n";
        assert_eq!(find("memory", HYBRID, own), Some(Version::One("/sys/fs/cgroup/memory/a/b".into())));
        assert_eq!(find("cpu", HYBRID, own), Some(Version::One("/sys/fs/cgroup/cpu,cpuacct".into())));
        let above = ["/sys/fs/cgroup/unified/c/d", "/sys/fs/cgroup/unified/c", "/sys/fs/cgroup/unified"];
        assert_eq!(find("pids", HYBRID, own), Some(Version::Two(above.map(PathBuf::from).to_vec())));
        assert_eq!(find("pids", "", own), None);
    }

    #[test]
    fn in_a_container_what_is_mounted_is_the_top() {
        let mounts = "35 31 0:32 /docker/x /sys/fs/cgroup rw,relatime - cgroup2 cgroup rw\n";
        assert_eq!(
            find("pids", mounts, "0::/docker/x/y\n"),
            Some(Version::Two(vec!["/sys/fs/cgroup/y".into(), "/sys/fs/cgroup".into()]))
        );
        assert_eq!(find("pids", mounts, "0::/\n"), Some(Version::Two(vec!["/sys/fs/cgroup".into()])));
    }

    #[test]
    fn a_hundred_hundredths_are_one_processor() {
        let [period, quota] = &processors(150)[..] else { panic!("two") };
        assert_eq!((period.values[0].as_str(), quota.values[0].as_str()), ("100000", "150000"));
        assert_eq!(quota.values[1], "150000 100000");
    }
}
