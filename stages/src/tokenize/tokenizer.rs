//! A model's tokenizer. It and `special.rs` are the files that name the `tokenizers` crate.
//!
//! `tokenizer.json` is taken at its word: its normaliser, pre-tokenizer, model and post-processor
//! decide, with what `tokenizer_config.json` says about special tokens and the side that is cut.
//! That is what transformers 5 does, by whose ids this is tested, in all but a few cases. Where
//! `tokenizer_class` is `LlamaTokenizer` (or the model is a Qwen2), transformers builds a tokenizer anew from the vocabulary
//! alone (unless the *model* is a Mistral, or the file is byte-level, as Llama 3's). That one gives
//! other ids for texts that begin with a space or that spell out a special token. The file agrees
//! with sentencepiece about the space, which is what such models were trained with.
//!
//! `add_bos_token` and `add_eos_token` are not read: where there is a `tokenizer.json`, transformers
//! 5 does not read them either, and the post-processor says what is added.

#[cfg(test)]
mod recorded;
mod special;

use rayon::prelude::*;
use tokenizers::{Tokenizer as Inner, TruncationDirection, TruncationParams, TruncationStrategy};

use super::config::{Config, PadToken};
use crate::{Error, Result};
use special::Added;

/// A model's tokenizer.
#[derive(Debug)]
pub struct Tokenizer {
    inner: Inner,
    config: Config,
    pad: Option<PadToken>,
    added: Added,
    cut: TruncationDirection,
}

/// One text as token ids.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Encoded {
    /// The token ids, special ones included.
    pub ids: Vec<u32>,
    /// Whether the text had more.
    pub truncated: bool,
}

impl Tokenizer {
    /// The tokenizer of these files of a model.
    pub fn load(tokenizer_json: &[u8], tokenizer_config: Option<&[u8]>) -> Result<Self> {
        let mut inner = Inner::from_bytes(tokenizer_json).map_err(|error| {
            Error::input(format!("the model's tokenizer.json is broken: {error}"))
                .with_hint("get the file again: it may have been cut short")
        })?;
        let config = Config::parse(tokenizer_config)?;
        let cut = match (config.cuts_left()?, inner.get_truncation()) {
            (Some(true), _) => TruncationDirection::Left,
            (None, Some(truncation)) => truncation.direction,
            _ => TruncationDirection::Right,
        };
        // The file may ask for either; both are this stage's to decide.
        inner.with_padding(None);
        inner.with_truncation(None).map_err(|error| failed(&error))?;
        special::mark(&mut inner, &config)?;
        let pad = config.pad(|token| inner.token_to_id(token));
        let added = Added::by(&inner)?;
        Ok(Self { inner, config, pad, added, cut })
    }

    /// The token that fills a batch up elsewhere; here rows of a batch have lengths, and none is needed.
    pub fn pad(&self) -> Option<&PadToken> {
        self.pad.as_ref()
    }

    /// The token that ends a text, whether or not the tokenizer adds it.
    pub fn end(&self) -> Option<u32> {
        self.config.end(|token| self.inner.token_to_id(token))
    }

    /// The token ids of a text alone, whatever its length, with no special tokens around it.
    ///
    /// Special tokens that the text itself spells out are still one token each. An empty text has
    /// no ids.
    pub fn encode_plain(&self, text: &str) -> Result<Vec<u32>> {
        let encoding = self.inner.encode_fast(text, false).map_err(|error| failed(&error))?;
        Ok(encoding.get_ids().to_vec())
    }

    /// The token ids of a text that a completion follows: [`Self::encode_plain`] after the special
    /// tokens that open every text, without those that close it.
    ///
    /// An empty prompt has the opening tokens only, which may be none (BLOOM has none).
    pub fn encode_prompt(&self, text: &str) -> Result<Vec<u32>> {
        let mut ids = self.added.before.clone();
        ids.extend(self.encode_plain(text)?);
        Ok(ids)
    }

