use proptest::prelude::*;

use super::*;
use crate::dockerfile::instruction::{Run, RunBody};

fn texts(text: &str) -> Vec<String> {
    parse(&format!("{text}\nFROM scratch")).arguments.into_iter().map(|instruction| instruction.text).collect()
}

#[test]
fn a_line_goes_on_after_an_escape_character_at_its_end() {
    for (text, expected) in [
        ("ARG a", &["ARG a"][..]),
        ("ARG a\\\nb", &["ARG ab"]),
        ("ARG a \\\nb", &["ARG a b"]),
        ("ARG a\\\n  b", &["ARG a  b"]),
        ("ARG a \\  \t\nb", &["ARG a b"]),
        ("ARG a\\\n\\\nb", &["ARG ab"]),
        ("ARG a\\\n \\\nb", &["ARG a b"]),
        ("ARG a\\\n# no\nb", &["ARG ab"]),
        ("ARG a\\\n  # no\\\nb", &["ARG ab"]),
        ("ARG a\\\n\nb", &["ARG ab"]),
        ("ARG a\\\n   \nb", &["ARG ab"]),
        ("ARG a\\\\\nARG b", &["ARG a\\\\", "ARG b"]),
        ("ARG a\\ \nARG=b", &["ARG aARG=b"]),
        ("ARG a\r\nARG b\r\n", &["ARG a", "ARG b"]),
        ("ARG a\\\r\nb\r\n", &["ARG ab"]),
        ("  ARG a", &["ARG a"]),
        ("\tARG\ta", &["ARG\ta"]),
        ("\\\nARG a", &["ARG a"]),
        ("ARG a # b", &["ARG a # b"]),
        ("# no\n#\n ## no\nARG a", &["ARG a"]),
        ("\u{feff}ARG a", &["ARG a"]),
        ("arg a", &["arg a"]),
    ] {
        assert_eq!(texts(text), expected, "{text:?}");
    }
    assert_eq!(parse("FROM scratch \\").stages[0].from.text, "FROM scratch");
    assert_eq!(parse("FROM a\\").stages[0].from.base, "a");
}

#[test]
fn a_blank_line_inside_of_an_instruction_is_worth_a_warning() {
    let dockerfile = parse("FROM scratch\nENV a=1 \\\n\n  b=2\n");
    assert_eq!(told(&dockerfile.warnings), ["3: a blank line inside of an instruction"]);
    assert_eq!(told(&parse("FROM scratch\nENV a=1 \\\n#\n  b=2\n").warnings), [""; 0]);
}

#[test]
fn directives_stand_in_the_first_lines_and_once() {
    let directives = |text: &str| {
        let directives = parse(&format!("{text}\nFROM scratch")).directives;
        let value = |directive: Option<Directive>| directive.map(|directive| directive.value).unwrap_or_default();
        format!("{}|{}|{}", directives.escape, value(directives.syntax), value(directives.check))
    };
    for (text, expected) in [
        ("", "\\||"),
        ("# escape=`", "`||"),
        ("#escape=`", "`||"),
        ("#  Escape = ` ", "`||"),
        ("# escape=\\", "\\||"),
        ("# syntax=docker/dockerfile:1\n# escape=`", "`|docker/dockerfile:1|"),
        ("# syntax = a:b // more", "\\|a:b // more|"),
        ("# check=skip=all;error=true", "\\||skip=all;error=true"),
        (" # escape=`", "`||"),
        ("\u{feff}# escape=`", "`||"),
        ("# words\n# escape=`", "\\||"),
        ("\n# escape=`", "\\||"),
        ("# other=x\n# escape=`", "\\||"),
        ("#\n# escape=`", "\\||"),
        ("# escape=\n# syntax=x", "\\||"),
        ("#!/bin/sh\n# escape=`", "\\||"),
        ("ARG a\n# escape=`", "\\||"),
    ] {
        assert_eq!(directives(text), expected, "{text:?}");
    }
    assert_eq!(mistakes("# escape=x\nFROM scratch"), ["1: `x` cannot be the escape character"]);
    assert_eq!(mistakes("# escape=`\n# ESCAPE=`\nFROM scratch"), ["2: the directive `escape` is given twice"]);
    assert_eq!(parse("# escape=`\nFROM a`\nb").stages[0].from.base, "ab");
    assert_eq!(parse("# escape=`\nFROM a\nWORKDIR C:\\").stages[0].instructions[0].command, Command::Workdir("C:\\".to_owned()));
}

