//! Image references: registry, repository, tag and digest; Docker's rules for what a short name means.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use super::digest::Digest;

/// A repository in a registry, always with both named: `docker.io/library/alpine`.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Serialize, Deserialize)]
pub struct Repository {
    /// Host with an optional port, for example `docker.io` or `localhost:5000`.
    pub registry: String,
    /// Path below the registry, for example `library/alpine`.
    pub path: String,
}

/// A tag: up to 128 characters of `[A-Za-z0-9_.-]`, not starting with `.` or `-`
/// (distribution-spec, "Pulling manifests").
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Serialize, Deserialize)]
pub struct Tag(String);

/// A repository with a tag, a digest, or both; with neither it means the tag `latest`.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct Reference {
    /// The repository.
    pub repository: Repository,
    /// The tag, when one was written.
    pub tag: Option<Tag>,
    /// The digest, when one was written; it decides over the tag.
    pub digest: Option<Digest>,
}

/// Why a text is not a reference.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ReferenceError {
    /// The repository part breaks the grammar.
    #[error(
        "`{0}` is not an image reference: a repository is lower-case letters, digits and single `.`, `_`, `-`, in parts divided by `/`"
    )]
    Repository(String),
    /// The name holds upper-case letters and would be valid without them.
    #[error("`{0}` is not an image reference: a repository must be lower-case (did you mean `{1}`?)")]
    Case(String, String),
    /// The registry host breaks the grammar.
    #[error("`{0}` is not an image reference: `{1}` is no registry host")]
    Registry(String, String),
    /// The tag breaks the grammar.
    #[error("`{0}` is not a tag: up to 128 of `A-Z a-z 0-9 _ . -`, not starting with `.` or `-`")]
    Tag(String),
    /// The digest breaks the grammar.
    #[error("`{0}` is not an image reference: its digest must be `sha256:` with 64 or `sha512:` with 128 lower-case hex digits")]
    Digest(String),
}

/// The registry that a name without one means.
pub const DEFAULT_REGISTRY: &str = "docker.io";

impl Tag {
    /// Returns the tag as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl FromStr for Tag {
    type Err = ReferenceError;

    fn from_str(text: &str) -> Result<Self, ReferenceError> {
        let word = |b: u8| b.is_ascii_alphanumeric() || b == b'_';
        let ok =
            text.len() <= 128 && text.bytes().next().is_some_and(word) && text.bytes().all(|b| word(b) || b == b'.' || b == b'-');
        if ok { Ok(Self(text.to_owned())) } else { Err(ReferenceError::Tag(text.to_owned())) }
    }
}

impl fmt::Display for Tag {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl Repository {
    /// Returns the shortest name that means this repository under Docker's rules: `alpine`, `org/image`,
    /// `ghcr.io/org/image`.
    pub fn familiar(&self) -> String {
        match (self.registry.as_str(), self.path.strip_prefix("library/")) {
            (DEFAULT_REGISTRY, Some(name)) if !name.contains('/') => name.to_owned(),
            // Without its registry `docker.io/a.b/c` would be `c` at `a.b`.
            (DEFAULT_REGISTRY, _) if !self.path.split('/').next().is_some_and(is_host) => self.path.clone(),
            _ => self.to_string(),
        }
    }

    /// Returns the reference to `tag` in this repository.
    pub fn with_tag(&self, tag: Tag) -> Reference {
        Reference { repository: self.clone(), tag: Some(tag), digest: None }
    }

    /// Returns the reference to `digest` in this repository.
    pub fn with_digest(&self, digest: Digest) -> Reference {
        Reference { repository: self.clone(), tag: None, digest: Some(digest) }
    }
}

impl FromStr for Repository {
    type Err = ReferenceError;

    fn from_str(text: &str) -> Result<Self, ReferenceError> {
        let reference: Reference = text.parse()?;
        if reference.tag.is_some() || reference.digest.is_some() {
            return Err(ReferenceError::Repository(text.to_owned()));
        }
        Ok(reference.repository)
    }
}

impl fmt::Display for Repository {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.registry, self.path)
    }
}

impl Reference {
    /// Returns the tag, or `latest` when the reference has neither tag nor digest, or `None` when it has only a digest.
    pub fn effective_tag(&self) -> Option<&str> {
        match (&self.tag, &self.digest) {
            (Some(tag), _) => Some(tag.as_str()),
            (None, None) => Some("latest"),
            (None, Some(_)) => None,
        }
    }

    /// Returns the shortest text that means this reference under Docker's rules.
    pub fn familiar(&self) -> String {
        let mut text = self.repository.familiar();
        if let Some(tag) = &self.tag {
            text = format!("{text}:{tag}");
        }
        if let Some(digest) = &self.digest {
            text = format!("{text}@{digest}");
        }
        text
    }
}

/// Returns whether the first part of a name is a registry host rather than a path (Docker's rule).
fn is_host(part: &str) -> bool {
    part.contains(['.', ':']) || part == "localhost" || part.chars().any(|c| c.is_ascii_uppercase())
}

fn valid_host(host: &str) -> bool {
    let (name, port) = match host.strip_prefix('[').and_then(|rest| rest.split_once(']')) {
        Some((v6, rest)) => {
            let ok = !v6.is_empty() && v6.bytes().all(|b| b.is_ascii_hexdigit() || b == b':');
            return ok && (rest.is_empty() || rest.strip_prefix(':').is_some_and(is_port));
        }
        None => host.split_once(':').map_or((host, None), |(name, port)| (name, Some(port))),
    };
    let label = |l: &str| {
        !l.is_empty() && !l.starts_with('-') && !l.ends_with('-') && l.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-')
    };
    name.split('.').all(label) && port.is_none_or(is_port)
}

