//! Listings: one file a line, the path first. The same form describes contexts, archives and images.
//!
//! ```text
//! dir/ 755                  a directory
//! dir/file 644 "content\n"  a file, its content as a JSON string
//! big 600 zeros=1048576     a file of zeros (images: size= and the start of its SHA-256)
//! link -> target            a symbolic link
//! name => dir/file          another name of the file above
//! pipe fifo 644             also: char 1:3 644, block 8:0 644, socket 644
//! owned 644 7:8 ""          user and group follow the mode when they are not 0:0
//! file 644 "" user.a="b"    extended attributes come last
//! "with blanks" 644 ""      a path with blanks or quotes is a JSON string
//! name deleted              images: it is in the base image
//! ```

use std::collections::BTreeMap;

/// A file as a listing describes it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entry {
    /// Relative to the listing's root; a directory's without the slash.
    pub path: String,
    pub kind: Kind,
    /// Permission bits with setuid, setgid and sticky.
    pub mode: u32,
    pub uid: u32,
    pub gid: u32,
    pub xattrs: BTreeMap<String, Vec<u8>>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Kind {
    Directory,
    File(Vec<u8>),
    Symlink(String),
    /// Another name of the file at this path.
    Hardlink(String),
    Fifo,
    Socket,
    Char(u32, u32),
    Block(u32, u32),
}

/// A file's content is shown up to this size.
const SHOWN: usize = 300;

impl Entry {
    /// Returns the line without the path.
    pub fn describe(&self) -> String {
        let mut words = Vec::new();
        let device = |kind: &str, major: u32, minor: u32| format!("{kind} {major}:{minor}");
        match &self.kind {
            Kind::Fifo => words.push("fifo".to_owned()),
            Kind::Socket => words.push("socket".to_owned()),
            Kind::Char(major, minor) => words.push(device("char", *major, *minor)),
            Kind::Block(major, minor) => words.push(device("block", *major, *minor)),
            Kind::Directory | Kind::File(_) | Kind::Symlink(_) | Kind::Hardlink(_) => {}
        }
        if let Kind::Hardlink(target) = &self.kind {
            return format!("=> {}", quoted(target));
        }
        if !matches!(self.kind, Kind::Symlink(_)) {
            words.push(format!("{:o}", self.mode));
        }
        if (self.uid, self.gid) != (0, 0) {
            words.push(format!("{}:{}", self.uid, self.gid));
        }
        match &self.kind {
            Kind::Symlink(target) => words.push(format!("-> {}", quoted(target))),
            Kind::File(content) => words.push(match std::str::from_utf8(content) {
                Ok(text) if text.len() <= SHOWN => json(text),
                _ => format!("size={} sha256={}", content.len(), &sha256(content)[..12]),
            }),
            _ => {}
        }
        for (name, value) in &self.xattrs {
            words.push(format!("{name}={}", json(&value.iter().map(|byte| char::from(*byte)).collect::<String>())));
        }
        words.join(" ")
    }

    /// Returns the path as a listing shows it.
    pub fn name(&self) -> String {
        let slash = if self.kind == Kind::Directory { "/" } else { "" };
        quoted(&format!("{}{slash}", self.path))
    }
}

/// Reads a listing whose files are to be made.
///
/// # Panics
/// When a line is not of the form.
pub fn parse(text: &str) -> Vec<Entry> {
    lines(text).map(|line| entry(line).unwrap_or_else(|| panic!("not a line of a listing: {line}"))).collect()
}

/// Splits a listing into paths and the rest of their lines, for comparison.
pub fn split(text: &str) -> BTreeMap<String, String> {
    let mut result = BTreeMap::new();
    for line in lines(text) {
        let (path, rest) = word(line).unwrap_or_else(|| panic!("not a line of a listing: {line}"));
        let twice = result.insert(quoted(&path), rest.trim().to_owned());
        assert!(twice.is_none(), "twice in a listing: {line}");
    }
    result
}

fn lines(text: &str) -> impl Iterator<Item = &str> {
    text.lines().map(str::trim).filter(|line| !line.is_empty())
}

