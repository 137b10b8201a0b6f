//! What flags, environment and workspace file say together. The only reader of the environment; where a setting can come
//! from several places the order is: flag, `PKGBUILD_*`, `LINUXKIT_*`, workspace file, default. Empty means unset.

use std::collections::BTreeMap;
use std::ffi::{OsStr, OsString};
use std::io::IsTerminal;
use std::path::{Path, PathBuf};

use super::args::{Color, Global, Progress, parse_size};
use super::argv::CalledAs;
use crate::builder::embedded::snapshot::Overlay;
use crate::report::{Look, Style};
use crate::time::SourceDate;

/// The environment, read once.
#[derive(Clone, Default)]
pub struct Environment(BTreeMap<OsString, OsString>);

impl std::fmt::Debug for Environment {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        // Values may be secrets.
        f.debug_set().entries(self.0.keys()).finish()
    }
}

/// What is known of the outside when the program starts.
#[derive(Clone, Debug, Default)]
pub struct Surroundings {
    /// The environment.
    pub environment: Environment,
    /// Where the program was started.
    pub directory: PathBuf,
    /// Whether standard error is a terminal.
    pub terminal: bool,
    /// By which name the program was called.
    pub called: CalledAs,
}

/// Settings of every command.
#[derive(Clone, Debug)]
pub struct Settings {
    /// By which name the program was called.
    pub called: CalledAs,
    /// The directory that relative paths of the command line are relative to.
    pub directory: PathBuf,
    /// The cache directory.
    pub cache: PathBuf,
    /// The workspace file, when one was named.
    pub config: Option<PathBuf>,
    /// How progress is shown.
    pub look: Look,
    /// Whether only results are wanted.
    pub quiet: bool,
    /// How many units are worked on at once, when that was said.
    pub jobs: Option<usize>,
    /// Whether registries must not be asked.
    pub offline: bool,
    /// `[REGISTRY=]URL` each; later ones win.
    pub mirrors: Vec<String>,
    /// PEM files of certificates to trust.
    pub cert_files: Vec<PathBuf>,
    /// Registries that are spoken to over plain HTTP.
    pub insecure: Vec<String>,
    /// A file of credentials, when one was named.
    pub credentials: Option<PathBuf>,
    /// Where Docker's and Podman's credentials may be, in the order they are asked.
    pub credential_files: Vec<PathBuf>,
    /// The organisation of image names, from the environment.
    pub organisation: Option<String>,
    /// The user's name, the organisation of `--dev`.
    pub user: Option<String>,
    /// The time that goes into images.
    pub source_date: SourceDate,
    /// Bytes of disk that the cache may take after a build, when that was said. Only the user says it: one cache serves many
    /// workspaces.
    pub cache_size: Option<u64>,
    /// Builders named by the environment.
    pub builders: Option<String>,
    /// Whether the embedded builder mounts overlays.
    pub overlay: Overlay,
    environment: Environment,
}

/// Why settings cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum SettingsError {
    /// A variable has a value that is not one of its.
    #[error("`{value}` is no value of {name}: expected {expected}")]
    Variable {
        /// The variable.
        name: &'static str,
        /// Its value.
        value: String,
        /// What it may be.
        expected: &'static str,
    },
    /// No directory for the cache is known.
    #[error("no cache directory is known: neither --cache nor PKGBUILD_CACHE, XDG_CACHE_HOME or HOME is set")]
    NoCache,
    /// The directory of `--directory` cannot be used.
    #[error("cannot start in `{}`", directory.display())]
    Directory {
        /// The directory.
        directory: PathBuf,
        /// The operating system's answer.
        #[source]
        source: std::io::Error,
    },
}

impl Environment {
    /// Reads the environment of this process.
    #[expect(clippy::disallowed_methods, reason = "this is the one place that reads it")]
    pub fn of_process() -> Self {
        Self(std::env::vars_os().collect())
    }

