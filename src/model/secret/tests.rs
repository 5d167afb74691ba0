//! Formats, templates and the judgement of what is there.

use std::collections::{BTreeMap, BTreeSet};

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use jiff::{SignedDuration, Timestamp};
use strum::IntoEnumIterator as _;

use super::*;
use crate::api::{SecretFormat, SecretTemplate, TokenSecret};
use crate::model::{Class, Failure, Look, ObjectId, Reason};

const PEM: &str = "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n";
const USER: &str = "o'brien \"x\" \\ ü%";

fn all_formats() -> Vec<SecretFormat> {
    SecretFormat::iter().collect()
}

fn token() -> String {
    let claims = URL_SAFE_NO_PAD.encode(r#"{"tid":"the-tenant"}"#);
    format!("eyJhbGciOiJub25lIn0.{claims}.c2ln-_x")
}

fn end() -> Timestamp {
    Timestamp::from_second(1_795_000_000).expect("in range")
}

fn connection() -> Connection {
    Connection {
        host: "orders.postgres.database.azure.com".to_owned(),
        port: 5432,
        database: "my db".to_owned(),
        user: USER.to_owned(),
        ca: None,
    }
}

fn with_ca() -> Connection {
    Connection {
        ca: Some(PEM.to_owned()),
        ..connection()
    }
}

fn texts(pairs: &[(&str, &str)]) -> BTreeMap<String, String> {
    let pairs = pairs.iter();
    pairs
        .map(|(key, text)| ((*key).to_owned(), (*text).to_owned()))
        .collect()
}

fn spec(formats: &[SecretFormat], data: &[(&str, &str)]) -> TokenSecret {
    let template = SecretTemplate {
        data: Some(texts(data)),
        ..SecretTemplate::default()
    };
    TokenSecret {
        formats: formats.to_vec(),
        template: (!data.is_empty()).then_some(template),
        ..TokenSecret::default()
    }
}

fn parse(spec: &TokenSecret) -> Result<Layout, Failure> {
    Layout::parse(spec, "api", USER, "my db")
}

fn layout(formats: &[SecretFormat], data: &[(&str, &str)]) -> Layout {
    parse(&spec(formats, data)).expect("a good layout")
}

fn render(layout: &Layout, connection: &Connection) -> BTreeMap<String, String> {
    layout
        .render(connection, &token(), end())
        .expect("it renders")
}

fn keys(data: &BTreeMap<String, String>) -> Vec<&str> {
    data.keys().map(String::as_str).collect()
}

#[test]
fn each_format_has_its_keys_and_only_what_is_asked_for_is_written() {
    use SecretFormat::{Conninfo, Env, Json, PgPass, ServiceBinding, Uri};
    let binding = "database,host,password,port,provider,type,uri,username";
    let env = "PGDATABASE,PGHOST,PGPASSWORD,PGPORT,PGSSLMODE,PGUSER";
    let with = |keys: &str, more: &[&str]| {
        let mut keys: Vec<_> = keys.split(',').map(str::to_owned).collect();
        keys.extend(more.iter().map(|key| (*key).to_owned()));
        keys.sort();
        keys
    };
    for (format, plain, more) in [
        (ServiceBinding, binding, &["certificates"][..]),
        (Env, env, &["PGSSLROOTCERT", "ca.crt"]),
        (PgPass, "pgpass", &[]),
        (Uri, "uri", &["ca.crt"]),
        (Conninfo, "conninfo", &["ca.crt"]),
        (Json, "token.json", &[]),
    ] {
        let layout = layout(&[format], &[]);
        assert_eq!(keys(&render(&layout, &connection())), with(plain, &[]));
        assert_eq!(keys(&render(&layout, &with_ca())), with(plain, more));
        assert_eq!(layout.wants_ca(), !more.is_empty(), "{format}");
    }
    let all = layout(&all_formats(), &[]);
    assert_eq!(
        render(&all, &with_ca()).len(),
        20,
        "uri and ca.crt are shared"
    );
}

#[test]
fn each_format_says_the_same_in_its_own_words() {
    let data = render(&layout(&all_formats(), &[]), &connection());
    let token = token();
    assert_eq!(data["username"], USER);
    assert_eq!(data["PGUSER"], USER);
    assert_eq!(data["PGSSLMODE"], "require");
    let host = "orders.postgres.database.azure.com";
    assert_eq!(
        data["uri"],
        format!(
            "postgresql://o%27brien%20%22x%22%20%5C%20%C3%BC%25:{token}@{host}:5432/my%20db?sslmode=require"
        )
    );
    assert_eq!(
        data["conninfo"],
        format!(
            r#"host={host} port=5432 dbname=my\ db user=o\'brien\ "x"\ \\\ ü% password={token} sslmode=require"#
        )
    );
    assert_eq!(
        data["pgpass"],
        format!("{host}:5432:my db:o'brien \"x\" \\\\ ü%:{token}\n")
    );
    let json: serde_json::Value = serde_json::from_str(&data["token.json"]).expect("JSON");
    assert_eq!(
        json,
        serde_json::json!({
            "accessToken": token, "expiresOn": "2026-11-18 11:06:40.000000", "expires_on": 1_795_000_000,
            "tenant": "the-tenant", "tokenType": "Bearer",
        })
    );
}

// Red when: Values::names_ca is true without a declared mount.
#[test]
fn a_ca_is_named_where_workloads_say_they_mount_it() {
    let spec = |mount: Option<&str>, formats: &[SecretFormat]| TokenSecret {
        mount_path: mount.map(str::to_owned),
        ..spec(formats, &[])
    };
    let formats = [SecretFormat::Env, SecretFormat::Uri, SecretFormat::Conninfo];
    let silent = parse(&spec(None, &formats)).expect("good");
    let data = render(&silent, &with_ca());
    assert_eq!(
        data["PGSSLROOTCERT"],
        "/var/run/secrets/entrapostgres.io/api/ca.crt"
    );
    assert_eq!(data["PGSSLMODE"], "require");
    assert!(data["uri"].ends_with("?sslmode=require"), "{}", data["uri"]);
    assert_eq!(data["ca.crt"], PEM);

    let mounted = parse(&spec(Some("/etc/db"), &formats)).expect("good");
    let data = render(&mounted, &with_ca());
    assert_eq!(data["PGSSLROOTCERT"], "/etc/db/ca.crt");
    assert_eq!(data["PGSSLMODE"], "verify-full");
    assert!(data["uri"].ends_with("?sslmode=verify-full&sslrootcert=%2Fetc%2Fdb%2Fca.crt"));
    assert!(data["conninfo"].ends_with(" sslmode=verify-full sslrootcert=/etc/db/ca.crt"));
    // Without a CA of its own there is nothing to name.
    assert!(render(&mounted, &connection())["uri"].ends_with("?sslmode=require"));

    let binding = parse(&spec(Some("/b"), &[SecretFormat::ServiceBinding])).expect("good");
    let data = render(&binding, &with_ca());
    assert_eq!(data["certificates"], PEM);
    assert!(data["uri"].ends_with("sslrootcert=%2Fb%2Fcertificates"));
}

#[test]
fn a_template_has_placeholders_filters_and_conditions() {
    let template = [
        (
            "jdbc",
            "jdbc:postgresql://{{ host }}:{{ port }}/{{ database | urlencode }}?user={{ user | urlencode }}&password={{ token }}",
        ),
        (
            "all.json",
            "{\"u\": {{ user | json }}, \"e\": \"{{ expiresOn }}\", \"t\": \"{{ tenant }}\"}\n",
        ),
        ("env.sh", "PGUSER={{ user | shell }}{# said #}"),
        (
            "tls",
            "{% if ca %}{{ sslmode }} {{ caFile }}\n{{ ca }}{% else %}none{% endif %}",
        ),
    ];
    let layout = layout(&[], &template);
    assert!(layout.wants_ca());
    let data = render(&layout, &connection());
    assert_eq!(data.len(), 4);
    assert!(data["jdbc"].ends_with(&format!(
        "5432/my%20db?user=o%27brien%20%22x%22%20%5C%20%C3%BC%25&password={}",
        token()
    )));
    assert_eq!(
        data["all.json"],
        "{\"u\": \"o'brien \\\"x\\\" \\\\ ü%\", \"e\": \"2026-11-18T11:06:40Z\", \"t\": \"the-tenant\"}\n"
    );
    assert_eq!(data["env.sh"], r#"PGUSER='o'\''brien "x" \ ü%'"#);
    assert_eq!(data["tls"], "none");
    let secured = render(&layout, &with_ca());
    assert_eq!(
        secured["tls"],
        format!("require /var/run/secrets/entrapostgres.io/api/ca.crt\n{PEM}")
    );
}

/// Keys with their texts, and the words that the refusal has.
type Case<'a> = (&'a [(&'a str, &'a str)], &'a [&'a str]);

