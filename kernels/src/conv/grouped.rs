//! Convolutions with many small groups: depthwise layers and their gradients.
//!
//! One contraction a group would leave most lanes of every vector idle, so here the lanes are 16 groups side by side.
//! The planes of 16 groups are staged with their padding, position by position, from whatever layout they have; after that every
//! term is a line of 16 elements at a fixed offset, for the forward pass and for both gradients alike.
//! The order of the sums is that of every other path.

use super::lower::{Phase, PhaseDim};
use crate::arch::{self, LANE_OUTPUTS, LANES, LaneTile, Terms};
use crate::gemm::KC;
use crate::isa::Isa;
use crate::scratch::Scratch;

/// Elements of a staged plane, at most.
const PLANE: usize = 1 << 22;

/// One dimension of a grid of positions that is staged.
#[derive(Clone, Copy)]
struct Grid {
    /// Positions, padding included.
    size: usize,
    /// Source coordinate of the first.
    origin: isize,
    /// Source extent; coordinates outside are 0.
    extent: usize,
    /// Source stride.
    stride: isize,
}

impl Grid {
    const ONE: Grid = Grid { size: 1, origin: 0, extent: 1, stride: 0 };
}

/// The padded image of a phase.
fn image_grid(phase: &Phase) -> [Grid; 3] {
    let mut grid = [Grid::ONE; 3];
    let skip = 3 - phase.dims.len();
    for (g, d) in grid[skip..].iter_mut().zip(&phase.dims) {
        let size = (d.outs as isize - 1) * d.stride + (d.taps as isize - 1) * d.dilation + 1;
        *g = Grid { size: size.max(1) as usize, origin: d.origin, extent: d.extent, stride: d.lhs };
    }
    grid
}

/// The kernel of a phase.
fn kernel_grid(phase: &Phase) -> [Grid; 3] {
    let mut grid = [Grid::ONE; 3];
    let skip = 3 - phase.dims.len();
    for (g, d) in grid[skip..].iter_mut().zip(&phase.dims) {
        *g = Grid { size: d.taps, origin: 0, extent: d.taps, stride: d.rhs };
    }
    grid
}

fn cells(grid: &[Grid; 3]) -> usize {
    grid.iter().fold(1usize, |n, g| n.saturating_mul(g.size))
}

/// Input channels that are staged together: all, when they are the innermost terms.
fn channels_at_once(phase: &Phase) -> usize {
    if phase.channels_first { 1 } else { phase.inputs }
}

/// Whether this path is the faster one. It gives the same bits as the other.
pub(super) fn suits(phase: &Phase) -> bool {
    let taps: usize = phase.dims.iter().map(|d| d.taps).product();
    let at_once = channels_at_once(phase);
    let staged = cells(&image_grid(phase)).max(taps).saturating_mul(at_once * LANES);
    phase.groups >= 4
        && taps * phase.inputs > 0
        && phase.outputs <= if phase.groups < LANES { 2 } else { 4 }
        && at_once <= 8
        && staged <= PLANE
        && phase.outputs.saturating_mul(taps).saturating_mul(LANES * at_once) <= PLANE
        && phase.dims.iter().map(|d| d.outs).product::<usize>() * phase.outputs * LANES <= PLANE
}

/// Copies a grid of positions of up to 16 groups to `dst`, 16 lanes a position; `base` is that of coordinate 0 in group 0.
fn stage(isa: Isa, src: &[f32], base: isize, group: isize, lanes: usize, grid: &[Grid; 3], dst: &mut [f32]) {
    let [planes, rows, cols] = grid;
    let from = (-cols.origin).clamp(0, cols.size as isize) as usize;
    let to = (cols.extent as isize - cols.origin).clamp(from as isize, cols.size as isize) as usize;
    for (line, dst) in dst.chunks_exact_mut(cols.size * LANES).enumerate().take(planes.size * rows.size) {
        let (z, y) = (planes.origin + (line / rows.size) as isize, rows.origin + (line % rows.size) as isize);
        let inside = (0..planes.extent as isize).contains(&z) && (0..rows.extent as isize).contains(&y) && from < to;
        if !inside {
            dst.fill(0.0);
            continue;
        }
        dst[..from * LANES].fill(0.0);
        dst[to * LANES..].fill(0.0);
        let at = base + z * planes.stride + y * rows.stride + (cols.origin + from as isize) * cols.stride;
        let dst = &mut dst[from * LANES..to * LANES];
        if group == 1 && lanes == LANES {
            for (i, cell) in dst.chunks_exact_mut(LANES).enumerate() {
                let at = (at + i as isize * cols.stride) as usize;
                arch::copy(isa, &src[at..at + LANES], cell);
            }
        } else if cols.stride == 1 {
            arch::transpose16(isa, src, at as usize, group, lanes, to - from, dst, LANES);
        } else {
            for (i, cell) in dst.chunks_exact_mut(LANES).enumerate() {
                for (lane, x) in cell.iter_mut().enumerate().take(lanes) {
                    *x = src[(at + i as isize * cols.stride + lane as isize * group) as usize];
                }
            }
        }
    }
}

