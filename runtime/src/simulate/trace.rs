//! The timeline as Chrome trace events: one process a die, one thread for its engine and one for each queue that it uses.
//!
//! Times are in microseconds, as the format has it; names are the mnemonic and the node, the origin is in the arguments.

use super::engine::{Act, COMPUTE};
use super::path::node_of;
use crate::machine::{Place, queues};
use girih_ir::program::Program;
use serde_json::json;
use std::collections::BTreeSet;
use std::io::{self, Write};

/// Writes all activities.
pub(super) fn write(program: &Program, acts: &[Act], to: &mut dyn Write) -> io::Result<()> {
    to.write_all(b"{\"displayTimeUnit\":\"ns\",\"traceEvents\":[\n")?;
    let tracks: BTreeSet<(u32, u8)> = acts.iter().map(|a| (a.die, a.track)).collect();
    let mut first = true;
    let mut line = |to: &mut dyn Write, event: serde_json::Value| {
        if !std::mem::take(&mut first) {
            to.write_all(b",\n")?;
        }
        to.write_all(event.to_string().as_bytes())
    };
    for die in tracks.iter().map(|t| t.0).collect::<BTreeSet<_>>() {
        let name = format!("die {}", Place::new(program, die as usize, 0).die);
        line(to, json!({ "ph": "M", "name": "process_name", "pid": die, "args": { "name": name } }))?;
        line(to, json!({ "ph": "M", "name": "process_sort_index", "pid": die, "args": { "sort_index": die } }))?;
    }
    for (die, track) in tracks {
        let (name, order) = if track == COMPUTE { ("compute".to_string(), 0) } else { (queues::name(track as usize), track + 1) };
        line(to, json!({ "ph": "M", "name": "thread_name", "pid": die, "tid": order, "args": { "name": name } }))?;
    }
    for act in acts {
        let place = Place::new(program, act.die as usize, act.index as usize);
        let (node, origin) = node_of(program, act.die as usize, act.index as usize).unwrap_or_default();
        let name = if node.is_empty() { place.name.to_string() } else { format!("{} {node}", place.name) };
        let order = if act.track == COMPUTE { 0 } else { act.track + 1 };
        let (start, length) = (act.start * 1e6, (act.end - act.start).max(0.0) * 1e6);
        let args = json!({ "instruction": act.index, "origin": origin });
        line(to, json!({ "ph": "X", "name": name, "pid": act.die, "tid": order, "ts": start, "dur": length, "args": args }))?;
    }
    to.write_all(b"\n]}\n")
}
