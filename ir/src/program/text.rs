//! The text form of programs: what `--emit program` prints, and what tests read back.
//!
//! ```text
//! program "mlp"
//! target "dojo-tile"
//! step { … } graph @mlp(…) { … }
//! channel ch0 (0,0) -> (0,1) depth 8 via (0,0):E
//! host h0 "x" f32[64,32] input 0
//! state 0 on 1 [0..16,0..32] 0x1000 f32[16,32]
//! fused f0 {in f32; s1 = tanh s0; out s1}
//! claim0 compute %5 [0..16,0..32]
//! die (0,0) stream s0 sram 8192 out [ch0] in [] claims [0..3] {
//!   0000  gemm      0x3000 f32[32,64] = 0x0 f32[32,16], 0x1000 f32[64,16]{32,1} batch=0 contract=1   ; %5
//!   0001  send      0x3000 f32[32,64] port=c0
//! }
//! die (0,1) same as (0,0) sram 8192 out [ch1] in [] claims [0..3]
//! ; 12 instructions, 2 transfers, 12.0 KiB moved, peak 28.0 KiB of 48.0 KiB
//! ```
//! Replicas are written `replicas 2 by 3 on "dojo-tray"` behind the step, and what they share out `sliced input 0 along 0`.
//! A loop is written `loop 0x80 i64[] = 0x0 f32[4] trips=3` (the number of the iteration, which may be absent, then the carried regions; `any`
//! number of trips until an `exit_unless`) and claimed `claim7 loop %9 0 [0..4]`: its end, then slot and part of each carried region.
//! Strides in braces follow a region that is not dense. Everything derived is in comments.

use super::form::{Form, only_reads};
use super::{Claim, Instr, Program, Region};
use crate::target::{DieId, LinkId, Target};
use crate::text::lex::quote;
use std::fmt::{self, Write};
use std::ops::Range;

/// A region: `0x3000 f32[32,64]`, with `{128,1}` when it is not dense.
pub fn show_region(region: &Region) -> String {
    let mut out = format!("{:#x} {}[", region.offset, region.dtype);
    for (i, d) in region.dims.iter().enumerate() {
        let _ = write!(out, "{}{d}", if i > 0 { "," } else { "" });
    }
    out.push(']');
    let dense = crate::types::row_major_strides(&region.dims);
    if region.strides.iter().copied().ne(dense.iter().map(|s| *s as i64)) {
        let strides: Vec<String> = region.strides.iter().map(ToString::to_string).collect();
        let _ = write!(out, "{{{}}}", strides.join(","));
    }
    out
}

impl fmt::Display for Instr {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let form = Form::of(self);
        let mut line = format!("{:<9}", form.name);
        let list = |regions: &[Region]| regions.iter().map(show_region).collect::<Vec<_>>().join(", ");
        if !form.outs.is_empty() {
            let _ = write!(line, " {}", list(&form.outs));
        }
        if !form.ins.is_empty() {
            let _ = write!(line, "{} {}", if only_reads(&form.name) { "" } else { " =" }, list(&form.ins));
        }
        for (name, value) in &form.fields {
            let _ = write!(line, " {name}={value}");
        }
        f.write_str(line.trim_end())
    }
}

impl fmt::Display for Claim {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Claim::Compute { node, ranges } => write!(f, "compute {node} {}", show_ranges(ranges)),
            Claim::Move { value, component, part } => write!(f, "move {value}.{component} {}", show_ranges(part)),
            Claim::Loop { end, parts } => {
                write!(f, "loop {end}")?;
                parts.iter().try_for_each(|(slot, part)| write!(f, " {slot} {}", show_ranges(part)))
            }
            Claim::Control => f.write_str("control"),
        }
    }
}

fn show_ranges(ranges: &[Range<usize>]) -> String {
    let parts: Vec<String> = ranges.iter().map(|r| format!("{}..{}", r.start, r.end)).collect();
    format!("[{}]", parts.join(","))
}

/// Coordinates of a die, or of where it would be.
pub(super) fn show_die(target: &Target, die: DieId) -> String {
    target.coord(die).to_string()
}

