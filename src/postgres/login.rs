//! Tries whether the server lets somebody in with a token: signs in, and leaves. One at a time for
//! each server, beside the connections of its session. Must not know whose Secret it is for.

use async_trait::async_trait;

use crate::model::{Class, Failure, Reason, RoleName};
use crate::ports::{AccessToken, LoginCheck, SignIn};

use super::bounded::BoundedTls;
use super::connect::{self, Purpose, Unopened};
use super::dial::endpoint;
use super::error::{About, refuses_place, told_as};
use super::{Session, Sessions, State};

#[async_trait]
impl LoginCheck for Sessions {
    async fn sign_in(&self, sign_in: SignIn<'_>) -> Result<(), Failure> {
        let SignIn {
            server,
            role,
            database,
            token,
        } = sign_in;
        let Some(session) = self.get(server) else {
            let message = format!(
                "waiting for a connection to EntraPostgresServer {server}: see its conditions"
            );
            return Err(Failure::new(Class::Waiting, Reason::Connecting, message));
        };
        session.sign_in(role, database, token).await
    }
}

impl Session {
    async fn sign_in(
        &self,
        role: &RoleName,
        database: &str,
        token: &AccessToken,
    ) -> Result<(), Failure> {
        // A server that is away, or just being connected to, must not hold up all tokens.
        let spec = &self.shared.spec;
        match self.state() {
            State::Connected(_) => {}
            State::Failed(failure) => return Err(failure),
            State::Connecting => return Err(connecting(&spec.describe())),
        }
        let turn = tokio::time::timeout(spec.timeouts.connect, self.shared.logins.acquire());
        let Ok(Ok(_turn)) = turn.await else {
            return Err(busy(&spec.describe()));
        };
        let endpoint = endpoint(&self.shared)?;
        let tls = BoundedTls::new(endpoint.tls.clone());
        match connect::attach(&endpoint, role, token, database, Purpose::Login, tls).await {
            Ok((client, connection)) => {
                drop(client);
                // Says goodbye; whether that arrives matters to nobody.
                let _ = tokio::time::timeout(spec.timeouts.connect, connection).await;
                Ok(())
            }
            Err(unopened) => {
                let refused = match &unopened {
                    Unopened::Refused(error) => refused(&endpoint.server, role, error),
                    Unopened::Late => None,
                };
                Err(refused.unwrap_or_else(|| unopened.failure(&endpoint, role, database)))
            }
        }
    }
}

fn connecting(server: &str) -> Failure {
    let message = format!("waiting for a connection to {server} before a sign-in is tried");
    Failure::new(Class::Waiting, Reason::Connecting, message)
}

fn busy(server: &str) -> Failure {
    let message = format!(
        "other sign-ins to {server} are being tried: this one waits for its turn; nothing is wrong"
    );
    Failure::new(Class::Waiting, Reason::LoginPending, message)
}

/// The server knows the role or the token, and does not let it in: class 28 and nothing else. That no
/// rule of the firewall fits is of that class too, and says nothing of the token.
fn refused(server: &str, role: &RoleName, error: &tokio_postgres::Error) -> Option<Failure> {
    let answer = error.as_db_error()?;
    if !answer.code().code().starts_with("28") || refuses_place(&answer.into()) {
        return None;
    }
    let about = About {
        server,
        role: Some(role),
        action: "sign in with the new token as",
    };
    let advice = "the token is not published: token.identity must be the identity that the role is bound \
                  to, or for a group a member of it, and the role must be allowed to sign in";
    let verdict = (Class::Denied, Reason::LoginRefused, advice.to_owned());
    Some(told_as(about, answer, verdict))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::postgres::connect::tests::answered;

    // Red when: everything of class 28 counts as a refusal of the token: a firewall would end all tokens.
    #[tokio::test]
    async fn a_firewall_says_nothing_of_the_token() {
        let role = RoleName::parse("orders-api").unwrap();
        let words = "password authentication failed for user \"orders-api\"";
        let error = answered("28P01", words).await;
        let failure = refused("server", &role, &error).unwrap();
        assert_eq!(failure.reason, Reason::LoginRefused);
        for words in [
            "no pg_hba.conf entry for host \"203.0.113.9\", user \"orders-api\", database \"orders\", SSL encryption",
            "kein pg_hba.conf-Eintrag für Host »203.0.113.9«, Benutzer »orders-api«",
            "aucune entrée dans pg_hba.conf pour l'hôte « 203.0.113.9 »",
        ] {
            let error = answered("28000", words).await;
            assert_eq!(refused("server", &role, &error), None);
            let failure = connect::refusal("server", &[], &role, "orders", &error);
            let is = (failure.reason, failure.class);
            assert_eq!(is, (Reason::ServerUnreachable, Class::Transient));
            for word in ["203.0.113.9", "firewall rule"] {
                assert!(failure.message.contains(word), "{failure}");
            }
        }
    }
}
