//! gzip on all processors, with the same bytes whatever their number and however the data arrives.
//!
//! The data is cut into blocks of 1 MiB by position alone. Each is compressed on its own, with the 32 KiB before it as
//! dictionary, up to a byte boundary (a sync flush); the blocks one after the other are one deflate stream, in one gzip
//! member. One member rather than many: it is what every other builder writes, so no reader meets it for the first time,
//! and with the dictionary it costs 0.1 % in size where separate members cost over 1 %.

use std::collections::VecDeque;
use std::io::{self, Write};
use std::sync::mpsc::{Receiver, Sender, SyncSender, channel, sync_channel};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;

use flate2::{Compress, Compression, Crc, FlushCompress, Status};

/// Names what determines the bytes besides the data. Another encoder or level gets another name, so that records of
/// packed layers of the old one are not used.
pub(super) const ENCODER: &str = "gzip: flate2 1.1.11, zlib-rs, level 6, blocks of 1 MiB with dictionary";

const BLOCK: usize = 1 << 20;
const DICTIONARY: usize = 32 << 10;
const LEVEL: u32 = 6;
/// Deflate, no flags, no time, no extra flags, unknown system: as BuildKit writes it.
const HEADER: [u8; 10] = [0x1f, 0x8b, 8, 0, 0, 0, 0, 0, 0, 0xff];

struct Block {
    data: Vec<u8>,
    dictionary: Arc<[u8]>,
    last: bool,
    done: Sender<io::Result<Compressed>>,
}

struct Compressed {
    bytes: Vec<u8>,
    crc: Crc,
}

/// Compresses what is written to it.
pub(super) struct Gzip<W: Write> {
    out: W,
    block: Vec<u8>,
    dictionary: Arc<[u8]>,
    crc: Crc,
    waiting: VecDeque<Receiver<io::Result<Compressed>>>,
    blocks: Option<SyncSender<Block>>,
    workers: Vec<JoinHandle<()>>,
}

impl<W: Write> Gzip<W> {
    /// Starts a stream that is compressed by `threads` threads.
    pub(super) fn new(mut out: W, threads: usize) -> io::Result<Self> {
        out.write_all(&HEADER)?;
        let threads = threads.max(1);
        let (blocks, received) = sync_channel::<Block>(threads);
        let received = Arc::new(Mutex::new(received));
        let workers = (0..threads).map(|_| spawn(received.clone())).collect::<io::Result<_>>()?;
        let block = Vec::with_capacity(BLOCK);
        let empty = Arc::new([]);
        Ok(Self { out, block, dictionary: empty, crc: Crc::new(), waiting: VecDeque::new(), blocks: Some(blocks), workers })
    }

    fn send(&mut self, last: bool) -> io::Result<()> {
        let data = std::mem::replace(&mut self.block, Vec::with_capacity(if last { 0 } else { BLOCK }));
        let dictionary = std::mem::replace(&mut self.dictionary, data[data.len().saturating_sub(DICTIONARY)..].into());
        let (done, result) = channel();
        let blocks = self.blocks.as_ref().expect("open until the end");
        blocks.send(Block { data, dictionary, last, done }).map_err(|_| gone())?;
        self.waiting.push_back(result);
        // Bounds what is in memory: a block per thread at work, one waiting, and as many results.
        while self.waiting.len() > 2 * self.workers.len() {
            self.receive()?;
        }
        Ok(())
    }

    fn receive(&mut self) -> io::Result<()> {
        if let Some(result) = self.waiting.pop_front() {
            let compressed = result.recv().map_err(|_| gone())??;
            self.crc.combine(&compressed.crc);
            self.out.write_all(&compressed.bytes)?;
        }
        Ok(())
    }

    /// Ends the stream and returns what it was written to.
    pub(super) fn finish(mut self) -> io::Result<W> {
        self.send(true)?;
        while !self.waiting.is_empty() {
            self.receive()?;
        }
        self.blocks = None;
        for worker in self.workers {
            worker.join().map_err(|_| gone())?;
        }
        self.out.write_all(&self.crc.sum().to_le_bytes())?;
        self.out.write_all(&self.crc.amount().to_le_bytes())?;
        Ok(self.out)
    }
}

