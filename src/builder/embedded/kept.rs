//! Steps that failed and were kept: listed, entered, removed.
//!
//! ```text
//! <home>/steps/<id>/state.json   what the step was and ran with (0600); written before the directory gets its name
//!                  /fs           what it had changed until it failed, in overlay form
//!                  /script/      the script of a heredoc, when it had one
//!                  /lock         flock: held while somebody is inside; its modification time says when that was last
//! ```
//! The state begins with `"type": "pkgbuild-step 1"`; what has another type is refused. No secret is in it: secrets, agents and
//! proxies are named, and are not there when the step is entered.

use std::collections::BTreeSet;
use std::io;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use super::sandbox::{Access, Attached, Exit, Given, MountSource, RootForm, RootFs, RunStep, Sandbox, SandboxError};
use super::snapshot::gate::mark_used;
use super::snapshot::{Draft, SnapshotError, Snapshots};
use super::tree::LayerId;
use crate::builder::StepName;
use crate::store::Store;
use crate::sys::directory::Directory;
use crate::sys::fs::{Lock, LockKind, sync_directory, write_atomic};

/// The type of a state that this version reads.
const TYPE: &str = "pkgbuild-step 1";

/// More is no state of a step.
pub(super) const STATE_LIMIT: u64 = 16 << 20;

/// What a kept step was.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct KeptStep {
    #[serde(rename = "type")]
    kind: String,
    /// Its name among the kept steps.
    pub id: String,
    /// The package.
    pub package: String,
    /// Number of the step in its Dockerfile's build.
    pub number: usize,
    /// The instruction.
    pub text: String,
    /// How it ended, as a phrase.
    pub outcome: String,
    /// What it ran with and is not given again, by name.
    pub not_given: Vec<String>,
    /// The layers that it stood on, lowest first.
    layers: Vec<String>,
    /// All layers that are needed to enter it.
    needs: Vec<String>,
    run: RunStep,
}

impl KeptStep {
    /// Returns the platform whose code it ran.
    pub fn platform(&self) -> &crate::oci::Platform {
        &self.run.platform
    }
}

