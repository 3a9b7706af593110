//! A fused graph as a list that can be edited in any order: what the passes on one die's memory traffic work on.

use girih_ir::fused::FusedProgram;
use girih_ir::graph::loops::LoopNest;
use girih_ir::graph::{Graph, ValueId};
use girih_ir::ops::fused::Fused;
use girih_ir::ops::proj::Proj;
use girih_ir::ops::{InferError, Op};
use girih_ir::types::{TensorType, Type};
use rustc_hash::FxHashMap;
use smallvec::SmallVec;
use std::sync::Arc;

/// A result of an item.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub(super) struct Ref {
    /// The item.
    pub item: u32,
    /// Which of its results.
    pub part: u32,
}

/// A node that is no `proj`.
#[derive(Clone, Debug)]
pub(super) struct Item {
    /// The op.
    pub op: Op,
    /// Its operands.
    pub args: SmallVec<[Ref; 4]>,
    /// Its type.
    pub ty: Type,
    /// The value that it was.
    pub origin: ValueId,
    /// The innermost loop that it belongs to.
    pub inside: Option<usize>,
    /// Whether it is a group of sums over leading dimensions.
    pub sums: bool,
}

impl Item {
    /// The fused op, when it is one.
    pub fn fused(&self) -> Option<&Fused> {
        if let Op::Fused(f) = &self.op { Some(f) } else { None }
    }
    /// The op, when it is a map.
    pub fn map(&self) -> Option<&Fused> {
        self.fused().filter(|f| f.cols == 0)
    }
}

/// The list.
#[derive(Debug)]
pub(super) struct Items {
    /// Items; not always operands first.
    pub list: Vec<Item>,
    /// The graph's outputs.
    pub outputs: Vec<Ref>,
    users: FxHashMap<Ref, Vec<u32>>,
}

impl Items {
    /// The live nodes of a graph.
    pub fn of(graph: &Graph) -> Items {
        let nest = LoopNest::of(graph).unwrap_or_default();
        let live = graph.live();
        let mut place = vec![Ref { item: 0, part: 0 }; graph.nodes().len()];
        let mut items = Items { list: Vec::new(), outputs: Vec::new(), users: FxHashMap::default() };
        for v in graph.values().filter(|v| live[v.index()] || matches!(graph.node(*v).op, Op::Input(_))) {
            let node = graph.node(v);
            if let Op::Proj(p) = &node.op {
                place[v.index()] = Ref { part: p.index as u32, ..place[node.operands[0].index()] };
                continue;
            }
            place[v.index()] = Ref { item: items.list.len() as u32, part: 0 };
            let args = node.operands.iter().map(|o| place[o.index()]).collect();
            let item = Item { op: node.op.clone(), args, ty: node.ty.clone(), origin: v, inside: nest.innermost(v), sums: false };
            items.list.push(item);
            items.enter(items.list.len() as u32 - 1);
        }
        items.outputs = graph.outputs.iter().map(|o| place[o.value.index()]).collect();
        items
    }

    fn enter(&mut self, item: u32) {
        for a in self.list[item as usize].args.clone() {
            let users = self.users.entry(a).or_default();
            if !users.contains(&item) {
                users.push(item);
            }
        }
    }

    /// Adds an item.
    pub fn push(&mut self, item: Item) -> u32 {
        self.list.push(item);
        let at = self.list.len() as u32 - 1;
        self.enter(at);
        at
    }

    fn leave(&mut self, item: u32) {
        for a in std::mem::take(&mut self.list[item as usize].args) {
            self.users.entry(a).or_default().retain(|u| *u != item);
            if !self.is_live(a.item) {
                self.leave(a.item);
            }
        }
    }

    /// An item.
    pub fn get(&self, item: u32) -> &Item {
        &self.list[item as usize]
    }

    /// The tensor type of a result.
    pub fn ty(&self, r: Ref) -> &TensorType {
        &self.list[r.item as usize].ty.components()[r.part as usize]
    }

    /// The items that read a result, once each.
    pub fn users(&self, r: Ref) -> &[u32] {
        self.users.get(&r).map_or(&[], Vec::as_slice)
    }

