//! Nodes that compare what they are shown of a log of images.

use crate::support::chain::{TestChain, wallet};
use crate::support::port::Hub;
use crate::support::{key, milliton, peer, system, until_async};
use cocoon_actors::ask::{Address, ask};
use cocoon_actors::directory::Directory;
use cocoon_actors::log_watch::{LogView, LogWatch, Registry, ViewLog, show_head};
use cocoon_actors::mesh::{Inbox, Mesh, pump};
use cocoon_actors::metrics::Metrics;
use cocoon_actors::port::Judgement;
use cocoon_actors::supervision::supervise;
use cocoon_attestation::log::{Checkpoint, Note, NoteSigner, RebuilderSet};
use cocoon_protocol::directory::DirectoryConfig;
use cocoon_protocol::log::TreeHead;
use cocoon_protocol::{Digest, PublicKey32, merkle};
use cocoon_settlement::chain::Chain;
use cocoon_settlement::contract::registry::{
    Change, Draft, Governance, MIN_REGISTRY_DELAY_S, Subject, apply_message,
    deploy_registry_message, fetch_registry,
};
use cocoon_settlement::devnet::GLOBAL_ID;
use cocoon_settlement::ledger::SCHEMA;
use cocoon_settlement::store::MemoryStore;
use std::sync::Arc;

const ORIGIN: &str = "example.org/images";

fn signers() -> [NoteSigner; 2] {
    [1, 2].map(|seed| NoteSigner::new(&format!("rebuilder-{seed}"), &[seed; 32]).unwrap())
}

fn rebuilders() -> RebuilderSet {
    let keys = signers().iter().map(NoteSigner::verifier).collect();
    RebuilderSet::new(ORIGIN, 2, keys).unwrap()
}

/// A log whose entries differ from `from` on.
fn leaves(count: u64, forked_at: u64) -> Vec<Digest> {
    (0..count)
        .map(|index| {
            let branch = if index < forked_at { "both" } else { "forked" };
            merkle::leaf_hash(format!("{branch} {index}").as_bytes())
        })
        .collect()
}

fn signed(leaves: &[Digest]) -> Vec<u8> {
    let head = TreeHead {
        size: u64::try_from(leaves.len()).unwrap(),
        root: merkle::root(leaves),
    };
    let text = Checkpoint::new(ORIGIN, head).unwrap().to_string();
    let mut note = Note::new(text.clone()).unwrap();
    for signer in signers() {
        note.add(signer.sign(&text)).unwrap();
    }
    note.to_string().into_bytes()
}

struct Watcher {
    watch: Address<LogWatch>,
    metrics: Metrics,
    store: Arc<MemoryStore>,
    mesh: Address<Mesh>,
}

impl Watcher {
    fn start(hub: &Hub, seed: u8, copy: Vec<Digest>) -> Self {
        let metrics = Metrics::new();
        let (commands, notices) = hub.join(peer(seed));
        let mesh = supervise(Mesh::new(commands, metrics.clone()));
        let directory = supervise(Directory::new(
            DirectoryConfig::default(),
            None,
            metrics.clone(),
        ));
        let store = Arc::new(MemoryStore::new(SCHEMA));
        let watch = Self::watch(&store, &mesh, &metrics, copy);
        tokio::spawn(pump(
            notices,
            Inbox {
                mesh: mesh.clone(),
                directory,
                attestor: None,
                negotiator: None,
                log: Some(watch.clone()),
                collateral: None,
                sessions: None,
                cashier: None,
                vault: None,
            },
        ));
        Self {
            watch,
            metrics,
            store,
            mesh,
        }
    }

    fn watch(
        store: &Arc<MemoryStore>,
        mesh: &Address<Mesh>,
        metrics: &Metrics,
        copy: Vec<Digest>,
    ) -> Address<LogWatch> {
        let watch = LogWatch::new(
            rebuilders(),
            copy,
            Arc::clone(store) as _,
            mesh.clone(),
            metrics.clone(),
            None,
        );
        supervise(watch.unwrap())
    }

    async fn view(&self) -> LogView {
        ask(&self.watch, ViewLog).await.unwrap()
    }

    async fn knows(&self, entries: u64) {
        until_async("the log's size", async || {
            self.view().await.entries == entries
        })
        .await;
    }
}

#[test]
fn a_head_reaches_everybody_and_growth_is_proven_by_whoever_has_the_log() {
    system(async {
        let hub = Hub::default();
        let whole = leaves(5, 99);
        let keeper = Watcher::start(&hub, 1, whole.clone());
        let other = Watcher::start(&hub, 2, Vec::new());
        show_head(&other.watch, peer(9), signed(&whole[..2]));
        keeper.knows(2).await;
        other.knows(2).await;
        // The other one cannot know that the log grew from 2 to 5; the keeper, who is asked, can.
        show_head(&keeper.watch, peer(9), signed(&whole));
        keeper.knows(5).await;
        other.knows(5).await;
        assert!(!hub.judged().contains(&Judgement::Reject));
        // After a restart it goes on from there.
        until_async("the head on disk", async || {
            let again = Watcher::watch(&other.store, &other.mesh, &other.metrics, Vec::new());
            ask(&again, ViewLog).await.unwrap().entries == 5
        })
        .await;
    });
}

