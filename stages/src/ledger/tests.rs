//! Published sizes, the formulas of each rule, and that what is encoded has the length that is foreseen.

use std::collections::BTreeMap;
use std::fmt::Write as _;

use serde_json::Value;

use super::*;
use crate::codec::Codec;
use crate::model::{Config, LoraConfig, Targets, tiny};
use crate::parts::Parts;
use crate::peft::{self, AdapterTensors};

const MIB: f64 = 1024.0 * 1024.0;
const F32: [Codec; 2] = [Codec::F32; 2];

/// The sizes in the `config.json` of a model of the Llama family, as its repository on the Hub has them.
fn llama(architecture: &str, sizes: [usize; 6]) -> Config {
    let [hidden, inner, layers, heads, kv_heads, vocab] = sizes;
    let json = serde_json::json!({
        "architectures": [architecture],
        "hidden_act": "silu",
        "hidden_size": hidden,
        "intermediate_size": inner,
        "num_hidden_layers": layers,
        "num_attention_heads": heads,
        "num_key_value_heads": kv_heads,
        "vocab_size": vocab,
        "max_position_embeddings": 4096,
        "rms_norm_eps": 1e-5,
        "rope_theta": 10_000.0,
        "sliding_window": null,
        "tie_word_embeddings": false,
    });
    Config::parse(json.to_string().as_bytes()).unwrap()
}

fn llama_2_7b() -> Config {
    llama("LlamaForCausalLM", [4096, 11_008, 32, 32, 32, 32_000])
}

fn mistral_7b() -> Config {
    llama("MistralForCausalLM", [4096, 14_336, 32, 32, 8, 32_000])
}

fn tiny_llama() -> Config {
    llama("LlamaForCausalLM", [2048, 5632, 22, 32, 4, 32_000])
}

/// The same of a BLOOM.
fn bloom(hidden: usize, layers: usize, heads: usize) -> Config {
    let json = serde_json::json!({
        "architectures": ["BloomForCausalLM"],
        "hidden_size": hidden,
        "n_layer": layers,
        "n_head": heads,
        "vocab_size": 250_880,
        "layer_norm_epsilon": 1e-5,
        "pad_token_id": 3,
    });
    Config::parse(json.to_string().as_bytes()).unwrap()
}

fn bloom_560m() -> Config {
    bloom(1024, 24, 16)
}

/// An adapter of PEFT's default targets, or of all linear modules.
fn shapes(config: &Config, rank: usize, all_linear: bool) -> Shapes {
    let targets = all_linear.then(|| Targets::names(config.family.targets()));
    Shapes::new(config, &LoraConfig { targets, ..LoraConfig::of_rank(rank) }, 0).unwrap()
}

/// MiB up and down in a round of `population` clients, all of them sampled.
fn round(exchange: Exchange, one: &Shapes, population: u32) -> [f64; 2] {
    let sampled = vec![one.clone(); population as usize];
    let Traffic { up, down } = exchange.traffic(&sampled, population, F32);
    [up as f64 / MIB, down as f64 / MIB]
}

fn only(parts: Parts) -> Exchange {
    Exchange { up: parts, down: parts, ..Exchange::WHOLE }
}

const FLORA: Exchange =
    Exchange { down: Parts::HEAD, broadcast: Broadcast::Stack, ..Exchange::WHOLE };
const FEDEX: Exchange = Exchange { broadcast: Broadcast::Residual, ..Exchange::WHOLE };

/// Figures in MiB are multiples of 2⁻²⁰, exact in f64.
#[track_caller]
fn same(found: f64, expected: f64) {
    assert!((found - expected).abs() < 1e-9, "{found}, not {expected}");
}

#[test]
fn every_recorded_size_is_met() {
    let text = include_str!("../../../tests/data/traffic/sizes.json");
    let sizes: BTreeMap<String, Value> = serde_json::from_str(text).unwrap();
    let models = [
        ("llama2-7b qv", llama_2_7b(), false),
        ("llama2-7b all-linear", llama_2_7b(), true),
        ("bloom-560m qkv", bloom_560m(), false),
        ("bloomz-1b7 qkv", bloom(2048, 24, 16), false),
        ("bloom-7b1 qkv", bloom(4096, 30, 32), false),
    ];
    let mut met = 0;
    for (name, config, all_linear) in models {
        for rank in [16, 64, 256] {
            let expected = &sizes[&format!("{name} r{rank}")];
            let one = shapes(&config, rank, all_linear);
            assert_eq!(one.values(Parts::FACTORS) as u64, expected["params"], "{name} {rank}");
            let mib = |codec| one.bytes(Parts::FACTORS, codec) as f64 / MIB;
            same(mib(Codec::F32), expected["f32_mib"].as_f64().unwrap());
            same(mib(Codec::BF16), expected["bf16_mib"].as_f64().unwrap());
            met += 1;
        }
    }
    assert_eq!(met + 5, sizes.len(), "the other five are those of the next test");
    let number = |name: &str| sizes[name].as_f64().unwrap();
    same(number("mib"), 52.0);
    same(number("mistral7b_r32_qv_params"), 13_631_488.0);
    same(number("flowertune_total_mib"), 41_600.0);
    same(number("tinyllama_r16_qv_bytes"), 9_011_200.0);
    same(number("total_mib_10c_15r"), 2578.125);
}

