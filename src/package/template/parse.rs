//! Template text to pieces (Go, `text/template`, "Actions" and "Pipelines").

use std::iter::Peekable;
use std::vec::IntoIter;

use super::{Assignment, Command, Function, Operand, Piece, Pipeline, TemplateError, Value};

/// Longest template.
const LONGEST: usize = 4096;
/// Deepest nesting of blocks or parentheses.
const DEEPEST: usize = 40;

#[derive(Clone, PartialEq, Eq, Debug)]
enum Token {
    Word(String),
    /// `.Name`; a chain `.A.B` is two.
    Field(String),
    Dot,
    Variable(String),
    Literal(Value),
    Pipe,
    Open,
    Close,
    Declare,
    Assign,
    /// White space: it parts operands, so that `(…) .x` is not `(…).x`.
    Space,
}

#[derive(Debug)]
enum Part {
    Text(String),
    Action(Vec<Token>),
}

pub(super) fn parse(source: &str) -> Result<Vec<Piece>, TemplateError> {
    if source.len() > LONGEST {
        return Err(TemplateError::TooLarge);
    }
    let mut parser = Parser { parts: split(source)?.into_iter(), variables: Vec::new() };
    let (pieces, end) = parser.block(0)?;
    match end {
        Stop::File => Ok(pieces),
        Stop::End => Err(TemplateError::Unexpected("end".to_owned())),
        Stop::Else(_) => Err(TemplateError::Unexpected("else".to_owned())),
    }
}

/// Cuts the source into text and actions; trim markers and comments are gone after it.
fn split(source: &str) -> Result<Vec<Part>, TemplateError> {
    let mut parts = Vec::new();
    let mut rest = source;
    let mut trim_next = false;
    loop {
        let start = rest.find("{{");
        let mut text = &rest[..start.unwrap_or(rest.len())];
        if std::mem::take(&mut trim_next) {
            text = text.trim_start_matches(BLANK);
        }
        let Some(start) = start else {
            parts.push(Part::Text(text.to_owned()));
            return Ok(parts);
        };
        rest = &rest[start + 2..];
        if let Some(after) = rest.strip_prefix('-').filter(|after| after.starts_with(BLANK)) {
            text = text.trim_end_matches(BLANK);
            rest = after;
        }
        parts.push(Part::Text(text.to_owned()));
        let comment = rest.trim_start_matches(BLANK);
        if let Some(comment) = comment.strip_prefix("/*") {
            let end = comment.find("*/").ok_or(TemplateError::Comment)?;
            let after = &comment[end + 2..];
            let trimmed = after.trim_start_matches(BLANK).strip_prefix("-}}").filter(|_| after.starts_with(BLANK));
            trim_next = trimmed.is_some();
            rest = trimmed.or_else(|| after.strip_prefix("}}")).ok_or(TemplateError::Comment)?;
            continue;
        }
        let (tokens, after, trims) = action(rest)?;
        parts.push(Part::Action(tokens));
        trim_next = trims;
        rest = after;
    }
}

const BLANK: [char; 4] = [' ', '\t', '\r', '\n'];

/// Reads the tokens of an action, and returns them with what follows it and whether it ends in a trim marker.
fn action(source: &str) -> Result<(Vec<Token>, &str, bool), TemplateError> {
    let mut tokens = Vec::new();
    let mut rest = source;
    loop {
        if let Some(after) = rest.strip_prefix("}}") {
            return Ok((tokens, after, false));
        }
        let next = rest.chars().next().ok_or(TemplateError::Unclosed)?;
        if BLANK.contains(&next) {
            rest = rest.trim_start_matches(BLANK);
            if let Some(after) = rest.strip_prefix("-}}") {
                return Ok((tokens, after, true));
            }
            tokens.push(Token::Space);
            continue;
        }
        let (token, length) = token(rest, next)?;
        tokens.push(token);
        rest = &rest[length..];
    }
}

