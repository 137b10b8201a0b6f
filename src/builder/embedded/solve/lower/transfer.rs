//! `COPY` and `ADD`.

use crate::builder::embedded::copy::{ModeChange, ParentsSource, is_well_formed};
use crate::builder::embedded::image::join_directory;
use crate::builder::embedded::passwd;
use crate::builder::embedded::remote::{Flags, RemoteSource, is_remote, without_user};
use crate::builder::embedded::solve::op::{CopyFrom, CopyOperation, CopyPart, CopyWhat, Operation};
use crate::builder::embedded::solve::plan::Root;
use crate::dockerfile::instruction::{Add, Command, Copy, Transfer};
use crate::dockerfile::{Ignore, stages};

use super::{Lowering, Refusal, StageState, refuse, refuse_with, told};

impl Lowering<'_> {
    pub(super) fn copy(&self, copy: &Copy, step: &stages::Step, state: &StageState) -> Result<(Operation, Vec<Root>), Refusal> {
        for source in &copy.transfer.sources {
            if is_remote(source) {
                return refuse_with(format!("COPY takes no URL: `{}`", without_user(source)), "use ADD");
            }
        }
        let (from, inputs) = match step.inputs.first().and_then(Option::as_ref) {
            Some(input) => (CopyFrom::Input(0), vec![self.root(input)]),
            None => (CopyFrom::Context, Vec::new()),
        };
        if copy.transfer.sources.is_empty() {
            return Ok((self.transfer(&copy.transfer, Vec::new(), state)?, inputs));
        }
        let what = if copy.parents {
            let sources = copy.transfer.sources.iter().map(|source| ParentsSource::parse(source)).collect::<Result<_, _>>();
            CopyWhat::Parents { from, sources: sources.map_err(|error| told(&error))? }
        } else {
            CopyWhat::Patterns { from, patterns: copy.transfer.sources.clone() }
        };
        Ok((self.transfer(&copy.transfer, vec![CopyPart { what, unpack: false }], state)?, inputs))
    }

    pub(super) fn add(&mut self, add: &Add, state: &StageState) -> Result<(Operation, Vec<Root>), Refusal> {
        let sources = &add.transfer.sources;
        if add.checksum.is_some() && (sources.len() != 1 || !add.transfer.inline.is_empty() || !is_remote(&sources[0])) {
            return refuse("`--checksum` needs one source, which is a URL or a git repository");
        }
        let flags = Flags { checksum: add.checksum.as_deref(), keep_git_dir: add.keep_git_dir };
        let (mut parts, mut inputs) = (Vec::new(), Vec::new());
        // Neighbours of one kind are one part; the order counts, because later files replace earlier ones.
        for run in sources.chunk_by(|a, b| !is_remote(a) && !is_remote(b)) {
            let Some(source) = RemoteSource::parse(&run[0], flags).map_err(|error| told(&error))? else {
                let what = CopyWhat::Patterns { from: CopyFrom::Context, patterns: run.to_vec() };
                parts.push(CopyPart { what, unpack: add.unpack.unwrap_or(true) });
                continue;
            };
            let (pattern, unpack) = match &source {
                RemoteSource::Http(http) => (literal(&http.name), add.unpack.unwrap_or(false)),
                RemoteSource::Git(_) => ("/".to_owned(), false),
            };
            inputs.push(Root::Remote(self.remote(source)));
            let what = CopyWhat::Patterns { from: CopyFrom::Input(inputs.len() - 1), patterns: vec![pattern] };
            parts.push(CopyPart { what, unpack });
        }
        Ok((self.transfer(&add.transfer, parts, state)?, inputs))
    }

    /// Returns the number of a remote source, the same for the same.
    fn remote(&mut self, source: RemoteSource) -> usize {
        self.remotes.iter().position(|known| *known == source).unwrap_or_else(|| {
            self.remotes.push(source);
            self.remotes.len() - 1
        })
    }

    /// Returns the copy of `parts`, and of the instruction's heredocs.
    fn transfer(&self, transfer: &Transfer, mut parts: Vec<CopyPart>, state: &StageState) -> Result<Operation, Refusal> {
        if transfer.link
            && transfer.chmod.is_none()
            && let Some(owner) = transfer.chown.as_ref().filter(|owner| !passwd::is_numeric(owner))
        {
            let message = format!("`--link` does not look at the image, so `--chown={owner}` cannot be told");
            return refuse_with(message, "give numbers, or leave `--link` out");
        }
        if let Some(source) = transfer.sources.iter().find(|source| !is_well_formed(source.as_bytes())) {
            return refuse_with(format!("`{source}` is not a pattern: a `[` in it is never closed"), "`[[]` means a bracket");
        }
        let exclude = Ignore::from_patterns(transfer.exclude.iter().map(String::as_str));
        let exclude = exclude.map_err(|error| told(&error))?;
        if let Some(mode) = &transfer.chmod {
            ModeChange::parse(mode).map_err(|error| told(&error))?;
        }
        let mut inline = Vec::new();
        for file in &transfer.inline {
            if file.name.contains('/') || matches!(&file.name[..], "." | "..") {
                return refuse(format!("`{}` cannot be the name of a file", file.name));
            }
            inline.push((file.name.clone(), file.data.clone().into_bytes()));
        }
        if !inline.is_empty() {
            parts.push(CopyPart { what: CopyWhat::Inline(inline), unpack: false });
        }
        Ok(Operation::Copy(CopyOperation {
            parts,
            exclude,
            destination: destination(state.image.working_directory(), &transfer.destination),
            owner: transfer.chown.clone(),
            mode: transfer.chmod.clone(),
            date: self.request.source_date,
        }))
    }
}

