//! Hugging Face's hub: a repository's files at one commit, downloaded with resumption and checked.
//!
//! Three requests of its documented HTTP interface are all that is needed:
//!
//! ```text
//! GET /api/models/OWNER/REPO/revision/REV?blobs=true   the commit; files with size and SHA-256 (or git's SHA-1)
//! GET /OWNER/REPO/resolve/COMMIT/FILE                  a file, possibly by way of a CDN; Range resumes
//! ```
//!
//! Why not the crate `hf-hub`: 1.0 cannot be had without its client for Xet storage, which brings a second
//! reqwest, a second implementation of TLS (aws-lc, in C) and some two hundred crates into a guest whose
//! every byte is measured; 0.5 has the right weight but keeps its own cache layout and compares no digest.
//! What is left is less than what adapting either would take. `HF_ENDPOINT` and `HF_TOKEN` mean what they
//! mean to Hugging Face's own tools.

use std::fs::{File, OpenOptions};
use std::io::{Read, Write};
use std::path::{Path, PathBuf};
use std::time::Duration;

use ring::digest::{Context, SHA1_FOR_LEGACY_USE_ONLY, SHA256};
use serde::Deserialize;
use ureq::Agent;

use super::name::plain_file_name;
use super::source::plain_path;
use super::{Progress, StoreError, Watch};

/// Where the hub is when the environment does not say.
const ENDPOINT: &str = "https://huggingface.co";
/// Bytes of a repository's description. With thousands of files it has some megabytes.
const MAX_DESCRIPTION_BYTES: u64 = 32 << 20;
/// Files of one model. DeepSeek-V3 has 163 of weights.
const MAX_FILES: usize = 4096;
/// Bytes of one file.
const MAX_FILE_BYTES: u64 = 1 << 40;
/// How often a download that makes no progress is tried.
const ATTEMPTS: u32 = 5;
/// Bytes read at once.
const READ_BYTES: usize = 1 << 20;
/// What a folder needs besides its weights, where the repository has them.
const SMALL_FILES: [&str; 6] = [
    "config.json",
    "generation_config.json",
    "tokenizer.json",
    "tokenizer_config.json",
    "chat_template.jinja",
    "model.safetensors.index.json",
];

/// The hub, or a mirror of it.
pub struct Hub {
    agent: Agent,
    endpoint: String,
    token: Option<String>,
    /// Between two attempts.
    pause: Duration,
}

/// What a repository is.
#[derive(Deserialize)]
struct Repository {
    sha: String,
    #[serde(default)]
    siblings: Vec<Sibling>,
}

#[derive(Deserialize, Clone)]
struct Sibling {
    rfilename: String,
    #[serde(default)]
    size: Option<u64>,
    #[serde(default, rename = "blobId")]
    blob: Option<String>,
    #[serde(default)]
    lfs: Option<Lfs>,
}

#[derive(Deserialize, Clone)]
struct Lfs {
    #[serde(alias = "oid")]
    sha256: String,
}

/// What was fetched.
pub(super) struct Fetched {
    /// The file or folder.
    pub(super) path: PathBuf,
    /// The commit.
    pub(super) commit: String,
}

impl Hub {
    /// The hub at an address, `https://huggingface.co` or a mirror.
    #[must_use]
    pub fn at(endpoint: &str, token: Option<String>) -> Self {
        let agent = Agent::config_builder()
            .http_status_as_error(false)
            .timeout_connect(Some(Duration::from_secs(20)))
            .timeout_per_read(Some(Duration::from_secs(60)))
            .user_agent("cocoon")
            .build()
            .new_agent();
        Self {
            agent,
            endpoint: endpoint.trim_end_matches('/').to_owned(),
            token,
            pause: Duration::from_secs(2),
        }
    }

    /// `HF_ENDPOINT` and `HF_TOKEN`.
    #[must_use]
    pub fn of_environment() -> Self {
        let set = |name| std::env::var(name).ok().filter(|value| !value.is_empty());
        Self::at(
            set("HF_ENDPOINT").as_deref().unwrap_or(ENDPOINT),
            set("HF_TOKEN"),
        )
    }

