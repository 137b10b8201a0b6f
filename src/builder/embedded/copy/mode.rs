//! `--chmod`: an octal number or the symbolic form of chmod(1).

/// What `--chmod` makes of permission bits.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum ModeChange {
    /// These bits, whatever they were.
    Octal(u32),
    /// Clauses, one after the other.
    Symbolic(Vec<Clause>),
}

/// One clause of the symbolic form, such as `go-w`.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Clause {
    /// The bits of the classes named before the operator: user, group, others with their special bits.
    classes: u32,
    operator: Operator,
    permissions: Permissions,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Operator {
    Add,
    Remove,
    Set,
}

#[derive(Clone, PartialEq, Eq, Debug)]
enum Permissions {
    /// `rwxst` for all classes at once, and whether `X` was among them.
    Bits { bits: u32, execute_if_any: bool },
    /// The permissions that a class has: 6 for user, 3 for group, 0 for others.
    Class(u32),
}

/// A text that is no mode.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
#[error("`{text}` is not a mode: expected at most 7777 in octal, or clauses such as `u=rwX,go=rX`")]
pub struct ModeError {
    /// The text.
    pub text: String,
}

const USER: u32 = 0o4700;
const GROUP: u32 = 0o2070;
const OTHERS: u32 = 0o0007;
const STICKY: u32 = 0o1000;
const EXECUTE: u32 = 0o111;

impl ModeChange {
    /// Reads what follows `--chmod=`.
    ///
    /// A clause without a class means all classes: there is no umask in a build.
    ///
    /// # Errors
    /// [`ModeError`] when it is no mode.
    pub fn parse(text: &str) -> Result<Self, ModeError> {
        let wrong = || ModeError { text: text.to_owned() };
        if text.starts_with(|first: char| first.is_ascii_digit()) {
            let mode = u32::from_str_radix(text, 8).map_err(|_| wrong())?;
            return if mode <= 0o7777 { Ok(Self::Octal(mode)) } else { Err(wrong()) };
        }
        let mut clauses = Vec::new();
        for part in text.split(',') {
            clause(part.as_bytes(), &mut clauses).ok_or_else(wrong)?;
        }
        Ok(Self::Symbolic(clauses))
    }

    /// Returns the bits that `mode` becomes; `X` means execute for directories and for what anybody may execute.
    pub fn apply(&self, mode: u32, is_directory: bool) -> u32 {
        match self {
            Self::Octal(mode) => *mode,
            Self::Symbolic(clauses) => clauses.iter().fold(mode, |mode, clause| clause.apply(mode, is_directory)),
        }
    }

    /// Returns the mode of directories that are made on the way: the octal number, or 0755.
    pub(super) fn of_parents(change: Option<&Self>) -> u32 {
        match change {
            Some(Self::Octal(mode)) => *mode,
            _ => 0o755,
        }
    }
}

/// Reads one comma-separated part, which may have several operators: `u+r-w`.
fn clause(mut text: &[u8], clauses: &mut Vec<Clause>) -> Option<()> {
    let mut classes = 0;
    while let Some((first, rest)) = text.split_first() {
        classes |= match first {
            b'u' => USER,
            b'g' => GROUP,
            b'o' => OTHERS,
            b'a' => USER | GROUP | OTHERS | STICKY,
            _ => break,
        };
        text = rest;
    }
    if classes == 0 {
        classes = USER | GROUP | OTHERS | STICKY;
    }
    if text.is_empty() {
        return None;
    }
    while let Some((first, rest)) = text.split_first() {
        let operator = match first {
            b'+' => Operator::Add,
            b'-' => Operator::Remove,
            b'=' => Operator::Set,
            _ => return None,
        };
        let end = rest.iter().position(|byte| matches!(byte, b'+' | b'-' | b'=')).unwrap_or(rest.len());
        clauses.push(Clause { classes, operator, permissions: permissions(&rest[..end])? });
        text = &rest[end..];
    }
    Some(())
}

fn permissions(text: &[u8]) -> Option<Permissions> {
    match text {
        b"u" => return Some(Permissions::Class(6)),
        b"g" => return Some(Permissions::Class(3)),
        b"o" => return Some(Permissions::Class(0)),
        _ => {}
    }
    let (mut bits, mut execute_if_any) = (0, false);
    for byte in text {
        match byte {
            b'r' => bits |= 0o444,
            b'w' => bits |= 0o222,
            b'x' => bits |= EXECUTE,
            b's' => bits |= 0o6000,
            b't' => bits |= STICKY,
            b'X' => execute_if_any = true,
            _ => return None,
        }
    }
    Some(Permissions::Bits { bits, execute_if_any })
}

impl Clause {
    fn apply(&self, mode: u32, is_directory: bool) -> u32 {
        let bits = match self.permissions {
            Permissions::Class(shift) => (mode >> shift & 7) * EXECUTE,
            Permissions::Bits { bits, execute_if_any } => {
                bits | if execute_if_any && (is_directory || mode & EXECUTE != 0) { EXECUTE } else { 0 }
            }
        };
        // `t` is set for `u` and `g` as without a class, but not for `o`: so does BuildKit.
        let sticky = if self.classes == OTHERS { 0 } else { bits & STICKY };
        let bits = bits & !STICKY | sticky;
        let classes = self.classes | sticky;
        match self.operator {
            Operator::Add => mode | bits & classes,
            Operator::Remove => mode & !(bits & classes),
            Operator::Set => mode & !self.classes | bits & classes,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn modes_change_as_chmod_changes_them() {
        let directory = tempfile::tempdir().expect("temp dir");
        let file = directory.path().join("f");
        fs_err::write(&file, "").expect("writes");
        for before in ["644", "755", "600", "4755", "070"] {
            for change in [
                "u=rwX,go=rX",
                "+x",
                "a-w",
                "go=",
                "u+s,g+s",
                "g=u",
                "o=g",
                "u+rw-x",
                "-x",
                "=r",
                "+t",
                "go+X",
                "0",
                "7777",
                "0644",
                "ug+s",
                "u=s",
                "a=rx",
            ] {
                let run = |mode: &str| {
                    let script = format!("umask 0; chmod {mode} \"$0\"");
                    let status = std::process::Command::new("sh").arg("-c").arg(script).arg(&file).status().expect("runs");
                    assert!(status.success(), "{mode}");
                };
                run(before);
                run(change);
                let actual =
                    ModeChange::parse(change).expect(change).apply(u32::from_str_radix(before, 8).expect("octal"), false);
                let expected = std::os::unix::fs::MetadataExt::mode(&fs_err::metadata(&file).expect("stats")) & 0o7777;
                assert_eq!(format!("{actual:o}"), format!("{expected:o}"), "{before} {change}");
            }
        }
    }

    #[test]
    fn others_have_no_sticky_bit() {
        for (change, expected) in
            [("+t", 0o1644), ("a+t", 0o1644), ("u+t", 0o1644), ("g+t", 0o1644), ("o+t", 0o644), ("a=t", 0o1000)]
        {
            assert_eq!(ModeChange::parse(change).expect(change).apply(0o644, false), expected, "{change}");
        }
    }

    #[test]
    fn what_is_no_mode_is_refused() {
        for bad in ["", "8", "10000", "u", "rwx", "u=rwq", "a+r,", "755x", "-1", "u=uw"] {
            assert!(ModeChange::parse(bad).is_err(), "{bad}");
        }
    }
}
