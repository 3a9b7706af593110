//! The program with its ports, queues and messages resolved, once, for all phases.

use crate::program::{Instr, Program, Queue};
use crate::target::{Direction, Target};

/// Queues of a die in a fixed order: out N E S W, in N E S W, load, store.
pub const QUEUES: usize = 10;

/// The position of a queue in that order.
pub fn queue_index(queue: Queue) -> usize {
    match queue {
        Queue::Out(d) => d as usize,
        Queue::In(d) => 4 + d as usize,
        Queue::Load => 8,
        Queue::Store => 9,
    }
}

/// The name of a queue in messages and in the text form.
pub fn queue_name(index: usize) -> String {
    match index {
        0..=3 => format!("out.{}", Direction::ALL[index]),
        4..=7 => format!("in.{}", Direction::ALL[index - 4]),
        8 => "load".to_string(),
        _ => "store".to_string(),
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

/// One die.
#[derive(Clone, Debug, Default)]
pub struct DieTrace {
    /// One entry an instruction; `None` when it runs on the compute engine.
    pub queued: Vec<Option<Queued>>,
    /// The entries of each queue: instruction indices.
    pub queues: [Vec<u32>; QUEUES],
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
}

/// The outgoing and incoming queue of a channel; `None` when its route has no links.
pub fn channel_queues(target: &Target, route: &[crate::target::LinkId]) -> Option<(usize, usize)> {
    let (_, leaves) = target.mesh.link_start(*route.first()?);
    let (_, last) = target.mesh.link_start(*route.last()?);
    Some((leaves as usize, 4 + last.opposite() as usize))
}

impl Trace {
    /// Resolves a program whose structure and routes were checked.
    pub fn new(program: &Program) -> Self {
        let queues: Vec<(usize, usize)> =
            program.channels.iter().map(|c| channel_queues(&program.target, &c.route).unwrap_or((0, 4))).collect();
        let mut trace = Trace { dies: Vec::new(), channels: vec![ChannelTrace::default(); program.channels.len()] };
        for (d, code) in program.dies.iter().enumerate() {
            let stream = &program.streams[code.stream.index()];
            let mut die = DieTrace { queued: Vec::with_capacity(stream.len()), queues: Default::default() };
            for (i, instr) in stream.iter().enumerate() {
                let place = (d as u32, i as u32);
                let (queue, message) = match instr {
                    Instr::Send { port, .. } => {
                        let ch = code.out_ports[port.index()];
                        let sends = &mut trace.channels[ch.index()].sends;
                        sends.push(place);
                        (queues[ch.index()].0, Some((ch.0, sends.len() as u32 - 1)))
                    }
                    Instr::Recv { port, .. } | Instr::RecvAdd { port, .. } => {
                        let ch = code.in_ports[port.index()];
                        let recvs = &mut trace.channels[ch.index()].recvs;
                        recvs.push(place);
                        (queues[ch.index()].1, Some((ch.0, recvs.len() as u32 - 1)))
                    }
                    Instr::Load { .. } => (8, None),
                    Instr::Store { .. } => (9, None),
                    _ => {
                        die.queued.push(None);
                        continue;
                    }
                };
                die.queues[queue].push(i as u32);
                die.queued.push(Some(Queued { queue: queue as u8, count: die.queues[queue].len() as u32, message }));
            }
            trace.dies.push(die);
        }
        trace
    }
}
