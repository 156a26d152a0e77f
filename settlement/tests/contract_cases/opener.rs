//! The opener's table.

use cocoon_protocol::{NanoTon, TonAddress};
use cocoon_settlement::contract::{
    self, ChannelTerms, MIN_OPENER_ITEM, OPENER_RESERVE, OpenerItem, OpenerTerms, OutMessage,
};
use tycho_types::cell::{Cell, CellBuilder};

use super::machine::{Machine, unknown_external};
use super::{CLIENT, Condition, Contract, WORKER, internal, party, public, ton};

pub struct Opener {
    machine: Machine,
    terms: OpenerTerms,
    address: TonAddress,
}

pub fn items(count: u32) -> Vec<OpenerItem> {
    (0..count)
        .map(|nonce| {
            let terms = ChannelTerms {
                client: party(CLIENT),
                worker: party(WORKER),
                client_key: public(3),
                nonce,
                close_delay_s: 3600,
            };
            if nonce % 3 == 2 {
                OpenerItem::TopUp {
                    channel: terms.address().unwrap(),
                    amount: ton(20),
                }
            } else {
                OpenerItem::Open {
                    terms,
                    deposit: ton(20),
                }
            }
        })
        .collect()
}

/// The same message with one amount changed, below what the client would build: 20 milliTON, written once.
fn with_dust(message: OutMessage) -> OutMessage {
    let replace = |cell: &Cell| {
        let mut slice = cell.as_slice().unwrap();
        let mut item = CellBuilder::new();
        // Four bytes of amount: 0x04 and 20 000 000; one nanoTON below the smallest is one byte less.
        assert_eq!(slice.load_small_uint(4).unwrap(), 4);
        slice.skip_first(32, 0).unwrap();
        let dust = u32::try_from(MIN_OPENER_ITEM.nano() - 1).unwrap();
        item.store_small_uint(4, 4).unwrap();
        item.store_u32(dust).unwrap();
        item.store_slice(slice).unwrap();
        item.build().unwrap()
    };
    let mut slice = message.body().as_slice().unwrap();
    let item = replace(&slice.load_reference_cloned().unwrap());
    let mut body = CellBuilder::new();
    body.store_slice_data(slice).unwrap();
    body.store_reference(item).unwrap();
    message.with_body(body.build().unwrap())
}

impl Contract for Opener {
    const NAME: &'static str = "opener";
    /// Why some make no sense: nothing is signed here, and lists may be sent again; only items have amounts; coins are
    /// anybody's, and a bounce has no other sender than the channel. `rich` holds a gift beside its reserve.
    const TABLE: &'static str = "
# operation     | state    | right       sender      signature   replay      balance     gas         dust        network
list of 4       | absent   | idle/5      108         -           idle/5      -           -14         112         -
list of 4       | idle     | idle/5      108         -           idle/5      idle/5      -14         112         -
list of 4       | rich     | idle/5      108         -           idle/5      idle/5      -14         112         -
list of 250     | absent   | idle/251    108         -           idle/251    -           -14         -           -
list of 250     | idle     | idle/251    108         -           idle/251    idle/251    -14         -           -
list of 251     | idle     | 119         108         -           119         119         -14         -           -
empty list      | absent   | idle/1      108         -           idle/1      -           -14         -           -
empty list      | idle     | idle/1      108         -           idle/1      idle/1      -14         -           -
empty list      | rich     | idle/1      108         -           idle/1      idle/1      -14         -           -
unpaid list     | idle     | a37         108         -           a37         a37         -14         -           -
coins           | idle     | rich/0      -           -           rich/0      rich/0      idle/0      -           -
coins           | rich     | rich/0      -           -           rich/0      rich/0      rich/0      -           -
bounce          | idle     | idle/1      -           -           idle/1      idle/1      -14         -           -
bounce          | rich     | idle/1      -           -           idle/1      idle/1      -14         -           -
unknown         | absent   | nostate     -           -           nostate     -           nostate     -           -
unknown         | idle     | 65535       -           -           65535       65535       -14         -           -
unknown external| idle     | 11          -           -           -           11          none        -           -
";

