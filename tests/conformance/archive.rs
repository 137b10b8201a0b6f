//! Tar archives of a case, written field by field so that members may have names which no proper tool would write.

use std::io::Write;
use std::process::{Command, Stdio};

use tar::{EntryType, Header};

use crate::listing::{Entry, Kind};

/// The time of all members; no case looks at times.
const TIME: u64 = 1_700_000_000;

/// Returns an archive of the members in their order. `format` is `tar` or a compression: `gz`, `bz2`, `xz`, `zst`.
pub fn make(members: &[Entry], format: &str) -> Vec<u8> {
    let mut archive = tar::Builder::new(Vec::new());
    for member in members {
        let attributes: Vec<_> =
            member.xattrs.iter().map(|(name, value)| (format!("SCHILY.xattr.{name}"), value.as_slice())).collect();
        if !attributes.is_empty() {
            archive.append_pax_extensions(attributes.iter().map(|(name, value)| (name.as_str(), *value))).expect("memory");
        }
        let (mut header, content) = header(member);
        header.set_cksum();
        archive.append(&header, content).expect("memory");
    }
    let bytes = archive.into_inner().expect("memory");
    match format {
        "tar" => bytes,
        "gz" | "tgz" => compress("gzip", &bytes),
        "bz2" => compress("bzip2", &bytes),
        "xz" => compress("xz", &bytes),
        "zst" => compress("zstd", &bytes),
        _ => panic!("`{format}` is no format of an archive"),
    }
}

fn header(member: &Entry) -> (Header, &[u8]) {
    let mut header = Header::new_ustar();
    let mut content: &[u8] = &[];
    let (kind, target) = match &member.kind {
        Kind::Directory => (EntryType::Directory, None),
        Kind::File(bytes) => {
            content = bytes;
            (EntryType::Regular, None)
        }
        Kind::Symlink(target) => (EntryType::Symlink, Some(target)),
        Kind::Hardlink(target) => (EntryType::Link, Some(target)),
        Kind::Fifo => (EntryType::Fifo, None),
        Kind::Char(..) => (EntryType::Char, None),
        Kind::Block(..) => (EntryType::Block, None),
        Kind::Socket => panic!("no archive has sockets"),
    };
    if let Kind::Char(major, minor) | Kind::Block(major, minor) = member.kind {
        header.set_device_major(major).expect("ustar");
        header.set_device_minor(minor).expect("ustar");
    }
    header.set_entry_type(kind);
    header.set_size(content.len() as u64);
    header.set_mode(member.mode);
    header.set_uid(member.uid.into());
    header.set_gid(member.gid.into());
    header.set_mtime(TIME);
    let slash = if kind == EntryType::Directory { "/" } else { "" };
    put(&mut header.as_old_mut().name, &format!("{}{slash}", member.path));
    if let Some(target) = target {
        put(&mut header.as_old_mut().linkname, target);
    }
    (header, content)
}

fn put(field: &mut [u8], text: &str) {
    field[..text.len()].copy_from_slice(text.as_bytes());
}

fn compress(program: &str, bytes: &[u8]) -> Vec<u8> {
    let mut process = Command::new(program)
        .args(["--stdout", "--quiet"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap_or_else(|error| panic!("{program}: {error}: run scripts/setup"));
    let mut input = process.stdin.take().expect("piped");
    std::thread::scope(|scope| {
        scope.spawn(move || input.write_all(bytes).expect("the program reads"));
        let output = process.wait_with_output().expect("the process is ours");
        assert!(output.status.success(), "{program} failed");
        output.stdout
    })
}
