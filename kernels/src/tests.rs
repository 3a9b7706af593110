//! Kernels against the `eval` of the op that they implement, in random layouts.

use crate::copy::{combine_into, copy, fill, iota, pad};
use crate::error::KernelError;
use crate::gather::{dynamic_slice, dynamic_update_slice, gather, scatter};
use crate::isa::Isa;
use crate::reduce::{CHUNK, arg_reduce, reduce};
use crate::scan::scan;
use crate::sort::{sort, top_k};
use crate::testing::{Rng, Store, assert_close, bits, dims};
use crate::window::{reduce_window, select_and_scatter};
use girih_ir::ops::gather::Gather;
use girih_ir::ops::reduce::Reduce;
use girih_ir::ops::reduce_window::ReduceWindow;
use girih_ir::ops::scatter::{Combiner, Scatter};
use girih_ir::ops::select_and_scatter::SelectAndScatter;
use girih_ir::ops::{Op, pad::Pad, transpose::Transpose};
use girih_ir::scalar::{CompareFn, Monoid};
use girih_ir::tensor::{Tensor, indices};
use girih_ir::types::{DType, Dims, Layout, TensorType, Type};

/// The op's own meaning.
fn eval(op: impl Into<Op>, ins: &[&Tensor]) -> Tensor {
    let op = op.into();
    let types: Vec<Type> = ins.iter().map(|t| t.ty().clone().into()).collect();
    let out = op.infer(&types.iter().collect::<Vec<_>>()).unwrap_or_else(|e| panic!("{e}"));
    op.eval(ins, &out).remove(0)
}

fn output(rng: &mut Rng, ty: &TensorType) -> Store {
    let (layout, len) = rng.layout(&ty.shape);
    Store::empty(ty.dtype, layout, len)
}

/// A layout with its dimensions in another order.
fn permuted(l: &Layout, order: &[usize]) -> Layout {
    Layout { base: l.base, dims: order.iter().map(|d| l.dims[*d]).collect(), strides: order.iter().map(|d| l.strides[*d]).collect() }
}

fn pick_dtype(rng: &mut Rng) -> DType {
    DType::ALL[rng.below(DType::ALL.len())]
}

#[test]
fn copies_move_every_element_of_any_layout() {
    let mut rng = Rng(10);
    for _ in 0..200 {
        let (rank, dtype) = (rng.below(5), pick_dtype(&mut rng));
        let most = [40, 6][rng.below(2)];
        let d = dims(&mut rng, rank, most);
        let t = rng.tensor(dtype, &d);
        let (from, mut to) = (Store::random(&mut rng, &t), output(&mut rng, t.ty()));
        copy(&from.view(), &mut to.view_mut()).unwrap();
        assert_eq!(bits(&to.tensor()), bits(&t));
        // Transposed.
        let mut order: Vec<usize> = (0..rank).collect();
        order.rotate_left(rank / 2);
        let want = eval(Transpose { permutation: order.clone() }, &[&t]);
        let mut to = output(&mut rng, want.ty());
        copy(&from.view_as(permuted(&from.layout, &order)), &mut to.view_mut()).unwrap();
        assert_eq!(bits(&to.tensor()), bits(&want));
    }
}

#[test]
fn fills_ramps_and_pads_write_only_their_elements() {
    let mut rng = Rng(11);
    for _ in 0..100 {
        let rank = 1 + rng.below(3);
        let (dtype, d) = (pick_dtype(&mut rng), dims(&mut rng, rank, 9));
        let t = rng.tensor(dtype, &d);
        let before = Store::random(&mut rng, &t);
        let mut s = Store::of(&t, before.layout.clone(), before.bytes().len() / dtype.size());
        fill(0, &mut s.view_mut()).unwrap();
        assert!(s.tensor().floats().iter().all(|x| *x == 0.0));
        copy(&before.view(), &mut s.view_mut()).unwrap();
        assert_eq!(s.bytes(), before.bytes(), "a fill wrote outside its layout");

        let value = rng.tensor(dtype, &[]);
        let signed = |rng: &mut Rng| (0..rank).map(|_| rng.below(9) as i64 - 4).collect::<Vec<_>>();
        let (low, high, interior): (Vec<_>, Vec<_>, Vec<usize>) =
            (signed(&mut rng), signed(&mut rng), (0..rank).map(|_| rng.below(3)).collect());
        let op = Pad { low: low.clone(), high, interior: interior.iter().copied().collect() };
        if op_types(&op.clone().into(), &[&t, &value]) {
            let want = eval(op, &[&t, &value]);
            let mut out = output(&mut rng, want.ty());
            pad(&before.view(), &Store::dense(&value).view(), &low, &interior, &mut out.view_mut()).unwrap();
            assert_eq!(bits(&out.tensor()), bits(&want));
        }
        let mut out = output(&mut rng, &TensorType::new(DType::I32, &d));
        iota(rank - 1, 5, &mut out.view_mut()).unwrap();
        assert_eq!(out.tensor().ints(), indices(&d).map(|i| i[rank - 1] as i64 + 5).collect::<Vec<_>>());
    }
}

