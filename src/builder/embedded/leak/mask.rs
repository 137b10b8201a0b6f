//! Takes values out of a stream: what a step prints, before anything else sees it.

use super::{Form, SHORTEST_FOUND, SHORTEST_MASKED, base64_forms, significant};
use crate::builder::secret::Secret;

/// What stands in place of a value.
const HIDDEN: &[u8] = b"***";

/// Replaces values in bytes that come in pieces of any size. Holds back only what may be the beginning of a value.
pub(in crate::builder::embedded) struct Mask {
    matchers: Vec<Matcher>,
    /// What was not passed on yet, and whether it is part of a value.
    held: Vec<(u8, bool)>,
    /// Whether what was passed on last was hidden.
    hiding: bool,
}

/// Finds one text in a stream (Knuth, Morris, Pratt).
struct Matcher {
    text: Vec<u8>,
    /// For each length that matched: the longest shorter one that then matches, too.
    shorter: Vec<usize>,
    matched: usize,
    form: Form,
}

impl Mask {
    /// Returns a mask for the values of `secrets`, their single lines, and both in base64.
    pub(in crate::builder::embedded) fn new<'a>(secrets: impl IntoIterator<Item = &'a Secret>) -> Self {
        let mut texts: Vec<(Form, Vec<u8>)> = Vec::new();
        for secret in secrets {
            let value = significant(secret);
            if value.len() >= SHORTEST_MASKED {
                texts.push((Form::Plain, value.to_vec()));
            }
            let lines = value.split(|byte| *byte == b'\n').map(<[u8]>::trim_ascii);
            texts.extend(lines.filter(|line| line.len() >= SHORTEST_FOUND).map(|line| (Form::Plain, line.to_vec())));
            if value.len() >= SHORTEST_FOUND {
                texts.extend(base64_forms(value).into_iter().map(|text| (Form::Base64, text)));
            }
        }
        texts.sort();
        texts.dedup();
        let matchers = texts.into_iter().map(|(form, text)| Matcher::new(text, form)).collect();
        Self { matchers, held: Vec::new(), hiding: false }
    }

    /// Takes the next bytes and passes on what is known to be no value.
    pub(in crate::builder::embedded) fn push(&mut self, bytes: &[u8], pass: &mut dyn FnMut(&[u8])) {
        if self.matchers.is_empty() {
            return pass(bytes);
        }
        for byte in bytes {
            self.held.push((*byte, false));
            for matcher in &mut self.matchers {
                if matcher.step(*byte) {
                    let start = matcher.start(matcher.text.len(), &self.held);
                    self.held[start..].iter_mut().for_each(|(_, hidden)| *hidden = true);
                }
            }
        }
        let first_open = self.matchers.iter().map(|matcher| matcher.start(matcher.matched, &self.held)).min();
        self.pass(first_open.unwrap_or(self.held.len()), pass);
    }

    /// Passes on what is left: no value was completed.
    pub(in crate::builder::embedded) fn finish(&mut self, pass: &mut dyn FnMut(&[u8])) {
        self.pass(self.held.len(), pass);
        self.matchers.iter_mut().for_each(|matcher| matcher.matched = 0);
    }

    /// Returns `text` without the values.
    pub(in crate::builder::embedded) fn clean(&mut self, text: &[u8]) -> Vec<u8> {
        let mut clean = Vec::with_capacity(text.len());
        self.push(text, &mut |bytes| clean.extend_from_slice(bytes));
        self.finish(&mut |bytes| clean.extend_from_slice(bytes));
        clean
    }

    fn pass(&mut self, count: usize, pass: &mut dyn FnMut(&[u8])) {
        let mut shown = Vec::with_capacity(count);
        for (byte, hidden) in self.held.drain(..count) {
            match (hidden, self.hiding) {
                (false, _) => shown.push(byte),
                (true, false) => shown.extend_from_slice(HIDDEN),
                (true, true) => {}
            }
            self.hiding = hidden;
        }
        if !shown.is_empty() {
            pass(&shown);
        }
    }
}

impl Matcher {
    fn new(text: Vec<u8>, form: Form) -> Self {
        let mut shorter = vec![0; text.len() + 1];
        let mut length = 0;
        for at in 1..text.len() {
            while length > 0 && text[length] != text[at] {
                length = shorter[length];
            }
            length += usize::from(text[length] == text[at]);
            shorter[at + 1] = length;
        }
        Self { text, shorter, matched: 0, form }
    }

