//! girih's verbs: from a model file to one instruction stream per die.
#![forbid(unsafe_code)]

pub mod import;