    /// Whether a result is an output of the graph.
    pub fn is_output(&self, r: Ref) -> bool {
        self.outputs.contains(&r)
    }

    /// Whether anybody needs a result.
    pub fn is_used(&self, r: Ref) -> bool {
        !self.users(r).is_empty() || self.is_output(r)
    }

    /// The results of an item.
    pub fn results(&self, item: u32) -> impl Iterator<Item = Ref> + use<> {
        (0..self.list[item as usize].ty.components().len() as u32).map(move |part| Ref { item, part })
    }

    fn is_live(&self, item: u32) -> bool {
        matches!(self.list[item as usize].op, Op::Input(_)) || self.results(item).any(|r| self.is_used(r))
    }

    /// Gives an item another op with other operands and the same results.
    pub fn change(&mut self, item: u32, op: Op, args: SmallVec<[Ref; 4]>) {
        let old = std::mem::replace(&mut self.list[item as usize].args, args.clone());
        for a in &old {
            self.users.entry(*a).or_default().retain(|u| *u != item);
        }
        self.list[item as usize].op = op;
        self.enter(item);
        for a in old {
            if !self.is_live(a.item) {
                self.leave(a.item);
            }
        }
    }

    /// Lets all readers of a result read another one.
    pub fn redirect(&mut self, from: Ref, to: Ref) {
        for user in self.users.remove(&from).unwrap_or_default() {
            self.list[user as usize].args.iter_mut().filter(|a| **a == from).for_each(|a| *a = to);
            let users = self.users.entry(to).or_default();
            if !users.contains(&user) {
                users.push(user);
            }
        }
        self.outputs.iter_mut().filter(|o| **o == from).for_each(|o| *o = to);
    }

    /// Forgets the operands of an item that nobody needs any more.
    pub fn drop_if_dead(&mut self, item: u32) {
        if !self.is_live(item) {
            self.leave(item);
        }
    }

    /// Whether an item needs another one, directly or not.
    pub fn needs(&self, item: u32, other: u32) -> bool {
        let mut seen = vec![false; self.list.len()];
        let mut todo = vec![item];
        while let Some(i) = todo.pop() {
            if i == other {
                return true;
            }
            if !std::mem::replace(&mut seen[i as usize], true) {
                todo.extend(self.list[i as usize].args.iter().map(|a| a.item));
            }
        }
        false
    }

    /// A fused op with only those results that are used, and the numbers of these.
    pub fn pruned(&self, item: u32) -> Option<(Fused, SmallVec<[Ref; 4]>, Vec<u32>)> {
        let it = self.get(item);
        let f = it.fused()?;
        let kept: Vec<u32> = self.results(item).filter(|r| self.is_used(*r)).map(|r| r.part).collect();
        Some(with_results(f, &it.args, &kept)).map(|(f, args)| (f, args, kept))
    }

    /// The graph again.
    pub fn into_graph(self, graph: &Graph) -> Result<Graph, InferError> {
        let mut out = Graph::new(graph.name.clone());
        let mut made: FxHashMap<Ref, ValueId> = FxHashMap::default();
        let mut done = vec![false; self.list.len()];
        for input in &graph.inputs {
            let v = out.input(input.name.clone(), graph.tensor_ty(input.value).clone(), input.role);
            let at = self.list.iter().position(|i| i.origin == input.value).unwrap_or_default();
            made.insert(Ref { item: at as u32, part: 0 }, v);
            done[at] = true;
        }
        for first in 0..self.list.len() as u32 {
            if !self.is_live(first) {
                continue;
            }
            let mut todo = vec![first];
            while let Some(i) = todo.last().copied() {
                let open: Vec<u32> = self.get(i).args.iter().map(|a| a.item).filter(|a| !done[*a as usize]).collect();
                if open.is_empty() {
                    todo.pop();
                    if !std::mem::replace(&mut done[i as usize], true) {
                        super::sums::emit(&self, graph, i, &mut out, &mut made)?;
                    }
                } else {
                    todo.extend(open.into_iter().rev());
                }
            }
        }
        for (o, r) in graph.outputs.iter().zip(&self.outputs) {
            out.output(o.name.clone(), made[r]);
        }
        Ok(out)
    }
}

