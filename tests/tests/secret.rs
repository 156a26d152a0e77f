//! What is said between a person and the model stays between the client and the worker that answers.
//!
//! A secret goes through the network as part of a prompt, and the answer is taken as a secret too. Then
//! everything is searched that could have kept them or let them out: the logs (at the most talkative
//! level there is), the databases, byte for byte and record for record, every other file, all traffic
//! on the loopback interface but the client's own HTTP, and the whole readable memory of the processes
//! that should know nothing.
//!
//! A search that finds nothing proves nothing unless it can find: so the same search must find the
//! secrets where they belong, in the memory of client and worker and on the way to the client's HTTP;
//! and the job's name, which may be known, in logs and databases.
//!
//! Not shown: pieces shorter than [`SHORTEST_SECRET`] bytes in memory and files (single words are looked
//! for in logs, records and traffic only), and the prompt as token numbers.
//!
//! [`SHORTEST_SECRET`]: cocoon_tests::needles::SHORTEST_SECRET

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::arithmetic_side_effects
)]

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use cocoon::local_mesh::{Node, Process};
use cocoon_tests::capture::{self, Traffic};
use cocoon_tests::chat::{self, Answer};
use cocoon_tests::needles::{Needles, SHORTEST_SECRET};
use cocoon_tests::network::{Network, Plan, Terms};
use cocoon_tests::{places, program};

const TERMS: Terms = Terms {
    input: 50_000,
    output: 200_000,
    window: 10_000_000,
};
const TOKENS: u32 = 160;
/// Pieces of the answer after which memory is looked at for the first time, while more arrive.
const PIECES: usize = 8;
/// Longest excerpts of the answer that are looked for.
const EXCERPTS: usize = 8;
/// Shortest word that is looked for on its own.
const SHORTEST_WORD: usize = 6;

#[tokio::test]
async fn a_secret_in_prompt_and_answer_is_nowhere_but_at_the_client_and_the_worker_that_answers() {
    let Some(model) = program::model() else {
        return;
    };
    let plan = Plan {
        workers: vec![TERMS; 3],
        deposit: 1_000_000_000,
        environment: vec![("RUST_LOG", "trace")],
    };
    let network = Network::start(&model, plan).await;
    let directory = network.directory().to_owned();
    let secret = format!("kestrel-{:032x}-marzipan", rand::random::<u128>());
    let prompt = format!(
        "The pass phrase of my grandmother's vault is {secret}. \
         Write a long story about the treasure that the vault holds."
    );

    let captured = tempfile::NamedTempFile::new().unwrap();
    let capture = capture::start(captured.path());
    let mut halfway = None;
    let mut so_far = Vec::new();
    let transcript = {
        let (network, secret, halfway, so_far) = (&network, &secret, &mut halfway, &mut so_far);
        let request = chat::request(&prompt, TOKENS);
        chat::stream(&network.client.url(), &request, async |pieces, text| {
            so_far.push(text.to_owned());
            if pieces == PIECES {
                let worker = network.busy_worker().await;
                let secrets = Secrets::new(secret, so_far);
                // While both hold it: here the search must find it.
                for knows in [&network.client, &network.workers[worker]] {
                    knows_both(&knows.process, &secrets);
                }
                others_know_nothing(network, worker, &secrets);
                *halfway = Some(worker);
            }
        })
        .await
    };
    let traffic = capture.map(capture::Capture::stop);
    let answer = transcript.complete();
    let worker = network.worker_of(&answer.details.worker);
    assert_eq!(
        halfway,
        Some(worker),
        "the worker that was busy is the one that answered"
    );
    let secrets = Secrets::new(&secret, &so_far);
    // Without the random digits, a few of which are in every log.
    let words = rare_words(&prompt.replace(&secret, "kestrel marzipan"), &answer.text);
    others_know_nothing(&network, worker, &secrets);
    if let Some(traffic) = &traffic {
        only_the_callers_connection_carried_it(&network, worker, traffic, &secrets, &words).await;
    }

    // Whatever the nodes write is below their directories, so that is where to look.
    for process in network.processes() {
        for file in places::written_files(process.pid()) {
            assert!(
                file.starts_with(&directory),
                "{} writes to {}",
                process.name,
                file.display()
            );
        }
    }
    // Payment and settlement may not spell it out either.
    cocoon_tests::books::settle(&network.workers[worker]).await;
    let names = [
        network.client.process.name.clone(),
        network.workers[worker].process.name.clone(),
    ];
    let left = network.stop();
    nothing_is_left_on_disk(left.path(), &names, &answer, &secrets, &words);
}

