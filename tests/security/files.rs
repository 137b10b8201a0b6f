//! Files of contexts, archives, stages and images that point elsewhere.

use std::os::unix::fs::symlink;

use pkgbuild::oci::{Digest, Document, MediaType};

use crate::canaries::Canaries;
use crate::fixture::{Built, Test};

/// Builds a Dockerfile in which `OUTSIDE` is the directory of the canaries, and checks them.
async fn tried(test: &mut Test, canaries: &Canaries, dockerfile: &str) -> Built {
    test.dockerfile(&dockerfile.replace("OUTSIDE", &canaries.name()));
    let built = test.build().await;
    canaries.assert_safe(test, &built);
    built
}

/// A tar of (type, name, link target, data) that no decent program writes.
fn archive(members: &[(tar::EntryType, &str, &str, &str)]) -> Vec<u8> {
    let mut builder = tar::Builder::new(Vec::new());
    for (kind, name, target, data) in members {
        let mut header = tar::Header::new_ustar();
        header.as_old_mut().name[..name.len()].copy_from_slice(name.as_bytes());
        header.as_old_mut().linkname[..target.len()].copy_from_slice(target.as_bytes());
        header.set_entry_type(*kind);
        header.set_mode(0o4755);
        header.set_size(data.len() as u64);
        header.set_cksum();
        builder.append(&header, data.as_bytes()).expect("appends");
    }
    builder.into_inner().expect("ends")
}

const FILE: tar::EntryType = tar::EntryType::Regular;
const LINK: tar::EntryType = tar::EntryType::Symlink;
const HARD: tar::EntryType = tar::EntryType::Link;
const DIRECTORY: tar::EntryType = tar::EntryType::Directory;

#[tokio::test]
async fn cve_2018_15664_links_of_a_stage_lead_to_files_of_that_stage() {
    let canaries = Canaries::new();
    let mut test = Test::with_busybox().await;
    for copy in
        ["COPY --from=a /out/canary /x", "COPY --from=a /file /x", "COPY --from=a /up/canary /x", "COPY --from=a /out/ /x/"]
    {
        let built = tried(
            &mut test,
            &canaries,
            &format!(
                "FROM busybox AS a\nRUN /bin/busybox ln -s OUTSIDE /out; /bin/busybox ln -s OUTSIDE/canary /file; \
                 /bin/busybox ln -s ../../../../../../..OUTSIDE /up\nFROM scratch\n{copy}\n"
            ),
        )
        .await;
        assert!(built.result.is_err(), "{copy}: there is no such file inside");
    }
}

#[tokio::test]
async fn cve_2019_14271_users_are_looked_up_in_the_image_by_reading_its_files_alone() {
    let canaries = Canaries::new();
    let mut test = Test::with_busybox().await;
    // A library for looking up names that would run, if anything of the image were loaded.
    let built = tried(
        &mut test,
        &canaries,
        "FROM busybox\nRUN mkdir /lib; echo 'passwd: evil' > /etc/nsswitch.conf; echo evil > /lib/libnss_evil.so.2\n\
         COPY --chown=www <<E /owned\nE\nUSER www\nRUN id\n",
    )
    .await;
    built.image();
    assert!(built.log().contains("uid=33"), "{}", built.log());
}

#[tokio::test]
async fn cve_2020_10696_an_archive_of_add_writes_nothing_outside() {
    let canaries = Canaries::new();
    let outside = canaries.name();
    for members in [
        vec![(FILE, "../../../../../../../../../../tmp/evil", "", "evil")],
        vec![(LINK, "out", &outside[..], ""), (FILE, "out/canary", "", "evil"), (FILE, "out/evil", "", "evil")],
        vec![(LINK, "up", "../../../../../../../../..", ""), (FILE, "up/evil", "", "evil")],
        vec![(LINK, "file", &format!("{outside}/canary")[..], ""), (FILE, "file", "", "evil")],
        vec![(HARD, "hard", &format!("{outside}/canary")[..], ""), (FILE, "hard", "", "evil")],
        vec![(LINK, "out", &outside[..], ""), (DIRECTORY, "out/b", "", ""), (FILE, "out/b/.wh.file", "", "")],
        vec![(LINK, "out", &outside[..], ""), (FILE, "out/.wh..wh..opq", "", "")],
        vec![(FILE, &format!("/{outside}/canary")[..], "", "evil")],
    ] {
        let mut test = Test::new();
        test.write("evil.tar", &archive(&members));
        let _ = tried(&mut test, &canaries, "FROM scratch\nADD evil.tar /\nADD evil.tar /deep/er/\n").await;
        assert!(!std::path::Path::new("/tmp/evil").exists() && !std::path::Path::new("/evil").exists());
    }
}

