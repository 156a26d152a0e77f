//! The registry contract in a real TVM, and every get method of every contract held against the accounts' data.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::arithmetic_side_effects
)]

mod support;

use cocoon_protocol::log::TreeHead;
use cocoon_protocol::{Digest, PublicKey32, TonAddress};
use cocoon_settlement::chain::TransactionSummary;
use cocoon_settlement::contract::registry::{
    self, AgainstChain, Change, Governance, GovernanceError, Pending, RegistryState, SignedMessage,
    Subject,
};
use cocoon_settlement::contract::{self, OpenerTerms, getters, registry_exit};
use cocoon_settlement::devnet::GLOBAL_ID;
use support::{Scene, key, ton};

const DELAY: u32 = 3600;

fn public(n: u8) -> PublicKey32 {
    PublicKey32::from_bytes(key(n).verifying_key().to_bytes())
}

/// Two of three.
fn governance(delay: u32) -> Governance {
    Governance::new(2, delay, &[public(40), public(41), public(42)]).unwrap()
}

struct Network {
    scene: Scene,
    registry: TonAddress,
}

impl Network {
    async fn new() -> Self {
        let scene = Scene::new().await;
        let governance = governance(DELAY);
        let deploy = registry::deploy_registry_message(&governance, ton(500)).unwrap();
        scene.client.send(&scene.chain, &[deploy]).await.unwrap();
        Self {
            scene,
            registry: governance.address().unwrap(),
        }
    }

    async fn state(&self) -> RegistryState {
        registry::fetch_registry(&self.scene.chain, self.registry)
            .await
            .unwrap()
            .unwrap()
    }

    async fn send(&self, subject: Subject, signers: &[u8]) -> TransactionSummary {
        let state = self.state().await;
        let until = self.scene.now() + 600;
        let mut message = SignedMessage::new(self.registry, state.seqno + 1, until, subject);
        for n in signers {
            message
                .sign(&key(*n), &state.governance, GLOBAL_ID)
                .unwrap();
        }
        // Whoever has coins: neither a signer nor anybody in particular.
        let message = message.message().unwrap();
        self.scene.call(&self.scene.worker, message).await
    }

    async fn apply(&self, id: u32) -> TransactionSummary {
        let message = registry::apply_message(self.registry, id).unwrap();
        self.scene.call(&self.scene.client, message).await
    }

    /// Proposes, waits, applies.
    async fn change(&self, change: Change) -> TransactionSummary {
        let proposed = self.send(Subject::Propose(change), &[40, 42]).await;
        assert!(proposed.success, "{proposed:?}");
        self.scene.pass(DELAY);
        let id = self.state().await.seqno;
        self.apply(id).await
    }
}

fn head(size: u64) -> TreeHead {
    TreeHead {
        size,
        root: Digest::sha256(&size.to_be_bytes()),
    }
}

fn log(size: u64) -> Change {
    Change::log_head("example.org/guest-images", head(size))
}

#[tokio::test]
async fn a_change_takes_enough_signatures_and_time_and_can_be_stopped() {
    let network = Network::new().await;
    let proposed = network.send(Subject::Propose(log(3)), &[42, 40]).await;
    assert!(proposed.success, "{proposed:?}");
    let pending = network.state().await.pending;
    let expected = Pending {
        applies_at: proposed.unix + DELAY,
        change: Some(log(3)),
        hash: Digest::from_bytes(log(3).to_cell().unwrap().repr_hash().0),
    };
    assert_eq!(pending.into_iter().collect::<Vec<_>>(), [(1, expected)]);
    assert_eq!(
        network.apply(1).await.exit_code,
        Some(registry_exit::TOO_EARLY)
    );
    assert!(network.state().await.logs.is_empty());

    // Two others see it and stop it.
    let cancelled = network.send(Subject::Cancel(1), &[41, 42]).await;
    assert!(cancelled.success, "{cancelled:?}");
    network.scene.pass(DELAY);
    assert_eq!(
        network.apply(1).await.exit_code,
        Some(registry_exit::NOT_PENDING)
    );

    // One signature is nobody's.
    let alone = network.send(Subject::Propose(log(3)), &[40]).await;
    assert_eq!(alone.exit_code, Some(registry_exit::SIGNATURE));

    assert!(network.change(log(3)).await.success);
    assert_eq!(
        network.state().await.logs.into_iter().collect::<Vec<_>>(),
        [(registry::log_key("example.org/guest-images"), head(3))]
    );
    network.scene.assert_conserved();
}

