//! The inside: the supervisor, the first process of the step's namespaces, and the step itself up to its `execve`.
//!
//! Everything here runs single-threaded in a process of its own, so that `clone` without `execve` is sound.

use std::ffi::CString;
use std::fs::File;
use std::io::{self, Read, Write};
use std::os::fd::{AsFd, AsRawFd, OwnedFd, RawFd};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::{Duration, Instant};

use rustix::fs::{CWD, Mode, OFlags};
use rustix::mount::MountPropagationFlags;
use rustix::process::{Pid, Signal};
use rustix::thread::{CapabilitySet, CapabilitySets};

use super::emulation::OwnEmulator;
use super::mode::{self, Mode as Isolation};
use super::root::{self, Prepared};
use super::single::{self, Overseer};
use super::spec::Report;
use super::{Exit, INIT_NAME, RunStep, StepNetwork, seccomp};

/// What was tried, and what the kernel said.
pub(super) type Failure = (String, io::Error);

/// Returns a closure that names what was tried.
pub(super) fn trying<E: Into<io::Error>>(action: impl Into<String>) -> impl FnOnce(E) -> Failure {
    move |error| (action.into(), error.into())
}

/// Becomes the supervisor of a step if this process was started as one.
///
/// To be called first in `main`, before any thread is started; `None` means that the process is an ordinary one.
pub fn init_if_asked() -> Option<ExitCode> {
    let asked = std::env::args_os().next().is_some_and(|name| name == INIT_NAME);
    asked.then(|| match supervise() {
        Ok(()) => ExitCode::SUCCESS,
        Err(_) => ExitCode::FAILURE,
    })
}

fn supervise() -> io::Result<()> {
    die_with_parent()?;
    let mut socket = take_socket()?;
    let mut length = [0; 8];
    socket.read_exact(&mut length)?;
    let mut spec = vec![0; u64::from_le_bytes(length) as usize];
    socket.read_exact(&mut spec)?;
    let mut step: RunStep = serde_json::from_slice(&spec).map_err(io::Error::other)?;
    step.given.receive(&mut socket)?;
    super::attach::receive(&mut socket)?;
    match start(&step, &socket) {
        Ok((child, questions)) => watch(child, &socket, (questions, &step)),
        Err((action, error)) => report(&socket, &setup_failed(action, &error)),
    }
}

fn setup_failed(action: String, error: &io::Error) -> Report {
    Report::SetupFailed { action, errno: error.raw_os_error().unwrap_or(libc::EIO) }
}

fn report(mut socket: &File, report: &Report) -> io::Result<()> {
    socket.write_all(&serde_json::to_vec(report).map_err(io::Error::other)?)
}

/// Moves the socket away from standard input, which becomes `/dev/null`.
fn take_socket() -> io::Result<File> {
    let socket = rustix::io::fcntl_dupfd_cloexec(rustix::stdio::stdin(), 3)?;
    let null = rustix::fs::openat(CWD, "/dev/null", OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty())?;
    rustix::stdio::dup2_stdin(&null)?;
    Ok(File::from(socket))
}

pub(super) fn die_with_parent() -> io::Result<()> {
    Ok(rustix::process::set_parent_process_death_signal(Some(Signal::KILL))?)
}

