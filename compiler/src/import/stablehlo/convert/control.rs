//! Control flow: `while` as the loops of the IR, `case` and `if` as all branches and a choice.
//!
//! A `while` whose condition compares a counter with a known bound, and whose body only steps the counter, runs a known number of times: it
//! becomes a `repeat`, and the counter is rebuilt from the number of the iteration. What an iteration hands on unchanged is no slot of the
//! loop but a plain value. In a branch that is not taken, a `while` of unknown length must not run: its predicate is joined with the choice.

use super::super::module::{Block, Element, ModuleAttr, ModuleType, ModuleValue, Operation};
use super::elementwise::direction;
use super::probe::MOST_PROBED;
use super::{Converter, Frame, Parts, Res, attrs, dispatch, leaves, malformed, unsupported};
use girih_ir::graph::ValueId;
use girih_ir::scalar::{BinaryFn, CompareFn, UnaryFn};
use girih_ir::tensor::{Tensor, wrap_int};
use girih_ir::types::{DType, TensorType, Type};
use rustc_hash::FxHashMap;

/// What a loop region does with integers, as far as it matters.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Symbol {
    /// The slot's value at the start of the iteration.
    Slot(usize),
    /// A known integer.
    Known(i64),
    /// A slot plus a known integer.
    Step(usize, i64),
    /// A slot compared with a known integer.
    Test(CompareFn, usize, i64),
    /// A slot compared with a slot.
    TestSlot(CompareFn, usize, usize),
    /// Anything else.
    Other,
}

/// A counter of a loop and how often it makes the loop run.
#[derive(Clone, Copy, Debug)]
struct Counter {
    slot: usize,
    init: i64,
    step: i64,
    trips: usize,
}

impl<'a> Converter<'a> {
    /// `while`
    pub fn while_op(&mut self, frame: &mut Frame<'a>, op: &'a Operation) -> Res<Vec<Parts>> {
        if self.lift.is_some() {
            return unsupported("a loop in a region body");
        }
        let (cond, body) = (self.region(op, 0)?, self.region(op, 1)?);
        let given: Res<Vec<Parts>> = (0..op.operands.len()).map(|i| self.operand_parts(frame, op, i)).collect();
        let counts: Vec<usize> = given.as_ref().map_or(Vec::new(), |g| g.iter().map(|p| p.len()).collect());
        let inits: Vec<ValueId> = given?.into_iter().flatten().collect();
        let test = self.symbols(frame, cond)?;
        let steps = self.symbols(frame, body)?;
        if steps.len() != inits.len() {
            return malformed(format!("the body of a loop returns {} tensors for {}", steps.len(), inits.len()));
        }
        let kept: Vec<bool> = steps.iter().enumerate().map(|(k, s)| *s == Symbol::Slot(k)).collect();
        let outside = self.loops;
        let finals = match self.counter(&test, &steps, &kept, &inits) {
            Some(counter) => self.counted(frame, body, &counts, &inits, &kept, counter)?,
            None => self.uncounted(frame, cond, body, &counts, &inits, &kept)?,
        };
        self.loops = outside;
        Ok(regroup(&finals, &counts))
    }

    fn counted(
        &mut self,
        frame: &mut Frame<'a>,
        body: &'a Block,
        counts: &[usize],
        inits: &[ValueId],
        kept: &[bool],
        counter: Counter,
    ) -> Res<Vec<ValueId>> {
        if counter.trips == 0 {
            return Ok(inits.to_vec());
        }
        if counter.trips == 1 || self.is_probed(body) && counter.trips <= MOST_PROBED {
            let mut values = inits.to_vec();
            for _ in 0..counter.trips {
                let next = self.run(frame, body, &regroup(&values, counts))?;
                values = self.next_values(next, inits)?;
            }
            return Ok(values);
        }
        let slots: Vec<usize> = (0..inits.len()).filter(|k| !kept[*k] && *k != counter.slot).collect();
        let mut finals = inits.to_vec();
        let dtype = self.dtype(inits[counter.slot]);
        let last = counter.init + counter.step * counter.trips as i64;
        finals[counter.slot] = self.graph.constant(&Tensor::scalar_int(dtype, last));
        if slots.is_empty() {
            return Ok(finals);
        }
        let starts: Vec<ValueId> = slots.iter().map(|k| inits[*k]).collect();
        let open = self.graph.begin_loop(&starts);
        self.loops += 1;
        let mut values = inits.to_vec();
        slots.iter().zip(&open.carries).for_each(|(k, c)| values[*k] = *c);
        let index = self.graph.loop_index(&open);
        values[counter.slot] = self.count(index, dtype, counter);
        let next = self.run(frame, body, &regroup(&values, counts))?;
        let next = self.next_values(next, inits)?;
        let next: Vec<ValueId> = slots.iter().map(|k| next[*k]).collect();
        let ends = self.graph.end_repeat(&open, counter.trips, &next);
        slots.iter().zip(ends).for_each(|(k, v)| finals[*k] = v);
        Ok(finals)
    }

