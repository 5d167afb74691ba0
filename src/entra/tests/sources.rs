//! Service accounts and Secrets as the tests set them, with counts of what was read.

use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};

use async_trait::async_trait;
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;

use super::{CLIENT, TENANT};
use crate::entra::locked;
use crate::model::Failure;
use crate::ports::{CredentialSource, KeyPair, SecretValue, ServiceAccountFacts};

pub(super) struct FakeCluster {
    pub(super) account: Mutex<ServiceAccountFacts>,
    pub(super) secret: Mutex<SecretValue>,
    /// The same Secret's certificate and key.
    pub(super) pair: Mutex<(String, String)>,
    pub(super) tokens: AtomicUsize,
    pub(super) audiences: Mutex<Vec<String>>,
    pub(super) reads: AtomicUsize,
}

impl Default for FakeCluster {
    fn default() -> Self {
        let account = ServiceAccountFacts {
            uid: "account-uid".to_owned(),
            resource_version: "1".to_owned(),
            client_id: Some(CLIENT.to_owned()),
            tenant_id: Some(TENANT.to_owned()),
        };
        let secret = SecretValue {
            uid: "secret-uid".to_owned(),
            resource_version: "1".to_owned(),
            text: "first~secret\n".to_owned(),
        };
        Self {
            account: Mutex::new(account),
            secret: Mutex::new(secret),
            pair: Mutex::default(),
            tokens: AtomicUsize::new(0),
            audiences: Mutex::default(),
            reads: AtomicUsize::new(0),
        }
    }
}

impl FakeCluster {
    /// Waits until service accounts and Secrets were read so often.
    pub(super) async fn was_read(&self, times: usize) {
        let reads = async {
            while self.reads.load(Ordering::SeqCst) < times {
                tokio::task::yield_now().await;
            }
        };
        let limit = std::time::Duration::from_secs(10);
        tokio::time::timeout(limit, reads).await.expect("reads");
    }
}

#[async_trait]
impl CredentialSource for FakeCluster {
    async fn service_account(&self, _: &str, _: &str) -> Result<ServiceAccountFacts, Failure> {
        self.reads.fetch_add(1, Ordering::SeqCst);
        Ok(locked(&self.account).clone())
    }

    async fn service_account_token(
        &self,
        namespace: &str,
        name: &str,
        audience: &str,
    ) -> Result<String, Failure> {
        let nth = self.tokens.fetch_add(1, Ordering::SeqCst);
        locked(&self.audiences).push(audience.to_owned());
        let claims = format!(
            r#"{{"iss":"https://oidc.example/","sub":"system:serviceaccount:{namespace}:{name}"}}"#
        );
        Ok(format!(
            "h.{}.assertion{nth}",
            URL_SAFE_NO_PAD.encode(claims)
        ))
    }

    async fn secret_value(&self, _: &str, _: &str, _: &str) -> Result<SecretValue, Failure> {
        self.reads.fetch_add(1, Ordering::SeqCst);
        Ok(locked(&self.secret).clone())
    }

    async fn key_pair(&self, _: &str, _: &str) -> Result<KeyPair, Failure> {
        self.reads.fetch_add(1, Ordering::SeqCst);
        let (certificate, key) = locked(&self.pair).clone();
        let secret = locked(&self.secret).clone();
        Ok(KeyPair {
            uid: secret.uid,
            resource_version: secret.resource_version,
            certificate,
            key,
        })
    }
}
