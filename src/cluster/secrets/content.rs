//! What a Secret holds and what is known of one, in forms that cannot be printed.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

use k8s_openapi::ByteString;
use k8s_openapi::api::core::v1::Secret;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{ObjectMeta, OwnerReference};

use super::super::{FIELD_MANAGER, MANAGED_BY};
use crate::model::secret::Written;
use crate::model::{Class, Failure, Reason};

/// The type of all our Secrets, as servicebinding.io wants it.
pub const SECRET_TYPE: &str = "servicebinding.io/postgresql";

/// Reloader would restart pods at every renewal; a token is read from its file instead.
const NO_RELOAD: &str = "reloader.stakater.com/ignore";

/// A Secret as it shall be. Its data cannot be printed.
#[derive(Clone, PartialEq)]
pub struct SecretContent {
    /// The principal; it becomes the controller, and the Secret goes with it.
    pub owner: OwnerReference,
    /// Labels; [`MANAGED_BY`] is added.
    pub labels: BTreeMap<String, String>,
    /// Annotations; the one that keeps Reloader away is added.
    pub annotations: BTreeMap<String, String>,
    /// The keys and what stands under them.
    pub data: BTreeMap<String, String>,
}

impl fmt::Debug for SecretContent {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SecretContent")
            .field("owner", &self.owner.name)
            .field("labels", &self.labels)
            .field("annotations", &self.annotations)
            .field("keys", &self.data.keys().collect::<Vec<_>>())
            .finish()
    }
}

/// A Secret without its data.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct SecretMeta {
    /// `metadata.uid`.
    pub uid: String,
    /// `metadata.resourceVersion`.
    pub resource_version: String,
    /// The uid of the controller, if it has one.
    pub controller_uid: Option<String>,
    /// Kind and name of the controller, for people.
    pub controller: Option<(String, String)>,
    /// Whether it has an owner at all, its controller or another.
    pub owned: bool,
    /// Its annotations.
    pub annotations: BTreeMap<String, String>,
    /// Its labels.
    pub labels: BTreeMap<String, String>,
    /// Its type; unknown when only metadata was read.
    pub type_: Option<String>,
    /// Whether it is being deleted.
    pub deleting: bool,
}

impl SecretMeta {
    /// Whether it has the label by which our watch finds it.
    pub fn is_labelled(&self) -> bool {
        self.labels.get(MANAGED_BY).map(String::as_str) == Some(FIELD_MANAGER)
    }

    /// Whether it may have been ours and lost its owner, as far as the metadata say.
    pub fn is_orphan(&self) -> bool {
        !self.owned && !self.deleting && self.is_labelled()
    }

    /// Whether its controller has this kind and name.
    pub fn is_of(&self, kind: &str, name: &str) -> bool {
        let controller = self.controller.as_ref();
        controller.is_some_and(|(its_kind, its_name)| its_kind == kind && its_name == name)
    }
}

impl SecretMeta {
    /// Kind and name of the controller, as people name it.
    pub fn holder(&self) -> Option<String> {
        let (kind, name) = self.controller.as_ref()?;
        Some(format!("{kind} {name}"))
    }
}

impl From<&ObjectMeta> for SecretMeta {
    fn from(meta: &ObjectMeta) -> Self {
        let owners = meta.owner_references.as_deref().unwrap_or_default();
        let controller = owners.iter().find(|owner| owner.controller == Some(true));
        Self {
            uid: meta.uid.clone().unwrap_or_default(),
            resource_version: meta.resource_version.clone().unwrap_or_default(),
            controller_uid: controller.map(|owner| owner.uid.clone()),
            controller: controller.map(|owner| (owner.kind.clone(), owner.name.clone())),
            owned: !owners.is_empty(),
            annotations: meta.annotations.clone().unwrap_or_default(),
            labels: meta.labels.clone().unwrap_or_default(),
            type_: None,
            deleting: meta.deletion_timestamp.is_some(),
        }
    }
}

/// A Secret with its data, which cannot be printed.
#[derive(Clone)]
pub struct SecretRead {
    /// Everything but the data.
    pub meta: SecretMeta,
    /// What of it we wrote and a template can have.
    pub written: Written,
    /// Whether it can be written no more.
    pub immutable: bool,
    data: BTreeMap<String, ByteString>,
}

