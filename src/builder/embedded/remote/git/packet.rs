//! Packets of git's protocol ("pkt-line"): four hex digits of length, themselves included, then data.

use std::io;

use tokio::io::{AsyncRead, AsyncReadExt};

/// Longest packet there is.
const LONGEST: usize = 65520;

/// One packet.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) enum Packet {
    /// Data, a line feed at its end left out.
    Data(Vec<u8>),
    /// `0000`: the end of a message.
    Flush,
    /// `0001` or `0002`: the end of a part.
    Delimiter,
}

/// Adds a packet with `data` and a line feed to `message`.
pub(super) fn line(message: &mut Vec<u8>, data: &str) {
    raw(message, format!("{data}\n").as_bytes());
}

/// Adds a packet with `data` to `message`.
pub(super) fn raw(message: &mut Vec<u8>, data: &[u8]) {
    message.extend_from_slice(format!("{:04x}", data.len() + 4).as_bytes());
    message.extend_from_slice(data);
}

pub(super) const FLUSH: &[u8] = b"0000";
pub(super) const DELIMITER: &[u8] = b"0001";

/// Reads one packet whole, its line feed included.
///
/// # Errors
/// `UnexpectedEof` at the end, `InvalidData` when it is none.
pub(super) async fn read_raw(reader: &mut (impl AsyncRead + Unpin + ?Sized)) -> io::Result<Packet> {
    let mut digits = [0; 4];
    reader.read_exact(&mut digits).await?;
    let wrong = || io::Error::from(io::ErrorKind::InvalidData);
    // `from_str_radix` takes a sign, too.
    if !digits.iter().all(u8::is_ascii_hexdigit) {
        return Err(wrong());
    }
    let length = usize::from_str_radix(std::str::from_utf8(&digits).map_err(|_| wrong())?, 16).map_err(|_| wrong())?;
    match length {
        0 => Ok(Packet::Flush),
        1 | 2 => Ok(Packet::Delimiter),
        3 => Err(wrong()),
        length if length > LONGEST => Err(wrong()),
        length => {
            let mut data = vec![0; length - 4];
            reader.read_exact(&mut data).await?;
            Ok(Packet::Data(data))
        }
    }
}

/// Reads one packet of text.
///
/// # Errors
/// As [`read_raw`].
pub(super) async fn read(reader: &mut (impl AsyncRead + Unpin + ?Sized)) -> io::Result<Packet> {
    let packet = read_raw(reader).await?;
    Ok(match packet {
        Packet::Data(mut data) => {
            if data.last() == Some(&b'\n') {
                data.pop();
            }
            Packet::Data(data)
        }
        other => other,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn packets_are_read_as_they_are_written() {
        let mut message = Vec::new();
        line(&mut message, "want x");
        raw(&mut message, b"a");
        message.extend_from_slice(DELIMITER);
        message.extend_from_slice(FLUSH);
        assert_eq!(message, b"000bwant x\n0005a00010000");
        let mut reader = &message[..];
        let mut packets = Vec::new();
        while let Ok(packet) = read(&mut reader).await {
            packets.push(packet);
        }
        assert_eq!(packets, [Packet::Data(b"want x".to_vec()), Packet::Data(b"a".to_vec()), Packet::Delimiter, Packet::Flush]);
    }

    #[tokio::test]
    async fn what_is_no_packet_is_an_error() {
        for bytes in ["", "00", "0003", "+005a", "zzzz", "0009abc", "ffff", "<html>"] {
            assert!(read(&mut bytes.as_bytes()).await.is_err(), "{bytes}");
        }
    }
}
