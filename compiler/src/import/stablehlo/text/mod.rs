//! The text form of MLIR, as far as StableHLO modules use it.
//!
//! JAX prints pretty forms with generic operations among them, other tools print only generic ones; both become the same
//! [`Module`]: the names and attributes of the specification, dimension numbers and windows complete, one list of values a function.
//! Shardings become fields (`mesh`, `dim_shardings`, `replicated`, `unreduced`), function types `inputs` and `results`, and a
//! parameter whose location is a name has that name as its attribute `loc`.
//!
//! The text is not trusted: sizes are held against [`Limits`] before memory is taken, nesting is counted, and what aliases copy is
//! bounded.

mod alias;
mod attr;
mod control;
mod dense;
mod dialect;
mod error;
mod func;
mod lex;
mod loc;
mod normalize;
mod op;
mod pretty;
#[cfg(test)]
mod tests;
mod types;

use super::module::{Limits, Module, ModuleAttr, ModuleType, ReadResult};
use crate::import::error::Problem;
use lex::Cursor;
use loc::Loc;
use op::Bound;
use rustc_hash::{FxHashMap, FxHashSet};

/// What is known while a text is read.
struct Reader<'a> {
    at: Cursor<'a>,
    limits: Limits,
    module: Module,
    /// Types of the values of the function that is being read.
    types: Vec<ModuleType>,
    names: FxHashMap<&'a str, Bound>,
    /// Names in the order of their definition, so that a region can forget its own.
    scope: Vec<&'a str>,
    operations: usize,
    /// Line and location of each place but the first, which is empty.
    places: Vec<(u32, Option<Loc<'a>>)>,
    /// Locations of parameters by function and position.
    param_locs: Vec<(String, usize, Loc<'a>)>,
    loc_aliases: FxHashMap<&'a str, Loc<'a>>,
    attr_aliases: FxHashMap<&'a str, ModuleAttr>,
    type_aliases: FxHashMap<&'a str, ModuleType>,
    /// Bytes that uses of aliases have copied.
    copied: usize,
    /// Data of `dense_resource` by key, once one is asked for.
    resources: Option<FxHashMap<String, &'a str>>,
    /// Resources that were decoded once.
    used_resources: FxHashSet<String>,
}

impl<'a> Reader<'a> {
    fn new(text: &'a str, limits: &Limits) -> Self {
        Reader {
            at: Cursor::new(text, limits.depth),
            limits: *limits,
            module: Module::default(),
            types: Vec::new(),
            names: FxHashMap::default(),
            scope: Vec::new(),
            operations: 0,
            places: Vec::new(),
            param_locs: Vec::new(),
            loc_aliases: FxHashMap::default(),
            attr_aliases: FxHashMap::default(),
            type_aliases: FxHashMap::default(),
            copied: 0,
            resources: None,
            used_resources: FxHashSet::default(),
        }
    }
}

/// Reads an attribute that stands alone, as other formats quote it.
///
/// # Errors
/// A [`Problem`] as of [`read`].
pub fn read_attribute(text: &str, limits: &Limits) -> Result<ModuleAttr, Problem> {
    let mut reader = Reader::new(text, limits);
    let attr = reader.attr()?;
    if reader.at.at_end() { Ok(attr) } else { Err(reader.at.expected("the end of the attribute")) }
}

/// Reads a module.
///
/// # Errors
/// A [`Problem`] with a code from `E0141` to `E0149`, the line and column, and the line itself.
pub fn read(bytes: &[u8], limits: &Limits) -> ReadResult {
    if bytes.len() > limits.file_bytes {
        return Err(Problem::new(error::LIMIT, format!("the file has {} bytes, and {} are allowed", bytes.len(), limits.file_bytes)));
    }
    let text = std::str::from_utf8(bytes).map_err(|e| {
        let good = std::str::from_utf8(&bytes[..e.valid_up_to()]).unwrap_or_default();
        error::problem(good, good.len(), error::TOKEN, "bytes that are no text", "the file is no UTF-8")
    })?;
    let mut reader = Reader::new(text.strip_prefix('\u{feff}').unwrap_or(text), limits);
    reader.file()?;
    Ok(reader.module)
}
