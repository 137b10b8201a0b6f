//! The command line as types. What two flags cannot mean together is refused here, before anything is read.

use std::path::PathBuf;

use clap::builder::PossibleValuesParser;
use clap::{Arg, ArgAction, Args, Parser, Subcommand, ValueEnum};

use crate::oci::{Platform, PlatformError, Tag};

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
    /// Show an image of the cache or a registry
    Inspect(InspectArgs),
    /// Find every mistake in build.yml and Dockerfile; builds nothing
    #[command(mut_args(without_steps))]
    Lint(LintArgs),
    /// Show which package needs which
    #[command(mut_args(without_steps))]
    Graph(GraphArgs),
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

/// When to build, pull or do neither.
#[derive(Args, Debug, Clone, Default)]
#[command(next_help_heading = "What to build")]
pub struct PolicyArgs {
    /// Build everything, whatever is there
    #[arg(long, conflicts_with_all = ["pull", "nobuild"])]
    pub force: bool,
    /// Pull what the registry has into the cache
    #[arg(long)]
    pub pull: bool,
    /// Build nothing: what is found nowhere is an error
    #[arg(long)]
    pub nobuild: bool,
    /// What to do when a registry cannot be asked whether it has a package
    #[arg(long, value_name = "WHAT", value_enum, default_value = "refuse")]
    pub on_registry_error: OnRegistryError,
    /// Ask registries for base images even if the cache has them
    #[arg(long)]
    pub ignore_cached: bool,
}

/// What to do when a registry cannot be asked.
#[derive(ValueEnum, Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum OnRegistryError {
    /// Stop
    #[default]
    Refuse,
    /// Build as if it had nothing
    Build,
}

/// Arguments of `build` and `push`.
#[derive(Args, Debug, Clone, Default)]
pub struct BuildArgs {
    #[command(flatten)]
    #[expect(missing_docs, reason = "flattened")]
    pub selection: Selection,
    #[command(flatten)]
    #[expect(missing_docs, reason = "flattened")]
    pub platforms: PlatformArgs,
    #[command(flatten)]
    #[expect(missing_docs, reason = "flattened")]
    pub policy: PolicyArgs,
    #[command(flatten)]
    #[expect(missing_docs, reason = "flattened")]
    pub absent: AbsentArgs,
    /// Push the indexes when they are complete
    #[arg(long, help_heading = "Results")]
    pub push: bool,
    /// Name what was pushed this, too (repeatable)
    #[arg(long, help_heading = "Results", value_name = "TAG")]
    pub release: Vec<Tag>,
    /// Let a release tag that exists name something else
    #[arg(long, help_heading = "Results")]
    pub move_release: bool,
    /// Push a tag for each architecture, too
    #[arg(long, help_heading = "Results", num_args = 0..=1, require_equals = true, default_missing_value = "true", value_name = "BOOL", default_value = "true", action = ArgAction::Set)]
    pub manifest: bool,
    /// Run every step of what is built now, whatever build.yml says
    #[arg(long, help_heading = "How to build")]
    pub no_cache: bool,
    /// Set a label of the images (repeatable)
    #[arg(long, help_heading = "How to build", value_name = "KEY=VALUE")]
    pub label: Vec<String>,
    /// Set an annotation of the image manifests (repeatable)
    #[arg(long, help_heading = "How to build", value_name = "KEY=VALUE")]
    pub annotation: Vec<String>,
    /// After a failure go on with all that does not need what failed
    #[arg(long, help_heading = "How to build", short = 'k')]
    pub keep_going: bool,
    /// After a failure end what runs, too
    #[arg(long, help_heading = "How to build", conflicts_with = "keep_going")]
    pub fail_fast: bool,
    /// End the run after this time: 90s, 10m, 2h
    #[arg(long, help_heading = "How to build", value_name = "TIME", value_parser = parse_duration)]
    pub timeout: Option<std::time::Duration>,
    /// Only say what would be done: `plan`
    #[arg(long, help_heading = "How to build")]
    pub dry_run: bool,
    /// Write what was built as JSON, one object for each package
    #[arg(long, help_heading = "Results", value_name = "FILE")]
    pub metadata_file: Option<PathBuf>,
    /// Write the references of the indexes with their digests, one a line
    #[arg(long, help_heading = "Results", value_name = "FILE")]
    pub image_refs: Option<PathBuf>,
    /// Write the digest of the index of the one package
    #[arg(long, help_heading = "Results", value_name = "FILE")]
    pub iidfile: Option<PathBuf>,
}

