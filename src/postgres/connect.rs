//! Opens a connection: TLS with chain and name verified, always, and sign-in with a token as
//! password. The only place in this module that reads a token. Must not ask for tokens, nor retry.

use std::error::Error as StdError;
use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use futures::StreamExt as _;
use postgres_protocol::escape::escape_identifier;
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject as _;
use rustls::{CertificateError, ClientConfig, RootCertStore};
use tokio::task::AbortHandle;
use tokio_postgres::config::SslMode;
use tokio_postgres::tls::MakeTlsConnect;
use tokio_postgres::{AsyncMessage, CancelToken, Client, Socket};
use tokio_postgres_rustls::MakeRustlsConnect;
use x509_cert::Certificate;
use x509_cert::der::Decode as _;

use crate::model::quote::quote;
use crate::model::{Class, Failure, Reason, RoleName};
use crate::ports::AccessToken;

use super::bounded::BoundedTls;
use super::error::{About, chain, classify, one_line, unreachable};
use super::message::{Unanswered, read};
use super::pinned;
use super::sql::identifier;

/// The setting of our sessions that has the names of the server's declared administrators, in JSON.
pub(super) const ADMINISTRATORS: &str = "entrapostgres.administrators";

/// How long each kind of thing may take.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Timeouts {
    /// TCP, TLS and sign-in together.
    pub connect: Duration,
    /// One statement.
    pub statement: Duration,
    /// Waiting for a lock.
    pub lock: Duration,
}

/// Where a server is and how it is spoken to.
#[derive(Clone)]
pub struct Endpoint {
    /// The server as people know it, for sentences.
    pub server: String,
    /// Host name as given: the certificate must be for it.
    pub host: String,
    /// TCP port.
    pub port: u16,
    /// The administrators that the server object declares.
    pub administrators: Vec<RoleName>,
    /// How long things may take.
    pub timeouts: Timeouts,
    /// Verifies the server.
    pub tls: MakeRustlsConnect,
    /// Whom spec.tls trusts, by name. Empty: the platform's authorities are trusted.
    pub authorities: Vec<String>,
}

/// Reads certificates from PEM text; anything but CERTIFICATE blocks is ignored.
pub fn certificates(pem: &[u8]) -> Vec<CertificateDer<'static>> {
    CertificateDer::pem_slice_iter(pem).flatten().collect()
}

/// The platform's root certificates. Empty, with a warning in the log, where there are none.
pub fn platform_roots() -> Vec<CertificateDer<'static>> {
    let found = rustls_native_certs::load_native_certs();
    if found.certs.is_empty() {
        tracing::warn!(errors = ?found.errors, "found no root certificates on this machine: servers without spec.tls will not be trusted");
    }
    found.certs
}

/// TLS that trusts only these roots.
pub fn tls(roots: &[CertificateDer<'static>]) -> Result<MakeRustlsConnect, Failure> {
    let mut store = RootCertStore::empty();
    store.add_parsable_certificates(roots.iter().cloned());
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let config = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .map_err(|error| {
            let message = format!("could not prepare TLS: {error}");
            Failure::new(Class::Denied, Reason::Internal, message)
        })?;
    let config = config.with_root_certificates(store).with_no_client_auth();
    Ok(MakeRustlsConnect::new(config))
}

/// How long a request to cancel may take: a new connection, without a sign-in.
const CANCEL: Duration = Duration::from_secs(5);

/// An open connection.
pub struct Link {
    /// Sends messages; dropping it lets the connection end when nothing is under way.
    pub client: Client,
    driver: AbortHandle,
    cancel: Option<(CancelToken, BoundedTls)>,
    exceeded: Arc<AtomicBool>,
}

impl Link {
    /// A connection that this task drives.
    #[cfg(test)]
    pub fn driven(client: Client, driver: &tokio::task::JoinHandle<()>) -> Self {
        Self {
            client,
            driver: driver.abort_handle(),
            cancel: None,
            exceeded: Arc::default(),
        }
    }

    /// Ends the connection although an answer is outstanding that may never come.
    pub fn cut(&self) {
        self.driver.abort();
    }

    /// Has the server cancel what it is working on for this connection. That this fails is only logged:
    /// the server looks itself, from time to time, whether we are still there.
    pub async fn cancel(&self) {
        let Some((token, tls)) = &self.cancel else {
            return;
        };
        match tokio::time::timeout(CANCEL, token.cancel_query(tls.clone())).await {
            Ok(Ok(())) => {}
            Ok(Err(error)) => tracing::debug!("could not cancel: {}", chain(&error)),
            Err(_) => tracing::debug!("could not cancel within {CANCEL:?}"),
        }
    }

    /// Whether it ended because a message of the server was too long.
    pub fn is_exceeded(&self) -> bool {
        self.exceeded.load(Ordering::Acquire)
    }
}

impl std::fmt::Debug for Link {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Link").finish_non_exhaustive()
    }
}

