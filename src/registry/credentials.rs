//! Where credentials come from: the command line, a file, Docker's and Podman's settings, credential helpers.
//!
//! They are looked up when a registry asks for them, and again when it refuses them, never before: a helper that opens
//! a window or takes a second costs nothing for registries that need none. Where they come from, in order:
//!
//! 1. `REGISTRY=USER:PASSWORD` and `REGISTRY=TOKEN` settings;
//! 2. the credentials file: lines of that form, or Docker's `config.json` form;
//! 3. Docker's `config.json`: the registry's helper in `credHelpers`, else `credsStore`, else the entry in `auths`;
//! 4. Podman's `auth.json`, where a key may go on with the beginning of a repository's path, the longest first.
//!
//! An own reader, because the `docker_credential` crate reads the environment, waits for a helper without a limit and
//! quotes in its errors what the helper printed.

use std::collections::BTreeMap;
use std::fmt;
use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

use base64::Engine;
use base64::alphabet;
use base64::engine::{DecodePaddingMode, GeneralPurpose, GeneralPurposeConfig};
use serde::Deserialize;

use crate::content::ErrorClass;

use super::helper::{self, Answers, HelperError};

/// A text that is never shown.
#[derive(Clone, PartialEq, Eq, Deserialize)]
#[serde(transparent)]
pub struct Secret(String);

impl Secret {
    /// Wraps `text`.
    pub fn new(text: impl Into<String>) -> Self {
        Self(text.into())
    }

    /// Returns the text, for the one place that sends it.
    pub(super) fn reveal(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("[secret]")
    }
}

/// What proves to a registry who is asking.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Login {
    /// A user with a password, sent to the registry itself or exchanged for a token.
    Password {
        /// The user.
        user: String,
        /// The password.
        password: Secret,
    },
    /// An identity token, exchanged for tokens (OAuth 2 refresh token).
    Identity(Secret),
    /// A token that is sent as it is.
    Bearer(Secret),
}

/// Where credentials come from.
#[derive(Clone, Debug)]
pub struct CredentialSources {
    /// Registries with their logins, as [`CredentialSources::add`] reads them; the last for a registry counts.
    pub settings: Vec<(String, Login)>,
    /// The credentials file that the user names; it must be there.
    pub file: Option<PathBuf>,
    /// Docker's `config.json` and Podman's `auth.json`, in the order to ask; those that are not there hold nothing.
    pub stores: Vec<PathBuf>,
    /// Directories in which credential helpers are looked for before `PATH`.
    pub helper_directories: Vec<PathBuf>,
    /// How long a credential helper may take.
    pub helper_limit: Duration,
}

impl Default for CredentialSources {
    fn default() -> Self {
        let helper_limit = Duration::from_secs(30);
        Self { settings: Vec::new(), file: None, stores: Vec::new(), helper_directories: Vec::new(), helper_limit }
    }
}

/// Why credentials cannot be read. Texts hold no part of what was read.
#[derive(Debug, thiserror::Error)]
pub enum CredentialError {
    /// A setting without a registry or without anything to send.
    #[error("credentials for `{0}` are not `REGISTRY=USER:PASSWORD` or `REGISTRY=TOKEN`")]
    Setting(String),
    /// A file cannot be read.
    #[error("cannot read `{}`", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// What failed.
        #[source]
        source: io::Error,
    },
    /// A file is not of Docker's form.
    #[error("`{}` is not of the form of Docker's config.json (line {line}, column {column})", path.display())]
    Form {
        /// The file.
        path: PathBuf,
        /// Line of the mistake.
        line: usize,
        /// Column of the mistake.
        column: usize,
    },
    /// A line of the credentials file is not of the form of a setting.
    #[error("line {line} of `{}` is not `REGISTRY=USER:PASSWORD` or `REGISTRY=TOKEN`", path.display())]
    Line {
        /// The file.
        path: PathBuf,
        /// The line, counted from 1.
        line: usize,
    },
    /// An `auth` value is not base64 of `USER:PASSWORD`.
    #[error("`auth` of `{registry}` in `{}` is not base64 of USER:PASSWORD", path.display())]
    Entry {
        /// The file.
        path: PathBuf,
        /// The key in the file.
        registry: String,
    },
    /// A credential helper failed.
    #[error("credential helper `docker-credential-{name}`, which `{}` names, gave none", path.display())]
    Helper {
        /// The helper's name in the file.
        name: String,
        /// The file that names it.
        path: PathBuf,
        /// What failed.
        #[source]
        source: HelperError,
    },
}

