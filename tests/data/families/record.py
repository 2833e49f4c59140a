"""Makes the folders beside this file: tiny random models, and what transformers makes of them.

Run as `python record.py`. The files here were made with torch 2.15.0 (CPU build), transformers 5.23.0,
safetensors 0.8.0 and Python 3.11. Seeds are fixed; another version of torch may draw other numbers.

Every recording is made from the files as they lie on disk: the model is saved, then loaded again
in float32 (f16 and bf16 weights are upcast) with eager attention, and only then run.
"""

import json
import shutil
import zlib
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from transformers import (
    BloomConfig,
    BloomForCausalLM,
    BloomForSequenceClassification,
    LlamaConfig,
    LlamaForCausalLM,
    LlamaForSequenceClassification,
    MistralConfig,
    MistralForCausalLM,
    Qwen2Config,
    Qwen2ForCausalLM,
)

HERE = Path(__file__).parent
VOCAB, PAD, WIDTH = 48, 3, 12
LENGTHS = [12, 1, 7]
TOKENS = dict(vocab_size=VOCAB, bos_token_id=1, eos_token_id=2, pad_token_id=PAD)
DECODER = dict(
    **TOKENS, hidden_size=32, intermediate_size=48, num_hidden_layers=2, max_position_embeddings=64
)
BLOOM = dict(**TOKENS, hidden_size=24, n_layer=2, hidden_dropout=0.0, attention_dropout=0.0)


def randomise(model, name):
    """Weights that make logits of order 1; norms and biases are random too, so that none can be left out."""
    draw = torch.Generator().manual_seed(zlib.crc32(name.encode()))
    with torch.no_grad():
        for key, parameter in sorted(model.named_parameters()):
            values = torch.randn(parameter.shape, generator=draw)
            if parameter.dim() > 1:
                parameter.copy_(0.25 * values)
            else:
                parameter.copy_(0.3 * values + (1.0 if key.endswith("weight") else 0.0))


def rows(name, left=False):
    """A full row, one of a single token, and one in between; the padding token is nowhere else."""
    draw = torch.Generator().manual_seed(zlib.crc32(f"{name} rows".encode()))
    ids = torch.full((len(LENGTHS), WIDTH), PAD)
    mask = torch.zeros_like(ids)
    for row, length in enumerate(LENGTHS):
        text = torch.randint(PAD + 1, VOCAB, (length,), generator=draw)
        at = slice(WIDTH - length, WIDTH) if left else slice(0, length)
        ids[row, at], mask[row, at] = text, 1
    return ids, mask


def run(model, ids, mask):
    with torch.no_grad():
        return model(input_ids=ids, attention_mask=mask, output_hidden_states=True, use_cache=False)


def record(name, model, *, dtype=torch.float32, old_config=None, bare=False, shards=None, left=False):
    folder = HERE / name
    shutil.rmtree(folder, ignore_errors=True)
    randomise(model, name)
    model = model.to(dtype).eval()
    (model.base_model if bare else model).save_pretrained(folder, max_shard_size=shards or "1GB")
    (folder / "generation_config.json").unlink(missing_ok=True)
    path = folder / "config.json"
    if old_config:
        path.write_text(json.dumps(old_config(json.loads(path.read_text())), indent=2) + "\n")

    # What is loaded must be what was saved, whatever its spelling and layout.
    loaded = type(model).from_pretrained(folder, dtype=torch.float32, attn_implementation="eager")
    loaded.eval()
    for key, value in model.state_dict().items():
        assert torch.equal(loaded.state_dict()[key], value.float()), key
    head = loaded.get_output_embeddings()
    ids, mask = rows(name)
    out = run(loaded, ids, mask)
    hidden = out.hidden_states
    assert len(hidden) == 3 and out.logits.abs().max() < 30
    recorded = {"input_ids": ids, "attention_mask": mask}
    recorded |= {f"hidden.{at}": values for at, values in enumerate(hidden)}
    if head is not None:
        assert torch.allclose(hidden[-1] @ head.weight.T, out.logits, atol=1e-4)
        recorded["logits"] = out.logits
    else:
        recorded["cls_logits"] = out.logits
    if left:
        left_ids, left_mask = rows(name, left=True)
        recorded |= {"input_ids_left": left_ids, "attention_mask_left": left_mask}
        key = "logits_left" if head is not None else "cls_logits_left"
        recorded[key] = run(loaded, left_ids, left_mask).logits
    recorded = {key: value.contiguous().clone() for key, value in recorded.items()}
    save_file(recorded, folder / "recorded.safetensors")
    scale = out.logits[mask.bool()].std() if head is not None else out.logits.std()
    weights = [key for file in sorted(folder.glob("model*.safetensors")) for key in load_file(file)]
    print(f"{name}: logits' std {scale:.2f}, {len(weights)} tensors, {weights[0]} first")


