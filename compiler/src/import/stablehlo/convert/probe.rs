//! The dialect of the reference interpreter: probes, which hand a value on and write it down, and printing.
//!
//! Nobody reads what a probe writes but a check of the same file (`check.expect_serialized_eq`), so a probe is its operand, and only where
//! checks are asked for what it has seen is remembered. `interpreter.print` does nothing: a compiled program has no terminal.

use super::super::module::{Block, ModuleAttr, Operation};
use super::imported::CheckKind;
use super::{Converter, Frame, Parts, Res, attrs, unsupported};

/// What a probe has seen at one time; nothing where that cannot be seen from outside a loop.
pub(super) type Probed = Option<Parts>;

/// Loops of probes are unrolled up to this many iterations where checks are asked for.
pub(super) const MOST_PROBED: usize = 64;

fn has_probe(block: &Block) -> bool {
    block.ops.iter().any(|op| op.name == "interpreter.probe" || op.regions.iter().any(has_probe))
}

impl<'a> Converter<'a> {
    /// Whether a check may ask what a probe in the block has seen.
    pub fn is_probed(&self, block: &Block) -> bool {
        self.options.checks && has_probe(block)
    }

    /// Ops of the interpreter's dialect.
    pub fn interpreter_op(&mut self, frame: &Frame<'a>, op: &'a Operation, name: &str) -> Res<Vec<Parts>> {
        match name {
            "probe" => {
                let parts = self.operand_parts(frame, op, 0)?;
                if let (true, Some(id)) = (self.options.checks, attrs::word(&op.attrs, "probe_id")) {
                    let seen = (self.loops == 0).then(|| parts.clone());
                    self.probes.entry(id).or_default().push(seen);
                }
                Ok(vec![parts])
            }
            "print" => Ok(Vec::new()),
            "run_parallel" => unsupported("several programs in one; export one program"),
            _ => unsupported("this op of the reference interpreter"),
        }
    }

    /// `check.expect_serialized_eq`: the operand must be what a probe has seen, in the iteration that the check names.
    pub fn check_probed(&mut self, op: &Operation, want: &Parts) -> Res<Vec<Parts>> {
        let Some(id) = attrs::word(&op.attrs, "probe_id") else { return super::malformed("attribute `probe_id` is missing") };
        let at = match op.attrs.get("iter") {
            Some(ModuleAttr::Int(i)) => usize::try_from(*i).unwrap_or(usize::MAX),
            _ => 0,
        };
        match self.probes.get(id).and_then(|seen| seen.get(at)).cloned() {
            Some(Some(got)) => self.check_pair(op, CheckKind::Exact, got, want.clone()),
            Some(None) => unsupported("what a probe has seen in a loop"),
            None => super::malformed(format!("no probe `{id}` has seen a value {at}")),
        }
    }
}
