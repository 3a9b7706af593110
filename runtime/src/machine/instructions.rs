//! Every compute instruction against the reference meaning of its op, on one and on three threads.

use crate::session::{Inputs, RuntimeOptions, Session};
use crate::testing::{Builder, f32s, numbers};
use girih_ir::axes::full_box;
use girih_ir::fused::{Expr, FusedProgram};
use girih_ir::graph::Role;
use girih_ir::literal::Literal;
use girih_ir::ops::Op;
use girih_ir::ops::arg_reduce::ArgReduce;
use girih_ir::ops::convolution::Convolution;
use girih_ir::ops::cumulative::Cumulative;
use girih_ir::ops::dot_general::DotGeneral;
use girih_ir::ops::dynamic_slice::DynamicSlice;
use girih_ir::ops::dynamic_update_slice::DynamicUpdateSlice;
use girih_ir::ops::gather::Gather;
use girih_ir::ops::pad::Pad;
use girih_ir::ops::random::{Distribution, Random};
use girih_ir::ops::reduce::Reduce;
use girih_ir::ops::reduce_window::ReduceWindow;
use girih_ir::ops::scatter::{Combiner, Scatter};
use girih_ir::ops::select_and_scatter::SelectAndScatter;
use girih_ir::ops::sort::Sort;
use girih_ir::ops::top_k::TopK;
use girih_ir::program::instr::WindowDims;
use girih_ir::program::{FusedId, Instr, LiteralId, Program, Region, StateShard};
use girih_ir::scalar::{BinaryFn, CompareFn, Monoid, UnaryFn};
use girih_ir::step::{StatePair, Weights};
use girih_ir::tensor::Tensor;
use girih_ir::types::{DType, Dims, TensorType, Type};

/// Random values of a type: floats in (−1, 1), integers below `below`.
fn value(seed: u32, ty: &TensorType, below: f64) -> Tensor {
    let n = numbers(seed, ty.elements());
    if ty.dtype.is_float() {
        return Tensor::new_float(ty.clone(), n.iter().map(|v| f64::from(*v)).collect());
    }
    Tensor::new_int(ty.clone(), n.iter().map(|v| ((f64::from(*v) + 1.0) / 2.0 * below) as i64).collect())
}

fn state(program: &mut Program, name: String, ty: &TensorType, region: Region) {
    let input = program.step.graph.inputs.len();
    program.step.graph.input(name.clone(), ty.clone(), Role::State);
    program.step.state.push(StatePair { name, input, output: None, role: Role::State });
    program.state.push(vec![StateShard { die: 0, part: full_box(&ty.shape), region }]);
}

/// Runs one instruction on `ins`, which lie dense in SRAM, and returns its results.
fn execute(ins: &[Tensor], outs: &[TensorType], threads: usize, make: &dyn Fn(&mut Program, &[Region], &[Region]) -> Instr) -> Vec<Tensor> {
    let mut b = Builder::new(1, 1);
    let mut end = 0u64;
    let mut region = |ty: &TensorType| {
        let r = Region::dense(end, ty);
        end = (end + ty.bytes() as u64).next_multiple_of(64);
        r
    };
    let in_regions: Vec<Region> = ins.iter().map(|t| region(t.ty())).collect();
    let out_regions: Vec<Region> = outs.iter().map(&mut region).collect();
    let mut values = Weights::new();
    for (k, (t, r)) in ins.iter().zip(&in_regions).enumerate() {
        state(&mut b.program, format!("in{k}"), t.ty(), r.clone());
        values.insert(format!("in{k}"), t.to_literal());
    }
    for (k, (ty, r)) in outs.iter().zip(&out_regions).enumerate() {
        state(&mut b.program, format!("out{k}"), ty, r.clone());
        values.insert(format!("out{k}"), Literal::zeros(ty.clone()));
    }
    let instr = make(&mut b.program, &in_regions, &out_regions);
    let die = b.die_id(0, 0);
    b.die(die, end, &[], &[], vec![instr, Instr::End]);
    let mut s = Session::of(b.program, RuntimeOptions { threads, isa: None }).unwrap();
    s.init(&values).unwrap();
    s.step(&Inputs::new()).unwrap();
    (0..outs.len()).map(|k| Tensor::from_literal(&s.state(&format!("out{k}")).unwrap())).collect()
}

