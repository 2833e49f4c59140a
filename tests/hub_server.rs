//! A server that speaks the Hugging Face Hub's protocol, with a second one in the place of its CDN.
//!
//! As on the real Hub, a large file is a redirect to another host, which gets no say in what the
//! file is: its `ETag` there differs. A small one is a relative redirect. Tokens are known or not,
//! and every error answers with the token that it got, so that nobody can print a body unnoticed.

use std::{
    collections::BTreeMap,
    fmt::Write as _,
    io::{self, BufRead, BufReader, Write},
    net::{TcpListener, TcpStream},
    sync::{Arc, Mutex},
    thread::{self, JoinHandle},
    time::Duration,
};

use ring::digest;
use serde_json::json;

/// A token that opens every repository.
pub(crate) const TOKEN: &str = "hf_tokenOfAMember";
/// A token of somebody whom no gated repository has let in.
pub(crate) const STRANGER: &str = "hf_tokenOfAStranger";

/// The files of one commit.
pub(crate) type Files = BTreeMap<String, Vec<u8>>;

/// The Hub and its CDN; both end with it.
pub(crate) struct HubServer {
    state: Arc<State>,
    threads: Vec<JoinHandle<()>>,
}

/// Which of the two was asked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Host {
    Hub,
    Cdn,
}

/// One request as it came.
#[derive(Clone, Debug)]
pub(crate) struct Request {
    pub(crate) host: Host,
    pub(crate) method: String,
    pub(crate) path: String,
    headers: BTreeMap<String, String>,
}

/// Who may have a repository.
#[derive(Clone, Copy, PartialEq)]
pub(crate) enum Access {
    /// Everybody may look, members may have the files.
    Gated,
    /// Who is no member is told that there is no such repository.
    Private,
}

/// What goes wrong with an answer.
#[derive(Clone, Copy)]
pub(crate) enum Fault {
    /// This status, with these header lines.
    Status(u16, &'static str),
    /// The connection ends after half of the body.
    Cut,
    /// The whole file, whatever range was asked for.
    Whole,
    /// One bit of the body is another.
    Damaged,
    /// The body comes in small pieces.
    Slow,
}

#[derive(Default)]
struct Repository {
    commits: Vec<(String, Files)>,
    access: Option<Access>,
}

#[derive(Default)]
struct State {
    addresses: Vec<(Host, String)>,
    repositories: Mutex<BTreeMap<String, Repository>>,
    requests: Mutex<Vec<Request>>,
    /// A part of the path, what goes wrong, and how often it still does.
    faults: Mutex<Vec<(String, Fault, usize)>>,
    is_closing: Mutex<bool>,
}

struct Answer {
    status: u16,
    headers: String,
    body: Vec<u8>,
}

impl Request {
    pub(crate) fn header(&self, name: &str) -> Option<&str> {
        self.headers.get(name).map(String::as_str)
    }

    /// Whether it asks for the bytes of a file, where they are.
    pub(crate) fn is_for_bytes(&self) -> bool {
        let is_there = self.host == Host::Cdn || self.path.starts_with("/api/resolve-cache/");
        self.method == "GET" && is_there
    }

    /// The file that it is about.
    pub(crate) fn file(&self) -> String {
        let name = match self.host {
            Host::Cdn => self.path.split("?name=").nth(1).and_then(|rest| rest.split('&').next()),
            Host::Hub => {
                let rest = self.path.split("/resolve/").nth(1);
                rest.and_then(|rest| rest.split_once('/'))
                    .and_then(|(_, name)| name.split('?').next())
            }
        };
        name.unwrap_or_default().to_owned()
    }

