//! Each sign-in that Azure refuses, with its text.

use lab::tokens::{RESOURCE, TokenKeys};
use serde_json::json;

use crate::signin_support::Lab;
use crate::sql_support::*;

#[tokio::test]
async fn tokens_that_are_not_good_are_refused_whoever_they_are_for() {
    let lab = Lab::start().await;
    lab.create(&[APP, GROUP]).await;
    let good = lab.app_token(APP_ID);
    let claims = json!({"oid": APP_ID, "appid": APP_CLIENT, "idtyp": "app"});
    let with = |name: &str, value: serde_json::Value| {
        let mut claims = claims.clone();
        claims[name] = value;
        lab.token(&claims)
    };
    let expired = "The access token has expired. Please acquire a new token and retry.";
    let format = "The access token has invalid format. Please ensure the token is passed exactly as returned by the authentication endpoint and retry.";
    let audience = format!(
        "The access token does not have a valid audience claim. Please acquire a new token for the resource \"{RESOURCE}\"."
    );
    let generic = "An error occurred while validating the access token.";
    let strangers = TokenKeys::generate().unwrap();
    let forged = strangers.sign(claims.as_object().unwrap()).unwrap();
    for (token, wanted) in [
        (
            with("aud", json!("https://management.azure.com")),
            audience.as_str(),
        ),
        (with("exp", json!(1_700_000_000)), expired),
        (
            with("tid", json!("7e4a0000-0000-4000-8000-0000000000ff")),
            "does not have a valid tenant claim",
        ),
        (with("nbf", json!(4_000_000_000_i64)), generic),
        (good[..good.len() / 2].to_owned(), format),
        (format!("\"{good}\""), format),
        (format!("{good}\n"), format),
        (String::from("hunter2"), format),
        (String::new(), format),
        (forged, generic),
    ] {
        for role in [APP, GROUP] {
            assert_refusal(lab.refused(role, &token).await, "28000", wanted);
        }
    }
    lab.connect(APP, &good).await.unwrap();
    lab.faults(r#"[{"on": "gateway", "do": {"clockSkewSeconds": 3700}, "times": 1}]"#);
    assert_refusal(lab.refused(APP, &good).await, "28000", expired);
    lab.connect(APP, &good).await.unwrap();
}

#[tokio::test]
async fn good_tokens_of_others_are_refused_by_the_kind_of_role() {
    let lab = Lab::start().await;
    lab.create(&[ALICE, GROUP, APP]).await;
    let oid_mismatch = format!(
        "Service principal oid mismatch for role \"The oid in the security label [{APP_ID}] does not match the appid [{APP_CLIENT}] or oid [{MANAGED_ID}] in the token.\""
    );
    let no_member = format!(
        "Azure AD access token not valid for role {GROUP} (does not contain group ID {GROUP_ID})"
    );
    for (role, token, wanted) in [
        (APP, lab.app_token(MANAGED_ID), oid_mismatch.as_str()),
        (
            APP,
            lab.user_token(ALICE_ID),
            "Service Principals cannot generate AAD_AUTH_TOKENTYPE_APP_USER tokens for role \"orders-api\".",
        ),
        (
            ALICE,
            lab.app_token(APP_ID),
            "Microsoft Entra user token for role \"alice@contoso.onmicrosoft.com\" is neither an AAD_AUTH_TOKENTYPE_APP_USER or an AAD_AUTH_TOKENTYPE_APP_OBO token.",
        ),
        (ALICE, lab.user_token(BOB_ID), "User oid mismatch for role"),
        (GROUP, lab.app_token(APP_ID), no_member.as_str()),
        (ADMIN, lab.user_token(ALICE_ID), "does not contain group ID"),
        (
            "nobody",
            lab.app_token(APP_ID),
            "role \"nobody\" does not exist",
        ),
        // Names are case-sensitive.
        (
            "prod db readonly",
            lab.user_token(ALICE_ID),
            "role \"prod db readonly\" does not exist",
        ),
    ] {
        assert_refusal(lab.refused(role, &token).await, "28000", wanted);
    }
    // Azure takes the label's id for an application's client id as well.
    let by_client = lab.token(&json!({"oid": MANAGED_ID, "appid": APP_ID, "idtyp": "app"}));
    lab.connect(APP, &by_client).await.unwrap();
}

#[tokio::test]
async fn a_raw_label_binds_the_role_to_the_object_it_names() {
    let lab = Lab::start().await;
    let admin = admin(&lab.postgres).await;
    // The label names another object than the role's name does.
    run(&admin, &format!("CREATE ROLE \"{APP}\" LOGIN; SECURITY LABEL FOR pgaadauth ON ROLE \"{APP}\" IS 'aadauth,oid={MANAGED_ID},type=service'")).await;
    let refusal = lab.refused(APP, &lab.app_token(APP_ID)).await;
    assert_refusal(refusal, "28000", "Service principal oid mismatch for role");
    lab.connect(APP, &lab.app_token(MANAGED_ID)).await.unwrap();
    run(
        &admin,
        &format!("SECURITY LABEL FOR pgaadauth ON ROLE \"{APP}\" IS NULL"),
    )
    .await;
    let refusal = lab.refused(APP, &lab.app_token(MANAGED_ID)).await;
    assert_refusal(
        refusal,
        "28P01",
        "password authentication failed for user \"orders-api\"",
    );
}

#[tokio::test]
async fn an_identity_made_again_does_not_get_the_old_ones_role() {
    let lab = Lab::start().await;
    lab.create(&[MANAGED]).await;
    let again = "5e41ce00-0000-4000-8000-0000000000ff";
    lab.set_directory(&directory_text().replace(MANAGED_ID, again))
        .await;
    let refusal = lab.refused(MANAGED, &lab.app_token(again)).await;
    assert_refusal(
        refusal,
        "28000",
        &format!("label [{MANAGED_ID}] does not match"),
    );
    // As on Azure, the old identity's token lives until it expires.
    lab.connect(MANAGED, &lab.app_token(MANAGED_ID))
        .await
        .unwrap();
}

#[tokio::test]
async fn a_group_that_lost_a_member_refuses_it_at_once() {
    let lab = Lab::start().await;
    lab.create(&[GROUP]).await;
    let token = lab.user_token(ALICE_ID);
    lab.connect(GROUP, &token).await.unwrap();
    lab.set_directory(&directory_text().replace(&format!(", {ALICE_ID}"), ""))
        .await;
    assert_refusal(
        lab.refused(GROUP, &token).await,
        "28000",
        "does not contain group ID",
    );
}

#[tokio::test]
async fn a_role_that_requires_mfa_takes_only_tokens_that_prove_it() {
    let lab = Lab::start().await;
    let admin = admin(&lab.postgres).await;
    run(
        &admin,
        &format!("SELECT pgaadauth_create_principal('{ALICE}', false, true)"),
    )
    .await;
    let refusal = lab.refused(ALICE, &lab.user_token(ALICE_ID)).await;
    assert_refusal(refusal, "28000", "does not have the mfa claim");
    let strong = lab.token(&json!({"oid": ALICE_ID, "idtyp": "user", "amr": ["pwd", "mfa"]}));
    lab.connect(ALICE, &strong).await.unwrap();
}

#[tokio::test]
async fn what_the_server_refuses_comes_through() {
    let lab = Lab::start().await;
    lab.create(&[APP]).await;
    let token = lab.app_token(APP_ID);
    let admin = admin(&lab.postgres).await;
    run(&admin, &format!("ALTER ROLE \"{APP}\" NOLOGIN")).await;
    let refusal = lab.refused(APP, &token).await;
    assert_refusal(
        refusal,
        "28000",
        "role \"orders-api\" is not permitted to log in",
    );
    run(
        &admin,
        &format!("ALTER ROLE \"{APP}\" LOGIN CONNECTION LIMIT 0"),
    )
    .await;
    assert_eq!(lab.refused(APP, &token).await.0, "53300");
}
