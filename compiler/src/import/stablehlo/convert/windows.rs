//! `reduce_window` and `select_and_scatter`: pooling, running sums, and their derivatives.

use super::super::module::{Block, Operation};
use super::{Converter, Frame, Parts, Res, attrs, malformed, unsupported};
use girih_ir::graph::ValueId;
use girih_ir::ops::cumulative::Cumulative;
use girih_ir::ops::iota::Iota;
use girih_ir::ops::reduce_window::ReduceWindow;
use girih_ir::ops::scatter::{Combiner, Scatter};
use girih_ir::ops::select_and_scatter::SelectAndScatter;
use girih_ir::scalar::{BinaryFn, CompareFn, Monoid};
use girih_ir::tensor::indices;
use girih_ir::types::{DType, Dims, TensorType, element_count};

/// Larger windows of bodies that are not recognized are refused: they become one slice an element.
const MOST_UNROLLED: usize = 4096;

impl<'a> Converter<'a> {
    /// `reduce_window`
    pub fn reduce_window_op(&mut self, frame: &mut Frame<'a>, op: &'a Operation) -> Res<Vec<Parts>> {
        let block = self.region(op, 0)?;
        let (inputs, inits) = self.accumulators(frame, op, block)?;
        if self.lift.is_some() {
            return unsupported("a window reduction in a region body");
        }
        let shape = self.dims(inputs[0][0]);
        let rank = shape.len();
        let window = Dims::from_vec(attrs::need_dims(&op.attrs, "window_dimensions")?);
        if window.len() != rank || inputs.iter().flatten().any(|v| self.graph.shape(*v) != shape.as_slice()) {
            return malformed(format!("a window of {} dimensions over a tensor of rank {rank}", window.len()));
        }
        let (pad_low, pad_high) = attrs::pairs(&op.attrs, "padding", rank)?;
        let windows = ReduceWindow {
            monoid: Monoid::Sum,
            window,
            stride: attrs::ones(&op.attrs, "window_strides", rank)?,
            window_dilation: attrs::ones(&op.attrs, "window_dilations", rank)?,
            base_dilation: attrs::ones(&op.attrs, "base_dilations", rank)?,
            pad_low,
            pad_high,
        };
        if inputs.iter().all(|p| p.len() == 1)
            && let Some(monoids) = self.all_monoids(frame, block)
        {
            let mut made = Vec::with_capacity(monoids.len());
            for (k, monoid) in monoids.into_iter().enumerate() {
                let v = self.window_by(ReduceWindow { monoid, ..windows.clone() }, inputs[k][0], inits[k][0])?;
                made.push(Parts::from_slice(&[v]));
            }
            return Ok(made);
        }
        self.window_by_slices(frame, block, &windows, inputs, inits)
    }

    fn window_by(&mut self, op: ReduceWindow, v: ValueId, init: ValueId) -> Res<ValueId> {
        let monoid = op.monoid;
        if !self.is_identity(init, monoid) {
            // Padding holds the initial value, and every window begins with it.
            let (v, op) = self.padded(op, v, init)?;
            let reduced = self.add(op, &[v])?;
            return self.with_init(monoid, reduced, init);
        }
        if let Some(running) = running(&op, self.graph.shape(v)) {
            return self.add(running, &[v]);
        }
        self.add(op, &[v])
    }

    /// The padding and dilation of the operand made explicit.
    fn padded(&mut self, op: ReduceWindow, v: ValueId, fill: ValueId) -> Res<(ValueId, ReduceWindow)> {
        let rank = op.window.len();
        if op.base_dilation.contains(&0) {
            return malformed("a dilation of 0");
        }
        let interior: Dims = op.base_dilation.iter().map(|d| d - 1).collect();
        let v = self.pad(v, fill, &op.pad_low, &op.pad_high, &interior)?;
        let plain = ReduceWindow { base_dilation: Dims::from_elem(1, rank), pad_low: vec![0; rank], pad_high: vec![0; rank], ..op };
        Ok((v, plain))
    }

