//! Names for people: which die, which instruction.

use girih_ir::program::Program;
use girih_ir::target::Coord;
use std::fmt;

/// An instruction of a die, by its place in the stream.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Place {
    /// The die.
    pub die: Coord,
    /// Position in the stream.
    pub index: usize,
    /// The mnemonic.
    pub name: &'static str,
}

impl Place {
    /// Instruction `index` of the `die`-th die of the program.
    pub fn new(program: &Program, die: usize, index: usize) -> Place {
        let code = program.dies.get(die);
        let stream = code.and_then(|c| program.streams.get(c.stream.index()));
        let coord = code.filter(|_| program.target.mesh.shape.cols > 0).map_or(Coord::new(0, 0), |c| program.target.mesh.coord(c.die));
        Place { die: coord, index, name: stream.and_then(|s| s.get(index)).map_or("end", |i| i.name()) }
    }
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "die {} instruction {:03} {}", self.die, self.index, self.name)
    }
}
