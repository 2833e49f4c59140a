//! HTTP as the Hub needs it: redirects are followed here, so that the token goes to no other host.

use std::io;
use std::time::Duration;

use ureq::http::{Response, StatusCode, Uri};
use ureq::{Agent, Body};

use super::refusal::Cause;

const CONNECT_LIMIT: Duration = Duration::from_secs(10);
const ANSWER_LIMIT: Duration = Duration::from_secs(30);
/// How long a transfer may go without one byte.
pub(super) const STALL_LIMIT: Duration = Duration::from_mins(1);
const REDIRECTS: usize = 10;

/// Asks the Hub, and whoever it redirects to.
#[derive(Clone)]
pub(super) struct Client {
    agent: Agent,
    endpoint: Uri,
    token: Option<String>,
}

/// What is asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Ask {
    /// What a file is: the headers of the Hub, which then may lead to another host for the body.
    Head,
    /// Its bytes, from this one on.
    Bytes(u64),
    /// JSON, which may come compressed.
    Json,
}

/// An answer that is no error, and the address that gave it or that it leads to.
pub(super) struct Answer {
    pub(super) response: Response<Body>,
    pub(super) url: Uri,
}

impl Client {
    pub(super) fn new(
        endpoint: &str,
        token: Option<String>,
        stall_limit: Duration,
    ) -> Result<Self, Cause> {
        let config = Agent::config_builder()
            .max_redirects(0)
            .http_status_as_error(false)
            .timeout_connect(Some(CONNECT_LIMIT))
            .timeout_recv_response(Some(ANSWER_LIMIT))
            .timeout_per_read(Some(stall_limit))
            .user_agent(concat!("fedpipe/", env!("CARGO_PKG_VERSION")));
        Ok(Self { agent: config.build().into(), endpoint: uri(endpoint)?, token })
    }

    /// Asks, and follows redirects.
    pub(super) fn send(&self, url: &Uri, ask: Ask) -> Result<Answer, Cause> {
        let mut url = url.clone();
        for _ in 0..REDIRECTS {
            let at_home = is_same_origin(&url, &self.endpoint);
            let mut request = match ask {
                Ask::Head => self.agent.head(url.clone()),
                Ask::Bytes(_) | Ask::Json => self.agent.get(url.clone()),
            };
            if ask != Ask::Json {
                // A compressed body has another length, and other ranges.
                request = request.header("accept-encoding", "identity");
            }
            if let Ask::Bytes(start @ 1..) = ask {
                request = request.header("range", format!("bytes={start}-"));
            }
            if let Some(token) = self.token.as_ref().filter(|_| at_home) {
                request = request.header("authorization", format!("Bearer {token}"));
            }
            let response = request.call().map_err(|error| transport(&error))?;
            let status = response.status();
            if !is_redirect(status) {
                return match status.as_u16() {
                    200..300 | 416 => Ok(Answer { response, url }),
                    other if at_home => Err(refused(other, &response)),
                    other => Err(Cause::Storage(other)),
                };
            }
            let next = resolve(&url, header(&response, "location").unwrap_or_default())?;
            let is_told = ask == Ask::Head && etag(&response).is_some();
            if is_told && !is_same_origin(&next, &self.endpoint) {
                return Ok(Answer { response, url: next });
            }
            url = next;
        }
        Err(Cause::NotAHub("redirects without end".to_owned()))
    }
}

/// A header as text.
pub(super) fn header<'a>(response: &'a Response<Body>, name: &str) -> Option<&'a str> {
    response.headers().get(name)?.to_str().ok()
}

/// What names a file's content: the Hub's own word for it, before that of whoever stores it.
pub(super) fn etag(response: &Response<Body>) -> Option<&str> {
    let etag = header(response, "x-linked-etag").or_else(|| header(response, "etag"))?;
    Some(etag.trim_start_matches("W/").trim_matches('"'))
}

/// An address, as a value.
pub(super) fn uri(text: &str) -> Result<Uri, Cause> {
    // The text is not repeated: what follows a `?` may be a signature.
    text.parse().map_err(|_| Cause::NotAHub("an address that is none".to_owned()))
}

/// What went wrong on the way, while asking or while reading a body.
pub(super) fn transport(error: &ureq::Error) -> Cause {
    match error {
        ureq::Error::Io(source) => match broken(source) {
            Some(cause) => cause,
            None => Cause::Unreachable(source.to_string()),
        },
        ureq::Error::Protocol(_) | ureq::Error::Json(_) | ureq::Error::Http(_) => {
            Cause::NotAHub(error.to_string())
        }
        ureq::Error::BadUri(_) => Cause::NotAHub("an address that is none".to_owned()),
        _ => Cause::Unreachable(error.to_string()),
    }
}

/// What went wrong while a body was read.
pub(super) fn interrupted(error: &io::Error) -> Cause {
    // The client's own errors come wrapped as I/O errors.
    match error.get_ref().and_then(|inner| inner.downcast_ref()) {
        Some(ureq::Error::Timeout(_)) => Cause::Stalled,
        Some(ureq::Error::Io(source)) => {
            broken(source).unwrap_or_else(|| Cause::Broken(source.to_string()))
        }
        _ => broken(error).unwrap_or_else(|| Cause::Broken(error.to_string())),
    }
}

