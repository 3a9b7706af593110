//! The ops: one file each, one line each in the `ops!` list below.
//!
//! An op's file holds its specification (with numbered constraints), its attributes, and [`OpDef`]: `infer`, `axes`, `eval` and `vjp`.
//! Semantics are StableHLO's where StableHLO has the op. Composite ops also say their expansion into primitives.

use crate::attr::{Attr, AttrError, AttrReader};
use crate::axes::Axes;
use crate::graph::{Graph, ValueId};
use crate::tensor::Tensor;
use crate::types::{TensorType, Type};
use serde::{Deserialize, Serialize};
use smallvec::SmallVec;

/// An op that does not type.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("E0301: {op}: {why}")]
pub struct InferError {
    /// The op's name.
    pub op: &'static str,
    /// Which constraint of its specification is violated, with the types.
    pub why: String,
}

impl InferError {
    /// An error of `op`.
    pub fn new(op: &'static str, why: impl Into<String>) -> Self {
        InferError { op, why: why.into() }
    }
}

/// Why an op has no derivative.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("E0310: {op} has no derivative: {why}")]
pub struct NoVjp {
    /// The op's name.
    pub op: &'static str,
    /// The reason.
    pub why: &'static str,
}

/// What a VJP works with: it emits ops into `graph` and returns one cotangent an operand (`None`: no gradient flows there).
#[derive(Debug)]
pub struct Vjp<'a> {
    /// The graph that is being differentiated and extended.
    pub graph: &'a mut Graph,
    /// The op's operands.
    pub operands: &'a [ValueId],
    /// The op's result (a tuple for multi-result ops).
    pub result: ValueId,
    /// The cotangent of each result component; `None` is zero. At least one is there.
    pub cotangents: &'a [Option<ValueId>],
    /// Which operands need a cotangent; others may be answered with `None`.
    pub wanted: &'a [bool],
}

impl Vjp<'_> {
    /// The cotangent of a single-result op.
    pub fn cotangent(&self) -> ValueId {
        self.cotangents[0].expect("a VJP is called only when a cotangent is there")
    }
}

