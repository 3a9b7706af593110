//! How each predicted number comes about: the formula, the figures in it, and where those are from.
//!
//! A number that cannot say where it is from is not to be trusted. Every line here can be worked out by hand from the target's figures.

use super::cost;
use super::report::{self, Report};
use girih_ir::program::{Instr, Program};
use girih_ir::target::Target;
use girih_ir::types::DType;
use serde::Serialize;
use std::collections::BTreeMap;
use std::fmt;

/// One number.
#[derive(Clone, PartialEq, Debug, Serialize)]
pub struct Derived {
    /// What it is: `makespan`, `gemm %4 dot_general`.
    pub name: String,
    /// In SI units.
    pub value: f64,
    /// As it is printed.
    pub text: String,
    /// The formula with the numbers in it.
    pub formula: String,
}

/// A figure that the formulas use.
#[derive(Clone, PartialEq, Debug, Serialize)]
pub struct Used {
    /// Its path in the target file.
    pub path: String,
    /// With its unit.
    pub value: String,
    /// How sure it is.
    pub confidence: String,
    /// Where it is from.
    pub source: String,
}

/// The derivation of a report.
#[derive(Clone, PartialEq, Debug, Serialize)]
pub struct Derivation {
    /// The numbers, the makespan first.
    pub numbers: Vec<Derived>,
    /// Every figure in their formulas.
    pub figures: Vec<Used>,
}

/// Collects formulas, and the figures in them.
struct Writer<'t> {
    target: &'t Target,
    numbers: Vec<Derived>,
    used: BTreeMap<String, ()>,
}

impl Writer<'_> {
    /// The text of a figure, which is noted as used.
    fn figure(&mut self, path: &str) -> String {
        let found = self.target.figures().into_iter().find(|(p, _)| p == path).map(|(_, f)| f.to_string());
        self.used.insert(path.to_string(), ());
        found.unwrap_or_else(|| "nothing".into())
    }

    /// The figure of a type, or that of the type whose place it takes.
    fn typed(&mut self, section: &str, dtype: DType) -> String {
        let twin = match dtype {
            DType::BF16 => DType::F16,
            DType::F16 => DType::BF16,
            other => other,
        };
        let has = |d: DType| self.target.figures().iter().any(|(p, _)| *p == format!("{section}.{d}"));
        let dtype = [dtype, twin].into_iter().find(|d| has(*d)).unwrap_or(DType::F32);
        self.figure(&format!("{section}.{dtype}"))
    }

    /// The figures of a section, each with its name.
    fn section(&mut self, section: &str) -> String {
        let paths: Vec<String> = self.target.figures().into_iter().map(|(p, _)| p).filter(|p| p.starts_with(section)).collect();
        let figures: Vec<String> = paths.iter().map(|p| format!("{} {}", &p[section.len() + 1..], self.figure(p))).collect();
        figures.join(", ")
    }

    fn number(&mut self, name: impl Into<String>, value: f64, text: String, formula: String) {
        self.numbers.push(Derived { name: name.into(), value, text, formula });
    }
}

/// The derivation of a program's report.
pub(super) fn derive(program: &Program, report: &Report) -> Derivation {
    let mut w = Writer { target: &program.target, numbers: Vec::new(), used: BTreeMap::new() };
    let parts: Vec<String> = report.contributors.iter().map(|c| format!("{} {}", c.name, report::time(c.seconds))).collect();
    let shown: f64 = report.contributors.iter().map(|c| c.seconds).sum();
    let rest = (report.makespan - shown).max(0.0);
    let formula = format!("critical path: {} + {} of waits, dispatch and shorter steps", parts.join(" + "), report::time(rest));
    w.number("makespan", report.makespan, report::time(report.makespan), formula);
    for c in &report.contributors {
        let step = report.critical_path.iter().find(|s| s.name == c.name && s.node == c.node && s.iterations == 0);
        let place = step.and_then(|s| {
            let die = program.dies.iter().position(|d| program.target.coord(d.die).to_string() == s.die)?;
            Some((die, s.instruction as usize, s.end - s.start))
        });
        if let Some((die, index, took)) = place {
            instruction(&mut w, program, die, index, took, &format!("{} {}", c.name, c.node));
        }
    }
    totals(&mut w, program, report);
    let figures = program.target.figures();
    let used = figures.iter().filter(|(p, _)| w.used.contains_key(p)).map(|(path, f)| Used {
        path: path.clone(),
        value: f.to_string(),
        confidence: f.confidence().to_string(),
        source: f.source().to_string(),
    });
    Derivation { figures: used.collect(), numbers: w.numbers }
}

