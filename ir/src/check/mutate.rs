//! Seeded damage to programs: what a wrong compiler would emit. The checker has to refuse every mutant that changes what a program
//! does; tests say how many it does refuse.

use crate::axes::Box;
use crate::program::{Claim, ClaimId, Instr, Program, Region, StreamId};
use crate::scalar::Monoid;

/// A damaged program.
#[derive(Clone, Debug)]
pub struct Mutant {
    /// What was done, and where.
    pub what: String,
    /// The program.
    pub program: Program,
}

/// Small deterministic random numbers.
#[derive(Clone, Debug)]
struct Dice(u64);

impl Dice {
    fn below(&mut self, n: usize) -> usize {
        self.0 = self.0.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
        (((self.0 >> 33) as u128 * n.max(1) as u128) >> 31) as usize
    }
    fn pick<'t, T>(&mut self, list: &'t [T]) -> Option<&'t T> {
        if list.is_empty() { None } else { list.get(self.below(list.len())) }
    }
}

type Damage = fn(&mut Program, &mut Dice) -> Option<String>;

/// Every kind of damage.
const KINDS: &[(&str, Damage)] = &[
    ("drop a wait", |p, r| remove(p, r, |i| matches!(i, Instr::Wait { .. }))),
    ("drop an instruction", |p, r| remove(p, r, |i| !matches!(i, Instr::Wait { .. } | Instr::End))),
    ("drop a recv_add", |p, r| remove(p, r, |i| matches!(i, Instr::RecvAdd { .. }))),
    ("wait for less", |p, r| wait_count(p, r, -1)),
    ("wait for more", |p, r| wait_count(p, r, 1)),
    ("wait later", wait_later),
    ("swap two sends", swap_sends),
    ("swap neighbors", swap_neighbors),
    ("shift an offset", shift_offset),
    ("shrink a region", shrink_region),
    ("change a stride", change_stride),
    ("change a port", change_port),
    ("receive over the sum", overwrite_sum),
    ("change a combiner", change_combiner),
    ("change a parameter", change_parameter),
    ("claim another box", |p, r| claim(p, r, shift_claim)),
    ("claim another value", |p, r| claim(p, r, other_value)),
    ("shift a host part", shift_host_part),
    ("swap two operands", swap_operands),
    ("move a state shard", move_state),
    ("shrink the planned memory", |p, r| {
        let d = r.below(p.dies.len());
        let by = p.dies[d].sram_used / 4;
        p.dies[d].sram_used -= by;
        (by > 0).then(|| format!("die {d} by {by}"))
    }),
    ("bend a route", bend_route),
    ("take all credits", |p, r| {
        let c = r.below(p.channels.len());
        p.channels.get_mut(c)?.depth = 0;
        Some(format!("ch{c}"))
    }),
    ("keep a replica's own part", |p, r| {
        let (d, i, s) = choose(p, r, |i| matches!(i, Instr::AllReduce { .. }))?;
        let Instr::AllReduce { out, input, .. } = p.streams[s][i].clone() else { return None };
        p.streams[s][i] = Instr::Copy { out, input };
        Some(place(p, d, i))
    }),
    ("repeat an instruction", repeat),
    ("drop a fence", |p, r| remove(p, r, Instr::is_fence)),
    ("drop a loop", drop_loop),
    ("move across a fence", move_across_fence),
    ("change the trips", change_trips),
    ("change the index", change_index),
    ("drop a carry", |p, r| {
        carries(p, r, |regions, parts, k| {
            regions.remove(k);
            parts.remove(k);
            true
        })
    }),
    ("swap slots", |p, r| {
        carries(p, r, |_, parts, k| {
            let next = (k + 1) % parts.len();
            let slot = parts[k].0;
            parts[k].0 = parts[next].0;
            parts[next].0 = slot;
            next != k
        })
    }),
    ("swap carried regions", |p, r| {
        carries(p, r, |regions, _, k| {
            let next = (k + 1) % regions.len();
            regions.swap(k, next);
            next != k
        })
    }),
    ("carry another part", |p, r| {
        carries(p, r, |_, parts, k| match parts[k].1.first_mut() {
            Some(range) if range.start > 0 => {
                *range = range.start - 1..range.end - 1;
                true
            }
            Some(range) => {
                *range = range.start + 1..range.end + 1;
                true
            }
            None => false,
        })
    }),
];

