//! What is fuzzed: readers of bytes that others wrote. Each takes any bytes and panics when a rule is broken; the fuzzer
//! looks for bytes that do so, and `tests/fuzz.rs` replays those that were kept.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::path::Path;

use pkgbuild::builder::embedded::snapshot::Snapshots;
use pkgbuild::builder::{BuildRequest, DockerfileSource, embedded};
use pkgbuild::diagnostic::Severity;
use pkgbuild::dockerfile::expand::{self, Mode, expand_word, expand_words};
use pkgbuild::dockerfile::{Dockerfile, Ignore, ignore};
use pkgbuild::oci::{DiffId, Digest, Document, ImageConfig, MediaType, Platform, Reference, Repository};
use pkgbuild::package::{BuildYml, Template};

/// A Dockerfile is parsed, its stages are resolved and lowered for two platforms, and its checks run: what is wrong is told
/// with a line that exists, and the same twice.
pub fn dockerfile(data: &[u8]) {
    let lines = data.iter().filter(|byte| **byte == b'\n').count() + 1;
    let parsed = Dockerfile::parse(Path::new("Dockerfile"), data).is_ok();
    for platform in ["amd64", "riscv64"] {
        let request = request(Platform::linux(platform), data);
        let found = embedded::lint(&request, None);
        for diagnostic in &found {
            if let Some(span) = diagnostic.span {
                assert!(span.line >= 1 && span.line as usize <= lines && span.column >= 1, "{diagnostic:?}");
            }
            let _ = diagnostic.to_string();
        }
        assert!(parsed || found.iter().any(|found| found.severity == Severity::Error), "a broken file has an error");
        assert_eq!(found, embedded::lint(&request, None));
    }
}

fn request(platform: Platform, text: &[u8]) -> BuildRequest {
    let dockerfile = DockerfileSource { path: "Dockerfile".into(), in_context: "Dockerfile".into(), text: text.into() };
    BuildRequest {
        args: BTreeMap::from([("GIVEN".to_owned(), "given $value".to_owned())]),
        ..BuildRequest::new("fuzz", platform, dockerfile)
    }
}

/// A word is expanded in every mode: within the limit, and unchanged where nothing in it has a meaning. The first byte
/// chooses the escape character.
pub fn expand(data: &[u8]) {
    let Some((first, rest)) = data.split_first() else { return };
    let Ok(word) = std::str::from_utf8(rest) else { return };
    let escape = if first % 2 == 0 { '\\' } else { '`' };
    let lookup = |name: &str| match name {
        "a" => Some("one two".to_owned()),
        "b" => Some(String::new()),
        "long" => Some("x".repeat(10_000)),
        "path" => Some("/usr/*/[a-z]?".to_owned()),
        _ => None,
    };
    for mode in [Mode::WORD, Mode::HEREDOC, Mode::SHOWN, Mode { raw_escapes: true, ..Mode::SHOWN }] {
        let expanded = expand_word(word, escape, &lookup, mode);
        if let Ok(text) = &expanded {
            assert!(text.len() <= expand::LIMIT + word.len());
            if !word.contains(['$', '\'', '"', '<', '\u{feff}', escape]) {
                assert_eq!(text, word);
            }
        }
        let _ = expand_words(word, escape, &lookup, mode);
    }
}

/// An ignore file decides about paths, which follow it: a walk that skips what may hold nothing loses nothing.
pub fn ignore(data: &[u8]) {
    let at = data.iter().position(|byte| *byte == 0).unwrap_or(data.len());
    let (patterns, paths) = data.split_at(at);
    let Ok(ignore) = Ignore::parse(Path::new(".dockerignore"), patterns) else { return };
    let again: Vec<String> = ignore.patterns().collect();
    assert!(patterns.len() <= ignore::LIMIT);
    for path in paths.split(|byte| *byte == 0).filter(|path| is_clean(path)).take(20) {
        let excluded = ignore.excludes(path);
        for (at, _) in path.iter().enumerate().filter(|(_, byte)| **byte == b'/') {
            let directory = &path[..at];
            if !excluded && ignore.excludes(directory) {
                assert!(ignore.may_keep_below(directory), "{again:?} {}", String::from_utf8_lossy(path));
            }
        }
    }
}

fn is_clean(path: &[u8]) -> bool {
    !path.is_empty() && path.split(|byte| *byte == b'/').all(|part| !matches!(part, b"" | b"." | b".."))
}

thread_local! {
    /// Directory, store and how often it was used.
    static JAIL: RefCell<Option<(tempfile::TempDir, u32)>> = const { RefCell::new(None) };
}

