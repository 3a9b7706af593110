//! Computations that are written for one device of a mesh (`jax.shard_map`): `sdy.manual_computation`, and in HLO the custom calls
//! `xla.sdy.GlobalToLocalShape` and `xla.sdy.LocalToGlobalShape` around a call of the body.
//!
//! All devices are converted side by side, op by op. A value that differs between them is a [`Slot::Local`], one list of parts a device; what
//! does not differ is made once. So a collective finds the values of all its members at hand, and is a sum, a concatenation or a choice of
//! them. Nothing of the devices is left in the graph: how it lies on dies is decided later.

use super::super::module::{Block, ModuleAttr, Operation};
use super::super::text::read_attribute;
use super::attrs::Attrs;
use super::{Converter, Frame, Parts, Res, Slot, attrs, malformed, unsupported};
use girih_ir::graph::ValueId;
use girih_ir::tensor::Tensor;
use girih_ir::types::DType;
use rustc_hash::FxHashMap;
use std::collections::hash_map::Entry;
use std::rc::Rc;

/// More devices than this are not written out.
const MOST_DEVICES: usize = 64;
/// How XLA names the functions that hold the bodies.
const BODY: &str = "xla.sdy.manual_computation_body";
/// From values of the mesh to those of its devices …
const TO_LOCAL: &str = "xla.sdy.GlobalToLocalShape";
/// … and back.
const TO_GLOBAL: &str = "xla.sdy.LocalToGlobalShape";

/// The devices of a mesh, numbered in row-major order of its axes.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) struct Devices {
    axes: Vec<(String, usize)>,
}

impl Devices {
    fn count(&self) -> usize {
        self.axes.iter().map(|(_, size)| size).product()
    }

    /// Devices from one to the next along an axis, and the extent of that axis.
    fn stride(&self, axis: &str) -> Option<(usize, usize)> {
        let at = self.axes.iter().position(|(name, _)| name == axis)?;
        Some((self.axes[at + 1..].iter().map(|(_, size)| size).product(), self.axes[at].1))
    }

    /// Parts along a dimension that is split over axes, and which of them a device has.
    fn part(&self, axes: &[String], device: usize) -> (usize, usize) {
        axes.iter().filter_map(|a| self.stride(a)).fold((1, 0), |(count, at), (stride, size)| {
            let own = device / stride % size;
            (count * size, at * size + own)
        })
    }

    /// The device that has part `k` of a dimension and is where `device` is along the other axes.
    fn with_part(&self, axes: &[String], device: usize, mut k: usize) -> usize {
        axes.iter().rev().filter_map(|a| self.stride(a)).fold(device, |device, (stride, size)| {
            let own = device / stride % size;
            let want = k % size;
            k /= size;
            device - own * stride + want * stride
        })
    }
}

/// The axes that each dimension of a value is split over.
type Split = Vec<Vec<String>>;

fn short(op: &Operation) -> &str {
    op.name.split_once('.').map_or(op.name.as_str(), |(_, n)| n)
}

fn is_collective(name: &str) -> bool {
    matches!(name, "all_reduce" | "all_gather" | "all_to_all" | "reduce_scatter" | "collective_permute" | "collective_broadcast")
}

fn is_call(name: &str) -> bool {
    matches!(name, "call" | "composite" | "named_computation" | "manual_computation")
}

/// Whether an op is the custom call at a border of a manual computation.
fn is_border(op: &Operation) -> bool {
    short(op) == "custom_call" && matches!(attrs::word(&op.attrs, "call_target_name"), Some(TO_LOCAL | TO_GLOBAL))
}

/// Whether an op of the block, or of what it calls, is one for which `found` says so.
fn any_op(block: &Block, found: &impl Fn(&Operation) -> bool) -> bool {
    block.ops.iter().any(|op| found(op) || op.regions.iter().any(|r| any_op(r, found)))
}

impl<'a> Converter<'a> {
    /// Whether an op is to be converted for every device of the current mesh.
    pub(super) fn differs(&self, frame: &Frame<'a>, op: &Operation) -> bool {
        if self.device.is_some() {
            return false;
        }
        if op.name == "sdy.manual_computation" || is_border(op) {
            return true;
        }
        let own = |op: &Operation| {
            short(op) == "partition_id"
                || is_collective(short(op))
                || is_call(short(op))
                || op.operands.iter().any(|v| matches!(frame.values.get(v.index()), Some(Slot::Local(_))))
        };
        self.devices.is_some() && (own(op) || op.regions.iter().any(|r| any_op(r, &own)))
    }

