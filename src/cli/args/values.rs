//! Values of arguments that need a parser of their own.

use crate::oci::{Platform, PlatformError};

/// Architectures that Go's `go tool dist list` knows, which is what names of platforms are made of.
const ARCHITECTURES: [&str; 14] = [
    "386", "amd64", "arm", "arm64", "loong64", "mips", "mips64", "mips64le", "mipsle", "ppc64", "ppc64le", "riscv64", "s390x",
    "wasm",
];

/// Parses a platform of an architecture that there is.
pub(super) fn parse_platform(text: &str) -> Result<Platform, String> {
    let platform: Platform = text.parse().map_err(|error: PlatformError| error.to_string())?;
    if ARCHITECTURES.contains(&platform.architecture.as_str()) {
        return Ok(platform);
    }
    Err(format!("`{}` is no architecture: expected one of {}", platform.architecture, ARCHITECTURES.join(", ")))
}

/// Parses `90`, `90s`, `10m`, `1h30m`.
pub(super) fn parse_duration(text: &str) -> Result<std::time::Duration, String> {
    let wrong = || format!("`{text}` is no time: expected something like 90s, 10m or 1h30m");
    let (mut seconds, mut number) = (0_u64, String::new());
    for c in text.chars() {
        if c.is_ascii_digit() {
            number.push(c);
            continue;
        }
        let factor = match c {
            's' => 1,
            'm' => 60,
            'h' => 3600,
            _ => return Err(wrong()),
        };
        let value: u64 = number.parse().map_err(|_| wrong())?;
        seconds = value.checked_mul(factor).and_then(|value| seconds.checked_add(value)).ok_or_else(wrong)?;
        number.clear();
    }
    if !number.is_empty() {
        seconds = number.parse::<u64>().ok().and_then(|value| seconds.checked_add(value)).ok_or_else(wrong)?;
    }
    if seconds == 0 { Err(wrong()) } else { Ok(std::time::Duration::from_secs(seconds)) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_read_in_parts() {
        for (text, seconds) in [("90", 90), ("90s", 90), ("10m", 600), ("1h30m", 5400), ("1h30", 3630)] {
            assert_eq!(parse_duration(text).expect(text).as_secs(), seconds);
        }
        for bad in ["", "x", "1d", "m", "0", "99999999999999999999h"] {
            assert!(parse_duration(bad).is_err(), "{bad}");
        }
    }
}
