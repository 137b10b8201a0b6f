//! The `pkgbuild` program.

fn main() {}
