//! StableHLO: whole training steps as JAX writes them.
//!
//! Three readers (`text`, `bytecode`, `hlo`) make one [`Module`](module::Module); `convert` turns a function of it into a graph.

pub mod hlo;
pub mod module;
pub mod text;
