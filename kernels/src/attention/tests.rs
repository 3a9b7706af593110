//! Attention against the op's own meaning, in every layout, with masks of every kind; what is hidden is not looked at.
#![allow(clippy::unwrap_used, clippy::panic)]

use super::{AttentionScratch, Chain, Memory, run, tile};
use crate::buffer::{View, ViewMut};
use crate::isa::Isa;
use crate::map::MapScratch;
use crate::scratch::Scratch;
use crate::testing::{Rng, Store, assert_close, bits};
use girih_ir::fused::{Expr, FusedProgram, Slot};
use girih_ir::ops::OpDef;
use girih_ir::ops::attention::Attention;
use girih_ir::ops::attention_grad::AttentionGrad;
use girih_ir::scalar::{BinaryFn, CompareFn, Monoid, UnaryFn};
use girih_ir::tensor::Tensor;
use girih_ir::types::{DType, Dims, Layout, TensorType};
use std::sync::Arc;

/// What says which keys a query sees.
#[derive(Clone, Copy, PartialEq, Debug)]
enum Mask {
    None,
    Causal,
    /// Causal, from the indices of the loops.
    Index,
    Window,
    /// The keys behind a length, and one query that sees nothing.
    Padding,
    Added,
}

const MASKS: [Mask; 6] = [Mask::None, Mask::Causal, Mask::Index, Mask::Window, Mask::Padding, Mask::Added];

impl Mask {
    fn sees(self, query: usize, key: usize, keys: usize) -> bool {
        match self {
            Mask::None => true,
            Mask::Causal | Mask::Index => key <= query,
            Mask::Window => key <= query && key + 40 > query,
            Mask::Padding => key < keys / 3 && query != 5,
            Mask::Added => key <= query + 3,
        }
    }

    fn tensor(self, queries: usize, keys: usize) -> Option<Tensor> {
        let all = (0..queries).flat_map(|q| (0..keys).map(move |k| self.sees(q, k, keys)));
        match self {
            Mask::None | Mask::Index => None,
            Mask::Added => {
                let values = all.map(|s| if s { 0.5 } else { f64::from(f32::MIN) }).collect();
                Some(Tensor::new_float(TensorType::new(DType::F32, [queries, keys]), values))
            }
            _ => Some(Tensor::new_int(TensorType::new(DType::Bool, [queries, keys]), all.map(i64::from).collect())),
        }
    }
}

/// Appends and answers the slot.
fn push(body: &mut Vec<Expr>, e: Expr) -> Slot {
    body.push(e);
    body.len() as Slot - 1
}

/// softmax of masked scores, rounded to the operands' type; of bf16 also in f32.
fn weights(dtype: DType, mask: Mask) -> FusedProgram {
    let (mut body, mut inputs) = (vec![Expr::Input(0)], vec![dtype]);
    let b = &mut body;
    let mut s = if dtype == DType::F32 { 0 } else { push(b, Expr::Convert(DType::F32, 0)) };
    let scale = push(b, Expr::Const(DType::F32, 0.25f64.to_bits()));
    s = push(b, Expr::Binary(BinaryFn::Mul, s, scale));
    let condition = match mask {
        Mask::None | Mask::Added => None,
        Mask::Index => {
            let (q, k) = (push(b, Expr::Index(DType::I32, 1)), push(b, Expr::Index(DType::I32, 2)));
            Some(push(b, Expr::Compare(CompareFn::Ge, q, k)))
        }
        _ => {
            inputs.push(DType::Bool);
            Some(push(b, Expr::Input(1)))
        }
    };
    if let Some(c) = condition {
        let never = push(b, Expr::Const(DType::F32, (-1e9f64).to_bits()));
        s = push(b, Expr::Select(c, s, never));
    }
    if mask == Mask::Added {
        inputs.push(DType::F32);
        let m = push(b, Expr::Input(1));
        s = push(b, Expr::Binary(BinaryFn::Add, s, m));
    }
    let m = push(b, Expr::Reduce(Monoid::Max, s));
    let d = push(b, Expr::Binary(BinaryFn::Sub, s, m));
    let e = push(b, Expr::Unary(UnaryFn::Exp, d));
    let sum = push(b, Expr::Reduce(Monoid::Sum, e));
    let p = push(b, Expr::Binary(BinaryFn::Div, e, sum));
    if dtype == DType::F32 {
        return FusedProgram { inputs, body, outputs: vec![p] };
    }
    let narrow = push(b, Expr::Convert(dtype, p));
    FusedProgram { inputs, body, outputs: vec![narrow, p] }
}

