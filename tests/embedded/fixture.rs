//! A package directory, a cache, and the builder over both.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};

use pkgbuild::builder::embedded::EmbeddedBuilder;
use pkgbuild::builder::embedded::sandbox::Sandbox;
use pkgbuild::builder::embedded::snapshot::Overlay;
use pkgbuild::builder::{
    Base, BaseKey, BuildError, BuildEvent, BuildRequest, Builder, BuiltImage, CacheUse, Context, ContextRoot, DockerfileSource,
    Keeping, Network, Variation,
};
use pkgbuild::oci::{ImageConfig, Manifest, MediaType, Platform};
use pkgbuild::store::Store;
use pkgbuild::time::SourceDate;
use pkgbuild::transfer;
use tokio_util::sync::CancellationToken;

/// What one build gave.
pub struct Built {
    pub result: Result<BuiltImage, BuildError>,
    pub events: Vec<BuildEvent>,
}

impl Built {
    /// Returns the texts of the steps that ran, in order of their numbers.
    pub fn ran(&self) -> Vec<String> {
        let mut steps: Vec<_> = self
            .events
            .iter()
            .filter_map(|event| match event {
                BuildEvent::StepStarted { step } => Some((step.number, step.text.clone())),
                _ => None,
            })
            .collect();
        steps.sort();
        steps.into_iter().map(|(_, text)| text).collect()
    }

    /// Returns how many steps were found in the cache.
    pub fn cached(&self) -> usize {
        self.events.iter().filter(|event| matches!(event, BuildEvent::StepCached { .. })).count()
    }

    /// Returns everything that steps printed.
    pub fn log(&self) -> String {
        let bytes: Vec<u8> = self
            .events
            .iter()
            .filter_map(|event| match event {
                BuildEvent::Log { bytes, .. } => Some(bytes.clone()),
                _ => None,
            })
            .flatten()
            .collect();
        String::from_utf8_lossy(&bytes).into_owned()
    }

    pub fn warnings(&self) -> Vec<&str> {
        self.events
            .iter()
            .filter_map(|event| match event {
                BuildEvent::Warning { message } => Some(message.as_str()),
                _ => None,
            })
            .collect()
    }

    #[track_caller]
    pub fn image(&self) -> &BuiltImage {
        self.result.as_ref().unwrap_or_else(|error| panic!("{}\n{}", chain(error), self.log()))
    }

    #[track_caller]
    pub fn error(&self) -> String {
        chain(self.result.as_ref().expect_err("the build must fail"))
    }
}

/// Returns an error with its sources.
pub fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(error) = source {
        text = format!("{text}: {error}");
        source = error.source();
    }
    text
}

pub struct Test {
    pub directory: tempfile::TempDir,
    pub store: Store,
    pub builder: Arc<EmbeddedBuilder>,
    pub request: BuildRequest,
}

impl Test {
    pub fn new() -> Self {
        let directory = tempfile::tempdir().expect("temp dir");
        let context = directory.path().join("context");
        std::fs::create_dir(&context).expect("creates");
        let store = Store::open(&directory.path().join("cache")).expect("opens");
        let sandbox = Sandbox::of_program(Path::new(env!("CARGO_BIN_EXE_pkgbuild")));
        let builder = Arc::new(EmbeddedBuilder::open(store.clone(), sandbox, 2).expect("opens"));
        let request = BuildRequest {
            package: "test".into(),
            platform: Platform::host(),
            context: Context { roots: vec![ContextRoot { source: context, target: PathBuf::new(), replaces: false }] },
            dockerfile: DockerfileSource { path: "Dockerfile".into(), in_context: "Dockerfile".into(), text: Arc::new([]) },
            args: BTreeMap::new(),
            labels: BTreeMap::new(),
            annotations: BTreeMap::new(),
            variation: Variation::default(),
            network: Network::None,
            cache: CacheUse::ReadWrite,
            keeping: Keeping::default(),
            source_date: SourceDate(0),
            bases: BTreeMap::new(),
            steps: Arc::default(),
            cancel: CancellationToken::new(),
        };
        Self { directory, store, builder, request }
    }

    /// Returns a builder over the cache in `cache`, which may mount overlays or not.
    pub fn builder_of(cache: &Path, overlay: Overlay) -> (Store, Arc<EmbeddedBuilder>) {
        let store = Store::open(cache).expect("opens");
        let sandbox = Sandbox::of_program(Path::new(env!("CARGO_BIN_EXE_pkgbuild"))).with_overlay(overlay);
        let builder = Arc::new(EmbeddedBuilder::open(store.clone(), sandbox, 2).expect("opens"));
        (store, builder)
    }

