//! What a program is, in numbers: shared by `compile`, `report` and `inspect`.

use super::output::{bytes, metric, table};
use girih_ir::program::{HostUse, Instr, Program};
use girih_ir::types::TensorType;
use serde_json::{Value, json};
use std::collections::{BTreeMap, BTreeSet};

/// Counts over all dies.
#[derive(Clone, Debug, Default)]
pub struct Totals {
    /// Instructions.
    pub instructions: usize,
    /// How many of each mnemonic.
    pub by_name: BTreeMap<&'static str, usize>,
    /// Messages between dies.
    pub transfers: usize,
    /// Bytes of those messages.
    pub moved: u64,
    /// Bytes to and from host memory.
    pub host: u64,
    /// The most SRAM that a die uses.
    pub peak: u64,
    /// Bytes of state, every replica counted.
    pub state: u64,
    /// Element types of the operands of products and convolutions.
    pub products: BTreeSet<&'static str>,
    /// Bytes of state that stays in host memory between steps.
    pub streamed: u64,
}

/// The state that stays in host memory.
fn streamed(program: &Program) -> impl Iterator<Item = &girih_ir::program::HostTensor> {
    program.host.iter().filter(|h| matches!(h.usage, HostUse::State(_)))
}

impl Totals {
    /// Counts a program.
    pub fn of(program: &Program) -> Self {
        let mut t = Totals::default();
        for die in &program.dies {
            t.peak = t.peak.max(die.sram_used);
            for instr in program.streams.get(die.stream.index()).into_iter().flatten() {
                t.instructions += 1;
                *t.by_name.entry(instr.name()).or_default() += 1;
                match instr {
                    Instr::Send { region, .. } => {
                        t.transfers += 1;
                        t.moved += region.bytes();
                    }
                    Instr::Gemm { a: region, .. } | Instr::Conv { lhs: region, .. } => {
                        t.products.insert(region.dtype.name());
                    }
                    Instr::Load { out: region, .. } | Instr::Store { region, .. } => t.host += region.bytes(),
                    _ => {}
                }
            }
        }
        t.state = program.state.iter().flatten().map(|s| s.region.bytes()).sum();
        t.streamed = streamed(program).map(|h| h.ty.bytes() as u64).sum();
        t
    }
}

/// `5×5 mesh, 4 dies used, 3 distinct streams`.
pub fn dies(program: &Program) -> String {
    let shape = &program.target.mesh.shape;
    let (used, streams) = (program.dies.len(), program.streams.len());
    let plural = |n: usize, what: &str| format!("{n} {what}{}", if n == 1 { "" } else { "s" });
    let of = program.replicas.as_ref().map_or(String::new(), |r| format!("{}: {}×{} replicas, each on ", r.machine.name, r.rows, r.cols));
    format!(
        "{of}{}: {}×{} mesh, {} used, {}",
        program.target.name,
        shape.rows,
        shape.cols,
        plural(used, "die"),
        plural(streams, "distinct stream")
    )
}

/// Labeled facts, one a line.
pub fn facts(program: &Program) -> Vec<Vec<String>> {
    let t = Totals::of(program);
    let step = &program.step;
    let row = |label: &str, text: String| vec![label.to_string(), text];
    let share = 100.0 * t.peak as f64 / program.target.sram_bytes() as f64;
    let flops = girih::flops(&step.graph).saturating_mul(program.replica_count() as u64);
    let ops = step.graph.nodes().len();
    let mut facts = vec![
        row("model", format!("{}: {ops} nodes, {}", program.name, metric(flops as f64, "FLOP a step"))),
        row("target", dies(program)),
        row("program", format!("{} instructions, {} transfers, {} between dies", t.instructions, t.transfers, bytes(t.moved))),
        row("sram", format!("peak {} of {} a die ({share:.1} %)", bytes(t.peak), bytes(program.target.sram_bytes()))),
        row("state", state_text(step.state.len(), &t)),
        row("host", format!("{} loaded and stored a step", bytes(t.host))),
    ];
    if !t.products.is_empty() {
        facts.insert(1, row("precision", format!("{} products", precision(&t).join(" and "))));
    }
    facts
}

/// The element types of the operands of products and convolutions.
fn precision(t: &Totals) -> Vec<&'static str> {
    t.products.iter().copied().collect()
}

fn state_text(tensors: usize, t: &Totals) -> String {
    let streamed = if t.streamed > 0 { format!(", {} streamed from host memory", bytes(t.streamed)) } else { String::new() };
    format!("{tensors} tensors, {} in SRAM{streamed}", bytes(t.state))
}

/// The inputs and outputs in host memory, and the state.
pub fn interface(program: &Program) -> Vec<Vec<String>> {
    let host = program.host.iter().filter(|h| !matches!(h.usage, HostUse::State(_))).map(|h| {
        let kind = if matches!(h.usage, HostUse::Input(_)) { "input" } else { "output" };
        vec![kind.to_string(), h.name.clone(), program.host_type(h.usage, &h.ty).to_string()]
    });
    let step = &program.step;
    let state = step.state.iter().map(|s| vec![s.role.name().to_string(), s.name.clone(), step.state_type(s).to_string()]);
    host.chain(state).collect()
}

/// The same as a document.
pub fn document(program: &Program) -> Value {
    let t = Totals::of(program);
    let step = &program.step;
    let tensor = |name: &str, ty: &TensorType| json!({ "name": name, "dtype": ty.dtype.name(), "shape": ty.shape.to_vec() });
    let hosted = |input: bool| -> Vec<Value> {
        let of = |h: &HostUse| if input { matches!(h, HostUse::Input(_)) } else { matches!(h, HostUse::Output(_)) };
        let wanted = program.host.iter().filter(|h| of(&h.usage));
        wanted.map(|h| tensor(&h.name, &program.host_type(h.usage, &h.ty))).collect()
    };
    let per_die: Vec<Value> = program
        .dies
        .iter()
        .map(|d| {
            let n = program.streams.get(d.stream.index()).map_or(0, Vec::len);
            json!({ "die": program.target.coord(d.die).to_string(), "stream": d.stream.0, "instructions": n, "sram_bytes": d.sram_used })
        })
        .collect();
    json!({
        "name": program.name,
        "target": program.target.name,
        "target_digest": program.target.digest(),
        "dies_used": program.dies.len() * program.replica_count(),
        "replicas": program.replica_count(),
        "streams": program.streams.len(),
        "channels": program.channels.len(),
        "nodes": step.graph.nodes().len(),
        "flops": girih::flops(&step.graph).saturating_mul(program.replica_count() as u64),
        "precision": precision(&t),
        "instructions": t.instructions,
        "instructions_by_name": t.by_name,
        "transfers": t.transfers,
        "transfer_bytes": t.moved,
        "host_bytes": t.host,
        "sram_peak_bytes": t.peak,
        "sram_bytes_per_die": program.target.sram_bytes(),
        "state_bytes": t.state,
        "streamed_bytes": t.streamed,
        "streamed": streamed(program).map(|h| tensor(&h.name, &h.ty)).collect::<Vec<_>>(),
        "inputs": hosted(true),
        "outputs": hosted(false),
        "state": step.state.iter().map(|s| tensor(&s.name, step.state_type(s))).collect::<Vec<_>>(),
        "loss": step.loss.and_then(|l| step.graph.outputs.get(l)).map(|o| o.name.clone()),
        "dies": per_die,
    })
}

/// Facts and interface as text.
pub fn text(program: &Program) -> String {
    format!("{}\n{}", table(&facts(program), true), table(&interface(program), true))
}
