//! Whole training steps against closed forms.

use super::{LossSpec, OptimizerSpec, TrainOptions, train_step, train_step_with};
use girih_ir::graph::Graph;
use girih_ir::interp::eval;
use girih_ir::literal::Literal;
use girih_ir::step::{TrainStep, Weights};
use girih_ir::tensor::Tensor;
use girih_ir::text::parse_graph;
use girih_ir::types::{DType, TensorType};

fn graph(text: &str) -> Graph {
    parse_graph(text).unwrap_or_else(|e| panic!("{e}"))
}

fn f64s(shape: &[usize], v: &[f64]) -> Tensor {
    Tensor::new_float(TensorType::new(DType::F64, shape), v.to_vec())
}

fn ints(shape: &[usize], v: &[i64]) -> Tensor {
    Tensor::new_int(TensorType::new(DType::I64, shape), v.to_vec())
}

/// Runs a step once on data in input order and replaces the state. Returns the loss.
fn run(step: &TrainStep, state: &mut Weights, data: &[Tensor]) -> f64 {
    let mut data = data.iter();
    let inputs: Vec<Tensor> = (0..step.graph.inputs.len())
        .map(|i| match step.state.iter().find(|s| s.input == i) {
            Some(s) => Tensor::from_literal(&state[&s.name]),
            None => data.next().unwrap().clone(),
        })
        .collect();
    let out = eval(&step.graph, &inputs).unwrap();
    for s in &step.state {
        if let Some(o) = s.output {
            state.insert(s.name.clone(), out[o].to_literal());
        }
    }
    out[step.loss.unwrap()].floats()[0]
}

fn loss_of(spec: &str, text: &str, data: &[Tensor]) -> f64 {
    let mut g = graph(text);
    let spec: LossSpec = spec.parse().unwrap();
    let v = spec.build(&mut g).unwrap_or_else(|e| panic!("{e}"));
    g.outputs.clear();
    g.output("loss", v);
    eval(&g, data).unwrap()[0].floats()[0]
}

fn log_softmax(row: &[f64]) -> Vec<f64> {
    let max = row.iter().copied().fold(f64::MIN, f64::max);
    let sum: f64 = row.iter().map(|x| (x - max).exp()).sum();
    row.iter().map(|x| x - max - sum.ln()).collect()
}

const LOGITS: [f64; 6] = [0.5, -1.0, 2.0, 30.0, -2.5, 0.25];

#[test]
fn cross_entropy_is_the_mean_over_labels_that_count() {
    let (a, b) = (log_softmax(&LOGITS[..3]), log_softmax(&LOGITS[3..]));
    let text = "graph (%0: f64[2,3] \"x\") { return %0 \"y\" }";
    let x = f64s(&[2, 3], &LOGITS);
    let at = |spec: &str, labels: &[i64]| loss_of(spec, text, &[x.clone(), ints(&[2], labels)]);
    let close = |a: f64, b: f64| assert!((a - b).abs() < 1e-12, "{a} {b}");
    close(at("softmax_cross_entropy", &[2, 1]), -(a[2] + b[1]) / 2.0);
    close(at("softmax_cross_entropy", &[-100, 1]), -b[1]);
    close(at("softmax_cross_entropy:ignore_index=2", &[0, 2]), -a[0]);
    assert!(at("softmax_cross_entropy", &[-100, -100]).is_nan());
    // The class axis first: columns are rows now.
    let turned = f64s(&[3, 2], &[LOGITS[0], LOGITS[3], LOGITS[1], LOGITS[4], LOGITS[2], LOGITS[5]]);
    let text = "graph (%0: f64[3,2] \"x\", %1: i32[2] \"t\") { return %0 \"y\" }";
    let t = Tensor::new_int(TensorType::new(DType::I32, [2]), vec![2, 1]);
    close(loss_of("softmax_cross_entropy:axis=0,labels=t,logits=y", text, &[turned, t]), -(a[2] + b[1]) / 2.0);
    // Probabilities.
    let text = "graph (%0: f64[2,3] \"x\", %1: f64[2,3] \"labels\") { return %0 \"y\" }";
    let p = f64s(&[2, 3], &[0.2, 0.3, 0.5, 1.0, 0.0, 0.0]);
    let want = -(0.2 * a[0] + 0.3 * a[1] + 0.5 * a[2] + b[0]) / 2.0;
    close(loss_of("softmax_cross_entropy", text, &[x.clone(), p]), want);
}

