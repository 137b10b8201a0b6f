//! Writing a name that others may be writing too, without losing what they wrote.
//!
//! The distribution specification has no conditional write. Some registries honour `If-Match` and `If-None-Match`, most
//! ignore them, and none says which it does. So both are sent, and in any case this is done:
//!
//! ```text
//! read the name ──► is it what the caller based its content on? ──no──► Moved
//!      │ yes
//! write it, under the condition that it is still that ──412──► Moved
//!      │
//! wait longer than the way from reading to writing took, read again ──other──► Moved
//!      │ same
//!   Written
//! ```
//!
//! Two writers that both read before either wrote have both written by the time the slower has taken its way from
//! reading to writing. Each waits at least that long (twice its own way and at least [`Settle`](super::Settle)), so the
//! one whose write was replaced sees it, merges, and tries again. A writer that stalls between reading and writing for
//! longer than the others wait can still hide a write; the condition closes that gap where it is honoured.

use std::time::Instant;

use crate::oci::{Descriptor, Digest, Reference};

use super::error::RegistryError;
use super::manifests::{ManifestName, Precondition, RemoteManifest};
use super::repository::RemoteRepository;

/// What became of a conditional write.
#[derive(Clone, Debug)]
pub enum TagOutcome {
    /// The name was already what it should be; nothing was written.
    Unchanged,
    /// The name was written, and is what it should be.
    Written,
    /// Somebody else wrote the name: what it is now, for merging and trying again. It may be built upon what was
    /// written here, and then there is nothing left to do.
    Moved(Option<Box<RemoteManifest>>),
}

impl RemoteRepository {
    /// Lets `reference` name `root`, which the registry must have, provided that it still names what `expected` says:
    /// that digest, or nothing.
    ///
    /// # Errors
    /// When the name cannot be read or written, or `root` is not there.
    pub async fn tag_if(
        &self,
        reference: &Reference,
        expected: Option<Digest>,
        root: &Descriptor,
    ) -> Result<TagOutcome, RegistryError> {
        let name = ManifestName::of(reference);
        let Some((media_type, bytes)) = self.stored_manifest(&root.digest).await? else {
            return Err(RegistryError::NoRoot { repository: self.name().to_string(), digest: Box::new(root.digest) });
        };
        let began = Instant::now();
        let now = self.upstream.get_manifest(&name).await?;
        match &now {
            Some(now) if now.descriptor.digest == root.digest => return Ok(TagOutcome::Unchanged),
            now if now.as_ref().map(|now| now.descriptor.digest) != expected => {
                return Ok(TagOutcome::Moved(now.clone().map(Box::new)));
            }
            _ => {}
        }
        let precondition = match now {
            Some(now) => now.etag.map(Precondition::Unchanged),
            None => Some(Precondition::Absent),
        };
        if self.upstream.put_manifest(&name, &media_type, bytes, precondition).await? {
            let way = began.elapsed() * 2;
            tokio::time::sleep(way.max(self.upstream.transport.settings.settle.0)).await;
        }
        let after = self.upstream.get_manifest(&name).await?;
        Ok(match after {
            Some(after) if after.descriptor.digest == root.digest => TagOutcome::Written,
            after => TagOutcome::Moved(after.map(Box::new)),
        })
    }
}
