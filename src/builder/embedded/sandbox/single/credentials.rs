//! Ids of processes, as they would be if there were more than one (credentials(7)).

use std::collections::HashMap;
use std::io;

use rustix::io::Errno;

use super::call::{Ids, Kind};
use super::target::Target;

/// Real, effective, saved and file system id.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
struct Four {
    real: u32,
    effective: u32,
    saved: u32,
    file: u32,
}

impl Four {
    fn all(id: u32) -> Self {
        Self { real: id, effective: id, saved: id, file: id }
    }

    fn has(&self, id: u32) -> bool {
        [self.real, self.effective, self.saved].contains(&id)
    }
}

/// The ids of a process.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) struct Credentials {
    user: Four,
    group: Four,
    groups: Vec<u32>,
}

/// The kernel's limit (`NGROUPS_MAX`).
const GROUPS_LIMIT: u64 = 65_536;

impl Credentials {
    pub(super) fn new(uid: u32, gid: u32, groups: &[u32]) -> Self {
        Self { user: Four::all(uid), group: Four::all(gid), groups: groups.to_vec() }
    }

    /// Returns whether the process may do as it likes with ids.
    pub(super) fn is_root(&self) -> bool {
        self.user.effective == 0
    }

    /// Returns who owns what the process makes.
    pub(super) fn file_owner(&self) -> (u32, u32) {
        (self.user.file, self.group.file)
    }

    pub(super) fn is_owner(&self, owner: (u32, u32)) -> bool {
        self.file_owner() == owner
    }

    /// Returns whether the process may give a file of `owner` to `wanted` (path_resolution(7), chown(2)).
    pub(super) fn may_give(&self, owner: (u32, u32), wanted: (u32, u32)) -> bool {
        let in_group = |gid: u32| gid == owner.1 || gid == self.group.file || self.groups.contains(&gid);
        self.is_root() || (self.user.file == owner.0 && wanted.0 == owner.0 && in_group(wanted.1))
    }

    fn four(&mut self, kind: Kind) -> &mut Four {
        match kind {
            Kind::User => &mut self.user,
            Kind::Group => &mut self.group,
        }
    }

    /// Changes ids as the call says.
    fn change(&mut self, ids: Ids, wanted: [Option<u32>; 3]) -> Result<(), Errno> {
        let root = self.is_root();
        let [first, second, third] = wanted;
        match ids {
            Ids::Set(kind) => {
                let id = first.ok_or(Errno::INVAL)?;
                let four = self.four(kind);
                if root {
                    *four = Four::all(id);
                } else if id == four.real || id == four.saved {
                    (four.effective, four.file) = (id, id);
                } else {
                    return Err(Errno::PERM);
                }
            }
            Ids::SetTwo(kind) => {
                let four = self.four(kind);
                let real_fits = first.is_none_or(|id| id == four.real || id == four.effective);
                if !(root || real_fits && second.is_none_or(|id| four.has(id))) {
                    return Err(Errno::PERM);
                }
                let before = four.real;
                four.real = first.unwrap_or(four.real);
                four.effective = second.unwrap_or(four.effective);
                if first.is_some() || second.is_some_and(|id| id != before) {
                    four.saved = four.effective;
                }
                four.file = four.effective;
            }
            Ids::SetAll(kind) => {
                let four = self.four(kind);
                if !root && wanted.iter().flatten().any(|id| !four.has(*id)) {
                    return Err(Errno::PERM);
                }
                four.real = first.unwrap_or(four.real);
                four.effective = second.unwrap_or(four.effective);
                four.saved = third.unwrap_or(four.saved);
                four.file = four.effective;
            }
            Ids::SetFile(kind) => {
                let four = self.four(kind);
                if let Some(id) = first.filter(|id| root || four.has(*id) || *id == four.file) {
                    four.file = id;
                }
            }
            _ => {}
        }
        Ok(())
    }
}

struct Known {
    credentials: Credentials,
    /// When the thread began, in ticks since the machine did: another thread with its number began later.
    began: u64,
}

/// The ids of all processes of a step.
pub(super) struct Processes {
    first: Credentials,
    /// Of threads that are not, or may not be, as all were at first. Empty until one changes.
    known: HashMap<u32, Known>,
}

impl Processes {
    pub(super) fn new(first: Credentials) -> Self {
        Self { first, known: HashMap::new() }
    }

    /// Returns the ids of a thread: its own if it was seen, else those of who started it.
    pub(super) fn of(&mut self, thread: u32) -> Credentials {
        if self.known.is_empty() {
            return self.first.clone();
        }
        let mut current = thread;
        let mut found = None;
        // A thread inherits from its process, a process from its parent; whose parent is gone is a child of process 1.
        for _ in 0..256 {
            let Some(status) = Status::of(current) else { break };
            if let Some(known) = self.known.get(&current).filter(|known| known.began == status.began) {
                found = Some(known.credentials.clone());
                break;
            }
            current = if status.process == current { status.parent } else { status.process };
            if current == 0 {
                break;
            }
        }
        let credentials = found.unwrap_or_else(|| self.first.clone());
        self.keep(thread, credentials.clone());
        credentials
    }

    fn keep(&mut self, thread: u32, credentials: Credentials) {
        if let Some(status) = Status::of(thread) {
            self.known.insert(thread, Known { credentials, began: status.began });
        }
    }

    /// A thread becomes a program that runs as its owner; `None` where it does not.
    pub(super) fn executes(&mut self, thread: u32, (uid, gid): (Option<u32>, Option<u32>)) {
        let mut credentials = self.of(thread);
        let before = credentials.clone();
        for (four, id) in [(&mut credentials.user, uid), (&mut credentials.group, gid)] {
            four.effective = id.unwrap_or(four.effective);
            (four.saved, four.file) = (four.effective, four.effective);
        }
        if credentials != before {
            self.keep(thread, credentials);
        }
    }

