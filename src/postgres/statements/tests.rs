//! The statements of each step, with names that try to break out.

use super::*;
use crate::api::PrincipalType;
use crate::model::ObjectId;

const ID: &str = "11111111-0000-0000-0000-00000000000a";
const OLD: u32 = 150_020;
const NEW: u32 = 160_000;

fn name(text: &str) -> RoleName {
    RoleName::parse(text).unwrap()
}

fn one(step: &RoleStep) -> String {
    let mut statements = statements(&name("o'b \"x\""), step, NEW);
    assert_eq!(statements.len(), 1, "{statements:?}");
    statements.remove(0)
}

fn set(of: &str, value: &str) -> String {
    one(&RoleStep::Set {
        name: of.to_owned(),
        value: value.to_owned(),
    })
}

fn join(admin: bool, inherit: bool) -> RoleStep {
    RoleStep::Join {
        role: name("rea\"ders"),
        options: MembershipOptions {
            inherit,
            set: true,
            admin,
        },
    }
}

#[test]
fn attributes_go_in_one_statement() {
    let step = RoleStep::Alter(vec![
        Attribute::Login(false),
        Attribute::ConnectionLimit(-1),
        Attribute::CreateDb(true),
        Attribute::CreateRole(false),
        Attribute::Inherit(true),
    ]);
    let expected =
        r#"ALTER ROLE "o'b ""x""" NOLOGIN CONNECTION LIMIT -1 CREATEDB NOCREATEROLE INHERIT"#;
    assert_eq!(one(&step), expected);
}

// Red when: every value is sent as one literal.
#[test]
fn a_list_of_identifiers_is_sent_as_a_list_and_all_else_as_one_value() {
    let list = set("search_path", r#""$user", a'b, "C d""#);
    assert!(
        list.ends_with(r#"SET "search_path" TO '$user', 'a''b', 'C d'"#),
        "{list}"
    );
    assert!(set("search_path", "").ends_with(r#"SET "search_path" TO ''"#));
    assert!(set("datestyle", "ISO, DMY").ends_with("TO 'ISO, DMY'"));
    assert!(set("work_mem", "DEFAULT").ends_with("TO 'DEFAULT'"));
    assert!(set("app.te\"nant", "x").contains(r#"SET "app"."te""nant" TO 'x'"#));
    let reset = one(&RoleStep::Reset("app.tenant".to_owned()));
    assert!(reset.ends_with(r#"RESET "app"."tenant""#));
}

#[test]
fn a_membership_has_all_its_options_from_16_on() {
    assert_eq!(
        one(&join(false, false)),
        r#"GRANT "rea""ders" TO "o'b ""x""" WITH ADMIN FALSE, INHERIT FALSE, SET TRUE"#
    );
    let old = |step| statements(&name("r"), &step, OLD);
    assert_eq!(
        old(join(true, true)),
        [r#"GRANT "rea""ders" TO "r" WITH ADMIN OPTION"#]
    );
    assert_eq!(
        old(join(false, true)),
        [
            r#"GRANT "rea""ders" TO "r""#,
            r#"REVOKE ADMIN OPTION FOR "rea""ders" FROM "r""#
        ]
    );
}

#[test]
fn a_membership_is_taken_back_from_each_grantor() {
    let step = RoleStep::Leave {
        role: name("readers"),
        grantors: BTreeSet::from([name("a"), name("b\"")]),
    };
    assert_eq!(
        statements(&name("r"), &step, NEW),
        [
            r#"REVOKE "readers" FROM "r" GRANTED BY "a""#,
            r#"REVOKE "readers" FROM "r" GRANTED BY "b""""#
        ]
    );
    assert_eq!(
        statements(&name("r"), &step, OLD),
        [r#"REVOKE "readers" FROM "r""#]
    );
}

#[test]
fn privileges_on_a_database() {
    let privileges = BTreeSet::from([Privilege::Connect, Privilege::Temporary]);
    let database = "or\"ders".to_owned();
    let (given, taken) = (privileges.clone(), privileges);
    let grant = RoleStep::GrantDatabase {
        database: database.clone(),
        privileges: given,
    };
    let revoke = RoleStep::RevokeDatabase {
        database,
        privileges: taken,
    };
    assert_eq!(
        one(&grant),
        r#"GRANT CONNECT, TEMPORARY ON DATABASE "or""ders" TO "o'b ""x""""#
    );
    assert_eq!(
        one(&revoke),
        r#"REVOKE CONNECT, TEMPORARY ON DATABASE "or""ders" FROM "o'b ""x""""#
    );
}

fn new(object_id: Option<ObjectId>) -> RoleStep {
    RoleStep::Create(NewRole {
        object_id,
        kind: PrincipalType::ManagedIdentity,
        admin: false,
        mfa: false,
        marker: "Managed by us; id {objectId}".to_owned(),
    })
}

#[test]
fn a_creation_is_made_then_checked_and_marked() {
    let made = statements(&name("o'brien"), &new(None), NEW);
    let [create, settle] = made.as_slice() else {
        panic!("{made:?}")
    };
    assert!(create.ends_with("pgaadauth_create_principal('o''brien', false, false)"));
    assert!(settle.starts_with("DO ") && settle.contains("COMMENT ON ROLE %I IS %L"));
    assert!(!settle.contains("BEGIN;"));
}

#[test]
fn a_known_identity_is_bound_by_its_object_id() {
    let made = statements(&name("o'brien"), &new(ObjectId::parse(ID)), NEW);
    let call = format!("_with_oid('o''brien', '{ID}', 'service', false, false)");
    assert!(made.first().unwrap().ends_with(&call));
}

#[test]
fn an_adoption_takes_the_password_and_names_the_identity() {
    let label = RoleStep::Label {
        object_id: ObjectId::parse(ID).unwrap(),
        kind: PrincipalType::Group,
        admin: false,
        mfa: true,
    };
    let password = one(&RoleStep::ForgetPassword);
    assert_eq!(password, r#"ALTER ROLE "o'b ""x""" PASSWORD NULL"#);
    assert!(one(&label).ends_with(&format!("IS 'aadauth,oid={ID},type=group,mfa'")));
    assert!(one(&RoleStep::Mark("it's ours".to_owned())).ends_with("IS 'it''s ours'"));
}

#[test]
fn what_is_shown_has_no_blocks() {
    let create = RoleStep::Create(NewRole {
        object_id: None,
        kind: PrincipalType::Group,
        admin: false,
        mfa: false,
        marker: "it's ours".to_owned(),
    });
    assert_eq!(
        show(&name("r"), &[create, join(false, true)], OLD),
        [
            "SELECT pg_catalog.pgaadauth_create_principal('r', false, false)",
            r#"COMMENT ON ROLE "r" IS 'it''s ours'"#,
            r#"GRANT "rea""ders" TO "r""#
        ]
    );
    assert_eq!(show(&name("r"), &[join(false, true)], OLD).len(), 2);
}
