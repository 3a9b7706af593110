//! Case folders: a lowered training step with its inputs, its batches and what it is known to give.
//!
//! `case.json` lists the function's inputs and outputs in order; an output with `feeds_input` is carried into the next step.
//! `inputs.safetensors` has the initial values by name, `batches.safetensors` the batches as `0/batch/x`.

use crate::error::Error;
use crate::files;
use girih_ir::literal::Literal;
use girih_ir::types::TensorType;
use girih_runtime::Inputs;
use girih_runtime::tensors::Reader;
use serde::Deserialize;
use std::fs::File;
use std::path::{Path, PathBuf};

/// What `case.json` says.
#[derive(Debug, Deserialize)]
struct Manifest {
    inputs: Vec<Port>,
    outputs: Vec<Port>,
    #[serde(default)]
    useful_flops_per_step: Option<u64>,
    #[serde(default = "one")]
    num_batches: usize,
}

#[derive(Debug, Deserialize)]
struct Port {
    name: String,
    /// The files may store a scalar with one dimension; this is what it is.
    #[serde(default)]
    shape: Option<Vec<usize>>,
    #[serde(default)]
    feeds_input: Option<usize>,
}

fn one() -> usize {
    1
}

impl Port {
    fn shaped(&self, value: Literal) -> Result<Literal, Error> {
        match &self.shape {
            Some(shape) if shape[..] != value.ty().shape[..] => {
                let ty = TensorType::new(value.ty().dtype, shape.clone());
                Ok(Literal::new(ty, value.bytes())?)
            }
            _ => Ok(value),
        }
    }
}

/// A case folder.
#[derive(Debug)]
pub struct Case {
    folder: PathBuf,
    manifest: Manifest,
}

impl Case {
    /// Reads `case.json` of a folder.
    pub fn open(folder: &Path) -> Result<Case, Error> {
        let path = folder.join("case.json");
        let manifest = serde_json::from_slice(&files::read(&path)?).map_err(|e| Error::Malformed { path, why: e.to_string() })?;
        Ok(Case { folder: folder.to_path_buf(), manifest })
    }

    /// The module of the step.
    pub fn model(&self) -> PathBuf {
        self.folder.join("train_step.mlir")
    }

    /// Which inputs and outputs are carried, by position: `arg0`, `out3`.
    pub fn carried(&self) -> Vec<(String, String)> {
        let fed = self.manifest.outputs.iter().enumerate().filter_map(|(o, port)| Some((port.feeds_input?, o)));
        fed.map(|(i, o)| (format!("arg{i}"), format!("out{o}"))).collect()
    }

    /// Operations of a step that the algorithm needs, if the case says.
    pub fn useful_flops(&self) -> Option<u64> {
        self.manifest.useful_flops_per_step
    }

    fn reader(&self, name: &str) -> Result<(PathBuf, Reader<File>), Error> {
        let path = self.folder.join(name);
        let file = File::open(&path).map_err(|e| Error::reading(&path, e))?;
        let reader = Reader::new(file).map_err(|why| Error::Malformed { path: path.clone(), why })?;
        Ok((path, reader))
    }

    /// Hands the initial value of every input to `take`, one at a time, by position (`arg0`).
    pub fn initial(&self, mut take: impl FnMut(&str, Literal) -> Result<(), Error>) -> Result<(), Error> {
        let (path, mut reader) = self.reader("inputs.safetensors")?;
        for (index, port) in self.manifest.inputs.iter().enumerate() {
            let value = reader.read(&port.name).map_err(|why| Error::Malformed { path: path.clone(), why })?;
            if let Some(value) = value {
                take(&format!("arg{index}"), port.shaped(value)?)?;
            }
        }
        Ok(())
    }

    /// The batches, each by position of the inputs (`arg7`).
    pub fn batches(&self) -> Result<Vec<Inputs>, Error> {
        let (path, mut reader) = self.reader("batches.safetensors")?;
        let read = |k: usize| {
            let mut batch = Inputs::new();
            for (index, port) in self.manifest.inputs.iter().enumerate() {
                let value = reader.read(&format!("{k}/{}", port.name)).map_err(|why| Error::Malformed { path: path.clone(), why })?;
                batch.extend(value.map(|v| (format!("arg{index}"), v)));
            }
            Ok(batch)
        };
        (0..self.manifest.num_batches.max(1)).map(read).collect()
    }
}
