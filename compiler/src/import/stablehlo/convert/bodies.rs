//! Region bodies: what function of scalars they are, and how they are applied to whole tensors.
//!
//! The bodies of `reduce`, `scatter`, `sort` and the like are functions of scalars. The common ones are recognized by their *formula*, a text
//! such as `add(p0,p1)`, and become ops of the IR. Every other body is vectorized: its scalars become tensors of one shape (the *lift*), its
//! constants and the values that it captures are broadcast where they meet one.

use super::super::module::{Block, Function, ModuleAttr, ModuleType, ModuleValue, Operation};
use super::{Converter, Frame, Parts, Res, attrs, dispatch, malformed, narrow, unsupported};
use girih_ir::graph::ValueId;
use girih_ir::scalar::Monoid;
use girih_ir::tensor::Tensor;
use girih_ir::types::{DType, Dims};
use rustc_hash::FxHashMap;

/// Longer formulas are not recognized.
const LONGEST: usize = 4000;

/// Formulas of values, one a tensor that the value consists of.
type Formulas = FxHashMap<ModuleValue, Vec<String>>;

impl<'a> Converter<'a> {
    /// Applies a body of scalars to tensors of this shape (scalars among them are broadcast). Results have the shape.
    pub fn vectorize(&mut self, frame: &mut Frame<'a>, block: &'a Block, args: &[Parts], shape: &[usize]) -> Res<Vec<Parts>> {
        let outer = self.lift.replace(Dims::from_slice(shape));
        let made = self.run(frame, block, args);
        self.lift = outer;
        let mut results = made?;
        for v in results.iter_mut().flatten() {
            *v = self.spread(*v, shape)?;
        }
        Ok(results)
    }

    /// [`vectorize`](Self::vectorize) on one real tensor a parameter, for bodies that return real tensors.
    pub fn apply(&mut self, frame: &mut Frame<'a>, block: &'a Block, args: &[ValueId], shape: &[usize]) -> Res<Vec<ValueId>> {
        let args: Vec<Parts> = args.iter().map(|v| Parts::from_slice(&[*v])).collect();
        let results = self.vectorize(frame, block, &args, shape)?;
        let real = |parts: Parts| match parts.as_slice() {
            [v] => Ok(*v),
            _ => unsupported("a region that returns complex numbers or tuples here"),
        };
        results.into_iter().map(real).collect()
    }

    /// The value in this shape: itself, or a scalar repeated.
    pub fn spread(&mut self, v: ValueId, shape: &[usize]) -> Res<ValueId> {
        if self.graph.shape(v) == shape {
            return Ok(v);
        }
        if !self.graph.shape(v).is_empty() {
            return malformed(format!("a value of type {} should have the shape {shape:?}", self.graph.ty(v)));
        }
        Ok(self.graph.broadcast(v, shape, &[]))
    }

    /// Whether a value inside a region body has been lifted.
    pub fn is_lifted(&self, frame: &Frame<'a>, value: ModuleValue) -> bool {
        let Some(lift) = self.lift.as_ref().filter(|l| !l.is_empty()) else { return false };
        let scalar = matches!(frame.function.types.get(value.index()), Some(ModuleType::Tensor { shape, .. }) if shape.is_empty());
        scalar && self.parts(frame, value).is_ok_and(|p| p.iter().any(|v| self.graph.shape(*v) == lift.as_slice()))
    }

    /// The formulas of what a block returns, with its parameters as `p0`, `p1`, …; `None` when it is more than a formula.
    pub fn formulas(&mut self, frame: &Frame<'a>, block: &'a Block) -> Option<Vec<String>> {
        let args: Vec<Vec<String>> = (0..block.params.len()).map(|i| vec![format!("p{i}")]).collect();
        self.block_formulas(frame.function, Some(frame), block, &args, 0)
    }

    fn block_formulas(
        &mut self,
        function: &'a Function,
        frame: Option<&Frame<'a>>,
        block: &'a Block,
        args: &[Vec<String>],
        depth: usize,
    ) -> Option<Vec<String>> {
        if block.ops.len() > 64 || depth > 8 || args.len() != block.params.len() {
            return None;
        }
        let mut known: Formulas = block.params.iter().copied().zip(args.iter().cloned()).collect();
        let (last, ops) = block.ops.split_last()?;
        for op in ops {
            let operands: Option<Vec<Vec<String>>> = op.operands.iter().map(|v| self.formula_of(&known, frame, *v)).collect();
            let made = self.op_formulas(function, op, &operands?, depth)?;
            if made.iter().flatten().map(String::len).sum::<usize>() > LONGEST || made.len() != op.results.len() {
                return None;
            }
            known.extend(op.results.iter().copied().zip(made));
        }
        if !dispatch::returns(&last.name) {
            return None;
        }
        let returned: Option<Vec<Vec<String>>> = last.operands.iter().map(|v| self.formula_of(&known, frame, *v)).collect();
        Some(returned?.into_iter().flatten().collect())
    }