def bigscience(config):
    """`config.json` in the words of bigscience/bloom-560m."""
    return {
        "apply_residual_connection_post_layernorm": config["apply_residual_connection_post_layernorm"],
        "attention_dropout": 0.0,
        "architectures": ["BloomForCausalLM"],
        "attention_softmax_in_fp32": True,
        "bias_dropout_fusion": True,
        "bos_token_id": 1,
        "eos_token_id": 2,
        "pad_token_id": PAD,
        "unk_token_id": 0,
        "hidden_dropout": 0.0,
        "initializer_range": 0.02,
        "layer_norm_epsilon": config["layer_norm_epsilon"],
        "masked_softmax_fusion": True,
        "model_type": "bloom",
        "n_embed": config["hidden_size"],
        "n_inner": None,
        "n_layer": config["n_layer"],
        "num_attention_heads": config["n_head"],
        "offset_alibi": 100,
        "pretraining_tp": 1,
        "seq_length": 2048,
        "skip_bias_add": True,
        "skip_bias_add_qkv": False,
        "transformers_version": "4.20.0",
        "use_cache": True,
        "vocab_size": VOCAB,
    }


def transformers_4(config):
    """`config.json` as transformers 4 writes it."""
    rope = config.pop("rope_parameters")
    config["rope_theta"] = rope.pop("rope_theta")
    config["rope_scaling"] = rope
    config["torch_dtype"] = config.pop("dtype")
    config["transformers_version"] = "4.45.0"
    return dict(sorted(config.items()))


def main():
    record(
        "bloom-h6-post",
        BloomForCausalLM(
            BloomConfig(**BLOOM, n_head=6, apply_residual_connection_post_layernorm=True)
        ),
        dtype=torch.float16,
        old_config=bigscience,
        bare=True,
    )
    record("bloom-h3-left", BloomForCausalLM(BloomConfig(**BLOOM, n_head=3)), left=True)
    labels = {0: "against", 1: "neutral", 2: "in favour"}
    labels = dict(id2label=labels, label2id={name: at for at, name in labels.items()})
    record(
        "bloom-seqcls",
        BloomForSequenceClassification(BloomConfig(**BLOOM, n_head=4, **labels)),
        left=True,
    )

    # The wavelengths of the four frequencies are 6, 20, 63 and 199 positions. Below 32 / 4 one is
    # kept, beyond 32 / 1 divided by 8, and smoothed in between: each case occurs.
    llama3 = dict(
        rope_type="llama3",
        rope_theta=100.0,
        factor=8.0,
        low_freq_factor=1.0,
        high_freq_factor=4.0,
        original_max_position_embeddings=32,
    )
    grouped = DECODER | dict(hidden_size=48, num_attention_heads=6, num_key_value_heads=2)
    record(
        "llama-gqa-llama3",
        LlamaForCausalLM(LlamaConfig(**grouped, tie_word_embeddings=True, rope_parameters=llama3)),
        dtype=torch.bfloat16,
        old_config=transformers_4,
        shards="25KB",
    )
    record(
        "llama-linear",
        LlamaForCausalLM(
            LlamaConfig(
                **(DECODER | dict(hidden_size=24)),
                num_attention_heads=4,
                head_dim=16,
                rope_parameters=dict(rope_type="linear", rope_theta=100.0, factor=2.0),
            )
        ),
    )
    halved = DECODER | dict(num_attention_heads=4, num_key_value_heads=2)
    record(
        "llama-bias", LlamaForCausalLM(LlamaConfig(**halved, attention_bias=True, mlp_bias=True))
    )
    record(
        "qwen2",
        Qwen2ForCausalLM(Qwen2Config(**halved, tie_word_embeddings=True, use_sliding_window=False)),
    )
    one = DECODER | dict(num_attention_heads=4, num_key_value_heads=1)
    record("mistral", MistralForCausalLM(MistralConfig(**one, sliding_window=None)))
    record(
        "llama-seqcls",
        LlamaForSequenceClassification(LlamaConfig(**halved, num_labels=2)),
        left=True,
    )


if __name__ == "__main__":
    main()