    /// The same with another pause between attempts.
    #[must_use]
    pub fn with_pause(mut self, pause: Duration) -> Self {
        self.pause = pause;
        self
    }

    /// Fetches a repository's model into `content`, taking up what is there of it.
    pub(super) fn fetch(
        &self,
        repository: &str,
        revision: &str,
        file: Option<&str>,
        content: &Path,
        watch: Watch<'_>,
    ) -> Result<Fetched, StoreError> {
        let url = format!(
            "{}/api/models/{repository}/revision/{revision}?blobs=true",
            self.endpoint
        );
        let described: Repository = self.describe(&url)?;
        let failed = |reason: &str| StoreError::Download {
            url: url.clone(),
            reason: reason.to_owned(),
        };
        if !plain_file_name(&described.sha) {
            return Err(failed("the commit's name is none"));
        }
        let files = choose(repository, &described.siblings, file)?;
        let folder = files.iter().any(|file| file.rfilename == "config.json") || files.len() > 1;
        let into = if folder {
            // The model's name is the repository's.
            content.join(repository.rsplit('/').next().unwrap_or(repository))
        } else {
            content.to_owned()
        };
        std::fs::create_dir_all(&into).map_err(StoreError::io("make", &into))?;
        let sizes: Option<u64> = files
            .iter()
            .map(|file| file.size.filter(|size| *size <= MAX_FILE_BYTES))
            .try_fold(0u64, |sum, size| sum.checked_add(size?));
        let total = sizes.ok_or_else(|| failed("the size of a file is not said, or is absurd"))?;
        let mut done = 0u64;
        let mut last = into.clone();
        for file in &files {
            let name = file.rfilename.rsplit('/').next().unwrap_or_default();
            if !plain_path(&file.rfilename) || !plain_file_name(name) {
                return Err(failed("a file has an odd name"));
            }
            let target = into.join(name);
            let from = format!(
                "{}/{repository}/resolve/{}/{}",
                self.endpoint, described.sha, file.rfilename
            );
            let mut told = |bytes: u64| {
                watch(Progress {
                    doing: "downloading",
                    what: name,
                    done: done.saturating_add(bytes),
                    total,
                });
            };
            self.download(&from, file, &target, &mut told)?;
            done = done.saturating_add(file.size.unwrap_or(0));
            last = target;
        }
        Ok(Fetched {
            path: if folder { into } else { last },
            commit: described.sha,
        })
    }

    fn get(&self, url: &str, from: u64) -> Result<ureq::http::Response<ureq::Body>, ureq::Error> {
        let mut request = self.agent.get(url);
        if let Some(token) = &self.token {
            // ureq leaves it behind when it is sent on to another host.
            request = request.header("authorization", format!("Bearer {token}"));
        }
        if from > 0 {
            request = request.header("range", format!("bytes={from}-"));
        }
        request.call()
    }

    fn describe(&self, url: &str) -> Result<Repository, StoreError> {
        let failed = |reason: String| StoreError::Download {
            url: url.to_owned(),
            reason,
        };
        let response = self
            .get(url, 0)
            .map_err(|error| failed(format!("the hub does not answer: {error}")))?;
        if !response.status().is_success() {
            return Err(failed(refusal(response.status().as_u16())));
        }
        let body = response
            .into_body()
            .into_with_config()
            .limit(MAX_DESCRIPTION_BYTES)
            .read_to_vec()
            .map_err(|error| failed(error.to_string()))?;
        serde_json::from_slice(&body)
            .map_err(|_| failed("this is not how the hub describes a repository".to_owned()))
    }

