//! Runs with a builder that records what it is asked and returns an image made of that; everything else is real.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use async_trait::async_trait;
use tempfile::TempDir;
use tokio::sync::mpsc;

use super::dispatch::{Limits, OnFailure, Outside};
use super::event::{EventKind, Outcome, Recorder};
use super::plan::{BuildReason, Decision, OnUnknown, Policy, Publish, Refusal, RemoteUse};
use super::publish::{ArchitectureTags, Existing};
use super::*;
use crate::builder::{BuildError, BuildEvent, BuildRequest, Builder, BuiltImage, Keeping, Support};
use crate::content::ErrorClass;
use crate::git::Repositories;
use crate::oci::{Descriptor, Digest, ImageConfig, Manifest, MediaType, Platform, Raw};
use crate::package::{PackageTag, SourceState, TagOverrides, Workspace, WorkspaceOptions, compute};
use crate::registry::{Registry, RetryPolicy, Settings, install_tls_provider};
use crate::store::Store;
use crate::time::{Clock, SourceDate, SystemClock};
use crate::transfer::validate;

/// What the builder was asked, as far as tests look at it.
#[derive(Clone, PartialEq, Eq, Debug)]
struct Asked {
    unit: String,
    bases: BTreeMap<String, Digest>,
}

struct FakeBuilder {
    store: Store,
    asked: Mutex<Vec<Asked>>,
    fails: Vec<&'static str>,
}

#[async_trait]
impl Builder for FakeBuilder {
    fn support(&self, _: &Platform) -> Support {
        Support::Native
    }

    async fn build(&self, request: &BuildRequest, on: &(dyn Fn(BuildEvent) + Send + Sync)) -> Result<BuiltImage, BuildError> {
        let unit = format!("{} {}", request.package, request.platform);
        let bases = request.bases.iter().map(|(key, base)| (key.reference.clone(), base.manifest.digest)).collect();
        self.asked.lock().expect("no panic").push(Asked { unit: unit.clone(), bases });
        on(BuildEvent::Log { step: 1, bytes: b"half a ".to_vec() });
        on(BuildEvent::Log { step: 1, bytes: b"line\nno end".to_vec() });
        if self.fails.iter().any(|failing| *failing == unit) {
            return Err(BuildError::Builder {
                action: "succeed".to_owned(),
                class: ErrorClass::Permanent,
                source: "as the test wants".into(),
            });
        }
        let mut config = ImageConfig::scratch(request.platform.clone());
        config.author = Some(unit);
        let config = serde_json::to_vec(&config).expect("JSON");
        let config = self.store.write(MediaType::CONFIG, &config).expect("a writable cache");
        let manifest = Raw::encode(Manifest {
            schema_version: 2,
            media_type: Some(MediaType::MANIFEST.to_owned()),
            artifact_type: None,
            config,
            layers: Vec::new(),
            subject: None,
            annotations: BTreeMap::new(),
        });
        let mut manifest = self.store.write(MediaType::MANIFEST, manifest.bytes()).expect("a writable cache");
        manifest.platform = Some(request.platform.clone());
        Ok(BuiltImage { manifest, attestations: Vec::new() })
    }
}

struct EngineTest {
    directory: TempDir,
    platforms: Vec<Platform>,
    fails: Vec<&'static str>,
    options: Options,
    dirty: bool,
    hash: &'static str,
}

struct Ran {
    summary: RunSummary,
    asked: Vec<Asked>,
    events: Vec<EventKind>,
    decisions: Vec<Decision>,
    store: Store,
}

impl EngineTest {
    fn new(packages: &[(&str, &str)]) -> Self {
        install_tls_provider();
        let directory = TempDir::new().expect("a temporary directory");
        for (name, dockerfile) in packages {
            let package = directory.path().join("pkg").join(name);
            fs_err::create_dir_all(&package).expect("writable");
            // Nothing listens on port 1 of this machine.
            let build_yml = format!("image: {name}\norg: 127.0.0.1:1/test\n");
            fs_err::write(package.join("build.yml"), build_yml).expect("writable");
            fs_err::write(package.join("Dockerfile"), dockerfile).expect("writable");
        }
        let options = Options {
            policy: Policy { remote: RemoteUse::Ignore, ..Policy::default() },
            limits: Limits { jobs: 2, on_failure: OnFailure::Finish, timeout: None },
            step_cache: true,
            keeping: Keeping::default(),
            cached_bases: true,
            source_date: SourceDate(0),
            labels: BTreeMap::new(),
            annotations: BTreeMap::new(),
            architecture_tags: ArchitectureTags::Written,
            existing: Existing::Stays,
            steps: Arc::default(),
            warnings: Vec::new(),
        };
        let platforms = vec![Platform::linux("amd64"), Platform::linux("arm64")];
        Self { directory, platforms, fails: Vec::new(), options, dirty: false, hash: "h1" }
    }

