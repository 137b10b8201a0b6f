//! Rules of the differ.
