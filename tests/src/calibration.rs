//! Programs behind published measurements: what was measured, written as instruction streams for the target that it was measured on.

use girih_compiler::collectives::bare::Bare;
use girih_ir::axes::full_box;
use girih_ir::program::instr::WindowDims;
use girih_ir::program::{ChannelId, HostId, Instr, PortId, Program, Queue, Region};
use girih_ir::scalar::Monoid;
use girih_ir::target::{Coord, DieId, Target};
use girih_ir::types::{DType, TensorType};
use std::collections::BTreeMap;

/// The rows of a table: numbers by column name; cells that are no number are left out.
pub fn rows(text: &str) -> Vec<BTreeMap<String, f64>> {
    let mut lines = text.lines().filter(|l| !l.trim().is_empty());
    let names: Vec<&str> = lines.next().unwrap_or_default().split(',').map(str::trim).collect();
    let row =
        |line: &str| names.iter().zip(line.split(',')).filter_map(|(n, v)| Some(((*n).to_string(), v.trim().parse().ok()?))).collect();
    lines.map(row).collect()
}

/// A matrix that lies column by column; columns are at least two elements apart, so that their direction shows.
fn columns(offset: u64, rows: usize, cols: usize) -> Region {
    let mut region = Region::dense(offset, &TensorType::new(DType::F16, [rows, cols]));
    region.strides = [1, rows.max(2) as i64].into_iter().collect();
    region
}

/// A stream with the counts of its queues, so that waits can be for the last entry.
#[derive(Default)]
struct Stream {
    code: Vec<Instr>,
    counts: BTreeMap<Queue, u32>,
    out_ports: Vec<ChannelId>,
    in_ports: Vec<ChannelId>,
}

impl Stream {
    fn port(ports: &mut Vec<ChannelId>, channel: ChannelId) -> PortId {
        let at = ports.iter().position(|c| *c == channel).unwrap_or_else(|| {
            ports.push(channel);
            ports.len() - 1
        });
        PortId::new(at)
    }

    fn count(&mut self, queue: Queue) -> (Queue, u32) {
        let count = self.counts.entry(queue).or_default();
        *count += 1;
        (queue, *count)
    }

    /// Sends over a channel; what to wait for.
    fn send(&mut self, bare: &Bare, channel: ChannelId, region: Region) -> (Queue, u32) {
        let port = Stream::port(&mut self.out_ports, channel);
        self.code.push(Instr::Send { port, region });
        let first = bare.program.channels[channel.index()].route[0];
        self.count(Queue::Out(bare.program.target.mesh.link_start(first).1))
    }

    /// Receives from a channel; what to wait for.
    fn recv(&mut self, bare: &Bare, channel: ChannelId, out: Region) -> (Queue, u32) {
        let port = Stream::port(&mut self.in_ports, channel);
        self.code.push(Instr::Recv { port, out });
        let route = &bare.program.channels[channel.index()].route;
        let last = route[route.len() - 1];
        self.count(Queue::In(bare.program.target.mesh.link_start(last).1.opposite()))
    }

    fn load(&mut self, out: Region) -> (Queue, u32) {
        let part = full_box(&out.dims);
        self.code.push(Instr::Load { host: HostId(0), part, out });
        self.count(Queue::Load)
    }

    fn store(&mut self, region: Region) -> (Queue, u32) {
        let part = full_box(&region.dims);
        self.code.push(Instr::Store { host: HostId(0), part, region });
        self.count(Queue::Store)
    }

    fn wait(&mut self, (queue, count): (Queue, u32)) {
        self.code.push(Instr::Wait { queue, count });
    }
}

/// The line of places where each is at most two from the next, all around: 0 2 4 … 5 3 1.
fn interleaved(count: usize) -> Vec<usize> {
    (0..count).step_by(2).chain((1..count).step_by(2).rev()).collect()
}

