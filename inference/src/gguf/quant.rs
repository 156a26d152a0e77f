//! ggml's number formats, back to f32.
//!
//! Block layouts after ggml's `ggml-common.h`, arithmetic after `dequantize_row_*` in its `ggml-quants.c`.
//! A block of the plain formats holds 32 elements of one row; `d` and `m` are f16:
//!
//! | format | bytes | layout                                     | element          |
//! |--------|-------|--------------------------------------------|------------------|
//! | Q4_0   | 18    | d, 16 × two nibbles                        | d · (q − 8)      |
//! | Q4_1   | 20    | d, m, 16 × two nibbles                     | d · q + m        |
//! | Q5_0   | 22    | d, 32 × fifth bits, 16 × two nibbles       | d · (q − 16)     |
//! | Q5_1   | 24    | d, m, 32 × fifth bits, 16 × two nibbles    | d · q + m        |
//! | Q8_0   | 34    | d, 32 × i8                                 | d · q            |
//!
//! Low nibbles are elements 0 to 15, high nibbles 16 to 31; fifth bits are in order. The formats with 256
//! elements to a block are in [`super::superblock`].

use half::{bf16, f16};

use super::{GgufError, superblock};

const BLOCK: usize = 32;
/// Elements of one block of the K formats (ggml's `QK_K`).
const SUPERBLOCK: usize = 256;

/// How the elements of a tensor are stored.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[allow(
    non_camel_case_types,
    reason = "these are the names that everybody knows them by"
)]
pub enum Format {
    /// IEEE single precision.
    F32,
    /// IEEE half precision.
    F16,
    /// The upper half of a single: eight bits of exponent, seven of fraction.
    BF16,
    /// 4-bit blocks with a scale.
    Q4_0,
    /// 4-bit blocks with a scale and a minimum.
    Q4_1,
    /// 5-bit blocks with a scale.
    Q5_0,
    /// 5-bit blocks with a scale and a minimum.
    Q5_1,
    /// 8-bit blocks with a scale.
    Q8_0,
    /// 4-bit, 256 to a block; 6-bit scale and minimum per 32.
    Q4_K,
    /// 5-bit, 256 to a block; 6-bit scale and minimum per 32.
    Q5_K,
    /// 6-bit, 256 to a block; 8-bit scale per 16.
    Q6_K,
}

impl Format {
    /// Every format.
    pub const ALL: [Self; 11] = [
        Self::F32,
        Self::F16,
        Self::BF16,
        Self::Q4_0,
        Self::Q4_1,
        Self::Q5_0,
        Self::Q5_1,
        Self::Q8_0,
        Self::Q4_K,
        Self::Q5_K,
        Self::Q6_K,
    ];

    /// The format with this ggml type number, if it is one we read.
    pub fn from_number(number: u32) -> Option<Self> {
        Self::ALL
            .into_iter()
            .find(|format| format.number() == number)
    }

    /// ggml's type number (`ggml_type` in `ggml.h`).
    pub const fn number(self) -> u32 {
        match self {
            Self::F32 => 0,
            Self::F16 => 1,
            Self::Q4_0 => 2,
            Self::Q4_1 => 3,
            Self::Q5_0 => 6,
            Self::Q5_1 => 7,
            Self::Q8_0 => 8,
            Self::Q4_K => 12,
            Self::Q5_K => 13,
            Self::Q6_K => 14,
            Self::BF16 => 30,
        }
    }

    /// Elements in one block; 1 for the formats without blocks.
    pub const fn block_elements(self) -> usize {
        match self {
            Self::F32 | Self::F16 | Self::BF16 => 1,
            Self::Q4_0 | Self::Q4_1 | Self::Q5_0 | Self::Q5_1 | Self::Q8_0 => BLOCK,
            Self::Q4_K | Self::Q5_K | Self::Q6_K => SUPERBLOCK,
        }
    }

    /// Bytes of one block.
    pub const fn block_bytes(self) -> usize {
        match self {
            Self::F32 => 4,
            Self::F16 | Self::BF16 => 2,
            Self::Q4_0 => 18,
            Self::Q4_1 => 20,
            Self::Q5_0 => 22,
            Self::Q5_1 => 24,
            Self::Q8_0 => 34,
            Self::Q4_K => superblock::Q4_K_BYTES,
            Self::Q5_K => superblock::Q5_K_BYTES,
            Self::Q6_K => superblock::Q6_K_BYTES,
        }
    }

