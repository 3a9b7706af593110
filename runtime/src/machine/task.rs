//! Tasks: instructions made ready to run, once, when a session begins.
//!
//! Preparing an instruction turns its regions into byte ranges and layouts relative to them, decides which operands are in place or have to be
//! staged, and keeps what the kernel needs. Running it then allocates nothing.

use super::sram::{Bytes, Lease, Moving};
use super::views::Motion;
use girih_ir::literal::Literal;
use girih_ir::ops::gather::Gather as GatherDims;
use girih_ir::ops::random::Random;
use girih_ir::ops::scatter::Scatter as ScatterDims;
use girih_ir::ops::window::WindowDim;
use girih_ir::program::instr::WindowDims;
use girih_ir::program::{Instr, Program, Region};
use girih_ir::scalar::Monoid;
use girih_ir::types::{DType, Dims, Layout};
use girih_kernels::Isa;
use girih_kernels::attention::Chain;
use girih_kernels::conv::{Conv, ConvDims, ConvWindow, winograd_pays, winograd_pays_bf16};
use girih_kernels::gemm::{Gemm, packs_pairs};
use girih_kernels::map::Compiled;
use smallvec::SmallVec;
use std::sync::Arc;

/// Elements in one slice of a lease.
#[derive(Clone, Debug)]
pub struct Spot {
    /// Which slice.
    pub slot: usize,
    /// Element type.
    pub dtype: DType,
    /// Where the elements are in the slice.
    pub layout: Layout,
}

/// Where an operand comes from.
#[derive(Clone, Debug)]
pub enum Feed {
    /// A slice that is read.
    View(Spot),
    /// A staged range: it is copied, dense, before anything is written.
    Staged(Spot),
    /// The elements of result `0`, each read before it is written.
    InPlace(usize),
}

/// What a task does, beyond its operands.
#[derive(Clone, Debug)]
pub enum Work {
    Gemm(Gemm),
    /// A product whose right operand was packed before, and where.
    GemmPacked(Gemm, usize),
    Conv(Conv),
    /// A convolution whose result lies in several runs of bytes: it is computed densely and dealt out over the written slices.
    ConvRuns(Conv),
    Map {
        program: Arc<Compiled>,
        loops: Dims,
        origin: Dims,
    },
    Attention {
        chain: Arc<Chain>,
        origin: Dims,
    },
    Reduce(Monoid),
    ArgReduce {
        max: bool,
        last: bool,
        origin: u64,
    },
    ReduceWindow {
        monoid: Monoid,
        windows: Vec<WindowDim>,
    },
    SelectScatter {
        max: bool,
        windows: Vec<WindowDim>,
    },
    Gather {
        dims: GatherDims,
        origin: Vec<(u64, u64)>,
    },
    Scatter(ScatterDims),
    DynamicSlice,
    DynamicUpdateSlice,
    Scan {
        monoid: Monoid,
        dim: usize,
        exclusive: bool,
        reverse: bool,
    },
    Sort {
        dim: usize,
        descending: bool,
    },
    TopK {
        largest: bool,
    },
    Random {
        random: Random,
        origin: Vec<(u64, u64)>,
    },
    Copy,
    Pad {
        low: Vec<i64>,
        interior: Vec<usize>,
    },
    Concat {
        dim: usize,
    },
    Fill {
        bits: u64,
    },
    Constant {
        literal: Literal,
        starts: Dims,
    },
    Iota {
        dim: usize,
        start: u64,
    },
}

/// An instruction, or a part of one, made ready.
#[derive(Clone, Debug)]
pub struct Task {
    /// What to do.
    pub work: Work,
    /// Operands.
    pub ins: SmallVec<[Feed; 4]>,
    /// Results: result `k` is written slice `k`.
    pub outs: SmallVec<[Spot; 2]>,
    /// The bytes that all of it touches.
    pub lease: Lease,
}

/// Packed operands are at most so many elements long.
const MOST_PACKED: usize = 2 << 20;
/// Products of more rows repay packing by themselves.
const MOST_ROWS: usize = 512;

