//! A network of the step's own that reaches out: `pasta` copies this machine's addresses and routes into it and carries
//! its connections over ordinary sockets. Nothing on this machine can be reached that way, least of all its loopback.

use std::io;
use std::os::fd::AsRawFd;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use rustix::process::Pid;

/// Where packages put it; a step's environment has no say in what the supervisor starts.
const PLACES: [&str; 3] = ["/usr/bin/pasta", "/usr/local/bin/pasta", "/bin/pasta"];

fn program() -> Option<PathBuf> {
    PLACES.iter().map(Path::new).find(|path| fs_err::metadata(path).is_ok_and(|m| m.is_file())).map(Path::to_owned)
}

pub(super) fn available() -> bool {
    program().is_some()
}

/// Starts `pasta` for the namespaces of `child`. It dies with this process, and by itself when the namespaces are gone.
pub(super) fn connect(child: Pid) -> io::Result<()> {
    let program = program().ok_or(io::Error::from_raw_os_error(libc::ENOENT))?;
    let namespace = |kind: &str| format!("/proc/{}/ns/{kind}", child.as_raw_nonzero());
    let mut command = Command::new(program);
    command.args(["--foreground", "--quiet", "--runas", "0:0", "--config-net", "--no-map-gw"]);
    // No port of either side is forwarded to the other.
    command.args(["-t", "none", "-u", "none", "-T", "none", "-U", "none"]);
    command.args(["--userns", &namespace("user"), "--netns", &namespace("net")]);
    command.env_clear().stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
    // SAFETY: one system call, which is safe between fork and exec.
    unsafe { command.pre_exec(super::init::die_with_parent) };
    command.spawn().map(drop)
}

/// How long `pasta` may take to set up the interface.
const PATIENCE: Duration = Duration::from_secs(10);

/// Waits, inside the namespace, until an interface besides loopback has an address.
pub(super) fn wait() -> io::Result<()> {
    let socket = rustix::net::socket(rustix::net::AddressFamily::INET, rustix::net::SocketType::DGRAM, None)?;
    let started = Instant::now();
    while started.elapsed() < PATIENCE {
        if addresses(socket.as_raw_fd())? > 1 {
            return Ok(());
        }
        std::thread::sleep(Duration::from_millis(2));
    }
    Err(io::Error::from_raw_os_error(libc::ETIMEDOUT))
}

/// Returns how many interfaces have an IPv4 address.
fn addresses(socket: i32) -> io::Result<usize> {
    // SAFETY: the kernel writes at most `ifc_len` bytes to the array, which outlives the call.
    unsafe {
        let mut requests: [libc::ifreq; 8] = std::mem::zeroed();
        let mut list = libc::ifconf { ifc_len: std::mem::size_of_val(&requests) as libc::c_int, ifc_ifcu: std::mem::zeroed() };
        list.ifc_ifcu.ifcu_req = requests.as_mut_ptr();
        if libc::ioctl(socket, libc::SIOCGIFCONF, &mut list) != 0 {
            return Err(io::Error::last_os_error());
        }
        Ok(list.ifc_len as usize / std::mem::size_of::<libc::ifreq>())
    }
}
