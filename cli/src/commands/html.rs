//! The report of a compiled program as one HTML file that needs nothing else: no scripts, no fonts, no network.
//!
//! It joins what the plan says (which node is cut over which dies, the memory of each) with what the simulator says (time, links, energy).

use super::output::{bytes, metric};
use super::summary;
use girih_compiler::sharded::axes_of;
use girih_ir::axes::LoopKind;
use girih_ir::graph::ValueId;
use girih_ir::program::{Claim, Program};
use girih_ir::target::DieId;
use girih_runtime::Simulation;
use girih_runtime::simulate::Lane;
use girih_runtime::simulate::report::time;
use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write;

/// Nodes in the table of the plan.
const NODES: usize = 60;
/// Links in their table.
const LINKS: usize = 24;
/// Dies in the timeline.
const DIES: usize = 64;
/// Sites of a mesh that is drawn.
const SITES: usize = 4096;
/// Columns of the timeline.
const SLICES: usize = 240;
/// Shades of the timeline.
const SHADES: usize = 8;

const STYLE: &str = "
:root{color-scheme:light dark;--ink:#1c2733;--soft:#66727f;--line:#d5dbe1;--page:#fff;--busy:#2563a8;--move:#c2571a;--again:#7a8694}
@media(prefers-color-scheme:dark){:root{--ink:#e4e9ee;--soft:#98a4b0;--line:#39434d;--page:#14191e;--busy:#6ea8e6;--move:#ee945a}}
body{font:15px/1.5 system-ui,sans-serif;color:var(--ink);background:var(--page);max-width:75rem;margin:2rem auto;padding:0 1rem}
h1{font-size:1.6rem;margin-bottom:0}h2{font-size:1.15rem;margin-top:2.2rem}p{color:var(--soft);margin:.3rem 0 .8rem}
table{border-collapse:collapse;font-variant-numeric:tabular-nums}
td,th{padding:.15rem .7rem .15rem 0;text-align:left;vertical-align:top;border-bottom:1px solid var(--line)}
th{color:var(--soft);font-weight:600}td.n,th.n{text-align:right}
.bar{background:linear-gradient(to right,color-mix(in srgb,var(--busy) 35%,transparent) var(--u),transparent var(--u))}
.mesh td{border:1px solid var(--line);padding:.25rem .4rem;text-align:center;background:color-mix(in srgb,var(--busy) var(--u),transparent)}
.mesh td.dead{background:none;color:var(--soft)}
.scroll{overflow-x:auto}svg{width:100%;height:auto}svg text{font-size:7px;fill:var(--soft)}
.busy{fill:var(--busy)}.move{fill:var(--move)}.again{fill:var(--again)}";

/// A text as it may stand in a document and in an attribute.
fn escape(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for c in text.chars() {
        match c {
            '&' => out.push_str("&amp;"),
            '<' => out.push_str("&lt;"),
            '>' => out.push_str("&gt;"),
            '"' => out.push_str("&quot;"),
            '\'' => out.push_str("&#39;"),
            c if c.is_control() => out.push(' '),
            c => out.push(c),
        }
    }
    out
}

fn percent(part: f64) -> String {
    format!("{:.1} %", 100.0 * part)
}

/// A document on its way. Writing to a string does not fail, so results of `write!` are not looked at.
struct Page(String);

impl Page {
    fn section(&mut self, id: &str, title: &str, about: &str) {
        let _ = write!(self.0, "\n<h2 id=\"{id}\">{title}</h2>\n<p>{about}</p>\n");
    }

    /// A table; the columns from `numbers` on are aligned to the right, and the last one is drawn as a bar of that part where there is one.
    fn table(&mut self, head: &[&str], numbers: usize, rows: &[(Vec<String>, Option<f64>)]) {
        self.0.push_str("<div class=\"scroll\"><table>\n");
        if !head.is_empty() {
            self.0.push_str("<tr>");
            for (c, title) in head.iter().enumerate() {
                let class = if c >= numbers { " class=\"n\"" } else { "" };
                let _ = write!(self.0, "<th{class}>{title}</th>");
            }
            self.0.push_str("</tr>\n");
        }
        for (cells, bar) in rows {
            self.0.push_str("<tr>");
            for (c, text) in cells.iter().enumerate() {
                let attributes = match bar {
                    Some(part) if c + 1 == cells.len() => format!(" class=\"n bar\" style=\"--u:{:.1}%\"", 100.0 * part),
                    _ if c >= numbers => " class=\"n\"".to_string(),
                    _ => String::new(),
                };
                let _ = write!(self.0, "<td{attributes}>{}</td>", escape(text));
            }
            self.0.push_str("</tr>\n");
        }
        self.0.push_str("</table></div>\n");
    }
}

/// The report of a program and a simulation of it.
pub fn page(program: &Program, simulation: &Simulation<'_>) -> String {
    let report = &simulation.report;
    let title = escape(&format!("{} on {}", report.program, report.target));
    let mut p = Page(format!(
        "<!DOCTYPE html>\n<html lang=\"en\">\n<head>\n<meta charset=\"utf-8\">\n\
         <meta http-equiv=\"Content-Security-Policy\" content=\"default-src 'none'; style-src 'unsafe-inline'\">\n\
         <meta name=\"viewport\" content=\"width=device-width\">\n<title>{title}</title>\n<style>{STYLE}\n</style>\n</head>\n<body>\n\
         <h1>{title}</h1>\n<p>One step takes {} (simulated); {} of the peak of the dies is model work.</p>\n",
        time(report.makespan),
        percent(report.mfu)
    ));
    overview(&mut p, program, simulation);
    plan(&mut p, program);
    memory(&mut p, program);
    timeline(&mut p, simulation);
    links(&mut p, simulation);
    path(&mut p, simulation);
    p.0.push_str("</body>\n</html>\n");
    p.0
}

fn overview(p: &mut Page, program: &Program, simulation: &Simulation<'_>) {
    let r = &simulation.report;
    p.section("summary", "Summary", "The program, and the step as the simulator sees it on the target's figures.");
    let simulated = [
        ("step", time(r.makespan)),
        ("MFU", percent(r.mfu)),
        ("dies busy", percent(r.busy())),
        (
            "energy",
            format!(
                "{:.3} J a step: {:.3} operations, {:.3} SRAM, {:.3} links, {:.3} host, {:.3} idle",
                r.energy.total, r.energy.compute, r.energy.sram, r.energy.links, r.energy.host, r.energy.idle
            ),
        ),
        ("power", format!("{} on average, {} at the peak", metric(r.power, "W"), metric(r.peak_power, "W"))),
        (
            "package",
            format!(
                "{} of {} in the hottest one, {} at its peak",
                metric(r.package_power, "W"),
                metric(r.package_limit, "W"),
                metric(r.package_peak, "W")
            ),
        ),
    ];
    let facts = summary::facts(program).into_iter().map(|row| (row, None));
    let rows: Vec<_> = facts.chain(simulated.map(|(label, text)| (vec![label.to_string(), text], None))).collect();
    p.table(&[], usize::MAX, &rows);
}

/// The shares of a node.
#[derive(Default)]
struct Shares {
    dies: BTreeSet<u32>,
    /// For each loop the ranges into which it is cut.
    ranges: Vec<BTreeSet<(usize, usize)>>,
}

fn plan(p: &mut Page, program: &Program) {
    let graph = &program.step.graph;
    let mut shares: BTreeMap<ValueId, Shares> = BTreeMap::new();
    for code in &program.dies {
        for claim in code.claims.iter().collect::<BTreeSet<_>>() {
            let Some(Claim::Compute { node, ranges }) = program.claims.get(claim.index()) else { continue };
            let s = shares.entry(*node).or_default();
            s.dies.insert(code.die.0);
            s.ranges.resize(ranges.len(), BTreeSet::new());
            s.ranges.iter_mut().zip(ranges).for_each(|(set, r)| {
                set.insert((r.start, r.end));
            });
        }
    }
    let all = shares.len();
    let work = |v: ValueId| {
        let axes = axes_of(graph, v);
        axes.ops(&axes.full_ranges())
    };
    let mut nodes: Vec<(u64, ValueId, Shares)> = shares.into_iter().map(|(v, s)| (work(v), v, s)).collect();
    nodes.sort_by_key(|(work, v, _)| (std::cmp::Reverse(*work), *v));
    nodes.truncate(NODES);
    let about = format!(
        "How the nodes with the most operations are cut: {} of {all}. Loops of the result are d0, d1 and so on, those that it sums over r0 and so on.",
        nodes.len()
    );
    p.section("plan", "Plan", &about);
    let row = |(work, v, s): &(u64, ValueId, Shares)| {
        let node = graph.node(*v);
        let cells = vec![
            v.to_string(),
            node.op.name().to_string(),
            graph.origin(*v).to_string(),
            node.ty.to_string(),
            split(program, *v, s),
            s.dies.len().to_string(),
            metric(*work as f64, ""),
        ];
        (cells, None)
    };
    let rows: Vec<_> = nodes.iter().map(row).collect();
    p.table(&["node", "op", "from", "result", "cut", "dies", "operations"], 5, &rows);
}

/// Into how many parts each loop of a node is cut.
fn split(program: &Program, v: ValueId, shares: &Shares) -> String {
    let axes = axes_of(&program.step.graph, v);
    let (mut kept, mut summed, mut parts) = (0, 0, Vec::new());
    for (l, ranges) in axes.loops.iter().zip(&shares.ranges) {
        let reduces = matches!(l.kind, LoopKind::Reduce(_));
        let count = if reduces { &mut summed } else { &mut kept };
        let name = format!("{}{count}", if reduces { 'r' } else { 'd' });
        *count += 1;
        if ranges.len() > 1 {
            parts.push(format!("{name} in {}{}", ranges.len(), if reduces { ", then summed" } else { "" }));
        }
    }
    if parts.is_empty() { "whole".to_string() } else { parts.join("; ") }
}

fn memory(p: &mut Page, program: &Program) {
    let (target, size) = (&program.target, program.target.sram_bytes());
    let shape = &target.mesh.shape;
    let used: BTreeMap<u32, u64> = program.dies.iter().map(|d| (d.die.0, d.sram_used)).collect();
    let part = |die: u32| used.get(&die).map(|b| *b as f64 / size.max(1) as f64);
    let about = format!("SRAM that the plan uses on each die, of {}.", bytes(size));
    p.section("memory", "Memory", &about);
    if target.mesh.sites() > SITES {
        let mut fullest: Vec<(u32, u64)> = used.iter().map(|(d, b)| (*d, *b)).collect();
        fullest.sort_by_key(|(d, b)| (std::cmp::Reverse(*b), *d));
        let row = |(d, b): &(u32, u64)| (vec![target.coord(DieId(*d)).to_string(), bytes(*b), percent(part(*d).unwrap_or(0.0))], part(*d));
        let rows: Vec<_> = fullest.iter().take(DIES).map(row).collect();
        p.table(&["die", "used", "of SRAM"], 1, &rows);
        return;
    }
    p.0.push_str("<div class=\"scroll\"><table class=\"mesh\">\n");
    for row in 0..shape.rows {
        p.0.push_str("<tr>");
        for col in 0..shape.cols {
            let die = row * shape.cols + col;
            let name = target.coord(DieId(die));
            let _ = match part(die) {
                _ if !target.mesh.is_alive(DieId(die)) => write!(p.0, "<td class=\"dead\" title=\"{name}\">dead</td>"),
                Some(u) => write!(p.0, "<td style=\"--u:{:.0}%\" title=\"{name} {}\">{:.0} %</td>", 70.0 * u, bytes(used[&die]), 100.0 * u),
                None => write!(p.0, "<td class=\"dead\" title=\"{name}\">idle</td>"),
            };
        }
        p.0.push_str("</tr>\n");
    }
    p.0.push_str("</table></div>\n");
}

/// The shapes of one row of a lane, by shade: runs of slices that are equally busy.
fn shades(p: &mut Page, class: &str, values: &[f64], (left, top): (usize, usize), height: usize) {
    let shade = |v: f64| (v * SHADES as f64).ceil().clamp(0.0, SHADES as f64) as usize;
    for level in 1..=SHADES {
        let mut d = String::new();
        let mut i = 0;
        while i < values.len() {
            let run = values[i..].iter().take_while(|v| shade(**v) == level).count();
            if run > 0 {
                let _ = write!(d, "M{} {top}h{run}v{height}h-{run}z", left + i);
            }
            i += run.max(1);
        }
        if !d.is_empty() {
            let _ = write!(p.0, "<path class=\"{class}\" opacity=\"{:.2}\" d=\"{d}\"/>", level as f64 / SHADES as f64);
        }
    }
}

fn timeline(p: &mut Page, simulation: &Simulation<'_>) {
    const LEFT: usize = 34;
    let lanes = simulation.lanes(SLICES);
    let shown = &lanes[..lanes.len().min(DIES)];
    let rest = if lanes.len() > shown.len() { format!(" The first {} of {} dies.", shown.len(), lanes.len()) } else { String::new() };
    let about = format!(
        "The step from left to right: above the engine of each die, below the busiest of its queues; the darker, the busier. Gray stands for \
         iterations of loops that are like others.{rest}"
    );
    p.section("timeline", "Timeline", &about);
    let height = 12 * shown.len() + 12;
    let _ = writeln!(p.0, "<svg viewBox=\"0 0 {} {height}\" role=\"img\" aria-label=\"timeline\">", LEFT + SLICES);
    for (i, lane) in shown.iter().enumerate() {
        let Lane { die, compute, transfer, repeated } = lane;
        let top = 12 * i;
        let _ = write!(p.0, "<g><text x=\"0\" y=\"{}\">{}</text>", top + 8, escape(die));
        shades(p, "busy", compute, (LEFT, top), 6);
        shades(p, "move", transfer, (LEFT, top + 6), 4);
        shades(p, "again", repeated, (LEFT, top), 10);
        p.0.push_str("</g>\n");
    }
    let foot = height - 4;
    let (start, end) = (LEFT, LEFT + SLICES);
    let _ = writeln!(
        p.0,
        "<text x=\"{start}\" y=\"{foot}\">0</text><text x=\"{end}\" y=\"{foot}\" text-anchor=\"end\">{}</text>\n</svg>",
        time(simulation.report.makespan)
    );
}

fn links(p: &mut Page, simulation: &Simulation<'_>) {
    let r = &simulation.report;
    let about = format!("The busiest of {} links and ports; {} go over links in a step.", r.links.len(), bytes(r.link_bytes));
    p.section("links", "Busiest links", &about);
    let row = |l: &girih_runtime::simulate::LinkReport| {
        (vec![l.name.clone(), bytes(l.bytes), l.messages.to_string(), percent(l.busy)], Some(l.busy.min(1.0)))
    };
    let rows: Vec<_> = r.links.iter().take(LINKS).map(row).collect();
    p.table(&["link", "bytes", "messages", "busy"], 1, &rows);
}

fn path(p: &mut Page, simulation: &Simulation<'_>) {
    p.section("path", "Critical path", "Where the longest chain of activities spends its time.");
    let row = |c: &girih_runtime::simulate::Contributor| {
        (
            vec![c.name.clone(), c.node.clone(), c.origin.clone(), c.count.to_string(), time(c.seconds), percent(c.share)],
            Some(c.share.min(1.0)),
        )
    };
    let rows: Vec<_> = simulation.report.contributors.iter().map(row).collect();
    p.table(&["instruction", "node", "from", "count", "time", "share"], 3, &rows);
}

#[cfg(test)]
mod tests {
    use super::*;
    use girih::{CompileOptions, Model, Target, compile, simulate};
    use girih_ir::target::Coord;
    use std::path::Path;

    /// Two products.
    const MODEL: &str = "step {
  param \"w\" input 1 -> output 1
  loss output 0
  seed 0
}
graph @layers(%0: f32[64,32] input \"x\", %1: f32[32,32] param \"w\") {
  %2 = dot_general %0, %1 {lhs_batch = [], rhs_batch = [], lhs_contract = [1], rhs_contract = [0]}
  %3 = reduce %2 {monoid = sum, dims = [0,1]}
  %4 = dot_general %0, %2 {lhs_batch = [], rhs_batch = [], lhs_contract = [0], rhs_contract = [0]}
  %5 = sub %1, %4
  return %3 \"loss\", %5 \"w\"
}";

    fn document() -> String {
        let model = Model::from_text(MODEL, Path::new("layers.gir")).unwrap();
        let step = model.step().unwrap();
        let target = Target::builtin("dojo-tile").unwrap().with_dead([Coord::new(2, 2)]).unwrap();
        let options = CompileOptions { dies: Some(4), ..CompileOptions::default() };
        let compiled = compile(step, &target, &options).unwrap();
        // A name that would do something in a page if it was let.
        let program = Program { name: "two<script>layers</script>".into(), ..Program::clone(&compiled.program) };
        let simulation = simulate(&program).unwrap();
        page(&program, &simulation)
    }

    /// Tags, headings and the heads of tables, without what depends on numbers.
    fn structure(page: &str) -> String {
        let keeps = |l: &&str| ["<h1", "<h2", "<tr><th", "<svg", "<meta", "<title"].iter().any(|t| l.starts_with(t));
        let count = |tag: &str| page.matches(tag).count();
        let lines: Vec<&str> = page.lines().filter(keeps).collect();
        let counts: Vec<String> = ["<table", "<svg", "<g>", "</html>"].iter().map(|t| format!("{t} {}", count(t))).collect();
        format!("{}\n{}", lines.join("\n"), counts.join("\n"))
    }

    #[test]
    fn a_page_needs_nothing_else() {
        let page = document();
        insta::assert_snapshot!(structure(&page));
        for outside in ["<script", "src=", "href=", "url(", "http:", "https:", "@import"] {
            assert!(!page.contains(outside), "{outside}");
        }
        assert_eq!(page.matches("class=\"dead\" title=\"(2,2)\">dead").count(), 1);
        assert_eq!(page.matches(">idle<").count(), 20, "four of the 24 live dies have code");
        for tag in ["table", "tr", "td", "th", "svg", "g", "div", "h2", "p"] {
            let open = page.matches(&format!("<{tag}>")).count() + page.matches(&format!("<{tag} ")).count();
            assert_eq!(open, page.matches(&format!("</{tag}>")).count(), "{tag}");
        }
    }

    #[test]
    fn names_are_text() {
        assert_eq!(escape("a<b>&\"'\u{1b}[2J"), "a&lt;b&gt;&amp;&quot;&#39; [2J");
    }
}