fn show_link(target: &Target, link: LinkId) -> String {
    let (die, side) = target.mesh.link_start(link);
    format!("{}:{side}", target.coord(die))
}

/// Ids as numbers, runs as ranges: `[0..3,7]`.
fn show_ids(ids: impl Iterator<Item = u32>) -> String {
    let mut runs: Vec<(u64, u64)> = Vec::new();
    for id in ids {
        match runs.last_mut() {
            Some((_, end)) if *end == u64::from(id) => *end += 1,
            _ => runs.push((u64::from(id), u64::from(id) + 1)),
        }
    }
    let parts: Vec<String> = runs.iter().map(|(a, b)| if a + 1 == *b { a.to_string() } else { format!("{a}..{b}") }).collect();
    format!("[{}]", parts.join(","))
}

/// What stands before each instruction of a stream: two spaces for each loop around it, up to sixteen loops.
fn margins(stream: &[Instr]) -> impl Iterator<Item = &'static str> {
    const SPACES: &str = "                                ";
    let mut depth = 0usize;
    stream.iter().map(move |instr| {
        depth = depth.saturating_sub(usize::from(matches!(instr, Instr::EndLoop)));
        let margin = &SPACES[..(2 * depth).min(SPACES.len())];
        depth += usize::from(matches!(instr, Instr::Loop { .. }));
        margin
    })
}

/// A target by its name when it is built in, else whole.
fn print_machine(target: &Target, f: &mut fmt::Formatter<'_>) -> fmt::Result {
    let shape = &target.mesh.shape;
    if Target::builtin(&target.name).is_ok_and(|t| t == *target) {
        return writeln!(f, "{}   ; {}×{} dies", quote(&target.name), shape.rows, shape.cols);
    }
    writeln!(f, "{{   ; {}×{} dies", shape.rows, shape.cols)?;
    target.to_toml().lines().try_for_each(|l| writeln!(f, "  {}", quote(l)))?;
    writeln!(f, "}}")
}

/// A size in words.
fn size(bytes: u64) -> String {
    let (mut v, mut unit) = (bytes as f64, 0);
    while v >= 1024.0 && unit < 5 {
        v /= 1024.0;
        unit += 1;
    }
    let name = ["B", "KiB", "MiB", "GiB", "TiB", "PiB"][unit];
    if unit == 0 { format!("{bytes} B") } else { format!("{v:.1} {name}") }
}

impl fmt::Display for Program {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "program {}", quote(&self.name))?;
        self.print_target(f)?;
        writeln!(f, "{}", self.step.to_string().trim_end())?;
        self.print_replicas(f)?;
        self.print_tables(f)?;
        self.print_dies(f)?;
        writeln!(f, "{}", self.summary())
    }
}

impl Program {
    fn print_target(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("target ")?;
        print_machine(&self.target, f)
    }

    fn print_replicas(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Some(r) = &self.replicas else { return Ok(()) };
        write!(f, "replicas {} by {} on ", r.rows, r.cols)?;
        print_machine(&r.machine, f)?;
        r.inputs.iter().try_for_each(|(i, d)| writeln!(f, "sliced input {i} along {d}"))?;
        r.outputs.iter().try_for_each(|(o, d)| writeln!(f, "sliced output {o} along {d}"))
    }

    fn print_tables(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let t = &self.target;
        for (i, c) in self.channels.iter().enumerate() {
            write!(f, "channel ch{i} {} -> {} depth {} via", show_die(t, c.source), show_die(t, c.dest), c.depth)?;
            c.route.iter().try_for_each(|l| write!(f, " {}", show_link(t, *l)))?;
            writeln!(f)?;
        }
        for (i, h) in self.host.iter().enumerate() {
            let (word, n) = match h.usage {
                super::HostUse::Input(n) => ("input", n),
                super::HostUse::Output(n) => ("output", n),
                super::HostUse::State(n) => ("state", n),
            };
            writeln!(f, "host h{i} {} {} {word} {n}", quote(&h.name), h.ty)?;
        }
        for (i, shards) in self.state.iter().enumerate() {
            for s in shards {
                writeln!(f, "state {i} on {} {} {}", s.die, show_ranges(&s.part), show_region(&s.region))?;
            }
        }
        for (i, p) in self.fused.iter().enumerate() {
            writeln!(f, "fused f{i} {}", crate::text::program::print(p))?;
        }
        for (i, l) in self.literals.iter().enumerate() {
            writeln!(f, "literal k{i} {}", crate::text::literal::dense(l))?;
        }
        self.claims.iter().enumerate().try_for_each(|(i, c)| writeln!(f, "claim{i} {c}"))
    }

