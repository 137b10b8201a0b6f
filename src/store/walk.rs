//! What an image consists of, and what of it is missing.

use std::collections::BTreeSet;

use super::{Result, Store, StoreError};
use crate::oci::{Descriptor, Digest, Document, ImageConfig, Platform};

impl Store {
    /// Reads and parses an index or manifest; `None` for content that refers to nothing.
    ///
    /// # Errors
    /// As [`Store::read`], and [`StoreError::Document`] when the bytes are no such document.
    pub fn document(&self, descriptor: &Descriptor) -> Result<Option<Document>> {
        if !descriptor.is_document() {
            return Ok(None);
        }
        let bytes = self.read(descriptor)?;
        Document::parse(&descriptor.media_type, &bytes).map_err(|source| self.no_document(descriptor, source))
    }

    /// As [`Store::document`], with `None` also for what is missing or damaged.
    pub(super) fn intact_document(&self, descriptor: &Descriptor) -> Result<Option<Document>> {
        match self.document(descriptor) {
            Err(StoreError::Missing { .. } | StoreError::Damaged { .. } | StoreError::Document { .. }) => Ok(None),
            result => result,
        }
    }

    /// Returns what is missing of one image: its manifest, or its config and layers.
    pub(super) fn missing_of_image(&self, manifest: &Descriptor) -> Result<Vec<Descriptor>> {
        match self.intact_document(manifest)? {
            None => Ok(vec![manifest.clone()]),
            Some(document) => self.unseen(document.children().into_iter()),
        }
    }

    fn unseen<'a>(&self, descriptors: impl Iterator<Item = &'a Descriptor>) -> Result<Vec<Descriptor>> {
        let mut unseen = Vec::new();
        for descriptor in descriptors {
            if !self.sees(descriptor)? {
                unseen.push(descriptor.clone());
            }
        }
        Ok(unseen)
    }

    /// Returns what is missing below `root`: the root itself, or something of a manifest that is there. A child of an index
    /// that is not there at all is a platform that nobody asked for.
    pub(super) fn missing_from(&self, root: &Descriptor) -> Result<Vec<Digest>> {
        let (mut missing, mut seen) = (BTreeSet::new(), BTreeSet::new());
        let mut pending = vec![root.clone()];
        while let Some(descriptor) = pending.pop() {
            if !seen.insert(descriptor.digest) {
                continue;
            }
            if !self.sees(&descriptor)? {
                missing.insert(descriptor.digest);
                continue;
            }
            match self.document(&descriptor)? {
                Some(Document::Index(index)) => {
                    for child in index.manifests {
                        if self.sees(&child)? {
                            pending.push(child);
                        }
                    }
                }
                Some(Document::Manifest(manifest)) => {
                    pending.extend(std::iter::once(manifest.config).chain(manifest.layers));
                }
                None => {}
            }
        }
        Ok(missing.into_iter().collect())
    }

    /// Returns the platform that the config of an image says.
    ///
    /// # Errors
    /// When manifest or config cannot be read.
    pub fn platform_of(&self, manifest: &Descriptor) -> Result<Platform> {
        let Some(Document::Manifest(document)) = self.document(manifest)? else {
            return Ok(Platform::new("unknown", "unknown", None));
        };
        let bytes = self.read(&document.config)?;
        let config: ImageConfig = serde_json::from_slice(&bytes).map_err(|source| self.no_document(&document.config, source))?;
        let own = config.platform;
        Ok(Platform { os_version: own.os_version.clone(), ..Platform::new(&own.os, &own.architecture, own.variant.as_deref()) })
    }

    pub(super) fn no_document(&self, descriptor: &Descriptor, source: serde_json::Error) -> StoreError {
        StoreError::Document {
            digest: descriptor.digest,
            media_type: descriptor.media_type.clone(),
            directory: self.directory().to_owned(),
            source,
        }
    }
}
