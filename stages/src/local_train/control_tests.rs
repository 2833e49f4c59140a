//! SCAFFOLD against its formulas, and against FedAvg where clients drift.

use super::fixture::{adapter, examples, refusal, run, slope, whole_batch};
use super::*;
use crate::model::recorded::apart;
use crate::model::tiny::LLAMA;
use crate::seed::Draws;

fn sgd(lr: f64) -> LocalNumbers {
    LocalNumbers::new(4, Optimizer::Sgd { lr })
}

/// Numbers in ±`size` in the shape of `like`.
fn noise(like: &AdapterTensors, size: f64, seed: u64) -> AdapterTensors {
    let mut draws = Draws::named(seed, "test", &["noise"]);
    #[expect(clippy::cast_possible_truncation, reason = "adapters are f32")]
    let flat: Vec<f32> =
        (0..like.length()).map(|_| (size * (2.0 * draws.unit() - 1.0)) as f32).collect();
    like.with_values(&flat)
}

fn zeros(like: &AdapterTensors) -> AdapterTensors {
    like.with_values(&vec![0.0; like.length()])
}

fn wide(adapter: &AdapterTensors) -> Vec<f64> {
    adapter.flatten().into_iter().map(f64::from).collect()
}

/// The largest absolute difference.
fn gap(left: &[f64], right: &[f64]) -> f64 {
    assert_eq!(left.len(), right.len());
    left.iter().zip(right).map(|(a, b)| (a - b).abs()).fold(0.0, f64::max)
}

#[test]
fn without_a_control_variate_yet_it_is_plain_sgd() {
    let base = LLAMA.base();
    let lora = LoraConfig { dropout: 0.1, ..LoraConfig::of_rank(4) };
    let (start, data) = (adapter(&base, &lora, 2), examples(11, 1));
    let numbers = LocalNumbers { epochs: Some(2), prox: 0.1, ..sgd(0.1) };
    let plain = ClientJob::new(&start, &lora, &data, 3);
    let zeros = zeros(&start);
    let expected = run(&base, &[plain], &numbers).remove(0);
    assert_eq!(expected.control, None);
    for own in [None, Some(&zeros)] {
        let control = Some(Control { server: &zeros, own });
        let first = run(&base, &[ClientJob { control, ..plain }], &numbers).remove(0);
        assert_eq!(first.adapter.to_safetensors(), expected.adapter.to_safetensors());
        let control = first.control.unwrap();
        assert!(control.same_shapes(&start));
        assert!(apart(&control.flatten(), &zeros.flatten()) > 1e-3);
    }
}

#[test]
fn one_step_is_the_formula() {
    let base = LLAMA.base();
    let lora = LoraConfig::of_rank(4);
    let (start, data) = (adapter(&base, &lora, 2), examples(4, 1));
    for frozen in [Parts::NONE, Parts::A] {
        let trained = start.only(!frozen);
        let (server, own) = (noise(&trained, 0.1, 1), noise(&trained, 0.1, 2));
        let control = Some(Control { server: &server, own: Some(&own) });
        let job = ClientJob { frozen, control, ..ClientJob::new(&start, &lora, &data, 3) };
        let after = run(&base, &[job], &sgd(0.25)).remove(0);
        assert_eq!(after.steps, 1);
        assert_eq!(after.adapter.only(frozen), start.only(frozen));
        let client = Client { frozen, ..Client::new(&start, &lora, 3, 1, data.objective()) };
        let (gradient, _) = slope(&base, client, &sgd(0.25), &whole_batch(&base, &data));
        let (x, g, c, ci) = (wide(&trained), wide(&gradient), wide(&server), wide(&own));
        let at = |i: usize| x[i] - 0.25 * (g[i] - ci[i] + c[i]);
        let y: Vec<f64> = (0..x.len()).map(at).collect();
        let far = gap(&wide(&after.adapter.only(!frozen)), &y);
        assert!(far < 1e-7, "{frozen}: {far}");
        // After one step (x − y)/η is g − cᵢ + c, so the control variate is the gradient itself.
        let control = after.control.unwrap();
        let next: Vec<f64> = (0..x.len()).map(|i| ci[i] - c[i] + (x[i] - y[i]) / 0.25).collect();
        assert!(gap(&wide(&control), &next) < 1e-6);
        assert!(gap(&wide(&control), &g) < 1e-6);
        assert!(gap(&g, &ci) > 1e-2 && control.same_shapes(&trained));
    }
}

