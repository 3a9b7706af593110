//! The loops of a stream: which `loop` belongs to which `end_loop`.
//!
//! Machines and the simulator jump by this table. It also says what is wrong with a stream whose loops are not whole, because neither
//! trusts that a checker has seen the program.

use girih_ir::program::{Instr, Region};
use girih_ir::types::DType;

/// What the other end of an instruction is that is no part of a loop's frame.
const NONE: u32 = u32::MAX;

/// The frames of the loops of one stream.
#[derive(Clone, Debug, Default)]
pub struct Loops {
    partner: Vec<u32>,
}

impl Loops {
    /// Matches the loops of a stream; the instruction that is wrong, and why, otherwise.
    pub fn of(stream: &[Instr]) -> Result<Loops, (usize, String)> {
        let mut partner = vec![NONE; stream.len()];
        // Open loops: the instruction, whether it counts, and the exits so far.
        let mut open: Vec<(usize, bool, Vec<usize>)> = Vec::new();
        for (i, instr) in stream.iter().enumerate() {
            match instr {
                Instr::Loop { trips, index, .. } => {
                    if index.as_ref().is_some_and(|r| !scalar(r, DType::I64)) {
                        return Err((i, "the number of the iteration is not an i64 scalar".into()));
                    }
                    open.push((i, trips.is_some(), Vec::new()));
                }
                Instr::ExitUnless { predicate } => match open.last_mut() {
                    _ if !scalar(predicate, DType::Bool) => return Err((i, "the predicate is not a bool scalar".into())),
                    Some((_, false, exits)) => exits.push(i),
                    Some((start, true, _)) => return Err((i, format!("the loop at instruction {start:03} counts its iterations"))),
                    None => return Err((i, "it is in no loop".into())),
                },
                Instr::EndLoop => {
                    let Some((start, _, exits)) = open.pop() else { return Err((i, "no loop is open here".into())) };
                    partner[i] = start as u32;
                    exits.into_iter().chain([start]).for_each(|e| partner[e] = i as u32);
                }
                _ => {}
            }
        }
        match open.pop() {
            Some((start, ..)) => Err((start, "the loop has no end".into())),
            None => Ok(Loops { partner }),
        }
    }

    /// For `loop` and `exit_unless`: their `end_loop`. For `end_loop`: its `loop`.
    pub fn partner(&self, index: usize) -> Option<usize> {
        self.partner.get(index).filter(|p| **p != NONE).map(|p| *p as usize)
    }
}

fn scalar(region: &Region, dtype: DType) -> bool {
    region.dtype == dtype && region.elements() == 1
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(offset: u64, dtype: DType) -> Region {
        Region::dense(offset, &girih_ir::types::TensorType::new(dtype, [0usize; 0]))
    }

    fn begin(trips: Option<u64>) -> Instr {
        Instr::Loop { trips, index: None, carries: Vec::new() }
    }

    #[test]
    fn frames_nest() {
        let exit = || Instr::ExitUnless { predicate: at(0, DType::Bool) };
        let loops = Loops::of(&[begin(Some(2)), begin(None), exit(), Instr::EndLoop, Instr::EndLoop, Instr::End]).unwrap();
        let partners: Vec<_> = (0..6).map(|i| loops.partner(i)).collect();
        assert_eq!(partners, [Some(4), Some(3), Some(3), Some(1), Some(0), None]);
        let wrong = |stream: &[Instr]| Loops::of(stream).unwrap_err();
        assert_eq!(wrong(&[Instr::End, Instr::EndLoop]).0, 1);
        assert_eq!(wrong(&[begin(None), begin(Some(1)), Instr::EndLoop]), (0, "the loop has no end".into()));
        assert_eq!(wrong(&[exit()]).1, "it is in no loop");
        assert_eq!(wrong(&[begin(Some(3)), exit(), Instr::EndLoop]), (1, "the loop at instruction 000 counts its iterations".into()));
        assert_eq!(wrong(&[begin(None), Instr::ExitUnless { predicate: at(0, DType::U8) }, Instr::EndLoop]).0, 1);
        let index = Instr::Loop { trips: None, index: Some(at(0, DType::I32)), carries: Vec::new() };
        assert_eq!(wrong(&[index, Instr::EndLoop]).0, 0);
    }
}
