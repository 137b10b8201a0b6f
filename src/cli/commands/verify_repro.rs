//! `verify-repro`: builds packages twice under different conditions, and tells what is not the same.
//!
//! The two builds are processes of their own, each with a cache that starts with all the images of the user's and none of
//! the steps. Differ do: the cache's directory, how many units and processors are at work, the user's mask, time zone and
//! language, and the time. The user's cache and the registry are only read.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::io;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use rustix::fs::Mode;
use rustix::thread::CpuSet;
use serde::{Deserialize, Serialize};

use super::Context;
use crate::builder::embedded::sandbox;
use crate::cli::args::VerifyReproArgs;
use crate::cli::error::Failure;
use crate::cli::exit::Exit;
use crate::cli::output::counted;
use crate::cli::settings::Settings;
use crate::engine::compare::{CompareError, Difference, Side, differences};
use crate::oci::{Descriptor, MediaType};
use crate::store::Store;
use crate::sys::scratch::Scratch;

/// What is different about a build.
struct Conditions {
    word: &'static str,
    mask: u32,
    environment: [(&'static str, &'static str); 4],
    /// Whether units and threads have one processor, one after the other.
    single: bool,
}

const CONDITIONS: [Conditions; 2] = [
    Conditions {
        word: "first",
        mask: 0o022,
        environment: [("TZ", "UTC"), ("LANG", "C"), ("LC_ALL", "C"), ("COLUMNS", "80")],
        single: false,
    },
    Conditions {
        word: "second",
        mask: 0o077,
        environment: [("TZ", "Pacific/Kiritimati"), ("LANG", "C.UTF-8"), ("LC_ALL", "C.UTF-8"), ("COLUMNS", "132")],
        single: true,
    },
];

/// Times in images count seconds: that far apart the two builds begin at least.
const APART: Duration = Duration::from_millis(1_100);

pub(super) fn run(args: &VerifyReproArgs, context: &mut Context) -> Result<Exit, Failure> {
    // Both rounds run where this process is; where it can be nowhere, they say why.
    drop(sandbox::enter());
    let settings = context.settings.clone();
    let file = |action, path: &Path| {
        let path = path.to_owned();
        move |source| Failure::File { action, path, source }
    };
    let store = Store::open(&settings.cache)?;
    let parent = settings.cache.join("pkgbuild/v1/scratch");
    let home = Scratch::make(&parent).map_err(file("write to", &parent))?;
    let mut rounds = Vec::new();
    for conditions in &CONDITIONS {
        let began = Instant::now();
        let directory = home.path().join(conditions.word);
        let cache = store.clone_into(&directory.join("cache"))?;
        context.say(&format!("{} build", conditions.word))?;
        let metadata = directory.join("metadata.json");
        let ended = build(args, &settings, conditions, (cache.directory(), &metadata));
        let status = ended.map_err(file("start a build in", &directory))?;
        if !status.success() {
            // It has said why.
            return Ok(status.code().and_then(Exit::of_code).unwrap_or(Exit::BuildFailed));
        }
        let bytes = fs_err::read(&metadata).map_err(file("read", &metadata))?;
        let built: BTreeMap<String, Metadata> =
            serde_json::from_slice(&bytes).map_err(|error| file("read", &metadata)(io::Error::other(error)))?;
        rounds.push((cache, built));
        if rounds.len() < CONDITIONS.len() {
            std::thread::sleep(APART.saturating_sub(began.elapsed()));
        }
    }
    let [(first, one), (second, two)] = &rounds[..] else { unreachable!("there are two sets of conditions") };
    let units = compare((first, one), (second, two))?;
    show(&units, args.json, context)
}

/// Runs one build to its end. Mask and processors are inherited, and set back afterwards.
fn build(
    args: &VerifyReproArgs,
    settings: &Settings,
    conditions: &Conditions,
    (cache, metadata): (&Path, &Path),
) -> io::Result<std::process::ExitStatus> {
    let mut command = Command::new("/proc/self/exe");
    command.arg("build").args(["--quiet", "--force", "--no-cache", "--metadata-file"]).arg(metadata);
    command.args(globals(settings, cache));
    if conditions.single {
        command.args(["--jobs", "1"]);
    } else if let Some(jobs) = settings.jobs {
        command.args(["--jobs", &jobs.to_string()]);
    }
    for (flag, platforms) in [("--platform", &args.platforms.platforms), ("--skip-platforms", &args.platforms.skip_platforms)] {
        for platform in platforms {
            command.args([flag, &platform.to_string()]);
        }
    }
    command.args(&args.build_args).arg("--").args(&args.packages);
    command.envs(conditions.environment).stdin(Stdio::null()).stdout(Stdio::null());
    let processors = rustix::thread::sched_getaffinity(None)?;
    if conditions.single
        && let Some(only) = (0..CpuSet::MAX_CPU).find(|number| processors.is_set(*number))
    {
        let mut set = CpuSet::new();
        set.set(only);
        rustix::thread::sched_setaffinity(None, &set)?;
    }
    let mask = rustix::process::umask(Mode::from_raw_mode(conditions.mask));
    let ended = command.status();
    rustix::process::umask(mask);
    rustix::thread::sched_setaffinity(None, &processors)?;
    ended
}

