//! What is kept of an object that a watch brings: what the operator reads, up to a limit. All else is dropped
//! before it costs anything for as long as the object is there. Must not decide anything.

use kube::Resource;
use kube::core::{ObjectMeta, PartialObjectMeta};

use crate::api::{EntraPostgresPrincipal, EntraPostgresServer, GROUP};
use crate::cluster::MANAGED_BY;
use crate::model::desired::{TOO_LARGE_RIGHTS, TOO_LARGE_TEMPLATE};
use crate::model::secret::fingerprint;
use crate::model::server::TOO_LARGE_TENANTS;
use crate::model::sizes;

/// So many bytes of our annotations are kept; what is beyond is kept as a fingerprint, which changes as
/// the value does.
const ANNOTATIONS: usize = 16 * 1024;
/// So many annotations of ours are kept; there are not as many.
const MOST_ANNOTATIONS: usize = 32;
/// So many finalizers are kept.
const MOST_FINALIZERS: usize = 64;
/// So many conditions are kept; there are not as many types.
const MOST_CONDITIONS: usize = 16;
/// So many bytes of `status.plan` are kept, which is more than we write.
const PLAN: usize = 40 * 1024;

/// Annotations that only we write, and only in memory.
const IN_MEMORY: [&str; 3] = [TOO_LARGE_RIGHTS, TOO_LARGE_TEMPLATE, TOO_LARGE_TENANTS];

/// An object that a watch keeps.
pub trait Kept {
    /// Drops what nobody reads, and what is too large.
    fn shrink(&mut self);
}

impl Kept for EntraPostgresPrincipal {
    fn shrink(&mut self) {
        shrink_metadata(&mut self.metadata);
        let spec = &mut self.spec;
        let mut left_out = Vec::new();
        if let Err(failure) = sizes::rights(spec) {
            (spec.grants, spec.default_privileges, spec.member_of) =
                (Vec::new(), Vec::new(), Vec::new());
            if let Some(role) = &mut spec.role {
                role.settings = None;
            }
            left_out.push((TOO_LARGE_RIGHTS, failure.message));
        }
        if let Some(token) = &mut spec.token
            && let Err(failure) = sizes::template(&token.secret)
        {
            token.secret.template = None;
            left_out.push((TOO_LARGE_TEMPLATE, failure.message));
        }
        note(&mut self.metadata, left_out);
        if let Some(status) = &mut self.status {
            status.conditions.truncate(MOST_CONDITIONS);
            let mut bytes = 0_usize;
            let fits = status.plan.iter().take_while(|line| {
                bytes = bytes.saturating_add(line.len());
                bytes <= PLAN
            });
            let fits = fits.count();
            status.plan.truncate(fits);
        }
    }
}

impl Kept for EntraPostgresServer {
    fn shrink(&mut self) {
        shrink_metadata(&mut self.metadata);
        if let Err(failure) = sizes::server(&self.spec) {
            self.spec.tenants = Vec::new();
            note(
                &mut self.metadata,
                vec![(TOO_LARGE_TENANTS, failure.message)],
            );
        }
        if let Some(status) = &mut self.status {
            status.conditions.truncate(MOST_CONDITIONS);
        }
    }
}

/// Of a Secret whose version tells whether to read it.
impl<K> Kept for PartialObjectMeta<K>
where
    Self: Resource,
{
    fn shrink(&mut self) {
        let meta = &mut self.metadata;
        (meta.managed_fields, meta.annotations, meta.finalizers) = (None, None, None);
        if let Some(labels) = &mut meta.labels {
            labels.retain(|name, _| name == MANAGED_BY);
        }
        if let Some(owners) = &mut meta.owner_references {
            owners.retain(|owner| owner.controller == Some(true));
        }
    }
}

