//! Batches from files: `.safetensors` and `.npz`.
//!
//! Two forms. *Samples*: named arrays that share their first extent, the number of samples, and are cut into batches of the extent that the model
//! wants; optionally shuffled, in an order that depends on the seed and the epoch only. *Explicit batches*: tensors named `0/x`, `0/labels`,
//! `1/x`, …, one group a step. Element types are converted where the model wants another one, but only if no value changes.

use crate::error::RuntimeError;
use crate::session::Inputs;
use crate::tensors;
use girih_ir::literal::Literal;
use girih_ir::ops::random::Stream;
use girih_ir::tensor::{Data, Tensor};
use girih_ir::types::{DType, Dims, TensorType};
use npyz::npz::NpzArchive;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::fs;
use std::io::Read;
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// The batch that comes next.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
pub struct Cursor {
    /// Times that all data has been seen.
    pub epoch: u64,
    /// Batches of this epoch that have been seen.
    pub batch: u64,
}

/// What happens to samples that do not fill a batch.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum Remainder {
    /// They are left out of this epoch.
    #[default]
    Drop,
    /// The batch is filled up from the epoch's first samples.
    Wrap,
}

/// How a file is read.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct DataOptions {
    /// Shuffles the samples of each epoch; explicit batches keep their order.
    pub shuffle: Option<u64>,
    /// What happens to samples that do not fill a batch.
    pub remainder: Remainder,
    /// Largest number of bytes that a file, or what it unpacks to, may have.
    pub max_bytes: u64,
}

impl Default for DataOptions {
    fn default() -> Self {
        DataOptions { shuffle: None, remainder: Remainder::Drop, max_bytes: 16 << 30 }
    }
}

/// A packed file may not unpack to more than this many times its size, beyond [`FREE_BYTES`].
const MAX_RATIO: u64 = 200;
const FREE_BYTES: u64 = 64 << 20;
/// Entries of an archive.
const MAX_ARRAYS: usize = 1 << 20;

#[derive(Clone, Debug)]
enum Form {
    /// Tensors by batch, in order.
    Explicit(Vec<Inputs>),
    /// Arrays whose first extent is the number of samples, and tensors that are the same in every batch.
    Samples { arrays: BTreeMap<String, Literal>, count: usize, batch: usize },
}

/// The batches of one file for one model.
#[derive(Clone, Debug)]
pub struct Dataset {
    path: PathBuf,
    inputs: Vec<(String, TensorType)>,
    form: Form,
    options: DataOptions,
}

impl Dataset {
    /// Reads a file for a model with these inputs. What the file has beyond them is ignored.
    pub fn open(path: impl AsRef<Path>, inputs: &[(&str, &TensorType)], options: DataOptions) -> Result<Arc<Dataset>, RuntimeError> {
        let path = path.as_ref();
        let tensors = read(path, options.max_bytes)?;
        Dataset::new(path, tensors, inputs, options).map(Arc::new)
    }

    /// The batches of tensors in memory; `path` is the name in messages.
    pub fn new(
        path: &Path,
        tensors: BTreeMap<String, Literal>,
        inputs: &[(&str, &TensorType)],
        options: DataOptions,
    ) -> Result<Dataset, RuntimeError> {
        let wrong = |why: String| RuntimeError::Data { path: path.to_path_buf(), why };
        let numbered = tensors.keys().any(|k| numbered(k).is_some());
        let form = if numbered { explicit(tensors, inputs) } else { samples(tensors, inputs, options.remainder) };
        let inputs = inputs.iter().map(|(n, t)| (n.to_string(), (*t).clone())).collect();
        Ok(Dataset { path: path.to_path_buf(), inputs, form: form.map_err(wrong)?, options })
    }

    /// Batches of an epoch.
    pub fn len(&self) -> u64 {
        match &self.form {
            Form::Explicit(list) => list.len() as u64,
            Form::Samples { count, batch, .. } => match self.options.remainder {
                Remainder::Drop => (count / batch) as u64,
                Remainder::Wrap => count.div_ceil(*batch) as u64,
            },
        }
    }

    /// Whether there is no batch; never, for an opened file.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Samples, when the file holds samples.
    pub fn samples(&self) -> Option<usize> {
        match &self.form {
            Form::Explicit(_) => None,
            Form::Samples { count, .. } => Some(*count),
        }
    }