    /// Downloads one file; goes on where an earlier attempt, or an earlier process, broke off.
    fn download(
        &self,
        url: &str,
        file: &Sibling,
        target: &Path,
        told: &mut dyn FnMut(u64),
    ) -> Result<(), StoreError> {
        let size = file.size.unwrap_or(0);
        if is_complete(target, file)? {
            told(size);
            return Ok(());
        }
        let mut name = target.as_os_str().to_owned();
        name.push(".part");
        let part = PathBuf::from(name);
        let mut resumed = length(&part) > 0;
        let mut attempt: u32 = 0;
        loop {
            let before = length(&part).min(size);
            let outcome = self.piece(url, &part, size, told);
            let after = length(&part);
            if after == size && outcome.is_ok() {
                if is_complete(&part, file)? {
                    return std::fs::rename(&part, target).map_err(StoreError::io("name", target));
                }
                std::fs::remove_file(&part).map_err(StoreError::io("remove", &part))?;
                // What an earlier process left may have been another version; once more from the start.
                if std::mem::take(&mut resumed) {
                    continue;
                }
                return Err(StoreError::Digest {
                    what: url.to_owned(),
                    wanted: file.wanted().to_owned(),
                    found: "another one".to_owned(),
                });
            }
            attempt = if after > before {
                1
            } else {
                attempt.saturating_add(1)
            };
            match outcome {
                Err(error @ StoreError::Io { .. }) => return Err(error),
                Err(error) if attempt >= ATTEMPTS => return Err(error),
                Err(error) => tracing::debug!(%error, attempt, "a download broke off"),
                Ok(()) if attempt >= ATTEMPTS => {
                    return Err(StoreError::Download {
                        url: url.to_owned(),
                        reason: format!("it ended after {after} of {size} bytes"),
                    });
                }
                Ok(()) => {}
            }
            std::thread::sleep(self.pause);
        }
    }

    /// One request: what is missing of the file, or all of it.
    fn piece(
        &self,
        url: &str,
        part: &Path,
        size: u64,
        told: &mut dyn FnMut(u64),
    ) -> Result<(), StoreError> {
        let failed = |reason: String| StoreError::Download {
            url: url.to_owned(),
            reason,
        };
        let mut have = length(part);
        if have == size && part.exists() {
            return Ok(());
        }
        if have > size {
            have = 0;
        }
        let response = self
            .get(url, have)
            .map_err(|error| failed(error.to_string()))?;
        match response.status().as_u16() {
            206 if continues(&response, have) => {}
            // A server that cannot resume sends everything.
            200 => have = 0,
            206 | 416 => {
                std::fs::remove_file(part).map_err(StoreError::io("remove", part))?;
                return Err(failed(
                    "the server resumes elsewhere than was asked".to_owned(),
                ));
            }
            status => return Err(failed(refusal(status))),
        }
        let mut sink = OpenOptions::new()
            .create(true)
            .write(true)
            .append(have > 0)
            .truncate(have == 0)
            .open(part)
            .map_err(StoreError::io("write", part))?;
        told(have);
        // Never more than was announced, whatever comes.
        let left = size.saturating_sub(have);
        let mut source = response
            .into_body()
            .into_with_config()
            .limit(u64::MAX)
            .reader()
            .take(left);
        let mut buffer = vec![0; READ_BYTES];
        loop {
            let read = source
                .read(&mut buffer)
                .map_err(|error| failed(format!("it broke off: {error}")))?;
            let Some(bytes) = buffer.get(..read).filter(|bytes| !bytes.is_empty()) else {
                break;
            };
            sink.write_all(bytes)
                .map_err(StoreError::io("write", part))?;
            have = have.saturating_add(bytes.len() as u64);
            told(have);
        }
        sink.sync_all().map_err(StoreError::io("write", part))
    }
}

impl Sibling {
    /// The digest that the hub names: SHA-256 of large files, git's SHA-1 of small ones.
    fn wanted(&self) -> &str {
        match (&self.lfs, &self.blob) {
            (Some(lfs), _) => &lfs.sha256,
            (None, Some(blob)) => blob,
            (None, None) => "",
        }
    }
}

