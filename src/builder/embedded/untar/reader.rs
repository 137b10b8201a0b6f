//! Reading tar: v7, ustar, pax and GNU, with long names, numbers in base 256 and all sparse forms.
//!
//! Follows Go's `archive/tar` where writers disagree, because that is what image layers are made with. All sizes that
//! come from the archive are bounded before memory is taken for them.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{self, Read, Seek, SeekFrom, Write};

use super::UntarError;

const BLOCK: usize = 512;
/// Largest pax header, long name or sparse map that is read.
const EXTENSION_LIMIT: u64 = 1 << 20;

/// One member of an archive.
#[derive(Debug)]
pub(super) struct Member {
    pub(super) path: Vec<u8>,
    pub(super) kind: MemberKind,
    pub(super) mode: u32,
    pub(super) uid: u32,
    pub(super) gid: u32,
    pub(super) mtime: i64,
    pub(super) xattrs: BTreeMap<Vec<u8>, Vec<u8>>,
}

#[derive(Debug)]
pub(super) enum MemberKind {
    /// Its data is read with [`Reader::copy_data`] before the next member.
    File {
        size: u64,
        /// Where the stored data belongs, when there are holes: (offset, length).
        pieces: Option<Vec<(u64, u64)>>,
    },
    HardLink(Vec<u8>),
    Symlink(Vec<u8>),
    CharDevice(u32, u32),
    BlockDevice(u32, u32),
    Directory,
    Fifo,
}

/// Reads the members of an archive in order.
pub(super) struct Reader<R> {
    inner: R,
    /// Bytes of the current member's data that are still to be read, and the padding after them.
    left: u64,
    padding: u64,
}

/// Keys and values of pax headers, in order.
type Records = Vec<(Vec<u8>, Vec<u8>)>;

/// What headers before a member's own say about it.
#[derive(Default)]
struct Extensions {
    long_name: Option<Vec<u8>>,
    long_target: Option<Vec<u8>>,
    /// In order: the oldest sparse form repeats keys.
    pax: Records,
}

impl Extensions {
    fn get(&self, key: &[u8]) -> Option<&[u8]> {
        // An empty value takes back what was said before.
        self.pax.iter().rev().find(|(other, _)| other == key).map(|(_, value)| &value[..]).filter(|value| !value.is_empty())
    }

    fn number(&self, key: &[u8]) -> Result<Option<u64>, UntarError> {
        self.get(key).map(|value| decimal(value).ok_or(UntarError::Malformed("a pax number"))).transpose()
    }
}

impl<R: Read> Reader<R> {
    pub(super) fn new(inner: R) -> Self {
        Self { inner, left: 0, padding: 0 }
    }

    /// Returns the next member, or `None` at the end of the archive.
    pub(super) fn next(&mut self) -> Result<Option<Member>, UntarError> {
        let mut extensions = Extensions::default();
        loop {
            self.skip_data()?;
            let Some(block) = self.block()? else { return Ok(None) };
            if block == [0; BLOCK] {
                return Ok(None);
            }
            let header = Header(&block);
            header.check()?;
            self.announce(header.size()?);
            match header.kind() {
                b'x' => extensions.pax = pax_records(&self.extension()?)?,
                // Global headers say nothing that an image layer could mean.
                b'g' | b'V' => {}
                b'L' => extensions.long_name = Some(until_nul(&self.extension()?).to_vec()),
                b'K' => extensions.long_target = Some(until_nul(&self.extension()?).to_vec()),
                _ => return self.member(&header, &extensions).map(Some),
            }
        }
    }

    fn announce(&mut self, size: u64) {
        self.left = size;
        self.padding = size.wrapping_neg() % BLOCK as u64;
    }

