use super::*;

fn git(text: &str) -> GitSource {
    match RemoteSource::parse(text, Flags::default()) {
        Ok(Some(RemoteSource::Git(source))) => source,
        other => panic!("{text}: {other:?}"),
    }
}

fn http(text: &str) -> HttpSource {
    match RemoteSource::parse(text, Flags::default()) {
        Ok(Some(RemoteSource::Http(source))) => source,
        other => panic!("{text}: {other:?}"),
    }
}

#[test]
fn repositories_files_and_paths_are_told_apart() {
    for text in
        ["a.git", "./git@x", "dir", "github.com/a/b", "custom.xyz/a/b.git", "file:///etc/passwd", ".git", "git@x", "a@b/c:d"]
    {
        assert_eq!(RemoteSource::parse(text, Flags::default()), Ok(None), "{text}");
    }
    for text in [
        "https://x/a.tgz",
        "http://x/",
        "https://x/a.git/",
        "https://x/a.git.bar",
        "http://x/docker.git:#branch",
        "https://x/a?b=c.git",
    ] {
        http(text);
    }
    for text in ["git@github.com:a/b", "https://x/a.git", "https://x/a.git#v1:sub", "git://x/a", "ssh://x/a", "HTTPS://x/a.git"] {
        git(text);
    }
}

#[test]
fn what_of_a_repository_is_meant_is_read_as_buildkit_reads_it() {
    for (text, repository, reference, subdirectory) in [
        ("https://example.com/foo.git", "https://example.com/foo.git", None, ""),
        ("https://example.com/foo.git#deadbeef", "https://example.com/foo.git", Some("deadbeef"), ""),
        ("https://example.com/foo.git#release/1.2", "https://example.com/foo.git", Some("release/1.2"), ""),
        ("git://example.com/foo", "git://example.com/foo", None, ""),
        ("https://foo:bar@h.example/m/b.git", "https://h.example/m/b.git", None, ""),
        ("git@github.com:moby/buildkit", "git@github.com:moby/buildkit", None, ""),
        ("https://h.example/bar.git#baz/qux:quux/quuz", "https://h.example/bar.git", Some("baz/qux"), "quux/quuz"),
        ("https://h.example/docker.git#:myfolder", "https://h.example/docker.git", None, "myfolder"),
        ("https://h.example/docker.git?ref=v1.0.0&subdir=/subdir", "https://h.example/docker.git", Some("v1.0.0"), "subdir"),
        ("https://h.example/b.git?subdir=/subdir#v1.0.0", "https://h.example/b.git", Some("v1.0.0"), "subdir"),
        ("https://h.example/b.git?tag=v1.0.0", "https://h.example/b.git", Some("refs/tags/v1.0.0"), ""),
        ("https://h.example/b.git?branch=v1.0", "https://h.example/b.git", Some("refs/heads/v1.0"), ""),
        ("git@github.com:moby/b.git?subdir=/subdir#v1.0.0", "git@github.com:moby/b.git", Some("v1.0.0"), "subdir"),
        ("https://h.example/b.git#:../../etc/../x", "https://h.example/b.git", None, "x"),
        ("ssh://git@h.example:2222/a/b.git", "ssh://git@h.example:2222/a/b.git", None, ""),
        ("ssh://git@h.example:80/a", "ssh://git@h.example:80/a", None, ""),
        ("https://h.example:8443/b.git", "https://h.example:8443/b.git", None, ""),
    ] {
        let source = git(text);
        assert_eq!(source.repository.to_string(), repository, "{text}");
        assert_eq!((source.reference.as_deref(), &*source.subdirectory), (reference, subdirectory), "{text}");
    }
    let query = git("https://h.example/b.git?keep-git-dir&submodules=false&mtime=commit&commit=abc");
    assert!(query.keep_git_dir && !query.submodules);
    assert_eq!(query.checksum.as_deref(), Some("abc"));
    assert!(!git("https://h.example/b.git?keep-git-dir=true#:sub").keep_git_dir, "a directory of a repository is none");
}

