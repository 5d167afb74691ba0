//! The table of answers.

use super::*;
use crate::entra::tests::{CLIENT, TENANT};

fn now() -> Timestamp {
    "2026-11-24T03:00:00Z".parse().expect("a time")
}

fn asked() -> Asked {
    Asked {
        subject: Some(Subject {
            issuer: "https://oidc.example/".to_owned(),
            subject: "system:serviceaccount:orders:app".to_owned(),
        }),
        ..Asked::for_test()
    }
}

fn at_imds() -> Asked {
    Asked {
        whom: "the managed identity with client id m".to_owned(),
        client: String::new(),
        tenant: String::new(),
        managed: true,
        ..Asked::for_test()
    }
}

fn answer(status: u16, body: &str) -> Record {
    Record::Answered(Answer {
        status,
        retry_after: None,
        date: None,
        body: body.to_owned(),
    })
}

fn entra(code: u64) -> Record {
    let body = format!(
        r#"{{"error":"invalid_client","error_description":"AADSTS{code}: Because.","error_codes":[{code}]}}"#
    );
    answer(401, &body)
}

#[test]
fn every_number_has_its_reason_and_class() {
    use Reason::*;
    for (code, reason, class, word) in [
        (
            70021,
            FederatedCredentialMissing,
            Class::Denied,
            "https://oidc.example/",
        ),
        (
            700_211,
            FederatedCredentialMissing,
            Class::Denied,
            "https://oidc.example/",
        ),
        (
            700_213,
            FederatedCredentialMissing,
            Class::Denied,
            "serviceaccount:orders:app",
        ),
        (7_002_131, FederatedCredentialMissing, Class::Denied, CLIENT),
        (700_024, EntraRefused, Class::Denied, "clock"),
        (50166, EntraRefused, Class::Denied, "https://oidc.example/"),
        (700_023, EntraRefused, Class::Denied, "authority of cloud"),
        (90023, EntraRefused, Class::Denied, "AADSTS90023"),
        (
            700_027,
            EntraRefused,
            Class::Denied,
            "https://oidc.example/",
        ),
        (700_016, ApplicationNotFound, Class::Denied, CLIENT),
        (700_011, ApplicationNotFound, Class::Denied, TENANT),
        (7_000_215, ClientSecretInvalid, Class::Denied, "value"),
        (7_000_222, ClientSecretInvalid, Class::Denied, "ended"),
        (90002, TenantNotFound, Class::Denied, TENANT),
        (500_011, EntraRefused, Class::Denied, "ossrdbms-aad"),
        (50001, EntraRefused, Class::Denied, "ossrdbms-aad"),
        (53003, EntraRefused, Class::Denied, "Conditional Access"),
        (50076, EntraRefused, Class::Denied, "multifactor"),
        (999_999, EntraRefused, Class::Denied, "AADSTS999999"),
        (90006, EntraUnavailable, Class::Transient, "passes"),
        (90012, EntraUnavailable, Class::Transient, "passes"),
        (90024, EntraUnavailable, Class::Transient, "passes"),
        (90033, EntraUnavailable, Class::Transient, "passes"),
        (90090, EntraUnavailable, Class::Transient, "passes"),
        (90055, EntraThrottled, Class::Transient, "slow down"),
        (50196, EntraThrottled, Class::Transient, "slow down"),
    ] {
        let record = entra(code);
        let failure = failure(&asked(), &record, now());
        assert_eq!((failure.reason, failure.class), (reason, class), "{code}");
        assert!(failure.message.contains(word), "{code}: {failure}");
        let answered = signal(&record, &failure, false) == Signal::Answered;
        assert_eq!(answered, class != Class::Transient, "{code}");
    }
}