#[tokio::test]
async fn a_log_never_shrinks_and_a_node_finds_that_it_was_shown_another() {
    let network = Network::new().await;
    assert!(network.change(log(5)).await.success);
    let forked = Change::log_head(
        "example.org/guest-images",
        TreeHead {
            size: 5,
            root: Digest::sha256(b"another log"),
        },
    );
    for worse in [log(4), log(0), forked] {
        let refused = network.change(worse).await;
        assert_eq!(refused.exit_code, Some(registry_exit::REGRESS));
    }
    assert!(network.change(log(5)).await.success, "the same again");
    assert!(network.change(log(9)).await.success);
    let origin = registry::log_key("example.org/guest-images");
    let on_chain = network.state().await.logs[&origin];
    assert_eq!(on_chain, head(9));
    let seen = TreeHead {
        root: Digest::sha256(b"shown to me alone"),
        ..on_chain
    };
    assert_eq!(
        registry::compare_heads(&[head(5), seen], on_chain),
        AgainstChain::Split { seen, on_chain }
    );
}

#[tokio::test]
async fn new_signers_take_over_and_what_the_old_ones_left_is_dropped() {
    let network = Network::new().await;
    let next = Governance::new(3, DELAY * 2, &[public(42), public(43), public(44)]).unwrap();
    let left = network.send(Subject::Propose(log(1)), &[40, 41]).await;
    assert!(left.success);
    let change = Change::Governance(next.clone());
    assert!(network.change(change).await.success);
    let state = network.state().await;
    assert_eq!(state.governance, next);
    assert!(
        state.pending.is_empty(),
        "proposed by those who no longer decide"
    );
    assert_eq!(
        network.apply(1).await.exit_code,
        Some(registry_exit::NOT_PENDING)
    );
    let mut message = SignedMessage::new(
        network.registry,
        state.seqno + 1,
        network.scene.now() + 600,
        Subject::Propose(log(1)),
    );
    assert!(
        !message
            .sign(&key(40), &state.governance, GLOBAL_ID)
            .unwrap(),
        "no longer a signer"
    );
    let done = network.send(Subject::Propose(log(1)), &[42, 43, 44]).await;
    assert!(done.success, "{done:?}");
    network.scene.assert_conserved();
}

#[test]
fn rules_that_the_contract_would_refuse_are_not_built() {
    let keys = [public(40), public(41), public(42)];
    let rules = |threshold, delay, keys: &[PublicKey32]| Governance::new(threshold, delay, keys);
    assert_eq!(
        rules(1, DELAY, &keys),
        Err(GovernanceError::Threshold {
            threshold: 1,
            signers: 3
        }),
        "nobody decides alone"
    );
    assert!(rules(4, DELAY, &keys).is_err());
    assert_eq!(
        rules(2, DELAY, &[keys[0], keys[0]]),
        Err(GovernanceError::Signers(2))
    );
    assert!(rules(2, DELAY, &[PublicKey32::from_bytes([0; 32]), keys[0]]).is_err());
    assert_eq!(rules(2, 60, &keys), Err(GovernanceError::Delay(60)));
    let many: Vec<_> = (40..57).map(public).collect();
    assert_eq!(rules(2, DELAY, &many), Err(GovernanceError::Signers(17)));
    assert!(rules(10, DELAY, &many[..16]).is_ok());
}

#[tokio::test]
async fn a_full_table_takes_no_more() {
    let network = Network::new().await;
    for n in 0..8_u8 {
        let model = Change::Model {
            digest: Digest::sha256(&[n]),
            status: 1,
        };
        assert!(
            network
                .send(Subject::Propose(model), &[40, 41])
                .await
                .success
        );
    }
    let ninth = network.send(Subject::Propose(log(1)), &[40, 41]).await;
    assert_eq!(ninth.exit_code, Some(registry_exit::TOO_MANY));
    network.scene.pass(DELAY);
    for id in 1..=8 {
        assert!(network.apply(id).await.success);
    }
    for n in 0..16_u64 {
        let change = Change::log_head(&format!("example.org/{n}"), head(n));
        assert!(network.change(change).await.success);
    }
    let refused = network
        .change(Change::log_head("example.org/16", head(1)))
        .await;
    assert_eq!(refused.exit_code, Some(registry_exit::TOO_MANY));
    let state = network.state().await;
    assert_eq!((state.logs.len(), state.models.len()), (16, 8));
}

