//! How much memory it takes to load a base: `cargo bench --bench load`.
//!
//! A checkpoint of the shapes of a small Llama and of a small BLOOM is written in bf16, mapped, and loaded as f32. The
//! peak of the process's own memory (`RssAnon`; pages of the mapped file are the system's to drop) is compared with
//! the model as it then stands in memory. Linux only, as it reads `/proc`.

#![expect(clippy::print_stdout, reason = "a benchmark prints its figures")]
#![expect(clippy::unwrap_used, reason = "a benchmark that cannot go on should panic")]

use std::fs::{self, File};
use std::io::{BufWriter, Write};
use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread;
use std::time::Duration;

use burn::tensor::Device;
use stages::model::{Base, Checkpoint, Config, NamedFile, SINGLE_FILE};

/// The process's own memory, in bytes.
fn anonymous() -> u64 {
    let status = fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix("RssAnon:"));
    let kib = line.and_then(|line| line.split_whitespace().next()).and_then(|n| n.parse().ok());
    kib.unwrap_or(0_u64) * 1024
}

/// Writes a checkpoint of these tensors, all of them small numbers in bf16.
fn write(path: &Path, tensors: &[(String, Vec<usize>)]) {
    let mut header = serde_json::Map::new();
    let mut end = 0;
    for (name, shape) in tensors {
        let start = end;
        end += 2 * shape.iter().product::<usize>();
        let entry =
            serde_json::json!({"dtype": "BF16", "shape": shape, "data_offsets": [start, end]});
        header.insert(name.clone(), entry);
    }
    let mut text = serde_json::Value::Object(header).to_string().into_bytes();
    text.resize(text.len().next_multiple_of(8), b' ');
    let mut file = BufWriter::new(File::create(path).unwrap());
    file.write_all(&(text.len() as u64).to_le_bytes()).unwrap();
    file.write_all(&text).unwrap();
    let block = vec![0x3C_u8; 1 << 16];
    while end > 0 {
        let now = end.min(block.len());
        file.write_all(&block[..now]).unwrap();
        end -= now;
    }
    file.flush().unwrap();
}

fn llama(layers: usize) -> (String, Vec<(String, Vec<usize>)>) {
    let (vocab, hidden, inner) = (32_000, 1024, 2816);
    let config = serde_json::json!({
        "architectures": ["LlamaForCausalLM"], "vocab_size": vocab, "hidden_size": hidden,
        "intermediate_size": inner, "num_hidden_layers": layers, "num_attention_heads": 16,
        "rms_norm_eps": 1e-5, "tie_word_embeddings": true,
    });
    let mut tensors = vec![
        ("model.embed_tokens.weight".to_owned(), vec![vocab, hidden]),
        ("model.norm.weight".to_owned(), vec![hidden]),
    ];
    for layer in 0..layers {
        let mut add = |part: &str, shape: Vec<usize>| {
            tensors.push((format!("model.layers.{layer}.{part}.weight"), shape));
        };
        for part in ["q_proj", "k_proj", "v_proj", "o_proj"] {
            add(&format!("self_attn.{part}"), vec![hidden, hidden]);
        }
        add("mlp.gate_proj", vec![inner, hidden]);
        add("mlp.up_proj", vec![inner, hidden]);
        add("mlp.down_proj", vec![hidden, inner]);
        add("input_layernorm", vec![hidden]);
        add("post_attention_layernorm", vec![hidden]);
    }
    (config.to_string(), tensors)
}

fn bloom(layers: usize) -> (String, Vec<(String, Vec<usize>)>) {
    let (vocab, hidden) = (64_000, 1024);
    let config = serde_json::json!({
        "architectures": ["BloomForCausalLM"], "vocab_size": vocab, "n_embed": hidden,
        "n_layer": layers, "num_attention_heads": 16,
    });
    let mut tensors = vec![("word_embeddings.weight".to_owned(), vec![vocab, hidden])];
    let mut add = |path: String, shape: &[usize]| {
        tensors.push((format!("{path}.bias"), shape[..1].to_vec()));
        tensors.push((format!("{path}.weight"), shape.to_vec()));
    };
    add("word_embeddings_layernorm".to_owned(), &[hidden]);
    add("ln_f".to_owned(), &[hidden]);
    for layer in 0..layers {
        add(format!("h.{layer}.input_layernorm"), &[hidden]);
        add(format!("h.{layer}.post_attention_layernorm"), &[hidden]);
        add(format!("h.{layer}.self_attention.query_key_value"), &[3 * hidden, hidden]);
        add(format!("h.{layer}.self_attention.dense"), &[hidden, hidden]);
        add(format!("h.{layer}.mlp.dense_h_to_4h"), &[4 * hidden, hidden]);
        add(format!("h.{layer}.mlp.dense_4h_to_h"), &[hidden, 4 * hidden]);
    }
    (config.to_string(), tensors)
}

fn measure(name: &str, config: &str, tensors: &[(String, Vec<usize>)]) {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join(SINGLE_FILE);
    write(&path, tensors);
    let sizes = tensors.iter().map(|(_, shape)| 4 * shape.iter().product::<usize>() as u64);
    let (model, largest) = (sizes.clone().sum::<u64>(), sizes.max().unwrap_or(0));
    let file = File::open(&path).unwrap();
    // The file is ours alone, and nobody changes it.
    #[expect(unsafe_code, reason = "mapping a file is unsafe")]
    let bytes = unsafe { memmap2::Mmap::map(&file).unwrap() };

    let (peak, done) = (AtomicU64::new(0), AtomicBool::new(false));
    let before = anonymous();
    let base = thread::scope(|scope| {
        scope.spawn(|| {
            while !done.load(Ordering::Relaxed) {
                peak.fetch_max(anonymous(), Ordering::Relaxed);
                thread::sleep(Duration::from_micros(200));
            }
        });
        let files = [NamedFile { name: SINGLE_FILE, bytes: &bytes }];
        let checkpoint = Checkpoint::open(&files).unwrap();
        let config = Config::parse(config.as_bytes()).unwrap();
        let base = Base::load(config, checkpoint, &Device::flex()).unwrap();
        done.store(true, Ordering::Relaxed);
        base
    });
    let (peak, after) = (peak.load(Ordering::Relaxed).saturating_sub(before), anonymous() - before);
    drop(base);
    let mib = |bytes: u64| bytes as f64 / f64::from(1 << 20);
    println!(
        "{name}: the model is {:.0} MiB in f32, its largest tensor {:.0} MiB; loaded {:.0} MiB, peak {:.0} MiB: \
         {:.3} of the model, {:.0} MiB above it",
        mib(model),
        mib(largest),
        mib(after),
        mib(peak),
        peak as f64 / model as f64,
        mib(peak.saturating_sub(model)),
    );
    let most = model + largest + (16 << 20);
    assert!(peak <= most, "more than the model, one tensor and 16 MiB");
}

fn main() {
    let (config, tensors) = llama(12);
    measure("llama", &config, &tensors);
    let (config, tensors) = bloom(12);
    measure("bloom", &config, &tensors);
}
