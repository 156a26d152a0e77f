//! llama.cpp, prebuilt, in the ways that `scripts/bench/fetch-peers.sh` fetches it.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use serde::Deserialize;

use super::EngineArgs;

/// Tokens per second.
#[derive(Debug, Clone, Copy, Default, Deserialize)]
pub(super) struct Speeds {
    pub(super) prefill: f64,
    pub(super) decode: f64,
}

impl Speeds {
    pub(super) fn better(self, other: Self) -> Self {
        Self {
            prefill: self.prefill.max(other.prefill),
            decode: self.decode.max(other.decode),
        }
    }
}

/// One way to run llama.cpp.
pub(super) struct Peer {
    pub(super) name: &'static str,
    program: PathBuf,
    script: PathBuf,
}

pub(super) fn peers(args: &EngineArgs) -> Vec<Peer> {
    let cache = || {
        let base = std::env::var_os("XDG_CACHE_HOME").map(PathBuf::from);
        let base = base.or_else(|| Some(Path::new(&std::env::var_os("HOME")?).join(".cache")))?;
        Some(base.join("cocoon/peers"))
    };
    let Some(dir) = args.peers.clone().or_else(cache) else {
        return Vec::new();
    };
    let all = [
        Peer {
            name: "node-llama-cpp",
            program: PathBuf::from("node"),
            script: dir.join("node/llama_cpp.mjs"),
        },
        Peer {
            name: "xllamacpp",
            program: dir.join("python/bin/python"),
            script: dir.join("python/llama_cpp.py"),
        },
    ];
    let is_file = args.model.is_file();
    all.into_iter()
        .filter(|peer| is_file && peer.script.exists())
        .collect()
}

impl Peer {
    pub(super) fn measure(&self, args: &EngineArgs, threads: usize) -> Result<Speeds, String> {
        let output = Command::new(&self.program)
            .arg(&self.script)
            .arg(&args.model)
            .args([
                threads.to_string(),
                args.prompt_tokens.to_string(),
                args.answer_tokens.to_string(),
            ])
            .stderr(Stdio::null())
            .output()
            .map_err(|error| error.to_string())?;
        let said = String::from_utf8_lossy(&output.stdout);
        let line = said.lines().last().unwrap_or_default();
        serde_json::from_str(line).map_err(|error| format!("{error} in {line:?}"))
    }
}
