//! The Hub against a server that speaks its protocol.

use std::path::Path;

use super::super::dataset::fetch_dataset;
use super::super::model::fetch_model;
use super::super::server::{COMMIT, Server};
use super::*;

const FILES: [(&str, &str); 2] = [("config.json", "{}"), ("data/a.txt", "0123456789abcdef")];
const MODEL: Kind = Kind::Model;

fn settings(server: &Server, cache: &Path) -> HubSettings {
    HubSettings {
        cache: cache.to_owned(),
        token: None,
        endpoint: format!("{}/", server.endpoint),
        offline: false,
    }
}

fn hub(settings: &HubSettings) -> Hub {
    Hub::new(settings).unwrap()
}

fn get(hub: &Hub, repo: &str, name: &str) -> Result<PathBuf> {
    hub.file(MODEL, repo, COMMIT, name, &mut |_, _, _| ControlFlow::Continue(()))
}

fn sentence(error: Error) -> String {
    match error {
        Error::Input { message, hint } | Error::Failed { message, hint } => {
            format!("{message}; {}", hint.expect("every refusal has a mend"))
        }
        other => panic!("{other:?}"),
    }
}

#[test]
fn what_is_cached_is_not_fetched_again_and_serves_offline() {
    let (server, folder) = (Server::new(&FILES), tempfile::tempdir().unwrap());
    let mut settings = settings(&server, folder.path());
    let online = hub(&settings);
    assert_eq!(online.cached_commit(MODEL, "owner/name", "main"), None);
    assert_eq!(online.resolve(MODEL, "owner/name", "main").unwrap(), COMMIT);
    assert_eq!(online.resolve(MODEL, "owner/name", COMMIT).unwrap(), COMMIT);
    assert_eq!(online.list(MODEL, "owner/name", COMMIT).unwrap(), FILES.map(|f| f.0));
    assert_eq!(server.requests().len(), 2, "a whole hash needs no request");

    let mut seen = Vec::new();
    let mut note = |name: &str, done: u64, total: u64| {
        seen.push((name.to_owned(), done, total));
        ControlFlow::Continue(())
    };
    let path = online.file(MODEL, "owner/name", COMMIT, "data/a.txt", &mut note).unwrap();
    assert_eq!(fs::read_to_string(&path).unwrap(), FILES[1].1);
    assert_eq!(seen.last().unwrap(), &("data/a.txt".to_owned(), 16, 16));
    assert!(!server.requests().is_empty());
    assert_eq!(get(&online, "owner/name", "data/a.txt").unwrap(), path);
    assert_eq!(server.requests(), [""; 0]);

    let repo = folder.path().join("models--owner--name");
    let refs: Vec<_> = fs::read_dir(repo.join("refs")).unwrap().collect();
    assert_eq!(refs.len(), 1, "`main`, and no ref named after the commit");
    assert!(repo.join("blobs/data-a-txt").is_file());

    settings.offline = true;
    let offline = hub(&settings);
    assert_eq!(offline.resolve(MODEL, "owner/name", "main").unwrap(), COMMIT);
    assert_eq!(offline.list(MODEL, "owner/name", COMMIT).unwrap(), ["data/a.txt"]);
    assert_eq!(get(&offline, "owner/name", "data/a.txt").unwrap(), path);
    let fault = sentence(get(&offline, "owner/name", "config.json").unwrap_err());
    assert!(fault.contains("`config.json` of `owner/name` is not in the cache"), "{fault}");
    let fault = sentence(offline.resolve(MODEL, "owner/other", "main").unwrap_err());
    assert!(fault.contains("the network is not to be used"), "{fault}");
    assert_eq!(server.requests(), [""; 0]);
}

#[test]
fn a_hub_out_of_reach_leaves_the_cache() {
    let (server, folder) = (Server::new(&FILES), tempfile::tempdir().unwrap());
    let hub = hub(&settings(&server, folder.path()));
    hub.resolve(MODEL, "owner/name", "main").unwrap();
    get(&hub, "owner/name", "config.json").unwrap();
    drop(server);
    assert_eq!(hub.resolve(MODEL, "owner/name", "main").unwrap(), COMMIT);
    assert_eq!(hub.list(MODEL, "owner/name", COMMIT).unwrap(), ["config.json"]);
    let error = hub.resolve(MODEL, "owner/other", "main").unwrap_err();
    assert!(matches!(error, Error::Input { .. }));
    let fault = sentence(error);
    assert!(fault.starts_with("cannot reach http://127.0.0.1:"), "{fault}");
    assert!(fault.contains("nothing of it is in the cache"), "{fault}");
    let fault = sentence(get(&hub, "owner/name", "data/a.txt").unwrap_err());
    assert!(fault.starts_with("cannot reach"), "{fault}");
}