#[test]
fn comments_belong_to_the_instruction_below() {
    let dockerfile = parse("# gone\n#\n# one\n# two\nARG a\n# three\n\nFROM scratch AS x\n");
    assert_eq!(dockerfile.arguments[0].comments, ["one", "two"]);
    assert_eq!(dockerfile.stages[0].from.comments, ["three"]);
    assert_eq!(parse("# escape=`\n# one\nFROM a").stages[0].from.comments, ["one"]);
}

#[test]
fn an_instruction_knows_its_lines() {
    let dockerfile = parse("# x\nFROM a\n\n  RUN b \\\n# y\n  c\nRUN <<E\nd\nE\nCMD e");
    let spans: Vec<(u32, u32, u32)> = dockerfile.stages[0]
        .instructions
        .iter()
        .map(|instruction| (instruction.span.line, instruction.span.column, instruction.span.end_line))
        .collect();
    assert_eq!(dockerfile.stages[0].from.span, Span::at(2, 1));
    assert_eq!(spans, [(4, 3, 6), (7, 1, 9), (10, 1, 10)]);
    assert_eq!(dockerfile.lines(dockerfile.stages[0].instructions[0].span), ["  RUN b \\", "# y", "  c"]);
}

fn run(text: &str) -> Run {
    let Command::Run(run) = command(text) else { panic!("{text}") };
    run
}

#[test]
fn a_heredoc_ends_at_its_word_alone_on_a_line() {
    for (text, name, content, expand, chomp, descriptor) in [
        ("RUN <<A\nA\n", "A", "", true, false, 0),
        ("RUN <<A\nx\n y\nA", "A", "x\n y\n", true, false, 0),
        ("RUN <<A\n A\nA \nB\nA", "A", " A\nA \nB\n", true, false, 0),
        ("RUN <<A\n# x\n\nx \\\nA", "A", "# x\n\nx \\\n", true, false, 0),
        ("RUN <<A\r\nx\r\nA\r\n", "A", "x\r\n", true, false, 0),
        ("RUN 3<<A\nA", "A", "", true, false, 3),
        ("RUN <<-A\n\tx\n\t\tA", "A", "\tx\n", true, true, 0),
        ("RUN <<'A'\n$x\nA", "A", "$x\n", false, false, 0),
        ("RUN <<\"A\"\nA", "A", "", false, false, 0),
        ("RUN <<-'A'\n\tA", "A", "", false, true, 0),
        ("RUN <<a'b'\nx\nab", "ab", "x\n", false, false, 0),
        ("RUN <<a\\'b\nx\na'b", "a'b", "x\n", true, false, 0),
        ("RUN <<'a'b\\'c\nx\nab'c", "ab'c", "x\n", false, false, 0),
        ("RUN <<'a b'\nx\na b", "a b", "x\n", false, false, 0),
        ("RUN <<$A\nx\n$A", "$A", "x\n", true, false, 0),
        ("RUN <<${A}\nx\n${A}", "${A}", "x\n", true, false, 0),
        ("RUN <<  A\nx\nA", "A", "x\n", true, false, 0),
        ("RUN << -A\nx\n-A", "-A", "x\n", true, false, 0),
        ("RUN <<A > f\nx\nA", "A", "x\n", true, false, 0),
        ("RUN cat <<A\nx\nA", "A", "x\n", true, false, 0),
        ("RUN --mount=type=cache,target=/c <<A\nx\nA", "A", "x\n", true, false, 0),
        ("RUN cat \\\n <<A\nx\nA", "A", "x\n", true, false, 0),
        ("ONBUILD RUN <<A\nx\nA", "A", "x\n", true, false, 0),
    ] {
        let heredocs = match command(text) {
            Command::Run(run) => run.heredocs,
            Command::Onbuild(trigger) => match trigger.instruction.command {
                Command::Run(run) => run.heredocs,
                other => panic!("{other:?}"),
            },
            other => panic!("{other:?}"),
        };
        let expected = Heredoc { name: name.to_owned(), descriptor, expand, chomp, content: content.to_owned() };
        assert_eq!(heredocs, [expected], "{text:?}");
    }
}

#[test]
fn not_everything_with_two_angle_brackets_is_a_heredoc() {
    for text in [
        "RUN '<<A'",
        "RUN \"<<A\"",
        "RUN [\"<<A\"]",
        "RUN a <<<A",
        "RUN cat <<",
        "RUN echo $((1<<2 ))x",
        "RUN \\<<A",
        "RUN echo 'x <<A",
        "USER <<A",
        "CMD <<A",
        "ENV a=<<A",
    ] {
        if let Command::Run(run) = command(text) {
            assert!(run.heredocs.is_empty(), "{text}");
        }
    }
}