/// Returns the token at the start of `rest`, and its length in bytes.
fn token(rest: &str, next: char) -> Result<(Token, usize), TemplateError> {
    let is_word = |c: char| c.is_alphanumeric() || c == '_';
    let word_length = |text: &str| text.find(|c| !is_word(c)).unwrap_or(text.len());
    Ok(match next {
        '|' => (Token::Pipe, 1),
        '(' => (Token::Open, 1),
        ')' => (Token::Close, 1),
        ':' if rest.starts_with(":=") => (Token::Declare, 2),
        '=' => (Token::Assign, 1),
        '"' => quoted(rest)?,
        '`' => {
            let end = rest[1..].find('`').ok_or_else(|| TemplateError::Literal(rest.to_owned()))?;
            (Token::Literal(Value::Text(rest[1..=end].to_owned())), end + 2)
        }
        '\'' => character(rest)?,
        '$' => {
            let length = 1 + word_length(&rest[1..]);
            (Token::Variable(rest[..length].to_owned()), length)
        }
        '.' if rest[1..].starts_with(|c: char| c.is_alphabetic() || c == '_') => {
            let length = 1 + word_length(&rest[1..]);
            (Token::Field(rest[..length].to_owned()), length)
        }
        '.' if !rest[1..].starts_with(|c: char| c.is_ascii_digit()) => (Token::Dot, 1),
        '+' | '-' | '.' | '0'..='9' => number(rest)?,
        c if is_word(c) => {
            let length = word_length(rest);
            (Token::Word(rest[..length].to_owned()), length)
        }
        c => return Err(TemplateError::Unexpected(c.to_string())),
    })
}

fn number(rest: &str) -> Result<(Token, usize), TemplateError> {
    let sign = usize::from(rest.starts_with(['+', '-']));
    let length = sign + rest[sign..].find(|c: char| !(c.is_alphanumeric() || c == '_' || c == '.')).unwrap_or(rest.len() - sign);
    let text = &rest[..length];
    let digits = text[sign..].replace('_', "");
    let (radix, digits) = match digits.get(..2).map(str::to_ascii_lowercase).as_deref() {
        Some("0x") => (16, &digits[2..]),
        Some("0o") => (8, &digits[2..]),
        Some("0b") => (2, &digits[2..]),
        Some(_) if digits.starts_with('0') => (8, &digits[1..]),
        _ => (10, digits.as_str()),
    };
    let ok = digits.chars().all(|c| c.is_digit(radix)) && !digits.is_empty();
    let value = ok.then(|| i64::from_str_radix(digits, radix).ok()).flatten();
    let value = value.ok_or_else(|| TemplateError::Literal(text.to_owned()))?;
    Ok((Token::Literal(Value::Integer(if text.starts_with('-') { -value } else { value })), length))
}

/// A string with Go's escapes; it stays on one line.
fn quoted(rest: &str) -> Result<(Token, usize), TemplateError> {
    let malformed = || TemplateError::Literal(rest.to_owned());
    let mut text = Vec::new();
    let mut at = 1;
    loop {
        let c = rest[at..].chars().next().ok_or_else(malformed)?;
        match c {
            '"' => {
                let text = String::from_utf8(text).map_err(|_| malformed())?;
                return Ok((Token::Literal(Value::Text(text)), at + 1));
            }
            '\n' => return Err(malformed()),
            '\\' => {
                let (bytes, length) = escape(&rest[at + 1..]).ok_or_else(malformed)?;
                text.extend(bytes);
                at += 1 + length;
            }
            c => {
                text.extend(c.to_string().into_bytes());
                at += c.len_utf8();
            }
        }
    }
}

/// Returns what an escape stands for and its length after the backslash.
fn escape(rest: &str) -> Option<(Vec<u8>, usize)> {
    let c = rest.chars().next()?;
    let simple = match c {
        'a' => 7,
        'b' => 8,
        'f' => 12,
        'n' => b'\n',
        'r' => b'\r',
        't' => b'\t',
        'v' => 11,
        '\\' => b'\\',
        '"' => b'"',
        '\'' => b'\'',
        'x' => u8::from_str_radix(rest.get(1..3)?, 16).ok()?,
        '0'..='3' => u8::from_str_radix(rest.get(..3)?, 8).ok()?,
        'u' | 'U' => {
            let digits = if c == 'u' { 4 } else { 8 };
            let code = u32::from_str_radix(rest.get(1..=digits)?, 16).ok()?;
            return Some((char::from_u32(code)?.to_string().into_bytes(), digits + 1));
        }
        _ => return None,
    };
    Some((
        vec![simple],
        match c {
            'x' | '0'..='3' => 3,
            _ => 1,
        },
    ))
}