/// w·(g − Σ w·g)/4, with w in f32.
fn scores(dtype: DType) -> FusedProgram {
    let narrow = dtype != DType::F32;
    let mut body = vec![Expr::Input(u32::from(narrow)), Expr::Input(1 + u32::from(narrow))];
    let b = &mut body;
    let g = if narrow { push(b, Expr::Convert(DType::F32, 1)) } else { 1 };
    let wg = push(b, Expr::Binary(BinaryFn::Mul, 0, g));
    let sum = push(b, Expr::Reduce(Monoid::Sum, wg));
    let d = push(b, Expr::Binary(BinaryFn::Sub, g, sum));
    let ds = push(b, Expr::Binary(BinaryFn::Mul, 0, d));
    let scale = push(b, Expr::Const(DType::F32, 0.25f64.to_bits()));
    let mut out = push(b, Expr::Binary(BinaryFn::Mul, ds, scale));
    if narrow {
        out = push(b, Expr::Convert(dtype, out));
    }
    let inputs = if narrow { vec![dtype, DType::F32, dtype] } else { vec![dtype; 2] };
    FusedProgram { inputs, body, outputs: vec![out] }
}

struct Case {
    chain: Chain,
    ins: Vec<Store>,
    mask: Option<Store>,
    want: Vec<Tensor>,
    /// Batch, queries, keys.
    loops: [usize; 3],
}

impl Case {
    fn new(rng: &mut Rng, dtype: DType, mask: Mask, gradient: bool, [queries, keys]: [usize; 2]) -> Case {
        let (heads, width, value) = (2, 7, 9);
        let mut program = weights(dtype, mask);
        if !gradient {
            program.outputs.truncate(1);
        }
        let program = Arc::new(program);
        let mut ins = vec![
            rng.tensor(dtype, &[heads, queries, width]),
            rng.tensor(dtype, &[heads, keys, width]),
            rng.tensor(dtype, &[heads, keys, value]),
        ];
        if gradient {
            ins.push(rng.tensor(dtype, &[heads, queries, value]));
        }
        let mask = mask.tensor(queries, keys);
        let masks = mask.iter().map(|_| vec![1, 2]).collect();
        let args: Vec<&Tensor> = ins.iter().chain(&mask).collect();
        let types: Vec<&TensorType> = args.iter().map(|t| t.ty()).collect();
        let (scores, plain) = (Arc::new(scores(dtype)), vec![0, 1, 2]);
        let want = if gradient {
            let op = AttentionGrad { weights: program.clone(), scores: scores.clone(), layouts: vec![plain; 7], masks };
            op.eval(&args, &op.infer(&types).unwrap())
        } else {
            let op = Attention { weights: program.clone(), layouts: vec![plain; 4], masks };
            op.eval(&args, &op.infer(&types).unwrap())
        };
        Case {
            chain: Chain::new(&program, gradient.then_some(&scores)).unwrap(),
            ins: ins.iter().map(|t| Store::random(rng, t)).collect(),
            mask: mask.as_ref().map(Store::dense),
            want,
            loops: [heads, queries, keys],
        }
    }

    fn mask_view(&self) -> Option<View<'_>> {
        let [heads, queries, keys] = self.loops;
        let dims = Dims::from_slice(&[heads, queries, keys]);
        self.mask.as_ref().map(|m| m.view_as(Layout { base: 0, dims, strides: smallvec::smallvec![0, keys as isize, 1] }))
    }

    /// Results in dense memory.
    fn run(&self, isa: Isa) -> Vec<Tensor> {
        let mut outs: Vec<Store> = self.want.iter().map(Store::dense).collect();
        let ins: Vec<View<'_>> = self.ins.iter().map(Store::view).chain(self.mask_view()).collect();
        let mut views: Vec<ViewMut<'_>> = outs.iter_mut().map(Store::view_mut).collect();
        call(isa, &self.chain, &[], &ins, &mut views);
        drop(views);
        outs.iter().map(Store::tensor).collect()
    }
}

fn call(isa: Isa, chain: &Chain, origin: &[usize], ins: &[View<'_>], outs: &mut [ViewMut<'_>]) {
    let (mut own, mut gemm, mut map) = (AttentionScratch::default(), Scratch::default(), MapScratch::new());
    let mut memory = Memory { own: &mut own, gemm: &mut gemm, map: &mut map };
    run(isa, chain, origin, ins, outs, &mut memory).unwrap();
}