/// Up to `count` different damaged programs, none equal to the original.
pub fn mutants(program: &Program, seed: u64, count: usize) -> Vec<Mutant> {
    let mut dice = Dice(seed ^ 0x9E37_79B9_7F4A_7C15);
    let mut out: Vec<Mutant> = Vec::with_capacity(count);
    for _ in 0..count * 40 {
        if out.len() == count {
            break;
        }
        let (name, damage) = KINDS[dice.below(KINDS.len())];
        let mut damaged = program.clone();
        let Some(place) = damage(&mut damaged, &mut dice) else { continue };
        if damaged != *program && out.iter().all(|m| m.program != damaged) {
            out.push(Mutant { what: format!("{name}: {place}"), program: damaged });
        }
    }
    out
}

/// The stream of a die, made its own so that other dies keep theirs.
fn own_stream(p: &mut Program, d: usize) -> usize {
    let s = p.dies[d].stream.index();
    if p.dies.iter().filter(|c| c.stream.index() == s).count() > 1 {
        p.streams.push(p.streams[s].clone());
        p.dies[d].stream = StreamId::new(p.streams.len() - 1);
    }
    p.dies[d].stream.index()
}

/// A random instruction that fits: die, index in the stream, and the stream.
fn choose(p: &mut Program, r: &mut Dice, fits: impl Fn(&Instr) -> bool) -> Option<(usize, usize, usize)> {
    let sites: Vec<(usize, usize)> = p
        .dies
        .iter()
        .enumerate()
        .flat_map(|(d, c)| p.streams[c.stream.index()].iter().enumerate().filter(|(_, i)| fits(i)).map(move |(i, _)| (d, i)))
        .collect();
    let (d, i) = *r.pick(&sites)?;
    Some((d, i, own_stream(p, d)))
}

fn place(p: &Program, d: usize, i: usize) -> String {
    format!("die {d} instruction {i} {}", p.streams[p.dies[d].stream.index()].get(i).map_or("", |x| x.name()))
}

fn remove(p: &mut Program, r: &mut Dice, fits: impl Fn(&Instr) -> bool) -> Option<String> {
    let (d, i, s) = choose(p, r, fits)?;
    let what = place(p, d, i);
    p.streams[s].remove(i);
    p.dies[d].claims.remove(i);
    Some(what)
}

fn repeat(p: &mut Program, r: &mut Dice) -> Option<String> {
    let (d, i, s) = choose(p, r, |i| !matches!(i, Instr::End))?;
    let (instr, claim) = (p.streams[s][i].clone(), p.dies[d].claims[i]);
    p.streams[s].insert(i, instr);
    p.dies[d].claims.insert(i, claim);
    Some(place(p, d, i))
}

/// The `loop`, perhaps the `exit_unless`, and the `end_loop` of a random loop of a random die, with die and stream.
fn choose_loop(p: &mut Program, r: &mut Dice) -> Option<(usize, usize, Vec<usize>)> {
    let (d, begin, s) = choose(p, r, |i| matches!(i, Instr::Loop { .. }))?;
    let mut frame = vec![begin];
    let mut depth = 0usize;
    for (i, instr) in p.streams[s].iter().enumerate().skip(begin) {
        match instr {
            Instr::Loop { .. } => depth += 1,
            Instr::ExitUnless { .. } if depth == 1 => frame.push(i),
            Instr::EndLoop => depth = depth.checked_sub(1)?,
            _ => {}
        }
        if depth == 0 {
            frame.push(i);
            return Some((d, s, frame));
        }
    }
    None
}

fn drop_loop(p: &mut Program, r: &mut Dice) -> Option<String> {
    let (d, s, frame) = choose_loop(p, r)?;
    for i in frame.iter().rev() {
        p.streams[s].remove(*i);
        p.dies[d].claims.remove(*i);
    }
    Some(format!("die {d} instructions {frame:?}"))
}

