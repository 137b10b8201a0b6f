//! `man`: a page for the program and for each command.

use clap::CommandFactory;

use super::Context;
use crate::cli::args::{CommandLine, ManArgs};
use crate::cli::error::Failure;
use crate::cli::exit::Exit;
use crate::sys::fs::write_atomic;

pub(super) fn run(args: &ManArgs, context: &mut Context) -> Result<Exit, Failure> {
    let directory = context.settings.path(&args.pages);
    let failed = |source| Failure::File { action: "write man pages to", path: directory.clone(), source };
    fs_err::create_dir_all(&directory).map_err(failed)?;
    let mut root = CommandLine::command();
    // Fills in what the subcommands inherit, so that each page is whole.
    root.build();
    let mut pages = vec![root.clone()];
    while let Some(command) = pages.pop() {
        let name = command.get_display_name().unwrap_or_else(|| command.get_name()).replace(' ', "-");
        let mut page = Vec::new();
        clap_mangen::Man::new(command.clone()).title(name.to_uppercase()).render(&mut page).map_err(failed)?;
        let path = directory.join(format!("{name}.1"));
        write_atomic(&path, &page, 0o644).map_err(failed)?;
        context.out.line(path.display().to_string())?;
        pages.extend(command.get_subcommands().filter(|inner| !inner.is_hide_set()).cloned());
    }
    Ok(Exit::Done)
}
