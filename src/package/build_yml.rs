//! `build.yml`: text to values, with every mistake that the file has.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use super::config;
use super::keys::{BUILD_YML, RESERVED};
use super::shape::{Findings, Shape, check};
use super::template::Template;
use super::yaml::{self, Node};
use crate::diagnostic::{Diagnostic, Diagnostics, Span};
use crate::oci::{Platform, Reference};

/// What a `build.yml` says, defaults filled in.
#[derive(Clone, PartialEq, Debug)]
pub struct BuildYml {
    /// Name of the image below `org`.
    pub image: String,
    /// First part of the image's name.
    pub org: String,
    /// How the tag is made from the hash.
    pub tag: Template,
    /// Path of the Dockerfile in the package's directory.
    pub dockerfile: PathBuf,
    /// Platforms to build for, in order; empty disables the package.
    pub platforms: Vec<Platform>,
    /// Further directories of the context.
    pub extra_sources: Vec<ExtraSource>,
    /// Where the source is; may be empty.
    pub gitrepo: String,
    /// Whether `RUN` steps reach the network.
    pub network: bool,
    /// Whether results of earlier builds are left unused.
    pub disable_cache: bool,
    /// Build arguments, in order, not expanded.
    pub build_args: Vec<BuildArg>,
    /// The label `org.mobyproject.config`, when there is a `config` section.
    pub config_label: Option<String>,
    /// What must be there before the build.
    pub depends: Depends,
    /// Labels of the image.
    pub labels: BTreeMap<String, String>,
    /// Annotations of the image's manifests.
    pub annotations: BTreeMap<String, String>,
    /// Ids of the secrets that steps may mount, each of which must be given; `None` for any that are given.
    pub secrets: Option<Vec<String>>,
    /// The same for SSH agents.
    pub ssh: Option<Vec<String>>,
}

/// A directory that joins the context, and the hash.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct ExtraSource {
    /// Directory, relative to the package's or absolute.
    pub source: PathBuf,
    /// Where it appears in the context, relative to the context's root.
    pub target: PathBuf,
    /// Where it stands in the file.
    pub span: Span,
}

/// A build argument as written; its value may be `@lkt:…`.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct BuildArg {
    /// Before the first `=`.
    pub key: String,
    /// After it.
    pub value: String,
    /// The file it stands in, which relative paths in its value start from.
    pub file: PathBuf,
    /// Where it stands in the file.
    pub span: Span,
    /// The line that it stands on.
    pub line: String,
}

/// What must be there before the build.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Depends {
    /// Images to be saved into the package's directory.
    pub images: Vec<BundledImages>,
    /// Packages, by directory or image name.
    pub packages: Vec<Depended>,
}

/// A package named in `depends.packages`.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Depended {
    /// As written.
    pub name: String,
    /// Where it stands in the file.
    pub span: Span,
}

/// Images that are laid into the build context: `depends.docker-images`, and each of `depends.images`.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct BundledImages {
    /// Where to.
    pub target: BundleTarget,
    /// In which form.
    pub form: BundleForm,
    /// Which: each has a digest.
    pub images: Vec<Reference>,
}

/// Where images are laid, relative to the package's directory.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum BundleTarget {
    /// All in one file.
    File(PathBuf),
    /// In a directory, in place of what is there.
    Directory(PathBuf),
}

/// In which form images are laid into the context.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub enum BundleForm {
    /// As `docker image save` writes them; in a directory, each in a file of its own.
    Docker,
    /// An OCI layout; in a file, the archive of one.
    Oci,
}

/// What a key that is absent means: the `defaults` section of a workspace file, where there is one.
#[derive(Clone, Debug)]
pub(crate) struct Defaults {
    /// Checked when the workspace file was read.
    pub(crate) section: Node,
    /// The workspace file, which relative paths in the section start from.
    pub(crate) path: PathBuf,
    /// Its text, for messages.
    pub(crate) text: String,
}

