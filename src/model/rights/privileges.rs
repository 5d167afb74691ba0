//! Privileges: on databases themselves, on schemas and objects, on future objects.

use std::collections::{BTreeMap, BTreeSet};

use super::Rights;
use super::messages::Place;
use super::objects::{CROWD, Database, Findings};
use super::record::{
    Recorded, Wanted, default_entries, entries, recorded, recorded_defaults, together, wanted,
    wanted_defaults,
};
use crate::api::Privilege;
use crate::model::database::Held;
use crate::model::observed::Observed;
use crate::model::{
    Asked, DatabaseCatalog, DatabaseEntry, DatabaseInterest, DefaultsOf, Desired,
    DesiredPrivileges, Failure, Group, Interest, Kind, Object, PrivilegeStep, RoleFacts, RoleName,
    RoleStep,
};

/// Adds what must be known.
pub(super) fn interest(desired: &Desired, asked: &Asked, interest: &mut Interest) {
    let declared = &desired.privileges;
    let (named, known) = (named(declared), in_record(asked));
    for database in named.union(&known) {
        let exclusive = declared.exclusive && named.contains(database);
        let known = interest.databases.entry((*database).to_owned());
        known
            .or_default()
            .extend(&inside(declared, asked, database, exclusive));
    }
}

fn inside(
    declared: &DesiredPrivileges,
    asked: &Asked,
    database: &str,
    exclusive: bool,
) -> DatabaseInterest {
    let mut interest = DatabaseInterest::default();
    let wanted = wanted(declared, database).into_iter();
    let recorded = recorded(asked, database).into_iter();
    let wanted = wanted.map(|((group, _), Wanted { all, names })| (group, all, names));
    // Which of the excepted objects are there decides whether anything is left to take back.
    let recorded = recorded.map(|((group, _), Recorded { all_but, names })| {
        let all = all_but.is_some();
        (group, all, &all_but.unwrap_or_default() | &names)
    });
    for (group, all, names) in wanted.chain(recorded) {
        if (all || exclusive) && group.kind != Kind::Schema {
            interest.groups.insert(group.clone());
        }
        let objects = names.into_iter().map(|name| Object {
            group: group.clone(),
            name,
        });
        interest.objects.extend(objects);
    }
    let defaults = wanted_defaults(declared, database);
    for (of, _) in defaults
        .into_iter()
        .chain(recorded_defaults(asked, database))
    {
        interest.owners.insert(of.owner);
        interest.objects.insert(Object {
            name: of.group.schema.clone(),
            group: Group {
                schema: of.group.schema,
                kind: Kind::Schema,
            },
        });
    }
    interest
}

/// The databases in which something is declared.
fn named(declared: &DesiredPrivileges) -> BTreeSet<&str> {
    let databases = declared.databases.iter().map(|ask| &ask.database);
    let objects = declared.objects.iter().map(|ask| &ask.database);
    let defaults = declared.defaults.iter().map(|ask| &ask.database);
    let all = databases.chain(objects).chain(defaults);
    all.map(String::as_str).collect()
}

/// The databases in which something was asked for.
fn in_record(asked: &Asked) -> BTreeSet<&str> {
    let objects = asked.objects.iter().map(|entry| &entry.database);
    let defaults = asked.defaults.iter().map(|entry| &entry.database);
    let all = asked.databases.keys().chain(objects).chain(defaults);
    all.map(String::as_str).collect()
}

/// Adds what is to be done.
pub(super) fn plan(
    desired: &Desired,
    asked: &Asked,
    facts: &RoleFacts,
    observed: &Observed,
    rights: &mut Rights,
) {
    let named = named(&desired.privileges);
    let mut work = Work {
        desired,
        asked,
        facts,
        observed,
        rights,
        grants: Vec::new(),
    };
    for database in named.union(&in_record(asked)) {
        let place = Place {
            server: &desired.server,
            facts: &observed.server,
            role: &desired.role,
            database,
            owner: observed.databases.get(*database).map(|entry| &entry.owner),
            superusers: (observed.inside.get(*database))
                .and_then(|inside| Some(&inside.as_ref().ok()?.superusers)),
        };
        let exclusive = desired.privileges.exclusive && named.contains(database);
        match observed.databases.get(*database) {
            Some(entry) => {
                work.on_database(place, entry, exclusive);
                work.in_database(place, entry, exclusive);
            }
            None if named.contains(database) => {
                work.rights.problems.push(place.database_absent());
                // It may only have another name for a while.
                work.carry(database);
            }
            // What was given went with it.
            None => {}
        }
    }
    let Work { grants, .. } = work;
    rights.steps.extend(grants);
}

struct Work<'a> {
    desired: &'a Desired,
    asked: &'a Asked,
    facts: &'a RoleFacts,
    observed: &'a Observed,
    rights: &'a mut Rights,
    /// Steps that come after all that is taken back.
    grants: Vec<RoleStep>,
}

