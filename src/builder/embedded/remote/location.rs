//! What `ADD` names outside of the context: files by URL and git repositories, told apart and read as BuildKit does.
//!
//! | written | is |
//! |---|---|
//! | `http://…`, `https://…` whose path does not end in `.git` | a file |
//! | `http://…`, `https://…` whose path ends in `.git` | a repository |
//! | `git://…`, `ssh://…`, `user@host:path` | a repository |
//! | anything else, `github.com/…` too | a path of the context |
//!
//! After a repository, `#ref:subdir` or `?ref=…&subdir=…` say what of it is meant.

use std::fmt;

use reqwest::Url;

use crate::oci::Digest;

/// What `ADD` takes its files from, outside of the context.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub enum RemoteSource {
    /// A file.
    Http(HttpSource),
    /// Files of a commit.
    Git(GitSource),
}

/// A file that a URL names.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub struct HttpSource {
    /// Where it is.
    pub url: WebUrl,
    /// What the file is called: the last name of the URL's path.
    pub name: String,
    /// What it must be.
    pub checksum: Option<Digest>,
}

/// Files of a commit.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub struct GitSource {
    /// The repository.
    pub repository: GitUrl,
    /// A branch, a tag, a whole name of a reference, or a commit; `None` for the default branch.
    pub reference: Option<String>,
    /// The beginning, or all, of the commit that it must be.
    pub checksum: Option<String>,
    /// The directory whose content is meant, cleaned; empty for all.
    pub subdirectory: String,
    /// Whether a `.git` comes along. Never with a subdirectory.
    pub keep_git_dir: bool,
    /// Whether submodules come along.
    pub submodules: bool,
    /// Whether `checksum`, then a whole commit, is fetched without asking what the reference is now.
    pub by_commit: bool,
}

/// The address of a file; shown without user, password and query.
#[derive(Clone, PartialEq, Eq, Hash)]
pub struct WebUrl(pub(super) Url);

impl fmt::Display for WebUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&shown_url(&self.0))
    }
}

impl fmt::Debug for WebUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// Returns `url` without what may be secret.
pub(super) fn shown_url(url: &Url) -> String {
    let mut shown = url.clone();
    shown.set_query(None);
    shown.set_fragment(None);
    // Both fail only for addresses without a host, which hold no user part either.
    let _ = shown.set_username("");
    let _ = shown.set_password(None);
    shown.into()
}

/// How a repository is reached.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub enum GitScheme {
    /// Plain HTTP.
    Http,
    /// HTTP over TLS.
    Https,
    /// git's own protocol, unencrypted.
    Git,
    /// A command run over SSH.
    Ssh,
}

/// The address of a repository; shown without password, and without user unless it is by SSH.
#[derive(Clone, PartialEq, Eq, Hash)]
pub struct GitUrl {
    pub(super) scheme: GitScheme,
    pub(super) user: Option<String>,
    pub(super) password: Option<String>,
    pub(super) host: String,
    pub(super) port: Option<u16>,
    /// As the server is told: with a slash in front, but for `user@host:path`, which is relative to the user's home.
    pub(super) path: String,
}

impl fmt::Display for GitUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let scheme = match self.scheme {
            GitScheme::Http => "http",
            GitScheme::Https => "https",
            GitScheme::Git => "git",
            GitScheme::Ssh => "ssh",
        };
        let user = self.user.as_deref().filter(|_| self.scheme == GitScheme::Ssh);
        let user = user.map_or_else(String::new, |user| format!("{user}@"));
        if !self.path.starts_with('/') {
            return write!(f, "{user}{}:{}", self.host, self.path);
        }
        let port = self.port.map_or_else(String::new, |port| format!(":{port}"));
        write!(f, "{scheme}://{user}{}{port}{}", self.host, self.path)
    }
}

