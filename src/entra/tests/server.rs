//! A token endpoint over TLS, and an IMDS over plain HTTP: each answers what the test put on its
//! list, then new tokens, and remembers what it was asked.

use std::collections::VecDeque;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};

use axum::Router;
use axum::extract::{Request, State};
use axum::http::{HeaderMap, HeaderValue, StatusCode, header};
use axum::response::{IntoResponse as _, Response};
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use rcgen::{BasicConstraints, CertificateParams, IsCa, Issuer, KeyPair};
use serde_json::json;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;
use tokio_rustls::TlsAcceptor;
use tokio_rustls::server::TlsStream;

use crate::entra::locked;
use crate::model::Cloud;

pub(in crate::entra) const OBJECT: &str = "bbbbbbbb-0000-0000-0000-00000000000b";
pub(in crate::entra) const LIFE: i64 = 600;

/// An answer out of the ordinary.
#[derive(Clone, Default)]
pub(in crate::entra) struct Scripted {
    pub(in crate::entra) status: u16,
    pub(in crate::entra) retry_after: Option<&'static str>,
    pub(in crate::entra) body: String,
}

/// What was asked.
#[derive(Clone, Debug)]
pub(in crate::entra) struct Seen {
    pub(in crate::entra) path: String,
    pub(in crate::entra) body: String,
    pub(in crate::entra) headers: HeaderMap,
}

#[derive(Clone)]
struct Desk {
    seen: Arc<Mutex<Vec<Seen>>>,
    script: Arc<Mutex<VecDeque<Scripted>>>,
    doors: Arc<Semaphore>,
}

pub(in crate::entra) struct Server {
    pub(in crate::entra) url: String,
    /// Connections over TLS that were accepted.
    pub(in crate::entra) accepted: Arc<AtomicUsize>,
    ca: tempfile::NamedTempFile,
    desk: Desk,
}

impl Server {
    pub(in crate::entra) async fn https() -> Self {
        let _already = rustls::crypto::ring::default_provider().install_default();
        let mut params = CertificateParams::default();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let ca_key = KeyPair::generate().unwrap();
        let ca = params.self_signed(&ca_key).unwrap();
        let issuer = Issuer::new(params, ca_key);
        let leaf_key = KeyPair::generate().unwrap();
        let leaf = CertificateParams::new(vec!["localhost".to_owned()]).unwrap();
        let leaf = leaf.signed_by(&leaf_key, &issuer).unwrap();
        let key = rustls::pki_types::PrivateKeyDer::try_from(leaf_key.serialize_der()).unwrap();
        let config = rustls::ServerConfig::builder()
            .with_no_client_auth()
            .with_single_cert(vec![leaf.der().clone()], key)
            .unwrap();
        let tcp = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = tcp.local_addr().unwrap().port();
        let acceptor = TlsAcceptor::from(Arc::new(config));
        let server = Self::new(format!("https://localhost:{port}"), &ca.pem());
        let accepted = Arc::clone(&server.accepted);
        let listener = Tls {
            tcp,
            acceptor,
            accepted,
        };
        let serve = axum::serve(listener, server.router());
        tokio::spawn(serve.into_future());
        server
    }

    pub(in crate::entra) async fn http() -> Self {
        let tcp = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = tcp.local_addr().unwrap().port();
        let server = Self::new(format!("http://127.0.0.1:{port}"), "");
        tokio::spawn(axum::serve(tcp, server.router()).into_future());
        server
    }

