//! `girih diff`: what differs between two files of a kind: programs, models, texts, targets line by line; tensors number by number.

use super::args::{ModelArgs, Purpose};
use super::output::{Failure, Outcome, Output, table};
use clap::Args;
use girih::{Compiled, Error, TargetSpec, files, tensors};
use girih_ir::literal::Literal;
use girih_ir::step::Weights;
use girih_ir::tensor::Tensor;
use serde_json::{Value, json};
use std::path::{Path, PathBuf};

/// Compare two programs, models, tensor files or targets
#[derive(Args, Debug)]
#[command(after_help = "Exit code 0 when they are equal, 1 when they differ.")]
pub struct Diff {
    /// A .girih, .onnx, .gir, .toml or .safetensors file
    a: PathBuf,
    /// Another one of the same kind
    b: PathBuf,
    #[command(flatten)]
    model: ModelArgs,
    /// Tensors may differ by this much
    #[arg(long, value_name = "X", default_value_t = 0.0)]
    atol: f64,
    /// Tensors may differ by this share of the second file's value
    #[arg(long, value_name = "X", default_value_t = 0.0)]
    rtol: f64,
    /// Equal lines around each difference
    #[arg(long, value_name = "N", default_value_t = 3)]
    context: usize,
}

impl Diff {
    /// Runs the command.
    pub fn run(self, out: &Output) -> Outcome {
        let kinds = (files::extension(&self.a), files::extension(&self.b));
        let equal = match (kinds.0.as_str(), kinds.1.as_str()) {
            ("safetensors", "safetensors") => self.tensors(out)?,
            (a, b) if a == b || (a != "safetensors" && b != "safetensors" && a != "girih" && b != "girih") => self.lines(out)?,
            (a, b) => {
                let what = format!("a .{a} file cannot be compared with a .{b} file");
                return Err(Error::Usage { what, help: "give two files of one kind".into() }.into());
            }
        };
        if equal { Ok(()) } else { Err(Failure::Exit(1)) }
    }

    fn text_of(&self, path: &Path) -> Outcome<String> {
        Ok(match files::extension(path).as_str() {
            "girih" => Compiled::open(path)?.program.to_string(),
            "toml" => TargetSpec::named(path.to_string_lossy()).open()?.to_toml(),
            "onnx" | "mlir" | "mlirbc" | "jaxexport" | "hlo.pb" => {
                self.model.prepare(&self.model.open(path)?, Purpose::Compile)?.step.to_string()
            }
            _ => files::read_text(path)?,
        })
    }

    fn lines(&self, out: &Output) -> Outcome<bool> {
        let (a, b) = (self.text_of(&self.a)?, self.text_of(&self.b)?);
        let (a, b): (Vec<&str>, Vec<&str>) = (a.lines().collect(), b.lines().collect());
        let edits = compare(&a, &b);
        let count = |kind: Edit| edits.iter().filter(|(e, _)| *e == kind).count();
        let (removed, added) = (count(Edit::Removed), count(Edit::Added));
        let equal = removed + added == 0;
        let text = || {
            if equal {
                return format!("equal: {} lines", a.len());
            }
            format!("{}{removed} lines removed, {added} added", hunks(&edits, self.context))
        };
        let list = |kind: Edit| -> Vec<&str> { edits.iter().filter(|(e, _)| *e == kind).map(|(_, l)| *l).collect() };
        out.result(text, || json!({ "equal": equal, "removed": list(Edit::Removed), "added": list(Edit::Added) }))?;
        Ok(equal)
    }

