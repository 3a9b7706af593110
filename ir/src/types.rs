//! Element types, shapes and value types: what every level of the compiler agrees on.

use serde::{Deserialize, Serialize};
use smallvec::SmallVec;
use std::fmt;

/// An element type.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Serialize, Deserialize)]
pub enum DType {
    /// IEEE 754 binary32.
    F32,
    /// bfloat16: the upper half of a binary32.
    BF16,
    /// IEEE 754 binary16.
    F16,
    /// IEEE 754 binary64.
    F64,
    /// 8-bit two's complement.
    I8,
    /// 8-bit unsigned.
    U8,
    /// 16-bit two's complement.
    I16,
    /// 16-bit unsigned.
    U16,
    /// 32-bit two's complement.
    I32,
    /// 32-bit unsigned.
    U32,
    /// 64-bit two's complement.
    I64,
    /// 64-bit unsigned.
    U64,
    /// One byte, 0 or 1.
    Bool,
    /// 8-bit float with 4 exponent and 3 mantissa bits, no infinities and one NaN a sign (OCP `E4M3`); what is too large becomes NaN.
    F8E4M3FN,
    /// 8-bit float with 5 exponent and 2 mantissa bits, like the upper half of a binary16 (OCP `E5M2`).
    F8E5M2,
}

/// How a [`DType`] behaves in arithmetic.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum NumberKind {
    /// Floating point.
    Float,
    /// Two's complement integer.
    Signed,
    /// Unsigned integer.
    Unsigned,
    /// Truth value.
    Bool,
}

impl DType {
    /// Every element type, in declaration order.
    pub const ALL: [DType; 15] = [
        DType::F32,
        DType::BF16,
        DType::F16,
        DType::F64,
        DType::I8,
        DType::U8,
        DType::I16,
        DType::U16,
        DType::I32,
        DType::U32,
        DType::I64,
        DType::U64,
        DType::Bool,
        DType::F8E4M3FN,
        DType::F8E5M2,
    ];

    /// Bytes of one element.
    pub fn size(self) -> usize {
        match self {
            DType::I8 | DType::U8 | DType::Bool | DType::F8E4M3FN | DType::F8E5M2 => 1,
            DType::BF16 | DType::F16 | DType::I16 | DType::U16 => 2,
            DType::F32 | DType::I32 | DType::U32 => 4,
            DType::F64 | DType::I64 | DType::U64 => 8,
        }
    }

    /// The name in the text forms: `f32`, `bool`, …
    pub fn name(self) -> &'static str {
        match self {
            DType::F32 => "f32",
            DType::BF16 => "bf16",
            DType::F16 => "f16",
            DType::F64 => "f64",
            DType::I8 => "i8",
            DType::U8 => "u8",
            DType::I16 => "i16",
            DType::U16 => "u16",
            DType::I32 => "i32",
            DType::U32 => "u32",
            DType::I64 => "i64",
            DType::U64 => "u64",
            DType::Bool => "bool",
            DType::F8E4M3FN => "f8e4m3fn",
            DType::F8E5M2 => "f8e5m2",
        }
    }

    /// The element type of that [`name`](Self::name).
    pub fn from_name(name: &str) -> Option<DType> {
        DType::ALL.into_iter().find(|d| d.name() == name)
    }

    /// The element type that StableHLO calls this: `f8E4M3FN`, `i1`, `ui32`, …
    pub fn from_stablehlo(name: &str) -> Option<DType> {
        DType::ALL.into_iter().find(|d| d.stablehlo_name() == name)
    }

    /// The name in StableHLO.
    pub fn stablehlo_name(self) -> &'static str {
        match self {
            DType::U8 => "ui8",
            DType::U16 => "ui16",
            DType::U32 => "ui32",
            DType::U64 => "ui64",
            DType::Bool => "i1",
            DType::F8E4M3FN => "f8E4M3FN",
            DType::F8E5M2 => "f8E5M2",
            same => same.name(),
        }
    }

    /// The arithmetic class.
    pub fn kind(self) -> NumberKind {
        match self {
            DType::F32 | DType::BF16 | DType::F16 | DType::F64 | DType::F8E4M3FN | DType::F8E5M2 => NumberKind::Float,
            DType::I8 | DType::I16 | DType::I32 | DType::I64 => NumberKind::Signed,
            DType::U8 | DType::U16 | DType::U32 | DType::U64 => NumberKind::Unsigned,
            DType::Bool => NumberKind::Bool,
        }
    }

    /// Whether this is a floating-point type.
    pub fn is_float(self) -> bool {
        self.kind() == NumberKind::Float
    }

    /// Whether this is a signed or unsigned integer type (`bool` is not).
    pub fn is_int(self) -> bool {
        matches!(self.kind(), NumberKind::Signed | NumberKind::Unsigned)
    }
}

impl fmt::Display for DType {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// The extents of a tensor, outermost first. A scalar has no extents.
pub type Dims = SmallVec<[usize; 6]>;

/// A tensor type: element type and static shape.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct TensorType {
    /// Element type.
    pub dtype: DType,
    /// Extents, outermost first.
    pub shape: Dims,
}

