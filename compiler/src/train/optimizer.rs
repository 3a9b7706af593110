//! Optimizers and learning-rate schedules as graph ops, with PyTorch's update rules.

use super::TrainError;
use super::spec::Spec;
use girih_ir::graph::{Graph, ValueId};
use girih_ir::scalar::{BinaryFn, CompareFn, UnaryFn};
use girih_ir::types::{DType, TensorType};
use std::str::FromStr;

/// Which update rule.
#[derive(Clone, Copy, PartialEq, Debug)]
pub enum OptimizerKind {
    /// No update: the gradients are outputs `grad/<parameter>`.
    None,
    /// Stochastic gradient descent (`torch.optim.SGD`, dampening 0).
    Sgd {
        /// Share of the last update that is kept; 0 has no buffer.
        momentum: f64,
        /// Looks ahead by one momentum step.
        nesterov: bool,
    },
    /// Adam (`torch.optim.Adam`; with decoupled decay `torch.optim.AdamW`).
    Adam {
        /// Decay of the first moment.
        beta1: f64,
        /// Decay of the second moment.
        beta2: f64,
        /// Added to the denominator.
        eps: f64,
        /// Weight decay shrinks the parameter instead of entering the gradient.
        decoupled: bool,
    },
}

/// How the learning rate moves; `t` counts steps from 0.
#[derive(Clone, Copy, PartialEq, Debug)]
pub enum Schedule {
    /// It stays.
    Constant,
    /// Rises linearly over `warmup` steps, then falls linearly to `min` (a share of the rate) at step `total`.
    Linear {
        /// Steps of the rise.
        warmup: f64,
        /// Where the fall ends.
        total: f64,
        /// The share that is left there.
        min: f64,
    },
    /// Rises linearly over `warmup` steps, then falls along a half cosine to `min` at step `total`.
    Cosine {
        /// Steps of the rise.
        warmup: f64,
        /// Where the fall ends.
        total: f64,
        /// The share that is left there.
        min: f64,
    },
    /// Multiplied by `gamma` every `every` steps.
    Step {
        /// Steps between falls.
        every: f64,
        /// The factor.
        gamma: f64,
    },
}

/// An optimizer with its numbers.
#[derive(Clone, Copy, PartialEq, Debug)]
pub struct OptimizerSpec {
    /// Which rule.
    pub kind: OptimizerKind,
    /// Learning rate.
    pub lr: f64,
    /// Weight decay; coupled (L2) but for AdamW.
    pub weight_decay: f64,
    /// Gradients are scaled down together when their norm exceeds this.
    pub clip_norm: Option<f64>,
    /// Parameters of narrow types keep a wide copy, of which they are the rounding.
    pub master: bool,
    /// How the learning rate moves.
    pub schedule: Schedule,
}

const EXAMPLE: &str = "adamw:lr=1e-3,weight_decay=0.01,clip_norm=1.0,schedule=cosine,warmup=100,total=1000";

const RANGES: &str = "rates, decays and momentum are at least 0, betas from 0 to below 1, clip_norm and gamma above 0, `every` at least 1, \
                      and nesterov needs a momentum";

impl FromStr for OptimizerSpec {
    type Err = TrainError;

