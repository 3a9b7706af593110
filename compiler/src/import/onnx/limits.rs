//! Limits on what an untrusted model may claim, and the scan that enforces them before anything is decoded.
//!
//! A megabyte of empty nodes becomes 120 MB of decoded structs, so the decoder is only called after a walk over the wire format has
//! counted what it would build. The walk allocates nothing but a bounded stack.

use super::proto::{AttributeProto, FunctionProto, NodeProto, TensorProto, ValueInfoProto, ValueNoteProto};
use crate::import::error::{ImportError, Problem};

/// Bounds on an imported model. The defaults fit every real model known to us.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ImportLimits {
    /// Bytes of the graph without tensor payloads.
    pub graph_bytes: u64,
    /// Nodes, in all graphs and functions together, before and after inlining and unrolling.
    pub nodes: u64,
    /// Dimensions of a tensor.
    pub rank: usize,
    /// Extent of one dimension.
    pub extent: u64,
    /// Elements of one tensor.
    pub elements: u64,
    /// Nesting of attribute graphs and function calls.
    pub depth: usize,
    /// Bytes of a name.
    pub name_bytes: usize,
    /// Distinct files with external data.
    pub external_files: usize,
    /// Decoded bytes for each byte of the file.
    pub decoded_ratio: u64,
    /// Bytes of constants that the importer may compute while it folds shape arithmetic.
    pub folded_bytes: u64,
}

impl Default for ImportLimits {
    fn default() -> Self {
        ImportLimits {
            graph_bytes: 256 << 20,
            nodes: 1_000_000,
            rank: 16,
            extent: 1 << 31,
            elements: 1 << 40,
            depth: 64,
            name_bytes: 4096,
            external_files: 1024,
            decoded_ratio: 48,
            folded_bytes: 1 << 30,
        }
    }
}

/// What the scan saw.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Scan {
    /// Nodes.
    pub nodes: u64,
    /// Bytes of tensor payloads.
    pub payload: u64,
    /// Bytes that the decoded structs would take.
    pub decoded: u64,
    /// Deepest nesting of messages.
    pub depth: usize,
}

/// The messages that the scan enters.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Message {
    Model,
    Graph,
    Node,
    Attribute,
    Tensor,
    ValueInfo,
    ValueNote,
    Type,
    TensorType,
    Element,
    Shape,
    Function,
    Leaf,
}

impl Message {
    /// The message in that field, if the field is one.
    fn child(self, field: u64) -> Option<Message> {
        Some(match (self, field) {
            (Message::Model, 7) | (Message::Attribute, 6 | 11) => Message::Graph,
            (Message::Model, 25) => Message::Function,
            (Message::Model, 8) | (Message::Function, 9) => Message::Leaf,
            (Message::Graph, 1) | (Message::Function, 7) => Message::Node,
            (Message::Graph, 5) | (Message::Attribute, 5 | 10) => Message::Tensor,
            (Message::Graph, 11 | 12) => Message::ValueInfo,
            (Message::Graph, 13) => Message::ValueNote,
            (Message::Node, 5) | (Message::Function, 11) => Message::Attribute,
            (Message::ValueInfo, 2) | (Message::Element, 1) => Message::Type,
            (Message::Type, 1) => Message::TensorType,
            (Message::Type, 4 | 9) => Message::Element,
            (Message::TensorType, 2) => Message::Shape,
            (Message::Shape, 1) | (Message::Tensor, 13) | (Message::ValueNote, 4) => Message::Leaf,
            _ => return None,
        })
    }

    /// Bytes of the decoded struct.
    fn size(self) -> u64 {
        let size = match self {
            Message::Model | Message::Graph => 0,
            Message::Node => size_of::<NodeProto>(),
            Message::Attribute => size_of::<AttributeProto>(),
            Message::Tensor => size_of::<TensorProto>(),
            Message::ValueInfo => size_of::<ValueInfoProto>(),
            Message::ValueNote => size_of::<ValueNoteProto>(),
            Message::Type | Message::TensorType | Message::Element | Message::Shape => 80,
            Message::Function => size_of::<FunctionProto>(),
            Message::Leaf => 48,
        };
        size as u64
    }
}

/// Walks the wire format of a model and refuses what would exceed the limits.
pub fn prescan(bytes: &[u8], limits: &ImportLimits) -> Result<Scan, ImportError> {
    let mut scan = Scan::default();
    // Each graph level is at most four messages deep (graph, node, attribute, graph); types may nest too.
    let deepest = limits.depth.saturating_mul(3).saturating_add(8).min(96);
    let mut stack = vec![(Message::Model, bytes.len())];
    let mut at = 0;
    while let Some(&(message, end)) = stack.last() {
        if at >= end {
            stack.pop();
            continue;
        }
        let key = varint(bytes, &mut at, end)?;
        let (field, wire) = (key >> 3, key & 7);
        if field == 0 {
            return Err(damaged(at, "a field has the number 0"));
        }
        match wire {
            0 => {
                varint(bytes, &mut at, end)?;
                scan.decoded += 8;
            }
            1 => at = skip(at, 8, end)?,
            5 => at = skip(at, 4, end)?,
            2 => {
                let len = varint(bytes, &mut at, end)?;
                let stop = usize::try_from(len).ok().map_or_else(|| Err(damaged(at, "a length is too large")), |len| skip(at, len, end))?;
                match message.child(field) {
                    Some(child) => {
                        scan.nodes += u64::from(child == Message::Node);
                        scan.decoded += child.size();
                        stack.push((child, stop));
                        scan.depth = scan.depth.max(stack.len());
                        if stack.len() > deepest {
                            return Err(exceeded("nesting of graphs", deepest as u64, "depth"));
                        }
                    }
                    None => {
                        count_leaf(message, field, len, &mut scan);
                        at = stop;
                    }
                }
            }
            _ => return Err(damaged(at, "an unknown wire type")),
        }
        if scan.nodes > limits.nodes {
            return Err(exceeded("number of nodes", limits.nodes, "nodes"));
        }
    }
    let graph_bytes = (bytes.len() as u64).saturating_sub(scan.payload);
    if graph_bytes > limits.graph_bytes {
        return Err(exceeded("size of the graph in bytes", limits.graph_bytes, "graph-bytes"));
    }
    let budget = (16u64 << 20).saturating_add(limits.decoded_ratio.saturating_mul(graph_bytes));
    if scan.decoded > budget {
        return Err(exceeded("memory that the decoded graph would take", budget, "decoded-ratio"));
    }
    Ok(scan)
}

