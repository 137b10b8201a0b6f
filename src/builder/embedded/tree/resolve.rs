//! Finding what a path means when links are followed inside the root, as after `chroot`, without any file system.

use super::{Kind, Tree, join, split};

/// How many links one path may go through; the kernel's limit.
pub const LINKS_LIMIT: usize = 40;

/// A path that goes through too many symbolic links, most likely in a circle.
#[derive(Debug, thiserror::Error)]
#[error("`/{}` goes through more than {LINKS_LIMIT} symbolic links", String::from_utf8_lossy(.path))]
pub struct LoopError {
    /// The path.
    pub path: Vec<u8>,
}

impl Tree {
    /// Returns where `path` leads when every link is followed, the last component included.
    ///
    /// `..` and absolute link targets stay inside the root. What does not exist is taken as it is written, so a dangling
    /// link leads to the path that it names. The result has no links, no `.` and no `..` in it.
    ///
    /// # Errors
    /// [`LoopError`] when the path goes through more than [`LINKS_LIMIT`] links.
    pub fn resolve(&self, path: &[u8]) -> Result<Vec<u8>, LoopError> {
        let mut todo: Vec<Vec<u8>> = super::components(path).map(<[u8]>::to_vec).rev().collect();
        let mut real = Vec::new();
        let mut links = 0;
        while let Some(name) = todo.pop() {
            if name == b".." {
                real = split(&real).0.to_vec();
                continue;
            }
            let next = join(&real, &name);
            let Some(Kind::Symlink { target }) = self.get(&next).map(|entry| &entry.kind) else {
                real = next;
                continue;
            };
            links += 1;
            if links > LINKS_LIMIT {
                return Err(LoopError { path: path.to_vec() });
            }
            if target.starts_with(b"/") {
                real.clear();
            }
            todo.extend(super::components(target).map(<[u8]>::to_vec).rev());
        }
        Ok(real)
    }

    /// As [`Tree::resolve`], but the last component is not followed when it is a link.
    ///
    /// # Errors
    /// As [`Tree::resolve`].
    pub fn resolve_parent(&self, path: &[u8]) -> Result<Vec<u8>, LoopError> {
        let names: Vec<&[u8]> = super::components(path).collect();
        match names.split_last() {
            None => Ok(Vec::new()),
            Some((&b"..", _)) => self.resolve(path),
            Some((last, parent)) => Ok(join(&self.resolve(&parent.join(&b'/'))?, last)),
        }
    }
}