/// Changes what a loop carries, and the claims of all of its frame alike.
fn carries(p: &mut Program, r: &mut Dice, change: impl Fn(&mut Vec<Region>, &mut Vec<(u32, Box)>, usize) -> bool) -> Option<String> {
    let (d, s, frame) = choose_loop(p, r)?;
    let mut claim = p.claims[p.dies[d].claims[frame[0]].index()].clone();
    let (Instr::Loop { carries, .. }, Claim::Loop { parts, .. }) = (&mut p.streams[s][frame[0]], &mut claim) else { return None };
    let k = r.below(carries.len());
    if carries.is_empty() || parts.len() != carries.len() || !change(carries, parts, k) {
        return None;
    }
    p.claims.push(claim);
    frame.iter().for_each(|i| p.dies[d].claims[*i] = ClaimId::new(p.claims.len() - 1));
    Some(format!("{}, carry {k}", place(p, d, frame[0])))
}

fn move_across_fence(p: &mut Program, r: &mut Dice) -> Option<String> {
    let (d, i, s) = choose(p, r, Instr::is_fence)?;
    let far = 1 + r.below(3);
    let (from, to) = if r.below(2) == 0 { (i.checked_sub(far)?, i) } else { (i + far, i) };
    if from + 1 >= p.streams[s].len() {
        return None;
    }
    let (instr, claim) = (p.streams[s].remove(from), p.dies[d].claims.remove(from));
    p.streams[s].insert(to, instr);
    p.dies[d].claims.insert(to, claim);
    Some(format!("die {d} instruction {from} to {to}"))
}

fn change_trips(p: &mut Program, r: &mut Dice) -> Option<String> {
    let (d, i, s) = choose(p, r, |i| matches!(i, Instr::Loop { .. }))?;
    if let Instr::Loop { trips, .. } = &mut p.streams[s][i] {
        *trips = match (*trips, r.below(3)) {
            (Some(n), 0) if n > 0 => Some(n - 1),
            (Some(_), 1) => None,
            (Some(n), _) => Some(n + 1),
            (None, n) => Some(n as u64),
        };
    }
    Some(place(p, d, i))
}

fn change_index(p: &mut Program, r: &mut Dice) -> Option<String> {
    let (d, i, s) = choose(p, r, |i| matches!(i, Instr::Loop { index: Some(_), .. }))?;
    if let Instr::Loop { index, .. } = &mut p.streams[s][i] {
        match r.below(3) {
            0 => *index = None,
            1 => index.as_mut()?.offset += 8,
            _ => index.as_mut()?.offset = 8 * r.below(p.dies[d].sram_used as usize / 8) as u64,
        }
    }
    Some(place(p, d, i))
}

fn wait_count(p: &mut Program, r: &mut Dice, by: i32) -> Option<String> {
    let (d, i, s) = choose(p, r, |i| matches!(i, Instr::Wait { .. }))?;
    if let Instr::Wait { count, .. } = &mut p.streams[s][i] {
        *count = count.checked_add_signed(by)?;
    }
    Some(place(p, d, i))
}

fn wait_later(p: &mut Program, r: &mut Dice) -> Option<String> {
    let (d, i, s) = choose(p, r, |i| matches!(i, Instr::Wait { .. }))?;
    if i + 2 >= p.streams[s].len() {
        return None;
    }
    let to = i + 1 + r.below((p.streams[s].len() - i - 2).min(4));
    p.streams[s][i..=to].rotate_left(1);
    p.dies[d].claims[i..=to].rotate_left(1);
    Some(place(p, d, to))
}

fn swap(p: &mut Program, d: usize, s: usize, i: usize, j: usize) -> String {
    p.streams[s].swap(i, j);
    p.dies[d].claims.swap(i, j);
    format!("die {d} instructions {i} and {j}")
}

fn swap_sends(p: &mut Program, r: &mut Dice) -> Option<String> {
    let is_send = |i: &Instr| matches!(i, Instr::Send { .. });
    let (d, i, s) = choose(p, r, is_send)?;
    let others: Vec<usize> = (0..p.streams[s].len()).filter(|j| *j != i && is_send(&p.streams[s][*j])).collect();
    let j = *r.pick(&others)?;
    Some(swap(p, d, s, i, j))
}

