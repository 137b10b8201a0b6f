//! Rules of packing.
