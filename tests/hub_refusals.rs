//! The Hub where it gives nothing: tokens, no network, what is not there, what is too busy.

use std::{fs, time::Duration};

use crate::{
    harness::{Ran, Space},
    hub::{DATA, MODEL, RUN, WEIGHTS, hub, model, refused},
    hub_server::{Access, Fault, Host, Request, STRANGER, TOKEN},
};

#[test]
fn the_token_goes_to_the_hub_alone_and_is_never_told() {
    let (server, mut space) = hub();
    server.restrict(MODEL, Access::Private);
    server.restrict(DATA, Access::Gated);
    // Every error answers with the token in its body.
    server.fail("/revision/main", Fault::Status(503, ""), 1);
    server.fail("/resolve/", Fault::Status(429, "retry-after: 0\r\n"), 1);
    server.fail("/xet/", Fault::Status(403, ""), 1);
    let loud = [&RUN[..], &["-vv"]].concat();
    space.set("RUST_LOG", "trace");
    space.set("HF_TOKEN", TOKEN);
    let mut told = Vec::new();
    let mut tell = |ran: Ran| told.push(ran.stdout + &ran.stderr);
    tell(space.fedpipe(&loud).fine());
    let requests = server.requests();
    let with_token = format!("Bearer {TOKEN}");
    for request in &requests {
        let expected = (request.host == Host::Hub).then_some(with_token.as_str());
        assert_eq!(request.header("authorization"), expected, "{request:?}");
    }
    assert!(requests.iter().any(|request| request.host == Host::Cdn));

    server.fail("/revision/main", Fault::Status(500, "retry-after: 0\r\n"), 4);
    tell(space.fedpipe(&[&loud[..], &["--store", "b"]].concat()));
    server.fail("/revision/main", Fault::Status(401, ""), 1);
    tell(space.fedpipe(&[&loud[..], &["--store", "c"]].concat()));
    for args in [&["log"][..], &["plan", "graph.ron", "-vv"], &["why", "tokens", "graph.ron"]] {
        tell(space.fedpipe(args));
    }
    assert!(told.iter().all(|text| !text.contains(TOKEN)), "{told:?}");
    let mut open = vec![space.path("")];
    let mut looked_at = 0;
    while let Some(path) = open.pop() {
        if path.is_dir() {
            open.extend(fs::read_dir(&path).unwrap().map(|entry| entry.unwrap().path()));
        } else {
            looked_at += 1;
            let bytes = fs::read(&path).unwrap();
            let has_it = bytes.windows(TOKEN.len()).any(|window| window == TOKEN.as_bytes());
            assert!(!has_it, "the token is in {}", path.display());
        }
    }
    assert!(looked_at > 20, "{looked_at}");
}

