//! From the blocks of a file to panels of sixteen interleaved rows.
//!
//! A panel holds 16 rows and is one run of bytes that a product reads from the first to the last: units of 1, 2
//! or 8 blocks of 32 columns, each unit its scales, padded to 64 bytes, then its codes, 16 rows × 32 columns after
//! 16 × 32. (The last unit may have fewer blocks.) Scales and minimums keep the bits they have in the file:
//!
//! | layout     | blocks of a unit | its scales                                                | bytes | codes of a block |
//! |------------|---|--------------------------------------------------------------------------|-----|-----|
//! | Q4_0       | 2 | per block 16 f16 d                                                       | 64  | 256 |
//! | Q5_0       | 2 | likewise                                                                 | 64  | 320 |
//! | Q8_0       | 2 | likewise                                                                 | 64  | 512 |
//! | Q4_1       | 1 | 16 f16 d, 16 f16 m                                                       | 64  | 256 |
//! | Q5_1       | 1 | likewise                                                                 | 64  | 320 |
//! | Q4_K       | 8 | 16 f16 d, 16 f16 dmin, per block 16 u8 scales, per block 16 u8 minimums  | 320 | 256 |
//! | Q5_K       | 8 | likewise                                                                 | 320 | 320 |
//! | Q6_K       | 8 | 16 f16 d, per half block 16 i8 scales                                    | 320 | 384 |
//!
//! F16, BF16 and F32 have no scales: column after column 16 numbers.
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

    /// Blocks of one unit.
    pub(super) const fn unit_blocks(self) -> usize {
        match self {
            Self::Q4_0 | Self::Q5_0 | Self::Q8_0 => 2,
            Self::Q4_K | Self::Q5_K | Self::Q6_K => SUPER / BLOCK,
            _ => 1,
        }
    }

    /// Bytes of the scales of one unit.
    pub(super) const fn scale_bytes(self) -> usize {
        match self {
            Self::Q4_K | Self::Q5_K | Self::Q6_K => 320,
            _ => 64,
        }
    }

    /// Bytes of one whole unit.
    pub(super) const fn unit_bytes(self) -> usize {
        self.scale_bytes() + self.unit_blocks() * self.bits() * 64
    }

    /// Bytes of one panel.
    pub(super) const fn panel_bytes(self, columns: usize) -> usize {
        let bytes = match self {
            Self::F16 | Self::BF16 => columns * 2 * LANES,
            Self::F32 => columns * 4 * LANES,
            _ => {
                let blocks = columns / BLOCK;
                let units = blocks.div_ceil(self.unit_blocks());
                units * self.scale_bytes() + blocks * self.bits() * 64
            }
        };
        bytes.next_multiple_of(64)
    }

    /// Where the scales of a block's unit and the block's codes begin in a panel.
    fn find(self, block: usize) -> (usize, usize) {
        let unit = block / self.unit_blocks() * self.unit_bytes();
        let within = block % self.unit_blocks() * self.bits() * 64;
        (unit, unit + self.scale_bytes() + within)
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

    /// Writes this block, the `index`-th of the row, into its panel as row `row`, 0 to 15.
    fn place(&self, layout: Layout, panel: &mut [u8], index: usize, row: usize) {
        let (elements, _) = layout.source();
        let first = index * elements / BLOCK;
        let (at, _) = layout.find(first);
        let scales = &mut panel[at..][..layout.scale_bytes()];
        match layout {
            Layout::Q4_0 | Layout::Q5_0 | Layout::Q8_0 => {
                scales[first % 2 * 32 + row * 2..][..2].copy_from_slice(&self.d);
            }
            Layout::Q4_1 | Layout::Q5_1 => {
                scales[row * 2..][..2].copy_from_slice(&self.d);
                scales[32 + row * 2..][..2].copy_from_slice(&self.m);
            }
            Layout::Q4_K | Layout::Q5_K => {
                scales[row * 2..][..2].copy_from_slice(&self.d);
                scales[32 + row * 2..][..2].copy_from_slice(&self.m);
                for j in 0..8 {
                    scales[64 + j * 16 + row] = self.scales[j];
                    scales[192 + j * 16 + row] = self.minimums[j];
                }
            }
            Layout::Q6_K => {
                scales[row * 2..][..2].copy_from_slice(&self.d);
                for j in 0..16 {
                    scales[32 + j * 16 + row] = self.scales[j];
                }
            }
            Layout::F16 | Layout::BF16 | Layout::F32 => {}
        }
        let bits = layout.bits();
        for (i, chunk) in self.codes[..elements].chunks_exact(BLOCK).enumerate() {
            let (_, at) = layout.find(first + i);
            let lines = &mut panel[at..][..bits * 64];
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
pub(super) fn pack_row(layout: Layout, bytes: &[u8], panel: &mut [u8], row: usize) {
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
        block.place(layout, panel, i, row);
    }
}

/// Row `row` of a panel as numbers: for the formats of blocks, exactly the arithmetic that
/// [`crate::gguf::dequantise`] does.
pub(super) fn unpack_row(layout: Layout, panel: &[u8], row: usize, out: &mut [f32]) {
    use half::{bf16, f16};
    let pair = |at: usize| [panel[at], panel[at + 1]];
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
    let half = |at: usize| f16::from_le_bytes(pair(at)).to_f32();
    let bits = layout.bits();
    for (c, o) in out.iter_mut().enumerate() {
        let block = c / BLOCK;
        let (at, codes) = layout.find(block);
        let lines = &panel[codes..][..bits * 64];
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
            Layout::Q4_1 | Layout::Q5_1 => half(at + row * 2) * value + half(at + 32 + row * 2),
            Layout::Q4_K | Layout::Q5_K => {
                let j = block % 8;
                let scale = half(at + row * 2) * f32::from(panel[at + 64 + j * 16 + row]);
                let minimum = half(at + 32 + row * 2) * f32::from(panel[at + 192 + j * 16 + row]);
                scale * value - minimum
            }
            Layout::Q6_K => {
                let j = c % SUPER / 16;
                let scale = f32::from(panel[at + 32 + j * 16 + row].cast_signed());
                half(at + row * 2) * scale * value
            }
            _ => half(at + block % 2 * 32 + row * 2) * value,
        };
    }
}