/// Rounds in which every client takes part; their rates vary from step to step.
#[test]
fn the_servers_control_variate_stays_the_mean_of_the_clients() {
    let base = LLAMA.base();
    let lora = LoraConfig::of_rank(2);
    let data = [examples(8, 1), examples(13, 2), examples(4, 3)];
    let numbers = LocalNumbers { lr_to: 0.5, warmup_steps: 2, ..sgd(0.1) };
    let mut x = adapter(&base, &lora, 2);
    let mut server = zeros(&x);
    let mut own = [zeros(&x), zeros(&x), zeros(&x)];
    for round in 0..3 {
        let control = |at: usize| Some(Control { server: &server, own: Some(&own[at]) });
        let job = |at: usize| ClientJob {
            control: control(at),
            ..ClientJob::new(&x, &lora, &data[at], at as u64)
        };
        let jobs = [job(0), job(1), job(2)];
        let trained = run(&base, &jobs, &numbers);
        let mut c = wide(&server);
        let mut way = vec![0.0; c.len()];
        let mut mean = vec![0.0; c.len()];
        for (at, one) in trained.iter().enumerate() {
            let rates = schedule::sum(&numbers, one.steps);
            let (before, next) = (wide(&own[at]), wide(one.control.as_ref().unwrap()));
            let (start, end) = (wide(&x), wide(&one.adapter));
            for i in 0..c.len() {
                c[i] += (next[i] - before[i]) / 3.0;
                mean[i] += next[i] / 3.0;
                way[i] += (start[i] - end[i]) / rates / 3.0;
            }
            let alone = run(&base, &[jobs[at]], &numbers).remove(0);
            let far =
                apart(&one.control.as_ref().unwrap().flatten(), &alone.control.unwrap().flatten());
            assert!(far < 1e-4, "round {round}, client {at}: {far} from what it is alone");
        }
        assert!(gap(&c, &mean) < 1e-6, "round {round}");
        // If c is the mean of the cᵢ, they cancel: what is left is the mean way, per unit of learning rate.
        assert!(gap(&c, &way) < 1e-6, "round {round}: {}", gap(&c, &way));
        assert!(c.iter().any(|value| value.abs() > 1e-2));
        #[expect(clippy::cast_possible_truncation, reason = "adapters are f32")]
        let narrow = |values: &[f64]| values.iter().map(|x| *x as f32).collect::<Vec<f32>>();
        let ends: Vec<Vec<f64>> = trained.iter().map(|one| wide(&one.adapter)).collect();
        let next: Vec<f64> =
            (0..c.len()).map(|i| ends.iter().map(|end| end[i] / 3.0).sum()).collect();
        x = x.with_values(&narrow(&next));
        server = server.with_values(&narrow(&c));
        own = [0, 1, 2].map(|at| trained[at].control.clone().unwrap());
    }
}