/// What must not be found.
struct Secrets {
    all: Needles,
    /// Names of those of the prompt, and of the answer, spelled as they are.
    prompt: String,
    answer: BTreeSet<String>,
}

impl Secrets {
    fn new(secret: &str, pieces: &[String]) -> Self {
        // From single pieces: a piece is one frame, one event, and so one string somewhere.
        let mut excerpts: Vec<&str> = pieces.iter().filter_map(|piece| excerpt(piece)).collect();
        excerpts.sort_by_key(|excerpt| std::cmp::Reverse(excerpt.len()));
        excerpts.truncate(EXCERPTS);
        assert!(
            !excerpts.is_empty(),
            "no piece of {SHORTEST_SECRET} plain bytes in {pieces:?}"
        );
        let names: Vec<_> = (1..=excerpts.len())
            .map(|number| format!("answer {number}"))
            .collect();
        let answers = names.iter().map(String::as_str).zip(excerpts);
        Self {
            all: Needles::of_secrets([("prompt", secret)].into_iter().chain(answers)),
            prompt: "prompt, as it is".to_owned(),
            answer: names
                .iter()
                .map(|name| format!("{name}, as it is"))
                .collect(),
        }
    }
}

/// The longest run of characters that no escaping changes, if it is long enough.
fn excerpt(piece: &str) -> Option<&str> {
    let plain = |c: char| c.is_ascii_alphanumeric() || " ,.;:-".contains(c);
    piece
        .split(|c| !plain(c))
        .max_by_key(|run| run.len())
        .filter(|run| run.len() >= SHORTEST_SECRET)
}

fn knows_both(process: &Process, secrets: &Secrets) {
    let scan = places::in_memory(process.pid(), &secrets.all);
    let names = scan.names();
    assert!(
        names.contains(secrets.prompt.as_str()),
        "the search does not find the prompt where it must be, in {}: {names:?}",
        process.name
    );
    assert!(
        secrets
            .answer
            .iter()
            .any(|name| names.contains(name.as_str())),
        "the search does not find the answer where it must be, in {}: {names:?}",
        process.name
    );
}

fn others_know_nothing(network: &Network, worker: usize, secrets: &Secrets) {
    let knowing = [
        network.client.process.pid(),
        network.workers[worker].process.pid(),
    ];
    let others: Vec<_> = network
        .processes()
        .into_iter()
        .filter(|process| !knowing.contains(&process.pid()))
        .collect();
    assert_eq!(others.len(), 4, "bootstrap, devnet, and two workers");
    for process in others {
        let scan = places::in_memory(process.pid(), &secrets.all);
        assert!(
            scan.found.is_empty(),
            "{} knows it: {:#?}",
            process.name,
            scan.found
        );
        assert!(
            scan.unreadable.is_empty(),
            "{}: {:#?}",
            process.name,
            scan.unreadable
        );
        assert!(
            scan.bytes > 10_000_000,
            "{} has {} bytes in all",
            process.name,
            scan.bytes
        );
    }
}

async fn only_the_callers_connection_carried_it(
    network: &Network,
    worker: usize,
    traffic: &Traffic,
    secrets: &Secrets,
    words: &Needles,
) {
    let http = network.client.run.http.port();
    let callers: BTreeSet<_> = traffic
        .of_port(http)
        .flat_map(|packet| secrets.all.find(&packet.payload))
        .collect();
    assert!(
        callers.contains(secrets.prompt.as_str()),
        "the capture missed the request: {callers:?}"
    );
    assert!(
        secrets
            .answer
            .iter()
            .any(|name| callers.contains(name.as_str())),
        "the capture missed the answer: {callers:?}"
    );
    // What client and worker said to one another is in the capture, and more than the answer's length.
    let ports = ports(&network.workers[worker]).await;
    let flows = traffic.flows_without(http);
    let session: usize = flows
        .iter()
        .filter(|((_, from, to), _)| ports.contains(from) || ports.contains(to))
        .map(|(_, bytes)| bytes.len())
        .sum();
    assert!(
        session > 10_000,
        "{session} bytes between client and worker: {ports:?}"
    );
    for ((protocol, from, to), bytes) in &flows {
        let found: Vec<_> = secrets
            .all
            .find(bytes)
            .into_iter()
            .chain(words.find(bytes))
            .collect();
        assert!(
            found.is_empty(),
            "protocol {protocol}, port {from} to {to}: {found:?}"
        );
    }
}