#[test]
fn other_losses_match_their_formulas() {
    let text = "graph (%0: f64[2,3] \"x\") { return %0 \"y\" }";
    let t = [0.0, 1.0, 0.5, 1.0, 0.0, 1.0];
    let data = [f64s(&[2, 3], &LOGITS), f64s(&[2, 3], &t)];
    let sigmoid = |x: f64| 1.0 / (1.0 + (-x).exp());
    let bce: f64 = LOGITS.iter().zip(t).map(|(x, t)| -(t * sigmoid(*x).ln() + (1.0 - t) * sigmoid(-*x).ln())).sum::<f64>() / 6.0;
    assert!((loss_of("bce_with_logits", text, &data) - bce).abs() < 1e-12);
    let mse: f64 = LOGITS.iter().zip(t).map(|(x, t)| (x - t).powi(2)).sum::<f64>() / 6.0;
    assert!((loss_of("mse:output=y", text, &data) - mse).abs() < 1e-12);
    let scalar = "graph (%0: f64[1,1] \"x\") { return %0 \"a:b\" }";
    assert_eq!(loss_of("output:a:b", scalar, &[f64s(&[1, 1], &[7.5])]), 7.5);
}

const LINEAR: &str = "graph @linear(%0: f64[2,3] \"x\", %1: f64[3,3] param \"w\", %2: f64[3] param \"b\", %3: f64[2] param \"unused\") {
    %4 = dot_general %0, %1 {lhs_batch = [], rhs_batch = [], lhs_contract = [1], rhs_contract = [0]}
    %5 = broadcast %2 {shape = [2, 3], dims = [1]}
    %6 = add %4, %5
    return %6 \"logits\" }";

/// The model of [`LINEAR`] in plain arrays: parameters (w row by row, then b) and the gradient of the mean cross entropy.
fn linear_gradient(p: &[f64], x: &[f64], labels: &[usize]) -> Vec<f64> {
    let mut grad = vec![0.0; 12];
    for r in 0..2 {
        let logits: Vec<f64> = (0..3).map(|c| p[9 + c] + (0..3).map(|k| x[r * 3 + k] * p[k * 3 + c]).sum::<f64>()).collect();
        let l = log_softmax(&logits);
        for c in 0..3 {
            let d = (l[c].exp() - f64::from(u8::from(labels[r] == c))) / 2.0;
            grad[9 + c] += d;
            (0..3).for_each(|k| grad[k * 3 + c] += x[r * 3 + k] * d);
        }
    }
    grad
}

/// Five steps by the compiled step and by `reference(step, parameters, gradient)`, which keeps its own slots.
fn check_optimizer(spec: &str, mut reference: impl FnMut(i32, &mut [f64], &[f64])) {
    let optimizer: OptimizerSpec = spec.parse().unwrap_or_else(|e| panic!("{e}"));
    let loss: LossSpec = "softmax_cross_entropy".parse().unwrap();
    let built = train_step(&graph(LINEAR), &loss, &optimizer, &[], &[]).unwrap_or_else(|e| panic!("{e}"));
    assert_eq!(built.unreached, ["unused"]);
    let start: Vec<f64> = (0..12).map(|i| (f64::from(i) * 0.7).sin()).collect();
    let mut weights = Weights::new();
    weights.insert("w".into(), f64s(&[3, 3], &start[..9]).to_literal());
    weights.insert("b".into(), f64s(&[3], &start[9..]).to_literal());
    weights.insert("unused".into(), f64s(&[2], &[1.0, 2.0]).to_literal());
    let mut state = built.initial(weights).unwrap();
    let mut p = start;
    for t in 1..=5 {
        let x: Vec<f64> = (0..6).map(|i| (f64::from(i * t) * 1.3).cos()).collect();
        let labels = [t as usize % 3, 1];
        run(&built.step, &mut state, &[f64s(&[2, 3], &x), ints(&[2], &[labels[0] as i64, labels[1] as i64])]);
        let g = linear_gradient(&p, &x, &labels);
        reference(t, &mut p, &g);
        let got: Vec<f64> = ["w", "b"].iter().flat_map(|n| Tensor::from_literal(&state[*n]).floats()).collect();
        for (a, b) in got.iter().zip(&p) {
            assert!((a - b).abs() < 1e-9 * (1.0 + b.abs()), "{spec}, step {t}: {got:?} instead of {p:?}");
        }
        assert_eq!(Tensor::from_literal(&state["unused"]).floats(), [1.0, 2.0]);
    }
}

