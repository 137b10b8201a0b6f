//! Deleting. Each thing is looked at once more when nobody can take it into use, and moved out of the way in one step
//! before its files are deleted one by one: nobody ever finds half of it.

use std::io;
use std::time::Duration;

use rustix::fs::Mode;
use rustix::io::Errno;

use crate::builder::embedded::snapshot::gate::Gate;
use crate::store::Store;
use crate::sys::directory::{Claim, Directory, modified};
use crate::sys::fs::{Lock, LockKind};

use super::choose::Chosen;
use super::inventory::{Horizon, Place, RECORD_LIMIT, RecordFile, layer_of};
use super::{CollectError, Fate, Go, Stay};

/// Deletes what was chosen.
pub(super) struct Sweep<'a> {
    store: &'a Store,
    homes: Vec<Directory>,
    lease: &'a str,
    horizon: Horizon,
    graves: u32,
}

/// What came of trying to delete something.
type Deleted = Result<(), Stay>;

impl<'a> Sweep<'a> {
    /// Returns a sweep of `homes`; what is unfinished when it dies is deleted with `lease`.
    pub(super) fn new(store: &'a Store, homes: Vec<Directory>, lease: &'a str, horizon: Horizon) -> io::Result<Self> {
        for home in &homes {
            match rustix::fs::mkdirat(home.descriptor(), "drafts", Mode::from_raw_mode(0o700)) {
                Ok(()) | Err(Errno::EXIST) => {}
                Err(error) => return Err(error.into()),
            }
        }
        Ok(Self { store, homes, lease, horizon, graves: 0 })
    }

    /// Deletes what is to go. In place of what cannot, the next that may goes, until the limit holds.
    pub(super) fn carry_out(mut self, chosen: &mut Chosen, limit: u64, grace: Duration) -> Result<(), CollectError> {
        // The store knows best what no name needs by now.
        self.store.collect(grace)?;
        for number in chosen.going.clone() {
            let fate = &chosen.items[number].1;
            match fate {
                Fate::Goes(Go::Unneeded) => {}
                _ if chosen.items[number].0.unneeded => continue,
                // More went than was reckoned with.
                Fate::Goes(Go::LeastRecent) => {}
                Fate::Stays(_) if chosen.holds(limit) => continue,
                Fate::Stays(_) => chosen.goes(number),
            }
            if let Err(why) = self.delete(chosen, number) {
                chosen.stays(number, why);
            }
        }
        Ok(())
    }

    fn delete(&mut self, chosen: &Chosen, number: usize) -> Deleted {
        let item = &chosen.items[number].0;
        let result = match &item.place {
            Place::Fixed => return Err(Stay::Part),
            Place::Blob(path) => match fs_err::symlink_metadata(path) {
                Ok(_) => return Err(Stay::Young),
                Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(Ok(())),
                Err(error) => Err(error),
            },
            Place::Layer { directory, name, records } => self.layer(item.home, (directory, name), records),
            Place::Record(file) => self.record(item.home, file),
            Place::CacheMount { identity, name } => self.cache_mount(item.home, identity, name),
            Place::Entry { directory, name } => self.entry(item.home, directory, name),
            Place::Step(name) => self.step(item.home, name),
            Place::Draft(name) => self.draft(item.home, name),
        };
        result.unwrap_or_else(|error| Err(Stay::Failed(error.to_string())))
    }

    /// Opens a directory of a home.
    fn directory(&self, home: usize, name: &str) -> io::Result<Directory> {
        self.homes[home].directory(name)?.ok_or_else(|| io::ErrorKind::NotFound.into())
    }

    fn close(&self, home: usize) -> io::Result<Lock> {
        Gate::of(self.homes[home].path()).close()
    }

    /// Moves `name` out of the way, and returns where it lies then, if it was there.
    fn bury(&mut self, home: usize, directory: &Directory, name: &str) -> io::Result<Option<String>> {
        let drafts = self.directory(home, "drafts")?;
        self.graves += 1;
        let grave = format!("{}.gone-{}", self.lease, self.graves);
        Ok(directory.rename(name, &drafts, &grave)?.then_some(grave))
    }

    fn burn(&self, home: usize, grave: Option<String>) -> io::Result<()> {
        match grave {
            Some(grave) => self.directory(home, "drafts")?.remove(&grave),
            None => Ok(()),
        }
    }

    fn layer(&mut self, home: usize, (directory, name): (&str, &str), records: &[RecordFile]) -> io::Result<Deleted> {
        let layers = self.directory(home, directory)?;
        let closed = self.close(home)?;
        if let Some(layer) = layers.directory(name)?
            && let Some(changes) = layer.stat("changes")?
            && let Some(hold) = self.horizon.hold(modified(&changes))
        {
            return Ok(Err(hold));
        }
        let grave = self.bury(home, &layers, name)?;
        for file in records {
            self.forget(home, file, Some(name))?;
        }
        self.directory(home, "unsynced").and_then(|marks| marks.remove_file(name)).map(drop).or_else(absent)?;
        drop(closed);
        self.burn(home, grave)?;
        Ok(Ok(()))
    }