#[test]
fn a_refusal_is_a_sentence_without_the_token() {
    let (server, folder) = (Server::new(&FILES), tempfile::tempdir().unwrap());
    let mut settings = settings(&server, folder.path());
    let open = hub(&settings);
    let fault = |result: Result<String>| sentence(result.unwrap_err());
    let text = fault(open.resolve(MODEL, "owner/private", "main"));
    assert!(text.contains("no public repository `owner/private`"), "{text}");
    let text = fault(open.resolve(MODEL, "owner/name", "v9"));
    assert!(text.contains("`owner/name` has no revision `v9`"), "{text}");
    let text = sentence(get(&open, "owner/gated", "config.json").unwrap_err());
    assert!(text.contains("accept its licence on http") && text.contains("HF_TOKEN"), "{text}");
    let text = sentence(get(&open, "owner/name", "gone.json").unwrap_err());
    assert!(text.contains("has no file `gone.json`"), "{text}");
    for repo in ["../x", "a/b/c", "", "a b"] {
        let text = fault(open.resolve(MODEL, repo, "main"));
        assert!(text.contains("no repository of the Hub"), "{text}");
    }
    assert!(fault(open.resolve(MODEL, "a", "../../x")).contains("no revision"));
    assert!(get(&open, "owner/name", "../x").is_err());

    settings.token = Some("wrong".to_owned());
    let text = fault(hub(&settings).resolve(MODEL, "owner/private", "main"));
    assert!(text.contains("refuses the access token"), "{text}");
    assert!(!text.contains("wrong") && !format!("{settings:?}").contains("wrong"));

    settings.token = Some("secret".to_owned());
    let known = hub(&settings);
    assert_eq!(known.resolve(MODEL, "owner/private", "main").unwrap(), COMMIT);
    get(&known, "owner/gated", "config.json").unwrap();
}

#[test]
fn a_broken_download_goes_on() {
    let (server, folder) = (Server::new(&FILES), tempfile::tempdir().unwrap());
    let hub = hub(&settings(&server, folder.path()));
    server.cut_next(2);
    let path = get(&hub, "owner/name", "data/a.txt").unwrap();
    assert_eq!(fs::read_to_string(path).unwrap(), FILES[1].1);

    // All bytes came, and then the process was ended.
    let blobs = folder.path().join("models--owner--name/blobs");
    fs::write(blobs.join("config-json.part"), "{}").unwrap();
    let path = get(&hub, "owner/name", "config.json").unwrap();
    assert_eq!(fs::read_to_string(path).unwrap(), "{}");

    // The blob was deleted, its link was not.
    fs::remove_file(blobs.join("config-json")).unwrap();
    get(&hub, "owner/name", "config.json").unwrap();

    server.fail_next(2);
    assert_eq!(hub.resolve(MODEL, "owner/name", "main").unwrap(), COMMIT);
    server.fail_next(9);
    let fault = sentence(hub.list(MODEL, "owner/gated", COMMIT).unwrap_err());
    assert!(fault.contains("HTTP status 503 for `owner/gated`"), "{fault}");
}

#[test]
fn a_download_can_be_stopped() {
    let (server, folder) = (Server::new(&FILES), tempfile::tempdir().unwrap());
    let hub = hub(&settings(&server, folder.path()));
    let stop = &mut |_: &str, _, _| ControlFlow::Break(());
    let error = hub.file(MODEL, "owner/name", COMMIT, "config.json", stop).unwrap_err();
    assert!(matches!(error, Error::Stopped));
}

#[test]
fn whole_models_and_data_sets() {
    let folder = tempfile::tempdir().unwrap();
    let go_on = &mut |_: &str, _, _| ControlFlow::Continue(());
    let server = Server::new(&[
        ("README.md", "about"),
        ("config.json", "{}"),
        ("model-1.safetensors", "weights"),
        ("model.safetensors.index.json", r#"{"weight_map":{"w":"model-1.safetensors"}}"#),
        ("pytorch_model.bin", "weights"),
        ("tokenizer.json", "{}"),
    ]);
    let model = hub(&settings(&server, folder.path()));
    let files = fetch_model(&model, "owner/name", COMMIT, go_on).unwrap();
    let names: Vec<&str> = files.iter().map(|(name, _)| name.as_str()).collect();
    let expected =
        ["config.json", "model-1.safetensors", "model.safetensors.index.json", "tokenizer.json"];
    assert_eq!(names, expected);
    assert!(files.iter().all(|(_, path)| path.is_file()));

    let server = Server::new(&[
        ("README.md", "about"),
        ("labels.json", "{}"),
        ("data/test.csv", "text\n"),
        ("data/train.csv", "text\n"),
    ]);
    let folder = tempfile::tempdir().unwrap();
    let data = hub(&settings(&server, folder.path()));
    let located = fetch_dataset(&data, "owner/name", COMMIT, go_on).unwrap();
    assert_eq!(located.splits.keys().collect::<Vec<_>>(), ["train", "test"]);
    assert!(located.splits["test"][0].ends_with("data/test.csv"));
    assert!(located.labels.unwrap().is_file());
    assert!(folder.path().join("datasets--owner--name").is_dir());
}
