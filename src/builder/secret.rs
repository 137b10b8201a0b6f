//! Bytes that nobody is to see: kept in pages of their own, which are not swapped, not dumped, and wiped when dropped.

use std::fmt;
use std::io::{self, Read};
use std::ptr::NonNull;
use std::sync::Arc;

/// A secret's value. Cheap to clone; never printed. The default is empty.
#[derive(Clone, Default)]
pub struct Secret(Option<Arc<Pages>>);

/// Most bytes of a secret: BuildKit's limit.
pub const SECRET_LIMIT: u64 = 500 << 10;

/// Anonymous memory of this process.
struct Pages {
    start: NonNull<u8>,
    /// How many bytes are the secret's.
    length: usize,
}

// SAFETY: the pages belong to this value alone and are not written once they are shared.
unsafe impl Send for Pages {}
// SAFETY: as above.
unsafe impl Sync for Pages {}

impl Secret {
    /// Reads exactly `length` bytes.
    ///
    /// # Errors
    /// When there are fewer, or no memory.
    pub fn read(mut from: impl Read, length: usize) -> io::Result<Self> {
        let Some(mut pages) = Pages::new(length)? else { return Ok(Self(None)) };
        from.read_exact(pages.bytes_mut())?;
        Ok(Self(Some(Arc::new(pages))))
    }

    /// Copies `bytes`.
    ///
    /// # Errors
    /// When there is no memory.
    pub fn copy(bytes: &[u8]) -> io::Result<Self> {
        Self::read(bytes, bytes.len())
    }

    /// Returns the value.
    pub fn bytes(&self) -> &[u8] {
        self.0.as_ref().map_or(&[], |pages| pages.bytes())
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Secret")
    }
}

impl PartialEq for Secret {
    fn eq(&self, other: &Self) -> bool {
        self.bytes() == other.bytes()
    }
}

impl Eq for Secret {}

impl Pages {
    fn new(length: usize) -> io::Result<Option<Self>> {
        if length == 0 {
            return Ok(None);
        }
        let (protection, flags) = (libc::PROT_READ | libc::PROT_WRITE, libc::MAP_PRIVATE | libc::MAP_ANONYMOUS);
        // SAFETY: asks for new memory at an address of the kernel's choice.
        let start = unsafe { libc::mmap(std::ptr::null_mut(), length, protection, flags, -1, 0) };
        if start == libc::MAP_FAILED {
            return Err(io::Error::last_os_error());
        }
        // Without the right to lock, or above the limit, the secret can be swapped: what swap does is up to the machine.
        // SAFETY: both calls are about the memory just made.
        unsafe {
            libc::mlock(start, length);
            libc::madvise(start, length, libc::MADV_DONTDUMP);
        }
        Ok(Some(Self { start: NonNull::new(start.cast()).expect("a mapping that succeeded has an address"), length }))
    }

    fn bytes(&self) -> &[u8] {
        // SAFETY: the mapping has this length, is initialised by the kernel and lives as long as `self`.
        unsafe { std::slice::from_raw_parts(self.start.as_ptr(), self.length) }
    }

    fn bytes_mut(&mut self) -> &mut [u8] {
        // SAFETY: as in `bytes`; nobody else has a reference.
        unsafe { std::slice::from_raw_parts_mut(self.start.as_ptr(), self.length) }
    }
}

impl Drop for Pages {
    fn drop(&mut self) {
        // The kernel clears pages before anybody else gets them; until then they hold nothing, either.
        // SAFETY: the mapping is ours, and nobody has a reference any more.
        unsafe {
            std::ptr::write_bytes(self.start.as_ptr(), 0, self.length);
            libc::munmap(self.start.as_ptr().cast(), self.length);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_secret_is_never_printed() {
        let secret = Secret::copy(b"hunter2-hunter2").expect("memory");
        assert_eq!(secret.bytes(), b"hunter2-hunter2");
        assert_eq!(format!("{secret:?} {:#?}", [&secret]), "Secret [\n    Secret,\n]");
        assert_eq!(Secret::default().bytes(), b"");
    }

    #[test]
    fn a_secret_is_locked_in_memory_and_left_out_of_dumps() {
        let secret = Secret::copy(&[b'x'; 5000]).expect("memory");
        let maps = std::fs::read_to_string("/proc/self/smaps").expect("proc");
        let start = format!("{:x}-", secret.bytes().as_ptr() as usize);
        let mapping = maps.split_once(&start).expect("the mapping is of its own").1;
        let flags = mapping.lines().find(|line| line.starts_with("VmFlags")).expect("flags");
        assert!(flags.contains(" lo") && flags.contains(" dd"), "{flags}");
    }
}