    fn new(url: String, ca: &str) -> Self {
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), ca).unwrap();
        Self {
            url,
            accepted: Arc::default(),
            ca: file,
            desk: Desk {
                seen: Arc::default(),
                script: Arc::default(),
                doors: Arc::new(Semaphore::new(Semaphore::MAX_PERMITS)),
            },
        }
    }

    fn router(&self) -> Router {
        Router::new().fallback(answer).with_state(self.desk.clone())
    }

    pub(in crate::entra) fn cloud(&self) -> Cloud {
        Cloud {
            name: "Test".to_owned(),
            authority: self.url.clone(),
            ca_file: Some(self.ca.path().to_owned()),
            ..Cloud::built_in().swap_remove(0)
        }
    }

    pub(in crate::entra) fn will_answer(&self, status: u16, body: impl Into<String>) {
        self.will(Scripted {
            status,
            body: body.into(),
            ..Scripted::default()
        });
    }

    pub(in crate::entra) fn will(&self, scripted: Scripted) {
        locked(&self.desk.script).push_back(scripted);
    }

    pub(in crate::entra) fn seen(&self) -> Vec<Seen> {
        locked(&self.desk.seen).clone()
    }

    /// Forgets what it was asked.
    pub(in crate::entra) fn forget(&self) {
        locked(&self.desk.seen).clear();
    }

    /// Requests are read, and answered only when `open` is called.
    pub(in crate::entra) fn close(&self) {
        self.desk.doors.forget_permits(Semaphore::MAX_PERMITS);
    }

    pub(in crate::entra) fn open(&self) {
        self.desk.doors.add_permits(1_000);
    }

    /// Waits until so many requests have come in.
    pub(in crate::entra) async fn asked(&self, times: usize) {
        let arrive = async {
            while locked(&self.desk.seen).len() < times {
                tokio::task::yield_now().await;
            }
        };
        let limit = std::time::Duration::from_secs(10);
        tokio::time::timeout(limit, arrive).await.expect("requests");
    }
}

async fn answer(State(desk): State<Desk>, request: Request) -> Response {
    let (parts, body) = request.into_parts();
    let body = axum::body::to_bytes(body, 1 << 20).await.unwrap();
    let nth = {
        let mut seen = locked(&desk.seen);
        seen.push(Seen {
            path: parts.uri.to_string(),
            body: String::from_utf8(body.to_vec()).unwrap(),
            headers: parts.headers,
        });
        seen.len()
    };
    let _door = desk.doors.acquire().await.unwrap();
    let scripted = locked(&desk.script).pop_front();
    let Some(scripted) = scripted else {
        return token_answer(parts.uri.path(), nth).into_response();
    };
    let status = StatusCode::from_u16(scripted.status).unwrap();
    let mut response = (status, scripted.body).into_response();
    if let Some(retry_after) = scripted.retry_after {
        let value = HeaderValue::from_static(retry_after);
        response.headers_mut().insert(header::RETRY_AFTER, value);
    }
    response
}

/// The fields of both endpoints at once; each token ends a second after the one before.
fn token_answer(path: &str, nth: usize) -> String {
    let tenant = path.split('/').nth(1).unwrap();
    let tenant = if tenant == "metadata" {
        super::TENANT
    } else {
        tenant
    };
    let end = super::real_now().as_second() + LIFE + i64::try_from(nth).unwrap();
    json!({
        "token_type": "Bearer", "expires_in": LIFE, "ext_expires_in": LIFE,
        "expires_on": end.to_string(), "resource": "r", "access_token": jwt(tenant, end),
    })
    .to_string()
}

pub(in crate::entra) fn jwt(tenant: &str, end: i64) -> String {
    let claims = json!({
        "aud": "https://ossrdbms-aad.database.windows.net",
        "tid": tenant, "oid": OBJECT, "exp": end,
    });
    let part = |text: String| URL_SAFE_NO_PAD.encode(text);
    format!(
        "{}.{}.c2ln",
        part("{}".to_owned()),
        part(claims.to_string())
    )
}

struct Tls {
    tcp: TcpListener,
    acceptor: TlsAcceptor,
    accepted: Arc<AtomicUsize>,
}

impl axum::serve::Listener for Tls {
    type Io = TlsStream<TcpStream>;
    type Addr = SocketAddr;

    async fn accept(&mut self) -> (Self::Io, Self::Addr) {
        loop {
            let (stream, address) = self.tcp.accept().await.unwrap();
            // A client that does not trust us breaks off here.
            if let Ok(stream) = self.acceptor.accept(stream).await {
                self.accepted.fetch_add(1, Ordering::SeqCst);
                return (stream, address);
            }
        }
    }

    fn local_addr(&self) -> std::io::Result<Self::Addr> {
        self.tcp.local_addr()
    }
}
