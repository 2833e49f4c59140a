//! Training against a recorded trace of PEFT, and what must hold of every cohort.

use std::ops::ControlFlow;

use super::*;
use crate::model::recorded::{self, Recorded, apart};
use crate::model::tiny::{self, BLOOM, LLAMA, Tiny};
use crate::model::{Layers, Targets};
use crate::peft::init_adapter;
use crate::seed::Draws;

/// A recorded trace: its losses, adapters and first gradient.
struct Trace {
    model: Tiny,
    folder: &'static str,
    numbers: LocalNumbers,
    /// How far each adapter may be from the recorded one.
    bound: f32,
}

impl Trace {
    fn adapter(&self, name: &str) -> AdapterTensors {
        let bytes = self.model.bytes(&format!("{}/{name}.safetensors", self.folder));
        AdapterTensors::from_safetensors(&bytes).unwrap()
    }

    fn losses(&self) -> Vec<f64> {
        let json = self.model.bytes(&format!("{}/trajectory.json", self.folder));
        let json: serde_json::Value = serde_json::from_slice(&json).unwrap();
        json["losses"].as_array().unwrap().iter().map(|loss| loss.as_f64().unwrap()).collect()
    }

    fn follow(&self) {
        for base in self.model.by_each_kernel() {
            self.follow_by(&base);
        }
    }

    fn follow_by(&self, base: &Base) {
        let before = self.model.bytes("train_adamw/adapter_before.safetensors");
        let before = AdapterTensors::from_safetensors(&before).unwrap();
        let lora = LoraConfig::of_rank(8);
        let objective = &Objective::Classify;
        let client = Client::new(&before, &lora, 0, 5, objective);
        let mut trainer = Trainer::new(base, &[client], &self.numbers).unwrap();
        for (step, recorded) in self.losses().into_iter().enumerate() {
            let batch = self.batch(base, step);
            if [0, 4].contains(&step) {
                let (gradient, _) = trainer.gradient(std::slice::from_ref(&batch)).unwrap();
                let gradient = trainer.named(&gradient).unwrap().remove(0);
                let recorded = self.adapter(&format!("grads_step{step}"));
                let far = apart(&gradient.flatten(), &recorded.flatten());
                assert!(far < 1e-5, "gradient of step {step}: {far}");
            }
            let loss: f32 = trainer.step(&[batch]).unwrap().into_scalar();
            assert!(
                (f64::from(loss) - recorded).abs() < 1e-5,
                "step {step}: {loss}, not {recorded}"
            );
            let name =
                if step == 4 { "adapter_after" } else { &format!("adapter_after_step{step}") };
            let adapter = trainer.adapters().unwrap().remove(0);
            let far = apart(&adapter.flatten(), &self.adapter(name).flatten());
            assert!(far < self.bound, "after step {step}: {far}");
        }
        let after = trainer.adapters().unwrap().remove(0);
        let recorded = self.model.path(&format!("{}/final_eval.safetensors", self.folder));
        let recorded = Recorded::open(&recorded).floats("logits").1;
        let far = apart(&logits(self.model, base, &after), &recorded);
        assert!(far < 5e-5, "the logits afterwards: {far}");
    }

    fn batch(&self, base: &Base, step: usize) -> Batch {
        let batches = Recorded::open(&self.model.path("train_batches.safetensors"));
        let rows = batches.rows(&format!("input_ids.{step}"), &format!("attention_mask.{step}"));
        let (_, labels) = batches.integers(&format!("labels.{step}"));
        recorded::batch(&rows, &labels, base)
    }
}

#[test]
fn adamw_follows_the_recorded_traces() {
    for model in [LLAMA, BLOOM] {
        let numbers = LocalNumbers::new(8, Optimizer::adamw(1e-3));
        Trace { model, folder: "train_adamw", numbers, bound: 1e-5 }.follow();
    }
}

#[test]
fn clipping_and_warmup_follow_the_recorded_traces() {
    let optimizer = match Optimizer::adamw(5e-3) {
        Optimizer::AdamW { lr, beta1, beta2, eps, .. } => {
            Optimizer::AdamW { lr, weight_decay: 0.0, beta1, beta2, eps }
        }
        other @ Optimizer::Sgd { .. } => other,
    };
    for model in [LLAMA, BLOOM] {
        let numbers =
            LocalNumbers { warmup_steps: 3, clip: Some(0.5), ..LocalNumbers::new(8, optimizer) };
        Trace { model, folder: "train_clip_warmup_wd0", numbers, bound: 5e-5 }.follow();
    }
}

