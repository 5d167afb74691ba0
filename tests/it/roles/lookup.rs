//! Principals that the directory does not have, has twice, has as something else, or that are
//! something on the server already.

use anyhow::Result;
use lab::directory::{Group, User};
use serde_json::json;

use crate::fixture::{ALICE, API_CLIENT, API_ID, REPORTS_ID, Setup, World};

use super::{
    ALICE_ID, BATCH_ID, GUEST, GUEST_ID, OPERATORS_ID, READONLY_ID, bound, exists, picture,
    statements,
};

const TWIN_ID: &str = "9409b000-0000-4000-8000-0000000000b1";
const OTHER_TWIN_ID: &str = "9409b000-0000-4000-8000-0000000000b2";
const LATE: &str = "late@contoso.onmicrosoft.com";

fn group(name: &str, id: &str) -> Group {
    Group {
        name: name.to_owned(),
        object_id: id.parse().expect("a GUID"),
        members: Vec::new(),
    }
}

/// A world whose snapshots are so rare that none comes in between.
async fn rarely_looking(test: &str) -> Result<World> {
    World::with(
        test,
        Setup {
            directory: Box::new(|directory, _| {
                directory.groups.push(group("Twins", TWIN_ID));
                directory.groups.push(group("Twins", OTHER_TWIN_ID));
            }),
            server: Some(Box::new(|server| {
                server["spec"]["resyncInterval"] = json!("10m");
            })),
            ..Setup::default()
        },
    )
    .await
}

// Red when: from_text() in postgres/error.rs loses the branch of that text, or settle() does not
// compare the type (then `wrong-type` gets a role).
#[tokio::test(flavor = "multi_thread")]
async fn who_the_directory_does_not_have_or_has_otherwise_gets_no_role() -> Result<()> {
    let world = rarely_looking("lookup").await?;
    world.ready("server", "server").await?;
    let before = picture(&world).await?;
    let nowhere = "00000000-0000-4000-8000-00000000dead";
    let cases = [
        (
            "late",
            LATE,
            json!({"type": "User"}),
            "PrincipalNotFound",
            "make the principal in Entra",
        ),
        (
            "nowhere",
            "nowhere",
            bound("Group", nowhere),
            "PrincipalNotFound",
            "spec.principal.objectId",
        ),
        (
            "twins",
            "Twins",
            json!({"type": "Group"}),
            "PrincipalNotUnique",
            "set spec.principal.objectId",
        ),
        (
            "wrong-type",
            "Prod DB Readonly",
            json!({"type": "User"}),
            "PrincipalTypeMismatch",
            "is a group",
        ),
        (
            "wrong-id",
            "readers",
            bound("User", READONLY_ID),
            "PrincipalTypeMismatch",
            "correct spec.principal.type",
        ),
    ];
    for (name, role, principal, ..) in &cases {
        let object = world.principal(name, role, principal.clone());
        world.apply(&object).await?;
    }
    for (name, role, _, reason, advice) in &cases {
        let said = world.not_ready("principal", name, reason).await?;
        assert!(said.contains(advice), "{name}: {said}");
        assert!(said.contains(&format!("\"{role}\"")), "{name}: {said}");
        assert!(said.contains("localhost"), "names the server: {said}");
        let object = world.get("principal", name).await?.unwrap_or_default();
        assert!(object["status"].get("role").is_none(), "{object:#}");
    }
    assert_eq!(picture(&world).await?, before);
    let (tried, since) = (statements(&world), std::time::Instant::now());

    // Each is corrected in its own way.
    let twin = json!({"spec": {"principal": {"objectId": TWIN_ID}}});
    world.patch("principal", "twins", &twin).await?;
    world.ready("principal", "twins").await?;
    assert_eq!(world.bound_to("Twins").await?.as_deref(), Some(TWIN_ID));
    let alice = json!({"spec": {"principal": {"objectId": ALICE_ID}}});
    world.patch("principal", "wrong-id", &alice).await?;
    world.ready("principal", "wrong-id").await?;
    let made = statements(&world) - tried;
    // Each of them may ask again after ten seconds and more.
    assert!(
        made <= 30 * (1 + since.elapsed().as_secs() / 7),
        "the refused ones go on asking: {made} statements"
    );
    world
        .change_directory(|directory| {
            directory.users.push(User {
                name: LATE.to_owned(),
                object_id: BATCH_ID
                    .replace("5e41ce00", "a11ce0ff")
                    .parse()
                    .expect("a GUID"),
            });
        })
        .await?;
    world.ready("principal", "late").await?;
    Ok(())
}

// Red when: not_in_use() in model/plan says Ok (the server's own refusal has another text, and
// statements are spent).
#[tokio::test(flavor = "multi_thread")]
async fn an_identity_that_is_something_on_the_server_already_gets_no_second_role() -> Result<()> {
    let world = rarely_looking("in_use").await?;
    world
        .sql(&format!(
            "SELECT pgaadauth_create_principal_with_oid('made by a DBA', '{REPORTS_ID}', 'service', false, false)"
        ))
        .await?;
    world.apply(&world.api()).await?;
    world.ready("principal", "api").await?;
    let before = picture(&world).await?;
    let tokens = world.token_requests(Some(API_CLIENT));
    let said_by_server = json!([{"on": "sql", "do": {"sqlState": "XX000", "message": "asked"}}]);
    world.faults(said_by_server).await?;
    let cases = [
        (
            "second",
            bound("ManagedIdentity", API_ID),
            "orders-api",
            API_ID,
        ),
        (
            "by-dba",
            bound("ServicePrincipal", REPORTS_ID),
            "made by a DBA",
            REPORTS_ID,
        ),
        (
            "boss",
            bound("Group", OPERATORS_ID),
            "administrator of the server",
            OPERATORS_ID,
        ),
    ];
    for (name, principal, holder, id) in cases {
        let spent = statements(&world);
        world
            .apply(&world.principal(name, &format!("role of {name}"), principal))
            .await?;
        let said = world.not_ready("principal", name, "IdentityInUse").await?;
        assert!(said.contains(holder) && said.contains(id), "{name}: {said}");
        assert!(said.contains("or declare another principal"), "{said}");
        let spent = statements(&world) - spent;
        assert!(spent <= 1, "{name}: one look, no try; {spent} statements");
    }
    // By name nobody knows the id before the server has resolved it: then nothing is made either.
    world.faults(json!([])).await?;
    let alias = world.principal("alias", "alias", bound("User", GUEST_ID));
    world.apply(&alias).await?;
    world.ready("principal", "alias").await?;
    world
        .apply(&world.principal("guest", GUEST, json!({"type": "User"})))
        .await?;
    let said = world
        .not_ready("principal", "guest", "IdentityInUse")
        .await?;
    assert!(said.contains(GUEST), "{said}");
    assert_eq!(world.ask(&exists(GUEST)).await?.as_deref(), Some("f"));

    world.delete("principal", "alias").await?;
    world.sql("DROP ROLE alias").await?;
    let after = picture(&world).await?;
    assert_eq!(after, before);
    assert_eq!(world.token_requests(Some(API_CLIENT)), tokens);
    // The object is corrected.
    let other = json!({"spec": {"principal": {"objectId": BATCH_ID}}});
    world.patch("principal", "second", &other).await?;
    world.ready("principal", "second").await?;
    world
        .apply(&world.principal("alice", ALICE, json!({"type": "User"})))
        .await?;
    world.ready("principal", "alice").await?;
    Ok(())
}
