//! What a run takes of the memory is told before it begins, and what does not fit is refused with the mend.

use crate::harness::Space;

/// An address space (MiB) with room for the program and a small training.
const LIMIT: u64 = 2500;
/// Batches so wide that one pass would take more.
const WIDE: &str = "fed.local.batch=20000";

fn sets<'a>(command: &'a [&'a str], sets: &[&'a str]) -> Vec<&'a str> {
    command.iter().copied().chain(sets.iter().flat_map(|set| ["--set", set])).collect()
}

#[test]
fn a_plan_tells_the_memory_of_what_is_to_be_done() {
    let space = Space::with_graph(3, 2);
    let plan = space.fedpipe(&["plan", "graph.ron"]).fine().stdout;
    assert!(plan.contains("memory of fed: about ") && plan.contains("memory of score: "), "{plan}");
    let of = |edits: &[&str]| {
        let plan = space.fedpipe(&sets(&["plan", "graph.ron", "--json"], edits)).fine().json();
        plan["memory"][0].clone()
    };
    let first = of(&[]);
    assert_eq!(first["stage"], "fed");
    let activations = |edits: &[&str]| of(edits)["activations"].as_u64().unwrap();
    let whole = first["activations"].as_u64().unwrap();
    let twice = activations(&["fed.local.batch=8"]);
    assert!(twice.abs_diff(2 * whole) < 4, "twice the rows: {twice}, {whole}");
    assert!(activations(&["fed.local.checkpoint=Block"]) < whole);
    assert!(activations(&["fed.lora.layers=Last(1)"]) < whole);
    // The checkpoint has a causal head beside what classification needs of it.
    let base = first["base"].as_u64().unwrap();
    let path = crate::harness::project().join("tests/data/llama-tiny-mha/model.safetensors");
    let file = std::fs::metadata(path).unwrap().len();
    assert!(base < file && 2 * base > file, "{base} bytes of {file}");
    space.run(&[]);
    let plan = space.fedpipe(&["plan", "graph.ron", "--json"]).fine().json();
    assert_eq!(plan["memory"].as_array().unwrap().len(), 0, "nothing is left to do");
    // The token set is there, so it is known that no batch is wider.
    let known = |batch: &str| of(&[&format!("fed.local.batch={batch}"), "fed.rounds=3"]);
    assert_eq!(known("100")["activations"], known("20000")["activations"]);
}

#[test]
fn what_cannot_fit_is_refused_before_anything_is_written() {
    let space = Space::with_graph(3, 2);
    let ran = space.limited(LIMIT, &sets(&["run", "graph.ron", "--device", "cpu"], &[WIDE]));
    assert_eq!(ran.code, 2, "{}\n{}", ran.stdout, ran.stderr);
    assert!(ran.stderr.contains("`fed` takes about "), "{}", ran.stderr);
    assert!(ran.stderr.contains("set a smaller `local.batch`"), "{}", ran.stderr);
    assert!(ran.stderr.contains("set `local.checkpoint: Block`"), "{}", ran.stderr);
    assert!(!space.path(".fedpipe").exists(), "a store was made");
    // The mend helps.
    space.limited(LIMIT, &["run", "graph.ron", "--device", "cpu"]).fine();
    // The token set is there by now, and none of its shards has as many examples.
    space.limited(LIMIT, &sets(&["run", "graph.ron", "--device", "cpu"], &[WIDE])).fine();
}

/// One client's training finds room here, and two do not.
#[test]
fn fewer_clients_train_side_by_side_where_memory_is_short() {
    let space = Space::with_graph(3, 2);
    let plan = |batch: u64| {
        let batch = format!("fed.local.batch={batch}");
        let plan = space.fedpipe(&sets(&["plan", "graph.ron", "--json"], &[&batch])).fine().json();
        let of = |field: &str| plan["memory"][0][field].as_u64().unwrap();
        (of("base"), of("adapter") + of("activations"))
    };
    let batch = (1 << 30) * 1000 / plan(1000).1;
    let (base, each) = plan(batch);
    assert!((900 << 20..1100 << 20).contains(&each), "{each} bytes");
    let limit = 160 + ((base + each + each / 2) >> 20);
    let edit = format!("fed.local.batch={batch}");
    let run = |more: &[&str]| {
        let args = [&["run", "graph.ron", "--device", "cpu"], more].concat();
        space.limited(limit, &sets(&args, &[&edit]))
    };
    let two = run(&["-j", "2"]);
    assert_eq!(two.code, 2, "{}\n{}", two.stdout, two.stderr);
    assert!(two.stderr.contains("2 steps side by side do not find room in "), "{}", two.stderr);
    assert!(two.stderr.contains("`-j 1` fits"), "{}", two.stderr);
    assert!(!space.path(".fedpipe").exists(), "a store was made");
    let free = run(&[]).fine();
    let said = free.stdout + &free.stderr;
    let lowered = said.contains("are free, so at most 1 steps train side by side");
    assert_eq!(lowered, std::thread::available_parallelism().unwrap().get() > 1, "{said}");
}
