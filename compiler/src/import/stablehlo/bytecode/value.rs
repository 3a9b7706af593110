//! Attributes and types of the tables as those of the module, each worked out once.

use super::cursor::{Cursor, within};
use super::element::{booleans, element, element_size, integer_bits, read_int};
use super::tables::{Entry, Tables};
use super::{broken, damaged, too_large, unknown};
use crate::import::error::Problem;
use crate::import::stablehlo::module::{Dense, Element, ModuleAttr, ModuleType};
use girih_ir::types::{DType, Dims};
use indexmap::IndexMap;
use std::rc::Rc;
use std::sync::Arc;

/// Nesting of attributes that is read at most, whatever the limits say.
const DEEPEST: usize = 64;
/// Nodes of attributes and types that are made at most: an attribute may be used in many places.
const NODES: usize = 1 << 26;

/// What stands for an attribute of a dialect whose encoding is not known, such as a sharding.
pub const OPAQUE: &str = "#opaque";

/// A type.
#[derive(Debug)]
pub enum Ty {
    /// The type of a value.
    Value(ModuleType),
    /// An element type.
    Element(Element),
    /// A function's parameters and results.
    Function(Vec<ModuleType>, Vec<ModuleType>),
    /// No type.
    None,
}

impl Ty {
    /// As the type of a value; element types have no other form than their name.
    pub fn to_module(&self) -> ModuleType {
        match self {
            Ty::Value(ty) => ty.clone(),
            Ty::Element(e) => ModuleType::Other(e.to_string()),
            Ty::Function(..) => ModuleType::Other("function".to_owned()),
            Ty::None => ModuleType::Other("none".to_owned()),
        }
    }
}

/// The attributes and types that were worked out.
pub struct Values<'a> {
    pub tables: Tables<'a>,
    attrs: Vec<Option<Rc<ModuleAttr>>>,
    weights: Vec<usize>,
    types: Vec<Option<Rc<Ty>>>,
    places: Vec<Option<Rc<str>>>,
    nodes: usize,
    depth: usize,
}

impl<'a> Values<'a> {
    pub fn new(tables: Tables<'a>) -> Self {
        let (attrs, types) = (tables.attrs.len(), tables.types.len());
        Values {
            tables,
            attrs: vec![None; attrs],
            weights: vec![1; attrs],
            types: (0..types).map(|_| None).collect(),
            places: vec![None; attrs],
            nodes: 0,
            depth: 0,
        }
    }

    fn deeper(&mut self, offset: usize) -> Result<(), Problem> {
        self.depth += 1;
        if self.depth > DEEPEST.min(self.tables.limits.depth) {
            return Err(too_large("attributes or types nest too deep").at(format!("byte {offset} of the bytecode")));
        }
        Ok(())
    }

    /// Counts what is copied.
    fn spend(&mut self, nodes: usize) -> Result<(), Problem> {
        self.nodes = self.nodes.saturating_add(nodes);
        if self.nodes > NODES {
            return Err(too_large(&format!("its attributes have more than {NODES} parts")));
        }
        Ok(())
    }

    /// The attribute whose number comes next.
    pub fn next_attr(&mut self, c: &mut Cursor<'a>) -> Result<Rc<ModuleAttr>, Problem> {
        let index = c.index(self.tables.attrs.len(), "attribute")?;
        self.attr(index)
    }

    /// A copy of the attribute whose number comes next, and how many parts it has.
    pub fn copy_attr(&mut self, c: &mut Cursor<'a>) -> Result<(ModuleAttr, usize), Problem> {
        let index = c.index(self.tables.attrs.len(), "attribute")?;
        let attr = self.attr(index)?;
        let weight = self.weights[index];
        self.spend(weight)?;
        Ok(((*attr).clone(), weight))
    }

    /// The attribute with that number.
    pub fn attr(&mut self, index: usize) -> Result<Rc<ModuleAttr>, Problem> {
        if let Some(done) = &self.attrs[index] {
            return Ok(done.clone());
        }
        let entry = self.tables.attrs[index];
        self.deeper(entry.bytes.offset())?;
        let (attr, weight) = self.read_attr(entry)?;
        self.depth -= 1;
        self.weights[index] = weight;
        let attr = Rc::new(attr);
        self.attrs[index] = Some(attr.clone());
        Ok(attr)
    }

