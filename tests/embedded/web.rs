//! An HTTP server whose answers a test writes, and one that serves a git repository with git's own server.

use std::collections::BTreeMap;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::{Arc, Mutex};

/// A request as the server saw it.
#[derive(Clone, Debug)]
pub struct Seen {
    pub method: String,
    /// Path and query.
    pub target: String,
    /// Names in lower case.
    pub headers: BTreeMap<String, String>,
    pub body: Vec<u8>,
    /// How often this target was seen before.
    pub before: usize,
}

/// What is answered; each answer ends its connection.
#[derive(Clone, Debug, Default)]
pub struct Reply {
    pub status: u16,
    pub headers: Vec<(String, String)>,
    pub body: Vec<u8>,
    /// How much of the body is sent, when less than was promised.
    pub cut: Option<usize>,
    /// Whether the connection stays open without a word after that.
    pub stall: bool,
}

impl Reply {
    pub fn status(status: u16) -> Self {
        Self { status, ..Self::default() }
    }

    pub fn file(body: impl AsRef<[u8]>) -> Self {
        Self { body: body.as_ref().to_vec(), ..Self::status(200) }
    }

    pub fn header(mut self, name: &str, value: impl ToString) -> Self {
        self.headers.push((name.to_owned(), value.to_string()));
        self
    }

    pub fn to(location: impl ToString) -> Self {
        Self::status(302).header("Location", location)
    }
}

/// A server on a port of its own.
#[derive(Clone)]
pub struct Web {
    pub port: u16,
    seen: Arc<Mutex<Vec<Seen>>>,
}

impl Web {
    pub fn start(answer: impl Fn(&Seen) -> Reply + Send + Sync + 'static) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").expect("binds");
        let web = Self { port: listener.local_addr().expect("bound").port(), seen: Arc::default() };
        let (seen, answer) = (web.seen.clone(), Arc::new(answer));
        std::thread::spawn(move || {
            for stream in listener.incoming() {
                let (seen, answer) = (seen.clone(), answer.clone());
                std::thread::spawn(move || drop(serve(&stream.expect("accepts"), &seen, &*answer)));
            }
        });
        web
    }

    pub fn url(&self, path: &str) -> String {
        format!("http://127.0.0.1:{}{path}", self.port)
    }

    pub fn seen(&self) -> Vec<Seen> {
        self.seen.lock().expect("no panic").clone()
    }

    /// Returns how many requests there were.
    pub fn count(&self) -> usize {
        self.seen().len()
    }

    /// Serves the repositories below `root` with git's own server for HTTP.
    pub fn git(root: &Path) -> Self {
        let root = root.to_owned();
        Self::start(move |seen| git_backend(&root, seen))
    }
}

fn serve(stream: &TcpStream, log: &Mutex<Vec<Seen>>, answer: &dyn Fn(&Seen) -> Reply) -> std::io::Result<()> {
    let mut reader = BufReader::new(stream);
    let mut first = String::new();
    reader.read_line(&mut first)?;
    let mut words = first.split_whitespace();
    let (Some(method), Some(target)) = (words.next(), words.next()) else { return Ok(()) };
    let (method, target) = (method.to_owned(), target.to_owned());
    let mut headers = BTreeMap::new();
    loop {
        let mut line = String::new();
        reader.read_line(&mut line)?;
        let Some((name, value)) = line.trim_end().split_once(':') else { break };
        headers.insert(name.to_ascii_lowercase(), value.trim().to_owned());
    }
    let length = headers.get("content-length").map_or(0, |length| length.parse().expect("a number"));
    let mut body = vec![0; length];
    reader.read_exact(&mut body)?;
    let seen = {
        let mut log = log.lock().expect("no panic");
        let before = log.iter().filter(|seen| seen.target == target).count();
        let seen = Seen { method, target, headers, body, before };
        log.push(seen.clone());
        seen
    };
    let reply = answer(&seen);
    let mut out = format!("HTTP/1.1 {} X\r\nConnection: close\r\n", reply.status);
    if !reply.headers.iter().any(|(name, _)| name == "Content-Length") && reply.status != 304 {
        out.push_str(&format!("Content-Length: {}\r\n", reply.body.len()));
    }
    for (name, value) in &reply.headers {
        out.push_str(&format!("{name}: {value}\r\n"));
    }
    let mut stream = stream;
    stream.write_all(out.as_bytes())?;
    stream.write_all(b"\r\n")?;
    stream.write_all(&reply.body[..reply.cut.unwrap_or(reply.body.len())])?;
    stream.flush()?;
    if reply.stall {
        // Until the other side has had enough.
        drop(stream.read(&mut [0]));
    }
    Ok(())
}

