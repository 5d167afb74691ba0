//! Finds everything that is wrong in the configuration file. Says where and what to do.

use reqwest::Url;

use super::{ConfigFile, ManagedIdentityRule};
use crate::entra::Network;
use crate::model::{Cloud, ObjectId};

/// All problems; empty when the file is good by itself.
pub(super) fn problems(file: &ConfigFile) -> Vec<String> {
    let mut found = Vec::new();
    let ids = file.cluster_id.iter().map(|id| ("clusterId", id));
    let former = file.former_cluster_ids.iter();
    let ids = ids.chain(former.map(|id| ("formerClusterIds", id)));
    for (field, id) in ids {
        if !is_cluster_id(id) {
            found.push(format!(
                "{field}: {id:?} must be 1 to 63 letters, digits, '.', '_' or '-'"
            ));
        }
    }
    for (index, rule) in file.managed_identities.iter().enumerate() {
        check_rule(index, rule, &mut found);
    }
    for cloud in &file.clouds {
        check_cloud(cloud, &mut found);
    }
    for (name, suffixes) in &file.server_suffixes {
        check_suffixes(&format!("serverSuffixes.{name}"), suffixes, &mut found);
    }
    check_suffixes("reservedPrefixes", &file.reserved_prefixes, &mut found);
    found
}

/// It stands in the comments of roles, between other words.
fn is_cluster_id(id: &str) -> bool {
    (1..=63).contains(&id.len())
        && id
            .bytes()
            .all(|b| b.is_ascii_alphanumeric() || b"._-".contains(&b))
}

fn check_rule(index: usize, rule: &ManagedIdentityRule, found: &mut Vec<String>) {
    let ManagedIdentityRule {
        namespaces,
        client_ids,
        object_ids,
        resource_ids,
        system_assigned,
    } = rule;
    if namespaces.is_empty() {
        found.push(format!(
            "managedIdentities[{index}]: name at least one namespace"
        ));
    }
    for (field, ids) in [("clientIds", client_ids), ("objectIds", object_ids)] {
        // Azure writes them so; another spelling would fit no object.
        for id in ids.iter().filter(|id| ObjectId::parse(id).is_none()) {
            found.push(format!(
                "managedIdentities[{index}].{field}: {id:?} is no GUID, as in \
                 00000000-0000-0000-0000-000000000000"
            ));
        }
    }
    let none = client_ids.is_empty() && object_ids.is_empty() && resource_ids.is_empty();
    if none && !system_assigned {
        found.push(format!(
            "managedIdentities[{index}]: list ids under clientIds, objectIds or resourceIds, or set \
             systemAssigned: true"
        ));
    }
}

fn check_cloud(cloud: &Cloud, found: &mut Vec<String>) {
    let Cloud {
        name,
        authority,
        scope,
        federated_audience,
        server_suffixes,
        ca_file,
        imds_endpoint,
    } = cloud;
    let mut problem = |text: String| found.push(format!("cloud {name:?}: {text}"));
    if name.is_empty() || name.len() > 63 {
        problem("name must have 1 to 63 characters".to_owned());
    }
    if !is_base_url(authority, "https") {
        problem(format!(
            "authority {authority:?} must be an https URL without user, path, query and fragment: \
             the tenant's part is added to it"
        ));
    }
    if scope.strip_suffix("/.default").is_none_or(str::is_empty) {
        problem(format!("scope {scope:?} must be a resource and /.default"));
    }
    if federated_audience.is_empty() {
        problem("federatedAudience must not be empty".to_owned());
    }
    if let Some(Err(text)) = ca_file.as_deref().map(Network::check_ca_file) {
        problem(format!(
            "caFile {text}: name a PEM file with certificates, and mount it"
        ));
    }
    if let Some(endpoint) = imds_endpoint
        && !is_base_url(endpoint, "http")
    {
        problem(format!(
            "imdsEndpoint {endpoint:?} must be an http URL without user, path, query and fragment"
        ));
    }
    if server_suffixes.is_empty() {
        problem("serverSuffixes must name at least one suffix".to_owned());
    }
    check_suffixes(
        &format!("cloud {name:?}: serverSuffixes"),
        server_suffixes,
        found,
    );
}

/// What is asked for at it has a path of its own: one here would be lost without a word.
fn is_base_url(text: &str, scheme: &str) -> bool {
    Url::parse(text).is_ok_and(|url| {
        url.scheme() == scheme
            && url.has_host()
            && url.username().is_empty()
            && url.password().is_none()
            && url.path() == "/"
            && url.query().is_none()
            && url.fragment().is_none()
    })
}

fn check_suffixes(place: &str, suffixes: &[String], found: &mut Vec<String>) {
    for suffix in suffixes {
        if !suffix.split('.').all(is_label) {
            found.push(format!(
                "{place}: {suffix:?} must be a lower-case DNS name without a leading dot, for \
                 example privatelink.example.com"
            ));
        }
    }
}

fn is_label(label: &str) -> bool {
    (1..=63).contains(&label.len())
        && !label.starts_with('-')
        && !label.ends_with('-')
        && label
            .bytes()
            .all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-')
}
