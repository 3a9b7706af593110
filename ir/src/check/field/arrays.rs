//! What ops and instructions do to dense row-major arrays of coded elements.

use super::scalar::{self, combine, compare, convert, dot, identity};
use crate::fused::{Expr, FusedProgram};
use crate::ops::window::WindowDim;
use crate::scalar::{CompareFn, Monoid};
use crate::tensor::{indices, position};
use crate::types::{DType, Dims, element_count, row_major_strides};
use rayon::prelude::*;

/// Points of an iteration space that are worked on together.
const BLOCK: usize = 2048;

/// Visits the places of a strided view in row-major order.
pub fn walk(dims: &[usize], strides: &[i64], base: i64, visit: &mut impl FnMut(i64)) {
    match dims.split_first() {
        None => visit(base),
        Some((n, [])) => (0..*n as i64).for_each(|i| visit(base + i * strides[0])),
        Some((n, inner)) => (0..*n as i64).for_each(|i| walk(inner, &strides[1..], base + i * strides[0], visit)),
    }
}

/// The elements of a strided view.
pub fn strided(data: &[i64], dims: &[usize], strides: &[i64]) -> Vec<i64> {
    let mut out = Vec::with_capacity(element_count(dims));
    walk(dims, strides, 0, &mut |at| out.push(data[at as usize]));
    out
}

/// An array with its dimensions in another order: `order[i]` comes `i`-th.
pub fn permuted(data: &[i64], dims: &[usize], order: &[usize]) -> Vec<i64> {
    let strides = row_major_strides(dims);
    let (dims, strides): (Dims, Vec<i64>) = order.iter().map(|d| (dims[*d], strides[*d] as i64)).unzip();
    strided(data, &dims, &strides)
}

/// `out[b, m, n] = Σ_k x[b, m, k]·y[b, n, k]`.
pub fn gemm(dtype: DType, [b, m, n, k]: [usize; 4], x: &[i64], y: &[i64]) -> Vec<i64> {
    let mut out = vec![0; b * m * n];
    if n > 0 {
        out.par_chunks_mut(n).enumerate().for_each(|(row, out)| {
            let (x, y) = (&x[row * k..(row + 1) * k], &y[row / m * n * k..(row / m + 1) * n * k]);
            out.iter_mut().enumerate().for_each(|(j, o)| *o = dot(dtype, x, &y[j * k..(j + 1) * k]));
        });
    }
    out
}

/// The shapes of a convolution in its own order: batch, features, space.
pub struct Conv<'a> {
    /// Element type.
    pub dtype: DType,
    /// Left operand.
    pub lhs: &'a [usize],
    /// Kernel: output features, input features of a group, space.
    pub rhs: &'a [usize],
    /// Result.
    pub out: &'a [usize],
    /// One a spatial dimension.
    pub windows: Vec<WindowDim>,
    /// Groups of features.
    pub feature_groups: usize,
    /// Groups of the batch.
    pub batch_groups: usize,
}

