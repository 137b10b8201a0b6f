//! A package whose units are done: its index in the cache, and what is to be published, in the registry.

use super::dispatch::Teller;
use super::error::{PackageResult, UnitError};
use super::event::{Direction, EventKind};
use super::execute::metered;
use super::index;
use super::plan::{Decision, Publish, Source};
use super::publish::{Publishable, PushOptions, Pushed, TaggedIndex};
use super::run::Shared;
use crate::builder::BuiltImage;
use crate::oci::{Descriptor, Digest, Document, Index, MediaType, Platform, Raw, Repository};
use crate::package::SourceState;
use crate::store::StoreError;

/// Finishes one package.
pub(super) async fn package(shared: &Shared, job: usize, teller: Teller) -> Result<PackageResult, UnitError> {
    let (own, fresh) = images(shared, job);
    let local = if own.is_empty() { None } else { Some(write(shared, job, &own, &fresh, teller.clone()).await?) };
    let remote = shared.plan.packages[job].remote.as_ref().map(|root| root.descriptor().digest);
    let mut result = result(shared, job, local.as_ref().map(|(root, _)| root.digest).or(remote));
    let releases = match &shared.options.policy.publish {
        _ if !shared.jobs[job].asked => return Ok(result),
        Publish::No => return Ok(result),
        Publish::Push => &[][..],
        Publish::Release(tags) => tags,
    };
    let images = local.map(|(_, images)| images).unwrap_or_default();
    let pushed = push(shared, job, images, teller.clone()).await?;
    result.digest = Some(pushed.index.digest);
    result.pushed = true;
    let package = &shared.jobs[job].name;
    for tag in releases {
        let options = &shared.options;
        let released = pushed.release(tag, options.existing, options.architecture_tags).await?;
        let (reference, digest) = (released.reference.clone(), released.digest);
        teller.tell(EventKind::Released { package: package.clone(), reference, digest }).await;
        result.released.push(released.reference);
    }
    Ok(result)
}

/// Returns what came of a package's units, with `digest` as its index.
pub(super) fn result(shared: &Shared, job: usize, digest: Option<Digest>) -> PackageResult {
    let kept = shared.images.lock().expect("no holder panics");
    let platforms = shared.plan.packages[job].units.iter().enumerate().filter_map(|(at, unit)| {
        let (digest, word) = match (kept.get(&(job, at)), unit.decision) {
            (Some((image, word)), _) => (image.manifest.digest, *word),
            (None, Decision::UseRemote(digest)) => (digest, "reused"),
            (None, _) => return None,
        };
        Some((unit.platform.clone(), digest, word))
    });
    PackageResult {
        package: shared.jobs[job].name.clone(),
        reference: shared.jobs[job].tag.reference.clone(),
        short: shared.jobs[job].tag.short.clone(),
        asked: shared.jobs[job].asked,
        digest,
        platforms: platforms.collect(),
        pushed: false,
        released: Vec::new(),
    }
}

/// Returns the package's images in the cache, and those of them that its index there does not list yet.
fn images(shared: &Shared, job: usize) -> (Vec<BuiltImage>, Vec<BuiltImage>) {
    let kept = shared.images.lock().expect("no holder panics");
    let (mut own, mut fresh) = (Vec::new(), Vec::new());
    for ((_, at), (image, word)) in kept.range((job, 0)..(job + 1, 0)) {
        own.push(image.clone());
        if *word != "reused" || !shared.unit(job, *at).facts.listed {
            fresh.push(image.clone());
        }
    }
    (own, fresh)
}

