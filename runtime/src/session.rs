//! Sessions: a program in memory, with its state, ready to run step after step.
//!
//! State lives in the SRAM of the dies and is updated there, or in host memory, from where the step loads it and where it stores it anew; a
//! session reads and writes it only between steps. **A step either
//! completes or loses the state:** errors that are found before anything runs (missing or ill-typed inputs, unset state, cancellation) leave it
//! as it was; after an error in the middle the session refuses to go on until all of it was set again, from a checkpoint for example.

use crate::error::RuntimeError;
use crate::machine::{self, Clock, HostMachine, Hosts, MeshMachine, Span, Sram, Team};
use girih_ir::check::Verified;
use girih_ir::literal::Literal;
use girih_ir::program::{HostTensor, HostUse, Program, StateShard};
use girih_ir::step::Weights;
use girih_ir::tensor::Tensor;
use girih_ir::types::TensorType;
use girih_kernels::Isa;
use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

/// Who did what when in one step.
#[derive(Clone, PartialEq, Debug)]
pub struct Profile {
    /// The parts of all instructions, thread by thread. The gaps of a thread are waiting.
    pub spans: Vec<Span>,
    /// Nanoseconds of the whole step.
    pub wall: u64,
}

/// Values by name: the inputs of a step.
pub type Inputs = BTreeMap<String, Literal>;

/// How a session runs. No choice changes a result.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct RuntimeOptions {
    /// Worker threads; 0 takes one a core.
    pub threads: usize,
    /// Instruction set of the kernels; `None` takes the widest.
    pub isa: Option<Isa>,
}

/// Stops a run between two steps, or in a loop whose end the data decide, from any thread.
#[derive(Clone, Debug, Default)]
pub struct CancelToken(Arc<AtomicBool>);

impl CancelToken {
    /// A token that is not set.
    pub fn new() -> Self {
        CancelToken::default()
    }
    /// Asks the run to stop before its next step, and loops without a number of trips to stop before their next iteration.
    pub fn cancel(&self) {
        self.0.store(true, Ordering::SeqCst);
    }
    /// Whether somebody asked.
    pub fn is_cancelled(&self) -> bool {
        self.0.load(Ordering::SeqCst)
    }
}

#[derive(Debug)]
enum Machine {
    Host(HostMachine),
    Mesh(MeshMachine),
}

/// A program in memory.
#[derive(Debug)]
pub struct Session {
    program: Program,
    team: Team,
    machine: Machine,
    /// Where the state lies in the machine.
    shards: Vec<Vec<StateShard>>,
    /// The host tensors of the program, of all replicas together.
    tensors: Vec<HostTensor>,
    hosts: Hosts,
    /// Which state has a value, by position.
    set: Vec<bool>,
    /// Whether a step failed in the middle since all state was set.
    lost: bool,
}

/// The outputs of the last step.
#[derive(Clone, Copy, Debug)]
pub struct Outputs<'s> {
    session: &'s Session,
}

/// One finished step of [`Session::run_steps`].
#[derive(Clone, Copy, Debug)]
pub struct Progress<'s> {
    /// The step's number.
    pub step: u64,
    /// Its outputs.
    pub outputs: Outputs<'s>,
    /// How long it took.
    pub time: Duration,
}

impl Session {
    /// Takes memory for the dies of the program and makes its instructions ready.
    pub fn new(program: Verified<Program>, options: RuntimeOptions) -> Result<Self, RuntimeError> {
        Session::of(program.into_inner(), options)
    }

    /// A session that runs each die by itself, and brings every message from memory to memory. It gives the same bits as one made by
    /// [`new`](Self::new).
    pub fn die_by_die(program: Verified<Program>, options: RuntimeOptions) -> Result<Self, RuntimeError> {
        Session::with(program.into_inner(), options, false)
    }

    /// A session of a program that need not have passed the checker: wrong programs give wrong results or errors, never undefined behavior.
    pub(crate) fn of(program: Program, options: RuntimeOptions) -> Result<Self, RuntimeError> {
        Session::with(program, options, true)
    }

