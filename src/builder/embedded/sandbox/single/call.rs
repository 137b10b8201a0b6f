//! Which calls are about ids, and where their arguments stand, for each instruction set.

use rustix::fs::OFlags;

use super::target::Target;

/// Which thing a call is about, by the numbers of its arguments.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(in crate::builder::embedded::sandbox) enum Place {
    /// An open file.
    File {
        /// The descriptor.
        file: u8,
    },
    /// A path.
    Path {
        /// The path.
        path: u8,
        /// Whether a link at its end is followed.
        follow: bool,
    },
    /// A path from a directory; `flags` are `AT_*`.
    At {
        /// The directory's descriptor.
        directory: u8,
        /// The path.
        path: u8,
        /// The flags, when the call has some.
        flags: Option<u8>,
    },
}

/// Flags of `open`: given, or those of `creat`.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(in crate::builder::embedded::sandbox) enum OpenFlags {
    Argument(u8),
    Creat,
}

impl OpenFlags {
    pub(super) fn of(self, target: &Target) -> u32 {
        match self {
            Self::Argument(number) => target.argument(number) as u32,
            Self::Creat => (OFlags::CREATE | OFlags::WRONLY | OFlags::TRUNC).bits(),
        }
    }
}

/// How a `struct stat` is laid out.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(in crate::builder::embedded::sandbox) enum Layout {
    /// As in this program.
    Native,
    /// `struct stat64` of 32-bit x86.
    I386,
}

/// Calls about the ids of a process. User and group variants differ in what they are about.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(in crate::builder::embedded::sandbox) enum Ids {
    /// `getuid`, `getgid`.
    Real(Kind),
    /// `geteuid`, `getegid`.
    Effective(Kind),
    /// `getresuid`, `getresgid`.
    All(Kind),
    /// `setuid`, `setgid`.
    Set(Kind),
    /// `setreuid`, `setregid`.
    SetTwo(Kind),
    /// `setresuid`, `setresgid`.
    SetAll(Kind),
    /// `setfsuid`, `setfsgid`.
    SetFile(Kind),
    /// `getgroups`.
    Groups,
    /// `setgroups`.
    SetGroups,
}

/// What an id is of.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(in crate::builder::embedded::sandbox) enum Kind {
    /// A user.
    User,
    /// A group.
    Group,
}

/// A call about ids. Numbers are those of arguments.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(in crate::builder::embedded::sandbox) enum Call {
    /// A new owner for `place`; the group is the argument after the user.
    Chown { place: Place, owner: u8 },
    /// What `place` is like.
    Stat { place: Place, buffer: u8, layout: Layout },
    /// `statx`.
    Statx,
    /// Ids of the process.
    Ids(Ids),
    /// Another program.
    Execute { place: Place },
    /// A file is opened and made.
    Open { place: Place, flags: OpenFlags, mode: u8 },
    /// A directory is made.
    MakeDirectory { place: Place, mode: u8 },
    /// A symbolic link that says `text` is made.
    Link { place: Place, text: u8 },
    /// A pipe or another special file is made.
    MakeNode { place: Place, mode: u8 },
}

/// When a call is asked about.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(in crate::builder::embedded::sandbox) enum When {
    /// Always.
    Always,
    /// When this argument has one of these bits.
    Bits(u8, u32),
}

/// A call that is asked about.
pub(in crate::builder::embedded::sandbox) struct Notified {
    pub(in crate::builder::embedded::sandbox) number: u32,
    pub(in crate::builder::embedded::sandbox) call: Call,
}

impl Notified {
    /// Returns when the call is asked about: not each time a file is opened, only when that may make it.
    pub(in crate::builder::embedded::sandbox) fn when(&self) -> When {
        match self.call {
            Call::Open { flags: OpenFlags::Argument(number), .. } => When::Bits(number, OFlags::CREATE.bits()),
            _ => When::Always,
        }
    }
}

const fn of(number: libc::c_long, call: Call) -> Notified {
    Notified { number: number as u32, call }
}