#[test]
fn published_totals_come_out() {
    let mistral = shapes(&mistral_7b(), 32, false);
    assert_eq!(mistral.values(Parts::ALL), 13_631_488);
    same(mistral.bytes(Parts::ALL, Codec::F32) as f64 / MIB, 52.0);
    let [up, down] = round(Exchange::WHOLE, &mistral, 2);
    same(200.0 * (up + down), 41_600.0);

    let small = shapes(&tiny_llama(), 16, false);
    assert_eq!(small.bytes(Parts::ALL, Codec::F32), 9_011_200);
    let [up, down] = round(Exchange::WHOLE, &small, 10);
    same(15.0 * (up + down), 2578.125);
    // FFA sends B in each round, and A once: or the seed that makes it, which is nothing.
    let [up, down] = round(only(Parts::B), &small, 10);
    same(15.0 * (up + down), 928.125);
    same(10.0 * small.bytes(Parts::A, Codec::F32) as f64 / MIB, 55.0);
    same(15.0 * (up + down) + 10.0 * small.bytes(Parts::A, Codec::F32) as f64 / MIB, 983.125);
}

/// MiB in a round of ten clients: those of `heads` below.
type Row = (usize, [f64; 7]);

#[expect(clippy::print_stdout, reason = "`--nocapture` shows the table")]
#[test]
fn the_traffic_of_each_rule_is_as_by_hand() {
    let models: [(&str, Config, [Row; 3]); 2] = [
        (
            "BLOOM-560m qkv",
            bloom_560m(),
            [
                (16, [60.0, 45.0, 15.0, 60.0, 600.0, 60.0, 660.0]),
                (64, [240.0, 180.0, 60.0, 240.0, 2400.0, 240.0, 2640.0]),
                (256, [960.0, 720.0, 240.0, 960.0, 2880.0, 960.0, 3840.0]),
            ],
        ),
        (
            "LLaMA-2-7B q,v",
            llama_2_7b(),
            [
                (16, [320.0, 160.0, 160.0, 320.0, 3200.0, 320.0, 3520.0]),
                (64, [1280.0, 640.0, 640.0, 1280.0, 12_800.0, 1280.0, 14_080.0]),
                (256, [5120.0, 2560.0, 2560.0, 5120.0, 40_960.0, 5120.0, 46_080.0]),
            ],
        ),
    ];
    let heads = ["FedIT", "FFA", "FedSA", "FLoRA up", "down", "FedEx up", "down"];
    let mut table = format!("{:<16}{:>5}", "MiB a round, K=10", "rank");
    for head in heads {
        write!(table, "{head:>10}").unwrap();
    }
    for (name, config, rows) in models {
        for (rank, expected) in rows {
            let one = shapes(&config, rank, false);
            let [fed_it, same_down] = round(Exchange::WHOLE, &one, 10);
            same(fed_it, same_down);
            let [flora_up, flora_down] = round(FLORA, &one, 10);
            let [fedex_up, fedex_down] = round(FEDEX, &one, 10);
            let found = [
                fed_it,
                round(only(Parts::B), &one, 10)[0],
                round(only(Parts::A), &one, 10)[1],
                flora_up,
                flora_down,
                fedex_up,
                fedex_down,
            ];
            write!(table, "\n{name:<17}{rank:>5}").unwrap();
            for (mib, expected) in found.into_iter().zip(expected) {
                write!(table, "{mib:>10.0}").unwrap();
                same(mib, expected);
            }
        }
    }
    println!("{table}");
}

#[test]
fn a_stack_becomes_dense_where_that_is_smaller() {
    // The crossing is at a rank of in·out/(in+out) in all: 768 for BLOOM-560m, 2048 for LLaMA-2 7B.
    for (config, rank, clients) in [(bloom_560m(), 256, 3), (llama_2_7b(), 256, 8)] {
        let one = shapes(&config, rank, false);
        let each = |clients: usize| {
            let sampled = vec![one.clone(); clients];
            FLORA.traffic(&sampled, 1, F32).down
        };
        assert_eq!(each(clients), 4 * one.dense() as u64, "both are of one size there");
        assert_eq!(each(clients + 1), each(clients));
        let factors = one.bytes(Parts::FACTORS, Codec::F32);
        assert_eq!(each(clients - 1), (clients as u64 - 1) * factors);
    }
}

