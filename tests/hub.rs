//! Models and data sets from the Hub, by the real program over real HTTP: what is fetched, and how
//! it comes right over connections that break.

use std::{
    collections::BTreeMap, fmt::Write as _, fs, path::PathBuf, thread::sleep, time::Duration,
};

use ring::digest::SHA256;

use crate::{
    harness::{Space, project},
    hub_server::{Fault, Files, Host, HubServer, Request, hex},
};

pub(crate) const MODEL: &str = "models/owner/tiny";
pub(crate) const DATA: &str = "datasets/owner/films";
pub(crate) const WEIGHTS: &str = "model.safetensors";
pub(crate) const RUN: [&str; 5] = ["run", "graph.ron", "--device", "cpu", "--json"];

/// The model of the tests, and what lies beside it in many a repository.
pub(crate) fn model() -> Files {
    let folder = project().join("tests/data/llama-tiny-mha");
    let names = ["config.json", "tokenizer.json", "tokenizer_config.json", WEIGHTS];
    let mut files: Files = names
        .into_iter()
        .map(|name| (name.to_owned(), fs::read(folder.join(name)).unwrap()))
        .collect();
    for name in [".gitattributes", "README.md", "pytorch_model.bin", "tiny.Q4_K_M.gguf"] {
        files.insert(name.to_owned(), b"not wanted".to_vec());
    }
    files
}

/// A data set of two splits, one of them under a name that must be escaped.
fn films(rows: usize) -> Files {
    let words = ["a fine film", "a dull film", "truly moving", "truly awful"];
    let mut train = String::from("text,label\n");
    for i in 0..rows {
        writeln!(train, "{} number {i},{}", words[i % 4], (i + 1) % 2).unwrap();
    }
    let validation = b"text,label\na fine film,1\na dull film,0\n".to_vec();
    BTreeMap::from([
        (".gitattributes".to_owned(), b"not wanted".to_vec()),
        ("data/train.csv".to_owned(), train.into_bytes()),
        ("data/validation 1.csv".to_owned(), validation),
    ])
}

/// A Hub with both, and a folder whose graph needs them.
pub(crate) fn hub() -> (HubServer, Space) {
    let server = HubServer::new();
    server.publish(MODEL, model());
    server.publish(DATA, films(12));
    let mut space = Space::empty();
    space.set("HF_ENDPOINT", &server.endpoint());
    space.write(
        "graph.ron",
        r#"Graph(seed: 17, stages: (
            base: Model(hub: "owner/tiny"),
            data: Dataset(hub: "owner/films"),
            tokens: Tokenize(of: data, with: base, max_len: 12),
        ))"#,
    );
    (server, space)
}

/// A file of a snapshot, where every Hugging Face library looks for it.
fn cached(space: &Space, repository: &str, commit: &str, name: &str) -> PathBuf {
    let folder = repository.replace('/', "--");
    space.path(&format!("hf/hub/{folder}/snapshots/{commit}/{name}"))
}

/// The names of the files whose bytes were asked for, sorted.
fn fetched(requests: &[Request]) -> Vec<String> {
    let bodies = requests.iter().filter(|request| request.is_for_bytes());
    let mut names: Vec<String> = bodies.map(Request::file).collect();
    names.sort();
    names
}

/// The first bytes that were asked for of a file, try by try.
fn starts(requests: &[Request], name: &str) -> Vec<usize> {
    let of_it = requests.iter().filter(|request| request.is_for_bytes() && request.file() == name);
    of_it.map(|request| request.range_start().unwrap_or(0)).collect()
}

/// Looks that a run was refused with this exit code and all of `words`.
#[track_caller]
pub(crate) fn refused(space: &Space, args: &[&str], code: i32, words: &[&str]) {
    let ran = space.fedpipe(args);
    let told = ran.stdout + &ran.stderr;
    assert_eq!(ran.code, code, "{told}");
    for word in words {
        assert!(told.contains(word), "`{word}` is not in:\n{told}");
    }
    assert!(!told.contains("panicked"), "{told}");
}