    fn get(&self, name: &str) -> Option<&OsString> {
        self.0.get(OsString::from(name).as_os_str()).filter(|value| !value.is_empty())
    }

    fn text(&self, name: &str) -> Option<String> {
        self.get(name).map(|value| value.to_string_lossy().into_owned())
    }

    fn path(&self, name: &str) -> Option<PathBuf> {
        self.get(name).map(PathBuf::from)
    }

    /// Returns the first of `names` that is set.
    fn first(&self, names: &[&str]) -> Option<String> {
        names.iter().find_map(|name| self.text(name))
    }

    fn list(&self, name: &str) -> Vec<String> {
        let text = self.text(name).unwrap_or_default();
        text.split([' ', ',']).filter(|part| !part.is_empty()).map(str::to_owned).collect()
    }

    fn truth(&self, name: &'static str) -> Result<Option<bool>, SettingsError> {
        match self.text(name).as_deref() {
            None => Ok(None),
            Some("1" | "true" | "yes" | "on") => Ok(Some(true)),
            Some("0" | "false" | "no" | "off") => Ok(Some(false)),
            Some(value) => Err(SettingsError::Variable { name, value: value.to_owned(), expected: "true or false" }),
        }
    }
}

impl<K: Into<OsString>, V: Into<OsString>, const N: usize> From<[(K, V); N]> for Environment {
    fn from(pairs: [(K, V); N]) -> Self {
        Self(pairs.into_iter().map(|(key, value)| (key.into(), value.into())).collect())
    }
}

impl Surroundings {
    /// Looks around.
    ///
    /// # Errors
    /// When the current directory is gone.
    pub fn of_process(called: CalledAs) -> std::io::Result<Self> {
        Ok(Self {
            environment: Environment::of_process(),
            directory: std::env::current_dir()?,
            terminal: std::io::stderr().is_terminal(),
            called,
        })
    }
}

impl Settings {
    /// Returns what `global` and `around` say together.
    ///
    /// # Errors
    /// As [`SettingsError`].
    pub fn resolve(global: &Global, around: &Surroundings) -> Result<Self, SettingsError> {
        let env = &around.environment;
        let directory = match global.directory.clone().or_else(|| env.path("PKGBUILD_DIRECTORY")) {
            None => around.directory.clone(),
            Some(given) => fs_err::canonicalize(around.directory.join(&given))
                .map_err(|source| SettingsError::Directory { directory: given, source })?,
        };
        let absolute = |path: PathBuf| directory.join(path);
        let quiet = global.quiet || env.truth("PKGBUILD_QUIET")?.unwrap_or(false);
        Ok(Self {
            called: around.called,
            cache: absolute(cache(global, around)?),
            config: global.config.clone().or_else(|| env.path("PKGBUILD_CONFIG")).map(absolute),
            look: Look { style: style(global, around, quiet)?, color: color(global, around)?, verbosity: global.verbose },
            quiet,
            jobs: jobs(global, env)?,
            offline: global.offline || env.truth("PKGBUILD_OFFLINE")?.unwrap_or(false),
            // Later ones win, so the strongest place comes last.
            mirrors: [env.list("LINUXKIT_MIRROR"), env.list("PKGBUILD_MIRROR"), global.mirror.clone()].concat(),
            cert_files: or_list(&global.cert_file, env.list("PKGBUILD_CERT_FILE")).into_iter().map(absolute).collect(),
            insecure: [env.list("PKGBUILD_INSECURE"), global.insecure.clone()].concat(),
            credentials: global.registry_creds_file.clone().or_else(|| env.path("PKGBUILD_REGISTRY_CREDS_FILE")).map(absolute),
            credential_files: credential_files(env),
            organisation: env.first(&["PKGBUILD_ORG", "LINUXKIT_PKG_ORG"]),
            user: env.first(&["USER", "LOGNAME"]),
            source_date: source_date(env)?,
            cache_size: cache_size(env)?,
            builders: env.first(&["PKGBUILD_BUILDERS", "LINUXKIT_BUILDERS"]),
            overlay: match env.truth("PKGBUILD_OVERLAY")? {
                Some(false) => Overlay::Never,
                Some(true) | None => Overlay::WhereItWorks,
            },
            environment: env.clone(),
            directory,
        })
    }

