//! Replicas: the machine holds the grid, each package of it is the target, and what is combined is combined over all of them.

use super::{StructureError, Verdict};
use crate::graph::ValueId;
use crate::ops::Op;
use crate::program::{HostUse, Instr, Program, Replicas};
use crate::verify::size_is_sane;

/// Checks the table of replicas, and that nothing is combined over others.
pub(super) fn check(program: &Program) -> Verdict {
    let bad = |place: &str, why: String| Err(StructureError::Fit { place: place.to_string(), why });
    let Some(replicas) = &program.replicas else {
        if program.streams.iter().flatten().any(|i| matches!(i, Instr::AllReduce { .. })) {
            return bad("a stream", "it combines over replicas, and the program has none".to_string());
        }
        return match over(program).next() {
            Some((v, ..)) => bad("the graph", format!("{v} combines over replicas, and the program has none")),
            None => Ok(()),
        };
    };
    match replicas.machine.check() {
        problems if problems.is_empty() => {}
        problems => return Err(StructureError::Target { problems }),
    }
    if replicas.count() < 2 {
        return bad("the replicas", format!("{} by {} are not several", replicas.rows, replicas.cols));
    }
    match replicas.machine.replica(replicas.rows, replicas.cols) {
        Ok(one) if one == program.target => {}
        Ok(_) => return bad("the replicas", format!("the target is not what a package of `{}` is", replicas.machine.name)),
        Err(e) => return bad("the replicas", e.to_string()),
    }
    if let Some((v, rows, cols)) = over(program).find(|(_, r, c)| (*r, *c) != (replicas.rows as usize, replicas.cols as usize)) {
        return bad("the graph", format!("{v} combines over {rows}×{cols} replicas, and there are {}×{}", replicas.rows, replicas.cols));
    }
    sliced(program, replicas)
}

/// Nodes that combine, and the grid over which they do.
fn over(program: &Program) -> impl Iterator<Item = (ValueId, usize, usize)> {
    let graph = &program.step.graph;
    graph.values().filter_map(|v| match &graph.node(v).op {
        Op::AllReduce(a) => Some((v, a.rows, a.cols)),
        _ => None,
    })
}

/// What is shared out is data or a result, once, along a dimension that it has.
fn sliced(program: &Program, replicas: &Replicas) -> Verdict {
    let step = &program.step;
    let (data, results) = (step.data_inputs(), step.result_outputs());
    for (what, list, allowed) in [("input", &replicas.inputs, &data), ("output", &replicas.outputs, &results)] {
        for (k, (n, dim)) in list.iter().enumerate() {
            let place = || format!("sliced {what} {n}");
            let fit = |ok: bool, why: &str| if ok { Ok(()) } else { Err(StructureError::Fit { place: place(), why: why.to_string() }) };
            fit(allowed.contains(&(*n as usize)), "only data and results are shared out, not state")?;
            fit(list[..k].iter().all(|(other, _)| other != n), "it is there twice")?;
            let (value, usage) = match what {
                "input" => (step.graph.inputs[*n as usize].value, HostUse::Input(*n)),
                _ => (step.graph.outputs[*n as usize].value, HostUse::Output(*n)),
            };
            let ty = step.graph.tensor_ty(value);
            fit((*dim as usize) < ty.rank(), "it has no such dimension")?;
            let whole = ty.shape[*dim as usize].checked_mul(replicas.count()).is_some();
            fit(whole && size_is_sane(&replicas.whole(usage, ty)), "the whole of it is too large")?;
        }
    }
    Ok(())
}
