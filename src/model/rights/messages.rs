//! The sentences about privileges that cannot be as declared, with the exact SQL for a database
//! administrator. Decides nothing.

use std::collections::{BTreeMap, BTreeSet};

use postgres_protocol::escape::escape_identifier;

use super::record::together;
use crate::api::Privilege;
use crate::model::{
    Class, DefaultsOf, Failure, Group, Kind, Object, ObjectKey, Reason, RoleName, ServerFacts,
    written,
};

/// The server's own role whose only member is whoever owns the database.
pub(super) const DATABASE_OWNER: &str = "pg_database_owner";

/// So many objects are named in a message and its statement; of more it says how many there are.
const NAMED: usize = 10;
/// So many bytes of each list of names: a condition's message is no place for more.
const LENGTH: usize = 2_000;

/// Something that somebody must change on the server.
pub(super) fn failure(reason: Reason, message: impl Into<String>) -> Failure {
    Failure::new(Class::Denied, reason, message)
}

/// A name as SQL has it.
pub fn ident(name: &str) -> String {
    escape_identifier(name)
}

/// Where something is wrong.
#[derive(Clone, Copy)]
pub(super) struct Place<'a> {
    pub server: &'a ObjectKey,
    pub facts: &'a ServerFacts,
    pub role: &'a RoleName,
    pub database: &'a str,
    /// Who owns the database, and so has the privileges of `pg_database_owner` there.
    pub owner: Option<&'a RoleName>,
    /// Roles whose privileges nobody lends.
    pub superusers: Option<&'a BTreeSet<RoleName>>,
}

/// Privileges on objects of a group that are in somebody else's hands.
pub(super) type Stuck = BTreeMap<(Group, RoleName), BTreeSet<(String, Privilege)>>;

/// Privileges on columns of a table that somebody granted for whom we cannot speak.
pub(super) type FixedColumns = BTreeMap<(Object, RoleName), BTreeMap<Privilege, BTreeSet<String>>>;

