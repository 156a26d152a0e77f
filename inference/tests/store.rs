//! The store of models: what is pulled, kept, shown, verified and removed, and what is refused.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::arithmetic_side_effects,
    clippy::panic
)]

mod support;

use std::collections::BTreeMap;
use std::io::{BufRead, BufReader, Write};
use std::net::TcpListener;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use cocoon_inference::checkpoint::Checkpoint;
use cocoon_inference::store::{
    Contents, Hub, ModelName, Progress, Pull, Pulled, Source, Store, StoreError,
};
use cocoon_protocol::Digest;
use support::tiny;

/// An empty store and a model beside it.
struct World {
    directory: tempfile::TempDir,
    store: Store,
}

impl World {
    fn new() -> Self {
        let directory = tempfile::tempdir().unwrap();
        let store = Store::at(directory.path().join("models"));
        Self { directory, store }
    }

    /// A model file outside the store.
    fn model(&self, name: &str) -> PathBuf {
        let path = self.directory.path().join(name);
        std::fs::write(&path, tiny::model().bytes().0).unwrap();
        path
    }

    fn pull(&self, source: &str) -> Result<Pulled, StoreError> {
        self.pull_with(source, |_| {}, &Hub::at("http://127.0.0.1:1", None))
    }

    fn pull_with(
        &self,
        source: &str,
        change: impl Fn(&mut Pull),
        hub: &Hub,
    ) -> Result<Pulled, StoreError> {
        let mut pull = Pull {
            source: Source::parse(source).unwrap(),
            name: None,
            digest: None,
            link: false,
        };
        change(&mut pull);
        self.store.pull(&pull, hub, &mut |_| {})
    }

    /// Names of everything in the store's folder.
    fn files(&self) -> Vec<String> {
        let Ok(entries) = std::fs::read_dir(self.store.root()) else {
            return vec![];
        };
        let mut names: Vec<_> = entries
            .map(|entry| entry.unwrap().file_name().into_string().unwrap())
            .collect();
        names.sort();
        names
    }
}

fn text(path: &Path) -> String {
    path.to_str().unwrap().to_owned()
}

fn spoil(path: &Path) {
    let mut bytes = std::fs::read(path).unwrap();
    let last = bytes.len() - 100;
    bytes[last] ^= 1;
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o644)).unwrap();
    std::fs::write(path, bytes).unwrap();
}

#[test]
fn a_file_is_copied_recorded_protected_and_found_by_name() {
    let world = World::new();
    let path = world.model("Tiny.Q4.gguf");
    let mut told = vec![];
    let pull = Pull {
        source: Source::Path(path.clone()),
        name: None,
        digest: None,
        link: false,
    };
    let hub = Hub::at("http://127.0.0.1:1", None);
    let pulled = world
        .store
        .pull(&pull, &hub, &mut |p: Progress<'_>| {
            told.push((p.doing, p.done, p.total))
        })
        .unwrap();
    assert_eq!(world.files(), ["Tiny.Q4.gguf", "Tiny.Q4.toml"]);
    let size = std::fs::metadata(&path).unwrap().len();
    assert!(told.contains(&("copying", size, size)) && told.contains(&("checking", size, size)));

    let [entry] = world.store.list().unwrap().try_into().unwrap();
    assert_eq!((entry.name.as_str(), entry.bytes), ("Tiny.Q4", size));
    let record = entry.record.unwrap();
    assert_eq!(
        record.digest,
        Digest::sha256(&std::fs::read(&path).unwrap())
    );
    assert_eq!((record.digest, record.bytes), (pulled.digest, size));
    assert_eq!(record.source, text(&std::fs::canonicalize(&path).unwrap()));
    assert!(record.pulled.ends_with('Z'));
    let mode = std::fs::metadata(&entry.path).unwrap().permissions().mode();
    assert_eq!(mode & 0o777, 0o444);
    // With and without its ending.
    assert_eq!(world.store.get("Tiny.Q4.gguf").unwrap().name, "Tiny.Q4");
    assert_eq!(
        world.store.verify("Tiny.Q4", &mut |_| {}).unwrap().digest,
        pulled.digest
    );
}

