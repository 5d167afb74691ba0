//! What holds for rights whatever is declared and whatever is there, against the server in memory.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use proptest::prelude::*;
use proptest::sample::subsequence;

use super::simulator::{Database, LENDER, OWNER, STRANGER, Server, group, object, role};
use crate::api::Privilege;
use crate::model::attribute::Attributes;
use crate::model::testing::desired;
use crate::model::{
    Ask, Asked, DatabaseAsk, DefaultAsk, DefaultsOf, Desired, DesiredAttributes, DesiredPrivileges,
    Kind, Membership, MembershipOptions, Object, RoleName, TargetFacts,
};

const DATABASES: [&str; 2] = ["a", "b"];
const TABLES: [Privilege; 2] = [Privilege::Select, Privilege::Insert];
const ON_DATABASE: [Privilege; 2] = [Privilege::Connect, Privilege::Create];

fn objects() -> Vec<Object> {
    vec![
        object("s", Kind::Schema, "s"),
        object("t", Kind::Schema, "t"),
        object("s", Kind::Table, "x"),
        object("s", Kind::Table, "y"),
        object("s", Kind::Table, "z"),
        object("t", Kind::Table, "x"),
    ]
}

fn privileges_on(object: &Object) -> &'static [Privilege] {
    match object.group.kind {
        Kind::Schema => &[Privilege::Usage],
        _ => &TABLES,
    }
}

/// All asks for objects that can be made: of what is there, and of what is not.
fn asks() -> Vec<Ask> {
    let mut asks = Vec::new();
    let mut objects = objects();
    objects.push(object("s", Kind::Table, "absent"));
    objects.push(object("absent", Kind::Table, "x"));
    for database in ["a", "b", "locked", "absent"] {
        for object in &objects {
            for privilege in privileges_on(object) {
                let ask = |name: Option<String>| Ask {
                    database: database.to_owned(),
                    group: object.group.clone(),
                    names: name.map(|name| Arc::new([name].into())),
                    privileges: [*privilege].into(),
                };
                asks.push(ask(Some(object.name.clone())));
                if object.group.kind == Kind::Table && object.name == "x" {
                    // Twice as likely.
                    asks.extend([ask(None), ask(None)]);
                }
            }
        }
    }
    asks
}

fn defaults() -> Vec<DefaultAsk> {
    let mut asks = Vec::new();
    for database in DATABASES {
        for owner in [OWNER, STRANGER, "absent"] {
            for privilege in TABLES {
                let of = DefaultsOf {
                    owner: role(owner),
                    group: group("s", Kind::Table),
                };
                let database = database.to_owned();
                asks.push(DefaultAsk {
                    database,
                    of,
                    privilege,
                });
            }
        }
    }
    asks
}

fn on_databases() -> Vec<DatabaseAsk> {
    let databases = ["a", "b", "absent"].into_iter();
    let ask = |database: &str, privilege| DatabaseAsk {
        database: database.to_owned(),
        privilege,
    };
    databases
        .flat_map(|database| ON_DATABASE.map(|privilege| ask(database, privilege)))
        .collect()
}

fn options() -> impl Strategy<Value = MembershipOptions> {
    any::<[bool; 3]>().prop_map(|[inherit, set, admin]| MembershipOptions {
        inherit,
        set,
        admin,
    })
}

fn some<T: Clone + std::fmt::Debug + 'static>(all: Vec<T>) -> impl Strategy<Value = Vec<T>> {
    let most = all.len();
    subsequence(all, 0..=most.min(14))
}

fn any_privileges() -> impl Strategy<Value = DesiredPrivileges> {
    let parts = (some(asks()), some(defaults()), some(on_databases()));
    parts.prop_map(|(objects, defaults, databases)| DesiredPrivileges {
        objects: objects.into_iter().collect(),
        defaults: defaults.into_iter().collect(),
        databases: databases.into_iter().collect(),
        exclusive: false,
    })
}

const TARGETS: [&str; 6] = ["plain", "foreign", "boss", "child", "absent", "other"];

fn any_desired() -> impl Strategy<Value = Desired> {
    let flag = || proptest::option::of(any::<bool>());
    let limit = proptest::option::of(-1..2_i32);
    let attributes = (any::<bool>(), limit, flag(), flag(), flag()).prop_map(
        |(login, connection_limit, create_db, create_role, inherit)| DesiredAttributes {
            login,
            connection_limit,
            create_db,
            create_role,
            inherit,
        },
    );
    let settings = proptest::collection::btree_map("[abc]", "[12]", 0..3);
    let names = proptest::sample::select(TARGETS.to_vec()).prop_map(role);
    let member_of = proptest::collection::btree_map(names, options(), 0..4);
    (attributes, settings, member_of, any_privileges()).prop_map(
        |(attributes, settings, member_of, privileges)| Desired {
            attributes,
            settings,
            member_of,
            privileges,
            ..desired()
        },
    )
}