/// A connection that nobody drives yet.
type Attached = (
    Client,
    tokio_postgres::Connection<Socket, <BoundedTls as MakeTlsConnect<Socket>>::Stream>,
);

/// What a connection is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Purpose {
    /// Our work: all settings are ours.
    Work,
    /// To see whether an application could sign in: with the settings that it would get.
    Login,
}

/// Why there is no connection.
pub enum Unopened {
    /// An answer, or none any more.
    Refused(tokio_postgres::Error),
    /// No answer in time.
    Late,
}

impl Unopened {
    /// What that means.
    pub fn failure(&self, endpoint: &Endpoint, user: &RoleName, database: &str) -> Failure {
        let server = &endpoint.server;
        match self {
            Self::Refused(error) => refusal(server, &endpoint.authorities, user, database, error),
            Self::Late => {
                let cause = format!("no sign-in within {:?}", endpoint.timeouts.connect);
                unreachable(server, &format!("could not connect to {server}"), &cause)
            }
        }
    }
}

/// Signs in.
pub async fn attach(
    endpoint: &Endpoint,
    user: &RoleName,
    token: &AccessToken,
    database: &str,
    purpose: Purpose,
    tls: BoundedTls,
) -> Result<Attached, Unopened> {
    let config = config(endpoint, user, token, database, purpose);
    match tokio::time::timeout(endpoint.timeouts.connect, config.connect(tls)).await {
        Ok(attached) => attached.map_err(Unopened::Refused),
        Err(_) => Err(Unopened::Late),
    }
}

/// Opens a connection, drives it in a task of its own, and sees that it has our settings; `on_end` is
/// told why it ended.
pub async fn open(
    endpoint: &Endpoint,
    user: &RoleName,
    token: &AccessToken,
    database: &str,
    on_end: impl FnOnce(String) + Send + 'static,
) -> Result<Link, Failure> {
    let tls = BoundedTls::new(endpoint.tls.clone());
    let attached = attach(endpoint, user, token, database, Purpose::Work, tls.clone()).await;
    let (client, mut connection) =
        attached.map_err(|unopened| unopened.failure(endpoint, user, database))?;
    let first = pinned::first_message(connection.parameter("server_version"));
    let server = endpoint.server.clone();
    let driver = tokio::spawn(async move {
        let mut messages = futures::stream::poll_fn(move |cx| connection.poll_message(cx));
        let cause = loop {
            match messages.next().await {
                Some(Ok(AsyncMessage::Notice(notice))) => {
                    tracing::debug!(
                        server,
                        sqlstate = one_line(notice.code().code()),
                        "server says: {}",
                        one_line(notice.message())
                    );
                }
                Some(Ok(_)) => {}
                Some(Err(error)) => break chain(&error),
                None => break "the connection was closed".to_owned(),
            }
        };
        on_end(cause);
    });
    let link = Link {
        driver: driver.abort_handle(),
        cancel: Some((client.cancel_token(), tls.clone())),
        exceeded: tls.exceeded(),
        client,
    };
    match has_our_settings(endpoint, &link, &first).await {
        Ok(()) => Ok(link),
        Err(failure) => {
            link.cut();
            Err(failure)
        }
    }
}

/// Nothing else is sent before this is known.
async fn has_our_settings(endpoint: &Endpoint, link: &Link, first: &str) -> Result<(), Failure> {
    const UNKNOWN: &str = "42704";
    let Endpoint {
        server,
        timeouts,
        administrators,
        ..
    } = endpoint;
    match read(link, timeouts.connect, first).await {
        Ok(answers) => pinned::check(server, *timeouts, administrators, &answers),
        // One of our settings is not there at all.
        Err(Unanswered::Said(error)) if error.code().is_some_and(|code| code.code() == UNKNOWN) => {
            let said = error.as_db_error().map(|answer| one_line(answer.message()));
            Err(pinned::pooler(server, &said.unwrap_or_default()))
        }
        Err(error) => Err(error.failure(About {
            server,
            role: None,
            action: "read the settings of the connection",
        })),
    }
}

