//! The registry's table.

use cocoon_protocol::log::TreeHead;
use cocoon_protocol::{Digest, TonAddress};
use cocoon_settlement::contract::registry::{
    self, Change, Governance, SignedMessage, Subject, apply_message,
};
use cocoon_settlement::contract::{self, OutMessage};
use cocoon_settlement::devnet::GLOBAL_ID;
use tycho_types::cell::Cell;

use super::machine::{Machine, unknown_external};
use super::{CLIENT, Condition, Contract, WRONG_NETWORK, internal, key, party, public, ton};

const DELAY: u32 = 7200;

pub struct Registry {
    machine: Machine,
    governance: Governance,
    address: TonAddress,
}

/// Ten of sixteen: the dearest there can be.
pub fn governance() -> Governance {
    let keys: Vec<_> = (20..36).map(public).collect();
    Governance::new(10, DELAY, &keys).unwrap()
}

fn head(size: u64) -> TreeHead {
    TreeHead {
        size,
        root: Digest::sha256(&size.to_be_bytes()),
    }
}

pub fn change(what: &str) -> Change {
    match what {
        "log" => Change::log_head("example.org/guest-images", head(5)),
        "smaller log" => Change::log_head("example.org/guest-images", head(4)),
        "another log" => Change::log_head(
            "example.org/guest-images",
            TreeHead {
                size: 5,
                root: Digest::sha256(b"another"),
            },
        ),
        "model" => Change::Model {
            digest: Digest::sha256(b"model"),
            status: 1,
        },
        "no model" => Change::Model {
            digest: Digest::sha256(b"model"),
            status: 0,
        },
        "parameter" => Change::number(1, 100).unwrap(),
        "signers" => {
            let keys: Vec<_> = (24..40).map(public).collect();
            Change::Governance(Governance::new(10, DELAY * 2, &keys).unwrap())
        }
        _ => panic!("{what}"),
    }
}

impl Registry {
    fn seqno(&self) -> Option<u32> {
        self.machine
            .data(self.address)?
            .as_slice()
            .unwrap()
            .load_u32()
            .ok()
    }

    fn signed(
        &self,
        subject: Subject,
        network: i32,
        signers: std::ops::Range<u8>,
    ) -> SignedMessage {
        let seqno = self.seqno().unwrap_or(0) + 1;
        let until = self.machine.now + 600;
        let mut message = SignedMessage::new(self.address, seqno, until, subject);
        for n in signers {
            assert!(message.sign(&key(n), &self.governance, network).unwrap());
        }
        message
    }

    fn propose(&mut self, what: &str) {
        let message = self.signed(Subject::Propose(change(what)), GLOBAL_ID, 20..30);
        self.machine
            .prepare(party(CLIENT), &message.message().unwrap());
    }
}

impl Contract for Registry {
    const NAME: &'static str = "registry";
    /// Why some make no sense: every message is anybody's, so no sender is the wrong one; only proposals and cancellations
    /// are signed; nothing has an amount. `waiting` has one change (a log, number 1), `due` too and its time
    /// has come, `full` has eight. A state's numbers are messages so far and changes that wait. Ten of sixteen signers.
    const TABLE: &'static str = "
# operation     | state    | right       sender      signature   replay      balance     gas         dust        network
deploy          | absent   | 0,0/0       -           -           0,0/0       -           0,0/0       -           -
coins           | new      | 0,0/0       -           -           0,0/0       0,0/0       0,0/0       -           -
propose log     | absent   | nostate     -           nostate     nostate     -           nostate     -           nostate
propose log     | new      | 1,1/1       -           105         112         1,1/1       -14         -           105
propose log     | waiting  | 2,2/1       -           105         112         2,2/1       -14         -           105
propose log     | full     | 119         -           105         119         119         -14         -           105
propose signers | new      | 1,1/1       -           105         112         1,1/1       -14         -           105
propose, nine   | new      | 105         -           105         105         105         -14         -           105
cancel          | absent   | nostate     -           nostate     nostate     -           nostate     -           nostate
cancel          | new      | 120         -           105         120         120         -14         -           105
cancel          | waiting  | 2,0/1       -           105         112         2,0/1       -14         -           105
cancel          | due      | 2,0/1       -           105         112         2,0/1       -14         -           105
cancel          | full     | 9,7/1       -           105         112         9,7/1       -14         -           105
apply log       | absent   | nostate     -           -           nostate     -           nostate     -           -
apply log       | new      | 120         -           -           120         120         -14         -           -
apply log       | waiting  | 109         -           -           109         109         -14         -           -
apply log       | due      | 1,0/1       -           -           120         1,0/1       -14         -           -
apply shrinking | due      | 114         -           -           114         114         -14         -           -
apply forked    | due      | 114         -           -           114         114         -14         -           -
apply model     | due      | 2,0/1       -           -           120         2,0/1       -14         -           -
apply no model  | due      | 121         -           -           121         121         -14         -           -
apply parameter | due      | 2,0/1       -           -           120         2,0/1       -14         -           -
apply signers   | due      | 2,0/1       -           -           120         2,0/1       -14         -           -
unknown         | new      | 65535       -           -           65535       65535       -14         -           -
unknown external| new      | 11          -           -           -           11          none        -           -
";

