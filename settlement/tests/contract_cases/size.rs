//! How large accounts get, and so what rent they pay (`docs/contracts.md`).

use cocoon_protocol::log::TreeHead;
use cocoon_protocol::voucher::Release;
use cocoon_protocol::{Digest, TonAddress};
use cocoon_settlement::contract::registry::{
    self, Change, Governance, MAX_LOGS, MAX_MODELS, MAX_PARAMETERS, SignedMessage, Subject,
};
use cocoon_settlement::contract::{self, MAX_OPENER_ITEMS};
use cocoon_settlement::devnet::GLOBAL_ID;
use cocoon_settlement::wallet::Wallet;
use tycho_types::models::MsgInfo;

use super::machine::Machine;
use super::{CLIENT, Contract, WORKER, channel, key, ledger, opener, party, public, ton};

/// Cells that an account pays rent for.
fn cells(machine: &Machine, address: TonAddress) -> u64 {
    let account = machine.account(address).unwrap();
    account.storage_stat.used.cells.into_inner()
}

#[test]
fn accounts_are_as_large_as_their_rent_was_computed_for() {
    let mut channel = channel::Channel::scene("finished");
    let mut ledger = ledger::Ledger::scene("batch 3");
    let mut opener = opener::Opener::scene("idle");
    let sizes = [
        {
            let address = channel.address();
            cells(channel.machine(), address)
        },
        {
            let address = ledger.address();
            cells(ledger.machine(), address)
        },
        {
            let address = opener.address();
            cells(opener.machine(), address)
        },
    ];
    assert_eq!(sizes, [15, 12, 8]);
}

#[test]
fn a_full_registry_has_a_size_and_its_changes_a_price() {
    const DELAY: u32 = 3600;
    let keys: Vec<_> = (20..36).map(public).collect();
    let governance = Governance::new(2, DELAY, &keys).unwrap();
    let registry = governance.address().unwrap();
    let mut machine = Machine::new();
    let deploy = registry::deploy_registry_message(&governance, ton(1000)).unwrap();
    machine.prepare(party(CLIENT), &deploy);
    assert_eq!(cells(&machine, registry), 47);

    let logs = (0..MAX_LOGS).map(|n| {
        let head = TreeHead {
            size: 1,
            root: Digest::ZERO,
        };
        Change::log_head(&format!("example.org/{n}"), head)
    });
    let models = (0..MAX_MODELS).map(|n| Change::Model {
        digest: Digest::sha256(&n.to_be_bytes()),
        status: 1,
    });
    let parameters =
        (0..MAX_PARAMETERS).map(|n| Change::number(u32::try_from(n).unwrap(), 1).unwrap());
    let mut seqno = 0;
    let mut most = 0;
    let mut set = |machine: &mut Machine, change: Change, expected: &str| {
        seqno += 1;
        let until = machine.now + 60;
        let mut message = SignedMessage::new(registry, seqno, until, Subject::Propose(change));
        for n in [20, 21] {
            assert!(message.sign(&key(n), &governance, GLOBAL_ID).unwrap());
        }
        machine.prepare(party(CLIENT), &message.message().unwrap());
        machine.now += DELAY;
        let apply = registry::apply_message(registry, seqno).unwrap();
        let apply = machine.internal(party(CLIENT), &apply);
        let ran = machine.deliver("apply", &apply);
        assert_eq!(ran.outcome, expected);
        most = most.max(ran.gas);
    };
    for change in logs.chain(models).chain(parameters) {
        set(&mut machine, change, "ok");
    }
    assert_eq!(cells(&machine, registry), 597);
    let one_more = Change::Model {
        digest: Digest::sha256(b"one more"),
        status: 1,
    };
    set(&mut machine, one_more, "119");
    println!("dearest application: {most} gas");
    assert!(most < 15_000, "{most}");
}

#[test]
fn a_release_keeps_what_the_documents_say() {
    let mut scene = channel::Channel::scene("open");
    let release = Release {
        channel: scene.address(),
        cumulative: ton(300),
    }
    .sign(&key(3), GLOBAL_ID);
    let message = contract::release_message(&release).unwrap();
    let brought = message.value();
    let message = scene.machine().internal(party(WORKER), &message);
    let ran = scene.machine().deliver("release", &message);
    let MsgInfo::Int(info) = &ran.sent[0].info else {
        panic!("a payout")
    };
    let paid = info.value.tokens.into_inner();
    let whole = u128::from(ton(300).nano() + brought.nano());
    // 7100 gas, the client's message and the payout's own.
    assert_eq!(whole - paid, 473_334 + 66_667 + 66_667);
}

#[test]
fn the_longest_list_fits_into_an_external_message() {
    let wallet = Wallet::from_key(key(1), GLOBAL_ID).unwrap();
    let terms = contract::OpenerTerms {
        owner: party(CLIENT),
    };
    let items = opener::items(u32::try_from(MAX_OPENER_ITEMS).unwrap());
    let message = contract::open_many_message(&terms, 1, &items).unwrap();
    let bytes = wallet.transfer(0, u32::MAX, &[message]).unwrap().len();
    println!("{bytes} bytes");
    assert!(bytes < cocoon_settlement::devnet::MAX_EXTERNAL_BYTES * 3 / 4);
}
