//! Arguments of `build`, `push` and `plan`.

use std::path::PathBuf;

use clap::{ArgAction, Args, ValueEnum};

use super::values::parse_duration;
use super::{PlatformArgs, Selection, StepArgs};
use crate::oci::Tag;

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
    pub steps: StepArgs,
    #[command(flatten)]
    #[expect(missing_docs, reason = "flattened")]
    pub absent: AbsentArgs,
    #[command(flatten)]
    #[expect(missing_docs, reason = "flattened")]
    pub variation: VariationArgs,
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
    /// Keep a RUN step that fails; `debug exec` enters what it left
    #[arg(long, help_heading = "How to build")]
    pub keep_failed: bool,
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

/// What differs from what Dockerfiles say by themselves, for all packages that are asked for.
#[derive(Args, Debug, Clone, Default)]
#[command(next_help_heading = "How to build")]
pub struct VariationArgs {
    /// Build this stage instead of the last; give the image another name, with --tag, --hash or --dev
    #[arg(long, value_name = "STAGE", conflicts_with = "nobuild")]
    pub target: Option<String>,
    /// Let a stage or image NAME mean a directory's files, or an image: NAME=DIR, NAME=docker-image://REF (repeatable); as --target
    #[arg(long, value_name = "NAME=CONTEXT", conflicts_with = "nobuild")]
    pub build_context: Vec<String>,
    /// Run every step of these stages of what is built now (repeatable, commas)
    #[arg(long, value_name = "STAGES", value_delimiter = ',')]
    pub no_cache_filter: Vec<String>,
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