    fn member(&mut self, header: &Header<'_>, extensions: &Extensions) -> Result<Member, UntarError> {
        let pax_id = |key: &[u8], plain: u64| -> Result<u32, UntarError> {
            u32::try_from(extensions.number(key)?.unwrap_or(plain)).map_err(|_| UntarError::Malformed("an owner"))
        };
        let path = [extensions.get(b"GNU.sparse.name"), extensions.get(b"path"), extensions.long_name.as_deref()];
        let path = path.into_iter().flatten().next().map_or_else(|| header.path(), <[u8]>::to_vec);
        let target = [extensions.get(b"linkpath"), extensions.long_target.as_deref()];
        let target = target.into_iter().flatten().next().map_or_else(|| header.text(157, 100).to_vec(), <[u8]>::to_vec);
        if path.contains(&0) || target.contains(&0) {
            return Err(UntarError::Malformed("a name with a NUL byte"));
        }
        let mtime = match extensions.get(b"mtime") {
            Some(value) => seconds(value).ok_or(UntarError::Malformed("a time"))?,
            None => header.signed(136, 12)?,
        };
        if let Some(size) = extensions.number(b"size")? {
            self.announce(size);
        }
        let kind = self.kind(header, extensions, &path, target)?;
        if !matches!(kind, MemberKind::File { .. }) {
            // A size in such a header is about the file, and no data follows.
            self.announce(0);
        }
        let prefix = b"SCHILY.xattr.";
        let xattrs = extensions.pax.iter().filter_map(|(key, value)| Some((key.strip_prefix(prefix)?.to_vec(), value.clone())));
        Ok(Member {
            path,
            kind,
            mode: (header.number(100, 8)? & 0o7777) as u32,
            uid: pax_id(b"uid", header.number(108, 8)?)?,
            gid: pax_id(b"gid", header.number(116, 8)?)?,
            mtime: mtime.max(0),
            xattrs: xattrs.collect(),
        })
    }

    fn kind(
        &mut self,
        header: &Header<'_>,
        extensions: &Extensions,
        path: &[u8],
        target: Vec<u8>,
    ) -> Result<MemberKind, UntarError> {
        let device = |at: usize| -> Result<u32, UntarError> {
            u32::try_from(header.number(at, 8)?).map_err(|_| UntarError::Malformed("a device number"))
        };
        Ok(match header.kind() {
            0 if path.ends_with(b"/") => MemberKind::Directory,
            0 | b'0' | b'7' => self.regular(extensions)?,
            b'S' => self.old_sparse(header)?,
            b'1' => MemberKind::HardLink(target),
            b'2' => MemberKind::Symlink(target),
            b'3' => MemberKind::CharDevice(device(329)?, device(337)?),
            b'4' => MemberKind::BlockDevice(device(329)?, device(337)?),
            b'5' => MemberKind::Directory,
            b'6' => MemberKind::Fifo,
            other => return Err(UntarError::UnknownType(other)),
        })
    }

    /// Returns a file, sparse in one of the pax forms 0.0, 0.1 and 1.0 or not at all.
    fn regular(&mut self, extensions: &Extensions) -> Result<MemberKind, UntarError> {
        let major = extensions.get(b"GNU.sparse.major");
        let (size, numbers) = if major == Some(b"1") {
            let size = extensions.number(b"GNU.sparse.realsize")?.ok_or(BAD_MAP)?;
            (size, self.map_before_data()?)
        } else if let Some(map) = extensions.get(b"GNU.sparse.map") {
            let numbers = map.split(|byte| *byte == b',').map(decimal).collect::<Option<_>>().ok_or(BAD_MAP)?;
            (extensions.number(b"GNU.sparse.size")?.ok_or(BAD_MAP)?, numbers)
        } else if extensions.get(b"GNU.sparse.numblocks").is_some() {
            let keys = [&b"GNU.sparse.offset"[..], b"GNU.sparse.numbytes"];
            let values = extensions.pax.iter().filter(|(key, _)| keys.contains(&&key[..]));
            let numbers = values.map(|(_, value)| decimal(value)).collect::<Option<_>>().ok_or(BAD_MAP)?;
            (extensions.number(b"GNU.sparse.size")?.ok_or(BAD_MAP)?, numbers)
        } else {
            return Ok(MemberKind::File { size: self.left, pieces: None });
        };
        self.sparse(size, &numbers)
    }

    /// Reads the map that form 1.0 has in front of the data: a count, then pairs, one number a line, padded to a block.
    fn map_before_data(&mut self) -> Result<Vec<u64>, UntarError> {
        let (mut numbers, mut wanted): (Vec<u64>, Option<u64>) = (Vec::new(), None);
        let mut line = Vec::new();
        while wanted.is_none_or(|wanted| (numbers.len() as u64) < wanted) {
            let block = self.data_block()?;
            for byte in block {
                if byte != b'\n' {
                    line.push(byte);
                    continue;
                }
                if wanted.is_some_and(|wanted| numbers.len() as u64 >= wanted) {
                    break;
                }
                let number = decimal(&line).ok_or(BAD_MAP)?;
                line.clear();
                match wanted {
                    None if number > EXTENSION_LIMIT => return Err(BAD_MAP),
                    None => wanted = Some(number * 2),
                    Some(_) => numbers.push(number),
                }
            }
            if line.len() > 20 && wanted.is_none_or(|wanted| (numbers.len() as u64) < wanted) {
                return Err(BAD_MAP);
            }
        }
        Ok(numbers)
    }