/// MeshGEMM on `p × p` cores: `[m, k] · [k, n]`, all in f16 and column by column. Half as many rounds as cores align the left matrix; then in each of
/// `p` steps both matrices move on by one place of the interleaved ring while the core multiplies what it has, `compute` times. `moves` repeats
/// the movement of a step; without any, the tasks that wait for it still run.
pub fn mesh_gemm(target: &Target, p: usize, (m, k, n): (usize, usize, usize), compute: usize, moves: usize) -> Program {
    let mut bare = Bare::new("mesh gemm", target);
    let die = |r: usize, c: usize| target.die_at(Coord::new(r as u32, c as u32)).expect("the wafer is larger than the grid");
    let ring = interleaved(p);
    let next = |i: usize| ring[(ring.iter().position(|x| *x == i).unwrap_or(0) + 1) % p];
    let mut across = BTreeMap::new();
    let mut down = BTreeMap::new();
    for i in 0..p {
        for j in 0..p {
            if p > 1 {
                across.insert((i, next(j)), (bare.channel(die(i, j), die(i, next(j)), 2).expect("whole"), (i, j)));
                down.insert((next(i), j), (bare.channel(die(i, j), die(next(i), j), 2).expect("whole"), (i, j)));
            }
        }
    }
    let out_of = |map: &BTreeMap<(usize, usize), (ChannelId, (usize, usize))>, at| map.values().find(|v| v.1 == at).map(|v| v.0);
    let (mt, kt, nt) = (m / p, k / p, n / p);
    let size = |r: usize, c: usize| (r.max(2) * c * 2).next_multiple_of(64) as u64;
    let x = [0, size(mt, kt)];
    let w = [x[1] + size(mt, kt), x[1] + size(mt, kt) + size(kt, nt)];
    let result = columns(w[1] + size(kt, nt), mt, nt);
    let used = result.offset + size(mt, nt);
    for i in 0..p {
        for j in 0..p {
            let mut s = Stream::default();
            let (x_in, x_out) = (across.get(&(i, j)).map(|v| v.0), out_of(&across, (i, j)));
            let (w_in, w_out) = (down.get(&(i, j)).map(|v| v.0), out_of(&down, (i, j)));
            let idle = (Queue::Load, 0);
            let mut turn = 0;
            for _ in 0..p / 2 {
                let mut waits = vec![idle; 2];
                if let (Some(from), Some(to), true) = (x_in, x_out, moves > 0) {
                    waits[0] = s.recv(&bare, from, columns(x[1 - turn], mt, kt));
                    waits[1] = s.send(&bare, to, columns(x[turn], mt, kt));
                    turn = 1 - turn;
                }
                waits.into_iter().for_each(|q| s.wait(q));
            }
            s.code.push(Instr::Fill { out: result.clone(), bits: 0 });
            let mut right = 0;
            for _ in 0..p {
                let mut waits = vec![idle; 4];
                for _ in 0..moves {
                    let (Some(xi), Some(xo), Some(wi), Some(wo)) = (x_in, x_out, w_in, w_out) else { break };
                    waits[0] = s.recv(&bare, xi, columns(x[1 - turn], mt, kt));
                    waits[1] = s.recv(&bare, wi, columns(w[1 - right], kt, nt));
                    waits[2] = s.send(&bare, xo, columns(x[turn], mt, kt));
                    waits[3] = s.send(&bare, wo, columns(w[right], kt, nt));
                }
                for _ in 0..compute {
                    let mut b = columns(w[right], kt, nt);
                    (b.dims, b.strides) = ([nt, kt].into_iter().collect(), [kt.max(2) as i64, 1].into_iter().collect());
                    s.code.push(Instr::Gemm { out: result.clone(), a: columns(x[turn], mt, kt), b, batch: 0, contract: 1 });
                }
                waits.into_iter().for_each(|q| s.wait(q));
                if moves % 2 == 1 {
                    (turn, right) = (1 - turn, 1 - right);
                }
            }
            bare.die(die(i, j), used, s.out_ports, s.in_ports, s.code);
        }
    }
    bare.program
}

