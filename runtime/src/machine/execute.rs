//! Runs one task on one die's SRAM: slices in, kernel call, nothing else.

use super::sram::{Access, Views};
use super::strided::{self, Block};
use super::task::{Feed, Packable, Spot, Task, Work};
use girih_ir::ops::random::Stream;
use girih_ir::types::{DType, Layout};
use girih_kernels::attention::{self, AttentionScratch};
use girih_kernels::buffer::{Buf, BufMut, View, ViewMut};
use girih_kernels::conv::{Conv, conv, conv_bf16, conv_bf16_sums, conv_reference};
use girih_kernels::element::Element;
use girih_kernels::gemm::{Gemm, PackedB, gemm, gemm_bf16, gemm_generic, gemm_packed, gemm_packed_bf16};
use girih_kernels::lane::{F8E4M3, F8E5M2};
use girih_kernels::map::{self, MapScratch};
use girih_kernels::{Isa, KernelError, Scratch};
use girih_kernels::{copy, gather, random, reduce, scan, sort, window};
use half::{bf16, f16};
use smallvec::SmallVec;

/// Working memory of one worker.
#[derive(Default)]
pub struct Bench {
    gemm: Scratch,
    map: MapScratch,
    stage: Vec<Block>,
    runs: Block,
    packed: Vec<PackedB>,
    attention: AttentionScratch,
}

impl Bench {
    /// Empty working memory; it grows to what the tasks need.
    pub fn new() -> Self {
        Bench::default()
    }
}

impl std::fmt::Debug for Bench {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Bench({} bytes)", self.gemm.bytes())
    }
}

fn view<'a>(spot: &Spot, bytes: &'a [u8]) -> Result<View<'a>, KernelError> {
    View::new(Buf::new(spot.dtype, bytes)?, spot.layout.clone())
}

fn view_mut<'a>(spot: &Spot, bytes: &'a mut [u8]) -> Result<ViewMut<'a>, KernelError> {
    ViewMut::new(BufMut::new(spot.dtype, bytes)?, spot.layout.clone())
}

