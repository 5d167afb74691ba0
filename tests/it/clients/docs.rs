//! The pages of docs/clients: their programs are the ones that are tested. And those of all pages about the
//! two kinds: their manifests are such as the API server takes.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result};
use kube::Client;
use kube::api::{Api, DynamicObject, Patch, PatchParams};
use kube::discovery;
use lab::control_plane::parse_manifests;
use serde_json::{Value, json};

use crate::fixture::{plane, root};

/// A fenced block of a page.
struct Block {
    page: String,
    language: String,
    /// The file it shows, named in a comment above it.
    file: Option<PathBuf>,
    text: String,
}

/// The pages about the two kinds.
const PAGES: [&str; 7] = [
    "deletion.md",
    "identities.md",
    "principals.md",
    "rights.md",
    "secrets.md",
    "servers.md",
    "tenants.md",
];

/// The blocks of the pages in a folder.
fn blocks(folder: &str) -> Result<Vec<Block>> {
    let mut blocks = Vec::new();
    for entry in fs::read_dir(root().join(folder))? {
        let path = entry?.path();
        if !path.is_file() {
            continue;
        }
        let page = path.file_name().unwrap_or_default().display().to_string();
        let text = fs::read_to_string(&path)?;
        let (mut above, mut lines) = ("", text.lines());
        while let Some(line) = lines.next() {
            if let Some(language) = line.strip_prefix("```") {
                let inside = lines.by_ref().take_while(|line| !line.starts_with("```"));
                let file = above
                    .strip_prefix("<!-- ")
                    .and_then(|line| line.strip_suffix(" -->"));
                blocks.push(Block {
                    page: page.clone(),
                    language: language.to_owned(),
                    file: file.map(PathBuf::from),
                    text: inside.fold(String::new(), |text, line| text + line + "\n"),
                });
            }
            above = line;
        }
    }
    Ok(blocks)
}

/// The example programs, from the workspace's folder on.
fn programs() -> Result<BTreeSet<PathBuf>> {
    let mut programs = BTreeSet::new();
    for folder in fs::read_dir(root().join("tests/clients"))? {
        let folder = folder?.path();
        // It drives a person's program, and is not for people.
        if !folder.is_dir() || folder.ends_with("pgadmin") {
            continue;
        }
        for file in fs::read_dir(folder)? {
            let file = file?.path();
            let ends = ["py", "js", "go", "java", "rs", "sh"];
            if file
                .extension()
                .is_some_and(|end| ends.iter().any(|e| end == *e))
            {
                programs.insert(file.strip_prefix(root())?.to_owned());
            }
        }
    }
    Ok(programs)
}

// Red when: a program or its page is changed alone.
#[test]
fn the_pages_show_the_very_programs_that_are_tested() -> Result<()> {
    let mut shown = BTreeSet::new();
    for block in blocks("docs/clients")? {
        let Some(file) = block.file else { continue };
        let path = root().join(&file);
        let tested = fs::read_to_string(&path).with_context(|| path.display().to_string())?;
        assert_eq!(
            block.text,
            tested,
            "{} does not show {}",
            block.page,
            file.display()
        );
        shown.insert(file);
    }
    assert_eq!(shown, programs()?);
    Ok(())
}

// Red when: a page has a field that the CRD does not know, or mounts with subPath.
#[tokio::test(flavor = "multi_thread")]
async fn the_api_server_takes_the_manifests_of_the_pages() -> Result<()> {
    let _ = rustls::crypto::ring::default_provider().install_default();
    let namespace = "documented-clients";
    let object = json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": namespace}});
    plane().apply_text(&object.to_string()).await?;
    let client = plane().kube_client().await?;
    let mut pages = BTreeSet::new();
    for block in blocks("docs/clients")?
        .into_iter()
        .filter(|block| block.language == "yaml")
    {
        for mut object in parse_manifests(&block.text).with_context(|| block.page.clone())? {
            assert_eq!(
                object.metadata.namespace.as_deref(),
                Some("orders"),
                "{}",
                block.page
            );
            object.metadata.namespace = Some(namespace.to_owned());
            taken(&client, &object, &block.page).await?;
            if let Some(pod) = pod(&object.data) {
                check_mount(&block.page, pod);
                pages.insert(block.page.clone());
            }
        }
    }
    let wanted = [
        "jdbc.md",
        "node-postgres.md",
        "pgx.md",
        "psql.md",
        "psycopg.md",
    ];
    assert!(wanted.iter().all(|page| pages.contains(*page)), "{pages:?}");
    Ok(())
}

/// The API server takes an object, without keeping it.
async fn taken(client: &Client, object: &DynamicObject, page: &str) -> Result<()> {
    let types = object.types.as_ref().context("it has a kind")?;
    let (resource, _) = discovery::pinned_kind(client, &types.try_into()?).await?;
    let namespace = object.metadata.namespace.as_deref().unwrap_or_default();
    let api: Api<DynamicObject> = Api::namespaced_with(client.clone(), namespace, &resource);
    let params = PatchParams {
        dry_run: true,
        ..PatchParams::apply("docs").validation_strict()
    };
    let name = object.metadata.name.clone().unwrap_or_default();
    api.patch(&name, &params, &Patch::Apply(object))
        .await
        .with_context(|| format!("{page} has {name}"))?;
    Ok(())
}

/// Writes what a page shows into an object that is whole.
fn merge(into: &mut Value, shown: &Value) {
    match (into, shown) {
        (Value::Object(into), Value::Object(shown)) => {
            for (key, value) in shown {
                merge(into.entry(key).or_insert(Value::Null), value);
            }
        }
        (into, shown) => *into = shown.clone(),
    }
}

