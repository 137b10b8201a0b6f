//! The step's root: the overlay and its mounts, made by the supervisor, entered by the first process of the step.

use std::cell::RefCell;
use std::fs::DirBuilder;
use std::io;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::os::unix::fs::DirBuilderExt;
use std::path::{Component, Path, PathBuf};

use fs_err::os::unix::fs::OpenOptionsExt as _;
use rustix::fs::{AtFlags, CWD, FileType, Mode, OFlags, Timespec, Timestamps};
use rustix::mount::{MountAttrFlags, UnmountFlags};

use crate::sys::fs::RootedPath;

use super::emulation::OwnEmulator;
use super::init::{Failure, trying};
use super::mounts::{INERT, attach, change, clone_tree, filesystem, open_path, overlay, restrict};
use super::{Access, MountSource, RootForm, RunStep, StepNetwork, beside_upper, mode};

fn modified(directory: &OwnedFd) -> io::Result<Timespec> {
    let stat = rustix::fs::fstat(directory)?;
    Ok(Timespec { tv_sec: stat.st_mtime, tv_nsec: stat.st_mtime_nsec as _ })
}

/// Sets the time of a directory that may be open as a path only.
fn set_modified(directory: &OwnedFd, time: Timespec) -> io::Result<()> {
    let kept = Timespec { tv_sec: 0, tv_nsec: rustix::fs::UTIME_OMIT };
    let times = Timestamps { last_access: kept, last_modification: time };
    Ok(rustix::fs::utimensat(directory, ".", &times, AtFlags::empty())?)
}

/// What the supervisor has mounted, by paths that the first process inherits.
pub(super) struct Prepared {
    /// What the step's namespace is to be given for code of another machine.
    pub(super) emulator: Option<OwnEmulator>,
    root: PathBuf,
    hosts: PathBuf,
    resolver: Option<PathBuf>,
    mounts: Vec<ReadyMount>,
    made: RefCell<Vec<MadeTarget>>,
}

struct ReadyMount {
    target: PathBuf,
    source: ReadySource,
    access: Access,
}

enum ReadySource {
    Path { path: PathBuf, directory: bool },
    InRoot { root: PathBuf, path: PathBuf, directory: bool },
    Tmpfs { size: Option<u64> },
}

/// A mount target that did not exist and is to vanish after the step.
struct MadeTarget {
    parent: OwnedFd,
    name: PathBuf,
    inode: u64,
    directory: bool,
    /// Times of modification of `parent` just before and just after it was made.
    parent_times: [Timespec; 2],
}

/// Mounts the step's overlay and those of its mounts, in the supervisor's private mount namespace.
pub(super) fn prepare(step: &RunStep) -> Result<Prepared, Failure> {
    let beside = |name: &str| beside_upper(&step.root, name);
    let mut prepared = Prepared {
        emulator: OwnEmulator::find(&step.platform),
        root: beside("root"),
        hosts: beside("hosts"),
        resolver: None,
        mounts: Vec::new(),
        made: RefCell::default(),
    };
    let hosts =
        format!("127.0.0.1\tlocalhost {}\n::1\tlocalhost ip6-localhost ip6-loopback\n{}", step.hostname, step.given.host_lines());
    fs_err::write(&prepared.hosts, hosts).map_err(trying("write the hosts file"))?;
    if step.network != StepNetwork::None {
        let resolver = beside("resolv.conf");
        let servers = match fs_err::read("/etc/resolv.conf") {
            // A machine without name servers gives its steps none.
            Err(error) if error.kind() == io::ErrorKind::NotFound => Vec::new(),
            result => result.map_err(trying("read the machine's resolv.conf"))?,
        };
        fs_err::write(&resolver, servers).map_err(trying("write resolv.conf"))?;
        prepared.resolver = Some(resolver);
    }
    for (number, mount) in step.mounts.iter().enumerate() {
        let place = beside(&format!("mount-{number}"));
        let ready = ready_mount(&mount.source, &place)
            .map_err(|(action, error)| (format!("{action} for the mount at `{}`", mount.target), error))?;
        prepared.mounts.push(ReadyMount { target: PathBuf::from(&mount.target), source: ready.0, access: ready.1 });
    }
    for (path, target, socket) in step.given.place(&beside("given"))? {
        let access = if socket { Access::ReadWrite } else { Access::ReadOnly };
        prepared.mounts.push(ReadyMount { target, source: ReadySource::Path { path, directory: false }, access });
    }
    // Parents before children, whatever order they were written in.
    prepared.mounts.sort_by(|a, b| a.target.cmp(&b.target));
    match step.root.form {
        RootForm::Overlay => {
            let stubs = beside("stubs");
            make_stubs(&stubs, &prepared).map_err(trying("make mount targets"))?;
            mount_layers(&step.root.lowers, Some(&stubs), (&step.root.upper, &step.root.work), &prepared.root)?;
        }
        RootForm::Whole => mount_whole(&step.root.upper, &prepared.root).map_err(trying("mount the root"))?,
    }
    Ok(prepared)
}

