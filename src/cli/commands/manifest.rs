//! `manifest`: the index of images that separate machines have built and pushed, each for its architecture.

use super::Context;
use crate::cli::args::{ManifestArgs, PlatformArgs};
use crate::cli::error::Failure;
use crate::cli::exit::Exit;
use crate::cli::prepared::Prepared;
use crate::engine::Job;
use crate::engine::plan::Source;
use crate::engine::publish::{ArchitectureTags, Existing, PublishError, Publishable, PushOptions, Released, TaggedIndex, gather};
use crate::package::SourceState;
use crate::registry::Registry;
use crate::transfer::CopyOptions;

pub(super) fn run(args: &ManifestArgs, context: &mut Context) -> Result<Exit, Failure> {
    let prepared = Prepared::load(&args.selection, &PlatformArgs::default(), &context.settings)?;
    let work = async {
        let (mut lines, mut incomplete) = (Vec::new(), Vec::new());
        for job in prepared.jobs.iter().filter(|job| !job.platforms.is_empty()) {
            match publish(job, &prepared.registry, args).await {
                Ok((line, absent, released)) => lines.push((job.name.clone(), line, absent, released)),
                // Whoever looks for what is missing wants to see all of it.
                Err(error @ PublishError::Missing { .. }) => incomplete.push(error),
                Err(error) => return Err(error.into()),
            }
        }
        Ok((lines, incomplete))
    };
    let (lines, incomplete) = super::block_on(work)?;
    for (name, line, absent, released) in lines {
        for platform in absent {
            context.say(&format!("warning: {name}: no image for {platform}"))?;
        }
        context.out.line(line)?;
        for released in released {
            context.out.line(format!("{}@{}", released.reference.familiar(), released.digest))?;
        }
    }
    for error in &incomplete {
        context.notice(&format!("error: {error}"))?;
    }
    if incomplete.is_empty() {
        return Ok(Exit::Done);
    }
    if !args.allow_missing {
        context.notice("hint: build and push what is missing, or push what there is with `--allow-missing`")?;
    }
    Ok(Exit::Refused)
}

type Published = (String, Vec<crate::oci::Platform>, Vec<Released>);

/// Pushes the index of one package. Its images are in the registry already, so nothing else is sent.
async fn publish(job: &Job, registry: &Registry, args: &ManifestArgs) -> Result<Published, PublishError> {
    let repository = registry.upstream(&job.tag.reference.repository);
    let (images, absent) = gather(&repository, &job.tag.reference, &job.platforms).await?;
    let required: Vec<_> =
        job.platforms.iter().filter(|platform| !args.allow_missing || !absent.contains(platform)).cloned().collect();
    if images.is_empty() && args.allow_missing {
        // An index of nothing would be a name that no machine can use.
        return Err(PublishError::Missing { reference: Box::new(job.tag.reference.clone()), platforms: absent });
    }
    let source = if job.tag.state == SourceState::Dirty { Source::Dirty } else { Source::Clean };
    let tagged = TaggedIndex { reference: job.tag.reference.clone(), images, source };
    let copy = CopyOptions::default;
    let options = PushOptions { architecture_tags: ArchitectureTags::Left, mount_from: Vec::new(), copy: &copy };
    let pushed = Publishable::check(tagged, &required)?.push(&repository, registry, options).await?;
    let existing = if args.move_release { Existing::Moves } else { Existing::Stays };
    let mut released = Vec::new();
    for tag in &args.release {
        released.push(pushed.release(tag, existing, ArchitectureTags::Left).await?);
    }
    Ok((format!("{}@{}", job.tag.short, pushed.index.digest), absent, released))
}