/// linuxkit's flags for what this program does not have. They are accepted so that the refusal can say what is missing.
#[derive(Args, Debug, Clone, Default)]
pub struct AbsentArgs {
    /// Builders for platforms.
    #[arg(long = "builder", alias = "builders", value_delimiter = ',', hide = true)]
    pub builders: Vec<String>,
    /// Loading into an engine.
    #[arg(long, hide = true)]
    pub docker: bool,
    /// A BuildKit container's configuration.
    #[arg(long, hide = true)]
    pub builder_config: Option<String>,
    /// A BuildKit container's image.
    #[arg(long, hide = true)]
    pub builder_image: Option<String>,
    /// A BuildKit container's name.
    #[arg(long, hide = true)]
    pub builder_name: Option<String>,
    /// Starting a BuildKit container again.
    #[arg(long, hide = true)]
    pub builder_restart: bool,
    /// Software bills of material.
    #[arg(long, alias = "sbom", num_args = 0..=1, default_missing_value = "true", hide = true)]
    pub sbom_scanner: Option<String>,
    /// Provenance.
    #[arg(long, num_args = 0..=1, default_missing_value = "true", hide = true)]
    pub provenance: Option<String>,
    /// Secrets of RUN steps.
    #[arg(long, hide = true)]
    pub secret: Vec<String>,
    /// SSH agents of RUN steps.
    #[arg(long, hide = true)]
    pub ssh: Vec<String>,
    /// Base images are always fetched before they are used.
    #[arg(long, hide = true)]
    pub precache_images: bool,
    /// Credentials on the command line, which every process of the machine can read.
    #[arg(long, hide = true)]
    pub registry_creds: Vec<String>,
}

