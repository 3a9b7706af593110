//! Cholesky factors and triangular systems of batched matrices, real or complex.
//!
//! Both are recursive: a matrix above [`SMALL`] rows is cut into four, so that nearly all work is matrix products; a small one is done
//! column by column on shrinking slices. The number of nodes grows with the rows, the arithmetic stays n³/3 and n²·k.

use super::Number;
use super::build::{concat, conj, each, join, matmul, minus, pad, product, reverse, slice, swap, times};
use super::complex;
use girih_ir::graph::Graph;
use girih_ir::scalar::UnaryFn;

/// Rows that are done one by one.
const SMALL: usize = 16;

/// The triangle that the factor is.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Transpose {
    /// The matrix itself.
    None,
    /// Rows and columns swapped.
    Plain,
    /// Swapped and conjugate.
    Adjoint,
}

impl Transpose {
    /// The case of that name: `NO_TRANSPOSE`, `TRANSPOSE`, `ADJOINT`.
    pub fn from_name(name: &str) -> Option<Self> {
        Some(match name {
            "NO_TRANSPOSE" => Transpose::None,
            "TRANSPOSE" => Transpose::Plain,
            "ADJOINT" => Transpose::Adjoint,
            _ => return None,
        })
    }
}

fn rows(b: &Graph, x: Number) -> usize {
    let shape = b.shape(x.re);
    shape[shape.len() - 2]
}

/// The part of a matrix with these rows and columns.
fn block(b: &mut Graph, x: Number, r: std::ops::Range<usize>, c: std::ops::Range<usize>) -> Number {
    each(b, x, |b, v| {
        let rank = b.shape(v).len();
        let v = slice(b, v, rank - 2, r.start, r.end);
        slice(b, v, rank - 1, c.start, c.end)
    })
}

fn stack(b: &mut Graph, parts: &[Number], from_end: usize) -> Number {
    join(b, parts, |b, p| {
        let dim = b.shape(p[0]).len() - from_end;
        concat(b, p, dim)
    })
}

fn multiply(b: &mut Graph, x: Number, y: Number) -> Number {
    product(b, x, y, matmul)
}

fn adjoint(b: &mut Graph, x: Number) -> Number {
    let t = each(b, x, swap);
    conj(b, t)
}

/// x over y of extents 1 in the rows, in the columns, or both.
fn divide(b: &mut Graph, x: Number, y: Number) -> Option<Number> {
    let shape = b.shape(x.re).to_vec();
    let dims: Vec<usize> = (0..shape.len()).collect();
    let y = each(b, y, |b, v| {
        // A broadcast repeats along extents of 1.
        b.broadcast(v, &shape, &dims)
    });
    match (x.im, y.im) {
        (None, None) => Some(Number::real(b.over(x.re, y.re))),
        _ => complex::apply(b, "divide", &[x, y]),
    }
}

/// StableHLO `cholesky`: the lower factor L with L·Lᴴ = a from the lower triangle of `a`, or the upper one U with Uᴴ·U = a from the upper
/// triangle. The other triangle of the result is zero. NaN when a matrix is not positive definite. `None` when it is not square.
pub fn cholesky(b: &mut Graph, a: Number, lower: bool) -> Option<Number> {
    let shape = b.shape(a.re).to_vec();
    if shape.len() < 2 || shape[shape.len() - 1] != shape[shape.len() - 2] {
        return None;
    }
    if shape[shape.len() - 1] == 0 {
        return Some(a);
    }
    if lower {
        return factor(b, a);
    }
    let flipped = adjoint(b, a);
    let l = factor(b, flipped)?;
    Some(adjoint(b, l))
}

fn factor(b: &mut Graph, a: Number) -> Option<Number> {
    let n = rows(b, a);
    if n <= SMALL {
        return columns(b, a);
    }
    let h = n / 2;
    let (top, left, corner) = (block(b, a, 0..h, 0..h), block(b, a, h..n, 0..h), block(b, a, h..n, h..n));
    let l = factor(b, top)?;
    // M Lᴴ = left, so L Mᴴ = leftᴴ.
    let right = adjoint(b, left);
    let m = solve(b, l, right, false)?;
    let m = adjoint(b, m);
    let mh = adjoint(b, m);
    let mm = multiply(b, m, mh);
    let corner = minus(b, corner, mm);
    let corner = factor(b, corner)?;
    let upper = each(b, l, |b, v| {
        let rank = b.shape(v).len();
        pad(b, v, rank - 2, 0, (n - h) as i64)
    });
    let below = stack(b, &[m, corner], 1);
    let first = block(b, upper, 0..h, 0..h);
    let first = each(b, first, |b, v| {
        let rank = b.shape(v).len();
        pad(b, v, rank - 1, 0, (n - h) as i64)
    });
    Some(stack(b, &[first, below], 2))
}

