//! What base images mean: each reference is resolved once in a run, so that no two units see two different `latest`.

use std::collections::{BTreeMap, HashMap};
use std::sync::{Arc, Mutex};

use tokio::sync::OnceCell;

use super::remote::{RemoteError, RemoteRoot, SharedSource};
use crate::builder::{Base, BuiltImage};
use crate::content::ErrorClass;
use crate::oci::{Descriptor, Platform, Reference, ReferenceError};
use crate::registry::Registry;
use crate::store::{Presence, Store, StoreError};

/// Why a base image cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum BaseError {
    /// The reference is none.
    #[error(transparent)]
    Reference(#[from] ReferenceError),
    /// The cache could not be read.
    #[error("cannot look for image `{reference}` in the cache")]
    Store {
        /// The image.
        reference: String,
        /// What failed.
        #[source]
        source: Box<StoreError>,
    },
    /// The registry could not be asked.
    #[error("cannot resolve image `{reference}`")]
    Remote {
        /// The image.
        reference: String,
        /// What failed.
        #[source]
        source: Arc<RemoteError>,
    },
    /// It is known to be nowhere.
    #[error("image `{reference}` does not exist, neither in the cache nor in its registry")]
    Absent {
        /// The image.
        reference: String,
    },
    /// It exists, but not for the platform.
    #[error("image `{reference}` is not there for {platform}; it is for {}", list(.has))]
    Platform {
        /// The image.
        reference: String,
        /// The platform that was asked for.
        platform: Box<Platform>,
        /// The platforms it has.
        has: Vec<Platform>,
    },
}

fn list(platforms: &[Platform]) -> String {
    if platforms.is_empty() {
        return "none".to_owned();
    }
    platforms.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ")
}

impl BaseError {
    /// Returns what can be done about it.
    pub fn class(&self) -> ErrorClass {
        match self {
            Self::Store { source, .. } => source.class(),
            Self::Remote { source, .. } => source.class(),
            Self::Reference(_) | Self::Absent { .. } | Self::Platform { .. } => ErrorClass::Permanent,
        }
    }
}

/// Resolves the base images of one run.
pub struct Bases {
    store: Store,
    registry: Registry,
    use_cache: bool,
    /// Images of this run's packages, by the name they have in the cache.
    own: Mutex<BTreeMap<(String, Platform), Base>>,
    remote: Mutex<HashMap<String, Answer>>,
}

/// What a registry said about a reference, asked at most once at a time.
type Answer = Arc<OnceCell<Result<Option<RemoteRoot>, Arc<RemoteError>>>>;

impl Bases {
    /// Returns a resolver that looks at this run's packages, then, if `use_cache`, into `store`, then asks registries.
    pub fn new(store: Store, registry: Registry, use_cache: bool) -> Self {
        Self { store, registry, use_cache, own: Mutex::default(), remote: Mutex::default() }
    }

    /// Tells that the package called `reference` has `image` for `platform`, readable from `source`.
    pub fn announce(&self, reference: &Reference, platform: &Platform, image: &BuiltImage, source: SharedSource) {
        let base = Base { manifest: image.manifest.clone(), source };
        self.own.lock().expect("no holder panics").insert((Store::name_of(reference), platform.clone()), base);
    }

    /// Returns the image that `reference`, as written in a Dockerfile, means for `platform`.
    ///
    /// # Errors
    /// When there is none, or it cannot be told whether there is.
    pub async fn resolve(&self, written: &str, platform: &Platform) -> Result<Base, BaseError> {
        let reference: Reference = written.parse()?;
        let name = Store::name_of(&reference);
        if let Some(own) = self.own.lock().expect("no holder panics").get(&(name.clone(), platform.clone())) {
            return Ok(own.clone());
        }
        if self.use_cache
            && let Some(manifest) = self.cached(written, &reference, platform).await?
        {
            return Ok(Base { manifest, source: Arc::new(self.store.clone()) });
        }
        let answer = self.remote.lock().expect("no holder panics").entry(name).or_default().clone();
        let answer = answer
            .get_or_init(|| async {
                let repository = self.registry.repository(&reference.repository);
                RemoteRoot::read(repository, &reference).await.map_err(Arc::new)
            })
            .await;
        let reference = || written.to_owned();
        match answer {
            Err(source) => Err(BaseError::Remote { reference: reference(), source: Arc::clone(source) }),
            Ok(None) => Err(BaseError::Absent { reference: reference() }),
            Ok(Some(root)) => match root.image(platform) {
                Some(image) => Ok(Base { manifest: image.manifest, source: root.source.clone() }),
                None => {
                    let platform = Box::new(platform.clone());
                    Err(BaseError::Platform { reference: reference(), platform, has: root.platforms() })
                }
            },
        }
    }

    /// Returns the cache's image, if it is whole. An entry that lacks the platform, or part of it, hides nothing that the
    /// registry has.
    async fn cached(&self, written: &str, reference: &Reference, platform: &Platform) -> Result<Option<Descriptor>, BaseError> {
        let (store, reference, platform) = (self.store.clone(), reference.clone(), platform.clone());
        let looked = tokio::task::spawn_blocking(move || {
            let roots = store.roots()?;
            let name = Store::name_of(&reference);
            let found = match reference.digest {
                None => roots.lookup(&name, &platform)?,
                // Content that is there under its digest needs no name.
                Some(_) => match store.find(&reference)? {
                    Some(root) => roots.lookup_at(&root, &platform)?,
                    None => Presence::Absent,
                },
            };
            Ok(match found {
                Presence::Complete(manifest) => Some(manifest),
                Presence::Absent | Presence::Incomplete(_) => None,
            })
        });
        let result: Result<_, StoreError> = match looked.await {
            Ok(result) => result,
            Err(error) => std::panic::resume_unwind(error.into_panic()),
        };
        result.map_err(|source| BaseError::Store { reference: written.to_owned(), source: Box::new(source) })
    }
}
