//! Replicas: what every replica keeps or gives must be the same in all of them, unless it is its own rows of something.
//!
//! All replicas run the same streams on the same state, so what they compute differs only where it depends on an input that is shared out.
//! An `all_reduce` makes one value of all of theirs; a value that depends on a replica's own rows and becomes state, or an output that is
//! not shared out, without one in between would be the sum of a part only. The other phases prove that the streams of one replica
//! compute the step of one replica, `all_reduce` nodes included, and which bytes each of them combines: the same in all replicas.
//!
//! Replicas cannot wait for each other for ever. Take the order of events of one replica that the deadlock phase found, and let all replicas
//! go through it together, event by event: each `all_reduce` completes when its turn comes, because in all of them it has been issued by
//! then. A stream reads its queues in a fixed order, so no other order of events can block what this one lets happen. It takes that all
//! replicas issue the same ones, so a loop that runs until its data say so may hold an `all_reduce` only if those data are the same
//! in all of them.

use super::report::{Fault, Findings, Place};
use crate::graph::loops::LoopNest;
use crate::graph::{Graph, ValueId};
use crate::ops::Op;
use crate::program::{HostUse, Program, Replicas};
use smallvec::SmallVec;

/// For each component of each node: whether it differs from replica to replica.
type Varies = Vec<SmallVec<[bool; 1]>>;

/// Checks a program with replicas; without them there is nothing to check.
pub fn check(program: &Program, findings: &mut Findings<'_>) {
    let Some(replicas) = &program.replicas else { return };
    let step = &program.step;
    let graph = &step.graph;
    let nest = LoopNest::of(graph).unwrap_or_default();
    let varies = varying(graph, &nest, replicas);
    let differs = |v: ValueId| component(graph, &varies, v);
    for pair in &step.state {
        if let Some(v) = pair.output.map(|o| graph.outputs[o].value).filter(|v| differs(*v)) {
            let why =
                format!("the new value of `{}`, {v}, depends on a replica's own rows and is not combined over the replicas", pair.name);
            findings.add(Fault::Partial, Place::program(), why);
        }
    }
    for o in step.result_outputs() {
        let output = &graph.outputs[o];
        if differs(output.value) && replicas.sliced(HostUse::Output(o as u32)).is_none() {
            let why = format!(
                "output `{}`, {}, depends on a replica's own rows and is not combined over the replicas",
                output.name, output.value
            );
            findings.add(Fault::Partial, Place::program(), why);
        }
    }
    for l in nest.loops.iter().filter(|l| l.predicate.is_some_and(differs)) {
        let position = nest.ending_at(l.end);
        let inside = |v: &ValueId| position.is_some_and(|p| nest.is_inside(nest.innermost(*v), p));
        if let Some(v) = graph.values().filter(|v| matches!(graph.node(*v).op, Op::AllReduce(_))).find(inside) {
            let why = format!("{v} combines over the replicas in the loop of {}, which does not run equally often in all of them", l.end);
            findings.add(Fault::Deadlock, Place::program(), why);
        }
    }
}

fn component(graph: &Graph, varies: &Varies, v: ValueId) -> bool {
    let node = graph.node(v);
    match &node.op {
        Op::Proj(p) => varies[node.operands[0].index()].get(p.index).copied().unwrap_or(true),
        _ => varies[v.index()].contains(&true),
    }
}

/// What differs: inputs that are shared out, and what depends on them other than through an `all_reduce`.
fn varying(graph: &Graph, nest: &LoopNest, replicas: &Replicas) -> Varies {
    let mut varies: Varies = graph.values().map(|v| SmallVec::from_elem(false, graph.ty(v).components().len())).collect();
    let mut changed = true;
    while std::mem::take(&mut changed) {
        for v in graph.values() {
            let node = graph.node(v);
            let reads = |o: &ValueId| component(graph, &varies, *o);
            let width = varies[v.index()].len();
            let row: SmallVec<[bool; 1]> = match &node.op {
                Op::Input(i) => SmallVec::from_elem(replicas.sliced(HostUse::Input(i.index as u32)).is_some(), width),
                Op::AllReduce(_) => SmallVec::from_elem(false, width),
                Op::Proj(_) => SmallVec::from_elem(reads(&v), width),
                // Found again in every iteration, so what the iteration leaves there counts as well.
                Op::Carry(_) => SmallVec::from_elem(varies[v.index()][0] || node.operands.iter().any(reads), width),
                Op::Repeat(_) | Op::While(_) => match nest.ending_at(v).map(|l| &nest.loops[l]) {
                    Some(l) => {
                        let ends = l.predicate.is_some_and(|p| reads(&p));
                        l.carries.iter().zip(&l.next).map(|(c, n)| ends || reads(c) || reads(n)).collect()
                    }
                    None => SmallVec::from_elem(true, width),
                },
                _ => SmallVec::from_elem(node.operands.iter().any(reads), width),
            };
            changed |= row != varies[v.index()];
            varies[v.index()] = row;
        }
        for (carry, next) in nest.loops.iter().flat_map(|l| l.carries.iter().zip(&l.next)) {
            if !varies[carry.index()][0] && component(graph, &varies, *next) {
                varies[carry.index()][0] = true;
                changed = true;
            }
        }
    }
    varies
}
