//! Messages to contracts.

use cocoon_protocol::{NanoTon, TonAddress};
use tycho_types::boc::Boc;
use tycho_types::cell::{Cell, CellBuilder, CellSliceParts};
use tycho_types::models::{
    CurrencyCollection, ExtInMsgInfo, IntAddr, MsgInfo, OwnedMessage, OwnedRelaxedMessage,
    RelaxedIntMsgInfo, RelaxedMsgInfo, StateInit,
};
use tycho_types::num::Tokens;

use super::encoding::{encoding, std_addr, tokens};
use crate::chain::{ChainError, Prices};

/// What a wallet is asked to send: coins, and perhaps code to deploy and a body.
#[derive(Clone, Debug)]
pub struct OutMessage {
    pub(crate) destination: TonAddress,
    pub(crate) value: NanoTon,
    /// Comes back when the receiver refuses it.
    pub(crate) bounce: bool,
    pub(crate) init: Option<StateInit>,
    pub(crate) body: Cell,
}

impl OutMessage {
    /// Plain coins. They stay even where nothing is deployed yet.
    pub fn transfer(destination: TonAddress, value: NanoTon) -> Self {
        Self {
            destination,
            value,
            bounce: false,
            init: None,
            body: Cell::default(),
        }
    }

    /// A call of a contract that exists; coins come back if it refuses.
    pub(crate) fn call(destination: TonAddress, value: NanoTon, body: Cell) -> Self {
        Self {
            destination,
            value,
            bounce: true,
            init: None,
            body,
        }
    }

    /// A first message that brings the contract's code along. It bounces too: sent to a contract that is there already
    /// and refuses it, the coins come back.
    pub(crate) fn deploy(
        destination: TonAddress,
        value: NanoTon,
        init: StateInit,
        body: Cell,
    ) -> Self {
        Self {
            destination,
            value,
            bounce: true,
            init: Some(init),
            body,
        }
    }

    /// Where it goes.
    pub fn destination(&self) -> TonAddress {
        self.destination
    }

    /// What it carries, without fees.
    pub fn value(&self) -> NanoTon {
        self.value
    }

    /// The same message with other coins: for whoever knows better what it costs.
    #[must_use]
    pub fn with_value(self, value: NanoTon) -> Self {
        Self { value, ..self }
    }

    /// The same message with other words.
    #[must_use]
    pub fn with_body(self, body: Cell) -> Self {
        Self { body, ..self }
    }

    /// What its way costs whoever sends it.
    pub fn fee(&self, prices: &Prices) -> Result<NanoTon, ChainError> {
        let (cells, bits) = below(&self.to_cell()?)?;
        Ok(prices.message_fee(cells, bits))
    }

    /// What it says.
    pub fn body(&self) -> &Cell {
        &self.body
    }

    /// The code it brings along.
    pub fn state_init(&self) -> Option<&StateInit> {
        self.init.as_ref()
    }

    /// As a wallet stores it among its actions: source, times and fees are filled in by the network.
    pub(crate) fn to_cell(&self) -> Result<Cell, ChainError> {
        let info = RelaxedMsgInfo::Int(RelaxedIntMsgInfo {
            ihr_disabled: true,
            bounce: self.bounce,
            dst: IntAddr::Std(std_addr(self.destination)),
            value: CurrencyCollection {
                tokens: tokens(self.value),
                ..Default::default()
            },
            ..Default::default()
        });
        let message = OwnedRelaxedMessage {
            info,
            init: self.init.clone(),
            body: CellSliceParts::from(self.body.clone()),
            layout: None,
        };
        CellBuilder::build_from(message).map_err(encoding("internal message"))
    }
}

/// More cells than any message has.
const MAX_CELLS: usize = 65_536;

/// Distinct cells below the root, and their bits.
pub(crate) fn below(root: &Cell) -> Result<(u64, u64), ChainError> {
    let all = root
        .compute_unique_stats(MAX_CELLS)
        .ok_or(ChainError::Encoding {
            what: "message",
            reason: format!("more than {MAX_CELLS} cells"),
        })?;
    Ok((
        all.cell_count.saturating_sub(1),
        all.bit_count.saturating_sub(root.bit_len().into()),
    ))
}

/// An external message as a bag of cells, ready for [`Chain::send_external`](crate::chain::Chain::send_external).
pub(crate) fn external(
    destination: TonAddress,
    init: Option<StateInit>,
    body: Cell,
) -> Result<Vec<u8>, ChainError> {
    let info = MsgInfo::ExtIn(ExtInMsgInfo {
        src: None,
        dst: IntAddr::Std(std_addr(destination)),
        import_fee: Tokens::ZERO,
    });
    let message = OwnedMessage {
        info,
        init,
        body: CellSliceParts::from(body),
        layout: None,
    };
    let cell = CellBuilder::build_from(message).map_err(encoding("external message"))?;
    Ok(Boc::encode(&cell))
}