/// A database with some grants, by somebody whom we can undo and by somebody whom we cannot.
fn any_database() -> impl Strategy<Value = Database> {
    let mut grants = Vec::new();
    for object in objects() {
        for privilege in privileges_on(&object) {
            for by in [OWNER, OWNER, LENDER, STRANGER] {
                grants.push((object.clone(), *privilege, by.to_owned()));
            }
        }
    }
    let held: Vec<_> = defaults()
        .into_iter()
        .map(|ask| (ask.of, ask.privilege))
        .collect();
    let held = held
        .into_iter()
        .filter(|(of, _)| of.owner != role("absent"))
        .collect();
    let tables = objects().into_iter().skip(2).collect();
    // Some tables are the role's own, or some are out of our reach.
    let apart =
        (any::<bool>(), some(objects()), some(tables)).prop_map(|(stuck, objects, tables)| {
            if stuck {
                (objects, Vec::new())
            } else {
                (Vec::new(), tables)
            }
        });
    let grantable = some(ON_DATABASE.to_vec());
    (some(grants), some(held), apart, grantable).prop_map(|(acl, defaults, apart, grantable)| {
        let (stuck, owned) = apart;
        let mut database = Database::new();
        for object in objects() {
            let may = !stuck.contains(&object);
            database.objects.insert(object, may);
        }
        database.acl = acl.into_iter().collect();
        database.acl.retain(|(object, ..)| !owned.contains(object));
        database.owned = owned.into_iter().collect();
        database.defaults = defaults.into_iter().collect();
        database.owners = [(role(OWNER), true), (role(STRANGER), false)].into();
        database.entry.grantable = grantable.into_iter().collect();
        database
    })
}

fn any_memberships() -> impl Strategy<Value = Vec<(RoleName, Membership)>> {
    let names = proptest::sample::select(vec!["plain", "foreign", "other"]).prop_map(role);
    let grantors = proptest::sample::select(vec![OWNER, STRANGER]).prop_map(role);
    let row = (names, grantors, options()).prop_map(|(target, grantor, options)| {
        let revocable = grantor == role(OWNER);
        let row = Membership {
            grantor,
            revocable,
            ours: false,
            by_admin: false,
            by_server: false,
            options,
        };
        (target, row)
    });
    proptest::collection::vec(row, 0..4)
}

fn any_server() -> impl Strategy<Value = Server> {
    let databases = (any_database(), any_database(), any_database());
    let held = proptest::collection::btree_map(
        proptest::sample::select(vec!["a", "b", "other"]).prop_map(str::to_owned),
        some(ON_DATABASE.to_vec()).prop_map(|held| held.into_iter().collect()),
        0..3,
    );
    let settings = proptest::collection::btree_map("[abc]", "[12]", 0..3);
    let new = any::<bool>();
    let role_facts = (any::<bool>(), -1..2_i32, any::<[bool; 3]>());
    (
        databases,
        held,
        settings,
        any_memberships(),
        new,
        role_facts,
    )
        .prop_map(|((a, b, other), held, settings, memberships, new, facts)| {
            let mut server = Server::default();
            server.facts.version_num = if new { 160_004 } else { 150_010 };
            let mut locked = a.clone();
            locked.entry.connectable = false;
            let databases = [("a", a), ("b", b), ("other", other), ("locked", locked)];
            server.databases = databases.map(|(name, it)| (name.to_owned(), it)).into();
            server.role.databases = held;
            server.role.databases.retain(|_, held| !held.is_empty());
            server.role.settings = settings;
            let (can_login, connection_limit, [create_db, create_role, inherit]) = facts;
            server.role.can_login = can_login;
            server.role.attributes = Attributes {
                connection_limit,
                create_db,
                create_role,
                inherit,
            };
            for (target, mut row) in memberships {
                if !new {
                    let admin = row.options.admin;
                    row.options = MembershipOptions {
                        inherit: true,
                        set: true,
                        admin,
                    };
                    row.revocable = true;
                    row.ours = true;
                }
                let rows = server.role.memberships.entry(target).or_default();
                if new || rows.is_empty() {
                    rows.retain(|other| other.grantor != row.grantor);
                    rows.insert(row);
                }
            }
            server.targets = targets();
            server
        })
}

