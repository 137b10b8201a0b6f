//! Somebody at the other end of a step: a terminal, or what is piped into it.
//!
//! With a terminal, the step has a pseudo-terminal of its own as standard input, output and error, and as the controlling
//! terminal of its session; it never holds the user's, so it cannot type into that. What the supervisor is told follows the
//! specification on the socket: one byte, and the number of a descriptor that it inherited.

use std::fs::File;
use std::io::{self, Read, Write};
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};
use std::time::Duration;

use rustix::termios::{OptionalActions, Termios, tcgetattr, tcgetwinsize, tcsetattr, tcsetwinsize};

/// Who is attached to a step.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Attached {
    /// Nobody: standard input is empty.
    Nothing,
    /// This process's standard input, which is no terminal.
    Input,
    /// This process's standard input and output, which are a terminal.
    Terminal,
}

/// The user's terminal while it passes every key on; as it was before when dropped.
pub(super) struct Raw(Termios);

impl Drop for Raw {
    fn drop(&mut self) {
        let _ = tcsetattr(rustix::stdio::stdin(), OptionalActions::Flush, &self.0);
    }
}

/// How often the size of the terminal is looked at.
const TICK: Duration = Duration::from_millis(200);

impl Attached {
    /// Returns the end that the step's output is read from, and the step's end.
    pub(super) fn output(self) -> io::Result<(OwnedFd, OwnedFd)> {
        if self != Self::Terminal {
            let (reader, writer) = io::pipe()?;
            return Ok((reader.into(), writer.into()));
        }
        let (mut ours, mut theirs) = (-1, -1);
        let none = std::ptr::null_mut();
        // SAFETY: both numbers are written by the call; name, settings and size may be null.
        if unsafe { libc::openpty(&mut ours, &mut theirs, none, none.cast(), none.cast()) } != 0 {
            return Err(io::Error::last_os_error());
        }
        // SAFETY: the call has just opened both, and nobody else has them.
        let (ours, theirs) = unsafe { (OwnedFd::from_raw_fd(ours), OwnedFd::from_raw_fd(theirs)) };
        for end in [&ours, &theirs] {
            rustix::io::fcntl_setfd(end, rustix::io::FdFlags::CLOEXEC)?;
        }
        tcsetwinsize(&ours, tcgetwinsize(rustix::stdio::stdout())?)?;
        Ok((ours, theirs))
    }

    /// Returns a descriptor of standard input that the supervisor inherits.
    pub(super) fn input(self) -> io::Result<Option<OwnedFd>> {
        match self {
            Self::Input => Ok(Some(rustix::io::fcntl_dupfd_cloexec(rustix::stdio::stdin(), 3).and_then(|input| {
                rustix::io::fcntl_setfd(&input, rustix::io::FdFlags::empty())?;
                Ok(input)
            })?)),
            Self::Nothing | Self::Terminal => Ok(None),
        }
    }

    /// Tells the supervisor who is attached.
    pub(super) fn send(self, mut to: impl Write, input: Option<&OwnedFd>) -> io::Result<()> {
        let number = input.map_or(-1, AsRawFd::as_raw_fd);
        to.write_all(&[self as u8])?;
        to.write_all(&number.to_le_bytes())
    }

    /// Passes keys and the size of the terminal on to the step, whose terminal is `ours`, until this process ends.
    pub(super) fn forward(self, ours: &OwnedFd) -> io::Result<Option<Raw>> {
        if self != Self::Terminal {
            return Ok(None);
        }
        let before = tcgetattr(rustix::stdio::stdin())?;
        let mut raw = before.clone();
        raw.make_raw();
        tcsetattr(rustix::stdio::stdin(), OptionalActions::Flush, &raw)?;
        let before = Raw(before);
        let (mut keys, size) = (File::from(ours.try_clone()?), ours.try_clone()?);
        std::thread::spawn(move || {
            let (mut stdin, mut buffer) = (io::stdin().lock(), [0; 4096]);
            while let Ok(count @ 1..) = stdin.read(&mut buffer) {
                if keys.write_all(&buffer[..count]).is_err() {
                    break;
                }
            }
        });
        std::thread::spawn(move || {
            let mut known = None;
            while let Ok(now) = tcgetwinsize(rustix::stdio::stdout()) {
                let shape = (now.ws_row, now.ws_col);
                if known.replace(shape) != Some(shape) && tcsetwinsize(&size, now).is_err() {
                    break;
                }
                std::thread::sleep(TICK);
            }
        });
        Ok(Some(before))
    }
}

/// Takes what [`Attached::send`] says into use, in the supervisor: whoever it starts has it as standard input.
pub(super) fn receive(mut from: impl Read) -> io::Result<()> {
    let (mut kind, mut number) = ([0; 1], [0; 4]);
    from.read_exact(&mut kind)?;
    from.read_exact(&mut number)?;
    if kind[0] == Attached::Terminal as u8 {
        // Standard output and error are the terminal already.
        return Ok(rustix::stdio::dup2_stdin(rustix::stdio::stdout())?);
    }
    let number = i32::from_le_bytes(number);
    if kind[0] == Attached::Input as u8 && number > 2 {
        // SAFETY: the calling side left this descriptor open for this process, and nothing else here knows of it.
        let input = unsafe { OwnedFd::from_raw_fd(number) };
        rustix::stdio::dup2_stdin(&input)?;
    }
    Ok(())
}

/// Makes standard input the controlling terminal of the step's new session, if it is one: else it is `/dev/null` or what was
/// piped in.
pub(super) fn control_terminal() -> io::Result<()> {
    if !rustix::termios::isatty(rustix::stdio::stdin()) {
        return Ok(());
    }
    Ok(rustix::process::ioctl_tiocsctty(rustix::stdio::stdin())?)
}
