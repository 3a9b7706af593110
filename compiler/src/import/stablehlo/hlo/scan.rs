//! The walk over the wire format that runs before anything is decoded.
//!
//! Two bytes of an empty instruction become hundreds of bytes of a struct, so the decoder is only called after this walk has counted
//! what it would build. It also tells a bare module from one that is wrapped in an `HloProto`.

use super::proto::{
    AliasEntry, HloComputationProto, HloInstructionProto, LiteralProto, OpMetadata, ScatterDimensionNumbers, ShapeProto, StackFrame,
    WindowDimension,
};
use super::{DAMAGED, damaged, too_large};
use crate::import::error::Problem;
use crate::import::stablehlo::module::Limits;

/// Bytes of decoded structs that are always allowed.
const ALWAYS: u64 = 64 << 20;
/// Bytes of decoded structs for each byte of the file that are allowed beyond that.
const RATIO: u64 = 24;

/// The messages that the walk enters.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Message {
    File,
    Module,
    Computation,
    Instruction,
    Shape,
    Layout,
    Metadata,
    Literal,
    /// A message with leaves of that size only.
    List,
    Leaf,
    Dimensions,
    Frames,
    Frame,
    Alias,
    AliasEntry,
}

impl Message {
    /// The message in that field, if the field is one that the decoder takes.
    fn child(self, field: u64) -> Option<Message> {
        Some(match (self, field) {
            (Message::File, 1) => Message::Module,
            (Message::Module, 3) => Message::Computation,
            (Message::Module, 8 | 18) => Message::Alias,
            (Message::Module, 17) => Message::Frames,
            (Message::Module, 19) | (Message::Instruction, 15 | 21 | 68) => Message::List,
            (Message::Computation, 2) => Message::Instruction,
            (Message::Instruction, 3) | (Message::Literal, 1) | (Message::Shape, 4) => Message::Shape,
            (Message::Instruction, 7) => Message::Metadata,
            (Message::Instruction, 8) => Message::Literal,
            (Message::Instruction, 16 | 30 | 33 | 48) => Message::Dimensions,
            (Message::Instruction, 17 | 49 | 51 | 52 | 59 | 62) | (Message::List, 1) => Message::Leaf,
            (Message::Shape, 5) => Message::Layout,
            (Message::Frames, 3 | 4) => Message::Frame,
            (Message::Alias, 1) => Message::AliasEntry,
            _ => return None,
        })
    }

    /// Bytes of the decoded struct.
    fn size(self) -> u64 {
        let size = match self {
            Message::File | Message::Module => 0,
            Message::Computation => size_of::<HloComputationProto>(),
            Message::Instruction => size_of::<HloInstructionProto>(),
            Message::Shape => size_of::<ShapeProto>(),
            Message::Metadata => size_of::<OpMetadata>(),
            Message::Literal => size_of::<LiteralProto>(),
            Message::Leaf => size_of::<WindowDimension>(),
            Message::Dimensions => size_of::<ScatterDimensionNumbers>(),
            Message::Frame => size_of::<StackFrame>(),
            Message::AliasEntry => size_of::<AliasEntry>(),
            Message::Layout | Message::List | Message::Frames | Message::Alias => 48,
        };
        size as u64
    }

    /// Bytes that the decoder takes for a field of `len` bytes that is no message.
    fn leaf(self, field: u64, len: u64) -> u64 {
        match (self, field) {
            // Packed 32-bit numbers of fixed width and bytes do not grow, varints may grow to eight bytes each.
            (Message::Literal, 8 | 9 | 12 | 18) => len,
            (Message::Literal, 4..=7) | (Message::Shape, 3) => len * 8,
            (Message::Literal, _) => 0,
            _ => 24 + len * 8,
        }
    }
}

/// Whether the bytes are a module that is wrapped in an `HloProto`: both have a first field of bytes, the module's name or the
/// module itself.
pub fn is_wrapped(bytes: &[u8]) -> bool {
    let mut at = 0;
    while at < bytes.len() {
        let Ok(key) = varint(bytes, &mut at, bytes.len()) else { return false };
        let start = at;
        if skip_field(bytes, &mut at, key).is_err() {
            return false;
        }
        if key == 0x0a {
            let mut from = start;
            return varint(bytes, &mut from, at).is_ok() && is_module(&bytes[from..at]);
        }
    }
    false
}