/// The classifier's logits of the recorded rows with `adapter`.
fn logits(model: Tiny, base: &Base, adapter: &AdapterTensors) -> Vec<f32> {
    let rows = Recorded::open(&model.path("causal.safetensors"));
    let rows = rows.rows("input_ids", "attention_mask");
    let examples = rows.iter().map(|row| (row.as_slice(), 0));
    let data = TokenSet::from_examples(examples).unwrap();
    let lora = LoraConfig::of_rank(8);
    let with = Some(crate::evaluate::Adapted { adapter, lora: &lora });
    let go_on = &mut |_| ControlFlow::Continue(());
    crate::evaluate::classes(base, with, &[], &data, 5, go_on).unwrap().remove(0).values
}

/// Three clients, two steps each, and their mean: each client, its losses, the mean and its logits.
#[test]
fn a_round_of_fedavg_is_the_recorded_round() {
    use crate::aggregate::{self, Rule, Update};
    #[derive(serde::Deserialize)]
    struct Round {
        counts: Vec<u64>,
        client_batches: Vec<Vec<usize>>,
        client_losses: Vec<Vec<f64>>,
    }
    let of = |model: Tiny| model.by_each_kernel().map(|base| (model, base));
    for (model, base) in [LLAMA, BLOOM].into_iter().flat_map(of) {
        let round: Round = serde_json::from_slice(&model.bytes("fedavg/fedavg.json")).unwrap();
        let read = |name: &str| {
            let bytes = model.bytes(&format!("{name}.safetensors"));
            AdapterTensors::from_safetensors(&bytes).unwrap()
        };
        let (before, lora) = (read("train_adamw/adapter_before"), LoraConfig::of_rank(8));
        let numbers = LocalNumbers::new(8, Optimizer::adamw(1e-3));
        let trace = Trace { model, folder: "train_adamw", numbers, bound: 1e-5 };
        let mut clients = Vec::new();
        for (at, batches) in round.client_batches.iter().enumerate() {
            let client = member(&before, &lora, 0, 2);
            let mut trainer = Trainer::new(&base, &[client], &numbers).unwrap();
            for (&batch, recorded) in batches.iter().zip(&round.client_losses[at]) {
                let loss = trainer.step(&[trace.batch(&base, batch)]).unwrap();
                let loss: f32 = loss.into_scalar();
                assert!((f64::from(loss) - recorded).abs() < 1e-5, "client {at}: {loss}");
            }
            let adapter = trainer.adapters().unwrap().remove(0);
            let far = apart(&adapter.flatten(), &read(&format!("fedavg/client{at}")).flatten());
            // AdamW turns the rounding of a gradient that is nearly zero into a part of a step: PyTorch itself is
            // 2.2e-5 from the recording of BLOOM's client 2 on another machine, and 1.5e-5 in float64.
            assert!(far < 3e-5, "client {at}: {far}");
            clients.push(adapter);
        }
        let updates = round.counts.iter().zip(&clients);
        let updates = updates.map(|(&examples, adapter)| Update {
            weight: examples as f64,
            adapter,
            lora: &lora,
            loss: None,
            control: None,
        });
        let server = aggregate::Round {
            number: 1,
            population: 3,
            from: &before,
            lora: &lora,
            state: None,
            clients: &updates.collect::<Vec<_>>(),
            seed: 0,
        };
        let mean = Rule::FedAvg.aggregate(&server).unwrap().adapter;
        let far = apart(&mean.flatten(), &read("fedavg/aggregated").flatten());
        assert!(far < 1e-5, "the mean: {far}");
        let recorded = Recorded::open(&model.path("fedavg/eval.safetensors")).floats("logits").1;
        let far = apart(&logits(model, &base, &mean), &recorded);
        assert!(far < 2e-5, "the logits of the mean: {far}");
    }
}

/// Examples of varying length whose label can be told from their tokens.
fn examples(count: usize, longest: usize, seed: u64) -> TokenSet {
    let mut draws = Draws::named(seed, "test", &["examples"]);
    let rows: Vec<(Vec<u32>, i32)> = (0..count)
        .map(|_| {
            let label = draws.below(2);
            let token =
                |draws: &mut Draws| u32::try_from(3 + 2 * draws.below(300) + label).unwrap();
            let length = 2 + draws.below(longest - 1);
            ((0..length).map(|_| token(&mut draws)).collect(), i32::try_from(label).unwrap())
        })
        .collect();
    TokenSet::from_examples(rows.iter().map(|(tokens, label)| (tokens.as_slice(), *label))).unwrap()
}