    /// The batch at a place.
    pub fn batch(&self, cursor: Cursor) -> Result<Inputs, RuntimeError> {
        self.batch_of(cursor, &self.order(cursor.epoch))
    }

    /// Every batch from a place on, epoch after epoch, without end.
    pub fn batches(self: &Arc<Self>, from: Cursor) -> Batches {
        let order = self.order(from.epoch);
        Batches { data: self.clone(), cursor: from, order }
    }

    /// The samples of an epoch in order; empty when that is the file's order.
    fn order(&self, epoch: u64) -> Vec<u32> {
        let (Form::Samples { count, .. }, Some(seed)) = (&self.form, self.options.shuffle) else { return Vec::new() };
        let stream = Stream::new(seed as i64, epoch, 0);
        let mut order: Vec<u32> = (0..*count as u32).collect();
        for i in (1..order.len()).rev() {
            let j = (u128::from(stream.bits64(i as u64)) * (i as u128 + 1)) >> 64;
            order.swap(i, j as usize);
        }
        order
    }

    fn batch_of(&self, cursor: Cursor, order: &[u32]) -> Result<Inputs, RuntimeError> {
        let wrong = |why: String| RuntimeError::Data { path: self.path.clone(), why };
        let mut inputs = Inputs::new();
        for (name, want) in &self.inputs {
            let value = match &self.form {
                Form::Explicit(list) => list.get((cursor.batch % self.len().max(1)) as usize).and_then(|b| b.get(name)).cloned(),
                Form::Samples { arrays, count, batch } => arrays.get(name).map(|a| {
                    if a.ty().shape == want.shape && a.ty().rank() == 0 { a.clone() } else { cut(a, cursor, order, *count, *batch) }
                }),
            };
            let value = value.ok_or_else(|| wrong(format!("batch {} has no `{name}`", cursor.batch)))?;
            inputs.insert(name.clone(), convert(&value, want).map_err(|why| wrong(format!("`{name}`: {why}")))?);
        }
        Ok(inputs)
    }
}

/// Batches one after the other. See [`Dataset::batches`].
#[derive(Clone, Debug)]
pub struct Batches {
    data: Arc<Dataset>,
    cursor: Cursor,
    order: Vec<u32>,
}

impl Batches {
    /// The batch that comes next, for a checkpoint.
    pub fn cursor(&self) -> Cursor {
        self.cursor
    }
}

impl Iterator for Batches {
    type Item = Result<Inputs, RuntimeError>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.cursor.batch >= self.data.len() {
            self.cursor = Cursor { epoch: self.cursor.epoch + 1, batch: 0 };
            self.order = self.data.order(self.cursor.epoch);
        }
        let batch = self.data.batch_of(self.cursor, &self.order);
        self.cursor.batch += 1;
        Some(batch)
    }
}

/// `3/x` → (3, `x`).
fn numbered(key: &str) -> Option<(usize, &str)> {
    let (number, name) = key.split_once('/')?;
    Some((number.parse().ok()?, name))
}

fn explicit(tensors: BTreeMap<String, Literal>, inputs: &[(&str, &TensorType)]) -> Result<Form, String> {
    let mut by_number: BTreeMap<usize, Inputs> = BTreeMap::new();
    for (key, value) in tensors {
        if let Some((number, name)) = numbered(&key) {
            by_number.entry(number).or_default().insert(name.to_string(), value);
        }
    }
    for (expected, (number, batch)) in by_number.iter().enumerate() {
        if *number != expected {
            return Err(format!("batch {expected} is missing; explicit batches are numbered from 0 without gaps"));
        }
        for (name, want) in inputs {
            match batch.get(*name) {
                None => return Err(format!("batch {number} has no `{name}` ({want}); it has {}", names(batch.keys()))),
                Some(l) if l.ty().shape != want.shape => {
                    return Err(format!("`{number}/{name}` is {}, but the model takes {want}", l.ty()));
                }
                Some(_) => {}
            }
        }
    }
    Ok(Form::Explicit(by_number.into_values().collect()))
}

fn names<'a>(keys: impl Iterator<Item = &'a String>) -> String {
    let list: Vec<String> = keys.take(12).map(|k| format!("`{k}`")).collect();
    if list.is_empty() { "no tensors".into() } else { list.join(", ") }
}

