//! place: from split loops to work on dies. Every node becomes one task on each die that has a share of it; where a die needs a part
//! of a value that it does not hold, transfers bring exactly that part from the nearest holder, and partial sums are combined.
//!
//! The generic mechanism is box intersection: halos, gathers, all-to-alls, reduce-scatters and uneven shards are all cases of it.

mod assemble;
mod dies;

pub use dies::{Buffer, BufferId, Message, PlacedGraph, Storage, Task, TaskKind, View};

use crate::sharded::{ShardedGraph, axes_of};
use assemble::Placer;
use girih_ir::target::{LogicalMesh, Target};

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
    if mesh.count() != sharded.mesh.count() {
        return Err(PlaceError::Mesh { want: sharded.mesh.count(), have: mesh.count() });
    }
    let live = sharded.step.graph.live();
    let mut placer = Placer::new(&sharded, mesh, target);
    for value in sharded.step.graph.values().filter(|v| live[v.index()]) {
        let axes = axes_of(&sharded.step.graph, value);
        placer.node(value, &axes)?;
    }
    placer.finish()?;
    let (buffers, tasks, messages) = placer.into_parts();
    Ok(PlacedGraph { dies: mesh.dies().to_vec(), sharded, buffers, tasks, messages })
}
