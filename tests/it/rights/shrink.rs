//! What is removed from a manifest is taken from the server, and only that; what a database
//! administrator gave stays, or goes where the policy says so.

use std::collections::BTreeSet;

use anyhow::Result;
use serde_json::{Value, json};

use super::{
    ADMINISTRATOR, control, declared, furnished, has_exactly, ledger, made, noticed, says, set,
    setup,
};
use crate::fixture::World;
use crate::fleet;

/// A role with nothing.
pub(super) const BARE: &str = "attributes f t f f t -1";

/// Something of everything; its lines are [`everything`].
pub(super) fn full(policy: &str) -> Value {
    json!({
        "privilegePolicy": policy,
        "role": {"login": false, "inherit": false, "connectionLimit": 5, "createDb": true, "createRole": true,
            "settings": {"statement_timeout": "30s", "search_path": "app, public"}},
        "memberOf": [{"role": "readers"}, {"role": "writers", "admin": true}],
        "grants": [
            {"database": "orders", "privileges": ["CONNECT", "TEMPORARY"]},
            {"database": "orders", "schema": "app", "privileges": ["USAGE", "CREATE"]},
            {"database": "orders", "schema": "app", "objects": "Tables", "names": ["t1", "t2"], "privileges": ["SELECT", "INSERT"]},
            {"database": "orders", "schema": "app", "objects": "Tables", "all": true, "privileges": ["UPDATE"]},
            {"database": "orders", "schema": "app", "objects": "Functions", "names": ["f(integer)"], "privileges": ["EXECUTE"]},
            {"database": "orders", "schema": "app", "objects": "Sequences", "all": true, "privileges": ["USAGE"]},
        ],
        "defaultPrivileges": [{"database": "orders", "schema": "app", "owner": "app_owner", "objects": "Tables",
            "privileges": ["SELECT", "INSERT"]}],
    })
}

pub(super) fn everything() -> BTreeSet<String> {
    set(&[
        "attributes f f t t f 5",
        "setting statement_timeout=30s",
        "setting search_path=app, public",
        "member of readers",
        "member of writers with admin",
        "orders||database||CONNECT",
        "orders||database||TEMPORARY",
        "orders|app|schema|app|USAGE",
        "orders|app|schema|app|CREATE",
        "orders|app|table|t1|SELECT",
        "orders|app|table|t2|SELECT",
        "orders|app|table|t1|INSERT",
        "orders|app|table|t2|INSERT",
        "orders|app|table|t1|UPDATE",
        "orders|app|table|t2|UPDATE",
        "orders|app|function|f(integer)|EXECUTE",
        "orders|app|sequence|s1|USAGE",
        "orders|app|default of app_owner|r|SELECT",
        "orders|app|default of app_owner|r|INSERT",
    ])
}

/// What is removed, how, and the lines that go and come.
type Removal = (
    &'static str,
    fn(&mut Value),
    &'static [&'static str],
    &'static [&'static str],
);

fn remove(spec: &mut Value, list: &str, index: usize) {
    spec[list].as_array_mut().expect("a list").remove(index);
}

/// One after the other, each from what the last one left.
const REMOVALS: &[Removal] = &[
    (
        "a privilege on tables",
        |spec| spec["grants"][2]["privileges"] = json!(["SELECT"]),
        &["orders|app|table|t1|INSERT", "orders|app|table|t2|INSERT"],
        &[],
    ),
    (
        "the name of a table",
        |spec| spec["grants"][2]["names"] = json!(["t1"]),
        &["orders|app|table|t2|SELECT"],
        &[],
    ),
    (
        "all but one of all tables",
        |spec| {
            spec["grants"][3] = json!({"database": "orders", "schema": "app", "objects": "Tables",
                "names": ["t2"], "privileges": ["UPDATE"]});
        },
        &["orders|app|table|t1|UPDATE"],
        &[],
    ),
    (
        "all sequences",
        |spec| remove(spec, "grants", 5),
        &["orders|app|sequence|s1|USAGE"],
        &[],
    ),
    (
        "a function",
        |spec| remove(spec, "grants", 4),
        &["orders|app|function|f(integer)|EXECUTE"],
        &[],
    ),
    (
        "a privilege on the schema",
        |spec| spec["grants"][1]["privileges"] = json!(["USAGE"]),
        &["orders|app|schema|app|CREATE"],
        &[],
    ),
    (
        "a privilege on the database",
        |spec| spec["grants"][0]["privileges"] = json!(["CONNECT"]),
        &["orders||database||TEMPORARY"],
        &[],
    ),
    (
        "a default privilege",
        |spec| spec["defaultPrivileges"][0]["privileges"] = json!(["SELECT"]),
        &["orders|app|default of app_owner|r|INSERT"],
        &[],
    ),
    (
        "the last default privilege",
        |spec| spec["defaultPrivileges"] = json!([]),
        &["orders|app|default of app_owner|r|SELECT"],
        &[],
    ),
    (
        "a membership",
        |spec| remove(spec, "memberOf", 0),
        &["member of readers"],
        &[],
    ),
    (
        "an option of a membership",
        |spec| spec["memberOf"][0]["admin"] = json!(false),
        &["member of writers with admin"],
        &["member of writers"],
    ),
    (
        "a setting",
        |spec| spec["role"]["settings"] = json!({"search_path": "app, public"}),
        &["setting statement_timeout=30s"],
        &[],
    ),
    (
        "login: false",
        |spec| spec["role"]["login"] = json!(true),
        &["attributes f f t t f 5"],
        &["attributes f f t t t 5"],
    ),
    (
        "two attributes",
        |spec| {
            let mut role = spec["role"].take();
            let fields = role.as_object_mut().expect("an object");
            fields.retain(|field, _| !["createDb", "inherit"].contains(&field.as_str()));
            spec["role"] = role;
        },
        &["attributes f f t t t 5"],
        &["attributes f t t f t 5"],
    ),
    (
        "all options of the role",
        |spec| {
            spec.as_object_mut().expect("an object").remove("role");
        },
        &["attributes f t t f t 5", "setting search_path=app, public"],
        &[BARE],
    ),
    (
        "all grants and memberships",
        |spec| {
            spec["grants"] = json!([]);
            spec["memberOf"] = json!([]);
        },
        &[
            "member of writers",
            "orders||database||CONNECT",
            "orders|app|schema|app|USAGE",
            "orders|app|table|t1|SELECT",
            "orders|app|table|t2|UPDATE",
        ],
        &[],
    ),
];

