//! From an index to names in a registry, as a chain of types: what was not checked cannot be pushed, what was not pushed
//! cannot be released.
//!
//! ```text
//! TaggedIndex ──► Publishable ──► Pushed ──► Released
//!    clean, and every platform there ┘    └ the same bytes under another tag
//! ```

use futures_util::TryStreamExt;
use futures_util::stream::{self, StreamExt};

use super::index;
use super::plan::Source;
use super::remote::{RemoteError, RemoteRoot};
use crate::builder::BuiltImage;
use crate::content::{ContentError, ContentSink, ContentSource, ErrorClass};
use crate::oci::{Descriptor, Digest, Index, MediaType, Platform, Raw, Reference, ReferenceError, Repository, Tag};
use crate::registry::{Registry, RegistryError, RemoteRepository, TagOutcome};
use crate::transfer::{CopyOptions, TransferError, copy};

/// Why a package cannot be published.
#[derive(Debug, thiserror::Error)]
pub enum PublishError {
    /// Its files are not as committed.
    #[error("it has changes that are not committed, so it cannot be published")]
    Dirty,
    /// It is not there for every platform that it should be.
    #[error("`{reference}` would be incomplete: there is no image for {}", platforms.iter().map(ToString::to_string).collect::<Vec<_>>().join(", "))]
    Missing {
        /// The name.
        reference: Box<Reference>,
        /// The platforms.
        platforms: Vec<Platform>,
    },
    /// The registry could not be asked what it has.
    #[error("cannot read from the registry")]
    Remote(#[from] RemoteError),
    /// An image could not be sent.
    #[error("cannot push `{reference}`")]
    Transfer {
        /// The name.
        reference: Box<Reference>,
        /// What failed.
        #[source]
        source: Box<TransferError>,
    },
    /// A name could not be written.
    #[error("cannot write `{reference}`")]
    Registry {
        /// The name.
        reference: Box<Reference>,
        /// What failed.
        #[source]
        source: Box<RegistryError>,
    },
    /// A name for a single architecture could not be written.
    #[error("cannot write `{reference}`")]
    Content {
        /// The name.
        reference: Box<Reference>,
        /// What failed.
        #[source]
        source: Box<ContentError>,
    },
    /// Others kept writing the name.
    #[error("`{reference}` was changed by others each of {attempts} times that it was written")]
    Contended {
        /// The name.
        reference: Box<Reference>,
        /// How often it was tried.
        attempts: usize,
    },
    /// A tag that must not move is somewhere else already.
    #[error("`{reference}` is {existing} already and would become {wanted}")]
    Moved {
        /// The name.
        reference: Box<Reference>,
        /// What it means.
        existing: Box<Digest>,
        /// What it should mean.
        wanted: Box<Digest>,
    },
    /// The tag with an architecture is none.
    #[error(transparent)]
    Reference(#[from] ReferenceError),
}

impl PublishError {
    /// Returns what can be done about it.
    pub fn class(&self) -> ErrorClass {
        match self {
            Self::Remote(error) => error.class(),
            Self::Transfer { source, .. } => source.class(),
            Self::Registry { source, .. } => source.class(),
            Self::Content { source, .. } => source.class(),
            Self::Contended { .. } => ErrorClass::Retryable,
            Self::Moved { .. } => ErrorClass::Conflict,
            Self::Dirty | Self::Missing { .. } | Self::Reference(_) => ErrorClass::Permanent,
        }
    }
}

/// Images under a name, on this machine.
#[derive(Clone, Debug)]
pub struct TaggedIndex {
    /// The name.
    pub reference: Reference,
    /// What it lists; may be nothing when all is in the registry.
    pub images: Vec<BuiltImage>,
    /// Whether the files it was built from are as committed.
    pub source: Source,
}

/// An index that may be pushed: nothing in it is dirty.
#[derive(Clone, Debug)]
pub struct Publishable {
    tagged: TaggedIndex,
    required: Vec<Platform>,
}

/// An index that is in the registry under its tag.
#[derive(Clone, Debug)]
pub struct Pushed {
    /// Its name.
    pub reference: Reference,
    /// The index, as the registry has it.
    pub index: Descriptor,
    /// Its images.
    pub images: Vec<BuiltImage>,
    /// Bytes that had to be sent.
    pub sent: u64,
    repository: RemoteRepository,
}

/// Another name of what was pushed.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Released {
    /// The name.
    pub reference: Reference,
    /// What it means.
    pub digest: Digest,
}

/// Tags for single architectures.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum ArchitectureTags {
    /// `<tag>-<architecture>` is written for each image.
    Written,
    /// They are not.
    Left,
}

