//! Arguments about what `RUN` steps are given: secrets, agents, host names, limits, permissions.

use std::net::IpAddr;
use std::path::PathBuf;

use clap::{Args, ValueEnum};

use super::values::parse_bytes;
use crate::builder::steps::{Resource, Ulimit};

/// What steps are given and how far they may go.
#[derive(Args, Debug, Clone, Default)]
#[command(next_help_heading = "Steps")]
pub struct StepArgs {
    /// Give steps a secret: `id=ID[,src=FILE|,env=VARIABLE]` (repeatable)
    #[arg(long, value_name = "SECRET", value_parser = parse_secret)]
    pub secret: Vec<SecretArg>,
    /// Give steps an SSH agent: `default` or `ID[=SOCKET]`; without a socket it is that of $SSH_AUTH_SOCK (repeatable)
    #[arg(long, value_name = "AGENT", value_parser = parse_agent)]
    pub ssh: Vec<AgentArg>,
    /// Permit what a Dockerfile alone must not have (repeatable)
    #[arg(long, value_name = "WHAT", value_enum)]
    pub allow: Vec<Permission>,
    /// Add a line to /etc/hosts of steps (repeatable)
    #[arg(long, value_name = "NAME:ADDRESS", value_parser = parse_host)]
    pub add_host: Vec<(String, IpAddr)>,
    /// Limit what processes of steps may use: `nofile=1024:4096` (repeatable)
    #[arg(long, value_name = "NAME=SOFT[:HARD]", value_parser = parse_ulimit)]
    pub ulimit: Vec<Ulimit>,
    /// Size of /dev/shm of steps [default: 64m]
    #[arg(long, value_name = "BYTES", value_parser = parse_bytes)]
    pub shm_size: Option<u64>,
    /// Memory that a step may use with all its processes: 512m, 2g; there is no swap in place of it
    #[arg(long, value_name = "BYTES", value_parser = parse_bytes)]
    pub memory: Option<u64>,
    /// Processors that a step may use, such as 1.5
    #[arg(long, value_name = "NUMBER", value_parser = parse_processors)]
    pub cpus: Option<u32>,
    /// Processes and threads that a step may have [default: 32768, where that can be kept]
    #[arg(long, value_name = "NUMBER", value_parser = clap::value_parser!(u64).range(1..))]
    pub pids_limit: Option<u64>,
}

/// What `--allow` permits.
#[derive(ValueEnum, Debug, Clone, Copy, PartialEq, Eq)]
pub enum Permission {
    /// `RUN --network=host`: the network of this machine
    #[value(name = "network.host")]
    NetworkHost,
}

/// `--secret`
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SecretArg {
    /// What Dockerfiles call it.
    pub id: String,
    /// Where it is.
    pub source: SecretSource,
}

/// Where a secret is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum SecretSource {
    /// In a file.
    File(PathBuf),
    /// In a variable.
    Variable(String),
    /// In a variable of the secret's name, or else in a file of that name.
    Named,
}

/// `--ssh`
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AgentArg {
    /// What Dockerfiles call it.
    pub id: String,
    /// Its socket; `None` for the user's own agent.
    pub socket: Option<PathBuf>,
}

fn parse_secret(text: &str) -> Result<SecretArg, String> {
    let (mut id, mut kind, mut file, mut variable) = (None, None, None, None);
    // Comma-separated values: a field that holds a comma is quoted as a whole.
    for field in fields(text)? {
        let Some((key, value)) = field.split_once('=') else {
            return Err(format!("`{field}` is no `key=value`: expected `id=ID,src=FILE` or `id=ID,env=VARIABLE`"));
        };
        match &key.to_ascii_lowercase()[..] {
            "id" => id = Some(value.to_owned()),
            "type" if matches!(value, "file" | "env") => kind = Some(value.to_owned()),
            "type" => return Err(format!("`{value}` is no type of a secret: expected file or env")),
            "src" | "source" => file = Some(value.to_owned()),
            "env" => variable = Some(value.to_owned()),
            _ => return Err(format!("a secret has no `{key}`: expected id, type, src or env")),
        }
    }
    let id = id.filter(|id| !id.is_empty()).ok_or("a secret needs an id: `id=ID`")?;
    if kind.as_deref() == Some("env") && variable.is_none() {
        variable = file.take();
    }
    let source = match (file, variable) {
        (Some(_), Some(_)) => return Err("a secret comes from `src` or from `env`, not from both".to_owned()),
        (Some(file), None) => SecretSource::File(PathBuf::from(file)),
        (None, Some(variable)) => SecretSource::Variable(variable),
        (None, None) => match kind.as_deref() {
            Some("env") => SecretSource::Variable(id.clone()),
            Some(_) => SecretSource::File(PathBuf::from(&id)),
            None => SecretSource::Named,
        },
    };
    Ok(SecretArg { id, source })
}

