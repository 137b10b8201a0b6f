use std::time::Duration;

use super::*;
use crate::dockerfile::instruction::{
    Add, Argument, Copy, Healthcheck, InlineFile, KeyValue, Run, RunNetwork, RunSecurity, Transfer,
};

fn transfer(sources: &[&str], destination: &str) -> Transfer {
    Transfer { sources: strings(sources), destination: destination.to_owned(), ..Transfer::default() }
}

fn pairs(pairs: &[(&str, &str)]) -> Vec<KeyValue> {
    pairs.iter().map(|(key, value)| KeyValue { key: (*key).to_owned(), value: (*value).to_owned(), legacy: false }).collect()
}

fn shell(text: &str) -> CommandLine {
    CommandLine::Shell(text.to_owned())
}

fn exec(words: &[&str]) -> CommandLine {
    CommandLine::Exec(strings(words))
}

#[test]
fn a_json_array_of_strings_is_the_exec_form_and_all_else_is_text() {
    for (text, expected) in [
        ("ls -l", shell("ls -l")),
        (r#"["ls","-l"]"#, exec(&["ls", "-l"])),
        (r#" [ "ls" , "-l" ] "#, exec(&["ls", "-l"])),
        ("[]", exec(&[])),
        ("", shell("")),
        (r#"["a\n\"bé"]"#, exec(&["a\n\"bé"])),
        (r#"["日本"]"#, exec(&["日本"])),
        ("['ls']", shell("['ls']")),
        (r#"["ls""#, shell(r#"["ls""#)),
        (r#"["ls"] x"#, shell(r#"["ls"] x"#)),
        (r#"["ls",]"#, shell(r#"["ls",]"#)),
        (r#"["ls\x"]"#, shell(r#"["ls\x"]"#)),
        ("[ -f x ]", shell("[ -f x ]")),
        (r#""ls""#, shell(r#""ls""#)),
        (r#"x ["ls"]"#, shell(r#"x ["ls"]"#)),
    ] {
        assert_eq!(command(&format!("CMD {text}")), Command::Cmd(expected.clone()), "{text}");
        assert_eq!(command(&format!("ENTRYPOINT {text}")), Command::Entrypoint(expected.clone()), "{text}");
        let Command::Run(run) = command(&format!("RUN {text}")) else { panic!("{text}") };
        assert_eq!(run.command, expected, "{text}");
    }
    for array in ["[1]", "[null]", "[[]]", r#"["a", 1]"#, r#"[{"a": "b"}]"#, "[true]"] {
        for word in ["RUN", "CMD", "ENTRYPOINT", "SHELL", "VOLUME", "COPY", "HEALTHCHECK CMD"] {
            let told = mistakes(&format!("FROM a\n{word} {array}"));
            assert!(told[0].contains("holds something that is no string"), "{word} {array}: {told:?}");
        }
    }
}

#[test]
fn from_names_a_base_and_perhaps_a_stage() {
    for (text, base, name, platform) in [
        ("FROM a", "a", None, None),
        ("from a as B", "a", Some("B"), None),
        ("FROM a As b-c_d.1", "a", Some("b-c_d.1"), None),
        ("FROM --platform=$X a", "a", None, Some("$X")),
        ("FROM --platform=linux/arm64   a\tAS\tb", "a", Some("b"), Some("linux/arm64")),
        ("FROM ${A:-b}:${C}", "${A:-b}:${C}", None, None),
        ("FROM -- a", "a", None, None),
    ] {
        let from = &parse(text).stages[0].from;
        assert_eq!((&from.base[..], from.name.as_deref(), from.platform.as_deref()), (base, name, platform), "{text}");
    }
    for (text, message) in [
        ("FROM", "1: FROM takes an image and perhaps a name"),
        ("FROM a b", "1: FROM takes an image and perhaps a name"),
        ("FROM a AS", "1: FROM takes an image and perhaps a name"),
        ("FROM a AS b c", "1: FROM takes an image and perhaps a name"),
        ("FROM a IS b", "1: FROM takes an image and perhaps a name"),
        ("FROM a AS 1b", "1: `1b` cannot be the name of a stage"),
        ("FROM a AS b/c", "1: `b/c` cannot be the name of a stage"),
        ("FROM a AS $b", "1: `$b` cannot be the name of a stage"),
        ("FROM --platfrom=x a", "1: unknown flag `--platfrom` of FROM"),
        ("FROM --platform a", "1: the flag `--platform` needs a value"),
        ("FROM --platform=a --platform=b c", "1: the flag `--platform` is given twice"),
    ] {
        assert_eq!(mistakes(text), [message], "{text}");
    }
}

#[test]
fn copy_and_add_take_sources_a_destination_and_flags() {
    for (text, expected) in [
        ("COPY a b", Copy { transfer: transfer(&["a"], "b"), ..Copy::default() }),
        ("COPY a b c/", Copy { transfer: transfer(&["a", "b"], "c/"), ..Copy::default() }),
        (r#"COPY ["a b", "c d"]"#, Copy { transfer: transfer(&["a b"], "c d"), ..Copy::default() }),
        ("COPY [a, b]", Copy { transfer: transfer(&["[a,"], "b]"), ..Copy::default() }),
        ("COPY --from=x a b", Copy { transfer: transfer(&["a"], "b"), from: Some("x".to_owned()), parents: false }),
        ("COPY --from= a b", Copy { transfer: transfer(&["a"], "b"), ..Copy::default() }),
        ("COPY --parents a b", Copy { transfer: transfer(&["a"], "b"), from: None, parents: true }),
        ("COPY --parents=false a b", Copy { transfer: transfer(&["a"], "b"), ..Copy::default() }),
        (
            "COPY --chown=u:g --chmod=0755 --link --exclude=*.o --exclude=x a b",
            Copy {
                transfer: Transfer {
                    chown: Some("u:g".to_owned()),
                    chmod: Some("0755".to_owned()),
                    link: true,
                    exclude: strings(&["*.o", "x"]),
                    ..transfer(&["a"], "b")
                },
                ..Copy::default()
            },
        ),
        (
            "COPY --chown='a b' \"--chmod=7 7\" a b",
            Copy {
                transfer: Transfer { chown: Some("a b".to_owned()), ..transfer(&["\"--chmod=7", "7\"", "a"], "b") },
                ..Copy::default()
            },
        ),
        ("COPY -- --a b", Copy { transfer: transfer(&["--a"], "b"), ..Copy::default() }),
        ("COPY a --link b", Copy { transfer: transfer(&["a", "--link"], "b"), ..Copy::default() }),
    ] {
        assert_eq!(command(text), Command::Copy(expected), "{text}");
    }
    for (text, expected) in [
        ("ADD a b", Add { transfer: transfer(&["a"], "b"), ..Add::default() }),
        ("ADD https://x/y.tar /z/", Add { transfer: transfer(&["https://x/y.tar"], "/z/"), ..Add::default() }),
        (
            "ADD --unpack --keep-git-dir=true --checksum=sha256:0 a b",
            Add {
                transfer: transfer(&["a"], "b"),
                keep_git_dir: Some(true),
                checksum: Some("sha256:0".to_owned()),
                unpack: Some(true),
            },
        ),
        ("ADD --unpack=False a b", Add { transfer: transfer(&["a"], "b"), unpack: Some(false), ..Add::default() }),
    ] {
        assert_eq!(command(text), Command::Add(expected), "{text}");
    }
}

#[test]
fn a_heredoc_can_be_the_source_of_a_copy() {
    let file = |name: &str, data: &str, expand| InlineFile { name: name.to_owned(), data: data.to_owned(), expand };
    for (text, sources, inline) in [
        ("COPY <<A /d\nA", &[][..], vec![file("A", "", true)]),
        ("COPY <<A /d\n\"x\" 'y'\nA", &[], vec![file("A", "\"x\" 'y'\n", true)]),
        ("COPY <<'A' /d\n$x\nA", &[], vec![file("A", "$x\n", false)]),
        ("COPY <<-A /d\n\tx\n\t\ty\n\tA", &[], vec![file("A", "x\ny\n", true)]),
        ("COPY <<a.txt <<b.txt /d/\n1\na.txt\n2\nb.txt", &[], vec![file("a.txt", "1\n", true), file("b.txt", "2\n", true)]),
        ("COPY f <<A g /d/\n1\nA", &["f", "g"], vec![file("A", "1\n", true)]),
        ("ADD <<A /d\n1\nA", &[], vec![file("A", "1\n", true)]),
    ] {
        let found = match command(text) {
            Command::Copy(copy) => copy.transfer,
            Command::Add(add) => add.transfer,
            other => panic!("{other:?}"),
        };
        assert_eq!((found.sources, found.inline), (strings(sources), inline), "{text:?}");
    }
    assert_eq!(mistakes("FROM a\nCOPY b <<A\nA"), ["2: a heredoc cannot be the destination of COPY"]);
}

#[test]
fn names_and_values_come_in_two_forms() {
    for (text, expected) in [
        ("a=1", pairs(&[("a", "1")])),
        ("a=1 b=2", pairs(&[("a", "1"), ("b", "2")])),
        ("a=", pairs(&[("a", "")])),
        ("a=b=c", pairs(&[("a", "b=c")])),
        ("a='1 2' b=\"3 4\"", pairs(&[("a", "'1 2'"), ("b", "\"3 4\"")])),
        (r"a=1\ 2 b=3", pairs(&[("a", r"1\ 2"), ("b", "3")])),
        (r#"a="1\" 2" b=3"#, pairs(&[("a", r#""1\" 2""#), ("b", "3")])),
        (r"a='1\' b=2", pairs(&[("a", r"'1\'"), ("b", "2")])),
        ("\"a b\"=1", pairs(&[("\"a b\"", "1")])),
        ("a=$b", pairs(&[("a", "$b")])),
        ("a=1\\\n  b=2", pairs(&[("a", "1"), ("b", "2")])),
        (r"a=1 b=2\\", pairs(&[("a", "1"), ("b", r"2\\")])),
    ] {
        assert_eq!(command(&format!("ENV {text}")), Command::Env(expected.clone()), "{text}");
        assert_eq!(command(&format!("LABEL {text}")), Command::Label(expected), "{text}");
    }
    for (text, key, value) in
        [("a b", "a", "b"), ("a   b  c ", "a", "b  c"), ("a b=c d", "a", "b=c d"), ("a 'b c'", "a", "'b c'"), ("a\tb", "a", "b")]
    {
        let expected = vec![KeyValue { key: key.to_owned(), value: value.to_owned(), legacy: true }];
        assert_eq!(command(&format!("ENV {text}")), Command::Env(expected), "{text}");
    }
    for (text, message) in [
        ("ENV", "2: ENV needs at least one argument"),
        ("ENV a", "2: ENV needs a value for `a`"),
        ("ENV =a", "2: ENV needs a name before `=a`"),
        ("ENV a=b c", "2: `c` has no `=`"),
        ("LABEL", "2: LABEL needs at least one argument"),
        ("LABEL a=b =c", "2: LABEL needs a name before `=c`"),
    ] {
        assert_eq!(mistakes(&format!("FROM x\n{text}")), [message], "{text}");
    }
    assert_eq!(mistakes("FROM x\nENV a=1 b c"), ["2: `b` has no `=`", "2: `c` has no `=`"]);
}

#[test]
fn arg_declares_any_number() {
    let argument = |name: &str, default: Option<&str>| Argument { name: name.to_owned(), default: default.map(str::to_owned) };
    assert_eq!(command("ARG a"), Command::Arg(vec![argument("a", None)]));
    assert_eq!(
        command("ARG a=1 b c= d='x y'"),
        Command::Arg(vec![argument("a", Some("1")), argument("b", None), argument("c", Some("")), argument("d", Some("'x y'"))])
    );
    assert_eq!(mistakes("FROM x\nARG"), ["2: ARG needs at least one argument"]);
    assert_eq!(mistakes("FROM x\nARG =1"), ["2: ARG needs a name before `=`"]);
}

#[test]
fn run_takes_mounts_a_network_a_security_mode_and_devices() {
    let Command::Run(run) =
        command("RUN --mount=type=cache,target=/x --mount=from=y,target=/z --network=none --security=insecure --device=a/b=c ls")
    else {
        panic!()
    };
    assert_eq!(run.mounts.iter().map(|mount| mount.from.as_deref()).collect::<Vec<_>>(), [None, Some("y")]);
    assert_eq!((run.network, run.security), (RunNetwork::None, RunSecurity::Insecure));
    assert_eq!((run.devices, run.command), (strings(&["a/b=c"]), shell("ls")));
    let Command::Run(Run { network, security, .. }) = command("RUN --network=host ls") else { panic!() };
    assert_eq!((network, security), (RunNetwork::Host, RunSecurity::Sandbox));
    for (text, message) in [
        ("RUN --network=nne ls", "2: `nne` is no value of `--network`"),
        ("RUN --security=x ls", "2: `x` is no value of `--security`"),
        ("RUN --mounts=x ls", "2: unknown flag `--mounts` of RUN"),
        (
            "RUN --mount=from=$x,target=/y ls",
            "2: `from` of a mount takes no variables: name a stage `FROM $x AS …` and mount from that",
        ),
    ] {
        assert_eq!(mistakes(&format!("FROM x\n{text}")), [message], "{text}");
    }
}

#[test]
fn healthcheck_has_a_command_and_times() {
    let check = |command, [interval, timeout, start_period, start_interval]: [u64; 4], retries| {
        Command::Healthcheck(Healthcheck::Check {
            command,
            interval: Duration::from_millis(interval),
            timeout: Duration::from_millis(timeout),
            start_period: Duration::from_millis(start_period),
            start_interval: Duration::from_millis(start_interval),
            retries,
        })
    };
    for (text, expected) in [
        ("HEALTHCHECK NONE", Command::Healthcheck(Healthcheck::None)),
        ("healthcheck none", Command::Healthcheck(Healthcheck::None)),
        ("HEALTHCHECK CMD ls -l", check(shell("ls -l"), [0; 4], 0)),
        ("HEALTHCHECK cmd [\"ls\"]", check(exec(&["ls"]), [0; 4], 0)),
        (
            "HEALTHCHECK --interval=5s --timeout=1m30s --start-period=1.5h --start-interval=100ms --retries=3 CMD x",
            check(shell("x"), [5_000, 90_000, 5_400_000, 100], 3),
        ),
        ("HEALTHCHECK --interval=0 --timeout=0s CMD x", check(shell("x"), [0; 4], 0)),
    ] {
        assert_eq!(command(text), expected, "{text}");
    }
    for (text, message) in [
        ("HEALTHCHECK", "2: HEALTHCHECK needs at least one argument"),
        ("HEALTHCHECK NONE x", "2: HEALTHCHECK NONE takes no arguments"),
        ("HEALTHCHECK CMD", "2: HEALTHCHECK CMD needs a command"),
        ("HEALTHCHECK CMD []", "2: HEALTHCHECK CMD needs a command"),
        ("HEALTHCHECK curl x", "2: unknown HEALTHCHECK `curl`"),
        ("HEALTHCHECK --interval=5 CMD x", "2: `5` is no value of `--interval`"),
        ("HEALTHCHECK --interval=1us CMD x", "2: `--interval=1us` is shorter than a millisecond"),
        ("HEALTHCHECK --interval=-1s CMD x", "2: `--interval=-1s` is shorter than a millisecond"),
        ("HEALTHCHECK --retries=-1 CMD x", "2: `-1` is no value of `--retries`: it takes a number that is not negative"),
        ("HEALTHCHECK --retires=1 CMD x", "2: unknown flag `--retires` of HEALTHCHECK"),
    ] {
        assert_eq!(mistakes(&format!("FROM x\n{text}")), [message], "{text}");
    }
}

#[test]
fn the_other_instructions_take_words_lists_or_the_rest_of_the_line() {
    for (text, expected) in [
        ("EXPOSE 80 443/udp", Command::Expose(strings(&["443/udp", "80"]))),
        ("VOLUME /a /b", Command::Volume(strings(&["/a", "/b"]))),
        (r#"VOLUME ["/a b"]"#, Command::Volume(strings(&["/a b"]))),
        ("USER a:b", Command::User("a:b".to_owned())),
        ("WORKDIR /a b", Command::Workdir("/a b".to_owned())),
        ("STOPSIGNAL SIGTERM", Command::StopSignal("SIGTERM".to_owned())),
        ("MAINTAINER A <a@b>", Command::Maintainer("A <a@b>".to_owned())),
        (r#"SHELL ["/bin/bash", "-c"]"#, Command::Shell(strings(&["/bin/bash", "-c"]))),
    ] {
        assert_eq!(command(text), expected, "{text}");
    }
    for (text, message) in [
        ("EXPOSE", "2: EXPOSE needs at least one argument"),
        ("VOLUME", "2: VOLUME needs at least one argument"),
        ("VOLUME [\"\"]", "2: VOLUME needs paths that are not empty"),
        ("USER", "2: USER needs an argument"),
        ("WORKDIR", "2: WORKDIR needs an argument"),
        ("STOPSIGNAL", "2: STOPSIGNAL needs an argument"),
        ("MAINTAINER", "2: MAINTAINER needs an argument"),
        ("MAINTAINER --x a", "2: unknown flag `--x` of MAINTAINER"),
        ("SHELL /bin/sh -c", "2: SHELL takes a JSON array"),
        ("SHELL []", "2: SHELL needs at least one word"),
        ("COPY a", "2: COPY needs a source and a destination"),
        ("ADD", "2: ADD needs a source and a destination"),
        ("ONBUILD", "2: ONBUILD needs at least one argument"),
        ("ONBUILD FROM a", "2: FROM cannot be put inside of ONBUILD"),
        ("ONBUILD onbuild RUN a", "2: ONBUILD cannot be put inside of ONBUILD"),
        ("ONBUILD MAINTAINER a", "2: MAINTAINER cannot be put inside of ONBUILD"),
        ("ONBUILD COPY a", "2: COPY needs a source and a destination"),
        ("ADD --from=x a b", "2: unknown flag `--from` of ADD"),
        ("COPY --link=yes a b", "2: `yes` is no value of the flag `--link`"),
        ("COPY --link= a b", "2: `` is no value of the flag `--link`"),
        ("COPY --chown a b", "2: the flag `--chown` needs a value"),
    ] {
        assert_eq!(mistakes(&format!("FROM x\n{text}")), [message], "{text}");
    }
}

#[test]
fn onbuild_keeps_its_text_for_the_image() {
    for (text, expression) in [
        ("ONBUILD RUN a  b", "RUN a  b"),
        ("onbuild   copy a b", "copy a b"),
        ("ONBUILD RUN <<A\nx\nA", "RUN <<A\nx\nA"),
        ("ONBUILD COPY <<A <<B /c/\nx\nA\ny\nB", "COPY <<A <<B /c/\nx\nA\ny\nB"),
    ] {
        let Command::Onbuild(trigger) = command(text) else { panic!("{text}") };
        assert_eq!(trigger.expression, expression);
        let again = parse("FROM x").parse_instruction(&trigger.expression, Span::at(1, 1)).expect("it parses again");
        assert_eq!(again.command, trigger.instruction.command, "{text}");
    }
}

#[test]
fn all_mistakes_are_told_at_once_with_what_is_near() {
    let text = "FORM a\nFROM b\nRUNN x\nCOPPY a b\nCOPY --chwon=1 --lnk a b\nXYZZY\n";
    let mistakes = Dockerfile::parse(Path::new("d/Dockerfile"), text.as_bytes()).expect_err("wrong");
    let told: Vec<String> =
        mistakes.0.iter().map(|mistake| format!("{}|{}", mistake.message, mistake.help.clone().unwrap_or_default())).collect();
    assert_eq!(
        told,
        [
            "unknown instruction `FORM`|did you mean `FROM`?",
            "unknown instruction `RUNN`|did you mean `RUN`?",
            "unknown instruction `COPPY`|did you mean `COPY`?",
            "unknown flag `--chwon` of COPY|did you mean `--chown`?",
            "unknown flag `--lnk` of COPY|did you mean `--link`?",
            "unknown instruction `XYZZY`|",
        ]
    );
    assert!(mistakes.to_string().starts_with("d/Dockerfile:1:1: unknown instruction `FORM`\n  1 | FORM a\n"), "{mistakes}");
    assert_eq!(super::mistakes("RUN x\nFROM a"), ["1: RUN stands before the first FROM"]);
}

#[test]
fn expansion_uses_the_variables_from_before_the_instruction() {
    let lookup = |name: &str| (name == "a").then(|| "old".to_owned());
    for (text, expected) in [
        ("ENV a=new b=$a", "ENV a=new b=old"),
        ("ENV $a='x y'", "ENV old=x y"),
        ("LABEL x=\"$a\" y='$a'", "LABEL x=old y=$a"),
        ("ENV x  $a 'y z' ", "ENV x=old y z"),
        ("COPY $a/x \\$a /$a/", "COPY old/x $a /old/ # buildkit"),
        ("COPY --chown=$a:1 --chmod=$gone --exclude=$a a b", "COPY --chown=old:1 a b # buildkit"),
        ("COPY <<A /x\n$a '$a'\nA", "COPY <<A /x # buildkit"),
        ("ADD --checksum=$a $a b", "ADD old b # buildkit"),
        ("EXPOSE $a", "`old` is no port: a port is a number from 0 to 65535, or two with `-` between them"),
        ("EXPOSE ${gone:-80} 90-91/UDP 1:2", "EXPOSE [80/tcp 2/tcp 90/udp 91/udp]"),
        ("EXPOSE 127.0.0.1:80:8080/sctp [::1]:1:1", "EXPOSE [8080/sctp 1/tcp]"),
        ("EXPOSE ::::80", "EXPOSE [80/tcp]"),
        ("EXPOSE 80/xyz", "`80/xyz` is no port: the protocol must be tcp, udp or sctp"),
        ("EXPOSE 2-1", "`2-1` is no port: a range of ports must not run backwards"),
        ("EXPOSE 70000", "`70000` is no port: a port is a number from 0 to 65535, or two with `-` between them"),
        ("EXPOSE host:1:2", "`host:1:2` is no port: what stands before the first `:` is no address"),
        ("EXPOSE 1-3:2-3", "`1-3:2-3` is no port: the two ranges have different lengths"),
        ("EXPOSE 1:", "`1:` is no port: it has no port"),
        ("STOPSIGNAL SIG$gone", "`SIG` is no signal: use a number or a name like `SIGTERM`"),
        ("STOPSIGNAL sigrtmin+3", "STOPSIGNAL sigrtmin+3"),
        ("STOPSIGNAL 9", "STOPSIGNAL 9"),
        ("STOPSIGNAL 0", "`0` is no signal: use a number or a name like `SIGTERM`"),
        ("USER $a", "USER old"),
        ("VOLUME /$a \"/x\"", "VOLUME [/old /x]"),
        ("VOLUME $gone", "a path of VOLUME is empty after expansion"),
        ("WORKDIR ${gone?no}", "`${gone?no}` cannot be expanded"),
    ] {
        let shown = Shown { shell: &[], arguments: &[], working_directory: "" };
        let told = match command(text).expand('\\', &lookup) {
            Ok(command) => command.created_by(&shown).unwrap_or_default(),
            Err(error) => error.to_string(),
        };
        assert_eq!(told, expected, "{text}");
    }
    let Ok(Command::Copy(copy)) = command("COPY <<A <<'B' /x/\n$a '$a' \\$a\nA\n$a\nB").expand('\\', &lookup) else { panic!() };
    assert_eq!(copy.transfer.inline.iter().map(|file| &file.data[..]).collect::<Vec<_>>(), ["old 'old' $a\n", "$a\n"]);
}
