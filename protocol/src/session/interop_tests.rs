//! The same bytes as `snow`, an independent implementation of Noise.
#![allow(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    clippy::arithmetic_side_effects
)]

use noise_protocol::{DH, HandshakeState, U8Array, patterns::noise_nk};
use noise_rust_crypto::Sha256;
use rand_chacha::{ChaCha12Rng, rand_core::SeedableRng};

use super::{
    EnclaveSecrets, Initiator, MESSAGE_1_BYTES, MESSAGE_2_BYTES, MLKEM_CIPHERTEXT_BYTES, Opened,
    REKEY_AFTER_MESSAGES, Responder, SessionBinding, SessionError, TAG_BYTES,
    cipher::RingChaChaPoly,
    dh::{DhKey, StrictX25519},
    kem,
    record::{self, RecordKind},
};
use crate::ids::Digest;

type Nk = HandshakeState<StrictX25519, RingChaChaPoly, Sha256>;

const NK: &str = "Noise_NK_25519_ChaChaPoly_SHA256";
const NK_PSK2: &str = "Noise_NKpsk2_25519_ChaChaPoly_SHA256";

fn rng(seed: u64) -> ChaCha12Rng {
    ChaCha12Rng::seed_from_u64(seed)
}

fn binding() -> SessionBinding {
    SessionBinding {
        trust_domain: Digest::sha256(b"a root"),
        report_data: [0x2a; 64],
    }
}

fn prologue() -> Vec<u8> {
    let mut prologue = Digest::sha256(b"a root").as_bytes().to_vec();
    prologue.extend_from_slice(&[0x2a; 64]);
    prologue
}

fn snow_builder(name: &str) -> snow::Builder<'static> {
    snow::Builder::new(name.parse().unwrap())
}

fn write(state: &mut snow::HandshakeState, payload: &[u8]) -> Vec<u8> {
    let mut buffer = vec![0; 65_535];
    let len = state.write_message(payload, &mut buffer).unwrap();
    buffer.truncate(len);
    buffer
}

fn read(state: &mut snow::HandshakeState, message: &[u8]) -> Result<Vec<u8>, snow::Error> {
    let mut buffer = vec![0; 65_535];
    let len = state.read_message(message, &mut buffer)?;
    buffer.truncate(len);
    Ok(buffer)
}

fn snow_seal(state: &mut snow::TransportState, text: &[u8]) -> Vec<u8> {
    let mut buffer = vec![0; text.len() + TAG_BYTES];
    let len = state.write_message(text, &mut buffer).unwrap();
    buffer.truncate(len);
    buffer
}

fn snow_open(state: &mut snow::TransportState, message: &[u8]) -> Vec<u8> {
    let mut buffer = vec![0; message.len()];
    let len = state.read_message(message, &mut buffer).unwrap();
    buffer.truncate(len);
    buffer
}

#[test]
fn nk_our_initiator_talks_to_a_snow_responder() {
    let secret = [0x11u8; 32];
    let public = StrictX25519::pubkey(&DhKey::from_slice(&secret));
    let ephemeral = DhKey::from_slice(&[0x22; 32]);
    let mut ours = Nk::new(
        noise_nk(),
        true,
        b"prologue",
        None,
        Some(ephemeral),
        Some(public),
        None,
    );
    let mut theirs = snow_builder(NK)
        .prologue(b"prologue")
        .unwrap()
        .local_private_key(&secret)
        .unwrap()
        .build_responder()
        .unwrap();
    let message = ours.write_message_vec(b"first").unwrap();
    assert_eq!(read(&mut theirs, &message).unwrap(), b"first");
    let message = write(&mut theirs, b"second");
    assert_eq!(ours.read_message_vec(&message).unwrap(), b"second");
    assert_eq!(ours.get_hash(), theirs.get_handshake_hash());

    let (mut out, mut back) = ours.get_ciphers();
    let mut theirs = theirs.into_transport_mode().unwrap();
    for text in [&b""[..], b"x", &[7; 5000]] {
        assert_eq!(snow_open(&mut theirs, &out.encrypt_vec(text)), text);
        assert_eq!(
            back.decrypt_vec(&snow_seal(&mut theirs, text)).unwrap(),
            text
        );
    }
}

#[test]
fn nk_a_snow_initiator_talks_to_our_responder() {
    let secret = DhKey::from_slice(&[0x33; 32]);
    let public = StrictX25519::pubkey(&secret);
    let ephemeral = DhKey::from_slice(&[0x44; 32]);
    let mut ours = Nk::new(
        noise_nk(),
        false,
        b"prologue",
        Some(secret),
        Some(ephemeral),
        None,
        None,
    );
    let mut theirs = snow_builder(NK)
        .prologue(b"prologue")
        .unwrap()
        .remote_public_key(&public)
        .unwrap()
        .build_initiator()
        .unwrap();
    let message = write(&mut theirs, b"first");
    assert_eq!(ours.read_message_vec(&message).unwrap(), b"first");
    let message = ours.write_message_vec(b"second").unwrap();
    assert_eq!(read(&mut theirs, &message).unwrap(), b"second");
    assert_eq!(ours.get_hash(), theirs.get_handshake_hash());

    let (mut back, mut out) = ours.get_ciphers();
    let mut theirs = theirs.into_transport_mode().unwrap();
    for text in [&b""[..], b"x", &[7; 5000]] {
        assert_eq!(snow_open(&mut theirs, &out.encrypt_vec(text)), text);
        assert_eq!(
            back.decrypt_vec(&snow_seal(&mut theirs, text)).unwrap(),
            text
        );
    }
}

