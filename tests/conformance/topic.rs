//! Runs the cases of a file, each on both builders.

use std::collections::BTreeSet;
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};

use pkgbuild::builder::BuildRequest;
use pkgbuild::oci::Platform;

use crate::bases::{BaseImage, Bases, meaning};
use crate::case::{self, Case};
use crate::image::Image;
use crate::judge::{Expected, compare};
use crate::reference::Reference;
use crate::support::{Setup, variable};
use crate::{context, fixture};

/// How many cases run at once: BuildKit takes its time over each, most of it waiting.
const WORKERS: usize = 3;

/// The least number of cases.
const CASES: usize = 350;

/// Runs all cases of a topic, or those whose names contain `PKGBUILD_TEST_CASE`.
///
/// # Panics
/// When a case fails; with a report of all that do.
pub fn run(topic: &str) {
    let wanted = variable("PKGBUILD_TEST_CASE").unwrap_or_default();
    let mut cases = case::read(topic);
    cases.retain(|case| case.name.contains(&wanted));
    let setup = Setup::require();
    let reference = Reference::new(&setup);
    let bases = runtime().block_on(Bases::new(&setup));
    let next = AtomicUsize::new(0);
    let reports = Mutex::new(Vec::new());
    std::thread::scope(|scope| {
        for _ in 0..WORKERS {
            scope.spawn(|| {
                let runtime = runtime();
                while let Some((number, case)) = {
                    let at = next.fetch_add(1, Ordering::Relaxed);
                    cases.get(at).map(|case| (at, case))
                } {
                    let lines = runtime.block_on(judge(case, &reference, &bases));
                    if !lines.is_empty() {
                        let report = format!("== {topic}: {}\n{}\n", case.name, lines.join("\n"));
                        reports.lock().expect("no panic").push((number, report));
                    }
                }
            });
        }
    });
    let mut reports = reports.into_inner().expect("no panic");
    reports.sort();
    let text: String = reports.iter().map(|(_, report)| report.as_str()).collect();
    assert!(reports.is_empty(), "{} of {} cases of {topic} fail\n{text}", reports.len(), cases.len());
}

/// Checks that the files of cases are those of the tests, and what is said of all of them.
///
/// # Panics
/// When a file is not run or there are too few cases.
pub fn count(topics: &[&str]) {
    let files = std::fs::read_dir(case::directory()).expect("the cases are there");
    let files: BTreeSet<_> = files.map(|file| file.expect("readable").file_name().into_string().expect("ASCII")).collect();
    let known: BTreeSet<_> = topics.iter().map(|topic| format!("{topic}.yml")).collect();
    assert_eq!(files, known);
    let mut names = BTreeSet::new();
    for topic in topics {
        for case in case::read(topic) {
            assert!(names.insert(case.name.clone()), "{topic}: two cases are called `{}`", case.name);
        }
    }
    assert!(names.len() >= CASES, "{} cases", names.len());
}

fn runtime() -> tokio::runtime::Runtime {
    tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime")
}

/// Returns what is wrong with a case.
async fn judge(case: &Case, reference: &Reference, bases: &Bases) -> Vec<String> {
    let directory = tempfile::tempdir().expect("a temporary directory");
    let directory = directory.path();
    std::os::unix::fs::chown(directory, Some(0), Some(0)).expect("root");
    context::write(case, directory);
    let mut request = bases.test().request.clone();
    request.context.roots[0].source = directory.to_owned();
    request.platform = platform(case);
    request.bases.extend(bases.requested(bases.busybox()));
    let mut meanings = bases.meanings().to_vec();
    let mut own = Vec::new();
    for (name, dockerfile) in &case.bases {
        request.dockerfile.text = dockerfile.as_bytes().into();
        let built = bases.test().build_request(&request).await;
        let manifest = match &built.result {
            Ok(image) => image.manifest.clone(),
            Err(error) => return vec![format!("base image {name}: {}", fixture::chain(error))],
        };
        meanings.push(meaning(bases.test(), &manifest, &meanings));
        let images = vec![(request.platform.clone(), manifest.clone())];
        let base = BaseImage { name: name.clone(), descriptor: manifest, images };
        request.bases.extend(bases.requested(&base));
        own.push(base);
    }
    let ours = build(case, request, bases, &meanings).await;
    let mut lines: Vec<_> = prefixed("pkgbuild", Expected::of_pkgbuild(case).judge(&ours, &meanings));
    if reference.knows(case) {
        let theirs = reference.build(case, directory, bases, &own, &meanings);
        lines
            .extend(prefixed("BuildKit", Expected::of_buildkit(case, reference.has_current_history()).judge(&theirs, &meanings)));
        if let (Ok(ours), Ok(theirs)) = (&ours, &theirs) {
            lines.extend(prefixed(
                "pkgbuild and BuildKit",
                compare(case, ours, theirs, &meanings, reference.has_current_history()),
            ));
        }
    }
    lines
}

fn prefixed(who: &str, lines: Vec<String>) -> Vec<String> {
    lines.into_iter().map(|line| format!("  {who}: {line}")).collect()
}

fn platform(case: &Case) -> Platform {
    case.platform.as_deref().unwrap_or("linux/amd64").parse().expect("a platform")
}

async fn build(case: &Case, mut request: BuildRequest, bases: &Bases, meanings: &[Image]) -> Result<Image, String> {
    request.dockerfile.text = case.dockerfile.as_bytes().into();
    request.dockerfile.in_context = case.file.clone().into();
    request.args = case.args.clone();
    request.variation.target = case.target.clone();
    let built = bases.test().build_request(&request).await;
    match &built.result {
        Ok(image) => Ok(meaning(bases.test(), &image.manifest, meanings)),
        Err(error) => Err(format!("{}\n{}", fixture::chain(error), built.log())),
    }
}