impl Work<'_> {
    /// Privileges on the database itself.
    fn on_database(&mut self, place: Place<'_>, entry: &DatabaseEntry, exclusive: bool) {
        let database = place.database;
        // An owner needs nothing there, and takes back himself what is taken from him.
        if entry.owner == *place.role {
            return;
        }
        let declared = self.desired.privileges.databases.iter();
        let declared = declared.filter(|ask| ask.database == database);
        let wanted: BTreeSet<Privilege> = declared.map(|ask| ask.privilege).collect();
        let recorded = self.asked.databases.get(database);
        let recorded = recorded.cloned().unwrap_or_default();
        let held = self.facts.databases.get(database);
        let held = held.cloned().unwrap_or_default();

        let (give, cannot_give) = split(&wanted - &held, &entry.grantable);
        let nobody = BTreeMap::new();
        let others = self.facts.databases_of_others.get(database);
        let others = others.unwrap_or(&nobody);
        let ours = held.iter().copied();
        let ours: BTreeSet<Privilege> = ours
            .filter(|privilege| !others.get(privilege).is_some_and(|other| other.only))
            .collect();
        let extra = if exclusive {
            &ours - &wanted
        } else {
            &(&ours & &recorded) - &wanted
        };
        let (take, cannot_take) = split(extra, &entry.grantable);
        let undeclared = &recorded - &wanted;
        // As another of the server's administrators we gave it under that one's name.
        let former = others.iter().filter_map(|(it, other)| {
            let gone = undeclared.contains(it) && !exclusive;
            Some((other.by_admin.clone().filter(|_| gone)?, *it))
        });
        let by_former = together(former);
        let stays: BTreeSet<Privilege> = others
            .iter()
            .filter_map(|(it, other)| other.by_admin.is_some().then_some(*it))
            .chain(ours)
            .collect();
        let remembered = &(&(&recorded & &wanted) | &give) | &(&undeclared & &stays);

        let problems = &mut self.rights.problems;
        if !cannot_give.is_empty() {
            problems.push(place.database_not_grantable(&entry.owner, &cannot_give));
        }
        if !cannot_take.is_empty() {
            problems.push(place.database_not_revocable(&entry.owner, &cannot_take));
        }
        let by_others = others
            .iter()
            .filter(|(it, _)| exclusive && !wanted.contains(it));
        let by_others = together(by_others.map(|(it, other)| (other.grantor.clone(), *it)));
        for (grantor, privileges) in by_others.into_iter().chain(by_former) {
            problems.push(place.database_of_another(&grantor, &privileges));
        }
        if !wanted.is_empty() && entry.grantees > CROWD {
            let note = place.crowded("the database", entry.grantees);
            self.rights.notes.push(note);
        }
        let database = || database.to_owned();
        if !take.is_empty() {
            self.rights.steps.push(RoleStep::RevokeDatabase {
                database: database(),
                privileges: take,
            });
        }
        if !give.is_empty() {
            self.grants.push(RoleStep::GrantDatabase {
                database: database(),
                privileges: give,
            });
        }
        if !remembered.is_empty() {
            let databases = &mut self.rights.asked.databases;
            databases.insert(database(), remembered);
        }
    }

    /// Privileges on what is in the database. What cannot be seen is left, and stays remembered.
    fn in_database(&mut self, place: Place<'_>, entry: &DatabaseEntry, exclusive: bool) {
        let objects = wanted(&self.desired.privileges, place.database);
        let defaults = wanted_defaults(&self.desired.privileges, place.database);
        let known = recorded(self.asked, place.database);
        let known_defaults = recorded_defaults(self.asked, place.database);
        let nothing = objects.is_empty() && defaults.is_empty();
        if nothing && known.is_empty() && known_defaults.is_empty() && !exclusive {
            return;
        }
        let catalog = match self.look(place, entry) {
            Ok(catalog) => catalog,
            Err(problem) => {
                self.rights.problems.push(problem);
                self.remember(place.database, known, known_defaults);
                return;
            }
        };
        let nobody = Held::default();
        let database = Database {
            place,
            catalog,
            held: catalog.held.get(place.role).unwrap_or(&nobody),
            exclusive,
        };
        let mut found = Findings::default();
        let known = database.objects(&objects, known, &mut found);
        let (mut revokes, mut grants) = found.steps(exclusive);
        let mut futures = Futures {
            database: &database,
            found: &mut found,
            problems: Vec::new(),
        };
        let (change, known_defaults) = futures.plan(&defaults, &known_defaults);
        let Futures { problems, .. } = futures;
        revokes.extend(change.revokes);
        grants.extend(change.grants);
        self.rights.problems.extend(found.problems(&place));
        self.rights.problems.extend(problems);
        self.rights.notes.extend(found.notes(&place));
        self.remember(place.database, known, known_defaults);
        revokes.extend(grants);
        if !revokes.is_empty() {
            let inside = &mut self.rights.inside;
            inside.insert(place.database.to_owned(), revokes);
        }
    }

    /// What was asked for in that database is remembered as it is.
    fn carry(&mut self, database: &str) {
        if let Some(known) = self.asked.databases.get(database) {
            let databases = &mut self.rights.asked.databases;
            databases.insert(database.to_owned(), known.clone());
        }
        let objects = recorded(self.asked, database);
        self.remember(database, objects, recorded_defaults(self.asked, database));
    }

    fn look(&self, place: Place<'_>, entry: &DatabaseEntry) -> Result<&DatabaseCatalog, Failure> {
        if !entry.connectable {
            return Err(place.not_accessible(entry.open));
        }
        match self.observed.inside.get(place.database) {
            Some(Ok(catalog)) => Ok(catalog),
            Some(Err(failure)) => Err(failure.clone()),
            None => Err(place.not_looked_at()),
        }
    }

    fn remember(
        &mut self,
        database: &str,
        objects: BTreeMap<super::record::Slot, Recorded>,
        defaults: BTreeSet<super::record::DefaultSlot>,
    ) {
        let asked = &mut self.rights.asked;
        asked.objects.extend(entries(database, objects));
        asked.defaults.extend(default_entries(database, defaults));
    }
}

