//! What can be wrong with a model's files. Every message says which file, what, and what to do.

use std::path::PathBuf;

use crate::gguf::GgufError;

/// Why a checkpoint was refused.
#[derive(Debug, thiserror::Error)]
pub enum CheckpointError {
    /// A file could not be opened, read or mapped.
    #[error("{}: {error}; check that the file is there and may be read", file.display())]
    Io {
        /// Which file.
        file: PathBuf,
        /// What the system said.
        error: std::io::Error,
    },
    /// A path that is neither a GGUF file nor a folder with `config.json`.
    #[error(
        "{}: neither a .gguf file nor a folder with config.json; give one of these",
        path.display()
    )]
    NotAModel {
        /// The path.
        path: PathBuf,
    },
    /// A GGUF file is not in order.
    #[error("{}: {error}; fetch the file again or compare its SHA-256", file.display())]
    Gguf {
        /// Which file.
        file: PathBuf,
        /// What is wrong with it.
        error: GgufError,
    },
    /// A safetensors file is not in order.
    #[error("{}: {reason}; fetch the file again or compare its SHA-256", file.display())]
    Safetensors {
        /// Which file.
        file: PathBuf,
        /// What is wrong with it.
        reason: String,
    },
    /// A JSON file does not parse, or a value in it is not what it has to be.
    #[error("{}: {reason}; the file must be as Hugging Face's libraries write it", file.display())]
    Json {
        /// Which file.
        file: PathBuf,
        /// What is wrong with it.
        reason: String,
    },
    /// A file, or a number in it, is over its limit.
    #[error("{}: {what} is {got}, the limit is {limit}; this is not a model's file", file.display())]
    TooLarge {
        /// Which file.
        file: PathBuf,
        /// What is counted.
        what: &'static str,
        /// What was found.
        got: u64,
        /// The limit.
        limit: u64,
    },
    /// A name in an index leads out of the checkpoint's folder.
    #[error(
        "{}: names the file {name:?}, which is not directly in the folder; do not use this checkpoint",
        file.display()
    )]
    Outside {
        /// The index.
        file: PathBuf,
        /// The name it gives.
        name: String,
    },
    /// The model is of a kind that this engine does not compute.
    #[error("{}: the architecture {found:?} is not supported; supported are {}", file.display(), known.join(", "))]
    Architecture {
        /// Which file says so.
        file: PathBuf,
        /// What it says.
        found: String,
        /// What there is.
        known: &'static [&'static str],
    },
    /// A part of a GGUF file that is in several parts was given, or one is missing.
    #[error("{}: {reason}", file.display())]
    Split {
        /// Which part.
        file: PathBuf,
        /// What is wrong and what to do.
        reason: String,
    },
    /// The same tensor is in the checkpoint twice.
    #[error("{}: tensor {name:?} is in the checkpoint twice; fetch it again", file.display())]
    DuplicateTensor {
        /// The file with the second one.
        file: PathBuf,
        /// Name of the tensor.
        name: String,
    },
    /// A tensor that the model needs is not there.
    #[error("{}: tensor {name:?} is missing; fetch the checkpoint again", path.display())]
    MissingTensor {
        /// The checkpoint.
        path: PathBuf,
        /// Name of the tensor.
        name: String,
    },
    /// A tensor holds numbers of a kind that is not read.
    #[error(
        "{}: tensor {name:?} holds {dtype}; read are F32, F16 and BF16, so convert it or take another variant",
        path.display()
    )]
    Dtype {
        /// The checkpoint.
        path: PathBuf,
        /// Name of the tensor.
        name: String,
        /// Its type's name.
        dtype: String,
    },
    /// A tensor has another shape than is needed.
    #[error(
        "{}: tensor {name:?} has dimensions {got:?}, wanted are {wanted}; the checkpoint and its configuration do not belong together",
        path.display()
    )]
    Shape {
        /// The checkpoint.
        path: PathBuf,
        /// Name of the tensor.
        name: String,
        /// Its dimensions, slowest first.
        got: Vec<usize>,
        /// What was wanted.
        wanted: String,
    },
    /// A file that is needed for this is not in the folder, or the GGUF file lacks the metadata.
    #[error("{}: has no {what}; {advice}", path.display())]
    Missing {
        /// The checkpoint.
        path: PathBuf,
        /// What is missing.
        what: &'static str,
        /// What to do.
        advice: &'static str,
    },
}
