//! Targets as text: reading and writing TOML, the sanity check, and the table of `girih targets show`.

use super::error::TargetError;
use super::quantity::Figure;
use super::{MAX_SITES, Target};
use crate::types::DType;
use std::fmt::{self, Write};

/// SRAM and host memory beyond this are refused, so that sums of sizes stay far from overflow.
const MAX_BYTES: f64 = (1u64 << 50) as f64;

impl Target {
    /// Reads a target file and checks it.
    pub fn from_toml(text: &str) -> Result<Target, TargetError> {
        let target: Target = toml::from_str(text).map_err(|e| TargetError::Syntax { detail: e.to_string().trim_end().to_string() })?;
        match target.check() {
            problems if problems.is_empty() => Ok(target),
            problems => Err(TargetError::Invalid { name: target.name, problems }),
        }
    }

    /// The target as a TOML file, one figure a line; [`from_toml`](Self::from_toml) reads it back to an equal target.
    pub fn to_toml(&self) -> String {
        let table = toml::Table::try_from(self).expect("a target holds only strings, numbers, lists and tables with string keys");
        let mut out = String::new();
        write_table(&mut out, "", &table).expect("writing to a string cannot fail");
        out
    }

    /// The blake3 hash of [`to_toml`](Self::to_toml), in hexadecimal: equal for equal targets.
    pub fn digest(&self) -> String {
        blake3::hash(self.to_toml().as_bytes()).to_hex().to_string()
    }

    /// What makes this target unusable, one sentence each; empty for a sound one.
    pub fn check(&self) -> Vec<String> {
        let mut problems = self.check_geometry();
        for (path, figure) in self.figures() {
            let (value, zero_is_fine) = (figure.si(), may_be_zero(&path));
            let unit_ok = value.is_finite() && (value > 0.0 || (zero_is_fine && value == 0.0));
            if !unit_ok {
                let want = if zero_is_fine { "0 or more" } else { "more than 0" };
                problems.push(format!("{path} is {figure}, but has to be {want}"));
            }
            if figure.source().trim().is_empty() {
                problems.push(format!("{path} has no source"));
            }
        }
        for (path, bytes) in [("die.sram", self.die.sram.si()), ("host_memory.capacity", self.host_memory.capacity.si())] {
            if bytes > MAX_BYTES {
                problems.push(format!("{path} is over 1024 TiB"));
            }
        }
        let alignment = self.die.sram_alignment.si();
        if !(1.0..=65536.0).contains(&alignment) || !(alignment as u64).is_power_of_two() || alignment.fract() != 0.0 {
            problems.push(format!("die.sram_alignment is {}, but has to be a power of two up to 64 KiB", self.die.sram_alignment));
        } else if self.die.sram.si() > 0.0 && self.sram_bytes() < self.sram_alignment() {
            problems.push("die.sram is smaller than its alignment".into());
        }
        problems.extend(self.check_engine());
        for (path, has) in
            [("die.peak", self.die.peak.get(DType::F32).is_some()), ("energy.flop", self.energy.flop.get(DType::F32).is_some())]
        {
            if !has {
                problems.push(format!("{path} has no entry for f32, which every other type falls back to"));
            }
        }
        problems
    }

    /// Exactly one section says how products run.
    fn check_engine(&self) -> Vec<String> {
        let die = &self.die;
        let sections = [
            ("[die.gemm]", die.gemm.is_some()),
            ("[die.vector_unit]", die.vector_unit.is_some()),
            ("[die.amp]", die.amp.is_some()),
            ("[die.tile_engine]", die.tile_engine.is_some()),
            ("[die.node_engine]", die.node_engine.is_some()),
        ];
        let has: Vec<&str> = sections.iter().filter(|(_, has)| *has).map(|(name, _)| *name).collect();
        let mut problems = Vec::new();
        if has.is_empty() {
            let names = sections.map(|(name, _)| name).join(", ");
            problems.push(format!(
                "nothing says how products run: write one of {names}; [die.gemm] with t_m, t_n, t_k and k0 serves a matrix engine of which only \
                 the peak is known"
            ));
        } else if has.len() > 1 {
            problems.push(format!("{} both say how products run: keep the one that describes the die's engine", has.join(" and ")));
        }
        if let Some(engine) = die.node_engine.as_ref().filter(|e| e.panels.si() < e.smallest_panels()) {
            let (panels, least) = (&engine.panels, engine.smallest_panels());
            problems.push(format!("die.node_engine.panels is {panels}, but one block takes {least} B: two panels of each operand in f64"));
        }
        problems
    }

