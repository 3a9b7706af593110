//! The tables of the file: strings, dialects with their operations, attributes, types and properties.

use super::cursor::{Cursor, within};
use super::{broken, damaged, too_large, unknown};
use crate::import::error::Problem;
use crate::import::stablehlo::module::Limits;

/// Numbers of the sections.
const STRINGS: u8 = 0;
const DIALECTS: u8 = 1;
const ENTRIES: u8 = 2;
const OFFSETS: u8 = 3;
/// The section with the operations; a region that is isolated has one of its own.
pub const IR: u8 = 4;
const DIALECT_VERSION: u8 = 7;
const PROPERTIES: u8 = 8;
const SECTIONS: usize = 9;

/// An attribute or type as the file has it.
#[derive(Clone, Copy)]
pub struct Entry<'a> {
    pub dialect: u32,
    /// Whether the dialect encodes it; otherwise it is text.
    pub encoded: bool,
    pub bytes: Cursor<'a>,
}

/// The name of an operation.
pub struct OpName<'a> {
    pub dialect: u32,
    /// Without the dialect.
    pub name: &'a str,
    /// Whether the writer knew the operation; only then its properties are in the form of the dialect.
    pub registered: bool,
}

/// The tables.
pub struct Tables<'a> {
    pub limits: &'a Limits,
    pub version: u64,
    pub strings: Vec<&'a [u8]>,
    pub dialects: Vec<&'a str>,
    pub ops: Vec<OpName<'a>>,
    pub attrs: Vec<Entry<'a>>,
    pub types: Vec<Entry<'a>>,
    pub properties: Vec<Cursor<'a>>,
    pub ir: Cursor<'a>,
}

impl<'a> Tables<'a> {
    /// Reads all sections behind the header.
    pub fn read(mut cursor: Cursor<'a>, version: u64, limits: &'a Limits) -> Result<Self, Problem> {
        let mut sections: [Option<Cursor<'a>>; SECTIONS] = [None; SECTIONS];
        let end = cursor.offset() + cursor.left();
        while cursor.left() > 0 {
            let offset = cursor.offset();
            // Behind a payload in another file there may be bytes of that file.
            let complete = [STRINGS, DIALECTS, ENTRIES, OFFSETS, IR].iter().all(|id| sections[*id as usize].is_some());
            let section = match cursor.section() {
                Ok(section) => section,
                Err(_) if complete => break,
                Err(problem) => return Err(problem),
            };
            match sections.get_mut(section.id as usize) {
                Some(slot @ None) => *slot = Some(section.data),
                _ if complete => break,
                Some(Some(_)) => return Err(damaged(offset, &format!("the section {} stands twice", section.id))),
                None => return Err(damaged(offset, &format!("there is no section {}", section.id))),
            }
        }
        let need = |id: u8| sections[id as usize].ok_or_else(|| damaged(end, &format!("the section {id} is missing")));
        let mut tables = Tables {
            limits,
            version,
            strings: strings(need(STRINGS)?)?,
            dialects: vec![],
            ops: vec![],
            attrs: vec![],
            types: vec![],
            properties: vec![],
            ir: need(IR)?,
        };
        tables.read_dialects(need(DIALECTS)?)?;
        tables.read_entries(need(ENTRIES)?, need(OFFSETS)?)?;
        if let Some(section) = sections[PROPERTIES as usize] {
            tables.properties = properties(section)?;
        }
        Ok(tables)
    }

    /// The string with that number.
    pub fn string(&self, index: usize, offset: usize) -> Result<&'a str, Problem> {
        let bytes = self.strings.get(index).ok_or_else(|| broken(offset, &format!("string {index} does not exist")))?;
        std::str::from_utf8(bytes).map_err(|_| damaged(offset, "a text is no UTF-8"))
    }

