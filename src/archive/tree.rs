//! The file tree that a stack of layers makes: which member of which layer each path comes from in the end.
//!
//! Follows the OCI image-spec, "Image Layer Filesystem Changeset": whiteouts hide what lower layers have, whatever the order
//! of members in their own layer; a directory over a directory keeps what is below; anything else replaces. Parents that are
//! links are followed inside the root, as the engines do.

use std::collections::BTreeMap;

use tar::EntryType;

use super::members::shown;
use super::{ArchiveError, Member};

/// A member of a layer: the layer's number from the bottom, and the member's in it.
pub(super) type Origin = (u32, u32);

/// The tree; nodes live in one list and refer to each other by number.
pub(super) struct Tree {
    nodes: Vec<Node>,
}

struct Node {
    parent: usize,
    depth: usize,
    name: Vec<u8>,
    /// The last layer that wrote the path itself.
    layer: u32,
    kind: Kind,
}

enum Kind {
    /// `Some` metadata when a member describes it, `None` when it only had to be there for something below.
    Directory {
        children: BTreeMap<Vec<u8>, usize>,
        member: Option<Box<Member>>,
    },
    Symlink {
        target: Vec<u8>,
        origin: Origin,
    },
    /// Anything else; paths of the same origin are hard links to one another.
    File {
        origin: Origin,
    },
}

const ROOT: usize = 0;
/// Most symbolic links that are followed in one path, as in Linux.
const LINKS: usize = 40;
/// Deepest path; one of Linux's 4 KiB cannot be deeper, and recursion over the tree stays within the stack.
const DEPTH: usize = 2048;
const WHITEOUT: &[u8] = b".wh.";
const OPAQUE: &[u8] = b".wh..wh..opq";
/// What aufs kept for itself, and old layers still hold.
const AUFS: &[u8] = b".wh..wh.";

impl Tree {
    pub(super) fn new() -> Self {
        let kind = Kind::Directory { children: BTreeMap::new(), member: None };
        Self { nodes: vec![Node { parent: ROOT, depth: 0, name: Vec::new(), layer: 0, kind }] }
    }

    /// Applies one member of a layer. Layers come from the bottom up.
    ///
    /// # Errors
    /// [`ArchiveError::Refused`] for a hard link to nothing.
    pub(super) fn apply(&mut self, origin: Origin, member: &Member) -> Result<(), ArchiveError> {
        let parts = clean(&member.path);
        let Some((name, parents)) = parts.split_last() else {
            if member.kind == EntryType::Directory {
                self.describe(ROOT, origin.0, member);
            }
            return Ok(());
        };
        if *name == OPAQUE {
            if let Some(directory) = self.find_directory(parents) {
                self.hide_children(directory, origin.0);
            }
        } else if let Some(hidden) = name.strip_prefix(WHITEOUT) {
            if !name.starts_with(AUFS)
                && let Some(directory) = self.find_directory(parents)
            {
                self.hide(directory, hidden, origin.0);
            }
        } else {
            let directory = self.make_directory(parents, origin.0).ok_or_else(|| too_deep(member))?;
            self.put(directory, name, origin, member)?;
        }
        Ok(())
    }

    fn put(&mut self, directory: usize, name: &[u8], origin: Origin, member: &Member) -> Result<(), ArchiveError> {
        let kind = match member.kind {
            EntryType::Directory => match self.child(directory, name) {
                Some(there) if self.is_directory(there) => {
                    self.describe(there, origin.0, member);
                    return Ok(());
                }
                _ => Kind::Directory { children: BTreeMap::new(), member: Some(Box::new(member.clone())) },
            },
            EntryType::Symlink => Kind::Symlink { target: member.link.clone(), origin },
            EntryType::Link => {
                let reason = "it is a hard link to nothing";
                self.link_target(&member.link).ok_or_else(|| ArchiveError::Refused { path: shown(&member.path), reason })?
            }
            _ => Kind::File { origin },
        };
        self.insert(directory, name, origin.0, kind).map(drop).ok_or_else(|| too_deep(member))
    }

    fn link_target(&self, path: &[u8]) -> Option<Kind> {
        let parts = clean(path);
        let (name, parents) = parts.split_last()?;
        match &self.nodes[self.child(self.find_directory(parents)?, name)?].kind {
            Kind::Directory { .. } => None,
            Kind::Symlink { target, origin } => Some(Kind::Symlink { target: target.clone(), origin: *origin }),
            Kind::File { origin } => Some(Kind::File { origin: *origin }),
        }
    }

    /// Returns the new node, or `None` when it would be too deep.
    fn insert(&mut self, directory: usize, name: &[u8], layer: u32, kind: Kind) -> Option<usize> {
        let (node, depth) = (self.nodes.len(), self.nodes[directory].depth + 1);
        if depth > DEPTH {
            return None;
        }
        self.nodes.push(Node { parent: directory, depth, name: name.to_vec(), layer, kind });
        self.children_mut(directory).insert(name.to_vec(), node);
        Some(node)
    }

    fn describe(&mut self, directory: usize, layer: u32, described: &Member) {
        let node = &mut self.nodes[directory];
        node.layer = layer;
        if let Kind::Directory { member, .. } = &mut node.kind {
            *member = Some(Box::new(described.clone()));
        }
    }

