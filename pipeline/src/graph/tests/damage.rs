//! Damaged files: whatever is written, there is an answer, and an edit never breaks a sound text.

use super::*;
use serde::de::IgnoredAny;

/// What is put in at random.
const PIECES: [&str; 16] = [
    "(", ")", "[", "}", "\"", ",", "//", "/*", "é", "\r\n", "r#", "'", "\\", "Some(", "rank: 3,",
    "()",
];

const SETS: [&str; 6] = [
    "fed.lora.rank=(a: 1)",
    "fed.a.b=[1]",
    "fed.lora.targets.0=\"x\"",
    "seed=3",
    "shards.by.alpha=Iid",
    "tokens={}",
];

#[test]
fn a_damaged_graph_is_told_and_an_edited_one_is_sound() {
    let swept = "seed: 17, set: {\"fed.rounds\": 3}, sweep: {\"seed\": [1, 2]},";
    let graph = GRAPH.replacen("seed: 17,", swept, 1);
    let mut state = 17_u64;
    let mut below = |end: usize| {
        state =
            state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        usize::try_from(state >> 33).unwrap() % end
    };
    let mut sound = 0;
    for _ in 0..300 {
        let mut source: Vec<_> = graph.chars().collect();
        for _ in 0..=below(2) {
            let at = below(source.len());
            let removed = below(3).min(source.len() - at);
            source.splice(at..at + removed, PIECES[below(PIECES.len())].chars());
        }
        let source: String = source.into_iter().collect();
        let folder = Folder::new(&[("g.ron", &source)]);
        match folder.load("g.ron", &[SETS[below(SETS.len())]]).and_then(|l| variants(&l)) {
            Ok(all) => {
                let text = &all[0].text;
                assert!(options().from_str::<IgnoredAny>(&text.source).is_ok(), "{}", text.source);
                let told =
                    parse::<Node>(text).map_or_else(|failure| failure.plain(), |_| String::new());
                assert!(told.is_empty() || told.starts_with("error: "), "{told}");
                sound += 1;
            }
            Err(failure) => assert!(failure.plain().starts_with("error: "), "{source}"),
        }
    }
    assert!(sound > 20, "only {sound} graphs could be edited");
}
