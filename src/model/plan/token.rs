//! The token's half of the decision: issue, renew, repair, or leave alone.

use jiff::{SignedDuration, Timestamp};

use super::TokenStep;
use crate::api::VerifyLogin;
use crate::model::observed::{Hold, Login, Observed};
use crate::model::refresh::renew_at;
use crate::model::secret::{Content, SecretFacts, TokenRecord, identity_of};
use crate::model::{Class, Desired, DesiredToken, Failure, Look, Reason};

/// Clocks of replicas may differ by this much.
const SKEW: SignedDuration = SignedDuration::from_mins(15);
/// How often annotation `entrapostgres.io/renew` is obeyed.
const ASKED_EVERY: SignedDuration = SignedDuration::from_secs(10);

/// The token's step, and when it will be due next.
pub(super) fn token_work(
    desired: &Desired,
    observed: &Observed,
    now: Timestamp,
) -> (Result<Option<TokenStep>, Failure>, Option<Timestamp>) {
    let Some(token) = &desired.token else {
        return (Ok(None), None);
    };
    if let Err(failure) = &observed.identity_allowed {
        return (Err(failure.clone()), None);
    }
    let (step, next) = wanted(desired, token, observed, now);
    match (&observed.allowance, &step) {
        (Ok(_), _) => (step, next),
        // What was allowed when the present token was written is, until somebody says otherwise.
        (Err(failure), Ok(None | Some(TokenStep::Renew { expires: Some(_) })))
            if failure.class == Class::Transient =>
        {
            (step, next)
        }
        (Err(failure), _) => (Err(failure.clone()), None),
    }
}

/// The same, if it is allowed.
fn wanted(
    desired: &Desired,
    token: &DesiredToken,
    observed: &Observed,
    now: Timestamp,
) -> (Result<Option<TokenStep>, Failure>, Option<Timestamp>) {
    let facts = match &observed.secret {
        Look::Unknown(cause) => return (Err(cause.clone()), None),
        Look::Known(facts) => facts.as_ref(),
    };
    let orphan = facts.is_some_and(|facts| facts.orphan);
    if let Some(foreign) =
        facts.filter(|facts| !orphan && facts.controller.as_ref() != Some(&desired.uid))
    {
        return (Err(not_ours(desired, &token.secret, foreign)), None);
    }
    if let Err(failure) = &token.layout {
        return (Err(failure.clone()), None);
    }
    let identity = identity_of(&token.identity);
    let ours = facts.filter(|_| !orphan);
    let (step, renewal) = match ours.map(|facts| &facts.content) {
        None => (Some(TokenStep::Issue), None),
        Some(Content::Immutable(_)) => return (Err(immutable(desired, &token.secret)), None),
        Some(Content::Broken) => (Some(TokenStep::Renew { expires: None }), None),
        // Whoever declares another identity wants its token now, and not the one before's.
        Some(Content::Intact(record) | Content::Differs(record)) if record.identity != identity => {
            (Some(TokenStep::Renew { expires: None }), None)
        }
        Some(Content::Intact(record) | Content::Differs(record))
            if is_due(desired, record, now) =>
        {
            (
                Some(TokenStep::Renew {
                    expires: Some(record.expires_at),
                }),
                None,
            )
        }
        Some(Content::Differs(record)) => (Some(TokenStep::Repair), due(desired, record)),
        Some(Content::Intact(record)) => (untried(token, observed, now), due(desired, record)),
    };
    // That there was nothing newer is a reason to wait only while the present token is there.
    let lives = matches!(step, Some(TokenStep::Renew { expires: Some(_) }));
    let rests = observed.token_hold.as_ref();
    let rests = rests.filter(|hold| hold.failure.is_some() || lives);
    // What else is declared does not wait for a newer token.
    let differs = facts.is_some_and(|facts| matches!(facts.content, Content::Differs(_)));
    match (step, rests.filter(|hold| hold.rests(now))) {
        (Some(TokenStep::Renew { expires: Some(_) }), Some(Hold { until, .. })) if differs => {
            (Ok(Some(TokenStep::Repair)), *until)
        }
        (Some(TokenStep::Issue | TokenStep::Renew { .. }), Some(hold)) => {
            (hold.failure.clone().map_or(Ok(None), Err), hold.until)
        }
        (step, _) => (Ok(step), renewal),
    }
}

