//! The operating system behind narrow words: files that appear whole, locks, joins that stay inside a root, children.
//!
//! All `unsafe` code of the crate lives below this module and `builder::embedded::sandbox`.

pub mod directory;
pub mod fs;
pub mod process;
pub mod scratch;
