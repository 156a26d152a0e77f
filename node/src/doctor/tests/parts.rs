//! Clock, collateral, policy, disk, memory, network, chain and model, each in want of something.

use std::io::ErrorKind;
use std::net::SocketAddr;

use cocoon_protocol::Digest;
use cocoon_protocol::units::{NanoTon, UnixMillis};
use cocoon_settlement::chain::{ChainStanding, LiteError, LocalChain};
use cocoon_settlement::devnet::Devnet;
use cocoon_settlement::wallet::WalletKey;

use super::world::{COLLATERAL, DATA, MODEL, NOW_S, POLICY, QUOTE, World, df, ran};
use crate::config::{Origin, Problem};
use crate::doctor::{ChainView, Outcome, Transport, Wallet};
use Outcome::{Missing, NotApplicable, Ok as Fine, Warning};

const DAY_S: u64 = 86_400;
/// When the sample collateral ends: 2025-07-19T10:00:35Z.
const COLLATERAL_ENDS_S: u64 = 1_752_919_235;

#[test]
fn what_is_wrong_with_the_configuration_comes_first() {
    let mut world = World::healthy();
    world.problems = vec![Problem {
        name: "slots",
        value: "0".to_owned(),
        origin: Origin::Flag("--slots".to_owned()),
        why: "a worker without slots takes no jobs".to_owned(),
        fix: "use 1 or more".to_owned(),
    }];
    let report = world.report();
    assert!(!report.ready);
    let first = &report.findings[0];
    assert_eq!((first.check, first.outcome), ("configuration", Missing));
    assert_eq!(
        first.found,
        "slots = 0: a worker without slots takes no jobs"
    );
    assert_eq!(
        (first.looked_at.as_str(), first.next.as_str()),
        ("flag --slots", "use 1 or more")
    );
}

#[test]
fn a_clock_that_nobody_sets_is_told_of() {
    let mut world = World::healthy();
    world.expect("clock source", Fine, "timesyncd");
    world.remove("/run/systemd/timesync");
    world.expect("clock source", Warning, "nothing here says");
    world.says.commands.insert("timedatectl", ran("no\n"));
    world.expect("clock source", Warning, "not synchronised");
    world.says.commands.insert("timedatectl", ran("yes\n"));
    world.expect("clock source", Fine, "synchronised");
}

#[test]
fn a_clock_is_compared_with_the_chains() {
    let mut world = World::healthy();
    world.expect("clock", Fine, "3 s old");
    world.now_s = NOW_S - 5;
    world.expect("clock", Fine, "2 s ahead");
    world.now_s = NOW_S - 3 - 61;
    world.expect("clock", Missing, "61 s ahead");
    world.now_s = NOW_S - 3 + 301;
    world.expect("clock", Warning, "301 s old");
    world.chain = Some(ChainView::silent("nobody there".to_owned()));
    world.expect("clock", NotApplicable, "no block");
}

#[test]
fn collateral_is_there_readable_and_in_force() {
    let mut world = World::healthy();
    world.expect("collateral", Fine, "18 days left");
    for (now_s, outcome, said) in [
        (COLLATERAL_ENDS_S - 4 * DAY_S, Warning, "4 days left"),
        (COLLATERAL_ENDS_S - 1, Warning, "0 days left"),
        (COLLATERAL_ENDS_S, Missing, "ended 0 days ago"),
        (COLLATERAL_ENDS_S + 3 * DAY_S, Missing, "ended 3 days ago"),
        (COLLATERAL_ENDS_S - 60 * DAY_S, Missing, "in force only in"),
    ] {
        world.now_s = now_s;
        world.expect("collateral", outcome, said);
    }
    world.now_s = NOW_S;
    world.write(&format!("{DATA}/collateral.json"), "{}");
    world.expect("collateral", Missing, "not DCAP collateral");
    world.write(&format!("{DATA}/collateral.json"), vec![b' '; 1 << 20]);
    world.expect("collateral", Missing, "larger than");
    world.remove(&format!("{DATA}/collateral.json"));
    world.expect("collateral", Warning, "other nodes are asked");
    world.config.collateral_url = Some("http://127.0.0.1:8081".to_owned());
    world.expect("collateral", Fine, "http://127.0.0.1:8081 is asked");
    // What was imported counts before the other file.
    world.write(
        &format!("{DATA}/collateral/b0c06f000000-platform.json"),
        COLLATERAL,
    );
    world.write(&format!("{DATA}/collateral.json"), "{}");
    world.expect("collateral", Fine, "18 days left");
}

