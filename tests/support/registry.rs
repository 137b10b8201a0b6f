//! A registry of a test's own: Debian's docker-registry on a free port.

use super::{hermetic, output_of};
use serde_json::Value;
use std::fs::{self, File};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::Child;
use std::thread::sleep;
use std::time::{Duration, Instant};
use tempfile::TempDir;

/// A real registry with empty storage; the process ends and the storage goes when it is dropped.
pub struct Registry {
    directory: TempDir,
    address: String,
    process: Child,
}

const LOOPBACK: &str = "127.0.0.1";
const AUTHORITY: &str = "authority.crt";

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
        Self::configured(LOOPBACK, |_, _| {})
    }

    /// Starts a registry that only `user` may read and write, by basic authentication.
    #[track_caller]
    pub fn with_password(user: &str, password: &str) -> Self {
        Self::configured(LOOPBACK, |directory, configuration| {
            // htpasswd is in no package that is needed otherwise; perl calls the same crypt(3).
            let hash = output_of(hermetic("perl", directory).args([
                "-e",
                "print crypt($ARGV[0], q($2y$05$abcdefghijklmnopqrstuu))",
                password,
            ]));
            let file = directory.join("htpasswd");
            fs::write(&file, format!("{user}:{hash}\n")).expect("the directory is writable");
            configuration["auth"] = serde_json::json!({"htpasswd": {"realm": "tests", "path": file}});
        })
    }

    /// Starts a registry that speaks TLS and whose authority nobody trusts unless told to: [`Registry::authority`]. It goes by
    /// the machine's name, since names of loopback are taken to speak plain HTTP.
    #[track_caller]
    pub fn with_tls() -> Self {
        let name = fs::read_to_string("/proc/sys/kernel/hostname").expect("proc is mounted").trim().to_owned();
        Self::configured(&name.clone(), |directory, configuration| {
            let make = |subject: &str, rest: &str| {
                let request = format!(
                    "req -x509 -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -noenc -days 2 -subj /CN={subject} {rest}"
                );
                output_of(hermetic("openssl", directory).current_dir(directory).args(request.split(' ')));
            };
            make("authority", &format!("-keyout authority-key.pem -out {AUTHORITY}"));
            let extensions = format!("-addext subjectAltName=DNS:{name} -addext basicConstraints=critical,CA:FALSE");
            make(
                &name,
                &format!(
                    "-CA {AUTHORITY} -CAkey authority-key.pem {extensions} -keyout registry-key.pem -out registry-certificate.pem"
                ),
            );
            let [certificate, key] = ["registry-certificate.pem", "registry-key.pem"].map(|file| directory.join(file));
            configuration["http"]["tls"] = serde_json::json!({"certificate": certificate, "key": key});
        })
    }

    #[track_caller]
    fn configured(name: &str, configure: impl Fn(&Path, &mut Value)) -> Self {
        let directory = TempDir::new().expect("a temporary directory");
        // Between finding a free port and listening on it another process may take it; then the registry ends at once.
        for _ in 0..5 {
            let socket = free_port(name);
            let mut configuration = serde_json::json!({
                "version": "0.1",
                "storage": {
                    "filesystem": {"rootdirectory": directory.path().join("storage")},
                    "delete": {"enabled": true},
                    "maintenance": {"uploadpurging": {"enabled": false}},
                },
                "http": {"addr": socket.to_string()},
            });
            configure(directory.path(), &mut configuration);
            fs::write(directory.path().join("config.yml"), configuration.to_string()).expect("the directory is writable");
            if let Some(process) = launch(&directory, socket) {
                return Self { directory, address: format!("{name}:{}", socket.port()), process };
            }
        }
        let log = fs::read_to_string(directory.path().join("errors.log")).unwrap_or_default();
        panic!("docker-registry does not start; did scripts/setup run?\n{log}");
    }

    /// Returns the certificate of the authority that vouches for a registry with TLS.
    pub fn authority(&self) -> PathBuf {
        self.directory.path().join(AUTHORITY)
    }

    /// Returns `HOST:PORT`, to be written before a repository's name.
    pub fn address(&self) -> &str {
        &self.address
    }

    /// Returns all requests answered so far, in their order.
    pub fn requests(&self) -> Vec<Request> {
        let log = fs::read_to_string(self.directory.path().join("access.log")).expect("the log is made at start");
        log.lines().filter_map(parse_access).filter(|request| request.path != "/v2/").collect()
    }

    /// Forgets everything that was pushed.
    pub fn empty(&mut self) {
        // Nothing is kept in memory: the storage is all that the registry knows.
        let _ = fs::remove_dir_all(self.directory.path().join("storage"));
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

fn free_port(name: &str) -> SocketAddr {
    let listener =
        TcpListener::bind((name, 0)).unwrap_or_else(|error| panic!("{name} is not an address of this machine: {error}"));
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
