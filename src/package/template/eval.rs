//! Pieces to text (Go, `text/template`, "Functions"; `fmt`, "Printing").

use super::{Command, Function, Operand, Piece, Pipeline, TemplateError, Value};

pub(super) fn render(pieces: &[Piece], hash: &str) -> Result<String, TemplateError> {
    let mut evaluator = Evaluator { hash, variables: Vec::new(), text: String::new() };
    evaluator.pieces(pieces, &Value::Data)?;
    Ok(evaluator.text)
}

struct Evaluator<'a> {
    hash: &'a str,
    variables: Vec<(String, Value)>,
    text: String,
}

impl Evaluator<'_> {
    fn pieces(&mut self, pieces: &[Piece], dot: &Value) -> Result<(), TemplateError> {
        for piece in pieces {
            match piece {
                Piece::Text(text) => self.text.push_str(text),
                Piece::Action(pipeline) => {
                    let value = self.pipeline(pipeline, dot)?;
                    if pipeline.variable.is_none() {
                        let shown = show(&value).ok_or_else(|| TemplateError::Unsupported(".".to_owned()))?;
                        self.text.push_str(&shown);
                    }
                }
                Piece::Branch { with, condition, then, otherwise } => {
                    let scope = self.variables.len();
                    let value = self.pipeline(condition, dot)?;
                    match is_true(&value) {
                        true => self.pieces(then, if *with { &value } else { dot })?,
                        false => self.pieces(otherwise, dot)?,
                    }
                    self.variables.truncate(scope);
                }
            }
        }
        Ok(())
    }

    fn pipeline(&mut self, pipeline: &Pipeline, dot: &Value) -> Result<Value, TemplateError> {
        let mut value = None;
        for command in &pipeline.commands {
            value = Some(self.command(command, dot, value)?);
        }
        let value = value.ok_or(TemplateError::Missing("a value"))?;
        if let Some(assignment) = &pipeline.variable {
            let known = self.variables.iter_mut().rev().find(|(name, _)| *name == assignment.name);
            match known.filter(|_| !assignment.declares) {
                Some((_, old)) => *old = value.clone(),
                None => self.variables.push((assignment.name.clone(), value.clone())),
            }
        }
        Ok(value)
    }

    /// Evaluates a part of a pipe; `piped` is the value of the part before it, which becomes the last argument.
    fn command(&mut self, command: &Command, dot: &Value, piped: Option<Value>) -> Result<Value, TemplateError> {
        let (first, rest) = command.operands.split_first().ok_or(TemplateError::Missing("a value"))?;
        let Operand::Function(function) = first else {
            if !rest.is_empty() || piped.is_some() {
                return Err(TemplateError::Missing("a function to take the arguments"));
            }
            return self.operand(first, dot);
        };
        let mut arguments = Vec::with_capacity(rest.len() + 1);
        for operand in rest {
            let value = self.operand(operand, dot)?;
            // `and` and `or` leave the rest unevaluated once they know.
            let decided = match function {
                Function::And => !is_true(&value),
                Function::Or => is_true(&value),
                _ => false,
            };
            if decided {
                return Ok(value);
            }
            arguments.push(value);
        }
        arguments.extend(piped);
        call(*function, &arguments)
    }

    fn operand(&mut self, operand: &Operand, dot: &Value) -> Result<Value, TemplateError> {
        match operand {
            // Inside `with`, dot is a text, which has no fields.
            Operand::Hash if *dot == Value::Data => Ok(Value::Text(self.hash.to_owned())),
            Operand::Hash => Err(TemplateError::Field(".Hash".to_owned())),
            Operand::Root => Ok(Value::Text(self.hash.to_owned())),
            Operand::Dot => Ok(dot.clone()),
            Operand::Variable(name) if name == "$" => Ok(Value::Data),
            Operand::Variable(name) => {
                let found = self.variables.iter().rev().find(|(known, _)| known == name);
                found.map(|(_, value)| value.clone()).ok_or_else(|| TemplateError::Variable(name.clone()))
            }
            Operand::Function(function) => call(*function, &[]),
            Operand::Literal(value) => Ok(value.clone()),
            Operand::Nested(pipeline) => self.pipeline(pipeline, dot),
        }
    }
}

fn is_true(value: &Value) -> bool {
    match value {
        Value::Text(text) => !text.is_empty(),
        Value::Integer(number) => *number != 0,
        Value::Boolean(boolean) => *boolean,
        Value::Data => true,
    }
}

