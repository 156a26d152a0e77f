//! GGUF v2/v3 files: a bounded reader that trusts nothing.
//!
//! Layout (little-endian), after <https://github.com/ggml-org/ggml/blob/master/docs/gguf.md>:
//!
//! ```text
//! "GGUF" ‖ version u32 ‖ tensor count u64 ‖ metadata count u64
//! ‖ metadata: (key string, type u32, value)*
//! ‖ tensors:  (name string, rank u32, dims u64*, format u32, offset u64)*
//! ‖ padding to general.alignment ‖ tensor data
//! ```
//!
//! The file may come from a stranger. So every count, length, offset and dimension is checked against a
//! named limit or against the bytes that are really there *before* anything is allocated for it, all
//! arithmetic on file values is checked, and every failure is a [`GgufError`].

mod header;
mod quant;
mod superblock;

use std::collections::BTreeMap;
use std::ops::Range;

pub use header::parse;
pub use quant::{Format, dequantise};

/// Metadata pairs in one file. Real files have 20 to 60.
pub const MAX_METADATA: u64 = 4_096;
/// Tensors in one file. A 120-layer model with experts has about 2 000.
pub const MAX_TENSORS: u64 = 65_536;
/// Bytes in one string. The longest real ones are chat templates of some 20 kB.
pub const MAX_STRING_BYTES: u64 = 1 << 20;
/// Items in one metadata array. The longest real ones are merges and vocabularies of some 500 000.
pub const MAX_ARRAY_ITEMS: u64 = 1 << 21;
/// Dimensions of one tensor, as in ggml.
pub const MAX_RANK: u32 = 4;
/// Largest `general.alignment`, in bytes.
pub const MAX_ALIGNMENT: u64 = 65_536;

/// Why a GGUF file was refused.
#[derive(Debug, thiserror::Error)]
pub enum GgufError {
    /// Reading the file failed.
    #[error("cannot read the file: {0}")]
    Io(#[from] std::io::Error),
    /// The first four bytes are not `GGUF`.
    #[error("not a GGUF file")]
    Magic,
    /// A version this reader does not know.
    #[error("GGUF version {0}; versions 2 and 3 are read")]
    Version(u32),
    /// The file ends inside a value.
    #[error("the file ends inside a value: {wanted} bytes wanted at offset {at}, {left} left")]
    Truncated {
        /// Offset of the value in the file.
        at: usize,
        /// Bytes it needs.
        wanted: u64,
        /// Bytes left in the file.
        left: usize,
    },
    /// A count or a length is over its limit.
    #[error("{what}: {got} is over the limit of {limit}")]
    OverLimit {
        /// What is counted.
        what: &'static str,
        /// The file's number.
        got: u64,
        /// The named limit.
        limit: u64,
    },
    /// A metadata value has a type number the format does not define.
    #[error("metadata value type {0} is not defined")]
    ValueType(u32),
    /// An array of arrays, which no real file has.
    #[error("arrays inside arrays are not read")]
    NestedArray,
    /// A string is not UTF-8.
    #[error("the string at offset {at} is not UTF-8")]
    NotUtf8 {
        /// Offset in the file.
        at: usize,
    },
    /// A number does not fit the integer it is read into.
    #[error("the number at offset {at} does not fit")]
    NumberRange {
        /// Offset in the file.
        at: usize,
    },
    /// A metadata key or a tensor name occurs twice.
    #[error("{0:?} occurs twice")]
    Duplicate(String),
    /// `general.alignment` is not a power of two within its limit.
    #[error("alignment {0} is not a power of two up to {MAX_ALIGNMENT}")]
    Alignment(u64),
    /// A tensor is stored in a format this reader does not dequantise.
    #[error(
        "tensor {tensor:?} has format number {format}; read are F32, F16, BF16, Q4_0, Q4_1, Q5_0, Q5_1, Q8_0, Q4_K, Q5_K and Q6_K"
    )]
    TensorFormat {
        /// Name of the tensor.
        tensor: String,
        /// ggml's number of the format.
        format: u32,
    },
    /// A tensor has no elements, too many dimensions, or rows that are not whole blocks.
    #[error("tensor {tensor:?} has impossible dimensions {dims:?}")]
    Dimensions {
        /// Name of the tensor.
        tensor: String,
        /// The dimensions read so far, fastest first.
        dims: Vec<u64>,
    },
    /// A tensor's data does not lie inside the file at an aligned offset.
    #[error(
        "tensor {tensor:?} at offset {offset} does not lie inside the file's data of {data} bytes"
    )]
    OutsideFile {
        /// Name of the tensor.
        tensor: String,
        /// Its offset from the start of the data section.
        offset: u64,
        /// Size of the data section.
        data: usize,
    },
    /// A metadata key that is needed is not there.
    #[error("metadata {0:?} is missing")]
    MissingKey(String),
    /// A metadata value has another type than the key asks for, or is out of range.
    #[error("metadata {key:?} is not {wanted}")]
    WrongValue {
        /// The key.
        key: String,
        /// What it should hold.
        wanted: &'static str,
    },
    /// A tensor that is needed is not there.
    #[error("tensor {0:?} is missing")]
    MissingTensor(String),
    /// A tensor has another shape than the model's dimensions ask for.
    #[error("tensor {tensor:?} has dimensions {got:?}, the model needs {wanted:?}")]
    WrongShape {
        /// Name of the tensor.
        tensor: String,
        /// Dimensions in the file, fastest first.
        got: Vec<usize>,
        /// Dimensions the model needs, fastest first.
        wanted: Vec<usize>,
    },
    /// The data of a tensor is not a whole number of its format's blocks.
    #[error("{bytes} bytes are not whole blocks of {format:?}")]
    PartialBlock {
        /// The format.
        format: Format,
        /// Size of the data.
        bytes: usize,
    },
}