/// A file, as it is read and as messages name it.
#[derive(Clone, Copy, Debug)]
pub(crate) struct File<'a> {
    /// Absolute path.
    pub(crate) path: &'a Path,
    /// Name in messages.
    pub(crate) shown: &'a Path,
    /// The package's directory, absolute.
    pub(crate) directory: &'a Path,
}

/// Returns the text of `file`.
///
/// # Errors
/// When it cannot be read, is too large, or is no text.
pub(crate) fn read(file: File<'_>) -> Result<String, Diagnostics> {
    use std::io::Read as _;
    let fail = |message: String| Diagnostics(vec![Diagnostic::error(file.shown, message)]);
    let mut bytes = Vec::new();
    let opened = fs_err::File::open(file.path).map(|opened| opened.into_parts().0);
    let opened = opened.map_err(|error| match error.kind() {
        std::io::ErrorKind::NotFound => fail("no such file".to_owned()),
        kind => fail(format!("cannot be read: {kind}")),
    })?;
    // A pipe or a device would never end.
    if !opened.metadata().is_ok_and(|found| found.is_file()) {
        return Err(fail("is no regular file".to_owned()));
    }
    opened.take(yaml::LARGEST_FILE + 1).read_to_end(&mut bytes).map_err(|error| fail(format!("cannot be read: {error}")))?;
    if bytes.len() as u64 > yaml::LARGEST_FILE {
        return Err(fail(format!("is larger than {} KiB, the most that is read", yaml::LARGEST_FILE / 1024)));
    }
    String::from_utf8(bytes).map_err(|error| {
        let good = String::from_utf8_lossy(&error.as_bytes()[..error.utf8_error().valid_up_to()]).into_owned();
        let line = u32::try_from(good.matches('\n').count() + 1).unwrap_or(u32::MAX);
        let column = good.rsplit('\n').next().map_or(0, |last| last.chars().count());
        let span = Span::at(line, u32::try_from(column).unwrap_or(u32::MAX).saturating_add(1));
        Diagnostics(vec![Diagnostic { span: Some(span), ..Diagnostic::error(file.shown, "is not UTF-8 text") }])
    })
}

/// Returns the file's tree, or every mistake that the tree itself has.
pub(crate) fn parse(file: File<'_>, text: &str) -> Result<Node, Diagnostics> {
    let fail = |diagnostic| Diagnostics(vec![diagnostic]);
    match yaml::parse(text) {
        Ok(Some(node)) => Ok(node),
        Ok(None) => Err(fail(Diagnostic::error(file.shown, "is empty"))),
        Err(error) => Err(fail(Diagnostic::error(file.shown, error.message).at(error.span, text))),
    }
}

impl BuildYml {
    /// Reads the text of the file at `path`, which is absolute, as it stands alone, without defaults of a workspace.
    ///
    /// # Errors
    /// Every mistake of the file.
    pub fn from_text(path: &Path, text: &str) -> Result<Self, Diagnostics> {
        let directory = path.parent().unwrap_or(path);
        Self::read(File { path, shown: path, directory }, text, None)
    }

    /// Reads `text`, the content of `file`.
    pub(crate) fn read(file: File<'_>, text: &str, defaults: Option<&Defaults>) -> Result<Self, Diagnostics> {
        let root = parse(file, text)?;
        let mut findings = Findings::new(file.shown, text);
        check_keys(&root, &mut findings);
        if root.text().is_some() || !root.items().is_empty() {
            return Err(findings.finish());
        }
        let mut reader = Reader { root: &root, defaults, file, text, findings };
        let read = reader.read();
        if reader.findings.is_empty() { Ok(read) } else { Err(reader.findings.finish()) }
    }
}

impl BuildYml {
    /// Adds the mistakes in the values of a workspace file's `defaults`, whose keys and types were checked.
    pub(crate) fn check_defaults(section: &Node, file: File<'_>, text: &str, findings: &mut Findings<'_>) {
        let own = Findings::new(file.shown, text);
        let mut reader = Reader { root: section, defaults: None, file, text, findings: own };
        reader.values();
        findings.join(reader.findings);
    }
}