impl fmt::Debug for GitUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// Why a source cannot be what it looks like.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
pub enum LocationError {
    /// No URL.
    #[error("`{0}` is no URL that can be fetched")]
    Url(String),
    /// The last part of a URL cannot be the name of a file.
    #[error("the last part of `{0}` cannot be the name of a file")]
    Name(String),
    /// A checksum of no known form.
    #[error("`{0}` is no checksum: expected sha256:<64 hex digits>, or sha512:<128 hex digits>")]
    Checksum(String),
    /// A commit that is none.
    #[error("`{0}` is no commit: expected hex digits")]
    Commit(String),
    /// A reference that git would not have either.
    #[error("`{0}` cannot be the name of a branch or tag")]
    Reference(String),
    /// A part of the query that means nothing.
    #[error("a git URL has no `{0}` in its query")]
    Key(String),
    /// A part of the query whose value is missing, double or unknown.
    #[error("`{key}` of a git URL cannot be `{value}`")]
    Value {
        /// The key.
        key: String,
        /// The value.
        value: String,
    },
    /// Two parts of the source say different things.
    #[error("the source says both `{0}` and `{1}`")]
    Conflict(String, String),
    /// A commit is to be fetched that is not told.
    #[error("`fetch-by-commit` needs a whole commit as `checksum`")]
    ByCommit,
}

/// What the flags of `ADD` say about a source.
#[derive(Clone, Copy, Default, Debug)]
pub struct Flags<'a> {
    /// `--checksum`
    pub checksum: Option<&'a str>,
    /// `--keep-git-dir`
    pub keep_git_dir: Option<bool>,
}

impl RemoteSource {
    /// Reads a source of `ADD`, or returns `None` when it is a path of the context.
    ///
    /// # Errors
    /// As [`LocationError`].
    pub fn parse(text: &str, flags: Flags<'_>) -> Result<Option<Self>, LocationError> {
        if let Some((url, rest)) = git_url(text)? {
            return GitSource::parse(url, rest, flags).map(Self::Git).map(Some);
        }
        if !text.starts_with("http://") && !text.starts_with("https://") {
            return Ok(None);
        }
        let hidden = || without_user(text);
        let url = Url::parse(text).map_err(|_| LocationError::Url(hidden()))?;
        if url.host_str().is_none_or(str::is_empty) {
            return Err(LocationError::Url(hidden()));
        }
        let name = file_name(text).ok_or_else(|| LocationError::Name(hidden()))?;
        let checksum = |text: &str| text.parse::<Digest>().map_err(|_| LocationError::Checksum(text.to_owned()));
        let checksum = flags.checksum.map(checksum).transpose()?;
        Ok(Some(Self::Http(HttpSource { url: WebUrl(url), name, checksum })))
    }
}

/// Returns whether `ADD` takes `text` from elsewhere; it may still be wrong.
pub fn is_remote(text: &str) -> bool {
    !matches!(RemoteSource::parse(text, Flags::default()), Ok(None))
}

/// Returns `text` with the user part of every URL in it left out.
pub fn without_user(text: &str) -> String {
    let mut shown = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(at) = rest.find("://") {
        let (before, after) = rest.split_at(at + 3);
        shown.push_str(before);
        let end = after.find(|c: char| c == '/' || c == '?' || c == '#' || c == '"' || c.is_whitespace()).unwrap_or(after.len());
        rest = match after[..end].rfind('@') {
            // A user without a password is no secret over SSH, and often needed to make sense of the address.
            Some(user) if !before.ends_with("ssh://") || after[..user].contains(':') => &after[user + 1..],
            _ => after,
        };
    }
    shown.push_str(rest);
    shown
}

/// Returns the last name of a URL's path, decoded; `__unnamed__` if there is none.
fn file_name(text: &str) -> Option<String> {
    let rest = &text[text.find("://")? + 3..];
    let rest = &rest[..rest.find(['?', '#']).unwrap_or(rest.len())];
    let path = rest.find('/').map_or("", |at| &rest[at..]);
    let path = String::from_utf8(percent_decode(path)?).ok()?;
    let name = path.trim_end_matches('/').rsplit('/').next().unwrap_or_default();
    match name {
        "" | "." => Some("__unnamed__".to_owned()),
        ".." => None,
        name if name.len() > 255 || name.chars().any(char::is_control) => None,
        name => Some(name.to_owned()),
    }
}

