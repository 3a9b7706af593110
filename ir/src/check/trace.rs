//! The program with its ports, queues, messages and loops resolved, once, for all phases.

use crate::graph::ValueId;
use crate::program::{Claim, DieCode, Instr, Program, Queue};
use crate::target::{Direction, Target};
use rustc_hash::FxHashMap;

/// Queues of a die in a fixed order: out N E S W, in N E S W, load, store, collective.
pub const QUEUES: usize = 11;

/// The position of a queue in that order.
pub fn queue_index(queue: Queue) -> usize {
    match queue {
        Queue::Out(d) => d as usize,
        Queue::In(d) => 4 + d as usize,
        Queue::Load => 8,
        Queue::Store => 9,
        Queue::Collective => 10,
    }
}

/// The name of a queue in messages and in the text form.
pub fn queue_name(index: usize) -> String {
    match index {
        0..=3 => format!("out.{}", Direction::ALL[index]),
        4..=7 => format!("in.{}", Direction::ALL[index - 4]),
        8 => "load".to_string(),
        9 => "store".to_string(),
        _ => "collective".to_string(),
    }
}

/// An instruction of a die.
pub type At = (u32, u32);

/// The queue work of one instruction.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Queued {
    /// Which queue.
    pub queue: u8,
    /// Entries of that queue up to and with this one.
    pub count: u32,
    /// Channel and message number for sends and receives.
    pub message: Option<(u32, u32)>,
}

/// A `loop`, `exit_unless` or `end_loop`: all queues drain before it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Fence {
    /// The instruction.
    pub instr: u32,
    /// Entries of each queue that are issued before it.
    pub issued: [u32; QUEUES],
    /// The border of a loop that it is, as an index into [`Trace::borders`]; an `exit_unless` is none.
    pub border: Option<u32>,
}

/// One die. Bodies of loops are traced once, so entries count as if every loop ran once.
#[derive(Clone, Debug, Default)]
pub struct DieTrace {
    /// One entry an instruction; `None` when it runs on the compute engine.
    pub queued: Vec<Option<Queued>>,
    /// The entries of each queue: instruction indices.
    pub queues: [Vec<u32>; QUEUES],
    /// One entry an instruction: for a `wait` that counts anything, the entry that it waits for, counted from the start of the stream.
    pub waits: Vec<u32>,
    /// The fences, in order.
    pub fences: Vec<Fence>,
    /// One entry an instruction: the loops around it, as an index into [`Trace::paths`].
    pub paths: Vec<u32>,
}

impl DieTrace {
    /// The fence that an instruction is.
    pub fn fence(&self, instr: u32) -> Option<&Fence> {
        let at = self.fences.binary_search_by_key(&instr, |f| f.instr).ok()?;
        self.fences.get(at)
    }

    /// Entries of a queue that are issued before the last fence before an instruction.
    pub fn before_fence(&self, instr: u32, queue: usize) -> u32 {
        let at = self.fences.partition_point(|f| f.instr < instr);
        self.fences[..at].last().map_or(0, |f| f.issued[queue])
    }
}

/// The innermost loop around an instruction.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct LoopPath {
    /// The loops around that one, as an index into [`Trace::paths`].
    pub outer: u32,
    /// The node that ends the loop.
    pub end: ValueId,
    /// Whether the instruction comes after the `exit_unless`: what is before runs once more often.
    pub stays: bool,
}

/// One channel.
#[derive(Clone, Debug, Default)]
pub struct ChannelTrace {
    /// Its sends in order.
    pub sends: Vec<At>,
    /// Its receives in order.
    pub recvs: Vec<At>,
}

/// All of them.
#[derive(Clone, Debug, Default)]
pub struct Trace {
    /// By index into [`Program::dies`].
    pub dies: Vec<DieTrace>,
    /// By channel.
    pub channels: Vec<ChannelTrace>,
    /// The different positions in loops; the first stands for none.
    pub paths: Vec<LoopPath>,
    /// Beginnings and ends of loops, each with the `loop` or `end_loop` of every die that runs the loop.
    pub borders: Vec<Vec<At>>,
}

/// The outgoing and incoming queue of a channel; `None` when its route has no links.
pub fn channel_queues(target: &Target, route: &[crate::target::LinkId]) -> Option<(usize, usize)> {
    let (_, leaves) = target.mesh.link_start(*route.first()?);
    let (_, last) = target.mesh.link_start(*route.last()?);
    Some((leaves as usize, 4 + last.opposite() as usize))
}

/// What is known of the loops while streams are traced.
#[derive(Default)]
struct Loops {
    paths: Vec<LoopPath>,
    known: FxHashMap<LoopPath, u32>,
    borders: Vec<Vec<At>>,
    /// The first border of the loop with this path.
    of_path: FxHashMap<u32, u32>,
}

