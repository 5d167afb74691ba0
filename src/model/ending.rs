//! The end of a server object: who needs it, and what to say meanwhile. Pure.

use kube::ResourceExt;

use super::{Class, DesiredServer, Failure, ObjectKey, Reason};
use crate::api::{DeletionPolicy, EntraPostgresPrincipal, EntraPostgresServer, Mode};

/// Annotation: a deletion does not wait for anything; roles stay on the server.
pub const ABANDON: &str = "entrapostgres.io/abandon";

/// So many principals are named.
const NAMED: usize = 10;

/// What a principal has to do with the end of its server.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Stake {
    need: Need,
    /// It is being deleted.
    deleted: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Need {
    /// Its role stays, or it never got one that would be dropped.
    Nothing,
    /// It asks for a role that is dropped in the end, or has our finalizer, which anybody can write; the
    /// status knows of no role yet.
    IfTenant,
    /// It has a role that is dropped in the end.
    Server,
}

impl Stake {
    /// That of an object; `held`: whether our finalizer is on it.
    pub fn of(object: &EntraPostgresPrincipal, held: bool) -> Self {
        let status = object.status.as_ref();
        let has_role = status.is_some_and(|status| status.role.is_some());
        let deleted = object.metadata.deletion_timestamp.is_some();
        let spec = &object.spec;
        let drops = spec.deletion_policy != DeletionPolicy::Retain && spec.mode == Mode::Apply;
        let need = match held || drops && !deleted {
            true if has_role => Need::Server,
            true => Need::IfTenant,
            // What is being deleted without our finalizer is held by others, and leaves its role.
            false => Need::Nothing,
        };
        Self { need, deleted }
    }

    /// Whether the server must stay for it. Whoever may write a principal anywhere does not hold the
    /// servers of others: in a namespace that no tenant entry can mean it counts only with a role.
    /// `server`: `None` if it cannot be read.
    pub fn needs(self, namespace: &str, server: Option<&DesiredServer>) -> bool {
        match self.need {
            Need::Nothing => false,
            Need::IfTenant => server.is_none_or(|server| may_mean(server, namespace)),
            Need::Server => true,
        }
    }
}

/// Whether a tenant entry may be for a namespace, whose labels are not known here.
fn may_mean(server: &DesiredServer, namespace: &str) -> bool {
    server.tenants.iter().any(|tenant| {
        let mut names = tenant.namespaces.names.iter().flatten();
        tenant.namespaces.selector.is_some() || names.any(|name| name == namespace)
    })
}

/// Whether a deletion of this server, once there is one, waits for nobody.
pub fn is_abandoned(server: &EntraPostgresServer) -> bool {
    let annotation = server.annotations().get(ABANDON);
    annotation.is_some_and(|value| value == "true")
}

/// What a deletion waits for, and that annotation `entrapostgres.io/abandon` has a value that is not obeyed.
pub fn not_abandoned(failure: Failure, annotation: Option<&String>) -> Failure {
    let Some(wrong) = annotation.filter(|value| *value != "true") else {
        return failure;
    };
    let message = format!(
        "{}; annotation {ABANDON} is {wrong:?} and not obeyed: only \"true\" is",
        failure.message
    );
    Failure { message, ..failure }
}

/// Why a server that is being deleted stays: those that are not being deleted come first.
pub fn waiting_for<'a>(
    server: &ObjectKey,
    principals: impl Iterator<Item = &'a EntraPostgresPrincipal>,
) -> Failure {
    let mut waits: Vec<(bool, ObjectKey)> = principals
        .map(|object| {
            let key = ObjectKey::new(object.namespace().unwrap_or_default(), object.name_any());
            (object.metadata.deletion_timestamp.is_some(), key)
        })
        .collect();
    waits.sort();
    let name = |(deleted, key): &(bool, ObjectKey)| {
        let note = if *deleted { " (being deleted)" } else { "" };
        format!("{key}{note}")
    };
    let mut names = waits
        .iter()
        .take(NAMED)
        .map(name)
        .collect::<Vec<_>>()
        .join(", ");
    if let Some(more) = waits.len().checked_sub(NAMED).filter(|more| *more > 0) {
        names = format!("{names} and {more} more");
    }
    let what = if waits.iter().all(|(deleted, _)| *deleted) {
        "they are being deleted, and their conditions say what they wait for"
    } else {
        "delete them, or declare deletionPolicy: Retain there"
    };
    let message = format!(
        "EntraPostgresServer {server} is being deleted and waits until these principals have dropped \
         their roles through it: {names}; {what}. To let all of them go and leave their roles on the \
         server, set annotation {ABANDON}: \"true\" on this EntraPostgresServer"
    );
    Failure::new(Class::Waiting, Reason::WaitingForPrincipals, message)
}

