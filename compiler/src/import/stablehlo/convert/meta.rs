//! Ops about other ops: calls, custom calls, collectives, shardings, and the checks of conformance files.

use super::super::expand::Number;
use super::super::expand::linalg::{Transpose, cholesky, triangular_solve};
use super::super::module::{ModuleAttr, ModuleValue, Operation};
use super::super::text::read_attribute;
use super::attrs::Attrs;
use super::imported::{CheckKind, Pin, PinAt};
use super::{Converter, Fault, Frame, Parts, Res, Slot, attrs, malformed, one, unsupported};
use crate::import::error::Problem;
use girih_ir::graph::ValueId;
use girih_ir::ops::shard::Shard;
use girih_ir::tensor::Tensor;
use girih_ir::types::DType;

impl<'a> Converter<'a> {
    /// Inlines a function by its name.
    fn inline(&mut self, name: &str, args: &[Parts]) -> Res<Vec<Parts>> {
        let args: Vec<Slot> = args.iter().cloned().map(Slot::Set).collect();
        let device = self.device;
        self.inline_slots(name, &args)?.iter().map(|s| s.of(device.unwrap_or(0))).collect()
    }

    /// Inlines a function by its name, on values that may differ between devices.
    pub(super) fn inline_slots(&mut self, name: &str, args: &[Slot]) -> Res<Vec<Slot>> {
        let Some(function) = self.module.functions.get(name) else {
            return malformed(format!("the module has no function `{name}`"));
        };
        if self.stack.contains(&function.name.as_str()) {
            let problem = Problem::new("E0161", format!("`{name}` calls itself"));
            return Err(Fault::Malformed(problem.because("StableHLO has no recursion")));
        }
        self.stack.push(&function.name);
        let made = self.call_slots(function, args);
        self.stack.pop();
        made
    }

    fn all_parts(&self, frame: &Frame<'a>, op: &Operation) -> Res<Vec<Parts>> {
        (0..op.operands.len()).map(|i| self.operand_parts(frame, op, i)).collect()
    }

    /// `func.call`
    pub fn call_op(&mut self, frame: &Frame<'a>, op: &Operation) -> Res<Vec<Parts>> {
        let args = self.all_parts(frame, op)?;
        self.inline(attrs::need_word(&op.attrs, "callee")?, &args)
    }

    /// `composite`: its decomposition.
    pub fn composite_op(&mut self, frame: &Frame<'a>, op: &Operation) -> Res<Vec<Parts>> {
        let args = self.all_parts(frame, op)?;
        self.inline(attrs::need_word(&op.attrs, "decomposition")?, &args)
    }

    /// The operands as they are.
    pub fn identity(&mut self, frame: &Frame<'a>, op: &Operation) -> Res<Vec<Parts>> {
        self.all_parts(frame, op)
    }

    /// `custom_call`, of the targets that are known.
    pub fn custom_call_op(&mut self, frame: &mut Frame<'a>, op: &'a Operation) -> Res<Vec<Parts>> {
        let target = attrs::need_word(&op.attrs, "call_target_name")?;
        match target {
            "SPMDFullToShardShape" | "SPMDShardToFullShape" if !self.keeps_shape(frame, op) => unsupported(
                "a computation that is written for one device of a mesh, in an old form; lower it with JAX's option \
                 jax_use_shardy_partitioner",
            ),
            "Sharding" | "SPMDFullToShardShape" | "SPMDShardToFullShape" | "annotate_device_placement" => self.identity(frame, op),
            "xla.sdy.GlobalToLocalShape" | "xla.sdy.LocalToGlobalShape" => self.manual_inside(),
            "shape_assertion" => Ok(Vec::new()),
            _ if target.starts_with("xla.sdy.") || target.starts_with("sdy.") => self.identity(frame, op),
            _ if target.starts_with("check.") => self.check_op(frame, op, target),
            "mhlo.topk" => self.top_k_call(frame, op),
            "lapack_spotrf_ffi" | "lapack_dpotrf_ffi" => self.lapack_cholesky(frame, op),
            "lapack_strsm_ffi" | "lapack_dtrsm_ffi" => self.lapack_triangular(frame, op),
            _ => match target.strip_prefix("mhlo.").or_else(|| target.strip_prefix("chlo.")) {
                Some(name) => self.chlo(frame, op, name),
                None => unsupported(format!("a custom call of `{target}`")),
            },
        }
    }

