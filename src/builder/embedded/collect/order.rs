//! When each layer was used last, counting what lies on top of it.
//!
//! A record says: on the files `parent`, `layer` gives the files `tree`. So the layers below a step are found by walking
//! from trees to the records that made them. A layer was used when the youngest thing above it was, and of equally young
//! ones the upper go first: what is left of a chain is then always its lower part, which later builds can go on from.

use std::collections::{HashMap, VecDeque};
use std::time::SystemTime;

/// One record.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) struct Link {
    /// Position of its layer.
    pub(super) layer: usize,
    /// The files with the layer.
    pub(super) tree: String,
    /// The files without it.
    pub(super) parent: String,
    /// When it, or its layer, was used last.
    pub(super) used: SystemTime,
}

/// When a layer was used last.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub(super) struct LastUse {
    /// The time.
    pub(super) at: SystemTime,
    /// How many layers lie between it and what was used then. Of equal times the smaller goes first.
    pub(super) distance: usize,
}

/// Returns the last use of each of `count` layers, `None` for those that nothing leads to. `held` are whole stacks of layers,
/// lowest first, with when they were used.
pub(super) fn last_uses(count: usize, links: &[Link], held: &[(SystemTime, Vec<usize>)]) -> Vec<Option<LastUse>> {
    let mut made: HashMap<&str, Vec<usize>> = HashMap::new();
    for (number, link) in links.iter().enumerate() {
        made.entry(&link.tree).or_default().push(number);
    }
    let mut order: Vec<usize> = (0..links.len()).collect();
    order.sort_by_key(|number| std::cmp::Reverse(links[*number].used));
    let mut last: Vec<Option<LastUse>> = vec![None; count];
    let mut seen = vec![false; links.len()];
    // Youngest first, so that the first visit of a link is by the youngest thing above it.
    for source in order {
        let at = links[source].used;
        let mut pending = VecDeque::from([(source, 0)]);
        while let Some((number, distance)) = pending.pop_front() {
            if std::mem::replace(&mut seen[number], true) {
                continue;
            }
            let layer = &mut last[links[number].layer];
            *layer = (*layer).max(Some(LastUse { at, distance }));
            let below = made.get(links[number].parent.as_str()).into_iter().flatten();
            pending.extend(below.map(|below| (*below, distance + 1)));
        }
    }
    for (at, stack) in held {
        for (distance, layer) in stack.iter().rev().enumerate() {
            last[*layer] = last[*layer].max(Some(LastUse { at: *at, distance: distance + 1 }));
        }
    }
    last
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    fn at(seconds: u64) -> SystemTime {
        SystemTime::UNIX_EPOCH + Duration::from_secs(seconds)
    }

    fn link(layer: usize, parent: &str, tree: &str, used: u64) -> Link {
        Link { layer, tree: tree.to_owned(), parent: parent.to_owned(), used: at(used) }
    }

    fn order(count: usize, links: &[Link]) -> Vec<usize> {
        let last = last_uses(count, links, &[]);
        let mut order: Vec<usize> = (0..count).filter(|layer| last[*layer].is_some()).collect();
        order.sort_by_key(|layer| last[*layer]);
        order
    }

    #[test]
    fn what_lies_on_top_goes_before_what_it_lies_on() {
        // One chain, whose lower records were read first.
        assert_eq!(order(3, &[link(0, "", "a", 1), link(1, "a", "b", 2), link(2, "b", "c", 3)]), [2, 1, 0]);
        // Whatever was used last.
        assert_eq!(order(3, &[link(0, "", "a", 3), link(1, "a", "b", 2), link(2, "b", "c", 1)]), [2, 1, 0]);
    }

    #[test]
    fn a_layer_is_as_young_as_the_youngest_on_top_of_it() {
        let links = [link(0, "", "a", 1), link(1, "a", "b", 2), link(2, "a", "c", 9), link(3, "", "d", 5)];
        // 1 is old and on top; 3 is in between; 2 is the youngest and 0 is under it.
        assert_eq!(order(4, &links), [1, 3, 2, 0]);
        assert_eq!(last_uses(4, &links, &[])[0], Some(LastUse { at: at(9), distance: 1 }));
    }

    #[test]
    fn trees_that_lead_in_circles_end() {
        let links = [link(0, "a", "b", 1), link(1, "b", "a", 2), link(2, "a", "a", 3)];
        assert_eq!(order(3, &links).len(), 3);
    }

    #[test]
    fn what_nothing_leads_to_has_no_last_use_unless_it_is_held() {
        let last = last_uses(3, &[link(0, "", "a", 1)], &[(at(7), vec![0, 2])]);
        assert_eq!(last[1], None);
        assert_eq!(last[0], Some(LastUse { at: at(7), distance: 2 }));
        assert_eq!(last[2], Some(LastUse { at: at(7), distance: 1 }));
    }
}