/// Counts a length-delimited field that is not entered: a tensor payload, a string, packed numbers.
fn count_leaf(message: Message, field: u64, len: u64, scan: &mut Scan) {
    match (message, field) {
        (Message::Tensor, 4 | 9 | 10) => scan.payload += len,
        (Message::Tensor, 5 | 7 | 11) => {
            scan.payload += len;
            scan.decoded += len * 7;
        }
        (Message::Attribute, 8) | (Message::Tensor, 1) => scan.decoded += len * 8,
        _ => scan.decoded += 32,
    }
}

fn skip(at: usize, len: usize, end: usize) -> Result<usize, ImportError> {
    at.checked_add(len).filter(|stop| *stop <= end).ok_or_else(|| damaged(at, "a field ends behind its message"))
}

fn varint(bytes: &[u8], at: &mut usize, end: usize) -> Result<u64, ImportError> {
    let mut value = 0u64;
    for shift in (0..70).step_by(7) {
        let byte = *bytes[..end].get(*at).ok_or_else(|| damaged(*at, "the file ends inside a number"))?;
        *at += 1;
        if shift == 63 && byte > 1 {
            return Err(damaged(*at, "a number is longer than 64 bits"));
        }
        value |= u64::from(byte & 0x7f) << shift;
        if byte & 0x80 == 0 {
            return Ok(value);
        }
    }
    Err(damaged(*at, "a number is longer than 64 bits"))
}

fn damaged(at: usize, why: &str) -> ImportError {
    let problem = Problem::new("E0101", "this is not an ONNX model, or it is damaged").at(format!("byte {at}")).because(why);
    ImportError::Malformed(problem.help("export the model again, or check that the file was copied whole"))
}

/// A limit was exceeded; `key` names it for the `--limit` option.
pub fn exceeded(what: &str, limit: u64, key: &str) -> ImportError {
    let problem = Problem::new("E0102", format!("the model exceeds a limit: {what} may be at most {limit}"));
    ImportError::Malformed(problem.help(format!("raise the limit '{key}' if you trust the file")))
}

#[cfg(test)]
mod tests {
    use super::super::proto::{GraphProto, ModelProto};
    use super::*;
    use prost::Message as _;

    fn nested(depth: usize) -> ModelProto {
        let mut graph = GraphProto::default();
        for _ in 0..depth {
            let attribute = AttributeProto { g: Some(Box::new(graph)), ..Default::default() };
            graph = GraphProto { node: vec![NodeProto { attribute: vec![attribute], ..Default::default() }], ..Default::default() };
        }
        ModelProto { graph: Some(graph), ..Default::default() }
    }

    #[test]
    fn counts_nodes_of_nested_graphs() {
        let scan = prescan(&nested(5).encode_to_vec(), &ImportLimits::default()).unwrap();
        assert_eq!(scan.nodes, 5);
    }

    #[test]
    fn knows_names_from_messages() {
        // A symbolic dimension: the name sits where a dimension's extent would.
        let dim = super::super::proto::DimensionProto { dim_param: Some("batch".into()), ..Default::default() };
        let shape = Some(super::super::proto::TensorShapeProto { dim: vec![dim] });
        let tensor_type = Some(super::super::proto::TensorTypeProto { elem_type: Some(1), shape });
        let r#type = Some(super::super::proto::TypeProto { tensor_type, ..Default::default() });
        let input = vec![ValueInfoProto { name: Some("x".into()), r#type }];
        let model = ModelProto { graph: Some(GraphProto { input, ..Default::default() }), ..Default::default() };
        prescan(&model.encode_to_vec(), &ImportLimits::default()).unwrap();
    }

    #[test]
    fn refuses_what_is_too_deep_or_too_much() {
        let limits = ImportLimits::default();
        assert_eq!(prescan(&nested(40).encode_to_vec(), &limits).unwrap_err().code(), "E0102");
        let empty_nodes = [0x0a, 0x00].repeat(500_000);
        let mut model = vec![0x3a];
        prost::encoding::encode_varint(empty_nodes.len() as u64, &mut model);
        model.extend(empty_nodes);
        assert_eq!(prescan(&model, &limits).unwrap_err().code(), "E0102");
    }

    #[test]
    fn refuses_bytes_that_are_no_protobuf() {
        for bytes in [&b"\x00"[..], b"\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff", b"\x3a\x7f", b"\x3a\xff\xff\xff\xff\x0f", b"\x0b"] {
            assert_eq!(prescan(bytes, &ImportLimits::default()).unwrap_err().code(), "E0101", "{bytes:?}");
        }
    }
}
