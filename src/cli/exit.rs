//! Exit codes: a contract with scripts.

use std::process::ExitCode;

use crate::builder::BuildError;
use crate::content::ErrorClass;
use crate::engine::bases::BaseError;
use crate::engine::event::CancelReason;
use crate::engine::plan::Refusal;
use crate::engine::publish::PublishError;
use crate::engine::{RunSummary, UnitError};

/// How the program ends. Ordered from best to worst: of several, the worst decides.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub enum Exit {
    /// Done.
    Done,
    /// `plan --detailed-exitcode`: there is work.
    Work,
    /// The command of `debug exec` ended with this.
    Command(u8),
    /// Temporary; safe to repeat.
    Temporary,
    /// No builder or registry can be reached.
    Unavailable,
    /// Not authorised.
    Denied,
    /// A package failed to build.
    BuildFailed,
    /// Refused by a rule.
    Refused,
    /// A tag that must not move points elsewhere.
    Conflict,
    /// A mistake in the command line, build.yml, a Dockerfile or the workspace.
    Usage,
    /// The cache is damaged or the disk is full.
    Damaged,
    /// A time limit was exceeded.
    TimeLimit,
    /// Interrupted.
    Interrupted,
    /// Asked to end.
    Terminated,
}

impl Exit {
    /// Returns the number that the system is given.
    pub fn code(self) -> u8 {
        match self {
            Self::Done => 0,
            Self::BuildFailed => 1,
            Self::Usage => 2,
            Self::Work => 3,
            Self::Command(code) => code,
            Self::Refused => 4,
            Self::Conflict => 5,
            Self::Unavailable => 69,
            Self::Damaged => 74,
            Self::Temporary => 75,
            Self::Denied => 77,
            Self::TimeLimit => 124,
            Self::Interrupted => 130,
            Self::Terminated => 143,
        }
    }

    /// Returns what another run of this program that ended with `code` says.
    pub fn of_code(code: i32) -> Option<Self> {
        let all = [
            Self::Done,
            Self::Work,
            Self::Temporary,
            Self::Unavailable,
            Self::Denied,
            Self::BuildFailed,
            Self::Refused,
            Self::Conflict,
            Self::Damaged,
            Self::TimeLimit,
            Self::Usage,
            Self::Interrupted,
            Self::Terminated,
        ];
        all.into_iter().find(|exit| i32::from(exit.code()) == code)
    }

    /// Returns the code of an error that a registry, the cache or a disk caused.
    pub fn of_class(class: ErrorClass) -> Self {
        match class {
            ErrorClass::Retryable => Self::Temporary,
            ErrorClass::Denied => Self::Denied,
            ErrorClass::Damaged => Self::Damaged,
            ErrorClass::Conflict => Self::Conflict,
            ErrorClass::Permanent => Self::Unavailable,
        }
    }

    /// Returns the code of a build's error.
    pub fn of_build(error: &BuildError) -> Self {
        match error {
            BuildError::Dockerfile(_) => Self::Usage,
            BuildError::Step { .. } => Self::BuildFailed,
            BuildError::Files { class, .. } | BuildError::Builder { class, .. } => match class {
                // A file that a step names and that is not there is the package's mistake.
                ErrorClass::Permanent | ErrorClass::Conflict => Self::BuildFailed,
                class => Self::of_class(*class),
            },
            BuildError::Content(error) => Self::of_class(error.class()),
            BuildError::Unsupported { .. } => Self::Unavailable,
            BuildError::Cancelled => Self::Interrupted,
        }
    }
}

impl From<Exit> for ExitCode {
    fn from(exit: Exit) -> Self {
        Self::from(exit.code())
    }
}

/// Returns the code of a unit's error.
pub fn of_unit(error: &UnitError) -> Exit {
    match error {
        UnitError::Refused { source: Some(error), .. } if error.is_unreachable() => Exit::Unavailable,
        UnitError::Base(BaseError::Remote { source, .. }) if source.is_unreachable() => Exit::Unavailable,
        UnitError::Refused { refusal, .. } => match refusal {
            Refusal::Dirty | Refusal::BuildForbidden => Exit::Refused,
            Refusal::RegistryUnknown(class) => Exit::of_class(*class),
        },
        UnitError::Mistakes(_) | UnitError::Dockerfile(_) | UnitError::History(_) | UnitError::Cycle { .. } => Exit::Usage,
        UnitError::Base(error) => match error.class() {
            // A base image that is nowhere is the Dockerfile's mistake.
            ErrorClass::Permanent => Exit::BuildFailed,
            class => Exit::of_class(class),
        },
        UnitError::Bundle(error) => match error.class() {
            ErrorClass::Permanent => Exit::Usage,
            class => Exit::of_class(class),
        },
        UnitError::Build(error) => Exit::of_build(error),
        UnitError::Transfer(error) => Exit::of_class(error.class()),
        UnitError::Store(error) => super::error::of_store(error),
        UnitError::Publish(error) => of_publish(error),
        UnitError::Cancelled => Exit::Interrupted,
    }
}

/// Returns the code of a failed push.
pub fn of_publish(error: &PublishError) -> Exit {
    match error {
        PublishError::Dirty | PublishError::Missing { .. } => Exit::Refused,
        PublishError::Remote(error) if error.is_unreachable() => Exit::Unavailable,
        PublishError::Registry { source, .. } if source.is_unreachable() => Exit::Unavailable,
        error => Exit::of_class(error.class()),
    }
}

/// Returns the code of a run: why it was ended early, else the worst of its failures.
pub fn of_run(summary: &RunSummary) -> Exit {
    match summary.cancelled {
        Some(CancelReason::Interrupt) => Exit::Interrupted,
        Some(CancelReason::Terminate) => Exit::Terminated,
        Some(CancelReason::Timeout) => Exit::TimeLimit,
        Some(CancelReason::FailFast) | None => {
            summary.failures.iter().map(|failure| of_unit(&failure.error)).max().unwrap_or(Exit::Done)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_codes_are_those_of_the_contract() {
        let table = [
            (Exit::Done, 0),
            (Exit::BuildFailed, 1),
            (Exit::Usage, 2),
            (Exit::Work, 3),
            (Exit::Refused, 4),
            (Exit::Conflict, 5),
            (Exit::Unavailable, 69),
            (Exit::Damaged, 74),
            (Exit::Temporary, 75),
            (Exit::Denied, 77),
            (Exit::TimeLimit, 124),
            (Exit::Interrupted, 130),
            (Exit::Terminated, 143),
        ];
        for (exit, code) in table {
            assert_eq!(exit.code(), code, "{exit:?}");
        }
    }

    #[test]
    fn of_several_outcomes_the_worst_decides() {
        let worst = [Exit::Temporary, Exit::BuildFailed, Exit::Done].into_iter().max();
        assert_eq!(worst, Some(Exit::BuildFailed), "repeating alone would not help");
    }
}
