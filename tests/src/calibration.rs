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

/// The depth of the blocks that a grid product moves, and the largest side of the part of the result that a core works on at a time.
const DEPTH: usize = 128;
const SIDE: usize = 512;

/// A product `[m, k] · [k, n]` in bf16 on all cores of a grid, as its vendor's library runs it: the left matrix lies in the cores' SRAM in blocks (or in
/// device memory), the right one in device memory. A core has a part of the result and goes through the depth in blocks: the core of its row that
/// has the block of the left matrix passes it along the row, the core of its column that loads the block of the right matrix passes it along the column, and
/// all multiply while the next blocks come.
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
    for r in 0..rows {
        for c in 0..cols {
            // What a core has of the result, cut evenly.
            let (own_m, own_n) = (m.div_ceil(rows), n.div_ceil(cols));
            let (parts_m, parts_n) = (own_m.div_ceil(SIDE), own_n.div_ceil(SIDE));
            let (bm, bn, bk) = (own_m.div_ceil(parts_m), own_n.div_ceil(parts_n), k.div_ceil(cols).min(DEPTH));
            let parts = parts_m * parts_n;
            let core = Core { bare: &bare, channel: &channel, at: (r, c), grid: (rows, cols), block: (bm, bk, bn), in_memory };
            let (stream, used) = core.stream(parts * k.div_ceil(bk), k.div_ceil(bk));
            let Stream { code, out_ports, in_ports, .. } = stream;
            bare.die(die(r, c), used, out_ports, in_ports, code);
        }
    }
    bare.program
}

/// A core of a grid product.
struct Core<'a> {
    bare: &'a Bare,
    channel: &'a BTreeMap<((usize, usize), (usize, usize)), ChannelId>,
    at: (usize, usize),
    grid: (usize, usize),
    /// Rows, depth and columns of a block.
    block: (usize, usize, usize),
    in_memory: bool,
}

/// What a stream waits for.
type Waits = Vec<(Queue, u32)>;

impl Core<'_> {
    fn bytes(a: usize, b: usize) -> u64 {
        (a * b * 2).next_multiple_of(64) as u64
    }

    fn dense(offset: u64, a: usize, b: usize) -> Region {
        Region::dense(offset, &TensorType::new(DType::BF16, [a, b]))
    }

    /// Where the block of a step lies: three of each matrix.
    fn left(&self, step: usize) -> Region {
        let (bm, bk, _) = self.block;
        Core::dense((step % 3) as u64 * Core::bytes(bm, bk), bm, bk)
    }

    fn right(&self, step: usize) -> Region {
        let (bm, bk, bn) = self.block;
        Core::dense(3 * Core::bytes(bm, bk) + (step % 3) as u64 * Core::bytes(bn, bk), bn, bk)
    }

    /// The column that has the left block of a step, and the row that loads the right one: another one in each column, so that the blocks of a
    /// step come through all ports.
    fn owners(&self, step: usize) -> (usize, usize) {
        (step % self.grid.1, (step + self.at.1) % self.grid.0)
    }

    /// Loads what this core has of a step.
    fn fetch(&self, s: &mut Stream, step: usize) -> Waits {
        let (column, row) = self.owners(step);
        let mut waits = Vec::new();
        if column == self.at.1 && self.in_memory {
            waits.push(s.load(self.left(step)));
        }
        if row == self.at.0 {
            waits.push(s.load(self.right(step)));
        }
        waits
    }

    /// Sends a block on from the core `own` of a line, away from the core `root` that has it.
    fn send(&self, s: &mut Stream, along: bool, root: usize, region: &Region) -> Waits {
        let (r, c) = self.at;
        let (own, end) = if along { (c, self.grid.1) } else { (r, self.grid.0) };
        let up = (own >= root && own + 1 < end).then_some(own + 1);
        let down = (own <= root && own > 0).then(|| own - 1);
        let to = |next: usize| if along { (r, next) } else { (next, c) };
        up.into_iter().chain(down).map(|next| s.send(self.bare, self.channel[&((r, c), to(next))], region.clone())).collect()
    }

    /// The core that has a block sends it ahead; the others make ready for it.
    fn begin(&self, s: &mut Stream, step: usize) -> (Waits, Waits) {
        let (r, c) = self.at;
        let (column, row) = self.owners(step);
        let (mut came, mut sent) = (Vec::new(), Vec::new());
        if c == column {
            sent.extend(self.send(s, true, column, &self.left(step)));
        }
        if r == row {
            sent.extend(self.send(s, false, row, &self.right(step)));
        }
        if c != column {
            let from = if column < c { (r, c - 1) } else { (r, c + 1) };
            came.push(s.recv(self.bare, self.channel[&(from, (r, c))], self.left(step)));
        }
        if r != row {
            let from = if row < r { (r - 1, c) } else { (r + 1, c) };
            came.push(s.recv(self.bare, self.channel[&(from, (r, c))], self.right(step)));
        }
        (came, sent)
    }

    /// What has come is passed on.
    fn finish(&self, s: &mut Stream, step: usize, came: Waits) -> Waits {
        came.into_iter().for_each(|q| s.wait(q));
        let (column, row) = self.owners(step);
        let mut sent = Vec::new();
        if self.at.1 != column {
            sent.extend(self.send(s, true, column, &self.left(step)));
        }
        if self.at.0 != row {
            sent.extend(self.send(s, false, row, &self.right(step)));
        }
        sent
    }

    /// The stream, which takes a part of the result after so many steps, and the bytes that it uses.
    fn stream(&self, steps: usize, depth: usize) -> (Stream, u64) {
        let (bm, bk, bn) = self.block;
        let result = Core::dense(3 * (Core::bytes(bm, bk) + Core::bytes(bn, bk)), bm, bn);
        let used = result.offset + Core::bytes(bm, bn);
        let mut s = Stream::default();
        let mut loaded = [self.fetch(&mut s, 0), if steps > 1 { self.fetch(&mut s, 1) } else { Vec::new() }, Vec::new()];
        std::mem::take(&mut loaded[0]).into_iter().for_each(|q| s.wait(q));
        let (came, mut sent) = self.begin(&mut s, 0);
        sent.extend(self.finish(&mut s, 0, came));
        for step in 0..steps {
            std::mem::take(&mut loaded[(step + 1) % 3]).into_iter().for_each(|q| s.wait(q));
            if step + 2 < steps {
                loaded[(step + 2) % 3] = self.fetch(&mut s, step + 2);
            }
            let next = (step + 1 < steps).then(|| self.begin(&mut s, step + 1));
            let (a, b) = (self.left(step), self.right(step));
            s.code.push(Instr::Gemm { out: result.clone(), a, b, batch: 0, contract: 1 });
            sent.drain(..).for_each(|q| s.wait(q));
            if (step + 1) % depth == 0 && self.in_memory {
                let stored = s.store(result.clone());
                s.wait(stored);
            }
            if let Some((came, begun)) = next {
                sent = begun;
                sent.extend(self.finish(&mut s, step + 1, came));
            }
        }
        (s, used)
    }
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
