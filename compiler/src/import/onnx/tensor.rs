//! Reads the values of an ONNX tensor, wherever the file keeps them, as little-endian bytes.
//!
//! Every length is checked against the shape, every path against the model's folder: a model from a stranger must not be able to read
//! another file or to make the reader allocate more than the files hold.

use super::limits::{ImportLimits, exceeded};
use super::proto::{TensorProto, data_type};
use crate::import::error::{ImportError, Problem};
use bytes::Bytes;
use girih_ir::types::{DType, Dims};
use std::collections::BTreeSet;
use std::io::{Read, Seek, SeekFrom};
use std::path::{Component, Path, PathBuf};

/// A dense tensor: little-endian values in row-major order.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TensorData {
    /// Element type.
    pub dtype: DType,
    /// Extents.
    pub dims: Dims,
    /// `elements × size` bytes; a `bool` is 0 or 1.
    pub data: Bytes,
}

/// Reads tensors; keeps count of the external files that it opened.
pub struct TensorReader<'a> {
    /// The model's folder; `None` when the model came from memory.
    folder: Option<PathBuf>,
    limits: &'a ImportLimits,
    files: BTreeSet<PathBuf>,
}

/// The element type of an ONNX type number, or its ONNX name when there is no such type here.
pub fn dtype_of(code: i32) -> Result<DType, &'static str> {
    Ok(match code {
        data_type::FLOAT => DType::F32,
        data_type::UINT8 => DType::U8,
        data_type::INT8 => DType::I8,
        data_type::UINT16 => DType::U16,
        data_type::INT16 => DType::I16,
        data_type::INT32 => DType::I32,
        data_type::INT64 => DType::I64,
        data_type::BOOL => DType::Bool,
        data_type::FLOAT16 => DType::F16,
        data_type::DOUBLE => DType::F64,
        data_type::UINT32 => DType::U32,
        data_type::UINT64 => DType::U64,
        data_type::BFLOAT16 => DType::BF16,
        data_type::STRING => return Err("string"),
        14 => return Err("complex64"),
        15 => return Err("complex128"),
        17 => return Err("float8e4m3fn"),
        18 => return Err("float8e4m3fnuz"),
        19 => return Err("float8e5m2"),
        20 => return Err("float8e5m2fnuz"),
        21 => return Err("uint4"),
        22 => return Err("int4"),
        23 => return Err("float4e2m1"),
        24 => return Err("float8e8m0"),
        25 => return Err("uint2"),
        26 => return Err("int2"),
        _ => return Err("undefined"),
    })
}

/// Checks extents from a file: not negative, inside the limits, product not overflowing.
pub fn checked_dims(dims: &[i64], limits: &ImportLimits, place: &str) -> Result<Dims, ImportError> {
    if dims.len() > limits.rank {
        return Err(exceeded(&format!("rank of {place}"), limits.rank as u64, "rank"));
    }
    let mut out = Dims::new();
    let mut elements = 1u64;
    let mut zero = false;
    for d in dims {
        let extent = u64::try_from(*d).map_err(|_| {
            ImportError::Malformed(Problem::new("E0103", format!("a dimension is {d}")).at(place).because("extents are not negative"))
        })?;
        if extent > limits.extent {
            return Err(exceeded(&format!("a dimension of {place}"), limits.extent, "extent"));
        }
        zero |= extent == 0;
        // Zero extents must not hide the product of the others.
        elements = elements.saturating_mul(extent.max(1));
        if elements > limits.elements {
            return Err(exceeded(&format!("number of elements of {place}"), limits.elements, "elements"));
        }
        out.push(extent as usize);
    }
    debug_assert!(zero || elements as usize == girih_ir::types::element_count(&out));
    Ok(out)
}

impl<'a> TensorReader<'a> {
    /// A reader for a model in that folder.
    pub fn new(folder: Option<&Path>, limits: &'a ImportLimits) -> Self {
        TensorReader { folder: folder.map(Path::to_path_buf), limits, files: BTreeSet::new() }
    }

