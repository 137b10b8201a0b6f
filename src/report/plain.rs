//! Events as lines of text, for logs and pipes.

use std::collections::HashMap;
use std::io::Write;
use std::sync::Mutex;
use std::time::{Duration, Instant};

use super::{Look, duration, outcome, printable, short, size, totals};
use crate::engine::event::{CancelReason, Direction, Event, EventKind, EventSink, Outcome, UnitName, Work};

/// Writes a line for each thing worth one.
pub struct Plain {
    look: Look,
    state: Mutex<State>,
}

struct State {
    out: Box<dyn Write + Send>,
    /// When each transfer was last told about: a line for every 100 ms of a long one would bury all others.
    told: HashMap<String, Instant>,
}

/// Between two lines about one transfer.
const PAUSE: Duration = Duration::from_secs(5);

impl Plain {
    /// Returns a reporter that writes to `out`.
    pub fn new(look: Look, out: Box<dyn Write + Send>) -> Self {
        Self { look, state: Mutex::new(State { out, told: HashMap::new() }) }
    }
}

impl EventSink for Plain {
    fn emit(&self, event: Event) {
        let mut state = self.state.lock().expect("no holder panics");
        if let EventKind::Transfer { package, platform, direction, done, total } = &event.kind {
            let subject = platform.as_ref().map_or_else(|| package.clone(), |platform| format!("{package} {platform}"));
            let told = state.told.entry(format!("{subject} {direction:?}")).or_insert_with(Instant::now);
            if told.elapsed() < PAUSE || done == total {
                return;
            }
            *told = Instant::now();
            let _ = writeln!(state.out, "[{subject}] {}", transfer(*direction, *done, *total));
            return;
        }
        for line in lines(&event, self.look.verbosity) {
            let _ = writeln!(state.out, "{line}");
        }
    }
}

/// Returns how far a transfer is, for people.
pub(super) fn transfer(direction: Direction, done: u64, total: u64) -> String {
    let word = match direction {
        Direction::Down => "pulling",
        Direction::Up => "pushing",
    };
    if total > 0 { format!("{word} {} of {}", size(done), size(total)) } else { format!("{word} {}", size(done)) }
}

/// Returns the lines that an event is worth at a verbosity.
pub(super) fn lines(event: &Event, verbosity: u8) -> Vec<String> {
    let at = |unit: &UnitName| format!("[{} {}]", unit.package, unit.platform);
    match &event.kind {
        EventKind::RunStarted { packages, units, jobs, .. } if verbosity > 0 => {
            let counted = |number: usize, thing: &str| format!("{number} {thing}{}", if number == 1 { "" } else { "s" });
            vec![format!("{}, {}, at most {jobs} at once", counted(*packages, "package"), counted(*units, "unit"))]
        }
        EventKind::PackageTagged { package, reference, dirty } if verbosity > 0 => {
            vec![format!(
                "{package}: {}{}",
                reference.familiar(),
                if *dirty { " (with changes that are not committed)" } else { "" }
            )]
        }
        EventKind::Planned { unit, decision, reason } if verbosity > 0 => vec![format!("{} {decision}: {reason}", at(unit))],
        EventKind::UnitStarted { unit, work } => {
            let word = match work {
                Work::Build => "building",
                Work::Pull => "pulling",
            };
            vec![format!("{} {word}", at(unit))]
        }
        EventKind::BuildStep { unit, step, of, text, .. } => vec![format!("{} {step}/{of} {}", at(unit), printable(text))],
        EventKind::StepCached { unit, step, of, text } => vec![format!("{} {step}/{of} cached: {}", at(unit), printable(text))],
        EventKind::BuildLog { unit, step, text } => {
            text.lines().map(|line| format!("{} {step} | {}", at(unit), printable(line))).collect()
        }
        EventKind::StepFinished { unit, step, took } if verbosity > 0 => {
            vec![format!("{} {step} took {}", at(unit), duration(*took))]
        }
        EventKind::Warning { package, message } => {
            let about = package.as_ref().map(|package| format!("{package}: ")).unwrap_or_default();
            vec![format!("warning: {about}{message}")]
        }
        EventKind::UnitFinished { outcome: Outcome::Reused { .. }, .. } if verbosity == 0 => Vec::new(),
        EventKind::UnitFinished { unit, outcome: ended, took } => {
            let time = if took.is_zero() { String::new() } else { format!(" in {}", duration(*took)) };
            vec![format!("{} {}{time}", at(unit), outcome(ended))]
        }
        EventKind::IndexWritten { reference, digest, platforms, .. } => {
            let platforms: Vec<String> = platforms.iter().map(ToString::to_string).collect();
            vec![format!("{} is {} ({})", reference.familiar(), short(digest), platforms.join(", "))]
        }
        EventKind::Pushed { reference, digest, sent, .. } => {
            let sent = if *sent == 0 { "nothing had to be sent".to_owned() } else { format!("{} sent", size(*sent)) };
            vec![format!("pushed {} as {}: {sent}", reference.familiar(), short(digest))]
        }
        EventKind::Released { reference, digest, .. } => vec![format!("released {} as {}", reference.familiar(), short(digest))],
        EventKind::Retrying { request, after, why } => vec![format!("{request}: trying again in {}: {why}", duration(*after))],
        EventKind::Cancelling { reason } => vec![cancelling(*reason).to_owned()],
        EventKind::RunFinished { summary } => vec![format!("{} in {}", totals(summary), duration(event.elapsed))],
        _ => Vec::new(),
    }
}

/// Returns what is said when a run is ended early.
fn cancelling(reason: CancelReason) -> &'static str {
    match reason {
        CancelReason::Interrupt => "interrupted: ending what runs (once more to leave at once)",
        CancelReason::Terminate => "asked to end: ending what runs",
        CancelReason::Timeout => "the time limit is over: ending what runs",
        CancelReason::FailFast => "one failed: ending what runs",
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::engine::event::Totals;
    use crate::oci::{Digest, Platform};
    use crate::time::Timestamp;

    fn lines_of(kind: EventKind, verbosity: u8) -> Vec<String> {
        lines(&Event { at: Timestamp::from_seconds(0), elapsed: Duration::from_secs(3), kind }, verbosity)
    }

    #[test]
    fn every_line_names_its_unit() {
        let unit = UnitName { package: "hello".to_owned(), platform: Platform::linux("arm64") };
        let log = EventKind::BuildLog { unit: unit.clone(), step: 2, text: "one\ntwo\u{1b}[1m\n".to_owned() };
        assert_eq!(lines_of(log, 0), ["[hello linux/arm64] 2 | one", "[hello linux/arm64] 2 | two"]);
        let reused = EventKind::UnitFinished { unit, outcome: Outcome::Reused { digest: Digest::of(b"") }, took: Duration::ZERO };
        assert_eq!(lines_of(reused.clone(), 0), [""; 0]);
        assert_eq!(lines_of(reused, 1), ["[hello linux/arm64] reused sha256:e3b0c44298fc"]);
    }

    #[test]
    fn the_summary_counts_what_happened_and_nothing_else() {
        let summary = Totals { built: 2, failed: 1, ..Totals::default() };
        assert_eq!(lines_of(EventKind::RunFinished { summary }, 0), ["2 built, 1 failed in 3.0 s"]);
        assert_eq!(lines_of(EventKind::RunFinished { summary: Totals::default() }, 0), ["nothing to do in 3.0 s"]);
    }
}
