//! From the blocks of a file to panels of sixteen interleaved rows.
//!
//! A panel holds 16 rows. First come the scales of all its blocks, padded to 64 bytes, then the codes, 32
//! columns after 32 columns. The scales and minimums keep the bits they have in the file:
//!
//! | layout     | scales                                                                  | codes, bytes per 16 × 32 |
//! |------------|-------------------------------------------------------------------------|-----|
//! | Q4_0       | per block 16 f16 d                                                      | 256 |
//! | Q4_1       | per block 16 f16 d, 16 f16 m                                            | 256 |
//! | Q5_0, Q5_1 | as Q4_0, Q4_1                                                           | 320 |
//! | Q8_0       | per block 16 f16 d                                                      | 512 |
//! | Q4_K, Q5_K | per 256 columns 16 f16 d, 16 f16 dmin, 8 × 16 u8 scales, 8 × 16 u8 mins | 256, 320 |
//! | Q6_K       | per 256 columns 16 f16 d, 16 × 16 i8 scales                             | 384 |
//! | F16, BF16, F32 | none; column after column 16 numbers                                | 1024, 2048 |
//!
//! Codes are unsigned; those of Q4_0, Q5_0, Q8_0 and Q6_K stand 8, 16, 128 and 32 above their value. The 32
//! columns of a block are eight groups of four; byte 4·r + j of a group's 64 bytes belongs to row r, column
//! 4·group + j. Line i (64 bytes) of the first four holds the low four bits of group i and, above them, those of
//! group i + 4. With five bits, a fifth line holds the uppermost bit of group g in bit g of each byte. With six
//! bits, line 4 + g / 4 holds the upper two bits of group g in bits 2·(g mod 4) and the next. With eight bits,
//! line g is group g.

use super::lanes::LANES;
use crate::gguf::Format;

/// Columns of one block.
pub(super) const BLOCK: usize = 32;
/// Columns of a block of blocks.
const SUPER: usize = 256;

/// How one panel is laid out.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[allow(non_camel_case_types)] // the names ggml gives them
pub(super) enum Layout {
    Q4_0,
    Q4_1,
    Q5_0,
    Q5_1,
    Q8_0,
    Q4_K,
    Q5_K,
    Q6_K,
    F16,
    BF16,
    F32,
}

impl Layout {
    /// The layout for a format of a file.
    pub(super) fn of(format: Format) -> Self {
        match format {
            Format::F32 => Self::F32,
            Format::F16 => Self::F16,
            Format::Q4_0 => Self::Q4_0,
            Format::Q4_1 => Self::Q4_1,
            Format::Q8_0 => Self::Q8_0,
            Format::BF16 => Self::BF16,
            Format::Q5_0 => Self::Q5_0,
            Format::Q5_1 => Self::Q5_1,
            Format::Q4_K => Self::Q4_K,
            Format::Q5_K => Self::Q5_K,
            Format::Q6_K => Self::Q6_K,
        }
    }

    /// Columns and bytes of one block in the file.
    pub(super) const fn source(self) -> (usize, usize) {
        match self {
            Self::Q4_0 => (BLOCK, 18),
            Self::Q4_1 => (BLOCK, 20),
            Self::Q5_0 => (BLOCK, 22),
            Self::Q5_1 => (BLOCK, 24),
            Self::Q8_0 => (BLOCK, 34),
            Self::Q4_K => (SUPER, 144),
            Self::Q5_K => (SUPER, 176),
            Self::Q6_K => (SUPER, 210),
            Self::F16 | Self::BF16 => (1, 2),
            Self::F32 => (1, 4),
        }
    }

    /// Bits of one code; 0 for the layouts without blocks.
    const fn bits(self) -> usize {
        match self {
            Self::Q4_0 | Self::Q4_1 | Self::Q4_K => 4,
            Self::Q5_0 | Self::Q5_1 | Self::Q5_K => 5,
            Self::Q6_K => 6,
            Self::Q8_0 => 8,
            Self::F16 | Self::BF16 | Self::F32 => 0,
        }
    }

    /// What was added to a value to make its code unsigned.
    const fn offset(self) -> i32 {
        match self {
            Self::Q4_0 => 8,
            Self::Q5_0 => 16,
            Self::Q8_0 => 128,
            Self::Q6_K => 32,
            _ => 0,
        }
    }

    /// Bytes of the scales of one panel.
    pub(super) const fn scale_bytes(self, columns: usize) -> usize {
        let bytes = match self {
            Self::Q4_0 | Self::Q5_0 | Self::Q8_0 => columns / BLOCK * 32,
            Self::Q4_1 | Self::Q5_1 => columns / BLOCK * 64,
            Self::Q4_K | Self::Q5_K => columns / SUPER * 320,
            Self::Q6_K => columns / SUPER * 288,
            Self::F16 | Self::BF16 | Self::F32 => 0,
        };
        bytes.next_multiple_of(64)
    }