    /// Reads one tensor.
    pub fn read(&mut self, tensor: &TensorProto) -> Result<TensorData, ImportError> {
        let place = format!("tensor '{}'", tensor.name.as_deref().unwrap_or(""));
        let dtype = dtype_of(tensor.data_type.unwrap_or(0)).map_err(|name| match name {
            "undefined" => ImportError::Malformed(Problem::new("E0103", "a tensor has no element type").at(&place)),
            name => unsupported_type(name, &place),
        })?;
        let dims = checked_dims(&tensor.dims, self.limits, &place)?;
        let elements = girih_ir::types::element_count(&dims);
        let bytes = (elements as u64).checked_mul(dtype.size() as u64).ok_or_else(|| exceeded(&place, self.limits.elements, "elements"))?;
        let data = if tensor.data_location == Some(1) {
            self.external(tensor, bytes, &place)?
        } else if let Some(raw) = &tensor.raw_data {
            if raw.len() as u64 != bytes {
                return Err(wrong_length(&place, raw.len() as u64, bytes, "bytes"));
            }
            raw.clone()
        } else {
            typed_fields(tensor, dtype, elements, &place)?
        };
        let data =
            if dtype == DType::Bool && data.iter().any(|b| *b > 1) { data.iter().map(|b| u8::from(*b != 0)).collect() } else { data };
        Ok(TensorData { dtype, dims, data })
    }

    /// Reads a tensor's part of an external file.
    fn external(&mut self, tensor: &TensorProto, bytes: u64, place: &str) -> Result<Bytes, ImportError> {
        let entry = |key: &str| tensor.external_data.iter().find(|e| e.key.as_deref() == Some(key)).and_then(|e| e.value.as_deref());
        let bad = |what: String| ImportError::Malformed(Problem::new("E0104", what).at(place));
        let location = entry("location").ok_or_else(|| bad("external data has no location".into()))?;
        let number = |key: &str| match entry(key) {
            None => Ok(None),
            Some(text) => {
                text.trim().parse::<u64>().map(Some).map_err(|_| bad(format!("the {key} of external data is '{text}', not a number")))
            }
        };
        let (offset, length) = (number("offset")?.unwrap_or(0), number("length")?);
        let path = self.contained(location, place)?;
        let io = |e: std::io::Error| {
            ImportError::Io(Problem::new("E0140", format!("cannot read external data '{location}'")).at(place).because(e.to_string()))
        };
        let meta = std::fs::symlink_metadata(&path).map_err(io)?;
        if !meta.is_file() {
            return Err(bad(format!("external data '{location}' is not a regular file")));
        }
        let length = length.unwrap_or_else(|| meta.len().saturating_sub(offset).min(bytes));
        if length != bytes {
            return Err(wrong_length(place, length, bytes, "bytes of external data"));
        }
        if offset.checked_add(length).is_none_or(|end| end > meta.len()) {
            let why = format!("the file '{location}' has {} bytes, the tensor wants {length} from {offset}", meta.len());
            return Err(ImportError::Malformed(Problem::new("E0104", "external data ends behind its file").at(place).because(why)));
        }
        self.files.insert(path.clone());
        if self.files.len() > self.limits.external_files {
            return Err(exceeded("number of external files", self.limits.external_files as u64, "external-files"));
        }
        let mut file = std::fs::File::open(&path).map_err(io)?;
        file.seek(SeekFrom::Start(offset)).map_err(io)?;
        let mut data = Vec::new();
        data.try_reserve_exact(length as usize).map_err(|_| exceeded(place, self.limits.elements, "elements"))?;
        file.take(length).read_to_end(&mut data).map_err(io)?;
        if data.len() as u64 != length {
            return Err(wrong_length(place, data.len() as u64, length, "bytes of external data"));
        }
        Ok(Bytes::from(data))
    }

