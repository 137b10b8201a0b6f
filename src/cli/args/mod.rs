//! The command line as types. What two flags cannot mean together is refused here, before anything is read.

mod build;
mod cache;
mod debug;
mod packages;
mod steps;
mod values;

use std::path::PathBuf;

use clap::{Arg, ArgAction, Args, Parser, Subcommand, ValueEnum};

use crate::oci::Tag;

pub use build::{AbsentArgs, BuildArgs, OnRegistryError, PlanArgs, PolicyArgs, VariationArgs};
pub use cache::{CacheArgs, CacheCommand, ExportArgs, GcArgs};
pub use debug::{DebugArgs, DebugCommand};
pub use packages::{Overrides, PlatformArgs, Selection};
pub use steps::{AgentArg, Permission, SecretArg, SecretSource, StepArgs};
pub(crate) use values::parse_size;

/// Builds a monorepo of container packages for many architectures.
#[derive(Parser, Debug, Clone)]
#[command(
    name = "pkgbuild",
    version,
    about = "Builds a monorepo of container packages for many architectures",
    max_term_width = 120,
    args_override_self = true,
    disable_help_subcommand = true,
    subcommand_required = true,
    arg_required_else_help = true,
    after_help = "Examples:\n  pkgbuild build                                   build every package of the workspace\n  pkgbuild build pkg/kernel --platform linux/arm64 build one package for one platform\n  pkgbuild push --release v1.2.0                   push everything, then name it v1.2.0\n  pkgbuild plan                                    say what would be done and why"
)]
pub struct CommandLine {
    /// Options of every command.
    #[command(flatten)]
    pub global: Global,
    /// What to do.
    #[command(subcommand)]
    pub command: Command,
}

/// Options of every command.
#[derive(Args, Debug, Clone, Default)]
#[command(next_help_heading = "Global options")]
pub struct Global {
    /// The cache directory [default: $XDG_CACHE_HOME/pkgbuild, else ~/.cache/pkgbuild]
    #[arg(long, global = true, value_name = "DIR")]
    pub cache: Option<PathBuf>,
    /// Act as if started in this directory
    #[arg(short = 'C', long, global = true, value_name = "DIR")]
    pub directory: Option<PathBuf>,
    /// The workspace file [default: pkgbuild.yml at the repository's root, if there is one]
    #[arg(long, global = true, value_name = "FILE")]
    pub config: Option<PathBuf>,
    /// How progress is shown
    #[arg(long, global = true, value_name = "STYLE", value_enum)]
    pub progress: Option<Progress>,
    /// Print results and errors only: no progress, no remarks
    #[arg(short, long, global = true)]
    pub quiet: bool,
    /// Say more; more often, even more
    #[arg(short, long, global = true, action = ArgAction::Count)]
    pub verbose: u8,
    /// When colours are used
    #[arg(long, global = true, value_name = "WHEN", value_enum)]
    pub color: Option<Color>,
    /// How many units, a package at a platform each, are worked on at once [default: one for each processor]
    #[arg(short, long, global = true, value_name = "N", value_parser = clap::value_parser!(u16).range(1..))]
    pub jobs: Option<u16>,
    /// Ask no registry
    #[arg(long, global = true)]
    pub offline: bool,
    /// Ask this address in place of a registry, or of all (repeatable)
    #[arg(long, global = true, value_name = "[REGISTRY=]URL")]
    pub mirror: Vec<String>,
    /// Trust the certificates in this PEM file, too (repeatable)
    #[arg(long, global = true, value_name = "FILE")]
    pub cert_file: Vec<PathBuf>,
    /// Speak plain HTTP to this registry (repeatable)
    #[arg(long, global = true, value_name = "REGISTRY")]
    pub insecure: Vec<String>,
    /// Read credentials from this file, of the form of Docker's config.json
    #[arg(long, global = true, value_name = "FILE")]
    pub registry_creds_file: Option<PathBuf>,
}

/// How progress is shown.
#[derive(ValueEnum, Debug, Clone, Copy, PartialEq, Eq)]
pub enum Progress {
    /// Bars on a terminal, else lines
    Auto,
    /// Bars
    Tty,
    /// Lines
    Plain,
    /// One JSON event a line
    #[value(alias = "rawjson")]
    Json,
    /// Nothing
    #[value(alias = "none")]
    Quiet,
}

/// When colours are used.
#[derive(ValueEnum, Debug, Clone, Copy, PartialEq, Eq)]
pub enum Color {
    /// On a terminal
    Auto,
    /// Always
    Always,
    /// Never
    Never,
}

