//! Changes that outlast the lease: what is sent before each message is the question whether it may be.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt, DuplexStream};
use tokio_postgres::{Config, NoTls};

use super::change::{self, Ground, Line, Patience};
use super::connect::Link;
use super::grant;
use super::stats::SessionStats;
use crate::api::Privilege;
use crate::model::{
    Basis, Class, DatabaseInterest, Failure, Group, Kind, Names, PrivilegeStep, Reason, RoleName,
    RoleStep,
};
use crate::ports::WriteGate;

/// Opens so many times.
#[derive(Debug)]
struct Opens(AtomicU32);

impl WriteGate for Opens {
    fn check(&self) -> Result<(), Failure> {
        let opens = |left: u32| left.checked_sub(1);
        match (self.0).fetch_update(Ordering::SeqCst, Ordering::SeqCst, opens) {
            Ok(_) => Ok(()),
            Err(_) => Err(Failure::new(Class::Waiting, Reason::NotLeader, "no")),
        }
    }
}

/// Lets anybody in, and refuses each message.
async fn refuse_all(mut peer: DuplexStream, code: &str) -> std::io::Result<()> {
    const READY: &[u8] = b"Z\0\0\0\x05I";
    let length = peer.read_u32().await? as usize;
    peer.read_exact(&mut vec![0; length - 4]).await?;
    peer.write_all(&[b"R\0\0\0\x08\0\0\0\0", READY].concat())
        .await?;
    loop {
        peer.read_u8().await?;
        let length = peer.read_u32().await? as usize;
        peer.read_exact(&mut vec![0; length - 4]).await?;
        let fields = format!("SERROR\0VERROR\0C{code}\0Mrefused\0\0");
        let mut answer = vec![b'E'];
        answer.extend(u32::try_from(fields.len() + 4).unwrap().to_be_bytes());
        peer.write_all(&[&answer, fields.as_bytes(), READY].concat())
            .await?;
    }
}

async fn line_for(opens: u32, code: &'static str) -> Line {
    let (ours, theirs) = tokio::io::duplex(1 << 16);
    tokio::spawn(refuse_all(theirs, code));
    let (client, connection) = Config::new()
        .user("admin")
        .connect_raw(ours, NoTls)
        .await
        .unwrap();
    let driver = tokio::spawn(async move { connection.await.unwrap() });
    Line {
        link: Arc::new(Link::driven(client, &driver)),
        gate: Arc::new(Opens(AtomicU32::new(opens))),
        stats: Arc::new(SessionStats::default()),
        server: "server".into(),
        place: "server".into(),
        limit: Duration::from_secs(10),
        patience: Patience::Short,
    }
}

fn grant_in(schema: &str) -> PrivilegeStep {
    PrivilegeStep::Grant {
        group: Group {
            schema: schema.to_owned(),
            kind: Kind::Table,
        },
        names: Names::AllBut(BTreeSet::new()),
        privileges: BTreeSet::from([Privilege::Select]),
    }
}

fn setting(name: &str) -> RoleStep {
    RoleStep::Set {
        name: name.to_owned(),
        value: "1".to_owned(),
    }
}

// Red when: `batch::send` sends without asking.
#[tokio::test]
async fn steps_that_outlast_the_lease_are_not_sent() {
    let role = RoleName::parse("api").unwrap();
    let line = line_for(3, "42501").await;
    let steps = ["a", "b", "c", "d"].map(grant_in);
    let interest = DatabaseInterest::default();
    let outcome = grant::run(&line, &role, &Basis::Nothing, &steps, &interest).await;
    let failure = outcome.expect_err("the lease ended").failure;
    let sent = line.stats.messages();
    assert_eq!((failure.reason, sent), (Reason::NotLeader, 3));

    let line = line_for(3, "42501").await;
    let steps = ["a", "b", "c", "d"].map(setting);
    let outcome = change::run(&line, &role, &steps, Ground::default()).await;
    let failure = outcome.expect_err("the lease ended").failure;
    let sent = line.stats.messages();
    assert_eq!((failure.reason, sent), (Reason::NotLeader, 3));
}

// Red when: a held lock costs more than one time-out for all together and some short ones, what clashes is not
// sent again twice, or a statement that took too long is followed by more of them.
#[tokio::test]
async fn what_is_sent_again_is_the_same_for_roles_and_for_privileges() {
    let role = RoleName::parse("api").unwrap();
    let grants: Vec<PrivilegeStep> = (0..20).map(|n| grant_in(&format!("s{n}"))).collect();
    let settings: Vec<RoleStep> = (0..20).map(|n| setting(&format!("a{n}"))).collect();
    for (code, sent) in [
        ("55P03", 1 + 5),
        ("57014", 1 + 1),
        ("40P01", 3 + 20 * 3),
        ("42501", 1 + 20),
    ] {
        let line_of = || async {
            let patience = Patience::Long(Duration::from_secs(1));
            line_for(1_000, code).await.with(patience)
        };
        let basis = Basis::Nothing;
        let line = line_of().await;
        // The look that comes after is refused too.
        let interest = DatabaseInterest::default();
        let outcome = grant::run(&line, &role, &basis, &grants, &interest).await;
        assert!(outcome.is_err());
        assert_eq!(line.stats.messages(), sent + 1, "{code} of privileges");
        let line = line_of().await;
        let outcome = change::run(&line, &role, &settings, Ground::default()).await;
        assert!(outcome.is_err());
        assert_eq!(line.stats.messages(), sent + 1, "{code} of the role");
    }
    // Beside the work of others it is not waited for at all: it is tried again behind them.
    let line = line_for(1_000, "55P03").await;
    let outcome = change::run(&line, &role, &settings, Ground::default()).await;
    assert!(outcome.is_err_and(|trouble| trouble.locked));
    assert_eq!(line.stats.messages(), 1);
}