    fn read(host: Host, stream: &TcpStream) -> io::Result<Self> {
        let mut lines = BufReader::new(stream).lines();
        let first = lines.next().unwrap_or_else(|| Ok(String::new()))?;
        let mut words = first.split(' ').map(str::to_owned);
        let (method, path) = (words.next().unwrap_or_default(), words.next().unwrap_or_default());
        let mut headers = BTreeMap::new();
        for line in lines {
            let line = line?;
            let Some((key, value)) = line.split_once(": ") else { break };
            headers.insert(key.to_ascii_lowercase(), value.to_owned());
        }
        Ok(Self { host, method, path: path.replace("%20", " "), headers })
    }

    /// The first byte that it asks for, if it names one.
    pub(crate) fn range_start(&self) -> Option<usize> {
        self.header("range")?.strip_prefix("bytes=")?.split('-').next()?.parse().ok()
    }
}

impl HubServer {
    /// A Hub that has nothing yet.
    pub(crate) fn new() -> Self {
        // Two names of this machine: a client that compares hosts must see that they differ.
        let listen = |host, name: &str| {
            let listener = TcpListener::bind("127.0.0.1:0").unwrap();
            let address = format!("{name}:{}", listener.local_addr().unwrap().port());
            ((host, address), (host, listener))
        };
        let (addresses, listeners): (Vec<_>, Vec<_>) =
            [listen(Host::Hub, "127.0.0.1"), listen(Host::Cdn, "localhost")].into_iter().unzip();
        let state = Arc::new(State { addresses, ..State::default() });
        let serve = |(host, listener): (Host, TcpListener)| {
            let state = Arc::clone(&state);
            thread::spawn(move || {
                for stream in listener.incoming() {
                    if *state.is_closing.lock().unwrap() {
                        break;
                    }
                    let (state, stream) = (Arc::clone(&state), stream.unwrap());
                    // A client may hang up at any moment.
                    thread::spawn(move || drop(state.serve(host, stream)));
                }
            })
        };
        let threads = listeners.into_iter().map(serve).collect();
        Self { state, threads }
    }

    /// What `HF_ENDPOINT` is to be.
    pub(crate) fn endpoint(&self) -> String {
        format!("http://{}", self.state.address(Host::Hub))
    }

    /// Makes these files a new commit of `main`, and tells its hash.
    pub(crate) fn publish(&self, repository: &str, files: Files) -> String {
        let mut all = self.state.repositories.lock().unwrap();
        let known = all.entry(repository.to_owned()).or_default();
        let number = known.commits.len() + 1;
        let commit =
            hex(&digest::SHA1_FOR_LEGACY_USE_ONLY, format!("{repository} {number}").as_bytes());
        known.commits.push((commit.clone(), files));
        commit
    }

    /// The commit that `main` is.
    pub(crate) fn newest(&self, repository: &str) -> String {
        self.state.repositories.lock().unwrap()[repository].commits.last().unwrap().0.clone()
    }

    /// Lets only members have a repository.
    pub(crate) fn restrict(&self, repository: &str, access: Access) {
        self.state.repositories.lock().unwrap().get_mut(repository).unwrap().access = Some(access);
    }

    /// Lets the next answers to requests whose path has this part go wrong.
    pub(crate) fn fail(&self, part: &str, fault: Fault, times: usize) {
        self.state.faults.lock().unwrap().push((part.to_owned(), fault, times));
    }

    /// How many answers are still to go wrong.
    pub(crate) fn faults_left(&self) -> usize {
        self.state.faults.lock().unwrap().iter().map(|(_, _, times)| times).sum()
    }

    /// The requests since the last time.
    pub(crate) fn requests(&self) -> Vec<Request> {
        std::mem::take(&mut self.state.requests.lock().unwrap())
    }
}

impl Drop for HubServer {
    fn drop(&mut self) {
        *self.state.is_closing.lock().unwrap() = true;
        for ((_, address), thread) in self.state.addresses.iter().zip(self.threads.drain(..)) {
            // Wakes the thread up, which then sees that it is to end.
            drop(TcpStream::connect(address.replace("localhost", "127.0.0.1")));
            thread.join().unwrap();
        }
    }
}

impl State {
    fn address(&self, host: Host) -> &str {
        &self.addresses.iter().find(|(other, _)| *other == host).unwrap().1
    }