    fn read_dialects(&mut self, mut c: Cursor<'a>) -> Result<(), Problem> {
        for _ in 0..c.count()? {
            let offset = c.offset();
            let (name, versioned) = if self.version < 1 { (c.varint()?, false) } else { c.flagged()? };
            let name = within(name, self.strings.len(), "string", offset)?;
            self.dialects.push(self.string(name, offset)?);
            if versioned && c.section()?.id != DIALECT_VERSION {
                return Err(damaged(offset, "the version of a dialect is missing"));
            }
        }
        if self.version >= 4 {
            // The number of operations only saves the writer's reader an allocation.
            c.varint()?;
        }
        while c.left() > 0 {
            let dialect = c.index(self.dialects.len(), "dialect")?;
            for _ in 0..c.count()? {
                let offset = c.offset();
                let (name, registered) = if self.version < 5 { (c.varint()?, true) } else { c.flagged()? };
                let name = within(name, self.strings.len(), "string", offset)?;
                let name = self.string(name, offset)?;
                self.ops.push(OpName { dialect: u32::try_from(dialect).unwrap_or(u32::MAX), name, registered });
            }
        }
        Ok(())
    }

    fn read_entries(&mut self, mut entries: Cursor<'a>, mut offsets: Cursor<'a>) -> Result<(), Problem> {
        let attrs = offsets.count()?;
        let types = offsets.count()?;
        for (total, attr) in [(attrs, true), (types, false)] {
            let mut list = Vec::new();
            while list.len() < total {
                let dialect = offsets.index(self.dialects.len(), "dialect")?;
                let offset = offsets.offset();
                let group = offsets.count()?;
                if group == 0 || group > total - list.len() {
                    return Err(damaged(offset, "a group of attributes or types has an impossible size"));
                }
                for _ in 0..group {
                    let (size, encoded) = offsets.flagged()?;
                    let size = usize::try_from(size).unwrap_or(usize::MAX);
                    list.push(Entry { dialect: u32::try_from(dialect).unwrap_or(u32::MAX), encoded, bytes: entries.part(size)? });
                }
            }
            if attr {
                self.attrs = list;
            } else {
                self.types = list;
            }
        }
        Ok(())
    }

    /// The full name of an operation.
    pub fn op(&self, index: usize) -> (&'a str, &'a str, bool) {
        let op = &self.ops[index];
        (self.dialects[op.dialect as usize], op.name, op.registered)
    }

    /// Reads the use-list orders of some values; they have no meaning for what is computed.
    pub fn skip_use_lists(&self, c: &mut Cursor<'a>, values: usize) -> Result<(), Problem> {
        let lists = if values > 1 { c.count()? } else { 1 };
        for _ in 0..lists {
            if values > 1 {
                c.varint()?;
            }
            let offset = c.offset();
            let (count, _) = c.flagged()?;
            for _ in 0..c.plausible(count, offset)? {
                c.varint()?;
            }
        }
        Ok(())
    }

    /// An unknown operation.
    pub fn unknown_op(&self, dialect: &str, name: &str, offset: usize) -> Problem {
        unknown(offset, &format!("the operation '{dialect}.{name}'"))
    }

    /// A rank that is too high.
    pub fn check_rank(&self, rank: usize) -> Result<(), Problem> {
        if rank > self.limits.rank {
            return Err(too_large(&format!("a tensor has {rank} dimensions, more than {}", self.limits.rank)));
        }
        Ok(())
    }
}

/// The string table: sizes from the last string to the first, then the bytes of all, each with a zero at its end.
fn strings(mut c: Cursor<'_>) -> Result<Vec<&[u8]>, Problem> {
    let count = c.count()?;
    let mut sizes = Vec::with_capacity(count);
    for _ in 0..count {
        sizes.push(c.varint()?);
    }
    let mut list = Vec::with_capacity(count);
    for size in sizes.into_iter().rev() {
        let offset = c.offset();
        let text = c.take(usize::try_from(size).unwrap_or(usize::MAX))?;
        let (last, text) = text.split_last().ok_or_else(|| damaged(offset, "a string has no end"))?;
        if *last != 0 {
            return Err(damaged(offset, "a string has no end"));
        }
        list.push(text);
    }
    Ok(list)
}

fn properties(mut c: Cursor<'_>) -> Result<Vec<Cursor<'_>>, Problem> {
    let count = c.count()?;
    let mut list = Vec::with_capacity(count);
    for _ in 0..count {
        let len = c.count()?;
        list.push(c.part(len)?);
    }
    Ok(list)
}
