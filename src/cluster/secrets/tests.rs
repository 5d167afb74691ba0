//! The rules of safety for Secrets, against an API server that is a function.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::OwnerReference;
use serde_json::json;

use super::*;
use crate::cluster::MANAGED_BY;
use crate::cluster::testing::{Answer, Asked, cluster, leader_for, standby};

fn content() -> SecretContent {
    SecretContent {
        owner: OwnerReference {
            api_version: "entrapostgres.io/v1alpha1".to_owned(),
            kind: "EntraPostgresPrincipal".to_owned(),
            name: "app".to_owned(),
            uid: "owner-1".to_owned(),
            ..OwnerReference::default()
        },
        labels: BTreeMap::from([("team".to_owned(), "a".to_owned())]),
        annotations: BTreeMap::from([("entrapostgres.io/expires".to_owned(), "x".to_owned())]),
        data: BTreeMap::from([("password".to_owned(), "hunter2".to_owned())]),
    }
}

fn stored(owner: &str, version: &str) -> Value {
    json!({
        "apiVersion": "v1", "kind": "Secret",
        "metadata": {
            "name": "app", "namespace": "orders", "uid": "secret-1", "resourceVersion": version,
            "ownerReferences": [{
                "apiVersion": "v1", "kind": "EntraPostgresPrincipal", "name": "app", "uid": owner,
                "controller": true,
            }],
        },
        "type": SECRET_TYPE,
    })
}

fn seen(version: &str) -> SecretMeta {
    SecretMeta {
        uid: "secret-1".to_owned(),
        resource_version: version.to_owned(),
        ..SecretMeta::default()
    }
}

fn reason(error: WriteError) -> Reason {
    match error {
        WriteError::Conflict(text) => panic!("a conflict: {text}"),
        WriteError::Failed(failure) => failure.reason,
    }
}

// Red when: a precondition is left out, or labels and annotations are merged with those that are there.
#[tokio::test]
async fn a_secret_without_an_owner_is_taken_over_whole_and_in_exactly_that_version() {
    let (cluster, asked) = cluster(|_| Answer::ok(stored("owner-1", "8")));
    let (orphan, content) = (seen("7"), content());
    let taken = cluster.take_secret_over("orders", "app", &content, &orphan);
    let taken = taken.await.expect("taken over");
    assert_eq!(taken.controller_uid.as_deref(), Some("owner-1"));
    let Asked { method, body, .. } = asked.only();
    assert_eq!(method, "PATCH");
    let at = |path: &str, op: &str| {
        let mut steps = body.as_array().expect("a list").iter();
        let found = steps.find(|step| step["path"] == path).expect(path);
        assert_eq!(found["op"], op, "{path}");
        found["value"].clone()
    };
    assert_eq!(at("/metadata/uid", "test"), "secret-1");
    assert_eq!(at("/metadata/resourceVersion", "test"), "7");
    assert_eq!(at("/type", "test"), SECRET_TYPE);
    assert_eq!(at("/metadata/ownerReferences", "add")[0]["uid"], "owner-1");
    assert_eq!(at("/metadata/labels", "add")["team"], "a");
    assert!(at("/data", "add")["password"].is_string());
    assert!(at("/metadata/annotations", "add").is_object());
    for (code, reason) in [(422, "Invalid"), (409, "Conflict"), (404, "NotFound")] {
        let (cluster, _) = testing_refusal(code, reason);
        let late = cluster.take_secret_over("orders", "app", &content, &orphan);
        assert!(matches!(late.await, Err(WriteError::Conflict(_))), "{code}");
    }
}

fn testing_refusal(
    code: u16,
    reason: &'static str,
) -> (crate::cluster::Cluster, crate::cluster::testing::Seen) {
    cluster(move |_| Answer::refusal(code, reason, "no"))
}

#[tokio::test]
async fn a_secret_is_first_created_by_post_with_owner_type_label_and_reloader_off() {
    let (cluster, seen) = cluster(|_| Answer::ok(stored("owner-1", "7")));
    let made = cluster.create_secret("orders", "app", &content()).await;
    let made = made.expect("created");
    assert_eq!(made.controller_uid.as_deref(), Some("owner-1"));
    assert_eq!(made.type_.as_deref(), Some(SECRET_TYPE));
    let Asked {
        method,
        path,
        query,
        body,
        ..
    } = seen.only();
    assert_eq!(
        (method.as_str(), path.as_str()),
        ("POST", "/api/v1/namespaces/orders/secrets")
    );
    assert!(
        query.contains("fieldManager=entra-postgres-operator"),
        "{query}"
    );
    assert_eq!(body["type"], "servicebinding.io/postgresql");
    assert_eq!(body["data"], json!({"password": "aHVudGVyMg=="}));
    let meta = &body["metadata"];
    assert_eq!(meta["labels"][MANAGED_BY], FIELD_MANAGER);
    assert_eq!(meta["labels"]["team"], "a");
    assert_eq!(meta["annotations"]["reloader.stakater.com/ignore"], "true");
    assert_eq!(meta["annotations"]["entrapostgres.io/expires"], "x");
    let owner = &meta["ownerReferences"][0];
    assert_eq!(owner["controller"], true);
    assert_eq!(owner["blockOwnerDeletion"], true);
}

