//! Convolutions with many small groups.
use super::lower::Phase;
use crate::isa::Isa;
use crate::scratch::Scratch;
pub(super) fn suits(_phase: &Phase) -> bool {
    false
}
pub(super) fn run(_isa: Isa, _phase: &Phase, _lhs: &[f32], _rhs: &[f32], _out: &mut [f32], _scratch: &mut Scratch) {}