    /// Returns a test whose Dockerfiles can start `FROM busybox`, an image of Debian's static busybox that lies in a
    /// registry of its own and not yet in the cache.
    pub async fn with_busybox() -> Self {
        let mut test = Self::new();
        let base = Self::new();
        let busybox = ["/bin/busybox", "/usr/bin/busybox"].into_iter().find(|path| Path::new(path).exists());
        let bytes = std::fs::read(busybox.expect("busybox-static is installed: run scripts/setup")).expect("reads");
        base.write("busybox", &bytes);
        base.write("etc/passwd", b"root:x:0:0:root:/root:/bin/sh\nwww:x:33:34:web:/var/www:/bin/false\n");
        base.write("etc/group", b"root:x:0:\nweb:x:34:\nadm:x:4:www\n");
        let applets = [
            "sh", "ls", "cat", "id", "mkdir", "touch", "sleep", "rm", "cp", "env", "stat", "uname", "pwd", "grep", "chmod",
            "base64", "head", "ln", "test",
        ];
        // A link at the top of a copy is followed, so the links come in an archive.
        let mut archive = tar::Builder::new(Vec::new());
        for applet in applets {
            let mut header = tar::Header::new_ustar();
            header.set_entry_type(tar::EntryType::Symlink);
            header.set_mode(0o777);
            header.set_size(0);
            archive.append_link(&mut header, applet, "busybox").expect("appends");
        }
        base.write("applets.tar", &archive.into_inner().expect("ends"));
        let mut base = base;
        base.dockerfile(
            "FROM scratch\nCOPY --chmod=755 busybox /bin/\nADD applets.tar /bin/\nCOPY etc /etc\nENV BASE=yes\nCMD [\"sh\"]\n",
        );
        let image = base.build().await;
        let manifest = image.image().manifest.clone();
        let key = BaseKey { reference: "busybox".into(), platform: Platform::host() };
        test.request.bases.insert(key, Base { manifest, source: Arc::new(base.store.clone()) });
        // The other cache must live as long as it is read from.
        std::mem::forget(base.directory);
        test
    }

    pub fn context(&self) -> &Path {
        &self.request.context.roots[0].source
    }

    pub fn write(&self, path: &str, bytes: &[u8]) {
        let path = self.context().join(path);
        std::fs::create_dir_all(path.parent().expect("inside")).expect("creates");
        std::fs::write(path, bytes).expect("writes");
    }

    pub fn dockerfile(&mut self, text: &str) {
        self.request.dockerfile.text = text.as_bytes().into();
    }

    pub async fn build(&self) -> Built {
        self.build_request(&self.request).await
    }

    pub async fn build_request(&self, request: &BuildRequest) -> Built {
        let events = Mutex::new(Vec::new());
        let result = self.builder.build(request, &|event| events.lock().expect("no panic").push(event)).await;
        if let Ok(image) = &result {
            transfer::validate(&self.store, &image.manifest).await.expect("what was built is whole");
        }
        Built { result, events: events.into_inner().expect("no panic") }
    }

    /// Builds a Dockerfile that must build.
    #[track_caller]
    pub fn config(&self, built: &Built) -> ImageConfig {
        let manifest = self.manifest(built);
        serde_json::from_slice(&self.store.read(&manifest.config).expect("reads")).expect("a config")
    }

    #[track_caller]
    pub fn manifest(&self, built: &Built) -> Manifest {
        let image = built.image();
        assert_eq!(image.manifest.media_type, MediaType::MANIFEST);
        serde_json::from_slice(&self.store.read(&image.manifest).expect("reads")).expect("a manifest")
    }

    /// Returns what GNU tar lists of each layer: mode, owner, size, date, name.
    #[track_caller]
    pub fn layers(&self, built: &Built) -> Vec<Vec<String>> {
        let layers = self.manifest(built).layers;
        layers
            .iter()
            .map(|layer| {
                let blob = self.store.blob_path(&layer.digest);
                let output = std::process::Command::new("tar")
                    .args(["--numeric-owner", "--utc", "--full-time", "-tvzf"])
                    .arg(blob)
                    .output()
                    .expect("tar runs");
                assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
                let text = String::from_utf8(output.stdout).expect("names are UTF-8 here");
                text.lines().map(|line| line.split_whitespace().collect::<Vec<_>>().join(" ")).collect()
            })
            .collect()
    }

    /// Returns a file of the merged layers.
    #[track_caller]
    pub fn file(&self, built: &Built, path: &str) -> String {
        for layer in self.manifest(built).layers.iter().rev() {
            let blob = self.store.blob_path(&layer.digest);
            let output = std::process::Command::new("tar").args(["-xzOf"]).arg(blob).arg(path).output().expect("tar runs");
            if output.status.success() {
                return String::from_utf8(output.stdout).expect("text");
            }
        }
        panic!("no layer has {path}");
    }
}
