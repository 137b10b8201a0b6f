//! The words of the OCI specifications, as types without input or output: digests, platforms, references,
//! descriptors, manifests, indexes and image configs. Everything above speaks in them.

pub mod config;
pub mod digest;
pub mod manifest;
pub mod platform;
pub mod reference;

pub use config::{ContainerConfig, History, ImageConfig};
pub use digest::{DiffId, Digest, DigestError, Hasher, VerifyError, VerifyingReader};
pub use manifest::{Descriptor, Document, Index, Manifest, MediaType, Raw};
pub use platform::{Platform, PlatformError};
pub use reference::{Reference, ReferenceError, Repository, Tag};