#[tokio::test]
async fn ghsa_w26x_xg27_7qjc_attributes_of_an_archive_are_set_on_nothing_outside() {
    let canaries = Canaries::new();
    let mut test = Test::new();
    let mut builder = tar::Builder::new(Vec::new());
    let mut link = tar::Header::new_ustar();
    link.set_entry_type(LINK);
    link.set_size(0);
    builder.append_link(&mut link, "file", canaries.path().join("canary")).expect("appends");
    builder.append_pax_extensions([("SCHILY.xattr.user.evil", &b"yes"[..])]).expect("appends");
    let mut again = tar::Header::new_ustar();
    again.set_entry_type(LINK);
    again.set_size(0);
    builder.append_link(&mut again, "file", canaries.path().join("canary")).expect("appends");
    test.write("evil.tar", &builder.into_inner().expect("ends"));
    let _ = tried(&mut test, &canaries, "FROM scratch\nADD evil.tar /\n").await;
}

#[tokio::test]
async fn go_2022_1107_no_path_of_this_machine_can_be_copied_by_name() {
    let canaries = Canaries::new();
    for source in
        ["OUTSIDE/canary", "../../../../../../..OUTSIDE/canary", "./../canary", "file://OUTSIDE/canary", "/OUTSIDE/canary"]
    {
        for instruction in ["COPY", "ADD"] {
            let mut test = Test::new();
            let built = tried(&mut test, &canaries, &format!("FROM scratch\n{instruction} {source} /x\n")).await;
            assert!(built.result.is_err(), "{instruction} {source}");
        }
    }
}

#[tokio::test]
async fn buildah_1_44_links_of_the_context_lead_to_files_of_the_context() {
    let canaries = Canaries::new();
    let mut test = Test::new();
    symlink(canaries.path(), test.context().join("out")).expect("links");
    symlink(canaries.path().join("canary"), test.context().join("file")).expect("links");
    symlink(format!("../../../../../../..{}", canaries.name()), test.context().join("up")).expect("links");
    for source in ["out/canary", "file", "up/canary", "out/b/file", "out/*"] {
        let _ = tried(&mut test, &canaries, &format!("FROM scratch\nCOPY {source} /x/\n")).await;
    }
    let built = tried(&mut test, &canaries, "FROM scratch\nCOPY . /x/\n").await;
    built.image();
    let built = tried(&mut test, &canaries, "FROM scratch\nCOPY --from=busybox out /x\n").await;
    assert!(built.result.is_err());
}

#[tokio::test]
async fn cve_2022_4122_and_4123_an_ignore_file_that_is_a_link_is_not_followed_outside() {
    let canaries = Canaries::new();
    for target in [canaries.path().join("canary"), canaries.path().join("b")] {
        let mut test = Test::new();
        test.write("f", b"here");
        symlink(&target, test.context().join(".dockerignore")).expect("links");
        let _ = tried(&mut test, &canaries, "FROM scratch\nCOPY f /\n").await;
    }
    // A pattern of that file must not count, and neither may an error tell its lines.
    let elsewhere = tempfile::tempdir().expect("temp dir");
    std::fs::write(elsewhere.path().join("ignore"), "f\n[secretline\n").expect("writes");
    let mut test = Test::new();
    test.write("f", b"here");
    symlink(elsewhere.path().join("ignore"), test.context().join(".dockerignore")).expect("links");
    test.dockerfile("FROM scratch\nCOPY f /\n");
    let built = test.build().await;
    match &built.result {
        Ok(_) => assert_eq!(test.file(&built, "f"), "here"),
        Err(_) => assert!(!built.error().contains("secretline"), "{}", built.error()),
    }
}

