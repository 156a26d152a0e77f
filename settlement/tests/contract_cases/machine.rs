//! One transaction at a time, without a chain: an account, a message, what came of it. Every transaction is recorded
//! with its inputs, so that another executor can be given the same.

use std::collections::BTreeMap;
use std::rc::Rc;

use cocoon_protocol::{NanoTon, TonAddress};
use cocoon_settlement::contract::OutMessage;
use cocoon_settlement::devnet::GLOBAL_ID;
use serde::Serialize;
use tycho_executor::{Executor, ExecutorInspector, ExecutorParams, ParsedConfig, TxError};
use tycho_types::boc::Boc;
use tycho_types::cell::{Cell, CellBuilder, CellSliceParts, HashBytes, Lazy};
use tycho_types::dict::RawDict;
use tycho_types::models::{
    Account, BlockchainConfig, BlockchainConfigParams, BouncePhase, ComputePhase, ConfigParam0,
    CurrencyCollection, IntAddr, IntMsgInfo, MsgInfo, OptionalAccount, OwnedMessage, ShardAccount,
    StdAddr, TxInfo,
};
use tycho_types::num::Tokens;

/// Where every story begins.
pub const BEGIN: u32 = 1_795_000_000;

/// What came of a message.
#[derive(Clone, Debug)]
pub struct Ran {
    /// In the words of the tables: an exit code, `a` and a result of the action phase, why no code ran, or `ok`.
    pub outcome: String,
    /// Units of gas; 0 where no code ran or an external message was refused.
    pub gas: u64,
    /// `total_fees` of the transaction, nanoTON.
    pub fees: u64,
    /// Messages that were sent.
    pub sent: Vec<OwnedMessage>,
}

/// A transaction with its inputs, for another executor.
#[derive(Clone, Debug, Serialize)]
pub struct Case {
    pub name: String,
    pub account: String,
    pub message: String,
    pub now: u32,
    pub lt: String,
    #[serde(skip)]
    pub accepted: bool,
    #[serde(skip)]
    pub exit: Option<i32>,
    #[serde(skip)]
    pub gas: u64,
    #[serde(skip)]
    pub fees: u64,
    #[serde(skip)]
    pub transaction: String,
    #[serde(skip)]
    pub new_account: String,
    /// Of the account before and after, whichever is more.
    #[serde(skip)]
    pub cells: usize,
    /// Whether tycho-executor 0.3.7 writes another transaction than the official executor, see the golden test.
    #[serde(skip)]
    pub written_otherwise: bool,
}

pub struct Machine {
    config: Rc<ParsedConfig>,
    /// The network's parameters as both executors get them, base64.
    pub config_boc: Rc<str>,
    pub now: u32,
    lt: u64,
    accounts: BTreeMap<[u8; 32], ShardAccount>,
    pub cases: Vec<Case>,
}

impl Machine {
    pub fn new() -> Self {
        thread_local! {
            static NETWORK: (Rc<ParsedConfig>, Rc<str>) = network();
        }
        let (config, config_boc) = NETWORK.with(Clone::clone);
        Self {
            config,
            config_boc,
            now: BEGIN,
            lt: 1_000_000,
            accounts: BTreeMap::new(),
            cases: Vec::new(),
        }
    }

    /// An internal message as it arrives.
    pub fn internal(&mut self, source: TonAddress, message: &OutMessage) -> Cell {
        let info = IntMsgInfo {
            bounce: true,
            ..self.info(source, message.destination(), message.value())
        };
        let message = OwnedMessage {
            info: MsgInfo::Int(info),
            init: message.state_init().cloned(),
            body: CellSliceParts::from(message.body().clone()),
            layout: None,
        };
        CellBuilder::build_from(message).unwrap()
    }

    /// A message of `source`'s that comes back from `refuser`, with the first 256 bits of what it said.
    pub fn bounced(
        &mut self,
        refuser: TonAddress,
        source: TonAddress,
        value: NanoTon,
        said: &[u8],
    ) -> Cell {
        let info = IntMsgInfo {
            bounced: true,
            ..self.info(refuser, source, value)
        };
        let mut body = CellBuilder::new();
        body.store_u32(u32::MAX).unwrap();
        body.store_raw(said, u16::try_from(said.len() * 8).unwrap())
            .unwrap();
        let message = OwnedMessage {
            info: MsgInfo::Int(info),
            init: None,
            body: CellSliceParts::from(body.build().unwrap()),
            layout: None,
        };
        CellBuilder::build_from(message).unwrap()
    }

    fn info(&mut self, from: TonAddress, to: TonAddress, value: NanoTon) -> IntMsgInfo {
        self.lt += 10;
        IntMsgInfo {
            ihr_disabled: true,
            src: IntAddr::Std(std_addr(from)),
            dst: IntAddr::Std(std_addr(to)),
            value: CurrencyCollection::new(u128::from(value.nano())),
            created_lt: self.lt,
            created_at: self.now,
            ..Default::default()
        }
    }