#[test]
fn what_is_needed_is_fetched_once_and_trains() {
    let (server, space) = hub();
    let (model_commit, data_commit) = (server.newest(MODEL), server.newest(DATA));
    let train = r#"Graph(extends: "graph.ron", stages: (fed: Train(
        base: base, on: tokens, lora: (rank: 2), local: (batch: 4, optimizer: Sgd(lr: 0.1)),
    )))"#;
    space.write("train.ron", train);
    let run = ["run", "train.ron", "--device", "cpu", "--json"];
    let (steps, reused, ran) = space.fedpipe(&run).fine().counts();
    assert_eq!((reused, ran), (0, steps));

    let requests = server.requests();
    let wanted = [
        "config.json",
        "data/train.csv",
        "data/validation 1.csv",
        WEIGHTS,
        "tokenizer.json",
        "tokenizer_config.json",
    ];
    assert_eq!(fetched(&requests), wanted);
    let mut asked: Vec<&str> = requests.iter().map(|request| request.path.as_str()).collect();
    asked.retain(|path| path.contains("/revision/"));
    asked.sort_unstable();
    let expected = [(DATA, &data_commit), (MODEL, &model_commit)]
        .map(|(repository, commit)| {
            [commit.as_str(), "main"].map(|name| format!("/api/{repository}/revision/{name}"))
        })
        .concat();
    assert_eq!(asked, expected);
    let from_cdn = requests.iter().filter(|request| request.host == Host::Cdn);
    assert_eq!(from_cdn.map(Request::file).collect::<Vec<_>>(), [WEIGHTS]);

    // The cache is as the other libraries lay it out.
    for (repository, commit, files) in
        [(MODEL, &model_commit, model()), (DATA, &data_commit, films(12))]
    {
        for name in files.keys().filter(|name| wanted.contains(&name.as_str())) {
            let path = cached(&space, repository, commit, name);
            assert!(fs::read(&path).unwrap() == files[name], "{name}");
            assert!(path.is_symlink(), "{name}");
        }
    }
    let blob = space.path("hf/hub/models--owner--tiny/blobs").join(hex(&SHA256, &model()[WEIGHTS]));
    assert!(blob.is_file());
    let noted = fs::read_to_string(space.path("hf/hub/models--owner--tiny/refs/main")).unwrap();
    assert_eq!(noted, model_commit);

    // Again: nothing is asked, also not by a plan.
    assert_eq!(space.fedpipe(&run).fine().counts(), (steps, steps, 0));
    space.fedpipe(&["plan", "train.ron"]).fine();
    assert!(server.requests().is_empty());

    // In another store, only what `main` is now.
    let fresh = [&run[..], &["--store", "other"]].concat();
    assert_eq!(space.fedpipe(&fresh).fine().counts(), (steps, 0, steps));
    let requests = server.requests();
    assert_eq!(requests.len(), 2, "{requests:?}");
    assert!(requests.iter().all(|request| request.path.ends_with("/revision/main")));
}

#[test]
fn a_new_commit_is_noticed_with_refresh_and_only_what_it_changed_is_fetched() {
    let (server, space) = hub();
    space.fedpipe(&RUN).fine();
    server.requests();
    let newer = server.publish(DATA, films(20));
    assert_eq!(space.fedpipe(&RUN).fine().counts(), (3, 3, 0));
    assert!(server.requests().is_empty());

    let refresh = [&RUN[..], &["--refresh"]].concat();
    assert_eq!(space.fedpipe(&refresh).fine().counts(), (3, 1, 2));
    assert_eq!(fetched(&server.requests()), ["data/train.csv"]);
    let train = fs::read(cached(&space, DATA, &newer, "data/train.csv")).unwrap();
    assert!(train == films(20)["data/train.csv"]);
    assert!(cached(&space, DATA, &newer, "data/validation 1.csv").is_file());
    // From then on it is the commit.
    assert_eq!(space.fedpipe(&RUN).fine().counts(), (3, 3, 0));
    assert!(server.requests().is_empty());
}

#[test]
fn a_model_in_shards_is_fetched_whole() {
    let (server, space) = hub();
    let mut files = model();
    // Two shards: all tensors, and a copy of one of them.
    let whole = files.remove(WEIGHTS).unwrap();
    let length = u64::from_le_bytes(whole[..8].try_into().unwrap());
    let header = &whole[8..8 + usize::try_from(length).unwrap()];
    let header: serde_json::Value = serde_json::from_slice(header).unwrap();
    let tensors = header.as_object().unwrap().keys().filter(|name| *name != "__metadata__");
    let shards = ["model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors"];
    let mut map: BTreeMap<&str, &str> = tensors.map(|name| (name.as_str(), shards[0])).collect();
    let empty = r#"{"extra":{"dtype":"F32","shape":[1],"data_offsets":[0,4]}}"#;
    let mut second = (empty.len() as u64).to_le_bytes().to_vec();
    second.extend(empty.bytes().chain([0; 4]));
    map.insert("extra", shards[1]);
    let index = serde_json::json!({ "metadata": {}, "weight_map": map }).to_string();
    files.insert("model.safetensors.index.json".to_owned(), index.into_bytes());
    files.insert(shards[0].to_owned(), whole);
    files.insert(shards[1].to_owned(), second);
    server.publish(MODEL, files);
    space.fedpipe(&RUN).fine();
    let mut names = fetched(&server.requests());
    names.retain(|name| name.contains("model"));
    assert_eq!(names, [shards[0], shards[1], "model.safetensors.index.json"]);
}

