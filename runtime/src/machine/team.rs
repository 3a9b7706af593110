//! Host mode: one die, a team of threads.
//!
//! The threads walk the same stream. Large instructions are cut into one part a thread; small ones run on the first thread while the
//! others go on to what they have to do next; barriers stand only where one thread's work would touch another's
//! ([`Timetable`](super::sram::Timetable)). There are no channels, so loads and stores happen where they are issued and waits have nothing to
//! wait for. A loop of small instructions belongs to the first thread alone; the threads walk through every other loop together.

use super::barrier::Barrier;
use super::beside;
use super::clock::{Clock, timed};
use super::execute::{self, Bench};
use super::hosts::Hosts;
use super::loops::Loops;
use super::place::Place;
use super::split::split;
use super::sram::{Access, Lease, Sram, Timetable};
use super::strided;
use super::task::{self, Programs, Task, Work};
use super::views::{self, Line, Motion};
use super::weave::Woven;
use crate::error::RuntimeError;
use crate::session::CancelToken;
use girih_ir::axes::Box as Part;
use girih_ir::program::{Instr, Program, Region};
use girih_ir::types::Layout;
use girih_kernels::Isa;
use smallvec::SmallVec;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Mutex, PoisonError};

/// Threads that live as long as a session.
#[derive(Debug)]
pub struct Team {
    threads: usize,
    pool: Option<rayon::ThreadPool>,
    barrier: Barrier,
}

impl Team {
    /// Starts the threads; the only thread of a team of one is the caller.
    pub fn new(threads: usize) -> Result<Self, RuntimeError> {
        let threads = threads.max(1);
        let build = || rayon::ThreadPoolBuilder::new().num_threads(threads).thread_name(|i| format!("girih-{i}")).build();
        let pool = if threads == 1 { None } else { Some(build().map_err(|e| RuntimeError::Threads { threads, why: e.to_string() })?) };
        Ok(Team { threads, pool, barrier: Barrier::new(threads) })
    }

    /// Members.
    pub fn threads(&self) -> usize {
        self.threads
    }

    /// Where all members meet.
    pub fn barrier(&self) -> &Barrier {
        &self.barrier
    }

    /// Runs `f(thread)` once on every thread, at the same time, and returns when all have.
    pub fn broadcast(&self, f: &(dyn Fn(usize) + Sync)) {
        match &self.pool {
            None => f(0),
            Some(pool) => {
                pool.broadcast(|context| f(context.index()));
            }
        }
    }
}

/// What one part of one instruction does.
enum Job {
    Task(Task),
    /// Packs the right operand of the products of a loop.
    Pack {
        slot: usize,
        operand: task::Packable,
    },
    Load {
        host: usize,
        part: Part,
        layout: Layout,
        size: usize,
    },
    Store {
        host: usize,
        part: Part,
        layout: Layout,
        size: usize,
    },
}

/// The instruction of each thread, or of all.
type Indices = SmallVec<[u32; 2]>;

/// One die made ready for a team.
pub struct HostMachine {
    sram: Sram,
    table: Timetable,
    /// For every row of the timetable: the instruction and its parts, or instructions beside each other.
    rows: Vec<(Indices, SmallVec<[Job; 2]>)>,
    benches: Vec<Mutex<Bench>>,
    isa: Isa,
    /// Operands that are packed before a loop.
    packed: usize,
    /// The die and instruction that each instruction is of, when the stream was woven from those of several dies.
    origin: Vec<(u32, u32)>,
}

impl HostMachine {
    /// Prepares the stream of the program's only die.
    pub fn new(program: &Program, team: &Team, isa: Isa) -> Result<Self, RuntimeError> {
        HostMachine::of(program, team, isa, false)
    }

