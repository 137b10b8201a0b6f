//! Old holes of other builders, tried on this one. Each test is named for what went wrong elsewhere, does what was done there,
//! and looks at canaries outside: a file, a program that sets the user id, a directory, sockets, the environment.
//! docs/security.md has the table of all of them.

#[path = "../embedded/fixture.rs"]
#[expect(dead_code, reason = "shared with the tests of the builder, which use all of it")]
mod fixture;

mod bounds;
mod canaries;
mod files;
mod mounts;
mod steps;
