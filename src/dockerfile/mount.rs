//! `RUN --mount`: its options, read once their variables can be expanded.

#[cfg(test)]
mod tests;

use super::expand::{ExpandError, Lookup, Mode, expand_word};
use super::instruction::MountText;
use super::values;
use crate::diagnostic::nearest;

/// A mount of a `RUN` step.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Mount {
    /// What is mounted.
    pub kind: MountKind,
    /// Where; relative to the working directory unless it starts with `/`. Empty where the kind has a default.
    pub target: String,
    /// Whether the step cannot write there. Writes to a bind mount are lost in any case.
    pub read_only: bool,
    /// Owner of a new cache directory, of a secret's file or of an agent's socket.
    pub uid: Option<u32>,
    /// Group of the same.
    pub gid: Option<u32>,
    /// Mode of the same.
    pub mode: Option<u32>,
}

/// What is mounted.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum MountKind {
    /// A directory or file of the context, or of a stage or image.
    Bind {
        /// The stage, named context or image; the context if `None`.
        from: Option<String>,
        /// Path inside it; the root if empty.
        source: String,
    },
    /// A directory that later builds find again.
    Cache {
        /// Which one: `id`, or the cleaned target.
        id: String,
        /// What happens when two steps want it at once.
        sharing: Sharing,
        /// What a new one starts from; empty if `None`.
        from: Option<String>,
        /// Path inside that.
        source: String,
    },
    /// Memory.
    Tmpfs {
        /// At most so many bytes; 0 for no limit of its own.
        size: u64,
    },
    /// A secret, as a file, a variable or both.
    Secret {
        /// Which one.
        id: String,
        /// The variable that holds it.
        env: Option<String>,
        /// Whether the step fails without it.
        required: bool,
    },
    /// The socket of an SSH agent.
    Ssh {
        /// Which agent.
        id: String,
        /// Whether the step fails without it.
        required: bool,
    },
}

/// What happens when two steps want one cache directory at once.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Default)]
pub enum Sharing {
    /// Both use it.
    #[default]
    Shared,
    /// The second gets another.
    Private,
    /// The second waits.
    Locked,
}

/// Why a `--mount` is wrong.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
pub enum MountError {
    /// A value cannot be expanded.
    #[error(transparent)]
    Expand(#[from] ExpandError),
    /// The quotes of the comma-separated list.
    #[error("the quotes in `--mount={0}` do not match: a field is quoted whole or not at all")]
    Quotes(String),
    /// An option without a value that needs one.
    #[error("`{0}` needs a value, as in `{0}=…`")]
    NoValue(String),
    /// An option that does not exist.
    #[error("unknown mount option `{option}`{}", meant(.nearest))]
    Unknown {
        /// What was written.
        option: String,
        /// The nearest that exists.
        nearest: Option<&'static str>,
    },
    /// A value outside of a closed set.
    #[error("`{value}` is no mount {option}: use one of {}{}", .known.join(", "), meant(.nearest))]
    OneOf {
        /// The option.
        option: &'static str,
        /// Its value.
        value: String,
        /// The values that exist.
        known: &'static [&'static str],
        /// The nearest of them.
        nearest: Option<&'static str>,
    },
    /// A value of the wrong form.
    #[error("`{value}` is no value of the mount option `{option}`: it takes {takes}")]
    Value {
        /// The option.
        option: &'static str,
        /// Its value.
        value: String,
        /// What it takes.
        takes: &'static str,
    },
    /// An option of another kind of mount.
    #[error("a mount of type {kind} has no `{option}`")]
    NotOfKind {
        /// The type.
        kind: &'static str,
        /// The option.
        option: &'static str,
    },
    /// A secret that nothing names.
    #[error("a secret mount needs an `id`, a `source` or a `target`")]
    NamelessSecret,
    /// A secret that two options name.
    #[error("a secret mount takes `id` or `source`, not both")]
    TwoSecretNames,
    /// Variables where there may be none.
    #[error("`from` of a mount takes no variables: name a stage `FROM {0} AS …` and mount from that")]
    VariableFrom(String),
}

fn meant(nearest: &Option<&'static str>) -> String {
    nearest.map(|nearest| format!(" (did you mean `{nearest}`?)")).unwrap_or_default()
}

