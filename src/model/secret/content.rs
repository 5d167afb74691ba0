//! How good a Secret is that is there already.

use std::collections::{BTreeMap, BTreeSet};

use jiff::Timestamp;

use super::token::{end_of, life_of};
use super::{Connection, Layout, TokenRecord, identity_of};
use crate::api::Identity;

/// What we wrote of a Secret, by the books of the API server. The rest is others', and stays.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Written {
    /// Keys.
    pub data: BTreeSet<String>,
    /// Names of labels that only a template can have.
    pub labels: BTreeSet<String>,
    /// Names of annotations that only a template can have.
    pub annotations: BTreeSet<String>,
}

/// A Secret as it is.
#[derive(Clone, PartialEq, Eq)]
pub struct Present {
    /// Its data as text.
    pub data: BTreeMap<String, String>,
    /// Its labels.
    pub labels: BTreeMap<String, String>,
    /// Its annotations.
    pub annotations: BTreeMap<String, String>,
    /// What of it we wrote.
    pub written: Written,
    /// Whether Kubernetes lets nobody change it any more.
    pub immutable: bool,
}

impl Present {
    /// Its record, and the token that is recorded. When that ends it knows best itself: anybody may
    /// write an annotation, and a token that is believed to live is not renewed.
    pub fn token(&self, layout: &Layout) -> Option<(TokenRecord, &str)> {
        let record = TokenRecord::read(&self.annotations)?;
        let token = layout.token_in(&self.data, &record.sha256)?;
        let record = TokenRecord {
            expires_at: end_of(token).unwrap_or(record.expires_at),
            lives: life_of(token),
            ..record
        };
        Some((record, token))
    }

    /// Whether it has all that is wanted and nothing of ours beside. What others put there would differ
    /// for ever: server-side apply leaves it.
    fn is_as_declared(&self, wanted: &BTreeMap<String, String>, layout: &Layout) -> bool {
        let Self {
            data,
            labels,
            annotations,
            written,
            immutable: _,
        } = self;
        matches(data, &written.data, wanted)
            && matches(labels, &written.labels, layout.labels())
            && matches(annotations, &written.annotations, layout.annotations())
    }
}

fn matches(
    present: &BTreeMap<String, String>,
    ours: &BTreeSet<String>,
    wanted: &BTreeMap<String, String>,
) -> bool {
    wanted
        .iter()
        .all(|(key, text)| present.get(key) == Some(text))
        && ours.iter().all(|key| wanted.contains_key(key))
}

/// Whether a Secret without an owner was made for another object of this identity, which was there before:
/// ours, created then, has not published a token yet, or not at that time. Namespace and name agree already,
/// or nobody would ask. Whoever takes the owner away while the object lives keeps the Secret.
pub fn was_made_before(
    annotations: &BTreeMap<String, String>,
    identity: &Identity,
    created: Option<Timestamp>,
    has_published: bool,
) -> bool {
    TokenRecord::read(annotations).is_some_and(|record| {
        let earlier = created.is_some_and(|created| record.issued_at < created);
        record.identity == identity_of(identity) && (!has_published || earlier)
    })
}

/// How good a Secret of ours is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Content {
    /// All as written.
    Intact(TokenRecord),
    /// The token is the recorded one; something else is not as declared.
    Differs(TokenRecord),
    /// The token is gone or is not the recorded one.
    Broken,
    /// Somebody made it immutable; with the record of its token, if that is still there.
    Immutable(Option<TokenRecord>),
}

impl Content {
    /// Compares a Secret with its record and with what is declared.
    pub fn judge(present: &Present, connection: &Connection, layout: &Layout) -> Self {
        let found = present.token(layout);
        if present.immutable {
            return Self::Immutable(found.map(|(record, _)| record));
        }
        let Some((record, token)) = found else {
            return Self::Broken;
        };
        let recorded = TokenRecord::read(&present.annotations)
            .is_some_and(|recorded| recorded.expires_at == record.expires_at);
        match layout.render(connection, token, record.expires_at) {
            Ok(wanted) if recorded && present.is_as_declared(&wanted, layout) => {
                Self::Intact(record)
            }
            // What cannot be rendered is reported by whoever tries to write it.
            Ok(_) | Err(_) => Self::Differs(record),
        }
    }

    /// The same with what the metadata says: without our label the watch does not see the Secret.
    #[must_use]
    pub fn labelled(self, labelled: bool) -> Self {
        match self {
            Self::Intact(record) if !labelled => Self::Differs(record),
            other => other,
        }
    }

    /// The record of the token that is there.
    pub fn record(&self) -> Option<&TokenRecord> {
        match self {
            Self::Intact(record) | Self::Differs(record) => Some(record),
            Self::Immutable(record) => record.as_ref(),
            Self::Broken => None,
        }
    }
}

/// What to write into a Secret that somebody else wrote since we looked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum AfterConflict {
    /// Nothing: it is as declared, with a token that ends no earlier than ours.
    Keep(TokenRecord),
    /// What is declared, with the token it has: that ends no earlier than ours.
    Repair,
    /// Our token.
    Ours,
}

impl AfterConflict {
    /// Decides by what is there now; our token ends at `ours`.
    pub fn decide(theirs: Content, ours: Timestamp) -> Self {
        match theirs.record() {
            Some(record) if record.expires_at >= ours => {}
            _ => return Self::Ours,
        }
        match theirs {
            Content::Intact(record) => Self::Keep(record),
            _ => Self::Repair,
        }
    }
}

/// The Secret of a principal as it is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SecretFacts {
    /// `metadata.uid`.
    pub uid: String,
    /// `metadata.resourceVersion`.
    pub resource_version: String,
    /// Uid of its controller.
    pub controller: Option<String>,
    /// Kind and name of its controller, for people.
    pub holder: Option<String>,
    /// The controller has our object's kind and name. If it is not our object, it is one that was
    /// deleted before ours was made, and Kubernetes is about to collect the Secret.
    pub namesake: bool,
    /// It is nobody's, and its record says that it was made for this very object: its owner was deleted
    /// without it, or it was restored without its owner.
    pub orphan: bool,
    /// Its data, judged; meaningless when the controller is not our object.
    pub content: Content,
}
