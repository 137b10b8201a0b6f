//! Forwards an SSH agent to one step: a socket of our own that lists keys and signs, and refuses everything else.
//!
//! The step sees this socket, never the agent's: it cannot add or remove keys, lock the agent or bind it to a session.
//! Messages are those of draft-ietf-sshm-ssh-agent: four bytes of length, big-endian, a byte of type, and the rest.

use std::io::{self, Read, Write};
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;

use rustix::fs::{CWD, Mode, OFlags};

/// Most bytes of a message; OpenSSH's limit.
const LARGEST: usize = 256 << 10;

/// How many connections a step may have at once.
const CONNECTIONS: usize = 64;

const FAILURE: u8 = 5;
const REQUEST_IDENTITIES: u8 = 11;
const SIGN_REQUEST: u8 = 13;

/// Why an agent cannot be forwarded.
#[derive(Debug, thiserror::Error)]
pub(super) enum AgentError {
    /// Nobody listens, or nobody may connect.
    #[error("the SSH agent at `{}` does not answer", path.display())]
    Absent {
        /// Its socket.
        path: PathBuf,
        /// What the system said.
        #[source]
        source: io::Error,
    },
    /// Our own socket cannot be made.
    #[error("an SSH agent cannot be forwarded")]
    Socket(#[source] io::Error),
}

/// A forwarded agent; dropping it ends all connections.
pub(super) struct Agent {
    listener: Arc<UnixListener>,
    connections: Arc<Connections>,
    thread: Option<JoinHandle<()>>,
}

/// Connections of the step: its side of each, so that they can be ended.
#[derive(Default)]
struct Connections(Mutex<Vec<Option<UnixStream>>>);

impl Agent {
    /// Listens at `path`, which must not exist, and forwards to the agent at `agent`.
    ///
    /// # Errors
    /// When the agent does not answer, or the socket cannot be made.
    pub(super) fn forward(agent: &Path, path: &Path) -> Result<Self, AgentError> {
        connect(agent).map_err(|source| AgentError::Absent { path: agent.to_owned(), source })?;
        let listener = Arc::new(at_any_length(path, |path| UnixListener::bind(path)).map_err(AgentError::Socket)?);
        let connections = Arc::new(Connections::default());
        let thread = {
            let (listener, connections, agent) = (listener.clone(), connections.clone(), agent.to_owned());
            std::thread::Builder::new().name("ssh agent".to_owned()).spawn(move || accept(&listener, &connections, &agent))
        };
        Ok(Self { listener, connections, thread: Some(thread.map_err(AgentError::Socket)?) })
    }
}

impl Drop for Agent {
    fn drop(&mut self) {
        // Wakes `accept`, which then fails.
        let _ = rustix::net::shutdown(&self.listener, rustix::net::Shutdown::Both);
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
        for connection in self.connections.0.lock().unwrap_or_else(PoisonError::into_inner).iter().flatten() {
            let _ = connection.shutdown(std::net::Shutdown::Both);
        }
    }
}

fn connect(agent: &Path) -> io::Result<UnixStream> {
    at_any_length(agent, |path| UnixStream::connect(path))
}

/// Calls `use_path` with a name of `path` that fits an address, whose limit is 107 bytes.
fn at_any_length<T>(path: &Path, use_path: impl FnOnce(&Path) -> io::Result<T>) -> io::Result<T> {
    let (Some(parent), Some(name)) = (path.parent(), path.file_name()) else { return use_path(path) };
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let directory: OwnedFd = rustix::fs::openat(CWD, parent, flags, Mode::empty())?;
    use_path(&Path::new("/proc/self/fd").join(directory.as_raw_fd().to_string()).join(name))
}

fn accept(listener: &UnixListener, connections: &Arc<Connections>, agent: &Path) {
    loop {
        let step = match listener.accept() {
            Ok((step, _)) => step,
            // The step gave up between connecting and now.
            Err(error) if matches!(error.kind(), io::ErrorKind::ConnectionAborted | io::ErrorKind::Interrupted) => continue,
            Err(_) => return,
        };
        let Some(place) = connections.add(&step) else { continue };
        let (connections, agent) = (connections.clone(), agent.to_owned());
        let served = std::thread::Builder::new().name("ssh agent".to_owned()).spawn(move || {
            // The step sees the end of the connection, whatever the reason.
            let _ = serve(&step, &agent);
            connections.remove(place);
        });
        if served.is_err() {
            return;
        }
    }
}

impl Connections {
    /// Returns the place of a new connection, or `None` when there are too many.
    fn add(&self, step: &UnixStream) -> Option<usize> {
        let mut all = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let place = match all.iter().position(Option::is_none) {
            Some(place) => place,
            None if all.len() < CONNECTIONS => {
                all.push(None);
                all.len() - 1
            }
            None => return None,
        };
        all[place] = Some(step.try_clone().ok()?);
        Some(place)
    }

