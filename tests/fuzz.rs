//! Inputs that the fuzzers kept, and changes of them: no reader of bytes that others wrote panics or breaks its rules.

#[path = "../fuzz/targets.rs"]
mod targets;

use std::path::Path;

/// A small generator, so that every run tries the same.
struct Dice(u64);

impl Dice {
    fn roll(&mut self, below: usize) -> usize {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        usize::try_from(self.0 % below.max(1) as u64).expect("below a usize")
    }
}

/// Returns the kept inputs of a target, sorted by name.
fn kept(target: &str) -> Vec<Vec<u8>> {
    let directory = Path::new(env!("CARGO_MANIFEST_DIR")).join("fuzz/corpus").join(target);
    let entries = std::fs::read_dir(&directory).unwrap_or_else(|error| panic!("{}: {error}", directory.display()));
    let mut paths: Vec<_> = entries.map(|entry| entry.expect("an entry").path()).collect();
    paths.sort();
    assert!(!paths.is_empty(), "{target} has inputs");
    paths.iter().map(|path| std::fs::read(path).expect("reads")).collect()
}

/// Returns a change of one input, perhaps with a part of another.
fn changed(input: &[u8], other: &[u8], dice: &mut Dice) -> Vec<u8> {
    let mut bytes = input.to_vec();
    for _ in 0..=dice.roll(4) {
        let at = dice.roll(bytes.len() + 1);
        match dice.roll(6) {
            0 if at < bytes.len() => bytes[at] ^= 1 << dice.roll(8),
            1 if at < bytes.len() => bytes[at] = b"\0 $\"'\\\n/{}=#.:<~\xff"[dice.roll(17)],
            2 => bytes.truncate(at),
            3 => drop(bytes.drain(at..(at + dice.roll(16)).min(bytes.len()))),
            4 => {
                let from = dice.roll(other.len() + 1);
                let part = other[from..(from + dice.roll(64)).min(other.len())].to_vec();
                bytes.splice(at..at, part);
            }
            _ => {
                let part = bytes[at..(at + dice.roll(32)).min(bytes.len())].to_vec();
                bytes.splice(at..at, part);
            }
        }
    }
    bytes
}

fn replay(target: &str, run: fn(&[u8]), changes: usize) {
    let inputs = kept(target);
    let mut dice = Dice(0x9e37_79b9_7f4a_7c15);
    for input in &inputs {
        run(input);
    }
    for _ in 0..changes {
        let (one, other) = (dice.roll(inputs.len()), dice.roll(inputs.len()));
        run(&changed(&inputs[one], &inputs[other], &mut dice));
    }
}

#[test]
fn dockerfiles_of_any_bytes_are_read_and_checked() {
    replay("dockerfile", targets::dockerfile, 1000);
}

#[test]
fn words_of_any_bytes_are_expanded() {
    replay("expand", targets::expand, 2000);
}

#[test]
fn ignore_files_of_any_bytes_decide_about_paths() {
    replay("ignore", targets::ignore, 2000);
}

#[test]
fn layers_of_any_bytes_are_unpacked_inside() {
    replay("untar", targets::untar, 300);
}

#[test]
fn documents_and_names_of_any_bytes_are_read() {
    replay("documents", targets::documents, 5000);
}

#[test]
fn build_files_of_any_bytes_are_read() {
    replay("build_yml", targets::build_yml, 1000);
}
