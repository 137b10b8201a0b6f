//! Manifests, indexes and tags of one repository on one host (distribution-spec, "Pulling manifests", "Pushing
//! Manifests", "Listing Tags").

use std::collections::BTreeSet;
use std::sync::Arc;

use bytes::Bytes;
use reqwest::header::{ACCEPT, CONTENT_LENGTH, CONTENT_TYPE, ETAG, HeaderMap, HeaderName, HeaderValue, LINK};
use reqwest::{Method, Url};
use serde::Deserialize;

use crate::content::DOCUMENT_LIMIT;
use crate::oci::{Descriptor, Digest, Hasher, MediaType, Reference, Tag, VerifyError};

use super::auth::Scope;
use super::endpoint::Endpoint;
use super::error::{RegistryError, Request};
use super::transport::{Answer, Call, Transport};

/// What we can read; a registry that is not told may convert to something older.
const ACCEPTED: &str = "application/vnd.oci.image.index.v1+json, application/vnd.oci.image.manifest.v1+json, \
     application/vnd.docker.distribution.manifest.list.v2+json, application/vnd.docker.distribution.manifest.v2+json";
/// The header in which registries say the digest of a manifest.
const CONTENT_DIGEST: &str = "docker-content-digest";
/// Tags asked for at once.
const PAGE: usize = 1000;
/// Most bytes of one page of tags.
const PAGE_LIMIT: u64 = 4 << 20;

/// A manifest or index as a registry holds it.
#[derive(Clone, Debug)]
pub struct RemoteManifest {
    /// Media type, size and verified digest.
    pub descriptor: Descriptor,
    /// The bytes as received.
    pub bytes: Bytes,
    /// The registry's mark for this state of the name, when it gives one.
    pub etag: Option<String>,
}

/// One repository on one host: the registry itself or a mirror of it.
#[derive(Clone)]
pub(super) struct Place {
    pub transport: Arc<Transport>,
    pub endpoint: Endpoint,
    /// The repository's path on that host.
    pub path: String,
}

/// A condition under which a name may be written.
pub(super) enum Precondition {
    /// The name is still in the state that bore this mark.
    Unchanged(String),
    /// There is no such name yet.
    Absent,
}

impl Place {
    pub fn url(&self, rest: &str) -> Result<Url, RegistryError> {
        let url = self.endpoint.url(&self.path, rest);
        url.ok_or_else(|| RegistryError::Redirect { host: self.endpoint.host.clone() })
    }

    pub fn call(&self, method: Method, rest: &str, answers: &'static [u16]) -> Result<Call<'_>, RegistryError> {
        let reads = matches!(method, Method::GET | Method::HEAD);
        Ok(Call {
            endpoint: &self.endpoint,
            repository: &self.path,
            scope: if reads { Scope::pull(&self.path) } else { Scope::push(&self.path) },
            method,
            url: self.url(rest)?,
            headers: HeaderMap::new(),
            body: Bytes::new(),
            answers,
        })
    }

    fn manifest_call(&self, method: Method, name: &str) -> Result<Call<'_>, RegistryError> {
        // 405 is for registries that answer HEAD so; a GET follows.
        let answers: &[u16] = if method == Method::HEAD { &[404, 405] } else { &[404] };
        let mut call = self.call(method, &format!("manifests/{name}"), answers)?;
        call.headers.insert(ACCEPT, HeaderValue::from_static(ACCEPTED));
        Ok(call)
    }

    /// Returns the descriptor of the manifest called `name`, or `None` when there is none.
    pub async fn head_manifest(&self, name: &ManifestName) -> Result<Option<Descriptor>, RegistryError> {
        let call = self.manifest_call(Method::HEAD, &name.to_string())?;
        let response = self.transport.send(&call).await?;
        if response.status() == 404 {
            return Ok(None);
        }
        let headers = response.headers();
        let text = |header: HeaderName| headers.get(header)?.to_str().ok();
        let digest = text(HeaderName::from_static(CONTENT_DIGEST)).and_then(|digest| digest.parse::<Digest>().ok());
        let size = text(CONTENT_LENGTH).and_then(|size| size.parse::<u64>().ok()).filter(|size| *size > 0);
        let media_type = text(CONTENT_TYPE).map(essence).filter(|media_type| is_document(media_type));
        if let (true, Some(digest), Some(size), Some(media_type)) = (response.status().is_success(), digest, size, media_type)
            && name.admits(&digest)
        {
            return Ok(Some(Descriptor::new(media_type, size, digest)));
        }
        // The header is optional, and proxies drop it; the bytes tell.
        Ok(self.get_manifest(name).await?.map(|manifest| manifest.descriptor))
    }

