//! Whose a role is, and what is remembered of whom.

use jiff::Timestamp;
use serde_json::{Value, json};

use super::*;
use crate::api::{
    EntraPostgresPrincipalStatus, EntraPostgresServer, EntraPostgresServerStatus, TokenStatus,
};
use crate::controller::testing::index;
use crate::model::{Cloud, DesiredServer};

fn principal(uid: &str, server: &str, status: &Value) -> Arc<EntraPostgresPrincipal> {
    let object = json!({
        "apiVersion": "entrapostgres.io/v1alpha1", "kind": "EntraPostgresPrincipal",
        "metadata": {"name": format!("of-{server}"), "namespace": "orders", "uid": uid},
        "spec": {
            "serverRef": {"name": server, "namespace": "platform"},
            "roleName": "role", "principal": {"type": "Group"},
        },
        "status": status,
    });
    Arc::new(serde_json::from_value(object).expect("a principal"))
}

fn server(name: &str, host: &str, status: &Value) -> EntraPostgresServer {
    serde_json::from_value(json!({
        "apiVersion": "entrapostgres.io/v1alpha1", "kind": "EntraPostgresServer",
        "metadata": {"name": name, "namespace": "platform", "uid": name},
        "spec": {
            "host": format!("{host}.postgres.database.azure.com"),
            "admins": [{"roleName": "boss", "identity": {"operator": {}}}],
        },
        "status": status,
    }))
    .expect("a server")
}

fn add_server(index: &Index, object: EntraPostgresServer) {
    let clouds = Cloud::built_in().into_iter();
    let clouds = clouds.map(|cloud| (cloud.name.clone(), cloud.into()));
    let parsed = DesiredServer::parse(&object, &clouds.collect());
    index.upsert_server(&Arc::new(object), parsed);
}

// Red when: marker_owner() does not ask sees(): a role whose object cannot be seen would be taken over.
#[test]
fn what_cannot_be_listed_is_not_gone() {
    let index = index();
    let (told, listed) = tokio::sync::watch::channel(Listed::Refused);
    let owner = principal("u1", "one", &Value::Null);
    let key = key_of(owner.as_ref());
    index.sees_by(&[Synced {
        namespace: Some(key.namespace.clone()),
        listed,
    }]);
    let marker = Marker::new("here", &key, "u1", None);
    let other = Desired::parse(&principal("u2", "one", &Value::Null)).expect("parses");
    assert_eq!(index.marker_owner(&other, &marker), MarkerOwner::Other);
    told.send_replace(Listed::Done);
    assert_eq!(index.marker_owner(&other, &marker), MarkerOwner::Gone);
}

// Red when: marker_owner() compares server objects: hosts may differ as text and be one server.
#[test]
fn a_role_has_one_owner_whichever_server_object_it_is_reached_by() {
    let index = index();
    add_server(&index, server("one", "shared", &Value::Null));
    add_server(&index, server("alias", "shared", &Value::Null));
    add_server(
        &index,
        server("name", "shared-by-another-name", &Value::Null),
    );
    let owner = principal("u1", "one", &Value::Null);
    index.upsert_principal(&owner);
    let marker = Marker::new("here", &key_of(owner.as_ref()), "u1", None);
    for server in ["alias", "name", "unknown"] {
        let other = Desired::parse(&principal("u2", server, &Value::Null)).expect("parses");
        let owner = index.marker_owner(&other, &marker);
        assert_eq!(owner, MarkerOwner::Other, "{server}");
    }
    let other = Desired::parse(&principal("u2", "alias", &Value::Null)).expect("parses");
    let before = Marker::new("here", &key_of(owner.as_ref()), "u0", None);
    assert_eq!(index.marker_owner(&other, &before), MarkerOwner::Gone);
}

