//! What a step can reach while it runs.

use crate::canaries::Canaries;
use crate::fixture::Test;
use std::path::Path;

async fn ran(script: &str) -> (Test, crate::fixture::Built, Canaries) {
    let canaries = Canaries::new();
    let mut test = Test::with_busybox().await;
    let script = script.replace("OUTSIDE", &canaries.name()).replace("PORT", &canaries.port().to_string());
    test.dockerfile(&format!("FROM busybox\nRUN <<END\n{script}\nEND\n"));
    let built = test.build().await;
    canaries.assert_safe(&test, &built);
    (test, built, canaries)
}

/// Returns what a script printed that must succeed.
async fn output(script: &str) -> String {
    let (_, built, _) = ran(script).await;
    built.image();
    built.log()
}

#[tokio::test]
async fn cve_2019_5736_the_program_itself_cannot_be_written_through_proc() {
    let program = Path::new(env!("CARGO_BIN_EXE_pkgbuild"));
    let before = blake3::hash(&std::fs::read(program).expect("reads"));
    let log = output(
        "for exe in /proc/1/exe /proc/self/exe /proc/*/exe; do (echo evil >> $exe) 2>/dev/null && echo written $exe; done; echo end",
    )
    .await;
    assert!(log.contains("end"), "{log}");
    assert_eq!(blake3::hash(&std::fs::read(program).expect("reads")), before);
    assert!(!log.contains("written /proc/1/exe"), "{log}");
}

#[tokio::test]
async fn cve_2021_3602_no_variable_of_this_process_is_in_the_environment_of_a_step() {
    let log = output("env").await;
    let allowed = ["PATH", "HOME", "BASE", "SHLVL", "PWD", "OLDPWD"];
    for line in log.lines().filter_map(|line| line.split_once('=')) {
        assert!(allowed.contains(&line.0), "{log}");
    }
    // The test runner sets many of them, this one at build time, too.
    assert!(!env!("CARGO_MANIFEST_DIR").is_empty() && !log.contains(env!("CARGO_MANIFEST_DIR")), "{log}");
}

#[tokio::test]
async fn cve_2022_27651_and_24769_no_capability_is_inheritable_or_ambient() {
    let log = output("grep ^Cap /proc/self/status").await;
    assert!(log.contains("CapInh:\t0000000000000000") && log.contains("CapAmb:\t0000000000000000"), "{log}");
    assert!(log.contains("CapBnd:\t00000000a80425fb"), "{log}");
}

#[tokio::test]
async fn cve_2022_2990_and_36109_and_2023_25173_groups_are_those_of_the_image_and_no_others() {
    let mut test = Test::with_busybox().await;
    test.dockerfile("FROM busybox\nUSER 12345\nRUN grep ^Groups: /proc/self/status\nUSER www\nRUN grep ^Groups: /proc/self/status\nUSER 1:2\nRUN grep ^Groups: /proc/self/status\n");
    let built = test.build().await;
    built.image();
    let groups: Vec<Vec<String>> =
        built.log().lines().map(|line| line.split_whitespace().skip(1).map(str::to_owned).collect()).collect();
    for (found, most) in groups.iter().zip([&["0"][..], &["34", "4"], &["2"]]) {
        assert!(found.iter().all(|group| most.contains(&&group[..])), "{groups:?}");
    }
}

#[tokio::test]
async fn cve_2023_25809_control_groups_cannot_be_written() {
    let log = output(
        "for dir in /sys/fs/cgroup /sys/fs/cgroup/*; do mkdir $dir/evil 2>/dev/null && echo made $dir; done; \
         (echo 1 > /sys/fs/cgroup/cgroup.procs) 2>/dev/null && echo moved; echo end",
    )
    .await;
    assert_eq!(log.trim(), "end");
}

