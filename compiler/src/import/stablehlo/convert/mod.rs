//! From a StableHLO [`Module`] to a tensor [`Graph`].
//!
//! ```text
//! Module ─ entry ─ block by block (dispatch: one handler an op) ─ Graph
//!                    call, composite: inlined        while: carry … repeat / while
//!                    regions: run, or vectorized     case: every branch, then select
//! ```
//! A module value is a list of graph values: one for a tensor, two (real, imaginary) for a complex tensor, none for a token, those of its
//! members for a tuple. Element types that the IR has not are carried in wider ones, see [`narrow`]. What is not supported is collected and
//! reported at once; what breaks the rules of StableHLO ends the import.
//! After every op the types that the graph inferred are held against those that the file declares.

mod attrs;
mod bodies;
mod contract;
mod control;
mod dispatch;
mod dynamic;
mod elementwise;
mod expanded;
mod imported;
mod indexed;
mod known;
mod manual;
mod meta;
mod names;
mod narrow;
mod probe;
mod reduce;
mod shape;
mod sort;
#[cfg(test)]
mod tests;
mod windows;

pub use imported::{Check, CheckKind, Imported, Pin, PinAt};
use probe::Probed;

use super::StablehloOptions;
use super::module::{Block, Element, Function, Module, ModuleType, ModuleValue, Operation, Place};
use crate::import::error::{ImportError, Problem, UnsupportedOp};
use girih_ir::graph::{Graph, Role, ValueId};
use girih_ir::ops::Op;
use girih_ir::tensor::Tensor;
use girih_ir::types::{DType, Dims, TensorType};
use rustc_hash::{FxHashMap, FxHashSet};
use smallvec::{SmallVec, smallvec};
use std::rc::Rc;

/// The graph values of a module value.
pub(crate) type Parts = SmallVec<[ValueId; 2]>;
/// What a handler returns.
pub(crate) type Res<T> = Result<T, Fault>;

/// Why an op was not converted.
#[derive(Clone, Debug)]
pub(crate) enum Fault {
    /// It breaks a rule.
    Malformed(Problem),
    /// It is sound, but not supported.
    Unsupported(String),
    /// It reads what an op that is not supported would have made.
    Poisoned,
}

/// A fault of a module that breaks a rule of an op.
pub(crate) fn malformed<T>(what: impl Into<String>) -> Res<T> {
    Err(Fault::Malformed(Problem::new("E0162", what)))
}

/// A fault of an op that is not supported.
pub(crate) fn unsupported<T>(why: impl Into<String>) -> Res<T> {
    Err(Fault::Unsupported(why.into()))
}

/// The attribute of parameters and results that says how they lie.
const SHARDING: &str = "sdy.sharding";

/// What is known of a module value.
#[derive(Clone, Debug)]
enum Slot {
    Unset,
    Poisoned,
    Set(Parts),
    /// One for each device of the current mesh, see [`manual`].
    Local(Rc<[Parts]>),
}

/// One activation of a function.
#[derive(Debug)]
pub(crate) struct Frame<'a> {
    function: &'a Function,
    values: Vec<Slot>,
}

/// The conversion of one entry function.
#[derive(Debug)]
pub(crate) struct Converter<'a> {
    module: &'a Module,
    options: &'a StablehloOptions,
    pub graph: Graph,
    /// Names of the functions that are being inlined.
    stack: Vec<&'a str>,
    /// Regions and functions around the current op.
    depth: usize,
    /// Ops converted so far, inlined ones as often as they occur.
    converted: usize,
    unsupported: Vec<UnsupportedOp>,
    seen: FxHashSet<UnsupportedOp>,
    /// Extents that the scalars of a region body have been given, see [`bodies`].
    lift: Option<Dims>,
    /// Whether the ops that are being converted are those of the branch that was chosen; `None` is yes.
    guard: Option<ValueId>,
    known: FxHashMap<ValueId, Option<Rc<Tensor>>>,
    /// Loops that are being made around the current op.
    loops: usize,
    /// Pairs of values with how they must agree.
    checks: Vec<(CheckKind, ValueId, ValueId, String)>,
    /// What each probe has seen, when checks are asked for.
    probes: FxHashMap<&'a str, Vec<Probed>>,
    pins: Vec<Pin>,
    origin: Option<(Place, usize)>,
    /// Numbers the ops that draw random numbers of their own.
    pub draws: i64,
    /// The mesh whose devices are being converted side by side.
    devices: Option<Rc<manual::Devices>>,
    /// The device for which the current op is being converted alone.
    device: Option<usize>,
}