/// Runs the task.
pub fn run(task: &Task, mut access: Access<'_>, isa: Isa, bench: &mut Bench) -> Result<(), KernelError> {
    for feed in &task.ins {
        let Feed::Staged(spot) = feed else { continue };
        if bench.stage.len() <= spot.slot {
            bench.stage.resize_with(spot.slot + 1, Block::default);
        }
        let (size, dims) = (spot.dtype.size(), &spot.layout.dims);
        let dense = bench.stage[spot.slot].take(spot.layout.elements() * size);
        strided::copy(size, access.staged(spot.slot), &spot.layout, dense, &Layout::dense(dims));
    }
    let Views { reads, mut writes } = access.views();
    match &task.work {
        Work::Gemm(g) => {
            let [a, b] = pair(task, &reads, &bench.stage)?;
            return run_gemm(isa, g, task.outs[0].dtype, &a, &b, &mut *writes[0], &mut bench.gemm);
        }
        Work::GemmPacked(g, slot) => {
            let [a, _] = pair(task, &reads, &bench.stage)?;
            let packed = bench.packed.get(*slot).ok_or(KernelError::Attribute {
                name: "packed operand",
                value: *slot as i64,
                rule: "it has to be packed before the loop",
            })?;
            let (out, dtype, scratch) = (&mut *writes[0], task.outs[0].dtype, &mut bench.gemm);
            return match (a.dtype(), dtype) {
                (DType::BF16, DType::F32) => {
                    gemm_packed_bf16::<bf16, f32>(g, typed(a.bytes(), a.dtype())?, packed, typed_mut(out, dtype)?, scratch)
                }
                (DType::BF16, _) => {
                    gemm_packed_bf16::<bf16, bf16>(g, typed(a.bytes(), a.dtype())?, packed, typed_mut(out, dtype)?, scratch)
                }
                _ => gemm_packed(g, typed(a.bytes(), a.dtype())?, packed, typed_mut(out, dtype)?, scratch),
            };
        }
        Work::Conv(c) => {
            let [a, b] = pair(task, &reads, &bench.stage)?;
            return run_conv(isa, c, task.outs[0].dtype, &a, &b, &mut *writes[0], &mut bench.gemm);
        }
        Work::ConvRuns(c) => {
            let [a, b] = pair(task, &reads, &bench.stage)?;
            let dtype = task.outs[0].dtype;
            let dense = bench.runs.take(c.out.elements() * dtype.size());
            run_conv(isa, c, dtype, &a, &b, dense, &mut bench.gemm)?;
            let mut rest = &*dense;
            for run in &mut writes {
                let (first, others) = rest.split_at(run.len().min(rest.len()));
                run[..first.len()].copy_from_slice(first);
                rest = others;
            }
            return Ok(());
        }
        _ => {}
    }
    let mut outs: SmallVec<[ViewMut<'_>; 2]> = SmallVec::new();
    for (spot, bytes) in task.outs.iter().zip(writes) {
        outs.push(view_mut(spot, bytes)?);
    }
    let ins: SmallVec<[map::Operand<'_>; 4]> = task.ins.iter().map(|f| feed_view(f, &reads, &bench.stage)).collect::<Result<_, _>>()?;
    if let Work::Attention { chain, origin } = &task.work {
        let ins: SmallVec<[View<'_>; 6]> = (0..ins.len()).map(|k| input(&ins, k).cloned()).collect::<Result<_, _>>()?;
        let mut memory = attention::Memory { own: &mut bench.attention, gemm: &mut bench.gemm, map: &mut bench.map };
        return attention::run(isa, chain, origin, &ins, &mut outs, &mut memory);
    }
    if let Work::Map { program, loops, origin } = &task.work {
        return map::run(isa, program, loops, origin, &ins, &mut outs, &mut bench.map);
    }
    run_plain(&task.work, isa, &ins, &mut outs)
}

/// Packs the right operand of a product.
pub fn pack(slot: usize, operand: &Packable, b: &[u8], isa: Isa, bench: &mut Bench) -> Result<(), KernelError> {
    if bench.packed.len() <= slot {
        bench.packed.resize_with(slot + 1, PackedB::default);
    }
    let packed = &mut bench.packed[slot];
    match operand.dtype {
        DType::BF16 => packed.pack_bf16::<bf16>(isa, &operand.layout, typed(b, DType::BF16)?, &mut bench.gemm),
        dtype => packed.pack(isa, &operand.layout, typed(b, dtype)?, operand.rows),
    }
}

fn feed_view<'a>(feed: &Feed, reads: &[&'a [u8]], stage: &'a [Block]) -> Result<map::Operand<'a>, KernelError> {
    Ok(match feed {
        Feed::View(spot) => map::Operand::Read(view(spot, reads[spot.slot])?),
        Feed::Staged(spot) => {
            let bytes = stage[spot.slot].held(spot.layout.elements() * spot.dtype.size());
            map::Operand::Read(View::dense(Buf::new(spot.dtype, bytes)?, &spot.layout.dims)?)
        }
        Feed::InPlace(k) => map::Operand::InPlace(*k),
    })
}

/// The bytes of the two operands of a contraction, which are never in place.
fn pair<'a>(task: &Task, reads: &[&'a [u8]], stage: &'a [Block]) -> Result<[Buf<'a>; 2], KernelError> {
    let one = |feed: &Feed| match feed {
        Feed::Staged(spot) => Buf::new(spot.dtype, stage[spot.slot].held(spot.layout.elements() * spot.dtype.size())),
        Feed::View(spot) => Buf::new(spot.dtype, reads[spot.slot]),
        Feed::InPlace(_) => Buf::new(DType::U8, &[]),
    };
    Ok([one(&task.ins[0])?, one(&task.ins[1])?])
}

fn typed<T: bytemuck::Pod>(bytes: &[u8], dtype: DType) -> Result<&[T], KernelError> {
    bytemuck::try_cast_slice(bytes).map_err(|_| KernelError::Misaligned { operand: "input", dtype })
}

fn typed_mut<T: bytemuck::Pod>(bytes: &mut [u8], dtype: DType) -> Result<&mut [T], KernelError> {
    bytemuck::try_cast_slice_mut(bytes).map_err(|_| KernelError::Misaligned { operand: "out", dtype })
}

