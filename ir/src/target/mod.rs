//! The target description: the machine that a program is compiled for.
//!
//! A target is a TOML file. It says what the mesh looks like, what is dead, what a die holds and how fast everything is, and for
//! every figure where it is from ([`quantity`]). Planning, lowering, checking and simulation read nothing else about the
//! hardware, so a new machine is a new file.
//!
//! Nothing here knows about graphs or programs.

pub mod builtin;
pub mod engines;
pub mod error;
pub mod geometry;
pub mod logical;
pub mod nodes;
pub mod overrides;
pub mod quantity;
pub mod replicas;
pub mod route;
pub mod sections;
pub mod text;

pub use engines::{Amp, TileEngine, VectorUnit, WindowShape};
pub use error::TargetError;
pub use geometry::{Coord, DieId, Direction, GridShape, LinkId, LinkName, Mesh};
pub use logical::{Embedding, LogicalDie, LogicalMesh};
pub use nodes::{NodeEngine, NodePlan, Product};
pub use quantity::{Confidence, Figure, Quantity};
pub use replicas::AllReduceTime;
pub use route::Router;
pub use sections::{Borders, Crossing, Die, Energy, GemmTile, HostMemory, Link, Nodes, Package, Target};

use crate::types::DType;

/// Meshes with more sites than this are refused: ids and tables must stay small for files from strangers.
pub const MAX_SITES: usize = 1 << 22;

/// The accessors: SI units, plain numbers.
impl Target {
    /// Bytes of SRAM of one die.
    pub fn sram_bytes(&self) -> u64 {
        self.die.sram.whole()
    }

    /// Regions start at multiples of this many bytes, a power of two.
    pub fn sram_alignment(&self) -> u64 {
        self.die.sram_alignment.whole()
    }

    /// Bytes per second that the engines of one die read from its SRAM.
    pub fn sram_bandwidth(&self) -> f64 {
        self.die.sram_bandwidth.si()
    }

    /// Cycles per second.
    pub fn clock_hz(&self) -> f64 {
        self.die.clock.si()
    }

    /// Peak FLOP/s of one die for matrix products of this input type; types without an entry take that of a near type or f32,
    /// f64 half of that.
    pub fn peak_flops(&self, dtype: DType) -> f64 {
        self.die.peak.si(dtype, 0.5)
    }

    /// Peak FLOP/s of one die for elementwise work on f32.
    pub fn vector_flops(&self) -> f64 {
        self.die.vector.si()
    }

    /// Seconds from one instruction to the next, beyond its work.
    pub fn launch_overhead(&self) -> f64 {
        self.die.launch_overhead.si()
    }

    /// Working nodes of a die.
    pub fn live_nodes(&self) -> usize {
        self.die.nodes.shape.sites().saturating_sub(self.die.nodes.dead as usize)
    }

    /// Seconds from the start of a step to the first instruction of a die.
    pub fn dispatch(&self) -> f64 {
        self.die.dispatch.as_ref().map_or(0.0, Quantity::si)
    }

    /// Bytes per second and direction of a link inside a package.
    pub fn link_bandwidth(&self) -> f64 {
        self.link.bandwidth.si()
    }

    /// Seconds for the first byte to cross a link inside a package.
    pub fn hop_latency(&self) -> f64 {
        self.link.hop_latency.si()
    }

    /// Bytes per second and direction of this link.
    pub fn bandwidth_of(&self, link: LinkId) -> f64 {
        self.crossing(link).map_or(self.link_bandwidth(), |c| c.bandwidth.si())
    }

    /// Seconds for the first byte to cross this link.
    pub fn latency_of(&self, link: LinkId) -> f64 {
        self.crossing(link).map_or(self.hop_latency(), |c| c.hop_latency.si())
    }

    /// Seconds to start and finish a message.
    pub fn message_overhead(&self) -> f64 {
        self.link.message_overhead.si()
    }

    /// Seconds of a stream to put a transfer into its queue.
    pub fn issue_overhead(&self) -> f64 {
        self.link.issue.as_ref().map_or(self.launch_overhead(), Quantity::si)
    }

    /// Seconds of a stream to go on after a wait.
    pub fn wait_overhead(&self) -> f64 {
        self.link.wait.as_ref().map_or(0.0, Quantity::si)
    }