/// A character constant: a number.
fn character(rest: &str) -> Result<(Token, usize), TemplateError> {
    let malformed = || TemplateError::Literal(rest.to_owned());
    let inner = &rest[1..];
    let c = inner.chars().next().ok_or_else(malformed)?;
    let (code, length) = match c {
        '\\' => {
            let (bytes, length) = escape(&inner[1..]).ok_or_else(malformed)?;
            let text = String::from_utf8(bytes).map_err(|_| malformed())?;
            (text.chars().next().ok_or_else(malformed)?, length + 1)
        }
        '\'' | '\n' => return Err(malformed()),
        c => (c, c.len_utf8()),
    };
    if !inner[length..].starts_with('\'') {
        return Err(malformed());
    }
    Ok((Token::Literal(Value::Integer(i64::from(u32::from(code)))), length + 2))
}

struct Parser {
    parts: IntoIter<Part>,
    /// Those in scope, inner ones last.
    variables: Vec<String>,
}

/// What ended a block.
enum Stop {
    File,
    End,
    /// With what follows the word in its action: nothing, or `if …` and `with …`.
    Else(Vec<Token>),
}

type Tokens = Peekable<IntoIter<Token>>;

impl Parser {
    fn block(&mut self, depth: usize) -> Result<(Vec<Piece>, Stop), TemplateError> {
        if depth > DEEPEST {
            return Err(TemplateError::TooLarge);
        }
        let mut pieces = Vec::new();
        while let Some(part) = self.parts.next() {
            let tokens = match part {
                Part::Text(text) => {
                    if !text.is_empty() {
                        pieces.push(Piece::Text(text));
                    }
                    continue;
                }
                Part::Action(tokens) => tokens,
            };
            let mut tokens = tokens.into_iter().peekable();
            skip_space(&mut tokens);
            match tokens.peek() {
                Some(Token::Word(word)) => match word.as_str() {
                    "end" => {
                        tokens.next();
                        finished(&mut tokens)?;
                        return Ok((pieces, Stop::End));
                    }
                    "else" => {
                        tokens.next();
                        skip_space(&mut tokens);
                        return Ok((pieces, Stop::Else(tokens.collect())));
                    }
                    "if" | "with" => {
                        let with = word == "with";
                        tokens.next();
                        pieces.push(self.branch(with, tokens, depth)?);
                    }
                    "range" | "template" | "define" | "block" | "break" | "continue" => {
                        return Err(TemplateError::Unsupported(word.clone()));
                    }
                    _ => pieces.push(Piece::Action(self.action(tokens)?)),
                },
                _ => pieces.push(Piece::Action(self.action(tokens)?)),
            }
        }
        Ok((pieces, Stop::File))
    }

    fn action(&mut self, mut tokens: Tokens) -> Result<Pipeline, TemplateError> {
        let pipeline = self.pipeline(&mut tokens, 0)?;
        finished(&mut tokens)?;
        Ok(pipeline)
    }

    fn branch(&mut self, with: bool, tokens: Tokens, depth: usize) -> Result<Piece, TemplateError> {
        let scope = self.variables.len();
        let condition = self.action(tokens)?;
        let (then, end) = self.block(depth + 1)?;
        let otherwise = match end {
            Stop::File => return Err(TemplateError::Missing("`end`")),
            Stop::End => Vec::new(),
            Stop::Else(rest) => self.otherwise(rest, depth)?,
        };
        self.variables.truncate(scope);
        Ok(Piece::Branch { with, condition, then, otherwise })
    }

    fn otherwise(&mut self, rest: Vec<Token>, depth: usize) -> Result<Vec<Piece>, TemplateError> {
        let mut tokens = rest.into_iter().peekable();
        match tokens.next() {
            None => match self.block(depth + 1)? {
                (pieces, Stop::End) => Ok(pieces),
                (_, Stop::Else(_)) => Err(TemplateError::Unexpected("else".to_owned())),
                (_, Stop::File) => Err(TemplateError::Missing("`end`")),
            },
            Some(Token::Word(word)) if word == "if" || word == "with" => {
                if depth > DEEPEST {
                    return Err(TemplateError::TooLarge);
                }
                Ok(vec![self.branch(word == "with", tokens, depth + 1)?])
            }
            Some(token) => Err(unexpected(&token)),
        }
    }

