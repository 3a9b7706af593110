//! The operations of the file as functions of the module.
//!
//! Values are numbered through all operations of a function: those of a region follow those of the regions around it, and their
//! numbers are used again behind the region.

use super::cursor::{Cursor, within};
use super::tables::{IR, Tables};
use super::value::{OPAQUE, Values};
use super::vhlo::{self, Attrs};
use super::{NOT_PORTABLE, broken, damaged, too_large, unknown};
use crate::import::error::Problem;
use crate::import::stablehlo::module::{Block, Function, Module, ModuleAttr, ModuleType, ModuleValue, Operation, Place, ReadResult, Slot};
use indexmap::IndexMap;
use std::rc::Rc;

/// What an operation has, as bits of a byte.
const HAS_ATTRS: u8 = 1;
const HAS_RESULTS: u8 = 2;
const HAS_OPERANDS: u8 = 4;
const HAS_SUCCESSORS: u8 = 8;
const HAS_REGIONS: u8 = 16;
const HAS_USE_LISTS: u8 = 32;
const HAS_PROPERTIES: u8 = 64;

/// Nesting of regions that is read at most, whatever the limits say.
const DEEPEST: usize = 64;

/// Reads the operations.
pub fn module(tables: Tables<'_>) -> ReadResult {
    if !tables.dialects.contains(&"vhlo") {
        let names = tables.dialects.join(", ");
        let problem = Problem::new(NOT_PORTABLE, "the bytecode is no portable artifact").because(format!("its dialects are: {names}"));
        return Err(problem.help("write it with jax.export or stablehlo.serialize_portable_artifact, or give the text of the module"));
    }
    let mut c = tables.ir;
    let mut reader = Reader {
        values: Values::new(tables),
        module: Module { places: vec![String::new()], ..Module::default() },
        places: IndexMap::new(),
        ops: 0,
    };
    let (ops, _) = c.flagged()?;
    for _ in 0..ops {
        let head = reader.head(&mut c)?;
        if (head.dialect, head.name) != ("builtin", "module") {
            return Err(broken(head.offset, &format!("'{}.{}' stands outside a module", head.dialect, head.name)));
        }
        reader.top(&mut c, head)?;
    }
    if reader.module.functions.is_empty() {
        return Err(broken(c.offset(), "the module has no function"));
    }
    Ok(reader.module)
}

/// An operation up to its regions.
struct Head<'a> {
    offset: usize,
    dialect: &'a str,
    name: &'a str,
    attrs: Attrs,
    results: Vec<ModuleType>,
    operands: Vec<u64>,
    regions: usize,
    isolated: bool,
    place: Place,
}

/// The values of a function that can be named.
#[derive(Default)]
struct Scope {
    values: Vec<Option<ModuleValue>>,
    /// Where the next value of the current region goes, and where its values end.
    next: usize,
    end: usize,
}

impl Scope {
    fn define(&mut self, value: ModuleValue, offset: usize) -> Result<(), Problem> {
        if self.next >= self.end {
            return Err(broken(offset, "a region makes more values than it says"));
        }
        self.values[self.next] = Some(value);
        self.next += 1;
        Ok(())
    }
}

struct Reader<'a> {
    values: Values<'a>,
    module: Module,
    places: IndexMap<Rc<str>, u32>,
    ops: usize,
}

