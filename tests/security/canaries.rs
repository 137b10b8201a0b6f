//! What must not be seen or changed.

use std::io::Read;
use std::net::TcpListener;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};
use std::process::Command;

use crate::fixture::{Built, Test};

/// A directory of this machine that no build is told of.
pub struct Canaries {
    directory: tempfile::TempDir,
    secret: String,
    before: Vec<String>,
    tcp: TcpListener,
    _unix: UnixListener,
}

impl Canaries {
    pub fn new() -> Self {
        let directory = tempfile::tempdir().expect("temp dir");
        let path = directory.path();
        // Not in any binary as a whole.
        let secret = format!("canary-{}-{}", std::process::id(), path.file_name().expect("a name").to_string_lossy());
        std::fs::write(path.join("canary"), &secret).expect("writes");
        std::fs::create_dir_all(path.join("b/inner")).expect("creates");
        std::fs::write(path.join("b/file"), &secret).expect("writes");
        std::fs::copy("/bin/true", path.join("helper")).expect("copies");
        std::fs::set_permissions(path.join("helper"), std::fs::Permissions::from_mode(0o4755)).expect("sets");
        let unix = UnixListener::bind(path.join("socket")).expect("binds");
        let tcp = TcpListener::bind("127.0.0.1:0").expect("binds");
        tcp.set_nonblocking(true).expect("sets");
        let before = listing(path);
        Self { directory, secret, before, tcp, _unix: unix }
    }

    pub fn path(&self) -> &Path {
        self.directory.path()
    }

    /// The path as text, for Dockerfiles.
    pub fn name(&self) -> String {
        self.path().to_str().expect("a temporary path is UTF-8").to_owned()
    }

    pub fn port(&self) -> u16 {
        self.tcp.local_addr().expect("bound").port()
    }

    /// Nothing was changed, nobody came, and neither output, error nor image show the secret.
    #[track_caller]
    pub fn assert_safe(&self, test: &Test, built: &Built) {
        assert_eq!(listing(self.path()), self.before, "something outside changed");
        let visit = self.tcp.accept().map(|_| ()).expect_err("nobody may come");
        assert_eq!(visit.kind(), std::io::ErrorKind::WouldBlock);
        assert!(!built.log().contains(&self.secret), "a step shows what is outside: {}", built.log());
        match &built.result {
            Err(_) => assert!(!built.error().contains(&self.secret), "{}", built.error()),
            Ok(image) => {
                let mut blobs = vec![test.store.blob_path(&image.manifest.digest)];
                let manifest = test.manifest(built);
                blobs.push(test.store.blob_path(&manifest.config.digest));
                blobs.extend(manifest.layers.iter().map(|layer| test.store.blob_path(&layer.digest)));
                for blob in blobs {
                    assert!(!contains(&unpacked(&blob), self.secret.as_bytes()), "{} holds it", blob.display());
                }
            }
        }
    }
}

fn unpacked(blob: &Path) -> Vec<u8> {
    let bytes = std::fs::read(blob).expect("reads");
    if !bytes.starts_with(&[0x1f, 0x8b]) {
        return bytes;
    }
    let mut plain = Vec::new();
    flate2::read::MultiGzDecoder::new(&bytes[..]).read_to_end(&mut plain).expect("gzip");
    plain
}

pub fn contains(bytes: &[u8], part: &[u8]) -> bool {
    bytes.windows(part.len()).any(|window| window == part)
}

/// Every path with mode, owner, links and content; times of reading do not count.
fn listing(directory: &Path) -> Vec<String> {
    let mut found = Vec::new();
    let mut wanted: Vec<PathBuf> = vec![directory.to_owned()];
    while let Some(path) = wanted.pop() {
        let metadata = path.symlink_metadata().expect("reads");
        let content =
            if metadata.is_file() { blake3::hash(&std::fs::read(&path).expect("reads")).to_string() } else { String::new() };
        let attributes = Command::new("getfattr").args(["-d", "-m", "-", "--absolute-names"]).arg(&path).output();
        let attributes = attributes.map(|output| String::from_utf8_lossy(&output.stdout).into_owned()).unwrap_or_default();
        found.push(format!(
            "{} {:o} {} {} {} {} {content} {attributes}",
            path.display(),
            metadata.mode(),
            metadata.uid(),
            metadata.gid(),
            metadata.nlink(),
            metadata.mtime_nsec(),
        ));
        if metadata.is_dir() {
            wanted.extend(std::fs::read_dir(&path).expect("lists").map(|entry| entry.expect("an entry").path()));
        }
    }
    found.sort();
    found
}
