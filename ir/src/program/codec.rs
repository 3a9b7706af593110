//! The `.girih` container: the one place that knows the binary codecs.
//!
//! ```text
//! 0   magic "\x89GIRIH\r\n"      8 bytes
//! 8   container version          u16
//! 10  codec                      u8: 1 bincode 2 (standard configuration), 2 postcard 1
//! 11  zero                       u8
//! 12  number of sections         u32
//! 16  table                      one entry a section: tag 4 bytes, zero u32, offset u64, length u64, blake3 of the section, 16 bytes
//! …   blake3 of all before       16 bytes
//! …   sections, each at a multiple of 64, the gaps zero
//! ```
//! All numbers are little-endian. Sections: `PROG` the program, `REPL` its replicas, `WIDX` names and types of the weights, `WDAT` their bytes (each tensor
//! at a multiple of 64), `INFO` pairs of strings about the source. The reader trusts nothing: sizes are limited, hashes and unused
//! bytes are checked, nothing decoded is recursive, and the program is validated before it is handed out.
//! bincode is no longer maintained; postcard is compiled in and tested so that the default can change in one line.

use super::wire::{WireLiteral, WireStep};
use super::{Channel, Claim, DieCode, HostTensor, Instr, Program, Replicas, StateShard};
use crate::fused::FusedProgram;
use crate::literal::Literal;
use crate::program::valid::StructureError;
use crate::step::Weights;
use crate::target::Target;
use crate::types::TensorType;
use crate::verify::size_is_sane;
use serde::Serialize;
use serde::de::DeserializeOwned;
use std::sync::Arc;

/// The first bytes of every container.
pub const MAGIC: [u8; 8] = *b"\x89GIRIH\r\n";
/// The container version that is written.
pub const VERSION: u16 = 1;
/// Sections begin at multiples of this.
pub const ALIGNMENT: usize = 64;
/// A decoded section may not be longer than this.
const MAX_SECTION: usize = 256 << 20;
const MAX_SECTIONS: usize = 16;
const ENTRY: usize = 40;
const HEADER: usize = 16;
const HASH: usize = 16;

/// How the sections that are not raw are encoded.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Codec {
    /// bincode 2 in its standard configuration.
    Bincode,
    /// postcard 1.
    Postcard,
}

/// The codec of new files.
pub const DEFAULT_CODEC: Codec = Codec::Bincode;

impl Codec {
    fn id(self) -> u8 {
        match self {
            Codec::Bincode => 1,
            Codec::Postcard => 2,
        }
    }

    fn from_id(id: u8) -> Option<Self> {
        [Codec::Bincode, Codec::Postcard].into_iter().find(|c| c.id() == id)
    }

    fn encode<T: Serialize>(self, value: &T) -> Result<Vec<u8>, CodecError> {
        let unwritable = |why: String| CodecError::Unwritable { why };
        match self {
            Codec::Bincode => bincode::serde::encode_to_vec(value, bincode::config::standard()).map_err(|e| unwritable(e.to_string())),
            Codec::Postcard => postcard::to_stdvec(value).map_err(|e| unwritable(e.to_string())),
        }
    }

    fn decode<T: DeserializeOwned>(self, section: &'static str, bytes: &[u8]) -> Result<T, CodecError> {
        let malformed = |why: String| CodecError::Malformed { section, why };
        let (value, used) = match self {
            Codec::Bincode => {
                let config = bincode::config::standard().with_limit::<MAX_SECTION>();
                bincode::serde::decode_from_slice(bytes, config).map_err(|e| malformed(e.to_string()))?
            }
            Codec::Postcard => {
                let (value, rest) = postcard::take_from_bytes(bytes).map_err(|e| malformed(e.to_string()))?;
                (value, bytes.len() - rest.len())
            }
        };
        if used != bytes.len() {
            return Err(malformed(format!("{} bytes are left over", bytes.len() - used)));
        }
        Ok(value)
    }
}

/// What a `.girih` file holds.
#[derive(Clone, Debug, PartialEq)]
pub struct ProgramFile {
    /// The program.
    pub program: Program,
    /// Initial values of the state, by name.
    pub weights: Weights,
    /// Facts about where it came from, such as `model` and `girih`.
    pub info: Vec<(String, String)>,
}