    /// The counter in the iteration of this number.
    fn count(&mut self, index: ValueId, dtype: DType, counter: Counter) -> ValueId {
        let mut v = index;
        if counter.step != 1 {
            let step = self.scalar(DType::I64, counter.step);
            v = self.graph.times(v, step);
        }
        if counter.init != 0 {
            let init = self.scalar(DType::I64, counter.init);
            v = self.graph.plus(v, init);
        }
        self.graph.convert(v, dtype)
    }

    fn uncounted(
        &mut self,
        frame: &mut Frame<'a>,
        cond: &'a Block,
        body: &'a Block,
        counts: &[usize],
        inits: &[ValueId],
        kept: &[bool],
    ) -> Res<Vec<ValueId>> {
        let slots: Vec<usize> = (0..inits.len()).filter(|k| !kept[*k]).collect();
        if slots.is_empty() {
            // Such a loop either does nothing or never ends; its condition must be one all the same.
            let test = self.run(frame, cond, &regroup(inits, counts))?;
            self.predicate(&test)?;
            return Ok(inits.to_vec());
        }
        let starts: Vec<ValueId> = slots.iter().map(|k| inits[*k]).collect();
        let open = self.graph.begin_loop(&starts);
        self.loops += 1;
        let mut values = inits.to_vec();
        slots.iter().zip(&open.carries).for_each(|(k, c)| values[*k] = *c);
        let test = self.run(frame, cond, &regroup(&values, counts))?;
        let mut predicate = self.predicate(&test)?;
        if let Some(guard) = self.guard {
            predicate = self.graph.binary(BinaryFn::And, predicate, guard);
        }
        let next = self.run(frame, body, &regroup(&values, counts))?;
        let next = self.next_values(next, inits)?;
        let next: Vec<ValueId> = slots.iter().map(|k| next[*k]).collect();
        let ends = self.graph.end_while(&open, predicate, &next);
        let mut finals = inits.to_vec();
        slots.iter().zip(ends).for_each(|(k, v)| finals[*k] = v);
        Ok(finals)
    }

    fn predicate(&self, returned: &[Parts]) -> Res<ValueId> {
        match returned {
            [p] if p.len() == 1 && *self.graph.ty(p[0]) == Type::Tensor(TensorType::scalar(DType::Bool)) => Ok(p[0]),
            _ => malformed("the condition of a loop returns one tensor<i1>"),
        }
    }

    /// What an iteration hands on, which must have the types of what it was given.
    fn next_values(&self, next: Vec<Parts>, inits: &[ValueId]) -> Res<Vec<ValueId>> {
        let next: Vec<ValueId> = next.into_iter().flatten().collect();
        if next.len() != inits.len() || next.iter().zip(inits).any(|(n, i)| self.graph.ty(*n) != self.graph.ty(*i)) {
            return malformed("the body of a loop returns other types than it takes");
        }
        Ok(next)
    }

    /// What the values that a loop region returns are.
    fn symbols(&mut self, frame: &Frame<'a>, block: &'a Block) -> Res<Vec<Symbol>> {
        let mut known: FxHashMap<ModuleValue, Vec<Symbol>> = FxHashMap::default();
        let width = |v: &ModuleValue| -> Res<usize> {
            match frame.function.types.get(v.index()) {
                Some(ty) if super::is_open(ty) => Ok(1),
                Some(ty) => Ok(leaves(ty)?.len()),
                None => malformed(format!("{v} is no value of the function")),
            }
        };
        let mut slot = 0;
        for p in &block.params {
            let n = width(p)?;
            known.insert(*p, (slot..slot + n).map(Symbol::Slot).collect());
            slot += n;
        }
        let Some((last, ops)) = block.ops.split_last() else { return malformed("a region without a return") };
        for op in ops {
            let args: Vec<Vec<Symbol>> = op.operands.iter().map(|v| self.symbol_of(&known, frame, *v)).collect();
            let made = match (self.symbol(frame, op, &args)?, op.results.as_slice()) {
                (Some(made), [result]) => vec![(*result, made)],
                _ => {
                    let other = |v: &ModuleValue| Ok((*v, vec![Symbol::Other; width(v).unwrap_or(1)]));
                    op.results.iter().map(other).collect::<Res<Vec<_>>>()?
                }
            };
            known.extend(made);
        }
        if !dispatch::returns(&last.name) {
            return malformed(format!("a region ends with `{}` instead of a return", last.name));
        }
        Ok(last.operands.iter().flat_map(|v| self.symbol_of(&known, frame, *v)).collect())
    }

