//! The command line as users write it, and the committed definitions.

use clap::CommandFactory as _;
use clap::error::ErrorKind;

use super::*;

fn parse(arguments: &[&str]) -> Result<Cli, ErrorKind> {
    let all = std::iter::once(&"entra-postgres-operator").chain(arguments);
    Cli::try_parse_from(all).map_err(|error| error.kind())
}

fn run(arguments: &[&str]) -> RunArguments {
    match parse(&[&["run"], arguments].concat())
        .expect("good")
        .command
    {
        Command::Run(arguments) => *arguments,
        Command::Crds(_) => panic!("run was asked for"),
    }
}

#[test]
fn the_command_line_is_consistent_and_every_option_of_run_has_help_and_a_variable() {
    let mut command = Cli::command();
    command.build();
    command.clone().debug_assert();
    let run = command.find_subcommand("run").expect("there");
    for argument in run.get_arguments().filter(|a| a.get_id() != "help") {
        let id = argument.get_id().as_str();
        assert!(argument.get_help().is_some(), "{id}");
        let variable = format!("EPO_{}", id.to_uppercase());
        assert_eq!(
            argument.get_env().and_then(|v| v.to_str()),
            Some(variable.as_str())
        );
    }
}

#[test]
fn every_option_reaches_the_settings() {
    let arguments = run(&[
        "--watch-namespaces",
        "a, b,",
        "--http-address",
        "127.0.0.1:9",
        "--log-format",
        "text",
        "--log-level",
        "info,kube=debug",
        "--leader-election",
        "true",
        "--lease-name",
        "lease",
        "--lease-namespace",
        "there",
        "--max-concurrent-exchanges",
        "3",
    ]);
    assert_eq!(arguments.log_format, LogFormat::Text);
    let settings = arguments.settings(Environment::default()).expect("good");
    assert_eq!(settings.watch_namespaces, ["a", "b"]);
    assert_eq!(settings.http_address.port(), 9);
    assert_eq!(settings.max_concurrent_exchanges, 3);
    let lease = settings.lease.expect("elected");
    assert_eq!(
        (lease.namespace.as_str(), lease.name.as_str()),
        ("there", "lease")
    );
}

#[test]
fn an_empty_list_of_namespaces_means_all() {
    for arguments in [
        vec!["--leader-election=false"],
        vec!["--leader-election=false", "--watch-namespaces="],
    ] {
        let settings = run(&arguments)
            .settings(Environment::default())
            .expect("good");
        assert_eq!(settings.watch_namespaces, Vec::<String>::new());
    }
}

#[test]
fn wrong_usage_is_refused() {
    for arguments in [
        vec![],
        vec!["walk"],
        vec!["run", "--http-address", "nowhere"],
        vec!["run", "--leader-election", "maybe"],
        vec!["run", "--log-level", "kube=loud"],
        vec!["run", "--log-format", "xml"],
    ] {
        assert!(parse(&arguments).is_err(), "{arguments:?}");
    }
    assert_eq!(parse(&["--version"]).err(), Some(ErrorKind::DisplayVersion));
}

#[test]
fn a_configuration_that_is_missing_or_wrong_is_named() {
    let directory = std::env::temp_dir().join(format!("epo-cli-{}", std::process::id()));
    std::fs::create_dir_all(&directory).expect("a directory");
    let file = |name: &str, text: &str| {
        let path = directory.join(name);
        std::fs::write(&path, text).expect("written");
        path
    };
    let error = |path: &Path| read_config(path).expect_err("bad").message;
    let missing = error(&directory.join("missing.yaml"));
    assert!(missing.contains("missing.yaml cannot be read"), "{missing}");
    let wrong = error(&file("wrong.yaml", "clusterID: x\n"));
    assert!(
        wrong.contains("wrong.yaml is wrong") && wrong.contains("clusterID"),
        "{wrong}"
    );
    let empty = read_config(&file("empty.yaml", "\n"));
    assert_eq!(empty, Ok(ConfigFile::default()));
    let good = read_config(&file("good.yaml", "clusterId: x\n")).expect("good");
    assert_eq!(good.cluster_id.as_deref(), Some("x"));
    std::fs::remove_dir_all(&directory).expect("removed");
}

#[test]
fn committed_definitions_are_what_the_types_say() {
    let committed = Path::new(env!("CARGO_MANIFEST_DIR")).join("crds");
    let fresh = std::env::temp_dir().join(format!("epo-crds-{}", std::process::id()));
    std::fs::create_dir_all(&fresh).expect("a directory");
    write_crds(Some(&fresh)).expect("written");
    let files = |directory: &Path| {
        let entries = std::fs::read_dir(directory).expect("a directory");
        let mut files: Vec<_> = entries
            .map(|entry| entry.expect("an entry").path())
            .map(|path| {
                let name = path.file_name().expect("a name").to_owned();
                (name, std::fs::read_to_string(&path).expect("text"))
            })
            .collect();
        files.sort();
        files
    };
    let (committed, generated) = (files(&committed), files(&fresh));
    std::fs::remove_dir_all(&fresh).expect("removed");
    let names: Vec<_> = generated.iter().map(|(name, _)| name.clone()).collect();
    assert_eq!(
        names,
        [
            "entrapostgres.io_entrapostgresprincipals.yaml",
            "entrapostgres.io_entrapostgresservers.yaml"
        ]
    );
    assert!(
        committed == generated,
        "crds/ is stale: run `cargo run -q -p entra-postgres-operator -- crds --output-dir crds`"
    );
}