    fn read_attr(&mut self, entry: Entry<'a>) -> Result<(ModuleAttr, usize), Problem> {
        let mut c = entry.bytes;
        if !entry.encoded {
            let text = c.terminated()?;
            self.spend(1 + text.len() / 8)?;
            return Ok((ModuleAttr::Other(text.to_owned()), 1 + text.len() / 8));
        }
        match self.tables.dialects[entry.dialect as usize] {
            "vhlo" => self.vhlo_attr(&mut c),
            "builtin" => self.builtin_attr(&mut c),
            // Other dialects only annotate.
            _ => Ok((ModuleAttr::Other(OPAQUE.to_owned()), 1)),
        }
    }

    fn vhlo_attr(&mut self, c: &mut Cursor<'a>) -> Result<(ModuleAttr, usize), Problem> {
        let offset = c.offset();
        let code = c.varint()?;
        let attr = match code {
            1 => return self.list(c),
            2 => ModuleAttr::Bool(c.varint()? != 0),
            3 => word(c, &["EQ", "NE", "GE", "GT", "LE", "LT"])?,
            4 => word(c, &["NOTYPE", "FLOAT", "TOTALORDER", "SIGNED", "UNSIGNED"])?,
            5 => ModuleAttr::Int(i64::try_from(c.varint()?).unwrap_or(i64::MAX)),
            6 => return self.dictionary(c),
            7 => word(c, &["FFT", "IFFT", "RFFT", "IRFFT"])?,
            8 => self.float(c)?,
            9 => self.integer(c)?,
            10 => return self.alias(c),
            11 => word(c, &["DEFAULT", "HIGH", "HIGHEST"])?,
            12 => word(c, &["DEFAULT", "THREE_FRY", "PHILOX"])?,
            13 => word(c, &["INVALID", "UNIFORM", "NORMAL"])?,
            14 => return self.text(c),
            15 => self.tensor(c)?,
            16 => word(c, &["TRANSPOSE_INVALID", "NO_TRANSPOSE", "TRANSPOSE", "ADJOINT"])?,
            17 => ModuleAttr::Type(self.next_type(c)?.to_module()),
            18 => return self.integers(c),
            19 => word(c, &["DEFAULT", "HIGHEST", "TOLERANCE"])?,
            20 => return self.accuracy(c),
            21..=25 => ModuleAttr::Other(
                ["sub_axis_info", "axis_ref", "replica_group_mesh_axes", "mesh_axis", "mesh"][code as usize - 21].to_owned(),
            ),
            _ => return Err(unknown(offset, &format!("an attribute with the VHLO code {code}"))),
        };
        self.spend(1)?;
        Ok((attr, 1))
    }

    fn builtin_attr(&mut self, c: &mut Cursor<'a>) -> Result<(ModuleAttr, usize), Problem> {
        let offset = c.offset();
        let code = c.varint()?;
        let attr = match code {
            0 => return self.list(c),
            1 => return self.dictionary(c),
            2 | 3 => return self.text(c),
            4 | 5 => match &*self.next_attr(c)? {
                ModuleAttr::Text(name) => ModuleAttr::Symbol(name.clone()),
                _ => return Err(broken(offset, "the name of a symbol is no text")),
            },
            6 => ModuleAttr::Type(self.next_type(c)?.to_module()),
            7 => ModuleAttr::Unit,
            8 => self.integer(c)?,
            9 => self.float(c)?,
            10..=15 | 22 => ModuleAttr::Other("location".to_owned()),
            16 => {
                let problem = unknown(offset, "a tensor that is kept as a resource");
                return Err(problem.help("serialize the module with its constants inline"));
            }
            17 => self.array(c)?,
            18 => self.tensor(c)?,
            _ => return Err(unknown(offset, &format!("a builtin attribute with the code {code}"))),
        };
        self.spend(1)?;
        Ok((attr, 1))
    }

    fn list(&mut self, c: &mut Cursor<'a>) -> Result<(ModuleAttr, usize), Problem> {
        let count = c.count()?;
        let mut list = Vec::with_capacity(count);
        let mut weight = 1;
        for _ in 0..count {
            let (attr, w) = self.copy_attr(c)?;
            weight += w;
            list.push(attr);
        }
        Ok((ModuleAttr::List(list), weight))
    }