/// Checks an instruction against an op.
fn check(op: impl Into<Op>, ins: &[Tensor], make: &dyn Fn(&mut Program, &[Region], &[Region]) -> Instr) {
    let op = op.into();
    let types: Vec<Type> = ins.iter().map(|t| t.ty().clone().into()).collect();
    let out = op.infer(&types.iter().collect::<Vec<_>>()).unwrap();
    let want = op.eval(&ins.iter().collect::<Vec<_>>(), &out);
    same(op.name(), ins, out.components(), &want, make);
}

/// The same with the result in f32.
fn carried(op: impl Into<Op>, ins: &[Tensor], make: &dyn Fn(&mut Program, &[Region], &[Region]) -> Instr) {
    let op = op.into();
    let types: Vec<Type> = ins.iter().map(|t| t.ty().clone().into()).collect();
    let narrow = op.infer(&types.iter().collect::<Vec<_>>()).unwrap();
    let wide = TensorType::new(DType::F32, &narrow.components()[0].shape);
    let want = op.eval(&ins.iter().collect::<Vec<_>>(), &wide.clone().into());
    same(op.name(), ins, &[wide], &want, make);
}

fn same(name: &str, ins: &[Tensor], outs: &[TensorType], want: &[Tensor], make: &dyn Fn(&mut Program, &[Region], &[Region]) -> Instr) {
    let one = execute(ins, outs, 1, make);
    assert!(one == execute(ins, outs, 3, make), "{name}: threads show");
    for (got, want) in one.iter().zip(want) {
        assert_eq!(got.ty(), want.ty());
        let step = match got.dtype() {
            DType::BF16 => 1e-2,
            DType::F16 => 2e-3,
            DType::F32 => 2e-5,
            DType::F64 => 1e-12,
            _ => 0.0,
        };
        for (i, (g, w)) in got.floats().iter().zip(want.floats()).enumerate() {
            assert!(*g == w || (g - w).abs() <= step * (1.0 + w.abs()), "{name}: element {i} of {} is {g}, not {w}", got.ty());
        }
    }
}

fn t(dtype: DType, shape: &[usize]) -> TensorType {
    TensorType::new(dtype, shape)
}

fn permuted(r: &Region, order: &[usize]) -> Region {
    let (dims, strides) = (order.iter().map(|d| r.dims[*d]).collect(), order.iter().map(|d| r.strides[*d]).collect());
    Region { offset: r.offset, dtype: r.dtype, dims, strides }
}

#[test]
fn products_with_any_number_of_dimensions() {
    for dtype in [DType::F32, DType::F64, DType::BF16, DType::I32] {
        // a is [k1, batch, m1, k2, m2]: its contracting dimensions are no single stride, so it has to be staged.
        let (a, b) = (value(1, &t(dtype, &[3, 4, 9, 5, 16]), 9.0), value(2, &t(dtype, &[4, 8, 3, 5, 11]), 9.0));
        let op = DotGeneral { lhs_batch: vec![1], rhs_batch: vec![0], lhs_contract: vec![0, 3], rhs_contract: vec![2, 3] };
        check(op, &[a, b], &|_, i, o| Instr::Gemm {
            out: o[0].clone(),
            a: permuted(&i[0], &[1, 2, 4, 0, 3]),
            b: permuted(&i[1], &[0, 1, 4, 2, 3]),
            batch: 1,
            contract: 2,
        });
    }
    let (x, y) = (value(1, &f32s(&[300]), 1.0), value(2, &f32s(&[300]), 1.0));
    let dot = DotGeneral { lhs_batch: vec![], rhs_batch: vec![], lhs_contract: vec![0], rhs_contract: vec![0] };
    check(dot, &[x.clone(), y.clone()], &|_, i, o| Instr::Gemm {
        out: o[0].clone(),
        a: i[0].clone(),
        b: i[1].clone(),
        batch: 0,
        contract: 1,
    });
    let outer = DotGeneral { lhs_batch: vec![], rhs_batch: vec![], lhs_contract: vec![], rhs_contract: vec![] };
    check(outer, &[x, y], &|_, i, o| Instr::Gemm { out: o[0].clone(), a: i[0].clone(), b: i[1].clone(), batch: 0, contract: 0 });
}