// Red when: check_text does not ask for undeclared variables, or for its shape (the process ends);
// Template::parse does not check names;
// Layout::parse does not probe.
#[test]
fn what_is_wrong_with_a_template_is_said_with_field_and_line() {
    let many = "x".repeat(16_000);
    let large = format!("{{% for i in '123' %}}{many}{{% endfor %}}");
    let large: Vec<(String, String)> = (0..32).map(|n| (format!("k{n}"), large.clone())).collect();
    let large: Vec<(&str, &str)> = large
        .iter()
        .map(|(k, t)| (k.as_str(), t.as_str()))
        .collect();
    let deep = format!("x\n{{{{ {}1 }}}}", "-".repeat(15_000));
    let bad: [Case<'_>; 17] = [
        (
            &[("a", "x\n{{ token }")],
            &["data[\"a\"], line 2: syntax error"],
        ),
        (
            &[("a", "{{ token }}\n\n{{ tokn }}")],
            &["data[\"a\"], line 3", "\"tokn\"", "expiresOn"],
        ),
        (
            &[("a", "{% if ca %}\n{{ x }}{% endif %}")],
            &["line 2", "no placeholder \"x\""],
        ),
        (
            &[("a", "{{ token | b64 }}")],
            &["line 1: unknown filter", "urlencode"],
        ),
        (&[("a", "{{ token.x }}")], &["line 1: undefined value"]),
        (&[("a", "{% include 'b' %}")], &["line 1: syntax error"]),
        (&[("a", "{{ range(10) }}")], &["no placeholder \"range\""]),
        (
            &[("a", "{{ 'x' * 100000000 }}")],
            &["line 1", "too much work or memory"],
        ),
        (
            &[(
                "a",
                "{% for a in '123456789' %}{% for b in '123456789' %}{% for c in '123456789' %}{% for d in '123456789' %}{% for e in '123456789' %}x{% endfor %}{% endfor %}{% endfor %}{% endfor %}{% endfor %}",
            )],
            &["too much work"],
        ),
        // What parsing it would take, and what comparing it would.
        (&[("a", &deep)], &["data[\"a\"], line 2: a tag of more"]),
        (
            &[("a", "{% set a = [a, a] %}")],
            &["line 1: a list or map in a tag"],
        ),
        (&[("a/b", "{{ token }}")], &["data[\"a/b\"]: a key has"]),
        (&[("..a", "{{ token }}")], &["data[\"..a\"]: a key has"]),
        (
            &[("password", "x")],
            &["data[\"password\"]", "ServiceBinding writes this key"],
        ),
        (
            &[("certificates", "x")],
            &["data[\"certificates\"]", "ServiceBinding writes this key"],
        ),
        (
            &[("a", "{{ user | pgpass | pgpass(1) }}")],
            &["line 1: too many arguments"],
        ),
        (&large, &["the Secret would have", "1048576"]),
    ];
    for (data, words) in bad {
        let refused = parse(&spec(&[SecretFormat::ServiceBinding], data)).expect_err("refused");
        assert_eq!(refused.reason, Reason::TemplateInvalid);
        assert_eq!(refused.class, Class::Invalid);
        for word in words {
            assert!(
                refused.message.contains(word),
                "{word}: {}",
                refused.message
            );
        }
        assert!(
            refused.message.contains("token.secret.template.data"),
            "{}",
            refused.message
        );
    }
    for data in [
        &[("a", "{{ host }}")][..],
        &[("a", "{{ token }}x")],
        &[("a", "{% if ca %}{{ token }}{% endif %}")],
        &[],
    ] {
        let refused = parse(&spec(&[], data)).expect_err("no token to be found");
        assert!(
            refused.message.contains("found again"),
            "{}",
            refused.message
        );
    }
}

