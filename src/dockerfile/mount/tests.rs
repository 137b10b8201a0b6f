use proptest::prelude::*;

use super::*;

fn parse(text: &str) -> Result<Mount, MountError> {
    let lookup = |name: &str| (name == "dir").then(|| "/srv".to_owned());
    Mount::parse(&MountText::parse(text)?, '\\', &lookup)
}

fn bind(from: Option<&str>, source: &str) -> MountKind {
    MountKind::Bind { from: from.map(str::to_owned), source: source.to_owned() }
}

fn cache(id: &str, sharing: Sharing) -> MountKind {
    MountKind::Cache { id: id.to_owned(), sharing, from: None, source: String::new() }
}

fn secret(id: &str, env: Option<&str>, required: bool) -> MountKind {
    MountKind::Secret { id: id.to_owned(), env: env.map(str::to_owned), required }
}

#[test]
fn each_kind_has_its_options_and_defaults() {
    for (text, kind, target, read_only) in [
        ("target=/x", bind(None, ""), "/x", true),
        ("type=bind,dst=/x,src=a", bind(None, "a"), "/x", true),
        ("type=BIND,destination=x,source=/a,rw", bind(None, "/a"), "x", false),
        ("target=/x,ro=false", bind(None, ""), "/x", false),
        ("target=/x,readwrite=0", bind(None, ""), "/x", true),
        ("target=/x,readonly", bind(None, ""), "/x", true),
        ("from=build,target=/x", bind(Some("build"), ""), "/x", true),
        ("from=,target=/x", bind(None, ""), "/x", true),
        ("Type=bind,Target=$dir/y", bind(None, ""), "/srv/y", true),
        ("type=cache,target=/root/.cache/", cache("/root/.cache", Sharing::Shared), "/root/.cache/", false),
        ("type=cache,id=go,target=/go,sharing=locked", cache("go", Sharing::Locked), "/go", false),
        ("type=cache,target=/go,sharing=PRIVATE,ro", cache("/go", Sharing::Private), "/go", true),
        ("type=cache,target=${dir}", cache("/srv", Sharing::Shared), "/srv", false),
        ("type=tmpfs,target=/t", MountKind::Tmpfs { size: 0 }, "/t", false),
        ("type=tmpfs,target=/t,size=64m", MountKind::Tmpfs { size: 64 << 20 }, "/t", false),
        ("type=tmpfs,target=/t,size=1.5GiB,ro", MountKind::Tmpfs { size: 3 << 29 }, "/t", true),
        ("type=secret,id=key", secret("key", None, false), "/run/secrets/key", true),
        ("type=secret,id=a/key", secret("a/key", None, false), "/run/secrets/key", true),
        ("type=secret,source=key,required", secret("key", None, true), "/run/secrets/key", true),
        ("type=secret,target=/etc/key,required=true", secret("key", None, true), "/etc/key", true),
        ("type=secret,id=key,env=KEY", secret("key", Some("KEY"), false), "", true),
        ("type=secret,id=key,env=KEY,target=/k", secret("key", Some("KEY"), false), "/k", true),
        ("type=ssh", MountKind::Ssh { id: "default".to_owned(), required: false }, "", true),
        ("type=ssh,id=x,required=1", MountKind::Ssh { id: "x".to_owned(), required: true }, "", true),
        ("\"target=/a,b\"", bind(None, ""), "/a,b", true),
        // The quotes of the list come off first, then those of the value.
        ("\"target=/a\"\"b c\"\"\",rw", bind(None, ""), "/ab c", false),
    ] {
        let mount = parse(text).unwrap_or_else(|error| panic!("{text}: {error}"));
        assert_eq!((mount.kind, &mount.target[..], mount.read_only), (kind, target, read_only), "{text}");
    }
    let owned = parse("type=cache,target=/x,uid=7,gid=8,mode=0750").expect("valid");
    assert_eq!((owned.uid, owned.gid, owned.mode), (Some(7), Some(8), Some(0o750)));
}

#[test]
fn what_a_kind_does_not_have_is_told() {
    for (text, message) in [
        ("type=bnd,target=/x", "`bnd` is no mount type: use one of bind, cache, secret, ssh, tmpfs (did you mean `bind`?)"),
        ("tagret=/x", "unknown mount option `tagret` (did you mean `target`?)"),
        ("type=cache,target=/x,sharing=lock", "`lock` is no mount sharing: use one of locked, private, shared"),
        ("target", "`target` needs a value, as in `target=…`"),
        ("colour", "unknown mount option `colour`"),
        ("target=/x,required", "a mount of type bind has no `required`"),
        ("target=/x,size=1", "a mount of type bind has no `size`"),
        ("target=/x,mode=755", "a mount of type bind has no `mode`"),
        ("type=tmpfs,target=/x,uid=1", "a mount of type tmpfs has no `uid`"),
        ("target=/x,sharing=shared", "a mount of type bind has no `sharing`"),
        ("type=secret,id=x,from=y", "a mount of type secret has no `from`"),
        ("type=ssh,source=x", "a mount of type ssh has no `source`"),
        ("type=secret", "a secret mount needs an `id`, a `source` or a `target`"),
        ("type=secret,id=a,source=b", "a secret mount takes `id` or `source`, not both"),
        ("type=tmpfs,target=/x,size=big", "`big` is no value of the mount option `size`: it takes a number of bytes like `64m`"),
        ("type=cache,target=/x,mode=9", "`9` is no value of the mount option `mode`: it takes an octal mode like 0755"),
        ("type=cache,target=/x,uid=root", "`root` is no value of the mount option `uid`: it takes a number"),
        ("target=/x,ro=maybe", "`maybe` is no value of the mount option `readonly`: it takes `true` or `false`"),
        ("from=$dir,target=/x", "`from` of a mount takes no variables: name a stage `FROM $dir AS …` and mount from that"),
        ("\"target=/x", "the quotes in `--mount=\"target=/x` do not match: a field is quoted whole or not at all"),
    ] {
        let told = parse(text).expect_err(text).to_string();
        assert!(told.starts_with(message), "{text}: {told}");
    }
}

proptest! {
    #[test]
    fn no_text_panics(text in r#"(type=(bind|cache|tmpfs|secret|ssh),)?[a-z=,"$/{}0-9é]{0,30}"#) {
        let _ = parse(&text);
    }
}
