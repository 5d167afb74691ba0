//! Bodies as Entra sends them, escapes of JSON and line breaks and all, with what is made of them.

use jiff::Timestamp;

use super::super::error::failure;
use super::super::transport::{Answer, Record};
use super::*;
use crate::entra::tests::{CLIENT, TENANT};

/// A body with the fields that every error has; the texts are already escaped.
fn body(error: &str, code: u64, text: &str) -> String {
    format!(
        r#"{{"error":"{error}","error_description":"AADSTS{code}: {text} Trace ID: 5a1c0b6e-0000-4000-8000-1d0f0c3a2b00\r\nCorrelation ID: 0c9b7d51-0000-4000-8000-7a5f3e1d9c00\r\nTimestamp: 2026-11-24 03:00:00Z","error_codes":[{code}],"timestamp":"2026-11-24 03:00:00Z","trace_id":"5a1c0b6e-0000-4000-8000-1d0f0c3a2b00","correlation_id":"0c9b7d51-0000-4000-8000-7a5f3e1d9c00","error_uri":"https://login.microsoftonline.com/error?code={code}"}}"#
    )
}

fn told(asked: &Asked, status: u16, body: String) -> Failure {
    let record = Record::Answered(Answer {
        status,
        retry_after: None,
        date: None,
        body,
    });
    failure(asked, &record, Timestamp::UNIX_EPOCH)
}

/// Who was asked for by the token of a service account.
fn federated() -> Asked {
    Asked {
        subject: Some(Subject {
            issuer: "https://oidc.example/".to_owned(),
            subject: "system:serviceaccount:orders:app".to_owned(),
        }),
        ..Asked::for_test()
    }
}

/// Who was asked for by a certificate.
fn certified() -> Asked {
    Asked {
        thumbprint: Some("84E05C1D98BCE3A5421D225B140B36E86A3D5534".to_owned()),
        ..Asked::for_test()
    }
}

