//! Standard output: results and nothing else.

use std::io::{self, Write};

use serde::Serialize;

/// Returns a number of things: `1 blob`, `2 blobs`.
pub fn counted(number: usize, thing: &str) -> String {
    format!("{number} {thing}{}", if number == 1 { "" } else { "s" })
}

/// Where results go.
pub struct Output {
    out: Box<dyn Write>,
}

impl Output {
    /// Returns an output that writes to `out`.
    pub fn new(out: Box<dyn Write>) -> Self {
        Self { out }
    }

    /// Writes one line.
    ///
    /// # Errors
    /// When nobody can be written to.
    pub fn line(&mut self, line: impl AsRef<str>) -> io::Result<()> {
        self.out.write_all(line.as_ref().as_bytes())?;
        self.out.write_all(b"\n")
    }

    /// Writes text as it is.
    ///
    /// # Errors
    /// When nobody can be written to.
    pub fn text(&mut self, text: &str) -> io::Result<()> {
        self.out.write_all(text.as_bytes())
    }

    /// Writes one JSON document whose first member is `"schema": "pkgbuild.<command>/v1"`.
    ///
    /// # Errors
    /// When nobody can be written to.
    pub fn json<T: Serialize>(&mut self, command: &str, value: &T) -> io::Result<()> {
        #[derive(Serialize)]
        struct Document<'a, T> {
            schema: String,
            #[serde(flatten)]
            value: &'a T,
        }
        let document = Document { schema: format!("pkgbuild.{command}/v1"), value };
        serde_json::to_writer_pretty(&mut self.out, &document)?;
        self.out.write_all(b"\n")
    }

    /// Writes rows as a table whose columns are aligned; the last is not padded.
    ///
    /// # Errors
    /// When nobody can be written to.
    pub fn table(&mut self, rows: &[Vec<String>]) -> io::Result<()> {
        let columns = rows.iter().map(Vec::len).max().unwrap_or(0);
        let width = |column: usize| rows.iter().filter_map(|row| row.get(column)).map(|cell| cell.chars().count()).max();
        let widths: Vec<usize> = (0..columns).map(|column| width(column).unwrap_or(0)).collect();
        for row in rows {
            let padded = row.iter().zip(&widths).map(|(cell, width)| format!("{cell:width$}"));
            self.line(padded.collect::<Vec<_>>().join("  ").trim_end())?;
        }
        Ok(())
    }

    /// Makes sure that everything is written.
    ///
    /// # Errors
    /// When nobody can be written to.
    pub fn flush(&mut self) -> io::Result<()> {
        self.out.flush()
    }
}
