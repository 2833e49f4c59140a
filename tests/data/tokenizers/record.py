"""Makes the files beside this one: tiny tokenizers of each kind, and the ids that transformers gives.

Run as `python record.py`. The files here were made with tokenizers 0.23.3, transformers 5.23.0 and
Python 3.11. The vocabularies are trained on the sentences below, which are in the public domain.
"""

import json
import tempfile
from pathlib import Path

from tokenizers import (
    AddedToken,
    Regex,
    Tokenizer,
    decoders,
    models,
    normalizers,
    pre_tokenizers,
    processors,
    trainers,
)
from transformers import AutoTokenizer, PreTrainedTokenizerFast

HERE = Path(__file__).parent

SENTENCES = """
Alice was beginning to get very tired of sitting by her sister on the bank, and of having nothing to do.
Once or twice she had peeped into the book her sister was reading, but it had no pictures or conversations in it.
"And what is the use of a book," thought Alice, "without pictures or conversations?"
It is a truth universally acknowledged, that a single man in possession of a good fortune, must be in want of a wife.
However little known the feelings or views of such a man may be on his first entering a neighbourhood.
Call me Ishmael. Some years ago, never mind how long precisely, having little or no money in my purse.
I thought I would sail about a little and see the watery part of the world.
It was the best of times, it was the worst of times, it was the age of wisdom, it was the age of foolishness.
To Sherlock Holmes she is always the woman. I have seldom heard him mention her under any other name.
It was not that he felt any emotion akin to love for Irene Adler.
You will rejoice to hear that no disaster has accompanied the commencement of an enterprise.
In the beginning God created the heaven and the earth. And the earth was without form, and void.
Four score and seven years ago our fathers brought forth on this continent, a new nation.
We hold these truths to be self-evident, that all men are created equal.
Tom! No answer. What's gone with that boy, I wonder? You TOM!
The old lady pulled her spectacles down and looked over them about the room.
A Hare was making fun of the Tortoise one day for being so slow. "Do you ever get anywhere?" he asked.
"Yes," replied the Tortoise, "and I get there sooner than you think. I'll run you a race and prove it."
The year 1866 was signalised by a remarkable incident, a mysterious and puzzling phenomenon.
Mr. Phileas Fogg lived, in 1872, at No. 7, Saville Row, Burlington Gardens.
Es war einmal mitten im Winter, und die Schneeflocken fielen wie Federn vom Himmel herab.
En un lugar de la Mancha, de cuyo nombre no quiero acordarme, no ha mucho tiempo que vivía un hidalgo.
Longtemps, je me suis couché de bonne heure. Parfois, à peine ma bougie éteinte, mes yeux se fermaient.
Nel mezzo del cammin di nostra vita mi ritrovai per una selva oscura, ché la diritta via era smarrita.
""".strip().splitlines()

TEXTS = [
    "",
    " ",
    "     ",
    "The sister was reading.",
    " one space first,  two between, two last  ",
    "naïve café — “quoted” … 東京。、and हिन्दी। ñandú",
    "👩‍👩‍👧 🎉ok 🇳🇴",
    "1234567 3.14 1,000 ١٢٣ ½ x²",
    "line one\nline two\r\n\n\n  indented\ttab \n \n",
    "it's we'LL DON'T I'm (a|b) [c]!? $5... --x",
    "a <s>b</s> c <|begin_of_text|>d<|endoftext|>",
    "<s> what </s>",
    "Cafe\u0301 ﬁne ① Ａ\u200b\u00a0\u3000\u0085z\u2581y",
    "It was the age of wisdom, and the earth was without form. " * 6,
]

# A part, how often, and what follows: one line of 1 MB and the like, without lying here.
LONG = [
    ["It was the age of wisdom. ", 40_000, "x"],
    [" ", 1_000_000, "It was."],
    ["a", 300_000, "b"],
    ["\n ", 300_000, "z"],
]
LONG_FOR = ["add_bos_token: false", "llama3", "bloom", "unigram"]

LLAMA3 = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}"
    r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
