//! What the checker found, for people: where, what, why, and where in a compiler to look.

use crate::graph::ValueId;
use crate::program::{Claim, Program};
use crate::target::{Coord, DieId};
use rayon::prelude::*;
use std::fmt;

/// Findings beyond this many are only counted.
pub const MAX_FINDINGS: usize = 20;

/// The kinds of findings, one stable code each.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
#[non_exhaustive]
pub enum Fault {
    /// An id is out of range or a size is beyond the limits.
    Structure,
    /// A region leaves the planned SRAM, or is not aligned to its element.
    Bounds,
    /// The regions and parameters of an instruction do not fit each other.
    Shape,
    /// Input and output regions overlap where that is not allowed.
    InPlace,
    /// A route is broken, dead, or runs somewhere else.
    Route,
    /// Routes wait for each other in a circle.
    RouteCycle,
    /// Messages of a channel do not match.
    Channel,
    /// A byte is read that nothing has written.
    Undefined,
    /// A region is used while a queue still uses it.
    Race,
    /// The step can never end.
    Deadlock,
    /// It does not fit into the target.
    Capacity,
    /// An instruction is not the work that it claims.
    Claim,
    /// The memory that an instruction reads does not hold what its claim needs.
    Provenance,
    /// A partial sum is used as if it were whole, or summed twice.
    Partial,
    /// A state or an output is not what the step says at its end.
    Result,
    /// Run over a finite field, the streams make another result than the step.
    Field,
}

impl Fault {
    /// The stable code.
    pub fn code(self) -> &'static str {
        match self {
            Fault::Structure => "E0600",
            Fault::Bounds => "E0601",
            Fault::Shape => "E0602",
            Fault::InPlace => "E0603",
            Fault::Route => "E0604",
            Fault::RouteCycle => "E0605",
            Fault::Channel => "E0606",
            Fault::Undefined => "E0607",
            Fault::Race => "E0608",
            Fault::Deadlock => "E0609",
            Fault::Capacity => "E0610",
            Fault::Claim => "E0611",
            Fault::Provenance => "E0612",
            Fault::Partial => "E0613",
            Fault::Result => "E0614",
            Fault::Field => "E0615",
        }
    }

    /// What a compiler writer should look at.
    pub fn help(self) -> &'static str {
        match self {
            Fault::Structure => "look at how the tables of the program (streams, channels, claims) are built",
            Fault::Bounds => "look at the memory plan: sizes, offsets, and the largest live set of this die",
            Fault::Shape => "look at the lowering of this op: the extents, strides and parameters of the shard",
            Fault::InPlace => "look at in-place unification: only map and the running operand of scatter may share their result's bytes",
            Fault::Route => "take routes from the target's router",
            Fault::RouteCycle => "take all routes from one router: mixed schemes can close a circle",
            Fault::Channel => "emit each send and its recv together, in one global order",
            Fault::Undefined => "look at the order of the stream and at offsets: the producer is missing, later, or elsewhere",
            Fault::Race => "insert a wait on that queue before this instruction",
            Fault::Deadlock => "emit all streams in one topological order, and wait as late as possible",
            Fault::Capacity => "look at the memory plan, or choose a target with more memory",
            Fault::Claim => "look at the claim and the instruction side by side: one of them has the wrong node, ranges or parameters",
            Fault::Provenance => "look at resharding and at the memory plan: the shard is missing, elsewhere, or overwritten too early",
            Fault::Partial => "look at the reductions of this value: a recv_add is missing, or a part is added twice",
            Fault::Result => "look at the end of the stream: the store or the update of the state is missing or incomplete",
            Fault::Field => {
                "look at the parameters of this instruction and of those that make its operands: addresses, strides, extents, origins"
            }
        }
    }
}

/// A place in a program.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Place {
    /// Index into [`Program::dies`].
    pub die: Option<usize>,
    /// Index into the die's stream.
    pub instr: Option<usize>,
}

impl Place {
    /// An instruction of a die.
    pub fn at(die: usize, instr: usize) -> Self {
        Place { die: Some(die), instr: Some(instr) }
    }
    /// A die.
    pub fn die(die: usize) -> Self {
        Place { die: Some(die), instr: None }
    }
    /// The program as a whole.
    pub fn program() -> Self {
        Place::default()
    }
}

/// One thing that is wrong.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Finding {
    /// What kind.
    pub fault: Fault,
    /// The die, if it is about one.
    pub die: Option<DieId>,
    /// Its coordinates.
    pub coord: Option<Coord>,
    /// Index of the instruction in the die's stream.
    pub instr: Option<usize>,
    /// The instruction's text.
    pub text: Option<String>,
    /// Its claim → node → origin.
    pub claim: Option<String>,
    /// What is wrong and why that matters.
    pub why: String,
}

impl fmt::Display for Finding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: ", self.fault.code())?;
        if let Some(c) = self.coord {
            write!(f, "die {c}")?;
            if let Some(i) = self.instr {
                write!(f, " instruction {i}")?;
            }
            f.write_str(": ")?;
        }
        writeln!(f, "{}", self.why)?;
        if let Some(t) = &self.text {
            writeln!(f, "    {t}")?;
        }
        if let Some(c) = &self.claim {
            writeln!(f, "    claims {c}")?;
        }
        writeln!(f, "    help: {}", self.fault.help())
    }
}

