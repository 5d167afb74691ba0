//! A lab's Azure and an HTTP client for it.

use lab::azure::{Azure, AzureOptions};
use lab::directory::Directory;
use lab::tokens::{TokenKeys, Unverified};
use serde_json::{Map, Value, json};

pub(crate) use lab::tokens::SCOPE;
pub(crate) const TENANT: &str = "11111111-1111-4111-8111-111111111111";
pub(crate) const ASSERTION_TYPE: &str = "urn:ietf:params:oauth:client-assertion-type:jwt-bearer";
pub(crate) const IMPORTER: &str = "c11e4700-0000-4000-8000-000000000004";
pub(crate) const SECRET: &str = "the-lab-has-no-real-secrets~importer";

pub(crate) struct Lab {
    pub(crate) azure: Azure,
    pub(crate) http: reqwest::Client,
}

/// Status and JSON body.
pub(crate) type Answer = (u16, Value);

impl Lab {
    pub(crate) async fn start() -> Self {
        Self::with(Directory::default()).await
    }

    /// Without PostgreSQL.
    pub(crate) async fn with(directory: Directory) -> Self {
        Self::on(AzureOptions {
            directory,
            postgres: None,
            ..AzureOptions::default()
        })
        .await
    }

    /// With PostgreSQL.
    pub(crate) async fn whole() -> Self {
        Self::on(AzureOptions::default()).await
    }

    async fn on(options: AzureOptions) -> Self {
        let azure = Azure::start(options).await.unwrap();
        let ca = reqwest::Certificate::from_pem(azure.ca_pem().as_bytes()).unwrap();
        let http = reqwest::Client::builder()
            .no_proxy()
            .tls_certs_only([ca])
            .build()
            .unwrap();
        Self { azure, http }
    }

    pub(crate) fn token_url(&self) -> String {
        format!("{}/{TENANT}/oauth2/v2.0/token", self.azure.authority_url())
    }

    pub(crate) async fn post(&self, url: &str, form: &[(&str, &str)]) -> Answer {
        let answer = self.http.post(url).form(form).send().await.unwrap();
        (answer.status().as_u16(), answer.json().await.unwrap())
    }

    /// A token by secret, with some fields of the form changed; an empty value takes one away.
    pub(crate) async fn secret_grant(&self, changes: &[(&str, &str)]) -> Answer {
        let mut form = vec![
            ("grant_type", "client_credentials"),
            ("client_id", IMPORTER),
            ("client_secret", SECRET),
            ("scope", SCOPE),
        ];
        for (name, value) in changes {
            form.retain(|(field, _)| field != name);
            form.push((name, value));
        }
        form.retain(|(_, value)| !value.is_empty());
        self.post(&self.token_url(), &form).await
    }

    pub(crate) async fn assertion_grant(&self, client_id: &str, assertion: &str) -> Answer {
        let form = [
            ("grant_type", "client_credentials"),
            ("client_id", client_id),
            ("client_assertion_type", ASSERTION_TYPE),
            ("client_assertion", assertion),
            ("scope", SCOPE),
        ];
        self.post(&self.token_url(), &form).await
    }

    pub(crate) async fn api(&self, method: &str, path: &str, body: String) -> Answer {
        let url = format!("{}/lab/{path}", self.azure.api_url());
        let method = method.parse().unwrap();
        let answer = self
            .http
            .request(method, url)
            .body(body)
            .send()
            .await
            .unwrap();
        let status = answer.status().as_u16();
        let text = answer.text().await.unwrap();
        (
            status,
            if text.is_empty() {
                Value::Null
            } else {
                serde_json::from_str(&text).unwrap()
            },
        )
    }

    pub(crate) async fn faults(&self, list: Value) {
        assert_eq!(
            self.api("PUT", "faults", list.to_string()).await,
            (204, Value::Null)
        );
    }

    pub(crate) async fn stats(&self) -> Value {
        self.api("GET", "stats", String::new()).await.1
    }
}

/// Claims of a token that was just given out, its signature checked.
pub(crate) fn claims_of(lab: &Lab, token: &Value) -> Map<String, Value> {
    let token = Unverified::parse(token.as_str().unwrap()).unwrap();
    assert!(token.signed_by(&lab.azure.state().keys.jwks()));
    token.claims
}

/// The number of a refusal; the whole body is checked for Azure's form.
pub(crate) fn aadsts((status, body): &Answer) -> (u16, u64, &str) {
    let code = body["error_codes"][0].as_u64().unwrap();
    let text = body["error_description"].as_str().unwrap();
    assert!(text.starts_with(&format!("AADSTS{code}: ")), "{text}");
    for part in ["\r\nTrace ID: ", "\r\nCorrelation ID: ", "\r\nTimestamp: "] {
        assert!(text.contains(part), "{text}");
    }
    for field in ["timestamp", "trace_id", "correlation_id"] {
        assert!(text.contains(body[field].as_str().unwrap()), "{field}");
    }
    (*status, code, body["error"].as_str().unwrap())
}

/// An issuer of service account tokens, as a cluster is one.
pub(crate) struct Cluster {
    pub(crate) keys: TokenKeys,
    pub(crate) issuer: &'static str,
}

impl Cluster {
    pub(crate) fn new() -> Self {
        Self {
            keys: TokenKeys::generate().unwrap(),
            issuer: "https://kubernetes.default.svc.lab/",
        }
    }

    /// A service account's token with some claims changed.
    pub(crate) fn token(&self, subject: &str, changes: Value) -> String {
        let now = lab::state::unix_now();
        let mut claims = json!({
            "iss": self.issuer,
            "sub": format!("system:serviceaccount:{subject}"),
            "aud": ["api://AzureADTokenExchange"],
            "nbf": now, "iat": now, "exp": now + 3600,
        });
        let fields = claims.as_object_mut().unwrap();
        fields.extend(changes.as_object().unwrap().clone());
        self.keys.sign(fields).unwrap()
    }
}