fn fields(text: &str) -> Result<Vec<String>, String> {
    let mut fields = Vec::new();
    let mut rest = Some(text);
    while let Some(text) = rest {
        match text.strip_prefix('"') {
            None => {
                let (field, tail) = text.split_once(',').map_or((text, None), |(field, tail)| (field, Some(tail)));
                fields.push(field.to_owned());
                rest = tail;
            }
            Some(quoted) => {
                let (field, tail) = quoted.split_once('"').ok_or("a quote does not end")?;
                fields.push(field.to_owned());
                rest = match tail.strip_prefix(',') {
                    None if tail.is_empty() => None,
                    Some(tail) => Some(tail),
                    None => return Err("a field is quoted whole or not at all".to_owned()),
                };
            }
        }
    }
    Ok(fields)
}

/// Parses `2`, `1.5`, `.25` into hundredths.
fn parse_processors(text: &str) -> Result<u32, String> {
    let wrong = || format!("`{text}` is no number of processors: expected something like 2 or 1.5");
    let (whole, part) = text.split_once('.').unwrap_or((text, ""));
    let digits = |text: &str| text.chars().all(|c| c.is_ascii_digit());
    if part.len() > 2 || !digits(whole) || !digits(part) || (whole.is_empty() && part.is_empty()) {
        return Err(wrong());
    }
    let number = |text: &str| if text.is_empty() { Ok(0) } else { text.parse::<u32>().map_err(|_| wrong()) };
    let hundredths = number(whole)?.checked_mul(100).and_then(|whole| Some(whole + number(&format!("{part:0<2}")).ok()?));
    hundredths.filter(|hundredths| *hundredths > 0).ok_or_else(wrong)
}

fn parse_agent(text: &str) -> Result<AgentArg, String> {
    let (id, socket) = text.split_once('=').map_or((text, None), |(id, socket)| (id, Some(socket)));
    if id.is_empty() {
        return Err("expected `default` or `ID[=SOCKET]`".to_owned());
    }
    Ok(AgentArg { id: id.to_owned(), socket: socket.filter(|socket| !socket.is_empty()).map(PathBuf::from) })
}

fn parse_host(text: &str) -> Result<(String, IpAddr), String> {
    let wrong = || format!("`{text}` is no `NAME:ADDRESS`, such as `db:10.0.0.2`");
    let (name, address) = text.split_once([':', '=']).ok_or_else(wrong)?;
    let valid = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '.' | '_');
    if name.is_empty() || !name.chars().all(valid) {
        return Err(wrong());
    }
    if address == "host-gateway" {
        return Err("`host-gateway` has no meaning here: steps do not reach services of this machine".to_owned());
    }
    let address = address.strip_prefix('[').and_then(|inner| inner.strip_suffix(']')).unwrap_or(address);
    Ok((name.to_owned(), address.parse().map_err(|_| wrong())?))
}