#[test]
fn convolutions() {
    for (dtype, n, groups) in [(DType::F32, 5, 1), (DType::F32, 1, 1), (DType::F32, 2, 4), (DType::F64, 3, 1)] {
        let (x, w) = (value(1, &t(dtype, &[n, 8, 20, 17]), 1.0), value(2, &t(dtype, &[12, 8 / groups, 3, 3]), 1.0));
        let op = Convolution {
            stride: Dims::from_slice(&[2, 1]),
            pad_low: vec![1, 2],
            pad_high: vec![1, -1],
            lhs_dilation: Dims::from_slice(&[1, 2]),
            rhs_dilation: Dims::from_slice(&[1, 2]),
            reverse: vec![false, true],
            lhs_dims: vec![0, 1, 2, 3],
            rhs_dims: vec![0, 1, 2, 3],
            out_dims: vec![0, 1, 2, 3],
            feature_groups: groups,
            batch_groups: 1,
        };
        check(op, &[x, w], &|_, i, o| Instr::Conv {
            out: o[0].clone(),
            lhs: i[0].clone(),
            rhs: i[1].clone(),
            window: WindowDims {
                size: vec![3, 3],
                stride: vec![2, 1],
                pad_low: vec![1, 2],
                pad_high: vec![1, -1],
                base_dilation: vec![1, 2],
                window_dilation: vec![1, 2],
                reverse: vec![false, true],
            },
            feature_groups: groups as u32,
            batch_groups: 1,
        });
    }
}

/// Layers with their channels innermost, as JAX has them: these take the transformed path, and the gradient of the kernel is cut by
/// channels that lie in one run for every tap.
#[test]
fn convolutions_with_channels_last() {
    for stride in [1usize, 2] {
        let (n, size, inputs, outputs) = (6usize, 12usize, 40usize, 24usize);
        let result = size / stride;
        let (low, high) = (1i64, 2 - stride as i64);
        let small = |seed: u32, shape: &[usize]| {
            let ty = f32s(shape);
            let n = numbers(seed, ty.elements());
            Tensor::new_float(ty, n.iter().map(|v| f64::from(*v) / 4.0).collect())
        };
        let (x, w) = (small(1, &[n, size, size, inputs]), small(2, &[3, 3, inputs, outputs]));
        let dy = small(3, &[n, result, result, outputs]);
        let op = |lhs: [usize; 4], rhs: [usize; 4], out: [usize; 4], stride: usize, dilation: usize| Convolution {
            stride: Dims::from_slice(&[stride; 2]),
            pad_low: vec![low; 2],
            pad_high: vec![high; 2],
            lhs_dilation: Dims::from_slice(&[1; 2]),
            rhs_dilation: Dims::from_slice(&[dilation; 2]),
            reverse: vec![false; 2],
            lhs_dims: lhs.to_vec(),
            rhs_dims: rhs.to_vec(),
            out_dims: out.to_vec(),
            feature_groups: 1,
            batch_groups: 1,
        };
        let make = |orders: [[usize; 4]; 3], taps: usize, stride: usize, dilation: usize| {
            move |_: &mut Program, i: &[Region], o: &[Region]| Instr::Conv {
                out: permuted(&o[0], &orders[2]),
                lhs: permuted(&i[0], &orders[0]),
                rhs: permuted(&i[1], &orders[1]),
                window: WindowDims {
                    size: vec![taps; 2],
                    stride: vec![stride; 2],
                    pad_low: vec![low; 2],
                    pad_high: vec![high; 2],
                    base_dilation: vec![1; 2],
                    window_dilation: vec![dilation; 2],
                    reverse: vec![false; 2],
                },
                feature_groups: 1,
                batch_groups: 1,
            }
        };
        let forward = [[0, 3, 1, 2], [3, 2, 0, 1], [0, 3, 1, 2]];
        check(op(forward[0], forward[1], forward[2], stride, 1), &[x.clone(), w], &make(forward, 3, stride, 1));
        let filter = [[3, 0, 1, 2], [3, 0, 1, 2], [2, 3, 0, 1]];
        check(op(filter[0], filter[1], filter[2], 1, stride), &[x, dy], &make(filter, result, 1, stride));
    }
}

