//! What Dockerfiles mean, as data: each case of `cases/*.yml` is built by the embedded builder and by a real BuildKit, and
//! both must give what the case says. `docs/conformance.md` tells how a case is written.

#[path = "../embedded/fixture.rs"]
#[expect(dead_code, reason = "the conformance cases need a part of what the tests of the embedded builder need")]
mod fixture;
#[path = "../support/mod.rs"]
#[expect(dead_code, unused_imports, reason = "the conformance cases need a part of what the tests of the program need")]
mod support;

mod archive;
mod bases;
mod case;
mod context;
mod image;
mod judge;
mod listing;
mod reference;
mod topic;

/// Makes a test of each file of cases, and one that knows all of their names.
macro_rules! topics {
    ($($name:ident),* $(,)?) => {
        $(
            #[test]
            fn $name() {
                topic::run(stringify!($name));
            }
        )*

        #[test]
        fn every_file_of_cases_is_run_and_there_are_hundreds_of_cases_each_with_a_name_of_its_own() {
            topic::count(&[$(stringify!($name)),*]);
        }
    };
}

topics!(
    archives, arguments, attributes, copy, heredocs, ignore, linked, links, onbuild, owners, parents, patterns, places, settings,
    stages, steps,
);
