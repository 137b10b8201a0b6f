//! Everything a reporter may know about a run. Written as JSON lines it is a public format; its version is [`SCHEMA`].

use std::time::Duration;

use serde::{Serialize, Serializer};

use crate::oci::{Digest, Platform, Reference};
use crate::time::Timestamp;

/// Name and version of the JSON form of [`Event`], written with the first event of a run.
pub const SCHEMA: &str = "pkgbuild.events/v1";

/// Something that happened in a run.
#[derive(Clone, PartialEq, Debug, Serialize)]
pub struct Event {
    /// When.
    #[serde(serialize_with = "rfc3339")]
    pub at: Timestamp,
    /// How long after the start of the run, in seconds.
    #[serde(serialize_with = "seconds")]
    pub elapsed: Duration,
    /// What.
    #[serde(flatten)]
    pub kind: EventKind,
}

/// A package at a platform.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Serialize)]
pub struct UnitName {
    /// The package's name.
    pub package: String,
    /// The platform.
    #[serde(serialize_with = "display")]
    pub platform: Platform,
}

/// What happened.
#[derive(Clone, PartialEq, Debug, Serialize)]
#[serde(tag = "event", rename_all = "kebab-case", rename_all_fields = "kebab-case")]
pub enum EventKind {
    /// The run began.
    RunStarted {
        /// Always [`SCHEMA`].
        schema: &'static str,
        /// How many packages it is about.
        packages: usize,
        /// How many units.
        units: usize,
        /// How many units run at once.
        jobs: usize,
    },
    /// A package was given its tag.
    PackageTagged {
        /// The package.
        package: String,
        /// Its tag.
        reference: Reference,
        /// Whether its files differ from what is committed.
        dirty: bool,
    },
    /// A unit was decided on.
    Planned {
        /// The unit.
        #[serde(flatten)]
        unit: UnitName,
        /// The decision in one word.
        decision: &'static str,
        /// Why.
        reason: &'static str,
    },
    /// Work on a unit began.
    UnitStarted {
        /// The unit.
        #[serde(flatten)]
        unit: UnitName,
        /// What is done.
        work: Work,
    },
    /// A builder began a step.
    BuildStep {
        /// The unit.
        #[serde(flatten)]
        unit: UnitName,
        /// The step's number, from 1.
        step: usize,
        /// How many steps there are.
        of: usize,
        /// The stage's name or number.
        stage: String,
        /// The instruction.
        text: String,
        /// Its first line in the Dockerfile.
        line: u32,
    },
    /// A step printed something.
    BuildLog {
        /// The unit.
        #[serde(flatten)]
        unit: UnitName,
        /// The step's number.
        step: usize,
        /// What it printed: whole lines where possible.
        text: String,
    },
    /// A step's result was found in the cache.
    StepCached {
        /// The unit.
        #[serde(flatten)]
        unit: UnitName,
        /// The step's number.
        step: usize,
        /// How many steps there are.
        of: usize,
        /// The instruction.
        text: String,
    },
    /// A step ended well.
    StepFinished {
        /// The unit.
        #[serde(flatten)]
        unit: UnitName,
        /// The step's number.
        step: usize,
        /// How long it took, in seconds.
        #[serde(serialize_with = "seconds")]
        took: Duration,
    },
    /// Something worth saying that stops nothing.
    Warning {
        /// The package it is about.
        package: Option<String>,
        /// One line.
        message: String,
    },
    /// Bytes went over the network.
    Transfer {
        /// The package they belong to.
        package: String,
        /// The platform they belong to, when it is one.
        #[serde(serialize_with = "display_option")]
        platform: Option<Platform>,
        /// Which way.
        direction: Direction,
        /// Bytes so far.
        done: u64,
        /// Bytes in all, as far as known.
        total: u64,
    },
    /// Work on a unit ended.
    UnitFinished {
        /// The unit.
        #[serde(flatten)]
        unit: UnitName,
        /// How.
        #[serde(flatten)]
        outcome: Outcome,
        /// How long it took, in seconds.
        #[serde(serialize_with = "seconds")]
        took: Duration,
    },
    /// A package's index was written to the cache.
    IndexWritten {
        /// The package.
        package: String,
        /// Its tag.
        reference: Reference,
        /// The index.
        digest: Digest,
        /// What it lists.
        #[serde(serialize_with = "display_all")]
        platforms: Vec<Platform>,
    },
    /// A package's index is in the registry.
    Pushed {
        /// The package.
        package: String,
        /// Its tag.
        reference: Reference,
        /// The index as the registry has it.
        digest: Digest,
        /// Bytes that had to be sent.
        sent: u64,
    },
    /// A package's index has another name, too.
    Released {
        /// The package.
        package: String,
        /// The name.
        reference: Reference,
        /// The index.
        digest: Digest,
    },
    /// Something failed and is tried again.
    Retrying {
        /// What was asked, of whom.
        request: String,
        /// After how long, in seconds.
        #[serde(serialize_with = "seconds")]
        after: Duration,
        /// What failed.
        why: String,
    },
    /// The run is being ended early.
    Cancelling {
        /// Why.
        reason: CancelReason,
    },
    /// The run ended.
    RunFinished {
        /// What came of it.
        #[serde(flatten)]
        summary: Totals,
    },
}

