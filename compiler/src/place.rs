//! place: from split loops to work on dies. Every node becomes one task on each die that has a share of it; where a die needs a part
//! of a value that it does not hold, transfers bring exactly that part from the nearest holder, and partial sums are combined.
//!
//! The generic mechanism is box intersection: halos, gathers, all-to-alls, reduce-scatters and uneven shards are all cases of it.

mod alone;
mod assemble;
mod combine;
mod dies;
mod holders;
mod loops;
mod panels;
mod stream;
#[cfg(test)]
mod testing;

pub use dies::{Buffer, BufferId, Message, PlacedGraph, Storage, Task, TaskKind, View};

pub(crate) use loops::participants;
pub use stream::STREAM_WINDOW;

use crate::sharded::{ShardedGraph, axes_of};
use assemble::Placer;
use girih_ir::graph::ValueId;
use girih_ir::graph::loops::LoopNest;
use girih_ir::target::{LogicalMesh, Target};
use loops::OpenLoop;

/// Why a sharded graph cannot be placed.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum PlaceError {
    /// Two dies that must talk have no live path between them.
    #[error(
        "E0801: no live route from die {from} to die {to}: the dead dies and links cut the mesh apart; use fewer dies (`--dies`) on one side of the cut"
    )]
    NoRoute {
        /// Sender.
        from: String,
        /// Receiver.
        to: String,
    },
    /// The logical mesh does not have the extents that the graph was sharded for.
    #[error("E0802: the graph is sharded over {want} dies but the mesh has {have}")]
    Mesh {
        /// Dies of the sharding.
        want: usize,
        /// Dies of the mesh.
        have: usize,
    },
}

/// Places a sharded graph on the live dies of a target.
pub fn place(sharded: ShardedGraph, mesh: &LogicalMesh, target: &Target) -> Result<PlacedGraph, PlaceError> {
    place_dies(sharded, mesh, target, None)
}

/// The tasks of one logical die, to learn how much memory it needs when: transfers have both their ends on it, so this is nothing to lower.
pub fn place_alone(sharded: ShardedGraph, mesh: &LogicalMesh, target: &Target, die: u32) -> Result<PlacedGraph, PlaceError> {
    place_dies(sharded, mesh, target, Some(die))
}

fn place_dies(sharded: ShardedGraph, mesh: &LogicalMesh, target: &Target, only: Option<u32>) -> Result<PlacedGraph, PlaceError> {
    if mesh.count() != sharded.mesh.count() {
        return Err(PlaceError::Mesh { want: sharded.mesh.count(), have: mesh.count() });
    }
    let live = sharded.step.graph.live();
    let mut placer = Placer::new(&sharded, mesh, target, only);
    let graph = &sharded.step.graph;
    let nest = LoopNest::of(graph).unwrap_or_default();
    let mut open: Vec<Option<OpenLoop>> = nest.loops.iter().map(|_| None).collect();
    // The node behind which each loop knows whether its iteration takes place.
    let last = |l: usize| nest.predicate_members(graph, l).last().or(nest.loops[l].carries.last()).copied();
    let exits: Vec<Option<ValueId>> = (0..nest.loops.len()).map(last).collect();
    let mut again = sharded.remat.iter().peekable();
    for value in graph.values().filter(|v| live[v.index()]) {
        placer.at(value);
        while let Some((v, _)) = again.next_if(|(_, before)| *before <= value) {
            placer.again(*v, &axes_of(graph, *v))?;
        }
        let inside = nest.innermost(value);
        if let Some(l) = inside.filter(|l| open[*l].is_none()) {
            open[l] = Some(placer.begin_loop(&nest, l)?);
            placer.forget_at_border();
        }
        match nest.ending_at(value).and_then(|l| open[l].take().map(|o| (l, o))) {
            Some((l, opened)) => {
                placer.end_loop(&nest, l, &opened)?;
                placer.forget_at_border();
            }
            None => placer.node(value, &axes_of(graph, value))?,
        }
        if let Some((l, opened)) = inside.and_then(|l| open[l].as_ref().map(|o| (l, o)))
            && exits[l] == Some(value)
        {
            placer.exit_loop(&nest, l, opened)?;
        }
    }
    placer.finish()?;
    let (buffers, tasks, messages) = placer.into_parts();
    Ok(PlacedGraph { dies: mesh.dies().to_vec(), sharded, buffers, tasks, messages })
}
