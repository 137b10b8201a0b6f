//! What a step does, apart from what it does it to, and the part of that which its keys are made of.
//!
//! Left out of the keys on purpose: proxies (they change how bytes are fetched, not which), where a source's files come
//! from (the inputs' own keys say what they are), names, line numbers, and everything about time but the source date.

use crate::builder::embedded::copy::ParentsSource;
use crate::builder::embedded::sandbox::{Access, SANDBOX_VERSION, StepNetwork};
use crate::builder::steps::Ulimit;
use crate::dockerfile::Ignore;
use crate::oci::Platform;
use crate::time::SourceDate;

use super::key::Fields;

/// What a step does.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Operation {
    /// `COPY` or `ADD`.
    Copy(CopyOperation),
    /// The directory that `WORKDIR` makes.
    MakeDirectory(MakeDirectoryOperation),
    /// `RUN`.
    Run(Box<RunOperation>),
}

/// Files copied into a root.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct CopyOperation {
    /// What is copied, in order: later parts replace files of earlier ones.
    pub(super) parts: Vec<CopyPart>,
    /// `--exclude`: what is left out below the sources, in the language of `.dockerignore`.
    pub(super) exclude: Ignore,
    /// Absolute path; a trailing slash is significant.
    pub(super) destination: String,
    /// `--chown`
    pub(super) owner: Option<String>,
    /// `--chmod`
    pub(super) mode: Option<String>,
    /// Modification time of all that is written.
    pub(super) date: SourceDate,
}

/// Files of one source.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct CopyPart {
    /// Which files, and of what.
    pub(super) what: CopyWhat,
    /// Whether archives among them are unpacked.
    pub(super) unpack: bool,
}

/// Which files a part of a copy takes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum CopyWhat {
    /// What paths or patterns mean, in order.
    Patterns {
        /// Where the files come from.
        from: CopyFrom,
        /// As written, after expansion.
        patterns: Vec<String>,
    },
    /// What paths or patterns mean, in order, with the directories above it: `--parents`.
    Parents {
        /// Where the files come from.
        from: CopyFrom,
        /// Each taken apart at its pivot.
        sources: Vec<ParentsSource>,
    },
    /// All of the named context of this name.
    Named(String),
    /// Files whose content stands in the Dockerfile: name and content.
    Inline(Vec<(String, Vec<u8>)>),
}

/// Where copied files come from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum CopyFrom {
    /// The build context.
    Context,
    /// The step's input with this number.
    Input(usize),
}

/// A directory, with its parents.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct MakeDirectoryOperation {
    /// Absolute path.
    pub(super) path: String,
    /// The `USER` in force, empty for none.
    pub(super) owner: String,
    /// Modification time of what is made.
    pub(super) date: SourceDate,
}

/// A command.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct RunOperation {
    /// The program and its arguments.
    pub(super) argv: Vec<String>,
    /// The environment: the image's, then arguments in scope. `PATH` is always among it; `HOME` is added from the files.
    pub(super) env: Vec<(String, String)>,
    /// Proxies that were given as build arguments; no part of a key.
    pub(super) proxies: Vec<(String, String)>,
    /// Absolute working directory.
    pub(super) cwd: String,
    /// The `USER` in force, empty for none.
    pub(super) user: String,
    /// What network the command sees.
    pub(super) network: StepNetwork,
    /// What is mounted.
    pub(super) mounts: Vec<MountOperation>,
    /// A script that is put at an absolute path for the command: path and content.
    pub(super) script: Option<(String, Vec<u8>)>,
    /// The platform whose code runs.
    pub(super) platform: Platform,
    /// Names of further lines of `/etc/hosts`; where they point to is no part of a key.
    pub(super) hosts: Vec<String>,
    /// Resource limits in place of the usual ones.
    pub(super) ulimits: Vec<Ulimit>,
    /// Size of `/dev/shm` in bytes.
    pub(super) shm_size: u64,
}

/// `RUN --mount`
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct MountOperation {
    /// Absolute path; empty for a secret that is only a variable.
    pub(super) target: String,
    /// What appears there.
    pub(super) what: MountKind,
}

