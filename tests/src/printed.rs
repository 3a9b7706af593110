//! What the reference interpreter prints, as comments of its test files state it: the arguments of a function and its results.
//!
//! `// RUN: … --args="[dense<1> : tensor<i32>, …]"` gives the arguments; `// CHECK:` and `// CHECK-NEXT:` lines show every result as
//! `tensor<2xi32> { [3, 3] }`. A result that shows this way must be equal to the constant that its text is.

use girih_compiler::import::stablehlo::StablehloOptions;
use girih_compiler::import::stablehlo::import_bytes;
use girih_ir::interp;
use girih_ir::tensor::Tensor;

/// A constant by its elements and its type as the file writes them.
type Constant = (String, String);

/// The text of the comments that a line of the reference's file checker must match: the part after `CHECK:` and the like, joined.
fn expected(text: &str) -> String {
    let mut all = String::new();
    for line in text.lines() {
        let Some(comment) = line.trim_start().strip_prefix("//").map(str::trim_start) else { continue };
        let rest = ["CHECK:", "CHECK-NEXT:", "CHECK-NEXT{LITERAL}:", "CHECK{LITERAL}:"].iter().find_map(|p| comment.strip_prefix(p));
        if let Some(rest) = rest {
            all.push_str(rest);
            all.push(' ');
        }
    }
    all
}

/// `tensor<2xi32> { [3, 3] }` of each result; nothing when there is anything else.
fn shown(text: &str) -> Option<Vec<Constant>> {
    let (expected, mut found) = (expected(text), Vec::new());
    let mut rest = expected.trim();
    while !rest.is_empty() {
        let (ty, after) = rest.split_once('{')?;
        let (elements, after) = after.split_once('}')?;
        let ty = ty.trim();
        if !ty.starts_with("tensor<") {
            return None;
        }
        let elements = if ty.contains("complex<") { pairs(elements) } else { elements.trim().to_string() };
        found.push((elements, ty.to_string()));
        rest = after.trim_start();
    }
    Some(found).filter(|f| !f.is_empty())
}

/// Complex elements of a list, which are printed as `[re, im]`, as `(re, im)`.
fn pairs(elements: &str) -> String {
    let trimmed = elements.trim();
    let mut out = String::new();
    let mut depth = 0usize;
    for c in trimmed.chars() {
        match c {
            '[' => {
                depth += 1;
                out.push(if depth == 2 { '(' } else { '[' });
            }
            ']' => {
                out.push(if depth == 2 { ')' } else { ']' });
                depth = depth.saturating_sub(1);
            }
            other => out.push(other),
        }
    }
    out
}

/// The arguments that the first run of the file names.
fn arguments(text: &str) -> Option<Vec<Constant>> {
    let run = text.lines().find(|l| l.contains("RUN:"));
    let Some((_, list)) = run.and_then(|l| l.split_once("--args=\"[")) else { return Some(Vec::new()) };
    let (list, _) = list.split_once("]\"")?;
    let one = |c: &str| {
        let (elements, ty) = c.split_once("> : ")?;
        Some((elements.trim_start_matches([',', ' ']).to_string(), ty.trim_end_matches([',', ' ']).to_string()))
    };
    list.split("dense<").skip(1).map(one).collect()
}

/// The values of constants.
fn values(constants: &[Constant]) -> Result<Vec<Tensor>, String> {
    let mut ops = String::new();
    for (i, (elements, ty)) in constants.iter().enumerate() {
        ops.push_str(&format!("  %{i} = stablehlo.constant dense<{elements}> : {ty}\n"));
    }
    let types = constants.iter().map(|(_, t)| t.as_str()).collect::<Vec<_>>().join(", ");
    let names = (0..constants.len()).map(|i| format!("%{i}")).collect::<Vec<_>>().join(", ");
    let text = format!("func.func @main() -> ({types}) {{\n{ops}  func.return {names} : {types}\n}}\n");
    let imported = import_bytes(text.as_bytes(), &StablehloOptions::default()).map_err(|e| e.to_string())?;
    interp::eval(&imported.graph, &[]).map_err(|e| e.to_string())
}

/// The arguments that the file gives its function; `None` when it says them in a form that is not known.
pub fn given(text: &str) -> Option<Result<Vec<Tensor>, String>> {
    let constants = arguments(text)?;
    Some(if constants.is_empty() { Ok(Vec::new()) } else { values(&constants) })
}

/// The results that the file shows; `None` when it shows none.
pub fn results(text: &str) -> Option<Result<Vec<Tensor>, String>> {
    Some(values(&shown(text)?))
}

#[cfg(test)]
mod tests {
    use super::*;

    const TEXT: &str = "// RUN: x %s --args=\"[dense<1> : tensor<2xi32>, dense<[2, 3]> : tensor<2xi32>]\" | y\n\
                        // CHECK:      tensor<2xi32> {\n  // CHECK-NEXT:   [3, 4]\n// CHECK-NEXT: }\n// CHECK: tensor<ui8> {1}\n\
                        // CHECK-DENSE: dense<[3, 4]> : tensor<2xi32>\n";

    #[test]
    fn comments_become_tensors() {
        let ints = |t: Option<Result<Vec<Tensor>, String>>| t.unwrap().unwrap().iter().map(Tensor::ints).collect::<Vec<_>>();
        assert_eq!(ints(results(TEXT)), [vec![3, 4], vec![1]]);
        assert_eq!(ints(given(TEXT)), [[1, 1], [2, 3]]);
        assert!(results("// nothing to see").is_none());
        for without in ["// RUN: x %s", "func.func @main() {}"] {
            assert_eq!(ints(given(without)), Vec::<Vec<i64>>::new());
        }
    }

    #[test]
    fn complex_elements_are_pairs() {
        let text = "// CHECK: tensor<2xcomplex<f32>> {\n// CHECK-NEXT{LITERAL}: [[1.0, 2.0], [3.0, 4.0]]\n// CHECK-NEXT: }\n";
        let parts: Vec<Vec<f64>> = results(text).unwrap().unwrap().iter().map(Tensor::floats).collect();
        assert_eq!(parts, [[1.0, 3.0], [2.0, 4.0]]);
    }
}