impl Conv<'_> {
    /// The result, when the shapes and groups fit each other.
    pub fn run(&self, x: &[i64], w: &[i64]) -> Result<Vec<i64>, String> {
        let (fg, bg, depth) = (self.feature_groups, self.batch_groups, self.rhs[1]);
        let fits = fg > 0
            && bg > 0
            && self.lhs[1] == depth * fg
            && self.out[1] == self.rhs[0]
            && self.out[1].is_multiple_of(fg)
            && self.out[1].is_multiple_of(bg)
            && self.lhs[0] == self.out[0] * bg;
        if !fits {
            return Err(format!(
                "a convolution of {:?} with {:?} in {fg} and {bg} groups does not make {:?}",
                self.lhs, self.rhs, self.out
            ));
        }
        let last = |dims: &[usize]| -> Vec<usize> { [0].into_iter().chain(2..dims.len()).chain([1]).collect() };
        let (x, w) = (permuted(x, self.lhs, &last(self.lhs)), permuted(w, self.rhs, &last(self.rhs)));
        let (space, kernel) = (element_count(&self.lhs[2..]), element_count(&self.rhs[2..]));
        // For each place of the result, the places of the kernel that see something, and what.
        let seen: Vec<Vec<(usize, usize)>> = indices(&self.out[2..])
            .map(|o| {
                let sees = |k: Dims| -> Option<(usize, usize)> {
                    let at: Dims = self.windows.iter().enumerate().map(|(d, win)| win.source(o[d], k[d])).collect::<Option<Dims>>()?;
                    Some((position(&self.rhs[2..], &k), position(&self.lhs[2..], &at)))
                };
                indices(&self.rhs[2..]).filter_map(sees).collect()
            })
            .collect();
        let (features, channels) = (self.out[1], self.lhs[1]);
        let mut out = vec![0; self.out[0] * features * seen.len()];
        if seen.is_empty() {
            return Ok(out);
        }
        out.par_chunks_mut(seen.len()).enumerate().for_each(|(plane, out)| {
            let (n, f) = (plane / features, plane % features);
            let (n, c) = (f / (features / bg) * self.out[0] + n, f / (features / fg) * depth);
            for (o, seen) in out.iter_mut().zip(&seen) {
                *o = seen.iter().fold(0, |sum, (k, s)| {
                    let (a, b) = ((n * space + s) * channels + c, (f * kernel + k) * depth);
                    combine(Monoid::Sum, self.dtype, sum, dot(self.dtype, &x[a..a + depth], &w[b..b + depth]))
                });
            }
        });
        Ok(out)
    }
}

/// The places of an operand that the windows of each result see, in row-major order.
fn window_places<'a>(shape: &'a [usize], out: &'a [usize], windows: &'a [WindowDim]) -> impl Iterator<Item = Vec<usize>> + 'a {
    let window: Dims = windows.iter().map(|w| w.window).collect();
    indices(out).map(move |o| {
        let sees = |k: Dims| windows.iter().enumerate().map(|(d, w)| w.source(o[d], k[d])).collect::<Option<Dims>>();
        indices(&window).filter_map(sees).map(|at| position(shape, &at)).collect()
    })
}

/// Combines every window.
pub fn pool(monoid: Monoid, dtype: DType, x: &[i64], shape: &[usize], out: &[usize], windows: &[WindowDim]) -> Vec<i64> {
    let none = identity(monoid, dtype);
    window_places(shape, out, windows).map(|w| w.iter().fold(none, |acc, p| combine(monoid, dtype, acc, x[*p]))).collect()
}

/// Adds every element of `source` at the extreme of its window.
pub fn select_scatter(max: bool, dtype: DType, x: &[i64], shape: &[usize], windows: &[WindowDim], source: (&[i64], &[usize])) -> Vec<i64> {
    let select = if max { CompareFn::Ge } else { CompareFn::Le };
    let mut out = vec![0; x.len()];
    for (w, s) in window_places(shape, source.1, windows).zip(source.0) {
        if let Some(p) = w.into_iter().reduce(|best, p| if compare(select, dtype, x[best], x[p]) { best } else { p }) {
            out[p] = combine(Monoid::Sum, dtype, out[p], *s);
        }
    }
    out
}

/// Combines the elements of each row.
pub fn reduce_rows(monoid: Monoid, dtype: DType, x: &[i64], rows: usize) -> Vec<i64> {
    let width = x.len().checked_div(rows).unwrap_or(0);
    (0..rows)
        .map(|r| x[r * width..(r + 1) * width].iter().fold(identity(monoid, dtype), |acc, v| combine(monoid, dtype, acc, *v)))
        .collect()
}