/// A product `[m, k] · [k, n]` in bf16 on all cores of a grid, as its vendor's library runs it: the left matrix lies in the cores' SRAM in blocks (or in
/// device memory), the right one in device memory. The depth goes in as many blocks as there are columns: the core that has a block passes
/// it along its row, the core that loads a block of the right matrix passes it along its column, and each multiplies while the next block comes.
pub fn grid_gemm(target: &Target, (m, k, n): (usize, usize, usize), in_memory: bool) -> Program {
    let (rows, cols) = (target.mesh.shape.rows as usize, target.mesh.shape.cols as usize);
    let die = |r: usize, c: usize| -> DieId { target.die_at(Coord::new(r as u32, c as u32)).expect("in the grid") };
    let mut bare = Bare::new("grid gemm", target);
    let mut channel = BTreeMap::new();
    for r in 0..rows {
        for c in 0..cols {
            let beside = [(r, c + 1), (r, c.wrapping_sub(1)), (r + 1, c), (r.wrapping_sub(1), c)];
            for to in beside.into_iter().filter(|(r, c)| *r < rows && *c < cols) {
                channel.insert(((r, c), to), bare.channel(die(r, c), die(to.0, to.1), 2).expect("neighbors are linked"));
            }
        }
    }
    let (bm, bk, bn) = (m.div_ceil(rows), k.div_ceil(cols), n.div_ceil(cols));
    let bytes = |a: usize, b: usize| (a * b * 2).next_multiple_of(64) as u64;
    let dense = |offset: u64, a: usize, b: usize| Region::dense(offset, &TensorType::new(DType::BF16, [a, b]));
    // Two blocks of each matrix, the blocks that are the core's own, the result.
    let left = |turn: usize| dense(turn as u64 * bytes(bm, bk), bm, bk);
    let right = |turn: usize| dense(2 * bytes(bm, bk) + turn as u64 * bytes(bn, bk), bn, bk);
    let own = 2 * bytes(bm, bk) + 2 * bytes(bn, bk);
    let (own_left, own_right) = (dense(own, bm, bk), dense(own + bytes(bm, bk), bn, bk));
    let result = dense(own + bytes(bm, bk) + bytes(bn, bk), bm, bn);
    for r in 0..rows {
        for c in 0..cols {
            let mut s = Stream::default();
            let loaded_left = in_memory.then(|| s.load(own_left.clone()));
            let loaded_right = (r < cols).then(|| s.load(own_right.clone()));
            // For each block: its source of both matrices, begun; then finished and passed on.
            let begin = |s: &mut Stream, b: usize| {
                let mut waits = Vec::new();
                if b != c {
                    let from = if b < c { (r, c - 1) } else { (r, c + 1) };
                    waits.push(s.recv(&bare, channel[&(from, (r, c))], left(b % 2)));
                }
                if b % rows != r {
                    let from = if b % rows < r { (r - 1, c) } else { (r + 1, c) };
                    waits.push(s.recv(&bare, channel[&(from, (r, c))], right(b % 2)));
                }
                waits
            };
            let finish = |s: &mut Stream, b: usize, waits: Vec<(Queue, u32)>| {
                let mut sent = Vec::new();
                waits.into_iter().for_each(|q| s.wait(q));
                let mut pass = |s: &mut Stream, to: Option<(usize, usize)>, region: &Region| {
                    if let Some(ch) = to.and_then(|to| channel.get(&((r, c), to))) {
                        sent.push(s.send(&bare, *ch, region.clone()));
                    }
                };
                if b == c {
                    loaded_left.into_iter().for_each(|q| s.wait(q));
                }
                let source = if b == c { own_left.clone() } else { left(b % 2) };
                pass(s, (b <= c).then_some((r, c + 1)), &source);
                pass(s, (b >= c && c > 0).then(|| (r, c - 1)), &source);
                if b % rows == r {
                    loaded_right.into_iter().for_each(|q| s.wait(q));
                }
                let source = if b % rows == r { own_right.clone() } else { right(b % 2) };
                pass(s, (b % rows <= r).then_some((r + 1, c)), &source);
                pass(s, (b % rows >= r && r > 0).then(|| (r - 1, c)), &source);
                sent
            };
            let first = begin(&mut s, 0);
            let mut sent = finish(&mut s, 0, first);
            for b in 0..cols {
                let waits = if b + 1 < cols { begin(&mut s, b + 1) } else { Vec::new() };
                let a = if b == c { own_left.clone() } else { left(b % 2) };
                let w = if b % rows == r { own_right.clone() } else { right(b % 2) };
                s.code.push(Instr::Gemm { out: result.clone(), a, b: w, batch: 0, contract: 1 });
                sent.drain(..).for_each(|q| s.wait(q));
                if b + 1 < cols {
                    sent = finish(&mut s, b + 1, waits);
                }
            }
            if in_memory {
                let stored = s.store(result.clone());
                s.wait(stored);
            }
            let used = result.offset + bytes(bm, bn);
            bare.die(die(r, c), used, s.out_ports, s.in_ports, s.code);
        }
    }
    bare.program
}