#[test]
fn a_status_that_somebody_else_wrote_is_seen_once_ours_has_arrived() {
    let index = index();
    let generation = |n: i64| json!({"observedGeneration": n});
    let seen = |n: i64| index.status(&principal("u", "s", &generation(n)));
    let first = principal("u", "s", &generation(1));
    index.upsert_principal(&first);
    let ours = principal("u", "s", &generation(2));
    index.wrote_status(&first, ours.status.clone().expect("a status"));
    assert_eq!(seen(1).observed_generation, Some(2));
    index.upsert_principal(&ours);
    index.upsert_principal(&principal("u", "s", &generation(7)));
    assert_eq!(seen(2).observed_generation, Some(7));
}

#[test]
fn nothing_stays_of_an_object_that_was_made_again() {
    let index = index();
    index.upsert_principal(&principal("u1", "s", &Value::Null));
    index.remember("u1", Memory::default());
    index.upsert_principal(&principal("u2", "s", &Value::Null));
    index.remember("u1", Memory::default());
    let gone = principal("u1", "s", &Value::Null);
    index.wrote_status(&gone, EntraPostgresPrincipalStatus::default());
    let state = index.lock();
    assert!(state.memory.is_empty() && state.statuses.is_empty());
}

// Red when: upsert_server() leaves what the watch has brought: a foreign write would never be undone.
#[test]
fn a_server_status_that_somebody_else_wrote_is_seen_once_ours_has_arrived() {
    let index = index();
    let generation = |n: i64| server("one", "shared", &json!({"observedGeneration": n}));
    let seen = || index.server_status(&generation(0));
    let (first, now) = (generation(1), Timestamp::UNIX_EPOCH);
    add_server(&index, first.clone());
    index.wrote_server_status(&first, generation(2).status.expect("a status"), now);
    add_server(&index, first);
    assert_eq!(seen().0.observed_generation, Some(2), "still under way");
    add_server(&index, generation(2));
    add_server(&index, generation(9));
    let (status, written) = seen();
    assert_eq!((status.observed_generation, written), (Some(9), Some(now)));
}

// Red when: Memory::with takes no failures from the status, or takes them in each pass.
#[test]
fn failures_survive_a_restart_and_are_counted_on() {
    let index = index();
    index.upsert_principal(&principal("u", "s", &Value::Null));
    let status = EntraPostgresPrincipalStatus {
        observed_generation: Some(1),
        token: Some(TokenStatus {
            failures: Some(6),
            ..TokenStatus::default()
        }),
        ..EntraPostgresPrincipalStatus::default()
    };
    let desired = crate::model::testing::desired();
    let mut memory = index.memory("u", 1, None).with(&desired, &status);
    assert_eq!(memory.token.failures, 6);
    memory.token.failures = 0;
    index.remember("u", memory);
    let memory = index.memory("u", 1, None).with(&desired, &status);
    assert_eq!(memory.token.failures, 0, "since then it went well");
    let changed = index.memory("u", 2, None).with(&desired, &status);
    assert_eq!(changed.token.failures, 0, "the object was changed");
}

// Red when: memory() keeps what rests although the annotation is new, or takes every value for new.
#[test]
fn a_new_value_of_the_annotation_forgets_what_rests_once() {
    let index = index();
    index.upsert_principal(&principal("u", "s", &Value::Null));
    let rests = |asked: Option<&str>| {
        let memory = index.memory("u", 1, asked);
        (memory.role.failures, memory.asked_anew)
    };
    let mut failed = index.memory("u", 1, Some("restart"));
    assert!(
        !failed.asked_anew,
        "nothing was seen before: all is asked anyway"
    );
    failed.role.failures = 3;
    index.remember("u", failed);
    assert_eq!(rests(Some("restart")), (3, false));
    assert_eq!(rests(Some("now")), (0, true));
    let looked = index.memory("u", 1, Some("now"));
    index.remember("u", looked);
    assert_eq!(rests(Some("now")), (0, false));
    // Taken away: nobody asks for anything.
    assert_eq!(rests(None), (0, false));
}

fn held(uid: &str, policy: &str, finalizers: &[&str]) -> Arc<EntraPostgresPrincipal> {
    let mut object = principal(uid, "one", &Value::Null).as_ref().clone();
    object.spec.deletion_policy = serde_json::from_value(json!(policy)).expect("a policy");
    let finalizers = finalizers.iter().map(|&name| name.to_owned()).collect();
    object.metadata.finalizers = Some(finalizers);
    Arc::new(object)
}