    fn jobs(&self) -> Vec<Job> {
        let workspace = Workspace::load(WorkspaceOptions::new(self.directory.path())).expect("a workspace");
        let tags = TagOverrides { hash: Some(self.hash.to_owned()), ..TagOverrides::default() };
        let packages = workspace.select(&[]).expect("packages");
        let job = |package: crate::package::Package| {
            let tag = compute(&package, &mut Repositories::new(), &tags).expect("a tag");
            let state = if self.dirty { SourceState::Dirty } else { tag.state };
            let tag = PackageTag { state, ..tag };
            Job {
                name: package.settings.image.clone(),
                package,
                tag,
                aliases: Vec::new(),
                args: BTreeMap::new(),
                platforms: self.platforms.clone(),
                needs: Vec::new(),
                variation: crate::builder::Variation::default(),
                asked: true,
                input_key: None,
            }
        };
        packages.into_iter().map(job).collect()
    }

    fn store(&self) -> Store {
        Store::open(&self.directory.path().join("cache")).expect("a cache")
    }

    async fn run(&self) -> Ran {
        let store = self.store();
        let retry = RetryPolicy { attempts: 1, first: Duration::from_millis(1), ..RetryPolicy::default() };
        let registry = Registry::new(Settings { retry, ..Settings::default() }).expect("settings");
        let builder = Arc::new(FakeBuilder { store: store.clone(), asked: Mutex::default(), fails: self.fails.clone() });
        let engine = Engine { store: store.clone(), registry, builder: builder.clone() };
        let recorder = Recorder::default();
        let (_sender, interrupts) = mpsc::channel(1);
        let clock = SystemClock;
        let mut outside = Outside { clock: &clock, started: clock.now(), sink: &recorder, interrupts };
        let jobs = self.jobs();
        let plan = plan(Some(&store), &engine.registry, &jobs, &self.options.policy).await.expect("a plan");
        let decisions = plan.packages.iter().flat_map(|package| &package.units).map(|unit| unit.decision).collect();
        let summary = engine.run(jobs, plan, self.options.clone(), &mut outside).await;
        let asked = builder.asked.lock().expect("no panic").clone();
        Ran { summary, asked, events: recorder.kinds(), decisions, store }
    }
}

impl Ran {
    fn units(&self) -> Vec<&str> {
        let mut units: Vec<&str> = self.asked.iter().map(|asked| asked.unit.as_str()).collect();
        units.sort_unstable();
        units
    }

    fn index(&self, name: &str) -> Descriptor {
        let roots = self.store.roots().expect("readable");
        roots.get(name).cloned().unwrap_or_else(|| panic!("{name} is not in the cache"))
    }
}

const SCRATCH: &str = "FROM scratch\nCOPY f /f\n";
const FROM_BASE: &str = "FROM 127.0.0.1:1/test/base:h1\nCOPY f /f\n";

#[tokio::test]
async fn every_platform_is_built_once_and_listed_in_the_index() {
    let test = EngineTest::new(&[("hello", SCRATCH)]);
    let ran = test.run().await;
    assert_eq!(ran.units(), ["hello linux/amd64", "hello linux/arm64"]);
    assert_eq!(ran.decisions, [Decision::Build(BuildReason::NotFound); 2]);
    let index = ran.index("127.0.0.1:1/test/hello:h1");
    assert_eq!(ran.summary.packages[0].digest, Some(index.digest));
    let valid = validate(&ran.store, &index).await.expect("a valid image");
    assert_eq!(valid.platforms, test.platforms);
    for architecture in ["amd64", "arm64"] {
        let name = format!("127.0.0.1:1/test/hello:h1-{architecture}");
        assert_eq!(ran.index(&name).media_type, MediaType::MANIFEST, "linuxkit's name for one architecture");
    }

    let again = test.run().await;
    assert_eq!(again.asked, []);
    assert_eq!((again.summary.totals.reused, again.summary.totals.built), (2, 0));
    assert_eq!(again.summary.packages[0].digest, Some(index.digest));
}

#[tokio::test]
async fn a_platform_built_later_joins_those_that_are_there_and_the_order_does_not_show() {
    let mut test = EngineTest::new(&[("hello", SCRATCH)]);
    let both = test.run().await.summary.packages[0].digest;
    let mut other = EngineTest::new(&[("hello", SCRATCH)]);
    other.platforms = vec![Platform::linux("arm64")];
    other.run().await;
    other.platforms = vec![Platform::linux("amd64")];
    assert_eq!(other.run().await.summary.packages[0].digest, both);
    test.platforms = vec![Platform::linux("amd64")];
    assert_eq!(test.run().await.summary.packages[0].digest, both, "asking for one platform takes none away");
}