#[tokio::test]
async fn cve_2024_21626_no_descriptor_of_this_process_is_open_in_a_step() {
    let log = output("ls -l /proc/self/fd /proc/1/fd 2>&1 | grep -e '->'").await;
    assert!(!log.contains("/cache") && !log.contains("/work") && !log.contains("/target"), "{log}");
    // Standard input, output and error, and the directory that is listed.
    let of_itself =
        log.lines().filter(|line| !line.contains("socket:") && !line.contains("pipe:") && !line.contains("/dev/null"));
    assert!(of_itself.clone().count() <= 2, "{log}");
}

#[tokio::test]
async fn cve_2024_21626_a_working_directory_below_proc_leads_nowhere() {
    let canaries = Canaries::new();
    for number in 3..12 {
        let mut test = Test::with_busybox().await;
        test.dockerfile(&format!(
            "FROM busybox\nWORKDIR /proc/self/fd/{number}\nRUN pwd; ls -la . .. ../../../../../..; cat ../../../../../../..{}/canary; true\n",
            canaries.name()
        ));
        let built = test.build().await;
        canaries.assert_safe(&test, &built);
        assert!(!built.log().contains("Cargo.toml"), "{}", built.log());
    }
}

#[tokio::test]
async fn cve_2024_29018_without_a_network_there_is_no_resolver_and_no_way_out() {
    let log = output(
        "cat /etc/resolv.conf 2>/dev/null; cat /proc/net/route | grep -v Iface; \
         echo hello | /bin/busybox nc -w 1 127.0.0.1 PORT; echo $?; ls OUTSIDE; echo end",
    )
    .await;
    assert!(!log.contains("nameserver") && log.contains("end") && log.contains("No such file"), "{log}");
}

#[tokio::test]
async fn cve_2024_9341_only_known_mounts_are_there() {
    let log = output("cat /proc/self/mountinfo").await;
    for line in log.lines().filter(|line| line.contains(" - ")) {
        let target = line.split(' ').nth(4).expect("a target");
        let known = ["/proc", "/sys", "/dev", "/etc/resolv.conf", "/etc/hosts", "/etc/hostname"];
        let fits = target == "/" || known.iter().any(|known| target == *known || target.starts_with(&format!("{known}/")));
        assert!(fits, "{line}");
    }
}

#[tokio::test]
async fn cve_2025_31133_52565_and_52881_what_reaches_the_machine_is_masked_or_read_only() {
    let log = output(
        "for file in /proc/sysrq-trigger /proc/sys/kernel/core_pattern /proc/sys/kernel/hostname /proc/irq/default_smp_affinity; do \
           (echo x > $file) 2>/dev/null && echo wrote $file; done; \
         cat /proc/kcore 2>/dev/null | grep -c .; cat /proc/keys /proc/timer_list 2>/dev/null | grep -c .; ls /sys/firmware 2>/dev/null; echo end",
    )
    .await;
    assert_eq!(log.split_whitespace().collect::<Vec<_>>(), ["0", "0", "end"], "{log}");
}

#[tokio::test]
async fn cve_2025_31133_what_an_image_has_at_dev_and_proc_does_not_redirect_mounts() {
    let canaries = Canaries::new();
    let mut test = Test::with_busybox().await;
    let mut archive = tar::Builder::new(Vec::new());
    for (path, target) in [("dev/null", "canary"), ("dev/console", "canary"), ("dev/pts", "b"), ("dev/shm", "b")] {
        let mut header = tar::Header::new_ustar();
        header.set_entry_type(tar::EntryType::Symlink);
        header.set_size(0);
        header.set_mode(0o777);
        archive.append_link(&mut header, path, format!("{}/{target}", canaries.name())).expect("appends");
    }
    test.write("dev.tar", &archive.into_inner().expect("ends"));
    test.dockerfile(
        "FROM busybox\nADD dev.tar /\nRUN echo evil > /dev/null; echo evil > /dev/console; echo evil > /dev/shm/file; true\n",
    );
    let built = test.build().await;
    canaries.assert_safe(&test, &built);
    built.image();
}

