//! StableHLO: whole training steps as JAX writes them.
//!
//! Three readers (`text`, `bytecode`, `hlo`) make one [`Module`]; `convert` turns a function of it into a graph.

pub mod bytecode;
pub mod convert;
pub mod expand;
pub mod hlo;
pub mod module;
pub mod text;

use crate::import::error::{ImportError, Problem};
use convert::Imported;
use module::{Limits, Module, ReadResult};
use std::path::Path;

/// How to import a StableHLO module.
#[derive(Clone, Debug, Default)]
pub struct StablehloOptions {
    /// What the file may claim.
    pub limits: Limits,
    /// The function to import; `None` takes `main`, or the first one.
    pub entry: Option<String>,
    /// Whether the checks of a conformance file become outputs, see [`Imported::checks`].
    pub checks: bool,
}

/// The start of MLIR bytecode.
const BYTECODE: &[u8] = b"ML\xefR";

/// Reads a module, whichever form it has: MLIR bytecode (alone or inside a `jax.export` file), text, or a protobuf of HLO.
pub fn read(bytes: &[u8], limits: &Limits) -> ReadResult {
    let head = &bytes[..bytes.len().min(1 << 20)];
    if head.windows(BYTECODE.len()).any(|w| w == BYTECODE) {
        return bytecode::read(bytes, limits);
    }
    if is_text(bytes) { text::read(bytes, limits) } else { hlo::read(bytes, limits) }
}

/// Whether a file is text that could hold a module: no control characters at the start, and a word or sign that begins one.
fn is_text(bytes: &[u8]) -> bool {
    let head = &bytes[..bytes.len().min(4096)];
    let plain = head.iter().all(|b| *b >= 0x20 || matches!(b, b'\n' | b'\r' | b'\t'));
    let start = head.trim_ascii_start();
    plain && (start.is_empty() || start[0].is_ascii_alphabetic() || matches!(start[0], b'#' | b'/' | b'"' | b'!'))
}

/// The function that is imported when none is named.
pub fn default_entry(module: &Module) -> Option<&str> {
    let main = module.functions.get_key_value("main").or_else(|| module.functions.get_index(0));
    main.map(|(name, _)| name.as_str())
}

/// Imports a module from its bytes.
///
/// # Errors
/// [`ImportError::Malformed`] for a damaged file, [`ImportError::Unsupported`] with every op that is not supported.
pub fn import_bytes(bytes: &[u8], options: &StablehloOptions) -> Result<Imported, ImportError> {
    let module = read(bytes, &options.limits).map_err(ImportError::Malformed)?;
    let entry = match (&options.entry, default_entry(&module)) {
        (Some(entry), _) => entry.as_str(),
        (None, Some(entry)) => entry,
        (None, None) => return Err(ImportError::Malformed(Problem::new("E0160", "the module has no function"))),
    };
    convert::convert(&module, entry, options)
}

/// Imports a module file.
///
/// # Errors
/// As [`import_bytes`], and [`ImportError::Io`] when the file cannot be read.
pub fn import_file(path: &Path, options: &StablehloOptions) -> Result<Imported, ImportError> {
    let io = |what: String| ImportError::Io(Problem::new("E0167", format!("cannot read '{}'", path.display())).because(what));
    let size = std::fs::metadata(path).map_err(|e| io(e.to_string()))?.len();
    if size > options.limits.file_bytes as u64 {
        let what = format!("'{}' has {size} bytes, more than the limit of {}", path.display(), options.limits.file_bytes);
        return Err(ImportError::Malformed(Problem::new("E0164", what)));
    }
    let bytes = std::fs::read(path).map_err(|e| io(e.to_string()))?;
    import_bytes(&bytes, options)
}
