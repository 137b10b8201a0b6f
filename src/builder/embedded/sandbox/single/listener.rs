//! The kernel's side of the questions: seccomp user notifications (seccomp_unotify(2)).

use std::io::{self, IoSlice, IoSliceMut};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::os::unix::net::UnixStream;

use rustix::io::Errno;
use rustix::net::{RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SendAncillaryBuffer, SendAncillaryMessage, SendFlags};

const RECEIVE: libc::c_ulong = 0xc050_2100;
const SEND: libc::c_ulong = 0xc018_2101;
const IS_VALID: libc::c_ulong = 0x4008_2102;
const ADD_FILE: libc::c_ulong = 0x4018_2103;
const SET_FLAGS: libc::c_ulong = 0x4008_2104;
/// Wake the other side on this processor: half the time of an answer (Linux 6.6).
const SYNCHRONOUS: u64 = 1;
/// The kernel is to do what was asked.
const CONTINUE: u32 = 1;
/// The new descriptor is the answer.
const ADD_AND_SEND: u32 = 2;

#[repr(C)]
#[derive(Clone, Copy, Default)]
struct Notification {
    id: u64,
    pid: u32,
    flags: u32,
    number: i32,
    architecture: u32,
    instruction: u64,
    arguments: [u64; 6],
}

#[repr(C)]
struct Response {
    id: u64,
    value: i64,
    error: i32,
    flags: u32,
}

#[repr(C)]
struct AddFile {
    id: u64,
    flags: u32,
    source: u32,
    place: u32,
    place_flags: u32,
}

/// A call that waits for an answer.
pub(super) struct Request {
    pub(super) id: u64,
    /// The thread, as this process sees it.
    pub(super) pid: u32,
    pub(super) number: u32,
    pub(super) architecture: u32,
    pub(super) arguments: [u64; 6],
}

/// Where calls that wait are told.
pub(super) struct Listener(OwnedFd);

impl Listener {
    pub(super) fn new(file: OwnedFd) -> Self {
        // SAFETY: passes a number by value; kernels that do not know it refuse, which costs time only.
        unsafe { libc::ioctl(file.as_raw_fd(), SET_FLAGS as _, SYNCHRONOUS) };
        Self(file)
    }

    pub(super) fn file(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }

    /// Takes a call that waits; `None` when it does not any more.
    pub(super) fn next(&self) -> io::Result<Option<Request>> {
        let mut notification = Notification::default();
        // SAFETY: the structure has the kernel's layout and size, which is in the request's number.
        let result = unsafe { libc::ioctl(self.0.as_raw_fd(), RECEIVE as _, &raw mut notification) };
        if result != 0 {
            let error = io::Error::last_os_error();
            return match error.raw_os_error() {
                Some(libc::ENOENT | libc::EINTR) => Ok(None),
                _ => Err(error),
            };
        }
        let Notification { id, pid, number, architecture, arguments, .. } = notification;
        Ok(Some(Request { id, pid, number: number as u32, architecture, arguments }))
    }

    /// Returns whether the thread still waits for this answer: its number is not another's then.
    pub(super) fn is_waiting(&self, id: u64) -> bool {
        // SAFETY: the number outlives the call.
        unsafe { libc::ioctl(self.0.as_raw_fd(), IS_VALID as _, &raw const id) == 0 }
    }

    pub(super) fn proceed(&self, id: u64) -> io::Result<()> {
        self.send(&Response { id, value: 0, error: 0, flags: CONTINUE })
    }

    pub(super) fn answer(&self, id: u64, value: i64, error: Option<Errno>) -> io::Result<()> {
        self.send(&Response { id, value, error: error.map_or(0, |errno| -errno.raw_os_error()), flags: 0 })
    }

    fn send(&self, response: &Response) -> io::Result<()> {
        // SAFETY: the structure has the kernel's layout and outlives the call.
        let result = unsafe { libc::ioctl(self.0.as_raw_fd(), SEND as _, std::ptr::from_ref(response)) };
        gone_is_fine(result)
    }

    /// Answers with a descriptor for `file`.
    pub(super) fn answer_file(&self, id: u64, file: BorrowedFd<'_>, close_on_exec: bool) -> io::Result<()> {
        let place_flags = if close_on_exec { libc::O_CLOEXEC as u32 } else { 0 };
        let request = AddFile { id, flags: ADD_AND_SEND, source: file.as_raw_fd() as u32, place: 0, place_flags };
        // SAFETY: the structure has the kernel's layout and outlives the call.
        let result = unsafe { libc::ioctl(self.0.as_raw_fd(), ADD_FILE as _, &raw const request) };
        if result >= 0 {
            return Ok(());
        }
        match io::Error::last_os_error().raw_os_error() {
            Some(libc::ENOENT) => Ok(()),
            // The process has too many files open, or the kernel is older than 5.14.
            Some(errno) => self.answer(id, 0, Some(Errno::from_raw_os_error(errno))),
            None => Ok(()),
        }
    }
}

/// Somebody who does not wait any more was killed, which is no error of ours.
fn gone_is_fine(result: libc::c_int) -> io::Result<()> {
    if result >= 0 {
        return Ok(());
    }
    let error = io::Error::last_os_error();
    if error.raw_os_error() == Some(libc::ENOENT) { Ok(()) } else { Err(error) }
}

/// Hands a descriptor to the process at the other end.
pub(in crate::builder::embedded::sandbox) fn send(socket: &UnixStream, file: BorrowedFd<'_>) -> io::Result<()> {
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
    let mut ancillary = SendAncillaryBuffer::new(&mut space);
    let files = [file];
    ancillary.push(SendAncillaryMessage::ScmRights(&files));
    rustix::net::sendmsg(socket, &[IoSlice::new(b"l")], &mut ancillary, SendFlags::empty())?;
    Ok(())
}

/// Takes the descriptor that [`send`] hands over; `None` when the other end was closed without one.
pub(in crate::builder::embedded::sandbox) fn receive(socket: &UnixStream) -> io::Result<Option<OwnedFd>> {
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
    let mut ancillary = RecvAncillaryBuffer::new(&mut space);
    let mut byte = [0];
    rustix::net::recvmsg(socket, &mut [IoSliceMut::new(&mut byte)], &mut ancillary, RecvFlags::CMSG_CLOEXEC)?;
    Ok(ancillary.drain().find_map(|message| match message {
        RecvAncillaryMessage::ScmRights(mut files) => files.next(),
        _ => None,
    }))
}
