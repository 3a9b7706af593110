//! Texts made by hand, each wrong in one way: the class, the code and the message. The files are `data/stablehlo/malformed/*.mlir`.

#![allow(clippy::unwrap_used, clippy::panic)]

use girih_compiler::import::stablehlo::{StablehloOptions, import_bytes};
use girih_tests::stablehlo_cases::{chunks, find_files};
use std::path::Path;

#[test]
fn malformed_texts_say_what_is_wrong() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("data/stablehlo/malformed");
    let mut lines = Vec::new();
    for file in find_files(&root).unwrap() {
        let name = file.file_name().unwrap().to_string_lossy().into_owned();
        for chunk in chunks(&name, &std::fs::read_to_string(&file).unwrap()) {
            let text = match import_bytes(chunk.text.as_bytes(), &StablehloOptions::default()) {
                Ok(_) => "accepted".to_string(),
                Err(e) => format!("{} exit {}: {e}", e.code(), e.exit_code()),
            };
            lines.push(format!("{}\n    {}", chunk.name, text.replace('\n', "\n    ")));
        }
    }
    assert!(lines.len() >= 20 && lines.iter().all(|l| !l.contains("accepted")), "{}", lines.join("\n"));
    insta::assert_snapshot!("malformed_texts", lines.join("\n"));
}

#[test]
fn nesting_is_bounded() {
    let deep = |open: &str, close: &str| {
        let text = format!("func.func @main() {{ \"a.b\"() {{x = {}1{}}} : () -> () }}", open.repeat(100_000), close.repeat(100_000));
        import_bytes(text.as_bytes(), &StablehloOptions::default()).map(|_| ()).unwrap_err()
    };
    for (open, close) in [("[", "]"), ("{y = ", "}"), ("dense<[", "]>")] {
        let error = deep(open, close);
        assert_eq!(error.exit_code(), 3, "{open}: {error}");
    }
}

#[test]
fn names_cannot_drive_the_terminal() {
    let text = "func.func @main(%x: tensor<f32>) -> tensor<f32> { %0 = \"a\u{1b}[2J.\u{202e}b\"(%x) : (tensor<f32>) -> tensor<f32> return %0 : tensor<f32> }";
    let message = import_bytes(text.as_bytes(), &StablehloOptions::default()).map(|_| ()).unwrap_err().to_string();
    assert!(!message.chars().any(|c| (c.is_control() && c != '\n') || c == '\u{202e}'), "{message:?}");
}