#[tokio::test]
async fn cve_2025_52881_a_root_whose_proc_is_a_link_does_not_redirect_writes() {
    for name in ["proc", "sys", "dev", "etc"] {
        let canaries = Canaries::new();
        let mut test = Test::new();
        let busybox = ["/bin/busybox", "/usr/bin/busybox"].into_iter().find(|path| Path::new(path).exists()).expect("busybox");
        test.write("busybox", &std::fs::read(busybox).expect("reads"));
        let mut archive = tar::Builder::new(Vec::new());
        let mut header = tar::Header::new_ustar();
        header.set_entry_type(tar::EntryType::Symlink);
        header.set_size(0);
        header.set_mode(0o777);
        archive.append_link(&mut header, name, canaries.path().join("b")).expect("appends");
        test.write("link.tar", &archive.into_inner().expect("ends"));
        test.dockerfile(
            "FROM scratch\nADD link.tar /\nCOPY --chmod=755 busybox /bin/sh\nRUN [\"/bin/sh\", \"sh\", \"-c\", \"echo ran\"]\n",
        );
        let built = test.build().await;
        canaries.assert_safe(&test, &built);
    }
}

#[tokio::test]
async fn ghsa_7236_3392_c5c6_every_step_has_the_system_call_filter() {
    let log = output("grep -e ^Seccomp: -e ^NoNewPrivs /proc/self/status").await;
    assert!(log.contains("Seccomp:\t2"), "{log}");
}

#[tokio::test]
async fn devices_cannot_be_made_and_nothing_can_be_mounted() {
    let log = output(
        "/bin/busybox mknod /disk b 8 0 2>/dev/null && echo made; mkdir /m; /bin/busybox mount -t tmpfs none /m 2>/dev/null && echo mounted; \
         /bin/busybox unshare -m true 2>/dev/null && echo unshared; echo end",
    )
    .await;
    assert!(!log.contains("made") && !log.contains("mounted"), "{log}");
}

#[tokio::test]
async fn a_step_sees_no_process_but_its_own() {
    let log = output("ls /proc | grep -c '^[0-9]'; for p in /proc/[0-9]*; do cat $p/cmdline; echo; done").await;
    assert!(!log.contains("nextest") && !log.contains("cargo"), "{log}");
}

#[tokio::test]
async fn a_program_that_sets_the_user_id_works_only_inside_of_images() {
    let (test, built, _) = ran("cp /bin/busybox /helper && chmod 4755 /helper").await;
    built.image();
    let output = std::process::Command::new("find").arg(test.store.directory()).args(["-perm", "-4000", "-type", "f"]).output();
    let found = String::from_utf8(output.expect("find runs").stdout).expect("UTF-8");
    assert!(!found.is_empty(), "the file is somewhere");
    for file in found.lines() {
        // Another user of this machine cannot get there.
        let closed = Path::new(file).ancestors().any(|directory| {
            use std::os::unix::fs::PermissionsExt;
            directory.starts_with(test.store.directory())
                && directory.metadata().is_ok_and(|metadata| metadata.is_dir() && metadata.permissions().mode() & 0o001 == 0)
        });
        assert!(closed, "{file}");
    }
}

#[tokio::test]
async fn cve_2024_23653_rights_are_not_given_by_a_dockerfile() {
    for line in ["RUN --security=insecure true", "RUN --network=host true", "RUN --device=vendor.com/device true"] {
        let mut test = Test::with_busybox().await;
        test.dockerfile(&format!("FROM busybox\n{line}\n"));
        assert!(test.build().await.error().contains("Dockerfile:2:1"), "{line}");
    }
}

#[tokio::test]
async fn cve_2026_33747_a_frontend_is_never_run() {
    let mut test = Test::with_busybox().await;
    test.dockerfile("# syntax=127.0.0.1:1/evil/frontend:latest\nFROM busybox\nRUN echo built\n");
    let built = test.build().await;
    built.image();
    assert!(built.log().contains("built"));
}
