//! What a token exchange needs of Kubernetes: service accounts, their tokens, and values of Secrets.

use async_trait::async_trait;
use k8s_openapi::api::authentication::v1::{TokenRequest, TokenRequestSpec};
use k8s_openapi::api::core::v1::ServiceAccount;
use kube::api::PostParams;

use super::{Call, Cluster, SecretRead};
use crate::api::Identity;
use crate::model::{Class, Failure, Reason, SourceVersion};
use crate::ports::{CredentialSource, KeyPair, SecretValue, ServiceAccountFacts};

/// The token is used at once. It lives so long that Entra takes it although its clock is ten minutes
/// ahead of the API server's. The chart's admission policy allows no more.
pub(super) const LIFE_SECONDS: i64 = 1200;
/// What to do about a Secret that is not as it should be.
const CHANGE: &str = "create it, or change the secretRef of the identity";

#[async_trait]
impl CredentialSource for Cluster {
    async fn service_account(
        &self,
        namespace: &str,
        name: &str,
    ) -> Result<ServiceAccountFacts, Failure> {
        let found = self
            .api::<ServiceAccount>(namespace)
            .get_metadata_opt(name)
            .await
            .map_err(|error| Call::on::<ServiceAccount>("get", namespace, name).failure(&error))?
            .ok_or_else(|| no_account(namespace, name))?;
        let mut annotations = found.metadata.annotations.unwrap_or_default();
        Ok(ServiceAccountFacts {
            uid: found.metadata.uid.unwrap_or_default(),
            resource_version: found.metadata.resource_version.unwrap_or_default(),
            client_id: annotations.remove("azure.workload.identity/client-id"),
            tenant_id: annotations.remove("azure.workload.identity/tenant-id"),
        })
    }

    async fn service_account_token(
        &self,
        namespace: &str,
        name: &str,
        audience: &str,
    ) -> Result<String, Failure> {
        self.may_write()?;
        let request = TokenRequest {
            spec: TokenRequestSpec {
                audiences: vec![audience.to_owned()],
                expiration_seconds: Some(LIFE_SECONDS),
                ..TokenRequestSpec::default()
            },
            ..TokenRequest::default()
        };
        let call = Call::on::<ServiceAccount>("create", namespace, name).subresource("token");
        let answer = self
            .api::<ServiceAccount>(namespace)
            .create_token_request(name, &PostParams::default(), &request)
            .await
            .map_err(|error| match &error {
                kube::Error::Api(status) if status.is_not_found() => no_account(namespace, name),
                _ => call.failure(&error),
            })?;
        let token = answer.status.map(|status| status.token).unwrap_or_default();
        if token.is_empty() {
            let message = format!("could not {call}: the Kubernetes API answered without a token");
            return Err(Failure::new(Class::Transient, Reason::ApiError, message));
        }
        Ok(token)
    }

    async fn secret_value(
        &self,
        namespace: &str,
        name: &str,
        key: &str,
    ) -> Result<SecretValue, Failure> {
        let wanted = Wanted::new(self, namespace, name, Reason::ClientSecretNotFound).await?;
        let text = wanted.text(key)?;
        let (uid, resource_version) = wanted.version();
        Ok(SecretValue {
            uid,
            resource_version,
            text,
        })
    }

    async fn key_pair(&self, namespace: &str, name: &str) -> Result<KeyPair, Failure> {
        let wanted = Wanted::new(self, namespace, name, Reason::ClientCertificateNotFound).await?;
        let (certificate, key) = (wanted.text("tls.crt")?, wanted.text("tls.key")?);
        let (uid, resource_version) = wanted.version();
        Ok(KeyPair {
            uid,
            resource_version,
            certificate,
            key,
        })
    }
}

impl Cluster {
    /// What an identity is proven by at the moment; `None`: not by an object of the cluster.
    /// Nothing of a Secret's data leaves the API server.
    pub async fn source_version(
        &self,
        namespace: &str,
        identity: &Identity,
    ) -> Result<Option<SourceVersion>, Failure> {
        let Identity {
            workload_identity,
            client_secret,
            client_certificate,
            managed_identity: _,
            operator: _,
        } = identity;
        if let Some(identity) = workload_identity {
            let name = &identity.service_account_ref.name;
            let turn = self.turn().await;
            let found = self
                .api::<ServiceAccount>(namespace)
                .get_metadata_opt(name)
                .await;
            drop(turn);
            let call = Call::on::<ServiceAccount>("get", namespace, name);
            let found = found.map_err(|error| call.failure(&error))?;
            return Ok(Some(found.map_or_else(SourceVersion::absent, |found| {
                let text = |part: Option<String>| part.unwrap_or_default();
                let meta = found.metadata;
                SourceVersion::of(&text(meta.uid), &text(meta.resource_version))
            })));
        }
        let secret = client_secret.as_ref().map(|from| &from.secret_ref.name);
        let certificate = client_certificate
            .as_ref()
            .map(|from| &from.secret_ref.name);
        let Some(name) = secret.or(certificate) else {
            return Ok(None);
        };
        let found = self.look_secret(namespace, name).await?;
        Ok(Some(found.map_or_else(SourceVersion::absent, |meta| {
            SourceVersion::of(&meta.uid, &meta.resource_version)
        })))
    }
}

