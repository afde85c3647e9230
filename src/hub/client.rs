//! Requests to a hub.

use std::fmt::Display;
use std::fs::{self, File};
use std::io::{self, Read, Write};
use std::path::Path;
use std::thread::sleep;
use std::time::Duration;

use serde_json::Value;
use ureq::http::{Response, Uri};
use ureq::tls::{RootCerts, TlsConfig};
use ureq::{Agent, Body};

use super::id::{ModelId, is_commit, is_plain};
use crate::error::{Error, Result};
use crate::file::unwritable;

/// How often a request is made that brings nothing.
const TRIES: u32 = 5;
/// As [`TRIES`], of the first request, whose address may be wrong.
const FIRST_TRIES: u32 = 3;
/// The wait before the second try; it doubles with each.
const WAIT: Duration = Duration::from_secs(1);
/// The longest wait that a server is granted, and the longest that a connection may bring nothing.
const PATIENCE: Duration = Duration::from_secs(20);
/// How often a request is redirected at most.
const HOPS: u32 = 10;

/// Why a request failed.
pub(super) enum Failure {
    /// What was asked for is not to be had, or cannot be kept.
    Refused(Error),
    /// The connection or the server failed, which another try may mend.
    Unreachable {
        reason: String,
        /// The wait that the server asks for.
        wait: Option<Duration>,
        /// Whether bytes came before.
        advanced: bool,
    },
}

impl From<Error> for Failure {
    fn from(e: Error) -> Self {
        Self::Refused(e)
    }
}

impl Failure {
    /// The error, which names `what` was asked for.
    pub fn into_error(self, what: impl Display) -> Error {
        match self {
            Self::Refused(e) => e,
            Self::Unreachable { reason, .. } => Error::Io(format!("{what}{reason}")),
        }
    }
}

/// The files of one commit.
pub(super) struct Listing {
    pub commit: String,
    pub names: Vec<String>,
}

/// What a hub says of a file.
pub(super) struct Facts {
    pub etag: String,
    pub size: u64,
}

/// One hub, asked with one token.
pub(super) struct Client {
    agent: Agent,
    /// Without a slash at its end.
    pub endpoint: String,
    token: Option<String>,
}

impl Client {
    pub fn new(endpoint: String, token: Option<String>) -> Self {
        // The system's certificates, for mirrors within an organisation.
        let tls = TlsConfig::builder().root_certs(RootCerts::PlatformVerifier).build();
        let agent = Agent::config_builder()
            .tls_config(tls)
            .user_agent(concat!("consistency-sampler/", env!("CARGO_PKG_VERSION")))
            .http_status_as_error(false)
            .max_redirects(0)
            .max_redirects_will_error(false)
            .timeout_connect(Some(PATIENCE))
            .timeout_recv_response(Some(PATIENCE))
            .timeout_per_read(Some(PATIENCE))
            .build()
            .into();
        Self { agent, endpoint, token }
    }

    /// Asks which commit a revision is, and for the names of its files; `is_hasty` asks once.
    pub fn listing(&self, id: &ModelId, is_hasty: bool) -> Result<Listing, Failure> {
        let url = format!("{}/api/models/{}/revision/{}", self.endpoint, id.name, encoded(&id.revision, ""));
        let tries = if is_hasty { 1 } else { FIRST_TRIES };
        let body = retry(tries, || {
            let response = self.answer(self.request(Method::Get, &url, 0)?, id, None)?;
            response.into_body().read_to_vec().map_err(|e| broken(&url, &e, false))
        })?;
        let json: Value = serde_json::from_slice(&body).unwrap_or_default();
        let commit = json["sha"].as_str().filter(|sha| is_commit(sha));
        match (commit, json["siblings"].as_array()) {
            (Some(commit), Some(files)) => {
                let names = files.iter().filter_map(|file| Some(file["rfilename"].as_str()?.to_owned())).collect();
                Ok(Listing { commit: commit.to_owned(), names })
            }
            _ => Err(Error::Io(format!("{url}: expected a hub's list of files, found something else")).into()),
        }
    }

