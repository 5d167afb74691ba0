//! Sessions that get no connection: how they fail, and what their callers see.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use async_trait::async_trait;
use tokio::sync::mpsc;

use super::{Session, SessionEvent, SessionSpec, Sessions, State, Timeouts};
use crate::api::Identity;
use crate::model::{Basis, Class, Cloud, Failure, Interest, ObjectKey, Reason, RoleName};
use crate::ports::{AccessToken, TokenOrder, TokenSource, Urgency, WriteGate};

/// Refuses each token; with `panics`, breaks instead.
#[derive(Default)]
struct Refuses {
    asked: AtomicUsize,
    panics: bool,
}

#[async_trait]
impl TokenSource for Refuses {
    async fn token(&self, order: TokenOrder) -> Result<AccessToken, Failure> {
        assert!(!self.panics, "a defect");
        let asked = self.asked.fetch_add(1, Ordering::SeqCst);
        assert_eq!(order.urgency, Urgency::Administrator);
        let message = format!("no token number {asked}");
        Err(Failure::new(Class::Denied, Reason::EntraRefused, message))
    }
}

#[derive(Debug)]
struct Open;

impl WriteGate for Open {
    fn check(&self) -> Result<(), Failure> {
        Ok(())
    }
}

fn spec(administrators: &[&str]) -> SessionSpec {
    let order = TokenOrder {
        namespace: "platform".to_owned(),
        identity: Identity::default(),
        cloud: Arc::new(Cloud::built_in().remove(0)),
        urgency: Urgency::Administrator,
    };
    let administrator = |role: &&str| (RoleName::parse(role).unwrap(), order.clone());
    SessionSpec {
        server: ObjectKey::new("platform", "orders"),
        host: "localhost".to_owned(),
        port: 1,
        roots: Some(Vec::new()),
        administrators: administrators.iter().map(administrator).collect(),
        timeouts: Timeouts {
            connect: Duration::from_secs(10),
            statement: Duration::from_secs(10),
            lock: Duration::from_secs(1),
        },
        max_connections: 3,
        resync_interval: Duration::from_secs(60),
    }
}

fn sessions(
    tokens: Refuses,
) -> (
    Arc<Refuses>,
    Sessions,
    mpsc::UnboundedReceiver<SessionEvent>,
) {
    let tokens = Arc::new(tokens);
    let (sender, events) = mpsc::unbounded_channel();
    let sessions = Sessions::new(tokens.clone(), Arc::new(Open), sender);
    (tokens, sessions, events)
}

async fn failed(session: &Session, events: &mut mpsc::UnboundedReceiver<SessionEvent>) -> Failure {
    loop {
        if let State::Failed(failure) = session.state() {
            return failure;
        }
        let event = tokio::time::timeout(Duration::from_secs(10), events.recv());
        event.await.expect("an event in time").expect("a sender");
    }
}

// Red when: ready() hands on what is the server's as if it were the principal's.
#[tokio::test]
async fn every_administrator_is_tried_and_callers_get_the_failure_at_once() {
    let (tokens, sessions, mut events) = sessions(Refuses::default());
    let session = sessions.ensure(spec(&["first", "second"]));
    let failure = failed(&session, &mut events).await;
    assert_eq!(tokens.asked.load(Ordering::SeqCst), 2);
    assert_eq!(failure.reason, Reason::EntraRefused);
    assert!(
        failure
            .message
            .contains("no token number 0; no token number 1")
    );
    let role = RoleName::parse("role").unwrap();
    let failure = failure.to_principals_of(session.server());
    assert_eq!(failure.reason, Reason::ServerNotReady);
    assert_eq!(
        session.look(&role, &Interest::default()).await,
        Err(failure.clone())
    );
    assert_eq!(
        session
            .apply(&role, Basis::Nothing, &[], &Interest::default())
            .await,
        Err(failure.clone())
    );
    assert_eq!(session.drop_role(&role, "uid", false).await, Err(failure));
}

#[tokio::test]
async fn a_failed_session_tries_again_when_told_so() {
    let (tokens, sessions, mut events) = sessions(Refuses::default());
    let session = sessions.ensure(spec(&["first"]));
    failed(&session, &mut events).await;
    let again = async {
        while tokens.asked.load(Ordering::SeqCst) < 2 {
            session.retry_now();
            tokio::task::yield_now().await;
        }
    };
    // Without being told it would wait for 12 s at least.
    tokio::time::timeout(Duration::from_secs(5), again)
        .await
        .unwrap();
}

#[tokio::test]
async fn only_another_specification_makes_another_session() {
    let (_, sessions, _events) = sessions(Refuses::default());
    let first = sessions.ensure(spec(&["first"]));
    let same = sessions.ensure(spec(&["first"]));
    assert!(Arc::ptr_eq(&first.shared, &same.shared));
    let other = sessions.ensure(spec(&["second"]));
    assert!(!Arc::ptr_eq(&first.shared, &other.shared));
    sessions.remove(other.server());
    assert!(sessions.get(other.server()).is_none());
}

#[tokio::test]
async fn a_defect_is_a_failure_and_the_session_starts_anew() {
    let tokens = Refuses {
        panics: true,
        ..Refuses::default()
    };
    let (_, sessions, mut events) = sessions(tokens);
    let first = sessions.ensure(spec(&["first"]));
    assert_eq!(failed(&first, &mut events).await.reason, Reason::Internal);
    let anew = async {
        while Arc::ptr_eq(&first.shared, &sessions.ensure(spec(&["first"])).shared) {
            tokio::task::yield_now().await;
        }
    };
    tokio::time::timeout(Duration::from_secs(5), anew)
        .await
        .unwrap();
}