#[test]
fn the_whole_session_with_a_snow_client() {
    let secrets = EnclaveSecrets::generate(&mut rng(1));
    let (ciphertext, psk) = kem::encapsulate(secrets.mlkem_key(), &mut rng(2)).unwrap();
    let mut client = snow_builder(NK_PSK2)
        .prologue(&prologue())
        .unwrap()
        .remote_public_key(secrets.noise_key())
        .unwrap()
        .psk(2, &psk)
        .unwrap()
        .build_initiator()
        .unwrap();
    let message_1 = write(&mut client, &ciphertext);
    assert_eq!(message_1.len(), MESSAGE_1_BYTES);
    let (mut worker, message_2) =
        Responder::accept(&secrets, &binding(), &message_1, &mut rng(3)).unwrap();
    assert_eq!(read(&mut client, &message_2).unwrap(), b"");
    assert_eq!(client.get_handshake_hash(), worker.handshake_hash());

    // Beyond one change of keys in both directions.
    let mut client = client.into_transport_mode().unwrap();
    for index in 0..REKEY_AFTER_MESSAGES + 5 {
        let frame = index.to_be_bytes();
        let message = snow_seal(&mut client, &record::encode(RecordKind::Last, &frame));
        assert_eq!(
            worker.open(&message).unwrap(),
            Opened::Frame(frame.to_vec())
        );
        let message = worker.seal(&frame).unwrap().remove(0);
        let text = snow_open(&mut client, &message);
        assert_eq!(
            record::decode(&text).unwrap(),
            (RecordKind::Last, &frame[..])
        );
        if (index + 1) % REKEY_AFTER_MESSAGES == 0 {
            client.rekey_outgoing();
            client.rekey_incoming();
        }
    }
    let message = snow_seal(&mut client, &record::encode(RecordKind::Fin, &[]));
    assert_eq!(worker.open(&message).unwrap(), Opened::Fin);
}

#[test]
fn the_whole_session_with_a_snow_worker() {
    let secrets = EnclaveSecrets::generate(&mut rng(1));
    let (initiator, message_1) = Initiator::start(
        &binding(),
        secrets.noise_key(),
        secrets.mlkem_key(),
        &mut rng(2),
    )
    .unwrap();
    let secret = secrets.noise_secret();
    let mut worker = snow_builder(NK_PSK2)
        .prologue(&prologue())
        .unwrap()
        .local_private_key(secret.as_slice())
        .unwrap()
        .build_responder()
        .unwrap();
    let ciphertext = read(&mut worker, &message_1).unwrap();
    assert_eq!(ciphertext.len(), MLKEM_CIPHERTEXT_BYTES);
    let psk = secrets.kem().decapsulate(&ciphertext).unwrap();
    worker.set_psk(2, psk.as_slice()).unwrap();
    let message_2 = write(&mut worker, &[]);
    assert_eq!(message_2.len(), MESSAGE_2_BYTES);
    let mut client = initiator.finish(&message_2).unwrap();
    assert_eq!(worker.get_handshake_hash(), client.handshake_hash());

    let mut worker = worker.into_transport_mode().unwrap();
    let message = client.seal(b"question").unwrap().remove(0);
    let text = snow_open(&mut worker, &message);
    assert_eq!(
        record::decode(&text).unwrap(),
        (RecordKind::Last, &b"question"[..])
    );
    let message = snow_seal(&mut worker, &record::encode(RecordKind::Last, b"answer"));
    assert_eq!(
        client.open(&message).unwrap(),
        Opened::Frame(b"answer".to_vec())
    );
}

#[test]
fn a_snow_client_with_another_psk_or_without_one_is_not_let_in() {
    let secrets = EnclaveSecrets::generate(&mut rng(1));
    let (ciphertext, _) = kem::encapsulate(secrets.mlkem_key(), &mut rng(2)).unwrap();
    let prologue = prologue();
    let start = |name: &str| {
        let mut builder = snow_builder(name)
            .prologue(&prologue)
            .unwrap()
            .remote_public_key(secrets.noise_key())
            .unwrap();
        if name == NK_PSK2 {
            builder = builder.psk(2, &[0; 32]).unwrap();
        }
        let mut client = builder.build_initiator().unwrap();
        let message_1 = write(&mut client, &ciphertext);
        (client, message_1)
    };
    // Another psk shows in message 2, where it is mixed in.
    let (mut client, message_1) = start(NK_PSK2);
    let (_, message_2) = Responder::accept(&secrets, &binding(), &message_1, &mut rng(3)).unwrap();
    assert!(read(&mut client, &message_2).is_err());
    // Another pattern shows at once, in the handshake's name.
    let (_, message_1) = start(NK);
    assert_eq!(
        Responder::accept(&secrets, &binding(), &message_1, &mut rng(3)).unwrap_err(),
        SessionError::HandshakeRejected { message: 1 }
    );
}
