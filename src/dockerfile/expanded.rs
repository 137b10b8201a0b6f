//! An instruction with its final words: which parts are expanded, and what they must be then.

use super::expand::{ExpandError, Lookup, Mode, expand_word, expand_words};
use super::instruction::{Add, Command, Copy, KeyValue, Transfer};
use super::values;

/// Why an instruction's final words are wrong.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
pub enum CommandError {
    /// A word cannot be expanded.
    #[error("`{word}` cannot be expanded")]
    Expand {
        /// The word as written.
        word: String,
        /// Why.
        #[source]
        source: ExpandError,
    },
    /// `EXPOSE` of something that is no port.
    #[error("`{specification}` is no port: {why}")]
    Port {
        /// What was written.
        specification: String,
        /// The rule that it breaks.
        why: &'static str,
    },
    /// `STOPSIGNAL` of something that is no signal.
    #[error("`{0}` is no signal: use a number or a name like `SIGTERM`")]
    Signal(String),
    /// `VOLUME` of nothing.
    #[error("a path of VOLUME is empty after expansion")]
    EmptyVolume,
}

struct Expander<'a> {
    escape: char,
    lookup: Lookup<'a>,
}

impl Command {
    /// Returns the instruction with its variables and quotes expanded, all of them by the variables from before it: in `ENV
    /// a=1 b=$a` the second sees the old `a`.
    ///
    /// `RUN`, `CMD`, `ENTRYPOINT`, `HEALTHCHECK`, `SHELL`, `MAINTAINER` and `ONBUILD` come back as they are; so does `ARG`,
    /// which [`super::Scope::declare`] evaluates, and the mounts of `RUN`, which [`super::Mount::parse`] reads.
    ///
    /// # Errors
    /// As [`CommandError`].
    pub fn expand(&self, escape: char, lookup: Lookup<'_>) -> Result<Self, CommandError> {
        let expander = Expander { escape, lookup };
        Ok(match self {
            Self::Add(add) => Self::Add(Add {
                transfer: expander.transfer(&add.transfer)?,
                checksum: expander.optional(&add.checksum)?,
                ..add.clone()
            }),
            Self::Copy(copy) => Self::Copy(Copy { transfer: expander.transfer(&copy.transfer)?, ..copy.clone() }),
            Self::Env(pairs) => Self::Env(expander.pairs(pairs)?),
            Self::Label(pairs) => Self::Label(expander.pairs(pairs)?),
            Self::Expose(specifications) => Self::Expose(expander.ports(specifications)?),
            Self::StopSignal(signal) => {
                let signal = expander.word(signal)?;
                if !values::is_signal(&signal) {
                    return Err(CommandError::Signal(signal));
                }
                Self::StopSignal(signal)
            }
            Self::User(user) => Self::User(expander.word(user)?),
            Self::Volume(volumes) => {
                let volumes = expander.all(volumes)?;
                if volumes.iter().any(String::is_empty) {
                    return Err(CommandError::EmptyVolume);
                }
                Self::Volume(volumes)
            }
            Self::Workdir(path) => Self::Workdir(expander.word(path)?),
            Self::Arg(_)
            | Self::Cmd(_)
            | Self::Entrypoint(_)
            | Self::Healthcheck(_)
            | Self::Maintainer(_)
            | Self::Onbuild(_)
            | Self::Run(_)
            | Self::Shell(_) => self.clone(),
        })
    }
}

impl Expander<'_> {
    fn word(&self, word: &str) -> Result<String, CommandError> {
        expand_word(word, self.escape, self.lookup, Mode::WORD)
            .map_err(|source| CommandError::Expand { word: word.to_owned(), source })
    }

    fn all(&self, words: &[String]) -> Result<Vec<String>, CommandError> {
        words.iter().map(|word| self.word(word)).collect()
    }

    /// A flag that expands to nothing counts as not given.
    fn optional(&self, word: &Option<String>) -> Result<Option<String>, CommandError> {
        let word = word.as_ref().map(|word| self.word(word)).transpose()?;
        Ok(word.filter(|word| !word.is_empty()))
    }

    fn pairs(&self, pairs: &[KeyValue]) -> Result<Vec<KeyValue>, CommandError> {
        let pair =
            |pair: &KeyValue| Ok(KeyValue { key: self.word(&pair.key)?, value: self.word(&pair.value)?, legacy: pair.legacy });
        pairs.iter().map(pair).collect()
    }

    fn transfer(&self, transfer: &Transfer) -> Result<Transfer, CommandError> {
        let mut inline = transfer.inline.clone();
        for file in inline.iter_mut().filter(|file| file.expand) {
            // Inside of a heredoc the escape character is `\`, whatever the directive says.
            file.data = expand_word(&file.data, '\\', self.lookup, Mode::HEREDOC)
                .map_err(|source| CommandError::Expand { word: format!("<<{}", file.name), source })?;
        }
        Ok(Transfer {
            sources: self.all(&transfer.sources)?,
            inline,
            destination: self.word(&transfer.destination)?,
            chown: self.optional(&transfer.chown)?,
            chmod: self.optional(&transfer.chmod)?,
            link: transfer.link,
            exclude: transfer.exclude.clone(),
        })
    }

    fn ports(&self, specifications: &[String]) -> Result<Vec<String>, CommandError> {
        let mut ports = Vec::new();
        for specification in specifications {
            let words = expand_words(specification, self.escape, self.lookup, Mode::WORD)
                .map_err(|source| CommandError::Expand { word: specification.clone(), source })?;
            for word in words {
                let found = values::ports(&word).map_err(|why| CommandError::Port { specification: word, why })?;
                ports.extend(found);
            }
        }
        Ok(ports)
    }
}