/// A Secret that an identity names.
struct Wanted {
    place: String,
    secret: SecretRead,
    reason: Reason,
}

impl Wanted {
    async fn new(
        cluster: &Cluster,
        namespace: &str,
        name: &str,
        reason: Reason,
    ) -> Result<Self, Failure> {
        let place = format!("Secret {namespace}/{name}");
        let secret = cluster.read_secret(namespace, name).await?;
        let secret = secret.ok_or_else(|| {
            let message = format!("{place} does not exist: {CHANGE}");
            Failure::new(Class::Denied, reason, message).proven_by(SourceVersion::absent())
        })?;
        Ok(Self {
            place,
            secret,
            reason,
        })
    }

    fn text(&self, key: &str) -> Result<String, Failure> {
        let found = self.secret.get(key).map(str::to_owned);
        found.ok_or_else(|| {
            let message = format!("{} has no text under key {key:?}: {CHANGE}", self.place);
            let (uid, version) = self.version();
            Failure::new(Class::Denied, self.reason, message)
                .proven_by(SourceVersion::of(&uid, &version))
        })
    }

    fn version(&self) -> (String, String) {
        let meta = &self.secret.meta;
        (meta.uid.clone(), meta.resource_version.clone())
    }
}

fn no_account(namespace: &str, name: &str) -> Failure {
    let message = format!(
        "service account {namespace}/{name} does not exist: create it, or change the \
         serviceAccountRef of the identity"
    );
    Failure::new(Class::Denied, Reason::ServiceAccountNotFound, message)
        .proven_by(SourceVersion::absent())
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::super::testing::{Answer, cluster};
    use super::*;

    #[tokio::test]
    async fn a_token_is_asked_for_exactly_one_audience_and_twenty_minutes() {
        let (cluster, seen) = cluster(|_| {
            Answer::ok(json!({
                "metadata": {}, "spec": {"audiences": ["api://x"]},
                "status": {"token": "t", "expirationTimestamp": "2026-11-24T00:00:00Z"},
            }))
        });
        let token = cluster
            .service_account_token("orders", "app", "api://x")
            .await;
        assert_eq!(token.as_deref(), Ok("t"));
        let request = seen.only();
        assert_eq!(request.method, "POST");
        assert_eq!(
            request.path,
            "/api/v1/namespaces/orders/serviceaccounts/app/token"
        );
        assert_eq!(
            request.body["spec"],
            json!({"audiences": ["api://x"], "expirationSeconds": 1200})
        );
    }

    #[tokio::test]
    async fn what_is_absent_has_its_own_reason() {
        let (cluster, _) = cluster(|_| Answer::refusal(404, "NotFound", "not found"));
        let account = cluster.service_account("orders", "app").await;
        assert_eq!(
            account.map_err(|f| f.reason),
            Err(Reason::ServiceAccountNotFound)
        );
        let token = cluster.service_account_token("orders", "app", "x").await;
        assert_eq!(
            token.map_err(|f| f.reason),
            Err(Reason::ServiceAccountNotFound)
        );
        let secret = cluster.secret_value("orders", "app", "key").await;
        assert_eq!(
            secret.map(|_| ()).map_err(|f| f.reason),
            Err(Reason::ClientSecretNotFound)
        );
    }

    #[tokio::test]
    async fn a_value_without_its_key_is_absent_and_never_printed() {
        let (cluster, _) = cluster(|_| {
            Answer::ok(json!({
                "metadata": {"name": "app", "uid": "u", "resourceVersion": "7"},
                "data": {"secret": "aHVudGVyMg=="},
            }))
        });
        let value = cluster
            .secret_value("orders", "app", "secret")
            .await
            .expect("there");
        assert_eq!(value.text, "hunter2");
        assert!(!format!("{value:?}").contains("hunter2"));
        let failure = cluster
            .secret_value("orders", "app", "other")
            .await
            .expect_err("no such key");
        assert_eq!(failure.reason, Reason::ClientSecretNotFound);
        assert!(!failure.message.contains("hunter2"));
    }
}
