//! The lab's command line: parsing and dispatch.
//! Must not do any of the work.

use std::path::PathBuf;

use anyhow::Result;
use clap::{Parser, Subcommand};

use crate::control_plane::assets;
use crate::demo;
use crate::hostile;
use crate::soak;
use crate::up::{self, Home, OperatorAction, Options};

/// A whole Azure and Kubernetes cluster on one machine.
#[derive(Parser)]
#[command(name = "lab", version)]
pub struct Cli {
    /// Where the lab keeps its files; in a clone of this repository a folder of its target if absent.
    #[arg(long, env = "LAB_HOME", global = true, value_name = "DIR")]
    home: Option<PathBuf>,
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Build the control plane's programs, if they are not there, and print their folder.
    Build,
    /// Start everything and leave it running in target/lab.
    Up(Options),
    /// Stop what `up` started.
    Down,
    /// Start, stop or kill the operator of the running lab.
    Operator { action: OperatorAction },
    /// Tell the whole story once, in a lab of its own (in target/demo), and stop it again.
    Demo,
    /// Keep 200 tokens good for a while through faults of Entra, the server and the operator, in a lab
    /// of its own (in target/soak). Two lines on standard output say how that went.
    Soak {
        #[arg(
            long,
            env = "SOAK_MINUTES",
            value_name = "MINUTES",
            default_value_t = 15
        )]
        minutes: u64,
    },
    /// Attack the operator in every way that tenants have, beside others who must not notice, in a lab
    /// of its own (in target/hostile). One line on standard output says how that went.
    Hostile(hostile::Options),
    /// What `up` leaves in the background.
    #[command(hide = true)]
    Serve(Options),
}

impl Cli {
    pub async fn run(self) -> Result<()> {
        let Self { home, command } = self;
        // Demo, soak and hostile have folders of their own, so that they leave a running lab alone.
        let folder = match command {
            Command::Build => {
                println!("{}", assets::find(assets::Set::All)?.display());
                return Ok(());
            }
            Command::Demo => "demo",
            Command::Soak { .. } => "soak",
            Command::Hostile(_) => "hostile",
            _ => "lab",
        };
        let home = match home.filter(|home| !home.as_os_str().is_empty()) {
            Some(home) => Home::new(std::path::absolute(home)?),
            None => Home::of_workspace(folder)?,
        };
        match command {
            Command::Build => Ok(()),
            Command::Up(options) => up::up(&home, &options).await,
            Command::Down => up::down(&home).await,
            Command::Operator { action } => up::operator(&home, action).await,
            Command::Demo => demo::demo(&home).await,
            Command::Soak { minutes } => soak::soak(home.dir(), minutes).await,
            Command::Hostile(options) => hostile::hostile(home.dir(), options).await,
            Command::Serve(options) => Box::pin(up::serve(&home, &options)).await,
        }
    }
}
