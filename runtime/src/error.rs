//! What can go wrong when a program runs.

use girih_ir::types::TensorType;
use girih_kernels::KernelError;
use std::path::PathBuf;

/// Why a session, a step, a checkpoint or a batch failed.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum RuntimeError {
    /// An input of the step was not given.
    #[error("E0701: input `{name}` is missing; the program expects {expected}")]
    MissingInput {
        /// The input.
        name: String,
        /// Its type.
        expected: TensorType,
    },
    /// A name that the program does not have.
    #[error("E0702: the program has no {what} `{name}`; it has {known}")]
    Unknown {
        /// `input`, `output` or `state`.
        what: &'static str,
        /// The name.
        name: String,
        /// The names there are.
        known: String,
    },
    /// A tensor of the wrong type.
    #[error("E0703: {what} `{name}` is {got}, but the program expects {expected}")]
    WrongType {
        /// `input` or `state`.
        what: &'static str,
        /// The name.
        name: String,
        /// The type that was given.
        got: TensorType,
        /// The type that is expected.
        expected: TensorType,
    },
    /// State that was never given a value.
    #[error("E0704: state `{name}` ({expected}) has no value yet; initialize it or load a checkpoint before the first step")]
    MissingState {
        /// The state.
        name: String,
        /// Its type.
        expected: TensorType,
    },
    /// A step after one that failed in the middle.
    #[error("E0705: an earlier step failed while it ran, so the state is no longer whole; set all state again or load a checkpoint")]
    StateLost,
    /// A program that this runtime cannot run although it was accepted.
    #[error("E0706: {place}: {why}")]
    Program {
        /// Die, instruction and mnemonic, or what else the trouble is with.
        place: String,
        /// What is wrong.
        why: String,
    },
    /// An instruction failed.
    #[error("E0707: {place}: {source}")]
    Instruction {
        /// Die, instruction and mnemonic.
        place: String,
        /// What the kernel says.
        source: KernelError,
    },
    /// No die can go on.
    #[error("E0708: deadlock: no die can go on\n{0}")]
    Deadlock(super::machine::Deadlock),
    /// A worker thread panicked.
    #[error("E0709: a worker panicked at {place}: {message}; this is a defect, please report it")]
    Panicked {
        /// Die, instruction and mnemonic.
        place: String,
        /// The panic's message.
        message: String,
    },
    /// The run was cancelled between two steps.
    #[error("E0710: cancelled before step {step}")]
    Cancelled {
        /// The step that did not begin.
        step: u64,
    },
    /// The threads of a session could not be started.
    #[error("E0711: cannot start {threads} worker threads: {why}")]
    Threads {
        /// How many.
        threads: usize,
        /// What the system says.
        why: String,
    },
    /// The run was cancelled in a loop that runs until its data say so.
    #[error("E0712: cancelled in a loop, at {place}; the step is unfinished, so load a checkpoint or set all state again")]
    Interrupted {
        /// Die, instruction and mnemonic.
        place: String,
    },
    /// A file could not be read or written.
    #[error("E0720: {path}: {source}")]
    Io {
        /// The file.
        path: PathBuf,
        /// What the system says.
        source: std::io::Error,
    },
    /// Another process writes checkpoints into the directory.
    #[error("E0721: {path} is locked by another trainer; give each its own directory")]
    Locked {
        /// The lock file.
        path: PathBuf,
    },
    /// A directory without a whole checkpoint.
    #[error("E0722: {path} holds no whole checkpoint{why}")]
    NoCheckpoint {
        /// The directory.
        path: PathBuf,
        /// What is wrong with the ones that are there.
        why: String,
    },
    /// A checkpoint of another program.
    #[error("E0723: the checkpoint in {path} is of another program: {why}")]
    OtherProgram {
        /// The directory.
        path: PathBuf,
        /// The difference.
        why: String,
    },
    /// A file of batches that cannot be used.
    #[error("E0730: {path}: {why}")]
    Data {
        /// The file.
        path: PathBuf,
        /// What is wrong, and what would be right.
        why: String,
    },
}

impl RuntimeError {
    /// The stable code.
    pub fn code(&self) -> &'static str {
        match self {
            RuntimeError::MissingInput { .. } => "E0701",
            RuntimeError::Unknown { .. } => "E0702",
            RuntimeError::WrongType { .. } => "E0703",
            RuntimeError::MissingState { .. } => "E0704",
            RuntimeError::StateLost => "E0705",
            RuntimeError::Program { .. } => "E0706",
            RuntimeError::Instruction { .. } => "E0707",
            RuntimeError::Deadlock(_) => "E0708",
            RuntimeError::Panicked { .. } => "E0709",
            RuntimeError::Cancelled { .. } => "E0710",
            RuntimeError::Threads { .. } => "E0711",
            RuntimeError::Interrupted { .. } => "E0712",
            RuntimeError::Io { .. } => "E0720",
            RuntimeError::Locked { .. } => "E0721",
            RuntimeError::NoCheckpoint { .. } => "E0722",
            RuntimeError::OtherProgram { .. } => "E0723",
            RuntimeError::Data { .. } => "E0730",
        }
    }
}
