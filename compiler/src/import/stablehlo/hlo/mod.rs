//! The reader of HLO protobufs: what `lowered.compiler_ir('hlo').as_serialized_hlo_module_proto()` and XLA's dumps hold.
//!
//! ```text
//! bytes ─ scan (limits) ─ proto (decode) ─ lower (computations → functions and regions, tuples → values) ─ Module
//! ```
//! HLO has the operations of StableHLO under older names; what differs is structure. Combiners, loop bodies and branches are
//! computations of their own, and everything with several values is a tuple. The module made has regions and no tuples.

mod attrs;
mod lower;
mod proto;
mod scan;
mod shape;
mod sharding;

use super::module::{Limits, ReadResult};
use crate::import::error::Problem;
use bytes::Bytes;
use prost::Message;

/// The file breaks the rules of its format or exceeds a limit.
const DAMAGED: &str = "E0158";
/// The file is sound, but of a kind that is not read.
const UNSUPPORTED: &str = "E0159";

/// Reads an `HloModuleProto`, or an `HloProto` that wraps one.
pub fn read(bytes: &[u8], limits: &Limits) -> ReadResult {
    if bytes.len() > limits.file_bytes {
        return Err(too_large(format!("it has {} bytes, more than {}", bytes.len(), limits.file_bytes)));
    }
    let wrapped = scan::is_wrapped(bytes);
    scan::prescan(bytes, wrapped, limits)?;
    let bytes = Bytes::copy_from_slice(bytes);
    let decoded = if wrapped {
        proto::HloProto::decode(bytes).map(|p| p.hlo_module.unwrap_or_default())
    } else {
        proto::HloModuleProto::decode(bytes)
    };
    let module = decoded.map_err(|e| {
        let problem = Problem::new(DAMAGED, "this is not an HLO module, or it is damaged").because(e.to_string());
        problem.help("dump the module again, or check that the file was copied whole")
    })?;
    lower::lower(&module, limits)
}

fn damaged(at: usize, why: &str) -> Problem {
    let problem = Problem::new(DAMAGED, "this is not an HLO module, or it is damaged").at(format!("byte {at}")).because(why);
    problem.help("dump the module again, or check that the file was copied whole")
}

fn too_large(what: impl Into<String>) -> Problem {
    Problem::new(DAMAGED, format!("the module exceeds a limit: {}", what.into())).help("raise the limit if you trust the file")
}

#[cfg(test)]
mod tests;
