//! The file system of an image as one tar: layers laid over each other, whiteouts honoured.
//!
//! Two readings of each layer and no file on disk: the first learns which member each path comes from in the end, the second
//! writes those. Directories come first, sorted, so that everything has its parent; then files in the order of the layers.

use std::io::{self, Read, Write};

use tar::{EntryType, Header};

use super::tree::{Origin, Tree};
use super::write::TarWriter;
use super::{ArchiveError, Compression, Member, Members, Open};
use crate::oci::Descriptor;

/// Longest name that fits into a header itself.
const NAME: usize = 100;

/// Writes the file system that `layers`, lowest first, make.
///
/// # Errors
/// When a layer is no file system, cannot be read, or `out` cannot be written.
pub fn flatten<E: From<ArchiveError>>(layers: &[Descriptor], out: impl Write, open: Open<'_, E>) -> Result<(), E> {
    let mut tree = Tree::new();
    for (n, layer) in (0..).zip(layers) {
        each_member(layer, n, open, &mut |origin, member, _| tree.apply(origin, member))?;
    }
    let plan = tree.into_plan();
    let mut out = TarWriter::new(out);
    for (path, member) in &plan.directories {
        let path = if path.is_empty() { b"./".to_vec() } else { [path, &b"/"[..]].concat() };
        write_member(&mut out, &path, EntryType::Directory, b"", member)?;
    }
    for (n, layer) in (0..).zip(layers) {
        if plan.files.range((n, 0)..=(n, u32::MAX)).next().is_none() {
            continue;
        }
        each_member(layer, n, open, &mut |origin, member, data| match plan.files.get(&origin) {
            None => Ok(()),
            Some(paths) => write_paths(&mut out, paths, member, data),
        })?;
    }
    Ok(out.finish()?)
}

type Visit<'a> = &'a mut dyn FnMut(Origin, &Member, &mut dyn Read) -> Result<(), ArchiveError>;

fn each_member<E: From<ArchiveError>>(layer: &Descriptor, n: u32, open: Open<'_, E>, visit: Visit<'_>) -> Result<(), E> {
    let compression = Compression::of_media_type(&layer.media_type)
        .ok_or_else(|| ArchiveError::Layer { layer: layer.digest.to_string(), media_type: layer.media_type.clone() })?;
    let reader = compression.decode(open(layer)?).map_err(ArchiveError::io("decompress a layer for"))?;
    let mut members = Members::new(reader);
    let mut number = 0;
    while let Some(member) = members.next_member()? {
        visit((n, number), &member, &mut members)?;
        number += 1;
    }
    // The blob's own end must be seen for its digest to be checked.
    Ok(members.finish()?)
}

/// Writes a member under its first path, and hard links to it under the others.
fn write_paths(
    out: &mut TarWriter<impl Write>,
    paths: &[Vec<u8>],
    member: &Member,
    data: &mut dyn Read,
) -> Result<(), ArchiveError> {
    let Some((first, links)) = paths.split_first() else { return Ok(()) };
    write_member(out, first, member.kind, &member.link, member)?;
    out.data(&String::from_utf8_lossy(first), member.size, data)?;
    for link in links {
        write_member(out, link, EntryType::Link, first, member)?;
    }
    Ok(())
}

fn write_member(
    out: &mut TarWriter<impl Write>,
    path: &[u8],
    kind: EntryType,
    link: &[u8],
    member: &Member,
) -> Result<(), ArchiveError> {
    let mut records: Vec<(&[u8], &[u8])> = Vec::new();
    records.extend((path.len() > NAME).then_some((&b"path"[..], path)));
    records.extend((link.len() > NAME).then_some((&b"linkpath"[..], link)));
    records.extend(member.records.iter().map(|(key, value)| (&key[..], &value[..])));
    if !records.is_empty() {
        write_records(out, &records)?;
    }
    let size = if matches!(kind, EntryType::Link | EntryType::Directory) { 0 } else { member.size };
    out.write(header(path, kind, link, size, &member.header).as_bytes())
}

/// Returns `like` with other names. Mode, owner, time and device numbers stay as the layer has them.
fn header(path: &[u8], kind: EntryType, link: &[u8], size: u64, like: &Header) -> Header {
    let mut header = like.clone();
    let bytes = header.as_mut_bytes();
    for (field, text) in [(0..NAME, path), (157..157 + NAME, link)] {
        let short = &text[..text.len().min(NAME)];
        bytes[field.clone()].fill(0);
        bytes[field.start..field.start + short.len()].copy_from_slice(short);
    }
    // Prefix of the name, or GNU's times and sparse map: none of them is true of this member any more.
    bytes[345..].fill(0);
    if &bytes[257..262] != b"ustar" {
        bytes[257..265].copy_from_slice(b"ustar\x0000");
    }
    header.set_entry_type(if kind == EntryType::Continuous { EntryType::Regular } else { kind });
    header.set_size(size);
    header.set_cksum();
    header
}

