//! From facts and a policy to decisions: pure, so that a dry run is the same code as a run.

use std::fmt;

use serde::Serialize;

use crate::content::ErrorClass;
use crate::oci::Digest;

/// What a place has of one package at one platform.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Local {
    /// The name is unknown, or names nothing for this platform.
    Absent,
    /// The name has a manifest for this platform, but some of its content is missing.
    Incomplete,
    /// The image is there, whole.
    Complete(Digest),
}

/// What the registry has of one package at one platform.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Remote {
    /// It was not asked.
    NotAsked,
    /// It is known not to have the tag.
    Absent,
    /// It has the tag, but not this platform.
    Incomplete,
    /// It has the image.
    Complete(Digest),
    /// It could not be told; never the same as absent.
    Unknown(ErrorClass),
}

/// Whether the package's files are what a commit says.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Source {
    /// As committed.
    Clean,
    /// Changed since.
    Dirty,
}

/// All that a decision depends on, for one unit.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Facts {
    /// What the cache has.
    pub local: Local,
    /// What the registry has.
    pub remote: Remote,
    /// Whether the files are as committed.
    pub source: Source,
}

/// When to build.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum Build {
    /// What is found nowhere.
    #[default]
    IfMissing,
    /// Everything.
    Always,
    /// Nothing.
    Never,
}

/// What an image in the registry is good for.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum RemoteUse {
    /// Nothing: the registry is not asked.
    Ignore,
    /// It need not be built.
    #[default]
    Trust,
    /// It need not be built, and is wanted in the cache.
    Fetch,
}

/// What to do when a registry cannot be asked.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum OnUnknown {
    /// Stop: an outage must not start hours of building.
    #[default]
    Refuse,
    /// Build as if it had nothing.
    Build,
}

/// Whether results leave this machine.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub enum Publish {
    /// They stay in the cache.
    #[default]
    No,
    /// They are pushed under their tag.
    Push,
    /// They are pushed under their tag and then named by these, too.
    Release(Vec<crate::oci::Tag>),
}

/// What the user asked for, for all units alike.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Policy {
    /// When to build.
    pub build: Build,
    /// What an image in the registry is good for.
    pub remote: RemoteUse,
    /// What to do when a registry cannot be asked.
    pub on_unknown: OnUnknown,
    /// Whether results leave this machine.
    pub publish: Publish,
}

/// Why a unit is built.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum BuildReason {
    /// The user asked to build everything.
    Forced,
    /// Neither the cache nor the registry, as far as it was asked, has the tag.
    NotFound,
    /// The cache has only part of it, and the registry does not have it.
    CacheIncomplete,
    /// The registry has the tag, but not for this platform.
    PlatformMissing,
    /// The registry could not be asked, and the policy says to build then.
    RegistryUnknown,
}

/// Why a unit is neither used, pulled nor built.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Refusal {
    /// What is not committed cannot be published.
    Dirty,
    /// The registry could not be asked.
    RegistryUnknown(#[serde(skip)] ErrorClass),
    /// It is found nowhere, and building is forbidden.
    BuildForbidden,
}

/// What is done with a unit.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Decision {
    /// The cache's image is taken.
    UseLocal(Digest),
    /// The registry's image is taken as it is and stays there.
    UseRemote(Digest),
    /// The registry's image is copied to the cache.
    Pull(Digest),
    /// It is built.
    Build(BuildReason),
    /// Nothing can be done.
    Refuse(Refusal),
}