    /// `together`: the streams of several dies are woven into one if that is possible.
    pub(crate) fn with(program: Program, options: RuntimeOptions, together: bool) -> Result<Self, RuntimeError> {
        let cores = || std::thread::available_parallelism().map_or(1, std::num::NonZeroUsize::get);
        let threads = if options.threads == 0 { cores() } else { options.threads };
        let isa = options.isa.unwrap_or_else(Isa::detect).usable();
        let dies = program.dies.len() * program.replica_count();
        let alone = dies == 1 && program.channels.is_empty();
        let woven = if together && !alone { machine::weave(&program) } else { None };
        let team = Team::new(if alone || woven.is_some() { threads } else { threads.min(dies) })?;
        let mut shards = program.state.clone();
        let mut machine = None;
        if let Some(woven) = woven {
            let kept = woven.program.state.clone();
            // What does not fit the team runs die by die.
            if let Ok(host) = HostMachine::woven(woven, &team, isa) {
                shards = kept;
                machine = Some(Machine::Host(host));
            }
        }
        let machine = match machine {
            Some(machine) => machine,
            None if alone => Machine::Host(HostMachine::new(&program, &team, isa)?),
            None => Machine::Mesh(MeshMachine::new(&program, &team, isa)?),
        };
        let whole = |h: &HostTensor| HostTensor { ty: program.host_type(h.usage, &h.ty), ..h.clone() };
        let tensors: Vec<HostTensor> = program.host.iter().map(whole).collect();
        let hosts = Hosts::new(&tensors, &program.stored());
        let set = vec![false; program.step.state.len()];
        Ok(Session { program, team, machine, shards, tensors, hosts, set, lost: false })
    }

    /// The program.
    pub fn program(&self) -> &Program {
        &self.program
    }

    /// Threads that share the work.
    pub fn threads(&self) -> usize {
        self.team.threads()
    }

    /// Whether the streams of all dies run as one.
    pub fn is_woven(&self) -> bool {
        self.program.dies.len() > 1 && matches!(self.machine, Machine::Host(_))
    }

    /// Names and types of the tensors that every step needs.
    pub fn inputs(&self) -> Vec<(&str, &TensorType)> {
        let inputs = self.tensors.iter().filter(|h| matches!(h.usage, HostUse::Input(_)));
        inputs.map(|h| (h.name.as_str(), &h.ty)).collect()
    }

    /// Names and types of what is carried from step to step, in program order.
    pub fn states(&self) -> Vec<(&str, &TensorType)> {
        let step = &self.program.step;
        step.state.iter().map(|p| (p.name.as_str(), step.state_type(p))).collect()
    }

    fn state_index(&self, name: &str) -> Result<usize, RuntimeError> {
        let found = self.program.step.state.iter().position(|p| p.name == name);
        found.ok_or_else(|| unknown("state", name, self.states().iter().map(|s| s.0)))
    }

    /// Gives a state its value: every shard and every replica of it.
    pub fn set_state(&mut self, name: &str, value: &Literal) -> Result<(), RuntimeError> {
        let index = self.state_index(name)?;
        let expected = self.program.step.state_type(&self.program.step.state[index]).clone();
        same_type("state", name, value.ty(), &expected)?;
        if let Some(host) = self.program.streamed(index) {
            shard_fits(Some(self.hosts.set_state(host.index(), value.bytes())), name)?;
        }
        for k in 0..self.shards(index).len() {
            let shard = self.shards(index)[k].clone();
            let layout = machine::part_of(&expected.shape, &shard.part);
            let size = expected.dtype.size();
            let write = |sram: &mut Sram| {
                let region = shard.region.layout(0);
                machine::copy(size, value.bytes(), &layout, sram.bytes_mut(), &region)
            };
            let written = match &mut self.machine {
                Machine::Host(m) => Some(write(m.sram())),
                Machine::Mesh(m) => {
                    let dies = self.program.dies.len();
                    let all = (0..self.program.replica_count()).map(|r| m.sram(r * dies + shard.die as usize, write));
                    all.reduce(|a, b| if a == Some(true) { b } else { a }).flatten()
                }
            };
            shard_fits(written, name)?;
        }
        self.set[index] = true;
        self.lost &= !self.set.iter().all(|s| *s);
        Ok(())
    }

