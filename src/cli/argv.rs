//! What stands between the words of the command line and its parser: the forms that linuxkit's users and scripts write.

use std::ffi::{OsStr, OsString};
use std::path::Path;

use clap::{ArgAction, Command, CommandFactory};

use super::args::CommandLine;

/// By which name the program was called.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum CalledAs {
    /// Its own, or any other.
    #[default]
    Pkgbuild,
    /// `linuxkit`: that program's defaults and its form of `-v` hold.
    Linuxkit,
}

/// Returns the name the program was called by, and the words in the form that the parser knows:
///
/// - `pkg` before a command is dropped, and options between the two are put behind the command;
/// - `--flag=true` and `--flag=false` of a flag without a value are the flag and nothing;
/// - as `linuxkit`, `-v N` and `--verbose N` are `-v` as often as their number exceeds linuxkit's default of 1.
pub fn normalised(words: Vec<OsString>) -> (CalledAs, Vec<OsString>) {
    let mut words = words.into_iter();
    let name = words.next().unwrap_or_else(|| "pkgbuild".into());
    let called = match Path::new(&name).file_name().and_then(OsStr::to_str) {
        Some("linuxkit") => CalledAs::Linuxkit,
        _ => CalledAs::Pkgbuild,
    };
    let mut rest: Vec<OsString> = words.collect();
    if called == CalledAs::Linuxkit {
        rest = verbosity(rest);
    }
    rest = without_prefix(rest);
    if rest.iter().any(|word| word.to_str().is_some_and(|word| word.ends_with("=true") || word.ends_with("=false"))) {
        rest = without_booleans(rest);
    }
    (called, std::iter::once(name).chain(rest).collect())
}

fn verbosity(words: Vec<OsString>) -> Vec<OsString> {
    let mut shown = Vec::with_capacity(words.len());
    let mut words = words.into_iter();
    while let Some(word) = words.next() {
        let level = match word.to_str() {
            Some("-v" | "--verbose") => words.next().and_then(|level| level.to_str().map(str::to_owned)),
            Some(text) => match text.strip_prefix("--verbose=").or_else(|| text.strip_prefix("-v=")) {
                Some(level) => Some(level.to_owned()),
                None => {
                    shown.push(word);
                    continue;
                }
            },
            None => {
                shown.push(word);
                continue;
            }
        };
        let level: usize = level.and_then(|level| level.parse().ok()).unwrap_or(1);
        shown.extend((1..level.min(4)).map(|_| OsString::from("-v")));
    }
    shown
}

/// The commands that linuxkit has under `pkg`, and ours beside them.
fn is_command(parser: &Command, word: &OsStr) -> bool {
    word.to_str().is_some_and(|word| parser.find_subcommand(word).is_some())
}

fn without_prefix(words: Vec<OsString>) -> Vec<OsString> {
    // Options and their values may stand before the prefix; `pkg` can also be a directory, which comes after a command.
    let parser = CommandLine::command();
    let command = words.iter().position(|word| is_command(&parser, word));
    let Some(prefix) = words.iter().position(|word| word == "pkg").filter(|at| command.is_none_or(|command| *at < command))
    else {
        return words;
    };
    let Some(command) = command else {
        // `pkgbuild pkg --help`, or a mistake that the parser should describe.
        return words.into_iter().enumerate().filter(|(at, _)| *at != prefix).map(|(_, word)| word).collect();
    };
    let mut words = words;
    let between: Vec<OsString> = words.drain(prefix..command).skip(1).collect();
    words.splice(prefix + 1..prefix + 1, between);
    words
}

fn without_booleans(words: Vec<OsString>) -> Vec<OsString> {
    let parser = CommandLine::command();
    let mut flags: Vec<String> = Vec::new();
    collect_flags(&parser, &mut flags);
    let mut options = true;
    words
        .into_iter()
        .filter_map(|word| {
            options &= word != "--";
            let Some(text) = word.to_str().filter(|_| options) else { return Some(word) };
            let (name, value) = match text.strip_prefix("--").and_then(|text| text.split_once('=')) {
                Some((name, value @ ("true" | "false"))) if flags.iter().any(|flag| flag == name) => (name, value),
                _ => return Some(word),
            };
            (value == "true").then(|| OsString::from(format!("--{name}")))
        })
        .collect()
}

fn collect_flags(command: &Command, flags: &mut Vec<String>) {
    for argument in command.get_arguments().filter(|argument| matches!(argument.get_action(), ArgAction::SetTrue)) {
        flags.extend(argument.get_long().map(str::to_owned));
        flags.extend(argument.get_all_aliases().into_iter().flatten().map(str::to_owned));
    }
    for inner in command.get_subcommands() {
        collect_flags(inner, flags);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn words(line: &str) -> String {
        let (_, words) = normalised(line.split(' ').map(OsString::from).collect());
        words.iter().map(|word| word.to_string_lossy()).collect::<Vec<_>>().join(" ")
    }

    #[test]
    fn linuxkits_forms_become_ours() {
        for (given, ours) in [
            ("pkgbuild build a", "pkgbuild build a"),
            ("pkgbuild pkg build a", "pkgbuild build a"),
            ("pkgbuild pkg --org x build --force pkg", "pkgbuild build --org x --force pkg"),
            ("pkgbuild -q pkg show-tag pkg/a", "pkgbuild -q show-tag pkg/a"),
            ("pkgbuild show-tag pkg", "pkgbuild show-tag pkg"),
            ("pkgbuild pkg", "pkgbuild"),
            ("pkgbuild pkg --help", "pkgbuild --help"),
            ("/usr/bin/linuxkit -v 2 pkg build a", "/usr/bin/linuxkit -v build a"),
            ("linuxkit --verbose=3 pkg build a", "linuxkit -v -v build a"),
            ("linuxkit -v 1 cache ls", "linuxkit cache ls"),
            ("pkgbuild build --force=true --push=false --manifest=false", "pkgbuild build --force --manifest=false"),
            ("pkgbuild build --build-arg=x=true -- --push=true", "pkgbuild build --build-arg=x=true -- --push=true"),
        ] {
            assert_eq!(words(given), ours);
        }
    }

    #[test]
    fn only_the_file_name_decides_who_is_called() {
        let called = |word: &str| normalised(vec![word.into()]).0;
        assert_eq!(called("/opt/linuxkit"), CalledAs::Linuxkit);
        assert_eq!(called("/opt/linuxkit/pkgbuild"), CalledAs::Pkgbuild);
    }
}