// Red when: the description is looked for in the raw body, or a number falls out of the table.
#[test]
#[allow(clippy::too_many_lines, reason = "a table")]
fn each_recorded_answer_becomes_a_reason_and_says_what_to_do() {
    let (federated, certified) = (federated(), certified());
    let missing = Reason::FederatedCredentialMissing;
    let table = [
        (
            &federated,
            400,
            "invalid_request",
            70021,
            missing,
            "add one with issuer",
            r"No matching federated identity record found for presented assertion. Assertion Issuer: \u0027https://oidc.example/\u0027. Assertion Subject: \u0027system:serviceaccount:orders:app\u0027. Assertion Audience: \u0027api://AzureADTokenExchange\u0027. https://docs.microsoft.com/en-us/azure/active-directory/develop/workload-identity-federation",
        ),
        (
            &federated,
            401,
            "invalid_client",
            700_211,
            missing,
            "issuer https://oidc.example/",
            r"No matching federated identity record found for presented assertion issuer \u0027https://oidc.example\u0027. Please check your federated identity credential Subject, Audience and Issuer against the presented assertion.",
        ),
        (
            &federated,
            401,
            "invalid_client",
            700_213,
            missing,
            "subject system:serviceaccount:orders:app",
            r"No matching federated identity record found for presented assertion subject \u0027system:serviceaccount:orders:app\u0027. Check your federated identity credential Subject, Audience and Issuer against the presented assertion.",
        ),
        (
            &federated,
            401,
            "invalid_client",
            7_002_131,
            missing,
            "audience api://AzureADTokenExchange",
            r"No matching federated identity record found for presented assertion subject \u0022x\u0022 with expression \u003Cnone\u003E.",
        ),
        (
            &federated,
            401,
            "invalid_client",
            700_024,
            Reason::EntraRefused,
            "clock of the cluster's control plane",
            r"Client assertion is not within its valid time range. Current time: 2026-11-24T03:00:00.0000000Z, assertion valid from 2026-11-24T01:00:00.0000000Z, expiry time of assertion 2026-11-24T02:00:00.0000000Z.",
        ),
        (
            &certified,
            401,
            "invalid_client",
            700_024,
            Reason::EntraRefused,
            "clock of the operator's node",
            r"Client assertion is not within its valid time range.",
        ),
        (
            &federated,
            401,
            "invalid_client",
            700_027,
            Reason::EntraRefused,
            "publish the cluster's present keys",
            r"Client assertion contains an invalid signature.",
        ),
        (
            &certified,
            401,
            "invalid_client",
            700_027,
            Reason::ClientCertificateInvalid,
            "--cert @tls.crt",
            r"The certificate with identifier used to sign the client assertion is not registered on application. [Reason - The key was not found., Thumbprint of key used by client: \u002784E05C1D98BCE3A5421D225B140B36E86A3D5534\u0027]",
        ),
        (
            &certified,
            401,
            "invalid_client",
            1_000_502,
            Reason::ClientCertificateInvalid,
            "store the key pair",
            r"The provided certificate is not within its specified validity window.",
        ),
        (
            &federated,
            400,
            "unauthorized_client",
            700_016,
            Reason::ApplicationNotFound,
            "correct client id",
            r"Application with identifier \u0027c\u0027 was not found in the directory \u0027Contoso \u0026 Sons\u0027. This can happen if the application has not been installed by the administrator of the tenant or consented to by any user in the tenant.",
        ),
        (
            &federated,
            400,
            "unauthorized_client",
            700_011,
            Reason::ApplicationNotFound,
            "correct client id",
            r"Application with identifier c was not found in the directory.",
        ),
        (
            &federated,
            401,
            "invalid_client",
            7_000_215,
            Reason::ClientSecretInvalid,
            "not its id",
            r"Invalid client secret provided. Ensure the secret being sent in the request is the client secret value, not the client secret ID, for a secret added to app \u0027c\u0027.",
        ),
        (
            &federated,
            401,
            "invalid_client",
            7_000_222,
            Reason::ClientSecretInvalid,
            "make a new one",
            r"The provided client secret keys for app \u0027c\u0027 are expired. Visit the Azure portal to create new keys for your app: https://aka.ms/NewClientSecret",
        ),
        (
            &federated,
            400,
            "interaction_required",
            50076,
            Reason::EntraRefused,
            "exclude it from that policy",
            r"Due to a configuration change made by your administrator, or because you moved to a new location, you must use multi-factor authentication to access \u0027123cd850-d9df-40bd-94d5-c9f07b7fa203\u0027.",
        ),
        (
            &federated,
            400,
            "invalid_resource",
            500_011,
            Reason::EntraRefused,
            "service principal of Azure Database for PostgreSQL",
            r"The resource principal named https://ossrdbms-aad.database.windows.net was not found in the tenant named Contoso.",
        ),
        (
            &federated,
            400,
            "invalid_request",
            90002,
            Reason::TenantNotFound,
            "correct the tenant id",
            r"Tenant \u0027t\u0027 not found. Check to make sure you have the correct tenant ID and are signing into the correct cloud.",
        ),
        (
            &federated,
            400,
            "access_denied",
            53003,
            Reason::EntraRefused,
            "Conditional Access",
            r"Access has been blocked by Conditional Access policies. The access policy does not allow token issuance.",
        ),
        (
            &federated,
            400,
            "invalid_request",
            50166,
            Reason::EntraRefused,
            "keys of https://oidc.example/",
            r"Request to External OIDC endpoint failed.",
        ),
    ];
    for (asked, status, error, code, reason, advice, text) in table {
        let failure = told(asked, status, body(error, code, text));
        assert_eq!(
            (failure.reason, failure.class),
            (reason, Class::Denied),
            "{code}"
        );
        assert!(failure.message.contains(advice), "{code}: {failure}");
        assert!(
            failure.message.contains(&format!("AADSTS{code}")),
            "{code}: {failure}"
        );
        assert!(failure.message.contains(TENANT), "{code}: {failure}");
        for noise in ["Trace ID", "\\u00", "5a1c0b6e", "03:00:00"] {
            assert!(!failure.message.contains(noise), "{code}: {failure}");
        }
    }
    let named = told(&certified, 401, body("invalid_client", 700_027, "No."));
    assert!(
        named
            .message
            .contains("84E05C1D98BCE3A5421D225B140B36E86A3D5534"),
        "{named}"
    );
    assert!(named.message.contains(CLIENT), "{named}");
}

