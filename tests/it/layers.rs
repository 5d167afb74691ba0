//! The design's one-way street, read from the sources: who may import whom, and what the pure part
//! may not know.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Result, ensure};

use crate::fixture::root;

/// Each part of `src/` with its height: a part may import what lies lower, and what has its own
/// height only if that is itself.
const HEIGHTS: [(&str, u8); 15] = [
    ("api", 0),
    ("model", 1),
    ("ports", 2),
    ("clock", 3),
    ("telemetry", 3),
    ("postgres", 4),
    ("entra", 4),
    ("cluster", 4),
    ("settings", 6),
    ("http", 5),
    ("leader", 5),
    ("controller", 7),
    ("run", 8),
    ("cli", 9),
    ("main", 10),
];

/// What would make the pure part depend on time, tasks or the network.
const IMPURE: [&str; 8] = [
    "tokio",
    "kube::Client",
    "kube::Api",
    "kube::api",
    "kube::runtime",
    "now()",
    "async fn",
    ".await",
];

fn sources(dir: &Path, found: &mut Vec<PathBuf>) -> Result<()> {
    for entry in fs::read_dir(dir)? {
        let path = entry?.path();
        if path.is_dir() {
            sources(&path, found)?;
        } else if path.extension().is_some_and(|end| end == "rs") {
            found.push(path);
        }
    }
    Ok(())
}

/// Test code may reach anywhere, and the comments too.
fn is_test(path: &Path) -> bool {
    let text = path.to_string_lossy();
    text.contains("tests") || text.ends_with("testing.rs")
}

/// The lines that are compiled into the operator.
fn code(text: &str) -> impl Iterator<Item = &str> {
    let code = text.split("#[cfg(test)]\nmod tests {").next();
    let lines = code.unwrap_or_default().lines();
    lines.filter(|line| !line.trim_start().starts_with("//"))
}

/// The parts that a line names with `crate::part` or in `crate::{part, other::Thing}`.
fn imported(line: &str) -> BTreeSet<&str> {
    let word = |text: &'_ str| -> usize {
        let end = text.find(|c: char| !c.is_ascii_alphanumeric() && c != '_');
        end.unwrap_or(text.len())
    };
    let after = line.split("crate::").skip(1);
    let named = after.flat_map(|rest| match rest.strip_prefix('{') {
        Some(list) => list.split(',').map(str::trim).collect::<Vec<_>>(),
        None => vec![rest],
    });
    named
        .filter_map(|text| text.get(..word(text)))
        .filter(|part| HEIGHTS.iter().any(|(name, _)| name == part))
        .collect()
}

fn height(part: &str) -> Option<u8> {
    let found = HEIGHTS.iter().find(|(name, _)| *name == part);
    found.map(|(_, height)| *height)
}

fn parts() -> Result<Vec<(String, PathBuf, String)>> {
    let src = root().join("src");
    let mut files = Vec::new();
    sources(&src, &mut files)?;
    let relative = |path: PathBuf| Ok(path.strip_prefix(&src)?.to_path_buf());
    let files = files.into_iter().map(relative);
    let files = files.collect::<Result<Vec<PathBuf>>>()?.into_iter();
    files
        .filter(|path| !is_test(path))
        .map(|relative| {
            let first = relative.iter().next().unwrap_or_default().to_string_lossy();
            let part = first.trim_end_matches(".rs").to_owned();
            let text = fs::read_to_string(src.join(&relative))?;
            Ok((part, relative, text))
        })
        .collect()
}

// Red when: `use crate::cluster::FIELD_MANAGER;` is written into src/entra/broker.rs.
#[test]
fn imports_go_one_way() -> Result<()> {
    let parts = parts()?;
    ensure!(parts.len() > 60, "only {} sources were found", parts.len());
    let mut wrong = Vec::new();
    for (part, path, text) in &parts {
        if part == "lib" {
            continue;
        }
        let Some(own) = height(part) else {
            wrong.push(format!(
                "{}: tests/it/layers.rs does not know {part}",
                path.display()
            ));
            continue;
        };
        for line in code(text) {
            let upward = imported(line)
                .into_iter()
                .filter(|other| other != part && height(other).is_none_or(|other| other >= own));
            for other in upward {
                wrong.push(format!(
                    "{}: {part} imports {other}: {}",
                    path.display(),
                    line.trim()
                ));
            }
        }
    }
    ensure!(wrong.is_empty(), "imports go up:\n{}", wrong.join("\n"));
    Ok(())
}

// Red when: a function of src/model/plan/mod.rs says `jiff::Timestamp::now()`.
#[test]
fn the_model_has_no_clock_no_tasks_and_no_client() -> Result<()> {
    let mut wrong = Vec::new();
    for (part, path, text) in parts()? {
        if !matches!(part.as_str(), "api" | "model") {
            continue;
        }
        for line in code(&text) {
            if let Some(word) = IMPURE.iter().find(|word| line.contains(*word)) {
                wrong.push(format!("{}: {word}: {}", path.display(), line.trim()));
            }
        }
    }
    ensure!(
        wrong.is_empty(),
        "the pure part is not pure:\n{}",
        wrong.join("\n")
    );
    Ok(())
}

#[test]
fn the_check_itself_reads_lists_and_paths() {
    let all = |line| imported(line).into_iter().collect::<Vec<_>>();
    assert_eq!(all("use crate::{api, model::Class};"), ["api", "model"]);
    assert_eq!(
        all("    let x: crate::run::Y = crate::entra::z();"),
        ["entra", "run"]
    );
    assert_eq!(all("use std::collections::BTreeSet;"), [""; 0]);
}