fn parse_ulimit(text: &str) -> Result<Ulimit, String> {
    let wrong = || format!("`{text}` is no `NAME=SOFT[:HARD]`, such as `nofile=1024:4096`");
    let (name, limits) = text.split_once('=').ok_or_else(wrong)?;
    let resource = Resource::ALL.iter().copied().find(|resource| resource.word() == name).ok_or_else(|| {
        let all: Vec<&str> = Resource::ALL.iter().map(|resource| resource.word()).collect();
        format!("`{name}` is no limit: expected one of {}", all.join(", "))
    })?;
    let number = |text: &str| match text {
        "-1" | "unlimited" => Ok(None),
        text => text.parse().map(Some).map_err(|_| wrong()),
    };
    let (soft, hard) = match limits.split_once(':') {
        Some((soft, hard)) => (number(soft)?, number(hard)?),
        None => (number(limits)?, number(limits)?),
    };
    if soft.unwrap_or(u64::MAX) > hard.unwrap_or(u64::MAX) {
        return Err(format!("in `{text}` the soft limit is above the hard one"));
    }
    Ok(Ulimit { resource, soft, hard })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn secrets_are_written_as_for_docker() {
        use SecretSource::{File, Named, Variable};
        let file = |path: &str| File(PathBuf::from(path));
        let variable = |name: &str| Variable(name.to_owned());
        for (text, source) in [
            ("id=x,src=a", file("a")),
            ("source=a,ID=x", file("a")),
            ("type=file,id=x,src=/b", file("/b")),
            ("type=file,id=x", file("x")),
            ("id=x,env=E", variable("E")),
            ("type=env,id=x,env=E", variable("E")),
            ("type=env,id=x,src=E", variable("E")),
            ("type=env,id=x", variable("x")),
            ("id=x", Named),
            ("id=x,\"src=a,b\"", file("a,b")),
        ] {
            assert_eq!(parse_secret(text), Ok(SecretArg { id: "x".to_owned(), source }), "{text}");
        }
        for wrong in ["", "x", "src=a", "id=", "id=x,src=a,env=b", "id=x,type=vault", "id=x,mode=1", "id=x,\"src=a", "\"id=x\"y"]
        {
            assert!(parse_secret(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn agents_hosts_and_limits_are_written_as_for_docker() {
        let agent = |id: &str, socket: Option<&str>| AgentArg { id: id.to_owned(), socket: socket.map(PathBuf::from) };
        assert_eq!(parse_agent("default"), Ok(agent("default", None)));
        assert_eq!(parse_agent("git=/run/a"), Ok(agent("git", Some("/run/a"))));
        assert_eq!(parse_agent("git="), Ok(agent("git", None)));
        assert!(parse_agent("=x").is_err());
        for (text, name, address) in
            [("db:10.0.0.2", "db", "10.0.0.2"), ("a.b=::1", "a.b", "::1"), ("a:::1", "a", "::1"), ("a=[::1]", "a", "::1")]
        {
            assert_eq!(parse_host(text), Ok((name.to_owned(), address.parse().expect("an address"))), "{text}");
        }
        for wrong in ["", "db", "db:", ":1.2.3.4", "a b:1.2.3.4", "a\nb:1.2.3.4", "db:host-gateway", "db:example.org"] {
            assert!(parse_host(wrong).is_err(), "{wrong}");
        }
        let limit = |resource, soft, hard| Ok(Ulimit { resource, soft, hard });
        assert_eq!(parse_ulimit("nofile=1024:4096"), limit(Resource::Nofile, Some(1024), Some(4096)));
        assert_eq!(parse_ulimit("core=0"), limit(Resource::Core, Some(0), Some(0)));
        assert_eq!(parse_ulimit("stack=8192:-1"), limit(Resource::Stack, Some(8192), None));
        for (text, hundredths) in [("2", 200), ("1.5", 150), (".25", 25), ("0.01", 1), ("3.", 300)] {
            assert_eq!(parse_processors(text), Ok(hundredths), "{text}");
        }
        for wrong in ["", ".", "0", "0.001", "-1", "x", "99999999999"] {
            assert!(parse_processors(wrong).is_err(), "{wrong}");
        }
        for wrong in ["nofile", "files=1", "nofile=", "nofile=2:1", "nofile=-1:5", "nofile=a"] {
            assert!(parse_ulimit(wrong).is_err(), "{wrong}");
        }
    }
}
