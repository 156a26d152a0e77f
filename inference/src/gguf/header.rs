//! The table of contents: metadata and tensor descriptions.

use std::collections::BTreeMap;

use super::{
    Format, GgufError, Header, MAX_ALIGNMENT, MAX_ARRAY_ITEMS, MAX_METADATA, MAX_RANK,
    MAX_STRING_BYTES, MAX_TENSORS, TensorInfo, Value,
};

/// `general.alignment` when a file does not say.
const DEFAULT_ALIGNMENT: u64 = 32;

/// Reads and checks the header of a whole file.
///
/// # Errors
/// Any departure from the format or from the limits of [`super`]; never a panic. Memory stays within a
/// small multiple of `bytes.len()`.
pub fn parse(bytes: &[u8]) -> Result<Header, GgufError> {
    let mut reader = Reader { rest: bytes, at: 0 };
    if reader.take(4)? != b"GGUF" {
        return Err(GgufError::Magic);
    }
    let version = reader.u32()?;
    if !(2..=3).contains(&version) {
        return Err(GgufError::Version(version));
    }
    let tensor_count = within("tensors", reader.u64()?, MAX_TENSORS)?;
    let metadata_count = within("metadata pairs", reader.u64()?, MAX_METADATA)?;

    let mut metadata = BTreeMap::new();
    for _ in 0..metadata_count {
        let key = reader.string()?;
        let value = reader.value()?;
        insert_new(&mut metadata, key, value)?;
    }
    let mut described = BTreeMap::new();
    for _ in 0..tensor_count {
        let name = reader.string()?;
        let description = reader.tensor(&name)?;
        insert_new(&mut described, name, description)?;
    }

    let alignment = alignment(&metadata)?;
    let data_start = align(reader.at, alignment).unwrap_or(usize::MAX);
    let data_bytes = bytes.len().saturating_sub(data_start);
    let tensors = described
        .into_iter()
        .map(|(name, description)| {
            let info = description.locate(&name, data_start, data_bytes, alignment)?;
            Ok((name, info))
        })
        .collect::<Result<_, GgufError>>()?;
    Ok(Header { metadata, tensors })
}

fn within(what: &'static str, got: u64, limit: u64) -> Result<u64, GgufError> {
    if got > limit {
        Err(GgufError::OverLimit { what, got, limit })
    } else {
        Ok(got)
    }
}

fn insert_new<T>(map: &mut BTreeMap<String, T>, key: String, value: T) -> Result<(), GgufError> {
    if map.contains_key(&key) {
        return Err(GgufError::Duplicate(key));
    }
    map.insert(key, value);
    Ok(())
}

fn alignment(metadata: &BTreeMap<String, Value>) -> Result<u64, GgufError> {
    match metadata.get("general.alignment") {
        None => Ok(DEFAULT_ALIGNMENT),
        Some(Value::Unsigned(n)) if n.is_power_of_two() && *n <= MAX_ALIGNMENT => Ok(*n),
        Some(Value::Unsigned(n)) => Err(GgufError::Alignment(*n)),
        Some(_) => Err(super::wrong("general.alignment", "a power of two")),
    }
}

/// The next multiple of `alignment`, which is a power of two.
fn align(at: usize, alignment: u64) -> Option<usize> {
    at.checked_next_multiple_of(usize::try_from(alignment).ok()?)
}

/// A tensor as the header writes it, before it is checked against the data section.
struct Description {
    dims: Vec<u64>,
    format: Format,
    offset: u64,
}

impl Description {
    fn locate(
        self,
        name: &str,
        data_start: usize,
        data_bytes: usize,
        alignment: u64,
    ) -> Result<TensorInfo, GgufError> {
        let impossible = || GgufError::Dimensions {
            tensor: name.to_owned(),
            dims: self.dims.clone(),
        };
        let outside = || GgufError::OutsideFile {
            tensor: name.to_owned(),
            offset: self.offset,
            data: data_bytes,
        };
        let dims = self
            .dims
            .iter()
            .map(|&n| usize::try_from(n).ok().filter(|&n| n > 0))
            .collect::<Option<Vec<_>>>()
            .ok_or_else(impossible)?;
        let row = *dims.first().ok_or_else(impossible)?;
        let elements = dims
            .iter()
            .try_fold(1usize, |n, &d| n.checked_mul(d))
            .ok_or_else(impossible)?;
        if !row.is_multiple_of(self.format.block_elements()) {
            return Err(impossible());
        }
        let bytes = elements
            .checked_div(self.format.block_elements())
            .and_then(|blocks| blocks.checked_mul(self.format.block_bytes()))
            .ok_or_else(impossible)?;
        if !self.offset.is_multiple_of(alignment) {
            return Err(outside());
        }
        let offset = usize::try_from(self.offset).map_err(|_| outside())?;
        let end = offset
            .checked_add(bytes)
            .filter(|&end| end <= data_bytes)
            .ok_or_else(outside)?;
        // Both sums lie inside the file, because `end` does.
        let range = data_start.saturating_add(offset)..data_start.saturating_add(end);
        Ok(TensorInfo {
            dims,
            elements,
            format: self.format,
            range,
        })
    }
}

/// A cursor over the file. Every read says what it wanted when it fails.
struct Reader<'a> {
    rest: &'a [u8],
    at: usize,
}

