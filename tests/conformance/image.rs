//! What an image means: the files that its layers give when they are laid over each other, and its configuration. It is read
//! with the `tar` crate and not with the code under test.

use std::collections::BTreeMap;
use std::io::Read;
use std::sync::Arc;

use serde_json::{Value, json};
use tar::EntryType;

use crate::listing::{Entry, Kind};

/// Reads a blob by its digest.
pub type Blobs<'a> = &'a dyn Fn(&str) -> Vec<u8>;

/// An image's meaning.
#[derive(Clone, Debug, Default)]
pub struct Image {
    /// Files by their paths.
    pub files: Files,
    /// `config` of the image's configuration, without what says nothing, with the platform.
    pub config: BTreeMap<String, Value>,
    /// `created_by` of each line of the history.
    pub history: Vec<String>,
    /// The digests of the unpacked layers.
    pub layers: Vec<String>,
}

/// Files by path; other names of a file hold the same number.
#[derive(Clone, Debug, Default)]
pub struct Files(BTreeMap<String, (usize, Arc<Entry>)>);

impl Image {
    /// Reads an image whose layers may begin with those of one of `bases`, which are not read again.
    ///
    /// # Panics
    /// When it is no image.
    pub fn read(manifest: &str, blobs: Blobs<'_>, bases: &[Self]) -> Self {
        let document = |digest: &str| serde_json::from_slice::<Value>(&blobs(digest)).expect("a document of the image");
        let text = |value: &Value| value.as_str().expect("a string").to_owned();
        let manifest = document(manifest);
        let configuration = document(manifest["config"]["digest"].as_str().expect("a digest"));
        // Without layers both documents say null, or nothing.
        let layers: Vec<_> = configuration["rootfs"]["diff_ids"].as_array().into_iter().flatten().map(text).collect();
        let base = base_of(&layers, bases);
        let mut files = base.map(|base| base.files.clone()).unwrap_or_default();
        let known = base.map_or(0, |base| base.layers.len());
        let blobs_of_layers: Vec<_> = manifest["layers"].as_array().into_iter().flatten().collect();
        assert_eq!(blobs_of_layers.len(), layers.len(), "as many layers as digests of them");
        for layer in blobs_of_layers.iter().skip(known) {
            files.apply(&unpack(&blobs(layer["digest"].as_str().expect("a digest"))));
        }
        let history = configuration["history"].as_array().into_iter().flatten();
        Self {
            files,
            config: meaning(&configuration),
            history: history.map(|line| line["created_by"].as_str().unwrap_or_default().to_owned()).collect(),
            layers,
        }
    }

    /// Returns the image of `bases` that this one stands on.
    pub fn base<'a>(&self, bases: &'a [Self]) -> Option<&'a Self> {
        base_of(&self.layers, bases)
    }

    /// Returns what is different from the base image, as in a listing.
    pub fn changes(&self, bases: &[Self]) -> BTreeMap<String, String> {
        let before = self.base(bases).map(|base| base.files.describe()).unwrap_or_default();
        let mut after = self.files.describe();
        after.retain(|path, line| before.get(path) != Some(line));
        let stays = |path: &str| self.files.0.contains_key(path.trim_end_matches('/'));
        let gone = before.into_keys().filter(|path| !stays(path));
        after.extend(gone.map(|path| (path, "deleted".to_owned())).collect::<Vec<_>>());
        after
    }
}

fn base_of<'a>(layers: &[String], bases: &'a [Image]) -> Option<&'a Image> {
    bases.iter().filter(|base| !base.layers.is_empty() && layers.starts_with(&base.layers)).max_by_key(|base| base.layers.len())
}

/// Returns the fields that say something: `""`, `[]`, `{}`, null and false are the same as nothing.
fn meaning(configuration: &Value) -> BTreeMap<String, Value> {
    let mut fields: BTreeMap<String, Value> = BTreeMap::new();
    for (name, value) in configuration["config"].as_object().into_iter().flatten() {
        let empty = match value {
            Value::Null => true,
            Value::Bool(value) => !value,
            Value::String(text) => text.is_empty(),
            Value::Array(values) => values.is_empty() && name != "Cmd" && name != "Entrypoint",
            Value::Object(values) => values.is_empty(),
            Value::Number(_) => false,
        };
        if !empty {
            fields.insert(name.clone(), value.clone());
        }
    }
    fields.entry("WorkingDir".to_owned()).or_insert_with(|| json!("/"));
    let names = ["os", "architecture", "variant"].map(|name| configuration[name].as_str());
    fields.insert("platform".to_owned(), names.into_iter().flatten().collect::<Vec<_>>().join("/").into());
    fields
}