#[test]
fn pulling_again_changes_nothing_and_another_model_is_not_overwritten() {
    let world = World::new();
    let path = text(&world.model("a.gguf"));
    assert!(!world.pull(&path).unwrap().already_there);
    assert!(world.pull(&path).unwrap().already_there);
    let mut other = tiny::model();
    other.set("general.name", tiny::text("another"));
    std::fs::write(&path, other.bytes().0).unwrap();
    assert!(matches!(world.pull(&path), Err(StoreError::Taken { .. })));
    let second = world
        .pull_with(
            &path,
            |pull| pull.name = Some(ModelName::new("b").unwrap()),
            &Hub::at("", None),
        )
        .unwrap();
    assert_eq!(second.entry.name, "b");
    assert_eq!(world.files(), ["a.gguf", "a.toml", "b.gguf", "b.toml"]);
}

#[test]
fn one_changed_byte_is_found() {
    let world = World::new();
    let pulled = world.pull(&text(&world.model("a.gguf"))).unwrap();
    spoil(&pulled.entry.path);
    match world.store.verify("a", &mut |_| {}) {
        Err(StoreError::Digest {
            what,
            wanted,
            found,
        }) => {
            assert_eq!((what.as_str(), wanted), ("a", pulled.digest.to_string()));
            assert_ne!(found, pulled.digest.to_string());
        }
        other => panic!("{other:?}"),
    }
}

#[test]
fn a_digest_that_was_asked_for_is_insisted_on() {
    let world = World::new();
    let path = text(&world.model("a.gguf"));
    let hub = Hub::at("", None);
    let wrong = world.pull_with(&path, |pull| pull.digest = Some(Digest::sha256(b"")), &hub);
    assert!(matches!(wrong, Err(StoreError::Digest { .. })), "{wrong:?}");
    assert_eq!(world.files(), [""; 0], "nothing is left behind");
    let right = Digest::sha256(&std::fs::read(&path).unwrap());
    world
        .pull_with(&path, |pull| pull.digest = Some(right), &hub)
        .unwrap();
}

#[test]
fn what_is_no_model_is_refused_and_nothing_is_left_behind() {
    let world = World::new();
    let path = world.directory.path().join("x.gguf");
    for bytes in [&b""[..], b"GGUF", b"MZ\x90\0", &[0; 4096]] {
        std::fs::write(&path, bytes).unwrap();
        let refused = world.pull(&text(&path));
        assert!(matches!(refused, Err(StoreError::Model(_))), "{refused:?}");
    }
    assert!(matches!(
        world.pull("/no/such/file"),
        Err(StoreError::Io { .. })
    ));
    assert_eq!(world.files(), [""; 0]);
}

#[test]
fn names_that_lead_elsewhere_are_refused() {
    let world = World::new();
    world.pull(&text(&world.model("a.gguf"))).unwrap();
    let secret = world.directory.path().join("secret.gguf");
    std::fs::write(&secret, "s").unwrap();
    for name in [
        "../secret",
        "..",
        "/etc/passwd",
        "a/../../secret",
        ".pull-x",
        "",
    ] {
        assert!(
            matches!(world.store.get(name), Err(StoreError::Name { .. })),
            "{name}"
        );
        assert!(
            matches!(world.store.remove(name), Err(StoreError::Name { .. })),
            "{name}"
        );
        assert!(
            matches!(
                world.store.verify(name, &mut |_| {}),
                Err(StoreError::Name { .. })
            ),
            "{name}"
        );
    }
    assert!(secret.exists());
}

#[test]
fn an_unknown_name_is_told_with_those_that_are_known() {
    let world = World::new();
    world.pull(&text(&world.model("a.gguf"))).unwrap();
    match world.store.get("b") {
        Err(StoreError::Unknown { name, known, .. }) => {
            assert_eq!((name.as_str(), known), ("b", vec!["a".to_owned()]));
        }
        other => panic!("{other:?}"),
    }
}

#[test]
fn what_lies_there_unrecorded_is_listed_and_can_be_taken_up() {
    let world = World::new();
    std::fs::create_dir_all(world.store.root()).unwrap();
    let path = world.store.root().join("old.gguf");
    std::fs::write(&path, tiny::model().bytes().0).unwrap();
    std::fs::write(world.store.root().join("README"), "not a model").unwrap();
    assert!(world.store.list().unwrap()[0].record.is_none());
    assert!(matches!(
        world.store.verify("old", &mut |_| {}),
        Err(StoreError::NotRecorded { .. })
    ));
    world.pull(&text(&path)).unwrap();
    world.store.verify("old", &mut |_| {}).unwrap();
    assert!(world.pull(&text(&path)).unwrap().already_there);
    spoil(&path);
    assert!(matches!(
        world.pull(&text(&path)),
        Err(StoreError::Digest { .. })
    ));
}

