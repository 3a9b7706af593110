//! What the simulator knows before it starts: the cost of every instruction and the resources on every message's way.

use super::cost::{self, Cost};
use super::{SimError, SimOptions};
use crate::machine::loops::Loops;
use crate::machine::queues::{self, Entry};
use crate::machine::{Deadlock, Place};
use girih_ir::program::{Instr, Program, Queue, Region};
use girih_ir::target::{DieId, LinkId, Router, Target};
use std::collections::BTreeMap;

/// Something that messages reserve one after the other.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub enum Resource {
    /// A link.
    Link(LinkId),
    /// From the SRAM of a die to its router.
    RampOut(DieId),
    /// From the router of a die to its SRAM.
    RampIn(DieId),
    /// The port at a die, from the host.
    PortIn(DieId),
    /// The port at a die, to the host.
    PortOut(DieId),
    /// Everything that comes from the host.
    HostIn,
    /// Everything that goes to the host.
    HostOut,
    /// The chain of dies of this position through all replicas.
    Replicas(DieId),
}

/// A resource with its figures and its use.
#[derive(Clone, Debug)]
pub struct Server {
    /// Which one.
    pub resource: Resource,
    /// Bytes per second.
    pub rate: f64,
    /// Seconds until the head of a message is through.
    pub latency: f64,
    /// When it is free.
    pub free: f64,
    /// Seconds reserved.
    pub busy: f64,
    /// Bytes carried.
    pub bytes: u64,
    /// Messages carried.
    pub messages: u64,
}

/// What a queue entry does.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Role {
    Send,
    Recv,
    Load,
    Store,
    AllReduce,
}

/// One instruction, as the simulator sees it.
#[derive(Clone, Copy, Debug)]
pub enum Step {
    Compute(Cost),
    Transfer {
        role: Role,
        bytes: u64,
        cost: Cost,
        /// Seconds that the compute engine gives to it.
        engine: f64,
    },
    Wait {
        queue: usize,
        count: u32,
    },
    /// Begins a loop of so many iterations (`any`: as many as assumed, unless it ends before) that ends at `end`.
    Loop {
        frame: Frame,
        end: usize,
    },
    /// Leaves the loop that ends at `end` when the assumed iterations are over.
    Exit {
        end: usize,
    },
    /// Ends an iteration of the loop at `start`.
    EndLoop {
        start: usize,
    },
    End,
}

/// What is known of a loop.
#[derive(Clone, Copy, Debug)]
pub struct Frame {
    /// Iterations that reach the end of the loop.
    pub trips: u64,
    /// Whether an `exit_unless` ends it, in one more iteration that does not reach the end.
    pub exits: bool,
    /// Whether nothing in it goes through a queue.
    pub local: bool,
    /// Whether its body runs too often to simulate all of it.
    pub long: bool,
}

/// A channel with its way and its ends.
#[derive(Clone, Debug)]
pub struct Way {
    pub source: usize,
    pub dest: usize,
    pub depth: usize,
    pub hops: Vec<u32>,
}

/// Everything that is fixed.
pub struct Model {
    pub streams: Vec<Vec<Step>>,
    /// How often each instruction runs.
    pub runs: Vec<Vec<u64>>,
    pub stream_of: Vec<usize>,
    pub entries: Vec<Vec<Option<Entry>>>,
    /// For each receive of each stream the send that passes on what it makes, where dies do that word by word.
    pub chains: Vec<Vec<Option<u32>>>,
    pub ways: Vec<Way>,
    /// Ways of loads and of stores, one a die.
    pub loads: Vec<Vec<u32>>,
    pub stores: Vec<Vec<u32>>,
    /// The chain through the replicas, one a die.
    pub chain_of: Vec<u32>,
    /// Rows and columns of the grid of replicas.
    pub grid: (usize, usize),
    /// The target, for what combinations take.
    pub target: Target,
    pub servers: Vec<Server>,
}

/// Servers by resource, made when first used.
struct Servers<'t> {
    target: &'t Target,
    index: BTreeMap<Resource, u32>,
    list: Vec<Server>,
}

impl Servers<'_> {
    fn get(&mut self, resource: Resource) -> u32 {
        if let Some(i) = self.index.get(&resource) {
            return *i;
        }
        let t = self.target;
        let (rate, latency) = match resource {
            Resource::Link(link) => (t.bandwidth_of(link), t.latency_of(link)),
            Resource::RampOut(_) | Resource::RampIn(_) => (t.ramp_bandwidth().unwrap_or(f64::INFINITY), 0.0),
            Resource::PortIn(_) | Resource::PortOut(_) => (t.port_bandwidth(), 0.0),
            Resource::HostIn | Resource::HostOut => (t.host_bandwidth(), t.host_latency()),
            // What a combination takes is not a matter of bytes alone: see `Target::all_reduce_time`.
            Resource::Replicas(_) => (f64::INFINITY, 0.0),
        };
        let latency = if latency.is_finite() { latency.max(0.0) } else { 0.0 };
        let i = self.list.len() as u32;
        self.list.push(Server { resource, rate, latency, free: 0.0, busy: 0.0, bytes: 0, messages: 0 });
        self.index.insert(resource, i);
        i
    }

    /// The way over these links, with the ramps at its ends where there are any.
    fn way(&mut self, source: DieId, dest: DieId, links: &[LinkId]) -> Vec<u32> {
        let ramps = self.target.ramp_bandwidth().is_some();
        let mut way = Vec::with_capacity(links.len() + 2);
        if ramps {
            way.push(self.get(Resource::RampOut(source)));
        }
        way.extend(links.iter().map(|l| self.get(Resource::Link(*l))));
        if ramps {
            way.push(self.get(Resource::RampIn(dest)));
        }
        way
    }
}