#[test]
fn collateral_is_of_this_platforms_family_and_as_new_as_the_policy_demands() {
    let mut world = World::healthy();
    // Another family of the same length, inside the signed document: nobody checks signatures here.
    let text = String::from_utf8(COLLATERAL.to_vec()).unwrap();
    assert!(text.contains("B0C06F000000"));
    let other = text.replace("B0C06F000000", "50806F000000");
    world.write(&format!("{DATA}/collateral.json"), other);
    world.expect(
        "collateral",
        Missing,
        "of family 50806f000000/platform, while this platform's is b0c06f000000/platform",
    );
    // Without a quote there is nothing to compare with.
    world.says.report = Some(Ok(("tdx_guest", Err(ErrorKind::TimedOut))));
    world.expect("collateral", Fine, "50806f000000");
    world.says.report = Some(Ok(("tdx_guest", Ok(QUOTE.to_vec()))));
    world.write(&format!("{DATA}/collateral.json"), COLLATERAL);
    world.policy(18);
    world.expect(
        "collateral",
        Missing,
        "evaluation 17, and the policy demands 18",
    );
}

#[test]
fn a_policy_names_images_or_is_none() {
    let mut world = World::healthy();
    world.expect("policy", Fine, "trusts release 1");
    world.write(POLICY, "version = 2\nmin_tcb_evalution = 3\n");
    world.expect("policy", Missing, "unknown field `min_tcb_evalution`");
    world.remove(POLICY);
    world.expect("policy", Missing, "cannot read");
    world.config.policy_path = None;
    world.expect("policy", Missing, "no guest image");
}

#[test]
fn keys_are_for_their_owner_alone() {
    let world = World::healthy();
    world.expect("data directory", Fine, "mode 700");
    world.mode(DATA, 0o755);
    world.expect("data directory", Warning, "mode 755");
    let key = format!("{DATA}/wallet-key");
    world.mode(&key, 0o644);
    world.expect(
        "data directory",
        Missing,
        "wallet-key can be read by others (mode 644)",
    );
    assert!(
        world
            .find("data directory")
            .next
            .starts_with(&format!("chmod 600 {key}"))
    );
    world.mode(&key, 0o600);
    world.write(&key, "short");
    world.expect("data directory", Missing, "holds no token");
    world.remove(DATA);
    world.expect("data directory", Fine, "the first start makes it");
    world.write(DATA, "");
    world.expect("data directory", Missing, "not a folder");
}

#[test]
fn a_full_disk_is_told_before_it_is_full() {
    let mut world = World::healthy();
    for (kib, outcome) in [
        (2 << 20, Fine),
        ((2 << 20) - 1, Warning),
        (256 << 10, Warning),
        ((256 << 10) - 1, Missing),
        (0, Missing),
    ] {
        world.says.commands.insert("df", df(kib));
        world.expect("disk", outcome, &format!("{} MiB free", kib >> 10));
    }
    world.says.commands.insert("df", ran("what?\n"));
    world.expect("disk", Warning, "df does not say");
}

#[test]
fn a_model_must_fit_into_memory() {
    let mut world = World::healthy();
    world.expect("memory", Fine, "64 MiB for the cache");
    world.config.cache_mib = 22_000;
    world.expect("memory", Warning, "22000 MiB");
    world.config.cache_mib = 25_000;
    world.expect("memory", Missing, "25000 MiB");
    world.remove("/proc/meminfo");
    world.expect("memory", Warning, "cannot be read");
    world.config.upstream = Some("http://127.0.0.1:8000/v1".to_owned());
    world.expect("memory", NotApplicable, "not in this process's");
}

#[test]
fn pages_are_large_or_slow() {
    let world = World::healthy();
    let file = "/sys/kernel/mm/transparent_hugepage/enabled";
    world.write(file, "always madvise [never]\n");
    world.expect("huge pages", Warning, "never");
    world.remove(file);
    world.expect("huge pages", Warning, "not there");
}

fn at(text: &str) -> SocketAddr {
    text.parse().unwrap()
}

#[test]
fn addresses_are_free_or_this_nodes_own() {
    let mut world = World::healthy();
    world.config.listen = vec!["/ip4/0.0.0.0/tcp/4001".to_owned()];
    world.expect("listen address", Fine, "free");
    let tcp = Transport::Tcp(at("0.0.0.0:4001"));
    for (kind, said) in [
        (ErrorKind::AddrInUse, "another program"),
        (ErrorKind::AddrNotAvailable, "no such address"),
        (ErrorKind::PermissionDenied, "below 1024"),
        (ErrorKind::Other, "other error"),
    ] {
        world.says.refused = vec![(tcp, kind)];
        world.expect("listen address", Missing, said);
    }
    world.says.refused = vec![(tcp, ErrorKind::AddrInUse)];
    let run =
        r#"{"pid":4242,"peer":"p","role":"worker","http":"127.0.0.1:1","listen":[],"wallet":null}"#;
    world.write(&format!("{DATA}/run.json"), run);
    // A file that a killed node left behind.
    world.expect("listen address", Missing, "another program");
    world.write("/proc/4242/comm", "cocoon\n");
    world.expect("listen address", Fine, "this node, process 4242");
}

