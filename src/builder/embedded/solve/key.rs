//! Keys of steps: BLAKE3 over a canonical form of what a step does and of what it does it to.
//!
//! ```text
//! definition = H("definition", operation, definitions of the inputs)     known before anything is read but the context
//! content    = H("content",    operation, trees of the inputs)           known once the inputs are there
//! ```
//! The canonical form is a sequence of named fields; names and values are length-prefixed, so no two operations share one.

use std::fmt;

/// A key of the step cache.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(super) struct Key([u8; 32]);

impl Key {
    /// Returns the key's bytes.
    pub(super) fn as_bytes(&self) -> &[u8; 32] {
        &self.0
    }
}

impl fmt::Display for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&crate::oci::digest::hex(&self.0))
    }
}

impl fmt::Debug for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// Named fields on their way into a key.
pub(super) struct Fields(blake3::Hasher);

impl Fields {
    /// Starts the fields of `kind`, which carries its version: `pkgbuild.run.v1`.
    pub(super) fn new(kind: &str) -> Self {
        let mut fields = Self(blake3::Hasher::new());
        fields.bytes(kind.as_bytes());
        fields
    }

    fn bytes(&mut self, bytes: &[u8]) {
        self.0.update(&(bytes.len() as u64).to_le_bytes());
        self.0.update(bytes);
    }

    /// Adds one field.
    pub(super) fn field(mut self, name: &str, value: impl AsRef<[u8]>) -> Self {
        self.bytes(name.as_bytes());
        self.bytes(value.as_ref());
        self
    }

    /// Adds a field that is a number.
    pub(super) fn number(self, name: &str, value: u64) -> Self {
        self.field(name, value.to_le_bytes())
    }

    /// Adds a field that may be absent; absent is not empty.
    pub(super) fn optional(self, name: &str, value: Option<impl AsRef<[u8]>>) -> Self {
        match value {
            Some(value) => self.number(name, 1).field(name, value),
            None => self.number(name, 0),
        }
    }

    /// Adds a field with several values, in order.
    pub(super) fn list<T: AsRef<[u8]>>(self, name: &str, values: impl IntoIterator<Item = T>) -> Self {
        let values: Vec<T> = values.into_iter().collect();
        let fields = self.number(name, values.len() as u64);
        values.into_iter().fold(fields, |fields, value| fields.field(name, value))
    }

    /// Returns the key of the fields.
    pub(super) fn finish(self) -> Key {
        Key(*self.0.finalize().as_bytes())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_divided_differently_has_another_key() {
        let keys = [
            Fields::new("k").list("a", ["ab", "c"]).finish(),
            Fields::new("k").list("a", ["a", "bc"]).finish(),
            Fields::new("k").list("a", ["abc"]).finish(),
            Fields::new("k").list("a", ["abc", ""]).finish(),
            Fields::new("k").field("a", "abc").finish(),
            Fields::new("k").field("ab", "c").finish(),
            Fields::new("ka").field("b", "c").finish(),
            Fields::new("k").optional("a", Some("")).finish(),
            Fields::new("k").optional("a", None::<&str>).finish(),
        ];
        for (n, key) in keys.iter().enumerate() {
            assert!(!keys[..n].contains(key), "key {n} is not its own");
        }
    }
}
