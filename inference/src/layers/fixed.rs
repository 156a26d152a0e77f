//! A decode step whose shapes do not change, for devices that record a step once and replay it.
//!
//! One token for each of `rows` sequences. Which token, at which position, in which slots, is in tensors on
//! the device that are written before each replay; every row attends over a window of `window` slots under
//! a mask. Rows that no sequence uses write to a page of their own.

#![allow(clippy::arithmetic_side_effects, clippy::indexing_slicing)] // as in `activations`

use burn::tensor::{Bool, Device, Int, Tensor, TensorData};

use super::step::slot;
use crate::serving::{PAGE_TOKENS, Rows};

/// The inputs of such a step, on the device.
#[derive(Clone)]
pub(crate) struct Fixed {
    pub(crate) rows: usize,
    pub(crate) window: usize,
    /// `[rows]` each.
    pub(crate) tokens: Tensor<1, Int>,
    pub(crate) positions: Tensor<1, Int>,
    pub(crate) slots: Tensor<1, Int>,
    /// The slots of each row's window, `[rows · window]`.
    pub(crate) context: Tensor<1, Int>,
}

/// The same as numbers.
pub(crate) struct FixedInputs {
    tokens: Vec<i32>,
    positions: Vec<i32>,
    slots: Vec<i32>,
    context: Vec<i32>,
}

impl FixedInputs {
    /// For sequences of one new token each, no more than `rows`, of no more than `window` tokens.
    /// `spare` is a page that no sequence has.
    pub(crate) fn new(sequences: &[Rows], [rows, window]: [usize; 2], spare: usize) -> Self {
        let number = |n: usize| i32::try_from(n).unwrap_or(i32::MAX);
        let nowhere = number(spare * PAGE_TOKENS);
        let mut inputs = Self {
            tokens: vec![0; rows],
            positions: vec![0; rows],
            slots: vec![nowhere; rows],
            context: vec![nowhere; rows * window],
        };
        for (row, sequence) in sequences.iter().enumerate() {
            let token = sequence.tokens.first().copied().unwrap_or(0);
            inputs.tokens[row] = number(token as usize);
            inputs.positions[row] = number(sequence.start);
            inputs.slots[row] = number(slot(&sequence.pages, sequence.start));
            for at in 0..=sequence.start {
                inputs.context[row * window + at] = number(slot(&sequence.pages, at));
            }
        }
        inputs
    }
}

impl Fixed {
    pub(crate) fn new(inputs: FixedInputs, [rows, window]: [usize; 2], device: &Device) -> Self {
        Self {
            rows,
            window,
            tokens: upload(inputs.tokens, device),
            positions: upload(inputs.positions, device),
            slots: upload(inputs.slots, device),
            context: upload(inputs.context, device),
        }
    }

    /// Writes new inputs into the same buffers.
    pub(crate) fn refresh(&mut self, inputs: FixedInputs, device: &Device) {
        let write = |to: &mut Tensor<1, Int>, values: Vec<i32>| {
            let all = 0..values.len();
            let values = upload(values, device);
            to.inplace(|to| to.slice_assign([all], values));
        };
        write(&mut self.tokens, inputs.tokens);
        write(&mut self.positions, inputs.positions);
        write(&mut self.slots, inputs.slots);
        write(&mut self.context, inputs.context);
    }

    /// Whether a slot of the window is hidden from its row: `[rows, window]`. With `seen`, all but so many
    /// of the newest are.
    pub(crate) fn hidden(&self, seen: Option<usize>) -> Tensor<2, Bool> {
        let shape = [self.rows, self.window];
        let at = Tensor::<1, Int>::arange(0..self.window as i64, &self.positions.device());
        let at = at.reshape([1, self.window]).expand(shape);
        let newest = self.positions.clone().reshape([self.rows, 1]).expand(shape);
        let later = at.clone().greater(newest.clone());
        match seen {
            None => later,
            Some(seen) => later.bool_or(at.lower_equal(newest.sub_scalar(seen as i64))),
        }
    }
}

fn upload(values: Vec<i32>, device: &Device) -> Tensor<1, Int> {
    let count = values.len();
    Tensor::from_data(TensorData::new(values, [count]), device)
}
