//! Debian's `docker-registry` (distribution 2.8) on a free port of this machine, with its storage in a temporary
//! directory.

use std::net::TcpListener;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

const PROGRAM: &str = "docker-registry";

/// A running registry; stopped when dropped.
pub(super) struct Distribution {
    child: Child,
    port: u16,
    _directory: tempfile::TempDir,
}

impl Distribution {
    pub fn start() -> Self {
        Self::with("")
    }

    /// Starts it with further configuration: lines in the `http` section, then other sections.
    pub fn with(http: &str) -> Self {
        let directory = tempfile::tempdir().expect("a directory");
        // Another process may take the port between here and there; then it is another port's turn.
        for _ in 0..5 {
            let port = TcpListener::bind("127.0.0.1:0").expect("a port").local_addr().expect("bound").port();
            let config = directory.path().join("config.yml");
            let storage = directory.path().join("storage");
            let text = format!(
                "version: 0.1\nlog: {{level: error, accesslog: {{disabled: true}}}}\n\
                 storage: {{filesystem: {{rootdirectory: {storage:?}}}, delete: {{enabled: true}}}}\n\
                 http:\n  addr: 127.0.0.1:{port}\n{http}\n"
            );
            fs_err::write(&config, text).expect("written");
            let log = fs_err::File::create(directory.path().join("log")).expect("a log").into_parts().0;
            let mut child = Command::new(PROGRAM)
                .arg("serve")
                .arg(&config)
                .stdout(Stdio::null())
                .stderr(log)
                .spawn()
                .unwrap_or_else(|error| panic!("cannot run `{PROGRAM}` ({error}); install it with scripts/setup"));
            let until = Instant::now() + Duration::from_secs(20);
            while Instant::now() < until && child.try_wait().expect("a child").is_none() {
                if std::net::TcpStream::connect(("127.0.0.1", port)).is_ok() {
                    return Self { child, port, _directory: directory };
                }
                std::thread::sleep(Duration::from_millis(20));
            }
            let _ = child.kill();
            let _ = child.wait();
        }
        let log = fs_err::read_to_string(directory.path().join("log")).unwrap_or_default();
        panic!("`{PROGRAM}` does not start: {log}");
    }

    pub fn host(&self) -> String {
        format!("127.0.0.1:{}", self.port)
    }
}

impl Drop for Distribution {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