/// What is mounted.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum MountKind {
    /// Files of a root or of the context; writes are thrown away.
    Bind {
        /// Where the files come from.
        from: CopyFrom,
        /// Path there.
        source: String,
        /// Whether the command may write.
        access: Access,
    },
    /// A directory that outlives the build.
    Cache {
        /// Its name.
        id: String,
        /// Who may use it at one time.
        sharing: CacheSharing,
        /// Owner and mode of a new one.
        uid: u32,
        /// See `uid`.
        gid: u32,
        /// See `uid`.
        mode: u32,
        /// Whether the command may write.
        access: Access,
        /// What a new one starts with; empty if `None`.
        initial: Option<Initial>,
    },
    /// Memory.
    Tmpfs {
        /// Limit in bytes.
        size: Option<u64>,
    },
    /// A secret, as a file at the target and as a variable.
    Secret {
        /// Which one.
        id: String,
        /// The variable.
        env: Option<String>,
        /// Owner and mode of the file.
        owner: FileOwner,
        /// Whether it is there.
        presence: Presence,
    },
    /// The socket of an SSH agent.
    Ssh {
        /// Which one.
        id: String,
        /// Owner and mode of the socket.
        owner: FileOwner,
        /// Whether it is there.
        presence: Presence,
    },
}

/// What a new cache directory starts with.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) struct Initial {
    /// Where the files come from.
    pub(super) from: CopyFrom,
    /// Path of a directory there.
    pub(super) source: String,
    /// Whether the directory keeps the owner and mode that it has there.
    pub(super) keeps_owner: bool,
}

/// Owner and mode of one file.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct FileOwner {
    /// User.
    pub(super) uid: u32,
    /// Group.
    pub(super) gid: u32,
    /// Permissions.
    pub(super) mode: u32,
}

/// Whether something that a step asks for was given.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Presence {
    /// It was.
    Given,
    /// It was not, and the step runs without.
    Absent,
    /// It was not, and the step cannot run. A result of the step can still be used.
    Missing,
}

/// How steps share a cache mount.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum CacheSharing {
    /// All at once.
    Shared,
    /// Whoever comes second gets another one.
    Private,
    /// Whoever comes second waits.
    Locked,
}

/// Host name of every step.
pub(super) const HOSTNAME: &str = "pkgbuild";

/// Size of `/dev/shm` of every step.
pub(super) const SHM_SIZE: u64 = 64 << 20;

impl Operation {
    /// Starts the fields of a key of this operation; `role` tells the two kinds of keys apart. The inputs are to follow.
    pub(super) fn fields(&self, role: &str) -> Fields {
        match self {
            Self::Copy(operation) => operation.fields(Fields::new("pkgbuild.copy.v2").field("role", role)),
            Self::MakeDirectory(operation) => operation.fields(Fields::new("pkgbuild.mkdir.v1").field("role", role)),
            Self::Run(operation) => operation.fields(Fields::new("pkgbuild.run.v1").field("role", role)),
        }
    }
}

impl CopyOperation {
    fn fields(&self, fields: Fields) -> Fields {
        let Self { parts, exclude: _, destination, owner, mode, date } = self;
        let fields = fields
            .field("destination", destination)
            .optional("owner", owner.as_ref())
            .optional("mode", mode.as_ref())
            .field("date", date.0.to_le_bytes())
            .number("parts", parts.len() as u64);
        parts.iter().fold(fields, |fields, part| part.fields(fields))
    }
}

impl CopyWhat {
    /// Returns where the files come from, if not from the Dockerfile.
    pub(super) fn from(&self) -> Option<CopyFrom> {
        match self {
            Self::Patterns { from, .. } | Self::Parents { from, .. } => Some(*from),
            Self::Named(_) | Self::Inline(_) => None,
        }
    }
}

impl CopyPart {
    /// Which files it takes of a source is an input.
    fn fields(&self, fields: Fields) -> Fields {
        let fields = fields.number("unpack", u64::from(self.unpack));
        match &self.what {
            CopyWhat::Patterns { from: _, patterns: _ } => fields.field("part", "patterns"),
            // What it is called says nothing about the files.
            CopyWhat::Named(_) => fields.field("part", "named"),
            CopyWhat::Parents { from: _, sources: _ } => fields.field("part", "parents"),
            CopyWhat::Inline(files) => {
                fields.list("inline", files.iter().flat_map(|(name, data)| [name.as_bytes(), data.as_slice()]))
            }
        }
    }
}

