//! The two handshake messages, each side a value that is consumed when the handshake is done.

use std::fmt;

use noise_protocol::{ErrorKind, HandshakeState, patterns::noise_nk_psk2};
use noise_rust_crypto::Sha256;
use rand_core::CryptoRng;

use super::{
    Channel, EnclaveSecrets, MESSAGE_1_BYTES, MESSAGE_2_BYTES, NOISE_KEY_BYTES, SessionError,
    cipher::RingChaChaPoly, dh::StrictX25519, kem, secrets::draw_key,
};
use crate::ids::Digest;

pub(super) type State = HandshakeState<StrictX25519, RingChaChaPoly, Sha256>;

/// What both ends must have in mind alike: whose word is trusted, and which quote was given.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SessionBinding {
    /// Digest of the attestation root's key, so that a simulated network and a real one cannot talk.
    pub trust_domain: Digest,
    /// The 64 bytes the enclave had quoted, which commit to its keys, peer and model.
    pub report_data: [u8; 64],
}

impl SessionBinding {
    /// `trust domain ‖ report_data`, 96 bytes.
    fn prologue(&self) -> [u8; 96] {
        let mut prologue = [0u8; 96];
        let (domain, report_data) = prologue.split_at_mut(32);
        domain.copy_from_slice(self.trust_domain.as_bytes());
        report_data.copy_from_slice(&self.report_data);
        prologue
    }
}

/// The client between message 1 and message 2.
pub struct Initiator {
    state: State,
}

impl Initiator {
    /// Encapsulates to `mlkem_key`, and returns the waiting client and message 1
    /// ([`MESSAGE_1_BYTES`] long).
    ///
    /// Both keys must come from evidence that was verified; `binding` from the same evidence.
    pub fn start(
        binding: &SessionBinding,
        noise_key: &[u8; NOISE_KEY_BYTES],
        mlkem_key: &[u8],
        rng: &mut (impl CryptoRng + ?Sized),
    ) -> Result<(Self, Vec<u8>), SessionError> {
        let (ciphertext, psk) = kem::encapsulate(mlkem_key, rng)?;
        let mut state = State::new(
            noise_nk_psk2(),
            true,
            binding.prologue(),
            None,
            Some(draw_key(rng)),
            Some(*noise_key),
            None,
        );
        state.push_psk(psk.as_slice());
        let message_1 = state
            .write_message_vec(&ciphertext)
            .map_err(|error| rejected(1, error))?;
        debug_assert_eq!(message_1.len(), MESSAGE_1_BYTES);
        Ok((Self { state }, message_1))
    }

    /// Reads message 2. Success proves that the other end holds both secret keys.
    pub fn finish(mut self, message_2: &[u8]) -> Result<Channel, SessionError> {
        check_length(2, MESSAGE_2_BYTES, message_2)?;
        self.state
            .read_message_vec(message_2)
            .map_err(|error| rejected(2, error))?;
        into_channel(self.state)
    }
}

impl fmt::Debug for Initiator {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Initiator").finish_non_exhaustive()
    }
}

/// The enclave's side, which has no waiting state: one call reads message 1 and writes message 2.
#[derive(Debug)]
pub struct Responder;

impl Responder {
    /// Answers message 1 with message 2 ([`MESSAGE_2_BYTES`] long).
    ///
    /// The channel is not yet proof of anything: message 1 may be a replay. Only a frame that
    /// [`Channel::open`] accepts shows that somebody knows the session's keys.
    pub fn accept(
        secrets: &EnclaveSecrets,
        binding: &SessionBinding,
        message_1: &[u8],
        rng: &mut (impl CryptoRng + ?Sized),
    ) -> Result<(Channel, Vec<u8>), SessionError> {
        check_length(1, MESSAGE_1_BYTES, message_1)?;
        let mut state = State::new(
            noise_nk_psk2(),
            false,
            binding.prologue(),
            Some(secrets.noise_secret()),
            Some(draw_key(rng)),
            None,
            None,
        );
        let ciphertext = state
            .read_message_vec(message_1)
            .map_err(|error| rejected(1, error))?;
        let psk = secrets
            .kem()
            .decapsulate(&ciphertext)
            .ok_or(SessionError::HandshakeRejected { message: 1 })?;
        state.push_psk(psk.as_slice());
        let message_2 = state
            .write_message_vec(&[])
            .map_err(|error| rejected(2, error))?;
        debug_assert_eq!(message_2.len(), MESSAGE_2_BYTES);
        Ok((into_channel(state)?, message_2))
    }
}

/// The only place that takes transport ciphers: once, because it consumes the handshake, and only
/// from a complete one.
pub(super) fn into_channel(state: State) -> Result<Channel, SessionError> {
    if !state.completed() {
        return Err(SessionError::Incomplete);
    }
    let hash = <[u8; 32]>::try_from(state.get_hash()).map_err(|_| SessionError::Incomplete)?;
    let (from_initiator, from_responder) = state.get_ciphers();
    Ok(if state.get_is_initiator() {
        Channel::new(from_initiator, from_responder, hash)
    } else {
        Channel::new(from_responder, from_initiator, hash)
    })
}