/// Whether the bytes read as the fields of a module with at least one computation.
fn is_module(bytes: &[u8]) -> bool {
    let mut at = 0;
    let mut computations = 0;
    while at < bytes.len() {
        let Ok(key) = varint(bytes, &mut at, bytes.len()) else { return false };
        computations += usize::from(key == 0x1a);
        if skip_field(bytes, &mut at, key).is_err() {
            return false;
        }
    }
    computations > 0
}

fn skip_field(bytes: &[u8], at: &mut usize, key: u64) -> Result<(), Problem> {
    let end = bytes.len();
    match key & 7 {
        _ if key >> 3 == 0 => return Err(damaged(*at, "a field has the number 0")),
        0 => drop(varint(bytes, at, end)?),
        1 => *at = skip(*at, 8, end)?,
        5 => *at = skip(*at, 4, end)?,
        2 => {
            let len = varint(bytes, at, end)?;
            *at = skip(*at, len, end)?;
        }
        _ => return Err(damaged(*at, "an unknown wire type")),
    }
    Ok(())
}

/// Walks the file and refuses what would exceed the limits.
pub fn prescan(bytes: &[u8], wrapped: bool, limits: &Limits) -> Result<(), Problem> {
    // Shapes may nest; everything else is a fixed number of messages deep. The decoder itself stops at 100.
    let deepest = limits.depth.saturating_add(8).min(90);
    let root = if wrapped { Message::File } else { Message::Module };
    let budget = ALWAYS.saturating_add(RATIO.saturating_mul(bytes.len() as u64));
    let (mut decoded, mut instructions) = (0u64, 0usize);
    let mut stack = vec![(root, bytes.len())];
    let mut at = 0;
    while let Some(&(message, end)) = stack.last() {
        if at >= end {
            stack.pop();
            continue;
        }
        let start = at;
        let key = varint(bytes, &mut at, end)?;
        let (field, wire) = (key >> 3, key & 7);
        if field == 0 {
            return Err(damaged(start, "a field has the number 0"));
        }
        match wire {
            0 => {
                varint(bytes, &mut at, end)?;
                decoded += 8;
            }
            1 => at = skip(at, 8, end)?,
            5 => at = skip(at, 4, end)?,
            2 => {
                let len = varint(bytes, &mut at, end)?;
                let stop = skip(at, len, end)?;
                match message.child(field) {
                    Some(child) => {
                        instructions += usize::from(child == Message::Instruction);
                        decoded += child.size();
                        stack.push((child, stop));
                        if stack.len() > deepest {
                            return Err(too_large(format!("messages nest more than {deepest} deep")).at(format!("byte {start}")));
                        }
                    }
                    None => {
                        decoded += message.leaf(field, len);
                        at = stop;
                    }
                }
            }
            _ => return Err(damaged(start, "an unknown wire type")),
        }
        if instructions > limits.operations {
            return Err(too_large(format!("more than {} instructions", limits.operations)).at(format!("byte {start}")));
        }
    }
    if decoded > budget {
        return Err(too_large(format!("its messages would take {decoded} bytes of memory, more than {budget}")));
    }
    if instructions == 0 {
        return Err(Problem::new(DAMAGED, "the file holds no HLO module").because("no computation has an instruction"));
    }
    Ok(())
}

fn skip(at: usize, len: u64, end: usize) -> Result<usize, Problem> {
    let stop = usize::try_from(len).ok().and_then(|len| at.checked_add(len)).filter(|stop| *stop <= end);
    stop.ok_or_else(|| damaged(at, "a field ends behind its message"))
}

fn varint(bytes: &[u8], at: &mut usize, end: usize) -> Result<u64, Problem> {
    let start = *at;
    let mut value = 0u64;
    for shift in (0..70).step_by(7) {
        let byte = *bytes.get(..end).and_then(|b| b.get(*at)).ok_or_else(|| damaged(start, "the file ends inside a number"))?;
        *at += 1;
        if shift == 63 && byte > 1 {
            break;
        }
        value |= u64::from(byte & 0x7f) << shift;
        if byte & 0x80 == 0 {
            return Ok(value);
        }
    }
    Err(damaged(start, "a number is longer than 64 bits"))
}