fn targets() -> BTreeMap<RoleName, TargetFacts> {
    let target = |administrator, grantable, member_of: &[RoleName]| TargetFacts {
        administrator,
        grantable,
        member_of: member_of.iter().cloned().collect(),
    };
    [
        (role("plain"), target(false, true, &[])),
        (role("other"), target(false, true, &[])),
        (role("foreign"), target(false, false, &[])),
        (role("boss"), target(true, true, &[])),
        (role("child"), target(false, true, &[desired().role])),
    ]
    .into()
}

/// How far a pass comes before the operator is killed.
#[derive(Clone, Copy, Debug)]
enum Killed {
    Never,
    /// The record is written, and nothing else is done.
    AfterRecord,
    /// The message in database `postgres` is through.
    AfterPostgres,
}

fn any_states() -> impl Strategy<Value = Vec<(Desired, Killed)>> {
    let killed = prop_oneof![
        Just(Killed::Never),
        Just(Killed::AfterRecord),
        Just(Killed::AfterPostgres)
    ];
    proptest::collection::vec((any_desired(), killed), 2..4)
}

/// Declares one state after the other; only the last is surely reached.
fn live_through(server: &mut Server, states: &[(Desired, Killed)]) -> Asked {
    let mut asked = Asked::default();
    for (desired, killed) in states {
        let rights = server.plan(desired, &asked);
        asked = match killed {
            Killed::Never => server.settle(desired, asked).0,
            Killed::AfterRecord => rights.asked,
            Killed::AfterPostgres => {
                server.apply(&rights.steps);
                rights.asked
            }
        };
    }
    let (last, _) = states.last().expect("one at least");
    server.settle(last, asked).0
}

/// The grants on objects that are declared in a database, of what exists there.
fn declared(desired: &Desired, name: &str, database: &Database) -> BTreeSet<(Object, Privilege)> {
    let asks = desired.privileges.objects.iter();
    let mut declared = BTreeSet::new();
    for ask in asks.filter(|ask| ask.database == name) {
        for object in database.objects.keys() {
            let named = (ask.names.as_ref()).is_none_or(|names| names.contains(&object.name));
            let own = database.owned.contains(object);
            if object.group == ask.group && named && !own {
                let privileges = ask.privileges.iter();
                declared.extend(privileges.map(|privilege| (object.clone(), *privilege)));
            }
        }
    }
    declared
}

fn declared_defaults(desired: &Desired, name: &str) -> BTreeSet<(DefaultsOf, Privilege)> {
    let asks = desired.privileges.defaults.iter();
    asks.filter(|ask| ask.database == name)
        .map(|ask| (ask.of.clone(), ask.privilege))
        .collect()
}