/// Offsets of all index combinations of three dimensions, row-major.
fn each_offset(sizes: [usize; 3], steps: [usize; 3], mut visit: impl FnMut(usize)) {
    for i in 0..sizes[0] {
        for j in 0..sizes[1] {
            for k in 0..sizes[2] {
                visit(i * steps[0] + j * steps[1] + k * steps[2]);
            }
        }
    }
}

fn three(phase: &Phase, fill: usize, get: impl Fn(&PhaseDim) -> usize) -> [usize; 3] {
    let mut all = [fill; 3];
    let skip = 3 - phase.dims.len();
    for (x, d) in all[skip..].iter_mut().zip(&phase.dims) {
        *x = get(d);
    }
    all
}

/// Fills the tables: where terms and outputs lie in the staged planes.
fn tables(phase: &Phase, image: &[Grid; 3], terms: &mut Terms, places: &mut Vec<u32>) {
    let steps = [image[1].size * image[2].size * LANES, image[2].size * LANES, LANES];
    let scaled = |get: fn(&PhaseDim) -> isize| {
        let by = three(phase, 0, |d| get(d) as usize);
        [by[0] * steps[0], by[1] * steps[1], by[2] * steps[2]]
    };
    let plane = cells(image) * LANES;
    let taps: usize = phase.dims.iter().map(|d| d.taps).product();
    terms.clear();
    let mut tap = 0;
    each_offset(three(phase, 1, |d| d.taps), scaled(|d| d.dilation), |offset| {
        for channel in 0..channels_at_once(phase) {
            terms.push([(offset + channel * plane) as u32, ((channel * taps + tap) * LANES) as u32]);
        }
        tap += 1;
    });
    places.clear();
    each_offset(three(phase, 1, |d| d.outs), scaled(|d| d.stride), |offset| places.push(offset as u32));
}

/// Runs a phase that [`suits`].
pub(super) fn run(isa: Isa, phase: &Phase, lhs: &[f32], rhs: &[f32], out: &mut [f32], scratch: &mut Scratch) {
    let (image, kernel) = (image_grid(phase), kernel_grid(phase));
    let (plane, taps) = (cells(&image) * LANES, cells(&kernel) * LANES);
    let at_once = channels_at_once(phase);
    let Scratch { a, b, stage: staged, terms, places, .. } = scratch;
    tables(phase, &image, terms, places);
    let outs = places.len() * phase.outputs * LANES;
    let (x, y) = (staged.take(plane * at_once), a.take(taps * at_once * phase.outputs));
    let (sums, totals) = b.take(2 * outs).split_at_mut(outs);
    // The base of a phase is that of its first position, which may lie in the padding; planes are staged from coordinate 0.
    let lhs_origin = phase.lhs.0 - phase.dims.iter().map(|d| d.origin * d.lhs).sum::<isize>();
    for first in (0..phase.groups).step_by(LANES) {
        let lanes = LANES.min(phase.groups - first);
        let mut kernel_is_staged = false;
        for batch in 0..phase.batch as isize {
            let mut done = 0;
            sums.fill(0.0);
            if phase.accumulate {
                load(phase, first, lanes, batch, out, totals);
            }
            for slab in (0..phase.inputs).step_by(at_once) {
                for channel in 0..at_once {
                    let index = (slab + channel) as isize;
                    let base = lhs_origin + first as isize * phase.lhs.1 + batch * phase.lhs.2 + index * phase.lhs.3;
                    stage(isa, lhs, base, phase.lhs.1, lanes, &image, &mut x[channel * plane..][..plane]);
                    for output in (0..phase.outputs).filter(|_| !kernel_is_staged) {
                        let base = phase.rhs.0 + first as isize * phase.rhs.1 + output as isize * phase.rhs.2 + index * phase.rhs.3;
                        let dst = &mut y[(output * at_once + channel) * taps..][..taps];
                        stage(isa, rhs, base, phase.rhs.1, lanes, &kernel, dst);
                    }
                }
                kernel_is_staged = at_once == phase.inputs;
                done = slab_sums(isa, phase, (x, y), terms, places, done, sums, totals);
            }
            if phase.accumulate || done > KC {
                sums.iter_mut().zip(totals.iter()).for_each(|(sum, total)| *sum += *total);
            }
            store(isa, phase, first, lanes, batch, out, sums);
        }
    }
}