/// Answers with git's own server for HTTP.
pub fn git_backend(root: &Path, seen: &Seen) -> Reply {
    let (path, query) = seen.target.split_once('?').unwrap_or((&seen.target, ""));
    let mut command = Command::new("git");
    command
        .arg("http-backend")
        .env("GIT_PROJECT_ROOT", root)
        .env("GIT_HTTP_EXPORT_ALL", "1")
        .env("GIT_CONFIG_GLOBAL", "/dev/null")
        .env("GIT_CONFIG_COUNT", "1")
        .env("GIT_CONFIG_KEY_0", "safe.directory")
        .env("GIT_CONFIG_VALUE_0", "*")
        .env("REQUEST_METHOD", &seen.method)
        .env("PATH_INFO", path)
        .env("QUERY_STRING", query)
        .env("CONTENT_TYPE", seen.headers.get("content-type").map_or("", String::as_str))
        .env("CONTENT_LENGTH", seen.body.len().to_string())
        .stdin(Stdio::piped())
        .stdout(Stdio::piped());
    if let Some(version) = seen.headers.get("git-protocol") {
        command.env("GIT_PROTOCOL", version);
    }
    let mut child = command.spawn().expect("git runs");
    child.stdin.take().expect("piped").write_all(&seen.body).expect("writes");
    let output = child.wait_with_output().expect("ends").stdout;
    let end = output.windows(4).position(|bytes| bytes == b"\r\n\r\n").expect("headers");
    let mut reply = Reply::file(&output[end + 4..]);
    for line in String::from_utf8_lossy(&output[..end]).lines() {
        let (name, value) = line.split_once(':').expect("a header");
        if name == "Status" {
            reply.status = value.trim()[..3].parse().expect("a status");
        } else {
            reply = reply.header(name, value.trim());
        }
    }
    reply
}

/// A repository with a work tree, in a directory that goes away.
pub struct Repository {
    pub directory: tempfile::TempDir,
}

impl Repository {
    pub fn new() -> Self {
        let repository = Self { directory: tempfile::tempdir().expect("temp dir") };
        repository.git("init -q -b main a.git");
        repository
    }

    /// Runs a shell script in the directory of all repositories and returns what it prints.
    pub fn sh(&self, script: &str) -> String {
        let mut command = Command::new("bash");
        command.args(["-ec", script]).current_dir(self.directory.path());
        for (name, value) in [
            ("GIT_CONFIG_GLOBAL", "/dev/null"),
            ("GIT_AUTHOR_NAME", "a"),
            ("GIT_AUTHOR_EMAIL", "a@b"),
            ("GIT_COMMITTER_NAME", "a"),
            ("GIT_COMMITTER_EMAIL", "a@b"),
            ("GIT_AUTHOR_DATE", "2001-02-03T04:05:06Z"),
            ("GIT_COMMITTER_DATE", "2001-02-03T04:05:06Z"),
        ] {
            command.env(name, value);
        }
        let output = command.output().expect("runs");
        assert!(output.status.success(), "{script}\n{}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8(output.stdout).expect("text").trim_end().to_owned()
    }

    pub fn git(&self, arguments: &str) -> String {
        self.sh(&format!("git {arguments}"))
    }

    /// Runs a script in the work tree, commits everything, and returns the commit.
    pub fn commit(&self, script: &str) -> String {
        self.sh(&format!("cd a.git; {script}\n git add -A; git commit -q --allow-empty -m x; git rev-parse HEAD"))
    }
}
