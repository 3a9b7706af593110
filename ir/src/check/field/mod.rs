//! The finite-field mode: the streams of all dies are executed over the integers modulo 2^61 − 1 and compared with the reference step over the
//! same field, to the bit.
//!
//! The other phases follow what instructions claim. This one follows what they do: addresses, strides, extents, windows, origins, fused
//! programs and constants of every instruction are used as they stand, on memories in which each element knows its place and type. Sums and
//! products are exact in the field, so another order of a sum makes no difference, and a program that puts one element in a wrong place
//! passes with a probability of about 2^-61. Functions that are not rational are hashes, which are equal where their arguments are; that suffices, for
//! the reference is the step after optimization, and nothing behind it relies on `exp(a + b) = exp a · exp b` or the like.
//! Integers are computed as they are. What a function of a float would make of real numbers is not tested: that is the kernels' business.
//! Replicas are taken to be alike: a combination over them combines a value with itself.

mod arrays;
mod instrs;
mod machine;
mod memory;
mod ops;
mod scalar;
#[cfg(test)]
mod tests;

use super::report::{CheckReport, CheckStats, Fault, Findings, Place};
use super::{Verified, count};
use crate::axes::{Box, box_dims};
use crate::graph::loops::LoopNest;
use crate::graph::random::Random;
use crate::graph::{Graph, ValueId};
use crate::interp::{InterpError, eval_by};
use crate::ops::Op;
use crate::program::{HostUse, Program};
use crate::step::TrainStep;
use crate::tensor::{Tensor, indices, position, wrap_int};
use crate::types::{DType, Dims, TensorType, Type};
use machine::{Failure, Machine, Reference};
use smallvec::SmallVec;

/// How a program is run over the field.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct FieldOptions {
    /// What the inputs are made from.
    pub seed: u64,
    /// Points of loop nests (a product of m × n × k has as many) that the step may have.
    pub limit: u64,
}

impl Default for FieldOptions {
    fn default() -> Self {
        FieldOptions { seed: 0, limit: 10_000_000_000 }
    }
}

/// What was run.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct FieldStats {
    /// Instructions, on all dies and in all iterations.
    pub instructions: u64,
    /// Elements that were compared: of single instructions, states and outputs.
    pub elements: u64,
    /// Points of the step's loop nests.
    pub points: u64,
}