/// The generic form of an op's attributes, made by [`op_attrs!`](crate::op_attrs).
pub trait OpAttrs: Sized {
    /// The attributes in a fixed order.
    fn attrs(&self) -> Vec<(&'static str, Attr)>;
    /// Reads them back. `name` is the op's name in the text form, for ops that are rows of one table.
    fn from_attrs(name: &str, reader: &AttrReader<'_>) -> Result<Self, AttrError>;
}

/// Everything an op means.
pub trait OpDef: OpAttrs {
    /// All names that this op has in the text form (one, but for table ops).
    const NAMES: &'static [&'static str];
    /// The name of this one.
    fn name(&self) -> &'static str;
    /// The result type for these operand types.
    fn infer(&self, ins: &[&TensorType]) -> Result<Type, InferError>;
    /// The loop nest. Only called on types that `infer` accepted.
    fn axes(&self, ins: &[&TensorType], out: &Type) -> Axes;
    /// The reference meaning: one tensor a result component. Only called on types that `infer` accepted.
    fn eval(&self, ins: &[&Tensor], out: &Type) -> Vec<Tensor>;
    /// Cotangents of the operands, or the reason why there are none.
    fn vjp(&self, cx: &mut Vjp<'_>) -> Result<Vec<Option<ValueId>>, NoVjp>;
}

/// An op that primitives can express.
pub trait Composite: OpDef {
    /// Emits the expansion into primitives and returns one value a result component.
    fn expand(&self, graph: &mut Graph, operands: &[ValueId]) -> Vec<ValueId>;
}

macro_rules! ops {
    (primitive { $($pfile:ident :: $pname:ident),* $(,)? } composite { $($cfile:ident :: $cname:ident),* $(,)? }) => {
        /// An op with its attributes.
        #[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Serialize, Deserialize)]
        pub enum Op {
            $(#[doc = concat!("See [`", stringify!($pfile), "`](mod@", stringify!($pfile), ").")] $pname($pfile::$pname),)*
            $(#[doc = concat!("See [`", stringify!($cfile), "`](mod@", stringify!($cfile), ").")] $cname($cfile::$cname),)*
        }
        $(impl From<$pfile::$pname> for Op { fn from(op: $pfile::$pname) -> Op { Op::$pname(op) } })*
        $(impl From<$cfile::$cname> for Op { fn from(op: $cfile::$cname) -> Op { Op::$cname(op) } })*
        impl Op {
            /// Every op name with the function that reads its attributes.
            pub fn names() -> Vec<&'static str> {
                let mut names = Vec::new();
                $(names.extend(<$pfile::$pname as OpDef>::NAMES);)*
                $(names.extend(<$cfile::$cname as OpDef>::NAMES);)*
                names
            }
            /// The names of the ops that are not composite.
            pub fn primitive_names() -> Vec<&'static str> {
                let mut names = Vec::new();
                $(names.extend(<$pfile::$pname as OpDef>::NAMES);)*
                names
            }
            /// The op of that name with these attributes; `None` when there is no such op.
            pub fn parse(name: &str, attrs: &[(String, Attr)]) -> Option<Result<Op, AttrError>> {
                let reader = AttrReader::new(attrs);
                $(if <$pfile::$pname as OpDef>::NAMES.contains(&name) {
                    return Some(<$pfile::$pname as OpAttrs>::from_attrs(name, &reader).map(Op::$pname));
                })*
                $(if <$cfile::$cname as OpDef>::NAMES.contains(&name) {
                    return Some(<$cfile::$cname as OpAttrs>::from_attrs(name, &reader).map(Op::$cname));
                })*
                None
            }
            /// The name in the text form.
            pub fn name(&self) -> &'static str {
                match self { $(Op::$pname(op) => op.name(),)* $(Op::$cname(op) => op.name(),)* }
            }
            /// The attributes in generic form.
            pub fn attrs(&self) -> Vec<(&'static str, Attr)> {
                match self { $(Op::$pname(op) => op.attrs(),)* $(Op::$cname(op) => op.attrs(),)* }
            }
            /// Whether primitives can express it.
            pub fn is_composite(&self) -> bool {
                match self { $(Op::$pname(_) => false,)* $(Op::$cname(_) => true,)* }
            }
            /// Whether an element of the result follows from the elements at the same place of the operands.
            pub fn is_elementwise(&self) -> bool {
                matches!(self, Op::Unary(_) | Op::Binary(_) | Op::Compare(_) | Op::Select(_) | Op::Convert(_) | Op::BitcastConvert(_))
            }
            /// Emits the expansion of a composite op; `None` for a primitive.
            pub fn expand(&self, graph: &mut Graph, operands: &[ValueId]) -> Option<Vec<ValueId>> {
                let _ = (&graph, operands);
                match self { $(Op::$pname(_) => None,)* $(Op::$cname(op) => Some(op.expand(graph, operands)),)* }
            }
            fn infer_tensors(&self, ins: &[&TensorType]) -> Result<Type, InferError> {
                match self { $(Op::$pname(op) => op.infer(ins),)* $(Op::$cname(op) => op.infer(ins),)* }
            }
            fn axes_tensors(&self, ins: &[&TensorType], out: &Type) -> Axes {
                match self { $(Op::$pname(op) => op.axes(ins, out),)* $(Op::$cname(op) => op.axes(ins, out),)* }
            }
            fn eval_tensors(&self, ins: &[&Tensor], out: &Type) -> Vec<Tensor> {
                match self { $(Op::$pname(op) => op.eval(ins, out),)* $(Op::$cname(op) => op.eval(ins, out),)* }
            }
            /// Cotangents of the operands, or why there are none.
            pub fn vjp(&self, cx: &mut Vjp<'_>) -> Result<Vec<Option<ValueId>>, NoVjp> {
                match self { $(Op::$pname(op) => op.vjp(cx),)* $(Op::$cname(op) => op.vjp(cx),)* }
            }
        }
    };
}

pub mod all_reduce;
pub mod arg_reduce;
pub mod attention;
pub mod attention_grad;
pub mod bitcast_convert;
pub mod broadcast;
pub mod carry;
pub mod composite;
pub mod concat;
pub mod constant;
pub mod convolution;
pub mod cumulative;
pub mod dot_general;
pub mod dynamic_slice;
pub mod dynamic_update_slice;
pub mod elementwise;
pub mod fused;
pub mod gather;
pub mod gelu;
pub mod gelu_grad;
pub mod input;
pub mod iota;
#[cfg(test)]
mod known_answers;
pub mod layer_norm;
pub mod layer_norm_grad;
pub mod log_softmax;
pub mod log_softmax_grad;
pub mod loop_index;
pub mod pad;
pub mod proj;
pub mod random;
pub mod reduce;
pub mod reduce_precision;
pub mod reduce_window;
pub mod repeat;
pub mod reshape;
pub mod reverse;
pub mod rms_norm;
pub mod rms_norm_grad;
pub mod round_to;
pub mod samples;
pub mod scatter;
pub mod select_and_scatter;
pub mod shard;
pub mod silu;
pub mod silu_grad;
pub mod slice;
pub mod softmax;
pub mod softmax_grad;
pub mod sort;
#[cfg(test)]
mod tests;
pub mod top_k;
pub mod transpose;
pub mod while_loop;
pub mod window;

ops! {
    primitive {
        input::Input, constant::Constant, proj::Proj,
        elementwise::Unary, elementwise::Binary, elementwise::Compare, elementwise::Select, elementwise::Convert,
        broadcast::Broadcast, reshape::Reshape, transpose::Transpose,
        reduce::Reduce, dot_general::DotGeneral,
        slice::Slice, pad::Pad, concat::Concat, reverse::Reverse, iota::Iota,
        convolution::Convolution, reduce_window::ReduceWindow, select_and_scatter::SelectAndScatter,
        gather::Gather, scatter::Scatter, dynamic_slice::DynamicSlice, dynamic_update_slice::DynamicUpdateSlice,
        arg_reduce::ArgReduce, cumulative::Cumulative, sort::Sort, top_k::TopK,
        random::Random, fused::Fused,
        shard::Shard, carry::Carry, loop_index::LoopIndex, repeat::Repeat, while_loop::While,
        bitcast_convert::BitcastConvert,
        all_reduce::AllReduce,
    }
    composite {
        softmax::Softmax,
        softmax_grad::SoftmaxGrad,
        log_softmax::LogSoftmax,
        log_softmax_grad::LogSoftmaxGrad,
        layer_norm::LayerNorm,
        layer_norm_grad::LayerNormGrad,
        rms_norm::RmsNorm,
        rms_norm_grad::RmsNormGrad,
        gelu::Gelu,
        gelu_grad::GeluGrad,
        silu::Silu,
        silu_grad::SiluGrad,
        reduce_precision::ReducePrecision,
        round_to::RoundTo,
        attention::Attention,
        attention_grad::AttentionGrad,
    }
}

impl Op {
    /// The result type for these operand types. Only `proj` reads a tuple.
    pub fn infer(&self, ins: &[&Type]) -> Result<Type, InferError> {
        if let Op::Proj(p) = self {
            return p.component(ins);
        }
        let tensors: Option<SmallVec<[&TensorType; 4]>> = ins.iter().map(|t| t.as_tensor()).collect();
        let tensors = tensors.ok_or_else(|| InferError::new(self.name(), "(C0) operands are tensors; take a tuple apart with `proj`"))?;
        self.infer_tensors(&tensors)
    }

    /// The loop nest for these operand types. For `proj`, the nest that copies the component.
    pub fn axes(&self, ins: &[&Type], out: &Type) -> Axes {
        if let (Op::Proj(p), Some(t)) = (self, ins.first()) {
            return Axes::elementwise(&t.components()[p.index].shape, 1, 0);
        }
        let tensors: SmallVec<[&TensorType; 4]> = ins.iter().map(|t| &t.components()[0]).collect();
        self.axes_tensors(&tensors, out)
    }

    /// The reference meaning: one tensor a result component. `proj` is the interpreter's own business.
    pub fn eval(&self, ins: &[&Tensor], out: &Type) -> Vec<Tensor> {
        self.eval_tensors(ins, out)
    }
}
