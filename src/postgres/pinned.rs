//! The settings of our connections. Whoever may write ALTER ROLE, ALTER DATABASE or ALTER SYSTEM sets
//! defaults for them too: all that we rely on is set by us, read back first of all, and a server that
//! does not keep it is not used. Pure; must not send anything.

use crate::model::{Class, Failure, Reason, RoleName};

use super::connect::{ADMINISTRATORS, Timeouts};
use super::error::one_line;
use super::message::Table;

/// Only the server's own names, and its temporary ones last: whoever may create functions in schema
/// public would else have ours call theirs, with the rights of the administrator.
const SEARCH_PATH: &str = "pg_catalog,pg_temp";

/// What every version knows, and our statements or what we read from their answers rely on.
const FIXED: &[(&str, &str)] = &[
    ("search_path", SEARCH_PATH),
    // Or all is done as another role.
    ("role", "none"),
    ("default_transaction_read_only", "off"),
    // Serializable would refuse our changes for what others read.
    ("default_transaction_isolation", "read\\ committed"),
    ("default_transaction_deferrable", "off"),
    // What was given must not be forgotten when the server breaks down.
    ("synchronous_commit", "on"),
    ("standard_conforming_strings", "on"),
    ("backslash_quote", "safe_encoding"),
    // Names and signatures are compared as the server prints them.
    ("quote_all_identifiers", "off"),
    ("array_nulls", "on"),
    ("transform_null_equals", "off"),
    ("bytea_output", "hex"),
    ("DateStyle", "ISO"),
    ("row_security", "on"),
    // With it a refused statement ends the connection.
    ("exit_on_error", "off"),
    // Else every statement may bring a flood of messages.
    ("client_min_messages", "notice"),
    // Compiling a catalog query takes longer than the query.
    ("jit", "off"),
];

/// What later versions know, and from which one on.
const LATER: &[(u32, &str, &str)] = &[
    (14, "idle_session_timeout", "0"),
    // A message of a client that is gone is not worked on.
    (14, "client_connection_check_interval", "2000"),
    // Else whoever makes a role is made a member of it, with these options.
    (16, "createrole_self_grant", "''"),
    (17, "transaction_timeout", "0"),
];

/// The settings that are read back, as the server prints them.
const READ_BACK: [&str; 5] = [
    "search_path",
    "role",
    "statement_timeout",
    "lock_timeout",
    ADMINISTRATORS,
];

/// The options of a connection's start.
pub(super) fn options(timeouts: Timeouts, administrators: &[RoleName]) -> String {
    let Timeouts {
        statement, lock, ..
    } = timeouts;
    let statement = statement.as_millis().max(1);
    let fixed = FIXED
        .iter()
        .map(|(name, value)| format!("-c {name}={value}"));
    let mut options: Vec<String> = fixed.collect();
    options.push(format!(
        "-c statement_timeout={statement} -c lock_timeout={lock} -c idle_in_transaction_session_timeout={statement} -c {ADMINISTRATORS}={names}",
        lock = lock.as_millis().max(1),
        names = json_of(administrators),
    ));
    options.join(" ")
}

/// The first message of a connection. SET and SHOW call no function, so that nothing of others runs
/// wherever a search path leads. `version` is what the server said of itself at the start.
pub(super) fn first_message(version: Option<&str>) -> String {
    let major = version.and_then(major).unwrap_or_default();
    let known = LATER.iter().filter(|(from, ..)| *from <= major);
    let mut statements: Vec<String> = known
        .map(|(_, name, value)| format!("SET {name} = {value}"))
        .collect();
    statements.extend(READ_BACK.map(|name| format!("SHOW {name}")));
    statements.join("; ")
}

/// `16.4 (Debian ...)` and `17beta1` begin with the major version.
fn major(version: &str) -> Option<u32> {
    let digits = version.split(|c: char| !c.is_ascii_digit()).next()?;
    digits.parse().ok()
}

/// Whether the connection has the settings that it was opened with.
pub(super) fn check(
    server: &str,
    timeouts: Timeouts,
    administrators: &[RoleName],
    answers: &[Table],
) -> Result<(), Failure> {
    let shown = |name: &str| {
        let table = answers.iter().find(|table| table.has(name))?;
        table.rows().next()?.get(name).map(str::to_owned)
    };
    let path = shown("search_path").unwrap_or_default();
    if path.replace(' ', "") != SEARCH_PATH {
        return Err(pooler(
            server,
            &format!("search_path is {}", one_line(&path)),
        ));
    }
    if shown("role").as_deref() != Some("none") {
        return Err(pooler(server, "role is not none"));
    }
    for (name, limit) in [
        ("statement_timeout", timeouts.statement),
        ("lock_timeout", timeouts.lock),
    ] {
        let is = shown(name).unwrap_or_default();
        if milliseconds(&is) != Some(limit.as_millis().max(1)) {
            let what = format!("{name} is {}, not {limit:?}", one_line(&is));
            return Err(pooler(server, &what));
        }
    }
    let names: Option<Vec<String>> = shown(ADMINISTRATORS)
        .as_deref()
        .and_then(|names| serde_json::from_str(names).ok());
    let expected = administrators.iter().map(|name| name.as_str().to_owned());
    if names != Some(expected.collect()) {
        return Err(pooler(server, &format!("{ADMINISTRATORS} is not as set")));
    }
    Ok(())
}