    /// Converts an op for every device, and binds its results.
    pub(super) fn on_devices(&mut self, frame: &mut Frame<'a>, op: &'a Operation) -> Res<()> {
        let made = match short(op) {
            "call" | "composite" => {
                let key = if short(op) == "call" { "callee" } else { "decomposition" };
                let args: Res<Vec<Slot>> = op.operands.iter().map(|v| self.slot_of(frame, *v)).collect();
                let made = self.inline_slots(attrs::need_word(&op.attrs, key)?, &args?)?;
                return self.bind_slots(frame, op, made);
            }
            "manual_computation" | "named_computation" => {
                let made = self.manual_slots(frame, op)?;
                return self.bind_slots(frame, op, made);
            }
            _ if is_border(op) => {
                let made = self.border(frame, op)?;
                return self.bind_slots(frame, op, made);
            }
            name => {
                let Some(devices) = self.devices.clone() else { return malformed("an op for the devices of no mesh") };
                match is_collective(name) {
                    true => self.collective(frame, op, &devices)?,
                    false => self.each_device(frame, op, &devices)?,
                }
            }
        };
        self.bind_slots(frame, op, columns(made))
    }

    /// The results of an op on each device. Devices with the same operands share them.
    fn each_device(&mut self, frame: &mut Frame<'a>, op: &'a Operation, devices: &Devices) -> Res<Vec<Vec<Parts>>> {
        let mut seen: FxHashMap<Vec<Parts>, usize> = FxHashMap::default();
        let mut all: Vec<Vec<Parts>> = Vec::with_capacity(devices.count());
        for d in 0..devices.count() {
            self.device = Some(d);
            let operands: Res<Vec<Parts>> = op.operands.iter().map(|v| self.parts(frame, *v)).collect();
            let shared = operands.as_ref().ok().filter(|_| op.regions.is_empty() && short(op) != "partition_id");
            let made = match shared.and_then(|o| seen.get(o)) {
                Some(twin) => Ok(all[*twin].clone()),
                None => self.results_of(frame, op),
            };
            self.device = None;
            if let (Ok(operands), true) = (operands, op.regions.is_empty()) {
                seen.entry(operands).or_insert(d);
            }
            all.push(made?);
        }
        Ok(all)
    }

    fn bind_slots(&mut self, frame: &mut Frame<'a>, op: &Operation, slots: Vec<Slot>) -> Res<()> {
        if slots.len() != op.results.len() {
            return malformed(format!("`{}` has {} results, but {} are named", op.name, slots.len(), op.results.len()));
        }
        op.results.iter().zip(slots).try_for_each(|(v, s)| self.bind_slot(frame, *v, s, "a result"))
    }

    /// `sdy.manual_computation`: its body on every device. `sdy.named_computation`: its body.
    fn manual_slots(&mut self, frame: &mut Frame<'a>, op: &'a Operation) -> Res<Vec<Slot>> {
        let args: Res<Vec<Slot>> = op.operands.iter().map(|v| self.slot_of(frame, *v)).collect();
        let (args, block) = (args?, self.region(op, 0)?);
        if short(op) == "named_computation" {
            return self.run_slots(frame, block, &args);
        }
        let (ins, outs) = (op.attrs.get("in_shardings"), op.attrs.get("out_shardings"));
        let manual = manual_axes(op.attrs.get("manual_axes"));
        let outer = self.devices.clone();
        let args = self.cut_all(args, ins, &manual)?;
        let made = self.run_slots(frame, block, &args).and_then(|made| self.join_all(made, outs, &manual, outer.is_none()));
        self.devices = outer;
        made
    }

