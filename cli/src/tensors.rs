//! Named tensors in files: inputs, outputs and weights.

use crate::error::Error;
use crate::files;
use girih_ir::step::Weights;
use girih_runtime::data::{self, DataOptions};
use girih_runtime::tensors;
use std::path::Path;

/// Reads every tensor of a `.safetensors` or `.npz` file.
pub fn open(path: &Path) -> Result<Weights, Error> {
    Ok(data::read(path, DataOptions::default().max_bytes)?)
}

/// Reads every tensor from the bytes of a `.safetensors` file; the error says what is wrong with them.
pub fn parse(bytes: &[u8]) -> Result<Weights, String> {
    tensors::decode(bytes)
}

/// Writes a `.safetensors` file.
pub fn save(tensors: &Weights, path: &Path) -> Result<(), Error> {
    let bytes = tensors::encode(tensors.iter().map(|(name, l)| (name.as_str(), l)));
    files::write(path, &bytes.map_err(|why| Error::Malformed { path: path.to_path_buf(), why })?)
}
