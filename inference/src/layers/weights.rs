//! From the tensors of a checkpoint to layers, keeping account of which were used.

use std::collections::BTreeSet;

use burn::tensor::{FloatDType, Tensor, TensorData};

use super::linear::{Bias, Linear, Weight};
use super::norm::{Norm, NormWeight};
use super::place::Place;
use crate::EngineError;
use crate::checkpoint::{Checkpoint, Stored};
use crate::families::Config;
use crate::gguf::dequantise;
use crate::kernel::{Matrix, Part};

/// All weights of one model together: 2^36 numbers.
const MAX_WEIGHTS: u64 = 1 << 36;

/// Reads the tensors of one checkpoint into one place.
pub(crate) struct Weights<'c> {
    checkpoint: &'c Checkpoint,
    place: &'c Place,
    epsilon: f32,
    /// Added to the weights of norms: Gemma's checkpoints hold what is above one.
    norm_offset: f32,
    used: BTreeSet<String>,
    totals: Totals,
}

/// How much there is.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Totals {
    /// Numbers.
    pub(crate) weights: u64,
    /// Bytes in memory.
    pub(crate) bytes: u64,
    /// Of these, how many do nothing for an average token: experts not chosen, embeddings not looked up.
    pub(crate) idle_weights: u64,
    pub(crate) idle_bytes: u64,
}

/// What a matrix's name is, below a prefix, and how many rows it has.
type Rows<'a> = (&'a str, usize);

/// One part of a matrix: the stored rows and the order they are wanted in.
struct Piece<'a> {
    stored: Stored<'a>,
    order: Option<Box<dyn Fn(usize) -> usize>>,
}

impl<'c> Weights<'c> {
    /// # Errors
    /// When the configuration does not say the norms' ε.
    pub(crate) fn new(checkpoint: &'c Checkpoint, place: &'c Place) -> Result<Self, EngineError> {
        let config = Config(checkpoint.config());
        Ok(Self {
            checkpoint,
            place,
            epsilon: config.float_or("rms_norm_eps", 1e-6)? as f32,
            norm_offset: 0.0,
            used: BTreeSet::new(),
            totals: Totals::default(),
        })
    }

