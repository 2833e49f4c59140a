//! Prompts and what goes on after them, as token ids.

use rayon::prelude::*;

use super::template::Template;
use super::tokenizer::{Encoded, Tokenizer};
use crate::corpus::{Corpus, Split};
use crate::{Error, Result};

/// The prompts of a split, each at most `max_len` tokens less `room` long.
///
/// A prompt that is too long loses tokens from the start of its text: its end is what is answered. Tokens that
/// open every text stay.
pub(super) fn prompts(
    tokenizer: &Tokenizer,
    corpus: &Corpus,
    split: &Split,
    prompt: &Template,
    most: usize,
) -> Result<Vec<Encoded>> {
    let opening = opening(tokenizer)?;
    (0..split.len())
        .into_par_iter()
        .map(|i| {
            let ids = tokenizer.encode_prompt(&prompt.fill(corpus, split, i))?;
            if ids.is_empty() {
                return Err(empty(i));
            }
            Ok(cut_start(ids, opening, most))
        })
        .collect()
}

/// The tokens of each label behind the prompts, the same behind every one of them.
///
/// They are found by tokenizing both together: a word has other tokens after a text than alone.
pub(super) fn labels(
    tokenizer: &Tokenizer,
    corpus: &Corpus,
    prompt: &Template,
    labels: &[String],
) -> Result<Vec<Vec<u32>>> {
    let behind = |split: &Split, i: usize, label: &str| -> Result<Option<Vec<u32>>> {
        let text = prompt.fill(corpus, split, i);
        let alone = tokenizer.encode_prompt(&text)?;
        let mut both = tokenizer.encode_prompt(&format!("{text}{label}"))?;
        Ok(both.starts_with(&alone).then(|| both.split_off(alone.len())))
    };
    let mut found = Vec::with_capacity(labels.len());
    for label in labels {
        let mut tokens: Option<Vec<u32>> = None;
        for split in corpus.splits.values() {
            let all: Vec<Option<Vec<u32>>> = (0..split.len())
                .into_par_iter()
                .map(|i| behind(split, i, label))
                .collect::<Result<_>>()?;
            for own in all {
                let same = own.filter(|own| tokens.as_ref().is_none_or(|known| known == own));
                tokens = Some(same.filter(|own| !own.is_empty()).ok_or_else(|| merged(label))?);
            }
        }
        found.push(tokens.ok_or_else(|| Error::input("the data set has no rows"))?);
    }
    if let Some(twice) = (1..found.len()).find(|&at| found[..at].contains(&found[at])) {
        let message = format!("the label `{}` has the same tokens as another", labels[twice]);
        return Err(Error::input(message));
    }
    Ok(found)
}

/// Prompts with their completions, and where each completion begins.
pub(super) fn completions(
    tokenizer: &Tokenizer,
    corpus: &Corpus,
    split: &Split,
    [prompt, completion]: [&Template; 2],
    max_len: usize,
) -> Result<Vec<(Encoded, u32)>> {
    let opening = opening(tokenizer)?;
    let Some(end) = tokenizer.end() else {
        return Err(Error::input(
            "the tokenizer names no token that ends a text, so no completion could end",
        )
        .with_hint("name `eos_token` in the model's tokenizer_config.json"));
    };
    let one = |i: usize| -> Result<(Encoded, u32)> {
        let text = prompt.fill(corpus, split, i);
        let alone = tokenizer.encode_prompt(&text)?;
        let answer = completion.fill(corpus, split, i);
        let mut ids = tokenizer.encode_prompt(&format!("{text}{answer}"))?;
        // Where the last token of the prompt grows into the completion, it belongs to that.
        let start = alone.iter().zip(&ids).take_while(|(a, b)| a == b).count();
        if start == 0 {
            return Err(empty(i));
        }
        ids.push(end);
        let answer = ids.split_off(start);
        let kept = answer.len().min(max_len - opening - 1);
        let is_cut = kept < answer.len();
        let Encoded { ids, truncated } = cut_start(ids, opening, max_len - kept);
        let start = u32::try_from(ids.len()).unwrap_or(u32::MAX);
        let ids = [ids, answer[..kept].to_vec()].concat();
        Ok((Encoded { ids, truncated: truncated || is_cut }, start))
    };
    if max_len < opening + 2 {
        return Err(Error::input(format!(
            "max_len is {max_len}, and must be at least {}: a prompt and its completion have a token each",
            opening + 2
        )));
    }
    (0..split.len()).into_par_iter().map(one).collect()
}

/// How many tokens open every text.
fn opening(tokenizer: &Tokenizer) -> Result<usize> {
    Ok(tokenizer.encode_prompt("")?.len())
}

/// At most `most` tokens: those that open the text, and the last of the others.
fn cut_start(mut ids: Vec<u32>, opening: usize, most: usize) -> Encoded {
    let excess = ids.len().saturating_sub(most);
    ids.drain(opening.min(ids.len())..(opening + excess).min(ids.len()));
    Encoded { ids, truncated: excess > 0 }
}

fn empty(i: usize) -> Error {
    Error::input(format!("the prompt of row {} has no tokens", i + 1))
        .with_hint("put some text of its own into the prompt")
}

fn merged(label: &str) -> Error {
    Error::input(format!(
        "the label `{label}` has no tokens of its own behind every prompt: it grows together with the prompt's end"
    ))
    .with_hint("end the prompt without a space, and begin each label with one: prompt: \"… Sentiment:\", labels: [\" good\"]")
}
