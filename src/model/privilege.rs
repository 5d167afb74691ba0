//! Privileges as data: what they are on, what a principal declares, what its object has asked for.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use serde::{Deserialize, Serialize};

use super::RoleName;
use crate::api::{ObjectType, Privilege};

/// What kind of object in a database a privilege is on.
#[derive(
    Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize, strum::Display,
)]
#[serde(rename_all = "camelCase")]
#[strum(serialize_all = "lowercase")]
pub enum Kind {
    /// The schema itself.
    Schema,
    /// Tables, views, materialized views, foreign tables.
    Table,
    /// Sequences.
    Sequence,
    /// Functions, procedures, aggregates.
    Function,
}

impl From<ObjectType> for Kind {
    fn from(objects: ObjectType) -> Self {
        match objects {
            ObjectType::Tables => Self::Table,
            ObjectType::Sequences => Self::Sequence,
            ObjectType::Functions => Self::Function,
        }
    }
}

/// All objects of one kind in one schema; with [`Kind::Schema`] the schema itself.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Group {
    /// The schema.
    pub schema: String,
    /// The kind.
    pub kind: Kind,
}

/// One object. A schema's name is its schema's; a function's has its arguments: `total(integer, text)`.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Object {
    /// Where it is and what.
    pub group: Group,
    /// Its name within the group.
    pub name: String,
}

/// Privileges on some objects of a group, or on all of it, in one database: as one entry declares them. It
/// costs what the entry costs, however many privileges there are for each name.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Ask {
    /// The database.
    pub database: String,
    /// The kind of object and its schema.
    pub group: Group,
    /// The objects; `None`: all of the group, later ones too.
    pub names: Option<Arc<BTreeSet<String>>>,
    /// The privileges.
    pub privileges: BTreeSet<Privilege>,
}

/// One privilege on a database itself.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct DatabaseAsk {
    /// The database.
    pub database: String,
    /// The privilege.
    pub privilege: Privilege,
}

/// One privilege on objects that a role will create.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct DefaultAsk {
    /// The database.
    pub database: String,
    /// The role that creates, and where and what.
    pub of: DefaultsOf,
    /// The privilege.
    pub privilege: Privilege,
}

/// Whose future objects, where, and of which kind.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct DefaultsOf {
    /// The role that creates them.
    pub owner: RoleName,
    /// Schema and kind; never [`Kind::Schema`].
    pub group: Group,
}

/// All privileges that a principal declares.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct DesiredPrivileges {
    /// On databases themselves.
    pub databases: BTreeSet<DatabaseAsk>,
    /// On schemas and objects.
    pub objects: BTreeSet<Ask>,
    /// On future objects.
    pub defaults: BTreeSet<DefaultAsk>,
    /// In the databases named the role shall have exactly these.
    pub exclusive: bool,
}

/// What an object has asked for and not yet taken back: the memory by which it takes back what it gave
/// and nothing else. A privilege that was there before is not in here. Written in the role's comment
/// before anything is given.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Asked {
    /// Attributes that were changed, by their name in the spec (`login` when set to false).
    #[serde(skip_serializing_if = "BTreeSet::is_empty")]
    pub attributes: BTreeSet<String>,
    /// Settings, by name.
    #[serde(skip_serializing_if = "BTreeSet::is_empty")]
    pub settings: BTreeSet<String>,
    /// Roles it was made a member of.
    #[serde(skip_serializing_if = "BTreeSet::is_empty")]
    pub member_of: BTreeSet<String>,
    /// Of those roles: whose grants of the membership were there before. They stay.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub granted_before: BTreeMap<String, BTreeSet<String>>,
    /// Privileges on databases themselves.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub databases: BTreeMap<String, BTreeSet<Privilege>>,
    /// Privileges on schemas and objects.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub objects: Vec<AskedObjects>,
    /// Privileges on future objects.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub defaults: Vec<AskedDefaults>,
    /// What another version of the operator wrote and this one does not know: it is kept.
    #[serde(flatten)]
    pub others: BTreeMap<String, serde_json::Value>,
}

impl Asked {
    /// What of it can be on a server: no name there has a NUL, no message can carry one, and who has
    /// CREATEROLE can write any comment.
    #[must_use]
    pub fn possible(mut self) -> Self {
        let good = |text: &String| !text.contains('\0');
        self.settings.retain(good);
        self.member_of.retain(good);
        self.databases.retain(|name, _| good(name));
        self.objects
            .retain(|entry| good(&entry.database) && good(&entry.schema));
        for entry in &mut self.objects {
            entry.except.retain(good);
            if let Some(names) = &mut entry.names {
                names.retain(good);
            }
        }
        self.defaults.retain(|entry| {
            [&entry.database, &entry.owner, &entry.schema]
                .into_iter()
                .all(good)
        });
        self
    }
}

