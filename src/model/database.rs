//! What one database's catalog said about objects, and about the privileges of the roles we care for.

use std::collections::{BTreeMap, BTreeSet};

use super::RoleName;
use super::privilege::{DatabaseInterest, DefaultsOf, Group, Object};
use crate::api::Privilege;

/// One object, or a schema.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ObjectFacts {
    /// Who owns it.
    pub owner: RoleName,
    /// What we may grant on it, and take back.
    pub grantable: BTreeSet<Privilege>,
    /// How many roles have privileges on it directly.
    pub grantees: u32,
}

/// The objects of one group.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct GroupFacts {
    /// How many there are.
    pub total: u32,
    /// Those on which we may not grant a privilege, by who owns them.
    pub ungrantable: BTreeMap<Privilege, BTreeMap<RoleName, BTreeSet<String>>>,
    /// Of those, the ones where nobody owes it: they are an extension's or a superuser's, or PUBLIC has it.
    pub spared: BTreeMap<Privilege, BTreeSet<String>>,
    /// The object with the most direct grantees, and how many it has.
    pub most_grantees: Option<(String, u32)>,
}

/// On which objects of a group a role has a privilege directly.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum On {
    /// On all there are, at least one. Of a group that was not asked for it is only said when none of
    /// them is fixed or others' only: how many there are is not known then.
    All,
    /// On these only.
    Some(BTreeSet<String>),
}

impl On {
    /// Whether it has it on that object, if that exists.
    pub fn has(&self, name: &str) -> bool {
        match self {
            Self::All => true,
            Self::Some(names) => names.contains(name),
        }
    }
}

/// A privilege that a role has on objects of one group.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Holding {
    /// On which.
    pub on: On,
    /// Of those, the ones where it was granted by somebody for whom we cannot revoke, and by whom.
    pub fixed: BTreeMap<String, RoleName>,
    /// The same where a grant of our own would be recorded under that very grantor.
    pub stuck: BTreeMap<String, RoleName>,
    /// Those that were granted only by others: under a grantor whom no grant of ours is recorded under.
    pub others: BTreeSet<String>,
    /// Of those, the ones it owns itself: it needs no privilege there, and none is taken.
    pub owned: BTreeSet<String>,
}

/// A privilege that a role has on one column of a table that is not its own.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct HeldColumn {
    /// The table.
    pub table: Object,
    /// The privilege.
    pub privilege: Privilege,
    /// The column.
    pub column: String,
    /// Who granted it, if we cannot revoke for him.
    pub fixed: Option<RoleName>,
}

/// What one role has in one database. No entry: nothing.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Held {
    /// On schemas and objects. What it owns itself, where it needs no privilege, is named among them as
    /// soon as it has the privilege on any other of the group, and never fixed.
    pub objects: BTreeMap<(Group, Privilege), Holding>,
    /// Of the groups asked for, those of which it owns every object, at least one.
    pub owned: BTreeSet<Group>,
    /// On single columns.
    pub columns: BTreeSet<HeldColumn>,
    /// On future objects.
    pub defaults: BTreeSet<(DefaultsOf, Privilege)>,
}

/// What one database's catalog said, as far as it was asked; also the answer to one question.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct DatabaseCatalog {
    /// The roles whose privileges were asked for.
    pub roles: BTreeSet<RoleName>,
    /// The objects that were asked for: what is in here and not below is absent.
    pub asked: DatabaseInterest,
    /// Schemas.
    pub schemas: BTreeMap<String, ObjectFacts>,
    /// Objects asked for by name.
    pub objects: BTreeMap<Object, ObjectFacts>,
    /// Groups asked for; one in a schema that exists is always there.
    pub groups: BTreeMap<Group, GroupFacts>,
    /// For functions asked for that do not exist: the signatures there are under that name.
    pub signatures: BTreeMap<Object, BTreeSet<String>>,
    /// Creators of future objects that exist: whether we may speak for them.
    pub owners: BTreeMap<RoleName, bool>,
    /// Of the owners of what we may not grant on, and of those creators, who is a superuser: nobody lends us
    /// their privileges.
    pub superusers: BTreeSet<RoleName>,
    /// What roles have.
    pub held: BTreeMap<RoleName, Held>,
}

impl DatabaseCatalog {
    /// Whether it was asked about all this.
    pub fn covers(&self, role: &RoleName, interest: &DatabaseInterest) -> bool {
        self.roles.contains(role)
            && interest.groups.is_subset(&self.asked.groups)
            && interest.objects.is_subset(&self.asked.objects)
            && interest.owners.is_subset(&self.asked.owners)
    }

    /// Takes in an answer that is newer.
    pub fn fold(&mut self, newer: Self) {
        let Self {
            roles,
            asked,
            schemas,
            objects,
            groups,
            signatures,
            owners,
            superusers,
            held,
        } = newer;
        self.held.retain(|role, _| !roles.contains(role));
        for object in &asked.objects {
            self.objects.remove(object);
            self.signatures.remove(object);
        }
        self.groups.retain(|group, _| !asked.groups.contains(group));
        self.owners.retain(|owner, _| !asked.owners.contains(owner));
        let wanted = asked.schemas();
        self.schemas
            .retain(|schema, _| !wanted.contains(schema.as_str()));
        self.held.extend(held);
        self.objects.extend(objects);
        self.signatures.extend(signatures);
        self.groups.extend(groups);
        self.owners.extend(owners);
        self.superusers.extend(superusers);
        self.schemas.extend(schemas);
        self.roles.extend(roles);
        self.asked.extend(&asked);
    }

