//! The program's face: words to settings, settings to work, results to standard output, errors to exit codes.

pub mod args;
pub mod argv;
pub mod exit;
pub mod settings;
