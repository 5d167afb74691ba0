//! Reads the claims of JSON web tokens and compares them with what was asked for. Signatures are
//! not looked at: access tokens come from the authority over TLS, and the server checks them.

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use jiff::{SignedDuration, Timestamp};
use serde::Deserialize;
use serde::de::DeserializeOwned;

use super::error::Asked;
use crate::model::quote::quote;
use crate::model::{Class, Failure, ObjectId, Reason};
use crate::ports::AccessToken;

/// A shorter life is not worth publishing: before anybody could use the token, it would be over.
const SHORTEST: SignedDuration = SignedDuration::from_secs(5);
/// How much of a resource id a message has.
const LONGEST_RESOURCE: usize = 400;
/// In the resource ids of user-assigned identities, in lower case.
const USER_ASSIGNED: &str = "/microsoft.managedidentity/userassignedidentities/";

#[derive(Deserialize)]
struct AccessClaims {
    aud: String,
    tid: String,
    oid: String,
    exp: f64,
    /// The Azure resource that a managed identity belongs to; not in every token.
    #[serde(default)]
    xms_mirid: Option<String>,
}

/// What a Kubernetes token says of itself, which is what a federated credential must match.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
pub(super) struct Subject {
    #[serde(rename = "iss")]
    pub(super) issuer: String,
    #[serde(rename = "sub")]
    pub(super) subject: String,
}

impl Subject {
    /// None if it is no token with issuer and subject.
    pub(super) fn read(assertion: &str) -> Option<Self> {
        payload(assertion)
    }
}

/// Checks a token that an authority gave (design, rule 2.1.3).
pub(super) fn check(
    token: String,
    resource: &str,
    tenant: Option<&str>,
    now: Timestamp,
    asked: &Asked,
) -> Result<AccessToken, Failure> {
    let transient = |problem: &str| invalid(asked, Class::Transient, problem);
    let denied = |problem: &str| invalid(asked, Class::Denied, problem);
    if token.is_empty() {
        return Err(transient("is empty"));
    }
    let Some(claims) = payload::<AccessClaims>(&token) else {
        return Err(transient(
            "is malformed, or lacks one of the claims aud, tid, oid and exp",
        ));
    };
    if claims.aud.trim_end_matches('/') != resource.trim_end_matches('/') {
        return Err(denied(&format!(
            "is for another audience than {resource}: compare the scope of the cloud"
        )));
    }
    let wanted = tenant.and_then(ObjectId::parse);
    if wanted.is_some_and(|wanted| ObjectId::parse(&claims.tid) != Some(wanted)) {
        return Err(denied("is of another tenant"));
    }
    // IMDS gives the only user-assigned identity of a node that has no system-assigned one.
    let resource = claims.xms_mirid.unwrap_or_default().to_lowercase();
    if asked.system_assigned && resource.contains(USER_ASSIGNED) {
        let reason = Reason::IdentityNotAssigned;
        let resource = quote(&resource, LONGEST_RESOURCE);
        return Err(Failure {
            reason,
            ..denied(&format!(
                "is of {resource}: the node has no system-assigned identity; switch that on, or name \
                 one of that identity's ids in managedIdentity"
            ))
        });
    }
    let Some(object_id) = ObjectId::parse(&claims.oid) else {
        return Err(denied("has no object id in its claim oid"));
    };
    let Some(expires_at) = seconds(claims.exp) else {
        return Err(transient("has no readable end of life in its claim exp"));
    };
    if expires_at.duration_since(now) < SHORTEST {
        return Err(transient(
            "has already ended, or does so within seconds: compare the clock of the operator's node",
        ));
    }
    Ok(AccessToken::new(token, object_id, expires_at))
}

fn payload<T: DeserializeOwned>(token: &str) -> Option<T> {
    let mut parts = token.split('.');
    let (_header, payload, _signature) = (parts.next()?, parts.next()?, parts.next()?);
    if parts.next().is_some() {
        return None;
    }
    let json = URL_SAFE_NO_PAD.decode(payload.trim_end_matches('=')).ok()?;
    serde_json::from_slice(&json).ok()
}

/// Whole seconds: what is published must not claim a later end than the token has.
fn seconds(exp: f64) -> Option<Timestamp> {
    let sane = (0.0..=253_402_207_200.0).contains(&exp);
    #[expect(
        clippy::cast_possible_truncation,
        reason = "in range, and truncation is meant"
    )]
    sane.then(|| Timestamp::from_second(exp as i64).ok())?
}

