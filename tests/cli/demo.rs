//! The packages of `pkg/` in a repository and under an organisation of a test's own.

use crate::support::{Repository, Setup};
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

/// The packages, in the order of their names.
pub const PACKAGES: [&str; 4] = ["pkg/app", "pkg/base", "pkg/hello", "pkg/multi"];

/// Both platforms, as the command line takes them.
pub const PLATFORMS: &str = "linux/amd64,linux/arm64";

/// Returns `pkg/` as a committed repository whose images are called `ORGANISATION/NAME`.
pub fn packages(setup: &Setup, organisation: &str) -> Repository {
    let repository = Repository::new();
    copy(&repository, &Path::new(env!("CARGO_MANIFEST_DIR")).join("pkg"), "pkg", organisation);
    for tar in ["rootfs-amd64.tar", "rootfs-arm64.tar"] {
        repository.write(&format!("pkg/base/{tar}"), fs::read(setup.rootfs().join(tar)).expect("setup has made it"));
    }
    repository.commit("packages");
    repository
}

fn copy(repository: &Repository, from: &Path, to: &str, organisation: &str) {
    for entry in fs::read_dir(from).expect("a directory of the checkout") {
        let entry = entry.expect("a directory of the checkout");
        let name = entry.file_name().into_string().expect("names in the checkout are UTF-8");
        let (path, to) = (entry.path(), format!("{to}/{name}"));
        if path.is_dir() {
            copy(repository, &path, &to, organisation);
        } else if name == "build.yml" {
            let text = fs::read_to_string(&path).expect("a file of the checkout");
            assert!(text.contains("org: pkgbuild\n"), "{}", path.display());
            repository.write(&to, text.replace("org: pkgbuild\n", &format!("org: {organisation}\n")));
        } else if !name.ends_with(".tar") {
            repository.write(&to, fs::read(&path).expect("a file of the checkout"));
            if fs::metadata(&path).expect("a file of the checkout").permissions().mode() & 0o111 != 0 {
                repository.make_executable(&to);
            }
        }
    }
}