const fn ids(number: libc::c_long, ids: Ids) -> Notified {
    of(number, Call::Ids(ids))
}

const fn path(path: u8, follow: bool) -> Place {
    Place::Path { path, follow }
}

const fn at(directory: u8, path: u8, flags: Option<u8>) -> Place {
    Place::At { directory, path, flags }
}

const FILE: Place = Place::File { file: 0 };

/// The calls of this program's own instruction set.
pub(in crate::builder::embedded::sandbox) const NOTIFIED_NATIVE: &[Notified] = &[
    of(libc::SYS_fchown, Call::Chown { place: FILE, owner: 1 }),
    of(libc::SYS_fchownat, Call::Chown { place: at(0, 1, Some(4)), owner: 2 }),
    of(libc::SYS_fstat, Call::Stat { place: FILE, buffer: 1, layout: Layout::Native }),
    of(libc::SYS_newfstatat, Call::Stat { place: at(0, 1, Some(3)), buffer: 2, layout: Layout::Native }),
    of(libc::SYS_statx, Call::Statx),
    ids(libc::SYS_getuid, Ids::Real(Kind::User)),
    ids(libc::SYS_getgid, Ids::Real(Kind::Group)),
    ids(libc::SYS_geteuid, Ids::Effective(Kind::User)),
    ids(libc::SYS_getegid, Ids::Effective(Kind::Group)),
    ids(libc::SYS_getresuid, Ids::All(Kind::User)),
    ids(libc::SYS_getresgid, Ids::All(Kind::Group)),
    ids(libc::SYS_setuid, Ids::Set(Kind::User)),
    ids(libc::SYS_setgid, Ids::Set(Kind::Group)),
    ids(libc::SYS_setreuid, Ids::SetTwo(Kind::User)),
    ids(libc::SYS_setregid, Ids::SetTwo(Kind::Group)),
    ids(libc::SYS_setresuid, Ids::SetAll(Kind::User)),
    ids(libc::SYS_setresgid, Ids::SetAll(Kind::Group)),
    ids(libc::SYS_setfsuid, Ids::SetFile(Kind::User)),
    ids(libc::SYS_setfsgid, Ids::SetFile(Kind::Group)),
    ids(libc::SYS_getgroups, Ids::Groups),
    ids(libc::SYS_setgroups, Ids::SetGroups),
    of(libc::SYS_execve, Call::Execute { place: path(0, true) }),
    of(libc::SYS_execveat, Call::Execute { place: at(0, 1, Some(4)) }),
    of(libc::SYS_openat, Call::Open { place: at(0, 1, None), flags: OpenFlags::Argument(2), mode: 3 }),
    of(libc::SYS_mkdirat, Call::MakeDirectory { place: at(0, 1, None), mode: 2 }),
    of(libc::SYS_symlinkat, Call::Link { place: at(1, 2, None), text: 0 }),
    of(libc::SYS_mknodat, Call::MakeNode { place: at(0, 1, None), mode: 2 }),
    // The older calls, which later instruction sets do not have.
    #[cfg(target_arch = "x86_64")]
    of(libc::SYS_chown, Call::Chown { place: path(0, true), owner: 1 }),
    #[cfg(target_arch = "x86_64")]
    of(libc::SYS_lchown, Call::Chown { place: path(0, false), owner: 1 }),
    #[cfg(target_arch = "x86_64")]
    of(libc::SYS_stat, Call::Stat { place: path(0, true), buffer: 1, layout: Layout::Native }),
    #[cfg(target_arch = "x86_64")]
    of(libc::SYS_lstat, Call::Stat { place: path(0, false), buffer: 1, layout: Layout::Native }),
    #[cfg(target_arch = "x86_64")]
    of(libc::SYS_open, Call::Open { place: path(0, true), flags: OpenFlags::Argument(1), mode: 2 }),
    #[cfg(target_arch = "x86_64")]
    of(libc::SYS_creat, Call::Open { place: path(0, true), flags: OpenFlags::Creat, mode: 1 }),
    #[cfg(target_arch = "x86_64")]
    of(libc::SYS_mkdir, Call::MakeDirectory { place: path(0, false), mode: 1 }),
    #[cfg(target_arch = "x86_64")]
    of(libc::SYS_symlink, Call::Link { place: path(1, false), text: 0 }),
    #[cfg(target_arch = "x86_64")]
    of(libc::SYS_mknod, Call::MakeNode { place: path(0, false), mode: 1 }),
];

