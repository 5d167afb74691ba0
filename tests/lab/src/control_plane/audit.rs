//! Reads the API server's audit log: who asked for what, and how often.
//! Must not change anything.

use std::fs::File;
use std::io::{BufRead as _, BufReader, Seek as _, SeekFrom};
use std::path::PathBuf;

use anyhow::{Context as _, Result};
use serde::Deserialize;

/// The audit log of one control plane.
#[derive(Clone)]
pub struct Audit {
    path: PathBuf,
}

/// A place in the log: entries after it are those of requests answered later.
#[derive(Clone, Copy, Default)]
pub struct Mark(u64);

/// One answered request; a watch counts when it is opened.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entry {
    pub user: String,
    pub verb: String,
    pub group: String,
    pub resource: String,
    /// Empty, or for example `status` or `token`.
    pub subresource: String,
    pub namespace: String,
    pub name: String,
    pub code: u16,
    pub user_agent: String,
    /// Whether nothing was to be stored.
    pub dry_run: bool,
}

impl Entry {
    /// Whether it asked to change something (refused attempts too, dry runs not). A `TokenRequest` creates
    /// nothing that is stored, and events and leases are writes: see the fields.
    pub fn is_write(&self) -> bool {
        let writes = matches!(
            self.verb.as_str(),
            "create" | "update" | "patch" | "delete" | "deletecollection"
        );
        writes && !self.dry_run
    }

    /// `secrets`, or with a subresource `serviceaccounts/token`.
    pub fn target(&self) -> String {
        if self.subresource.is_empty() {
            self.resource.clone()
        } else {
            format!("{}/{}", self.resource, self.subresource)
        }
    }
}

impl Audit {
    pub(super) fn new(path: PathBuf) -> Self {
        Self { path }
    }

    /// The end of the log now. The API server writes an entry before it answers the request.
    pub fn mark(&self) -> Result<Mark> {
        Ok(Mark(self.path.metadata().map_or(0, |data| data.len())))
    }

    pub fn entries(&self) -> Result<Vec<Entry>> {
        self.since(Mark::default())
    }

    pub fn since(&self, mark: Mark) -> Result<Vec<Entry>> {
        let open = || File::open(&self.path);
        let mut file = open().with_context(|| format!("no audit log {}", self.path.display()))?;
        file.seek(SeekFrom::Start(mark.0))?;
        let mut reader = BufReader::new(file);
        let mut entries = Vec::new();
        let mut line = String::new();
        // A last line without its end is still being written.
        while reader.read_line(&mut line)? > 0 && line.ends_with('\n') {
            let raw: Raw = serde_json::from_str(&line)
                .with_context(|| format!("an audit log line that is none: {line}"))?;
            entries.extend(raw.counted());
            line.clear();
        }
        Ok(entries)
    }

    /// How many requests of `user` with one of `verbs` were answered since `mark`.
    pub fn count(&self, user: &str, verbs: &[&str], mark: Mark) -> Result<usize> {
        let entries = self.since(mark)?;
        let ours = |entry: &&Entry| entry.user == user && verbs.contains(&entry.verb.as_str());
        Ok(entries.iter().filter(ours).count())
    }
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Raw {
    stage: String,
    verb: String,
    user: RawUser,
    #[serde(default, rename = "requestURI")]
    request_uri: String,
    #[serde(default)]
    user_agent: String,
    #[serde(default)]
    object_ref: RawObject,
    #[serde(default)]
    response_status: RawStatus,
}

#[derive(Deserialize)]
struct RawUser {
    username: String,
}

#[derive(Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct RawObject {
    api_group: String,
    resource: String,
    subresource: String,
    namespace: String,
    name: String,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct RawStatus {
    code: u16,
}

impl Raw {
    /// A watch has two lines, at its beginning and at its end; others only have the second.
    fn counted(self) -> Option<Entry> {
        let begins = self.stage == "ResponseStarted";
        if begins != (self.verb == "watch") {
            return None;
        }
        let Self {
            verb,
            user,
            request_uri,
            user_agent,
            object_ref,
            response_status,
            stage: _,
        } = self;
        let RawObject {
            api_group,
            resource,
            subresource,
            namespace,
            name,
        } = object_ref;
        Some(Entry {
            user: user.username,
            verb,
            group: api_group,
            resource,
            subresource,
            namespace,
            name,
            code: response_status.code,
            user_agent,
            dry_run: request_uri.contains("dryRun=All"),
        })
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    // Red when: a dry run, by which the operator asks whether its policies are in force, counts as a write.
    #[test]
    fn a_dry_run_is_no_write() {
        let entry = |uri: &str| {
            let raw = json!({"stage": "ResponseComplete", "verb": "create", "user": {"username": "u"},
                "requestURI": uri, "objectRef": {"resource": "secrets", "namespace": "n"}});
            let raw: Raw = serde_json::from_value(raw).unwrap();
            raw.counted().unwrap()
        };
        assert!(entry("/api/v1/namespaces/n/secrets?fieldManager=x").is_write());
        assert!(!entry("/api/v1/namespaces/n/secrets?&dryRun=All").is_write());
    }
}
