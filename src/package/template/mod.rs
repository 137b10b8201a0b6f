//! Tag templates: the part of Go's `text/template` that makes a tag from a hash.
//!
//! Text, `{{.Hash}}`, `if`, `else`, `with`, variables, pipes, parentheses, trim markers, comments, literals, and the
//! functions `and or not eq ne lt le gt ge len index slice print println printf`. Everything else, and everything that Go
//! would render as a complaint inside the tag (`<no value>`, `%!d(string=…)`), is an error: a tag is right or there is none.

mod eval;
mod parse;

use std::sync::Arc;

/// A parsed template.
#[derive(Clone, Debug)]
pub struct Template {
    source: String,
    pieces: Arc<[Piece]>,
}

/// Why a template cannot be parsed or evaluated.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
pub enum TemplateError {
    /// An action is not closed.
    #[error("`{{{{` without `}}}}`")]
    Unclosed,
    /// A comment is not closed, or something follows it in its action.
    #[error("a comment that does not end with `*/}}}}`")]
    Comment,
    /// A string, character or number that is not well-formed.
    #[error("malformed literal `{0}`")]
    Literal(String),
    /// Something that does not belong where it stands.
    #[error("unexpected `{0}`")]
    Unexpected(String),
    /// An action that is missing something.
    #[error("missing {0}")]
    Missing(&'static str),
    /// A part of the language that is not evaluated here.
    #[error("`{0}` cannot be used in a tag")]
    Unsupported(String),
    /// A field other than `.Hash`.
    #[error("`{0}` is not known: only `.Hash` is")]
    Field(String),
    /// A function that does not exist.
    #[error("there is no function `{0}`")]
    Function(String),
    /// A variable that was not declared.
    #[error("there is no variable `{0}`")]
    Variable(String),
    /// A function called with arguments it cannot take.
    #[error("`{function}` cannot take {arguments}")]
    Arguments {
        /// The function.
        function: &'static str,
        /// What it was given.
        arguments: String,
    },
    /// An index outside of a text.
    #[error("`{function}` reaches {at} in a text of {length} bytes")]
    Range {
        /// `slice` or `index`.
        function: &'static str,
        /// Where to.
        at: i64,
        /// How long the text is.
        length: usize,
    },
    /// A template that is larger or more deeply nested than any tag needs.
    #[error("the template is too large or too deeply nested")]
    TooLarge,
}

impl Template {
    /// The template that is used when none is given.
    pub const DEFAULT: &'static str = "{{.Hash}}";

    /// Returns the parsed template.
    ///
    /// # Errors
    /// When it is malformed, or names fields, functions or actions that a tag cannot use.
    pub fn parse(source: &str) -> Result<Self, TemplateError> {
        Ok(Self { source: source.to_owned(), pieces: parse::parse(source)?.into() })
    }

    /// Returns the text as written.
    pub fn source(&self) -> &str {
        &self.source
    }

    /// Returns the text for `hash`.
    ///
    /// # Errors
    /// When a function cannot take its arguments, such as a `slice` beyond the hash's end.
    pub fn render(&self, hash: &str) -> Result<String, TemplateError> {
        eval::render(&self.pieces, hash)
    }
}

impl Default for Template {
    fn default() -> Self {
        Self::parse(Self::DEFAULT).expect("the default is well-formed")
    }
}

impl PartialEq for Template {
    fn eq(&self, other: &Self) -> bool {
        self.source == other.source
    }
}

#[derive(Debug)]
enum Piece {
    Text(String),
    Action(Pipeline),
    /// `if` and `with`; `else if` is a branch in `otherwise`.
    Branch {
        with: bool,
        condition: Pipeline,
        then: Vec<Piece>,
        otherwise: Vec<Piece>,
    },
}

#[derive(Debug)]
struct Pipeline {
    /// Whether the value goes to a variable rather than into the text.
    variable: Option<Assignment>,
    commands: Vec<Command>,
}

#[derive(Debug)]
struct Assignment {
    name: String,
    declares: bool,
}

/// One part of a pipe: a function with arguments, or a single value.
#[derive(Debug)]
struct Command {
    operands: Vec<Operand>,
}

#[derive(Debug)]
enum Operand {
    /// `.Hash`.
    Hash,
    /// `$.Hash`, which is the hash wherever it stands.
    Root,
    Dot,
    /// `$x`; `$` itself is the whole data, whose only use is `$.Hash`.
    Variable(String),
    Function(Function),
    Literal(Value),
    Nested(Pipeline),
}

#[derive(Clone, PartialEq, Eq, Debug)]
enum Value {
    Text(String),
    Integer(i64),
    Boolean(bool),
    /// The data itself, `map[Hash:…]`.
    Data,
}

/// Declares the functions once: for the parser and for messages.
macro_rules! functions {
    ($($variant:ident $name:literal),* $(,)?) => {
        #[derive(Clone, Copy, PartialEq, Eq, Debug)]
        enum Function { $($variant),* }

        impl Function {
            fn named(name: &str) -> Option<Self> {
                match name { $($name => Some(Self::$variant),)* _ => None }
            }

            fn name(self) -> &'static str {
                match self { $(Self::$variant => $name),* }
            }
        }
    };
}

functions!(
    And "and", Or "or", Not "not", Eq "eq", Ne "ne", Lt "lt", Le "le", Gt "gt", Ge "ge",
    Len "len", Index "index", Slice "slice", Print "print", Println "println", Printf "printf",
);

