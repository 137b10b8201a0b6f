//! What a step is given from outside: secrets and agents' sockets at their places, names of hosts, resource limits.
//!
//! Values of secrets never pass through the specification's JSON, nor touch a disk: they follow it on the socket, and the
//! supervisor writes them to a file system in memory that only its mount namespace has. That ends with the step, however
//! the step ends.

use std::io::{self, Read, Write};
use std::net::IpAddr;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::{OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};

use rustix::mount::{FsMountFlags, FsOpenFlags, MountAttrFlags};
use serde::{Deserialize, Serialize};

use super::init::{Failure, trying};
use super::mode::{self, Mode};
use super::mounts::{INERT, attach, open_path};
use super::single;
use crate::builder::secret::{SECRET_LIMIT, Secret};
use crate::builder::steps::{Budget, Resource, Ulimit};

/// What a step is given.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
pub struct Given {
    /// Secrets.
    pub secrets: Vec<StepSecret>,
    /// Sockets that are listened on.
    pub sockets: Vec<StepSocket>,
    /// More lines of `/etc/hosts`.
    pub hosts: Vec<(String, IpAddr)>,
    /// Resource limits in place of the usual ones.
    pub ulimits: Vec<Ulimit>,
    /// What it may use together with all that it starts.
    pub budget: Budget,
}

/// A secret in a step.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct StepSecret {
    /// Its bytes.
    #[serde(skip)]
    pub value: Secret,
    /// Where it is a file, read-only.
    pub file: Option<StepFile>,
    /// The variable that holds it.
    pub env: Option<String>,
}

/// Where a file is and whose.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct StepFile {
    /// Absolute path inside the root.
    pub target: String,
    /// Owner.
    pub uid: u32,
    /// Group.
    pub gid: u32,
    /// Permissions.
    pub mode: u32,
}

/// A socket in a step.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct StepSocket {
    /// Where it is on this machine; it gets the owner and mode of `file`.
    pub path: PathBuf,
    /// Where it is in the step.
    pub file: StepFile,
}

impl Given {
    /// Writes what the JSON leaves out.
    pub(super) fn send(&self, mut to: impl Write) -> io::Result<()> {
        for secret in &self.secrets {
            to.write_all(&(secret.value.bytes().len() as u64).to_le_bytes())?;
            to.write_all(secret.value.bytes())?;
        }
        Ok(())
    }

    /// Reads what the JSON leaves out.
    pub(super) fn receive(&mut self, mut from: impl Read) -> io::Result<()> {
        for secret in &mut self.secrets {
            let mut length = [0; 8];
            from.read_exact(&mut length)?;
            let length = u64::from_le_bytes(length);
            if length > SECRET_LIMIT {
                return Err(io::ErrorKind::InvalidData.into());
            }
            secret.value = Secret::read(&mut from, length as usize)?;
        }
        Ok(())
    }

    /// Returns the lines to add to `/etc/hosts`.
    pub(super) fn host_lines(&self) -> String {
        self.hosts.iter().map(|(name, address)| format!("{address}\t{name}\n")).collect()
    }

    /// Returns the variables that hold secrets, as `NAME=value`.
    pub(super) fn variables(&self) -> impl Iterator<Item = (&str, Vec<u8>)> {
        self.secrets.iter().filter_map(|secret| {
            let name = secret.env.as_deref()?;
            Some((name, [name.as_bytes(), b"=", secret.value.bytes()].concat()))
        })
    }

    /// Puts the secrets into a file system in memory on `place`, and gives sockets their owners. Returns what is to be bound
    /// into the step: from where, to where, and whether it is a socket.
    pub(super) fn place(&self, place: &Path) -> Result<Vec<(PathBuf, PathBuf, bool)>, Failure> {
        let mut placed = Vec::new();
        let files = || self.secrets.iter().filter_map(|secret| Some((secret, secret.file.as_ref()?)));
        if files().next().is_some() {
            fs_err::create_dir_all(place).map_err(trying("make a directory for secrets"))?;
            let sizes: usize = files().map(|(secret, _)| secret.value.bytes().len() + 8192).sum();
            let executable = files().any(|(_, file)| file.mode & 0o111 != 0);
            let memory = memory(sizes as u64, executable).map_err(trying("make a file system in memory for secrets"))?;
            let target = open_path(place).map_err(trying("open the directory for secrets"))?;
            attach(memory.as_fd(), target.as_fd()).map_err(trying("mount the file system for secrets"))?;
        }
        for (number, (secret, file)) in files().enumerate() {
            let path = place.join(number.to_string());
            let failed = || format!("write the secret for `{}`", file.target);
            let options =
                fs_err::OpenOptions::from_options(std::fs::OpenOptions::new().write(true).create_new(true).mode(0o600).clone());
            let mut written = options.open(&path).map_err(trying(failed()))?;
            written.write_all(secret.value.bytes()).map_err(trying(failed()))?;
            file.own(&path)?;
            placed.push((path, PathBuf::from(&file.target), false));
        }
        for StepSocket { path, file } in &self.sockets {
            file.own(path)?;
            placed.push((path.clone(), PathBuf::from(&file.target), true));
        }
        Ok(placed)
    }

