//! Dense constant tensors: how weights, batches and results are stored and handed around.

use crate::types::{DType, TensorType};
use serde::{Deserialize, Serialize};
use std::fmt;
use std::sync::Arc;

/// A dense row-major tensor of little-endian bytes. Cloning shares the bytes.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Literal {
    ty: TensorType,
    bytes: Arc<[u8]>,
}

/// A literal whose byte count does not match its type.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("E0201: {ty} needs {need} bytes, but {got} were given; check the shape and the element type")]
pub struct LiteralError {
    /// The claimed type.
    pub ty: TensorType,
    /// Bytes that the type needs.
    pub need: usize,
    /// Bytes that were given.
    pub got: usize,
}

impl Literal {
    /// A literal from little-endian bytes.
    pub fn new(ty: TensorType, bytes: impl Into<Arc<[u8]>>) -> Result<Self, LiteralError> {
        let bytes = bytes.into();
        if ty.bytes() != bytes.len() {
            return Err(LiteralError { need: ty.bytes(), got: bytes.len(), ty });
        }
        Ok(Literal { ty, bytes })
    }

    /// All elements zero.
    pub fn zeros(ty: TensorType) -> Self {
        let bytes = vec![0u8; ty.bytes()].into();
        Literal { ty, bytes }
    }

    /// An f32 literal; the shape must hold exactly the values.
    pub fn from_f32(shape: &[usize], values: &[f32]) -> Result<Self, LiteralError> {
        Self::new(TensorType::new(DType::F32, shape), values.iter().flat_map(|v| v.to_le_bytes()).collect::<Vec<u8>>())
    }

    /// An i64 literal; the shape must hold exactly the values.
    pub fn from_i64(shape: &[usize], values: &[i64]) -> Result<Self, LiteralError> {
        Self::new(TensorType::new(DType::I64, shape), values.iter().flat_map(|v| v.to_le_bytes()).collect::<Vec<u8>>())
    }

    /// The type.
    pub fn ty(&self) -> &TensorType {
        &self.ty
    }

    /// The dense little-endian bytes.
    pub fn bytes(&self) -> &[u8] {
        &self.bytes
    }

    /// The shared bytes.
    pub fn shared(&self) -> Arc<[u8]> {
        self.bytes.clone()
    }

    /// The elements as f32 when the type is f32.
    pub fn to_f32(&self) -> Option<Vec<f32>> {
        (self.ty.dtype == DType::F32).then(|| self.bytes.chunks_exact(4).map(|c| f32::from_le_bytes([c[0], c[1], c[2], c[3]])).collect())
    }
}

impl fmt::Debug for Literal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Literal({}, {} bytes)", self.ty, self.bytes.len())
    }
}
