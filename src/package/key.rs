//! The key of a package's inputs: one hash over all that decides what its images hold.
//!
//! What is hashed is a list of named parts, each over values that are preceded by their length, so that no two lists of
//! values are the same bytes. The version changes when the form does.
//!
//! # What is left out
//! - The package's own name, `PKG_IMAGE` and `PKG_HASH`: keys are only compared under one name, and the hash follows from
//!   the key.
//! - The commit: `REVISION`, `GOPKGVERSION` and the label `org.opencontainers.image.revision`, unless somebody sets them.
//!   Every commit would be a new image of every package.
//! - Time: `SOURCE_DATE_EPOCH` and the times of files.
//! - What a checkout does not keep: owners, extended attributes, empty directories, permissions but the execute bit; and
//!   git's own directory. What is neither file, directory nor symbolic link.
//! - Where the sources lie on this machine, which machine builds, the version of this program.
//! - Which of the platforms a run builds, and whether it reads the cache (`disable-cache`).
//! - Labels and annotations of the command line: `show-tag` does not know them.
//! - What tags of base images outside of the workspace mean today; a digest in the Dockerfile pins them.
//! - What `RUN` steps fetch from the network.

use std::collections::{BTreeMap, BTreeSet};
use std::os::unix::ffi::OsStrExt;
use std::path::PathBuf;

use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};

use crate::oci::Platform;

/// The annotation of image manifests that holds an [`InputKey`].
pub const INPUT_KEY: &str = "org.pkgbuild.input-key";

/// The version of the form below.
const VERSION: u32 = 1;

/// All that decides what a package's images hold.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) struct Inputs {
    /// The package's own files.
    pub(super) files: Content,
    /// Where further files appear in the context, in order: of two with one path the later wins.
    pub(super) extra_sources: Vec<(PathBuf, Content)>,
    /// Path of the Dockerfile in the package's directory.
    pub(super) dockerfile: PathBuf,
    /// Arguments that somebody sets, expanded.
    pub(super) arguments: BTreeMap<String, String>,
    /// The images that the Dockerfile names, as written after expansion, and for which platform.
    pub(super) bases: BTreeSet<(String, Platform)>,
    /// Keys of the packages that it needs.
    pub(super) dependencies: BTreeSet<String>,
    /// Platforms that it can be built for.
    pub(super) platforms: BTreeSet<Platform>,
    /// Whether `RUN` steps reach the network.
    pub(super) network: bool,
    /// The stage to build; `None` for the last.
    pub(super) target: Option<String>,
    /// The label that holds the `config` section.
    pub(super) config: Option<String>,
    /// Where the source is: a label, and the argument `SOURCE`.
    pub(super) gitrepo: String,
    /// Labels of build.yml.
    pub(super) labels: BTreeMap<String, String>,
    /// Annotations of build.yml.
    pub(super) annotations: BTreeMap<String, String>,
}

/// The content of one directory of the context.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub(super) struct Content {
    /// Git's tree id, when the directory is as committed.
    pub(super) tree: Option<String>,
    /// A hash of the files that git does not answer for, in hex, when there are any.
    pub(super) files: Option<String>,
}

/// The key of a package's inputs, with a short hash of each part: those tell what moved, the key whether something did.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct InputKey {
    version: u32,
    key: String,
    parts: BTreeMap<String, String>,
}

impl Inputs {
    /// Returns the key.
    pub(super) fn key(&self) -> InputKey {
        let mut whole = Canonical::new("pkgbuild inputs");
        whole.number(u64::from(VERSION));
        let mut parts = BTreeMap::new();
        for (name, part) in self.parts() {
            let hash = part.finish();
            whole.bytes(name.as_bytes());
            whole.bytes(hash.as_bytes());
            parts.insert(name.to_owned(), hash[..16].to_owned());
        }
        InputKey { version: VERSION, key: whole.finish(), parts }
    }