    fn dictionary(&mut self, c: &mut Cursor<'a>) -> Result<(ModuleAttr, usize), Problem> {
        let offset = c.offset();
        let mut fields = IndexMap::new();
        let mut weight = 1;
        for _ in 0..c.count()? {
            let (ModuleAttr::Text(name), wn) = self.copy_attr(c)? else {
                return Err(broken(offset, "the key of a dictionary is no text"));
            };
            let (value, wv) = self.copy_attr(c)?;
            weight += wn + wv;
            fields.insert(name, value);
        }
        Ok((ModuleAttr::Fields(fields), weight))
    }

    fn text(&mut self, c: &mut Cursor<'a>) -> Result<(ModuleAttr, usize), Problem> {
        let offset = c.offset();
        let index = c.index(self.tables.strings.len(), "string")?;
        let bytes = self.tables.strings.get(index).copied().ok_or_else(|| broken(offset, "a string does not exist"))?;
        let weight = 1 + bytes.len() / 8;
        self.spend(weight)?;
        // The configuration of a custom call may be any bytes.
        Ok((ModuleAttr::Text(String::from_utf8_lossy(bytes).into_owned()), weight))
    }

    fn integers(&mut self, c: &mut Cursor<'a>) -> Result<(ModuleAttr, usize), Problem> {
        let ints = signed_list(c)?;
        let weight = 1 + ints.len();
        self.spend(weight)?;
        Ok((ModuleAttr::Ints(ints), weight))
    }

    fn alias(&mut self, c: &mut Cursor<'a>) -> Result<(ModuleAttr, usize), Problem> {
        let output = signed_list(c)?;
        let operand = c.signed()?;
        let path = signed_list(c)?;
        let weight = 4 + output.len() + path.len();
        self.spend(weight)?;
        let fields = [
            ("output_tuple_indices", ModuleAttr::Ints(output)),
            ("operand_index", ModuleAttr::Int(operand)),
            ("operand_tuple_indices", ModuleAttr::Ints(path)),
        ];
        Ok((ModuleAttr::Fields(fields.into_iter().map(|(k, v)| (k.to_owned(), v)).collect()), weight))
    }

    fn accuracy(&mut self, c: &mut Cursor<'a>) -> Result<(ModuleAttr, usize), Problem> {
        let atol = f64::from_bits(c.signed()? as u64);
        let rtol = f64::from_bits(c.signed()? as u64);
        let ulps = c.signed()?;
        let (mode, _) = self.copy_attr(c)?;
        self.spend(5)?;
        let fields =
            [("atol", ModuleAttr::Float(atol)), ("rtol", ModuleAttr::Float(rtol)), ("ulps", ModuleAttr::Int(ulps)), ("mode", mode)];
        Ok((ModuleAttr::Fields(fields.into_iter().map(|(k, v)| (k.to_owned(), v)).collect()), 5))
    }

    fn integer(&mut self, c: &mut Cursor<'a>) -> Result<ModuleAttr, Problem> {
        let offset = c.offset();
        let ty = self.next_type(c)?;
        let (bits, signed) = match &*ty {
            Ty::Element(e) => integer_bits(e),
            _ => None,
        }
        .ok_or_else(|| broken(offset, "an integer has another type"))?;
        if bits == 1 {
            return Ok(ModuleAttr::Bool(c.byte()? & 1 == 1));
        }
        let raw = if bits <= 8 { i64::from(c.byte()?) } else { c.signed()? };
        let shift = 64 - bits;
        let value = if signed { (raw << shift) >> shift } else { (((raw as u64) << shift) >> shift) as i64 };
        Ok(ModuleAttr::Int(value))
    }

    fn float(&mut self, c: &mut Cursor<'a>) -> Result<ModuleAttr, Problem> {
        let offset = c.offset();
        let ty = self.next_type(c)?;
        let Ty::Element(Element::Known(dtype)) = &*ty else {
            return Err(unknown(offset, "a number of a float type that is not supported"));
        };
        let value = match dtype {
            DType::F32 => f64::from(f32::from_bits(c.signed()? as u32)),
            DType::F64 => f64::from_bits(c.signed()? as u64),
            DType::F16 => f64::from(half::f16::from_bits(c.signed()? as u16)),
            DType::BF16 => f64::from(half::bf16::from_bits(c.signed()? as u16)),
            _ => return Err(unknown(offset, &format!("a number of the type {dtype}"))),
        };
        Ok(ModuleAttr::Float(value))
    }

