//! What is planned for rights, case by case, with the words that people read.

mod attributes;
mod memberships;
mod privileges;
mod stuck;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use super::settings::identifiers;
use super::simulator::{Database, LENDER, LOST, OWNER, STRANGER, Server, group, object, role};
use super::{Rights, interest};
use crate::api::Privilege;
use crate::model::attribute::Attributes;
use crate::model::database::{DatabaseCatalog, HeldColumn, ObjectFacts};
use crate::model::privilege::AskedObjects;
use crate::model::testing::{desired, observed};
use crate::model::{
    Ask, Asked, Attribute, Class, DatabaseAsk, DefaultAsk, DefaultsOf, Desired, DesiredAttributes,
    Failure, Group, Kind, Membership, MembershipOptions, Names, Object, ObjectKey, OfOthers,
    PrivilegeStep, Reason, RoleStep, TargetFacts,
};

const SELECT: Privilege = Privilege::Select;
const ALL: Option<&str> = None;
const USUAL: MembershipOptions = MembershipOptions {
    inherit: true,
    set: true,
    admin: false,
};

fn names(names: &[&str]) -> BTreeSet<String> {
    names.iter().map(|&name| name.to_owned()).collect()
}

fn table(name: &str) -> Object {
    object("app", Kind::Table, name)
}

fn tables() -> Group {
    group("app", Kind::Table)
}

/// A database with some tables that we may grant on.
fn with_tables(tables: &[&str]) -> Database {
    let database = Database::new();
    let with = |database: Database, name: &&str| database.with(table(name), true);
    tables.iter().fold(database, with)
}

fn server(database: Database) -> Server {
    let mut server = Server::default();
    server.databases.insert("shop".to_owned(), database);
    server
}

fn ask(group: Group, name: Option<&str>, privilege: Privilege) -> Ask {
    Ask {
        database: "shop".to_owned(),
        group,
        names: name.map(|name| Arc::new([name.to_owned()].into())),
        privileges: [privilege].into(),
    }
}

/// SELECT on these tables; `None`: on all.
fn reads(asked: &[Option<&str>]) -> Desired {
    let mut desired = desired();
    let asks = asked.iter().map(|name| ask(tables(), *name, SELECT));
    desired.privileges.objects.extend(asks);
    desired
}

fn exclusive(mut desired: Desired) -> Desired {
    desired.privileges.exclusive = true;
    desired
}

fn inside(rights: &Rights) -> &[PrivilegeStep] {
    rights.inside.get("shop").map_or(&[], Vec::as_slice)
}

fn grant(names: Names) -> PrivilegeStep {
    PrivilegeStep::Grant {
        group: tables(),
        names,
        privileges: [SELECT].into(),
    }
}

fn revoke(names: Names) -> PrivilegeStep {
    PrivilegeStep::Revoke {
        group: tables(),
        names,
        privileges: [SELECT].into(),
        of_others: false,
    }
}

/// The one problem, if it has this reason and says all this.
#[track_caller]
fn says(problems: &[Failure], reason: Reason, parts: &[&str]) {
    let [problem] = problems else {
        panic!("one problem is expected: {problems:?}");
    };
    assert_eq!(problem.reason, reason, "{problem}");
    for part in parts {
        assert!(problem.message.contains(part), "{part:?} in: {problem}");
    }
}
