//! `remote-tag`: another name for the same bytes, in the same repository or another.

use super::Context;
use crate::cli::args::RemoteTagArgs;
use crate::cli::error::Failure;
use crate::cli::exit::Exit;
use crate::cli::registries::registry_here;
use crate::engine::publish::{Existing, name};
use crate::oci::Reference;
use crate::transfer::{CopyOptions, TransferError, copy};

pub(super) fn run(args: &RemoteTagArgs, context: &mut Context) -> Result<Exit, Failure> {
    let (from, to): (Reference, Reference) = (args.from.parse()?, args.to.parse()?);
    if to.digest.is_some() {
        return Err(Failure::usage(format!("`{}` is no name that can be given: a digest follows from the content", args.to)));
    }
    let registry = registry_here(&context.settings)?;
    let existing = if args.force { Existing::Moves } else { Existing::Stays };
    let work = async {
        let source = registry.upstream(&from.repository);
        let root = source.manifest(&from).await?;
        let root = root.ok_or_else(|| TransferError::Absent { reference: Box::new(from.clone()) })?.descriptor;
        let sink = registry.upstream(&to.repository).mounting_from([from.repository.clone()]);
        if from.repository != to.repository {
            copy(&source, &sink, &root, &CopyOptions { trust_parents: true, ..CopyOptions::default() }).await?;
        }
        Ok(name(&sink, &to, &root, existing).await?)
    };
    let released = super::block_on(work)?;
    context.out.line(format!("{}@{}", released.reference.familiar(), released.digest))?;
    Ok(Exit::Done)
}
