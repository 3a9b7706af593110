//! Pins: splits that are not up for choice. They come from a file of the user's, or from a strategy of the literature that a plan
//! is to be compared with; the rest of the step is planned around them as always.
//!
//! A file has one pin a line: what is pinned, and which of its loops is split over the rows (`y`) and the columns (`x`) of the mesh.
//! ```text
//! # loops are counted as in `girih compile MODEL --emit partition`
//! wte            y=0 x=-      an input or output of the model: the node that makes it, of state the one that makes its new value
//! %12            y=- x=1      a node by its number in `--emit fuse`
//! op:dot_general y=1 x=2      every node of this op
//! ```
//! A pin that splits the columns of a `rows` op, such as the keys of a softmax, has its reductions combined over dies.

use super::strategies::{self, Baseline};
use crate::sharded::axes_of;
use girih_ir::graph::ValueId;
use girih_ir::ops::Op;
use girih_ir::step::TrainStep;

/// Where the splits come from that are not up for choice.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub enum Pinning {
    /// Everything is up for choice.
    #[default]
    Free,
    /// The products of the step follow a strategy of the literature.
    Strategy(Baseline),
    /// Wishes of the user.
    Wishes(Vec<Wish>),
}

/// A line of a file of pins.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Wish {
    /// What is pinned: a name, `%N`, or `op:NAME`.
    pub what: String,
    /// The loop over the rows of the mesh.
    pub y: Option<usize>,
    /// The loop over the columns of the mesh.
    pub x: Option<usize>,
}

/// The loops of a node over the axes of the mesh.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Pin {
    /// Over the rows.
    pub y: Option<usize>,
    /// Over the columns.
    pub x: Option<usize>,
}

/// A pin that means nothing.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
#[non_exhaustive]
pub enum PinError {
    /// A line is not a pin.
    #[error("E0803: line {line} of the pins is not of the form `VALUE y=LOOP x=LOOP`: `{text}`")]
    Line {
        /// Its number, from 1.
        line: usize,
        /// The line.
        text: String,
    },
    /// There is nothing of that name.
    #[error(
        "E0804: the pin `{what}` names nothing: give an input, an output, a number of `--emit fuse`, or an op such as `op:dot_general`"
    )]
    Nothing {
        /// The name.
        what: String,
    },
    /// A loop that cannot be split.
    #[error("E0805: the pin `{what}` splits loop {number} of {node} ({op}), which has {loops} loops, and not all can be split")]
    Loop {
        /// The name.
        what: String,
        /// The loop.
        number: usize,
        /// The node.
        node: ValueId,
        /// Its op.
        op: &'static str,
        /// How many loops it has.
        loops: usize,
    },
}

impl Pinning {
    /// The wishes of a file.
    pub fn parse(text: &str) -> Result<Self, PinError> {
        let mut wishes = Vec::new();
        for (n, full) in text.lines().enumerate() {
            let line = full.split('#').next().unwrap_or_default().trim();
            if line.is_empty() {
                continue;
            }
            let bad = || PinError::Line { line: n + 1, text: full.to_string() };
            let mut words = line.split_whitespace();
            let mut wish = Wish { what: words.next().ok_or_else(bad)?.to_string(), y: None, x: None };
            for word in words {
                let (axis, number) = word.split_once('=').ok_or_else(bad)?;
                let number = if number == "-" { None } else { Some(number.parse().map_err(|_| bad())?) };
                match axis {
                    "y" => wish.y = number,
                    "x" => wish.x = number,
                    _ => return Err(bad()),
                }
            }
            wishes.push(wish);
        }
        Ok(Pinning::Wishes(wishes))
    }

    /// The pin of each node of a fused step.
    pub fn of(&self, step: &TrainStep) -> Result<Vec<Option<Pin>>, PinError> {
        match self {
            Pinning::Free => Ok(vec![None; step.graph.nodes().len()]),
            Pinning::Strategy(baseline) => Ok(strategies::pins(step, *baseline)),
            Pinning::Wishes(wishes) => {
                let mut pins = vec![None; step.graph.nodes().len()];
                for wish in wishes {
                    wish.apply(step, &mut pins)?;
                }
                Ok(pins)
            }
        }
    }
}

impl Wish {
    fn apply(&self, step: &TrainStep, pins: &mut [Option<Pin>]) -> Result<(), PinError> {
        let nodes = self.nodes(step);
        if nodes.is_empty() {
            return Err(PinError::Nothing { what: self.what.clone() });
        }
        for node in nodes {
            let axes = axes_of(&step.graph, node);
            for number in [self.y, self.x].into_iter().flatten() {
                let apart = super::apart::separable(&step.graph.node(node).op).is_some();
                let splits = axes.loops.get(number).is_some_and(|l| apart || l.kind != girih_ir::axes::LoopKind::Whole);
                // An op of many shapes is split where it can be.
                if !splits && !self.what.starts_with("op:") {
                    let op = step.graph.node(node).op.name();
                    return Err(PinError::Loop { what: self.what.clone(), number, node, op, loops: axes.loops.len() });
                }
            }
            let within = |l: Option<usize>| l.filter(|l| *l < axes.loops.len());
            pins[node.index()] = Some(Pin { y: within(self.y), x: within(self.x) });
        }
        Ok(())
    }

    /// The nodes that a wish is about.
    fn nodes(&self, step: &TrainStep) -> Vec<ValueId> {
        let graph = &step.graph;
        let behind = |v: ValueId| match &graph.node(v).op {
            Op::Proj(_) => graph.node(v).operands[0],
            _ => v,
        };
        if let Some(op) = self.what.strip_prefix("op:") {
            return graph.values().filter(|v| graph.node(*v).op.name() == op).collect();
        }
        if let Some(n) = self.what.strip_prefix('%').and_then(|n| n.parse::<usize>().ok()) {
            return graph.values().nth(n).map(behind).into_iter().collect();
        }
        let input = graph.inputs.iter().position(|i| i.name == self.what);
        let state = input.and_then(|i| step.state.iter().find(|s| s.input == i)).and_then(|s| s.output);
        let output = state.or_else(|| graph.outputs.iter().position(|o| o.name == self.what));
        output.map(|o| behind(graph.outputs[o].value)).into_iter().collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_says_what_is_split_where() {
        let pins = Pinning::parse("# nothing\nwte y=0 x=-\n%12 x=1   # columns\nop:dot_general y=1 x=2\n").unwrap();
        let wish = |what: &str, y, x| Wish { what: what.into(), y, x };
        assert_eq!(
            pins,
            Pinning::Wishes(vec![wish("wte", Some(0), None), wish("%12", None, Some(1)), wish("op:dot_general", Some(1), Some(2))])
        );
        for bad in ["wte z=1", "wte y", "wte y=first"] {
            assert!(matches!(Pinning::parse(bad), Err(PinError::Line { line: 1, .. })), "{bad}");
        }
    }
}