    fn scene(state: &str) -> Self {
        let terms = OpenerTerms {
            owner: party(CLIENT),
        };
        let mut scene = Self {
            machine: Machine::new(),
            address: terms.address().unwrap(),
            terms,
        };
        if state != "absent" {
            let list = contract::open_many_message(&scene.terms, 1, &[]).unwrap();
            scene.machine.prepare(party(CLIENT), &list);
        }
        if state == "rich" {
            let gift = OutMessage::transfer(scene.address, ton(100));
            scene.machine.prepare(party(WORKER), &gift);
        }
        scene
    }

    fn machine(&mut self) -> &mut Machine {
        &mut self.machine
    }

    fn address(&self) -> TonAddress {
        self.address
    }

    fn message(&mut self, operation: &str, condition: Condition) -> Option<Cell> {
        let opener = self.address;
        let anybody = ["coins", "unknown"].contains(&operation);
        if anybody && condition == Condition::WrongSender {
            return None;
        }
        if self.machine.account(opener).is_none() && condition == Condition::LowBalance {
            return None;
        }
        let list = |count| contract::open_many_message(&self.terms, 7, &items(count)).unwrap();
        let message = match operation {
            "list of 4" if condition == Condition::Dust => {
                let message = with_dust(list(4));
                return Some(self.machine.internal(party(CLIENT), &message));
            }
            "list of 4" => list(4),
            "list of 250" => list(250),
            // One more than the client builds, in front of a whole list.
            "list of 251" => {
                let whole = list(250);
                let mut slice = whole.body().as_slice().unwrap();
                let rest = slice.load_reference_cloned().unwrap();
                let mut item = CellBuilder::new();
                item.store_small_uint(4, 4).unwrap();
                item.store_u32(20_000_000).unwrap();
                item.store_bit_one().unwrap();
                item.store_raw(&[7; 32], 256).unwrap();
                item.store_bit_one().unwrap();
                item.store_reference(rest).unwrap();
                let mut body = CellBuilder::new();
                body.store_slice_data(slice).unwrap();
                body.store_reference(item.build().unwrap()).unwrap();
                let value = whole.value();
                whole
                    .with_body(body.build().unwrap())
                    .with_value(value.checked_add(ton(100)).unwrap())
            }
            "empty list" => contract::open_many_message(&self.terms, 7, &[]).unwrap(),
            "unpaid list" => list(4).with_value(ton(60)),
            "coins" => OutMessage::transfer(opener, ton(50)),
            "unknown" => contract::start_close_message(opener).unwrap(),
            "bounce" => {
                let value = match condition {
                    Condition::LowGas => super::LOW_GAS,
                    Condition::RightSender | Condition::Replay | Condition::LowBalance => ton(19),
                    _ => return None,
                };
                let mut said = 0x746f_7031_u32.to_be_bytes().to_vec();
                said.extend(7_u64.to_be_bytes());
                return Some(self.machine.bounced(party(WORKER), opener, value, &said));
            }
            "unknown external" => {
                return match condition {
                    Condition::RightSender | Condition::LowBalance | Condition::LowGas => {
                        Some(unknown_external(opener))
                    }
                    _ => None,
                };
            }
            _ => panic!("{operation}"),
        };
        internal(&mut self.machine, CLIENT, condition, message)
    }

    fn state(&mut self) -> String {
        if self.machine.data(self.address).is_none() {
            return "absent".to_owned();
        }
        // What a bounce cannot carry stays, and rent goes.
        let a_little = NanoTon::from_nano(100_000);
        let least = OPENER_RESERVE.checked_sub(a_little).unwrap();
        let balance = self.machine.balance(self.address);
        if balance > OPENER_RESERVE.checked_add(a_little).unwrap() {
            "rich".to_owned()
        } else if balance >= least {
            "idle".to_owned()
        } else {
            "poor".to_owned()
        }
    }
}
