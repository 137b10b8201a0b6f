//! Looks for values in files and texts.

use std::fmt;
use std::fs::File;
use std::io::{self, Read};
use std::os::fd::AsFd;
use std::path::Path;

use aho_corasick::AhoCorasick;
use rustix::fs::{CWD, Mode, OFlags};

use super::{Form, Mask, SHORTEST_FOUND, base64_forms, significant};
use crate::builder::embedded::parallel;
use crate::builder::embedded::snapshot::upper::open_beneath;
use crate::builder::embedded::tree::{Change, ChangeList, Kind};
use crate::builder::secret::Secret;

/// How much of a longer value is looked for: its beginning gives it away.
const LONGEST: usize = 4096;

/// How much of a file is looked at in one go.
const PIECE: usize = 256 << 10;

/// Finds values of secrets.
pub(in crate::builder::embedded) struct Finder {
    ids: Vec<String>,
    secrets: Vec<Secret>,
    plain: Texts,
    base64: Texts,
}

/// Several texts, looked for at once.
struct Texts {
    automaton: AhoCorasick,
    /// For each text the number of its secret.
    owners: Vec<usize>,
    longest: usize,
}

/// Where in a layer a value was found.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(in crate::builder::embedded) enum Place {
    /// In a file's data.
    Content,
    /// In the path itself.
    Name,
    /// In what a symbolic link points to.
    LinkTarget,
    /// In an extended attribute.
    Attribute,
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Content => "the file",
            Self::Name => "the name",
            Self::LinkTarget => "the target of the link",
            Self::Attribute => "an attribute of",
        })
    }
}

/// A value where it must not be, or why that cannot be told.
#[derive(Debug, thiserror::Error)]
pub(in crate::builder::embedded) enum LeakError {
    /// A step wrote a value into its layer.
    #[error("{place} `/{path}` in the step's layer holds the value of the secret `{id}`{}", .form.note())]
    Layer {
        /// Where in the layer.
        place: Place,
        /// The path, without values.
        path: String,
        /// The secret.
        id: String,
        /// How it is written there.
        form: FoundForm,
    },
    /// The Dockerfile or an argument has a value in a text that is kept.
    #[error("{place} holds the value of the secret `{id}`{}", .form.note())]
    Text {
        /// What holds it.
        place: &'static str,
        /// The secret.
        id: String,
        /// How it is written there.
        form: FoundForm,
    },
    /// A file cannot be looked at.
    #[error(transparent)]
    Io(#[from] io::Error),
}

/// How a value that was found is written.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(in crate::builder::embedded) struct FoundForm(Form);

impl FoundForm {
    fn note(self) -> &'static str {
        match self.0 {
            Form::Plain => "",
            Form::Base64 => ", in base64",
        }
    }
}