fn write_records(out: &mut TarWriter<impl Write>, records: &[(&[u8], &[u8])]) -> Result<(), ArchiveError> {
    let mut bytes = Vec::new();
    for (key, value) in records {
        let rest = key.len() + value.len() + 3;
        // The length counts its own digits.
        let mut length = rest + 1;
        while length != rest + length.to_string().len() {
            length = rest + length.to_string().len();
        }
        bytes.extend_from_slice(format!("{length} ").as_bytes());
        bytes.extend_from_slice(key);
        bytes.push(b'=');
        bytes.extend_from_slice(value);
        bytes.push(b'\n');
    }
    let mut header = Header::new_ustar();
    header.as_mut_bytes()[..9].copy_from_slice(b"././@PaxH");
    header.set_entry_type(EntryType::XHeader);
    header.set_mode(0o644);
    header.set_uid(0);
    header.set_gid(0);
    header.set_mtime(0);
    header.set_size(bytes.len() as u64);
    header.set_cksum();
    out.write(header.as_bytes())?;
    out.data("pax records", bytes.len() as u64, io::Cursor::new(bytes))
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;
    use crate::oci::MediaType;

    /// A member of a test layer: path, type, link or data.
    type Part = (&'static str, char, &'static str);

    fn layer(parts: &[Part]) -> Vec<u8> {
        let mut builder = tar::Builder::new(Vec::new());
        for (path, kind, text) in parts {
            let mut header = Header::new_gnu();
            header.set_mode(if *kind == 'd' { 0o755 } else { 0o644 });
            header.set_entry_type(match kind {
                'd' => EntryType::Directory,
                'l' => EntryType::Symlink,
                'h' => EntryType::Link,
                _ => EntryType::Regular,
            });
            match kind {
                'l' | 'h' => builder.append_link(&mut header, path, text).expect("memory"),
                _ if path.starts_with("..") => {
                    // The tar crate refuses to write such a name.
                    header.as_mut_bytes()[..path.len()].copy_from_slice(path.as_bytes());
                    header.set_size(text.len() as u64);
                    header.set_cksum();
                    builder.append(&header, text.as_bytes()).expect("memory");
                }
                _ => {
                    header.set_size(text.len() as u64);
                    builder.append_data(&mut header, path, text.as_bytes()).expect("memory");
                }
            }
        }
        builder.into_inner().expect("memory")
    }

    fn flat(layers: &[&[Part]]) -> Vec<u8> {
        let bytes: Vec<Vec<u8>> = layers.iter().map(|parts| layer(parts)).collect();
        let descriptors: Vec<Descriptor> = bytes.iter().map(|bytes| Descriptor::of(MediaType::LAYER_TAR, bytes)).collect();
        let blobs: BTreeMap<_, _> = descriptors.iter().map(|d| d.digest).zip(bytes).collect();
        let mut out = Vec::new();
        let mut open = |descriptor: &Descriptor| -> Result<Box<dyn Read + Send>, ArchiveError> {
            Ok(Box::new(io::Cursor::new(blobs[&descriptor.digest].clone())))
        };
        flatten(&descriptors, &mut out, &mut open).expect("flattens");
        out
    }

    /// Returns `path kind text`, sorted, as the tar crate reads it.
    fn listing(bytes: &[u8]) -> Vec<String> {
        let mut lines = Vec::new();
        for entry in tar::Archive::new(bytes).entries().expect("reads") {
            let mut entry = entry.expect("reads");
            let path = String::from_utf8(entry.path_bytes().into_owned()).expect("text");
            let link = entry.link_name_bytes().map(|link| String::from_utf8_lossy(&link).into_owned());
            let kind = match entry.header().entry_type() {
                EntryType::Directory => 'd',
                EntryType::Symlink => 'l',
                EntryType::Link => 'h',
                _ => 'f',
            };
            let mut text = String::new();
            entry.read_to_string(&mut text).expect("text");
            lines.push(format!("{path} {kind} {}", link.unwrap_or(text)).trim_end().to_owned());
        }
        lines.sort();
        lines
    }

    #[test]
    fn upper_layers_replace_hide_and_keep() {
        let lower: &[Part] =
            &[("d", 'd', ""), ("d/a", 'f', "1"), ("d/b", 'f', "1"), ("e", 'd', ""), ("e/x", 'f', "1"), ("f", 'f', "1")];
        let upper: &[Part] =
            &[("d/a", 'f', "2"), ("d/.wh.b", 'f', ""), ("e", 'f', "a file now"), ("f", 'd', ""), ("f/y", 'f', "2")];
        assert_eq!(listing(&flat(&[lower, upper])), ["d/ d", "d/a f 2", "e f a file now", "f/ d", "f/y f 2"]);
    }

    #[test]
    fn whiteouts_hide_lower_layers_only_whatever_their_order() {
        let lower: &[Part] = &[("d", 'd', ""), ("d/old", 'f', "1"), ("d/s", 'd', ""), ("d/s/old", 'f', "1"), ("g", 'f', "1")];
        for upper in [
            &[("d/.wh..wh..opq", 'f', ""), ("d/new", 'f', "2"), ("d/s/new", 'f', "2"), (".wh.g", 'f', ""), ("g", 'f', "2")][..],
            &[("d/new", 'f', "2"), ("d/s/new", 'f', "2"), ("d/.wh..wh..opq", 'f', ""), ("g", 'f', "2"), (".wh.g", 'f', "")],
        ] {
            // `d/s` was hidden with its metadata, and is only there for what is below it.
            assert_eq!(listing(&flat(&[lower, upper])), ["d/ d", "d/new f 2", "d/s/new f 2", "g f 2"]);
        }
        let hidden: &[Part] = &[(".wh.d", 'f', ""), (".wh.none", 'f', ""), ("no/.wh.x", 'f', ""), (".wh..wh.plnk", 'd', "")];
        assert_eq!(listing(&flat(&[lower, hidden])), ["g f 1"]);
    }

    #[test]
    fn hard_links_outlive_the_path_they_were_made_to() {
        let lower: &[Part] = &[("a", 'f', "data"), ("b", 'h', "a"), ("c", 'h', "a")];
        assert_eq!(listing(&flat(&[lower])), ["a f data", "b h a", "c h a"]);
        assert_eq!(listing(&flat(&[lower, &[(".wh.a", 'f', "")]])), ["b f data", "c h b"]);
        assert_eq!(listing(&flat(&[lower, &[("a", 'f', "new")]])), ["a f new", "b f data", "c h b"]);
    }

    #[test]
    fn links_in_parents_are_followed_inside_the_root() {
        let lower: &[Part] =
            &[("usr/lib", 'd', ""), ("lib", 'l', "usr/lib"), ("abs", 'l', "/usr/lib"), ("up", 'l', "../../../usr")];
        let upper: &[Part] = &[("lib/a", 'f', "1"), ("abs/b", 'f', "2"), ("up/lib/c", 'f', "3"), ("../../d", 'f', "4")];
        assert_eq!(
            listing(&flat(&[lower, upper])),
            [
                "abs l /usr/lib",
                "d f 4",
                "lib l usr/lib",
                "up l ../../../usr",
                "usr/lib/ d",
                "usr/lib/a f 1",
                "usr/lib/b f 2",
                "usr/lib/c f 3"
            ]
        );
        let looping: &[Part] = &[("x", 'l', "y"), ("y", 'l', "x"), ("x/f", 'f', "1")];
        assert_eq!(listing(&flat(&[looping])), ["x/f f 1", "y l x"]);
    }

    #[test]
    fn long_names_and_the_same_bytes_twice() {
        let long: &'static str = Box::leak(("d/".repeat(120) + "f").into_boxed_str());
        let parts: &[Part] = &[(long, 'f', "deep"), ("link", 'h', long)];
        assert_eq!(listing(&flat(&[parts])), [format!("{long} f deep"), format!("link h {long}")]);
        assert_eq!(flat(&[parts]), flat(&[parts]));
    }

    #[test]
    fn a_path_deeper_than_any_file_system_has_is_refused() {
        let long: &'static str = Box::leak(("d/".repeat(3000) + "f").into_boxed_str());
        let bytes = layer(&[(long, 'f', "")]);
        let descriptor = Descriptor::of(MediaType::LAYER_TAR, &bytes);
        let mut open =
            |_: &Descriptor| -> Result<Box<dyn Read + Send>, ArchiveError> { Ok(Box::new(io::Cursor::new(bytes.clone()))) };
        let refused = flatten(&[descriptor], io::sink(), &mut open);
        assert!(matches!(refused, Err(ArchiveError::Refused { .. })));
    }
}