/// The list of names is what the sources declare, so a get method without a client fails the test.
#[tokio::test]
async fn every_get_method_says_what_the_data_say() {
    let network = Network::new().await;
    let scene = &network.scene;
    let chain = &scene.chain;
    let messages = [
        contract::open_message(&scene.terms, ton(1000)).unwrap(),
        contract::open_many_message(
            &OpenerTerms {
                owner: scene.client.address(),
            },
            1,
            &[],
        )
        .unwrap(),
    ];
    scene.client.send(chain, &messages).await.unwrap();
    let deploy = contract::deploy_ledger_message(&scene.ledger, ton(100)).unwrap();
    scene.worker.send(chain, &[deploy]).await.unwrap();
    for seqno in 1..=5 {
        let commit = scene.commit(seqno, u64::from(seqno) * 10, ton(u64::from(seqno)));
        scene.send_commit(&commit).await.unwrap();
    }
    let mut called = Vec::new();

    for step in 0..3 {
        match step {
            0 => {}
            1 => {
                scene.claim(&scene.voucher(ton(100))).await.unwrap();
                let start = contract::start_close_message(scene.channel).unwrap();
                scene.call(&scene.client, start).await;
            }
            _ => {
                let release = contract::release_message(&scene.release(ton(200))).unwrap();
                scene.call(&scene.worker, release).await;
            }
        }
        let state = scene.state().await;
        let said = getters::channel_state(chain, scene.channel).await.unwrap();
        assert_eq!(said.version, contract::CONTRACT_VERSION);
        assert_eq!(
            (said.terms, said.claimed, said.close_at, said.finished),
            (state.terms, state.claimed, state.close_at, state.finished)
        );
        assert_eq!(
            getters::available(chain, scene.channel).await.unwrap(),
            state.available()
        );
    }
    called.extend(["channel_state", "available"]);

    let ledger = scene.ledger_state().await;
    let said = getters::ledger_state(chain, scene.ledger_address)
        .await
        .unwrap();
    assert_eq!(
        (
            said.owner, said.key, said.seqno, said.root, said.jobs, said.total
        ),
        (
            ledger.owner,
            ledger.key,
            ledger.seqno,
            ledger.roots[0],
            ledger.jobs,
            ledger.total
        )
    );
    let roots = getters::recent_roots(chain, scene.ledger_address);
    assert_eq!(roots.await.unwrap(), ledger.roots);
    called.extend(["ledger_state", "recent_roots"]);

    let terms = OpenerTerms {
        owner: scene.client.address(),
    };
    let opener = terms.address().unwrap();
    let said = getters::opener_state(chain, opener).await.unwrap();
    let state = contract::fetch_opener(chain, opener)
        .await
        .unwrap()
        .unwrap();
    assert_eq!(said.owner, state.terms.owner);
    assert_eq!(usize::from(said.max_items), contract::MAX_OPENER_ITEMS);
    called.push("opener_state");

    let model = Digest::sha256(b"model");
    let origin = registry::log_key("example.org/guest-images");
    assert!(network.change(log(7)).await.success);
    let listed = Change::Model {
        digest: model,
        status: 3,
    };
    assert!(network.change(listed).await.success);
    assert!(
        network
            .change(Change::number(9, 1_000).unwrap())
            .await
            .success
    );
    assert!(
        network
            .send(Subject::Propose(log(8)), &[40, 41])
            .await
            .success
    );
    let state = network.state().await;
    let at = network.registry;
    let said = getters::registry_state(chain, at).await.unwrap();
    assert_eq!(
        (said.seqno, said.threshold, said.delay_s, said.counts),
        (4, 2, DELAY, [1, 1, 1, 1])
    );
    assert_eq!(said.seqno, state.seqno);
    assert_eq!(
        getters::signers(chain, at).await.unwrap(),
        state.governance.signers()
    );
    assert_eq!(
        getters::log_head(chain, at, origin).await.unwrap(),
        Some(state.logs[&origin])
    );
    assert_eq!(getters::log_head(chain, at, model).await.unwrap(), None);
    assert_eq!(
        getters::model_status(chain, at, model).await.unwrap(),
        state.models[&model]
    );
    assert_eq!(getters::model_status(chain, at, origin).await.unwrap(), 0);
    assert_eq!(
        getters::parameter(chain, at, 9).await.unwrap().as_ref(),
        Some(&state.parameters[&9])
    );
    assert_eq!(getters::parameter(chain, at, 8).await.unwrap(), None);
    assert_eq!(
        getters::pending_change(chain, at, 4)
            .await
            .unwrap()
            .as_ref(),
        Some(&state.pending[&4])
    );
    assert_eq!(getters::pending_change(chain, at, 5).await.unwrap(), None);
    let (pending, tables) = getters::tables(chain, at).await.unwrap();
    assert_eq!(pending, state.pending);
    assert_eq!(
        (tables.logs, tables.models, tables.parameters),
        (state.logs, state.models, state.parameters)
    );
    called.extend([
        "registry_state",
        "signers",
        "log_head",
        "model_status",
        "parameter",
        "pending_change",
        "tables",
    ]);

    let contracts = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("contracts");
    let mut declared: Vec<String> = ["channel", "ledger", "opener", "registry"]
        .iter()
        .map(|name| std::fs::read_to_string(contracts.join(format!("{name}.tolk"))).unwrap())
        .flat_map(|source| {
            source
                .lines()
                .filter_map(|line| line.strip_prefix("get fun "))
                .map(|rest| rest.split('(').next().unwrap().to_owned())
                .collect::<Vec<_>>()
        })
        .collect();
    declared.sort_unstable();
    called.sort_unstable();
    assert_eq!(declared, called, "every get method has a client");
}