    fn serve(&self, host: Host, mut stream: TcpStream) -> io::Result<()> {
        let request = Request::read(host, &stream)?;
        self.requests.lock().unwrap().push(request.clone());
        let refused = self.fault(&request, |fault| matches!(fault, Fault::Status(..)));
        let mut answer = match (refused, host) {
            (Some(Fault::Status(status, headers)), _) => Answer::new(status, headers),
            (_, Host::Hub) => self.hub(&request),
            (_, Host::Cdn) => self.cdn(&request),
        };
        let mut fault = None;
        if answer.status >= 400 {
            answer.body = request.header("authorization").unwrap_or_default().as_bytes().to_vec();
        } else if answer.status == 200 && request.method == "GET" && !answer.headers.is_empty() {
            fault = self.fault(&request, |fault| !matches!(fault, Fault::Status(..)));
            if !matches!(fault, Some(Fault::Whole)) {
                answer.cut_to_range(&request);
            }
        }
        if let (Some(Fault::Damaged), Some(byte)) = (fault, answer.body.last_mut()) {
            *byte ^= 1;
        }
        let Answer { status, headers, mut body } = answer;
        let length = body.len();
        write!(
            stream,
            "HTTP/1.1 {status} -\r\n{headers}content-length: {length}\r\nconnection: close\r\n\r\n"
        )?;
        match fault {
            _ if request.method == "HEAD" => body.clear(),
            Some(Fault::Cut) => body.truncate(length / 2),
            Some(Fault::Slow) => {
                for piece in body.chunks(length / 100 + 1) {
                    stream.write_all(piece)?;
                    thread::sleep(Duration::from_millis(20));
                }
                return Ok(());
            }
            _ => {}
        }
        stream.write_all(&body)
    }

    /// The next fault of a kind that this request meets.
    fn fault(&self, request: &Request, of_kind: impl Fn(&Fault) -> bool) -> Option<Fault> {
        let mut faults = self.faults.lock().unwrap();
        let meets = |(part, fault, times): &&mut (String, Fault, usize)| {
            *times > 0 && of_kind(fault) && request.path.contains(part.as_str())
        };
        let (_, fault, times) = faults.iter_mut().find(meets)?;
        *times -= 1;
        Some(*fault)
    }

