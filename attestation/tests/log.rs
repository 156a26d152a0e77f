//! Proofs that an image stands in the log: what another implementation made is read, what is wrong is refused with its
//! reason, and nothing that a stranger sends panics or passes.
#![allow(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    clippy::arithmetic_side_effects
)]

use std::sync::LazyLock;

use cocoon_attestation::Measurement;
use cocoon_attestation::log::{
    Checkpoint, Entry, EntryError, MAX_REBUILDERS, Note, NoteError, NoteSigner, NoteVerifier,
    ProofError, RebuilderSet, RebuilderSetError, SignedCheckpointError, admit, open,
};
use cocoon_protocol::Digest;
use cocoon_protocol::log::{ConsistencyReply, ConsistencyRequest, ImageProof, TreeHead};
use cocoon_protocol::log_heads::JudgeHead;
use cocoon_protocol::merkle::{self, ConsistencyProof, InclusionProof};
use rand_chacha::ChaCha8Rng;
use rand_core::{RngCore, SeedableRng};
use serde::Deserialize;

/// Made by `reference/log_vectors.py`.
#[derive(Deserialize)]
struct Vectors {
    origin: String,
    public: Vec<String>,
    secret: Vec<String>,
    entries: Vec<String>,
    older: String,
    newer: String,
    consistency: Vec<Digest>,
    proofs: Vec<String>,
}

static VECTORS: LazyLock<Vectors> =
    LazyLock::new(|| serde_json::from_str(include_str!("fixtures/log_vectors.json")).unwrap());

fn rebuilders(threshold: usize) -> RebuilderSet {
    let keys = VECTORS.public.iter().map(|key| key.parse().unwrap());
    RebuilderSet::new(&VECTORS.origin, threshold, keys.collect()).unwrap()
}

fn signer(at: usize) -> NoteSigner {
    VECTORS.secret[at].parse().unwrap()
}

fn leaves() -> Vec<Digest> {
    let leaf = |entry: &String| merkle::leaf_hash(entry.as_bytes());
    VECTORS.entries.iter().map(leaf).collect()
}

fn proof(index: usize) -> ImageProof {
    ImageProof::decode(&hex::decode(&VECTORS.proofs[index]).unwrap()).unwrap()
}

fn entry(index: usize) -> Entry {
    Entry::decode(VECTORS.entries[index].as_bytes()).unwrap()
}

/// Checkpoint text signed by these.
fn signed(text: &str, signers: &[NoteSigner]) -> Vec<u8> {
    let mut note = Note::new(text).unwrap();
    for signer in signers {
        note.add(signer.sign(text)).unwrap();
    }
    note.to_string().into_bytes()
}

fn checkpoint_text() -> String {
    Note::parse(VECTORS.newer.as_bytes())
        .unwrap()
        .text()
        .to_owned()
}

/// The proof of entry 2 under a checkpoint that these signed.
fn proof_signed_by(signers: &[NoteSigner]) -> ImageProof {
    ImageProof {
        checkpoint: signed(&checkpoint_text(), signers),
        ..proof(2)
    }
}

#[test]
fn a_log_made_by_another_implementation_is_read_and_made_again_byte_for_byte() {
    let rebuilders = rebuilders(3);
    for (public, secret) in VECTORS.public.iter().zip(&VECTORS.secret) {
        let signer: NoteSigner = secret.parse().unwrap();
        assert_eq!(&signer.verifier().to_string(), public);
        assert_eq!(&signer.reveal(), secret);
    }
    let head = TreeHead {
        size: 5,
        root: merkle::root(&leaves()),
    };
    let text = Checkpoint::new(&VECTORS.origin, head).unwrap().to_string();
    let note = signed(&text, &[signer(0), signer(1), signer(2)]);
    assert_eq!(note, VECTORS.newer.as_bytes());
    assert_eq!(rebuilders.judge(&note), Some(head));

    for (index, wanted) in VECTORS.proofs.iter().enumerate() {
        let entry = entry(index);
        assert_eq!(entry.encode(), VECTORS.entries[index].as_bytes());
        let made = ImageProof {
            entry: entry.encode(),
            index: index as u64,
            path: InclusionProof::make(index as u64, &leaves()).unwrap().path,
            checkpoint: note.clone(),
        };
        assert_eq!(&hex::encode(made.encode()), wanted);
        let admitted = admit(&made, &rebuilders, &entry.registers()).unwrap();
        assert_eq!(admitted.image, entry.image);
        assert_eq!(admitted.revision, entry.revision);
        assert_eq!((admitted.index, admitted.head), (index as u64, head));
        assert_eq!(
            admitted.signers,
            ["example.com/carol", "example.net/bob", "example.org/alice"]
        );
    }
}