#[test]
fn a_broken_transfer_goes_on_where_it_broke() {
    let (server, space) = hub();
    let commit = server.newest(MODEL);
    server.fail(WEIGHTS, Fault::Cut, 2);
    server.fail("tokenizer.json", Fault::Cut, 1);
    space.fedpipe(&RUN).fine();
    let requests = server.requests();
    let size = model()[WEIGHTS].len();
    assert_eq!(starts(&requests, WEIGHTS), [0, size / 2, size / 2 + (size - size / 2) / 2]);
    let size = model()["tokenizer.json"].len();
    assert_eq!(starts(&requests, "tokenizer.json"), [0, size / 2]);
    for name in [WEIGHTS, "tokenizer.json"] {
        assert!(fs::read(cached(&space, MODEL, &commit, name)).unwrap() == model()[name], "{name}");
    }
}

#[test]
fn a_server_that_ignores_ranges_gives_the_file_from_its_start() {
    let (server, space) = hub();
    let commit = server.newest(MODEL);
    server.fail(WEIGHTS, Fault::Cut, 1);
    server.fail(WEIGHTS, Fault::Whole, 1);
    space.fedpipe(&RUN).fine();
    let size = model()[WEIGHTS].len();
    assert_eq!(starts(&server.requests(), WEIGHTS), [0, size / 2]);
    assert!(fs::read(cached(&space, MODEL, &commit, WEIGHTS)).unwrap() == model()[WEIGHTS]);
}

#[test]
fn damaged_content_is_fetched_again_and_never_kept() {
    // A large file is known by its SHA-256, a small one by its name in git.
    for name in [WEIGHTS, "tokenizer.json"] {
        let (server, space) = hub();
        let commit = server.newest(MODEL);
        server.fail(name, Fault::Damaged, 5);
        let words = [&format!("`{name}` of `owner/tiny` came damaged"), "thrown away"];
        refused(&space, &RUN, 1, &words);
        assert_eq!(starts(&server.requests(), name), [0; 4]);
        assert!(!cached(&space, MODEL, &commit, name).exists());
        let blobs = space.inside("hf/hub/models--owner--tiny/blobs");
        assert!(blobs.iter().all(|blob| !blob.ends_with(".incomplete")), "{blobs:?}");
        // The fifth is damaged, too; then it comes right.
        space.fedpipe(&RUN).fine();
        assert_eq!(starts(&server.requests(), name), [0; 2]);
        assert!(fs::read(cached(&space, MODEL, &commit, name)).unwrap() == model()[name]);
    }
}

#[cfg(unix)]
#[test]
fn a_download_that_was_stopped_goes_on_with_the_next_run() {
    let (server, space) = hub();
    let commit = server.newest(MODEL);
    server.fail(WEIGHTS, Fault::Slow, 1);
    let mut child = space.start(&RUN);
    let blobs = space.path("hf/hub/models--owner--tiny/blobs");
    let part = blobs.join(hex(&SHA256, &model()[WEIGHTS]) + ".incomplete");
    while fs::metadata(&part).map_or(0, |file| file.len()) < 20_000 {
        assert!(child.try_wait().unwrap().is_none(), "it ended before it could be stopped");
        sleep(Duration::from_millis(5));
    }
    let interrupt = format!("kill -INT {}", child.id());
    assert!(std::process::Command::new("sh").args(["-c", &interrupt]).status().unwrap().success());
    assert_eq!(child.wait().unwrap().code(), Some(130));
    let here = usize::try_from(fs::metadata(&part).unwrap().len()).unwrap();
    server.requests();
    space.fedpipe(&RUN).fine();
    assert_eq!(starts(&server.requests(), WEIGHTS), [here]);
    assert!(fs::read(cached(&space, MODEL, &commit, WEIGHTS)).unwrap() == model()[WEIGHTS]);
}

#[test]
fn what_another_program_left_is_used() {
    let (server, space) = hub();
    let commit = server.newest(MODEL);
    let blobs = space.path("hf/hub/models--owner--tiny/blobs");
    let weights = &model()[WEIGHTS];
    let part = blobs.join(hex(&SHA256, weights) + ".incomplete");
    fs::create_dir_all(&blobs).unwrap();
    // All bytes came, and then that program was ended.
    fs::write(&part, weights).unwrap();
    space.fedpipe(&RUN).fine();
    assert_eq!(starts(&server.requests(), WEIGHTS), [0; 0]);
    // More bytes came than there are; and a link whose blob was deleted.
    let blob = fs::canonicalize(cached(&space, MODEL, &commit, WEIGHTS)).unwrap();
    fs::remove_file(blob).unwrap();
    fs::write(&part, [weights.as_slice(), b"more"].concat()).unwrap();
    let fresh = [&RUN[..], &["--store", "other"]].concat();
    space.fedpipe(&fresh).fine();
    assert_eq!(starts(&server.requests(), WEIGHTS), [0]);
    assert!(fs::read(cached(&space, MODEL, &commit, WEIGHTS)).unwrap() == *weights);
}
