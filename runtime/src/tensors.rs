//! Named tensors in files: safetensors in both directions.

use girih_ir::literal::Literal;
use girih_ir::types::{DType, Dims, TensorType};
use safetensors::tensor::TensorView;
use safetensors::{Dtype, SafeTensors};
use std::collections::BTreeMap;

fn to_dtype(dtype: DType) -> Dtype {
    match dtype {
        DType::F32 => Dtype::F32,
        DType::BF16 => Dtype::BF16,
        DType::F16 => Dtype::F16,
        DType::F64 => Dtype::F64,
        DType::I8 => Dtype::I8,
        DType::U8 => Dtype::U8,
        DType::I16 => Dtype::I16,
        DType::U16 => Dtype::U16,
        DType::I32 => Dtype::I32,
        DType::U32 => Dtype::U32,
        DType::I64 => Dtype::I64,
        DType::U64 => Dtype::U64,
        DType::Bool => Dtype::BOOL,
        DType::F8E4M3FN => Dtype::F8_E4M3,
        DType::F8E5M2 => Dtype::F8_E5M2,
    }
}

/// The bytes of a safetensors file with these tensors.
pub fn encode<'a>(tensors: impl IntoIterator<Item = (&'a str, &'a Literal)>) -> Result<Vec<u8>, String> {
    let view = |(name, l): (&'a str, &'a Literal)| {
        let view = TensorView::new(to_dtype(l.ty().dtype), l.ty().shape.to_vec(), l.bytes()).map_err(|e| format!("`{name}`: {e}"))?;
        Ok::<_, String>((name, view))
    };
    let views = tensors.into_iter().map(view).collect::<Result<Vec<_>, _>>()?;
    safetensors::serialize(views, None).map_err(|e| e.to_string())
}

/// The tensors of a safetensors file.
pub fn decode(bytes: &[u8]) -> Result<BTreeMap<String, Literal>, String> {
    let file = SafeTensors::deserialize(bytes).map_err(|e| format!("it is no safetensors file: {e}"))?;
    let mut all = BTreeMap::new();
    for (name, view) in file.iter() {
        let dtype = DType::ALL.into_iter().find(|d| to_dtype(*d) == view.dtype());
        let dtype = dtype.ok_or_else(|| format!("tensor `{name}` has the element type {:?}, which is not supported", view.dtype()))?;
        let ty = TensorType { dtype, shape: Dims::from_slice(view.shape()) };
        all.insert(name.to_string(), Literal::new(ty, view.data()).map_err(|e| format!("tensor `{name}`: {e}"))?);
    }
    Ok(all)
}
