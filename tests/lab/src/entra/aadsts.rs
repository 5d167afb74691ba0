//! Errors of Entra in Azure's own words and JSON.

use jiff::Timestamp;
use serde_json::json;
use uuid::Uuid;

use crate::http::Answer;

/// A refusal: number, HTTP status, OAuth error and sentence.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Aadsts {
    pub code: u32,
    pub status: u16,
    pub error: &'static str,
    pub text: String,
}

const FEDERATION_HELP: &str = "Please note that the matching is done using a case-sensitive comparison. \
    Check your federated identity credential Subject, Audience and Issuer against the presented assertion. \
    https://learn.microsoft.com/entra/workload-id/workload-identity-federation";

impl Aadsts {
    pub(crate) fn tenant_not_found(tenant: &str) -> Self {
        Self::bad(
            90002,
            "invalid_request",
            format!(
                "Tenant '{tenant}' not found. Check to make sure you have the correct tenant ID and are signing into the \
             correct cloud. Check with your subscription administrator, this may happen if there are no active \
             subscriptions for the tenant."
            ),
        )
    }

    pub(crate) fn app_not_found(client_id: &str, tenant: Uuid) -> Self {
        Self::bad(
            700_016,
            "unauthorized_client",
            format!(
                "Application with identifier '{client_id}' was not found in the directory '{tenant}'. This can happen if the \
             application has not been installed by the administrator of the tenant or consented to by any user in the \
             tenant. You may have sent your authentication request to the wrong tenant."
            ),
        )
    }

    pub(crate) fn parameter_missing(name: &str) -> Self {
        let text = format!("The request body must contain the following parameter: '{name}'.");
        Self::bad(900_144, "invalid_request", text)
    }

    pub(crate) fn grant_type_unsupported(grant_type: &str) -> Self {
        let text = format!("The app requested an unsupported grant type '{grant_type}'.");
        Self::bad(70003, "unsupported_grant_type", text)
    }

    pub(crate) fn scope_without_default(scope: &str) -> Self {
        Self::bad(
            1_002_012,
            "invalid_scope",
            format!(
                "The provided value for scope {scope} is not valid. Client credential flows must have a scope value with \
             /.default suffixed to the resource identifier (application ID URI)."
            ),
        )
    }

    pub(crate) fn resource_not_found(resource: &str, tenant: Uuid) -> Self {
        Self::bad(
            500_011,
            "invalid_resource",
            format!(
                "The resource principal named {resource} was not found in the tenant named {tenant}. This can happen if the \
             application has not been installed by the administrator of the tenant or consented to by any user in the \
             tenant. You might have sent your authentication request to the wrong tenant."
            ),
        )
    }

    pub(crate) fn no_credential() -> Self {
        Self::client(7_000_216,
            "'client_assertion', 'client_secret' or 'request' is required for the 'client_credentials' grant type.".into())
    }

    pub(crate) fn wrong_secret(client_id: Uuid) -> Self {
        Self::client(
            7_000_215,
            format!(
                "Invalid client secret provided. Ensure the secret being sent in the request is the client secret value, \
             not the client secret ID, for a secret added to app '{client_id}'."
            ),
        )
    }

    pub(crate) fn malformed_assertion() -> Self {
        Self::bad(
            50027,
            "invalid_request",
            "JWT token is invalid or malformed.".into(),
        )
    }

    /// No federated credential at all.
    pub(crate) fn no_federation(client_id: Uuid, name: &str) -> Self {
        Self::client(
            70025,
            format!(
                "The client '{client_id}'({name}) has no configured federated identity credentials."
            ),
        )
    }

    pub(crate) fn issuer_mismatch(issuer: &str) -> Self {
        Self::federation(700_211, "issuer", issuer)
    }

    pub(crate) fn audience_mismatch(audience: &str) -> Self {
        Self::federation(700_212, "audience", audience)
    }

    pub(crate) fn subject_mismatch(subject: &str) -> Self {
        Self::federation(700_213, "subject", subject)
    }

    pub(crate) fn issuer_unreachable() -> Self {
        Self::bad(
            50166,
            "invalid_request",
            "Request to External OIDC endpoint failed.".into(),
        )
    }

    pub(crate) fn assertion_audience() -> Self {
        Self::client(700_023, "Client assertion audience claim does not match Realm issuer. Review the documentation at \
            https://learn.microsoft.com/entra/identity-platform/certificate-credentials .".into())
    }

