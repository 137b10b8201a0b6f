//! Which packages and platforms a command is about.

use std::path::PathBuf;

use clap::Args;

use super::values::parse_platform;
use crate::oci::Platform;

/// Which packages, and what differs from their build.yml.
#[derive(Args, Debug, Clone, Default)]
pub struct Selection {
    /// Directory, glob, or image name of a package [default: every package of the workspace]
    #[arg(value_name = "PKG")]
    pub packages: Vec<String>,
    #[command(flatten)]
    #[expect(missing_docs, reason = "clap takes the help of a flattened struct from this comment")]
    pub overrides: Overrides,
}

/// What differs from build.yml.
#[derive(Args, Debug, Clone, Default)]
#[command(next_help_heading = "Package options")]
pub struct Overrides {
    /// Name of the file that defines a package [default: build.yml]
    #[arg(long, value_name = "FILE")]
    pub build_yml: Option<String>,
    /// Organisation in image names
    #[arg(long, value_name = "ORG")]
    pub org: Option<String>,
    /// Template of the tag [default: {{.Hash}}]
    #[arg(long, value_name = "TEMPLATE")]
    pub tag: Option<String>,
    /// Use this in place of the hash of the files
    #[arg(long, value_name = "HASH")]
    pub hash: Option<String>,
    /// Hash the files of this commit
    #[arg(long, value_name = "COMMIT")]
    pub hash_commit: Option<String>,
    /// Hash this directory, which must hold the package
    #[arg(long, value_name = "DIR")]
    pub hash_path: Option<PathBuf>,
    /// Treat the files as changed
    #[arg(long)]
    pub force_dirty: bool,
    /// Build for yourself: organisation $USER, hash `dev`
    #[arg(long)]
    pub dev: bool,
    /// Give RUN steps a network
    #[arg(long, conflicts_with = "nonetwork")]
    pub network: bool,
    /// Give RUN steps no network
    #[arg(long)]
    pub nonetwork: bool,
    /// As `disable-cache: true` in build.yml: steps always run
    #[arg(long, conflicts_with = "enable_cache")]
    pub disable_cache: bool,
    /// As `disable-cache: false` in build.yml: steps that ran before need not run again
    #[arg(long)]
    pub enable_cache: bool,
    /// Set a build argument; it wins over build.yml (repeatable)
    #[arg(long, value_name = "KEY=VALUE")]
    pub build_arg: Vec<String>,
    /// Read build arguments from a file, KEY=VALUE a line (repeatable)
    #[arg(long, value_name = "FILE")]
    pub build_arg_file: Vec<PathBuf>,
    /// Name of the Dockerfile [default: Dockerfile]
    #[arg(long, value_name = "FILE")]
    pub dockerfile: Option<PathBuf>,
}

/// For which platforms.
#[derive(Args, Debug, Clone, Default)]
#[command(next_help_heading = "What to build")]
pub struct PlatformArgs {
    /// Only these, `os/arch[/variant]`; `local` is this machine's (repeatable, commas) [default: those of build.yml]
    #[arg(long = "platform", alias = "platforms", value_name = "LIST", value_delimiter = ',', value_parser = parse_platform)]
    pub platforms: Vec<Platform>,
    /// All but these (repeatable, commas)
    #[arg(long, value_name = "LIST", value_delimiter = ',', value_parser = parse_platform, conflicts_with = "platforms")]
    pub skip_platforms: Vec<Platform>,
}