#[test]
fn reserved_labels_and_annotations_are_refused() {
    let named = |labels: &[(&str, &str)], annotations: &[(&str, &str)]| TokenSecret {
        template: Some(SecretTemplate {
            labels: Some(texts(labels)),
            annotations: Some(texts(annotations)),
            data: None,
        }),
        ..TokenSecret::default()
    };
    for name in [
        "kubernetes.io/a",
        "app.kubernetes.io/managed-by",
        "k8s.io/a",
        "x.k8s.io/a",
        "entrapostgres.io/token-sha256",
        "a.entrapostgres.io/b",
    ] {
        for spec in [named(&[(name, "x")], &[]), named(&[], &[(name, "x")])] {
            let refused = parse(&spec).expect_err("refused");
            assert_eq!(refused.reason, Reason::TemplateInvalid);
            assert!(refused.message.contains(name), "{}", refused.message);
        }
    }
    let good = named(
        &[("team", "a"), ("mykubernetes.io/a", "b")],
        &[("argocd.argoproj.io/x", "y")],
    );
    let layout = parse(&good).expect("good");
    assert_eq!(layout.labels()["team"], "a");
    let reserved = |prefix: &str| {
        let prefixes = [prefix.to_owned()];
        layout.reserved(&prefixes).count()
    };
    assert_eq!(reserved("argoproj.io"), 1);
    assert_eq!(reserved("goproj.io"), 0);
}