    fn check_geometry(&self) -> Vec<String> {
        let mut problems = Vec::new();
        let name_ok = |c: char| c.is_ascii_alphanumeric() || "-_.".contains(c);
        if self.name.is_empty() || !self.name.chars().all(name_ok) {
            problems.push("the name has to be letters, digits, `-`, `_` and `.`".into());
        }
        let shape = &self.mesh.shape;
        if shape.sites() == 0 {
            return vec![format!("the mesh is {}×{}: it has no dies", shape.rows, shape.cols)];
        }
        if shape.sites() > MAX_SITES {
            return vec![format!("the mesh is {}×{}: at most {MAX_SITES} sites are possible", shape.rows, shape.cols)];
        }
        for at in &self.mesh.dead_dies {
            if self.mesh.die_at(*at).is_none() {
                problems.push(format!("the dead die {at} is not on the {}×{} mesh", shape.rows, shape.cols));
            }
        }
        for link in &self.mesh.dead_links {
            if self.mesh.link_named(*link).is_none() {
                problems.push(format!("the dead link {link} is not on the {}×{} mesh", shape.rows, shape.cols));
            }
        }
        if problems.is_empty() && self.mesh.dead_dies.len() >= shape.sites() {
            problems.push("every die is dead".into());
        }
        if self.host_memory.edges.is_empty() {
            problems.push("host_memory.edges is empty: no die could load its batch".into());
        }
        if self.die.nodes.shape.sites() == 0 || self.live_nodes() == 0 {
            problems.push("the die has no live nodes".into());
        }
        if self.package.tile.as_ref().is_some_and(|tile| tile.sites() == 0) {
            problems.push("package.tile has no dies".into());
        }
        problems
    }
}

/// Latencies, overheads and energies may be nothing; sizes and rates may not.
fn may_be_zero(path: &str) -> bool {
    path.starts_with("energy.")
        || ["latency", "overhead", "k0", "dispatch", "streaming", "issue", "wait", "_cycles", "conv_output"]
            .iter()
            .any(|end| path.ends_with(end))
}

/// Writes the plain values of a table, then its subtables; a table without tables inside is one line.
fn write_table(out: &mut String, path: &str, table: &toml::Table) -> fmt::Result {
    let is_section = |value: &toml::Value| value.as_table().is_some_and(|inner| inner.values().any(toml::Value::is_table));
    if !path.is_empty() && table.values().any(|v| !is_section(v)) {
        writeln!(out, "\n[{path}]")?;
    }
    for (key, value) in table.iter().filter(|(_, v)| !is_section(v)) {
        match value.as_table() {
            Some(inner) => {
                // The order that people write: the number first, its source last.
                let mut fields: Vec<(&String, &toml::Value)> = inner.iter().collect();
                fields.sort_by_key(|(name, _)| ["value", "unit", "rows", "cols", "source", "confidence"].iter().position(|n| n == name));
                let fields: Vec<String> = fields.into_iter().map(|(name, field)| format!("{name} = {field}")).collect();
                writeln!(out, "{key} = {{ {} }}", fields.join(", "))?;
            }
            None => writeln!(out, "{key} = {value}")?,
        }
    }
    for (key, value) in table.iter().filter(|(_, v)| is_section(v)) {
        let inner = value.as_table().expect("a section is a table");
        let path = if path.is_empty() { key.clone() } else { format!("{path}.{key}") };
        write_table(out, &path, inner)?;
    }
    Ok(())
}

impl fmt::Display for Target {
    /// What `girih targets show` prints: the description, the geometry, and each figure with confidence and source.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let shape = &self.mesh.shape;
        writeln!(f, "{}: {}\n", self.name, self.description)?;
        let mut rows: Vec<[String; 4]> = vec![["figure", "value", "confidence", "source"].map(String::from)];
        let kind = if self.mesh.torus { "torus" } else { "mesh" };
        let mut grid = |path: &str, text: String, shape: &super::GridShape| {
            rows.push([path.to_string(), text, shape.confidence.to_string(), shape.source.clone()]);
        };
        grid("mesh.shape", format!("{}×{} {kind}", shape.rows, shape.cols), shape);
        let nodes = &self.die.nodes;
        grid("die.nodes", format!("{}×{} − {}", nodes.shape.rows, nodes.shape.cols, nodes.dead), &nodes.shape);
        if let Some(tile) = &self.package.tile {
            grid("package.tile", format!("{}×{} dies", tile.rows, tile.cols), tile);
        }
        rows.extend(self.figures().into_iter().map(|(path, figure)| figure_row(path, figure)));
        let width = |column: usize| rows.iter().map(|row| row[column].chars().count()).max().unwrap_or(0);
        let widths = [width(0), width(1), width(2)];
        for [path, value, confidence, source] in &rows {
            writeln!(f, "{path:<0$}  {value:>1$}  {confidence:<2$}  {source}", widths[0], widths[1], widths[2])?;
        }
        let listed = |items: Vec<String>| if items.is_empty() { "none".to_string() } else { items.join(" ") };
        writeln!(f)?;
        writeln!(f, "formats     {}", self.formats.join(" "))?;
        writeln!(f, "multicast   {}", if self.link.multicast { "yes" } else { "no" })?;
        if self.link.on_engine {
            writeln!(f, "messages    take the time of the compute engine")?;
        }
        let edges: Vec<String> = self.host_memory.edges.iter().map(ToString::to_string).collect();
        writeln!(f, "host ports  {} on the edges {}", self.host_ports().len(), edges.join(" "))?;
        writeln!(f, "live dies   {} of {}", self.mesh.sites() - self.mesh.dead_dies.len(), self.mesh.sites())?;
        writeln!(f, "dead dies   {}", listed(self.mesh.dead_dies.iter().map(ToString::to_string).collect()))?;
        writeln!(f, "dead links  {}", listed(self.mesh.dead_links.iter().map(ToString::to_string).collect()))
    }
}