/// A right operand that may be packed ahead.
#[derive(Clone, Debug)]
pub struct Packable {
    /// Where it is, relative to its bytes.
    pub layout: Layout,
    /// Its element type: f32 or bf16.
    pub dtype: DType,
    /// Rows that it meets.
    pub rows: usize,
}

impl Task {
    /// The right operand of a product, if it may be packed ahead.
    pub fn packable(&self, isa: Isa) -> Option<Packable> {
        let (Work::Gemm(gemm), [a, Feed::View(b)]) = (&self.work, &self.ins[..]) else { return None };
        let g = squeezed(gemm);
        let (m, n, k) = g.extents();
        let fits = g.out.dims.len() == 2 && g.out.strides[1] == 1 && m <= MOST_ROWS && n.saturating_mul(k) <= MOST_PACKED && m * n * k > 0;
        let has_type = match b.dtype {
            DType::F32 => true,
            DType::BF16 => {
                let rows = matches!(a, Feed::View(a) | Feed::Staged(a) if a.dtype == DType::BF16) && g.a.strides.contains(&1);
                rows && matches!(self.outs[0].dtype, DType::F32 | DType::BF16) && packs_pairs(isa)
            }
            _ => false,
        };
        (fits && has_type).then_some(Packable { layout: g.b, dtype: b.dtype, rows: m })
    }
}

/// The product without batch dimensions of extent 1.
pub fn squeezed(g: &Gemm) -> Gemm {
    let rank = g.out.dims.len();
    let kept: SmallVec<[usize; 6]> = (0..rank).filter(|d| *d + 2 >= rank || g.out.dims[*d] != 1).collect();
    let layout = |l: &Layout| Layout {
        base: l.base,
        dims: kept.iter().map(|d| l.dims[*d]).collect(),
        strides: kept.iter().map(|d| l.strides[*d]).collect(),
    };
    Gemm { a: layout(&g.a), b: layout(&g.b), out: layout(&g.out), ..g.clone() }
}

/// Fused programs made ready, so that instructions share them.
#[derive(Debug, Default)]
pub struct Programs {
    /// By program and columns, in order.
    maps: Vec<((u32, u32), Arc<Compiled>)>,
    /// By the programs of the weights and of the scores.
    chains: Vec<((u32, Option<u32>), Arc<Chain>)>,
}

impl Programs {
    fn get(&mut self, program: &Program, id: u32, cols: u32) -> Result<Arc<Compiled>, String> {
        match self.maps.binary_search_by_key(&(id, cols), |e| e.0) {
            Ok(at) => Ok(self.maps[at].1.clone()),
            Err(at) => {
                let fused = program.fused.get(id as usize).ok_or_else(|| format!("there is no fused program f{id}"))?;
                let made = Arc::new(Compiled::new(fused, cols as usize).map_err(|e| e.to_string())?);
                self.maps.insert(at, ((id, cols), made.clone()));
                Ok(made)
            }
        }
    }

    fn chain(&mut self, program: &Program, weights: u32, scores: Option<u32>) -> Result<Arc<Chain>, String> {
        let key = (weights, scores);
        if let Some((_, known)) = self.chains.iter().find(|e| e.0 == key) {
            return Ok(known.clone());
        }
        let get = |id: u32| program.fused.get(id as usize).ok_or_else(|| format!("there is no fused program f{id}"));
        let scores = scores.map(get).transpose()?;
        let made = Arc::new(Chain::new(get(weights)?, scores.map(|p| &**p)).map_err(|e| e.to_string())?);
        self.chains.push((key, made.clone()));
        Ok(made)
    }
}

/// The byte range of a region; what is wrong with it otherwise.
pub fn extent(region: &Region) -> Result<Bytes, String> {
    let size = region.dtype.size() as u64;
    let range = region.extent().filter(|_| region.strides.len() == region.dims.len());
    match range {
        Some(r) if region.offset.is_multiple_of(size) && r.end <= usize::MAX as u64 => Ok(r.start as usize..r.end as usize),
        _ => Err(format!("the region at {:#x} of {} is misaligned or leaves the address space", region.offset, region.dtype)),
    }
}

