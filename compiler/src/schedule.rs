//! schedule: the global order of tasks. Every die's stream is that order restricted to the die, so all waits point backwards and no
//! deadlock is possible. Transfers move up to right behind the task that makes their data, so they travel while others compute.

use crate::place::{PlacedGraph, TaskKind};

/// A placed graph with the order in which its tasks are issued.
#[derive(Clone, PartialEq, Debug)]
pub struct Schedule {
    /// What is scheduled.
    pub placed: PlacedGraph,
    /// Task indices in global issue order.
    pub order: Vec<u32>,
}

/// Orders the tasks of a placed graph.
pub fn schedule(placed: PlacedGraph) -> Schedule {
    const LAST: u32 = u32::MAX;
    // The node position at which the bytes of a buffer are complete.
    let mut ready = vec![0u32; placed.buffers.len()];
    let mut message_ready = vec![0u32; placed.messages.len()];
    let mut position = Vec::with_capacity(placed.tasks.len());
    let mut node_position = 0;
    let root = |b| placed.root(b).index();
    for (i, task) in placed.tasks.iter().enumerate() {
        let inputs = task.reads.iter().filter(|v| v.buffer.0 != u32::MAX).map(|v| ready[root(v.buffer)]).max().unwrap_or(0);
        let outputs = task.writes.iter().map(|v| ready[root(v.buffer)]).max().unwrap_or(0);
        let writes_state = task.writes.iter().any(|v| matches!(placed.buffers[root(v.buffer)].storage, crate::place::Storage::State(_)));
        let at = match &task.kind {
            TaskKind::Compute { node, .. } => {
                node_position = node_position.max(node.0 + 1);
                node_position
            }
            TaskKind::Load(_) => node_position,
            // State is overwritten when every reader of the old value has been issued.
            TaskKind::Copy | TaskKind::Recv(..) if writes_state => LAST,
            TaskKind::Copy => inputs.max(outputs),
            TaskKind::Store(_) => inputs,
            TaskKind::Send(m) => {
                // Both ends are issued at one place of the order; the receiving end is the next task.
                let dest = placed.tasks.get(i + 1).and_then(|t| t.writes.first()).map_or(0, |v| ready[root(v.buffer)]);
                message_ready[*m as usize] = inputs.max(dest);
                message_ready[*m as usize]
            }
            TaskKind::Recv(m, _) => message_ready[*m as usize],
        };
        task.writes.iter().for_each(|v| ready[root(v.buffer)] = ready[root(v.buffer)].max(at));
        position.push(at);
    }
    let mut order: Vec<u32> = (0..placed.tasks.len() as u32).collect();
    order.sort_by_key(|t| (position[*t as usize], *t));
    Schedule { placed, order }
}