fn wrong(place: impl ToString, why: impl Into<String>) -> SimError {
    SimError::Program { place: place.to_string(), why: why.into() }
}

impl Model {
    /// Looks everything up once; whatever the program names and does not have is an error here. The options say how
    /// often loops without a number of trips run.
    pub fn new(program: &Program, options: SimOptions) -> Result<Model, SimError> {
        let target = &program.target;
        let sites = target.mesh.sites();
        if let Some(code) = program.dies.iter().find(|d| d.die.index() >= sites) {
            return Err(wrong(code.die, format!("the mesh has {sites} dies")));
        }
        let mut servers = Servers { target, index: BTreeMap::new(), list: Vec::new() };
        let (mut streams, mut runs, mut chains) = (Vec::new(), Vec::new(), Vec::new());
        for (s, stream) in program.streams.iter().enumerate() {
            let die = program.dies.iter().position(|d| d.stream.index() == s).unwrap_or(0);
            let loops = Loops::of(stream).map_err(|(i, why)| wrong(Place::new(program, die, i), why))?;
            let mut steps: Vec<Step> = stream.iter().enumerate().map(|(i, instr)| step(instr, loops.partner(i), program)).collect();
            runs.push(count_runs(&mut steps, options));
            streams.push(steps);
            chains.push(if target.streaming().is_some() { passed_on(stream) } else { vec![None; stream.len()] });
        }
        let mut model = Model {
            streams,
            runs,
            stream_of: Vec::new(),
            entries: Vec::new(),
            chains,
            ways: Vec::new(),
            loads: Vec::new(),
            stores: Vec::new(),
            chain_of: Vec::new(),
            grid: program.replicas.as_ref().map_or((1, 1), |r| (r.rows as usize, r.cols as usize)),
            target: target.clone(),
            servers: Vec::new(),
        };
        let router = target.router();
        for (d, code) in program.dies.iter().enumerate() {
            let stream = program.streams.get(code.stream.index()).ok_or_else(|| wrong(Place::new(program, d, 0), "it has no stream"))?;
            let entries = stream.iter().enumerate().map(|(i, instr)| {
                let entry = queues::entry(program, code, instr).map_err(|why| wrong(Place::new(program, d, i), why))?;
                let map = matches!(instr, Instr::Map { program: f, .. } if f.index() >= program.fused.len());
                if map { Err(wrong(Place::new(program, d, i), "there is no such fused program")) } else { Ok(entry) }
            });
            model.entries.push(entries.collect::<Result<_, _>>()?);
            model.stream_of.push(code.stream.index());
            let (load, store) = host_ways(target, &router, code.die, &mut servers);
            model.loads.push(load);
            model.stores.push(store);
            if program.replicas.is_some() {
                model.chain_of.push(servers.get(Resource::Replicas(code.die)));
            }
        }
        for (c, channel) in program.channels.iter().enumerate() {
            let find = |die| Deadlock::position(program, die).ok_or_else(|| wrong(format!("channel ch{c}"), "one of its ends has no code"));
            let (source, dest) = (find(channel.source)?, find(channel.dest)?);
            if let Some(link) = channel.route.iter().find(|l| target.mesh.link_ends(**l).is_none()) {
                return Err(wrong(format!("channel ch{c}"), format!("there is no link {link}")));
            }
            let hops = servers.way(channel.source, channel.dest, &channel.route);
            model.ways.push(Way { source, dest, depth: channel.depth.max(1) as usize, hops });
        }
        model.servers = servers.list;
        Ok(model)
    }
}

/// From the host to the die and back, through the nearest port. A die that no port reaches pays the host alone.
fn host_ways(target: &Target, router: &Router<'_>, die: DieId, servers: &mut Servers<'_>) -> (Vec<u32>, Vec<u32>) {
    let port = target.nearest_port(die);
    let mut load = vec![servers.get(Resource::HostIn)];
    let mut store = Vec::new();
    let ramps = target.ramp_bandwidth().is_some();
    if let Some(port) = port {
        if ramps {
            store.push(servers.get(Resource::RampOut(die)));
        }
        load.push(servers.get(Resource::PortIn(port)));
        load.extend(router.route(port, die).unwrap_or_default().into_iter().map(|l| servers.get(Resource::Link(l))));
        store.extend(router.route(die, port).unwrap_or_default().into_iter().map(|l| servers.get(Resource::Link(l))));
        store.push(servers.get(Resource::PortOut(port)));
        if ramps {
            load.push(servers.get(Resource::RampIn(die)));
        }
    }
    store.push(servers.get(Resource::HostOut));
    (load, store)
}