    fn window_by_slices(
        &mut self,
        frame: &mut Frame<'a>,
        block: &'a Block,
        windows: &ReduceWindow,
        inputs: Vec<Parts>,
        inits: Vec<Parts>,
    ) -> Res<Vec<Parts>> {
        let count = element_count(&windows.window);
        if count > MOST_UNROLLED {
            return unsupported(format!("windows of {count} elements with this body"));
        }
        let mut padded = Vec::with_capacity(inputs.len());
        let mut plain = windows.clone();
        for (parts, fills) in inputs.iter().zip(&inits) {
            let mut own = Parts::new();
            for (v, fill) in parts.iter().zip(fills) {
                let (v, op) = self.padded(windows.clone(), *v, *fill)?;
                plain = op;
                own.push(v);
            }
            padded.push(own);
        }
        let shape = self.dims(padded[0][0]);
        let results: Option<Dims> = plain.windows(&shape).iter().map(|w| w.results()).collect();
        let Some(results) = results else { return malformed("a stride or dilation of 0, or an absurd one") };
        let mut acc = self.spread_all(inits, &results)?;
        if results.contains(&0) {
            return Ok(acc);
        }
        for at in indices(&plain.window) {
            let mut args = acc;
            for parts in &padded {
                let own: Res<Parts> = parts.iter().map(|v| self.window_slice(*v, &at, &plain, &results)).collect();
                args.push(own?);
            }
            acc = self.vectorize(frame, block, &args, &results)?;
        }
        Ok(acc)
    }

    /// What every window has at one of its places.
    fn window_slice(&mut self, v: ValueId, at: &[usize], op: &ReduceWindow, results: &[usize]) -> Res<ValueId> {
        let start: Vec<usize> = at.iter().zip(&op.window_dilation).map(|(i, d)| i * d).collect();
        let limit: Vec<usize> = (0..start.len()).map(|d| start[d] + (results[d] - 1) * op.stride[d] + 1).collect();
        self.slice_of(v, &start, &limit, &op.stride)
    }

    /// `select_and_scatter`
    pub fn select_and_scatter_op(&mut self, frame: &mut Frame<'a>, op: &'a Operation) -> Res<Vec<Parts>> {
        let [operand, source, init] = self.exactly(frame, op)?;
        let (select, scatter) = (self.region(op, 0)?, self.region(op, 1)?);
        let rank = self.graph.shape(operand).len();
        let window = if op.attrs.contains_key("window_dimensions") {
            Dims::from_vec(attrs::dims(&op.attrs, "window_dimensions")?)
        } else {
            Dims::from_elem(1, rank)
        };
        let (pad_low, pad_high) = attrs::pairs(&op.attrs, "padding", rank)?;
        let stride = attrs::ones(&op.attrs, "window_strides", rank)?;
        if window.len() != rank {
            return malformed(format!("a window of {} dimensions over a tensor of rank {rank}", window.len()));
        }
        let ge_or_le = match self.formulas(frame, select).as_deref() {
            Some([f]) if f == "GE(p0,p1)" => Some(CompareFn::Ge),
            Some([f]) if f == "LE(p0,p1)" => Some(CompareFn::Le),
            _ => None,
        };
        let monoid = self.all_monoids(frame, scatter).and_then(|m| m.first().copied());
        let op = SelectAndScatter { select: ge_or_le.unwrap_or(CompareFn::Ge), window, stride, pad_low, pad_high };
        if ge_or_le.is_some() && monoid == Some(Monoid::Sum) && self.dtype(operand) == self.dtype(source) {
            let summed = self.add(op, &[operand, source])?;
            return Ok(vec![Parts::from_slice(&[self.with_init(Monoid::Sum, summed, init)?])]);
        }
        let Some(combiner) = monoid.and_then(|m| Self::scatters(m, self.dtype(init))) else {
            return unsupported("a scatter body that is not add, multiply, maximum or minimum");
        };
        self.select_by_slices(frame, select, &op, combiner, [operand, source, init])
    }