fn ready_mount(source: &MountSource, place: &Path) -> Result<(ReadySource, Access), Failure> {
    match source {
        MountSource::Path { path, access } => {
            let directory = fs_err::symlink_metadata(path).map_err(trying("find the source"))?.is_dir();
            Ok((ReadySource::Path { path: path.clone(), directory }, *access))
        }
        MountSource::Tmpfs { size } => Ok((ReadySource::Tmpfs { size: *size }, Access::ReadWrite)),
        MountSource::Layers { lowers, path, access } => {
            let (upper, work, root) = (place.join("upper"), place.join("work"), place.join("root"));
            for directory in [&upper, &work] {
                fs_err::create_dir_all(directory).map_err(trying("make a directory"))?;
            }
            mount_layers(lowers, None, (&upper, &work), &root)?;
            let inside = RootedPath::open(&root).map_err(trying("open the source"))?;
            let found = inside
                .open_at(Path::new(path), OFlags::PATH, Mode::empty())
                .map_err(trying(format!("find the source `{path}`")))?;
            let directory = is_directory(&found).map_err(trying("look at the source"))?;
            Ok((ReadySource::InRoot { root, path: PathBuf::from(path), directory }, *access))
        }
    }
}

/// Mounts `lowers` (and `lowest` below them) with a writable layer on `target`, which is made.
fn mount_layers(lowers: &[PathBuf], lowest: Option<&Path>, upper: (&Path, &Path), target: &Path) -> Result<(), Failure> {
    fs_err::create_dir_all(target).map_err(trying("make the root directory"))?;
    let lowers = lowers.iter().map(PathBuf::as_path).chain(lowest).map(open_path).collect::<io::Result<Vec<_>>>();
    let lowers = lowers.map_err(trying("open the layers of the root"))?;
    overlay(&lowers, upper.0, upper.1, target).map_err(trying("mount the layers of the root as an overlay"))
}

/// Mounts the directory `whole` on `target`, which is made, as an overlay would be: device nodes do not count, programs do,
/// whatever holds for the file system that the directory lies in.
fn mount_whole(whole: &Path, target: &Path) -> io::Result<()> {
    fs_err::create_dir_all(target)?;
    let mount = clone_tree(open_path(whole)?.as_fd())?;
    let wanted = MountAttrFlags::MOUNT_ATTR_NOSUID | MountAttrFlags::MOUNT_ATTR_NOEXEC;
    if change(mount.as_fd(), MountAttrFlags::MOUNT_ATTR_NODEV, wanted).is_err() {
        // Who made the mount may have locked what it forbids; programs of the step may then be refused.
        restrict(mount.as_fd(), MountAttrFlags::MOUNT_ATTR_NODEV)?;
    }
    attach(mount.as_fd(), open_path(target)?.as_fd())
}

/// Fills the lowest layer with targets for all mounts: what an image lacks is then there to mount on, without a trace in
/// the layer that the step makes.
fn make_stubs(stubs: &Path, prepared: &Prepared) -> io::Result<()> {
    let mut targets: Vec<(&Path, bool)> = vec![(Path::new("/proc"), true), (Path::new("/sys"), true), (Path::new("/dev"), true)];
    targets.push((Path::new("/etc/hosts"), false));
    targets.extend(prepared.resolver.as_ref().map(|_| (Path::new("/etc/resolv.conf"), false)));
    targets.extend(prepared.mounts.iter().map(|mount| (mount.target.as_path(), mount.source.is_directory())));
    // Steps see these directories, and one that they write into is in their layer: not with the mode of our umask, 0.
    let make = |path: &Path| DirBuilder::new().recursive(true).mode(0o755).create(path);
    make(stubs)?;
    for (target, directory) in targets {
        let mut place = stubs.to_owned();
        // Only plain names count: the stub is below our own directory whatever the target says.
        place.extend(target.components().filter(|part| matches!(part, Component::Normal(_))));
        if directory {
            make(&place)?;
        } else {
            make(place.parent().unwrap_or(stubs))?;
            fs_err::OpenOptions::new().create(true).append(true).mode(0o644).open(&place)?;
        }
    }
    Ok(())
}