/// Why a kept step cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum KeptError {
    /// There is none of this id.
    #[error("no step `{0}` is kept")]
    Absent(String),
    /// What is kept is of another version, or no step's.
    #[error("`{}` is not the state of a step that this version keeps (found type `{found}`)", path.display())]
    Foreign {
        /// The file.
        path: PathBuf,
        /// Its type, as far as it has one.
        found: String,
    },
    /// Somebody is inside.
    #[error("the step `{0}` is in use by another process")]
    InUse(String),
    /// A layer below it was deleted.
    #[error("the step `{0}` cannot be entered: a layer that it stands on is no longer in the cache")]
    LayersGone(String),
    /// The layers cannot be used.
    #[error(transparent)]
    Snapshots(#[from] SnapshotError),
    /// A file cannot be read or written.
    #[error(transparent)]
    Io(#[from] io::Error),
    /// The sandbox cannot be made, or not be told what to do.
    #[error(transparent)]
    Sandbox(#[from] SandboxError),
}

/// What is to be kept of a step, besides its files.
pub(super) struct Failed<'a> {
    pub(super) package: &'a str,
    pub(super) step: &'a StepName,
    pub(super) outcome: &'a str,
    pub(super) run: &'a RunStep,
    /// Names of what it is not given again.
    pub(super) not_given: Vec<String>,
    /// The directory of its script on this machine.
    pub(super) script: Option<&'a Path>,
}

/// Keeps a failed step, and returns its id. Nothing may be mounted on the draft any more.
///
/// # Errors
/// When its files cannot be moved or its state not be written; the draft is deleted then.
pub(super) fn keep(snapshots: &Snapshots, draft: Draft, failed: &Failed<'_>) -> io::Result<String> {
    let steps = snapshots.home().join("steps");
    fs_err::create_dir_all(&steps)?;
    fs_err::set_permissions(&steps, std::os::unix::fs::PermissionsExt::from_mode(0o700))?;
    let directory = draft.directory().to_owned();
    let unique = format!("{}\n{:?}", directory.display(), std::time::SystemTime::now());
    let id = blake3::hash(unique.as_bytes()).to_hex()[..10].to_owned();
    let target = steps.join(&id);
    // What the sandbox made beside the files.
    let opened = Directory::open(&directory)?;
    for found in opened.entries()? {
        if let Some(name) = found.text().filter(|name| *name != "fs") {
            opened.remove(name)?;
        }
    }
    let mut run = failed.run.clone();
    run.given = Given { hosts: run.given.hosts, ulimits: run.given.ulimits, ..Given::default() };
    if let Some(script) = failed.script {
        fs_err::create_dir(directory.join("script"))?;
        for entry in fs_err::read_dir(script)? {
            let entry = entry?;
            // With its permissions.
            fs_err::copy(entry.path(), directory.join("script").join(entry.file_name()))?;
        }
        for mount in &mut run.mounts {
            if let MountSource::Path { path, .. } = &mut mount.source
                && path == script
            {
                *path = target.join("script");
            }
        }
    }
    let layers: Vec<String> = draft.parent().layers.iter().map(LayerId::to_string).collect();
    let mut needs: BTreeSet<String> = layers.iter().cloned().collect();
    for mount in &run.mounts {
        if let MountSource::Layers { lowers, .. } = &mount.source {
            let id = |lower: &PathBuf| lower.parent()?.file_name()?.to_str().map(str::to_owned);
            needs.extend(lowers.iter().filter_map(id).filter(|id| id.parse::<LayerId>().is_ok()));
        }
    }
    run.root = root(&target, Vec::new());
    let state = KeptStep {
        kind: TYPE.to_owned(),
        id: id.clone(),
        package: failed.package.to_owned(),
        number: failed.step.number,
        text: failed.step.text.clone(),
        outcome: failed.outcome.to_owned(),
        not_given: failed.not_given.clone(),
        layers,
        needs: needs.into_iter().collect(),
        run,
    };
    let text = serde_json::to_vec_pretty(&state).map_err(io::Error::other)?;
    fs_err::write(directory.join("lock"), "")?;
    write_atomic(&directory.join("state.json"), &text, 0o600)?;
    fs_err::rename(&directory, &target)?;
    sync_directory(&steps)?;
    Ok(id)
}

fn root(step: &Path, lowers: Vec<PathBuf>) -> RootFs {
    RootFs { form: RootForm::Overlay, lowers, upper: step.join("fs"), work: step.join("work") }
}

/// Returns the layers that a kept step needs, by the bytes of its state; `None` when it is none.
pub(super) fn needs(state: &[u8]) -> Option<Vec<String>> {
    parse(Path::new(""), state).ok().map(|state| state.needs)
}

fn parse(path: &Path, bytes: &[u8]) -> Result<KeptStep, KeptError> {
    #[derive(Deserialize)]
    struct Typed {
        #[serde(rename = "type")]
        kind: String,
    }
    let foreign = |found: &str| KeptError::Foreign { path: path.to_owned(), found: found.to_owned() };
    let typed: Typed = serde_json::from_slice(bytes).map_err(|_| foreign(""))?;
    if typed.kind != TYPE {
        return Err(foreign(&typed.kind));
    }
    serde_json::from_slice(bytes).map_err(|_| foreign(&typed.kind))
}

/// The kept steps of one cache.
pub struct KeptSteps {
    store: Store,
    snapshots: Snapshots,
}

impl KeptSteps {
    /// Opens the kept steps of the cache of `store`, in the form of layers that this process can use.
    ///
    /// # Errors
    /// When the cache cannot be used.
    pub fn open(store: Store) -> Result<Self, KeptError> {
        let snapshots = Snapshots::open(store.directory())?;
        Ok(Self { store, snapshots })
    }

    fn directory(&self) -> PathBuf {
        self.snapshots.home().join("steps")
    }

    /// Returns the ids of all that is kept, sorted.
    ///
    /// # Errors
    /// When they cannot be listed.
    pub fn ids(&self) -> Result<Vec<String>, KeptError> {
        if !fs_err::exists(self.directory())? {
            return Ok(Vec::new());
        }
        let entries = Directory::open(&self.directory())?.entries()?;
        Ok(entries.iter().filter_map(|found| found.text().map(str::to_owned)).collect())
    }

    /// Lists the kept steps, sorted by id; what is there and is none as the error that says so.
    ///
    /// # Errors
    /// When they cannot be listed.
    pub fn list(&self) -> Result<Vec<Result<KeptStep, KeptError>>, KeptError> {
        Ok(self.ids()?.iter().map(|id| self.get(id)).collect())
    }

    /// Returns the kept step `id`.
    ///
    /// # Errors
    /// [`KeptError::Absent`] and [`KeptError::Foreign`], or when it cannot be read.
    pub fn get(&self, id: &str) -> Result<KeptStep, KeptError> {
        let absent = || KeptError::Absent(id.to_owned());
        // An id is one name, whatever was typed.
        if !id.bytes().all(|byte| byte.is_ascii_alphanumeric()) || id.is_empty() || !fs_err::exists(self.directory())? {
            return Err(absent());
        }
        let step = Directory::open(&self.directory())?.directory(id)?.ok_or_else(absent)?;
        let bytes = step.read("state.json", STATE_LIMIT)?.ok_or_else(absent)?;
        parse(&self.directory().join(id).join("state.json"), &bytes)
    }

    fn lock(&self, id: &str) -> Result<Lock, KeptError> {
        let path = self.directory().join(id).join("lock");
        Lock::try_acquire(&path, LockKind::Flock)?.ok_or_else(|| KeptError::InUse(id.to_owned()))
    }

    /// Removes the kept step `id`, of whatever version it is.
    ///
    /// # Errors
    /// [`KeptError::Absent`], [`KeptError::InUse`], or when it cannot be deleted.
    pub fn remove(&self, id: &str) -> Result<(), KeptError> {
        if let Err(error @ (KeptError::Absent(_) | KeptError::Io(_))) = self.get(id) {
            return Err(error);
        }
        let _lock = self.lock(id)?;
        let lease = self.store.lease().map_err(|error| KeptError::Io(io::Error::other(error)))?;
        // Moved first, so that no half of it is ever found.
        let (steps, drafts) = (Directory::open(&self.directory())?, Directory::open(&self.snapshots.home().join("drafts"))?);
        let grave = format!("{}.step-{id}", lease.name());
        steps.rename(id, &drafts, &grave)?;
        Ok(drafts.remove(&grave)?)
    }

    /// Runs a command in what the step left: with its environment and `variables`, user, directory, mounts and network. What the command
    /// changes stays for the next one.
    ///
    /// # Errors
    /// As [`KeptError`].
    pub fn enter(
        &self,
        id: &str,
        (variables, command): (&[(String, String)], Vec<String>),
        attached: Attached,
        on_output: &mut dyn FnMut(&[u8]),
    ) -> Result<Exit, KeptError> {
        let state = self.get(id)?;
        let _lock = self.lock(id)?;
        let directory = self.directory().join(id);
        mark_used(&directory.join("lock"))?;
        let gone = || KeptError::LayersGone(id.to_owned());
        let ids = |texts: &[String]| texts.iter().map(|text| text.parse::<LayerId>().ok()).collect::<Option<Vec<_>>>();
        let (layers, needs) = (ids(&state.layers).ok_or_else(gone)?, ids(&state.needs).ok_or_else(gone)?);
        let passage = self.snapshots.pass()?;
        for layer in &needs {
            if !self.snapshots.take(layer, &passage)? {
                return Err(gone());
            }
        }
        drop(passage);
        let snapshot = self.snapshots.load(&layers)?.ok_or_else(gone)?;
        let mut run = state.run.clone();
        run.root = root(&directory, self.snapshots.lowers(&snapshot));
        run.argv = command;
        run.env.retain(|(name, _)| !variables.iter().any(|(other, _)| name == other));
        run.env.extend(variables.iter().cloned());
        let mut held = Vec::new();
        for mount in &run.mounts {
            if let MountSource::Path { path, access: Access::ReadWrite | Access::ReadOnly } = &mount.source
                && path.starts_with(self.snapshots.home().join("mounts"))
            {
                // A cache that was collected meanwhile starts anew; nobody collects it while somebody is inside.
                fs_err::create_dir_all(path)?;
                held.push(Lock::share(&path.with_extension("lock"))?);
            }
        }
        let opened = Directory::open(&directory)?;
        let clear = || -> io::Result<()> {
            for found in opened.entries()? {
                if let Some(name) = found.text().filter(|name| !["fs", "script", "state.json", "lock"].contains(name)) {
                    opened.remove(name)?;
                }
            }
            Ok(())
        };
        clear()?;
        fs_err::create_dir(&run.root.work)?;
        let exit = Sandbox::of_this_program().enter(&run, attached, on_output);
        clear()?;
        Ok(exit?)
    }
}