    /// Returns a variable that the command line names; it may be empty.
    pub fn variable(&self, name: &str) -> Option<&OsStr> {
        self.environment.0.get(OsStr::new(name)).map(OsString::as_os_str)
    }

    /// Returns `path` as the user means it: relative to where the command acts.
    pub fn path(&self, path: &Path) -> PathBuf {
        self.directory.join(path)
    }
}

fn or_list(flags: &[PathBuf], others: Vec<String>) -> Vec<PathBuf> {
    if flags.is_empty() { others.into_iter().map(PathBuf::from).collect() } else { flags.to_vec() }
}

fn cache(global: &Global, around: &Surroundings) -> Result<PathBuf, SettingsError> {
    let env = &around.environment;
    let said = global.cache.clone().or_else(|| env.path("PKGBUILD_CACHE")).or_else(|| env.path("LINUXKIT_CACHE"));
    let default = || match around.called {
        CalledAs::Linuxkit => env.path("HOME").map(|home| home.join(".linuxkit/cache")),
        CalledAs::Pkgbuild => env
            .path("XDG_CACHE_HOME")
            // The base directory specification: a relative path is to be ignored.
            .filter(|path| path.is_absolute())
            .or_else(|| env.path("HOME").map(|home| home.join(".cache")))
            .map(|caches| caches.join("pkgbuild")),
    };
    said.or_else(default).ok_or(SettingsError::NoCache)
}

fn style(global: &Global, around: &Surroundings, quiet: bool) -> Result<Style, SettingsError> {
    const EXPECTED: &str = "auto, tty, plain, json or quiet";
    let env = &around.environment;
    let named = |name: &'static str| match env.text(name).as_deref() {
        None => Ok(None),
        Some("auto") => Ok(Some(Progress::Auto)),
        Some("tty") => Ok(Some(Progress::Tty)),
        Some("plain") => Ok(Some(Progress::Plain)),
        Some("json" | "rawjson") => Ok(Some(Progress::Json)),
        Some("quiet" | "none") => Ok(Some(Progress::Quiet)),
        Some(value) => Err(SettingsError::Variable { name, value: value.to_owned(), expected: EXPECTED }),
    };
    let said = match global.progress {
        Some(said) => Some(said),
        None if quiet => Some(Progress::Quiet),
        None => match named("PKGBUILD_PROGRESS")? {
            Some(said) => Some(said),
            None => named("BUILDKIT_PROGRESS")?,
        },
    };
    let fit = around.terminal && env.text("TERM").as_deref() != Some("dumb") && env.get("CI").is_none();
    Ok(match said.unwrap_or(Progress::Auto) {
        Progress::Auto if fit => Style::Terminal,
        Progress::Auto | Progress::Plain => Style::Plain,
        Progress::Tty => Style::Terminal,
        Progress::Json => Style::Json,
        Progress::Quiet => Style::Quiet,
    })
}

fn color(global: &Global, around: &Surroundings) -> Result<bool, SettingsError> {
    let env = &around.environment;
    let said = match (global.color, env.text("PKGBUILD_COLOR").as_deref()) {
        (Some(said), _) => said,
        (None, None | Some("auto")) => Color::Auto,
        (None, Some("always")) => Color::Always,
        (None, Some("never")) => Color::Never,
        (None, Some(value)) => {
            let expected = "auto, always or never";
            return Err(SettingsError::Variable { name: "PKGBUILD_COLOR", value: value.to_owned(), expected });
        }
    };
    Ok(match said {
        Color::Always => true,
        Color::Never => false,
        // no-color.org and bixense.com/clicolors: any value that is not empty, `0` for the second.
        Color::Auto if env.get("NO_COLOR").is_some() => false,
        Color::Auto if env.text("CLICOLOR_FORCE").is_some_and(|value| value != "0") => true,
        Color::Auto => around.terminal && env.text("TERM").as_deref() != Some("dumb"),
    })
}

