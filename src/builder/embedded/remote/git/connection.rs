//! Talking to `git-upload-pack`: by HTTP ("smart" protocol), through git's own port, or through `ssh`.
//!
//! All ways look alike from above: the server's advertisement, then questions with their answers. Nothing of git is
//! executed on this machine; the program `ssh` is, with the user's own keys and known hosts.

use std::process::Stdio;

use futures_util::TryStreamExt;
use reqwest::header::{ACCEPT, CONTENT_TYPE, HeaderValue};
use reqwest::{Method, Url};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::process::{Child, Command};
use tokio_util::io::StreamReader;

use super::packet;
use crate::builder::embedded::remote::address::{LookupError, check_host, lookup};
use crate::builder::embedded::remote::error::RemoteError;
use crate::builder::embedded::remote::location::{GitScheme, GitUrl};
use crate::builder::embedded::remote::web::{Question, Web};

/// What is read of a server.
pub(super) type Answer = Box<dyn AsyncRead + Send + Unpin>;

/// How `ssh` says that it failed itself.
const SSH_FAILED: i32 = 255;

/// Longest part of what `ssh` says that is shown.
const SHOWN: u64 = 2000;

/// A connection to a repository.
pub(super) struct Connection<'a> {
    web: &'a Web,
    from: String,
    way: Way,
}

enum Way {
    /// The address that questions go to.
    Http(Url),
    /// Both directions of one conversation.
    Stream { reader: Option<Answer>, writer: Box<dyn AsyncWrite + Send + Unpin>, child: Option<Child> },
}

impl<'a> Connection<'a> {
    /// Connects and returns what the server says first.
    ///
    /// # Errors
    /// When it cannot be reached, or speaks something else.
    pub(super) async fn open(web: &'a Web, url: &GitUrl) -> Result<(Self, Answer), RemoteError> {
        let from = url.to_string();
        if web.is_offline() {
            return Err(RemoteError::Offline { from });
        }
        match url.scheme {
            GitScheme::Http | GitScheme::Https => Self::http(web, url, from).await,
            GitScheme::Git => Self::tcp(web, url, from).await,
            GitScheme::Ssh => Self::ssh(web, url, from).await,
        }
    }

    async fn http(web: &'a Web, url: &GitUrl, from: String) -> Result<(Self, Answer), RemoteError> {
        const SERVICE: &str = "/info/refs?service=git-upload-pack";
        let wrong = |rule| RemoteError::Protocol { from: from.clone(), rule };
        let base = url.web().ok_or_else(|| wrong("its address is none of HTTP"))?;
        let address = |base: &Url, more: &str| Url::parse(&format!("{}{more}", base.as_str().trim_end_matches('/')));
        let mut question = Question::get(address(&base, SERVICE).map_err(|_| wrong("its address is none of HTTP"))?);
        question.headers.insert("git-protocol", HeaderValue::from_static("version=2"));
        let response = web.ask(&question).await?;
        let kind = response.headers().get(CONTENT_TYPE).and_then(|kind| kind.to_str().ok()).unwrap_or_default();
        if kind != "application/x-git-upload-pack-advertisement" {
            return Err(wrong("no repository answers there"));
        }
        // What a redirect led to is where questions go; the login goes along only to the same host.
        let mut found = response.url().clone();
        let path =
            found.path().strip_suffix("/info/refs").ok_or_else(|| wrong("it leads to another kind of address"))?.to_owned();
        found.set_path(&path);
        found.set_query(None);
        if (found.scheme(), found.host_str(), found.port()) == (base.scheme(), base.host_str(), base.port()) {
            // Both fail only for addresses without a host.
            let _ = found.set_username(base.username());
            let _ = found.set_password(base.password());
        }
        let target = address(&found, "/git-upload-pack").map_err(|_| wrong("it leads to another kind of address"))?;
        let mut reader: Answer = body(response);
        // A line that names the service comes first, in older versions of the protocol; the version decides later.
        let mut first = [0; 4];
        reader.read_exact(&mut first).await.map_err(|error| broke(&from, error))?;
        let length = std::str::from_utf8(&first).ok().and_then(|text| usize::from_str_radix(text, 16).ok());
        let length = length.filter(|length| (4..=256).contains(length)).ok_or_else(|| wrong("no repository answers there"))?;
        let mut line = vec![0; length - 4];
        reader.read_exact(&mut line).await.map_err(|error| broke(&from, error))?;
        let rest: Answer = if line.starts_with(b"# service=") {
            let flush = packet::read(&mut reader).await.map_err(|error| broke(&from, error))?;
            if flush != packet::Packet::Flush {
                return Err(wrong("no repository answers there"));
            }
            reader
        } else {
            Box::new(std::io::Cursor::new([&first[..], &line].concat()).chain(reader))
        };
        Ok((Self { web, from, way: Way::Http(target) }, rest))
    }

    async fn tcp(web: &'a Web, url: &GitUrl, from: String) -> Result<(Self, Answer), RemoteError> {
        let addresses = checked(url, url.port.unwrap_or(9418), &from).await?;
        let stream = TcpStream::connect(&addresses[..]).await.map_err(|error| unreachable(&from, error))?;
        let (reader, mut writer) = stream.into_split();
        let port = url.port.map_or_else(String::new, |port| format!(":{port}"));
        let mut hello = Vec::new();
        packet::raw(&mut hello, format!("git-upload-pack {}\0host={}{port}\0\0version=2\0", url.path, url.host).as_bytes());
        writer.write_all(&hello).await.map_err(|error| broke(&from, error))?;
        let way = Way::Stream { reader: None, writer: Box::new(writer), child: None };
        Ok((Self { web, from, way }, Box::new(web.patient(reader))))
    }

