//! What lies in a cache directory.

use std::collections::{BTreeMap, HashMap};
use std::io;
use std::path::PathBuf;
use std::time::SystemTime;

use rustix::fs::{FileType, Stat};

use crate::builder::embedded::kept::{self, STATE_LIMIT};
use crate::builder::embedded::pack::PackedLayer;
use crate::builder::embedded::solve::Record;
use crate::store::{BlobState, Surveyed};
use crate::sys::directory::{Claim, Directory, modified, room};

use super::order::{LastUse, Link, last_uses};
use super::{Kind, Stay};

/// Device and number of a file that has several names.
pub(super) type Inode = (u64, u64);

/// From when on something counts as used, by the file system's clock.
#[derive(Clone, Copy, Debug)]
pub(super) struct Horizon {
    /// When the oldest living process began.
    pub(super) in_use: SystemTime,
    /// That, or when the time began for which things are kept, whichever was earlier.
    pub(super) recent: SystemTime,
}

impl Horizon {
    pub(super) fn hold(&self, used: SystemTime) -> Option<Stay> {
        match used {
            used if used >= self.in_use => Some(Stay::InUse),
            used if used >= self.recent => Some(Stay::Recent),
            _ => None,
        }
    }
}

/// Something that takes room.
#[derive(Debug)]
pub(super) struct Item {
    pub(super) kind: Kind,
    pub(super) name: String,
    /// Bytes of files with one name, and of directories.
    pub(super) own: u64,
    /// Files with several names, once each: these may be in several items.
    pub(super) linked: Vec<(Inode, u64)>,
    pub(super) used: SystemTime,
    /// Of equally old ones, those with the smaller distance go first.
    pub(super) distance: usize,
    /// Whether nothing can lead to it.
    pub(super) unneeded: bool,
    /// Why it stays whatever the limit is.
    pub(super) hold: Option<Stay>,
    /// Number of the builder's directory that it lies in.
    pub(super) home: usize,
    pub(super) place: Place,
}

/// Where something lies, and what goes with it.
#[derive(Debug)]
pub(super) enum Place {
    /// It is never deleted.
    Fixed,
    /// A file that the store deletes.
    Blob(PathBuf),
    /// A layer's directory, with the records that lead to it.
    Layer { directory: &'static str, name: String, records: Vec<RecordFile> },
    /// A record alone.
    Record(RecordFile),
    /// A cache mount's directory in that of its identity.
    CacheMount { identity: String, name: String },
    /// An entry of a directory of the builder's.
    Entry { directory: &'static str, name: String },
    /// A kept step, which bears its lock.
    Step(String),
    /// A draft of a lease that is dead.
    Draft(String),
}

/// The file of a record.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) struct RecordFile {
    /// Directory in `pkgbuild/v1`, and in that, if it is divided.
    pub(super) directory: (&'static str, Option<String>),
    pub(super) name: String,
}

/// What lies in a cache directory.
pub(super) struct Inventory {
    /// The builder's directories: that of root's form of layers, then those of others (`form`).
    pub(super) homes: Vec<Directory>,
    pub(super) items: Vec<Item>,
    /// Bytes of disk that everything takes.
    pub(super) total: u64,
}

/// Records are small; what is larger is none.
pub(super) const RECORD_LIMIT: u64 = 64 << 10;

/// Name of what every cache consists of.
const PARTS: &str = "directories, names and locks";

/// Reads an inventory.
struct Reader<'a> {
    horizon: Horizon,
    blobs: &'a [Surveyed],
    items: Vec<Item>,
    homes: Vec<Directory>,
    /// Bytes of what every cache consists of.
    parts: u64,
}

impl Inventory {
    /// Reads what lies below `root`, the cache directory, whose blobs are `blobs`.
    pub(super) fn read(root: &Directory, blobs: &[Surveyed], horizon: Horizon) -> io::Result<Self> {
        let mut reader = Reader { horizon, blobs, items: Vec::new(), homes: Vec::new(), parts: 0 };
        reader.root(root)?;
        let Reader { mut items, homes, parts, .. } = reader;
        items.push(fixed(Kind::Other, PARTS.to_owned(), (parts, Vec::new()), Stay::Part));
        let mut linked: HashMap<Inode, u64> = HashMap::new();
        let own: u64 = items.iter().map(|item| item.own).sum();
        linked.extend(items.iter().flat_map(|item| item.linked.iter().copied()));
        Ok(Self { homes, total: own + linked.values().sum::<u64>(), items })
    }
}

fn fixed(kind: Kind, name: String, (own, linked): (u64, Vec<(Inode, u64)>), why: Stay) -> Item {
    let used = SystemTime::UNIX_EPOCH;
    Item { kind, name, own, linked, used, distance: 0, unneeded: false, hold: Some(why), home: 0, place: Place::Fixed }
}

/// Returns the room that `name` and all below it take: what only it can have, and what has other names.
fn measure(directory: &Directory, name: &str) -> io::Result<(u64, Vec<(Inode, u64)>)> {
    let (mut own, mut linked) = (0, BTreeMap::new());
    directory.measure(name, &mut |stat| {
        if stat.st_nlink > 1 && !FileType::from_raw_mode(stat.st_mode).is_dir() {
            linked.insert((stat.st_dev, stat.st_ino), room(stat));
        } else {
            own += room(stat);
        }
    })?;
    Ok((own, linked.into_iter().collect()))
}

impl Reader<'_> {
    fn part(&mut self, stat: &Stat) {
        self.parts += room(stat);
    }

