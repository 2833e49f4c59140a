//! The ids of many kinds of tokenizers, against what transformers gave for them.

use std::collections::BTreeMap;
use std::fs;

use serde::Deserialize;
use serde_json::{Map, Value};

use super::Tokenizer;

const FOLDER: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../tests/data/tokenizers");

type Ids = Vec<Vec<u32>>;

#[derive(Deserialize)]
struct Recorded {
    texts: Vec<String>,
    /// A part, how often it comes, and what follows.
    long: Vec<(String, usize, String)>,
    variants: BTreeMap<String, Variant>,
    cases: Vec<Case>,
}

#[derive(Deserialize)]
struct Variant {
    of: String,
    with: Map<String, Value>,
}

#[derive(Deserialize)]
struct Case {
    name: String,
    tokenizer: String,
    settings: Value,
    eos: Option<u32>,
    pad: Option<u32>,
    opens: usize,
    closes: usize,
    given: Given,
    as_filed: Option<Given>,
    #[serde(default)]
    long: Vec<Long>,
}

/// How many ids a long text has, and the last eight.
#[derive(Deserialize)]
struct Long {
    count: usize,
    last: Vec<u32>,
}

/// The ids of each text: whole, cut at eight, and without special tokens.
#[derive(Deserialize)]
struct Given {
    ids: Ids,
    cut: Ids,
    plain: Ids,
}

impl Case {
    /// What the file gives, where the class of the tokenizer makes transformers differ from it.
    fn theirs(&self) -> &Given {
        self.as_filed.as_ref().unwrap_or(&self.given)
    }
}

impl Recorded {
    fn read() -> Self {
        serde_json::from_slice(&fs::read(format!("{FOLDER}/recorded.json")).unwrap()).unwrap()
    }

    fn tokenizer(&self, case: &Case) -> Tokenizer {
        let variant = self.variants.get(&case.tokenizer);
        let file = variant.map_or(&case.tokenizer, |variant| &variant.of);
        let bytes = fs::read(format!("{FOLDER}/{file}.json")).unwrap();
        let mut json: Map<String, Value> = serde_json::from_slice(&bytes).unwrap();
        json.extend(variant.iter().flat_map(|variant| variant.with.clone()));
        let json = serde_json::to_vec(&json).unwrap();
        let settings = case.settings.to_string();
        Tokenizer::load(&json, Some(settings.as_bytes())).unwrap()
    }

    /// Each case with its tokenizer.
    fn each(&self) -> impl Iterator<Item = (&Case, Tokenizer)> {
        self.cases.iter().map(|case| (case, self.tokenizer(case)))
    }

    fn encoded(&self, tokenizer: &Tokenizer, max_len: usize) -> Ids {
        let texts: Vec<&str> = self.texts.iter().map(String::as_str).collect();
        let encoded = tokenizer.encode_all(&texts, max_len).unwrap();
        encoded.into_iter().map(|text| text.ids).collect()
    }
}

/// An empty text has no token in transformers, and one here.
fn filled(ids: &Ids, tokenizer: &Tokenizer) -> Ids {
    let instead = tokenizer.end().or(tokenizer.pad().map(|pad| pad.id)).unwrap();
    ids.iter().map(|ids| if ids.is_empty() { vec![instead] } else { ids.clone() }).collect()
}

fn compare(case: &Case, recorded: &Recorded, ours: &Ids, theirs: &Ids) {
    for ((text, ours), theirs) in recorded.texts.iter().zip(ours).zip(theirs) {
        assert_eq!(ours, theirs, "{}: {text:?}", case.name);
    }
    assert_eq!(ours.len(), theirs.len());
}

#[test]
fn whole_texts() {
    let recorded = Recorded::read();
    assert_eq!(recorded.cases.len(), 16);
    for (case, tokenizer) in recorded.each() {
        let theirs = filled(&case.theirs().ids, &tokenizer);
        compare(case, &recorded, &recorded.encoded(&tokenizer, 100_000), &theirs);
        assert_eq!(tokenizer.end(), case.eos, "{}", case.name);
        if case.pad.is_some() {
            assert_eq!(tokenizer.pad().map(|pad| pad.id), case.pad, "{}", case.name);
        }
    }
}

#[test]
fn texts_cut_at_eight() {
    let recorded = Recorded::read();
    for (case, tokenizer) in recorded.each() {
        let theirs = filled(&case.theirs().cut, &tokenizer);
        compare(case, &recorded, &recorded.encoded(&tokenizer, 8), &theirs);
    }
}

#[test]
fn long_lines() {
    let recorded = Recorded::read();
    let long = recorded.long.iter().map(|(part, times, last)| part.repeat(*times) + last);
    let long: Vec<String> = long.collect();
    let texts: Vec<&str> = long.iter().map(String::as_str).collect();
    assert!(texts[0].len() > 1_000_000 && !texts[0].contains('\n'));
    let mut cases = 0;
    for (case, tokenizer) in recorded.each().filter(|(case, _)| !case.long.is_empty()) {
        let encoded = tokenizer.encode_all(&texts, 10_000_000).unwrap();
        for ((ours, theirs), text) in encoded.iter().zip(&case.long).zip(&texts) {
            let what = format!("{}: {:?}..", case.name, &text[..8]);
            assert_eq!(ours.ids.len(), theirs.count, "{what}");
            assert!(ours.ids.ends_with(&theirs.last), "{what}");
            assert!(!ours.truncated, "{what}");
        }
        cases += 1;
    }
    assert_eq!(cases, 4);
}

#[test]
fn prompts_open_as_texts_do_and_do_not_close() {
    let recorded = Recorded::read();
    for (case, tokenizer) in recorded.each() {
        let theirs = case.theirs();
        for ((text, whole), plain) in recorded.texts.iter().zip(&theirs.ids).zip(&theirs.plain) {
            let prompt = tokenizer.encode_prompt(text).unwrap();
            assert_eq!(prompt, whole[..whole.len() - case.closes], "{}: {text:?}", case.name);
            assert_eq!(prompt[case.opens..], *plain, "{}: {text:?}", case.name);
            assert_eq!(&tokenizer.encode_plain(text).unwrap(), plain, "{}: {text:?}", case.name);
        }
    }
}

#[test]
fn only_a_class_that_builds_anew_differs_and_only_on_some_texts() {
    let recorded = Recorded::read();
    let differ = |case: &Case| {
        let filed = case.as_filed.as_ref()?;
        let pairs = case.given.ids.iter().zip(&filed.ids).zip(&recorded.texts);
        let texts = pairs.filter(|((ids, filed), _)| ids != filed).map(|(_, text)| text.clone());
        Some((case.name.clone(), texts.collect::<Vec<_>>()))
    };
    let [(name, texts)] = &recorded.cases.iter().filter_map(differ).collect::<Vec<_>>()[..] else {
        panic!("one case differs");
    };
    assert_eq!(name, "llama2 as TinyLlama");
    assert_eq!(texts.len(), 5);
    assert!(texts.iter().all(|text| text.starts_with(' ') || text.contains("<s>")), "{texts:?}");
}