/// As the server prints a time: in the largest unit that divides it.
fn milliseconds(shown: &str) -> Option<u128> {
    let digits = shown.trim_end_matches(|c: char| c.is_ascii_alphabetic());
    let unit = match shown.get(digits.len()..)? {
        "ms" | "" => 1,
        "s" => 1_000,
        "min" => 60_000,
        "h" => 3_600_000,
        "d" => 86_400_000,
        _ => return None,
    };
    digits.parse::<u128>().ok()?.checked_mul(unit)
}

/// Something between us and the server that does not hand on what a connection asks for.
pub(super) fn pooler(server: &str, said: &str) -> Failure {
    let message = format!(
        "{server} did not take the settings of our connection ({said}): that is how a connection pooler answers, and roles cannot be managed safely through one; name the server's own host and port in spec.host and spec.port (5432; a pooler of the server, such as PgBouncer, has another one, such as 6432)"
    );
    Failure::new(Class::Denied, Reason::PoolerNotSupported, message)
}

/// Names in JSON, as an option of a connection is written: spaces and backslashes behind a backslash.
fn json_of(names: &[RoleName]) -> String {
    let names: Vec<&str> = names.iter().map(RoleName::as_str).collect();
    let mut text = String::new();
    for c in serde_json::Value::from(names).to_string().chars() {
        if c.is_ascii_whitespace() || c == '\\' {
            text.push('\\');
        }
        text.push(c);
    }
    text
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    fn timeouts() -> Timeouts {
        Timeouts {
            connect: Duration::from_secs(10),
            statement: Duration::from_secs(90),
            lock: Duration::from_millis(1_500),
        }
    }

    fn administrators() -> Vec<RoleName> {
        vec![RoleName::parse("a \"b\\").unwrap()]
    }

    fn answers(change: (&str, &str)) -> Vec<Table> {
        let usual = [
            ("search_path", "pg_catalog, pg_temp"),
            ("role", "none"),
            ("statement_timeout", "90s"),
            ("lock_timeout", "1500ms"),
            (ADMINISTRATORS, r#"["a \"b\\"]"#),
        ];
        let table = |(name, usual): (&str, &str)| {
            let value = if name == change.0 { change.1 } else { usual };
            Table::new(&[name], &[&[Some(value)]])
        };
        usual.into_iter().map(table).collect()
    }

    #[test]
    fn nothing_outside_pg_catalog_is_ever_called() {
        let options = options(timeouts(), &administrators());
        assert!(options.starts_with("-c search_path=pg_catalog,pg_temp -c role=none "));
        assert!(options.contains("-c statement_timeout=90000 -c lock_timeout=1500 "));
        // As the server reads options: `["a \"b\\"]`.
        let administrators = r#" -c entrapostgres.administrators=["a\ \\"b\\\\"]"#;
        assert!(options.ends_with(administrators), "{options}");
    }

    // Red when: a name that a version does not know is sent to it.
    #[test]
    fn only_settings_that_the_version_knows_are_set() {
        let sets = |version| first_message(version).matches("SET ").count();
        let versions = [
            None,
            Some("11.22"),
            Some("14.9"),
            Some("15.5 (Debian)"),
            Some("16.1"),
            Some("18beta1"),
        ];
        assert_eq!(versions.map(sets), [0, 0, 2, 2, 3, 4]);
        assert!(first_message(None).starts_with("SHOW search_path; SHOW role; "));
    }

    // Red when: `check` passes over one of the settings.
    #[test]
    fn a_server_that_does_not_keep_our_settings_is_called_a_pooler() {
        let checked = |change| check("server", timeouts(), &administrators(), &answers(change));
        assert_eq!(checked(("", "")), Ok(()));
        for change in [
            ("search_path", "\"$user\", public"),
            ("search_path", "public, pg_catalog, pg_temp"),
            ("role", "azure_pg_admin"),
            ("statement_timeout", "0"),
            ("lock_timeout", "15s"),
            ("lock_timeout", "1500 years"),
            (ADMINISTRATORS, ""),
            (ADMINISTRATORS, "[]"),
        ] {
            let failure = checked(change).unwrap_err();
            let is = (failure.class, failure.reason);
            assert_eq!(
                is,
                (Class::Denied, Reason::PoolerNotSupported),
                "{change:?}"
            );
            assert!(failure.message.contains("spec.port"), "{failure}");
        }
        assert!(check("server", timeouts(), &administrators(), &[]).is_err());
    }
}
