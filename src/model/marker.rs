//! The marker in a role's comment: whose the role is. One readable line and compact data.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::quote::quote;
use super::{Asked, ObjectId, ObjectKey};
use crate::api::Adoption;

/// How every marker begins; the snapshot of a server finds our roles by it.
pub const PREFIX: &str = "Managed by entra-postgres-operator";

/// The newest version of the marker's data that is understood. A marker without one has version 1.
pub const VERSION: u32 = 1;

/// Annotation of a server: which markers that cannot be read count as none.
pub const DISCARD: &str = "entrapostgres.io/discard-marker";

/// No marker is written that is longer, in bytes.
pub const LONGEST: usize = 1024 * 1024;

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
    /// How the role came to the object; `None`: the object made it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub came: Option<Came>,
    /// What the object has asked for.
    #[serde(default, skip_serializing_if = "is_default")]
    pub asked: Asked,
    /// The version of the data, if it is not the first.
    #[serde(default = "first", skip_serializing_if = "is_first")]
    pub version: u32,
    /// What another version of the operator wrote and this one does not know: it is kept.
    #[serde(flatten)]
    pub others: BTreeMap<String, Value>,
}

/// How a role came to an object that did not make it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Came {
    /// `adopted`, `takenOver`, or `recorded`: only the status knew it.
    pub how: String,
    /// The mode of the adoption.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub mode: Option<String>,
    /// The object from which it was taken over, as namespace and name.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub from: Option<String>,
    /// The object id it was bound to before.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub object_id: Option<String>,
    /// What another version of the operator wrote.
    #[serde(flatten)]
    pub others: BTreeMap<String, Value>,
}

impl Came {
    fn by(how: &str, id: Option<&ObjectId>) -> Self {
        Self {
            how: how.to_owned(),
            mode: None,
            from: None,
            object_id: id.map(ObjectId::to_string),
            others: BTreeMap::new(),
        }
    }

    /// By adoption, when it was bound to that identity.
    pub fn adopted(mode: Adoption, id: Option<&ObjectId>) -> Self {
        Self {
            mode: Some(mode.to_string()),
            ..Self::by("adopted", id)
        }
    }

    /// From an object that is gone.
    pub fn taken_over(from: &ObjectKey, id: &ObjectId) -> Self {
        Self {
            from: Some(from.to_string()),
            ..Self::by("takenOver", Some(id))
        }
    }

    /// By the status and the label alone: the role had no marker that could be read.
    pub fn recorded(id: &ObjectId) -> Self {
        Self::by("recorded", Some(id))
    }

    /// Whether nothing is known of what the role had been given before.
    pub fn is_recorded(&self) -> bool {
        self.how == "recorded"
    }
}

/// Why a comment that begins like a marker is none that can be read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Unreadable(pub String);

fn first() -> u32 {
    1
}

#[allow(
    clippy::trivially_copy_pass_by_ref,
    reason = "serde passes a reference"
)]
fn is_first(version: &u32) -> bool {
    *version == 1
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
            came: None,
            asked: Asked::default(),
            version: VERSION,
            others: BTreeMap::new(),
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

    /// Reads a comment; `None` when it carries no marker, or none that can be read.
    pub fn parse(comment: &str) -> Option<Self> {
        Self::read(comment).ok().flatten()
    }

    /// Reads a comment; `None` when it carries no marker.
    ///
    /// # Errors
    /// Why it cannot be read although it begins like one: it was cut or spoiled, or is of a newer version.
    pub fn read(comment: &str) -> Result<Option<Self>, Unreadable> {
        let Some(rest) = comment.strip_prefix(PREFIX) else {
            return Ok(None);
        };
        let Some((_, data)) = rest.split_once("; do not edit: ") else {
            return Err(Unreadable("it has no data".to_owned()));
        };
        let read = serde_json::from_str(data);
        let marker: Self = read.map_err(|error| Unreadable(quote(&error.to_string(), 200)))?;
        if marker.version > VERSION {
            return Err(Unreadable(format!(
                "it has version {}, and this operator knows {VERSION}",
                marker.version
            )));
        }
        let asked = marker.asked.possible();
        Ok(Some(Self { asked, ..marker }))
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
    use proptest::prelude::*;

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

    // Red when: a marker of 6b177e6 is read as something else, or written otherwise while nothing changed.
    #[test]
    fn a_marker_of_the_first_version_is_the_same_when_it_is_written_again() {
        let first = concat!(
            "Managed by entra-postgres-operator for EntraPostgresPrincipal orders/api; do not edit: ",
            r#"{"cluster":"c","namespace":"orders","name":"api","uid":"u","#,
            r#""objectId":"11111111-2222-3333-4444-555555555555","roleOid":"16401","restored":"1","#,
            r#""asked":{"attributes":["createDb"],"memberOf":["readers"],"databases":{"orders":["CONNECT"]},"#,
            r#""objects":[{"database":"orders","schema":"app","kind":"table","except":["a"],"privileges":["SELECT"]}]}}"#
        );
        let read = Marker::parse(first).expect("a marker");
        assert_eq!((read.version, &read.came), (1, &None));
        assert_eq!(read.to_comment(), first);
    }

    proptest! {
        // Red when: read() panics, or takes what begins like a marker for somebody else's comment.
        #[test]
        fn any_text_is_read_or_refused(text in ".{0,400}", data in "[{}\\[\\]\":,a-z0-9\\\\ ]{0,200}") {
            let _ = Marker::read(&text);
            let spoiled = format!("{PREFIX} for EntraPostgresPrincipal a/b; do not edit: {data}");
            prop_assert!(Marker::read(&spoiled).is_err() || Marker::parse(&spoiled).is_some());
            let depth = data.len() * 100;
            let deep = format!("{PREFIX}; do not edit: {}", "[".repeat(depth));
            prop_assert!(Marker::read(&deep).is_err());
        }

        // Red when: a cut marker is read as a whole one.
        #[test]
        fn a_marker_that_was_cut_is_unreadable(at in 0_usize..200) {
            let id = ObjectId::parse("11111111-2222-3333-4444-555555555555");
            let whole = Marker::new("cluster", &ObjectKey::new("orders", "api"), "uid", id.as_ref()).to_comment();
            let end = (PREFIX.len() + at).min(whole.len() - 1);
            prop_assert!(Marker::read(&whole[..end]).is_err(), "{}", &whole[..end]);
        }

        // Red when: what is not known is dropped, on any floor.
        #[test]
        fn what_is_not_known_survives(field in "x[a-z]{1,8}", word in "x[a-z]{0,12}", number in any::<i64>(), text in ".{0,40}") {
            let marker = Marker::new("cluster", &ObjectKey::new("orders", "api"), "uid", None);
            let mut object = serde_json::to_value(&marker).expect("JSON");
            let unknown = serde_json::json!({"word": word, "number": number, "text": [text, null, true]});
            object[&field] = unknown.clone();
            object["asked"] = serde_json::json!({ &field: unknown, "attributes": [&word] });
            object["came"] = serde_json::json!({"how": word, &field: unknown});
            let comment = format!("{PREFIX}; do not edit: {object}");
            let read = Marker::parse(&comment).expect("a marker");
            let written = read.to_comment();
            let (_, data) = written.split_once("; do not edit: ").expect("data");
            let again: serde_json::Value = serde_json::from_str(data).expect("JSON");
            prop_assert_eq!(again, object);
            prop_assert_eq!(Marker::parse(&written), Some(read));
        }
    }
}