#[cfg(test)]
mod tests {
    use super::*;

    const HASH: &str = "b5506cc74a6812dc40982cacfd2f4328f8a4b12a";

    fn render(source: &str) -> Result<String, TemplateError> {
        Template::parse(source)?.render(HASH)
    }

    /// The expected texts are what Go 1.24's `text/template` is specified to give.
    #[test]
    fn templates_render_as_in_go() {
        for (source, expected) in [
            ("{{.Hash}}", HASH),
            ("{{ .Hash }}-kube", "b5506cc74a6812dc40982cacfd2f4328f8a4b12a-kube"),
            ("{{slice .Hash 0 7}}", "b5506cc"),
            ("{{slice .Hash 33}}", "8a4b12a"),
            ("v1-{{printf \"%.7s\" .Hash}}", "v1-b5506cc"),
            ("{{.Hash | printf \"%.7s\"}}", "b5506cc"),
            ("{{printf `%s_%d` (slice .Hash 0 3) 12}}", "b55_12"),
            (
                "{{printf \"%05d|%-4d|%x|%X|%t|%v|%%|%c\" 42 7 255 255 true .Hash 65}}",
                "00042|7   |ff|FF|true|b5506cc74a6812dc40982cacfd2f4328f8a4b12a|%|A",
            ),
            ("{{printf \"%6s|%-6s|%x|%q\" `ab` `ab` `hi` `q\"`}}", "    ab|ab    |6869|\"q\\\"\""),
            ("{{len .Hash}}", "40"),
            ("{{index .Hash 0}}", "98"),
            ("{{print \"a\" 1 2 \"b\" `c`}}", "a1 2bc"),
            ("{{if eq (len .Hash) 40}}full{{else}}short{{end}}", "full"),
            ("{{if ne .Hash \"\"}}{{slice .Hash 0 4}}{{else}}none{{end}}", "b550"),
            ("{{if eq .Hash \"x\" \"y\"}}1{{else if lt (len .Hash) 3}}2{{else}}3{{end}}", "3"),
            ("{{with slice .Hash 0 2}}{{.}}-{{$.Hash | len}}{{end}}", "b5-40"),
            ("{{with \"\"}}a{{else}}b{{end}}", "b"),
            ("{{$h := slice .Hash 0 5}}{{$h}}{{$h = `x`}}{{$h}}", "b5506x"),
            ("{{and .Hash \"x\"}}{{or \"\" \"y\"}}{{not true}}", "xyfalse"),
            ("a {{- /* trimmed */ -}} b", "ab"),
            ("a {{/* kept */}} b", "a  b"),
            ("a \n{{- .Hash | slice | len -}}\n b", "a40b"),
            ("{{\"}}\"}}{{'a'}}{{0x10}}{{true}}", "}}9716true"),
            ("{{\"\\u00e9\\x41\\n\\t\\\"\"}}", "éA\n\t\""),
            ("plain", "plain"),
            ("", ""),
        ] {
            assert_eq!(render(source).as_deref(), Ok(expected), "{source}");
        }
    }

    #[test]
    fn what_cannot_be_evaluated_is_an_error_and_never_a_tag() {
        for source in [
            "{{.Foo}}",
            "{{.Hash.Foo}}",
            "{{.}}",
            "{{$}}",
            "{{$x}}",
            "{{.Hash",
            "{{}}",
            "{{/* x }}",
            "{{foo .Hash}}",
            "{{template \"x\"}}",
            "{{range .Hash}}{{end}}",
            "{{define \"x\"}}{{end}}",
            "{{end}}",
            "{{else}}",
            "{{if .Hash}}",
            "{{if}}x{{end}}",
            "{{slice .Hash 0 41}}",
            "{{slice .Hash 7 3}}",
            "{{slice .Hash -1}}",
            "{{index .Hash 40}}",
            "{{printf \"%d\" .Hash}}",
            "{{printf \"%s\" 5}}",
            "{{printf \"%s\"}}",
            "{{printf \"x\" 1}}",
            "{{printf 1}}",
            "{{printf \"%z\" 1}}",
            "{{eq .Hash 1}}",
            "{{lt true false}}",
            "{{len 5}}",
            "{{.Hash 1}}",
            "{{1 | .Hash}}",
            "{{\"a}}",
            "{{(.Hash}}",
            "{{.Hash)}}",
            "{{| .Hash}}",
            "{{.Hash |}}",
            "{{nil}}",
            "{{html .Hash}}",
            "{{1.5}}",
            "{{'ab'}}",
            "{{\"\\z\"}}",
            "{{$x = 1}}",
            "{{if .Hash}}a{{else}}b{{else}}c{{end}}",
            "{{with .Hash}}{{.Hash}}{{end}}",
            "{{break}}",
            "{{not}}",
            "{{not 1 2}}",
        ] {
            assert!(render(source).is_err(), "{source} gave {:?}", render(source));
        }
    }

    #[test]
    fn depth_and_size_are_bounded() {
        let deep = format!("{{{{{}1{}}}}}", "(".repeat(5_000), ")".repeat(5_000));
        assert_eq!(render(&deep), Err(TemplateError::TooLarge));
        let nested = "{{if 1}}".repeat(300) + &"{{end}}".repeat(300);
        assert_eq!(render(&nested), Err(TemplateError::TooLarge));
    }
}