    fn symbol_of(&mut self, known: &FxHashMap<ModuleValue, Vec<Symbol>>, frame: &Frame<'a>, v: ModuleValue) -> Vec<Symbol> {
        if let Some(s) = known.get(&v) {
            return s.clone();
        }
        let Ok(parts) = self.parts(frame, v) else { return vec![Symbol::Other] };
        parts.iter().map(|p| self.known_int(*p).map_or(Symbol::Other, Symbol::Known)).collect()
    }

    /// The symbols of an op with one result; `None` when it is any op.
    fn symbol(&self, frame: &Frame<'a>, op: &Operation, args: &[Vec<Symbol>]) -> Res<Option<Vec<Symbol>>> {
        use Symbol::*;
        let name = op.name.split_once('.').map_or(op.name.as_str(), |(_, n)| n);
        let pair = match args {
            [a, b] if a.len() == 1 && b.len() == 1 => Some((a[0], b[0])),
            _ => None,
        };
        let ty = |v: Option<&ModuleValue>| v.and_then(|v| frame.function.types.get(v.index()));
        // Narrow integers wrap around where their carriers do not.
        if matches!(name, "add" | "subtract") && op.results.iter().any(|v| self.narrow(frame, *v).is_some()) {
            return Ok(None);
        }
        Ok(match (name, pair) {
            ("tuple", _) => Some(args.concat()),
            ("get_tuple_element", _) => {
                let index = attrs::need_size(&op.attrs, "index")?;
                let Some(ModuleType::Tuple(members)) = ty(op.operands.first()) else { return Ok(None) };
                let at: usize = members.iter().take(index).map(|m| leaves(m).map(|l| l.len())).sum::<Res<usize>>()?;
                let Some(own) = members.get(index) else { return Ok(None) };
                args[0].get(at..at + leaves(own)?.len()).map(<[Symbol]>::to_vec)
            }
            ("constant", _) => match op.attrs.get("value") {
                Some(ModuleAttr::Dense(d)) if d.shape.is_empty() && matches!(d.element, Element::Known(t) if t.is_int()) => {
                    attrs::dense_literal(d)?.map(|l| vec![Known(Tensor::from_literal(&l).ints()[0])])
                }
                _ => None,
            },
            ("convert", _) if ty(op.operands.first()) == ty(op.results.first()) => args.first().cloned(),
            ("add", Some((Slot(k), Known(c)) | (Known(c), Slot(k)))) => Some(vec![Step(k, c)]),
            ("subtract", Some((Slot(k), Known(c)))) => Some(vec![c.checked_neg().map_or(Other, |c| Step(k, c))]),
            ("compare", Some((a, b))) => {
                let f = direction(attrs::need_word(&op.attrs, "comparison_direction")?)?;
                match (a, b) {
                    (Slot(k), Known(c)) => Some(vec![Test(f, k, c)]),
                    (Known(c), Slot(k)) => Some(vec![Test(f.swapped(), k, c)]),
                    (Slot(k), Slot(j)) => Some(vec![TestSlot(f, k, j)]),
                    _ => None,
                }
            }
            _ => None,
        })
    }

    /// The counter of a loop that runs a known number of times.
    fn counter(&mut self, test: &[Symbol], steps: &[Symbol], kept: &[bool], inits: &[ValueId]) -> Option<Counter> {
        let [test] = test else { return None };
        let (f, slot, bound) = match *test {
            Symbol::Test(f, slot, bound) => (f, slot, bound),
            Symbol::TestSlot(f, slot, other) if *kept.get(other)? => (f, slot, self.known_int(inits[other])?),
            Symbol::TestSlot(f, other, slot) if *kept.get(other)? => (f.swapped(), slot, self.known_int(inits[other])?),
            _ => return None,
        };
        let Some(Symbol::Step(from, step)) = steps.get(slot).copied() else { return None };
        let init = self.known_int(inits[slot])?;
        let dtype = self.dtype(inits[slot]);
        if from != slot || !dtype.is_int() || (dtype == DType::U64 && (init < 0 || bound < 0)) {
            return None;
        }
        let trips = trips(f, init.into(), step.into(), bound.into())?;
        let last = i128::from(init) + i128::from(step) * trips;
        let last = i64::try_from(last).ok().filter(|l| wrap_int(dtype, *l) == *l);
        last.map(|_| Counter { slot, init, step, trips: trips as usize }).filter(|c| c.trips < 1 << 40)
    }