#[test]
fn quic_is_tried_by_udp_and_http_by_tcp() {
    let mut world = World::healthy();
    world.config.listen = vec!["/ip6/::/udp/4001/quic-v1".to_owned()];
    world.says.refused = vec![(Transport::Udp(at("[::]:4001")), ErrorKind::AddrInUse)];
    world.expect("listen address", Missing, "another program");
    world.says.refused = vec![(Transport::Tcp(at("127.0.0.1:10000")), ErrorKind::AddrInUse)];
    world.expect("listen address", Fine, "free");
    world.expect("http address", Missing, "another program");
    world.config.listen = vec!["/dns4/example.org/tcp/1".to_owned()];
    world.expect("listen address", NotApplicable, "fixed IP");
}

#[test]
fn a_wallet_needs_a_little_money() {
    let mut world = World::healthy();
    let view = |wallet| {
        let head = World::healthy().chain.unwrap().head;
        Some(ChainView {
            head,
            wallet,
            ..World::healthy().chain.unwrap()
        })
    };
    let holds = |nano| {
        view(Some(Ok(Wallet {
            address: "0:ab".to_owned(),
            balance: NanoTon::from_nano(nano),
        })))
    };
    world.chain = holds(50_000_000);
    world.expect("wallet", Fine, "0.050000000 TON on 0:ab");
    world.chain = holds(49_999_999);
    world.expect("wallet", Warning, "too little");
    world.chain = holds(0);
    world.expect("wallet", Missing, "0.000000000 TON");
    assert!(world.find("wallet").next.contains("0:ab"));
    world.chain = view(None);
    world.expect("wallet", Warning, "no key yet");
    world.chain = view(Some(Err("busy".to_owned())));
    world.expect("wallet", Warning, "busy");
    world.chain = Some(ChainView::silent("nobody at http://x".to_owned()));
    world.expect("chain", Missing, "nobody at http://x");
}

#[test]
fn a_chain_that_cannot_be_verified_and_servers_that_fail_are_told() {
    let mut world = World::healthy();
    world.expect("chain", Fine, "block 7, 3 s old, verified");
    world.expect("liteservers", Fine, "1 answer of 1");
    let chain = world.chain.as_mut().unwrap();
    chain.standing = ChainStanding::Unverifiable {
        since: UnixMillis::from_millis(1_775_700_000_000),
        last_seqno: 7,
        reason: "a signature set of a form that this program does not know".to_owned(),
    };
    let mut other = chain.servers[0].clone();
    other.demoted = Some(LiteError::Contradicts { seqno: 7 });
    chain.servers.push(other.clone());
    world.expect(
        "chain",
        Warning,
        "unverifiable since unix second 1775700000",
    );
    world.expect("liteservers", Warning, "it names another block 7");
    world.chain.as_mut().unwrap().servers = vec![other];
    world.expect("liteservers", Missing, "0 answer of 1");
}

#[tokio::test]
async fn a_real_chain_is_asked_for_its_block_and_the_wallet() {
    let unix = u32::try_from(NOW_S).unwrap();
    let chain = LocalChain::instant(Devnet::in_memory(unix).unwrap());
    let key = WalletKey::parse(&"07".repeat(32)).unwrap();
    let view = ChainView::of(&chain, Some(key)).await;
    assert!(view.head.unwrap().unix >= unix);
    let wallet = view.wallet.unwrap().unwrap();
    assert_eq!(wallet.balance, NanoTon::ZERO);
    assert!(!wallet.address.is_empty());
    assert!(ChainView::of(&chain, None).await.wallet.is_none());
}

fn record(digest: Digest) -> String {
    format!(
        "source = \"hf:a/b\"\ndigest = \"{digest}\"\nbytes = 1\npulled = \"2025-06-01T00:00:00Z\"\n"
    )
}

#[test]
fn a_model_is_there_whole_and_the_one_that_was_pulled() {
    let mut world = World::healthy();
    let whole = std::fs::read(world.path(MODEL)).unwrap();
    let digest = Digest::sha256(&whole);
    world.expect(
        "model",
        Fine,
        &format!("digest {digest}, of which no store has a record"),
    );
    world.write("/models/Tiny.Q4.toml", record(digest));
    world.expect("model", Fine, "as recorded");
    world.write("/models/Tiny.Q4.toml", record(Digest::ZERO));
    world.expect(
        "model",
        Missing,
        &format!("but {} was recorded", Digest::ZERO),
    );
    world.write(MODEL, &whole[..whole.len() / 2]);
    assert_eq!(world.find("model").outcome, Missing);
    world.remove(MODEL);
    assert_eq!(world.find("model").outcome, Missing);
    world.config.model_path = None;
    world.expect("model", Missing, "none is named");
}

#[test]
fn a_model_whose_answers_nobody_pinned_is_told_of() {
    let mut world = World::healthy();
    world.expect("canary", Fine, "pinned as 0a0a");
    world.config.canary = None;
    world.expect("canary", Warning, "nobody has pinned");
    assert!(world.find("canary").next.contains("cocoon model canary"));
}
