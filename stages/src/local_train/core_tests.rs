//! Cores between fixed factors (Fed-SB): the same function as the folded adapter, and nothing but them is trained.

use super::fixture::{adapter, examples, narrow, objectives, refusal, run, slope, whole_batch};
use super::*;
use crate::evaluate::{self, Adapted};
use crate::model::recorded::apart;
use crate::model::tiny::{BLOOM, LLAMA};
use crate::model::{Checkpoint, NamedFile, Targets};
use crate::peft::{core_name, init_adapter, init_core};
use crate::seed::Draws;

fn lora(rank: usize) -> LoraConfig {
    let targets = Some(Targets::Pattern("all-linear".to_owned()));
    LoraConfig { targets, ..LoraConfig::of_rank(rank) }
}

/// An adapter with cores none of whose values is zero.
fn with_cores(base: &Base, lora: &LoraConfig, classes: usize) -> AdapterTensors {
    let mut draws = Draws::named(6, "test", &["cores"]);
    let modules = lora.modules(base.config()).unwrap();
    modules.iter().fold(adapter(base, lora, classes), |adapter, module| {
        let count = module.rank * module.rank;
        let core = (0..count).map(|_| narrow(draws.unit() - 0.5)).collect();
        adapter.with(&core_name(&module.path), [module.rank, module.rank], core)
    })
}

/// The adapter without cores that means the same: B·R in the place of B.
fn folded(adapter: &AdapterTensors) -> AdapterTensors {
    let mut plain = adapter.only(Parts::FACTORS | Parts::HEAD);
    for (name, [rank, _], core) in adapter.only(Parts::CORE).iter() {
        let name = name.replace("lora_R", "lora_B");
        let (shape, b) = adapter.get(&name).unwrap();
        let product = b.chunks_exact(rank).flat_map(|row| {
            (0..rank).map(move |column| {
                let terms = row.iter().enumerate();
                narrow(terms.map(|(r, b)| f64::from(*b) * f64::from(core[r * rank + column])).sum())
            })
        });
        plain = plain.with(&name, shape, product.collect());
    }
    plain
}

fn logits(base: &Base, adapter: &AdapterTensors, lora: &LoraConfig, data: &TokenSet) -> Vec<f32> {
    let with = Some(Adapted { adapter, lora });
    let go_on = &mut |_| ControlFlow::Continue(());
    evaluate::classes(base, with, &[], data, 3, go_on).unwrap().remove(0).values
}

#[test]
fn an_adapter_with_cores_is_the_folded_adapter() {
    for base in [LLAMA.base(), BLOOM.base()] {
        let (lora, data) = (lora(4), examples(9, 1));
        let adapter = with_cores(&base, &lora, 2);
        let found = logits(&base, &adapter, &lora, &data);
        let expected = logits(&base, &folded(&adapter), &lora, &data);
        assert!(apart(&found, &expected) < 1e-5, "{}", apart(&found, &expected));
        let plain = adapter.only(Parts::FACTORS | Parts::HEAD);
        assert!(apart(&found, &logits(&base, &plain, &lora, &data)) > 1e-3, "cores matter");
    }
}

#[test]
fn the_gradient_of_a_core_is_that_of_the_folded_factor() {
    for base in [LLAMA.base(), BLOOM.base()] {
        let lora = lora(4);
        let mut cases = vec![(with_cores(&base, &lora, 2), examples(6, 1))];
        for objective in objectives(&examples(6, 1)) {
            let data = examples(6, 1).with_objective(objective).unwrap();
            cases.push((with_cores(&base, &lora, 0), data));
        }
        for (start, data) in cases {
            let numbers = LocalNumbers::new(8, Optimizer::Sgd { lr: 0.1 });
            let batch = whole_batch(&base, &data);
            let client = Client::new(&start, &lora, 1, 1, data.objective());
            let (cores, loss) = slope(&base, client, &numbers, &batch);
            assert!(cores.same_shapes(&start.only(Parts::CORE | Parts::HEAD)));
            let folded = folded(&start);
            let client = Client { adapter: &folded, ..client };
            let (plain, same) = slope(&base, client, &numbers, &batch);
            assert!((loss - same).abs() < 1e-5);
            // With C = B·R the gradient by R is Bᵀ times that by C.
            for (name, [rank, _], found) in cores.only(Parts::CORE).iter() {
                let name = name.replace("lora_R", "lora_B");
                let ((_, b), (_, by_b)) = (start.get(&name).unwrap(), plain.get(&name).unwrap());
                let rows = || b.chunks_exact(rank).zip(by_b.chunks_exact(rank));
                let expected = (0..rank * rank).map(|at| {
                    let products =
                        rows().map(|(b, g)| f64::from(b[at / rank]) * f64::from(g[at % rank]));
                    narrow(products.sum())
                });
                let expected: Vec<f32> = expected.collect();
                let most = expected.iter().fold(0.0_f32, |most, x| most.max(x.abs()));
                assert!(apart(found, &expected) < 1e-4 * most, "{name}");
            }
            let (found, expected) = (cores.only(Parts::HEAD), plain.only(Parts::HEAD));
            assert!(apart(&found.flatten(), &expected.flatten()) < 1e-5);
        }
    }
}

