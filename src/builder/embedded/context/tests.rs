//! Rules of the build context.