/// Gives everything, has it taken away by hand and put back, and removes it piece by piece.
async fn piece_by_piece(world: &World, n: usize, policy: &str) -> Result<()> {
    let name = fleet::name(n);
    let mut expected = everything();
    let mut object = declared(world, n, &full(policy));
    world.apply(&object).await?;
    has_exactly(world, &name, &[], &expected, "everything").await?;
    let drift = format!(
        "REVOKE SELECT ON app.t1 FROM \"{name}\"; REVOKE USAGE ON SCHEMA app FROM \"{name}\"; REVOKE ALL ON SEQUENCE app.s1 FROM \"{name}\";
         REVOKE ALL ON FUNCTION app.f(integer) FROM \"{name}\"; REVOKE TEMPORARY ON DATABASE orders FROM \"{name}\";
         ALTER DEFAULT PRIVILEGES FOR ROLE app_owner IN SCHEMA app REVOKE SELECT ON TABLES FROM \"{name}\";
         REVOKE readers FROM \"{name}\" GRANTED BY \"{ADMINISTRATOR}\"; ALTER ROLE \"{name}\" RESET statement_timeout;
         ALTER ROLE \"{name}\" NOCREATEDB LOGIN INHERIT CONNECTION LIMIT 7"
    );
    ledger::run(world, "orders", &drift).await?;
    has_exactly(world, &name, &[], &expected, "after drift by hand").await?;
    for (what, change, gone, come) in REMOVALS {
        change(&mut object["spec"]);
        world.apply(&object).await?;
        expected.retain(|line| !gone.contains(&line.as_str()));
        expected.extend(set(come));
        has_exactly(world, &name, &[], &expected, what).await?;
    }
    world.ready("principal", &name).await?;
    Ok(())
}

// Red when: the parts of `rights` plan nothing for what is in `asked` and declared no more, or more
// than that.
#[tokio::test(flavor = "multi_thread")]
async fn what_is_removed_from_a_manifest_is_taken_from_the_server() -> Result<()> {
    let world = furnished("shrink", setup(2, |_| ()), &[]).await?;
    tokio::try_join!(
        piece_by_piece(&world, 0, "Additive"),
        piece_by_piece(&world, 1, "Exclusive"),
    )?;
    Ok(())
}

/// What a database administrator gives by hand.
fn by_hand() -> BTreeSet<String> {
    set(&[
        BARE,
        "setting statement_timeout=30s",
        "member of readers",
        "orders||database||TEMPORARY",
        "orders|app|schema|app|USAGE",
        "orders|app|table|t1|SELECT",
        "orders|app|default of app_owner|r|SELECT",
    ])
}