    /// `array<i64: …>`
    fn array(&mut self, c: &mut Cursor<'a>) -> Result<ModuleAttr, Problem> {
        let offset = c.offset();
        let ty = self.next_type(c)?;
        let count = c.varint()?;
        let bytes = c.blob()?;
        let Ty::Element(element) = &*ty else { return Err(broken(offset, "an array has elements of no number type")) };
        let size = element_size(element).ok_or_else(|| unknown(offset, &format!("an array of {element}")))?;
        if (bytes.len() / size) as u64 != count || bytes.len() % size != 0 {
            return Err(broken(offset, "an array has another length than its bytes"));
        }
        self.spend(bytes.len() / size)?;
        let ints = bytes.chunks_exact(size).map(|b| read_int(b, element)).collect::<Option<Vec<i64>>>();
        Ok(ModuleAttr::Ints(ints.ok_or_else(|| unknown(offset, &format!("an array of {element}")))?))
    }

    /// `dense<…>`
    fn tensor(&mut self, c: &mut Cursor<'a>) -> Result<ModuleAttr, Problem> {
        let offset = c.offset();
        let ty = self.next_type(c)?;
        let Ty::Value(ModuleType::Tensor { shape, element }) = &*ty else {
            return Err(broken(offset, "a tensor has a type without static extents"));
        };
        let count: usize = shape.iter().product();
        let blob = c.blob()?;
        let size = element_size(element).ok_or_else(|| unknown(offset, &format!("a tensor of {element}")))?;
        let bytes: Arc<[u8]> = if *element == Element::Known(DType::Bool) { booleans(blob, count) } else { Arc::from(blob) };
        let splat = bytes.len() == size && count > 1;
        if !splat && count.checked_mul(size) != Some(bytes.len()) {
            return Err(broken(offset, &format!("a tensor of the type {} has {} bytes", ty.to_module(), blob.len())));
        }
        Ok(ModuleAttr::Dense(Dense { shape: shape.clone(), element: element.clone(), bytes, splat }))
    }

    /// The type whose number comes next.
    pub fn next_type(&mut self, c: &mut Cursor<'a>) -> Result<Rc<Ty>, Problem> {
        let index = c.index(self.tables.types.len(), "type")?;
        self.ty(index)
    }

    /// The type of a value whose number comes next.
    pub fn value_type(&mut self, index: u64, offset: usize) -> Result<ModuleType, Problem> {
        let index = within(index, self.tables.types.len(), "type", offset)?;
        let ty = self.ty(index)?;
        self.spend(weight(&ty))?;
        Ok(ty.to_module())
    }

    /// The type with that number.
    pub fn ty(&mut self, index: usize) -> Result<Rc<Ty>, Problem> {
        if let Some(done) = &self.types[index] {
            return Ok(done.clone());
        }
        let entry = self.tables.types[index];
        self.deeper(entry.bytes.offset())?;
        let mut c = entry.bytes;
        let ty = if entry.encoded {
            match self.tables.dialects[entry.dialect as usize] {
                "vhlo" => self.vhlo_type(&mut c)?,
                "builtin" => self.builtin_type(&mut c)?,
                dialect => return Err(unknown(c.offset(), &format!("a type of the dialect '{dialect}'"))),
            }
        } else {
            Ty::Value(ModuleType::Other(c.terminated()?.to_owned()))
        };
        self.depth -= 1;
        self.spend(weight(&ty))?;
        let ty = Rc::new(ty);
        self.types[index] = Some(ty.clone());
        Ok(ty)
    }