impl<'a> Reader<'a> {
    fn take(&mut self, n: u64) -> Result<&'a [u8], GgufError> {
        let truncated = GgufError::Truncated {
            at: self.at,
            wanted: n,
            left: self.rest.len(),
        };
        let Ok(n) = usize::try_from(n) else {
            return Err(truncated);
        };
        let Some((taken, rest)) = self.rest.split_at_checked(n) else {
            return Err(truncated);
        };
        self.rest = rest;
        // At most the length of the slice the reader began with.
        self.at = self.at.saturating_add(n);
        Ok(taken)
    }

    fn array<const N: usize>(&mut self) -> Result<[u8; N], GgufError> {
        let truncated = GgufError::Truncated {
            at: self.at,
            wanted: N as u64,
            left: self.rest.len(),
        };
        let taken = self.take(N as u64)?;
        taken.try_into().map_err(|_| truncated)
    }

    fn u32(&mut self) -> Result<u32, GgufError> {
        Ok(u32::from_le_bytes(self.array()?))
    }

    fn u64(&mut self) -> Result<u64, GgufError> {
        Ok(u64::from_le_bytes(self.array()?))
    }

    fn string(&mut self) -> Result<String, GgufError> {
        let at = self.at;
        let n = within("bytes of a string", self.u64()?, MAX_STRING_BYTES)?;
        let bytes = self.take(n)?;
        std::str::from_utf8(bytes)
            .map(str::to_owned)
            .map_err(|_| GgufError::NotUtf8 { at })
    }

    fn value(&mut self) -> Result<Value, GgufError> {
        match self.u32()? {
            9 => self.values(),
            kind => self.scalar(kind),
        }
    }

    fn scalar(&mut self, kind: u32) -> Result<Value, GgufError> {
        Ok(match kind {
            0 => Value::Unsigned(u8::from_le_bytes(self.array()?).into()),
            1 => Value::Signed(i8::from_le_bytes(self.array()?).into()),
            2 => Value::Unsigned(u16::from_le_bytes(self.array()?).into()),
            3 => Value::Signed(i16::from_le_bytes(self.array()?).into()),
            4 => Value::Unsigned(self.u32()?.into()),
            5 => Value::Signed(i32::from_le_bytes(self.array()?).into()),
            6 => Value::Float(f32::from_le_bytes(self.array()?).into()),
            7 => Value::Bool(u8::from_le_bytes(self.array()?) != 0),
            8 => Value::Text(self.string()?),
            9 => return Err(GgufError::NestedArray),
            10 => Value::Unsigned(self.u64()?),
            11 => Value::Signed(i64::from_le_bytes(self.array()?)),
            12 => Value::Float(f64::from_le_bytes(self.array()?)),
            other => return Err(GgufError::ValueType(other)),
        })
    }

    fn values(&mut self) -> Result<Value, GgufError> {
        let kind = self.u32()?;
        let n = within("items of an array", self.u64()?, MAX_ARRAY_ITEMS)?;
        // The least an item can take: refuses a count that the file cannot hold before memory is asked for.
        let least_bytes: u64 = match kind {
            0 | 1 | 7 => 1,
            2 | 3 => 2,
            4..=6 => 4,
            8 | 10..=12 => 8,
            9 => return Err(GgufError::NestedArray),
            other => return Err(GgufError::ValueType(other)),
        };
        let least = n.saturating_mul(least_bytes);
        if least > self.rest.len() as u64 {
            return Err(GgufError::Truncated {
                at: self.at,
                wanted: least,
                left: self.rest.len(),
            });
        }
        Ok(match kind {
            8 => Value::Texts((0..n).map(|_| self.string()).collect::<Result<_, _>>()?),
            6 | 12 => Value::Floats(
                (0..n)
                    .map(|_| match self.scalar(kind)? {
                        Value::Float(x) => Ok(x),
                        _ => Err(GgufError::ValueType(kind)),
                    })
                    .collect::<Result<_, _>>()?,
            ),
            _ => Value::Integers(
                (0..n)
                    .map(|_| self.integer(kind))
                    .collect::<Result<_, _>>()?,
            ),
        })
    }

    fn integer(&mut self, kind: u32) -> Result<i64, GgufError> {
        let at = self.at;
        match self.scalar(kind)? {
            Value::Unsigned(n) => i64::try_from(n).map_err(|_| GgufError::NumberRange { at }),
            Value::Signed(n) => Ok(n),
            Value::Bool(flag) => Ok(flag.into()),
            _ => Err(GgufError::ValueType(kind)),
        }
    }

    fn tensor(&mut self, name: &str) -> Result<Description, GgufError> {
        let rank = self.u32()?;
        if rank == 0 || rank > MAX_RANK {
            return Err(GgufError::Dimensions {
                tensor: name.to_owned(),
                dims: vec![u64::from(rank)],
            });
        }
        let dims = (0..rank)
            .map(|_| self.u64())
            .collect::<Result<Vec<_>, _>>()?;
        let number = self.u32()?;
        let format = Format::from_number(number).ok_or_else(|| GgufError::TensorFormat {
            tensor: name.to_owned(),
            format: number,
        })?;
        Ok(Description {
            dims,
            format,
            offset: self.u64()?,
        })
    }
}