impl MakeDirectoryOperation {
    fn fields(&self, fields: Fields) -> Fields {
        let Self { path, owner, date } = self;
        fields.field("path", path).field("owner", owner).field("date", date.0.to_le_bytes())
    }
}

impl RunOperation {
    fn fields(&self, fields: Fields) -> Fields {
        // Of hosts only the names: where a machine is found is no part of what is done with it.
        let Self { argv, env, proxies: _, cwd, user, network, mounts, script, platform, hosts, ulimits, shm_size } = self;
        let fields = fields
            .number("sandbox", u64::from(SANDBOX_VERSION))
            .field("hostname", HOSTNAME)
            .number("shm", *shm_size)
            .list("argv", argv)
            .list("env", env.iter().flat_map(|(name, value)| [name, value]))
            .field("cwd", cwd)
            .field("user", user)
            .field(
                "network",
                match network {
                    StepNetwork::None => "none",
                    StepNetwork::Outbound => "outbound",
                    StepNetwork::Host => "host",
                },
            )
            .list("script", script.iter().flat_map(|(path, data)| [path.as_bytes(), data.as_slice()]))
            .field("os", &platform.os)
            .field("architecture", &platform.architecture)
            .optional("variant", platform.variant.as_ref())
            .list("hosts", hosts)
            .list("ulimits", ulimits.iter().map(|limit| format!("{} {:?} {:?}", limit.resource.word(), limit.soft, limit.hard)))
            .number("mounts", mounts.len() as u64);
        mounts.iter().fold(fields, |fields, mount| mount.fields(fields))
    }
}

impl MountOperation {
    fn fields(&self, fields: Fields) -> Fields {
        let fields = fields.field("target", &self.target);
        let word = |access: &Access| match access {
            Access::ReadOnly => "ro",
            Access::ReadWrite => "rw",
        };
        match &self.what {
            // The files under `source` are an input.
            MountKind::Bind { from: _, source: _, access } => fields.field("mount", "bind").field("access", word(access)),
            // What a new one starts with is an input, too. Steps that differ only in how they share a cache, or in which one they use, do the same.
            MountKind::Cache { id: _, sharing: _, uid, gid, mode, access, initial: _ } => fields
                .field("mount", "cache")
                .number("uid", u64::from(*uid))
                .number("gid", u64::from(*gid))
                .number("mode", u64::from(*mode))
                .field("access", word(access)),
            MountKind::Tmpfs { size } => fields.field("mount", "tmpfs").number("size", size.map_or(u64::MAX, |size| size)),
            // The value is no part of the key: another one is another password to the same door.
            MountKind::Secret { id, env, owner, presence } => {
                owner.fields(fields.field("mount", "secret").field("id", id).optional("env", env.as_ref()), *presence)
            }
            MountKind::Ssh { id, owner, presence } => owner.fields(fields.field("mount", "ssh").field("id", id), *presence),
        }
    }
}