    /// `none`, `sgd:lr=…,momentum=…,nesterov,weight_decay=…`, `adam:lr=…,beta1=…,beta2=…,eps=…`, `adamw:…`; with any of them
    /// `clip_norm=…` and `schedule=constant|linear|cosine|step` with `warmup`, `total`, `min`, `every`, `gamma`.
    fn from_str(text: &str) -> Result<Self, TrainError> {
        let mut s = Spec::parse(text, EXAMPLE);
        let (kind, default_lr, default_decay) = match s.name {
            "none" => (OptimizerKind::None, 0.0, 0.0),
            "sgd" => (OptimizerKind::Sgd { momentum: s.number("momentum", 0.0)?, nesterov: s.flag("nesterov")? }, 1e-3, 0.0),
            name @ ("adam" | "adamw") => {
                let decoupled = name == "adamw";
                let (beta1, beta2, eps) = (s.number("beta1", 0.9)?, s.number("beta2", 0.999)?, s.number("eps", 1e-8)?);
                (OptimizerKind::Adam { beta1, beta2, eps, decoupled }, 1e-3, if decoupled { 0.01 } else { 0.0 })
            }
            other => return Err(s.error(format!("there is no optimizer `{other}`; there are none, sgd, adam and adamw"))),
        };
        let schedule = s.take::<String>("schedule")?;
        let (warmup, total, min) = (s.number("warmup", 0.0)?, s.number("total", 0.0)?, s.number("min", 0.0)?);
        let schedule = match schedule.as_deref() {
            None | Some("constant") => Schedule::Constant,
            Some("linear") => Schedule::Linear { warmup, total, min },
            Some("cosine") => Schedule::Cosine { warmup, total, min },
            Some("step") => Schedule::Step { every: s.number("every", 1.0)?, gamma: s.number("gamma", 0.1)? },
            Some(other) => return Err(s.error(format!("there is no schedule `{other}`; there are constant, linear, cosine and step"))),
        };
        let falls = matches!(schedule, Schedule::Linear { .. } | Schedule::Cosine { .. });
        if falls && total <= warmup {
            return Err(s.error("the schedule needs `total` steps, more than `warmup`"));
        }
        let (lr, weight_decay) = (s.number("lr", default_lr)?, s.number("weight_decay", default_decay)?);
        let clip_norm = s.take::<f64>("clip_norm")?;
        let master = s.flag("master")?;
        let rule_ok = match kind {
            OptimizerKind::None => true,
            OptimizerKind::Sgd { momentum, nesterov } => momentum >= 0.0 && (!nesterov || momentum > 0.0),
            OptimizerKind::Adam { beta1, beta2, eps, .. } => eps >= 0.0 && [beta1, beta2].iter().all(|b| (0.0..1.0).contains(b)),
        };
        let positive = clip_norm.is_none_or(|c| c > 0.0) && lr >= 0.0 && weight_decay >= 0.0 && warmup >= 0.0;
        let steps_ok = !matches!(schedule, Schedule::Step { every, gamma } if every < 1.0 || gamma <= 0.0);
        if !(rule_ok && positive && steps_ok) {
            return Err(s.error(RANGES));
        }
        s.finish(
            "lr, momentum, nesterov, weight_decay, beta1, beta2, eps, clip_norm, master, schedule, warmup, total, min, every and gamma",
        )?;
        Ok(OptimizerSpec { kind, lr, weight_decay, clip_norm, master, schedule })
    }
}

/// Computes on scalars and tensors of one wide type in one graph.
struct Math<'a>(&'a mut Graph, DType);

impl Math<'_> {
    fn scalar(&mut self, v: f64) -> ValueId {
        self.0.splat(&TensorType::scalar(self.1), v)
    }
    fn scale(&mut self, a: ValueId, v: f64) -> ValueId {
        let c = self.0.splat_like(a, v);
        self.0.times(a, c)
    }
    fn shift(&mut self, a: ValueId, v: f64) -> ValueId {
        let c = self.0.splat_like(a, v);
        self.0.plus(a, c)
    }
    /// `a · s` for a scalar `s`.
    fn by(&mut self, a: ValueId, s: ValueId) -> ValueId {
        let shape = self.0.shape(a).to_vec();
        let s = self.0.broadcast(s, &shape, &[]);
        self.0.times(a, s)
    }
    fn min(&mut self, a: ValueId, v: f64) -> ValueId {
        let c = self.0.splat_like(a, v);
        self.0.binary(BinaryFn::Min, a, c)
    }
    fn max(&mut self, a: ValueId, v: f64) -> ValueId {
        let c = self.0.splat_like(a, v);
        self.0.binary(BinaryFn::Max, a, c)
    }
    /// 1 − betaᵗ, without cancellation.
    fn bias_correction(&mut self, t: ValueId, beta: f64) -> ValueId {
        let e = self.scale(t, beta.ln());
        let e = self.0.unary(UnaryFn::Expm1, e);
        self.0.unary(UnaryFn::Neg, e)
    }
}

