//! The verifier of graphs that came from anywhere: a file, another process, a text.
//!
//! A graph built through [`Graph::add`] is well-typed already. One that was deserialized may be anything; after [`verify`] accepted it,
//! every pass, the interpreter and the printer may rely on it.

use crate::attr::Attr;
use crate::fused::ProgramError;
use crate::graph::{Graph, Node, ValueId};
use crate::literal::Literal;
use crate::ops::{InferError, Op};
use crate::types::{DType, TensorType, Type};
use rustc_hash::FxHashMap;
use std::fmt;

/// Most dimensions of a tensor.
pub const MAX_RANK: usize = 16;
/// Most bytes of a tensor, as if its empty dimensions had extent 1.
pub const MAX_BYTES: usize = 1 << 46;
/// Largest magnitude in a list of integers.
pub const MAX_ATTR_INT: usize = 1 << 46;
/// Deepest nesting of regions.
pub const MAX_REGION_DEPTH: usize = 16;

/// What is wrong with a graph.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum VerifyErrorKind {
    /// An operand is not made by an earlier node.
    #[error("E0240: operand {operand} is not made before it")]
    Order {
        /// The operand.
        operand: ValueId,
    },
    /// The recorded type is not the inferred one.
    #[error("E0241: it is recorded as {stored}, but its op makes {inferred}")]
    Type {
        /// In the graph.
        stored: Type,
        /// By the op.
        inferred: Type,
    },
    /// The op does not type.
    #[error("E0242: {0}")]
    Infer(InferError),
    /// Inputs and `input` nodes do not match.
    #[error("E0243: {why}")]
    Input {
        /// How.
        why: &'static str,
    },
    /// Two inputs or two outputs of one name.
    #[error("E0244: the name `{name}` is given to two {what}")]
    Name {
        /// The name.
        name: String,
        /// Inputs or outputs.
        what: &'static str,
    },
    /// An output that is no tensor of the graph.
    #[error("E0245: output `{name}` is no tensor of the graph")]
    Output {
        /// Its name.
        name: String,
    },
    /// A malformed fused program.
    #[error("E0246: {0}")]
    Program(ProgramError),
    /// A size beyond what the compiler computes with.
    #[error("E0247: {what} is beyond the limit of {limit}")]
    Size {
        /// What.
        what: &'static str,
        /// The limit.
        limit: usize,
    },
    /// Loops that make no sense.
    #[error("{0}")]
    Loop(crate::graph::loops::LoopError),
    /// A region that is wrong.
    #[error("E0248: in its region, {0}")]
    Region(Box<VerifyError>),
    /// Two nodes that are the same.
    #[error("E0249: it repeats {first}; equal nodes are one value")]
    Repeated {
        /// The first of them.
        first: ValueId,
    },
    /// A constant with wrong bytes.
    #[error("E0239: its constant of type {ty} {why}")]
    Literal {
        /// The claimed type.
        ty: TensorType,
        /// What is wrong.
        why: &'static str,
    },
}

/// An error of the verifier.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct VerifyError {
    /// The value, when one is to blame.
    pub value: Option<ValueId>,
    /// Its op.
    pub op: &'static str,
    /// Where it came from in the source model; may be empty.
    pub origin: String,
    /// What is wrong.
    pub kind: VerifyErrorKind,
}

impl fmt::Display for VerifyError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.kind)?;
        if let Some(v) = self.value {
            write!(f, "\n  at {v} = {}", self.op)?;
            if !self.origin.is_empty() {
                write!(f, ", from {:?}", self.origin)?;
            }
        }
        Ok(())
    }
}

impl std::error::Error for VerifyError {}

/// Whether a type is within the size limits.
pub fn size_is_sane(ty: &TensorType) -> bool {
    let bytes = ty.shape.iter().try_fold(ty.dtype.size(), |n, d| n.checked_mul((*d).max(1)));
    ty.rank() <= MAX_RANK && bytes.is_some_and(|n| n <= MAX_BYTES)
}

/// Checks everything that the rest of the compiler takes for granted.
pub fn verify(graph: &Graph) -> Result<(), VerifyError> {
    names(graph)?;
    structure(graph, 0)
}

