//! The channel's table.

use cocoon_protocol::voucher::{Release, Voucher};
use cocoon_protocol::{NanoTon, TonAddress};
use cocoon_settlement::contract::{self, ChannelTerms, MIN_CLAIM};
use cocoon_settlement::devnet::GLOBAL_ID;
use tycho_types::boc::Boc;
use tycho_types::cell::Cell;

use super::machine::{BEGIN, Machine, unknown_external, with_baggage};
use super::{
    CLIENT, Condition, Contract, WORKER, WRONG_NETWORK, internal, key, party, public, ton,
};

const DELAY: u32 = 3600;

pub struct Channel {
    machine: Machine,
    terms: ChannelTerms,
    address: TonAddress,
}

impl Contract for Channel {
    const NAME: &'static str = "channel";
    /// Why some make no sense: `open`, `top up`, `coins` and `finish` are anybody's, so a wrong sender is as good as a right
    /// one; only claims and releases are signed and have amounts that can be too small; an account that is not there has
    /// no balance. "due" is closing, after the delay. Baggage, a needless StateInit, is only seen by the official executor,
    /// see the golden test. A `+` says that something was paid out.
    const TABLE: &'static str = "
# operation     | state    | right       sender      signature   replay      balance     gas         dust        network
open            | absent   | open/0      -           -           open/0      -           -14         -           -
open            | open     | open/0      -           -           open/0      open/0      -14         -           -
open            | closing  | closing/0   -           -           closing/0   closing/0   -14         -           -
open            | finished | 114         -           -           114         114         -14         -           -
top up          | absent   | nostate     -           -           nostate     -           nostate     -           -
top up          | open     | open/0      -           -           open/0      open/0      -14         -           -
top up          | closing  | closing/0   -           -           closing/0   closing/0   -14         -           -
top up          | due      | closing/0   -           -           closing/0   closing/0   -14         -           -
top up          | finished | 114         -           -           114         114         -14         -           -
coins           | open     | open/0      -           -           open/0      open/0      -14         -           -
coins           | closing  | closing/0   -           -           closing/0   closing/0   -14         -           -
coins           | finished | 114         -           -           114         114         -14         -           -
start close     | absent   | nostate     nostate     -           nostate     -           nostate     -           -
start close     | open     | closing/0   108         -           113         closing/0   -14         -           -
start close     | closing  | 113         108         -           113         113         -14         -           -
start close     | due      | 113         108         -           113         113         -14         -           -
start close     | finished | 114         114         -           114         114         -14         -           -
finish          | absent   | nostate     -           -           nostate     -           nostate     -           -
finish          | open     | 109         -           -           109         109         -14         -           -
finish          | closing  | 109         -           -           109         109         -14         -           -
finish          | due      | finished/1  -           -           114         finished/1  -14         -           -
finish          | finished | 114         -           -           114         114         -14         -           -
release         | absent   | nostate     nostate     nostate     nostate     -           nostate     nostate     nostate
release         | open     | finished+/2 116         105         114         107         -14         118         105
release         | closing  | finished+/2 116         105         114         107         -14         118         105
release         | due      | finished+/2 116         105         114         107         -14         118         105
release         | finished | 114         114         114         114         114         -14         114         114
claim           | absent   | none        -           none        none        -           none        none        none
claim           | open     | open+/1     -           105         106         107         none        112         105
claim           | closing  | closing+/1  -           105         106         107         none        112         105
claim           | due      | closing+/1  -           105         106         107         none        112         105
claim           | finished | 114         -           114         114         114         none        114         114
claim, baggage  | open     | open+/1     -           105         106         107         none        112         105
unknown         | open     | 65535       -           -           65535       65535       -14         -           -
unknown         | closing  | 65535       -           -           65535       65535       -14         -           -
unknown         | finished | 114         -           -           114         114         -14         -           -
unknown external| open     | 110         -           -           -           110         none        -           -
unknown external| finished | 110         -           -           -           110         none        -           -
";

