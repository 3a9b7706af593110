//! `reduce`: recognized bodies become reductions of the IR, every other one combines neighbors in log₂ n steps.

use super::super::module::{Block, Operation};
use super::{Converter, Frame, Parts, Res, attrs, bodies, malformed, unsupported};
use girih_ir::graph::ValueId;
use girih_ir::ops::Op;
use girih_ir::ops::arg_reduce::ArgReduce;
use girih_ir::ops::elementwise::Binary;
use girih_ir::ops::reduce::Reduce;
use girih_ir::ops::transpose::Transpose;
use girih_ir::scalar::Monoid;
use girih_ir::types::{DType, Dims, NumberKind, element_count};

impl<'a> Converter<'a> {
    /// `reduce`
    pub fn reduce_op(&mut self, frame: &mut Frame<'a>, op: &'a Operation) -> Res<Vec<Parts>> {
        let block = self.region(op, 0)?;
        let mut dims = attrs::need_dims(&op.attrs, "dimensions")?;
        dims.sort_unstable();
        let (inputs, inits) = self.accumulators(frame, op, block)?;
        if self.lift.is_some() {
            return unsupported("a reduction in a region body");
        }
        let shape = self.dims(inputs[0][0]);
        if dims.windows(2).any(|w| w[0] == w[1]) || dims.iter().any(|d| *d >= shape.len()) {
            return malformed(format!("{dims:?} are not different dimensions of a tensor of rank {}", shape.len()));
        }
        if inputs.iter().flatten().any(|v| self.graph.shape(*v) != shape.as_slice()) {
            return malformed("the operands of a reduction have different shapes");
        }
        if inputs.iter().all(|p| p.len() == 1) {
            let values: Vec<ValueId> = inputs.iter().map(|p| p[0]).collect();
            let starts: Vec<ValueId> = inits.iter().map(|p| p[0]).collect();
            if let Some(monoids) = self.all_monoids(frame, block) {
                let reduced = monoids.iter().zip(values.iter().zip(&starts)).map(|(m, (v, i))| self.reduce_by(*m, *v, *i, &dims));
                return reduced.map(|r| r.map(|v| Parts::from_slice(&[v]))).collect();
            }
            if let Some(found) = self.arg_extreme(frame, block, &values, &starts, &dims)? {
                return Ok(found.into_iter().map(|v| Parts::from_slice(&[v])).collect());
            }
        } else if let Some(sums) = self.complex_sums(frame, block, &inputs, &inits, &dims)? {
            return Ok(sums);
        }
        self.reduce_by_halves(frame, block, inputs, inits, &dims)
    }

    /// The operands of a reducing op and their initial values, in the types that its body has.
    pub fn accumulators(&mut self, frame: &Frame<'a>, op: &Operation, block: &Block) -> Res<(Vec<Parts>, Vec<Parts>)> {
        let n = op.operands.len() / 2;
        if n == 0 || op.operands.len() != 2 * n || block.params.len() != 2 * n {
            return malformed(format!("{} operands and {} parameters do not make a reduction", op.operands.len(), block.params.len()));
        }
        let mut all = Vec::with_capacity(2 * n);
        for i in 0..2 * n {
            let mut parts = self.operand_parts(frame, op, i)?;
            if let (Some(to), [v]) = (bodies::scalar_type(frame, block.params[i % n]), parts.as_mut_slice()) {
                *v = self.graph.convert(*v, to);
            }
            if parts.is_empty() || (i >= n && parts.iter().any(|v| !self.graph.shape(*v).is_empty())) {
                return malformed("the initial values of a reduction are scalars");
            }
            all.push(parts);
        }
        let inits = all.split_off(n);
        Ok((all, inits))
    }

    fn reduce_by(&mut self, monoid: Monoid, v: ValueId, init: ValueId, dims: &[usize]) -> Res<ValueId> {
        let reduced = if dims.is_empty() { v } else { self.add(Reduce { monoid, dims: dims.to_vec() }, &[v])? };
        self.with_init(monoid, reduced, init)
    }

