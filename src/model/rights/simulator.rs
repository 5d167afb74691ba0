//! A server in memory, for tests: answers what the catalog would say of it and takes the steps of a
//! plan. Knows nothing of plans.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use crate::api::Privilege;
use crate::model::attribute::DatabaseEntry;
use crate::model::database::{
    DatabaseCatalog, GroupFacts, Held, HeldColumn, Holding, ObjectFacts, On,
};
use crate::model::observed::Observed;
use crate::model::rights::{Rights, interest, plan};
use crate::model::testing::observed;
use crate::model::{
    Asked, Attribute, DatabaseInterest, DefaultsOf, Desired, Group, Kind, Look, Membership, Names,
    Object, PrivilegeStep, RoleFacts, RoleName, RoleStep, ServerFacts, TargetFacts,
};

/// The role by which all is granted that the operator may grant.
pub(super) const OWNER: &str = "owner";
/// A role whose grants the operator cannot take back.
pub(super) const STRANGER: &str = "stranger";
/// A role for which the operator can speak, and as which it grants nothing.
pub(super) const LENDER: &str = "lender";
/// A role as which the operator once granted, and for which it cannot speak any more.
pub(super) const LOST: &str = "lost";

pub(super) fn role(name: &str) -> RoleName {
    RoleName::parse(name).expect("a name")
}

pub(super) fn group(schema: &str, kind: Kind) -> Group {
    let schema = schema.to_owned();
    Group { schema, kind }
}

pub(super) fn object(schema: &str, kind: Kind, name: &str) -> Object {
    let (group, name) = (group(schema, kind), name.to_owned());
    Object { group, name }
}

/// One grant to the role: on what, which privilege, by whom.
pub(super) type Acl = BTreeSet<(Object, Privilege, String)>;

/// A database.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Database {
    pub(super) entry: DatabaseEntry,
    /// Schemas and objects; whether the operator may grant on them.
    pub(super) objects: BTreeMap<Object, bool>,
    pub(super) acl: Acl,
    /// What the role owns itself.
    pub(super) owned: BTreeSet<Object>,
    pub(super) columns: BTreeSet<HeldColumn>,
    pub(super) defaults: BTreeSet<(DefaultsOf, Privilege)>,
    /// Whether the operator may speak for them.
    pub(super) owners: BTreeMap<RoleName, bool>,
}

/// A server with one role that matters.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Server {
    pub(super) facts: ServerFacts,
    pub(super) role: RoleFacts,
    pub(super) targets: BTreeMap<RoleName, TargetFacts>,
    pub(super) databases: BTreeMap<String, Database>,
}

impl Default for Server {
    fn default() -> Self {
        Self {
            facts: observed().server,
            role: RoleFacts {
                can_login: true,
                ..RoleFacts::default()
            },
            targets: BTreeMap::new(),
            databases: BTreeMap::new(),
        }
    }
}

impl Database {
    /// One that we may do anything with.
    pub(super) fn new() -> Self {
        Self {
            entry: DatabaseEntry {
                owner: role(OWNER),
                grantable: [Privilege::Connect, Privilege::Create, Privilege::Temporary].into(),
                connectable: true,
                open: true,
                grantees: 1,
            },
            objects: BTreeMap::new(),
            acl: Acl::new(),
            owned: BTreeSet::new(),
            columns: BTreeSet::new(),
            defaults: BTreeSet::new(),
            owners: BTreeMap::new(),
        }
    }

    /// With an object, and its schema.
    pub(super) fn with(mut self, object: Object, grantable: bool) -> Self {
        let schema = &object.group.schema;
        let schema = self::object(schema, Kind::Schema, schema);
        self.objects.entry(schema).or_insert(true);
        self.objects.insert(object, grantable);
        self
    }

    /// Somebody grants something to the role.
    pub(super) fn granted(mut self, object: Object, privilege: Privilege, by: &str) -> Self {
        self.acl.insert((object, privilege, by.to_owned()));
        self
    }

    pub(super) fn has(&self, object: &Object, privilege: Privilege) -> bool {
        let mut acl = self.acl.iter();
        acl.any(|(on, what, _)| on == object && *what == privilege)
    }