    /// Counts the directory `name` itself as a part of the cache, and opens it.
    fn open(&mut self, parent: &Directory, name: &str) -> io::Result<Option<Directory>> {
        let Some(directory) = parent.directory(name)? else { return Ok(None) };
        self.part(&rustix::fs::fstat(directory.descriptor())?);
        Ok(Some(directory))
    }

    fn unknown(&mut self, directory: &Directory, name: &[u8], shown: String) -> io::Result<()> {
        // A name that is no text can be measured by nobody who asks for it as text; it is nothing of ours.
        let Ok(text) = std::str::from_utf8(name) else { return Ok(()) };
        let measured = measure(directory, text)?;
        self.items.push(fixed(Kind::Other, shown, measured, Stay::Unknown));
        Ok(())
    }

    fn root(&mut self, root: &Directory) -> io::Result<()> {
        self.part(&rustix::fs::fstat(root.descriptor()).map_err(io::Error::from)?);
        for found in root.entries()? {
            match found.text() {
                Some("blobs") => self.blobs(root)?,
                Some("pkgbuild") => {
                    let Some(own) = self.open(root, "pkgbuild")? else { continue };
                    for found in own.entries()? {
                        match found.text() {
                            Some("v1") => {
                                if let Some(home) = self.open(&own, "v1")? {
                                    self.home(home, String::new())?;
                                }
                            }
                            _ => self.unknown(&own, &found.name, format!("pkgbuild/{}", String::from_utf8_lossy(&found.name)))?,
                        }
                    }
                }
                Some("index.json" | "oci-layout" | ".lock") => {
                    if let Some(stat) = found.text().map(|name| root.stat(name)).transpose()?.flatten() {
                        self.part(&stat);
                    }
                }
                _ => self.unknown(root, &found.name, String::from_utf8_lossy(&found.name).into_owned())?,
            }
        }
        Ok(())
    }

    fn blobs(&mut self, root: &Directory) -> io::Result<()> {
        let Some(blobs) = self.open(root, "blobs")? else { return Ok(()) };
        for found in blobs.entries()? {
            if let (true, Some(name)) = (found.is_directory, found.text()) {
                self.open(&blobs, name)?;
            }
        }
        for blob in self.blobs {
            let hold = match blob.state {
                BlobState::Needed => Some(Stay::Named),
                BlobState::Young => Some(Stay::Young),
                BlobState::Free => None,
            };
            self.items.push(Item {
                kind: Kind::Blob,
                name: blob.name.clone(),
                own: blob.room,
                linked: Vec::new(),
                used: blob.used,
                distance: 0,
                unneeded: hold.is_none(),
                hold,
                home: 0,
                place: Place::Blob(blob.path.clone()),
            });
        }
        Ok(())
    }