/// Kubernetes lets nobody write it, so that nothing is asked for it.
fn immutable(desired: &Desired, name: &str) -> Failure {
    let message = format!(
        "Secret {}/{name} was made immutable, so that its token cannot be renewed: delete the Secret, and \
         a new one is made at once",
        desired.key.namespace
    );
    Failure::new(Class::Denied, Reason::SecretImmutable, message)
}

/// Whether this token is to be renewed now, by its time or because somebody asked.
pub fn is_due(desired: &Desired, record: &TokenRecord, now: Timestamp) -> bool {
    // No clock of ours wrote that.
    let forged = record.issued_at > now + SKEW;
    forged || due(desired, record).is_some_and(|due| due <= now)
}

/// When this token is to be renewed, by its time or because somebody asked.
pub fn due(desired: &Desired, record: &TokenRecord) -> Option<Timestamp> {
    let renew = desired.token.as_ref()?.renew;
    let by_time = renew_at(record.issued_at, record.ends_here(), renew, &desired.uid);
    Some(asked_for(desired, record).map_or(by_time, |asked| asked.min(by_time)))
}

/// Whether somebody wants a new token, and has not got it.
pub fn is_asked_for(desired: &Desired, record: &TokenRecord) -> bool {
    desired.renew.is_some() && desired.renew != record.renewed
}

/// When somebody who wants a new token gets it. Each value of the annotation is obeyed once (the Secret
/// remembers it), the first at once: who sets it again and again would have Entra asked each time, and
/// slow down everybody.
fn asked_for(desired: &Desired, record: &TokenRecord) -> Option<Timestamp> {
    let pause = record
        .renewed
        .as_ref()
        .map_or(SignedDuration::ZERO, |_| ASKED_EVERY);
    is_asked_for(desired, record).then(|| {
        record
            .issued_at
            .checked_add(pause)
            .unwrap_or(record.issued_at)
    })
}

/// The sign-in that could not be tried when the token was published, or was not wanted then.
fn untried(token: &DesiredToken, observed: &Observed, now: Timestamp) -> Option<TokenStep> {
    let Login { verified, hold } = &observed.login;
    let rests = |hold: &Hold| hold.rests(now);
    let wanted = token.verify != VerifyLogin::Never && !verified;
    (wanted && !hold.as_ref().is_some_and(rests)).then_some(TokenStep::Verify)
}

/// The Secret belongs to somebody else.
pub fn not_ours(desired: &Desired, name: &str, facts: &SecretFacts) -> Failure {
    if facts.namesake {
        let message = format!(
            "Secret {}/{name} is still that of the deleted object of this name: a new one is made as \
             soon as Kubernetes has collected it",
            desired.key.namespace
        );
        return Failure::new(Class::Waiting, Reason::SecretNotOurs, message);
    }
    secret_not_ours(&desired.key.namespace, name, facts.holder.as_deref())
}

/// A Secret that this object did not make, and the kind and name of its controller. One without may be
/// anybody's: nobody is told to delete it unseen.
pub fn secret_not_ours(namespace: &str, name: &str, holder: Option<&str>) -> Failure {
    let why = holder.map_or_else(
        || {
            "it has no owner reference that is ours: choose another token.secret.name, or delete it if \
             nobody needs it"
                .to_owned()
        },
        |holder| format!("it belongs to {holder}: choose another token.secret.name"),
    );
    let message = format!(
        "Secret {namespace}/{name} exists and was not made for this object, and is not touched; {why}"
    );
    Failure::new(Class::Denied, Reason::SecretNotOurs, message)
}
