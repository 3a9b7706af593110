//! The examples do what they say.

#![allow(clippy::unwrap_used, clippy::panic)]

#[path = "../examples/one_pass.rs"]
#[allow(dead_code)]
mod one_pass;
#[path = "../examples/target_file.rs"]
#[allow(dead_code)]
mod target_file;
#[path = "../examples/train_from_rust.rs"]
#[allow(dead_code)]
mod train_from_rust;

use girih::{Target, passes};

#[test]
fn training_from_rust_gives_the_same_losses_on_both_targets() {
    let of = |name: &str| train_from_rust::losses(&Target::builtin(name).unwrap()).unwrap();
    let (mesh, host) = (of("dojo-tile"), of("host"));
    assert_eq!((mesh.len(), host.len()), (6, 6));
    for (a, b) in mesh.iter().zip(&host) {
        assert!((a - b).abs() < 1e-4, "{mesh:?} {host:?}");
    }
    assert!(host[5] < host[0], "{host:?}");
    let dir = tempfile::tempdir().unwrap();
    let resumed = train_from_rust::interrupted(&Target::builtin("host").unwrap(), dir.path()).unwrap();
    assert_eq!(resumed, host, "an interrupted run goes on as if nothing had happened, to the bit");
}

#[test]
fn single_passes_run_from_text_to_text() {
    let levels = one_pass::levels().unwrap();
    assert_eq!(levels.iter().map(|l| l.0).collect::<Vec<_>>(), passes::names());
    let begins = |name: &str, start: &str| {
        let text = &levels.iter().find(|l| l.0 == name).unwrap().1;
        assert!(text.starts_with(start) && text.contains("; "), "{name}: {text}");
    };
    begins("autodiff", "step {");
    begins("lower", "program \"layer\"");
    assert!(levels.iter().any(|(name, text)| *name == "partition" && text.contains("== partition\nmesh 2x2")), "{levels:?}");
}

#[test]
fn target_files_are_read_back() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("half.toml");
    let (dies, seconds) = target_file::compare(&path).unwrap();
    assert_eq!(dies, 24);
    assert!(seconds > 1e-7 && seconds < 1e-2, "{seconds}");
    assert!(std::fs::read_to_string(&path).unwrap().contains("name = \"half-tile\""));
}