    /// Bytes of one panel.
    pub(super) const fn panel_bytes(self, columns: usize) -> usize {
        let codes = match self {
            Self::F16 | Self::BF16 => columns * 2 * LANES,
            Self::F32 => columns * 4 * LANES,
            _ => columns / BLOCK * self.bits() * 64,
        };
        self.scale_bytes(columns) + codes.next_multiple_of(64)
    }
}

/// One block of the file, taken apart.
struct Block {
    codes: [u8; SUPER],
    /// d, and m or dmin: f16 as stored.
    d: [u8; 2],
    m: [u8; 2],
    /// Of the K layouts: per 32 columns, or per 16.
    scales: [u8; 16],
    minimums: [u8; 8],
}

impl Block {
    const EMPTY: Self = Self {
        codes: [0; SUPER],
        d: [0; 2],
        m: [0; 2],
        scales: [0; 16],
        minimums: [0; 8],
    };

    /// Takes apart `b`, which has the bytes of one block of the layout; see ggml's `ggml-quants.c`.
    fn read(&mut self, layout: Layout, b: &[u8]) {
        let codes = &mut self.codes;
        if layout != Layout::Q6_K {
            self.d = [b[0], b[1]];
            self.m = [b[2], b[3]];
        }
        match layout {
            Layout::Q4_0 | Layout::Q4_1 => {
                let nibbles = &b[if layout == Layout::Q4_0 { 2 } else { 4 }..];
                for i in 0..16 {
                    codes[i] = nibbles[i] & 15;
                    codes[i + 16] = nibbles[i] >> 4;
                }
            }
            Layout::Q5_0 | Layout::Q5_1 => {
                let b = &b[if layout == Layout::Q5_0 { 2 } else { 4 }..];
                let high = u32::from_le_bytes([b[0], b[1], b[2], b[3]]);
                let bit = |i: usize| ((high >> i & 1) as u8) << 4;
                for i in 0..16 {
                    codes[i] = b[4 + i] & 15 | bit(i);
                    codes[i + 16] = b[4 + i] >> 4 | bit(i + 16);
                }
            }
            Layout::Q8_0 => {
                for i in 0..32 {
                    codes[i] = b[2 + i] ^ 0x80;
                }
            }
            Layout::Q4_K | Layout::Q5_K => {
                let s = &b[4..16];
                for j in 0..8 {
                    (self.scales[j], self.minimums[j]) = if j < 4 {
                        (s[j] & 63, s[j + 4] & 63)
                    } else {
                        (
                            s[j + 4] & 15 | s[j - 4] >> 6 << 4,
                            s[j + 4] >> 4 | s[j] >> 6 << 4,
                        )
                    };
                }
                let nibbles = &b[if layout == Layout::Q4_K { 16 } else { 48 }..];
                for e in 0..SUPER {
                    let (block, i) = (e / 32, e % 32);
                    codes[e] = nibbles[block / 2 * 32 + i] >> (block % 2 * 4) & 15;
                    if layout == Layout::Q5_K {
                        codes[e] |= (b[16 + i] >> block & 1) << 4;
                    }
                }
            }
            Layout::Q6_K => {
                for e in 0..SUPER {
                    let (half, quarter, i) = (e / 128, e % 128 / 32, e % 32);
                    let low = b[half * 64 + quarter % 2 * 32 + i] >> (quarter / 2 * 4) & 15;
                    let high = b[128 + half * 32 + i] >> (2 * quarter) & 3;
                    codes[e] = low | high << 4;
                }
                self.scales.copy_from_slice(&b[192..208]);
                self.d = [b[208], b[209]];
            }
            Layout::F16 | Layout::BF16 | Layout::F32 => {}
        }
    }