impl Place<'_> {
    pub(super) fn database_absent(&self) -> Failure {
        let what = "there is no such database; its privileges are given when there is";
        failure(Reason::ObjectNotFound, self.say(what))
    }

    pub(super) fn not_accessible(&self, open: bool) -> Failure {
        if !open {
            let what = format!(
                "it takes no connections, and privileges in it can be given when it does: ALTER DATABASE {} \
                 ALLOW_CONNECTIONS true",
                ident(self.database)
            );
            return failure(Reason::DatabaseNotAccessible, self.say(&what));
        }
        let statement = format!(
            "GRANT CONNECT ON DATABASE {} TO {}",
            ident(self.database),
            self.administrator()
        );
        let what = format!(
            "the operator's administrator {} may not connect to it; a database administrator can give \
             that: {statement}",
            self.administrator()
        );
        failure(Reason::DatabaseNotAccessible, self.say(&what))
    }

    pub(super) fn not_looked_at(&self) -> Failure {
        let message = self.say("it was not looked at yet; that is done at the next snapshot");
        Failure::new(Class::Waiting, Reason::DatabaseNotAccessible, message)
    }

    pub(super) fn schema_absent(&self, schema: &str) -> Failure {
        let what = format!("there is no schema {schema:?}; its privileges are given when there is");
        failure(Reason::ObjectNotFound, self.say(&what))
    }

    /// `absent`: names, and for functions the signatures that there are instead.
    pub(super) fn objects_absent(
        &self,
        group: &Group,
        absent: &BTreeMap<String, BTreeSet<String>>,
    ) -> Failure {
        let describe = |(name, others): (&String, &BTreeSet<String>)| {
            if others.is_empty() {
                return format!("{name:?}");
            }
            let others: Vec<String> = others.iter().map(|other| format!("{other:?}")).collect();
            format!("{name:?} (there is {})", others.join(", "))
        };
        let what = format!(
            "in schema {:?} there is no {} {}; privileges on it are given when there is",
            group.schema,
            group.kind,
            shortened(absent.iter().map(describe))
        );
        failure(Reason::ObjectNotFound, self.say(&what))
    }

    pub(super) fn owner_absent(&self, owner: &RoleName) -> Failure {
        let what = format!(
            "there is no role {:?} whose default privileges could be changed; they are when there is",
            owner.as_str()
        );
        failure(Reason::ObjectNotFound, self.say(&what))
    }

    pub(super) fn no_maintain(&self) -> Failure {
        let what = format!(
            "MAINTAIN needs PostgreSQL 17, the server has {}: remove it from grants and \
             defaultPrivileges",
            self.facts.version_num / 10_000
        );
        failure(Reason::NotSupportedByVersion, self.say(&what))
    }

    pub(super) fn database_not_grantable(
        &self,
        owner: &RoleName,
        privileges: &BTreeSet<Privilege>,
    ) -> Failure {
        let what = format!(
            "the operator's administrator {} may not grant {} on it; its owner {} can: GRANT {} ON \
             DATABASE {} TO {}",
            self.administrator(),
            words(privileges),
            ident(owner.as_str()),
            words(privileges),
            ident(self.database),
            self.grantee()
        );
        failure(Reason::NotGrantable, self.say(&what))
    }

    pub(super) fn database_not_revocable(
        &self,
        owner: &RoleName,
        privileges: &BTreeSet<Privilege>,
    ) -> Failure {
        let what = format!(
            "the operator's administrator {} may not revoke {} on it; its owner {} can: REVOKE {} ON \
             DATABASE {} FROM {}",
            self.administrator(),
            words(privileges),
            ident(owner.as_str()),
            words(privileges),
            ident(self.database),
            self.grantee()
        );
        failure(Reason::NotRevocable, self.say(&what))
    }

    pub(super) fn database_of_another(
        &self,
        grantor: &RoleName,
        privileges: &BTreeSet<Privilege>,
    ) -> Failure {
        let what = format!(
            "{privileges} on it shall go and was granted by role {:?}; a database administrator can: SET ROLE \
             {by}; REVOKE {privileges} ON DATABASE {} FROM {}; RESET ROLE",
            grantor.as_str(),
            ident(self.database),
            self.grantee(),
            privileges = words(privileges),
            by = ident(grantor.as_str())
        );
        failure(Reason::NotRevocable, self.say(&what))
    }

    pub(super) fn not_grantable(&self, stuck: &Stuck) -> Vec<Failure> {
        let each = |group: &Group,
                    owner: &RoleName,
                    names: &BTreeSet<String>,
                    what: &BTreeSet<_>| {
            let behind = self.behind(owner);
            let statement = objects(group, names).map(|objects| {
                format!(": GRANT {} ON {objects} TO {}", words(what), self.grantee())
            });
            let text = format!(
                "the operator's administrator {} may not grant {} on {}; their owner {} can{}{}",
                self.administrator(),
                words(what),
                described(group, names),
                ident(behind.as_str()),
                statement.unwrap_or_default(),
                (self.lend(owner))
                    .map(|lend| format!("; or, so that it may from now on: {lend}"))
                    .unwrap_or_default()
            );
            failure(Reason::NotGrantable, self.say(&text))
        };
        each_of(stuck, each)
    }

    pub(super) fn not_revocable(&self, stuck: &Stuck) -> Vec<Failure> {
        let each = |group: &Group, by: &RoleName, names: &BTreeSet<String>, what: &BTreeSet<_>| {
            // For objects only the grantor itself may revoke.
            let statement = objects(group, names).map(|objects| {
                format!(
                    ": SET ROLE {by}; REVOKE {} ON {objects} FROM {}; RESET ROLE",
                    words(what),
                    self.grantee(),
                    by = ident(by.as_str())
                )
            });
            let text = format!(
                "{} on {} shall go, was granted by role {:?} and cannot be revoked by the operator's \
                 administrator {}; a database administrator can{}",
                words(what),
                described(group, names),
                by.as_str(),
                self.administrator(),
                statement.unwrap_or_default()
            );
            failure(Reason::NotRevocable, self.say(&text))
        };
        each_of(stuck, each)
    }

    pub(super) fn columns_not_revocable(&self, fixed: &FixedColumns) -> Vec<Failure> {
        let each = |((table, by), columns): (&(Object, RoleName), &BTreeMap<_, _>)| {
            let statement = written::object(&table.group, &table.name).map(|on| {
                format!(
                    ": SET ROLE {by}; REVOKE {} ON TABLE {on} FROM {}; RESET ROLE",
                    written::columns(columns),
                    self.grantee(),
                    by = ident(by.as_str())
                )
            });
            let text = format!(
                "privileges on columns of table {:?} of schema {:?} shall go, were granted by role {:?} and \
                 cannot be revoked by the operator's administrator {}; a database administrator can{}",
                table.name,
                table.group.schema,
                by.as_str(),
                self.administrator(),
                statement.unwrap_or_default()
            );
            failure(Reason::NotRevocable, self.say(&text))
        };
        fixed.iter().map(each).collect()
    }

    pub(super) fn defaults_not_grantable(
        &self,
        owner: &RoleName,
        privileges: &BTreeSet<Privilege>,
    ) -> Failure {
        let what = format!(
            "default privileges ({}) for what role {:?} will create: the operator's administrator {} has \
             not that role's privileges; {}",
            words(privileges),
            owner.as_str(),
            self.administrator(),
            self.lend(owner).map_or_else(
                || "nobody lends them, so that role itself has to ALTER DEFAULT PRIVILEGES"
                    .to_owned(),
                |lend| format!("a database administrator can give them: {lend}")
            )
        );
        failure(Reason::NotGrantable, self.say(&what))
    }

    pub(super) fn defaults_not_revocable(
        &self,
        of: &DefaultsOf,
        privileges: &BTreeSet<Privilege>,
    ) -> Failure {
        let what = format!(
            "default privileges ({privileges}) for what role {:?} will create in schema {:?} shall go, and \
             the operator's administrator {} has not that role's privileges; a database administrator \
             can: ALTER DEFAULT PRIVILEGES FOR ROLE {} IN SCHEMA {} REVOKE {privileges} ON {}S FROM {}",
            of.owner.as_str(),
            of.group.schema,
            self.administrator(),
            ident(of.owner.as_str()),
            ident(&of.group.schema),
            of.group.kind.to_string().to_uppercase(),
            self.grantee(),
            privileges = words(privileges)
        );
        failure(Reason::NotRevocable, self.say(&what))
    }

    /// Of all objects of a group, those that are not the operator's to give and that nobody owes.
    pub(super) fn spared(&self, group: &Group, pairs: &BTreeSet<(String, Privilege)>) -> String {
        let names: BTreeSet<String> = pairs.iter().map(|(name, _)| name.clone()).collect();
        let privileges: BTreeSet<Privilege> = pairs.iter().map(|(_, it)| *it).collect();
        self.say(&format!(
            "{} on {} is not granted: an extension or a superuser has them, or everybody has it (PUBLIC); \
             all others have it",
            words(&privileges),
            described(group, &names)
        ))
    }

    /// Many roles have privileges on one object.
    pub(super) fn crowded(&self, what: &str, grantees: u32) -> String {
        self.say(&format!(
            "{grantees} roles have privileges on {what} directly, and PostgreSQL cannot store more than \
             about 2350: grant to a group role and make this role a member of it (memberOf)"
        ))
    }

    /// Who that owner is: nobody signs in as `pg_database_owner`, whose privileges the database's owner has.
    fn behind<'o>(&'o self, owner: &'o RoleName) -> &'o RoleName {
        match self.owner {
            Some(of_database) if owner.as_str() == DATABASE_OWNER => of_database,
            _ => owner,
        }
    }

    /// The statement that lends us the privileges of another role; `None`: nobody should, or Azure lets
    /// nobody, as of a superuser or one of its own roles.
    fn lend(&self, owner: &RoleName) -> Option<String> {
        // What is known of `pg_database_owner` is known of the database's owner.
        if self.superusers.is_some_and(|roles| roles.contains(owner)) {
            return None;
        }
        let owner = self.behind(owner);
        let reserved = ["azuresu", "azure_pg_admin"].contains(&owner.as_str())
            || owner.as_str().starts_with("pg_");
        if reserved || self.superusers.is_some_and(|roles| roles.contains(owner)) {
            return None;
        }
        let options = if self.facts.version_num >= 160_000 {
            " WITH INHERIT TRUE"
        } else {
            ""
        };
        Some(format!(
            "GRANT {} TO {}{options}",
            ident(owner.as_str()),
            self.administrator()
        ))
    }

    fn administrator(&self) -> String {
        ident(&self.facts.administrator)
    }

    fn grantee(&self) -> String {
        ident(self.role.as_str())
    }

    fn say(&self, what: &str) -> String {
        format!(
            "role {:?} on server {}, database {:?}: {what}",
            self.role.as_str(),
            self.server,
            self.database
        )
    }
}