impl ReadySource {
    fn is_directory(&self) -> bool {
        match self {
            Self::Path { directory, .. } | Self::InRoot { directory, .. } => *directory,
            Self::Tmpfs { .. } => true,
        }
    }
}

fn is_directory(file: &OwnedFd) -> io::Result<bool> {
    Ok(FileType::from_raw_mode(rustix::fs::fstat(file)?.st_mode).is_dir())
}

/// Attaches all mounts and makes the overlay this process' root, with nothing of the machine's left below it.
pub(super) fn enter(step: &RunStep, prepared: &Prepared) -> Result<(), Failure> {
    // A mount that was inherited cannot be moved in a new user namespace; a bind of it can.
    rustix::mount::mount_bind_recursive(&prepared.root, &prepared.root).map_err(trying("bind the root"))?;
    let root = RootedPath::open(&prepared.root).map_err(trying("open the root"))?;
    let put = |mount: OwnedFd, target: &str, directory: bool| {
        let target = prepared.target(&root, Path::new(target), directory)?;
        attach(mount.as_fd(), target.as_fd()).map_err(trying("mount"))
    };
    put(filesystem(c"proc", &[], INERT).map_err(trying("mount proc"))?, "/proc", true)?;
    put(sysfs(step.network).map_err(trying("mount sysfs"))?, "/sys", true)?;
    let tmpfs = [("mode", "755"), ("size", "64M")];
    let dev = filesystem(c"tmpfs", &tmpfs, MountAttrFlags::MOUNT_ATTR_NOSUID | MountAttrFlags::MOUNT_ATTR_NOEXEC);
    put(dev.map_err(trying("mount /dev"))?, "/dev", true)?;
    fill_dev(step, prepared, &root)?;
    let read_only = INERT | MountAttrFlags::MOUNT_ATTR_RDONLY;
    for (file, target) in [(Some(&prepared.hosts), "/etc/hosts"), (prepared.resolver.as_ref(), "/etc/resolv.conf")] {
        let Some(file) = file else { continue };
        put(bind(&open_path(file).map_err(trying("open a file"))?, read_only).map_err(trying("bind a file"))?, target, false)?;
    }
    for mount in &prepared.mounts {
        attach_mount(mount, prepared, &root)
            .map_err(|(action, error)| (format!("{action} for the mount at `{}`", mount.target.display()), error))?;
    }
    pivot(&prepared.root).map_err(trying("enter the root"))?;
    conceal().map_err(trying("hide what steps must not see of /proc and /sys"))
}

fn sysfs(network: StepNetwork) -> io::Result<OwnedFd> {
    let read_only = INERT | MountAttrFlags::MOUNT_ATTR_RDONLY;
    match network {
        StepNetwork::None | StepNetwork::Outbound => filesystem(c"sysfs", &[], read_only),
        // A new sysfs shows a network namespace, and may be mounted only by who owns that namespace.
        StepNetwork::Host => bind(&open_path(Path::new("/sys"))?, read_only),
    }
}

fn bind(source: &OwnedFd, attributes: MountAttrFlags) -> io::Result<OwnedFd> {
    let mount = clone_tree(source.as_fd())?;
    if !attributes.is_empty() {
        restrict(mount.as_fd(), attributes)?;
    }
    Ok(mount)
}

fn attach_mount(mount: &ReadyMount, prepared: &Prepared, root: &RootedPath) -> Result<(), Failure> {
    let made = match &mount.source {
        ReadySource::Tmpfs { size } => {
            let size = size.map(|bytes| bytes.to_string());
            let mut options = vec![("mode", "1777")];
            options.extend(size.as_deref().map(|size| ("size", size)));
            filesystem(c"tmpfs", &options, MountAttrFlags::MOUNT_ATTR_NOSUID | MountAttrFlags::MOUNT_ATTR_NODEV)
        }
        ReadySource::Path { path, .. } => open_path(path).and_then(|source| bind(&source, access(mount.access))),
        ReadySource::InRoot { root, path, .. } => RootedPath::open(root)
            .and_then(|inside| inside.open_at(path, OFlags::PATH, Mode::empty()))
            .and_then(|source| bind(&source, access(mount.access))),
    };
    let made = made.map_err(trying("open the source"))?;
    let target = prepared.target(root, &mount.target, mount.source.is_directory())?;
    if lies_in_kernel_fs(&target).map_err(trying("look at the target"))? {
        return Err(trying("cover /proc or /sys")(io::Error::from_raw_os_error(libc::EPERM)));
    }
    attach(made.as_fd(), target.as_fd()).map_err(trying("mount"))
}