    /// The custom calls at the borders of a manual computation.
    fn border(&mut self, frame: &Frame<'a>, op: &Operation) -> Res<Vec<Slot>> {
        let Some(ModuleAttr::Fields(front)) = op.attrs.get("mhlo.frontend_attributes") else {
            return malformed("a border of a manual computation needs `mhlo.frontend_attributes`");
        };
        let read = |key: &str| match front.get(key) {
            Some(ModuleAttr::Text(text)) => read_attribute(text, &self.options.limits).ok(),
            other => other.cloned(),
        };
        let manual = manual_axes(read("xla.sdy.manual_axes").as_ref());
        let slots: Res<Vec<Slot>> = op.operands.iter().map(|v| self.slot_of(frame, *v)).collect();
        if attrs::word(&op.attrs, "call_target_name") == Some(TO_LOCAL) {
            return self.cut_all(slots?, read("xla.sdy.in_shardings").as_ref(), &manual);
        }
        let outermost = !self.stack.iter().any(|name| name.starts_with(BODY));
        self.join_all(slots?, read("xla.sdy.out_shardings").as_ref(), &manual, outermost)
    }

    /// The shares of values that each device gets. Enters the mesh that their shardings name.
    fn cut_all(&mut self, values: Vec<Slot>, shardings: Option<&ModuleAttr>, manual: &[String]) -> Res<Vec<Slot>> {
        let splits = self.splits(shardings, values.len(), manual)?;
        let Some(devices) = self.devices.clone() else { return Ok(values) };
        let cut = |cx: &mut Self, (value, split): (Slot, Split)| -> Res<Slot> {
            let mut made: FxHashMap<(Parts, Vec<usize>), Parts> = FxHashMap::default();
            let mut all = Vec::with_capacity(devices.count());
            for d in 0..devices.count() {
                let parts = value.of(d)?;
                let at: Vec<usize> = split.iter().map(|axes| devices.part(axes, d).1).collect();
                let share = match made.get(&(parts.clone(), at.clone())) {
                    Some(share) => share.clone(),
                    None => parts.iter().map(|v| cx.share(*v, &devices, &split, d)).collect::<Res<Parts>>()?,
                };
                made.insert((parts, at), share.clone());
                all.push(share);
            }
            Ok(slot(all))
        };
        values.into_iter().zip(splits).map(|pair| cut(self, pair)).collect()
    }

    /// What a device has of a value.
    fn share(&mut self, v: ValueId, devices: &Devices, split: &Split, device: usize) -> Res<ValueId> {
        let shape = self.dims(v);
        if split.len() != shape.len() {
            return malformed(format!("a sharding of {} dimensions on a tensor of rank {}", split.len(), shape.len()));
        }
        let (mut start, mut limit) = (vec![0; shape.len()], shape.to_vec());
        for (dim, axes) in split.iter().enumerate() {
            let (count, at) = devices.part(axes, device);
            if !shape[dim].is_multiple_of(count) {
                return malformed(format!("dimension {dim} of extent {} is split over {count} devices", shape[dim]));
            }
            let size = shape[dim] / count;
            (start[dim], limit[dim]) = (at * size, at * size + size);
        }
        if start.iter().all(|s| *s == 0) && limit == shape.as_slice() {
            return Ok(v);
        }
        self.slice_of(v, &start, &limit, &vec![1; shape.len()])
    }

    /// Whole values from the shares of the devices; for every device of an outer computation, unless there is none.
    fn join_all(&mut self, values: Vec<Slot>, shardings: Option<&ModuleAttr>, manual: &[String], outermost: bool) -> Res<Vec<Slot>> {
        let splits = self.splits(shardings, values.len(), manual)?;
        let Some(devices) = self.devices.clone() else { return Ok(values) };
        let mut whole = Vec::with_capacity(values.len());
        for (value, split) in values.into_iter().zip(splits) {
            let mut made: FxHashMap<usize, Parts> = FxHashMap::default();
            let mut all = Vec::new();
            for d in 0..if outermost { 1 } else { devices.count() } {
                let first = split.iter().fold(d, |d, axes| devices.with_part(axes, d, 0));
                if let Entry::Vacant(place) = made.entry(first) {
                    let parts = value.of(first)?.len();
                    place.insert((0..parts).map(|p| self.joined(&value, p, &devices, &split, 0, first)).collect::<Res<Parts>>()?);
                }
                all.push(made[&first].clone());
            }
            whole.push(slot(all));
        }
        Ok(whole)
    }