    /// Finds the selected place of every window slice by slice, then scatters the source there.
    fn select_by_slices(
        &mut self,
        frame: &mut Frame<'a>,
        select: &'a Block,
        op: &SelectAndScatter,
        combiner: Combiner,
        [operand, source, init]: [ValueId; 3],
    ) -> Res<Vec<Parts>> {
        let shape = self.dims(operand);
        if element_count(&op.window) > MOST_UNROLLED {
            return unsupported("windows of this size with this body");
        }
        let count = element_count(&shape);
        let ids = self.add(Iota { dtype: DType::I64, shape: Dims::from_slice(&[count]), dim: 0 }, &[])?;
        let ids = self.reshape_to(ids, &shape)?;
        let plain = ReduceWindow {
            pad_low: op.pad_low.clone(),
            pad_high: op.pad_high.clone(),
            ..ReduceWindow::plain(Monoid::Sum, op.window.clone(), op.stride.clone())
        };
        let outside = self.scalar(DType::I64, -1);
        let fill = self.scalar(self.dtype(operand), 0);
        let (values, _) = self.padded(plain.clone(), operand, fill)?;
        let (ids, plain) = self.padded(plain, ids, outside)?;
        let results = self.dims(source);
        let found: Option<Dims> = plain.windows(self.graph.shape(values)).iter().map(|w| w.results()).collect();
        if found.as_ref() != Some(&results) {
            return malformed(format!("the windows make {found:?} results, the source is {results:?}"));
        }
        let none = self.graph.splat(&TensorType::new(DType::I64, &results), -1.0);
        let mut best: Option<(ValueId, ValueId)> = None;
        for at in indices(&plain.window).take(if results.contains(&0) { 0 } else { usize::MAX }) {
            let value = self.window_slice(values, &at, &plain, &results)?;
            let id = self.window_slice(ids, &at, &plain, &results)?;
            best = Some(match best {
                None => (value, id),
                Some((old, old_id)) => {
                    let keep = self.apply(frame, select, &[old, value], &results)?[0];
                    // Padding never takes the place of an element, and gives way to one.
                    let padding = self.graph.compare(CompareFn::Eq, id, none);
                    let element = self.graph.compare(CompareFn::Ne, old_id, none);
                    let keep = self.graph.binary(BinaryFn::Or, keep, padding);
                    let keep = self.graph.binary(BinaryFn::And, keep, element);
                    (self.graph.select(keep, old, value), self.graph.select(keep, old_id, id))
                }
            });
        }
        let place = best.map_or(none, |b| b.1);
        let updates = element_count(&results);
        let place = self.reshape_to(place, &[updates, 1])?;
        let source = self.reshape_to(source, &[updates])?;
        let base = self.spread(init, &[count])?;
        let scatter = Scatter {
            update_window_dims: vec![],
            inserted_window_dims: vec![0],
            input_batching_dims: vec![],
            scatter_indices_batching_dims: vec![],
            scatter_dims_to_operand_dims: vec![0],
            index_vector_dim: 1,
            combiner,
        };
        let source = self.graph.convert(source, self.dtype(base));
        let made = self.add(scatter, &[base, place, source])?;
        Ok(vec![Parts::from_slice(&[self.reshape_to(made, &shape)?])])
    }
}

/// The running combination that a window over everything before (or after) an element is.
fn running(op: &ReduceWindow, shape: &[usize]) -> Option<Cumulative> {
    let plain = [&op.stride, &op.window_dilation, &op.base_dilation].iter().all(|l| l.iter().all(|v| *v == 1));
    let mut wide = (0..shape.len()).filter(|d| op.window[*d] != 1 || op.pad_low[*d] != 0 || op.pad_high[*d] != 0);
    let dim = wide.next().filter(|_| plain && wide.next().is_none())?;
    let n = i64::try_from(shape[dim]).ok().filter(|n| *n > 1 && *n == op.window[dim] as i64)?;
    let reverse = match (op.pad_low[dim], op.pad_high[dim]) {
        (low, 0) if low == n - 1 => false,
        (0, high) if high == n - 1 => true,
        _ => return None,
    };
    Some(Cumulative { monoid: op.monoid, dim, exclusive: false, reverse })
}