    fn tensors(&self, out: &Output) -> Outcome<bool> {
        let (a, b) = (tensors::open(&self.a)?, tensors::open(&self.b)?);
        let mut names: Vec<&String> = a.keys().chain(b.keys()).collect();
        names.sort_unstable();
        names.dedup();
        let compared: Vec<Compared> = names.into_iter().map(|n| self.tensor(n, &a, &b)).collect();
        let equal = compared.iter().all(|c| c.equal);
        let head = ["tensor", "largest difference", "of its value", "verdict"].map(String::from).to_vec();
        let row = |c: &Compared| vec![c.name.clone(), format!("{:.3e}", c.absolute), format!("{:.3e}", c.relative), c.verdict.clone()];
        let rows: Vec<Vec<String>> = std::iter::once(head).chain(compared.iter().map(row)).collect();
        let document = |c: &Compared| -> Value {
            json!({ "name": c.name, "equal": c.equal, "absolute": c.absolute, "relative": c.relative, "verdict": c.verdict })
        };
        out.result(|| table(&rows, true), || json!({ "equal": equal, "tensors": compared.iter().map(document).collect::<Vec<_>>() }))?;
        Ok(equal)
    }

    fn tensor(&self, name: &str, a: &Weights, b: &Weights) -> Compared {
        let unlike = |verdict: String| Compared { name: name.to_string(), absolute: 0.0, relative: 0.0, equal: false, verdict };
        let (x, y): (&Literal, &Literal) = match (a.get(name), b.get(name)) {
            (Some(x), Some(y)) => (x, y),
            (Some(_), None) => return unlike("only in the first".into()),
            _ => return unlike("only in the second".into()),
        };
        if x.ty() != y.ty() {
            return unlike(format!("{} against {}", x.ty(), y.ty()));
        }
        let (mut absolute, mut relative, mut inside) = (0f64, 0f64, true);
        for (x, y) in Tensor::from_literal(x).floats().into_iter().zip(Tensor::from_literal(y).floats()) {
            if x == y || (x.is_nan() && y.is_nan()) {
                continue;
            }
            let d = (x - y).abs();
            absolute = if d.is_nan() { f64::INFINITY } else { absolute.max(d) };
            relative = relative.max(d / y.abs());
            inside &= d <= self.atol + self.rtol * y.abs();
        }
        let verdict = match (inside, absolute > 0.0) {
            (true, false) => "equal",
            (true, true) => "within the tolerance",
            (false, _) => "differs",
        };
        Compared { name: name.to_string(), absolute, relative, equal: inside, verdict: verdict.into() }
    }
}

struct Compared {
    name: String,
    absolute: f64,
    relative: f64,
    equal: bool,
    verdict: String,
}

/// What happened to a line.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Edit {
    Same,
    Removed,
    Added,
}

/// Edits beyond which a middle part is shown as replaced whole: the search takes time with their square.
const MAX_EDITS: usize = 4000;

/// The shortest edit script from `a` to `b` (Myers, "An O(ND) difference algorithm", 1986).
fn compare<'t>(a: &[&'t str], b: &[&'t str]) -> Vec<(Edit, &'t str)> {
    let prefix = a.iter().zip(b).take_while(|(x, y)| x == y).count();
    let (mid_a, mid_b) = (&a[prefix..], &b[prefix..]);
    let suffix = mid_a.iter().rev().zip(mid_b.iter().rev()).take_while(|(x, y)| x == y).count();
    let (mid_a, mid_b) = (&mid_a[..mid_a.len() - suffix], &mid_b[..mid_b.len() - suffix]);
    let mut edits: Vec<(Edit, &str)> = a[..prefix].iter().map(|l| (Edit::Same, *l)).collect();
    match shortest(mid_a, mid_b) {
        Some(script) => edits.extend(script),
        None => {
            edits.extend(mid_a.iter().map(|l| (Edit::Removed, *l)));
            edits.extend(mid_b.iter().map(|l| (Edit::Added, *l)));
        }
    }
    edits.extend(a[a.len() - suffix..].iter().map(|l| (Edit::Same, *l)));
    edits
}

