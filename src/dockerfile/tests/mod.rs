//! What a Dockerfile means, from its bytes to the graph of its stages.

mod graph;
mod history;
mod instructions;
mod lines;

use std::path::Path;

use super::*;

/// Parses a Dockerfile that must be right.
fn parse(text: &str) -> Dockerfile {
    Dockerfile::parse(Path::new("Dockerfile"), text.as_bytes()).unwrap_or_else(|mistakes| panic!("{text}\n{mistakes}"))
}

/// Returns what is told about a Dockerfile that must be wrong, as `line: message`.
fn mistakes(text: &str) -> Vec<String> {
    let mistakes = Dockerfile::parse(Path::new("Dockerfile"), text.as_bytes()).expect_err(text);
    told(&mistakes)
}

fn told(mistakes: &Diagnostics) -> Vec<String> {
    let line = |mistake: &Diagnostic| mistake.span.map_or_else(String::new, |span| format!("{}: ", span.line));
    mistakes.0.iter().map(|mistake| format!("{}{}", line(mistake), mistake.message)).collect()
}

/// Returns the commands of the first stage of `FROM scratch` with `text` below it.
fn commands(text: &str) -> Vec<Command> {
    parse(&format!("FROM scratch\n{text}"))
        .stages
        .remove(0)
        .instructions
        .into_iter()
        .map(|instruction| instruction.command)
        .collect()
}

fn command(text: &str) -> Command {
    let mut all = commands(text);
    assert_eq!(all.len(), 1, "{text}");
    all.remove(0)
}

fn strings(words: &[&str]) -> Vec<String> {
    words.iter().map(|word| (*word).to_owned()).collect()
}