    fn parts(&self) -> Vec<(&'static str, Canonical)> {
        // No field can be forgotten here.
        let Self {
            files,
            extra_sources,
            dockerfile,
            arguments,
            bases,
            dependencies,
            platforms,
            network,
            target,
            config,
            gitrepo,
            labels,
            annotations,
        } = self;
        let mut parts = Vec::new();
        let mut part = |name: &'static str, fill: &dyn Fn(&mut Canonical)| {
            let mut canonical = Canonical::new(name);
            fill(&mut canonical);
            parts.push((name, canonical));
        };
        part("files", &|c| c.content(files));
        part("extra-sources", &|c| {
            c.number(extra_sources.len() as u64);
            for (destination, content) in extra_sources {
                c.bytes(destination.as_os_str().as_bytes());
                c.content(content);
            }
        });
        part("dockerfile", &|c| c.bytes(dockerfile.as_os_str().as_bytes()));
        part("arguments", &|c| c.map(arguments));
        part("bases", &|c| {
            c.number(bases.len() as u64);
            for (reference, platform) in bases {
                c.bytes(reference.as_bytes());
                c.bytes(platform.to_string().as_bytes());
            }
        });
        part("dependencies", &|c| c.list(dependencies));
        part("platforms", &|c| c.list(&platforms.iter().map(ToString::to_string).collect()));
        part("network", &|c| c.number(u64::from(*network)));
        part("target", &|c| c.option(target.as_deref()));
        part("config", &|c| c.option(config.as_deref()));
        part("labels", &|c| {
            c.bytes(gitrepo.as_bytes());
            c.map(labels);
        });
        part("annotations", &|c| c.map(annotations));
        parts
    }
}

impl InputKey {
    /// Reads what an annotation holds.
    ///
    /// # Errors
    /// When it is no key.
    pub fn parse(text: &str) -> Result<Self, serde_json::Error> {
        serde_json::from_str(text)
    }

    /// Returns the value of the annotation.
    pub fn annotation(&self) -> String {
        serde_json::to_string(self).expect("texts and a map with text keys")
    }

    /// Returns the key in hex.
    pub fn key(&self) -> &str {
        &self.key
    }

    /// Returns the parts that differ from `old`, or `None` when both are the same. No part is named when `old` was made by
    /// another version, whose keys cannot be compared.
    pub fn moved_since(&self, old: &Self) -> Option<Vec<&str>> {
        if self.version != old.version || self.key == old.key {
            return None;
        }
        let differs = |name: &&String| self.parts.get(*name) != old.parts.get(*name);
        Some(self.parts.keys().filter(differs).map(String::as_str).collect())
    }
}

/// A hash over values that are preceded by their length.
pub(super) struct Canonical(Sha256);

impl Canonical {
    /// `purpose` keeps hashes of different things apart.
    pub(super) fn new(purpose: &str) -> Self {
        let mut canonical = Self(Sha256::new());
        canonical.bytes(purpose.as_bytes());
        canonical
    }

    pub(super) fn number(&mut self, number: u64) {
        self.0.update(number.to_le_bytes());
    }

    pub(super) fn bytes(&mut self, bytes: &[u8]) {
        self.number(bytes.len() as u64);
        self.0.update(bytes);
    }

    fn option(&mut self, text: Option<&str>) {
        self.number(u64::from(text.is_some()));
        self.bytes(text.unwrap_or_default().as_bytes());
    }

    fn list(&mut self, texts: &BTreeSet<String>) {
        self.number(texts.len() as u64);
        texts.iter().for_each(|text| self.bytes(text.as_bytes()));
    }

    fn map(&mut self, map: &BTreeMap<String, String>) {
        self.number(map.len() as u64);
        for (key, value) in map {
            self.bytes(key.as_bytes());
            self.bytes(value.as_bytes());
        }
    }

    fn content(&mut self, content: &Content) {
        self.option(content.tree.as_deref());
        self.option(content.files.as_deref());
    }