impl CredentialError {
    /// Returns what can be done about it.
    pub fn class(&self) -> ErrorClass {
        match self {
            Self::Helper { .. } => ErrorClass::Denied,
            _ => ErrorClass::Permanent,
        }
    }
}

impl CredentialSources {
    /// Adds one setting, `REGISTRY=USER:PASSWORD` or `REGISTRY=TOKEN`; a later one for the same registry counts.
    ///
    /// # Errors
    /// [`CredentialError::Setting`] when it is of another form.
    pub fn add(&mut self, setting: &str) -> Result<(), CredentialError> {
        let parsed = parse_setting(setting)
            .ok_or_else(|| CredentialError::Setting(setting.split('=').next().unwrap_or_default().to_owned()))?;
        self.settings.push(parsed);
        Ok(())
    }

    /// Returns the login for `repository` on `host`, or `None` when none is configured.
    ///
    /// `answers` are those of helpers, which are not asked again for what is there.
    pub(super) async fn find(
        &self,
        host: &str,
        repository: &str,
        answers: &mut Answers,
    ) -> Result<Option<Login>, CredentialError> {
        let names = names_of(host, repository);
        if let Some((_, login)) = self.settings.iter().rev().find(|(registry, _)| names.contains(&normal(registry))) {
            return Ok(Some(login.clone()));
        }
        if let Some(path) = &self.file {
            let bytes = fs_err::read(path).map_err(|source| CredentialError::Read { path: path.clone(), source })?;
            let found = if bytes.trim_ascii_start().first() == Some(&b'{') {
                self.find_in(path, &bytes, &names, answers).await?
            } else {
                find_line(path, &bytes, &names)?
            };
            if found.is_some() {
                return Ok(found);
            }
        }
        for path in &self.stores {
            let bytes = match fs_err::read(path) {
                Ok(bytes) => bytes,
                Err(error) if matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory) => continue,
                Err(source) => return Err(CredentialError::Read { path: path.clone(), source }),
            };
            if let Some(login) = self.find_in(path, &bytes, &names, answers).await? {
                return Ok(Some(login));
            }
        }
        Ok(None)
    }

    async fn find_in(
        &self,
        path: &Path,
        bytes: &[u8],
        names: &[String],
        answers: &mut Answers,
    ) -> Result<Option<Login>, CredentialError> {
        if bytes.trim_ascii().is_empty() {
            return Ok(None);
        }
        // The parser's own message may quote a value, so only the place of the mistake is told.
        let config: Config = serde_json::from_slice(bytes).map_err(|error| CredentialError::Form {
            path: path.to_owned(),
            line: error.line(),
            column: error.column(),
        })?;
        let helper = by_name(&config.cred_helpers, names).map(|(_, helper)| helper).or(config.creds_store.as_ref());
        if let Some(helper) = helper.filter(|helper| !helper.is_empty()) {
            let server = helper_server(names.last().map(String::as_str).unwrap_or_default());
            let program = helper::program(helper, &self.helper_directories);
            let key = (program, server.to_owned());
            let found = match answers.get(&key) {
                Some(answer) => answer.clone(),
                None => {
                    let failed = |source| CredentialError::Helper { name: helper.clone(), path: path.to_owned(), source };
                    let answer = helper::get(&key.0, server, self.helper_limit).await.map_err(failed)?;
                    answers.insert(key, answer.clone());
                    answer
                }
            };
            if found.is_some() {
                return Ok(found);
            }
        }
        let Some((registry, entry)) = by_name(&config.auths, names) else { return Ok(None) };
        entry.login().map_err(|()| CredentialError::Entry { path: path.to_owned(), registry: registry.to_owned() })
    }
}

fn parse_setting(setting: &str) -> Option<(String, Login)> {
    let (registry, secret) = setting.split_once('=')?;
    let registry = registry.trim();
    let login = match secret.split_once(':') {
        Some((user, password)) if !user.is_empty() && !password.is_empty() => {
            Login::Password { user: user.to_owned(), password: Secret::new(password) }
        }
        None if !secret.is_empty() => Login::Bearer(Secret::new(secret)),
        _ => return None,
    };
    (!registry.is_empty()).then(|| (registry.to_owned(), login))
}

fn find_line(path: &Path, bytes: &[u8], names: &[String]) -> Result<Option<Login>, CredentialError> {
    let mut found = None;
    for (number, line) in String::from_utf8_lossy(bytes).lines().enumerate() {
        let line = line.trim();
        if line.is_empty() || line.starts_with('#') {
            continue;
        }
        let (registry, login) =
            parse_setting(line).ok_or_else(|| CredentialError::Line { path: path.to_owned(), line: number + 1 })?;
        if names.contains(&normal(&registry)) {
            found = Some(login);
        }
    }
    Ok(found)
}