    /// The value of a state, gathered from its shards.
    pub fn state(&self, name: &str) -> Result<Literal, RuntimeError> {
        let index = self.state_index(name)?;
        let ty = self.program.step.state_type(&self.program.step.state[index]);
        if !self.set[index] {
            return Err(self.unset(name, ty));
        }
        if let Some(bytes) = self.program.streamed(index).and_then(|host| self.hosts.bytes(host.index())) {
            return Literal::new(ty.clone(), bytes)
                .map_err(|e| RuntimeError::Program { place: format!("state `{name}`"), why: e.to_string() });
        }
        let mut bytes = vec![0u8; ty.bytes()];
        for shard in self.shards(index) {
            let layout = machine::part_of(&ty.shape, &shard.part);
            let mut read = |sram: &Sram| machine::copy(ty.dtype.size(), sram.bytes(), &shard.region.layout(0), &mut bytes, &layout);
            let read = match &self.machine {
                Machine::Host(m) => Some(read(m.peek())),
                Machine::Mesh(m) => m.peek(shard.die as usize, read),
            };
            shard_fits(read, name)?;
        }
        Ok(Literal::new(ty.clone(), bytes).expect("the buffer was made for the type"))
    }

    fn shards(&self, index: usize) -> &[StateShard] {
        self.shards.get(index).map_or(&[], Vec::as_slice)
    }

    fn unset(&self, name: &str, expected: &TensorType) -> RuntimeError {
        if self.lost {
            return RuntimeError::StateLost;
        }
        RuntimeError::MissingState { name: name.to_string(), expected: expected.clone() }
    }

    /// Gives every state its value. More values than needed are fine.
    pub fn init(&mut self, values: &Weights) -> Result<(), RuntimeError> {
        let step = &self.program.step;
        for pair in &step.state {
            let expected = step.state_type(pair);
            match values.get(&pair.name) {
                Some(value) => same_type("state", &pair.name, value.ty(), expected)?,
                None => return Err(RuntimeError::MissingState { name: pair.name.clone(), expected: expected.clone() }),
            }
        }
        let names: Vec<String> = step.state.iter().map(|p| p.name.clone()).collect();
        names.iter().try_for_each(|name| self.set_state(name, &values[name]))
    }

    /// Every state by name.
    pub fn all_state(&self) -> Result<Weights, RuntimeError> {
        self.states().into_iter().map(|(name, _)| Ok((name.to_string(), self.state(name)?))).collect()
    }

    /// Runs the step once on a batch.
    pub fn step(&mut self, inputs: &Inputs) -> Result<Outputs<'_>, RuntimeError> {
        self.step_until(inputs, &CancelToken::new())
    }

    /// Runs the step once on a batch, like [`step`](Self::step), but gives up when the token is set while the program is in a loop that
    /// runs until its data say so: such a loop may have no end.
    ///
    /// # Errors
    /// [`RuntimeError::Interrupted`]: as after any error in the middle of a step, the state has to be set again.
    pub fn step_until(&mut self, inputs: &Inputs, cancel: &CancelToken) -> Result<Outputs<'_>, RuntimeError> {
        self.start(inputs)?;
        self.execute(cancel, None)?;
        Ok(Outputs { session: self })
    }

    /// Runs the step once and takes the time of every instruction on every thread. The outputs are those of [`step`](Self::step).
    pub fn profile(&mut self, inputs: &Inputs) -> Result<Profile, RuntimeError> {
        self.start(inputs)?;
        let clock = Clock::new(self.team.threads());
        self.execute(&CancelToken::new(), Some(&clock))?;
        let (spans, wall) = clock.stop();
        Ok(Profile { spans, wall })
    }

    /// Checks that the step can begin, and takes the inputs.
    fn start(&mut self, inputs: &Inputs) -> Result<(), RuntimeError> {
        if let Some(index) = self.set.iter().position(|s| !s) {
            let pair = &self.program.step.state[index];
            return Err(self.unset(&pair.name, self.program.step.state_type(pair)));
        }
        self.check_inputs(inputs)?;
        for (index, host) in self.program.host.iter().enumerate() {
            if matches!(host.usage, HostUse::Input(_)) {
                self.hosts.set(index, inputs.get(&host.name).cloned());
            }
        }
        Ok(())
    }

    fn execute(&mut self, cancel: &CancelToken, clock: Option<&Clock>) -> Result<(), RuntimeError> {
        let ran = match &mut self.machine {
            Machine::Host(m) => m.step(&self.program, &self.team, &self.hosts, cancel, clock),
            Machine::Mesh(m) => m.step(&self.program, &self.team, &self.hosts, cancel, clock),
        };
        if ran.is_ok() {
            self.hosts.commit();
        } else {
            self.set.iter_mut().for_each(|s| *s = false);
            self.lost = !self.set.is_empty();
        }
        ran
    }

    fn check_inputs(&self, inputs: &Inputs) -> Result<(), RuntimeError> {
        let graph = &self.program.step.graph;
        for (name, value) in inputs {
            let hosted = self.tensors.iter().find(|h| matches!(h.usage, HostUse::Input(_)) && h.name == *name).map(|h| h.ty.clone());
            let expected = hosted.or_else(|| {
                let unused = self.program.step.data_inputs().into_iter().map(|i| &graph.inputs[i]).find(|i| i.name == *name);
                unused.map(|i| {
                    let position = graph.inputs.iter().position(|x| x.value == i.value).unwrap_or_default();
                    self.program.host_type(HostUse::Input(position as u32), graph.tensor_ty(i.value))
                })
            });
            let expected = expected.ok_or_else(|| unknown("input", name, self.inputs().iter().map(|i| i.0)))?;
            same_type("input", name, value.ty(), &expected)?;
        }
        match self.inputs().into_iter().find(|(name, _)| !inputs.contains_key(*name)) {
            Some((name, ty)) => Err(RuntimeError::MissingInput { name: name.to_string(), expected: ty.clone() }),
            None => Ok(()),
        }
    }

    /// Runs the step once and returns all outputs by name: for inference.
    pub fn run(&mut self, inputs: &Inputs) -> Result<BTreeMap<String, Literal>, RuntimeError> {
        let outputs = self.step(inputs)?;
        Ok(outputs.names().into_iter().filter_map(|n| Some((n.to_string(), outputs.get(n)?))).collect())
    }

    /// Runs one step a batch, numbered from `first`, until the batches end. `progress` sees every step. Returns the number of the step that
    /// would come next.
    ///
    /// # Errors
    /// [`RuntimeError::Cancelled`] when the token was set: the state is then that after the last step that `progress` saw.
    /// [`RuntimeError::Interrupted`] when it was set while a step was in a loop without a number of trips: the state is then lost.
    pub fn run_steps(
        &mut self,
        first: u64,
        batches: impl IntoIterator<Item = Result<Inputs, RuntimeError>>,
        cancel: &CancelToken,
        progress: &mut dyn FnMut(Progress<'_>),
    ) -> Result<u64, RuntimeError> {
        let mut step = first;
        for batch in batches {
            if cancel.is_cancelled() {
                return Err(RuntimeError::Cancelled { step });
            }
            let batch = batch?;
            let start = Instant::now();
            let outputs = self.step_until(&batch, cancel)?;
            progress(Progress { step, outputs, time: start.elapsed() });
            step += 1;
        }
        Ok(step)
    }
}

