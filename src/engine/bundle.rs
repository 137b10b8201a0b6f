//! Images inside of images: what `depends.docker-images` and `depends.images` list, laid into a unit's build context.
//!
//! Each image is resolved and fetched for the unit's platform, like a base image, with the credentials of whoever runs
//! pkgbuild and never with anything from the context. The files lie in a directory of the cache that goes with the unit;
//! the package's own directory is not written to.

use std::io;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use super::bases::Bases;
use super::dispatch::Teller;
use super::error::UnitError;
use super::event::Direction;
use super::execute::metered;
use super::run::{Job, Shared};
use crate::archive::Named;
use crate::builder::ContextRoot;
use crate::content::ErrorClass;
use crate::oci::{Descriptor, Platform, Reference};
use crate::package::{BundleForm, BundleTarget, BundledImages};
use crate::store::{ArchiveFormat, Store, StoreError};
use crate::sys::scratch::Scratch;
use crate::transfer::copy;

/// Files that a unit's context has beside the package's, until this is dropped.
pub(super) struct Bundle {
    /// What is laid over the package's files, in order.
    pub(super) roots: Vec<ContextRoot>,
    _home: Scratch,
}

/// Why images cannot be laid into a context.
#[derive(Debug, thiserror::Error)]
pub enum BundleError {
    /// Two images would have one name in an engine.
    #[error("two images that are laid into the context would both be called `{name}`")]
    Name {
        /// The name.
        name: String,
    },
    /// The files cannot be written.
    #[error("cannot lay images into the build context")]
    Write(#[source] io::Error),
    /// The cache has not what was just fetched.
    #[error("cannot lay images into the build context")]
    Store(#[source] Box<StoreError>),
}

impl BundleError {
    /// Returns what can be done about it.
    pub fn class(&self) -> ErrorClass {
        match self {
            Self::Name { .. } => ErrorClass::Permanent,
            Self::Write(_) => ErrorClass::Damaged,
            Self::Store(error) => error.class(),
        }
    }
}

/// Fetches the images that `job` lists and writes them for `platform`; `None` when it lists none.
///
/// # Errors
/// When an image is nowhere, not for this platform, or cannot be fetched or written.
pub(super) async fn bundle(
    shared: &Shared,
    job: &Job,
    platform: &Platform,
    teller: &Teller,
) -> Result<Option<Bundle>, UnitError> {
    let groups = &job.package.settings.depends.images;
    if groups.is_empty() {
        return Ok(None);
    }
    let store = &shared.engine.store;
    let meter = teller.meter(&job.name, Some(platform), Direction::Down);
    let mut fetched = Vec::new();
    for group in groups {
        let mut images = Vec::new();
        for reference in &group.images {
            images.push((reference.clone(), fetch(&shared.bases, store, reference, platform, &metered(&meter)).await?));
        }
        fetched.push((group.clone(), images));
    }
    let store = store.clone();
    match tokio::task::spawn_blocking(move || write(&store, &fetched)).await {
        Ok(bundle) => Ok(Some(bundle?)),
        Err(error) => std::panic::resume_unwind(error.into_panic()),
    }
}

async fn fetch(
    bases: &Bases,
    store: &Store,
    reference: &Reference,
    platform: &Platform,
    options: &crate::transfer::CopyOptions,
) -> Result<Descriptor, UnitError> {
    let image = bases.resolve(&reference.to_string(), platform).await?;
    copy(&*image.source, store, &image.manifest, options).await?;
    Ok(image.manifest)
}

/// Writes each group into a directory of its own.
fn write(store: &Store, groups: &[(BundledImages, Vec<(Reference, Descriptor)>)]) -> Result<Bundle, BundleError> {
    let home = Scratch::make(&store.directory().join("pkgbuild/v1/scratch")).map_err(BundleError::Write)?;
    let mut roots = Vec::new();
    for (number, (group, images)) in groups.iter().enumerate() {
        let directory = home.path().join(number.to_string());
        make_directory(&directory).map_err(BundleError::Write)?;
        let named = names(group.form, images)?;
        let (target, replaces) = match &group.target {
            BundleTarget::Directory(target) => {
                match group.form {
                    BundleForm::Oci => store.save_layout(&named, &directory).map_err(|e| BundleError::Store(Box::new(e)))?,
                    BundleForm::Docker => {
                        for ((reference, _), image) in images.iter().zip(&named) {
                            let file = directory.join(file_name(reference));
                            save(store, std::slice::from_ref(image), group.form, &file)?;
                        }
                    }
                }
                (target.clone(), true)
            }
            BundleTarget::File(target) => {
                let name = target.file_name().expect("a target is a path below the package's directory");
                save(store, &named, group.form, &directory.join(name))?;
                (target.parent().map(Path::to_path_buf).unwrap_or_default(), false)
            }
        };
        roots.push(ContextRoot { source: directory, target, replaces });
    }
    Ok(Bundle { roots, _home: home })
}

/// Returns the images by the names they have in an archive: with the tag that was written, else by digest.
fn names(form: BundleForm, images: &[(Reference, Descriptor)]) -> Result<Vec<Named>, BundleError> {
    let mut named: Vec<Named> = Vec::new();
    for (reference, root) in images {
        let digest = if reference.tag.is_some() { None } else { reference.digest };
        let name = Reference { digest, ..reference.clone() }.to_string();
        // An engine would take the name away from the first again.
        if form == BundleForm::Docker
            && digest.is_none()
            && named.iter().any(|other| other.name == name && other.root.digest != root.digest)
        {
            return Err(BundleError::Name { name });
        }
        named.push(Named { name, root: root.clone() });
    }
    Ok(named)
}

/// Returns linuxkit's name for the file of one image: the last part of its repository, and its digest.
fn file_name(reference: &Reference) -> String {
    let path = &reference.repository.path;
    let last = path.rsplit('/').next().unwrap_or(path);
    match &reference.digest {
        Some(digest) => format!("{last}@{digest}.tar"),
        None => format!("{last}.tar"),
    }
}

fn save(store: &Store, images: &[Named], form: BundleForm, path: &Path) -> Result<(), BundleError> {
    let format = match form {
        BundleForm::Docker => ArchiveFormat::Docker,
        BundleForm::Oci => ArchiveFormat::Oci,
    };
    let file = fs_err::File::create_new(path).map_err(BundleError::Write)?;
    store.save(images, format, io::BufWriter::new(file)).map_err(|error| BundleError::Store(Box::new(error)))?;
    // Whatever the user's mask: the mode is part of what is made of it.
    fs_err::set_permissions(path, std::fs::Permissions::from_mode(0o644)).map_err(BundleError::Write)
}

fn make_directory(path: &Path) -> io::Result<()> {
    fs_err::create_dir(path)?;
    fs_err::set_permissions(path, std::fs::Permissions::from_mode(0o755))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::oci::Digest;

    fn image(text: &str) -> (Reference, Descriptor) {
        let digest = Digest::of(text.as_bytes());
        let reference = format!("{text}@{digest}").parse().expect("a reference");
        (reference, Descriptor::new("application/vnd.oci.image.manifest.v1+json", 1, digest))
    }

    #[test]
    fn files_are_called_as_linuxkit_calls_them() {
        let (reference, descriptor) = image("example.org/team/tool:1");
        assert_eq!(file_name(&reference), format!("tool@{}.tar", descriptor.digest));
    }

    #[test]
    fn an_image_has_the_tag_that_was_written_and_no_two_have_one_name() {
        let (tagged, untagged) = (image("example.org/a:1"), image("example.org/a"));
        let named = names(BundleForm::Docker, &[tagged.clone(), untagged.clone(), tagged.clone()]).expect("names");
        assert_eq!(named[0].name, "example.org/a:1");
        assert_eq!(named[1].name, format!("example.org/a@{}", untagged.1.digest));
        let other = (tagged.0.clone(), untagged.1.clone());
        assert!(names(BundleForm::Oci, &[tagged.clone(), other.clone()]).is_ok());
        assert!(matches!(names(BundleForm::Docker, &[tagged, other]), Err(BundleError::Name { .. })));
    }
}