fn percent_decode(text: &str) -> Option<Vec<u8>> {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let Some((first, after)) = rest.split_first() {
        if *first == b'%' {
            let digits = after.get(..2).and_then(|digits| std::str::from_utf8(digits).ok())?;
            bytes.push(u8::from_str_radix(digits, 16).ok()?);
            rest = &after[2..];
        } else {
            bytes.push(*first);
            rest = after;
        }
    }
    Some(bytes)
}

/// What follows the address of a repository.
#[derive(Default)]
struct Rest<'a> {
    query: &'a str,
    fragment: &'a str,
}

/// Reads the address of a repository, or returns `None` when `text` is none.
fn git_url(text: &str) -> Result<Option<(GitUrl, Rest<'_>)>, LocationError> {
    let (before, fragment) = text.split_once('#').unwrap_or((text, ""));
    let (address, query) = before.split_once('?').unwrap_or((before, ""));
    let rest = Rest { query, fragment };
    let scheme = address.split_once("://").map(|(scheme, _)| scheme.to_ascii_lowercase());
    let scheme = match scheme.as_deref() {
        Some("http") => GitScheme::Http,
        Some("https") => GitScheme::Https,
        Some("git") => GitScheme::Git,
        Some("ssh") => GitScheme::Ssh,
        Some(_) => return Ok(None),
        None => return Ok(GitUrl::scp(address).map(|url| (url, rest))),
    };
    if matches!(scheme, GitScheme::Http | GitScheme::Https) && !address.ends_with(".git") {
        return Ok(None);
    }
    GitUrl::parse(scheme, address).map(|url| Some((url, rest)))
}

impl GitUrl {
    /// Reads `text`, an address without query and fragment, of a repository by any of the schemes.
    pub(super) fn any(text: &str) -> Option<Self> {
        let Some((scheme, _)) = text.split_once("://") else { return Self::scp(text) };
        let scheme = match &*scheme.to_ascii_lowercase() {
            "http" => GitScheme::Http,
            "https" => GitScheme::Https,
            "git" => GitScheme::Git,
            "ssh" => GitScheme::Ssh,
            _ => return None,
        };
        Self::parse(scheme, text).ok()
    }

    fn parse(scheme: GitScheme, text: &str) -> Result<Self, LocationError> {
        let wrong = || LocationError::Url(without_user(text));
        // `http` so that all schemes are read alike: others have no host names in this library's eyes.
        let (_, address) = text.split_once("://").ok_or_else(wrong)?;
        let url = Url::parse(&format!("http://{address}")).map_err(|_| wrong())?;
        let host = url.host_str().filter(|host| !host.is_empty()).ok_or_else(wrong)?.to_owned();
        let decode = |text: &str| percent_decode(text).and_then(|bytes| String::from_utf8(bytes).ok()).ok_or_else(wrong);
        let user = if url.username().is_empty() { None } else { Some(decode(url.username())?) };
        let password = url.password().map(decode).transpose()?;
        let port = match scheme {
            // The library leaves a port out that is HTTP's own.
            GitScheme::Http => url.port(),
            _ => written_port(address).or(url.port()),
        };
        let path = match scheme {
            GitScheme::Http | GitScheme::Https => url.path().to_owned(),
            GitScheme::Git | GitScheme::Ssh => decode(url.path())?,
        };
        let found = Self { scheme, user, password, host, port, path };
        if found.is_plain() { Ok(found) } else { Err(wrong()) }
    }

    /// Reads `user@host:path`.
    fn scp(text: &str) -> Option<Self> {
        let (user, rest) = text.split_once('@')?;
        let (host, path) = rest.split_once(':')?;
        let word = |text: &str, more: &str| {
            !text.is_empty() && text.chars().all(|c| c.is_ascii_alphanumeric() || c == '-' || more.contains(c))
        };
        if !word(user, "_") || !word(host, ".") {
            return None;
        }
        let url = Self {
            scheme: GitScheme::Ssh,
            user: Some(user.to_owned()),
            password: None,
            host: host.to_owned(),
            port: None,
            path: path.to_owned(),
        };
        url.is_plain().then_some(url)
    }