    /// LAPACK's `potrf`, which JAX lowers Cholesky factors to for processors: the factor, and 0 for success. A matrix that is not positive
    /// definite gives NaN, as it does in JAX.
    fn lapack_cholesky(&mut self, frame: &Frame<'a>, op: &'a Operation) -> Res<Vec<Parts>> {
        let lower = self.lapack_letter(op, "uplo", "UL")? == 1;
        let a = self.operand(frame, op, 0)?;
        let Some(factor) = cholesky(&mut self.graph, Number::real(a), lower) else { return unsupported("`potrf` of this type") };
        let info = self.result(frame, op, 1)?;
        let done = self.graph.splat(&info, 0.0);
        Ok(vec![Parts::from_slice(&[factor.re]), Parts::from_slice(&[done])])
    }

    /// LAPACK's `trsm`: a triangular system.
    fn lapack_triangular(&mut self, frame: &Frame<'a>, op: &'a Operation) -> Res<Vec<Parts>> {
        let flag = |name, letters| self.lapack_letter(op, name, letters).map(|at| at == 1);
        let (left, lower, unit) = (flag("side", "RL")?, flag("uplo", "UL")?, flag("diag", "NU")?);
        let transpose = [Transpose::None, Transpose::Plain, Transpose::Adjoint][self.lapack_letter(op, "trans_x", "NTC")?];
        let [a, b] = self.exactly(frame, op)?;
        match triangular_solve(&mut self.graph, Number::real(a), Number::real(b), left, lower, unit, transpose) {
            Some(x) => Ok(one(x.re)),
            None => unsupported("`trsm` of these types"),
        }
    }

    /// Which of these letters a setting of a LAPACK call is.
    fn lapack_letter(&self, op: &Operation, name: &str, letters: &str) -> Res<usize> {
        let text = attrs::word(&op.attrs, "backend_config").and_then(|t| read_attribute(t, &self.options.limits).ok());
        let Some(ModuleAttr::Fields(fields)) = op.attrs.get("mhlo.backend_config").or(text.as_ref()) else {
            return malformed("a call of LAPACK needs a configuration");
        };
        let code = attrs::int(fields, name)?.and_then(|c| u8::try_from(c).ok());
        match code.and_then(|c| letters.bytes().position(|l| l == c)) {
            Some(at) => Ok(at),
            None => malformed(format!("`{name}` of a call of LAPACK is {code:?}")),
        }
    }

    fn keeps_shape(&self, frame: &Frame<'a>, op: &Operation) -> bool {
        let of = |v: Option<&ModuleValue>| v.and_then(|v| frame.function.types.get(v.index()));
        of(op.operands.first()) == of(op.results.first())
    }

    fn top_k_call(&mut self, frame: &Frame<'a>, op: &Operation) -> Res<Vec<Parts>> {
        let Some(ModuleAttr::Fields(inner)) = op.attrs.get("mhlo.attributes") else {
            return malformed("a custom call of `mhlo.topk` needs `mhlo.attributes`");
        };
        let op = Operation { attrs: inner.clone(), regions: Vec::new(), ..op.clone() };
        self.top_k_op(frame, &op)
    }

    /// Whether the module is one program of one process, as far as the attributes say.
    fn single(&self) -> bool {
        ["mhlo.num_partitions", "mhlo.num_replicas"]
            .iter()
            .all(|key| matches!(self.module.attrs.get(*key), None | Some(ModuleAttr::Int(1))))
    }

    /// Collectives of one process with itself, which hand their operands on.
    pub fn collective_op(&mut self, frame: &Frame<'a>, op: &'a Operation) -> Res<Vec<Parts>> {
        if self.device.is_some() {
            return unsupported("a collective inside of a loop or a branch of a computation that is written for one device of a mesh");
        }
        let alone = match op.attrs.get("replica_groups") {
            Some(ModuleAttr::Dense(d)) => girih_ir::types::element_count(&d.shape) <= 1,
            Some(ModuleAttr::List(l)) => l.len() <= 1,
            _ => true,
        };
        if !self.single() || !alone {
            return unsupported("a collective of several processes");
        }
        if op.name.ends_with("collective_permute") {
            let pairs = attrs::ints(&op.attrs, "source_target_pairs")?.unwrap_or_default();
            if !pairs.is_empty() && pairs != [0, 0] {
                return unsupported("a collective of several processes");
            }
            if pairs.is_empty() {
                return self.on_parts(frame, op, |cx, v| Ok(cx.graph.splat_like(v, 0.0)));
            }
        }
        self.identity(frame, op)
    }

    /// `partition_id`, `replica_id`: there is one process.
    pub fn process_id_op(&mut self, op: &Operation) -> Res<Vec<Parts>> {
        if self.devices.is_some() {
            let number = self.device.filter(|_| op.name.ends_with("partition_id")).unwrap_or(0);
            return Ok(one(self.device_number(number)));
        }
        if !self.single() {
            return unsupported("the number of the process, of which there are several, outside of a computation for one device");
        }
        Ok(one(self.graph.constant(&Tensor::scalar_int(DType::U32, 0))))
    }

