//! Text forms of the levels between a training step and a program: what `--emit partition|place|schedule|memory` prints and
//! `--from` reads back.
//!
//! A level's text is the text of the level before it, then a line `== name`, then one thing a line:
//!
//! ```text
//! == partition
//! mesh 5x5 cost 120400
//! split %7 y,-,x
//! == place
//! dies d0 d1 d2
//! buffer b0 p0 %7.0 [0:4,0:8] f32 own
//! message 0 p0 -> p1 64 l1 l5
//! task p0 compute %7 [0:4,0:8] (b1[0:4,0:8]) -> (b0[0:4,0:8])
//! == schedule
//! order 0 1 2
//! == memory
//! die p0 peak 512 bound 512 state 128
//! offset b0 0x40
//! ```

mod parse;
mod print;

pub use parse::{LevelError, parse_memory, parse_placed, parse_schedule, parse_sharded};

#[cfg(test)]
mod tests;