#[test]
fn offline_the_cache_is_enough_or_a_sentence_says_what_is_missing() {
    let (server, mut space) = hub();
    let offline = |space: &Space, store: &str| {
        space.fedpipe(&[&RUN[..], &["--offline", "--store", store]].concat())
    };
    space.set("HF_HUB_OFFLINE", "1");
    refused(&space, &RUN, 2, &["is not in the cache", "HF_HUB_OFFLINE"]);
    assert!(server.requests().is_empty());
    assert!(space.inside(".fedpipe").is_empty());

    // One file of the data set cannot be had: what is there must not be taken for all of it.
    space.set("HF_HUB_OFFLINE", "0");
    server.fail("validation", Fault::Status(503, "retry-after: 0\r\n"), 4);
    refused(
        &space,
        &[&RUN[..], &["--keep-going"]].concat(),
        1,
        &["HTTP status 503", "validation 1"],
    );
    space.set("HF_HUB_OFFLINE", "1");
    let words = ["`data/validation 1.csv` of `owner/films` is not in the cache"];
    refused(&space, &RUN, 2, &words);

    space.set("HF_HUB_OFFLINE", "0");
    space.fedpipe(&RUN).fine();
    server.requests();
    assert_eq!(offline(&space, "a").fine().counts(), (3, 0, 3));
    assert!(server.requests().is_empty());
    drop(server);
    space.set("HF_HUB_OFFLINE", "1");
    assert_eq!(space.fedpipe(&[&RUN[..], &["--store", "b"]].concat()).fine().counts(), (3, 0, 3));
    // Nobody is there, and nobody said so.
    space.set("HF_HUB_OFFLINE", "0");
    assert_eq!(space.fedpipe(&[&RUN[..], &["--store", "c"]].concat()).fine().counts(), (3, 0, 3));
    assert_eq!(space.fedpipe(&[&RUN[..], &["--refresh"]].concat()).fine().counts(), (3, 3, 0));
    let other = [&RUN[..], &["--set", r#"base.hub="owner/other""#]].concat();
    refused(&space, &other, 2, &["cannot reach http://127.0.0.1:", "`owner/other`"]);
}

#[test]
fn a_repository_that_is_not_open_says_how_to_open_it() {
    let (server, mut space) = hub();
    let page = format!("{}/owner/tiny", server.endpoint());
    server.restrict(MODEL, Access::Gated);
    let gated = ["`owner/tiny` is gated", "accept its terms", &page, "set HF_TOKEN to a token"];
    refused(&space, &RUN, 2, &gated);
    space.set("HF_TOKEN", STRANGER);
    let gated = ["`owner/tiny` is gated", "accept its terms", &page, "with the account"];
    refused(&space, &RUN, 2, &gated);
    space.set("HF_TOKEN", TOKEN);
    space.fedpipe(&RUN).fine();

    let data_page = format!("{}/datasets/owner/films", server.endpoint());
    server.restrict(DATA, Access::Gated);
    space.set("HF_HOME", space.path("other").to_str().unwrap());
    space.set("HF_TOKEN", STRANGER);
    let fresh = [&RUN[..], &["--store", "fresh"]].concat();
    server.restrict(MODEL, Access::Private);
    refused(&space, &fresh, 2, &["no repository `owner/tiny`", "that this token may read"]);
    space.set("HF_TOKEN", "");
    refused(&space, &fresh, 2, &["no public repository `owner/tiny`", "set HF_TOKEN"]);
    space.set("HF_TOKEN", "hf_expired");
    refused(&space, &fresh, 2, &["refuses the access token", "HF_TOKEN may have expired"]);
    space.set("HF_TOKEN", STRANGER);
    space.write("data.ron", r#"Graph(stages: (data: Dataset(hub: "owner/films")))"#);
    let data = ["run", "data.ron", "--store", "fresh"];
    refused(&space, &data, 2, &["`owner/films` is gated", &data_page]);
}

#[test]
fn what_is_not_there_is_named() {
    let (server, space) = hub();
    let with = |edit: &'static str| [&RUN[..], &["--set", edit]].concat();
    let words = ["no public repository `owner/tinny`"];
    refused(&space, &with(r#"base.hub="owner/tinny""#), 2, &words);
    let words = ["`owner/tiny` has no revision `v9`", "such as `main`"];
    refused(&space, &with(r#"base.revision="v9""#), 2, &words);
    let mut files = model();
    files.remove("tokenizer.json");
    server.publish("models/owner/half", files);
    refused(&space, &with(r#"base.hub="owner/half""#), 2, &["`owner/half` has no tokenizer.json"]);
    let gone = Fault::Status(404, "x-error-code: EntryNotFound\r\n");
    server.fail("/resolve/", gone, 1);
    let alone = [&RUN[..], &["--jobs", "1"]].concat();
    refused(&space, &alone, 2, &["has no file `", "at revision"]);
    // Nothing of it all is left in the way.
    space.fedpipe(&RUN).fine();
}

#[test]
fn a_busy_hub_is_waited_for_and_then_told_of() {
    let (server, space) = hub();
    server.fail("/revision/", Fault::Status(429, "retry-after: 1\r\n"), 1);
    server.fail("/resolve/", Fault::Status(429, "ratelimit: \"resolvers\";r=0;t=0\r\n"), 2);
    server.fail("/resolve/", Fault::Status(502, ""), 1);
    server.fail("/xet/", Fault::Status(503, ""), 1);
    let start = std::time::Instant::now();
    space.fedpipe(&RUN).fine();
    assert!(start.elapsed() >= Duration::from_secs(1), "Retry-After was not waited for");
    assert_eq!(server.faults_left(), 0);

    let other = |store| [&RUN[..], &["--refresh", "--store", store]].concat();
    server.requests();
    server.fail("/revision/", Fault::Status(429, "retry-after: 0\r\n"), 4);
    refused(&space, &other("a"), 1, &["has had too many requests", "set HF_TOKEN"]);
    assert_eq!(server.requests().len(), 4, "tried so often");
    // Longer than anybody would sit and wait.
    server.fail("/revision/", Fault::Status(429, "retry-after: 300\r\n"), 1);
    refused(&space, &other("b"), 1, &["too many requests, and asks to wait 300 seconds"]);
    assert_eq!(server.requests().len(), 1);
    let (server, space) = hub();
    server.fail("/revision/", Fault::Status(503, "retry-after: 0\r\n"), 4);
    refused(&space, &RUN, 1, &["HTTP status 503 for `owner/tiny`", "run again later"]);
    assert_eq!(server.requests().len(), 4);
    server.fail("/xet/", Fault::Status(500, ""), 4);
    refused(&space, &RUN, 1, &["stores its files", WEIGHTS, "HTTP status 500"]);
    let heads = server.requests();
    let asked = |r: &&Request| r.method == "HEAD" && r.path.contains(WEIGHTS);
    assert_eq!(heads.iter().filter(asked).count(), 4, "each try has an address signed anew");
}

#[test]
fn a_server_that_is_no_hub_is_named() {
    let (server, mut space) = hub();
    server.fail("/revision/", Fault::Status(200, "content-type: text/html\r\n"), 1);
    refused(&space, &RUN, 1, &["does not answer as the Hub does", "check HF_ENDPOINT"]);
    space.set("HF_ENDPOINT", "not an address");
    refused(&space, &RUN, 2, &["`not an address` is no address of a Hub"]);
}
