//! Ops that the IR has not: expanded into those that it has, see [`expand`](super::super::expand).

use super::super::expand::fft::{FftKind, fft};
use super::super::expand::linalg::{Transpose, cholesky, triangular_solve};
use super::super::expand::ragged::{RaggedDims, RaggedDot, ragged_dot};
use super::super::expand::random::{Algorithm, RngKind, rng, rng_bit_generator};
use super::super::expand::{Number, bits, chlo, complex};
use super::super::module::{ModuleAttr, Operation};
use super::elementwise::direction;
use super::{Converter, Frame, Parts, Res, attrs, malformed, one, unsupported};
use girih_ir::graph::ValueId;
use girih_ir::ops::dynamic_slice::DynamicSlice;
use girih_ir::ops::dynamic_update_slice::DynamicUpdateSlice;
use girih_ir::ops::reduce_precision::ReducePrecision;
use girih_ir::tensor::Tensor;
use girih_ir::types::{DType, Dims, TensorType};

/// The parts of a number.
fn parts_of(n: Number) -> Parts {
    std::iter::once(n.re).chain(n.im).collect()
}

impl<'a> Converter<'a> {
    fn number(&self, frame: &Frame<'a>, op: &Operation, index: usize) -> Res<Number> {
        match self.operand_parts(frame, op, index)?.as_slice() {
            [re] => Ok(Number::real(*re)),
            [re, im] => Ok(Number::complex(*re, *im)),
            _ => malformed(format!("operand {index} is no tensor")),
        }
    }

    /// All operands as numbers: of one shape and element type unless they are to be broadcast; leveled in a region body.
    fn numbers(&mut self, frame: &Frame<'a>, op: &Operation, alike: bool) -> Res<Vec<Number>> {
        let mut all: Vec<Number> = (0..op.operands.len()).map(|i| self.number(frame, op, i)).collect::<Res<_>>()?;
        if self.lift.is_some() {
            let mut values: Vec<ValueId> = all.iter().flat_map(|n| parts_of(*n)).collect();
            self.level(&mut values)?;
            let mut next = values.into_iter();
            for n in &mut all {
                n.re = next.next().unwrap_or(n.re);
                n.im = n.im.map(|im| next.next().unwrap_or(im));
            }
        }
        let first = all.first().map(|n| self.graph.tensor_ty(n.re).clone());
        let differs = |n: &Number| Some(self.graph.tensor_ty(n.re)) != first.as_ref();
        if alike && all.iter().any(differs) {
            return malformed(format!("the operands of `{}` have different types", op.name));
        }
        Ok(all)
    }

    /// What an expansion gives.
    fn made(result: Option<Number>) -> Res<Vec<Parts>> {
        match result {
            Some(n) => Ok(vec![parts_of(n)]),
            None => unsupported("this operation on these types"),
        }
    }

    /// Functions of complex numbers.
    pub fn complex_arithmetic(&mut self, frame: &Frame<'a>, op: &'a Operation, name: &str) -> Res<Vec<Parts>> {
        let numbers = self.numbers(frame, op, true)?;
        Self::made(complex::apply(&mut self.graph, name, &numbers))
    }

    /// Ops of StableHLO that are expanded.
    pub fn expanded(&mut self, frame: &mut Frame<'a>, op: &'a Operation, name: &str) -> Res<Vec<Parts>> {
        match name {
            "complex" => match self.numbers(frame, op, true)?.as_slice() {
                [Number { re, im: None }, Number { re: im, im: None }] => Ok(vec![Parts::from_slice(&[*re, *im])]),
                _ => malformed("complex takes two real tensors"),
            },
            "real" => Ok(one(self.number(frame, op, 0)?.re)),
            "imag" => {
                let n = self.number(frame, op, 0)?;
                let im = n.im.unwrap_or_else(|| self.graph.splat_like(n.re, 0.0));
                Ok(one(im))
            }
            "reduce_precision" => {
                let (exponent, mantissa) = (attrs::need_size(&op.attrs, "exponent_bits")?, attrs::need_size(&op.attrs, "mantissa_bits")?);
                let [x] = self.exactly(frame, op)?;
                Ok(one(self.add(ReducePrecision { exponent, mantissa }, &[x])?))
            }
            "rng_bit_generator" => self.rng_bits_op(frame, op),
            "rng" => self.rng_op(frame, op),
            "fft" => {
                let kind = attrs::need_word(&op.attrs, "fft_type")?;
                let Some(kind) = FftKind::from_name(kind) else { return malformed(format!("`{kind}` is no Fourier transform")) };
                let lengths = attrs::need_dims(&op.attrs, "fft_length")?;
                let x = self.number(frame, op, 0)?;
                Self::made(fft(&mut self.graph, x, kind, &lengths))
            }
            "cholesky" => {
                let lower = attrs::flag(&op.attrs, "lower", false)?;
                let a = self.number(frame, op, 0)?;
                Self::made(cholesky(&mut self.graph, a, lower))
            }
            "triangular_solve" => {
                let numbers = self.numbers(frame, op, false)?;
                let [a, b] = numbers[..] else { return malformed("triangular_solve takes two tensors") };
                let flag = |name| attrs::flag(&op.attrs, name, false);
                let word = attrs::word(&op.attrs, "transpose_a").unwrap_or("NO_TRANSPOSE");
                let Some(transpose) = Transpose::from_name(word) else { return malformed(format!("`{word}` is no transposition")) };
                let (left, lower, unit) = (flag("left_side")?, flag("lower")?, flag("unit_diagonal")?);
                Self::made(triangular_solve(&mut self.graph, a, b, left, lower, unit, transpose))
            }
            _ => unsupported("this op"),
        }
    }