/// Docker's `config.json` and Podman's `auth.json`, as far as they concern credentials.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Config {
    #[serde(default)]
    auths: BTreeMap<String, Entry>,
    #[serde(default)]
    creds_store: Option<String>,
    #[serde(default)]
    cred_helpers: BTreeMap<String, String>,
}

#[derive(Deserialize)]
#[serde(rename_all = "lowercase")]
struct Entry {
    auth: Option<Secret>,
    username: Option<String>,
    password: Option<Secret>,
    identitytoken: Option<Secret>,
    registrytoken: Option<Secret>,
}

impl Entry {
    /// Returns the login, or `None` for the empty entries that `docker login` leaves beside a helper.
    fn login(&self) -> Result<Option<Login>, ()> {
        let filled = |secret: &Option<Secret>| secret.clone().filter(|secret| !secret.reveal().is_empty());
        if let Some(token) = filled(&self.identitytoken) {
            return Ok(Some(Login::Identity(token)));
        }
        if let Some(token) = filled(&self.registrytoken) {
            return Ok(Some(Login::Bearer(token)));
        }
        if let Some(auth) = filled(&self.auth) {
            let lenient = GeneralPurposeConfig::new().with_decode_padding_mode(DecodePaddingMode::Indifferent);
            let decoded = GeneralPurpose::new(&alphabet::STANDARD, lenient).decode(auth.reveal().trim()).map_err(drop)?;
            let decoded = String::from_utf8(decoded).map_err(drop)?;
            let (user, password) = decoded.split_once(':').ok_or(())?;
            // Docker pads what it writes with zero bytes, and trims them when it reads.
            let password = Secret::new(password.trim_end_matches('\0'));
            return Ok(Some(Login::Password { user: user.to_owned(), password }));
        }
        let (Some(user), Some(password)) = (self.username.clone(), filled(&self.password)) else { return Ok(None) };
        Ok(Some(Login::Password { user, password }))
    }
}

/// Returns the names under which credentials for `repository` on `host` may stand, the most special first.
fn names_of(host: &str, repository: &str) -> Vec<String> {
    let host = normal(host);
    let mut names = Vec::new();
    let mut path = repository;
    while !path.is_empty() {
        names.push(format!("{host}/{path}"));
        path = path.rsplit_once('/').map_or("", |(parent, _)| parent);
    }
    names.push(host);
    names
}

/// Returns `name` without a scheme and an API version, and with one name for Docker's own registry.
fn normal(name: &str) -> String {
    let name = name.trim();
    let name = name.strip_prefix("https://").or_else(|| name.strip_prefix("http://")).unwrap_or(name).trim_end_matches('/');
    let name = name.strip_suffix("/v1").or_else(|| name.strip_suffix("/v2")).unwrap_or(name);
    let (host, rest) = name.split_once('/').map_or((name, None), |(host, rest)| (host, Some(rest)));
    let host = if matches!(host, "index.docker.io" | "registry-1.docker.io") { "docker.io" } else { host };
    rest.map_or_else(|| host.to_owned(), |rest| format!("{host}/{rest}"))
}

/// Returns the value of the most special of `names`; of several spellings of one name, the plain one counts.
fn by_name<'a, T>(map: &'a BTreeMap<String, T>, names: &[String]) -> Option<(&'a str, &'a T)> {
    names.iter().find_map(|name| {
        let spelled = || map.iter().find(|(key, _)| normal(key) == *name);
        map.get_key_value(name).or_else(spelled).map(|(key, value)| (key.as_str(), value))
    })
}