/// Collects operands and byte ranges into feeds, results and a lease.
struct Operands<'m> {
    reads: SmallVec<[Moving; 4]>,
    staged: SmallVec<[Moving; 2]>,
    ins: SmallVec<[Feed; 4]>,
    outs: SmallVec<[Spot; 2]>,
    writes: SmallVec<[Moving; 2]>,
    out_regions: SmallVec<[Region; 2]>,
    motion: &'m Motion,
}

impl<'m> Operands<'m> {
    fn new(outs: &[&Region], motion: &'m Motion) -> Result<Self, String> {
        let mut o = Operands {
            reads: SmallVec::new(),
            staged: SmallVec::new(),
            ins: SmallVec::new(),
            outs: SmallVec::new(),
            writes: SmallVec::new(),
            out_regions: outs.iter().map(|r| (*r).clone()).collect(),
            motion,
        };
        for (slot, region) in outs.iter().enumerate() {
            let bytes = extent(region)?;
            o.outs.push(Spot { slot, dtype: region.dtype, layout: region.layout(bytes.start as u64) });
            o.writes.push(Moving { bytes, step: motion.write(slot) });
        }
        Ok(o)
    }

    /// Adds an operand. `in_place`: it may be a result; `stage`: it has to be dense.
    fn read(&mut self, region: &Region, in_place: bool, stage: bool) -> Result<(), String> {
        let step = self.motion.read(self.ins.len());
        let same = |k: usize, o: &Region| in_place && o == region && o.elements() > 0 && self.motion.write(k) == step;
        if let Some(k) = self.out_regions.iter().enumerate().position(|(k, o)| same(k, o)) {
            self.ins.push(Feed::InPlace(k));
            return Ok(());
        }
        let bytes = extent(region)?;
        // An operand without elements may have any type; kernels want the right one.
        let dtype = if region.elements() == 0 { self.outs.first().map_or(region.dtype, |o| o.dtype) } else { region.dtype };
        let spot = |slot| Spot { slot, dtype, layout: region.layout(bytes.start as u64) };
        let range = Moving { bytes: bytes.clone(), step };
        if stage || self.writes.iter().any(|w| w.meets(&range, self.motion.trips())) {
            self.ins.push(Feed::Staged(spot(self.staged.len())));
            self.staged.push(range);
        } else {
            self.ins.push(Feed::View(spot(self.reads.len())));
            self.reads.push(range);
        }
        Ok(())
    }

    /// The layout that the kernel sees of operand `k`.
    fn layout(&self, k: usize) -> Layout {
        match &self.ins[k] {
            Feed::View(s) => s.layout.clone(),
            Feed::Staged(s) => Layout::dense(&s.layout.dims),
            Feed::InPlace(k) => self.outs[*k].layout.clone(),
        }
    }

    fn task(self, work: Work) -> Result<Option<Task>, String> {
        let lease = Lease::moving(self.reads, self.writes, self.staged, self.motion.trips());
        Ok(Some(Task { work, ins: self.ins, outs: self.outs, lease: lease.ok_or("two results overlap")? }))
    }
}

/// The window attributes with the extents of the operand and, unless the window gives sizes, of a filter.
pub fn window_dims(window: &WindowDims, extents: &[usize], sizes: &[usize]) -> Result<Vec<WindowDim>, String> {
    let n = extents.len();
    let lists =
        [window.stride.len(), window.pad_low.len(), window.pad_high.len(), window.base_dilation.len(), window.window_dilation.len()];
    if lists != [n; 5] || sizes.len() != n || !(window.reverse.is_empty() || window.reverse.len() == n) {
        return Err(format!("its window lists do not have {n} entries"));
    }
    let dim = |d: usize| WindowDim {
        extent: extents[d],
        window: sizes[d],
        stride: window.stride[d],
        pad_low: window.pad_low[d],
        pad_high: window.pad_high[d],
        base_dilation: window.base_dilation[d],
        window_dilation: window.window_dilation[d],
        reverse: window.reverse.get(d).copied().unwrap_or(false),
    };
    Ok((0..n).map(dim).collect())
}