    /// `bitcast_convert`, also between sizes and complex numbers.
    pub fn bitcast_op(&mut self, frame: &Frame<'a>, op: &Operation) -> Res<Vec<Parts>> {
        self.narrow_bitcast(frame, op)?;
        let x = self.number(frame, op, 0)?;
        let want = self.result_leaves(frame, op, 0)?;
        let Some(to) = want.first().map(|t| t.dtype) else { return malformed("bitcast_convert makes a tensor") };
        if x.im.is_none() && want.len() == 1 {
            return Self::made(bits::bitcast_convert(&mut self.graph, x.re, to).map(Number::real));
        }
        Self::made(bits::bitcast_complex(&mut self.graph, x, to, want.len() == 2))
    }

    /// `rng_bit_generator`
    fn rng_bits_op(&mut self, frame: &Frame<'a>, op: &Operation) -> Res<Vec<Parts>> {
        let [state] = self.exactly(frame, op)?;
        let word = attrs::need_word(&op.attrs, "rng_algorithm")?;
        let Some(algorithm) = Algorithm::from_name(word) else { return malformed(format!("`{word}` is no random number generator")) };
        let want = self.result(frame, op, 1)?;
        match rng_bit_generator(&mut self.graph, state, algorithm, want.dtype, &want.shape) {
            Some((state, bits)) => Ok(vec![Parts::from_slice(&[state]), Parts::from_slice(&[bits])]),
            None => unsupported(format!("{word} with a state of type {}", self.graph.ty(state))),
        }
    }

    /// `rng`: numbers that are the same in every run.
    fn rng_op(&mut self, frame: &Frame<'a>, op: &Operation) -> Res<Vec<Parts>> {
        let want = self.result(frame, op, 0)?;
        let (first, second) = (self.operand(frame, op, 0)?, self.operand(frame, op, 1)?);
        let kind = match attrs::need_word(&op.attrs, "rng_distribution")? {
            "UNIFORM" => RngKind::Uniform,
            "NORMAL" => RngKind::Normal,
            other => return malformed(format!("`{other}` is no distribution")),
        };
        if !self.graph.shape(first).is_empty() || !self.graph.shape(second).is_empty() {
            return malformed("the parameters of a distribution are scalars");
        }
        self.draws += 1;
        Self::made(rng(&mut self.graph, kind, first, second, &want.shape, self.draws).map(Number::real))
    }

    /// Ops of the `chlo` dialect, also as custom calls.
    pub fn chlo(&mut self, frame: &mut Frame<'a>, op: &'a Operation, name: &str) -> Res<Vec<Parts>> {
        match name {
            "top_k" => return self.top_k_op(frame, op),
            "scan" => return self.scan_op(frame, op),
            "ragged_dot" => return self.ragged_dot_op(frame, op),
            "constant" => return self.constant_op(op),
            "constant_like" => {
                let like = self.number(frame, op, 0)?;
                let value = match op.attrs.get("value") {
                    Some(ModuleAttr::Dense(d)) => attrs::dense_literal(d)?.map(|l| Tensor::from_literal(&l)),
                    _ => {
                        let dtype = self.dtype(like.re);
                        let v = attrs::real(&op.attrs, "value")?.unwrap_or(0.0);
                        Some(if dtype.is_float() { Tensor::scalar_float(dtype, v) } else { Tensor::scalar_int(dtype, v as i64) })
                    }
                };
                let Some(value) = value.filter(|t| t.shape().is_empty()) else { return malformed("constant_like needs a scalar") };
                return Ok(vec![parts_of(chlo::constant_like(&mut self.graph, like, &value))]);
            }
            _ => {}
        }
        let broadcasts = name.starts_with("broadcast_");
        let numbers = self.numbers(frame, op, !broadcasts)?;
        let dims = match op.attrs.contains_key("broadcast_dimensions") {
            true => Some(attrs::dims(&op.attrs, "broadcast_dimensions")?),
            false => None,
        };
        let f = attrs::word(&op.attrs, "comparison_direction").map(direction).transpose()?;
        Self::made(chlo::elementwise(&mut self.graph, name, &numbers, dims.as_deref(), f))
    }

