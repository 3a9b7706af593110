//! Programs of streams alone: for communication patterns that are timed before a model needs them.
//!
//! They have no graph and claim nothing, so the simulator takes them and the checker does not.

use girih_ir::program::{Channel, ChannelId, ClaimId, DieCode, Instr, Program, Queue, StreamId};
use girih_ir::target::{DieId, Target};
use std::collections::BTreeMap;

/// The stream of a die under construction, and the waits that are behind it, by queue.
#[derive(Debug, Default)]
pub(super) struct Emitter {
    waited: BTreeMap<Queue, u32>,
    pub(super) stream: Vec<Instr>,
}

impl Emitter {
    /// Waits until so many entries of a queue are done, unless the stream has waited for that already.
    pub(super) fn wait(&mut self, queue: Queue, count: u32) {
        let before = self.waited.entry(queue).or_default();
        if count > *before {
            *before = count;
            self.stream.push(Instr::Wait { queue, count });
        }
    }
}

/// A program under construction.
#[derive(Clone, Debug)]
pub struct Bare {
    /// What is there so far.
    pub program: Program,
}

impl Bare {
    /// Nothing yet, on this target.
    pub fn new(name: &str, target: &Target) -> Self {
        Bare { program: Program::bare(name, target.clone()) }
    }

    /// A channel between two dies over the target's route; `None` when there is none.
    pub fn channel(&mut self, source: DieId, dest: DieId, depth: u32) -> Option<ChannelId> {
        let route = self.program.target.route(source, dest)?;
        self.program.channels.push(Channel { source, dest, route, depth });
        Some(ChannelId::new(self.program.channels.len() - 1))
    }

    /// The code of a die. Dies come in ascending order.
    pub fn die(&mut self, die: DieId, sram_used: u64, out_ports: Vec<ChannelId>, in_ports: Vec<ChannelId>, mut stream: Vec<Instr>) {
        stream.push(Instr::End);
        let claims = vec![ClaimId(0); stream.len()];
        self.program.streams.push(stream);
        let stream = StreamId::new(self.program.streams.len() - 1);
        self.program.dies.push(DieCode { die, stream, claims, out_ports, in_ports, sram_used });
    }
}
