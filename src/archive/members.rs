//! The members of a tar stream, with bounded memory whatever the stream claims.
//!
//! Reads what Go's and GNU's tar write: ustar, base-256 numbers, GNU long names, pax records. Sparse members are refused by
//! name. Paths are only names here: nothing is opened or written by them.

use std::io::{self, Read};

use tar::{EntryType, Header};

use super::ArchiveError;

/// Longest name, and largest set of pax records, of one member; Linux allows paths of 4 KiB and attributes of 64 KiB.
const EXTENSION_LIMIT: u64 = 1 << 20;
const BLOCK: u64 = 512;

/// A tar stream. After [`Members::next_member`], reading yields the data of that member.
pub struct Members<R> {
    input: R,
    offset: u64,
    /// Of the current member: data bytes, and zeros after them, that were not read yet.
    data: u64,
    padding: u64,
    ended: bool,
}

/// A key and its value of a pax header.
pub type Record = (Vec<u8>, Vec<u8>);

/// One member; its data is read from the stream it came from.
#[derive(Clone, Debug)]
pub struct Member {
    /// Path as bytes, as written.
    pub path: Vec<u8>,
    /// What a link points to, as written; empty for others.
    pub link: Vec<u8>,
    /// What the member is.
    pub kind: EntryType,
    /// Bytes of data.
    pub size: u64,
    /// The header, for mode, owner, time and device numbers. Numbers in `records` override it.
    pub header: Box<Header>,
    /// Pax records except path, link path and size, in their order.
    pub records: Vec<Record>,
}

impl<R: Read> Members<R> {
    /// Wraps an uncompressed stream.
    pub fn new(input: R) -> Self {
        Self { input, offset: 0, data: 0, padding: 0, ended: false }
    }

    /// Goes to the next member, or returns `None` after the last. What was not read of the current one is skipped.
    ///
    /// # Errors
    /// When the stream is cut off, no tar, or too large where it must be small.
    pub fn next_member(&mut self) -> Result<Option<Member>, ArchiveError> {
        let (mut long_path, mut long_link, mut records) = (None, None, Vec::new());
        loop {
            let Some(header) = self.next_header()? else { return Ok(None) };
            match header.entry_type() {
                EntryType::GNULongName => long_path = Some(without_nul(self.extension(&header)?)),
                EntryType::GNULongLink => long_link = Some(without_nul(self.extension(&header)?)),
                EntryType::XHeader => records = self.records(&header)?,
                // Applies to all later members, and is only used for comments, such as git's commit.
                EntryType::XGlobalHeader => drop(self.extension(&header)?),
                _ => return self.member(header, long_path, long_link, records).map(Some),
            }
        }
    }

    fn member(
        &mut self,
        header: Box<Header>,
        long_path: Option<Vec<u8>>,
        long_link: Option<Vec<u8>>,
        records: Vec<Record>,
    ) -> Result<Member, ArchiveError> {
        let mut path = long_path.unwrap_or_else(|| header.path_bytes().into_owned());
        let mut link = long_link.unwrap_or_else(|| header.link_name_bytes().unwrap_or_default().into_owned());
        let mut size = self.size(&header)?;
        let mut kept = Vec::new();
        for (key, value) in records {
            match &key[..] {
                b"path" => path = value,
                b"linkpath" => link = value,
                b"size" => size = decimal(&value).ok_or_else(|| self.malformed("a size that is no number"))?,
                key if key.starts_with(b"GNU.sparse.") => return Err(refused(&path, "it is sparse")),
                _ => kept.push((key, value)),
            }
        }
        let kind = match header.entry_type() {
            EntryType::GNUSparse => return Err(refused(&path, "it is sparse")),
            // Before there were types, a name with a slash at its end was a directory.
            EntryType::Regular if header.as_bytes()[156] == 0 && path.ends_with(b"/") => EntryType::Directory,
            kind => kind,
        };
        // Go and GNU agree that these have no data even when a size is written.
        let has_data = !matches!(
            kind,
            EntryType::Link | EntryType::Symlink | EntryType::Char | EntryType::Block | EntryType::Directory | EntryType::Fifo
        );
        self.begin_data(if has_data { size } else { 0 });
        Ok(Member { path, link, kind, size: self.data, header, records: kept })
    }

    fn next_header(&mut self) -> Result<Option<Box<Header>>, ArchiveError> {
        self.skip_data()?;
        if self.ended {
            return Ok(None);
        }
        let mut header = Box::new(Header::new_old());
        let count = self.fill(header.as_mut_bytes())?;
        // Go's reader takes the end of the stream for the end of the archive as well.
        if count == 0 || (count as u64 == BLOCK && header.as_bytes().iter().all(|b| *b == 0)) {
            self.ended = true;
            return Ok(None);
        }
        if (count as u64) < BLOCK {
            return Err(self.truncated("a header"));
        }
        if !checksum_fits(&header) {
            self.offset -= BLOCK;
            return Err(self.malformed("there is no header with a right checksum"));
        }
        Ok(Some(header))
    }