    fn of_group<'a>(&'a self, group: &'a Group) -> impl Iterator<Item = (&'a Object, bool)> {
        let objects = self.objects.iter();
        objects
            .filter(move |(object, _)| object.group == *group)
            .map(|(object, grantable)| (object, *grantable))
    }

    fn facts(grantable: bool) -> ObjectFacts {
        use Privilege as P;
        let all: &[Privilege] = &[P::Select, P::Insert, P::Usage, P::Create, P::Execute];
        ObjectFacts {
            owner: role(if grantable { OWNER } else { STRANGER }),
            grantable: all.iter().copied().filter(|_| grantable).collect(),
            grantees: 1,
        }
    }

    fn catalog(&self, grantee: &RoleName, asked: DatabaseInterest) -> DatabaseCatalog {
        let mut catalog = DatabaseCatalog {
            roles: [grantee.clone()].into(),
            ..DatabaseCatalog::default()
        };
        let objects = asked.objects.iter().map(|object| &object.group);
        for group in asked.groups.iter().chain(objects) {
            let schema = object(&group.schema, Kind::Schema, &group.schema);
            if let Some(grantable) = self.objects.get(&schema) {
                let facts = Self::facts(*grantable);
                catalog.schemas.insert(group.schema.clone(), facts);
            }
        }
        for object in &asked.objects {
            if let Some(grantable) = self.objects.get(object) {
                let mut facts = Self::facts(*grantable);
                if self.owned.contains(object) {
                    facts.owner = grantee.clone();
                }
                catalog.objects.insert(object.clone(), facts);
            }
        }
        for group in &asked.groups {
            if catalog.schemas.contains_key(&group.schema) {
                catalog
                    .groups
                    .insert(group.clone(), self.group(grantee, group));
            }
        }
        for owner in &asked.owners {
            if let Some(may) = self.owners.get(owner) {
                catalog.owners.insert(owner.clone(), *may);
            }
        }
        catalog.held.insert(grantee.clone(), self.held(&asked));
        catalog.asked = asked;
        catalog
    }

    fn group(&self, grantee: &RoleName, group: &Group) -> GroupFacts {
        let mut stuck: BTreeMap<RoleName, BTreeSet<String>> = BTreeMap::new();
        for (object, _) in self.of_group(group).filter(|(_, grantable)| !grantable) {
            let own = self.owned.contains(object);
            let owner = if own { grantee.clone() } else { role(STRANGER) };
            stuck.entry(owner).or_default().insert(object.name.clone());
        }
        let ungrantable = [Privilege::Select, Privilege::Insert, Privilege::Execute];
        let ungrantable = ungrantable.into_iter().filter(|_| !stuck.is_empty());
        GroupFacts {
            total: u32::try_from(self.of_group(group).count()).expect("few"),
            ungrantable: ungrantable
                .map(|privilege| (privilege, stuck.clone()))
                .collect(),
            spared: BTreeMap::new(),
            most_grantees: None,
        }
    }

    fn held(&self, asked: &DatabaseInterest) -> Held {
        let mut held = Held {
            columns: self.columns.clone(),
            defaults: self.defaults.clone(),
            ..Held::default()
        };
        for (object, privilege, by) in &self.acl {
            let slot = (object.group.clone(), *privilege);
            let holding = held.objects.entry(slot).or_insert_with(|| Holding {
                on: On::Some(BTreeSet::new()),
                fixed: BTreeMap::new(),
                stuck: BTreeMap::new(),
                others: BTreeSet::new(),
                owned: BTreeSet::new(),
            });
            if let On::Some(names) = &mut holding.on {
                names.insert(object.name.clone());
            }
            if by == STRANGER || by == LOST {
                holding.fixed.insert(object.name.clone(), role(by));
            }
            if by == LOST {
                holding.stuck.insert(object.name.clone(), role(by));
            }
            let mut acl = self.acl.iter();
            let ours = acl.any(|(on, what, by)| {
                (on, what) == (object, privilege) && (by == OWNER || by == LOST)
            });
            if !ours {
                holding.others.insert(object.name.clone());
            }
        }
        let owned = |group: &Group| {
            let owned = self.owned.iter().filter(|object| object.group == *group);
            let names: BTreeSet<String> = owned.map(|object| object.name.clone()).collect();
            names
        };
        let all_owned = |group: &&Group| {
            let owned = owned(group).len();
            owned > 0 && owned == self.of_group(group).count()
        };
        held.owned = asked.groups.iter().filter(all_owned).cloned().collect();
        for ((group, _), holding) in &mut held.objects {
            holding.owned = owned(group);
            if let On::Some(names) = &mut holding.on {
                names.extend(holding.owned.iter().cloned());
            }
            let there = self.of_group(group).count();
            let apart = !holding.fixed.is_empty() || !holding.others.is_empty();
            let counted = asked.groups.contains(group) || !apart;
            if matches!(&holding.on, On::Some(names) if counted && names.len() == there) {
                holding.on = On::All;
            }
        }
        held
    }

    fn apply(&mut self, step: &PrivilegeStep) {
        match step {
            PrivilegeStep::Grant {
                group,
                names,
                privileges,
            } => {
                for (object, grantable) in self.objects.clone() {
                    if object.group != *group
                        || !names.meets(&object.name)
                        || !grantable
                        || self.owned.contains(&object)
                    {
                        continue;
                    }
                    for privilege in privileges {
                        if !self.has(&object, *privilege) {
                            let entry = (object.clone(), *privilege, OWNER.to_owned());
                            self.acl.insert(entry);
                        }
                    }
                }
            }
            PrivilegeStep::Revoke {
                group,
                names,
                privileges,
                of_others,
            } => self.acl.retain(|(object, privilege, by)| {
                let meant = object.group == *group
                    && names.meets(&object.name)
                    && privileges.contains(privilege);
                !(meant && (by == OWNER || (by == LENDER && *of_others)))
            }),
            PrivilegeStep::RevokeColumns { group, name, .. } => self.columns.retain(|held| {
                let meant = held.table.group == *group && held.table.name == *name;
                !meant || held.fixed.is_some()
            }),
            PrivilegeStep::GrantDefault { of, privileges } => {
                assert_eq!(self.owners.get(&of.owner), Some(&true), "{step:?}");
                let privileges = privileges.iter();
                self.defaults
                    .extend(privileges.map(|privilege| (of.clone(), *privilege)));
            }
            PrivilegeStep::RevokeDefault { of, privileges } => {
                self.defaults
                    .retain(|(held, privilege)| held != of || !privileges.contains(privilege));
            }
        }
    }
}