// Red when: `rights` records what was there before as asked for (Additive loses it), or Exclusive does
// not look at what was never asked for, or looks at memberships and settings.
#[tokio::test(flavor = "multi_thread")]
async fn what_an_administrator_gave_before_stays_and_goes_where_the_policy_is_exclusive()
-> Result<()> {
    let world = furnished("before", setup(3, |_| ()), &[]).await?;
    made(&world, 0, &control()).await?;
    let policies = [(1, "Additive"), (2, "Exclusive")];
    for (n, _) in policies {
        made(&world, n, &json!({})).await?;
        let name = fleet::name(n);
        let sql = format!(
            "GRANT SELECT ON app.t1 TO \"{name}\"; GRANT USAGE ON SCHEMA app TO \"{name}\"; GRANT TEMPORARY ON DATABASE orders TO \"{name}\";
             ALTER DEFAULT PRIVILEGES FOR ROLE app_owner IN SCHEMA app GRANT SELECT ON TABLES TO \"{name}\";
             GRANT readers TO \"{name}\"; ALTER ROLE \"{name}\" SET statement_timeout = '30s'"
        );
        ledger::run(&world, "orders", &sql).await?;
    }
    noticed(&world, 0).await?;
    for (n, _) in policies {
        // More than the administrator gave, all of it included; the policy is not yet the other.
        let object = declared(&world, n, &full("Additive"));
        world.apply(&object).await?;
    }
    for (n, _) in policies {
        has_exactly(&world, &fleet::name(n), &[], &everything(), "everything").await?;
    }
    // Of all tables those made later are given, too.
    let table = "CREATE TABLE app.t3 (); ALTER TABLE app.t3 OWNER TO app_owner";
    ledger::run(&world, "orders", table).await?;
    let mut more = everything();
    more.insert("orders|app|table|t3|UPDATE".to_owned());
    for (n, _) in policies {
        has_exactly(&world, &fleet::name(n), &[], &more, "a later table").await?;
    }
    for (n, policy) in policies {
        let connect = json!([{"database": "orders", "privileges": ["CONNECT"]}]);
        let fields = json!({"privilegePolicy": policy, "grants": connect});
        world.apply(&declared(&world, n, &fields)).await?;
    }
    let mut additive = by_hand();
    additive.insert("orders||database||CONNECT".to_owned());
    has_exactly(&world, &fleet::name(1), &[], &additive, "Additive").await?;
    let exclusive = set(&[
        BARE,
        "setting statement_timeout=30s",
        "member of readers",
        "orders||database||CONNECT",
    ]);
    has_exactly(&world, &fleet::name(2), &[], &exclusive, "Exclusive").await?;
    for (n, _) in policies {
        world.ready("principal", &fleet::name(n)).await?;
    }
    Ok(())
}

// Red when: the question about a database leaves out schemas in which our roles have something and of which
// no principal says anything.
#[tokio::test(flavor = "multi_thread")]
async fn exclusive_finds_what_was_given_where_nobody_looks() -> Result<()> {
    let world = furnished("nobody", setup(1, |_| ()), &[]).await?;
    let name = fleet::name(0);
    let connect = json!([{"database": "orders", "privileges": ["CONNECT"]}]);
    let fields = json!({"privilegePolicy": "Exclusive", "grants": connect});
    made(&world, 0, &fields).await?;
    let left = set(&[BARE, "orders||database||CONNECT"]);
    for given in [
        "GRANT USAGE ON SCHEMA app",
        "GRANT SELECT ON app.t1",
        "GRANT UPDATE ON SEQUENCE app.s1",
        "GRANT EXECUTE ON FUNCTION app.f(integer)",
        "ALTER DEFAULT PRIVILEGES FOR ROLE app_owner IN SCHEMA app GRANT SELECT ON TABLES",
    ] {
        ledger::run(&world, "orders", &format!("{given} TO \"{name}\"")).await?;
        has_exactly(&world, &name, &[], &left, given).await?;
    }
    world.ready("principal", &name).await?;
    Ok(())
}

// Red when: `login` in rights/attributes opens what it had not closed, or forgets that it had.
#[tokio::test(flavor = "multi_thread")]
async fn a_login_that_we_took_is_given_back_and_one_that_an_administrator_took_is_not() -> Result<()>
{
    let world = furnished("login", setup(1, |_| ()), &[]).await?;
    let name = fleet::name(0);
    let login = |on: bool| json!({"role": {"login": on}});
    let (open, closed) = (set(&[BARE]), set(&["attributes f t f f f -1"]));
    made(&world, 0, &login(false)).await?;
    has_exactly(&world, &name, &[], &closed, "closed from the start").await?;
    // Opened by hand it is closed again, and closed by hand it stays ours.
    world.sql(&format!("ALTER ROLE \"{name}\" LOGIN")).await?;
    has_exactly(&world, &name, &[], &closed, "after drift by hand").await?;
    let nologin = format!("ALTER ROLE \"{name}\" NOLOGIN");
    world.sql(&nologin).await?;
    made(&world, 0, &login(true)).await?;
    has_exactly(&world, &name, &[], &open, "given back").await?;

    // What an administrator closed stays so, declared closed meanwhile or not.
    world.sql(&nologin).await?;
    for fields in [login(true), json!({})] {
        world.apply(&declared(&world, 0, &fields)).await?;
        let ready = says(&world, 0, &["NOLOGIN", "entrapostgres.io/restore"]).await?;
        assert_eq!(ready.reason, "LoginDisabledOnServer", "{ready:?}");
        made(&world, 0, &login(false)).await?;
    }
    has_exactly(&world, &name, &[], &closed, "the administrator's").await?;
    world.apply(&declared(&world, 0, &login(true))).await?;
    says(&world, 0, &["NOLOGIN"]).await?;
    has_exactly(&world, &name, &[], &closed, "the administrator's").await?;
    world.sql(&format!("ALTER ROLE \"{name}\" LOGIN")).await?;
    world.ready("principal", &name).await?;
    has_exactly(&world, &name, &[], &open, "opened by hand").await
}
