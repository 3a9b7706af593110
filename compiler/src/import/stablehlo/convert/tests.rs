use super::super::{StablehloOptions, convert, default_entry, read};
use super::*;
use girih_ir::interp;

/// Converts a text with checks, runs it, and says which check failed.
fn check(text: &str) -> Result<usize, String> {
    let module = read(text.as_bytes(), &Default::default()).map_err(|p| p.to_string())?;
    let options = StablehloOptions { checks: true, ..StablehloOptions::default() };
    let entry = default_entry(&module).unwrap_or("main");
    let imported = convert::convert(&module, entry, &options).map_err(|e| format!("{}: {e}", e.code()))?;
    let inputs: Vec<Tensor> = Vec::new();
    let out = interp::eval(&imported.graph, &inputs).map_err(|e| e.to_string())?;
    for c in &imported.checks {
        let (got, want) = (out[c.got].floats(), out[c.want].floats());
        let same = |(a, b): (&f64, &f64)| a == b || (a.is_nan() && b.is_nan()) || (c.kind != CheckKind::Exact && (a - b).abs() < 1e-3);
        if !got.iter().zip(&want).all(same) {
            return Err(format!("{}: {got:?} instead of {want:?}", c.place));
        }
    }
    Ok(imported.checks.len())
}

fn body(ops: &str) -> String {
    format!("func.func @main() {{ {ops}\n func.return }}")
}

#[test]
fn arithmetic() {
    let text = body(
        "%a = stablehlo.constant dense<[1.0, -2.0]> : tensor<2xf32>
         %b = stablehlo.add %a, %a : tensor<2xf32>
         check.expect_eq_const %b, dense<[2.0, -4.0]> : tensor<2xf32>",
    );
    assert_eq!(check(&text), Ok(1));
}
