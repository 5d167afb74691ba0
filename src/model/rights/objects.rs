//! Privileges on schemas and objects in one database: gathers what its slots need into steps, problems
//! and notes. Must not look at any other database.

use std::collections::{BTreeMap, BTreeSet};

use super::messages::{FixedColumns, Place, Stuck};
use super::record::{Recorded, Slot, Wanted};
use super::slot::SlotWork;
use crate::api::Privilege;
use crate::model::database::{Held, HeldColumn, ObjectFacts};
use crate::model::{DatabaseCatalog, Failure, Group, Kind, Names, Object, PrivilegeStep, RoleName};

/// Above so many direct grantees of one object people are warned.
pub(super) const CROWD: u32 = 1_000;

/// One database, as it is.
pub(super) struct Database<'a> {
    pub place: Place<'a>,
    pub catalog: &'a DatabaseCatalog,
    pub held: &'a Held,
    /// The role shall have here exactly what is declared.
    pub exclusive: bool,
}

/// Changes of privileges, those on the same objects together; schemas come first.
type Changes = BTreeMap<(bool, Group, Names), BTreeSet<Privilege>>;

/// What is found on the way.
#[derive(Default)]
pub(super) struct Findings {
    revokes: Changes,
    grants: Changes,
    columns: BTreeMap<Object, BTreeMap<Privilege, BTreeSet<String>>>,
    fixed_columns: FixedColumns,
    pub absent_schemas: BTreeSet<String>,
    absent: BTreeMap<Group, BTreeMap<String, BTreeSet<String>>>,
    ungrantable: Stuck,
    spared: BTreeMap<Group, BTreeSet<(String, Privilege)>>,
    fixed: Stuck,
    pub no_maintain: bool,
    crowded: BTreeMap<String, u32>,
}

impl Findings {
    /// What is to be revoked, and what is to be granted.
    pub(super) fn steps(&mut self, exclusive: bool) -> (Vec<PrivilegeStep>, Vec<PrivilegeStep>) {
        let revokes = std::mem::take(&mut self.revokes).into_iter();
        let grants = std::mem::take(&mut self.grants).into_iter();
        let revoke = |((_, group, names), privileges)| PrivilegeStep::Revoke {
            group,
            names,
            privileges,
            of_others: exclusive,
        };
        let grant = |((_, group, names), privileges)| PrivilegeStep::Grant {
            group,
            names,
            privileges,
        };
        let columns = std::mem::take(&mut self.columns).into_iter();
        let of_columns = columns.map(|(table, columns)| PrivilegeStep::RevokeColumns {
            group: table.group,
            name: table.name,
            columns,
        });
        // Before those on tables, which would keep what there is on columns.
        let revokes = of_columns.chain(revokes.map(revoke)).collect();
        (revokes, grants.map(grant).collect())
    }

    /// Nothing on single columns can be declared.
    fn columns(&mut self, held: &BTreeSet<HeldColumn>) {
        for HeldColumn {
            table,
            privilege,
            column,
            fixed,
        } in held
        {
            let columns = match fixed {
                None => self.columns.entry(table.clone()).or_default(),
                Some(by) => {
                    let fixed = (table.clone(), by.clone());
                    self.fixed_columns.entry(fixed).or_default()
                }
            };
            columns
                .entry(*privilege)
                .or_default()
                .insert(column.clone());
        }
    }

    pub(super) fn problems(&self, place: &Place<'_>) -> Vec<Failure> {
        let schemas = self.absent_schemas.iter();
        let mut problems: Vec<Failure> = schemas.map(|name| place.schema_absent(name)).collect();
        let absent = self.absent.iter();
        problems.extend(absent.map(|(group, names)| place.objects_absent(group, names)));
        problems.extend(self.no_maintain.then(|| place.no_maintain()));
        problems.extend(place.not_grantable(&self.ungrantable));
        problems.extend(place.not_revocable(&self.fixed));
        problems.extend(place.columns_not_revocable(&self.fixed_columns));
        problems
    }

    pub(super) fn notes(&self, place: &Place<'_>) -> Vec<String> {
        let crowded = self.crowded.iter();
        let crowded = crowded.map(|(what, grantees)| place.crowded(what, *grantees));
        let spared = self.spared.iter();
        let spared = spared.map(|(group, pairs)| place.spared(group, pairs));
        crowded.chain(spared).collect()
    }

