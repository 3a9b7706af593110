//! Streamed state: what stays in host memory between its uses.
//!
//! The dies that make the new value load the old one, each its part, some nodes before it is needed, and send it on to the others as they
//! do with state in SRAM; so every byte comes through the edge of the mesh once. When it was not used for a while it is forgotten and
//! loaded again for its next use. The new value goes back as soon as it is made; loads still find the old one in this step.

use super::PlaceError;
use super::assemble::{Key, Placer};
use super::dies::{BufferId, Storage, Task, TaskKind, View};
use super::holders::Holding;
use girih_ir::axes::{Axes, Box, box_contains, box_dims, box_intersect, box_is_empty};
use girih_ir::graph::ValueId;
use girih_ir::ops::Op;
use girih_ir::types::element_count;

/// Within so many nodes a loaded copy is used again, when the plan does not say otherwise.
pub const STREAM_WINDOW: u32 = 12;

/// A die that loads a part of a streamed state.
#[derive(Clone, Debug)]
pub(super) struct StreamHome {
    die: u32,
    part: Box,
    /// The copy that it has, and the node that used it last.
    copy: Option<(BufferId, u32)>,
}

impl Placer<'_> {
    /// A view of `part` of a streamed state on `die`, loaded there or sent from where it is loaded.
    pub(super) fn demand_streamed(&mut self, pair: u32, die: u32, key: Key, part: Box) -> Result<View, PlaceError> {
        let window = self.sharded().reuse.unwrap_or(STREAM_WINDOW);
        if let Some(view) = self.recent(die, key, &part, window) {
            self.touch(pair, die);
            return Ok(view);
        }
        if self.is_frozen(pair) {
            return Ok(self.load_here(die, key, part));
        }
        if self.apart.contains(&key) && !self.at_home(pair, die, &part, window) {
            return Ok(self.load_here(die, key, part));
        }
        if !self.loads.contains_key(&pair) {
            let mut homes: Vec<StreamHome> = Vec::new();
            for (die, part) in self.homes(pair) {
                // What several dies make alike is loaded by the first of them.
                if !box_is_empty(&part) && homes.iter().all(|h| h.part != part) {
                    homes.push(StreamHome { die, part, copy: None });
                }
            }
            self.loads.insert(pair, homes);
        }
        let mut homes = self.loads.remove(&pair).unwrap_or_default();
        let now = self.now();
        let meets = |h: &StreamHome| part.is_empty() || box_intersect(&h.part, &part).is_some();
        for home in homes.iter_mut().filter(|h| meets(h)) {
            if !self.works(home.die) {
                continue;
            }
            home.copy = match home.copy {
                Some((buffer, used)) if now - used <= window => Some((buffer, now)),
                _ => Some((self.load_here(home.die, key, home.part.clone()).buffer, now)),
            };
        }
        let own = homes.iter().find(|h| h.die == die && box_contains(&h.part, &part));
        let own = own.and_then(|h| h.copy).map(|(buffer, _)| View { buffer, part: part.clone() });
        let holding = |h: &StreamHome| h.copy.map(|(buffer, _)| Holding { die: h.die, buffer, part: h.part.clone() });
        let holders: Vec<Holding> = homes.iter().filter(|h| meets(h)).filter_map(holding).collect();
        self.loads.insert(pair, homes);
        match own {
            Some(view) => Ok(view),
            None => {
                self.only_holders(key, holders);
                self.gather(die, key, part)
            }
        }
    }

    /// Notes which streamed values the dies read in different parts for a node: each part is loaded where it is read then, and not sent on.
    pub(super) fn apart(&mut self, value: ValueId, axes: &Axes) {
        self.apart.clear();
        for (k, operand) in self.graph().node(value).operands.iter().enumerate() {
            let key = self.resolve(*operand);
            if self.streamed_pair(key).is_none() {
                continue;
            }
            let shape = self.shape(key);
            let shards = (0..self.dies()).filter_map(|die| self.sharded().shard(value, axes, die as usize));
            let read: usize = shards.map(|s| element_count(&box_dims(&axes.operand_box(k, shape, &s.ranges)))).sum();
            if read <= element_count(shape) {
                self.apart.push(key);
            }
        }
    }

    /// Whether what a die loads for itself has a part and was used a short while ago, or is the part.
    fn at_home(&mut self, pair: u32, die: u32, part: &Box, window: u32) -> bool {
        let now = self.now();
        let fresh = |h: &StreamHome| h.part == *part || h.copy.is_some_and(|(_, used)| now - used <= window);
        match self.loads.get(&pair) {
            Some(homes) => homes.iter().any(|h| h.die == die && box_contains(&h.part, part) && fresh(h)),
            None => self.homes(pair).iter().any(|(d, p)| *d == die && p == part),
        }
    }

    /// A die uses its own copy once more.
    fn touch(&mut self, pair: u32, die: u32) {
        let now = self.now();
        for home in self.loads.get_mut(&pair).into_iter().flatten().filter(|h| h.die == die) {
            if let Some((_, used)) = &mut home.copy {
                *used = now;
            }
        }
    }

    /// Forgets all copies and constants, at the border of a loop: what is loaded or filled in in an iteration is not there behind it, and the
    /// other way round it would stay for all of them.
    pub(super) fn forget_at_border(&mut self) {
        let step = &self.sharded().step;
        if self.dies() > 1 {
            let splats: Vec<ValueId> = self.graph().values().filter(|v| self.splats[v.index()]).collect();
            for v in splats {
                (0..self.dies()).for_each(|die| self.forget(die, (v, 0)));
            }
        }
        for p in self.sharded().streamed.iter().map(|p| *p as usize) {
            let key = (step.graph.inputs[step.state[p].input].value, 0);
            (0..self.dies()).for_each(|die| self.forget(die, key));
            self.loads.get_mut(&(p as u32)).into_iter().flatten().for_each(|h| h.copy = None);
        }
    }

    fn load_here(&mut self, die: u32, key: Key, part: Box) -> View {
        let buffer = self.buffer(die, key, part.clone(), Storage::Own);
        self.hold(die, key, buffer, part.clone(), false);
        let view = View { buffer, part };
        if let Op::Input(input) = &self.graph().node(key.0).op {
            let kind = TaskKind::Load(input.index as u32);
            self.push(Task { die, kind, reads: vec![], writes: vec![view.clone()] });
        }
        view
    }
}