    fn scene(state: &str) -> Self {
        let terms = ChannelTerms {
            client: party(CLIENT),
            worker: party(WORKER),
            client_key: public(3),
            nonce: 7,
            close_delay_s: DELAY,
        };
        let mut scene = Self {
            machine: Machine::new(),
            address: terms.address().unwrap(),
            terms,
        };
        let client = party(CLIENT);
        if state != "absent" {
            let open = contract::open_message(&scene.terms, ton(1000)).unwrap();
            scene.machine.prepare(client, &open);
        }
        if ["closing", "due", "finished"].contains(&state) {
            let start = contract::start_close_message(scene.address).unwrap();
            scene.machine.prepare(client, &start);
        }
        if ["due", "finished"].contains(&state) {
            scene.machine.now = BEGIN + DELAY;
        }
        if state == "finished" {
            let finish = contract::finish_message(scene.address).unwrap();
            scene.machine.prepare(client, &finish);
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
        let network = match condition {
            Condition::WrongNetwork => WRONG_NETWORK,
            _ => GLOBAL_ID,
        };
        let channel = self.address;
        let anybody = ["open", "top up", "coins", "finish", "unknown"].contains(&operation);
        if anybody && condition == Condition::WrongSender {
            return None;
        }
        let absent = self.machine.account(channel).is_none();
        if absent && condition == Condition::LowBalance {
            return None;
        }
        match operation {
            "open" => {
                let message = contract::open_message(&self.terms, ton(500)).unwrap();
                internal(&mut self.machine, CLIENT, condition, message)
            }
            "top up" => {
                let message = contract::top_up_message(channel, ton(500)).unwrap();
                internal(&mut self.machine, CLIENT, condition, message)
            }
            "coins" => {
                let message = contract::OutMessage::transfer(channel, ton(500));
                internal(&mut self.machine, CLIENT, condition, message)
            }
            "start close" => {
                let message = contract::start_close_message(channel).unwrap();
                internal(&mut self.machine, CLIENT, condition, message)
            }
            "finish" => {
                let message = contract::finish_message(channel).unwrap();
                internal(&mut self.machine, CLIENT, condition, message)
            }
            "unknown" => {
                let message = contract::withdraw_message(channel).unwrap();
                internal(&mut self.machine, CLIENT, condition, message)
            }
            "release" => {
                let release = Release {
                    channel,
                    cumulative: ton(300),
                };
                let mut signed = release.sign(&key(3), network);
                if condition == Condition::WrongSignature {
                    signed.signature[20] ^= 1;
                }
                let message = contract::release_message(&signed).unwrap();
                match condition {
                    // Enough for the gas, too little for the two messages.
                    Condition::Dust => {
                        let message = message.with_value(NanoTon::from_nano(600_000));
                        Some(self.machine.internal(party(WORKER), &message))
                    }
                    Condition::WrongSignature | Condition::WrongNetwork => {
                        Some(self.machine.internal(party(WORKER), &message))
                    }
                    _ => internal(&mut self.machine, WORKER, condition, message),
                }
            }
            "claim" | "claim, baggage" => {
                let cumulative = match condition {
                    Condition::WrongSender => return None,
                    Condition::Dust => MIN_CLAIM.checked_sub(NanoTon::from_nano(1)).unwrap(),
                    _ => ton(300),
                };
                let voucher = Voucher {
                    channel,
                    cumulative,
                };
                let mut signed = voucher.sign(&key(3), network);
                if condition == Condition::WrongSignature {
                    signed.signature[20] ^= 1;
                }
                let mut boc = contract::claim_message(&signed).unwrap();
                if operation == "claim, baggage" {
                    let baggage = contract::open_message(&self.terms, ton(1)).unwrap();
                    boc = with_baggage(&boc, &baggage);
                }
                Some(Boc::decode(boc).unwrap())
            }
            "unknown external" => match condition {
                Condition::RightSender | Condition::LowBalance | Condition::LowGas => {
                    Some(unknown_external(channel))
                }
                _ => None,
            },
            _ => panic!("{operation}"),
        }
    }

    fn state(&mut self) -> String {
        let Some(data) = self.machine.data(self.address) else {
            return "absent".to_owned();
        };
        // worker, client, key, nonce, delay; then claimed, close_at and finished.
        let mut slice = data.as_slice().unwrap();
        slice.skip_first(267 * 2 + 256 + 64, 0).unwrap();
        let claimed = slice.load_small_uint(4).unwrap();
        slice.skip_first(u16::from(claimed) * 8, 0).unwrap();
        let close_at = slice.load_u32().unwrap();
        let state = match (slice.load_bit().unwrap(), close_at) {
            (true, _) => "finished",
            (false, 0) => "open",
            (false, _) => "closing",
        };
        let paid = if claimed > 0 { "+" } else { "" };
        format!("{state}{paid}")
    }
}
