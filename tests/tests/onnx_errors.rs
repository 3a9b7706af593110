//! Models made by hand, each wrong in one way: the class, the code and the message.

#![allow(clippy::unwrap_used, clippy::panic)]

use girih_compiler::import::error::ImportError;
use girih_compiler::import::onnx::proto::{
    AttributeProto, DimensionProto, FunctionProto, GraphProto, ModelProto, NodeProto, OperatorSetId, StringStringEntry, TensorProto,
    TensorShapeProto, TensorTypeProto, TypeProto, ValueInfoProto, attribute_type, data_type,
};
use girih_compiler::import::onnx::{self, ImportOptions, Imported};
use girih_ir::graph::Role;
use prost::Message;

fn dim(d: &str) -> DimensionProto {
    match d.parse() {
        Ok(v) => DimensionProto { dim_value: Some(v), ..Default::default() },
        Err(_) => DimensionProto { dim_param: Some(d.into()), ..Default::default() },
    }
}

fn value(name: &str, elem_type: i32, dims: &[&str]) -> ValueInfoProto {
    let shape = Some(TensorShapeProto { dim: dims.iter().map(|d| dim(d)).collect() });
    let tensor_type = Some(TensorTypeProto { elem_type: Some(elem_type), shape });
    ValueInfoProto { name: Some(name.into()), r#type: Some(TypeProto { tensor_type, ..Default::default() }) }
}

fn node(op: &str, inputs: &[&str], outputs: &[&str]) -> NodeProto {
    let list = |l: &[&str]| l.iter().map(|s| s.to_string()).collect();
    NodeProto { op_type: Some(op.into()), name: Some(format!("n_{op}")), input: list(inputs), output: list(outputs), ..Default::default() }
}

fn with(mut node: NodeProto, attribute: AttributeProto) -> NodeProto {
    node.attribute.push(attribute);
    node
}

fn int(name: &str, v: i64) -> AttributeProto {
    AttributeProto { name: Some(name.into()), r#type: Some(attribute_type::INT), i: Some(v), ..Default::default() }
}

fn graph_attribute(name: &str, graph: GraphProto) -> AttributeProto {
    AttributeProto { name: Some(name.into()), r#type: Some(attribute_type::GRAPH), g: Some(Box::new(graph)), ..Default::default() }
}

fn floats(name: &str, dims: &[i64], values: &[f32]) -> TensorProto {
    TensorProto {
        name: Some(name.into()),
        dims: dims.to_vec(),
        data_type: Some(data_type::FLOAT),
        float_data: values.to_vec(),
        ..Default::default()
    }
}

fn ints(name: &str, values: &[i64]) -> TensorProto {
    TensorProto {
        name: Some(name.into()),
        dims: vec![values.len() as i64],
        data_type: Some(data_type::INT64),
        int64_data: values.to_vec(),
        ..Default::default()
    }
}

/// A model `x: f32[2, 3] -> y` of these nodes and initializers.
fn model(node: Vec<NodeProto>, initializer: Vec<TensorProto>) -> ModelProto {
    let graph = GraphProto {
        node,
        initializer,
        name: Some("g".into()),
        input: vec![value("x", data_type::FLOAT, &["2", "3"])],
        output: vec![value("y", data_type::FLOAT, &["2", "3"])],
        ..Default::default()
    };
    let opset_import = vec![OperatorSetId { domain: None, version: Some(20) }];
    ModelProto { ir_version: Some(10), opset_import, graph: Some(graph), ..Default::default() }
}

fn import(model: &ModelProto) -> Result<Imported, ImportError> {
    onnx::import_bytes(model.encode_to_vec(), &ImportOptions::default())
}

fn refused(model: &ModelProto) -> String {
    let e = import(model).unwrap_err();
    format!("{} exit {}: {e}", e.code(), e.exit_code())
}

#[test]
fn structure() {
    let mut lines = Vec::new();
    lines.push(refused(&ModelProto::default()));
    lines.push(refused(&model(vec![node("Relu", &["nowhere"], &["y"])], vec![])));
    lines.push(refused(&model(vec![node("Relu", &["b"], &["y"]), node("Relu", &["y"], &["b"])], vec![])));
    lines.push(refused(&model(vec![node("Relu", &["x"], &["y"]), node("Neg", &["x"], &["y"])], vec![])));
    lines.push(refused(&model(vec![node("Relu", &["x"], &["z"])], vec![])));
    lines.push(refused(&model(vec![node("Relu", &[], &["y"])], vec![])));
    let mut no_opset = model(vec![node("Relu", &["x"], &["y"])], vec![]);
    no_opset.opset_import.clear();
    lines.push(refused(&no_opset));
    let mut long = model(vec![node("Relu", &["x"], &["y"])], vec![]);
    long.graph.as_mut().unwrap().node[0].name = Some("n".repeat(5000));
    lines.push(refused(&long));
    insta::assert_snapshot!(lines.join("\n"));
}

#[test]
fn tensors_and_shapes() {
    let add = || vec![node("Add", &["x", "w"], &["y"])];
    let mut lines = Vec::new();
    lines.push(refused(&model(add(), vec![floats("w", &[3], &[1.0, 2.0])])));
    lines.push(refused(&model(add(), vec![floats("w", &[-3], &[])])));
    lines.push(refused(&model(add(), vec![floats("w", &[1 << 20, 1 << 20, 1 << 20], &[])])));
    lines.push(refused(&model(add(), vec![floats("w", &[5], &[0.0; 5])])));
    lines.push(refused(&model(add(), vec![ints("w", &[1, 2, 3])])));
    lines.push(refused(&model(vec![node("Reshape", &["x", "s"], &["y"])], vec![ints("s", &[4, -1])])));
    lines.push(refused(&model(vec![with(node("Softmax", &["x"], &["y"]), int("axis", 7))], vec![])));
    lines.push(refused(&model(vec![node("MatMul", &["x", "x"], &["y"])], vec![])));
    let entry = |k: &str, v: &str| StringStringEntry { key: Some(k.into()), value: Some(v.into()) };
    let outside = TensorProto {
        data_location: Some(1),
        external_data: vec![entry("location", "../../etc/passwd"), entry("length", "12")],
        ..floats("w", &[3], &[])
    };
    lines.push(refused(&model(add(), vec![outside])));
    insta::assert_snapshot!(lines.join("\n"));
}

#[test]
fn everything_unsupported_is_listed_at_once() {
    let nodes = vec![
        node("Frobnicate", &["x"], &["a"]),
        node("Relu", &["a"], &["b"]),
        node("StringNormalizer", &["b"], &["c"]),
        node("Add", &["c", "x"], &["d"]),
        with(node("Cast", &["x"], &["e"]), int("to", 8)),
        node("Reshape", &["x", "s"], &["f"]),
        node("Sum", &["d", "e", "f"], &["y"]),
    ];
    let mut m = model(nodes, vec![]);
    m.graph.as_mut().unwrap().input.push(value("s", data_type::INT64, &["2"]));
    insta::assert_snapshot!(refused(&m));
}

#[test]
fn symbolic_dimensions_must_be_bound() {
    let mut m = model(vec![node("Relu", &["x"], &["y"])], vec![]);
    m.graph.as_mut().unwrap().input[0] = value("x", data_type::FLOAT, &["batch", "length"]);
    insta::assert_snapshot!(refused(&m), @"E0130 exit 2: the model has dimensions without an extent: batch, length; give each one an extent: --batch N for the first dimension of inputs, --dim NAME=N for others");
    let options = ImportOptions { batch: Some(4), dims: [("length".to_string(), 7)].into(), ..Default::default() };
    let imported = onnx::import_bytes(m.encode_to_vec(), &options).unwrap();
    assert_eq!(imported.graph.shape(imported.graph.inputs[0].value), [4, 7]);
}

#[test]
fn nesting_and_recursion_are_bounded() {
    // A function that calls itself.
    let mut m = model(vec![NodeProto { domain: Some("f".into()), ..node("Self", &["x"], &["y"]) }], vec![]);
    m.functions.push(FunctionProto {
        name: Some("Self".into()),
        domain: Some("f".into()),
        input: vec!["a".into()],
        output: vec!["b".into()],
        node: vec![NodeProto { domain: Some("f".into()), ..node("Self", &["a"], &["b"]) }],
        ..Default::default()
    });
    assert!(refused(&m).contains("functions call each other too deeply"), "{}", refused(&m));
    // Branches inside branches, as deep as the scan lets them be.
    let constant = |graph: GraphProto| {
        let mut n = node("If", &["c"], &["y"]);
        n.attribute = vec![graph_attribute("then_branch", graph.clone()), graph_attribute("else_branch", GraphProto::default())];
        n
    };
    let leaf = GraphProto { node: vec![node("Relu", &["x"], &["y"])], output: vec![value("y", 1, &["2", "3"])], ..Default::default() };
    let mut graph = leaf;
    for _ in 0..28 {
        graph = GraphProto { node: vec![constant(graph)], output: vec![value("y", 1, &["2", "3"])], ..Default::default() };
    }
    let truth = TensorProto { name: Some("c".into()), data_type: Some(data_type::BOOL), int32_data: vec![1], ..Default::default() };
    import(&model(graph.node, vec![truth])).unwrap();
}

#[test]
fn loops_that_never_end_are_refused() {
    let body = GraphProto {
        input: vec![value("i", data_type::INT64, &[]), value("go", data_type::BOOL, &[]), value("v", 1, &["2", "3"])],
        node: vec![node("Identity", &["go"], &["more"]), node("Neg", &["v"], &["w"])],
        output: vec![value("more", data_type::BOOL, &[]), value("w", 1, &["2", "3"])],
        ..Default::default()
    };
    let forever = with(node("Loop", &["", "", "x"], &["y"]), graph_attribute("body", body));
    let text = refused(&model(vec![forever], vec![]));
    assert!(text.contains("exit 4") && text.contains("a loop of more than"), "{text}");
}

#[test]
fn sharing_and_roles_of_initializers() {
    let nodes = vec![
        node("Mul", &["x", "w"], &["a"]),
        node("Add", &["a", "w"], &["b"]),
        node("Mul", &["b", "scale"], &["c"]),
        node("Reshape", &["c", "s"], &["y"]),
    ];
    let tensors =
        vec![floats("w", &[3], &[1.0, 2.0, 3.0]), floats("scale", &[], &[0.5]), ints("s", &[3, -1]), floats("dead", &[2], &[0.0; 2])];
    let imported = import(&model(nodes, tensors)).unwrap();
    let inputs: Vec<(&str, Role)> = imported.graph.inputs.iter().map(|i| (i.name.as_str(), i.role)).collect();
    assert_eq!(inputs, [("x", Role::Data), ("w", Role::Param)]);
    assert_eq!(imported.unused, ["dead"]);
    assert_eq!(imported.initial["w"].to_f32().unwrap(), [1.0, 2.0, 3.0]);
    assert_eq!(imported.graph.shape(imported.graph.outputs[0].value), [3, 2]);
    let product = imported.graph.values().find(|v| imported.graph.origin(*v) == "Mul n_Mul").unwrap();
    assert_eq!(imported.graph.shape(product), [2, 3]);
}

#[test]
fn names_cannot_drive_the_terminal() {
    let mut m = model(vec![node("Frob\u{1b}[2J", &["x"], &["y"])], vec![]);
    m.graph.as_mut().unwrap().node[0].name = Some("<script>\u{202e}\u{7}".into());
    let text = refused(&m);
    assert!(!text.chars().any(|c| (c.is_control() && c != '\n') || c == '\u{202e}'), "{text:?}");
}
