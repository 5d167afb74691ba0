//! The marker as it is read and as it may be written. Must not decide whose a role is.

use crate::model::marker::{DISCARD, LONGEST, Marker};
use crate::model::{Class, Desired, Failure, Reason, RoleFacts};

/// The marker in a role's comment. `discard`: the MD5 of a comment that the server's owner lets count as one
/// without a marker, if it cannot be read.
///
/// # Errors
/// `MarkerUnreadable`: whose the role is, and what it was given, is not known, so that nothing is changed.
pub fn marker_in(
    desired: &Desired,
    facts: &RoleFacts,
    discard: Option<&String>,
) -> Result<Option<Marker>, Failure> {
    let unreadable = match facts.marker() {
        Ok(found) => return Ok(found),
        Err(unreadable) => unreadable,
    };
    let word = facts.comment_word();
    if word.is_some() && word.as_ref() == discard {
        return Ok(None);
    }
    let Desired { role, server, .. } = desired;
    let message = format!(
        "the comment of role {:?} on server {server} is a marker of the operator that cannot be read: {}; \
         nothing about the role is changed, since nobody knows what it was given. Run the version of the \
         operator that wrote it, or have the comment put right; to go on without it, so that what the role \
         has is never taken back, the server's owner sets annotation {DISCARD}: {}={} on the \
         EntraPostgresServer",
        role.as_str(),
        unreadable.0,
        desired.key,
        word.as_deref().unwrap_or("MD5 of the comment"),
    );
    Err(Failure::new(
        Class::Denied,
        Reason::MarkerUnreadable,
        message,
    ))
}

/// The comment that carries a marker. `there`: the length of the one that is there, which may be as long as
/// an earlier version let it be, and may become shorter.
///
/// # Errors
/// `MarkerTooLarge`: a server that wrote it with each change would do little else.
pub(super) fn written(desired: &Desired, marker: &Marker, there: usize) -> Result<String, Failure> {
    let comment = marker.to_comment();
    if comment.len() <= LONGEST || comment.len() < there {
        return Ok(comment);
    }
    let Desired { role, server, .. } = desired;
    let largest = marker.asked.objects.iter().max_by_key(|entry| {
        let names = entry.names.iter().flatten().chain(&entry.except);
        names.map(String::len).sum::<usize>()
    });
    let advice = largest.map_or_else(String::new, |entry| {
        let count = entry.names.as_ref().unwrap_or(&entry.except).len();
        let what = if entry.names.is_some() {
            "names"
        } else {
            "exceptions, which had the privilege before"
        };
        format!(
            "; most of it is {} on kind {} in schema {:?} of database {:?} with {count} {what}: declare fewer, \
             or names instead of all: true",
            words(&entry.privileges),
            entry.kind,
            entry.schema,
            entry.database,
        )
    });
    let message = format!(
        "what role {:?} on server {server} is given would take {} bytes in its comment, where it is \
         remembered, and the limit is {LONGEST}{advice}; nothing about the role is changed",
        role.as_str(),
        comment.len(),
    );
    Err(Failure::new(Class::Denied, Reason::MarkerTooLarge, message))
}

fn words(privileges: &std::collections::BTreeSet<crate::api::Privilege>) -> String {
    let words: Vec<String> = privileges.iter().map(ToString::to_string).collect();
    words.join(", ")
}
