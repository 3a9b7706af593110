//! The operators: one file a theme, one line an operator in [`handler`].

pub mod activation;
pub mod attention;
pub mod conv;
pub mod elementwise;
pub mod gather;
pub mod linear;
pub mod loss;
pub mod mask;
pub mod norm;
pub mod optimizer;
pub mod random;
pub mod recurrent;
pub mod reduce;
pub mod resize;
pub mod sequence;
pub mod shape;

use super::build::Builder;
use super::call::{Call, Outputs};

/// Emits one node.
pub type Handler = fn(&mut Builder<'_>, &Call<'_>) -> Outputs;

/// The newest operator set whose changes have been read; newer ones are tried, since most operators never change again.
pub const NEWEST_OPSET: i64 = 27;

macro_rules! table {
    ($($($name:literal)|+ => $handler:path,)*) => {
        /// The handler of an operator of the default domain.
        pub fn handler(op: &str) -> Option<Handler> {
            Some(match op {
                $($($name)|+ => $handler,)*
                _ => return None,
            })
        }

        /// Every operator of the default domain, in alphabetical order.
        pub fn names() -> Vec<&'static str> {
            let mut names = vec![$($($name),+),*];
            names.extend(["If", "Loop", "Scan"]);
            names.sort_unstable();
            names
        }
    };
}

table! {
    "Abs" | "Neg" | "Sign" | "Floor" | "Ceil" | "Round" | "Sqrt" | "Exp" | "Log" | "Sin" | "Cos" | "Tan" | "Asin" | "Acos" | "Atan"
        | "Sinh" | "Cosh" | "Asinh" | "Acosh" | "Atanh" | "Tanh" | "Sigmoid" | "Erf" | "Not" | "BitwiseNot" | "IsNaN" => elementwise::unary,
    "Reciprocal" => elementwise::reciprocal,
    "IsInf" => elementwise::is_inf,
    "Add" | "Sub" | "Mul" | "Div" | "And" | "Or" | "Xor" | "BitwiseAnd" | "BitwiseOr" | "BitwiseXor" => elementwise::binary,
    "Mod" => elementwise::modulo,
    "Pow" => elementwise::pow,
    "BitShift" => elementwise::bit_shift,
    "Equal" | "Less" | "LessOrEqual" | "Greater" | "GreaterOrEqual" => elementwise::compare,
    "Max" | "Min" | "Sum" | "Mean" => elementwise::variadic,
    "Where" => elementwise::select,
    "Clip" => elementwise::clip,
    "Cast" => elementwise::cast,
    "CastLike" => elementwise::cast_like,

    "Relu" | "LeakyRelu" | "ThresholdedRelu" | "Elu" | "Selu" | "Celu" | "HardSigmoid" | "HardSwish" | "Softplus" | "Softsign" | "Mish"
        | "Swish" => activation::activation,
    "Gelu" => activation::gelu,
    "PRelu" => activation::prelu,
    "Shrink" => activation::shrink,

    "Shape" => shape::shape,
    "Size" => shape::size,
    "Reshape" => shape::reshape,
    "Flatten" => shape::flatten,
    "Squeeze" => shape::squeeze,
    "Unsqueeze" => shape::unsqueeze,
    "Transpose" => shape::transpose,
    "Expand" => shape::expand,
    "Identity" => shape::identity,
    "Concat" => shape::concat,
    "Split" => shape::split,
    "Slice" => shape::slice,
    "Tile" => shape::tile,
    "Pad" => shape::pad,
    "CenterCropPad" => shape::center_crop_pad,
    "DepthToSpace" => shape::depth_to_space,
    "SpaceToDepth" => shape::space_to_depth,
    "Constant" => shape::constant,
    "ConstantOfShape" => shape::constant_of_shape,
    "Range" => shape::range,
    "EyeLike" => shape::eye_like,
    "Trilu" => mask::trilu,

    "Gather" => gather::gather,
    "GatherElements" => gather::gather_elements,
    "GatherND" => gather::gather_nd,
    "Scatter" | "ScatterElements" => gather::scatter_elements,
    "ScatterND" => gather::scatter_nd,
    "OneHot" => gather::one_hot,
    "TopK" => gather::top_k,
    "NonZero" => gather::non_zero,
    "Compress" => gather::compress,
    "Unique" => gather::unique,
    "TensorScatter" => gather::tensor_scatter,
    "ReverseSequence" => gather::reverse_sequence,

    "ReduceSum" | "ReduceProd" | "ReduceMax" | "ReduceMin" | "ReduceMean" | "ReduceL1" | "ReduceL2" | "ReduceSumSquare" | "ReduceLogSum"
        | "ReduceLogSumExp" => reduce::reduce,
    "ArgMax" | "ArgMin" => reduce::arg_reduce,
    "Softmax" | "LogSoftmax" | "Hardmax" => reduce::softmax,
    "CumSum" | "CumProd" => reduce::cumulative,

    "MatMul" => linear::matmul,
    "Gemm" => linear::gemm,
    "Einsum" => linear::einsum,

    "Conv" => conv::conv,
    "ConvTranspose" => conv::conv_transpose,
    "MaxPool" => conv::max_pool,
    "AveragePool" => conv::average_pool,
    "LpPool" => conv::lp_pool,
    "GlobalAveragePool" | "GlobalMaxPool" | "GlobalLpPool" => conv::global_pool,
    "MaxUnpool" => conv::max_unpool,
    "Col2Im" => conv::col2im,

    "BatchNormalization" => norm::batch_norm,
    "InstanceNormalization" => norm::instance_norm,
    "LayerNormalization" => norm::layer_norm,
    "RMSNormalization" => norm::rms_norm,
    "GroupNormalization" => norm::group_norm,
    "LRN" => norm::lrn,
    "MeanVarianceNormalization" => norm::mvn,
    "LpNormalization" => norm::lp_norm,

    "Dropout" => random::dropout,
    "RandomUniform" | "RandomUniformLike" | "RandomNormal" | "RandomNormalLike" => random::random,
    "Bernoulli" => random::bernoulli,

    "SoftmaxCrossEntropyLoss" => loss::softmax_cross_entropy,
    "NegativeLogLikelihoodLoss" => loss::nll,

    "Attention" => attention::attention,
    "RotaryEmbedding" => attention::rotary,
    "LinearAttention" => attention::linear_attention,
    "CausalConvWithState" => attention::causal_conv,
    "LSTM" | "GRU" | "RNN" => recurrent::recurrent,

    "Resize" | "Upsample" => resize::resize,
    "GridSample" => resize::grid_sample,

    "SplitToSequence" => sequence::split,
    "SequenceAt" => sequence::at,
    "SequenceConstruct" => sequence::construct,
    "SequenceEmpty" => sequence::empty,
    "SequenceLength" => sequence::length,
    "SequenceInsert" => sequence::insert,
    "SequenceErase" => sequence::erase,
    "ConcatFromSequence" => sequence::concat,
}

/// The handler of an operator of `ai.onnx.preview.training`.
pub fn training_handler(op: &str) -> Option<Handler> {
    Some(match op {
        "Adam" => optimizer::adam,
        "Adagrad" => optimizer::adagrad,
        "Momentum" => optimizer::momentum,
        _ => return None,
    })
}