/// Adds the terms of one slab of channels to the sums of all outputs, closing blocks of [`KC`] terms on the way.
///
/// `done` terms came before; returns how many have now. A block is closed only when another term follows.
fn slab_sums(
    isa: Isa,
    phase: &Phase,
    (x, y): (&[f32], &[f32]),
    terms: &Terms,
    places: &[u32],
    mut done: usize,
    sums: &mut [f32],
    totals: &mut [f32],
) -> usize {
    let per_output = terms.len() * LANES;
    let chunk = places.len().div_ceil(places.len().div_ceil(LANE_OUTPUTS));
    let mut start = 0;
    while start < terms.len() {
        if done > 0 && done.is_multiple_of(KC) {
            for (total, sum) in totals.iter_mut().zip(sums.iter_mut()) {
                *total = if done == KC && !phase.accumulate { *sum } else { *total + *sum };
                *sum = 0.0;
            }
        }
        let end = terms.len().min(start + KC - done % KC);
        for (output, sums) in sums.chunks_exact_mut(places.len() * LANES).enumerate().take(phase.outputs) {
            for (at, sums) in places.chunks(chunk).zip(sums.chunks_mut(chunk * LANES)) {
                arch::lanes(isa, &LaneTile { x, at, y, y_base: output * per_output, terms, start, end }, sums);
            }
        }
        done += end - start;
        start = end;
    }
    done
}

/// The lines of one batch item and one block of groups: position of the first element of each, line by line, and the element stride.
fn lines(phase: &Phase, first: usize, batch: isize, mut visit: impl FnMut(usize, isize)) {
    let sizes = three(phase, 1, |d| d.outs);
    let mut strides = [0isize; 3];
    let skip = 3 - phase.dims.len();
    strides[skip..].iter_mut().zip(&phase.dims).for_each(|(s, d)| *s = d.out);
    let mut index = 0;
    for output in 0..phase.outputs as isize {
        let base = phase.out.0 + first as isize * phase.out.1 + batch * phase.out.2 + output * phase.out.3;
        for line in 0..sizes[0] * sizes[1] {
            visit(index, base + (line / sizes[1]) as isize * strides[0] + (line % sizes[1]) as isize * strides[1]);
            index += 1;
        }
    }
}

/// Length of an output line, and the distance between its elements.
fn line_shape(phase: &Phase) -> (usize, isize) {
    phase.dims.last().map_or((1, 0), |d| (d.outs, d.out))
}

/// Reads the outputs of one batch item and one block of groups.
fn load(phase: &Phase, first: usize, lanes: usize, batch: isize, out: &[f32], totals: &mut [f32]) {
    let (len, step) = line_shape(phase);
    lines(phase, first, batch, |line, base| {
        let totals = &mut totals[line * len * LANES..][..len * LANES];
        for (i, cell) in totals.chunks_exact_mut(LANES).enumerate() {
            for (lane, total) in cell.iter_mut().enumerate().take(lanes) {
                *total = out[(base + i as isize * step + lane as isize * phase.out.1) as usize];
            }
        }
    });
}

/// Writes the sums of one batch item and one block of groups.
fn store(isa: Isa, phase: &Phase, first: usize, lanes: usize, batch: isize, out: &mut [f32], sums: &[f32]) {
    let (len, step) = line_shape(phase);
    let group = phase.out.1;
    let mut turned = [0.0f32; LANES * LANES];
    lines(phase, first, batch, |line, base| {
        let sums = &sums[line * len * LANES..][..len * LANES];
        if group == 1 {
            for (i, cell) in sums.chunks_exact(LANES).enumerate() {
                let at = (base + i as isize * step) as usize;
                arch::copy(isa, &cell[..lanes], &mut out[at..at + lanes]);
            }
        } else if step == 1 {
            for (block, sums) in sums.chunks(LANES * LANES).enumerate() {
                let cells = sums.len() / LANES;
                arch::transpose16(isa, sums, 0, LANES as isize, cells, LANES, &mut turned, LANES);
                for (lane, row) in turned.chunks_exact(LANES).enumerate().take(lanes) {
                    let at = (base + (block * LANES) as isize + lane as isize * group) as usize;
                    arch::copy(isa, &row[..cells], &mut out[at..at + cells]);
                }
            }
        } else {
            for (i, cell) in sums.chunks_exact(LANES).enumerate() {
                for (lane, sum) in cell.iter().enumerate().take(lanes) {
                    out[(base + i as isize * step + lane as isize * group) as usize] = *sum;
                }
            }
        }
    });
}