    /// Delivers a message and keeps what it leaves.
    pub fn deliver(&mut self, name: &str, message: &Cell) -> Ran {
        self.lt += 1_000;
        let parsed = message.parse::<OwnedMessage>().unwrap();
        let (to, external, brought) = match &parsed.info {
            MsgInfo::Int(info) => (info.dst.clone(), false, info.value.tokens.into_inner()),
            MsgInfo::ExtIn(info) => (info.dst.clone(), true, 0),
            MsgInfo::ExtOut(_) => panic!("nobody receives it"),
        };
        let IntAddr::Std(to) = to else { panic!("{to}") };
        let state = self.shard(to.address.0);
        let params = ExecutorParams {
            block_unixtime: self.now,
            block_lt: self.lt,
            charge_action_fees_on_fail: true,
            strict_extra_currency: true,
            ..ExecutorParams::default()
        };
        let mut case = Case {
            name: name.to_owned(),
            account: Boc::encode_base64(CellBuilder::build_from(&state).unwrap()),
            message: Boc::encode_base64(message),
            now: self.now,
            lt: self.lt.to_string(),
            accepted: false,
            exit: None,
            gas: 0,
            fees: 0,
            transaction: String::new(),
            new_account: String::new(),
            cells: cells(&state),
            written_otherwise: false,
        };
        let mut inspector = ExecutorInspector::default();
        let begun = Executor::new(&params, &self.config)
            .with_min_lt(self.lt)
            .begin_ordinary_ext(&to, external, message.clone(), &state, Some(&mut inspector));
        let committed = match begun {
            Ok(uncommitted) => uncommitted.commit().unwrap(),
            Err(TxError::Skipped) => {
                case.exit = inspector.exit_code;
                let outcome = inspector
                    .exit_code
                    .map_or("none".to_owned(), |code| code.to_string());
                self.cases.push(case);
                return Ran {
                    outcome,
                    gas: 0,
                    fees: 0,
                    sent: Vec::new(),
                };
            }
            Err(TxError::Fatal(error)) => panic!("{name}: {error:?}"),
        };
        let transaction = committed.transaction.load().unwrap();
        let TxInfo::Ordinary(info) = transaction.load_info().unwrap() else {
            panic!("ordinary")
        };
        let (gas, exit, outcome) = match &info.compute_phase {
            ComputePhase::Executed(phase) => {
                let action = info
                    .action_phase
                    .as_ref()
                    .map_or(0, |phase| phase.result_code);
                let outcome = match (phase.exit_code, action) {
                    (0, 0) => "ok".to_owned(),
                    (0, action) => format!("a{action}"),
                    (code, _) => code.to_string(),
                };
                (phase.gas_used.into_inner(), Some(phase.exit_code), outcome)
            }
            ComputePhase::Skipped(phase) => (0, None, format!("{:?}", phase.reason).to_lowercase()),
        };
        let sent: Vec<OwnedMessage> = transaction
            .out_msgs
            .values()
            .map(|message| message.unwrap().parse().unwrap())
            .collect();
        let fees = transaction.total_fees.tokens.into_inner();
        // No coin appears or vanishes.
        let carried: u128 = sent
            .iter()
            .map(|message| match &message.info {
                MsgInfo::Int(info) => info.value.tokens.into_inner() + info.fwd_fee.into_inner(),
                _ => 0,
            })
            .sum();
        assert_eq!(
            balance(&state) + brought,
            balance(&committed.new_state) + fees + carried + committed.burned.into_inner(),
            "{name}"
        );
        case.accepted = true;
        case.exit = exit;
        case.gas = gas;
        case.fees = u64::try_from(fees).unwrap();
        case.transaction = committed.transaction.inner().repr_hash().to_string();
        case.new_account = committed.new_state.account.inner().repr_hash().to_string();
        let deployed = parsed.init.is_some() && state.load_account().unwrap().is_none();
        let unpaid_bounce = matches!(info.bounce_phase, Some(BouncePhase::NoFunds(_)));
        case.written_otherwise = deployed || unpaid_bounce;
        case.cells = case.cells.max(cells(&committed.new_state));
        let ran = Ran {
            outcome,
            gas,
            fees: case.fees,
            sent,
        };
        self.cases.push(case);
        self.accounts.insert(to.address.0, committed.new_state);
        ran
    }

    /// Delivers a message of `source`'s while a scene is set up: it must succeed.
    pub fn prepare(&mut self, source: TonAddress, message: &OutMessage) {
        let message = self.internal(source, message);
        let ran = self.deliver("preparation", &message);
        assert_eq!(ran.outcome, "ok");
    }