    fn record(&self, home: usize, file: &RecordFile) -> io::Result<Deleted> {
        let _closed = self.close(home)?;
        let directory = self.directory(home, file.directory.0)?;
        let stat = match &file.directory.1 {
            Some(divided) => directory.directory(divided)?.map(|divided| divided.stat(&file.name)).transpose()?.flatten(),
            None => directory.stat(&file.name)?,
        };
        if let Some(hold) = stat.and_then(|stat| self.horizon.hold(modified(&stat))) {
            return Ok(Err(hold));
        }
        self.forget(home, file, None)?;
        Ok(Ok(()))
    }

    /// Deletes a record, if it still leads to `layer` where one is given; and its directory when that is empty.
    fn forget(&self, home: usize, file: &RecordFile, layer: Option<&str>) -> io::Result<()> {
        let directory = self.directory(home, file.directory.0)?;
        let divided = match &file.directory.1 {
            Some(name) => directory.directory(name)?,
            None => None,
        };
        let place = divided.as_ref().unwrap_or(&directory);
        let leads_there = match layer {
            Some(layer) => {
                place.read(&file.name, RECORD_LIMIT)?.is_some_and(|bytes| layer_of(file, &bytes).as_deref() == Some(layer))
            }
            None => true,
        };
        if leads_there {
            place.remove_file(&file.name)?;
            if let (Some(_), Some(name)) = (&divided, &file.directory.1) {
                directory.remove_empty(name)?;
            }
        }
        Ok(())
    }

    fn cache_mount(&mut self, home: usize, identity: &str, name: &str) -> io::Result<Deleted> {
        let mounts = self.directory(home, "mounts")?;
        let Some(directory) = mounts.directory(identity)? else { return Ok(Ok(())) };
        let lock = format!("{name}.lock");
        let _claim = match directory.claim(&lock)? {
            Claim::Held => return Ok(Err(Stay::InUse)),
            Claim::Absent => None,
            Claim::Ours(file) => {
                if let Some(hold) = self.horizon.hold(file.metadata()?.modified()?) {
                    return Ok(Err(hold));
                }
                Some(file)
            }
        };
        let grave = self.bury(home, &directory, name)?;
        // Whoever waits for the lock sees that it names nothing any more, and makes another.
        directory.remove_file(&lock)?;
        mounts.remove_empty(identity)?;
        self.burn(home, grave)?;
        Ok(Ok(()))
    }

    fn entry(&mut self, home: usize, directory: &str, name: &str) -> io::Result<Deleted> {
        let opened = self.directory(home, directory)?;
        if let Some(hold) = opened.stat(name)?.and_then(|stat| self.horizon.hold(modified(&stat))) {
            return Ok(Err(hold));
        }
        let grave = self.bury(home, &opened, name)?;
        self.burn(home, grave)?;
        Ok(Ok(()))
    }

    fn step(&mut self, home: usize, name: &str) -> io::Result<Deleted> {
        let steps = self.directory(home, "steps")?;
        let Some(step) = steps.directory(name)? else { return Ok(Ok(())) };
        let _claim = match step.claim("lock")? {
            Claim::Held => return Ok(Err(Stay::InUse)),
            claim => claim,
        };
        if let Some(hold) = step.stat("lock")?.and_then(|stat| self.horizon.hold(modified(&stat))) {
            return Ok(Err(hold));
        }
        let grave = self.bury(home, &steps, name)?;
        self.burn(home, grave)?;
        Ok(Ok(()))
    }

    fn draft(&mut self, home: usize, name: &str) -> io::Result<Deleted> {
        let drafts = self.directory(home, "drafts")?;
        let owner = name.rsplit_once('.').map_or(name, |(owner, _)| owner);
        let path = self.homes[home].path().join("leases").join(owner);
        // Held meanwhile, so that no new process takes this name and makes drafts that look the same.
        let Some(abandoned) = Lock::try_acquire(&path, LockKind::Flock)? else { return Ok(Err(Stay::InUse)) };
        let grave = self.bury(home, &drafts, name)?;
        if abandoned.is_at(&path)? {
            self.directory(home, "leases")?.remove_file(owner)?;
        }
        self.burn(home, grave)?;
        Ok(Ok(()))
    }
}

fn absent(error: io::Error) -> io::Result<()> {
    if error.kind() == io::ErrorKind::NotFound { Ok(()) } else { Err(error) }
}
