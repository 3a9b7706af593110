//! The sections of a target file, field by field.
//!
//! The structs mirror the TOML; programs use the accessors of [`Target`], which return plain SI numbers.

use super::geometry::{Direction, GridShape, Mesh};
use super::quantity::{
    Bytes, BytesPerSecond, Count, EnergyPerByte, EnergyPerFlop, Figure, FlopsPerSecond, Frequency, PerDType, Power, Quantity, Time,
};
use serde::{Deserialize, Serialize};
use std::collections::BTreeSet;

/// A mesh of dies and everything that planning and simulation assume about it.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Target {
    /// What `-t` takes.
    pub name: String,
    /// One or two sentences: what the dies are, and what is only approximated.
    pub description: String,
    /// Element types and other formats that the engines take natively; names that are no element type inform only.
    pub formats: Vec<String>,
    /// Geometry and defects.
    pub mesh: Mesh,
    /// One die.
    pub die: Die,
    /// One link between two dies.
    pub link: Link,
    /// Memory behind the edges of the mesh.
    pub host_memory: HostMemory,
    /// Energy of each kind of work.
    pub energy: Energy,
    /// How dies are packaged.
    pub package: Package,
}

/// SRAM and engines of a die.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Die {
    /// The cores inside the die.
    pub nodes: Nodes,
    /// Size of the SRAM that a program may use.
    pub sram: Quantity<Bytes>,
    /// Regions start at multiples of this.
    pub sram_alignment: Quantity<Bytes>,
    /// What all nodes together read from SRAM.
    pub sram_bandwidth: Quantity<BytesPerSecond>,
    /// Clock of the nodes.
    pub clock: Quantity<Frequency>,
    /// Peak of the matrix engines, by input type.
    pub peak: PerDType<FlopsPerSecond>,
    /// Peak of the vector engines for f32.
    pub vector: Quantity<FlopsPerSecond>,
    /// From one instruction to the next one, beyond its work.
    pub launch_overhead: Quantity<Time>,
    /// What a matrix product is padded to.
    pub gemm: GemmTile,
}

/// The grid of cores of a die; the cost model sees it, the streams do not.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Nodes {
    /// Sites of the grid.
    pub shape: GridShape,
    /// How many sites hold no working node.
    #[serde(default)]
    pub dead: u32,
}

/// The shape that a matrix product is padded to, and the depth that half-fills the pipeline.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct GemmTile {
    /// Rows of the result.
    pub t_m: Quantity<Count>,
    /// Columns of the result.
    pub t_n: Quantity<Count>,
    /// Inner extent.
    pub t_k: Quantity<Count>,
    /// At this inner extent half of the peak is reached.
    pub k0: Quantity<Count>,
}

/// A link between neighboring dies.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Link {
    /// In each direction.
    pub bandwidth: Quantity<BytesPerSecond>,
    /// For the first byte to cross one link.
    pub hop_latency: Quantity<Time>,
    /// To start and finish a message, however far it goes.
    pub message_overhead: Quantity<Time>,
    /// Whether routers copy a message to several links.
    pub multicast: bool,
}

/// Off-chip memory and the ports to it: one at each live die of the listed edges.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct HostMemory {
    /// The edges of the mesh that have ports.
    pub edges: BTreeSet<Direction>,
    /// Of one port, in each direction.
    pub port_bandwidth: Quantity<BytesPerSecond>,
    /// Of all ports together, in each direction.
    pub total_bandwidth: Quantity<BytesPerSecond>,
    /// From the request to the first byte.
    pub latency: Quantity<Time>,
    /// Of all the memory.
    pub capacity: Quantity<Bytes>,
}

/// Energy of each kind of work, and of none.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Energy {
    /// By input type, control and operand delivery included.
    pub flop: PerDType<EnergyPerFlop>,
    /// Of reading or writing SRAM.
    pub sram: Quantity<EnergyPerByte>,
    /// Of moving over one link.
    pub link: Quantity<EnergyPerByte>,
    /// Of moving to or from host memory.
    pub host: Quantity<EnergyPerByte>,
    /// Of a die that does nothing.
    pub idle: Quantity<Power>,
}