    /// What of it is about this role and this interest; `None` if it was not asked about all that.
    pub fn part(&self, role: &RoleName, interest: &DatabaseInterest) -> Option<Self> {
        if !self.covers(role, interest) {
            return None;
        }
        let schemas = interest.schemas();
        let schemas = schemas.into_iter().map(str::to_owned).collect();
        Some(Self {
            roles: BTreeSet::from([role.clone()]),
            held: of(&self.held, &BTreeSet::from([role.clone()])),
            asked: interest.clone(),
            superusers: self.superusers.clone(),
            ..self.about(interest, &schemas)
        })
    }

    /// Forgets what is known of a role, because it may have changed and nobody said how.
    pub fn doubt(&mut self, role: &RoleName) {
        self.roles.remove(role);
    }

    /// Of these roles, those whose principals must look again once this newer answer is folded in, because
    /// it says otherwise of objects that were asked about before too. Those whose answer it is know it.
    pub fn surprised<'a>(
        &self,
        newer: &Self,
        interested: impl Iterator<Item = (&'a RoleName, &'a DatabaseInterest)>,
    ) -> BTreeSet<RoleName> {
        let asked = DatabaseInterest {
            groups: &self.asked.groups & &newer.asked.groups,
            objects: &self.asked.objects & &newer.asked.objects,
            owners: &self.asked.owners & &newer.asked.owners,
        };
        let schemas = &self.asked.schemas() & &newer.asked.schemas();
        let schemas = schemas.into_iter().map(str::to_owned).collect();
        let others = interested
            .filter(|(role, interest)| !newer.roles.contains(role) && self.covers(role, interest));
        newer
            .about(&asked, &schemas)
            .differing_for(&self.about(&asked, &schemas), others)
    }

    /// What it says of these objects, and of no role.
    fn about(&self, asked: &DatabaseInterest, schemas: &BTreeSet<String>) -> Self {
        Self {
            schemas: of(&self.schemas, schemas),
            objects: of(&self.objects, &asked.objects),
            groups: of(&self.groups, &asked.groups),
            signatures: of(&self.signatures, &asked.objects),
            owners: of(&self.owners, &asked.owners),
            ..Self::default()
        }
    }

    /// Of these roles, those whose principals must look again, because what they have, or anything they
    /// are interested in, is another than in `old`.
    pub fn changed<'a>(
        &self,
        old: &Self,
        interested: impl Iterator<Item = (&'a RoleName, &'a DatabaseInterest)>,
    ) -> BTreeSet<RoleName> {
        // Who was not covered has just asked, or is about to.
        let interested = interested.filter(|(role, interest)| old.covers(role, interest));
        self.differing_for(old, interested)
    }

    fn differing_for<'a>(
        &self,
        old: &Self,
        interested: impl Iterator<Item = (&'a RoleName, &'a DatabaseInterest)>,
    ) -> BTreeSet<RoleName> {
        let schemas = differing(&self.schemas, &old.schemas, ObjectFacts::is_like);
        let objects = differing(&self.objects, &old.objects, ObjectFacts::is_like);
        let groups = differing(&self.groups, &old.groups, GroupFacts::is_like);
        let signatures = differing(&self.signatures, &old.signatures, PartialEq::eq);
        let owners = differing(&self.owners, &old.owners, PartialEq::eq);
        let held = differing(&self.held, &old.held, PartialEq::eq);
        let nothing = schemas.is_empty() && objects.is_empty() && groups.is_empty();
        if nothing && signatures.is_empty() && owners.is_empty() && held.is_empty() {
            return BTreeSet::new();
        }
        let is_touched = |(role, interest): &(&RoleName, &DatabaseInterest)| {
            held.contains(role)
                || interest.groups.iter().any(|group| groups.contains(group))
                || (interest.objects.iter())
                    .any(|object| objects.contains(object) || signatures.contains(object))
                || interest.owners.iter().any(|owner| owners.contains(owner))
                || (!schemas.is_empty()
                    && (interest.schemas().into_iter()).any(|of| schemas.iter().any(|s| *s == of)))
        };
        interested
            .filter(is_touched)
            .map(|(role, _)| role.clone())
            .collect()
    }
}

/// Above so many direct grantees people are warned; other differences of their number are no news.
const MANY: u32 = 1_000;

impl ObjectFacts {
    fn is_like(&self, other: &Self) -> bool {
        let many = |facts: &Self| facts.grantees > MANY;
        (&self.owner, &self.grantable, many(self)) == (&other.owner, &other.grantable, many(other))
    }
}

impl GroupFacts {
    fn is_like(&self, other: &Self) -> bool {
        let many = |facts: &Self| {
            let most = facts.most_grantees.as_ref();
            most.is_some_and(|(_, grantees)| *grantees > MANY)
        };
        (self.total, &self.ungrantable, &self.spared, many(self))
            == (other.total, &other.ungrantable, &other.spared, many(other))
    }
}

/// The keys whose values differ.
fn differing<'a, K: Ord, V>(
    new: &'a BTreeMap<K, V>,
    old: &'a BTreeMap<K, V>,
    is_like: impl Fn(&V, &V) -> bool,
) -> BTreeSet<&'a K> {
    let same = |key: &K| match (new.get(key), old.get(key)) {
        (Some(new), Some(old)) => is_like(new, old),
        (new, old) => new.is_none() && old.is_none(),
    };
    let keys = new.keys().chain(old.keys());
    keys.filter(|key| !same(key)).collect()
}

fn of<K: Ord + Clone, V: Clone>(map: &BTreeMap<K, V>, keys: &BTreeSet<K>) -> BTreeMap<K, V> {
    let entries = keys.iter().filter_map(|key| map.get_key_value(key));
    entries
        .map(|(key, value)| (key.clone(), value.clone()))
        .collect()
}

#[cfg(test)]
mod tests;
