//! Which platforms' code the kernel here can execute: its own, compatible ones, and those that have a `binfmt_misc`
//! handler.

use std::io::{self, Read};
use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};

use rustix::fs::{CWD, Mode, OFlags};
use rustix::mount::{FsMountFlags, FsOpenFlags, MountAttrFlags};

use crate::oci::Platform;

use super::super::super::Support;
use super::mode;

/// A registered interpreter for programs of another instruction set.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Handler {
    /// Name of the registration.
    pub name: String,
    /// The interpreter's path on this machine.
    pub interpreter: String,
    /// Whether the kernel holds the interpreter open (flag `F`), so that it works inside any root.
    pub fixed: bool,
    magic: Vec<u8>,
    mask: Vec<u8>,
}

/// All enabled handlers of this machine.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Emulators {
    /// In order of name.
    pub handlers: Vec<Handler>,
}

impl Emulators {
    /// Reads what is registered with the kernel. A machine without `binfmt_misc` has none.
    pub fn read() -> Self {
        let Some(directory) = binfmt_directory() else { return Self::default() };
        let Ok(entries) = rustix::fs::Dir::read_from(&directory) else { return Self::default() };
        let mut handlers: Vec<Handler> = entries
            .filter_map(Result::ok)
            .filter_map(|entry| {
                let name = entry.file_name().to_str().ok()?.to_owned();
                if matches!(name.as_str(), "." | ".." | "register" | "status") {
                    return None;
                }
                let file = rustix::fs::openat(&directory, &name, OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty()).ok()?;
                let mut text = String::new();
                std::fs::File::from(file).read_to_string(&mut text).ok()?;
                Handler::parse(&name, &text)
            })
            .collect();
        handlers.sort_by(|a, b| a.name.cmp(&b.name));
        Self { handlers }
    }

    /// Returns the handler for programs of `platform`, if there is one that works inside any root.
    pub fn handler(&self, platform: &Platform) -> Option<&Handler> {
        let header = elf_header(platform)?;
        self.handlers.iter().find(|handler| handler.fixed && handler.matches(&header))
    }
}

impl Emulators {
    /// Returns a handler for programs of `platform` that works only inside roots that have its interpreter.
    pub fn loose_handler(&self, platform: &Platform) -> Option<&Handler> {
        let header = elf_header(platform)?;
        self.handlers.iter().find(|handler| !handler.fixed && handler.matches(&header))
    }
}

impl Handler {
    /// Parses one file of `binfmt_misc`; disabled and extension-based handlers give `None`.
    fn parse(name: &str, text: &str) -> Option<Self> {
        let mut handler =
            Self { name: name.to_owned(), interpreter: String::new(), fixed: false, magic: Vec::new(), mask: Vec::new() };
        let mut enabled = false;
        for line in text.lines() {
            match line.split_once(' ').unwrap_or((line, "")) {
                ("enabled", _) => enabled = true,
                ("interpreter", path) => handler.interpreter = path.to_owned(),
                ("flags:", flags) => handler.fixed = flags.contains('F'),
                ("magic", digits) => handler.magic = bytes(digits)?,
                ("mask", digits) => handler.mask = bytes(digits)?,
                ("offset", "0") => {}
                ("offset", _) => return None,
                _ => {}
            }
        }
        (enabled && !handler.magic.is_empty()).then_some(handler)
    }

    fn matches(&self, header: &[u8]) -> bool {
        let masked = |n: usize| self.mask.get(n).copied().unwrap_or(0xff);
        header.len() >= self.magic.len() && self.magic.iter().enumerate().all(|(n, byte)| (header[n] ^ byte) & masked(n) == 0)
    }
}

fn bytes(digits: &str) -> Option<Vec<u8>> {
    let pairs = digits.as_bytes().chunks(2);
    pairs.map(|pair| u8::from_str_radix(std::str::from_utf8(pair).ok()?, 16).ok()).collect()
}

/// An interpreter that steps can be given in their own user namespace, without asking the machine.
pub(super) struct OwnEmulator {
    program: PathBuf,
    magic: [u8; 20],
}

