//! Steps with a single user id: the ids that a step gives to files and to itself are written down instead of given.
//!
//! In a user namespace with one id every file on disk belongs to that id, and nobody can become anybody else. So the
//! supervisor is asked about each call that is about ids (seccomp's user notifications): it writes down owners of files
//! and ids of processes, and answers from what is written down.
//!
//! | calls | answer |
//! |---|---|
//! | `chown` and its kin | the owner goes into an attribute of the file; of links, pipes and sockets into a table |
//! | `stat` and its kin | filled in with the true owner where that is not 0:0 |
//! | `setuid`, `getuid`, `setgroups`, … | as the kernel would, by ids that are kept for each process |
//! | making files, as somebody else than who the step runs as | the supervisor makes the file and writes down its owner |
//! | `execve` of set-user-id programs | the process gets the ids of the program's owner |
//!
//! What is answered can be wrong when a step changes memory or files while it waits for the answer; it can only deceive
//! itself. What the supervisor opens is opened below the step's own root, and changed only through what was opened.

mod call;
mod credentials;
mod listener;
mod owners;
mod target;

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::io::Errno;

use super::RunStep;
use call::{Call, Layout, Place};
use credentials::{Credentials, Processes};
use listener::Listener;
use owners::FileOwners;
use target::Target;

pub(super) use call::{NOTIFIED_COMPAT, NOTIFIED_NATIVE, Notified, When};
pub(super) use listener::{receive, send};
pub(super) use owners::record_owner;

/// Answers a step's calls about ids.
pub(super) struct Overseer {
    listener: Listener,
    ids: TrueIds,
}

/// What is written down.
struct TrueIds {
    processes: Processes,
    files: FileOwners,
}

/// What is answered to a call.
enum Answer {
    /// The kernel may do it.
    Continue,
    /// It is done; this is what it returns.
    Done(i64),
    /// It fails.
    Failed(Errno),
    /// It is done, and returns this file as a new descriptor, closed by `execve` or not.
    File(OwnedFd, bool),
}

impl Overseer {
    /// Starts answering what `listener` asks; `root` is any path to the root that the step has.
    pub(super) fn new(listener: OwnedFd, step: &RunStep) -> io::Result<Self> {
        let user = &step.user;
        Ok(Self {
            listener: Listener::new(listener),
            ids: TrueIds {
                processes: Processes::new(Credentials::new(user.uid, user.gid, &user.groups)),
                files: FileOwners::new(step)?,
            },
        })
    }

    /// Returns what becomes readable when a call waits for an answer.
    pub(super) fn waits_on(&self) -> BorrowedFd<'_> {
        self.listener.file()
    }

    /// Answers one call.
    ///
    /// # Errors
    /// When the kernel cannot be talked to about it any more.
    pub(super) fn serve(&mut self) -> io::Result<()> {
        let Some(request) = self.listener.next()? else { return Ok(()) };
        let target = Target { thread: request.pid, arguments: request.arguments };
        let answer = match call::find(request.architecture, request.number) {
            None => Ok(Answer::Continue),
            Some(call) => self.ids.answer(call, &target, &|| self.listener.is_waiting(request.id)),
        };
        match answer {
            // What cannot be looked at is the kernel's to judge.
            Ok(Answer::Continue) | Err(_) => self.listener.proceed(request.id),
            Ok(Answer::Done(value)) => self.listener.answer(request.id, value, None),
            Ok(Answer::Failed(errno)) => self.listener.answer(request.id, 0, Some(errno)),
            Ok(Answer::File(file, close_on_exec)) => self.listener.answer_file(request.id, file.as_fd(), close_on_exec),
        }
    }

    /// Leaves what the layer's maker must know beside the upper directory.
    ///
    /// # Errors
    /// When it cannot be written.
    pub(super) fn finish(&self, step: &RunStep) -> io::Result<()> {
        self.ids.files.write(step)
    }
}