/// Some privileges of [`Asked`] on objects of one group. A field that is not known could mean less than
/// what is read without it.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct AskedObjects {
    /// The database.
    pub database: String,
    /// The schema.
    pub schema: String,
    /// The kind.
    pub kind: Kind,
    /// The objects; absent: all.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub names: Option<BTreeSet<String>>,
    /// Of all, those on which the privileges were there before.
    #[serde(default, skip_serializing_if = "BTreeSet::is_empty")]
    pub except: BTreeSet<String>,
    /// The privileges.
    pub privileges: BTreeSet<Privilege>,
}

/// Some privileges of [`Asked`] on future objects.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct AskedDefaults {
    /// The database.
    pub database: String,
    /// The role that creates them.
    pub owner: String,
    /// The schema.
    pub schema: String,
    /// The kind.
    pub kind: Kind,
    /// The privileges.
    pub privileges: BTreeSet<Privilege>,
}

/// Some objects of a group.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Names {
    /// These.
    Only(BTreeSet<String>),
    /// All but these.
    AllBut(BTreeSet<String>),
}

/// One change of a role's privileges in one database. The steps of one database go in one message.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum PrivilegeStep {
    /// GRANT; of all objects, only on those that lack the privilege and on which it can be given.
    Grant {
        /// Kind and schema.
        group: Group,
        /// Which objects.
        names: Names,
        /// The privileges.
        privileges: BTreeSet<Privilege>,
    },
    /// REVOKE, on those objects that have it.
    Revoke {
        /// Kind and schema.
        group: Group,
        /// Which objects.
        names: Names,
        /// The privileges.
        privileges: BTreeSet<Privilege>,
        /// Also what others granted for whom we can speak, not only what is recorded as our own grants are.
        of_others: bool,
    },
    /// REVOKE of all that it has on single columns of a table.
    RevokeColumns {
        /// The schema; the kind is [`Kind::Table`].
        group: Group,
        /// The table.
        name: String,
        /// The privileges, with their columns.
        columns: BTreeMap<Privilege, BTreeSet<String>>,
    },
    /// ALTER DEFAULT PRIVILEGES ... GRANT.
    GrantDefault {
        /// Whose future objects.
        of: DefaultsOf,
        /// The privileges.
        privileges: BTreeSet<Privilege>,
    },
    /// ALTER DEFAULT PRIVILEGES ... REVOKE.
    RevokeDefault {
        /// Whose future objects.
        of: DefaultsOf,
        /// The privileges.
        privileges: BTreeSet<Privilege>,
    },
}

/// What a principal wants to know of one database.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct DatabaseInterest {
    /// These groups: how many objects there are.
    pub groups: BTreeSet<Group>,
    /// These objects: whether they are there. A schema is asked for by every group and object in it.
    pub objects: BTreeSet<Object>,
    /// These creators of future objects: whether we may speak for them.
    pub owners: BTreeSet<RoleName>,
}

impl DatabaseInterest {
    /// The schemas of its groups and objects.
    pub fn schemas(&self) -> BTreeSet<&str> {
        let of_groups = self.groups.iter().map(|group| group.schema.as_str());
        let of_objects = self.objects.iter();
        of_groups
            .chain(of_objects.map(|object| object.group.schema.as_str()))
            .collect()
    }

    /// The two halves of it; `None`: it cannot be less.
    pub fn halves(&self) -> Option<[Self; 2]> {
        let count = self.groups.len() + self.objects.len() + self.owners.len();
        let mut left = count / 2;
        if left == 0 {
            return None;
        }
        let mut halves = [Self::default(), Self::default()];
        let mut next = || {
            let second = left == 0;
            left = left.saturating_sub(1);
            usize::from(second)
        };
        for group in &self.groups {
            if let Some(half) = halves.get_mut(next()) {
                half.groups.insert(group.clone());
            }
        }
        for object in &self.objects {
            if let Some(half) = halves.get_mut(next()) {
                half.objects.insert(object.clone());
            }
        }
        for owner in &self.owners {
            if let Some(half) = halves.get_mut(next()) {
                half.owners.insert(owner.clone());
            }
        }
        Some(halves)
    }

    /// Adds another's.
    pub fn extend(&mut self, other: &Self) {
        self.groups.extend(other.groups.iter().cloned());
        self.objects.extend(other.objects.iter().cloned());
        self.owners.extend(other.owners.iter().cloned());
    }
}