#[test]
fn the_log_grew_by_the_proof_that_another_implementation_made() {
    let leaves = leaves();
    let older = rebuilders(2).judge(VECTORS.older.as_bytes()).unwrap();
    let newer = rebuilders(2).judge(VECTORS.newer.as_bytes()).unwrap();
    assert_eq!(older.root, merkle::root(&leaves[..3]));
    let proof = ConsistencyProof::make(3, &leaves).unwrap();
    assert_eq!(proof.path, VECTORS.consistency);
    assert!(proof.joins(older.root, newer.root));
    let request = ConsistencyRequest {
        from: older.size,
        to: newer.size,
        root: newer.root,
    };
    let ConsistencyReply::Found(found) = request.answer(&leaves) else {
        panic!("the log has both");
    };
    assert_eq!((found.older_root, found.path), (older.root, proof.path));
}

#[test]
fn so_many_must_sign_and_each_counts_once() {
    let too_few = |signed, threshold| {
        Err(ProofError::Checkpoint(
            SignedCheckpointError::TooFewSigners { signed, threshold },
        ))
    };
    let stranger = NoteSigner::new("example.org/mallory", &[9; 32]).unwrap();
    // A known name with another key is a stranger too: names are not secret.
    let namesake = NoteSigner::new("example.net/bob", &[9; 32]).unwrap();
    let alice = || signer(0);
    let by = |signers: &[NoteSigner], threshold| {
        open(&proof_signed_by(signers), &rebuilders(threshold)).map(|admitted| admitted.signers)
    };
    assert_eq!(by(&[alice()], 1), Ok(vec!["example.org/alice".to_owned()]));
    assert_eq!(by(&[alice()], 2), too_few(1, 2));
    assert_eq!(
        by(&[alice(), stranger.clone(), namesake.clone()], 2),
        too_few(1, 2)
    );
    assert_eq!(by(&[stranger, namesake], 1), too_few(0, 1));
    // Twice the same line, put together by hand.
    let once = String::from_utf8(signed(&checkpoint_text(), &[alice()])).unwrap();
    let line = once.rsplit_once("\n\n").unwrap().1;
    let twice = ImageProof {
        checkpoint: format!("{once}{line}").into_bytes(),
        ..proof(2)
    };
    assert_eq!(
        open(&twice, &rebuilders(2)).map(|admitted| admitted.signers),
        too_few(1, 2)
    );
}

#[test]
fn every_defect_has_its_own_error() {
    let rebuilders = rebuilders(2);
    let registers = entry(2).registers();
    let refused = |proof: &ImageProof| admit(proof, &rebuilders, &registers).unwrap_err();
    assert!(admit(&proof(2), &rebuilders, &registers).is_ok());

    let other_guest = admit(&proof(2), &rebuilders, &entry(3).registers()).unwrap_err();
    assert!(
        matches!(
            other_guest,
            ProofError::Register {
                register: "MRTD",
                ..
            }
        ),
        "{other_guest}"
    );
    for (at, register) in ["MRTD", "RTMR0", "RTMR1", "RTMR2"].into_iter().enumerate() {
        let mut registers = registers;
        registers[at] = Measurement::ZERO;
        let error = admit(&proof(2), &rebuilders, &registers).unwrap_err();
        assert!(error.to_string().starts_with(register), "{error}");
    }

    let spelled = ImageProof {
        entry: [&proof(2).entry[..], b" "].concat(),
        ..proof(2)
    };
    assert_eq!(
        refused(&spelled),
        ProofError::Entry(EntryError::NotCanonical)
    );
    // Signed for by the same people, but not at this place, or not in the log.
    let moved = ImageProof {
        index: 1,
        ..proof(2)
    };
    assert_eq!(refused(&moved), ProofError::Path { index: 1, size: 5 });
    let beyond = ImageProof {
        index: 5,
        ..proof(2)
    };
    assert_eq!(refused(&beyond), ProofError::Index { index: 5, size: 5 });
    let mut renamed = entry(2);
    renamed.image.name = "guest 7".to_owned();
    let renamed = ImageProof {
        entry: renamed.encode(),
        ..proof(2)
    };
    assert_eq!(refused(&renamed), ProofError::Path { index: 2, size: 5 });
    // A head of another size, properly signed.
    let older = ImageProof {
        checkpoint: VECTORS.older.clone().into_bytes(),
        ..proof(2)
    };
    assert_eq!(refused(&older), ProofError::Path { index: 2, size: 3 });

    let with = |checkpoint: Vec<u8>| {
        let proof = ImageProof {
            checkpoint,
            ..proof(2)
        };
        match refused(&proof) {
            ProofError::Checkpoint(error) => error,
            other => panic!("{other}"),
        }
    };
    let both = [signer(0), signer(1)];
    let other_log = checkpoint_text().replace("guest-images", "other-images");
    assert!(matches!(
        with(signed(&other_log, &both)),
        SignedCheckpointError::OtherLog { .. }
    ));
    assert!(matches!(
        with(signed("only\ntwo\n", &both)),
        SignedCheckpointError::Checkpoint(_)
    ));
    assert_eq!(
        with(format!("{}\n", checkpoint_text()).into_bytes()),
        SignedCheckpointError::Note(NoteError::NoSignature)
    );
    // Alice's line is over another text; that Bob and Carol are enough does not help.
    let stolen = signer(0).sign(&other_log);
    let mut note = Note::new(checkpoint_text()).unwrap();
    note.add(stolen).unwrap();
    for at in [1, 2] {
        note.add(signer(at).sign(&checkpoint_text())).unwrap();
    }
    assert_eq!(
        with(note.to_string().into_bytes()),
        SignedCheckpointError::BadSignature {
            name: "example.org/alice".to_owned()
        }
    );
}

