//! Small values inside of instructions: booleans, sizes, durations, ports, signals, quoted words.

use std::time::Duration;

/// Returns a boolean in one of Go's spellings.
pub(super) fn boolean(text: &str) -> Option<bool> {
    match text {
        "1" | "t" | "T" | "true" | "TRUE" | "True" => Some(true),
        "0" | "f" | "F" | "false" | "FALSE" | "False" => Some(false),
        _ => None,
    }
}

/// Returns a number of bytes such as `64m`, `1.5 GiB` or `512`; units are powers of 1024.
pub(super) fn bytes(text: &str) -> Option<u64> {
    let end = text.find(|c: char| !(c.is_ascii_digit() || c == '.')).unwrap_or(text.len());
    let number: f64 = text[..end].parse().ok()?;
    let unit = text[end..].strip_prefix(' ').unwrap_or(&text[end..]).to_ascii_lowercase();
    let unit = unit.strip_suffix('b').unwrap_or(&unit);
    let unit = unit.strip_suffix('i').filter(|unit| !unit.is_empty()).unwrap_or(unit);
    let power = match unit {
        "" => 0,
        "k" => 1,
        "m" => 2,
        "g" => 3,
        "t" => 4,
        "p" => 5,
        _ => return None,
    };
    let bytes = number * 1024_f64.powi(power);
    (bytes.is_finite() && bytes < 9.2e18).then_some(bytes as u64)
}

/// Why a duration is wrong.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) enum DurationMistake {
    NotADuration,
    TooShort,
}

/// Returns a duration such as `30s` or `1m30s`: 0 or at least a millisecond.
pub(super) fn duration(text: &str) -> Result<Duration, DurationMistake> {
    let nanoseconds = nanoseconds(text).ok_or(DurationMistake::NotADuration)?;
    match u64::try_from(nanoseconds) {
        Ok(0) => Ok(Duration::ZERO),
        Ok(nanoseconds) if nanoseconds >= 1_000_000 => Ok(Duration::from_nanos(nanoseconds)),
        _ => Err(DurationMistake::TooShort),
    }
}

/// Reads Go's notation: decimal numbers, each with its unit.
fn nanoseconds(text: &str) -> Option<i64> {
    let (sign, mut rest) = match text.strip_prefix('-') {
        Some(rest) => (-1, rest),
        None => (1, text.strip_prefix('+').unwrap_or(text)),
    };
    if rest == "0" {
        return Some(0);
    }
    if rest.is_empty() {
        return None;
    }
    let mut total: i128 = 0;
    while !rest.is_empty() {
        let end = rest.find(|c: char| !(c.is_ascii_digit() || c == '.'))?;
        let (number, tail) = rest.split_at(end);
        let end = tail.find(|c: char| c.is_ascii_digit() || c == '.').unwrap_or(tail.len());
        let (unit, tail) = tail.split_at(end);
        let unit: i128 = match unit {
            "ns" => 1,
            "us" | "µs" | "μs" => 1_000,
            "ms" => 1_000_000,
            "s" => 1_000_000_000,
            "m" => 60_000_000_000,
            "h" => 3_600_000_000_000,
            _ => return None,
        };
        let (whole, fraction) = number.split_once('.').unwrap_or((number, ""));
        if (whole.is_empty() && fraction.is_empty()) || fraction.contains('.') || whole.len() > 18 {
            return None;
        }
        let fraction = &fraction[..fraction.len().min(18)];
        total += whole.parse::<i128>().unwrap_or(0) * unit;
        total += fraction.parse::<i128>().unwrap_or(0) * unit / 10_i128.pow(fraction.len() as u32);
        rest = tail;
    }
    i64::try_from(sign * total).ok()
}

/// Returns a duration as Go prints it: `1m30s`, `500ms`, `0s`.
pub(super) fn duration_text(duration: Duration) -> String {
    let nanoseconds = duration.as_nanos();
    let decimal = |value: u128, unit: u128| {
        let fraction = format!("{:0width$}", value % unit, width = unit.ilog10() as usize);
        match fraction.trim_end_matches('0') {
            "" => (value / unit).to_string(),
            fraction => format!("{}.{fraction}", value / unit),
        }
    };
    match nanoseconds {
        0 => "0s".to_owned(),
        1..1_000 => format!("{nanoseconds}ns"),
        1_000..1_000_000 => format!("{}µs", decimal(nanoseconds, 1_000)),
        1_000_000..1_000_000_000 => format!("{}ms", decimal(nanoseconds, 1_000_000)),
        _ => {
            let minutes = nanoseconds / 60_000_000_000;
            let seconds = decimal(nanoseconds % 60_000_000_000, 1_000_000_000);
            match (minutes / 60, minutes % 60) {
                (0, 0) => format!("{seconds}s"),
                (0, minutes) => format!("{minutes}m{seconds}s"),
                (hours, minutes) => format!("{hours}h{minutes}m{seconds}s"),
            }
        }
    }
}

