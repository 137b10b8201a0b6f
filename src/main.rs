//! The `pkgbuild` program.

use std::process::ExitCode;

fn main() -> ExitCode {
    pkgbuild::builder::embedded::sandbox::init_if_asked().unwrap_or(ExitCode::SUCCESS)
}