#[test]
fn a_damaged_record_hides_no_model_and_does_not_keep_it_from_being_removed() {
    let world = World::new();
    world.pull(&text(&world.model("a.gguf"))).unwrap();
    std::fs::write(world.store.root().join("a.toml"), "digest = 7").unwrap();
    assert!(world.store.list().unwrap()[0].record.is_none());
    world.store.remove("a").unwrap();
    assert_eq!(world.files(), [""; 0]);
}

#[test]
fn a_link_points_and_its_target_outlives_it() {
    let world = World::new();
    let path = world.model("a.gguf");
    let hub = Hub::at("", None);
    let pulled = world
        .pull_with(&text(&path), |pull| pull.link = true, &hub)
        .unwrap();
    assert!(
        std::fs::symlink_metadata(&pulled.entry.path)
            .unwrap()
            .is_symlink()
    );
    world.store.verify("a", &mut |_| {}).unwrap();
    spoil(&path);
    assert!(matches!(
        world.store.verify("a", &mut |_| {}),
        Err(StoreError::Digest { .. })
    ));
    world.store.remove("a").unwrap();
    assert!(path.exists());
    assert_eq!(world.files(), [""; 0]);
}

#[test]
fn the_contents_are_those_of_the_file() {
    let world = World::new();
    let path = world.model("a.gguf");
    let contents = Contents::of(&path, &mut |_| {}).unwrap();
    assert_eq!(contents.architecture, "LlamaForCausalLM");
    assert_eq!(
        (contents.context_tokens, contents.layers),
        (tiny::CONTEXT.into(), tiny::LAYERS)
    );
    assert_eq!(contents.vocabulary, 260);
    assert!(contents.chat_template);
    assert_eq!(
        contents.formats.values().sum::<u64>(),
        contents.weights_bytes
    );
    assert!(contents.formats.contains_key("Q4_1") && contents.parameters > 0);
    // Two layers of keys and values, two heads of 16 numbers of 2 bytes.
    assert_eq!(contents.cache_bytes_per_token, 2 * 2 * 2 * 16 * 2);
    assert_eq!(
        contents.digest,
        Digest::sha256(&std::fs::read(&path).unwrap())
    );
    let room = contents.weights_bytes + 1000 * contents.cache_bytes_per_token;
    assert!((1000..1001).contains(&contents.tokens_in(room * 10 / 9 + 10)));
    assert_eq!(contents.tokens_in(10), 0);
}

#[test]
fn the_stores_digest_is_the_one_in_evidence() {
    let world = World::new();
    let pulled = world.pull(&text(&world.model("a.gguf"))).unwrap();
    let opened = Checkpoint::open(&pulled.entry.path, &mut |_, _| {}).unwrap();
    assert_eq!(opened.digest(), pulled.digest);
    assert_eq!(
        world.store.verify("a", &mut |_| {}).unwrap().digest,
        opened.digest()
    );
}

/// A hub of one repository: files by path, and what goes wrong on the way.
#[derive(Clone, Default)]
struct FakeHub {
    files: BTreeMap<String, Vec<u8>>,
    /// Bytes after which each of the first responses breaks off.
    breaks: Arc<Mutex<Vec<usize>>>,
    /// Serves other bytes than it describes.
    lies: bool,
    ignores_ranges: bool,
    asked: Arc<Mutex<Vec<String>>>,
}

const COMMIT: &str = "0123456789abcdef0123456789abcdef01234567";

impl FakeHub {
    fn with(files: &[(&str, Vec<u8>)]) -> Self {
        Self {
            files: files
                .iter()
                .map(|(name, bytes)| ((*name).to_owned(), bytes.clone()))
                .collect(),
            ..Self::default()
        }
    }

    fn description(&self) -> String {
        let siblings: Vec<_> = self
            .files
            .iter()
            .map(|(name, bytes)| {
                if name.ends_with(".json") {
                    let mut blob = format!("blob {}\0", bytes.len()).into_bytes();
                    blob.extend(bytes);
                    let sha1 = ring::digest::digest(&ring::digest::SHA1_FOR_LEGACY_USE_ONLY, &blob);
                    let hex: String = sha1.as_ref().iter().map(|b| format!("{b:02x}")).collect();
                    serde_json::json!({"rfilename": name, "size": bytes.len(), "blobId": hex})
                } else {
                    serde_json::json!({"rfilename": name, "size": bytes.len(), "blobId": "0",
                        "lfs": {"sha256": Digest::sha256(bytes).to_string(), "size": bytes.len()}})
                }
            })
            .collect();
        serde_json::json!({"id": "o/r", "sha": COMMIT, "siblings": siblings}).to_string()
    }

