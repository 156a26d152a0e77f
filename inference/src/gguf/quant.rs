//! ggml's number formats, back to f32.
//!
//! Block layouts after ggml's `ggml-common.h`. A block holds 32 elements of one row; `d` and `m` are f16:
//!
//! | format | bytes | layout                  | element                        |
//! |--------|-------|-------------------------|--------------------------------|
//! | Q4_0   | 18    | d, 16 × two nibbles     | d · (q − 8)                    |
//! | Q4_1   | 20    | d, m, 16 × two nibbles  | d · q + m                      |
//! | Q8_0   | 34    | d, 32 × i8              | d · q                          |
//!
//! Low nibbles are elements 0 to 15, high nibbles 16 to 31.

use half::f16;

use super::GgufError;

const BLOCK: usize = 32;

/// How the elements of a tensor are stored.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Format {
    /// IEEE single precision.
    F32,
    /// IEEE half precision.
    F16,
    /// 4-bit blocks with a scale.
    Q4_0,
    /// 4-bit blocks with a scale and a minimum.
    Q4_1,
    /// 8-bit blocks with a scale.
    Q8_0,
}

impl Format {
    /// The format with this ggml type number, if it is one we read.
    pub fn from_number(number: u32) -> Option<Self> {
        match number {
            0 => Some(Self::F32),
            1 => Some(Self::F16),
            2 => Some(Self::Q4_0),
            3 => Some(Self::Q4_1),
            8 => Some(Self::Q8_0),
            _ => None,
        }
    }

    /// Elements in one block; 1 for the formats without blocks.
    pub const fn block_elements(self) -> usize {
        match self {
            Self::F32 | Self::F16 => 1,
            Self::Q4_0 | Self::Q4_1 | Self::Q8_0 => BLOCK,
        }
    }

    /// Bytes of one block.
    pub const fn block_bytes(self) -> usize {
        match self {
            Self::F32 => 4,
            Self::F16 => 2,
            Self::Q4_0 => 18,
            Self::Q4_1 => 20,
            Self::Q8_0 => 34,
        }
    }
}

/// Turns stored elements into f32, appending them to `out`.
///
/// # Errors
/// [`GgufError::PartialBlock`] when `bytes` is not a whole number of blocks; `out` is then unchanged.
pub fn dequantise(format: Format, bytes: &[u8], out: &mut Vec<f32>) -> Result<(), GgufError> {
    if !bytes.len().is_multiple_of(format.block_bytes()) {
        return Err(GgufError::PartialBlock {
            format,
            bytes: bytes.len(),
        });
    }
    match format {
        Format::F32 => out.extend(
            bytes
                .as_chunks::<4>()
                .0
                .iter()
                .map(|b| f32::from_le_bytes(*b)),
        ),
        Format::F16 => out.extend(
            bytes
                .as_chunks::<2>()
                .0
                .iter()
                .map(|b| f16::from_le_bytes(*b).to_f32()),
        ),
        Format::Q4_0 => {
            for [d0, d1, nibbles @ ..] in bytes.as_chunks::<18>().0 {
                let d = f16::from_le_bytes([*d0, *d1]).to_f32();
                out.extend(nibbles.iter().map(|q| d * (f32::from(q & 15) - 8.0)));
                out.extend(nibbles.iter().map(|q| d * (f32::from(q >> 4) - 8.0)));
            }
        }
        Format::Q4_1 => {
            for [d0, d1, m0, m1, nibbles @ ..] in bytes.as_chunks::<20>().0 {
                let d = f16::from_le_bytes([*d0, *d1]).to_f32();
                let m = f16::from_le_bytes([*m0, *m1]).to_f32();
                out.extend(nibbles.iter().map(|q| d * f32::from(q & 15) + m));
                out.extend(nibbles.iter().map(|q| d * f32::from(q >> 4) + m));
            }
        }
        Format::Q8_0 => {
            for [d0, d1, values @ ..] in bytes.as_chunks::<34>().0 {
                let d = f16::from_le_bytes([*d0, *d1]).to_f32();
                out.extend(values.iter().map(|q| d * f32::from(q.cast_signed())));
            }
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    #![allow(
        clippy::unwrap_used,
        clippy::expect_used,
        clippy::indexing_slicing,
        clippy::arithmetic_side_effects
    )]
    use super::*;

    fn read(format: Format, bytes: &[u8]) -> Vec<f32> {
        let mut out = vec![];
        dequantise(format, bytes, &mut out).unwrap();
        out
    }

    #[test]
    fn q4_0_puts_low_nibbles_first_and_centres_on_eight() {
        let mut block = f16::from_f32(0.5).to_le_bytes().to_vec();
        block.extend((0..16u8).map(|i| i | ((15 - i) << 4)));
        let got = read(Format::Q4_0, &block);
        let wanted: Vec<f32> = (0..16)
            .chain((0..16).rev())
            .map(|q| 0.5 * (q as f32 - 8.0))
            .collect();
        assert_eq!(got, wanted);
    }

    #[test]
    fn q4_1_adds_the_minimum_of_the_block() {
        let mut block = f16::from_f32(0.25).to_le_bytes().to_vec();
        block.extend(f16::from_f32(-1.0).to_le_bytes());
        block.extend((0..16u8).map(|i| i | ((15 - i) << 4)));
        let got = read(Format::Q4_1, &block);
        let wanted: Vec<f32> = (0..16)
            .chain((0..16).rev())
            .map(|q| 0.25 * q as f32 - 1.0)
            .collect();
        assert_eq!(got, wanted);
    }

    #[test]
    fn q8_0_reads_signed_bytes() {
        let mut block = f16::from_f32(2.0).to_le_bytes().to_vec();
        block.extend((0..32i32).map(|i| (i * 8 - 128) as i8 as u8));
        let got = read(Format::Q8_0, &block);
        let wanted: Vec<f32> = (0..32).map(|i| 2.0 * (i * 8 - 128) as f32).collect();
        assert_eq!(got, wanted);
    }

    #[test]
    fn plain_formats_read_their_own_bytes() {
        let numbers = [1.5f32, -0.0, f32::MAX, 1e-40];
        let bytes: Vec<u8> = numbers.iter().flat_map(|x| x.to_le_bytes()).collect();
        assert_eq!(read(Format::F32, &bytes), numbers);
        let halves: Vec<u8> = [1.5f32, -2.0]
            .iter()
            .flat_map(|x| f16::from_f32(*x).to_le_bytes())
            .collect();
        assert_eq!(read(Format::F16, &halves), [1.5, -2.0]);
    }

    #[test]
    fn a_partial_block_is_refused() {
        for format in [
            Format::F32,
            Format::F16,
            Format::Q4_0,
            Format::Q4_1,
            Format::Q8_0,
        ] {
            let mut out = vec![];
            let bytes = vec![0; format.block_bytes() * 3 - 1];
            assert!(matches!(
                dequantise(format, &bytes, &mut out),
                Err(GgufError::PartialBlock { .. })
            ));
            assert!(out.is_empty());
        }
    }
}