fn config(
    endpoint: &Endpoint,
    user: &RoleName,
    token: &AccessToken,
    database: &str,
    purpose: Purpose,
) -> tokio_postgres::Config {
    let mut config = tokio_postgres::Config::new();
    config
        .host(&endpoint.host)
        .port(endpoint.port)
        .user(user.as_str())
        .password(token.expose())
        .dbname(database)
        // With rustls this is verify-full; the driver's default would fall back to clear text.
        .ssl_mode(SslMode::Require)
        .application_name("entra-postgres-operator")
        .connect_timeout(endpoint.timeouts.connect)
        .tcp_user_timeout(Duration::from_secs(30))
        .keepalives_idle(Duration::from_secs(30))
        .keepalives_interval(Duration::from_secs(10))
        .keepalives_retries(3);
    if purpose == Purpose::Work {
        config.options(pinned::options(endpoint.timeouts, &endpoint.administrators));
    }
    config
}

/// What poolers answer to options that they do not know.
const PROTOCOL_VIOLATION: &str = "08P01";

/// What an error of a sign-in means.
pub fn refusal(
    server: &str,
    authorities: &[String],
    user: &RoleName,
    database: &str,
    error: &tokio_postgres::Error,
) -> Failure {
    let what = format!("could not connect to {server}");
    if let Some(problem) = certificate_problem(error, authorities) {
        let message = format!("{what}: {problem}");
        return Failure::new(Class::Denied, Reason::CertificateNotTrusted, message);
    }
    if let Some(answer) = error.as_db_error() {
        let code = answer.code().code();
        // A server refuses no parameter of a connection's start in this way.
        if code == PROTOCOL_VIOLATION {
            return pinned::pooler(server, &one_line(answer.message()));
        }
        if let Some(advice) = not_accessible(code, user, database) {
            let message = format!(
                "{what}: database {database:?}: {said} [SQLSTATE {code}]; {advice}",
                said = one_line(answer.message())
            );
            return Failure::new(Class::Denied, Reason::DatabaseNotAccessible, message);
        }
        let about = About {
            server,
            role: Some(user),
            action: "sign in as",
        };
        return classify(about, error);
    }
    unreachable(server, &what, &chain(error))
}

/// What to do where only this database is not for us.
fn not_accessible(code: &str, user: &RoleName, database: &str) -> Option<String> {
    let statement = format!(
        "GRANT CONNECT ON DATABASE {} TO {}",
        escape_identifier(database),
        identifier(user)
    );
    match code {
        "3D000" => Some("make the database, or correct its name: it is case-sensitive".to_owned()),
        "42501" => Some(format!("by hand, as its owner: {statement}")),
        "55000" => Some(
            "it does not take connections: ALTER DATABASE ... ALLOW_CONNECTIONS true".to_owned(),
        ),
        _ => None,
    }
}

