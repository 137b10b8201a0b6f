//! What goes and what stays, for a limit: no files are touched here.

use std::collections::HashMap;

use super::inventory::{Inode, Item};
use super::{Fate, Go, Outcome, Stay, Thing};

/// Everything, with its fate.
pub(super) struct Chosen {
    pub(super) items: Vec<(Item, Fate)>,
    /// Positions of what goes, in the order in which it goes; then what may go when that cannot.
    pub(super) going: Vec<usize>,
    before: u64,
    after: u64,
    users: HashMap<Inode, usize>,
}

impl Chosen {
    /// Takes the item off the sum. Returns the bytes that this frees.
    fn take(&mut self, number: usize) -> u64 {
        let item = &self.items[number].0;
        let mut freed = item.own;
        for (inode, bytes) in &item.linked {
            let users = self.users.get_mut(inode).expect("every linked file was counted");
            *users -= 1;
            if *users == 0 {
                freed += bytes;
            }
        }
        self.after -= freed;
        freed
    }

    fn put_back(&mut self, number: usize) {
        let item = &self.items[number].0;
        let mut bytes = item.own;
        for (inode, size) in &item.linked {
            let users = self.users.get_mut(inode).expect("every linked file was counted");
            if *users == 0 {
                bytes += size;
            }
            *users += 1;
        }
        self.after += bytes;
    }

    /// Notes that an item stays although it was to go.
    pub(super) fn stays(&mut self, number: usize, why: Stay) {
        self.put_back(number);
        self.items[number].1 = Fate::Stays(why);
    }

    /// Notes that an item goes that was to stay.
    pub(super) fn goes(&mut self, number: usize) {
        self.take(number);
        self.items[number].1 = Fate::Goes(Go::LeastRecent);
    }

    /// Returns whether the limit holds.
    pub(super) fn holds(&self, limit: u64) -> bool {
        self.after <= limit
    }

    pub(super) fn outcome(self, limit: u64) -> Outcome {
        let mut position: HashMap<usize, usize> = HashMap::new();
        for (at, number) in self.going.iter().enumerate() {
            position.insert(*number, at);
        }
        let mut things: Vec<(usize, Thing)> = self
            .items
            .into_iter()
            .enumerate()
            .map(|(number, (item, fate))| {
                let at = match fate {
                    Fate::Goes(_) => position.get(&number).copied().unwrap_or_default(),
                    Fate::Stays(_) => usize::MAX,
                };
                let room = item.own + item.linked.iter().map(|(_, bytes)| bytes).sum::<u64>();
                (at, Thing { kind: item.kind, name: item.name, room, used: item.used, fate })
            })
            .collect();
        things.sort_by(|(a_at, a), (b_at, b)| (a_at, a.kind, &a.name).cmp(&(b_at, b.kind, &b.name)));
        let things = things.into_iter().map(|(_, thing)| thing).collect();
        Outcome { before: self.before, after: self.after, limit, things }
    }
}

/// Says for each item whether it goes: what nothing needs always, then what was used least recently while `total` bytes
/// less what went exceed `limit`.
pub(super) fn choose(items: Vec<Item>, total: u64, limit: u64) -> Chosen {
    let mut users: HashMap<Inode, usize> = HashMap::new();
    for (inode, _) in items.iter().flat_map(|item| &item.linked) {
        *users.entry(*inode).or_default() += 1;
    }
    let mut going: Vec<usize> = (0..items.len()).filter(|number| items[*number].hold.is_none()).collect();
    going.sort_by(|a, b| {
        let key = |item: &Item| (!item.unneeded, item.used, item.distance);
        let (a, b) = (&items[*a], &items[*b]);
        key(a).cmp(&key(b)).then_with(|| (a.kind, &a.name).cmp(&(b.kind, &b.name)))
    });
    let fated = |item: Item| {
        let fate = Fate::Stays(item.hold.clone().unwrap_or(Stay::Fits));
        (item, fate)
    };
    let items = items.into_iter().map(fated).collect();
    let mut chosen = Chosen { items, going: going.clone(), before: total, after: total, users };
    for number in going {
        let unneeded = chosen.items[number].0.unneeded;
        if unneeded || !chosen.holds(limit) {
            chosen.take(number);
            chosen.items[number].1 = Fate::Goes(if unneeded { Go::Unneeded } else { Go::LeastRecent });
        }
    }
    chosen
}
