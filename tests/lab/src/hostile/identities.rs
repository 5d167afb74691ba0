//! Who there is in the directory of a hostile run: victims, newcomers, and each attacker's own.

use anyhow::Result;
use uuid::Uuid;

use super::attacks::Attack;
use super::world::{AUDIENCE, PLATFORM, VICTIMS};
use crate::directory::{Directory, FederatedCredential, ServicePrincipal, ServicePrincipalKind};

/// Victims of the shared server and of the other one.
pub(super) const ON_SHARED: usize = 8;
pub(super) const ON_APART: usize = 4;
/// Victims that come during the run.
pub(super) const NEWCOMERS: usize = 30;
/// The life of victims' tokens, in seconds.
const LIVES: [u64; 4] = [60, 70, 80, 90];
/// Each attacker's identities have numbers of their own.
const APART: usize = 1000;

pub(super) fn victim(n: usize) -> String {
    format!("v-{n:02}")
}

pub(super) fn newcomer(n: usize) -> String {
    format!("n-{n:02}")
}

/// The name of an attacker's identity, service account, object and role.
pub(super) fn evil(attack: Attack, n: usize) -> String {
    format!("evil-{}-{n:03}", attack.name())
}

fn id(head: &str, number: usize) -> Uuid {
    Uuid::parse_str(&format!("{head}-0000-4000-a000-{number:012}")).unwrap_or_default()
}

fn number_of(attack: Attack, n: usize) -> usize {
    let place = Attack::ALL.iter().position(|a| *a == attack).unwrap_or(0);
    (place + 1) * APART + n
}

/// The client id of an attacker's identity.
pub(super) fn evil_client(attack: Attack, n: usize) -> String {
    id("c11e4700", number_of(attack, n)).to_string()
}

/// Its object id.
pub(super) fn evil_object(attack: Attack, n: usize) -> String {
    id("5e41ce00", number_of(attack, n)).to_string()
}

/// The client id of a victim, of those that are there from the start first.
pub(super) fn victim_client(name: &str) -> String {
    id("c11e4700", victim_number(name)).to_string()
}

fn victim_number(name: &str) -> usize {
    let n = name.get(2..).and_then(|n| n.parse().ok()).unwrap_or(0);
    if name.starts_with('n') { n + 100 } else { n }
}

fn federated(namespace: &str, name: &str, number: usize, life: u64) -> ServicePrincipal {
    ServicePrincipal {
        name: name.to_owned(),
        object_id: id("5e41ce00", number),
        client_id: id("c11e4700", number),
        kind: ServicePrincipalKind::ManagedIdentity,
        resource_id: None,
        system_assigned: false,
        token_lifetime_seconds: Some(life),
        secrets: Vec::new(),
        certificates: Vec::new(),
        federated_credentials: vec![FederatedCredential {
            issuer: "cluster".to_owned(),
            subject: format!("system:serviceaccount:{namespace}:{name}"),
            audience: AUDIENCE.to_owned(),
        }],
        imds: false,
    }
}

/// The lab's own directory with all of them, its administrator moved to the platform's namespace.
pub(super) fn directory() -> Result<Directory> {
    let mut directory = Directory::default();
    for credential in directory
        .service_principals
        .iter_mut()
        .flat_map(|service| &mut service.federated_credentials)
    {
        credential.subject = credential.subject.replace(
            "serviceaccount:lab:",
            &format!("serviceaccount:{PLATFORM}:"),
        );
    }
    let lives = LIVES.into_iter().cycle();
    let names = (0..ON_SHARED + ON_APART)
        .map(victim)
        .chain((0..NEWCOMERS).map(newcomer));
    directory.service_principals.extend(
        lives
            .zip(names)
            .map(|(life, name)| federated(VICTIMS, &name, victim_number(&name), life)),
    );
    for attack in Attack::ALL {
        let all = (0..attack.identities()).map(|n| {
            federated(
                &attack.namespace(),
                &evil(attack, n),
                number_of(attack, n),
                90,
            )
        });
        directory.service_principals.extend(all);
    }
    directory.validate()?;
    Ok(directory)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn everybody_has_an_identity_of_their_own() {
        let directory = directory().unwrap();
        let known = |client: &str| {
            let mut all = directory.service_principals.iter();
            all.any(|service| service.client_id.to_string() == client)
        };
        assert!(known(&victim_client(&victim(11))) && known(&victim_client(&newcomer(0))));
        assert!(Attack::ALL.iter().all(|attack| attack.identities() < APART));
        assert!(known(&evil_client(Attack::Throttled, 0)));
    }
}
