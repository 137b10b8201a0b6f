//! The `pkgbuild` program.

use std::process::ExitCode;

fn main() -> ExitCode {
    // Before anything else: the supervisor of a step is this program, started again.
    if let Some(exit) = pkgbuild::builder::embedded::sandbox::init_if_asked() {
        return exit;
    }
    pkgbuild::registry::install_tls_provider();
    pkgbuild::cli::run(std::env::args_os())
}
