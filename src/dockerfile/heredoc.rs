//! Here-documents: the `<<WORD` in an instruction and the lines below it.

use std::sync::LazyLock;

use regex::Regex;

use super::expand::{self, ExpandError, Mode};

/// A heredoc of an instruction.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Heredoc {
    /// The word that ends it, without quotes.
    pub name: String,
    /// The number before `<<`, 0 if none.
    pub descriptor: u32,
    /// Whether variables in it are expanded: no part of the word was quoted.
    pub expand: bool,
    /// Whether leading tabs are removed: `<<-`.
    pub chomp: bool,
    /// Its lines with their line ends, as written.
    pub content: String,
}

impl Heredoc {
    /// Returns the content with the tabs removed that `<<-` removes.
    pub fn text(&self) -> String {
        if !self.chomp {
            return self.content.clone();
        }
        self.content.split_inclusive('\n').map(|line| line.trim_start_matches('\t')).collect()
    }

    /// Returns the heredoc that `word` announces, still without content, or `None` if it announces none.
    ///
    /// # Errors
    /// When the quotes of the word are not closed.
    pub fn parse_word(word: &str) -> Result<Option<Self>, ExpandError> {
        static WORD: LazyLock<Regex> =
            LazyLock::new(|| Regex::new(r"(?s)^([0-9]*)<<(-?)[\t\n\f\r ]*([^<]*)$").expect("the pattern is valid"));
        let Some(parts) = WORD.captures(word) else { return Ok(None) };
        let rest = &parts[3];
        if rest.is_empty() {
            return Ok(None);
        }
        let words = expand::expand_words(rest, '\\', &|_| None, Mode { keep_unset: true, ..Mode::WORD })?;
        let [name] = &words[..] else { return Ok(None) };
        // The word is read once with its quotes and once without: a difference means that a part was quoted.
        let raw = expand::expand_words(rest, '\\', &|_| None, Mode { keep_unset: true, raw_quotes: true, ..Mode::WORD })?;
        let quotes = |text: &str| text.matches(['\'', '"']).count();
        Ok(Some(Self {
            name: name.clone(),
            descriptor: parts[1].parse().unwrap_or(0),
            expand: raw.first().is_some_and(|raw| quotes(raw) == quotes(name)),
            chomp: &parts[2] == "-",
            content: String::new(),
        }))
    }

    /// Returns the heredocs that an instruction's line announces, in order and still without content.
    ///
    /// # Errors
    /// When the quotes of one of the words are not closed. A line whose own quotes are not closed has none.
    pub fn announced_by(line: &str) -> Result<Vec<Self>, ExpandError> {
        let mode = Mode { raw_quotes: true, raw_escapes: true, keep_unset: true, ..Mode::WORD };
        let words = expand::expand_words(line, '\\', &|_| None, mode).unwrap_or_default();
        words.iter().filter_map(|word| Self::parse_word(word).transpose()).collect()
    }
}