/// Counts of what was checked.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct CheckStats {
    /// Dies with code.
    pub dies: usize,
    /// Instructions over all dies.
    pub instructions: usize,
    /// Messages between dies. Here and below, what is in a loop counts as often as the loop runs, and in a `while` once.
    pub messages: usize,
    /// Bytes of those messages.
    pub message_bytes: u64,
    /// Bytes loaded from and stored to host memory.
    pub host_bytes: u64,
    /// Bytes that instructions read and write in SRAM.
    pub sram_bytes: u64,
    /// The most SRAM that a die uses.
    pub peak_sram: u64,
    /// Reads whose contents were traced to the reference step.
    pub traced_reads: usize,
}

/// Why a program was not accepted.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct CheckReport {
    /// The first findings, at most [`MAX_FINDINGS`].
    pub findings: Vec<Finding>,
    /// How many there were.
    pub total: usize,
    /// What was checked until then.
    pub stats: CheckStats,
}

impl fmt::Display for CheckReport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.findings.iter().try_for_each(|x| write!(f, "{x}"))?;
        if self.total > self.findings.len() {
            writeln!(f, "and {} more", self.total - self.findings.len())?;
        }
        write!(f, "the program was not accepted: {} finding{}", self.total, if self.total == 1 { "" } else { "s" })
    }
}

impl std::error::Error for CheckReport {}

/// Collects findings while the phases run.
#[derive(Debug)]
pub struct Findings<'p> {
    program: &'p Program,
    /// The first ones.
    pub list: Vec<Finding>,
    /// How many there were.
    pub total: usize,
}

impl<'p> Findings<'p> {
    /// None yet.
    pub fn new(program: &'p Program) -> Self {
        Findings { program, list: Vec::new(), total: 0 }
    }

    /// Whether nothing was found.
    pub fn is_clean(&self) -> bool {
        self.total == 0
    }

    /// Adds a finding.
    pub fn add(&mut self, fault: Fault, place: Place, why: impl Into<String>) {
        self.total += 1;
        if self.list.len() >= MAX_FINDINGS {
            return;
        }
        let code = place.die.and_then(|d| self.program.dies.get(d));
        let instr = code.zip(place.instr).and_then(|(c, i)| self.program.streams.get(c.stream.index())?.get(i));
        let claim = code.zip(place.instr).and_then(|(c, i)| self.program.claims.get(c.claims.get(i)?.index()));
        self.list.push(Finding {
            fault,
            die: code.map(|c| c.die),
            coord: code.map(|c| self.program.target.coord(c.die)),
            instr: place.instr,
            text: instr.map(ToString::to_string),
            claim: claim.and_then(|c| self.describe(c)),
            why: why.into(),
        });
    }

    /// Runs a check for each of `0..n` side by side, and adds what each found in order.
    pub fn for_each(&mut self, n: usize, check: impl Fn(usize, &mut Findings<'p>) + Sync) {
        let program = self.program;
        let found: Vec<Findings<'p>> = (0..n)
            .into_par_iter()
            .map(|i| {
                let mut own = Findings::new(program);
                check(i, &mut own);
                own
            })
            .collect();
        found.into_iter().for_each(|own| self.append(own));
    }

    /// Adds the findings of another check after its own.
    pub fn append(&mut self, other: Findings<'_>) {
        self.total += other.total;
        let room = MAX_FINDINGS - self.list.len();
        self.list.extend(other.list.into_iter().take(room));
    }

    fn describe(&self, claim: &Claim) -> Option<String> {
        match claim {
            Claim::Compute { node, ranges } => Some(format!("to compute {} over {}", self.value(*node), show_box(ranges))),
            Claim::Move { value, component, part } => {
                Some(format!("to move {} of component {component} of {}", show_box(part), self.value(*value)))
            }
            Claim::Loop { end, parts } => {
                let slots: Vec<String> = parts.iter().map(|(slot, part)| format!("{} of slot {slot}", show_box(part))).collect();
                let carries = if slots.is_empty() { "nothing".to_string() } else { slots.join(", ") };
                Some(format!("to belong to the loop of {} and to carry {carries}", self.value(*end)))
            }
            Claim::Control => None,
        }
    }

    fn value(&self, v: ValueId) -> String {
        let graph = &self.program.step.graph;
        match graph.nodes().get(v.index()) {
            None => format!("{v}, which does not exist"),
            Some(n) if graph.origin(v).is_empty() => format!("{v} = {}", n.op.name()),
            Some(n) => format!("{v} = {} from {:?}", n.op.name(), graph.origin(v)),
        }
    }
}

/// A box in the text form: `[0..4,2..3]`.
pub fn show_box(b: &[std::ops::Range<usize>]) -> String {
    let parts: Vec<String> = b.iter().map(|r| format!("{}..{}", r.start, r.end)).collect();
    format!("[{}]", parts.join(","))
}