fn columns(b: &mut Graph, a: Number) -> Option<Number> {
    let n = rows(b, a);
    let (mut rest, mut done) = (a, Vec::new());
    for j in 0..n {
        let left = n - j;
        let column = block(b, rest, 0..left, 0..1);
        let pivot = block(b, column, 0..1, 0..1);
        // The diagonal is real.
        let root = Number::real(b.unary(UnaryFn::Sqrt, pivot.re));
        let l = divide(b, column, root)?;
        let l = match l.im {
            // The imaginary part of a pivot is not looked at.
            Some(im) if left > 1 => {
                let below = block(b, Number::real(im), 1..left, 0..1).re;
                let rank = b.shape(im).len();
                Number::complex(l.re, pad(b, below, rank - 2, 1, 0))
            }
            Some(im) => Number::complex(l.re, b.splat_like(im, 0.0)),
            None => l,
        };
        done.push(each(b, l, |b, v| {
            let rank = b.shape(v).len();
            if j == 0 { v } else { pad(b, v, rank - 2, j as i64, 0) }
        }));
        if left > 1 {
            let below = block(b, l, 1..left, 0..1);
            let across = adjoint(b, below);
            let update = multiply(b, below, across);
            let corner = block(b, rest, 1..left, 1..left);
            rest = minus(b, corner, update);
        }
    }
    Some(stack(b, &done, 1))
}

/// StableHLO `triangular_solve`: the x with op(a)·x = b, or x·op(a) = b when not `left_side`. Only the triangle that `lower` names is read,
/// with ones on the diagonal when `unit_diagonal`. `None` when the shapes do not fit.
pub fn triangular_solve(
    g: &mut Graph,
    a: Number,
    rhs: Number,
    left_side: bool,
    lower: bool,
    unit_diagonal: bool,
    transpose: Transpose,
) -> Option<Number> {
    let (sa, sb) = (g.shape(a.re).to_vec(), g.shape(rhs.re).to_vec());
    let rank = sa.len();
    let side = if left_side { rank.checked_sub(2)? } else { rank.checked_sub(1)? };
    let fits = sb.len() == rank && sa[rank - 1] == sa[rank - 2] && sa[..rank - 2] == sb[..rank - 2] && sb[side] == sa[rank - 1];
    if !fits {
        return None;
    }
    if sb.contains(&0) {
        return Some(rhs);
    }
    // x·op(a) = b is op(a)ᵀ·xᵀ = bᵀ.
    let mut a = if transpose == Transpose::Adjoint { conj(g, a) } else { a };
    let mut rhs = rhs;
    if !left_side {
        rhs = each(g, rhs, swap);
    }
    let mut lower = lower;
    if (transpose != Transpose::None) == left_side {
        a = each(g, a, swap);
        lower = !lower;
    }
    // Upper triangles become lower ones when the unknowns are counted from the end.
    let x = if lower {
        solve(g, a, rhs, unit_diagonal)?
    } else {
        let a = each(g, a, |b, v| reverse(b, v, &[rank - 2, rank - 1]));
        let rhs = each(g, rhs, |b, v| reverse(b, v, &[rank - 2]));
        let x = solve(g, a, rhs, unit_diagonal)?;
        each(g, x, |b, v| reverse(b, v, &[rank - 2]))
    };
    Some(if left_side { x } else { each(g, x, swap) })
}

/// L·x = b for a lower triangle.
fn solve(b: &mut Graph, l: Number, rhs: Number, unit: bool) -> Option<Number> {
    let n = rows(b, l);
    let k = b.shape(rhs.re).last().copied()?;
    if n <= SMALL {
        let (mut rest, mut done) = (rhs, Vec::new());
        for i in 0..n {
            let top = block(b, rest, 0..1, 0..k);
            let pivot = block(b, l, i..i + 1, i..i + 1);
            let x = if unit { top } else { divide(b, top, pivot)? };
            done.push(x);
            if i + 1 < n {
                let column = block(b, l, i + 1..n, i..i + 1);
                let update = outer(b, column, x);
                let below = block(b, rest, 1..n - i, 0..k);
                rest = minus(b, below, update);
            }
        }
        return Some(same_kind(b, &done));
    }
    let h = n / 2;
    let (top, left, corner) = (block(b, l, 0..h, 0..h), block(b, l, h..n, 0..h), block(b, l, h..n, h..n));
    let first = block(b, rhs, 0..h, 0..k);
    let x = solve(b, top, first, unit)?;
    let second = block(b, rhs, h..n, 0..k);
    let update = multiply(b, left, x);
    let second = minus(b, second, update);
    let y = solve(b, corner, second, unit)?;
    Some(same_kind(b, &[x, y]))
}

/// Rows below each other; real ones become complex when others are.
fn same_kind(b: &mut Graph, parts: &[Number]) -> Number {
    let any = parts.iter().any(|p| p.im.is_some());
    let parts: Vec<Number> =
        parts.iter().map(|p| if any && p.im.is_none() { Number::complex(p.re, b.splat_like(p.re, 0.0)) } else { *p }).collect();
    stack(b, &parts, 2)
}

/// A column times a row, as elementwise products of their repetitions.
fn outer(b: &mut Graph, column: Number, row: Number) -> Number {
    let (mut shape, columns) = (b.shape(column.re).to_vec(), b.shape(row.re).last().copied().unwrap_or(1));
    let rank = shape.len();
    shape[rank - 1] = columns;
    let dims: Vec<usize> = (0..rank).collect();
    let spread = |b: &mut Graph, v| b.broadcast(v, &shape, &dims);
    let (c, r) = (each(b, column, spread), each(b, row, spread));
    times(b, c, r)
}
