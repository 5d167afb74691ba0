//! The files in the data directory through which the lab speaks with its module: the directory,
//! the faults and the switches. Each is replaced in one step.

use std::fmt::Write as _;
use std::io::Write as _;
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};

use anyhow::Context as _;

use crate::directory::Directory;
use crate::faults::{Do, Fault, On};

const DIRECTORY_FILE: &str = "pgaadauth.directory";
const FAULTS_FILE: &str = "pgaadauth.faults";
pub(super) const SWITCHES_FILE: &str = "lab.conf";

/// Where nobody outside Azure knows which of two behaviours a server has.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Switches {
    /// Members of `azure_pg_admin` manage every role that is not restricted.
    pub improved_control: bool,
    /// A role that has a label is not given another one.
    pub relabel_refused: bool,
}

pub(super) fn write_switches(data: &Path, switches: Switches) -> anyhow::Result<()> {
    let word = |on| if on { "on" } else { "off" };
    let text = format!(
        "pgaadauth.lab_improved_control = {}\npgaadauth.lab_relabel_refused = {}\n",
        word(switches.improved_control),
        word(switches.relabel_refused)
    );
    replace(data, SWITCHES_FILE, &text)
}

pub(super) fn write_directory(data: &Path, directory: &Directory) -> anyhow::Result<()> {
    replace(data, DIRECTORY_FILE, &render_directory(directory))
}

fn render_directory(directory: &Directory) -> String {
    let mut text = format!("tenant\t{}\n", directory.tenant_id);
    for principal in directory.principals() {
        let name = escape(principal.name());
        let _ = writeln!(
            text,
            "{}\t{}\t{name}",
            principal.type_word(),
            principal.object_id()
        );
    }
    for administrator in directory.administrators() {
        let _ = writeln!(text, "administrator\t{}", administrator.object_id());
    }
    text
}

/// Uses of earlier lists must not count for this one.
static GENERATION: AtomicU64 = AtomicU64::new(1);

pub(super) fn write_faults(data: &Path, faults: &[Fault]) -> anyhow::Result<()> {
    let generation = GENERATION.fetch_add(1, Ordering::Relaxed);
    replace(data, FAULTS_FILE, &render_faults(generation, faults))
}

fn render_faults(generation: u64, faults: &[Fault]) -> String {
    let mut text = String::new();
    let ours = faults.iter().filter(|fault| fault.on == On::Sql);
    for (index, fault) in ours.enumerate() {
        let (state, message) = failure(&fault.action);
        let _ = writeln!(
            text,
            "{generation}-{index}\t{}\t{}\t{state}\t{}\t{}",
            fault.times.unwrap_or(0),
            fault.action.delay_ms.unwrap_or(0),
            escape(&message),
            escape(fault.matching.role.as_deref().unwrap_or_default()),
        );
    }
    text
}

/// SQLSTATE and text; both empty if the call goes on. Whatever is wrong with the directory's
/// answer, Azure says the same.
fn failure(action: &Do) -> (String, String) {
    if let Some(state) = &action.sql_state {
        let message = action.message.clone();
        let message = message.unwrap_or_else(|| "ordered by the lab's faults".into());
        return (state.clone(), message);
    }
    if action.refuse || action.cut || action.garbage || action.empty {
        let message = "An unexpected error occurred while trying to validate user.";
        return ("0LP01".into(), message.into());
    }
    Default::default()
}

/// One field of a line.
fn escape(text: &str) -> String {
    text.replace('\\', "\\\\")
        .replace('\t', "\\t")
        .replace('\n', "\\n")
        .replace('\r', "\\r")
}

/// Writes beside and renames, so that no reader sees half a file.
fn replace(data: &Path, name: &str, text: &str) -> anyhow::Result<()> {
    let write = || -> anyhow::Result<()> {
        let mut file = tempfile::NamedTempFile::new_in(data)?;
        file.write_all(text.as_bytes())?;
        file.as_file()
            .set_permissions(std::fs::Permissions::from_mode(0o644))?;
        file.persist(data.join(name))?;
        Ok(())
    };
    write().with_context(|| format!("cannot write {name} in {}", data.display()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_cannot_break_out_of_their_line() {
        let directory = Directory::parse(
            "{tenantId: 00000000-0000-4000-8000-00000000000a, users: [{name: \"a\\tb\\\\\\nc\", \
             objectId: 00000000-0000-4000-8000-000000000001}]}",
        )
        .unwrap();
        assert_eq!(
            render_directory(&directory),
            "tenant\t00000000-0000-4000-8000-00000000000a\n\
             user\t00000000-0000-4000-8000-000000000001\ta\\tb\\\\\\nc\n"
        );
    }

    #[test]
    fn only_faults_of_sql_are_written() {
        let faults: Vec<Fault> = serde_json::from_str(
            r#"[{"on":"token","do":{"refuse":true}},
                {"on":"sql","match":{"role":"r"},"do":{"delayMs":5},"times":2},
                {"on":"sql","do":{"refuse":true}}]"#,
        )
        .unwrap();
        assert_eq!(
            render_faults(7, &faults),
            "7-0\t2\t5\t\t\tr\n\
             7-1\t0\t0\t0LP01\tAn unexpected error occurred while trying to validate user.\t\n"
        );
    }
}