/// Checks the keys and types of a mapping with the keys of `build.yml`.
pub(crate) fn check_keys(root: &Node, findings: &mut Findings<'_>) {
    let reserved = |key: &Node| key.text().is_some_and(|word| RESERVED.contains(&word));
    for (key, _) in root.entries().iter().filter(|(key, _)| reserved(key)) {
        let word = key.text().unwrap_or_default();
        findings.error(key.span, format!("`{word}` is not in this version"));
    }
    match root.entries().iter().any(|(key, _)| reserved(key)) {
        false => check(root, &Shape::Record(BUILD_YML), "", findings),
        true => {
            for (key, value) in root.entries().iter().filter(|(key, _)| !reserved(key)) {
                match BUILD_YML.iter().find(|field| Some(field.key) == key.text()) {
                    Some(field) => check(value, &field.shape, field.key, findings),
                    None => findings.error(key.span, format!("unknown key {}", key.kind())),
                }
            }
        }
    }
}

struct Reader<'a> {
    root: &'a Node,
    defaults: Option<&'a Defaults>,
    file: File<'a>,
    text: &'a str,
    findings: Findings<'a>,
}

/// linuxkit's default platforms.
const DEFAULT_ARCHES: [&str; 3] = ["amd64", "arm64", "riscv64"];
const DEFAULT_GITREPO: &str = "https://github.com/linuxkit/linuxkit";

impl<'a> Reader<'a> {
    fn read(&mut self) -> BuildYml {
        let image = self.image();
        BuildYml { image, ..self.values() }
    }

    /// Reads everything but the image's name.
    fn values(&mut self) -> BuildYml {
        BuildYml {
            image: String::new(),
            org: self.text("org", "linuxkit"),
            tag: self.tag(),
            dockerfile: PathBuf::from(self.text("dockerfile", "Dockerfile")),
            platforms: self.platforms(),
            extra_sources: self.extra_sources(),
            gitrepo: self.text("gitrepo", DEFAULT_GITREPO),
            network: self.boolean("network"),
            disable_cache: self.boolean("disable-cache"),
            build_args: self.build_args(),
            config_label: self.value("config").map(config::label),
            depends: self.depends(),
            labels: self.map("labels"),
            annotations: self.map("annotations"),
            secrets: self.ids("secrets"),
            ssh: self.ids("ssh"),
        }
    }