    fn vhlo_type(&mut self, c: &mut Cursor<'a>) -> Result<Ty, Problem> {
        let offset = c.offset();
        let code = c.varint()?;
        let name = match code {
            0 => "i1",
            1 => return self.complex(c),
            2 => "bf16",
            3 => "f16",
            4 => "f32",
            5 => "f64",
            6 => "f8E4M3FN",
            7 => "f8E5M2",
            8 => return self.function(c),
            9 => "index",
            10 => "i4",
            11 => "i8",
            12 => "i16",
            13 => "i32",
            14 => "i64",
            15 => "ui4",
            16 => "ui8",
            17 => "ui16",
            18 => "ui32",
            19 => "ui64",
            20 => return self.ranked(c),
            21 => {
                c.index(self.tables.attrs.len(), "attribute")?;
                let ty = self.ranked(c)?;
                // Extents with bounds belong to dynamic shapes; any other encoding has no meaning here.
                return Ok(ty);
            }
            22 => return Ok(Ty::Value(ModuleType::Token)),
            23 => return self.tuple(c),
            24 => return Ok(Ty::Element(Element::Other("!quant.uniform".to_owned()))),
            25 => return Ok(Ty::Value(ModuleType::Other("tensor<*>".to_owned()))),
            26 => return Ok(Ty::Value(ModuleType::Other("!shape.witness".to_owned()))),
            27 => "f8E4M3FNUZ",
            28 => "f8E5M2FNUZ",
            29 => "f8E4M3B11FNUZ",
            30 => return Ok(Ty::Element(Element::Other("!quant.uniform".to_owned()))),
            31 => "i2",
            32 => "ui2",
            33 => return Ok(Ty::None),
            34 => "tf32",
            35 => "f8E4M3",
            36 => "f8E3M4",
            37 => "f4E2M1FN",
            38 => "f6E2M3FN",
            39 => "f6E3M2FN",
            40 => "f8E8M0FNU",
            41 => return Ok(Ty::Value(ModuleType::Other("memref".to_owned()))),
            42 => return Ok(Ty::Value(ModuleType::Other("!stablehlo.future".to_owned()))),
            _ => return Err(unknown(offset, &format!("a type with the VHLO code {code}"))),
        };
        Ok(Ty::Element(element(name)))
    }

    fn builtin_type(&mut self, c: &mut Cursor<'a>) -> Result<Ty, Problem> {
        let offset = c.offset();
        let code = c.varint()?;
        let name = match code {
            0 => {
                let width = c.varint()?;
                let sign = if width & 3 == 2 { "ui" } else { "i" };
                return Ok(Ty::Element(element(&format!("{sign}{}", width >> 2))));
            }
            1 => "index",
            2 => return self.function(c),
            3 => "bf16",
            4 => "f16",
            5 => "f32",
            6 => "f64",
            9 => return self.complex(c),
            12 => return Ok(Ty::None),
            13 => return self.ranked(c),
            14 => {
                c.index(self.tables.attrs.len(), "attribute")?;
                return self.ranked(c);
            }
            15 => return self.tuple(c),
            18 => return Ok(Ty::Value(ModuleType::Other("tensor<*>".to_owned()))),
            _ => return Err(unknown(offset, &format!("a builtin type with the code {code}"))),
        };
        Ok(Ty::Element(element(name)))
    }

    fn complex(&mut self, c: &mut Cursor<'a>) -> Result<Ty, Problem> {
        let offset = c.offset();
        match &*self.next_type(c)? {
            Ty::Element(Element::Known(part @ (DType::F32 | DType::F64))) => Ok(Ty::Element(Element::Complex(*part))),
            _ => Err(broken(offset, "a complex number has parts of another type than f32 or f64")),
        }
    }

    fn types(&mut self, c: &mut Cursor<'a>) -> Result<Vec<ModuleType>, Problem> {
        let count = c.count()?;
        let mut list = Vec::with_capacity(count);
        for _ in 0..count {
            let ty = self.next_type(c)?;
            self.spend(weight(&ty))?;
            list.push(ty.to_module());
        }
        Ok(list)
    }

    fn function(&mut self, c: &mut Cursor<'a>) -> Result<Ty, Problem> {
        let params = self.types(c)?;
        Ok(Ty::Function(params, self.types(c)?))
    }

    fn tuple(&mut self, c: &mut Cursor<'a>) -> Result<Ty, Problem> {
        Ok(Ty::Value(ModuleType::Tuple(self.types(c)?)))
    }