    /// The token ids of each text: at most `max_len`, never padded. Long texts are cut on the right,
    /// or on the left where `tokenizer_config.json` has `truncation_side: "left"`.
    ///
    /// Special tokens are those that the tokenizer's post-processor adds, and they are kept when a
    /// text is cut. An empty text has its special tokens; with none (BLOOM adds none), the one token
    /// that ends a text, or else the padding token, so that no example is without a token. Threads
    /// change nothing about the result.
    ///
    /// Token ids alone do not tell padding apart where the padding token also ends texts: whoever
    /// pads them must keep their lengths.
    pub fn encode_all(&self, texts: &[&str], max_len: usize) -> Result<Vec<Encoded>> {
        self.check_length(max_len)?;
        let mut inner = self.inner.clone();
        let truncation = TruncationParams {
            direction: self.cut,
            max_length: max_len,
            strategy: TruncationStrategy::LongestFirst,
            stride: 0,
        };
        inner.with_truncation(Some(truncation)).map_err(|error| failed(&error))?;
        let empty = self.end().or(self.pad.as_ref().map(|pad| pad.id));
        let encode = |text: &&str| {
            let encoding = inner.encode_fast(*text, true).map_err(|error| failed(&error))?;
            let mut ids = encoding.get_ids().to_vec();
            if ids.is_empty() {
                ids.push(empty.ok_or_else(|| {
                    Error::input(
                        "a text has no tokens, and the tokenizer has none that could stand for it",
                    )
                    .with_hint("name `eos_token` in the model's tokenizer_config.json")
                })?);
            }
            Ok(Encoded { truncated: !encoding.get_overflowing().is_empty(), ids })
        };
        texts.par_iter().map(encode).collect()
    }

    fn check_length(&self, max_len: usize) -> Result<()> {
        let added = self.added.len();
        if max_len <= added {
            return Err(Error::input(format!(
                "max_len is {max_len}, and must be at least {}",
                added + 1
            ))
            .with_hint(format!("{added} of the tokens are special ones, which every text has")));
        }
        Ok(())
    }
}

fn failed(error: &tokenizers::Error) -> Error {
    Error::failed(format!("the tokenizer failed: {error}"))
}

#[cfg(test)]
pub(super) mod tests {
    use super::super::PadSource;
    use super::*;

    const SETTINGS: &[u8] =
        include_bytes!("../../../tests/data/llama-tiny-mha/tokenizer_config.json");
    const TOKENIZER: &[u8] = include_bytes!("../../../tests/data/llama-tiny-mha/tokenizer.json");
    const RECORDED: &str = include_str!("../../../tests/data/llama-tiny-mha/input_ids.json");

    pub(in super::super) fn tokenizer() -> Tokenizer {
        Tokenizer::load(TOKENIZER, Some(SETTINGS)).unwrap()
    }

    #[derive(serde::Deserialize)]
    struct Recorded {
        max_len: usize,
        texts: Vec<String>,
        input_ids: Vec<Vec<u32>>,
    }

    #[test]
    fn ids_are_those_that_transformers_gives() {
        let recorded: Recorded = serde_json::from_str(RECORDED).unwrap();
        let texts: Vec<&str> = recorded.texts.iter().map(String::as_str).collect();
        let tokenizer = tokenizer();
        let encoded = tokenizer.encode_all(&texts, recorded.max_len).unwrap();
        let ids: Vec<Vec<u32>> = encoded.iter().map(|e| e.ids.clone()).collect();
        assert_eq!(ids, recorded.input_ids);
        let cut: Vec<bool> = encoded.iter().map(|e| e.truncated).collect();
        let full: Vec<bool> = ids.iter().map(|ids| ids.len() == recorded.max_len).collect();
        assert_eq!(cut, full);
        assert_eq!(tokenizer.pad().unwrap().from, PadSource::Unknown);
    }

    #[test]
    fn threads_change_nothing() {
        let texts: Vec<String> = (0..300).map(|i| format!("film {i} is fine")).collect();
        let texts: Vec<&str> = texts.iter().map(String::as_str).collect();
        let tokenizer = tokenizer();
        let with = |threads| {
            let pool = rayon::ThreadPoolBuilder::new().num_threads(threads);
            let pool = pool.build().unwrap();
            pool.install(|| tokenizer.encode_all(&texts, 8).unwrap())
        };
        assert_eq!(with(1), with(4));
    }