impl OwnEmulator {
    /// Returns one for `platform` if the machine has no handler for it, but a static qemu, and its kernel keeps handlers
    /// for each user namespace (Linux 6.7).
    pub(super) fn find(platform: &Platform) -> Option<Self> {
        if support(platform, &Platform::host(), &Emulators::read()) != Support::Unsupported || platform.os != "linux" {
            return None;
        }
        let release = rustix::system::uname();
        let mut numbers = release.release().to_str().ok()?.split(['.', '-']).map(|number| number.parse::<u32>().ok());
        if (numbers.next()??, numbers.next()??) < (6, 7) {
            return None;
        }
        let machine = match platform.architecture.as_str() {
            "386" => "i386",
            "amd64" => "x86_64",
            "arm64" => "aarch64",
            "loong64" => "loongarch64",
            "mipsle" => "mipsel",
            "mips64le" => "mips64el",
            same => same,
        };
        let name = format!("qemu-{machine}-static");
        let program = QEMU_PLACES.iter().map(|place| Path::new(place).join(&name)).find(|path| path.is_file())?;
        Some(Self { program, magic: elf_header(platform)? })
    }

    /// Registers it for the user namespace of this process, whose root is still the machine's. It counts for as long as
    /// what is returned is open.
    ///
    /// # Errors
    /// The kernel's.
    pub(super) fn register(&self) -> io::Result<OwnedFd> {
        let context = rustix::mount::fsopen("binfmt_misc", FsOpenFlags::FSOPEN_CLOEXEC)?;
        rustix::mount::fsconfig_create(context.as_fd())?;
        let mount = rustix::mount::fsmount(context.as_fd(), FsMountFlags::FSMOUNT_CLOEXEC, MountAttrFlags::empty())?;
        let register = rustix::fs::openat(&mount, "register", OFlags::WRONLY | OFlags::CLOEXEC, Mode::empty())?;
        let line = self.line();
        rustix::io::write(&register, line.as_bytes())?;
        Ok(mount)
    }

    /// Returns the registration (Linux, `Documentation/admin-guide/binfmt-misc.rst`): any system ABI and ABI version,
    /// executables and shared objects. The kernel opens the interpreter now (`F`), and tells it the program's own name (`P`).
    fn line(&self) -> String {
        let mut mask = [0xff; 20];
        mask[7] = 0;
        // The type is a number of two bytes; 2 and 3 differ in the lowest bit.
        mask[if self.magic[5] == 1 { 16 } else { 17 }] = 0xfe;
        let escaped = |bytes: &[u8]| bytes.iter().map(|byte| format!("\\x{byte:02x}")).collect::<String>();
        format!(":pkgbuild:M::{}:{}:{}:PF", escaped(&self.magic), escaped(&mask), self.program.display())
    }
}

/// Where packages put qemu; a step's environment has no say in what runs it.
const QEMU_PLACES: [&str; 3] = ["/usr/bin", "/usr/local/bin", "/bin"];

/// Opens `binfmt_misc` where it is mounted, or a mount of it that has no place in the file system.
fn binfmt_directory() -> Option<OwnedFd> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let usual = Path::new("/proc/sys/fs/binfmt_misc");
    if let Ok(directory) = rustix::fs::openat(CWD, usual, flags, Mode::empty())
        && rustix::fs::accessat(&directory, "status", rustix::fs::Access::EXISTS, rustix::fs::AtFlags::empty()).is_ok()
    {
        return Some(directory);
    }
    if mode::of_process() != Some(mode::Mode::Root) {
        // In a user namespace of our own it would be a new one, which hides the machine's.
        return None;
    }
    let context = rustix::mount::fsopen("binfmt_misc", FsOpenFlags::FSOPEN_CLOEXEC).ok()?;
    rustix::mount::fsconfig_create(context.as_fd()).ok()?;
    let mount = rustix::mount::fsmount(context.as_fd(), FsMountFlags::FSMOUNT_CLOEXEC, MountAttrFlags::empty()).ok()?;
    rustix::fs::openat(&mount, ".", flags, Mode::empty()).ok()
}