impl TrueIds {
    fn answer(&mut self, call: Call, target: &Target, waiting: &dyn Fn() -> bool) -> io::Result<Answer> {
        let Self { processes, files, .. } = self;
        Ok(match call {
            Call::Chown { place, owner } => {
                let wanted = (target.id(owner), target.id(owner + 1));
                let file = target.open(place)?;
                let credentials = processes.of(target.thread);
                // The thread may be gone and its number another's: then what was opened is not what was meant.
                if !waiting() {
                    return Ok(Answer::Continue);
                }
                outcome(files.chown(&file, wanted, &credentials))
            }
            Call::Stat { place, buffer, layout } => match files.seen(&target.open(place)?)? {
                None => Answer::Continue,
                Some(seen) if waiting() => {
                    let bytes = match layout {
                        Layout::Native => seen.native()?,
                        Layout::I386 => seen.i386()?,
                    };
                    target.write(target.argument(buffer), &bytes)?;
                    Answer::Done(0)
                }
                Some(_) => Answer::Continue,
            },
            Call::Statx => {
                let place = Place::At { directory: 0, path: 1, flags: Some(2) };
                match files.seen(&target.open(place)?)? {
                    Some(seen) if waiting() => {
                        target.write(target.argument(4), &seen.extended(target.argument(3) as u32)?)?;
                        Answer::Done(0)
                    }
                    _ => Answer::Continue,
                }
            }
            Call::Ids(ids) => match processes.change_or_tell(ids, target)? {
                Ok(value) => Answer::Done(value),
                Err(errno) => Answer::Failed(errno),
            },
            Call::Execute { place } => {
                if let Some(owner) = files.becomes(&target.open(place)?)? {
                    processes.executes(target.thread, owner);
                }
                Answer::Continue
            }
            Call::Open { .. } | Call::MakeDirectory { .. } | Call::Link { .. } | Call::MakeNode { .. } => {
                let credentials = processes.of(target.thread);
                if credentials.is_owner(files.new_owner()) {
                    return Ok(Answer::Continue);
                }
                create(call, target, files, (&credentials, waiting))?
            }
        })
    }
}

fn outcome(result: rustix::io::Result<()>) -> Answer {
    match result {
        Ok(()) => Answer::Done(0),
        Err(errno) => Answer::Failed(errno),
    }
}

/// Makes a file for a process that is somebody else than who the step runs as.
fn create(
    call: Call,
    target: &Target,
    files: &mut FileOwners,
    (credentials, waiting): (&Credentials, &dyn Fn() -> bool),
) -> io::Result<Answer> {
    use rustix::fs::{AtFlags, FileType, Mode, OFlags};
    let (Call::Open { place, .. } | Call::MakeDirectory { place, .. } | Call::Link { place, .. } | Call::MakeNode { place, .. }) =
        call
    else {
        return Ok(Answer::Continue);
    };
    let (parent, name) = target.open_parent(place)?;
    // What is there is only opened, or is in the way: both are the kernel's to do.
    if rustix::fs::statat(&parent, &name, AtFlags::SYMLINK_NOFOLLOW).is_ok() || !waiting() {
        return Ok(Answer::Continue);
    }
    let permissions = |mode: u32| -> io::Result<Mode> { Ok(Mode::from_raw_mode(mode & 0o7777 & !target.umask()?)) };
    let owner = credentials.file_owner();
    let made = match call {
        Call::Open { flags, mode, .. } => {
            let flags = OFlags::from_bits_retain(flags.of(target));
            let own = OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
            let file = rustix::fs::openat(&parent, &name, flags | own, permissions(target.argument(mode) as u32)?);
            match file {
                Ok(file) => {
                    files.give_new(&parent, &name, owner)?;
                    return Ok(Answer::File(file, flags.contains(OFlags::CLOEXEC)));
                }
                Err(errno) => Err(errno),
            }
        }
        Call::MakeDirectory { mode, .. } => rustix::fs::mkdirat(&parent, &name, permissions(target.argument(mode) as u32)?),
        Call::Link { text, .. } => rustix::fs::symlinkat(target.text(target.argument(text))?.as_slice(), &parent, &name),
        Call::MakeNode { mode, .. } => {
            let mode = target.argument(mode) as u32;
            match FileType::from_raw_mode(mode) {
                FileType::CharacterDevice | FileType::BlockDevice => return Ok(Answer::Continue),
                kind => rustix::fs::mknodat(&parent, &name, kind, permissions(mode)?, 0),
            }
        }
        _ => return Ok(Answer::Continue),
    };
    if made.is_ok() {
        files.give_new(&parent, &name, owner)?;
    }
    Ok(outcome(made))
}
