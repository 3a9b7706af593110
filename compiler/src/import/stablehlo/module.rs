//! A StableHLO module in memory: what the three readers (text, portable bytecode, `HloModuleProto`) make and `convert` takes.
//!
//! The readers differ only in syntax. Each writes the generic form of the StableHLO specification here: `stablehlo.*` or `chlo.*`
//! names without versions, attribute names as in the specification, every attribute spelled out as far as the file does.
//! Values are numbered per function, so that regions can use the values of the scopes around them.

use crate::import::error::Problem;
use girih_ir::newtype_id;
use girih_ir::types::{DType, Dims};
use indexmap::IndexMap;
use std::fmt;
use std::sync::Arc;

newtype_id! {
    /// A value of a function. Printed `%3`.
    ModuleValue, "%"
}

/// An element type as the file names it: all that StableHLO has, of which the IR takes a part.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Element {
    /// One that the IR has.
    Known(DType),
    /// `complex<f32>` or `complex<f64>`, by its part.
    Complex(DType),
    /// One that the IR has not, by its name in the file: `i4`, `f8E3M4`, `!quant.uniform<…>`.
    Other(String),
}

/// The type of a value.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum ModuleType {
    /// A tensor with static extents.
    Tensor {
        /// Extents.
        shape: Dims,
        /// Element.
        element: Element,
    },
    /// A tuple.
    Tuple(Vec<ModuleType>),
    /// `!stablehlo.token`.
    Token,
    /// A tensor of which an extent is not known, or any other type, as the file writes it.
    Other(String),
}

/// A dense tensor of an attribute.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Dense {
    /// Extents.
    pub shape: Dims,
    /// Element.
    pub element: Element,
    /// Little-endian elements in row-major order, `bool` as one byte an element, complex as real and imaginary part;
    /// a single element when `splat`.
    pub bytes: Arc<[u8]>,
    /// Whether `bytes` is one element that stands for all.
    pub splat: bool,
}

/// An attribute.
#[derive(Clone, PartialEq, Debug)]
pub enum ModuleAttr {
    /// A bare key.
    Unit,
    /// `true` or `false`.
    Bool(bool),
    /// `3 : i64`
    Int(i64),
    /// `1.0e-5 : f32`
    Float(f64),
    /// `"text"`
    Text(String),
    /// `@name`
    Symbol(String),
    /// A word: the case of an enumeration, such as `LT` of `#stablehlo<comparison_direction LT>`.
    Word(String),
    /// `array<i64: 1, 2>`, and the rank-1 integer lists of pretty forms.
    Ints(Vec<i64>),
    /// `[a, b]`
    List(Vec<ModuleAttr>),
    /// `{a = 1}`, and structured attributes such as `#stablehlo.gather<offset_dims = [0]>`: fields by their names there.
    Fields(IndexMap<String, ModuleAttr>),
    /// `dense<…> : tensor<…>`
    Dense(Dense),
    /// A type.
    Type(ModuleType),
    /// An attribute of no other kind, as the file writes it.
    Other(String),
}

/// A place in the source: an index into [`Module::places`].
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Default)]
pub struct Place(pub u32);

/// An operation.
#[derive(Clone, PartialEq, Debug)]
pub struct Operation {
    /// `stablehlo.add`, `chlo.erf`, `func.call`, `sdy.sharding_constraint`, `check.expect_eq`; a return is `stablehlo.return` or
    /// `func.return`.
    pub name: String,
    /// Operands.
    pub operands: Vec<ModuleValue>,
    /// Results.
    pub results: Vec<ModuleValue>,
    /// Attributes by name. Convolution dimension numbers are `dimension_numbers` with the fields `input_batch_dimension`,
    /// `input_feature_dimension`, `input_spatial_dimensions`, `kernel_input_feature_dimension`, `kernel_output_feature_dimension`,
    /// `kernel_spatial_dimensions`, `output_batch_dimension`, `output_feature_dimension`, `output_spatial_dimensions`.
    /// Matrices (`padding`, `replica_groups`) are [`ModuleAttr::Dense`]. `func.call` has `callee`.
    pub attrs: IndexMap<String, ModuleAttr>,
    /// Regions; each has one block.
    pub regions: Vec<Block>,
    /// Where it stands.
    pub place: Place,
}