/// Returns the global options that make a build see what this command sees; the environment does the rest.
fn globals(settings: &Settings, cache: &Path) -> Vec<OsString> {
    let mut words: Vec<OsString> = Vec::new();
    let mut option = |name: &str, value: OsString| words.extend([name.into(), value]);
    option("--cache", cache.into());
    option("--directory", settings.directory.clone().into());
    settings.config.iter().for_each(|path| option("--config", path.into()));
    settings.mirrors.iter().for_each(|mirror| option("--mirror", mirror.into()));
    settings.cert_files.iter().for_each(|path| option("--cert-file", path.into()));
    settings.insecure.iter().for_each(|registry| option("--insecure", registry.into()));
    settings.credentials.iter().for_each(|path| option("--registry-creds-file", path.into()));
    if settings.offline {
        words.push("--offline".into());
    }
    words
}

/// What is read of a `--metadata-file`.
#[derive(Deserialize)]
struct Metadata {
    #[serde(rename = "image.name")]
    name: String,
    #[serde(rename = "pkgbuild.platforms")]
    platforms: BTreeMap<String, PlatformMetadata>,
}

#[derive(Deserialize)]
struct PlatformMetadata {
    digest: crate::oci::Digest,
    outcome: String,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Unit {
    package: String,
    image: String,
    platform: String,
    digests: [String; 2],
    same: bool,
    differences: Vec<Told>,
}

#[derive(Serialize)]
struct Told {
    kind: &'static str,
    #[serde(skip_serializing_if = "String::is_empty")]
    step: String,
    #[serde(skip_serializing_if = "String::is_empty")]
    path: String,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    what: Vec<&'static str>,
}

type Round<'a> = (&'a Store, &'a BTreeMap<String, Metadata>);

fn compare((first, one): Round<'_>, (second, two): Round<'_>) -> Result<Vec<Unit>, Failure> {
    let mut units = Vec::new();
    for (package, metadata) in one {
        for (platform, a) in metadata.platforms.iter().filter(|(_, unit)| unit.outcome == "built") {
            let Some(b) = two.get(package).and_then(|metadata| metadata.platforms.get(platform)) else { continue };
            let descriptor = |store: &Store, digest: &crate::oci::Digest| -> Result<Descriptor, CompareError> {
                let size = store.open_blob(digest)?.metadata().map_or(0, |data| data.len());
                Ok(Descriptor::new(MediaType::MANIFEST, size, *digest))
            };
            let (left, right) = (descriptor(first, &a.digest)?, descriptor(second, &b.digest)?);
            let found = differences(Side { store: first, manifest: &left }, Side { store: second, manifest: &right })?;
            units.push(Unit {
                package: package.clone(),
                image: metadata.name.clone(),
                platform: platform.clone(),
                digests: [a.digest.to_string(), b.digest.to_string()],
                same: found.is_empty(),
                differences: found.into_iter().map(Told::of).collect(),
            });
        }
    }
    Ok(units)
}

impl Told {
    fn of(difference: Difference) -> Self {
        let none = |kind| Self { kind, step: String::new(), path: String::new(), what: Vec::new() };
        match difference {
            Difference::File { step, path, what } => {
                Self { kind: "file", step, path, what: what.into_iter().map(|aspect| aspect.word()).collect() }
            }
            Difference::Packing { step } => Self { step, ..none("packing") },
            Difference::LayerCount { first, second } => Self { path: format!("{first} and {second}"), ..none("layer-count") },
            Difference::Config { member } => Self { path: member, ..none("config") },
            Difference::Manifest => none("manifest"),
        }
    }

    fn line(&self) -> String {
        match self.kind {
            "file" => format!("/{}: {}", self.path, self.what.join(", ")),
            "packing" => "the same files, packed otherwise".to_owned(),
            "layer-count" => format!("layers: {}", self.path),
            "config" => format!("config: {}", self.path),
            _ => "the manifest".to_owned(),
        }
    }
}

fn show(units: &[Unit], json: bool, context: &mut Context) -> Result<Exit, Failure> {
    #[derive(Serialize)]
    struct Document<'a> {
        units: &'a [Unit],
    }
    if json {
        context.out.json("verify-repro", &Document { units })?;
    } else {
        for unit in units {
            let verdict = if unit.same { format!("the same: {}", unit.digests[0]) } else { "not the same".to_owned() };
            context.out.line(format!("{} {}: {verdict}", unit.package, unit.platform))?;
            let mut step = "";
            for difference in &unit.differences {
                if difference.step != step {
                    step = &difference.step;
                    context.out.line(format!("  {step}"))?;
                }
                context.out.line(format!("    {}", difference.line()))?;
            }
        }
    }
    let different = units.iter().filter(|unit| !unit.same).count();
    if units.is_empty() {
        context.say("nothing was built, so nothing is compared")?;
    } else if different > 0 {
        context.say(&format!("{} of {} differ between two builds", different, counted(units.len(), "image")))?;
    }
    Ok(if different == 0 { Exit::Done } else { Exit::BuildFailed })
}
