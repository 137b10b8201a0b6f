//! Events to text. The only place that draws progress; results and errors are written by `cli`.

pub mod json;
pub mod plain;
pub mod terminal;

use std::io::Write;
use std::time::Duration;

use crate::engine::event::{Event, EventSink, Outcome, Totals};

/// How progress is shown.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Style {
    /// Bars on a terminal.
    Terminal,
    /// A line for each thing that happens.
    Plain,
    /// JSON, one event a line.
    Json,
    /// Nothing.
    Quiet,
}

/// How progress looks.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Look {
    /// How it is shown.
    pub style: Style,
    /// Whether colours are used.
    pub color: bool,
    /// How much is said: 0 is usual, 1 tells what was reused and what steps print, more tells all.
    pub verbosity: u8,
}

/// Returns the reporter for `look`, which writes to `out`, usually standard error.
pub fn reporter(look: Look, out: Box<dyn Write + Send>) -> Box<dyn EventSink> {
    match look.style {
        Style::Terminal => Box::new(terminal::Terminal::new(look)),
        Style::Plain => Box::new(plain::Plain::new(look, out)),
        Style::Json => Box::new(json::Json::new(out)),
        Style::Quiet => Box::new(Quiet),
    }
}

/// Says nothing.
#[derive(Clone, Copy, Debug)]
pub struct Quiet;

impl EventSink for Quiet {
    fn emit(&self, _: Event) {}
}

/// Returns `bytes` for people: `999 B`, `1.2 kB`, `34 MB`.
pub fn size(bytes: u64) -> String {
    const UNITS: [&str; 5] = ["kB", "MB", "GB", "TB", "PB"];
    if bytes < 1000 {
        return format!("{bytes} B");
    }
    let (mut value, mut unit) = (bytes as f64 / 1000.0, 0);
    while value >= 999.5 && unit + 1 < UNITS.len() {
        value /= 1000.0;
        unit += 1;
    }
    if value < 9.95 { format!("{value:.1} {}", UNITS[unit]) } else { format!("{value:.0} {}", UNITS[unit]) }
}

/// Returns a duration for people: `0.4 s`, `12 s`, `3 min 4 s`, `2 h 5 min`.
pub fn duration(duration: Duration) -> String {
    let seconds = duration.as_secs_f64();
    match duration.as_secs() {
        0..=9 => format!("{seconds:.1} s"),
        10..=59 => format!("{} s", duration.as_secs()),
        whole @ 60..=3599 => format!("{} min {} s", whole / 60, whole % 60),
        whole => format!("{} h {} min", whole / 3600, whole % 3600 / 60),
    }
}

/// Returns `text` without escape sequences and other control characters, and of overwritten lines (`\r`) only the last
/// state, so that what a build prints cannot take over the terminal or the log.
pub fn printable(text: &str) -> String {
    let text = text.trim_end_matches('\r');
    let text = text.rsplit('\r').next().unwrap_or(text);
    let mut shown = String::with_capacity(text.len());
    let mut characters = text.chars().peekable();
    while let Some(c) = characters.next() {
        match c {
            '\u{1b}' => skip_escape(&mut characters),
            '\t' => shown.push(c),
            c if c.is_control() => {}
            c => shown.push(c),
        }
    }
    shown
}

/// Skips the rest of an escape sequence (ECMA-48: CSI ends with `@`…`~`, OSC with BEL or ST).
fn skip_escape(characters: &mut std::iter::Peekable<std::str::Chars<'_>>) {
    match characters.next() {
        Some('[') => while characters.next().is_some_and(|c| !('@'..='~').contains(&c)) {},
        Some(']') => {
            while let Some(c) = characters.next() {
                if c == '\u{7}' || (c == '\u{1b}' && characters.next_if_eq(&'\\').is_some()) {
                    break;
                }
            }
        }
        _ => {}
    }
}

/// Returns the counts of a run as a sentence: `2 built, 1 pulled, 3 reused`.
pub fn totals(totals: &Totals) -> String {
    let counts = [
        (totals.built, "built"),
        (totals.pulled, "pulled"),
        (totals.reused, "reused"),
        (totals.pushed, "pushed"),
        (totals.failed, "failed"),
        (totals.skipped, "skipped"),
        (totals.cancelled, "cancelled"),
    ];
    let said: Vec<String> = counts.iter().filter(|(n, _)| *n > 0).map(|(n, word)| format!("{n} {word}")).collect();
    if said.is_empty() { "nothing to do".to_owned() } else { said.join(", ") }
}

/// Returns an outcome as a phrase.
pub(crate) fn outcome(outcome: &Outcome) -> String {
    match outcome {
        Outcome::Reused { digest } => format!("reused {}", short(digest)),
        Outcome::Pulled { digest } => format!("pulled {}", short(digest)),
        Outcome::Built { digest } => format!("built {}", short(digest)),
        Outcome::Failed { error } => format!("failed: {}", error.first().map_or("", String::as_str)),
        Outcome::Skipped { because } => format!("skipped, because {because} failed"),
        Outcome::Cancelled => "cancelled".to_owned(),
    }
}

/// Returns the first 12 hex digits of a digest, with its algorithm: enough for people.
pub(crate) fn short(digest: &crate::oci::Digest) -> String {
    format!("{}:{:.12}", digest.algorithm(), digest.hex())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_and_durations_are_short() {
        for (bytes, shown) in [
            (0, "0 B"),
            (999, "999 B"),
            (1000, "1.0 kB"),
            (9_949, "9.9 kB"),
            (9_950, "10 kB"),
            (999_499, "999 kB"),
            (999_500, "1.0 MB"),
            (34_000_000, "34 MB"),
            (5_200_000_000, "5.2 GB"),
        ] {
            assert_eq!(size(bytes), shown, "{bytes}");
        }
        for (millis, shown) in
            [(0, "0.0 s"), (420, "0.4 s"), (9_900, "9.9 s"), (12_300, "12 s"), (184_000, "3 min 4 s"), (7_500_000, "2 h 5 min")]
        {
            assert_eq!(duration(Duration::from_millis(millis)), shown);
        }
    }

    #[test]
    fn what_a_build_prints_cannot_steer_the_terminal() {
        for (raw, shown) in [
            ("plain\ttext", "plain\ttext"),
            ("\u{1b}[31mred\u{1b}[0m", "red"),
            ("10%\r20%\r30%\r", "30%"),
            ("\u{1b}]0;title\u{7}after", "after"),
            ("\u{1b}]0;title\u{1b}\\after", "after"),
            ("bell\u{7}\u{0}", "bell"),
        ] {
            assert_eq!(printable(raw), shown, "{raw:?}");
        }
    }
}
