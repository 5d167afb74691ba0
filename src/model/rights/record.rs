//! What is declared and what was asked for in one database, one privilege on one group at a time; and
//! back into the form of the marker, always in the same order.

use std::collections::{BTreeMap, BTreeSet};

use crate::api::Privilege;
use crate::model::privilege::{AskedDefaults, AskedObjects};
use crate::model::{Asked, DefaultsOf, DesiredPrivileges, Group, RoleName};

/// One privilege on one group.
pub(super) type Slot = (Group, Privilege);

/// What is declared of a slot.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Wanted {
    /// All objects.
    pub all: bool,
    /// These objects.
    pub names: BTreeSet<String>,
}

/// What was asked for of a slot.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Recorded {
    /// All objects, but these: they had it before.
    pub all_but: Option<BTreeSet<String>>,
    /// These objects.
    pub names: BTreeSet<String>,
}

impl Recorded {
    /// Whether the privilege on that object is ours.
    pub(super) fn covers(&self, name: &str) -> bool {
        let by_all = self
            .all_but
            .as_ref()
            .is_some_and(|except| !except.contains(name));
        by_all || self.names.contains(name)
    }
}

/// What is declared in a database.
pub(super) fn wanted(privileges: &DesiredPrivileges, database: &str) -> BTreeMap<Slot, Wanted> {
    let mut slots: BTreeMap<Slot, Wanted> = BTreeMap::new();
    let here = privileges.objects.iter();
    for ask in here.filter(|ask| ask.database == database) {
        for privilege in &ask.privileges {
            let slot = slots.entry((ask.group.clone(), *privilege)).or_default();
            match &ask.names {
                Some(names) => slot.names.extend(names.iter().cloned()),
                None => slot.all = true,
            }
        }
    }
    slots
}

/// What was asked for in a database.
pub(super) fn recorded(asked: &Asked, database: &str) -> BTreeMap<Slot, Recorded> {
    let mut slots: BTreeMap<Slot, Recorded> = BTreeMap::new();
    let here = asked.objects.iter();
    for entry in here.filter(|entry| entry.database == database) {
        let group = Group {
            schema: entry.schema.clone(),
            kind: entry.kind,
        };
        for privilege in &entry.privileges {
            let slot = slots.entry((group.clone(), *privilege)).or_default();
            match (&entry.names, &mut slot.all_but) {
                (Some(names), _) => slot.names.extend(names.iter().cloned()),
                (None, Some(except)) => except.retain(|name| entry.except.contains(name)),
                (None, all_but) => *all_but = Some(entry.except.clone()),
            }
        }
    }
    slots
}

/// The entries of the marker for a database.
pub(super) fn entries(database: &str, slots: BTreeMap<Slot, Recorded>) -> Vec<AskedObjects> {
    type Which = (Option<BTreeSet<String>>, BTreeSet<String>);
    let mut entries: BTreeMap<(Group, Which), BTreeSet<Privilege>> = BTreeMap::new();
    for ((group, privilege), Recorded { all_but, names }) in slots {
        let named = (!names.is_empty()).then(|| (Some(names), BTreeSet::new()));
        let all = all_but.map(|except| (None, except));
        for which in all.into_iter().chain(named) {
            let privileges = entries.entry((group.clone(), which)).or_default();
            privileges.insert(privilege);
        }
    }
    let entry = |((group, (names, except)), privileges): ((Group, Which), _)| AskedObjects {
        database: database.to_owned(),
        schema: group.schema,
        kind: group.kind,
        names,
        except,
        privileges,
    };
    entries.into_iter().map(entry).collect()
}

/// One privilege on future objects.
pub(super) type DefaultSlot = (DefaultsOf, Privilege);

/// What is declared on future objects in a database.
pub(super) fn wanted_defaults(
    privileges: &DesiredPrivileges,
    database: &str,
) -> BTreeSet<DefaultSlot> {
    let here = privileges.defaults.iter();
    here.filter(|ask| ask.database == database)
        .map(|ask| (ask.of.clone(), ask.privilege))
        .collect()
}

/// What was asked for on future objects in a database.
pub(super) fn recorded_defaults(asked: &Asked, database: &str) -> BTreeSet<DefaultSlot> {
    let mut slots = BTreeSet::new();
    let here = asked.defaults.iter();
    for entry in here.filter(|entry| entry.database == database) {
        let Ok(owner) = RoleName::parse(&entry.owner) else {
            continue;
        };
        let of = DefaultsOf {
            owner,
            group: Group {
                schema: entry.schema.clone(),
                kind: entry.kind,
            },
        };
        let privileges = entry.privileges.iter();
        slots.extend(privileges.map(|privilege| (of.clone(), *privilege)));
    }
    slots
}

/// The entries of the marker for future objects in a database.
pub(super) fn default_entries(database: &str, slots: BTreeSet<DefaultSlot>) -> Vec<AskedDefaults> {
    let entry = |(of, privileges): (DefaultsOf, _)| AskedDefaults {
        database: database.to_owned(),
        owner: of.owner.as_str().to_owned(),
        schema: of.group.schema,
        kind: of.group.kind,
        privileges,
    };
    together(slots).into_iter().map(entry).collect()
}

/// The values of each key, gathered.
pub(super) fn together<K: Ord, V: Ord>(
    pairs: impl IntoIterator<Item = (K, V)>,
) -> BTreeMap<K, BTreeSet<V>> {
    let mut gathered: BTreeMap<K, BTreeSet<V>> = BTreeMap::new();
    for (key, value) in pairs {
        gathered.entry(key).or_default().insert(value);
    }
    gathered
}