/// Makes an instruction ready, whose regions move like this in the loop around; `None` when there is nothing to do (queue and control
/// instructions, relabels).
pub fn prepare(instr: &Instr, motion: &Motion, program: &Program, programs: &mut Programs) -> Result<Option<Task>, String> {
    let mut o = Operands::new(&instr.writes(), motion)?;
    let simple = |mut o: Operands<'_>, work: Work| {
        instr.reads().into_iter().try_for_each(|r| o.read(r, false, false))?;
        o.task(work)
    };
    match instr {
        Instr::Gemm { out, a, b, batch, contract } => gemm(o, out, a, b, *batch as usize, *contract as usize),
        Instr::Conv { lhs, rhs, window, feature_groups, batch_groups, .. } => {
            o.read(lhs, false, false)?;
            o.read(rhs, false, false)?;
            let mut work = conv(&o, window, *feature_groups as usize, *batch_groups as usize)?;
            if let (Work::Conv(c), Some((runs, layout))) = (&work, runs_of(instr.writes()[0])?) {
                work = Work::ConvRuns(Conv { out: layout, ..c.clone() });
                o.writes = runs.into_iter().map(|bytes| Moving { bytes, step: motion.write(0) }).collect();
            }
            o.task(work)
        }
        Instr::Map { program: id, loops, cols, origin, ins, .. } => {
            ins.iter().try_for_each(|r| o.read(r, true, false))?;
            let program = programs.get(program, id.0, *cols)?;
            o.task(Work::Map { program, loops: loops.clone(), origin: origin.clone() })
        }
        Instr::Attention { weights, scores, origin, .. } => {
            let chain = programs.chain(program, weights.0, scores.map(|s| s.0))?;
            simple(o, Work::Attention { chain, origin: origin.clone() })
        }
        Instr::Reduce { monoid, .. } => simple(o, Work::Reduce(*monoid)),
        Instr::ArgReduce { max, last, origin, .. } => simple(o, Work::ArgReduce { max: *max, last: *last, origin: *origin }),
        Instr::ReduceWindow { monoid, input, window, .. } => {
            let windows = window_dims(window, &input.dims, &window.size)?;
            simple(o, Work::ReduceWindow { monoid: *monoid, windows })
        }
        Instr::SelectScatter { max, input, window, .. } => {
            let windows = window_dims(window, &input.dims, &window.size)?;
            simple(o, Work::SelectScatter { max: *max, windows })
        }
        Instr::Gather { dims, origin, .. } => simple(o, Work::Gather { dims: dims.clone(), origin: origin.clone() }),
        Instr::Scatter { operand, indices, updates, dims, .. } => {
            o.read(operand, true, false)?;
            o.read(indices, false, false)?;
            o.read(updates, false, false)?;
            o.task(Work::Scatter(dims.clone()))
        }
        Instr::DynamicSlice { .. } => simple(o, Work::DynamicSlice),
        Instr::DynamicUpdateSlice { operand, update, starts, .. } => {
            o.read(operand, true, false)?;
            o.read(update, false, false)?;
            starts.iter().try_for_each(|s| o.read(s, false, false))?;
            o.task(Work::DynamicUpdateSlice)
        }
        Instr::Scan { monoid, dim, exclusive, reverse, .. } => {
            simple(o, Work::Scan { monoid: *monoid, dim: *dim as usize, exclusive: *exclusive, reverse: *reverse })
        }
        Instr::Sort { dim, descending, .. } => simple(o, Work::Sort { dim: *dim as usize, descending: *descending }),
        Instr::TopK { largest, .. } => simple(o, Work::TopK { largest: *largest }),
        Instr::Random { random, origin, .. } => simple(o, Work::Random { random: random.clone(), origin: origin.clone() }),
        Instr::Copy { out, input } if out == input && motion.read(0) == motion.write(0) => Ok(None),
        Instr::Copy { .. } => simple(o, Work::Copy),
        Instr::Pad { low, interior, .. } => simple(o, Work::Pad { low: low.clone(), interior: interior.clone() }),
        Instr::Concat { dim, .. } => simple(o, Work::Concat { dim: *dim as usize }),
        Instr::Fill { bits, .. } => o.task(Work::Fill { bits: *bits }),
        Instr::Constant { literal, starts, .. } => {
            let literal = program.literals.get(literal.index()).ok_or_else(|| format!("there is no constant {literal}"))?.clone();
            o.task(Work::Constant { literal, starts: starts.clone() })
        }
        Instr::Iota { dim, start, .. } => o.task(Work::Iota { dim: *dim as usize, start: *start }),
        Instr::Send { .. }
        | Instr::Recv { .. }
        | Instr::RecvAdd { .. }
        | Instr::Load { .. }
        | Instr::Store { .. }
        | Instr::Wait { .. }
        | Instr::Loop { .. }
        | Instr::ExitUnless { .. }
        | Instr::EndLoop
        | Instr::AllReduce { .. }
        | Instr::End => Ok(None),
    }
}