#[test]
fn sgd_is_pytorchs() {
    check_optimizer("sgd:lr=0.1", |_, p, g| p.iter_mut().zip(g).for_each(|(p, g)| *p -= 0.1 * g));
    for nesterov in [false, true] {
        let mut buffer = [0.0; 12];
        let spec = format!("sgd:lr=0.1,momentum=0.9,weight_decay=0.01{}", if nesterov { ",nesterov" } else { "" });
        check_optimizer(&spec, |t, p, g| {
            for i in 0..12 {
                let g = g[i] + 0.01 * p[i];
                buffer[i] = if t == 1 { g } else { 0.9 * buffer[i] + g };
                p[i] -= 0.1 * if nesterov { g + 0.9 * buffer[i] } else { buffer[i] };
            }
        });
    }
}

#[test]
fn adam_and_adamw_are_pytorchs() {
    for decoupled in [false, true] {
        let (mut m, mut v) = (vec![0.0; 12], vec![0.0; 12]);
        let name = if decoupled { "adamw" } else { "adam" };
        check_optimizer(&format!("{name}:lr=0.05,beta1=0.8,beta2=0.99,eps=1e-6,weight_decay=0.1"), |t, p, g| {
            for i in 0..12 {
                let mut g = g[i];
                if decoupled {
                    p[i] *= 1.0 - 0.05 * 0.1;
                } else {
                    g += 0.1 * p[i];
                }
                m[i] = 0.8 * m[i] + 0.2 * g;
                v[i] = 0.99 * v[i] + 0.01 * g * g;
                let (m_hat, v_hat) = (m[i] / (1.0 - 0.8f64.powi(t)), v[i] / (1.0 - 0.99f64.powi(t)));
                p[i] -= 0.05 * m_hat / (v_hat.sqrt() + 1e-6);
            }
        });
    }
}

#[test]
fn clipping_and_schedules_follow_their_formulas() {
    check_optimizer("sgd:lr=0.5,clip_norm=0.05", |_, p, g| {
        let norm = g.iter().map(|g| g * g).sum::<f64>().sqrt();
        let factor = (0.05 / (norm + 1e-6)).min(1.0);
        p.iter_mut().zip(g).for_each(|(p, g)| *p -= 0.5 * factor * g);
    });
    let schedules: [(&str, fn(f64) -> f64); 4] = [
        ("linear:warmup=2,total=4", |t| if t < 2.0 { (t + 1.0) / 2.0 } else { ((4.0 - t) / 2.0).max(0.0) }),
        ("cosine:total=3,min=0.1", |t| 0.1 + 0.9 * 0.5 * (1.0 + (std::f64::consts::PI * (t / 3.0).min(1.0)).cos())),
        ("cosine:warmup=1,total=4", |t| {
            if t < 1.0 { t + 1.0 } else { 0.5 * (1.0 + (std::f64::consts::PI * ((t - 1.0) / 3.0).min(1.0)).cos()) }
        }),
        ("step:every=2,gamma=0.3", |t| 0.3f64.powf((t / 2.0).floor())),
    ];
    for (text, factor) in schedules {
        check_optimizer(&format!("sgd:lr=0.5,schedule={text}"), |t, p, g| {
            p.iter_mut().zip(g).for_each(|(p, g)| *p -= 0.5 * factor(f64::from(t - 1)) * g);
        });
    }
}

#[test]
fn narrow_parameters_train_with_and_without_master_copies() {
    let text =
        "graph (%0: bf16[4] \"x\", %1: bf16[4] param \"w\") { %2 = mul %0, %1 %3 = reduce %2 {monoid = sum, dims = [0]} return %3 \"s\" }";
    let loss = "output".parse().unwrap();
    for (spec, moves) in [("sgd:lr=1e-4", false), ("sgd:lr=1e-4,master", true)] {
        let built = train_step(&graph(text), &loss, &spec.parse().unwrap(), &[], &[]).unwrap();
        let one = Tensor::new_float(TensorType::new(DType::BF16, [4]), vec![1.0; 4]);
        let mut state = built.initial(Weights::from([("w".to_string(), one.to_literal())])).unwrap();
        (0..60).for_each(|_| {
            run(&built.step, &mut state, std::slice::from_ref(&one));
        });
        let w = Tensor::from_literal(&state["w"]).floats()[0];
        assert_eq!(w < 1.0, moves, "{spec}: {w}");
    }
}

