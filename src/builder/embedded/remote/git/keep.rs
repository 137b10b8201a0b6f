//! `.git` for `--keep-git-dir`: the commit without its history, made anew so that equal commits give equal bytes.
//!
//! ```text
//! HEAD              the commit
//! config            what every repository has, and the address without user and password
//! packed-refs       the branch or tag that was asked for, if any
//! shallow           the commit: its parents are not here
//! index             the files as they are beside it, with sizes and without times
//! objects/pack/     one pack, objects sorted by name and each on its own; its index
//! ```
//! Submodules have their files and no repository of their own.

use std::collections::BTreeSet;
use std::io::{self, Write};

use flate2::Compression;
use flate2::write::ZlibEncoder;
use git2::{Indexer, ObjectType, Oid, Repository};
use sha1::{Digest, Sha1};

use super::export::{Blob, What, put};
use super::objects::Objects;
use crate::builder::embedded::remote::error::RemoteError;
use crate::builder::embedded::remote::location::GitUrl;
use crate::builder::embedded::snapshot::upper::Upper;
use crate::builder::embedded::tree::Entry;
use crate::time::SourceDate;

/// What the `.git` is of.
pub(super) struct Kept<'a> {
    pub(super) url: &'a GitUrl,
    pub(super) objects: &'a Objects,
    /// What was asked for, and what it is: a tag object or the commit.
    pub(super) reference: Option<(&'a str, Oid)>,
    pub(super) commit: Oid,
    pub(super) files: &'a [Blob],
}

/// Writes `.git`.
///
/// # Errors
/// When objects cannot be read or files not be written.
pub(super) fn write(upper: &mut Upper<'_>, kept: &Kept<'_>, date: SourceDate) -> Result<(), RemoteError> {
    let repository = kept.objects.open()?;
    let commit = kept.commit;
    let directory = Entry::directory(0o755, 0, 0, date.0);
    for path in [".git/objects/info", ".git/objects/pack", ".git/refs/heads", ".git/refs/tags"] {
        upper.ensure_directory(path.as_bytes(), &directory)?;
    }
    let mut text = |path: &str, content: &str| put(upper, path, date, |mut file| file.write_all(content.as_bytes()));
    text(".git/HEAD", &format!("{commit}\n"))?;
    text(".git/shallow", &format!("{commit}\n"))?;
    let address = kept.url.to_string().replace('\\', "\\\\").replace('"', "\\\"");
    text(
        ".git/config",
        &format!(
            "[core]\n\trepositoryformatversion = 0\n\tfilemode = true\n\tbare = false\n\
             [remote \"origin\"]\n\turl = \"{address}\"\n\tfetch = +refs/heads/*:refs/remotes/origin/*\n"
        ),
    )?;
    if let Some((name, object)) = kept.reference {
        let peeled = if object == commit { String::new() } else { format!("^{commit}\n") };
        text(".git/packed-refs", &format!("# pack-refs with: peeled fully-peeled sorted \n{object} {name}\n{peeled}"))?;
    }
    put(upper, ".git/index", date, |file| write_index(file, kept.files))?;
    let wanted = objects_of(kept, &repository)?;
    // The name of a pack is known when it is written.
    let mut pack = tempfile::tempfile_in(&upper.draft.work)?;
    let name = write_pack(&mut pack, kept.objects, &repository, &wanted)?;
    let scratch = tempfile::tempdir_in(&upper.draft.work)?;
    io::Seek::rewind(&mut pack)?;
    let mut indexer = Indexer::new(None, scratch.path(), 0o600, false).map_err(|error| kept.objects.error(error))?;
    io::copy(&mut pack, &mut indexer)?;
    let indexed = indexer.commit().map_err(|error| kept.objects.error(error))?;
    let mut index = fs_err::File::open(scratch.path().join(format!("pack-{indexed}.idx")))?;
    io::Seek::rewind(&mut pack)?;
    put(upper, &format!(".git/objects/pack/pack-{name}.pack"), date, |mut file| io::copy(&mut pack, &mut file).map(drop))?;
    put(upper, &format!(".git/objects/pack/pack-{name}.idx"), date, |mut file| io::copy(&mut index, &mut file).map(drop))
}

