//! `--target`, `--build-context` and `--no-cache-filter`: what differs from what Dockerfiles say by themselves.

use std::collections::BTreeMap;

use super::args::{Overrides, VariationArgs};
use super::error::Failure;
use super::settings::Settings;
use crate::builder::{NamedContext, Variation};
use crate::oci::Reference;

/// Returns what the flags say.
///
/// A tag says what the files of a package are. Another stage, or other files and images in place of those that its
/// Dockerfile names, make another image, which must be called something else.
///
/// # Errors
/// When a context is none, or the image would have a name that promises another one.
pub(super) fn variation(args: &VariationArgs, overrides: &Overrides, settings: &Settings) -> Result<Variation, Failure> {
    let mut contexts = BTreeMap::new();
    for text in &args.build_context {
        let (name, context) = context(text, settings)?;
        contexts.insert(name, context);
    }
    let uncached_stages = args.no_cache_filter.iter().filter(|stage| !stage.is_empty()).cloned().collect();
    let variation = Variation { target: args.target.clone(), contexts, uncached_stages };
    let named = overrides.dev || overrides.hash.is_some() || overrides.tag.is_some();
    if variation.is_another_image() && !named {
        let flag = if variation.target.is_some() { "--target" } else { "--build-context" };
        return Err(Failure::Usage {
            message: format!("{flag} makes another image than the package's tag stands for"),
            hint: Some("call it something else, for example with --tag 'debug-{{.Hash}}', or with --dev".to_owned()),
        });
    }
    Ok(variation)
}

fn context(text: &str, settings: &Settings) -> Result<(String, NamedContext), Failure> {
    let (name, value) = match text.split_once('=') {
        Some((name, value)) if !name.is_empty() && !value.is_empty() => (name, value),
        _ => return Err(Failure::usage(format!("`{text}` of --build-context is not of the form NAME=CONTEXT"))),
    };
    if name.eq_ignore_ascii_case("scratch") || name.eq_ignore_ascii_case("context") {
        return Err(Failure::usage(format!("--build-context cannot give `{name}` another meaning")));
    }
    if let Some(reference) = value.strip_prefix("docker-image://") {
        let parsed = reference.parse::<Reference>();
        parsed.map_err(|error| Failure::usage(format!("--build-context {name}: {error}")))?;
        return Ok((name.to_owned(), NamedContext::Image(reference.to_owned())));
    }
    let hint = if value.starts_with("oci-layout://") {
        "put the image into the cache with `pkgbuild cache import`, and name it docker-image://…"
    } else {
        "a directory, or docker-image:// and an image"
    };
    let is_other = value.contains("://") || value.starts_with("target:") || value.starts_with("git@");
    if is_other {
        let message = format!("--build-context {name}: this version takes no `{value}`");
        return Err(Failure::Usage { message, hint: Some(hint.to_owned()) });
    }
    let path = settings.path(std::path::Path::new(value));
    let found = fs_err::metadata(&path).map_err(|source| Failure::File { action: "read", path: path.clone(), source })?;
    if !found.is_dir() {
        let message = format!("--build-context {name}: `{value}` is no directory");
        return Err(Failure::Usage { message, hint: Some(hint.to_owned()) });
    }
    Ok((name.to_owned(), NamedContext::Directory(path)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::settings::Surroundings;

    fn settings(directory: &std::path::Path) -> Settings {
        let around =
            Surroundings { environment: [("HOME", "/")].into(), directory: directory.to_owned(), ..Surroundings::default() };
        Settings::resolve(&Default::default(), &around).expect("settings")
    }

    fn read(contexts: &[&str], overrides: &Overrides, settings: &Settings) -> Result<Variation, Failure> {
        let build_context = contexts.iter().map(|text| (*text).to_owned()).collect();
        variation(&VariationArgs { build_context, ..VariationArgs::default() }, overrides, settings)
    }

    #[test]
    fn a_context_is_a_directory_or_an_image() {
        let directory = tempfile::tempdir().expect("temp dir");
        let settings = settings(directory.path());
        fs_err::create_dir(directory.path().join("d")).expect("makes");
        fs_err::write(directory.path().join("f"), "").expect("writes");
        let dev = Overrides { dev: true, ..Overrides::default() };
        let variation = read(&["a=d", "b:1=docker-image://alpine:3", "c=d=e"], &dev, &settings);
        assert!(variation.is_err(), "`d=e` is not there");
        let variation = read(&["a=d", "b:1=docker-image://alpine:3"], &dev, &settings).expect("contexts");
        assert_eq!(variation.contexts["a"], NamedContext::Directory(directory.path().join("d")));
        assert_eq!(variation.contexts["b:1"], NamedContext::Image("alpine:3".to_owned()));
        for bad in [
            "a",
            "=d",
            "a=",
            "a=f",
            "a=none",
            "a=docker-image://",
            "a=https://x/y.git",
            "a=oci-layout://d",
            "a=target:x",
            "Scratch=d",
            "context=d",
        ] {
            assert!(read(&[bad], &dev, &settings).is_err(), "{bad}");
        }
    }

    #[test]
    fn another_image_needs_another_name() {
        let directory = tempfile::tempdir().expect("temp dir");
        let settings = settings(directory.path());
        let plain = Overrides::default();
        assert!(read(&["a=docker-image://b"], &plain, &settings).is_err());
        let target = |overrides: &Overrides| {
            let args = VariationArgs { target: Some("debug".to_owned()), ..VariationArgs::default() };
            variation(&args, overrides, &settings)
        };
        assert!(target(&plain).is_err());
        for named in [
            Overrides { dev: true, ..Overrides::default() },
            Overrides { hash: Some("x".to_owned()), ..Overrides::default() },
            Overrides { tag: Some("debug-{{.Hash}}".to_owned()), ..Overrides::default() },
        ] {
            assert_eq!(target(&named).expect("named").target.as_deref(), Some("debug"));
        }
        let args = VariationArgs { no_cache_filter: vec!["one".to_owned()], ..VariationArgs::default() };
        assert!(!variation(&args, &plain, &settings).expect("the same image").is_another_image());
    }
}