/// What to do.
#[derive(Subcommand, Debug, Clone)]
pub enum Command {
    /// Pull or build what is missing, for each platform, and write the indexes into the cache
    Build(Box<BuildArgs>),
    /// Build what is missing and push it: `build --push`
    Push(Box<BuildArgs>),
    /// Say what `build` would do and why; changes nothing
    Plan(Box<PlanArgs>),
    /// Print the tag of each package
    #[command(mut_args(without_cache))]
    ShowTag(ShowTagArgs),
    /// Assemble a package's index from its per-architecture images in the registry, and push it
    #[command(visible_alias = "index", mut_args(without_cache))]
    Manifest(ManifestArgs),
    /// Put the same bytes under another name in the registry
    RemoteTag(RemoteTagArgs),
    /// Work with the local images
    Cache(CacheArgs),
    /// Look into RUN steps that failed and were kept: `build --keep-failed`
    Debug(DebugArgs),
    /// Show an image of the cache or a registry
    Inspect(InspectArgs),
    /// Find every mistake in build.yml and Dockerfile; builds nothing
    #[command(mut_args(without_steps))]
    Lint(LintArgs),
    /// Say whether and how this machine can build, and what would make it better
    Doctor(DoctorArgs),
    /// Show which package needs which
    #[command(mut_args(without_steps))]
    Graph(GraphArgs),
    /// Build twice under different conditions and say what is not the same
    VerifyRepro(VerifyReproArgs),
    /// Print a completion script
    Completion(CompletionArgs),
    /// Write man pages into a directory
    Man(ManArgs),
}

/// Hides what says how steps are kept, which means nothing to a command that runs none. linuxkit accepts it everywhere.
fn without_cache(argument: Arg) -> Arg {
    let hidden = ["disable_cache", "enable_cache"].contains(&argument.get_id().as_str());
    if hidden { argument.hide(true) } else { argument }
}

/// Hides all that is about steps, from commands whose results are the same whatever it says. Tags may depend on the network.
fn without_steps(argument: Arg) -> Arg {
    let hidden = ["network", "nonetwork"].contains(&argument.get_id().as_str());
    without_cache(if hidden { argument.hide(true) } else { argument })
}

/// Arguments of `show-tag`.
#[derive(Args, Debug, Clone, Default)]
pub struct ShowTagArgs {
    #[command(flatten)]
    #[expect(missing_docs, reason = "flattened")]
    pub selection: Selection,
    /// Print the registry, too
    #[arg(long)]
    pub canonical: bool,
}

/// Arguments of `manifest`.
#[derive(Args, Debug, Clone, Default)]
pub struct ManifestArgs {
    #[command(flatten)]
    #[expect(missing_docs, reason = "flattened")]
    pub selection: Selection,
    /// Name it this, too (repeatable)
    #[arg(long, value_name = "TAG")]
    pub release: Vec<Tag>,
    /// Let a release tag that exists name something else
    #[arg(long)]
    pub move_release: bool,
    /// Push the index even when a declared platform is missing
    #[arg(long)]
    pub allow_missing: bool,
}

/// Arguments of `remote-tag`.
#[derive(Args, Debug, Clone)]
pub struct RemoteTagArgs {
    /// What to name
    pub from: String,
    /// The new name
    pub to: String,
    /// Let a name that exists name something else
    #[arg(long)]
    pub force: bool,
}

/// Arguments of `inspect`.
#[derive(Args, Debug, Clone)]
pub struct InspectArgs {
    /// Name of the image
    pub image: String,
    /// Ask the registry even if the cache has it
    #[arg(long)]
    pub remote: bool,
    /// Print one JSON document
    #[arg(long)]
    pub json: bool,
}

/// Arguments of `lint`.
#[derive(Args, Debug, Clone, Default)]
pub struct LintArgs {
    #[command(flatten)]
    #[expect(missing_docs, reason = "flattened")]
    pub selection: Selection,
    /// Fail on warnings, too
    #[arg(long)]
    pub strict: bool,
    /// Print one JSON document
    #[arg(long)]
    pub json: bool,
}

/// Arguments of `verify-repro`.
#[derive(Args, Debug, Clone, Default)]
pub struct VerifyReproArgs {
    /// Directory, glob, or image name of a package [default: every package of the workspace]
    #[arg(value_name = "PKG")]
    pub packages: Vec<String>,
    #[command(flatten)]
    #[expect(missing_docs, reason = "flattened")]
    pub platforms: PlatformArgs,
    /// Print one JSON document
    #[arg(long)]
    pub json: bool,
    /// Further options of `build` for both builds, as in `-- --build-arg DEBUG=1`
    #[arg(last = true, value_name = "BUILD OPTIONS")]
    pub build_args: Vec<String>,
}