    /// Serves until the test's process ends.
    fn start(self) -> Hub {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        std::thread::spawn(move || {
            for stream in listener.incoming() {
                let hub = self.clone();
                std::thread::spawn(move || hub.handle(stream.unwrap()));
            }
        });
        Hub::at(&url, Some("a-token".to_owned())).with_pause(Duration::ZERO)
    }

    fn handle(&self, mut stream: std::net::TcpStream) {
        let mut lines = BufReader::new(stream.try_clone().unwrap()).lines();
        let request = lines.next().unwrap().unwrap();
        let headers: Vec<String> = lines
            .map_while(|line| line.ok().filter(|line| !line.is_empty()))
            .map(|line| line.to_ascii_lowercase())
            .collect();
        assert!(
            headers.contains(&"authorization: bearer a-token".to_owned()),
            "{headers:?}"
        );
        let path = request.split(' ').nth(1).unwrap().to_owned();
        let from: usize = headers
            .iter()
            .find_map(|h| {
                h.strip_prefix("range: bytes=")?
                    .strip_suffix('-')?
                    .parse()
                    .ok()
            })
            .unwrap_or(0);
        self.asked.lock().unwrap().push(format!("{path} {from}"));
        let mut respond = |status: &str, more: &str, body: &[u8], sent: usize| {
            let length = body.len();
            let _ = write!(
                stream,
                "HTTP/1.1 {status}\r\ncontent-length: {length}\r\n{more}connection: close\r\n\r\n"
            );
            let _ = stream.write_all(&body[..sent.min(length)]);
        };
        if path == "/api/models/o/r/revision/main?blobs=true" {
            let body = self.description().into_bytes();
            return respond("200 OK", "", &body, body.len());
        }
        let prefix = format!("/o/r/resolve/{COMMIT}/");
        let Some(bytes) = path
            .strip_prefix(&prefix)
            .and_then(|name| self.files.get(name))
        else {
            return respond("404 Not Found", "", b"", 0);
        };
        let mut bytes = bytes.clone();
        if self.lies {
            *bytes.last_mut().unwrap() ^= 1;
        }
        let sent = {
            let mut breaks = self.breaks.lock().unwrap();
            if breaks.is_empty() {
                usize::MAX
            } else {
                breaks.remove(0)
            }
        };
        if from > 0 && !self.ignores_ranges {
            let range = format!(
                "content-range: bytes {from}-{}/{}\r\n",
                bytes.len() - 1,
                bytes.len()
            );
            respond("206 Partial Content", &range, &bytes[from..], sent);
        } else {
            respond("200 OK", "", &bytes, sent);
        }
    }
}

fn tiny_bytes() -> Vec<u8> {
    tiny::model().bytes().0
}

#[test]
fn a_single_gguf_of_a_repository_is_fetched_at_its_commit() {
    let world = World::new();
    let hub = FakeHub::with(&[("tiny.gguf", tiny_bytes()), ("config.txt", vec![1])]).start();
    let pulled = world.pull_with("hf:o/r", |_| {}, &hub).unwrap();
    assert_eq!(pulled.entry.name, "tiny");
    assert_eq!(pulled.digest, Digest::sha256(&tiny_bytes()));
    assert_eq!(
        pulled.entry.record.unwrap().source,
        format!("hf:o/r@{COMMIT}")
    );
    assert_eq!(world.files(), ["tiny.gguf", "tiny.toml"]);
}

#[test]
fn a_download_that_breaks_off_goes_on_where_it_was() {
    let world = World::new();
    let fake = FakeHub::with(&[("tiny.gguf", tiny_bytes())]);
    *fake.breaks.lock().unwrap() = vec![1000, 2000, 0, 500];
    let asked = Arc::clone(&fake.asked);
    world.pull_with("hf:o/r", |_| {}, &fake.start()).unwrap();
    let froms: Vec<usize> = asked.lock().unwrap()[1..]
        .iter()
        .map(|line| line.rsplit(' ').next().unwrap().parse().unwrap())
        .collect();
    assert_eq!(froms, [0, 1000, 3000, 3000, 3500]);
    world.store.verify("tiny", &mut |_| {}).unwrap();
}

