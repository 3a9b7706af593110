//! Wide tensors: the values of the reference interpreter.
//!
//! Every float is held as f64 and every integer as i64 (u64 by its bit pattern), so one `eval` an op serves all element types;
//! [`Tensor::new_float`] and [`Tensor::new_int`] round to the element type once, after the op.

use crate::float::{from_bits, to_bits};
pub use crate::float::{int_to_float, round_float};
use crate::literal::Literal;
use crate::types::{DType, Dims, NumberKind, TensorType, element_count};

/// A dense row-major tensor of wide elements.
#[derive(Clone, Debug, PartialEq)]
pub struct Tensor {
    ty: TensorType,
    data: Data,
}

/// The wide elements of a [`Tensor`].
#[derive(Clone, Debug, PartialEq)]
pub enum Data {
    /// Floats, exactly representable in the element type.
    Float(Vec<f64>),
    /// Integers and truth values, in the range of the element type; u64 by bit pattern.
    Int(Vec<i64>),
}

/// Wraps a wide integer to an element type.
pub fn wrap_int(dtype: DType, v: i64) -> i64 {
    match dtype {
        DType::I8 => v as i8 as i64,
        DType::U8 => v as u8 as i64,
        DType::I16 => v as i16 as i64,
        DType::U16 => v as u16 as i64,
        DType::I32 => v as i32 as i64,
        DType::U32 => v as u32 as i64,
        DType::Bool => i64::from(v != 0),
        _ => v,
    }
}

impl Tensor {
    /// A float tensor; every element is rounded to `ty.dtype`. Panics in debug when the count is wrong.
    pub fn new_float(ty: TensorType, mut values: Vec<f64>) -> Self {
        debug_assert!(ty.dtype.is_float() && values.len() == ty.elements(), "{ty} with {} values", values.len());
        values.iter_mut().for_each(|v| *v = round_float(ty.dtype, *v));
        Tensor { ty, data: Data::Float(values) }
    }

    /// An integer or bool tensor; every element is wrapped to `ty.dtype`.
    pub fn new_int(ty: TensorType, mut values: Vec<i64>) -> Self {
        debug_assert!(!ty.dtype.is_float() && values.len() == ty.elements(), "{ty} with {} values", values.len());
        values.iter_mut().for_each(|v| *v = wrap_int(ty.dtype, *v));
        Tensor { ty, data: Data::Int(values) }
    }

    /// A tensor of any type whose elements are whole numbers that stand for something else, such as elements of a field.
    pub(crate) fn coded(ty: TensorType, values: Vec<i64>) -> Self {
        debug_assert!(values.len() == ty.elements(), "{ty} with {} values", values.len());
        Tensor { ty, data: Data::Int(values) }
    }

    /// A tensor from elements of another tensor picked by position (`None` picks the fill).
    pub fn pick(ty: TensorType, from: &Tensor, positions: impl Iterator<Item = Option<usize>>, fill: Option<&Tensor>) -> Self {
        let data = match (&from.data, fill.map(|f| &f.data)) {
            (Data::Float(v), fill) => {
                let pad = if let Some(Data::Float(f)) = fill { f[0] } else { 0.0 };
                Data::Float(positions.map(|p| p.map_or(pad, |p| v[p])).collect())
            }
            (Data::Int(v), fill) => {
                let pad = if let Some(Data::Int(f)) = fill { f[0] } else { 0 };
                Data::Int(positions.map(|p| p.map_or(pad, |p| v[p])).collect())
            }
        };
        Tensor { ty, data }
    }

    /// The type.
    pub fn ty(&self) -> &TensorType {
        &self.ty
    }
    /// The extents.
    pub fn shape(&self) -> &[usize] {
        &self.ty.shape
    }
    /// The element type.
    pub fn dtype(&self) -> DType {
        self.ty.dtype
    }
    /// The wide elements.
    pub fn data(&self) -> &Data {
        &self.data
    }

    /// The same elements under another shape of equal count.
    pub fn reshaped(&self, shape: &[usize]) -> Self {
        debug_assert_eq!(element_count(shape), self.ty.elements());
        Tensor { ty: TensorType::new(self.ty.dtype, shape), data: self.data.clone() }
    }

    /// The elements as floats, whatever the type.
    pub fn floats(&self) -> Vec<f64> {
        match &self.data {
            Data::Float(v) => v.clone(),
            Data::Int(v) if self.ty.dtype == DType::U64 => v.iter().map(|x| *x as u64 as f64).collect(),
            Data::Int(v) => v.iter().map(|x| *x as f64).collect(),
        }
    }

    /// The elements as integers; floats are truncated toward zero.
    pub fn ints(&self) -> Vec<i64> {
        match &self.data {
            Data::Float(v) => v.iter().map(|x| *x as i64).collect(),
            Data::Int(v) => v.clone(),
        }
    }

    /// Converts the elements to another type with StableHLO's `convert` rules: float to int truncates and saturates,
    /// int to int wraps, anything to bool is `!= 0`.
    pub fn convert(&self, to: DType) -> Tensor {
        let ty = self.ty.with_dtype(to);
        match (&self.data, to.kind()) {
            (Data::Float(v), NumberKind::Float) => Tensor::new_float(ty, v.clone()),
            (Data::Int(v), NumberKind::Float) => {
                let unsigned = self.ty.dtype == DType::U64;
                Tensor::new_float(ty, v.iter().map(|x| int_to_float(to, *x, unsigned)).collect())
            }
            (Data::Float(v), NumberKind::Bool) => Tensor::new_int(ty, v.iter().map(|x| i64::from(*x != 0.0)).collect()),
            (Data::Float(v), _) => Tensor::new_int(ty, v.iter().map(|x| float_to_int(to, *x)).collect()),
            (Data::Int(v), _) => Tensor::new_int(ty, v.clone()),
        }
    }

