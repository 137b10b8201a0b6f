//! What must hold against a real registry.

use tokio::io::AsyncReadExt;

use crate::content::{ContentSink, ContentSource, from_bytes, read_whole};
use crate::oci::{Descriptor, Manifest, MediaType, Raw, Reference};

use super::super::RemoteRepository;
use super::distribution::Distribution;
use super::{noise, repository};

fn reference(repository: &RemoteRepository, tag: &str) -> Reference {
    repository.name().with_tag(tag.parse().expect("a tag"))
}

fn image(config: &Descriptor, layers: &[Descriptor]) -> Raw<Manifest> {
    let text = serde_json::json!({
        "schemaVersion": 2, "mediaType": MediaType::MANIFEST, "config": config, "layers": layers,
    });
    Raw::parse(text.to_string().into()).expect("a manifest")
}

/// Pushes an image of one layer and lets `tag` name it, as the engine does.
async fn push_image(repository: &RemoteRepository, tag: &str, layer: &[u8]) -> Descriptor {
    let config = b"{\"architecture\":\"amd64\",\"os\":\"linux\",\"rootfs\":{\"type\":\"layers\",\"diff_ids\":[]}}";
    let contents = [(MediaType::CONFIG, &config[..]), (MediaType::LAYER_TAR, layer)];
    let mut children = Vec::new();
    for (media_type, bytes) in contents {
        let descriptor = Descriptor::of(media_type, bytes);
        if !repository.contains(&descriptor).await.expect("known") {
            repository.put(&descriptor, from_bytes(bytes.to_vec().into())).await.expect("stored");
        }
        children.push(descriptor);
    }
    let manifest = image(&children[0], &children[1..]);
    let root = manifest.descriptor(MediaType::MANIFEST);
    repository.put(&root, from_bytes(manifest.bytes().clone())).await.expect("stored");
    repository.tag(&reference(repository, tag), &root).await.expect("tagged");
    root
}

#[tokio::test]
async fn what_was_pushed_is_pulled_byte_for_byte() {
    let server = Distribution::start();
    let layer = noise(1, 3 << 20);
    let root = push_image(&repository(&server.host(), "a/b"), "1.0", &layer).await;

    let fresh = repository(&server.host(), "a/b");
    assert_eq!(fresh.resolve(&reference(&fresh, "1.0")).await.expect("known"), Some(root.clone()));
    assert_eq!(fresh.resolve(&reference(&fresh, "2.0")).await.expect("known"), None);
    assert_eq!(repository(&server.host(), "no/such").resolve(&reference(&fresh, "1.0")).await.expect("known"), None);

    let manifest = fresh.manifest(&reference(&fresh, "1.0")).await.expect("readable").expect("there");
    assert_eq!(manifest.descriptor, root);
    let parsed: Manifest = serde_json::from_slice(&manifest.bytes).expect("a manifest");
    let mut read = Vec::new();
    fresh.open(&parsed.layers[0]).await.expect("there").read_to_end(&mut read).await.expect("whole");
    assert!(read == layer, "{} bytes came back", read.len());
    let again = read_whole(&fresh, &root, 1 << 20).await.expect("readable");
    assert_eq!(again, manifest.bytes);
    assert_eq!(fresh.tags().await.expect("listed"), ["1.0".parse().expect("a tag")]);
}