fn access(access: Access) -> MountAttrFlags {
    let base = MountAttrFlags::MOUNT_ATTR_NODEV | MountAttrFlags::MOUNT_ATTR_NOSUID;
    match access {
        Access::ReadOnly => base | MountAttrFlags::MOUNT_ATTR_RDONLY,
        Access::ReadWrite => base,
    }
}

fn lies_in_kernel_fs(file: &OwnedFd) -> io::Result<bool> {
    let kind = rustix::fs::fstatfs(file)?.f_type;
    Ok([libc::PROC_SUPER_MAGIC, libc::SYSFS_MAGIC].contains(&(kind as libc::c_long)))
}

const DEVICES: [&str; 6] = ["full", "null", "random", "tty", "urandom", "zero"];
const DEVICE_LINKS: [(&str, &str); 5] = [
    ("fd", "/proc/self/fd"),
    ("stdin", "/proc/self/fd/0"),
    ("stdout", "/proc/self/fd/1"),
    ("stderr", "/proc/self/fd/2"),
    ("ptmx", "pts/ptmx"),
];

fn fill_dev(step: &RunStep, prepared: &Prepared, root: &RootedPath) -> Result<(), Failure> {
    let dev = root.open_at(Path::new("/dev"), OFlags::PATH | OFlags::DIRECTORY, Mode::empty()).map_err(trying("open /dev"))?;
    for directory in ["pts", "shm", "mqueue"] {
        rustix::fs::mkdirat(&dev, directory, Mode::from_raw_mode(0o755)).map_err(trying("make a directory in /dev"))?;
    }
    for (name, target) in DEVICE_LINKS {
        rustix::fs::symlinkat(target, &dev, name).map_err(trying("make a link in /dev"))?;
    }
    for name in DEVICES {
        let failed = || format!("bind /dev/{name}");
        let node = open_path(&Path::new("/dev").join(name)).map_err(trying(failed()))?;
        let flags = OFlags::CREATE | OFlags::EXCL | OFlags::WRONLY | OFlags::CLOEXEC;
        rustix::fs::openat(&dev, name, flags, Mode::from_raw_mode(0o666)).map_err(trying(failed()))?;
        let target = rustix::fs::openat(&dev, name, OFlags::PATH | OFlags::CLOEXEC, Mode::empty()).map_err(trying(failed()))?;
        let mount = clone_tree(node.as_fd()).map_err(trying(failed()))?;
        attach(mount.as_fd(), target.as_fd()).map_err(trying(failed()))?;
    }
    let shm_size = step.shm_size.to_string();
    let quiet = MountAttrFlags::MOUNT_ATTR_NOSUID | MountAttrFlags::MOUNT_ATTR_NOEXEC;
    // Terminals belong to the group 5 everywhere, where that exists.
    let gid = if mode::of_process() == Some(mode::Mode::SingleId) { "0" } else { "5" };
    let pts = [("newinstance", ""), ("gid", gid), ("mode", "620"), ("ptmxmode", "666")];
    let mounts = [
        ("/dev/pts", filesystem(c"devpts", &pts[1..], quiet)),
        ("/dev/shm", filesystem(c"tmpfs", &[("mode", "1777"), ("size", &shm_size)], INERT)),
        ("/dev/mqueue", filesystem(c"mqueue", &[], INERT)),
    ];
    for (path, mount) in mounts {
        let mount = mount.map_err(trying(format!("mount {path}")))?;
        let target = prepared.target(root, Path::new(path), true)?;
        attach(mount.as_fd(), target.as_fd()).map_err(trying(format!("mount {path}")))?;
    }
    Ok(())
}

fn pivot(root: &Path) -> io::Result<()> {
    rustix::process::chdir(root)?;
    rustix::process::pivot_root(".", ".")?;
    // The old root now lies over the new one; taking it off leaves nothing of the machine's.
    rustix::mount::unmount(".", UnmountFlags::DETACH)?;
    Ok(rustix::process::chdir("/")?)
}

/// Files and directories of the kernel's that tell about, or reach, the machine (Docker's list).
const MASKED: [&str; 12] = [
    "/proc/acpi",
    "/proc/asound",
    "/proc/interrupts",
    "/proc/kcore",
    "/proc/keys",
    "/proc/latency_stats",
    "/proc/sched_debug",
    "/proc/scsi",
    "/proc/timer_list",
    "/proc/timer_stats",
    "/sys/devices/virtual/powercap",
    "/sys/firmware",
];
const READ_ONLY: [&str; 5] = ["/proc/bus", "/proc/fs", "/proc/irq", "/proc/sys", "/proc/sysrq-trigger"];

