//! Routes: every channel runs over live links from its source to its destination, hop by hop, and all routes together wait for
//! each other in no circle.
//!
//! A message holds one link while it waits for the next, so a circle of (link, next link) pairs could stop the mesh.

use super::report::{Fault, Findings, Place};
use crate::program::Program;
use crate::target::LinkId;
use std::collections::BTreeMap;

/// Checks all channels.
pub fn check(program: &Program, findings: &mut Findings<'_>) {
    let target = &program.target;
    for (id, channel) in program.channels.iter().enumerate() {
        let mut fault = |why: String| findings.add(Fault::Route, Place::program(), format!("channel ch{id}: {why}"));
        for die in [channel.source, channel.dest] {
            if !target.is_alive(die) {
                fault(format!("die {} does not exist or is dead", die.0));
            }
        }
        if channel.route.is_empty() {
            fault("its route has no links; a die needs no channel to itself".to_string());
        }
        let mut at = channel.source;
        for link in &channel.route {
            if !target.link_alive(*link) {
                fault(format!("link {} does not exist or is dead", target.mesh.link_name(*link)));
                break;
            }
            match target.mesh.link_ends(*link) {
                Some((from, to)) if from == at => at = to,
                _ => {
                    fault(format!("link {} does not start where the route is, at {}", target.mesh.link_name(*link), target.coord(at)));
                    break;
                }
            }
        }
        if at != channel.dest && findings.is_clean() {
            let (at, dest) = (target.coord(at), target.coord(channel.dest));
            findings.add(Fault::Route, Place::program(), format!("channel ch{id}: its route ends at {at}, not at {dest}"));
        }
        if channel.depth == 0 {
            findings.add(Fault::Channel, Place::program(), format!("channel ch{id} has no credits, so nothing can ever be sent over it"));
        }
    }
    if findings.is_clean() {
        circles(program, findings);
    }
}

/// The channel-dependency graph, by Kahn's algorithm.
fn circles(program: &Program, findings: &mut Findings<'_>) {
    let mut next: BTreeMap<LinkId, Vec<LinkId>> = BTreeMap::new();
    for channel in &program.channels {
        for pair in channel.route.windows(2) {
            next.entry(pair[0]).or_default().push(pair[1]);
        }
    }
    let mut waits: BTreeMap<LinkId, usize> = BTreeMap::new();
    for (from, tos) in &mut next {
        tos.sort_unstable();
        tos.dedup();
        waits.entry(*from).or_default();
        for to in tos.iter() {
            *waits.entry(*to).or_default() += 1;
        }
    }
    let mut ready: Vec<LinkId> = waits.iter().filter(|(_, n)| **n == 0).map(|(l, _)| *l).collect();
    while let Some(link) = ready.pop() {
        waits.remove(&link);
        for to in next.get(&link).into_iter().flatten() {
            if let Some(n) = waits.get_mut(to) {
                *n -= 1;
                if *n == 0 {
                    ready.push(*to);
                }
            }
        }
    }
    // What is left has a predecessor that is left; walking successors that are left must come back.
    let Some(start) = waits.keys().next().copied() else { return };
    let mut before: BTreeMap<LinkId, LinkId> = BTreeMap::new();
    for from in waits.keys() {
        for to in next.get(from).into_iter().flatten().filter(|to| waits.contains_key(to)) {
            before.entry(*to).or_insert(*from);
        }
    }
    let mut at = start;
    let mut seen = Vec::new();
    while !seen.contains(&at) {
        seen.push(at);
        at = before.get(&at).copied().unwrap_or(at);
    }
    let from = seen.iter().position(|l| *l == at).unwrap_or(0);
    let names: Vec<String> = seen[from..].iter().rev().map(|l| program.target.mesh.link_name(*l).to_string()).collect();
    let why = format!("messages can wait in a circle over the links {}", names.join(" → "));
    findings.add(Fault::RouteCycle, Place::program(), why);
}