/// What a block shows of one of our kinds as a whole object; `None`: it shows something else.
fn whole(page: &str, shown: &Value) -> Option<Value> {
    if shown["kind"].is_string() {
        return Some(shown.clone());
    }
    let principal = || {
        json!({
            "apiVersion": "entrapostgres.io/v1alpha1", "kind": "EntraPostgresPrincipal",
            "metadata": {"name": "shown"},
            "spec": {
                "serverRef": {"name": "orders", "namespace": "platform"}, "roleName": "orders-api",
                "principal": {"type": "ManagedIdentity"},
            },
        })
    };
    let server = || {
        json!({
            "apiVersion": "entrapostgres.io/v1alpha1", "kind": "EntraPostgresServer",
            "metadata": {"name": "shown"},
            "spec": {
                "host": "orders.postgres.database.azure.com",
                "admins": [{"roleName": "pg-operators", "identity": {"operator": {}}}],
            },
        })
    };
    let identity = json!({"workloadIdentity": {"serviceAccountRef": {"name": "orders-api"}}});
    let (mut object, change) = if shown["spec"]["tenants"].is_array() {
        (server(), shown.clone())
    } else if shown["spec"].is_object() && shown["spec"]["containers"].is_null() {
        (principal(), shown.clone())
    } else if shown["token"].is_object() {
        let mut token = json!({"identity": identity});
        merge(&mut token, &shown["token"]);
        (principal(), json!({"spec": {"token": token}}))
    } else if shown["identity"]["operator"].is_object() {
        // Only servers may have that one.
        let admins = json!([{"roleName": "pg-operators", "identity": shown["identity"]}]);
        (server(), json!({"spec": {"admins": admins}}))
    } else if shown["identity"].is_object() {
        let token = json!({"identity": shown["identity"]});
        (principal(), json!({"spec": {"token": token}}))
    } else {
        assert!(
            page != "rights.md" && page != "tenants.md",
            "{page}: {shown}"
        );
        return None;
    };
    merge(&mut object, &change);
    Some(object)
}

// Red when: a page has a field that the CRD does not know, or a value that its rules refuse.
#[tokio::test(flavor = "multi_thread")]
async fn the_api_server_takes_what_the_pages_about_the_kinds_show() -> Result<()> {
    let _ = rustls::crypto::ring::default_provider().install_default();
    let namespace = "documented-kinds";
    let object = json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": namespace}});
    plane().apply_text(&object.to_string()).await?;
    let client = plane().kube_client().await?;
    let mut pages = BTreeSet::new();
    for block in blocks("docs")? {
        if block.language != "yaml" || !PAGES.contains(&block.page.as_str()) {
            continue;
        }
        let shown: Value = serde_yaml::from_str(&block.text).with_context(|| block.page.clone())?;
        let Some(mut object) = whole(&block.page, &shown) else {
            continue;
        };
        object["metadata"]["namespace"] = json!(namespace);
        taken(&client, &serde_json::from_value(object)?, &block.page).await?;
        pages.insert(block.page);
    }
    assert!(PAGES.iter().all(|page| pages.contains(*page)), "{pages:?}");
    Ok(())
}

fn pod(object: &Value) -> Option<&Value> {
    [
        "/spec/template/spec",
        "/spec/jobTemplate/spec/template/spec",
    ]
    .iter()
    .find_map(|pointer| object.pointer(pointer))
}

/// The Secret is mounted whole, and the program is told where.
fn check_mount(page: &str, pod: &Value) {
    let text = pod.to_string();
    for never in ["subPath", "envFrom", "secretKeyRef"] {
        assert!(!text.contains(never), "{page} uses {never}");
    }
    let container = &pod["containers"][0];
    let mount = &container["volumeMounts"][0];
    let volume = &pod["volumes"][0];
    assert_eq!(mount["name"], volume["name"], "{page}");
    assert!(volume["secret"]["secretName"].is_string(), "{page}");
    assert_eq!(mount["readOnly"], true, "{page}");
    let told = container["env"].as_array().into_iter().flatten();
    let mut told = told.filter(|each| each["name"] == "DB_BINDING");
    if let Some(told) = told.next() {
        assert_eq!(told["value"], mount["mountPath"], "{page}");
    }
}

// Red when: a page leaves out what most programs get wrong first.
#[test]
fn every_page_says_what_never_sees_a_renewal() -> Result<()> {
    for page in fs::read_dir(root().join("docs/clients"))? {
        let page = page?.path();
        let text = fs::read_to_string(&page)?;
        // The table of all that never does.
        let is_common = page.ends_with("README.md");
        let sentence = "`env`, `envFrom` and `subPath` never see a renewal";
        assert!(is_common || text.contains(sentence), "{}", page.display());
    }
    Ok(())
}

/// The links of the pages lead somewhere.
#[test]
fn links_within_the_documents_lead_to_files() -> Result<()> {
    for page in fs::read_dir(root().join("docs/clients"))? {
        let page = page?.path();
        let text = fs::read_to_string(&page)?;
        for link in text
            .split("](")
            .skip(1)
            .filter_map(|rest| rest.split(')').next())
        {
            let file = link.split('#').next().unwrap_or_default();
            if file.is_empty() || file.contains("://") {
                continue;
            }
            let target = page.parent().unwrap_or(Path::new(".")).join(file);
            assert!(target.exists(), "{} links to {link}", page.display());
        }
    }
    Ok(())
}
