//! `ADD` of git repositories, served by git's own servers; what comes is compared with what git says.

use std::net::TcpListener;
use std::process::{Child, Command, Stdio};

use pkgbuild::builder::embedded::remote::{RemoteAccess, RemoteLimits, RemoteSettings};

use crate::fixture::{Built, Test};
use crate::remote_http::{another_run, settings, test};
use crate::web::{Reply, Repository, Web};

/// Returns the layer that an image ends with, unpacked.
fn unpacked(test: &Test, built: &Built) -> tempfile::TempDir {
    let directory = tempfile::tempdir().expect("temp dir");
    for layer in test.manifest(built).layers {
        let blob = test.store.blob_path(&layer.digest);
        let status = Command::new("tar").arg("-xpzf").arg(blob).arg("-C").arg(directory.path()).status().expect("tar runs");
        assert!(status.success());
    }
    directory
}

fn sh(directory: &std::path::Path, script: &str) -> String {
    let mut command = Command::new("bash");
    command
        .args(["-ec", script])
        .current_dir(directory)
        .env("GIT_CONFIG_GLOBAL", "/dev/null")
        .env("GIT_CONFIG_SYSTEM", "/dev/null");
    let output = command.output().expect("runs");
    assert!(output.status.success(), "{script}\n{}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).expect("text").trim_end().to_owned()
}

/// Builds an image of one `ADD` and returns its names.
async fn added(test: &mut Test, add: &str) -> Vec<String> {
    test.dockerfile(&format!("FROM scratch\nADD {add} /\n"));
    let built = test.build().await;
    test.layers(&built)[0].iter().map(|line| line.splitn(6, ' ').nth(5).expect("a name").to_owned()).collect()
}

async fn refused(test: &mut Test, add: &str) -> String {
    test.dockerfile(&format!("FROM scratch\nADD {add} /\n"));
    test.build().await.error()
}

#[tokio::test]
async fn a_commit_has_the_files_that_git_checks_out() {
    let repository = Repository::new();
    let script =
        "mkdir -p d/e empty; echo 1 > d/e/f; echo '#!/bin/sh' > run; chmod 755 run; ln -s d/e/f link; printf 'a\\r\\n' > crlf
                  echo 'crlf text eol=crlf
                  run filter=evil' > .gitattributes; chmod 600 d/e/f; printf x > $'n\\303\\244me'";
    let commit = repository.commit(script);
    let web = Web::git(repository.directory.path());
    let mut test = test();
    test.dockerfile(&format!("FROM scratch\nADD {} /src\n", web.url("/a.git")));
    let built = test.build().await;
    let out = unpacked(&test, &built);
    let listed = sh(out.path(), "cd src; find . ! -type l -printf '%p %M\\n' | LC_ALL=C sort; readlink link");
    let expected = ". drwxr-xr-x|./.gitattributes -rw-r--r--|./crlf -rw-r--r--|./d drwxr-xr-x|./d/e drwxr-xr-x|\
                    ./d/e/f -rw-r--r--|./n\u{e4}me -rw-r--r--|./run -rwxr-xr-x|d/e/f";
    assert_eq!(listed.lines().collect::<Vec<_>>(), expected.split('|').collect::<Vec<_>>());
    // Each file is, byte for byte, the blob.
    let listed = repository.git("-C a.git ls-tree -r --format='%(objectname) %(path)' HEAD -- d crlf run");
    for line in listed.lines() {
        let (id, path) = line.split_once(' ').expect("two words");
        assert_eq!(sh(out.path(), &format!("git hash-object --no-filters src/{path}")), id);
    }
    assert!(!out.path().join("src/.git").exists());
    assert!(test.layers(&built)[0].iter().all(|line| line.contains("1970-01-01 00:00:00")));
    // The same by its own name, from what is in the cache.
    let asked = web.count();
    another_run(&mut test, &RemoteSettings { access: RemoteAccess::Offline, ..settings() });
    test.dockerfile(&format!("FROM scratch\nADD {}#{commit} /src\n", web.url("/a.git")));
    // The history tells the two apart; the layer does not.
    assert_eq!(test.manifest(&test.build().await).layers, test.manifest(&built).layers);
    assert_eq!(web.count(), asked);
}

#[tokio::test]
async fn names_mean_what_they_mean_to_buildkit() {
    let repository = Repository::new();
    let first = repository.commit("echo 1 > one");
    repository.git("-C a.git tag light; git -C a.git tag -a -m x annotated; git -C a.git branch both");
    repository.commit("echo 2 > two");
    repository.git("-C a.git tag both; git -C a.git branch dir/inner; git -C a.git update-ref refs/pull/7/head light");
    let hidden = repository.commit("mkdir -p s/t; echo 3 > s/t/three");
    repository.git("-C a.git reset -q --hard HEAD^; git -C a.git gc -q");
    let web = Web::git(repository.directory.path());
    let url = web.url("/a.git");
    let mut test = test();
    for (reference, names) in [
        ("", vec!["one", "two"]),
        ("#light", vec!["one"]),
        ("#annotated", vec!["one"]),
        ("#both", vec!["one"]),
        ("#refs/tags/both", vec!["one", "two"]),
        ("#tags/light", vec!["one"]),
        ("#dir/inner", vec!["one", "two"]),
        ("?branch=main", vec!["one", "two"]),
        ("?tag=annotated", vec!["one"]),
        ("#refs/pull/7/head", vec!["one"]),
        (&format!("#{first}"), vec!["one"]),
        // Reachable from nothing, as a commit that was replaced by force.
        (&format!("#{hidden}:s"), vec!["t/", "t/three"]),
        (&format!("?ref={hidden}&subdir=/s/t/"), vec!["three"]),
    ] {
        assert_eq!(added(&mut test, &format!("{url}{reference}")).await, names, "{reference}");
    }
    let checked = added(&mut test, &format!("--checksum={} {url}#annotated", &first[..10])).await;
    assert_eq!(checked, ["one"]);
    let tag = repository.git("-C a.git rev-parse annotated");
    assert_eq!(added(&mut test, &format!("--checksum={tag} {url}#annotated")).await, ["one"]);
    assert_eq!(added(&mut test, &format!("{url}#{tag}")).await, ["one"]);
    assert_eq!(added(&mut test, &format!("{url}?fetch-by-commit=1&checksum={first}#moved")).await, ["one"]);
    for (add, says) in [
        (format!("{url}#nowhere"), "has no branch or tag `nowhere`".to_owned()),
        (format!("--checksum={hidden} {url}#light"), format!("is at the commit {first}, and the Dockerfile wants {hidden}")),
        (format!("{url}#{}", "1".repeat(40)), "1111111".to_owned()),
        (format!("{url}#{}", "1".repeat(64)), "SHA-256".to_owned()),
        (format!("{url}#:one"), "has no directory `one`".to_owned()),
        (format!("{url}#:no"), "has no directory `no`".to_owned()),
        (web.url("/none.git"), "404".to_owned()),
    ] {
        let error = refused(&mut test, &add).await;
        assert!(error.contains(&says), "{add}: {error}");
    }
}

#[tokio::test]
async fn a_branch_is_asked_for_once_in_a_run_and_only_what_is_new_is_fetched() {
    let repository = Repository::new();
    repository.commit("head -c 300000 /dev/urandom > big; echo 1 > small");
    let web = Web::git(repository.directory.path());
    let url = web.url("/a.git");
    let mut test = test();
    added(&mut test, &url).await;
    let listed = |web: &Web| web.seen().iter().filter(|seen| seen.target.contains("info/refs")).count();
    assert_eq!(listed(&web), 2, "for its name, and for its files");
    repository.commit("echo 2 > small");
    test.dockerfile(&format!("FROM scratch\nADD {url} /\n"));
    assert_eq!(test.file(&test.build().await, "small"), "1\n");
    assert_eq!(listed(&web), 2);
    another_run(&mut test, &settings());
    assert_eq!(test.file(&test.build().await, "small"), "2\n");
    let packs = test.directory.path().join("cache/pkgbuild/v1/remote/git");
    let sizes = sh(&packs, "find . -name '*.pack' -printf '%s\\n' | sort -n");
    let sizes: Vec<u64> = sizes.lines().map(|size| size.parse().expect("a number")).collect();
    assert!(sizes.len() == 2 && sizes[0] < 10_000 && sizes[1] > 300_000, "{sizes:?}");
}

#[tokio::test]
async fn a_kept_repository_is_one_and_the_same_from_everywhere() {
    let repository = Repository::new();
    repository.commit("echo old > f");
    repository
        .commit("mkdir d; echo 1 > d/f; ln -s d l; echo x > run; chmod 755 run; head -c 100000 /dev/zero > zeros; touch nothing");
    repository.git("-C a.git tag -a -m x v1.0");
    let web = Web::git(repository.directory.path());
    let url = web.url("/a.git").replace("://", "://user:secret@");
    let mut layers = Vec::new();
    for _ in 0..2 {
        let mut test = test();
        test.dockerfile(&format!("FROM scratch\nADD --keep-git-dir=true {url}#v1.0 /src\n"));
        let built = test.build().await;
        layers.push(test.manifest(&built).layers);
        let out = unpacked(&test, &built);
        let source = out.path().join("src");
        assert_eq!(
            sh(&source, "git fsck --strict 2>&1; git status --porcelain; git rev-parse HEAD"),
            repository.git("-C a.git rev-parse HEAD")
        );
        assert_eq!(sh(&source, "git describe --tags --dirty; git rev-list --count HEAD; git log -1 --format=%s"), "v1.0\n1\nx");
        assert_eq!(
            sh(&source, "git config remote.origin.url; git cat-file -t v1.0; git rev-parse --is-shallow-repository"),
            format!("{}\ntag\ntrue", web.url("/a.git"))
        );
        assert_eq!(
            sh(&source, "echo 2 > d/f; git describe --dirty; git stash -q; cat d/f; ls -A .git/hooks 2>&1 || true")
                .lines()
                .take(2)
                .collect::<Vec<_>>(),
            ["v1.0-dirty", "1"]
        );
        let all = sh(out.path(), "grep -rl secret . || true");
        assert_eq!(all, "");
    }
    assert_eq!(layers[0], layers[1]);
    // Of a directory of a repository there is none to keep.
    assert_eq!(added(&mut test(), &format!("--keep-git-dir=true {url}#v1.0:d")).await, ["f"]);
}

#[tokio::test]
async fn submodules_come_along_with_those_of_their_own() {
    let repository = Repository::new();
    repository.sh(
        "for r in inner sub; do git init -q -b main $r.git; done
         cd inner.git; echo i > deep; git add .; git commit -qm x; cd ../sub.git; mkdir d; echo s > d/f
         git -c protocol.file.allow=always submodule --quiet add ../inner.git in; git config -f .gitmodules submodule.in.url ../inner.git
         git add .; git commit -qm x",
    );
    repository.commit(
        "git -c protocol.file.allow=always submodule --quiet add ../sub.git lib/sub; git config -f .gitmodules submodule.lib/sub.url ../sub.git; echo 1 > f",
    );
    let web = Web::git(repository.directory.path());
    let url = web.url("/a.git");
    let mut test = test();
    let all = [
        ".gitmodules",
        "f",
        "lib/",
        "lib/sub/",
        "lib/sub/.gitmodules",
        "lib/sub/d/",
        "lib/sub/d/f",
        "lib/sub/in/",
        "lib/sub/in/deep",
    ];
    assert_eq!(added(&mut test, &url).await, all);
    assert_eq!(added(&mut test, &format!("{url}?submodules=false")).await, [".gitmodules", "f", "lib/", "lib/sub/"]);
    assert_eq!(
        added(&mut test, &format!("{url}#:lib")).await,
        ["sub/", "sub/.gitmodules", "sub/d/", "sub/d/f", "sub/in/", "sub/in/deep"]
    );
    assert_eq!(added(&mut test, &format!("{url}#:lib/sub/in")).await, ["deep"]);
    let test2 = &mut self::test();
    test2.dockerfile(&format!("FROM scratch\nADD --keep-git-dir {url} /src\n"));
    let built = test2.build().await;
    let out = unpacked(test2, &built);
    assert_eq!(sh(&out.path().join("src"), "git status --porcelain; cat lib/sub/in/deep"), "i");
}

#[tokio::test]
async fn submodules_that_lead_astray_are_refused() {
    for (url, says) in [
        ("file:///etc", "has an address that is not fetched from"),
        ("/etc", "has an address that is not fetched from"),
        ("ext::sh -c id", "has an address that is not fetched from"),
        ("../../../../../../x", "has an address that is not fetched from"),
        ("ssh://-oProxyCommand=x/y", "has an address that is not fetched from"),
        ("http://169.254.169.254/x.git", "builds may not fetch from"),
        ("", "has no address"),
    ] {
        let repository = Repository::new();
        repository.commit(&format!(
            "mkdir m; git update-index --add --cacheinfo 160000,{},m; printf '[submodule \"m\"]\\npath = m\\n' > .gitmodules; \
             [ -z '{url}' ] || git config -f .gitmodules submodule.m.url '{url}'",
            "2".repeat(40)
        ));
        let web = Web::git(repository.directory.path());
        let error = refused(&mut test(), &web.url("/a.git")).await;
        assert!(error.contains(says), "{url}: {error}");
    }
    let repository = Repository::new();
    repository.commit(&format!("mkdir m; git update-index --add --cacheinfo 160000,{},m", "2".repeat(40)));
    let web = Web::git(repository.directory.path());
    assert!(refused(&mut test(), &web.url("/a.git")).await.contains("the submodule `m`"));
}

#[tokio::test]
async fn trees_that_git_would_not_write_are_refused() {
    for (name, says) in [
        (".git", "a name is that of a repository's own files"),
        (".GIT", "a name is that of a repository's own files"),
        ("..", "a name means another directory"),
        (".", "a name means another directory"),
        ("a/b", "a name has a slash in it"),
    ] {
        let repository = Repository::new();
        repository.commit("echo x > f");
        repository.sh(&format!(
            "cd a.git; blob=$(git rev-parse HEAD:f)
             tree=$( (printf '100644 {name}\\0'; printf $(echo $blob | sed 's/../\\\\x&/g')) | git hash-object -t tree --literally -w --stdin)
             git reset -q --hard; git update-ref refs/heads/main $(git commit-tree -m x $tree)"
        ));
        let web = Web::git(repository.directory.path());
        let error = refused(&mut test(), &web.url("/a.git")).await;
        assert!(error.contains(says), "{name}: {error}");
    }
}

#[tokio::test]
async fn a_link_is_no_way_to_a_directory() {
    let repository = Repository::new();
    repository.commit("ln -s /etc out; ln -s .. up; mkdir d; echo 1 > d/f; ln -s d alias");
    let web = Web::git(repository.directory.path());
    for directory in ["out", "up", "up/etc", "alias", "d/../out", "../../etc"] {
        let error = refused(&mut test(), &format!("{}#:{directory}", web.url("/a.git"))).await;
        assert!(error.contains("has no directory"), "{directory}: {error}");
    }
}

#[tokio::test]
async fn a_server_may_be_old_or_lead_elsewhere_or_be_none() {
    let repository = Repository::new();
    let first = repository.commit("echo 1 > one");
    repository.commit("echo 2 > two");
    let root = repository.directory.path().to_owned();
    let web = Web::start(move |seen| {
        let mut seen = seen.clone();
        if let Some(rest) = seen.target.strip_prefix("/moved") {
            return Reply::to(rest);
        }
        if let Some(rest) = seen.target.clone().strip_prefix("/old") {
            seen.headers.remove("git-protocol");
            seen.target = rest.to_owned();
        }
        match &seen.target[..] {
            target if target.starts_with("/page.git") => Reply::file("<html>").header("Content-Type", "text/html"),
            target if target.starts_with("/lies.git") => {
                Reply::file("0bad").header("Content-Type", "application/x-git-upload-pack-advertisement")
            }
            target if target.starts_with("/busy.git") && seen.before == 0 => Reply::status(503),
            target if target.starts_with("/busy.git") => crate::web::git_backend(
                &root,
                &crate::web::Seen { target: target.replacen("/busy.git", "/a.git", 1), ..seen.clone() },
            ),
            _ => crate::web::git_backend(&root, &seen),
        }
    });
    for path in ["/old/a.git", "/moved/a.git", "/busy.git"] {
        assert_eq!(added(&mut test(), &web.url(path)).await, ["one", "two"], "{path}");
    }
    // Version 0 gives no commit that it does not name, but the whole history has it.
    assert_eq!(added(&mut test(), &format!("{}#{first}", web.url("/old/a.git"))).await, ["one"]);
    assert!(refused(&mut test(), &web.url("/page.git")).await.contains("no repository answers there"));
    assert!(refused(&mut test(), &web.url("/lies.git")).await.contains("does not speak git's protocol"));
    let mut small = test();
    another_run(&mut small, &RemoteSettings { limits: RemoteLimits { pack: 100, ..RemoteLimits::default() }, ..settings() });
    assert!(refused(&mut small, &web.url("/a.git")).await.contains("has more than 100 bytes"));
    another_run(&mut small, &RemoteSettings { limits: RemoteLimits { blob: 1, ..RemoteLimits::default() }, ..settings() });
    assert!(refused(&mut small, &web.url("/a.git")).await.contains("a file is too large"));
    another_run(&mut small, &RemoteSettings { limits: RemoteLimits { files: 3, ..RemoteLimits::default() }, ..settings() });
    assert!(refused(&mut small, &web.url("/a.git")).await.contains("there is too much in it"));
}

#[tokio::test]
async fn a_damaged_cache_is_fetched_anew() {
    let repository = Repository::new();
    repository.commit("head -c 5000 /dev/urandom > f");
    let web = Web::git(repository.directory.path());
    let mut test = test();
    added(&mut test, &web.url("/a.git")).await;
    let cache = test.directory.path().join("cache/pkgbuild/v1/remote");
    sh(
        &cache,
        "for p in git/*/objects/pack/*.pack; do chmod u+w $p; printf '\\0\\0\\0\\0\\0\\0' | dd of=$p bs=1 seek=200 conv=notrunc status=none; done; rm layers/*",
    );
    sh(&cache, "rm -r ../layers/*");
    another_run(&mut test, &settings());
    assert_eq!(added(&mut test, &web.url("/a.git")).await, ["f"]);
}

/// A server for git's own protocol; ends when dropped.
struct Daemon(Child, u16);

impl Daemon {
    fn start(root: &std::path::Path) -> Self {
        let port = TcpListener::bind("127.0.0.1:0").expect("binds").local_addr().expect("bound").port();
        let mut command = Command::new("git");
        command.args(["daemon", "--listen=127.0.0.1", "--export-all", "--reuseaddr", "--informative-errors"]);
        command.arg(format!("--port={port}")).arg(format!("--base-path={}", root.display())).stderr(Stdio::null());
        command.env("GIT_CONFIG_GLOBAL", "/dev/null").env("GIT_CONFIG_COUNT", "1");
        command.env("GIT_CONFIG_KEY_0", "safe.directory").env("GIT_CONFIG_VALUE_0", "*");
        let child = command.spawn().expect("git runs");
        while std::net::TcpStream::connect(("127.0.0.1", port)).is_err() {
            std::thread::sleep(std::time::Duration::from_millis(10));
        }
        Self(child, port)
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        // `git daemon` is a child of `git`, which passes the signal on.
        drop(Command::new("kill").arg(self.0.id().to_string()).status());
        drop(self.0.wait());
    }
}

#[tokio::test]
async fn gits_own_protocol_is_spoken() {
    let repository = Repository::new();
    let first = repository.commit("echo 1 > one");
    repository.commit("echo 2 > two");
    let daemon = Daemon::start(repository.directory.path());
    let url = format!("git://127.0.0.1:{}/a.git", daemon.1);
    assert_eq!(added(&mut test(), &url).await, ["one", "two"]);
    assert_eq!(added(&mut test(), &format!("{url}#{first}")).await, ["one"]);
    let error = refused(&mut test(), &format!("git://127.0.0.1:{}/none", daemon.1)).await;
    assert!(error.contains("says:"), "{error}");
    assert!(refused(&mut test(), "git://169.254.169.254/x").await.contains("builds may not fetch from"));
}
