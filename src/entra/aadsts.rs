//! The table of `AADSTS` numbers: each becomes a reason, and a sentence that says what to do in Azure.
//! Must not send anything.

use super::claims::Subject;
use super::error::Asked;
use crate::model::{Class, Failure, Reason};

impl Asked {
    /// What a refusal with that number means. The quote is Entra's own sentence.
    pub(super) fn refused(&self, code: u64, quote: &str) -> Failure {
        // That sentence has the present time in it.
        let quote = if quote.is_empty() || code == 700_024 {
            format!("AADSTS{code}")
        } else {
            quote.to_owned()
        };
        let (reason, advice) = self
            .about_no_assertion(code)
            .or_else(|| self.about_proof(code))
            .or_else(|| self.about_client(code))
            .unwrap_or_else(|| (Reason::EntraRefused, self.refused_as_it_was_shown()));
        self.denied(reason, &advice, &quote)
    }

    /// A complaint about an assertion where none was shown: advice about federated credentials would
    /// only mislead.
    fn about_no_assertion(&self, code: u64) -> Option<(Reason, String)> {
        let about_assertions = matches!(
            code,
            70021
                | 70025
                | 700_211
                | 700_212
                | 700_213
                | 7_002_131
                | 7_002_137
                | 7_002_138
                | 700_024
                | 700_027
                | 50027
                | 50012
                | 50166
                | 700_023
        );
        (self.with_secret && about_assertions).then(|| {
            let advice = format!(
                "complains of an assertion although it was shown the client secret of {}: look for \
                 a proxy between, and whether the application takes client secrets",
                self.client()
            );
            (Reason::EntraRefused, advice)
        })
    }

    /// What is wrong with what was shown: federated token, certificate or secret.
    fn about_proof(&self, code: u64) -> Option<(Reason, String)> {
        use Reason::{
            ClientCertificateInvalid, ClientSecretInvalid, EntraRefused, FederatedCredentialMissing,
        };
        let client = self.client();
        Some(match code {
            70021 | 70025 | 700_211 | 700_212 | 700_213 | 7_002_131 | 7_002_137 | 7_002_138
            | 700_027 | 700_030 | 50012 | 50013 | 50017 | 50027 | 7_000_214 | 1_000_502
                if self.thumbprint.is_some() =>
            {
                (ClientCertificateInvalid, self.registration())
            }
            70021 | 70025 | 700_211 | 700_212 | 700_213 | 7_002_131 | 7_002_137 | 7_002_138 => {
                (FederatedCredentialMissing, self.federation())
            }
            50012 | 50013 if self.subject.is_some() => {
                (FederatedCredentialMissing, self.federation())
            }
            700_024 => {
                let (what, whose) = match &self.thumbprint {
                    Some(_) => ("signature of the client certificate", "the operator's node"),
                    None => (
                        "token of the service account",
                        "the cluster's control plane",
                    ),
                };
                let advice = format!(
                    "refused the {what} as too old or too young: compare the clock of {whose}"
                );
                (EntraRefused, advice)
            }
            700_027 | 50027 => (
                EntraRefused,
                format!(
                    "cannot verify the signature of the service account's token with the keys of {}: \
                     publish the cluster's present keys there",
                    self.issuer()
                ),
            ),
            50166 => (
                EntraRefused,
                format!(
                    "cannot fetch the keys of {}: publish that issuer's discovery document and keys \
                     where Entra can read them",
                    self.issuer()
                ),
            ),
            700_023 => (
                EntraRefused,
                format!(
                    "is not the authority that the assertion is for: correct the authority of \
                     cloud {} in the operator's configuration",
                    self.cloud.name
                ),
            ),
            7_000_215 => (
                ClientSecretInvalid,
                format!(
                    "refused the client secret of {client}: store the secret's value, not its id"
                ),
            ),
            7_000_222 => (
                ClientSecretInvalid,
                format!("says the client secret of {client} has ended: make a new one, store it"),
            ),
            7_000_216 | 7_000_218 | 7_000_219 => (
                EntraRefused,
                format!(
                    "saw no credential of {client} in the request: look for a proxy between that \
                     changes requests"
                ),
            ),
            _ => return None,
        })
    }