/// The unit that shares power, cooling and a carrier.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Package {
    /// What all dies of one package may draw together.
    pub max_power: Quantity<Power>,
    /// Dies of one package; without it the whole mesh is one.
    pub tile: Option<GridShape>,
    /// Links that cross from one package to the next, if those differ.
    pub crossing: Option<Crossing>,
}

/// A link between two packages.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Crossing {
    /// In each direction.
    pub bandwidth: Quantity<BytesPerSecond>,
    /// For the first byte to cross.
    pub hop_latency: Quantity<Time>,
}

/// The one list of figures, for both kinds of borrow.
macro_rules! list_figures {
    ($target:ident, $iterate:ident, $($borrow:tt)+) => {{
        let mut list: Vec<(String, $($borrow)+ dyn Figure)> = Vec::new();
        list.push(("die.sram".into(), $($borrow)+ $target.die.sram));
        list.push(("die.sram_alignment".into(), $($borrow)+ $target.die.sram_alignment));
        list.push(("die.sram_bandwidth".into(), $($borrow)+ $target.die.sram_bandwidth));
        list.push(("die.clock".into(), $($borrow)+ $target.die.clock));
        for (dtype, figure) in $target.die.peak.$iterate() {
            list.push((format!("die.peak.{dtype}"), figure));
        }
        list.push(("die.vector".into(), $($borrow)+ $target.die.vector));
        list.push(("die.launch_overhead".into(), $($borrow)+ $target.die.launch_overhead));
        list.push(("die.gemm.t_m".into(), $($borrow)+ $target.die.gemm.t_m));
        list.push(("die.gemm.t_n".into(), $($borrow)+ $target.die.gemm.t_n));
        list.push(("die.gemm.t_k".into(), $($borrow)+ $target.die.gemm.t_k));
        list.push(("die.gemm.k0".into(), $($borrow)+ $target.die.gemm.k0));
        list.push(("link.bandwidth".into(), $($borrow)+ $target.link.bandwidth));
        list.push(("link.hop_latency".into(), $($borrow)+ $target.link.hop_latency));
        list.push(("link.message_overhead".into(), $($borrow)+ $target.link.message_overhead));
        list.push(("host_memory.port_bandwidth".into(), $($borrow)+ $target.host_memory.port_bandwidth));
        list.push(("host_memory.total_bandwidth".into(), $($borrow)+ $target.host_memory.total_bandwidth));
        list.push(("host_memory.latency".into(), $($borrow)+ $target.host_memory.latency));
        list.push(("host_memory.capacity".into(), $($borrow)+ $target.host_memory.capacity));
        for (dtype, figure) in $target.energy.flop.$iterate() {
            list.push((format!("energy.flop.{dtype}"), figure));
        }
        list.push(("energy.sram".into(), $($borrow)+ $target.energy.sram));
        list.push(("energy.link".into(), $($borrow)+ $target.energy.link));
        list.push(("energy.host".into(), $($borrow)+ $target.energy.host));
        list.push(("energy.idle".into(), $($borrow)+ $target.energy.idle));
        list.push(("package.max_power".into(), $($borrow)+ $target.package.max_power));
        if let Some(crossing) = $($borrow)+ $target.package.crossing {
            list.push(("package.crossing.bandwidth".into(), $($borrow)+ crossing.bandwidth));
            list.push(("package.crossing.hop_latency".into(), $($borrow)+ crossing.hop_latency));
        }
        list
    }};
}

impl Target {
    /// Every figure with its path in the file, in file order.
    #[expect(clippy::vec_init_then_push, reason = "arguments of push coerce to the trait object, elements of vec! do not")]
    pub fn figures(&self) -> Vec<(String, &dyn Figure)> {
        list_figures!(self, iter, &)
    }

    /// Every figure with its path in the file, in file order, to be changed.
    #[expect(clippy::vec_init_then_push, reason = "arguments of push coerce to the trait object, elements of vec! do not")]
    pub fn figures_mut(&mut self) -> Vec<(String, &mut dyn Figure)> {
        list_figures!(self, iter_mut, &mut)
    }
}