/// How often each step runs; completes the frames on the way.
fn count_runs(steps: &mut [Step], options: SimOptions) -> Vec<u64> {
    let mut runs = vec![1u64; steps.len()];
    // Of the open loops: runs of the body's first part (before an exit), and of the rest.
    let mut open: Vec<(u64, u64)> = Vec::new();
    for i in 0..steps.len() {
        let now = open.last().map_or(1, |o| o.1);
        runs[i] = now;
        match steps[i] {
            Step::Loop { frame, end } => {
                let body = &steps[i + 1..end];
                let mut depth = 0;
                let exits = body.iter().any(|s| {
                    match s {
                        Step::Loop { .. } => depth += 1,
                        Step::EndLoop { .. } => depth -= 1,
                        _ => {}
                    }
                    depth == 0 && matches!(s, Step::Exit { .. })
                });
                let local = !body.iter().any(|s| matches!(s, Step::Transfer { .. } | Step::Wait { .. }));
                let trips = if frame.exits { options.while_iterations } else { frame.trips };
                let full = now.saturating_mul(trips);
                let frame = Frame { trips, exits, local, long: full > options.real };
                steps[i] = Step::Loop { frame, end };
                open.push((full, if exits { full.saturating_add(now) } else { full }));
            }
            Step::Exit { .. } => {
                if let Some(o) = open.last_mut() {
                    o.1 = o.0;
                }
            }
            Step::EndLoop { .. } => {
                open.pop();
            }
            _ => {}
        }
    }
    runs
}

fn step(instr: &Instr, partner: Option<usize>, program: &Program) -> Step {
    if let Some(partner) = partner {
        // `exits` says here that the trips are to be assumed.
        let frame = |trips: Option<u64>| Frame { trips: trips.unwrap_or(0), exits: trips.is_none(), local: false, long: false };
        return match instr {
            Instr::Loop { trips, .. } => Step::Loop { frame: frame(*trips), end: partner },
            Instr::ExitUnless { .. } => Step::Exit { end: partner },
            _ => Step::EndLoop { start: partner },
        };
    }
    let role = match instr {
        Instr::Send { .. } => Role::Send,
        Instr::Recv { .. } | Instr::RecvAdd { .. } => Role::Recv,
        Instr::Load { .. } => Role::Load,
        Instr::Store { .. } => Role::Store,
        Instr::AllReduce { .. } => Role::AllReduce,
        Instr::Wait { queue, count } => return Step::Wait { queue: queues::slot(*queue), count: *count },
        Instr::End => return Step::End,
        other => return Step::Compute(cost::cost(other, program, &program.target)),
    };
    let cost = cost::cost(instr, program, &program.target);
    let region = instr.writes().first().copied().or(instr.reads().first().copied()).cloned();
    let bytes = region.map_or(0, |r| r.dims.iter().fold(r.dtype.size() as u64, |n, d| n.saturating_mul(*d as u64)));
    let target = &program.target;
    let rate = target.ramp_bandwidth().unwrap_or(target.link_bandwidth());
    // What comes in goes through beside what goes out.
    let engine = if target.link.on_engine && role == Role::Send { cost::seconds(bytes as f64, rate) } else { 0.0 };
    Step::Transfer { role, bytes, cost, engine }
}

/// How far behind a receive its send is looked for.
const PASSED_ON: usize = 24;

/// For each receive the send of what it makes, when nothing between them uses that. A send of what was there before ends the search: a stream that
/// first sends what it has moves data on in steps, and waits for all of it.
fn passed_on(stream: &[Instr]) -> Vec<Option<u32>> {
    let next = |i: usize| {
        let out = match &stream[i] {
            Instr::RecvAdd { out, .. } | Instr::Recv { out, .. } => out,
            _ => return None,
        };
        let own = out.extent()?;
        for (j, instr) in stream.iter().enumerate().skip(i + 1).take(PASSED_ON) {
            if matches!(instr, Instr::Loop { .. } | Instr::ExitUnless { .. } | Instr::EndLoop) {
                return None;
            }
            if matches!(instr, Instr::Send { region, .. } if region == out) {
                return Some(j as u32);
            }
            let fresh = |region: &Region| stream[i.saturating_sub(4)..j].iter().any(|s| s.is_async() && s.writes().contains(&region));
            if matches!(instr, Instr::Send { region, .. } if !fresh(region)) {
                return None;
            }
            let meets = |r: &&Region| r.extent().is_none_or(|e| e.start < own.end && own.start < e.end);
            if instr.reads().iter().chain(&instr.writes()).any(meets) {
                return None;
            }
        }
        None
    };
    (0..stream.len()).map(next).collect()
}

/// Whether the queue at this position receives.
pub fn receives(slot: usize) -> bool {
    matches!(queues::queue(slot), Queue::In(_))
}
