//! `cache`: the local images.

use serde::Serialize;

use super::{Context, cache_content, cache_gc};
use crate::cli::args::CacheCommand;
use crate::cli::argv::CalledAs;
use crate::cli::error::Failure;
use crate::cli::exit::Exit;
use crate::cli::output::counted;
use crate::cli::registries::registry_here;
use crate::content::ContentSource;
use crate::engine::publish::ArchitectureTags;
use crate::oci::Reference;
use crate::report::size;
use crate::store::{Collected, GRACE, Root, Roots, Store};

pub(super) fn run(command: CacheCommand, context: &mut Context) -> Result<Exit, Failure> {
    if matches!(command, CacheCommand::Rm { .. } | CacheCommand::Clean { .. } | CacheCommand::Gc(_)) {
        // Layers that were built without root may have files that only their namespace can delete. Where there is none,
        // deleting says what it cannot.
        drop(crate::builder::embedded::sandbox::enter());
    }
    match command {
        CacheCommand::Ls { json } => list(json, context),
        CacheCommand::Rm { images, published_only } => remove(&images, published_only, context),
        CacheCommand::Clean { published_only: false } => clean(context),
        CacheCommand::Clean { published_only: true } => clean_published(context),
        CacheCommand::Export(args) => cache_content::export(&args, context),
        CacheCommand::Import { file, name } => cache_content::import(&file, name.as_deref(), context),
        CacheCommand::Pull { images, platforms } => cache_content::pull(&images, &platforms, context),
        CacheCommand::Push { images, remote_name, with_arch_tags, replace } => {
            let architecture_tags = if with_arch_tags { ArchitectureTags::Written } else { ArchitectureTags::Left };
            let remote_name = remote_name.as_deref();
            let request = cache_content::PushRequest { images: &images, remote_name, architecture_tags, replace };
            cache_content::push(&request, context)
        }
        CacheCommand::Verify { json } => cache_content::verify(json, context),
        CacheCommand::Du { json } => cache_content::usage(json, context),
        CacheCommand::Gc(args) => cache_gc::run(&args, context),
    }
}

/// An image of the cache, as `cache ls --json` shows it.
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Image<'a> {
    name: &'a str,
    digest: String,
    media_type: &'a str,
    size: u64,
}

fn list(json: bool, context: &mut Context) -> Result<Exit, Failure> {
    #[derive(Serialize)]
    struct Images<'a> {
        images: Vec<Image<'a>>,
    }
    let roots = match open_existing(context)? {
        Some(store) => store.roots()?.into_iter().collect(),
        None => Vec::new(),
    };
    if json {
        let image = |root: &Root| {
            let digest = root.descriptor.digest.to_string();
            (root.name.clone(), digest, root.descriptor.media_type.clone(), root.descriptor.size)
        };
        let images: Vec<_> = roots.iter().map(image).collect();
        let images = images
            .iter()
            .map(|(name, digest, media_type, size)| Image { name, digest: digest.clone(), media_type, size: *size })
            .collect();
        context.out.json("cache-ls", &Images { images })?;
        return Ok(Exit::Done);
    }
    // linuxkit's columns: scripts cut these lines.
    let mut lines = vec![format!("{:<80} {}", "image name", "root manifest hash")];
    lines.extend(roots.iter().map(|root| format!("{:<80} {}", root.name, root.descriptor.digest)));
    for line in lines {
        match context.settings.called {
            // linuxkit logs the list; scripts read it from standard error.
            CalledAs::Linuxkit => context.notice(&line)?,
            CalledAs::Pkgbuild => context.out.line(line)?,
        }
    }
    Ok(Exit::Done)
}

fn remove(images: &[String], published_only: bool, context: &mut Context) -> Result<Exit, Failure> {
    let store = open(context)?;
    let roots = store.roots()?;
    let mut names = images.iter().map(|image| known_name(&roots, image)).collect::<Result<Vec<_>, _>>()?;
    if published_only {
        names = published(&roots, names, context)?;
    }
    remove_names(&store, &names, context)
}

fn clean_published(context: &mut Context) -> Result<Exit, Failure> {
    let Some(store) = open_existing(context)? else { return Ok(Exit::Done) };
    let roots = store.roots()?;
    let names = published(&roots, roots.iter().map(|root| root.name.clone()).collect(), context)?;
    remove_names(&store, &names, context)
}

/// Returns those of `names` whose registry has the same under the same name. What cannot be told stops everything: an image
/// that nobody else has must not be lost to an outage.
fn published(roots: &Roots, names: Vec<String>, context: &Context) -> Result<Vec<String>, Failure> {
    let registry = registry_here(&context.settings)?;
    let mut published = Vec::new();
    for name in names {
        let reference: Reference = name.parse()?;
        let there = super::block_on(async { Ok(registry.upstream(&reference.repository).resolve(&reference).await?) })?;
        if there.is_some_and(|there| roots.get(&name).is_some_and(|root| root.digest == there.digest)) {
            published.push(name);
        }
    }
    Ok(published)
}

fn remove_names(store: &Store, names: &[String], context: &mut Context) -> Result<Exit, Failure> {
    let (removed, collected) = store.remove(names, GRACE)?;
    for name in removed {
        context.out.line(name)?;
    }
    say_collected(&collected, context)?;
    Ok(Exit::Done)
}

fn clean(context: &mut Context) -> Result<Exit, Failure> {
    let Some(store) = open_existing(context)? else { return Ok(Exit::Done) };
    let cleaned = store.clean()?;
    context.say(&format!(
        "deleted {} and {}, {}",
        counted(cleaned.names, "name"),
        counted(cleaned.blobs, "blob"),
        size(cleaned.bytes)
    ))?;
    for left in cleaned.left {
        context.say(&format!("left `{}`, which is nothing of a cache", left.display()))?;
    }
    Ok(Exit::Done)
}

fn say_collected(collected: &Collected, context: &mut Context) -> Result<(), Failure> {
    context.say(&format!("deleted {}, {}", counted(collected.blobs, "blob"), size(collected.bytes)))?;
    if collected.kept > 0 {
        let (kept, minutes) = (counted(collected.kept, "blob"), GRACE.as_secs() / 60);
        let kept_bytes = size(collected.kept_bytes);
        context.say(&format!(
            "kept {kept}, {kept_bytes}, without a name: used in the last {minutes} minutes; `cache gc` deletes them later"
        ))?;
    }
    Ok(())
}

/// Opens the cache, making it when there is none.
pub(super) fn open(context: &Context) -> Result<Store, Failure> {
    Ok(Store::open(&context.settings.cache)?)
}

/// Opens the cache if there is one: looking at a cache makes none.
pub(super) fn open_existing(context: &Context) -> Result<Option<Store>, Failure> {
    Ok(Store::open_existing(&context.settings.cache)?)
}

/// Returns the full name that `image` means in the cache: as it is, or expanded by Docker's rules.
pub(super) fn known_name(roots: &Roots, image: &str) -> Result<String, Failure> {
    if roots.get(image).is_some() {
        return Ok(image.to_owned());
    }
    let name = match image.parse::<Reference>() {
        Ok(reference) => Store::name_of(&reference),
        Err(_) => image.to_owned(),
    };
    roots.require(&name)?;
    Ok(name)
}