    /// `beside`: whole instructions may run beside each other.
    fn of(program: &Program, team: &Team, isa: Isa, beside: bool) -> Result<Self, RuntimeError> {
        let code = &program.dies[0];
        let sram_used = usize::try_from(code.sram_used).unwrap_or(usize::MAX);
        let mut machine = HostMachine {
            sram: Sram::new(sram_used),
            table: Timetable::new(team.threads()),
            rows: Vec::new(),
            benches: (0..team.threads()).map(|_| Mutex::new(Bench::new())).collect(),
            isa,
            packed: 0,
            origin: Vec::new(),
        };
        let mut programs = Programs::default();
        let stream = program.streams.get(code.stream.index()).map_or(&[][..], Vec::as_slice);
        let bad = |index, why| RuntimeError::Program { place: Place::new(program, 0, index).to_string(), why };
        let loops = Loops::of(stream).map_err(|(index, why)| bad(index, why))?;
        let state: Vec<Region> = program.state.iter().flatten().map(|shard| shard.region.clone()).collect();
        let lines = views::views(program, stream, &loops, &state);
        let cuts: Vec<Vec<Instr>> = lines.iter().map(|line| split(&line.instr, program, team.threads())).collect();
        // Operands that a loop packed, by line and part.
        let mut packs: Vec<SmallVec<[usize; 2]>> = vec![SmallVec::new(); lines.len()];
        for group in beside::groups(&lines, program, if beside { team.threads() } else { 1 }) {
            let packed = group.iter().any(|i| !packs[*i].is_empty());
            if group.len() > 1 && !packed && machine.push_group(&group, &lines, program, &mut programs).map_err(|(i, why)| bad(i, why))? {
                continue;
            }
            for index in group {
                let line = &lines[index];
                if line.instr.is_fence() {
                    if let (Instr::Loop { .. }, Some(end)) = (&line.instr, loops.partner(index)) {
                        for i in views::repeated_products(&lines, index, end) {
                            packs[i] = machine.pack(i, &cuts[i], &lines[i].motion, program).map_err(|why| bad(i, why))?;
                        }
                    }
                    let solo = loops.partner(index).is_none_or(|end| cuts[index.min(end)..index.max(end)].iter().all(|c| c.len() == 1));
                    machine.control(index, &line.instr, solo).map_err(|why| bad(index, why))?;
                    continue;
                }
                let (parts, one) = (&cuts[index], std::slice::from_ref(&line.instr));
                let mut push = |parts: &[Instr]| machine.push(index, (parts, &line.motion, &packs[index]), program, &mut programs);
                if !push(parts).map_err(|why| bad(index, why))? {
                    push(one).map_err(|why| bad(index, why))?;
                }
            }
        }
        Ok(machine)
    }

    /// Prepares the stream that was woven from those of several dies.
    pub fn woven(woven: Woven, team: &Team, isa: Isa) -> Result<Self, RuntimeError> {
        let machine = HostMachine::of(&woven.program, team, isa, true)?;
        Ok(HostMachine { origin: woven.origin, ..machine })
    }

    /// Adds the packing of the right operand of a product, part by part: each thread packs what its part will need. Returns the places of
    /// what is packed; none when the parts would not be in the form for it.
    fn pack(&mut self, index: usize, parts: &[Instr], motion: &Motion, program: &Program) -> Result<SmallVec<[usize; 2]>, String> {
        let (mut jobs, mut leases, mut slots) = (SmallVec::new(), SmallVec::new(), SmallVec::new());
        for part in parts {
            let Some(task) = task::prepare(part, motion, program, &mut Programs::default())? else { return Ok(SmallVec::new()) };
            let (Some(operand), Instr::Gemm { b, .. }) = (task.packable(self.isa), part) else { return Ok(SmallVec::new()) };
            leases.push(Lease::new(&[task::extent(b)?], &[], &[]).ok_or("its operand is empty")?);
            slots.push(self.packed + slots.len());
            jobs.push(Job::Pack { slot: self.packed + jobs.len(), operand });
        }
        if self.table.push(leases).is_err() {
            return Ok(SmallVec::new());
        }
        self.rows.push((SmallVec::from_elem(index as u32, 1), jobs));
        self.packed += slots.len();
        Ok(slots)
    }