/// Parts of sums of narrow numbers are made in f32: the products are exact and nothing is rounded but sums.
#[test]
fn parts_of_sums_in_f32() {
    for dtype in [DType::BF16, DType::F16] {
        let (a, b) = (value(1, &t(dtype, &[9, 70]), 1.0), value(2, &t(dtype, &[11, 70]), 1.0));
        let op = DotGeneral { lhs_batch: vec![], rhs_batch: vec![], lhs_contract: vec![1], rhs_contract: vec![1] };
        carried(op, &[a, b], &|_, i, o| Instr::Gemm { out: o[0].clone(), a: i[0].clone(), b: i[1].clone(), batch: 0, contract: 1 });
        for monoid in [Monoid::Sum, Monoid::Prod] {
            let x = value(3, &t(dtype, &[40, 90, 6]), 1.0);
            carried(Reduce { monoid, dims: vec![1] }, &[x], &|_, i, o| Instr::Reduce {
                monoid,
                out: o[0].clone(),
                input: permuted(&i[0], &[0, 2, 1]),
            });
        }
        let (x, w) = (value(4, &t(dtype, &[3, 8, 12, 10]), 1.0), value(5, &t(dtype, &[6, 8, 3, 3]), 1.0));
        let op = Convolution {
            stride: Dims::from_slice(&[1, 1]),
            pad_low: vec![1, 1],
            pad_high: vec![1, 1],
            lhs_dilation: Dims::from_slice(&[1, 1]),
            rhs_dilation: Dims::from_slice(&[1, 1]),
            reverse: vec![false, false],
            lhs_dims: vec![0, 1, 2, 3],
            rhs_dims: vec![0, 1, 2, 3],
            out_dims: vec![0, 1, 2, 3],
            feature_groups: 1,
            batch_groups: 1,
        };
        let window = WindowDims {
            size: vec![3, 3],
            stride: vec![1, 1],
            pad_low: vec![1, 1],
            pad_high: vec![1, 1],
            base_dilation: vec![1, 1],
            window_dilation: vec![1, 1],
            reverse: vec![false, false],
        };
        carried(op, &[x, w], &|_, i, o| Instr::Conv {
            out: o[0].clone(),
            lhs: i[0].clone(),
            rhs: i[1].clone(),
            window: window.clone(),
            feature_groups: 1,
            batch_groups: 1,
        });
    }
}

#[test]
fn pooling_and_its_gradient() {
    let x = value(1, &f32s(&[6, 4, 21, 18]), 1.0);
    let dims = |v: &[usize]| Dims::from_slice(v);
    let window = |pad: i64| WindowDims {
        size: vec![1, 1, 3, 2],
        stride: vec![1, 1, 2, 2],
        pad_low: vec![0, 0, pad, 0],
        pad_high: vec![0, 0, pad, 0],
        base_dilation: vec![1; 4],
        window_dilation: vec![1; 4],
        reverse: vec![false; 4],
    };
    for monoid in [Monoid::Max, Monoid::Sum] {
        let op = ReduceWindow {
            monoid,
            window: dims(&[1, 1, 3, 2]),
            stride: dims(&[1, 1, 2, 2]),
            window_dilation: dims(&[1; 4]),
            base_dilation: dims(&[1; 4]),
            pad_low: vec![0, 0, 1, 0],
            pad_high: vec![0, 0, 1, 0],
        };
        check(op, &[x.clone()], &|_, i, o| Instr::ReduceWindow { monoid, out: o[0].clone(), input: i[0].clone(), window: window(1) });
    }
    let source = value(2, &f32s(&[6, 4, 10, 9]), 1.0);
    let op = SelectAndScatter {
        select: CompareFn::Ge,
        window: dims(&[1, 1, 3, 2]),
        stride: dims(&[1, 1, 2, 2]),
        pad_low: vec![0; 4],
        pad_high: vec![0; 4],
    };
    check(op, &[x, source], &|_, i, o| Instr::SelectScatter {
        max: true,
        out: o[0].clone(),
        input: i[0].clone(),
        source: i[1].clone(),
        window: window(0),
    });
}

