//! The marker in a role's comment: whose the role is. One readable line and compact data.

use serde::{Deserialize, Serialize};

use super::{Asked, ObjectId, ObjectKey};

/// How every marker begins; the snapshot of a server finds our roles by it.
pub const PREFIX: &str = "Managed by entra-postgres-operator";

/// Stands for the object id in the marker of a role that is made by name: the server resolves it,
/// and it is put in within the same transaction.
pub const OBJECT_ID_PLACEHOLDER: &str = "{objectId}";

/// Stands for the role's oid in the same way.
pub const ROLE_OID_PLACEHOLDER: &str = "{roleOid}";

/// How the comment of a role ends that we closed; it stands in place of the last brace.
pub const CLOSED: &str = r#","closed":true}"#;

/// The object that a marker speaks of.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct MadeFor {
    /// As in the marker.
    pub cluster: String,
    /// Namespace and name of the object.
    pub key: ObjectKey,
    /// Its uid.
    pub uid: String,
}

impl From<&Marker> for MadeFor {
    fn from(marker: &Marker) -> Self {
        Self {
            cluster: marker.cluster.clone(),
            key: marker.key(),
            uid: marker.uid.clone(),
        }
    }
}

/// Says for which object of which cluster a role is managed.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Marker {
    /// Uid of namespace kube-system, or as configured.
    pub cluster: String,
    /// Namespace of the object.
    pub namespace: String,
    /// Name of the object.
    pub name: String,
    /// Uid of the object.
    pub uid: String,
    /// The object id the role was bound to.
    pub object_id: String,
    /// `pg_roles.oid` of the role: comments can be copied, to a role of the same name that somebody
    /// made after ours was dropped. Empty: not recorded.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub role_oid: String,
    /// We disabled sign-in, because the role was to be dropped; no database administrator did.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub closed: bool,
    /// Value of annotation `entrapostgres.io/restore` that was obeyed last.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub restored: Option<String>,
    /// What the object has asked for.
    #[serde(default, skip_serializing_if = "is_default")]
    pub asked: Asked,
}

fn is_default(asked: &Asked) -> bool {
    *asked == Asked::default()
}

impl Marker {
    /// The marker of an object for an identity; without one, for the id that the server resolves.
    pub fn new(cluster: &str, key: &ObjectKey, uid: &str, id: Option<&ObjectId>) -> Self {
        Self {
            cluster: cluster.to_owned(),
            namespace: key.namespace.clone(),
            name: key.name.clone(),
            uid: uid.to_owned(),
            object_id: id
                .map_or(OBJECT_ID_PLACEHOLDER, ObjectId::as_str)
                .to_owned(),
            role_oid: String::new(),
            closed: false,
            restored: None,
            asked: Asked::default(),
        }
    }

    /// The comment that carries the marker.
    pub fn to_comment(&self) -> String {
        let data = serde_json::to_string(self).unwrap_or_default();
        let Self {
            namespace, name, ..
        } = self;
        format!("{PREFIX} for EntraPostgresPrincipal {namespace}/{name}; do not edit: {data}")
    }

    /// Reads a comment; `None` when it carries no marker.
    pub fn parse(comment: &str) -> Option<Self> {
        let data = comment
            .strip_prefix(PREFIX)
            .and_then(|rest| rest.split_once("; do not edit: "));
        let marker: Self = serde_json::from_str(data?.1).ok()?;
        let asked = marker.asked.possible();
        Some(Self { asked, ..marker })
    }

    /// Whether it was written for the role that has this oid, as far as it says.
    pub fn is_of(&self, oid: u32) -> bool {
        self.role_oid.is_empty() || self.role_oid == oid.to_string()
    }

    /// The object the marker speaks of.
    pub fn key(&self) -> ObjectKey {
        ObjectKey::new(&self.namespace, &self.name)
    }

    /// The identity the role was bound to.
    pub fn object_id(&self) -> Option<ObjectId> {
        ObjectId::parse(&self.object_id)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_marker_survives_the_comment() {
        let id = ObjectId::parse("11111111-2222-3333-4444-555555555555");
        let marker = Marker::new(
            "cluster",
            &ObjectKey::new("orders", "api"),
            "uid",
            id.as_ref(),
        );
        let comment = marker.to_comment();
        assert!(
            comment.starts_with(PREFIX) && comment.contains("orders/api"),
            "{comment}"
        );
        assert_eq!(Marker::parse(&comment), Some(marker));
    }

    #[test]
    fn what_the_server_adds_when_it_closes_a_role_is_read() {
        let open = Marker::new("cluster", &ObjectKey::new("orders", "api"), "uid", None);
        let comment = open.to_comment();
        let closed = format!("{}{CLOSED}", comment.trim_end_matches('}'));
        let read = Marker::parse(&closed).expect("a marker");
        assert!(read.closed && !comment.contains("closed"), "{closed}");
        assert_eq!(read.to_comment(), closed);
    }

    // Red when: a marker is believed as it is: its names go into the question that all share.
    #[test]
    fn what_a_marker_says_was_asked_for_has_no_nul() {
        use crate::api::Privilege::Select;
        use crate::model::Kind;
        use crate::model::privilege::{AskedDefaults, AskedObjects};
        let texts = |names: &[&str]| names.iter().map(|&name| name.to_owned()).collect();
        let objects = |database: &str, schema: &str, names: &[&str]| AskedObjects {
            database: database.to_owned(),
            schema: schema.to_owned(),
            kind: Kind::Table,
            names: Some(texts(names)),
            except: texts(names),
            privileges: [Select].into(),
        };
        let default = |database: &str, owner: &str, schema: &str| AskedDefaults {
            database: database.to_owned(),
            owner: owner.to_owned(),
            schema: schema.to_owned(),
            kind: Kind::Table,
            privileges: [Select].into(),
        };
        let asked = |forged: bool| {
            let bad: &[&str] = if forged { &["good", "a\0b"] } else { &["good"] };
            let mut asked = Asked {
                settings: texts(bad),
                member_of: texts(bad),
                databases: bad
                    .iter()
                    .map(|&it| (it.to_owned(), [Select].into()))
                    .collect(),
                objects: vec![objects("d", "s", bad)],
                defaults: vec![default("d", "o", "s")],
                ..Asked::default()
            };
            if forged {
                asked.objects.push(objects("a\0b", "s", &[]));
                asked.objects.push(objects("d", "a\0b", &[]));
                asked.defaults.push(default("a\0b", "o", "s"));
                asked.defaults.push(default("d", "a\0b", "s"));
                asked.defaults.push(default("d", "o", "a\0b"));
            }
            asked
        };
        let mut marker = Marker::new("cluster", &ObjectKey::new("orders", "api"), "uid", None);
        marker.asked = asked(true);
        let read = Marker::parse(&marker.to_comment()).expect("a marker");
        assert_eq!(read.asked, asked(false));
    }

    #[test]
    fn anybody_elses_comment_is_no_marker() {
        assert_eq!(Marker::parse("Managed by the DBA team"), None);
        assert_eq!(Marker::parse(&format!("{PREFIX}; do not edit: {{}}")), None);
        assert_eq!(Marker::parse(""), None);
    }
}