fn samples(mut tensors: BTreeMap<String, Literal>, inputs: &[(&str, &TensorType)], remainder: Remainder) -> Result<Form, String> {
    let known = names(tensors.keys());
    let mut arrays = BTreeMap::new();
    let (mut count, mut batch): (Option<(usize, &str)>, Option<(usize, &str)>) = (None, None);
    for (name, want) in inputs {
        let array = tensors.remove(*name).ok_or_else(|| format!("it has no `{name}` ({want}); it has {known}"))?;
        let (have, need) = (&array.ty().shape, &want.shape);
        if need.is_empty() && have.is_empty() {
            arrays.insert(name.to_string(), array);
            continue;
        }
        if have.len() != need.len() || have.get(1..) != need.get(1..) {
            return Err(format!(
                "`{name}` is {}, but the model takes batches of {want}: all extents but the first have to agree",
                array.ty()
            ));
        }
        for (kind, seen, extent) in [("samples", &mut count, have[0]), ("samples a batch", &mut batch, need[0])] {
            match *seen {
                Some((other, first)) if other != extent => {
                    return Err(format!("`{name}` has {extent} {kind}, but `{first}` has {other}"));
                }
                _ => *seen = Some((extent, name)),
            }
        }
        arrays.insert(name.to_string(), array);
    }
    let (Some((count, _)), Some((batch, _))) = (count, batch) else { return Err("the model has no input with a batch dimension".into()) };
    if batch == 0 || count == 0 || (count < batch && remainder == Remainder::Drop) || u32::try_from(count).is_err() {
        return Err(format!("{count} samples do not make a batch of {batch}"));
    }
    Ok(Form::Samples { arrays, count, batch })
}

/// Every tensor of a `.safetensors` or `.npz` file that has, and unpacks to, at most `max_bytes`.
pub fn read(path: &Path, max_bytes: u64) -> Result<BTreeMap<String, Literal>, RuntimeError> {
    let wrong = |why: String| RuntimeError::Data { path: path.to_path_buf(), why };
    let io = |source| RuntimeError::Io { path: path.to_path_buf(), source };
    let size = fs::metadata(path).map_err(io)?.len();
    if size > max_bytes {
        return Err(wrong(format!("it has {size} bytes, more than the limit of {max_bytes}")));
    }
    match path.extension().and_then(|e| e.to_str()) {
        Some("npz") => read_npz(path, size, max_bytes).map_err(wrong),
        Some("safetensors") => tensors::decode(&fs::read(path).map_err(io)?).map_err(wrong),
        _ => Err(wrong("its name ends neither in `.safetensors` nor in `.npz`".into())),
    }
}

/// The samples of one batch.
fn cut(array: &Literal, cursor: Cursor, order: &[u32], count: usize, batch: usize) -> Literal {
    let each = array.bytes().len() / count;
    let mut shape = array.ty().shape.clone();
    shape[0] = batch;
    let first = cursor.batch as usize * batch;
    let mut bytes = Vec::with_capacity(each * batch);
    for i in first..first + batch {
        let i = i % count;
        let sample = order.get(i).map_or(i, |s| *s as usize);
        bytes.extend_from_slice(&array.bytes()[sample * each..(sample + 1) * each]);
    }
    Literal::new(TensorType { dtype: array.ty().dtype, shape }, bytes).expect("every sample has the same size")
}

/// The same values in another element type, or why that cannot be.
fn convert(value: &Literal, want: &TensorType) -> Result<Literal, String> {
    let have = value.ty();
    if have == want {
        return Ok(value.clone());
    }
    if have.shape != want.shape {
        return Err(format!("it is {have}, but the model takes {want}"));
    }
    let wide = Tensor::from_literal(value);
    let converted = wide.convert(want.dtype);
    let back = converted.convert(have.dtype);
    let differs = match (wide.data(), back.data()) {
        (Data::Float(a), Data::Float(b)) => a.iter().zip(b).position(|(x, y)| x != y && !(x.is_nan() && y.is_nan())),
        (Data::Int(a), Data::Int(b)) => a.iter().zip(b).position(|(x, y)| x != y),
        _ => Some(0),
    };
    // Back and forth also keeps values that only wrap around: −1 is no u32.
    let sign = |t: &Tensor| t.floats().into_iter().map(|v| v < 0.0).collect::<Vec<_>>();
    let flipped = || sign(&wide).into_iter().zip(sign(&converted)).position(|(a, b)| a != b);
    match differs.or_else(flipped) {
        None => Ok(converted.to_literal()),
        Some(at) => {
            let v = wide.floats()[at];
            Err(format!("element {at} is {v}, which {} cannot hold; convert the data where rounding is meant", want.dtype))
        }
    }
}