QWEN2 = LLAMA3.replace("{1,3}", "")
BLOOM = r" ?[^(\s|[.,!?…。，、।۔،])]+"


def special(token):
    return AddedToken(token, special=True, normalized=False)


def template(tokenizer, single):
    words = [word for word in single.split() if word != "$A"]
    return processors.TemplateProcessing(
        single=single,
        pair=f"{single} $B:1",
        special_tokens=[(word, tokenizer.token_to_id(word)) for word in words],
    )


def train(tokenizer, trainer):
    tokenizer.train_from_iterator(SENTENCES, trainer)
    return tokenizer


def sentencepiece(tokenizer):
    """A BPE as LLaMA-2 has it: bytes stand in for what is not in the vocabulary."""
    marks = ["<unk>", "<s>", "</s>"]
    octets = [f"<0x{octet:02X}>" for octet in range(256)]
    first = [special(mark) for mark in marks] + octets
    train(tokenizer, trainers.BpeTrainer(vocab_size=430, special_tokens=first, show_progress=False))
    tokenizer.post_processor = template(tokenizer, "<s> $A")
    tokenizer.decoder = decoders.Sequence(
        [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
    )
    # The trainer can only put the bytes first as special tokens, which they are not.
    made = json.loads(tokenizer.to_str())
    made["added_tokens"] = [token for token in made["added_tokens"] if token["content"] in marks]
    return made


def llama2():
    tokenizer = Tokenizer(models.BPE(unk_token="<unk>", fuse_unk=True, byte_fallback=True))
    tokenizer.normalizer = normalizers.Sequence(
        [normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")]
    )
    # Only while training, so that merges stay within words.
    tokenizer.pre_tokenizer = pre_tokenizers.Split("▁", "merged_with_next")
    return sentencepiece(tokenizer) | {"pre_tokenizer": None}


def metaspace():
    tokenizer = Tokenizer(models.BPE(unk_token="<unk>", fuse_unk=True, byte_fallback=True))
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace("▁", "first", split=True)
    made = sentencepiece(tokenizer)
    made["pre_tokenizer"]["split"] = False
    return made


def byte_level(pattern, marks, normalizer=None):
    tokenizer = Tokenizer(models.BPE())
    if normalizer:
        tokenizer.normalizer = normalizer
    level = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=pattern is None)
    split = [pre_tokenizers.Split(Regex(pattern), "isolated")] if pattern else []
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(split + [level]) if split else level
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=380,
        special_tokens=[special(mark) for mark in marks],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer = train(tokenizer, trainer)
    tokenizer.post_processor = processors.ByteLevel(trim_offsets=False)
    return tokenizer


def llama3():
    tokenizer = byte_level(LLAMA3, ["<|begin_of_text|>", "<|end_of_text|>"])
    tokenizer.post_processor = processors.Sequence(
        [processors.ByteLevel(trim_offsets=False), template(tokenizer, "<|begin_of_text|> $A")]
    )
    return json.loads(tokenizer.to_str())


def bloom():
    tokenizer = byte_level(BLOOM, ["<unk>", "<s>", "</s>", "<pad>"])
    # As bigscience's file has it: it asks for padding itself.
    tokenizer.enable_padding(direction="left", pad_id=3, pad_token="<pad>")
    return json.loads(tokenizer.to_str())


def qwen2():
    return json.loads(byte_level(QWEN2, ["<|endoftext|>", "<|im_start|>"], normalizers.NFC()).to_str())


def gpt2():
    return json.loads(byte_level(None, ["<|endoftext|>"]).to_str())


def unigram():
    tokenizer = Tokenizer(models.Unigram())
    tokenizer.normalizer = normalizers.Sequence(
        [normalizers.NFKC(), normalizers.Replace(Regex(" {2,}"), " ")]
    )
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace("▁", "always")
    tokenizer.decoder = decoders.Metaspace("▁", "always")
    marks = [special(mark) for mark in ["<pad>", "</s>", "<unk>", "<s>"]]
    trainer = trainers.UnigramTrainer(
        vocab_size=220, unk_token="<unk>", special_tokens=marks, show_progress=False
    )
    tokenizer = train(tokenizer, trainer)
    tokenizer.post_processor = template(tokenizer, "$A </s>")
    return json.loads(tokenizer.to_str())


def both_ends(made):
    """The same tokenizer, closing texts too."""
    tokenizer = Tokenizer.from_str(json.dumps(made))
    tokenizer.post_processor = template(tokenizer, "<s> $A </s>")
    return json.loads(tokenizer.to_str())


def old_marks(made):
    """As old files of LLaMA have it: one special token is normalised, and one is not listed."""
    made = json.loads(json.dumps(made))
    made["added_tokens"] = [token for token in made["added_tokens"] if token["content"] != "</s>"]
    for token in made["added_tokens"]:
        token["normalized"] = True
    return made


def listed(**marks):
    flags = dict(lstrip=False, normalized=False, rstrip=False, single_word=False, special=True)
    return {at[1:]: {"content": mark, **flags} for at, mark in marks.items()}


MARKS = dict(bos_token="<s>", eos_token="</s>", unk_token="<unk>")
META = dict(bos_token="<|begin_of_text|>", eos_token="<|end_of_text|>")


def cases():
    """(name, tokenizer.json, model_type, tokenizer_config.json)"""
    fast, own = "PreTrainedTokenizerFast", "TokenizersBackend"
    two, three = "llama2", "llama3"
    whole = listed(_0="<unk>", _1="<s>", _2="</s>")
    return [
        ("llama2 as TinyLlama", two, "llama", dict(MARKS, tokenizer_class="LlamaTokenizer", legacy=False, add_bos_token=True, add_eos_token=False, pad_token=None)),
        ("add_bos_token: false", two, "llama", dict(MARKS, tokenizer_class=fast, add_bos_token=False)),
        ("add_eos_token: true, cut on the left", two, "mistral", dict(MARKS, tokenizer_class="LlamaTokenizerFast", add_eos_token=True, truncation_side="left", pad_token="</s>")),
        ("special tokens are split", two, "llama", dict(MARKS, tokenizer_class=own, split_special_tokens=True)),
        ("no post-processor", "llama2-bare", "llama", dict(MARKS, tokenizer_class=own, add_bos_token=True, add_eos_token=True)),
        ("both ends", "llama2-both", "llama", dict(MARKS, tokenizer_class=own)),
        ("both ends, cut on the left", "llama2-both", "llama", dict(MARKS, tokenizer_class=own, truncation_side="left")),
        ("old marks", "llama2-old", "llama", dict(MARKS, tokenizer_class=fast)),
        ("old marks, listed anew", "llama2-old", "llama", dict(MARKS, tokenizer_class=fast, added_tokens_decoder=whole)),
        ("metaspace", "metaspace", "llama", dict(MARKS, tokenizer_class="LlamaTokenizer", legacy=False, pad_token="</s>")),
        ("llama3", three, "llama", dict(META, tokenizer_class=fast, added_tokens_decoder=listed(_0="<|begin_of_text|>", _1="<|end_of_text|>"))),
        ("llama3 named LLaMA, cut on the left", three, "llama", dict(META, tokenizer_class="LlamaTokenizerFast", truncation_side="left", add_bos_token=False)),
        ("bloom", "bloom", "bloom", dict(MARKS, tokenizer_class="BloomTokenizerFast", pad_token="<pad>", padding_side="left")),
        ("qwen2", "qwen2", "qwen2", dict(tokenizer_class="Qwen2Tokenizer", bos_token=None, eos_token="<|endoftext|>", pad_token="<|endoftext|>", unk_token=None, extra_special_tokens=["<|im_start|>"], add_bos_token=False)),
        ("gpt2", "gpt2", "gpt2", dict(tokenizer_class="GPT2Tokenizer", bos_token="<|endoftext|>", eos_token="<|endoftext|>", unk_token="<|endoftext|>")),
        ("unigram", "unigram", "llama", dict(MARKS, tokenizer_class=fast, pad_token="<pad>")),
    ]  # fmt: skip


def variants():
    """Files made of another, so that no vocabulary lies here twice."""
    two = json.loads((HERE / "llama2.json").read_text())
    return {
        "llama2-bare": two | {"post_processor": None},
        "llama2-both": both_ends(two),
        "llama2-old": old_marks(two),
    }


def differences(made, base):
    return {key: made[key] for key in made if made[key] != base[key]}


def encode(tokenizer):
    """The texts whole, cut at eight tokens, and without special tokens."""
    ways = {
        "ids": {},
        "cut": dict(truncation=True, max_length=8),
        "plain": dict(add_special_tokens=False),
    }
    return {
        way: [tokenizer(text, **options)["input_ids"] for text in TEXTS]
        for way, options in ways.items()
    }


def record(name, file, made, model_type, settings):
    with tempfile.TemporaryDirectory() as folder:
        folder = Path(folder)
        (folder / "tokenizer.json").write_text(json.dumps(made))
        (folder / "tokenizer_config.json").write_text(json.dumps(settings))
        (folder / "config.json").write_text(json.dumps({"model_type": model_type}))
        tokenizer = AutoTokenizer.from_pretrained(folder)
        plainest = PreTrainedTokenizerFast.from_pretrained(folder)
    masks = tokenizer("word", return_special_tokens_mask=True)["special_tokens_mask"]
    text = [at for at, mark in enumerate(masks) if mark == 0]
    given, as_filed = encode(tokenizer), encode(plainest)
    print(f"{name}: {type(tokenizer).__name__}, {len(tokenizer)} tokens, opens {text[0]}, closes {len(masks) - 1 - text[-1]}")
    case = {
        "name": name,
        "tokenizer": file,
        "class": type(tokenizer).__name__,
        "settings": settings,
        "bos": tokenizer.bos_token_id,
        "eos": tokenizer.eos_token_id,
        "pad": tokenizer.pad_token_id,
        "opens": text[0],
        "closes": len(masks) - 1 - text[-1],
        "given": given,
    }
    if as_filed != given:
        case["as_filed"] = as_filed
        pairs = zip(given["ids"], as_filed["ids"])
        print("  its class gives other ids than its file for", [at for at, (ids, filed) in enumerate(pairs) if ids != filed])
    if name in LONG_FOR:
        ids = [tokenizer(part * times + last)["input_ids"] for part, times, last in LONG]
        case["long"] = [{"count": len(ids), "last": ids[-8:]} for ids in ids]
    return case


def lines(value, indent=0):
    """JSON with what is short on one line."""
    flat = json.dumps(value, ensure_ascii=False)
    if len(flat) < 100 or not isinstance(value, (dict, list)) or all(isinstance(v, int) for v in value):
        return flat
    pad = " " * (indent + 1)
    if isinstance(value, dict):
        inner = [f"{pad}{json.dumps(key)}: {lines(item, indent + 1)}" for key, item in value.items()]
        return "{\n" + ",\n".join(inner) + "\n" + " " * indent + "}"
    return "[\n" + ",\n".join(pad + lines(item, indent + 1) for item in value) + "\n" + " " * indent + "]"


def main():
    for make in (llama2, metaspace, llama3, bloom, qwen2, gpt2, unigram):
        text = json.dumps(make(), ensure_ascii=False)
        (HERE / f"{make.__name__}.json").write_text(text + "\n")
    others = variants()
    recorded = []
    for name, file, model_type, settings in cases():
        made = others.get(file) or json.loads((HERE / f"{file}.json").read_text())
        recorded.append(record(name, file, made, model_type, settings))
    two = json.loads((HERE / "llama2.json").read_text())
    patches = {name: {"of": "llama2", "with": differences(made, two)} for name, made in others.items()}
    whole = {"texts": TEXTS, "long": LONG, "variants": patches, "cases": recorded}
    (HERE / "recorded.json").write_text(lines(whole) + "\n")


if __name__ == "__main__":
    main()