/// Returns the shortest path that means the same, as Go's `path.Clean`: `.` for nothing.
pub(super) fn clean_path(path: &str) -> String {
    let rooted = path.starts_with('/');
    let mut parts: Vec<&str> = Vec::new();
    for part in path.split('/') {
        match part {
            "" | "." => {}
            ".." if parts.last().is_some_and(|last| *last != "..") => {
                parts.pop();
            }
            ".." if rooted => {}
            part => parts.push(part),
        }
    }
    match (rooted, parts.join("/")) {
        (true, path) => format!("/{path}"),
        (false, path) if path.is_empty() => ".".to_owned(),
        (false, path) => path,
    }
}

/// Returns the last component of a path; empty for an empty path.
pub(super) fn base_name(path: &str) -> String {
    path.trim_end_matches('/').rsplit('/').next().unwrap_or_default().to_owned()
}

/// Why a port specification is wrong, as a phrase.
pub(super) type PortMistake = &'static str;

/// Returns the `port/protocol` that a specification of `EXPOSE` means: `[[address:]host-port:]port[-port][/protocol]`,
/// of which only what follows the last `:` counts.
pub(super) fn ports(specification: &str) -> Result<Vec<String>, PortMistake> {
    let (host, container) = specification.rsplit_once(':').map_or((None, specification), |(host, port)| (Some(host), port));
    let (range, protocol) = container.split_once('/').unwrap_or((container, ""));
    if range.is_empty() {
        return Err("it has no port");
    }
    let protocol = protocol.to_ascii_lowercase();
    let protocol = match &protocol[..] {
        "" => "tcp",
        "tcp" | "udp" | "sctp" => &protocol[..],
        _ => return Err("the protocol must be tcp, udp or sctp"),
    };
    let (first, last) = port_range(range)?;
    if let Some(host) = host {
        let (address, port) = host.rsplit_once(':').map_or(("", host), |(address, port)| (address, port));
        let address = address.strip_prefix('[').and_then(|inner| inner.strip_suffix(']')).unwrap_or(address);
        if !address.is_empty() && address.parse::<std::net::IpAddr>().is_err() {
            return Err("what stands before the first `:` is no address");
        }
        if !port.is_empty() {
            let (host_first, host_last) = port_range(port)?;
            if last != first && host_last - host_first != last - first {
                return Err("the two ranges have different lengths");
            }
        }
    }
    Ok((first..=last).map(|port| format!("{port}/{protocol}")).collect())
}

fn port_range(text: &str) -> Result<(u16, u16), PortMistake> {
    const MISTAKE: PortMistake = "a port is a number from 0 to 65535, or two with `-` between them";
    let number = |text: &str| text.parse::<u16>().map_err(|_| MISTAKE);
    let Some((first, last)) = text.split_once('-') else { return number(text).map(|port| (port, port)) };
    let (first, last) = (number(first)?, number(last)?);
    if last < first { Err("a range of ports must not run backwards") } else { Ok((first, last)) }
}

const SIGNALS: [&str; 36] = [
    "ABRT", "ALRM", "BUS", "CHLD", "CLD", "CONT", "FPE", "HUP", "ILL", "INT", "IO", "IOT", "KILL", "PIPE", "POLL", "PROF", "PWR",
    "QUIT", "RTMAX", "RTMIN", "SEGV", "STKFLT", "STOP", "SYS", "TERM", "TRAP", "TSTP", "TTIN", "TTOU", "URG", "USR1", "USR2",
    "VTALRM", "WINCH", "XCPU", "XFSZ",
];

/// Returns whether `text` names a signal of Linux: a number, or a name with or without `SIG`.
pub(super) fn is_signal(text: &str) -> bool {
    if let Ok(number) = text.parse::<i64>() {
        return number != 0;
    }
    let name = text.to_ascii_uppercase();
    let name = name.strip_prefix("SIG").unwrap_or(&name);
    let real_time = |prefix: &str, last: u8| {
        let offset = name.strip_prefix(prefix).and_then(|offset| offset.parse::<u8>().ok());
        offset.is_some_and(|offset| (1..=last).contains(&offset))
    };
    SIGNALS.contains(&name) || real_time("RTMIN+", 15) || real_time("RTMAX-", 14)
}

/// Returns `text` in double quotes as Go's `%q` prints it.
pub(super) fn quoted(text: &str) -> String {
    let mut out = String::from("\"");
    for c in text.chars() {
        match c {
            '"' | '\\' => out.extend(['\\', c]),
            '\x07' => out.push_str("\\a"),
            '\x08' => out.push_str("\\b"),
            '\x0c' => out.push_str("\\f"),
            '\n' => out.push_str("\\n"),
            '\r' => out.push_str("\\r"),
            '\t' => out.push_str("\\t"),
            '\x0b' => out.push_str("\\v"),
            c if c.is_ascii_control() => out.push_str(&format!("\\x{:02x}", c as u32)),
            ' ' => out.push(c),
            c if c.is_control() || c.is_whitespace() || matches!(c, '\u{ad}' | '\u{200b}'..='\u{200f}' | '\u{feff}') => {
                out.push_str(&format!("\\u{:04x}", c as u32));
            }
            c => out.push(c),
        }
    }
    out.push('"');
    out
}