fn op_types(op: &Op, ins: &[&Tensor]) -> bool {
    let types: Vec<Type> = ins.iter().map(|t| t.ty().clone().into()).collect();
    op.infer(&types.iter().collect::<Vec<_>>()).is_ok()
}

#[test]
fn reductions_agree_and_do_not_depend_on_layout_split_or_isa() {
    let mut rng = Rng(12);
    for case in 0..150 {
        let rank = 1 + rng.below(4);
        let dtype = pick_dtype(&mut rng);
        let monoids: Vec<Monoid> = Monoid::ALL.iter().copied().filter(|m| m.function().result(dtype).is_some()).collect();
        let monoid = monoids[rng.below(monoids.len())];
        let d = dims(&mut rng, rank, [12, 150][case % 2]);
        let mut t = rng.tensor(dtype, &d);
        if monoid == Monoid::Prod && dtype.is_float() {
            t = Tensor::new_float(t.ty().clone(), t.floats().iter().map(|x| 1.0 + x / 1000.0).collect());
        }
        let reduced: Vec<usize> = (0..rank).filter(|_| rng.below(2) == 0).collect();
        let op = Reduce { monoid, dims: reduced.clone() };
        let order: Vec<usize> = op.kept(rank).into_iter().chain(reduced).collect();
        let want = eval(op, &[&t]);
        let kept = want.shape().len();
        let mut all = Vec::new();
        for isa in Isa::available() {
            for dense in [true, false] {
                let from = if dense { Store::dense(&t) } else { Store::random(&mut rng, &t) };
                let mut out = output(&mut rng, want.ty());
                let layout = permuted(&from.layout, &order);
                reduce(isa, monoid, false, &from.view_as(layout.clone()), &mut out.view_mut()).unwrap();
                let sum_size: f64 = t.floats().iter().map(|x| x.abs()).sum::<f64>() * 1e-6;
                assert_close(
                    &out.tensor(),
                    &want,
                    4.0,
                    if dtype == DType::F64 { 1e-9 } else { sum_size },
                    &format!("{} {dtype} {d:?} kept {kept}", monoid.name()),
                );
                all.push(out.tensor());
                // Split along the first kept dimension, combined into what is there.
                if kept > 0 {
                    let identity = monoid.identity(dtype);
                    let start = match identity {
                        girih_ir::scalar::Wide::F(v) => Tensor::new_float(want.ty().clone(), vec![v; want.ty().elements()]),
                        girih_ir::scalar::Wide::I(v) => Tensor::new_int(want.ty().clone(), vec![v; want.ty().elements()]),
                    };
                    let mut parts = Store::of(&start, out.layout.clone(), out.bytes().len() / dtype.size());
                    for i in 0..layout.dims[0] {
                        let part = |l: &Layout| {
                            let mut l = l.clone();
                            l.base = (l.base as isize + i as isize * l.strides[0]) as usize;
                            l.dims[0] = 1;
                            l
                        };
                        let to = part(&out.layout);
                        reduce(isa, monoid, true, &from.view_as(part(&layout)), &mut parts.view_mut_as(to)).unwrap();
                    }
                    all.push(parts.tensor());
                }
            }
        }
        assert!(
            all.iter().all(|x| bits(x) == bits(&all[0])),
            "{} {dtype} {d:?} depends on its layout, split or instruction set",
            monoid.name()
        );
    }
}