fn jobs(global: &Global, env: &Environment) -> Result<Option<usize>, SettingsError> {
    if let Some(jobs) = global.jobs {
        return Ok(Some(jobs.into()));
    }
    match env.text("PKGBUILD_JOBS") {
        None => Ok(None),
        Some(value) => match value.parse::<u16>() {
            Ok(jobs) if jobs > 0 => Ok(Some(jobs.into())),
            _ => Err(SettingsError::Variable { name: "PKGBUILD_JOBS", value, expected: "a number from 1 to 65535" }),
        },
    }
}

fn cache_size(env: &Environment) -> Result<Option<u64>, SettingsError> {
    const NAME: &str = "PKGBUILD_CACHE_SIZE";
    let Some(value) = env.text(NAME) else { return Ok(None) };
    let expected = "a size like 500MB, 10GB or 1.5GiB";
    parse_size(&value).map(Some).map_err(|_| SettingsError::Variable { name: NAME, value, expected })
}

fn source_date(env: &Environment) -> Result<SourceDate, SettingsError> {
    const NAME: &str = "SOURCE_DATE_EPOCH";
    match env.text(NAME) {
        None => Ok(SourceDate::default()),
        Some(value) => match value.parse() {
            Ok(seconds) if seconds >= 0 => Ok(SourceDate(seconds)),
            _ => Err(SettingsError::Variable { name: NAME, value, expected: "whole seconds since 1970" }),
        },
    }
}

