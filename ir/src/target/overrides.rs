//! Changes to a target: other figures, another shape, dead parts.
//!
//! What-if questions are asked of a machine that nearly exists: half the SRAM, one die dead. Each change is checked, and a
//! changed figure says that it was set and what it was.

use super::Target;
use super::error::TargetError;
use super::geometry::{Coord, LinkName};
use super::quantity::Confidence;

/// What [`Target::set`] takes besides figures.
const SETTINGS: &str = "`mesh=3x5`, `torus=true`, `dead=(0,1)`, `dead_link=0,0:E`";

impl Target {
    /// This target with the dies at these places dead.
    pub fn with_dead(mut self, dies: impl IntoIterator<Item = Coord>) -> Result<Target, TargetError> {
        for at in dies {
            self.mesh.die_at(at).ok_or_else(|| self.off_mesh(&at.to_string()))?;
            self.mesh.dead_dies.insert(at);
        }
        self.sound()
    }

    /// This target without the connection of that name, `0,0:E`; both ways are dead.
    pub fn with_dead_link(mut self, link: &str) -> Result<Target, TargetError> {
        let name: LinkName = link.parse()?;
        self.mesh.link_named(name).ok_or_else(|| self.off_mesh(link))?;
        self.mesh.dead_links.insert(name);
        self.sound()
    }

    /// This target with another mesh shape; dead dies and links that are no longer on it are forgotten.
    pub fn with_mesh(mut self, rows: u32, cols: u32) -> Result<Target, TargetError> {
        let shape = &mut self.mesh.shape;
        shape.source = format!("set by the user; was {}×{}", shape.rows, shape.cols);
        (shape.rows, shape.cols, shape.confidence) = (rows, cols, Confidence::Assumed);
        self.mesh.dead_dies.retain(|at| at.row < rows && at.col < cols);
        let links = std::mem::take(&mut self.mesh.dead_links);
        self.mesh.dead_links = links.into_iter().filter(|name| self.mesh.link_named(*name).is_some()).collect();
        self.sound()
    }

    /// Applies one `KEY=VALUE` override, or changes nothing and says why. The key is a figure's path in the file or the end
    /// of one that is unambiguous (`sram=200MiB`, `link.bandwidth=1TB/s`), or `mesh`, `torus`, `dead` or `dead_link`.
    pub fn set(&mut self, text: &str) -> Result<(), TargetError> {
        let refuse = |why: String| TargetError::Override { text: text.to_string(), why };
        let (key, value) = text.split_once('=').ok_or_else(|| refuse(format!("write KEY=VALUE, such as `sram=200MiB` or {SETTINGS}")))?;
        let (key, value) = (key.trim(), value.trim());
        let changed = match key {
            "mesh" => {
                let parsed = value.split_once(['x', '×']).and_then(|(r, c)| Some((r.trim().parse().ok()?, c.trim().parse().ok()?)));
                let (rows, cols) = parsed.ok_or_else(|| refuse("a mesh is written rows×columns, `3x5`".into()))?;
                self.clone().with_mesh(rows, cols)?
            }
            "torus" => {
                let torus = value.parse().map_err(|_| refuse("it is `true` or `false`".into()))?;
                let mut changed = self.clone();
                changed.mesh.torus = torus;
                changed.sound()?
            }
            "dead" => self.clone().with_dead([value.parse()?])?,
            "dead_link" => self.clone().with_dead_link(value)?,
            _ => self.clone().with_figure(key, value, refuse)?,
        };
        *self = changed;
        Ok(())
    }