fn figure_row(path: String, figure: &dyn Figure) -> [String; 4] {
    [path, figure.to_string(), figure.confidence().to_string(), figure.source().to_string()]
}

#[cfg(test)]
mod tests {
    use super::*;

    fn damaged(from: &str, to: &str) -> TargetError {
        let text = Target::builtin_text("dojo-tile").unwrap();
        assert!(text.contains(from), "the file has no `{from}`");
        Target::from_toml(&text.replacen(from, to, 1)).unwrap_err()
    }

    #[test]
    fn damaged_files_say_where() {
        let error = damaged("unit = \"MB\"", "unit = \"MW\"").to_string();
        assert!(error.contains("line ") && error.contains("a size") && error.contains("MiB"), "{error}");
        let error = damaged("[link]", "[link]\ncolor = 1").to_string();
        assert!(error.contains("color"), "{error}");
        let error = damaged("bf16 =", "bf15 =").to_string();
        assert!(error.contains("bf15"), "{error}");
        let error = damaged("confidence = \"", "confidence = \"very ").to_string();
        assert!(error.contains("very"), "{error}");
        assert_eq!(damaged("[die]", "[die").code(), "E0502");
        assert_eq!(Target::from_toml("").unwrap_err().code(), "E0502");
    }

    #[test]
    fn a_die_without_an_engine_is_refused_with_the_sections_that_would_do() {
        let text = Target::builtin_text("a100").unwrap();
        let (before, rest) = text.split_once("[die.gemm]").unwrap();
        let (_, after) = rest.split_once("\n[").unwrap();
        let error = Target::from_toml(&format!("{before}[{after}")).unwrap_err();
        assert_eq!(error.code(), "E0504", "{error}");
        assert!(error.to_string().contains("write one of [die.gemm], [die.vector_unit]"), "{error}");
    }

    #[test]
    fn implausible_targets_are_refused() {
        for (from, to, part) in [
            ("rows = 5", "rows = 0", "no dies"),
            ("rows = 5", "rows = 4000000000", "sites are possible"),
            ("[mesh]", "[mesh]\ndead_dies = [\"(7,7)\"]", "(7,7) is not on the 5×5 mesh"),
            ("[mesh]", "[mesh]\ndead_links = [\"0,0:N\"]", "(0,0):N is not on the 5×5 mesh"),
            ("value = 430.9", "value = -1", "more than 0"),
            ("value = 430.9", "value = nan", "more than 0"),
            ("value = 430.9", "value = 1e300", "over 1024 TiB"),
            ("sram_alignment = { value = 64", "sram_alignment = { value = 48", "power of two"),
            ("\"west\"", "", "host_memory.edges is empty"),
            ("f32 =", "f64 =", "no entry for f32"),
            (
                "[link]",
                "[die.tile_engine]\ntile = { value = 32, unit = \"elements\", source = \"s\", confidence = \"high\" }\n\
              phase = { value = 16, unit = \"cycles\", source = \"s\", confidence = \"high\" }\n\
              phase_issue = { value = 1, unit = \"cycles\", source = \"s\", confidence = \"high\" }\n\
              tile_issue = { value = 1, unit = \"cycles\", source = \"s\", confidence = \"high\" }\n\n[link]",
                "[die.tile_engine] and [die.node_engine] both",
            ),
        ] {
            let error = damaged(from, to);
            assert_eq!(error.code(), "E0504", "{error}");
            assert!(error.to_string().contains(part), "{error}");
        }
    }
}