/// Returns the start of an ELF executable of `platform`, as far as handlers look at it (ELF gABI, "ELF Header").
fn elf_header(platform: &Platform) -> Option<[u8; 20]> {
    // Class (1: 32 bits, 2: 64 bits), byte order (1: little, 2: big), machine.
    let (class, order, machine): (u8, u8, u16) = match platform.architecture.as_str() {
        "386" => (1, 1, 3),
        "amd64" => (2, 1, 62),
        "arm" => (1, 1, 40),
        "arm64" => (2, 1, 183),
        "loong64" => (2, 1, 258),
        "mips" => (1, 2, 8),
        "mipsle" => (1, 1, 8),
        "mips64" => (2, 2, 8),
        "mips64le" => (2, 1, 8),
        "ppc64le" => (2, 1, 21),
        "riscv64" => (2, 1, 243),
        "s390x" => (2, 2, 22),
        _ => return None,
    };
    let mut header = [0; 20];
    header[..7].copy_from_slice(&[0x7f, b'E', b'L', b'F', class, order, 1]);
    let words = [2u16, machine];
    for (word, place) in words.iter().zip([16, 18]) {
        let bytes = if order == 1 { word.to_le_bytes() } else { word.to_be_bytes() };
        header[place..place + 2].copy_from_slice(&bytes);
    }
    Some(header)
}

/// Returns how code of `platform` runs on `host`.
pub(super) fn support(platform: &Platform, host: &Platform, emulators: &Emulators) -> Support {
    let same = platform.architecture == host.architecture;
    // The kernel executes 32-bit x86 itself. 32-bit ARM on arm64 depends on the processor, so it counts as foreign.
    let compatible = host.architecture == "amd64" && platform.architecture == "386";
    if platform.os != "linux" || host.os != "linux" {
        Support::Unsupported
    } else if same || compatible {
        Support::Native
    } else if emulators.handler(platform).is_some() {
        Support::Emulated
    } else {
        Support::Unsupported
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    // What Linux prints for Debian's registration of qemu-aarch64.
    const AARCH64: &str = "enabled\ninterpreter /usr/libexec/qemu-binfmt/aarch64-binfmt-P\nflags: POCF\noffset 0\nmagic 7f454c460201010000000000000000000200b700\nmask ffffffffffffff00fffffffffffffffffeffffff\n";

    #[test]
    fn a_fixed_handler_makes_its_platform_emulated() {
        let handler = Handler::parse("qemu-aarch64", AARCH64).expect("enabled");
        let emulators = Emulators { handlers: vec![handler] };
        let host = Platform::linux("amd64");
        for (architecture, expected) in [
            ("amd64", Support::Native),
            ("386", Support::Native),
            ("arm64", Support::Emulated),
            ("riscv64", Support::Unsupported),
            ("unheard-of", Support::Unsupported),
        ] {
            assert_eq!(support(&Platform::linux(architecture), &host, &emulators), expected, "{architecture}");
        }
        assert_eq!(support(&Platform::new("windows", "amd64", None), &host, &emulators), Support::Unsupported);
    }

    #[test]
    fn what_is_registered_for_a_step_is_what_debian_registers() {
        let emulator = |architecture: &str| OwnEmulator {
            program: "/q".into(),
            magic: elf_header(&Platform::linux(architecture)).expect("known"),
        };
        let magic = "7f454c460201010000000000000000000200b700";
        let escaped = |digits: &str| {
            digits
                .as_bytes()
                .chunks(2)
                .fold(String::new(), |text, pair| text + "\\x" + std::str::from_utf8(pair).expect("digits"))
        };
        let line = emulator("arm64").line();
        assert!(line.starts_with(&format!(":pkgbuild:M::{}:", escaped(magic))), "{line}");
        assert!(line.ends_with("\\xfe\\xff\\xff\\xff:/q:PF"), "{line}");
        // Numbers of s390x have their lowest byte last.
        assert!(emulator("s390x").line().ends_with("\\xff\\xfe\\xff\\xff:/q:PF"), "{}", emulator("s390x").line());
    }

    #[test]
    fn a_handler_that_is_disabled_or_not_fixed_does_not_count() {
        assert_eq!(Handler::parse("x", &AARCH64.replace("enabled", "disabled")), None);
        let loose = Handler::parse("x", &AARCH64.replace("POCF", "POC")).expect("enabled");
        let emulators = Emulators { handlers: vec![loose] };
        assert_eq!(support(&Platform::linux("arm64"), &Platform::linux("amd64"), &emulators), Support::Unsupported);
    }
}
