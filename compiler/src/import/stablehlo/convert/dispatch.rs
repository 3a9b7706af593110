//! Which handler converts which op.

use super::super::module::Operation;
use super::{Converter, Frame, Parts, Res, elementwise, unsupported};

/// Whether an op ends a block.
pub(super) fn returns(name: &str) -> bool {
    matches!(name, "stablehlo.return" | "func.return" | "mhlo.return" | "sdy.return" | "chlo.return")
}

/// Whether an op works element by element on scalars, so that it may stand in a vectorized body.
pub(super) fn is_elementwise(name: &str) -> bool {
    let Some((dialect, name)) = name.split_once('.') else { return false };
    match dialect {
        "chlo" => true,
        "stablehlo" | "mhlo" => {
            elementwise::unary(name).is_some()
                || elementwise::binary(name).is_some()
                || matches!(
                    name,
                    "compare" | "select" | "clamp" | "convert" | "bitcast_convert" | "reduce_precision" | "complex" | "real" | "imag"
                )
        }
        _ => false,
    }
}

/// Whether an op may be given values that a body's lift made tensors, though it is not elementwise.
fn passes_lifted(name: &str) -> bool {
    const NAMES: [&str; 13] = [
        "constant",
        "reshape",
        "broadcast_in_dim",
        "tuple",
        "get_tuple_element",
        "optimization_barrier",
        "case",
        "if",
        "call",
        "composite",
        "map",
        "while",
        "custom_call",
    ];
    NAMES.contains(&name)
}

impl<'a> Converter<'a> {
    /// Converts an op: one list of parts a result.
    pub(super) fn dispatch(&mut self, frame: &mut Frame<'a>, op: &'a Operation) -> Res<Vec<Parts>> {
        let (dialect, name) = op.name.split_once('.').unwrap_or(("", &op.name));
        if self.lift.is_some() && !is_elementwise(&op.name) && !passes_lifted(name) && op.operands.iter().any(|v| self.is_lifted(frame, *v))
        {
            return unsupported("this op in a region body");
        }
        match dialect {
            "stablehlo" | "mhlo" => self.stablehlo(frame, op, name),
            "chlo" => self.chlo(frame, op, name),
            "func" if name == "call" => self.call_op(frame, op),
            "check" => self.check_op(frame, op, name),
            "interpreter" => self.interpreter_op(frame, op, name),
            "sdy" => match name {
                "sharding_constraint" | "reshard" => self.sharding_op(frame, op),
                "manual_computation" => self.manual_inside(),
                "named_computation" => self.named_computation_op(frame, op),
                "propagation_barrier" => self.identity(frame, op),
                "sharding_group" => Ok(Vec::new()),
                _ => unsupported("this op of the sharding dialect"),
            },
            "" if name == "call" => self.call_op(frame, op),
            _ => unsupported("an op of a dialect that is not supported"),
        }
    }

    fn stablehlo(&mut self, frame: &mut Frame<'a>, op: &'a Operation, name: &str) -> Res<Vec<Parts>> {
        if elementwise::unary(name).is_some() || elementwise::binary(name).is_some() {
            return self.arithmetic(frame, op, name);
        }
        match name {
            "constant" => self.constant_op(op),
            "compare" => self.compare_op(frame, op),
            "select" => self.select_op(frame, op),
            "clamp" => self.clamp_op(frame, op),
            "convert" => self.convert_op(frame, op),
            "bitcast_convert" => self.bitcast_op(frame, op),
            "map" => self.map_op(frame, op),
            "iota" => self.iota_op(frame, op),
            "broadcast_in_dim" => self.broadcast_in_dim_op(frame, op),
            "broadcast" => self.broadcast_op(frame, op),
            "reshape" => self.reshape_op(frame, op),
            "transpose" => self.transpose_op(frame, op),
            "slice" => self.slice_op(frame, op),
            "concatenate" => self.concatenate_op(frame, op),
            "pad" => self.pad_op(frame, op),
            "reverse" => self.reverse_op(frame, op),
            "get_dimension_size" => self.dimension_size_op(frame, op),
            "set_dimension_size" => self.set_dimension_size_op(frame, op),
            "tuple" => self.tuple_op(frame, op),
            "get_tuple_element" => self.tuple_element_op(frame, op),
            "dynamic_reshape" => self.dynamic_reshape_op(frame, op),
            "dynamic_broadcast_in_dim" => self.dynamic_broadcast_op(frame, op),
            "dynamic_iota" => self.dynamic_iota_op(frame, op),
            "dynamic_pad" => self.dynamic_pad_op(frame, op),
            "dynamic_gather" => self.dynamic_gather_op(frame, op),
            "dynamic_conv" => self.dynamic_conv_op(frame, op),
            "real_dynamic_slice" => self.real_dynamic_slice_op(frame, op),
            "dot_general" => self.dot_general_op(frame, op),
            "dot" => self.dot_op(frame, op),
            "convolution" => self.convolution_op(frame, op),
            "reduce" => self.reduce_op(frame, op),
            "reduce_window" => self.reduce_window_op(frame, op),
            "select_and_scatter" => self.select_and_scatter_op(frame, op),
            "gather" => self.gather_op(frame, op),
            "torch_index_select" => self.index_select_op(frame, op),
            "scatter" => self.scatter_op(frame, op),
            "dynamic_slice" => self.dynamic_slice_op(frame, op),
            "dynamic_update_slice" => self.dynamic_update_slice_op(frame, op),
            "sort" => self.sort_op(frame, op),
            "while" => self.while_op(frame, op),
            "case" | "if" => self.case_op(frame, op),
            "call" => self.call_op(frame, op),
            "composite" => self.composite_op(frame, op),
            "custom_call" => self.custom_call_op(frame, op),
            "optimization_barrier" => self.identity(frame, op),
            "all_reduce"
            | "all_gather"
            | "all_to_all"
            | "reduce_scatter"
            | "collective_permute"
            | "collective_broadcast"
            | "cross-replica-sum" => self.collective_op(frame, op),
            "partition_id" | "replica_id" => self.process_id_op(op),
            "infeed" | "outfeed" | "send" | "recv" => {
                unsupported("host I/O in the middle of a program; give the data as arguments and return the results")
            }
            "after_all" | "create_token" => Ok(vec![Parts::new()]),
            _ => self.expanded(frame, op, name),
        }
    }

    /// Functions of one or two operands.
    fn arithmetic(&mut self, frame: &Frame<'a>, op: &'a Operation, name: &str) -> Res<Vec<Parts>> {
        let complex = (0..op.operands.len()).any(|i| self.operand_parts(frame, op, i).is_ok_and(|p| p.len() == 2));
        if complex {
            return self.complex_arithmetic(frame, op, name);
        }
        match (elementwise::unary(name), elementwise::binary(name)) {
            (Some(f), _) => self.unary_op(frame, op, f),
            (_, Some(f)) => self.binary_op(frame, op, f),
            _ => unsupported("this function"),
        }
    }
}
