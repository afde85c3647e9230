//! Models by id, from a local server with the hub's addresses, redirects and headers.

mod common;

use std::collections::BTreeMap;
use std::io::{BufRead, BufReader, Write};
use std::net::{TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::sync::{Arc, Mutex};
use std::thread::{sleep, spawn};
use std::time::Duration;

use consistency_sampler::{Device, Pipeline};
use serde_json::json;
use sha2::{Digest, Sha256};

use common::goldens;

const WEIGHTS: &str = "unet/diffusion_pytorch_model.safetensors";
const HALF: &str = "unet/diffusion_pytorch_model.fp16.safetensors";
const FIRST: &str = "1111111111111111111111111111111111111111";
const SECOND: &str = "2222222222222222222222222222222222222222";
const TOKEN: &str = "hf_good";

type Files = BTreeMap<String, Vec<u8>>;

/// What the server has, does and was asked for.
#[derive(Default)]
struct State {
    /// By `owner/name`, then by revision: the commit and its files.
    models: BTreeMap<String, BTreeMap<String, (String, Files)>>,
    /// Models of which the files are given with the token alone.
    gated: Vec<String>,
    /// Old names.
    renamed: BTreeMap<String, String>,
    /// For each of the next requests for large files, after how many bytes the connection is cut.
    cuts: Vec<usize>,
    /// After how many bytes of a large file nothing comes any more.
    stalls: Option<usize>,
    /// Large files come whole, whatever part is asked for.
    is_without_ranges: bool,
    /// Large files come with their last byte changed.
    is_spoilt: bool,
    /// The hub answers 503.
    is_down: bool,
    asked: Vec<Asked>,
}

#[derive(Debug, Clone, PartialEq)]
struct Asked {
    line: String,
    /// Whether it was the host of the large files.
    is_store: bool,
    token: Option<String>,
    range: Option<String>,
}

/// A hub, and another host for its large files.
struct Hub {
    endpoint: String,
    state: Arc<Mutex<State>>,
}

impl Hub {
    fn new() -> Self {
        let state: Arc<Mutex<State>> = Arc::default();
        let [hub, store] = [(), ()].map(|()| TcpListener::bind("127.0.0.1:0").unwrap());
        let [endpoint, store_address] = [&hub, &store].map(|l| format!("http://{}", l.local_addr().unwrap()));
        for (listener, is_store) in [(hub, false), (store, true)] {
            let (state, store) = (Arc::clone(&state), store_address.clone());
            spawn(move || {
                for stream in listener.incoming().flatten() {
                    let (state, store) = (Arc::clone(&state), store.clone());
                    spawn(move || answer(&state, &stream, is_store, &store));
                }
            });
        }
        Self { endpoint, state }
    }

    /// A hub with the files of a golden checkpoint as `owner/model`.
    fn with(files: &Files) -> Self {
        let hub = Self::new();
        hub.publish("owner/model", "main", FIRST, files);
        hub
    }

    fn publish(&self, name: &str, revision: &str, commit: &str, files: &Files) {
        let mut state = self.state.lock().unwrap();
        let revisions = state.models.entry(name.to_owned()).or_default();
        for revision in [revision, commit] {
            revisions.insert(revision.to_owned(), (commit.to_owned(), files.clone()));
        }
    }

    fn set(&self, change: impl FnOnce(&mut State)) {
        change(&mut self.state.lock().unwrap());
    }

    /// What was asked since the last call.
    fn asked(&self) -> Vec<Asked> {
        std::mem::take(&mut self.state.lock().unwrap().asked)
    }

    /// The requests for large files' bytes since the last call.
    fn large(&self) -> Vec<Asked> {
        self.asked().into_iter().filter(|asked| asked.is_store).collect()
    }
}

fn answer(state: &Mutex<State>, mut stream: &TcpStream, is_store: bool, store: &str) {
    let mut lines = BufReader::new(stream).lines().map_while(Result::ok);
    let Some(first) = lines.next() else { return };
    let headers: Vec<(String, String)> = lines
        .take_while(|line| !line.is_empty())
        .filter_map(|line| line.split_once(": ").map(|(name, value)| (name.to_ascii_lowercase(), value.to_owned())))
        .collect();
    let header = |name: &str| headers.iter().find(|(n, _)| n == name).map(|(_, value)| value.clone());
    let line = first.trim_end_matches(" HTTP/1.1").to_owned();
    let (method, path) = line.split_once(' ').unwrap();
    let (token, range) = (header("authorization"), header("range"));
    let has_token = token.as_deref() == Some(&format!("Bearer {TOKEN}"));

    let mut guard = state.lock().unwrap();
    let asked = Asked { line: line.clone(), is_store, token, range: range.clone() };
    guard.asked.push(asked);
    let (status, mut fields, body, end) = match is_store {
        true => guard.large(path, range.as_deref()),
        false => guard.small(path, has_token, store),
    };
    drop(guard);
    fields.push(format!("Content-Length: {}", body.len()));
    let head = format!("HTTP/1.1 {status} Status\r\nConnection: close\r\n{}\r\n\r\n", fields.join("\r\n"));
    let _ = stream.write_all(head.as_bytes());
    if method == "GET" {
        let sent = match end {
            End::Whole => body.len(),
            End::Cut(bytes) | End::Stall(bytes) => bytes.min(body.len()),
        };
        let _ = stream.write_all(&body[..sent]);
        if matches!(end, End::Stall(_)) {
            sleep(Duration::from_secs(60));
        }
    }
}

enum End {
    Whole,
    Cut(usize),
    Stall(usize),
}

type Response = (u16, Vec<String>, Vec<u8>, End);

fn refuse(status: u16, code: &str) -> Response {
    (status, vec![format!("X-Error-Code: {code}")], b"no".to_vec(), End::Whole)
}

fn sha256(bytes: &[u8]) -> String {
    format!("{:x}", Sha256::digest(bytes))
}

impl State {
    /// What the hub itself answers.
    fn small(&self, path: &str, has_token: bool, store: &str) -> Response {
        if self.is_down {
            return (503, vec!["Retry-After: 60".to_owned()], Vec::new(), End::Whole);
        }
        let parts: Vec<&str> = path.trim_start_matches("/api/models").trim_start_matches('/').splitn(5, '/').collect();
        let &[owner, name, kind, revision, ..] = parts.as_slice() else { return refuse(404, "") };
        let model = format!("{owner}/{name}");
        if let Some(new) = self.renamed.get(&model) {
            return (307, vec![format!("Location: {}", path.replace(&model, new))], Vec::new(), End::Whole);
        }
        let Some(revisions) = self.models.get(&model) else {
            return refuse(if has_token { 404 } else { 401 }, "RepoNotFound");
        };
        let Some((commit, files)) = revisions.get(&revision.replace("%2F", "/")) else {
            return refuse(404, "RevisionNotFound");
        };
        if kind == "revision" {
            let names: Vec<_> = files.keys().map(|name| json!({ "rfilename": name })).collect();
            let body = json!({ "id": model, "sha": commit, "siblings": names }).to_string();
            return (200, vec!["Content-Type: application/json".to_owned()], body.into_bytes(), End::Whole);
        }
        if self.gated.contains(&model) && !has_token {
            return refuse(401, "GatedRepo");
        }
        let Some(bytes) = parts.get(4).and_then(|name| files.get(*name)) else { return refuse(404, "EntryNotFound") };
        let hash = sha256(bytes);
        let mut fields = vec![format!("X-Repo-Commit: {commit}")];
        if parts[4].ends_with(".safetensors") {
            fields.push(format!("X-Linked-Etag: \"{hash}\""));
            fields.push(format!("X-Linked-Size: {}", bytes.len()));
            fields.push(format!("Location: {store}/{model}/{commit}/{}?signature=abc", parts[4]));
            return (302, fields, b"Found".to_vec(), End::Whole);
        }
        fields.push(format!("ETag: \"{}\"", &hash[..40])); // the hub gives the SHA-1 of git
        (200, fields, bytes.clone(), End::Whole)
    }

    /// What the other host answers.
    fn large(&mut self, path: &str, range: Option<&str>) -> Response {
        let path = path.trim_end_matches("?signature=abc");
        let parts: Vec<&str> = path.trim_start_matches('/').splitn(4, '/').collect();
        let mut bytes = self.models[&format!("{}/{}", parts[0], parts[1])][parts[2]].1[parts[3]].clone();
        if self.is_spoilt {
            *bytes.last_mut().unwrap() ^= 1;
        }
        let end = match (self.stalls, self.cuts.is_empty()) {
            (Some(bytes), _) => End::Stall(bytes),
            (None, false) => End::Cut(self.cuts.remove(0)),
            (None, true) => End::Whole,
        };
        match range
            .filter(|_| !self.is_without_ranges)
            .and_then(|r| r.strip_prefix("bytes=")?.strip_suffix('-')?.parse::<usize>().ok())
        {
            Some(from) => {
                let range = format!("Content-Range: bytes {from}-{}/{}", bytes.len() - 1, bytes.len());
                (206, vec![range], bytes.split_off(from), end)
            }
            None => (200, Vec::new(), bytes, end),
        }
    }
}

/// The files of a golden checkpoint that make the model.
fn checkpoint(name: &str) -> Files {
    let folder = goldens().join(name);
    let mut files = Files::new();
    for part in ["", "unet", "scheduler"] {
        for entry in std::fs::read_dir(folder.join(part)).unwrap().map(|e| e.unwrap()) {
            let path = Path::new(part).join(entry.file_name()).to_str().unwrap().replace('\\', "/");
            if entry.file_type().unwrap().is_file() && !path.starts_with("goldens") {
                files.insert(path, std::fs::read(entry.path()).unwrap());
            }
        }
    }
    files
}

/// A person's folder, with the cache `home/hub` in it.
struct Person {
    folder: PathBuf,
    endpoint: String,
}

impl Person {
    fn new(test: &str, hub: &Hub) -> Self {
        let folder = Path::new(env!("CARGO_TARGET_TMPDIR")).join(format!("hub-{test}"));
        let _ = std::fs::remove_dir_all(&folder);
        std::fs::create_dir_all(&folder).unwrap();
        Self { folder, endpoint: hub.endpoint.clone() }
    }

    /// The command line, in the folder and with none of this machine's settings.
    fn command(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_consistency-sampler"));
        for name in ["HF_TOKEN", "HF_TOKEN_PATH", "HF_HUB_CACHE", "HUGGINGFACE_HUB_CACHE", "HF_HUB_OFFLINE"] {
            command.env_remove(name);
        }
        for name in ["HTTP_PROXY", "http_proxy", "ALL_PROXY", "all_proxy", "HTTPS_PROXY", "https_proxy"] {
            command.env_remove(name);
        }
        command.current_dir(&self.folder).env("HF_HOME", self.folder.join("home")).env("HF_ENDPOINT", &self.endpoint);
        command.args(arguments).stdout(Stdio::piped()).stderr(Stdio::piped());
        command
    }

    fn sample(&self, model: &str, more: &[&str]) -> Command {
        self.sample_to("out.safetensors", model, more)
    }

    fn sample_to(&self, output: &str, model: &str, more: &[&str]) -> Command {
        let fixed = ["sample", "--device", "cpu", "--seed", "1", "--output", output, "--model", model];
        self.command(&[&fixed[..], more].concat())
    }

    /// The samples of a model, whose file is removed.
    fn samples(&self, model: &str, more: &[&str]) -> Vec<u8> {
        succeed(self.sample(model, more));
        let file = self.folder.join("out.safetensors");
        let bytes = std::fs::read(&file).unwrap();
        std::fs::remove_file(file).unwrap();
        bytes
    }

    fn refused(&self, model: &str, more: &[&str]) -> String {
        fail(self.sample(model, more)).replace(&self.endpoint, "HUB").replace(self.folder.to_str().unwrap(), "DIR")
    }

    /// The names of the blobs.
    fn blobs(&self) -> Vec<String> {
        let folder = self.folder.join("home/hub/models--owner--model/blobs");
        let mut names: Vec<_> = std::fs::read_dir(folder)
            .map(|entries| entries.map(|e| e.unwrap().file_name().into_string().unwrap()).collect())
            .unwrap_or_default();
        names.sort();
        names
    }
}

fn succeed(mut command: Command) -> String {
    let Output { status, stderr, .. } = command.output().unwrap();
    let stderr = String::from_utf8(stderr).unwrap();
    assert!(status.success(), "{stderr}");
    stderr
}

fn fail(mut command: Command) -> String {
    let output = command.output().unwrap();
    let stderr = String::from_utf8(output.stderr).unwrap();
    assert!(!output.status.success(), "succeeded: {stderr}");
    let lines: Vec<&str> = stderr.lines().filter_map(|line| line.strip_prefix("error: ")).collect();
    let &[line] = lines.as_slice() else { panic!("expected one line of error, found {stderr:?}") };
    line.to_owned()
}

#[test]
fn a_model_by_id_is_downloaded_once_and_then_found_online_and_offline() {
    let files = checkpoint("mnist-shape");
    let hub = Hub::with(&files);
    let person = Person::new("once", &hub);
    let expected = person.samples(goldens().join("mnist-shape").to_str().unwrap(), &[]);
    assert_eq!(hub.asked(), []);

    assert_eq!(
        person.refused("owner/model", &["--offline"]),
        "owner/model: not in the cache DIR/home/hub, nor a folder: run it once without --offline or HF_HUB_OFFLINE"
    );
    assert_eq!(hub.asked(), []);

    assert!(person.samples("owner/model", &[]) == expected);
    assert_eq!(hub.large().len(), 1);
    // The layout of huggingface_hub.
    let repository = person.folder.join("home/hub/models--owner--model");
    assert_eq!(std::fs::read_to_string(repository.join("refs/main")).unwrap(), FIRST);
    let hash = sha256(&files[WEIGHTS]);
    assert!(std::fs::read(repository.join("blobs").join(&hash)).unwrap() == files[WEIGHTS]);
    for (name, bytes) in &files {
        assert!(std::fs::read(repository.join("snapshots").join(FIRST).join(name)).unwrap() == *bytes, "{name}");
    }
    #[cfg(unix)]
    assert_eq!(
        std::fs::read_link(repository.join("snapshots").join(FIRST).join(WEIGHTS)).unwrap(),
        Path::new("../../../blobs").join(&hash)
    );
    assert_eq!(person.blobs().len(), files.len());

    // Online one request asks which commit it is, offline none does.
    assert!(person.samples("owner/model", &[]) == expected);
    let lines: Vec<String> = hub.asked().into_iter().map(|asked| asked.line).collect();
    assert_eq!(lines, ["GET /api/models/owner/model/revision/main"]);
    assert!(person.samples("owner/model", &["--offline"]) == expected);
    let mut offline = person.sample("owner/model", &[]);
    offline.env("HF_HUB_OFFLINE", "1");
    succeed(offline);
    // A commit never changes.
    assert!(person.samples(&format!("owner/model@{FIRST}"), &[]) == expected);
    assert_eq!(hub.asked(), []);

    // A hub that cannot be had does not matter then, and is an error for another model.
    hub.set(|state| state.is_down = true);
    let said = succeed(person.sample("owner/model", &[]));
    assert!(said.contains("answered with HTTP status 503: try again later; the copy in the cache is used"), "{said}");
    let refused = person.refused("owner/other", &[]);
    assert_eq!(
        refused,
        "owner/other: no such folder, and the hub at HUB answered with HTTP status 503: try again later"
    );

    // Nothing is asked of a hub for a folder, from Rust either.
    let model = goldens().join("mnist-shape");
    assert_eq!(Pipeline::from_pretrained(model, Device::Cpu).unwrap().unet().in_channels, 1);

    // A folder with that path wins.
    std::fs::create_dir_all(person.folder.join("owner/model")).unwrap();
    assert_eq!(person.refused("owner/model", &[]), "owner/model/model_index.json: no such file");
    let neither = person.refused("owner/model/unet", &[]);
    let expected =
        "expected a model folder in the diffusers layout, or an id such as owner/name or owner/name@revision";
    assert_eq!(neither, format!("owner/model/unet: {expected}, found neither"));
}

#[test]
fn a_revision_is_one_of_its_own_and_main_is_followed() {
    let (old, new) = (checkpoint("no-mid"), checkpoint("mnist-shape"));
    let hub = Hub::with(&old);
    hub.publish("owner/model", "refs/pr/1", SECOND, &new);
    let person = Person::new("revision", &hub);
    let [of_old, of_new] = ["no-mid", "mnist-shape"].map(|m| person.samples(goldens().join(m).to_str().unwrap(), &[]));
    assert!(person.samples("owner/model", &[]) == of_old);
    assert!(person.samples("owner/model@refs/pr/1", &[]) == of_new);
    assert!(person.samples("owner/model@refs/pr/1", &["--offline"]) == of_new);
    assert_eq!(person.refused("owner/model@v2", &[]), "owner/model@v2: the model has no revision v2");
    hub.asked();
    hub.publish("owner/model", "main", SECOND, &new);
    assert!(person.samples("owner/model", &["--offline"]) == of_old);
    assert!(person.samples("owner/model", &[]) == of_new);
    assert_eq!(hub.large(), [], "the content is there");
    hub.set(|state| {
        state.renamed.insert("owner/before".to_owned(), "owner/model".to_owned());
    });
    assert!(person.samples("owner/before", &[]) == of_new);
}

#[test]
fn half_precision_is_downloaded_unless_another_is_asked_for_or_there() {
    let mut files = checkpoint("mnist-shape");
    let hub = Hub::new();
    let person = Person::new("half", &hub);
    let source = goldens().join("mnist-shape");
    let source = source.to_str().unwrap();
    succeed(person.command(&[
        "convert",
        "--model",
        source,
        "--precision",
        "f16",
        "--samples",
        "0",
        "--output",
        "half",
    ]));
    files.insert(HALF.to_owned(), std::fs::read(person.folder.join("half").join(HALF)).unwrap());
    hub.publish("owner/model", "main", FIRST, &files);
    let [single, half] = [source, "half"].map(|model| person.samples(model, &[]));
    assert!(single != half);

    let asked_for = |name: &str| {
        let large = hub.large();
        large.len() == 1 && large[0].line.contains(&format!("{FIRST}/{name}?"))
    };
    assert!(person.samples("owner/model", &[]) == half);
    assert!(asked_for(HALF));
    assert!(person.samples("owner/model", &["--precision", "f32"]) == single);
    assert!(asked_for(WEIGHTS));
    for (options, expected) in [(&[][..], &half), (&["--precision", "f16"], &half), (&["--precision", "f32"], &single)]
    {
        assert!(person.samples("owner/model", options) == *expected);
        assert!(person.samples("owner/model", &[options, &["--offline"]].concat()) == *expected);
    }
    assert_eq!(hub.large(), []);

    // The cache has single precision alone, as diffusers leaves it.
    let other = Person::new("half-other", &hub);
    assert!(other.samples("owner/model", &["--precision", "f32"]) == single);
    assert!(asked_for(WEIGHTS));
    assert!(other.samples("owner/model", &[]) == single);
    assert_eq!(hub.large(), []);
    assert!(other.samples("owner/model", &["--precision", "f16"]) == half);
    assert!(asked_for(HALF));

    // A folder with both is read in single precision unless half is asked for.
    std::fs::write(person.folder.join("half").join(WEIGHTS), &files[WEIGHTS]).unwrap();
    assert!(person.samples("half", &[]) == single);
    assert!(person.samples("half", &["--precision", "f16"]) == half);

    // Convert reads full precision.
    succeed(other.command(&[
        "convert",
        "--model",
        "owner/model",
        "--precision",
        "int8",
        "--samples",
        "0",
        "--output",
        "int8",
    ]));
    assert_eq!(hub.large(), []);
}

#[test]
fn weights_in_several_files_and_other_commands() {
    let hub = Hub::with(&checkpoint("sharded"));
    let person = Person::new("sharded", &hub);
    let folder = goldens().join("sharded");
    let expected = person.samples(folder.to_str().unwrap(), &[]);
    assert!(person.samples("owner/model", &[]) == expected);
    assert_eq!(hub.large().len(), 2);
    assert!(person.samples("owner/model", &["--offline"]) == expected);
    // With one of them missing it is not whole.
    let part = "unet/diffusion_pytorch_model-00002-of-00002.safetensors";
    std::fs::remove_file(person.folder.join("home/hub/models--owner--model/snapshots").join(FIRST).join(part)).unwrap();
    assert!(person.refused("owner/model", &["--offline"]).contains("not in the cache"));
    assert!(person.samples("owner/model", &[]) == expected);
    assert_eq!(hub.large(), []);

    succeed(person.sample_to("picture.png", "owner/model", &[]));
    let options = ["--kind", "denoise", "--sigma", "1", "--input", "picture.png", "--output", "edited.png"];
    let model = ["edit", "--device", "cpu", "--offline", "--model", "owner/model"];
    succeed(person.command(&[&model[..], &options].concat()));
}

#[test]
fn a_cut_connection_is_resumed_and_a_stopped_download_too() {
    let files = checkpoint("mnist-shape");
    let length = files[WEIGHTS].len();
    let hub = Hub::with(&files);
    let person = Person::new("cut", &hub);
    let ranges = || hub.large().into_iter().map(|asked| asked.range).collect::<Vec<_>>();
    hub.set(|state| state.cuts = vec![length / 2, 0, 100]);
    person.samples("owner/model", &[]);
    let range = |first: usize| Some(format!("bytes={first}-"));
    assert_eq!(ranges(), [None, range(length / 2), range(length / 2), range(length / 2 + 100)]);
    // A server without ranges starts anew.
    let other = Person::new("cut-other", &hub);
    hub.set(|state| (state.cuts, state.is_without_ranges) = (vec![length / 2], true));
    other.samples("owner/model", &[]);
    assert_eq!(ranges(), [None, range(length / 2)]);
    hub.set(|state| state.is_without_ranges = false);

    let stopped = Person::new("stopped", &hub);
    hub.set(|state| state.stalls = Some(length / 3));
    let mut child: Child = stopped.sample("owner/model", &[]).spawn().unwrap();
    let incomplete = format!("{}.incomplete", sha256(&files[WEIGHTS]));
    let path = stopped.folder.join("home/hub/models--owner--model/blobs").join(&incomplete);
    while path.metadata().map_or(0, |m| m.len()) < length as u64 / 3 {
        assert!(child.try_wait().unwrap().is_none(), "ended early");
        sleep(Duration::from_millis(20));
    }
    child.kill().unwrap();
    child.wait().unwrap();
    hub.set(|state| state.stalls = None);
    hub.asked();
    stopped.samples("owner/model", &[]);
    assert_eq!(ranges(), [range(length / 3)]);
    assert!(!path.exists());
}

#[test]
fn what_differs_from_what_the_hub_says_is_not_kept() {
    let files = checkpoint("mnist-shape");
    let hub = Hub::with(&files);
    let person = Person::new("spoilt", &hub);
    hub.set(|state| state.is_spoilt = true);
    let refused = person.refused("owner/model", &[]);
    let hash = sha256(&files[WEIGHTS]);
    assert!(refused.starts_with(&format!("owner/model: {WEIGHTS}: expected SHA-256 {hash}, found ")), "{refused}");
    assert!(!person.blobs().iter().any(|name| name.contains(&hash)), "{:?}", person.blobs());
    assert!(person.refused("owner/model", &["--offline"]).contains("not in the cache"));

    // What was there of it before is longer than it can be.
    let incomplete = person.folder.join(format!("home/hub/models--owner--model/blobs/{hash}.incomplete"));
    std::fs::write(incomplete, vec![0; files[WEIGHTS].len() + 1]).unwrap();
    hub.set(|state| state.is_spoilt = false);
    person.samples("owner/model", &[]);
}

#[test]
fn a_model_that_is_not_to_be_had_is_an_error_that_says_what_to_do() {
    let files = checkpoint("mnist-shape");
    let hub = Hub::with(&files);
    hub.set(|state| state.gated.push("owner/model".to_owned()));
    let person = Person::new("refused", &hub);
    assert_eq!(
        person.refused("owner/model", &[]),
        "owner/model: the model is gated: accept its terms at HUB/owner/model and set HF_TOKEN to a token of that account"
    );
    assert_eq!(
        person.refused("owner/none", &[]),
        "owner/none: no such folder, and the hub at HUB has no such model, or it is private: \
         check the id, or set HF_TOKEN to a token that may read it"
    );
    let with_token = |model: &str, token: &str| {
        let mut command = person.sample(model, &[]);
        command.env("HF_TOKEN", token);
        command
    };
    assert!(fail(with_token("owner/none", TOKEN)).ends_with("see that the token of HF_TOKEN may read it"));
    assert!(fail(with_token("owner/model", "hf_bad")).contains("the model is gated"));
    assert_eq!(hub.large(), []);

    succeed(with_token("owner/model", TOKEN));
    let asked = hub.asked();
    let is_sent = |asked: &Asked| asked.token.as_deref() == Some(&format!("Bearer {TOKEN}"));
    assert!(asked.iter().filter(|asked| !asked.is_store).all(is_sent), "{asked:?}");
    let large: Vec<&Asked> = asked.iter().filter(|asked| asked.is_store).collect();
    assert!(large.len() == 1 && large[0].token.is_none(), "{large:?}");

    // A login leaves the token in a file.
    let other = Person::new("refused-other", &hub);
    std::fs::create_dir_all(other.folder.join("home")).unwrap();
    std::fs::write(other.folder.join("home/token"), format!("{TOKEN}\n")).unwrap();
    other.samples("owner/model", &[]);
    assert!(hub.asked().iter().all(|asked| asked.is_store != is_sent(asked)));

    let without = |name: &str| {
        let mut files = checkpoint("mnist-shape");
        let bytes = files.remove(name).unwrap();
        (files, bytes)
    };
    hub.publish("owner/other", "main", FIRST, &without("model_index.json").0);
    assert_eq!(other.refused("owner/other", &[]), "owner/other: the model has no file model_index.json");
    let (mut pickled, bytes) = without(WEIGHTS);
    pickled.insert("unet/diffusion_pytorch_model.bin".to_owned(), bytes);
    hub.publish("owner/pickled", "main", FIRST, &pickled);
    let refused = other.refused("owner/pickled", &[]);
    assert!(refused.contains("is a pickle, which is not read: convert it by tools/convert_checkpoint.py"), "{refused}");
}

#[test]
fn two_processes_download_a_model_once() {
    let hub = Hub::with(&checkpoint("mnist-shape"));
    let person = Person::new("two", &hub);
    let outputs = ["a.png", "b.png", "c.png"];
    let children: Vec<Child> =
        outputs.iter().map(|output| person.sample_to(output, "owner/model", &[]).spawn().unwrap()).collect();
    for child in children {
        let output = child.wait_with_output().unwrap();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    }
    assert_eq!(hub.large().len(), 1);
    let read = |name: &str| std::fs::read(person.folder.join(name)).unwrap();
    assert!(outputs.iter().all(|output| read(output) == read("a.png")));
}
