//! The HTTP clients to authorities and IMDS, and the transport that lets a credential send exactly
//! one request and records what came back. Must not judge the answer.

use std::error::Error as StdError;
use std::path::PathBuf;
use std::sync::Mutex;
use std::time::Duration;

use async_trait::async_trait;
use azure_core::error::ErrorKind;
use azure_core::http::headers::{HeaderName, RETRY_AFTER};
use azure_core::http::{AsyncRawResponse, AsyncResponseBody, HttpClient, Request, StatusCode, Url};
use futures::StreamExt as _;

use super::locked;
use super::network::Network;

const DATE: HeaderName = HeaderName::from_static("date");
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);
const TIMEOUT: Duration = Duration::from_secs(15);
/// No answer of Entra comes near; more is not read.
const LONGEST_BODY: usize = 256 * 1024;

/// Where a client sends to.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) enum Target {
    /// An authority's token endpoint over https.
    Authority {
        url: String,
        ca_file: Option<PathBuf>,
    },
    /// The node's metadata service.
    Imds { endpoint: String },
}

/// One HTTP client, made when first needed: it loads the platform's roots, or the CA file.
#[derive(Debug)]
pub(super) struct Client {
    target: Target,
    network: Network,
    built: Mutex<Option<reqwest::Client>>,
}

/// Why there was no answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Problem {
    /// The other side's certificate is not trusted, or is for another name.
    Certificate(String),
    /// A file with certificates cannot be used: what names it, and why.
    CaFile(&'static str, String),
    /// No answer in time.
    Timeout,
    /// No connection, or it broke.
    Connection(String),
    /// The HTTP library would not send it: an address that is none, or is too long.
    Unsendable(String),
    /// An answer that cannot be read.
    Garbled,
}

/// What came back.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Answer {
    pub(super) status: u16,
    /// Header `Retry-After` as it came.
    pub(super) retry_after: Option<String>,
    /// Header `Date` as it came.
    pub(super) date: Option<String>,
    /// Only of answers that are not a success: a success has the token in it.
    pub(super) body: String,
}

/// How far an exchange got.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Record {
    Unsent,
    Sent,
    Answered(Answer),
    Failed(Problem),
}

/// The transport of one exchange. The SDK repeats requests by rules of its own, for IMDS whatever
/// its options say; here one exchange is one request.
#[derive(Debug)]
pub(super) struct OneShot {
    client: reqwest::Client,
    /// Where requests to the constant address of IMDS really go.
    imds: Option<Url>,
    record: Mutex<Record>,
}

impl Client {
    pub(super) fn new(target: Target, network: Network) -> Self {
        Self {
            target,
            network,
            built: Mutex::new(None),
        }
    }

    /// The transport for one exchange.
    pub(super) fn one_shot(&self) -> Result<OneShot, Problem> {
        let imds = match &self.target {
            Target::Authority { .. } => None,
            Target::Imds { endpoint } => {
                let parsed = Url::parse(endpoint);
                Some(parsed.map_err(|error| Problem::Unsendable(error.to_string()))?)
            }
        };
        Ok(OneShot {
            client: self.client()?,
            imds,
            record: Mutex::new(Record::Unsent),
        })
    }

    /// Makes the next exchange read the certificates again: they may have been replaced.
    pub(super) fn forget(&self) {
        *locked(&self.built) = None;
    }

    fn client(&self) -> Result<reqwest::Client, Problem> {
        let mut built = locked(&self.built);
        if let Some(client) = &*built {
            return Ok(client.clone());
        }
        let client = self.build()?;
        *built = Some(client.clone());
        Ok(client)
    }

    fn build(&self) -> Result<reqwest::Client, Problem> {
        let builder = reqwest::Client::builder()
            .connect_timeout(CONNECT_TIMEOUT)
            .timeout(TIMEOUT)
            // A redirect would carry secret or assertion to another host.
            .redirect(reqwest::redirect::Policy::none());
        let builder = match &self.target {
            Target::Imds { .. } => builder.no_proxy(),
            Target::Authority { ca_file, .. } => (self.network)
                .apply(builder, ca_file.as_deref())?
                .https_only(true),
        };
        builder
            .build()
            .map_err(|error| Problem::Unsendable(root_cause(&error)))
    }
}

impl OneShot {
    /// What happened.
    pub(super) fn record(&self) -> Record {
        locked(&self.record).clone()
    }

    fn start(&self) -> bool {
        let mut record = locked(&self.record);
        let first = *record == Record::Unsent;
        if first {
            *record = Record::Sent;
        }
        first
    }