/// The files that make the model.
fn choose(
    repository: &str,
    files: &[Sibling],
    wanted: Option<&str>,
) -> Result<Vec<Sibling>, StoreError> {
    let none = |reason: &str| StoreError::Download {
        url: format!("hf:{repository}"),
        reason: reason.to_owned(),
    };
    let named = |name: &str| files.iter().find(|file| file.rfilename == name).cloned();
    let chosen = if let Some(wanted) = wanted {
        vec![named(wanted).ok_or_else(|| none(&format!("there is no file {wanted} in it")))?]
    } else if let Some(config) = named("config.json") {
        let weights = files
            .iter()
            .filter(|file| {
                file.rfilename.ends_with(".safetensors") && !file.rfilename.contains('/')
            })
            .cloned();
        let weights: Vec<_> = weights.take(MAX_FILES).collect();
        if weights.is_empty() {
            return Err(none("it has a config.json but no .safetensors beside it"));
        }
        let small = SMALL_FILES.iter().filter(|name| **name != "config.json");
        let small = small.filter_map(|name| named(name));
        std::iter::once(config)
            .chain(small)
            .chain(weights)
            .collect()
    } else {
        let models: Vec<_> = files
            .iter()
            .filter(|file| file.rfilename.ends_with(".gguf"))
            .cloned()
            .collect();
        if models.len() > 1 {
            return Err(StoreError::WhichFile {
                repository: repository.to_owned(),
                files: models
                    .iter()
                    .map(|file| format!("hf:{repository}:{}", file.rfilename))
                    .take(100)
                    .collect(),
            });
        }
        models
    };
    if chosen.is_empty() {
        return Err(none(
            "it has neither a .gguf nor a config.json with .safetensors",
        ));
    }
    // The parts of a split file come together.
    let parts = |first: &Sibling| {
        let (stem, rest) = first.rfilename.split_once("-00001-of-")?;
        let count: usize = rest.strip_suffix(".gguf")?.parse().ok()?;
        (1..=count.min(MAX_FILES))
            .map(|n| named(&format!("{stem}-{n:05}-of-{rest}")))
            .collect::<Option<Vec<_>>>()
    };
    match chosen.as_slice() {
        [one] => Ok(parts(one).unwrap_or(chosen)),
        _ => Ok(chosen),
    }
}

/// Whether a file is there and has the digest that the hub names.
fn is_complete(path: &Path, file: &Sibling) -> Result<bool, StoreError> {
    let Ok(mut source) = File::open(path) else {
        return Ok(false);
    };
    let size = length(path);
    if file.size != Some(size) {
        return Ok(false);
    }
    let (mut hash, wanted) = match (&file.lfs, &file.blob) {
        (Some(lfs), _) => (Context::new(&SHA256), lfs.sha256.as_str()),
        (None, Some(blob)) => {
            // git's name of a blob.
            let mut hash = Context::new(&SHA1_FOR_LEGACY_USE_ONLY);
            hash.update(format!("blob {size}\0").as_bytes());
            (hash, blob.as_str())
        }
        // The hub names none: the size is all there is.
        (None, None) => return Ok(true),
    };
    let mut buffer = vec![0; READ_BYTES];
    loop {
        let read = source
            .read(&mut buffer)
            .map_err(StoreError::io("read", path))?;
        let Some(bytes) = buffer.get(..read).filter(|bytes| !bytes.is_empty()) else {
            break;
        };
        hash.update(bytes);
    }
    let found: String = hash
        .finish()
        .as_ref()
        .iter()
        .map(|byte| format!("{byte:02x}"))
        .collect();
    Ok(found.eq_ignore_ascii_case(wanted))
}

fn length(path: &Path) -> u64 {
    std::fs::metadata(path).map_or(0, |data| data.len())
}

/// Whether a partial response begins where it should.
fn continues(response: &ureq::http::Response<ureq::Body>, at: u64) -> bool {
    response
        .headers()
        .get("content-range")
        .and_then(|range| range.to_str().ok())
        .is_some_and(|range| range.starts_with(&format!("bytes {at}-")))
}

fn refusal(status: u16) -> String {
    match status {
        401 | 403 => format!(
            "status {status}: it does not exist, or its owner wants to know who asks; accept its terms on the hub's \
             page and set HF_TOKEN"
        ),
        404 => "status 404: there is no such repository, revision or file".to_owned(),
        429 => "status 429: too many requests; wait, or set HF_TOKEN".to_owned(),
        status => format!("status {status}"),
    }
}