#[test]
fn only_some_clients_may_be_sampled_and_each_has_its_rank() {
    let config = tiny::LLAMA.config();
    let of = |rank, classes| Shapes::new(&config, &LoraConfig::of_rank(rank), classes).unwrap();
    let sampled = [of(1, 2), of(2, 2), of(5, 2)];
    let bytes = |parts| sampled.iter().map(|one| 4 * one.values(parts) as u64).sum::<u64>();
    let whole = Exchange::WHOLE.traffic(&sampled, 100, F32);
    assert_eq!(whole, Traffic { up: bytes(Parts::ALL), down: bytes(Parts::ALL) });
    let scaffold = Exchange { copies: 2, ..Exchange::WHOLE }.traffic(&sampled, 100, F32);
    assert_eq!(scaffold, whole + whole);
    let head = 4 * 2 * config.hidden as u64;
    let flora = FLORA.traffic(&sampled, 100, F32);
    assert_eq!(flora.up, bytes(Parts::ALL));
    assert_eq!(flora.down, 100 * (head + bytes(Parts::FACTORS)), "all of the population");
    let silent = Exchange { up: Parts::NONE, ..Exchange::WHOLE };
    assert_eq!(silent.traffic(&sampled, 100, [Codec::TopK { share: 0.1 }; 2]).up, 0);
    assert_eq!(FLORA.traffic(&[], 100, F32), Traffic::default());
}

#[test]
fn cores_count_only_where_there_are_some() {
    let one = shapes(&bloom_560m(), 16, false);
    assert_eq!(one.cores(), 24 * 256);
    assert_eq!((one.values(Parts::CORE), one.values(Parts::ALL)), (0, one.a() + one.b()));
    assert_eq!(one.with_cores().bytes(Parts::CORE, Codec::F32), 4 * 24 * 256);
}

#[test]
fn what_is_encoded_has_the_length_that_is_foreseen() {
    let config = tiny::LLAMA.config();
    let lora = LoraConfig::of_rank(3);
    let adapter = peft::init_adapter(&config, &lora, 2, 7).unwrap();
    let one = Shapes::of(&adapter).unwrap();
    let foreseen = Shapes::new(&config, &lora, 2).unwrap();
    for parts in [Parts::ALL, Parts::FACTORS, Parts::A, Parts::B | Parts::HEAD, Parts::HEAD] {
        let values = adapter.only(parts).flatten();
        assert_eq!((one.values(parts), foreseen.values(parts)), (values.len(), values.len()));
        for codec in
            [Codec::F32, Codec::BF16, Codec::Int8 { block: 64 }, Codec::TopK { share: 0.1 }]
        {
            let sent = codec.encode(&values, &vec![0.0; values.len()]).len() as u64;
            assert_eq!(sent, one.bytes(parts, codec), "{parts} {codec:?}");
        }
    }
    let mut ledger = Ledger::new(5, 0);
    for client in [3, 0] {
        let bytes = adapter.flatten().len() as u64 * 4;
        ledger.add(client, bytes, bytes);
    }
    assert_eq!(ledger.total(), Exchange::WHOLE.traffic(&[one.clone(), one], 5, F32));
}

#[test]
fn a_ledger_is_written_in_the_order_of_the_clients() {
    let mut ledger = Ledger::new(3, 10);
    ledger.add(2, 7, 1);
    ledger.add(0, 5, 1);
    ledger.add(2, 1, 0);
    let text = serde_json::to_string(&ledger).unwrap();
    assert_eq!(
        text,
        r#"{"clients":[{"client":0,"up":5,"down":1},{"client":2,"up":8,"down":1}],"population":3,"broadcast":10,"total":{"up":13,"down":32}}"#
    );
    assert_eq!(serde_json::from_str::<Ledger>(&text).unwrap(), ledger);
    assert_eq!((ledger.broadcast(), ledger.clients().len()), (10, 2));
}

#[test]
fn an_adapter_with_half_of_its_factors_is_refused() {
    let adapter = peft::init_adapter(&tiny::LLAMA.config(), &LoraConfig::of_rank(3), 2, 7).unwrap();
    for part in [Parts::A, Parts::B] {
        assert!(Shapes::of(&adapter.only(part)).is_err(), "{part}");
    }
    assert_eq!(Shapes::of(&AdapterTensors::default()).unwrap(), Shapes::default());
}