fn names(graph: &Graph) -> Result<(), VerifyError> {
    let check = |names: Vec<(&str, ValueId)>, what| {
        let mut sorted = names;
        sorted.sort_unstable();
        match sorted.windows(2).find(|w| w[0].0 == w[1].0) {
            Some(w) => Err(plain(VerifyErrorKind::Name { name: w[0].0.to_string(), what })),
            None => Ok(()),
        }
    };
    check(graph.inputs.iter().map(|i| (i.name.as_str(), i.value)).collect(), "inputs")?;
    check(graph.outputs.iter().map(|o| (o.name.as_str(), o.value)).collect(), "outputs")
}

fn plain(kind: VerifyErrorKind) -> VerifyError {
    VerifyError { value: None, op: "", origin: String::new(), kind }
}

fn structure(graph: &Graph, depth: usize) -> Result<(), VerifyError> {
    if graph.nodes().len() >= u32::MAX as usize {
        return Err(plain(VerifyErrorKind::Size { what: "the number of values", limit: u32::MAX as usize }));
    }
    let mut seen: FxHashMap<(&Op, &[ValueId]), ValueId> = FxHashMap::default();
    for (v, n) in graph.values().zip(graph.nodes()) {
        let at = |kind| VerifyError { value: Some(v), op: n.op.name(), origin: graph.origin(v).to_string(), kind };
        node(graph, v, n, depth).map_err(at)?;
        if let Some(first) = seen.insert((&n.op, &n.operands), v) {
            return Err(at(VerifyErrorKind::Repeated { first }));
        }
    }
    for o in &graph.outputs {
        if graph.nodes().get(o.value.index()).is_none_or(|n| n.ty.as_tensor().is_none()) {
            return Err(plain(VerifyErrorKind::Output { name: o.name.clone() }));
        }
    }
    inputs(graph)?;
    match crate::graph::loops::LoopNest::of(graph) {
        Ok(_) => Ok(()),
        Err(e) => Err(VerifyError {
            value: Some(e.value),
            op: graph.node(e.value).op.name(),
            origin: graph.origin(e.value).to_string(),
            kind: VerifyErrorKind::Loop(e),
        }),
    }
}

fn inputs(graph: &Graph) -> Result<(), VerifyError> {
    let fail = |why| Err(plain(VerifyErrorKind::Input { why }));
    for (index, i) in graph.inputs.iter().enumerate() {
        match graph.nodes().get(i.value.index()).map(|n| &n.op) {
            Some(Op::Input(op)) if op.index == index => {}
            _ => return fail("a named input is not the `input` node of its position"),
        }
    }
    if graph.inputs.windows(2).any(|w| w[0].value >= w[1].value) {
        return fail("the inputs are not in the order of their values");
    }
    if graph.nodes().iter().filter(|n| matches!(n.op, Op::Input(_))).count() != graph.inputs.len() {
        return fail("there is an `input` node that is no named input");
    }
    Ok(())
}

fn node(graph: &Graph, v: ValueId, n: &Node, depth: usize) -> Result<(), VerifyErrorKind> {
    if let Some(operand) = n.operands.iter().find(|o| **o >= v) {
        return Err(VerifyErrorKind::Order { operand: *operand });
    }
    for (_, value) in n.op.attrs() {
        attribute(&value, depth)?;
    }
    if !n.ty.components().iter().all(size_is_sane) {
        return Err(VerifyErrorKind::Size { what: "the bytes or dimensions of its type", limit: MAX_BYTES });
    }
    if let Op::Input(_) = n.op {
        let ok = n.operands.is_empty() && n.ty.as_tensor().is_some();
        return if ok { Ok(()) } else { Err(VerifyErrorKind::Input { why: "an `input` has no operands and is a tensor" }) };
    }
    let types: Vec<&Type> = n.operands.iter().map(|o| graph.ty(*o)).collect();
    let inferred = n.op.infer(&types).map_err(VerifyErrorKind::Infer)?;
    if inferred != n.ty {
        return Err(VerifyErrorKind::Type { stored: n.ty.clone(), inferred });
    }
    Ok(())
}