fn declared_on(desired: &Desired, name: &str) -> BTreeSet<Privilege> {
    let asks = desired.privileges.databases.iter();
    asks.filter(|ask| ask.database == name)
        .map(|ask| ask.privilege)
        .collect()
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 512, ..ProptestConfig::default() })]

    /// Additive: in the end there is what was there before, and what is declared last and can be given;
    /// nothing of what was declared in between. Wherever the operator was killed.
    // Red when: a slot records what was there before, or `give_named` does not record what it gives.
    #[test]
    fn additive_adds_what_is_declared_and_takes_back_no_more(
        before in any_server(),
        states in any_states(),
    ) {
        let mut server = before.clone();
        live_through(&mut server, &states);
        let (last, _) = states.last().expect("one at least");
        for (name, database) in &before.databases {
            let now = &server.databases[name];
            let mut expected = database.acl.clone();
            let reachable = database.entry.connectable;
            for (object, privilege) in declared(last, name, database) {
                if reachable && database.objects[&object] && !database.has(&object, privilege) {
                    expected.insert((object, privilege, OWNER.to_owned()));
                }
            }
            prop_assert_eq!(&now.acl, &expected);
            let given = declared_defaults(last, name).into_iter();
            let given = given.filter(|(of, _)| reachable && of.owner == role(OWNER));
            let defaults: BTreeSet<_> = database.defaults.iter().cloned().chain(given).collect();
            prop_assert_eq!(&now.defaults, &defaults);
            let held = before.role.databases.get(name).cloned().unwrap_or_default();
            let given = &declared_on(last, name) & &database.entry.grantable;
            let now = server.role.databases.get(name).cloned().unwrap_or_default();
            prop_assert_eq!(now, &held | &given);
        }
    }

    /// Settings, attributes and memberships that no state declared are as before.
    // Red when: `leave` forgets `granted_before`, or an attribute is set back that was not asked for.
    #[test]
    fn what_nobody_declared_is_left(before in any_server(), states in any_states()) {
        let mut server = before.clone();
        live_through(&mut server, &states);
        let ever = |name: &str| states.iter().any(|(it, _)| it.settings.contains_key(name));
        for (name, value) in before.role.settings.iter().filter(|(name, _)| !ever(name)) {
            prop_assert_eq!(server.role.settings.get(name), Some(value));
        }
        let (was, is) = (&before.role.attributes, &server.role.attributes);
        if states.iter().all(|(it, _)| it.attributes.create_db.is_none()) {
            prop_assert_eq!(is.create_db, was.create_db);
        }
        if states.iter().all(|(it, _)| it.attributes.login) {
            prop_assert_eq!(server.role.can_login, before.role.can_login);
        }
        for (target, rows) in &before.role.memberships {
            let declared = states.iter().any(|(it, _)| it.member_of.contains_key(target));
            let apart = before.facts.version_num >= 160_000;
            if apart || !declared {
                let now = server.role.memberships.get(target).cloned().unwrap_or_default();
                prop_assert!(now.is_superset(rows), "{:?}: {:?}", target, now);
            }
        }
    }

    /// What is declared is there; what was declared once, and was not there before, is gone.
    // Red when: `settings::plan` forgets what it resets, or `attribute` keeps what is not declared.
    #[test]
    fn attributes_settings_and_memberships_follow_the_last_state(
        before in any_server(),
        states in any_states(),
    ) {
        let mut server = before.clone();
        let asked = live_through(&mut server, &states);
        let (last, _) = states.last().expect("one at least");
        for (name, value) in &last.settings {
            prop_assert_eq!(server.role.settings.get(name), Some(value));
        }
        for name in server.role.settings.keys() {
            let known = last.settings.contains_key(name) || before.role.settings.contains_key(name);
            prop_assert!(known, "{}", name);
        }
        if let Some(limit) = last.attributes.connection_limit {
            prop_assert_eq!(server.role.attributes.connection_limit, limit);
        }
        prop_assert!(last.attributes.login || !server.role.can_login);
        for (target, rows) in &server.role.memberships {
            let by_us = rows.iter().any(|row| row.grantor.as_str() == before.facts.administrator);
            prop_assert!(!by_us || last.member_of.contains_key(target), "{:?}", target);
        }
        for name in asked.member_of {
            let declared = last.member_of.contains_key(&role(&name));
            prop_assert!(declared, "{} is still remembered", name);
        }
    }

    /// Exclusive: in the databases named there is what is declared, but for what is in others' hands;
    /// databases that nobody named are untouched.
    // Red when: `objects` leaves out slots that are only held, or `named` a kind of declaration.
    #[test]
    fn exclusive_leaves_exactly_what_is_declared(
        before in any_server(),
        mut states in any_states(),
        policies in any::<[bool; 4]>(),
    ) {
        for ((desired, _), exclusive) in states.iter_mut().zip(policies) {
            desired.privileges.exclusive = exclusive;
        }
        if let Some((last, _)) = states.last_mut() {
            last.privileges.exclusive = true;
        }
        let mut server = before.clone();
        live_through(&mut server, &states);
        let (last, _) = states.last().expect("one at least");
        let named = |desired: &Desired, name: &str| {
            let DesiredPrivileges { databases, objects, defaults, .. } = &desired.privileges;
            databases.iter().any(|ask| ask.database == name)
                || objects.iter().any(|ask| ask.database == name)
                || defaults.iter().any(|ask| ask.database == name)
        };
        for (name, now) in &server.databases {
            if !states.iter().any(|(state, _)| named(state, name)) {
                prop_assert_eq!(now, &before.databases[name]);
                prop_assert_eq!(server.role.databases.get(name), before.role.databases.get(name));
            }
            if !named(last, name) || !now.entry.connectable {
                continue;
            }
            let wanted = declared(last, name, now);
            for (object, grantable) in &now.objects {
                if now.owned.contains(object) {
                    continue;
                }
                for privilege in privileges_on(object) {
                    let wanted = wanted.contains(&(object.clone(), *privilege));
                    let fixed = (object.clone(), *privilege, STRANGER.to_owned());
                    let fixed = now.acl.contains(&fixed);
                    let has = now.has(object, *privilege);
                    prop_assert!(
                        has == wanted || (wanted && !grantable) || (!wanted && fixed),
                        "{} {} {:?} {}", name, privilege, object, has
                    );
                }
            }
            let wanted = declared_defaults(last, name);
            for (of, privilege) in wanted.symmetric_difference(&now.defaults) {
                let ours = of.owner == role(OWNER);
                prop_assert!(!ours, "{:?} {}", of, privilege);
            }
            let held = server.role.databases.get(name).cloned().unwrap_or_default();
            let differ = &declared_on(last, name) ^ &held;
            prop_assert!((&differ & &now.entry.grantable).is_empty(), "{:?}", differ);
        }
    }
}