impl OptimizerSpec {
    /// Names of the slots that each parameter has.
    pub fn slots(&self) -> &'static [&'static str] {
        match self.kind {
            OptimizerKind::None => &[],
            OptimizerKind::Sgd { momentum: 0.0, .. } => &[],
            OptimizerKind::Sgd { .. } => &["momentum"],
            OptimizerKind::Adam { .. } => &["m", "v"],
        }
    }

    /// Whether the update depends on the number of the step.
    pub fn counts_steps(&self) -> bool {
        matches!(self.kind, OptimizerKind::Adam { .. }) || (self.schedule != Schedule::Constant && self.kind != OptimizerKind::None)
    }

    /// The learning rate at step `t` (a scalar that counts from 0; absent when nothing depends on it), in a wide type.
    pub fn rate(&self, graph: &mut Graph, t: Option<ValueId>, dtype: DType) -> ValueId {
        let t = t.map(|t| graph.convert(t, dtype));
        let mut m = Math(graph, dtype);
        let Some(t) = t else { return m.scalar(self.lr) };
        let share = match self.schedule {
            Schedule::Constant => return m.scalar(self.lr),
            Schedule::Step { every, gamma } => {
                // A quotient, as a product with the reciprocal may fall short of a whole number.
                let every = m.scalar(every);
                let n = m.0.over(t, every);
                let n = m.0.unary(UnaryFn::Floor, n);
                let e = m.scale(n, gamma.ln());
                m.0.unary(UnaryFn::Exp, e)
            }
            Schedule::Linear { warmup, total, min } | Schedule::Cosine { warmup, total, min } => {
                let past = m.shift(t, -warmup);
                let past = m.scale(past, 1.0 / (total - warmup));
                let past = m.max(past, 0.0);
                let past = m.min(past, 1.0);
                let left = if matches!(self.schedule, Schedule::Linear { .. }) {
                    let left = m.scale(past, -1.0);
                    m.shift(left, 1.0)
                } else {
                    let angle = m.scale(past, std::f64::consts::PI);
                    let c = m.0.unary(UnaryFn::Cos, angle);
                    let c = m.shift(c, 1.0);
                    m.scale(c, 0.5)
                };
                let fall = m.scale(left, 1.0 - min);
                let fall = m.shift(fall, min);
                if warmup > 0.0 {
                    let rise = m.shift(t, 1.0);
                    let rise = m.scale(rise, 1.0 / warmup);
                    let rising = m.scalar(warmup);
                    let rising = m.0.compare(CompareFn::Lt, t, rising);
                    m.0.select(rising, rise, fall)
                } else {
                    fall
                }
            }
        };
        m.scale(share, self.lr)
    }

    /// The factor that clips gradients by their common norm.
    pub fn clip(&self, graph: &mut Graph, gradients: &[ValueId]) -> Option<ValueId> {
        let limit = self.clip_norm?;
        let dtype = if gradients.iter().any(|g| graph.tensor_ty(*g).dtype == DType::F64) { DType::F64 } else { DType::F32 };
        let mut total: Option<ValueId> = None;
        for g in gradients {
            let dims: Vec<usize> = (0..graph.shape(*g).len()).collect();
            let g = graph.convert(*g, dtype);
            let square = graph.times(g, g);
            let sum = graph.sum(square, &dims);
            total = Some(total.map_or(sum, |t| graph.plus(t, sum)));
        }
        let norm = graph.unary(UnaryFn::Sqrt, total?);
        let mut m = Math(graph, dtype);
        let norm = m.shift(norm, 1e-6);
        let limit = m.scalar(limit);
        let factor = m.0.over(limit, norm);
        Some(m.min(factor, 1.0))
    }

    /// The new parameter and slots. All are of one wide type and shape; `rate` is a scalar of it, `t` counts from 0.
    pub fn update(
        &self,
        graph: &mut Graph,
        p: ValueId,
        g: ValueId,
        slots: &[ValueId],
        rate: ValueId,
        t: Option<ValueId>,
    ) -> (ValueId, Vec<ValueId>) {
        let dtype = graph.tensor_ty(p).dtype;
        let t = t.map(|t| graph.convert(t, dtype));
        let mut m = Math(graph, dtype);
        match self.kind {
            OptimizerKind::None => (p, Vec::new()),
            OptimizerKind::Sgd { momentum, nesterov } => {
                let g = m.coupled_decay(p, g, self.weight_decay);
                let (step, slots) = match slots {
                    [buffer] => {
                        let kept = m.scale(*buffer, momentum);
                        let new = m.0.plus(kept, g);
                        let step = if nesterov {
                            let ahead = m.scale(new, momentum);
                            m.0.plus(g, ahead)
                        } else {
                            new
                        };
                        (step, vec![new])
                    }
                    _ => (g, Vec::new()),
                };
                let change = m.by(step, rate);
                (m.0.minus(p, change), slots)
            }
            OptimizerKind::Adam { beta1, beta2, eps, decoupled } => {
                let (g, p) = if decoupled {
                    let shrink = m.scale(rate, -self.weight_decay);
                    let shrink = m.shift(shrink, 1.0);
                    (g, if self.weight_decay == 0.0 { p } else { m.by(p, shrink) })
                } else {
                    (m.coupled_decay(p, g, self.weight_decay), p)
                };
                let count = t.unwrap_or_else(|| m.scalar(0.0));
                let count = m.shift(count, 1.0);
                let blend = |m: &mut Math<'_>, old: ValueId, new: ValueId, beta: f64| {
                    let (a, b) = (m.scale(old, beta), m.scale(new, 1.0 - beta));
                    m.0.plus(a, b)
                };
                let first = blend(&mut m, slots[0], g, beta1);
                let square = m.0.times(g, g);
                let second = blend(&mut m, slots[1], square, beta2);
                let (c1, c2) = (m.bias_correction(count, beta1), m.bias_correction(count, beta2));
                let root = m.0.unary(UnaryFn::Sqrt, second);
                let c2 = m.0.unary(UnaryFn::Rsqrt, c2);
                let root = m.by(root, c2);
                let denominator = m.shift(root, eps);
                let rate = m.0.over(rate, c1);
                let step = m.by(first, rate);
                let change = m.0.over(step, denominator);
                (m.0.minus(p, change), vec![first, second])
            }
        }
    }
}