    /// Adds a `loop`, `exit_unless` or `end_loop`. `solo`: no instruction of the loop has two parts.
    fn control(&mut self, index: usize, instr: &Instr, solo: bool) -> Result<(), String> {
        let rows = match instr {
            Instr::Loop { trips, index, .. } => {
                let number = index.as_ref().map(|r| lease_of(r, true)).transpose()?;
                self.table.begin_loop(*trips, number, solo)
            }
            Instr::ExitUnless { predicate } => {
                let fits = self.table.exit_unless(lease_of(predicate, false)?);
                fits.then_some(1).ok_or("it is in no loop")?
            }
            _ => self.table.end_loop().then_some(1).ok_or("no loop is open here")?,
        };
        self.rows.extend((0..rows).map(|_| (SmallVec::from_elem(index as u32, 1), SmallVec::new())));
        Ok(())
    }

    /// Adds the parts of an instruction; `false` when they would be in each other's way.
    fn push(
        &mut self,
        index: usize,
        (parts, motion, packs): (&[Instr], &Motion, &[usize]),
        program: &Program,
        programs: &mut Programs,
    ) -> Result<bool, String> {
        let (mut jobs, mut leases) = (SmallVec::new(), SmallVec::new());
        for (t, part) in parts.iter().enumerate() {
            let Some((mut job, lease)) = job(part, motion, program, programs)? else { return Ok(true) };
            if let (Job::Task(task), Some(slot), true) = (&mut job, packs.get(t), packs.len() == parts.len())
                && let Work::Gemm(gemm) = &task.work
            {
                task.work = Work::GemmPacked(task::squeezed(gemm), *slot);
            }
            leases.push(lease);
            jobs.push(job);
        }
        if self.table.push(leases).is_err() {
            return if parts.len() > 1 { Ok(false) } else { Err("its part does not fit the team".into()) };
        }
        self.rows.push((SmallVec::from_elem(index as u32, 1), jobs));
        Ok(true)
    }

    /// Adds whole instructions, one a thread; `false` when they would be in each other's way, or are nothing to do.
    fn push_group(&mut self, group: &[usize], lines: &[Line], program: &Program, programs: &mut Programs) -> Result<bool, (usize, String)> {
        let (mut jobs, mut leases) = (SmallVec::new(), SmallVec::new());
        for i in group {
            let Some((job, lease)) = job(&lines[*i].instr, &lines[*i].motion, program, programs).map_err(|why| (*i, why))? else {
                return Ok(false);
            };
            leases.push(lease);
            jobs.push(job);
        }
        let fits = self.table.push(leases).is_ok();
        if fits {
            self.rows.push((group.iter().map(|i| *i as u32).collect(), jobs));
        }
        Ok(fits)
    }

    /// The SRAM.
    pub fn sram(&mut self) -> &mut Sram {
        &mut self.sram
    }

    /// The SRAM, for reading.
    pub fn peek(&self) -> &Sram {
        &self.sram
    }

    /// Barriers of a step.
    pub fn barriers(&self) -> usize {
        self.table.barriers()
    }

    /// Runs the step once. `cancel` ends loops without a number of trips; `clock` takes the time of every part.
    pub fn step(
        &mut self,
        program: &Program,
        team: &Team,
        hosts: &Hosts,
        cancel: &CancelToken,
        clock: Option<&Clock>,
    ) -> Result<(), RuntimeError> {
        let failure: Mutex<Option<RuntimeError>> = Mutex::new(None);
        let fail = |e| {
            failure.lock().unwrap_or_else(PoisonError::into_inner).get_or_insert(e);
            false
        };
        let (rows, benches, isa, origin) = (&self.rows, &self.benches, self.isa, &self.origin);
        let run = |thread: usize, row: usize, access: Access<'_>| {
            let (indices, jobs) = &rows[row];
            let (die, at) = place_of(origin, indices[thread.min(indices.len() - 1)]);
            let place = || Place::new(program, die, at).to_string();
            let mut bench = benches[thread].lock().unwrap_or_else(PoisonError::into_inner);
            let work = || catch_unwind(AssertUnwindSafe(|| run_job(&jobs[thread], access, hosts, isa, &mut bench)));
            let done = timed(clock.map(|c| (c, thread)), die, at, work);
            match done {
                Ok(Ok(())) => true,
                Ok(Err(Trouble::Kernel(source))) => fail(RuntimeError::Instruction { place: place(), source }),
                Ok(Err(Trouble::Host)) => {
                    fail(RuntimeError::Program { place: place(), why: "its part does not fit the host tensor".into() })
                }
                Err(panic) => fail(RuntimeError::Panicked { place: place(), message: super::panic_message(&*panic) }),
            }
        };
        let again = |row: usize| {
            let (die, at) = place_of(origin, rows[row].0[0]);
            let place = || Place::new(program, die, at).to_string();
            !cancel.is_cancelled() || fail(RuntimeError::Interrupted { place: place() })
        };
        if !self.table.play(&mut self.sram, team, &run, &again) {
            let place = Place::new(program, 0, 0).to_string();
            return Err(RuntimeError::Program { place, why: "a region lies above `sram_used`".into() });
        }
        failure.into_inner().unwrap_or_else(PoisonError::into_inner).map_or(Ok(()), Err)
    }
}