#[test]
fn contradictions_and_nonsense_are_refused() {
    for text in [
        "https://h.example/b.git?ref=v1.0.0#v1.2.3",
        "https://h.example/b.git?ref=v1.0.0&tag=v1.2.3",
        "https://h.example/b.git?tag=v1.0.0&branch=v1.0",
        "https://h.example/b.git?mtime=invalid",
        "https://h.example/b.git?ref=",
        "https://h.example/b.git?ref=a&ref=a",
        "https://h.example/b.git?submodules=maybe",
        "https://h.example/b.git?color=red",
        "https://h.example/b.git#--upload-pack=touch",
        "https://h.example/b.git#a b",
        "https://h.example/b.git?checksum=xyz",
        "https://h.example/b.git?fetch-by-commit=true#main",
        "https://h.example/b.git?checksum=ffff#0123456789012345678901234567890123456789",
        "ssh://-oProxyCommand=touch/x",
        "ssh://h.example/%0ax",
        "http://",
        "https://:80/a",
        "https://h.example/a/..",
        "https://h.example/%00",
        "https://h.example/a%2f%2e%2e",
        "https://h.example/%zz",
    ] {
        assert!(RemoteSource::parse(text, Flags::default()).is_err(), "{text}");
    }
    let flags = Flags { checksum: Some("md5:00"), ..Flags::default() };
    assert!(RemoteSource::parse("https://x/a", flags).is_err());
    let flags = Flags { keep_git_dir: Some(false), ..Flags::default() };
    assert!(RemoteSource::parse("https://x/a.git?keep-git-dir=true", flags).is_err());
}

#[test]
fn a_file_has_the_last_name_of_its_path() {
    for (text, name) in [
        ("https://h.example/a/b.tgz", "b.tgz"),
        ("https://h.example/a/b.tgz?x=/y#z", "b.tgz"),
        ("https://h.example/a/b/", "b"),
        ("https://h.example/a%20b", "a b"),
        ("https://h.example/a%2Fb", "b"),
        ("https://h.example/", "__unnamed__"),
        ("https://h.example", "__unnamed__"),
        ("https://h.example?a=b/c", "__unnamed__"),
        ("https://h.example/[x]*", "[x]*"),
    ] {
        assert_eq!(http(text).name, name, "{text}");
    }
}

#[test]
fn no_text_shows_a_password() {
    let source = http("https://user:secret@h.example/a?token=secret");
    assert_eq!(source.url.to_string(), "https://h.example/a");
    assert!(!format!("{source:?} {:?}", git("https://user:secret@h.example/b.git")).contains("secret"));
    for (text, shown) in [
        ("ADD https://u:secret@h/a.git?x#y /d", "ADD https://h/a.git?x#y /d"),
        ("https://secret@h/a ssh://git@h/b ssh://git:secret@h/b", "https://h/a ssh://git@h/b ssh://h/b"),
        ("https://h/a@b git@h:c", "https://h/a@b git@h:c"),
        ("https://u:p@ss@h/x", "https://h/x"),
    ] {
        assert_eq!(without_user(text), shown);
    }
}

#[test]
fn a_submodule_lies_where_git_would_look() {
    for (repository, text, expected) in [
        ("https://h.example/a/b.git", "../c.git", "https://h.example/a/c.git"),
        ("https://h.example/a/b.git", "../../x/c", "https://h.example/x/c"),
        ("https://h.example/a/b.git", "./c", "https://h.example/a/b.git/c"),
        ("git@h.example:a/b.git", "../c.git", "git@h.example:a/c.git"),
        ("https://h.example/a/b.git", "ssh://git@o.example/c", "ssh://git@o.example/c"),
    ] {
        let found = git(repository).repository.submodule(text).map(|url| url.to_string());
        assert_eq!(found.as_deref(), Some(expected), "{repository} {text}");
    }
    for text in ["file:///etc", "/etc/x", "../../../../x", "ext::sh -c id", "-x", "ssh://-x/y", "c", ""] {
        assert_eq!(git("https://h.example/a/b.git").repository.submodule(text), None, "{text}");
    }
}
