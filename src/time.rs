//! Instants as values: nothing below `cli` asks the machine for the time, except through a [`Clock`].

use std::fmt;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use chrono::{DateTime, SecondsFormat, Utc};

/// An instant in nanoseconds since 1970-01-01T00:00:00Z.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct Timestamp {
    nanoseconds: i128,
}

/// The one time that goes into an image: whole seconds since the epoch (`SOURCE_DATE_EPOCH`).
///
/// It arrives as data with a build request; reading a clock while building would make every build differ.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Default)]
pub struct SourceDate(pub i64);

/// Where elapsed times and expiries come from; image times never do.
pub trait Clock: Send + Sync {
    /// Returns the present.
    fn now(&self) -> Timestamp;
}

/// The machine's clock.
#[derive(Clone, Copy, Debug, Default)]
pub struct SystemClock;

impl Clock for SystemClock {
    fn now(&self) -> Timestamp {
        SystemTime::now().into()
    }
}

impl From<SystemTime> for Timestamp {
    fn from(time: SystemTime) -> Self {
        let nanoseconds = match time.duration_since(UNIX_EPOCH) {
            Ok(after) => after.as_nanos() as i128,
            Err(before) => -(before.duration().as_nanos() as i128),
        };
        Self { nanoseconds }
    }
}

impl Timestamp {
    /// Returns the instant `seconds` after the epoch.
    pub fn from_seconds(seconds: i64) -> Self {
        Self { nanoseconds: i128::from(seconds) * 1_000_000_000 }
    }

    /// Returns whole seconds since the epoch, rounded down.
    pub fn seconds(&self) -> i64 {
        self.nanoseconds.div_euclid(1_000_000_000) as i64
    }

    /// Returns the time since `earlier`, or zero when that is later.
    pub fn since(&self, earlier: Self) -> Duration {
        Duration::from_nanos(u64::try_from(self.nanoseconds - earlier.nanoseconds).unwrap_or(0))
    }

    /// Returns the instant in RFC 3339 with milliseconds, for events and logs.
    pub fn rfc3339_millis(&self) -> String {
        rfc3339(self.seconds(), self.nanoseconds.rem_euclid(1_000_000_000) as u32, SecondsFormat::Millis)
    }
}

impl fmt::Display for SourceDate {
    /// Writes RFC 3339 in UTC with whole seconds, as image configs hold it: `1970-01-01T00:00:00Z`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&rfc3339(self.0, 0, SecondsFormat::Secs))
    }
}

fn rfc3339(seconds: i64, nanoseconds: u32, format: SecondsFormat) -> String {
    let clamped = DateTime::<Utc>::from_timestamp(seconds, nanoseconds).unwrap_or(if seconds < 0 {
        DateTime::<Utc>::MIN_UTC
    } else {
        DateTime::<Utc>::MAX_UTC
    });
    clamped.to_rfc3339_opts(format, true)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_epoch_prints_as_image_configs_hold_it() {
        assert_eq!(SourceDate(0).to_string(), "1970-01-01T00:00:00Z");
        assert_eq!(SourceDate(1_763_768_590).to_string(), "2025-11-21T23:43:10Z");
    }
}