    /// Returns whether no part could be taken for an option or a line of its own.
    fn is_plain(&self) -> bool {
        let parts = [Some(&self.host), self.user.as_ref(), Some(&self.path)];
        let parts = parts.into_iter().flatten();
        parts.into_iter().all(|part| !part.is_empty() && !part.starts_with('-') && !part.chars().any(char::is_control))
    }

    /// Returns the address that `text`, the URL of a submodule, means in this repository.
    pub(super) fn submodule(&self, text: &str) -> Option<Self> {
        if !text.starts_with("./") && !text.starts_with("../") {
            return Self::any(text);
        }
        let mut parts: Vec<&str> = self.path.trim_end_matches('/').split('/').collect();
        for part in text.split('/') {
            match part {
                "" | "." => {}
                ".." => drop((parts.len() > 1).then(|| parts.pop())?),
                part => parts.push(part),
            }
        }
        let found = Self { path: parts.join("/"), ..self.clone() };
        found.is_plain().then_some(found)
    }

    /// Returns the address for HTTP, with user and password.
    pub(super) fn web(&self) -> Option<Url> {
        let scheme = if self.scheme == GitScheme::Https { "https" } else { "http" };
        let port = self.port.map_or_else(String::new, |port| format!(":{port}"));
        let mut url = Url::parse(&format!("{scheme}://{}{port}{}", self.host, self.path)).ok()?;
        if let Some(user) = &self.user {
            url.set_username(user).ok()?;
        }
        url.set_password(self.password.as_deref()).ok()?;
        Some(url)
    }
}

/// Returns the port that stands in an address without its scheme.
fn written_port(address: &str) -> Option<u16> {
    let authority = &address[..address.find('/').unwrap_or(address.len())];
    let host = authority.rsplit('@').next()?;
    let after = host.rsplit(']').next()?;
    after.rsplit_once(':')?.1.parse().ok()
}

impl GitSource {
    fn parse(repository: GitUrl, rest: Rest<'_>, flags: Flags<'_>) -> Result<Self, LocationError> {
        let (reference, subdirectory) = rest.fragment.split_once(':').unwrap_or((rest.fragment, ""));
        let decoded = |text: &str| {
            let wrong = || LocationError::Value { key: "#".to_owned(), value: text.to_owned() };
            percent_decode(text).and_then(|bytes| String::from_utf8(bytes).ok()).ok_or_else(wrong)
        };
        let mut source = Self {
            repository,
            reference: Some(decoded(reference)?).filter(|text| !text.is_empty()),
            checksum: None,
            subdirectory: decoded(subdirectory)?,
            keep_git_dir: false,
            submodules: true,
            by_commit: false,
        };
        let mut keep = flags.keep_git_dir;
        source.read_query(rest.query, &mut keep)?;
        if let Some(checksum) = flags.checksum {
            agree(&mut source.checksum, checksum.to_owned())?;
        }
        let parts = source.subdirectory.split('/').fold(Vec::new(), |mut parts: Vec<&str>, part| {
            match part {
                "" | "." => {}
                ".." => drop(parts.pop()),
                part => parts.push(part),
            }
            parts
        });
        source.subdirectory = parts.join("/");
        source.keep_git_dir = keep == Some(true) && source.subdirectory.is_empty();
        source.check()?;
        Ok(source)
    }

