//! `graph`: which package needs which, and through what.

use super::Context;
use crate::cli::args::{GraphArgs, GraphFormat};
use crate::cli::error::Failure;
use crate::cli::exit::Exit;
use crate::cli::packages::Selected;
use crate::package::{Format, Graph};

pub(super) fn run(args: &GraphArgs, context: &mut Context) -> Result<Exit, Failure> {
    let selected = Selected::load(&args.selection, &context.settings)?;
    let format = match args.format {
        GraphFormat::Text => Format::Text,
        GraphFormat::Json => Format::Json,
        GraphFormat::Dot => Format::Dot,
        GraphFormat::Mermaid => Format::Mermaid,
        GraphFormat::Make => Format::Make,
    };
    let graph: Graph = selected.graph()?;
    context.out.text(&graph.render(format))?;
    Ok(Exit::Done)
}
