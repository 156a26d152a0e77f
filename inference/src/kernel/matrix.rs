//! Weights as they lie in memory: packed into panels, still in their format.

use super::{
    lanes::LANES,
    pack::{Layout, pack_row, unpack_row},
    store::Store,
};
use crate::gguf::Format;

/// Why weights could not be packed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum KernelError {
    /// A row is not a whole number of blocks.
    #[error("rows of {columns} columns are not whole blocks of {format:?}")]
    PartialBlock {
        /// The format.
        format: Format,
        /// Columns asked for.
        columns: usize,
    },
    /// Bytes and shape contradict one another.
    #[error("{rows} rows of {columns} columns in {format:?} are not {bytes} bytes")]
    Length {
        /// The format.
        format: Format,
        /// Rows asked for.
        rows: usize,
        /// Columns asked for.
        columns: usize,
        /// Bytes given.
        bytes: usize,
    },
    /// The order of the rows names one that is not there.
    #[error("row {row} of {rows} rows")]
    Row {
        /// The row named.
        row: usize,
        /// Rows there are.
        rows: usize,
    },
    /// There is no memory for so much.
    #[error("no memory for {bytes} bytes of weights")]
    Memory {
        /// Bytes asked for.
        bytes: usize,
    },
}

/// Some rows of a matrix as a file stores them.
pub struct Part<'a> {
    /// How the elements are stored.
    pub format: Format,
    /// `rows` rows of the matrix's columns, each a whole number of blocks.
    pub bytes: &'a [u8],
    /// Rows.
    pub rows: usize,
    /// The i-th row of the matrix is row `order(i)` of the bytes; `None`: as stored.
    pub order: Option<&'a dyn Fn(usize) -> usize>,
}

/// A matrix of weights, row-major to its users, for [`super::Compute::multiply`].
///
/// It takes about the bytes of the file; rows are padded to a multiple of 16 per part.
pub struct Matrix {
    slabs: Vec<Slab>,
    rows: usize,
    columns: usize,
}

/// The panels of one part.
pub(super) struct Slab {
    pub(super) layout: Layout,
    /// Where its rows begin in the matrix.
    pub(super) first_row: usize,
    pub(super) rows: usize,
    store: Store,
}

impl Slab {
    pub(super) fn panels(&self) -> usize {
        self.rows.div_ceil(LANES)
    }
    pub(super) fn bytes(&self) -> &[u8] {
        self.store.bytes()
    }
}

impl Matrix {
    /// Packs `parts`, one below the other; their formats may differ.
    ///
    /// # Errors
    /// [`KernelError`] where the bytes do not have the shape said, or there is no memory.
    pub fn pack(parts: &[Part<'_>], columns: usize) -> Result<Self, KernelError> {
        let mut matrix = Self {
            slabs: Vec::with_capacity(parts.len()),
            rows: 0,
            columns,
        };
        for part in parts {
            let slab = pack_part(part, columns, matrix.rows)?;
            matrix.rows = matrix.rows.saturating_add(part.rows);
            matrix.slabs.push(slab);
        }
        Ok(matrix)
    }

    /// Rows of all parts.
    pub fn rows(&self) -> usize {
        self.rows
    }

    /// Columns.
    pub fn columns(&self) -> usize {
        self.columns
    }

    /// Bytes of memory, padding included.
    pub fn bytes(&self) -> usize {
        self.slabs.iter().map(|s| s.bytes().len()).sum()
    }

    /// Writes row `row` into `out`, dequantised exactly as the file says.
    ///
    /// # Panics
    /// Where there is no such row, or `out` is not one row long.
    pub fn row(&self, row: usize, out: &mut [f32]) {
        assert_eq!(
            out.len(),
            self.columns,
            "the row's buffer has another length"
        );
        let slab = self
            .slabs
            .iter()
            .find(|s| (s.first_row..s.first_row + s.rows).contains(&row));
        assert!(slab.is_some(), "row {row} of {} rows", self.rows);
        if let Some(slab) = slab {
            let row = row - slab.first_row;
            let size = slab.layout.panel_bytes(self.columns);
            let panel = &slab.bytes()[row / LANES * size..][..size];
            unpack_row(slab.layout, panel, row % LANES, out);
        }
    }

    pub(super) fn slabs(&self) -> &[Slab] {
        &self.slabs
    }
}

fn pack_part(part: &Part<'_>, columns: usize, first_row: usize) -> Result<Slab, KernelError> {
    let Part { format, rows, .. } = *part;
    let layout = Layout::of(format);
    let (elements, size) = layout.source();
    if !columns.is_multiple_of(elements) {
        return Err(KernelError::PartialBlock { format, columns });
    }
    let wrong = KernelError::Length {
        format,
        rows,
        columns,
        bytes: part.bytes.len(),
    };
    let row_bytes = (columns / elements).checked_mul(size);
    let Some(row_bytes) = row_bytes.filter(|b| b.checked_mul(rows) == Some(part.bytes.len()))
    else {
        return Err(wrong);
    };
    let panels = rows.div_ceil(LANES);
    // The bytes are in memory, so that sixteen times their number cannot overflow.
    let panel_bytes = layout.panel_bytes(columns);
    let memory = KernelError::Memory {
        bytes: panels.saturating_mul(panel_bytes),
    };
    let total = panels.checked_mul(panel_bytes);
    let Some(mut store) = total.and_then(Store::zeroed) else {
        return Err(memory);
    };
    let bytes = store.bytes_mut();
    for row in 0..rows {
        let from = part.order.map_or(row, |order| order(row));
        if from >= rows {
            return Err(KernelError::Row { row: from, rows });
        }
        pack_row(
            layout,
            &part.bytes[from * row_bytes..][..row_bytes],
            &mut bytes[row / LANES * panel_bytes..][..panel_bytes],
            row % LANES,
        );
    }
    Ok(Slab {
        layout,
        first_row,
        rows,
        store,
    })
}