    /// Bytes per second and direction between a die and its router, if that is less than its links together.
    pub fn ramp_bandwidth(&self) -> Option<f64> {
        self.link.ramp.as_ref().map(Quantity::si)
    }

    /// Seconds that a word spends in a die that sends on what it receives or combines, if dies do that word by word.
    pub fn streaming(&self) -> Option<f64> {
        self.link.streaming.as_ref().map(Quantity::si)
    }

    /// Whether routers copy a message to several links.
    pub fn multicast(&self) -> bool {
        self.link.multicast
    }

    /// The figures of the package crossing, if the link is one and the file gives them.
    fn crossing(&self, link: LinkId) -> Option<&Crossing> {
        let crossing = self.package.crossing.as_ref()?;
        let (from, to) = self.mesh.link_ends(link)?;
        (self.package_of(from) != self.package_of(to)).then_some(crossing)
    }

    /// The package that a die is on, by its place in the grid of packages.
    pub fn package_of(&self, die: DieId) -> Coord {
        let at = self.mesh.coord(die);
        match &self.package.tile {
            Some(tile) => Coord::new(at.row / tile.rows.max(1), at.col / tile.cols.max(1)),
            None => Coord::new(0, 0),
        }
    }

    /// Watts that the dies of one package may draw together.
    pub fn package_power_limit(&self) -> f64 {
        self.package.max_power.si()
    }

    /// The live dies with a port to host memory, in order.
    pub fn host_ports(&self) -> Vec<DieId> {
        self.mesh.live_dies().into_iter().filter(|die| self.has_host_port(*die)).collect()
    }

    /// Whether the die has a port to host memory.
    pub fn has_host_port(&self, die: DieId) -> bool {
        let at = self.mesh.coord(die);
        self.mesh.is_alive(die)
            && self.host_memory.edges.iter().any(|edge| match edge {
                Direction::North => at.row == 0,
                Direction::South => at.row + 1 == self.mesh.shape.rows,
                Direction::West => at.col == 0,
                Direction::East => at.col + 1 == self.mesh.shape.cols,
            })
    }

    /// The port that serves a die: the one that the fewest links away, of equally near ones the lowest. `None` if no port can
    /// be reached.
    pub fn nearest_port(&self, die: DieId) -> Option<DieId> {
        let router = self.router();
        let at = self.mesh.coord(die);
        if !self.mesh.is_whole() {
            let reach = |port: DieId| Some((router.route(port, die)?.len(), port));
            return self.host_ports().into_iter().filter_map(reach).min().map(|(_, port)| port);
        }
        let (last_row, last_col) = (self.mesh.shape.rows - 1, self.mesh.shape.cols - 1);
        let straight = self.host_memory.edges.iter().map(|edge| match edge {
            Direction::North => Coord::new(0, at.col),
            Direction::South => Coord::new(last_row, at.col),
            Direction::West => Coord::new(at.row, 0),
            Direction::East => Coord::new(at.row, last_col),
        });
        straight.filter_map(|to| self.mesh.die_at(to)).min_by_key(|port| (route::hops(self.mesh.coord(*port), at), *port))
    }

    /// Bytes per second and direction of one port.
    pub fn port_bandwidth(&self) -> f64 {
        self.host_memory.port_bandwidth.si()
    }

    /// Bytes per second and direction of all ports together.
    pub fn host_bandwidth(&self) -> f64 {
        self.host_memory.total_bandwidth.si()
    }

    /// Seconds from a request to host memory to its first byte.
    pub fn host_latency(&self) -> f64 {
        self.host_memory.latency.si()
    }

    /// Bytes of host memory.
    pub fn host_capacity(&self) -> u64 {
        self.host_memory.capacity.whole()
    }

    /// Joules of one floating-point operation on inputs of this type.
    pub fn energy_per_flop(&self, dtype: DType) -> f64 {
        self.energy.flop.si(dtype, 2.0)
    }

    /// Joules of one byte read from or written to SRAM.
    pub fn energy_per_sram_byte(&self) -> f64 {
        self.energy.sram.si()
    }

    /// Joules of one byte over one link.
    pub fn energy_per_link_byte(&self) -> f64 {
        self.energy.link.si()
    }

    /// Joules of one byte to or from host memory.
    pub fn energy_per_host_byte(&self) -> f64 {
        self.energy.host.si()
    }

    /// Watts of one die that does nothing.
    pub fn idle_watts(&self) -> f64 {
        self.energy.idle.si()
    }

