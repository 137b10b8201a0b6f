//! Events as bars on a terminal: a line for each running unit, and one for the whole run.

use std::collections::HashMap;
use std::sync::Mutex;
use std::time::Duration;

use indicatif::{MultiProgress, ProgressBar, ProgressDrawTarget, ProgressStyle};

use super::plain::{self, lines};
use super::{Look, printable, size};
use crate::engine::event::{Direction, Event, EventKind, EventSink, Outcome, UnitName, Work};
use crate::oci::Platform;

/// Draws bars on standard error.
pub struct Terminal {
    look: Look,
    bars: MultiProgress,
    state: Mutex<State>,
}

struct State {
    units: HashMap<UnitName, ProgressBar>,
    uploads: HashMap<String, ProgressBar>,
    all: Option<ProgressBar>,
    finished: u64,
    failed: u64,
    /// Bytes seen of each transfer, for the sum.
    bytes: HashMap<(String, Option<Platform>, bool), u64>,
}

/// How often spinners move; also the rate of redrawing, which costs time on slow terminals.
const SPIN: Duration = Duration::from_millis(120);

impl Terminal {
    /// Returns a reporter that draws on standard error.
    pub fn new(look: Look) -> Self {
        let state =
            State { units: HashMap::new(), uploads: HashMap::new(), all: None, finished: 0, failed: 0, bytes: HashMap::new() };
        Self { look, bars: MultiProgress::with_draw_target(ProgressDrawTarget::stderr_with_hz(10)), state: Mutex::new(state) }
    }

    fn bar(&self, prefix: String, after: Option<&ProgressBar>) -> ProgressBar {
        let template = if self.look.color {
            "{spinner:.cyan} {prefix:.bold} {wide_msg} {elapsed:.dim}"
        } else {
            "{spinner} {prefix} {wide_msg} {elapsed}"
        };
        let bar = match after {
            Some(all) => self.bars.insert_before(all, ProgressBar::new_spinner()),
            None => self.bars.add(ProgressBar::new_spinner()),
        };
        bar.set_style(ProgressStyle::with_template(template).expect("a valid template"));
        bar.set_prefix(prefix);
        bar.enable_steady_tick(SPIN);
        bar
    }

    fn print(&self, event: &Event) {
        for line in lines(event, self.look.verbosity) {
            let _ = self.bars.println(line);
        }
    }
}

impl State {
    fn update_all(&self) {
        let Some(all) = &self.all else { return };
        let bytes: u64 = self.bytes.values().sum();
        let moved = if bytes == 0 { String::new() } else { format!(", {} moved", size(bytes)) };
        let failed = if self.failed == 0 { String::new() } else { format!(", {} failed", self.failed) };
        all.set_position(self.finished);
        all.set_message(format!("{} running{failed}{moved}", self.units.len() + self.uploads.len()));
    }
}

impl EventSink for Terminal {
    fn emit(&self, event: Event) {
        let mut state = self.state.lock().expect("no holder panics");
        match &event.kind {
            EventKind::RunStarted { units, .. } => {
                let all = self.bars.add(ProgressBar::new(*units as u64));
                let template = if self.look.color {
                    "  {pos}/{len} units {bar:30.green} {wide_msg} {elapsed:.dim}"
                } else {
                    "  {pos}/{len} units {bar:30} {wide_msg} {elapsed}"
                };
                all.set_style(ProgressStyle::with_template(template).expect("a valid template").progress_chars("━╸ "));
                state.all = Some(all);
            }
            EventKind::UnitStarted { unit, work } => {
                let bar = self.bar(format!("{} {}", unit.package, unit.platform), state.all.as_ref());
                bar.set_message(match work {
                    Work::Build => "building",
                    Work::Pull => "pulling",
                });
                state.units.insert(unit.clone(), bar);
            }
            EventKind::BuildStep { unit, step, of, text, .. } => {
                if let Some(bar) = state.units.get(unit) {
                    bar.set_message(format!("[{step}/{of}] {}", printable(text)));
                }
            }
            EventKind::StepCached { unit, step, of, text } => {
                if let Some(bar) = state.units.get(unit) {
                    bar.set_message(format!("[{step}/{of}] cached {}", printable(text)));
                }
            }
            EventKind::BuildLog { .. } if self.look.verbosity > 0 => self.print(&event),
            EventKind::BuildLog { .. } | EventKind::StepFinished { .. } => {}
            EventKind::Transfer { package, platform, direction, done, total } => {
                state.bytes.insert((package.clone(), platform.clone(), *direction == Direction::Up), *done);
                let unit = platform.as_ref().map(|platform| UnitName { package: package.clone(), platform: platform.clone() });
                let message = plain::transfer(*direction, *done, *total);
                match unit.and_then(|unit| state.units.get(&unit)) {
                    Some(bar) => bar.set_message(message),
                    None => {
                        if !state.uploads.contains_key(package) {
                            let bar = self.bar(package.clone(), state.all.as_ref());
                            state.uploads.insert(package.clone(), bar);
                        }
                        state.uploads[package].set_message(message);
                    }
                }
            }
            EventKind::UnitFinished { unit, outcome, .. } => {
                if let Some(bar) = state.units.remove(unit) {
                    bar.finish_and_clear();
                }
                state.finished += 1;
                state.failed += u64::from(matches!(outcome, Outcome::Failed { .. }));
                self.print(&event);
            }
            EventKind::Pushed { package, .. } => {
                if let Some(bar) = state.uploads.remove(package) {
                    bar.finish_and_clear();
                }
                self.print(&event);
            }
            EventKind::RunFinished { .. } => {
                for (_, bar) in state.units.drain() {
                    bar.finish_and_clear();
                }
                for (_, bar) in state.uploads.drain() {
                    bar.finish_and_clear();
                }
                if let Some(all) = state.all.take() {
                    all.finish_and_clear();
                }
                self.print(&event);
            }
            _ => self.print(&event),
        }
        state.update_all();
    }
}
