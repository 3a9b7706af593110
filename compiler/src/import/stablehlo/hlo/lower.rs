//! Computations become functions and regions, and tuples become the values in them.
//!
//! A called computation is a function, once. A computation that is a combiner, a condition, a body or a branch is written as a
//! region where it is used. An instruction's value is the list of its leaves, so that tuples, get-tuple-elements and the one tuple
//! that carries a loop's state vanish.

use super::attrs::{Attrs, Kind, attrs, kind};
use super::proto::{HloComputationProto, HloInstructionProto, HloModuleProto, OpMetadata};
use super::shape::{Shape, constant};
use super::sharding;
use super::{DAMAGED, UNSUPPORTED, too_large};
use crate::import::error::Problem;
use crate::import::stablehlo::module::{
    Block, Dense, Function, Limits, Module, ModuleAttr, ModuleType, ModuleValue, Operation, Place, ReadResult, Slot,
};
use indexmap::IndexMap;
use rustc_hash::FxHashMap;
use std::rc::Rc;

/// Nesting of regions that is read at most, whatever the limits say: each level is a few calls deep.
const DEEPEST: usize = 64;

/// Lowers a decoded module.
pub fn lower(proto: &HloModuleProto, limits: &Limits) -> ReadResult {
    let mut computations = FxHashMap::default();
    for c in &proto.computations {
        if c.is_fusion_computation {
            let problem =
                Problem::new(UNSUPPORTED, format!("'{}' is a fused computation: the module was written after XLA's optimizations", c.name));
            return Err(problem.help("use the dump whose name ends with before_optimizations, or lowered.compiler_ir('hlo')"));
        }
        if computations.insert(c.id, c).is_some() {
            return Err(Problem::new(DAMAGED, format!("two computations have the id {}", c.id)));
        }
    }
    let entry = computations.get(&proto.entry_computation_id).copied();
    let entry = entry.or_else(|| proto.computations.iter().find(|c| c.name == proto.entry_computation_name));
    let entry = entry.ok_or_else(|| Problem::new(DAMAGED, "the module has no entry computation"))?;
    let mut lowering = Lowering {
        proto,
        limits,
        computations,
        module: Module { name: proto.name.clone(), places: vec![String::new()], ..Module::default() },
        names: IndexMap::new(),
        taken: IndexMap::new(),
        places: IndexMap::new(),
        constants: FxHashMap::default(),
        shapes: FxHashMap::default(),
        ops: 0,
        values: 0,
    };
    lowering.module.meshes = sharding::meshes(proto.frontend_attributes.as_ref(), limits);
    lowering.taken.insert("main".to_owned(), ());
    lowering.names.insert(entry.id, "main".to_owned());
    let mut next = 0;
    while let Some((id, name)) = lowering.names.get_index(next).map(|(id, name)| (*id, name.clone())) {
        let computation = lowering.computation(id)?;
        let mut function = lowering.function(computation, &name)?;
        if next == 0 {
            lowering.entry_attrs(&mut function, computation)?;
        }
        lowering.module.functions.insert(name, function);
        next += 1;
    }
    Ok(lowering.module)
}

/// The value of an instruction.
#[derive(Clone)]
struct Value {
    leaves: Rc<[ModuleValue]>,
    shape: Rc<Shape>,
}

/// What the parameters of a computation stand for.
enum Params {
    /// New values, the parameters of a block.
    New,
    /// Values of the scope around it, one list for each parameter.
    Bound(Vec<Value>),
}

/// A computation as a block, before its return is written.
struct Body {
    block: Block,
    /// The leaves of its root.
    results: Rc<[ModuleValue]>,
}

struct Lowering<'a> {
    proto: &'a HloModuleProto,
    limits: &'a Limits,
    computations: FxHashMap<i64, &'a HloComputationProto>,
    module: Module,
    /// The functions by computation, in the order of their discovery.
    names: IndexMap<i64, String>,
    taken: IndexMap<String, ()>,
    places: IndexMap<String, u32>,
    /// Constants and shapes by the address of their instruction: one that is written in several places is read once.
    constants: FxHashMap<usize, Dense>,
    shapes: FxHashMap<usize, Rc<Shape>>,
    ops: usize,
    values: usize,
}