    /// Whether the engines take this type natively.
    pub fn supports(&self, dtype: DType) -> bool {
        self.formats.iter().any(|format| format == dtype.name())
    }
}

/// Geometry through the target, so that callers need no second name.
impl Target {
    /// Where a die is.
    pub fn coord(&self, die: DieId) -> Coord {
        self.mesh.coord(die)
    }

    /// The die at a place, dead or alive.
    pub fn die_at(&self, at: Coord) -> Option<DieId> {
        self.mesh.die_at(at)
    }

    /// Whether the die exists and works.
    pub fn is_alive(&self, die: DieId) -> bool {
        self.mesh.is_alive(die)
    }

    /// Whether the link exists, works, and both of its dies work.
    pub fn link_alive(&self, link: LinkId) -> bool {
        self.mesh.link_alive(link)
    }

    /// The live links that leave a die and the dies that they reach.
    pub fn neighbors(&self, die: DieId) -> impl Iterator<Item = (LinkId, DieId)> + '_ {
        self.mesh.neighbors(die)
    }

    /// The working dies in order.
    pub fn live_dies(&self) -> Vec<DieId> {
        self.mesh.live_dies()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn figures_reach_the_accessors_in_si_units() {
        let tile = Target::builtin("dojo-tile").unwrap();
        assert_eq!(tile.sram_bytes(), 430_900_000);
        assert_eq!(tile.clock_hz(), 2e9);
        assert_eq!(tile.live_nodes(), 354);
        assert_eq!(tile.peak_flops(DType::BF16), 362e12);
        assert_eq!(tile.peak_flops(DType::F16), tile.peak_flops(DType::BF16));
        assert_eq!(tile.peak_flops(DType::I32), tile.peak_flops(DType::F32));
        assert_eq!(tile.peak_flops(DType::F64) * 2.0, tile.peak_flops(DType::F32));
        assert_eq!(tile.hop_latency(), 100e-9);
        assert!(tile.supports(DType::BF16) && !tile.supports(DType::F64));
    }

    #[test]
    fn the_efficiency_of_a_gemm_tile_is_padding_times_fill() {
        let a100 = Target::builtin("a100").unwrap();
        let tile = a100.die.gemm.as_ref().unwrap();
        let [m, n, k] = [&tile.t_m, &tile.t_n, &tile.t_k].map(|q| q.whole() as usize);
        let fill = |k: f64| k / (k + tile.k0.si());
        assert_eq!(tile.efficiency(m, n, k), fill(k as f64));
        assert!((tile.efficiency(m / 2, n, k) - fill(k as f64) / 2.0).abs() < 1e-12);
        assert_eq!(tile.efficiency(0, 1, 1), 1.0);
        let seconds = a100.gemm_seconds(DType::BF16, Product::one(4096, 4096, 4096));
        let ideal = 2.0 * 4096f64.powi(3) / a100.peak_flops(DType::BF16);
        assert!(seconds > ideal && seconds < ideal * 1.2, "{seconds} against {ideal}");
    }

    #[test]
    fn ports_lie_on_the_edges_and_serve_the_nearest() {
        let tray = Target::builtin("dojo-tray").unwrap();
        assert_eq!(tray.host_ports().len(), 20, "one for each of the tray's interface processors");
        let die = |row, col| tray.die_at(Coord::new(row, col)).unwrap();
        assert_eq!(tray.nearest_port(die(3, 4)), Some(die(3, 0)));
        assert_eq!(tray.nearest_port(die(3, 12)), Some(die(3, 14)));
        let holed = tray.clone().with_dead([Coord::new(3, 0)]).unwrap();
        assert_eq!(holed.nearest_port(die(3, 1)), Some(die(2, 0)));
    }

    #[test]
    fn links_between_packages_are_slower() {
        let tray = Target::builtin("dojo-tray").unwrap();
        let link = |text: &str| tray.mesh.link_named(text.parse().unwrap()).unwrap();
        assert_eq!(tray.bandwidth_of(link("0,3:E")), tray.link_bandwidth());
        assert!(tray.bandwidth_of(link("0,4:E")) < tray.link_bandwidth());
        assert!(tray.latency_of(link("4,0:S")) > tray.hop_latency());
        assert_eq!(tray.package_of(tray.die_at(Coord::new(9, 14)).unwrap()), Coord::new(1, 2));
    }
}
