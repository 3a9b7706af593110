//! The reader of portable artifacts: MLIR bytecode that holds the versioned form of StableHLO (VHLO).
//!
//! ```text
//! bytes ─ find the payload ─ tables (strings, dialects, attributes, types) ─ ir (operations, regions) ─ vhlo (names, attributes) ─ Module
//! ```
//! This is what `jax.export` and `serialize_portable_artifact` write, the only form of StableHLO with a promise of compatibility.
//! A file of `jax.export` wraps the payload in a FlatBuffer; the payload is found by its magic number.

mod cursor;
mod element;
mod ir;
mod tables;
mod value;
mod vhlo;

use super::module::{Limits, ReadResult};
use crate::import::error::Problem;
use cursor::Cursor;

/// The first bytes of the payload.
pub const MAGIC: &[u8; 4] = b"ML\xefR";
/// How far into a file the payload may start.
const SEARCHED: usize = 1 << 20;
/// The newest version of the encoding that is known.
const NEWEST: u64 = 6;

const DAMAGED: &str = "E0150";
const TOO_LARGE: &str = "E0151";
const VERSION: &str = "E0152";
const UNKNOWN: &str = "E0153";
const NOT_PORTABLE: &str = "E0154";
const BROKEN: &str = "E0155";

/// Reads a portable artifact, or a file that has one inside.
pub fn read(bytes: &[u8], limits: &Limits) -> ReadResult {
    if bytes.len() > limits.file_bytes {
        return Err(too_large(&format!("the file has {} bytes, more than {}", bytes.len(), limits.file_bytes)));
    }
    let payload = payload(bytes).ok_or_else(|| damaged(0, "it has no 'ML\u{ef}R', with which MLIR bytecode starts"))?;
    let mut cursor = Cursor::new(payload, 0);
    cursor.take(MAGIC.len())?;
    let version = cursor.varint()?;
    if version > NEWEST {
        let problem = Problem::new(VERSION, format!("the file has version {version} of MLIR's bytecode, this reader knows {NEWEST}"));
        return Err(problem.help("serialize the module for an older version: serialize_portable_artifact(module, '1.0.0')"));
    }
    cursor.terminated()?;
    let tables = tables::Tables::read(cursor, version, limits)?;
    ir::module(tables)
}

/// Where the payload starts and ends. Inside a FlatBuffer its length stands before it.
fn payload(bytes: &[u8]) -> Option<&[u8]> {
    let searched = &bytes[..bytes.len().min(SEARCHED)];
    let start = searched.windows(MAGIC.len()).position(|w| w == MAGIC)?;
    let rest = &bytes[start..];
    let length = start.checked_sub(4).and_then(|at| bytes.get(at..start)).and_then(|b| b.try_into().ok()).map(u32::from_le_bytes);
    Some(length.and_then(|len| rest.get(..len as usize)).filter(|part| part.len() > MAGIC.len()).unwrap_or(rest))
}

/// The bytes are no MLIR bytecode, or were cut off.
fn damaged(offset: usize, why: &str) -> Problem {
    let problem = Problem::new(DAMAGED, "this is no portable artifact of StableHLO, or it is damaged").because(why);
    problem.at(format!("byte {offset} of the bytecode")).help("serialize the module again, or check that the file was copied whole")
}

/// The file asks for too much.
fn too_large(what: &str) -> Problem {
    Problem::new(TOO_LARGE, format!("the module exceeds a limit: {what}")).help("raise the limit if you trust the file")
}

/// A code that this reader does not know.
fn unknown(offset: usize, what: &str) -> Problem {
    let problem = Problem::new(UNKNOWN, format!("the module has {what}, which this reader does not know"));
    problem.at(format!("byte {offset} of the bytecode")).help("serialize the module for an older version of StableHLO, or update girih")
}

/// The bytes can be read, but what they say makes no sense.
fn broken(offset: usize, what: &str) -> Problem {
    let problem = Problem::new(BROKEN, format!("the bytecode contradicts itself: {what}"));
    problem.at(format!("byte {offset} of the bytecode")).help("serialize the module again, or check that the file was copied whole")
}

#[cfg(test)]
mod tests;
