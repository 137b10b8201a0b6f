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

/// Parses `1048576`, `64m`, `1.5g`: bytes, in units of 1024.
pub(super) fn parse_bytes(text: &str) -> Result<u64, String> {
    let wrong = || format!("`{text}` is no number of bytes: expected something like 512m or 2g");
    let lower = text.to_ascii_lowercase();
    let word = lower.strip_suffix("ib").or_else(|| lower.strip_suffix('b')).unwrap_or(&lower);
    let shift = match word.chars().next_back() {
        Some('k') => 10,
        Some('m') => 20,
        Some('g') => 30,
        Some('t') => 40,
        _ => 0,
    };
    let number = if shift == 0 { word } else { &word[..word.len() - 1] };
    let (whole, part) = number.split_once('.').unwrap_or((number, ""));
    let digits = |text: &str| text.chars().all(|c| c.is_ascii_digit());
    if whole.is_empty() || !digits(whole) || !digits(part) || part.len() > 6 || (shift == 0 && !part.is_empty()) {
        return Err(wrong());
    }
    let scale = 10_u64.pow(part.len() as u32);
    let part = if part.is_empty() { 0 } else { part.parse::<u64>().map_err(|_| wrong())? };
    let bytes = whole.parse::<u64>().ok().and_then(|whole| whole.checked_mul(1 << shift));
    bytes.and_then(|bytes| bytes.checked_add((part << shift) / scale)).ok_or_else(wrong)
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

/// Parses a number of bytes: `500000`, `500MB`, `10GB`, `1.5GiB`. `k`, `kB`, `MB` and so on are powers of 1000, `KiB`, `MiB` and
/// so on of 1024.
pub(crate) fn parse_size(text: &str) -> Result<u64, String> {
    let wrong = || format!("`{text}` is no size: expected something like 500MB, 10GB or 1.5GiB");
    let end = text.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(text.len());
    let (number, unit) = (&text[..end], text[end..].trim_start().to_ascii_lowercase());
    let factor: u64 = match unit.as_str() {
        "" | "b" => 1,
        "k" | "kb" => 1000,
        "m" | "mb" => 1000_u64.pow(2),
        "g" | "gb" => 1000_u64.pow(3),
        "t" | "tb" => 1000_u64.pow(4),
        "kib" => 1 << 10,
        "mib" => 1 << 20,
        "gib" => 1 << 30,
        "tib" => 1 << 40,
        _ => return Err(wrong()),
    };
    let (whole, part) = number.split_once('.').unwrap_or((number, "0"));
    let (whole, digits): (u64, u32) = (whole.parse().map_err(|_| wrong())?, part.len().try_into().map_err(|_| wrong())?);
    let part: u64 = part.parse().map_err(|_| wrong())?;
    let scale = 10_u64.checked_pow(digits).ok_or_else(wrong)?;
    let part = u128::from(part) * u128::from(factor) / u128::from(scale);
    let bytes = whole.checked_mul(factor).and_then(|bytes| bytes.checked_add(u64::try_from(part).ok()?));
    bytes.ok_or_else(wrong)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_are_in_units_of_1024() {
        for (text, bytes) in
            [("0", 0), ("1000", 1000), ("64m", 64 << 20), ("64MB", 64 << 20), ("1.5g", 3 << 29), ("2KiB", 2048), ("7b", 7)]
        {
            assert_eq!(parse_bytes(text), Ok(bytes), "{text}");
        }
        for bad in ["", "m", "1.5", "-1", "1x", "99999999999t", "1.2.3m", ".5g", "b", "é"] {
            assert!(parse_bytes(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn times_are_read_in_parts() {
        for (text, seconds) in [("90", 90), ("90s", 90), ("10m", 600), ("1h30m", 5400), ("1h30", 3630)] {
            assert_eq!(parse_duration(text).expect(text).as_secs(), seconds);
        }
        for bad in ["", "x", "1d", "m", "0", "99999999999999999999h"] {
            assert!(parse_duration(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn sizes_have_units_of_both_kinds() {
        let table = [
            ("0", 0),
            ("500", 500),
            ("500B", 500),
            ("500 MB", 500_000_000),
            ("10g", 10_000_000_000),
            ("1.5GiB", 3 << 29),
            ("0.5kB", 500),
            ("2TiB", 2 << 40),
        ];
        for (text, bytes) in table {
            assert_eq!(parse_size(text), Ok(bytes), "{text}");
        }
        for bad in
            ["", "x", "-1", "1.", ".5GB", "1..5GB", "10EB", "99999999999999999999", "20000000TB", "1.000000000000000000001GB"]
        {
            assert!(parse_size(bad).is_err(), "{bad}");
        }
    }
}