    /// Returns the manifest called `name`, or `None` when there is none.
    pub async fn get_manifest(&self, name: &ManifestName) -> Result<Option<RemoteManifest>, RegistryError> {
        let answer = self.transport.fetch(&self.manifest_call(Method::GET, &name.to_string())?, DOCUMENT_LIMIT).await?;
        if answer.status == 404 {
            return Ok(None);
        }
        read_manifest(name, answer).map(Some)
    }

    /// Writes a manifest under `name`; returns whether `precondition` held, as far as the registry looks at it.
    pub async fn put_manifest(
        &self,
        name: &ManifestName,
        media_type: &str,
        bytes: Bytes,
        precondition: Option<Precondition>,
    ) -> Result<bool, RegistryError> {
        let mut call = self.call(Method::PUT, &format!("manifests/{name}"), &[412])?;
        let request = Request::new(Method::PUT, &call.url, &self.path);
        let rule = |rule| RegistryError::Specification { request: Box::new(request.clone()), rule };
        let value = HeaderValue::from_str(media_type).map_err(|_| rule("a media type is ASCII"))?;
        call.headers.insert(CONTENT_TYPE, value);
        match precondition {
            Some(Precondition::Unchanged(etag)) => {
                let value = HeaderValue::from_str(&etag).map_err(|_| rule("an ETag is ASCII"))?;
                call.headers.insert(reqwest::header::IF_MATCH, value);
            }
            Some(Precondition::Absent) => {
                call.headers.insert(reqwest::header::IF_NONE_MATCH, HeaderValue::from_static("*"));
            }
            None => {}
        }
        call.body = bytes;
        let host = self.transport.host(&self.endpoint);
        let mut attempts = self.transport.attempts(&host);
        let written = loop {
            match self.transport.send(&call).await {
                Ok(response) => break response.status() != 412,
                // distribution 2.8 says so, wrongly, while another client writes the link of a blob that the manifest
                // names: once in about 200 pushes by four clients at a time. Ours was hashed here.
                Err(error) if error.said("DIGEST_INVALID") => attempts.again(error).await?,
                Err(error) => return Err(error),
            }
        };
        if written {
            self.transport.counters.wrote_manifest();
        }
        Ok(written)
    }

    /// Returns all tags, sorted; none when there is no such repository.
    pub async fn tags(&self) -> Result<Vec<Tag>, RegistryError> {
        #[derive(Deserialize)]
        struct Page {
            tags: Option<Vec<String>>,
        }
        let mut tags = BTreeSet::new();
        let mut asked = BTreeSet::new();
        let mut call = self.call(Method::GET, &format!("tags/list?n={PAGE}"), &[404])?;
        // A registry that leads in a circle has told all it has.
        while asked.insert(call.url.clone()) {
            let answer = self.transport.fetch(&call, PAGE_LIMIT).await?;
            if answer.status == 404 {
                break;
            }
            let document = || RegistryError::Specification {
                request: Box::new(answer.request.clone()),
                rule: "a list of tags is an object with `tags`",
            };
            let page: Page = serde_json::from_slice(&answer.body).map_err(|_| document())?;
            tags.extend(page.tags.unwrap_or_default().iter().filter_map(|tag| tag.parse::<Tag>().ok()));
            match next_page(&answer) {
                Some(next) if self.endpoint.owns(&next) => call.url = next,
                Some(_) => return Err(RegistryError::Redirect { host: self.endpoint.host.clone() }),
                None => break,
            }
        }
        Ok(tags.into_iter().collect())
    }
}

/// What a manifest is asked for by.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) enum ManifestName {
    Tag(String),
    Digest(Digest),
}

impl ManifestName {
    /// Returns what decides in `reference`: the digest, else the tag, else `latest`.
    pub fn of(reference: &Reference) -> Self {
        match reference.digest {
            Some(digest) => Self::Digest(digest),
            None => Self::Tag(reference.effective_tag().unwrap_or("latest").to_owned()),
        }
    }

    /// Returns whether the manifest of this name may have `digest`. A digest of another algorithm proves nothing.
    fn admits(&self, digest: &Digest) -> bool {
        match self {
            Self::Tag(_) => true,
            Self::Digest(own) => own == digest,
        }
    }
}