// Red when: what only concerns the one who asked counts as a failure of the authority (findings A1).
#[test]
fn an_authority_is_blamed_only_for_what_it_does_itself() {
    let failed = |problem| Record::Failed(problem);
    let late = failed(Problem::Timeout);
    let cut = failed(Problem::Connection("reset".to_owned()));
    let untrusted = failed(Problem::Certificate("unknown".to_owned()));
    let seconds = |seconds| Some(Duration::from_secs(seconds));
    let busy = r#"{"error":"temporarily_unavailable"}"#;
    let refused = r#"{"error":"invalid_scope"}"#;
    for (record, entra, imds) in [
        (late, Signal::AuthorityFailed(None), None),
        (cut, Signal::AuthorityFailed(None), None),
        (untrusted, Signal::AuthorityFailed(None), None),
        (answer(500, ""), Signal::AuthorityFailed(None), None),
        (answer(503, "<html>"), Signal::AuthorityFailed(None), None),
        (answer(408, ""), Signal::AuthorityFailed(None), None),
        (answer(400, busy), Signal::AuthorityFailed(None), None),
        (answer(400, ""), Signal::ClientFailed, None),
        (answer(403, "<html>"), Signal::ClientFailed, None),
        (answer(407, ""), Signal::ClientFailed, None),
        (answer(413, ""), Signal::ClientFailed, None),
        (answer(414, "too long"), Signal::ClientFailed, None),
        (answer(431, ""), Signal::ClientFailed, None),
        (
            answer(404, "<html>"),
            Signal::ClientFailed,
            Some(Signal::AuthorityFailed(None)),
        ),
        (
            answer(410, ""),
            Signal::ClientFailed,
            Some(Signal::AuthorityFailed(seconds(70))),
        ),
        (answer(302, ""), Signal::ClientFailed, None),
        (answer(200, ""), Signal::ClientFailed, None),
        (failed(Problem::Garbled), Signal::ClientFailed, None),
        (
            answer(429, ""),
            Signal::Throttled(DEFAULT_THROTTLE),
            Some(Signal::AuthorityFailed(Some(IMDS_THROTTLE))),
        ),
        (answer(400, refused), Signal::Answered, None),
        (Record::Unsent, Signal::NotSent, None),
        (
            failed(Problem::Unsendable("too long".to_owned())),
            Signal::NotSent,
            None,
        ),
        (
            failed(Problem::CaFile("caFile", "gone".to_owned())),
            Signal::NotSent,
            None,
        ),
    ] {
        let of = |asked: &Asked| {
            let failure = failure(asked, &record, now());
            signal(&record, &failure, asked.managed)
        };
        assert_eq!(of(&asked()), entra, "{record:?}");
        assert_eq!(of(&at_imds()), imds.unwrap_or(entra), "{record:?}");
    }
}

#[test]
fn a_number_is_found_in_a_body_that_is_no_json() {
    let body = "Bad: AADSTS700016: Application with identifier 'c' was not found";
    let failure = failure(&asked(), &answer(400, body), now());
    assert_eq!(failure.reason, Reason::ApplicationNotFound);
    assert!(!failure.message.contains("Bad"), "{failure}");
}

#[test]
fn errors_without_a_number_are_told_apart() {
    let of = |status, body: &str| failure(&asked(), &answer(status, body), now());
    let body = r#"{"error":"temporarily_unavailable"}"#;
    assert_eq!(of(400, body).class, Class::Transient);
    let refused = of(
        400,
        r#"{"error":"invalid_scope","error_description":"No."}"#,
    );
    assert_eq!(
        (refused.class, refused.reason),
        (Class::Denied, Reason::EntraRefused)
    );
    assert!(refused.message.contains("invalid_scope: No."), "{refused}");
    assert_eq!(of(407, "").reason, Reason::EntraUnavailable);
    assert_eq!(of(404, "<html>").class, Class::Transient);
}

#[test]
fn imds_has_rules_of_its_own() {
    let of = |record: Record| failure(&at_imds(), &record, now());
    assert_eq!(of(answer(410, "")).retry_after, Some(IMDS_UPGRADE));
    let passing = r#"{"error":"temporarily_unavailable"}"#;
    assert_eq!(of(answer(410, passing)).retry_after, Some(IMDS_UPGRADE));
    assert_eq!(of(answer(429, "")).retry_after, Some(IMDS_THROTTLE));
    assert_eq!(of(entra(500_011)).reason, Reason::EntraRefused);
    let unreachable = of(Record::Failed(Problem::Timeout));
    assert!(
        unreachable.message.contains("169.254.169.254"),
        "{unreachable}"
    );
    assert!(unreachable.message.contains("Azure node"), "{unreachable}");
}