    fn shard(&self, address: [u8; 32]) -> ShardAccount {
        self.accounts
            .get(&address)
            .cloned()
            .unwrap_or_else(|| ShardAccount {
                account: Lazy::new(&OptionalAccount(None)).unwrap(),
                last_trans_hash: HashBytes::ZERO,
                last_trans_lt: 0,
            })
    }

    pub fn account(&self, address: TonAddress) -> Option<Account> {
        self.shard(address.hash).load_account().unwrap()
    }

    /// Data of an active account.
    pub fn data(&self, address: TonAddress) -> Option<Cell> {
        match self.account(address)?.state {
            tycho_types::models::AccountState::Active(init) => init.data,
            _ => None,
        }
    }

    pub fn balance(&self, address: TonAddress) -> NanoTon {
        NanoTon::from_nano(u64::try_from(balance(&self.shard(address.hash))).unwrap())
    }

    /// Takes all coins but these out of an account, as years of rent would.
    pub fn impoverish(&mut self, address: TonAddress, left: NanoTon) {
        let Some(mut account) = self.account(address) else {
            return;
        };
        account.balance = CurrencyCollection::new(u128::from(left.nano()));
        let shard = self.accounts.get_mut(&address.hash).unwrap();
        shard.account = Lazy::new(&OptionalAccount(Some(account))).unwrap();
    }
}

/// The devnet's parameters, as tycho-executor reads them and as they are (base64).
fn network() -> (Rc<ParsedConfig>, Rc<str>) {
    let bytes = include_bytes!("../../contracts/config/devnet.boc");
    let mut params = BlockchainConfigParams::from_raw(Boc::decode(bytes).unwrap());
    params.set_global_id(GLOBAL_ID).unwrap();
    let address = params.get::<ConfigParam0>().unwrap().unwrap();
    let mut readable = params.clone();
    readable.set_raw(12, readable_workchains(&params)).unwrap();
    let parsed = BlockchainConfig {
        address,
        params: readable,
    };
    let mut config = ParsedConfig::parse(parsed, u32::MAX).unwrap();
    let config_boc = Boc::encode_base64(params.as_dict().root().clone().unwrap());
    config.raw = BlockchainConfig { address, params };
    (Rc::new(config), config_boc.into())
}

pub fn std_addr(address: TonAddress) -> StdAddr {
    StdAddr::new(address.workchain, HashBytes(address.hash))
}

fn balance(shard: &ShardAccount) -> u128 {
    shard
        .load_account()
        .unwrap()
        .map_or(0, |account| account.balance.tokens.into_inner())
}

fn cells(shard: &ShardAccount) -> usize {
    let cell = shard.account.inner().clone();
    usize::try_from(cell.compute_unique_stats(1 << 16).unwrap().cell_count).unwrap()
}

/// An external message with a StateInit that nobody needs.
pub fn with_baggage(boc: &[u8], baggage: &OutMessage) -> Vec<u8> {
    let mut message = Boc::decode(boc).unwrap().parse::<OwnedMessage>().unwrap();
    message.init = baggage.state_init().cloned();
    Boc::encode(CellBuilder::build_from(message).unwrap())
}

/// An external message to `to` that consists of an operation no contract knows.
pub fn unknown_external(to: TonAddress) -> Cell {
    let mut body = CellBuilder::new();
    body.store_u32(0x1234_5678).unwrap();
    let info = tycho_types::models::ExtInMsgInfo {
        src: None,
        dst: IntAddr::Std(std_addr(to)),
        import_fee: Tokens::ZERO,
    };
    let message = OwnedMessage {
        info: MsgInfo::ExtIn(info),
        init: None,
        body: CellSliceParts::from(body.build().unwrap()),
        layout: None,
    };
    CellBuilder::build_from(message).unwrap()
}

/// tycho-types 0.3.6 does not read `workchain_v2#a7`; `workchain#a6` is the same without the last 132 bits.
fn readable_workchains(params: &BlockchainConfigParams) -> Cell {
    let cell = params.as_dict().get(12).unwrap().unwrap();
    let mut slice = cell.as_slice().unwrap();
    assert!(slice.load_bit().unwrap());
    let source = RawDict::<32>::from(Some(slice.load_reference_cloned().unwrap()));
    let mut target = RawDict::<32>::new();
    for entry in source.iter() {
        let (key, mut value) = entry.unwrap();
        let mut rewritten = CellBuilder::new();
        let tag = value.load_u8().unwrap();
        rewritten.store_u8(0xa6).unwrap();
        let bits = value.size_bits() - if tag == 0xa7 { 132 } else { 0 };
        rewritten.store_slice(value.get_prefix(bits, 0)).unwrap();
        target
            .set(key.as_data_slice(), rewritten.as_full_slice())
            .unwrap();
    }
    let mut builder = CellBuilder::new();
    builder.store_bit_one().unwrap();
    builder
        .store_reference(target.into_root().unwrap())
        .unwrap();
    builder.build().unwrap()
}
