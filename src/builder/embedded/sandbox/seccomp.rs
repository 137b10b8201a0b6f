//! The system calls that a step may not make: those that Docker's default profile refuses to a container with the default
//! capabilities.
//!
//! The filter refuses by list and answers "no such call" for everything newer than the list, which comes to the same as
//! Docker's list of what is allowed. It is written here because one filter must serve two instruction sets (32-bit
//! programs on a 64-bit kernel), which the crates at hand cannot express.

use std::io;
use std::os::fd::{FromRawFd, OwnedFd};

use libc::{c_long, sock_filter, sock_fprog};

use super::single::{NOTIFIED_COMPAT, NOTIFIED_NATIVE, Notified, When};

/// Namespace flags of `clone`: a step may not make namespaces of its own.
const NAMESPACE_FLAGS: u32 = 0x7e02_0000;

/// The last call of the kernel interface that was reviewed (`mseal`, Linux 6.10); later ones do not exist for a step.
const LAST_REVIEWED: u32 = 462;

#[cfg(target_arch = "x86_64")]
const NATIVE: Arch = Arch {
    audit: 0xc000_003e,
    // Numbers from here on are the x32 interface, which no image uses.
    end: 0x4000_0000,
    denied: DENIED,
    clone: libc::SYS_clone as u32,
    clone3: libc::SYS_clone3 as u32,
    personality: libc::SYS_personality as u32,
    socket: libc::SYS_socket as u32,
    notified: NOTIFIED_NATIVE,
};

#[cfg(target_arch = "aarch64")]
const NATIVE: Arch = Arch {
    audit: 0xc000_00b7,
    end: u32::MAX,
    denied: DENIED,
    clone: libc::SYS_clone as u32,
    clone3: libc::SYS_clone3 as u32,
    personality: libc::SYS_personality as u32,
    socket: libc::SYS_socket as u32,
    notified: NOTIFIED_NATIVE,
};

/// 32-bit programs on a 64-bit kernel, by the numbers of the i386 interface.
#[cfg(target_arch = "x86_64")]
const COMPAT: &[Arch] = &[Arch {
    audit: 0x4000_0003,
    end: u32::MAX,
    denied: I386_DENIED,
    clone: 120,
    clone3: 435,
    personality: 136,
    socket: 359,
    notified: NOTIFIED_COMPAT,
}];

/// 32-bit ARM programs are answered "no such call": their numbers have not been reviewed.
#[cfg(target_arch = "aarch64")]
const COMPAT: &[Arch] = &[];

struct Arch {
    audit: u32,
    end: u32,
    denied: &'static [c_long],
    clone: u32,
    clone3: u32,
    personality: u32,
    socket: u32,
    /// What the supervisor is asked about, when it answers.
    notified: &'static [Notified],
}

const DENIED: &[c_long] = &[
    libc::SYS_acct,
    libc::SYS_add_key,
    libc::SYS_bpf,
    libc::SYS_clock_settime,
    libc::SYS_delete_module,
    libc::SYS_fanotify_init,
    libc::SYS_finit_module,
    libc::SYS_fsconfig,
    libc::SYS_fsmount,
    libc::SYS_fsopen,
    libc::SYS_fspick,
    libc::SYS_get_mempolicy,
    libc::SYS_init_module,
    libc::SYS_io_uring_enter,
    libc::SYS_io_uring_register,
    libc::SYS_io_uring_setup,
    libc::SYS_kcmp,
    libc::SYS_kexec_load,
    libc::SYS_keyctl,
    libc::SYS_lookup_dcookie,
    libc::SYS_mbind,
    libc::SYS_migrate_pages,
    libc::SYS_mount,
    libc::SYS_mount_setattr,
    libc::SYS_move_mount,
    libc::SYS_move_pages,
    libc::SYS_nfsservctl,
    libc::SYS_open_by_handle_at,
    libc::SYS_open_tree,
    libc::SYS_perf_event_open,
    libc::SYS_pivot_root,
    libc::SYS_process_madvise,
    libc::SYS_quotactl,
    libc::SYS_quotactl_fd,
    libc::SYS_reboot,
    libc::SYS_request_key,
    libc::SYS_set_mempolicy,
    libc::SYS_set_mempolicy_home_node,
    libc::SYS_setdomainname,
    libc::SYS_sethostname,
    libc::SYS_setns,
    libc::SYS_settimeofday,
    libc::SYS_swapoff,
    libc::SYS_swapon,
    libc::SYS_syslog,
    libc::SYS_umount2,
    libc::SYS_unshare,
    libc::SYS_userfaultfd,
    libc::SYS_vhangup,
    #[cfg(target_arch = "x86_64")]
    libc::SYS_kexec_file_load,
    #[cfg(target_arch = "x86_64")]
    libc::SYS__sysctl,
    #[cfg(target_arch = "x86_64")]
    libc::SYS_ioperm,
    #[cfg(target_arch = "x86_64")]
    libc::SYS_iopl,
    #[cfg(target_arch = "x86_64")]
    libc::SYS_sysfs,
    #[cfg(target_arch = "x86_64")]
    libc::SYS_uselib,
    #[cfg(target_arch = "x86_64")]
    libc::SYS_ustat,
    #[cfg(target_arch = "x86_64")]
    libc::SYS_vserver,
];