    /// Combines a reduction with its initial value, unless that is neutral.
    pub fn with_init(&mut self, monoid: Monoid, reduced: ValueId, init: ValueId) -> Res<ValueId> {
        if self.is_identity(init, monoid) {
            return Ok(reduced);
        }
        let init = self.spread(init, &self.dims(reduced))?;
        self.add(Binary(monoid.function()), &[init, reduced])
    }

    /// Sums of complex numbers, which are sums of their parts.
    fn complex_sums(
        &mut self,
        frame: &Frame<'a>,
        block: &'a Block,
        inputs: &[Parts],
        inits: &[Parts],
        dims: &[usize],
    ) -> Res<Option<Vec<Parts>>> {
        let n = inputs.len();
        let Some(formulas) = self.formulas(frame, block) else { return Ok(None) };
        let sum = |k: usize, f: &String| *f == format!("add(p{k},p{})", n + k) || *f == format!("add(p{},p{k})", n + k);
        if formulas.len() != n || !formulas.iter().enumerate().all(|(k, f)| sum(k, f)) {
            return Ok(None);
        }
        let mut sums = Vec::with_capacity(n);
        for (parts, inits) in inputs.iter().zip(inits) {
            let summed: Res<Parts> = parts.iter().zip(inits).map(|(v, i)| self.reduce_by(Monoid::Sum, *v, *i, dims)).collect();
            sums.push(summed?);
        }
        Ok(Some(sums))
    }

    /// What JAX writes for `argmax` and `argmin`: a reduction of (value, index) pairs that prefers NaN, then the lower index.
    fn arg_extreme(
        &mut self,
        frame: &Frame<'a>,
        block: &'a Block,
        values: &[ValueId],
        inits: &[ValueId],
        dims: &[usize],
    ) -> Res<Option<Vec<ValueId>>> {
        let ([x, index], [dim], [init, _]) = (values, dims, inits) else { return Ok(None) };
        let dtype = self.dtype(*index);
        if self.graph.shape(*x)[*dim] == 0 || !dtype.is_int() || !self.is_iota(*index, *dim) {
            return Ok(None);
        }
        let Some(formulas) = self.formulas(frame, block) else { return Ok(None) };
        let kind = [(Monoid::Max, "GT"), (Monoid::Min, "LT")].into_iter().find(|(_, beats)| {
            let plain = format!("{beats}(p0,p2)");
            let strict = [plain.clone(), format!("or({plain},NE(p0,p0))")];
            strict.iter().any(|s| {
                let first = format!("or({s},and(EQ(p0,p2),LT(p1,p3)))");
                formulas == [format!("select({s},p0,p2)"), format!("select({first},p1,p3)")]
            })
        });
        let Some((kind, _)) = kind.filter(|(kind, _)| self.is_identity(*init, *kind)) else { return Ok(None) };
        let best = self.add(Reduce { monoid: kind, dims: dims.to_vec() }, &[*x])?;
        let place = self.add(ArgReduce { dim: *dim, kind, select_last: false, dtype }, &[*x])?;
        Ok(Some(vec![best, place]))
    }

    /// Whether a value is its own index along a dimension.
    fn is_iota(&self, v: ValueId, dim: usize) -> bool {
        let node = self.graph.node(v);
        match &node.op {
            Op::Iota(i) => i.dim == dim,
            Op::Broadcast(b) => {
                let inner = node.operands[0];
                let at = b.dims.iter().position(|d| *d == dim);
                at.is_some_and(|at| self.graph.shape(inner)[at] == self.graph.shape(v)[dim] && self.is_iota(inner, at))
            }
            Op::Reshape(_) => {
                // Extent-1 dimensions around the one that counts.
                let inner = node.operands[0];
                let long = |s: &[usize]| -> Vec<usize> { (0..s.len()).filter(|d| s[*d] != 1).collect() };
                match (long(self.graph.shape(v)).as_slice(), long(self.graph.shape(inner)).as_slice()) {
                    ([d], [at]) => *d == dim && self.is_iota(inner, *at),
                    _ => false,
                }
            }
            _ => false,
        }
    }