/// Adds an op and notes its results, the `numbers` of the item.
pub(super) fn add(
    out: &mut Graph,
    made: &mut FxHashMap<Ref, ValueId>,
    item: u32,
    op: Op,
    args: &[ValueId],
    numbers: &[u32],
) -> Result<(), InferError> {
    let v = out.add(op, args)?;
    match out.ty(v).clone() {
        Type::Tensor(_) => {
            made.insert(Ref { item, part: numbers.first().copied().unwrap_or_default() }, v);
        }
        Type::Tuple(_) => {
            for (index, part) in numbers.iter().enumerate() {
                let p = out.add(Proj { index }.into(), &[v])?;
                made.insert(Ref { item, part: *part }, p);
            }
        }
    }
    Ok(())
}

/// A fused op with these of its results alone: what only others need is gone.
pub(super) fn with_results(f: &Fused, args: &[Ref], kept: &[u32]) -> (Fused, SmallVec<[Ref; 4]>) {
    let mut b = Builder::default();
    let slots = b.copy(f, args, kept.iter().map(|k| f.program.outputs[*k as usize]), &|l| l);
    b.program.outputs = kept.iter().map(|k| slots[&f.program.outputs[*k as usize]]).collect();
    b.finish(f)
}

/// A program that is put together from parts of others.
#[derive(Default)]
pub(super) struct Builder {
    /// The program.
    pub program: FusedProgram,
    slots: FxHashMap<girih_ir::fused::Expr, u32>,
    /// Operands, and the loop of each of their dimensions.
    pub args: Vec<(Ref, Vec<usize>)>,
}

impl Builder {
    /// The slot of an instruction; an equal one is used again.
    pub fn slot(&mut self, e: girih_ir::fused::Expr) -> u32 {
        if let Some(s) = self.slots.get(&e) {
            return *s;
        }
        self.program.body.push(e);
        let s = self.program.body.len() as u32 - 1;
        self.slots.insert(e, s);
        s
    }

    /// The slot of an operand.
    pub fn input(&mut self, r: Ref, dtype: girih_ir::types::DType, dims: Vec<usize>) -> u32 {
        let known = self.args.iter().position(|(a, d)| *a == r && *d == dims);
        let k = known.unwrap_or_else(|| {
            self.args.push((r, dims));
            self.program.inputs.push(dtype);
            self.args.len() - 1
        });
        self.slot(girih_ir::fused::Expr::Input(k as u32))
    }

    /// Copies what `roots` need of another op, whose loop `l` is loop `of(l)` here. Returns where each of its slots went.
    pub fn copy(&mut self, f: &Fused, args: &[Ref], roots: impl Iterator<Item = u32>, of: &dyn Fn(usize) -> usize) -> FxHashMap<u32, u32> {
        let mut wanted = vec![false; f.program.body.len()];
        roots.for_each(|r| wanted[r as usize] = true);
        for s in (0..wanted.len()).rev() {
            if wanted[s] {
                f.program.body[s].arguments().iter().for_each(|a| wanted[*a as usize] = true);
            }
        }
        let mut slots: FxHashMap<u32, u32> = FxHashMap::default();
        for (s, e) in f.program.body.iter().enumerate().filter(|(s, _)| wanted[*s]) {
            let new = match *e {
                girih_ir::fused::Expr::Input(k) => {
                    let dims = f.operands[k as usize].iter().map(|l| of(*l)).collect();
                    self.input(args[k as usize], f.program.inputs[k as usize], dims)
                }
                girih_ir::fused::Expr::Index(d, l) => self.slot(girih_ir::fused::Expr::Index(d, of(l as usize) as u32)),
                e => self.slot(e.renamed(|s| slots[&s])),
            };
            slots.insert(s as u32, new);
        }
        slots
    }

    /// The op, with the loops of another one.
    pub fn finish(self, like: &Fused) -> (Fused, SmallVec<[Ref; 4]>) {
        let (refs, operands) = self.args.into_iter().unzip::<_, _, Vec<Ref>, Vec<Vec<usize>>>();
        let f = Fused { program: Arc::new(self.program), loops: like.loops.clone(), cols: like.cols, operands };
        (f, SmallVec::from_vec(refs))
    }
}
