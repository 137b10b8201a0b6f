//! `show-tag`: what each package's image is called. Asks git and nothing else.

use super::Context;
use crate::cli::args::ShowTagArgs;
use crate::cli::error::Failure;
use crate::cli::exit::Exit;
use crate::cli::packages::Selected;

pub(super) fn run(args: &ShowTagArgs, context: &mut Context) -> Result<Exit, Failure> {
    let mut selected = Selected::load(&args.selection, &context.settings)?;
    for tag in selected.package_tags()? {
        context.out.line(if args.canonical { &tag.full } else { &tag.short })?;
    }
    Ok(Exit::Done)
}
