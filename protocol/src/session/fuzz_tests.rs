//! A stranger's bytes at every door of a session: an error or a result, never a panic.
#![allow(clippy::unwrap_used)]

use noise_protocol::CipherState;
use rand_chacha::{ChaCha12Rng, rand_core::SeedableRng};

use super::{
    Channel, EnclaveSecrets, Initiator, MAX_MESSAGE_BYTES, MESSAGE_1_BYTES, MESSAGE_2_BYTES,
    Opened, Responder, SessionBinding, StreamDecoder, TAG_BYTES, cipher::RingChaChaPoly, record,
};
use crate::ids::Digest;

fn rng(seed: u64) -> ChaCha12Rng {
    ChaCha12Rng::seed_from_u64(seed)
}

fn binding() -> SessionBinding {
    SessionBinding {
        trust_domain: Digest::sha256(b"a root"),
        report_data: [1; 64],
    }
}

type Cipher = CipherState<RingChaChaPoly>;

fn channel() -> Channel {
    Channel::new(Cipher::new(&[2; 32], 0), Cipher::new(&[1; 32], 0), [0; 32])
}

/// `bytes` repeated or cut to `len`, so that fuzzing gets past the length check too.
fn fit(bytes: &[u8], len: usize) -> Vec<u8> {
    bytes
        .iter()
        .chain(std::iter::once(&0))
        .cycle()
        .take(len)
        .copied()
        .collect()
}

#[test]
fn fuzz_the_stream_decoder() {
    bolero::check!()
        .with_iterations(4000)
        .with_max_len(4096)
        .for_each(|bytes: &[u8]| {
            // The first byte chooses the chunk size.
            let (size, mut rest) = bytes
                .split_first()
                .map_or((1, bytes), |(size, rest)| (usize::from(*size).max(1), rest));
            let mut decoder = StreamDecoder::for_transport();
            let mut delivered = 0usize;
            while !rest.is_empty() {
                let (mut chunk, tail) = rest.split_at(size.min(rest.len()));
                rest = tail;
                loop {
                    match decoder.advance(&mut chunk) {
                        Ok(Some(message)) => {
                            assert!((TAG_BYTES..=MAX_MESSAGE_BYTES).contains(&message.len()));
                            delivered = delivered.saturating_add(message.len());
                        }
                        Ok(None) => break,
                        Err(_) => return,
                    }
                }
                assert!(chunk.is_empty());
            }
            assert!(delivered <= bytes.len());
        });
}

#[test]
fn fuzz_records() {
    bolero::check!()
        .with_iterations(4000)
        .with_max_len(512)
        .for_each(|bytes: &[u8]| {
            let _ = record::decode(bytes);
            let _ = record::decode(&fit(bytes, 128));
        });
}

#[test]
fn fuzz_opening_a_message() {
    bolero::check!()
        .with_iterations(4000)
        .with_max_len(512)
        .for_each(|bytes: &[u8]| {
            // Somebody without the key.
            let mut worker = channel();
            assert!(worker.open(bytes).is_err(), "nobody guesses a tag");
            assert!(worker.end_of_stream().is_err());
        });
}

#[test]
fn fuzz_opening_what_an_authentic_peer_sealed() {
    bolero::check!()
        .with_iterations(4000)
        .with_max_len(1024)
        .for_each(|bytes: &[u8]| {
            // The peer has the key and puts anything inside: the bytes in pieces of 64, each a
            // record of its own, and the whole as one record.
            let mut worker = channel();
            let mut peer = Cipher::new(&[1; 32], 0);
            for text in bytes.chunks(64).chain([bytes]) {
                if let Ok(Opened::Frame(frame)) = worker.open(&peer.encrypt_vec(text)) {
                    assert!(frame.len() < text.len());
                }
            }
        });
}

#[test]
fn fuzz_accepting_a_session() {
    let secrets = EnclaveSecrets::generate(&mut rng(1));
    bolero::check!()
        .with_iterations(400)
        .with_max_len(2048)
        .for_each(|bytes: &[u8]| {
            for message in [bytes.to_vec(), fit(bytes, MESSAGE_1_BYTES)] {
                assert!(Responder::accept(&secrets, &binding(), &message, &mut rng(3)).is_err());
            }
        });
}

#[test]
fn fuzz_finishing_a_session() {
    let secrets = EnclaveSecrets::generate(&mut rng(1));
    bolero::check!()
        .with_iterations(100)
        .with_max_len(128)
        .for_each(|bytes: &[u8]| {
            for message in [bytes.to_vec(), fit(bytes, MESSAGE_2_BYTES)] {
                let (initiator, _) = Initiator::start(
                    &binding(),
                    secrets.noise_key(),
                    secrets.mlkem_key(),
                    &mut rng(2),
                )
                .unwrap();
                assert!(initiator.finish(&message).is_err());
            }
        });
}

#[test]
fn fuzz_starting_with_a_strangers_keys() {
    bolero::check!()
        .with_iterations(200)
        .with_max_len(1300)
        .for_each(|bytes: &[u8]| {
            let noise_key = fit(bytes, 32);
            let noise_key = noise_key.first_chunk().unwrap();
            for mlkem_key in [bytes.to_vec(), fit(bytes, super::MLKEM_KEY_BYTES)] {
                let _ = Initiator::start(&binding(), noise_key, &mlkem_key, &mut rng(2));
            }
        });
}