/// Prepares the root and clones the first process of the step. Where the supervisor is to answer the step's questions
/// about ids, also returns the socket over which it is told where to hear them.
fn start(step: &RunStep, socket: &File) -> Result<(Pid, Option<UnixStream>), Failure> {
    rustix::process::umask(Mode::empty());
    set_limits();
    step.given.limit()?;
    // SAFETY: this process has a single thread.
    unsafe { rustix::thread::unshare_unsafe(rustix::thread::UnshareFlags::NEWNS) }.map_err(trying("make a mount namespace"))?;
    let private = MountPropagationFlags::PRIVATE | MountPropagationFlags::REC;
    rustix::mount::mount_change("/", private).map_err(trying("make mounts private"))?;
    let prepared = root::prepare(step)?;
    let (questions, asker) = match mode::of_process() {
        Some(Isolation::SingleId) => UnixStream::pair().map(|(a, b)| (Some(a), Some(b))).map_err(trying("make a socket"))?,
        _ => (None, None),
    };
    let (mapped_reader, mut mapped_writer) = io::pipe().map_err(trying("make a pipe"))?;
    let mut flags = libc::CLONE_NEWUSER
        | libc::CLONE_NEWNS
        | libc::CLONE_NEWPID
        | libc::CLONE_NEWIPC
        | libc::CLONE_NEWUTS
        | libc::CLONE_NEWCGROUP;
    if step.network != StepNetwork::Host {
        flags |= libc::CLONE_NEWNET;
    }
    // SAFETY: without CLONE_VM and with one thread this is a fork; the child continues below.
    let pid = unsafe { libc::syscall(libc::SYS_clone, flags | libc::SIGCHLD, 0, 0, 0, 0) } as libc::pid_t;
    match pid {
        -1 => Err(trying("make the step's namespaces")(io::Error::last_os_error())),
        0 => {
            drop((mapped_writer, questions));
            let code = i32::from(first_process(step, &prepared, socket, (mapped_reader, asker)).is_err());
            // SAFETY: ends this clone without running the parent's exit handlers.
            unsafe { libc::_exit(code) }
        }
        pid => {
            drop((mapped_reader, asker));
            let pid = Pid::from_raw(pid).expect("a child's pid is positive");
            map_identities(pid).map_err(trying("map user and group ids"))?;
            if step.network == StepNetwork::Outbound {
                super::outbound::connect(pid).map_err(trying("start `pasta`"))?;
            }
            mapped_writer.write_all(b"m").map_err(trying("start the step"))?;
            Ok((pid, questions))
        }
    }
}

/// Limits that do not depend on who started the build: steps must see the same everywhere.
fn set_limits() {
    use rustix::process::{Resource, Rlimit, setrlimit};
    let limits = [
        (Resource::Nofile, Some(1024), Some(524_288)),
        (Resource::Core, Some(0), Some(0)),
        (Resource::Nproc, None, None),
        (Resource::Fsize, None, None),
        (Resource::Stack, Some(8 << 20), None),
        (Resource::As, None, None),
        (Resource::Data, None, None),
        (Resource::Cpu, None, None),
        (Resource::Memlock, Some(8 << 20), Some(8 << 20)),
    ];
    for (resource, current, maximum) in limits {
        if setrlimit(resource, Rlimit { current, maximum }).is_err() {
            // The machine's own maximum is lower and may not be raised; what is below it still is the same everywhere.
            let ceiling = rustix::process::getrlimit(resource).maximum;
            let current = current.map_or(ceiling, |current| Some(ceiling.map_or(current, |ceiling| current.min(ceiling))));
            let _ = setrlimit(resource, Rlimit { current, maximum: ceiling });
        }
    }
    // The step is to die before the build when memory runs out.
    let _ = fs_err::write("/proc/self/oom_score_adj", "200");
}

/// Maps every id that exists for this process to itself: ids in images come out as the step sets them, while a step's
/// root has no capability outside.
fn map_identities(child: Pid) -> io::Result<()> {
    for file in ["uid_map", "gid_map"] {
        let own = fs_err::read_to_string(format!("/proc/self/{file}"))?;
        let map: String = own
            .lines()
            .filter_map(|line| {
                let fields: Vec<&str> = line.split_whitespace().collect();
                Some(format!("{0} {0} {1}\n", fields.first()?, fields.get(2)?))
            })
            .collect();
        fs_err::write(format!("/proc/{}/{file}", child.as_raw_nonzero()), map)?;
    }
    Ok(())
}

/// How long a step may take to end by itself when it is cancelled.
const GRACE: Duration = Duration::from_secs(5);

