//! Replicas: many copies of one step side by side, each on its share of the batch.
//!
//! A machine of many packages has too many dies to give each its own stream. Instead one package is planned, and every other one runs
//! the same streams; only where a value is needed that sums over the whole batch, `all_reduce` instructions combine it over the dies of
//! the same position. The state is the same in all replicas, so it is set and read as if there were one.

use super::{HostUse, Program};
use crate::axes::Box;
use crate::target::Target;
use crate::types::TensorType;

/// The replicas of a program.
#[derive(Clone, PartialEq, Debug, serde::Serialize, serde::Deserialize)]
pub struct Replicas {
    /// The machine, whole. Replicas are on its packages: `rows × cols` of them, from the north-west corner.
    pub machine: Target,
    /// Rows of the grid.
    pub rows: u32,
    /// Columns of the grid.
    pub cols: u32,
    /// Inputs that each replica has its own rows of: position and dimension. The whole input is so many times as long.
    pub inputs: Vec<(u32, u32)>,
    /// Outputs that each replica makes its own rows of.
    pub outputs: Vec<(u32, u32)>,
}

impl Replicas {
    /// How many there are.
    pub fn count(&self) -> usize {
        self.rows as usize * self.cols as usize
    }

    /// The dimension along which a host tensor is shared out.
    pub fn sliced(&self, usage: HostUse) -> Option<usize> {
        let (list, n) = match usage {
            HostUse::Input(n) => (&self.inputs, n),
            HostUse::Output(n) => (&self.outputs, n),
            // State is the same in all replicas, also where it is kept.
            HostUse::State(_) => return None,
        };
        list.iter().find(|(i, _)| *i == n).map(|(_, dim)| *dim as usize)
    }

    /// The type of a whole host tensor, of which one replica has `ty`.
    pub fn whole(&self, usage: HostUse, ty: &TensorType) -> TensorType {
        let mut whole = ty.clone();
        if let Some(extent) = self.sliced(usage).and_then(|dim| whole.shape.get_mut(dim)) {
            *extent *= self.count();
        }
        whole
    }

    /// Where a replica's part of a host tensor lies in the whole one, when its own has the type `ty`.
    pub fn part(&self, usage: HostUse, ty: &TensorType, replica: usize, part: &Box) -> Box {
        let mut part = part.clone();
        if let Some(dim) = self.sliced(usage)
            && let (Some(range), Some(extent)) = (part.get_mut(dim), ty.shape.get(dim))
        {
            *range = range.start + replica * extent..range.end + replica * extent;
        }
        part
    }
}

impl Program {
    /// How many replicas of the step there are.
    pub fn replica_count(&self) -> usize {
        self.replicas.as_ref().map_or(1, |r| r.count())
    }

    /// The type of an input or output as the user gives or gets it: of all replicas together.
    pub fn host_type(&self, usage: HostUse, ty: &TensorType) -> TensorType {
        self.replicas.as_ref().map_or_else(|| ty.clone(), |r| r.whole(usage, ty))
    }
}