#[tokio::test]
async fn a_foreign_secret_is_never_written() {
    for owner in ["somebody", ""] {
        let (cluster, log) = cluster(move |asked| {
            if asked.method == "GET" {
                let mut found = stored(owner, "7");
                if owner.is_empty() {
                    found["metadata"]["ownerReferences"] = json!([]);
                } else {
                    found["metadata"]["ownerReferences"][0]["name"] = json!("another");
                }
                return Answer::ok(found);
            }
            Answer::refusal(409, "AlreadyExists", "secrets \"app\" already exists")
        });
        let error = cluster.create_secret("orders", "app", &content()).await;
        assert_eq!(reason(error.expect_err("taken")), Reason::SecretNotOurs);
        let error = cluster
            .apply_secret("orders", "app", &content(), &seen("7"))
            .await;
        assert_eq!(reason(error.expect_err("taken")), Reason::SecretNotOurs);
        let writes = log.requests().into_iter().filter(|a| a.method != "GET");
        assert_eq!(writes.map(|a| a.method).collect::<Vec<_>>(), ["POST"]);
    }
}

#[tokio::test]
async fn a_post_whose_answer_was_lost_is_a_conflict_and_not_somebody_elses_secret() {
    let (cluster, _) = cluster(|asked| match asked.method.as_str() {
        "GET" => Answer::ok(stored("owner-1", "7")),
        _ => Answer::refusal(409, "AlreadyExists", "secrets \"app\" already exists"),
    });
    let error = cluster.create_secret("orders", "app", &content()).await;
    assert!(matches!(error, Err(WriteError::Conflict(_))), "{error:?}");
}

#[tokio::test]
async fn a_secret_of_ours_is_applied_with_force_over_exactly_what_was_seen() {
    let (cluster, log) = cluster(|asked| {
        Answer::ok(stored(
            "owner-1",
            if asked.method == "GET" { "7" } else { "8" },
        ))
    });
    let written = cluster
        .apply_secret("orders", "app", &content(), &seen("7"))
        .await
        .expect("written");
    assert_eq!(written.resource_version, "8");
    let requests = log.requests();
    assert!(
        requests[0].accept.contains("PartialObjectMetadata"),
        "{:?}",
        requests[0]
    );
    let patch = &requests[1];
    assert_eq!(requests.len(), 2);
    assert_eq!(patch.content_type, "application/apply-patch+yaml");
    assert!(patch.query.contains("force=true"), "{}", patch.query);
    assert_eq!(patch.body["metadata"]["uid"], "secret-1");
    assert_eq!(patch.body["metadata"]["resourceVersion"], "7");
    assert_eq!(patch.body["type"], SECRET_TYPE);
}

#[tokio::test]
async fn whatever_changed_meanwhile_is_a_conflict() {
    let (cluster, log) = cluster(|_| Answer::ok(stored("owner-1", "9")));
    let error = cluster
        .apply_secret("orders", "app", &content(), &seen("7"))
        .await;
    assert!(matches!(error, Err(WriteError::Conflict(_))), "{error:?}");
    assert!(log.requests().iter().all(|asked| asked.method == "GET"));

    for (code, reason) in [(409, "Conflict"), (404, "NotFound")] {
        let (cluster, _) =
            crate::cluster::testing::cluster(move |asked| match asked.method.as_str() {
                "GET" => Answer::ok(stored("owner-1", "7")),
                _ => Answer::refusal(code, reason, "no"),
            });
        let error = cluster
            .apply_secret("orders", "app", &content(), &seen("7"))
            .await;
        assert!(matches!(error, Err(WriteError::Conflict(_))), "{error:?}");
    }
}

