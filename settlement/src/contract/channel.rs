//! The payment channel of one (client, worker) pair. Protocol, states and exit codes: `contracts/channel.tolk`.

use cocoon_protocol::voucher::{SignedRelease, SignedVoucher, VOUCHER_VERSION};
use cocoon_protocol::{NanoTon, PublicKey32, TonAddress};
use tycho_types::cell::{Cell, CellBuilder};
use tycho_types::models::StateInit;

use super::encoding::{
    address_of, encoding, load_address, load_coins, state_init, store_address, store_coins,
};
use super::message::{OutMessage, external};
use super::{account, channel_code};
use crate::chain::{Chain, ChainError};

/// Version of the contract and of the bytes that vouchers and releases sign.
pub const CONTRACT_VERSION: u8 = VOUCHER_VERSION;
/// Smallest claim the contract takes (`MIN_CLAIM` in its source).
pub const MIN_CLAIM: NanoTon = NanoTon::from_nano(5_000_000);
/// What is kept in a channel for rent (`RESERVE` in its source).
pub const CHANNEL_RESERVE: NanoTon = NanoTon::from_nano(3_000_000);
/// Coins sent along with a request to close; what gas does not use joins the deposit and comes back with it.
const CLOSE_FEE: NanoTon = NanoTon::from_nano(10_000_000);

const OP_TOP_UP: u32 = 0x746f_7031;
const OP_START_CLOSE: u32 = 0x636c_7331;
const OP_FINISH: u32 = 0x6669_6e31;
const OP_CLAIM: u32 = 0x636c_6d31;
const OP_RELEASE: u32 = 0x7265_6c31;

/// What a channel is deployed with and never changes. It decides the address.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ChannelTerms {
    /// The client's wallet: may start to close, gets the rest back.
    pub client: TonAddress,
    /// The worker's wallet: gets every payout.
    pub worker: TonAddress,
    /// Ed25519 key that signs vouchers.
    pub client_key: PublicKey32,
    /// Keeps two channels of the same pair apart. A finished channel's nonce must not be used again.
    pub nonce: u32,
    /// Seconds between StartClose and Finish: how long the worker has to claim.
    pub close_delay_s: u32,
}

/// A channel as it is on chain.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ChannelState {
    pub address: TonAddress,
    pub terms: ChannelTerms,
    /// All coins of the account, the reserve among them.
    pub balance: NanoTon,
    /// Paid out so far. A voucher is worth something only above this.
    pub claimed: NanoTon,
    /// Set once the client has started to close: from this unix second on, anybody may finish.
    pub close_at: Option<u32>,
    /// Nothing goes in or out any more.
    pub finished: bool,
    /// Logical time of the account's last transaction.
    pub last_lt: u64,
}

impl ChannelState {
    /// What the deposit can still pay. Rent takes about 0.001 TON a year from it; the contract has room for that and
    /// for the import fee of claims.
    pub fn available(&self) -> NanoTon {
        if self.finished {
            NanoTon::ZERO
        } else {
            self.balance.saturating_sub(CHANNEL_RESERVE)
        }
    }

    /// The largest cumulative voucher that the deposit covers.
    pub fn capacity(&self) -> NanoTon {
        self.claimed.saturating_add(self.available())
    }

    /// Whether a worker may serve on it: open and not about to close.
    pub fn is_open(&self) -> bool {
        !self.finished && self.close_at.is_none()
    }
}

impl ChannelTerms {
    /// Where a channel with these terms lives.
    pub fn address(&self) -> Result<TonAddress, ChainError> {
        address_of(&self.state_init()?)
    }

    pub(crate) fn state_init(&self) -> Result<StateInit, ChainError> {
        Ok(state_init(
            channel_code()?,
            self.first_data().map_err(encoding("channel data"))?,
        ))
    }

    /// `Storage` of the contract, with nothing claimed and nothing closing.
    fn first_data(&self) -> Result<Cell, tycho_types::error::Error> {
        let mut data = CellBuilder::new();
        store_address(&mut data, self.worker)?;
        store_address(&mut data, self.client)?;
        data.store_raw(self.client_key.as_bytes(), 256)?;
        data.store_u32(self.nonce)?;
        data.store_u32(self.close_delay_s)?;
        store_coins(&mut data, NanoTon::ZERO)?;
        data.store_u32(0)?;
        data.store_bit_zero()?;
        data.build()
    }
}

