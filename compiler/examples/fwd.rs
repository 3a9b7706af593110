use girih_compiler::*;
use girih_ir::step::TrainStep;
use girih_ir::target::Target;
use std::time::Instant;
fn main() {
    for a in std::env::args().skip(1) {
        let mut o = import::onnx::ImportOptions::default();
        o.batch = Some(6);
        let imp = match import::onnx::import_file(std::path::Path::new(&a), &o) {
            Ok(i) => i,
            Err(e) => {
                println!("{a}: {e}");
                continue;
            }
        };
        let mut step = TrainStep::inference(imp.graph.clone());
        step.graph = fuse::fuse(&step.graph).0;
        for (t, dies) in [("host", None), ("dojo-tile", None), ("dojo-tile", Some(25))] {
            let target = Target::builtin(t).unwrap();
            let t0 = Instant::now();
            let (sh, mesh, rep) = partition::partition(&step, &target, &partition::PartitionOptions { dies, lambda: 0.0 }).unwrap();
            let t1 = Instant::now();
            let pl = place::place(sh, &mesh, &target).unwrap();
            let t2 = Instant::now();
            let (tasks, msgs) = (pl.tasks.len(), pl.messages.len());
            let sc = schedule::schedule(pl);
            let plan = match memory::plan(sc, &target) {
                Ok(p) => p,
                Err(e) => {
                    println!("{e}");
                    continue;
                }
            };
            let t3 = Instant::now();
            let peak = plan.dies.iter().map(|d| d.peak).max().unwrap();
            let r = lower::lower(plan, &target);
            let t4 = Instant::now();
            println!(
                "{a} {t} {dies:?}: nodes {} {}x{} {rep:?} tasks {tasks} msgs {msgs} peak {peak} part {:?} place {:?} mem {:?} lower {:?} {}",
                step.graph.nodes().len(),
                mesh.rows(),
                mesh.cols(),
                t1 - t0,
                t2 - t1,
                t3 - t2,
                t4 - t3,
                ""
            );
            match r {
                Err(e) => println!("   LOWER {e}"),
                Ok(p) => {
                    let n: usize = p.dies.iter().map(|d| d.claims.len()).sum();
                    let t5 = Instant::now();
                    match girih_ir::check::check(p) {
                        Ok(_) => println!("   checked {n} {:?}", t5.elapsed()),
                        Err(e) => println!("   CHECK {}", e.to_string().chars().take(1500).collect::<String>()),
                    }
                }
            }
        }
    }
}
