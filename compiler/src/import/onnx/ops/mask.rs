//! Masks over the last two dimensions: triangles, bands and the identity.

use super::super::build::{Builder, Val};
use super::super::call::{Call, Outputs, Res, malformed, one};
use girih_ir::scalar::CompareFn;
use girih_ir::types::DType;

/// `bool[rows, columns]`: whether `column - row` compares with `k`.
pub fn band(b: &mut Builder, rows: usize, columns: usize, k: i64, f: CompareFn) -> Res<Val> {
    let row = b.iota(DType::I64, rows, 0, 2)?;
    let column = b.iota(DType::I64, columns, 1, 2)?;
    let k = b.int_scalar(k)?;
    let bound = b.binary(girih_ir::scalar::BinaryFn::Add, row, k)?;
    b.compare(f, column, bound)
}

/// `Trilu`: the upper or lower triangle, the rest zero.
pub fn trilu(b: &mut Builder, call: &Call<'_>) -> Outputs {
    let x = call.input(0)?;
    let dims = b.dims(x);
    let [.., rows, columns] = dims[..] else { return malformed("the input must have at least 2 dimensions") };
    let k = call.known_int(b, 1, "diagonal")?.unwrap_or(0);
    let keep = band(b, rows, columns, k, if call.flag("upper", true)? { CompareFn::Ge } else { CompareFn::Le })?;
    let zero = b.like(x, 0.0)?;
    one(b.select(keep, x, zero)?)
}
