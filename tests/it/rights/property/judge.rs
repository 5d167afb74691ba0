//! Whether what is there after a reconcile is what has to be.

use std::collections::{BTreeMap, BTreeSet};

use anyhow::{Context as _, Result, ensure};
use serde_json::Value;

use super::random::{ATTRIBUTES, Declared};
use crate::rights::ADMINISTRATOR;

/// Privileges among the lines of a role.
fn privileges(lines: &BTreeSet<String>) -> BTreeSet<String> {
    lines
        .iter()
        .filter(|line| line.contains('|'))
        .cloned()
        .collect()
}

fn settings(lines: &BTreeSet<String>) -> BTreeMap<String, String> {
    let pairs = lines
        .iter()
        .filter_map(|line| line.strip_prefix("setting ")?.split_once('='));
    pairs
        .map(|(name, value)| (name.to_owned(), value.to_owned()))
        .collect()
}

fn groups(lines: &BTreeSet<String>) -> BTreeSet<String> {
    let names = lines
        .iter()
        .filter_map(|line| Some(line.strip_prefix("member of ")?.split_once(" by ")?.0));
    names.map(str::to_owned).collect()
}

/// The attributes among the lines of a role.
fn attributes(lines: &BTreeSet<String>) -> Result<BTreeMap<&'static str, String>> {
    let mut lines = lines.iter();
    let line = lines.find_map(|line| line.strip_prefix("attributes "));
    let words: Vec<&str> = line.context("no attributes")?.split(' ').collect();
    let pairs = ATTRIBUTES.map(|(name, place, _)| (name, words[place].to_owned()));
    Ok(pairs.into())
}

/// The memberships by group and grantor, with their options.
fn rows(lines: &BTreeSet<String>) -> Result<BTreeMap<(String, String), Value>> {
    let of_line = |line: &String| {
        let (group, rest) = line.strip_prefix("member of ")?.split_once(" by ")?;
        let (grantor, options) = rest.split_once(' ')?;
        Some(((group.to_owned(), grantor.to_owned()), options.to_owned()))
    };
    let rows = lines.iter().filter_map(of_line);
    rows.map(|(key, options)| Ok((key, serde_json::from_str(&options)?)))
        .collect()
}

/// What is ours of a role: what it was given because it was declared.
#[derive(Clone, Debug, Default)]
pub(super) struct Ours {
    privileges: BTreeSet<String>,
    groups: BTreeSet<String>,
    settings: BTreeSet<String>,
    attributes: BTreeSet<&'static str>,
}

/// Memberships one by one: what is declared is there just so, and where the grants of others are apart from
/// ours, those are as they were.
pub(super) fn judge_options(
    declared: &Declared,
    apart: bool,
    before: &BTreeSet<String>,
    after: &BTreeSet<String>,
) -> Result<()> {
    let (was, is) = (rows(before)?, rows(after)?);
    for (group, options) in &declared.options {
        let mut there = is.iter().filter(|((name, _), _)| name == group);
        ensure!(
            there.any(|(_, is)| is == options),
            "no membership in {group} is {options}: {is:?}; before: {was:?}"
        );
    }
    if !apart {
        return Ok(());
    }
    let of_others = |rows: BTreeMap<(String, String), Value>| {
        let others = rows.into_iter();
        let others = others.filter(|((_, grantor), _)| grantor != ADMINISTRATOR);
        others.collect::<Vec<_>>()
    };
    let ours: BTreeSet<&String> = is
        .keys()
        .filter(|(_, grantor)| grantor == ADMINISTRATOR)
        .map(|(group, _)| group)
        .collect();
    ensure!(
        ours.iter().all(|group| declared.groups.contains(*group)),
        "{ours:?} is not declared and still there"
    );
    let (was, is) = (of_others(was.clone()), of_others(is.clone()));
    ensure!(was == is, "memberships of others were {was:?}, are {is:?}");
    Ok(())
}

/// Attributes: as declared; what is declared no more is set back where it was ours, and only there.
fn judge_attributes(
    declared: &Declared,
    ours: &mut Ours,
    before: &BTreeSet<String>,
    after: &BTreeSet<String>,
) -> Result<()> {
    let (was, is) = (attributes(before)?, attributes(after)?);
    for (name, _, default) in ATTRIBUTES {
        let (was, mine) = (&was[name], ours.attributes.contains(name));
        let expected = match declared.attributes.get(name) {
            // Closed by somebody else.
            Some(wanted) if name == "login" && wanted == "t" && !mine => was.clone(),
            Some(wanted) => wanted.clone(),
            None if mine => default.to_owned(),
            None => was.clone(),
        };
        ensure!(
            is[name] == expected,
            "{name} was {was}, is {}, not {expected}",
            is[name]
        );
        let open = name == "login" && is[name] == "t";
        if declared.attributes.contains_key(name) && !open && (mine || *was != is[name]) {
            ours.attributes.insert(name);
        } else {
            ours.attributes.remove(name);
        }
    }
    Ok(())
}

/// Compares what is there after a reconcile with what has to be.
pub(super) fn judge(
    declared: &Declared,
    ours: &mut Ours,
    before: &BTreeSet<String>,
    after: &BTreeSet<String>,
) -> Result<()> {
    let held = privileges(before);
    let in_scope = |line: &&String| {
        declared
            .exclusive
            .iter()
            .any(|name| line.starts_with(&format!("{name}|")))
    };
    let given: BTreeSet<String> = declared.privileges.difference(&held).cloned().collect();
    let taken: BTreeSet<String> = ours
        .privileges
        .difference(&declared.privileges)
        .cloned()
        .collect();
    let mut expected: BTreeSet<String> = held.difference(&taken).cloned().collect();
    expected.retain(|line| !in_scope(&line));
    expected.extend(declared.privileges.iter().cloned());
    let got = privileges(after);
    ensure!(
        got == expected,
        "too much: {:?}\ntoo little: {:?}\nbefore: {held:?}\nours: {ours:?}",
        got.difference(&expected).collect::<Vec<_>>(),
        expected.difference(&got).collect::<Vec<_>>(),
    );
    ours.privileges
        .retain(|line| declared.privileges.contains(line));
    ours.privileges.extend(given);

    let (was, is) = (settings(before), settings(after));
    let plain = |value: &str| value.replace(['"', ' '], "");
    for (name, value) in &declared.settings {
        let got = is.get(name).with_context(|| format!("{name} is not set"))?;
        ensure!(plain(got) == plain(value), "{name} is {got}, not {value}");
        if was.get(name).map(|was| plain(was)) != Some(plain(value)) {
            ours.settings.insert(name.clone());
        }
    }
    for (name, value) in &was {
        if !declared.settings.contains_key(name) {
            let expected = (!ours.settings.contains(name)).then_some(value);
            ensure!(
                is.get(name) == expected,
                "{name} is {:?}, not {expected:?}",
                is.get(name)
            );
        }
    }
    ours.settings
        .retain(|name| declared.settings.contains_key(name));
    let held = groups(before);
    let taken = &ours.groups - &declared.groups;
    let expected = &(&held - &taken) | &declared.groups;
    ensure!(
        groups(after) == expected,
        "member of {:?}, not {expected:?}; before: {held:?}",
        groups(after)
    );
    ours.groups = &(&ours.groups & &declared.groups) | &(&declared.groups - &held);
    judge_attributes(declared, ours, before, after)
}