impl Math<'_> {
    fn coupled_decay(&mut self, p: ValueId, g: ValueId, decay: f64) -> ValueId {
        if decay == 0.0 {
            return g;
        }
        let extra = self.scale(p, decay);
        self.0.plus(g, extra)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use girih_ir::graph::Role;
    use girih_ir::interp::eval;
    use girih_ir::tensor::Tensor;

    /// Runs `steps` updates of one scalar parameter with gradient `3·p` and returns it after each.
    fn run(text: &str, steps: usize) -> Vec<f64> {
        let spec: OptimizerSpec = text.parse().expect("reads");
        let mut graph = Graph::new("update");
        let ty = TensorType::scalar(DType::F32);
        let p = graph.input("p", ty.clone(), Role::Param);
        let t = graph.input("t", ty.clone(), Role::State);
        let slots: Vec<ValueId> = spec.slots().iter().map(|s| graph.input(*s, ty.clone(), Role::State)).collect();
        let three = graph.splat(&ty, 3.0);
        let g = graph.times(p, three);
        let g = match spec.clip(&mut graph, &[g]) {
            Some(factor) => graph.times(g, factor),
            None => g,
        };
        let rate = spec.rate(&mut graph, Some(t), DType::F32);
        let (new, next) = spec.update(&mut graph, p, g, &slots, rate, Some(t));
        graph.output("p", new);
        next.iter().enumerate().for_each(|(i, s)| graph.output(format!("s{i}"), *s));
        let mut state = vec![1.0; 1];
        state.extend(slots.iter().map(|_| 0.0));
        let mut seen = Vec::new();
        for step in 0..steps {
            let mut inputs = vec![Tensor::scalar_float(DType::F32, state[0]), Tensor::scalar_float(DType::F32, step as f64)];
            inputs.extend(state[1..].iter().map(|v| Tensor::scalar_float(DType::F32, *v)));
            let out = eval(&graph, &inputs).expect("runs");
            state = out.iter().map(|o| o.floats()[0]).collect();
            seen.push(state[0]);
        }
        seen
    }

    fn close(got: &[f64], want: &[f64]) {
        assert_eq!(got.len(), want.len());
        got.iter().zip(want).for_each(|(g, w)| assert!((g - w).abs() <= 1e-6 * w.abs().max(1.0), "{got:?} is not {want:?}"));
    }

    #[test]
    fn sgd_with_momentum_matches_its_formula() {
        for nesterov in [false, true] {
            let (mut p, mut buffer, mut want) = (1.0f64, 0.0f64, Vec::new());
            for _ in 0..6 {
                let g = 3.0 * p + 0.1 * p;
                buffer = 0.9 * buffer + g;
                p -= 0.05 * if nesterov { g + 0.9 * buffer } else { buffer };
                want.push(p);
            }
            let flag = if nesterov { ",nesterov" } else { "" };
            close(&run(&format!("sgd:lr=0.05,momentum=0.9,weight_decay=0.1{flag}"), 6), &want);
        }
    }

    #[test]
    fn adam_and_adamw_match_their_formulas() {
        for decoupled in [false, true] {
            let (mut p, mut m, mut v, mut want) = (1.0f64, 0.0f64, 0.0f64, Vec::new());
            for t in 1..=6 {
                let mut g = 3.0 * p;
                if decoupled {
                    p *= 1.0 - 0.01 * 0.2
                } else {
                    g += 0.2 * p
                }
                m = 0.9 * m + 0.1 * g;
                v = 0.999 * v + 0.001 * g * g;
                let (mh, vh) = (m / (1.0 - 0.9f64.powi(t)), v / (1.0 - 0.999f64.powi(t)));
                p -= 0.01 * mh / (vh.sqrt() + 1e-8);
                want.push(p);
            }
            let name = if decoupled { "adamw" } else { "adam" };
            close(&run(&format!("{name}:lr=0.01,weight_decay=0.2"), 6), &want);
        }
    }

    #[test]
    fn schedules_and_clipping_match_their_formulas() {
        let plain = |rate: &dyn Fn(f64) -> f64, limit: f64| {
            let (mut p, mut want) = (1.0f64, Vec::new());
            for t in 0..8 {
                let g = 3.0 * p;
                p -= rate(f64::from(t)) * g * (limit / (g.abs() + 1e-6)).min(1.0);
                want.push(p);
            }
            want
        };
        let cosine =
            |t: f64| 0.1 * if t < 2.0 { (t + 1.0) / 2.0 } else { 0.5 * (1.0 + (std::f64::consts::PI * ((t - 2.0) / 4.0).min(1.0)).cos()) };
        close(&run("sgd:lr=0.1,schedule=cosine,warmup=2,total=6", 8), &plain(&cosine, f64::INFINITY));
        let linear = |t: f64| 0.1 * (0.2 + 0.8 * (1.0 - (t / 5.0).min(1.0)));
        close(&run("sgd:lr=0.1,schedule=linear,total=5,min=0.2", 8), &plain(&linear, f64::INFINITY));
        let step = |t: f64| 0.1 * 0.5f64.powf((t / 3.0).floor());
        close(&run("sgd:lr=0.1,schedule=step,every=3,gamma=0.5,clip_norm=0.7", 8), &plain(&step, 0.7));
    }

    #[test]
    fn wrong_specs_say_what_is_wrong() {
        let wrong = |t: &str| t.parse::<OptimizerSpec>().expect_err("must not read").to_string();
        insta::assert_snapshot!(wrong("lion:lr=1"), @"E0330: `lion:lr=1`: there is no optimizer `lion`; there are none, sgd, adam and adamw; an example is `adamw:lr=1e-3,weight_decay=0.01,clip_norm=1.0,schedule=cosine,warmup=100,total=1000`");
        insta::assert_snapshot!(wrong("sgd:beta=1"), @"E0330: `sgd:beta=1`: there is no option `beta`; there is lr, momentum, nesterov, weight_decay, beta1, beta2, eps, clip_norm, master, schedule, warmup, total, min, every and gamma; an example is `adamw:lr=1e-3,weight_decay=0.01,clip_norm=1.0,schedule=cosine,warmup=100,total=1000`");
        insta::assert_snapshot!(wrong("adam:schedule=cosine"), @"E0330: `adam:schedule=cosine`: the schedule needs `total` steps, more than `warmup`; an example is `adamw:lr=1e-3,weight_decay=0.01,clip_norm=1.0,schedule=cosine,warmup=100,total=1000`");
        insta::assert_snapshot!(wrong("adam:lr=nan"), @"E0330: `adam:lr=nan`: `lr` must be a finite number; an example is `adamw:lr=1e-3,weight_decay=0.01,clip_norm=1.0,schedule=cosine,warmup=100,total=1000`");
    }
}