    /// Takes a byte; returns whether it completes the text.
    fn step(&mut self, byte: u8) -> bool {
        if self.skips(byte) {
            return false;
        }
        while self.matched > 0 && (self.matched == self.text.len() || self.text[self.matched] != byte) {
            self.matched = self.shorter[self.matched];
        }
        self.matched += usize::from(self.text[self.matched] == byte);
        self.matched == self.text.len()
    }

    /// Tools break lines of base64.
    fn skips(&self, byte: u8) -> bool {
        self.form == Form::Base64 && matches!(byte, b'\r' | b'\n')
    }

    /// Returns where in `held` the last `count` bytes begin that this text is made of.
    fn start(&self, count: usize, held: &[(u8, bool)]) -> usize {
        if count == 0 {
            return held.len();
        }
        let counted = held.iter().enumerate().rev().filter(|(_, (byte, _))| !self.skips(*byte));
        counted.take(count).last().map_or(held.len(), |(at, _)| at)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use base64::Engine as _;
    use base64::engine::general_purpose::STANDARD;
    use proptest::prelude::*;

    fn mask(values: &[&str]) -> Mask {
        let secrets: Vec<Secret> = values.iter().map(|value| Secret::copy(value.as_bytes()).expect("memory")).collect();
        Mask::new(&secrets)
    }

    fn clean(values: &[&str], text: &str) -> String {
        String::from_utf8(mask(values).clean(text.as_bytes())).expect("text")
    }

    #[test]
    fn values_are_replaced_wherever_they_stand() {
        assert_eq!(
            clean(&["hunter2!"], "the password is hunter2!, hunter2!hunter2! and hunter2"),
            "the password is ***, *** and hunter2"
        );
        assert_eq!(clean(&["aabaac"], "aabaabaac aabaa"), "aab*** aabaa");
        assert_eq!(clean(&["abcdef", "cdefgh"], "-abcdefgh-"), "-***-");
        assert_eq!(clean(&["  hunter2!\n"], "[hunter2!]"), "[***]", "blanks around a value do not count");
        assert_eq!(clean(&["abc", "", "\n"], "abc"), "abc", "what is too short is left");
    }

    #[test]
    fn single_lines_of_a_value_are_replaced_too() {
        assert_eq!(clean(&["machine a\nlogin bob\npassword s3cret\n"], "password s3cret\n"), "***\n");
    }

    #[test]
    fn base64_is_replaced_at_every_shift_and_across_line_breaks() {
        let value = "a value that is long enough to be broken into several lines by tools that do";
        for before in ["", "x", "xy"] {
            let text = STANDARD.encode(format!("{before}{value}zz"));
            let broken: Vec<String> = text.as_bytes().chunks(20).map(|line| String::from_utf8_lossy(line).into_owned()).collect();
            for text in [text, broken.join("\n"), broken.join("\r\n")] {
                let shown = clean(&[value], &text);
                assert!(shown.contains("***") && shown.len() < 12, "{shown}");
            }
        }
    }

    #[test]
    fn what_cannot_be_a_value_is_passed_on_at_once() {
        let (mut mask, mut seen) = (mask(&["hunter2!"]), Vec::new());
        mask.push(b"compiling hun", &mut |bytes| seen.extend_from_slice(bytes));
        assert_eq!(seen, b"compiling ");
        mask.push(b"g", &mut |bytes| seen.extend_from_slice(bytes));
        assert_eq!(seen, b"compiling hung");
        mask.push(b"hunt", &mut |bytes| seen.extend_from_slice(bytes));
        mask.finish(&mut |bytes| seen.extend_from_slice(bytes));
        assert_eq!(seen, b"compiling hunghunt");
    }

    proptest! {
        #[test]
        fn no_value_is_ever_passed_on_however_the_stream_is_cut(
            value in "[ab]{4,9}",
            pieces in prop::collection::vec("[abc]{0,7}", 0..12),
        ) {
            let (mut mask, mut seen) = (mask(&[&value]), Vec::new());
            for piece in &pieces {
                mask.push(piece.as_bytes(), &mut |bytes| seen.extend_from_slice(bytes));
            }
            mask.finish(&mut |bytes| seen.extend_from_slice(bytes));
            let shown = String::from_utf8(seen).expect("text");
            prop_assert!(!shown.contains(&value), "{}", shown);
            // Nothing else is lost: what is left stands in the text in this order.
            let whole = pieces.concat();
            let mut rest = &whole[..];
            for part in shown.split("***") {
                let at = rest.find(part);
                prop_assert!(at.is_some(), "{} of {}", shown, whole);
                rest = &rest[at.expect("checked") + part.len()..];
            }
            prop_assert_eq!(whole.contains(&value), shown.contains("***"));
        }
    }
}