fn npy_dtype(text: &str) -> Option<DType> {
    Some(match text {
        "<f4" => DType::F32,
        "<f2" => DType::F16,
        "<f8" => DType::F64,
        "|i1" | "<i1" => DType::I8,
        "|u1" | "<u1" => DType::U8,
        "<i2" => DType::I16,
        "<u2" => DType::U16,
        "<i4" => DType::I32,
        "<u4" => DType::U32,
        "<i8" => DType::I64,
        "<u8" => DType::U64,
        "|b1" => DType::Bool,
        _ => return None,
    })
}

/// All arrays of an archive. What it claims is checked before memory is taken, and what it unpacks to is bounded.
fn read_npz(path: &Path, size: u64, max_bytes: u64) -> Result<BTreeMap<String, Literal>, String> {
    let text = |e: std::io::Error| format!("it is no npz file: {e}");
    let mut archive = NpzArchive::open(path).map_err(text)?;
    let list: Vec<String> = archive.array_names().map(str::to_string).collect();
    if list.len() > MAX_ARRAYS {
        return Err(format!("it has {} arrays, more than {MAX_ARRAYS}", list.len()));
    }
    let limit = max_bytes.min(FREE_BYTES.max(size.saturating_mul(MAX_RATIO)));
    let mut total = 0u64;
    let mut all = BTreeMap::new();
    for name in list {
        let file = archive.by_name(&name).map_err(|e| format!("array `{name}`: {e}"))?;
        let Some(file) = file else { continue };
        let npyz::DType::Plain(kind) = file.dtype() else { return Err(format!("array `{name}` holds records; save plain arrays")) };
        let dtype = npy_dtype(&kind.to_string());
        let dtype = dtype.ok_or_else(|| format!("array `{name}` has the element type `{kind}`, which is not supported"))?;
        if file.order() == npyz::Order::Fortran && file.shape().iter().filter(|d| **d > 1).count() > 1 {
            return Err(format!("array `{name}` is in Fortran order; save it with `numpy.ascontiguousarray`"));
        }
        let shape: Option<Dims> = file.shape().iter().map(|d| usize::try_from(*d).ok()).collect();
        let bytes = file.shape().iter().try_fold(dtype.size() as u64, |n, d| n.checked_mul(*d));
        let claimed = shape.zip(bytes).filter(|(_, b)| total.saturating_add(*b) <= limit);
        let (shape, bytes) =
            claimed.ok_or_else(|| format!("array `{name}` of {:?} would unpack to more than {limit} bytes", file.shape()))?;
        total += bytes;
        let mut data = Vec::new();
        file.into_inner().take(bytes.saturating_add(1)).read_to_end(&mut data).map_err(|e| format!("array `{name}`: {e}"))?;
        let ty = TensorType { dtype, shape };
        if dtype == DType::Bool {
            data.iter_mut().for_each(|b| *b = u8::from(*b != 0));
        }
        all.insert(name.clone(), Literal::new(ty, data).map_err(|e| format!("array `{name}`: {e}"))?);
    }
    Ok(all)
}

#[cfg(test)]
mod tests {
    use super::*;
    use npyz::WriterBuilder;

    fn ints(shape: &[usize], first: i64) -> Literal {
        let count: usize = shape.iter().product();
        Literal::from_i64(shape, &(first..first + count as i64).collect::<Vec<_>>()).unwrap()
    }

    fn ty(dtype: DType, shape: &[usize]) -> TensorType {
        TensorType::new(dtype, shape)
    }

