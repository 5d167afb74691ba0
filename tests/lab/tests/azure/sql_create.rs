//! Creating and listing Entra roles by SQL: names, columns, labels and each refusal.

use lab::postgres::{NameColumn, PASSWORD_ADMINISTRATOR, PostgresOptions};

use crate::sql_support::*;

#[tokio::test]
async fn principals_are_created_by_name_and_listed_with_what_the_directory_says() {
    let server = server().await;
    let admin = admin(&server).await;
    for (name, is_mfa) in [(ALICE, true), (GROUP, false), (APP, false), (GUEST, false)] {
        let sql = format!("SELECT pgaadauth_create_principal('{name}', false, {is_mfa})");
        assert_eq!(
            value(&admin, &sql).await,
            format!("Created role for \"{name}\"")
        );
    }
    let all = rows(&admin, "SELECT * FROM pgaadauth_list_principals(false)").await;
    let row = |name: &str, kind: &str, id: &str, mfa: &str, admin: &str| {
        [name, kind, id, TENANT, mfa, admin]
            .map(str::to_owned)
            .to_vec()
    };
    for wanted in [
        row(ALICE, "user", ALICE_ID, "1", "0"),
        row(GROUP, "group", GROUP_ID, "0", "0"),
        row(APP, "service", APP_ID, "0", "0"),
        row(ADMIN, "group", ADMIN_ID, "0", "1"),
    ] {
        assert!(all.contains(&wanted), "{wanted:?} is not in {all:?}");
    }
    assert_eq!(all.len(), 5);
    let admins = rows(&admin, "SELECT * FROM pgaadauth_list_principals(true)").await;
    assert_eq!(admins, [row(ADMIN, "group", ADMIN_ID, "0", "1")]);
    let resolved = format!("type=user,oid={ALICE_ID},tenant_id={TENANT}");
    assert_eq!(
        labels(&admin, ALICE).await,
        [
            ("pgaadauth".into(), "aadauth,mfa".into()),
            ("pgaadauth-int".into(), resolved)
        ]
    );
}

