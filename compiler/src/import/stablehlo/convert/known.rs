//! Values that are known at import: shapes, start indices, trip counts and initial values that are computed from constants.

use super::{Converter, Res, unsupported};
use girih_ir::graph::ValueId;
use girih_ir::ops::Op;
use girih_ir::scalar::{Monoid, Wide};
use girih_ir::tensor::{Data, Tensor};
use rustc_hash::FxHashSet;
use std::rc::Rc;

/// A value is looked into when it and all that it rests on have at most this many elements …
const ELEMENTS: usize = 1 << 12;
/// … and rest on at most this many ops.
const NODES: usize = 512;

impl Converter<'_> {
    /// The value, when it follows from constants with little work.
    pub fn known(&mut self, v: ValueId) -> Option<Rc<Tensor>> {
        if let Some(known) = self.known.get(&v) {
            return known.clone();
        }
        let found = self.evaluate(v);
        self.known.insert(v, found.clone());
        found
    }

    fn evaluate(&mut self, v: ValueId) -> Option<Rc<Tensor>> {
        let (mut needed, mut stack) = (FxHashSet::default(), vec![v]);
        while let Some(v) = stack.pop() {
            match self.known.get(&v) {
                Some(Some(_)) => continue,
                Some(None) => return None,
                None => {}
            }
            if !needed.insert(v) {
                continue;
            }
            let node = self.graph.node(v);
            let closed = match &node.op {
                Op::Input(_) | Op::Carry(_) | Op::LoopIndex(_) | Op::Repeat(_) | Op::While(_) | Op::Proj(_) => false,
                _ => node.ty.as_tensor().is_some_and(|t| t.elements() <= ELEMENTS),
            };
            if !closed || needed.len() > NODES {
                return None;
            }
            stack.extend(&node.operands);
        }
        let mut order: Vec<ValueId> = needed.into_iter().collect();
        order.sort_unstable();
        for v in order {
            let node = self.graph.node(v);
            let operands: Option<Vec<Rc<Tensor>>> = node.operands.iter().map(|o| self.known.get(o).cloned().flatten()).collect();
            let operands = operands?;
            let operands: Vec<&Tensor> = operands.iter().map(Rc::as_ref).collect();
            let made = node.op.eval(&operands, &node.ty).into_iter().next()?;
            self.known.insert(v, Some(Rc::new(made)));
        }
        self.known.get(&v).cloned().flatten()
    }

    /// The integers of a value that must be known.
    pub fn known_ints(&mut self, v: ValueId, what: &str) -> Res<Vec<i64>> {
        match self.known(v) {
            Some(t) => Ok(t.ints()),
            None => unsupported(format!("the {what} is computed from inputs; only static shapes are supported")),
        }
    }

    /// The integer that a scalar is known to be.
    pub fn known_int(&mut self, v: ValueId) -> Option<i64> {
        let t = self.known(v)?;
        match t.data() {
            Data::Int(v) if t.shape().is_empty() => v.first().copied(),
            _ => None,
        }
    }

    /// Whether every element of a value is known to be the neutral element of a monoid.
    pub fn is_identity(&mut self, v: ValueId, monoid: Monoid) -> bool {
        let Some(t) = self.known(v) else { return false };
        match (monoid.identity(t.dtype()), t.data()) {
            (Wide::F(i), Data::Float(v)) => v.iter().all(|x| *x == i),
            (Wide::I(i), Data::Int(v)) => v.iter().all(|x| *x == i),
            _ => false,
        }
    }
}
