//! Running combinations along a dimension: cumulative sums, products and extremes.
//!
//! Elements are combined one after another, so the order is that of the definition; 16-bit floats are carried in f32.

use crate::buffer::{View, ViewMut, check_shape, check_type};
use crate::copy::Plan;
use crate::error::KernelError;
use crate::lane::{Lane, Value, by_dtype};
use girih_ir::scalar::Monoid;

/// `out[…, i, …] = combine(input[…, 0..=i, …])` along `dim`; `exclusive` leaves element `i` out, `reverse` runs from the end.
pub fn scan(
    monoid: Monoid,
    dim: usize,
    exclusive: bool,
    reverse: bool,
    input: &View<'_>,
    out: &mut ViewMut<'_>,
) -> Result<(), KernelError> {
    check_type("out", out.dtype(), input.dtype())?;
    check_shape("a scan keeps the extents", "out", out.dims(), input.dims())?;
    if dim >= input.dims().len() {
        return Err(KernelError::Attribute { name: "dim", value: dim as i64, rule: "a dimension of the operand" });
    }
    if monoid.function().result(input.dtype()).is_none() {
        return Err(KernelError::Attribute {
            name: "monoid",
            value: monoid as i64,
            rule: "a combiner that is defined on the element type",
        });
    }
    let (il, n) = (input.layout(), input.dims()[dim]);
    let lines =
        |o: &girih_ir::types::Layout| Plan::new((0..n_dims(o)).filter(|d| *d != dim).map(|d| (o.dims[d], il.strides[d], o.strides[d])));
    let plan = lines(out.layout());
    by_dtype!(input.dtype(), L => {
        let from = input.buf().elements::<L>();
        let (to, ol) = out.parts::<L>();
        let (si, so) = (il.strides[dim], ol.strides[dim]);
        plan.runs(il.base as isize, ol.base as isize, |s, d, (m, step_src, step_dst)| {
            for j in 0..m as isize {
                let mut acc = <L as Lane>::Value::identity(monoid);
                for k in 0..n {
                    let i = if reverse { n - 1 - k } else { k } as isize;
                    let v = Value::combine(monoid, acc, from[(s + j * step_src + i * si) as usize].widen());
                    to[(d + j * step_dst + i * so) as usize] = L::narrow(if exclusive { acc } else { v });
                    acc = v;
                }
            }
        });
    });
    Ok(())
}

fn n_dims(l: &girih_ir::types::Layout) -> usize {
    l.dims.len()
}