/// Writes the index of `fresh` and of what the cache's index lists for other platforms. Returns it with those of its
/// images that `own` names.
async fn write(
    shared: &Shared,
    job: usize,
    own: &[BuiltImage],
    fresh: &[BuiltImage],
    teller: Teller,
) -> Result<(Descriptor, Vec<BuiltImage>), UnitError> {
    let (store, full) = (shared.engine.store.clone(), shared.jobs[job].tag.full.clone());
    let (own, fresh) = (own.to_vec(), fresh.to_vec());
    let written = tokio::task::spawn_blocking(move || {
        let existing = match store.root(&full)? {
            None => None,
            Some(root) => match store.document(&root) {
                Ok(Some(Document::Index(index))) => Some((root, index)),
                Ok(Some(Document::Manifest(_))) => Some((root.clone(), single(&store, root)?)),
                // What is damaged or missing is replaced by what was just built.
                Ok(None) | Err(StoreError::Missing { .. } | StoreError::Damaged { .. } | StoreError::Document { .. }) => None,
                Err(error) => return Err(error),
            },
        };
        let joined = match &existing {
            Some((_, index)) => index::join(&fresh, index),
            None => Some(index::assemble(&own)),
        };
        let (root, index, changed) = match (joined, existing) {
            (None, Some((root, index))) => (root, index, false),
            (joined, _) => {
                let index = Raw::encode(joined.unwrap_or_else(|| index::assemble(&own)));
                (store.write(MediaType::INDEX, index.bytes())?, index.value().clone(), true)
            }
        };
        if changed || !fresh.is_empty() {
            store.set_roots(&[(full, root.clone())])?;
        }
        Ok::<_, StoreError>((root, index, own, changed))
    });
    let (root, index, own, changed) = match written.await {
        Ok(result) => result?,
        Err(error) => std::panic::resume_unwind(error.into_panic()),
    };
    let listed = index::images(&index);
    if changed {
        let platforms: Vec<Platform> = listed.iter().filter_map(|image| image.manifest.platform.clone()).collect();
        let (package, reference) = (shared.jobs[job].name.clone(), shared.jobs[job].tag.reference.clone());
        teller.tell(EventKind::IndexWritten { package, reference, digest: root.digest, platforms }).await;
    }
    let is_own = |image: &BuiltImage| own.iter().any(|own| own.manifest.digest == image.manifest.digest);
    Ok((root, listed.into_iter().filter(is_own).collect()))
}

/// Returns the index that stands for a name which is a single image.
fn single(store: &crate::store::Store, mut root: Descriptor) -> Result<Index, StoreError> {
    if root.platform.is_none() {
        root.platform = Some(store.platform_of(&root)?);
    }
    Ok(Index::new(vec![root]))
}

async fn push(shared: &Shared, job: usize, images: Vec<BuiltImage>, teller: Teller) -> Result<Pushed, UnitError> {
    let own = &shared.jobs[job];
    let source = if own.tag.state == SourceState::Dirty { Source::Dirty } else { Source::Clean };
    let tagged = TaggedIndex { reference: own.tag.reference.clone(), images, source };
    let publishable = Publishable::check(tagged, &own.platforms)?;
    let meter = teller.meter(&own.name, None, Direction::Up);
    let copy = || metered(&meter);
    let options =
        PushOptions { architecture_tags: shared.options.architecture_tags, mount_from: siblings(shared, job), copy: &copy };
    let pushing = publishable.push(&shared.engine.store, &shared.engine.registry, options);
    let pushed = tokio::select! {
        pushed = pushing => pushed?,
        () = shared.cancel.cancelled() => return Err(UnitError::Cancelled),
    };
    let (package, reference, digest) = (own.name.clone(), pushed.reference.clone(), pushed.index.digest);
    teller.tell(EventKind::Pushed { package, reference, digest, sent: pushed.sent }).await;
    Ok(pushed)
}

/// Returns the repositories of the other packages: layers of a base that was pushed need not be sent again.
fn siblings(shared: &Shared, job: usize) -> Vec<Repository> {
    // Each is one request for a blob that the registry lacks; the packages that were named as needed come first.
    const MOST: usize = 4;
    let needed = shared.jobs[job].needs.iter().map(|at| shared.jobs[*at].tag.reference.repository.clone());
    needed.take(MOST).collect()
}