/// Whether a release tag that exists may be moved.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum Existing {
    /// It must stay where it is.
    #[default]
    Stays,
    /// It may move.
    Moves,
}

/// How to push.
pub struct PushOptions<'a> {
    /// Whether tags for single architectures are written.
    pub architecture_tags: ArchitectureTags,
    /// Repositories whose layers the images may share.
    pub mount_from: Vec<Repository>,
    /// Is told how far each copy is.
    pub copy: &'a (dyn Fn() -> CopyOptions + Send + Sync),
}

/// How often a name is written while others write it, too.
const ATTEMPTS: usize = 8;

impl Publishable {
    /// Returns the index as one that may be pushed: it must be clean, and have, with what the registry has, an image for
    /// each of `required`.
    ///
    /// # Errors
    /// [`PublishError::Dirty`].
    pub fn check(tagged: TaggedIndex, required: &[Platform]) -> Result<Self, PublishError> {
        match tagged.source {
            Source::Dirty => Err(PublishError::Dirty),
            Source::Clean => Ok(Self { tagged, required: required.to_vec() }),
        }
    }

    /// Pushes: images first, then the index of them and of what the registry has for other platforms, provided that the
    /// name still means what was read. What is there is not sent again; a second push sends nothing.
    ///
    /// # Errors
    /// [`PublishError::Missing`] when a required platform is neither here nor there; then nothing was written.
    pub async fn push(
        self,
        content: &dyn ContentSource,
        registry: &Registry,
        options: PushOptions<'_>,
    ) -> Result<Pushed, PublishError> {
        let reference = &self.tagged.reference;
        let repository = registry.upstream(&reference.repository).mounting_from(options.mount_from.clone());
        let mut sent = 0;
        let mut remote = RemoteRoot::read(repository.clone(), reference).await?;
        for _ in 0..ATTEMPTS {
            let joined = self.joined(remote.as_ref())?;
            let (index, images) = match joined {
                None => {
                    let root = remote.expect("an index that stays as it is was read");
                    let images = index::images(&root.index);
                    let pushed =
                        Pushed { reference: reference.clone(), index: root.manifest.descriptor, images, sent, repository };
                    pushed.name_architectures(&self.tagged.images, options.architecture_tags).await?;
                    return Ok(pushed);
                }
                Some(index) => (Raw::encode(index.clone()), index::images(&index)),
            };
            sent += self.send(content, &repository, options.copy).await?;
            let failed = |source| PublishError::Registry { reference: Box::new(reference.clone()), source: Box::new(source) };
            let root = repository.push_manifest(MediaType::INDEX, index.bytes().clone()).await.map_err(failed)?;
            sent += root.size;
            let expected = remote.as_ref().map(|root| root.descriptor().digest);
            match repository.tag_if(reference, expected, &root).await.map_err(failed)? {
                TagOutcome::Unchanged | TagOutcome::Written => {
                    let pushed = Pushed { reference: reference.clone(), index: root, images, sent, repository };
                    pushed.name_architectures(&self.tagged.images, options.architecture_tags).await?;
                    return Ok(pushed);
                }
                TagOutcome::Moved(_) => remote = RemoteRoot::read(repository.clone(), reference).await?,
            }
        }
        Err(PublishError::Contended { reference: Box::new(reference.clone()), attempts: ATTEMPTS })
    }

    /// Returns the index to write, or `None` when what the registry has needs no change.
    fn joined(&self, remote: Option<&RemoteRoot>) -> Result<Option<Index>, PublishError> {
        let is_index = remote.is_some_and(|root| MediaType::is_index(&root.descriptor().media_type));
        let joined = match remote {
            // A plain image under the name is listed by an index from now on.
            Some(root) if is_index => index::join(&self.tagged.images, &root.index),
            Some(root) => Some(index::join(&self.tagged.images, &root.index).unwrap_or_else(|| root.index.clone())),
            None => Some(index::assemble(&self.tagged.images)),
        };
        let listed = joined.as_ref().or(remote.map(|root| &root.index));
        let missing = listed.map_or_else(|| self.required.clone(), |index| index::missing(index, &self.required));
        if missing.is_empty() {
            return Ok(joined);
        }
        Err(PublishError::Missing { reference: Box::new(self.tagged.reference.clone()), platforms: missing })
    }

    async fn send(
        &self,
        content: &dyn ContentSource,
        repository: &RemoteRepository,
        options: &(dyn Fn() -> CopyOptions + Send + Sync),
    ) -> Result<u64, PublishError> {
        let mut sent = 0;
        for image in &self.tagged.images {
            for root in std::iter::once(&image.manifest).chain(&image.attestations) {
                let copied = copy(content, repository, root, &CopyOptions { trust_parents: true, ..options() }).await;
                sent += copied
                    .map_err(|source| PublishError::Transfer {
                        reference: Box::new(self.tagged.reference.clone()),
                        source: Box::new(source),
                    })?
                    .sent_bytes;
            }
        }
        Ok(sent)
    }
}