    fn extension(&mut self, header: &Header) -> Result<Vec<u8>, ArchiveError> {
        let size = self.size(header)?;
        if size > EXTENSION_LIMIT {
            return Err(ArchiveError::TooLarge { part: "a header".to_owned(), limit: EXTENSION_LIMIT });
        }
        self.begin_data(size);
        let mut bytes = Vec::new();
        self.read_to_end(&mut bytes).map_err(|error| self.explain(error, "a header"))?;
        Ok(bytes)
    }

    fn records(&mut self, header: &Header) -> Result<Vec<Record>, ArchiveError> {
        let bytes = self.extension(header)?;
        let mut rest = &bytes[..];
        let mut records = Vec::new();
        // POSIX pax: "%d %s=%s\n", the length counting itself.
        while !rest.is_empty() {
            let record = rest.iter().position(|b| *b == b' ').and_then(|space| {
                let length = usize::try_from(decimal(&rest[..space])?).ok()?;
                let record = rest.get(space + 1..length)?.strip_suffix(b"\n")?;
                let equals = record.iter().position(|b| *b == b'=')?;
                Some((length, record[..equals].to_vec(), record[equals + 1..].to_vec()))
            });
            let Some((length, key, value)) = record else { return Err(self.malformed("pax records that cannot be read")) };
            records.push((key, value));
            rest = &rest[length..];
        }
        Ok(records)
    }

    fn begin_data(&mut self, size: u64) {
        self.data = size;
        self.padding = size.wrapping_neg() % BLOCK;
    }

    fn skip_data(&mut self) -> Result<(), ArchiveError> {
        let wanted = self.data.saturating_add(self.padding);
        let skipped = io::copy(&mut self.input.by_ref().take(wanted), &mut io::sink()).map_err(ArchiveError::io("read"))?;
        self.offset += skipped;
        // Some writers leave out the zeros after the last member's data.
        if skipped < self.data {
            return Err(self.truncated("a member"));
        }
        (self.data, self.padding) = (0, 0);
        Ok(())
    }

    fn fill(&mut self, buffer: &mut [u8]) -> Result<usize, ArchiveError> {
        let mut count = 0;
        while count < buffer.len() {
            match self.input.read(&mut buffer[count..]) {
                Ok(0) => break,
                Ok(more) => count += more,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(source) => return Err(ArchiveError::Io { action: "read", source }),
            }
        }
        self.offset += count as u64;
        Ok(count)
    }

    /// Reads what is left of the stream, so that a decompressor checks its last sum and a writer to a pipe can finish.
    ///
    /// # Errors
    /// When the stream cannot be read.
    pub fn finish(mut self) -> Result<(), ArchiveError> {
        io::copy(&mut self.input, &mut io::sink()).map(drop).map_err(ArchiveError::io("read"))
    }

    /// Returns `error`, from reading the data of a member, in the words of this module.
    pub fn explain(&self, source: io::Error, part: &str) -> ArchiveError {
        match source.kind() {
            io::ErrorKind::UnexpectedEof => self.truncated(part),
            _ => ArchiveError::Io { action: "read", source },
        }
    }

    fn size(&self, header: &Header) -> Result<u64, ArchiveError> {
        // Links and directories often leave the field empty.
        let empty = header.as_bytes()[124..136].iter().all(|b| matches!(b, 0 | b' '));
        if empty { Ok(0) } else { header.entry_size().map_err(|_| self.malformed("a size that is no number")) }
    }

    fn malformed(&self, reason: &'static str) -> ArchiveError {
        ArchiveError::Malformed { offset: self.offset, reason }
    }

    fn truncated(&self, part: &str) -> ArchiveError {
        ArchiveError::Truncated { offset: self.offset, part: part.to_owned() }
    }
}

impl<R: Read> Read for Members<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let most = buffer.len().min(usize::try_from(self.data).unwrap_or(usize::MAX));
        if most == 0 {
            return Ok(0);
        }
        let count = self.input.read(&mut buffer[..most])?;
        if count == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        self.data -= count as u64;
        self.offset += count as u64;
        Ok(count)
    }
}

fn refused(path: &[u8], reason: &'static str) -> ArchiveError {
    ArchiveError::Refused { path: shown(path), reason }
}

/// Returns a path for a message: without control characters, and not longer than a line.
pub(super) fn shown(path: &[u8]) -> String {
    let text: String =
        String::from_utf8_lossy(path).chars().map(|c| if c.is_control() { '\u{fffd}' } else { c }).take(200).collect();
    if path.len() > 200 { format!("{text}…") } else { text }
}