// Red when: Template::render shows the words of the error.
#[test]
fn the_token_is_in_no_error() {
    for text in [
        "{{ -token }}",
        "{{ token - 1 }}",
        "{{ token ** token }}",
        "{{ token.token }}",
        "{{ token() }}",
    ] {
        // What the made-up values cannot do, the real ones could.
        let refused = parse(&spec(&[SecretFormat::Env], &[("a", text)]));
        assert!(refused.is_err(), "{text}");
        let template = format!("{{% if port == '5433' %}}{text}{{% endif %}}");
        let layout = layout(&[SecretFormat::Env], &[("a", &template)]);
        let connection = Connection {
            port: 5433,
            ..connection()
        };
        let failure = layout
            .render(&connection, &token(), end())
            .expect_err("it fails");
        assert!(!failure.message.contains("eyJ"), "{}", failure.message);
        assert!(
            failure.message.contains("data[\"a\"], line 1"),
            "{}",
            failure.message
        );
    }
}

#[test]
fn a_line_break_does_not_get_into_a_password_file() {
    let parse = |format| Layout::parse(&spec(&[format], &[]), "api", "a\nb", "postgres");
    let refused = parse(SecretFormat::PgPass).expect_err("refused");
    assert_eq!(refused.reason, Reason::InvalidSpec);
    assert!(parse(SecretFormat::Conninfo).is_ok());
}

// Red when: only an intact Secret's token is compared with ours.
#[test]
fn after_a_conflict_no_token_goes_over_one_that_ends_later() {
    let theirs = record();
    let (ends, second) = (theirs.expires_at, SignedDuration::from_secs(1));
    for (content, expected) in [
        (
            Content::Intact(theirs.clone()),
            AfterConflict::Keep(theirs.clone()),
        ),
        (Content::Differs(theirs.clone()), AfterConflict::Repair),
        (
            Content::Immutable(Some(theirs.clone())),
            AfterConflict::Repair,
        ),
    ] {
        for ours in [ends, ends - second] {
            assert_eq!(AfterConflict::decide(content.clone(), ours), expected);
        }
        let later = AfterConflict::decide(content, ends + second);
        assert_eq!(later, AfterConflict::Ours);
    }
    for content in [Content::Broken, Content::Immutable(None)] {
        assert_eq!(AfterConflict::decide(content, ends), AfterConflict::Ours);
    }
}

fn record() -> TokenRecord {
    TokenRecord {
        issued_at: Timestamp::from_second(1).expect("in range"),
        expires_at: end(),
        sha256: fingerprint(&token()),
        object_id: ObjectId::parse("11111111-2222-3333-4444-555555555555").expect("a GUID"),
        identity: "identity".to_owned(),
        renewed: None,
        lives: None,
    }
}

fn present(layout: &Layout) -> Present {
    let data = render(layout, &connection());
    Present {
        written: Written {
            data: data.keys().cloned().collect(),
            ..Written::default()
        },
        data,
        labels: layout.labels().clone(),
        annotations: record().annotations(),
        immutable: false,
    }
}