impl Finder {
    /// Returns what finds the values of `secrets`, or `None` when none of them is long enough to be looked for.
    pub(in crate::builder::embedded) fn new<'a>(secrets: impl IntoIterator<Item = (&'a str, &'a Secret)>) -> Option<Self> {
        let known: Vec<(&str, &Secret)> =
            secrets.into_iter().filter(|(_, secret)| significant(secret).len() >= SHORTEST_FOUND).collect();
        if known.is_empty() {
            return None;
        }
        let beginning = |secret: &Secret| {
            let value = significant(secret);
            value[..value.len().min(LONGEST)].to_vec()
        };
        let plain = known.iter().enumerate().map(|(owner, (_, secret))| (owner, beginning(secret)));
        let base64 = known
            .iter()
            .enumerate()
            .flat_map(|(owner, (_, secret))| base64_forms(&beginning(secret)).into_iter().map(move |form| (owner, form)));
        Some(Self {
            plain: Texts::new(plain.collect()),
            base64: Texts::new(base64.collect()),
            ids: known.iter().map(|(id, _)| (*id).to_owned()).collect(),
            secrets: known.iter().map(|(_, secret)| (*secret).clone()).collect(),
        })
    }

    fn found(&self, form: Form, owner: usize) -> (String, FoundForm) {
        (self.ids[owner].clone(), FoundForm(form))
    }

    fn in_bytes(&self, bytes: &[u8]) -> Option<(String, FoundForm)> {
        let plain = self.plain.find(bytes).map(|owner| self.found(Form::Plain, owner));
        plain.or_else(|| self.base64.find(&unbroken(bytes)).map(|owner| self.found(Form::Base64, owner)))
    }

    fn in_stream(&self, mut stream: impl Read) -> io::Result<Option<(String, FoundForm)>> {
        let mut piece = vec![0; PIECE];
        // Ends of the pieces before, in which a text may have begun.
        let (mut plain, mut base64) = (Vec::new(), Vec::new());
        loop {
            let count = match stream.read(&mut piece) {
                Ok(0) => return Ok(None),
                Ok(count) => count,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                Err(error) => return Err(error),
            };
            if let Some(owner) = self.plain.find_next(&mut plain, &piece[..count]) {
                return Ok(Some(self.found(Form::Plain, owner)));
            }
            if let Some(owner) = self.base64.find_next(&mut base64, &unbroken(&piece[..count])) {
                return Ok(Some(self.found(Form::Base64, owner)));
            }
        }
    }

    /// Looks at everything that a layer changes: names, contents, targets of links, attributes. `root` is the directory
    /// that holds the files.
    ///
    /// # Errors
    /// The first value that is found, or when a file cannot be read.
    pub(in crate::builder::embedded) fn check_layer(&self, root: &Path, changes: &ChangeList) -> Result<(), LeakError> {
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let root = rustix::fs::openat(CWD, root, flags, Mode::empty()).map_err(io::Error::from)?;
        let leak = |place, path: &[u8], (id, form)| {
            let clean = Mask::new(&self.secrets).clean(path);
            LeakError::Layer { place, path: String::from_utf8_lossy(&clean).into_owned(), id, form }
        };
        let mut files = Vec::new();
        for (path, change) in changes.iter() {
            if let Some(found) = self.in_bytes(path) {
                return Err(leak(Place::Name, path, found));
            }
            let Change::Put(entry) = change else { continue };
            match &entry.kind {
                Kind::File { size, .. } if *size >= SHORTEST_FOUND as u64 => files.push(path),
                Kind::Symlink { target } => {
                    if let Some(found) = self.in_bytes(target) {
                        return Err(leak(Place::LinkTarget, path, found));
                    }
                }
                _ => {}
            }
            for (name, value) in &entry.xattrs {
                if let Some(found) = self.in_bytes(name).or_else(|| self.in_bytes(value)) {
                    return Err(leak(Place::Attribute, path, found));
                }
            }
        }
        parallel::map(&files, |path| {
            let file = open_beneath(root.as_fd(), path, OFlags::RDONLY | OFlags::NONBLOCK)?;
            match self.in_stream(File::from(file))? {
                Some(found) => Err(leak(Place::Content, path, found)),
                None => Ok(()),
            }
        })
        .map(drop)
    }

    /// Looks at every text of a JSON document; `place` is what it is called.
    ///
    /// # Errors
    /// The first value that is found.
    pub(in crate::builder::embedded) fn check_json(
        &self,
        place: &'static str,
        document: &serde_json::Value,
    ) -> Result<(), LeakError> {
        match document {
            serde_json::Value::String(text) => self.check_text(place, text),
            serde_json::Value::Array(items) => items.iter().try_for_each(|item| self.check_json(place, item)),
            serde_json::Value::Object(entries) => entries
                .iter()
                .try_for_each(|(key, value)| self.check_text(place, key).and_then(|()| self.check_json(place, value))),
            _ => Ok(()),
        }
    }

    /// Looks at one text; `place` is what it is called.
    ///
    /// # Errors
    /// The first value that is found.
    pub(in crate::builder::embedded) fn check_text(&self, place: &'static str, text: &str) -> Result<(), LeakError> {
        match self.in_bytes(text.as_bytes()) {
            Some((id, form)) => Err(LeakError::Text { place, id, form }),
            None => Ok(()),
        }
    }
}