/// Returns a destination with the working directory in front when it is relative; a slash at its end stays, and `.` is a
/// directory.
fn destination(directory: &str, path: &str) -> String {
    let joined = join_directory(directory, path);
    let is_directory = path.is_empty() || path.ends_with('/') || path == "." || path.ends_with("/.");
    if is_directory && joined != "/" { format!("{joined}/") } else { joined }
}

/// Returns a pattern that matches `name` and nothing else.
fn literal(name: &str) -> String {
    if !name.contains(['*', '?', '[']) {
        return name.to_owned();
    }
    let mut pattern = String::new();
    for character in name.chars() {
        match character {
            '*' | '?' | '[' => pattern.extend(['[', character, ']']),
            '\\' => pattern.push_str("\\\\"),
            other => pattern.push(other),
        }
    }
    pattern
}

/// Returns `command` as an image's history may tell it: without the users and passwords of addresses.
pub(super) fn shown(mut command: Command) -> Command {
    if let Command::Add(add) = &mut command {
        add.transfer.sources.iter_mut().for_each(|source| *source = without_user(source));
    }
    command
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_destination_is_absolute_and_keeps_the_slash_that_makes_it_a_directory() {
        for (directory, path, expected) in [
            ("/", "a", "/a"),
            ("/w", "a", "/w/a"),
            ("/w", "a/", "/w/a/"),
            ("/w", ".", "/w/"),
            ("/w", "./", "/w/"),
            ("/w", "/x/.", "/x/"),
            ("/w", "..", "/"),
            ("/w", "/", "/"),
            ("/", "", "/"),
        ] {
            assert_eq!(destination(directory, path), expected, "{directory} {path}");
        }
    }

    #[test]
    fn a_name_with_wildcards_matches_itself_only() {
        use crate::builder::embedded::copy::select;
        use crate::builder::embedded::tree::{Entry, Kind, Tree};
        let mut tree = Tree::default();
        let names = ["[x]*", "x", "xy", "a\\*b", "a?", "ab"];
        for name in names {
            let kind = Kind::File { size: 0, hash: blake3::hash(b"") };
            tree.put(name.as_bytes(), Entry { kind, ..Entry::directory(0o644, 0, 0, 0) }, 0);
        }
        for name in names {
            let selection = select(&tree, literal(name).as_bytes()).expect("no links");
            assert_eq!(selection.paths, [name.as_bytes().to_vec()]);
        }
    }
}
