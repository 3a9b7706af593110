//! The sections of a target file, field by field.
//!
//! The structs mirror the TOML; programs use the accessors of [`Target`], which return plain SI numbers.

use super::engines::{Amp, TileEngine, VectorUnit};
use super::geometry::{Direction, GridShape, Mesh};
use super::nodes::NodeEngine;
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
    /// From the start of a step to the first instruction, where that is known.
    pub dispatch: Option<Quantity<Time>>,
    /// How products run on a matrix engine that its peak, the tile that they are padded to and the depth of its pipeline describe.
    pub gemm: Option<GemmTile>,
    /// How products run on vector instructions, for dies without a matrix engine.
    pub vector_unit: Option<VectorUnit>,
    /// How products, convolutions and pooling run on an IPU's tile.
    pub amp: Option<Amp>,
    /// How products run on an engine that takes square tiles in phases.
    pub tile_engine: Option<TileEngine>,
    /// How products run on the grid of nodes, where each has a matrix unit.
    pub node_engine: Option<NodeEngine>,
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

impl GemmTile {
    /// The part of the peak that an `m×k` by `k×n` product reaches, in (0, 1]: the useful share of the product padded to the
    /// tile, times `k / (k + k0)` for filling the pipeline. An empty product counts as 1.
    pub fn efficiency(&self, m: usize, n: usize, k: usize) -> f64 {
        let share = |extent: usize, tile: &Quantity<Count>| {
            let (extent, tile) = (extent as f64, tile.si());
            extent / ((extent / tile).ceil() * tile)
        };
        if m == 0 || n == 0 || k == 0 {
            return 1.0;
        }
        share(m, &self.t_m) * share(n, &self.t_n) * share(k, &self.t_k) * k as f64 / (k as f64 + self.k0.si())
    }
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
    /// Time of a stream to put a transfer into its queue; without it that of any instruction.
    pub issue: Option<Quantity<Time>>,
    /// Time of a stream to go on after a wait, where that takes any.
    pub wait: Option<Quantity<Time>>,
    /// Between the SRAM of a die and its router, in each direction, for all messages together; without it only the links limit.
    pub ramp: Option<Quantity<BytesPerSecond>>,
    /// Where a die forwards word by word what it receives or combines: from a word's arrival to its departure, beyond the message overhead.
    /// Without it a message is sent on when all of it is there.
    pub streaming: Option<Quantity<Time>>,
    /// Whether what goes through the ramp takes the time of the compute engine.
    #[serde(default)]
    pub on_engine: bool,
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
    /// Of one package of several that run replicas: its links to the next ones, where some of those are dead.
    pub borders: Option<Borders>,
}

/// Live links between neighboring packages, of the border that has the fewest.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Borders {
    /// Between packages beside each other.
    pub sideways: u32,
    /// Between packages below each other.
    pub downwards: u32,
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

/// Adds the figures of a section of that many plain fields.
macro_rules! push_section {
    ($list:ident, $at:literal, $section:ident, ($($borrow:tt)+), $fields:tt) => { push_section!(@ $list, $at, $section, ($($borrow)+), $fields) };
    (@ $list:ident, $at:literal, $section:ident, $borrow:tt, [$($field:ident),*]) => {
        $(push_section!(# $list, $at, $section, $borrow, $field);)*
    };
    (# $list:ident, $at:literal, $section:ident, ($($borrow:tt)+), $field:ident) => {
        $list.push((concat!($at, ".", stringify!($field)).to_string(), $($borrow)+ $section.$field));
    };
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
        if let Some(dispatch) = $($borrow)+ $target.die.dispatch {
            list.push(("die.dispatch".into(), dispatch));
        }
        if let Some(tile) = $($borrow)+ $target.die.gemm {
            push_section!(list, "die.gemm", tile, ($($borrow)+), [t_m, t_n, t_k, k0]);
        }
        if let Some(unit) = $($borrow)+ $target.die.vector_unit {
            push_section!(list, "die.vector_unit", unit, ($($borrow)+), [start]);
            for (dtype, figure) in unit.lanes.$iterate() {
                list.push((format!("die.vector_unit.lanes.{dtype}"), figure));
            }
            for (dtype, figure) in unit.cycles.$iterate() {
                list.push((format!("die.vector_unit.cycles.{dtype}"), figure));
            }
        }
        if let Some(amp) = $($borrow)+ $target.die.amp {
            push_section!(list, "die.amp", amp, ($($borrow)+), [
                workers, depth_bytes, columns, byte_cycles, block_cycles, column_cycles, conv_depth, conv_columns, conv_cycles,
                conv_block, conv_worker, conv_row, conv_output, line_width, line_cycles, pool_worker, pool_item, pool_vector
            ]);
        }
        if let Some(tiles) = $($borrow)+ $target.die.tile_engine {
            push_section!(list, "die.tile_engine", tiles, ($($borrow)+), [tile, phase, phase_issue, tile_issue]);
        }
        if let Some(node) = $($borrow)+ $target.die.node_engine {
            push_section!(list, "die.node_engine", node, ($($borrow)+), [rows, cols, depth, start, port, store, panels, hop]);
        }
        list.push(("link.bandwidth".into(), $($borrow)+ $target.link.bandwidth));
        list.push(("link.hop_latency".into(), $($borrow)+ $target.link.hop_latency));
        list.push(("link.message_overhead".into(), $($borrow)+ $target.link.message_overhead));
        if let Some(issue) = $($borrow)+ $target.link.issue {
            list.push(("link.issue".into(), issue));
        }
        if let Some(wait) = $($borrow)+ $target.link.wait {
            list.push(("link.wait".into(), wait));
        }
        if let Some(ramp) = $($borrow)+ $target.link.ramp {
            list.push(("link.ramp".into(), ramp));
        }
        if let Some(streaming) = $($borrow)+ $target.link.streaming {
            list.push(("link.streaming".into(), streaming));
        }
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