/// Says what is wrong with the server's TLS, if that is what the error is about.
fn certificate_problem(error: &tokio_postgres::Error, authorities: &[String]) -> Option<String> {
    let mut cause: Option<&(dyn StdError + 'static)> = Some(error);
    while let Some(current) = cause {
        if let Some(tls) = as_tls_error(current) {
            return describe(tls, authorities);
        }
        if current.to_string() == "server does not support TLS" {
            let text = "it does not speak TLS, and a token is never sent in clear text; check host and port";
            return Some(text.to_owned());
        }
        cause = current.source();
    }
    None
}

fn as_tls_error<'a>(error: &'a (dyn StdError + 'static)) -> Option<&'a rustls::Error> {
    let inner = error
        .downcast_ref::<io::Error>()
        .and_then(io::Error::get_ref);
    let inner = inner.and_then(|inner| inner.downcast_ref::<rustls::Error>());
    inner.or_else(|| error.downcast_ref::<rustls::Error>())
}

fn describe(error: &rustls::Error, authorities: &[String]) -> Option<String> {
    let rustls::Error::InvalidCertificate(problem) = error else {
        return None;
    };
    Some(match problem {
        CertificateError::UnknownIssuer if authorities.is_empty() => {
            "its certificate was issued by an authority that is not trusted; set spec.tls to the authority's certificate if it is a private one".to_owned()
        }
        CertificateError::UnknownIssuer => format!(
            "its certificate was issued by an authority that is not trusted: only those of spec.tls are, which has {}; \
             put the certificate of the server's authority there, or remove spec.tls: servers of Azure need none",
            named(authorities)
        ),
        CertificateError::NotValidForName | CertificateError::NotValidForNameContext { .. } => {
            format!("its certificate is for another name ({problem}); set spec.host to a name in the certificate")
        }
        CertificateError::Expired | CertificateError::ExpiredContext { .. } => {
            format!("its certificate has expired ({problem}); renew it, or check this machine's clock")
        }
        CertificateError::NotValidYet | CertificateError::NotValidYetContext { .. } => {
            format!("its certificate is not valid yet ({problem}); check this machine's clock")
        }
        other => format!("its certificate is not acceptable ({other})"),
    })
}

/// So many authorities are named, each in so many characters.
const NAMED: usize = 3;
const LONGEST_NAME: usize = 120;

fn named(authorities: &[String]) -> String {
    let mut names: Vec<String> = authorities.iter().take(NAMED).cloned().collect();
    if let Some(more) = authorities
        .len()
        .checked_sub(NAMED)
        .filter(|more| *more > 0)
    {
        names.push(format!("{more} more"));
    }
    names.join(", ")
}

/// Whom these certificates are of.
pub fn subjects(roots: &[CertificateDer<'_>]) -> Vec<String> {
    let subject = |der: &CertificateDer<'_>| match Certificate::from_der(der) {
        Ok(certificate) => quote(
            &format!("{:?}", certificate.tbs_certificate.subject.to_string()),
            LONGEST_NAME,
        ),
        Err(_) => "one that cannot be read".to_owned(),
    };
    roots.iter().map(subject).collect()
}

#[cfg(test)]
pub(super) mod tests {
    use jiff::Timestamp;
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
    use tokio::net::TcpListener;

    use super::super::sql;
    use super::*;
    use crate::model::ObjectId;

    // Red when: the sign-in of a check has our settings: an application's might fail all the same.
    #[test]
    fn a_sign_in_that_is_tried_for_an_application_has_its_settings() {
        let second = Duration::from_secs(1);
        let endpoint = Endpoint {
            server: "server".to_owned(),
            host: "localhost".to_owned(),
            port: 5432,
            administrators: vec![],
            timeouts: Timeouts {
                connect: second,
                statement: second,
                lock: second,
            },
            tls: tls(&[]).unwrap(),
            authorities: Vec::new(),
        };
        let id = ObjectId::parse("11111111-0000-0000-0000-00000000000a").unwrap();
        let token = AccessToken::new("t".to_owned(), id, Timestamp::UNIX_EPOCH);
        let role = RoleName::parse("boss").unwrap();
        let options = |purpose| {
            let config = config(&endpoint, &role, &token, "db", purpose);
            config.get_options().map(str::to_owned)
        };
        assert_eq!(options(Purpose::Login), None);
        assert!(options(Purpose::Work).unwrap().contains("search_path"));
    }

    // Red when: what a pooler says of our options is tried again for ever.
    #[tokio::test]
    async fn a_pooler_that_refuses_our_options_is_named() {
        let failure = told("08P01", "unsupported startup parameter: options").await;
        let is = (failure.class, failure.reason);
        assert_eq!(is, (Class::Denied, Reason::PoolerNotSupported));
        for word in ["unsupported startup parameter", "spec.port"] {
            assert!(failure.message.contains(word), "{failure}");
        }
    }

    /// The error of a server that refuses the sign-in in these words.
    pub(in crate::postgres) async fn answered(code: &str, words: &str) -> tokio_postgres::Error {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let fields = format!("SFATAL\0VFATAL\0C{code}\0M{words}\0D{words}\0H{words}\0\0");
        let server = async {
            let (mut stream, _) = listener.accept().await.unwrap();
            let length = stream.read_u32().await.unwrap();
            let mut startup = vec![0; length as usize - 4];
            stream.read_exact(&mut startup).await.unwrap();
            stream.write_u8(b'E').await.unwrap();
            let length = u32::try_from(fields.len()).unwrap() + 4;
            stream.write_u32(length).await.unwrap();
            stream.write_all(fields.as_bytes()).await.unwrap();
        };
        let mut config = tokio_postgres::Config::new();
        config.host("127.0.0.1").port(port).user("boss");
        let (refused, ()) = tokio::join!(config.connect(tokio_postgres::NoTls), server);
        refused.err().unwrap()
    }

    /// What we make of it.
    async fn told(code: &str, words: &str) -> Failure {
        let error = answered(code, words).await;
        refusal(
            "server",
            &[],
            &RoleName::parse("boss").unwrap(),
            "db",
            &error,
        )
    }

    // Red when: an answer is quoted past `error::one_line`, or that leaves tokens in.
    #[tokio::test]
    async fn a_server_that_sends_the_token_back_does_not_get_it_shown() {
        let token = "eyJhbGciOiJub25lIn0.eyJvaWQiOiJ4In0.c2lnbmF0dXJl";
        let words = format!("bad password\n{token} {}", "and so on ".repeat(500));
        for code in ["42501", "28P01", "XX000", sql::WRONG_TYPE] {
            let Failure { message, .. } = told(code, &words).await;
            assert!(message.contains("bad password ... and so on"), "{message}");
            assert!(!message.contains("eyJ"), "{message}");
            assert!(message.len() < 3_000, "{message}");
        }
        let Failure { message, .. } = told(token, "x").await;
        assert!(
            message.contains("SQLSTATE ...") && !message.contains("eyJ"),
            "{message}"
        );
    }
}
