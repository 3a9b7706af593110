//! Which values of a row program are computed in which pass over the columns.
//!
//! Every level of reductions needs one more pass. What several passes need is computed again where that is cheap, and otherwise written
//! once, to a result that has it anyway or to a row of scratch, and read back.

use super::Motion;
use super::lower::compiled;
use crate::map::compile::Compiled;
use girih_ir::fused::{Expr, Slot};
use girih_ir::scalar::{BinaryFn, Monoid, UnaryFn};
use girih_ir::types::DType;
use std::collections::BTreeMap;

/// Where a value waits for a later pass.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Kept {
    /// In result `0`, which is this value.
    Output(usize),
    /// In row `0` of the scratch memory.
    Scratch(usize),
}

/// A reduction: its slot, combiner and argument.
pub(super) type Reduction = (Slot, Monoid, Slot);

/// One pass over the columns.
#[derive(Clone, Debug, Default)]
pub(super) struct Pass {
    /// Values that differ between columns, in order.
    pub(super) slots: Vec<Slot>,
    /// Which of them are read back, and from where.
    pub(super) read: BTreeMap<Slot, Kept>,
    /// Values that are written for later passes.
    pub(super) written: Vec<(Slot, Kept)>,
    /// Reductions over them.
    pub(super) reductions: Vec<Reduction>,
    /// Results that are written.
    pub(super) outputs: Vec<usize>,
}

/// The passes of a program.
#[derive(Clone, Debug)]
pub(super) struct Passes {
    /// Slots that are equal in all columns of a row.
    pub(super) uniform: Vec<bool>,
    /// Reductions that must be known first: how many passes come before a slot.
    pub(super) stage: Vec<usize>,
    pub(super) passes: Vec<Pass>,
    /// Rows of scratch.
    pub(super) scratch: usize,
}

/// Which slots are equal in all columns, given how the operands move.
pub(super) fn uniform(program: &Compiled, motions: &[Motion], indices: &[Motion]) -> Vec<bool> {
    let mut uniform = vec![false; program.types.len()];
    for step in &program.whole.steps {
        uniform[step.slot as usize] = match step.expr {
            Expr::Input(k) => motions[k as usize] == Motion::Still,
            Expr::Index(_, d) => program.index_dims.iter().position(|x| *x == d as usize).is_some_and(|at| indices[at] == Motion::Still),
            Expr::Const(..) | Expr::Reduce(..) => true,
            e => e.arguments().iter().all(|a| uniform[*a as usize]),
        };
    }
    uniform
}

/// About how many instructions a slot takes.
fn weight(expr: Expr, dtype: DType) -> usize {
    let own = match expr {
        Expr::Unary(UnaryFn::Exp, _) => 14,
        Expr::Unary(UnaryFn::Log, _) => 22,
        Expr::Unary(UnaryFn::Tanh | UnaryFn::Logistic, _) => 30,
        Expr::Unary(UnaryFn::Erf, _) => 40,
        Expr::Unary(UnaryFn::Rsqrt, _) => 8,
        Expr::Unary(UnaryFn::Sqrt, _) | Expr::Binary(BinaryFn::Div, ..) => 4,
        Expr::Const(..) | Expr::Convert(DType::F32, _) => 0,
        _ => 1,
    };
    match (expr, dtype) {
        (Expr::Input(_) | Expr::Select(..) | Expr::Const(..), _) => own,
        (_, DType::BF16) => own + 7,
        (_, DType::F16) => own + 2,
        _ => own,
    }
}

struct Planner<'a> {
    program: &'a Compiled,
    exprs: Vec<Option<Expr>>,
    uniform: Vec<bool>,
    stage: Vec<usize>,
    depth: usize,
    /// Kept values and the pass that writes each.
    kept: BTreeMap<Slot, (usize, Kept)>,
}

