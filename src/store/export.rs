//! Putting images into archives: as an OCI layout, for `docker load`, or flattened to one file system.

use std::collections::{BTreeMap, BTreeSet};
use std::io::{self, Read, Write};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use super::{Result, Roots, Store, StoreError};
use crate::archive::{Compression, LAYOUT_FILE, Named, flatten, layout_index, write_docker, write_oci};
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
        let mut images = Vec::new();
        for export in exports {
            let root = match format {
                ArchiveFormat::Oci => self.selected(&roots, export)?,
                ArchiveFormat::Docker | ArchiveFormat::Filesystem => self.one_image(&roots, export)?,
            };
            images.push(Named { name: export.inside().to_owned(), root });
        }
        self.save(&images, format, out)
    }

    /// Writes `images`, which need no name in the cache, as one archive. In the forms for one platform each is a manifest.
    ///
    /// # Errors
    /// [`StoreError::Partial`] when something of an image is missing: nothing was written then.
    pub fn save(&self, images: &[Named], format: ArchiveFormat, out: impl Write) -> Result<()> {
        let mut open = |descriptor: &Descriptor| -> Result<Box<dyn Read + Send>> {
            let reader = self.open_verified(descriptor)?;
            Ok(Box::new(reader))
        };
        match format {
            ArchiveFormat::Oci => write_oci(out, images, &self.all_blobs(images)?, &mut open),
            ArchiveFormat::Docker => {
                let whole: Result<Vec<_>> = images.iter().map(|image| Ok((image.clone(), self.whole_manifest(image)?))).collect();
                write_docker(out, &whole?, &mut |layer| self.decompressed_size(layer), &mut open)
            }
            ArchiveFormat::Filesystem => {
                let [image] = images else { return Err(StoreError::ManyImages { images: images.len() }) };
                flatten(&self.whole_manifest(image)?.layers, out, &mut open)
            }
        }
    }

    /// Writes `images` as an OCI layout below `directory`, which must be empty (OCI image-spec, "Image Layout").
    ///
    /// # Errors
    /// [`StoreError::Partial`] when something of an image is missing: nothing was written then.
    pub fn save_layout(&self, images: &[Named], directory: &Path) -> Result<()> {
        let io = self.io("write a layout");
        let blobs = self.all_blobs(images)?;
        let file = |path: PathBuf, mut data: &mut dyn Read| -> io::Result<()> {
            let mut file = fs_err::File::create_new(&path)?;
            io::copy(&mut data, &mut file)?;
            // Whatever the user's mask: the modes are part of what is made of it.
            set_mode(&path, 0o644)
        };
        file(directory.join("oci-layout"), &mut &LAYOUT_FILE[..]).map_err(&io)?;
        file(directory.join("index.json"), &mut &layout_index(images).bytes()[..]).map_err(&io)?;
        for part in ["blobs", "blobs/sha256"] {
            let path = directory.join(part);
            fs_err::create_dir(&path).and_then(|()| set_mode(&path, 0o755)).map_err(&io)?;
        }
        for blob in &blobs {
            let path = directory.join("blobs").join(blob.digest.algorithm()).join(blob.digest.hex());
            file(path, &mut self.open_verified(blob)?).map_err(&io)?;
        }
        Ok(())
    }

    fn all_blobs(&self, images: &[Named]) -> Result<Vec<Descriptor>> {
        let mut blobs = BTreeMap::new();
        for image in images {
            let mut own = Vec::new();
            self.collect_blobs(&image.name, &image.root, &mut own)?;
            blobs.extend(own.into_iter().map(|blob| (blob.digest, blob)));
        }
        Ok(blobs.into_values().collect())
    }

    /// Returns the manifest of one image, all of whose content is there.
    fn whole_manifest(&self, image: &Named) -> Result<Manifest> {
        let partial = |missing| StoreError::Partial { name: image.name.clone(), missing };
        match self.document(&image.root)? {
            Some(Document::Manifest(manifest)) => {
                let missing: Vec<_> = self.missing_of_image(&image.root)?.iter().map(|part| part.digest).collect();
                if missing.is_empty() { Ok(manifest) } else { Err(partial(missing)) }
            }
            _ => Err(partial(vec![image.root.digest])),
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
    fn one_image(&self, roots: &Roots, export: &Export<'_>) -> Result<Descriptor> {
        let root = roots.require(export.name)?;
        match export.platform {
            Some(platform) => self.for_platform(export.name, root, platform),
            None => match &self.images_of(root)?[..] {
                [only] => Ok(only.clone()),
                several => {
                    let has = several.iter().filter_map(|image| image.platform.as_ref()).map(Platform::to_string).collect();
                    Err(StoreError::ManyPlatforms { name: export.name.to_owned(), has })
                }
            },
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

fn set_mode(path: &Path, mode: u32) -> io::Result<()> {
    fs_err::set_permissions(path, std::fs::Permissions::from_mode(mode))
}