/// Why a program was not accepted, or not run.
#[derive(Clone, PartialEq, Debug, thiserror::Error)]
#[non_exhaustive]
pub enum FieldError {
    /// It makes another result than its step.
    #[error(transparent)]
    Wrong(std::boxed::Box<CheckReport>),
    /// It would take too long.
    #[error("E0616: the step has {points} points of loop nests, and {limit} may be run over the field")]
    TooLarge {
        /// What it has.
        points: u64,
        /// What may be run.
        limit: u64,
    },
    /// It has something that cannot be run over the field.
    #[error("E0617: {value} = {op} is not covered by the finite-field mode: {why}")]
    NotCovered {
        /// The node.
        value: ValueId,
        /// Its op.
        op: &'static str,
        /// Why.
        why: String,
    },
    /// The reference step does not run.
    #[error(transparent)]
    Reference(#[from] InterpError),
}

/// Elements of reference values that are kept to hold single instructions to.
const KEPT: usize = 1 << 26;

/// Runs a checked program over the field.
pub fn check(program: &Verified<Program>, options: FieldOptions) -> Result<FieldStats, FieldError> {
    run(program, options)
}

/// The same when of the other phases only those ran on which executing it relies: structure, bounds and shapes. It tells what this mode finds
/// by itself.
pub fn check_alone(program: &Program, options: FieldOptions) -> Result<FieldStats, FieldError> {
    let mut findings = Findings::new(program);
    match program.validate() {
        Ok(()) => super::bounds::check(program, &mut findings),
        Err(e) => findings.add(Fault::Structure, Place::program(), e.to_string()),
    }
    if !findings.is_clean() {
        let (findings, total) = (findings.list, findings.total);
        return Err(FieldError::Wrong(std::boxed::Box::new(CheckReport { findings, total, stats: CheckStats::default() })));
    }
    run(program, options)
}

fn run(program: &Program, options: FieldOptions) -> Result<FieldStats, FieldError> {
    let step = &program.step;
    let points = points(&step.graph);
    if points > options.limit {
        return Err(FieldError::TooLarge { points, limit: options.limit });
    }
    let inputs = inputs(&step.graph, options.seed);
    let (outputs, reference) = reference(step, &inputs, program.replicas.is_some(), options.limit)?;
    let outcome = Machine::new(program, &inputs, &reference, options.limit).and_then(|mut machine| {
        machine.run()?;
        results(&machine, program, &inputs, &outputs)?;
        Ok((machine.executed, machine.compared))
    });
    let compared: usize = outputs.iter().map(|t| t.ty().elements()).sum();
    match outcome {
        Ok((instructions, made)) => Ok(FieldStats { instructions, elements: made + compared as u64, points }),
        Err((place, why)) => {
            let mut findings = Findings::new(program);
            findings.add(Fault::Field, place, why);
            let mut stats = CheckStats::default();
            count(program, &mut stats);
            Err(FieldError::Wrong(std::boxed::Box::new(CheckReport { findings: findings.list, total: 1, stats })))
        }
    }
}

/// Points of the loop nests of a step; the body of a `while` counts once.
fn points(graph: &Graph) -> u64 {
    let nest = LoopNest::of(graph).unwrap_or_default();
    let live = graph.live();
    let times = |v: ValueId| {
        let around = std::iter::successors(nest.innermost(v), |l| nest.loops[*l].parent);
        around.map(|l| nest.loops[l].trips.unwrap_or(1) as u64).fold(1, u64::saturating_mul)
    };
    graph.values().filter(|v| live[v.index()]).map(|v| points_of(graph, v).saturating_mul(times(v))).fold(0, u64::saturating_add)
}

fn points_of(graph: &Graph, v: ValueId) -> u64 {
    let node = graph.node(v);
    if matches!(node.op, Op::Input(_) | Op::Proj(_) | Op::Carry(_) | Op::Repeat(_) | Op::While(_)) {
        return 0;
    }
    let types: SmallVec<[&Type; 4]> = node.operands.iter().map(|o| graph.ty(*o)).collect();
    node.op.axes(&types, &node.ty).loops.iter().map(|l| l.extent as u64).fold(1, u64::saturating_mul)
}

/// Any elements of the field, and integers that may be classes or indices: most below 8, some up to a thousand.
fn inputs(graph: &Graph, seed: u64) -> Vec<Tensor> {
    let mut random = Random::new(seed);
    let mut element = |dtype: DType| match dtype {
        DType::Bool => (random.bits() & 1) as i64,
        d if d.is_float() => (random.bits() % scalar::P) as i64,
        d => {
            let bits = if random.bits().is_multiple_of(8) { random.bits() % 11 } else { random.bits() % 4 };
            wrap_int(d, (random.bits() % (1 << bits)) as i64)
        }
    };
    let mut tensor = |ty: &TensorType| Tensor::coded(ty.clone(), (0..ty.elements()).map(|_| element(ty.dtype)).collect());
    graph.inputs.iter().map(|i| tensor(graph.tensor_ty(i.value))).collect()
}

/// The outputs of a step over the field, and the values of its nodes outside of loops, as far as there is room.
fn reference(step: &TrainStep, inputs: &[Tensor], replicas: bool, limit: u64) -> Result<(Vec<Tensor>, Reference), FieldError> {
    let graph = &step.graph;
    let nest = LoopNest::of(graph).unwrap_or_default();
    let (mut kept, mut left, mut room): (Reference, u64, usize) = (vec![None; graph.nodes().len()], limit, KEPT);
    let outputs = eval_by(graph, inputs, |v, op, operands, ty| {
        let not_covered = |why: String| FieldError::NotCovered { value: v, op: op.name(), why };
        let made = ops::eval(op, operands, ty, replicas).map_err(not_covered)?;
        if nest.innermost(v).is_none() {
            let elements: usize = made.iter().map(|t| t.ty().elements()).sum();
            if elements <= room {
                room -= elements;
                kept[v.index()] = Some(made.clone());
            }
        } else {
            // A loop that ends when a float is small enough may not end at all here.
            let ends = "the loop around it does not end within the limit when its predicate is computed over the field";
            left = left.checked_sub(points_of(graph, v) + 1000).ok_or_else(|| not_covered(ends.to_string()))?;
        }
        Ok::<_, FieldError>(made)
    })?;
    Ok((outputs, kept))
}

/// Compares states and outputs with those of the reference step.
fn results(machine: &Machine<'_>, program: &Program, inputs: &[Tensor], outputs: &[Tensor]) -> Result<(), Failure> {
    let step = &program.step;
    for (pair, shards) in step.state.iter().zip(&program.state) {
        let want = pair.output.map_or(&inputs[pair.input], |o| &outputs[o]);
        for s in shards {
            let place = Place::die(s.die as usize);
            let got = machine.read(s.die as usize, &s.region).map_err(|why| (place, format!("state `{}`: {why}", pair.name)))?;
            let got: Vec<Option<i64>> = got.into_iter().map(Some).collect();
            same(&format!("state `{}`", pair.name), &got, want, &s.part).map_err(|why| (place, why))?;
        }
    }
    for (h, host) in program.host.iter().enumerate() {
        let want = match host.usage {
            HostUse::Input(_) => continue,
            HostUse::Output(n) => &outputs[n as usize],
            HostUse::State(p) => {
                let pair = &step.state[p as usize];
                pair.output.map_or(&inputs[pair.input], |o| &outputs[o])
            }
        };
        let whole = crate::axes::full_box(want.shape());
        same(&format!("`{}` in host memory", host.name), &machine.stored(h), want, &whole).map_err(|why| (Place::program(), why))?;
    }
    Ok(())
}

fn same(what: &str, got: &[Option<i64>], want: &Tensor, part: &Box) -> Result<(), String> {
    let at = |i: &Dims| -> Dims { i.iter().zip(part).map(|(i, r)| i + r.start).collect() };
    let mut wrong = indices(&box_dims(part)).zip(got).filter(|(i, g)| **g != Some(ops::values(want)[position(want.shape(), &at(i))]));
    match wrong.next() {
        None => Ok(()),
        Some((i, g)) => {
            let kind = if g.is_some() { "another value than the step makes" } else { "no value" };
            let more = wrong.count();
            Err(format!("{what} has {kind} at {:?}, and {more} more elements are wrong, of {}", at(&i).as_slice(), got.len()))
        }
    }
}
