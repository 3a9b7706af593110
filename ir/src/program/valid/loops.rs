//! Loops of the streams: opened and closed in pairs, nested as the loops of the step are, and claimed as the loop that they are.
//!
//! A die runs each loop of the step at most once (again in each iteration of the loop around it), so a loop has one place in its
//! stream, and messages of two dies can be told apart by the loops around them.

use super::{StructureError, Verdict};
use crate::axes::Box;
use crate::graph::loops::LoopNest;
use crate::program::{Claim, DieCode, Instr, Program};

/// A loop that has begun.
struct Open<'a> {
    /// Its position in the nest.
    position: usize,
    claim: &'a Claim,
    /// Whether an `exit_unless` is still to come.
    exit: bool,
}

/// Checks the loops of one die.
pub(super) fn check(program: &Program, place: &dyn Fn() -> String, code: &DieCode, nest: &LoopNest) -> Verdict {
    let mut open: Vec<Open<'_>> = Vec::new();
    let mut seen = vec![false; nest.loops.len()];
    let stream = &program.streams[code.stream.index()];
    for (i, (instr, claim)) in stream.iter().zip(&code.claims).enumerate() {
        let claim = &program.claims[claim.index()];
        let bad = |why: String| Err(StructureError::Fit { place: format!("instruction {i} of {}", place()), why });
        match instr {
            Instr::Loop { .. } => match begin(program, instr, claim, nest, open.last()) {
                Ok(next) if seen[next.position] => return bad(format!("the loop of {} ran before", nest.loops[next.position].end)),
                Ok(next) => {
                    seen[next.position] = true;
                    open.push(next);
                }
                Err(why) => return bad(why),
            },
            Instr::ExitUnless { .. } => match open.last_mut() {
                Some(inner) if inner.exit && inner.claim == claim => inner.exit = false,
                Some(inner) if inner.exit => return bad("it claims another loop than the one that it leaves".to_string()),
                Some(_) => return bad("a loop has one exit, and a counted loop has none".to_string()),
                None => return bad("there is no loop to leave".to_string()),
            },
            Instr::EndLoop => match open.pop() {
                Some(inner) if inner.exit => return bad("the loop has no `exit_unless`, and no number of trips".to_string()),
                Some(inner) if inner.claim == claim => {}
                Some(_) => return bad("it claims another loop than the one that it ends".to_string()),
                None => return bad("there is no loop to end".to_string()),
            },
            Instr::End if !open.is_empty() => return bad("a loop is not closed".to_string()),
            _ if matches!(claim, Claim::Loop { .. }) => return bad(format!("`{}` is no part of a loop's frame", instr.name())),
            _ => {}
        }
    }
    match open.is_empty() {
        true => Ok(()),
        false => Err(StructureError::Fit { place: place(), why: "a loop is not closed".to_string() }),
    }
}

fn begin<'a>(program: &Program, instr: &Instr, claim: &'a Claim, nest: &LoopNest, around: Option<&Open<'_>>) -> Result<Open<'a>, String> {
    let (Instr::Loop { trips, carries, .. }, Claim::Loop { end, parts }) = (instr, claim) else {
        return Err("a `loop` has to claim the loop that it runs".to_string());
    };
    let position = nest.ending_at(*end).ok_or_else(|| format!("{end} ends no loop"))?;
    let of = &nest.loops[position];
    if *trips != of.trips.map(|n| n as u64) {
        let say = |n: Option<u64>| n.map_or("until it exits".to_string(), |n| format!("{n} times"));
        return Err(format!("it runs {}, and the loop of {end} runs {}", say(*trips), say(of.trips.map(|n| n as u64))));
    }
    if of.parent != around.map(|o| o.position) {
        return Err(match of.parent {
            Some(p) => format!("the loop of {end} is to be directly inside the loop of {}", nest.loops[p].end),
            None => format!("the loop of {end} is inside no other"),
        });
    }
    if parts.len() != carries.len() {
        return Err(format!("it carries {} regions, and the claim has {} parts", carries.len(), parts.len()));
    }
    for (slot, part) in parts {
        let inside = |shape: &[usize], part: &Box| part.len() == shape.len() && part.iter().zip(shape).all(|(r, d)| r.end <= *d);
        match of.carries.get(*slot as usize) {
            Some(carry) if inside(program.step.graph.shape(*carry), part) => {}
            Some(carry) => return Err(format!("a part that it carries is not inside {carry}")),
            None => return Err(format!("the loop of {end} has no slot {slot}")),
        }
    }
    Ok(Open { position, claim, exit: trips.is_none() })
}