    async fn ssh(web: &'a Web, url: &GitUrl, from: String) -> Result<(Self, Answer), RemoteError> {
        // The user's own configuration may know the name better than the system does, so absence is no error here.
        if let Err(error @ RemoteError::Forbidden { .. }) = checked(url, url.port.unwrap_or(22), &from).await {
            return Err(error);
        }
        let mut command = Command::new("ssh");
        // Nobody is there to be asked for a password or about a key.
        command.args([
            "-o",
            "BatchMode=yes",
            "-o",
            "SendEnv=GIT_PROTOCOL",
            "-o",
            "PermitLocalCommand=no",
            "-o",
            "ForwardAgent=no",
            "-T",
        ]);
        if let Some(port) = url.port {
            command.args(["-p", &port.to_string()]);
        }
        if let Some(user) = &url.user {
            command.args(["-l", user]);
        }
        let path = url.path.strip_prefix("/~").map_or_else(|| url.path.clone(), |home| format!("~{home}"));
        command.arg("--").arg(&url.host).arg(format!("git-upload-pack '{}'", path.replace('\'', "'\\''")));
        command.env("GIT_PROTOCOL", "version=2").stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = command.kill_on_drop(true).spawn().map_err(|error| RemoteError::NoAnswer {
            from: format!("`ssh`, which {from} needs,"),
            source: error.into(),
            lasting: true,
        })?;
        let reader = child.stdout.take().expect("it was piped");
        let writer = child.stdin.take().expect("it was piped");
        let way = Way::Stream { reader: None, writer: Box::new(writer), child: Some(child) };
        Ok((Self { web, from, way }, Box::new(web.patient(reader))))
    }

    /// Gives back the reader of a conversation after an answer, for the next one.
    pub(super) fn resume(&mut self, answer: Answer) {
        if let Way::Stream { reader, .. } = &mut self.way {
            *reader = Some(answer);
        }
    }

    /// Sends a question and returns the answer.
    ///
    /// # Errors
    /// When the connection breaks.
    pub(super) async fn ask(&mut self, message: Vec<u8>, version: u8) -> Result<Answer, RemoteError> {
        match &mut self.way {
            Way::Http(url) => {
                let mut question = Question { method: Method::POST, body: message, ..Question::get(url.clone()) };
                question.headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/x-git-upload-pack-request"));
                question.headers.insert(ACCEPT, HeaderValue::from_static("application/x-git-upload-pack-result"));
                if version == 2 {
                    question.headers.insert("git-protocol", HeaderValue::from_static("version=2"));
                }
                Ok(body(self.web.ask(&question).await?))
            }
            Way::Stream { reader, writer, .. } => {
                writer.write_all(&message).await.map_err(|error| broke(&self.from, error))?;
                writer.flush().await.map_err(|error| broke(&self.from, error))?;
                Ok(reader.take().expect("one answer is read to its end before the next question"))
            }
        }
    }

    /// Returns `error`, or what the program that carries the connection says about it.
    pub(super) async fn explained(self, error: RemoteError) -> RemoteError {
        let Way::Stream { child: Some(mut child), writer, .. } = self.way else { return error };
        drop(writer);
        let Some(stderr) = child.stderr.take() else { return error };
        let mut text = Vec::new();
        let ended = async {
            let read = stderr.take(SHOWN).read_to_end(&mut text).await;
            (read, child.wait().await)
        };
        let Ok((Ok(_), Ok(status))) = tokio::time::timeout(std::time::Duration::from_secs(5), ended).await else { return error };
        let said = shown(&text);
        if said.is_empty() {
            return error;
        }
        let lasting = status.code() != Some(SSH_FAILED) || !said.contains("Connection");
        if lasting { RemoteError::Said { from: self.from, message: said } } else { error }
    }
}

/// Returns the addresses of the host, all of which may be fetched from.
async fn checked(url: &GitUrl, port: u16, from: &str) -> Result<Vec<std::net::SocketAddr>, RemoteError> {
    let forbidden = |source| RemoteError::Forbidden { from: from.to_owned(), source };
    check_host(&url.host).map_err(forbidden)?;
    let host = url.host.trim_start_matches('[').trim_end_matches(']');
    lookup(host, port).await.map_err(|error| match error {
        LookupError::Refused(source) => forbidden(source),
        LookupError::Io(error) => unreachable(from, error),
    })
}

fn unreachable(from: &str, error: std::io::Error) -> RemoteError {
    RemoteError::NoAnswer { from: from.to_owned(), source: error.into(), lasting: false }
}

/// Returns the error of a connection that broke.
pub(super) fn broke(from: &str, error: std::io::Error) -> RemoteError {
    if error.kind() == std::io::ErrorKind::InvalidData {
        return RemoteError::Protocol { from: from.to_owned(), rule: "what it sends are no packets" };
    }
    RemoteError::BrokeOff { from: from.to_owned(), source: error.into() }
}

/// Returns text of a server on one line.
pub(super) fn shown(text: &[u8]) -> String {
    let text = String::from_utf8_lossy(text);
    let words = text.split(|c: char| c.is_whitespace() || c.is_control()).filter(|word| !word.is_empty());
    words.collect::<Vec<_>>().join(" ").chars().take(300).collect()
}

fn body(response: reqwest::Response) -> Answer {
    let stream = response.bytes_stream().map_err(|error| std::io::Error::other(error.without_url()));
    Box::new(StreamReader::new(Box::pin(stream)))
}
