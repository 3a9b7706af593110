//! Models that draw random numbers: every step draws anew, and the same numbers on every machine.

#![allow(clippy::unwrap_used, clippy::panic)]

use girih_compiler::import::onnx::proto::{
    AttributeProto, DimensionProto, GraphProto, ModelProto, NodeProto, OperatorSetId, StringStringEntry, TensorProto, TensorShapeProto,
    TensorTypeProto, TypeProto, ValueInfoProto, ValueNoteProto, attribute_type, data_type,
};
use girih_compiler::import::onnx::{self, ImportOptions, Imported};
use girih_compiler::train::train_step;
use girih_ir::graph::Role;
use girih_ir::literal::Literal;
use girih_ir::step::Weights;
use girih_ir::tensor::Tensor;
use girih_tests::corpus::Tensors;
use girih_tests::corpus::engine::{Engine, EngineArgs};
use prost::Message;

const ROWS: usize = 32;
const COLUMNS: usize = 64;

fn value(name: &str, dims: &[usize]) -> ValueInfoProto {
    let dim = dims.iter().map(|d| DimensionProto { dim_value: Some(*d as i64), ..Default::default() }).collect();
    let tensor_type = Some(TensorTypeProto { elem_type: Some(data_type::FLOAT), shape: Some(TensorShapeProto { dim }) });
    ValueInfoProto { name: Some(name.into()), r#type: Some(TypeProto { tensor_type, ..Default::default() }) }
}

fn node(op: &str, inputs: &[&str], output: &str, attribute: Vec<AttributeProto>) -> NodeProto {
    let input = inputs.iter().map(ToString::to_string).collect();
    NodeProto { op_type: Some(op.into()), input, output: vec![output.into()], attribute, ..Default::default() }
}

fn scalar(name: &str, data_type: i32, value: f32) -> TensorProto {
    let mut t = TensorProto { name: Some(name.into()), data_type: Some(data_type), ..Default::default() };
    match data_type {
        data_type::BOOL => t.int32_data = vec![i32::from(value != 0.0)],
        _ => t.float_data = vec![value],
    }
    t
}

/// `x, w → y` of these nodes; `w` is one row of ones.
fn model(nodes: Vec<NodeProto>) -> ModelProto {
    let w = TensorProto {
        name: Some("w".into()),
        dims: vec![COLUMNS as i64],
        data_type: Some(data_type::FLOAT),
        float_data: vec![1.0; COLUMNS],
        ..Default::default()
    };
    let graph = GraphProto {
        node: nodes,
        initializer: vec![w, scalar("ratio", data_type::FLOAT, 0.25), scalar("training", data_type::BOOL, 1.0)],
        name: Some("g".into()),
        input: vec![value("x", &[ROWS, COLUMNS])],
        output: vec![value("y", &[ROWS, COLUMNS])],
        ..Default::default()
    };
    let opset_import = vec![OperatorSetId { domain: None, version: Some(17) }];
    ModelProto { ir_version: Some(8), opset_import, graph: Some(graph), ..Default::default() }
}

fn imported(model: &ModelProto) -> Imported {
    onnx::import_bytes(model.encode_to_vec(), &ImportOptions::default()).unwrap()
}

fn ones() -> Literal {
    let all = vec![1.0f32; ROWS * COLUMNS].iter().flat_map(|v| v.to_le_bytes()).collect::<Vec<u8>>();
    Literal::new(girih_ir::types::TensorType::new(girih_ir::types::DType::F32, [ROWS, COLUMNS]), all).unwrap()
}

/// The outputs `y` of three training steps.
fn steps(model: &Imported, args: EngineArgs) -> Vec<Vec<f64>> {
    let carried: Vec<(String, String)> = model.buffers.iter().map(|b| (b.input.clone(), b.output.clone())).collect();
    let loss = "mse:output=y,labels=labels".parse().unwrap();
    let keep = ["y".to_string()];
    let training = train_step(&model.graph, &loss, &"sgd:lr=0.0".parse().unwrap(), &carried, &keep).unwrap();
    let mut weights: Weights = model.initial.clone().into_iter().collect();
    weights.extend(training.slots);
    let mut stepper = Engine::new(&args).unwrap().start(training.step, weights).unwrap();
    let batch: Tensors = [("x".to_string(), ones()), ("labels".to_string(), ones())].into();
    (0..3).map(|_| Tensor::from_literal(&stepper.step(&batch).unwrap()["y"]).floats()).collect()
}

fn engines() -> Vec<EngineArgs> {
    let on = |target: &str, threads, dies| EngineArgs { target: target.into(), threads, dies, ..EngineArgs::default() };
    vec![on("host", 1, None), on("host", 3, None), on("dojo-tile", 2, Some(6))]
}

#[test]
fn dropout_differs_from_step_to_step_and_not_between_machines() {
    let nodes = vec![node("Mul", &["x", "w"], "h", vec![]), node("Dropout", &["h", "ratio", "training"], "y", vec![])];
    let model = imported(&model(nodes));
    let want = steps(&model, EngineArgs { target: "interp".into(), ..EngineArgs::default() });
    for y in &want {
        let dropped = y.iter().filter(|v| **v == 0.0).count() as f64 / y.len() as f64;
        assert!((dropped - 0.25).abs() < 0.05, "{dropped}");
        assert!(y.iter().all(|v| *v == 0.0 || (*v - 4.0 / 3.0).abs() < 1e-6));
    }
    assert!(want[0] != want[1] && want[1] != want[2]);
    for args in engines() {
        assert_eq!(steps(&model, args.clone()), want, "{args:?}");
    }
}

#[test]
fn normal_numbers_of_a_model_have_their_mean_and_deviation() {
    let number = |name: &str, v: f32| AttributeProto {
        name: Some(name.into()),
        r#type: Some(attribute_type::FLOAT),
        f: Some(v),
        ..Default::default()
    };
    let noise = node("RandomNormalLike", &["x"], "n", vec![number("mean", 3.0), number("scale", 2.0)]);
    let model = imported(&model(vec![noise, node("Mul", &["n", "w"], "y", vec![])]));
    let want = steps(&model, EngineArgs { target: "interp".into(), ..EngineArgs::default() });
    let n = want[0].len() as f64;
    let mean = want[0].iter().sum::<f64>() / n;
    let deviation = (want[0].iter().map(|v| (v - mean).powi(2)).sum::<f64>() / n).sqrt();
    assert!((mean - 3.0).abs() < 0.2 && (deviation - 2.0).abs() < 0.15, "{mean} {deviation}");
    for args in engines() {
        let got = steps(&model, args.clone());
        assert!(got.iter().flatten().zip(want.iter().flatten()).all(|(a, b)| (a - b).abs() < 1e-5), "{args:?}");
    }
}

#[test]
fn buffers_of_the_module_are_not_trained() {
    let mut model = model(vec![node("Mul", &["x", "w"], "y", vec![])]);
    let roles = |m: &ModelProto| imported(m).graph.inputs.iter().map(|i| (i.name.clone(), i.role)).collect::<Vec<_>>();
    assert!(roles(&model).contains(&("w".to_string(), Role::Param)));
    let note = StringStringEntry { key: Some("pkg.torch.export.graph_signature.InputSpec.kind".into()), value: Some("BUFFER".into()) };
    let info = ValueNoteProto { name: Some("w".into()), metadata_props: vec![note] };
    model.graph.as_mut().unwrap().value_info.push(info);
    assert_eq!(roles(&model), [("x".to_string(), Role::Data)]);
}