/// Converts a function of a module.
///
/// # Errors
/// [`ImportError::Malformed`] with E0160 to E0167, or every op that is not supported.
pub fn convert(module: &Module, entry: &str, options: &StablehloOptions) -> Result<Imported, ImportError> {
    let Some(function) = module.functions.get(entry) else {
        let names: Vec<String> = module.functions.keys().take(20).map(|n| format!("`{n}`")).collect();
        let problem = Problem::new("E0160", format!("the module has no function `{entry}`"));
        return Err(ImportError::Malformed(problem.because(format!("it has {}", names.join(", ")))));
    };
    let name = if module.name.is_empty() { entry } else { &module.name };
    let mut cx = Converter {
        module,
        options,
        graph: Graph::new(names::identifier(name)),
        stack: vec![&function.name],
        depth: 0,
        converted: 0,
        unsupported: Vec::new(),
        seen: FxHashSet::default(),
        lift: None,
        guard: None,
        known: FxHashMap::default(),
        loops: 0,
        checks: Vec::new(),
        probes: FxHashMap::default(),
        pins: Vec::new(),
        origin: None,
        draws: 0,
        devices: None,
        device: None,
    };
    let made = cx.entry(function);
    if !cx.unsupported.is_empty() && !matches!(made, Err(Fault::Malformed(_))) {
        return Err(ImportError::Unsupported { ops: cx.unsupported });
    }
    match made {
        Ok(donated) => imported::finish(cx, donated),
        Err(Fault::Malformed(p)) => Err(ImportError::Malformed(p.at(module.place(function.place)))),
        Err(Fault::Unsupported(reason)) => {
            let node = format!("`{entry}`");
            Err(ImportError::Unsupported { ops: vec![UnsupportedOp { op: "func.func".into(), node, reason }] })
        }
        Err(Fault::Poisoned) => unreachable!("a value is poisoned only by an op that is listed"),
    }
}

/// The tensors that a type consists of.
pub(crate) fn leaves(ty: &ModuleType) -> Res<SmallVec<[TensorType; 2]>> {
    Ok(match ty {
        ModuleType::Tensor { shape, element: Element::Complex(dtype) } => {
            smallvec![TensorType { dtype: *dtype, shape: shape.clone() }, TensorType { dtype: *dtype, shape: shape.clone() }]
        }
        ModuleType::Tensor { shape, element } => match narrow::carried(element) {
            Some(dtype) => smallvec![TensorType { dtype, shape: shape.clone() }],
            None => return unsupported(format!("the element type {element}")),
        },
        ModuleType::Token => SmallVec::new(),
        ModuleType::Tuple(members) => {
            let mut all = SmallVec::new();
            for m in members {
                all.extend(leaves(m)?);
            }
            all
        }
        ModuleType::Other(text) => return unsupported(format!("the type {text}")),
    })
}

/// Whether the file leaves extents of a tensor type open.
fn is_open(ty: &ModuleType) -> bool {
    matches!(ty, ModuleType::Other(text) if text.starts_with("tensor<") && text.contains('?') && !text.contains("!quant"))
}

impl<'a> Converter<'a> {
    /// Makes the inputs, converts the body and makes the outputs. Returns what is donated.
    fn entry(&mut self, function: &'a Function) -> Res<Vec<(usize, Option<usize>)>> {
        let mut args = Vec::new();
        let mut taken = FxHashSet::default();
        let mut donors: Vec<(usize, Option<i64>)> = Vec::new();
        for (k, param) in function.params.iter().enumerate() {
            let name = names::input(&param.attrs, k);
            let types = leaves(&param.ty)?;
            let mut parts = Parts::new();
            for (name, ty) in names::parts(&name, types.len()).into_iter().zip(types) {
                if let Some(donor) = imported::donor(&param.attrs)? {
                    donors.push((self.graph.inputs.len(), donor));
                }
                let at = PinAt::Input(self.graph.inputs.len());
                let narrow = Self::narrow_leaf(&param.ty, &ty);
                let mut input = self.graph.input(names::unique(&mut taken, name), ty, Role::Data);
                if let Some(narrow) = narrow {
                    input = self.settle(input, narrow)?;
                }
                parts.push(self.pinned(&param.attrs, SHARDING, at, input)?);
            }
            args.push(parts);
        }
        let results = self.call(function, &args)?;
        if results.len() != function.results.len() {
            return malformed(format!("`{}` returns {} values instead of {}", function.name, results.len(), function.results.len()));
        }
        let mut taken = FxHashSet::default();
        let mut firsts = Vec::new();
        for (k, (slot, parts)) in function.results.iter().zip(&results).enumerate() {
            firsts.push((self.graph.outputs.len(), parts.len()));
            let name = names::output(&slot.attrs, k);
            for (name, value) in names::parts(&name, parts.len()).into_iter().zip(parts) {
                let value = self.pinned(&slot.attrs, SHARDING, PinAt::Output(self.graph.outputs.len()), *value)?;
                self.graph.output(names::unique(&mut taken, name), value);
            }
        }
        self.donations(donors, &firsts)
    }

