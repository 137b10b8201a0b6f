//! `inspect`: what is behind the name of an image, in the cache or in a registry.

use std::collections::BTreeMap;
use std::sync::Arc;

use serde::Serialize;

use super::cache::{known_name, open_existing};
use super::{Context, block_on};
use crate::cli::args::InspectArgs;
use crate::cli::error::Failure;
use crate::cli::exit::Exit;
use crate::cli::registries::registry_here;
use crate::content::{ContentSource, DOCUMENT_LIMIT, read_whole};
use crate::engine::index;
use crate::engine::publish::PublishError;
use crate::engine::remote::RemoteRoot;
use crate::oci::{Descriptor, ImageConfig, Index, Manifest, Reference};
use crate::report::size;

pub(super) fn run(args: &InspectArgs, context: &mut Context) -> Result<Exit, Failure> {
    let found = match if args.remote { None } else { local(&args.image, context)? } {
        Some(found) => found,
        None => remote(&args.image, context)?,
    };
    let image = block_on(read(found))?;
    if args.json {
        context.out.json("inspect", &image)?;
    } else {
        show(&image, context)?;
    }
    Ok(Exit::Done)
}

/// A name, what it lists, and where the rest can be read.
struct Found {
    name: String,
    place: &'static str,
    root: Descriptor,
    index: Index,
    source: Arc<dyn ContentSource>,
}

fn local(image: &str, context: &Context) -> Result<Option<Found>, Failure> {
    let Some(store) = open_existing(context)? else { return Ok(None) };
    let roots = store.roots()?;
    let Ok(name) = known_name(&roots, image) else { return Ok(None) };
    let root = roots.require(&name)?.clone();
    let index = super::cache_content::listing(&store, &root)?;
    Ok(Some(Found { name, place: "cache", root, index, source: Arc::new(store) }))
}

fn remote(image: &str, context: &Context) -> Result<Found, Failure> {
    let reference: Reference = image.parse()?;
    let registry = registry_here(&context.settings)?;
    let repository = registry.repository(&reference.repository);
    let root =
        block_on(async { RemoteRoot::read(repository, &reference).await.map_err(|error| PublishError::from(error).into()) })?;
    let Some(root) = root else {
        let hint = Some("`pkgbuild cache ls` lists what the cache has".to_owned());
        return Err(Failure::Usage { message: format!("`{reference}` is neither in the cache nor in its registry"), hint });
    };
    let (descriptor, index) = (root.descriptor().clone(), root.index.clone());
    Ok(Found { name: reference.to_string(), place: "registry", root: descriptor, index, source: root.source })
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Image {
    name: String,
    place: &'static str,
    digest: String,
    media_type: String,
    annotations: BTreeMap<String, String>,
    platforms: Vec<PlatformImage>,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct PlatformImage {
    platform: String,
    digest: String,
    media_type: String,
    size: u64,
    annotations: BTreeMap<String, String>,
    layers: Vec<Descriptor>,
    attestations: Vec<Descriptor>,
    config: ImageConfig,
}

async fn read(found: Found) -> Result<Image, Failure> {
    let mut platforms = Vec::new();
    for built in index::images(&found.index) {
        let manifest: Manifest = document(&*found.source, &built.manifest).await?;
        let config: ImageConfig = document(&*found.source, &manifest.config).await?;
        let total = manifest.layers.iter().map(|layer| layer.size).sum();
        platforms.push(PlatformImage {
            platform: built.manifest.platform.as_ref().map(ToString::to_string).unwrap_or_default(),
            digest: built.manifest.digest.to_string(),
            media_type: built.manifest.media_type.clone(),
            size: total,
            annotations: manifest.annotations,
            layers: manifest.layers,
            attestations: built.attestations,
            config,
        });
    }
    Ok(Image {
        name: found.name,
        place: found.place,
        digest: found.root.digest.to_string(),
        media_type: found.root.media_type,
        annotations: found.index.annotations,
        platforms,
    })
}

async fn document<T: serde::de::DeserializeOwned>(source: &dyn ContentSource, descriptor: &Descriptor) -> Result<T, Failure> {
    let bytes = read_whole(source, descriptor, DOCUMENT_LIMIT).await?;
    serde_json::from_slice(&bytes).map_err(|source| {
        let media_type = descriptor.media_type.clone();
        crate::transfer::TransferError::Document { digest: descriptor.digest, media_type, source }.into()
    })
}

fn show(image: &Image, context: &mut Context) -> Result<(), Failure> {
    context.out.table(&[
        vec!["name".to_owned(), image.name.clone()],
        vec!["in the".to_owned(), image.place.to_owned()],
        vec!["digest".to_owned(), image.digest.clone()],
        vec!["type".to_owned(), image.media_type.clone()],
    ])?;
    for platform in &image.platforms {
        context.out.line("")?;
        let config = &platform.config.config;
        let quoted = |words: &Option<Vec<String>>| words.as_ref().map(|words| format!("{words:?}")).unwrap_or_default();
        let mut rows = vec![
            vec![platform.platform.clone(), platform.digest.clone()],
            vec!["  layers".to_owned(), format!("{}, {}", platform.layers.len(), size(platform.size))],
        ];
        let optional = [
            ("  entrypoint", quoted(&config.entrypoint)),
            ("  command", quoted(&config.cmd)),
            ("  user", config.user.clone()),
            ("  directory", config.working_dir.clone()),
            ("  created", platform.config.created.clone().unwrap_or_default()),
        ];
        rows.extend(optional.into_iter().filter(|(_, value)| !value.is_empty()).map(|(key, value)| vec![key.to_owned(), value]));
        rows.extend(config.env.iter().map(|variable| vec!["  env".to_owned(), variable.clone()]));
        rows.extend(config.labels.iter().map(|(key, value)| vec!["  label".to_owned(), format!("{key}={value}")]));
        rows.extend(platform.attestations.iter().map(|about| vec!["  attested by".to_owned(), about.digest.to_string()]));
        context.out.table(&rows)?;
    }
    Ok(())
}