fn conceal() -> io::Result<()> {
    let open = |path: &str| rustix::fs::openat(CWD, path, OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC, Mode::empty());
    let checked = |path: &str| -> io::Result<Option<OwnedFd>> {
        let file = match open(path) {
            Ok(file) => file,
            Err(rustix::io::Errno::NOENT | rustix::io::Errno::ACCESS) => return Ok(None),
            Err(error) => return Err(error.into()),
        };
        // Whatever is covered must be the kernel's own file, not something an image put in its place.
        if lies_in_kernel_fs(&file)? { Ok(Some(file)) } else { Err(io::Error::from_raw_os_error(libc::ESTALE)) }
    };
    let null = open("/dev/null")?;
    for path in MASKED {
        let Some(target) = checked(path)? else { continue };
        let cover = if is_directory(&target)? {
            filesystem(c"tmpfs", &[("size", "0")], INERT | MountAttrFlags::MOUNT_ATTR_RDONLY)?
        } else {
            clone_tree(null.as_fd())?
        };
        attach(cover.as_fd(), target.as_fd())?;
    }
    for path in READ_ONLY {
        let Some(target) = checked(path)? else { continue };
        attach(bind(&target, INERT | MountAttrFlags::MOUNT_ATTR_RDONLY)?.as_fd(), target.as_fd())?;
    }
    Ok(())
}

impl Prepared {
    /// Opens the place of a mount inside the root. What is missing (behind a link, or removed by a layer) is made, and
    /// remembered for [`Prepared::remove_made_targets`].
    fn target(&self, root: &RootedPath, path: &Path, directory: bool) -> Result<OwnedFd, Failure> {
        let failed = || format!("find the mount target `{}`", path.display());
        match root.open_at(path, OFlags::PATH, Mode::empty()) {
            Ok(found) => return Ok(found),
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) => return Err(trying(failed())(error)),
        }
        let (Some(parent), Some(name)) = (path.parent(), path.file_name()) else {
            return Err(trying(failed())(io::Error::from_raw_os_error(libc::ENOENT)));
        };
        let parent = self.target(root, parent, true)?;
        // A link that leads nowhere stays what it is: its own name is no place to mount on.
        if rustix::fs::statat(&parent, name, AtFlags::SYMLINK_NOFOLLOW).is_ok() {
            return Err(trying(format!("{}: it is a link that leads nowhere", failed()))(io::Error::from_raw_os_error(
                libc::ELOOP,
            )));
        }
        let before = modified(&parent).map_err(trying(failed()))?;
        if directory {
            rustix::fs::mkdirat(&parent, name, Mode::from_raw_mode(0o755)).map_err(trying(failed()))?;
        } else {
            let flags = OFlags::CREATE | OFlags::EXCL | OFlags::WRONLY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
            rustix::fs::openat(&parent, name, flags, Mode::from_raw_mode(0o644)).map_err(trying(failed()))?;
        }
        let flags = OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let made = rustix::fs::openat(&parent, name, flags, Mode::empty()).map_err(trying(failed()))?;
        let inode = rustix::fs::fstat(&made).map_err(trying(failed()))?.st_ino;
        let parent_times = [before, modified(&parent).map_err(trying(failed()))?];
        self.made.borrow_mut().push(MadeTarget { parent, name: PathBuf::from(name), inode, directory, parent_times });
        Ok(made)
    }

    /// Takes away the targets that were made for mounts, each only if it is still the same and empty: they are no part of
    /// what the step did. By descriptor, since the step may have put links in the way.
    pub(super) fn remove_made_targets(&self) {
        for made in self.made.borrow().iter().rev() {
            let covered = PathBuf::from(format!("/proc/self/fd/{}", made.parent.as_raw_fd())).join(&made.name);
            let _ = rustix::mount::unmount(&covered, UnmountFlags::DETACH | UnmountFlags::NOFOLLOW);
            let same = rustix::fs::statat(&made.parent, &made.name, AtFlags::SYMLINK_NOFOLLOW)
                .is_ok_and(|stat| stat.st_ino == made.inode && (made.directory || stat.st_size == 0));
            if same {
                let flags = if made.directory { AtFlags::REMOVEDIR } else { AtFlags::empty() };
                let time = modified(&made.parent);
                if rustix::fs::unlinkat(&made.parent, &made.name, flags).is_ok()
                    && let Ok(time) = time
                {
                    // Nor is the time of the directory that it was in, unless the step changed that, too.
                    let [before, after] = made.parent_times;
                    let _ = set_modified(&made.parent, if time == after { before } else { time });
                }
            }
        }
    }
}
