//! Printing: aligned columns, dense ids, a cost summary at the end.

use super::lex::{is_plain_word, plain_or_quoted, quote};
use super::{literal, program};
use crate::attr::Attr;
use crate::graph::loops::LoopNest;
use crate::graph::{Graph, Node, ValueId};
use crate::ops::Op;
use crate::types::{DType, Type};
use std::fmt::{self, Write};

/// Statements longer than this do not push the type column out.
const MAX_COLUMN: usize = 104;
/// Headers longer than this give each input its own line.
const MAX_HEADER: usize = 120;
/// Words that read as another kind of attribute, and so are quoted.
pub(crate) const RESERVED: [&str; 6] = ["true", "false", "inf", "nan", "dense", "graph"];

fn ints(values: &[i64]) -> String {
    let all: Vec<String> = values.iter().map(i64::to_string).collect();
    format!("[{}]", all.join(", "))
}

/// One attribute value; a region is indented by `indent` more than the line it is on.
fn attr(value: &Attr, indent: usize) -> String {
    match value {
        Attr::Bool(v) => v.to_string(),
        Attr::Int(v) => v.to_string(),
        Attr::Float(bits) => literal::float(f64::from_bits(*bits), false),
        Attr::Word(w) => {
            let plain = is_plain_word(w) && !RESERVED.contains(&w.as_str()) && DType::from_name(w).is_none() && !w.starts_with("nan0x");
            if plain { w.clone() } else { quote(w) }
        }
        Attr::Ints(v) => ints(v),
        Attr::Lists(v) => {
            let all: Vec<String> = v.iter().map(|l| ints(l)).collect();
            format!("[{}]", all.join(", "))
        }
        Attr::DType(d) => d.name().to_string(),
        Attr::Literal(l) => literal::dense(l),
        Attr::Program(p) => program::print(p),
        Attr::Region(g) => body(g, indent + 2),
    }
}

/// `name operands {attributes}` of a node.
fn application(node: &Node, indent: usize) -> String {
    let mut out = node.op.name().to_string();
    for (i, v) in node.operands.iter().enumerate() {
        let _ = write!(out, "{}{v}", if i > 0 { ", " } else { " " });
    }
    let attrs = node.op.attrs();
    if !attrs.is_empty() {
        let all: Vec<String> = attrs.iter().map(|(name, value)| format!("{name} = {}", attr(value, indent))).collect();
        let _ = write!(out, " {{{}}}", all.join(", "));
    }
    out
}

fn origin(g: &Graph, v: ValueId) -> String {
    match g.origin(v) {
        "" => String::new(),
        text => format!(" @{}", quote(text)),
    }
}

fn ty(g: &Graph, v: ValueId) -> String {
    g.nodes().get(v.index()).map_or("?".to_string(), |n| n.ty.to_string())
}

fn header(g: &Graph, pad: &str) -> String {
    let inputs: Vec<String> = g
        .inputs
        .iter()
        .map(|i| {
            let at = if i.value.index() < g.nodes().len() { origin(g, i.value) } else { String::new() };
            format!("{}: {} {} {}{at}", i.value, ty(g, i.value), i.role.name(), quote(&i.name))
        })
        .collect();
    let start = if g.name.is_empty() { "graph (".to_string() } else { format!("graph @{}(", plain_or_quoted(&g.name)) };
    let one = format!("{start}{}) {{\n", inputs.join(", "));
    if one.chars().count() + pad.len() <= MAX_HEADER || inputs.is_empty() {
        return one;
    }
    format!("{start}\n{pad}    {}) {{\n", inputs.join(&format!(",\n{pad}    ")))
}

/// A graph without the summary; all lines but the first are indented.
pub(crate) fn body(g: &Graph, indent: usize) -> String {
    let pad = " ".repeat(indent);
    let mut out = header(g, &pad);
    let lines: Vec<(ValueId, String)> = g
        .values()
        .zip(g.nodes())
        .filter(|(_, n)| !matches!(n.op, Op::Input(_)))
        .map(|(v, n)| (v, format!("{v} = {}", application(n, indent))))
        .collect();
    let width = |s: &str| s.chars().count();
    let column = lines.iter().map(|(_, l)| width(l)).filter(|w| *w <= MAX_COLUMN).max().unwrap_or(0);
    for (v, line) in &lines {
        let gap = if line.contains('\n') { 0 } else { column.saturating_sub(width(line)) };
        let _ = writeln!(out, "{pad}  {line}{} : {}{}", " ".repeat(gap), ty(g, *v), origin(g, *v));
    }
    let outputs: Vec<String> = g.outputs.iter().map(|o| format!(" {} {}", o.value, quote(&o.name))).collect();
    let _ = write!(out, "{pad}  return{}\n{pad}}}", outputs.join(","));
    out
}

/// A count with a metric prefix: `3.4 MFLOP`.
pub(crate) fn metric(n: u64, unit: &str) -> String {
    let (mut value, mut prefix) = (n as f64, "");
    for next in ["K", "M", "G", "T", "P"] {
        if value < 1000.0 {
            break;
        }
        (value, prefix) = (value / 1000.0, next);
    }
    if prefix.is_empty() { format!("{n} {unit}") } else { format!("{value:.1} {prefix}{unit}") }
}

/// Operations of a node, when its types are what its op infers.
fn flops(g: &Graph, node: &Node) -> u64 {
    let operands: Option<Vec<&Type>> = node.operands.iter().map(|v| g.nodes().get(v.index()).map(|n| &n.ty)).collect();
    match operands {
        Some(ins) if node.op.infer(&ins).as_ref() == Ok(&node.ty) => {
            let axes = node.op.axes(&ins, &node.ty);
            axes.ops(&axes.full_ranges())
        }
        _ => 0,
    }
}

/// The cost summary: `; 12 ops, 3.4 MFLOP, 1.2 MB of values`.
pub(crate) fn summary(g: &Graph) -> String {
    let work: Vec<&Node> = g.nodes().iter().filter(|n| !matches!(n.op, Op::Input(_) | Op::Constant(_))).collect();
    let ops = work.iter().filter(|n| !matches!(n.op, Op::Proj(_))).count();
    // A node of a loop counts once an iteration; a `while` counts as one.
    let sound =
        g.values().all(|v| g.node(v).operands.iter().all(|o| *o < v)) && g.outputs.iter().all(|o| o.value.index() < g.nodes().len());
    let nest = if sound { LoopNest::of(g).unwrap_or_default() } else { LoopNest::default() };
    let runs = |v: ValueId| nest.runs(v, 1) as u64;
    let flop = g.values().fold(0u64, |sum, v| sum.saturating_add(flops(g, g.node(v)).saturating_mul(runs(v))));
    let bytes = g.nodes().iter().flat_map(|n| n.ty.components()).fold(0u64, |sum, t| sum.saturating_add(t.bytes() as u64));
    format!("; {ops} ops, {}, {} of values", metric(flop, "FLOP"), metric(bytes, "B"))
}

impl fmt::Display for Graph {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "{}\n{}", body(self, 0), summary(self))
    }
}
