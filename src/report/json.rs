//! Events as JSON lines, the form for machines (`pkgbuild.events/v1`).

use std::io::Write;
use std::sync::Mutex;

use crate::engine::event::{Event, EventSink};

/// Writes each event as one line of JSON.
pub struct Json(Mutex<Box<dyn Write + Send>>);

impl Json {
    /// Returns a reporter that writes to `out`.
    pub fn new(out: Box<dyn Write + Send>) -> Self {
        Self(Mutex::new(out))
    }
}

impl EventSink for Json {
    fn emit(&self, event: Event) {
        let mut line = serde_json::to_vec(&event).expect("events have no maps with keys that are no text");
        line.push(b'\n');
        // Who closed the pipe does not want to know; the run goes on.
        let _ = self.0.lock().expect("no holder panics").write_all(&line);
    }
}