    fn scene(state: &str) -> Self {
        let governance = governance();
        let mut scene = Self {
            machine: Machine::new(),
            address: governance.address().unwrap(),
            governance,
        };
        if state != "absent" {
            let deploy = registry::deploy_registry_message(&scene.governance, ton(200)).unwrap();
            scene.machine.prepare(party(CLIENT), &deploy);
        }
        match state {
            "waiting" => scene.propose("log"),
            "due" => {
                scene.propose("log");
                scene.machine.now += DELAY;
            }
            "full" => {
                for _ in 0..registry::MAX_PENDING_CHANGES {
                    scene.propose("log");
                }
            }
            _ => {}
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
        let registry = self.address;
        if self.seqno().is_none() && condition == Condition::LowBalance {
            return None;
        }
        let message = match operation {
            "deploy" => registry::deploy_registry_message(&self.governance, ton(50)).unwrap(),
            "coins" => OutMessage::transfer(registry, ton(50)),
            "unknown" => contract::start_close_message(registry).unwrap(),
            "apply log" => apply_message(registry, 1).unwrap(),
            "unknown external" => {
                return match condition {
                    Condition::RightSender | Condition::LowBalance | Condition::LowGas => {
                        Some(unknown_external(registry))
                    }
                    _ => None,
                };
            }
            _ if operation.starts_with("apply") => {
                let what = match operation {
                    "apply shrinking" => "smaller log",
                    "apply forked" => "another log",
                    "apply model" => "model",
                    "apply no model" => "no model",
                    "apply parameter" => "parameter",
                    "apply signers" => "signers",
                    _ => panic!("{operation}"),
                };
                let log = apply_message(registry, 1).unwrap();
                self.machine.prepare(party(CLIENT), &log);
                self.propose(what);
                self.machine.now += DELAY;
                apply_message(registry, 2).unwrap()
            }
            _ => return self.signed_case(operation, condition),
        };
        // Anybody's, so no sender is the wrong one.
        if condition == Condition::WrongSender {
            return None;
        }
        internal(&mut self.machine, CLIENT, condition, message)
    }

    fn state(&mut self) -> String {
        let Some(data) = self.machine.data(self.address) else {
            return "absent".to_owned();
        };
        let mut slice = data.as_slice().unwrap();
        let seqno = slice.load_u32().unwrap();
        let pending = slice.load_u8().unwrap();
        format!("{seqno},{pending}")
    }
}

impl Registry {
    fn signed_case(&mut self, operation: &str, condition: Condition) -> Option<Cell> {
        let network = match condition {
            Condition::WrongSender | Condition::Dust => return None,
            Condition::WrongNetwork => WRONG_NETWORK,
            _ => GLOBAL_ID,
        };
        let subject = match operation {
            "cancel" => Subject::Cancel(1),
            "propose signers" => Subject::Propose(change("signers")),
            _ => Subject::Propose(change("log")),
        };
        // The last ten signers: the longest way through the list.
        let signers = if operation == "propose, nine" {
            20..29
        } else {
            26..36
        };
        let mut message = self.signed(subject, network, signers);
        if condition == Condition::WrongSignature {
            // Signed for another second, and said to be for this one.
            message.valid_until += 1;
        }
        let message = message.message().unwrap();
        match condition {
            Condition::WrongSignature | Condition::WrongNetwork => {
                Some(self.machine.internal(party(CLIENT), &message))
            }
            _ => internal(&mut self.machine, CLIENT, condition, message),
        }
    }
}
