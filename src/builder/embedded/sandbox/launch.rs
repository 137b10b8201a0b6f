//! The calling side: starts the supervisor, hands it the step, passes output on, and takes its report.

use std::fs::File;
use std::io::{self, Read, Write};
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::OnceLock;

use rustix::event::{PollFd, PollFlags};
use rustix::fs::{MemfdFlags, SealFlags};
use tokio_util::sync::CancellationToken;

use super::super::snapshot::Overlay;
use super::attach::Attached;
use super::cgroup;
use super::spec::Report;
use super::{Exit, INIT_NAME, Obstacle, RunStep, SandboxError, mode};

/// Runs steps. Cheap to make; the first step copies the program into memory.
#[derive(Debug)]
pub struct Sandbox {
    program: PathBuf,
    sealed: OnceLock<Result<OwnedFd, i32>>,
    obstacle: Option<Obstacle>,
    overlay: Overlay,
}

/// How long a poll may wait before cancellation is looked at again.
const TICK: rustix::time::Timespec = rustix::time::Timespec { tv_sec: 0, tv_nsec: 50_000_000 };

impl Sandbox {
    /// Returns a sandbox whose supervisor is this very program; its `main` must begin with [`super::init_if_asked`].
    pub fn of_this_program() -> Self {
        Self::of_program(Path::new("/proc/self/exe"))
    }

    /// Returns a sandbox whose supervisor is `program`, for programs (such as tests) that are not the supervisor themselves.
    pub fn of_program(program: &Path) -> Self {
        Self { program: program.to_owned(), sealed: OnceLock::new(), obstacle: None, overlay: Overlay::default() }
    }

    /// Returns the sandbox with the reason why this process has no mode, for messages.
    #[must_use]
    pub fn hindered_by(self, obstacle: Option<Obstacle>) -> Self {
        Self { obstacle, ..self }
    }

    /// Returns why this process has no mode, if that is known.
    pub fn obstacle(&self) -> Option<&Obstacle> {
        self.obstacle.as_ref()
    }

    /// Says whether roots of steps may be overlays.
    #[must_use]
    pub fn with_overlay(self, overlay: Overlay) -> Self {
        Self { overlay, ..self }
    }

    /// Returns whether roots of steps may be overlays.
    pub fn overlay(&self) -> Overlay {
        self.overlay
    }

    /// Returns the program as a sealed file in memory: a step that got hold of its supervisor's program file could not
    /// change it.
    fn sealed_program(&self) -> io::Result<&OwnedFd> {
        let sealed = self.sealed.get_or_init(|| seal(&self.program).map_err(|error| error.raw_os_error().unwrap_or(libc::EIO)));
        sealed.as_ref().map_err(|errno| io::Error::from_raw_os_error(*errno))
    }
}

/// How often sealing is tried.
const SEAL_TRIES: usize = 200;

fn seal(program: &Path) -> io::Result<OwnedFd> {
    let mut source = fs_err::File::open(program)?;
    let flags = MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING;
    let memory = rustix::fs::memfd_create("pkgbuild-sandbox", flags | MemfdFlags::EXEC)
        .or_else(|_| rustix::fs::memfd_create("pkgbuild-sandbox", flags))?;
    let mut memory = File::from(memory);
    io::copy(&mut source, &mut memory)?;
    // The kernel may be looking at one of its pages just now, to move it or to write it out, and then says that it is busy.
    let seals = SealFlags::SEAL | SealFlags::SHRINK | SealFlags::GROW | SealFlags::WRITE;
    let mut tries = 0;
    loop {
        match rustix::fs::fcntl_add_seals(&memory, seals) {
            Err(rustix::io::Errno::BUSY) if tries < SEAL_TRIES => {
                tries += 1;
                std::thread::sleep(std::time::Duration::from_millis(10));
            }
            result => {
                result?;
                return Ok(memory.into());
            }
        }
    }
}

pub(super) fn run(
    sandbox: &Sandbox,
    step: &RunStep,
    on_output: &mut dyn FnMut(&[u8]),
    cancel: &CancellationToken,
) -> Result<Exit, SandboxError> {
    run_attached(sandbox, step, Attached::Nothing, (on_output, cancel))
}

/// Receives what a step prints.
type OnOutput<'a> = &'a mut dyn FnMut(&[u8]);

