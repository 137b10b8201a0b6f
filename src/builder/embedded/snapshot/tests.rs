//! Rules of snapshots.