impl std::fmt::Debug for HostMachine {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "HostMachine({} instructions, {} barriers, {:?})", self.rows.len(), self.barriers(), self.sram)
    }
}

/// The die and the instruction that an instruction is of.
fn place_of(origin: &[(u32, u32)], index: u32) -> (usize, usize) {
    origin.get(index as usize).map_or((0, index as usize), |(die, i)| (*die as usize, *i as usize))
}

/// The lease of the one region of a loop's instruction.
fn lease_of(region: &Region, write: bool) -> Result<Lease, String> {
    let bytes = [task::extent(region)?];
    let lease = if write { Lease::new(&[], &bytes, &[]) } else { Lease::new(&bytes, &[], &[]) };
    lease.ok_or_else(|| "its region is empty".into())
}

fn job(instr: &Instr, motion: &Motion, program: &Program, programs: &mut Programs) -> Result<Option<(Job, Lease)>, String> {
    Ok(match instr {
        Instr::Load { host, part, out } => {
            let bytes = task::extent(out)?;
            let layout = out.layout(bytes.start as u64);
            let lease = Lease::new(&[], &[bytes], &[]).ok_or("its region is empty")?;
            Some((Job::Load { host: host.index(), part: part.clone(), layout, size: out.dtype.size() }, lease))
        }
        Instr::Store { host, part, region } => {
            let bytes = task::extent(region)?;
            let layout = region.layout(bytes.start as u64);
            let lease = Lease::new(&[bytes], &[], &[]).ok_or("its region is empty")?;
            Some((Job::Store { host: host.index(), part: part.clone(), layout, size: region.dtype.size() }, lease))
        }
        Instr::Send { .. } | Instr::Recv { .. } | Instr::RecvAdd { .. } => return Err("the host has no channels".into()),
        other => task::prepare(other, motion, program, programs)?.map(|t| {
            let lease = t.lease.clone();
            (Job::Task(t), lease)
        }),
    })
}

enum Trouble {
    Kernel(girih_kernels::KernelError),
    Host,
}

fn run_job(job: &Job, mut access: Access<'_>, hosts: &Hosts, isa: Isa, bench: &mut Bench) -> Result<(), Trouble> {
    match job {
        Job::Task(task) => execute::run(task, access, isa, bench).map_err(Trouble::Kernel),
        Job::Pack { slot, operand } => execute::pack(*slot, operand, access.views().reads[0], isa, bench).map_err(Trouble::Kernel),
        Job::Load { host, part, layout, size } => {
            let loaded = hosts
                .load(*host, part, |from, from_layout| strided::copy(*size, from, from_layout, &mut *access.views().writes[0], layout));
            if loaded == Some(true) { Ok(()) } else { Err(Trouble::Host) }
        }
        Job::Store { host, part, layout, size } => {
            let stored = hosts.store(*host, part, |to, to_layout| strided::copy(*size, access.views().reads[0], layout, to, to_layout));
            if stored == Some(true) { Ok(()) } else { Err(Trouble::Host) }
        }
    }
}
