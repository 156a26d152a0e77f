//! Every operation of every contract in every state under every condition, as tables; what each costs, as a file; and
//! all of it once more in the official executor.
#![allow(
    unreachable_pub,
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    clippy::arithmetic_side_effects
)]

mod channel;
mod golden;
mod ledger;
mod machine;
mod opener;
mod registry;
mod size;

use std::collections::BTreeMap;
use std::path::PathBuf;

use cocoon_protocol::{NanoTon, PublicKey32, TonAddress};
use cocoon_settlement::contract::OutMessage;
use ed25519_dalek::SigningKey;
use serde_json::{Value, json};
use tycho_types::cell::Cell;

use machine::{Case, Machine, Ran};

/// What is different from the way it should be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Condition {
    RightSender,
    WrongSender,
    WrongSignature,
    /// The same message once more; the outcome is the second one's.
    Replay,
    /// The contract has [`LOW_BALANCE`].
    LowBalance,
    /// An internal message brings [`LOW_GAS`]; an external one finds [`NOTHING`] in the account.
    LowGas,
    /// As little as is just too little.
    Dust,
    WrongNetwork,
}

use Condition::{
    Dust, LowBalance, LowGas, Replay, RightSender, WrongNetwork, WrongSender, WrongSignature,
};

const CONDITIONS: [Condition; 8] = [
    RightSender,
    WrongSender,
    WrongSignature,
    Replay,
    LowBalance,
    LowGas,
    Dust,
    WrongNetwork,
];

/// Too little for anything but rent.
pub const LOW_BALANCE: NanoTon = NanoTon::from_nano(1_000_000);
/// Buys 600 gas at the devnet's prices.
pub const LOW_GAS: NanoTon = NanoTon::from_nano(40_000);
/// Does not pay for taking an external message in.
const NOTHING: NanoTon = NanoTon::from_nano(10_000);
/// Mainnet's number, which is not the devnet's.
pub const WRONG_NETWORK: i32 = -239;

/// A contract in one of its states.
pub trait Contract: Sized {
    const NAME: &'static str;
    /// Lines of `operation | state | a cell for each condition`. A cell is `-` where the combination makes no sense,
    /// `STATE/MESSAGES` where it succeeds, an exit code, `a` and a result of the action phase, `nogas` or `nostate` where
    /// no code ran, or `none` where an external message could not even be taken in.
    const TABLE: &'static str;

    fn scene(state: &str) -> Self;
    fn machine(&mut self) -> &mut Machine;
    fn address(&self) -> TonAddress;
    /// `None` where the combination makes no sense.
    fn message(&mut self, operation: &str, condition: Condition) -> Option<Cell>;
    fn state(&mut self) -> String;
}

pub fn ton(milli: u64) -> NanoTon {
    NanoTon::from_nano(milli * 1_000_000)
}

pub fn key(n: u8) -> SigningKey {
    SigningKey::from_bytes(&[n; 32])
}

pub fn public(n: u8) -> PublicKey32 {
    PublicKey32::from_bytes(key(n).verifying_key().to_bytes())
}

/// A party's wallet. Nothing is there: only what it sends matters here.
pub fn party(n: u8) -> TonAddress {
    TonAddress {
        workchain: 0,
        hash: [n; 32],
    }
}

pub const CLIENT: u8 = 0xC1;
pub const WORKER: u8 = 0xA1;
pub const STRANGER: u8 = 0x5A;

/// An internal message under a condition that says something about its sender or its coins.
pub fn internal(
    machine: &mut Machine,
    right: u8,
    condition: Condition,
    message: OutMessage,
) -> Option<Cell> {
    let sender = if condition == WrongSender {
        STRANGER
    } else {
        right
    };
    let message = match condition {
        WrongSignature | WrongNetwork | Dust => return None,
        LowGas => message.with_value(LOW_GAS),
        RightSender | WrongSender | Replay | LowBalance => message,
    };
    Some(machine.internal(party(sender), &message))
}

