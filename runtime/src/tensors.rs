//! Named tensors in files: safetensors in both directions.

use girih_ir::literal::Literal;
use girih_ir::types::{DType, Dims, TensorType};
use safetensors::tensor::TensorView;
use safetensors::tensor::{Metadata, TensorInfo};
use safetensors::{Dtype, SafeTensors};
use std::collections::BTreeMap;
use std::io::{Read, Seek, SeekFrom};

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

/// A header is no longer than this, as the format has it.
const MAX_HEADER: u64 = 100_000_000;

/// A safetensors file that is read one tensor at a time, for files that should not be in memory as a whole.
#[derive(Debug)]
pub struct Reader<R> {
    from: R,
    data: u64,
    infos: BTreeMap<String, TensorInfo>,
}

impl<R: Read + Seek> Reader<R> {
    /// Reads the header.
    pub fn new(mut from: R) -> Result<Self, String> {
        let why = |e: &dyn std::fmt::Display| format!("it is no safetensors file: {e}");
        let mut length = [0; 8];
        from.read_exact(&mut length).map_err(|e| why(&e))?;
        let length = u64::from_le_bytes(length);
        if length > MAX_HEADER {
            return Err(why(&format!("its header would have {length} bytes")));
        }
        let mut header = vec![0; length as usize];
        from.read_exact(&mut header).map_err(|e| why(&e))?;
        let metadata: Metadata = serde_json::from_slice(&header).map_err(|e| why(&e))?;
        let infos = metadata.tensors().into_iter().map(|(name, info)| (name, info.clone())).collect();
        Ok(Reader { from, data: 8 + length, infos })
    }

    /// The names.
    pub fn names(&self) -> impl Iterator<Item = &str> {
        self.infos.keys().map(String::as_str)
    }

    /// One tensor; `None` when there is none of this name.
    pub fn read(&mut self, name: &str) -> Result<Option<Literal>, String> {
        let Some(info) = self.infos.get(name) else { return Ok(None) };
        let ty = type_of(name, info.dtype, &info.shape)?;
        let (start, end) = info.data_offsets;
        let wrong = |e: &dyn std::fmt::Display| format!("tensor `{name}`: {e}");
        self.from.seek(SeekFrom::Start(self.data.saturating_add(start as u64))).map_err(|e| wrong(&e))?;
        let mut bytes = Vec::new();
        let length = end.saturating_sub(start) as u64;
        self.from.by_ref().take(length).read_to_end(&mut bytes).map_err(|e| wrong(&e))?;
        Literal::new(ty, bytes).map(Some).map_err(|e| wrong(&e))
    }
}

fn type_of(name: &str, dtype: Dtype, shape: &[usize]) -> Result<TensorType, String> {
    let known = DType::ALL.into_iter().find(|d| to_dtype(*d) == dtype);
    let dtype = known.ok_or_else(|| format!("tensor `{name}` has the element type {dtype:?}, which is not supported"))?;
    Ok(TensorType { dtype, shape: Dims::from_slice(shape) })
}

/// The tensors of a safetensors file.
pub fn decode(bytes: &[u8]) -> Result<BTreeMap<String, Literal>, String> {
    let file = SafeTensors::deserialize(bytes).map_err(|e| format!("it is no safetensors file: {e}"))?;
    let mut all = BTreeMap::new();
    for (name, view) in file.iter() {
        let ty = type_of(name, view.dtype(), view.shape())?;
        all.insert(name.to_string(), Literal::new(ty, view.data()).map_err(|e| format!("tensor `{name}`: {e}"))?);
    }
    Ok(all)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_tensor_at_a_time() {
        let all: BTreeMap<String, Literal> = [("b", vec![1.0, 2.0]), ("a", vec![3.0])]
            .into_iter()
            .map(|(n, v)| (n.to_string(), Literal::from_f32(&[v.len()], &v).unwrap()))
            .collect();
        let bytes = encode(all.iter().map(|(n, l)| (n.as_str(), l))).unwrap();
        let mut reader = Reader::new(std::io::Cursor::new(&bytes)).unwrap();
        assert_eq!(reader.names().collect::<Vec<_>>(), ["a", "b"]);
        for (name, value) in &all {
            assert_eq!(reader.read(name).unwrap().as_ref(), Some(value));
        }
        assert_eq!(reader.read("c").unwrap(), None);
        assert!(Reader::new(std::io::Cursor::new(&bytes[..20])).is_err());
        assert!(Reader::new(std::io::Cursor::new(&bytes[..bytes.len() - 4])).unwrap().read("b").is_err());
    }
}
