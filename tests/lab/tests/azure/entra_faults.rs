//! Every fault of the token endpoint, as a client meets it.

use std::time::{Duration, Instant};

use lab::tokens::TokenError;
use serde_json::json;

use crate::entra_fixture::{IMPORTER, Lab, SCOPE, SECRET, aadsts, claims_of};

async fn send(lab: &Lab) -> reqwest::Result<reqwest::Response> {
    let form = [
        ("grant_type", "client_credentials"),
        ("client_id", IMPORTER),
        ("client_secret", SECRET),
        ("scope", SCOPE),
    ];
    lab.http.post(lab.token_url()).form(&form).send().await
}

#[tokio::test]
async fn a_status_comes_with_retry_after_and_ends_after_its_times() {
    let lab = Lab::start().await;
    lab.faults(json!([{"on": "token", "do": {"status": 429, "retryAfter": 7}, "times": 2}]))
        .await;
    for _ in 0..2 {
        let answer = send(&lab).await.unwrap();
        assert_eq!(
            (answer.status().as_u16(), &answer.headers()["retry-after"]),
            (429, &"7".parse().unwrap())
        );
        let body = (429, answer.json().await.unwrap());
        assert_eq!(aadsts(&body), (429, 90055, "temporarily_unavailable"));
    }
    assert_eq!(send(&lab).await.unwrap().status(), 200);
    let requests = lab.stats().await["tokenRequests"].clone();
    assert_eq!(
        requests,
        json!({"total": 3, "byStatus": {"200": 1, "429": 2}, "byClient": {IMPORTER: 3}})
    );
}

#[tokio::test]
async fn a_status_can_carry_a_number_or_a_whole_body() {
    let lab = Lab::start().await;
    lab.faults(json!([
        {"on": "token", "do": {"status": 401, "aadsts": 70021}, "times": 1},
        {"on": "token", "do": {"status": 500, "body": "<h1>Service \u{fffd}</h1>"}, "times": 1},
    ]))
    .await;
    assert_eq!(
        aadsts(&lab.secret_grant(&[]).await),
        (401, 70021, "invalid_client")
    );
    let answer = send(&lab).await.unwrap();
    assert_eq!(answer.status(), 500);
    assert_eq!(answer.text().await.unwrap(), "<h1>Service \u{fffd}</h1>");
}

#[tokio::test]
async fn refused_cut_garbage_and_empty_answers() {
    let lab = Lab::start().await;
    lab.faults(json!([
        {"on": "token", "do": {"refuse": true}, "times": 1},
        {"on": "token", "do": {"cut": true}, "times": 1},
        {"on": "token", "do": {"garbage": true}, "times": 1},
        {"on": "token", "do": {"empty": true}, "times": 1},
    ]))
    .await;
    assert!(
        send(&lab).await.is_err(),
        "the connection is closed without an answer"
    );
    let cut = send(&lab).await.unwrap();
    assert_eq!(cut.status(), 200);
    assert!(cut.bytes().await.is_err(), "half a body is no body");
    let garbage = send(&lab).await.unwrap();
    assert_eq!(garbage.status(), 200);
    assert!(garbage.json::<serde_json::Value>().await.is_err());
    assert_eq!(send(&lab).await.unwrap().text().await.unwrap(), "{}");
    let by_status = lab.stats().await["tokenRequests"]["byStatus"].clone();
    assert_eq!(by_status, json!({"200": 3, "none": 1}));
}

#[tokio::test]
async fn a_delay_is_waited_for_and_concerns_only_its_client() {
    let lab = Lab::start().await;
    let delay = json!({"on": "token", "match": {"clientId": IMPORTER}, "do": {"delayMs": 400}});
    lab.faults(json!([delay])).await;
    let started = Instant::now();
    assert_eq!(lab.secret_grant(&[]).await.0, 200);
    assert!(started.elapsed() >= Duration::from_millis(400));
    let delay = json!({"on": "token", "match": {"clientId": IMPORTER}, "do": {"delayMs": 600_000}});
    lab.faults(json!([delay])).await;
    lab.faults(json!([])).await;
    let granted = tokio::time::timeout(Duration::from_secs(60), lab.secret_grant(&[])).await;
    assert_eq!(granted.expect("the empty list ends all").0, 200);
}

#[tokio::test]
async fn a_clock_that_is_ahead_or_behind_shows_in_the_token() {
    let lab = Lab::start().await;
    for skew in [7200, -7200] {
        lab.faults(json!([{"on": "token", "do": {"clockSkewSeconds": skew}, "times": 1}]))
            .await;
        let before = lab::state::unix_now();
        let (_, body) = lab.secret_grant(&[]).await;
        let after = lab::state::unix_now();
        let claims = claims_of(&lab, &body["access_token"]);
        let made = claims["exp"].as_i64().unwrap() - body["expires_in"].as_i64().unwrap();
        assert!(
            (before + skew - 1..=after + skew + 1).contains(&made),
            "{made}"
        );
        let seen = lab
            .azure
            .state()
            .check_token(body["access_token"].as_str().unwrap(), 0);
        let expected = if skew > 0 {
            TokenError::NotYetValid
        } else {
            TokenError::Expired
        };
        assert_eq!(seen.unwrap_err(), expected);
    }
}

#[tokio::test]
async fn a_hostile_entra_gives_tokens_with_wrong_claims() {
    let lab = Lab::start().await;
    lab.faults(json!([
        {"on": "token", "do": {"claims": {"aud": "https://graph.microsoft.com"}}, "times": 1},
        {"on": "token", "do": {"claims": {"tid": "22222222-2222-4222-8222-222222222222"}}, "times": 1},
        {"on": "token", "do": {"claims": {"oid": null}}, "times": 1},
    ])).await;
    // All three hold for the first request; claims of later ones win.
    let (_, body) = lab.secret_grant(&[]).await;
    let claims = claims_of(&lab, &body["access_token"]);
    assert_eq!(claims["aud"], "https://graph.microsoft.com");
    assert_eq!(claims["tid"], "22222222-2222-4222-8222-222222222222");
    assert!(!claims.contains_key("oid"));
    let (_, body) = lab.secret_grant(&[]).await;
    assert!(claims_of(&lab, &body["access_token"]).contains_key("oid"));
}

#[tokio::test]
async fn orders_that_make_no_sense_change_nothing() {
    let lab = Lab::start().await;
    lab.faults(json!([{"on": "token", "do": {"status": 503}}]))
        .await;
    let (status, body) = lab
        .api(
            "PUT",
            "faults",
            json!([{"on": "moon", "do": {"cut": true}}]).to_string(),
        )
        .await;
    assert_eq!(status, 400);
    assert!(
        body["error"]
            .as_str()
            .unwrap()
            .contains("unknown variant `moon`"),
        "{body}"
    );
    assert_eq!(lab.secret_grant(&[]).await.0, 503);
}
