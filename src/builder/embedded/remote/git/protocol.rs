//! What is asked of `git-upload-pack`: what references are, and a pack of objects. Version 2 of the protocol, and version
//! 0 for servers that have nothing newer (many by SSH, which do not take the version from us).

use std::collections::BTreeMap;

use git2::Oid;
use tokio::io::AsyncWriteExt;

use super::connection::{Answer, Connection, broke, shown};
use super::packet::{self, DELIMITER, FLUSH, Packet};
use crate::builder::embedded::remote::RemoteProgress;
use crate::builder::embedded::remote::error::RemoteError;
use crate::builder::embedded::remote::location::GitUrl;
use crate::builder::embedded::remote::web::Web;

/// Most references that are listened to.
const REFERENCES: usize = 2_000_000;

const AGENT: &str = concat!("agent=", env!("CARGO_PKG_NAME"), "/", env!("CARGO_PKG_VERSION"));

/// What a reference is.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) struct Reference {
    /// What it names.
    pub(super) object: Oid,
    /// The commit that a tag object names in the end.
    pub(super) peeled: Option<Oid>,
    /// The reference that it is another name of: for `HEAD`.
    pub(super) target: Option<String>,
}

/// References by their whole names.
pub(super) type References = BTreeMap<String, Reference>;

/// A conversation with a server.
pub(super) struct Conversation<'a> {
    from: String,
    connection: Connection<'a>,
    speaks: Speaks,
}

enum Speaks {
    Two,
    Zero { references: References, capabilities: Vec<String> },
}

/// How much history comes with a commit.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Depth {
    One,
    All,
}

impl<'a> Conversation<'a> {
    /// Begins a conversation with the repository at `url`.
    ///
    /// # Errors
    /// When it cannot be reached, or does not speak git.
    pub(super) async fn begin(web: &'a Web, url: &GitUrl) -> Result<Self, RemoteError> {
        let from = url.to_string();
        let (mut connection, mut answer) = Connection::open(web, url).await?;
        match advertisement(&from, &mut answer).await {
            Ok(speaks) => {
                connection.resume(answer);
                Ok(Self { from, connection, speaks })
            }
            Err(error) => Err(connection.explained(error).await),
        }
    }

    /// Returns those of `names`, whole names of references, that the repository has.
    ///
    /// # Errors
    /// When the connection breaks or the server refuses.
    pub(super) async fn references(&mut self, names: &[String]) -> Result<References, RemoteError> {
        if let Speaks::Zero { references, .. } = &self.speaks {
            return Ok(references.iter().filter(|(name, _)| names.contains(name)).map(|(n, r)| (n.clone(), r.clone())).collect());
        }
        let mut message = Vec::new();
        packet::line(&mut message, "command=ls-refs");
        packet::line(&mut message, AGENT);
        packet::line(&mut message, "object-format=sha1");
        message.extend_from_slice(DELIMITER);
        packet::line(&mut message, "peel");
        packet::line(&mut message, "symrefs");
        names.iter().for_each(|name| packet::line(&mut message, &format!("ref-prefix {name}")));
        message.extend_from_slice(FLUSH);
        let mut answer = self.connection.ask(message, 2).await?;
        let mut references = References::new();
        while let Some(line) = text(&self.from, &mut answer).await? {
            let wrong = || RemoteError::Protocol { from: self.from.clone(), rule: "its list of references is none" };
            let mut words = line.split(' ');
            let object = words.next().and_then(oid).ok_or_else(wrong)?;
            let name = words.next().ok_or_else(wrong)?.to_owned();
            let mut reference = Reference { object, peeled: None, target: None };
            for word in words {
                if let Some(peeled) = word.strip_prefix("peeled:") {
                    reference.peeled = Some(oid(peeled).ok_or_else(wrong)?);
                } else if let Some(target) = word.strip_prefix("symref-target:") {
                    reference.target = Some(target.to_owned());
                }
            }
            if references.len() >= REFERENCES {
                return Err(wrong());
            }
            // A prefix also has longer names.
            if names.contains(&name) {
                references.insert(name, reference);
            }
        }
        self.connection.resume(answer);
        Ok(references)
    }

