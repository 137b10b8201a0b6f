//! `cache export|import|pull|push|verify|du`: images in and out of the cache, and what it holds.

use std::io::{self, BufWriter, Write};

use serde::Serialize;

use super::cache::{known_name, open, open_existing};
use super::{Context, block_on};
use crate::cli::args::ExportArgs;
use crate::cli::error::Failure;
use crate::cli::exit::Exit;
use crate::cli::output::counted;
use crate::cli::registries::registry_here;
use crate::engine::index;
use crate::engine::plan::Source;
use crate::engine::publish::{ArchitectureTags, Publishable, PushOptions, TaggedIndex};
use crate::oci::{Descriptor, Document, Index, Platform, Reference};
use crate::report::size;
use crate::store::{ArchiveFormat, Export, Repair, Store, StoreError, Usage};
use crate::sys::fs::AtomicFile;
use crate::transfer::{CopyOptions, Platforms, copy_named};

pub(super) fn export(args: &ExportArgs, context: &mut Context) -> Result<Exit, Failure> {
    let store = open(context)?;
    let name = known_name(&store.roots()?, &args.image)?;
    let format = match args.format.as_str() {
        "docker" => ArchiveFormat::Docker,
        "filesystem" => ArchiveFormat::Filesystem,
        _ => ArchiveFormat::Oci,
    };
    let host = Platform::host();
    let wanted = Export { name: &name, platform: args.platform.as_ref(), name_inside: args.name.as_deref() };
    let write = |out: &mut dyn Write| match store.export(&[wanted], format, &mut *out) {
        // Nothing was written yet: what is meant was not clear.
        Err(StoreError::ManyPlatforms { .. }) => store.export(&[Export { platform: Some(&host), ..wanted }], format, out),
        result => result,
    };
    if args.outfile == "-" {
        let mut out = BufWriter::new(io::stdout().lock());
        match write(&mut out) {
            // Who closed the pipe has seen enough.
            Err(error) if is_closed_pipe(&error) => return Ok(Exit::Done),
            result => result?,
        };
        out.flush()?;
        return Ok(Exit::Done);
    }
    let path = context.settings.path(args.outfile.as_ref());
    let failed = |source| Failure::File { action: "write", path: path.clone(), source };
    let mut file = BufWriter::with_capacity(1 << 20, AtomicFile::create(&path, 0o644).map_err(failed)?);
    write(&mut file)?;
    file.into_inner().map_err(|error| failed(error.into_error()))?.publish().map_err(failed)?;
    Ok(Exit::Done)
}

fn is_closed_pipe(error: &StoreError) -> bool {
    let causes = std::iter::successors(Some(error as &dyn std::error::Error), |error| error.source());
    causes.filter_map(|cause| cause.downcast_ref::<io::Error>()).any(|cause| cause.kind() == io::ErrorKind::BrokenPipe)
}

pub(super) fn import(file: &str, name: Option<&str>, context: &mut Context) -> Result<Exit, Failure> {
    let store = open(context)?;
    let roots = if file == "-" {
        store.import(io::stdin(), name)?
    } else {
        let path = context.settings.path(file.as_ref());
        let input = fs_err::File::open(&path).map_err(|source| Failure::File { action: "read", path, source })?;
        store.import(input, name)?
    };
    for root in roots {
        context.out.line(format!("{} {}", root.name, root.descriptor.digest))?;
    }
    Ok(Exit::Done)
}

pub(super) fn pull(images: &[String], platforms: &[Platform], context: &mut Context) -> Result<Exit, Failure> {
    let store = open(context)?;
    let references = images.iter().map(|image| image.parse::<Reference>()).collect::<Result<Vec<_>, _>>()?;
    let registry = registry_here(&context.settings)?;
    let options = CopyOptions {
        platforms: if platforms.is_empty() { Platforms::All } else { Platforms::Only(platforms.to_vec()) },
        ..CopyOptions::default()
    };
    for reference in references {
        let source = registry.repository(&reference.repository);
        let (root, copied) = block_on(async { Ok(copy_named(&source, &reference, &store, &reference, &options).await?) })?;
        context.out.line(format!("{} {}", Store::name_of(&reference), root.digest))?;
        context.say(&format!("{} fetched, {} were there", size(copied.sent_bytes), size(copied.found_bytes)))?;
    }
    Ok(Exit::Done)
}

/// What `cache push` was asked to do beside pushing.
pub(super) struct PushRequest<'a> {
    pub(super) images: &'a [String],
    pub(super) remote_name: Option<&'a str>,
    pub(super) architecture_tags: ArchitectureTags,
    /// Whether a name that the registry has is written again.
    pub(super) replace: bool,
}