/// The same calls by the numbers of the i386 interface, with those that only it has (`stime`, `umount`, `vm86`).
#[cfg(target_arch = "x86_64")]
const I386_DENIED: &[c_long] = &[
    21, 22, 25, 51, 52, 62, 74, 79, 86, 87, 88, 101, 103, 110, 111, 113, 115, 121, 127, 128, 129, 130, 131, 135, 149, 166, 167,
    169, 217, 253, 264, 273, 274, 275, 276, 283, 286, 287, 288, 294, 310, 317, 336, 338, 342, 346, 349, 350, 357, 374, 404, 425,
    426, 427, 428, 429, 430, 431, 432, 433, 440, 442, 443, 450,
];

const LOAD: u16 = (libc::BPF_LD | libc::BPF_W | libc::BPF_ABS) as u16;
const JUMP_EQUAL: u16 = (libc::BPF_JMP | libc::BPF_JEQ | libc::BPF_K) as u16;
const JUMP_GREATER: u16 = (libc::BPF_JMP | libc::BPF_JGT | libc::BPF_K) as u16;
const JUMP_SET: u16 = (libc::BPF_JMP | libc::BPF_JSET | libc::BPF_K) as u16;
const JUMP: u16 = (libc::BPF_JMP | libc::BPF_JA) as u16;
const RETURN: u16 = (libc::BPF_RET | libc::BPF_K) as u16;

// Offsets in `struct seccomp_data`; the low half of an argument comes first on both instruction sets.
const NUMBER: u32 = 0;
const ARCHITECTURE: u32 = 4;
const FIRST_ARGUMENT: u32 = 16;

const ALLOW: u32 = libc::SECCOMP_RET_ALLOW;
const NOT_PERMITTED: u32 = libc::SECCOMP_RET_ERRNO | libc::EPERM as u32;
const ASK: u32 = libc::SECCOMP_RET_USER_NOTIF;
const NO_SUCH_CALL: u32 = libc::SECCOMP_RET_ERRNO | libc::ENOSYS as u32;

/// `PER_LINUX`, `PER_LINUX32`, each with and without `UNAME26`, and the query.
const PERSONALITIES: [u32; 5] = [0, 8, 0x2_0000, 0x2_0008, 0xffff_ffff];

fn op(code: u16, k: u32) -> sock_filter {
    sock_filter { code, jt: 0, jf: 0, k }
}

/// Returns two instructions: `verdict` when the comparison holds, else go on.
fn verdict_if(code: u16, k: u32, verdict: u32) -> [sock_filter; 2] {
    [sock_filter { code, jt: 0, jf: 1, k }, op(RETURN, verdict)]
}

