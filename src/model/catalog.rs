//! What one server's catalog said about the roles we care for: one snapshot serves every principal.

mod change;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use super::attribute::{
    Attributes, DatabaseEntry, DatabasePrivileges, Membership, Memberships, TargetFacts,
};
use super::marker::{MadeFor, Marker, Unreadable};
use super::{Basis, DatabaseCatalog, DatabaseInterest, ObjectId, RoleName};

/// How a role is bound to an Entra identity, as the server resolved it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct EntraLabel {
    /// The identity.
    pub object_id: ObjectId,
    /// `user`, `group` or `service`.
    pub entra_type: String,
    /// Whether it is an Entra administrator.
    pub admin: bool,
    /// Whether sign-in needs multifactor authentication.
    pub mfa: bool,
}

/// One role as the catalog has it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct RoleFacts {
    /// `pg_roles.oid`: another one under the same name means the role was dropped and made again.
    pub oid: u32,
    /// Whether the role may sign in.
    pub can_login: bool,
    /// The Entra binding; `None` when the role has no `pgaadauth` label.
    pub label: Option<EntraLabel>,
    /// The role's comment, raw: our marker or anybody's text. Of one that is too long its beginning.
    pub comment: Option<String>,
    /// What it has (memberships, settings, privileges on databases) is more than is read: so many bytes.
    pub too_large: Option<u64>,
    /// How many bytes a comment has that is too long to be read whole.
    pub comment_cut: Option<u64>,
    /// The MD5 of the whole comment: what is changed is changed only while it stays the same.
    pub comment_md5: Option<String>,
    /// Superuser, REPLICATION or BYPASSRLS. CREATEROLE is in `attributes`.
    pub privileged: bool,
    /// Of the roles it is a direct member of, those that are `azure_pg_admin`, `azuresu` or a `pg_*` role, or
    /// members of one, even indirectly.
    pub administrative: BTreeSet<RoleName>,
    /// Its other attributes.
    pub attributes: Attributes,
    /// Its settings for all databases, by name in lower case, as the server stores them.
    pub settings: BTreeMap<String, String>,
    /// What it is a member of.
    pub memberships: Memberships,
    /// What it has directly on databases themselves.
    pub databases: DatabasePrivileges,
    /// What of that others gave: under a grantor whom no grant of ours is recorded under.
    pub databases_of_others: BTreeMap<String, BTreeMap<crate::api::Privilege, OfOthers>>,
}

/// A privilege that somebody else granted.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct OfOthers {
    /// Who, or one of them.
    pub grantor: RoleName,
    /// And nobody as whom a grant of ours would be recorded.
    pub only: bool,
    /// Which declared administrator of the server granted it too: as that one we may have.
    pub by_admin: Option<RoleName>,
}

impl RoleFacts {
    /// The marker in its comment, if it has one.
    ///
    /// # Errors
    /// Why it cannot be read.
    pub fn marker(&self) -> Result<Option<Marker>, Unreadable> {
        let read = self.comment.as_deref().map_or(Ok(None), Marker::read);
        match (self.comment_cut, read) {
            (Some(bytes), Ok(Some(_)) | Err(_)) => Err(Unreadable(format!(
                "the comment has {bytes} bytes, more than is read"
            ))),
            (_, read) => read,
        }
    }

    /// What changes of it are decided on.
    pub fn basis(&self) -> Basis {
        if self.comment_cut.is_some() {
            return Basis::Nothing;
        }
        Basis::Comment(self.comment_md5.clone())
    }

    /// What the server's owner writes to let a comment count as one without a marker.
    pub fn comment_word(&self) -> Option<String> {
        let cut = self.comment_cut.map(|bytes| format!("{bytes}-bytes"));
        self.comment_md5.clone().or(cut)
    }

    /// Whether it has administrative rights of any kind.
    pub fn is_administrative(&self) -> bool {
        self.privileged || self.attributes.create_role || !self.administrative.is_empty()
    }
}