/// Arguments of `doctor`.
#[derive(Args, Debug, Clone, Default)]
pub struct DoctorArgs {
    /// Print one JSON document
    #[arg(long)]
    pub json: bool,
}

/// Arguments of `graph`.
#[derive(Args, Debug, Clone, Default)]
pub struct GraphArgs {
    #[command(flatten)]
    #[expect(missing_docs, reason = "flattened")]
    pub selection: Selection,
    /// Form of the output
    #[arg(long, value_enum, default_value = "text")]
    pub format: GraphFormat,
}

/// How `graph` prints.
#[derive(ValueEnum, Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum GraphFormat {
    /// For people
    #[default]
    Text,
    /// One JSON document
    Json,
    /// Graphviz
    Dot,
    /// Mermaid
    Mermaid,
    /// Rules for make
    Make,
}

/// Arguments of `completion`.
#[derive(Args, Debug, Clone)]
pub struct CompletionArgs {
    /// The shell
    #[arg(value_enum)]
    pub shell: clap_complete::Shell,
}

/// Arguments of `man`.
#[derive(Args, Debug, Clone)]
pub struct ManArgs {
    /// The directory; made when missing
    // Not called `directory`: that is the global option of this name.
    #[arg(value_name = "DIR")]
    pub pages: PathBuf,
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::*;

    #[test]
    fn the_definition_is_consistent() {
        CommandLine::command().debug_assert();
    }

    #[test]
    fn no_command_has_an_argument_of_a_global_options_name() {
        fn check(command: &clap::Command, globals: &[String]) {
            for argument in command.get_arguments().filter(|argument| !argument.is_global_set()) {
                assert!(!globals.contains(&argument.get_id().to_string()), "{} {}", command.get_name(), argument.get_id());
            }
            command.get_subcommands().for_each(|inner| check(inner, globals));
        }
        let command = CommandLine::command();
        let globals = command.get_arguments().filter(|argument| argument.is_global_set());
        let globals: Vec<String> = globals.map(|argument| argument.get_id().to_string()).collect();
        assert!(globals.len() > 10);
        check(&command, &globals);
    }

    #[test]
    fn what_cannot_be_meant_together_is_refused_by_the_parser() {
        for line in [
            "build --force --pull",
            "build --force --nobuild",
            "build --platforms linux/amd64 --skip-platforms linux/arm64",
            "build --network --nonetwork",
            "build --enable-cache --disable-cache",
            "build --keep-going --fail-fast",
            "build --platforms linux/",
            "build --platforms linux/foo",
            "build --skip-platforms foo",
            "build --jobs 0",
            "build --timeout x",
        ] {
            let words = std::iter::once("pkgbuild").chain(line.split(' '));
            assert!(CommandLine::try_parse_from(words).is_err(), "{line}");
        }
    }

    #[test]
    fn booleans_can_be_written_out() {
        let parse = |line: &str| match CommandLine::try_parse_from(line.split(' ')).expect(line).command {
            Command::Build(build) => build,
            other => panic!("{other:?}"),
        };
        assert!(parse("pkgbuild build").manifest);
        assert!(!parse("pkgbuild build --manifest=false").manifest);
        assert!(parse("pkgbuild build --force a").policy.force);
        let build = parse("pkgbuild build --platforms linux/amd64,arm64 --platform riscv64 a b");
        let shown: Vec<String> = build.platforms.platforms.iter().map(ToString::to_string).collect();
        assert_eq!(shown, ["linux/amd64", "linux/arm64", "linux/riscv64"]);
        assert_eq!(build.selection.packages, ["a", "b"]);
    }

    #[test]
    fn a_command_that_runs_no_steps_accepts_their_flags_and_does_not_show_them() {
        for command in ["show-tag", "manifest", "lint", "graph"] {
            assert!(CommandLine::try_parse_from(["pkgbuild", command, "--disable-cache", "--network"]).is_ok(), "{command}");
            let mut line = CommandLine::command();
            let help = line.find_subcommand_mut(command).expect(command).render_long_help().to_string();
            assert!(!help.contains("able-cache"), "{command}");
            assert_eq!(help.contains("network"), matches!(command, "show-tag" | "manifest"), "{command}");
        }
    }
}
