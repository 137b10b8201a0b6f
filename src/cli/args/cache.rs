//! Arguments of `cache`.

use clap::builder::PossibleValuesParser;
use clap::{Args, Subcommand};

use super::values::{parse_duration, parse_platform, parse_size};
use crate::oci::Platform;

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
    /// Delete what nothing needs, and what was used least recently until a limit holds
    Gc(GcArgs),
}

/// Arguments of `cache gc`.
#[derive(Args, Debug, Clone, Default)]
pub struct GcArgs {
    /// Let everything in the cache directory take at most this much of the disk: 500MB, 10GiB
    #[arg(long, value_name = "SIZE", value_parser = parse_size)]
    pub max_size: Option<u64>,
    /// Let at least this much of the disk be free
    #[arg(long, value_name = "SIZE", value_parser = parse_size)]
    pub min_free: Option<u64>,
    /// Keep what was used within this time, even beyond the limit: 90m, 48h
    #[arg(long, value_name = "TIME", value_parser = parse_duration)]
    pub keep_duration: Option<std::time::Duration>,
    /// Only say what would be deleted
    #[arg(long)]
    pub dry_run: bool,
    /// Say of each thing why it goes or stays
    #[arg(long)]
    pub explain: bool,
    /// Print one JSON document
    #[arg(long)]
    pub json: bool,
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
