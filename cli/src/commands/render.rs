//! Diagnostics the way rustc shows them.

use annotate_snippets::{AnnotationKind, Group, Level, Origin, Renderer, Snippet};
use girih::Diagnostic;
use std::io::Write;

/// Renders a diagnostic.
pub fn render(d: &Diagnostic, renderer: &Renderer) -> String {
    let mut group = Group::with_title(Level::ERROR.primary_title(d.title.as_str()).id(d.code));
    if let Some(s) = &d.snippet {
        let end = s.text[s.at..].chars().next().map_or(s.at, |c| s.at + c.len_utf8());
        let mark = AnnotationKind::Primary.span(s.at..end);
        group = group.element(Snippet::source(s.text.as_str()).path(s.path.as_str()).line_start(s.line).annotation(mark));
    }
    if let Some(place) = &d.place {
        group = group.element(Origin::path(place.as_str()));
    }
    for note in &d.notes {
        group = group.element(Level::NOTE.message(note.as_str()));
    }
    if let Some(help) = &d.help {
        group = group.element(Level::HELP.message(help.as_str()));
    }
    renderer.render(&[group])
}

/// Prints a diagnostic to standard error, in color where that is wanted.
pub fn print(d: &Diagnostic) {
    // A message that cannot be shown does not change how the command ends.
    let _ = writeln!(anstream::stderr(), "{}", render(d, &Renderer::styled()));
}

#[cfg(test)]
mod tests {
    use super::*;
    use girih::Error;
    use std::path::Path;

    fn check(error: Error) -> String {
        render(&error.diagnostic(), &Renderer::plain())
    }

    #[test]
    fn errors_in_texts_show_the_line() {
        let text = "graph @g(%x: f32[4] input \"x\") {\n  %y = frobnicate %x\n  return %y \"y\"\n}\n";
        let error = girih::Model::from_text(text, Path::new("g.gir")).unwrap_err();
        assert_eq!(error.exit_code(), 3);
        insta::assert_snapshot!(check(error));
    }

    #[test]
    fn names_from_files_cannot_drive_the_terminal() {
        let error = Error::Usage { what: "a\u{1b}[2Jb".into(), help: "c\u{202e}d".into() };
        insta::assert_snapshot!(check(error));
    }

    #[test]
    fn what_does_not_fit_is_listed() {
        use girih_compiler::memory::{DoesNotFit, LiveRegion, Repair};
        let region = |tensor: &str, bytes, state| LiveRegion { tensor: tensor.into(), bytes, origin: "layer1/Conv".into(), state };
        let report = Box::new(DoesNotFit {
            die: girih_ir::target::DieId(3),
            need: 600 << 20,
            have: 442_500_000,
            at: "%12 = dot_general fc1".into(),
            live: vec![region("fc1.weight", 400 << 20, true), region("%12 (dot_general)", 9 << 20, false)],
            others: (12, 77 << 10),
            refused: vec!["no slices of the batch: E0830: the step has no batch".into()],
            repairs: vec![Repair { flag: "--dies 25".into(), peak: 400 << 20, picoseconds: 12_300_000 }],
        });
        let error = Error::DoesNotFit { report, at: Some(girih_ir::target::Coord::new(0, 3)) };
        assert_eq!((error.code(), error.exit_code()), ("E0901", 5));
        insta::assert_snapshot!(check(error));
    }
}