#[tokio::test]
async fn keys_that_the_post_brought_and_nobody_wants_any_more_are_taken_away() {
    let (cluster, log) = cluster(|asked| {
        let mut found = stored("owner-1", if asked.method == "GET" { "7" } else { "8" });
        found["metadata"]["managedFields"] = json!([
            {"manager": FIELD_MANAGER, "operation": "Update", "fieldsV1": {
                "f:data": {".": {}, "f:PGPASSWORD": {}, "f:password": {}},
                "f:metadata": {"f:annotations": {"f:example.com/a": {}}},
            }},
            {"manager": "kubectl", "operation": "Update", "fieldsV1": {"f:data": {"f:theirs": {}}}},
        ]);
        Answer::ok(found)
    });
    cluster
        .apply_secret("orders", "app", &content(), &seen("7"))
        .await
        .expect("written");
    let requests = log.requests();
    let removal = &requests[1];
    assert_eq!(removal.content_type, "application/json-patch+json");
    assert_eq!(
        removal.body,
        json!([
            {"op": "test", "path": "/metadata/uid", "value": "secret-1"},
            {"op": "test", "path": "/metadata/resourceVersion", "value": "7"},
            {"op": "remove", "path": "/data/PGPASSWORD"},
            {"op": "remove", "path": "/metadata/annotations/example.com~1a"},
        ])
    );
    assert_eq!(requests[2].body["metadata"]["resourceVersion"], "8");
}

/// A Secret with a key of ours that is wanted no more.
fn with_leftover() -> Value {
    let mut found = stored("owner-1", "7");
    found["metadata"]["managedFields"] = json!([
        {"manager": FIELD_MANAGER, "operation": "Update", "fieldsV1": {
            "f:data": {"f:PGPASSWORD": {}},
        }},
    ]);
    found
}

// Red when: `remove_leftovers` takes 422 for an invalid Secret, which would rest as refused.
#[tokio::test]
async fn a_removal_whose_test_fails_is_a_conflict() {
    let (cluster, log) = cluster(|asked| match asked.method.as_str() {
        "GET" => Answer::ok(with_leftover()),
        _ => Answer::refusal(
            422,
            "Invalid",
            "testing path /metadata/resourceVersion failed",
        ),
    });
    let error = cluster
        .apply_secret("orders", "app", &content(), &seen("7"))
        .await;
    assert!(matches!(error, Err(WriteError::Conflict(_))), "{error:?}");
    assert_eq!(log.requests().len(), 2, "nothing more is written");
}

// Red when: `apply_secret` asks only once whether it may write.
#[tokio::test]
async fn who_stops_leading_between_two_writes_does_not_make_the_second() {
    for (found, requests) in [(stored("owner-1", "7"), 1), (with_leftover(), 2)] {
        let checks = requests;
        let (cluster, log) = leader_for(checks, move |_| Answer::ok(found.clone()));
        let error = cluster
            .apply_secret("orders", "app", &content(), &seen("7"))
            .await;
        assert_eq!(reason(error.expect_err("standby")), Reason::NotLeader);
        assert_eq!(log.requests().len(), requests);
    }
}

#[tokio::test]
async fn a_standby_writes_nothing() {
    let (cluster, log) = standby(|_| Answer::ok(stored("owner-1", "7")));
    let error = cluster.create_secret("orders", "app", &content()).await;
    assert_eq!(reason(error.expect_err("standby")), Reason::NotLeader);
    let error = cluster
        .apply_secret("orders", "app", &content(), &seen("7"))
        .await;
    assert_eq!(reason(error.expect_err("standby")), Reason::NotLeader);
    let error = cluster.delete_secret("orders", "app", &seen("7")).await;
    assert_eq!(reason(error.expect_err("standby")), Reason::NotLeader);
    assert!(log.requests().is_empty());
}

#[tokio::test]
async fn what_a_secret_holds_is_compared_and_never_printed() {
    let (cluster, _) = cluster(|_| {
        let mut found = stored("owner-1", "7");
        found["data"] = json!({"password": "aHVudGVyMg=="});
        Answer::ok(found)
    });
    let read = cluster.read_secret("orders", "app").await;
    let read = read.expect("read").expect("there");
    assert_eq!(read.get("password"), Some("hunter2"));
    assert_eq!(read.get("other"), None);
    assert!(read.holds(&content().data));
    let mut more = content().data;
    more.insert("x".to_owned(), "y".to_owned());
    assert!(!read.holds(&more) && !read.holds(&BTreeMap::new()));
    let printed = format!("{read:?} {:?}", content());
    assert!(
        !printed.contains("hunter2") && printed.contains("password"),
        "{printed}"
    );
}

#[tokio::test]
async fn absent_and_unknown_do_not_merge() {
    let (cluster, _) = cluster(|_| Answer::refusal(404, "NotFound", "not found"));
    assert_eq!(cluster.look_secret("orders", "app").await, Ok(None));
    let (cluster, _) =
        crate::cluster::testing::cluster(|_| Answer::refusal(500, "InternalError", "no"));
    let failure = cluster
        .look_secret("orders", "app")
        .await
        .expect_err("unknown");
    assert_eq!(failure.class, Class::Transient);
}