    /// Hides `name` as lower layers have it; what `layer` itself wrote there or below stays.
    fn hide(&mut self, directory: usize, name: &[u8], layer: u32) {
        let Some(node) = self.child(directory, name) else { return };
        if self.is_directory(node) {
            self.hide_children(node, layer);
        }
        let empty = !matches!(&self.nodes[node].kind, Kind::Directory { children, .. } if !children.is_empty());
        if self.nodes[node].layer < layer && empty {
            self.children_mut(directory).remove(name);
        } else if self.nodes[node].layer < layer
            && let Kind::Directory { member, .. } = &mut self.nodes[node].kind
        {
            *member = None;
        }
    }

    fn hide_children(&mut self, directory: usize, layer: u32) {
        let names: Vec<Vec<u8>> = self.children(directory).keys().cloned().collect();
        for name in names {
            self.hide(directory, &name, layer);
        }
    }

    /// Follows `parts` as far as they exist and returns the directory there and what is left, the next part last.
    fn follow(&self, parts: &[&[u8]]) -> (usize, Vec<Vec<u8>>) {
        let mut left: Vec<Vec<u8>> = parts.iter().rev().map(|part| part.to_vec()).collect();
        let (mut at, mut links) = (ROOT, LINKS);
        while let Some(part) = left.pop() {
            if part == b".." {
                at = self.nodes[at].parent;
                continue;
            }
            match self.child(at, &part).map(|child| (child, &self.nodes[child].kind)) {
                Some((child, Kind::Directory { .. })) => at = child,
                Some((_, Kind::Symlink { target, .. })) if links > 0 => {
                    links -= 1;
                    at = if target.starts_with(b"/") { ROOT } else { at };
                    let steps = target.split(|b| *b == b'/').filter(|part| !matches!(*part, b"" | b"."));
                    left.extend(steps.rev().map(<[u8]>::to_vec));
                }
                _ => {
                    left.push(part);
                    break;
                }
            }
        }
        (at, left)
    }

    fn find_directory(&self, parts: &[&[u8]]) -> Option<usize> {
        let (at, left) = self.follow(parts);
        left.is_empty().then_some(at)
    }

    /// Returns the directory `parts`, made where it is missing; a file in the way gives way.
    fn make_directory(&mut self, parts: &[&[u8]], layer: u32) -> Option<usize> {
        let (mut at, mut left) = self.follow(parts);
        while let Some(part) = left.pop() {
            at = match &part[..] {
                b".." => self.nodes[at].parent,
                name => match self.child(at, name).filter(|child| self.is_directory(*child)) {
                    Some(child) => child,
                    None => self.insert(at, name, layer, Kind::Directory { children: BTreeMap::new(), member: None })?,
                },
            };
        }
        Some(at)
    }

    fn child(&self, directory: usize, name: &[u8]) -> Option<usize> {
        self.children(directory).get(name).copied()
    }

    fn is_directory(&self, node: usize) -> bool {
        matches!(self.nodes[node].kind, Kind::Directory { .. })
    }

    fn children(&self, directory: usize) -> &BTreeMap<Vec<u8>, usize> {
        match &self.nodes[directory].kind {
            Kind::Directory { children, .. } => children,
            _ => unreachable!("only directories are asked for their children"),
        }
    }
    fn children_mut(&mut self, directory: usize) -> &mut BTreeMap<Vec<u8>, usize> {
        match &mut self.nodes[directory].kind {
            Kind::Directory { children, .. } => children,
            _ => unreachable!("only directories are given children"),
        }
    }

    fn path(&self, mut node: usize) -> Vec<u8> {
        let mut names = Vec::new();
        while node != ROOT {
            names.push(&self.nodes[node].name[..]);
            node = self.nodes[node].parent;
        }
        names.reverse();
        names.join(&b'/')
    }

    /// Takes the tree apart: the directories that a member describes, parents first, and for each member that is still
    /// there the paths it has, all sorted.
    pub(super) fn into_plan(mut self) -> Plan {
        let (mut directories, mut files) = (Vec::new(), BTreeMap::<Origin, Vec<Vec<u8>>>::new());
        let mut pending = vec![ROOT];
        while let Some(node) = pending.pop() {
            let path = self.path(node);
            match &mut self.nodes[node].kind {
                Kind::Directory { children, member } => {
                    pending.extend(children.values().rev());
                    directories.extend(member.take().map(|member| (path, member)));
                }
                Kind::Symlink { origin, .. } | Kind::File { origin } => files.entry(*origin).or_default().push(path),
            }
        }
        Plan { directories, files }
    }
}

/// What is to be written.
pub(super) struct Plan {
    pub(super) directories: Vec<(Vec<u8>, Box<Member>)>,
    pub(super) files: BTreeMap<Origin, Vec<Vec<u8>>>,
}

fn too_deep(member: &Member) -> ArchiveError {
    ArchiveError::Refused { path: shown(&member.path), reason: "its path is too deep" }
}

/// Returns the parts of a member's path, `.` and `..` worked out inside the root.
fn clean(path: &[u8]) -> Vec<&[u8]> {
    let mut parts = Vec::new();
    for part in path.split(|b| *b == b'/') {
        match part {
            b"" | b"." => {}
            b".." => drop(parts.pop()),
            part => parts.push(part),
        }
    }
    parts
}