fn unknown<'a>(what: &'static str, name: &str, known: impl Iterator<Item = &'a str>) -> RuntimeError {
    let mut list: Vec<String> = known.take(9).map(|n| format!("`{n}`")).collect();
    if list.len() == 9 {
        list[8] = "…".into();
    }
    let known = if list.is_empty() { "none".into() } else { list.join(", ") };
    RuntimeError::Unknown { what, name: name.to_string(), known }
}

fn same_type(what: &'static str, name: &str, got: &TensorType, expected: &TensorType) -> Result<(), RuntimeError> {
    if got == expected {
        return Ok(());
    }
    Err(RuntimeError::WrongType { what, name: name.to_string(), got: got.clone(), expected: expected.clone() })
}

fn shard_fits(done: Option<bool>, name: &str) -> Result<(), RuntimeError> {
    match done {
        Some(true) => Ok(()),
        _ => Err(RuntimeError::Program { place: format!("state `{name}`"), why: "a shard does not lie in the memory of its die".into() }),
    }
}

impl Outputs<'_> {
    fn find(&self, name: &str) -> Option<usize> {
        let hosts = &self.session.program.host;
        hosts.iter().position(|h| matches!(h.usage, HostUse::Output(_)) && h.name == name)
    }

    /// Outputs without elements: no instruction stores them.
    fn empty(&self) -> impl Iterator<Item = (&str, &TensorType)> {
        let step = &self.session.program.step;
        let all = step.result_outputs().into_iter().map(|o| &step.graph.outputs[o]);
        all.map(|o| (o.name.as_str(), step.graph.tensor_ty(o.value))).filter(|(name, ty)| ty.elements() == 0 && self.find(name).is_none())
    }

    /// The names, in program order.
    pub fn names(&self) -> Vec<&str> {
        let outputs = self.session.program.host.iter().filter(|h| matches!(h.usage, HostUse::Output(_)));
        outputs.map(|h| h.name.as_str()).chain(self.empty().map(|(name, _)| name)).collect()
    }

    /// An output of the step.
    pub fn get(&self, name: &str) -> Option<Literal> {
        let Some(index) = self.find(name) else {
            return self.empty().find(|(n, _)| *n == name).map(|(_, ty)| Literal::zeros(ty.clone()));
        };
        let bytes = self.session.hosts.bytes(index)?;
        Literal::new(self.session.tensors[index].ty.clone(), bytes).ok()
    }

    /// The value of a scalar output.
    pub fn scalar(&self, name: &str) -> Option<f64> {
        let values = Tensor::from_literal(&self.get(name)?).floats();
        if let [value] = values[..] { Some(value) } else { None }
    }

    /// The loss, if the step has one.
    pub fn loss(&self) -> Option<f64> {
        let step = &self.session.program.step;
        let output = step.graph.outputs.get(step.loss?)?;
        self.scalar(&output.name)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{alone, literal, partial_sums, weights};
    use girih_ir::types::DType;

    fn session(program: &Program) -> Session {
        Session::of(program.clone(), RuntimeOptions { threads: 2, isa: None }).unwrap()
    }

    #[test]
    fn mistakes_are_named_before_anything_runs() {
        let program = partial_sums(4, 6, 8);
        let mut s = session(&program);
        let x = literal(1, &[4, 16]);
        let good = Inputs::from([("x".to_string(), x.clone())]);
        let code = |e: RuntimeError| e.code();
        assert_eq!(code(s.step(&good).unwrap_err()), "E0704");
        s.init(&weights(&program)).unwrap();
        assert_eq!(s.step(&Inputs::new()).unwrap_err().to_string(), "E0701: input `x` is missing; the program expects f32[4,16]");
        let with = |name: &str, value: Literal| Inputs::from([("x".to_string(), x.clone()), (name.to_string(), value)]);
        assert_eq!(s.step(&with("z", x.clone())).unwrap_err().to_string(), "E0702: the program has no input `z`; it has `x`");
        let wrong = s.step(&with("x", literal(1, &[4, 8]))).unwrap_err().to_string();
        assert_eq!(wrong, "E0703: input `x` is f32[4,8], but the program expects f32[4,16]");
        assert_eq!(code(s.set_state("v", &x).unwrap_err()), "E0702");
        assert_eq!(code(s.set_state("w", &x).unwrap_err()), "E0703");
        let other = Literal::zeros(TensorType::new(DType::I32, [6, 16]));
        assert_eq!(code(s.init(&Weights::from([("w".to_string(), other)])).unwrap_err()), "E0703");
        assert_eq!(s.state("w").unwrap(), weights(&program)["w"], "no mistake has touched the state");
        assert!(s.step(&good).is_ok());
    }

    #[test]
    fn steps_stop_when_they_are_cancelled() {
        let program = alone(3, 4, 5);
        let mut s = session(&program);
        s.init(&weights(&program)).unwrap();
        let cancel = CancelToken::new();
        let batches = std::iter::repeat_with(|| Ok(Inputs::from([("x".to_string(), literal(1, &[3, 5]))])));
        let mut seen = Vec::new();
        let error = s.run_steps(10, batches, &cancel.clone(), &mut |p| {
            seen.push((p.step, p.outputs.get("rows").is_some()));
            if p.step == 12 {
                cancel.cancel();
            }
        });
        assert_eq!(error.unwrap_err().to_string(), "E0710: cancelled before step 13");
        assert_eq!(seen, [(10, true), (11, true), (12, true)]);
    }

    #[test]
    fn a_failed_step_loses_the_state_until_it_is_set_again() {
        let mut program = partial_sums(4, 6, 8);
        // The receiver expects more than the sender sends.
        if let girih_ir::program::Instr::Send { region, .. } = &mut program.streams[1][3] {
            region.dims[0] = 2;
        }
        let mut s = session(&program);
        let values = weights(&program);
        s.init(&values).unwrap();
        let inputs = Inputs::from([("x".to_string(), literal(1, &[4, 16]))]);
        assert_eq!(s.step(&inputs).unwrap_err().code(), "E0706");
        assert_eq!(s.step(&inputs).unwrap_err().code(), "E0705");
        assert_eq!(s.state("w").unwrap_err().code(), "E0705");
        s.init(&values).unwrap();
        assert_eq!(s.state("w").unwrap(), values["w"]);
    }

    #[test]
    fn sessions_move_between_threads() {
        fn sent<T: Send + Sync>() {}
        sent::<Session>();
        sent::<CancelToken>();
    }
}