/// Returns what to do with a unit.
///
/// Rows are tried from the top; `·` matches anything.
///
/// | publish | source | build | local | remote use | remote | decision |
/// |---|---|---|---|---|---|---|
/// | push, release | dirty | · | · | · | · | refuse: dirty |
/// | · | · | always | · | · | · | build: forced |
/// | · | · | · | complete | · | · | use local |
/// | · | · | · | · | trust | complete | use remote |
/// | · | · | · | · | fetch | complete | pull |
/// | · | · | never | · | trust, fetch | unknown | refuse: registry unknown |
/// | · | · | never | · | · | · | refuse: build forbidden |
/// | · | · | if missing | · | trust, fetch | unknown | `on_unknown`: refuse or build, registry unknown |
/// | · | · | if missing | incomplete | · | · | build: cache incomplete |
/// | · | · | if missing | absent | trust, fetch | incomplete | build: platform missing |
/// | · | · | if missing | absent | · | · | build: not found |
///
/// With [`RemoteUse::Ignore`] whatever `facts.remote` says is not looked at.
pub fn decide(facts: &Facts, policy: &Policy) -> Decision {
    if facts.source == Source::Dirty && policy.publish != Publish::No {
        return Decision::Refuse(Refusal::Dirty);
    }
    if policy.build == Build::Always {
        return Decision::Build(BuildReason::Forced);
    }
    if let Local::Complete(digest) = facts.local {
        return Decision::UseLocal(digest);
    }
    let remote = if policy.remote == RemoteUse::Ignore { Remote::NotAsked } else { facts.remote };
    match (policy.build, remote, facts.local) {
        (_, Remote::Complete(digest), _) if policy.remote == RemoteUse::Fetch => Decision::Pull(digest),
        (_, Remote::Complete(digest), _) => Decision::UseRemote(digest),
        (Build::IfMissing, Remote::Unknown(_), _) if policy.on_unknown == OnUnknown::Build => {
            Decision::Build(BuildReason::RegistryUnknown)
        }
        (_, Remote::Unknown(class), _) => Decision::Refuse(Refusal::RegistryUnknown(class)),
        (Build::Never, _, _) => Decision::Refuse(Refusal::BuildForbidden),
        (_, _, Local::Incomplete) => Decision::Build(BuildReason::CacheIncomplete),
        (_, Remote::Incomplete, _) => Decision::Build(BuildReason::PlatformMissing),
        _ => Decision::Build(BuildReason::NotFound),
    }
}

impl Policy {
    /// Returns whether the registry must be asked at all, given what the cache has.
    pub fn asks_registry(&self, local: Local) -> bool {
        self.build != Build::Always && self.remote != RemoteUse::Ignore && !matches!(local, Local::Complete(_))
    }
}

impl Decision {
    /// Returns the decision in one word, as machines read it.
    pub fn word(&self) -> &'static str {
        match self {
            Self::UseLocal(_) => "use-local",
            Self::UseRemote(_) => "use-remote",
            Self::Pull(_) => "pull",
            Self::Build(_) => "build",
            Self::Refuse(_) => "refuse",
        }
    }

    /// Returns whether carrying it out changes anything.
    pub fn is_work(&self) -> bool {
        matches!(self, Self::Pull(_) | Self::Build(_))
    }

    /// Returns why, as a phrase for people.
    pub fn reason(&self) -> &'static str {
        match self {
            Self::UseLocal(_) => "in the cache",
            Self::UseRemote(_) | Self::Pull(_) => "in the registry",
            Self::Build(reason) => match reason {
                BuildReason::Forced => "building was asked for",
                BuildReason::NotFound => "not found",
                BuildReason::CacheIncomplete => "only part of it is in the cache",
                BuildReason::PlatformMissing => "the registry has the tag, but not for this platform",
                BuildReason::RegistryUnknown => "the registry cannot be asked",
            },
            Self::Refuse(refusal) => match refusal {
                Refusal::Dirty => "it has changes that are not committed, so it cannot be published",
                Refusal::RegistryUnknown(_) => "the registry cannot be asked whether it has it",
                Refusal::BuildForbidden => "it is found nowhere, and building is forbidden",
            },
        }
    }
}

impl fmt::Display for Decision {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let word = match self {
            Self::UseLocal(_) | Self::UseRemote(_) => "use",
            Self::Pull(_) => "pull",
            Self::Build(_) => "build",
            Self::Refuse(_) => "refuse",
        };
        write!(f, "{word}: {}", self.reason())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The table above `decide` as text, one line for each row, in its order.
    const TABLE: &str = "
        push,release  dirty  ·         ·          ·            ·           refuse-dirty
        ·             ·      always    ·          ·            ·           build-forced
        ·             ·      ·         complete   ·            ·           use-local
        ·             ·      ·         ·          trust        complete    use-remote
        ·             ·      ·         ·          fetch        complete    pull
        ·             ·      never     ·          trust,fetch  unknown     refuse-unknown
        ·             ·      never     ·          ·            ·           refuse-forbidden
        ·             ·      ifmissing ·          trust,fetch  unknown     unknown-policy
        ·             ·      ifmissing incomplete ·            ·           build-cache-incomplete
        ·             ·      ifmissing absent     trust,fetch  incomplete  build-platform-missing
        ·             ·      ifmissing absent     ·            ·           build-not-found";

