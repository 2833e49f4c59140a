"""The same answers from transformers and PEFT.

Nothing here is shared with fedpipe: texts are tokenized, laid out and scored anew, after what the documentation says.
"""

import json
import warnings
from dataclasses import dataclass

import torch
from peft import PeftModel, get_peft_model_state_dict, set_peft_model_state_dict
from peft.tuners.lora import LoraLayer
from peft.utils import load_peft_weights
from transformers import (
    AutoModelForCausalLM,
    AutoModelForSequenceClassification,
    AutoTokenizer,
    PreTrainedTokenizerFast,
)

from fedpipe import Failed

CLASSES = ["bad", "good"]


def require(condition, message):
    if not condition:
        raise Failed(message)


@dataclass(frozen=True)
class Classify:
    """Sequence classification."""

    auto = AutoModelForSequenceClassification
    peft_type = "SEQ_CLS"
    labels = {"num_labels": len(CLASSES)}

    def ron(self):
        return "Classify"

    def answers(self, model, tokenizer, rows, max_len):
        """The classes' logits."""
        texts = [row["sentence"] for row in rows]
        encoded = tokenizer(texts, max_length=max_len, truncation=True).input_ids
        logits = [model(**batch).logits for batch in batches(model, encoded)]
        return {"logits": torch.cat(logits)}


@dataclass(frozen=True)
class Verbalize:
    """The likeliest of some labels after a prompt."""

    prompt: str
    words: tuple

    auto = AutoModelForCausalLM
    peft_type = "CAUSAL_LM"
    labels = {}

    def ron(self):
        return f"Verbalize(prompt: {ron(self.prompt)}, labels: {ron(list(self.words))})"

    def answers(self, model, tokenizer, rows, max_len):
        """The logits of labels of one token each, else the mean log-probability of a label's tokens."""
        prompts = [self.prompt.format(**row) for row in rows]
        labels = [label_tokens(tokenizer, prompts, word) for word in self.words]
        room = max(map(len, labels))
        encoded = [cut_start(tokenizer, tokenizer(text).input_ids, max_len - room) for text in prompts]
        if room == 1:
            columns = [tokens[0] for tokens in labels]
            rows = [row[-1, columns] for row in token_logits(model, encoded)]
            return {"logits": torch.stack(rows)}
        scores = []
        for label in labels:
            found = completion_log_probs(model, [(prompt + label, len(prompt)) for prompt in encoded])
            scores.append(torch.stack([own.mean() for own in found]))
        return {"logits": torch.stack(scores, dim=1)}


@dataclass(frozen=True)
class Complete:
    """What goes on after a prompt, to the end of the text."""

    prompt: str
    completion: str

    auto = AutoModelForCausalLM
    peft_type = "CAUSAL_LM"
    labels = {}

    def ron(self):
        return f"Complete(prompt: {ron(self.prompt)}, completion: {ron(self.completion)})"

    def answers(self, model, tokenizer, rows, max_len):
        """The log-probability of each token of the completions, one example after the other."""
        encoded = [self.encode(model, tokenizer, row, max_len) for row in rows]
        found = completion_log_probs(model, encoded)
        ends = torch.tensor([0] + [len(own) for own in found]).cumsum(0)
        return {"log_probs": torch.cat(found), "offsets": ends}

    def encode(self, model, tokenizer, row, max_len):
        """The tokens of prompt and completion, and where the completion begins."""
        text = self.prompt.format(**row)
        alone = tokenizer(text).input_ids
        both = tokenizer(text + self.completion.format(**row)).input_ids
        # A token that the completion changes is one of the completion.
        start = next((i for i, (a, b) in enumerate(zip(alone, both)) if a != b), min(len(alone), len(both)))
        # A long completion loses its end, but leaves the prompt one token after those that open every text.
        answer = (both[start:] + [model.config.eos_token_id])[: max_len - opening(tokenizer) - 1]
        prompt = cut_start(tokenizer, both[:start], max_len - len(answer))
        return prompt + answer, len(prompt)


def ron(value):
    """A value as RON, which has JSON's strings, lists and maps."""
    return json.dumps(value, ensure_ascii=False)


def opening(tokenizer):
    """How many tokens open every text."""
    return len(tokenizer("").input_ids)


def cut_start(tokenizer, ids, most):
    """A prompt that is too long loses what follows the tokens that open every text."""
    require(ids[-1] != tokenizer.eos_token_id, "the tokenizer closes a prompt")
    excess = max(0, len(ids) - most)
    first = opening(tokenizer)
    return ids[:first] + ids[first + excess :]


