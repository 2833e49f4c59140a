//! A Llama of random weights, as a folder that transformers reads, too.

use std::{fs, path::Path};

use safetensors::tensor::{Dtype, TensorView};
use serde_json::json;
use stages::{model::SINGLE_FILE, seed::Draws};

/// The sizes of a Llama.
#[derive(Clone, Copy)]
pub(crate) struct Dims {
    pub(crate) hidden: usize,
    pub(crate) inner: usize,
    pub(crate) layers: usize,
    pub(crate) heads: usize,
    pub(crate) kv_heads: usize,
    pub(crate) vocab: usize,
}

/// Eight blocks of width 256.
pub(crate) const SMALL: Dims =
    Dims { hidden: 256, inner: 688, layers: 8, heads: 8, kv_heads: 8, vocab: 4096 };

impl Dims {
    /// Writes `config.json` and `model.safetensors`: matrices are normal with transformers' deviation, norms one.
    pub(crate) fn write(&self, folder: &Path) -> std::io::Result<()> {
        let config = json!({
            "architectures": ["LlamaForCausalLM"], "model_type": "llama", "hidden_act": "silu",
            "vocab_size": self.vocab, "hidden_size": self.hidden, "intermediate_size": self.inner,
            "num_hidden_layers": self.layers, "num_attention_heads": self.heads,
            "num_key_value_heads": self.kv_heads, "max_position_embeddings": 2048, "rms_norm_eps": 1e-6,
            "rope_theta": 10_000.0, "tie_word_embeddings": true, "pad_token_id": 0, "bos_token_id": 1,
            "eos_token_id": 2, "torch_dtype": "float32",
        });
        fs::create_dir_all(folder)?;
        fs::write(folder.join("config.json"), config.to_string())?;
        let tensors = self.tensors().into_iter().map(|(name, shape)| {
            let bytes = values(&name, &shape);
            (name, shape, bytes)
        });
        let tensors: Vec<(String, Vec<usize>, Vec<u8>)> = tensors.collect();
        let views = tensors.iter().map(|(name, shape, bytes)| {
            let view = TensorView::new(Dtype::F32, shape.clone(), bytes);
            (name.as_str(), view.expect("the shape counts the values"))
        });
        let metadata = [("format".to_owned(), "pt".to_owned())].into();
        safetensors::serialize_to_file(views, Some(metadata), &folder.join(SINGLE_FILE))
            .map_err(std::io::Error::other)
    }

    fn tensors(&self) -> Vec<(String, Vec<usize>)> {
        let (hidden, inner) = (self.hidden, self.inner);
        let shared = hidden / self.heads * self.kv_heads;
        let mut tensors = vec![
            ("model.embed_tokens.weight".to_owned(), vec![self.vocab, hidden]),
            ("model.norm.weight".to_owned(), vec![hidden]),
        ];
        for layer in 0..self.layers {
            let mut add = |part: &str, shape: &[usize]| {
                tensors.push((format!("model.layers.{layer}.{part}.weight"), shape.to_vec()));
            };
            add("self_attn.q_proj", &[hidden, hidden]);
            add("self_attn.k_proj", &[shared, hidden]);
            add("self_attn.v_proj", &[shared, hidden]);
            add("self_attn.o_proj", &[hidden, hidden]);
            add("mlp.gate_proj", &[inner, hidden]);
            add("mlp.up_proj", &[inner, hidden]);
            add("mlp.down_proj", &[hidden, inner]);
            add("input_layernorm", &[hidden]);
            add("post_attention_layernorm", &[hidden]);
        }
        tensors
    }
}

/// The values of the tensor `name`, little-endian.
fn values(name: &str, shape: &[usize]) -> Vec<u8> {
    let mut draws = Draws::named(1, "bench", &[name]);
    #[expect(clippy::cast_possible_truncation, reason = "the weights are f32")]
    let mut draw = || if shape.len() == 1 { 1.0 } else { (0.02 * draws.normal()) as f32 };
    (0..shape.iter().product()).flat_map(|_| draw().to_le_bytes()).collect()
}
