//! Where the values of secrets must not turn up: in what a step prints, in its layer, in the image's config.
//!
//! A value is looked for as it is, without the blanks and line breaks around it, and in base64, wherever in a longer
//! text it stands: that shifts it by zero, one or two bytes, so there are three forms of it for each of both alphabets.
//! Other forms (hexadecimal, compressed, encrypted, in parts) are not found.

mod mask;
mod scan;

use base64::Engine as _;
use base64::engine::general_purpose::{STANDARD_NO_PAD, URL_SAFE_NO_PAD};

use crate::builder::secret::Secret;

pub(super) use mask::Mask;
pub(super) use scan::{Finder, LeakError};

/// Shortest value that is looked for in files and configs: shorter ones turn up by chance.
const SHORTEST_FOUND: usize = 8;

/// Shortest value that is masked in what steps print.
const SHORTEST_MASKED: usize = 4;

/// How a value is written.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
enum Form {
    Plain,
    Base64,
}

/// Returns the part of the value that is looked for.
fn significant(secret: &Secret) -> &[u8] {
    secret.bytes().trim_ascii()
}

/// Returns whether a secret is too short to be looked for in files.
pub(super) fn is_too_short(secret: &Secret) -> bool {
    significant(secret).len() < SHORTEST_FOUND
}

/// Returns what every base64 text that encodes `value` somewhere in it contains, one text for each place and alphabet.
fn base64_forms(value: &[u8]) -> Vec<Vec<u8>> {
    let mut forms = Vec::new();
    // A character holds six bits; those that share bits with what stands before or behind are left out.
    for (shift, first) in [(0, 0), (1, 2), (2, 3)] {
        let shifted = [&[0; 2][..shift], value].concat();
        let end = shifted.len() * 8 / 6;
        for engine in [&STANDARD_NO_PAD, &URL_SAFE_NO_PAD] {
            let form = engine.encode(&shifted).as_bytes()[first..end].to_vec();
            if !forms.contains(&form) {
                forms.push(form);
            }
        }
    }
    forms
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn base64_of_any_text_around_a_value_contains_one_of_its_forms(
            before in prop::collection::vec(any::<u8>(), 0..20),
            value in prop::collection::vec(any::<u8>(), 8..40),
            after in prop::collection::vec(any::<u8>(), 0..20),
        ) {
            let forms = base64_forms(&value);
            let whole = [&before[..], &value, &after].concat();
            for engine in [&STANDARD_NO_PAD, &URL_SAFE_NO_PAD] {
                let text = engine.encode(&whole);
                prop_assert!(forms.iter().any(|form| text.as_bytes().windows(form.len()).any(|window| window == form)));
            }
        }
    }

    #[test]
    fn forms_are_long_enough_not_to_turn_up_by_chance() {
        for length in SHORTEST_FOUND..64 {
            let shortest = base64_forms(&vec![0xfb; length]).into_iter().map(|form| form.len()).min();
            assert!(shortest >= Some(10), "{length}: {shortest:?}");
        }
    }
}