fn invalid(asked: &Asked, class: Class, problem: &str) -> Failure {
    let message = format!("the token that {asked} got {problem}; it was not used");
    Failure::new(class, Reason::TokenInvalid, message)
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    const RESOURCE: &str = "https://ossrdbms-aad.database.windows.net";
    const TENANT: &str = "aaaaaaaa-0000-0000-0000-00000000000a";
    const OBJECT: &str = "bbbbbbbb-0000-0000-0000-00000000000b";

    fn jwt(claims: &Value) -> String {
        let part = |text: &str| URL_SAFE_NO_PAD.encode(text);
        format!(
            "{}.{}.c2ln",
            part("{\"alg\":\"RS256\"}"),
            part(&claims.to_string())
        )
    }

    fn claims() -> Value {
        json!({"aud": RESOURCE, "tid": TENANT, "oid": OBJECT, "exp": 2_000_000_000})
    }

    fn with(name: &str, value: Value) -> String {
        let mut claims = claims();
        claims[name] = value;
        jwt(&claims)
    }

    fn check_of(token: &str, tenant: Option<&str>) -> Result<AccessToken, Failure> {
        let now = Timestamp::from_second(1_999_999_990).expect("in range");
        let token = token.to_owned();
        check(token, RESOURCE, tenant, now, &Asked::for_test())
    }

    fn refused(token: &str, class: Class, word: &str) {
        let failure = check_of(token, Some(TENANT)).expect_err("refused");
        assert_eq!(
            (failure.class, failure.reason),
            (class, Reason::TokenInvalid)
        );
        assert!(failure.message.contains(word), "{}", failure.message);
        assert!(token.is_empty() || !failure.message.contains(token));
    }

    #[test]
    fn a_token_that_fits_is_taken_with_its_real_end() {
        let token = check_of(&jwt(&claims()), Some(&TENANT.to_uppercase())).expect("fits");
        assert_eq!(token.object_id.as_str(), OBJECT);
        assert_eq!(token.expires_at.as_second(), 2_000_000_000);
        assert_eq!(token.expose(), jwt(&claims()));
        let slash = with("aud", json!(format!("{RESOURCE}/")));
        assert!(check_of(&slash, Some(TENANT)).is_ok());
        let fraction = check_of(&with("exp", json!(2_000_000_000.9)), None).expect("fits");
        assert_eq!(fraction.expires_at.as_second(), 2_000_000_000);
        assert_eq!(fraction.expires_at.subsec_nanosecond(), 0);
    }

    #[test]
    fn a_tenant_named_by_its_domain_is_not_compared() {
        assert!(check_of(&jwt(&claims()), Some("contoso.example")).is_ok());
    }

    #[test]
    fn what_is_not_what_was_asked_for_is_refused() {
        let graph = json!("https://graph.microsoft.com");
        refused(&with("aud", graph), Class::Denied, "audience");
        let guid = json!("123cd850-d9df-40bd-94d5-c9f07b7fa203");
        refused(&with("aud", guid), Class::Denied, "audience");
        let below = json!(format!("{RESOURCE}.evil.example"));
        refused(&with("aud", below), Class::Denied, "audience");
        refused(&with("tid", json!(OBJECT)), Class::Denied, "tenant");
        refused(&with("tid", json!("")), Class::Denied, "tenant");
        refused(&with("oid", json!("me")), Class::Denied, "object id");
        refused(
            &with("exp", json!(1_999_999_994)),
            Class::Transient,
            "ended",
        );
        assert!(check_of(&with("exp", json!(1_999_999_995)), None).is_ok());
        refused(&with("exp", json!(1e300)), Class::Transient, "end of life");
        refused(&with("exp", json!("soon")), Class::Transient, "malformed");
    }

    // Red when: xms_mirid is not looked at.
    #[test]
    fn who_asks_for_the_system_assigned_identity_gets_no_other() {
        let now = Timestamp::from_second(1_999_999_990).expect("in range");
        let of = |resource: &str, system_assigned| {
            let asked = Asked {
                system_assigned,
                ..Asked::for_test()
            };
            let token = with("xms_mirid", json!(resource));
            check(token, RESOURCE, None, now, &asked)
        };
        let machine = "/subscriptions/s/resourcegroups/g/providers/Microsoft.Compute/virtualMachineScaleSets/n";
        let user = "/subscriptions/s/resourcegroups/g/providers/Microsoft.ManagedIdentity/userAssignedIdentities/u";
        assert!(of(machine, true).is_ok());
        assert!(of(user, false).is_ok());
        let failure = of(user, true).expect_err("another identity");
        assert_eq!(failure.reason, Reason::IdentityNotAssigned);
    }

    #[test]
    fn what_is_no_token_is_refused() {
        refused("", Class::Transient, "empty");
        refused("opaque-thing", Class::Transient, "malformed");
        refused("a.!!!.c", Class::Transient, "malformed");
        refused("a.e30.c", Class::Transient, "malformed");
        refused(
            &format!("{}.d", jwt(&claims())),
            Class::Transient,
            "malformed",
        );
    }

    #[test]
    fn an_assertion_says_what_its_federated_credential_must_match() {
        let subject = "system:serviceaccount:orders:app";
        let claims = json!({"iss": "https://oidc.example/", "sub": subject, "aud": ["a"]});
        let read = Subject::read(&jwt(&claims)).expect("readable");
        assert_eq!(
            (read.issuer.as_str(), read.subject.as_str()),
            ("https://oidc.example/", subject)
        );
        assert_eq!(Subject::read("nonsense"), None);
    }
}