    fn data_block(&mut self) -> Result<[u8; BLOCK], UntarError> {
        self.left = self.left.checked_sub(BLOCK as u64).ok_or(BAD_MAP)?;
        self.block()?.ok_or(BAD_MAP)
    }

    /// Reads the map of the old GNU form: four pairs in the header, more in blocks after it.
    fn old_sparse(&mut self, header: &Header<'_>) -> Result<MemberKind, UntarError> {
        let mut numbers = Vec::new();
        let size = header.number(483, 12)?;
        let mut pairs = |block: &Header<'_>, at: usize, count: usize| -> Result<(), UntarError> {
            for at in (at..).step_by(12).take(count * 2) {
                if block.0[at] == 0 {
                    break;
                }
                numbers.push(block.number(at, 12)?);
            }
            if numbers.len() as u64 > EXTENSION_LIMIT { Err(BAD_MAP) } else { Ok(()) }
        };
        pairs(header, 386, 4)?;
        let mut more = header.0[482] != 0;
        while more {
            let block = self.block()?.ok_or(BAD_MAP)?;
            pairs(&Header(&block), 0, 21)?;
            more = block[504] != 0;
        }
        self.sparse(size, &numbers)
    }

    /// Checks that the pieces of a sparse file follow each other, lie within it, and are all of the stored data.
    fn sparse(&self, size: u64, numbers: &[u64]) -> Result<MemberKind, UntarError> {
        let (pairs, rest) = numbers.as_chunks::<2>();
        let (mut end, mut stored) = (0, 0);
        for [offset, length] in pairs {
            if *offset < end {
                return Err(BAD_MAP);
            }
            end = offset.checked_add(*length).ok_or(BAD_MAP)?;
            stored += length;
        }
        if !rest.is_empty() || end > size || stored != self.left {
            return Err(BAD_MAP);
        }
        Ok(MemberKind::File { size, pieces: Some(pairs.iter().map(|[offset, length]| (*offset, *length)).collect()) })
    }

    /// Writes the data of the current member, leaving holes where it has some.
    pub(super) fn copy_data(&mut self, size: u64, pieces: Option<&[(u64, u64)]>, mut target: &File) -> io::Result<()> {
        let Some(pieces) = pieces else { return self.copy_piece(size, &mut target) };
        for (offset, length) in pieces {
            target.seek(SeekFrom::Start(*offset))?;
            self.copy_piece(*length, &mut target)?;
        }
        target.set_len(size)
    }

    fn copy_piece(&mut self, length: u64, target: &mut impl Write) -> io::Result<()> {
        let copied = io::copy(&mut (&mut self.inner).take(length), target)?;
        self.left = self.left.saturating_sub(copied);
        if copied == length { Ok(()) } else { Err(io::ErrorKind::UnexpectedEof.into()) }
    }

    fn skip_data(&mut self) -> Result<(), UntarError> {
        let rest = self.left.checked_add(self.padding).ok_or(UntarError::Malformed("a size"))?;
        let skipped = io::copy(&mut (&mut self.inner).take(rest), &mut io::sink())?;
        // The padding of the last member may be missing where the end of the archive is, too.
        if skipped < self.left {
            return Err(io::Error::from(io::ErrorKind::UnexpectedEof).into());
        }
        (self.left, self.padding) = (0, 0);
        Ok(())
    }

    fn extension(&mut self) -> Result<Vec<u8>, UntarError> {
        if self.left > EXTENSION_LIMIT {
            return Err(UntarError::TooLarge("a pax header or long name"));
        }
        let mut bytes = Vec::with_capacity(self.left as usize);
        self.copy_piece(self.left, &mut bytes)?;
        Ok(bytes)
    }

    /// Reads a block, or returns `None` when the archive ends before it.
    fn block(&mut self) -> Result<Option<[u8; BLOCK]>, UntarError> {
        let mut block = [0; BLOCK];
        let mut filled = 0;
        while filled < BLOCK {
            match self.inner.read(&mut block[filled..]) {
                Ok(0) if filled == 0 => return Ok(None),
                Ok(0) => return Err(io::Error::from(io::ErrorKind::UnexpectedEof).into()),
                Ok(count) => filled += count,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error.into()),
            }
        }
        Ok(Some(block))
    }
}

const BAD_MAP: UntarError = UntarError::Malformed("a sparse map");

struct Header<'a>(&'a [u8; BLOCK]);

