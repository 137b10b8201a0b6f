//! Cache mounts that start with something.

use crate::fixture::Test;

#[tokio::test]
async fn a_new_cache_starts_with_a_copy_of_what_from_and_source_name() {
    let mut test = Test::with_busybox().await;
    let stage =
        "FROM busybox AS seed\nRUN mkdir -p /seed/in && echo one > /seed/in/f && chmod 700 /seed/in && ln -s in/f /seed/l\n";
    let mount = "--mount=type=cache,id=c,target=/c,from=seed";
    test.dockerfile(&format!(
        "{stage}FROM busybox\nRUN {mount},source=/seed cat /c/l && stat -c '%a %n' /c /c/in && echo two >> /c/in/f\n\
         RUN {mount},source=seed cat /c/in/f && echo seen-again\n\
         RUN {mount} ls /c/seed /c/bin/busybox\n\
         RUN --mount=type=cache,id=c,target=/c ls -A /c && echo nothing there\n\
         RUN --mount=type=cache,id=d,target=/c,from=seed,source=seed/in,uid=33,mode=0711 stat -c '%a %u %n' /c /c/f\n\
         RUN --mount=from=seed,source=/seed/in,target=/s cat /s/f && ! ls /c\n"
    ));
    let built = test.build().await;
    built.image();
    let log = built.log();
    assert!(log.starts_with("one\n755 /c\n700 /c/in\none\ntwo\nseen-again\n"), "{log}");
    assert!(log.contains("nothing there\n711 33 /c\n644 0 /c/f\none\n"), "{log}");
    assert_eq!(test.build().await.ran().len(), 0);
    // What a cache starts with is read by the step, so it is in its key; and it is another cache then.
    let other = stage.replace("echo one", "echo other");
    test.dockerfile(&format!(
        "{other}FROM busybox\nRUN {mount},source=/seed cat /c/l && stat -c '%a %n' /c /c/in && echo two >> /c/in/f\n"
    ));
    let built = test.build().await;
    assert_eq!(built.log(), "other\n755 /c\n700 /c/in\n");
}

#[tokio::test]
async fn a_cache_cannot_start_with_what_is_not_there_or_no_directory() {
    let mut test = Test::with_busybox().await;
    for (source, said) in [("absent", "there is no `absent`"), ("bin/busybox", "is no directory")] {
        test.dockerfile(&format!("FROM busybox\nRUN --mount=type=cache,target=/c,from=busybox,source={source} true\n"));
        let error = test.build().await.error();
        assert!(error.contains(said), "{error}");
    }
    test.dockerfile("FROM busybox\nRUN --mount=type=cache,target=/c,from=scratch ls -A /c\n");
    assert_eq!(test.build().await.log(), "");
}
