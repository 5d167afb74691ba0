//! An identity that was refused is asked for again as soon as the Secret or service account that
//! proves it has changed. Must not ask Entra: it looks at the cluster only.

use jiff::{SignedDuration, Timestamp};

use crate::controller::Context;
use crate::controller::index::Memory;
use crate::model::observed::Hold;
use crate::model::{Desired, SourceVersion};

/// Secrets and service accounts of others are not watched; a change is seen within this time.
const LOOK: SignedDuration = SignedDuration::from_secs(25);

/// Forgets the rest after a refusal if what proves the identity is another by now.
pub(super) async fn looked_at(mut memory: Memory, desired: &Desired, ctx: &Context) -> Memory {
    let refused = memory.token.hold.as_ref().and_then(proof_of);
    let (Some(refused), Some(token)) = (refused, &desired.token) else {
        return memory;
    };
    let namespace = &desired.key.namespace;
    let present = ctx.cluster.source_version(namespace, &token.identity);
    // What cannot be read has not changed, as far as we know.
    if present
        .await
        .is_ok_and(|present| present.is_some_and(|present| present != refused))
    {
        memory.token.hold = None;
    }
    memory
}

/// When to look at what proves a refused identity.
pub(super) fn next_look(hold: Option<&Hold>, now: Timestamp) -> Option<Timestamp> {
    hold.and_then(proof_of)?;
    now.checked_add(LOOK).ok()
}

fn proof_of(hold: &Hold) -> Option<SourceVersion> {
    hold.failure.as_ref()?.proof.clone()
}
