//! Gathering facts: one reading of the cache's names and one of each package's name in its registry serve all platforms.

use futures_util::{StreamExt, stream};

use super::plan::{Facts, Local, Policy, Remote, Source};
use super::remote::{RemoteError, RemoteRoot};
use crate::builder::BuiltImage;
use crate::oci::{Platform, Reference};
use crate::registry::Registry;
use crate::store::{Presence, Store, StoreError};

/// What is asked about.
#[derive(Clone, Debug)]
pub struct Question {
    /// The name in the cache.
    pub name: String,
    /// The name in the registry.
    pub reference: Reference,
    /// Whether the files are as committed.
    pub source: Source,
    /// For which platforms.
    pub platforms: Vec<Platform>,
}

/// What is known of one package.
pub struct Answer {
    /// One for each platform of the question, in its order.
    pub units: Vec<UnitFacts>,
    /// What the registry has, when it was asked and has something.
    pub remote: Option<RemoteRoot>,
    /// Why the registry could not be asked.
    pub error: Option<RemoteError>,
}

/// What is known of one package at one platform.
#[derive(Clone, Debug)]
pub struct UnitFacts {
    /// What a decision depends on.
    pub facts: Facts,
    /// The cache's image, when it is complete.
    pub local: Option<BuiltImage>,
    /// Whether the package's own index lists that image; else only the name for its architecture has it, because a run
    /// ended before all platforms were there.
    pub listed: bool,
    /// The registry's image.
    pub remote: Option<BuiltImage>,
}

/// Registries that are asked about at once; each host has its own limit below this.
const AT_ONCE: usize = 32;

/// Gathers the facts about all `questions`.
///
/// # Errors
/// When the cache cannot be read. What a registry cannot answer is a fact.
pub async fn probe(
    store: Option<&Store>,
    registry: &Registry,
    questions: &[Question],
    policy: &Policy,
) -> Result<Vec<Answer>, StoreError> {
    let locals = local(store, questions).await?;
    let asked = stream::iter(questions.iter().zip(&locals).map(|(question, locals)| async move {
        if !locals.iter().any(|own| policy.asks_registry(own.local)) {
            return (Asked::No, question);
        }
        let repository = registry.repository(&question.reference.repository);
        (Asked::Yes(Box::new(RemoteRoot::read(repository, &question.reference).await)), question)
    }))
    .buffered(AT_ONCE)
    .collect::<Vec<_>>()
    .await;
    Ok(asked.into_iter().zip(locals).map(|((asked, question), locals)| answer(question, locals, asked)).collect())
}

enum Asked {
    No,
    Yes(Box<Result<Option<RemoteRoot>, RemoteError>>),
}

/// What the cache has of one unit.
struct LocalImage {
    local: Local,
    image: Option<BuiltImage>,
    listed: bool,
}

impl LocalImage {
    const ABSENT: Self = Self { local: Local::Absent, image: None, listed: true };

    fn of(presence: Presence, listed: bool) -> Self {
        match presence {
            Presence::Absent => Self::ABSENT,
            Presence::Incomplete(_) => Self { local: Local::Incomplete, ..Self::ABSENT },
            Presence::Complete(manifest) => {
                let image = BuiltImage { manifest, attestations: Vec::new() };
                Self { local: Local::Complete(image.manifest.digest), image: Some(image), listed }
            }
        }
    }
}

async fn local(store: Option<&Store>, questions: &[Question]) -> Result<Vec<Vec<LocalImage>>, StoreError> {
    let Some(store) = store.cloned() else {
        return Ok(questions.iter().map(|question| question.platforms.iter().map(|_| LocalImage::ABSENT).collect()).collect());
    };
    let questions = questions.to_vec();
    let looked = tokio::task::spawn_blocking(move || {
        let roots = store.roots()?;
        let look = |question: &Question, platform: &Platform| {
            let found = LocalImage::of(roots.lookup(&question.name, platform)?, true);
            if found.image.is_some() {
                return Ok(found);
            }
            let own = format!("{}-{}", question.name, platform.tag_suffix());
            let own = LocalImage::of(roots.lookup(&own, platform)?, false);
            Ok(if own.image.is_some() { own } else { found })
        };
        questions.iter().map(|question| question.platforms.iter().map(|platform| look(question, platform)).collect()).collect()
    });
    match looked.await {
        Ok(result) => result,
        Err(error) => std::panic::resume_unwind(error.into_panic()),
    }
}

fn answer(question: &Question, locals: Vec<LocalImage>, asked: Asked) -> Answer {
    let (remote, error, known) = match asked {
        Asked::No => (None, None, Remote::NotAsked),
        Asked::Yes(answer) => match *answer {
            Ok(None) => (None, None, Remote::Absent),
            Ok(Some(root)) => (Some(root), None, Remote::Incomplete),
            Err(error) => {
                let class = error.class();
                (None, Some(error), Remote::Unknown(class))
            }
        },
    };
    let units = question.platforms.iter().zip(locals).map(|(platform, own)| {
        let found = remote.as_ref().and_then(|root| root.image(platform));
        let known = found.as_ref().map_or(known, |image| Remote::Complete(image.manifest.digest));
        let facts = Facts { local: own.local, remote: known, source: question.source };
        UnitFacts { facts, local: own.image, listed: own.listed, remote: found }
    });
    Answer { units: units.collect(), remote, error }
}