fn is_port(text: &str) -> bool {
    text.parse::<u16>().is_ok()
}

fn valid_path(path: &str) -> bool {
    // distribution-spec: [a-z0-9]+((\.|_|__|-+)[a-z0-9]+)* between slashes.
    let part = |part: &str| {
        let alnum = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit();
        let bytes = part.as_bytes();
        let ends = bytes.first().copied().is_some_and(alnum) && bytes.last().copied().is_some_and(alnum);
        let separators = part.split(|c: char| c.is_ascii_lowercase() || c.is_ascii_digit());
        ends && separators.into_iter().all(|s| matches!(s, "" | "." | "_" | "__") || s.bytes().all(|b| b == b'-'))
    };
    path.len() <= 255 && path.split('/').all(part)
}

impl FromStr for Reference {
    type Err = ReferenceError;

    /// Parses a reference and expands it by Docker's rules: `alpine` is `docker.io/library/alpine`, `a/b` is
    /// `docker.io/a/b`, and a first part with a `.` or `:`, or `localhost`, is the registry.
    fn from_str(text: &str) -> Result<Self, ReferenceError> {
        let (rest, digest) = match text.split_once('@') {
            Some((rest, digest)) => (rest, Some(digest.parse::<Digest>().map_err(|_| ReferenceError::Digest(text.to_owned()))?)),
            None => (text, None),
        };
        let (name, tag) = match rest.rfind(':') {
            Some(at) if !rest[at..].contains('/') => (&rest[..at], Some(rest[at + 1..].parse::<Tag>()?)),
            _ => (rest, None),
        };
        let (registry, path) = match name.split_once('/') {
            Some((first, path)) if is_host(first) => (first, path.to_owned()),
            Some(_) => (DEFAULT_REGISTRY, name.to_owned()),
            None => (DEFAULT_REGISTRY, format!("library/{name}")),
        };
        if !valid_host(registry) {
            return Err(ReferenceError::Registry(text.to_owned(), registry.to_owned()));
        }
        // `index.docker.io` is what Docker once called its registry; both name the same content.
        let registry = if registry == "index.docker.io" { DEFAULT_REGISTRY } else { registry };
        let path = if registry == DEFAULT_REGISTRY && !path.contains('/') { format!("library/{path}") } else { path };
        if !valid_path(&path) {
            let lower = text.to_lowercase();
            return Err(if path != path.to_lowercase() && valid_path(&path.to_lowercase()) {
                ReferenceError::Case(text.to_owned(), lower)
            } else {
                ReferenceError::Repository(text.to_owned())
            });
        }
        Ok(Self { repository: Repository { registry: registry.to_owned(), path }, tag, digest })
    }
}

impl fmt::Display for Reference {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.repository)?;
        if let Some(tag) = &self.tag {
            write!(f, ":{tag}")?;
        }
        if let Some(digest) = &self.digest {
            write!(f, "@{digest}")?;
        }
        Ok(())
    }
}

impl Serialize for Reference {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Reference {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer)?.parse().map_err(serde::de::Error::custom)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const HEX: &str = "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855";

    #[test]
    fn short_names_expand_by_dockers_rules() {
        for (text, full) in [
            ("alpine", "docker.io/library/alpine"),
            ("alpine:3", "docker.io/library/alpine:3"),
            ("docker.io/alpine", "docker.io/library/alpine"),
            ("index.docker.io/alpine", "docker.io/library/alpine"),
            ("linuxkit/init:abc", "docker.io/linuxkit/init:abc"),
            ("a/b/c:1", "docker.io/a/b/c:1"),
            ("localhost/x", "localhost/x"),
            ("localhost:5000/x:y", "localhost:5000/x:y"),
            ("127.0.0.1:5000/a/b", "127.0.0.1:5000/a/b"),
            ("[::1]:5000/a", "[::1]:5000/a"),
            ("ghcr.io/a/b__c/d---e", "ghcr.io/a/b__c/d---e"),
        ] {
            assert_eq!(text.parse::<Reference>().expect(text).to_string(), full, "{text}");
        }
        let pinned = format!("alpine:3@sha256:{HEX}");
        assert_eq!(pinned.parse::<Reference>().expect("valid").to_string(), format!("docker.io/library/{pinned}"));
        let dotted = "docker.io/a.b/c:d";
        assert_eq!(dotted.parse::<Reference>().expect("valid").familiar(), dotted);
        assert_eq!(pinned.parse::<Reference>().expect("valid").familiar(), pinned);
    }

    #[test]
    fn what_breaks_the_grammar_is_refused() {
        for bad in
            ["", ":", "a:", "a//b", "/a", "a/", "a b", "a:b c", "a@sha256:00", "a..b", "-a", "a:.x", "a.b/../c", "a_-b", "a:1:2"]
        {
            assert!(bad.parse::<Reference>().is_err(), "{bad:?} parsed");
        }
        assert_eq!("org/Image:1".parse::<Reference>(), Err(ReferenceError::Case("org/Image:1".into(), "org/image:1".into())));
    }
}
