//! `cache gc`: making room.

use std::collections::BTreeMap;
use std::time::SystemTime;

use serde::Serialize;

use super::Context;
use super::cache::open_existing;
use crate::builder::embedded::collect::{Action, Fate, Kind, Limits, Outcome, Stay, Thing, collect};
use crate::cli::args::GcArgs;
use crate::cli::error::Failure;
use crate::cli::exit::Exit;
use crate::cli::output::counted;
use crate::report::{duration, size};
use crate::store::GRACE;
use crate::time::Timestamp;

pub(super) fn run(args: &GcArgs, context: &mut Context) -> Result<Exit, Failure> {
    let limits = Limits { max_size: args.max_size, min_free: args.min_free, keep: args.keep_duration.unwrap_or_default() };
    if args.keep_duration.is_some() && limits.max_size.is_none() && limits.min_free.is_none() {
        return Err(Failure::usage("--keep-duration means something only beside --max-size or --min-free"));
    }
    let action = if args.dry_run { Action::Look } else { Action::Delete };
    let outcome = match open_existing(context)? {
        Some(store) => collect(&store, &limits, GRACE, action)?,
        None => Outcome { before: 0, after: 0, limit: u64::MAX, things: Vec::new() },
    };
    let limited = limits.max_size.is_some() || limits.min_free.is_some();
    if args.json {
        print_json(&outcome, limited, action, context)?;
    } else {
        if args.explain {
            explain(&outcome, action, context)?;
        }
        summarize(&outcome, action, context)?;
    }
    exit(&outcome, context)
}

/// Prints a line for each thing: what becomes of it, what it is, how large, when it was used, why.
fn explain(outcome: &Outcome, action: Action, context: &mut Context) -> Result<(), Failure> {
    let now = SystemTime::now();
    let mut rows = Vec::with_capacity(outcome.things.len());
    for thing in &outcome.things {
        let (word, reason) = match &thing.fate {
            Fate::Goes(why) => (if action == Action::Look { "would go" } else { "deleted" }, why.reason().to_owned()),
            Fate::Stays(why) => ("stays", why.reason()),
        };
        let used = match thing.used {
            SystemTime::UNIX_EPOCH => String::new(),
            used => format!("{} ago", duration(now.duration_since(used).unwrap_or_default())),
        };
        let name = crate::report::printable(&thing.name);
        rows.push(vec![word.to_owned(), thing.kind.word().to_owned(), short(&name).to_owned(), size(thing.room), used, reason]);
    }
    context.out.table(&rows)?;
    Ok(())
}

/// Names of layers and records are hashes; twelve digits of those are enough to tell them apart.
fn short(name: &str) -> &str {
    match name.char_indices().nth(40) {
        Some(_) if !name.contains('/') => &name[..name.char_indices().nth(19).map_or(name.len(), |(at, _)| at)],
        _ => name,
    }
}

fn summarize(outcome: &Outcome, action: Action, context: &mut Context) -> Result<(), Failure> {
    let gone = sums(outcome, |fate| matches!(fate, Fate::Goes(_)));
    let blobs = gone.get(&Kind::Blob).copied().unwrap_or_default();
    let mut parts = vec![said(Kind::Blob, blobs)];
    parts.extend(gone.iter().filter(|(kind, _)| **kind != Kind::Blob).map(|(kind, sum)| said(*kind, *sum)));
    let word = if action == Action::Look { "would delete" } else { "deleted" };
    context.say(&format!("{word} {}", parts.join("; ")))?;
    let young = sums(outcome, |fate| *fate == Fate::Stays(Stay::Young)).get(&Kind::Blob).copied().unwrap_or_default();
    if young.0 > 0 {
        let (kept, minutes) = (counted(young.0, "blob"), GRACE.as_secs() / 60);
        let kept_bytes = size(young.1);
        context.say(&format!(
            "kept {kept}, {kept_bytes}, without a name: used in the last {minutes} minutes; `cache gc` deletes them later"
        ))?;
    }
    if outcome.limit != u64::MAX {
        let verb = if action == Action::Look { "would take" } else { "takes" };
        context.say(&format!("the cache {verb} {} of {}", size(outcome.after), size(outcome.limit)))?;
    }
    Ok(())
}