/// One cell of a table, played.
fn play<C: Contract>(
    operation: &str,
    state: &str,
    condition: Condition,
) -> Option<(String, Ran, Vec<Case>)> {
    let mut scene = C::scene(state);
    let name = format!("{} | {operation} | {state} | {condition:?}", C::NAME);
    let message = scene.message(operation, condition)?;
    let external = matches!(
        message
            .parse::<tycho_types::models::OwnedMessage>()
            .unwrap()
            .info,
        tycho_types::models::MsgInfo::ExtIn(_)
    );
    let address = scene.address();
    if condition == Replay {
        scene.machine().deliver(&name, &message);
    }
    match condition {
        LowBalance => scene.machine().impoverish(address, LOW_BALANCE),
        LowGas if external => scene.machine().impoverish(address, NOTHING),
        _ => {}
    }
    let before = (scene.state(), scene.machine().balance(address));
    let ran = scene.machine().deliver(&name, &message);
    let after = (scene.state(), scene.machine().balance(address));
    let outcome = if ran.outcome == "ok" {
        format!("{}/{}", after.0, ran.sent.len())
    } else {
        // A StateInit is taken even where the code then fails (TON activates the account first).
        assert!(
            before.0 == after.0 || before.0 == "absent",
            "{name}: what fails changes nothing, {before:?} {after:?} {ran:?}"
        );
        assert!(
            !external || !ran.sent.is_empty() || before.1 == after.1,
            "{name}: a refused external message costs nothing"
        );
        ran.outcome.clone()
    };
    Some((outcome, ran, std::mem::take(&mut scene.machine().cases)))
}

/// Plays a table; returns what every cell cost, and all transactions.
fn table<C: Contract>(costs: &mut BTreeMap<String, Value>) -> (Vec<String>, Vec<Case>) {
    let mut differences = Vec::new();
    let mut actual = String::new();
    let mut cases = Vec::new();
    for line in C::TABLE.lines() {
        let line = line.split('#').next().unwrap().trim();
        let columns: Vec<_> = line.split('|').map(str::trim).collect();
        let [operation, state, cells] = columns[..] else {
            continue;
        };
        let expected: Vec<_> = cells.split_whitespace().collect();
        let mut row = format!("{operation:<16}| {state:<9}|");
        for (index, condition) in CONDITIONS.into_iter().enumerate() {
            let place = format!("{} | {operation} | {state} | {condition:?}", C::NAME);
            let outcome = match play::<C>(operation, state, condition) {
                None => "-".to_owned(),
                Some((outcome, ran, played)) => {
                    cases.extend(played);
                    if ran.gas > 0 {
                        costs.insert(place.clone(), json!({"gas": ran.gas, "fees": ran.fees}));
                    }
                    outcome
                }
            };
            row.push_str(&format!(" {outcome:<11}"));
            if expected.get(index) != Some(&outcome.as_str()) {
                differences.push(format!(
                    "{place}: {outcome}, the table says {}",
                    expected.get(index).unwrap_or(&"nothing")
                ));
            }
        }
        actual.push_str(row.trim_end());
        actual.push('\n');
    }
    if !differences.is_empty() {
        println!("as it is:\n{actual}");
    }
    (differences, cases)
}

fn everything(costs: &mut BTreeMap<String, Value>) -> (Vec<String>, Vec<Case>) {
    let tables = [
        table::<channel::Channel>(costs),
        table::<ledger::Ledger>(costs),
        table::<opener::Opener>(costs),
        table::<registry::Registry>(costs),
    ];
    let (differences, cases): (Vec<_>, Vec<_>) = tables.into_iter().unzip();
    (differences.concat(), cases.concat())
}

fn gas_file() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("contracts/gas.json")
}

#[test]
fn every_operation_in_every_state_under_every_condition() {
    let mut costs = BTreeMap::new();
    let (differences, _) = everything(&mut costs);
    assert!(differences.is_empty(), "\n{}", differences.join("\n"));
    // A line a case, so that a change can be read.
    let lines: Vec<_> = costs
        .iter()
        .map(|(name, cost)| format!("  {}: {cost}", json!(name)))
        .collect();
    let text = format!("{{\n{}\n}}\n", lines.join(",\n"));
    if std::env::var("COCOON_RECORD_GAS").as_deref() == Ok("1") {
        std::fs::write(gas_file(), text).unwrap();
        return;
    }
    let recorded: BTreeMap<String, Value> =
        serde_json::from_str(&std::fs::read_to_string(gas_file()).unwrap_or("{}".to_owned()))
            .unwrap();
    let changed: Vec<_> = costs
        .iter()
        .filter(|(name, cost)| recorded.get(*name) != Some(*cost))
        .map(|(name, cost)| {
            let before = recorded
                .get(name)
                .map_or("nothing".to_owned(), Value::to_string);
            format!("{name}: {cost}, recorded {before}")
        })
        .chain(
            recorded
                .keys()
                .filter(|name| !costs.contains_key(*name))
                .map(|name| format!("{name}: recorded, but no longer played")),
        )
        .collect();
    assert!(
        changed.is_empty(),
        "the contracts cost something else than contracts/gas.json says. If that is meant, look at each line and record \
         it with COCOON_RECORD_GAS=1 cargo test -p cocoon-settlement --test contract_cases:\n{}",
        changed.join("\n")
    );
}