fn swap_neighbors(p: &mut Program, r: &mut Dice) -> Option<String> {
    let (d, i, s) = choose(p, r, |i| !matches!(i, Instr::End))?;
    let next = p.streams[s].get(i + 1)?;
    if matches!(next, Instr::End) {
        return None;
    }
    Some(swap(p, d, s, i, i + 1))
}

/// Every region of an instruction, to be changed.
fn regions(instr: &mut Instr) -> Vec<&mut Region> {
    match instr {
        Instr::Gemm { out, a, b, .. } => vec![out, a, b],
        Instr::Conv { out, lhs, rhs, .. } => vec![out, lhs, rhs],
        Instr::Map { ins, outs, .. } | Instr::Sort { ins, outs, .. } | Instr::Attention { ins, outs, .. } => {
            ins.iter_mut().chain(outs).collect()
        }
        Instr::Random { out, ins, .. } | Instr::Concat { out, ins, .. } => ins.iter_mut().chain([out]).collect(),
        Instr::Reduce { out, input, .. }
        | Instr::ArgReduce { out, input, .. }
        | Instr::ReduceWindow { out, input, .. }
        | Instr::Scan { out, input, .. }
        | Instr::AllReduce { out, input, .. }
        | Instr::Copy { out, input } => vec![out, input],
        Instr::SelectScatter { out, input, source, .. } => vec![out, input, source],
        Instr::Gather { out, operand, indices, .. } => vec![out, operand, indices],
        Instr::Scatter { out, operand, indices, updates, .. } => vec![out, operand, indices, updates],
        Instr::DynamicSlice { out, operand, starts } => starts.iter_mut().chain([out, operand]).collect(),
        Instr::DynamicUpdateSlice { out, operand, update, starts } => starts.iter_mut().chain([out, operand, update]).collect(),
        Instr::TopK { values, positions, input, .. } => vec![values, positions, input],
        Instr::Pad { out, input, fill, .. } => vec![out, input, fill],
        Instr::Send { region, .. } | Instr::Store { region, .. } => vec![region],
        Instr::Fill { out, .. }
        | Instr::Constant { out, .. }
        | Instr::Iota { out, .. }
        | Instr::Recv { out, .. }
        | Instr::RecvAdd { out, .. }
        | Instr::Load { out, .. } => vec![out],
        Instr::Loop { index, carries, .. } => carries.iter_mut().chain(index).collect(),
        Instr::ExitUnless { predicate } => vec![predicate],
        Instr::Wait { .. } | Instr::EndLoop | Instr::End => Vec::new(),
    }
}

fn region_of(p: &mut Program, r: &mut Dice, change: impl FnOnce(&mut Region, &mut Dice) -> bool) -> Option<String> {
    let (d, i, s) = choose(p, r, |i| !matches!(i, Instr::Wait { .. } | Instr::EndLoop | Instr::End))?;
    let what = place(p, d, i);
    let mut list = regions(&mut p.streams[s][i]);
    let k = r.below(list.len());
    let changed = change(list.get_mut(k)?, r);
    changed.then_some(format!("{what}, region {k}"))
}

fn shift_offset(p: &mut Program, r: &mut Dice) -> Option<String> {
    region_of(p, r, |region, r| {
        let by = (r.below(16) as i64 - 8) * region.dtype.size() as i64 / [1, 4][r.below(2)];
        match region.offset.checked_add_signed(by) {
            Some(offset) => region.offset = offset,
            None => return false,
        }
        by != 0
    })
}

fn shrink_region(p: &mut Program, r: &mut Dice) -> Option<String> {
    region_of(p, r, |region, r| {
        let d = r.below(region.dims.len());
        match region.dims.get_mut(d) {
            Some(extent) if *extent > 0 => *extent -= 1,
            _ => return false,
        }
        true
    })
}

fn change_stride(p: &mut Program, r: &mut Dice) -> Option<String> {
    region_of(p, r, |region, r| {
        let d = r.below(region.dims.len());
        match region.strides.get_mut(d) {
            Some(stride) => *stride += r.below(5) as i64 - 2,
            None => return false,
        }
        true
    })
}