    async fn send(&self, request: &Request) -> Result<(Answer, AsyncRawResponse), Problem> {
        let mut request = request.clone();
        if let Some(imds) = &self.imds {
            redirect(request.url_mut(), imds)?;
        }
        let response = self.client.execute_request(&request).await;
        let (status, headers, body) = response.map_err(|error| problem(&error))?.deconstruct();
        let body = read(body).await?;
        let text = if status.is_success() {
            String::new()
        } else {
            String::from_utf8_lossy(&body).into_owned()
        };
        let answer = Answer {
            status: u16::from(status),
            retry_after: headers.get_optional_string(&RETRY_AFTER),
            date: headers.get_optional_string(&DATE),
            body: text,
        };
        let response = AsyncRawResponse::from_bytes(status, headers, body);
        Ok((answer, response))
    }
}

#[async_trait]
impl HttpClient for OneShot {
    async fn execute_request(&self, request: &Request) -> azure_core::Result<AsyncRawResponse> {
        if !self.start() {
            return Err(stop());
        }
        let (record, response) = match self.send(request).await {
            Ok((answer, response)) => {
                let good = response.status().is_success();
                (Record::Answered(answer), good.then_some(response))
            }
            Err(problem) => (Record::Failed(problem), None),
        };
        *locked(&self.record) = record;
        response.ok_or_else(stop)
    }
}

/// An error that the SDK neither repeats nor waits after.
fn stop() -> azure_core::Error {
    azure_core::Error::with_message(ErrorKind::Other, "the exchange has ended")
}

fn redirect(url: &mut Url, endpoint: &Url) -> Result<(), Problem> {
    let moved = url.set_scheme(endpoint.scheme()).is_ok()
        && url.set_host(endpoint.host_str()).is_ok()
        && url.set_port(endpoint.port()).is_ok();
    let text = || format!("{endpoint} cannot be used as the address of IMDS");
    moved
        .then_some(())
        .ok_or_else(|| Problem::Unsendable(text()))
}

async fn read(mut body: AsyncResponseBody) -> Result<Vec<u8>, Problem> {
    let mut bytes = Vec::new();
    while let Some(chunk) = body.next().await {
        let chunk = chunk.map_err(|error| problem(&error))?;
        if bytes.len() + chunk.len() > LONGEST_BODY {
            return Err(Problem::Garbled);
        }
        bytes.extend_from_slice(&chunk);
    }
    Ok(bytes)
}

fn problem(error: &azure_core::Error) -> Problem {
    let mut next: Option<&(dyn StdError + 'static)> = Some(error);
    let (mut timeout, mut unsendable) = (false, false);
    while let Some(error) = next {
        if let Some(tls) = tls_error(error) {
            return match tls {
                rustls::Error::InvalidCertificate(_) => Problem::Certificate(tls.to_string()),
                other => Problem::Connection(other.to_string()),
            };
        }
        let http = error.downcast_ref::<reqwest::Error>();
        timeout |= http.is_some_and(reqwest::Error::is_timeout);
        unsendable |= http.is_some_and(reqwest::Error::is_builder);
        next = error.source();
    }
    if unsendable {
        Problem::Unsendable(root_cause(error))
    } else if timeout {
        Problem::Timeout
    } else {
        Problem::Connection(root_cause(error))
    }
}

/// rustls reports through I/O errors, whose `source()` skips the error inside.
fn tls_error<'a>(error: &'a (dyn StdError + 'static)) -> Option<&'a rustls::Error> {
    let inside = error.downcast_ref::<std::io::Error>();
    match inside.and_then(std::io::Error::get_ref) {
        Some(inside) => tls_error(inside),
        None => error.downcast_ref(),
    }
}

pub(super) fn root_cause(error: &dyn StdError) -> String {
    let mut text = error.to_string();
    let mut next = error.source();
    while let Some(error) = next {
        text = error.to_string();
        next = error.source();
    }
    text
}

/// Whether the status is one that means nothing is wrong with the request itself.
pub(super) fn is_success(status: u16) -> bool {
    StatusCode::from(status).is_success()
}

#[cfg(test)]
mod tests {
    use azure_core::http::Method;

    use super::*;

    #[tokio::test]
    async fn the_sdk_has_no_reason_to_try_again_or_to_wait() {
        let _already = rustls::crypto::ring::default_provider().install_default();
        let closed = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let endpoint = format!("http://{}", closed.local_addr().unwrap());
        drop(closed);
        let transport = Client::new(Target::Imds { endpoint }, Network::default())
            .one_shot()
            .unwrap();
        let url = Url::parse("http://169.254.169.254/metadata").unwrap();
        let request = Request::new(url, Method::Get);
        for _ in 0..2 {
            let error = transport.execute_request(&request).await.unwrap_err();
            assert!(matches!(error.kind(), ErrorKind::Other), "{error:?}");
            let record = transport.record();
            let refused = |text: &String| text.contains("refused");
            assert!(
                matches!(&record, Record::Failed(Problem::Connection(text)) if refused(text)),
                "{record:?}"
            );
        }
    }
}