    pub(crate) fn assertion_out_of_time(now: i64, from: Option<i64>, until: Option<i64>) -> Self {
        let time = |seconds: Option<i64>| {
            seconds
                .and_then(|s| Timestamp::from_second(s).ok())
                .map_or_else(|| "?".into(), |at| at.to_string())
        };
        Self::client(
            700_024,
            format!(
                "Client assertion is not within its valid time range. Current time: {}, assertion valid from {}, expiry time \
             of assertion {}. Review the documentation at \
             https://learn.microsoft.com/entra/identity-platform/certificate-credentials .",
                time(Some(now)),
                time(from),
                time(until)
            ),
        )
    }

    pub(crate) fn assertion_signature() -> Self {
        Self::client(
            700_027,
            "Client assertion failed signature validation.".into(),
        )
    }

    pub(crate) fn certificate_unknown(thumbprint: &str) -> Self {
        Self::client(
            700_027,
            format!(
                "The certificate with identifier used to sign the client assertion is not registered on application. \
             [Reason - The key was not found., Thumbprint of key used by client: '{thumbprint}']"
            ),
        )
    }

    pub(crate) fn certificate_expired() -> Self {
        Self::client(
            700_027,
            "The certificate with identifier used to sign the client assertion is expired on application. \
             [Reason - The key used is expired.]"
                .into(),
        )
    }

    /// What a fault ordered; without a number, Azure's word for a passing trouble.
    pub(crate) fn ordered(code: Option<u32>, status: u16) -> Self {
        let code = code.unwrap_or(match status {
            429 => 90055,
            500.. => 90033,
            _ => 90023,
        });
        let error = match (status, code) {
            (429 | 500.., _) => "temporarily_unavailable",
            (401, _) => "invalid_client",
            _ => "invalid_request",
        };
        let text = match code {
            90055 => {
                "The server is terminating the request because there are too many requests for this tenant."
            }
            90023 => "The authentication service request isn't valid.",
            90033 => "A transient error has occurred. Please try again.",
            53003 => {
                "Access has been blocked by Conditional Access policies. The access policy does not allow token issuance."
            }
            _ => "The lab's \"faults\" ordered this; it's no real error.",
        };
        Self {
            code,
            status,
            error,
            text: text.into(),
        }
    }

    fn bad(code: u32, error: &'static str, text: String) -> Self {
        Self {
            code,
            status: 400,
            error,
            text,
        }
    }

    fn client(code: u32, text: String) -> Self {
        Self {
            code,
            status: 401,
            error: "invalid_client",
            text,
        }
    }

    fn federation(code: u32, what: &str, value: &str) -> Self {
        Self::client(
            code,
            format!(
                "No matching federated identity record found for presented assertion {what} '{value}'. {FEDERATION_HELP}"
            ),
        )
    }

    /// The error's sentence with number and trace, as `error_description` has it.
    fn description(&self, trace: Uuid, correlation: Uuid, at: &str) -> String {
        let Self { code, text, .. } = self;
        format!(
            "AADSTS{code}: {text}\r\nTrace ID: {trace}\r\nCorrelation ID: {correlation}\r\nTimestamp: {at}"
        )
    }

    pub(crate) fn answer(&self) -> Answer {
        let (trace, correlation) = (Uuid::new_v4(), Uuid::new_v4());
        let at = Timestamp::now().strftime("%Y-%m-%d %H:%M:%SZ").to_string();
        let body = escaped_json(&json!({
            "error": self.error,
            "error_description": self.description(trace, correlation, &at),
            "error_codes": [self.code],
            "timestamp": at,
            "trace_id": trace,
            "correlation_id": correlation,
            "error_uri": format!("https://login.microsoftonline.com/error?code={}", self.code),
        }));
        Answer {
            status: self.status,
            body,
        }
    }
}

/// JSON as .NET writes it: with escapes that a parser into borrowed text cannot take.
pub(crate) fn escaped_json(value: &serde_json::Value) -> String {
    let escapes = [
        ('\'', "\\u0027"),
        ('<', "\\u003C"),
        ('>', "\\u003E"),
        ('&', "\\u0026"),
        ('+', "\\u002B"),
    ];
    escapes
        .iter()
        .fold(value.to_string(), |text, (plain, escape)| {
            text.replace(*plain, escape)
        })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_body_has_azures_escapes_and_parses_back() {
        let body = Aadsts::issuer_mismatch("https://it's/\"quoted\"")
            .answer()
            .body;
        assert!(
            body.contains("\\u0027https://it\\u0027s/\\\"quoted\\\"\\u0027"),
            "{body}"
        );
        assert!(body.contains("\\r\\nTrace ID: "), "{body}");
        let value: serde_json::Value = serde_json::from_str(&body).unwrap();
        assert_eq!(value["error_codes"], json!([700_211]));
        assert!(
            value["error_description"]
                .as_str()
                .unwrap()
                .starts_with("AADSTS700211: ")
        );
    }
}