#[test]
fn long_reductions_are_accurate_and_split_at_chunks() {
    let n = 3 * CHUNK + 777;
    let mut rng = Rng(13);
    let t = Tensor::new_float(TensorType::new(DType::F32, [n]), (0..n).map(|_| 1.0 + rng.unit() * 0.5).collect());
    let store = Store::dense(&t);
    let want: f64 = t.floats().iter().sum();
    let scalar = || Store::empty(DType::F32, Layout::dense(&[]), 1);
    let mut whole = scalar();
    reduce(Isa::detect(), Monoid::Sum, false, &store.view(), &mut whole.view_mut()).unwrap();
    let got = whole.tensor().floats()[0];
    assert!((got - want).abs() / want < 1e-6, "{got} against {want}");
    let mut parts = scalar();
    for (i, first) in (0..n).step_by(CHUNK).enumerate() {
        let part = Layout { base: first, ..Layout::dense(&[CHUNK.min(n - first)]) };
        reduce(Isa::Scalar, Monoid::Sum, i > 0, &store.view_as(part), &mut parts.view_mut()).unwrap();
    }
    assert_eq!(parts.bytes(), whole.bytes());
}

#[test]
fn combining_adds_into_the_region() {
    let mut rng = Rng(14);
    for dtype in DType::ALL {
        for monoid in Monoid::ALL.iter().copied().filter(|m| m.function().result(dtype).is_some()) {
            let (a, b) = (rng.tensor(dtype, &[7, 33]), rng.tensor(dtype, &[7, 33]));
            let want = eval(girih_ir::ops::elementwise::Binary(monoid.function()), &[&a, &b]);
            for isa in Isa::available() {
                let (mut to, from) = (Store::random(&mut rng, &a), Store::random(&mut rng, &b));
                combine_into(isa, monoid, &from.view(), &mut to.view_mut()).unwrap();
                assert_close(&to.tensor(), &want, 0.0, 0.0, monoid.name());
            }
        }
    }
}

#[test]
fn extremes_are_found_with_ties_and_nan() {
    let t = Tensor::new_float(
        TensorType::new(DType::F32, [4, 4]),
        vec![1., 3., 3., 2., 5., 5., 5., 5., 0., f64::NAN, 9., f64::NAN, -1., -7., -7., 0.],
    );
    let store = Store::dense(&t);
    let go = |max, last| {
        let mut out = Store::empty(DType::I32, Layout::dense(&[4]), 4);
        arg_reduce(max, last, 100, &store.view(), &mut out.view_mut()).unwrap();
        out.tensor().ints()
    };
    assert_eq!(go(true, false), [101, 100, 101, 103]);
    assert_eq!(go(true, true), [102, 103, 103, 103]);
    assert_eq!(go(false, false), [100, 100, 101, 101]);
    assert_eq!(go(false, true), [100, 103, 103, 102]);
}

#[test]
fn pooling_of_channels_agrees_with_the_ops() {
    let mut rng = Rng(25);
    for (case, dtype) in [DType::F32, DType::BF16, DType::I32, DType::F64, DType::F32, DType::F32].into_iter().enumerate() {
        for (channels, kernel) in [(8, [2, 2]), (32, [2, 2]), (70, [2, 2]), (40, [3, 1]), (96, [1, 4])] {
            let d = [2, 2 * kernel[0], 3 * kernel[1], channels];
            let window: Dims = [1, kernel[0], kernel[1], 1].as_slice().into();
            let monoid = [Monoid::Max, Monoid::Min, Monoid::Sum][case % 3];
            let pool = ReduceWindow {
                monoid,
                window: window.clone(),
                stride: window.clone(),
                window_dilation: Dims::from_elem(1, 4),
                base_dilation: Dims::from_elem(1, 4),
                pad_low: vec![0; 4],
                pad_high: vec![0; 4],
            };
            // Few values, so that there are ties, and what compares oddly.
            let t = rng.tensor(dtype, &d);
            let odd = |x: f64| if x > 3.8 { f64::NAN } else { x.round() };
            let t = if dtype.is_float() { Tensor::new_float(t.ty().clone(), t.floats().iter().map(|x| odd(*x)).collect()) } else { t };
            let want = eval(pool.clone(), &[&t]);
            for isa in Isa::available() {
                let (from, mut out) = (Store::dense(&t), Store::dense(&want));
                reduce_window(isa, monoid, &pool.windows(&d), &from.view(), &mut out.view_mut()).unwrap();
                assert_eq!(bits(&out.tensor()), bits(&want), "{monoid:?} of {channels} channels of {dtype} on {}", isa.name());
            }
            let select = if case % 2 == 0 { CompareFn::Ge } else { CompareFn::Le };
            let op = SelectAndScatter { select, window, stride: pool.stride.clone(), pad_low: vec![0; 4], pad_high: vec![0; 4] };
            let source = rng.tensor(dtype, &want.ty().shape);
            let want = eval(op.clone(), &[&t, &source]);
            let (from, g, mut out) = (Store::dense(&t), Store::dense(&source), Store::dense(&t));
            select_and_scatter(select == CompareFn::Ge, &op.windows(&d), &from.view(), &g.view(), &mut out.view_mut()).unwrap();
            assert_eq!(bits(&out.tensor()), bits(&want), "{select:?} of {channels} channels of {dtype}");
        }
    }
}