#[test]
fn every_mask_type_and_shape_gives_what_the_op_means_on_every_instruction_set() {
    let mut rng = Rng(7);
    for dtype in [DType::F32, DType::BF16] {
        for mask in MASKS {
            for gradient in [false, true] {
                for shape in [[70, 150], [33, 20], [130, 64]] {
                    let case = Case::new(&mut rng, dtype, mask, gradient, shape);
                    let what = format!("{dtype} {mask:?} gradient {gradient} {shape:?}");
                    let first = case.run(Isa::Scalar);
                    let scale = case.want.iter().flat_map(Tensor::floats).fold(1.0f64, |m, v| m.max(v.abs()));
                    let within = if dtype == DType::F32 { 1e-5 } else { 4e-2 };
                    for (got, want) in first.iter().zip(&case.want) {
                        assert_close(got, want, 4.0, within * scale, &what);
                    }
                    for isa in Isa::available() {
                        let again = case.run(isa);
                        assert!(again.iter().zip(&first).all(|(a, b)| bits(a) == bits(b)), "{what}: {} gives other bits", isa.name());
                    }
                }
            }
        }
    }
}

#[test]
fn heads_and_tiles_of_queries_may_be_cut_into_calls() {
    let mut rng = Rng(3);
    let cut = |l: &Layout, d: usize, r: std::ops::Range<usize>| {
        let mut l = l.clone();
        crate::gemm::narrow(&mut l, d, r.start, r.len());
        l
    };
    for mask in [Mask::Causal, Mask::Index, Mask::Padding] {
        let case = Case::new(&mut rng, DType::F32, mask, false, [150, 100]);
        let whole = case.run(Isa::detect());
        let (step, mut out) = (tile(100), Store::dense(&case.want[0]));
        for head in 0..2 {
            for first in (0..150).step_by(step) {
                let rows = first..(first + step).min(150);
                let part = |k: usize, s: &Store, queries: bool| {
                    let l = cut(&s.view().layout().clone(), 0, head..head + 1);
                    (k, if queries { cut(&l, 1, rows.clone()) } else { l })
                };
                let mut ins: Vec<View<'_>> = Vec::new();
                for (k, l) in case.ins.iter().enumerate().map(|(k, s)| part(k, s, k == 0)) {
                    ins.push(case.ins[k].view_as(l));
                }
                if let (Some(v), Some(m)) = (case.mask_view(), &case.mask) {
                    ins.push(m.view_as(cut(&cut(v.layout(), 0, head..head + 1), 1, rows.clone())));
                }
                let l = cut(&cut(&Layout::dense(case.want[0].shape()), 0, head..head + 1), 1, rows.clone());
                call(Isa::detect(), &case.chain, &[head, first, 0], &ins, &mut [out.view_mut_as(l)]);
            }
        }
        assert_eq!(bits(&out.tensor()), bits(&whole[0]), "{mask:?}");
    }
}

#[test]
fn blocks_that_nobody_sees_are_not_looked_at() {
    let mut rng = Rng(5);
    for mask in [Mask::Causal, Mask::Index, Mask::Added] {
        for gradient in [false, true] {
            let mut case = Case::new(&mut rng, DType::F32, mask, gradient, [64, 256]);
            // Keys from 128 on are behind all that any query sees.
            let spoil = |s: &Store| {
                let t = s.tensor();
                let (shape, mut v) = (t.shape().to_vec(), t.floats());
                v.chunks_mut(shape[1] * shape[2]).for_each(|head| head[128 * shape[2]..].fill(f64::NAN));
                Store::dense(&Tensor::new_float(t.ty().clone(), v))
            };
            (case.ins[1], case.ins[2]) = (spoil(&case.ins[1]), spoil(&case.ins[2]));
            for (got, want) in case.run(Isa::detect()).iter().zip(&case.want) {
                assert_close(got, want, 4.0, 2e-4, &format!("{mask:?} gradient {gradient}"));
            }
        }
    }
}

#[test]
fn shapes_that_do_not_fit_are_refused() {
    let mut rng = Rng(9);
    let case = Case::new(&mut rng, DType::F32, Mask::None, false, [16, 16]);
    let (mut own, mut gemm, mut map) = (AttentionScratch::default(), Scratch::default(), MapScratch::new());
    let mut memory = Memory { own: &mut own, gemm: &mut gemm, map: &mut map };
    let mut out = Store::dense(&case.want[0]);
    let ins: Vec<View<'_>> = [1, 1, 0].iter().map(|k| case.ins[*k].view()).collect();
    assert!(run(Isa::Scalar, &case.chain, &[], &ins, &mut [out.view_mut()], &mut memory).is_err());
    let ins: Vec<View<'_>> = case.ins[..2].iter().map(Store::view).collect();
    assert!(run(Isa::Scalar, &case.chain, &[], &ins, &mut [out.view_mut()], &mut memory).is_err());
}