const TYPES: &[&str] = &["bind", "cache", "secret", "ssh", "tmpfs"];
const SHARINGS: &[&str] = &["locked", "private", "shared"];
const OPTIONS: [&str; 19] = [
    "destination",
    "dst",
    "env",
    "from",
    "gid",
    "id",
    "mode",
    "readonly",
    "readwrite",
    "required",
    "ro",
    "rw",
    "sharing",
    "size",
    "source",
    "src",
    "target",
    "type",
    "uid",
];

impl MountText {
    /// Reads what has to be known before variables are: `from`.
    ///
    /// # Errors
    /// When the list is malformed or `from` holds a variable.
    pub fn parse(text: &str) -> Result<Self, MountError> {
        let mut from = None;
        for field in fields(text)? {
            if let Some((key, value)) = field.split_once('=')
                && key.eq_ignore_ascii_case("from")
            {
                if value.find('$').is_some_and(|at| at + 1 != value.len()) {
                    return Err(MountError::VariableFrom(value.to_owned()));
                }
                from = (!value.is_empty()).then(|| value.to_owned());
            }
        }
        Ok(Self { text: text.to_owned(), from })
    }
}

/// The options as given, before their defaults.
#[derive(Default)]
struct Given {
    kind: &'static str,
    from: Option<String>,
    source: String,
    target: String,
    read_only: Option<bool>,
    size: u64,
    id: String,
    sharing: Option<Sharing>,
    required: bool,
    mode: Option<u32>,
    uid: Option<u32>,
    gid: Option<u32>,
    env: Option<String>,
}

impl Mount {
    /// Reads a mount with the variables in force.
    ///
    /// # Errors
    /// As [`MountError`]: the first mistake.
    pub fn parse(mount: &MountText, escape: char, lookup: Lookup<'_>) -> Result<Self, MountError> {
        let mut given = Given { kind: "bind", from: mount.from.clone(), ..Given::default() };
        for field in fields(&mount.text)? {
            match field.split_once('=') {
                Some((key, value)) => {
                    let value = expand_word(value, escape, lookup, Mode::WORD)?;
                    given.set(&key.to_ascii_lowercase(), value)?;
                }
                None => given.flag(&field)?,
            }
        }
        given.finish()
    }
}

impl Given {
    fn flag(&mut self, field: &str) -> Result<(), MountError> {
        match &field.to_ascii_lowercase()[..] {
            "readonly" | "ro" => self.read_only = Some(true),
            "readwrite" | "rw" => self.read_only = Some(false),
            "required" => self.require(true)?,
            other if OPTIONS.contains(&other) => return Err(MountError::NoValue(field.to_owned())),
            other => return Err(unknown(other)),
        }
        Ok(())
    }

    fn set(&mut self, key: &str, value: String) -> Result<(), MountError> {
        match key {
            "type" => self.kind = one_of("type", &value, TYPES)?,
            "from" => {}
            "source" | "src" => self.source = value,
            "target" | "dst" | "destination" => self.target = value,
            "readonly" | "ro" => self.read_only = Some(boolean("readonly", value)?),
            "readwrite" | "rw" => self.read_only = Some(!boolean("readwrite", value)?),
            "required" => {
                let value = boolean("required", value)?;
                self.require(value)?;
            }
            "size" if self.kind == "tmpfs" => {
                self.size = values::bytes(&value).ok_or(MountError::Value {
                    option: "size",
                    value,
                    takes: "a number of bytes like `64m`",
                })?;
            }
            "size" => return Err(MountError::NotOfKind { kind: self.kind, option: "size" }),
            "id" => self.id = value,
            "sharing" => {
                self.sharing = Some(match one_of("sharing", &value, SHARINGS)? {
                    "private" => Sharing::Private,
                    "locked" => Sharing::Locked,
                    _ => Sharing::Shared,
                });
            }
            "mode" => {
                let mode = u32::from_str_radix(&value, 8);
                self.mode =
                    Some(mode.map_err(|_| MountError::Value { option: "mode", value, takes: "an octal mode like 0755" })?);
            }
            "uid" => self.uid = Some(number("uid", value)?),
            "gid" => self.gid = Some(number("gid", value)?),
            "env" => self.env = Some(value),
            other => return Err(unknown(other)),
        }
        Ok(())
    }