fn said(kind: Kind, (count, bytes): (usize, u64)) -> String {
    format!("{}, {}", counted_kind(kind, count), size(bytes))
}

fn counted_kind(kind: Kind, count: usize) -> String {
    match kind {
        Kind::FileHashes => counted(count, "context hash file"),
        Kind::Other => counted(count, "other thing"),
        kind => counted(count, kind.word()),
    }
}

fn sums(outcome: &Outcome, wanted: impl Fn(&Fate) -> bool) -> BTreeMap<Kind, (usize, u64)> {
    let mut sums: BTreeMap<Kind, (usize, u64)> = BTreeMap::new();
    for thing in outcome.things.iter().filter(|thing| wanted(&thing.fate)) {
        let sum = sums.entry(thing.kind).or_default();
        *sum = (sum.0 + 1, sum.1 + thing.room);
    }
    sums
}

/// Says what is in the way of the limit. What goes away by itself is worth another attempt; the rest is a rule's.
fn exit(outcome: &Outcome, context: &mut Context) -> Result<Exit, Failure> {
    let stays = |thing: &&Thing| matches!(&thing.fate, Fate::Stays(why) if *why != Stay::Fits);
    let mut failed = false;
    for thing in outcome.things.iter().filter(stays) {
        if let Fate::Stays(why @ Stay::Failed(_)) = &thing.fate {
            failed = true;
            context.notice(&format!("warning: {} {}: {}", thing.kind.word(), thing.name, why.reason()))?;
        }
    }
    if outcome.holds() {
        return Ok(if failed { Exit::Damaged } else { Exit::Done });
    }
    let (after, limit) = (size(outcome.after), size(outcome.limit));
    context.notice(&format!("error: the cache needs {after}, and the limit is {limit}: the rest cannot be deleted"))?;
    let mut reasons: BTreeMap<(&str, Kind), (usize, u64, String)> = BTreeMap::new();
    let mut passing = 0;
    for thing in outcome.things.iter().filter(stays) {
        let Fate::Stays(why) = &thing.fate else { continue };
        passing += if why.is_passing() { thing.room } else { 0 };
        let sum = reasons.entry((why.code(), thing.kind)).or_insert((0, 0, why.reason()));
        *sum = (sum.0 + 1, sum.1 + thing.room, sum.2.clone());
    }
    for ((_, kind), (count, bytes, reason)) in reasons {
        context.notice(&format!("  {}, {}: {reason}", counted_kind(kind, count), size(bytes)))?;
    }
    let missing = outcome.after - outcome.limit;
    Ok(if failed {
        Exit::Damaged
    } else if passing >= missing {
        Exit::Temporary
    } else {
        Exit::Refused
    })
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Document<'a> {
    dry_run: bool,
    before: u64,
    after: u64,
    limit: Option<u64>,
    holds: bool,
    things: Vec<ThingDocument<'a>>,
}

#[derive(Serialize)]
struct ThingDocument<'a> {
    kind: &'a str,
    name: &'a str,
    bytes: u64,
    used: Option<String>,
    goes: bool,
    reason: &'a str,
}

fn print_json(outcome: &Outcome, limited: bool, action: Action, context: &mut Context) -> Result<(), Failure> {
    let things = outcome.things.iter().map(|thing| ThingDocument {
        kind: thing.kind.word(),
        name: &thing.name,
        bytes: thing.room,
        used: (thing.used != SystemTime::UNIX_EPOCH).then(|| Timestamp::from(thing.used).rfc3339_millis()),
        goes: matches!(thing.fate, Fate::Goes(_)),
        reason: match &thing.fate {
            Fate::Goes(why) => why.code(),
            Fate::Stays(why) => why.code(),
        },
    });
    let document = Document {
        dry_run: action == Action::Look,
        before: outcome.before,
        after: outcome.after,
        limit: limited.then_some(outcome.limit).filter(|limit| *limit != u64::MAX),
        holds: outcome.holds(),
        things: things.collect(),
    };
    context.out.json("cache-gc", &document)?;
    Ok(())
}
