//! Installs the operator's kinds and manifests and makes it runnable as the chart's own
//! `ServiceAccount`, so that a verb that the chart forgot fails here.
//! Must not grant anything itself.

use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result, bail};
use kube::ResourceExt as _;
use kube::api::DynamicObject;
use serde_json::{Value, json};

use super::azure::AzurePart;
use super::home::Home;
use super::{Options, manifest};
use crate::control_plane::{ControlPlane, assets::workspace, parse_manifests};
use crate::operator::{OperatorOptions, binary};

/// Installs what is there and says how to start the operator.
pub(super) async fn prepare(
    home: &Home,
    plane: &ControlPlane,
    azure: &AzurePart,
    options: &Options,
) -> Result<OperatorOptions> {
    let crds = present("crds", "crds")?;
    plane.apply_path(&crds).await?;
    let base = present("deploy/base", "deploy")?;
    let installed = install(plane, &base).await?;
    let account = of_kind(&installed, "ServiceAccount");
    let account = account.context("deploy/base has no ServiceAccount for the operator")?;
    let namespace = account.namespace().unwrap_or_default();
    let kubeconfig = plane
        .service_account_kubeconfig(&namespace, &account.name_any())
        .await?;
    let config = manifest::configuration(azure).yaml()?;
    Ok(OperatorOptions {
        binary: options.operator_binary().unwrap_or_else(binary),
        namespaces: watched(&installed),
        envs: vec![("POD_NAMESPACE".to_owned(), namespace.clone())],
        lease_namespace: Some(namespace),
        ..OperatorOptions::new(home.dir(), kubeconfig, config)
    })
}

fn present(folder: &str, target: &str) -> Result<PathBuf> {
    let path = workspace().join(folder);
    if !path.exists() {
        bail!(
            "{} is missing: make it with 'make {target}'",
            path.display()
        );
    }
    Ok(path)
}

/// Applies a folder of manifests, after the namespaces that they are in.
async fn install(plane: &ControlPlane, folder: &Path) -> Result<Vec<DynamicObject>> {
    let mut text = String::new();
    for entry in std::fs::read_dir(folder)? {
        let path = entry?.path();
        if path.extension().is_some_and(|end| end == "yaml") {
            text.push_str(&std::fs::read_to_string(path)?);
            text.push_str("\n---\n");
        }
    }
    let mut namespaces: Vec<_> = parse_manifests(&text)?
        .iter()
        .filter_map(kube::ResourceExt::namespace)
        .collect();
    namespaces.sort();
    namespaces.dedup();
    for name in namespaces {
        let namespace =
            json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name}});
        plane.apply_text(&namespace.to_string()).await?;
    }
    plane.apply_path(folder).await
}

fn of_kind<'a>(objects: &'a [DynamicObject], kind: &str) -> Option<&'a DynamicObject> {
    let is = |object: &&DynamicObject| {
        object
            .types
            .as_ref()
            .is_some_and(|types| types.kind == kind)
    };
    objects.iter().find(is)
}

/// The namespaces that the installed Deployment tells the operator to watch; none: all.
fn watched(installed: &[DynamicObject]) -> Vec<String> {
    let args = of_kind(installed, "Deployment")
        .and_then(|found| found.data.pointer("/spec/template/spec/containers/0/args"))
        .and_then(Value::as_array);
    let args: Vec<&str> = args
        .into_iter()
        .flatten()
        .filter_map(Value::as_str)
        .collect();
    let flag = "--watch-namespaces";
    let joined = args
        .iter()
        .find_map(|arg| arg.strip_prefix(flag)?.strip_prefix('='));
    let apart = args
        .iter()
        .position(|arg| *arg == flag)
        .and_then(|at| args.get(at + 1))
        .copied();
    let names = joined.or(apart).unwrap_or_default().split(',');
    names
        .filter(|name| !name.is_empty())
        .map(str::to_owned)
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn deployment(args: &[&str]) -> Vec<DynamicObject> {
        let object = json!({"apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"name": "x"},
            "spec": {"template": {"spec": {"containers": [{"args": args}]}}}});
        vec![serde_json::from_value(object).unwrap()]
    }

    #[test]
    fn watched_namespaces_are_those_of_the_deployment() {
        let both = vec!["a".to_owned(), "b".to_owned()];
        assert_eq!(
            watched(&deployment(&["run", "--watch-namespaces=a,b"])),
            both
        );
        assert_eq!(
            watched(&deployment(&["run", "--watch-namespaces", "a,b"])),
            both
        );
        assert_eq!(watched(&deployment(&["run"])), Vec::<String>::new());
        assert_eq!(watched(&[]), Vec::<String>::new());
    }
}
