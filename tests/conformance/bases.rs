//! Base images, which both builders get from one OCI layout.

use std::path::Path;

use pkgbuild::builder::{Base, BaseKey};
use pkgbuild::oci::{Descriptor, Platform};
use std::sync::Arc;

use crate::fixture::Test;
use crate::image::Image;
use crate::support::Setup;

/// A base image: its name and where it is.
pub struct BaseImage {
    pub name: String,
    /// What the name stands for in the OCI layout: an image, or an index of images.
    pub descriptor: Descriptor,
    /// Its image of each platform.
    pub images: Vec<(Platform, Descriptor)>,
}

/// All base images of a topic, and the layout that they lie in.
pub struct Bases {
    store: Test,
    busybox: BaseImage,
    meanings: Vec<Image>,
}

/// What `/etc` of the base image has besides.
const PASSWD: &[u8] = b"root:x:0:0:root:/root:/bin/sh\nwww:x:33:34:web:/var/www:/bin/false\nnobody:x:65534:65534::/:/bin/false\n";
const GROUP: &[u8] = b"root:x:0:\nadm:x:4:www\nweb:x:34:\nstaff:x:50:www\n";

impl Bases {
    /// Makes `busybox` for amd64 and arm64 of the root file systems that setup made.
    pub async fn new(setup: &Setup) -> Self {
        let mut store = Test::new();
        let mut images = Vec::new();
        let mut meanings = Vec::new();
        store.write("passwd", PASSWD);
        store.write("group", GROUP);
        for architecture in ["amd64", "arm64"] {
            let archive = std::fs::read(setup.rootfs().join(format!("rootfs-{architecture}.tar"))).expect("setup makes it");
            store.write("rootfs.tar", &archive);
            store.dockerfile("FROM scratch\nADD rootfs.tar /\nCOPY passwd group /etc/\nENV BASE=yes\nCMD [\"sh\"]\n");
            store.request.platform = Platform::linux(architecture);
            let built = store.build().await;
            let manifest = built.image().manifest.clone();
            meanings.push(meaning(&store, &manifest, &[]));
            images.push((store.request.platform.clone(), manifest));
        }
        let index = serde_json::json!({
            "schemaVersion": 2,
            "mediaType": "application/vnd.oci.image.index.v1+json",
            "manifests": images.iter().map(|(_, manifest)| manifest).collect::<Vec<_>>(),
        });
        let descriptor = store
            .store
            .write("application/vnd.oci.image.index.v1+json", index.to_string().as_bytes())
            .expect("the cache is writable");
        Self { store, busybox: BaseImage { name: "busybox".to_owned(), descriptor, images }, meanings }
    }

    /// Returns the directory of the OCI layout.
    pub fn layout(&self) -> &Path {
        self.store.store.directory()
    }

    /// Returns the base image that every case has.
    pub fn busybox(&self) -> &BaseImage {
        &self.busybox
    }

    /// Returns what the base images that every case has mean.
    pub fn meanings(&self) -> &[Image] {
        &self.meanings
    }

    /// Returns `image` for a request for a build.
    pub fn requested<'a>(&'a self, image: &'a BaseImage) -> impl Iterator<Item = (BaseKey, Base)> + 'a {
        image.images.iter().map(|(platform, manifest)| {
            let key = BaseKey { reference: image.name.clone(), platform: platform.clone() };
            (key, Base { manifest: manifest.clone(), source: Arc::new(self.store.store.clone()) })
        })
    }

    /// Returns the test whose builder and cache make images of cases, too.
    pub fn test(&self) -> &Test {
        &self.store
    }
}

/// Reads an image in the cache of a test.
pub fn meaning(test: &Test, manifest: &Descriptor, bases: &[Image]) -> Image {
    let blobs = |digest: &str| {
        let path = test.store.blob_path(&digest.parse().expect("a digest"));
        std::fs::read(path).expect("the cache has what was built")
    };
    Image::read(&manifest.digest.to_string(), &blobs, bases)
}