#[tokio::test]
async fn by_object_id_a_role_may_have_any_name_and_quoting_is_right() {
    let server = server().await;
    let admin = admin(&server).await;
    let name = r#"it's "50%" \ ü"#;
    let sql = "SELECT pgaadauth_create_principal_with_oid($1, $2, 'service', false, false)";
    let text: String = admin
        .query_one(sql, &[&name, &MANAGED_ID])
        .await
        .unwrap()
        .get(0);
    assert_eq!(text, r#"Created role for "it's ""50%"" \ ü""#);
    assert_eq!(
        labels(&admin, name).await[0].1,
        format!("aadauth,oid={MANAGED_ID},type=service")
    );
    let odd = "o'neil \"x\" \\ 50% ü@contoso.onmicrosoft.com";
    let sql = "SELECT pgaadauth_create_principal($1, false, false)";
    admin.query_one(sql, &[&odd]).await.unwrap();
    assert!(
        labels(&admin, odd).await[1]
            .1
            .starts_with("type=user,oid=a11ce000")
    );
}

#[tokio::test]
async fn an_administrator_made_by_sql_may_make_others() {
    let server = server().await;
    let admin = admin(&server).await;
    run(
        &admin,
        &format!("SELECT pgaadauth_create_principal('{APP}', true, false)"),
    )
    .await;
    let second = server.connect(APP, "postgres").await.unwrap();
    assert_eq!(
        value(&second, "SELECT pg_has_role('azure_pg_admin', 'member')").await,
        "t"
    );
    run(
        &second,
        &format!("SELECT pgaadauth_create_principal('{GROUP}', false, false)"),
    )
    .await;
    assert_eq!(
        value(
            &second,
            "SELECT rolsuper FROM pg_roles WHERE rolname = current_user"
        )
        .await,
        "f"
    );
    // The creator administers what it made, on every version.
    run(
        &second,
        &format!("ALTER ROLE \"{GROUP}\" CONNECTION LIMIT 3"),
    )
    .await;
    run(&second, &format!("GRANT \"{GROUP}\" TO \"{APP}\"")).await;
    run(&second, &format!("DROP ROLE \"{GROUP}\"")).await;
}

#[tokio::test]
async fn what_the_directory_does_not_confirm_is_refused_and_no_role_stays() {
    let server = server().await;
    let admin = admin(&server).await;
    let by_name = |name: &str| format!("SELECT pgaadauth_create_principal('{name}', false, false)");
    let by_id = |role: &str, id: &str, kind: &str| {
        format!(
            "SELECT pgaadauth_create_principal_with_oid('{role}', '{id}', '{kind}', false, false)"
        )
    };
    let nobody = "00000000-0000-4000-8000-000000000009";
    for (role, sql, code, text) in [
        (
            "stranger",
            by_name("stranger"),
            "XX000",
            "Could not validate AAD user stranger because its name is not found in the tenant",
        ),
        (
            "PROD DB READONLY",
            by_name("PROD DB READONLY"),
            "XX000",
            "name is not found in the tenant",
        ),
        (
            "twice",
            by_name("twice"),
            "XX000",
            "Cannot validate Microsoft Entra ID user \"twice\" because its name isn't unique in the tenant.",
        ),
        (
            "r1",
            by_id("r1", ALICE_ID, "service"),
            "XX000",
            "incorrect object type provided for principal, given object type: 'service', actual object type: 'user'",
        ),
        (
            "r2",
            by_id("r2", nobody, "user"),
            "XX000",
            "is not found in the tenant",
        ),
        (
            "r3",
            by_id("r3", "no-guid", "user"),
            "22023",
            "invalid security label",
        ),
        (
            "r4",
            by_id("r4", ALICE_ID, "robot"),
            "22023",
            "invalid security label",
        ),
        (
            "r5",
            by_id("r5", ADMIN_ID, "group"),
            "XX000",
            "Updating an existing principal isn't supported. Drop and recreate",
        ),
    ] {
        assert_refusal(refused(&admin, &sql).await, code, text);
        assert!(
            !role_exists(&admin, role).await,
            "{role} stayed after: {sql}"
        );
    }
    run(&admin, &by_id("first", ALICE_ID, "user")).await;
    let again = refused(&admin, &by_id("second", ALICE_ID, "user")).await;
    assert_refusal(
        again,
        "XX000",
        "Updating an existing principal isn't supported",
    );
    assert!(!role_exists(&admin, "second").await);
    let same = refused(&admin, &by_id("first", APP_ID, "service")).await;
    assert_refusal(same, "42710", "role \"first\" already exists");
}

#[tokio::test]
async fn two_sessions_cannot_give_one_principal_two_roles() {
    let server = server().await;
    let (first, second) = (admin(&server).await, admin(&server).await);
    let create = |role: &str| {
        format!(
            "SELECT pgaadauth_create_principal_with_oid('{role}', '{APP_ID}', 'service', false, false)"
        )
    };
    run(&first, &format!("BEGIN; {}", create("one"))).await;
    let sql = create("two");
    let (refusal, ()) = tokio::join!(refused(&second, &sql), async {
        let waits = "SELECT count(*) FROM pg_locks WHERE NOT granted";
        while value(&first, waits).await == "0" {}
        run(&first, "COMMIT").await;
    });
    assert_refusal(
        refusal,
        "XX000",
        "Updating an existing principal isn't supported",
    );
}

#[tokio::test]
async fn an_administrator_of_the_server_is_no_other_role_even_without_one_of_its_own() {
    let server = server().await;
    let sql = format!("SELECT pgaadauth_create_principal('{APP}', true, false)");
    run(&admin(&server).await, &sql).await;
    let service = server.superuser().await.unwrap();
    let sql = format!("SECURITY LABEL FOR pgaadauth ON ROLE \"{ADMIN}\" IS NULL");
    run(&service, &sql).await;
    let second = server.connect(APP, "postgres").await.unwrap();
    let sql = format!(
        "SELECT pgaadauth_create_principal_with_oid('r', '{ADMIN_ID}', 'group', false, false)"
    );
    assert_refusal(
        refused(&second, &sql).await,
        "XX000",
        "Updating an existing principal isn't supported",
    );
}

#[tokio::test]
async fn raw_labels_take_their_parts_in_any_order_and_malformed_ones_are_refused() {
    let server = server().await;
    let admin = admin(&server).await;
    let label = |text: &str| format!("SECURITY LABEL FOR pgaadauth ON ROLE r IS '{text}'");
    run(&admin, "CREATE ROLE r LOGIN").await;
    run(
        &admin,
        &label(&format!("aadauth,mfa,type=user,oid={ALICE_ID}")),
    )
    .await;
    assert_eq!(
        labels(&admin, "r").await[1].1,
        format!("type=user,oid={ALICE_ID},tenant_id={TENANT}")
    );
    for text in [
        "",
        "aad",
        "oid=x",
        "aadauth,",
        "aadauth,root",
        "aadauth,admin,admin",
        "aadauth,oid=",
        "aadauth, admin",
        &format!("aadauth,oid={ALICE_ID},oid={ALICE_ID}"),
    ] {
        assert_refusal(
            refused(&admin, &label(text)).await,
            "22023",
            "invalid security label",
        );
    }
    let nobody = label("aadauth,oid=00000000-0000-4000-8000-000000000009,type=user");
    assert_refusal(
        refused(&admin, &nobody).await,
        "XX000",
        "not found in the tenant",
    );
    let other = label(&format!("aadauth,oid={APP_ID},type=user"));
    assert_refusal(
        refused(&admin, &other).await,
        "XX000",
        "incorrect object type",
    );
    let internal = "SECURITY LABEL FOR \"pgaadauth-int\" ON ROLE r IS 'type=user'";
    assert_refusal(refused(&admin, internal).await, "42501", "pgaadauth-int");
    run(&admin, "CREATE TABLE t ()").await;
    let table = refused(
        &admin,
        "SECURITY LABEL FOR pgaadauth ON TABLE t IS 'aadauth'",
    )
    .await;
    assert_refusal(table, "0A000", "only labels roles");
    run(&admin, "SECURITY LABEL FOR pgaadauth ON ROLE r IS NULL").await;
    assert_eq!(labels(&admin, "r").await, []);
}

#[tokio::test]
async fn only_entra_administrators_may_create() {
    let server = server().await;
    let password = server
        .connect(PASSWORD_ADMINISTRATOR, "postgres")
        .await
        .unwrap();
    let create = format!("SELECT pgaadauth_create_principal('{APP}', false, false)");
    let refusal = refused(&password, &create).await;
    assert_refusal(
        refusal,
        "42501",
        "permission denied to create or change a Microsoft Entra role",
    );
    assert!(!role_exists(&password, APP).await);
    run(&password, "CREATE ROLE \"plain\" LOGIN").await;
    let raw = refused(
        &password,
        "SECURITY LABEL FOR pgaadauth ON ROLE plain IS 'aadauth'",
    )
    .await;
    assert_refusal(raw, "42501", "Microsoft Entra role");
    let join = "SELECT pgaadauth_join_administrators('plain')";
    assert_refusal(
        refused(&password, join).await,
        "42501",
        "Microsoft Entra role",
    );
    let plain = server.connect("plain", "postgres").await.unwrap();
    assert_eq!(refused(&plain, &create).await.0, "42501");
}

#[tokio::test]
async fn functions_are_in_database_postgres_only_and_have_no_fourth_argument() {
    let server = server().await;
    let orders = server.connect(ADMIN, "orders").await.unwrap();
    let create = format!("SELECT pgaadauth_create_principal('{APP}', false, false)");
    assert_eq!(refused(&orders, &create).await.0, "42883");
    let four = format!("SELECT pgaadauth_create_principal('{APP}', '{APP_ID}', false, false)");
    assert_eq!(refused(&admin(&server).await, &four).await.0, "42883");
    // The label itself works from everywhere.
    let raw = format!(
        "CREATE ROLE \"{APP}\" LOGIN; SECURITY LABEL FOR pgaadauth ON ROLE \"{APP}\" IS 'aadauth'"
    );
    run(&orders, &raw).await;
    assert_eq!(labels(&orders, APP).await.len(), 2);
    // The administrators own the databases and their public schemas.
    run(&orders, "CREATE TABLE public.mine ()").await;
    run(
        &orders,
        &format!("GRANT CONNECT ON DATABASE orders TO \"{APP}\""),
    )
    .await;
}

#[tokio::test]
async fn the_first_column_has_either_name() {
    for column in [NameColumn::Rolname, NameColumn::Rolename] {
        let options = PostgresOptions {
            name_column: column,
            ..PostgresOptions::default()
        };
        let server = server_with(options).await;
        let sql = "SELECT * FROM pgaadauth_list_principals(false)";
        let statement = admin(&server).await.prepare(sql).await.unwrap();
        let names: Vec<&str> = statement
            .columns()
            .iter()
            .map(tokio_postgres::Column::name)
            .collect();
        let wanted = [
            column.as_str(),
            "principaltype",
            "objectid",
            "tenantid",
            "ismfa",
            "isadmin",
        ];
        assert_eq!(names, wanted);
    }
}