/// A contraction with its operands in one of the element types.
macro_rules! by_element {
    ($dtype:expr, $t:ident => $body:expr) => {
        match $dtype {
            DType::F32 => {
                type $t = f32;
                $body
            }
            DType::BF16 => {
                type $t = bf16;
                $body
            }
            DType::F16 => {
                type $t = f16;
                $body
            }
            DType::F64 => {
                type $t = f64;
                $body
            }
            DType::I8 => {
                type $t = i8;
                $body
            }
            DType::U8 => {
                type $t = u8;
                $body
            }
            DType::I16 => {
                type $t = i16;
                $body
            }
            DType::U16 => {
                type $t = u16;
                $body
            }
            DType::I32 => {
                type $t = i32;
                $body
            }
            DType::U32 => {
                type $t = u32;
                $body
            }
            DType::I64 => {
                type $t = i64;
                $body
            }
            DType::U64 => {
                type $t = u64;
                $body
            }
            DType::F8E4M3FN => {
                type $t = F8E4M3;
                $body
            }
            DType::F8E5M2 => {
                type $t = F8E5M2;
                $body
            }
            DType::Bool => Err(KernelError::ElementType { operand: "out", have: DType::Bool, want: DType::F32 }),
        }
    };
}

fn same_types(dtype: DType, a: &Buf<'_>, b: &Buf<'_>) -> Result<(), KernelError> {
    for (operand, have) in [("a", a.dtype()), ("b", b.dtype())] {
        if have != dtype {
            return Err(KernelError::ElementType { operand, have, want: dtype });
        }
    }
    Ok(())
}

fn run_gemm(isa: Isa, g: &Gemm, dtype: DType, a: &Buf<'_>, b: &Buf<'_>, out: &mut [u8], scratch: &mut Scratch) -> Result<(), KernelError> {
    if dtype == DType::F32 && a.dtype() != dtype {
        return gemm_sums(isa, g, a, b, typed_mut(out, dtype)?, scratch);
    }
    same_types(dtype, a, b)?;
    if dtype == DType::F32 {
        return gemm(isa, g, typed(a.bytes(), dtype)?, typed(b.bytes(), dtype)?, typed_mut(out, dtype)?, scratch);
    }
    if dtype == DType::BF16 {
        return gemm_bf16::<bf16, bf16, bf16>(isa, g, typed(a.bytes(), dtype)?, typed(b.bytes(), dtype)?, typed_mut(out, dtype)?, scratch);
    }
    fn generic<T: Element + bytemuck::Pod>(g: &Gemm, dtype: DType, a: &[u8], b: &[u8], out: &mut [u8]) -> Result<(), KernelError> {
        gemm_generic::<T, T>(g, typed(a, dtype)?, typed(b, dtype)?, typed_mut(out, dtype)?)
    }
    by_element!(dtype, T => generic::<T>(g, dtype, a.bytes(), b.bytes(), out))
}

/// A product of narrower floats whose sums are not rounded.
fn gemm_sums(isa: Isa, g: &Gemm, a: &Buf<'_>, b: &Buf<'_>, out: &mut [f32], scratch: &mut Scratch) -> Result<(), KernelError> {
    let dtype = a.dtype();
    same_types(dtype, a, b)?;
    let (x, y) = (a.bytes(), b.bytes());
    match dtype {
        DType::BF16 => gemm_bf16::<bf16, bf16, f32>(isa, g, typed(x, dtype)?, typed(y, dtype)?, out, scratch),
        DType::F16 => gemm_generic::<f16, f32>(g, typed(x, dtype)?, typed(y, dtype)?, out),
        DType::F8E4M3FN => gemm_generic::<F8E4M3, f32>(g, typed(x, dtype)?, typed(y, dtype)?, out),
        DType::F8E5M2 => gemm_generic::<F8E5M2, f32>(g, typed(x, dtype)?, typed(y, dtype)?, out),
        have => Err(KernelError::ElementType { operand: "a", have, want: DType::F32 }),
    }
}