    /// The path of an external file, proven to lie in the model's folder.
    fn contained(&self, location: &str, place: &str) -> Result<PathBuf, ImportError> {
        let refuse = |why: &str| {
            let problem = Problem::new("E0104", format!("external data '{location}' is refused")).at(place).because(why);
            ImportError::Malformed(problem.help("external data must be a file in the model's folder, named by a relative path"))
        };
        let Some(folder) = &self.folder else { return Err(refuse("the model came from memory and has no folder")) };
        if location.is_empty() || location.contains('\0') || location.contains('\\') || location.contains(':') {
            return Err(refuse("the path is empty or has a NUL, backslash or colon"));
        }
        let mut path = folder.clone();
        for part in Path::new(location).components() {
            match part {
                Component::Normal(name) => path.push(name),
                Component::CurDir => continue,
                _ => return Err(refuse("the path is absolute or climbs out of the folder")),
            }
            if std::fs::symlink_metadata(&path).is_ok_and(|m| m.file_type().is_symlink()) {
                return Err(refuse("the path goes through a symbolic link"));
            }
        }
        let root = folder.canonicalize().map_err(|_| refuse("the model's folder cannot be resolved"))?;
        match path.canonicalize() {
            Ok(real) if real.starts_with(&root) => Ok(real),
            Ok(_) => Err(refuse("the path leaves the model's folder")),
            Err(e) => Err(ImportError::Io(
                Problem::new("E0140", format!("cannot find external data '{location}'")).at(place).because(e.to_string()),
            )),
        }
    }
}

/// A type that the IR does not have.
pub fn unsupported_type(name: &str, place: &str) -> ImportError {
    let op = crate::import::error::UnsupportedOp {
        op: format!("type {name}"),
        node: crate::import::error::clean(place),
        reason: "there is no such element type here".into(),
    };
    ImportError::Unsupported { ops: vec![op] }
}

fn wrong_length(place: &str, have: u64, want: u64, unit: &str) -> ImportError {
    let problem = Problem::new("E0103", format!("a tensor has {have} {unit}")).at(place);
    ImportError::Malformed(problem.because(format!("its shape and type need {want}")))
}

/// Values from the typed repeated fields.
fn typed_fields(t: &TensorProto, dtype: DType, elements: usize, place: &str) -> Result<Bytes, ImportError> {
    let check = |have: usize| if have == elements { Ok(()) } else { Err(wrong_length(place, have as u64, elements as u64, "values")) };
    let words = &t.int32_data;
    let out_of_range = || ImportError::Malformed(Problem::new("E0103", format!("a value does not fit {dtype}")).at(place));
    /// Narrow integers, one a word.
    fn narrow<T: TryFrom<i32>, const N: usize>(words: &[i32], to: fn(T) -> [u8; N]) -> Option<Vec<u8>> {
        let mut out = Vec::with_capacity(words.len() * N);
        for w in words {
            out.extend(to(T::try_from(*w).ok()?));
        }
        Some(out)
    }
    let data: Vec<u8> = match dtype {
        DType::F32 => {
            check(t.float_data.len())?;
            t.float_data.iter().flat_map(|v| v.to_le_bytes()).collect()
        }
        DType::F64 => {
            check(t.double_data.len())?;
            t.double_data.iter().flat_map(|v| v.to_le_bytes()).collect()
        }
        DType::I64 => {
            check(t.int64_data.len())?;
            t.int64_data.iter().flat_map(|v| v.to_le_bytes()).collect()
        }
        DType::U64 => {
            check(t.uint64_data.len())?;
            t.uint64_data.iter().flat_map(|v| v.to_le_bytes()).collect()
        }
        DType::U32 => {
            check(t.uint64_data.len())?;
            let narrowed: Result<Vec<u32>, _> = t.uint64_data.iter().map(|v| u32::try_from(*v)).collect();
            narrowed.map_err(|_| out_of_range())?.iter().flat_map(|v| v.to_le_bytes()).collect()
        }
        _ => {
            check(words.len())?;
            match dtype {
                DType::I32 => words.iter().flat_map(|v| v.to_le_bytes()).collect(),
                DType::Bool => words.iter().map(|v| u8::from(*v != 0)).collect(),
                DType::I8 => narrow(words, i8::to_le_bytes).ok_or_else(out_of_range)?,
                DType::U8 => narrow(words, u8::to_le_bytes).ok_or_else(out_of_range)?,
                DType::I16 => narrow(words, i16::to_le_bytes).ok_or_else(out_of_range)?,
                // f16 and bf16 are stored as the bits of a u16.
                _ => narrow(words, u16::to_le_bytes).ok_or_else(out_of_range)?,
            }
        }
    };
    Ok(Bytes::from(data))
}