def label_tokens(tokenizer, prompts, word):
    """The tokens of a label behind the prompts, which must be the same behind all of them."""
    found = set()
    for prompt in prompts:
        alone, both = tokenizer(prompt).input_ids, tokenizer(prompt + word).input_ids
        require(both[: len(alone)] == alone, f"`{word}` grows together with a prompt")
        found.add(tuple(both[len(alone) :]))
    require(len(found) == 1, f"`{word}` has {len(found)} sorts of tokens")
    return list(found.pop())


def batches(model, encoded, size=8):
    """Rows of tokens, padded on the right."""
    pad = model.config.pad_token_id
    # Without a padding token, transformers takes a classifier's rows one by one only.
    size = 1 if pad is None else size
    for start in range(0, len(encoded), size):
        some = encoded[start : start + size]
        width = max(map(len, some))
        ids = [row + [pad] * (width - len(row)) for row in some]
        mask = [[1] * len(row) + [0] * (width - len(row)) for row in some]
        yield {"input_ids": torch.tensor(ids), "attention_mask": torch.tensor(mask)}


def token_logits(model, encoded):
    """The logits `[tokens, vocabulary]` of each row."""
    rows = []
    for batch in batches(model, encoded):
        # A row keeps its own tokens only: the vocabulary is wide.
        rows += [row[mask.bool()] for row, mask in zip(model(**batch).logits, batch["attention_mask"])]
    return rows


def completion_log_probs(model, examples):
    """The log-probabilities of each example's tokens from a place on."""
    found = []
    for logits, (ids, start) in zip(token_logits(model, [ids for ids, _ in examples]), examples):
        log_probs = logits[start - 1 : -1].log_softmax(-1)
        found.append(log_probs.gather(1, torch.tensor(ids[start:])[:, None])[:, 0])
    return found


def load(task, folder, **more):
    """A model in float32, with attention written out."""
    return task.auto.from_pretrained(folder, dtype=torch.float32, attn_implementation="eager", **more)


def load_base(task, folder):
    """The base for a task; a classifier is drawn at random or the base's own, and the adapter must replace it."""
    return load(task, folder, **task.labels, ignore_mismatched_sizes=True).eval()


def load_adapter(base, folder):
    """A base with the adapter of a folder, after PEFT was asked whether it took all of it."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        model = PeftModel.from_pretrained(base, folder)
        # Once more into the same places, as only this says which keys it missed.
        file = load_peft_weights(folder)
        result = set_peft_model_state_dict(model, dict(file))
    texts = [str(warning.message) for warning in caught]
    wrong = [text for text in texts if "missing" in text or "unexpected" in text]
    # Weights of the base are not in the file; those of an adapter have its name in theirs.
    wrong += [f"missing {key}" for key in result.missing_keys if ".default." in key]
    wrong += [f"unexpected {key}" for key in result.unexpected_keys]
    require(not wrong, f"PEFT says: {'; '.join(wrong)}")
    held = get_peft_model_state_dict(model)
    require(held.keys() == file.keys(), f"PEFT holds other tensors than the file: {held.keys() ^ file.keys()}")
    for name, tensor in held.items():
        require(torch.equal(tensor, file[name].float()), f"PEFT holds another `{name}` than the file")
    return model.eval()


def load_merged(task, folder):
    """A merged checkpoint by transformers alone, which must find every weight and no other."""
    model, info = load(task, folder, output_loading_info=True)
    wrong = {kind: list(names) for kind, names in info.items() if names}
    require(not wrong, f"transformers says of the merged checkpoint: {wrong}")
    named = model.config.architectures
    require(named == [type(model).__name__], f"config.json of the merged checkpoint names {named}")
    if task.peft_type == "SEQ_CLS":
        names = [model.config.id2label[i] for i in range(model.config.num_labels)]
        require(names == CLASSES, f"the merged classifier's classes are {names}")
    return model.eval()


def adapted_modules(model):
    """The modules that PEFT adapts, each with its rank and scale."""
    layers = [(name, module) for name, module in model.named_modules() if isinstance(module, LoraLayer)]
    prefix = "base_model.model."
    return {name.removeprefix(prefix): (layer.r["default"], layer.scaling["default"]) for name, layer in layers}


def load_tokenizer(folder):
    """The tokenizer of a folder."""
    tokenizer = AutoTokenizer.from_pretrained(folder)
    # For a model of this kind transformers builds Qwen2's tokenizer from the vocabulary, whatever tokenizer.json says.
    # The tiny one here has letters for tokens, which that cannot read.
    is_rebuilt = type(tokenizer).__name__ == "Qwen2Tokenizer"
    return PreTrainedTokenizerFast.from_pretrained(folder) if is_rebuilt else tokenizer


def same_tokens(one, other, texts):
    """Whether two folders' tokenizers agree."""
    tokens = [load_tokenizer(folder)(texts).input_ids for folder in (one, other)]
    require(tokens[0] == tokens[1], "the exported tokenizer gives other tokens")