    /// Writes a pack with `wanted`, a commit or tag, and all that it needs but its history into `pack`. `known` are commits
    /// whose files are here already.
    ///
    /// # Errors
    /// When the connection breaks, the server refuses, or the pack has more than `limit` bytes.
    pub(super) async fn fetch(
        mut self,
        (wanted, known): (Oid, &[Oid]),
        (pack, limit): (&mut tokio::fs::File, u64),
        progress: RemoteProgress<'_>,
    ) -> Result<(), RemoteError> {
        let asked = match &self.speaks {
            Speaks::Two => self.connection.ask(question_two(wanted, known), 2).await,
            Speaks::Zero { references, capabilities } => {
                let message = question_zero(wanted, references, capabilities)
                    .ok_or_else(|| RemoteError::NoCommit { from: self.from.clone(), commit: wanted.to_string() })?;
                self.connection.ask(message, 0).await
            }
        };
        let result = match asked {
            Ok(mut answer) => match before_pack(&self.from, matches!(self.speaks, Speaks::Two), &mut answer).await {
                Ok(()) => receive(&self.from, &mut answer, (pack, limit), progress).await,
                Err(error) => Err(error),
            },
            Err(error) => Err(error),
        };
        match result {
            Ok(()) => Ok(()),
            Err(error @ RemoteError::BrokeOff { .. }) => Err(self.connection.explained(error).await),
            Err(error) => Err(error),
        }
    }
}

/// Reads what comes before the pack.
async fn before_pack(from: &str, is_new: bool, answer: &mut Answer) -> Result<(), RemoteError> {
    let wrong = || RemoteError::Protocol { from: from.to_owned(), rule: "it sends no pack" };
    loop {
        match (is_new, next(from, answer).await?) {
            // Sections, of which the last is the pack; a boundary of history is what we asked for.
            (true, Packet::Data(line)) if line == b"packfile" => return Ok(()),
            (true, Packet::Data(_) | Packet::Delimiter) => {}
            (false, Packet::Data(line)) if line == b"NAK" => return Ok(()),
            (false, Packet::Data(line)) if line.starts_with(b"shallow ") || line.starts_with(b"unshallow ") => {}
            (false, Packet::Flush) => {}
            _ => return Err(wrong()),
        }
    }
}

fn question_two(wanted: Oid, known: &[Oid]) -> Vec<u8> {
    let mut message = Vec::new();
    packet::line(&mut message, "command=fetch");
    packet::line(&mut message, AGENT);
    packet::line(&mut message, "object-format=sha1");
    message.extend_from_slice(DELIMITER);
    for option in ["ofs-delta", "no-progress", "deepen 1"] {
        packet::line(&mut message, option);
    }
    if !known.is_empty() {
        // Without it git sends again what the commits here have, because it does not look into them.
        packet::line(&mut message, "thin-pack");
    }
    known.iter().for_each(|known| packet::line(&mut message, &format!("shallow {known}")));
    packet::line(&mut message, &format!("want {wanted}"));
    known.iter().for_each(|known| packet::line(&mut message, &format!("have {known}")));
    packet::line(&mut message, "done");
    message.extend_from_slice(FLUSH);
    message
}

/// Returns `None` when the server gives nothing that could have the commit.
fn question_zero(wanted: Oid, references: &References, capabilities: &[String]) -> Option<Vec<u8>> {
    let has = |name: &str| capabilities.iter().any(|capability| capability == name);
    let offered = references.values().any(|reference| reference.object == wanted);
    let by_commit = has("allow-reachable-sha1-in-want") || has("allow-any-sha1-in-want");
    let (wants, depth): (Vec<Oid>, Depth) = if offered || by_commit {
        (vec![wanted], Depth::One)
    } else {
        // The commit may be somewhere in the history of what there is.
        let kept = |name: &String| name.starts_with("refs/heads/") || name.starts_with("refs/tags/");
        let mut all: Vec<Oid> = references.iter().filter(|(name, _)| kept(name)).map(|(_, found)| found.object).collect();
        all.sort();
        all.dedup();
        (all, Depth::All)
    };
    if !has("side-band-64k") || (depth == Depth::One && !has("shallow")) {
        return None;
    }
    let mut message = Vec::new();
    let mut options = "side-band-64k ofs-delta no-progress".to_owned();
    if has("agent") || capabilities.iter().any(|capability| capability.starts_with("agent=")) {
        options = format!("{options} {AGENT}");
    }
    for (number, want) in wants.iter().enumerate() {
        let options = if number == 0 { format!(" {options}") } else { String::new() };
        packet::line(&mut message, &format!("want {want}{options}"));
    }
    if depth == Depth::One {
        packet::line(&mut message, "deepen 1");
    }
    message.extend_from_slice(FLUSH);
    packet::line(&mut message, "done");
    (!wants.is_empty()).then_some(message)
}