#[test]
fn what_passes_by_itself_is_told_from_what_does_not() {
    let asked = Asked::for_test();
    for code in [90006, 90012, 90024, 90033, 90090] {
        let text = r"It\u0027s a transient error. Please try again.";
        let failure = told(&asked, 400, body("temporarily_unavailable", code, text));
        let (reason, class) = (Reason::EntraUnavailable, Class::Transient);
        assert_eq!((failure.reason, failure.class), (reason, class), "{code}");
    }
    for code in [90055, 50196] {
        let text = r"The server is terminating the request because there\u0027re too many.";
        let failure = told(&asked, 400, body("temporarily_unavailable", code, text));
        let (reason, class) = (Reason::EntraThrottled, Class::Transient);
        assert_eq!((failure.reason, failure.class), (reason, class), "{code}");
        assert!(failure.retry_after.is_some(), "{code}");
    }
}

/// The rows of the guide's table: numbers and reason.
fn rows(guide: &str) -> Vec<(Vec<u64>, String)> {
    let table = guide.split("### Codes of Entra").nth(1).unwrap();
    let table = table.split("## The operator itself").next().unwrap();
    let cells = |line: &str| -> Vec<String> { line.split('|').map(str::to_owned).collect() };
    let rows = table
        .lines()
        .filter(|line| line.contains("AADSTS"))
        .map(cells);
    rows.map(|cells| {
        let words = cells[1]
            .split('`')
            .map(|word| word.trim_start_matches("AADSTS"));
        let numbers = words.filter_map(|word| word.parse().ok()).collect();
        (numbers, cells[2].trim().trim_matches('`').to_owned())
    })
    .collect()
}

// Red when: a number is in the guide and not in the table, or the other way round: then it gets the
// sentence for numbers nobody knows, or advice that nobody can look up.
#[test]
fn the_guide_and_the_table_have_the_same_numbers_and_reasons() {
    let (federated, certified) = (federated(), certified());
    let unknown = "look the number up";
    let rows = rows(include_str!("../../../docs/troubleshooting.md"));
    let mut documented = Vec::new();
    for (numbers, reason) in rows {
        for number in numbers {
            documented.push(number);
            let asked = match reason.as_str() {
                "ClientCertificateInvalid" => &certified,
                _ => &federated,
            };
            let failure = told(asked, 400, body("invalid_request", number, "Because."));
            assert_eq!(failure.reason.to_string(), reason, "{number}: {failure}");
            assert!(!failure.message.contains(unknown), "{number}: {failure}");
        }
    }
    assert!(documented.len() > 40, "{documented:?}");
    let source = include_str!("../aadsts.rs");
    let numbers = source.split(|c: char| !(c.is_ascii_digit() || c == '_'));
    for number in numbers.filter_map(|text| text.replace('_', "").parse::<u64>().ok()) {
        let is_code = (50_000..10_000_000).contains(&number);
        assert!(!is_code || documented.contains(&number), "{number}");
    }
}

// Red when: a number that is in no table says less than the operator knows.
#[test]
fn a_number_nobody_knows_comes_with_all_that_entra_was_shown() {
    let mut asked = Asked {
        subject: Some(Subject {
            issuer: "https://oidc.example/".to_owned(),
            subject: "system:serviceaccount:orders:app".to_owned(),
        }),
        ..Asked::for_test()
    };
    let text = |asked: &Asked| told(asked, 401, body("invalid_client", 999_999, "Odd.")).message;
    let message = text(&asked);
    for word in [
        "https://oidc.example/",
        "system:serviceaccount:orders:app",
        "api://AzureADTokenExchange",
        CLIENT,
        TENANT,
        "AADSTS999999: Odd.",
    ] {
        assert!(message.contains(word), "{word}: {message}");
    }
    asked.subject = None;
    asked.thumbprint = Some("84E05C1D".to_owned());
    assert!(text(&asked).contains("thumbprint 84E05C1D"));
}