impl Pushed {
    /// Names each of `images` `<tag>-<architecture>`, as linuxkit does.
    async fn name_architectures(&self, images: &[BuiltImage], tags: ArchitectureTags) -> Result<(), PublishError> {
        if tags == ArchitectureTags::Left {
            return Ok(());
        }
        name_architectures(&self.repository, &self.reference, images).await
    }

    /// Lets `tag` mean the same bytes.
    ///
    /// # Errors
    /// [`PublishError::Moved`] when it exists, means something else, and must stay.
    pub async fn release(&self, tag: &Tag, existing: Existing, tags: ArchitectureTags) -> Result<Released, PublishError> {
        let reference = self.reference.repository.with_tag(tag.clone());
        let released = name(&self.repository, &reference, &self.index, existing).await?;
        if tags == ArchitectureTags::Written {
            name_architectures(&self.repository, &reference, &self.images).await?;
        }
        Ok(released)
    }
}

/// Returns the name of the image for one architecture beside `reference`.
pub fn architecture_name(reference: &Reference, platform: &Platform) -> Result<Reference, ReferenceError> {
    let tag = reference.effective_tag().unwrap_or("latest");
    Ok(reference.repository.with_tag(format!("{tag}-{}", platform.tag_suffix()).parse()?))
}

async fn name_architectures(
    repository: &RemoteRepository,
    reference: &Reference,
    images: &[BuiltImage],
) -> Result<(), PublishError> {
    let named = images.iter().filter_map(|image| Some((image, image.manifest.platform.as_ref()?)));
    stream::iter(named.map(Ok))
        .try_for_each_concurrent(4, |(image, platform)| async move {
            let name = architecture_name(reference, platform)?;
            let failed = |source| PublishError::Content { reference: Box::new(name.clone()), source: Box::new(source) };
            let now = repository.resolve(&name).await.map_err(failed)?;
            if now.is_some_and(|now| now.digest == image.manifest.digest) {
                return Ok(());
            }
            repository.tag(&name, &image.manifest).await.map_err(failed)
        })
        .await
}

/// Lets `reference` mean `root`, which `repository` has.
///
/// # Errors
/// [`PublishError::Moved`] when it exists, means something else, and must stay.
pub async fn name(
    repository: &RemoteRepository,
    reference: &Reference,
    root: &Descriptor,
    existing: Existing,
) -> Result<Released, PublishError> {
    let failed = |source| PublishError::Registry { reference: Box::new(reference.clone()), source: Box::new(source) };
    let moved = |now: Digest| PublishError::Moved {
        reference: Box::new(reference.clone()),
        existing: Box::new(now),
        wanted: Box::new(root.digest),
    };
    let mut expected = repository.manifest(reference).await.map_err(failed)?.map(|now| now.descriptor.digest);
    for _ in 0..ATTEMPTS {
        if let (Some(now), Existing::Stays) = (expected, existing)
            && now != root.digest
        {
            return Err(moved(now));
        }
        match repository.tag_if(reference, expected, root).await.map_err(failed)? {
            TagOutcome::Unchanged | TagOutcome::Written => {
                return Ok(Released { reference: reference.clone(), digest: root.digest });
            }
            TagOutcome::Moved(now) => expected = now.map(|now| now.descriptor.digest),
        }
    }
    Err(PublishError::Contended { reference: Box::new(reference.clone()), attempts: ATTEMPTS })
}

/// Gathers the images of `<tag>-<architecture>` for `platforms` from the registry: the index that separate machines have
/// built the parts of. Returns them with the platforms that are missing.
///
/// # Errors
/// When the registry cannot be asked: an outage is no missing image.
pub async fn gather(
    repository: &RemoteRepository,
    reference: &Reference,
    platforms: &[Platform],
) -> Result<(Vec<BuiltImage>, Vec<Platform>), PublishError> {
    let found: Vec<(Platform, Option<BuiltImage>)> = stream::iter(platforms.iter().cloned())
        .map(|platform| async move {
            let name = architecture_name(reference, &platform)?;
            let root = RemoteRoot::read(repository.clone(), &name).await?;
            Ok::<_, PublishError>((platform.clone(), root.and_then(|root| root.image(&platform))))
        })
        .buffered(8)
        .try_collect()
        .await?;
    let missing = found.iter().filter(|(_, image)| image.is_none()).map(|(platform, _)| platform.clone()).collect();
    Ok((found.into_iter().filter_map(|(_, image)| image).collect(), missing))
}