    pub(super) fn crowd(&mut self, group: &Group, name: &str, grantees: u32) {
        if grantees > CROWD {
            let Group { schema, kind } = group;
            let what = match kind {
                Kind::Schema => format!("schema {schema:?}"),
                _ => format!("{kind} {name:?} of schema {schema:?}"),
            };
            self.crowded.insert(what, grantees);
        }
    }

    pub(super) fn ungrantable(&mut self, slot: &Slot, name: &str, owner: &RoleName) {
        Self::stuck(&mut self.ungrantable, slot, name, owner);
    }

    pub(super) fn spared(&mut self, (group, privilege): &Slot, name: &str) {
        let pairs = self.spared.entry(group.clone()).or_default();
        pairs.insert((name.to_owned(), *privilege));
    }

    pub(super) fn fixed(&mut self, slot: &Slot, name: &str, grantor: &RoleName) {
        Self::stuck(&mut self.fixed, slot, name, grantor);
    }

    pub(super) fn absent(&mut self, group: &Group, name: &str, others: BTreeSet<String>) {
        let absent = self.absent.entry(group.clone()).or_default();
        absent.insert(name.to_owned(), others);
    }

    pub(super) fn grant(&mut self, slot: &Slot, names: Names) {
        Self::change(&mut self.grants, slot, names);
    }

    pub(super) fn revoke(&mut self, slot: &Slot, names: Names) {
        Self::change(&mut self.revokes, slot, names);
    }

    fn stuck(stuck: &mut Stuck, slot: &Slot, name: &str, who: &RoleName) {
        let (group, privilege) = slot;
        let pairs = stuck.entry((group.clone(), who.clone())).or_default();
        pairs.insert((name.to_owned(), *privilege));
    }

    fn change(changes: &mut Changes, slot: &Slot, names: Names) {
        let (group, privilege) = slot;
        let key = (group.kind != Kind::Schema, group.clone(), names);
        changes.entry(key).or_default().insert(*privilege);
    }
}

impl Database<'_> {
    /// Plans all slots that are declared, were asked for, or shall be as declared; says what of them is
    /// remembered from now on.
    pub(super) fn objects(
        &self,
        wanted: &BTreeMap<Slot, Wanted>,
        mut recorded: BTreeMap<Slot, Recorded>,
        found: &mut Findings,
    ) -> BTreeMap<Slot, Recorded> {
        let mut slots: BTreeSet<Slot> = wanted.keys().chain(recorded.keys()).cloned().collect();
        if self.exclusive {
            slots.extend(self.held.objects.keys().cloned());
        }
        if self.exclusive {
            found.columns(&self.held.columns);
        }
        let nothing = Wanted::default();
        let next = slots.into_iter().map(|slot| {
            let wanted = wanted.get(&slot).unwrap_or(&nothing);
            let recorded = recorded.remove(&slot).unwrap_or_default();
            let next = self.slot(&slot, wanted, recorded, found);
            (slot, next)
        });
        next.collect()
    }

    /// Plans one slot; says what of it is remembered from now on.
    fn slot(
        &self,
        slot: &Slot,
        wanted: &Wanted,
        recorded: Recorded,
        found: &mut Findings,
    ) -> Recorded {
        let (group, privilege) = slot;
        let declared = wanted.all || !wanted.names.is_empty();
        if declared && !self.catalog.schemas.contains_key(&group.schema) {
            found.absent_schemas.insert(group.schema.clone());
            return recorded;
        }
        let nothing = Wanted::default();
        let unknown = *privilege == Privilege::Maintain && self.place.facts.version_num < 170_000;
        found.no_maintain |= declared && unknown;
        let work = SlotWork {
            database: self,
            slot,
            wanted: if unknown { &nothing } else { wanted },
            recorded: &recorded,
            holding: self.held.objects.get(slot),
        };
        work.plan(found)
    }

    /// A schema or an object, if it exists and was asked for.
    pub(super) fn facts(&self, group: &Group, name: &str) -> Option<&ObjectFacts> {
        if group.kind == Kind::Schema {
            return self.catalog.schemas.get(name);
        }
        self.catalog.objects.get(&object(group, name))
    }
}

/// A name in a group as the catalog has it.
pub(super) fn object(group: &Group, name: &str) -> Object {
    Object {
        group: group.clone(),
        name: name.to_owned(),
    }
}