#[test]
fn reductions_scans_and_orders() {
    let x = value(1, &f32s(&[40, 50, 60]), 1.0);
    for monoid in [Monoid::Sum, Monoid::Max] {
        check(Reduce { monoid, dims: vec![0, 2] }, &[x.clone()], &|_, i, o| Instr::Reduce {
            monoid,
            out: o[0].clone(),
            input: permuted(&i[0], &[1, 0, 2]),
        });
        check(Cumulative { monoid, dim: 1, exclusive: true, reverse: true }, &[x.clone()], &|_, i, o| Instr::Scan {
            monoid,
            dim: 1,
            exclusive: true,
            reverse: true,
            out: o[0].clone(),
            input: i[0].clone(),
        });
    }
    let op = ArgReduce { dim: 1, kind: Monoid::Max, select_last: false, dtype: DType::I64 };
    check(op, &[x.clone()], &|_, i, o| Instr::ArgReduce {
        max: true,
        last: false,
        out: o[0].clone(),
        input: permuted(&i[0], &[0, 2, 1]),
        origin: 0,
    });
    check(TopK { k: 5, largest: true, dtype: DType::I32 }, &[x.clone()], &|_, i, o| Instr::TopK {
        largest: true,
        values: o[0].clone(),
        positions: o[1].clone(),
        input: i[0].clone(),
    });
    let ids = value(2, &t(DType::I32, &[40, 50, 60]), 1000.0);
    check(Sort { dim: 1, descending: true, stable: true }, &[x, ids], &|_, i, o| Instr::Sort {
        dim: 1,
        descending: true,
        outs: o.to_vec(),
        ins: i.to_vec(),
    });
}

#[test]
fn gathers_scatters_and_dynamic_slices() {
    let (table, ids) = (value(1, &f32s(&[50, 64]), 1.0), value(2, &t(DType::I64, &[20, 30]), 60.0));
    let gather = Gather {
        offset_dims: vec![2],
        collapsed_slice_dims: vec![0],
        operand_batching_dims: vec![],
        start_indices_batching_dims: vec![],
        start_index_map: vec![0],
        index_vector_dim: 2,
        slice_sizes: Dims::from_slice(&[1, 64]),
    };
    check(gather.clone(), &[table.clone(), ids.clone()], &|_, i, o| Instr::Gather {
        out: o[0].clone(),
        operand: i[0].clone(),
        indices: i[1].clone(),
        dims: gather.clone(),
        origin: vec![(0, 50), (0, 64)],
    });
    let scatter = Scatter {
        update_window_dims: vec![2],
        inserted_window_dims: vec![0],
        input_batching_dims: vec![],
        scatter_indices_batching_dims: vec![],
        scatter_dims_to_operand_dims: vec![0],
        index_vector_dim: 2,
        combiner: Combiner::Sum,
    };
    let updates = value(3, &f32s(&[20, 30, 64]), 1.0);
    check(scatter.clone(), &[table.clone(), ids, updates], &|_, i, o| Instr::Scatter {
        out: o[0].clone(),
        operand: i[0].clone(),
        indices: i[1].clone(),
        updates: i[2].clone(),
        dims: scatter.clone(),
    });
    let starts = [3, 100].map(|v| Tensor::scalar_int(DType::I32, v));
    check(DynamicSlice { sizes: Dims::from_slice(&[5, 7]) }, &[&[table.clone()][..], &starts].concat(), &|_, i, o| Instr::DynamicSlice {
        out: o[0].clone(),
        operand: i[0].clone(),
        starts: i[1..].to_vec(),
    });
    let update = value(4, &f32s(&[5, 7]), 1.0);
    check(DynamicUpdateSlice {}, &[&[table, update][..], &starts].concat(), &|_, i, o| Instr::DynamicUpdateSlice {
        out: o[0].clone(),
        operand: i[0].clone(),
        update: i[1].clone(),
        starts: i[2..].to_vec(),
    });
}