#[test]
fn reductions_do_not_depend_on_the_layout() {
    let mut rng = Rng(26);
    for dtype in [DType::F32, DType::BF16, DType::I32] {
        for (kept, count) in [(16, 300), (33, 64), (64, 8400), (100, 3), (300, 129), (1500, 70), (1, 20_000)] {
            for monoid in [Monoid::Sum, Monoid::Max] {
                // Columns of a matrix, alone and as part of a wider one, and the same numbers as rows.
                let wide = kept + 5;
                let t = rng.tensor(dtype, &[count, wide]);
                let picked = (0..kept * count).map(|p| Some(p % count * wide + p / count));
                let rows = Store::dense(&Tensor::pick(TensorType::new(dtype, [kept, count]), &t, picked, None));
                let store = Store::dense(&t);
                let part = Layout { base: 0, dims: [kept, count].as_slice().into(), strides: [1, wide as isize].as_slice().into() };
                let dense = Store::dense(&Tensor::pick(
                    TensorType::new(dtype, [count, kept]),
                    &t,
                    (0..kept * count).map(|p| Some(p / kept * wide + p % kept)),
                    None,
                ));
                let columns = Layout { strides: [1, kept as isize].as_slice().into(), ..part.clone() };
                let mut all = Vec::new();
                for isa in Isa::available() {
                    for view in [rows.view(), store.view_as(part.clone()), dense.view_as(columns.clone())] {
                        let mut out = Store::empty(dtype, Layout::dense(&[kept]), kept);
                        reduce(isa, monoid, false, &view, &mut out.view_mut()).unwrap();
                        all.push(bits(&out.tensor()));
                    }
                }
                assert!(all.iter().all(|x| *x == all[0]), "{monoid:?} of {kept} × {count} of {dtype}");
            }
        }
    }
}

#[test]
fn pooling_agrees_with_the_ops() {
    let mut rng = Rng(15);
    let mut tried = 0;
    while tried < 150 {
        let rank = 1 + rng.below(4);
        let dtype = pick_dtype(&mut rng);
        let d = dims(&mut rng, rank, 9);
        let list = |rng: &mut Rng, most: usize| -> Dims { (0..rank).map(|_| 1 + rng.below(most)).collect() };
        let pads = |rng: &mut Rng| -> Vec<i64> { (0..rank).map(|_| rng.below(5) as i64 - 1).collect() };
        let monoid = [Monoid::Max, Monoid::Sum, Monoid::Min][rng.below(3)];
        let op = ReduceWindow {
            monoid,
            window: list(&mut rng, 3),
            stride: list(&mut rng, 3),
            window_dilation: list(&mut rng, 2),
            base_dilation: if rng.below(3) == 0 { list(&mut rng, 2) } else { Dims::from_elem(1, rank) },
            pad_low: pads(&mut rng),
            pad_high: pads(&mut rng),
        };
        let t = rng.tensor(dtype, &d);
        if !op_types(&op.clone().into(), &[&t]) {
            continue;
        }
        tried += 1;
        let want = eval(op.clone(), &[&t]);
        let mut all = Vec::new();
        for isa in Isa::available() {
            let (from, mut out) = (Store::random(&mut rng, &t), output(&mut rng, want.ty()));
            reduce_window(isa, monoid, &op.windows(&d), &from.view(), &mut out.view_mut()).unwrap();
            assert_close(&out.tensor(), &want, 2.0, if dtype == DType::F64 { 1e-12 } else { 1e-5 }, &format!("{op:?} on {}", t.ty()));
            all.push(bits(&out.tensor()));
        }
        assert!(all.iter().all(|x| *x == all[0]));

        let op = SelectAndScatter {
            select: if rng.below(2) == 0 { CompareFn::Ge } else { CompareFn::Le },
            window: op.window,
            stride: op.stride,
            pad_low: op.pad_low,
            pad_high: op.pad_high,
        };
        if dtype == DType::Bool {
            continue;
        }
        // Few values, so that there are ties.
        let t = if dtype.is_float() { Tensor::new_float(t.ty().clone(), t.floats().iter().map(|x| x.round()).collect()) } else { t };
        let extents: Option<Dims> = op.windows(&d).iter().map(girih_ir::ops::window::WindowDim::results).collect();
        let source = rng.tensor(dtype, &extents.unwrap());
        let want = eval(op.clone(), &[&t, &source]);
        let (from, g, mut out) = (Store::random(&mut rng, &t), Store::random(&mut rng, &source), output(&mut rng, want.ty()));
        select_and_scatter(op.select == CompareFn::Ge, &op.windows(&d), &from.view(), &g.view(), &mut out.view_mut()).unwrap();
        assert_close(&out.tensor(), &want, 2.0, if dtype == DType::F64 { 1e-12 } else { 1e-5 }, &format!("{op:?} on {}", t.ty()));
    }
}