#[tokio::test]
async fn a_package_of_this_run_is_what_others_are_built_from_by_digest() {
    let test = EngineTest::new(&[("app", FROM_BASE), ("base", SCRATCH)]);
    let ran = test.run().await;
    assert_eq!(ran.summary.failures.len(), 0, "{:?}", ran.summary.failures);
    for platform in ["amd64", "arm64"] {
        let place = |unit: String| ran.asked.iter().position(|asked| asked.unit == unit).expect("it was built");
        let app = place(format!("app linux/{platform}"));
        assert!(place(format!("base linux/{platform}")) < app, "{:?}", ran.asked);
        let base = ran.index(&format!("127.0.0.1:1/test/base:h1-{platform}"));
        assert_eq!(ran.asked[app].bases.values().collect::<Vec<_>>(), [&base.digest]);
    }
}

#[tokio::test]
async fn a_failure_skips_what_needs_it_and_with_keep_going_nothing_else() {
    let mut test = EngineTest::new(&[("app", FROM_BASE), ("base", SCRATCH), ("hello", SCRATCH)]);
    test.fails = vec!["base linux/amd64"];
    test.options.limits.on_failure = OnFailure::KeepGoing;
    let ran = test.run().await;
    assert_eq!(
        ran.units(),
        ["app linux/arm64", "base linux/amd64", "base linux/arm64", "hello linux/amd64", "hello linux/arm64"]
    );
    let totals = ran.summary.totals;
    assert_eq!((totals.built, totals.failed, totals.skipped), (4, 1, 1));
    assert_eq!(ran.summary.packages.iter().map(|package| package.package.as_str()).collect::<Vec<_>>(), ["hello"]);
    let skipped = |kind: &EventKind| matches!(kind, EventKind::UnitFinished { outcome: Outcome::Skipped { because }, .. } if because == "base for linux/amd64");
    assert!(ran.events.iter().any(skipped));

    test.fails.clear();
    let again = test.run().await;
    assert_eq!(again.units(), ["app linux/amd64", "base linux/amd64"], "what was done is kept");
    assert_eq!(again.summary.packages.len(), 3);
    let valid = validate(&again.store, &again.index("127.0.0.1:1/test/app:h1")).await.expect("a valid image");
    assert_eq!(valid.platforms, test.platforms);
}

#[tokio::test]
async fn an_unreachable_registry_refuses_instead_of_rebuilding() {
    let mut test = EngineTest::new(&[("hello", SCRATCH)]);
    test.options.policy.remote = RemoteUse::Trust;
    let ran = test.run().await;
    assert_eq!(ran.decisions, [Decision::Refuse(Refusal::RegistryUnknown(ErrorClass::Retryable)); 2]);
    assert_eq!(ran.asked, []);
    assert_eq!(ran.summary.totals.failed, 2);

    test.options.policy.on_unknown = OnUnknown::Build;
    assert_eq!(test.run().await.asked.len(), 2, "unless the user says so");
}

#[tokio::test]
async fn what_is_dirty_is_refused_before_anything_is_built() {
    let mut test = EngineTest::new(&[("hello", SCRATCH)]);
    test.dirty = true;
    test.options.policy.publish = Publish::Push;
    let ran = test.run().await;
    assert_eq!(ran.decisions, [Decision::Refuse(Refusal::Dirty); 2]);
    assert_eq!(ran.asked, []);
}

#[tokio::test]
async fn packages_that_need_each_other_are_an_error_that_names_them() {
    let test = EngineTest::new(&[("base", "FROM 127.0.0.1:1/test/other:h1\n"), ("other", FROM_BASE)]);
    let ran = test.run().await;
    assert_eq!(ran.asked, []);
    let UnitError::Cycle { cycle } = &ran.summary.failures[0].error else { panic!("{:?}", ran.summary.failures) };
    assert_eq!(cycle.first(), cycle.last());
    assert_eq!(cycle.len(), 3);
}

#[tokio::test]
async fn a_base_image_that_cannot_be_resolved_is_named() {
    let ran = EngineTest::new(&[("app", "FROM 127.0.0.1:1/elsewhere/gone:1\n")]).run().await;
    assert_eq!(ran.asked, []);
    assert!(ran.summary.failures[0].error.to_string().contains("127.0.0.1:1/elsewhere/gone:1"));
}

#[tokio::test]
async fn output_is_told_in_whole_lines_and_kept_in_a_file() {
    let mut test = EngineTest::new(&[("hello", SCRATCH)]);
    test.platforms = vec![Platform::linux("amd64")];
    let ran = test.run().await;
    let lines: Vec<&str> = ran
        .events
        .iter()
        .filter_map(|kind| match kind {
            EventKind::BuildLog { text, .. } => Some(text.as_str()),
            _ => None,
        })
        .collect();
    assert_eq!(lines, ["half a line\n", "no end"]);
    let log = ran.store.directory().join("pkgbuild/v1/logs/hello-linux-amd64.log");
    assert_eq!(fs_err::read_to_string(Path::new(&log)).expect("a log"), "half a line\nno end");
}