#[test]
fn the_next_process_goes_on_too_and_a_server_without_ranges_starts_over() {
    for ignores_ranges in [false, true] {
        let world = World::new();
        let fake = FakeHub {
            ignores_ranges,
            ..FakeHub::with(&[("tiny.gguf", tiny_bytes())])
        };
        *fake.breaks.lock().unwrap() = vec![5000, 0, 0, 0, 0, 0, 0];
        let asked = Arc::clone(&fake.asked);
        let breaks = Arc::clone(&fake.breaks);
        let hub = fake.start();
        let broken = world.pull_with("hf:o/r", |_| {}, &hub);
        assert!(
            matches!(broken, Err(StoreError::Download { .. })),
            "{broken:?}"
        );
        assert!(world.store.list().unwrap().is_empty());
        breaks.lock().unwrap().clear();
        asked.lock().unwrap().clear();
        world.pull_with("hf:o/r", |_| {}, &hub).unwrap();
        if !ignores_ranges {
            assert!(asked.lock().unwrap()[1].ends_with(" 5000"), "{asked:?}");
        }
        assert_eq!(world.files(), ["tiny.gguf", "tiny.toml"]);
    }
}

#[test]
fn bytes_that_are_not_those_described_are_refused() {
    let world = World::new();
    let lying = FakeHub {
        lies: true,
        ..FakeHub::with(&[("tiny.gguf", tiny_bytes())])
    };
    let refused = world.pull_with("hf:o/r", |_| {}, &lying.start());
    assert!(
        matches!(refused, Err(StoreError::Digest { .. })),
        "{refused:?}"
    );
    assert!(world.store.list().unwrap().is_empty());
}

#[test]
fn a_repository_with_several_models_says_which() {
    let world = World::new();
    let hub = FakeHub::with(&[("a-Q4.gguf", tiny_bytes()), ("b-Q8.gguf", tiny_bytes())]).start();
    let error = world.pull_with("hf:o/r", |_| {}, &hub).unwrap_err();
    assert!(
        error
            .to_string()
            .ends_with("choose one: hf:o/r:a-Q4.gguf, hf:o/r:b-Q8.gguf"),
        "{error}"
    );
    let pulled = world
        .pull_with("hf:o/r@main:b-Q8.gguf", |_| {}, &hub)
        .unwrap();
    assert_eq!(pulled.entry.name, "b-Q8");
    let none = world.pull_with("hf:o/r:c.gguf", |_| {}, &hub).unwrap_err();
    assert!(
        none.to_string().contains("there is no file c.gguf"),
        "{none}"
    );
}

#[test]
fn a_repository_that_is_not_there_is_told_with_what_to_do() {
    let world = World::new();
    let hub = FakeHub::with(&[]).start();
    let error = world.pull_with("hf:o/other", |_| {}, &hub).unwrap_err();
    assert!(error.to_string().contains("status 404"), "{error}");
    let nobody = world.pull_with("hf:o/r", |_| {}, &Hub::at("http://127.0.0.1:1", None));
    assert!(
        nobody
            .unwrap_err()
            .to_string()
            .contains("the hub does not answer")
    );
    assert_eq!(
        world.files(),
        [""; 0],
        "nothing is left that nobody could use"
    );
}

#[test]
fn file_names_of_a_repository_lead_nowhere_else() {
    let world = World::new();
    for name in ["../../evil.gguf", "/evil.gguf", ".evil.gguf", "a b.gguf"] {
        let hub = FakeHub::with(&[(name, tiny_bytes())]).start();
        let refused = world.pull_with("hf:o/r", |_| {}, &hub);
        assert!(
            matches!(refused, Err(StoreError::Download { .. })),
            "{name}: {refused:?}"
        );
    }
    assert!(!world.directory.path().join("evil.gguf").exists());
    assert!(world.store.list().unwrap().is_empty());
}

#[test]
fn two_processes_do_not_fetch_the_same_at_once() {
    let world = World::new();
    let path = text(&world.model("a.gguf"));
    let name = Digest::sha256(path.as_bytes()).to_string();
    let staging = world.store.root().join(format!(".pull-{}", &name[..16]));
    std::fs::create_dir_all(&staging).unwrap();
    let lock = std::fs::File::create(staging.join("lock")).unwrap();
    lock.lock().unwrap();
    assert!(matches!(world.pull(&path), Err(StoreError::Busy { .. })));
    drop(lock);
    world.pull(&path).unwrap();
}