/// Reads the channel at `address`; `None` where nothing is deployed. The code must be the pinned code and the address
/// must follow from the terms, so whoever gets a state here knows how the contract will behave.
pub async fn fetch_channel(
    chain: &dyn Chain,
    address: TonAddress,
) -> Result<Option<ChannelState>, ChainError> {
    let Some(found) = account::fetch(chain, address, channel_code()?, "channel").await? else {
        return Ok(None);
    };
    let stored = found.read(decode)?;
    found.belongs_to(stored.terms.address()?)?;
    Ok(Some(ChannelState {
        address,
        terms: stored.terms,
        balance: found.balance,
        claimed: stored.claimed,
        close_at: (stored.close_at != 0).then_some(stored.close_at),
        finished: stored.finished,
        last_lt: found.last_lt,
    }))
}

struct Stored {
    terms: ChannelTerms,
    claimed: NanoTon,
    close_at: u32,
    finished: bool,
}

fn decode(cell: &Cell) -> Result<Stored, tycho_types::error::Error> {
    let mut slice = cell.as_slice()?;
    let worker = load_address(&mut slice)?;
    let client = load_address(&mut slice)?;
    let client_key = PublicKey32::from_bytes(slice.load_u256()?.0);
    let nonce = slice.load_u32()?;
    let close_delay_s = slice.load_u32()?;
    let claimed = load_coins(&mut slice)?;
    let close_at = slice.load_u32()?;
    let finished = slice.load_bit()?;
    if !slice.is_data_empty() || !slice.is_refs_empty() {
        return Err(tycho_types::error::Error::InvalidData);
    }
    Ok(Stored {
        terms: ChannelTerms {
            client,
            worker,
            client_key,
            nonce,
            close_delay_s,
        },
        claimed,
        close_at,
        finished,
    })
}

fn body(op: u32) -> Result<Cell, ChainError> {
    let mut body = CellBuilder::new();
    body.store_u32(op)
        .and_then(|()| body.store_u64(0))
        .and_then(|()| body.build())
        .map_err(encoding("message body"))
}

/// Deploys the channel with its first deposit. [`CHANNEL_RESERVE`] and about 0.0003 TON of gas come out of `deposit`;
/// the rest can be claimed.
pub fn open_message(terms: &ChannelTerms, deposit: NanoTon) -> Result<OutMessage, ChainError> {
    let init = terms.state_init()?;
    Ok(OutMessage::deploy(
        address_of(&init)?,
        deposit,
        init,
        body(OP_TOP_UP)?,
    ))
}

/// Adds to the deposit.
pub fn top_up_message(channel: TonAddress, amount: NanoTon) -> Result<OutMessage, ChainError> {
    Ok(OutMessage::call(channel, amount, body(OP_TOP_UP)?))
}

/// Starts the delay after which the rest comes back. Only the client's wallet may send it.
pub fn start_close_message(channel: TonAddress) -> Result<OutMessage, ChainError> {
    Ok(OutMessage::call(channel, CLOSE_FEE, body(OP_START_CLOSE)?))
}

/// Returns the rest to the client once the delay has passed.
pub fn finish_message(channel: TonAddress) -> Result<OutMessage, ChainError> {
    Ok(OutMessage::call(channel, CLOSE_FEE, body(OP_FINISH)?))
}

/// Closes at once, with the client's signature: the worker gets what the release says less what it has claimed, the
/// client everything else, and nothing is left but the reserve. Only the worker's wallet may send it. What the coins
/// sent along do not pay of gas and messages (0.0006 TON at 2026 prices) comes back with the payout.
pub fn release_message(release: &SignedRelease) -> Result<OutMessage, ChainError> {
    let build = || {
        let mut body = CellBuilder::new();
        body.store_u32(OP_RELEASE)?;
        body.store_u64(0)?;
        store_coins(&mut body, release.release.cumulative)?;
        body.store_raw(&release.signature, 512)?;
        body.build()
    };
    Ok(OutMessage::call(
        release.release.channel,
        CLOSE_FEE,
        build().map_err(encoding("release"))?,
    ))
}

/// The external message that claims a voucher, as a bag of cells. It needs no wallet and no key: the voucher speaks.
///
/// The worker receives the newly claimed amount less the fees: 0.000426669 TON at the devnet's prices. The exact
/// amount is the `value` of the one transfer in the channel's transaction.
pub fn claim_message(voucher: &SignedVoucher) -> Result<Vec<u8>, ChainError> {
    let build = || {
        let mut body = CellBuilder::new();
        body.store_u32(OP_CLAIM)?;
        store_coins(&mut body, voucher.voucher.cumulative)?;
        body.store_raw(&voucher.signature, 512)?;
        body.build()
    };
    external(
        voucher.voucher.channel,
        None,
        build().map_err(encoding("claim"))?,
    )
}
