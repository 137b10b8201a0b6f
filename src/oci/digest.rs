//! Content digests: parsing, printing, computing, and checking while reading.
//!
//! Leaves to others where the bytes come from (`content`, `store`, `registry`).

use std::fmt;
use std::io::{self, Read};
use std::str::FromStr;

use serde::{Deserialize, Deserializer, Serialize, Serializer};
use sha2::{Digest as _, Sha256, Sha512};

/// The digest of stored bytes: `sha256:` with 64 or `sha512:` with 128 lower-case hex digits
/// (OCI image-spec, "Digests").
///
/// Nothing else parses, so a digest is always safe to use as a file name.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Digest {
    /// SHA-256, the only algorithm that is written.
    Sha256([u8; 32]),
    /// SHA-512, accepted when reading.
    Sha512([u8; 64]),
}

/// The digest of a layer's uncompressed tar (OCI image-spec, "Layer DiffID").
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Serialize, Deserialize)]
#[serde(transparent)]
pub struct DiffId(pub Digest);

/// Why a text is not a digest.
#[derive(Debug, thiserror::Error)]
pub enum DigestError {
    /// There is no `algorithm:` prefix, or it names an unregistered algorithm.
    #[error("`{0}` is not a digest: expected `sha256:` or `sha512:` and hex digits")]
    Algorithm(String),
    /// The encoded part has the wrong length or other characters than lower-case hex.
    #[error("`{0}` is not a digest: expected {1} lower-case hex digits")]
    Encoded(String, usize),
}

impl Digest {
    /// Returns the SHA-256 digest of `bytes`.
    pub fn of(bytes: &[u8]) -> Self {
        Self::Sha256(Sha256::digest(bytes).into())
    }

    /// Returns the registered name of the algorithm, `sha256` or `sha512`.
    pub fn algorithm(&self) -> &'static str {
        match self {
            Self::Sha256(_) => "sha256",
            Self::Sha512(_) => "sha512",
        }
    }

    /// Returns the encoded part: lower-case hex digits.
    pub fn hex(&self) -> String {
        match self {
            Self::Sha256(bytes) => hex(bytes),
            Self::Sha512(bytes) => hex(bytes),
        }
    }
}

/// Returns `bytes` as lower-case hex digits.
pub fn hex(bytes: &[u8]) -> String {
    const DIGITS: &[u8; 16] = b"0123456789abcdef";
    let mut text = String::with_capacity(bytes.len() * 2);
    for byte in bytes {
        text.push(DIGITS[usize::from(byte >> 4)] as char);
        text.push(DIGITS[usize::from(byte & 15)] as char);
    }
    text
}

fn unhex<const N: usize>(text: &str) -> Option<[u8; N]> {
    let digit = |c: u8| match c {
        b'0'..=b'9' => Some(c - b'0'),
        b'a'..=b'f' => Some(c - b'a' + 10),
        _ => None,
    };
    let text = text.as_bytes();
    if text.len() != N * 2 {
        return None;
    }
    let mut bytes = [0; N];
    for (byte, pair) in bytes.iter_mut().zip(text.chunks_exact(2)) {
        *byte = digit(pair[0])? << 4 | digit(pair[1])?;
    }
    Some(bytes)
}

impl FromStr for Digest {
    type Err = DigestError;

    fn from_str(text: &str) -> Result<Self, DigestError> {
        match text.split_once(':') {
            Some(("sha256", rest)) => unhex(rest).map(Self::Sha256).ok_or_else(|| DigestError::Encoded(text.into(), 64)),
            Some(("sha512", rest)) => unhex(rest).map(Self::Sha512).ok_or_else(|| DigestError::Encoded(text.into(), 128)),
            _ => Err(DigestError::Algorithm(text.into())),
        }
    }
}

impl fmt::Display for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.algorithm(), self.hex())
    }
}

impl fmt::Debug for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl fmt::Display for DiffId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(&self.0, f)
    }
}

impl Serialize for Digest {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Digest {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer)?.parse().map_err(serde::de::Error::custom)
    }
}

/// Computes a digest of bytes that arrive in pieces.
#[derive(Clone)]
pub enum Hasher {
    /// Computes SHA-256.
    Sha256(Sha256),
    /// Computes SHA-512.
    Sha512(Sha512),
}

impl Default for Hasher {
    fn default() -> Self {
        Self::Sha256(Sha256::new())
    }
}

impl Hasher {
    /// Returns a hasher of the algorithm that `digest` uses.
    pub fn like(digest: &Digest) -> Self {
        match digest {
            Digest::Sha256(_) => Self::Sha256(Sha256::new()),
            Digest::Sha512(_) => Self::Sha512(Sha512::new()),
        }
    }