fn show(value: &Value) -> Option<String> {
    match value {
        Value::Text(text) => Some(text.clone()),
        Value::Integer(number) => Some(number.to_string()),
        Value::Boolean(boolean) => Some(boolean.to_string()),
        Value::Data => None,
    }
}

fn call(function: Function, arguments: &[Value]) -> Result<Value, TemplateError> {
    let wrong = || TemplateError::Arguments { function: function.name(), arguments: describe(arguments) };
    match (function, arguments) {
        (Function::And | Function::Or, [.., last]) => {
            let stops = |value: &&Value| is_true(value) == (function == Function::Or);
            Ok(arguments.iter().find(stops).unwrap_or(last).clone())
        }
        (Function::Not, [value]) => Ok(Value::Boolean(!is_true(value))),
        (Function::Eq, [first, rest @ ..]) if !rest.is_empty() => {
            let mut equal = false;
            for other in rest {
                equal |= compare(first, other).ok_or_else(wrong)?.is_eq();
            }
            Ok(Value::Boolean(equal))
        }
        (Function::Ne, [a, b]) => Ok(Value::Boolean(compare(a, b).ok_or_else(wrong)?.is_ne())),
        (Function::Lt | Function::Le | Function::Gt | Function::Ge, [a, b]) if !matches!(a, Value::Boolean(_)) => {
            let order = compare(a, b).ok_or_else(wrong)?;
            Ok(Value::Boolean(match function {
                Function::Lt => order.is_lt(),
                Function::Le => order.is_le(),
                Function::Gt => order.is_gt(),
                _ => order.is_ge(),
            }))
        }
        (Function::Len, [Value::Text(text)]) => Ok(Value::Integer(text.len() as i64)),
        (Function::Index, [Value::Text(text), Value::Integer(at)]) => {
            let byte = usize::try_from(*at).ok().and_then(|at| text.as_bytes().get(at));
            let range = TemplateError::Range { function: "index", at: *at, length: text.len() };
            byte.map(|byte| Value::Integer(i64::from(*byte))).ok_or(range)
        }
        (Function::Slice, [Value::Text(text), bounds @ ..]) if bounds.len() <= 2 => slice(text, bounds),
        (Function::Print | Function::Println, _) => print(function, arguments).map(Value::Text).ok_or_else(wrong),
        (Function::Printf, [Value::Text(format), values @ ..]) => printf(format, values).map(Value::Text).ok_or_else(wrong),
        _ => Err(wrong()),
    }
}

fn describe(arguments: &[Value]) -> String {
    if arguments.is_empty() {
        return "no arguments".to_owned();
    }
    let one = |value: &Value| match value {
        Value::Text(text) => format!("{text:?}"),
        value => show(value).unwrap_or_else(|| ".".to_owned()),
    };
    format!("`{}`", arguments.iter().map(one).collect::<Vec<_>>().join(" "))
}

fn compare(a: &Value, b: &Value) -> Option<std::cmp::Ordering> {
    match (a, b) {
        (Value::Text(a), Value::Text(b)) => Some(a.cmp(b)),
        (Value::Integer(a), Value::Integer(b)) => Some(a.cmp(b)),
        (Value::Boolean(a), Value::Boolean(b)) => Some(a.cmp(b)),
        _ => None,
    }
}

fn slice(text: &str, bounds: &[Value]) -> Result<Value, TemplateError> {
    let mut ends = [0, text.len()];
    for (end, bound) in ends.iter_mut().zip(bounds) {
        let Value::Integer(at) = bound else {
            return Err(TemplateError::Arguments { function: "slice", arguments: describe(bounds) });
        };
        let range = TemplateError::Range { function: "slice", at: *at, length: text.len() };
        *end = usize::try_from(*at).ok().filter(|at| *at <= text.len()).ok_or(range)?;
    }
    // Go would cut a character of several bytes in two; no tag may hold either half.
    let range = TemplateError::Range { function: "slice", at: ends[0] as i64, length: text.len() };
    text.get(ends[0]..ends[1]).map(|part| Value::Text(part.to_owned())).ok_or(range)
}

