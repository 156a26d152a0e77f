//! The ledger's table.

use cocoon_protocol::{Digest, TonAddress};
use cocoon_settlement::contract::{self, Commit, LedgerTerms};
use cocoon_settlement::devnet::GLOBAL_ID;
use tycho_types::boc::Boc;
use tycho_types::cell::Cell;

use super::machine::{Machine, unknown_external, with_baggage};
use super::{
    CLIENT, Condition, Contract, WORKER, WRONG_NETWORK, internal, key, party, public, ton,
};

pub struct Ledger {
    machine: Machine,
    terms: LedgerTerms,
    address: TonAddress,
}

impl Ledger {
    fn commit(&self, seqno: u32, jobs: u64, network: i32, signer: u8) -> Vec<u8> {
        let commit = Commit {
            ledger: self.address,
            seqno,
            valid_until: self.machine.now + 60,
            root: Digest::sha256(&seqno.to_be_bytes()),
            jobs,
            total: ton(jobs),
        };
        contract::commit_message(&commit, &key(signer), network).unwrap()
    }

    fn seqno(&self) -> Option<u32> {
        let data = self.machine.data(self.address)?;
        let mut slice = data.as_slice().unwrap();
        slice.skip_first(267 + 256, 0).unwrap();
        slice.load_u32().ok()
    }
}

impl Contract for Ledger {
    const NAME: &'static str = "ledger";
    /// Why some make no sense: deploying and giving are anybody's; a commit is an external message and has no sender, and
    /// no amount that could be dust; the internal messages are not signed. The number in a state is its seqno.
    /// Baggage, a needless StateInit, is only seen by the official executor, see the golden test.
    const TABLE: &'static str = "
# operation     | state    | right       sender      signature   replay      balance     gas         dust        network
deploy          | absent   | b0/0        -           -           b0/0        -           b0/0        -           -
deploy          | batch 3  | b3/0        -           -           b3/0        b3/0        b3/0        -           -
coins           | batch 3  | b3/0        -           -           b3/0        b3/0        b3/0        -           -
withdraw        | absent   | nostate     nostate     -           nostate     -           nostate     -           -
withdraw        | batch 0  | b0/1        108         -           b0/1        b0/1        -14         -           -
withdraw        | batch 3  | b3/1        108         -           b3/1        b3/1        -14         -           -
commit          | absent   | none        -           none        none        -           none        -           none
commit          | batch 0  | b1/0        -           105         112         107         none        -           111
commit          | batch 3  | b4/0        -           105         112         107         none        -           111
commit, fewer   | batch 3  | 114         -           114         114         114         none        -           111
commit, skipping| batch 3  | 112         -           112         112         112         none        -           111
commit, expired | batch 3  | 113         -           113         113         113         none        -           111
commit, baggage | batch 3  | b4/0        -           105         112         107         none        -           111
unknown         | batch 3  | 65535       -           -           65535       65535       -14         -           -
unknown external| batch 3  | 110         -           -           -           110         none        -           -
";

    fn scene(state: &str) -> Self {
        let terms = LedgerTerms {
            owner: party(WORKER),
            key: public(4),
        };
        let mut scene = Self {
            machine: Machine::new(),
            address: terms.address().unwrap(),
            terms,
        };
        if state != "absent" {
            let deploy = contract::deploy_ledger_message(&scene.terms, ton(100)).unwrap();
            scene.machine.prepare(party(WORKER), &deploy);
        }
        if state == "batch 3" {
            for seqno in 1..=3 {
                let boc = scene.commit(seqno, u64::from(seqno) * 10, GLOBAL_ID, 4);
                let ran = scene
                    .machine
                    .deliver("preparation", &Boc::decode(boc).unwrap());
                assert_eq!(ran.outcome, "ok");
            }
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
        let ledger = self.address;
        let anybody = ["deploy", "coins", "unknown"].contains(&operation);
        if anybody && condition == Condition::WrongSender {
            return None;
        }
        if self.seqno().is_none() && condition == Condition::LowBalance {
            return None;
        }
        let message = match operation {
            "deploy" => contract::deploy_ledger_message(&self.terms, ton(50)).unwrap(),
            "coins" => contract::OutMessage::transfer(ledger, ton(50)),
            "withdraw" => contract::withdraw_message(ledger).unwrap(),
            "unknown" => contract::start_close_message(ledger).unwrap(),
            "unknown external" => {
                return match condition {
                    Condition::RightSender | Condition::LowBalance | Condition::LowGas => {
                        Some(unknown_external(ledger))
                    }
                    _ => None,
                };
            }
            _ => return self.commit_case(operation, condition),
        };
        let sender = if anybody { CLIENT } else { WORKER };
        internal(&mut self.machine, sender, condition, message)
    }

    fn state(&mut self) -> String {
        self.seqno()
            .map_or("absent".to_owned(), |seqno| format!("b{seqno}"))
    }
}

impl Ledger {
    fn commit_case(&mut self, operation: &str, condition: Condition) -> Option<Cell> {
        let seqno = self.seqno().unwrap_or(0);
        let network = match condition {
            Condition::WrongSender | Condition::Dust => return None,
            Condition::WrongNetwork => WRONG_NETWORK,
            _ => GLOBAL_ID,
        };
        let signer = if condition == Condition::WrongSignature {
            9
        } else {
            4
        };
        let boc = match operation {
            "commit" => self.commit(seqno + 1, 50, network, signer),
            "commit, fewer" => self.commit(seqno + 1, 29, network, signer),
            "commit, skipping" => self.commit(seqno + 2, 50, network, signer),
            "commit, expired" => {
                let boc = self.commit(seqno + 1, 50, network, signer);
                self.machine.now += 60;
                boc
            }
            "commit, baggage" => {
                let boc = self.commit(seqno + 1, 50, network, signer);
                let baggage = contract::deploy_ledger_message(&self.terms, ton(1)).unwrap();
                with_baggage(&boc, &baggage)
            }
            _ => panic!("{operation}"),
        };
        Some(Boc::decode(boc).unwrap())
    }
}