/// One instruction on the first die.
fn alone(target: &Target, instr: Instr) -> Program {
    let mut bare = Bare::new("one instruction", target);
    bare.die(DieId(0), target.sram_bytes(), Vec::new(), Vec::new(), vec![instr]);
    bare.program
}

/// The sides of a nearly square area: 64 is 8×8, 3 is 3×1.
fn sides(area: usize) -> [usize; 2] {
    let width = (1..=area).rev().find(|w| w * w <= area && area.is_multiple_of(*w)).unwrap_or(1);
    [area / width, width]
}

/// A window that keeps the extents at stride 1.
fn same(window: [usize; 2], stride: usize, leading: usize) -> WindowDims {
    let wide =
        |one: usize, rest: &dyn Fn(usize) -> usize| (0..leading).map(|_| one).chain(window.iter().map(|w| rest(*w))).collect::<Vec<_>>();
    let pad = |f: &dyn Fn(usize) -> usize| wide(0, f).into_iter().map(|v| v as i64).collect::<Vec<_>>();
    WindowDims {
        size: wide(1, &|w| w),
        stride: wide(1, &|_| stride),
        pad_low: pad(&|w| (w - 1) / 2),
        pad_high: pad(&|w| w / 2),
        base_dilation: wide(1, &|_| 1),
        window_dilation: wide(1, &|_| 1),
        reverse: wide(0, &|_| 0).into_iter().map(|v| v != 0).collect(),
    }
}

/// A convolution in f16 of a batch of square images, as large as its input. The table has no strides; 7×7 filters on more than one image are the
/// first layer of a ResNet, whose stride is 2.
pub fn convolution(target: &Target, batch: usize, inputs: usize, outputs: usize, area: usize, taps: usize) -> Program {
    let (image, window) = (sides(area), sides(taps));
    let stride = if taps == 49 && batch > 1 { 2 } else { 1 };
    let f16 = |shape: &[usize]| Region::dense(0, &TensorType::new(DType::F16, shape));
    let out = f16(&[batch, outputs, image[0].div_ceil(stride), image[1].div_ceil(stride)]);
    let (lhs, rhs) = (f16(&[batch, inputs, image[0], image[1]]), f16(&[outputs, inputs, window[0], window[1]]));
    alone(target, Instr::Conv { out, lhs, rhs, window: same(window, stride, 0), feature_groups: 1, batch_groups: 1 })
}

/// Pooling in f16 of one square image, as large as its input.
pub fn pooling(target: &Target, channels: usize, area: usize, taps: usize) -> Program {
    let (image, window) = (sides(area), sides(taps));
    let f16 = |shape: &[usize]| Region::dense(0, &TensorType::new(DType::F16, shape));
    let shape = [1, channels, image[0], image[1]];
    alone(target, Instr::ReduceWindow { monoid: Monoid::Max, out: f16(&shape), input: f16(&shape), window: same(window, 1, 2) })
}