pub(super) fn run_attached(
    sandbox: &Sandbox,
    step: &RunStep,
    attached: Attached,
    (on_output, cancel): (OnOutput<'_>, &CancellationToken),
) -> Result<Exit, SandboxError> {
    if cancel.is_cancelled() {
        return Err(SandboxError::Cancelled);
    }
    if mode::of_process().is_none() {
        return Err(SandboxError::Unprivileged);
    }
    let launch = |action| move |source| SandboxError::Launch { action, source };
    let program = sandbox.sealed_program().map_err(launch("copy the program for"))?;
    let (mut socket, theirs) = UnixStream::pair().map_err(launch("start"))?;
    let (output, output_theirs) = attached.output().map_err(launch("start"))?;
    let input = attached.input().map_err(launch("start"))?;
    let error_theirs = output_theirs.try_clone().map_err(launch("start"))?;
    let child = Command::new(format!("/proc/self/fd/{}", program.as_raw_fd()))
        .arg0(INIT_NAME)
        .env_clear()
        .stdin(Stdio::from(OwnedFd::from(theirs)))
        .stdout(Stdio::from(output_theirs))
        .stderr(Stdio::from(error_theirs))
        .spawn()
        .map_err(launch("start"))?;
    // Whatever happens below, no supervisor is left behind.
    let mut child = Reaped(child);
    // It waits for its instructions, so all that it will start is in the groups, too.
    let groups = cgroup::enter(&step.given.budget, child.0.id());
    let groups = groups.map_err(|(action, source)| SandboxError::Budget { action, source })?;
    send(&mut socket, step).and_then(|()| attached.send(&mut socket, input.as_ref())).map_err(launch("instruct"))?;
    drop(input);
    let _raw = attached.forward(&output).map_err(launch("attach the terminal to"))?;
    let report = listen(&mut socket, File::from(output), on_output, cancel).map_err(launch("listen to"))?;
    let status = child.0.wait().map_err(launch("wait for"))?;
    if groups.killed_for_memory() > 0 {
        on_output(b"\npkgbuild: processes of this step were killed because they used more memory than --memory allows\n");
    }
    if cancel.is_cancelled() {
        return Err(SandboxError::Cancelled);
    }
    match serde_json::from_slice(&report) {
        Ok(Report::Ended(exit)) => Ok(exit),
        Ok(Report::SetupFailed { action, errno }) => {
            Err(SandboxError::Setup { action, source: io::Error::from_raw_os_error(errno) })
        }
        Ok(Report::ExecFailed { program, errno }) => Err(SandboxError::Exec { reason: exec_reason(errno, step), program }),
        // The kernel chose the supervisor, which is in the groups, too.
        Err(_) if groups.killed_for_memory() > 0 => Ok(Exit::Signal(libc::SIGKILL)),
        Err(_) => Err(SandboxError::Died(status.to_string())),
    }
}

struct Reaped(Child);

impl Drop for Reaped {
    fn drop(&mut self) {
        // Killing the supervisor kills the step with it; both calls fail harmlessly when it has ended.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn send(socket: &mut UnixStream, step: &RunStep) -> io::Result<()> {
    let spec = serde_json::to_vec(step).map_err(io::Error::other)?;
    socket.write_all(&(spec.len() as u64).to_le_bytes())?;
    socket.write_all(&spec)?;
    step.given.send(socket)
}

/// Passes output on until the supervisor and the step have closed both ends. Cancellation closes our half of the socket,
/// which tells the supervisor to end the step: first politely, after five seconds for good.
fn listen(
    socket: &mut UnixStream,
    mut output: File,
    on_output: &mut dyn FnMut(&[u8]),
    cancel: &CancellationToken,
) -> io::Result<Vec<u8>> {
    let (mut report, mut buffer) = (Vec::new(), vec![0; 64 << 10]);
    let (mut socket_open, mut output_open, mut told) = (true, true, false);
    while socket_open || output_open {
        if cancel.is_cancelled() && !told {
            told = true;
            socket.shutdown(std::net::Shutdown::Write)?;
        }
        // A closed descriptor is replaced by one that has nothing to say.
        let ready = {
            let mut fds = [
                PollFd::from_borrowed_fd(socket.as_fd(), if socket_open { PollFlags::IN } else { PollFlags::empty() }),
                PollFd::from_borrowed_fd(output.as_fd(), if output_open { PollFlags::IN } else { PollFlags::empty() }),
            ];
            match rustix::event::poll(if output_open { &mut fds } else { &mut fds[..1] }, Some(&TICK)) {
                Ok(_) | Err(rustix::io::Errno::INTR) => {}
                Err(error) => return Err(error.into()),
            }
            [!fds[0].revents().is_empty() && socket_open, !fds[1].revents().is_empty() && output_open]
        };
        if ready[1] {
            match output.read(&mut buffer) {
                Ok(0) => output_open = false,
                Ok(count) => on_output(&buffer[..count]),
                // What a terminal says when nobody has it open any more.
                Err(error) if error.raw_os_error() == Some(libc::EIO) => output_open = false,
                Err(error) => return Err(error),
            }
        }
        if ready[0] {
            match socket.read(&mut buffer) {
                Ok(0) => socket_open = false,
                Ok(count) => report.extend_from_slice(&buffer[..count]),
                Err(error) if error.kind() == io::ErrorKind::ConnectionReset => socket_open = false,
                Err(error) => return Err(error),
            }
        } else if !socket_open && output_open && !ready[1] {
            // The supervisor is gone and nobody writes any more.
            output_open = false;
        }
    }
    Ok(report)
}

fn exec_reason(errno: i32, step: &RunStep) -> String {
    match errno {
        libc::ENOENT => "it, or the interpreter it names, does not exist in the image".to_owned(),
        libc::EACCES => "it is not executable for the step's user".to_owned(),
        libc::ENOEXEC => format!(
            "it is no program that this machine can execute for {} (no binfmt_misc handler, or not a program at all)",
            step.platform
        ),
        other => io::Error::from_raw_os_error(other).to_string(),
    }
}