impl std::fmt::Display for ManifestName {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Tag(tag) => f.write_str(tag),
            Self::Digest(digest) => std::fmt::Display::fmt(digest, f),
        }
    }
}

fn read_manifest(name: &ManifestName, answer: Answer) -> Result<RemoteManifest, RegistryError> {
    let Answer { request, headers, body, .. } = answer;
    let text = |header: HeaderName| headers.get(header).and_then(|value| value.to_str().ok());
    let said = text(HeaderName::from_static(CONTENT_DIGEST)).and_then(|digest| digest.parse::<Digest>().ok());
    let expected = match name {
        ManifestName::Digest(digest) => Some(*digest),
        ManifestName::Tag(_) => said,
    };
    let digest = expected.unwrap_or_else(|| Digest::of(&body));
    let mut hasher = Hasher::like(&digest);
    hasher.update(&body);
    let actual = hasher.finish();
    if actual != digest {
        let source = Box::new(VerifyError::Digest { expected: digest, actual });
        return Err(RegistryError::Damaged { request: Box::new(request), source });
    }
    let media_type = media_type_of(text(CONTENT_TYPE), &body);
    let media_type = media_type.ok_or(RegistryError::Document { request: Box::new(request) })?;
    let etag = text(ETAG).map(str::to_owned);
    Ok(RemoteManifest { descriptor: Descriptor::new(&media_type, body.len() as u64, digest), bytes: body, etag })
}

/// Returns what `body` is: what it says itself, which its digest covers, else what the header says, else what it looks
/// like.
fn media_type_of(header: Option<&str>, body: &[u8]) -> Option<String> {
    #[derive(Deserialize)]
    #[serde(rename_all = "camelCase")]
    struct Shape {
        media_type: Option<String>,
        manifests: Option<serde::de::IgnoredAny>,
        layers: Option<serde::de::IgnoredAny>,
    }
    let shape: Shape = serde_json::from_slice(body).ok()?;
    let said = shape.media_type.filter(|media_type| is_document(media_type));
    let header = header.map(essence).filter(|media_type| is_document(media_type)).map(str::to_owned);
    said.or(header).or_else(|| match (shape.manifests, shape.layers) {
        (Some(_), None) => Some(MediaType::INDEX.to_owned()),
        (None, Some(_)) => Some(MediaType::MANIFEST.to_owned()),
        _ => None,
    })
}

/// Returns whether content of `media_type` is asked for as a manifest rather than as a blob.
pub(super) fn is_document(media_type: &str) -> bool {
    MediaType::is_index(media_type) || MediaType::is_manifest(media_type)
}

/// Returns a media type without its parameters.
fn essence(media_type: &str) -> &str {
    media_type.split(';').next().unwrap_or_default().trim()
}

/// Returns the address of the next page (RFC 8288, `rel="next"`).
fn next_page(answer: &Answer) -> Option<Url> {
    let links = answer.headers.get_all(LINK).iter().filter_map(|link| link.to_str().ok()).flat_map(|link| link.split(','));
    let mut next = links.filter_map(|link| {
        let (target, parameters) = link.trim().strip_prefix('<')?.split_once('>')?;
        let is_next = parameters.split(';').any(|p| matches!(p.trim(), "rel=next" | "rel=\"next\""));
        is_next.then(|| answer.url.join(target).ok()).flatten()
    });
    next.next()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_document_is_what_it_says_then_what_the_header_says_then_what_it_looks_like() {
        let docker = MediaType::DOCKER_MANIFEST;
        let said = format!(r#"{{"mediaType":"{docker}","layers":[]}}"#);
        for (header, body, expected) in [
            (Some("text/plain"), said.as_str(), Some(docker)),
            (Some(MediaType::MANIFEST), &said, Some(docker)),
            (Some("application/vnd.oci.image.index.v1+json; charset=utf-8"), "{}", Some(MediaType::INDEX)),
            (None, r#"{"manifests":[]}"#, Some(MediaType::INDEX)),
            (None, r#"{"layers":[]}"#, Some(MediaType::MANIFEST)),
            (None, r#"{"signatures":[]}"#, None),
            (Some(MediaType::INDEX), "<html>", None),
        ] {
            assert_eq!(media_type_of(header, body.as_bytes()).as_deref(), expected, "{header:?} {body}");
        }
    }
}
