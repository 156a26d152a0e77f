//! What a worker serves and for how much.

use crate::ids::Digest;
use crate::proto;
use crate::units::NanoTon;
use crate::wire::{Field, Wire, WireError, bytes, field};

/// Longest name of a model, in bytes of UTF-8.
pub const MAX_MODEL_ID_BYTES: usize = 96;
/// Dearest token that is accepted: 1 TON. Prompt and answer of 2³² tokens each then cost less than
/// 2⁶⁴ nanoTON, so no cost ever overflows.
pub const MAX_TOKEN_PRICE: NanoTon = NanoTon::from_nano(NanoTon::PER_TON);

/// What a token costs.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct Price {
    /// For each token of the prompt.
    pub input: NanoTon,
    /// For each generated token.
    pub output: NanoTon,
}

impl Price {
    /// What so many tokens cost; `None` only at prices above [`MAX_TOKEN_PRICE`], which no decoder
    /// lets in.
    #[must_use]
    pub fn cost(&self, prompt_tokens: u32, output_tokens: u32) -> Option<NanoTon> {
        let input = self.input.checked_mul(u64::from(prompt_tokens))?;
        let output = self.output.checked_mul(u64::from(output_tokens))?;
        input.checked_add(output)
    }

    pub(crate) fn to_proto(self) -> proto::Price {
        proto::Price {
            input: self.input.nano(),
            output: self.output.nano(),
        }
    }

    pub(crate) fn from_proto(field: Field, proto: Option<proto::Price>) -> Result<Self, WireError> {
        let proto = field.required(proto)?;
        let dearest = i128::from(MAX_TOKEN_PRICE.nano());
        let price = |nano: u64| field.within(nano, 0, dearest).map(NanoTon::from_nano);
        Ok(Self {
            input: price(proto.input)?,
            output: price(proto.output)?,
        })
    }
}

/// A model as a worker serves it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ModelTerms {
    /// Its name, at most [`MAX_MODEL_ID_BYTES`].
    pub id: String,
    /// Digest of the weights' file.
    pub digest: Digest,
    /// Most tokens of prompt and answer together.
    pub context_tokens: u32,
    /// What they cost.
    pub price: Price,
}

impl Wire for ModelTerms {
    const NAME: &'static str = "ModelTerms";
    const MAX_BYTES: usize = 256;
    type Proto = proto::ModelTerms;

    fn to_proto(&self) -> Self::Proto {
        proto::ModelTerms {
            id: self.id.clone(),
            digest: bytes(&self.digest),
            context_tokens: self.context_tokens,
            price: Some(self.price.to_proto()),
        }
    }

    fn from_proto(proto: Self::Proto) -> Result<Self, WireError> {
        Ok(Self {
            id: field::<Self>("id").bounded(proto.id, MAX_MODEL_ID_BYTES)?,
            digest: field::<Self>("digest").digest(&proto.digest)?,
            context_tokens: field::<Self>("context_tokens").within(
                proto.context_tokens,
                1,
                i128::from(u32::MAX),
            )?,
            price: Price::from_proto(field::<Self>("price"), proto.price)?,
        })
    }
}