/// Why no role is made any more on a server that is being deleted.
pub fn no_new_role(server: &ObjectKey) -> Failure {
    let message = format!(
        "EntraPostgresServer {server} is being deleted: no role is made or taken over through it any \
         more. When it is gone, make it again, or delete this principal"
    );
    Failure::new(Class::Waiting, Reason::ServerNotReady, message)
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use serde_json::{Value, json};

    use super::*;
    use crate::model::Cloud;

    fn principal(name: &str, policy: &str, extra: &Value) -> EntraPostgresPrincipal {
        let mut object = json!({
            "apiVersion": "entrapostgres.io/v1alpha1", "kind": "EntraPostgresPrincipal",
            "metadata": {"name": name, "namespace": "orders", "uid": name},
            "spec": {
                "serverRef": {"name": "server", "namespace": "platform"},
                "roleName": name, "principal": {"type": "Group"}, "deletionPolicy": policy,
            },
        });
        if extra["deleted"] == true {
            object["metadata"]["deletionTimestamp"] = json!("2026-01-01T00:00:00Z");
        }
        if extra["role"] == true {
            object["status"] = json!({"role": {"name": name, "objectId": "id", "adopted": false}});
        }
        serde_json::from_value(object).expect("a principal")
    }

    fn server(tenants: &Value) -> DesiredServer {
        let object = serde_json::from_value(json!({
            "apiVersion": "entrapostgres.io/v1alpha1", "kind": "EntraPostgresServer",
            "metadata": {"name": "server", "namespace": "platform", "uid": "server"},
            "spec": {
                "host": "orders.postgres.database.azure.com", "tenants": tenants,
                "admins": [{"roleName": "boss", "identity": {"operator": {}}}],
            },
        }))
        .expect("a server");
        let clouds = Cloud::built_in().into_iter();
        let clouds: BTreeMap<_, _> = clouds
            .map(|cloud| (cloud.name.clone(), cloud.into()))
            .collect();
        DesiredServer::parse(&object, &clouds).expect("parses")
    }

    fn tenant(namespaces: &Value) -> Value {
        json!([{"namespaces": namespaces, "principalTypes": ["Group"], "roleNames": ["*"]}])
    }

    // Red when: of() and needs() leave out one of policy, finalizer, role or tenants.
    #[test]
    fn a_server_is_needed_by_who_drops_or_is_held_and_by_no_stranger() {
        let ours = server(&tenant(&json!({"names": ["orders"]})));
        let labelled = server(&tenant(&json!({"selector": {"matchLabels": {"a": "b"}}})));
        let others = server(&tenant(&json!({"names": ["billing"]})));
        let none = json!({});
        for (policy, held, extra, server, expected) in [
            ("Retain", false, &none, Some(&ours), false),
            ("Retain", false, &json!({"role": true}), Some(&ours), false),
            // It was Drop before, and its finalizer is still there.
            ("Retain", true, &none, Some(&ours), true),
            ("Retain", true, &json!({"role": true}), Some(&others), true),
            ("Drop", false, &none, Some(&ours), true),
            ("Drop", false, &none, Some(&labelled), true),
            ("Drop", false, &none, None, true),
            ("Drop", true, &json!({"deleted": true}), Some(&ours), true),
            // Somebody else holds it; its role stays.
            ("Drop", false, &json!({"deleted": true}), Some(&ours), false),
            // A stranger, who may write the finalizer too; one that was a tenant once.
            ("Drop", false, &none, Some(&others), false),
            ("Drop", true, &none, Some(&others), false),
            ("Retain", true, &none, Some(&others), false),
            (
                "Drop",
                true,
                &json!({"deleted": true}),
                Some(&others),
                false,
            ),
            ("Drop", false, &json!({"role": true}), Some(&others), true),
            ("Drop", true, &json!({"role": true}), Some(&others), true),
        ] {
            let object = principal("api", policy, extra);
            let stake = Stake::of(&object, held);
            let says = format!("{policy} held {held} {extra} {server:?}");
            assert_eq!(stake.needs("orders", server), expected, "{says}");
        }
        let mut reassign = principal("api", "Drop", &none);
        reassign.spec.deletion_policy = DeletionPolicy::Reassign;
        assert!(Stake::of(&reassign, false).needs("orders", Some(&ours)));
        // Only shown: nothing is dropped.
        reassign.spec.mode = Mode::Plan;
        assert!(!Stake::of(&reassign, false).needs("orders", Some(&ours)));
    }

    #[test]
    fn ten_are_named_those_first_that_somebody_has_to_delete() {
        let key = ObjectKey::new("platform", "server");
        let said = |objects: &[EntraPostgresPrincipal]| waiting_for(&key, objects.iter()).message;
        let deleted = json!({"deleted": true});
        let mut objects: Vec<_> = (10..21)
            .map(|n| principal(&format!("p{n}"), "Drop", &deleted))
            .collect();
        let all = said(&objects);
        assert!(all.contains("orders/p19 (being deleted) and 1 more; they are being deleted"));
        objects.push(principal("zebra", "Drop", &json!({})));
        let some = said(&objects);
        let listed = "through it: orders/zebra, orders/p10 (being deleted)";
        assert!(some.contains(listed), "{some}");
        assert!(some.contains("and 2 more; delete them") && some.contains(ABANDON));
        let one = said(&objects[11..]);
        assert!(one.contains("through it: orders/zebra; delete"), "{one}");
    }

    // Red when: not_abandoned() passes over a wrong value, or tells of one that is obeyed.
    #[test]
    fn a_value_of_abandon_that_is_not_obeyed_is_told() {
        let waits = || Failure::new(Class::Denied, Reason::RoleOwnsObjects, "it owns 2 tables");
        for (value, told) in [(Some("yes"), true), (Some("true"), false), (None, false)] {
            let value = value.map(str::to_owned);
            let said = not_abandoned(waits(), value.as_ref()).message;
            assert!(said.starts_with("it owns 2 tables"), "{said}");
            assert_eq!(said.contains("\"yes\" and not obeyed"), told, "{said}");
        }
    }
}