impl Header<'_> {
    fn check(&self) -> Result<(), UntarError> {
        let stored = self.number(148, 8).map_err(|_| UntarError::Malformed("a header"))?;
        let counted = |index: usize| if (148..156).contains(&index) { b' ' } else { self.0[index] };
        let unsigned: u64 = (0..BLOCK).map(|index| u64::from(counted(index))).sum();
        // Some old writers added the bytes as signed numbers.
        let signed: i64 = (0..BLOCK).map(|index| i64::from(counted(index) as i8)).sum();
        if stored == unsigned || i64::try_from(stored) == Ok(signed) { Ok(()) } else { Err(UntarError::Malformed("a header")) }
    }

    fn kind(&self) -> u8 {
        self.0[156]
    }

    fn text(&self, at: usize, length: usize) -> &[u8] {
        until_nul(&self.0[at..at + length])
    }

    fn size(&self) -> Result<u64, UntarError> {
        self.number(124, 12)
    }

    fn path(&self) -> Vec<u8> {
        let name = self.text(0, 100);
        let prefix = match (&self.0[257..265], &self.0[508..512]) {
            (b"ustar\x0000", b"tar\0") => self.text(345, 131),
            (b"ustar\x0000", _) => self.text(345, 155),
            _ => b"",
        };
        if prefix.is_empty() { name.to_vec() } else { [prefix, b"/", name].concat() }
    }

    fn number(&self, at: usize, length: usize) -> Result<u64, UntarError> {
        u64::try_from(self.signed(at, length)?).map_err(|_| UntarError::Malformed("a negative number"))
    }

    /// Reads octal digits with blanks or NULs around them, or, after a first bit of 1, a number in base 256.
    fn signed(&self, at: usize, length: usize) -> Result<i64, UntarError> {
        let field = &self.0[at..at + length];
        let wrong = UntarError::Malformed("a number");
        if field[0] & 0x80 != 0 {
            let negative = field[0] & 0x40 != 0;
            let first = if negative { i128::from(field[0] as i8) } else { i128::from(field[0] & 0x7f) };
            let value = field[1..].iter().try_fold(first, |value, byte| {
                let value = value * 256 + i128::from(*byte);
                (value.unsigned_abs() <= u128::from(u64::MAX)).then_some(value)
            });
            return value.and_then(|value| i64::try_from(value).ok()).ok_or(wrong);
        }
        let digits = field.trim_ascii_start();
        let digits = until_nul(digits).trim_ascii();
        if digits.is_empty() {
            return Ok(0);
        }
        let text = std::str::from_utf8(digits).map_err(|_| UntarError::Malformed("a number"))?;
        i64::from_str_radix(text, 8).map_err(|_| wrong)
    }
}

fn until_nul(field: &[u8]) -> &[u8] {
    &field[..field.iter().position(|byte| *byte == 0).unwrap_or(field.len())]
}

fn decimal(text: &[u8]) -> Option<u64> {
    if text.is_empty() || !text.iter().all(u8::is_ascii_digit) {
        return None;
    }
    std::str::from_utf8(text).ok()?.parse().ok().filter(|number| *number <= i64::MAX as u64)
}

/// Reads whole seconds, rounded down, from a decimal number with an optional fraction.
fn seconds(text: &[u8]) -> Option<i64> {
    let text = std::str::from_utf8(text).ok()?;
    let (whole, fraction) = text.split_once('.').unwrap_or((text, ""));
    if !fraction.bytes().all(|byte| byte.is_ascii_digit()) {
        return None;
    }
    let value: i64 = whole.parse().ok()?;
    let below = whole.starts_with('-') && fraction.bytes().any(|byte| byte != b'0');
    Some(if below { value.saturating_sub(1) } else { value })
}

/// Reads the records of a pax header: `length key=value\n`, the length counting itself.
fn pax_records(mut text: &[u8]) -> Result<Records, UntarError> {
    let wrong = || UntarError::Malformed("a pax header");
    let mut records = Vec::new();
    while !text.is_empty() {
        let blank = text.iter().position(|byte| *byte == b' ').ok_or_else(wrong)?;
        let length = decimal(&text[..blank]).and_then(|length| usize::try_from(length).ok()).ok_or_else(wrong)?;
        let record = text.get(blank + 1..length).and_then(|record| record.strip_suffix(b"\n")).ok_or_else(wrong)?;
        let equals = record.iter().position(|byte| *byte == b'=').ok_or_else(wrong)?;
        records.push((record[..equals].to_vec(), record[equals + 1..].to_vec()));
        text = &text[length..];
    }
    Ok(records)
}