/// One instruction of the critical path.
fn instruction(w: &mut Writer<'_>, program: &Program, die: usize, index: usize, took: f64, name: &str) {
    let target = &program.target;
    let code = &program.dies[die];
    let Some(instr) = program.streams.get(code.stream.index()).and_then(|s| s.get(index)) else { return };
    let c = cost::cost(instr, program, target);
    let region = instr.writes().first().copied().or(instr.reads().first().copied()).map_or(0, |r| r.bytes());
    let formula = match instr {
        Instr::Send { port, .. } => {
            let links = code.out_ports.get(port.index()).and_then(|c| program.channels.get(c.index())).map_or(0, |c| c.route.len());
            let (overhead, hop, rate) = (w.figure("link.message_overhead"), w.figure("link.hop_latency"), w.figure("link.bandwidth"));
            format!("{overhead} + {links} links × {hop} + {region} B / {rate}, and what the links were busy with before")
        }
        Instr::Load { .. } | Instr::Store { .. } => {
            let (overhead, latency) = (w.figure("link.message_overhead"), w.figure("host_memory.latency"));
            let (port, hop) = (w.figure("host_memory.port_bandwidth"), w.figure("link.hop_latency"));
            format!("{overhead} + {latency} + links to the port × {hop} + {region} B / {port}, and what the port was busy with before")
        }
        Instr::AllReduce { .. } => {
            let (hop, cross) = (w.figure("link.hop_latency"), w.figure("package.crossing.hop_latency"));
            let (rate, overhead) = (w.figure("package.crossing.bandwidth"), w.figure("link.message_overhead"));
            let (rows, cols) = program.replicas.as_ref().map_or((1, 1), |r| (r.rows, r.cols));
            format!(
                "{region} B of a die through a chain over {rows}×{cols} packages and back, in pieces: the dies of a package share its border links \
                 of {rate}; a package is crossed in {hop} a die and {cross} to the next one; {overhead} a piece; and what the chain was busy \
                 with before"
            )
        }
        Instr::Recv { .. } => "the message came at the end of the send that the step follows".into(),
        Instr::RecvAdd { .. } => {
            let (vector, sram) = (w.figure("die.vector"), w.figure("die.sram_bandwidth"));
            format!("max({} FLOP / {vector}, {} B / {sram}) after the message came", c.vector_flops, c.sram_bytes)
        }
        _ => engine(w, instr, &c),
    };
    w.number(name, took, report::time(took), formula);
}

/// An instruction of the engines.
fn engine(w: &mut Writer<'_>, instr: &Instr, c: &cost::Cost) -> String {
    let (launch, sram) = (w.figure("die.launch_overhead"), w.figure("die.sram_bandwidth"));
    let memory = format!("{} B / {sram}", c.sram_bytes);
    if c.matrix_flops == 0 {
        let vector = w.figure("die.vector");
        return format!("max({} FLOP / {vector}, {memory}) + launch {launch}", c.vector_flops);
    }
    let target = w.target;
    let dtype = c.dtype.unwrap_or(DType::F32);
    let special = [
        (target.die.vector_unit.is_some(), "die.vector_unit", "vector instructions × (start + groups of lanes × cycles)"),
        (target.die.amp.is_some(), "die.amp", "blocks × (rows of a worker × byte_cycles × bytes + block_cycles) + columns × column_cycles"),
        (target.die.tile_engine.is_some(), "die.tile_engine", "tile products × (cycles at the peak + phases × phase_issue + tile_issue)"),
    ];
    if let Some(text) = on_nodes(w, instr, &memory, &launch) {
        return text;
    }
    if let Some((_, section, how)) = special.into_iter().find(|(has, ..)| *has) {
        let clock = w.figure("die.clock");
        return format!("max({how} at {clock}, {memory}) + launch {launch}, with {}", w.section(section));
    }
    let peak = w.typed("die.peak", dtype);
    let ideal = cost::seconds(c.matrix_flops as f64, target.peak_flops(dtype));
    let engine = (c.seconds - target.launch_overhead()).max(f64::MIN_POSITIVE);
    for part in ["t_m", "t_n", "t_k", "k0"] {
        w.figure(&format!("die.gemm.{part}"));
    }
    let what = if matches!(instr, Instr::Conv { .. }) { "the product it is equal to, " } else { "" };
    format!(
        "max({what}{} FLOP / ({peak} × {:.1} % of tiles and depth), {memory}) + launch {launch}",
        c.matrix_flops,
        100.0 * (ideal / engine).min(1.0)
    )
}