/// Waits for the step's first process, answering its questions; ends it when the other side of the socket closes.
fn watch(child: Pid, socket: &File, (questions, step): (Option<UnixStream>, &RunStep)) -> io::Result<()> {
    use rustix::event::{PollFd, PollFlags, poll};
    let handle = rustix::process::pidfd_open(child, rustix::process::PidfdFlags::empty())?;
    let mut cancelled_at: Option<Instant> = None;
    let mut questions = questions;
    let mut overseer: Option<Overseer> = None;
    loop {
        let tick = rustix::time::Timespec { tv_sec: 0, tv_nsec: 100_000_000 };
        let mut fds = vec![PollFd::from_borrowed_fd(handle.as_fd(), PollFlags::IN)];
        fds.extend(overseer.as_ref().map(|overseer| PollFd::from_borrowed_fd(overseer.waits_on(), PollFlags::IN)));
        fds.extend(questions.as_ref().map(|socket| PollFd::from_borrowed_fd(socket.as_fd(), PollFlags::IN)));
        if cancelled_at.is_none() {
            fds.push(PollFd::from_borrowed_fd(socket.as_fd(), PollFlags::IN | PollFlags::RDHUP));
        }
        match poll(&mut fds, cancelled_at.map(|_| &tick)) {
            Ok(_) | Err(rustix::io::Errno::INTR) => {}
            Err(error) => return Err(error.into()),
        }
        let ready: Vec<PollFlags> = fds.iter().map(PollFd::revents).collect();
        if !ready[0].is_empty() {
            rustix::process::waitpid(Some(child), rustix::process::WaitOptions::empty())?;
            return overseer.map_or(Ok(()), |overseer| overseer.finish(step));
        }
        let mut rest = ready[1..].iter();
        if let Some(oversees) = &mut overseer {
            let ready = *rest.next().expect("it was asked for");
            if ready.contains(PollFlags::IN) {
                oversees.serve()?;
            } else if ready.contains(PollFlags::HUP) {
                // Nobody is left who could ask.
                oversees.finish(step)?;
                overseer = None;
            }
        } else if let Some(socket) = &questions
            && !rest.next().expect("it was asked for").is_empty()
        {
            overseer = single::receive(socket)?.map(|listener| Overseer::new(listener, step)).transpose()?;
            questions = None;
        }
        match cancelled_at {
            None if ready.last().is_some_and(|ready| !ready.is_empty()) => {
                cancelled_at = Some(Instant::now());
                let _ = rustix::process::pidfd_send_signal(&handle, Signal::TERM);
            }
            Some(at) if at.elapsed() > GRACE => {
                let _ = rustix::process::pidfd_send_signal(&handle, Signal::KILL);
            }
            _ => {}
        }
    }
}

/// Process 1 of the step's namespaces: makes the surroundings, starts the step, collects orphans, reports.
fn first_process(
    step: &RunStep,
    prepared: &Prepared,
    socket: &File,
    (mut mapped, asker): (io::PipeReader, Option<UnixStream>),
) -> io::Result<()> {
    mapped.read_exact(&mut [0])?;
    // The supervisor is outside of these namespaces but still the parent.
    die_with_parent()?;
    match surround(step, prepared).and_then(|kept| Ok((kept, fork_step(step, asker)?))) {
        Ok((_kept, (child, failed))) => {
            let ended = reap(child)?;
            prepared.remove_made_targets();
            let mut errno = [0; 4];
            match File::from(failed).read_exact(&mut errno) {
                Ok(()) => {
                    let program = step.argv.first().cloned().unwrap_or_default();
                    report(socket, &Report::ExecFailed { program, errno: i32::from_le_bytes(errno) })
                }
                Err(_) => report(socket, &Report::Ended(ended)),
            }
        }
        Err((action, error)) => report(socket, &setup_failed(action, &error)),
    }
}

/// Makes the surroundings of the step; what is returned is to stay open as long as it runs.
fn surround(step: &RunStep, prepared: &Prepared) -> Result<Option<OwnedFd>, Failure> {
    rustix::system::sethostname(step.hostname.as_bytes()).map_err(trying("set the host name"))?;
    if step.network != StepNetwork::Host {
        loopback_up().map_err(trying("bring up the loopback interface"))?;
    }
    if step.network == StepNetwork::Outbound {
        super::outbound::wait().map_err(trying("reach the network through `pasta`"))?;
    }
    let emulator = prepared.emulator.as_ref().map(OwnEmulator::register).transpose();
    let emulator = emulator.map_err(trying(format!("register an emulator of {}", step.platform)))?;
    root::enter(step, prepared)?;
    // Neither the step nor its tools may look into this process.
    rustix::process::set_dumpable_behavior(rustix::process::DumpableBehavior::NotDumpable).map_err(trying("close process 1"))?;
    Ok(emulator)
}

