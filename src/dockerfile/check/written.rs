//! What the text alone shows.

use std::collections::{BTreeMap, BTreeSet};

use crate::dockerfile::expand::{Mode, expand_word};
use crate::dockerfile::instruction::{Command, Instruction};
use crate::dockerfile::scope::Globals;
use crate::dockerfile::{From, words};
use crate::oci::{Platform, Reference};

use super::{Findings, Rule};

/// Names of stages that mean something else.
const RESERVED: [&str; 2] = ["context", "scratch"];

pub(super) fn check(findings: &mut Findings<'_>) {
    let dockerfile = findings.dockerfile;
    for warning in &dockerfile.warnings.0 {
        // The only thing that the lexer finds.
        if let Some(span) = warning.span {
            findings.tell(Rule::NoEmptyContinuation, (span, &[]), warning.message.clone());
        }
    }
    for instruction in dockerfile.arguments.iter().chain(dockerfile.stages.iter().flat_map(|stage| &stage.instructions)) {
        instruction_alone(findings, instruction);
    }
    let mut names = BTreeSet::new();
    for stage in &dockerfile.stages {
        from(findings, &stage.from, &mut names);
    }
    casing(findings);
    default_arguments(findings);
}

fn instruction_alone(findings: &mut Findings<'_>, instruction: &Instruction) {
    let place = (instruction.span, &instruction.comments[..]);
    match &instruction.command {
        Command::Maintainer(_) => findings.tell(Rule::MaintainerDeprecated, place, "MAINTAINER is deprecated".to_owned()),
        Command::Arg(arguments) => {
            let names: Vec<&str> = arguments.iter().map(|argument| &argument.name[..]).collect();
            description(findings, "ARG", &names, instruction.span, &instruction.comments);
        }
        _ => {}
    }
}

fn from<'a>(findings: &mut Findings<'_>, from: &'a From, names: &mut BTreeSet<String>) {
    let place = (from.span, &from.comments[..]);
    let Some(name) = &from.name else { return };
    let lower = name.to_lowercase();
    if lower != *name {
        findings.tell(Rule::StageNameCasing, place, format!("the name of the stage `{name}` is not in lower case"));
    }
    // `FROM [--flag…] base AS name`: of the words the last but one.
    let mut words = from.text.split(words::is_blank).filter(|word| !word.is_empty());
    let keyword = words.next().unwrap_or_default();
    let joint: Option<&'a str> = words.rev().nth(1);
    if let (Some(case), Some(joint)) = (Case::of(keyword), joint)
        && !case.fits(joint)
    {
        findings.tell(Rule::FromAsCasing, place, format!("`{keyword}` and `{joint}` are not in the same case"));
    }
    if RESERVED.contains(&&lower[..]) {
        findings.tell(Rule::ReservedStageName, place, format!("`{lower}` as the name of a stage"));
    }
    description(findings, "FROM", &[&lower], from.span, &from.comments);
    if !names.insert(lower) {
        findings.tell(Rule::DuplicateStageName, place, format!("another stage is called `{name}`, too"));
    }
}

/// The comment above a definition describes it, if it begins with its name.
fn description(findings: &mut Findings<'_>, what: &str, names: &[&str], span: crate::diagnostic::Span, comments: &[String]) {
    let (Some(comment), Some(first)) = (comments.last(), names.first()) else { return };
    if !names.contains(&comment.split(' ').next().unwrap_or_default()) {
        let name = if names.len() > 1 { "one of its names" } else { first };
        let message = format!("the comment above {what} does not begin with `{name}`");
        findings.tell(Rule::InvalidDefinitionDescription, (span, comments), message);
    }
}

/// The case of a word that is in one.
#[derive(Clone, Copy, PartialEq)]
enum Case {
    Lower,
    Upper,
}

impl Case {
    fn of(word: &str) -> Option<Self> {
        [Self::Lower, Self::Upper].into_iter().find(|case| case.fits(word))
    }

    fn fits(self, word: &str) -> bool {
        match self {
            Self::Lower => word == word.to_lowercase(),
            Self::Upper => word == word.to_uppercase(),
        }
    }
}

/// The case that most instructions have is the right one; capitals when there are as many of both.
fn casing(findings: &mut Findings<'_>) {
    let dockerfile = findings.dockerfile;
    let mut words = Vec::new();
    for stage in &dockerfile.stages {
        words.push((&stage.from.text, stage.from.span, &stage.from.comments));
        words.extend(stage.instructions.iter().map(|instruction| (&instruction.text, instruction.span, &instruction.comments)));
    }
    let words =
        words.into_iter().map(|(text, span, comments)| (text.split(words::is_blank).next().unwrap_or_default(), span, comments));
    let mut count = BTreeMap::from([(false, 0_usize), (true, 0)]);
    for (word, ..) in words.clone() {
        if let Some(case) = Case::of(word) {
            *count.entry(case == Case::Lower).or_default() += 1;
        }
    }
    let (case, adjective) = if count[&true] > count[&false] { (Case::Lower, "lower case") } else { (Case::Upper, "capitals") };
    for (word, span, comments) in words {
        if !case.fits(word) {
            let message = format!("`{word}` is not in {adjective} as most instructions are");
            findings.tell(Rule::ConsistentInstructionCasing, (span, comments), message);
        }
    }
}

/// A Dockerfile should build without arguments.
fn default_arguments(findings: &mut Findings<'_>) {
    let dockerfile = findings.dockerfile;
    let escape = dockerfile.directives.escape;
    let mut globals = Globals::new(&BTreeMap::new(), &Platform::host(), &Platform::host(), "");
    for argument in dockerfile.arguments.iter().flat_map(|instruction| match &instruction.command {
        Command::Arg(arguments) => &arguments[..],
        _ => &[],
    }) {
        // An error here stops the build, and is told there.
        if globals.declare(argument, escape).is_err() {
            return;
        }
    }
    for stage in &dockerfile.stages {
        let base = &stage.from.base;
        let Ok(name) = expand_word(base, escape, &|name| globals.get(name), Mode::WORD) else { return };
        if base.contains('$') && name.parse::<Reference>().is_err() {
            let shown = if name.is_empty() { "nothing".to_owned() } else { format!("`{name}`") };
            let message = format!("`{base}` is {shown} without arguments, and that is no image");
            findings.tell(Rule::InvalidDefaultArgInFrom, (stage.from.span, &stage.from.comments), message);
        }
    }
}