/// Docker's file first, then Podman's, in the order Podman looks for them.
fn credential_files(env: &Environment) -> Vec<PathBuf> {
    let docker = env
        .path("DOCKER_CONFIG")
        .or_else(|| env.path("HOME").map(|home| home.join(".docker")))
        .map(|directory| directory.join("config.json"));
    let podman = [
        env.path("REGISTRY_AUTH_FILE"),
        env.path("XDG_RUNTIME_DIR").map(|directory| directory.join("containers/auth.json")),
        env.path("XDG_CONFIG_HOME")
            .or_else(|| env.path("HOME").map(|home| home.join(".config")))
            .map(|directory| directory.join("containers/auth.json")),
    ];
    docker.into_iter().chain(podman.into_iter().flatten()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn around<const N: usize>(environment: [(&str, &str); N]) -> Surroundings {
        Surroundings {
            environment: environment.into(),
            directory: PathBuf::from("/here"),
            terminal: false,
            called: CalledAs::Pkgbuild,
        }
    }

    fn resolved<const N: usize>(global: Global, environment: [(&str, &str); N]) -> Settings {
        Settings::resolve(&global, &around(environment)).expect("settings")
    }

    #[test]
    fn the_cache_directory_comes_from_the_strongest_place_that_names_one() {
        let flag = || Global { cache: Some("flag".into()), ..Global::default() };
        let all =
            [("PKGBUILD_CACHE", "/pkgbuild"), ("LINUXKIT_CACHE", "/linuxkit"), ("XDG_CACHE_HOME", "/xdg"), ("HOME", "/home")];
        assert_eq!(resolved(flag(), all).cache, Path::new("/here/flag"));
        assert_eq!(resolved(Global::default(), all).cache, Path::new("/pkgbuild"));
        let table = [
            (
                [("PKGBUILD_CACHE", ""), ("LINUXKIT_CACHE", "/linuxkit"), ("XDG_CACHE_HOME", "/xdg"), ("HOME", "/home")],
                "/linuxkit",
            ),
            ([("PKGBUILD_CACHE", ""), ("LINUXKIT_CACHE", ""), ("XDG_CACHE_HOME", "/xdg"), ("HOME", "/home")], "/xdg/pkgbuild"),
            (
                [("PKGBUILD_CACHE", ""), ("LINUXKIT_CACHE", ""), ("XDG_CACHE_HOME", "rel"), ("HOME", "/home")],
                "/home/.cache/pkgbuild",
            ),
        ];
        for (environment, wanted) in table {
            assert_eq!(resolved(Global::default(), environment).cache, Path::new(wanted));
        }
        let linuxkit = Surroundings { called: CalledAs::Linuxkit, ..around([("HOME", "/home"), ("XDG_CACHE_HOME", "/xdg")]) };
        let settings = Settings::resolve(&Global::default(), &linuxkit).expect("settings");
        assert_eq!(settings.cache, Path::new("/home/.linuxkit/cache"));
        assert!(matches!(Settings::resolve(&Global::default(), &around([])), Err(SettingsError::NoCache)));
    }

    #[test]
    fn later_mirrors_win_and_flags_come_last() {
        let global = Global { mirror: vec!["c".into()], ..Global::default() };
        let settings = resolved(global, [("LINUXKIT_MIRROR", "a1,a2 a3"), ("PKGBUILD_MIRROR", "b"), ("HOME", "/")]);
        assert_eq!(settings.mirrors, ["a1", "a2", "a3", "b", "c"]);
    }

    #[test]
    fn progress_fits_what_it_is_written_to() {
        let style = |progress, terminal, environment: &[(&str, &str)]| {
            let mut around = around([("HOME", "/")]);
            around.terminal = terminal;
            around.environment.0.extend(environment.iter().map(|(key, value)| ((*key).into(), (*value).into())));
            Settings::resolve(&Global { progress, ..Global::default() }, &around).expect("settings").look.style
        };
        assert_eq!(style(None, true, &[]), Style::Terminal);
        assert_eq!(style(None, false, &[]), Style::Plain);
        assert_eq!(style(None, true, &[("CI", "true")]), Style::Plain);
        assert_eq!(style(None, true, &[("TERM", "dumb")]), Style::Plain);
        assert_eq!(style(None, true, &[("BUILDKIT_PROGRESS", "plain")]), Style::Plain);
        assert_eq!(style(None, true, &[("PKGBUILD_PROGRESS", "json"), ("BUILDKIT_PROGRESS", "plain")]), Style::Json);
        assert_eq!(style(Some(Progress::Tty), false, &[("PKGBUILD_PROGRESS", "json")]), Style::Terminal);
    }

    #[test]
    fn colours_follow_the_flag_then_the_conventions() {
        let color = |color, environment: &[(&str, &str)]| {
            let mut around = around([("HOME", "/")]);
            around.terminal = true;
            around.environment.0.extend(environment.iter().map(|(key, value)| ((*key).into(), (*value).into())));
            Settings::resolve(&Global { color, ..Global::default() }, &around).expect("settings").look.color
        };
        assert!(color(None, &[]));
        assert!(!color(None, &[("NO_COLOR", "1")]));
        assert!(color(None, &[("NO_COLOR", "")]), "empty is unset");
        assert!(color(Some(Color::Always), &[("NO_COLOR", "1")]));
        assert!(!color(Some(Color::Never), &[("CLICOLOR_FORCE", "1")]));
    }

    #[test]
    fn a_variable_with_a_wrong_value_is_an_error_that_names_it() {
        for (name, value) in [
            ("SOURCE_DATE_EPOCH", "yesterday"),
            ("SOURCE_DATE_EPOCH", "-1"),
            ("PKGBUILD_JOBS", "0"),
            ("PKGBUILD_OFFLINE", "maybe"),
            ("PKGBUILD_PROGRESS", "loud"),
            ("PKGBUILD_COLOR", "red"),
            ("PKGBUILD_CACHE_SIZE", "much"),
        ] {
            let error = Settings::resolve(&Global::default(), &around([(name, value), ("HOME", "/")])).expect_err(name);
            assert!(error.to_string().contains(name), "{error}");
        }
    }
}
