//! Which variables an instruction sees: arguments before the first `FROM`, and `ARG` and `ENV` inside of a stage.

use std::collections::BTreeMap;

use crate::oci::Platform;

use super::expand::{ExpandError, Mode, expand_word};
use super::instruction::Argument;

/// Arguments that mean something without an `ARG`; the proxies in both spellings.
const PROXIES: [&str; 5] = ["ALL_PROXY", "FTP_PROXY", "HTTPS_PROXY", "HTTP_PROXY", "NO_PROXY"];
const PLATFORM_PARTS: [&str; 5] = ["PLATFORM", "OS", "OSVERSION", "ARCH", "VARIANT"];

/// Arguments that do not become variables of `RUN` steps.
pub(super) const NOT_IN_ENVIRONMENT: [&str; 2] = ["BUILDKIT_SBOM_SCAN_CONTEXT", "BUILDKIT_SBOM_SCAN_STAGE"];

/// Returns whether `name` is a proxy argument: handed to `RUN` steps without `ARG`, but kept out of cache keys and history.
pub fn is_proxy(name: &str) -> bool {
    PROXIES.contains(&name) || PROXIES.contains(&&name.to_ascii_uppercase()[..]) && name == name.to_ascii_lowercase()
}

/// Returns whether an argument means something although no `ARG` declares it.
pub fn is_predefined(name: &str) -> bool {
    let platform = |prefix| name.strip_prefix(prefix).is_some_and(|part| PLATFORM_PARTS.contains(&part));
    is_proxy(name)
        || name == "SOURCE_DATE_EPOCH"
        || name == "TARGETSTAGE"
        || name.starts_with("BUILDKIT_")
        || platform("TARGET")
        || platform("BUILD")
}

/// The arguments of a whole build: what was given, and what stands before the first `FROM`.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Globals {
    given: BTreeMap<String, String>,
    values: BTreeMap<String, String>,
}

impl Globals {
    /// Returns the platform arguments for a build; those `given` override them.
    pub fn new(given: &BTreeMap<String, String>, build: &Platform, target: &Platform, target_stage: &str) -> Self {
        let mut values = BTreeMap::new();
        for (prefix, platform) in [("BUILD", build), ("TARGET", target)] {
            let parts = [
                spelled_out(platform),
                platform.os.clone(),
                platform.os_version.clone().unwrap_or_default(),
                platform.architecture.clone(),
                platform.variant.clone().unwrap_or_default(),
            ];
            values.extend(PLATFORM_PARTS.iter().map(|part| format!("{prefix}{part}")).zip(parts));
        }
        let stage = if target_stage.is_empty() { "default" } else { target_stage };
        values.insert("TARGETSTAGE".to_owned(), stage.to_owned());
        for (name, value) in &mut values {
            if let Some(given) = given.get(name) {
                value.clone_from(given);
            }
        }
        Self { given: given.clone(), values }
    }

    /// Declares an argument that stands before the first `FROM`.
    ///
    /// # Errors
    /// When its default cannot be expanded.
    pub fn declare(&mut self, argument: &Argument, escape: char) -> Result<(), ExpandError> {
        let value = match (self.given.get(&argument.name), &argument.default) {
            (Some(given), _) => given.clone(),
            (None, Some(default)) => expand_word(default, escape, &|name| self.get(name), Mode::WORD)?,
            (None, None) => return Ok(()),
        };
        self.values.insert(argument.name.clone(), value);
        Ok(())
    }

    /// Returns the value that a `FROM` sees.
    pub fn get(&self, name: &str) -> Option<String> {
        self.values.get(name).cloned()
    }

    /// Returns the names that a `FROM` sees, sorted.
    pub fn names(&self) -> impl Iterator<Item = &str> {
        self.values.keys().map(String::as_str)
    }
}

/// `os/architecture[/variant]`; unlike the short form of messages, `arm` has its variant here.
fn spelled_out(platform: &Platform) -> String {
    let variant = platform.variant.as_ref().map(|variant| format!("/{variant}")).unwrap_or_default();
    let version = platform.os_version.as_ref().map(|version| format!("({version})")).unwrap_or_default();
    format!("{}{version}/{}{variant}", platform.os, platform.architecture)
}

/// The variables inside of a stage, as they stand between two instructions.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Scope {
    environment: Vec<(String, String)>,
    arguments: Vec<(String, Option<String>)>,
}

impl Scope {
    /// Returns the scope of a stage that starts from an image with `environment`, as `KEY=value`.
    pub fn new<'a>(environment: impl IntoIterator<Item = &'a str>) -> Self {
        Self::default().inherited(environment)
    }

    /// Returns the scope of a stage that starts from this one's: it keeps the arguments, and the image's `environment` holds
    /// again where an argument had covered it.
    pub fn inherited<'a>(&self, environment: impl IntoIterator<Item = &'a str>) -> Self {
        let mut scope = self.clone();
        for variable in environment {
            let (key, value) = variable.split_once('=').unwrap_or((variable, ""));
            scope.set(key, value);
        }
        scope
    }

    /// Returns a variable's value.
    pub fn get(&self, name: &str) -> Option<String> {
        self.environment.iter().find(|(key, _)| key == name).map(|(_, value)| value.clone())
    }

    /// Returns the environment of a `RUN` step, in the order of first definition.
    pub fn environment(&self) -> &[(String, String)] {
        &self.environment
    }

    /// Returns the declared arguments with the values in force, if they have one, in the order of first declaration.
    pub fn arguments(&self) -> Vec<(String, Option<String>)> {
        let value = |(name, value): &(String, Option<String>)| (name.clone(), self.get(name).or_else(|| value.clone()));
        self.arguments.iter().map(value).collect()
    }

    /// Sets a variable, as `ENV` does; one that exists keeps its place.
    pub fn set(&mut self, key: &str, value: &str) {
        match self.environment.iter_mut().find(|(own, _)| own == key) {
            Some((_, own)) => value.clone_into(own),
            None => self.environment.push((key.to_owned(), value.to_owned())),
        }
    }

    /// Declares an argument, as `ARG` inside of a stage does, and returns its value, if it has one: what was given for the
    /// build, else its default, else the value from before the first `FROM`.
    ///
    /// # Errors
    /// When its default is needed and cannot be expanded.
    pub fn declare(&mut self, argument: &Argument, globals: &Globals, escape: char) -> Result<Option<String>, ExpandError> {
        let name = &argument.name;
        let value = match (globals.given.get(name), &argument.default) {
            (Some(given), _) => Some(given.clone()),
            (None, Some(default)) => Some(expand_word(default, escape, &|name| self.get(name), Mode::WORD)?),
            (None, None) => globals.get(name),
        };
        if let Some(value) = &value
            && !NOT_IN_ENVIRONMENT.contains(&&name[..])
        {
            self.set(name, value);
        }
        match self.arguments.iter_mut().find(|(own, _)| own == name) {
            Some((_, own)) => own.clone_from(&value),
            None => self.arguments.push((name.clone(), value.clone())),
        }
        Ok(value)
    }
}
