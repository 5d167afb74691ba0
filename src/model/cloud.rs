//! An Azure cloud: where its tokens come from, and which hosts may get them.

use std::path::PathBuf;

use serde::{Deserialize, Serialize};

/// An Azure cloud. Built in are the ones of [`Cloud::built_in`]; further ones come from the
/// operator's configuration, never from an object: whoever could name an authority, audience or
/// server suffix in an object would harvest the administrator's token (design, rule 2.1.1).
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Cloud {
    /// The name that `spec.cloud` uses.
    pub name: String,
    /// Base URL of the token endpoint, https, without a tenant.
    pub authority: String,
    /// The scope asked for: the resource and `/.default`.
    pub scope: String,
    /// Audience of the Kubernetes tokens that are exchanged.
    pub federated_audience: String,
    /// Servers of this cloud equal one of these names or lie below it; without a leading dot.
    pub server_suffixes: Vec<String>,
    /// PEM file with the certificates the authority chains to. Default: the web's roots.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ca_file: Option<PathBuf>,
    /// Where IMDS is. Default: `http://169.254.169.254`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub imds_endpoint: Option<String>,
}

impl Cloud {
    /// The clouds that every operator knows. Source of authorities, resources and suffixes: Azure
    /// CLI, `azure-cli-core/azure/cli/core/cloud.py`.
    pub fn built_in() -> Vec<Self> {
        let cloud =
            |name: &str, authority: &str, resource: &str, audience: &str, suffix: &str| Self {
                name: name.to_owned(),
                authority: authority.to_owned(),
                scope: format!("{resource}/.default"),
                federated_audience: audience.to_owned(),
                server_suffixes: vec![suffix.to_owned()],
                ca_file: None,
                imds_endpoint: None,
            };
        vec![
            cloud(
                "Public",
                "https://login.microsoftonline.com",
                "https://ossrdbms-aad.database.windows.net",
                "api://AzureADTokenExchange",
                "postgres.database.azure.com",
            ),
            cloud(
                "USGovernment",
                "https://login.microsoftonline.us",
                "https://ossrdbms-aad.database.usgovcloudapi.net",
                "api://AzureADTokenExchangeUSGov",
                "postgres.database.usgovcloudapi.net",
            ),
            cloud(
                "China",
                "https://login.chinacloudapi.cn",
                "https://ossrdbms-aad.database.chinacloudapi.cn",
                "api://AzureADTokenExchangeChina",
                "postgres.database.chinacloudapi.cn",
            ),
        ]
    }

    /// The audience that tokens for `PostgreSQL` have in this cloud: the scope without `/.default`.
    pub fn resource(&self) -> &str {
        self.scope.strip_suffix("/.default").unwrap_or(&self.scope)
    }

    /// Whether a server of that host name may get tokens of this cloud.
    pub fn has_host(&self, host: &str) -> bool {
        self.server_suffixes.iter().any(|suffix| {
            host == suffix
                || host
                    .strip_suffix(suffix.as_str())
                    .is_some_and(|rest| rest.ends_with('.'))
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_hosts_below_a_suffix_belong_to_the_cloud() {
        let clouds = Cloud::built_in();
        let public = clouds.first().expect("Public");
        assert!(public.has_host("orders.postgres.database.azure.com"));
        assert!(!public.has_host("postgres.database.azure.com.evil.example"));
        assert!(!public.has_host("evilpostgres.database.azure.com"));
        assert!(!public.has_host("orders.postgres.database.usgovcloudapi.net"));
        assert_eq!(
            public.resource(),
            "https://ossrdbms-aad.database.windows.net"
        );
    }
}
