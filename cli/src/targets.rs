//! Targets by name or file, with the changes that a user wants to try.

use crate::error::Error;
use crate::files;
use girih_ir::target::{Coord, Target};
use std::path::Path;

/// A target and what is changed about it.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct TargetSpec {
    /// A built-in name, or the path of a TOML file (it contains `/` or ends in `.toml`).
    pub name: String,
    /// Dies that do not work.
    pub dead: Vec<Coord>,
    /// Links that do not work: `0,1:E`.
    pub dead_links: Vec<String>,
    /// Figures to override: `sram=200MiB`.
    pub set: Vec<String>,
}

impl TargetSpec {
    /// The target of that name or file, unchanged.
    pub fn named(name: impl Into<String>) -> Self {
        TargetSpec { name: name.into(), ..TargetSpec::default() }
    }

    /// Reads the target and applies the changes.
    pub fn open(&self) -> Result<Target, Error> {
        let mut target = if is_file(&self.name) {
            let path = Path::new(&self.name);
            Target::from_toml(&files::read_text(path)?).map_err(|error| Error::TargetFile { path: path.to_path_buf(), error })?
        } else {
            Target::builtin(&self.name)?
        };
        for change in &self.set {
            target.set(change)?;
        }
        target = target.with_dead(self.dead.iter().copied())?;
        for link in &self.dead_links {
            target = target.with_dead_link(link)?;
        }
        Ok(target)
    }
}

/// Whether a target is given as a file.
pub(crate) fn is_file(name: &str) -> bool {
    name.ends_with(".toml") || name.contains(std::path::MAIN_SEPARATOR) || name.contains('/')
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn changes_are_applied() {
        let spec = TargetSpec {
            name: "dojo-tile".into(),
            dead: vec![Coord::new(2, 2)],
            dead_links: vec!["0,0:E".into()],
            set: vec!["sram=200MiB".into()],
        };
        let target = spec.open().unwrap();
        assert_eq!(target.sram_bytes(), 200 << 20);
        assert_eq!(target.live_dies().len(), 24);
        assert_eq!(target.mesh.dead_links.len(), 1);
    }

    #[test]
    fn files_and_names_are_told_apart() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("mine.toml");
        std::fs::write(&path, Target::builtin_text("ipu-mk2").unwrap()).unwrap();
        assert_eq!(TargetSpec::named(path.to_string_lossy()).open().unwrap().name, "ipu-mk2");
        assert_eq!(TargetSpec::named("dojo-tail").open().unwrap_err().code(), "E0501");
        assert_eq!(TargetSpec::named("none.toml").open().unwrap_err().exit_code(), 6);
    }
}