    fn remove(&self, place: usize) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)[place] = None;
    }
}

/// Answers one connection until the step closes it.
fn serve(mut step: &UnixStream, agent: &Path) -> io::Result<()> {
    let mut agent = connect(agent)?;
    while let Some(request) = read(&mut step)? {
        let reply = match request.first() {
            Some(&(REQUEST_IDENTITIES | SIGN_REQUEST)) => {
                write(&mut agent, &request)?;
                read(&mut agent)?.ok_or(io::ErrorKind::UnexpectedEof)?
            }
            _ => vec![FAILURE],
        };
        write(&mut step, &reply)?;
    }
    Ok(())
}

/// Reads a message, or `None` at the end of the stream.
fn read(from: &mut impl Read) -> io::Result<Option<Vec<u8>>> {
    let mut length = [0; 4];
    match from.read_exact(&mut length) {
        Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => return Ok(None),
        result => result?,
    }
    let length = u32::from_be_bytes(length) as usize;
    if length > LARGEST {
        return Err(io::ErrorKind::InvalidData.into());
    }
    let mut message = vec![0; length];
    from.read_exact(&mut message)?;
    Ok(Some(message))
}

fn write(to: &mut impl Write, message: &[u8]) -> io::Result<()> {
    to.write_all(&(message.len() as u32).to_be_bytes())?;
    to.write_all(message)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// An agent that answers every request with its own bytes, and notes them.
    fn echo(path: &Path) -> Arc<Mutex<Vec<u8>>> {
        let (listener, seen) = (UnixListener::bind(path).expect("binds"), Arc::new(Mutex::new(Vec::new())));
        let noted = seen.clone();
        std::thread::spawn(move || {
            while let Ok((mut connection, _)) = listener.accept() {
                while let Ok(Some(message)) = read(&mut connection) {
                    noted.lock().expect("no panic").push(message[0]);
                    write(&mut connection, &message).expect("writes");
                }
            }
        });
        seen
    }

    fn ask(connection: &mut UnixStream, message: &[u8]) -> Vec<u8> {
        write(connection, message).expect("writes");
        read(connection).expect("reads").expect("a reply")
    }

    #[test]
    fn only_listing_and_signing_reach_the_agent() {
        let directory = tempfile::tempdir().expect("temp dir");
        let long = directory.path().join("d".repeat(100));
        std::fs::create_dir(&long).expect("creates");
        let (real, ours) = (directory.path().join("real"), long.join("ours"));
        let seen = echo(&real);
        let agent = Agent::forward(&real, &ours).expect("forwards");
        let mut connection = connect(&ours).expect("connects");
        assert_eq!(ask(&mut connection, &[REQUEST_IDENTITIES]), [REQUEST_IDENTITIES]);
        assert_eq!(ask(&mut connection, &[SIGN_REQUEST, 1, 2]), [SIGN_REQUEST, 1, 2]);
        // Add and remove keys, lock, unlock, extensions; and what is no message.
        for kind in [17, 18, 19, 20, 21, 22, 23, 25, 26, 27, 0, 255] {
            assert_eq!(ask(&mut connection, &[kind, 1, 2, 3]), [FAILURE], "{kind}");
        }
        assert_eq!(ask(&mut connection, &[]), [FAILURE]);
        assert_eq!(*seen.lock().expect("no panic"), [REQUEST_IDENTITIES, SIGN_REQUEST]);
        drop(agent);
        assert_eq!(connection.read(&mut [0]).expect("ends"), 0, "connections end with the step");
        assert!(connect(&ours).is_err());
    }

    #[test]
    fn a_message_that_is_too_large_ends_the_connection_and_no_other() {
        let directory = tempfile::tempdir().expect("temp dir");
        let (real, ours) = (directory.path().join("real"), directory.path().join("ours"));
        echo(&real);
        let _agent = Agent::forward(&real, &ours).expect("forwards");
        let (mut bad, mut good) = (connect(&ours).expect("connects"), connect(&ours).expect("connects"));
        bad.write_all(&[0xff; 8]).expect("writes");
        let ended = bad.read(&mut [0]);
        assert!(matches!(ended, Ok(0) | Err(_)), "{ended:?}");
        assert_eq!(ask(&mut good, &[REQUEST_IDENTITIES]), [REQUEST_IDENTITIES]);
    }

    #[test]
    fn an_agent_that_is_not_there_is_told_at_once() {
        let directory = tempfile::tempdir().expect("temp dir");
        let error = Agent::forward(&directory.path().join("none"), &directory.path().join("ours")).err().expect("an error");
        assert!(error.to_string().contains("does not answer"), "{error}");
    }
}
