//! Working memory that a worker keeps between kernel calls, so that a step in steady state allocates nothing.

use crate::arch::Terms;
use crate::gemm::operand::Segment;
use crate::gemm::plan::Chosen;

/// One cache line of f32; gives the buffers their alignment.
#[derive(Clone, Copy, bytemuck::Pod, bytemuck::Zeroable)]
#[repr(C, align(64))]
struct Line([f32; 16]);

/// A growable f32 buffer that starts on a cache line.
#[derive(Default)]
pub(crate) struct Buffer(Vec<Line>);

impl Buffer {
    /// The first `len` elements, growing the buffer when it is shorter. What they hold is unspecified.
    pub(crate) fn take(&mut self, len: usize) -> &mut [f32] {
        let lines = len.div_ceil(16);
        if self.0.len() < lines {
            self.0.resize(lines, Line([0.0; 16]));
        }
        &mut bytemuck::cast_slice_mut::<Line, f32>(&mut self.0)[..len]
    }

    /// All elements, for writing.
    pub(crate) fn all(&mut self) -> &mut [f32] {
        bytemuck::cast_slice_mut(&mut self.0)
    }

    /// The elements as they were left by the last writer.
    pub(crate) fn held(&self) -> &[f32] {
        bytemuck::cast_slice::<Line, f32>(&self.0)
    }
}

/// Reusable buffers of one worker: packed panels and index tables.
///
/// Contents never carry meaning from one call to the next.
#[derive(Default)]
pub struct Scratch {
    /// Packed block of the broadcast operand.
    pub(crate) a: Buffer,
    /// Packed panels of the vector operand.
    pub(crate) b: Buffer,
    /// Rows on their way into a transposed panel; also the planes of the depthwise path.
    pub(crate) stage: Buffer,
    /// A tile whose columns are not neighbors in the output.
    pub(crate) tile: Buffer,
    /// Operands and result of a convolution that are computed in f32 in place of a narrower type.
    pub(crate) wide: [Buffer; 3],
    /// Offsets of output rows and columns in the current block.
    pub(crate) out_rows: Vec<isize>,
    /// See `out_rows`.
    pub(crate) out_cols: Vec<isize>,
    /// Where the terms and the outputs of the grouped convolution lie in its staged planes.
    pub(crate) terms: Terms,
    /// See `terms`.
    pub(crate) places: Vec<u32>,
    /// Runs along the rows and along the reduction of the operand that is being packed.
    pub(crate) segments: [Vec<Segment>; 3],
    /// How the last product was cut.
    pub(crate) tiles: Option<Chosen>,
}

impl Scratch {
    /// Empty scratch memory; it grows to what the calls need.
    pub fn new() -> Self {
        Scratch::default()
    }

    /// Bytes held at present.
    pub fn bytes(&self) -> usize {
        let lines =
            self.a.0.len() + self.b.0.len() + self.stage.0.len() + self.tile.0.len() + self.wide.iter().map(|b| b.0.len()).sum::<usize>();
        lines * size_of::<Line>()
            + (self.out_rows.capacity() + self.out_cols.capacity()) * size_of::<isize>()
            + self.terms.bytes()
            + self.places.capacity() * size_of::<u32>()
            + self.segments.iter().map(|s| s.capacity() * size_of::<Segment>()).sum::<usize>()
    }
}