impl<'a> Lowering<'a> {
    fn computation(&self, id: i64) -> Result<&'a HloComputationProto, Problem> {
        self.computations.get(&id).copied().ok_or_else(|| Problem::new(DAMAGED, format!("a computation with the id {id} does not exist")))
    }

    /// The name of the function of a called computation.
    fn callee(&mut self, id: i64) -> Result<String, Problem> {
        if let Some(name) = self.names.get(&id) {
            return Ok(name.clone());
        }
        let full = &self.computation(id)?.name;
        // XLA makes names unique by a number at the end; without it the name is the source's.
        let short =
            full.rsplit_once('.').filter(|(_, n)| !n.is_empty() && n.bytes().all(|b| b.is_ascii_digit())).map_or(full.as_str(), |p| p.0);
        let mut name = if self.taken.contains_key(short) { full.clone() } else { short.to_owned() };
        if self.taken.contains_key(&name) {
            name = format!("{full}#{id}");
        }
        self.taken.insert(name.clone(), ());
        self.names.insert(id, name.clone());
        Ok(name)
    }

    fn function(&mut self, computation: &'a HloComputationProto, name: &str) -> Result<Function, Problem> {
        let mut function = Function {
            name: name.to_owned(),
            params: vec![],
            results: vec![],
            types: vec![],
            body: Block::default(),
            place: Place::default(),
        };
        let body = self.block(&mut function, computation, Params::New, 0)?;
        let slot = |f: &Function, v: &ModuleValue| Slot { ty: f.ty(*v).clone(), attrs: IndexMap::new() };
        function.params = body.block.params.iter().map(|v| slot(&function, v)).collect();
        function.results = body.results.iter().map(|v| slot(&function, v)).collect();
        function.body = finish(body, "func.return");
        Ok(function)
    }

    /// Writes a computation as a block.
    fn block(&mut self, f: &mut Function, c: &'a HloComputationProto, params: Params, depth: usize) -> Result<Body, Problem> {
        if depth > self.limits.depth.min(DEEPEST) {
            return Err(too_large(format!("computations nest more than {} deep", self.limits.depth.min(DEEPEST))));
        }
        let mut known: FxHashMap<i64, Value> = FxHashMap::default();
        let mut block = Block::default();
        self.parameters(f, c, params, &mut block, &mut known)?;
        let mut last = None;
        for i in &c.instructions {
            last = Some(i.id);
            if i.opcode == "parameter" {
                continue;
            }
            let at = |p: Problem| p.at(format!("instruction '{}' of computation '{}'", i.name, c.name));
            let value = self.instruction(f, i, &known, &mut block.ops, depth).map_err(at)?;
            if known.insert(i.id, value).is_some() {
                return Err(at(Problem::new(DAMAGED, format!("two instructions have the id {}", i.id))));
            }
        }
        let root = known.get(&c.root_id).or_else(|| last.and_then(|id| known.get(&id)));
        let root = root.ok_or_else(|| Problem::new(DAMAGED, format!("computation '{}' is empty", c.name)))?;
        Ok(Body { block, results: root.leaves.clone() })
    }

    /// Gives the parameters of a computation their values, in the order of their numbers.
    fn parameters(
        &mut self,
        f: &mut Function,
        c: &'a HloComputationProto,
        params: Params,
        block: &mut Block,
        known: &mut FxHashMap<i64, Value>,
    ) -> Result<(), Problem> {
        let mut list: Vec<&HloInstructionProto> = c.instructions.iter().filter(|i| i.opcode == "parameter").collect();
        list.sort_by_key(|i| i.parameter_number);
        if list.iter().enumerate().any(|(n, i)| i64::try_from(n) != Ok(i.parameter_number)) {
            return Err(Problem::new(DAMAGED, format!("the parameters of computation '{}' are not numbered from 0", c.name)));
        }
        if let Params::Bound(bound) = &params
            && bound.len() != list.len()
        {
            let what = format!("computation '{}' has {} parameters and gets {}", c.name, list.len(), bound.len());
            return Err(Problem::new(DAMAGED, what));
        }
        for (n, i) in list.into_iter().enumerate() {
            let shape = self.shape(i)?;
            let value = match &params {
                Params::New => {
                    let leaves = self.fresh(f, &shape)?;
                    block.params.extend_from_slice(&leaves);
                    Value { leaves, shape }
                }
                Params::Bound(bound) if bound[n].leaves.len() == shape.leaves() => Value { leaves: bound[n].leaves.clone(), shape },
                Params::Bound(_) => return Err(Problem::new(DAMAGED, format!("computation '{}' gets another type than it takes", c.name))),
            };
            if known.insert(i.id, value).is_some() {
                return Err(Problem::new(DAMAGED, format!("two instructions have the id {}", i.id)));
            }
        }
        Ok(())
    }

    fn shape(&mut self, i: &HloInstructionProto) -> Result<Rc<Shape>, Problem> {
        if let Some(shape) = self.shapes.get(&address(i)) {
            return Ok(shape.clone());
        }
        let proto = i.shape.as_ref().ok_or_else(|| Problem::new(DAMAGED, "an instruction has no shape"))?;
        let shape = Rc::new(Shape::read(proto, self.limits)?);
        self.shapes.insert(address(i), shape.clone());
        Ok(shape)
    }

    /// New values for the leaves of a shape.
    fn fresh(&mut self, f: &mut Function, shape: &Shape) -> Result<Rc<[ModuleValue]>, Problem> {
        self.count(shape.leaves())?;
        let mut leaves = Vec::with_capacity(shape.leaves());
        shape.each(&mut |ty| leaves.push(f.value(ty.clone())));
        Ok(leaves.into())
    }

    /// Computations are written where they are used, so that a small file could ask for a large module.
    fn count(&mut self, values: usize) -> Result<(), Problem> {
        self.values = self.values.saturating_add(values);
        let most = self.limits.operations.saturating_mul(8);
        if self.values > most {
            return Err(too_large(format!("the module has more than {most} values")));
        }
        Ok(())
    }

    fn instruction(
        &mut self,
        f: &mut Function,
        i: &'a HloInstructionProto,
        known: &FxHashMap<i64, Value>,
        ops: &mut Vec<Operation>,
        depth: usize,
    ) -> Result<Value, Problem> {
        self.count(1 + i.operand_ids.len())?;
        let operands = operands(i, known)?;
        let shape = self.shape(i)?;
        let sharding = sharding::of(i, self.limits).filter(|_| operands.len() == 1 && operands[0].leaves.len() == 1);
        let name = match kind(i)? {
            Kind::Identity if sharding.is_some() => sharding::CONSTRAINT.to_owned(),
            Kind::Identity => {
                let first = operands.first().ok_or_else(|| Problem::new(DAMAGED, format!("a '{}' has no operand", i.opcode)))?;
                return same(Value { leaves: first.leaves.clone(), shape });
            }
            Kind::Structural if i.opcode == "tuple" => {
                self.count(shape.leaves())?;
                let leaves: Vec<ModuleValue> = operands.iter().flat_map(|v| v.leaves.iter().copied()).take(shape.leaves() + 1).collect();
                return same(Value { leaves: leaves.into(), shape });
            }
            Kind::Structural if i.opcode == "get-tuple-element" => {
                let tuple = operands.first().ok_or_else(|| Problem::new(DAMAGED, "a get-tuple-element has no operand"))?;
                let part = tuple.shape.part(i.tuple_index);
                let (from, to) = part.ok_or_else(|| Problem::new(DAMAGED, format!("a tuple has no element {}", i.tuple_index)))?;
                self.count(to - from)?;
                return same(Value { leaves: tuple.leaves[from..to].into(), shape });
            }
            Kind::Structural => match i.opcode.as_str() {
                "call" => "func.call".to_owned(),
                "conditional" => String::new(),
                opcode => format!("stablehlo.{opcode}"),
            },
            Kind::Op(name) => name,
        };
        let mut op = Operation {
            name,
            operands: vec![],
            results: vec![],
            attrs: Attrs::new(),
            regions: vec![],
            place: self.place(i.metadata.as_deref()),
        };
        let flat: usize = operands.iter().map(|v| v.leaves.len()).sum();
        self.count(flat)?;
        op.operands = operands.iter().flat_map(|v| v.leaves.iter().copied()).collect();
        match i.opcode.as_str() {
            _ if op.name == sharding::CONSTRAINT => op.attrs.extend(sharding.map(|s| ("sharding".to_owned(), s))),
            "constant" => drop(op.attrs.insert("value".to_owned(), ModuleAttr::Dense(self.constant(i)?))),
            "call" => {
                let [callee] = i.called_computation_ids[..] else { return Err(called(i, "one")) };
                op.attrs.insert("callee".to_owned(), ModuleAttr::Symbol(self.callee(callee)?));
            }
            "while" => {
                let [body, cond] = i.called_computation_ids[..] else { return Err(called(i, "two")) };
                for (id, results) in [(cond, 1), (body, shape.leaves())] {
                    let region = self.region(f, id, Params::New, depth)?;
                    if region.0.params.len() != shape.leaves() || region.1 != results || op.operands.len() != shape.leaves() {
                        return Err(Problem::new(DAMAGED, "the condition or body of a loop does not fit its state"));
                    }
                    op.regions.push(region.0);
                }
            }
            "conditional" => self.conditional(f, i, &operands, shape.leaves(), &mut op, depth)?,
            _ => {
                let first = operands.first().and_then(|v| v.leaves.first()).map(|v| f.ty(*v).clone());
                op.attrs = attrs(i, first.as_slice(), self.limits)?;
                for id in &i.called_computation_ids {
                    let region = self.region(f, *id, Params::New, depth)?;
                    op.regions.push(region.0);
                }
            }
        }
        let leaves = self.fresh(f, &shape)?;
        op.results = leaves.to_vec();
        self.ops += 1;
        if self.ops > self.limits.operations {
            return Err(too_large(format!("the module has more than {} operations", self.limits.operations)));
        }
        ops.push(op);
        Ok(Value { leaves, shape })
    }

    /// A computation as a region, and how many values it returns.
    fn region(&mut self, f: &mut Function, id: i64, params: Params, depth: usize) -> Result<(Block, usize), Problem> {
        let computation = self.computation(id)?;
        let body = self.block(f, computation, params, depth + 1)?;
        let results = body.results.len();
        self.count(results)?;
        Ok((finish(body, "stablehlo.return"), results))
    }

    /// A conditional: the branches use the values around them instead of parameters.
    fn conditional(
        &mut self,
        f: &mut Function,
        i: &'a HloInstructionProto,
        operands: &[Value],
        results: usize,
        op: &mut Operation,
        depth: usize,
    ) -> Result<(), Problem> {
        let Some((index, args)) = operands.split_first() else {
            return Err(Problem::new(DAMAGED, "a conditional has no operand"));
        };
        let [index] = index.leaves[..] else {
            return Err(Problem::new(DAMAGED, "a conditional chooses by a tuple"));
        };
        if i.called_computation_ids.len() != args.len() || args.is_empty() {
            return Err(called(i, "one for each operand but the first"));
        }
        let is_bool = matches!(f.ty(index), ModuleType::Tensor { element, .. } if element.to_string() == "bool");
        if is_bool && args.len() != 2 {
            return Err(called(i, "two"));
        }
        op.name = if is_bool { "stablehlo.if" } else { "stablehlo.case" }.to_owned();
        op.operands = vec![index];
        for (id, arg) in i.called_computation_ids.iter().zip(args) {
            let (region, returned) = self.region(f, *id, Params::Bound(vec![arg.clone()]), depth)?;
            if returned != results {
                return Err(Problem::new(DAMAGED, "a branch returns another type than its conditional"));
            }
            op.regions.push(region);
        }
        Ok(())
    }

    fn constant(&mut self, i: &HloInstructionProto) -> Result<Dense, Problem> {
        if let Some(dense) = self.constants.get(&address(i)) {
            return Ok(dense.clone());
        }
        let dense = constant(i, self.limits)?;
        self.constants.insert(address(i), dense.clone());
        Ok(dense)
    }

    /// The source position of an instruction.
    fn place(&mut self, metadata: Option<&OpMetadata>) -> Place {
        let Some(m) = metadata else { return Place::default() };
        let (file, line) = if m.source_file.is_empty() {
            let Some(found) = self.frame(m.stack_frame_id) else { return Place::default() };
            found
        } else {
            (m.source_file.as_str(), m.source_line)
        };
        let text = format!("{file}:{line}");
        let next = self.module.places.len();
        let place = *self.places.entry(text.clone()).or_insert(u32::try_from(next).unwrap_or(0));
        if place as usize == next {
            self.module.places.push(text);
        }
        Place(place)
    }

    /// The file and line of a stack frame; ids count from 1.
    fn frame(&self, id: i32) -> Option<(&'a str, i32)> {
        let before = |id: i32| usize::try_from(id).ok()?.checked_sub(1);
        let index = self.proto.stack_frame_index.as_ref()?;
        let frame = index.stack_frames.get(before(id)?)?;
        let location = index.file_locations.get(before(frame.file_location_id)?)?;
        Some((index.file_names.get(before(location.file_name_id)?)?.as_str(), location.line))
    }

    /// Donation and shardings of the entry's parameters.
    fn entry_attrs(&self, function: &mut Function, computation: &HloComputationProto) -> Result<(), Problem> {
        let mut starts: Vec<(i64, usize, Shape)> = vec![];
        for i in computation.instructions.iter().filter(|i| i.opcode == "parameter") {
            let shape = i.shape.as_ref().map(|s| Shape::read(s, self.limits)).transpose()?;
            starts.extend(shape.map(|s| (i.parameter_number, 0, s)));
        }
        starts.sort_by_key(|s| s.0);
        let mut at = 0;
        for (_, start, shape) in &mut starts {
            *start = at;
            at += shape.leaves();
        }
        for i in computation.instructions.iter().filter(|i| i.opcode == "parameter") {
            let own = usize::try_from(i.parameter_number).ok().and_then(|n| starts.get(n)).filter(|(_, _, shape)| shape.leaves() == 1);
            if let (Some((_, at, _)), Some(sharding)) = (own, sharding::of(i, self.limits))
                && let Some(slot) = function.params.get_mut(*at)
            {
                slot.attrs.insert("sdy.sharding".to_owned(), sharding);
            }
        }
        let find = |number: i64, path: &[i64]| {
            let (_, start, shape) = starts.get(usize::try_from(number).ok()?)?;
            Some(start + shape.leaf_at(path)?)
        };
        let root = computation.instructions.iter().find(|i| i.id == computation.root_id).or(computation.instructions.last());
        let root = root.and_then(|i| i.shape.as_ref()).map(|s| Shape::read(s, self.limits)).transpose()?;
        let lost = || Problem::new(DAMAGED, "a donated parameter or its output does not exist");
        for entry in self.proto.input_output_alias.iter().flat_map(|a| &a.entries) {
            let param = find(entry.parameter_number, &entry.parameter_shape_index).ok_or_else(lost)?;
            let output = root.as_ref().and_then(|r| r.leaf_at(&entry.output_shape_index)).ok_or_else(lost)?;
            let slot = function.params.get_mut(param).ok_or_else(lost)?;
            slot.attrs.insert("tf.aliasing_output".to_owned(), ModuleAttr::Int(i64::try_from(output).unwrap_or(i64::MAX)));
        }
        for entry in self.proto.buffer_donor.iter().flat_map(|d| &d.entries) {
            let param = find(entry.parameter_number, &entry.parameter_shape_index).ok_or_else(lost)?;
            let slot = function.params.get_mut(param).ok_or_else(lost)?;
            slot.attrs.insert("jax.buffer_donor".to_owned(), ModuleAttr::Bool(true));
        }
        Ok(())
    }
}

fn address(i: &HloInstructionProto) -> usize {
    std::ptr::from_ref(i) as usize
}

fn operands(i: &HloInstructionProto, known: &FxHashMap<i64, Value>) -> Result<Vec<Value>, Problem> {
    let find =
        |id: &i64| known.get(id).cloned().ok_or_else(|| Problem::new(DAMAGED, format!("operand {id} is not computed before it is used")));
    i.operand_ids.iter().map(find).collect()
}

/// A value whose leaves were given must have as many as its shape says.
fn same(value: Value) -> Result<Value, Problem> {
    if value.leaves.len() != value.shape.leaves() {
        return Err(Problem::new(DAMAGED, "an instruction has another shape than its operands make"));
    }
    Ok(value)
}

fn called(i: &HloInstructionProto, want: &str) -> Problem {
    Problem::new(DAMAGED, format!("a '{}' has {} computations where there must be {want}", i.opcode, i.called_computation_ids.len()))
}

fn finish(body: Body, name: &str) -> Block {
    let mut block = body.block;
    block.ops.push(Operation {
        name: name.to_owned(),
        operands: body.results.to_vec(),
        results: vec![],
        attrs: Attrs::new(),
        regions: vec![],
        place: Place::default(),
    });
    block
}
