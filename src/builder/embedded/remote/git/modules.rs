//! `.gitmodules`: which submodule has which address. A small part of git's configuration language; what includes other
//! files there means nothing here.

use std::collections::BTreeMap;

/// Longest `.gitmodules` that is read.
pub(super) const LIMIT: usize = 1 << 20;

/// What `.gitmodules` says about one submodule.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub(super) struct Module {
    /// Its address as written.
    pub(super) url: Option<String>,
    /// Whether it stays empty: `update = none`.
    pub(super) is_left_out: bool,
}

/// Reads `.gitmodules`; returns submodules by their path.
pub(super) fn parse(text: &str) -> BTreeMap<String, Module> {
    let mut sections: BTreeMap<String, (Option<String>, Module)> = BTreeMap::new();
    let mut name = None;
    let joined = text.replace("\\\r\n", "").replace("\\\n", "");
    for line in joined.lines() {
        let line = line.trim();
        if let Some(header) = line.strip_prefix('[') {
            name = submodule(header);
            continue;
        }
        let (Some(name), Some((key, value))) = (&name, line.split_once('=')) else { continue };
        let section = sections.entry(name.clone()).or_default();
        let value = unquoted(value);
        match &*key.trim().to_ascii_lowercase() {
            "path" => section.0 = Some(value.trim_matches('/').to_owned()),
            "url" => section.1.url = Some(value),
            "update" => section.1.is_left_out = value == "none",
            _ => {}
        }
    }
    sections.into_values().filter_map(|(path, module)| Some((path?, module))).collect()
}

/// Returns the name of `submodule "name"]`.
fn submodule(header: &str) -> Option<String> {
    let rest = header.trim_start();
    let word = rest.get(.."submodule".len()).filter(|word| word.eq_ignore_ascii_case("submodule"))?;
    let rest = rest[word.len()..].trim_start().strip_prefix('"')?;
    let mut name = String::new();
    let mut characters = rest.chars();
    loop {
        match characters.next()? {
            '"' => return Some(name),
            '\\' => name.push(characters.next()?),
            other => name.push(other),
        }
    }
}

/// Returns a value without quotes, escapes and comments.
fn unquoted(text: &str) -> String {
    let (mut value, mut quoted, mut solid) = (String::new(), false, 0);
    let mut characters = text.trim_start().chars();
    while let Some(character) = characters.next() {
        match character {
            '"' => quoted = !quoted,
            '#' | ';' if !quoted => break,
            '\\' => match characters.next() {
                Some('n') => value.push('\n'),
                Some('t') => value.push('\t'),
                Some(other) => value.push(other),
                None => {}
            },
            other => value.push(other),
        }
        if quoted || !character.is_whitespace() {
            solid = value.len();
        }
    }
    value.truncate(solid);
    value
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn submodules_are_read_as_git_reads_them() {
        let text = "# c\n[core]\n\turl = no\n[submodule \"a/b\"]\n\tpath = lib/b\n\turl = ../b.git ; why\n[Submodule \"q\\\"x\"]\n\
                    path = \"s p\"\nURL=\"https://h/x#y\"\nupdate = none\n[submodule \"nopath\"]\nurl = x\n[include]\npath = /etc/passwd\n\
                    [submodule \"long\"]\npath = lo\\\nng\n";
        let directory = tempfile::tempdir().expect("temp dir");
        let path = directory.path().join("m");
        fs_err::write(&path, text).expect("writes");
        let get = |key: &str| {
            let output = std::process::Command::new("git").args(["config", "-f"]).arg(&path).args(["--get", key]).output();
            let output = output.expect("runs").stdout;
            String::from_utf8(output).expect("text").trim_end_matches('\n').to_owned()
        };
        let found = parse(text);
        assert_eq!(found.keys().collect::<Vec<_>>(), ["lib/b", "long", "s p"]);
        assert_eq!(found["lib/b"].url, Some(get("submodule.a/b.url")));
        assert_eq!(found["s p"].url, Some(get("submodule.q\"x.url")));
        assert_eq!(get("submodule.q\"x.path"), "s p");
        assert_eq!(get("submodule.long.path"), "long");
        assert!(found["s p"].is_left_out && !found["lib/b"].is_left_out);
    }
}
