//! Damaged ONNX models that are well formed but claim absurd things.

use crate::damage::Random;
use girih_compiler::import::onnx::ops;
use girih_compiler::import::onnx::proto::{AttributeProto, GraphProto, ModelProto, NodeProto, TensorProto};
use prost::Message;

/// Changes what a decoded model says in one to four places.
pub fn absurd(original: &ModelProto, random: &mut Random) -> Vec<u8> {
    let mut model = original.clone();
    for _ in 0..1 + random.below(4) {
        if random.below(12) == 0 {
            let version = [1, 6, 7, 9, 10, 11, 12, 13, 18, 21, 24, 27, 99][random.below(13)];
            model.opset_import.iter_mut().for_each(|o| o.version = Some(version));
        } else if let Some(graph) = &mut model.graph {
            change_graph(graph, random);
        }
    }
    model.encode_to_vec()
}

fn change_graph(graph: &mut GraphProto, random: &mut Random) {
    let (nodes, inputs, tensors) = (graph.node.len(), graph.input.len(), graph.initializer.len());
    match random.below(8) {
        0 if inputs > 0 => {
            let shape = graph.input[random.below(inputs)].r#type.as_mut().and_then(|t| t.tensor_type.as_mut());
            if let Some(tensor) = shape {
                if random.below(4) == 0 {
                    tensor.elem_type = Some(random.below(18) as i32);
                } else if let Some(shape) = &mut tensor.shape {
                    let at = random.below(shape.dim.len());
                    match (shape.dim.get_mut(at), random.below(3)) {
                        (Some(d), 0 | 1) => d.dim_value = Some(random.absurd()),
                        (Some(_), _) => drop(shape.dim.remove(at)),
                        (None, _) => shape.dim.push(Default::default()),
                    }
                }
            }
        }
        1 if tensors > 0 => change_tensor(&mut graph.initializer[random.below(tensors)], random),
        2 if nodes > 1 => {
            let (a, b) = (random.below(nodes), random.below(nodes));
            graph.node.swap(a, b);
        }
        _ if nodes > 0 => {
            let names: Vec<String> =
                graph.node.iter().flat_map(|n| n.output.clone()).chain(graph.input.iter().filter_map(|i| i.name.clone())).collect();
            change_node(&mut graph.node[random.below(nodes)], &names, random);
        }
        _ => {}
    }
}

fn change_node(node: &mut NodeProto, names: &[String], random: &mut Random) {
    match random.below(8) {
        0 => {
            let known = ops::names();
            node.op_type = Some(known[random.below(known.len())].to_string());
        }
        1 if !node.input.is_empty() => {
            let at = random.below(node.input.len());
            node.input[at] = if random.below(3) == 0 { String::new() } else { names[random.below(names.len())].clone() };
        }
        2 => node.input.push(names[random.below(names.len())].clone()),
        3 => drop(node.input.pop()),
        4 => node.output.push(format!("extra{}", random.below(1000))),
        5 if !node.attribute.is_empty() => {
            let at = random.below(node.attribute.len());
            node.attribute.remove(at);
        }
        _ if !node.attribute.is_empty() => {
            let at = random.below(node.attribute.len());
            change_attribute(&mut node.attribute[at], random);
        }
        _ => {}
    }
}

fn change_attribute(attribute: &mut AttributeProto, random: &mut Random) {
    if let Some(graph) = &mut attribute.g {
        change_graph(graph, random);
    } else if let Some(tensor) = &mut attribute.t {
        change_tensor(tensor, random);
    } else if attribute.i.is_some() {
        attribute.i = Some(random.absurd());
    } else if attribute.f.is_some() {
        attribute.f = Some([0.0, -1.0, f32::NAN, f32::INFINITY, 1e38, 1e-38][random.below(6)]);
    } else if !attribute.ints.is_empty() {
        let at = random.below(attribute.ints.len());
        match random.below(4) {
            0 => drop(attribute.ints.remove(at)),
            1 => attribute.ints.push(random.absurd()),
            _ => attribute.ints[at] = random.absurd(),
        }
    } else if attribute.s.is_some() {
        attribute.s = Some(vec![random.next() as u8; random.below(4)].into());
    } else {
        attribute.r#type = Some(random.below(15) as i32);
    }
}

fn change_tensor(tensor: &mut TensorProto, random: &mut Random) {
    match random.below(5) {
        0 => tensor.data_type = Some(random.below(18) as i32),
        1 => tensor.dims.push(random.absurd()),
        2 if !tensor.dims.is_empty() => {
            let at = random.below(tensor.dims.len());
            tensor.dims[at] = random.absurd();
        }
        3 if !tensor.int64_data.is_empty() => {
            let at = random.below(tensor.int64_data.len());
            tensor.int64_data[at] = random.absurd();
        }
        _ => {
            if let Some(raw) = &tensor.raw_data {
                let mut bytes = raw.to_vec();
                if bytes.len().is_multiple_of(8) && !bytes.is_empty() {
                    let at = random.below(bytes.len() / 8) * 8;
                    bytes[at..at + 8].copy_from_slice(&random.absurd().to_le_bytes());
                }
                tensor.raw_data = Some(bytes.into());
            }
        }
    }
}