#[test]
fn frozen_extra_state_and_metrics() {
    let text = "graph (%0: f32[2] \"x\", %1: f32[2] param \"w\", %2: f32[2] param \"fixed\", %3: f32[2] state \"mean\") {
        %4 = mul %0, %1
        %5 = add %4, %2
        %6 = add %3, %0
        return %5 \"y\", %6 \"mean_out\" }";
    let options = TrainOptions {
        trainable: Some(vec!["w".into()]),
        keep: vec!["y".into()],
        carried: vec![("mean".into(), "mean_out".into())],
        seed: 3,
    };
    let (loss, adam) = ("mse:output=y".parse().unwrap(), "adam:lr=0.1,clip_norm=1".parse().unwrap());
    let built = train_step_with(&graph(text), &loss, &adam, &options).unwrap();
    let names: Vec<&str> = built.step.graph.outputs.iter().map(|o| o.name.as_str()).collect();
    assert_eq!(names, ["w", "opt/m/w", "opt/v/w", "opt/step", "mean", "loss", "y"]);
    let fixed = built.step.state.iter().find(|s| s.name == "fixed").unwrap();
    assert_eq!(fixed.output, None);
    assert_eq!(built.step.result_outputs(), [5, 6]);
    let zeros = |n: &str| (n.to_string(), Literal::zeros(TensorType::new(DType::F32, [2])));
    let missing = built.initial(Weights::from([zeros("w"), zeros("mean")])).unwrap_err();
    assert!(missing.to_string().starts_with("E0265: `fixed`"), "{missing}");
    assert!(built.initial(Weights::from([zeros("w"), zeros("mean"), zeros("fixed")])).is_ok());
}

#[test]
fn a_tiny_step_reads_well() {
    let text = "graph @tiny(%0: f32[4,3] input \"x\", %1: f32[3,2] param \"w\") {
        %2 = dot_general %0, %1 {lhs_batch = [], rhs_batch = [], lhs_contract = [1], rhs_contract = [0]} @\"fc\"
        return %2 \"y\" }";
    let loss = "mse".parse().unwrap();
    let built = train_step(&graph(text), &loss, &"sgd:lr=0.1,momentum=0.9".parse().unwrap(), &[], &[]).unwrap();
    let mut step = built.step;
    step.graph = crate::canonicalize::canonicalize(&step.graph).0;
    assert_eq!(step.verify(), Ok(()));
    insta::assert_snapshot!(step.to_string());
    let gradients = train_step(&graph(text), &loss, &"none".parse().unwrap(), &[], &[]).unwrap();
    assert_eq!(gradients.step.graph.outputs[1].name, "grad/w");
    assert!(gradients.slots.is_empty());
}

#[test]
fn mistakes_are_explained() {
    let mut all = String::new();
    for spec in ["adam:beta1=1", "sgd:nesterov", "sgd:schedule=linear:warmup=3", "sgd:schedule=step:every=0", "sgd:schedule=poly"] {
        all.push_str(&format!("{}\n", spec.parse::<OptimizerSpec>().unwrap_err()));
    }
    let g = graph(
        "graph (%0: f32[2,3] \"x\", %1: i8[2] param \"q\", %2: f32[5] \"t\", %4: f32[1] param \"w\") {
            %3 = neg %0
            return %0 \"a\", %3 \"b\", %1 \"c\" }",
    );
    let sgd: OptimizerSpec = "sgd".parse().unwrap();
    let mut fails = |loss: &str, options: TrainOptions| {
        let e = train_step_with(&g, &loss.parse().unwrap(), &sgd, &options).unwrap_err();
        all.push_str(&format!("{e}\n"));
    };
    for loss in ["mse:output=z", "mse:output=a,labels=t", "mse:output=c", "softmax_cross_entropy:logits=a,labels=t"] {
        fails(loss, TrainOptions::default());
    }
    for loss in ["softmax_cross_entropy:logits=a,axis=2", "output:a", "mse:output=a"] {
        fails(loss, TrainOptions::default());
    }
    fails("mse:output=a", TrainOptions { trainable: Some(vec!["q".into()]), ..TrainOptions::default() });
    fails("mse:output=a", TrainOptions { keep: vec!["n".into()], ..TrainOptions::default() });
    fails("mse:output=a", TrainOptions { carried: vec![("x".into(), "a".into())], ..TrainOptions::default() });
    insta::assert_snapshot!(all);
}