/// What a principal wants to know of a server beside its own role.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Interest {
    /// Who has these object ids.
    pub ids: BTreeSet<ObjectId>,
    /// The roles it wants to be a member of, is to leave, or leaves what it owns to.
    pub targets: BTreeSet<RoleName>,
    /// The databases in which it has, or shall have, privileges, and on what.
    pub databases: BTreeMap<String, DatabaseInterest>,
}

impl Interest {
    /// Who has this object id, if one is given.
    pub fn in_id(id: Option<&ObjectId>) -> Self {
        Self {
            ids: id.into_iter().cloned().collect(),
            ..Self::default()
        }
    }

    /// Adds another's.
    pub fn extend(&mut self, other: &Self) {
        self.ids.extend(other.ids.iter().cloned());
        self.targets.extend(other.targets.iter().cloned());
        for (database, interest) in &other.databases {
            let known = self.databases.entry(database.clone()).or_default();
            known.extend(interest);
        }
    }
}

/// What a question to database `postgres` is about, or what a change touched.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Subjects {
    /// These roles.
    pub names: BTreeSet<RoleName>,
    /// The roles with these object ids.
    pub ids: BTreeSet<ObjectId>,
    /// These roles, as ones that others may become members of.
    pub targets: BTreeSet<RoleName>,
    /// These databases, from outside.
    pub databases: BTreeSet<String>,
}

impl Subjects {
    /// One role.
    pub fn role(role: &RoleName) -> Self {
        Self {
            names: BTreeSet::from([role.clone()]),
            ..Self::default()
        }
    }

    /// Adds a role with what its principal is interested in.
    pub fn add(&mut self, role: &RoleName, interest: &Interest) {
        self.names.insert(role.clone());
        self.ids.extend(interest.ids.iter().cloned());
        self.targets.extend(interest.targets.iter().cloned());
        self.databases.extend(interest.databases.keys().cloned());
    }

    /// Adds another's.
    pub fn extend(&mut self, other: Self) {
        self.names.extend(other.names);
        self.ids.extend(other.ids);
        self.targets.extend(other.targets);
        self.databases.extend(other.databases);
    }
}

/// Roles with an Entra identity but without the marker of any operator; administrators apart.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Unmanaged {
    /// How many.
    pub count: u32,
    /// The first 20 by name.
    pub names: Vec<String>,
    /// How many further ones the server made for members of groups.
    pub group_members: u32,
}

/// A role that has an object id.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Holder {
    /// The role's name.
    pub role: RoleName,
    /// Whether it is an Entra administrator of the server.
    pub admin: bool,
    /// The object that it was made for, as the marker in its comment says.
    pub made_for: Option<MadeFor>,
}

impl Holder {
    /// A role that was made for no object.
    pub fn new(role: RoleName, admin: bool) -> Self {
        Self {
            role,
            admin,
            made_for: None,
        }
    }
}

/// Roles by object id. A set, because nobody promises that an id is on one role only.
pub type Holders = BTreeMap<ObjectId, BTreeSet<Holder>>;

/// What a principal sees of the server: its role, and who else has its object id.
#[derive(Clone, Debug, PartialEq, Eq, Default)]
pub struct RoleView {
    /// The role; `None`: surely absent.
    pub role: Option<RoleFacts>,
    /// Who has the id asked for, the role's own, and those of all administrators: of several
    /// roles with one id an administrator first, then one other than the role itself.
    pub holders: BTreeMap<ObjectId, Holder>,
    /// Of the targets asked for, those that exist.
    pub targets: BTreeMap<RoleName, TargetFacts>,
    /// Of the databases asked for, those that exist.
    pub databases: BTreeMap<String, DatabaseEntry>,
    /// What is known of the server itself.
    pub server: ServerFacts,
}

/// What decides how things are done on a server.
#[derive(Clone, Debug, PartialEq, Eq, Default)]
pub struct ServerFacts {
    /// `server_version_num`, for example 160004.
    pub version_num: u32,
    /// The role we are signed in as.
    pub administrator: String,
    /// Whether the server lets us manage roles of others without ADMIN OPTION (Azure's improved control
    /// of `azure_pg_admin`); `None`: not tried yet.
    pub improved_control: Option<bool>,
    /// What roles may set for themselves.
    pub parameters: Arc<Parameters>,
}

