//! Nodes that compare what they are shown of a log of images.

use crate::support::port::Hub;
use crate::support::{peer, system, until_async};
use cocoon_actors::ask::{Address, ask};
use cocoon_actors::directory::Directory;
use cocoon_actors::log_watch::{LogView, LogWatch, ViewLog, show_head};
use cocoon_actors::mesh::{Inbox, Mesh, pump};
use cocoon_actors::metrics::Metrics;
use cocoon_actors::port::Judgement;
use cocoon_actors::supervision::supervise;
use cocoon_attestation::log::{Checkpoint, Note, NoteSigner, RebuilderSet};
use cocoon_protocol::directory::DirectoryConfig;
use cocoon_protocol::log::TreeHead;
use cocoon_protocol::{Digest, merkle};
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