    /// Combines neighbors until one element is left, then the initial values once.
    fn reduce_by_halves(
        &mut self,
        frame: &mut Frame<'a>,
        block: &'a Block,
        inputs: Vec<Parts>,
        inits: Vec<Parts>,
        dims: &[usize],
    ) -> Res<Vec<Parts>> {
        let shape = self.dims(inputs[0][0]);
        let kept: Vec<usize> = (0..shape.len()).filter(|d| !dims.contains(d)).collect();
        let result: Dims = kept.iter().map(|d| shape[*d]).collect();
        let count = element_count(&dims.iter().map(|d| shape[*d]).collect::<Vec<_>>());
        let order: Vec<usize> = kept.iter().chain(dims).copied().collect();
        let mut flat = result.clone();
        flat.push(count);
        let mut values = inputs;
        for v in values.iter_mut().flatten() {
            let moved = if order.iter().enumerate().all(|(i, d)| i == *d) {
                *v
            } else {
                self.add(Transpose { permutation: order.clone() }, &[*v])?
            };
            *v = self.reshape_to(moved, &flat)?;
        }
        let combined = match count {
            0 => None,
            _ => Some(self.fold_last(frame, block, values, &result, count)?),
        };
        let Some(combined) = combined else {
            return self.spread_all(inits, &result);
        };
        let args: Vec<Parts> = inits.into_iter().chain(combined).collect();
        self.vectorize(frame, block, &args, &result)
    }

    /// Every part in this shape.
    pub fn spread_all(&mut self, mut values: Vec<Parts>, shape: &[usize]) -> Res<Vec<Parts>> {
        for v in values.iter_mut().flatten() {
            *v = self.spread(*v, shape)?;
        }
        Ok(values)
    }

    /// Combines the `count` elements along the last dimension, in order, neighbors first.
    fn fold_last(
        &mut self,
        frame: &mut Frame<'a>,
        block: &'a Block,
        mut values: Vec<Parts>,
        outer: &[usize],
        mut count: usize,
    ) -> Res<Vec<Parts>> {
        let rank = outer.len();
        let shape = |n: usize| -> Dims { outer.iter().copied().chain([n]).collect() };
        let strided = |start: usize, limit: usize, step: usize| -> [Vec<usize>; 3] {
            let mut s = [vec![0; rank + 1], outer.iter().copied().chain([limit]).collect(), vec![1; rank + 1]];
            s[0][rank] = start;
            s[2][rank] = step;
            s
        };
        while count > 1 {
            let half = count / 2;
            let mut args: [Vec<Parts>; 2] = [Vec::new(), Vec::new()];
            for (first, side) in args.iter_mut().enumerate() {
                for parts in &values {
                    let [s, l, t] = strided(first, 2 * half, 2);
                    let own: Res<Parts> = parts.iter().map(|v| self.slice_of(*v, &s, &l, &t)).collect();
                    side.push(own?);
                }
            }
            let [left, right] = args;
            let args: Vec<Parts> = left.into_iter().chain(right).collect();
            let mut next = self.vectorize(frame, block, &args, &shape(half))?;
            if count % 2 == 1 {
                for (made, old) in next.iter_mut().zip(&values) {
                    for (m, o) in made.iter_mut().zip(old) {
                        let [s, l, t] = strided(count - 1, count, 1);
                        let last = self.slice_of(*o, &s, &l, &t)?;
                        *m = self.concat(&[*m, last], rank)?;
                    }
                }
            }
            values = next;
            count = half + count % 2;
        }
        for v in values.iter_mut().flatten() {
            *v = self.reshape_to(*v, outer)?;
        }
        Ok(values)
    }

    /// Whether the IR has this monoid as the combiner of a scatter on this type.
    pub fn scatters(monoid: Monoid, dtype: DType) -> Option<girih_ir::ops::scatter::Combiner> {
        use girih_ir::ops::scatter::Combiner;
        Some(match monoid {
            Monoid::Sum => Combiner::Sum,
            Monoid::Prod => Combiner::Prod,
            Monoid::Max => Combiner::Max,
            Monoid::Min => Combiner::Min,
            Monoid::And if dtype.kind() == NumberKind::Bool => Combiner::Min,
            Monoid::Or if dtype.kind() == NumberKind::Bool => Combiner::Max,
            _ => return None,
        })
    }
}