/// A random gather: dimension numbers that type, with the operand and the indices' extents.
fn random_gather(rng: &mut Rng) -> (Gather, Vec<usize>, Vec<usize>) {
    let rank = 1 + rng.below(3);
    let operand = dims(rng, rank, 6);
    let n = rng.below(3);
    let mut ind = dims(rng, n, 4);
    let mut roles: Vec<usize> = (0..rank).collect();
    roles.rotate_left(rng.below(rank));
    // A batching dimension, collapsed dimensions, the rest in the window.
    let (mut operand_batching, mut indices_batching) = (Vec::new(), Vec::new());
    if n > 0 && rank > 1 && rng.below(2) == 0 {
        let (o, i) = (roles.pop().unwrap(), rng.below(n));
        ind[i] = operand[o];
        operand_batching.push(o);
        indices_batching.push(i);
    }
    let mut collapsed: Vec<usize> = roles.iter().copied().filter(|_| rng.below(3) == 0).collect();
    collapsed.sort_unstable();
    let mut map: Vec<usize> = roles.clone();
    map.truncate(1 + rng.below(roles.len()));
    let mut slice: Dims = operand.iter().map(|d| 1 + rng.below(*d)).collect();
    collapsed.iter().chain(&operand_batching).for_each(|d| slice[*d] = 1);
    let vector_dim = if map.len() == 1 && rng.below(2) == 0 { n } else { rng.below(n + 1) };
    let mut full = ind.clone();
    if vector_dim < n || map.len() > 1 {
        full.insert(vector_dim, map.len());
        indices_batching.iter_mut().for_each(|i| *i += usize::from(*i >= vector_dim));
    }
    let window = rank - collapsed.len() - operand_batching.len();
    let result = n + window;
    let mut offset: Vec<usize> = (0..result).collect();
    while offset.len() > window {
        offset.remove(if rng.below(2) == 0 { 0 } else { rng.below(offset.len()) });
    }
    let gather = Gather {
        offset_dims: offset,
        collapsed_slice_dims: collapsed,
        operand_batching_dims: operand_batching,
        start_indices_batching_dims: indices_batching,
        start_index_map: map,
        index_vector_dim: vector_dim,
        slice_sizes: slice,
    };
    (gather, operand, full)
}