    /// A manual computation where only one device is being converted.
    pub fn manual_inside(&self) -> Res<Vec<Parts>> {
        unsupported("a computation that is written for one device of a mesh, inside of a loop or a branch of another")
    }

    /// `sdy.named_computation`: its body.
    pub fn named_computation_op(&mut self, frame: &mut Frame<'a>, op: &'a Operation) -> Res<Vec<Parts>> {
        let args = self.all_parts(frame, op)?;
        let block = self.region(op, 0)?;
        self.run(frame, block, &args)
    }

    /// `sdy.sharding_constraint`: the operand, with a pin.
    pub fn sharding_op(&mut self, frame: &Frame<'a>, op: &Operation) -> Res<Vec<Parts>> {
        let mut parts = self.operand_parts(frame, op, 0)?;
        for v in &mut parts {
            *v = self.pinned(&op.attrs, "sharding", PinAt::Value(*v), *v)?;
        }
        Ok(op.results.iter().map(|_| parts.clone()).collect())
    }

    /// A value that lies as a sharding attribute says, which is also noted as a pin.
    pub fn pinned(&mut self, attrs: &Attrs, key: &str, at: PinAt, v: ValueId) -> Res<ValueId> {
        let Some(ModuleAttr::Fields(fields)) = attrs.get(key) else { return Ok(v) };
        let mesh = attrs::word(fields, "mesh").and_then(|name| self.module.meshes.get(name)).cloned();
        let (Some(mesh), Some(ModuleAttr::List(dims))) = (mesh.filter(|m| !m.is_empty()), fields.get("dim_shardings")) else {
            return Ok(v);
        };
        let axes = |dim: &ModuleAttr| -> (Vec<String>, bool) {
            let ModuleAttr::List(axes) = dim else { return (Vec::new(), true) };
            let names = axes.iter().filter_map(|a| if let ModuleAttr::Text(t) = a { Some(t.clone()) } else { None }).collect();
            (names, axes.contains(&ModuleAttr::Word("?".into())))
        };
        let (dims, open): (Vec<Vec<String>>, Vec<bool>) = dims.iter().map(axes).unzip();
        if dims.len() != self.graph.shape(v).len() {
            return malformed(format!("a sharding of {} dimensions on a tensor of rank {}", dims.len(), self.graph.shape(v).len()));
        }
        // The first two axes of the device mesh are the rows and the columns of ours.
        let along = |axis: usize| {
            let name = mesh.get(axis).map(|(name, _)| name);
            let dim = name.and_then(|n| dims.iter().position(|d| d.contains(n)));
            dim.map_or(-1, |d| d as i64)
        };
        let (y, x) = (along(0), along(1));
        let wish = mesh.len() <= 2 && ((y, x) != (-1, -1) || !open.contains(&true));
        let value = if wish { self.add(Shard { y, x }, &[v])? } else { v };
        let at = if let PinAt::Value(_) = at { PinAt::Value(value) } else { at };
        self.pins.push(Pin { at, mesh, dims, open });
        Ok(value)
    }

    /// `check.*` ops and custom calls: results that must agree.
    pub fn check_op(&mut self, frame: &Frame<'a>, op: &Operation, name: &str) -> Res<Vec<Parts>> {
        if !self.options.checks {
            return Ok(Vec::new());
        }
        let got = self.operand_parts(frame, op, 0)?;
        let name = name.strip_prefix("check.").unwrap_or(name);
        if name == "expect_serialized_eq" {
            return self.check_probed(op, &got);
        }
        let want = if name.ends_with("_const") { self.constant_op(op)?.remove(0) } else { self.operand_parts(frame, op, 1)? };
        let tolerance = attrs::real(&op.attrs, "tolerance")?;
        let kind = match name.trim_end_matches("_const") {
            "expect_eq" => CheckKind::Exact,
            "expect_close" => {
                CheckKind::Ulps(attrs::int(&op.attrs, "max_ulp_difference")?.and_then(|u| u32::try_from(u).ok()).unwrap_or(3))
            }
            "expect_almost_eq" => CheckKind::Near(tolerance.unwrap_or(1e-3)),
            _ => return unsupported(format!("the check `{name}`")),
        };
        self.check_pair(op, kind, got, want)
    }

    /// Notes that values must agree.
    pub fn check_pair(&mut self, op: &Operation, kind: CheckKind, got: Parts, want: Parts) -> Res<Vec<Parts>> {
        if got.len() != want.len() || got.iter().zip(&want).any(|(g, w)| self.graph.ty(*g) != self.graph.ty(*w)) {
            return malformed("a check compares values of different types");
        }
        let place = self.module.place(op.place).to_string();
        for (g, w) in got.into_iter().zip(want) {
            self.checks.push((kind, g, w, place.clone()));
        }
        Ok(Vec::new())
    }
}
