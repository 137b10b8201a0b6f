//! Which compression bytes are in, and reading through it.

use std::io::{self, BufReader, Read};

use flate2::bufread::MultiGzDecoder;

/// How a layer or an archive is compressed.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub enum Compression {
    /// Not at all.
    None,
    /// gzip, of one or several members.
    Gzip,
    /// zstd.
    Zstd,
}

/// Largest window a zstd stream may ask memory for, as a power of two: what `zstd -d` allows without `--long`.
const WINDOW_LOG: u32 = 27;

impl Compression {
    /// Returns the compression that a layer's media type promises, or `None` when it is no layer's media type.
    pub fn of_media_type(media_type: &str) -> Option<Self> {
        let rest = [
            "application/vnd.oci.image.layer.v1.tar",
            "application/vnd.oci.image.layer.nondistributable.v1.tar",
            "application/vnd.docker.image.rootfs.diff.tar",
            "application/vnd.docker.image.rootfs.foreign.diff.tar",
        ]
        .iter()
        .find_map(|prefix| media_type.strip_prefix(prefix))?;
        match rest {
            "" => Some(Self::None),
            "+gzip" | ".gzip" => Some(Self::Gzip),
            "+zstd" | ".zstd" => Some(Self::Zstd),
            _ => None,
        }
    }

    /// Returns the compression that a stream's first bytes show; at least four are needed to see zstd.
    pub fn of_magic(start: &[u8]) -> Self {
        match start {
            [0x1f, 0x8b, ..] => Self::Gzip,
            // A zstd stream may also begin with one of sixteen kinds of skippable frame (RFC 8878, 3.1.2).
            [0x28, 0xb5, 0x2f, 0xfd, ..] | [0x50..=0x5f, 0x2a, 0x4d, 0x18, ..] => Self::Zstd,
            _ => Self::None,
        }
    }

    /// Returns a reader of the decompressed bytes of `inner`.
    ///
    /// # Errors
    /// When the decompressor cannot be made.
    pub fn decode<'a>(self, inner: impl Read + Send + 'a) -> io::Result<Box<dyn Read + Send + 'a>> {
        let inner = BufReader::with_capacity(128 << 10, inner);
        Ok(match self {
            Self::None => Box::new(inner),
            Self::Gzip => Box::new(MultiGzDecoder::new(inner)),
            Self::Zstd => {
                let mut decoder = zstd::stream::read::Decoder::with_buffer(inner)?;
                decoder.window_log_max(WINDOW_LOG)?;
                Box::new(decoder)
            }
        })
    }
}

/// Looks at the first bytes of `inner` and returns a reader of what they decompress to.
///
/// # Errors
/// When `inner` cannot be read.
pub fn decode_any<'a>(mut inner: impl Read + Send + 'a) -> io::Result<(Compression, Box<dyn Read + Send + 'a>)> {
    let mut start = Vec::with_capacity(4);
    inner.by_ref().take(4).read_to_end(&mut start)?;
    let compression = Compression::of_magic(&start);
    Ok((compression, compression.decode(io::Cursor::new(start).chain(inner))?))
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use super::*;

    #[test]
    fn every_compression_is_seen_and_undone_also_in_several_parts() {
        let gzip = |text: &[u8]| {
            let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
            encoder.write_all(text).expect("memory");
            encoder.finish().expect("memory")
        };
        let two = |part: &dyn Fn(&[u8]) -> Vec<u8>| [part(b"one "), part(b"two")].concat();
        let zstd = |text: &[u8]| zstd::encode_all(text, 1).expect("memory");
        let skippable = [&[0x50, 0x2a, 0x4d, 0x18, 2, 0, 0, 0, 9, 9][..], &two(&zstd)].concat();
        for (bytes, expected) in [
            (b"one two".to_vec(), Compression::None),
            (two(&gzip), Compression::Gzip),
            (two(&zstd), Compression::Zstd),
            (skippable, Compression::Zstd),
        ] {
            let (compression, reader) = decode_any(&bytes[..]).expect("memory");
            assert_eq!(compression, expected);
            assert_eq!(io::read_to_string(reader).expect("decodes"), "one two");
        }
        assert_eq!(io::read_to_string(decode_any(&b""[..]).expect("memory").1).expect("empty"), "");
    }

    #[test]
    fn a_cut_stream_is_an_error() {
        let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
        encoder.write_all(&[7; 10_000]).expect("memory");
        let bytes = encoder.finish().expect("memory");
        let reader = decode_any(&bytes[..bytes.len() - 4]).expect("memory").1;
        assert!(io::read_to_string(reader).is_err());
    }
}
