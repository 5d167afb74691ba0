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
            .unwrap_or_else(|| (Reason::EntraRefused, "refused the identity".to_owned()));
        self.denied(reason, &advice, &quote)
    }

    /// A complaint about an assertion where none was shown: advice about federated credentials would
    /// only mislead.
    fn about_no_assertion(&self, code: u64) -> Option<(Reason, String)> {
        let about_assertions = matches!(
            code,
            70021
                | 700_211
                | 700_212
                | 700_213
                | 7_002_131
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
            70021 | 700_211 | 700_212 | 700_213 | 7_002_131 | 700_027 | 50027 | 50012
            | 7_000_214 | 1_000_502
                if self.thumbprint.is_some() =>
            {
                (ClientCertificateInvalid, self.registration())
            }
            70021 | 700_211 | 700_212 | 700_213 | 7_002_131 => {
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
            700_016 | 700_011 => (
                ApplicationNotFound,
                format!(
                    "has no application {client} in that tenant: correct client id or tenant id, \
                     or the cloud (now {cloud})"
                ),
            ),
            90002 | 900_023 | 900_021 => (
                TenantNotFound,
                format!("has no such tenant in cloud {cloud}: correct the tenant id or the cloud"),
            ),
            500_011 | 50001 => (
                EntraRefused,
                format!(
                    "does not know the resource {resource} in that tenant: the server's cloud (now \
                     {cloud}) is wrong, or the service principal of Azure Database for PostgreSQL \
                     is missing in the tenant"
                ),
            ),
            53003 => (
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
            "has no federated credential that fits on client {client}: add one with {with} to that \
             app registration or managed identity; a new one works after some minutes"
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