#[test]
fn gathers_and_scatters_agree_with_the_ops() {
    let mut rng = Rng(16);
    let (mut gathers, mut scatters) = (0, 0);
    for _ in 0..600 {
        let (op, operand, ind) = random_gather(&mut rng);
        let (dtype, index) = (pick_dtype(&mut rng), [DType::I32, DType::I64, DType::U32, DType::I8, DType::U64][rng.below(5)]);
        let t = rng.tensor(dtype, &operand);
        let n: usize = ind.iter().product();
        let starts = Tensor::new_int(TensorType::new(index, &ind), (0..n).map(|_| rng.below(9) as i64 - 2).collect());
        if !op_types(&op.clone().into(), &[&t, &starts]) {
            continue;
        }
        gathers += 1;
        let want = eval(op.clone(), &[&t, &starts]);
        let (a, i, mut out) = (Store::random(&mut rng, &t), Store::random(&mut rng, &starts), output(&mut rng, want.ty()));
        gather(&op, &[], &a.view(), &i.view(), &mut out.view_mut()).unwrap();
        assert_eq!(bits(&out.tensor()), bits(&want), "{op:?} of {} at {}", t.ty(), starts.ty());

        // The sum of the gathers from the two halves of a dimension is the gather.
        if dtype == DType::I32 && op.operand_batching_dims.is_empty() {
            let d = op.start_index_map[0];
            let mut sum = vec![0; want.ty().elements()];
            let half = operand[d] / 2;
            for (first, count) in [(0, half), (half, operand[d] - half)] {
                let mut l = a.layout.clone();
                l.base = (l.base as isize + if count > 0 { first as isize * l.strides[d] } else { 0 }) as usize;
                l.dims[d] = count;
                let origin: Vec<(u64, u64)> =
                    operand.iter().enumerate().map(|(k, e)| (if k == d { first as u64 } else { 0 }, *e as u64)).collect();
                gather(&op, &origin, &a.view_as(l), &i.view(), &mut out.view_mut()).unwrap();
                sum.iter_mut().zip(out.tensor().ints()).for_each(|(s, x)| *s += x);
            }
            assert_eq!(sum, want.ints(), "halves of {op:?}");
        }

        let scatter_op = Scatter {
            update_window_dims: op.offset_dims.clone(),
            inserted_window_dims: op.collapsed_slice_dims.clone(),
            input_batching_dims: op.operand_batching_dims.clone(),
            scatter_indices_batching_dims: op.start_indices_batching_dims.clone(),
            scatter_dims_to_operand_dims: op.start_index_map.clone(),
            index_vector_dim: op.index_vector_dim,
            combiner: Combiner::ALL[rng.below(5)],
        };
        let updates = rng.tensor(dtype, want.shape());
        if !op_types(&scatter_op.clone().into(), &[&t, &starts, &updates]) {
            continue;
        }
        scatters += 1;
        let want = eval(scatter_op.clone(), &[&t, &starts, &updates]);
        let (u, mut out) = (Store::random(&mut rng, &updates), output(&mut rng, want.ty()));
        scatter(&scatter_op, Some(&a.view()), &i.view(), &u.view(), &mut out.view_mut()).unwrap();
        let slack = if dtype.is_float() { if dtype == DType::F64 { 1e-9 } else { 1e-4 } } else { 0.0 };
        assert_close(&out.tensor(), &want, 8.0, slack, &format!("{scatter_op:?} into {} at {}", t.ty(), starts.ty()));
    }
    assert!(gathers > 300 && scatters > 300, "{gathers} gathers, {scatters} scatters");
}

#[test]
fn dynamic_slices_clamp_their_starts() {
    let mut rng = Rng(17);
    for _ in 0..60 {
        let rank = 1 + rng.below(3);
        let d = dims(&mut rng, rank, 7);
        let (t, window): (Tensor, Vec<usize>) = (rng.tensor(DType::I16, &d), d.iter().map(|e| 1 + rng.below(*e)).collect());
        let starts: Vec<i64> = d.iter().map(|_| rng.below(12) as i64 - 3).collect();
        let at: Vec<usize> = (0..rank).map(|k| starts[k].clamp(0, (d[k] - window[k]) as i64) as usize).collect();
        let inside = |i: &[usize]| (0..rank).all(|k| i[k] >= at[k] && i[k] < at[k] + window[k]);
        let a = Store::random(&mut rng, &t);
        let mut out = output(&mut rng, &TensorType::new(DType::I16, &window));
        dynamic_slice(&a.view(), &starts, &mut out.view_mut()).unwrap();
        let want: Vec<i64> = indices(&d).zip(t.ints()).filter(|(i, _)| inside(i)).map(|x| x.1).collect();
        assert_eq!(out.tensor().ints(), want);

        let update = rng.tensor(DType::I16, &window);
        let mut out = output(&mut rng, t.ty());
        dynamic_update_slice(Some(&a.view()), &Store::dense(&update).view(), &starts, &mut out.view_mut()).unwrap();
        let mut news = update.ints().into_iter();
        let want: Vec<i64> = indices(&d).zip(t.ints()).map(|(i, x)| if inside(&i) { news.next().unwrap() } else { x }).collect();
        assert_eq!(out.tensor().ints(), want);
    }
    let a = Store::dense(&rng.tensor(DType::I16, &[3]));
    let mut out = Store::empty(DType::I16, Layout::dense(&[4]), 4);
    assert!(matches!(dynamic_slice(&a.view(), &[0], &mut out.view_mut()), Err(KernelError::Attribute { .. })));
}

