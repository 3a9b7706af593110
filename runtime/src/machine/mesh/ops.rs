//! The instructions of a stream, made ready once: regions become leases and layouts, and host tensors the parts that each replica has.

use super::super::queues;
use super::super::sram::Lease;
use super::super::task::{self, Programs, Task};
use super::super::views::Motion;
use girih_ir::axes::Box as Part;
use girih_ir::program::{Instr, Program, Region};
use girih_ir::scalar::Monoid;
use girih_ir::types::{DType, Dims, Layout};

/// One instruction of a stream, ready to run.
pub(super) enum Op {
    /// Runs on the compute engine.
    Task(Box<Task>),
    /// Goes into a queue; which one depends on the die.
    Transfer(Box<Transfer>),
    Wait {
        queue: usize,
        count: u32,
    },
    /// Begins a loop, or skips it; the lease is of the iteration's number.
    Loop {
        trips: Option<u64>,
        index: Option<Lease>,
        end: usize,
    },
    /// Leaves the loop that ends at `end` when the byte is 0.
    Exit {
        predicate: Lease,
        end: usize,
    },
    /// Goes back to the `loop` at `start`, or on.
    EndLoop {
        start: usize,
    },
    Nothing,
}

/// What a queue does with a region.
pub(super) struct Transfer {
    pub(super) kind: Kind,
    pub(super) dtype: DType,
    pub(super) dims: Dims,
    /// Relative to the first byte of the lease's range.
    pub(super) layout: Layout,
    pub(super) lease: Lease,
    pub(super) bytes: std::ops::Range<usize>,
}

pub(super) enum Kind {
    Send,
    Recv,
    RecvAdd(Monoid),
    /// With the dimension along which the replicas share the tensor, and the extent of one.
    Load(usize, Part, Share),
    Store(usize, Part, Share),
    /// With the layout of the operand, unless it is the result.
    AllReduce(Monoid, Option<Layout>),
}

/// How replicas share a host tensor: along which dimension, and how much of it one has.
pub(super) type Share = Option<(usize, usize)>;

/// A replica's part of a host tensor.
pub(super) fn own(part: &Part, share: Share, replica: usize) -> Part {
    let mut part = part.clone();
    if let Some((dim, extent)) = share
        && let Some(range) = part.get_mut(dim)
    {
        *range = range.start + replica * extent..range.end + replica * extent;
    }
    part
}

impl Transfer {
    pub(super) fn size(&self) -> usize {
        self.layout.elements() * self.dtype.size()
    }

    /// Whether the other end of the transfer moves the same elements.
    pub(super) fn suits(&self, other: &Transfer) -> bool {
        self.dims == other.dims && self.dtype == other.dtype
    }
}

/// An instruction of a loop's frame; `partner` is its other end.
pub(super) fn frame(instr: &Instr, partner: usize) -> Result<Op, String> {
    Ok(match instr {
        Instr::Loop { trips, index, .. } => {
            let number = |r| task::extent(r).and_then(|bytes| Lease::new(&[], &[bytes], &[]).ok_or_else(|| "its region is empty".into()));
            Op::Loop { trips: *trips, index: index.as_ref().map(number).transpose()?, end: partner }
        }
        Instr::ExitUnless { predicate } => {
            let bytes = task::extent(predicate)?;
            Op::Exit { predicate: Lease::new(&[bytes], &[], &[]).ok_or("its region is empty")?, end: partner }
        }
        _ => Op::EndLoop { start: partner },
    })
}

/// How replicas share a host tensor.
fn shared(program: &Program, host: usize) -> Share {
    let tensor = program.host.get(host)?;
    let dim = program.replicas.as_ref()?.sliced(tensor.usage)?;
    Some((dim, *tensor.ty.shape.get(dim)?))
}

fn combination(monoid: Monoid, out: &Region, input: &Region) -> Result<Op, String> {
    let (to, from) = (task::extent(out)?, task::extent(input)?);
    let place = input == out;
    let lease =
        if place { Lease::new(&[], std::slice::from_ref(&to), &[]) } else { Lease::new(&[from.clone()], std::slice::from_ref(&to), &[]) };
    let lease = lease.ok_or("its region runs backwards")?;
    let kind = Kind::AllReduce(monoid, (!place).then(|| input.layout(from.start as u64)));
    let layout = out.layout(to.start as u64);
    Ok(Op::Transfer(Box::new(Transfer { kind, dtype: out.dtype, dims: out.dims.clone(), layout, lease, bytes: to })))
}

pub(super) fn prepare(instr: &Instr, program: &Program, programs: &mut Programs) -> Result<Op, String> {
    let (kind, region) = match instr {
        Instr::Send { region, .. } => (Kind::Send, region),
        Instr::Recv { out, .. } => (Kind::Recv, out),
        Instr::RecvAdd { out, monoid, .. } => (Kind::RecvAdd(*monoid), out),
        Instr::Load { host, part, out } => (Kind::Load(host.index(), part.clone(), shared(program, host.index())), out),
        Instr::Store { host, part, region } => (Kind::Store(host.index(), part.clone(), shared(program, host.index())), region),
        Instr::AllReduce { monoid, out, input } => return combination(*monoid, out, input),
        Instr::Wait { queue, count } => return Ok(Op::Wait { queue: queues::slot(*queue), count: *count }),
        other => return Ok(task::prepare(other, &Motion::default(), program, programs)?.map_or(Op::Nothing, |t| Op::Task(Box::new(t)))),
    };
    let bytes = task::extent(region)?;
    let reads = matches!(kind, Kind::Send | Kind::Store(..));
    let range = std::slice::from_ref(&bytes);
    let lease = if reads { Lease::new(range, &[], &[]) } else { Lease::new(&[], range, &[]) };
    let layout = region.layout(bytes.start as u64);
    let lease = lease.ok_or("its region runs backwards")?;
    Ok(Op::Transfer(Box::new(Transfer { kind, dtype: region.dtype, dims: region.dims.clone(), layout, lease, bytes })))
}