fn print(function: Function, arguments: &[Value]) -> Option<String> {
    let mut text = String::new();
    for (at, value) in arguments.iter().enumerate() {
        let is_text = |value: &Value| matches!(value, Value::Text(_));
        // `print` parts two values when neither is a text, `println` always.
        if at > 0 && (function == Function::Println || !(is_text(value) || is_text(&arguments[at - 1]))) {
            text.push(' ');
        }
        text.push_str(&show(value)?);
    }
    if function == Function::Println {
        text.push('\n');
    }
    Some(text)
}

/// Returns `None` for every verb, flag or argument that Go would complain about in its output.
fn printf(format: &str, values: &[Value]) -> Option<String> {
    let mut text = String::new();
    let mut values = values.iter();
    let mut chars = format.chars().peekable();
    while let Some(c) = chars.next() {
        if c != '%' {
            text.push(c);
            continue;
        }
        let (mut minus, mut zero, mut plus) = (false, false, false);
        while let Some(flag) = chars.next_if(|c| matches!(c, '-' | '0' | '+')) {
            match flag {
                '-' => minus = true,
                '0' => zero = true,
                _ => plus = true,
            }
        }
        let mut number = || {
            let mut digits = String::new();
            while let Some(digit) = chars.next_if(char::is_ascii_digit) {
                digits.push(digit);
            }
            digits
        };
        let width = number();
        let width: usize = if width.is_empty() { 0 } else { width.parse().ok().filter(|width| *width <= 256)? };
        let precision = match chars.next_if_eq(&'.') {
            Some(_) => {
                let mut digits = String::new();
                while let Some(digit) = chars.next_if(char::is_ascii_digit) {
                    digits.push(digit);
                }
                Some(if digits.is_empty() { 0 } else { digits.parse::<usize>().ok()? })
            }
            None => None,
        };
        let verb = chars.next()?;
        if verb == '%' {
            text.push('%');
            continue;
        }
        let value = values.next()?;
        let shown = verb_text(verb, value, precision, plus)?;
        let pad = width.saturating_sub(shown.chars().count());
        match (minus, zero && matches!(value, Value::Integer(_))) {
            (true, _) => text.push_str(&format!("{shown}{}", " ".repeat(pad))),
            (false, true) => {
                let (sign, digits) = shown.split_at(usize::from(shown.starts_with(['-', '+'])));
                text.push_str(&format!("{sign}{}{digits}", "0".repeat(pad)));
            }
            (false, false) => text.push_str(&format!("{}{shown}", " ".repeat(pad))),
        }
    }
    values.next().is_none().then_some(text)
}

fn verb_text(verb: char, value: &Value, precision: Option<usize>, plus: bool) -> Option<String> {
    let cut = |text: &str| match precision {
        Some(most) => text.chars().take(most).collect(),
        None => text.to_owned(),
    };
    let signed = |number: i64, digits: String| match (number < 0, plus) {
        (true, _) => format!("-{digits}"),
        (false, true) => format!("+{digits}"),
        (false, false) => digits,
    };
    Some(match (verb, value) {
        ('s' | 'v', Value::Text(text)) if !plus => cut(text),
        ('q', Value::Text(text)) if !plus && text.chars().all(|c| (' '..='~').contains(&c)) => {
            format!("\"{}\"", cut(text).replace('\\', "\\\\").replace('"', "\\\""))
        }
        ('x' | 'X', Value::Text(text)) if !plus => {
            let bytes = text.bytes().take(precision.unwrap_or(usize::MAX));
            bytes.map(|byte| if verb == 'x' { format!("{byte:02x}") } else { format!("{byte:02X}") }).collect()
        }
        ('d' | 'v', Value::Integer(number)) if precision.is_none() => signed(*number, number.unsigned_abs().to_string()),
        ('x', Value::Integer(number)) if precision.is_none() => signed(*number, format!("{:x}", number.unsigned_abs())),
        ('X', Value::Integer(number)) if precision.is_none() => signed(*number, format!("{:X}", number.unsigned_abs())),
        ('o', Value::Integer(number)) if precision.is_none() => signed(*number, format!("{:o}", number.unsigned_abs())),
        ('b', Value::Integer(number)) if precision.is_none() => signed(*number, format!("{:b}", number.unsigned_abs())),
        ('c', Value::Integer(number)) if precision.is_none() && !plus => {
            char::from_u32(u32::try_from(*number).ok()?)?.to_string()
        }
        ('t' | 'v', Value::Boolean(boolean)) if precision.is_none() && !plus => boolean.to_string(),
        _ => return None,
    })
}