fn rules(arch: &Arch, asks: Asks) -> Vec<sock_filter> {
    let mut program = vec![op(LOAD, NUMBER)];
    program.extend(verdict_if(JUMP_GREATER, arch.end - 1, NO_SUCH_CALL));
    program.extend(verdict_if(JUMP_GREATER, LAST_REVIEWED, NO_SUCH_CALL));
    // glibc and musl then use `clone`, whose flags can be read here; those of `clone3` lie in memory.
    program.extend(verdict_if(JUMP_EQUAL, arch.clone3, NO_SUCH_CALL));
    for number in arch.denied {
        program.extend(verdict_if(JUMP_EQUAL, *number as u32, NOT_PERMITTED));
    }
    let argument_rule = |number: u32, body: Vec<sock_filter>| {
        let mut rule =
            vec![sock_filter { code: JUMP_EQUAL, jt: 0, jf: body.len() as u8 + 1, k: number }, op(LOAD, FIRST_ARGUMENT)];
        rule.extend(body);
        rule
    };
    let mut clone = verdict_if(JUMP_SET, NAMESPACE_FLAGS, NOT_PERMITTED).to_vec();
    clone.push(op(RETURN, ALLOW));
    program.extend(argument_rule(arch.clone, clone));
    let mut personality: Vec<_> = PERSONALITIES.iter().flat_map(|value| verdict_if(JUMP_EQUAL, *value, ALLOW)).collect();
    personality.push(op(RETURN, NOT_PERMITTED));
    program.extend(argument_rule(arch.personality, personality));
    let mut socket = verdict_if(JUMP_EQUAL, libc::AF_VSOCK as u32, NOT_PERMITTED).to_vec();
    socket.push(op(RETURN, ALLOW));
    program.extend(argument_rule(arch.socket, socket));
    for notified in arch.notified.iter().filter(|_| asks == Asks::Supervisor) {
        match notified.when() {
            When::Always => program.extend(verdict_if(JUMP_EQUAL, notified.number, ASK)),
            When::Bits(argument, bits) => {
                program.push(sock_filter { code: JUMP_EQUAL, jt: 0, jf: 4, k: notified.number });
                program.push(op(LOAD, FIRST_ARGUMENT + 8 * u32::from(argument)));
                program.extend(verdict_if(JUMP_SET, bits, ASK));
                program.push(op(RETURN, ALLOW));
            }
        }
    }
    program.push(op(RETURN, ALLOW));
    program
}

fn filter(asks: Asks) -> Vec<sock_filter> {
    let mut program = vec![op(LOAD, ARCHITECTURE)];
    for arch in std::iter::once(&NATIVE).chain(COMPAT) {
        let rules = rules(arch, asks);
        // A conditional jump reaches 255 instructions; the unconditional one reaches over the whole list.
        program.push(sock_filter { code: JUMP_EQUAL, jt: 1, jf: 0, k: arch.audit });
        program.push(op(JUMP, rules.len() as u32));
        program.extend(rules);
    }
    program.push(op(RETURN, NO_SUCH_CALL));
    program
}

/// Who is asked about calls that are about ids.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Asks {
    /// The kernel alone decides.
    Nobody,
    /// The supervisor (`single`).
    Supervisor,
}

