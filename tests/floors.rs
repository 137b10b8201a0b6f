//! Imports only go down. The floors are those of the table at the top of `src/lib.rs`, so that the table cannot lie.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

/// `module of the file` uses `module`, seen at `place`.
#[derive(Debug, PartialEq, Eq)]
struct Edge {
    from: String,
    to: String,
    place: String,
}

/// Reads the table: `//! | 2 | [`git`] (…), [`store`] (…) |` gives `git` and `store` floor 2.
fn floors(lib: &str) -> BTreeMap<String, u32> {
    let mut floors = BTreeMap::new();
    for line in lib.lines().filter_map(|line| line.strip_prefix("//! | ")) {
        let Some((floor, modules)) = line.split_once(" | ") else { continue };
        let Ok(floor) = floor.trim().parse() else { continue };
        for module in modules.split("[`").skip(1).filter_map(|rest| rest.split_once("`]")) {
            assert_eq!(floors.insert(module.0.to_owned(), floor), None, "{} stands twice in the table", module.0);
        }
    }
    floors
}

/// Returns the first parts of all `crate::…` paths of `text`, those in `crate::{a, b::c}` included, with their lines.
fn used_modules(text: &str) -> Vec<(usize, String)> {
    let mut found = Vec::new();
    for (number, line) in text.lines().enumerate() {
        if line.trim_start().starts_with("//") {
            continue;
        }
        for (at, _) in line.match_indices("crate::") {
            // `pkgbuild_crate::` or `$crate::` are other words.
            if line[..at].ends_with(|c: char| c.is_alphanumeric() || c == '_') {
                continue;
            }
            let rest = &line[at + "crate::".len()..];
            match rest.strip_prefix('{') {
                Some(_) => {
                    let offset = text.lines().take(number).map(|line| line.len() + 1).sum::<usize>() + at + "crate::{".len();
                    found.extend(group(&text[offset..]).into_iter().map(|name| (number + 1, name)));
                }
                None => found.push((number + 1, word(rest))),
            }
        }
    }
    found
}

fn word(text: &str) -> String {
    text.chars().take_while(|c| c.is_alphanumeric() || *c == '_').collect()
}

/// Returns the first parts of the paths in a use group, given the text after its opening brace.
fn group(text: &str) -> Vec<String> {
    let (mut depth, mut start, mut names) = (0, true, Vec::new());
    for (at, c) in text.char_indices() {
        match c {
            '{' => depth += 1,
            '}' if depth == 0 => break,
            '}' => depth -= 1,
            ',' if depth == 0 => start = true,
            c if start && depth == 0 && (c.is_alphanumeric() || c == '_') => {
                names.push(word(&text[at..]));
                start = false;
            }
            _ => {}
        }
    }
    names
}

fn sources(directory: &Path, found: &mut Vec<PathBuf>) {
    for entry in fs::read_dir(directory).expect("a readable directory") {
        let path = entry.expect("a readable entry").path();
        if path.is_dir() {
            sources(&path, found);
        } else if path.extension().is_some_and(|e| e == "rs") {
            found.push(path);
        }
    }
}

fn edges(source: &Path) -> Vec<Edge> {
    let mut files = Vec::new();
    sources(source, &mut files);
    files.sort();
    let mut edges = Vec::new();
    for file in files {
        let inner = file.strip_prefix(source).expect("found below it");
        let first = inner.components().next().expect("a name").as_os_str().to_str().expect("UTF-8");
        let from = first.trim_end_matches(".rs").to_owned();
        if from == "lib" || from == "main" {
            continue;
        }
        let text = fs::read_to_string(&file).expect("UTF-8");
        edges.extend(used_modules(&text).into_iter().map(|(line, to)| Edge {
            from: from.clone(),
            to,
            place: format!("src/{}:{line}", inner.display()),
        }));
    }
    edges
}

/// Returns what is wrong with `edges`, one line for each.
fn breaches(edges: &[Edge], floors: &BTreeMap<String, u32>) -> Vec<String> {
    let mut breaches = Vec::new();
    for edge in edges.iter().filter(|edge| edge.from != edge.to) {
        match (floors.get(&edge.from), floors.get(&edge.to)) {
            (Some(from), Some(to)) if to < from => {}
            (Some(from), Some(to)) => {
                breaches.push(format!("{}: `{}` (floor {from}) uses `{}` (floor {to})", edge.place, edge.from, edge.to));
            }
            _ => breaches.push(format!("{}: `{}` or `{}` has no floor in src/lib.rs", edge.place, edge.from, edge.to)),
        }
    }
    breaches
}

fn source() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("src")
}

fn table() -> BTreeMap<String, u32> {
    floors(&fs::read_to_string(source().join("lib.rs")).expect("src/lib.rs"))
}

#[test]
fn imports_only_go_down() {
    let edges = edges(&source());
    let across = edges.iter().filter(|edge| edge.from != edge.to).count();
    assert!(across >= 100, "only {across} imports across modules were seen: the search itself is broken");
    let breaches = breaches(&edges, &table());
    assert!(breaches.is_empty(), "imports that do not go down:\n{}", breaches.join("\n"));
}

#[test]
fn every_module_has_a_floor() {
    let lib = fs::read_to_string(source().join("lib.rs")).expect("src/lib.rs");
    let table = table();
    let declared = lib.lines().filter_map(|line| line.strip_prefix("pub mod ")?.strip_suffix(';'));
    let missing: Vec<&str> = declared.filter(|module| !table.contains_key(*module)).collect();
    assert!(missing.is_empty(), "no floor for {missing:?}");
}

#[test]
fn a_planted_import_is_found_in_every_spelling() {
    let table = floors("//! | 0 | [`low`] (words) |\n//! | 4 | [`peer`], [`other`] |\n//! | 6 | [`high`] |\n");
    for (text, to) in [
        ("use crate::high::Thing;", "high"),
        ("use crate::{low::Word, high};", "high"),
        ("use crate::{\n    low::{A, B},\n    high::C,\n};", "high"),
        ("fn f() -> crate::high::Thing {}", "high"),
        ("use crate::other::Peer;", "other"),
        ("use crate::unknown::Thing;", "unknown"),
    ] {
        let edges: Vec<Edge> = used_modules(text)
            .into_iter()
            .map(|(line, to)| Edge { from: "peer".to_owned(), to, place: format!("planted:{line}") })
            .collect();
        let breaches = breaches(&edges, &table);
        assert_eq!(breaches.len(), 1, "{text}: {breaches:?}");
        assert!(breaches[0].contains(&format!("`{to}`")), "{text}: {breaches:?}");
    }
    let fine = used_modules("use crate::low::Word;\n// use crate::high;\nuse crate::peer::inner;");
    assert_eq!(fine, [(1, "low".to_owned()), (3, "peer".to_owned())]);
}