#[cfg(test)]
mod tests {
    use super::super::proto::StringStringEntry;
    use super::*;

    fn read(t: &TensorProto, folder: Option<&Path>) -> Result<TensorData, ImportError> {
        TensorReader::new(folder, &ImportLimits::default()).read(t)
    }

    fn external(location: &str, offset: &str, length: &str) -> TensorProto {
        let entry = |k: &str, v: &str| StringStringEntry { key: Some(k.into()), value: Some(v.into()) };
        TensorProto {
            dims: vec![2],
            data_type: Some(data_type::FLOAT),
            data_location: Some(1),
            external_data: vec![entry("location", location), entry("offset", offset), entry("length", length)],
            ..Default::default()
        }
    }

    #[test]
    fn reads_half_types_from_words() {
        let t = TensorProto { dims: vec![2], data_type: Some(data_type::FLOAT16), int32_data: vec![0x3c00, 0xc000], ..Default::default() };
        let got = read(&t, None).unwrap();
        assert_eq!((got.dtype, &got.data[..]), (DType::F16, &[0x00, 0x3c, 0x00, 0xc0][..]));
        let t = TensorProto { data_type: Some(data_type::BFLOAT16), int32_data: vec![0x3f80], ..Default::default() };
        assert_eq!(&read(&t, None).unwrap().data[..], &[0x80, 0x3f]);
    }

    #[test]
    fn refuses_lengths_that_disagree_with_the_shape() {
        let t = TensorProto { dims: vec![3], data_type: Some(data_type::FLOAT), float_data: vec![1.0], ..Default::default() };
        assert_eq!(read(&t, None).unwrap_err().code(), "E0103");
        let t = TensorProto { dims: vec![3], data_type: Some(1), raw_data: Some(Bytes::from_static(&[0; 11])), ..Default::default() };
        assert_eq!(read(&t, None).unwrap_err().code(), "E0103");
        let t = TensorProto { dims: vec![-1], data_type: Some(1), ..Default::default() };
        assert_eq!(read(&t, None).unwrap_err().code(), "E0103");
        let t = TensorProto { dims: vec![i64::MAX, 0], data_type: Some(1), ..Default::default() };
        assert_eq!(read(&t, None).unwrap_err().code(), "E0102");
        let t = TensorProto { data_type: Some(data_type::STRING), ..Default::default() };
        assert_eq!(read(&t, None).unwrap_err().exit_code(), 4);
    }

    #[test]
    fn external_data_stays_in_the_folder() {
        let dir = std::env::temp_dir().join(format!("girih-external-{}", std::process::id()));
        let model = dir.join("model");
        std::fs::create_dir_all(&model).unwrap();
        std::fs::write(model.join("w.bin"), [0u8; 12]).unwrap();
        std::fs::write(dir.join("secret"), [0u8; 12]).unwrap();
        let _ = std::fs::remove_file(model.join("link"));
        #[cfg(unix)]
        std::os::unix::fs::symlink(dir.join("secret"), model.join("link")).unwrap();
        let code = |t: &TensorProto| read(t, Some(&model)).map_or_else(|e| e.code(), |_| "ok");
        assert_eq!(code(&external("w.bin", "4", "8")), "ok");
        assert_eq!(code(&external("./w.bin", "0", "8")), "ok");
        let absolute = dir.join("secret").display().to_string();
        for bad in ["../secret", absolute.as_str(), "link", "", "a\0b", "x/../../secret", "."] {
            assert_eq!(code(&external(bad, "0", "8")), "E0104", "{bad:?}");
        }
        assert_eq!(code(&external("w.bin", "5", "8")), "E0104");
        assert_eq!(code(&external("w.bin", "18446744073709551615", "8")), "E0104");
        assert_eq!(code(&external("w.bin", "x", "8")), "E0104");
        assert_eq!(code(&external("w.bin", "0", "12")), "E0103");
        assert_eq!(code(&external("none.bin", "0", "8")), "E0140");
        assert_eq!(read(&external("w.bin", "0", "8"), None).unwrap_err().code(), "E0104");
        std::fs::remove_dir_all(&dir).unwrap();
    }
}