    fn donations(&self, donors: Vec<(usize, Option<i64>)>, firsts: &[(usize, usize)]) -> Res<Vec<(usize, Option<usize>)>> {
        let mut donated = Vec::new();
        for (input, result) in donors {
            let Some(result) = result else {
                donated.push((input, None));
                continue;
            };
            let Some((first, parts)) = usize::try_from(result).ok().and_then(|r| firsts.get(r)) else {
                return malformed(format!("input {input} is donated to result {result}, which the function does not have"));
            };
            if *parts == 1 {
                donated.push((input, Some(*first)));
            }
        }
        Ok(donated)
    }

    /// Inlines a function.
    pub fn call(&mut self, function: &'a Function, args: &[Parts]) -> Res<Vec<Parts>> {
        let mut frame = Frame { function, values: vec![Slot::Unset; function.types.len()] };
        self.run(&mut frame, &function.body, args)
    }

    /// Inlines a function on values that may differ between devices.
    fn call_slots(&mut self, function: &'a Function, args: &[Slot]) -> Res<Vec<Slot>> {
        let mut frame = Frame { function, values: vec![Slot::Unset; function.types.len()] };
        self.run_slots(&mut frame, &function.body, args)
    }

    /// Binds the parameters of a block and converts it. Returns what its last op returns.
    pub fn run(&mut self, frame: &mut Frame<'a>, block: &'a Block, args: &[Parts]) -> Res<Vec<Parts>> {
        let args: Vec<Slot> = args.iter().cloned().map(Slot::Set).collect();
        let last = self.enter(frame, block, &args)?;
        last.operands.iter().map(|v| self.parts(frame, *v)).collect()
    }

    /// [`run`](Self::run) on values that may differ between devices.
    fn run_slots(&mut self, frame: &mut Frame<'a>, block: &'a Block, args: &[Slot]) -> Res<Vec<Slot>> {
        let last = self.enter(frame, block, args)?;
        last.operands.iter().map(|v| self.slot_of(frame, *v)).collect()
    }