    pub(crate) fn config(&self) -> Config<'c> {
        Config(self.checkpoint.config())
    }

    /// From here on norms are kept less one, unless the file says that they are not.
    pub(crate) fn norms_above_one(&mut self) {
        if !self.checkpoint.norms_include_one() {
            self.norm_offset = 1.0;
        }
    }

    pub(crate) fn has(&self, name: &str) -> bool {
        self.checkpoint.has(name)
    }

    /// A product with the matrices of these names, one below the other, of `columns` each, with their
    /// biases where there are any. Names are without `.weight`.
    pub(crate) fn linear(
        &mut self,
        parts: &[Rows<'_>],
        columns: usize,
    ) -> Result<Linear, EngineError> {
        self.heads(parts, columns, 0)
    }

    /// As [`Self::linear`], of heads that are this wide: a file that holds the two halves of each head
    /// interleaved has them put apart.
    pub(crate) fn heads(
        &mut self,
        parts: &[Rows<'_>],
        columns: usize,
        head_width: usize,
    ) -> Result<Linear, EngineError> {
        let mut pieces = Vec::new();
        let mut bias = Vec::new();
        for &(name, rows) in parts {
            let stored = self.stored(&format!("{name}.weight"), &[rows, columns])?;
            let halve = stored.interleaved_heads && head_width > 0;
            let order = halve.then(|| halves(head_width));
            if self.has(&format!("{name}.bias")) {
                let values = self.vector(&format!("{name}.bias"), rows)?;
                match &order {
                    Some(order) => bias.extend(
                        (0..rows).map(|row| values.get(order(row)).copied().unwrap_or_default()),
                    ),
                    None => bias.extend(values),
                }
            } else if !bias.is_empty() {
                return Err(EngineError::Inconsistent {
                    what: "biases of matrices that stand together",
                    left: bias.len(),
                    right: 0,
                });
            }
            pieces.push(Piece { stored, order });
        }
        self.assemble(pieces, columns, bias)
    }

    /// Rows `rows` of a matrix whose rows may be wanted in another order.
    pub(crate) fn reordered(
        &mut self,
        name: &str,
        [rows, columns]: [usize; 2],
        order: impl Fn(usize) -> usize + 'static,
    ) -> Result<Linear, EngineError> {
        let stored = self.stored(&format!("{name}.weight"), &[rows, columns])?;
        let order: Option<Box<dyn Fn(usize) -> usize>> = Some(Box::new(order));
        self.assemble(vec![Piece { stored, order }], columns, Vec::new())
    }

    /// A product with numbers that were computed here, `[rows, columns]`.
    pub(crate) fn computed(
        &mut self,
        values: &[f32],
        [rows, columns]: [usize; 2],
    ) -> Result<Linear, EngineError> {
        let bytes: Vec<u8> = values.iter().flat_map(|x| x.to_le_bytes()).collect();
        let stored = Stored {
            format: crate::gguf::Format::F32,
            dims: vec![rows, columns],
            bytes: &bytes,
            interleaved_heads: false,
        };
        let pieces = vec![Piece {
            stored,
            order: None,
        }];
        self.assemble(pieces, columns, Vec::new())
    }

    /// The same matrices of every expert of the layer `prefix`, of which `chosen` work on a token.
    pub(crate) fn experts(
        &mut self,
        prefix: &str,
        names: &[Rows<'_>],
        columns: usize,
        count: usize,
        chosen: usize,
    ) -> Result<Vec<Linear>, EngineError> {
        let before = self.totals;
        let mut columns_of = Vec::new();
        for &(name, rows) in names {
            let all = self.checkpoint.experts(prefix, name, count)?;
            self.pass_over_all(&format!("{prefix}.mlp.experts."));
            for stored in &all {
                check(name, stored, &[rows, columns])?;
                self.count(stored)?;
            }
            columns_of.push(all);
        }
        let experts: Result<Vec<Linear>, EngineError> = (0..count)
            .map(|expert| {
                let pieces = columns_of
                    .iter()
                    .filter_map(|all| all.get(expert).cloned())
                    .map(|stored| Piece {
                        stored,
                        order: None,
                    });
                self.assemble(pieces.collect(), columns, Vec::new())
            })
            .collect();
        self.idle_since(before, count.saturating_sub(chosen), count);
        experts
    }

    /// Of what was loaded since `before`, this share does nothing for an average token.
    pub(crate) fn idle_since(&mut self, before: Totals, idle: usize, of: usize) {
        let share = |now: u64, then: u64| {
            let part = now.saturating_sub(then).saturating_mul(idle as u64);
            part.checked_div(of as u64).unwrap_or(0)
        };
        let totals = &mut self.totals;
        let weights = share(totals.weights, before.weights);
        let bytes = share(totals.bytes, before.bytes);
        totals.idle_weights = totals.idle_weights.saturating_add(weights);
        totals.idle_bytes = totals.idle_bytes.saturating_add(bytes);
    }

    /// What has been loaded so far.
    pub(crate) fn totals(&self) -> Totals {
        self.totals
    }

    fn assemble(
        &mut self,
        pieces: Vec<Piece<'_>>,
        columns: usize,
        bias: Vec<f32>,
    ) -> Result<Linear, EngineError> {
        let rows_of = |piece: &Piece<'_>| piece.stored.dims.first().copied().unwrap_or(0);
        match self.place {
            Place::Host(_) => {
                let parts: Vec<Part<'_>> = pieces
                    .iter()
                    .map(|piece| Part {
                        format: piece.stored.format,
                        bytes: piece.stored.bytes,
                        rows: rows_of(piece),
                        order: piece.order.as_deref(),
                    })
                    .collect();
                let matrix = Matrix::pack(&parts, columns)?;
                self.totals.bytes = self.totals.bytes.saturating_add(matrix.bytes() as u64);
                Ok(Linear {
                    weight: Weight::Packed(matrix),
                    bias: (!bias.is_empty()).then_some(Bias::Host(bias)),
                })
            }
            Place::Device { device, float } => {
                let mut all = Vec::new();
                for piece in &pieces {
                    let mut values = Vec::new();
                    dequantise(piece.stored.format, piece.stored.bytes, &mut values)?;
                    match &piece.order {
                        None => all.append(&mut values),
                        Some(order) => {
                            for row in 0..rows_of(piece) {
                                let from = order(row).saturating_mul(columns);
                                let row = values.get(from..from.saturating_add(columns));
                                all.extend_from_slice(row.unwrap_or_default());
                            }
                        }
                    }
                }
                let rows = all.len().checked_div(columns).unwrap_or(0);
                let dense = |values: Vec<f32>, shape: [usize; 2]| {
                    Tensor::<2>::from_data(TensorData::new(values, shape), device).cast(*float)
                };
                let bytes = (all.len() as u64).saturating_mul(float_bytes(*float));
                self.totals.bytes = self.totals.bytes.saturating_add(bytes);
                let width = bias.len();
                Ok(Linear {
                    weight: Weight::Dense(dense(all, [rows, columns])),
                    bias: (width > 0).then(|| Bias::Device(dense(bias, [1, width]))),
                })
            }
        }
    }

    /// A vector of that name, as it is.
    pub(crate) fn vector(&mut self, name: &str, width: usize) -> Result<Vec<f32>, EngineError> {
        let stored = self.stored(name, &[width])?;
        let mut values = Vec::new();
        dequantise(stored.format, stored.bytes, &mut values)?;
        Ok(values)
    }

    /// A whole matrix as numbers, for families that compute with weights before they are used.
    pub(crate) fn numbers(&mut self, name: &str, dims: &[usize]) -> Result<Vec<f32>, EngineError> {
        let stored = self.stored(name, dims)?;
        let mut values = Vec::new();
        dequantise(stored.format, stored.bytes, &mut values)?;
        Ok(values)
    }

    /// A norm of that name, without `.weight`.
    pub(crate) fn norm(&mut self, name: &str, width: usize) -> Result<Norm, EngineError> {
        let mut values = self.vector(&format!("{name}.weight"), width)?;
        let offset = self.norm_offset;
        values.iter_mut().for_each(|w| *w += offset);
        Ok(Norm {
            weight: match self.place {
                Place::Host(_) => NormWeight::Host(values),
                Place::Device { device, .. } => NormWeight::Device(Tensor::from_data(
                    TensorData::new(values, [1, width]),
                    device,
                )),
            },
            epsilon: self.epsilon,
        })
    }

    /// Takes note that a tensor is known and not needed.
    pub(crate) fn pass_over(&mut self, name: &str) {
        self.used.insert(name.to_owned());
    }

    /// The same for all below a prefix.
    pub(crate) fn pass_over_all(&mut self, prefix: &str) {
        let names = self.checkpoint.names();
        let below = names.filter(|name| name.starts_with(prefix));
        self.used.extend(below.map(str::to_owned));
    }

    /// Refuses a checkpoint that holds weights whose part in the computation is not known.
    ///
    /// # Errors
    /// [`EngineError::UnknownTensor`] naming one of them.
    pub(crate) fn finish(self) -> Result<Totals, EngineError> {
        match self
            .checkpoint
            .names()
            .find(|name| !self.used.contains(*name))
        {
            Some(name) => Err(EngineError::UnknownTensor(name.to_owned())),
            None => Ok(self.totals),
        }
    }

    fn stored(&mut self, name: &str, dims: &[usize]) -> Result<Stored<'c>, EngineError> {
        let stored = self.checkpoint.tensor(name)?;
        check(name, &stored, dims)?;
        self.count(&stored)?;
        self.used.insert(name.to_owned());
        Ok(stored)
    }

    fn count(&mut self, stored: &Stored<'_>) -> Result<(), EngineError> {
        let elements = stored
            .dims
            .iter()
            .fold(1u64, |n, &d| n.saturating_mul(d as u64));
        self.totals.weights = self.totals.weights.saturating_add(elements);
        if self.totals.weights > MAX_WEIGHTS {
            return Err(EngineError::TooManyWeights {
                limit: MAX_WEIGHTS as usize,
            });
        }
        Ok(())
    }
}

fn check(name: &str, stored: &Stored<'_>, wanted: &[usize]) -> Result<(), EngineError> {
    if stored.dims == wanted {
        return Ok(());
    }
    Err(EngineError::Shape {
        tensor: name.to_owned(),
        got: stored.dims.clone(),
        wanted: wanted.to_vec(),
    })
}

fn float_bytes(float: FloatDType) -> u64 {
    match float {
        FloatDType::F64 => 8,
        FloatDType::F16 | FloatDType::BF16 => 2,
        _ => 4,
    }
}

/// The order that puts a head's halves apart: rows 2i and 2i + 1 go to i and i + width/2.
pub(crate) fn halves(width: usize) -> Box<dyn Fn(usize) -> usize> {
    Box::new(move |row| Stored::halved_row(row, width))
}