fn change_port(p: &mut Program, r: &mut Dice) -> Option<String> {
    let (d, i, s) = choose(p, r, |i| matches!(i, Instr::Send { .. } | Instr::Recv { .. } | Instr::RecvAdd { .. }))?;
    match &mut p.streams[s][i] {
        Instr::Send { port, .. } | Instr::Recv { port, .. } | Instr::RecvAdd { port, .. } => {
            port.0 = if port.0 == 0 { 1 } else { port.0 - 1 }
        }
        _ => {}
    }
    Some(place(p, d, i))
}

fn overwrite_sum(p: &mut Program, r: &mut Dice) -> Option<String> {
    let (d, i, s) = choose(p, r, |i| matches!(i, Instr::RecvAdd { .. } | Instr::Recv { .. }))?;
    p.streams[s][i] = match p.streams[s][i].clone() {
        Instr::RecvAdd { port, out, .. } => Instr::Recv { port, out },
        Instr::Recv { port, out } => Instr::RecvAdd { port, out, monoid: Monoid::Sum },
        other => other,
    };
    Some(place(p, d, i))
}

fn change_combiner(p: &mut Program, r: &mut Dice) -> Option<String> {
    let combines = |i: &Instr| {
        let plain = matches!(i, Instr::RecvAdd { .. } | Instr::Reduce { .. } | Instr::ReduceWindow { .. });
        plain || matches!(i, Instr::Scan { .. } | Instr::AllReduce { .. })
    };
    let (d, i, s) = choose(p, r, combines)?;
    match &mut p.streams[s][i] {
        Instr::RecvAdd { monoid, .. }
        | Instr::Reduce { monoid, .. }
        | Instr::ReduceWindow { monoid, .. }
        | Instr::Scan { monoid, .. }
        | Instr::AllReduce { monoid, .. } => {
            *monoid = if *monoid == Monoid::Max { Monoid::Sum } else { Monoid::Max };
        }
        _ => {}
    }
    Some(place(p, d, i))
}

fn change_parameter(p: &mut Program, r: &mut Dice) -> Option<String> {
    let (d, i, s) = choose(p, r, |_| true)?;
    let many = p.fused.len() as u32;
    let at = r.below(8);
    let nudge = |list: &mut [usize]| list.get_mut(at % list.len().max(1)).map(|v| *v += 1);
    match &mut p.streams[s][i] {
        Instr::Map { program, origin, .. } => {
            if at.is_multiple_of(2) && many > 1 {
                program.0 = (program.0 + 1) % many;
            } else {
                nudge(origin)?;
            }
        }
        Instr::Attention { weights, origin, .. } => {
            if at.is_multiple_of(2) && many > 1 {
                weights.0 = (weights.0 + 1) % many;
            } else {
                nudge(origin)?;
            }
        }
        Instr::Conv { window, .. } | Instr::ReduceWindow { window, .. } | Instr::SelectScatter { window, .. } => {
            // Moves the padding from one side to the other, so that the extents still fit.
            let k = at % window.pad_low.len().max(1);
            *window.pad_low.get_mut(k)? += 1;
            *window.pad_high.get_mut(k)? -= 1;
        }
        Instr::Pad { low, .. } => *low.first_mut()? += 1,
        Instr::Constant { starts, .. } => nudge(starts)?,
        Instr::Iota { start, .. } | Instr::ArgReduce { origin: start, .. } => *start += 1,
        Instr::Gather { origin, .. } | Instr::Random { origin, .. } => origin.first_mut()?.0 += 1,
        Instr::Scan { exclusive, .. } => *exclusive = !*exclusive,
        Instr::Sort { descending, .. } => *descending = !*descending,
        Instr::TopK { largest, .. } => *largest = !*largest,
        Instr::Fill { bits, .. } => *bits ^= 1,
        _ => return None,
    }
    Some(place(p, d, i))
}

/// Changes the claim of one instruction only.
fn claim(p: &mut Program, r: &mut Dice, change: impl Fn(&mut Claim, &Program, &mut Dice) -> Option<()>) -> Option<String> {
    let (d, i, _) = choose(p, r, |i| !matches!(i, Instr::Wait { .. } | Instr::End))?;
    let mut claim = p.claims[p.dies[d].claims[i].index()].clone();
    change(&mut claim, p, r)?;
    p.claims.push(claim);
    p.dies[d].claims[i] = ClaimId::new(p.claims.len() - 1);
    Some(place(p, d, i))
}

