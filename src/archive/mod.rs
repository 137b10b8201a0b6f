//! Archives of images as streams: OCI layouts, `docker save` archives, flattened file systems.
//!
//! Knows formats only; where blobs come from and go to is the caller's. Nothing in an archive is ever used as a path on
//! this machine.

mod compression;
mod error;
mod flatten;
mod members;
mod read;
mod tree;
mod write;

pub use compression::{Compression, decode_any};
pub use error::ArchiveError;
pub use flatten::flatten;
pub use members::{Member, Members};
pub use read::{ImageArchive, Links, Part};
pub use write::{CONTAINERD_NAME, DockerImage, LAYOUT_FILE, Named, Open, REF_NAME, layout_index, write_docker, write_oci};
