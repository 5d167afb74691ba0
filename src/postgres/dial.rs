//! How a session gets its connections: as which administrator, with which token,
//! and how long it waits after a failure. Must not keep anything.

use std::hash::{BuildHasher as _, Hasher as _, RandomState};
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::mpsc;

use crate::model::{Catalog, Class, Failure, Reason, Subjects};
use crate::ports::TokenOrder;

use super::change::{Line, Trouble};
use super::connect::{self, Endpoint, Link};
use super::shared::Shared;
use super::snapshot;

/// Who does not want us: the server, or the one administrator only.
#[derive(Debug)]
pub(super) enum Refusal {
    OfServer(Failure),
    OfAdministrator(Failure),
}

impl Refusal {
    /// The failure, whoever's it is.
    pub fn into_failure(self) -> Failure {
        match self {
            Self::OfServer(failure) | Self::OfAdministrator(failure) => failure,
        }
    }
}

/// Gets a token, unless the last one lives for a while yet, and opens a connection with it: the only
/// thing that tokens are asked for.
pub(super) async fn dial(
    shared: Arc<Shared>,
    administrator: usize,
    id: u64,
    end_of: mpsc::UnboundedSender<(u64, String)>,
    database: &str,
) -> Result<Link, Refusal> {
    let spec = &shared.spec;
    let Some((role, order)) = spec.administrators.get(administrator) else {
        return Err(Refusal::OfServer(together(&spec.describe(), Vec::new())));
    };
    let endpoint = endpoint(&shared).map_err(Refusal::OfServer)?;
    let order = TokenOrder::clone(order);
    let token = if let Some(token) = shared.kept_token(administrator) {
        token
    } else {
        let token = shared.tokens.token(order).await;
        let token = Arc::new(token.map_err(Refusal::OfAdministrator)?);
        shared
            .operators()
            .insert(token.object_id.clone(), role.clone());
        shared.keep_token(administrator, token.clone());
        token
    };
    let on_end = move |cause| {
        let _ = end_of.send((id, cause));
    };
    let link = connect::open(&endpoint, role, &token, database, on_end).await;
    let link = link.map_err(|failure| match failure.reason {
        Reason::AdministratorRefused => {
            shared.forget_token();
            Refusal::OfAdministrator(failure)
        }
        _ => Refusal::OfServer(failure),
    })?;
    shared.stats.opened();
    Ok(link)
}

/// The server object's own host: whoever gets a token of ours is verified.
pub(super) fn endpoint(shared: &Shared) -> Result<Endpoint, Failure> {
    let spec = &shared.spec;
    let roots = spec.roots.as_ref().unwrap_or(&shared.platform_roots);
    Ok(Endpoint {
        server: spec.describe(),
        host: spec.host.clone(),
        port: spec.port,
        administrators: spec
            .administrators
            .iter()
            .map(|(role, _)| role.clone())
            .collect(),
        timeouts: spec.timeouts,
        tls: connect::tls(roots)?,
        authorities: spec
            .roots
            .as_deref()
            .map(connect::subjects)
            .unwrap_or_default(),
    })
}

/// Asks what must be known before a session serves, and checks that we may work with what it says.
pub(super) async fn take_first(line: &Line) -> Result<Catalog, Failure> {
    let question = snapshot::first_question();
    let tables = line.ask("read the catalog", None, &question).await;
    let tables = tables.map_err(|trouble| trouble.failure)?;
    let catalog = snapshot::first(&line.server, &tables)?;
    snapshot::check(&line.server, &catalog)?;
    Ok(catalog)
}

/// Takes a snapshot and checks that we may work with what it says.
pub(super) async fn take(line: &Line, subjects: Subjects) -> Result<Catalog, Trouble> {
    let question = snapshot::question(&subjects);
    let tables = line.ask("read the catalog", None, &question).await?;
    let read = snapshot::catalog(&line.server, subjects, &tables).and_then(|catalog| {
        snapshot::check(&line.server, &catalog)?;
        Ok(catalog)
    });
    read.map_err(|failure| Trouble {
        failure,
        broken: false,
        locked: false,
    })
}

/// One failure out of those of all administrators.
pub(super) fn together(server: &str, mut refusals: Vec<Failure>) -> Failure {
    if refusals.len() == 1 {
        return refusals.remove(0);
    }
    let Some(first) = refusals.first() else {
        let message =
            format!("{server} has no administrator to sign in as: name one in spec.admins");
        return Failure::new(Class::Invalid, Reason::InvalidSpec, message);
    };
    let transient = refusals
        .iter()
        .any(|refusal| matches!(refusal.class, Class::Transient | Class::Waiting));
    let said: Vec<String> = refusals
        .iter()
        .map(|refusal| refusal.message.clone())
        .collect();
    let class = if transient {
        Class::Transient
    } else {
        first.class
    };
    Failure {
        class,
        reason: first.reason,
        message: format!(
            "no administrator of {server} could be used: {}",
            said.join("; ")
        ),
        retry_after: refusals
            .iter()
            .filter_map(|refusal| refusal.retry_after)
            .min(),
        proof: None,
    }
}

/// How long to wait before attempt `attempt + 1`; `fraction` of 0 to 1 spreads the sessions.
pub(super) fn pause(failure: &Failure, attempt: u32, fraction: f64) -> Duration {
    let (first, most) = match failure.class {
        Class::Transient | Class::Waiting => (1, 60),
        Class::Denied | Class::Invalid => (15, 300),
    };
    let doubled = 2_u64.saturating_pow(attempt.saturating_sub(1).min(20));
    let pause = Duration::from_secs(doubled.saturating_mul(first).min(most));
    let spread = pause.mul_f64(0.8 + 0.4 * fraction.clamp(0.0, 1.0));
    spread.max(failure.retry_after.unwrap_or_default())
}

/// A number from 0 to 1 by chance.
pub(super) fn fraction() -> f64 {
    let random = RandomState::new().build_hasher().finish();
    f64::from(u32::try_from(random >> 32).unwrap_or_default()) / f64::from(u32::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn failure(class: Class, reason: Reason) -> Failure {
        Failure::new(class, reason, format!("{reason} happened"))
    }

    #[test]
    fn pauses_grow_to_a_limit_and_denials_wait_longer() {
        let passing = failure(Class::Transient, Reason::ServerUnreachable);
        let denied = failure(Class::Denied, Reason::AdministratorRefused);
        let seconds = |failure: &Failure, attempt| pause(failure, attempt, 0.5).as_secs();
        assert_eq!(
            [1, 2, 4, 9, 90].map(|n| seconds(&passing, n)),
            [1, 2, 8, 60, 60]
        );
        assert_eq!([1, 2, 9].map(|n| seconds(&denied, n)), [15, 30, 300]);
        let throttled = passing.retry_after(Duration::from_secs(99));
        assert_eq!(seconds(&throttled, 1), 99);
        assert!((0.0..=1.0).contains(&fraction()));
    }

    #[test]
    fn refusals_of_all_administrators_are_told_together() {
        let one = failure(Class::Denied, Reason::AdministratorRefused);
        assert_eq!(together("s", vec![one.clone()]), one);
        let two = failure(Class::Transient, Reason::EntraUnavailable);
        let both = together("s", vec![one.clone(), two]);
        assert_eq!((both.class, both.reason), (Class::Transient, one.reason));
        assert!(
            both.message
                .contains("AdministratorRefused happened; EntraUnavailable happened")
        );
        assert_eq!(together("s", Vec::new()).class, Class::Invalid);
    }
}