#[test]
fn a_set_that_cannot_be_meant_is_refused() {
    let keys = || -> Vec<NoteVerifier> {
        VECTORS
            .public
            .iter()
            .map(|key| key.parse().unwrap())
            .collect()
    };
    let set = |threshold, keys| RebuilderSet::new("example.org/log", threshold, keys);
    for threshold in [0, 4] {
        let count = 3;
        assert_eq!(
            set(threshold, keys()),
            Err(RebuilderSetError::Threshold { threshold, count })
        );
    }
    // One key under two names, two keys under one.
    let same_key = NoteSigner::new("example.org/other", &[1; 32]).unwrap();
    let same_name = NoteSigner::new("example.org/alice", &[9; 32]).unwrap();
    for twice in [same_key, same_name] {
        let keys = [keys(), vec![twice.verifier()]].concat();
        assert!(matches!(
            set(1, keys),
            Err(RebuilderSetError::Repeated { .. })
        ));
    }
    let many = |n: u8| {
        let name = format!("example.org/{n}");
        NoteSigner::new(&name, &[n; 32]).unwrap().verifier()
    };
    let count = MAX_REBUILDERS + 1;
    let keys = (0..u8::try_from(count).unwrap()).map(many).collect();
    assert_eq!(set(1, keys), Err(RebuilderSetError::TooMany { count }));
    assert!(RebuilderSet::new("a log", 1, vec![signer(0).verifier()]).is_err());
}

#[test]
fn a_set_is_written_as_toml() {
    let set = rebuilders(2);
    let text = toml::to_string(&set).unwrap();
    assert_eq!(toml::from_str::<RebuilderSet>(&text).unwrap(), set);
    let error = toml::from_str::<RebuilderSet>(&text.replace("bob+", "bo+")).unwrap_err();
    assert!(error.to_string().contains("rebuilder 2"), "{error}");
    assert!(toml::from_str::<RebuilderSet>(&format!("{text}more = 1\n")).is_err());
}

/// Flips of single bits, at places drawn from a seed.
fn flips(seed: u64, bytes: &[u8]) -> impl Iterator<Item = (usize, Vec<u8>)> {
    let mut random = ChaCha8Rng::seed_from_u64(seed);
    std::iter::repeat_with(move || {
        let at = usize::try_from(random.next_u32()).unwrap() % (bytes.len() * 8);
        let mut flipped = bytes.to_vec();
        flipped[at / 8] ^= 1 << (at % 8);
        (at / 8, flipped)
    })
}