    fn ragged_dot_op(&mut self, frame: &Frame<'a>, op: &Operation) -> Res<Vec<Parts>> {
        let [lhs, rhs, sizes] = self.exactly(frame, op)?;
        let f = attrs::fields(op, "ragged_dot_dimension_numbers")?;
        let dims = RaggedDims {
            dot: RaggedDot {
                lhs_batch: attrs::dims(f, "lhs_batching_dimensions")?,
                rhs_batch: attrs::dims(f, "rhs_batching_dimensions")?,
                lhs_contract: attrs::dims(f, "lhs_contracting_dimensions")?,
                rhs_contract: attrs::dims(f, "rhs_contracting_dimensions")?,
            },
            ragged: attrs::dims(f, "lhs_ragged_dimensions")?,
            group: attrs::dims(f, "rhs_group_dimensions")?,
        };
        Self::made(ragged_dot(&mut self.graph, lhs, rhs, sizes, &dims).map(Number::real))
    }

    /// `chlo.scan`: a loop over a dimension whose body takes slices and carries, and gives slices and carries.
    fn scan_op(&mut self, frame: &mut Frame<'a>, op: &'a Operation) -> Res<Vec<Parts>> {
        let block = self.region(op, 0)?;
        let dim = attrs::need_size(&op.attrs, "dimension")?;
        let reverse = attrs::flag(&op.attrs, "is_reverse", false)?;
        let ty = |v| frame.function.types.get(super::super::module::ModuleValue::index(v));
        let same = op.operands.iter().rev().zip(block.params.iter().rev()).take_while(|(o, p)| ty(**o).is_some() && ty(**o) == ty(**p));
        let carried = same.count().min(op.results.len());
        let all = self.operands(frame, op)?;
        let (inputs, inits) = all.split_at(all.len() - carried);
        let Some(count) = inputs.first().and_then(|v| self.graph.shape(*v).get(dim).copied()) else {
            return malformed(format!("scan takes tensors with a dimension {dim}"));
        };
        let mut starts = inits.to_vec();
        for k in 0..op.results.len() - carried {
            let ty: TensorType = self.result(frame, op, k)?;
            if ty.shape.get(dim) != Some(&count) {
                return malformed(format!("result {k} has another extent than the inputs along dimension {dim}"));
            }
            starts.push(self.graph.splat(&ty, 0.0));
        }
        if count == 0 || starts.is_empty() {
            let (carries, outputs) = starts.split_at(carried);
            return Ok(outputs.iter().chain(carries).map(|v| Parts::from_slice(&[*v])).collect());
        }
        let open = self.graph.begin_loop(&starts);
        let mut at = self.graph.loop_index(&open);
        if reverse {
            let last = self.scalar(DType::I64, count as i64 - 1);
            at = self.graph.minus(last, at);
        }
        let zero = self.scalar(DType::I64, 0);
        let place = |rank: usize| -> Vec<ValueId> { (0..rank).map(|d| if d == dim { at } else { zero }).collect() };
        let mut args = Vec::with_capacity(all.len());
        for v in inputs {
            let mut sizes: Dims = self.dims(*v);
            if sizes.get(dim) != Some(&count) {
                return malformed("the inputs of a scan have different extents");
            }
            sizes[dim] = 1;
            let operands: Vec<ValueId> = std::iter::once(*v).chain(place(sizes.len())).collect();
            let slice = self.add(DynamicSlice { sizes: sizes.clone() }, &operands)?;
            sizes.remove(dim);
            args.push(Parts::from_slice(&[self.reshape_to(slice, &sizes)?]));
        }
        args.extend(open.carries[..carried].iter().map(|c| Parts::from_slice(&[*c])));
        let made: Vec<ValueId> = self.run(frame, block, &args)?.into_iter().flatten().collect();
        if made.len() != starts.len() {
            return malformed(format!("the body of a scan returns {} values instead of {}", made.len(), starts.len()));
        }
        let (outputs, carries) = made.split_at(made.len() - carried);
        let mut next = carries.to_vec();
        for (v, buffer) in outputs.iter().zip(&open.carries[carried..]) {
            let mut shape = self.dims(*buffer);
            shape[dim] = 1;
            let slice = self.reshape_to(*v, &shape)?;
            let operands: Vec<ValueId> = [*buffer, slice].into_iter().chain(place(shape.len())).collect();
            next.push(self.add(DynamicUpdateSlice {}, &operands)?);
        }
        if next.iter().zip(&starts).any(|(n, s)| self.graph.ty(*n) != self.graph.ty(*s)) {
            return malformed("the body of a scan returns other types than it takes");
        }
        let ends = self.graph.end_repeat(&open, count, &next);
        let (carries, outputs) = ends.split_at(carried);
        Ok(outputs.iter().chain(carries).map(|v| Parts::from_slice(&[*v])).collect())
    }
}