    fn expected(words: &[&str; 6]) -> &'static str {
        TABLE
            .lines()
            .map(|row| row.split_whitespace().collect::<Vec<_>>())
            .find(|row| {
                row.len() == 7 && row.iter().zip(words).all(|(cell, word)| *cell == "·" || cell.split(',').any(|c| c == *word))
            })
            .expect("some row matches every input")[6]
    }

    fn name(decision: Decision, facts: &Facts) -> &'static str {
        match decision {
            Decision::UseLocal(d) => {
                assert_eq!(facts.local, Local::Complete(d));
                "use-local"
            }
            Decision::UseRemote(d) => {
                assert_eq!(facts.remote, Remote::Complete(d));
                "use-remote"
            }
            Decision::Pull(d) => {
                assert_eq!(facts.remote, Remote::Complete(d));
                "pull"
            }
            Decision::Build(BuildReason::Forced) => "build-forced",
            Decision::Build(BuildReason::NotFound) => "build-not-found",
            Decision::Build(BuildReason::CacheIncomplete) => "build-cache-incomplete",
            Decision::Build(BuildReason::PlatformMissing) => "build-platform-missing",
            Decision::Build(BuildReason::RegistryUnknown) => "build-unknown",
            Decision::Refuse(Refusal::Dirty) => "refuse-dirty",
            Decision::Refuse(Refusal::RegistryUnknown(_)) => "refuse-unknown",
            Decision::Refuse(Refusal::BuildForbidden) => "refuse-forbidden",
        }
    }

    #[test]
    fn every_input_is_decided_as_the_table_says() {
        let (ours, theirs) = (Digest::of(b"local"), Digest::of(b"remote"));
        let locals = [("absent", Local::Absent), ("incomplete", Local::Incomplete), ("complete", Local::Complete(ours))];
        let remotes = [
            ("notasked", Remote::NotAsked),
            ("absent", Remote::Absent),
            ("incomplete", Remote::Incomplete),
            ("complete", Remote::Complete(theirs)),
            ("unknown", Remote::Unknown(ErrorClass::Retryable)),
            ("unknown", Remote::Unknown(ErrorClass::Denied)),
        ];
        let builds = [("ifmissing", Build::IfMissing), ("always", Build::Always), ("never", Build::Never)];
        let uses = [("ignore", RemoteUse::Ignore), ("trust", RemoteUse::Trust), ("fetch", RemoteUse::Fetch)];
        let release = Publish::Release(vec!["v1".parse().expect("a tag")]);
        let publishes = [("no", Publish::No), ("push", Publish::Push), ("release", release)];
        let mut seen = 0;
        for (local_word, local) in locals {
            for (remote_word, remote) in remotes {
                for (source_word, source) in [("clean", Source::Clean), ("dirty", Source::Dirty)] {
                    for (build_word, build) in builds {
                        for (use_word, remote_use) in uses {
                            for (publish_word, publish) in publishes.clone() {
                                for on_unknown in [OnUnknown::Refuse, OnUnknown::Build] {
                                    let facts = Facts { local, remote, source };
                                    let policy = Policy { build, remote: remote_use, on_unknown, publish: publish.clone() };
                                    let words = [publish_word, source_word, build_word, local_word, use_word, remote_word];
                                    let wanted = match (expected(&words), on_unknown) {
                                        ("unknown-policy", OnUnknown::Refuse) => "refuse-unknown",
                                        ("unknown-policy", OnUnknown::Build) => "build-unknown",
                                        (other, _) => other,
                                    };
                                    assert_eq!(name(decide(&facts, &policy), &facts), wanted, "{words:?} {on_unknown:?}");
                                    seen += 1;
                                }
                            }
                        }
                    }
                }
            }
        }
        assert_eq!(seen, 3 * 6 * 2 * 3 * 3 * 3 * 2);
    }

    #[test]
    fn the_registry_is_asked_only_when_its_answer_can_matter() {
        let policy = Policy::default();
        assert!(policy.asks_registry(Local::Absent) && policy.asks_registry(Local::Incomplete));
        assert!(!policy.asks_registry(Local::Complete(Digest::of(b""))));
        assert!(!Policy { build: Build::Always, ..Policy::default() }.asks_registry(Local::Absent));
        assert!(!Policy { remote: RemoteUse::Ignore, ..Policy::default() }.asks_registry(Local::Absent));
    }
}