#[test]
fn moving_and_making_elements() {
    let x = value(1, &f32s(&[90, 70, 6]), 1.0);
    let zero = Tensor::scalar_float(DType::F32, 7.0);
    let pad = Pad { low: vec![2, 0, -1], high: vec![3, 0, 4], interior: Dims::from_slice(&[1, 0, 0]) };
    check(pad, &[x.clone(), zero], &|_, i, o| Instr::Pad {
        out: o[0].clone(),
        input: i[0].clone(),
        fill: i[1].clone(),
        low: vec![2, 0, -1],
        interior: vec![1, 0, 0],
    });
    let turned = girih_ir::ops::transpose::Transpose { permutation: vec![2, 0, 1] };
    check(turned, &[x.clone()], &|_, i, o| Instr::Copy { out: o[0].clone(), input: permuted(&i[0], &[2, 0, 1]) });
    let y = value(2, &f32s(&[90, 20, 6]), 1.0);
    check(girih_ir::ops::concat::Concat { dim: 1 }, &[x, y], &|_, i, o| Instr::Concat { out: o[0].clone(), dim: 1, ins: i.to_vec() });
    let iota = girih_ir::ops::iota::Iota { dtype: DType::F32, shape: Dims::from_slice(&[300, 400]), dim: 0 };
    check(iota, &[], &|_, _, o| Instr::Iota { out: o[0].clone(), dim: 0, start: 0 });
    let constant = value(3, &t(DType::F16, &[300, 400]), 1.0);
    same("constant", &[], &[constant.ty().clone()], &[constant.clone()], &|p, _, o| {
        p.literals.push(constant.to_literal());
        Instr::Constant { out: o[0].clone(), literal: LiteralId(0), starts: Dims::from_slice(&[0, 0]) }
    });
    let ones = Tensor::new_float(f32s(&[300, 400]), vec![1.0; 120_000]);
    same("fill", &[], &[ones.ty().clone()], &[ones], &|_, _, o| Instr::Fill { out: o[0].clone(), bits: u64::from(1f32.to_bits()) });
    for distribution in Distribution::ALL {
        let dtype = if distribution == Distribution::Bits { DType::U64 } else { DType::F32 };
        let random = Random { distribution, dtype, shape: Dims::from_slice(&[100, 90]), seed: 11 };
        let scalars = [3, 4].map(|v| Tensor::scalar_int(DType::U64, v));
        check(random.clone(), &scalars, &|_, i, o| Instr::Random {
            out: o[0].clone(),
            random: random.clone(),
            ins: i.to_vec(),
            origin: vec![(0, 100), (0, 90)],
        });
    }
}

#[test]
fn rows_with_reductions_and_per_row_results() {
    // exp(x − max x) / Σ and the maximum of each row.
    let program = FusedProgram {
        inputs: vec![DType::F32],
        body: vec![
            Expr::Input(0),
            Expr::Reduce(Monoid::Max, 0),
            Expr::Binary(BinaryFn::Sub, 0, 1),
            Expr::Unary(UnaryFn::Exp, 2),
            Expr::Reduce(Monoid::Sum, 3),
            Expr::Binary(BinaryFn::Div, 3, 4),
        ],
        outputs: vec![5, 1],
    };
    let x = value(1, &f32s(&[64, 9, 33]), 1.0);
    let rows: Vec<Vec<f64>> = x.floats().chunks(33).map(<[f64]>::to_vec).collect();
    let max: Vec<f64> = rows.iter().map(|r| r.iter().copied().fold(f64::MIN, f64::max)).collect();
    let soft = rows.iter().zip(&max).flat_map(|(r, m)| {
        let e: Vec<f64> = r.iter().map(|v| (v - m).exp()).collect();
        let sum: f64 = e.iter().sum();
        e.into_iter().map(move |v| v / sum)
    });
    let want = [Tensor::new_float(x.ty().clone(), soft.collect()), Tensor::new_float(f32s(&[64, 9]), max)];
    let make = |p: &mut Program, i: &[Region], o: &[Region]| {
        p.fused.push(std::sync::Arc::new(program.clone()));
        let loops = Dims::from_slice(&[64, 9, 33]);
        let origin = Dims::from_slice(&[0, 0, 0]);
        Instr::Map { program: FusedId(0), loops, cols: 1, origin, ins: i.to_vec(), outs: o.to_vec() }
    };
    same("rows", &[x], &[want[0].ty().clone(), want[1].ty().clone()], &want, &make);
}

#[test]
fn overlapping_copies_read_everything_first() {
    let x = value(1, &f32s(&[64, 64]), 1.0);
    let turned = girih_ir::ops::transpose::Transpose { permutation: vec![1, 0] };
    let out = Op::from(turned).eval(&[&x], &Type::from(x.ty().clone()));
    for threads in [1, 3] {
        let mut b = Builder::new(1, 1);
        let region = Region::dense(0, x.ty());
        state(&mut b.program, "x".into(), x.ty(), region.clone());
        let die = b.die_id(0, 0);
        b.die(die, 1 << 14, &[], &[], vec![Instr::Copy { out: region.clone(), input: permuted(&region, &[1, 0]) }, Instr::End]);
        let mut s = Session::of(b.program, RuntimeOptions { threads, isa: None }).unwrap();
        s.set_state("x", &x.to_literal()).unwrap();
        s.step(&Inputs::new()).unwrap();
        assert_eq!(s.state("x").unwrap(), out[0].to_literal());
    }
}