    fn ranked(&mut self, c: &mut Cursor<'a>) -> Result<Ty, Problem> {
        let offset = c.offset();
        let extents = signed_list(c)?;
        let ty = self.next_type(c)?;
        let Ty::Element(element) = &*ty else { return Err(broken(offset, "a tensor has elements that are no numbers")) };
        self.tables.check_rank(extents.len())?;
        if extents.contains(&i64::MIN) {
            let text: String = extents.iter().map(|d| if *d == i64::MIN { "?x".to_owned() } else { format!("{d}x") }).collect();
            return Ok(Ty::Value(ModuleType::Other(format!("tensor<{text}{element}>"))));
        }
        let mut shape = Dims::new();
        let mut elements = 1usize;
        let most = self.tables.limits.elements;
        for d in &extents {
            let d = usize::try_from(*d).map_err(|_| broken(offset, &format!("a tensor has the extent {d}")))?;
            elements = elements
                .checked_mul(d.max(1))
                .filter(|e| *e <= most)
                .ok_or_else(|| too_large(&format!("a tensor of the shape {extents:?} has more than {most} elements")))?;
            shape.push(d);
        }
        Ok(Ty::Value(ModuleType::Tensor { shape, element: element.clone() }))
    }

    /// The place that a location attribute names; empty when it names none.
    pub fn place(&mut self, index: usize) -> Result<Rc<str>, Problem> {
        if let Some(done) = &self.places[index] {
            return Ok(done.clone());
        }
        let entry = self.tables.attrs[index];
        let mut c = entry.bytes;
        let offset = c.offset();
        if !entry.encoded || self.tables.dialects[entry.dialect as usize] != "builtin" {
            return Err(broken(offset, "a location is no location"));
        }
        self.deeper(offset)?;
        let place: Rc<str> = match c.varint()? {
            // A call: where the callee stands.
            10 => self.next_place(&mut c)?,
            11 => {
                let file = self.next_attr(&mut c)?;
                self.file_line(&file, c.varint()?)?
            }
            22 => {
                let file = self.next_attr(&mut c)?;
                let numbers = c.count()?;
                if numbers == 0 {
                    return Err(broken(offset, "a location has no line"));
                }
                self.file_line(&file, c.varint()?)?
            }
            12 | 13 => {
                let mut found: Rc<str> = Rc::from("");
                for _ in 0..c.count()? {
                    let place = self.next_place(&mut c)?;
                    if found.is_empty() {
                        found = place;
                    }
                }
                found
            }
            14 => {
                self.next_attr(&mut c)?;
                self.next_place(&mut c)?
            }
            15 => Rc::from(""),
            code => return Err(unknown(offset, &format!("a location with the builtin code {code}"))),
        };
        self.depth -= 1;
        self.places[index] = Some(place.clone());
        Ok(place)
    }

    fn next_place(&mut self, c: &mut Cursor<'a>) -> Result<Rc<str>, Problem> {
        let index = c.index(self.tables.attrs.len(), "attribute")?;
        self.place(index)
    }

    fn file_line(&mut self, file: &ModuleAttr, line: u64) -> Result<Rc<str>, Problem> {
        let ModuleAttr::Text(file) = file else { return Err(damaged(0, "the file of a location is no text")) };
        self.spend(1 + file.len() / 8)?;
        Ok(if file.is_empty() || file == "-" || file == "<unknown>" { Rc::from("") } else { Rc::from(format!("{file}:{line}")) })
    }
}

/// The parts of a type.
fn weight(ty: &Ty) -> usize {
    fn module(ty: &ModuleType) -> usize {
        match ty {
            ModuleType::Tuple(parts) => 1 + parts.iter().map(module).sum::<usize>(),
            ModuleType::Other(text) => 1 + text.len() / 8,
            ModuleType::Tensor { shape, .. } => 1 + shape.len() / 8,
            ModuleType::Token => 1,
        }
    }
    match ty {
        Ty::Value(ty) => module(ty),
        Ty::Function(a, b) => 1 + a.iter().chain(b).map(module).sum::<usize>(),
        Ty::Element(_) | Ty::None => 1,
    }
}

fn signed_list(c: &mut Cursor<'_>) -> Result<Vec<i64>, Problem> {
    let count = c.count()?;
    (0..count).map(|_| c.signed()).collect()
}

fn word(c: &mut Cursor<'_>, words: &[&str]) -> Result<ModuleAttr, Problem> {
    let offset = c.offset();
    let code = c.varint()?;
    let word = usize::try_from(code).ok().and_then(|code| words.get(code));
    word.map(|w| ModuleAttr::Word((*w).to_owned())).ok_or_else(|| unknown(offset, &format!("the value {code} of an enumeration")))
}