    /// Asks for a file's ETag and size, which a hub gives before it redirects to another host.
    pub fn facts(&self, id: &ModelId, commit: &str, name: &str) -> Result<Facts> {
        let url = self.url(id, commit, name);
        let response = retry(TRIES, || self.answer(self.request(Method::Head, &url, 0)?, id, Some(name)))
            .map_err(|e| e.into_error(format_args!("{id}: {name}: ")))?;
        let header = |name: &str| header(&response, name);
        let etag = header("x-linked-etag").or_else(|| header("etag")).unwrap_or_default();
        let etag = etag.trim_start_matches("W/").trim_matches('"');
        let size = header("x-linked-size").or_else(|| header("content-length")).and_then(|size| size.parse().ok());
        match size {
            Some(size) if is_plain(etag) => Ok(Facts { etag: etag.to_owned(), size }),
            _ => Err(Error::Io(format!(
                "{url}: expected the headers ETag and Content-Length, found {etag:?} and {size:?}"
            ))),
        }
    }

    /// Receives a file of `size` bytes into `target`, after what that holds of it already. `progress` gets the number of
    /// bytes that are there.
    ///
    /// # Errors
    /// [`Error::Io`]; what came is kept in `target`, unless it is more than `size` bytes.
    pub fn receive(
        &self,
        (id, commit, name): (&ModelId, &str, &str),
        size: u64,
        target: &Path,
        progress: &mut dyn FnMut(u64),
    ) -> Result<()> {
        let url = self.url(id, commit, name);
        let failed = |e: io::Error| unwritable(target, &e);
        let mut file = File::options().create(true).append(true).open(target).map_err(failed)?;
        let mut done = file.metadata().map_err(failed)?.len();
        if done > size {
            file.set_len(0).map_err(failed)?;
            done = 0;
        }
        let mut chunk = vec![0; 1 << 18];
        if done < size {
            let received = retry(TRIES, || {
                let response = self.request(Method::Get, &url, done)?;
                let range = header(&response, "content-range").unwrap_or_default();
                let is_rest = response.status() == 206 && range.starts_with(&format!("bytes {done}-"));
                if !is_rest && matches!(response.status().as_u16(), 200..300 | 416) {
                    file.set_len(0).map_err(failed)?;
                    done = 0;
                }
                let mut body = self.answer(response, id, Some(name))?.into_body().into_reader();
                let before = done;
                while done <= size {
                    match body.read(&mut chunk) {
                        Ok(0) => break,
                        Ok(n) => file.write_all(&chunk[..n]).map(|()| done += n as u64).map_err(failed)?,
                        Err(e) => return Err(broken(&url, &e, done > before)),
                    }
                    progress(done);
                }
                match done < size {
                    true => Err(broken(&url, &"the connection was closed early", done > before)),
                    false => Ok(()),
                }
            });
            received.map_err(|e| {
                e.into_error(format_args!("{id}: {name}: {done} of {size} bytes are kept for the next try: "))
            })?;
        }
        if done > size {
            let _ = fs::remove_file(target);
            let m = format!("expected {size} bytes, found more: what came was not kept");
            return Err(Error::Io(format!("{id}: {name}: {m}")));
        }
        file.sync_all().map_err(failed)
    }

    fn url(&self, id: &ModelId, commit: &str, name: &str) -> String {
        format!("{}/{}/resolve/{commit}/{}", self.endpoint, id.name, encoded(name, "/"))
    }

    /// Sends a request for the bytes from `first` on and follows redirects. The token goes to the hub alone. A HEAD request
    /// ends where the hub says what it knows of a file.
    fn request(&self, method: Method, url: &str, first: u64) -> Result<Response<Body>, Failure> {
        let mut url = url.to_owned();
        for _ in 0..HOPS {
            let mut request = match method {
                Method::Get => self.agent.get(&url),
                Method::Head => self.agent.head(&url),
            };
            // Compressed, a file has another length.
            request = request.header("Accept-Encoding", "identity");
            if let Some(token) = self.token.as_ref().filter(|_| origin(&url) == origin(&self.endpoint)) {
                request = request.header("Authorization", format!("Bearer {token}"));
            }
            if first > 0 {
                request = request.header("Range", format!("bytes={first}-"));
            }
            let response = request.call().map_err(|e| {
                let host = origin(&url).unwrap_or_else(|| url.clone());
                broken(&format!("{host} cannot be reached"), &e, false)
            })?;
            let location = header(&response, "location").filter(|_| response.status().is_redirection());
            match location {
                Some(_) if matches!(method, Method::Head) && header(&response, "x-linked-etag").is_some() => {
                    return Ok(response);
                }
                Some(path) if path.starts_with('/') && !path.starts_with("//") => {
                    url = format!("{}{path}", origin(&url).unwrap_or_default());
                }
                Some(absolute) => url = absolute.to_owned(),
                None => return Ok(response),
            }
        }
        let host = origin(&url).unwrap_or_default();
        Err(Error::Io(format!("{host}: expected at most {HOPS} redirects, found more")).into())
    }