fn broken(error: &io::Error) -> Option<Cause> {
    use io::ErrorKind as K;
    match error.kind() {
        K::UnexpectedEof | K::ConnectionReset | K::ConnectionAborted | K::BrokenPipe => {
            Some(Cause::Broken(error.to_string()))
        }
        K::TimedOut | K::WouldBlock => Some(Cause::Stalled),
        _ => None,
    }
}

fn refused(status: u16, response: &Response<Body>) -> Cause {
    Cause::Status {
        status,
        code: header(response, "x-error-code").map(str::to_owned),
        wait: wait(header(response, "retry-after"), header(response, "ratelimit")),
    }
}

/// How long the Hub asks to wait: in seconds as HTTP has it, or as the `t` of its own
/// `RateLimit: "api";r=0;t=55`.
fn wait(retry_after: Option<&str>, rate_limit: Option<&str>) -> Option<Duration> {
    let limit = || rate_limit?.split(';').find_map(|part| part.trim().strip_prefix("t="));
    let seconds = retry_after.or_else(limit)?;
    seconds.trim().parse().ok().map(Duration::from_secs)
}

fn is_redirect(status: StatusCode) -> bool {
    matches!(status.as_u16(), 301 | 302 | 303 | 307 | 308)
}

/// Scheme, host and port.
fn is_same_origin(one: &Uri, other: &Uri) -> bool {
    let port = |uri: &Uri| {
        uri.port_u16().or_else(|| match uri.scheme_str() {
            Some("https") => Some(443),
            _ => Some(80),
        })
    };
    let host = |uri: &Uri| uri.host().map(str::to_ascii_lowercase);
    one.scheme() == other.scheme() && host(one) == host(other) && port(one) == port(other)
}

/// Where a `Location` leads from `base`: an address, or a path at the same place.
fn resolve(base: &Uri, location: &str) -> Result<Uri, Cause> {
    let scheme = base.scheme_str().unwrap_or("https");
    let authority = base.authority().map_or("", |authority| authority.as_str());
    let scheme_end = location.find(['/', '?', '#']).unwrap_or(location.len());
    if location[..scheme_end].ends_with(':') && location[scheme_end..].starts_with("//") {
        uri(location)
    } else if location.starts_with("//") {
        uri(&format!("{scheme}:{location}"))
    } else if location.starts_with('/') {
        uri(&format!("{scheme}://{authority}{location}"))
    } else {
        let folder = base.path().rsplit_once('/').map_or("", |(folder, _)| folder);
        uri(&format!("{scheme}://{authority}{folder}/{location}"))
    }
}

#[cfg(test)]
mod tests {
    use std::io::{Read as _, Write as _};
    use std::net::TcpListener;

    use super::*;

    fn at(text: &str) -> Uri {
        text.parse().unwrap()
    }

    #[test]
    fn another_scheme_host_or_port_is_another_origin() {
        let home = at("https://Hub.co/a");
        assert!(is_same_origin(&home, &at("https://hub.co:443/b?c")));
        for other in ["http://hub.co/a", "https://hub.co:8443/a", "https://cdn.hub.co/a"] {
            assert!(!is_same_origin(&home, &at(other)), "{other}");
        }
        // What stands before an `@` is no host.
        assert!(!is_same_origin(&home, &at("https://hub.co@cdn.co/a")));
    }

    #[test]
    fn a_location_is_an_address_or_a_path() {
        let base = at("http://hub.co:80/a/b?c");
        let to = |location: &str| resolve(&base, location).unwrap().to_string();
        assert_eq!(to("https://cdn.co/x?y"), "https://cdn.co/x?y");
        assert_eq!(to("//cdn.co/x"), "http://cdn.co/x");
        assert_eq!(to("/x?y"), "http://hub.co:80/x?y");
        assert_eq!(to("x"), "http://hub.co:80/a/x");
        assert!(resolve(&base, "http://[").is_err());
    }

    #[test]
    fn the_wait_is_read_as_http_and_as_the_hub_write_it() {
        let seconds = |after, limit| wait(after, limit).map(|wait| wait.as_secs());
        assert_eq!(seconds(Some("7"), Some("\"api\";r=0;t=55")), Some(7));
        assert_eq!(seconds(None, Some("\"api\";r=0;t=55")), Some(55));
        assert_eq!(seconds(Some("Wed, 21 Oct 2026 07:28:00 GMT"), None), None);
        assert_eq!(seconds(None, None), None);
    }

    #[test]
    fn a_body_that_stops_coming_is_given_up() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let endpoint = format!("http://{}", listener.local_addr().unwrap());
        let server = std::thread::spawn(move || {
            let (mut stream, _) = listener.accept().unwrap();
            stream.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 9\r\n\r\nhalf").unwrap();
            // Until the client hangs up.
            drop(stream.read_to_end(&mut Vec::new()));
        });
        let client = Client::new(&endpoint, None, Duration::from_millis(50)).unwrap();
        let answer = client.send(&at(&endpoint), Ask::Bytes(0)).unwrap();
        let error = answer.response.into_body().into_reader().read_to_end(&mut Vec::new());
        let cause = interrupted(&error.unwrap_err());
        assert!(matches!(cause, Cause::Stalled), "{cause:?}");
        drop(client);
        server.join().unwrap();
    }
}