    /// Writes this block, the `block`-th of the row, into its panel as row `row`, 0 to 15.
    fn place(&self, layout: Layout, columns: usize, panel: &mut [u8], block: usize, row: usize) {
        let (scales, codes) = panel.split_at_mut(layout.scale_bytes(columns));
        match layout {
            Layout::Q4_0 | Layout::Q5_0 | Layout::Q8_0 => {
                scales[block * 32 + row * 2..][..2].copy_from_slice(&self.d);
            }
            Layout::Q4_1 | Layout::Q5_1 => {
                let of_block = &mut scales[block * 64..][..64];
                of_block[row * 2..][..2].copy_from_slice(&self.d);
                of_block[32 + row * 2..][..2].copy_from_slice(&self.m);
            }
            Layout::Q4_K | Layout::Q5_K => {
                let of_block = &mut scales[block * 320..][..320];
                of_block[row * 2..][..2].copy_from_slice(&self.d);
                of_block[32 + row * 2..][..2].copy_from_slice(&self.m);
                for j in 0..8 {
                    of_block[64 + j * 16 + row] = self.scales[j];
                    of_block[192 + j * 16 + row] = self.minimums[j];
                }
            }
            Layout::Q6_K => {
                let of_block = &mut scales[block * 288..][..288];
                of_block[row * 2..][..2].copy_from_slice(&self.d);
                for j in 0..16 {
                    of_block[32 + j * 16 + row] = self.scales[j];
                }
            }
            Layout::F16 | Layout::BF16 | Layout::F32 => {}
        }
        let (elements, _) = layout.source();
        let bits = layout.bits();
        for (i, chunk) in self.codes[..elements].chunks_exact(BLOCK).enumerate() {
            let lines = &mut codes[(block * elements / BLOCK + i) * bits * 64..][..bits * 64];
            for (c, &code) in chunk.iter().enumerate() {
                let (group, byte) = (c / 4, row * 4 + c % 4);
                if bits == 8 {
                    lines[group * 64 + byte] = code;
                    continue;
                }
                lines[group % 4 * 64 + byte] |= (code & 15) << (group / 4 * 4);
                match bits {
                    5 => lines[4 * 64 + byte] |= (code >> 4) << group,
                    6 => lines[(4 + group / 4) * 64 + byte] |= (code >> 4) << (2 * (group % 4)),
                    _ => {}
                }
            }
        }
    }
}

/// Packs one row of a file, `bytes`, into a zeroed `panel` as its row `row`.
pub(super) fn pack_row(layout: Layout, columns: usize, bytes: &[u8], panel: &mut [u8], row: usize) {
    let (elements, size) = layout.source();
    if elements == 1 {
        for (column, number) in bytes.chunks_exact(size).enumerate() {
            panel[(column * LANES + row) * size..][..size].copy_from_slice(number);
        }
        return;
    }
    let mut block = Block::EMPTY;
    for (i, b) in bytes.chunks_exact(size).enumerate() {
        block.read(layout, b);
        block.place(layout, columns, panel, i, row);
    }
}

/// Row `row` of a panel as numbers: for the formats of blocks, exactly the arithmetic that
/// [`crate::gguf::dequantise`] does.
pub(super) fn unpack_row(layout: Layout, panel: &[u8], row: usize, out: &mut [f32]) {
    use half::{bf16, f16};
    let columns = out.len();
    let (scales, codes) = panel.split_at(layout.scale_bytes(columns));
    let pair = |at: usize| [codes[at], codes[at + 1]];
    match layout {
        Layout::F16 => {
            for (c, o) in out.iter_mut().enumerate() {
                *o = f16::from_le_bytes(pair((c * LANES + row) * 2)).to_f32();
            }
            return;
        }
        Layout::BF16 => {
            for (c, o) in out.iter_mut().enumerate() {
                *o = bf16::from_le_bytes(pair((c * LANES + row) * 2)).to_f32();
            }
            return;
        }
        Layout::F32 => {
            for (c, o) in out.iter_mut().enumerate() {
                let at = (c * LANES + row) * 4;
                let ([a, b], [c, d]) = (pair(at), pair(at + 2));
                *o = f32::from_le_bytes([a, b, c, d]);
            }
            return;
        }
        _ => {}
    }
    let half = |at: usize| f16::from_le_bytes([scales[at], scales[at + 1]]).to_f32();
    let bits = layout.bits();
    for (c, o) in out.iter_mut().enumerate() {
        let block = c / BLOCK;
        let lines = &codes[block * bits * 64..][..bits * 64];
        let (group, byte) = (c % BLOCK / 4, row * 4 + c % 4);
        let code = if bits == 8 {
            lines[group * 64 + byte]
        } else {
            let low = lines[group % 4 * 64 + byte] >> (group / 4 * 4) & 15;
            match bits {
                5 => low | (lines[4 * 64 + byte] >> group & 1) << 4,
                6 => low | (lines[(4 + group / 4) * 64 + byte] >> (2 * (group % 4)) & 3) << 4,
                _ => low,
            }
        };
        let value = (i32::from(code) - layout.offset()) as f32;
        *o = match layout {
            Layout::Q4_1 | Layout::Q5_1 => {
                half(block * 64 + row * 2) * value + half(block * 64 + 32 + row * 2)
            }
            Layout::Q4_K | Layout::Q5_K => {
                let (at, j) = (block / 8 * 320, block % 8);
                let scale = half(at + row * 2) * f32::from(scales[at + 64 + j * 16 + row]);
                let minimum = half(at + 32 + row * 2) * f32::from(scales[at + 192 + j * 16 + row]);
                scale * value - minimum
            }
            Layout::Q6_K => {
                let (at, j) = (c / SUPER * 288, c % SUPER / 16);
                let scale = f32::from(scales[at + 32 + j * 16 + row].cast_signed());
                half(at + row * 2) * scale * value
            }
            _ => half(block * 32 + row * 2) * value,
        };
    }
}