    fn of(tensors: &[(&str, Literal)], inputs: &[(&str, TensorType)], options: DataOptions) -> Result<Arc<Dataset>, String> {
        let map = tensors.iter().map(|(n, l)| (n.to_string(), l.clone())).collect();
        let inputs: Vec<(&str, &TensorType)> = inputs.iter().map(|(n, t)| (*n, t)).collect();
        Dataset::new(Path::new("data"), map, &inputs, options).map(Arc::new).map_err(|e| e.to_string())
    }

    fn values(l: &Literal) -> Vec<i64> {
        Tensor::from_literal(l).ints()
    }

    fn labels(data: &Arc<Dataset>, count: usize) -> Vec<i64> {
        data.batches(Cursor::default()).take(count).flat_map(|b| values(&b.unwrap()["y"])).collect()
    }

    #[test]
    fn samples_are_cut_shuffled_and_wrapped() {
        let tensors = [("x", ints(&[7, 2], 0)), ("y", ints(&[7], 0))];
        let inputs = [("x", ty(DType::F32, &[3, 2])), ("y", ty(DType::I32, &[3]))];
        let plain = of(&tensors, &inputs, DataOptions::default()).unwrap();
        assert_eq!((plain.len(), plain.samples()), (2, Some(7)));
        assert_eq!(labels(&plain, 3), [0, 1, 2, 3, 4, 5, 0, 1, 2]);
        let batch = plain.batch(Cursor { epoch: 0, batch: 1 }).unwrap();
        assert_eq!(batch["x"].to_f32().unwrap(), [6.0, 7.0, 8.0, 9.0, 10.0, 11.0]);
        let wrap = of(&tensors, &inputs, DataOptions { remainder: Remainder::Wrap, ..DataOptions::default() }).unwrap();
        assert_eq!(labels(&wrap, 3), [0, 1, 2, 3, 4, 5, 6, 0, 1]);
        let shuffled = |seed| {
            of(&tensors, &inputs, DataOptions { shuffle: Some(seed), remainder: Remainder::Wrap, ..DataOptions::default() }).unwrap()
        };
        let mut epoch = labels(&shuffled(1), 3)[..7].to_vec();
        assert_eq!(epoch, labels(&shuffled(1), 3)[..7], "the same seed, the same order");
        assert_ne!(labels(&shuffled(1), 6)[..7], labels(&shuffled(1), 6)[9..16], "another epoch, another order");
        assert_ne!(epoch, labels(&shuffled(2), 3)[..7]);
        epoch.sort_unstable();
        assert_eq!(epoch, [0, 1, 2, 3, 4, 5, 6]);
        let mut rest = shuffled(1).batches(Cursor { epoch: 0, batch: 1 });
        assert_eq!(values(&rest.next().unwrap().unwrap()["y"]), labels(&shuffled(1), 2)[3..], "a resumed run sees what it would have seen");
        assert_eq!(rest.cursor(), Cursor { epoch: 0, batch: 2 });
    }

    #[test]
    fn explicit_batches_come_in_number_order() {
        let tensors: Vec<(String, Literal)> = (0..11).map(|i| (format!("{i}/y"), ints(&[2], i * 10))).collect();
        let tensors: Vec<(&str, Literal)> = tensors.iter().map(|(n, l)| (n.as_str(), l.clone())).collect();
        let inputs = [("y", ty(DType::I64, &[2]))];
        let data = of(&tensors, &inputs, DataOptions { shuffle: Some(3), ..DataOptions::default() }).unwrap();
        assert_eq!(data.len(), 11);
        assert_eq!(labels(&data, 12)[18..], [90, 91, 100, 101, 0, 1]);
        let error = of(&tensors[1..], &inputs, DataOptions::default()).unwrap_err();
        assert!(error.starts_with("E0730") && error.contains("batch 0 is missing"), "{error}");
    }

    #[test]
    fn only_lossless_conversions() {
        let ok = |v: Literal, d| convert(&v, &v.ty().with_dtype(d)).map(|l| values(&l));
        assert_eq!(ok(ints(&[3], -1), DType::I32).unwrap(), [-1, 0, 1]);
        assert_eq!(ok(ints(&[3], 5), DType::F32).unwrap(), [5, 6, 7]);
        for (value, dtype) in [(-1, DType::U64), (-1, DType::U32), (1 << 31, DType::I32), ((1 << 24) + 1, DType::F32), (2, DType::Bool)] {
            assert!(ok(ints(&[1], value), dtype).unwrap_err().contains("element 0"), "{value} to {dtype}");
        }
        let halves = Literal::from_f32(&[2], &[1.0, 0.1]).unwrap();
        assert!(convert(&halves, &ty(DType::F16, &[2])).unwrap_err().contains("element 1"));
        let nan = Literal::from_f32(&[1], &[f32::NAN]).unwrap();
        assert!(convert(&nan, &ty(DType::F64, &[1])).is_ok());
    }