impl Names {
    fn meets(&self, name: &str) -> bool {
        match self {
            Self::Only(names) => names.contains(name),
            Self::AllBut(names) => !names.contains(name),
        }
    }
}

impl Server {
    /// What a principal with this record sees.
    pub(super) fn observed(&self, desired: &Desired, asked: &Asked) -> Observed {
        let mut seen = interest(desired, &Asked::default());
        seen.extend(&interest(desired, asked));
        let mut observed = Observed {
            role: Look::Known(Some(self.role.clone())),
            server: self.facts.clone(),
            ..observed()
        };
        let targets = self.targets.clone().into_iter();
        observed.targets = targets
            .filter(|(name, _)| seen.targets.contains(name))
            .collect();
        for (name, interest) in seen.databases {
            let Some(database) = self.databases.get(&name) else {
                continue;
            };
            observed
                .databases
                .insert(name.clone(), database.entry.clone());
            if database.entry.connectable {
                let catalog = Arc::new(database.catalog(&desired.role, interest));
                observed.inside.insert(name, Ok(catalog));
            }
        }
        observed
    }

    pub(super) fn plan(&self, desired: &Desired, asked: &Asked) -> Rights {
        let observed = self.observed(desired, asked);
        plan(desired, asked, Some(&self.role), &observed)
    }

    /// Makes the steps in database `postgres`.
    pub(super) fn apply(&mut self, steps: &[RoleStep]) {
        for step in steps {
            match step {
                RoleStep::Alter(attributes) => {
                    for attribute in attributes {
                        self.alter(*attribute);
                    }
                }
                RoleStep::Set { name, value } => {
                    self.role.settings.insert(name.clone(), value.clone());
                }
                RoleStep::Reset(name) => drop(self.role.settings.remove(name)),
                RoleStep::Join { role, options } => self.join(role, *options),
                RoleStep::Leave { role, grantors } => {
                    let rows = self.role.memberships.entry(role.clone()).or_default();
                    rows.retain(|row| !(row.revocable && grantors.contains(&row.grantor)));
                    self.role.memberships.retain(|_, rows| !rows.is_empty());
                }
                RoleStep::GrantDatabase {
                    database,
                    privileges,
                } => {
                    let held = self.role.databases.entry(database.clone()).or_default();
                    held.extend(privileges);
                }
                RoleStep::RevokeDatabase {
                    database,
                    privileges,
                } => {
                    let held = self.role.databases.entry(database.clone()).or_default();
                    held.retain(|privilege| !privileges.contains(privilege));
                    self.role.databases.retain(|_, held| !held.is_empty());
                }
                other => panic!("not about rights: {other:?}"),
            }
        }
    }

    fn join(&mut self, target: &RoleName, options: crate::model::MembershipOptions) {
        let by_us = Membership {
            grantor: role(&self.facts.administrator),
            revocable: true,
            ours: true,
            by_admin: false,
            by_server: false,
            options,
        };
        let rows = self.role.memberships.entry(target.clone()).or_default();
        let one_row = self.facts.version_num < 160_000;
        rows.retain(|row| !one_row && row.grantor != by_us.grantor);
        rows.insert(by_us);
    }

    fn alter(&mut self, attribute: Attribute) {
        let attributes = &mut self.role.attributes;
        match attribute {
            Attribute::Login(value) => self.role.can_login = value,
            Attribute::ConnectionLimit(value) => attributes.connection_limit = value,
            Attribute::CreateDb(value) => attributes.create_db = value,
            Attribute::CreateRole(value) => attributes.create_role = value,
            Attribute::Inherit(value) => attributes.inherit = value,
        }
    }

    /// Makes the steps in the other databases.
    pub(super) fn apply_inside(&mut self, steps: &BTreeMap<String, Vec<PrivilegeStep>>) {
        for (name, steps) in steps {
            let database = self.databases.get_mut(name).expect("it is there");
            for step in steps {
                let before = database.clone();
                database.apply(step);
                assert_ne!(*database, before, "no effect: {step:?}");
            }
        }
    }

    /// Reconciles as the controller does; gives the record, and what cannot be.
    pub(super) fn settle(&mut self, desired: &Desired, mut asked: Asked) -> (Asked, Rights) {
        for _ in 0..4 {
            let rights = self.plan(desired, &asked);
            let stable = rights.asked == asked;
            asked = rights.asked.clone();
            if rights.steps.is_empty() && rights.inside.is_empty() && stable {
                return (asked, rights);
            }
            self.apply(&rights.steps);
            self.apply_inside(&rights.inside);
        }
        panic!("not settled: {:?}", self.plan(desired, &asked));
    }
}