/// One metadata value. Integers of all widths are widened; arrays are flat.
#[derive(Debug, Clone, PartialEq)]
pub enum Value {
    /// u8 to u64.
    Unsigned(u64),
    /// i8 to i64.
    Signed(i64),
    /// f32 and f64.
    Float(f64),
    /// A boolean; any byte but zero is true.
    Bool(bool),
    /// A string.
    Text(String),
    /// An array of strings.
    Texts(Vec<String>),
    /// An array of integers of any width, or of booleans.
    Integers(Vec<i64>),
    /// An array of f32 or f64.
    Floats(Vec<f64>),
}

/// Where a tensor lies and how it is stored. The range has been checked against the file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TensorInfo {
    /// Dimensions, fastest first, as the format writes them. None is zero.
    pub dims: Vec<usize>,
    /// Number of elements: the product of `dims`.
    pub elements: usize,
    /// How the elements are stored.
    pub format: Format,
    /// Bytes of the file that hold the elements.
    pub range: Range<usize>,
}

/// The checked table of contents of a file.
#[derive(Debug, Clone, PartialEq)]
pub struct Header {
    /// Metadata by key.
    pub metadata: BTreeMap<String, Value>,
    /// Tensors by name.
    pub tensors: BTreeMap<String, TensorInfo>,
}

impl Header {
    fn value(&self, key: &str) -> Result<&Value, GgufError> {
        self.metadata
            .get(key)
            .ok_or_else(|| GgufError::MissingKey(key.to_owned()))
    }

    /// An integer from 1 to `max`: a dimension or a count.
    pub fn positive(&self, key: &str, max: usize) -> Result<usize, GgufError> {
        match *self.value(key)? {
            Value::Unsigned(n) if n > max as u64 => Err(GgufError::OverLimit {
                what: "a dimension of the model",
                got: n,
                limit: max as u64,
            }),
            Value::Unsigned(n) if n > 0 => {
                usize::try_from(n).map_err(|_| wrong(key, "an integer this machine can hold"))
            }
            _ => Err(wrong(key, "a positive integer")),
        }
    }

    /// A finite number above zero.
    pub fn positive_float(&self, key: &str) -> Result<f64, GgufError> {
        match *self.value(key)? {
            Value::Float(x) if x.is_finite() && x > 0.0 => Ok(x),
            _ => Err(wrong(key, "a finite number above zero")),
        }
    }

    /// A string.
    pub fn text(&self, key: &str) -> Result<&str, GgufError> {
        match self.value(key)? {
            Value::Text(text) => Ok(text),
            _ => Err(wrong(key, "a string")),
        }
    }

    /// An array of strings.
    pub fn texts(&self, key: &str) -> Result<&[String], GgufError> {
        match self.value(key)? {
            Value::Texts(texts) => Ok(texts),
            _ => Err(wrong(key, "an array of strings")),
        }
    }

    /// An array of integers.
    pub fn integers(&self, key: &str) -> Result<&[i64], GgufError> {
        match self.value(key)? {
            Value::Integers(numbers) => Ok(numbers),
            _ => Err(wrong(key, "an array of integers")),
        }
    }

    /// A boolean that is false when the key is absent.
    pub fn flag(&self, key: &str) -> Result<bool, GgufError> {
        match self.metadata.get(key) {
            None => Ok(false),
            Some(Value::Bool(flag)) => Ok(*flag),
            Some(_) => Err(wrong(key, "a boolean")),
        }
    }

    /// A token number that may be absent.
    pub fn token(&self, key: &str) -> Result<Option<u32>, GgufError> {
        match self.metadata.get(key) {
            None => Ok(None),
            Some(Value::Unsigned(n)) => u32::try_from(*n)
                .map(Some)
                .map_err(|_| wrong(key, "a token number")),
            Some(_) => Err(wrong(key, "a token number")),
        }
    }

    /// The tensor of that name, which must have these dimensions (fastest first).
    pub fn tensor(&self, name: &str, dims: &[usize]) -> Result<&TensorInfo, GgufError> {
        let info = self
            .tensors
            .get(name)
            .ok_or_else(|| GgufError::MissingTensor(name.to_owned()))?;
        if info.dims != dims {
            return Err(GgufError::WrongShape {
                tensor: name.to_owned(),
                got: info.dims.clone(),
                wanted: dims.to_vec(),
            });
        }
        Ok(info)
    }
}

fn wrong(key: &str, wanted: &'static str) -> GgufError {
    GgufError::WrongValue {
        key: key.to_owned(),
        wanted,
    }
}