    #[test]
    fn mismatches_are_explained() {
        let inputs = [("x", ty(DType::F32, &[3, 2])), ("y", ty(DType::I32, &[3]))];
        let error = |tensors: &[(&str, Literal)]| of(tensors, &inputs, DataOptions::default()).unwrap_err();
        assert!(error(&[("x", ints(&[7, 2], 0))]).contains("it has no `y` (i32[3])"));
        assert!(error(&[("x", ints(&[7, 3], 0)), ("y", ints(&[7], 0))]).contains("all extents but the first"));
        assert!(error(&[("x", ints(&[7, 2], 0)), ("y", ints(&[8], 0))]).contains("`y` has 8 samples, but `x` has 7"));
        assert!(error(&[("x", ints(&[2, 2], 0)), ("y", ints(&[2], 0))]).contains("2 samples do not make a batch of 3"));
    }

    #[test]
    fn files_of_both_kinds_give_the_same_batches() {
        let dir = tempfile::tempdir().unwrap();
        let (x, y) = (ints(&[4, 3], 0), ints(&[4], 0));
        let safe = dir.path().join("d.safetensors");
        fs::write(&safe, tensors::encode([("x", &x), ("y", &y)]).unwrap()).unwrap();
        let packed = dir.path().join("d.npz");
        let mut npz = npyz::npz::NpzWriter::create(&packed).unwrap();
        for (name, l) in [("x", &x), ("y", &y)] {
            let shape: Vec<u64> = l.ty().shape.iter().map(|d| *d as u64).collect();
            let mut writer = npz.array(name, Default::default()).unwrap().default_dtype().shape(&shape).begin_nd().unwrap();
            writer.extend(values(l)).unwrap();
            writer.finish().unwrap();
        }
        drop(npz);
        let (tx, ty_) = (ty(DType::F32, &[2, 3]), ty(DType::I32, &[2]));
        let inputs = [("x", &tx), ("y", &ty_)];
        let a = Dataset::open(&safe, &inputs, DataOptions::default()).unwrap();
        let b = Dataset::open(&packed, &inputs, DataOptions::default()).unwrap();
        for (p, q) in a.batches(Cursor::default()).zip(b.batches(Cursor::default())).take(5) {
            assert_eq!(p.unwrap(), q.unwrap());
        }
        let small = DataOptions { max_bytes: 64, ..DataOptions::default() };
        assert_eq!(Dataset::open(&safe, &inputs, small).unwrap_err().code(), "E0730");
        let unpacked = DataOptions { max_bytes: fs::metadata(&packed).unwrap().len(), ..DataOptions::default() };
        assert!(Dataset::open(&packed, &inputs, unpacked).is_ok());
        fs::write(&safe, b"nonsense").unwrap();
        assert_eq!(Dataset::open(&safe, &inputs, DataOptions::default()).unwrap_err().code(), "E0730");
        assert_eq!(Dataset::open(dir.path().join("none.npz"), &inputs, DataOptions::default()).unwrap_err().code(), "E0720");
    }

    #[test]
    fn the_corpus_has_batches_that_open() {
        let file = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../shared/corpus/torch/t_mlp/batches.safetensors");
        if !file.exists() {
            println!("skipped: {} is not there", file.display());
            return;
        }
        let tensors = tensors::decode(&fs::read(&file).unwrap()).unwrap();
        let first: Vec<(&str, &TensorType)> = tensors.iter().filter_map(|(k, l)| Some((k.strip_prefix("0/")?, l.ty()))).collect();
        let data = Dataset::open(&file, &first, DataOptions::default()).unwrap();
        assert!(data.len() >= 3);
        assert!(data.batches(Cursor::default()).take(data.len() as usize + 1).all(|b| b.is_ok()));
    }
}