    fn enter(&mut self, frame: &mut Frame<'a>, block: &'a Block, args: &[Slot]) -> Res<&'a Operation> {
        if args.len() != block.params.len() {
            return malformed(format!("a region takes {} values, but {} are given", block.params.len(), args.len()));
        }
        for (param, slot) in block.params.iter().zip(args) {
            self.bind_slot(frame, *param, slot.clone(), "a parameter")?;
        }
        if self.depth >= self.options.limits.depth {
            let problem = Problem::new("E0164", format!("regions and calls nest more than {} deep", self.options.limits.depth));
            return Err(Fault::Malformed(problem));
        }
        self.depth += 1;
        let made = self.ops(frame, block);
        self.depth -= 1;
        made
    }

    /// Converts the ops of a block and returns its last one.
    fn ops(&mut self, frame: &mut Frame<'a>, block: &'a Block) -> Res<&'a Operation> {
        let Some((last, ops)) = block.ops.split_last() else { return malformed("a region without a return") };
        for op in ops {
            self.op(frame, op)?;
        }
        if !dispatch::returns(&last.name) {
            return malformed(format!("a region ends with `{}` instead of a return", last.name));
        }
        Ok(last)
    }

    /// Converts an op and binds its results.
    fn op(&mut self, frame: &mut Frame<'a>, op: &'a Operation) -> Res<()> {
        self.converted += 1;
        if self.converted > self.options.limits.operations {
            let what = format!("the module has more than {} ops when all calls are inlined", self.options.limits.operations);
            return Err(Fault::Malformed(Problem::new("E0164", what).help("raise the limit if the file is to be trusted")));
        }
        self.set_origin(op.place);
        let made = match self.differs(frame, op) {
            true => self.on_devices(frame, op),
            false => self.results_of(frame, op).and_then(|results| {
                op.results.iter().zip(results).try_for_each(|(v, parts)| self.bind_slot(frame, *v, Slot::Set(parts), "a result"))
            }),
        };
        match made {
            Ok(()) => Ok(()),
            Err(Fault::Malformed(p)) => {
                let place = self.module.place(op.place);
                let place = if place.is_empty() { format!("`{}`", op.name) } else { format!("`{}`, {place}", op.name) };
                Err(Fault::Malformed(p.at(place)))
            }
            Err(fault) => {
                if let Fault::Unsupported(reason) = fault {
                    self.refuse(op, reason);
                }
                for v in &op.results {
                    *self.slot(frame, *v)? = Slot::Poisoned;
                }
                Ok(())
            }
        }
    }

    /// The results of an op.
    fn results_of(&mut self, frame: &mut Frame<'a>, op: &'a Operation) -> Res<Vec<Parts>> {
        let results = self.dispatch(frame, op).and_then(|results| self.settled(frame, op, results))?;
        if results.len() != op.results.len() {
            return malformed(format!("`{}` has {} results, but {} are named", op.name, results.len(), op.results.len()));
        }
        Ok(results)
    }

    fn refuse(&mut self, op: &Operation, reason: String) {
        let place = self.module.place(op.place);
        let node = if place.is_empty() { format!("`{}`", self.stack.last().unwrap_or(&"")) } else { place.to_string() };
        let op = UnsupportedOp { op: op.name.clone(), node, reason };
        if self.seen.insert(op.clone()) {
            self.unsupported.push(op);
        }
    }

    /// Nodes made from now on come from this place; the function that it was inlined from is named before it.
    fn set_origin(&mut self, place: Place) {
        if self.origin == Some((place, self.stack.len())) {
            return;
        }
        self.origin = Some((place, self.stack.len()));
        let text = self.module.place(place);
        match self.stack.last() {
            Some(callee) if self.stack.len() > 1 => self.graph.set_origin(&format!("{callee}; {text}")),
            _ => self.graph.set_origin(text),
        }
    }

    fn slot<'f>(&self, frame: &'f mut Frame<'a>, value: ModuleValue) -> Res<&'f mut Slot> {
        match frame.values.get_mut(value.index()) {
            Some(slot) => Ok(slot),
            None => malformed(format!("{value} is no value of the function")),
        }
    }

    /// Gives a module value its graph values, which must have the declared types.
    fn bind_slot(&mut self, frame: &mut Frame<'a>, value: ModuleValue, slot: Slot, what: &str) -> Res<()> {
        match &slot {
            Slot::Set(parts) => self.fits(frame, value, parts, what)?,
            Slot::Local(all) => all.iter().try_for_each(|parts| self.fits(frame, value, parts, what))?,
            Slot::Unset | Slot::Poisoned => {}
        }
        *self.slot(frame, value)? = slot;
        Ok(())
    }

    fn fits(&self, frame: &Frame<'a>, value: ModuleValue, parts: &Parts, what: &str) -> Res<()> {
        let Some(ty) = frame.function.types.get(value.index()) else {
            return malformed(format!("{value} is no value of the function"));
        };
        if !is_open(ty) {
            let want = leaves(ty)?;
            let fit = |(v, t): (&ValueId, &TensorType)| {
                let Some(got) = self.graph.ty(*v).as_tensor() else { return false };
                let lifted = self.lift.as_ref().is_some_and(|l| t.rank() == 0 && got.shape == *l);
                got.dtype == t.dtype && (got.shape == t.shape || lifted)
            };
            if parts.len() != want.len() || !parts.iter().zip(&want).all(fit) {
                let got: Vec<String> = parts.iter().map(|v| self.graph.ty(*v).to_string()).collect();
                let want: Vec<String> = want.iter().map(ToString::to_string).collect();
                let problem = Problem::new("E0163", format!("{what} should have the type {ty}"));
                return Err(Fault::Malformed(problem.because(format!("it is {}, not {}", got.join(", "), want.join(", ")))));
            }
        }
        Ok(())
    }

    /// What is known of a module value, which must be defined.
    fn slot_of(&self, frame: &Frame<'a>, value: ModuleValue) -> Res<Slot> {
        match frame.values.get(value.index()) {
            Some(slot @ (Slot::Set(_) | Slot::Local(_))) => Ok(slot.clone()),
            _ => self.parts(frame, value).map(Slot::Set),
        }
    }

    /// The graph values of a module value.
    pub fn parts(&self, frame: &Frame<'a>, value: ModuleValue) -> Res<Parts> {
        match frame.values.get(value.index()) {
            Some(Slot::Set(parts)) => Ok(parts.clone()),
            Some(Slot::Poisoned) => Err(Fault::Poisoned),
            Some(Slot::Local(all)) => match self.device.and_then(|d| all.get(d)) {
                Some(parts) => Ok(parts.clone()),
                None => unsupported("a value of one device outside of the computation that is written for it"),
            },
            _ => Err(Fault::Malformed(Problem::new("E0166", format!("{value} is used before it is defined")))),
        }
    }

    /// The graph values of an operand.
    pub fn operand_parts(&self, frame: &Frame<'a>, op: &Operation, index: usize) -> Res<Parts> {
        match op.operands.get(index) {
            Some(v) => self.parts(frame, *v),
            None => malformed(format!("`{}` has {} operands, and operand {index} is needed", op.name, op.operands.len())),
        }
    }

    /// An operand that is a real tensor.
    pub fn operand(&self, frame: &Frame<'a>, op: &Operation, index: usize) -> Res<ValueId> {
        let parts = self.operand_parts(frame, op, index)?;
        match parts.as_slice() {
            [v] => Ok(*v),
            [_, _] => unsupported("complex operands"),
            _ => malformed(format!("operand {index} is no tensor")),
        }
    }

    /// All operands, each a real tensor.
    pub fn operands(&self, frame: &Frame<'a>, op: &Operation) -> Res<Vec<ValueId>> {
        (0..op.operands.len()).map(|i| self.operand(frame, op, i)).collect()
    }

    /// All operands, each a real tensor, when there are exactly `N`.
    pub fn exactly<const N: usize>(&self, frame: &Frame<'a>, op: &Operation) -> Res<[ValueId; N]> {
        let all = self.operands(frame, op)?;
        let got = all.len();
        all.try_into().or_else(|_| malformed(format!("`{}` takes {N} operands, not {got}", op.name)))
    }

    /// The declared types of all parts of a result.
    pub fn result_leaves(&self, frame: &Frame<'a>, op: &Operation, index: usize) -> Res<SmallVec<[TensorType; 2]>> {
        let ty = op.results.get(index).and_then(|v| frame.function.types.get(v.index()));
        match ty {
            Some(ty) => leaves(ty),
            None => malformed(format!("`{}` has {} results, and result {index} is needed", op.name, op.results.len())),
        }
    }

    /// The declared type of a result, of its real part when it is complex.
    pub fn result(&self, frame: &Frame<'a>, op: &Operation, index: usize) -> Res<TensorType> {
        match self.result_leaves(frame, op, index)?.first() {
            Some(t) => Ok(t.clone()),
            None => malformed(format!("result {index} of `{}` is no tensor", op.name)),
        }
    }

    /// Adds an op whose operands may not fit: then the module is malformed.
    pub fn add(&mut self, op: impl Into<Op>, operands: &[ValueId]) -> Res<ValueId> {
        self.graph.add(op.into(), operands).map_err(|e| {
            Fault::Malformed(
                Problem::new("E0162", "the operands or attributes of an op do not fit").because(format!("{}: {}", e.op, e.why)),
            )
        })
    }

    /// The element type of a value.
    pub fn dtype(&self, v: ValueId) -> DType {
        self.graph.tensor_ty(v).dtype
    }

    /// The extents of a value.
    pub fn dims(&self, v: ValueId) -> Dims {
        Dims::from_slice(self.graph.shape(v))
    }

    /// The region of an op, when it has exactly one.
    pub fn region(&self, op: &'a Operation, index: usize) -> Res<&'a Block> {
        match op.regions.get(index) {
            Some(block) => Ok(block),
            None => malformed(format!("`{}` has {} regions, and region {index} is needed", op.name, op.regions.len())),
        }
    }

    /// The same op on every part of the first operand: for ops that move elements.
    pub fn on_parts(
        &mut self,
        frame: &Frame<'a>,
        op: &Operation,
        mut f: impl FnMut(&mut Self, ValueId) -> Res<ValueId>,
    ) -> Res<Vec<Parts>> {
        let parts = self.operand_parts(frame, op, 0)?;
        let made: Res<Parts> = parts.into_iter().map(|v| f(self, v)).collect();
        Ok(vec![made?])
    }
}

/// One result of one part.
pub(crate) fn one(v: ValueId) -> Vec<Parts> {
    vec![smallvec![v]]
}