fn loopback_up() -> io::Result<()> {
    let socket = rustix::net::socket(rustix::net::AddressFamily::INET, rustix::net::SocketType::DGRAM, None)?;
    // SAFETY: an all-zero `ifreq` is valid, the name fits with its terminating zero, and the kernel reads only the flags.
    unsafe {
        let mut request: libc::ifreq = std::mem::zeroed();
        request.ifr_name[0] = b'l' as libc::c_char;
        request.ifr_name[1] = b'o' as libc::c_char;
        request.ifr_ifru.ifru_flags = (libc::IFF_UP | libc::IFF_RUNNING) as libc::c_short;
        if libc::ioctl(socket.as_raw_fd(), libc::SIOCSIFFLAGS, &request) != 0 {
            return Err(io::Error::last_os_error());
        }
    }
    Ok(())
}

/// Forks the step. The returned pipe yields four bytes of `errno` if the program could not be executed, else nothing.
fn fork_step(step: &RunStep, asker: Option<UnixStream>) -> Result<(Pid, OwnedFd), Failure> {
    let signals = [libc::SIGCHLD, libc::SIGTERM];
    block(&signals, true).map_err(trying("block signals"))?;
    let (failed, mut tell) = io::pipe().map_err(trying("make a pipe"))?;
    let (ready, mut setup) = io::pipe().map_err(trying("make a pipe"))?;
    // SAFETY: this process has a single thread.
    match unsafe { libc::fork() } {
        -1 => Err(trying("fork")(io::Error::last_os_error())),
        0 => {
            drop((failed, ready));
            let outcome = block(&signals, false).map_err(trying("unblock signals")).and_then(|()| become_step(step, asker));
            if let Err((action, error)) = outcome {
                // The text goes to process 1, which has the socket.
                let errno = error.raw_os_error().unwrap_or(libc::EIO);
                let _ = setup.write_all(&serde_json::to_vec(&(action, errno)).unwrap_or_default());
            } else {
                drop(setup);
                let _ = tell.write_all(&execute(step).to_le_bytes());
            }
            // SAFETY: ends this fork without running the parent's exit handlers.
            unsafe { libc::_exit(127) }
        }
        pid => {
            drop((tell, setup));
            let mut text = Vec::new();
            File::from(OwnedFd::from(ready)).read_to_end(&mut text).map_err(trying("start the step"))?;
            if let Ok((action, errno)) = serde_json::from_slice::<(String, i32)>(&text) {
                return Err((action, io::Error::from_raw_os_error(errno)));
            }
            Ok((Pid::from_raw(pid).expect("a child's pid is positive"), failed.into()))
        }
    }
}

/// Collects children until the step itself has ended, then ends everything it left running.
fn reap(step: Pid) -> io::Result<Exit> {
    let all = |signal| {
        // SAFETY: sends a signal to every process of this pid namespace but this one.
        unsafe { libc::kill(-1, signal) }
    };
    loop {
        let mut ended = None;
        while let Some((pid, status)) = rustix::process::wait(rustix::process::WaitOptions::NOHANG).ok().flatten() {
            if pid == step {
                ended = Some(match (status.exit_status(), status.terminating_signal()) {
                    (Some(code), _) => Exit::Code(code),
                    (None, signal) => Exit::Signal(signal.unwrap_or(libc::SIGKILL)),
                });
            }
        }
        if let Some(exit) = ended {
            all(libc::SIGKILL);
            while rustix::process::wait(rustix::process::WaitOptions::empty()).is_ok_and(|w| w.is_some()) {}
            return Ok(exit);
        }
        if wait_for_signal(&[libc::SIGCHLD, libc::SIGTERM])? == libc::SIGTERM {
            all(libc::SIGTERM);
        }
    }
}

fn signal_set(signals: &[i32]) -> libc::sigset_t {
    // SAFETY: `sigemptyset` initialises the set; the signals are valid.
    unsafe {
        let mut set = std::mem::zeroed();
        libc::sigemptyset(&mut set);
        for signal in signals {
            libc::sigaddset(&mut set, *signal);
        }
        set
    }
}