/// Which parameters of the server a role may set for itself. Names are in lower case.
#[derive(Clone, Debug, PartialEq, Eq, Default)]
pub struct Parameters {
    /// Those.
    pub free: BTreeSet<String>,
    /// The others that the server knows and shows.
    pub bound: BTreeSet<String>,
}

impl Parameters {
    /// Whether a role may set it for itself. One with a dot that nobody knows is only text. One without is
    /// unknown, or one that the server hides from us.
    pub fn are_free(&self, name: &str) -> bool {
        self.free.contains(name) || (name.contains('.') && !self.bound.contains(name))
    }
}

/// One server's catalog, as far as it was asked for.
#[derive(Clone, Debug, PartialEq, Eq, Default)]
pub struct Catalog {
    /// The server's version as it prints it, for example `16.4`.
    pub version: String,
    /// `server_version_num`, for example 160004.
    pub version_num: u32,
    /// The role we are signed in as.
    pub administrator: String,
    /// A replica, in recovery, or with read-only transactions.
    pub read_only: bool,
    /// Whether `pgaadauth.enable_group_sync` is on.
    pub group_sync: bool,
    /// The names that were asked for: what is in here and not in `roles` is absent.
    pub covers: BTreeSet<RoleName>,
    /// The object ids that were asked for.
    pub covers_ids: BTreeSet<ObjectId>,
    /// The targets that were asked for.
    pub covers_targets: BTreeSet<RoleName>,
    /// The databases that were asked for.
    pub covers_databases: BTreeSet<String>,
    /// Roles asked for or carrying our marker.
    pub roles: BTreeMap<RoleName, RoleFacts>,
    /// Roles by object id, of the ids asked for, of `roles`, and of all administrators.
    pub holders: Holders,
    /// The identities whose tokens we sign in with, and as which administrator. Where that is a group,
    /// the server lists only the group's object id.
    pub operators: BTreeMap<ObjectId, RoleName>,
    /// Targets that exist.
    pub targets: BTreeMap<RoleName, TargetFacts>,
    /// Databases that exist, of those asked for.
    pub databases: BTreeMap<String, DatabaseEntry>,
    /// Roles that no operator manages.
    pub unmanaged: Unmanaged,
    /// See [`ServerFacts::improved_control`].
    pub improved_control: Option<bool>,
    /// See [`ServerFacts::parameters`].
    pub parameters: Arc<Parameters>,
    /// What is in the databases, as far as it was asked for.
    pub inside: BTreeMap<String, Arc<DatabaseCatalog>>,
}

/// The answer to a question about some roles and object ids.
#[derive(Clone, Debug, PartialEq, Eq, Default)]
pub struct Facts {
    /// The names that were asked for.
    pub names: BTreeSet<RoleName>,
    /// The object ids that were asked for.
    pub ids: BTreeSet<ObjectId>,
    /// The targets that were asked for.
    pub target_names: BTreeSet<RoleName>,
    /// The databases that were asked for.
    pub database_names: BTreeSet<String>,
    /// Those of the roles that exist.
    pub roles: BTreeMap<RoleName, RoleFacts>,
    /// Roles by object id, of the ids asked for and of `roles`.
    pub holders: Holders,
    /// Those of the targets that exist.
    pub targets: BTreeMap<RoleName, TargetFacts>,
    /// Those of the databases that exist.
    pub databases: BTreeMap<String, DatabaseEntry>,
}

impl Catalog {
    /// What a principal sees; `None` when the catalog was not asked about all of it. What is inside
    /// databases is not looked at.
    pub fn view(&self, role: &RoleName, interest: &Interest) -> Option<RoleView> {
        let databases = || interest.databases.keys();
        let asked = self.covers.contains(role)
            && interest.ids.is_subset(&self.covers_ids)
            && interest.targets.is_subset(&self.covers_targets)
            && databases().all(|database| self.covers_databases.contains(database));
        asked.then(|| RoleView {
            role: self
                .roles
                .get(role)
                .cloned()
                .map(|facts| self.hopeful(facts)),
            holders: self.holders_for(role, &interest.ids),
            targets: of(&self.targets, &interest.targets),
            databases: of(&self.databases, databases()),
            server: self.server(),
        })
    }