    /// Adds bytes.
    pub fn update(&mut self, bytes: &[u8]) {
        match self {
            Self::Sha256(hasher) => hasher.update(bytes),
            Self::Sha512(hasher) => hasher.update(bytes),
        }
    }

    /// Returns the digest of all bytes added.
    pub fn finish(self) -> Digest {
        match self {
            Self::Sha256(hasher) => Digest::Sha256(hasher.finalize().into()),
            Self::Sha512(hasher) => Digest::Sha512(hasher.finalize().into()),
        }
    }
}

/// Bytes that are not what their descriptor says.
#[derive(Debug, Clone, thiserror::Error)]
pub enum VerifyError {
    /// Fewer or more bytes than the descriptor's size.
    #[error("{digest} has {actual} bytes where {expected} were promised")]
    Size {
        /// The content that was read.
        digest: Digest,
        /// The descriptor's size in bytes.
        expected: u64,
        /// The bytes read; one more than `expected` when reading stopped early.
        actual: u64,
    },
    /// Other bytes than the digest names.
    #[error("content hashes to {actual} where {expected} was promised")]
    Digest {
        /// The descriptor's digest.
        expected: Digest,
        /// The digest of the bytes read.
        actual: Digest,
    },
}

/// A reader that checks size and digest when its source ends.
///
/// The error is an [`io::Error`] of kind `InvalidData` with a [`VerifyError`] inside: at the end of the source, or as
/// soon as there are more bytes than promised.
pub struct VerifyingReader<R> {
    inner: R,
    hasher: Option<Hasher>,
    expected: Digest,
    size: u64,
    seen: u64,
}

impl<R: Read> VerifyingReader<R> {
    /// Wraps `inner`, which must yield exactly `size` bytes that hash to `expected`.
    pub fn new(inner: R, expected: Digest, size: u64) -> Self {
        Self { inner, hasher: Some(Hasher::like(&expected)), expected, size, seen: 0 }
    }
}

impl<R: Read> Read for VerifyingReader<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let count = self.inner.read(buffer)?;
        check_chunk(&mut self.hasher, &self.expected, self.size, &mut self.seen, &buffer[..count], buffer.is_empty())?;
        Ok(count)
    }
}

/// Accounts for `chunk` (empty means the end, unless the caller asked for nothing) and checks what can be checked.
///
/// Shared by the blocking and the asynchronous reader (`content::verifying`), so that both refuse the same bytes.
///
/// # Errors
/// `InvalidData` with a [`VerifyError`] inside.
pub(crate) fn check_chunk(
    hasher: &mut Option<Hasher>,
    expected: &Digest,
    size: u64,
    seen: &mut u64,
    chunk: &[u8],
    asked_nothing: bool,
) -> io::Result<()> {
    *seen += chunk.len() as u64;
    let refuse = |error: VerifyError| Err(io::Error::new(io::ErrorKind::InvalidData, error));
    if *seen > size || (chunk.is_empty() && !asked_nothing && *seen != size) {
        return refuse(VerifyError::Size { digest: *expected, expected: size, actual: *seen });
    }
    if let Some(hasher) = hasher {
        hasher.update(chunk);
    }
    if chunk.is_empty()
        && !asked_nothing
        && let Some(done) = hasher.take()
    {
        let actual = done.finish();
        if actual != *expected {
            return refuse(VerifyError::Digest { expected: *expected, actual });
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    const EMPTY: &str = "sha256:e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855";

    #[test]
    fn the_empty_digest_is_the_published_one() {
        assert_eq!(Digest::of(b"").to_string(), EMPTY);
    }

    #[test]
    fn only_registered_algorithms_in_lower_case_parse() {
        for bad in [
            "",
            "sha256",
            "sha256:",
            "md5:00",
            "sha256:../../etc/passwd",
            &EMPTY.to_uppercase(),
            &EMPTY[..70],
            &format!("{EMPTY}0"),
        ] {
            assert!(bad.parse::<Digest>().is_err(), "{bad}");
        }
        assert_eq!(EMPTY.parse::<Digest>().expect("valid").to_string(), EMPTY);
    }

    #[test]
    fn a_verifying_reader_refuses_short_long_and_changed_bytes() {
        let digest = Digest::of(b"hello");
        let read = |bytes: &'static [u8], size| io::copy(&mut VerifyingReader::new(bytes, digest, size), &mut io::sink());
        assert_eq!(read(b"hello", 5).expect("same"), 5);
        for (bytes, size) in [(&b"hell"[..], 5), (b"hello!", 5), (b"hellO", 5), (b"hello", 4)] {
            assert_eq!(read(bytes, size).expect_err("must refuse").kind(), io::ErrorKind::InvalidData);
        }
    }
}