    #[test]
    fn an_empty_text_has_a_token() {
        let empty = |tokenizer: &Tokenizer| tokenizer.encode_all(&[""], 8).unwrap()[0].ids.clone();
        assert_eq!(empty(&tokenizer()), [1], "the token that begins every text");
        let null = serde_json::Value::Null;
        let plain = changed(r#"{"eos_token":"</s>"}"#, "post_processor", null.clone()).unwrap();
        assert_eq!(empty(&plain), [2], "the token that ends a text");
        let bare = changed("{}", "post_processor", null).unwrap();
        let error = bare.encode_all(&[""], 8).unwrap_err().to_string();
        assert!(error.contains("a text has no tokens"), "{error}");
    }

    // The tokenizer with other settings, and what its file has changed to.
    fn changed(settings: &str, key: &str, value: serde_json::Value) -> Result<Tokenizer> {
        let mut json: serde_json::Value = serde_json::from_slice(TOKENIZER).unwrap();
        json[key] = value;
        Tokenizer::load(json.to_string().as_bytes(), Some(settings.as_bytes()))
    }

    #[test]
    fn settings_say_which_side_is_cut_or_else_the_file() {
        let asks = serde_json::json!({
            "direction": "Left", "max_length": 2, "strategy": "LongestFirst", "stride": 0
        });
        let text = "a film that is fine";
        let plain = tokenizer().encode_plain(text).unwrap();
        let cut = |settings: &str, asks: &serde_json::Value| {
            let tokenizer = changed(settings, "truncation", asks.clone()).unwrap();
            let [encoded] = &tokenizer.encode_all(&[text], 4).unwrap()[..] else { panic!() };
            assert!(encoded.truncated);
            assert_eq!((encoded.ids[0], encoded.ids.len()), (1, 4));
            encoded.ids[1..].to_vec()
        };
        let (first, last) = (&plain[..3], &plain[plain.len() - 3..]);
        let none = serde_json::Value::Null;
        assert_eq!(cut("{}", &none), first);
        assert_eq!(cut(r#"{"truncation_side":"left"}"#, &none), last);
        assert_eq!(cut("{}", &asks), last);
        assert_eq!(cut(r#"{"truncation_side":"right"}"#, &asks), first);
        let error = changed(r#"{"truncation_side":"both"}"#, "truncation", none).unwrap_err();
        assert!(error.to_string().contains(r#"is "both""#), "{error}");
    }

    #[test]
    fn a_token_that_the_vocabulary_lacks_is_split_as_any_text() {
        let settings = r#"{"pad_token":"[PAD]","extra_special_tokens":["<gone>"],"unk_token":"<unk>",
            "added_tokens_decoder":{"768":{"content":"[PAD]","special":true}}}"#;
        let with = Tokenizer::load(TOKENIZER, Some(settings.as_bytes())).unwrap();
        let text = "a [PAD] and <gone>";
        assert_eq!(with.encode_plain(text).unwrap(), tokenizer().encode_plain(text).unwrap());
        let pad = with.pad().unwrap();
        assert_eq!((pad.id, pad.from), (0, PadSource::Unknown));
        assert_eq!((with.end(), tokenizer().end()), (None, Some(2)));
    }

    #[test]
    fn prompts_of_nothing() {
        let tokenizer = tokenizer();
        assert_eq!(tokenizer.encode_prompt("").unwrap(), [1]);
        assert!(tokenizer.encode_plain("").unwrap().is_empty());
        let bare = changed("{}", "post_processor", serde_json::Value::Null).unwrap();
        assert!(bare.encode_prompt("").unwrap().is_empty());
        assert_eq!(bare.encode_prompt("film").unwrap(), bare.encode_plain("film").unwrap());
    }

    #[test]
    fn wrong_lengths_and_files_are_sentences() {
        let tokenizer = tokenizer();
        let fault = |max_len| tokenizer.encode_all(&["a"], max_len).unwrap_err().to_string();
        assert!(fault(0).contains("at least 2"));
        assert!(fault(1).contains("at least 2"));

        let error = Tokenizer::load(b"{}", None).unwrap_err().to_string();
        assert!(error.contains("tokenizer.json is broken"), "{error}");
        let error = Tokenizer::load(TOKENIZER, Some(b"[")).unwrap_err().to_string();
        assert!(error.contains("tokenizer_config.json is broken"), "{error}");
    }
}
