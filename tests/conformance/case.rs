//! The form of a case.

use std::collections::BTreeMap;
use std::path::PathBuf;

use serde::Deserialize;
use serde_json::Value;

/// A Dockerfile with its context, and what comes of it.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub struct Case {
    /// The rule, as a sentence.
    pub name: String,
    /// The Dockerfile's text, which is also a file of the context.
    pub dockerfile: String,
    /// The Dockerfile's path in the context.
    #[serde(default = "dockerfile_path")]
    pub file: String,
    /// A listing of the context's files.
    #[serde(default)]
    pub context: String,
    /// Tar archives of the context: path to a listing of the members. The path's end says how it is compressed, or a second
    /// word does.
    #[serde(default)]
    pub archives: BTreeMap<String, String>,
    /// Further base images: name to the Dockerfile that makes it of the same context. `busybox` is always there.
    #[serde(default)]
    pub bases: BTreeMap<String, String>,
    /// Build arguments.
    #[serde(default)]
    pub args: BTreeMap<String, String>,
    /// The stage to build.
    pub target: Option<String>,
    /// The platform to build for, `linux/amd64` unless given.
    pub platform: Option<String>,
    /// The first version of BuildKit's Dockerfile frontend that knows what the case uses. An older reference is not asked.
    pub needs: Option<Version>,
    /// A listing of what is different in the image from its base image, in order of the paths.
    pub files: Option<String>,
    /// Fields of the image's configuration, each whole; null for one that must not be there.
    #[serde(default)]
    pub config: BTreeMap<String, Value>,
    /// `created_by` of the history, without the base image's.
    pub history: Option<Vec<String>>,
    /// Set when the build must fail.
    pub fails: Option<Failure>,
    /// What BuildKit does otherwise, where that is on purpose.
    pub buildkit: Option<Deviation>,
}

/// How a build fails.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Failure {
    /// What our error says; an ellipsis stands for anything.
    pub pkgbuild: String,
    /// What BuildKit prints, likewise; must be given unless it builds.
    pub buildkit: Option<String>,
}

/// What BuildKit gives where we decided otherwise.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Deviation {
    /// Why we differ.
    pub because: String,
    /// Its files, where they are others.
    pub files: Option<String>,
    /// Fields of its configuration which are others.
    #[serde(default)]
    pub config: BTreeMap<String, Value>,
    /// Its history, where it is another.
    pub history: Option<Vec<String>>,
    /// Its error, where we build.
    pub error: Option<String>,
}

/// A version of the Dockerfile frontend: major and minor number.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Deserialize)]
#[serde(try_from = "String")]
pub struct Version(u32, u32);

impl TryFrom<String> for Version {
    type Error = String;

    fn try_from(text: String) -> Result<Self, String> {
        let numbers = text.split_once('.').and_then(|(major, minor)| Some((major.parse().ok()?, minor.parse().ok()?)));
        numbers.map(|(major, minor)| Self(major, minor)).ok_or_else(|| format!("`{text}` is no version like \"1.7\""))
    }
}

fn dockerfile_path() -> String {
    "Dockerfile".to_owned()
}

/// Returns the directory with the files of cases.
pub fn directory() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/conformance/cases")
}

/// Reads the cases of a topic.
///
/// # Panics
/// When the file is not in the form above.
pub fn read(topic: &str) -> Vec<Case> {
    let path = directory().join(format!("{topic}.yml"));
    let text = std::fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
    let cases: Vec<Case> = serde_saphyr::from_str(&text).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
    for case in &cases {
        let fails = case.fails.is_some();
        assert!(fails != case.files.is_some(), "{topic}: `{}` must have either `files` or `fails`", case.name);
        let explained = case.buildkit.as_ref().is_none_or(|other| !other.because.is_empty());
        assert!(explained, "{topic}: `{}` must say why it differs", case.name);
        assert!(
            !fails || (case.config.is_empty() && case.history.is_none()),
            "{topic}: `{}` fails, so it has no image",
            case.name
        );
    }
    cases
}