/// Returns `bytes` without line breaks, which tools put into base64.
fn unbroken(bytes: &[u8]) -> Vec<u8> {
    bytes.iter().copied().filter(|byte| !matches!(byte, b'\r' | b'\n')).collect()
}

impl Texts {
    fn new(texts: Vec<(usize, Vec<u8>)>) -> Self {
        let automaton = AhoCorasick::new(texts.iter().map(|(_, text)| text)).expect("some thousand bytes fit an automaton");
        let longest = texts.iter().map(|(_, text)| text.len()).max().unwrap_or(0);
        Self { automaton, owners: texts.into_iter().map(|(owner, _)| owner).collect(), longest }
    }

    /// Returns the owner of a text in `bytes`.
    fn find(&self, bytes: &[u8]) -> Option<usize> {
        self.automaton.find(bytes).map(|found| self.owners[found.pattern().as_usize()])
    }

    /// Looks into the next piece of a stream, of which `rest` is kept from call to call.
    fn find_next(&self, rest: &mut Vec<u8>, piece: &[u8]) -> Option<usize> {
        rest.extend_from_slice(piece);
        let found = self.find(rest);
        let keep = rest.len().min(self.longest.saturating_sub(1));
        rest.drain(..rest.len() - keep);
        found
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use base64::Engine as _;
    use base64::engine::general_purpose::{STANDARD, URL_SAFE};

    fn finder(values: &[(&str, &[u8])]) -> Finder {
        let secrets: Vec<(&str, Secret)> = values.iter().map(|(id, value)| (*id, Secret::copy(value).expect("memory"))).collect();
        Finder::new(secrets.iter().map(|(id, secret)| (*id, secret))).expect("something to look for")
    }

    /// A reader that gives its bytes in pieces of one size.
    struct Pieces<'a>(&'a [u8], usize);

    impl Read for Pieces<'_> {
        fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
            let count = self.1.min(self.0.len()).min(buffer.len());
            buffer[..count].copy_from_slice(&self.0[..count]);
            self.0 = &self.0[count..];
            Ok(count)
        }
    }

    #[test]
    fn a_value_is_found_wherever_a_stream_is_cut_and_whatever_form_it_has() {
        let value = b"correct horse battery staple \xff\xfe";
        let finder = finder(&[("other", b"something else"), ("pass", value)]);
        for before in 0..4 {
            let plain = [&vec![b'.'; 1000 + before][..], value, b"..."].concat();
            let lines = |text: String| text.as_bytes().chunks(11).collect::<Vec<_>>().join(&b'\n');
            for text in
                [plain.clone(), STANDARD.encode(&plain).into(), URL_SAFE.encode(&plain).into(), lines(STANDARD.encode(&plain))]
            {
                for size in [1, 7, 100, PIECE] {
                    let found = finder.in_stream(Pieces(&text, size)).expect("reads").expect("found");
                    assert_eq!(found.0, "pass");
                }
            }
        }
        assert!(finder.in_stream(&b"correct horse battery stapl"[..]).expect("reads").is_none());
    }

    #[test]
    fn a_long_value_is_found_by_its_beginning() {
        let value: Vec<u8> = (0..20_000u32).flat_map(|number| number.to_le_bytes()).collect();
        let finder = finder(&[("long", &value)]);
        assert!(finder.in_bytes(&[b"x", &value[..]].concat()).is_some());
    }

    #[test]
    fn short_values_are_not_looked_for() {
        let secret = Secret::copy(b" 1234567\n").expect("memory");
        assert!(Finder::new([("pin", &secret)]).is_none());
    }

    #[test]
    fn every_text_of_a_document_is_looked_at() {
        let finder = finder(&[("t", b"tok\"en-value")]);
        for document in [r#"{"a": ["x", {"tok\"en-value": 1}]}"#, r#"{"a": "A=tok\"en-value"}"#] {
            let document: serde_json::Value = serde_json::from_str(document).expect("JSON");
            let error = finder.check_json("the config", &document).expect_err("found").to_string();
            assert_eq!(error, "the config holds the value of the secret `t`");
        }
        assert!(finder.check_json("x", &serde_json::json!({"a": [1, null, "token-value"]})).is_ok());
    }
}