// Red when: holds() looks at the object alone, or see() forgets what was written at the first event.
#[test]
fn a_finalizer_that_we_wrote_counts_before_the_watch_brings_it() {
    let index = index();
    let before = held("u", "Retain", &[]);
    let after = held("u", "Retain", &["entrapostgres.io/role"]);
    let server = ObjectKey::new("platform", "one");
    let needed = || (index.holds(before.as_ref()), index.needing(&server).len());
    index.upsert_principal(&before);
    assert_eq!(needed(), (false, 0));
    index.wrote_finalizer(before.as_ref(), true);
    assert_eq!(needed(), (true, 1));
    // A change of before is still under way.
    index.upsert_principal(&before);
    assert_eq!(needed(), (true, 1));
    index.upsert_principal(&after);
    // From here on the watch is believed.
    index.upsert_principal(&before);
    assert_eq!(needed(), (false, 0));
    // The watch may be faster than the answer.
    index.upsert_principal(&after);
    index.wrote_finalizer(before.as_ref(), true);
    index.upsert_principal(&before);
    assert_eq!(needed(), (false, 0));
    // Another object of that name.
    index.wrote_finalizer(before.as_ref(), true);
    index.upsert_principal(&held("u2", "Retain", &[]));
    assert!(!index.holds(before.as_ref()));
}

// Red when: upsert_principal() wakes the server for readiness only.
#[test]
fn a_server_is_woken_when_somebody_begins_or_ends_to_need_it() {
    let wakes = Wakes::default();
    let woken = Arc::clone(&wakes.servers);
    wakes.listening.begin();
    let index = Index { wakes, ..index() };
    let steps = [
        ("Retain", &[][..], true),
        ("Retain", &["somebody.example/else"], false),
        ("Drop", &[], true),
        // It needs the server as before.
        ("Drop", &["entrapostgres.io/role"], false),
        // Until it is let go.
        ("Retain", &["entrapostgres.io/role"], false),
        ("Retain", &[], true),
    ];
    for (policy, finalizers, expected) in steps {
        index.upsert_principal(&held("u", policy, finalizers));
        let wakes = std::iter::from_fn(|| woken.take()).count();
        assert_eq!(wakes > 0, expected, "{policy} {finalizers:?}");
    }
}

// Red when: a wake is sent that nobody reads.
#[test]
fn nobody_is_woken_while_nobody_listens() {
    let wakes = Wakes::default();
    let (woken, woken_servers) = (Arc::clone(&wakes.principals), Arc::clone(&wakes.servers));
    let index = Index { wakes, ..index() };
    let server = ObjectKey::new("platform", "one");
    let wake = || {
        index.upsert_principal(&principal("u", "one", &Value::Null));
        index.wake_principals_of(&server);
        index.wake_server(&server);
    };
    wake();
    assert!(woken.take().is_none() && woken_servers.take().is_none());
    index.wakes.listening.begin();
    wake();
    assert!(woken.take().is_some() && woken_servers.take().is_some());
}

// Red when: what a late pass says of a server that is gone is remembered.
#[test]
fn nothing_is_remembered_of_a_server_that_is_gone() {
    let index = index();
    let late = || {
        let (status, now) = (EntraPostgresServerStatus::default(), Timestamp::UNIX_EPOCH);
        index.wrote_server_status(&server("one", "shared", &Value::Null), status, now);
        index.server_asked_anew("one", None);
        index.server_proven_anew("one", &[]);
        drop(index.gate(&ObjectKey::new("platform", "one")));
        let state = index.lock();
        [
            state.server_statuses.len(),
            state.server_asks.len(),
            state.server_proofs.len(),
            state.gates.len(),
        ]
    };
    assert_eq!(late(), [0; 4]);
    add_server(&index, server("one", "shared", &Value::Null));
    assert_eq!(late(), [1; 4]);
    index.remove_server(&ObjectKey::new("platform", "one"), "one");
    assert_eq!(late(), [0; 4]);
}