fn check_length(message: u8, expected: usize, bytes: &[u8]) -> Result<(), SessionError> {
    if bytes.len() == expected {
        Ok(())
    } else {
        Err(SessionError::HandshakeLength {
            message,
            expected,
            got: bytes.len(),
        })
    }
}

fn rejected(message: u8, error: noise_protocol::Error) -> SessionError {
    match error.kind() {
        ErrorKind::DH => SessionError::WeakKey { message },
        ErrorKind::NeedPSK => SessionError::Incomplete,
        ErrorKind::Decryption | ErrorKind::TooShort => SessionError::HandshakeRejected { message },
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::indexing_slicing)]

    use rand_chacha::{ChaCha12Rng, rand_core::SeedableRng};

    use super::super::Opened;
    use super::*;

    fn rng(seed: u64) -> ChaCha12Rng {
        ChaCha12Rng::seed_from_u64(seed)
    }

    fn binding() -> SessionBinding {
        SessionBinding {
            trust_domain: Digest::sha256(b"a root"),
            report_data: [7; 64],
        }
    }

    fn start(secrets: &EnclaveSecrets, seed: u64) -> (Initiator, Vec<u8>) {
        Initiator::start(
            &binding(),
            secrets.noise_key(),
            secrets.mlkem_key(),
            &mut rng(seed),
        )
        .unwrap()
    }

    #[test]
    fn both_ends_agree_on_the_hash_and_can_talk() {
        let secrets = EnclaveSecrets::generate(&mut rng(1));
        let (initiator, message_1) = start(&secrets, 2);
        let (mut worker, message_2) =
            Responder::accept(&secrets, &binding(), &message_1, &mut rng(3)).unwrap();
        let mut client = initiator.finish(&message_2).unwrap();
        assert_eq!(message_1.len(), MESSAGE_1_BYTES);
        assert_eq!(message_2.len(), MESSAGE_2_BYTES);
        assert_eq!(client.handshake_hash(), worker.handshake_hash());

        for message in client.seal(b"question").unwrap() {
            assert_eq!(
                worker.open(&message).unwrap(),
                Opened::Frame(b"question".to_vec())
            );
        }
        for message in worker.seal(b"answer").unwrap() {
            assert_eq!(
                client.open(&message).unwrap(),
                Opened::Frame(b"answer".to_vec())
            );
        }
    }

    #[test]
    fn the_same_seeds_give_the_same_bytes() {
        let run = |seed: u64| {
            let secrets = EnclaveSecrets::generate(&mut rng(1));
            let (initiator, message_1) = start(&secrets, seed);
            let (_, message_2) =
                Responder::accept(&secrets, &binding(), &message_1, &mut rng(3)).unwrap();
            let mut client = initiator.finish(&message_2).unwrap();
            (message_1, message_2, client.seal(b"x").unwrap())
        };
        assert_eq!(run(2), run(2));
        assert_ne!(run(2).0, run(4).0);
    }

    #[test]
    fn a_flipped_bit_anywhere_in_message_1_is_rejected() {
        let secrets = EnclaveSecrets::generate(&mut rng(1));
        let (_, message_1) = start(&secrets, 2);
        for index in (0..message_1.len())
            .step_by(37)
            .chain([31, 32, MESSAGE_1_BYTES - 1])
        {
            let mut bad = message_1.clone();
            bad[index] ^= 1;
            assert_eq!(
                Responder::accept(&secrets, &binding(), &bad, &mut rng(3)).unwrap_err(),
                SessionError::HandshakeRejected { message: 1 },
                "byte {index}"
            );
        }
    }

    #[test]
    fn a_flipped_bit_anywhere_in_message_2_is_rejected() {
        let secrets = EnclaveSecrets::generate(&mut rng(1));
        let (_, message_1) = start(&secrets, 2);
        let (_, message_2) =
            Responder::accept(&secrets, &binding(), &message_1, &mut rng(3)).unwrap();
        for index in 0..message_2.len() {
            let (initiator, _) = start(&secrets, 2);
            let mut bad = message_2.clone();
            bad[index] ^= 1;
            assert_eq!(
                initiator.finish(&bad).unwrap_err(),
                SessionError::HandshakeRejected { message: 2 },
                "byte {index}"
            );
        }
    }

    #[test]
    fn another_prologue_is_rejected_by_the_responder() {
        let secrets = EnclaveSecrets::generate(&mut rng(1));
        let (_, message_1) = start(&secrets, 2);
        let mut other_domain = binding();
        other_domain.trust_domain = Digest::sha256(b"another root");
        let mut other_quote = binding();
        other_quote.report_data[63] ^= 1;
        for binding in [other_domain, other_quote] {
            assert_eq!(
                Responder::accept(&secrets, &binding, &message_1, &mut rng(3)).unwrap_err(),
                SessionError::HandshakeRejected { message: 1 }
            );
        }
    }

    #[test]
    fn another_static_key_is_rejected_by_the_responder() {
        let secrets = EnclaveSecrets::generate(&mut rng(1));
        let other = EnclaveSecrets::generate(&mut rng(9));
        let (_, message_1) = Initiator::start(
            &binding(),
            other.noise_key(),
            secrets.mlkem_key(),
            &mut rng(2),
        )
        .unwrap();
        assert_eq!(
            Responder::accept(&secrets, &binding(), &message_1, &mut rng(3)).unwrap_err(),
            SessionError::HandshakeRejected { message: 1 }
        );
    }

    #[test]
    fn a_responder_without_the_kem_secret_cannot_finish() {
        // Whoever broke X25519 alone: right static key, wrong ML-KEM key.
        let secrets = EnclaveSecrets::generate(&mut rng(1));
        let other = EnclaveSecrets::generate(&mut rng(9));
        let (initiator, message_1) = Initiator::start(
            &binding(),
            secrets.noise_key(),
            other.mlkem_key(),
            &mut rng(2),
        )
        .unwrap();
        let (_, message_2) =
            Responder::accept(&secrets, &binding(), &message_1, &mut rng(3)).unwrap();
        assert_eq!(
            initiator.finish(&message_2).unwrap_err(),
            SessionError::HandshakeRejected { message: 2 }
        );
    }

    #[test]
    fn handshake_messages_of_any_other_length_are_typed_errors() {
        let secrets = EnclaveSecrets::generate(&mut rng(1));
        let (_, message_1) = start(&secrets, 2);
        let mut long = message_1.clone();
        long.push(0);
        let cut = (0..=64)
            .chain([MESSAGE_1_BYTES - 1])
            .map(|len| &message_1[..len]);
        for bytes in cut.chain([&long[..]]) {
            assert_eq!(
                Responder::accept(&secrets, &binding(), bytes, &mut rng(3)).unwrap_err(),
                SessionError::HandshakeLength {
                    message: 1,
                    expected: MESSAGE_1_BYTES,
                    got: bytes.len()
                }
            );
        }
        for len in 0..MESSAGE_2_BYTES {
            let (initiator, _) = start(&secrets, 2);
            assert_eq!(
                initiator.finish(&vec![0; len]).unwrap_err(),
                SessionError::HandshakeLength {
                    message: 2,
                    expected: MESSAGE_2_BYTES,
                    got: len
                }
            );
        }
    }

    #[test]
    fn an_all_zero_ephemeral_or_static_key_is_refused() {
        let secrets = EnclaveSecrets::generate(&mut rng(1));
        let mut message_1 = vec![0u8; MESSAGE_1_BYTES];
        message_1[100] = 1;
        assert_eq!(
            Responder::accept(&secrets, &binding(), &message_1, &mut rng(3)).unwrap_err(),
            SessionError::WeakKey { message: 1 }
        );
        assert_eq!(
            Initiator::start(&binding(), &[0; 32], secrets.mlkem_key(), &mut rng(2)).unwrap_err(),
            SessionError::WeakKey { message: 1 }
        );
        let (initiator, _) = start(&secrets, 2);
        assert_eq!(
            initiator.finish(&[0; MESSAGE_2_BYTES]).unwrap_err(),
            SessionError::WeakKey { message: 2 }
        );
    }

    #[test]
    fn ciphers_are_not_handed_out_before_the_handshake_is_complete() {
        let secrets = EnclaveSecrets::generate(&mut rng(1));
        let (initiator, _) = start(&secrets, 2);
        assert_eq!(
            into_channel(initiator.state).unwrap_err(),
            SessionError::Incomplete
        );
    }

    #[test]
    fn a_replayed_first_message_opens_nothing_and_repeats_no_key() {
        let secrets = EnclaveSecrets::generate(&mut rng(1));
        let (initiator, message_1) = start(&secrets, 2);
        let mut worker_rng = rng(3);
        let (mut worker, message_2) =
            Responder::accept(&secrets, &binding(), &message_1, &mut worker_rng).unwrap();
        let mut client = initiator.finish(&message_2).unwrap();
        let prompt = client.seal(b"the prompt").unwrap();
        assert_eq!(
            worker.open(&prompt[0]).unwrap(),
            Opened::Frame(b"the prompt".to_vec())
        );

        // The recording is played again to the same enclave.
        let (mut replayed, other_message_2) =
            Responder::accept(&secrets, &binding(), &message_1, &mut worker_rng).unwrap();
        assert_ne!(message_2, other_message_2);
        assert_ne!(worker.handshake_hash(), replayed.handshake_hash());
        assert_eq!(
            replayed.open(&prompt[0]).unwrap_err(),
            SessionError::Forged { index: 0 }
        );
        // And what it would answer is under another key: no nonce repeats.
        assert_ne!(
            worker.seal(b"same").unwrap(),
            replayed.seal(b"same").unwrap()
        );
    }
}