/// A convolution of narrower floats whose sums are not rounded.
fn conv_sums(isa: Isa, c: &Conv, a: &Buf<'_>, b: &Buf<'_>, out: &mut [f32], scratch: &mut Scratch) -> Result<(), KernelError> {
    let dtype = a.dtype();
    same_types(dtype, a, b)?;
    let (x, y) = (a.bytes(), b.bytes());
    match dtype {
        DType::BF16 => conv_bf16_sums(isa, c, typed(x, dtype)?, typed(y, dtype)?, out, scratch),
        DType::F16 => conv_reference::<f16, f32>(c, typed(x, dtype)?, typed(y, dtype)?, out),
        DType::F8E4M3FN => conv_reference::<F8E4M3, f32>(c, typed(x, dtype)?, typed(y, dtype)?, out),
        DType::F8E5M2 => conv_reference::<F8E5M2, f32>(c, typed(x, dtype)?, typed(y, dtype)?, out),
        have => Err(KernelError::ElementType { operand: "a", have, want: DType::F32 }),
    }
}

fn run_conv(isa: Isa, c: &Conv, dtype: DType, a: &Buf<'_>, b: &Buf<'_>, out: &mut [u8], scratch: &mut Scratch) -> Result<(), KernelError> {
    if dtype == DType::F32 && a.dtype() != dtype {
        return conv_sums(isa, c, a, b, typed_mut(out, dtype)?, scratch);
    }
    same_types(dtype, a, b)?;
    if dtype == DType::F32 {
        return conv(isa, c, typed(a.bytes(), dtype)?, typed(b.bytes(), dtype)?, typed_mut(out, dtype)?, scratch);
    }
    if dtype == DType::BF16 {
        return conv_bf16(isa, c, typed(a.bytes(), dtype)?, typed(b.bytes(), dtype)?, typed_mut(out, dtype)?, scratch);
    }
    fn generic<T: Element + bytemuck::Pod>(c: &Conv, dtype: DType, a: &[u8], b: &[u8], out: &mut [u8]) -> Result<(), KernelError> {
        conv_reference::<T, T>(c, typed(a, dtype)?, typed(b, dtype)?, typed_mut(out, dtype)?)
    }
    by_element!(dtype, T => generic::<T>(c, dtype, a.bytes(), b.bytes(), out))
}

/// The operand `k`; an in-place one is no view.
fn input<'v, 'a>(ins: &'v [map::Operand<'a>], k: usize) -> Result<&'v View<'a>, KernelError> {
    optional(ins, k).ok_or(KernelError::Attribute {
        name: "operand",
        value: k as i64,
        rule: "this operand has to be there and not in place",
    })
}

fn optional<'v, 'a>(ins: &'v [map::Operand<'a>], k: usize) -> Option<&'v View<'a>> {
    match ins.get(k) {
        Some(map::Operand::Read(v)) => Some(v),
        _ => None,
    }
}