fn nudge_box(b: &mut [std::ops::Range<usize>], r: &mut Dice) -> Option<()> {
    let k = r.below(b.len());
    let range = b.get_mut(k)?;
    match r.below(3) {
        0 => *range = range.start + 1..range.end + 1,
        1 if range.start > 0 => *range = range.start - 1..range.end - 1,
        _ if range.end > range.start => range.end -= 1,
        _ => return None,
    }
    Some(())
}

fn shift_claim(claim: &mut Claim, _: &Program, r: &mut Dice) -> Option<()> {
    match claim {
        Claim::Compute { ranges, .. } => nudge_box(ranges, r),
        Claim::Move { part, .. } => nudge_box(part, r),
        Claim::Loop { parts, .. } => {
            let k = r.below(parts.len());
            nudge_box(&mut parts.get_mut(k)?.1, r)
        }
        Claim::Control => None,
    }
}

fn other_value(claim: &mut Claim, p: &Program, r: &mut Dice) -> Option<()> {
    let v = crate::graph::ValueId::new(r.below(p.step.graph.nodes().len()));
    match claim {
        Claim::Compute { node, .. } => *node = v,
        Claim::Move { value, .. } => *value = v,
        Claim::Loop { end, .. } => *end = v,
        Claim::Control => return None,
    }
    Some(())
}

fn shift_host_part(p: &mut Program, r: &mut Dice) -> Option<String> {
    let (d, i, s) = choose(p, r, |i| matches!(i, Instr::Load { .. } | Instr::Store { .. }))?;
    match &mut p.streams[s][i] {
        Instr::Load { part, .. } | Instr::Store { part, .. } => nudge_box(part, r)?,
        _ => {}
    }
    Some(place(p, d, i))
}

fn swap_operands(p: &mut Program, r: &mut Dice) -> Option<String> {
    let (d, i, s) = choose(p, r, |i| matches!(i, Instr::Gemm { .. } | Instr::Map { .. } | Instr::Concat { .. }))?;
    match &mut p.streams[s][i] {
        Instr::Gemm { a, b, .. } => std::mem::swap(a, b),
        Instr::Map { ins, .. } | Instr::Concat { ins, .. } if ins.len() > 1 => ins.swap(0, 1),
        _ => return None,
    }
    Some(place(p, d, i))
}

fn move_state(p: &mut Program, r: &mut Dice) -> Option<String> {
    let sites: Vec<(usize, usize)> = p.state.iter().enumerate().flat_map(|(k, l)| (0..l.len()).map(move |i| (k, i))).collect();
    let (k, i) = *r.pick(&sites)?;
    let ty = p.step.state_type(&p.step.state[k]).clone();
    let shard = &mut p.state[k][i];
    match r.below(4) {
        0 => shard.region.offset += ty.dtype.size() as u64,
        1 => {
            p.state[k].remove(i);
        }
        2 => {
            // Another part of equal extents.
            let mut part: Box = shard.part.clone();
            let d = r.below(part.len());
            let (range, extent) = (part.get_mut(d)?, *ty.shape.get(d)?);
            let len = range.end - range.start;
            range.start = r.below(extent - len + 1);
            range.end = range.start + len;
            shard.part = part;
        }
        _ => shard.die = (shard.die + 1) % p.dies.len() as u32,
    }
    Some(format!("pair {k} shard {i}"))
}

fn bend_route(p: &mut Program, r: &mut Dice) -> Option<String> {
    let c = r.below(p.channels.len());
    let route = &mut p.channels.get_mut(c)?.route;
    let k = r.below(route.len());
    match r.below(3) {
        0 => route.get_mut(k)?.0 ^= 1 + r.below(3) as u32,
        1 if route.len() > 1 => {
            route.remove(k);
        }
        _ => {
            let again = *route.get(k)?;
            route.insert(k, again);
        }
    }
    Some(format!("ch{c} hop {k}"))
}