impl TensorType {
    /// A tensor type from its parts.
    pub fn new(dtype: DType, shape: impl AsRef<[usize]>) -> Self {
        TensorType { dtype, shape: Dims::from_slice(shape.as_ref()) }
    }

    /// A rank-0 type.
    pub fn scalar(dtype: DType) -> Self {
        TensorType { dtype, shape: Dims::new() }
    }

    /// Number of dimensions.
    pub fn rank(&self) -> usize {
        self.shape.len()
    }

    /// Number of elements (saturating; importers bound it before).
    pub fn elements(&self) -> usize {
        element_count(&self.shape)
    }

    /// Bytes of the dense tensor.
    pub fn bytes(&self) -> usize {
        self.elements().saturating_mul(self.dtype.size())
    }

    /// The same shape with another element type.
    pub fn with_dtype(&self, dtype: DType) -> Self {
        TensorType { dtype, shape: self.shape.clone() }
    }
}

impl fmt::Display for TensorType {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}[", self.dtype)?;
        for (i, d) in self.shape.iter().enumerate() {
            if i > 0 {
                f.write_str(",")?;
            }
            write!(f, "{d}")?;
        }
        f.write_str("]")
    }
}

impl fmt::Debug for TensorType {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// The type of a graph value: a tensor, or the tuple that a multi-result op returns and `proj` takes apart.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub enum Type {
    /// One tensor.
    Tensor(TensorType),
    /// The results of a multi-result op.
    Tuple(Vec<TensorType>),
}

impl Type {
    /// The tensor type, if this is one.
    pub fn as_tensor(&self) -> Option<&TensorType> {
        match self {
            Type::Tensor(t) => Some(t),
            Type::Tuple(_) => None,
        }
    }

    /// The component types: one for a tensor, all for a tuple.
    pub fn components(&self) -> &[TensorType] {
        match self {
            Type::Tensor(t) => std::slice::from_ref(t),
            Type::Tuple(ts) => ts,
        }
    }
}

impl From<TensorType> for Type {
    fn from(t: TensorType) -> Self {
        Type::Tensor(t)
    }
}

impl fmt::Display for Type {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Type::Tensor(t) => fmt::Display::fmt(t, f),
            Type::Tuple(ts) => {
                f.write_str("(")?;
                for (i, t) in ts.iter().enumerate() {
                    if i > 0 {
                        f.write_str(", ")?;
                    }
                    fmt::Display::fmt(t, f)?;
                }
                f.write_str(")")
            }
        }
    }
}

impl fmt::Debug for Type {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// The product of the extents, saturating.
pub fn element_count(dims: &[usize]) -> usize {
    dims.iter().fold(1usize, |n, d| n.saturating_mul(*d))
}

/// Row-major strides, in elements, of a dense tensor of these extents.
pub fn row_major_strides(dims: &[usize]) -> SmallVec<[isize; 6]> {
    let mut strides: SmallVec<[isize; 6]> = SmallVec::from_elem(1, dims.len());
    for i in (0..dims.len().saturating_sub(1)).rev() {
        strides[i] = strides[i + 1] * dims[i + 1].max(1) as isize;
    }
    strides
}

/// A strided view of a slice of elements: element `(i0, i1, …)` is at `base + Σ i·stride`.
///
/// Strides are in elements, may be 0 (a broadcast, for reading only) or negative (a reversal).
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Serialize, Deserialize)]
pub struct Layout {
    /// Position of element (0, 0, …).
    pub base: usize,
    /// Extents, outermost first.
    pub dims: Dims,
    /// Distance in elements between neighbors, one a dimension.
    pub strides: SmallVec<[isize; 6]>,
}

impl Layout {
    /// The dense row-major layout of these extents, from element 0.
    pub fn dense(dims: &[usize]) -> Self {
        Layout { base: 0, dims: Dims::from_slice(dims), strides: row_major_strides(dims) }
    }

    /// Number of elements that the view shows.
    pub fn elements(&self) -> usize {
        element_count(&self.dims)
    }

    /// Whether the view is dense and row-major (extent-1 dimensions may have any stride).
    pub fn is_dense(&self) -> bool {
        let want = row_major_strides(&self.dims);
        self.dims.iter().zip(self.strides.iter().zip(&want)).all(|(d, (s, w))| *d <= 1 || s == w) || self.elements() == 0
    }

    /// The half-open range of slice positions that the view touches; empty when the view is.
    ///
    /// `None` when a position would be negative or overflow.
    pub fn extent(&self) -> Option<std::ops::Range<usize>> {
        if self.elements() == 0 {
            return Some(self.base..self.base);
        }
        let (mut low, mut high) = (self.base as i128, self.base as i128);
        for (d, s) in self.dims.iter().zip(&self.strides) {
            let reach = (*d as i128 - 1) * *s as i128;
            if reach < 0 {
                low += reach;
            } else {
                high += reach;
            }
        }
        if low < 0 || high >= isize::MAX as i128 {
            return None;
        }
        Some(low as usize..high as usize + 1)
    }
}
