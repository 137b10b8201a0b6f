//! Whole images between any two places: copying, and checking that every byte is what it is said to be.

mod copy;
mod validate;

pub use copy::{Copied, CopyOptions, Platforms, Progress, TransferError, copy, copy_named};
pub use validate::{Invalid, Valid, ValidateError, validate};

#[cfg(test)]
mod tests;