/// Only the classifier is trained, which makes it logistic regression: convex, and solved where the gradient of the
/// common loss is 0. Two clients see other sequences and other shares of labels, and go many steps in each round.
#[test]
fn it_finds_the_common_solution_where_fedavg_drifts() {
    let base = LLAMA.base();
    let lora = LoraConfig::of_rank(1);
    let sequences: Vec<Vec<u32>> = (0..4).map(|i| vec![5 + 31 * i, 200 + 17 * i]).collect();
    let set = |ones: &[(usize, usize)]| {
        // Four examples of a sequence, so many of them with label 1.
        let rows = ones.iter().flat_map(|&(at, ones)| {
            let tokens = sequences[at].as_slice();
            (0..4).map(move |i| (tokens, i32::from(i < ones)))
        });
        TokenSet::from_examples(rows).unwrap()
    };
    let shards = [[(0, 3), (1, 1), (2, 3)], [(1, 3), (2, 1), (3, 1)]];
    let data = shards.map(|shard| set(&shard));
    let pooled = set(&shards.concat());
    let (start, frozen) = (adapter(&base, &lora, 2), Parts::FACTORS);
    let numbers = LocalNumbers { batch: 64, steps: Some(10), ..sgd(0.1) };
    let batch = whole_batch(&base, &pooled);
    let unsolved = |x: &AdapterTensors| {
        let client = Client { frozen, ..Client::new(x, &lora, 1, 1, pooled.objective()) };
        let (gradient, _) = slope(&base, client, &numbers, &batch);
        wide(&gradient).iter().map(|g| g * g).sum::<f64>().sqrt()
    };
    let federate = |scaffold: bool| {
        let mut x = start.clone();
        let mut server = zeros(&start.only(Parts::HEAD));
        let mut own = [server.clone(), server.clone()];
        for _ in 0..30 {
            let job = |at: usize| ClientJob {
                frozen,
                control: scaffold.then_some(Control { server: &server, own: Some(&own[at]) }),
                ..ClientJob::new(&x, &lora, &data[at], 1)
            };
            let trained = run(&base, &[job(0), job(1)], &numbers);
            let mean = |left: &AdapterTensors, right: &AdapterTensors| {
                let pairs = left.flatten().into_iter().zip(right.flatten());
                left.with_values(&pairs.map(|(a, b)| f32::midpoint(a, b)).collect::<Vec<_>>())
            };
            x = mean(&trained[0].adapter, &trained[1].adapter);
            if scaffold {
                own = [0, 1].map(|at| trained[at].control.clone().unwrap());
                server = mean(&own[0], &own[1]);
            }
        }
        unsolved(&x)
    };
    let (begin, fedavg, scaffold) = (unsolved(&start), federate(false), federate(true));
    assert!(scaffold < 0.1 * fedavg && fedavg < begin, "{begin}, {fedavg}, {scaffold}");
}

#[test]
fn what_it_is_not_made_for_is_refused() {
    let base = LLAMA.base();
    let (lora, data) = (LoraConfig::of_rank(4), examples(4, 1));
    let start = adapter(&base, &lora, 2);
    let (server, small) = (zeros(&start), zeros(&start.only(Parts::A)));
    let control = Some(Control { server: &server, own: None });
    let job = ClientJob { control, ..ClientJob::new(&start, &lora, &data, 3) };
    let adamw = LocalNumbers::new(4, Optimizer::adamw(1e-3));
    let error = refusal(&base, &[job], &adamw);
    assert_eq!(error, "SCAFFOLD's correction is for plain SGD; the optimizer is AdamW");
    let error = refusal(&base, &[job], &LocalNumbers { clip: Some(1.0), ..sgd(0.1) });
    assert!(error.starts_with("`clip` cannot be used with SCAFFOLD"), "{error}");
    let error = refusal(&base, &[job], &LocalNumbers { lr_from: 0.0, lr_to: 0.0, ..sgd(0.1) });
    assert!(error.contains("the sum of the learning rates, which is 0"), "{error}");
    let prune = Some(Prune { gamma: 0.5, lambda: 0.1 });
    let error = refusal(&base, &[ClientJob { prune, ..job }], &sgd(0.1));
    assert!(error.contains("prunes its rank cannot keep control variates"), "{error}");
    let error = refusal(&base, &[ClientJob { frozen: Parts::HEAD, ..job }], &sgd(0.1));
    assert!(
        error.starts_with("the server's control variate does not fit what is trained"),
        "{error}"
    );
    let control = Some(Control { server: &server, own: Some(&small) });
    let error = refusal(&base, &[ClientJob { control, ..job }], &sgd(0.1));
    assert!(error.starts_with("the client's control variate does not fit"), "{error}");
}