    /// `case` and `if`
    pub fn case_op(&mut self, frame: &mut Frame<'a>, op: &'a Operation) -> Res<Vec<Parts>> {
        let choice = self.operand(frame, op, 0)?;
        let boolean = self.dtype(choice) == DType::Bool;
        let n = op.regions.len();
        if n == 0 || (boolean && n != 2) {
            return malformed(format!("{n} branches"));
        }
        if let Some(t) = self.known(choice).filter(|t| t.shape().is_empty()) {
            let k = t.ints()[0];
            let k = if boolean { usize::from(k == 0) } else { usize::try_from(k).unwrap_or(n - 1).min(n - 1) };
            let args = self.branch_args(frame, op, k)?;
            return self.run(frame, &op.regions[k], &args);
        }
        // Whether each branch is the one; the last one is when no other is.
        let mut chosen = Vec::with_capacity(n);
        for k in 0..n - 1 {
            chosen.push(if boolean {
                choice
            } else {
                let k = self.graph.splat_like(choice, k as f64);
                self.graph.compare(CompareFn::Eq, choice, k)
            });
        }
        let mut results: Option<Vec<Parts>> = None;
        for k in (0..n).rev() {
            let guard = self.branch_guard(&chosen, k);
            let outer = std::mem::replace(&mut self.guard, guard);
            let args = self.branch_args(frame, op, k);
            let made = args.and_then(|args| self.run(frame, &op.regions[k], &args));
            self.guard = outer;
            let made = made?;
            results = Some(match results {
                None => made,
                Some(others) => self.choose(chosen[k], made, others)?,
            });
        }
        Ok(results.unwrap_or_default())
    }

    /// The condition under which the ops of branch `k` count, inside of what holds already.
    fn branch_guard(&mut self, chosen: &[ValueId], k: usize) -> Option<ValueId> {
        let own = match chosen.get(k) {
            Some(c) => *c,
            None => {
                let any = chosen.iter().copied().reduce(|a, b| self.graph.binary(BinaryFn::Or, a, b))?;
                self.graph.unary(UnaryFn::Not, any)
            }
        };
        if !self.graph.shape(own).is_empty() {
            return self.guard;
        }
        Some(self.guard.map_or(own, |outer| self.graph.binary(BinaryFn::And, outer, own)))
    }

    /// What branch `k` takes: nothing, or its operand in files that have one a branch.
    fn branch_args(&self, frame: &Frame<'a>, op: &'a Operation, k: usize) -> Res<Vec<Parts>> {
        let params = op.regions[k].params.len();
        match params {
            0 => Ok(Vec::new()),
            1 if op.operands.len() == op.regions.len() + 1 => Ok(vec![self.operand_parts(frame, op, k + 1)?]),
            _ => (1..=params).map(|i| self.operand_parts(frame, op, i)).collect(),
        }
    }

    fn choose(&mut self, condition: ValueId, a: Vec<Parts>, b: Vec<Parts>) -> Res<Vec<Parts>> {
        let alike = a.len() == b.len() && a.iter().zip(&b).all(|(a, b)| a.len() == b.len());
        if !alike {
            return malformed("the branches return different types");
        }
        let mut all = Vec::with_capacity(a.len());
        for (a, b) in a.into_iter().zip(b) {
            let parts: Res<Parts> = a.into_iter().zip(b).map(|(a, b)| self.pick(condition, a, b)).collect();
            all.push(parts?);
        }
        Ok(all)
    }
}

/// How often a loop runs whose counter goes from `init` in steps while it compares so with the bound.
fn trips(f: CompareFn, init: i128, step: i128, bound: i128) -> Option<i128> {
    let distance = match (f, step.signum()) {
        (CompareFn::Lt, 1) => bound - init,
        (CompareFn::Le, 1) => bound - init + 1,
        (CompareFn::Gt, -1) => init - bound,
        (CompareFn::Ge, -1) => init - bound + 1,
        (CompareFn::Ne, 1 | -1) if (bound - init) % step == 0 && (bound - init) / step >= 0 => (bound - init).abs(),
        _ => return None,
    };
    let step = step.abs();
    Some(if distance <= 0 { 0 } else { (distance + step - 1) / step })
}

/// Values in groups of these sizes.
fn regroup(values: &[ValueId], counts: &[usize]) -> Vec<Parts> {
    let mut rest = values;
    counts
        .iter()
        .map(|n| {
            let (own, after) = rest.split_at((*n).min(rest.len()));
            rest = after;
            Parts::from_slice(own)
        })
        .collect()
}