// Red when: Present::is_as_declared leaves out `written`, or compares what others put there.
#[test]
fn a_secret_is_judged_by_the_hash_and_by_what_is_declared() {
    let binding = layout(&[SecretFormat::ServiceBinding], &[]);
    let judge = |present: &Present, layout: &Layout| Content::judge(present, &connection(), layout);
    let mut secret = present(&binding);
    assert_eq!(judge(&secret, &binding), Content::Intact(record()));
    let differs = Content::Differs(record());
    assert_eq!(judge(&secret, &binding).labelled(false), differs);
    // Every other layout finds the token, and what is too much.
    for format in all_formats() {
        let other = layout(&[format], &[]);
        let expected = if format == SecretFormat::ServiceBinding {
            Content::Intact(record())
        } else {
            differs.clone()
        };
        assert_eq!(judge(&secret, &other), expected, "{format}");
        assert_eq!(judge(&present(&other), &binding), expected, "{format}");
    }
    let another = Content::judge(&secret, &with_ca(), &binding);
    assert_eq!(another, differs, "a CA of its own");
    secret
        .data
        .insert("extra".to_owned(), "by others".to_owned());
    assert_eq!(judge(&secret, &binding), Content::Intact(record()));
    secret.written.data.insert("extra".to_owned());
    assert_eq!(
        judge(&secret, &binding),
        differs,
        "ours, and declared no more"
    );
    secret.written.data = BTreeSet::new();
    secret.written.labels.insert("team".to_owned());
    assert_eq!(judge(&secret, &binding), differs);
    secret.written.labels = BTreeSet::new();
    secret
        .data
        .insert("password".to_owned(), "by hand".to_owned());
    assert_eq!(judge(&secret, &binding), Content::Broken);
    secret.data = BTreeMap::new();
    assert_eq!(judge(&secret, &binding), Content::Broken);
    let locked = Present {
        immutable: true,
        ..present(&binding)
    };
    assert_eq!(judge(&locked, &binding), Content::Immutable(Some(record())));
}

// Red when: `in_seconds` leaves fractions.
#[test]
fn a_record_is_what_its_annotations_say() {
    let fraction = jiff::SignedDuration::from_millis(500);
    let written = TokenRecord {
        issued_at: record().issued_at + fraction,
        expires_at: record().expires_at + fraction,
        ..record()
    };
    let written = written.in_seconds();
    assert_eq!(TokenRecord::read(&written.annotations()), Some(written));
}