/// A layer is unpacked: nothing appears or changes outside of the store. Checksums of headers are put right first, else no
/// change of a header would get past them.
pub fn untar(data: &[u8]) {
    let mut data = data.to_vec();
    mend(&mut data);
    JAIL.with_borrow_mut(|jail| {
        let (directory, used) = jail.get_or_insert_with(|| (jailed(), 0));
        let path = directory.path();
        let snapshots = Snapshots::open(&path.join("outer/cache")).expect("opens");
        let diff_id = DiffId(Digest::of(&data));
        if let Ok(snapshot) = snapshots.unpack(&snapshots.scratch(), &diff_id, &data[..]) {
            for (path, _) in snapshot.tree.range(b"") {
                assert!(path.is_empty() || is_clean(&path), "{}", String::from_utf8_lossy(&path));
            }
        }
        let names = |path: &Path| -> Vec<String> {
            let entries = std::fs::read_dir(path).expect("lists");
            let mut names: Vec<String> =
                entries.map(|entry| entry.expect("an entry").file_name().to_string_lossy().into_owned()).collect();
            names.sort();
            names
        };
        assert_eq!(names(path), ["canary", "outer"]);
        assert_eq!(names(&path.join("outer")), ["cache", "canary"]);
        for canary in ["canary", "outer/canary"] {
            assert_eq!(std::fs::read(path.join(canary)).expect("reads"), b"untouched");
        }
        *used += 1;
        if *used > 200 {
            *jail = None;
        }
    });
}

fn jailed() -> tempfile::TempDir {
    let directory = tempfile::tempdir().expect("a temporary directory");
    std::fs::create_dir_all(directory.path().join("outer/cache")).expect("creates");
    for canary in ["canary", "outer/canary"] {
        std::fs::write(directory.path().join(canary), b"untouched").expect("writes");
    }
    directory
}

/// Writes the right checksum into every header of a tar.
fn mend(data: &mut [u8]) {
    let mut at = 0;
    while at + 512 <= data.len() {
        let header = &mut data[at..at + 512];
        if header.iter().all(|byte| *byte == 0) {
            return;
        }
        header[148..156].fill(b' ');
        let sum: u32 = header.iter().map(|byte| u32::from(*byte)).sum();
        header[148..156].copy_from_slice(format!("{sum:06o}\0 ").as_bytes());
        let size = header[124..136].iter().take_while(|byte| (b'0'..=b'7').contains(*byte));
        let size = size.fold(0_usize, |size, digit| size.saturating_mul(8).saturating_add(usize::from(digit - b'0')));
        // Links and directories have no data, whatever they say.
        let size = if matches!(header[156], b'1'..=b'6') { 0 } else { size };
        at = at.saturating_add(512).saturating_add(size.div_ceil(512).saturating_mul(512));
    }
}

/// Manifests, indexes, configs and names are read; what was read is written and read as the same again.
pub fn documents(data: &[u8]) {
    for media_type in [MediaType::MANIFEST, MediaType::INDEX, MediaType::DOCKER_MANIFEST, MediaType::DOCKER_LIST] {
        if let Ok(Some(document)) = Document::parse(media_type, data) {
            let children = document.children();
            assert!(children.iter().all(|child| child.digest.hex().len() >= 64));
        }
    }
    if let Ok(config) = serde_json::from_slice::<ImageConfig>(data) {
        let bytes = serde_json::to_vec(&config).expect("what was read can be written");
        assert_eq!(serde_json::from_slice::<ImageConfig>(&bytes).expect("reads again"), config);
    }
    let Ok(text) = std::str::from_utf8(data) else { return };
    if let Ok(reference) = text.parse::<Reference>() {
        assert_eq!(reference.to_string().parse::<Reference>().expect("a name that was written"), reference);
        assert_eq!(reference.familiar().parse::<Reference>().expect("a name that was shortened"), reference);
    }
    if let Ok(repository) = text.parse::<Repository>() {
        assert_eq!(repository.to_string().parse::<Repository>().expect("a name that was written"), repository);
        assert!(!text.contains(".."), "a name of a repository cannot lead elsewhere: {text}");
    }
    if let Ok(platform) = text.parse::<Platform>() {
        assert_eq!(platform.to_string().parse::<Platform>().expect("a platform that was written"), platform);
    }
    if let Ok(digest) = text.parse::<Digest>() {
        assert_eq!(digest.to_string(), text);
    }
}

/// A build.yml and the template of a tag are read: what is wrong has a line that exists.
pub fn build_yml(data: &[u8]) {
    let Ok(text) = std::str::from_utf8(data) else { return };
    let lines = text.split(['\n', '\r', '\u{85}', '\u{2028}', '\u{2029}']).count();
    match BuildYml::from_text(Path::new("/w/pkg/a/build.yml"), text) {
        Ok(package) => assert!(!package.image.is_empty()),
        Err(mistakes) => {
            assert!(!mistakes.0.is_empty());
            for mistake in &mistakes.0 {
                let _ = mistake.to_string();
                assert!(mistake.span.is_none_or(|span| span.line >= 1 && span.line as usize <= lines + 1), "{mistake:?}");
            }
        }
    }
    if let Ok(template) = Template::parse(text) {
        let _ = template.render("0123456789abcdef");
    }
}