impl Loops {
    fn path(&mut self, path: LoopPath) -> u32 {
        let next = self.paths.len() as u32;
        let id = *self.known.entry(path).or_insert(next);
        if id == next {
            self.paths.push(path);
        }
        id
    }

    /// Puts a `loop` (or `end_loop`) of a die to the border of its loop, which begins with this path.
    fn border(&mut self, path: u32, closes: bool, at: At) -> u32 {
        let next = self.borders.len() as u32;
        let first = *self.of_path.entry(path).or_insert(next);
        if first == next {
            self.borders.extend([Vec::new(), Vec::new()]);
        }
        let id = first + u32::from(closes);
        self.borders[id as usize].push(at);
        id
    }
}

impl Trace {
    /// Resolves a program whose structure and routes were checked.
    pub fn new(program: &Program) -> Self {
        let queues: Vec<(usize, usize)> =
            program.channels.iter().map(|c| channel_queues(&program.target, &c.route).unwrap_or((0, 4))).collect();
        let none = LoopPath { outer: 0, end: ValueId(u32::MAX), stays: false };
        let mut loops = Loops { paths: vec![none], ..Loops::default() };
        let mut channels = vec![ChannelTrace::default(); program.channels.len()];
        let dies = program.dies.iter().enumerate().map(|(d, code)| trace_die(program, code, d as u32, &queues, &mut channels, &mut loops));
        let dies = dies.collect();
        Trace { dies, channels, paths: loops.paths, borders: loops.borders }
    }

    /// The loops around an instruction.
    pub fn path(&self, at: At) -> u32 {
        self.dies[at.0 as usize].paths[at.1 as usize]
    }

    /// A path in words, innermost loop first.
    pub fn show_path(&self, mut path: u32) -> String {
        let mut loops = Vec::new();
        while path != 0 {
            let LoopPath { outer, end, stays } = self.paths[path as usize];
            loops.push(format!("the loop of {end}{}", if stays { " after its exit" } else { "" }));
            path = outer;
        }
        if loops.is_empty() { "outside of all loops".to_string() } else { format!("in {}", loops.join(" in ")) }
    }
}

fn trace_die(
    program: &Program,
    code: &DieCode,
    d: u32,
    queues: &[(usize, usize)],
    channels: &mut [ChannelTrace],
    loops: &mut Loops,
) -> DieTrace {
    let stream = &program.streams[code.stream.index()];
    let mut die = DieTrace { queued: Vec::with_capacity(stream.len()), ..DieTrace::default() };
    let (mut issued, mut base) = ([0u32; QUEUES], [0u32; QUEUES]);
    let mut path = 0;
    for (i, instr) in stream.iter().enumerate() {
        let place = (d, i as u32);
        die.paths.push(path);
        die.waits.push(match instr {
            Instr::Wait { queue, count } if *count > 0 => base[queue_index(*queue)].saturating_add(*count),
            _ => 0,
        });
        let (queue, message) = match instr {
            Instr::Send { port, .. } => {
                let ch = code.out_ports[port.index()];
                let sends = &mut channels[ch.index()].sends;
                sends.push(place);
                (queues[ch.index()].0, Some((ch.0, sends.len() as u32 - 1)))
            }
            Instr::Recv { port, .. } | Instr::RecvAdd { port, .. } => {
                let ch = code.in_ports[port.index()];
                let recvs = &mut channels[ch.index()].recvs;
                recvs.push(place);
                (queues[ch.index()].1, Some((ch.0, recvs.len() as u32 - 1)))
            }
            Instr::Load { .. } => (8, None),
            Instr::Store { .. } => (9, None),
            Instr::AllReduce { .. } => (10, None),
            _ => {
                if let (true, Claim::Loop { end, .. }) = (instr.is_fence(), &program.claims[code.claims[i].index()]) {
                    let around = if matches!(instr, Instr::Loop { .. }) { path } else { loops.paths[path as usize].outer };
                    let inner = LoopPath { outer: around, end: *end, stays: false };
                    let border;
                    (path, border) = match instr {
                        Instr::ExitUnless { .. } => (loops.path(LoopPath { stays: true, ..inner }), None),
                        _ => {
                            let (inner, closes) = (loops.path(inner), matches!(instr, Instr::EndLoop));
                            (if closes { around } else { inner }, Some(loops.border(inner, closes, place)))
                        }
                    };
                    die.fences.push(Fence { instr: i as u32, issued, border });
                    base = issued;
                }
                die.queued.push(None);
                continue;
            }
        };
        issued[queue] += 1;
        die.queues[queue].push(i as u32);
        die.queued.push(Some(Queued { queue: queue as u8, count: issued[queue], message }));
    }
    die
}