/// Privileges that we may grant and revoke, and others.
fn split(
    privileges: BTreeSet<Privilege>,
    grantable: &BTreeSet<Privilege>,
) -> (BTreeSet<Privilege>, BTreeSet<Privilege>) {
    (privileges.into_iter()).partition(|privilege| grantable.contains(privilege))
}

/// Privileges on future objects in one database.
struct Futures<'a> {
    database: &'a Database<'a>,
    found: &'a mut Findings,
    problems: Vec<Failure>,
}

#[derive(Default)]
struct Changes {
    revokes: Vec<PrivilegeStep>,
    grants: Vec<PrivilegeStep>,
}

impl Futures<'_> {
    /// What is to be done, and what is remembered from now on.
    fn plan(
        &mut self,
        wanted: &BTreeSet<(DefaultsOf, Privilege)>,
        recorded: &BTreeSet<(DefaultsOf, Privilege)>,
    ) -> (Changes, BTreeSet<(DefaultsOf, Privilege)>) {
        let held = &self.database.held.defaults;
        let (mut give, mut cannot_give) = (BTreeSet::new(), BTreeSet::new());
        for slot in wanted.difference(held) {
            match self.grantable(slot) {
                Some(true) => drop(give.insert(slot.clone())),
                Some(false) => drop(cannot_give.insert((slot.0.owner.clone(), slot.1))),
                None => {}
            }
        }
        let extra: BTreeSet<_> = if self.database.exclusive {
            held - wanted
        } else {
            &(held & recorded) - wanted
        };
        let owners = &self.database.catalog.owners;
        let may = |owner: &RoleName| owners.get(owner) != Some(&false);
        let (take, cannot_take): (BTreeSet<_>, BTreeSet<_>) =
            extra.into_iter().partition(|(of, _)| may(&of.owner));
        let remembered = &(recorded & &(wanted | held)) | &give;

        let place = &self.database.place;
        for (owner, privileges) in together(cannot_give) {
            let problem = place.defaults_not_grantable(&owner, &privileges);
            self.problems.push(problem);
        }
        for (of, privileges) in together(cannot_take) {
            let problem = place.defaults_not_revocable(&of, &privileges);
            self.problems.push(problem);
        }
        let revoke = |(of, privileges)| PrivilegeStep::RevokeDefault { of, privileges };
        let grant = |(of, privileges)| PrivilegeStep::GrantDefault { of, privileges };
        let changes = Changes {
            revokes: together(take).into_iter().map(revoke).collect(),
            grants: together(give).into_iter().map(grant).collect(),
        };
        (changes, remembered)
    }

    /// Whether we may give it; `None`: it cannot be, and that is reported.
    fn grantable(&mut self, (of, privilege): &(DefaultsOf, Privilege)) -> Option<bool> {
        let Database { catalog, place, .. } = self.database;
        if *privilege == Privilege::Maintain && place.facts.version_num < 170_000 {
            self.found.no_maintain = true;
            return None;
        }
        let schema = &of.group.schema;
        if !catalog.schemas.contains_key(schema) {
            self.found.absent_schemas.insert(schema.clone());
            return None;
        }
        let owner = catalog.owners.get(&of.owner).copied();
        if owner.is_none() {
            let problem = place.owner_absent(&of.owner);
            if !self.problems.contains(&problem) {
                self.problems.push(problem);
            }
        }
        owner
    }
}
