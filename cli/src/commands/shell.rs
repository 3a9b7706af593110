//! `girih completions` and `girih man`: what shells and manuals need, generated from the command line's own description.

use super::output::{Failure, Outcome, write_raw};
use clap::{Args, Command};
use girih::{Error, files};
use std::path::{Path, PathBuf};

/// Print a completion script
#[derive(Args, Debug)]
#[command(after_help = "Example: girih completions bash > ~/.local/share/bash-completion/completions/girih")]
pub struct Completions {
    /// The shell
    #[arg(value_enum)]
    shell: clap_complete::Shell,
}

impl Completions {
    /// Runs the command.
    pub fn run(self, command: &mut Command) -> Outcome {
        let mut script = Vec::new();
        clap_complete::generate(self.shell, command, "girih", &mut script);
        write_raw(&script)
    }
}

/// Print the manual
#[derive(Args, Debug)]
#[command(after_help = "Example: girih man | man -l -")]
pub struct Man {
    /// Write a page for every command into this folder
    #[arg(long, value_name = "DIR")]
    dir: Option<PathBuf>,
}

impl Man {
    /// Runs the command.
    pub fn run(self, command: Command) -> Outcome {
        let Some(dir) = self.dir else { return write_raw(&page(command, Path::new("standard output"))?) };
        let mut command = command;
        command.build();
        let pages: Vec<Command> = std::iter::once(command.clone()).chain(command.get_subcommands().cloned()).collect();
        for command in pages {
            let name = command.get_display_name().unwrap_or(command.get_name()).to_string();
            let path = dir.join(format!("{name}.1"));
            files::write(&path, &page(command, &path)?)?;
        }
        Ok(())
    }
}

fn page(command: Command, path: &Path) -> Outcome<Vec<u8>> {
    let mut text = Vec::new();
    let written = clap_mangen::Man::new(command).render(&mut text);
    written.map_err(|source| Failure::Error(Error::Io { action: "write", path: path.into(), source }))?;
    Ok(text)
}