/// One failure for all objects of a group that share who has them in hand, and the privileges.
fn each_of(
    stuck: &Stuck,
    each: impl Fn(&Group, &RoleName, &BTreeSet<String>, &BTreeSet<Privilege>) -> Failure,
) -> Vec<Failure> {
    let mut failures = Vec::new();
    for ((group, who), pairs) in stuck {
        // Objects that share their privileges share a statement.
        let by_name = together(pairs.iter().cloned());
        let by_privileges = together(by_name.into_iter().map(|(name, what)| (what, name)));
        let all = by_privileges.iter();
        failures.extend(all.map(|(what, names)| each(group, who, names, what)));
    }
    failures
}

/// Privileges as SQL lists them.
fn words(privileges: &BTreeSet<Privilege>) -> String {
    let words: Vec<String> = privileges.iter().map(ToString::to_string).collect();
    words.join(", ")
}

/// For people: kind, names and how many.
fn described(group: &Group, names: &BTreeSet<String>) -> String {
    let Group { schema, kind } = group;
    if *kind == Kind::Schema {
        return format!("schema {schema:?}");
    }
    let listed = shortened(names.iter().map(|name| format!("{name:?}")));
    format!(
        "{} {kind}{} of schema {schema:?} ({listed})",
        names.len(),
        if names.len() == 1 { "" } else { "s" }
    )
}

/// For a statement: the first objects, as GRANT and REVOKE name them. `None`: there is none that can be
/// written.
fn objects(group: &Group, names: &BTreeSet<String>) -> Option<String> {
    let word = written::sort(group.kind);
    if group.kind == Kind::Schema {
        return Some(format!("{word} {}", ident(&group.schema)));
    }
    let objects = names.iter().filter_map(|name| written::object(group, name));
    let first: Vec<String> = objects.take(NAMED).collect();
    (!first.is_empty()).then(|| format!("{word} {}", first.join(", ")))
}

/// The first of some names, and how many more there are.
fn shortened(names: impl ExactSizeIterator<Item = String>) -> String {
    let total = names.len();
    let mut listed = String::new();
    let mut shown = 0;
    for name in names.take(NAMED) {
        if shown > 0 && listed.len() + name.len() > LENGTH {
            break;
        }
        if shown > 0 {
            listed.push_str(", ");
        }
        listed.push_str(&name);
        shown += 1;
    }
    if shown < total {
        listed = format!("{listed} and {} more", total - shown);
    }
    listed
}