    /// Reads a directory of the builder's, whose things are called `prefix…`.
    fn home(&mut self, home: Directory, prefix: String) -> io::Result<()> {
        let first = self.items.len();
        // Before the leases: whoever made a draft that is seen here, and whose lease is dead then, is gone.
        let drafts = self.open(&home, "drafts")?;
        let drafted = drafts.as_ref().map_or(Ok(Vec::new()), Directory::entries)?;
        let mut forms = Vec::new();
        for found in home.entries()? {
            match found.text() {
                Some("layers") => {
                    let held = self.steps(&home)?;
                    self.layers(&home, &held)?;
                }
                // These were read with the layers, or above.
                Some("layers-bare" | "steps" | "keys" | "unpacked" | "drafts") => {}
                Some("packs") => self.packs(&home)?,
                Some("mounts") => self.mounts(&home)?,
                Some("logs") => self.entries(&home, ("logs", Kind::Log))?,
                Some("files") => self.entries(&home, ("files", Kind::FileHashes))?,
                Some("leases" | "lock" | "unsynced" | "empty") => {
                    home.measure(found.text().unwrap_or_default(), &mut |stat| self.parts += room(stat))?;
                }
                Some(name @ ("collect.lock" | "form")) => {
                    if let Some(stat) = home.stat(name)? {
                        self.part(&stat);
                    }
                }
                Some("forms") if prefix.is_empty() => {
                    let Some(directory) = self.open(&home, "forms")? else { continue };
                    for found in directory.entries()? {
                        let Some(name) = found.text().filter(|_| found.is_directory) else { continue };
                        forms.extend(self.open(&directory, name)?.map(|form| (form, format!("{name}/"))));
                    }
                }
                _ => self.unknown(&home, &found.name, format!("pkgbuild/v1/{}", String::from_utf8_lossy(&found.name)))?,
            }
        }
        let leases = home.directory("leases")?;
        for found in drafted {
            let (Some(drafts), Some(name)) = (&drafts, found.text()) else { continue };
            let (own, linked) = measure(drafts, name)?;
            let owner = name.rsplit_once('.').map_or(name, |(owner, _)| owner);
            let held = match &leases {
                Some(leases) => matches!(leases.claim(owner)?, Claim::Held),
                None => false,
            };
            self.items.push(Item {
                kind: Kind::Draft,
                name: name.to_owned(),
                own,
                linked,
                used: drafts.stat(name)?.map_or(SystemTime::UNIX_EPOCH, |stat| modified(&stat)),
                distance: 0,
                unneeded: !held,
                hold: held.then_some(Stay::InUse),
                home: 0,
                place: Place::Draft(name.to_owned()),
            });
        }
        for item in &mut self.items[first..] {
            item.home = self.homes.len();
            item.name.insert_str(0, &prefix);
        }
        self.homes.push(home);
        forms.into_iter().try_for_each(|(form, prefix)| self.home(form, prefix))
    }