fn unpack(blob: &[u8]) -> Vec<u8> {
    let mut bytes = Vec::new();
    match blob {
        [0x1f, 0x8b, ..] => flate2::read::MultiGzDecoder::new(blob).read_to_end(&mut bytes).expect("a layer is whole"),
        _ => panic!("a layer that is not compressed with gzip"),
    };
    bytes
}

impl Files {
    /// Lays a layer, a tar archive, over these files.
    fn apply(&mut self, layer: &[u8]) {
        let mut entries = Vec::new();
        let mut archive = tar::Archive::new(layer);
        for member in archive.entries().expect("a layer is an archive") {
            let mut member = member.expect("a layer is an archive");
            let entry = read(&mut member);
            match entry.path.rsplit_once('/').unwrap_or(("", &entry.path)) {
                // What a layer removes is of the layers below, wherever in the layer that is said.
                (parent, ".wh..wh..opq") => self.remove_below(parent),
                (parent, name) if name.starts_with(".wh.") => {
                    let slash = if parent.is_empty() { "" } else { "/" };
                    self.remove(&format!("{parent}{slash}{}", &name[4..]));
                }
                _ => entries.push(entry),
            }
        }
        for entry in entries {
            self.put(entry);
        }
    }

    fn put(&mut self, entry: Entry) {
        // The root directory is the mount's.
        if entry.path.is_empty() {
            return;
        }
        let directory = |entry: &Entry| entry.kind == Kind::Directory;
        if self.0.get(&entry.path).is_some_and(|(_, old)| !(directory(old) && directory(&entry))) {
            self.remove(&entry.path);
        }
        if let Kind::Hardlink(target) = &entry.kind {
            let same = self.0.get(target).unwrap_or_else(|| panic!("a link to {target}, which is not there")).clone();
            self.0.insert(entry.path, same);
        } else {
            let number = self.0.values().map(|(number, _)| number + 1).max().unwrap_or(0);
            self.0.insert(entry.path.clone(), (number, Arc::new(entry)));
        }
    }

    fn remove(&mut self, path: &str) {
        self.0.remove(path);
        self.remove_below(path);
    }

    fn remove_below(&mut self, directory: &str) {
        let prefix = if directory.is_empty() { String::new() } else { format!("{directory}/") };
        self.0.retain(|path, _| !path.starts_with(&prefix));
    }

    /// Returns the lines of a listing by path.
    fn describe(&self) -> BTreeMap<String, String> {
        let mut first: BTreeMap<usize, &str> = BTreeMap::new();
        let mut lines = BTreeMap::new();
        for (path, (number, entry)) in &self.0 {
            let slash = Entry { path: path.clone(), ..Entry::clone(entry) };
            let line = match first.get(number) {
                Some(other) => Entry { kind: Kind::Hardlink((*other).to_owned()), ..slash.clone() }.describe(),
                None => slash.describe(),
            };
            first.entry(*number).or_insert(path);
            lines.insert(slash.name(), line);
        }
        lines
    }
}

/// Reads a member of a layer.
fn read(member: &mut tar::Entry<'_, impl Read>) -> Entry {
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    let path = text(&member.path_bytes()).trim_start_matches("./").trim_matches('/').to_owned();
    let target = member.link_name_bytes().map(|name| text(&name)).unwrap_or_default();
    let mut xattrs = BTreeMap::new();
    for extension in member.pax_extensions().expect("extensions are readable").into_iter().flatten() {
        let extension = extension.expect("extensions are readable");
        if let Some(name) = text(extension.key_bytes()).strip_prefix("SCHILY.xattr.") {
            xattrs.insert(name.to_owned(), extension.value_bytes().to_vec());
        }
    }
    let header = member.header();
    let number = |value: std::io::Result<u64>| u32::try_from(value.expect("a number")).expect("a small number");
    let (mode, uid, gid) = (header.mode().expect("a mode"), number(header.uid()), number(header.gid()));
    let device = || {
        let number = |value: std::io::Result<Option<u32>>| value.expect("a number").expect("a device has numbers");
        (number(header.device_major()), number(header.device_minor()))
    };
    let kind = match header.entry_type() {
        EntryType::Directory => Kind::Directory,
        EntryType::Symlink => Kind::Symlink(target),
        EntryType::Link => Kind::Hardlink(target.trim_start_matches('/').to_owned()),
        EntryType::Fifo => Kind::Fifo,
        EntryType::Char => Kind::Char(device().0, device().1),
        EntryType::Block => Kind::Block(device().0, device().1),
        EntryType::Regular | EntryType::Continuous => {
            let mut content = Vec::new();
            member.read_to_end(&mut content).expect("a layer is whole");
            Kind::File(content)
        }
        other => panic!("{path} is of type {other:?}, which no layer should have"),
    };
    Entry { path, kind, mode: mode & 0o7777, uid, gid, xattrs }
}