#[test]
fn of_ten_thousand_single_bit_flips_none_is_accepted_in_what_is_signed() {
    const FLIPS: usize = 10_000;
    let set = rebuilders(2);
    let stranger = NoteSigner::new("example.org/mallory", &[9; 32]).unwrap();
    let exactly = [signer(0), signer(1)];
    let more = [signer(0), signer(1), signer(2), stranger];
    for (name, seed, signers, slack) in [
        ("as many signatures as needed", 1, &exactly[..], false),
        ("one to spare and a stranger's", 2, &more[..], true),
    ] {
        let honest = proof_signed_by(signers);
        let registers = entry(2).registers();
        let wanted = admit(&honest, &set, &registers).unwrap();
        let bytes = honest.encode();
        // What is before the blank line of the checkpoint, at the end of the message, is signed or hashed.
        let lines = String::from_utf8(honest.checkpoint.clone()).unwrap();
        let lines = lines.rsplit_once("\n\n").unwrap().1.len();
        let signed_bytes = bytes.len() - lines;
        let mut accepted = 0;
        for (at, flipped) in flips(seed, &bytes).take(FLIPS) {
            let Ok(proof) = ImageProof::decode(&flipped) else {
                continue;
            };
            if let Ok(admitted) = admit(&proof, &set, &registers) {
                // Somebody who was not needed became a stranger, or a stranger another one.
                assert!(slack && at >= signed_bytes, "{name}: byte {at}");
                assert_eq!(admitted.image, wanted.image);
                assert_eq!(admitted.head, wanted.head);
                assert_eq!(admitted.revision, wanted.revision);
                accepted += 1;
            }
        }
        assert_eq!(accepted > 0, slack, "{name}: {accepted}");
    }
}

#[test]
fn of_ten_thousand_single_bit_flips_none_changes_a_signed_head() {
    let set = rebuilders(3);
    let note = VECTORS.newer.as_bytes();
    assert!(set.judge(note).is_some());
    for (at, flipped) in flips(3, note).take(10_000) {
        assert_eq!(set.judge(&flipped), None, "byte {at}");
    }
}

/// Arbitrary bytes over a part of something valid.
fn disturbed(valid: &[u8], noise: &[u8]) -> Vec<u8> {
    let Some((at, noise)) = noise.split_first_chunk::<2>() else {
        return valid.to_vec();
    };
    let at = usize::from(u16::from_be_bytes(*at)) % (valid.len() + 1);
    let mut bytes = valid.to_vec();
    let end = (at + noise.len().min(8)).min(bytes.len());
    bytes.splice(at..end, noise.iter().take(8).copied());
    bytes
}

fn fuzz(valid: &[u8], check: impl Fn(&[u8]) + std::panic::RefUnwindSafe) {
    bolero::check!()
        .with_iterations(2_000)
        .for_each(|noise: &[u8]| {
            check(noise);
            check(&disturbed(valid, noise));
        });
}

#[test]
fn any_bytes_may_come_as_a_note() {
    fuzz(VECTORS.newer.as_bytes(), |bytes| {
        if let Ok(note) = Note::parse(bytes) {
            assert_eq!(note.to_string().as_bytes(), bytes);
            if let Ok(checkpoint) = note.text().parse::<Checkpoint>() {
                assert_eq!(checkpoint.to_string(), note.text());
            }
        }
        if let Some(head) = rebuilders(2).judge(bytes) {
            assert_eq!(Some(head), rebuilders(2).judge(VECTORS.newer.as_bytes()));
        }
    });
}

#[test]
fn any_bytes_may_come_as_an_entry() {
    fuzz(VECTORS.entries[0].as_bytes(), |bytes| {
        if let Ok(entry) = Entry::decode(bytes) {
            assert_eq!(entry.encode(), bytes);
        }
    });
}

#[test]
fn any_text_may_come_as_a_key() {
    fuzz(VECTORS.public[0].as_bytes(), |bytes| {
        let text = String::from_utf8_lossy(bytes);
        if let Ok(key) = text.parse::<NoteVerifier>() {
            assert_eq!(key.to_string(), text);
        }
    });
    fuzz(VECTORS.secret[0].as_bytes(), |bytes| {
        let text = String::from_utf8_lossy(bytes);
        if let Ok(key) = text.parse::<NoteSigner>() {
            assert_eq!(key.reveal(), text);
        }
    });
}

#[test]
fn any_text_may_come_as_a_set_of_rebuilders() {
    let valid = toml::to_string(&rebuilders(2)).unwrap();
    fuzz(valid.as_bytes(), |bytes| {
        if let Ok(set) = toml::from_str::<RebuilderSet>(&String::from_utf8_lossy(bytes)) {
            assert!((1..=set.keys().len()).contains(&set.threshold()));
        }
    });
}

#[test]
fn any_bytes_may_come_as_a_proof() {
    let honest = proof_signed_by(&[signer(0), signer(1)]).encode();
    let (set, registers) = (rebuilders(2), entry(2).registers());
    fuzz(&honest, |bytes| {
        if let Ok(proof) = ImageProof::decode(bytes)
            && admit(&proof, &set, &registers).is_ok()
        {
            assert_eq!(bytes, honest);
        }
    });
}