fn shrink_metadata(meta: &mut ObjectMeta) {
    (meta.managed_fields, meta.labels, meta.owner_references) = (None, None, None);
    if let Some(finalizers) = &mut meta.finalizers
        && finalizers.len() > MOST_FINALIZERS
    {
        finalizers.retain(|name| is_ours(name));
    }
    let annotations = meta.annotations.take().into_iter().flatten();
    let ours = annotations.filter(|(name, _)| is_ours(name) && !IN_MEMORY.contains(&name.as_str()));
    let mut bytes = 0_usize;
    let kept = ours.take(MOST_ANNOTATIONS).map(|(name, value)| {
        let with = bytes.saturating_add(value.len());
        if with > ANNOTATIONS {
            return (name, fingerprint(&value));
        }
        bytes = with;
        (name, value)
    });
    meta.annotations = Some(kept.collect());
}

fn is_ours(name: &str) -> bool {
    (name.strip_prefix(GROUP)).is_some_and(|rest| rest.starts_with('/'))
}

/// Says what was left out, where parsing finds it.
fn note(meta: &mut ObjectMeta, left_out: Vec<(&str, String)>) {
    let annotations = meta.annotations.get_or_insert_default();
    annotations.extend(
        left_out
            .into_iter()
            .map(|(name, what)| (name.to_owned(), what)),
    );
}

#[cfg(test)]
mod tests {
    use k8s_openapi::api::core::v1::Secret;
    use kube::ResourceExt;
    use serde_json::{Value, json};

    use super::*;
    use crate::model::{Desired, DesiredServer, Reason, cloud::Cloud};

    fn metadata() -> Value {
        let long = "x".repeat(250_000);
        json!({
            "name": "app", "namespace": "orders", "uid": "u", "labels": {"team": "a", MANAGED_BY: "x"},
            "annotations": {"example.com/long": long, "entrapostgres.io/renew": "1",
                "entrapostgres.io/aaa": long, "entrapostgres.ionly/x": "y"},
            "finalizers": ["example.com/a", "entrapostgres.io/role"],
            "ownerReferences": [
                {"apiVersion": "v1", "kind": "X", "name": "x", "uid": "x"},
                {"apiVersion": "v1", "kind": "X", "name": "c", "uid": "c", "controller": true},
            ],
            "managedFields": [{"manager": long}],
        })
    }

    fn principal(fields: &Value) -> EntraPostgresPrincipal {
        let mut object = json!({
            "apiVersion": "entrapostgres.io/v1alpha1", "kind": "EntraPostgresPrincipal",
            "metadata": metadata(),
            "spec": {"serverRef": {"name": "s"}, "roleName": "app", "principal": {"type": "ManagedIdentity"},
                "token": {"identity": {"workloadIdentity": {"serviceAccountRef": {"name": "app"}}}}},
        });
        for (field, value) in fields.as_object().into_iter().flatten() {
            object["spec"][field] = value.clone();
        }
        serde_json::from_value(object).expect("a principal")
    }

    fn size(object: &impl serde::Serialize) -> usize {
        serde_json::to_string(object).expect("JSON").len()
    }

    // Red when: shrink() keeps annotations, labels, managed fields or owners that nobody reads.
    #[test]
    fn of_metadata_only_what_we_read_is_kept() {
        let mut object = principal(&json!({}));
        object.shrink();
        assert!(size(&object) < 2_000, "{}", size(&object));
        assert_eq!(
            object
                .annotations()
                .get("entrapostgres.io/renew")
                .map(String::as_str),
            Some("1")
        );
        assert_eq!(object.annotations().len(), 2);
        assert_eq!(
            object.finalizers(),
            ["example.com/a", "entrapostgres.io/role"]
        );
        let secret = json!({"apiVersion": "v1", "kind": "Secret", "metadata": metadata()});
        let mut secret: PartialObjectMeta<Secret> =
            serde_json::from_value(secret).expect("metadata");
        secret.shrink();
        assert!(size(&secret) < 500, "{}", size(&secret));
        assert!(secret.labels().contains_key(MANAGED_BY));
        assert_eq!(secret.owner_references().len(), 1);
    }