    /// The response of a hub that has what was asked for: of `id` the file `name`, or the listing.
    fn answer(&self, response: Response<Body>, id: &ModelId, name: Option<&str>) -> Result<Response<Body>, Failure> {
        let status = response.status().as_u16();
        let (endpoint, model) = (&self.endpoint, &id.name);
        let what = match (header(&response, "x-error-code").unwrap_or_default(), status) {
            (_, 200..=399) => return Ok(response),
            (_, 408 | 425 | 429 | 500 | 502..) => {
                let wait = header(&response, "retry-after").and_then(|s| s.parse().ok()).map(Duration::from_secs);
                let reason = format!("the hub at {endpoint} answered with HTTP status {status}: try again later");
                return Err(Failure::Unreachable { reason, wait, advanced: false });
            }
            ("GatedRepo", _) => {
                format!(
                    "the model is gated: accept its terms at {endpoint}/{model} and set HF_TOKEN to a token of that account"
                )
            }
            ("RevisionNotFound", _) => format!("the model has no revision {}", id.revision),
            ("EntryNotFound", _) => format!("the model has no file {}", name.unwrap_or_default()),
            (code, 401 | 403 | 404) if code == "RepoNotFound" || name.is_none() => {
                let token = match &self.token {
                    None => "set HF_TOKEN to a token that may read it",
                    Some(_) => "see that the token of HF_TOKEN may read it",
                };
                format!(
                    "no such folder, and the hub at {endpoint} has no such model, or it is private: check the id, or {token}"
                )
            }
            _ => {
                let what = name.unwrap_or("the list of files");
                format!("the hub at {endpoint} answered with HTTP status {status} for {what}")
            }
        };
        Err(Error::Io(format!("{id}: {what}")).into())
    }
}

#[derive(Clone, Copy)]
enum Method {
    Get,
    Head,
}

/// Tries again what cannot be reached, `tries` times in a row at most without a byte.
fn retry<T>(tries: u32, mut attempt: impl FnMut() -> Result<T, Failure>) -> Result<T, Failure> {
    let mut failures = 0;
    loop {
        match attempt() {
            Err(Failure::Unreachable { reason, wait, advanced }) => {
                failures = if advanced { 1 } else { failures + 1 };
                let wait = wait.unwrap_or_default().max(WAIT * 2_u32.pow(failures - 1));
                if failures >= tries || wait > PATIENCE {
                    return Err(Failure::Unreachable { reason, wait: Some(wait), advanced });
                }
                sleep(wait);
            }
            other => return other,
        }
    }
}

fn broken(what: &str, e: &dyn Display, advanced: bool) -> Failure {
    Failure::Unreachable { reason: format!("{what}: {e}"), wait: None, advanced }
}

fn header<'a>(response: &'a Response<Body>, name: &str) -> Option<&'a str> {
    response.headers().get(name)?.to_str().ok()
}

/// The scheme and host of an address, with its port.
fn origin(url: &str) -> Option<String> {
    let uri: Uri = url.parse().ok()?;
    Some(format!("{}://{}", uri.scheme()?, uri.authority()?))
}

/// A text as part of an address: all but letters, digits, `-_.~` and what `kept` holds is written as `%XX`.
fn encoded(text: &str, kept: &str) -> String {
    let is_kept = |b: u8| b.is_ascii_alphanumeric() || b"-_.~".contains(&b) || kept.as_bytes().contains(&b);
    text.bytes().map(|b| if is_kept(b) { char::from(b).to_string() } else { format!("%{b:02X}") }).collect()
}