    /// The concatenation along dimensions from `dim` on of a part of the shares, `device` having the first of them.
    fn joined(&mut self, value: &Slot, part: usize, devices: &Devices, split: &Split, dim: usize, device: usize) -> Res<ValueId> {
        let Some(axes) = split.get(dim) else {
            return match value.of(device)?.get(part) {
                Some(v) => Ok(*v),
                None => malformed("the devices return different types"),
            };
        };
        let (count, _) = devices.part(axes, device);
        let pieces: Res<Vec<ValueId>> =
            (0..count).map(|k| self.joined(value, part, devices, split, dim + 1, devices.with_part(axes, device, k))).collect();
        let pieces = pieces?;
        if let ([v], 1) = (pieces.as_slice(), count) {
            return Ok(*v);
        }
        self.concat(&pieces, dim)
    }

    /// The manual axes of each dimension of some values, and the mesh of their shardings as the current one.
    fn splits(&mut self, shardings: Option<&ModuleAttr>, count: usize, manual: &[String]) -> Res<Vec<Split>> {
        let none = Vec::new();
        let list = match shardings {
            Some(ModuleAttr::List(list)) => list,
            None if count == 0 => &none,
            // The portable bytecode encodes them in a form of its own.
            Some(ModuleAttr::Other(_)) => {
                return unsupported(
                    "a computation that is written for one device of a mesh, in bytecode; give the text of the module instead",
                );
            }
            _ => return malformed("a manual computation needs the shardings of its values"),
        };
        if list.len() != count {
            return malformed(format!("{} shardings of {count} values", list.len()));
        }
        let mut splits = Vec::with_capacity(count);
        for sharding in list {
            let ModuleAttr::Fields(fields) = sharding else { return malformed("a sharding of an unknown form") };
            self.enter_mesh(fields)?;
            let Some(ModuleAttr::List(dims)) = fields.get("dim_shardings") else { return malformed("a sharding without dimensions") };
            splits.push(dims.iter().map(|dim| split_of(dim, manual)).collect::<Res<Split>>()?);
        }
        Ok(splits)
    }

    fn enter_mesh(&mut self, sharding: &Attrs) -> Res<()> {
        let Some(name) = attrs::word(sharding, "mesh") else { return unsupported("a manual computation on a mesh without a name") };
        let Some(axes) = self.module.meshes.get(name) else { return malformed(format!("the module has no mesh `{name}`")) };
        if axes.is_empty() {
            return unsupported("a computation that is written for one device of a mesh whose devices are not in the order 0, 1, …");
        }
        let devices = Devices { axes: axes.clone() };
        if devices.count() > MOST_DEVICES {
            return unsupported(format!(
                "a computation that is written for one device of {}; {MOST_DEVICES} are the most",
                devices.count()
            ));
        }
        match &self.devices {
            Some(other) if **other != devices => unsupported("computations for the devices of two meshes, one inside of the other"),
            Some(_) => Ok(()),
            None => {
                self.devices = Some(Rc::new(devices));
                Ok(())
            }
        }
    }

    // ---- collectives -----------------------------------------------------------------------------------------------------------

    /// The results of a collective on each device.
    fn collective(&mut self, frame: &mut Frame<'a>, op: &'a Operation, devices: &Devices) -> Res<Vec<Vec<Parts>>> {
        let n = devices.count();
        let mut operands = Vec::with_capacity(op.operands.len());
        for v in &op.operands {
            let value = self.slot_of(frame, *v)?;
            operands.push((0..n).map(|d| value.of(d)).collect::<Res<Vec<Parts>>>()?);
        }
        let mut results: Vec<Vec<Parts>> = vec![Vec::new(); n];
        for operand in &operands {
            let moved = match short(op) {
                "collective_permute" => self.permuted(op, operand)?,
                name => {
                    let groups = groups(op, name, n)?;
                    let mut all = vec![Parts::new(); n];
                    for group in &groups {
                        let members: Vec<&Parts> = group.iter().map(|d| &operand[*d]).collect();
                        let made = self.in_group(frame, op, name, &members)?;
                        group.iter().zip(made).for_each(|(d, parts)| all[*d] = parts);
                    }
                    all
                }
            };
            results.iter_mut().zip(moved).for_each(|(r, parts)| r.push(parts));
        }
        Ok(results)
    }