    /// Takes every file of a directory as a thing of its own.
    fn entries(&mut self, home: &Directory, (directory, kind): (&'static str, Kind)) -> io::Result<()> {
        let Some(opened) = self.open(home, directory)? else { return Ok(()) };
        for found in opened.entries()? {
            let Some(name) = found.text() else { continue };
            let Some(stat) = opened.stat(name)? else { continue };
            let (own, linked) = measure(&opened, name)?;
            let used = modified(&stat);
            self.items.push(Item {
                kind,
                name: name.to_owned(),
                own,
                linked,
                used,
                distance: 0,
                unneeded: false,
                hold: self.horizon.hold(used),
                home: 0,
                place: Place::Entry { directory, name: name.to_owned() },
            });
        }
        Ok(())
    }

    /// Takes records of packed layers: they are worth something while their blob is there.
    fn packs(&mut self, home: &Directory) -> io::Result<()> {
        let Some(packs) = self.open(home, "packs")? else { return Ok(()) };
        let blobs: HashMap<&str, &Surveyed> = self.blobs.iter().map(|blob| (blob.name.as_str(), blob)).collect();
        for found in packs.entries()? {
            let Some(name) = found.text() else { continue };
            let Some(stat) = packs.stat(name)? else { continue };
            let bytes = packs.read(name, RECORD_LIMIT)?.unwrap_or_default();
            let packed: Option<PackedLayer> = serde_json::from_slice(&bytes).ok();
            let digest = packed.map(|packed| packed.descriptor.digest.to_string());
            let stays = digest.is_some_and(|digest| blobs.get(digest.as_str()).is_some_and(|b| b.state != BlobState::Free));
            let used = modified(&stat);
            self.items.push(Item {
                kind: Kind::Record,
                name: format!("packs/{name}"),
                own: room(&stat),
                linked: Vec::new(),
                used,
                distance: 0,
                unneeded: !stays,
                hold: if stays { Some(Stay::Part) } else { self.horizon.hold(used) },
                home: 0,
                place: Place::Record(RecordFile { directory: ("packs", None), name: name.to_owned() }),
            });
        }
        Ok(())
    }

    /// Takes steps that failed and were kept. Returns when each was used, and the layers that it stands on.
    fn steps(&mut self, home: &Directory) -> io::Result<Vec<(SystemTime, Vec<String>)>> {
        let mut held = Vec::new();
        let Some(steps) = self.open(home, "steps")? else { return Ok(held) };
        for found in steps.entries()? {
            let Some(name) = found.text() else { continue };
            let Some(step) = steps.directory(name)? else { continue };
            let (own, linked) = measure(&steps, name)?;
            let used = step.stat("lock")?.map_or(SystemTime::UNIX_EPOCH, |stat| modified(&stat));
            let hold = match step.claim("lock")? {
                Claim::Held => Some(Stay::InUse),
                Claim::Absent | Claim::Ours(_) => self.horizon.hold(used),
            };
            let state = step.read("state.json", STATE_LIMIT)?.unwrap_or_default();
            held.push((used, kept::needs(&state).unwrap_or_default()));
            self.items.push(Item {
                kind: Kind::FailedStep,
                name: name.to_owned(),
                own,
                linked,
                used,
                distance: 0,
                unneeded: false,
                hold,
                home: 0,
                place: Place::Step(name.to_owned()),
            });
        }
        Ok(held)
    }

    fn mounts(&mut self, home: &Directory) -> io::Result<()> {
        let Some(mounts) = self.open(home, "mounts")? else { return Ok(()) };
        for found in mounts.entries()? {
            let Some(identity) = found.text() else { continue };
            if !found.is_directory {
                self.unknown(&mounts, &found.name, format!("pkgbuild/v1/mounts/{identity}"))?;
                continue;
            }
            let Some(directory) = self.open(&mounts, identity)? else { continue };
            for found in directory.entries()? {
                let Some(name) = found.text() else { continue };
                let Some(stat) = directory.stat(name)? else { continue };
                if !found.is_directory {
                    self.part(&stat);
                    continue;
                }
                let lock = format!("{name}.lock");
                let used = directory.stat(&lock)?.map_or_else(|| modified(&stat), |stat| modified(&stat));
                let hold = match directory.claim(&lock)? {
                    Claim::Held => Some(Stay::InUse),
                    Claim::Absent | Claim::Ours(_) => self.horizon.hold(used),
                };
                let (own, linked) = measure(&directory, name)?;
                self.items.push(Item {
                    kind: Kind::CacheMount,
                    name: format!("{identity}/{name}"),
                    own,
                    linked,
                    used,
                    distance: 0,
                    unneeded: false,
                    hold,
                    home: 0,
                    place: Place::CacheMount { identity: identity.to_owned(), name: name.to_owned() },
                });
            }
        }
        Ok(())
    }

    fn layers(&mut self, home: &Directory, steps: &[(SystemTime, Vec<String>)]) -> io::Result<()> {
        let (mut positions, mut own_use): (HashMap<String, Vec<usize>>, Vec<SystemTime>) = Default::default();
        let first = self.items.len();
        for directory in ["layers", "layers-bare"] {
            let Some(layers) = self.open(home, directory)? else { continue };
            for found in layers.entries()? {
                let Some(name) = found.text() else { continue };
                let (own, linked) = measure(&layers, name)?;
                let changes = layers.directory(name)?.map(|layer| layer.stat("changes")).transpose()?.flatten();
                let used = changes.map_or(SystemTime::UNIX_EPOCH, |stat| modified(&stat));
                positions.entry(name.to_owned()).or_default().push(own_use.len());
                own_use.push(used);
                self.items.push(Item {
                    kind: Kind::Layer,
                    name: name.to_owned(),
                    own,
                    linked,
                    used,
                    distance: 0,
                    unneeded: false,
                    hold: None,
                    home: 0,
                    place: Place::Layer { directory, name: name.to_owned(), records: Vec::new() },
                });
            }
        }
        let mut links = Vec::new();
        for (file, stat, bytes) in self.records(home)? {
            let link = match file.directory.0 {
                "keys" => Record::parse(&bytes).map(|record| (record.layer, record.tree, record.parent)),
                _ => unpacked(&bytes),
            };
            let known = link.and_then(|(layer, tree, parent)| Some((positions.get(&layer)?, tree, parent)));
            let (used, room) = (modified(&stat), room(&stat));
            match known {
                Some((layers, tree, parent)) => {
                    let link = |layer: &usize| {
                        let used = used.max(own_use[*layer]);
                        Link { layer: *layer, tree: tree.clone(), parent: parent.clone(), used }
                    };
                    links.extend(layers.iter().map(link));
                    let item = &mut self.items[first + layers[0]];
                    item.own += room;
                    if let Place::Layer { records, .. } = &mut item.place {
                        records.push(file);
                    }
                }
                // Its layer is gone, or it is of another version.
                None => self.items.push(Item {
                    kind: Kind::Record,
                    name: format!("{}/{}", file.directory.0, file.name),
                    own: room,
                    linked: Vec::new(),
                    used,
                    distance: 0,
                    unneeded: true,
                    hold: self.horizon.hold(used),
                    home: 0,
                    place: Place::Record(file),
                }),
            }
        }
        let stack = |layers: &Vec<String>| layers.iter().filter_map(|layer| positions.get(layer)).flatten().copied().collect();
        let held: Vec<(SystemTime, Vec<usize>)> = steps.iter().map(|(used, layers)| (*used, stack(layers))).collect();
        let last = last_uses(own_use.len(), &links, &held);
        for (number, last) in last.into_iter().enumerate() {
            let item = &mut self.items[first + number];
            item.unneeded = last.is_none();
            LastUse { at: item.used, distance: item.distance } = last.unwrap_or(LastUse { at: item.used, distance: 0 });
            item.hold = self.horizon.hold(item.used);
        }
        Ok(())
    }

    /// Reads the records of steps and of unpacked layers.
    fn records(&mut self, home: &Directory) -> io::Result<Vec<(RecordFile, Stat, Vec<u8>)>> {
        let mut records = Vec::new();
        let mut read = |directory: &Directory, place: (&'static str, Option<String>)| -> io::Result<()> {
            for found in directory.entries()? {
                let Some(name) = found.text().filter(|_| !found.is_directory) else { continue };
                let Some(stat) = directory.stat(name)? else { continue };
                let bytes = directory.read(name, RECORD_LIMIT)?.unwrap_or_default();
                records.push((RecordFile { directory: place.clone(), name: name.to_owned() }, stat, bytes));
            }
            Ok(())
        };
        if let Some(unpacked) = self.open(home, "unpacked")? {
            read(&unpacked, ("unpacked", None))?;
        }
        if let Some(keys) = self.open(home, "keys")? {
            for found in keys.entries()? {
                let Some(name) = found.text().filter(|_| found.is_directory) else { continue };
                if let Some(directory) = self.open(&keys, name)? {
                    read(&directory, ("keys", Some(name.to_owned())))?;
                }
            }
        }
        Ok(records)
    }
}

/// Reads the record of an unpacked layer: layer, tree with it, tree without it. Older ones have the layer alone.
fn unpacked(bytes: &[u8]) -> Option<(String, String, String)> {
    let mut lines = std::str::from_utf8(bytes).ok()?.lines();
    let mut line = || lines.next().map(str::to_owned);
    Some((line()?, line().unwrap_or_default(), line().unwrap_or_default()))
}

/// Returns the layer that a record leads to.
pub(super) fn layer_of(file: &RecordFile, bytes: &[u8]) -> Option<String> {
    match file.directory.0 {
        "keys" => Record::parse(bytes).map(|record| record.layer),
        _ => unpacked(bytes).map(|(layer, _, _)| layer),
    }
}