fn without_nul(mut bytes: Vec<u8>) -> Vec<u8> {
    if let Some(end) = bytes.iter().position(|b| *b == 0) {
        bytes.truncate(end);
    }
    bytes
}

fn decimal(text: &[u8]) -> Option<u64> {
    let digits = text.iter().all(u8::is_ascii_digit);
    std::str::from_utf8(text).ok().filter(|_| digits)?.parse().ok()
}

fn checksum_fits(header: &Header) -> bool {
    let bytes = header.as_bytes();
    let counted = |n: usize, byte: u8| if (148..156).contains(&n) { b' ' } else { byte };
    let unsigned: u32 = bytes.iter().enumerate().map(|(n, byte)| u32::from(counted(n, *byte))).sum();
    // Old Sun tars summed signed bytes.
    let signed: i32 = bytes.iter().enumerate().map(|(n, byte)| i32::from(counted(n, *byte) as i8)).sum();
    header.cksum().is_ok_and(|written| written == unsigned || i64::from(written) == i64::from(signed))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn all(bytes: &[u8]) -> Result<Vec<Record>, ArchiveError> {
        let mut members = Members::new(bytes);
        let mut found = Vec::new();
        while let Some(member) = members.next_member()? {
            let mut data = Vec::new();
            members.read_to_end(&mut data).map_err(|error| members.explain(error, "a member"))?;
            found.push((member.path, data));
        }
        Ok(found)
    }

    fn tar_of(parts: &[(&str, &[u8])]) -> Vec<u8> {
        let mut builder = tar::Builder::new(Vec::new());
        for (path, data) in parts {
            let mut header = Header::new_gnu();
            header.set_size(data.len() as u64);
            builder.append_data(&mut header, path, *data).expect("memory");
        }
        builder.into_inner().expect("memory")
    }

    #[test]
    fn names_of_every_length_and_data_of_every_size_are_read() {
        let long = "d/".repeat(300) + "file";
        let parts: [(&str, &[u8]); 4] = [("a", b""), ("b", &[1; 512]), (&long, &[2; 513]), ("c", b"x")];
        let expected: Vec<_> = parts.iter().map(|(path, data)| (path.as_bytes().to_vec(), data.to_vec())).collect();
        assert_eq!(all(&tar_of(&parts)).expect("reads"), expected);
    }

    #[test]
    fn pax_records_override_names_and_sizes() {
        let mut builder = tar::Builder::new(Vec::new());
        builder.append_pax_extensions([("path", &b"new"[..]), ("SCHILY.xattr.user.a", b"v\n=")]).expect("memory");
        let mut header = Header::new_ustar();
        header.set_size(3);
        builder.append_data(&mut header, "old", &b"abc"[..]).expect("memory");
        let bytes = builder.into_inner().expect("memory");
        let mut members = Members::new(&bytes[..]);
        let member = members.next_member().expect("reads").expect("one");
        assert_eq!(member.path, b"new");
        assert_eq!(member.records, [(b"SCHILY.xattr.user.a".to_vec(), b"v\n=".to_vec())]);
    }

    #[test]
    fn every_cut_of_an_archive_is_an_error_or_a_shorter_archive() {
        let bytes = tar_of(&[("a", &[1; 700]), ("b", b"x")]);
        for cut in 0..bytes.len() {
            match all(&bytes[..cut]) {
                // Between members, and within the padding after the data, nothing is lost.
                Ok(found) => assert!(found.iter().all(|(path, data)| data.len() == if path == b"a" { 700 } else { 1 }), "{cut}"),
                Err(ArchiveError::Truncated { .. }) => {}
                Err(error) => panic!("{cut}: {error}"),
            }
        }
    }

    #[test]
    fn a_claimed_size_costs_no_memory() {
        for kind in [EntryType::GNULongName, EntryType::XHeader] {
            let mut header = Header::new_gnu();
            header.set_entry_type(kind);
            header.set_size(1 << 60);
            header.set_cksum();
            assert!(matches!(all(header.as_bytes()), Err(ArchiveError::TooLarge { .. })));
        }
        let mut header = Header::new_gnu();
        header.set_size(u64::MAX);
        header.set_cksum();
        assert!(matches!(all(header.as_bytes()), Err(ArchiveError::Truncated { .. })));
    }

    #[test]
    fn what_is_no_tar_is_said_to_be_none() {
        assert!(matches!(all(&[b'x'; 2000]), Err(ArchiveError::Malformed { offset: 0, .. })));
        assert!(matches!(all(b"short"), Err(ArchiveError::Truncated { .. })));
        assert_eq!(all(b"").expect("empty"), []);
    }
}