fn block(signals: &[i32], block: bool) -> io::Result<()> {
    let how = if block { libc::SIG_BLOCK } else { libc::SIG_UNBLOCK };
    // SAFETY: the set is initialised and the old mask is not asked for.
    let result = unsafe { libc::sigprocmask(how, &signal_set(signals), std::ptr::null_mut()) };
    if result == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

fn wait_for_signal(signals: &[i32]) -> io::Result<i32> {
    loop {
        // SAFETY: the set is initialised and no details are asked for.
        let signal = unsafe { libc::sigwaitinfo(&signal_set(signals), std::ptr::null_mut()) };
        if signal > 0 {
            return Ok(signal);
        }
        let error = io::Error::last_os_error();
        if error.kind() != io::ErrorKind::Interrupted {
            return Err(error);
        }
    }
}

/// Docker's default capabilities: what package managers and `chown` need, and nothing that reaches the machine.
const CAPABILITIES: CapabilitySet = CapabilitySet::from_bits_retain(0xa804_25fb);

/// Gives up everything the step is not to have, up to but without `execve`.
fn become_step(step: &RunStep, asker: Option<UnixStream>) -> Result<(), Failure> {
    rustix::process::setsid().map_err(trying("start a session"))?;
    super::attach::control_terminal().map_err(trying("take the terminal"))?;
    // Rust ignores SIGPIPE; a shell's `yes | head` must not.
    // SAFETY: restores the default disposition.
    unsafe { libc::signal(libc::SIGPIPE, libc::SIG_DFL) };
    make_working_directory(step)?;
    rustix::process::umask(Mode::from_raw_mode(0o022));
    // The filter goes in while this process may still install one; all that follows is allowed by it.
    let asks = if asker.is_some() { seccomp::Asks::Supervisor } else { seccomp::Asks::Nobody };
    let listener = seccomp::install(asks).map_err(trying("filter system calls"))?;
    if let (Some(listener), Some(asker)) = (listener, &asker) {
        single::send(asker, listener.as_fd()).map_err(trying("reach the supervisor"))?;
    }
    if asker.is_some() {
        return limit_single(step).and_then(|()| close_from(3).map_err(trying("close files")));
    }
    drop_bounding_set().map_err(trying("drop capabilities"))?;
    let _ = rustix::thread::clear_ambient_capability_set();
    // The C library's versions, because they are for the whole process by definition; it has one thread.
    let groups: Vec<libc::gid_t> = step.user.groups.clone();
    // SAFETY: plain system calls; the group list is valid for its length.
    let changed = unsafe {
        libc::setgroups(groups.len(), groups.as_ptr()) == 0
            && libc::setresgid(step.user.gid, step.user.gid, step.user.gid) == 0
            && libc::setresuid(step.user.uid, step.user.uid, step.user.uid) == 0
    };
    if !changed {
        return Err(trying(format!("become user {}:{}", step.user.uid, step.user.gid))(io::Error::last_os_error()));
    }
    let kept = if step.user.uid == 0 { CAPABILITIES } else { CapabilitySet::empty() };
    let sets = CapabilitySets { effective: kept, permitted: kept, inheritable: CapabilitySet::empty() };
    rustix::thread::set_capabilities(None, sets).map_err(trying("limit capabilities"))?;
    close_from(3).map_err(trying("close files"))
}

/// As for everybody else, but for ids: the supervisor keeps those, and the kernel has but one.
fn limit_single(step: &RunStep) -> Result<(), Failure> {
    let kept = if step.user.uid == 0 {
        CAPABILITIES
    } else {
        // The id that the kernel knows is root's, which would get all capabilities back with the next program.
        let bits = libc::SECBIT_NOROOT | libc::SECBIT_NOROOT_LOCKED;
        // SAFETY: sets flags of this thread by value.
        if unsafe { libc::prctl(libc::PR_SET_SECUREBITS, bits, 0, 0, 0) } != 0 {
            return Err(trying("limit root")(io::Error::last_os_error()));
        }
        CapabilitySet::empty()
    };
    drop_bounding_set().map_err(trying("drop capabilities"))?;
    let _ = rustix::thread::clear_ambient_capability_set();
    let sets = CapabilitySets { effective: kept, permitted: kept, inheritable: CapabilitySet::empty() };
    rustix::thread::set_capabilities(None, sets).map_err(trying("limit capabilities"))
}

fn drop_bounding_set() -> io::Result<()> {
    for number in 0..64u64 {
        let capability = CapabilitySet::from_bits_retain(1 << number);
        if CAPABILITIES.contains(capability) {
            continue;
        }
        // SAFETY: drops one capability from the bounding set; numbers that the kernel lacks give EINVAL.
        if unsafe { libc::prctl(libc::PR_CAPBSET_DROP, number, 0, 0, 0) } != 0 {
            let error = io::Error::last_os_error();
            return if error.raw_os_error() == Some(libc::EINVAL) { Ok(()) } else { Err(error) };
        }
    }
    Ok(())
}

fn close_from(first: RawFd) -> io::Result<()> {
    // SAFETY: marks descriptors, so that the pipe that reports a failing `execve` works until then.
    let result = unsafe { libc::syscall(libc::SYS_close_range, first, u32::MAX, libc::CLOSE_RANGE_CLOEXEC) };
    if result == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

fn make_working_directory(step: &RunStep) -> Result<(), Failure> {
    let cwd = Path::new(&step.cwd);
    let failed = || format!("enter the working directory `{}`", step.cwd);
    if let Err(error) = rustix::process::chdir(cwd) {
        if error != rustix::io::Errno::NOENT {
            return Err(trying(failed())(error));
        }
        let missing: Vec<PathBuf> =
            cwd.ancestors().take_while(|path| rustix::fs::stat(*path).is_err()).map(Path::to_owned).collect();
        for path in missing.iter().rev() {
            rustix::fs::mkdir(path.as_path(), Mode::from_raw_mode(0o755)).map_err(trying(failed()))?;
            if mode::of_process() == Some(Isolation::SingleId) {
                single::record_owner(path, step.user.uid, step.user.gid).map_err(trying(failed()))?;
                continue;
            }
            let owner = (rustix::fs::Uid::from_raw(step.user.uid), rustix::fs::Gid::from_raw(step.user.gid));
            rustix::fs::chown(path.as_path(), Some(owner.0), Some(owner.1)).map_err(trying(failed()))?;
        }
        rustix::process::chdir(cwd).map_err(trying(failed()))?;
    }
    // A working directory that lies outside of the root would be a way out of it.
    let inside = rustix::process::getcwd(Vec::new()).is_ok_and(|path| path.as_bytes().starts_with(b"/"));
    if inside { Ok(()) } else { Err(trying(failed())(io::Error::from_raw_os_error(libc::EXDEV))) }
}

/// Executes the step's program, looked up as `execvp` would, and returns `errno` if that is not possible.
fn execute(step: &RunStep) -> i32 {
    let text = |text: &str| CString::new(text).ok();
    let secret: Vec<(&str, Vec<u8>)> = step.given.variables().collect();
    let plain = step.env.iter().filter(|(key, _)| !secret.iter().any(|(name, _)| key == name));
    let variables = plain.map(|(key, value)| format!("{key}={value}").into_bytes());
    let variables = variables.chain(secret.iter().map(|(_, variable)| variable.clone()));
    let (Some(arguments), Some(environment)) = (
        step.argv.iter().map(|a| text(a)).collect::<Option<Vec<_>>>(),
        variables.map(|variable| CString::new(variable).ok()).collect::<Option<Vec<_>>>(),
    ) else {
        return libc::EINVAL;
    };
    let Some(program) = step.argv.first() else { return libc::EINVAL };
    let path = step.env.iter().rev().find(|(key, _)| key == "PATH").map_or("", |(_, value)| value.as_str());
    let candidates: Vec<CString> = if program.contains('/') {
        text(program).into_iter().collect()
    } else {
        let place = |directory: &str| if directory.is_empty() { program.clone() } else { format!("{directory}/{program}") };
        path.split(':').filter_map(|directory| text(&place(directory))).collect()
    };
    let pointers = |list: &[CString]| -> Vec<*const libc::c_char> {
        list.iter().map(|item| item.as_ptr()).chain([std::ptr::null()]).collect()
    };
    let (argv, envp) = (pointers(&arguments), pointers(&environment));
    let mut result = libc::ENOENT;
    for candidate in &candidates {
        // SAFETY: both lists end with a null pointer and their strings outlive the call.
        unsafe { libc::execve(candidate.as_ptr(), argv.as_ptr(), envp.as_ptr()) };
        let errno = io::Error::last_os_error().raw_os_error().unwrap_or(libc::EIO);
        // A candidate that exists decides; "not found" goes on to the next directory.
        let exists = rustix::fs::stat(candidate.as_c_str()).is_ok();
        if exists && errno != libc::EACCES {
            return errno;
        }
        if errno != libc::ENOENT && errno != libc::ENOTDIR {
            result = errno;
        }
    }
    result
}
