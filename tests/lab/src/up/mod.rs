//! `lab up`: a whole environment left running in the background, and what is said about it.
//! A daemon holds it; the commands only talk to the daemon.

mod azure;
mod cluster;
mod commands;
mod daemon;
mod facts;
mod home;
mod manifest;

pub use commands::{down, operator, start, stop, up};
pub use daemon::serve;
pub use facts::{EntraFacts, Facts, OperatorFacts, PostgresFacts};
pub use home::Home;

use std::path::PathBuf;

use clap::{Args, ValueEnum};

/// What `lab up` can be told.
#[derive(Args, Clone, Debug)]
pub struct Options {
    /// The tenant: who exists, who administers the server. The built-in one if absent.
    #[arg(long, env = "LAB_DIRECTORY", value_name = "FILE")]
    pub directory: Option<PathBuf>,
    /// The folder of PostgreSQL's programs; the newest of Debian's if absent.
    #[arg(long, env = "LAB_POSTGRES_BIN", value_name = "DIR")]
    pub postgres_bin: Option<PathBuf>,
    /// `none`, or the path of the operator's program; the one built here if absent.
    #[arg(long, env = "LAB_OPERATOR", value_name = "none|FILE")]
    pub operator: Option<PathBuf>,
    /// Also a node for pods, if this machine can run one.
    #[arg(long, env = "LAB_NODE", value_parser = clap::builder::FalseyValueParser::new())]
    pub node: bool,
}

impl Options {
    /// The operator's program, unless none is wanted.
    fn operator_binary(&self) -> Option<PathBuf> {
        match &self.operator {
            Some(path) if path.as_os_str() == "none" => None,
            Some(path) if !path.as_os_str().is_empty() => Some(path.clone()),
            _ => Some(crate::operator::binary()),
        }
    }
}

/// What may be done to the operator of a running lab.
#[derive(Clone, Copy, Debug, ValueEnum)]
pub enum OperatorAction {
    /// Start it, if it does not run.
    Start,
    /// Ask it to end (SIGTERM) and wait.
    Stop,
    /// End it at once (SIGKILL).
    Kill,
}

impl OperatorAction {
    fn word(self) -> &'static str {
        match self {
            Self::Start => "start",
            Self::Stop => "stop",
            Self::Kill => "kill",
        }
    }
}
