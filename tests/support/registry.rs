//! A registry of a test's own: Debian's docker-registry on a free port.

use super::hermetic;
use std::fs::{self, File};
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::process::Child;
use std::thread::sleep;
use std::time::{Duration, Instant};
use tempfile::TempDir;

/// A real registry with empty storage; the process ends and the storage goes when it is dropped.
pub struct Registry {
    directory: TempDir,
    address: SocketAddr,
    process: Child,
}

/// A request that the registry has answered.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Request {
    /// The verb, in capitals.
    pub method: String,
    /// Path and query.
    pub path: String,
    /// The status that was sent.
    pub status: u16,
}

impl Request {
    /// Whether the request changes what the registry holds.
    pub fn writes(&self) -> bool {
        matches!(self.method.as_str(), "PUT" | "POST" | "PATCH" | "DELETE")
    }
}

impl Registry {
    /// Starts a registry that anybody may read and write.
    #[track_caller]
    pub fn start() -> Self {
        let directory = TempDir::new().expect("a temporary directory");
        // Between finding a free port and listening on it another process may take it; then the registry ends at once.
        for _ in 0..5 {
            let address = free_port();
            let storage = directory.path().join("storage");
            let configuration = serde_json::json!({
                "version": "0.1",
                "storage": {
                    "filesystem": {"rootdirectory": storage},
                    "delete": {"enabled": true},
                    "maintenance": {"uploadpurging": {"enabled": false}},
                },
                "http": {"addr": address.to_string()},
            });
            fs::write(directory.path().join("config.yml"), configuration.to_string()).expect("the directory is writable");
            if let Some(process) = launch(&directory, address) {
                return Self { directory, address, process };
            }
        }
        let log = fs::read_to_string(directory.path().join("errors.log")).unwrap_or_default();
        panic!("docker-registry does not start; did scripts/setup run?\n{log}");
    }

    /// Returns `HOST:PORT`, to be written before a repository's name.
    pub fn address(&self) -> String {
        self.address.to_string()
    }

    /// Returns all requests answered so far, in their order.
    pub fn requests(&self) -> Vec<Request> {
        let log = fs::read_to_string(self.directory.path().join("access.log")).expect("the log is made at start");
        log.lines().filter_map(parse_access).filter(|request| request.path != "/v2/").collect()
    }

    /// Ends the process but keeps the storage and the port: an outage.
    pub fn stop(&mut self) {
        self.process.kill().expect("the process is ours");
        self.process.wait().expect("the process is ours");
    }
}

impl Drop for Registry {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

fn free_port() -> SocketAddr {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("loopback has a free port");
    listener.local_addr().expect("the socket is bound")
}

/// Returns the process once it answers, or `None` when it ended instead.
fn launch(directory: &TempDir, address: SocketAddr) -> Option<Child> {
    let log = |name| File::create(directory.path().join(name)).expect("the directory is writable");
    // setpriv ends the registry even when the test process is killed and drops nothing.
    let mut process = hermetic("setpriv", directory.path())
        .args(["--pdeathsig", "KILL", "docker-registry", "serve"])
        .arg(directory.path().join("config.yml"))
        .stdout(log("access.log"))
        .stderr(log("errors.log"))
        .spawn()
        .ok()?;
    let deadline = Instant::now() + Duration::from_secs(20);
    while Instant::now() < deadline {
        if process.try_wait().expect("the process is ours").is_some() {
            return None;
        }
        if TcpStream::connect(address).is_ok() {
            return Some(process);
        }
        sleep(Duration::from_millis(10));
    }
    process.kill().expect("the process is ours");
    process.wait().expect("the process is ours");
    None
}

/// Reads a line of the access log, which is in Apache's combined format.
fn parse_access(line: &str) -> Option<Request> {
    let (_, rest) = line.split_once('"')?;
    let (request, rest) = rest.split_once('"')?;
    let mut words = request.split(' ');
    Some(Request {
        method: words.next()?.to_owned(),
        path: words.next()?.to_owned(),
        status: rest.split_whitespace().next()?.parse().ok()?,
    })
}
