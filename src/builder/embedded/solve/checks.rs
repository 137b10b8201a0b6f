//! The checks of a Dockerfile: all of them for those who ask, and for a build their number.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use crate::builder::BuildRequest;
use crate::builder::embedded::base::BaseImage;
use crate::builder::embedded::sandbox::StepNetwork;
use crate::diagnostic::{Diagnostic, Diagnostics, nearest};
use crate::dockerfile::check::{ImageFacts, Surroundings, check};
use crate::dockerfile::stages::{ImageUse, StageOptions, Stages};
use crate::dockerfile::{Dockerfile, Ignore};

use super::lower::{self, Images};

/// Says what is wrong with a Dockerfile for the platform and arguments of `request`, and what builds and is hardly ever
/// meant, sorted by place. Reads nothing and asks nobody: about base images nothing is known, so what may be right because
/// of what they set is not called wrong.
pub(in crate::builder::embedded) fn lint(request: &BuildRequest, ignore: Option<&Ignore>) -> Vec<Diagnostic> {
    let dockerfile = match Dockerfile::parse(&request.dockerfile.path, &request.dockerfile.text) {
        Ok(dockerfile) => dockerfile,
        Err(Diagnostics(mistakes)) => return mistakes,
    };
    let options = super::stage_options(request);
    let nothing = BTreeMap::new();
    let surroundings = Surroundings { options: &options, ignore, images: &nothing, stages: None };
    let checked = check(&dockerfile, &surroundings);
    let (mut found, uncertain) = match checked {
        Ok(checked) => (checked.found, checked.uncertain),
        Err(Diagnostics(mistakes)) => (mistakes, BTreeSet::new()),
    };
    match Stages::resolve(&dockerfile, &options) {
        Err(Diagnostics(mistakes)) => found.extend(mistakes),
        Ok(stages) => {
            found.extend(stages.warnings.0.clone());
            let images: Images =
                stages.images.keys().map(|image| (image.clone(), Arc::new(BaseImage::unknown(image.platform.clone())))).collect();
            // What is a network here is one anywhere.
            if let Err(Diagnostics(mistakes)) = lower::lower(request, &dockerfile, &stages, &images, StepNetwork::Outbound) {
                let certain = |mistake: &Diagnostic| mistake.span.is_none_or(|span| !uncertain.contains(&span));
                found.extend(mistakes.into_iter().filter(certain));
            }
        }
    }
    let given = request.args.keys().map(String::as_str).filter(|name| !lower::PRESETS.contains(name));
    found.extend(dockerfile.unused_arguments(given).into_iter().map(|name| {
        let warning = Diagnostic::warning(&dockerfile.path, format!("no ARG declares the build argument `{name}`"));
        match nearest(name, dockerfile.declared_arguments()) {
            Some(near) => warning.help(format!("there is an ARG `{near}`")),
            None => warning,
        }
    }));
    found.sort_by(|a, b| (a.span, a.rule, &a.message).cmp(&(b.span, b.rule, &b.message)));
    found.dedup();
    found
}

/// Runs the checks for a build and returns its warning, if there is something to warn of. The ignore file is not known yet.
///
/// # Errors
/// What was found, where the Dockerfile calls it an error; a directive that cannot be read.
pub(super) fn warning(
    dockerfile: &Dockerfile,
    options: &StageOptions,
    stages: &Stages,
    images: &Images,
) -> Result<Option<String>, Diagnostics> {
    let facts: BTreeMap<ImageUse, ImageFacts> = images.iter().map(|(image, base)| (image.clone(), facts(base))).collect();
    let reachable = stages.stages.iter().map(|stage| stage.number).collect();
    let checked = check(dockerfile, &Surroundings { options, ignore: None, images: &facts, stages: Some(&reachable) })?;
    if checked.stops() {
        return Err(Diagnostics(checked.found));
    }
    let rules: BTreeSet<&str> = checked.found.iter().filter_map(|found| found.rule).collect();
    Ok((!rules.is_empty()).then(|| {
        let count = checked.found.iter().filter(|found| found.rule.is_some()).count();
        let rules = rules.into_iter().collect::<Vec<_>>().join(", ");
        let path = dockerfile.path.display();
        format!("{path}: checks found {count} place{}: {rules}; `pkgbuild lint` shows where", if count == 1 { "" } else { "s" })
    }))
}

fn facts(base: &BaseImage) -> ImageFacts {
    let config = &base.config.config;
    ImageFacts { environment: config.env.clone(), has_shell: !config.shell.is_empty() }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::builder::DockerfileSource;
    use crate::oci::Platform;

    fn linted(text: &str, args: &[&str]) -> Vec<String> {
        let dockerfile =
            DockerfileSource { path: "Dockerfile".into(), in_context: "Dockerfile".into(), text: text.as_bytes().into() };
        let request = BuildRequest {
            args: args.iter().map(|name| ((*name).to_owned(), String::new())).collect(),
            ..BuildRequest::new("test", Platform::linux("amd64"), dockerfile)
        };
        let line = |found: &Diagnostic| found.span.map_or(0, |span| span.line);
        lint(&request, None).iter().map(|found| format!("{}: {}", line(found), found.message)).collect()
    }

    #[test]
    fn what_is_refused_in_a_build_is_told_without_one() {
        for (line, message) in [
            ("RUN --security=insecure x", "`RUN --security=insecure`"),
            ("RUN --device=vendor/d x", "`RUN --device`"),
            ("RUN --network=host x", "`RUN --network=host`"),
            ("COPY --chmod=u+Q a b", "u+Q"),
            ("STOPSIGNAL SIGNOTHING", "is no signal"),
            ("EXPOSE x", "is no port"),
        ] {
            for base in ["scratch", "image"] {
                let found = linted(&format!("FROM {base}\n{line}\n"), &[]);
                assert!(
                    found.len() == 1 && found[0].starts_with("2: ") && found[0].contains(message),
                    "{base}, {line}: {found:?}"
                );
            }
        }
        let windows = linted("FROM --platform=windows/amd64 image AS windows\n", &[]);
        assert_eq!(windows, ["1: `windows/amd64` is no platform that this builder builds for"]);
    }

    #[test]
    fn what_a_base_image_may_make_right_is_not_called_wrong() {
        assert_eq!(linted("FROM image\nEXPOSE $PORT\n", &[]), [""; 0]);
        assert_eq!(linted("FROM scratch\nEXPOSE 1/$PROTOCOL:\n", &[]).len(), 1);
        assert_eq!(linted("FROM image\nENV port=$PORT\nEXPOSE $port\n", &[]), ["2: `$PORT` has no value here"]);
    }

    #[test]
    fn mistakes_warnings_and_checks_are_told_in_the_order_of_lines() {
        let found = linted(
            "FROM scratch AS build-amd64\nCMD a\nFROM build-${TARGETARCHE} AS x\nEXPOSE no\nFROM scratch\nCOPY --from=9 a b\n",
            &["NOBODY", "SOURCE"],
        );
        assert_eq!(
            found,
            [
                "0: no ARG declares the build argument `NOBODY`",
                "2: CMD goes through a shell",
                "3: `build-${TARGETARCHE}` is `build-` without arguments, and that is no image",
                "3: no ARG before the first FROM declares `TARGETARCHE`",
                "6: there is no stage 9: the Dockerfile has 3, counted from 0",
            ]
        );
    }
}