/// A block: parameters, then operations, of which the last returns.
#[derive(Clone, PartialEq, Debug, Default)]
pub struct Block {
    /// Parameters.
    pub params: Vec<ModuleValue>,
    /// Operations in order.
    pub ops: Vec<Operation>,
}

/// A parameter or result of a function.
#[derive(Clone, PartialEq, Debug)]
pub struct Slot {
    /// Its type.
    pub ty: ModuleType,
    /// Its attributes: `tf.aliasing_output`, `jax.result_info`, `sdy.sharding`.
    pub attrs: IndexMap<String, ModuleAttr>,
}

/// A function.
#[derive(Clone, PartialEq, Debug)]
pub struct Function {
    /// Name without `@`.
    pub name: String,
    /// Parameters; their values are the parameters of `body`.
    pub params: Vec<Slot>,
    /// Results.
    pub results: Vec<Slot>,
    /// The type of each value of the function, nested regions included.
    pub types: Vec<ModuleType>,
    /// Its block.
    pub body: Block,
    /// Where it stands.
    pub place: Place,
}

impl Function {
    /// A new value of that type.
    pub fn value(&mut self, ty: ModuleType) -> ModuleValue {
        self.types.push(ty);
        ModuleValue::new(self.types.len() - 1)
    }

    /// The type of a value.
    pub fn ty(&self, value: ModuleValue) -> &ModuleType {
        &self.types[value.index()]
    }
}

/// A module.
#[derive(Clone, PartialEq, Debug, Default)]
pub struct Module {
    /// Name without `@`; may be empty.
    pub name: String,
    /// Attributes: `mhlo.num_partitions`, `mhlo.num_replicas`.
    pub attrs: IndexMap<String, ModuleAttr>,
    /// Functions by name, in order.
    pub functions: IndexMap<String, Function>,
    /// Device meshes by name: axes with their sizes.
    pub meshes: IndexMap<String, Vec<(String, usize)>>,
    /// Texts of the places: `line 12` or `model.py:30`; the first is empty.
    pub places: Vec<String>,
}

impl Module {
    /// The text of a place; empty when nothing is known.
    pub fn place(&self, place: Place) -> &str {
        self.places.get(place.0 as usize).map_or("", String::as_str)
    }
}

/// What one may claim at most. Everything that an untrusted file can make large is held against this before memory is taken.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Limits {
    /// Bytes of the file.
    pub file_bytes: usize,
    /// Operations of all functions together, before calls are inlined.
    pub operations: usize,
    /// Nesting of regions, attributes and types.
    pub depth: usize,
    /// Dimensions of a tensor.
    pub rank: usize,
    /// Elements of a tensor that the file only names.
    pub elements: usize,
}

impl Default for Limits {
    fn default() -> Self {
        Limits { file_bytes: 1 << 31, operations: 4 << 20, depth: 128, rank: 64, elements: 1 << 40 }
    }
}

impl fmt::Display for Element {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Element::Known(d) => write!(f, "{d}"),
            Element::Complex(d) => write!(f, "complex<{d}>"),
            Element::Other(name) => f.write_str(name),
        }
    }
}

impl fmt::Display for ModuleType {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            ModuleType::Tensor { shape, element } => {
                f.write_str("tensor<")?;
                shape.iter().try_for_each(|d| write!(f, "{d}x"))?;
                write!(f, "{element}>")
            }
            ModuleType::Tuple(parts) => {
                let parts: Vec<String> = parts.iter().map(ToString::to_string).collect();
                write!(f, "tuple<{}>", parts.join(", "))
            }
            ModuleType::Token => f.write_str("!stablehlo.token"),
            ModuleType::Other(text) => f.write_str(text),
        }
    }
}

/// The result of a reader.
pub type ReadResult = Result<Module, Problem>;