fn scalars(ins: &[map::Operand<'_>], from: usize) -> Result<SmallVec<[i64; 6]>, KernelError> {
    (from..ins.len()).map(|k| starting(input(ins, k)?)).collect()
}

/// A start index; those beyond i64 are clamped by their user like any other that is too large.
fn starting(v: &View<'_>) -> Result<i64, KernelError> {
    let start = v.scalar()?;
    Ok(if v.dtype() == DType::U64 && start < 0 { i64::MAX } else { start })
}

/// Everything but contractions and fused programs.
fn run_plain(work: &Work, isa: Isa, ins: &[map::Operand<'_>], outs: &mut [ViewMut<'_>]) -> Result<(), KernelError> {
    let Some((out, more)) = outs.split_first_mut() else { return Ok(()) };
    match work {
        Work::Gemm(_) | Work::GemmPacked(..) | Work::Conv(_) | Work::ConvRuns(_) | Work::Map { .. } | Work::Attention { .. } => Ok(()),
        Work::Reduce(monoid) => reduce::reduce(isa, *monoid, false, input(ins, 0)?, out),
        Work::ArgReduce { max, last, origin } => reduce::arg_reduce(*max, *last, *origin, input(ins, 0)?, out),
        Work::ReduceWindow { monoid, windows } => window::reduce_window(isa, *monoid, windows, input(ins, 0)?, out),
        Work::SelectScatter { max, windows } => window::select_and_scatter(*max, windows, input(ins, 0)?, input(ins, 1)?, out),
        Work::Gather { dims, origin } => gather::gather(dims, origin, input(ins, 0)?, input(ins, 1)?, out),
        Work::Scatter(dims) => gather::scatter(dims, optional(ins, 0), input(ins, 1)?, input(ins, 2)?, out),
        Work::DynamicSlice => gather::dynamic_slice(input(ins, 0)?, &scalars(ins, 1)?, out),
        Work::DynamicUpdateSlice => gather::dynamic_update_slice(optional(ins, 0), input(ins, 1)?, &scalars(ins, 2)?, out),
        Work::Scan { monoid, dim, exclusive, reverse } => scan::scan(*monoid, *dim, *exclusive, *reverse, input(ins, 0)?, out),
        Work::Sort { dim, descending } => {
            let views: SmallVec<[View<'_>; 4]> = (0..ins.len()).map(|k| input(ins, k).cloned()).collect::<Result<_, _>>()?;
            sort::sort(*dim, *descending, &views, outs)
        }
        Work::TopK { largest } => match more {
            [positions] => sort::top_k(*largest, input(ins, 0)?, out, positions),
            _ => Err(KernelError::Attribute { name: "results", value: more.len() as i64 + 1, rule: "values and positions" }),
        },
        Work::Random { random, origin } => {
            let stream = Stream::new(random.seed, unsigned(input(ins, 0)?)?, unsigned(input(ins, 1)?)?);
            random::random(random.distribution, &stream, origin, out)
        }
        Work::Copy => copy::copy(input(ins, 0)?, out),
        Work::Pad { low, interior } => copy::pad(input(ins, 0)?, input(ins, 1)?, low, interior, out),
        Work::Concat { dim } => run_concat(*dim, ins, out),
        Work::Fill { bits } => copy::fill(*bits, out),
        Work::Constant { literal, starts } => {
            let ty = literal.ty();
            if ty.dtype != out.dtype() || ty.rank() != out.dims().len() || starts.len() != ty.rank() {
                return Err(shape("a constant has the rank and element type of its region", out.dims(), &ty.shape));
            }
            let part = starts.iter().zip(out.dims()).map(|(s, d)| *s..s.saturating_add(*d)).collect();
            let from = strided::part_of(&ty.shape, &part);
            if part.iter().zip(&ty.shape).any(|(p, e)| p.end > *e) {
                return Err(shape("the part lies inside the constant", out.dims(), &ty.shape));
            }
            write_bytes(literal.bytes(), &from, out)
        }
        Work::Iota { dim, start } => copy::iota(*dim, *start, out),
    }
}

fn shape(what: &'static str, have: &[usize], want: &[usize]) -> KernelError {
    KernelError::Shape { what, operand: "out", have: have.to_vec(), want: want.to_vec() }
}

fn write_bytes(from: &[u8], from_layout: &Layout, out: &mut ViewMut<'_>) -> Result<(), KernelError> {
    let (size, layout) = (out.dtype().size(), out.layout().clone());
    match strided::copy(size, from, from_layout, out.buf().bytes_mut(), &layout) {
        true => Ok(()),
        false => Err(shape("the source has the extents of the region", &layout.dims, &from_layout.dims)),
    }
}

fn run_concat(dim: usize, ins: &[map::Operand<'_>], out: &mut ViewMut<'_>) -> Result<(), KernelError> {
    let whole = out.layout().clone();
    let mut at = 0;
    for k in 0..ins.len() {
        let part = input(ins, k)?;
        let extent = part.dims().get(dim).copied().unwrap_or(0);
        if dim >= whole.dims.len() || at + extent > whole.dims[dim] {
            return Err(shape("the parts add up to the result", &whole.dims, part.dims()));
        }
        let mut layout = whole.clone();
        layout.base = (layout.base as isize + at as isize * layout.strides[dim]) as usize;
        layout.dims[dim] = extent;
        copy::copy(part, &mut ViewMut::new(out.buf().reborrow(), layout)?)?;
        at += extent;
    }
    Ok(())
}

fn unsigned(v: &View<'_>) -> Result<u64, KernelError> {
    let wide = v.scalar()?;
    Ok(if v.dtype() == DType::U32 { wide as u32 as u64 } else { wide as u64 })
}