fn member<'a>(
    adapter: &'a AdapterTensors,
    lora: &'a LoraConfig,
    seed: u64,
    steps: u64,
) -> Client<'a> {
    Client::new(adapter, lora, seed, steps, &Objective::Classify)
}

struct Owned {
    adapter: AdapterTensors,
    lora: LoraConfig,
    data: TokenSet,
    seed: u64,
}

impl Owned {
    fn new(rank: usize, count: usize, seed: u64) -> Self {
        let targets = Some(Targets::names(&["q_proj", "v_proj", "o_proj", "down_proj"]));
        let lora = LoraConfig { targets, dropout: 0.1, ..LoraConfig::of_rank(rank) };
        let adapter = init_adapter(&tiny::config(), &lora, 2, 17).unwrap();
        Self { adapter, lora, data: examples(count, 21, seed), seed }
    }

    fn job(&self) -> ClientJob<'_> {
        let Self { adapter, lora, data, seed } = self;
        ClientJob::new(adapter, lora, data, *seed)
    }
}

fn run(base: &Base, jobs: &[ClientJob<'_>], numbers: &LocalNumbers) -> Vec<Trained> {
    train(base, jobs, numbers, &mut |_| ControlFlow::Continue(())).unwrap()
}

/// The distance of two adapters, relative to the length of the second.
fn relative(left: &AdapterTensors, right: &AdapterTensors) -> f64 {
    let (left, right) = (left.flatten(), right.flatten());
    assert_eq!(left.len(), right.len());
    let square = |x: f32| f64::from(x) * f64::from(x);
    let far: f64 = left.iter().zip(&right).map(|(a, b)| square(a - b)).sum();
    (far / right.iter().map(|x| square(*x)).sum::<f64>()).sqrt()
}

fn accuracy(
    base: &Base,
    adapter: &AdapterTensors,
    lora: &LoraConfig,
    data: &TokenSet,
) -> crate::evaluate::Scores {
    let with = Some(crate::evaluate::Adapted { adapter, lora });
    let go_on = &mut |_| ControlFlow::Continue(());
    let found = crate::evaluate::classes(base, with, &[], data, 7, go_on).unwrap();
    crate::evaluate::Scores::of(&found[0], data.labels())
}

fn numbers() -> LocalNumbers {
    LocalNumbers {
        clip: Some(1.0),
        epochs: Some(2),
        ..LocalNumbers::new(4, Optimizer::adamw(1e-2))
    }
}

#[test]
fn a_cohort_trains_each_client_as_if_it_were_alone() {
    let base = tiny::base();
    let clients = [Owned::new(4, 9, 1), Owned::new(8, 21, 2), Owned::new(2, 14, 3)];
    let jobs: Vec<_> = clients.iter().map(Owned::job).collect();
    // AdamW makes a step of the size of the rate even of a gradient that is nothing but rounding, so a
    // large rate would show the rounding and not the cohort.
    let numbers = LocalNumbers { prox: 0.1, optimizer: Optimizer::adamw(1e-3), ..numbers() };
    let together = run(&base, &jobs, &numbers);
    for (job, one) in jobs.iter().zip(&together) {
        let alone = run(&base, &[*job], &numbers).remove(0);
        let far = relative(&one.adapter, &alone.adapter);
        assert!(far < 1e-5, "{far}");
        assert!((one.mean_loss - alone.mean_loss).abs() < 1e-5);
        assert_eq!(
            (one.steps, one.tokens, one.examples),
            (alone.steps, alone.tokens, alone.examples)
        );
        assert!(relative(&one.adapter, job.adapter) > 1e-2, "training changes the adapter");
    }
    assert_eq!(together.iter().map(|one| one.steps).collect::<Vec<_>>(), [6, 12, 8]);
}

#[test]
fn padding_of_a_smaller_rank_stays_zero() {
    let base = tiny::base();
    let clients = [Owned::new(3, 8, 1), Owned::new(8, 8, 2)];
    let numbers = LocalNumbers { prox: 0.1, ..numbers() };
    let as_client = |owned: &'_ Owned| (owned.adapter.clone(), owned.lora.clone(), owned.seed);
    let owned: Vec<_> = clients.iter().map(as_client).collect();
    let members: Vec<_> =
        owned.iter().map(|(adapter, lora, seed)| member(adapter, lora, *seed, 4)).collect();
    let mut trainer = Trainer::new(&base, &members, &numbers).unwrap();
    let mut batches: Vec<_> = clients.iter().map(|c| Batches::new(&c.data, 4, c.seed)).collect();
    let jobs: Vec<_> = clients.iter().map(Owned::job).collect();
    for _ in 0..4 {
        let parts = draw_parts(&base, &jobs, &[0, 1], &mut batches, 4);
        trainer.step(&parts).unwrap();
    }
    let inside = trainer.adapters().unwrap()[0].iter().map(|(_, _, v)| count(v)).sum::<usize>();
    assert_eq!(count(&trainer.flat(0)), inside, "only the numbers of the small rank are not zero");
}

fn count(values: &[f32]) -> usize {
    values.iter().filter(|value| **value != 0.0).count()
}

#[test]
fn results_do_not_depend_on_the_number_of_threads() {
    let base = tiny::base();
    // Long and wide enough for products and softmax to be cut up among threads.
    let client = Owned { data: examples(64, 120, 5), ..Owned::new(8, 1, 5) };
    let numbers = LocalNumbers { clip: Some(1.0), ..LocalNumbers::new(32, Optimizer::adamw(1e-2)) };
    let bytes = |threads| {
        let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
        pool.install(|| run(&base, &[client.job()], &numbers).remove(0).adapter.to_safetensors())
    };
    let one = bytes(1);
    assert_eq!(one, bytes(1));
    assert_eq!(one, bytes(2));
    assert_eq!(one, bytes(5));
}

#[test]
fn accumulated_parts_make_the_step_of_the_whole_batch() {
    let base = tiny::base();
    let client = Owned::new(4, 22, 6);
    let whole = LocalNumbers { batch: 16, ..numbers() };
    let parts = LocalNumbers { batch: 4, accumulate: 4, ..numbers() };
    let whole = run(&base, &[client.job()], &whole).remove(0);
    let parts = run(&base, &[client.job()], &parts).remove(0);
    assert_eq!(whole.steps, 4);
    assert!((whole.mean_loss - parts.mean_loss).abs() < 1e-5);
    assert!(relative(&parts.adapter, &whole.adapter) < 1e-5);
}

/// For every objective the gradient of sixteen examples is that of four times four, to within rounding, dropout
/// included.
#[test]
fn accumulated_parts_have_the_gradient_of_the_whole_batch() {
    for base in [LLAMA.base(), BLOOM.base(), LLAMA.base().fused(tiny::threads(1))] {
        let data = fixture::examples(16, 8);
        let sets = fixture::objectives(&data)
            .into_iter()
            .map(|objective| data.clone().with_objective(objective));
        let sets: Vec<TokenSet> = sets.map(Result::unwrap).chain([data.clone()]).collect();
        for data in sets {
            let far = |dropout: f64| {
                let targets = Some(Targets::Pattern("all-linear".to_owned()));
                let lora = LoraConfig { targets, dropout, ..LoraConfig::of_rank(4) };
                let classes = if data.objective().is_causal() { 0 } else { 2 };
                let start = fixture::adapter(&base, &lora, classes);
                let client = Client::new(&start, &lora, 3, 1, data.objective());
                let numbers = LocalNumbers::new(16, Optimizer::Sgd { lr: 0.1 });
                let trainer = Trainer::new(&base, &[client], &numbers).unwrap();
                let all: Vec<usize> = (0..16).collect();
                let part = |indices: &[usize]| {
                    objective::batch(&[(&data, indices)], base.config().pad, base.device())
                };
                let parts: Vec<Batch> = all.chunks(4).map(part).collect();
                let (whole, loss) = trainer.gradient(&[part(&all)]).unwrap();
                let (sum, losses) = trainer.gradient(&parts).unwrap();
                let norm = |tensor: Tensor<2>| tensor.square().sum().into_scalar::<f32>().sqrt();
                let loss: [f32; 2] = [loss.into_scalar(), losses.into_scalar()];
                let far = norm(sum - whole.clone()) / norm(whole);
                far.max((loss[0] - loss[1]).abs() / loss[0])
            };
            for dropout in [0.0, 0.3] {
                let far = far(dropout);
                assert!(far < 1e-6, "{:?}, dropout {dropout}: {far}", data.objective());
            }
        }
    }
}

/// From w ≠ w₀ one step of SGD goes further by -η·μ·(w - w₀); with μ = 0 it is that of FedAvg, bit for bit.
#[test]
fn the_proximal_term_adds_the_way_from_the_start_to_the_gradient() {
    let base = tiny::base();
    let client = Owned::new(4, 16, 7);
    let member = member(&client.adapter, &client.lora, 7, 2);
    let mut batches = [Batches::new(&client.data, 8, 7)];
    let mut draw = || draw_parts(&base, &[client.job()], &[0], &mut batches, 8);
    let (first, second) = (draw(), draw());
    let two_steps = |prox: f64| {
        let numbers = LocalNumbers { prox, ..LocalNumbers::new(8, Optimizer::Sgd { lr: 0.25 }) };
        let mut trainer = Trainer::new(&base, &[member], &numbers).unwrap();
        trainer.step(&first).unwrap();
        let between = trainer.flat(0);
        let (gradient, _) = trainer.gradient(&second).unwrap();
        trainer.step(&second).unwrap();
        (between, gradient.try_into_vec_as::<f32>().unwrap(), trainer.flat(0))
    };
    let (start, (values, free, after)) = (client.adapter.flatten(), two_steps(0.0));
    let plain: Vec<f32> = values.iter().zip(&free).map(|(w, g)| w - g * 0.25).collect();
    assert_eq!(after, plain, "without the term there is nothing but the gradient");
    let (same, held, pulled) = two_steps(0.5);
    assert_eq!(values, same, "at the start there is nothing to pull");
    let way: Vec<f32> = values.iter().zip(&start).map(|(now, before)| now - before).collect();
    let expected: Vec<f32> = free.iter().zip(&way).map(|(g, way)| g + 0.5 * way).collect();
    assert!(apart(&held, &expected) < 1e-6 && apart(&held, &free) > 1e-3);
    let expected: Vec<f32> = after.iter().zip(&way).map(|(w, way)| w - 0.25 * 0.5 * way).collect();
    assert!(apart(&pulled, &expected) < 1e-6 && apart(&pulled, &after) > 1e-3);
}

#[test]
fn training_learns_and_only_adapts_the_blocks_asked_for() {
    let base = tiny::base();
    let mut client = Owned::new(4, 60, 8);
    client.lora = LoraConfig { layers: Layers::Last(1), ..client.lora };
    client.adapter = init_adapter(base.config(), &client.lora, 2, 17).unwrap();
    let numbers = LocalNumbers { epochs: Some(6), lr_to: 0.1, ..numbers() };
    let trained = run(&base, &[client.job()], &numbers).remove(0);
    assert!(trained.last_loss < 0.3 && trained.mean_loss < 0.65, "{trained:?}");
    assert_eq!(trained.adapter.iter().count(), 9);
    assert_eq!(trained.tokens, 6 * client.data.total_tokens() as u64);
    let scores = accuracy(&base, &trained.adapter, &client.lora, &client.data);
    assert!(scores.accuracy > 0.9, "{scores:?}");
    assert_eq!(scores.confusion.iter().flatten().sum::<u64>(), 60);
}

#[test]
fn bad_input_is_refused_and_work_can_be_stopped() {
    let base = tiny::base();
    let client = Owned::new(4, 12, 9);
    let refuse = |job: ClientJob<'_>, numbers: &LocalNumbers| {
        train(&base, &[job], numbers, &mut |_| ControlFlow::Continue(())).unwrap_err().to_string()
    };
    let data = TokenSet::from_examples([(&[1][..], 0), (&[1][..], 2)]).unwrap();
    let error = refuse(ClientJob { data: &data, ..client.job() }, &numbers());
    assert_eq!(error, "example 1 has label 2, which is not one of 0 to 1");
    let data = TokenSet::from_examples([(&[1, 768][..], 0)]).unwrap();
    let error = refuse(ClientJob { data: &data, ..client.job() }, &numbers());
    assert_eq!(error, "example 0 holds token 768, but the base has only 768");
    let lora = LoraConfig { targets: Some(Targets::names(&["q_prj"])), ..client.lora.clone() };
    let error = refuse(ClientJob { lora: &lora, ..client.job() }, &numbers());
    assert!(error.contains("no module `q_prj` (did you mean `q_proj`?)"), "{error}");
    let error = refuse(client.job(), &LocalNumbers { accumulate: 0, ..numbers() });
    assert_eq!(error, "`accumulate` is 0; it is at least 1");
    let wild =
        LocalNumbers { epochs: Some(9), ..LocalNumbers::new(4, Optimizer::Sgd { lr: 1e30 }) };
    let error = refuse(client.job(), &wild);
    assert!(error.starts_with("the loss of client 0 is not finite after step "), "{error}");
    let stopped = train(&base, &[client.job()], &numbers(), &mut |progress| {
        if progress.step == 2 { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
    });
    assert!(matches!(stopped, Err(TrainError::Stopped)));
}