/// A container that cannot be read or written.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum CodecError {
    /// Not a container.
    #[error("E0401: this is not a .girih file: it does not begin with the magic bytes")]
    Magic,
    /// Made by another version.
    #[error("E0402: the file has container version {found}, and this program reads version {VERSION}; compile the model again")]
    Version {
        /// The version of the file.
        found: u16,
    },
    /// An unknown codec.
    #[error("E0403: the file uses codec {id}, which this program does not have")]
    Codec {
        /// Its id.
        id: u8,
    },
    /// It ends too early, or its table of sections makes no sense.
    #[error("E0404: the file is damaged: {why}")]
    Layout {
        /// What is wrong.
        why: String,
    },
    /// A section has other bytes than were written.
    #[error("E0405: section `{section}` is damaged: its hash does not match; fetch or compile the file again")]
    Hash {
        /// Its tag.
        section: String,
    },
    /// A section does not decode.
    #[error("E0406: section `{section}` is malformed: {why}")]
    Malformed {
        /// Its tag.
        section: &'static str,
        /// The decoder's message.
        why: String,
    },
    /// A section is missing or there twice.
    #[error("E0407: section `{section}` is there {count} times, but has to be there {}", if *.optional { "at most once" } else { "once" })]
    Section {
        /// Its tag.
        section: &'static str,
        /// How often it is there.
        count: usize,
        /// Whether it may be absent.
        optional: bool,
    },
    /// A weight does not lie inside its section.
    #[error("E0408: weight `{name}`: {why}")]
    Weight {
        /// Its name.
        name: String,
        /// What is wrong.
        why: String,
    },
    /// The program does not fit together.
    #[error(transparent)]
    Structure(#[from] StructureError),
    /// The program cannot be written.
    #[error("E0409: the program cannot be written: {why}")]
    Unwritable {
        /// Why.
        why: String,
    },
}

/// A section to be written.
struct Section {
    tag: [u8; 4],
    bytes: Vec<u8>,
}

/// The tables of a program, borrowed for writing.
type Written<'a> = (
    (&'a str, String, WireStep),
    (&'a [DieCode], &'a [Vec<Instr>], &'a [Channel], &'a [HostTensor]),
    (&'a [Vec<StateShard>], &'a [Arc<FusedProgram>], Vec<WireLiteral>, &'a [Claim]),
);

/// The same, read.
type Read = (
    (String, String, WireStep),
    (Vec<DieCode>, Vec<Vec<Instr>>, Vec<Channel>, Vec<HostTensor>),
    (Vec<Vec<StateShard>>, Vec<FusedProgram>, Vec<WireLiteral>, Vec<Claim>),
);

/// The replicas of a program, borrowed for writing: the machine, the grid, and what is sliced.
type WrittenReplicas<'a> = (String, u32, u32, &'a [(u32, u32)], &'a [(u32, u32)]);

/// The same, read.
type ReadReplicas = (String, u32, u32, Vec<(u32, u32)>, Vec<(u32, u32)>);

/// The name, type and place in `WDAT` of a weight.
type WeightEntry = (String, TensorType, u64);

/// Writes a container with the default codec. Equal files give equal bytes.
pub fn write(file: &ProgramFile) -> Result<Vec<u8>, CodecError> {
    write_with(file, DEFAULT_CODEC)
}

/// Writes a container.
pub fn write_with(file: &ProgramFile, codec: Codec) -> Result<Vec<u8>, CodecError> {
    write_parts(&file.program, &file.weights, &file.info, codec)
}

/// Writes a container from its parts.
pub fn write_parts(p: &Program, weights: &Weights, info: &[(String, String)], codec: Codec) -> Result<Vec<u8>, CodecError> {
    p.validate()?;
    let written: Written<'_> = (
        (&p.name, p.target.to_toml(), WireStep::of(&p.step)),
        (&p.dies, &p.streams, &p.channels, &p.host),
        (&p.state, &p.fused, p.literals.iter().map(WireLiteral::of).collect(), &p.claims),
    );
    let mut sections = vec![Section { tag: *b"PROG", bytes: codec.encode(&written)? }];
    if let Some(r) = &p.replicas {
        let replicas: WrittenReplicas<'_> = (r.machine.to_toml(), r.rows, r.cols, &r.inputs, &r.outputs);
        sections.push(Section { tag: *b"REPL", bytes: codec.encode(&replicas)? });
    }
    if !weights.is_empty() {
        let (mut index, mut data): (Vec<WeightEntry>, Vec<u8>) = (Vec::new(), Vec::new());
        for (name, literal) in weights {
            data.resize(data.len().next_multiple_of(ALIGNMENT), 0);
            index.push((name.clone(), literal.ty().clone(), data.len() as u64));
            data.extend_from_slice(literal.bytes());
        }
        sections.push(Section { tag: *b"WIDX", bytes: codec.encode(&index)? });
        sections.push(Section { tag: *b"WDAT", bytes: data });
    }
    if !info.is_empty() {
        sections.push(Section { tag: *b"INFO", bytes: codec.encode(&info)? });
    }
    if let Some(s) = sections.iter().find(|s| s.tag != *b"WDAT" && s.bytes.len() > MAX_SECTION) {
        let why = format!("section `{}` would be {} bytes long", String::from_utf8_lossy(&s.tag), s.bytes.len());
        return Err(CodecError::Unwritable { why });
    }
    Ok(layout(codec, &sections))
}