/// The same of 32-bit programs, by the numbers of the i386 interface; those with 16-bit ids are left to the kernel.
#[cfg(target_arch = "x86_64")]
pub(in crate::builder::embedded::sandbox) const NOTIFIED_COMPAT: &[Notified] = &[
    of(207, Call::Chown { place: FILE, owner: 1 }),
    of(298, Call::Chown { place: at(0, 1, Some(4)), owner: 2 }),
    of(212, Call::Chown { place: path(0, true), owner: 1 }),
    of(198, Call::Chown { place: path(0, false), owner: 1 }),
    of(195, Call::Stat { place: path(0, true), buffer: 1, layout: Layout::I386 }),
    of(196, Call::Stat { place: path(0, false), buffer: 1, layout: Layout::I386 }),
    of(197, Call::Stat { place: FILE, buffer: 1, layout: Layout::I386 }),
    of(300, Call::Stat { place: at(0, 1, Some(3)), buffer: 2, layout: Layout::I386 }),
    of(383, Call::Statx),
    ids(199, Ids::Real(Kind::User)),
    ids(200, Ids::Real(Kind::Group)),
    ids(201, Ids::Effective(Kind::User)),
    ids(202, Ids::Effective(Kind::Group)),
    ids(209, Ids::All(Kind::User)),
    ids(211, Ids::All(Kind::Group)),
    ids(213, Ids::Set(Kind::User)),
    ids(214, Ids::Set(Kind::Group)),
    ids(203, Ids::SetTwo(Kind::User)),
    ids(204, Ids::SetTwo(Kind::Group)),
    ids(208, Ids::SetAll(Kind::User)),
    ids(210, Ids::SetAll(Kind::Group)),
    ids(215, Ids::SetFile(Kind::User)),
    ids(216, Ids::SetFile(Kind::Group)),
    ids(205, Ids::Groups),
    ids(206, Ids::SetGroups),
    of(11, Call::Execute { place: path(0, true) }),
    of(358, Call::Execute { place: at(0, 1, Some(4)) }),
    of(5, Call::Open { place: path(0, true), flags: OpenFlags::Argument(1), mode: 2 }),
    of(8, Call::Open { place: path(0, true), flags: OpenFlags::Creat, mode: 1 }),
    of(295, Call::Open { place: at(0, 1, None), flags: OpenFlags::Argument(2), mode: 3 }),
    of(39, Call::MakeDirectory { place: path(0, false), mode: 1 }),
    of(296, Call::MakeDirectory { place: at(0, 1, None), mode: 2 }),
    of(83, Call::Link { place: path(1, false), text: 0 }),
    of(304, Call::Link { place: at(1, 2, None), text: 0 }),
    of(14, Call::MakeNode { place: path(0, false), mode: 1 }),
    of(297, Call::MakeNode { place: at(0, 1, None), mode: 2 }),
];

/// 32-bit ARM programs get no call through (`seccomp`).
#[cfg(not(target_arch = "x86_64"))]
pub(in crate::builder::embedded::sandbox) const NOTIFIED_COMPAT: &[Notified] = &[];

/// Returns what a call is about, by the instruction set (`AUDIT_ARCH_*`) and its number.
pub(super) fn find(architecture: u32, number: u32) -> Option<Call> {
    const IS_64_BIT: u32 = 0x8000_0000;
    let table = if architecture & IS_64_BIT != 0 { NOTIFIED_NATIVE } else { NOTIFIED_COMPAT };
    table.iter().find(|notified| notified.number == number).map(|notified| notified.call)
}
