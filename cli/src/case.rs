//! Case folders: a lowered training step, or a model and its loss, with inputs, batches and what it is known to give.
//!
//! `case.json` lists inputs and outputs in order. Of a lowered step (`train_step.mlir`) these are the function's, by position, and an output
//! with `feeds_input` is carried into the next step; of a model (`model.onnx`) they go by name, with its `labels` and its `loss` beside them.
//! `inputs.safetensors` has the values of the inputs by name, `batches.safetensors` the batches as `0/batch/x`, or without the folder as `0/x`.

use crate::error::Error;
use crate::files;
use girih_compiler::precision::Precision;
use girih_ir::literal::Literal;
use girih_ir::types::TensorType;
use girih_runtime::Inputs;
use girih_runtime::tensors::Reader;
use serde::Deserialize;
use std::collections::BTreeMap;
use std::fs::File;
use std::path::{Path, PathBuf};

/// The file of a lowered step.
const STEP: &str = "train_step.mlir";

/// What `case.json` says.
#[derive(Debug, Deserialize)]
struct Manifest {
    inputs: Vec<Port>,
    /// The inputs that the function has, when lowering dropped some that are not used.
    #[serde(default)]
    kept_inputs: Option<Vec<usize>>,
    #[serde(default)]
    labels: Vec<Port>,
    #[serde(default)]
    params: Option<Params>,
    /// Other names of parameters.
    #[serde(default)]
    tied_params: BTreeMap<String, String>,
    outputs: Vec<Port>,
    #[serde(default)]
    loss: Option<Loss>,
    #[serde(default)]
    useful_flops_per_step: Option<u64>,
    /// The type in which it is trained, in the words of a framework.
    #[serde(default)]
    dtype: Option<String>,
}

/// The loss of a model's outputs.
#[derive(Debug, Deserialize)]
struct Loss {
    #[serde(rename = "type")]
    kind: String,
    #[serde(alias = "prediction")]
    logits: String,
    #[serde(default = "labels")]
    labels: String,
    #[serde(default)]
    ignore_index: Option<i64>,
}

fn labels() -> String {
    "labels".to_string()
}

/// What the framework trains.
#[derive(Debug, Deserialize)]
#[serde(untagged)]
enum Params {
    Listed(Vec<Named>),
    /// Of a lowered step, how many numbers.
    Counted(#[expect(dead_code, reason = "only read, so that the form is accepted")] u64),
}

#[derive(Debug, Deserialize)]
struct Named {
    name: String,
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
    /// Whether it is a lowered step.
    lowered: bool,
}

impl Case {
    /// Reads `case.json` of a folder.
    pub fn open(folder: &Path) -> Result<Case, Error> {
        let path = folder.join("case.json");
        let manifest = serde_json::from_slice(&files::read(&path)?).map_err(|e| Error::Malformed { path, why: e.to_string() })?;
        Ok(Case { folder: folder.to_path_buf(), manifest, lowered: folder.join(STEP).is_file() })
    }

    /// The file of the step or of the model.
    pub fn model(&self) -> PathBuf {
        self.folder.join(if self.lowered { STEP } else { "model.onnx" })
    }

    /// The loss with which the case trains a model, as `--loss` takes it.
    pub fn loss(&self) -> Option<String> {
        let loss = self.manifest.loss.as_ref().filter(|_| !self.lowered)?;
        let ignored = loss.ignore_index.map_or_else(String::new, |i| format!(",ignore_index={i}"));
        Some(format!("{}:output={},labels={}{ignored}", loss.kind, loss.logits, loss.labels))
    }

    /// The precision for which the case was made. A framework may lower parts of a bf16 step in f32, such as a recurrence.
    pub fn precision(&self) -> Option<Precision> {
        match self.manifest.dtype.as_deref()? {
            "bfloat16" => Some(Precision::Bf16),
            "float32" => Some(Precision::F32),
            _ => None,
        }
    }

    /// The names of what a model trains, when the case lists them: in the file, floating-point buffers look like parameters.
    pub fn trainable(&self) -> Option<Vec<String>> {
        let Some(Params::Listed(params)) = &self.manifest.params else { return None };
        let names = params.iter().map(|p| p.name.clone()).chain(self.manifest.tied_params.keys().cloned());
        (!self.lowered && !params.is_empty()).then(|| names.collect())
    }

    /// The samples of a batch of a model, for one whose file leaves that open.
    pub fn batch(&self) -> Option<usize> {
        self.manifest.inputs.first().filter(|_| !self.lowered)?.shape.as_ref()?.first().copied()
    }

    /// What the program calls the inputs, in order, and the labels behind them.
    fn ports(&self) -> impl Iterator<Item = (String, &Port)> {
        let name = |index: usize, port: &Port| {
            if self.lowered { self.position(index).map(|at| format!("arg{at}")) } else { Some(port.name.clone()) }
        };
        let all = self.manifest.inputs.iter().chain(&self.manifest.labels);
        all.enumerate().filter_map(move |(index, port)| Some((name(index, port)?, port)))
    }

    /// Where the function has an input of the list; `None` when lowering dropped it.
    fn position(&self, input: usize) -> Option<usize> {
        self.manifest.kept_inputs.as_ref().map_or(Some(input), |kept| kept.iter().position(|k| *k == input))
    }

    /// Which inputs and outputs are carried, by position: `arg0`, `out3`.
    pub fn carried(&self) -> Vec<(String, String)> {
        let fed = self.manifest.outputs.iter().enumerate().filter_map(|(o, port)| Some((port.feeds_input?, o)));
        fed.filter_map(|(i, o)| Some((format!("arg{}", self.position(i)?), format!("out{o}")))).collect()
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

    /// Hands the value of every input to `take`, one at a time: by position (`arg0`) or name.
    pub fn initial(&self, mut take: impl FnMut(&str, Literal) -> Result<(), Error>) -> Result<(), Error> {
        let (path, mut reader) = self.reader("inputs.safetensors")?;
        for (name, port) in self.ports() {
            let value = reader.read(&port.name).map_err(|why| Error::Malformed { path: path.clone(), why })?;
            if let Some(value) = value {
                take(&name, port.shaped(value)?)?;
            }
        }
        Ok(())
    }

    /// The batches, as many as there are in a row, each by position of the inputs (`arg7`) or name.
    pub fn batches(&self) -> Result<Vec<Inputs>, Error> {
        let (path, mut reader) = self.reader("batches.safetensors")?;
        let mut batches = Vec::new();
        loop {
            let (mut batch, k) = (Inputs::new(), batches.len());
            for (name, port) in self.ports() {
                let short = port.name.strip_prefix("batch/").unwrap_or(&port.name);
                for key in [port.name.as_str(), short] {
                    let value = reader.read(&format!("{k}/{key}")).map_err(|why| Error::Malformed { path: path.clone(), why })?;
                    batch.extend(value.map(|v| (name.clone(), v)));
                }
            }
            if batch.is_empty() {
                return Ok(batches);
            }
            batches.push(batch);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_case_says_its_precision() {
        let of = |dtype: &str| {
            let manifest = serde_json::from_str(&format!(r#"{{"inputs": [], "outputs": []{dtype}}}"#)).unwrap();
            Case { folder: PathBuf::new(), manifest, lowered: true }.precision()
        };
        assert_eq!(of(r#", "dtype": "bfloat16""#), Some(Precision::Bf16));
        assert_eq!(of(r#", "dtype": "float32""#), Some(Precision::F32));
        assert_eq!((of(""), of(r#", "dtype": "int8""#)), (None, None));
    }
}