/// What is done for a unit.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Work {
    /// It is built.
    Build,
    /// It is copied from the registry.
    Pull,
}

/// Which way bytes went.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Direction {
    /// From a registry.
    Down,
    /// To a registry.
    Up,
}

/// How work on a unit ended.
#[derive(Clone, PartialEq, Eq, Debug, Serialize)]
#[serde(tag = "outcome", rename_all = "kebab-case")]
pub enum Outcome {
    /// It was there already.
    Reused {
        /// The manifest.
        digest: Digest,
    },
    /// It was copied.
    Pulled {
        /// The manifest.
        digest: Digest,
    },
    /// It was built.
    Built {
        /// The manifest.
        digest: Digest,
    },
    /// It failed.
    Failed {
        /// The error with its causes, one line each.
        error: Vec<String>,
    },
    /// Something that it needs failed.
    Skipped {
        /// What failed.
        because: String,
    },
    /// The run was ended before it did.
    Cancelled,
}

/// Why a run is ended early.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum CancelReason {
    /// The user interrupted it.
    Interrupt,
    /// The system asked it to end.
    Terminate,
    /// It ran longer than allowed.
    Timeout,
    /// A unit failed and the user wants to stop then.
    FailFast,
}

/// How many units ended how.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Serialize)]
#[serde(rename_all = "kebab-case")]
pub struct Totals {
    /// Were there already.
    pub reused: usize,
    /// Were copied from the registry.
    pub pulled: usize,
    /// Were built.
    pub built: usize,
    /// Failed, packages that could not be assembled or pushed included.
    pub failed: usize,
    /// Were not tried because of a failure.
    pub skipped: usize,
    /// Were ended early.
    pub cancelled: usize,
    /// Packages that are in the registry now.
    pub pushed: usize,
}

/// Where events go. Called from one place at a time, in order.
pub trait EventSink: Send + Sync {
    /// Takes an event. Slow sinks slow the run down, which is better than losing or hoarding events.
    fn emit(&self, event: Event);
}

/// Keeps all events, for tests and for whoever wants to look at a run afterwards.
#[derive(Debug, Default)]
pub struct Recorder(std::sync::Mutex<Vec<Event>>);

impl Recorder {
    /// Returns what was recorded so far.
    pub fn kinds(&self) -> Vec<EventKind> {
        self.0.lock().expect("no holder panics").iter().map(|event| event.kind.clone()).collect()
    }
}

impl EventSink for Recorder {
    fn emit(&self, event: Event) {
        self.0.lock().expect("no holder panics").push(event);
    }
}

fn rfc3339<S: Serializer>(at: &Timestamp, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.serialize_str(&at.rfc3339_millis())
}

fn seconds<S: Serializer>(duration: &Duration, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.serialize_f64((duration.as_secs_f64() * 1000.0).round() / 1000.0)
}

fn display<S: Serializer, T: std::fmt::Display>(value: &T, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.collect_str(value)
}

fn display_option<S: Serializer, T: std::fmt::Display>(value: &Option<T>, serializer: S) -> Result<S::Ok, S::Error> {
    match value {
        Some(value) => serializer.collect_str(value),
        None => serializer.serialize_none(),
    }
}

fn display_all<S: Serializer, T: std::fmt::Display>(values: &[T], serializer: S) -> Result<S::Ok, S::Error> {
    serializer.collect_seq(values.iter().map(ToString::to_string))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_event_is_one_flat_json_object() {
        let unit = UnitName { package: "hello".to_owned(), platform: Platform::linux("arm64") };
        let event = Event {
            at: Timestamp::from_seconds(0),
            elapsed: Duration::from_micros(1_234_567),
            kind: EventKind::UnitFinished {
                unit,
                outcome: Outcome::Built { digest: Digest::of(b"") },
                took: Duration::from_millis(500),
            },
        };
        assert_eq!(
            serde_json::to_string(&event).expect("writes"),
            r#"{"at":"1970-01-01T00:00:00.000Z","elapsed":1.235,"event":"unit-finished","package":"hello","platform":"linux/arm64","outcome":"built","digest":"sha256:e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855","took":0.5}"#
        );
    }
}
