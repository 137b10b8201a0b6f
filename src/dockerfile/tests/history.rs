use super::*;
use crate::dockerfile::scope::{Globals, Scope, is_predefined, is_proxy};
use crate::oci::Platform;

#[test]
fn each_instruction_leaves_its_line() {
    let shell = strings(&["/bin/sh", "-c"]);
    let arguments = [("A".to_owned(), Some("1".to_owned())), ("B".to_owned(), None)];
    for (text, expected) in [
        ("RUN ls  -l", "RUN |2 A=1 B= /bin/sh -c ls  -l # buildkit"),
        ("RUN [\"ls\", \"-l\"]", "RUN |2 A=1 B= ls -l # buildkit"),
        ("RUN <<E\nx\nE", "RUN |2 A=1 B= /bin/sh -c x\n # buildkit"),
        ("RUN <<E\n#!x\nE", "RUN |2 A=1 B= /bin/sh -c /dev/pipes/E # buildkit"),
        ("COPY --from=x --link --chmod=1 --chown=2 --parents a b c", "COPY --parents --chown=2 --chmod=1 a b c # buildkit"),
        ("COPY x <<E y/\nE", "COPY x <<E y/ # buildkit"),
        ("ADD --unpack a b", "ADD a b # buildkit"),
        ("ENV a=1 b=2", "ENV a=1 b=2"),
        ("LABEL a=1", "LABEL a=1"),
        ("ARG A=0", "ARG A=1"),
        ("ARG A B", "ARG A=1 B"),
        ("WORKDIR x", "WORKDIR /w/x"),
        ("USER u", "USER u"),
        ("CMD a \"b\"", r#"CMD ["/bin/sh" "-c" "a \"b\""]"#),
        ("CMD [\"a\", \"b\\n\"]", r#"CMD ["a" "b\n"]"#),
        ("CMD []", "CMD []"),
        ("ENTRYPOINT [\"a\"]", r#"ENTRYPOINT ["a"]"#),
        ("VOLUME /a /b", "VOLUME [/a /b]"),
        ("SHELL [\"/bin/sh\", \"-c\"]", "SHELL [/bin/sh -c]"),
        ("STOPSIGNAL SIGTERM", "STOPSIGNAL SIGTERM"),
        ("MAINTAINER x y", "MAINTAINER x y"),
        (
            "HEALTHCHECK --interval=30s CMD x",
            "HEALTHCHECK {Test:[CMD-SHELL x] Interval:30s Timeout:0s StartPeriod:0s StartInterval:0s Retries:0}",
        ),
        (
            "HEALTHCHECK --timeout=90s --start-period=1h --start-interval=1.5s --retries=2 CMD [\"x\",\"y\"]",
            "HEALTHCHECK {Test:[CMD x y] Interval:0s Timeout:1m30s StartPeriod:1h0m0s StartInterval:1.5s Retries:2}",
        ),
        ("HEALTHCHECK NONE", "HEALTHCHECK {Test:[NONE] Interval:0s Timeout:0s StartPeriod:0s StartInterval:0s Retries:0}"),
    ] {
        let shown = Shown { shell: &shell, arguments: &arguments, working_directory: "/w/x" };
        assert_eq!(command(text).created_by(&shown).as_deref(), Some(expected), "{text}");
    }
    let shown = Shown { shell: &shell, arguments: &[], working_directory: "/" };
    assert_eq!(command("RUN x").created_by(&shown).as_deref(), Some("RUN /bin/sh -c x # buildkit"));
    assert_eq!(command("ONBUILD RUN x").created_by(&shown), None);
}

fn globals(given: &[(&str, &str)], arguments: &str) -> Globals {
    let given = given.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect();
    let mut globals = Globals::new(&given, &Platform::linux("amd64"), &Platform::linux("arm"), "");
    for instruction in parse(&format!("{arguments}\nFROM x")).arguments {
        let Command::Arg(arguments) = instruction.command else { panic!() };
        arguments.iter().for_each(|argument| globals.declare(argument, '\\').expect("expands"));
    }
    globals
}

#[test]
fn platform_arguments_are_there_and_can_be_given() {
    let globals_default = globals(&[], "");
    for (name, value) in [
        ("BUILDPLATFORM", "linux/amd64"),
        ("BUILDOS", "linux"),
        ("BUILDOSVERSION", ""),
        ("BUILDARCH", "amd64"),
        ("BUILDVARIANT", ""),
        ("TARGETPLATFORM", "linux/arm/v7"),
        ("TARGETOS", "linux"),
        ("TARGETARCH", "arm"),
        ("TARGETVARIANT", "v7"),
        ("TARGETSTAGE", "default"),
    ] {
        assert_eq!(globals_default.get(name).as_deref(), Some(value), "{name}");
    }
    assert_eq!(globals(&[("TARGETARCH", "mine")], "").get("TARGETARCH").as_deref(), Some("mine"));
}

#[test]
fn what_was_given_beats_the_default_and_that_the_global_value() {
    let declare = |given: &[(&str, &str)], before: &str, inside: &str| {
        let globals = globals(given, before);
        let mut scope = Scope::new(["e=env", "PATH=/bin"]);
        for command in commands(inside) {
            match command {
                Command::Arg(arguments) => arguments.iter().for_each(|argument| {
                    scope.declare(argument, &globals, '\\').expect("expands");
                }),
                Command::Env(pairs) => pairs.iter().for_each(|pair| scope.set(&pair.key, &pair.value)),
                other => panic!("{other:?}"),
            }
        }
        scope.get("x")
    };
    for (given, before, inside, expected) in [
        (&[][..], "", "ARG x", None),
        (&[], "", "ARG x=1", Some("1")),
        (&[], "", "ARG x=$e", Some("env")),
        (&[], "", "ARG x='$e'", Some("$e")),
        (&[], "ARG x=1", "ARG y", None),
        (&[], "ARG x=1", "ARG x", Some("1")),
        (&[], "ARG x=1", "ARG x=2", Some("2")),
        (&[], "ARG y=1\nARG x=$y", "ARG x", Some("1")),
        (&[], "ARG y=1", "ARG x=$y", Some("")),
        (&[], "ARG y=1", "ARG y\nARG x=$y", Some("1")),
        (&[("x", "3")], "", "ENV y=1", None),
        (&[("x", "3")], "", "ARG x", Some("3")),
        (&[("x", "3")], "ARG x=1", "ARG x=2", Some("3")),
        (&[("x", "")], "", "ARG x=2", Some("")),
        (&[("y", "3")], "ARG y\nARG x=$y", "ARG x", Some("3")),
        (&[("x", "3")], "", "ARG x\nENV x=4", Some("4")),
        (&[], "", "ARG TARGETARCH\nARG x=$TARGETARCH", Some("arm")),
        (&[], "", "ARG x=$TARGETARCH", Some("")),
    ] {
        assert_eq!(declare(given, before, inside).as_deref(), expected, "{given:?} {before} {inside}");
    }
}

#[test]
fn a_stage_inherits_the_arguments_of_the_stage_it_starts_from() {
    let globals = Globals::default();
    let mut parent = Scope::new(["X=image"]);
    for command in commands("ARG A=1\nARG X=argument") {
        let Command::Arg(arguments) = command else { panic!() };
        arguments.iter().for_each(|argument| {
            parent.declare(argument, &globals, '\\').expect("expands");
        });
    }
    assert_eq!(parent.get("X").as_deref(), Some("argument"));
    let child = parent.inherited(["X=image"]);
    assert_eq!((child.get("A").as_deref(), child.get("X").as_deref()), (Some("1"), Some("image")));
    assert_eq!(child.arguments(), [("A".to_owned(), Some("1".to_owned())), ("X".to_owned(), Some("image".to_owned()))]);
    assert_eq!(child.environment().iter().map(|(name, _)| &name[..]).collect::<Vec<_>>(), ["X", "A"]);
}

#[test]
fn an_argument_that_nothing_declares_is_a_typing_mistake_unless_it_has_a_meaning() {
    let dockerfile = parse("ARG a\nFROM x\nARG b=1\nONBUILD ARG c\n");
    let given =
        ["a", "b", "c", "d", "http_proxy", "NO_PROXY", "SOURCE_DATE_EPOCH", "TARGETARCH", "BUILDKIT_INLINE_CACHE", "Http_Proxy"];
    assert_eq!(dockerfile.unused_arguments(given).into_iter().collect::<Vec<_>>(), ["Http_Proxy", "d"]);
    assert!(is_proxy("all_proxy") && is_proxy("FTP_PROXY") && !is_proxy("proxy"));
    assert!(is_predefined("TARGETSTAGE") && !is_predefined("TARGETFOO"));
}
