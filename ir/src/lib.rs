//! girih's nouns.
#![forbid(unsafe_code)]
pub mod ids;
pub mod types;