    fn print_dies(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut printed: Vec<Option<DieId>> = vec![None; self.streams.len()];
        for code in &self.dies {
            let s = code.stream.index();
            write!(f, "die {} ", show_die(&self.target, code.die))?;
            match printed.get(s).copied().flatten() {
                Some(first) => write!(f, "same as {}", show_die(&self.target, first))?,
                None => write!(f, "stream {}", code.stream)?,
            }
            let channels = |ids: &[super::ChannelId]| ids.iter().map(ToString::to_string).collect::<Vec<_>>().join(",");
            write!(
                f,
                " sram {} out [{}] in [{}] claims {}",
                code.sram_used,
                channels(&code.out_ports),
                channels(&code.in_ports),
                show_ids(code.claims.iter().map(|c| c.0))
            )?;
            match (self.streams.get(s), printed.get_mut(s)) {
                (Some(stream), Some(slot @ None)) => {
                    *slot = Some(code.die);
                    writeln!(f, " {{")?;
                    for (i, (instr, margin)) in stream.iter().zip(margins(stream)).enumerate() {
                        let claim = code.claims.get(i).and_then(|c| self.claims.get(c.index()));
                        match claim {
                            Some(Claim::Compute { node: v, .. } | Claim::Move { value: v, .. } | Claim::Loop { end: v, .. }) => {
                                writeln!(f, "  {i:04}  {margin}{instr}   ; {v}")?
                            }
                            _ => writeln!(f, "  {i:04}  {margin}{instr}")?,
                        }
                    }
                    writeln!(f, "}}")?;
                }
                _ => writeln!(f)?,
            }
        }
        for (s, stream) in self.streams.iter().enumerate().filter(|(s, _)| printed[*s].is_none()) {
            writeln!(f, "stream s{s} {{")?;
            let lines = stream.iter().zip(margins(stream)).enumerate();
            lines.into_iter().try_for_each(|(i, (instr, margin))| writeln!(f, "  {i:04}  {margin}{instr}"))?;
            writeln!(f, "}}")?;
        }
        Ok(())
    }

    /// The cost summary, a comment: instructions, transfers, bytes moved between dies (in loops, as often as they run, and in a `while`
    /// once), and the highest SRAM use.
    pub fn summary(&self) -> String {
        let (mut instructions, mut transfers, mut moved) = (0usize, 0usize, 0u64);
        for stream in self.dies.iter().filter_map(|c| self.streams.get(c.stream.index())) {
            let mut runs = vec![1usize];
            for instr in stream {
                let times = runs.last().copied().unwrap_or(1);
                instructions += 1;
                match instr {
                    Instr::Send { region, .. } => {
                        transfers = transfers.saturating_add(times);
                        moved = moved.saturating_add(region.bytes().saturating_mul(times as u64));
                    }
                    Instr::Loop { trips, .. } => runs.push(times.saturating_mul(trips.unwrap_or(1) as usize)),
                    Instr::EndLoop => drop(runs.pop()),
                    _ => {}
                }
            }
        }
        let peak = self.dies.iter().map(|c| c.sram_used).max().unwrap_or(0);
        let plural = |n: usize, what: &str| format!("{n} {what}{}", if n == 1 { "" } else { "s" });
        format!(
            "; {}, {}, {} moved, peak {} of {}",
            plural(instructions, "instruction"),
            plural(transfers, "transfer"),
            size(moved),
            size(peak),
            size(self.target.sram_bytes())
        )
    }
}