pub(super) fn push(request: &PushRequest<'_>, context: &mut Context) -> Result<Exit, Failure> {
    if request.remote_name.is_some() && request.images.len() > 1 {
        return Err(Failure::usage("--remote-name names one image, and several are to be pushed"));
    }
    let store = open(context)?;
    let roots = store.roots()?;
    let registry = registry_here(&context.settings)?;
    for image in request.images {
        let name = known_name(&roots, image)?;
        let reference: Reference = request.remote_name.unwrap_or(&name).parse()?;
        let tagged = TaggedIndex {
            reference: reference.clone(),
            images: index::images(&listing(&store, roots.require(&name)?)?),
            source: Source::Clean,
        };
        let repository = registry.upstream(&reference.repository);
        let (replace, architecture_tags) = (request.replace, request.architecture_tags);
        let pushed = block_on(async {
            let there = repository.manifest(&reference).await?;
            if there.is_some() && !replace {
                return Ok(None);
            }
            let copy = CopyOptions::default;
            let options = PushOptions { architecture_tags, mount_from: Vec::new(), copy: &copy };
            Ok(Some(Publishable::check(tagged, &[])?.push(&store, &registry, options).await?))
        })?;
        match pushed {
            Some(pushed) => {
                context.out.line(format!("{reference}@{}", pushed.index.digest))?;
                context.say(&format!("{} sent", size(pushed.sent)))?;
            }
            // linuxkit's words and outcome: scripts push what may be there already.
            None => context.say(&format!("image {reference} already exists in the registry, skipping"))?,
        }
    }
    Ok(Exit::Done)
}

/// Returns what a name of the cache lists; of a single image, itself.
pub(super) fn listing(store: &Store, root: &Descriptor) -> Result<Index, StoreError> {
    match store.document(root)? {
        Some(Document::Index(index)) => Ok(index),
        _ => {
            let mut child = root.clone();
            child.platform = Some(store.platform_of(root)?);
            Ok(Index::new(vec![child]))
        }
    }
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct VerifyDocument {
    blobs: usize,
    bytes: u64,
    unreferenced: usize,
    unreferenced_bytes: u64,
    faults: Vec<String>,
}

pub(super) fn verify(json: bool, context: &mut Context) -> Result<Exit, Failure> {
    let Some(store) = open_existing(context)? else { return Ok(Exit::Done) };
    let verified = store.verify(Repair::No, &|_, _| {})?;
    let faults: Vec<String> = verified.faults.iter().map(|fault| crate::cli::error::one_line(fault)).collect();
    let clean = faults.is_empty();
    if json {
        let document = VerifyDocument {
            blobs: verified.blobs,
            bytes: verified.bytes,
            unreferenced: verified.unreferenced,
            unreferenced_bytes: verified.unreferenced_bytes,
            faults,
        };
        context.out.json("cache-verify", &document)?;
    } else {
        for fault in &faults {
            context.out.line(fault)?;
        }
        let unreferenced = match verified.unreferenced {
            0 => String::new(),
            count => format!("; {count} of them, {}, have no name (`cache gc` deletes them)", size(verified.unreferenced_bytes)),
        };
        let outcome = if clean { "all are whole" } else { "see above" };
        context.say(&format!("{}, {}: {outcome}{unreferenced}", counted(verified.blobs, "blob"), size(verified.bytes)))?;
    }
    Ok(if clean { Exit::Done } else { Exit::Damaged })
}

#[derive(Serialize)]
struct UsageDocument<'a> {
    images: Vec<ImageDocument<'a>>,
    blobs: u64,
    unreferenced: u64,
    builder: &'a std::collections::BTreeMap<String, u64>,
}

#[derive(Serialize)]
struct ImageDocument<'a> {
    names: &'a [String],
    digest: String,
    total: u64,
    unique: u64,
    shared: u64,
}

pub(super) fn usage(json: bool, context: &mut Context) -> Result<Exit, Failure> {
    let usage = open_existing(context)?.map_or_else(|| Ok(Usage::default()), |store| store.usage())?;
    if json {
        let image =
            |image: &'_ crate::store::ImageUsage| (image.names.clone(), image.root, image.total, image.unique, image.shared());
        let images: Vec<_> = usage.images.iter().map(image).collect();
        let images = images
            .iter()
            .map(|(names, root, total, unique, shared)| ImageDocument {
                names,
                digest: root.to_string(),
                total: *total,
                unique: *unique,
                shared: *shared,
            })
            .collect();
        let document = UsageDocument { images, blobs: usage.blobs, unreferenced: usage.unreferenced, builder: &usage.builder };
        context.out.json("cache-du", &document)?;
        return Ok(Exit::Done);
    }
    let mut rows = vec![["IMAGE", "TOTAL", "UNIQUE", "SHARED"].map(str::to_owned).to_vec()];
    for image in &usage.images {
        let others = match image.names.len() {
            0 | 1 => String::new(),
            count => format!(" (and {})", counted(count - 1, "more name")),
        };
        let name = format!("{}{others}", image.names.first().map_or("", String::as_str));
        rows.push(vec![name, size(image.total), size(image.unique), size(image.shared())]);
    }
    context.out.table(&rows)?;
    let mut rows =
        vec![vec!["all blobs".to_owned(), size(usage.blobs)], vec!["without a name".to_owned(), size(usage.unreferenced)]];
    rows.extend(usage.builder.iter().map(|(name, bytes)| vec![format!("builder: {name}"), size(*bytes)]));
    context.out.line("")?;
    context.out.table(&rows)?;
    Ok(Exit::Done)
}