impl Planner<'_> {
    /// The slots that differ between columns and are needed for the roots in pass `level`, ascending.
    fn closure(&self, roots: impl IntoIterator<Item = Slot>, level: usize) -> Vec<Slot> {
        let mut wanted = vec![false; self.uniform.len()];
        roots.into_iter().for_each(|r| wanted[r as usize] = !self.uniform[r as usize]);
        for slot in (0..wanted.len()).rev() {
            let read_back = self.kept.get(&(slot as Slot)).is_some_and(|(first, _)| *first < level);
            if let Some(expr) = self.exprs[slot].filter(|_| wanted[slot] && !read_back) {
                expr.arguments().iter().for_each(|a| wanted[*a as usize] |= !self.uniform[*a as usize]);
            }
        }
        (0..wanted.len() as Slot).filter(|s| wanted[*s as usize]).collect()
    }

    fn reductions(&self, level: usize) -> Vec<Reduction> {
        let of = |s: usize| match self.exprs[s] {
            Some(Expr::Reduce(m, a)) if self.stage[s] == level + 1 => Some((s as Slot, m, a)),
            _ => None,
        };
        (0..self.exprs.len()).filter_map(of).collect()
    }

    /// Results that are written column by column at the end.
    fn outputs(&self) -> Vec<usize> {
        let per_row = |k: &usize| self.program.cols > 0 && self.program.outputs[*k].per_row;
        let waiting = |k: &usize| self.kept.values().any(|(_, place)| *place == Kept::Output(*k));
        (0..self.program.outputs.len()).filter(|k| !per_row(k) && !waiting(k)).collect()
    }

    fn slots(&self, level: usize) -> Vec<Slot> {
        let mut roots: Vec<Slot> = self.reductions(level).iter().map(|r| r.2).collect();
        if level == self.depth {
            roots.extend(self.outputs().iter().map(|k| self.program.outputs[*k].slot));
        }
        roots.extend(self.kept.iter().filter(|(_, (first, _))| *first == level).map(|(s, _)| *s));
        self.closure(roots, level)
    }

    /// Decides what to keep, from the last slot to the first.
    fn keep(&mut self, in_place: bool) {
        let mut scratch = 0;
        loop {
            let sets: Vec<Vec<Slot>> = (0..=self.depth).map(|l| self.slots(l)).collect();
            let mut found = None;
            for s in (0..self.exprs.len() as Slot).rev() {
                let Some(expr) = self.exprs[s as usize] else { continue };
                let dtype = self.program.types[s as usize];
                if self.kept.contains_key(&s) || matches!(expr, Expr::Input(_) | Expr::Index(..)) || dtype == DType::Bool {
                    continue;
                }
                let levels: Vec<usize> = (0..=self.depth).filter(|l| sets[*l].binary_search(&s).is_ok()).collect();
                if levels.len() < 2 {
                    continue;
                }
                let cost = |s: &Slot| self.exprs[*s as usize].map_or(0, |e| weight(e, self.program.types[*s as usize]));
                let cost: usize = self.closure([s], levels[1]).iter().map(cost).sum();
                let own = |o: &crate::map::compile::Result_| o.slot == s && !o.per_row && dtype.size() == 4;
                let output = self.program.outputs.iter().position(own).filter(|_| !in_place);
                if cost >= if output.is_some() { 3 } else { 5 } {
                    found = Some((s, levels[0], output));
                    break;
                }
            }
            let Some((s, level, output)) = found else { return };
            let place = output.map_or(Kept::Scratch(scratch), Kept::Output);
            scratch += usize::from(output.is_none());
            self.kept.insert(s, (level, place));
        }
    }
}

/// Plans the passes; `None` when a type or an instruction is not compiled.
pub(super) fn plan(program: &Compiled, motions: &[Motion], indices: &[Motion]) -> Option<Passes> {
    let uniform = uniform(program, motions, indices);
    let mut stage = vec![0; uniform.len()];
    let mut exprs = vec![None; uniform.len()];
    for step in &program.whole.steps {
        let s = step.slot as usize;
        if !compiled(program.types[s]) || (matches!(step.expr, Expr::Reduce(..)) && program.types[s] == DType::Bool) {
            return None;
        }
        exprs[s] = Some(step.expr);
        let before = step.expr.arguments().iter().map(|a| stage[*a as usize]).max().unwrap_or(0);
        stage[s] = before + usize::from(matches!(step.expr, Expr::Reduce(..)));
    }
    let depth = program.whole.steps.iter().map(|s| stage[s.slot as usize]).max().unwrap_or(0);
    let in_place = motions.iter().any(|m| matches!(m, Motion::InPlace(_)));
    let mut planner = Planner { program, exprs, uniform, stage, depth, kept: BTreeMap::new() };
    planner.keep(in_place);
    let passes = (0..=depth)
        .map(|level| {
            let slots = planner.slots(level);
            let read = |s: &Slot| planner.kept.get(s).filter(|(first, _)| *first < level).map(|(_, place)| (*s, *place));
            Pass {
                read: slots.iter().filter_map(read).collect(),
                slots,
                written: planner.kept.iter().filter(|(_, (first, _))| *first == level).map(|(s, (_, place))| (*s, *place)).collect(),
                reductions: planner.reductions(level),
                outputs: if level == depth { planner.outputs() } else { Vec::new() },
            }
        })
        .collect();
    let scratch = planner.kept.values().filter(|(_, place)| matches!(place, Kept::Scratch(_))).count();
    Some(Passes { uniform: planner.uniform, stage: planner.stage, passes, scratch })
}