/// Returns what a helper is asked for: Docker stores its own registry's login under an address of old.
fn helper_server(host: &str) -> &str {
    if host == "docker.io" { "https://index.docker.io/v1/" } else { host }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn password(user: &str, password: &str) -> Option<Login> {
        Some(Login::Password { user: user.into(), password: Secret::new(password) })
    }

    fn encoded(text: &str) -> String {
        base64::engine::general_purpose::STANDARD.encode(text)
    }

    struct Home(tempfile::TempDir);

    impl Home {
        fn new() -> Self {
            Self(tempfile::tempdir().expect("a directory"))
        }

        fn write(&self, name: &str, text: &str) -> PathBuf {
            let path = self.0.path().join(name);
            fs_err::write(&path, text).expect("written");
            path
        }
    }

    #[tokio::test]
    async fn settings_come_before_the_file_and_the_file_before_dockers_and_podmans() {
        let home = Home::new();
        let mut sources = CredentialSources {
            file: Some(home.write("creds", "# ours\n\nb.example=bob:from-file\nc.example:81=token\n")),
            stores: vec![
                home.0.path().join("absent.json"),
                home.write(
                    "config.json",
                    &format!(
                        r#"{{"auths":{{"b.example":{{"auth":"{0}"}},"https://d.example/v2/":{{"auth":"{0}"}},"e.example":{{}}}}}}"#,
                        encoded("dora:from:docker")
                    ),
                ),
                home.write("auth.json", r#"{"auths":{"e.example":{"username":"eve","password":"from-podman"}}}"#),
            ],
            ..CredentialSources::default()
        };
        sources.add("a.example=alice:from=setting").expect("valid");
        for (host, expected) in [
            ("a.example", password("alice", "from=setting")),
            ("b.example", password("bob", "from-file")),
            ("c.example:81", Some(Login::Bearer(Secret::new("token")))),
            ("c.example", None),
            ("d.example", password("dora", "from:docker")),
            ("e.example", password("eve", "from-podman")),
            ("f.example", None),
        ] {
            assert_eq!(sources.find(host, "x/y", &mut Answers::new()).await.expect(host), expected, "{host}");
        }
    }

    #[tokio::test]
    async fn dockers_own_registry_has_one_login_under_all_its_names() {
        let home = Home::new();
        let store = |key: &str| {
            let path = home.write("config.json", &format!(r#"{{"auths":{{"{key}":{{"auth":"{}"}}}}}}"#, encoded("u:p")));
            CredentialSources { stores: vec![path], ..CredentialSources::default() }
        };
        for key in ["https://index.docker.io/v1/", "index.docker.io", "docker.io", "registry-1.docker.io"] {
            assert_eq!(
                store(key).find("registry-1.docker.io", "library/a", &mut Answers::new()).await.expect(key),
                password("u", "p"),
                "{key}"
            );
        }
    }

    #[tokio::test]
    async fn the_longest_key_that_a_repository_begins_with_counts() {
        let home = Home::new();
        let path = home.write(
            "auth.json",
            r#"{"auths":{"h.example":{"username":"all","password":"p"},"h.example/team":{"username":"team","password":"p"},
                "h.example/team/tool":{"identitytoken":"t"}}}"#,
        );
        let sources = CredentialSources { stores: vec![path], ..CredentialSources::default() };
        assert_eq!(
            sources.find("h.example", "team/tool", &mut Answers::new()).await.expect("found"),
            Some(Login::Identity(Secret::new("t")))
        );
        assert_eq!(sources.find("h.example", "team/other", &mut Answers::new()).await.expect("found"), password("team", "p"));
        assert_eq!(sources.find("h.example", "teams", &mut Answers::new()).await.expect("found"), password("all", "p"));
    }

    #[tokio::test]
    async fn mistakes_are_named_without_the_secret() {
        let home = Home::new();
        let secret = "hunter2";
        let with = |path: PathBuf| CredentialSources { stores: vec![path], ..CredentialSources::default() };
        let bad_json = with(home.write("1", &format!("{{\"auths\": {{\"a.example\":\n \"{secret}\"}}}}")));
        let bad_auth = with(home.write("2", &format!(r#"{{"auths":{{"a.example":{{"auth":"{secret}!"}}}}}}"#)));
        let file = Some(home.write("3", &format!("a.example=a:b\n{secret}\n")));
        let bad_line = CredentialSources { file, ..CredentialSources::default() };
        let absent = CredentialSources { file: Some(home.0.path().join("4")), ..CredentialSources::default() };
        for sources in [bad_json, bad_auth, bad_line, absent] {
            let error = sources.find("a.example", "x", &mut Answers::new()).await.expect_err("a mistake");
            assert!(!format!("{error} {error:?}").contains(secret), "{error:?}");
            assert_eq!(error.class(), ErrorClass::Permanent);
        }
        let mut sources = CredentialSources::default();
        for bad in ["", "=a:b", "a.example", "a.example=", "a.example=:p", "a.example=hunter2:"] {
            let error = sources.add(bad).expect_err(bad);
            assert!(!error.to_string().contains(secret), "{error}");
        }
        sources.add("a.example=me:hunter2").expect("valid");
        assert!(!format!("{sources:?}").contains(secret));
    }
}
