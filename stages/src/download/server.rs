//! A Hub for tests: enough of its protocol, on a loopback port.

use std::collections::BTreeMap;
use std::io::{BufRead, BufReader, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::{Arc, Mutex};
use std::thread::{self, JoinHandle};

pub(super) const COMMIT: &str = "0123456789abcdef0123456789abcdef01234567";

/// Serves the repository `owner/name`, `owner/gated` (its files need the token `secret`) and
/// `owner/private` (all of it does), at revision `main`.
pub(super) struct Server {
    pub(super) endpoint: String,
    state: Arc<State>,
    thread: Option<JoinHandle<()>>,
}

struct State {
    files: BTreeMap<&'static str, Vec<u8>>,
    requests: Mutex<Vec<String>>,
    /// How many bodies are still to be cut off after half of their bytes.
    cuts: Mutex<usize>,
    /// How many answers are still to be an error of the server.
    faults: Mutex<usize>,
    is_closing: Mutex<bool>,
}

struct Request {
    path: String,
    start: usize,
    end: Option<usize>,
    token: Option<String>,
}

impl Server {
    pub(super) fn new(files: &[(&'static str, &str)]) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let endpoint = format!("http://{}", listener.local_addr().unwrap());
        let state = Arc::new(State {
            files: files
                .iter()
                .map(|(n, text)| (*n, text.as_bytes().to_vec()))
                .collect(),
            requests: Mutex::default(),
            cuts: Mutex::default(),
            faults: Mutex::default(),
            is_closing: Mutex::default(),
        });
        let shared = Arc::clone(&state);
        let thread = thread::spawn(move || {
            for stream in listener.incoming() {
                if *shared.is_closing.lock().unwrap() {
                    break;
                }
                // A client may hang up at any moment.
                drop(shared.answer(stream.unwrap()));
            }
        });
        Self {
            endpoint,
            state,
            thread: Some(thread),
        }
    }

    /// The paths that were asked for since the last time.
    pub(super) fn requests(&self) -> Vec<String> {
        std::mem::take(&mut self.state.requests.lock().unwrap())
    }

    pub(super) fn cut_next(&self, bodies: usize) {
        *self.state.cuts.lock().unwrap() = bodies;
    }

    pub(super) fn fail_next(&self, answers: usize) {
        *self.state.faults.lock().unwrap() = answers;
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        *self.state.is_closing.lock().unwrap() = true;
        // Wakes the thread up, which then sees that it is to end.
        drop(TcpStream::connect(
            self.endpoint.trim_start_matches("http://"),
        ));
        self.thread.take().unwrap().join().unwrap();
    }
}

impl State {
    fn answer(&self, mut stream: TcpStream) -> std::io::Result<()> {
        let request = read(&stream)?;
        self.requests.lock().unwrap().push(request.path.clone());
        if take(&self.faults) {
            return write(&mut stream, "503 Busy", "", b"");
        }
        let known = request.token.as_deref() == Some("Bearer secret");
        let path = request.path.as_str();
        let (is_api, rest) = match path.strip_prefix("/api/models/") {
            Some(rest) => (true, rest),
            None => (false, &path[1..]),
        };
        let Some((repo, rest)) = rest.split_once(if is_api { "/revision/" } else { "/resolve/" })
        else {
            return write(&mut stream, "404 Not Found", "", b"");
        };
        match repo {
            "owner/name" => {}
            "owner/gated" if is_api || known => {}
            "owner/private" if known => {}
            "owner/gated" => {
                return write(
                    &mut stream,
                    "403 Forbidden",
                    "x-error-code: GatedRepo\r\n",
                    b"",
                );
            }
            _ => {
                return write(
                    &mut stream,
                    "401 Unauthorized",
                    "x-error-code: RepoNotFound\r\n",
                    b"",
                );
            }
        }
        if is_api {
            self.info(&mut stream, rest)
        } else {
            self.file(&mut stream, rest, &request)
        }
    }

    fn info(&self, stream: &mut TcpStream, revision: &str) -> std::io::Result<()> {
        if ![COMMIT, "main"].contains(&revision) {
            return write(
                stream,
                "404 Not Found",
                "x-error-code: RevisionNotFound\r\n",
                b"",
            );
        }
        let names = self
            .files
            .keys()
            .map(|name| serde_json::json!({ "rfilename": name }));
        let names: Vec<_> = names.collect();
        let info = serde_json::json!({ "sha": COMMIT, "siblings": names });
        write(stream, "200 OK", "", info.to_string().as_bytes())
    }

    fn file(&self, stream: &mut TcpStream, rest: &str, request: &Request) -> std::io::Result<()> {
        let name = rest.split_once('/').map_or("", |(_, name)| name);
        let Some(bytes) = self.files.get(name) else {
            return write(
                stream,
                "404 Not Found",
                "x-error-code: EntryNotFound\r\n",
                b"",
            );
        };
        if request.start >= bytes.len() {
            return write(stream, "416 Range Not Satisfiable", "", b"");
        }
        let end = request.end.unwrap_or(bytes.len() - 1);
        let tag = name.replace(['/', '.'], "-");
        let headers = format!(
            "etag: \"{tag}\"\r\nx-repo-commit: {COMMIT}\r\ncontent-range: bytes {}-{end}/{}\r\n",
            request.start,
            bytes.len()
        );
        let body = &bytes[request.start..=end];
        if request.end.is_none() && take(&self.cuts) {
            let length = body.len();
            let head = format!("HTTP/1.1 206 Part\r\n{headers}content-length: {length}\r\n\r\n");
            stream.write_all(head.as_bytes())?;
            return stream.write_all(&body[..length / 2]);
        }
        write(stream, "206 Part", &headers, body)
    }
}

fn take(count: &Mutex<usize>) -> bool {
    let mut count = count.lock().unwrap();
    let left = count.checked_sub(1);
    *count = left.unwrap_or(0);
    left.is_some()
}

fn read(stream: &TcpStream) -> std::io::Result<Request> {
    let mut lines = BufReader::new(stream).lines();
    let first = lines.next().unwrap_or_else(|| Ok(String::new()))?;
    let mut request = Request {
        path: first.split(' ').nth(1).unwrap_or("/").to_owned(),
        start: 0,
        end: None,
        token: None,
    };
    for line in lines {
        let line = line?;
        let Some((key, value)) = line.split_once(": ") else {
            break;
        };
        match key.to_ascii_lowercase().as_str() {
            "range" => {
                let range = value.trim_start_matches("bytes=").split_once('-').unwrap();
                request.start = range.0.parse().unwrap();
                request.end = range.1.parse().ok();
            }
            "authorization" => request.token = Some(value.to_owned()),
            _ => {}
        }
    }
    Ok(request)
}

fn write(stream: &mut TcpStream, status: &str, headers: &str, body: &[u8]) -> std::io::Result<()> {
    let length = body.len();
    let head = format!(
        "HTTP/1.1 {status}\r\n{headers}content-length: {length}\r\nconnection: close\r\n\r\n"
    );
    stream.write_all(head.as_bytes())?;
    stream.write_all(body)
}