#[tokio::test]
async fn cve_2024_3727_digests_of_documents_are_digests_and_no_paths() {
    for text in [
        "sha256:../../../../etc/passwd",
        "../x:00",
        "sha256:",
        "sha256:ABCD",
        "md5:d41d8cd98f00b204e9800998ecf8427e",
        "sha256:zz",
    ] {
        assert!(text.parse::<Digest>().is_err(), "{text}");
        let config = format!(r#"{{"mediaType":"{}","digest":"{text}","size":2}}"#, MediaType::CONFIG);
        let manifest = format!(r#"{{"schemaVersion":2,"mediaType":"{}","config":{config},"layers":[]}}"#, MediaType::MANIFEST);
        assert!(Document::parse(MediaType::MANIFEST, manifest.as_bytes()).is_err(), "{text}");
    }
}

#[tokio::test]
async fn ghsa_9728_qjrv_2xh2_a_file_is_not_written_through_what_stands_in_its_place() {
    let canaries = Canaries::new();
    let mut test = Test::with_busybox().await;
    test.write("f", b"evil");
    for place in ["/bin/busybox mkfifo /p", "/bin/busybox ln -s OUTSIDE/canary /p", "/bin/busybox ln -s /proc/self/fd/1 /p"] {
        for copy in ["COPY f /p", "COPY <<E /p\nevil\nE"] {
            let _ = tried(&mut test, &canaries, &format!("FROM busybox\nRUN {place}\n{copy}\n")).await;
        }
    }
}

#[tokio::test]
async fn cve_2026_55686_workdir_through_a_link_makes_no_directory_outside() {
    let canaries = Canaries::new();
    let mut test = Test::with_busybox().await;
    for target in ["OUTSIDE", "../../../../../../..OUTSIDE", "OUTSIDE/b"] {
        let built =
            tried(&mut test, &canaries, &format!("FROM busybox\nRUN /bin/busybox ln -s {target} /w\nWORKDIR /w/evil\nRUN pwd\n"))
                .await;
        built.image();
    }
}

#[tokio::test]
async fn cve_2024_9676_users_are_read_from_regular_files_only() {
    let canaries = Canaries::new();
    for make in [
        "rm /etc/passwd; /bin/busybox mkfifo /etc/passwd",
        "rm /etc/passwd; /bin/busybox ln -s OUTSIDE/canary /etc/passwd",
        "rm /etc/passwd; mkdir /etc/passwd",
        "rm /etc/passwd; /bin/busybox ln -s passwd /etc/passwd",
        "rm -r /etc; /bin/busybox ln -s OUTSIDE /etc",
    ] {
        let mut test = Test::with_busybox().await;
        let built = tried(&mut test, &canaries, &format!("FROM busybox\nRUN {make}\nUSER www\nRUN id\n")).await;
        assert!(built.result.is_err(), "{make}: nobody says who that is");
    }
}

#[tokio::test]
async fn cve_2024_24557_steps_are_not_found_by_their_text_alone() {
    let mut test = Test::with_busybox().await;
    let mut seen = Vec::new();
    for before in ["ENV X=1", "ENV X=2", "ARG X=3", "USER www", "WORKDIR /etc", "SHELL [\"/bin/sh\", \"-ec\"]", "COPY <<E /f\nE"]
    {
        test.dockerfile(&format!(
            "FROM busybox\nRUN mkdir /o && chmod 777 /o\n{before}\nRUN echo $X-$(pwd)-$(id -u)-$(ls /) > /o/x\n"
        ));
        let built = test.build().await;
        assert!(!built.ran().is_empty(), "{before}");
        seen.push(test.file(&built, "o/x"));
    }
    assert_eq!(&seen[..2], [seen[0].replace("2-", "1-"), seen[0].replace("1-", "2-")]);
    assert!(seen[3].contains("-33-") && seen[4].contains("-/etc-") && seen[6].contains(" f "), "{seen:?}");
}