fn hash(bytes: &[u8]) -> [u8; HASH] {
    let mut out = [0; HASH];
    out.copy_from_slice(&blake3::hash(bytes).as_bytes()[..HASH]);
    out
}

fn layout(codec: Codec, sections: &[Section]) -> Vec<u8> {
    let mut out = Vec::new();
    out.extend(MAGIC);
    out.extend(VERSION.to_le_bytes());
    out.extend([codec.id(), 0]);
    out.extend((sections.len() as u32).to_le_bytes());
    let mut offset = (HEADER + ENTRY * sections.len() + HASH).next_multiple_of(ALIGNMENT);
    for s in sections {
        out.extend(s.tag);
        out.extend([0; 4]);
        out.extend((offset as u64).to_le_bytes());
        out.extend((s.bytes.len() as u64).to_le_bytes());
        out.extend(hash(&s.bytes));
        offset = (offset + s.bytes.len()).next_multiple_of(ALIGNMENT);
    }
    out.extend(hash(&out));
    for s in sections {
        out.resize(out.len().next_multiple_of(ALIGNMENT), 0);
        out.extend_from_slice(&s.bytes);
    }
    out
}

fn damaged<T>(why: impl Into<String>) -> Result<T, CodecError> {
    Err(CodecError::Layout { why: why.into() })
}

/// `N` bytes at a place of the file.
fn bytes_at<const N: usize>(bytes: &[u8], at: usize) -> Result<[u8; N], CodecError> {
    match at.checked_add(N).and_then(|end| bytes.get(at..end)).and_then(|b| b.try_into().ok()) {
        Some(b) => Ok(b),
        None => damaged("it ends inside its header"),
    }
}

/// The codec and the sections of a container, hashes checked.
fn open(bytes: &[u8]) -> Result<(Codec, Vec<([u8; 4], &[u8])>), CodecError> {
    if bytes.get(..8) != Some(&MAGIC) {
        return Err(CodecError::Magic);
    }
    let version = u16::from_le_bytes(bytes_at(bytes, 8)?);
    if version != VERSION {
        return Err(CodecError::Version { found: version });
    }
    let [id, zero] = bytes_at(bytes, 10)?;
    let codec = Codec::from_id(id).ok_or(CodecError::Codec { id })?;
    let count = u32::from_le_bytes(bytes_at(bytes, 12)?) as usize;
    if zero != 0 || count > MAX_SECTIONS {
        return damaged("its header makes no sense");
    }
    let table_end = HEADER + ENTRY * count;
    let head: [u8; HASH] = bytes_at(bytes, table_end)?;
    if head != hash(&bytes[..table_end]) {
        return damaged("the hash of its header does not match");
    }
    let (mut sections, mut end) = (Vec::new(), table_end + HASH);
    for i in 0..count {
        let at = HEADER + ENTRY * i;
        let tag: [u8; 4] = bytes_at(bytes, at)?;
        let numbers = [bytes_at(bytes, at + 8)?, bytes_at(bytes, at + 16)?].map(u64::from_le_bytes);
        let [Ok(start), Ok(len)] = numbers.map(usize::try_from) else { return damaged("a section is too large") };
        let gap = bytes.get(end..start);
        let body = start.checked_add(len).and_then(|stop| bytes.get(start..stop));
        let (Some(gap), Some(body)) = (gap, body) else { return damaged("it ends inside a section") };
        if start != end.next_multiple_of(ALIGNMENT) || gap.iter().any(|b| *b != 0) || bytes_at::<4>(bytes, at + 4)? != [0; 4] {
            return damaged("its sections do not follow each other");
        }
        if hash(body) != bytes_at::<HASH>(bytes, at + 24)? {
            return Err(CodecError::Hash { section: String::from_utf8_lossy(&tag).escape_default().to_string() });
        }
        end = start + len;
        sections.push((tag, body));
    }
    if end != bytes.len() {
        return damaged(format!("{} bytes follow the last section", bytes.len().saturating_sub(end)));
    }
    if let Some((tag, _)) = sections.iter().find(|(t, _)| ![*b"PROG", *b"REPL", *b"WIDX", *b"WDAT", *b"INFO"].contains(t)) {
        return damaged(format!("it has an unknown section `{}`", String::from_utf8_lossy(tag).escape_default()));
    }
    Ok((codec, sections))
}