    // Red when: an object that is older than the limits of the schema is kept as it is, or costs its token.
    #[test]
    fn what_is_too_large_is_not_kept_and_costs_only_its_half() {
        let names: Vec<String> = (0..256).map(|n| format!("t{n}")).collect();
        let grant = json!({"database": "d", "schema": "s", "objects": "Tables", "names": names,
            "privileges": ["SELECT", "INSERT", "UPDATE", "DELETE", "TRUNCATE", "REFERENCES", "TRIGGER", "MAINTAIN"]});
        let grants = principal(&json!({"grants": vec![grant; 128]}));
        let settings: std::collections::BTreeMap<String, String> = (0..200)
            .map(|n| (format!("a.s{n}"), "x".repeat(1024)))
            .collect();
        let settings = principal(&json!({"role": {"settings": settings}}));
        let members: Vec<_> = (0..5_000)
            .map(|n| json!({"role": format!("a role {n}")}))
            .collect();
        let members = principal(&json!({"memberOf": members}));
        for (mut object, field) in [
            (grants, "grants"),
            (settings, "role.settings"),
            (members, "memberOf"),
        ] {
            let raw = Desired::parse(&object)
                .expect("parses")
                .rights
                .expect_err("too large");
            object.shrink();
            assert!(size(&object) < 4_000, "{field}: {}", size(&object));
            let desired = Desired::parse(&object).expect("parses");
            let failure = desired.rights.expect_err("too large");
            assert_eq!(failure, raw);
            assert_eq!(failure.reason, Reason::TooLarge);
            assert!(
                failure.message.contains(field) && failure.message.contains("at most"),
                "{failure}"
            );
            assert!(desired.token.expect("a token").layout.is_ok());
        }
    }

    #[test]
    fn a_template_that_is_too_large_costs_the_token_and_not_the_role() {
        let data: std::collections::BTreeMap<String, String> = (0..32)
            .map(|n| (format!("k{n}"), "x".repeat(16_384)))
            .collect();
        let mut object = principal(&json!({}));
        let token = object.spec.token.as_mut().expect("a token");
        token.secret.template = Some(crate::api::SecretTemplate {
            data: Some(data),
            ..Default::default()
        });
        object.shrink();
        assert!(size(&object) < 4_000, "{}", size(&object));
        let desired = Desired::parse(&object).expect("parses");
        assert_eq!(desired.rights, Ok(()));
        let failure = desired
            .token
            .expect("a token")
            .layout
            .expect_err("too large");
        assert_eq!(failure.reason, Reason::TooLarge);
        // Nobody can claim that by hand.
        let mut forged = principal(&json!({}));
        forged
            .annotations_mut()
            .insert(TOO_LARGE_RIGHTS.to_owned(), "x".to_owned());
        forged.shrink();
        assert_eq!(Desired::parse(&forged).expect("parses").rights, Ok(()));
    }

    #[test]
    fn a_server_that_is_too_large_is_refused_and_not_kept() {
        let tenant = json!({"namespaces": {"names": vec!["n".repeat(63); 256]}, "principalTypes": ["Group"],
            "roleNames": ["x"]});
        let mut object: EntraPostgresServer = serde_json::from_value(json!({
            "apiVersion": "entrapostgres.io/v1alpha1", "kind": "EntraPostgresServer", "metadata": metadata(),
            "spec": {"host": "a.postgres.database.azure.com", "tenants": vec![tenant; 64],
                "admins": [{"roleName": "boss", "identity": {"operator": {}}}]},
        }))
        .expect("a server");
        let clouds = Cloud::built_in().into_iter();
        let clouds = clouds
            .map(|cloud| (cloud.name.clone(), cloud.into()))
            .collect();
        let raw = DesiredServer::parse(&object, &clouds).expect_err("too large");
        object.shrink();
        assert!(size(&object) < 4_000, "{}", size(&object));
        let failure = DesiredServer::parse(&object, &clouds).expect_err("too large");
        assert_eq!((failure.reason, &failure), (Reason::TooLarge, &raw));
        assert!(failure.message.contains("tenants"), "{failure}");
    }
}