#[test]
fn several_heredocs_follow_each_other() {
    let heredocs = run("RUN <<X <<Y\nY\nX\nX\nY").heredocs;
    let pairs: Vec<(&str, &str)> = heredocs.iter().map(|heredoc| (&heredoc.name[..], &heredoc.content[..])).collect();
    assert_eq!(pairs, [("X", "Y\n"), ("Y", "X\n")]);
}

#[test]
fn a_lone_heredoc_is_the_script_and_others_go_to_the_shell() {
    for (text, expected) in [
        ("RUN ls", RunBody::Shell("ls".to_owned())),
        ("RUN [\"ls\", \"-l\"]", RunBody::Exec(strings(&["ls", "-l"]))),
        ("RUN", RunBody::Shell(String::new())),
        ("RUN <<A\nx\ny\nA", RunBody::Shell("x\ny\n".to_owned())),
        ("RUN <<-A\n\tx\n\tA", RunBody::Shell("x\n".to_owned())),
        ("RUN <<A\n#!/x\ny\nA", RunBody::Script { name: "A".to_owned(), data: "#!/x\ny\n".to_owned() }),
        ("RUN <<A cat\nx\nA", RunBody::Shell("<<A cat\nx\nA".to_owned())),
        ("RUN <<'A' | python\n#!x\nA", RunBody::Shell("<<'A' | python\n#!x\nA".to_owned())),
        ("RUN cat <<A <<-B\nx\nA\n\ty\nB", RunBody::Shell("cat <<A <<-B\nx\nA\n\ty\nB".to_owned())),
    ] {
        assert_eq!(run(text).body(), expected, "{text:?}");
    }
    let shell = strings(&["/bin/sh", "-c"]);
    assert_eq!(run("RUN <<A\n#!/x\nA").body().argv(&shell), ["/bin/sh", "-c", "/dev/pipes/A"]);
    assert_eq!(run("RUN [\"x\"]").body().argv(&shell), ["x"]);
}

#[test]
fn what_is_wrong_with_the_text_is_told_with_the_line() {
    assert_eq!(mistakes(""), ["the Dockerfile has no instructions"]);
    assert_eq!(mistakes("# only\n\n"), ["the Dockerfile has no instructions"]);
    assert_eq!(mistakes("ARG a"), ["the Dockerfile has no FROM, so there is nothing to build"]);
    assert_eq!(mistakes("FROM a\nRUN <<A\nx\n"), ["2: the heredoc `A` never ends"]);
    assert_eq!(mistakes("FROM a\nRUN <<'A\nx\n'"), ["3: unknown instruction `x`", "4: unknown instruction `'`"]);
    let not_text = Dockerfile::parse(Path::new("Dockerfile"), b"FROM a\nRUN \xff").expect_err("not UTF-8");
    assert_eq!(told(&not_text), ["2: the Dockerfile is not UTF-8 text"]);
    assert_eq!(
        told(&Dockerfile::parse(Path::new("D"), &vec![b'#'; LIMIT + 1]).expect_err("large")),
        [format!("the Dockerfile is larger than {LIMIT} bytes")]
    );
}

#[test]
fn a_file_of_nothing_but_mistakes_ends_after_a_hundred_of_them() {
    let text = "WHAT\n".repeat(200_000);
    assert_eq!(mistakes(&text).len(), TOLD);
}

proptest! {
    #[test]
    fn no_bytes_panic(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
        let _ = Dockerfile::parse(Path::new("Dockerfile"), &bytes);
    }

    #[test]
    fn no_instructions_panic(lines in prop::collection::vec("(FROM|from|RUN|COPY|ADD|ENV|ARG|LABEL|ONBUILD|HEALTHCHECK|SHELL|VOLUME|EXPOSE|# escape=|# syntax=)?[ \t]?(--[a-z]{2,8}=?)?[ a-b\\\\`\"'<$\\[\\],={}:/.A-]{0,20}", 1..8)) {
        if let Ok(dockerfile) = Dockerfile::parse(Path::new("Dockerfile"), lines.join("\n").as_bytes()) {
            let _ = Stages::resolve(&dockerfile, &StageOptions::new(crate::oci::Platform::linux("amd64")));
            for instruction in dockerfile.stages.iter().flat_map(|stage| &stage.instructions) {
                let _ = instruction.command.expand('\\', &|_| None);
            }
        }
    }
}