/// The ports that a node listens on for others.
async fn ports(node: &Node) -> BTreeSet<u16> {
    let status = node.http.status().await.unwrap();
    let listen = status.listen.iter();
    listen
        .filter_map(|address| {
            let parts: Vec<_> = address.split('/').collect();
            let at = parts
                .iter()
                .position(|part| *part == "udp" || *part == "tcp")?;
            parts.get(at + 1)?.parse().ok()
        })
        .collect()
}

/// Long words of prompt and answer that are nowhere in the program's own file, and so in none of its
/// messages: only content could bring them into a log.
fn rare_words(prompt: &str, answer: &str) -> Needles {
    let all: BTreeSet<_> = prompt
        .split(|c: char| !c.is_ascii_alphabetic())
        .chain(answer.split(|c: char| !c.is_ascii_alphabetic()))
        .filter(|word| word.len() >= SHORTEST_WORD)
        .map(|word| (word.to_owned(), word.as_bytes().to_vec()))
        .collect();
    let known = places::in_files(
        &[program::cocoon().to_owned()],
        &Needles::new(all.iter().cloned().collect()),
    );
    let known: BTreeSet<_> = known.into_iter().flat_map(|(_, words)| words).collect();
    let rare: Vec<_> = all
        .into_iter()
        .filter(|(word, _)| !known.contains(word))
        .collect();
    for word in ["kestrel", "marzipan"] {
        assert!(
            rare.iter().any(|(rare, _)| rare == word),
            "{word} is in the program itself"
        );
    }
    let words: Vec<_> = rare.iter().map(|(word, _)| word.as_str()).collect();
    println!("looked for on their own: {}", words.join(", "));
    Needles::new(rare)
}

/// Logs, databases, every other file. `names` are the directories of client and worker.
fn nothing_is_left_on_disk(
    directory: &Path,
    names: &[String],
    answer: &Answer,
    secrets: &Secrets,
    words: &Needles,
) {
    let job = hex::decode(&answer.details.job).unwrap();
    let job = Needles::new(vec![
        ("the job".to_owned(), job),
        (
            "the job's name".to_owned(),
            answer.details.job.clone().into_bytes(),
        ),
    ]);
    let files = places::files_below(directory);
    let finds = places::in_files(&files, &secrets.all);
    assert!(finds.is_empty(), "{finds:#?}");

    let logs: Vec<_> = files
        .iter()
        .filter(|path| path.file_name().unwrap() == "log")
        .cloned()
        .collect();
    assert_eq!(logs.len(), 6, "one log for each process: {logs:?}");
    let spelled = places::in_files(&logs, words);
    assert!(
        spelled.is_empty(),
        "words of the conversation in logs: {spelled:#?}"
    );
    // The logs are talkative, and speak of this job.
    let speak: BTreeMap<_, _> = places::in_files(&logs, &job).into_iter().collect();
    for name in names {
        let log = directory.join(name).join("log");
        assert!(
            speak.contains_key(&log.display().to_string()),
            "{name} logged nothing of the job"
        );
        let text = std::fs::read_to_string(&log).unwrap();
        assert!(text.contains(" TRACE "), "{name} did not log everything");
    }

    let databases = places::databases_below(directory);
    assert_eq!(
        databases.len(),
        5,
        "a chain, a client, three workers: {databases:?}"
    );
    for database in &databases {
        let (found, records) = places::in_database(database, &secrets.all);
        assert!(found.is_empty(), "{}: {found:?}", database.display());
        assert!(records > 0, "{} is empty", database.display());
        let (found, _) = places::in_database(database, words);
        assert!(found.is_empty(), "{}: {found:?}", database.display());
    }
    for name in names {
        let ledger = directory.join(name).join("ledger");
        assert!(databases.contains(&ledger));
        // Uncompressed, so that the bytes of its files are what it holds; and both searches see the job.
        for (column, compression) in places::compression(&ledger) {
            let ours = column != "default";
            assert!(
                !ours || compression == "kNoCompression",
                "{column}: {compression}"
            );
        }
        let raw = places::in_files(&places::files_below(&ledger), &job);
        assert!(
            !raw.is_empty(),
            "the job is not seen in the files of {}",
            ledger.display()
        );
        let (found, _) = places::in_database(&ledger, &job);
        assert!(
            !found.is_empty(),
            "the job is not seen in the records of {}",
            ledger.display()
        );
    }
}