    /// The same bits as elements of another type of the same size.
    pub fn bitcast(&self, to: DType) -> Tensor {
        debug_assert_eq!(self.ty.dtype.size(), to.size());
        let bits = |v: &f64| to_bits(self.ty.dtype, *v);
        let wide: Vec<u64> = match &self.data {
            Data::Float(v) => v.iter().map(bits).collect(),
            Data::Int(v) => v.iter().map(|x| *x as u64).collect(),
        };
        let ty = self.ty.with_dtype(to);
        if to.is_float() {
            Tensor::new_float(ty, wide.into_iter().map(|b| from_bits(to, b)).collect())
        } else {
            Tensor::new_int(ty, wide.into_iter().map(|b| b as i64).collect())
        }
    }

    /// Reads dense storage.
    pub fn from_literal(literal: &Literal) -> Self {
        let ty = literal.ty().clone();
        let b = literal.bytes();
        macro_rules! read {
            ($variant:ident, $t:ty, $n:literal, $wide:expr) => {
                Data::$variant(b.chunks_exact($n).map(|c| $wide(<$t>::from_le_bytes(c.try_into().unwrap_or([0; $n])))).collect())
            };
        }
        let data = match ty.dtype {
            DType::F32 => read!(Float, f32, 4, |x: f32| x as f64),
            DType::F64 => read!(Float, f64, 8, |x: f64| x),
            DType::BF16 | DType::F16 => read!(Float, u16, 2, |x: u16| from_bits(ty.dtype, u64::from(x))),
            DType::F8E4M3FN | DType::F8E5M2 => read!(Float, u8, 1, |x: u8| from_bits(ty.dtype, u64::from(x))),
            DType::I8 => read!(Int, i8, 1, |x: i8| x as i64),
            DType::U8 => read!(Int, u8, 1, |x: u8| x as i64),
            DType::Bool => read!(Int, u8, 1, |x: u8| i64::from(x != 0)),
            DType::I16 => read!(Int, i16, 2, |x: i16| x as i64),
            DType::U16 => read!(Int, u16, 2, |x: u16| x as i64),
            DType::I32 => read!(Int, i32, 4, |x: i32| x as i64),
            DType::U32 => read!(Int, u32, 4, |x: u32| x as i64),
            DType::I64 => read!(Int, i64, 8, |x: i64| x),
            DType::U64 => read!(Int, u64, 8, |x: u64| x as i64),
        };
        Tensor { ty, data }
    }

    /// Writes dense storage.
    pub fn to_literal(&self) -> Literal {
        let mut out = Vec::with_capacity(self.ty.bytes());
        match &self.data {
            Data::Float(v) => {
                let size = self.ty.dtype.size();
                for x in v {
                    out.extend(&to_bits(self.ty.dtype, *x).to_le_bytes()[..size]);
                }
            }
            Data::Int(v) => {
                let size = self.ty.dtype.size();
                for x in v {
                    out.extend(&x.to_le_bytes()[..size]);
                }
            }
        }
        Literal::new(self.ty.clone(), out).expect("a tensor holds as many elements as its type says")
    }

    /// A rank-0 float.
    pub fn scalar_float(dtype: DType, v: f64) -> Self {
        Tensor::new_float(TensorType::scalar(dtype), vec![v])
    }

    /// A rank-0 integer.
    pub fn scalar_int(dtype: DType, v: i64) -> Self {
        Tensor::new_int(TensorType::scalar(dtype), vec![v])
    }
}

/// Truncates toward zero and saturates at the ends of the type; NaN is 0.
pub fn float_to_int(to: DType, v: f64) -> i64 {
    match to {
        DType::I8 => v as i8 as i64,
        DType::U8 => v as u8 as i64,
        DType::I16 => v as i16 as i64,
        DType::U16 => v as u16 as i64,
        DType::I32 => v as i32 as i64,
        DType::U32 => v as u32 as i64,
        DType::U64 => v as u64 as i64,
        _ => v as i64,
    }
}

/// Steps through every index of a shape in row-major order.
#[derive(Clone, Debug)]
pub struct IndexIter {
    dims: Dims,
    next: Option<Dims>,
}

/// Every index of `dims` in row-major order; one empty index for a scalar, none when an extent is 0.
pub fn indices(dims: &[usize]) -> IndexIter {
    let next = if dims.contains(&0) { None } else { Some(Dims::from_elem(0, dims.len())) };
    IndexIter { dims: Dims::from_slice(dims), next }
}

impl Iterator for IndexIter {
    type Item = Dims;
    fn next(&mut self) -> Option<Dims> {
        let current = self.next.take()?;
        let mut following = current.clone();
        for i in (0..self.dims.len()).rev() {
            following[i] += 1;
            if following[i] < self.dims[i] {
                self.next = Some(following);
                break;
            }
            following[i] = 0;
        }
        Some(current)
    }
}

/// The row-major position of an index.
pub fn position(dims: &[usize], index: &[usize]) -> usize {
    dims.iter().zip(index).fold(0, |p, (d, i)| p * d + i)
}