    /// Answers a call about ids: what it returns, or how it fails.
    pub(super) fn change_or_tell(&mut self, ids: Ids, target: &Target) -> io::Result<Result<i64, Errno>> {
        let mut credentials = self.of(target.thread);
        let before = credentials.clone();
        let told = match ids {
            Ids::Real(kind) => i64::from(credentials.four(kind).real),
            Ids::Effective(kind) => i64::from(credentials.four(kind).effective),
            Ids::All(kind) => {
                let four = *credentials.four(kind);
                for (number, id) in (0..).zip([four.real, four.effective, four.saved]) {
                    target.write(target.argument(number), &id.to_ne_bytes())?;
                }
                0
            }
            Ids::Groups => {
                let room = target.argument(0);
                if room > 0 {
                    if room < credentials.groups.len() as u64 {
                        return Ok(Err(Errno::INVAL));
                    }
                    let bytes: Vec<u8> = credentials.groups.iter().flat_map(|gid| gid.to_ne_bytes()).collect();
                    if !bytes.is_empty() {
                        target.write(target.argument(1), &bytes)?;
                    }
                }
                credentials.groups.len() as i64
            }
            Ids::SetGroups => {
                let count = target.argument(0);
                if !credentials.is_root() {
                    return Ok(Err(Errno::PERM));
                }
                if count > GROUPS_LIMIT {
                    return Ok(Err(Errno::INVAL));
                }
                let mut bytes = vec![0; count as usize * 4];
                if count > 0 {
                    target.read(target.argument(1), &mut bytes)?;
                }
                let number = |piece: &[u8]| u32::from_ne_bytes(piece.try_into().expect("pieces of four bytes"));
                credentials.groups = bytes.chunks_exact(4).map(number).collect();
                0
            }
            Ids::SetFile(kind) => {
                let before = i64::from(credentials.four(kind).file);
                let _ = credentials.change(ids, [target.id(0), None, None]);
                before
            }
            Ids::Set(_) | Ids::SetTwo(_) | Ids::SetAll(_) => {
                if let Err(errno) = credentials.change(ids, [target.id(0), target.id(1), target.id(2)]) {
                    return Ok(Err(errno));
                }
                0
            }
        };
        if credentials != before {
            self.keep(target.thread, credentials);
        }
        Ok(Ok(told))
    }
}

/// What `/proc` tells of a thread.
struct Status {
    process: u32,
    parent: u32,
    began: u64,
}

impl Status {
    fn of(thread: u32) -> Option<Self> {
        let status = fs_err::read_to_string(format!("/proc/{thread}/status")).ok()?;
        let field = |name: &str| status.lines().find_map(|line| line.strip_prefix(name)?.trim().parse().ok());
        let stat = fs_err::read_to_string(format!("/proc/{thread}/stat")).ok()?;
        // The name, in brackets, may have brackets and blanks; `starttime` is the 20th field after it (proc_pid_stat(5)).
        let began = stat.rsplit_once(')')?.1.split_whitespace().nth(19)?.parse().ok()?;
        Some(Self { process: field("Tgid:")?, parent: field("PPid:")?, began })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn some(ids: [u32; 3]) -> [Option<u32>; 3] {
        ids.map(|id| (id != u32::MAX).then_some(id))
    }

    const NO: u32 = u32::MAX;

    #[test]
    fn root_becomes_anybody_and_nobody_becomes_root_again() {
        let mut ids = Credentials::new(0, 0, &[]);
        ids.change(Ids::Set(Kind::Group), some([50, NO, NO])).expect("root");
        ids.change(Ids::Set(Kind::User), some([1000, NO, NO])).expect("root");
        assert_eq!((ids.file_owner(), ids.is_root()), ((1000, 50), false));
        for call in [Ids::Set(Kind::User), Ids::SetTwo(Kind::User), Ids::SetAll(Kind::User), Ids::Set(Kind::Group)] {
            assert_eq!(ids.change(call, some([0, NO, NO])), Err(Errno::PERM), "{call:?}");
        }
        ids.change(Ids::SetFile(Kind::User), some([0, NO, NO])).expect("never fails");
        assert_eq!(ids.file_owner(), (1000, 50));
    }

    #[test]
    fn a_saved_id_can_be_taken_up_again() {
        let mut ids = Credentials::new(0, 0, &[]);
        ids.change(Ids::SetAll(Kind::User), some([NO, 1000, NO])).expect("root");
        assert_eq!((ids.user.real, ids.user.effective, ids.user.saved, ids.user.file), (0, 1000, 0, 1000));
        assert_eq!(ids.change(Ids::SetAll(Kind::User), some([NO, 7, NO])), Err(Errno::PERM));
        ids.change(Ids::Set(Kind::User), some([0, NO, NO])).expect("saved");
        assert!(ids.is_root());
        ids.change(Ids::SetTwo(Kind::User), some([1, 2, NO])).expect("root");
        assert_eq!((ids.user.real, ids.user.effective, ids.user.saved, ids.user.file), (1, 2, 2, 2));
    }

    #[test]
    fn only_root_gives_files_away() {
        let user = Credentials::new(1000, 1000, &[50]);
        assert!(user.may_give((1000, 1000), (1000, 50)) && user.may_give((1000, 1000), (1000, 1000)));
        assert!(!user.may_give((1000, 1000), (0, 1000)) && !user.may_give((1000, 1000), (1000, 7)));
        assert!(!user.may_give((0, 0), (0, 0)));
        assert!(Credentials::new(0, 7, &[]).may_give((1000, 1000), (3, 4)));
    }
}