    fn pipeline(&mut self, tokens: &mut Tokens, depth: usize) -> Result<Pipeline, TemplateError> {
        if depth > DEEPEST {
            return Err(TemplateError::TooLarge);
        }
        skip_space(tokens);
        let mut variable = None;
        let mut commands = Vec::new();
        let mut operands = Vec::new();
        if let Some(Token::Variable(name)) = tokens.peek().cloned() {
            tokens.next();
            skip_space(tokens);
            match tokens.peek() {
                Some(token @ (Token::Declare | Token::Assign)) => {
                    let declares = *token == Token::Declare;
                    tokens.next();
                    if !declares && !self.variables.contains(&name) {
                        return Err(TemplateError::Variable(name));
                    }
                    variable = Some(Assignment { name, declares });
                }
                _ => operands.push(self.variable(name, tokens)?),
            }
        }
        loop {
            skip_space(tokens);
            match tokens.peek() {
                None | Some(Token::Close) => {
                    commands.push(command(operands)?);
                    break;
                }
                Some(Token::Pipe) => {
                    tokens.next();
                    commands.push(command(std::mem::take(&mut operands))?);
                }
                Some(_) => operands.push(self.operand(tokens, depth)?),
            }
        }
        if let Some(Assignment { name, declares: true }) = &variable {
            self.variables.push(name.clone());
        }
        Ok(Pipeline { variable, commands })
    }

    fn variable(&mut self, name: String, tokens: &mut Tokens) -> Result<Operand, TemplateError> {
        if let Some(Token::Field(field)) = tokens.peek().cloned() {
            tokens.next();
            let known = name == "$" && field == ".Hash";
            return if known { Ok(Operand::Root) } else { Err(TemplateError::Field(format!("{name}{field}"))) };
        }
        if name != "$" && !self.variables.contains(&name) {
            return Err(TemplateError::Variable(name));
        }
        Ok(Operand::Variable(name))
    }

    fn operand(&mut self, tokens: &mut Tokens, depth: usize) -> Result<Operand, TemplateError> {
        let token = tokens.next().ok_or(TemplateError::Missing("a value"))?;
        let operand = match token {
            Token::Field(name) if name == ".Hash" => Operand::Hash,
            Token::Field(name) => return Err(TemplateError::Field(name)),
            Token::Dot => Operand::Dot,
            Token::Variable(name) => self.variable(name, tokens)?,
            Token::Literal(value) => Operand::Literal(value),
            Token::Word(word) => match word.as_str() {
                "true" => Operand::Literal(Value::Boolean(true)),
                "false" => Operand::Literal(Value::Boolean(false)),
                "nil" | "html" | "js" | "urlquery" | "call" => return Err(TemplateError::Unsupported(word)),
                _ => Operand::Function(Function::named(&word).ok_or(TemplateError::Function(word))?),
            },
            Token::Open => {
                let nested = self.pipeline(tokens, depth + 1)?;
                if nested.variable.is_some() {
                    return Err(TemplateError::Unsupported(":=".to_owned()));
                }
                match tokens.next() {
                    Some(Token::Close) => Operand::Nested(nested),
                    _ => return Err(TemplateError::Missing("`)`")),
                }
            }
            token => return Err(unexpected(&token)),
        };
        match tokens.peek() {
            None | Some(Token::Space | Token::Pipe | Token::Close) => Ok(operand),
            Some(Token::Field(name)) => Err(TemplateError::Field(name.clone())),
            Some(token) => Err(unexpected(token)),
        }
    }
}

fn command(operands: Vec<Operand>) -> Result<Command, TemplateError> {
    if operands.is_empty() {
        return Err(TemplateError::Missing("a value"));
    }
    Ok(Command { operands })
}

fn skip_space(tokens: &mut Tokens) {
    while tokens.next_if(|token| *token == Token::Space).is_some() {}
}

fn finished(tokens: &mut Tokens) -> Result<(), TemplateError> {
    skip_space(tokens);
    tokens.next().map_or(Ok(()), |token| Err(unexpected(&token)))
}

fn unexpected(token: &Token) -> TemplateError {
    TemplateError::Unexpected(match token {
        Token::Word(text) | Token::Field(text) | Token::Variable(text) => text.clone(),
        Token::Dot => ".".to_owned(),
        Token::Literal(Value::Text(text)) => format!("{text:?}"),
        Token::Literal(Value::Integer(number)) => number.to_string(),
        Token::Literal(_) | Token::Space => "literal".to_owned(),
        Token::Pipe => "|".to_owned(),
        Token::Open => "(".to_owned(),
        Token::Close => ")".to_owned(),
        Token::Declare => ":=".to_owned(),
        Token::Assign => "=".to_owned(),
    })
}