    fn formula_of(&mut self, known: &Formulas, frame: Option<&Frame<'a>>, v: ModuleValue) -> Option<Vec<String>> {
        if let Some(f) = known.get(&v) {
            return Some(f.clone());
        }
        let parts = self.parts(frame?, v).ok()?;
        Some(
            parts
                .iter()
                .map(|p| match self.known(*p) {
                    Some(t) if t.shape().is_empty() => number(&t),
                    _ => p.to_string(),
                })
                .collect(),
        )
    }

    fn op_formulas(&mut self, function: &'a Function, op: &'a Operation, args: &[Vec<String>], depth: usize) -> Option<Vec<Vec<String>>> {
        let name = op.name.split_once('.').map_or(op.name.as_str(), |(_, n)| n);
        let flat = || -> Vec<String> { args.iter().flatten().cloned().collect() };
        match name {
            "call" => {
                let callee = self.module.functions.get(attrs::word(&op.attrs, "callee")?)?;
                let args: Vec<Vec<String>> = args.to_vec();
                let made = self.block_formulas(callee, None, &callee.body, &args, depth + 1)?;
                Some(made.into_iter().map(|f| vec![f]).collect())
            }
            "tuple" => Some(vec![flat()]),
            "get_tuple_element" => {
                let index = attrs::need_size(&op.attrs, "index").ok()?;
                Some(vec![vec![flat().get(index)?.clone()]])
            }
            "constant" => match op.attrs.get("value")? {
                ModuleAttr::Dense(d) if d.shape.is_empty() => {
                    Some(vec![vec![number(&Tensor::from_literal(&attrs::dense_literal(d).ok()??))]])
                }
                _ => None,
            },
            "compare" => {
                let direction = attrs::word(&op.attrs, "comparison_direction")?;
                let float = matches!(function.types.get(op.operands.first()?.index()),
                    Some(ModuleType::Tensor { element, .. }) if narrow::carried(element).is_some_and(DType::is_float));
                let total = float && attrs::word(&op.attrs, "compare_type") == Some("TOTALORDER");
                Some(vec![vec![format!("{direction}{}({})", if total { "!" } else { "" }, flat().join(","))]])
            }
            "convert" => {
                let ty = |v: ModuleValue| function.types.get(v.index());
                let (from, to) = (ty(*op.operands.first()?)?, ty(*op.results.first()?)?);
                if from == to { Some(vec![flat()]) } else { Some(vec![vec![format!("convert<{to}>({})", flat().join(","))]]) }
            }
            _ if dispatch::is_elementwise(&op.name) && op.results.len() == 1 => Some(vec![vec![format!("{name}({})", flat().join(","))]]),
            _ => None,
        }
    }

    /// The monoids of a body that combines accumulator `k` with element `k` and nothing else: `None` for entries that are none.
    pub fn monoids(&mut self, frame: &Frame<'a>, block: &'a Block) -> Option<Vec<Option<Monoid>>> {
        let n = block.params.len() / 2;
        let dtypes: Vec<Option<DType>> = block.params[..n].iter().map(|p| scalar_type(frame, *p)).collect();
        let formulas = self.formulas(frame, block)?;
        (formulas.len() == n).then(|| formulas.iter().zip(dtypes).enumerate().map(|(k, (f, d))| monoid(f, k, k + n, d?)).collect())
    }

    /// [`monoids`](Self::monoids) when there is one for every operand.
    pub fn all_monoids(&mut self, frame: &Frame<'a>, block: &'a Block) -> Option<Vec<Monoid>> {
        self.monoids(frame, block)?.into_iter().collect()
    }
}

/// The element type of a real scalar in the graph.
pub(super) fn scalar_type(frame: &Frame<'_>, v: ModuleValue) -> Option<DType> {
    match frame.function.types.get(v.index())? {
        ModuleType::Tensor { element, .. } => narrow::carried(element),
        _ => None,
    }
}

/// The monoid whose formula on parameters `a` and `b` this is.
fn monoid(formula: &str, a: usize, b: usize, dtype: DType) -> Option<Monoid> {
    let (name, args) = formula.split_once('(')?;
    if args != format!("p{a},p{b})") && args != format!("p{b},p{a})") {
        return None;
    }
    Some(match name {
        "add" => Monoid::Sum,
        "multiply" => Monoid::Prod,
        "maximum" => Monoid::Max,
        "minimum" => Monoid::Min,
        "and" if !dtype.is_float() => Monoid::And,
        "or" if !dtype.is_float() => Monoid::Or,
        "xor" if !dtype.is_float() => Monoid::Xor,
        _ => return None,
    })
}

/// A number in a formula.
fn number(t: &Tensor) -> String {
    if t.dtype().is_float() { format!("{:?}", t.floats()[0]) } else { t.ints()[0].to_string() }
}
