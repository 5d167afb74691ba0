//! Changes that outlast the lease: what is sent before each message is the question whether it may be.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt, DuplexStream};
use tokio_postgres::{Config, NoTls};

use super::change::{self, Ground, Line};
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
async fn refuse_all(mut peer: DuplexStream) -> std::io::Result<()> {
    const READY: &[u8] = b"Z\0\0\0\x05I";
    let length = peer.read_u32().await? as usize;
    peer.read_exact(&mut vec![0; length - 4]).await?;
    peer.write_all(&[b"R\0\0\0\x08\0\0\0\0", READY].concat())
        .await?;
    loop {
        peer.read_u8().await?;
        let length = peer.read_u32().await? as usize;
        peer.read_exact(&mut vec![0; length - 4]).await?;
        let fields = b"SERROR\0VERROR\0C42501\0Mpermission denied\0\0";
        let mut answer = vec![b'E'];
        answer.extend(u32::try_from(fields.len() + 4).unwrap().to_be_bytes());
        peer.write_all(&[&answer, fields.as_slice(), READY].concat())
            .await?;
    }
}

async fn line_for(opens: u32) -> Line {
    let (ours, theirs) = tokio::io::duplex(1 << 16);
    tokio::spawn(refuse_all(theirs));
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
        limit: Duration::from_secs(10),
    }
}

// Red when: `grant::patiently` or `Work::send` sends without asking.
#[tokio::test]
async fn steps_that_outlast_the_lease_are_not_sent() {
    let role = RoleName::parse("api").unwrap();
    let line = line_for(3).await;
    let grant = |schema: &str| PrivilegeStep::Grant {
        group: Group {
            schema: schema.to_owned(),
            kind: Kind::Table,
        },
        names: Names::AllBut(BTreeSet::new()),
        privileges: BTreeSet::from([Privilege::Select]),
    };
    let steps = ["a", "b", "c", "d"].map(grant);
    let outcome = grant::run(
        &line,
        &role,
        &Basis::Nothing,
        &steps,
        &DatabaseInterest::default(),
    )
    .await;
    let failure = outcome.expect_err("the lease ended").failure;
    let sent = line.stats.messages();
    assert_eq!((failure.reason, sent), (Reason::NotLeader, 3));

    let line = line_for(3).await;
    let setting = |name: &str| RoleStep::Set {
        name: name.to_owned(),
        value: "1".to_owned(),
    };
    let steps = ["a", "b", "c", "d"].map(setting);
    let outcome = change::run(&line, &role, &steps, Ground::default()).await;
    let failure = outcome.expect_err("the lease ended").failure;
    let sent = line.stats.messages();
    assert_eq!((failure.reason, sent), (Reason::NotLeader, 3));
}