/// Reads a container. The program is structurally valid, not yet checked.
pub fn read(bytes: &[u8]) -> Result<ProgramFile, CodecError> {
    let (codec, sections) = open(bytes)?;
    let find = |section: &'static str, optional: bool| {
        let found: Vec<&[u8]> = sections.iter().filter(|(t, _)| t == section.as_bytes()).map(|(_, b)| *b).collect();
        match (&found[..], optional) {
            ([], true) => Ok(None),
            ([one], _) if section == "WDAT" || one.len() <= MAX_SECTION => Ok(Some(*one)),
            ([one], _) => Err(CodecError::Malformed { section, why: format!("{} bytes are too many", one.len()) }),
            (more, _) => Err(CodecError::Section { section, count: more.len(), optional }),
        }
    };
    let program = find("PROG", false)?.unwrap_or_default();
    let replicas = find("REPL", true)?.map(|b| codec.decode("REPL", b)).transpose()?;
    let program = read_program(codec.decode("PROG", program)?, replicas)?;
    let weights = match (find("WIDX", true)?, find("WDAT", true)?) {
        (Some(index), Some(data)) => read_weights(codec.decode("WIDX", index)?, data)?,
        (None, None) => Weights::new(),
        (index, _) => {
            let section = if index.is_none() { "WIDX" } else { "WDAT" };
            return Err(CodecError::Section { section, count: 0, optional: false });
        }
    };
    let info = match find("INFO", true)? {
        Some(b) => codec.decode("INFO", b)?,
        None => Vec::new(),
    };
    Ok(ProgramFile { program, weights, info })
}

fn read_program(parts: Read, replicas: Option<ReadReplicas>) -> Result<Program, CodecError> {
    let malformed = |why: String| CodecError::Malformed { section: "PROG", why };
    let ((name, target, step), (dies, streams, channels, host), (state, fused, literals, claims)) = parts;
    let target = Target::from_toml(&target).map_err(|e| malformed(e.to_string()))?;
    let step = step.take().map_err(malformed)?;
    let literals: Vec<Literal> = literals.into_iter().map(|l| l.take().map_err(malformed)).collect::<Result<_, _>>()?;
    let fused = fused.into_iter().map(Arc::new).collect();
    let replicas = match replicas {
        Some((machine, rows, cols, inputs, outputs)) => {
            let unreadable = |e: crate::target::TargetError| CodecError::Malformed { section: "REPL", why: e.to_string() };
            let machine = Target::from_toml(&machine).map_err(unreadable)?;
            Some(Box::new(Replicas { machine, rows, cols, inputs, outputs }))
        }
        None => None,
    };
    let program = Program { name, target, step, dies, streams, channels, host, state, fused, literals, claims, replicas };
    program.validate()?;
    Ok(program)
}

fn read_weights(index: Vec<WeightEntry>, data: &[u8]) -> Result<Weights, CodecError> {
    let mut weights = Weights::new();
    let mut end = 0usize;
    for (name, ty, offset) in index {
        let wrong = |why: &str| CodecError::Weight { name: name.clone(), why: why.to_string() };
        if !size_is_sane(&ty) {
            return Err(wrong("its type is too large"));
        }
        let start = usize::try_from(offset).map_err(|_| wrong("it lies outside its section"))?;
        let body =
            start.checked_add(ty.bytes()).and_then(|stop| data.get(start..stop)).ok_or_else(|| wrong("it lies outside its section"))?;
        if start != end.next_multiple_of(ALIGNMENT) || data[end..start].iter().any(|b| *b != 0) {
            return Err(wrong("it does not follow the weight before"));
        }
        end = start + ty.bytes();
        let literal = Literal::new(ty, body).map_err(|e| wrong(&e.to_string()))?;
        if weights.insert(name.clone(), literal).is_some() {
            return Err(wrong("it is there twice"));
        }
    }
    if end != data.len() {
        return damaged("bytes follow the last weight");
    }
    Ok(weights)
}

#[cfg(test)]
#[path = "codec_tests.rs"]
mod tests;