/// A product, or a convolution as the products that it is equal to, on the nodes of a die that has such.
fn on_nodes(w: &mut Writer<'_>, instr: &Instr, memory: &str, launch: &str) -> Option<String> {
    let (product, groups, dtype) = match instr {
        Instr::Gemm { out, a, batch, contract, .. } => (cost::gemm_shape(out, a, *batch, *contract), 1, a.dtype),
        Instr::Conv { out, lhs, rhs, window, .. } => {
            let shape = cost::conv_shape(out, lhs, rhs, window, cost::conv_groups(instr));
            (shape.product(), shape.groups, lhs.dtype)
        }
        _ => return None,
    };
    let plan = w.target.node_plan(dtype, product)?;
    let ([batch, rows, cols, inner], [over_rows, over_cols]) = (plan.ways, plan.passes);
    let (clock, figures) = (w.figure("die.clock"), w.section("die.node_engine"));
    let each = if groups > 1 { format!("{groups} groups × ") } else { String::new() };
    Some(format!(
        "max({each}{:.0} cycles at {clock}, {memory}) + launch {launch}: {} products of {}×{}×{} on {batch}×{rows}×{cols} nodes, the inner extent \
         {inner} ways, {over_rows}×{over_cols} passes with panels {} deep ({} B a node), with {figures}",
        plan.cycles, product.batch, product.m, product.n, product.k, plan.depth, plan.bytes,
    ))
}

/// Utilization, energy and power.
fn totals(w: &mut Writer<'_>, program: &Program, r: &Report) {
    let target = &program.target;
    let dtype = super::report::main_dtype(program);
    let peak = w.typed("die.peak", dtype);
    let formula = format!(
        "{} FLOP of the model's products / ({} dies × {peak} of {dtype} × {})",
        r.model_flops,
        r.dies.len() as u64 * r.replicas,
        report::time(r.makespan)
    );
    w.number("MFU", r.mfu, format!("{:.1} %", 100.0 * r.mfu), formula);
    let flop = w.typed("energy.flop", dtype);
    let joules = |j: f64| format!("{j:.3e} J");
    w.number(
        "energy.compute",
        r.energy.compute,
        joules(r.energy.compute),
        format!("{} FLOP × {flop} ({dtype}; other types at their own figure)", r.flops),
    );
    let sram = w.figure("energy.sram");
    let bytes = if target.energy_per_sram_byte() > 0.0 { r.energy.sram / target.energy_per_sram_byte() } else { 0.0 };
    w.number("energy.sram", r.energy.sram, joules(r.energy.sram), format!("{bytes:.0} B × {sram}"));
    let link = w.figure("energy.link");
    w.number("energy.links", r.energy.links, joules(r.energy.links), format!("{} B over links × {link}", r.link_bytes));
    let host = w.figure("energy.host");
    w.number("energy.host", r.energy.host, joules(r.energy.host), format!("{} B × {host}", r.host_bytes));
    let idle = w.figure("energy.idle");
    let live = target.live_dies().len() as u64 * r.replicas;
    w.number("energy.idle", r.energy.idle, joules(r.energy.idle), format!("{live} live dies × {idle} × {}", report::time(r.makespan)));
    let formula = format!("{} / {}", joules(r.energy.total), report::time(r.makespan));
    w.number("power", r.power, format!("{:.4} W", r.power), formula);
}

impl fmt::Display for Derivation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "\nhow the numbers come about")?;
        for n in &self.numbers {
            writeln!(f, "  {} = {}\n      {}", n.name, n.text, n.formula)?;
        }
        writeln!(f, "\nfigures of the target in these formulas")?;
        let width = self.figures.iter().map(|u| u.path.chars().count()).max().unwrap_or(0);
        let value = self.figures.iter().map(|u| u.value.chars().count()).max().unwrap_or(0);
        for u in &self.figures {
            writeln!(f, "  {:<width$}  {:>value$}  {:<10}  {}", u.path, u.value, u.confidence, u.source)?;
        }
        Ok(())
    }
}
