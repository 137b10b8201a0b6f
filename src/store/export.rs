//! Putting images into archives: as an OCI layout, for `docker load`, or flattened to one file system.

use std::collections::BTreeSet;
use std::io::{self, Read, Write};

use super::{Result, Roots, Store, StoreError};
use crate::archive::{Compression, Named, flatten, write_docker, write_oci};
use crate::oci::{Descriptor, Document, Manifest, MediaType, Platform};

/// The form of an archive.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum ArchiveFormat {
    /// A tar of an OCI layout.
    #[default]
    Oci,
    /// An archive for `docker load`.
    Docker,
    /// The flattened file system of one platform.
    Filesystem,
}

/// What to export.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Export<'a> {
    /// The image's name in the cache.
    pub name: &'a str,
    /// The platform; `None` for all of them in an OCI layout, and for the only one in the other forms.
    pub platform: Option<&'a Platform>,
    /// The name in the archive, if it is another.
    pub name_inside: Option<&'a str>,
}

impl Store {
    /// Writes images as one archive. The same images give the same bytes.
    ///
    /// # Errors
    /// [`StoreError::NoRoot`], [`StoreError::NoPlatform`], [`StoreError::ManyPlatforms`] when it is not clear what is meant;
    /// [`StoreError::Partial`] when something of it is missing. Nothing was written then.
    pub fn export(&self, exports: &[Export<'_>], format: ArchiveFormat, out: impl Write) -> Result<()> {
        let roots = self.roots()?;
        let mut open = |descriptor: &Descriptor| -> Result<Box<dyn Read + Send>> {
            let reader = self.open_verified(descriptor)?;
            Ok(Box::new(reader))
        };
        match format {
            ArchiveFormat::Oci => {
                let (mut named, mut blobs) = (Vec::new(), Vec::new());
                for export in exports {
                    let root = self.selected(&roots, export)?;
                    self.collect_blobs(export.name, &root, &mut blobs)?;
                    named.push(Named { name: export.inside().to_owned(), root });
                }
                write_oci(out, &named, &blobs, &mut open)
            }
            ArchiveFormat::Docker => {
                let mut images = Vec::new();
                for export in exports {
                    let (root, manifest) = self.one_image(&roots, export)?;
                    images.push((Named { name: export.inside().to_owned(), root }, manifest));
                }
                write_docker(out, &images, &mut |layer| self.decompressed_size(layer), &mut open)
            }
            ArchiveFormat::Filesystem => {
                let [export] = exports else { return Err(StoreError::ManyImages { images: exports.len() }) };
                flatten(&self.one_image(&roots, export)?.1.layers, out, &mut open)
            }
        }
    }

    /// Returns the index or manifest that is meant.
    fn selected(&self, roots: &Roots, export: &Export<'_>) -> Result<Descriptor> {
        let root = roots.require(export.name)?;
        match export.platform {
            None => Ok(root.clone()),
            Some(platform) => self.for_platform(export.name, root, platform),
        }
    }

    /// Returns the one image that is meant; of an index without a chosen platform, the only one that is there.
    fn one_image(&self, roots: &Roots, export: &Export<'_>) -> Result<(Descriptor, Manifest)> {
        let root = roots.require(export.name)?;
        let image = match export.platform {
            Some(platform) => self.for_platform(export.name, root, platform)?,
            None => match &self.images_of(root)?[..] {
                [only] => only.clone(),
                several => {
                    let has = several.iter().filter_map(|image| image.platform.as_ref()).map(Platform::to_string).collect();
                    return Err(StoreError::ManyPlatforms { name: export.name.to_owned(), has });
                }
            },
        };
        match self.document(&image)? {
            Some(Document::Manifest(manifest)) => {
                let missing: Vec<_> = self.missing_of_image(&image)?.iter().map(|part| part.digest).collect();
                match missing.is_empty() {
                    true => Ok((image, manifest)),
                    false => Err(StoreError::Partial { name: export.name.to_owned(), missing }),
                }
            }
            _ => Err(StoreError::Partial { name: export.name.to_owned(), missing: vec![image.digest] }),
        }
    }

    fn for_platform(&self, name: &str, root: &Descriptor, platform: &Platform) -> Result<Descriptor> {
        let images = match self.document(root)? {
            Some(Document::Index(index)) => match index.image_for(platform) {
                Some(image) => return Ok(image.clone()),
                None => images(index.manifests),
            },
            _ => {
                let own = match &root.platform {
                    Some(own) => own.clone(),
                    None => self.platform_of(root)?,
                };
                if own.satisfies(platform) {
                    return Ok(Descriptor { platform: Some(own), ..root.clone() });
                }
                vec![Descriptor { platform: Some(own), ..root.clone() }]
            }
        };
        let has = images.iter().filter_map(|image| image.platform.as_ref()).map(Platform::to_string).collect();
        Err(StoreError::NoPlatform { name: name.to_owned(), platform: platform.to_string(), has })
    }

    fn images_of(&self, root: &Descriptor) -> Result<Vec<Descriptor>> {
        match self.document(root)? {
            Some(Document::Index(index)) => Ok(images(index.manifests)),
            _ => Ok(vec![root.clone()]),
        }
    }

    /// Adds everything below `root`. A layout that lacks something would be one that other tools fail on later.
    fn collect_blobs(&self, name: &str, root: &Descriptor, blobs: &mut Vec<Descriptor>) -> Result<()> {
        let (mut seen, mut missing) = (BTreeSet::new(), Vec::new());
        let mut pending = vec![root.clone()];
        while let Some(descriptor) = pending.pop() {
            if !seen.insert(descriptor.digest) {
                continue;
            }
            if !self.sees(&descriptor)? {
                missing.push(descriptor.digest);
                continue;
            }
            if let Some(document) = self.document(&descriptor)? {
                pending.extend(document.children().into_iter().cloned());
            }
            blobs.push(descriptor);
        }
        match missing.is_empty() {
            true => Ok(()),
            false => Err(StoreError::Partial { name: name.to_owned(), missing }),
        }
    }

    fn decompressed_size(&self, layer: &Descriptor) -> Result<u64> {
        let io = self.io("decompress a layer");
        let compression = Compression::of_media_type(&layer.media_type).unwrap_or(Compression::None);
        let mut reader = compression.decode(self.open_blob(&layer.digest)?).map_err(&io)?;
        io::copy(&mut reader, &mut io::sink()).map_err(io)
    }
}

impl Export<'_> {
    fn inside(&self) -> &str {
        self.name_inside.unwrap_or(self.name)
    }
}

fn images(children: Vec<Descriptor>) -> Vec<Descriptor> {
    let is_image = |child: &Descriptor| {
        MediaType::is_manifest(&child.media_type)
            && !child.is_attestation()
            && child.platform.as_ref().is_none_or(|platform| !platform.is_unknown())
    };
    children.into_iter().filter(is_image).collect()
}