    /// What decides how things are done on the server.
    pub fn server(&self) -> ServerFacts {
        ServerFacts {
            version_num: self.version_num,
            administrator: self.administrator.clone(),
            improved_control: self.improved_control,
            parameters: Arc::clone(&self.parameters),
        }
    }

    /// Whether the server takes memberships back that others gave, and in whose name it gives ours, is known
    /// after a first try only.
    fn hopeful(&self, mut facts: RoleFacts) -> RoleFacts {
        if self.improved_control != Some(false) {
            let all = facts.memberships.into_iter().map(|(role, rows)| {
                let known = self.improved_control.is_some() || !rows.iter().any(|row| row.ours);
                let rows = rows.into_iter().map(move |row| Membership {
                    revocable: true,
                    ours: row.ours || (row.by_server && known),
                    ..row
                });
                (role, rows.collect())
            });
            facts.memberships = all.collect();
        }
        facts
    }

    /// Forgets what was covered: whoever looks, asks.
    pub fn uncover(&mut self) {
        self.covers.clear();
        self.covers_ids.clear();
        self.covers_targets.clear();
        self.covers_databases.clear();
    }

    /// The role, and what of this interest was not asked yet.
    pub fn unknown(&self, role: &RoleName, interest: &Interest) -> Subjects {
        let mut subjects = Subjects::default();
        subjects.add(role, interest);
        subjects.ids.retain(|id| !self.covers_ids.contains(id));
        subjects
            .targets
            .retain(|target| !self.covers_targets.contains(target));
        subjects
            .databases
            .retain(|database| !self.covers_databases.contains(database));
        subjects
    }

    /// Whether a database is surely not there, or closed to us: to connect to it would be in vain.
    pub fn is_shut(&self, database: &str) -> bool {
        let entry = self.databases.get(database);
        self.covers_databases.contains(database) && !entry.is_some_and(|entry| entry.connectable)
    }

    /// What is in a database; `None` when that was not asked yet.
    pub fn view_inside(
        &self,
        role: &RoleName,
        database: &str,
        interest: &DatabaseInterest,
    ) -> Option<Arc<DatabaseCatalog>> {
        let inside = self.inside.get(database)?;
        inside.covers(role, interest).then(|| Arc::clone(inside))
    }

    /// The [`RoleView::holders`] of a role, as far as they were asked for: administrators always.
    pub fn holders_for(
        &self,
        role: &RoleName,
        ids: &BTreeSet<ObjectId>,
    ) -> BTreeMap<ObjectId, Holder> {
        let label = self.roles.get(role).and_then(|facts| facts.label.as_ref());
        let own = label.map(|label| &label.object_id);
        let held = self.holders.iter().filter_map(|(held, roles)| {
            let first = roles
                .iter()
                .max_by_key(|holder| (holder.admin, holder.role != *role))?;
            let seen = first.admin || ids.contains(held) || Some(held) == own;
            seen.then(|| (held.clone(), first.clone()))
        });
        let mut seen: BTreeMap<ObjectId, Holder> = held.collect();
        for (id, role) in &self.operators {
            let role = role.clone();
            seen.insert(id.clone(), Holder::new(role, true));
        }
        seen
    }
}

/// Those entries of a map that are asked for.
fn of<'a, K: Ord + Clone + 'a, V: Clone>(
    map: &BTreeMap<K, V>,
    keys: impl IntoIterator<Item = &'a K>,
) -> BTreeMap<K, V> {
    let entries = keys
        .into_iter()
        .filter_map(|key| map.get_key_value(key))
        .map(|(key, value)| (key.clone(), value.clone()));
    entries.collect()
}

#[cfg(test)]
mod tests;