/// The dimensions as one, if one stride walks them all.
fn merged(dims: &[usize], strides: &[i64]) -> Option<(usize, i64)> {
    let (mut size, mut stride) = (1usize, None);
    for (d, s) in dims.iter().zip(strides).rev().filter(|(d, _)| **d != 1) {
        match stride {
            None => stride = Some(*s),
            Some(inner) if *s == inner * size as i64 => {}
            Some(_) => return None,
        }
        size *= d;
    }
    Some((size, stride.unwrap_or(0)))
}

/// Free dimensions but the last go to the batch, where the other operand does not move; contracting ones become one, by staging if need be.
fn gemm(mut o: Operands<'_>, out: &Region, a: &Region, b: &Region, batch: usize, contract: usize) -> Result<Option<Task>, String> {
    let free = |r: &Region| r.dims.len().checked_sub(batch + contract);
    let (Some(nm), Some(nn)) = (free(a), free(b)) else {
        return Err("its operands have fewer dimensions than `batch` and `contract` say".into());
    };
    if out.dims.len() != batch + nm + nn || a.strides.len() != a.dims.len() || b.strides.len() != b.dims.len() {
        return Err("its result does not have the batch and free dimensions of its operands".into());
    }
    let scattered = |r: &Region, n: usize| merged(&r.dims[batch + n..], &r.strides[batch + n..]).is_none();
    o.read(a, false, scattered(a, nm))?;
    o.read(b, false, scattered(b, nn))?;
    let (la, lb, lo) = (o.layout(0), o.layout(1), o.outs[0].layout.clone());
    let k_of = |l: &Layout, n: usize| {
        let strides: SmallVec<[i64; 6]> = l.strides[batch + n..].iter().map(|s| *s as i64).collect();
        merged(&l.dims[batch + n..], &strides).map(|(k, s)| (k, s as isize))
    };
    let ((ka, sa), (kb, sb)) = (k_of(&la, nm).unwrap_or((0, 0)), k_of(&lb, nn).unwrap_or((0, 0)));
    let part = |l: &Layout, range: std::ops::Range<usize>| -> Vec<(usize, isize)> { range.map(|d| (l.dims[d], l.strides[d])).collect() };
    let still = |list: &[(usize, isize)]| -> Vec<(usize, isize)> { list.iter().map(|(d, _)| (*d, 0)).collect() };
    let last = |list: &mut Vec<(usize, isize)>| list.pop().unwrap_or((1, 0));
    let (mut am, mut bn) = (part(&la, batch..batch + nm), part(&lb, batch..batch + nn));
    let (mut om, mut on) = (part(&lo, batch..batch + nm), part(&lo, batch + nm..batch + nm + nn));
    let (a_last, b_last, om_last, on_last) = (last(&mut am), last(&mut bn), last(&mut om), last(&mut on));
    let layout = |base: usize, groups: &[&[(usize, isize)]]| {
        let all: Vec<(usize, isize)> = groups.iter().flat_map(|g| g.iter().copied()).collect();
        Layout { base, dims: all.iter().map(|x| x.0).collect(), strides: all.iter().map(|x| x.1).collect() }
    };
    let g = Gemm::new(
        layout(la.base, &[&part(&la, 0..batch), &am, &still(&bn), &[a_last, (ka, sa)]]),
        layout(lb.base, &[&part(&lb, 0..batch), &still(&am), &bn, &[(kb, sb), b_last]]),
        layout(lo.base, &[&part(&lo, 0..batch), &om, &on, &[om_last, on_last]]),
    );
    o.task(Work::Gemm(g))
}