    /// Returns a value that is not null, from the file or else from the defaults.
    fn value(&self, key: &str) -> Option<&'a Node> {
        self.root.get(key).or_else(|| self.defaults?.section.get(key))
    }

    /// Returns a list or mapping: null in the file makes it empty rather than the default, as in linuxkit.
    fn collection(&self, key: &str) -> Option<&'a Node> {
        self.root.get_or_null(key).or_else(|| self.defaults?.section.get_or_null(key))
    }

    fn text(&self, key: &str, default: &str) -> String {
        self.value(key).and_then(Node::text).unwrap_or(default).to_owned()
    }

    fn boolean(&self, key: &str) -> bool {
        self.value(key).and_then(Node::boolean).unwrap_or(false)
    }

    fn map(&self, key: &str) -> BTreeMap<String, String> {
        let Some(node) = self.collection(key) else { return BTreeMap::new() };
        let text = |node: &Node| node.text().unwrap_or_default().to_owned();
        node.entries().iter().map(|(key, value)| (text(key), text(value))).collect()
    }

    fn image(&mut self) -> String {
        let image = self.root.get("image").and_then(Node::text).unwrap_or_default();
        if image.is_empty() && self.root.get("image").is_none_or(|node| node.text().is_some()) {
            match self.root.get_or_null("image") {
                Some(node) => self.findings.error(node.span, "`image` must not be empty"),
                None => self.findings.error_in_file("the key `image` is missing", "write `image: <name>`"),
            }
        }
        image.to_owned()
    }

    fn tag(&mut self) -> Template {
        let node = self.value("tag");
        let text = node.and_then(Node::text).filter(|text| !text.is_empty()).unwrap_or(Template::DEFAULT);
        match Template::parse(text) {
            Ok(template) => template,
            Err(error) => {
                let span = node.map(|node| node.span).unwrap_or_default();
                self.findings.error(span, format!("`tag` is not a template that can be evaluated: {error}"));
                Template::default()
            }
        }
    }

    fn platforms(&mut self) -> Vec<Platform> {
        let own = (self.root.get_or_null("platforms"), self.root.get_or_null("arches"));
        if let (Some(platforms), Some(_)) = own {
            self.findings.error(platforms.span, "`platforms` and `arches` cannot both be given");
        }
        let default = (self.collection("platforms"), self.collection("arches"));
        // The file's choice of either key is stronger than a default of the other.
        let (platforms, arches) = if matches!(own, (None, None)) { default } else { own };
        if let Some(node) = platforms {
            let message = |word: &str| format!("`{word}` is not a platform");
            return self.each(node, message, |word| word.parse().ok());
        }
        match arches {
            None => DEFAULT_ARCHES.map(Platform::linux).to_vec(),
            Some(node) => {
                let message = |word: &str| format!("`{word}` is not an architecture; for more than that there is `platforms`");
                let word = |c: char| c.is_ascii_alphanumeric() || c == '_';
                let ok = |text: &str| !text.is_empty() && text.chars().all(word);
                self.each(node, message, |text| ok(text).then(|| Platform::linux(text)))
            }
        }
    }

    /// Returns what `take` makes of each text in a list; what it refuses is a mistake.
    fn each<T>(&mut self, list: &Node, message: impl Fn(&str) -> String, take: impl Fn(&str) -> Option<T>) -> Vec<T> {
        let mut all = Vec::new();
        for item in list.items() {
            let text = item.text().unwrap_or_default();
            match take(text) {
                Some(value) => all.push(value),
                // What is no text was told by the check of types.
                None if item.text().is_none() && !item.is_null() => {}
                None => self.findings.error(item.span, message(text)),
            }
        }
        all
    }

    fn items(&self, key: &str) -> &'a [Node] {
        self.collection(key).map(Node::items).unwrap_or_default()
    }

    fn ids(&mut self, key: &str) -> Option<Vec<String>> {
        let list = self.collection(key)?;
        let message = |_: &str| format!("an id in `{key}` must be text that is not empty");
        Some(self.each(list, message, |text| (!text.is_empty()).then(|| text.to_owned())))
    }

    fn extra_sources(&mut self) -> Vec<ExtraSource> {
        let mut sources = Vec::new();
        for item in self.items("extra-sources") {
            let Some(text) = item.text() else { continue };
            match text.split(':').collect::<Vec<_>>()[..] {
                [source, target] => {
                    let target = super::path::clean(Path::new("/").join(target).as_path());
                    let target = target.strip_prefix("/").map(Path::to_owned).unwrap_or_default();
                    sources.push(ExtraSource { source: super::path::clean(Path::new(source)), target, span: item.span });
                }
                _ => self.findings.error(item.span, format!("`{text}` is not of the form `source:destination`")),
            }
        }
        sources
    }

    fn build_args(&mut self) -> Vec<BuildArg> {
        let mut args = Vec::new();
        let own = self.root.get_or_null("buildArgs").is_some();
        let origin = self.defaults.filter(|_| !own);
        let (path, text) = origin.map_or((self.file.path, self.text), |defaults| (defaults.path.as_path(), &defaults.text));
        let lines: Vec<&str> = text.lines().collect();
        for item in self.items("buildArgs") {
            let Some(entry) = item.text() else { continue };
            match entry.split_once('=') {
                Some((key, value)) if !key.is_empty() => {
                    let arg = BuildArg {
                        key: key.to_owned(),
                        value: value.to_owned(),
                        file: path.to_owned(),
                        span: item.span,
                        line: lines.get(item.span.line.saturating_sub(1) as usize).copied().unwrap_or_default().to_owned(),
                    };
                    if let Err(message) = super::args::check(&arg) {
                        self.findings.error(item.span, message);
                    }
                    args.push(arg);
                }
                _ => self.findings.error(item.span, format!("`{entry}` is not of the form `KEY=value`")),
            }
        }
        args
    }

    fn depends(&mut self) -> Depends {
        let Some(node) = self.value("depends") else { return Depends::default() };
        let named = node.get("packages").map(Node::items).unwrap_or_default().iter();
        let packages = named.filter_map(|item| Some(Depended { name: item.text()?.to_owned(), span: item.span })).collect();
        let mut images = Vec::new();
        if let Some(node) = node.get("docker-images") {
            images.extend(self.bundled_images(node, "depends.docker-images"));
        }
        for node in node.get("images").map(Node::items).unwrap_or_default() {
            images.extend(self.bundled_images(node, "depends.images"));
        }
        Depends { images, packages }
    }

    fn bundled_images(&mut self, node: &'a Node, name: &str) -> Option<BundledImages> {
        let given = |key: &str| node.get(key).filter(|node| node.text() != Some("") && !is_empty_list(node));
        for (one, other) in [("target", "target-dir"), ("list", "from-file")] {
            if let (Some(_), Some(second)) = (given(one), given(other)) {
                self.findings.error(second.span, format!("`{name}.{one}` and `{name}.{other}` cannot both be given"));
            }
        }
        let mut path = |key: &str| {
            let node = given(key)?;
            self.inside(node, &format!("{name}.{key}"))
        };
        let (file, directory, from) = (path("target"), path("target-dir"), path("from-file"));
        let mut images = Vec::new();
        for item in node.get("list").map(Node::items).unwrap_or_default() {
            images.extend(item.text().and_then(|text| self.image_with_digest(text, item.span)));
        }
        if let (Some(from), Some(node)) = (from, given("from-file")) {
            let path = self.file.directory.join(&from);
            match fs_err::read_to_string(path) {
                Ok(lines) => {
                    for line in lines.lines().filter(|line| !line.is_empty() && !line.starts_with('#')) {
                        images.extend(self.image_with_digest(line, node.span));
                    }
                }
                Err(error) => self.findings.error(node.span, format!("cannot read `{}`: {}", from.display(), error.kind())),
            }
        }
        let target = directory.map(BundleTarget::Directory).or(file.map(BundleTarget::File));
        if target.is_none() && !images.is_empty() {
            self.findings.error(node.span, format!("`{name}` needs `target` or `target-dir`"));
        }
        let docker = name == "depends.docker-images" || given("format").and_then(Node::text) == Some("docker");
        let form = if docker { BundleForm::Docker } else { BundleForm::Oci };
        target.map(|target| BundledImages { target, form, images })
    }

    /// Returns a path that stays below the package's directory.
    fn inside(&mut self, node: &Node, name: &str) -> Option<PathBuf> {
        let path = Path::new(node.text()?);
        let clean = super::path::clean(path);
        let problem = if path.is_absolute() {
            "must be relative to the package's directory"
        } else if clean.as_os_str().is_empty() || clean == Path::new(".") {
            "must not be the package's directory itself"
        } else if clean.starts_with("..") {
            "must be inside the package's directory"
        } else {
            return Some(clean);
        };
        self.findings.error(node.span, format!("`{name}` {problem}"));
        None
    }

    fn image_with_digest(&mut self, text: &str, span: Span) -> Option<Reference> {
        // As linuxkit has it through containerd: the host must be written, and nothing is expanded.
        let host = text.split_once('/').is_some_and(|(host, _)| host.contains(['.', ':']) || host == "localhost");
        let problem = match text.parse::<Reference>() {
            Err(error) => error.to_string(),
            Ok(_) if !host => format!("image `{text}` lacks its registry, such as `docker.io/`"),
            Ok(reference) if reference.digest.is_none() => format!("image `{text}` lacks a digest"),
            Ok(reference) => return Some(reference),
        };
        self.findings.error(span, problem);
        None
    }
}

fn is_empty_list(node: &Node) -> bool {
    matches!(&*node.value, yaml::Value::Sequence(items) if items.is_empty())
}