    fn hub(&self, request: &Request) -> Answer {
        let token =
            request.header("authorization").map(|value| value.trim_start_matches("Bearer "));
        if token.is_some_and(|token| ![TOKEN, STRANGER].contains(&token)) {
            return Answer::new(401, "x-error-message: Invalid credentials in header\r\n");
        }
        let path = request.path.split('?').next().unwrap();
        let (is_api, rest) = match path.strip_prefix("/api/") {
            Some(rest) => (true, rest.to_owned()),
            None if path.starts_with("/datasets/") => (false, path[1..].to_owned()),
            None => (false, format!("models{path}")),
        };
        let is_cached = rest.starts_with("resolve-cache/");
        let rest = rest.trim_start_matches("resolve-cache/");
        let separator = if is_api && !is_cached { "/revision/" } else { "/resolve/" };
        let Some((name, rest)) = rest.split_once(separator) else {
            return Answer::new(404, "");
        };
        let all = self.repositories.lock().unwrap();
        let (repository, access) = match all.get(name) {
            Some(known) => (known, known.access.filter(|_| token != Some(TOKEN))),
            None => return Answer::no_repository(token),
        };
        match access {
            Some(Access::Private) => return Answer::no_repository(token),
            Some(Access::Gated) if !is_api => {
                let status = if token.is_some() { 403 } else { 401 };
                return Answer::new(status, "x-error-code: GatedRepo\r\n");
            }
            _ => {}
        }
        let (revision, file) = rest.split_once('/').unwrap_or((rest, ""));
        let newest = repository.commits.len() - 1;
        let is_it = |(i, (commit, _)): &(usize, &(String, Files))| {
            commit == revision || (revision == "main" && *i == newest)
        };
        let Some((_, (commit, files))) = repository.commits.iter().enumerate().find(is_it) else {
            return Answer::new(404, "x-error-code: RevisionNotFound\r\n");
        };
        if separator == "/revision/" {
            let siblings: Vec<_> = files.keys().map(|name| json!({ "rfilename": name })).collect();
            let info = json!({ "id": name, "sha": commit, "siblings": siblings });
            return Answer { body: info.to_string().into_bytes(), ..Answer::new(200, "") };
        }
        let Some(bytes) = files.get(file) else {
            return Answer::new(404, "x-error-code: EntryNotFound\r\n");
        };
        let commit = format!("x-repo-commit: {commit}\r\n");
        if is_large(file) {
            let (address, sum) = (self.address(Host::Cdn), hex(&digest::SHA256, bytes));
            let size = bytes.len();
            Answer::new(
                302,
                &format!(
                    "{commit}x-linked-etag: \"{sum}\"\r\nx-linked-size: {size}\r\nlocation: http://{address}/xet/{sum}?name={file}&Signature=s\r\n"
                ),
            )
        } else if is_cached {
            let tag = git_blob(bytes);
            let headers = format!("{commit}etag: \"{tag}\"\r\naccept-ranges: bytes\r\n");
            Answer { body: bytes.clone(), ..Answer::new(200, &headers) }
        } else {
            let rest = rest.replace(' ', "%20");
            Answer::new(
                307,
                &format!("{commit}location: /api/resolve-cache/{name}/resolve/{rest}?etag=e\r\n"),
            )
        }
    }

    fn cdn(&self, request: &Request) -> Answer {
        let all = self.repositories.lock().unwrap();
        let files = all.values().flat_map(|known| &known.commits).flat_map(|(_, files)| files);
        let mut named = files.filter(|(name, _)| request.path.contains(&format!("?name={name}&")));
        match named.find(|(_, bytes)| request.path.contains(&hex(&digest::SHA256, bytes))) {
            Some((_, bytes)) => {
                Answer { body: bytes.clone(), ..Answer::new(200, "etag: \"of-the-cdn\"\r\n") }
            }
            None => Answer::new(403, ""),
        }
    }
}

impl Answer {
    fn new(status: u16, headers: &str) -> Self {
        Self { status, headers: headers.to_owned(), body: Vec::new() }
    }

    /// Whoever may not know of a repository is told the same as if there were none.
    fn no_repository(token: Option<&str>) -> Self {
        let status = if token.is_some() { 404 } else { 401 };
        Self::new(status, "x-error-code: RepoNotFound\r\n")
    }

    fn cut_to_range(&mut self, request: &Request) {
        let Some(start) = request.range_start() else { return };
        let size = self.body.len();
        if start >= size {
            *self = Self::new(416, &format!("content-range: bytes */{size}\r\n"));
            return;
        }
        self.body.drain(..start);
        self.status = 206;
        let range = format!("content-range: bytes {start}-{}/{size}\r\n", size - 1);
        self.headers.push_str(&range);
    }
}

/// Whether the Hub keeps a file outside of git: what `.gitattributes` names in most repositories.
fn is_large(name: &str) -> bool {
    [".safetensors", ".bin", ".gguf", ".parquet"].iter().any(|end| name.ends_with(end))
}

fn git_blob(bytes: &[u8]) -> String {
    let mut blob = format!("blob {}\0", bytes.len()).into_bytes();
    blob.extend(bytes);
    hex(&digest::SHA1_FOR_LEGACY_USE_ONLY, &blob)
}

/// A digest in hexadecimal digits.
pub(crate) fn hex(algorithm: &'static digest::Algorithm, bytes: &[u8]) -> String {
    let mut digits = String::new();
    for byte in digest::digest(algorithm, bytes).as_ref() {
        write!(digits, "{byte:02x}").unwrap();
    }
    digits
}