// Red when: Present::token believes the annotation.
#[test]
fn a_token_ends_when_it_says_whatever_the_annotation_says() {
    let layout = layout(&[SecretFormat::ServiceBinding], &[]);
    let claims = URL_SAFE_NO_PAD.encode(format!(r#"{{"exp":{}}}"#, end().as_second()));
    let token = format!("eyJhbGciOiJub25lIn0.{claims}.c2ln-_x");
    let record = TokenRecord {
        sha256: fingerprint(&token),
        ..record()
    };
    let mut secret = Present {
        data: layout
            .render(&connection(), &token, end())
            .expect("rendered"),
        annotations: record.annotations(),
        ..present(&layout)
    };
    let judge = |secret: &Present| Content::judge(secret, &connection(), &layout);
    assert_eq!(judge(&secret), Content::Intact(record.clone()));
    let later = "2099-01-01T00:00:00Z".to_owned();
    secret.annotations.insert(EXPIRES_AT.to_owned(), later);
    assert_eq!(judge(&secret), Content::Differs(record));
}

#[test]
fn labels_and_annotations_of_the_template_are_compared() {
    let spec = TokenSecret {
        template: Some(SecretTemplate {
            labels: Some(texts(&[("team", "a")])),
            annotations: Some(texts(&[("example.com/x", "y")])),
            data: None,
        }),
        ..TokenSecret::default()
    };
    let layout = parse(&spec).expect("good");
    let mut secret = present(&layout);
    let judge = |secret: &Present| Content::judge(secret, &connection(), &layout);
    assert_eq!(judge(&secret), Content::Differs(record()));
    secret.annotations.extend(layout.annotations().clone());
    assert_eq!(judge(&secret), Content::Intact(record()));
    secret.labels.insert("team".to_owned(), "b".to_owned());
    assert_eq!(judge(&secret), Content::Differs(record()));
}

#[test]
fn a_ca_that_is_not_known_now_is_taken_from_the_secret() {
    let uri = layout(&[SecretFormat::Uri], &[]);
    let known = |data: &[(&str, &str)], layout: &Layout| layout.ca_in(&texts(data));
    assert_eq!(
        known(&[("ca.crt", PEM)], &uri),
        Look::Known(Some(PEM.to_owned()))
    );
    assert_eq!(
        known(&[("certificates", PEM)], &uri),
        Look::Known(Some(PEM.to_owned()))
    );
    assert_eq!(known(&[("uri", "x")], &uri), Look::Known(None));
    let own = layout(&[], &[("root.pem", "{{ ca }}"), ("p", "{{ token }}")]);
    assert_eq!(
        known(&[("root.pem", PEM)], &own),
        Look::Known(Some(PEM.to_owned()))
    );
    let hidden = layout(&[], &[("p", "{{ token }} {{ ca | json }}")]);
    assert!(matches!(known(&[("p", "x")], &hidden), Look::Unknown(_)));
}

#[test]
fn certificates_are_written_as_pem() {
    let der = vec![0_u8; 50];
    let text = pem([der.as_slice()]);
    let lines: Vec<&str> = text.lines().collect();
    assert_eq!(lines.len(), 4);
    assert_eq!((lines[1].len(), lines[2]), (64, "AAA="));
}

// Red when: was_made_before() asks for less than the whole record, its identity and its time.
#[test]
fn only_the_record_of_an_earlier_object_of_this_identity_makes_a_secret_without_an_owner_ours() {
    use crate::api::{Identity, OperatorIdentity};
    let own = Identity::default();
    let other = Identity {
        operator: Some(OperatorIdentity {}),
        ..Identity::default()
    };
    let at = |second| Timestamp::from_second(second).expect("in range");
    let record = TokenRecord {
        issued_at: at(100),
        expires_at: at(200),
        sha256: "x".to_owned(),
        object_id: ObjectId::parse("00000000-0000-0000-0000-000000000001").expect("an id"),
        identity: identity_of(&own),
        renewed: None,
        lives: None,
    };
    let written = record.annotations();
    // A restored object may bring its status.
    assert!(was_made_before(&written, &own, Some(at(101)), true));
    // All in one second, or by clocks that differ.
    assert!(was_made_before(&written, &own, Some(at(90)), false));
    // This very object wrote it: somebody took it away since.
    assert!(!was_made_before(&written, &own, Some(at(100)), true));
    assert!(!was_made_before(&written, &own, None, true));
    assert!(!was_made_before(&written, &other, Some(at(101)), false));
    for name in written.keys() {
        let mut less = written.clone();
        less.remove(name);
        assert!(
            !was_made_before(&less, &own, Some(at(101)), false),
            "{name}"
        );
    }
}

mod hostile {
    //! Whatever a template says, it ends without a panic, within a bound of memory and work.

    use proptest::collection::{btree_map, vec};
    use proptest::prelude::*;

    use super::*;
    use crate::model::testing::cost;

    /// A key may do 4,000 steps, each with 64 bytes, and a Secret has a megabyte.
    const PEAK: u64 = 8 << 20;

    fn piece() -> impl Strategy<Value = String> {
        prop_oneof![
            "[a-z{}%# ]{0,12}",
            Just("{{ token }}".to_owned()),
            Just("{% for x in range(100000) %}{{ token }}{% endfor %}".to_owned()),
            Just("{% set x = token * 1000 %}{{ x }}".to_owned()),
            Just(
                "{% set x = token ~ token %}{% set x = x ~ x %}{% set x = x ~ x %}{{ x }}"
                    .to_owned()
            ),
            Just("{{ user | json | json | json | urlencode }}".to_owned()),
            Just("{{ ((((((1)))))) }}".to_owned()),
            Just("{% macro m() %}{{ m() }}{% endmacro %}{{ m() }}".to_owned()),
            Just("{{ [token] * 100000 }}".to_owned()),
            Just("{{ '%s' % token }}".to_owned()),
            Just("{{ ".to_owned()),
            Just("{% raw %}".to_owned()),
            (1_usize..400).prop_map(|depth| format!(
                "{{{{ {}1{} }}}}",
                "(".repeat(depth),
                ")".repeat(depth)
            )),
            (1_usize..400).prop_map(|depth| "{% if x %}".repeat(depth)),
        ]
    }

    proptest! {
        #![proptest_config(ProptestConfig { cases: 128, ..ProptestConfig::default() })]

        // Red when: the engine has no fuel, or what it makes has no limit.
        #[test]
        fn any_template_has_a_bound(
            texts in btree_map("[a-z]{1,3}", vec(piece(), 0..30).prop_map(|it| it.concat()), 0..4)
        ) {
            let size: usize = texts.values().map(String::len).sum();
            let texts: Vec<(&str, &str)> =
                texts.iter().map(|(key, text)| (key.as_str(), text.as_str())).collect();
            let spec = spec(&[], &texts);
            let cost = cost(|| {
                if let Ok(layout) = parse(&spec) {
                    let _rendered = layout.render(&connection(), &token(), end());
                }
            });
            let most = PEAK + 64 * size as u64;
            prop_assert!(cost.peak <= most, "{size} bytes took {} at once", cost.peak);
            let all = 16 * most;
            prop_assert!(cost.total <= all, "{size} bytes took {}", cost.total);
        }
    }
}
