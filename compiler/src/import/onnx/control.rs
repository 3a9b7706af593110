//! Control flow whose path is known at import: `If` is folded, `Loop` and `Scan` are unrolled.

use super::build::Val;
use super::call::{Call, Outputs, Res, Value, axis, malformed, unsupported};
use super::model::Importer;
use super::proto::GraphProto;

/// No loop is unrolled further than this.
const MOST_STEPS: i64 = 1 << 16;

impl<'a> Importer<'a> {
    /// `If`: the branch that is taken, or both and a choice between their results when the condition is not known.
    pub(super) fn branch(&mut self, call: &Call<'a>) -> Outputs {
        let condition = call.input(0)?;
        let (yes, no) = (call.attrs.graph("then_branch")?, call.attrs.graph("else_branch")?);
        if self.builder.is_known(condition) {
            let taken = self.builder.known_ints(condition, "condition")?.first().is_some_and(|v| *v != 0);
            return self.body(if taken { yes } else { no }, Vec::new());
        }
        let (yes, no) = (self.body(yes, Vec::new())?, self.body(no, Vec::new())?);
        let condition = self.builder.reshape(condition, &[])?;
        let choose = |(y, n): (Value, Value)| match (y, n) {
            (Value::Tensor(y), Value::Tensor(n)) if self.builder.graph.ty(y) == self.builder.graph.ty(n) => {
                self.builder.select(condition, y, n).map(Value::Tensor)
            }
            _ => unsupported("a condition that is not known, with branches of different types"),
        };
        yes.into_iter().zip(no).map(choose).collect()
    }

    /// Runs a nested graph with these inputs.
    fn body(&mut self, graph: &'a GraphProto, inputs: Vec<Value>) -> Outputs {
        if graph.input.len() < inputs.len() {
            return malformed(format!("a nested graph takes {} inputs, not {}", graph.input.len(), inputs.len()));
        }
        let names = graph.input.iter().map(|i| i.name.as_deref().unwrap_or(""));
        self.enter(names.zip(inputs).collect())?;
        let result = self.nested(graph);
        self.leave();
        result
    }

    /// `Loop`, unrolled while its condition is known to hold.
    pub(super) fn unroll_loop(&mut self, call: &Call<'a>) -> Outputs {
        let graph = call.attrs.graph("body")?;
        let limit = call.known_int(&mut self.builder, 0, "trip count")?.unwrap_or(i64::MAX);
        let mut go = call.known_int(&mut self.builder, 1, "condition")?.unwrap_or(1) != 0;
        let mut state: Vec<Value> = call.inputs.iter().skip(2).map(|v| v.clone().unwrap_or(Value::Absent)).collect();
        let carried = state.len();
        let scanned = graph.output.len().checked_sub(carried + 1).map_or_else(|| malformed("the body has too few outputs"), Ok)?;
        let mut rows: Vec<Vec<Val>> = vec![Vec::new(); scanned];
        let mut step = 0;
        while go && step < limit {
            if step >= MOST_STEPS {
                return unsupported(format!("a loop of more than {MOST_STEPS} steps"));
            }
            let number = self.builder.int_scalar(step)?;
            let running = self.builder.scalar(girih_ir::types::DType::Bool, 1.0)?;
            let mut inputs = vec![Value::Tensor(number), Value::Tensor(running)];
            inputs.extend(state);
            let mut outputs = self.body(graph, inputs)?.into_iter();
            go = match outputs.next() {
                Some(Value::Tensor(v)) => self.builder.known_ints(v, "loop condition")?.first().is_some_and(|v| *v != 0),
                _ => return malformed("the loop condition is no tensor"),
            };
            state = outputs.by_ref().take(carried).collect();
            self.collect(&mut rows, outputs, &vec![0; scanned])?;
            step += 1;
        }
        if rows.iter().any(Vec::is_empty) {
            return unsupported("a loop without steps that stacks results");
        }
        for list in rows {
            state.push(Value::Tensor(self.builder.concat(&list, 0)?));
        }
        Ok(state)
    }

    /// Adds one step's results to the stacks, with a new dimension.
    fn collect(&mut self, rows: &mut [Vec<Val>], outputs: impl Iterator<Item = Value>, axes: &[i64]) -> Res<()> {
        for (k, value) in outputs.enumerate().take(rows.len()) {
            let Value::Tensor(v) = value else { return malformed("a stacked result is no tensor") };
            let mut shape = self.builder.dims(v).to_vec();
            let at = axis(axes[k], shape.len() + 1)?;
            shape.insert(at, 1);
            rows[k].push(self.builder.reshape(v, &shape)?);
        }
        Ok(())
    }

    /// `Scan` (since operator set 9), unrolled.
    pub(super) fn unroll_scan(&mut self, call: &Call<'a>) -> Outputs {
        if call.opset < 9 {
            return unsupported("the batched Scan of operator set 8");
        }
        let graph = call.attrs.graph("body")?;
        let all = call.all()?;
        let scans = usize::try_from(call.int("num_scan_inputs", 0)?).unwrap_or(0);
        let carried = all.len().checked_sub(scans).filter(|_| scans > 0).map_or_else(|| malformed("num_scan_inputs does not fit"), Ok)?;
        let stacked = graph.output.len().checked_sub(carried).map_or_else(|| malformed("the body has too few outputs"), Ok)?;
        let list = |name: &str, n: usize| -> Res<Vec<i64>> {
            match call.attrs.ints(name)? {
                None => Ok(vec![0; n]),
                Some(l) if l.len() == n => Ok(l.to_vec()),
                Some(_) => malformed(format!("'{name}' must have {n} entries")),
            }
        };
        let (in_axes, in_reverse) = (list("scan_input_axes", scans)?, list("scan_input_directions", scans)?);
        let (out_axes, out_reverse) = (list("scan_output_axes", stacked)?, list("scan_output_directions", stacked)?);
        let mut sources = Vec::new();
        for k in 0..scans {
            let v = all[carried + k];
            sources.push((v, axis(in_axes[k], self.builder.rank(v))?));
        }
        let steps = self.builder.dims(sources[0].0)[sources[0].1];
        if sources.iter().any(|(v, at)| self.builder.dims(*v)[*at] != steps) || steps as i64 > MOST_STEPS || steps == 0 {
            return malformed(format!("scanned inputs differ in length, or it is 0 or above {MOST_STEPS}"));
        }
        let mut state: Vec<Value> = all[..carried].iter().map(|v| Value::Tensor(*v)).collect();
        let mut rows: Vec<Vec<Val>> = vec![Vec::new(); stacked];
        for t in 0..steps {
            let mut inputs = state;
            for (k, (v, at)) in sources.iter().enumerate() {
                let t = if in_reverse[k] != 0 { steps - 1 - t } else { t };
                let row = self.builder.slice_axis(*v, *at, t, t + 1, 1)?;
                let mut shape = self.builder.dims(row);
                shape.remove(*at);
                inputs.push(Value::Tensor(self.builder.reshape(row, &shape)?));
            }
            let mut outputs = self.body(graph, inputs)?.into_iter();
            state = outputs.by_ref().take(carried).collect();
            self.collect(&mut rows, outputs, &out_axes)?;
        }
        for (k, mut list) in rows.into_iter().enumerate() {
            if out_reverse[k] != 0 {
                list.reverse();
            }
            let Some(first) = list.first() else { return malformed("a stacked result is missing") };
            let at = axis(out_axes[k], self.builder.rank(*first))?;
            state.push(Value::Tensor(self.builder.concat(&list, at)?));
        }
        Ok(state)
    }
}