// Red when: every 400 counts as an identity that is not assigned.
#[test]
fn imds_says_what_it_does_not_like_and_only_an_unknown_identity_is_to_be_assigned() {
    let of = |asked: &Asked, status, error: &str, text: &str| {
        let body = format!(r#"{{"error":"{error}","error_description":"{text}"}}"#);
        failure(asked, &answer(status, &body), now())
    };
    let at = at_imds();
    let unknown = of(&at, 400, "invalid_request", "Identity not found");
    assert_eq!(unknown.reason, Reason::IdentityNotAssigned);
    let several = "Multiple user assigned identities exist, please specify the clientId";
    let node = Asked {
        system_assigned: true,
        ..at_imds()
    };
    let which = of(&node, 400, "invalid_request", several);
    assert_eq!(which.reason, Reason::IdentityNotAssigned);
    for (status, error, text) in [
        (400, "unknown_source", "Unknown Source system:unknown"),
        (
            400,
            "bad_request_102",
            "Required metadata header not specified",
        ),
        (401, "unauthorized", "Not for you"),
        (403, "forbidden", ""),
    ] {
        let other = of(&at, status, error, text);
        assert_eq!(
            (other.reason, other.class),
            (Reason::EntraRefused, Class::Denied)
        );
        for word in [error, text, &format!("status {status}")] {
            assert!(other.message.contains(word), "{word}: {other}");
        }
        assert!(!other.message.contains("scale set"), "{other}");
        assert!(!other.message.contains(": )"), "{other}");
    }
}

// Red when: an answer without IMDS's own error is taken for a refusal of IMDS.
#[test]
fn an_answer_that_is_not_of_imds_leads_to_what_stands_between() {
    for (status, body) in [
        (302, ""),
        (400, ""),
        (401, "no"),
        (403, ""),
        (405, "<html>"),
    ] {
        let failure = failure(&at_imds(), &answer(status, body), now());
        let is = (failure.reason, failure.class);
        assert_eq!(is, (Reason::EntraUnavailable, Class::Transient), "{status}");
        for word in [
            "IMDS at",
            &format!("status {status}"),
            "network policy between",
        ] {
            assert!(failure.message.contains(word), "{word}: {failure}");
        }
    }
}

// Red when: the number in a body is looked at before the status of IMDS, or names the empty client.
#[test]
fn at_imds_a_status_that_passes_goes_before_the_number() {
    let of = |status| {
        let body = r#"{"error":"x","error_description":"AADSTS700016: Application not found"}"#;
        failure(&at_imds(), &answer(status, body), now())
    };
    assert_eq!(of(404).reason, Reason::EntraUnavailable);
    let refused = of(400);
    assert_eq!(refused.reason, Reason::ApplicationNotFound);
    assert!(
        refused.message.contains("application the managed identity"),
        "{refused}"
    );
}

// Red when: `about_no_assertion` is not asked.
#[test]
fn a_client_secret_is_not_told_about_federated_credentials() {
    let with_secret = Asked {
        with_secret: true,
        ..Asked::for_test()
    };
    for code in [70021, 700_211, 700_213, 700_024, 700_027, 50166, 700_023] {
        let failure = failure(&with_secret, &entra(code), now());
        assert_eq!(failure.reason, Reason::EntraRefused, "{code}");
        assert!(
            failure.message.contains("client secret of"),
            "{code}: {failure}"
        );
        for word in ["federated", "service account's token", "keys of"] {
            assert!(!failure.message.contains(word), "{code}: {failure}");
        }
    }
    let certified = Asked {
        thumbprint: Some("84E0".to_owned()),
        ..Asked::for_test()
    };
    let refused = failure(&certified, &entra(70021), now());
    assert_eq!(refused.reason, Reason::ClientCertificateInvalid);
}

#[test]
fn the_same_answer_gives_the_same_sentence_each_time() {
    let body = |time: &str| {
        format!(
            r#"{{"error":"invalid_client","error_description":"AADSTS700024: Client assertion is not within its valid time range. Current time: {time}.","error_codes":[700024]}}"#
        )
    };
    let of = |time| failure(&asked(), &answer(401, &body(time)), now()).message;
    assert_eq!(of("2026-11-24T03:00:00Z"), of("2026-11-24T03:00:01Z"));
}

// Red when: `answered` measures the date against our clock.
#[test]
fn a_date_is_measured_by_the_clock_of_who_sent_it() {
    let answer = Answer {
        status: 503,
        retry_after: Some("Tue, 24 Nov 2026 02:00:30 GMT".to_owned()),
        date: Some("Tue, 24 Nov 2026 02:00:00 GMT".to_owned()),
        body: String::new(),
    };
    let failure = failure(&asked(), &Record::Answered(answer), now());
    assert_eq!(failure.retry_after, Some(Duration::from_secs(30)));
}
