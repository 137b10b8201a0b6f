//! Assembling and joining indexes: pure, and the same children always give the same bytes.

use std::collections::BTreeSet;

use crate::builder::BuiltImage;
use crate::oci::{Descriptor, Digest, Index, Platform};

/// The annotation of an attestation that says what it is about, as BuildKit writes it.
const SUBJECT: &str = "vnd.docker.reference.digest";

/// Returns the index that lists `images`, sorted by platform, each followed by what attests to it. Of two images for one
/// platform the first is listed.
pub fn assemble(images: &[BuiltImage]) -> Index {
    let mut images: Vec<&BuiltImage> = images.iter().collect();
    images.sort_by(|a, b| order(&a.manifest).cmp(&order(&b.manifest)));
    images.dedup_by(|b, a| a.manifest.platform == b.manifest.platform);
    let mut children = Vec::new();
    for image in images {
        children.push(image.manifest.clone());
        let mut attestations = image.attestations.clone();
        attestations.sort_by_key(|attestation| attestation.digest);
        children.extend(attestations);
    }
    Index::new(children)
}

fn order(descriptor: &Descriptor) -> (Option<&Platform>, Digest) {
    (descriptor.platform.as_ref(), descriptor.digest)
}

/// Returns the images of `index`, each with what attests to it. Attestations about nothing that is listed, and children
/// that are neither, are left out.
pub fn images(index: &Index) -> Vec<BuiltImage> {
    let is_image = |child: &&Descriptor| !child.is_attestation() && child.platform.as_ref().is_some_and(|p| !p.is_unknown());
    let about = |digest: Digest| {
        let text = digest.to_string();
        move |child: &&Descriptor| child.is_attestation() && child.annotations.get(SUBJECT) == Some(&text)
    };
    index
        .manifests
        .iter()
        .filter(is_image)
        .map(|image| BuiltImage {
            manifest: image.clone(),
            attestations: index.manifests.iter().filter(about(image.digest)).cloned().collect(),
        })
        .collect()
}

/// Returns the index of `ours` and of those of `theirs` whose platforms we do not have; `None` when `theirs` has all of
/// ours already, and so stays as it is, whatever its order.
pub fn join(ours: &[BuiltImage], theirs: &Index) -> Option<Index> {
    let listed: BTreeSet<Digest> = theirs.manifests.iter().map(|child| child.digest).collect();
    let has = |image: &BuiltImage| {
        std::iter::once(&image.manifest).chain(&image.attestations).all(|child| listed.contains(&child.digest))
    };
    if ours.iter().all(has) {
        return None;
    }
    let covered = |platform: Option<&Platform>| ours.iter().any(|image| image.manifest.platform.as_ref() == platform);
    let others = images(theirs).into_iter().filter(|image| !covered(image.manifest.platform.as_ref()));
    let all: Vec<BuiltImage> = ours.iter().cloned().chain(others).collect();
    Some(assemble(&all))
}

/// Returns those of `wanted` that `index` has no image for.
pub fn missing(index: &Index, wanted: &[Platform]) -> Vec<Platform> {
    wanted.iter().filter(|platform| index.image_for(platform).is_none()).cloned().collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::oci::{MediaType, Raw};

    fn image(architecture: &str, content: &str) -> BuiltImage {
        let mut manifest = Descriptor::of(MediaType::MANIFEST, format!("{architecture}{content}").as_bytes());
        manifest.platform = Some(Platform::linux(architecture));
        BuiltImage { manifest, attestations: Vec::new() }
    }

    fn attested(mut image: BuiltImage) -> BuiltImage {
        let mut attestation = Descriptor::of(MediaType::MANIFEST, image.manifest.digest.to_string().as_bytes());
        attestation.annotations.insert("vnd.docker.reference.type".to_owned(), "attestation-manifest".to_owned());
        attestation.annotations.insert(SUBJECT.to_owned(), image.manifest.digest.to_string());
        attestation.platform = Some(Platform::new("unknown", "unknown", None));
        image.attestations.push(attestation);
        image
    }

    #[test]
    fn the_order_of_building_does_not_show() {
        let (a, b, c) = (image("amd64", "1"), attested(image("arm64", "1")), image("riscv64", "1"));
        let one = Raw::encode(assemble(&[a.clone(), b.clone(), c.clone()]));
        let two = Raw::encode(assemble(&[c.clone(), b.clone(), a.clone()]));
        assert_eq!(one.digest(), two.digest());
        let digests: Vec<Digest> = one.value().manifests.iter().map(|child| child.digest).collect();
        assert_eq!(digests, [a.manifest.digest, b.manifest.digest, b.attestations[0].digest, c.manifest.digest]);
        assert_eq!(images(one.value()), [a, b, c]);
    }

    #[test]
    fn an_index_is_written_as_linuxkit_writes_it() {
        let index = assemble(&[image("amd64", "")]);
        let digest = Digest::of(b"amd64");
        let expected = format!(
            r#"{{"schemaVersion":2,"mediaType":"application/vnd.oci.image.index.v1+json","manifests":[{{"mediaType":"application/vnd.oci.image.manifest.v1+json","size":5,"digest":"{digest}","platform":{{"architecture":"amd64","os":"linux"}}}}]}}"#
        );
        assert_eq!(Raw::encode(index).bytes(), expected.as_bytes());
    }

    #[test]
    fn joining_keeps_their_platforms_and_replaces_ours() {
        let theirs = assemble(&[attested(image("amd64", "old")), attested(image("arm64", "theirs"))]);
        let joined = join(&[image("amd64", "new")], &theirs).expect("something changed");
        assert_eq!(images(&joined), [image("amd64", "new"), attested(image("arm64", "theirs"))]);
        assert_eq!(joined.manifests.len(), 3, "the attestation of what was replaced is gone");
    }

    #[test]
    fn an_index_that_has_all_of_ours_is_left_alone_whatever_its_order() {
        let mut theirs = assemble(&[image("amd64", "1"), image("arm64", "1")]);
        theirs.manifests.reverse();
        assert_eq!(join(&[image("amd64", "1")], &theirs), None);
        assert_eq!(join(&[], &theirs), None);
    }

    #[test]
    fn whoever_joins_last_the_result_is_the_same() {
        let parts = [image("amd64", "1"), image("arm64", "1"), image("riscv64", "1")];
        let joined = |order: [usize; 3]| {
            order.iter().fold(Index::new(Vec::new()), |index, at| join(&parts[*at..=*at], &index).unwrap_or(index))
        };
        assert_eq!(joined([0, 1, 2]), joined([2, 1, 0]));
        assert_eq!(joined([0, 1, 2]), assemble(&parts));
    }
}
