//! How authorities are reached: through which proxy, and which certificates are trusted beside the
//! platform's. IMDS is on the node and never asked through a proxy. Must not send anything.

use std::error::Error as StdError;
use std::fmt;
use std::fs;
use std::path::{Path, PathBuf};

use azure_core::http::Url;
use reqwest::{Certificate, ClientBuilder, NoProxy, Proxy};

use super::transport::{Problem, root_cause};

/// A proxy, and the variable that names it. A password in it is never printed.
#[derive(Clone, PartialEq, Eq)]
pub struct ProxyVariable {
    /// As it was found in the environment: `HTTPS_PROXY` or `ALL_PROXY`, or in lower case.
    pub name: String,
    /// An http or https URL.
    pub url: String,
}

impl fmt::Debug for ProxyVariable {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}=(hidden)", self.name)
    }
}

/// The way to the authorities, the same for all clouds.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Network {
    /// The proxy, if there is one.
    pub proxy: Option<ProxyVariable>,
    /// `NO_PROXY`: hosts, domains and address ranges that are reached directly.
    pub no_proxy: Option<String>,
    /// PEM file with certificates that are trusted, too.
    pub ca_bundle: Option<PathBuf>,
}

impl Network {
    /// What is wrong with it, if anything is; to be told at the start.
    ///
    /// # Errors
    /// Says which variable, and what to do; never a password.
    pub fn check(&self) -> Result<(), String> {
        self.proxy().map(|_| ())?;
        match &self.ca_bundle {
            Some(path) => read(path).map(|_| ()).map_err(|problem| {
                format!("--ca-bundle {problem}: name a PEM file with certificates")
            }),
            None => Ok(()),
        }
    }

    /// What is wrong with a cloud's file of certificates, if anything is; to be told at the start.
    ///
    /// # Errors
    /// Names the file.
    pub fn check_ca_file(path: &Path) -> Result<(), String> {
        read(path).map(|_| ())
    }

    /// A client for an authority. With certificates of its own only those and the bundle are
    /// trusted; without, the platform's and the bundle.
    pub(super) fn apply(
        &self,
        builder: ClientBuilder,
        ca_file: Option<&Path>,
    ) -> Result<ClientBuilder, Problem> {
        let mut certificates = match &self.ca_bundle {
            Some(path) => read(path).map_err(|text| Problem::CaFile("--ca-bundle", text))?,
            None => Vec::new(),
        };
        // Whatever the environment says otherwise was read once, and is here.
        let builder = builder.no_proxy();
        let builder = match self.proxy().map_err(Problem::Connection)? {
            Some(proxy) => builder.proxy(proxy),
            None => builder,
        };
        Ok(match ca_file {
            Some(path) => {
                certificates.extend(read(path).map_err(|text| Problem::CaFile("caFile", text))?);
                builder.tls_certs_only(certificates)
            }
            None if certificates.is_empty() => builder,
            None => builder.tls_certs_merge(certificates),
        })
    }

    fn proxy(&self) -> Result<Option<Proxy>, String> {
        let Some(ProxyVariable { name, url: text }) = &self.proxy else {
            return Ok(None);
        };
        let wrong =
            || format!("{name} must be an http or https URL, as in http://proxy.example.com:3128");
        // As everywhere, a proxy may be written without its scheme.
        let text = if text.contains("://") {
            text.clone()
        } else {
            format!("http://{text}")
        };
        let url = Url::parse(&text).map_err(|_| wrong())?;
        if !matches!(url.scheme(), "http" | "https") || !url.has_host() {
            return Err(wrong());
        }
        let proxy = Proxy::all(url).map_err(|_| wrong())?;
        let direct = self.no_proxy.as_deref().and_then(NoProxy::from_string);
        Ok(Some(proxy.no_proxy(direct)))
    }
}

fn read(path: &Path) -> Result<Vec<Certificate>, String> {
    let problem = |error: &dyn StdError| format!("{}: {}", path.display(), root_cause(error));
    let pem = fs::read(path).map_err(|error| problem(&error))?;
    let certificates = Certificate::from_pem_bundle(&pem).map_err(|error| problem(&error))?;
    if certificates.is_empty() {
        return Err(format!("{}: there is no certificate in it", path.display()));
    }
    Ok(certificates)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn with_proxy(text: &str) -> Network {
        Network {
            proxy: Some(ProxyVariable {
                name: "ALL_PROXY".to_owned(),
                url: text.to_owned(),
            }),
            ..Network::default()
        }
    }

    #[test]
    fn a_proxy_is_an_http_url_and_its_password_is_not_printed() {
        for good in [
            "proxy:3128",
            "http://proxy:3128",
            "https://u:hunter2@proxy.example.com",
        ] {
            let network = with_proxy(good);
            assert_eq!(network.check(), Ok(()), "{good}");
            assert!(!format!("{network:?}").contains("hunter2"));
        }
        for bad in ["socks5://u:hunter2@proxy", "", "http://"] {
            let problem = with_proxy(bad).check().expect_err(bad);
            assert!(problem.starts_with("ALL_PROXY"), "{bad}: {problem}");
            assert!(!problem.contains("hunter2"), "{problem}");
        }
    }

    #[test]
    fn a_bundle_must_have_a_certificate() {
        let file = tempfile::NamedTempFile::new().expect("a file");
        for (path, word) in [
            (file.path(), "no certificate"),
            (Path::new("/nonexistent/ca.pem"), "/nonexistent/ca.pem"),
        ] {
            let network = Network {
                ca_bundle: Some(path.to_owned()),
                ..Network::default()
            };
            let problem = network.check().expect_err("unusable");
            assert!(
                problem.contains("--ca-bundle") && problem.contains(word),
                "{problem}"
            );
        }
    }
}