/// Arguments of `plan`.
#[derive(Args, Debug, Clone, Default)]
pub struct PlanArgs {
    #[command(flatten)]
    #[expect(missing_docs, reason = "flattened")]
    pub selection: Selection,
    #[command(flatten)]
    #[expect(missing_docs, reason = "flattened")]
    pub platforms: PlatformArgs,
    #[command(flatten)]
    #[expect(missing_docs, reason = "flattened")]
    pub policy: PolicyArgs,
    /// Plan for a push, which refuses what has changes that are not committed
    #[arg(long)]
    pub push: bool,
    /// Print one JSON document
    #[arg(long)]
    pub json: bool,
    /// Exit with 3 when there is work to do
    #[arg(long)]
    pub detailed_exitcode: bool,
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

/// Arguments of `cache`.
#[derive(Args, Debug, Clone)]
pub struct CacheArgs {
    /// What to do.
    #[command(subcommand)]
    pub command: CacheCommand,
}

/// What to do with the cache.
#[derive(Subcommand, Debug, Clone)]
pub enum CacheCommand {
    /// List the images
    #[command(visible_alias = "list")]
    Ls {
        /// Print one JSON document
        #[arg(long)]
        json: bool,
    },
    /// Take names away; what no other name holds is deleted
    Rm {
        /// Names of images
        #[arg(required = true, value_name = "IMAGE")]
        images: Vec<String>,
        /// Only if the registry has the same
        #[arg(long)]
        published_only: bool,
    },
    /// Delete all images
    Clean {
        /// Only those that the registry has
        #[arg(long)]
        published_only: bool,
    },
    /// Write an image to a file
    Export(ExportArgs),
    /// Read images from a file
    Import {
        /// An archive as `cache export`, `docker save` or `skopeo` write it; `-` is standard input
        file: String,
        /// Name of the image, when the archive names none
        #[arg(long, value_name = "IMAGE")]
        name: Option<String>,
    },
    /// Copy images from their registry
    Pull {
        /// Names of images
        #[arg(required = true, value_name = "IMAGE")]
        images: Vec<String>,
        /// Only these platforms (repeatable, commas)
        #[arg(long = "platform", alias = "platforms", value_name = "LIST", value_delimiter = ',', value_parser = parse_platform)]
        platforms: Vec<Platform>,
    },
    /// Copy images to their registry
    Push {
        /// Names of images
        #[arg(required = true, value_name = "IMAGE")]
        images: Vec<String>,
        /// Push it under this name
        #[arg(long, value_name = "IMAGE")]
        remote_name: Option<String>,
        /// Push a tag for each architecture, too
        #[arg(long)]
        with_arch_tags: bool,
        /// Replace what the name means in the registry
        #[arg(long = "override", alias = "force")]
        replace: bool,
    },
    /// Read everything and say what is damaged or missing
    Verify {
        /// Print one JSON document
        #[arg(long)]
        json: bool,
    },
    /// Say how much room it takes
    Du {
        /// Print one JSON document
        #[arg(long)]
        json: bool,
    },
    /// Delete what no name holds, but for what was used in the last minutes
    Gc,
}

/// Arguments of `cache export`.
#[derive(Args, Debug, Clone)]
pub struct ExportArgs {
    /// Name of the image
    pub image: String,
    /// The file; `-` is standard output
    #[arg(long, short, value_name = "FILE", alias = "output")]
    pub outfile: String,
    /// Form of the file
    #[arg(long, value_parser = PossibleValuesParser::new(["oci", "docker", "filesystem"]), default_value = "oci")]
    pub format: String,
    /// Only this platform [default for docker and filesystem: this machine's]
    #[arg(long, alias = "arch", value_name = "PLATFORM", value_parser = parse_platform)]
    pub platform: Option<Platform>,
    /// Name of the image in the file [default: as in the cache]
    #[arg(long, value_name = "IMAGE")]
    pub name: Option<String>,
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

/// Architectures that Go's `go tool dist list` knows, which is what names of platforms are made of.
const ARCHITECTURES: [&str; 14] = [
    "386", "amd64", "arm", "arm64", "loong64", "mips", "mips64", "mips64le", "mipsle", "ppc64", "ppc64le", "riscv64", "s390x",
    "wasm",
];

/// Parses a platform of an architecture that there is.
fn parse_platform(text: &str) -> Result<Platform, String> {
    let platform: Platform = text.parse().map_err(|error: PlatformError| error.to_string())?;
    if ARCHITECTURES.contains(&platform.architecture.as_str()) {
        return Ok(platform);
    }
    Err(format!("`{}` is no architecture: expected one of {}", platform.architecture, ARCHITECTURES.join(", ")))
}

/// Parses `90`, `90s`, `10m`, `1h30m`.
fn parse_duration(text: &str) -> Result<std::time::Duration, String> {
    let wrong = || format!("`{text}` is no time: expected something like 90s, 10m or 1h30m");
    let (mut seconds, mut number) = (0_u64, String::new());
    for c in text.chars() {
        if c.is_ascii_digit() {
            number.push(c);
            continue;
        }
        let factor = match c {
            's' => 1,
            'm' => 60,
            'h' => 3600,
            _ => return Err(wrong()),
        };
        let value: u64 = number.parse().map_err(|_| wrong())?;
        seconds = value.checked_mul(factor).and_then(|value| seconds.checked_add(value)).ok_or_else(wrong)?;
        number.clear();
    }
    if !number.is_empty() {
        seconds = number.parse::<u64>().ok().and_then(|value| seconds.checked_add(value)).ok_or_else(wrong)?;
    }
    if seconds == 0 { Err(wrong()) } else { Ok(std::time::Duration::from_secs(seconds)) }
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

    #[test]
    fn times_are_read_in_parts() {
        for (text, seconds) in [("90", 90), ("90s", 90), ("10m", 600), ("1h30m", 5400), ("1h30", 3630)] {
            assert_eq!(parse_duration(text).expect(text).as_secs(), seconds);
        }
        for bad in ["", "x", "1d", "m", "0", "99999999999999999999h"] {
            assert!(parse_duration(bad).is_err(), "{bad}");
        }
    }
}
