//! An HTTP server whose answers a test writes: statuses, headers, bodies that break off, pauses.

use std::collections::BTreeMap;
use std::io;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use tokio::io::AsyncBufReadExt;
use tokio::io::{AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::{TcpListener, TcpStream};

/// A request as the server saw it.
#[derive(Clone, Debug)]
pub(super) struct Seen {
    pub method: String,
    /// Path and query.
    pub target: String,
    /// Names in lower case.
    pub headers: BTreeMap<String, String>,
    pub body: Vec<u8>,
    /// How often this method and target were seen before.
    pub before: usize,
}

impl Seen {
    pub fn is(&self, method: &str, target: &str) -> bool {
        self.method == method && self.target == target
    }

    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.get(name).map(String::as_str)
    }

    /// Returns the first byte that a `Range` asks for.
    pub fn offset(&self) -> Option<usize> {
        self.header("range")?.strip_prefix("bytes=")?.trim_end_matches('-').parse().ok()
    }
}

/// What to answer.
#[derive(Clone, Debug, Default)]
pub(super) struct Reply {
    status: u16,
    headers: Vec<(String, String)>,
    body: Vec<u8>,
    /// The connection breaks after so many bytes of the body.
    cut: Option<usize>,
    delay: Duration,
}

impl Reply {
    pub fn status(status: u16) -> Self {
        Self { status, ..Self::default() }
    }

    pub fn header(mut self, name: &str, value: impl ToString) -> Self {
        self.headers.push((name.to_owned(), value.to_string()));
        self
    }

    pub fn body(mut self, body: impl AsRef<[u8]>) -> Self {
        self.body = body.as_ref().to_vec();
        self
    }

    pub fn cut(mut self, after: usize) -> Self {
        self.cut = Some(after);
        self
    }

    pub fn after(mut self, delay: Duration) -> Self {
        self.delay = delay;
        self
    }
}

type Script = dyn Fn(&Seen) -> Reply + Send + Sync;

/// A server on a free port of this machine; it ends with the test.
pub(super) struct Scripted {
    port: u16,
    seen: Arc<Mutex<Vec<Seen>>>,
    busiest: Arc<Mutex<(usize, usize)>>,
    task: tokio::task::JoinHandle<()>,
}

impl Scripted {
    /// Starts a server that answers as `script` says. What every registry answers to `GET /v2/` is answered before the
    /// script, unless it is answered 404 there.
    pub async fn start(script: impl Fn(&Seen) -> Reply + Send + Sync + 'static) -> Self {
        Self::on(TcpListener::bind("127.0.0.1:0").await.expect("a port"), script)
    }

    /// As [`Scripted::start`]; `script` gets the server's own host, which answers often name.
    pub async fn knowing<S>(script: impl FnOnce(String) -> S) -> Self
    where
        S: Fn(&Seen) -> Reply + Send + Sync + 'static,
    {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let host = listener.local_addr().expect("bound").to_string();
        Self::on(listener, script(host))
    }

    fn on(listener: TcpListener, script: impl Fn(&Seen) -> Reply + Send + Sync + 'static) -> Self {
        let port = listener.local_addr().expect("bound").port();
        let (seen, busiest) = (Arc::default(), Arc::default());
        let shared = (Arc::new(script) as Arc<Script>, Arc::clone(&seen), Arc::clone(&busiest));
        let task = tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                let (script, seen, busiest) = shared.clone();
                tokio::spawn(async move {
                    // A client may go away at any time.
                    let _ = serve(stream, script, seen, busiest).await;
                });
            }
        });
        Self { port, seen, busiest, task }
    }

    pub fn host(&self) -> String {
        format!("127.0.0.1:{}", self.port)
    }

    pub fn seen(&self) -> Vec<Seen> {
        self.seen.lock().expect("no test fails while it holds this").clone()
    }

    /// Returns `METHOD TARGET` of all requests, without those to `/v2/`.
    pub fn asked(&self) -> Vec<String> {
        let seen = self.seen();
        seen.iter().filter(|s| s.target != "/v2/").map(|s| format!("{} {}", s.method, s.target)).collect()
    }

    /// Returns how many requests were being answered at once, at most.
    pub fn busiest(&self) -> usize {
        self.busiest.lock().expect("no test fails while it holds this").1
    }
}

impl Drop for Scripted {
    fn drop(&mut self) {
        self.task.abort();
    }
}

async fn serve(
    stream: TcpStream,
    script: Arc<Script>,
    all: Arc<Mutex<Vec<Seen>>>,
    busiest: Arc<Mutex<(usize, usize)>>,
) -> io::Result<()> {
    let mut stream = BufReader::new(stream);
    loop {
        let Some(mut seen) = read_request(&mut stream).await? else { return Ok(()) };
        {
            let mut all = all.lock().expect("no test fails while it holds this");
            seen.before = all.iter().filter(|s| s.is(&seen.method, &seen.target)).count();
            all.push(seen.clone());
            let mut busy = busiest.lock().expect("no test fails while it holds this");
            busy.0 += 1;
            busy.1 = busy.1.max(busy.0);
        }
        let mut reply = script(&seen);
        if seen.target == "/v2/" && reply.status == 0 {
            reply = Reply::status(200);
        }
        tokio::time::sleep(reply.delay).await;
        busiest.lock().expect("no test fails while it holds this").0 -= 1;
        let mut head = format!("HTTP/1.1 {} x\r\n", reply.status);
        if !reply.headers.iter().any(|(name, _)| name == "content-length") {
            head += &format!("content-length: {}\r\n", reply.body.len());
        }
        for (name, value) in &reply.headers {
            head += &format!("{name}: {value}\r\n");
        }
        stream.write_all(format!("{head}\r\n").as_bytes()).await?;
        if seen.method != "HEAD" {
            stream.write_all(&reply.body[..reply.cut.unwrap_or(reply.body.len())]).await?;
        }
        stream.flush().await?;
        if reply.cut.is_some() {
            return Ok(());
        }
    }
}

async fn read_request(stream: &mut BufReader<TcpStream>) -> io::Result<Option<Seen>> {
    let mut line = String::new();
    if stream.read_line(&mut line).await? == 0 {
        return Ok(None);
    }
    let mut words = line.split_whitespace().map(str::to_owned);
    let (method, target) = (words.next().unwrap_or_default(), words.next().unwrap_or_default());
    let mut headers = BTreeMap::new();
    loop {
        line.clear();
        stream.read_line(&mut line).await?;
        let Some((name, value)) = line.trim_end().split_once(':') else { break };
        headers.insert(name.to_ascii_lowercase(), value.trim().to_owned());
    }
    let length = headers.get("content-length").and_then(|length| length.parse().ok()).unwrap_or(0);
    let mut body = vec![0; length];
    stream.read_exact(&mut body).await?;
    Ok(Some(Seen { method, target, headers, body, before: 0 }))
}