/// Installs the filter in this process for good; returns where the calls that the supervisor is asked about are told.
/// Needs `CAP_SYS_ADMIN` in the user namespace, because steps keep the right to gain privileges by setuid programs.
///
/// # Errors
/// The kernel's, when it has no seccomp filters.
pub(super) fn install(asks: Asks) -> io::Result<Option<OwnedFd>> {
    let mut program = filter(asks);
    let program = sock_fprog { len: program.len() as u16, filter: program.as_mut_ptr() };
    let install = |flags: libc::c_ulong| {
        // SAFETY: the program is valid for the length given and lives until the call returns; the kernel copies it.
        let result = unsafe { libc::syscall(libc::SYS_seccomp, libc::SECCOMP_SET_MODE_FILTER, flags, &program) };
        if result >= 0 { Ok(result as i32) } else { Err(io::Error::last_os_error()) }
    };
    if asks == Asks::Nobody {
        return install(0).map(|_| None);
    }
    // Once a call was told, only a signal that kills ends the waiting (Linux 5.19): otherwise each of them restarts it.
    const WAIT_KILLABLE: libc::c_ulong = 1 << 5;
    let listener = libc::SECCOMP_FILTER_FLAG_NEW_LISTENER;
    let file = install(listener | WAIT_KILLABLE).or_else(|_| install(listener))?;
    // SAFETY: the kernel made the descriptor for this call.
    Ok(Some(unsafe { OwnedFd::from_raw_fd(file) }))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Runs the filter as the kernel would, on one call.
    fn decide(arch: u32, number: u32, argument: u32) -> u32 {
        run(filter(Asks::Nobody), arch, number, argument)
    }

    fn run(program: Vec<sock_filter>, arch: u32, number: u32, argument: u32) -> u32 {
        let (mut at, mut accumulator) = (0usize, 0u32);
        loop {
            let sock_filter { code, jt, jf, k } = program[at];
            at += 1;
            let mut branch = |taken: bool| at += usize::from(if taken { jt } else { jf });
            match code {
                LOAD => {
                    accumulator = match k {
                        NUMBER => number,
                        ARCHITECTURE => arch,
                        _ => argument,
                    }
                }
                JUMP_EQUAL => branch(accumulator == k),
                JUMP_GREATER => branch(accumulator > k),
                JUMP_SET => branch(accumulator & k != 0),
                JUMP => at += k as usize,
                RETURN => return k,
                other => panic!("unknown instruction {other}"),
            }
        }
    }

    #[test]
    fn what_dockers_profile_refuses_is_refused() {
        for number in [libc::SYS_mount, libc::SYS_bpf, libc::SYS_keyctl, libc::SYS_unshare, libc::SYS_userfaultfd] {
            assert_eq!(decide(NATIVE.audit, number as u32, 0), NOT_PERMITTED, "{number}");
        }
        for number in [libc::SYS_read, libc::SYS_execve, libc::SYS_ptrace, libc::SYS_chroot, libc::SYS_capset, libc::SYS_mseal] {
            assert_eq!(decide(NATIVE.audit, number as u32, 0), ALLOW, "{number}");
        }
    }

    #[test]
    fn calls_are_judged_by_their_first_argument_where_it_matters() {
        let clone = libc::SYS_clone as u32;
        assert_eq!(decide(NATIVE.audit, clone, libc::SIGCHLD as u32), ALLOW);
        assert_eq!(decide(NATIVE.audit, clone, libc::CLONE_NEWUSER as u32), NOT_PERMITTED);
        assert_eq!(decide(NATIVE.audit, libc::SYS_socket as u32, libc::AF_VSOCK as u32), NOT_PERMITTED);
        assert_eq!(decide(NATIVE.audit, libc::SYS_socket as u32, libc::AF_INET as u32), ALLOW);
        assert_eq!(decide(NATIVE.audit, libc::SYS_personality as u32, 0x2_0000), ALLOW);
        assert_eq!(decide(NATIVE.audit, libc::SYS_personality as u32, 0x004_0000), NOT_PERMITTED);
    }

    #[test]
    fn the_supervisor_is_asked_about_ids_and_about_files_that_are_made() {
        let ask = |number: libc::c_long, argument: u32| run(filter(Asks::Supervisor), NATIVE.audit, number as u32, argument);
        for number in [libc::SYS_fchownat, libc::SYS_newfstatat, libc::SYS_getuid, libc::SYS_setresuid, libc::SYS_execve] {
            assert_eq!(ask(number, 0), ASK, "{number}");
            assert_eq!(decide(NATIVE.audit, number as u32, 0), ALLOW, "{number}");
        }
        assert_eq!(ask(libc::SYS_openat, (libc::O_RDWR | libc::O_CREAT) as u32), ASK);
        assert_eq!(ask(libc::SYS_openat, libc::O_RDWR as u32), ALLOW);
        assert_eq!(ask(libc::SYS_read, 0), ALLOW);
        assert_eq!(ask(libc::SYS_mount, 0), NOT_PERMITTED);
    }

    #[test]
    fn unknown_calls_and_instruction_sets_do_not_exist() {
        assert_eq!(decide(NATIVE.audit, LAST_REVIEWED + 1, 0), NO_SUCH_CALL);
        assert_eq!(decide(NATIVE.audit, libc::SYS_clone3 as u32, 0), NO_SUCH_CALL);
        assert_eq!(decide(0xdead, libc::SYS_read as u32, 0), NO_SUCH_CALL);
        #[cfg(target_arch = "x86_64")]
        {
            assert_eq!(decide(NATIVE.audit, 0x4000_0000, 0), NO_SUCH_CALL);
            assert_eq!(decide(0x4000_0003, 21, 0), NOT_PERMITTED);
            assert_eq!(decide(0x4000_0003, 3, 0), ALLOW);
        }
    }
}