/// Returns all objects of the commit, and the tags that lead to it.
fn objects_of(kept: &Kept<'_>, repository: &Repository) -> Result<BTreeSet<Oid>, RemoteError> {
    let failed = |error| kept.objects.error(error);
    let mut wanted = BTreeSet::from([kept.commit, kept.objects.tree(repository, kept.commit)?.id()]);
    wanted.extend(kept.files.iter().filter(|entry| entry.what != What::Module).map(|entry| entry.id));
    let mut tag = kept.reference.map(|(_, object)| object).filter(|object| *object != kept.commit);
    while let Some(object) = tag {
        wanted.insert(object);
        let target = repository.find_tag(object).map_err(failed)?.target_id();
        tag = Some(target).filter(|target| *target != kept.commit);
    }
    Ok(wanted)
}

/// Writes through, and hashes.
struct Hashing<W> {
    inner: W,
    hasher: Sha1,
}

impl<W: Write> Write for Hashing<W> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let written = self.inner.write(bytes)?;
        self.hasher.update(&bytes[..written]);
        Ok(written)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.inner.flush()
    }
}

/// Writes a pack of version 2 without deltas and returns its name.
fn write_pack(
    file: impl Write,
    objects: &Objects,
    repository: &Repository,
    wanted: &BTreeSet<Oid>,
) -> Result<String, RemoteError> {
    let odb = repository.odb().map_err(|error| objects.error(error))?;
    let mut out = Hashing { inner: io::BufWriter::with_capacity(1 << 20, file), hasher: Sha1::new() };
    let count = u32::try_from(wanted.len()).map_err(io::Error::other)?;
    out.write_all(b"PACK\0\0\0\x02")?;
    out.write_all(&count.to_be_bytes())?;
    for id in wanted {
        let object = odb.read(*id).map_err(|error| objects.error(error))?;
        let kind = match object.kind() {
            ObjectType::Commit => 1,
            ObjectType::Tree => 2,
            ObjectType::Blob => 3,
            _ => 4,
        };
        let mut size = object.len() as u64;
        let mut byte = (kind << 4) | (size & 15) as u8;
        size >>= 4;
        while size > 0 {
            out.write_all(&[byte | 0x80])?;
            byte = (size & 0x7f) as u8;
            size >>= 7;
        }
        out.write_all(&[byte])?;
        let mut encoder = ZlibEncoder::new(&mut out, Compression::new(6));
        encoder.write_all(object.data())?;
        encoder.finish()?;
    }
    let name = out.hasher.finalize();
    out.inner.write_all(&name)?;
    out.inner.flush()?;
    Ok(crate::oci::digest::hex(&name))
}

/// Writes an index of version 2. Times are zero, so git looks at the files once and finds them unchanged.
fn write_index(file: impl Write, files: &[Blob]) -> io::Result<()> {
    let mut out = Hashing { inner: io::BufWriter::new(file), hasher: Sha1::new() };
    let entries: Vec<&Blob> = files.iter().filter(|entry| entry.what != What::Directory).collect();
    out.write_all(b"DIRC\0\0\0\x02")?;
    out.write_all(&u32::try_from(entries.len()).map_err(io::Error::other)?.to_be_bytes())?;
    for entry in entries {
        let mode: u32 = match entry.what {
            What::Program => 0o100_755,
            What::Symlink => 0o120_000,
            What::Module => 0o160_000,
            What::File | What::Directory => 0o100_644,
        };
        let mut fields = [0u32; 10];
        fields[6] = mode;
        fields[9] = entry.size as u32;
        for field in fields {
            out.write_all(&field.to_be_bytes())?;
        }
        out.write_all(entry.id.as_bytes())?;
        out.write_all(&(entry.path.len().min(0xfff) as u16).to_be_bytes())?;
        out.write_all(&entry.path)?;
        // At least one NUL, up to a multiple of eight bytes.
        let length = 62 + entry.path.len();
        out.write_all(&[0; 8][..8 - length % 8])?;
    }
    let name = out.hasher.finalize();
    out.inner.write_all(&name)?;
    out.inner.flush()
}