fn entry(line: &str) -> Option<Entry> {
    let (path, mut rest) = word(line)?;
    let directory = path.ends_with('/') && path.len() > 1;
    let path = if directory { path.trim_end_matches('/').to_owned() } else { path };
    let mut entry = Entry { path, kind: Kind::File(Vec::new()), mode: 0o777, uid: 0, gid: 0, xattrs: BTreeMap::new() };
    if directory {
        entry.kind = Kind::Directory;
    }
    while let Some((text, after)) = word(rest) {
        let literal = rest.trim_start().starts_with('"');
        rest = after;
        match text.as_str() {
            _ if literal => entry.kind = Kind::File(text.into_bytes()),
            "->" | "=>" => {
                let (target, after) = word(rest)?;
                rest = after;
                entry.kind = if text == "->" { Kind::Symlink(target) } else { Kind::Hardlink(target) };
            }
            "fifo" => entry.kind = Kind::Fifo,
            "socket" => entry.kind = Kind::Socket,
            "char" | "block" => {
                let (numbers, after) = word(rest)?;
                rest = after;
                let (major, minor) = pair(&numbers)?;
                entry.kind = if text == "char" { Kind::Char(major, minor) } else { Kind::Block(major, minor) };
            }
            _ => {
                if let Some((name, value)) = text.split_once('=') {
                    match name {
                        "zeros" => entry.kind = Kind::File(vec![0; value.parse().ok()?]),
                        _ => {
                            let value: String = serde_json::from_str(value).ok()?;
                            entry.xattrs.insert(name.to_owned(), value.chars().map(|c| c as u8).collect());
                        }
                    }
                } else if let Some((uid, gid)) = pair(&text) {
                    (entry.uid, entry.gid) = (uid, gid);
                } else {
                    entry.mode = u32::from_str_radix(&text, 8).ok()?;
                }
            }
        }
    }
    Some(entry)
}

fn pair(text: &str) -> Option<(u32, u32)> {
    let (first, second) = text.split_once(':')?;
    Some((first.parse().ok()?, second.parse().ok()?))
}

/// Takes the first word off, a JSON string being one. A string within a word (`user.a="b c"`) stays as it is.
fn word(text: &str) -> Option<(String, &str)> {
    let text = text.trim_start();
    if text.is_empty() {
        return None;
    }
    let mut inside = false;
    let mut escaped = false;
    let mut end = text.len();
    for (at, character) in text.char_indices() {
        match character {
            _ if escaped => escaped = false,
            '\\' if inside => escaped = true,
            '"' => inside = !inside,
            ' ' if !inside => {
                end = at;
                break;
            }
            _ => {}
        }
    }
    let (first, rest) = text.split_at(end);
    let first = if first.starts_with('"') { serde_json::from_str(first).ok()? } else { first.to_owned() };
    Some((first, rest))
}

fn quoted(path: &str) -> String {
    let plain = path
        .chars()
        .all(|character| !character.is_whitespace() && !character.is_control() && character != '"' && character != '\\');
    if plain && !path.is_empty() { path.to_owned() } else { json(path) }
}

fn json(text: &str) -> String {
    serde_json::to_string(text).expect("text is a JSON string")
}

fn sha256(bytes: &[u8]) -> String {
    use sha2::Digest;
    sha2::Sha256::digest(bytes).iter().map(|byte| format!("{byte:02x}")).collect()
}

#[test]
fn what_a_listing_says_is_what_is_described() {
    let text = "d/ 755\nd/f 4644 7:8 \"a b\\n\" user.a=\"x \\\"y\\\"\"\nl -> d/f\no 1:2 -> d\nh => d/f\np fifo 600\nc char 1:3 666\n\"a b\" 644 \"\"\n\"d e/\" 700 1:2\n";
    let described: Vec<_> = parse(text).iter().map(|entry| format!("{} {}\n", entry.name(), entry.describe())).collect();
    assert_eq!(described.concat(), text);
    assert_eq!(parse("z 644 zeros=301")[0].describe(), "644 size=301 sha256=1386bff17a8c");
}