#[test]
fn a_cohort_trains_cores_and_classifiers_and_nothing_else() {
    let base = BLOOM.base();
    let owned = [(4, 9), (2, 14), (8, 5)].map(|(rank, count)| {
        let lora = LoraConfig { dropout: 0.1, ..lora(rank) };
        (with_cores(&base, &lora, 2), lora, examples(count, rank as u64))
    });
    let numbers = LocalNumbers { prox: 0.1, ..LocalNumbers::new(4, Optimizer::adamw(1e-3)) };
    for frozen in [Parts::NONE, Parts::HEAD, Parts::CORE] {
        let jobs = owned.each_ref().map(|(adapter, lora, data)| ClientJob {
            frozen,
            ..ClientJob::new(adapter, lora, data, 7)
        });
        let together = run(&base, &jobs, &numbers);
        for (job, one) in jobs.iter().zip(&together) {
            let alone = run(&base, &[*job], &numbers).remove(0);
            let far = apart(&one.adapter.flatten(), &alone.adapter.flatten());
            assert!(far < 2e-5, "{frozen}: {far}");
            let trained = trained_parts(job.adapter, frozen);
            assert_eq!(trained, (Parts::CORE | Parts::HEAD) & !frozen);
            assert_eq!(one.adapter.only(!trained), job.adapter.only(!trained));
            for (name, _, after) in one.adapter.only(trained).iter() {
                assert!(apart(after, job.adapter.get(name).unwrap().1) > 1e-3, "{name}");
            }
        }
    }
    let (adapter, lora, data) = &owned[0];
    let frozen = Parts::CORE | Parts::HEAD;
    let job = ClientJob { frozen, ..ClientJob::new(adapter, lora, data, 7) };
    assert!(refusal(&base, &[job], &numbers).starts_with("nothing of the adapter is trained"));
    let plain = adapter.only(Parts::FACTORS | Parts::HEAD);
    let jobs = [ClientJob::new(adapter, lora, data, 7), ClientJob::new(&plain, lora, data, 7)];
    assert!(refusal(&base, &jobs, &numbers).starts_with("client 1 adapts other modules"));
}

#[test]
fn cores_that_begin_at_zero_learn() {
    let base = LLAMA.base();
    let (lora, data) = (lora(6), examples(8, 1));
    let files = LLAMA.weights();
    let files: Vec<NamedFile<'_>> =
        files.iter().map(|(name, bytes)| NamedFile { name, bytes }).collect();
    let checkpoint = Checkpoint::open(&files).unwrap().of_family(base.config().family);
    let go_on = &mut |_, _| ControlFlow::Continue(());
    let start = init_core(base.config(), &lora, 2, 3, &checkpoint, go_on).unwrap();
    let fresh = init_adapter(base.config(), &lora, 2, 3).unwrap();
    assert_eq!(logits(&base, &start, &lora, &data), logits(&base, &fresh, &lora, &data));
    let job = ClientJob { frozen: Parts::HEAD, ..ClientJob::new(&start, &lora, &data, 1) };
    let numbers = LocalNumbers { epochs: Some(60), ..LocalNumbers::new(8, Optimizer::adamw(3e-2)) };
    let trained = run(&base, &[job], &numbers).remove(0);
    // A classifier that stays as it was drawn has weights around 0.02, so that no loss comes near zero.
    let client = Client::new(&start, &lora, 1, 1, data.objective());
    let (_, loss) = slope(&base, client, &numbers, &whole_batch(&base, &data));
    assert!(trained.last_loss < 0.5 * loss, "{} from {loss}", trained.last_loss);
    assert_eq!(trained.adapter.only(!Parts::CORE), start.only(!Parts::CORE));
}