impl FileOwner {
    fn fields(self, fields: Fields, presence: Presence) -> Fields {
        fields
            .number("uid", u64::from(self.uid))
            .number("gid", u64::from(self.gid))
            .number("mode", u64::from(self.mode))
            .number("absent", u64::from(presence == Presence::Absent))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::builder::embedded::solve::key::Key;

    fn key(operation: &Operation) -> Key {
        operation.fields("test").finish()
    }

    const OWNER: FileOwner = FileOwner { uid: 0, gid: 0, mode: 0o400 };

    fn run() -> RunOperation {
        RunOperation {
            argv: vec!["a".into(), "b".into()],
            env: vec![("A".into(), "1".into())],
            proxies: Vec::new(),
            cwd: "/".into(),
            user: String::new(),
            network: StepNetwork::None,
            mounts: vec![
                MountOperation {
                    target: "/b".into(),
                    what: MountKind::Bind { from: CopyFrom::Context, source: "s".into(), access: Access::ReadOnly },
                },
                MountOperation {
                    target: "/c".into(),
                    what: MountKind::Cache {
                        id: "/c".into(),
                        sharing: CacheSharing::Shared,
                        uid: 0,
                        gid: 0,
                        mode: 0o755,
                        access: Access::ReadWrite,
                        initial: None,
                    },
                },
                MountOperation { target: "/t".into(), what: MountKind::Tmpfs { size: None } },
                MountOperation {
                    target: "/s".into(),
                    what: MountKind::Secret { id: "s".into(), env: None, owner: OWNER, presence: Presence::Given },
                },
                MountOperation {
                    target: "/a".into(),
                    what: MountKind::Ssh { id: "a".into(), owner: OWNER, presence: Presence::Given },
                },
            ],
            script: None,
            platform: Platform::linux("amd64"),
            hosts: vec!["h".into()],
            ulimits: Vec::new(),
            shm_size: SHM_SIZE,
        }
    }

    fn patterns(from: CopyFrom) -> CopyWhat {
        CopyWhat::Patterns { from, patterns: vec!["a".into()] }
    }

    fn inline(name: &str, data: &[u8]) -> CopyPart {
        CopyPart { what: CopyWhat::Inline(vec![(name.into(), data.to_vec())]), unpack: false }
    }

    fn copy() -> CopyOperation {
        CopyOperation {
            parts: vec![CopyPart { what: patterns(CopyFrom::Context), unpack: false }],
            exclude: Ignore::default(),
            destination: "/d".into(),
            owner: None,
            mode: None,
            date: SourceDate(0),
        }
    }

    fn mutated<T: Clone>(value: &T, change: impl FnOnce(&mut T)) -> T {
        let mut value = value.clone();
        change(&mut value);
        value
    }

    fn mount(run: &mut RunOperation, number: usize) -> &mut MountKind {
        &mut run.mounts[number].what
    }

    #[test]
    fn every_field_of_a_command_that_it_can_observe_is_in_its_key() {
        let base = run();
        let changes: [fn(&mut RunOperation); 29] = [
            |op| op.argv = vec!["ab".into()],
            |op| op.argv.push(String::new()),
            |op| op.env[0].1 = "2".into(),
            |op| op.env[0] = ("A1".into(), String::new()),
            |op| op.env.push(("B".into(), String::new())),
            |op| op.cwd = "/x".into(),
            |op| op.user = "u".into(),
            |op| op.network = StepNetwork::Host,
            |op| op.network = StepNetwork::Outbound,
            |op| op.script = Some(("/dev/pipes/EOF".into(), b"#!/bin/sh".to_vec())),
            |op| op.platform = Platform::linux("arm64"),
            |op| op.platform.variant = Some("v3".into()),
            |op| op.platform.os = "freebsd".into(),
            |op| op.mounts[0].target = "/bb".into(),
            |op| op.mounts.truncate(2),
            |op| op.mounts.swap(0, 2),
            |op| *mount(op, 0) = MountKind::Bind { from: CopyFrom::Context, source: "s".into(), access: Access::ReadWrite },
            |op| {
                if let MountKind::Cache { uid, .. } = mount(op, 1) {
                    *uid = 1
                }
            },
            |op| {
                if let MountKind::Cache { gid, .. } = mount(op, 1) {
                    *gid = 1
                }
            },
            |op| {
                if let MountKind::Cache { mode, .. } = mount(op, 1) {
                    *mode = 0o700
                }
            },
            |op| *mount(op, 2) = MountKind::Tmpfs { size: Some(1) },
            |op| *mount(op, 3) = MountKind::Secret { id: "t".into(), env: None, owner: OWNER, presence: Presence::Given },
            |op| {
                *mount(op, 3) =
                    MountKind::Secret { id: "s".into(), env: Some("E".into()), owner: OWNER, presence: Presence::Given }
            },
            |op| {
                let owner = FileOwner { mode: 0o444, ..OWNER };
                *mount(op, 3) = MountKind::Secret { id: "s".into(), env: None, owner, presence: Presence::Given };
            },
            |op| *mount(op, 3) = MountKind::Secret { id: "s".into(), env: None, owner: OWNER, presence: Presence::Absent },
            |op| *mount(op, 4) = MountKind::Ssh { id: "b".into(), owner: OWNER, presence: Presence::Given },
            |op| op.hosts = vec!["i".into()],
            |op| op.ulimits.push(Ulimit { resource: crate::builder::steps::Resource::Nofile, soft: Some(1), hard: None }),
            |op| op.shm_size += 1,
        ];
        let mut keys = vec![key(&Operation::Run(Box::new(base.clone())))];
        for (n, change) in changes.into_iter().enumerate() {
            let key = key(&Operation::Run(Box::new(mutated(&base, change))));
            assert!(!keys.contains(&key), "change {n} is not seen");
            keys.push(key);
        }
    }

    #[test]
    fn proxies_the_choice_of_a_cache_and_whether_a_required_secret_is_there_are_not_in_the_key_of_a_command() {
        let base = run();
        let changes: [fn(&mut RunOperation); 6] = [
            // A result that was made with the secret can be used without.
            |op| *mount(op, 3) = MountKind::Secret { id: "s".into(), env: None, owner: OWNER, presence: Presence::Missing },
            |op| *mount(op, 4) = MountKind::Ssh { id: "a".into(), owner: OWNER, presence: Presence::Missing },
            |op| op.proxies.push(("http_proxy".into(), "http://p".into())),
            |op| {
                if let MountKind::Cache { id, .. } = mount(op, 1) {
                    *id = "other".into()
                }
            },
            |op| {
                if let MountKind::Cache { sharing, .. } = mount(op, 1) {
                    *sharing = CacheSharing::Locked
                }
            },
            |op| *mount(op, 0) = MountKind::Bind { from: CopyFrom::Input(0), source: "t".into(), access: Access::ReadOnly },
        ];
        for (n, change) in changes.into_iter().enumerate() {
            assert_eq!(
                key(&Operation::Run(Box::new(mutated(&base, change)))),
                key(&Operation::Run(Box::new(base.clone()))),
                "change {n} is seen"
            );
        }
    }

    #[test]
    fn every_field_of_a_copy_but_its_source_is_in_its_key() {
        let base = copy();
        let changes: [fn(&mut CopyOperation); 10] = [
            |op| op.parts.push(inline("n", b"d")),
            |op| op.parts.push(inline("nd", b"")),
            |op| op.parts[0].what = CopyWhat::Parents { from: CopyFrom::Context, sources: Vec::new() },
            |op| op.parts.insert(0, inline("n", b"d")),
            |op| op.parts.push(CopyPart { what: patterns(CopyFrom::Context), unpack: false }),
            |op| op.destination = "/d/".into(),
            |op| op.owner = Some(String::new()),
            |op| op.mode = Some(String::new()),
            |op| op.parts[0].unpack = true,
            |op| op.date = SourceDate(1),
        ];
        let mut keys = vec![key(&Operation::Copy(base.clone()))];
        for (n, change) in changes.into_iter().enumerate() {
            let key = key(&Operation::Copy(mutated(&base, change)));
            assert!(!keys.contains(&key), "change {n} is not seen");
            keys.push(key);
        }
        let same = mutated(&base, |op| op.parts[0].what = patterns(CopyFrom::Input(1)));
        assert_eq!(key(&Operation::Copy(same)), keys[0]);
    }

    #[test]
    fn every_field_of_a_made_directory_is_in_its_key() {
        let base = MakeDirectoryOperation { path: "/a".into(), owner: String::new(), date: SourceDate(0) };
        let changes: [fn(&mut MakeDirectoryOperation); 3] =
            [|op| op.path = "/b".into(), |op| op.owner = "u".into(), |op| op.date = SourceDate(1)];
        for (n, change) in changes.into_iter().enumerate() {
            let changed = key(&Operation::MakeDirectory(mutated(&base, change)));
            assert_ne!(changed, key(&Operation::MakeDirectory(base.clone())), "change {n} is not seen");
        }
        assert_ne!(Operation::Copy(copy()).fields("a").finish(), Operation::Copy(copy()).fields("b").finish());
    }
}