/// Running combinations along a dimension.
pub fn scan((monoid, dtype): (Monoid, DType), x: &[i64], shape: &[usize], dim: usize, exclusive: bool, reverse: bool) -> Vec<i64> {
    let (n, inner) = (shape[dim], element_count(&shape[dim + 1..]));
    let mut out = x.to_vec();
    for line in (0..x.len()).filter(|p| p / inner % n == 0) {
        let mut acc = identity(monoid, dtype);
        for step in 0..n {
            let p = line + inner * if reverse { n - 1 - step } else { step };
            let with = combine(monoid, dtype, acc, x[p]);
            out[p] = if exclusive { acc } else { with };
            acc = with;
        }
    }
    out
}

/// Runs a fused program over an iteration space. Each operand has one element a point; a result per row has one a row.
pub fn fused(p: &FusedProgram, loops: &[usize], cols: usize, origin: &[usize], ins: &[Vec<i64>]) -> Result<Vec<Vec<i64>>, String> {
    let types = p.types().map_err(|e| e.to_string())?;
    let split = loops.len().checked_sub(cols).ok_or("it has more columns than loops")?;
    let (points, width) = (element_count(loops), element_count(&loops[split..]));
    if ins.iter().any(|i| i.len() != points) || ins.len() != p.inputs.len() || origin.len() != loops.len() {
        return Err(format!("its operands do not have one element for each of {points} points"));
    }
    let per_row = p.per_row();
    if points == 0 && cols > 0 && p.outputs.iter().any(|o| per_row[*o as usize]) {
        return Err("its rows have no elements".to_string());
    }
    let strides = row_major_strides(loops);
    let mut outs: Vec<Vec<i64>> = vec![Vec::new(); p.outputs.len()];
    let block = (BLOCK / width.max(1)).max(1) * width;
    for start in (0..points).step_by(block.max(1)) {
        let end = points.min(start + block);
        let mut slots: Vec<Vec<i64>> = Vec::with_capacity(p.body.len());
        for expr in &p.body {
            let (get, ty) = (|s: u32| &slots[s as usize], |s: u32| types[s as usize]);
            let two = |a, b, f: &dyn Fn(i64, i64) -> i64| get(a).iter().zip(get(b)).map(|(a, b)| f(*a, *b)).collect();
            let one = |a, f: &dyn Fn(i64) -> i64| get(a).iter().map(|a| f(*a)).collect();
            let made: Vec<i64> = match *expr {
                Expr::Input(k) => ins[k as usize][start..end].to_vec(),
                Expr::Const(d, bits) => vec![scalar::constant(d, bits); end - start],
                Expr::Index(d, l) => {
                    let l = l as usize;
                    let at = |i: usize| i / strides[l] as usize % loops[l] + origin[l];
                    (start..end).map(|i| convert(DType::I64, d, at(i) as i64)).collect()
                }
                Expr::Unary(f, a) => one(a, &|x| scalar::unary(f, ty(a), x)),
                Expr::Binary(f, a, b) => two(a, b, &|x, y| scalar::binary(f, ty(a), x, y)),
                Expr::Compare(f, a, b) => two(a, b, &|x, y| i64::from(compare(f, ty(a), x, y))),
                Expr::Select(c, a, b) => (0..end - start).map(|i| if get(c)[i] != 0 { get(a)[i] } else { get(b)[i] }).collect(),
                Expr::Convert(d, a) => one(a, &|x| convert(ty(a), d, x)),
                Expr::Bitcast(d, a) => one(a, &|x| scalar::bitcast(ty(a), d, x)),
                Expr::Reduce(m, a) => {
                    let rows = reduce_rows(m, ty(a), get(a), (end - start) / width);
                    rows.into_iter().flat_map(|r| std::iter::repeat_n(r, width)).collect()
                }
            };
            slots.push(made);
        }
        for (out, slot) in outs.iter_mut().zip(&p.outputs) {
            let (values, step) = (&slots[*slot as usize], if cols > 0 && per_row[*slot as usize] { width } else { 1 });
            out.extend(values.iter().step_by(step));
        }
    }
    Ok(outs)
}