    fn with_figure(mut self, key: &str, value: &str, refuse: impl Fn(String) -> TargetError) -> Result<Target, TargetError> {
        let paths: Vec<String> = self.figures().into_iter().map(|(path, _)| path).collect();
        let ends_so = |path: &String| path.strip_suffix(key).is_some_and(|head| head.is_empty() || head.ends_with('.'));
        let mut matching: Vec<&String> = paths.iter().filter(|path| ends_so(path)).collect();
        // `sram` means the SRAM's size, not its energy: of several the first section wins if it is the die.
        if matching.len() > 1 && matching[0] == &format!("die.{key}") {
            matching.truncate(1);
        }
        let path = match matching.as_slice() {
            [path] => (*path).clone(),
            [] => return Err(refuse(format!("there is no figure `{key}`; there are {}, and the settings {SETTINGS}", paths.join(", ")))),
            several => {
                let names: Vec<&str> = several.iter().map(|p| p.as_str()).collect();
                return Err(refuse(format!("`{key}` may mean {}", names.join(" or "))));
            }
        };
        for (name, figure) in self.figures_mut() {
            if name == path {
                figure.assign(value)?;
            }
        }
        self.sound()
    }

    fn sound(self) -> Result<Target, TargetError> {
        match self.check() {
            problems if problems.is_empty() => Ok(self),
            problems => Err(TargetError::Invalid { name: self.name, problems }),
        }
    }

    fn off_mesh(&self, name: &str) -> TargetError {
        TargetError::OffMesh { name: name.to_string(), rows: self.mesh.shape.rows, cols: self.mesh.shape.cols, target: self.name.clone() }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tile() -> Target {
        Target::builtin("dojo-tile").unwrap()
    }

    #[test]
    fn figures_are_set_by_path_or_by_its_end() {
        let mut t = tile();
        for text in
            ["sram=200MiB", "link.bandwidth=1TB/s", "clock = 1.5 GHz", "mesh=3x5", "torus=true", "dead=(0,1)", "dead_link=1,1:E", "depth=8"]
        {
            t.set(text).unwrap_or_else(|e| panic!("{text}: {e}"));
        }
        assert_eq!(t.sram_bytes(), 200 << 20);
        assert_eq!(t.die.sram.to_string(), "200 MiB");
        assert_eq!(t.link_bandwidth(), 1e12);
        assert_eq!(t.clock_hz(), 1.5e9);
        assert_eq!((t.mesh.sites(), t.live_dies().len()), (15, 14));
        assert!(t.mesh.torus);
        assert_eq!(t.mesh.dead_links.len(), 1);
        assert_eq!(Target::from_toml(&t.to_toml()).unwrap(), t);
    }

    #[test]
    fn refusals_change_nothing_and_say_what_would_do() {
        let mut t = tile();
        for (text, code, part) in [
            ("sram", "E0505", "write KEY=VALUE"),
            ("srm=1MB", "E0505", "there is no figure `srm`"),
            ("f32=1TFLOP/s", "E0505", "may mean die.peak.f32 or energy.flop.f32"),
            ("sram=1 s", "E0503", "a size"),
            ("sram=0B", "E0504", "die.sram"),
            ("mesh=5", "E0505", "3x5"),
            ("mesh=0x5", "E0504", "no dies"),
            ("mesh=100000x100000", "E0504", "sites"),
            ("torus=yes", "E0505", "true"),
            ("dead=9,9", "E0507", "not on the 5×5 mesh"),
            ("dead_link=0,0:N", "E0507", "not on the 5×5 mesh"),
            ("dead_link=0,0", "E0506", "0,0:E"),
        ] {
            let error = t.set(text).unwrap_err();
            assert_eq!(error.code(), code, "{text}: {error}");
            assert!(error.to_string().contains(part), "{text}: {error}");
            assert_eq!(t, tile());
        }
    }

    #[test]
    fn a_smaller_mesh_forgets_defects_outside() {
        let t = tile()
            .with_dead([Coord::new(4, 4), Coord::new(0, 0)])
            .unwrap()
            .with_dead_link("3,3:E")
            .unwrap()
            .with_dead_link("1,1:E")
            .unwrap();
        let small = t.with_mesh(2, 2).unwrap();
        assert_eq!(small.mesh.dead_dies.len(), 1);
        assert!(small.mesh.dead_links.is_empty());
        assert_eq!(small.with_dead([Coord::new(0, 1), Coord::new(1, 0), Coord::new(1, 1)]).unwrap_err().code(), "E0504");
    }
}