fn shortest<'t>(a: &[&'t str], b: &[&'t str]) -> Option<Vec<(Edit, &'t str)>> {
    let (n, m) = (a.len() as isize, b.len() as isize);
    let limit = (n + m).min(MAX_EDITS as isize);
    let width = (2 * limit + 3) as usize;
    let at = |k: isize| (k + limit + 1) as usize;
    let mut reach = vec![0isize; width];
    let mut trace: Vec<Vec<isize>> = Vec::new();
    for d in 0..=limit {
        trace.push(reach[at(-d - 1)..=at(d + 1)].to_vec());
        for k in (-d..=d).step_by(2) {
            let down = k == -d || (k != d && reach[at(k - 1)] < reach[at(k + 1)]);
            let mut x = if down { reach[at(k + 1)] } else { reach[at(k - 1)] + 1 };
            while x < n && x - k < m && a[x as usize] == b[(x - k) as usize] {
                x += 1;
            }
            reach[at(k)] = x;
            if x >= n && x - k >= m {
                return Some(backtrack(a, b, &trace));
            }
        }
    }
    None
}

/// Follows the furthest-reaching paths back from the end.
fn backtrack<'t>(a: &[&'t str], b: &[&'t str], trace: &[Vec<isize>]) -> Vec<(Edit, &'t str)> {
    let (mut x, mut y) = (a.len() as isize, b.len() as isize);
    let mut script = Vec::new();
    for (d, reach) in trace.iter().enumerate().rev() {
        let d = d as isize;
        let at = |k: isize| reach[(k + d + 1) as usize];
        let k = x - y;
        let down = k == -d || (k != d && at(k - 1) < at(k + 1));
        let from = if down { k + 1 } else { k - 1 };
        let (start_x, start_y) = if d == 0 { (0, 0) } else { (at(from), at(from) - from) };
        while x > start_x && y > start_y {
            (x, y) = (x - 1, y - 1);
            script.push((Edit::Same, a[x as usize]));
        }
        if d == 0 {
            break;
        }
        if down {
            y -= 1;
            script.push((Edit::Added, b[y as usize]));
        } else {
            x -= 1;
            script.push((Edit::Removed, a[x as usize]));
        }
    }
    script.reverse();
    script
}

/// The differences with some equal lines around them.
fn hunks(edits: &[(Edit, &str)], context: usize) -> String {
    let mut out = String::new();
    let mut shown = 0;
    for i in 0..edits.len() {
        let near = edits[i.saturating_sub(context)..(i + context + 1).min(edits.len())].iter().any(|(e, _)| *e != Edit::Same);
        if !near {
            continue;
        }
        if i > shown {
            out.push_str(&format!("@ line {}\n", i + 1));
        }
        shown = i + 1;
        let mark = match edits[i].0 {
            Edit::Same => ' ',
            Edit::Removed => '-',
            Edit::Added => '+',
        };
        out.push_str(&format!("{mark}{}\n", edits[i].1));
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn scripts_lead_from_one_text_to_the_other() {
        let mut seed = 1u64;
        let mut next = |n: u64| {
            seed = seed.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
            (seed >> 33) % n
        };
        let words = ["a", "b", "c"];
        for _ in 0..500 {
            let mut text = || -> Vec<&str> { (0..next(9)).map(|_| words[next(3) as usize]).collect() };
            let (a, b) = (text(), text());
            let script = compare(&a, &b);
            let side = |gone: Edit| -> Vec<&str> { script.iter().filter(|(e, _)| *e != gone).map(|(_, l)| *l).collect() };
            assert_eq!((side(Edit::Added), side(Edit::Removed)), (a.clone(), b.clone()));
            let kept = script.iter().filter(|(e, _)| *e == Edit::Same).count();
            assert_eq!(kept, longest_common(&a, &b), "{a:?} {b:?}");
        }
    }

    /// The longest common subsequence by the textbook table.
    fn longest_common(a: &[&str], b: &[&str]) -> usize {
        let mut t = vec![vec![0; b.len() + 1]; a.len() + 1];
        for i in 1..=a.len() {
            for j in 1..=b.len() {
                t[i][j] = if a[i - 1] == b[j - 1] { t[i - 1][j - 1] + 1 } else { t[i - 1][j].max(t[i][j - 1]) };
            }
        }
        t[a.len()][b.len()]
    }
}