    /// What is wrong with the application, its tenant, or what it may do.
    fn about_client(&self, code: u64) -> Option<(Reason, String)> {
        use Reason::{ApplicationNotFound, EntraRefused, TenantNotFound};
        let cloud = &self.cloud.name;
        let resource = self.cloud.resource();
        let client = self.client();
        Some(match code {
            7_000_229 => (
                ApplicationNotFound,
                format!(
                    "has no service principal of application {client} in that tenant: make one \
                     (az ad sp create --id {client}), or correct the tenant id"
                ),
            ),
            50194 => (
                ApplicationNotFound,
                format!(
                    "says application {client} is of another tenant and for that one only: correct the \
                     tenant id"
                ),
            ),
            700_016 | 700_011 | 70001 => (
                ApplicationNotFound,
                format!(
                    "has no application {client} in that tenant: correct client id or tenant id, \
                     or the cloud (now {cloud})"
                ),
            ),
            90002 | 900_023 | 900_021 | 50059 | 50128 | 90019 => (
                TenantNotFound,
                format!("has no such tenant in cloud {cloud}: correct the tenant id or the cloud"),
            ),
            50049 | 90038 | 900_382 => (
                TenantNotFound,
                format!(
                    "is not the Entra of that tenant: it belongs to another cloud than {cloud}: correct \
                     the tenant id, or the cloud of the server"
                ),
            ),
            5_000_225 => (
                EntraRefused,
                "says that tenant was blocked for inactivity: an administrator of the tenant has to \
                 reactivate it"
                    .to_owned(),
            ),
            500_014 => (
                EntraRefused,
                format!(
                    "says the service principal of {resource} is disabled in that tenant: enable it \
                     (Azure Database for PostgreSQL, 123cd850-d9df-40bd-94d5-c9f07b7fa203)"
                ),
            ),
            501_051 | 50105 => (
                EntraRefused,
                format!(
                    "lets only assigned applications use {resource} in that tenant, and {client} is \
                     none: assign it, or switch assignment off at the enterprise application Azure Database \
                     for PostgreSQL"
                ),
            ),
            500_021 | 500_212 => (
                EntraRefused,
                "may not be used for that tenant from this network: allow the tenant in the proxy's \
                 tenant restrictions"
                    .to_owned(),
            ),
            500_011 | 50001 => (
                EntraRefused,
                format!(
                    "does not know the resource {resource} in that tenant: the server's cloud (now \
                     {cloud}) is wrong, or the service principal of Azure Database for PostgreSQL \
                     is missing in the tenant"
                ),
            ),
            53003 | 53000 | 53001 | 53011 | 50131 | 530_032 | 530_035 => (
                EntraRefused,
                format!("blocks {client} by Conditional Access: exclude it from that policy"),
            ),
            50076 | 50079 => (
                EntraRefused,
                format!(
                    "wants multifactor authentication of {client}, which no workload can give: \
                     exclude it from that policy"
                ),
            ),
            7_000_112 => (
                EntraRefused,
                format!("says application {client} is disabled: enable it"),
            ),
            1_002_016 | 1_002_012 => (
                EntraRefused,
                "does not take this version of TLS: look for a proxy between that speaks TLS 1.1 or \
                 older"
                    .to_owned(),
            ),
            _ => return None,
        })
    }

    pub(super) fn denied(&self, reason: Reason, advice: &str, quote: &str) -> Failure {
        let tenant = match self.tenant.as_str() {
            "" => String::new(),
            tenant => format!(", tenant {tenant}"),
        };
        let target = self.target();
        let message =
            format!("{self} got no token from {target}{tenant}: Entra {advice} ({quote})");
        Failure::new(Class::Denied, reason, message)
    }

    /// For a number that is in no table: all that Entra was shown, so that it can be compared.
    fn refused_as_it_was_shown(&self) -> String {
        let client = self.client();
        let shown = match (&self.subject, &self.thumbprint) {
            (Some(Subject { issuer, subject }), _) => {
                let audience = &self.cloud.federated_audience;
                format!(
                    ", which was shown a token with issuer {issuer}, subject {subject} and audience \
                     {audience}"
                )
            }
            (None, Some(thumbprint)) => {
                format!(", which was shown the certificate with thumbprint {thumbprint}")
            }
            (None, None) if self.with_secret => ", which was shown its client secret".to_owned(),
            (None, None) => String::new(),
        };
        let cloud = &self.cloud.name;
        format!(
            "of cloud {cloud} refused {client}{shown}: look the number up in Entra's list of error codes"
        )
    }

    fn federation(&self) -> String {
        let client = self.client();
        let audience = &self.cloud.federated_audience;
        let with = self.subject.as_ref().map_or_else(
            || format!("audience {audience}"),
            |Subject { issuer, subject }| {
                format!("issuer {issuer}, subject {subject} and audience {audience}")
            },
        );
        format!(
            "has no federated credential that fits on client {client}: add one with {with}, letter by letter, \
             to that app registration or managed identity; a new one works after some minutes"
        )
    }

    /// What to do about a certificate that Entra does not know, or does not take.
    fn registration(&self) -> String {
        let client = &self.client;
        let thumbprint = self.thumbprint.as_deref().unwrap_or_default();
        format!(
            "does not take the certificate with thumbprint {thumbprint} for application {client}: \
             register tls.crt there as a certificate (az ad app credential reset --id {client} \
             --cert @tls.crt --append), or store the key pair that is registered"
        )
    }

    /// Managed identities have no client here: what names them then.
    fn client(&self) -> &str {
        match self.client.as_str() {
            "" => &self.whom,
            client => client,
        }
    }

    fn issuer(&self) -> &str {
        let issuer = self.subject.as_ref().map(|subject| subject.issuer.as_str());
        issuer.unwrap_or("the cluster's issuer")
    }
}

#[cfg(test)]
#[path = "tests/recorded.rs"]
mod tests;