    fn require(&mut self, value: bool) -> Result<(), MountError> {
        if !matches!(self.kind, "secret" | "ssh") {
            return Err(MountError::NotOfKind { kind: self.kind, option: "required" });
        }
        self.required = value;
        Ok(())
    }

    fn finish(mut self) -> Result<Mount, MountError> {
        let kind = self.kind;
        let refuse = |given: bool, option| if given { Err(MountError::NotOfKind { kind, option }) } else { Ok(()) };
        if matches!(kind, "bind" | "tmpfs") {
            refuse(self.mode.is_some(), "mode")?;
            refuse(self.uid.is_some(), "uid")?;
            refuse(self.gid.is_some(), "gid")?;
        }
        refuse(self.sharing.is_some() && kind != "cache", "sharing")?;
        let kind = match kind {
            "cache" => {
                let id = if self.id.is_empty() { values::clean_path(&self.target) } else { self.id };
                MountKind::Cache { id, sharing: self.sharing.unwrap_or_default(), from: self.from, source: self.source }
            }
            "tmpfs" => MountKind::Tmpfs { size: self.size },
            "secret" => {
                refuse(self.from.is_some(), "from")?;
                if !self.source.is_empty() && !self.id.is_empty() {
                    return Err(MountError::TwoSecretNames);
                }
                let name = [self.source, self.id, values::base_name(&self.target)].into_iter().find(|name| !name.is_empty());
                let id = name.ok_or(MountError::NamelessSecret)?;
                if self.env.is_none() && self.target.is_empty() {
                    self.target = format!("/run/secrets/{}", values::base_name(&id));
                }
                MountKind::Secret { id, env: self.env, required: self.required }
            }
            "ssh" => {
                refuse(!self.source.is_empty(), "source")?;
                let id = if self.id.is_empty() { "default".to_owned() } else { self.id };
                MountKind::Ssh { id, required: self.required }
            }
            _ => MountKind::Bind { from: self.from, source: self.source },
        };
        let writable = matches!(kind, MountKind::Cache { .. } | MountKind::Tmpfs { .. });
        Ok(Mount {
            kind,
            target: self.target,
            read_only: self.read_only.unwrap_or(!writable),
            uid: self.uid,
            gid: self.gid,
            mode: self.mode,
        })
    }
}

fn unknown(option: &str) -> MountError {
    MountError::Unknown { option: option.to_owned(), nearest: nearest(option, OPTIONS) }
}

fn one_of(option: &'static str, value: &str, known: &'static [&'static str]) -> Result<&'static str, MountError> {
    let found = known.iter().find(|known| known.eq_ignore_ascii_case(value)).copied();
    found.ok_or_else(|| MountError::OneOf {
        option,
        value: value.to_owned(),
        known,
        nearest: nearest(value, known.iter().copied()),
    })
}

fn boolean(option: &'static str, value: String) -> Result<bool, MountError> {
    values::boolean(&value).ok_or(MountError::Value { option, value, takes: "`true` or `false`" })
}

fn number(option: &'static str, value: String) -> Result<u32, MountError> {
    value.parse().map_err(|_| MountError::Value { option, value, takes: "a number" })
}

/// Divides a line of comma-separated values; a field is quoted whole, with `""` for a quote in it.
fn fields(text: &str) -> Result<Vec<String>, MountError> {
    let error = || MountError::Quotes(text.to_owned());
    let mut fields = Vec::new();
    let mut rest = text;
    loop {
        let Some(mut quoted) = rest.strip_prefix('"') else {
            let (field, tail) = rest.split_once(',').map_or((rest, None), |(field, tail)| (field, Some(tail)));
            if field.contains('"') {
                return Err(error());
            }
            fields.push(field.to_owned());
            match tail {
                Some(tail) => rest = tail,
                None => return Ok(fields),
            }
            continue;
        };
        let mut field = String::new();
        loop {
            let (part, tail) = quoted.split_once('"').ok_or_else(error)?;
            field.push_str(part);
            match tail.strip_prefix('"') {
                Some(tail) => {
                    field.push('"');
                    quoted = tail;
                }
                None => {
                    quoted = tail;
                    break;
                }
            }
        }
        fields.push(field);
        match quoted.strip_prefix(',') {
            Some(tail) => rest = tail,
            None if quoted.is_empty() => return Ok(fields),
            None => return Err(error()),
        }
    }
}