    /// Bytes of a row of `elements`; `None` when they are not whole blocks.
    pub fn row_bytes(self, elements: usize) -> Option<usize> {
        if !elements.is_multiple_of(self.block_elements()) {
            return None;
        }
        elements
            .checked_div(self.block_elements())?
            .checked_mul(self.block_bytes())
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
        Format::BF16 => out.extend(
            bytes
                .as_chunks::<2>()
                .0
                .iter()
                .map(|b| bf16::from_le_bytes(*b).to_f32()),
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
        Format::Q5_0 => {
            for [d0, d1, h0, h1, h2, h3, nibbles @ ..] in bytes.as_chunks::<22>().0 {
                let d = f16::from_le_bytes([*d0, *d1]).to_f32();
                let fifth = u32::from_le_bytes([*h0, *h1, *h2, *h3]);
                out.extend(five_bits(nibbles, fifth).map(|q| (q - 16.0) * d));
            }
        }
        Format::Q5_1 => {
            for [d0, d1, m0, m1, h0, h1, h2, h3, nibbles @ ..] in bytes.as_chunks::<24>().0 {
                let d = f16::from_le_bytes([*d0, *d1]).to_f32();
                let m = f16::from_le_bytes([*m0, *m1]).to_f32();
                let fifth = u32::from_le_bytes([*h0, *h1, *h2, *h3]);
                out.extend(five_bits(nibbles, fifth).map(|q| q * d + m));
            }
        }
        Format::Q4_K => superblock::each(bytes, out, superblock::q4_k),
        Format::Q5_K => superblock::each(bytes, out, superblock::q5_k),
        Format::Q6_K => superblock::each(bytes, out, superblock::q6_k),
        Format::Q8_0 => {
            for [d0, d1, values @ ..] in bytes.as_chunks::<34>().0 {
                let d = f16::from_le_bytes([*d0, *d1]).to_f32();
                out.extend(values.iter().map(|q| d * f32::from(q.cast_signed())));
            }
        }
    }
    Ok(())
}

/// The 32 elements of a block of Q5_0 or Q5_1, from 0 to 31: four bits of each in `nibbles`, the fifth in
/// `fifth`.
fn five_bits(nibbles: &[u8; 16], fifth: u32) -> impl Iterator<Item = f32> {
    let low = nibbles.iter().map(|q| q & 15);
    let high = nibbles.iter().map(|q| q >> 4);
    low.chain(high).zip(0u32..).map(move |(q, i)| {
        let top = if (fifth >> i) & 1 == 1 { 16 } else { 0 };
        f32::from(q | top)
    })
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

    /// Blocks and what PyPI's `gguf` reads in them, as `reference/quants.py` wrote them: format number,
    /// number of bytes, the bytes, number of elements, the elements.
    #[test]
    fn every_format_is_read_as_an_independent_implementation_reads_it() {
        let fixture = include_bytes!("../../tests/fixtures/quants.bin");
        let mut rest = &fixture[..];
        let mut seen = vec![];
        let number = |rest: &mut &[u8]| {
            let (n, after) = rest.split_first_chunk::<4>().unwrap();
            *rest = after;
            u32::from_le_bytes(*n)
        };
        while !rest.is_empty() {
            let format = Format::from_number(number(&mut rest)).unwrap();
            let bytes = number(&mut rest) as usize;
            let (block, after) = rest.split_at(bytes);
            rest = after;
            let elements = number(&mut rest) as usize;
            let (values, after) = rest.split_at(elements * 4);
            rest = after;
            let wanted = read(Format::F32, values);
            let got = read(format, block);
            assert_eq!(got.len(), wanted.len(), "{format:?}");
            for (i, (got, wanted)) in got.iter().zip(&wanted).enumerate() {
                assert_eq!(got.to_bits(), wanted.to_bits(), "{format:?} element {i}");
            }
            seen.push(format);
        }
        assert_eq!(seen, Format::ALL);
    }

    #[test]
    fn a_partial_block_is_refused() {
        for format in Format::ALL {
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