    /// The results of a collective in a group, one a member.
    fn in_group(&mut self, frame: &mut Frame<'a>, op: &'a Operation, name: &str, members: &[&Parts]) -> Res<Vec<Parts>> {
        let n = members.len();
        match name {
            "all_reduce" => Ok(vec![self.combined(frame, op, members)?; n]),
            "reduce_scatter" => {
                let (sum, dim) = (self.combined(frame, op, members)?, attrs::need_size(&op.attrs, "scatter_dimension")?);
                (0..n).map(|k| self.piece(&sum, dim, n, k)).collect()
            }
            "all_gather" => {
                let dim = attrs::need_size(&op.attrs, "all_gather_dim")?;
                Ok(vec![self.concat_parts(members, dim)?; n])
            }
            "all_to_all" => {
                let split = attrs::need_size(&op.attrs, "split_dimension")?;
                let concat = attrs::size(&op.attrs, "concat_dimension", split)?;
                let one = |cx: &mut Self, k: usize| -> Res<Parts> {
                    let pieces: Res<Vec<Parts>> = members.iter().map(|m| cx.piece(m, split, n, k)).collect();
                    let pieces = pieces?;
                    cx.concat_parts(&pieces.iter().collect::<Vec<_>>(), concat)
                };
                (0..n).map(|k| one(self, k)).collect()
            }
            "collective_broadcast" => Ok(vec![members.first().map_or_else(Parts::new, |p| (*p).clone()); n]),
            _ => unsupported("this collective"),
        }
    }

    /// The values of a group, combined by the body of the op in the order of the group.
    fn combined(&mut self, frame: &mut Frame<'a>, op: &'a Operation, members: &[&Parts]) -> Res<Parts> {
        let block = self.region(op, 0)?;
        let Some((first, rest)) = members.split_first() else { return malformed("a group without members") };
        let mut all = (*first).clone();
        for next in rest {
            let Some(v) = all.first() else { return Ok(all) };
            let shape = self.dims(*v);
            let made = self.vectorize(frame, block, &[all.clone(), (*next).clone()], &shape)?;
            all = match <[Parts; 1]>::try_from(made) {
                Ok([one]) => one,
                Err(_) => return malformed("the body of a collective returns one value"),
            };
        }
        Ok(all)
    }

    /// Piece `k` of `n` along a dimension.
    fn piece(&mut self, parts: &Parts, dim: usize, n: usize, k: usize) -> Res<Parts> {
        let cut = |cx: &mut Self, v: ValueId| {
            let shape = cx.dims(v);
            if dim >= shape.len() || !shape[dim].is_multiple_of(n) {
                return malformed(format!("dimension {dim} of {shape:?} is split over {n} devices"));
            }
            let (mut start, mut limit) = (vec![0; shape.len()], shape.to_vec());
            (start[dim], limit[dim]) = (shape[dim] / n * k, shape[dim] / n * (k + 1));
            cx.slice_of(v, &start, &limit, &vec![1; shape.len()])
        };
        parts.iter().map(|v| cut(self, *v)).collect()
    }

    fn concat_parts(&mut self, members: &[&Parts], dim: usize) -> Res<Parts> {
        let parts = members.first().map_or(0, |m| m.len());
        let one = |cx: &mut Self, p: usize| {
            let values: Option<Vec<ValueId>> = members.iter().map(|m| m.get(p).copied()).collect();
            match values.as_deref() {
                Some([v]) => Ok(*v),
                Some(values) if values.iter().all(|v| dim < cx.dims(*v).len()) => cx.concat(values, dim),
                _ => malformed(format!("values of different types along dimension {dim}")),
            }
        };
        (0..parts).map(|p| one(self, p)).collect()
    }

    /// `collective_permute`: zeros where nothing comes from.
    fn permuted(&mut self, op: &Operation, operand: &[Parts]) -> Res<Vec<Parts>> {
        let pairs = attrs::ints(&op.attrs, "source_target_pairs")?.unwrap_or_default();
        let mut all: Vec<Option<Parts>> = vec![None; operand.len()];
        for pair in pairs.chunks_exact(2) {
            let at = |k: usize| usize::try_from(pair[k]).ok().filter(|d| *d < operand.len());
            let (Some(source), Some(target)) = (at(0), at(1)) else { return malformed(format!("{pair:?} are no devices of the mesh")) };
            all[target] = Some(operand[source].clone());
        }
        let zeros = |cx: &mut Self, like: &Parts| -> Parts { like.iter().map(|v| cx.graph.splat_like(*v, 0.0)).collect() };
        let mut filled = Vec::with_capacity(all.len());
        for (value, like) in all.into_iter().zip(operand) {
            filled.push(match value {
                Some(value) => value,
                None => zeros(self, like),
            });
        }
        Ok(filled)
    }