fn attribute(value: &Attr, depth: usize) -> Result<(), VerifyErrorKind> {
    let sane = |list: &[i64]| list.iter().all(|i| i.unsigned_abs() <= MAX_ATTR_INT as u64);
    let lists_ok = match value {
        Attr::Ints(l) => sane(l),
        Attr::Lists(ls) => ls.iter().all(|l| sane(l)),
        Attr::Literal(l) => return literal(l),
        Attr::Program(p) => return p.types().map(|_| ()).map_err(VerifyErrorKind::Program),
        Attr::Region(_) if depth + 1 >= MAX_REGION_DEPTH => {
            return Err(VerifyErrorKind::Size { what: "the nesting of regions", limit: MAX_REGION_DEPTH });
        }
        Attr::Region(g) => return structure(g, depth + 1).map_err(|e| VerifyErrorKind::Region(Box::new(e))),
        Attr::Bool(_) | Attr::Int(_) | Attr::Float(_) | Attr::Word(_) | Attr::DType(_) => true,
    };
    if lists_ok { Ok(()) } else { Err(VerifyErrorKind::Size { what: "a number of an attribute", limit: MAX_ATTR_INT }) }
}

fn literal(l: &Literal) -> Result<(), VerifyErrorKind> {
    let fail = |why| Err(VerifyErrorKind::Literal { ty: l.ty().clone(), why });
    if !size_is_sane(l.ty()) || l.ty().bytes() != l.bytes().len() {
        return fail("has another number of bytes than its type needs");
    }
    if l.ty().dtype == DType::Bool && l.bytes().iter().any(|b| *b > 1) {
        return fail("has a truth value that is neither 0 nor 1");
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::graph::random::random_graph;

    fn broken(how: &str) -> String {
        let g = crate::text::parse_graph(
            "graph @g(%0: f32[2] input \"x\") { %1 = neg %0 : f32[2] %2 = add %0, %1 : f32[2] @\"here\" return %2 \"y\" }",
        );
        verify(&tampered(&g.unwrap(), how)).expect_err("it is broken").to_string()
    }

    /// Changes a graph behind the back of `add`, through its serialized form.
    fn tampered(g: &Graph, what: &str) -> Graph {
        let config = bincode::config::standard();
        let bytes = bincode::serde::encode_to_vec(g, config).unwrap();
        let (mut g, _): (Graph, usize) = bincode::serde::decode_from_slice(&bytes, config).unwrap();
        match what {
            "output" => g.outputs[0].value = ValueId(9),
            "input" => g.inputs[0].value = ValueId(1),
            "name" => g.output("y", ValueId(1)),
            "unlisted" => g.inputs.clear(),
            _ => {}
        }
        g
    }

    #[test]
    fn tampering_is_found() {
        for (how, code) in [("output", "E0245"), ("input", "E0243"), ("name", "E0244"), ("unlisted", "E0243")] {
            assert!(broken(how).starts_with(code), "{}", broken(how));
        }
    }

    #[test]
    fn random_graphs_verify_after_a_round_trip_through_bytes() {
        let config = bincode::config::standard();
        for seed in 0..60 {
            let g = random_graph(seed, 25);
            assert_eq!(verify(&g), Ok(()), "{g}");
            let bytes = bincode::serde::encode_to_vec(&g, config).unwrap();
            let (back, _): (Graph, usize) = bincode::serde::decode_from_slice(&bytes, config).unwrap();
            assert_eq!(verify(&back), Ok(()));
            assert_eq!(back, g);
        }
    }

    #[test]
    fn flipped_bytes_never_panic() {
        let config = bincode::config::standard().with_limit::<{ 1 << 16 }>();
        for seed in 0..20 {
            let g = random_graph(seed, 12);
            let bytes = bincode::serde::encode_to_vec(&g, config).unwrap();
            for at in (0..bytes.len()).step_by(3) {
                let mut bad = bytes.clone();
                bad[at] = bad[at].wrapping_add(1 + seed as u8);
                if let Ok((back, _)) = bincode::serde::decode_from_slice::<Graph, _>(&bad, config)
                    && verify(&back).is_ok()
                {
                    let text = back.to_string();
                    assert_eq!(crate::text::parse_graph(&text).map(|g| g.to_string()), Ok(text));
                }
            }
        }
    }
}