impl SecretRead {
    /// The text under a key; `None` when there is no such key, or no text.
    pub fn get(&self, key: &str) -> Option<&str> {
        std::str::from_utf8(&self.data.get(key)?.0).ok()
    }

    /// The keys.
    pub fn keys(&self) -> impl Iterator<Item = &str> {
        self.data.keys().map(String::as_str)
    }

    /// Whether it holds exactly this.
    pub fn holds(&self, data: &BTreeMap<String, String>) -> bool {
        self.data.len() == data.len()
            && data
                .iter()
                .all(|(key, text)| self.get(key) == Some(text.as_str()))
    }
}

impl fmt::Debug for SecretRead {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SecretRead")
            .field("meta", &self.meta)
            .finish_non_exhaustive()
    }
}

impl From<Secret> for SecretRead {
    fn from(secret: Secret) -> Self {
        let type_ = secret.type_;
        Self {
            written: written(&secret.metadata),
            immutable: secret.immutable == Some(true),
            meta: SecretMeta {
                type_,
                ..SecretMeta::from(&secret.metadata)
            },
            data: secret.data.unwrap_or_default(),
        }
    }
}

/// What our field managers have, by the books of the API server, without what every Secret of ours has.
fn written(meta: &ObjectMeta) -> Written {
    let mut written = Written {
        data: owned(meta, None, "/f:data"),
        labels: owned(meta, None, "/f:metadata/f:labels"),
        annotations: owned(meta, None, "/f:metadata/f:annotations"),
    };
    written.labels.remove(MANAGED_BY);
    written
        .annotations
        .retain(|name| name != NO_RELOAD && !name.starts_with("entrapostgres.io/"));
    written
}

/// The keys below a path that are ours, by one kind of request or by any.
pub(super) fn owned(meta: &ObjectMeta, operation: Option<&str>, path: &str) -> BTreeSet<String> {
    let entries = meta.managed_fields.as_deref().unwrap_or_default().iter();
    let ours = entries.filter(|entry| {
        entry.manager.as_deref() == Some(FIELD_MANAGER)
            && operation.is_none_or(|operation| entry.operation.as_deref() == Some(operation))
    });
    let fields = ours.filter_map(|entry| entry.fields_v1.as_ref()?.0.pointer(path)?.as_object());
    fields
        .flat_map(serde_json::Map::keys)
        .filter_map(|key| Some(key.strip_prefix("f:")?.to_owned()))
        .collect()
}

/// Why a Secret was not written.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum WriteError {
    /// It is no longer the one that was looked at: read it again, then decide again.
    #[error("{0}")]
    Conflict(String),
    /// Everything else.
    #[error(transparent)]
    Failed(#[from] Failure),
}

impl From<WriteError> for Failure {
    fn from(error: WriteError) -> Self {
        match error {
            WriteError::Conflict(message) => {
                Failure::new(Class::Transient, Reason::ApiError, message)
            }
            WriteError::Failed(failure) => failure,
        }
    }
}

/// The whole Secret as it is written.
pub(super) fn wanted(namespace: &str, name: &str, content: &SecretContent) -> Secret {
    let SecretContent {
        owner,
        labels,
        annotations,
        data,
    } = content;
    let mut labels = labels.clone();
    labels.insert(MANAGED_BY.to_owned(), FIELD_MANAGER.to_owned());
    let mut annotations = annotations.clone();
    let no_reload = annotations.entry(NO_RELOAD.to_owned());
    no_reload.or_insert_with(|| "true".to_owned());
    let owner = OwnerReference {
        controller: Some(true),
        block_owner_deletion: Some(true),
        ..owner.clone()
    };
    let data = data
        .iter()
        .map(|(key, text)| (key.clone(), ByteString(text.clone().into_bytes())));
    Secret {
        metadata: ObjectMeta {
            name: Some(name.to_owned()),
            namespace: Some(namespace.to_owned()),
            labels: Some(labels),
            annotations: Some(annotations),
            owner_references: Some(vec![owner]),
            ..ObjectMeta::default()
        },
        type_: Some(SECRET_TYPE.to_owned()),
        data: Some(data.collect()),
        ..Secret::default()
    }
}