#[test]
fn two_logs_under_the_same_keys_are_noticed_by_both_sides_and_not_forgotten() {
    system(async {
        let hub = Hub::default();
        let (one, two) = (
            Watcher::start(&hub, 1, Vec::new()),
            Watcher::start(&hub, 2, Vec::new()),
        );
        show_head(&one.watch, peer(8), signed(&leaves(4, 99)));
        two.knows(4).await;
        // A worker shows the other node a log in which the third entry is another one.
        show_head(&two.watch, peer(9), signed(&leaves(4, 2)));
        for node in [&one, &two] {
            until_async("the alarm", async || node.view().await.split).await;
            assert_eq!(node.metrics.log_split_view.get(), 1);
        }
        until_async("the alarm on disk", async || {
            let again = Watcher::watch(&two.store, &two.mesh, &two.metrics, Vec::new());
            ask(&again, ViewLog).await.unwrap().split
        })
        .await;
    });
}

#[test]
fn what_is_not_signed_by_enough_costs_the_relay_and_is_not_believed() {
    system(async {
        let hub = Hub::default();
        let one = Watcher::start(&hub, 1, Vec::new());
        let forged = String::from_utf8(signed(&leaves(3, 99))).unwrap();
        // One of the two signatures is missing.
        let forged = forged.trim_end().rsplit_once('\n').unwrap().0.to_owned() + "\n";
        let relay = peer(7);
        let judge = async |bytes: Vec<u8>| {
            let news = cocoon_actors::log_watch::JudgeNews { relay, bytes };
            ask(&one.watch, news).await.unwrap()
        };
        let news = cocoon_protocol::log::LogNews::Head(forged.into_bytes());
        assert_eq!(judge(news.encode()).await, Judgement::Reject);
        assert_eq!(judge(b"garbage".to_vec()).await, Judgement::Reject);
        assert_eq!(one.view().await.entries, 0);
        let news = cocoon_protocol::log::LogNews::Head(signed(&leaves(3, 99)));
        assert_eq!(judge(news.encode()).await, Judgement::Accept);
        assert_eq!(judge(news.encode()).await, Judgement::Ignore);
        assert_eq!(one.view().await.entries, 3);
    });
}

/// A registry on a chain, whose signers have written down a head of the log, and have waited for it to come into force.
async fn registry(head: TreeHead) -> Registry {
    let chain = TestChain::new(&[1]).await;
    let signers = [11, 12, 13].map(key);
    let keys = signers
        .each_ref()
        .map(|key| PublicKey32::from_bytes(key.verifying_key().to_bytes()));
    let governance = Governance::new(2, MIN_REGISTRY_DELAY_S, &keys).unwrap();
    let address = governance.address().unwrap();
    let wallet = wallet(1);
    let deploy = deploy_registry_message(&governance, milliton(500)).unwrap();
    wallet.send(&chain.local, &[deploy]).await.unwrap();
    let until = chain.head().await.unwrap().unix + 60;
    let change = Subject::Propose(Change::log_head(ORIGIN, head));
    let mut draft = Draft::new(address, GLOBAL_ID, 1, until, &change).unwrap();
    for signer in signers.iter().take(2) {
        draft.sign(signer).unwrap();
    }
    let propose = draft.message(&governance).unwrap();
    wallet.send(&chain.local, &[propose]).await.unwrap();
    let ripe = chain.head().await.unwrap().unix + MIN_REGISTRY_DELAY_S;
    chain.local.devnet().advance(ripe).unwrap();
    let apply = apply_message(address, 1).unwrap();
    wallet.send(&chain.local, &[apply]).await.unwrap();
    let state = fetch_registry(&chain.local, address)
        .await
        .unwrap()
        .unwrap();
    assert_eq!(state.logs.values().collect::<Vec<_>>(), [&head]);
    Registry {
        chain: Arc::new(chain),
        address,
    }
}

#[test]
fn a_log_that_is_not_the_one_on_chain_is_noticed_without_meeting_anybody() {
    system(async {
        let written = leaves(4, 99);
        let registry = registry(TreeHead {
            size: 4,
            root: merkle::root(&written),
        })
        .await;
        // The same size and another root; and one entry more, which takes a copy of the log to see through.
        let forked = leaves(5, 2);
        for (shown, copy, split) in [
            (&written[..], Vec::new(), false),
            (&forked[..4], Vec::new(), true),
            (&forked[..], forked.clone(), true),
        ] {
            let hub = Hub::default();
            let mesh = supervise(Mesh::new(hub.join(peer(1)).0, Metrics::new()));
            let watch = LogWatch::new(
                rebuilders(),
                copy,
                Arc::new(MemoryStore::new(SCHEMA)),
                mesh,
                Metrics::new(),
                Some(registry.clone()),
            );
            let watch = supervise(watch.unwrap());
            show_head(&watch, peer(8), signed(shown));
            until_async("the head and the registry", async || {
                let view = ask(&watch, ViewLog).await.unwrap();
                view.compared && view.entries == u64::try_from(shown.len()).unwrap()
            })
            .await;
            assert_eq!(ask(&watch, ViewLog).await.unwrap().split, split);
        }
    });
}
