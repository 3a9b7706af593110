//! What the heads of queues do: loads and stores, messages from die to die, and combinations over replicas. Each says whether it is done, and is
//! tried again later when it is not.

use super::super::collective::{Combine, Found};
use super::super::sram::Sram;
use super::super::strided;
use super::ops::{Kind, Op, Transfer, own};
use super::{ChannelInfo, DieState, MeshMachine, OUTSIDE, Refusal, lock};
use crate::machine::hosts::Hosts;
use girih_ir::scalar::Monoid;
use girih_ir::types::Layout;
use girih_kernels::buffer::{Buf, BufMut, View, ViewMut};
use girih_kernels::{Isa, copy};

impl MeshMachine {
    /// Does a load or a store.
    pub(super) fn host(&self, die: usize, t: &Transfer, sram: &mut Sram, hosts: &Hosts) -> Result<bool, Refusal> {
        let mut access = sram.access(&t.lease).ok_or(Refusal::Program(OUTSIDE))?;
        let (mut views, size) = (access.views(), t.dtype.size());
        let done = match &t.kind {
            Kind::Load(host, part, share) => {
                let part = own(part, *share, self.replica(die));
                hosts.load(*host, &part, |from, layout| strided::copy(size, from, layout, &mut *views.writes[0], &t.layout))
            }
            // What is the same in all replicas, the first one stores.
            Kind::Store(_, _, None) if self.replica(die) > 0 => return Ok(true),
            Kind::Store(host, part, share) => {
                let part = own(part, *share, self.replica(die));
                hosts.store(*host, &part, |to, layout| strided::copy(size, views.reads[0], &t.layout, to, layout))
            }
            _ => None,
        };
        if done == Some(true) { Ok(true) } else { Err(Refusal::Program("its part does not fit the host tensor")) }
    }

    fn channel(&self, channel: Option<usize>) -> Result<(usize, &ChannelInfo), Refusal> {
        channel.and_then(|c| Some((c, self.channels.get(c)?))).ok_or(Refusal::Program("it has no channel"))
    }

    /// Brings a message to its receiver: right into its memory when it stands waiting for it, else into the channel, when there is a credit.
    /// It stays in the queue, to be fetched, when the receiver will come for it later and nothing is `eager`; `false` then.
    pub(super) fn send(&self, t: &Transfer, channel: Option<usize>, state: &mut DieState, eager: bool) -> Result<bool, Refusal> {
        let (c, info) = self.channel(channel)?;
        let waiting = lock(&info.state).messages.len();
        let mut later = !eager;
        if waiting == 0 {
            match self.dies[info.dest].try_lock() {
                Ok(mut peer) => {
                    let end = self.end_of(c, info.dest, &peer);
                    // What does not suit goes as a message, and fails where it arrives.
                    later &= end.is_none();
                    if let Some((q, end)) = end.filter(|(_, end)| end.suits(t)) {
                        deliver(t, &mut state.sram, end, &mut peer.sram, self.isa)?;
                        peer.complete(q);
                        drop(peer);
                        self.wake(info.dest);
                        return Ok(true);
                    }
                }
                // It runs, and may already have looked for this message in vain.
                Err(_) => later = false,
            }
        }
        if later || waiting >= info.depth.max(1) {
            return Ok(false);
        }
        let mut message = lock(&self.spare).take(t.size());
        let mut access = state.sram.access(&t.lease).ok_or(Refusal::Program(OUTSIDE))?;
        strided::copy(t.dtype.size(), access.views().reads[0], &t.layout, message.take(t.size()), &Layout::dense(&t.dims));
        lock(&info.state).messages.push_back((message, t.size()));
        self.wake(info.dest);
        Ok(true)
    }

