//! Every key of `build.yml` and `pkgbuild.yml`: what it holds, and one line for people.

use super::config::CONFIG;
use super::shape::{Field, Shape};
use Shape::{Bool, Integer, List, Map, OneOrMore, Record, Text, Word};

const TEXTS: Shape = List(&Text);

/// Keys of `build.yml`. From `platforms` on they are ours: linuxkit would refuse them.
pub(crate) static BUILD_YML: &[Field] = &[
    Field::new("image", Text, "Name of the image below `org`. Required."),
    Field::new("org", Text, "First part of the image's name: an organisation, or a registry and an organisation."),
    Field::new("tag", Text, "Go template of the tag; `.Hash` is the hash of the package's sources."),
    Field::new("dockerfile", Text, "Path of the Dockerfile in the package's directory."),
    Field::new("arches", TEXTS, "Architectures to build for, in Go's names; an empty list disables the package."),
    Field::new("extra-sources", TEXTS, "More directories for the context, as `source:destination`; they count for the hash."),
    Field::new("gitrepo", Text, "Where the source is: the label `org.opencontainers.image.source` and the argument `SOURCE`."),
    Field::new("network", Bool, "Whether RUN steps reach the network."),
    Field::new("disable-cache", Bool, "Whether every step runs again in every build."),
    Field::new("buildArgs", TEXTS, "Build arguments, as `KEY=value`; `@lkt:pkg:<dir>` as a value is that package's tag."),
    Field::new("config", Record(CONFIG), "How `linuxkit build` runs the image; becomes a label."),
    Field::new("depends", Record(DEPENDS), "What must be there before the build."),
    Field::new("platforms", TEXTS, "Full list of platforms, as `os/arch/variant`, instead of `arches`."),
    Field::new("labels", Map(&Text), "Labels of the image."),
    Field::new("annotations", Map(&Text), "Annotations of the image's manifests."),
    Field::new("secrets", TEXTS, "Ids of the secrets that RUN steps may mount; all of them must be given to build."),
    Field::new("ssh", TEXTS, "Ids of the SSH agents that RUN steps may mount; all of them must be given to build."),
];

/// Keys of `build.yml` that are set aside: named in the contract, not yet in this version.
pub(crate) static RESERVED: &[&str] = &["cache"];

static DEPENDS: &[Field] = &[
    Field::new("docker-images", Record(DOCKER_IMAGES), "Images that the build context has as `docker image save` writes them."),
    Field::new("images", List(&Record(IMAGES)), "Images that the build context has as OCI layouts or archives."),
    Field::new("packages", TEXTS, "Packages to be built first that no FROM or argument names: directories or image names."),
];

static DOCKER_IMAGES: &[Field] = &[
    Field::new("target", Text, "File that all images are saved to."),
    Field::new("target-dir", Text, "Directory that each image is saved to as a file of its own."),
    Field::new("from-file", Text, "File with one image on each line."),
    Field::new("list", TEXTS, "The images, each with its digest."),
];

static IMAGES: &[Field] = &[
    Field::new(
        "format",
        Word(&["oci", "docker"]),
        "`oci` for a layout, or its archive in a file; `docker` for archives to load.",
    ),
    Field::new("target", Text, "File that holds all images."),
    Field::new("target-dir", Text, "Directory that holds the layout, or an archive for each image."),
    Field::new("from-file", Text, "File with one image on each line."),
    Field::new("list", TEXTS, "The images, each with its digest."),
];

/// Keys of `pkgbuild.yml`.
pub(crate) static PKGBUILD_YML: &[Field] = &[
    Field::new("packages", TEXTS, "Where the packages are: patterns of directories, relative to this file."),
    Field::new("defaults", Record(BUILD_YML), "Defaults for every build.yml: any of its keys but `image`."),
    Field::new("tag-scheme", Word(&["linuxkit", "complete"]), "What a package's hash covers: its sources, or everything."),
    Field::new("builders", Map(&OneOrMore(&Text)), "Builders by platform: an endpoint, or a list of them."),
    Field::new("registries", Map(&Record(REGISTRY)), "Registries by host; `*` is every other."),
    Field::new("cache-namespace", Text, "Name shared by workspaces whose cache mounts are the same; else each has its own."),
    Field::new("jobs", Integer(1, 4096), "How many packages and platforms are built at once."),
];

static REGISTRY: &[Field] = &[
    Field::new("mirror", OneOrMore(&Text), "Where to read from instead: URLs, tried in order."),
    Field::new("ca", Text, "File with certificates to trust, relative to this file."),
    Field::new("insecure", Bool, "Whether plain HTTP is used."),
];
