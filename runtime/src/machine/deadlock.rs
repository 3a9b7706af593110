//! What to say when no die can go on: who waits for whom, and the cycle.

use super::place::Place;
use super::queues;
use girih_ir::program::Program;
use std::collections::BTreeMap;
use std::fmt;

/// Why the entry at the head of a queue does not complete.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Cause {
    /// Nothing is in the queue: the stream waits for more entries than it ever issued.
    NeverIssued,
    /// A send without a credit: the receiver has not taken enough messages.
    Credit,
    /// A receive without a message.
    Message,
    /// A receive that comes after one of another queue of this die.
    Order,
    /// A combination that some replica does not come to.
    Replicas,
}

/// One die that cannot go on.
#[derive(Clone, Debug)]
pub struct Blocked {
    /// Position of the die in the program.
    pub die: usize,
    /// Where its stream stands.
    pub place: Place,
    /// The queue that it waits for.
    pub queue: usize,
    /// The instruction at the head of that queue.
    pub head: Option<Place>,
    /// The channel of that instruction, and the position of the die at its other end.
    pub channel: Option<(usize, Option<usize>)>,
    /// Why the head does not complete.
    pub cause: Cause,
}

/// The dies that wait for each other.
#[derive(Clone, Debug)]
pub struct Deadlock {
    /// The dies of the cycle in order, or all blocked dies when there is none.
    pub blocked: Vec<Blocked>,
    /// Whether `blocked` is a cycle.
    pub cycle: bool,
}

impl Deadlock {
    /// Finds the cycle among all blocked dies.
    pub fn new(all: Vec<Blocked>) -> Self {
        let at: BTreeMap<usize, usize> = all.iter().enumerate().map(|(i, b)| (b.die, i)).collect();
        let next = |i: usize| all[i].channel.and_then(|(_, peer)| peer).and_then(|peer| at.get(&peer)).copied();
        let mut seen = vec![usize::MAX; all.len()];
        for start in 0..all.len() {
            let (mut walk, mut here) = (Vec::new(), Some(start));
            while let Some(i) = here {
                if seen[i] == start {
                    let first = walk.iter().position(|w| *w == i).unwrap_or(0);
                    let blocked = walk[first..].iter().map(|w: &usize| all[*w].clone()).collect();
                    return Deadlock { blocked, cycle: true };
                }
                if seen[i] != usize::MAX {
                    break;
                }
                seen[i] = start;
                walk.push(i);
                here = next(i);
            }
        }
        Deadlock { blocked: all, cycle: false }
    }

    /// The position of the die with this id.
    pub fn position(program: &Program, die: girih_ir::target::DieId) -> Option<usize> {
        program.dies.iter().position(|d| d.die == die)
    }
}

impl fmt::Display for Deadlock {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "{}", if self.cycle { "these dies wait for each other in a cycle:" } else { "these dies wait for what never comes:" })?;
        for b in &self.blocked {
            write!(f, "  {} waits for queue `{}`", b.place, queues::name(b.queue))?;
            if let Some(head) = &b.head {
                write!(f, ", whose next is instruction {:03} {}", head.index, head.name)?;
            }
            if let Some((channel, _)) = b.channel {
                write!(f, " on ch{channel}")?;
            }
            let why = match b.cause {
                Cause::NeverIssued => "which is empty",
                Cause::Credit => "which has no credit",
                Cause::Message => "which has no message",
                Cause::Replicas => "which the other replicas do not come to",
                Cause::Order => "which comes after a receive of another queue",
            };
            writeln!(f, ", {why}")?;
        }
        Ok(())
    }
}