    /// `partition_id` on the current device.
    pub(super) fn device_number(&mut self, device: usize) -> ValueId {
        self.graph.constant(&Tensor::scalar_int(DType::U32, device as i64))
    }
}

impl Slot {
    /// The parts on a device.
    pub(super) fn of(&self, device: usize) -> Res<Parts> {
        match self {
            Slot::Set(parts) => Ok(parts.clone()),
            Slot::Local(all) => match all.get(device) {
                Some(parts) => Ok(parts.clone()),
                None => malformed("a value of another mesh"),
            },
            Slot::Poisoned => Err(super::Fault::Poisoned),
            Slot::Unset => malformed("a value is used before it is defined"),
        }
    }
}

/// Results by device as one slot a result.
fn columns(made: Vec<Vec<Parts>>) -> Vec<Slot> {
    let results = made.first().map_or(0, Vec::len);
    (0..results).map(|k| slot(made.iter().map(|m| m[k].clone()).collect())).collect()
}

/// The values of all devices: one, when they are the same.
fn slot(all: Vec<Parts>) -> Slot {
    match all.split_first() {
        Some((first, rest)) if rest.iter().all(|p| p == first) => Slot::Set(first.clone()),
        _ => Slot::Local(all.into()),
    }
}

fn manual_axes(attr: Option<&ModuleAttr>) -> Vec<String> {
    let Some(ModuleAttr::List(axes)) = attr else { return Vec::new() };
    let name = |a: &ModuleAttr| if let ModuleAttr::Text(t) = a { Some(t.clone()) } else { None };
    axes.iter().filter_map(name).collect()
}

fn split_of(dim: &ModuleAttr, manual: &[String]) -> Res<Vec<String>> {
    let ModuleAttr::List(axes) = dim else { return malformed("the sharding of a dimension is no list") };
    let mut split = Vec::new();
    for axis in axes {
        match axis {
            ModuleAttr::Text(name) if manual.contains(name) => split.push(name.clone()),
            ModuleAttr::Text(name) if name.contains(':') => return unsupported("a dimension that is split over a part of an axis"),
            _ => {}
        }
    }
    Ok(split)
}

/// The groups of devices that a collective works in.
fn groups(op: &Operation, name: &str, devices: usize) -> Res<Vec<Vec<usize>>> {
    let channel = match op.attrs.get("channel_handle") {
        Some(ModuleAttr::Fields(f)) => attrs::int(f, "handle")?,
        _ => attrs::int(&op.attrs, "channel_id")?,
    };
    let global = attrs::flag(&op.attrs, "use_global_device_ids", false)?;
    let flat = attrs::ints(&op.attrs, "replica_groups")?.unwrap_or_default();
    let by_device = global || matches!(name, "all_to_all" | "collective_broadcast");
    if channel.is_none_or(|c| c <= 0) {
        // Among the replicas, of which there is one.
        return Ok((0..devices).map(|d| vec![d]).collect());
    }
    let width = match op.attrs.get("replica_groups") {
        Some(ModuleAttr::Dense(d)) => d.shape.last().copied().unwrap_or(1).max(1),
        _ => flat.len().max(1),
    };
    if flat.is_empty() || (!by_device && flat == [0]) {
        return Ok(vec![(0..devices).collect()]);
    }
    if !by_device {
        return unsupported("a collective of several replicas");
    }
    let mut taken = vec![false; devices];
    let mut all = Vec::new();
    for row in flat.chunks(width) {
        let mut group = Vec::with_capacity(row.len());
        for id in row.iter().filter(|id| **id >= 0) {
            match usize::try_from(*id).ok().filter(|d| *d < devices && !taken[*d]) {
                Some(d) => {
                    taken[d] = true;
                    group.push(d);
                }
                None => return malformed(format!("{id} is no device of the mesh, or is in two groups")),
            }
        }
        all.push(group);
    }
    if taken.contains(&false) {
        return malformed("a device of the mesh is in no group of a collective");
    }
    Ok(all)
}