fn conv(o: &Operands<'_>, window: &WindowDims, feature_groups: usize, batch_groups: usize) -> Result<Work, String> {
    let (lhs, rhs) = (o.layout(0), o.layout(1));
    let spatial = lhs.dims.get(2..).ok_or("its input has fewer than two dimensions")?;
    let sizes = rhs.dims.get(2..).ok_or("its filter has fewer than two dimensions")?;
    let windows = window_dims(window, spatial, sizes)?;
    let window = windows.iter().map(|w| ConvWindow {
        stride: w.stride,
        pad_low: w.pad_low as isize,
        pad_high: w.pad_high as isize,
        lhs_dilation: w.base_dilation,
        rhs_dilation: w.window_dilation,
        reverse: w.reverse,
    });
    let dims = ConvDims { window: window.collect(), feature_groups, batch_groups };
    let mut conv = Conv { lhs, rhs, out: o.outs[0].layout.clone(), dims, accumulate: false, transform: false };
    conv.transform = match o.outs[0].dtype {
        DType::F32 => winograd_pays(&conv),
        DType::BF16 => winograd_pays_bf16(&conv),
        _ => false,
    };
    Ok(Work::Conv(conv))
}

/// Most runs of bytes of one result: the taps of a 3×3 kernel on three channels.
pub const RUNS: usize = 27;

/// The runs of bytes of a region that does not fill its extent, and the layout of its elements when the runs are put together; `None`
/// when it is one run, or too many, or its elements are not apart.
pub fn runs_of(region: &Region) -> Result<Option<(SmallVec<[Bytes; 2]>, Layout)>, String> {
    let whole = extent(region)?;
    let size = region.dtype.size();
    let elements = region.elements();
    if whole.len() == elements * size || region.strides.iter().zip(&region.dims).any(|(s, d)| *s < 0 && *d > 1) {
        return Ok(None);
    }
    let mut order: SmallVec<[usize; 6]> = (0..region.dims.len()).filter(|d| region.dims[*d] > 1).collect();
    order.sort_by_key(|d| region.strides[*d]);
    let mut layout = Layout::dense(&region.dims);
    // The strides of dimensions of extent 1 reach no element, but kernels choose by them.
    layout.strides.iter_mut().zip(&region.strides).for_each(|(s, r)| *s = *r as isize);
    let (mut run, mut joined, mut apart) = (1usize, true, true);
    let mut step = 1usize;
    let mut starts: SmallVec<[usize; RUNS]> = SmallVec::from_elem(0, 1);
    for d in order {
        let (stride, dim) = (region.strides[d] as usize, region.dims[d]);
        joined &= stride == step;
        layout.strides[d] = step as isize;
        step *= dim;
        if joined {
            run = step;
            continue;
        }
        apart &= stride >= starts.iter().max().map_or(0, |s| s + run);
        if starts.len() * dim > RUNS || !apart {
            return Ok(None);
        }
        let inner = starts.clone();
        starts = (0..dim).flat_map(|i| inner.iter().map(move |s| s + i * stride)).collect();
    }
    let runs = starts.iter().map(|s| whole.start + s * size..whole.start + (s + run) * size).collect();
    Ok(Some((runs, layout)))
}

/// The convolution of an instruction, as if nothing were staged; `None` for other instructions and ill-formed windows.
pub fn conv_of(instr: &Instr) -> Option<Conv> {
    let Instr::Conv { lhs, rhs, out, .. } = instr else { return None };
    let still = Motion::default();
    let mut o = Operands::new(&[out], &still).ok()?;
    [lhs, rhs].into_iter().try_for_each(|r| o.read(r, false, false)).ok()?;
    let Instr::Conv { window, feature_groups, batch_groups, .. } = instr else { return None };
    match conv(&o, window, *feature_groups as usize, *batch_groups as usize) {
        Ok(Work::Conv(c)) => Some(c),
        _ => None,
    }
}