    fn read_query(&mut self, query: &str, keep: &mut Option<bool>) -> Result<(), LocationError> {
        let (mut tag, mut branch) = (None, None);
        let mut seen = Vec::new();
        for (key, value) in Url::parse(&format!("http://x/?{query}")).iter().flat_map(Url::query_pairs) {
            let wrong = || LocationError::Value { key: key.to_string(), value: value.to_string() };
            if seen.contains(&key) || (value.is_empty() && !matches!(&*key, "submodules" | "keep-git-dir" | "fetch-by-commit")) {
                return Err(wrong());
            }
            let truth = || match &*value {
                "" | "1" | "t" | "T" | "true" | "TRUE" | "True" => Ok(true),
                "0" | "f" | "F" | "false" | "FALSE" | "False" => Ok(false),
                _ => Err(wrong()),
            };
            match &*key {
                "ref" => agree(&mut self.reference, value.to_string())?,
                "tag" => tag = Some(value.to_string()),
                "branch" => branch = Some(value.to_string()),
                "subdir" => {
                    let mut known = Some(self.subdirectory.clone()).filter(|text| !text.is_empty());
                    agree(&mut known, value.to_string())?;
                    self.subdirectory = known.unwrap_or_default();
                }
                "checksum" | "commit" => self.checksum = Some(value.to_string()),
                "keep-git-dir" => {
                    let value = truth()?;
                    if keep.is_some_and(|keep| keep != value) {
                        return Err(LocationError::Conflict(
                            format!("--keep-git-dir={}", !value),
                            format!("keep-git-dir={value}"),
                        ));
                    }
                    *keep = Some(value);
                }
                "submodules" => self.submodules = truth()?,
                // Times are the image's, whatever this says.
                "mtime" if matches!(&*value, "checkout" | "commit") => {}
                "mtime" => return Err(wrong()),
                "fetch-by-commit" => self.by_commit = truth()?,
                _ => return Err(LocationError::Key(key.to_string())),
            }
            seen.push(key);
        }
        if let (Some(tag), Some(branch)) = (&tag, &branch) {
            return Err(LocationError::Conflict(format!("tag={tag}"), format!("branch={branch}")));
        }
        for (name, prefix) in [(tag, "refs/tags/"), (branch, "refs/heads/")] {
            let Some(name) = name else { continue };
            agree(&mut self.reference, if name.starts_with(prefix) { name } else { format!("{prefix}{name}") })?;
        }
        Ok(())
    }

    fn check(&self) -> Result<(), LocationError> {
        if let Some(reference) = &self.reference {
            let odd = |c: char| c.is_control() || c.is_whitespace() || "~^:?*[\\".contains(c);
            if reference.starts_with('-') || reference.contains(odd) || reference.contains("..") || reference.len() > 1024 {
                return Err(LocationError::Reference(reference.clone()));
            }
        }
        if let Some(checksum) = &self.checksum {
            let hex = !checksum.is_empty() && checksum.len() <= 64 && checksum.bytes().all(|byte| byte.is_ascii_hexdigit());
            if !hex {
                return Err(LocationError::Commit(checksum.clone()));
            }
        }
        if self.by_commit && !self.commit().is_some_and(is_commit) && !self.checksum.as_deref().is_some_and(is_commit) {
            return Err(LocationError::ByCommit);
        }
        if let (Some(commit), Some(checksum)) = (self.commit(), &self.checksum)
            && !commit.starts_with(&checksum.to_ascii_lowercase())
        {
            return Err(LocationError::Conflict(commit.to_owned(), checksum.clone()));
        }
        Ok(())
    }

    /// Returns the commit, when the source itself tells which.
    pub fn commit(&self) -> Option<&str> {
        self.reference.as_deref().filter(|reference| is_commit(reference))
    }
}

/// Returns whether `text` is a whole commit.
pub(super) fn is_commit(text: &str) -> bool {
    matches!(text.len(), 40 | 64) && text.bytes().all(|byte| byte.is_ascii_digit() || (b'a'..=b'f').contains(&byte))
}

fn agree(known: &mut Option<String>, said: String) -> Result<(), LocationError> {
    match known {
        Some(known) if *known != said => Err(LocationError::Conflict(known.clone(), said)),
        _ => {
            *known = Some(said);
            Ok(())
        }
    }
}

#[cfg(test)]
mod tests;
