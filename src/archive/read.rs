//! Reading archives of images: which member is a blob, and what the others are called.

use std::collections::{BTreeMap, BTreeSet};
use std::io::{self, Read};

use tar::EntryType;

use super::members::shown;
use super::{ArchiveError, Members};
use crate::oci::Digest;

/// A stream of an OCI layout or a `docker save` archive. After [`ImageArchive::next_part`], reading yields its data.
pub struct ImageArchive<R> {
    members: Members<R>,
    seen: BTreeSet<String>,
    links: BTreeMap<String, String>,
    current: String,
}

/// A member that has data.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Part {
    /// A blob of a layout, by its path; not verified.
    Blob {
        /// Digest in the path.
        digest: Digest,
        /// Bytes of data.
        size: u64,
    },
    /// Any other file.
    File {
        /// Path in the archive: relative, clean.
        path: String,
        /// Bytes of data.
        size: u64,
    },
}

/// Most members that an archive of images may have; `docker save` writes four for each layer.
const MEMBERS: usize = 100_000;
/// Most links that are followed one after the other, as in Linux.
const LINKS: usize = 40;

impl<R: Read> ImageArchive<R> {
    /// Wraps an uncompressed stream.
    pub fn new(input: R) -> Self {
        Self { members: Members::new(input), seen: BTreeSet::new(), links: BTreeMap::new(), current: String::new() }
    }

    /// Goes to the next file, or returns `None` after the last. Directories are skipped, links remembered.
    ///
    /// # Errors
    /// [`ArchiveError::Refused`] for members that no archive of images has.
    pub fn next_part(&mut self) -> Result<Option<Part>, ArchiveError> {
        while let Some(member) = self.members.next_member()? {
            let refused = |reason| ArchiveError::Refused { path: shown(&member.path), reason };
            let path = inner_path(b"", &member.path).map_err(refused)?;
            if member.kind == EntryType::Directory {
                continue;
            }
            if self.seen.len() >= MEMBERS {
                return Err(refused("there are too many members before it"));
            }
            let digest = blob_digest(&path);
            // A blob twice is the same bytes twice, or it is refused when it is verified.
            if !self.seen.insert(path.clone()) && digest.is_none() {
                return Err(refused("it is there twice"));
            }
            let target = match member.kind {
                EntryType::Regular | EntryType::Continuous => None,
                EntryType::Symlink => Some(inner_path(parent(member.path.as_slice()), &member.link)),
                EntryType::Link => Some(inner_path(b"", &member.link)),
                _ => return Err(refused("it is neither file, directory nor link")),
            };
            self.current = path.clone();
            match (target, digest) {
                (Some(target), _) => drop(self.links.insert(path, target.map_err(|_| refused("it links out of the archive"))?)),
                (None, Some(digest)) => return Ok(Some(Part::Blob { digest, size: member.size })),
                (None, None) => return Ok(Some(Part::File { path, size: member.size })),
            }
        }
        Ok(None)
    }

    /// Returns `error`, from reading the current part, in the words of this module.
    pub fn explain(&self, error: io::Error) -> ArchiveError {
        self.members.explain(error, &format!("`{}`", self.current))
    }

    /// Reads what is left of the stream and returns the links: how members are called besides.
    ///
    /// # Errors
    /// When the stream cannot be read to its end.
    pub fn finish(self) -> Result<Links, ArchiveError> {
        self.members.finish()?;
        Ok(Links(self.links))
    }
}

impl<R: Read> Read for ImageArchive<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        self.members.read(buffer)
    }
}

/// The links of an archive.
#[derive(Clone, Debug, Default)]
pub struct Links(BTreeMap<String, String>);

impl Links {
    /// Returns the path that `path` means after all links at its end, or itself.
    pub fn resolve(&self, path: &str) -> String {
        let clean = inner_path(b"", path.as_bytes()).unwrap_or_else(|_| path.to_owned());
        let mut at = &clean;
        for _ in 0..LINKS {
            match self.0.get(at) {
                Some(target) => at = target,
                None => break,
            }
        }
        at.clone()
    }
}

/// Returns `path`, taken from the directory `base` of the archive, as a clean path inside it.
fn inner_path(base: &[u8], path: &[u8]) -> Result<String, &'static str> {
    if path.starts_with(b"/") {
        return Err("its path is absolute");
    }
    let text = |bytes| std::str::from_utf8(bytes).map_err(|_| "its name is no text");
    let mut parts = Vec::new();
    for part in text(base)?.split('/').chain(text(path)?.split('/')) {
        match part {
            "" | "." => {}
            ".." => drop(parts.pop().ok_or("its path leads out of the archive")?),
            part => parts.push(part),
        }
    }
    Ok(parts.join("/"))
}

fn parent(path: &[u8]) -> &[u8] {
    path.iter().rposition(|b| *b == b'/').map_or(b"", |slash| &path[..slash])
}

fn blob_digest(path: &str) -> Option<Digest> {
    let (algorithm, hex) = path.strip_prefix("blobs/")?.split_once('/')?;
    format!("{algorithm}:{hex}").parse().ok()
}

#[cfg(test)]
mod tests {
    use tar::Header;

    use super::*;

    fn member(path: &[u8], kind: EntryType, link: &[u8]) -> Vec<u8> {
        let mut header = Header::new_ustar();
        header.as_mut_bytes()[..path.len()].copy_from_slice(path);
        header.as_mut_bytes()[157..157 + link.len()].copy_from_slice(link);
        header.set_entry_type(kind);
        header.set_size(0);
        header.set_cksum();
        header.as_bytes().to_vec()
    }

    #[test]
    fn members_that_reach_outside_are_refused() {
        for (path, kind, link) in [
            (&b"/etc/passwd"[..], EntryType::Regular, &b""[..]),
            (b"../index.json", EntryType::Regular, b""),
            (b"a/../../b", EntryType::Directory, b""),
            (b"a", EntryType::Symlink, b"/etc/passwd"),
            (b"a/b", EntryType::Symlink, b"../../c"),
            (b"a", EntryType::Link, b"../c"),
            (b"a", EntryType::Char, b""),
            (b"a", EntryType::Fifo, b""),
            (b"\xff", EntryType::Regular, b""),
        ] {
            let bytes = member(path, kind, link);
            let result = ImageArchive::new(&bytes[..]).next_part();
            assert!(matches!(result, Err(ArchiveError::Refused { .. })), "{:?}: {result:?}", String::from_utf8_lossy(path));
        }
    }

    #[test]
    fn a_document_that_is_there_twice_is_refused() {
        let bytes = [member(b"index.json", EntryType::Regular, b""), member(b"./index.json", EntryType::Regular, b"")].concat();
        let mut archive = ImageArchive::new(&bytes[..]);
        archive.next_part().expect("the first");
        assert!(matches!(archive.next_part(), Err(ArchiveError::Refused { .. })));
    }

    #[test]
    fn links_inside_the_archive_are_followed_and_loops_end() {
        let bytes = [
            member(b"a/layer.tar", EntryType::Symlink, b"../b/layer.tar"),
            member(b"b/layer.tar", EntryType::Link, b"c.tar"),
            member(b"x", EntryType::Symlink, b"y"),
            member(b"y", EntryType::Symlink, b"x"),
        ]
        .concat();
        let mut archive = ImageArchive::new(&bytes[..]);
        assert_eq!(archive.next_part().expect("reads"), None);
        let links = archive.finish().expect("reads");
        assert_eq!(links.resolve("a/layer.tar"), "c.tar");
        assert_eq!(links.resolve("./c.tar"), "c.tar");
        links.resolve("x");
    }
}