#[test]
fn scans_run_along_any_dimension() {
    let mut rng = Rng(18);
    for _ in 0..80 {
        let rank = 1 + rng.below(3);
        let (d, dim, monoid) = (dims(&mut rng, rank, 8), rng.below(rank), [Monoid::Sum, Monoid::Max, Monoid::Prod][rng.below(3)]);
        let (exclusive, reverse) = (rng.below(2) == 0, rng.below(2) == 0);
        let t = rng.tensor(DType::I32, &d);
        let (from, mut out) = (Store::random(&mut rng, &t), output(&mut rng, t.ty()));
        scan(monoid, dim, exclusive, reverse, &from.view(), &mut out.view_mut()).unwrap();
        let all = t.ints();
        let want: Vec<i64> = indices(&d)
            .map(|i| {
                let before = |j: usize| if reverse { j > i[dim] } else { j < i[dim] };
                (0..d[dim]).filter(|j| before(*j) || (*j == i[dim] && !exclusive)).fold(monoid.identity(DType::I32), |acc, j| {
                    let mut at = i.clone();
                    at[dim] = j;
                    monoid.function().eval(DType::I32, acc, girih_ir::scalar::Wide::I(all[girih_ir::tensor::position(&d, &at)]))
                })
            })
            .map(|w| w.int())
            .collect();
        assert_eq!(out.tensor().ints(), want);
    }
}

#[test]
fn sorts_are_stable_and_carry_operands_along() {
    let mut rng = Rng(19);
    for case in 0..60 {
        let (d, dim, descending) = ([3, 17, 2], case % 3, rng.below(2) == 0);
        let keys = Tensor::new_float(
            TensorType::new(DType::F32, d),
            // No −0, which sorting takes for 0 and `top_k` for less.
            (0..102).map(|_| if rng.below(9) == 0 { f64::NAN } else { (rng.unit() * 4.0).round() + 0.0 }).collect(),
        );
        let place = Tensor::new_int(TensorType::new(DType::I64, d), indices(&d).map(|i| i[dim] as i64).collect());
        let (a, b) = (Store::random(&mut rng, &keys), Store::random(&mut rng, &place));
        let mut outs = [output(&mut rng, keys.ty()), output(&mut rng, place.ty())];
        let mut views: Vec<_> = outs.iter_mut().map(Store::view_mut).collect();
        sort(dim, descending, &[a.view(), b.view()], &mut views).unwrap();
        let (k, p) = (outs[0].tensor().floats(), outs[1].tensor().ints());
        let key = |v: f64| if v.is_nan() { 1e9 } else { v };
        for i in indices(&d).filter(|i| i[dim] + 1 < d[dim]) {
            let mut next = i.clone();
            next[dim] += 1;
            let (x, y) = (girih_ir::tensor::position(&d, &i), girih_ir::tensor::position(&d, &next));
            let (kx, ky) = (key(k[x]), key(k[y]));
            assert!(if descending { kx >= ky } else { kx <= ky });
            assert!(kx != ky || p[x] < p[y], "a tie changed its order");
        }
        for i in indices(&d) {
            let x = girih_ir::tensor::position(&d, &i);
            let mut from = i.clone();
            from[dim] = p[x] as usize;
            let was = keys.floats()[girih_ir::tensor::position(&d, &from)];
            assert!(was == k[x] || (was.is_nan() && k[x].is_nan()));
        }
        if dim == 2 {
            let (mut v, mut q) =
                (output(&mut rng, &TensorType::new(DType::F32, [3, 17, 1])), output(&mut rng, &TensorType::new(DType::I32, [3, 17, 1])));
            top_k(descending, &a.view(), &mut v.view_mut(), &mut q.view_mut()).unwrap();
            let first = |x: Vec<f64>| x.into_iter().step_by(2).map(key).collect::<Vec<_>>();
            assert_eq!(v.tensor().floats().into_iter().map(key).collect::<Vec<_>>(), first(k));
            assert_eq!(q.tensor().ints(), p.into_iter().step_by(2).collect::<Vec<_>>());
        }
    }
}
