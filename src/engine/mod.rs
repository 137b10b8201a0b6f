//! From packages to images, indexes and tags: facts, decisions, and the one loop that carries them out.

pub mod dispatch;
pub mod event;
pub mod plan;