    /// Sets the limits of this process and of those it will start.
    pub(super) fn limit(&self) -> Result<(), Failure> {
        for Ulimit { resource, soft, hard } in &self.ulimits {
            let value = |limit: &Option<u64>| limit.unwrap_or(libc::RLIM_INFINITY);
            let limit = libc::rlimit { rlim_cur: value(soft), rlim_max: value(hard) };
            // SAFETY: the structure is valid for the call.
            if unsafe { libc::setrlimit(number(*resource), &limit) } != 0 {
                return Err(trying(format!("set the limit `{}`", resource.word()))(io::Error::last_os_error()));
            }
        }
        Ok(())
    }
}

impl StepFile {
    fn own(&self, path: &Path) -> Result<(), Failure> {
        let failed = || format!("set the owner and mode of `{}`", self.target);
        // The owner first: a change of it may clear bits of the mode.
        match mode::of_process() {
            // Sockets have no attributes: with a single id they seem to be root's.
            Some(Mode::SingleId) => drop(single::record_owner(path, self.uid, self.gid)),
            _ => std::os::unix::fs::chown(path, Some(self.uid), Some(self.gid)).map_err(trying(failed()))?,
        }
        fs_err::set_permissions(path, std::fs::Permissions::from_mode(self.mode)).map_err(trying(failed()))
    }
}

/// Makes a file system in memory, one that is never swapped where the kernel can promise that (6.4 and later, outside of
/// user namespaces).
fn memory(size: u64, executable: bool) -> io::Result<OwnedFd> {
    let attributes = if executable { MountAttrFlags::MOUNT_ATTR_NOSUID | MountAttrFlags::MOUNT_ATTR_NODEV } else { INERT };
    let make = |swapped: bool| -> io::Result<OwnedFd> {
        let context = rustix::mount::fsopen(c"tmpfs", FsOpenFlags::FSOPEN_CLOEXEC)?;
        rustix::mount::fsconfig_set_string(context.as_fd(), "mode", "700")?;
        rustix::mount::fsconfig_set_string(context.as_fd(), "size", size.to_string())?;
        if !swapped {
            rustix::mount::fsconfig_set_flag(context.as_fd(), "noswap")?;
        }
        rustix::mount::fsconfig_create(context.as_fd())?;
        Ok(rustix::mount::fsmount(context.as_fd(), FsMountFlags::FSMOUNT_CLOEXEC, attributes)?)
    };
    make(false).or_else(|_| make(true))
}

fn number(resource: Resource) -> libc::__rlimit_resource_t {
    match resource {
        Resource::Core => libc::RLIMIT_CORE,
        Resource::Cpu => libc::RLIMIT_CPU,
        Resource::Data => libc::RLIMIT_DATA,
        Resource::Fsize => libc::RLIMIT_FSIZE,
        Resource::Memlock => libc::RLIMIT_MEMLOCK,
        Resource::Msgqueue => libc::RLIMIT_MSGQUEUE,
        Resource::Nice => libc::RLIMIT_NICE,
        Resource::Nofile => libc::RLIMIT_NOFILE,
        Resource::Nproc => libc::RLIMIT_NPROC,
        Resource::Rss => libc::RLIMIT_RSS,
        Resource::Rtprio => libc::RLIMIT_RTPRIO,
        Resource::Rttime => libc::RLIMIT_RTTIME,
        Resource::Sigpending => libc::RLIMIT_SIGPENDING,
        Resource::Stack => libc::RLIMIT_STACK,
    }
}