/// Writes the pack of an answer, which comes beside messages for people.
async fn receive(
    from: &str,
    answer: &mut Answer,
    (pack, limit): (&mut tokio::fs::File, u64),
    progress: RemoteProgress<'_>,
) -> Result<(), RemoteError> {
    let mut done = 0;
    let mut writer = tokio::io::BufWriter::with_capacity(1 << 20, pack);
    loop {
        let packet = packet::read_raw(answer).await.map_err(|error| broke(from, error))?;
        let Packet::Data(data) = packet else { break };
        let Some((band, data)) = data.split_first() else { continue };
        match band {
            1 => {
                done += data.len() as u64;
                if done > limit {
                    return Err(RemoteError::TooLarge { from: from.to_owned(), limit });
                }
                writer.write_all(data).await?;
                progress(done, done);
            }
            2 => {}
            _ => return Err(RemoteError::Said { from: from.to_owned(), message: shown(data) }),
        }
    }
    Ok(writer.flush().await?)
}

/// Reads what a server says first.
async fn advertisement(from: &str, answer: &mut Answer) -> Result<Speaks, RemoteError> {
    let wrong = |rule| RemoteError::Protocol { from: from.to_owned(), rule };
    let mut lines = Vec::new();
    while let Some(line) = text(from, answer).await? {
        if lines.len() >= REFERENCES {
            return Err(wrong("it lists references without end"));
        }
        lines.push(line);
    }
    let first = lines.first().map(String::as_str).unwrap_or_default();
    let sha256 = |word: &str| word == "object-format=sha256";
    if first == "version 2" {
        if lines.iter().any(|line| sha256(line)) {
            return Err(wrong("its objects are named by SHA-256, which is not understood"));
        }
        let fetch = lines.iter().find_map(|line| line.strip_prefix("fetch=")).unwrap_or_default();
        if !fetch.split(' ').any(|feature| feature == "shallow") {
            return Err(wrong("it gives no commit without its history"));
        }
        return Ok(Speaks::Two);
    }
    let mut references = References::new();
    let mut capabilities = Vec::new();
    for (number, line) in lines.iter().filter(|line| *line != "version 1").enumerate() {
        let (line, more) = line.split_once('\0').unwrap_or((line, ""));
        if number == 0 {
            capabilities = more.split(' ').map(str::to_owned).collect();
        }
        if line.starts_with("shallow ") {
            continue;
        }
        let (object, name) = line.split_once(' ').ok_or_else(|| wrong("its list of references is none"))?;
        let object = oid(object).ok_or_else(|| wrong("its list of references is none"))?;
        match name.strip_suffix("^{}") {
            // An empty repository names only its capabilities.
            Some("capabilities") => {}
            Some(name) => {
                if let Some(reference) = references.get_mut(name) {
                    reference.peeled = Some(object);
                }
            }
            None => drop(references.insert(name.to_owned(), Reference { object, peeled: None, target: None })),
        }
    }
    if capabilities.iter().any(|capability| sha256(capability)) {
        return Err(wrong("its objects are named by SHA-256, which is not understood"));
    }
    for capability in &capabilities {
        if let Some((name, target)) = capability.strip_prefix("symref=").and_then(|pair| pair.split_once(':'))
            && let Some(reference) = references.get_mut(name)
        {
            reference.target = Some(target.to_owned());
        }
    }
    Ok(Speaks::Zero { references, capabilities })
}

/// Reads a packet; what the server says instead of an answer is an error.
async fn next(from: &str, answer: &mut Answer) -> Result<Packet, RemoteError> {
    let packet = packet::read(answer).await.map_err(|error| broke(from, error))?;
    match &packet {
        Packet::Data(line) if line.starts_with(b"ERR ") => {
            Err(RemoteError::Said { from: from.to_owned(), message: shown(&line[4..]) })
        }
        _ => Ok(packet),
    }
}

/// Reads a line of text, or `None` at the end of a message.
async fn text(from: &str, answer: &mut Answer) -> Result<Option<String>, RemoteError> {
    loop {
        match next(from, answer).await? {
            Packet::Data(line) => return Ok(Some(String::from_utf8_lossy(&line).into_owned())),
            Packet::Delimiter => {}
            Packet::Flush => return Ok(None),
        }
    }
}

fn oid(text: &str) -> Option<Oid> {
    if text.len() == 40 { Oid::from_str(text).ok() } else { None }
}