    /// Returns the hash in hex.
    pub(super) fn finish(self) -> String {
        self.0.finalize().iter().map(|byte| format!("{byte:02x}")).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn inputs() -> Inputs {
        let map = |key: &str, value: &str| BTreeMap::from([(key.to_owned(), value.to_owned())]);
        Inputs {
            files: Content { tree: Some("t".to_owned()), files: None },
            extra_sources: vec![("a".into(), Content::default()), ("b".into(), Content::default())],
            dockerfile: "Dockerfile".into(),
            arguments: map("A", "1"),
            bases: BTreeSet::from([("alpine:3".to_owned(), Platform::linux("amd64"))]),
            dependencies: BTreeSet::from(["k".to_owned()]),
            platforms: BTreeSet::from([Platform::linux("amd64")]),
            network: false,
            target: None,
            config: None,
            gitrepo: "g".to_owned(),
            labels: map("l", "1"),
            annotations: map("n", "1"),
        }
    }

    /// A name of a part, and a change to it.
    type Mutation = (&'static str, fn(&mut Inputs));

    #[test]
    fn every_input_changes_the_key_and_its_own_part_only() {
        let mutations: &[Mutation] = &[
            ("files", |i| i.files.tree = None),
            ("files", |i| i.files.files = Some(String::new())),
            ("files", |i| i.files = Content { tree: None, files: Some("t".to_owned()) }),
            ("extra-sources", |i| i.extra_sources[0].0 = "c".into()),
            ("extra-sources", |i| i.extra_sources[1].1.tree = Some("t".to_owned())),
            ("extra-sources", |i| i.extra_sources.swap(0, 1)),
            ("extra-sources", |i| i.extra_sources.truncate(1)),
            ("dockerfile", |i| i.dockerfile = "Dockerfile.x".into()),
            ("arguments", |i| {
                i.arguments.insert("A".to_owned(), "2".to_owned());
            }),
            ("arguments", |i| i.arguments = BTreeMap::from([("A1".to_owned(), String::new())])),
            ("arguments", |i| i.arguments.clear()),
            ("bases", |i| {
                i.bases.insert(("alpine:4".to_owned(), Platform::linux("amd64")));
            }),
            ("bases", |i| i.bases = BTreeSet::from([("alpine:3".to_owned(), Platform::linux("arm64"))])),
            ("dependencies", |i| i.dependencies = BTreeSet::from(["l".to_owned()])),
            ("platforms", |i| {
                i.platforms.insert(Platform::linux("arm64"));
            }),
            ("network", |i| i.network = true),
            ("target", |i| i.target = Some(String::new())),
            ("config", |i| i.config = Some(String::new())),
            ("labels", |i| i.gitrepo.clear()),
            ("labels", |i| i.labels.clear()),
            ("annotations", |i| i.annotations.clear()),
        ];
        let before = inputs().key();
        let mut keys = BTreeSet::from([before.key.clone()]);
        for (part, mutation) in mutations {
            let mut inputs = inputs();
            mutation(&mut inputs);
            let after = inputs.key();
            assert_eq!(after.moved_since(&before), Some(vec![*part]));
            assert!(keys.insert(after.key), "{part}: two changes have one key");
        }
        let tested: BTreeSet<&str> = mutations.iter().map(|(part, _)| *part).collect();
        assert_eq!(tested, before.parts.keys().map(String::as_str).collect(), "each part is tested");
    }

    #[test]
    fn a_key_is_read_from_its_annotation_and_never_compared_with_another_versions() {
        let key = inputs().key();
        let read = InputKey::parse(&key.annotation()).expect("a key");
        assert_eq!((read.moved_since(&key), &read), (None, &key));
        let other = InputKey { version: 2, key: String::new(), parts: BTreeMap::new() };
        assert_eq!(key.moved_since(&other), None);
        assert!(InputKey::parse("sha256:abc").is_err());
    }

    /// `printf '\x05\0\0\0\0\0\0\0files\x01\0\0\0\0\0\0\0a' | sha256sum`.
    #[test]
    fn values_are_preceded_by_their_length() {
        let mut canonical = Canonical::new("files");
        canonical.bytes(b"a");
        assert_eq!(canonical.finish(), "24a5fd0432083b0979408b484d6df1d3b117d259a65e8b5a87fae53e7152865e");
    }
}