impl<W: Write> Write for Gzip<W> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        if self.block.len() == BLOCK {
            self.send(false)?;
        }
        let taken = bytes.len().min(BLOCK - self.block.len());
        self.block.extend_from_slice(&bytes[..taken]);
        Ok(taken)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

fn spawn(blocks: Arc<Mutex<Receiver<Block>>>) -> io::Result<JoinHandle<()>> {
    std::thread::Builder::new().name("gzip".to_owned()).spawn(move || {
        loop {
            let block = blocks.lock().unwrap_or_else(PoisonError::into_inner).recv();
            let Ok(block) = block else { return };
            // Nobody waits any more when packing failed.
            let _ = block.done.send(compress(&block));
        }
    })
}

fn compress(block: &Block) -> io::Result<Compressed> {
    let mut encoder = Compress::new(Compression::new(LEVEL), false);
    if !block.dictionary.is_empty() {
        encoder.set_dictionary(&block.dictionary).map_err(io::Error::other)?;
    }
    // One call with room for data that cannot be compressed: the bytes depend on how the data is cut into calls.
    let mut bytes = Vec::with_capacity(block.data.len() + block.data.len() / 8 + 1024);
    let flush = if block.last { FlushCompress::Finish } else { FlushCompress::Sync };
    let status = encoder.compress_vec(&block.data, &mut bytes, flush).map_err(io::Error::other)?;
    let complete = encoder.total_in() == block.data.len() as u64 && bytes.len() < bytes.capacity();
    if !complete || (block.last && status != Status::StreamEnd) {
        return Err(io::Error::other("a block does not compress in one call"));
    }
    let mut crc = Crc::new();
    crc.update(&block.data);
    Ok(Compressed { bytes, crc })
}

fn gone() -> io::Error {
    io::Error::other("a compressing thread is gone")
}

#[cfg(test)]
mod tests {
    use std::io::Read;

    use super::*;

    fn gzip(data: &[u8], piece: usize, threads: usize) -> Vec<u8> {
        let mut gzip = Gzip::new(Vec::new(), threads).expect("starts");
        for piece in data.chunks(piece) {
            gzip.write_all(piece).expect("writes");
        }
        gzip.finish().expect("finishes")
    }

    fn sample(length: usize) -> Vec<u8> {
        let mut state = 1u64;
        let mut next = || {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            state
        };
        (0..length).map(|index| if index / 50_000 % 3 == 0 { (next() >> 60) as u8 } else { (next() >> 33) as u8 }).collect()
    }

    #[test]
    fn the_bytes_depend_neither_on_threads_nor_on_how_they_are_written() {
        for length in [0, 1, BLOCK - 1, BLOCK, BLOCK + 1, 2 * BLOCK, 3 * BLOCK + 12_345] {
            let data = sample(length);
            let first = gzip(&data, usize::MAX, 1);
            assert_eq!(first[..10], HEADER);
            for (piece, threads) in [(1 << 16, 1), (4097, 2), (BLOCK, 3)] {
                assert!(gzip(&data, piece, threads) == first, "{length} bytes in pieces of {piece} by {threads} threads");
            }
            let mut back = Vec::new();
            flate2::bufread::GzDecoder::new(&first[..]).read_to_end(&mut back).expect("one member");
            assert!(back == data, "{length}");
        }
    }

    #[test]
    fn gzip_itself_reads_it() {
        let directory = tempfile::tempdir().expect("temp dir");
        let file = directory.path().join("a.gz");
        fs_err::write(&file, gzip(&sample(2 * BLOCK + 5), 999, 2)).expect("writes");
        let status = std::process::Command::new("gzip").arg("-t").arg(&file).status().expect("runs");
        assert!(status.success());
    }
}