impl<'a> Reader<'a> {
    fn tables(&self) -> &Tables<'a> {
        &self.values.tables
    }

    /// Reads an operation up to its regions.
    fn head(&mut self, c: &mut Cursor<'a>) -> Result<Head<'a>, Problem> {
        let offset = c.offset();
        self.ops += 1;
        if self.ops > self.tables().limits.operations {
            return Err(too_large(&format!("the module has more than {} operations", self.tables().limits.operations)));
        }
        let index = c.index(self.tables().ops.len(), "operation name")?;
        let (dialect, name, registered) = self.tables().op(index);
        let mask = c.byte()?;
        let location = c.index(self.tables().attrs.len(), "attribute")?;
        let place = self.place(location)?;
        let mut attrs = Attrs::new();
        if mask & HAS_ATTRS != 0 {
            match self.values.copy_attr(c)?.0 {
                ModuleAttr::Fields(fields) => attrs = fields,
                _ => return Err(broken(offset, "the attributes of an operation are no dictionary")),
            }
        }
        if mask & HAS_PROPERTIES != 0 {
            self.properties(c, (dialect, name), registered, &mut attrs)?;
        }
        // Attributes of dialects that only annotate could not be read.
        attrs.retain(|_, value| !is_opaque(value));
        let mut results = Vec::new();
        if mask & HAS_RESULTS != 0 {
            for _ in 0..c.count()? {
                let at = c.offset();
                let index = c.varint()?;
                results.push(self.values.value_type(index, at)?);
            }
        }
        let mut operands = Vec::new();
        if mask & HAS_OPERANDS != 0 {
            for _ in 0..c.count()? {
                operands.push(c.varint()?);
            }
        }
        if mask & HAS_SUCCESSORS != 0 && c.varint()? != 0 {
            return Err(unknown(offset, &format!("the branch '{dialect}.{name}'")));
        }
        if mask & HAS_USE_LISTS != 0 && self.tables().version >= 3 {
            self.tables().skip_use_lists(c, results.len())?;
        }
        let (mut regions, mut isolated) = (0, false);
        if mask & HAS_REGIONS != 0 {
            let (count, flag) = c.flagged()?;
            (regions, isolated) = (c.plausible(count, offset)?, flag);
        }
        Ok(Head { offset, dialect, name, attrs, results, operands, regions, isolated, place })
    }

    /// Reads the properties of an operation: its attributes without their names.
    fn properties(&mut self, c: &mut Cursor<'a>, op: (&'a str, &'a str), registered: bool, attrs: &mut Attrs) -> Result<(), Problem> {
        let (dialect, name) = op;
        let offset = c.offset();
        if !registered {
            // A writer that did not know the operation kept them as a dictionary.
            if let ModuleAttr::Fields(fields) = self.values.copy_attr(c)?.0 {
                attrs.extend(fields);
            }
            return Ok(());
        }
        let index = c.index(self.tables().properties.len(), "property")?;
        let mut p = self.tables().properties[index];
        if (dialect, name) == ("builtin", "module") {
            // Its name and visibility, each of which may be missing.
            for key in ["sym_name", "sym_visibility"] {
                let at = p.offset();
                if p.left() == 0 {
                    break;
                }
                let (index, present) = p.flagged()?;
                if present {
                    let index = within(index, self.tables().attrs.len(), "attribute", at)?;
                    attrs.insert(key.to_owned(), (*self.values.attr(index)?).clone());
                }
            }
            return Ok(());
        }
        let names = vhlo::attributes(dialect, name);
        let names = match names {
            Some(names) => names,
            None if p.left() == 0 => &[],
            None => return Err(self.tables().unknown_op(dialect, name, offset)),
        };
        for key in names {
            let (attr, _) = self.values.copy_attr(&mut p)?;
            attrs.insert((*key).to_owned(), attr);
        }
        if p.left() != 0 {
            return Err(damaged(p.offset(), &format!("the attributes of '{dialect}.{name}' are longer than they should be")));
        }
        Ok(())
    }

    fn place(&mut self, location: usize) -> Result<Place, Problem> {
        let text = self.values.place(location)?;
        if text.is_empty() {
            return Ok(Place::default());
        }
        let next = self.module.places.len();
        let place = *self.places.entry(text.clone()).or_insert(u32::try_from(next).unwrap_or(0));
        if place as usize == next {
            self.module.places.push(text.to_string());
        }
        Ok(Place(place))
    }

    /// The bytes of an operation's regions: in place, or in a section when they use no values from outside.
    fn regions(&self, c: &mut Cursor<'a>, isolated: bool) -> Result<Option<Cursor<'a>>, Problem> {
        if !isolated || self.tables().version < 2 {
            return Ok(None);
        }
        let offset = c.offset();
        let section = c.section()?;
        if section.id != IR {
            return Err(damaged(offset, "the regions of an operation are missing"));
        }
        Ok(Some(section.data))
    }

    /// The module itself.
    fn top(&mut self, c: &mut Cursor<'a>, head: Head<'a>) -> Result<(), Problem> {
        let mut attrs = head.attrs;
        if let Some(ModuleAttr::Text(name)) = attrs.shift_remove("sym_name") {
            self.module.name = name;
        }
        attrs.shift_remove("sym_visibility");
        self.module.attrs.extend(attrs);
        if head.regions != 1 {
            return Err(broken(head.offset, "a module has no region"));
        }
        let mut own = self.regions(c, head.isolated)?;
        let c = own.as_mut().unwrap_or(c);
        let offset = c.offset();
        match c.varint()? {
            0 => return Ok(()),
            1 => {}
            n => return Err(broken(offset, &format!("a module has {n} blocks"))),
        }
        c.varint()?;
        let (ops, args) = c.flagged()?;
        if args {
            return Err(broken(offset, "a module has parameters"));
        }
        for _ in 0..ops {
            let head = self.head(c)?;
            match (head.dialect, vhlo::base(head.name)) {
                ("vhlo", "func") => self.function(c, head)?,
                ("sdy", "mesh") => {}
                (dialect, _) => return Err(self.tables().unknown_op(dialect, head.name, head.offset)),
            }
        }
        Ok(())
    }

    fn function(&mut self, c: &mut Cursor<'a>, head: Head<'a>) -> Result<(), Problem> {
        let mut attrs = head.attrs;
        let Some(ModuleAttr::Text(name)) = attrs.shift_remove("sym_name") else {
            return Err(broken(head.offset, "a function has no name"));
        };
        if head.regions != 1 {
            return Err(broken(head.offset, &format!("the function '{name}' has no region")));
        }
        let mut own = self.regions(c, head.isolated)?;
        let c = own.as_mut().unwrap_or(c);
        let mut f = Function { name, params: vec![], results: vec![], types: vec![], body: Block::default(), place: head.place };
        // A declaration without a body cannot be called, as nothing is known of it.
        let Some(body) = self.region(c, &mut f, &mut Scope::default(), 0)? else { return Ok(()) };
        f.body = body;
        let last = f.body.ops.last().map_or(&[][..], |op| &op.operands);
        f.results = last.iter().map(|v| slot(&f, v)).collect();
        f.params = f.body.params.iter().map(|v| slot(&f, v)).collect();
        let Function { params, results, .. } = &mut f;
        for (key, slots) in [("arg_attrs", params), ("res_attrs", results)] {
            let Some(ModuleAttr::List(list)) = attrs.shift_remove(key) else { continue };
            if list.is_empty() {
                continue;
            }
            if list.len() != slots.len() {
                return Err(broken(head.offset, "a function has attributes for another number of parameters or results"));
            }
            for (slot, attr) in slots.iter_mut().zip(list) {
                if let ModuleAttr::Fields(mut fields) = attr {
                    fields.retain(|_, value| !is_opaque(value));
                    slot.attrs = fields;
                }
            }
        }
        if let Some(before) = self.module.functions.insert(f.name.clone(), f) {
            return Err(broken(head.offset, &format!("two functions have the name '{}'", before.name)));
        }
        Ok(())
    }

    /// A region: one block, or none at all.
    fn region(&mut self, c: &mut Cursor<'a>, f: &mut Function, scope: &mut Scope, depth: usize) -> Result<Option<Block>, Problem> {
        let offset = c.offset();
        if depth > DEEPEST.min(self.tables().limits.depth) {
            return Err(too_large("regions nest too deep").at(format!("byte {offset} of the bytecode")));
        }
        match c.varint()? {
            1 => {}
            0 => return Ok(None),
            n => return Err(unknown(offset, &format!("a region with {n} blocks"))),
        }
        let values = c.count()?;
        let outer = (scope.values.len(), scope.next, scope.end);
        scope.values.resize(outer.0 + values, None);
        (scope.next, scope.end) = (outer.0, outer.0 + values);
        let (ops, args) = c.flagged()?;
        let mut block = Block::default();
        if args {
            self.params(c, f, scope, &mut block)?;
        }
        for _ in 0..ops {
            self.operation(c, f, scope, &mut block, depth)?;
        }
        if !block.ops.last().is_some_and(|op| op.name.ends_with(".return")) {
            return Err(broken(offset, "a region does not return"));
        }
        scope.values.truncate(outer.0);
        (scope.next, scope.end) = (outer.1, outer.2);
        Ok(Some(block))
    }

    fn params(&mut self, c: &mut Cursor<'a>, f: &mut Function, scope: &mut Scope, block: &mut Block) -> Result<(), Problem> {
        let version = self.tables().version;
        let count = c.count()?;
        for _ in 0..count {
            let offset = c.offset();
            let (ty, located) = if version >= 4 { c.flagged()? } else { (c.varint()?, true) };
            if located {
                c.index(self.tables().attrs.len(), "attribute")?;
            }
            let ty = self.values.value_type(ty, offset)?;
            let value = f.value(ty);
            scope.define(value, offset)?;
            block.params.push(value);
        }
        if version >= 3 && c.byte()? != 0 {
            self.tables().skip_use_lists(c, count)?;
        }
        Ok(())
    }

    fn operation(
        &mut self,
        c: &mut Cursor<'a>,
        f: &mut Function,
        scope: &mut Scope,
        block: &mut Block,
        depth: usize,
    ) -> Result<(), Problem> {
        let head = self.head(c)?;
        let mut operands = Vec::with_capacity(head.operands.len());
        for index in &head.operands {
            let index = within(*index, scope.values.len(), "value", head.offset)?;
            let value = scope.values[index].ok_or_else(|| broken(head.offset, &format!("value {index} is used before it is made")))?;
            operands.push(value);
        }
        if (head.dialect, head.name) == ("builtin", "unrealized_conversion_cast") && head.results.len() == operands.len() {
            return operands.into_iter().try_for_each(|v| scope.define(v, head.offset));
        }
        let mut op = Operation { name: String::new(), operands, results: vec![], attrs: head.attrs, regions: vec![], place: head.place };
        let base = vhlo::base(head.name);
        if head.dialect == "vhlo" {
            op.attrs = vhlo::normalize(base, op.attrs, head.offset)?;
            op.name = match base {
                "call" => "func.call".to_owned(),
                "return" if depth == 0 => "func.return".to_owned(),
                "func" => return Err(broken(head.offset, "a function stands inside a function")),
                _ => format!("stablehlo.{base}"),
            };
        } else {
            op.name = format!("{}.{}", head.dialect, head.name);
        }
        for ty in head.results {
            let value = f.value(ty);
            scope.define(value, head.offset)?;
            op.results.push(value);
        }
        if head.regions > 0 {
            // Regions that use nothing from around them count their values from 0.
            let mut own = self.regions(c, head.isolated)?;
            let mut fresh = Scope::default();
            let c = own.as_mut().unwrap_or(c);
            let scope = if head.isolated { &mut fresh } else { scope };
            for _ in 0..head.regions {
                op.regions.extend(self.region(c, f, scope, depth + 1)?);
            }
        }
        block.ops.push(op);
        Ok(())
    }
}

fn is_opaque(attr: &ModuleAttr) -> bool {
    matches!(attr, ModuleAttr::Other(text) if text == OPAQUE)
}

fn slot(f: &Function, value: &ModuleValue) -> Slot {
    Slot { ty: f.ty(*value).clone(), attrs: IndexMap::new() }
}
