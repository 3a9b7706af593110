//! Building the right side of a rule in the e-graph.
//!
//! Views that change nothing are left out, so rules need no variants for identity permutations or empty reductions.

use super::functions::{Scope, Value, evaluate};
use super::matching::{Bindings, Match};
use super::pattern::{Argument, Head, Template};
use super::space::{self, AttrId, Derivation, DerivationId, Egraph, OpId, TypeId, tensor_type};
use egg::Id;
use girih_ir::attr::Attr;
use girih_ir::ops::constant::Constant;
use girih_ir::ops::{InferError, Op};
use girih_ir::tensor::Tensor;
use girih_ir::types::{TensorType, Type};
use smallvec::SmallVec;

/// A right side under construction.
struct Builder<'a> {
    egraph: &'a mut Egraph,
    bindings: &'a Bindings,
    made: DerivationId,
    origin: u32,
}

/// Builds the right side of a match. `None`: a function was not defined there, so the rule does not apply.
pub(super) fn build(egraph: &mut Egraph, rule: usize, template: &Template, m: &Match) -> Result<Option<Id>, InferError> {
    let root = egraph[m.root].data;
    let made = DerivationId::new(egraph.analysis.derivations.len());
    let before = egraph.total_size();
    let mut from = m.from.clone();
    from.sort_unstable();
    from.dedup();
    egraph.analysis.derivations.push(Derivation { rule: rule as u32, from });
    let mut builder = Builder { egraph, bindings: &m.bindings, made, origin: root.origin };
    let id = builder.template(template, root.ty)?;
    if egraph.total_size() == before {
        egraph.analysis.derivations.pop();
    }
    Ok(id)
}

impl Builder<'_> {
    fn template(&mut self, template: &Template, ty: TypeId) -> Result<Option<Id>, InferError> {
        match template {
            Template::Variable(v) => Ok(self.bindings.classes[*v]),
            Template::Number(a) => {
                let Type::Tensor(ty) = self.egraph.analysis.ty(ty).clone() else { return Ok(None) };
                self.number(a, &ty)
            }
            Template::Op { head, attrs, args } => self.op(*head, attrs, args, ty),
        }
    }

    fn number(&mut self, argument: &Argument, ty: &TensorType) -> Result<Option<Id>, InferError> {
        let scope = Scope { egraph: self.egraph, bindings: self.bindings };
        let v = match evaluate(&scope, argument) {
            Some(Value::Attr(Attr::Float(bits))) => f64::from_bits(bits),
            Some(Value::Attr(Attr::Int(i))) => i as f64,
            _ => return Ok(None),
        };
        let scalar = if ty.dtype.is_float() {
            Tensor::scalar_float(ty.dtype, v)
        } else if v.fract() == 0.0 {
            Tensor::scalar_int(ty.dtype, v as i64)
        } else {
            return Ok(None);
        };
        let op = self.egraph.analysis.intern_op(Op::Constant(Constant { value: scalar.to_literal() }));
        let id = self.add(op, &[])?;
        if ty.rank() == 0 {
            return Ok(Some(id));
        }
        let shape = Attr::Ints(ty.shape.iter().map(|d| *d as i64).collect());
        let attrs = [shape, Attr::Ints(Vec::new())].map(|a| self.egraph.analysis.intern_attr(a));
        match self.egraph.analysis.assemble("broadcast", SmallVec::from_slice(&attrs)) {
            Some(op) => self.add(op, &[id]).map(Some),
            None => Ok(None),
        }
    }

    fn op(&mut self, head: Head, attrs: &[Argument], args: &[Template], ty: TypeId) -> Result<Option<Id>, InferError> {
        let mut ids: SmallVec<[Option<Id>; 4]> = SmallVec::from_elem(None, args.len());
        for (slot, arg) in ids.iter_mut().zip(args).filter(|(_, a)| !matches!(a, Template::Number(_))) {
            let Some(id) = self.template(arg, ty)? else { return Ok(None) };
            *slot = Some(id);
        }
        let neighbor = ids.iter().flatten().next().map_or(ty, |id| self.egraph[*id].data.ty);
        for (slot, arg) in ids.iter_mut().zip(args).filter(|(_, a)| matches!(a, Template::Number(_))) {
            let Some(id) = self.template(arg, neighbor)? else { return Ok(None) };
            *slot = Some(id);
        }
        let ids: SmallVec<[Id; 4]> = ids.into_iter().flatten().collect();
        let Some(attrs) = self.attributes(attrs) else { return Ok(None) };
        let op = match head {
            Head::Family(_, slot) => self.bindings.ops[slot],
            Head::Kind { name, .. } if self.changes_nothing(name, &attrs, ids[0]) => return Ok(Some(ids[0])),
            Head::Kind { name, .. } => self.egraph.analysis.assemble(name, attrs),
        };
        let Some(op) = op else { return Ok(None) };
        if let Some(v) = space::folded(self.egraph, op, &ids) {
            let ty = tensor_type(self.egraph, ids[0]).clone();
            return self.number(&Argument::Literal(Attr::Float(v.to_bits())), &ty);
        }
        self.add(op, &ids).map(Some)
    }

    fn add(&mut self, op: OpId, ids: &[Id]) -> Result<Id, InferError> {
        space::add(self.egraph, op, ids, self.made, self.origin)
    }

    fn attributes(&mut self, attrs: &[Argument]) -> Option<SmallVec<[AttrId; 4]>> {
        let mut ids = SmallVec::new();
        for a in attrs {
            ids.push(match a {
                Argument::Attr(v) => self.bindings.attrs[*v]?,
                _ => match evaluate(&Scope { egraph: self.egraph, bindings: self.bindings }, a)? {
                    Value::Attr(a) => self.egraph.analysis.intern_attr(a),
                    Value::Class(_) => return None,
                },
            });
        }
        Some(ids)
    }

    fn changes_nothing(&self, name: &str, attrs: &[AttrId], operand: Id) -> bool {
        let list = |i: usize| match self.egraph.analysis.attr(attrs[i]) {
            Attr::Ints(v) => v.as_slice(),
            _ => &[],
        };
        let counts_up = |l: &[i64]| l.iter().enumerate().all(|(i, d)| i as i64 == *d);
        let shape = || tensor_type(self.egraph, operand).shape.iter().map(|d| *d as i64);
        match name {
            "transpose" => counts_up(list(0)),
            "reduce" => list(1).is_empty(),
            "reshape" => shape().eq(list(0).iter().copied()),
            "broadcast" => shape().eq(list(0).iter().copied()) && counts_up(list(1)),
            _ => false,
        }
    }
}