    /// Takes a message in, from the channel or right from the sender's memory; `false` when there is none.
    pub(super) fn receive(&self, die: usize, t: &Transfer, channel: Option<usize>, state: &mut DieState) -> Result<bool, Refusal> {
        let (c, info) = self.channel(channel)?;
        loop {
            let message = lock(&info.state).messages.pop_front();
            if let Some((message, len)) = message {
                let held = message.held(len);
                let fits = if held.len() == t.size() { Ok(()) } else { Err(Refusal::Program("the message is not as long as the region")) };
                let done = fits.and_then(|()| receive(t, held, &Layout::dense(&t.dims), &mut state.sram, self.isa));
                lock(&self.spare).put(message);
                self.wake(info.source);
                return done.map(|()| true);
            }
            if info.source == die {
                return Ok(false);
            }
            let Ok(mut peer) = self.dies[info.source].try_lock() else {
                // It runs: it looks again before it stops.
                self.wake(info.source);
                return Ok(false);
            };
            // It may have sent in the meantime.
            if !lock(&info.state).messages.is_empty() {
                continue;
            }
            let Some((q, sent)) = self.end_of(c, info.source, &peer).filter(|(_, sent)| t.suits(sent)) else {
                return Ok(false);
            };
            deliver(sent, &mut peer.sram, t, &mut state.sram, self.isa)?;
            peer.complete(q);
            drop(peer);
            self.wake(info.source);
            return Ok(true);
        }
    }

    /// The queue of a die whose head is its end of a channel, and that transfer.
    fn end_of(&self, channel: usize, die: usize, state: &DieState) -> Option<(usize, &Transfer)> {
        let at = |q: usize| state.ready_head(q).filter(|head| head.1 == Some(channel)).map(|head| (q, head.0));
        let (q, index) = (0..8).find_map(at)?;
        match &self.stream(die)[index] {
            Op::Transfer(t) => Some((q, t)),
            _ => None,
        }
    }

    /// Leaves a part with the other replicas, and takes the combination when all have come; `false` until then.
    pub(super) fn combine(
        &self,
        die: usize,
        t: &Transfer,
        monoid: Monoid,
        from: Option<&Layout>,
        sram: &mut Sram,
        round: &mut u64,
    ) -> Result<bool, Refusal> {
        let (position, replica) = (self.position(die), self.replica(die));
        let mut access = sram.access(&t.lease).ok_or(Refusal::Program(OUTSIDE))?;
        let mut views = access.views();
        let (size, dense) = (t.dtype.size(), Layout::dense(&t.dims));
        let c = Combine { count: self.replicas.0, cols: self.replicas.1, monoid, dtype: t.dtype, bytes: t.size() };
        let meeting = self.meetings.get(position).ok_or(Refusal::Program("its die has no code"))?;
        let (reads, writes) = (&views.reads, &mut views.writes);
        let out = std::cell::RefCell::new(&mut *writes[0]);
        let give = |to: &mut [u8]| {
            match from {
                Some(layout) => strided::copy(size, reads[0], layout, to, &dense),
                None => strided::copy(size, &out.borrow(), &t.layout, to, &dense),
            };
        };
        let take = |from: &[u8]| {
            strided::copy(size, from, &dense, &mut out.borrow_mut(), &t.layout);
        };
        let found = lock(meeting).come((replica, *round), c, self.isa, give, take).map_err(Refusal::Kernel)?;
        let Found::Taken(made) = found else { return Ok(false) };
        *round += 1;
        let dies = self.stream_of.len();
        (0..if made { self.replicas.0 } else { 0 }).filter(|r| *r != replica).for_each(|r| self.wake(r * dies + position));
        Ok(true)
    }
}

/// Takes elements in that lie so in these bytes.
fn receive(t: &Transfer, from: &[u8], layout: &Layout, sram: &mut Sram, isa: Isa) -> Result<(), Refusal> {
    let mut access = sram.access(&t.lease).ok_or(Refusal::Program(OUTSIDE))?;
    let mut views = access.views();
    let to = &mut *views.writes[0];
    let Kind::RecvAdd(monoid) = t.kind else {
        strided::copy(t.dtype.size(), from, layout, to, &t.layout);
        return Ok(());
    };
    let mut combine = || {
        let input = View::new(Buf::new(t.dtype, from)?, layout.clone())?;
        let mut out = ViewMut::new(BufMut::new(t.dtype, to)?, t.layout.clone())?;
        copy::combine_into(isa, monoid, &input, &mut out)
    };
    combine().map_err(Refusal::Kernel)
}

/// Copies what one die sends straight to where the other one wants it.
fn deliver(sent: &Transfer, from: &mut Sram, wanted: &Transfer, to: &mut Sram, isa: Isa) -> Result<(), Refusal> {
    let mut access = from.access(&sent.lease).ok_or(Refusal::Program(OUTSIDE))?;
    receive(wanted, access.views().reads[0], &sent.layout, to, isa)
}
