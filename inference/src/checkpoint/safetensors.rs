//! The table of contents of a safetensors file.
//!
//! <https://huggingface.co/docs/safetensors>: the header's length (u64, little-endian), the header (JSON: by
//! name the type, the shape, and where the data begin and end), the data. The crate `safetensors` reads it;
//! it refuses headers that do not parse, and data that overlap, leave holes, lie outside the file, or are
//! not as many bytes as type and shape say.

use std::collections::BTreeMap;
use std::path::Path;

use ::safetensors::{Dtype, SafeTensors};

use super::{CheckpointError, Place};
use crate::gguf::Format;

/// Bytes of one header. A model of 60 000 tensors has some 8 MB.
const MAX_HEADER_BYTES: u64 = 32 << 20;
/// Tensors of one checkpoint. The largest real ones, with a tensor for every expert, have some 100 000.
pub(super) const MAX_TENSORS: usize = 1 << 18;

/// Enters the tensors of the file, which is number `file` of the checkpoint's.
pub(super) fn add(
    tensors: &mut BTreeMap<String, Place>,
    file: usize,
    path: &Path,
    bytes: &[u8],
) -> Result<(), CheckpointError> {
    let refused = |reason: String| CheckpointError::Safetensors {
        file: path.to_owned(),
        reason,
    };
    let Some((length, rest)) = bytes.split_first_chunk::<8>() else {
        return Err(refused(format!(
            "{} bytes are no safetensors file",
            bytes.len()
        )));
    };
    let length = u64::from_le_bytes(*length);
    if length > MAX_HEADER_BYTES {
        return Err(CheckpointError::TooLarge {
            file: path.to_owned(),
            what: "the header's size in bytes",
            got: length,
            limit: MAX_HEADER_BYTES,
        });
    }
    if length > rest.len() as u64 {
        return Err(refused(format!(
            "the header is said to have {length} bytes, but {} are left; the file is cut off",
            rest.len()
        )));
    }
    let (header, metadata) =
        SafeTensors::read_metadata(bytes).map_err(|error| refused(error.to_string()))?;
    // Both at most the length of `bytes`, which holds the header and what comes before it.
    let data = header.saturating_add(size_of::<u64>());
    for (name, info) in metadata.tensors() {
        let (start, end) = info.data_offsets;
        let place = Place {
            file,
            range: data.saturating_add(start)..data.saturating_add(end),
            format: match info.dtype {
                Dtype::F32 => Ok(Format::F32),
                Dtype::F16 => Ok(Format::F16),
                Dtype::BF16 => Ok(Format::BF16),
                other => Err(format!("{other:?}")),
            },
            // A single number, as some buffers are, is a vector of one.
            dims: if info.shape.is_empty() {
                vec![1]
            } else {
                info.shape.clone()
            },
            interleaved_heads: false,
        };
        if tensors.insert(name.clone(), place).is_some() {
            return Err(CheckpointError::DuplicateTensor {
                file: path.to_owned(),
                name,
            });
        }
        if tensors.len() > MAX_TENSORS {
            return Err(CheckpointError::TooLarge {
                file: path.to_owned(),
                what: "the number of tensors",
                got: tensors.len() as u64,
                limit: MAX_TENSORS as u64,
            });
        }
    }
    Ok(())
}
