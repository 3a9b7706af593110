//! Which queue serves which instruction: the link directions of a die's ports, read off the channels' routes.

use girih_ir::program::{Channel, DieCode, Instr, Program, Queue};
use girih_ir::target::Direction;

/// Queues of a die: four out, four in, load, store, collective.
pub const QUEUES: usize = 11;

/// The position of a queue among a die's queues.
pub fn slot(queue: Queue) -> usize {
    match queue {
        Queue::Out(d) => d as usize,
        Queue::In(d) => 4 + d as usize,
        Queue::Load => 8,
        Queue::Store => 9,
        Queue::Collective => 10,
    }
}

/// The queue at that position.
pub fn queue(slot: usize) -> Queue {
    match slot {
        0..4 => Queue::Out(Direction::ALL[slot]),
        4..8 => Queue::In(Direction::ALL[slot - 4]),
        8 => Queue::Load,
        9 => Queue::Store,
        _ => Queue::Collective,
    }
}

/// `out E`, `in W`, `load`, `store`, `collective`.
pub fn name(slot: usize) -> String {
    match queue(slot) {
        Queue::Out(d) => format!("out {d}"),
        Queue::In(d) => format!("in {d}"),
        Queue::Load => "load".into(),
        Queue::Store => "store".into(),
        Queue::Collective => "collective".into(),
    }
}

/// Where a queue instruction goes: its queue, and its channel if it is a send or receive.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Entry {
    /// Position of the queue.
    pub queue: usize,
    /// Position of the channel.
    pub channel: Option<usize>,
}

/// The entry of a queue instruction of this die; `None` for other instructions, an error text for ports and routes that do not exist.
pub fn entry(program: &Program, code: &DieCode, instr: &Instr) -> Result<Option<Entry>, String> {
    let find = |ports: &[girih_ir::program::ChannelId], port: usize| -> Result<(usize, &Channel), String> {
        let id = ports.get(port).ok_or_else(|| format!("the die has no port c{port}"))?;
        let channel = program.channels.get(id.index()).ok_or_else(|| format!("there is no channel {id}"))?;
        Ok((id.index(), channel))
    };
    let empty = |id: usize| format!("channel ch{id} has an empty route");
    let link_slots = program.target.mesh.link_slots();
    let known = |link: &girih_ir::target::LinkId| link.index() < link_slots;
    Ok(match instr {
        Instr::Send { port, .. } => {
            let (id, channel) = find(&code.out_ports, port.index())?;
            let first = channel.route.first().filter(|l| known(l)).ok_or_else(|| empty(id))?;
            if channel.source != code.die {
                return Err(format!("channel ch{id} does not start here"));
            }
            Some(Entry { queue: slot(Queue::Out(program.target.mesh.link_start(*first).1)), channel: Some(id) })
        }
        Instr::Recv { port, .. } | Instr::RecvAdd { port, .. } => {
            let (id, channel) = find(&code.in_ports, port.index())?;
            let last = channel.route.last().filter(|l| known(l)).ok_or_else(|| empty(id))?;
            if channel.dest != code.die {
                return Err(format!("channel ch{id} does not end here"));
            }
            Some(Entry { queue: slot(Queue::In(program.target.mesh.link_start(*last).1.opposite())), channel: Some(id) })
        }
        Instr::Load { .. } => Some(Entry { queue: slot(Queue::Load), channel: None }),
        Instr::Store { .. } => Some(Entry { queue: slot(Queue::Store), channel: None }),
        Instr::AllReduce { .. } => Some(Entry { queue: slot(Queue::Collective), channel: None }),
        _ => None,
    })
}
